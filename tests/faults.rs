//! Faults from outside that no other file is about: processes that are frozen, forks that fail,
//! memory that runs out, clocks that are others, spools that are none of ours.

mod support;

use std::time::Duration;
use support::processes::children_of;
use support::verdict::{self, Before, End, goes_on_to_the_end, judge};
use support::{
    Balance, Ended, Freezer, Handle, Place, Process, Seed, Signal, WATCHDOG, log, needs,
};

const OPTIONS: [&str; 4] = ["-P", "2", "-j", "2"];

/// Two workers of two threads of the kind `ping`, with jobs that wait for the file `calm`.
fn place(count: usize, tables: &str) -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(count);
    place.config(tables);
    place.work_script("[ -e calm ] || sleep 0.02");
    (place, jobs)
}

/// Started again undisturbed it comes to the end: each job has one result, and nothing is left.
#[track_caller]
fn goes_on(place: &Place, jobs: &[String]) -> Ended {
    place.write("calm", "");
    verdict::goes_on(place, jobs)
}

#[test]
fn a_pipeline_stopped_twenty_times_at_random_instants_ends_with_each_job_exactly_once() {
    let mut seed = Seed::new();
    let place = Place::new();
    let jobs = place.jobs(700);
    place.work_script("[ -e calm ] || sleep 0.01");
    let mut stopped = 0;
    for _ in 0..20 {
        let before = Before::of(&place);
        let run = place.run_work(&OPTIONS).start();
        std::thread::sleep(seed.time_below(Duration::from_millis(60)));
        // By its number: it may not have begun, or may have ended.
        if let Some(main) = Process::read(run.pid()).and_then(|main| main.handle()) {
            main.send(Signal::TERM);
        }
        let ended = run.wait();
        if judge(&place, &before, &ended, &jobs) == End::Stopped {
            stopped += 1;
        }
    }
    assert!(stopped >= 10, "{stopped} of 20 runs were stopped in their work, this shows nothing");
    assert!(
        place.results().len() < jobs.len(),
        "it was done before it was stopped for the last time"
    );
    place.write("calm", "");
    goes_on_to_the_end(&place, &OPTIONS, &jobs);
    place.assert_each_ran_once(&jobs);
}

/// As `docker kill`, or the end of a service that does not end: nobody is killed before another.
#[test]
fn everything_killed_at_once_by_its_group_loses_and_doubles_nothing() {
    let test = "everything_killed_at_once_by_its_group_loses_and_doubles_nothing";
    if !needs(test, &["root"]) {
        return;
    }
    let mut seed = Seed::new();
    // More than can be done in between, however busy the machine is.
    let (place, jobs) = place(2000, "");
    let mut killed = 0;
    for round in 0..15 {
        let Some(group) = Freezer::new(test) else { return };
        let wrapper = group.wrapper();
        let wrapper = wrapper.each_ref().map(String::as_str);
        let run = place.command(&["run", "pings.toml"]).under(&wrapper).start();
        if round % 2 == 0 {
            run.until("its beginning", |run| (!run.stderr().is_empty()).then_some(()));
        }
        std::thread::sleep(seed.time_below(Duration::from_millis(250)));
        group.kill();
        let ended = run.wait_for_main();
        killed += usize::from(ended.signal == Some(9) && !ended.stderr.is_empty());
        place.results().assert_at_most_once(&jobs);
    }
    assert!(killed >= 5, "{killed} of 15 runs were killed in their work, this shows nothing");
    goes_on(&place, &jobs);
}

// Processes that stand still.

const SHORT: &str = "[shutdown]\ndeadline = \"4s\"\nflush_reserve = \"2s\"\n";

