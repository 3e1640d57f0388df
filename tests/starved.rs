//! A machine that has too little of something: descriptors, inodes, memory; or that gives no time at all.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;
use support::verdict::goes_on;
use support::{Balance, Ended, Freezer, Pids, Place, Running, Signal, log, needs};

/// Two workers of two threads of the kind `ping`, with jobs that are done at once.
fn place(count: usize, tables: &str) -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(count);
    place.config(tables);
    place.work_script("");
    (place, jobs)
}

fn limited<'a>(place: &'a Place, limit: &str, arguments: &[&str]) -> support::Launch<'a> {
    place.command(arguments).under(&["prlimit", limit, "--"])
}

// Descriptors.

/// What makes main hold more of them: dead letters, and an output that is rotated.
const MORE: &str = "[dead_letters]\nfile = \"dead.jsonl\"\n";

#[test]
fn too_few_descriptors_are_said_before_anything_is_opened_and_enough_are_enough() {
    let test = "too_few_descriptors_are_said_before_anything_is_opened_and_enough_are_enough";
    if !needs(test, &["prlimit"]) {
        return;
    }
    let (place, jobs) = place(4, MORE);
    let before = place.files();
    let mut enough = None;
    // With fewer than 4 the program can't even be loaded.
    for count in 4..=48 {
        let ended = limited(&place, &format!("--nofile={count}:{count}"), &["run", "pings.toml"]);
        let ended = ended.finish();
        if enough.is_none() && ended.code == Some(1) {
            ended.assert_exit(1);
            assert!(ended.stderr.contains("too few open files are allowed for 2 worker processes"));
            assert!(ended.stderr.contains("LimitNOFILE="), "{}", ended.describe());
            assert_eq!(place.files(), before, "{}", ended.describe());
            continue;
        }
        enough.get_or_insert(count);
        ended.assert_exit(0);
        place.results().assert_exactly_once(&jobs);
        for name in place.files().difference(&before) {
            std::fs::remove_file(place.path(name)).expect("a file of this run");
        }
    }
    let enough = enough.expect("48 are enough");
    assert!(enough > 10, "{enough}: this shows nothing");
}

#[test]
fn what_is_kept_survives_a_start_with_too_few_descriptors() {
    let test = "what_is_kept_survives_a_start_with_too_few_descriptors";
    if !needs(test, &["prlimit"]) {
        return;
    }
    let (place, jobs) = place(8, "");
    let mut gate = place.gate();
    place.work_script("[ -e calm ] || : < gate");
    let run = place.start();
    run.until_started(4);
    for process in run.of_program() {
        process.handle().map(|process| process.send(Signal::KILL));
    }
    run.wait_for_main();
    place.write("calm", "");
    gate.open();
    let spool = std::fs::read(place.path(support::place::SPOOL)).expect("a spool");
    limited(&place, "--nofile=20:20", &["run", "pings.toml"]).finish().assert_exit(1);
    let now = std::fs::read(place.path(support::place::SPOOL)).expect("a spool");
    assert!(spool == now, "the spool was touched");
    goes_on(&place, &jobs);
}

/// The soft limit, which is 1024 mostly, is for programs that may not know of more.
#[test]
fn a_soft_limit_of_descriptors_is_no_limit_to_the_commands_that_run_at_a_time() {
    let test = "a_soft_limit_of_descriptors_is_no_limit_to_the_commands_that_run_at_a_time";
    if !needs(test, &["prlimit"]) {
        return;
    }
    let place = Place::new();
    let jobs = place.jobs(60);
    let mut gate = place.gate();
    place.work_script(": < gate");
    let options = ["run", "--jobs", "jobs.txt", "-o", "out.jsonl", "-P", "1", "-j", "60"];
    let command = ["--", "sh", "work.sh", "{}"];
    let run = limited(&place, "--nofile=64:4096", &[&options[..], &command].concat()).start();
    run.until_started(60);
    gate.open();
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    assert!(place.results().lines.iter().all(|line| line["ok"] == true));
}

