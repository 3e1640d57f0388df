//! The log: files that are moved away under it, readers that do not read, floods.

mod support;

use rustix::process::Signal;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use support::{Ended, Line, Place, Running, WATCHDOG, log, needs, poll_until};

const LOG: &str = "procsig.log";

/// Says each of its jobs, with so many bytes behind it, on standard error, which goes to the log; a
/// job called `bad` has failed, and one called `last` waits until there is a file `calm`.
const SPEAKER: &str = r#"
while read -r line; do
    job=${line#*:\"}; job=${job%%\"*}
    [ $job != last ] || until [ -e calm ]; do sleep 0.02; done
    echo "said $job;$1" >&2
    case $job in bad*) echo '{"procsig_error":"worse"}' ;; *) echo '"good"' ;; esac
    [ -e calm ] || sleep 0.02
done
"#;

/// A place with so many jobs, each of which says a line of so many bytes, in 2 processes of 2 threads.
fn place(count: usize, bytes: usize, tables: &str) -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(count);
    place.write("speak.sh", SPEAKER);
    let text = format!(
        "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n[workers.say]\n\
         coprocess = [\"sh\", \"speak.sh\", \"{}\"]\nprocesses = 2\nthreads = 2\n{tables}\n",
        "x".repeat(bytes)
    );
    place.write("say.toml", text);
    (place, jobs)
}

/// So many that they are not done before somebody who waits for the first of them gets his turn. All
/// at once they would be a flood, of which the log leaves lines out.
const MANY: usize = 4000;

/// As [`place`], with a last job that is not done before there is a file `calm`.
fn place_with_a_last_job(count: usize) -> (Place, Vec<String>) {
    let (place, mut jobs) = place(count, 0, TO_FILE);
    jobs.push("last".to_owned());
    place.write("jobs.txt", jobs.join("\n") + "\n");
    (place, jobs)
}

const TO_FILE: &str = "[log]\nfile = \"procsig.log\"\n";

/// How often each job is named by a line that was said, in the logs of these names.
#[track_caller]
fn said(place: &Place, logs: &[&str]) -> BTreeMap<String, usize> {
    let mut said = BTreeMap::new();
    for name in logs {
        for line in log::parse(&place.read(name)) {
            if let Some((_, job)) = line.message.split_once("said ") {
                let job = job.split(';').next().expect("a job");
                *said.entry(job.to_owned()).or_default() += 1;
            }
        }
    }
    said
}

#[track_caller]
fn assert_all_said_once(place: &Place, logs: &[&str], jobs: &[String]) {
    let said = said(place, logs);
    for job in jobs {
        assert_eq!(said.get(job), Some(&1), "{job} in {logs:?}");
    }
}

/// Waits until none of its processes has a file of this name open.
#[track_caller]
fn until_let_go(run: &Running, place: &Place, name: &str) {
    let path = place.path(name);
    run.until(&format!("nobody holds {name}"), |run| {
        let holds =
            |process: &support::Process| process.descriptors().values().any(|it| *it == path);
        (!run.of_program().iter().any(holds)).then_some(())
    });
}

fn until_in_log(run: &Running, place: &Place, name: &str, text: &str) {
    run.until(&format!("{text:?} in {name}"), |_| place.read(name).contains(text).then_some(()));
}

fn moved(place: &Place) {
    std::fs::rename(place.path(LOG), place.path("old.log")).expect("the log");
}

#[test]
fn a_log_that_is_moved_away_is_opened_anew_by_all_and_no_line_is_lost() {
    if !needs("a_log_that_is_moved_away_is_opened_anew_by_all_and_no_line_is_lost", &["setsid"]) {
        return;
    }
    let (place, jobs) = place_with_a_last_job(400);
    let run = place.command(&["run", "say.toml"]).without_terminal().start();
    until_in_log(&run, &place, LOG, "said job-40;");
    moved(&place);
    run.signal(Signal::HUP);
    until_let_go(&run, &place, "old.log");
    let old = place.read("old.log");
    place.write("calm", "");
    run.wait().assert_exit(0);
    assert_eq!(place.read("old.log"), old, "nobody writes there any more");
    assert!(old.contains(" source[") || old.contains("said job-40;"), "{old}");
    assert!(!old.contains("said last;") && place.read(LOG).contains("said last;"));
    assert_all_said_once(&place, &["old.log", LOG], &jobs);
    let first = log::parse(&place.read(LOG)).into_iter().next().expect("a line");
    assert!(first.role.starts_with("supervisor") || first.message.contains("said"), "{first:?}");
    log::assert_nothing_out_of_order(&log::parse(&place.read(LOG)));
}