/// Freezes a child of this role, asks for a stop, and returns how that ended.
fn stopped_with_a_frozen(test: &str, role: &str) -> Option<(Place, Vec<String>, Ended)> {
    if !needs(test, &["root"]) {
        return None;
    }
    let freezer = Freezer::new(test)?;
    let (place, jobs) = place(400, SHORT);
    let run = place.start();
    run.until_written(1);
    let frozen = run.role(2, role).remove(0);
    freezer.take(&frozen);
    freezer.freeze();
    run.signal(Signal::TERM);
    let told = std::time::Instant::now();
    let ended = run.wait();
    // What a busy machine may add to the deadline.
    assert!(told.elapsed() < Duration::from_secs(4 + 30), "{}", ended.describe());
    log::assert_nothing_out_of_order(&ended.log());
    Balance::of(&ended.log()).assert_even();
    place.results().assert_at_most_once(&jobs);
    Some((place, jobs, ended))
}

#[test]
fn a_frozen_source_is_killed_after_a_second_and_that_is_no_harm() {
    let test = "a_frozen_source_is_killed_after_a_second_and_that_is_no_harm";
    let Some((place, jobs, ended)) = stopped_with_a_frozen(test, "source") else { return };
    ended.assert_exit(5);
    assert_eq!(Balance::of(&ended.log()).kept, 0, "{}", ended.describe());
    goes_on(&place, &jobs);
    place.assert_each_ran_once(&jobs);
}

#[test]
fn a_frozen_worker_is_killed_before_the_reserve_and_the_rest_is_written() {
    let test = "a_frozen_worker_is_killed_before_the_reserve_and_the_rest_is_written";
    let Some((place, jobs, ended)) = stopped_with_a_frozen(test, "worker ") else { return };
    ended.assert_exit(4);
    assert_eq!(Balance::of(&ended.log()).kept, 0, "{}", ended.describe());
    goes_on(&place, &jobs);
}

#[test]
fn a_frozen_buffer_is_killed_at_the_deadline_and_the_next_start_writes_what_it_had() {
    let test = "a_frozen_buffer_is_killed_at_the_deadline_and_the_next_start_writes_what_it_had";
    let Some((place, jobs, ended)) = stopped_with_a_frozen(test, "buffer") else { return };
    ended.assert_exit(4);
    let kept = Balance::of(&ended.log()).kept;
    let next = goes_on(&place, &jobs);
    assert_eq!(Balance::of(&next.log()).kept_before, kept, "{}", next.describe());
    place.assert_each_ran_once(&jobs);
}

#[test]
fn a_main_that_was_stopped_until_after_the_deadline_condemns_nobody() {
    let tables = format!("{SHORT}\n[log]\nlevel = \"debug\"\n");
    let (place, jobs) = place(40, &tables);
    let mut gate = place.gate();
    place.work_script("[ -e calm ] || : < gate");
    let run = place.start();
    run.until_started(4);
    let children = run.children(2);
    let workers: Vec<Handle> = children
        .iter()
        .filter(|child| child.comm.starts_with("worker "))
        .map(|child| child.handle().expect("a living worker"))
        .collect();
    run.signal(Signal::TERM);
    run.until_told_to_stop(2);
    run.signal(Signal::STOP);
    gate.open();
    assert!(workers.iter().all(|worker| worker.wait(WATCHDOG)), "{}", run.describe());
    // The absence itself: longer than all that is left of the deadline.
    std::thread::sleep(Duration::from_millis(4500));
    run.signal(Signal::CONT);
    let ended = run.wait();
    ended.assert_exit(5);
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert_eq!((balance.written, balance.kept), (4, 0), "{}", ended.describe());
    assert!(!ended.stderr.contains("killing"), "{}", ended.describe());
    goes_on(&place, &jobs);
    place.assert_each_ran_once(&jobs);
}

// A stop that finds somebody missing, or not ready yet.

#[test]
fn a_stop_while_a_dead_child_waits_to_be_started_again_is_an_ordered_one() {
    for role in ["source", "worker ", "buffer"] {
        let (place, jobs) = place(400, "");
        let run = place.start();
        run.until_written(1);
        let child = run.role(2, role).remove(0);
        assert!(child.send(Signal::KILL));
        run.until_logged(" again in ");
        run.signal(Signal::TERM);
        let ended = run.wait();
        ended.assert_exit(5);
        assert_all_written_in_order(&ended.log(), &ended.describe());
        goes_on(&place, &jobs);
    }
}

