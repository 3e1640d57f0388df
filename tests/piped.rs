//! A list that comes through a pipe, and a source that is killed while it does.

mod support;

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;
use support::{Ended, Handle, Place, Running, Seed, Signal, Terminal, example};

const LINES: usize = 20_000;
/// Kills in one run. More by PROCSIG_TEST_KILLS.
const KILLS: usize = 40;

fn kills() -> usize {
    match std::env::var("PROCSIG_TEST_KILLS") {
        Ok(text) => text.parse().expect("PROCSIG_TEST_KILLS is a number"),
        Err(_) => KILLS,
    }
}

/// The source, if it lives.
fn source(run: &Running<'_>) -> Option<Handle> {
    run.of_program().iter().find(|process| process.comm == "source")?.handle()
}

/// Kills the source, and waits for the next one.
#[track_caller]
fn kill_source(run: &Running<'_>) {
    let old = run.until("a source", source);
    assert!(old.send(Signal::KILL));
    run.until("another source", |run| {
        source(run).filter(|new| new.process.pid != old.process.pid).map(drop)
    });
}

/// Each line of the list has one record, with its number and its text.
#[track_caller]
fn assert_each_once(place: &Place, jobs: &[String], ended: &Ended) {
    let mut times = vec![0; jobs.len()];
    for record in place.results().lines {
        let number = record["number"].as_u64().expect("a number") as usize;
        assert_eq!(record["text"].as_str(), jobs.get(number - 1).map(String::as_str));
        times[number - 1] += 1;
    }
    let wrong: Vec<usize> = (1..=jobs.len()).filter(|number| times[number - 1] != 1).collect();
    assert!(wrong.is_empty(), "no result, or two: {wrong:?}\n{}", ended.describe());
}

/// Writes a part of the list: at once, or in pieces that are no lines, with pauses.
fn feed(mut writer: impl Write, mut part: &[u8], seed: &mut Seed) {
    let (largest, pause) = match seed.below(3) {
        0 => (part.len(), Duration::ZERO),
        1 => (500, Duration::from_millis(1)),
        _ => (20_000, Duration::from_millis(10)),
    };
    while !part.is_empty() {
        let piece = part.len().min(1 + seed.below(largest as u64) as usize);
        writer.write_all(&part[..piece]).expect("write the list");
        part = &part[piece..];
        if !pause.is_zero() {
            std::thread::sleep(seed.time_below(pause));
        }
    }
}

/// A list of lines of all lengths, the longest of which fill a pipe several times together.
fn list(seed: &mut Seed) -> Vec<String> {
    let line = |number| {
        let length = if number % 50 == 0 { seed.below(4000) } else { seed.below(20) };
        format!("job-{number}-{}", "x".repeat(length as usize))
    };
    (1..=LINES).map(line).collect()
}

/// A run whose source is killed again and again while its list comes, part after part.
#[track_caller]
fn run_with_kills(place: &Place, input: impl Into<Stdio>, writer: impl Write + Send + 'static) {
    let mut seed = Seed::new();
    let (kills, jobs) = (kills(), list(&mut seed));
    let mut text = (jobs.join("\n") + "\n").into_bytes();
    let run = place.command(&["piped", "-", "0"]).stdin(input).start();
    let (next, parts) = mpsc::channel::<()>();
    let mut feeders_seed = Seed::of(seed.next());
    let feeder = std::thread::spawn(move || {
        let mut writer = writer;
        let part = text.len() / (kills + 1);
        // At the end of the kills comes what is left.
        while parts.recv().is_ok() {
            let rest = text.split_off(part.min(text.len()));
            feed(&mut writer, &text, &mut feeders_seed);
            text = rest;
        }
        writer.write_all(&text).expect("write the list");
    });
    for _ in 0..kills {
        next.send(()).expect("the feeder lives");
        run.until("a source", source);
        std::thread::sleep(seed.time_below(Duration::from_millis(30)));
        kill_source(&run);
    }
    drop(next);
    feeder.join().expect("the feeder");
    let ended = run.wait();
    ended.assert_exit(0);
    // After the first ones the log only counts them.
    let deaths = ended.log().into_iter().filter(|line| line.message.contains("has died"));
    let deaths = deaths.map(|line| match line.message.split_once(" more like this") {
        Some((count, _)) => count.parse().expect("a count"),
        None => 1,
    });
    assert_eq!(deaths.sum::<usize>(), kills, "{}", ended.describe());
    assert_each_once(place, &jobs, &ended);
}

