//! The order of a stop, what a second and a third signal do, and what signals to children do not.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;
use support::processes::wait_for_any;
use support::verdict::{Before, End, goes_on_to_the_end, judge};
use support::{Balance, Handle, Place, Running, Signal, Terminal, log, needs, wait_until};

const OPTIONS: [&str; 4] = ["-P", "2", "-j", "2"];

/// More jobs than will be done before the stop.
fn busy_place() -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(400);
    place.work_script("[ -e calm ] || sleep 0.05");
    (place, jobs)
}

#[test]
fn a_stop_is_logged_in_order_source_workers_buffer_and_the_balance_is_true() {
    let (place, jobs) = busy_place();
    let before = Before::of(&place);
    let run = place.run_work(&OPTIONS).start();
    run.until_started(20);
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(5);
    let log = ended.log();
    log::assert_full_stop(&log, 2);
    assert!(log.iter().any(|line| line.message == "stop requested: signal"), "{log:#?}");
    assert!(log.windows(2).all(|pair| pair[0].at <= pair[1].at), "times go back: {log:#?}");
    assert_eq!(judge(&place, &before, &ended, &jobs), End::Stopped);
    let balance = Balance::of(&log);
    let written = format!("stopped: {} records written", place.results().len());
    assert!(log.iter().any(|line| line.message == written), "not {written:?} in {log:#?}");
    assert_eq!(balance.kept_before, 0, "{balance:?}");
    assert_eq!(balance.done, place.results().len() as u64, "{balance:?}");
    assert_eq!(balance.failed, 0, "{balance:?}");
    assert!(balance.left > 0, "jobs were left: {balance:?}");
    // The jobs in hand were finished, and nothing else was begun.
    assert_eq!(place.started().len(), place.results().len());
    place.write("calm", "");
    goes_on_to_the_end(&place, &OPTIONS, &jobs);
    place.assert_each_ran_once(&jobs);
}

#[test]
fn processes_end_in_the_order_source_workers_buffer_supervisor() {
    let (place, _) = busy_place();
    let run = place.run_work(&["-P", "4", "-j", "2"]).start();
    run.until_started(20);
    let mut alive: Vec<(u32, Handle)> = Vec::new();
    for (rank, name) in [(1, "source"), (2, "worker "), (3, "buffer")] {
        alive.extend(run.role(4, name).into_iter().map(|handle| (rank, handle)));
    }
    let main = run.supervisor();
    alive.push((4, main.handle().expect("a living supervisor")));
    run.signal(Signal::TERM);
    while !alive.is_empty() {
        let handles: Vec<&Handle> = alive.iter().map(|(_, handle)| handle).collect();
        let mut ended = wait_for_any(&handles, Duration::from_secs(30));
        assert!(!ended.is_empty(), "nothing ends\n{}", run.describe());
        ended.reverse();
        let gone: Vec<_> = ended.into_iter().map(|index| alive.swap_remove(index)).collect();
        let last_gone = gone.iter().map(|(rank, _)| *rank).max().unwrap_or_default();
        // What is seen to end in one look has no order; what is still there has ended later.
        for (rank, handle) in &alive {
            let late = &handle.process.comm;
            assert!(*rank >= last_gone, "{late} outlives {gone:?}\n{}", run.describe());
        }
    }
    run.wait().assert_exit(5);
}

/// Ten quick jobs, and then four that do not end, one for each thread.
fn place_with_endless_jobs() -> (Place, Vec<String>) {
    let place = Place::new();
    let name = |number| format!("{}-{number}", if number <= 10 { "quick" } else { "endless" });
    let jobs: Vec<String> = (1..=14).map(name).collect();
    place.write("jobs.txt", jobs.join("\n") + "\n");
    place.work_script("case $1 in endless*) [ -e calm ] || exec sleep 1000;; esac");
    (place, jobs)
}

/// Requests a stop twice; the workers are killed and what was published is written.
#[track_caller]
fn stop_twice(place: &Place, jobs: &[String], run: Running, mut request: impl FnMut(&Running)) {
    run.until_started(14);
    request(&run);
    run.until_logged("stopping workers (2)");
    // Sooner, it would count as the same request.
    std::thread::sleep(Duration::from_millis(350));
    request(&run);
    let ended = run.wait();
    ended.assert_exit(4);
    let log = ended.log();
    log::assert_nothing_out_of_order(&log);
    let balance = Balance::of(&log);
    balance.assert_even();
    assert_eq!((balance.written, balance.kept), (10, 0), "{}", ended.describe());
    place.results().assert_exactly_once(&jobs[..10]);
    place.write("calm", "");
    goes_on_to_the_end(place, &OPTIONS, jobs);
}

#[test]
fn a_second_signal_kills_the_workers_and_still_flushes() {
    let (place, jobs) = place_with_endless_jobs();
    let run = place.run_work(&[&OPTIONS[..], &["--deadline", "50s"]].concat()).start();
    stop_twice(&place, &jobs, run, |run| run.signal(Signal::TERM));
}