/// Runs it under strace, which holds every process for a moment at each call of this name, and
/// sends a SIGTERM to main as soon as `held` is there in the trace. Says whether it was.
fn stopped_at(place: &Place, call: &str, held: impl Fn(&str) -> bool) -> (Ended, bool) {
    let file = place.private("trace");
    let inject = format!("inject={call}:delay_enter=20000");
    let trace = format!("trace={call}");
    let name = file.to_str().expect("UTF-8");
    let strace = ["strace", "-f", "-o", name, "-e", &trace, "-e", &inject];
    let run = place.command(&["run", "pings.toml"]).under(&strace).start();
    let seen = support::poll_until(WATCHDOG, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if held(&text) {
            run.signal(Signal::TERM);
            return Some(true);
        }
        run.has_ended().then_some(false)
    });
    (run.wait(), seen == Some(true))
}

#[test]
fn a_stop_while_a_worker_is_starting_again_is_an_ordered_one() {
    let test = "a_stop_while_a_worker_is_starting_again_is_an_ordered_one";
    if !needs(test, &["strace"]) {
        return;
    }
    let (place, jobs) = place(400, "");
    // The worker of the job that is first dies of it once; its successor is the third that asks for
    // a session.
    place.work_script("[ -e calm ] || { mkdir once 2>/dev/null && kill -9 $PPID; sleep 0.02; }");
    let (ended, seen) = stopped_at(&place, "setsid", |trace| trace.matches("setsid(").count() >= 3);
    assert!(seen, "no worker was started again\n{}", ended.describe());
    ended.assert_exit(5);
    std::fs::remove_dir(place.path("once")).expect("a worker has died");
    goes_on(&place, &jobs);
}

#[test]
fn a_stop_during_any_step_of_a_recovery_is_an_ordered_one() {
    let test = "a_stop_during_any_step_of_a_recovery_is_an_ordered_one";
    if !needs(test, &["strace"]) {
        return;
    }
    // Calls of main before its first fork, of children before they are ready, of the buffer in its
    // first writes.
    for call in ["fcntl", "mmap", "clone", "clone3", "setsid", "mprotect", "write", "fdatasync"] {
        let (place, jobs) = place(400, "");
        let run = place.start();
        run.until_written(1);
        run.until_started(20);
        for process in run.of_program() {
            process.handle().map(|process| process.send(Signal::KILL));
        }
        assert_eq!(run.wait_for_main().signal, Some(9));
        // A buffer in a sync goes when that is done.
        place.until_all_have_ended();
        let before = place.results().len();
        let (ended, held) = stopped_at(&place, call, |trace| trace.contains(&format!("{call}(")));
        assert!(held, "{call} was not called, this shows nothing");
        let lines: String = ended
            .stderr
            .split_inclusive('\n')
            .filter(|line| !line.starts_with("strace:"))
            .collect();
        // Before it blocks signals it ends of one, and has touched nothing.
        if (ended.code, ended.signal) == (None, Some(15)) {
            assert!(lines.is_empty(), "{}", ended.describe());
            assert_eq!(place.results().len(), before);
        } else {
            assert_eq!((ended.code, ended.signal), (Some(5), None), "{call} {}", ended.describe());
            assert_all_written_in_order(
                &log::parse(&lines),
                &format!("{call} {}", ended.describe()),
            );
        }
        goes_on(&place, &jobs);
    }
}

/// A stop in the right order, after which nothing was left to be written.
#[track_caller]
fn assert_all_written_in_order(log: &[support::Line], context: &str) {
    log::assert_nothing_out_of_order(log);
    let balance = Balance::of(log);
    balance.assert_even();
    assert_eq!(balance.kept, 0, "{context}");
}