#[test]
fn a_log_that_can_not_be_opened_anew_is_gone_on_with_as_it_was() {
    if !needs("a_log_that_can_not_be_opened_anew_is_gone_on_with_as_it_was", &["setsid"]) {
        return;
    }
    let (place, jobs) = place_with_a_last_job(200);
    let run = place.command(&["run", "say.toml"]).without_terminal().start();
    until_in_log(&run, &place, LOG, "said job-20;");
    moved(&place);
    std::fs::create_dir(place.path(LOG)).expect("a directory in its place");
    run.signal(Signal::HUP);
    until_in_log(&run, &place, "old.log", "can't open the log: Is a directory");
    place.write("calm", "");
    run.wait().assert_exit(0);
    assert!(place.read("old.log").contains("going on in the file as it was"));
    assert_all_said_once(&place, &["old.log"], &jobs);
}

#[test]
fn a_stopped_worker_opens_the_log_anew_when_it_goes_on_and_hangups_meanwhile_hold_up_nobody() {
    let name =
        "a_stopped_worker_opens_the_log_anew_when_it_goes_on_and_hangups_meanwhile_hold_up_nobody";
    if !needs(name, &["setsid"]) {
        return;
    }
    let (place, jobs) = place(400, 0, TO_FILE);
    let run = place.command(&["run", "say.toml"]).without_terminal().start();
    until_in_log(&run, &place, LOG, "said job-40;");
    let worker = run.role(2, "worker say/0").remove(0);
    worker.send(Signal::STOP);
    moved(&place);
    // Many more than its channel holds.
    let hangups = |text: &str| text.matches("files are opened anew").count();
    for number in 1..=400 {
        run.signal(Signal::HUP);
        run.until("main hears it", |_| (hangups(&place.read(LOG)) >= number).then_some(()));
    }
    worker.send(Signal::CONT);
    until_let_go(&run, &place, "old.log");
    place.write("calm", "");
    run.wait().assert_exit(0);
    assert_all_said_once(&place, &["old.log", LOG], &jobs);
}

#[test]
fn who_is_started_after_a_hangup_writes_to_the_new_file() {
    if !needs("who_is_started_after_a_hangup_writes_to_the_new_file", &["setsid"]) {
        return;
    }
    let (place, _) = place(MANY, 0, TO_FILE);
    let run = place.command(&["run", "say.toml"]).without_terminal().start();
    until_in_log(&run, &place, LOG, "said job-40;");
    moved(&place);
    run.signal(Signal::HUP);
    until_in_log(&run, &place, LOG, "files are opened anew");
    let worker = run.role(2, "worker say/0").remove(0);
    worker.send(Signal::KILL);
    until_in_log(&run, &place, LOG, "jobs of the worker before this one");
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
    assert!(!place.read("old.log").contains("of the worker before this one"));
}

/// Standard error is a named pipe that this test has open: `run` gets it as `2>`.
fn with_pipe<'a>(place: &'a Place, arguments: &[&str]) -> (std::fs::File, Running<'a>) {
    let pipe = place.pipe("errors");
    let redirect = ["sh", "-c", "exec \"$@\" 2>errors", "sh"];
    let run = place.command(arguments).under(&redirect).start();
    (pipe, run)
}

/// All that is in the pipe now.
fn drain(pipe: &mut std::fs::File) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 1 << 16];
    while let Ok(length @ 1..) = pipe.read(&mut piece) {
        all.extend_from_slice(&piece[..length]);
    }
    String::from_utf8(all).expect("text")
}

#[test]
fn a_log_that_nobody_reads_holds_up_neither_the_work_nor_the_stop() {
    let (place, jobs) = place(MANY, 7000, "");
    let (mut pipe, run) = with_pipe(&place, &["run", "say.toml"]);
    // Ten lines fill the pipe. The work goes on.
    run.until_written(200);
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(5);
    assert_balance_is_in_output(&place, &ended);
    let text = drain(&mut pipe);
    assert!(text.contains("starting: ") && !text.contains("done in "), "it was full");
    drop(pipe);
    place.write("calm", "");
    std::fs::remove_file(place.path("errors")).expect("the pipe");
    place.command(&["run", "say.toml"]).finish().assert_exit(0);
    assert_eq!(place.read("out.jsonl").lines().count(), jobs.len());
}

fn assert_balance_is_in_output(place: &Place, ended: &Ended) {
    assert!(ended.elapsed < WATCHDOG / 2, "{}", ended.describe());
    assert!(place.read("out.jsonl").lines().count() >= 200);
}

#[test]
fn what_a_stuck_reader_has_missed_is_said_when_it_reads_again() {
    let (place, _) = place(MANY, 7000, "");
    let (mut pipe, run) = with_pipe(&place, &["run", "say.toml"]);
    run.until_written(100);
    let mut text = String::new();
    run.until("the number of lost lines", |_| {
        text += &drain(&mut pipe);
        text.contains(" lost: it was full, and nobody has read it\n").then_some(())
    });
    run.signal(Signal::TERM);
    poll_until(WATCHDOG, || {
        text += &drain(&mut pipe);
        text.contains("done in ").then_some(())
    })
    .expect("the end of the log");
    run.wait().assert_exit(5);
}