#[test]
fn a_second_ctrl_c_kills_the_workers_and_still_flushes() {
    if !needs("a_second_ctrl_c_kills_the_workers_and_still_flushes", &["setsid"]) {
        return;
    }
    let (place, jobs) = place_with_endless_jobs();
    let mut terminal = Terminal::open();
    let options = [&OPTIONS[..], &["--deadline", "50s"]].concat();
    let run = place.run_work(&options).on_terminal(&terminal).start();
    stop_twice(&place, &jobs, run, |_| terminal.type_ctrl_c());
}

/// The endless jobs, and for output a pipe that is full: the buffer hangs in its write, so that
/// the third request finds something to kill. The deadline is far away.
fn place_with_a_full_pipe() -> (Place, Vec<String>, File) {
    let (place, jobs) = place_with_endless_jobs();
    place.config("\n[shutdown]\ndeadline = \"10m\"\n\n[spool]\nfile = \"pipe.spool\"\n");
    place.write("pings.toml", place.read("pings.toml").replace("out.jsonl", "pipe"));
    let mut pipe = place.pipe("pipe");
    for chunk in [4096, 1] {
        while pipe.write(&vec![b'.'; chunk]).is_ok_and(|written| written > 0) {}
    }
    (place, jobs, pipe)
}

/// Requests a stop three times; then everything is in the spool, and the next run writes it.
#[track_caller]
fn stop_three_times(
    place: &Place,
    jobs: &[String],
    mut pipe: File,
    run: Running,
    mut request: impl FnMut(&Running),
) {
    run.until_started(14);
    request(&run);
    run.until_logged("stopping workers (2)");
    // Sooner, it would count as the same request.
    std::thread::sleep(Duration::from_millis(350));
    request(&run);
    run.until_logged("stopping buffer");
    std::thread::sleep(Duration::from_millis(350));
    request(&run);
    let ended = run.wait();
    ended.assert_exit(4);
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert_eq!((balance.written, balance.kept), (0, 10), "{}", ended.describe());
    let mut filling = Vec::new();
    let _would_block = pipe.read_to_end(&mut filling);
    assert!(filling.iter().all(|byte| *byte == b'.'), "something was written");
    place.write("calm", "");
    let again = place.command(&["run", "pings.toml"]).finish();
    again.assert_exit(0);
    assert_eq!(Balance::of(&again.log()).kept_before, 10, "{}", again.describe());
    let mut text = Vec::new();
    let _would_block = pipe.read_to_end(&mut text);
    place.write("out.jsonl", text);
    place.results().assert_exactly_once(jobs);
}

#[test]
fn a_third_signal_kills_everything_and_the_spool_keeps_the_rest() {
    let (place, jobs, pipe) = place_with_a_full_pipe();
    let run = place.start();
    stop_three_times(&place, &jobs, pipe, run, |run| run.signal(Signal::TERM));
}

#[test]
fn a_third_ctrl_c_kills_everything_and_the_spool_keeps_the_rest() {
    if !needs("a_third_ctrl_c_kills_everything_and_the_spool_keeps_the_rest", &["setsid"]) {
        return;
    }
    let (place, jobs, pipe) = place_with_a_full_pipe();
    let mut terminal = Terminal::open();
    let run = place.command(&["run", "pings.toml"]).on_terminal(&terminal).start();
    stop_three_times(&place, &jobs, pipe, run, |_| terminal.type_ctrl_c());
}

#[test]
fn two_signals_at_once_are_one_request() {
    let place = Place::new();
    let jobs = place.jobs(20);
    place.work_script("[ -e calm ] || sleep 1");
    let before = Before::of(&place);
    let run = place.run_work(&OPTIONS).start();
    run.until_started(4);
    // Nothing is looked up between the two.
    let main = run.supervisor().handle().expect("a living supervisor");
    assert!(main.send(Signal::TERM) && main.send(Signal::INT));
    let ended = run.wait();
    log::assert_full_stop(&ended.log(), 2);
    assert_eq!(judge(&place, &before, &ended, &jobs), End::Stopped);
    assert_eq!(place.results().len(), place.started().len());
}

#[test]
fn a_job_that_does_not_end_is_killed_before_the_deadline_and_the_rest_is_written() {
    let (place, jobs) = place_with_endless_jobs();
    place.work_script(
        "case $1 in endless*) [ -e calm ] || { trap '' TERM INT HUP; sleep 1000; };; esac",
    );
    let run = place.run_work(&[&OPTIONS[..], &["--deadline", "4s"]].concat()).start();
    run.until_started(14);
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(4);
    log::assert_nothing_out_of_order(&ended.log());
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert_eq!((balance.written, balance.kept), (10, 0), "{}", ended.describe());
    place.results().assert_exactly_once(&jobs[..10]);
    place.write("calm", "");
    goes_on_to_the_end(&place, &OPTIONS, &jobs);
}