#[test]
fn whenever_the_source_is_killed_each_line_of_a_pipe_has_its_result_once() {
    let (input, writer) = std::io::pipe().expect("a pipe");
    run_with_kills(&Place::of(example("test_pipelines")), input, writer);
}

#[test]
fn whenever_the_source_is_killed_each_line_of_a_socket_has_its_result_once() {
    let (input, writer) = UnixStream::pair().expect("sockets");
    run_with_kills(&Place::of(example("test_pipelines")), OwnedFd::from(input), writer);
}

#[test]
fn a_fifo_whose_writer_has_gone_is_read_to_its_end_by_the_next_source() {
    let place = Place::of(example("test_pipelines"));
    let path = place.path("list");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let jobs: Vec<String> = (1..=4000).map(|number| format!("job-{number}")).collect();
    let text = jobs.join("\n");
    let run = place.command(&["piped", "list", "2000"]).start();
    // Nobody writes yet: that is no end of the list.
    run.until("a source", source);
    kill_source(&run);
    let mut writer = File::options().write(true).open(&path).expect("open the FIFO");
    writer.write_all(text.as_bytes()).expect("write the list");
    drop(writer);
    for _ in 0..3 {
        kill_source(&run);
    }
    let ended = run.wait();
    ended.assert_exit(0);
    assert_each_once(&place, &jobs, &ended);
}

#[test]
fn a_fifo_that_nobody_writes_is_waited_for_until_the_stop() {
    let place = Place::new();
    nix::unistd::mkfifo(&place.path("list"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let run = place.run(&["--jobs", "list", "-P", "1"], &["true"]).start();
    run.children(1);
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(5);
    let killed = ended.log().iter().any(|line| line.message.contains("killing"));
    assert!(!killed, "{}", ended.describe());
}

#[test]
fn a_line_that_is_unfinished_when_the_source_is_killed_is_one_line() {
    let place = Place::new();
    let mut run = place.run(&[], &["echo", "{}"]).stdin(Stdio::piped()).start();
    let mut stdin = run.take_stdin();
    stdin.write_all(b"one\nunfin").expect("write");
    run.until_written(1);
    kill_source(&run);
    stdin.write_all(b"ished\nthree\n").expect("write");
    // At once, though the list goes on.
    run.until_written(3);
    drop(stdin);
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&["one", "unfinished", "three"].map(str::to_owned));
}

#[test]
fn a_source_that_reads_a_terminal_and_is_killed_is_replaced() {
    let place = Place::new();
    let mut terminal = Terminal::open();
    let run = place.run(&["--jobs", "-"], &["echo", "{}"]).stdin(terminal.far_end()).start();
    terminal.type_text("one\n");
    run.until_written(1);
    kill_source(&run);
    terminal.type_text("two\n");
    run.until_written(2);
    terminal.type_text("\x04");
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&["one", "two"].map(str::to_owned));
}

#[test]
fn a_source_that_is_killed_when_it_has_seen_the_end_of_its_pipe_ends_the_list_all_the_same() {
    let place = Place::new();
    place.work_script(": < gate");
    let mut gate = place.gate();
    let jobs: Vec<String> = (1..=100).map(|number| format!("job-{number}")).collect();
    let options = ["-P", "1", "-j", "2"];
    let mut run = place.run(&options, &["sh", "work.sh", "{}"]).stdin(Stdio::piped()).start();
    run.take_stdin().write_all(jobs.join("\n").as_bytes()).expect("write the list");
    // It hands out all that there is before it waits for these.
    run.until_started(2);
    kill_source(&run);
    gate.open();
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    place.assert_each_ran_once(&jobs);
}

#[test]
fn only_main_and_the_source_hold_the_list_open() {
    let place = Place::of(example("test_pipelines"));
    let path = place.path("list");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let run = place.command(&["piped", "list", "0"]).start();
    let mut writer = File::options().write(true).open(&path).expect("open the FIFO");
    writer.write_all(b"one\n").expect("write the list");
    run.until_written(1);
    let holds = |comm: &str| {
        let all = run.of_program();
        let process = all.iter().find(|process| process.comm.starts_with(comm)).expect("a child");
        let targets = process.descriptors();
        let list = targets.values().any(|target| *target == path);
        let is_store = |target: &Path| target.to_string_lossy().starts_with("/memfd:procsig-list");
        let store = targets.values().any(|target| is_store(target));
        (list, store)
    };
    assert_eq!(holds("source"), (true, true));
    assert_eq!(holds(&run.supervisor().comm), (true, true));
    assert_eq!(holds("worker"), (false, false));
    assert_eq!(holds("buffer"), (false, false));
    drop(writer);
    run.wait().assert_exit(0);
}