/// The third who asks for a session is a worker that is started again: held there, it does not get
/// ready. It takes half a minute, which is the limit.
#[test]
fn a_worker_that_does_not_get_ready_in_time_is_killed_and_started_again() {
    let test = "a_worker_that_does_not_get_ready_in_time_is_killed_and_started_again";
    if !needs(test, &["strace"]) {
        return;
    }
    let (place, jobs) = place(40, "");
    let file = place.private("trace");
    let name = file.to_str().expect("UTF-8");
    // Beside it, not above it, so that it can be ended alone.
    let inject = "inject=setsid:signal=STOP:when=1";
    let strace = ["strace", "-D", "-f", "-o", name, "-e", "trace=setsid", "-e", inject];
    let run = place.command(&["run", "pings.toml"]).under(&strace).start();
    let main = run.supervisor();
    // Both workers stand still at their first step.
    let stopped =
        || children_of(main.pid).into_iter().filter(|it| it.state == 't' || it.state == 'T');
    run.until("both workers to stand still", |_| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        (text.matches("stopped by SIGSTOP").count() == 2 && stopped().count() == 2).then_some(())
    });
    let tracer = main.status("TracerPid").and_then(|pid| pid.parse().ok());
    let tracer = tracer.and_then(Process::read).and_then(|tracer| tracer.handle());
    assert!(tracer.is_some_and(|tracer| tracer.send(Signal::KILL) && tracer.wait(WATCHDOG)));
    let late = run.until_logged("does not get ready; killing it");
    assert_eq!(late.level, "ERROR");
    place.write("calm", "");
    let ended = run.wait();
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", ended.describe());
    assert!(ended.elapsed >= Duration::from_secs(30), "{}", ended.describe());
    place.results().assert_exactly_once(&jobs);
    place.assert_each_ran_once(&jobs);
}

// What can't be started, or not be kept running.

/// Under strace, which lets main's own forks fail: those of the children, not of what they start.
fn with_failing_forks(place: &Place, call: &str, when: &str) -> Ended {
    let (trace, inject) =
        (format!("trace={call}"), format!("inject={call}:error=EAGAIN:when={when}"));
    let log = place.private("trace");
    let strace = ["strace", "-o", log.to_str().expect("UTF-8"), "-e", &trace, "-e", &inject];
    let mut ended = place.command(&["run", "pings.toml"]).under(&strace).finish();
    ended.stderr =
        ended.stderr.split_inclusive('\n').filter(|line| !line.starts_with("strace:")).collect();
    ended
}

#[test]
fn a_fork_that_fails_once_is_tried_again_after_a_pause() {
    if !needs("a_fork_that_fails_once_is_tried_again_after_a_pause", &["strace"]) {
        return;
    }
    for (number, role) in (1..).zip(["buffer", "worker ping/0", "worker ping/1", "source"]) {
        let (place, jobs) = place(12, "");
        place.write("calm", "");
        let ended = with_failing_forks(&place, "clone", &number.to_string());
        ended.assert_exit(0);
        let told = format!("can't start {role}: can't fork: Resource temporarily unavailable");
        assert!(ended.stderr.contains(&told), "{}", ended.describe());
        assert!(ended.stderr.contains(&format!("starting {role} again in 0.1 s")));
        place.results().assert_exactly_once(&jobs);
        place.assert_each_ran_once(&jobs);
    }
}

#[test]
fn forks_that_fail_from_any_child_on_are_an_ordered_stop_with_1_and_the_cause() {
    let test = "forks_that_fail_from_any_child_on_are_an_ordered_stop_with_1_and_the_cause";
    if !needs(test, &["strace"]) {
        return;
    }
    for number in 1..=4 {
        let (place, jobs) = place(12, "[restart]\nmax = 2\n");
        let ended = with_failing_forks(&place, "clone", &format!("{number}+"));
        ended.assert_exit(1);
        let told = "died too often; stopping: can't fork: Resource temporarily unavailable";
        assert!(ended.stderr.contains(told), "{}", ended.describe());
        log::assert_nothing_out_of_order(&ended.log());
        Balance::of(&ended.log()).assert_even();
        place.results().assert_at_most_once(&jobs);
        goes_on(&place, &jobs);
    }
}