#[test]
fn more_commands_at_a_time_than_there_can_be_descriptors_for_are_refused_before_any_is_run() {
    let test =
        "more_commands_at_a_time_than_there_can_be_descriptors_for_are_refused_before_any_is_run";
    if !needs(test, &["prlimit"]) {
        return;
    }
    let (place, _) = place(4, "threads = 40");
    let text = place.read("pings.toml").replace("threads = 2\n", "");
    for (text, says) in [
        (text.clone(), "40 programs at a time in a process need 216, and 200 are allowed"),
        (text.replace("command", "coprocess"), "in a process need 296, and 200 are allowed"),
    ] {
        place.write("pings.toml", text);
        let before = place.files();
        let ended = limited(&place, "--nofile=200:200", &["run", "pings.toml"]).finish();
        ended.assert_exit(1);
        assert!(ended.stderr.contains(says), "{}", ended.describe());
        assert_eq!(place.files(), before);
        assert!(place.started().is_empty());
    }
}

/// What a worker is refused that runs already: `prlimit` changes the limit of a living process.
#[track_caller]
fn limit_descriptors(run: &Running<'_>, most: &str) {
    for worker in run.role(2, "worker ") {
        let (pid, limit) = (worker.process.pid.to_string(), format!("--nofile={most}"));
        let made = support::tool("prlimit", &["--pid", &pid, &limit]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}

#[test]
fn a_worker_that_runs_out_of_descriptors_fails_the_jobs_in_hand_says_so_and_goes_on_with_enough() {
    let test = "a_worker_that_runs_out_of_descriptors_fails_the_jobs_in_hand_says_so_and_goes_on_with_enough";
    if !needs(test, &["root", "prlimit"]) {
        return;
    }
    for keyword in ["command", "coprocess"] {
        let (place, jobs) = place(40, "");
        let mut gate = place.gate();
        let waits = "*) echo $1 >>at-gate; : <gate";
        place.work_script(&format!("case $1 in job-[1-4]) ;; {waits} ;; esac"));
        // It answers once: each job has a program of its own.
        let answer =
            format!("read -r line; case $line in *job-[1-4]\\\"*) ;; {waits} ;; esac; echo 1");
        place.write("answer.sh", answer);
        let command = "command = [\"sh\", \"work.sh\", \"{}\"]";
        let coprocess = "coprocess = [\"sh\", \"answer.sh\"]";
        if keyword == "coprocess" {
            place.write("pings.toml", place.read("pings.toml").replace(command, coprocess));
        }
        let run = place.start();
        run.until("all threads to wait", |_| {
            (place.read("at-gate").lines().count() == 4).then_some(())
        });
        limit_descriptors(&run, "3:");
        gate.open();
        run.until_logged("Too many open files");
        limit_descriptors(&run, "1000:");
        let ended = run.wait();
        ended.assert_exit(3);
        Balance::of(&ended.log()).assert_even();
        let results = place.results();
        results.assert_exactly_once(&jobs);
        let failed: Vec<_> = results.lines.iter().filter(|line| line["ok"] == false).collect();
        let error = "can't start \"sh\": Too many open files";
        assert!(failed.iter().all(|line| line["error"] == error), "{failed:?}");
        assert!((1..30).contains(&failed.len()), "{} have failed", failed.len());
        let said = ended.stderr.matches(&format!("{error}; every job that needs it fails")).count();
        assert!((1..=2).contains(&said), "once for each worker: {}", ended.describe());
    }
}

// Processes.

#[test]
fn however_many_processes_there_may_be_nothing_is_lost_and_with_enough_all_is_done() {
    let test = "however_many_processes_there_may_be_nothing_is_lost_and_with_enough_all_is_done";
    if !needs(test, &["root"]) {
        return;
    }
    let Some(pids) = Pids::new(test) else { return };
    let (place, jobs) = place(8, "[restart]\nmax = 1\n");
    let mut failed = 0;
    for most in 1..=40 {
        pids.allow(Some(most));
        let wrapper = pids.wrapper();
        let wrapper = wrapper.each_ref().map(String::as_str);
        let ended = place.command(&["run", "pings.toml"]).under(&wrapper).finish();
        ended.assert_nothing_left();
        place.results().assert_at_most_once(&jobs);
        // Enough for the workers, and for a while not for a command of theirs: that job has failed.
        if matches!(ended.code, Some(0 | 3)) {
            break;
        }
        failed += 1;
        assert_eq!(ended.code, Some(1), "{}", ended.describe());
        assert!(ended.stderr.contains("Resource temporarily unavailable"), "{}", ended.describe());
    }
    assert!(failed > 5, "{failed}: this shows nothing");
    let results = place.results();
    results.assert_exactly_once(&jobs);
    let is_refused = |line: &serde_json::Value| {
        line["error"].as_str().is_some_and(|error| error.contains("temporarily unavailable"))
    };
    assert!(results.lines.iter().all(|line| line["ok"] == true || is_refused(line)));
}

// Memory.

#[test]
fn whatever_memory_there_is_nothing_is_lost_and_with_enough_all_is_done() {
    let test = "whatever_memory_there_is_nothing_is_lost_and_with_enough_all_is_done";
    if !needs(test, &["prlimit"]) {
        return;
    }
    let (place, jobs) = place(8, "[restart]\nmax = 1\n");
    // From where the program can be loaded on.
    let mut failed = BTreeSet::new();
    for mebibytes in 16..=256_u64 {
        let limit = format!("--as={}", mebibytes << 20);
        let ended = limited(&place, &limit, &["run", "pings.toml"]).finish();
        place.results().assert_at_most_once(&jobs);
        if ended.code == Some(0) {
            break;
        }
        failed.insert(ended.code.unwrap_or(-1));
        // An allocation that fails in the standard library or in the C library ends main at once, and
        // its children end by themselves. The loader exits with 127; a stack that can't grow is for
        // the kernel to end, which says nothing.
        let words = [
            "Cannot allocate memory",
            "temporarily unavailable",
            "memory allocation of",
            "out of memory",
        ];
        let is_said = words.iter().any(|words| ended.stderr.contains(words));
        let is_of_the_system =
            ended.code == Some(127) || ended.signal == Some(Signal::SEGV.as_raw());
        assert!(is_said || is_of_the_system, "{}", ended.describe());
    }
    assert!(failed.len() > 1, "{failed:?}: this shows nothing");
    place.results().assert_exactly_once(&jobs);
}

// Inodes.

/// Runs the program with the directory `disk` on a file system that can hold so many files, `$1` of which
/// are there already.
const FEW: &str = "mount -t tmpfs -o nr_inodes=16,size=64m none disk || exit 99
count=$1; shift
for number in $(seq $count); do : >disk/filler$number; done
\"$@\"; code=$?
cat disk/out.2*.jsonl disk/out.jsonl >behind 2>/dev/null; ls -A disk >left
exit $code";

fn on_few_inodes<'a>(place: &'a Place, taken: usize) -> support::Launch<'a> {
    let taken = taken.to_string();
    let wrapper = ["unshare", "-m", "--propagation", "private", "sh", "-c", FEW, "sh", &taken];
    place.command(&["run", "pings.toml"]).under(&wrapper)
}