#[test]
fn stopped_workers_and_a_stopped_buffer_are_woken_for_the_stop() {
    let (place, jobs) = busy_place();
    let before = Before::of(&place);
    let run = place.run_work(&[&OPTIONS[..], &["--deadline", "50s"]].concat()).start();
    run.until_started(20);
    for name in ["worker ", "buffer"] {
        for child in run.role(2, name) {
            assert!(child.send(Signal::STOP));
        }
    }
    run.signal(Signal::TERM);
    let ended = run.wait();
    log::assert_full_stop(&ended.log(), 2);
    assert_eq!(judge(&place, &before, &ended, &jobs), End::Stopped);
}

#[test]
fn children_ignore_every_stop_signal_and_work_on() {
    let (place, jobs) = busy_place();
    place.write("jobs.txt", jobs[..80].join("\n") + "\n");
    let run = place.run_work(&OPTIONS).start();
    run.until_started(4);
    let signals = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
    let mut children = Vec::new();
    for name in ["source", "worker ", "buffer"] {
        children.extend(run.role(2, name));
    }
    assert_eq!(children.len(), 4);
    for child in &children {
        let process = &child.process;
        for signal in signals {
            assert!(process.mask_has("SigIgn", signal), "{process:?} heeds {signal:?}");
            // Starting a thread or a command blocks all signals for a moment.
            wait_until("no signal is blocked", Duration::from_secs(20), || {
                (!process.mask_has("SigBlk", signal)).then_some(())
            });
            assert!(child.send(signal), "{process:?} died before {signal:?}");
        }
        assert!(child.send(Signal::USR1), "{process:?} died of a signal");
        assert!(!child.has_ended(), "{process:?} died of a signal");
    }
    let pids = |children: &[Handle]| -> Vec<i32> {
        let mut pids: Vec<i32> = children.iter().map(|child| child.process.pid).collect();
        pids.sort_unstable();
        pids
    };
    let ended = run.wait();
    ended.assert_exit(0);
    let log = ended.log();
    let mut stopped: Vec<i32> = log
        .iter()
        .filter(|line| line.role != "supervisor" && line.message.starts_with("stopped"))
        .map(|line| line.pid)
        .collect();
    stopped.sort_unstable();
    assert_eq!(stopped, pids(&children), "not those that had started: {log:#?}");
    place.results().assert_exactly_once(&jobs[..80]);
}

#[test]
fn a_signal_to_the_whole_group_is_an_ordered_stop() {
    let (place, jobs) = busy_place();
    let before = Before::of(&place);
    let run = place.run_work(&OPTIONS).start();
    run.until_started(20);
    let group = rustix::process::Pid::from_raw(run.pid()).expect("a group");
    rustix::process::kill_process_group(group, Signal::TERM).expect("the group");
    let ended = run.wait();
    log::assert_full_stop(&ended.log(), 2);
    assert_eq!(judge(&place, &before, &ended, &jobs), End::Stopped);
    assert_eq!(place.started().len(), place.results().len(), "a job was cut short");
}

#[test]
fn hanging_up_the_terminal_is_an_ordered_stop() {
    if !needs("hanging_up_the_terminal_is_an_ordered_stop", &["setsid"]) {
        return;
    }
    let (place, jobs) = busy_place();
    let before = Before::of(&place);
    let terminal = Terminal::open();
    let run = place.run_work(&OPTIONS).on_terminal(&terminal).start();
    run.until_started(20);
    drop(terminal);
    let ended = run.wait();
    log::assert_full_stop(&ended.log(), 2);
    assert_eq!(judge(&place, &before, &ended, &jobs), End::Stopped);
}

#[test]
fn commands_have_default_dispositions_and_an_empty_mask() {
    let place = Place::new();
    place.jobs(1);
    let masks = ["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"];
    let run = ["sh", "-c", "exec \"$@\"", "{}"];
    let ended = place.run(&["--jobs", "jobs.txt"], &[&run[..], &masks[..]].concat()).finish();
    ended.assert_exit(0);
    let results = place.results();
    let stdout = results.of(1)["stdout"].as_str().expect("text").to_owned();
    let mask = |name| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name)).expect("a mask");
        u64::from_str_radix(line.trim(), 16).expect("a mask in hexadecimal")
    };
    // Signals 32 and 33 are the C library's own; its posix_spawn leaves them ignored.
    assert_eq!((mask("SigBlk:"), mask("SigIgn:") & !(0b11 << 31)), (0, 0), "{stdout}");
}

#[test]
fn an_idle_source_on_an_open_pipe_stops_at_once() {
    let place = Place::new();
    place.work_script("");
    let run_options = [&OPTIONS[..], &["--jobs", "-"]].concat();
    let mut run = place.run(&run_options, &["sh", "work.sh", "{}"]).stdin(Stdio::piped()).start();
    let mut stdin = run.take_stdin();
    stdin.write_all(b"one\ntwo\nthree\n").expect("write to standard input");
    run.until_written(3);
    let asked = std::time::Instant::now();
    run.signal(Signal::TERM);
    let ended = run.wait();
    eprintln!("stopped in {:?}", asked.elapsed());
    ended.assert_exit(5);
    log::assert_full_stop(&ended.log(), 2);
    place.results().assert_exactly_once(&["one", "two", "three"].map(str::to_owned));
    drop(stdin);
}