#[test]
fn signal_threads_that_can_not_be_started_are_an_error_before_anything_is_run() {
    let test = "signal_threads_that_can_not_be_started_are_an_error_before_anything_is_run";
    if !needs(test, &["strace"]) {
        return;
    }
    for number in 1..=2 {
        let (place, jobs) = place(12, "");
        let ended = with_failing_forks(&place, "clone3", &number.to_string());
        ended.assert_exit(1);
        assert!(ended.stderr.contains("Resource temporarily unavailable"), "{}", ended.describe());
        assert!(place.started().is_empty(), "{}", ended.describe());
        goes_on(&place, &jobs);
    }
}

#[test]
fn above_the_limit_of_deaths_it_stops_in_order_with_1_and_names_who_died_and_of_what() {
    let (place, jobs) = place(400, "[restart]\nmax = 2\n");
    let run = place.start();
    let mut killed = Vec::new();
    for _ in 0..3 {
        let worker = run.until("a worker that was not killed yet", |run| {
            let mut workers = run.of_program();
            // A command that is not executed yet has the name of its worker.
            let is_child = |it: &Process| it.parent == run.pid();
            workers.retain(|it| is_child(it) && it.comm == "worker ping/1");
            workers.retain(|it| !killed.contains(&it.pid));
            workers.first().cloned()
        });
        assert!(worker.handle().is_some_and(|worker| worker.send(Signal::KILL)));
        killed.push(worker.pid);
    }
    let ended = run.wait();
    ended.assert_exit(1);
    let told = format!(
        "worker ping/1 died too often; stopping: worker ping/1 (pid {}) has died: SIGKILL",
        killed[2]
    );
    assert!(ended.stderr.contains(&told), "{}", ended.describe());
    assert_all_written_in_order(&ended.log(), &ended.describe());
    goes_on(&place, &jobs);
}

#[test]
fn a_job_whose_command_others_end_is_put_back_three_times_and_then_it_has_failed() {
    for (signal, name) in [("TERM", "SIGTERM"), ("INT", "SIGINT"), ("HUP", "SIGHUP")] {
        let (place, jobs) = place(3, "");
        place.work_script(&format!("[ $1 != job-2 ] || kill -{signal} $$"));
        let ended = place.start().wait();
        ended.assert_exit(3);
        let results = place.results();
        results.assert_exactly_once(&jobs);
        assert_eq!(results.of(2)["ok"], false);
        assert_eq!(results.of(2)["signal"], name);
        assert_eq!(results.of(2)["attempt"], 1, "what was put back is not counted");
        let started = place.started().iter().filter(|job| *job == "job-2").count();
        assert_eq!(started, 4, "three times put back");
    }
}

#[test]
fn commands_that_are_all_ended_from_outside_are_run_again_uncounted() {
    if !needs("commands_that_are_all_ended_from_outside_are_run_again_uncounted", &["pkill"]) {
        return;
    }
    // One for each thread, so that it is the same ones each time.
    let (place, jobs) = place(4, "");
    let mut gate = place.gate();
    place.work_script("[ -e calm ] || : < gate");
    let run = place.start();
    for round in 1..=3 {
        run.until_started(4 * round);
        // All that runs the script, as a service manager ends all that is in its group.
        let workers = run.role(2, "worker ");
        for worker in &workers {
            let session = worker.process.pid.to_string();
            support::tool("pkill", &["-TERM", "-s", &session, "-f", "work.sh"]);
        }
    }
    run.until_started(16);
    place.write("calm", "");
    gate.open();
    let ended = run.wait();
    ended.assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    assert!(place.results().lines.iter().all(|line| line["attempt"] == 1));
}