fn place_on_disk(count: usize, keys: &str) -> (Place, Vec<String>) {
    let (place, jobs) = place(count, "[shutdown]\ndeadline = \"3s\"\nflush_reserve = \"1s\"\n");
    std::fs::create_dir(place.path("disk")).expect("a place to mount at");
    let output = format!("file = \"disk/out.jsonl\"\n{keys}");
    place.write("pings.toml", place.read("pings.toml").replace("file = \"out.jsonl\"", &output));
    (place, jobs)
}

#[test]
fn a_start_without_inodes_says_that_no_more_files_are_possible() {
    let test = "a_start_without_inodes_says_that_no_more_files_are_possible";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let (place, jobs) = place_on_disk(4, "");
    // One is the directory itself. None is free, then one, which the output takes.
    for (taken, what) in [(15, "can't open the output"), (14, "can't create the spool")] {
        let ended = on_few_inodes(&place, taken).finish();
        ended.assert_exit(74);
        assert!(ended.stderr.contains(what), "{}", ended.describe());
        assert!(ended.stderr.contains("no inodes are left"), "{}", ended.describe());
        assert!(place.started().is_empty());
        let left = place.read("left");
        assert!(!left.contains(".new-"), "half of a spool: {left}");
    }
    on_few_inodes(&place, 13).finish().assert_exit(0);
    assert_eq!(place.read("behind").lines().count(), jobs.len());
}

#[test]
fn a_rotation_without_inodes_is_waited_for_says_so_and_loses_nothing() {
    let test = "a_rotation_without_inodes_is_waited_for_says_so_and_loses_nothing";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let (place, _) = place_on_disk(60, "rotate_bytes = \"4KiB\"");
    let run = on_few_inodes(&place, 13).start();
    let line = run.until_logged("waiting for room, the records are kept");
    assert!(line.message.contains("are free, but no inodes"), "{}", line.message);
    let pid = run.of_program().first().map_or(0, |main| main.pid);
    let disk = format!("/proc/{pid}/root{}", place.path("disk").display());
    for number in 1..=13 {
        std::fs::remove_file(format!("{disk}/filler{number}")).expect("make room");
    }
    run.until_logged("there is room again");
    let ended = run.wait();
    ended.assert_exit(0);
    let text = place.read("behind");
    let seq = |line: &str| -> u64 {
        let result: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        result["seq"].as_u64().expect("a number")
    };
    let mut seqs: Vec<u64> = text.lines().map(seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=60).collect::<Vec<u64>>(), "{}", ended.describe());
}

