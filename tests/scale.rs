//! Many jobs, many processes, and no work at all.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::verdict::{Before, End, judge};
use support::{Place, Process, Running, Signal, log, wait_until};

#[test]
fn five_thousand_jobs_are_done_exactly_once() {
    let place = Place::new();
    let jobs = place.jobs(5_000);
    let before = Before::of(&place);
    let options = ["--jobs", "jobs.txt", "-P", "2", "-j", "4"];
    let ended = place.run(&options, &["/bin/true"]).start().wait_for(Duration::from_secs(300));
    ended.assert_exit(0);
    assert_eq!(judge(&place, &before, &ended, &jobs), End::Complete);
    let workers: BTreeSet<String> =
        place.results().lines.iter().map(|line| line["worker"].to_string()).collect();
    assert_eq!(workers.len(), 2, "both processes work: {workers:?}");
    eprintln!("5,000 jobs in {:?}", ended.elapsed);
}

/// Whatever a fork catches half-way, or a wake-up that gets lost, shows in one of many starts and
/// ends: as a child that hangs until the deadline.
#[test]
fn a_thousand_short_runs_all_end_by_themselves() {
    let next = AtomicUsize::new(0);
    let work = || {
        while next.fetch_add(1, Ordering::Relaxed) < 1_000 {
            let place = Place::new();
            let jobs = place.jobs(4);
            // A disk can take longer than the usual eight seconds to answer.
            let options = ["--jobs", "jobs.txt", "-P", "2", "-j", "2", "--deadline", "40s"];
            place.run(&options, &["true"]).finish().assert_exit(0);
            place.results().assert_exactly_once(&jobs);
        }
    };
    // More than there are processors, so that processes are interrupted at odd places.
    std::thread::scope(|scope| {
        for thread in [(); 6].map(|()| scope.spawn(work)) {
            thread.join().expect("short runs");
        }
    });
}

const MANY: usize = 500;

#[test]
fn five_hundred_workers_start_work_and_stop_in_order() {
    let place = Place::new();
    let jobs = place.jobs(3 * MANY);
    let mut gate = place.gate();
    place.work_script("[ -e calm ] || : < gate");
    let before = Before::of(&place);
    let options = ["-P", "500", "-j", "1", "--deadline", "100s"];
    let run = place.run_work(&options).start();
    let children = run.children(MANY);
    assert_eq!(children.len(), MANY + 2);
    run.until_started(MANY);
    run.signal(Signal::TERM);
    run.until_logged("stopping workers (500)");
    gate.open();
    let ended = run.wait_for(Duration::from_secs(120));
    log::assert_full_stop(&ended.log(), MANY);
    assert_eq!(judge(&place, &before, &ended, &jobs), End::Stopped);
    // Some may have taken another job: the gate was opened while workers were still being told.
    assert_eq!(place.results().len(), place.started().len(), "a job in hand was not finished");
    place.write("calm", "");
    let before = Before::of(&place);
    let ended = place.run_work(&options).start().wait_for(Duration::from_secs(300));
    assert_eq!(judge(&place, &before, &ended, &jobs), End::Complete);
    assert_eq!(log::workers_told_to_stop(&ended.log()), Some(MANY), "{}", ended.describe());
    place.assert_each_ran_once(&jobs);
}

/// Context switches so far, of each thread of each process of the run.
fn switches(run: &Running) -> BTreeMap<i32, BTreeMap<i32, Vec<String>>> {
    let processes = run.processes();
    assert!(!processes.is_empty(), "nothing runs\n{}", run.describe());
    processes.iter().map(|process: &Process| (process.pid, process.switches())).collect()
}

/// No process of the run, of two workers, has anything to do for so long.
#[track_caller]
fn assert_nobody_wakes(run: &Running, how_long: Duration) {
    // What was there to do is over when nothing has happened for three seconds: the last flush and
    // the timers that go with it are done then.
    let mut last = (Instant::now(), switches(run));
    wait_until("an idle pipeline", support::WATCHDOG, || {
        let now = switches(run);
        if now != last.1 {
            last = (Instant::now(), now);
        }
        (last.0.elapsed() > Duration::from_secs(3)).then_some(())
    });
    let before = switches(run);
    // Not a wait for anything: the time over which it is measured.
    std::thread::sleep(how_long);
    let after = switches(run);
    assert_eq!(before, after, "somebody woke up\n{}", run.describe());
    assert_eq!(after.len(), 5, "supervisor, source, two workers, buffer: {}", run.describe());
}

#[test]
fn while_no_file_is_dropped_no_process_wakes_up_for_ten_seconds() {
    let place = Place::new();
    place.config("");
    place.work_script("");
    std::fs::create_dir(place.path("in")).expect("a directory");
    place.write("in/a", "text");
    let text = place.read("pings.toml").replace("lines = \"jobs.txt\"", "directory = \"in\"");
    place.write("pings.toml", text);
    let run = place.start();
    run.until("the file is moved", |_| place.path("in/done/a").exists().then_some(()));
    assert_nobody_wakes(&run, Duration::from_secs(10));
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
}

#[test]
fn between_two_rounds_no_process_wakes_up_for_twenty_seconds() {
    let place = Place::new();
    let jobs = place.jobs(20);
    place.work_script("");
    let run = place.run_work(&["-P", "2", "-j", "2", "--every", "1h"]).start();
    run.until_written(jobs.len());
    assert_nobody_wakes(&run, Duration::from_secs(20));
    let asked = Instant::now();
    run.signal(Signal::TERM);
    let ended = run.wait();
    eprintln!("an idle pipeline stopped in {:?}", asked.elapsed());
    ended.assert_exit(0);
    log::assert_full_stop(&ended.log(), 2);
    place.results().assert_exactly_once(&jobs);
}