#[test]
fn long_lines_of_many_processes_stay_whole_in_a_pipe() {
    let (place, jobs) = place(150, 7000, "");
    place.write("calm", "");
    let (mut pipe, run) = with_pipe(&place, &["run", "say.toml"]);
    let mut text = String::new();
    // A slow reader: most of the time there is room for a part of a line only.
    let mut piece = [0; 5000];
    poll_until(WATCHDOG, || {
        let length = pipe.read(&mut piece).unwrap_or(0);
        text.push_str(std::str::from_utf8(&piece[..length]).expect("text"));
        text.contains("done in ").then_some(())
    })
    .expect("the end of the log");
    run.wait().assert_exit(0);
    // Whole lines, or it panics; and what was dropped is none of the log's own doing.
    let lines = log::parse(&text);
    let said: Vec<&Line> = lines.iter().filter(|line| line.message.contains("said ")).collect();
    assert!(said.len() >= 20 && said.len() <= jobs.len(), "{} lines", said.len());
    for line in said {
        assert!(line.message.ends_with(&format!(";{}", "x".repeat(7000))), "{line:?}");
    }
}

#[test]
fn a_full_disk_under_the_log_and_a_reader_that_has_gone_stop_nothing() {
    let (place, jobs) = place(60, 0, "");
    place.command(&["run", "say.toml", "--log-file", "/dev/full"]).finish().assert_exit(0);
    assert_eq!(place.read("out.jsonl").lines().count(), jobs.len());
    let (mut pipe, run) = with_pipe(&place, &["run", "say.toml"]);
    run.until("its first lines", |_| drain(&mut pipe).contains("starting: ").then_some(()));
    drop(pipe);
    run.wait().assert_exit(0);
    assert_eq!(place.read("out.jsonl").lines().count(), 2 * jobs.len());
}

#[test]
fn a_named_pipe_that_nobody_reads_is_refused_as_a_log_and_not_waited_for() {
    let (place, _) = place(2, 0, TO_FILE);
    nix::unistd::mkfifo(&place.path(LOG), nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
    let ended = place.command(&["run", "say.toml"]).finish();
    ended.assert_exit(74);
    let words = "procsig.log: can't open the log: it is a named pipe that nobody reads yet";
    assert!(ended.stderr.contains(words), "{}", ended.describe());
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let reader = std::fs::File::options().read(true).custom_flags(flags).open(place.path(LOG));
    let mut reader = reader.expect("the pipe");
    place.command(&["run", "say.toml"]).finish().assert_exit(0);
    assert!(drain(&mut reader).contains("done in "));
}

#[test]
fn thousands_of_jobs_that_fail_leave_the_first_of_them_and_their_number_in_the_log() {
    let (place, _) = place(0, 0, "");
    let mut list = std::fs::File::create(place.path("jobs.txt")).expect("the list");
    for number in 0..4000 {
        writeln!(list, "bad-{number}").expect("the list");
    }
    place.write("calm", "");
    // Nowhere else can they be recorded.
    let config = place.read("say.toml").replace("out.jsonl\"", "out.txt\"\nformat = \"lines\"");
    place.write("say.toml", config);
    let ended = place.command(&["run", "say.toml"]).finish();
    ended.assert_exit(3);
    let log = ended.log();
    let named = log.iter().filter(|line| line.message.contains("has failed (attempt 1): worse"));
    let (mut first, mut more) = (0, 0);
    for line in named {
        match line.message.split_once(" more like this in ") {
            Some((count, _)) => more += count.parse::<usize>().expect("a number"),
            None => first += 1,
        }
    }
    // Ten of each process.
    assert_eq!((first, more), (20, 3980), "{}", ended.describe());
    let total = "jobs that have failed for good: 4000; lines above name the first of them";
    assert!(ended.stderr.contains(total), "{}", ended.describe());
    log::assert_nothing_out_of_order(&log);
    let last = log.last().expect("a line");
    assert!(last.message.starts_with("done in "), "{last:?}");
    assert!(log[log.len() - 2].message.starts_with("the run took "), "{}", ended.describe());
    // Who wants to see each of them can.
    place.write("say.toml", place.read("say.toml") + "[log]\nlevel = \"debug\"\n");
    let ended = place.command(&["run", "say.toml", "--fresh"]).finish();
    ended.assert_exit(3);
    assert_eq!(ended.stderr.matches("has failed (attempt 1): worse").count(), 4000);
    assert!(ended.elapsed < Duration::from_secs(50), "{:?}", ended.elapsed);
}