// Time.

const SHORT: &str =
    "[shutdown]\ndeadline = \"4s\"\nflush_reserve = \"2s\"\n[log]\nlevel = \"debug\"\n";

/// Longer than the deadline.
const FROZEN: Duration = Duration::from_secs(6);

/// A pipeline of which all processes are in a group, with four jobs in hand that wait at the gate.
#[track_caller]
fn in_a_freezer<'a>(place: &'a Place, freezer: &Freezer) -> Running<'a> {
    place.work_script("[ -e calm ] || : < gate");
    let run = place.start();
    run.until_started(4);
    for process in run.processes() {
        freezer.take(&process.handle().expect("a living process"));
    }
    run
}

/// Each job was run once, nobody was killed, and all of it was in order.
#[track_caller]
fn assert_nobody_was_condemned(place: &Place, ended: &Ended, jobs: &[String]) {
    log::assert_nothing_out_of_order(&ended.log());
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert_eq!(balance.kept, 0, "{}", ended.describe());
    for word in ["killing", "has died", "timed out"] {
        assert!(!ended.stderr.contains(word), "{word}: {}", ended.describe());
    }
    place.results().assert_at_most_once(jobs);
}

#[test]
fn a_pipeline_that_is_frozen_for_longer_than_its_deadline_goes_on_when_it_is_thawed() {
    let test = "a_pipeline_that_is_frozen_for_longer_than_its_deadline_goes_on_when_it_is_thawed";
    if !needs(test, &["root"]) {
        return;
    }
    let Some(freezer) = Freezer::any(test) else { return };
    let (place, jobs) = place(12, SHORT);
    let mut gate = place.gate();
    let run = in_a_freezer(&place, &freezer);
    freezer.freeze();
    place.write("calm", "");
    gate.open();
    std::thread::sleep(FROZEN);
    freezer.thaw();
    let ended = run.wait();
    ended.assert_exit(0);
    assert_nobody_was_condemned(&place, &ended, &jobs);
    place.results().assert_exactly_once(&jobs);
    place.assert_each_ran_once(&jobs);
}

#[test]
fn a_stop_that_is_asked_for_while_all_is_frozen_is_an_ordered_one_when_it_is_thawed() {
    let test = "a_stop_that_is_asked_for_while_all_is_frozen_is_an_ordered_one_when_it_is_thawed";
    if !needs(test, &["root"]) {
        return;
    }
    let Some(freezer) = Freezer::any(test) else { return };
    let (place, jobs) = place(12, SHORT);
    let mut gate = place.gate();
    let run = in_a_freezer(&place, &freezer);
    freezer.freeze();
    run.signal(Signal::TERM);
    std::thread::sleep(FROZEN);
    freezer.thaw();
    run.until_told_to_stop(2);
    place.write("calm", "");
    gate.open();
    let ended = run.wait();
    ended.assert_exit(5);
    assert_nobody_was_condemned(&place, &ended, &jobs);
    goes_on(&place, &jobs);
    place.assert_each_ran_once(&jobs);
}

#[test]
fn a_stop_in_which_all_is_frozen_until_after_the_deadline_condemns_nobody() {
    let test = "a_stop_in_which_all_is_frozen_until_after_the_deadline_condemns_nobody";
    if !needs(test, &["root"]) {
        return;
    }
    let Some(freezer) = Freezer::any(test) else { return };
    let (place, jobs) = place(12, SHORT);
    let mut gate = place.gate();
    let run = in_a_freezer(&place, &freezer);
    run.signal(Signal::TERM);
    run.until_told_to_stop(2);
    freezer.freeze();
    std::thread::sleep(FROZEN);
    place.write("calm", "");
    gate.open();
    freezer.thaw();
    let ended = run.wait();
    ended.assert_exit(5);
    assert_nobody_was_condemned(&place, &ended, &jobs);
    goes_on(&place, &jobs);
    place.assert_each_ran_once(&jobs);
}
