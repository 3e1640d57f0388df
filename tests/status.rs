//! `status`: what it says is true, whatever state the run is in; it disturbs nobody; and what can't be
//! read is an error that says what to do.

mod support;

use serde_json::Value;
use std::time::Duration;
use support::place::{Gate, SPOOL};
use support::{Ended, Place, Running, Signal, needs, wait_until};

const WORKERS: usize = 2;
/// Two processes of two threads.
const IN_HAND: usize = 4;

/// A place of which the first ten jobs end at once, and all others wait at a gate.
fn place(jobs: usize) -> (Place, Gate) {
    let place = Place::new();
    place.jobs(jobs);
    let gate = place.gate();
    place.work_script("case $1 in job-?|job-10) ;; *) : < gate ;; esac");
    place.config("[buffer]\nflush_after = \"50ms\"\n");
    (place, gate)
}

/// Starts it, and waits until ten results are written and all threads wait at the gate.
fn start(place: &Place) -> Running<'_> {
    let run = place.start();
    run.until_started(10 + IN_HAND);
    run.until_written(10);
    run
}

fn status(place: &Place, options: &[&str]) -> Ended {
    place.command(&[&["status", "--sample", "0s"], options].concat()).finish()
}

#[track_caller]
fn json(place: &Place) -> Value {
    let ended = status(place, &["--json", "pings.toml"]);
    ended.assert_exit_beside(0);
    assert_eq!(ended.stdout.lines().count(), 1, "one object, in one line: {}", ended.stdout);
    serde_json::from_str(&ended.stdout).expect("JSON")
}

/// Looks until it is so.
#[track_caller]
fn until(place: &Place, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_until(what, support::WATCHDOG, || Some(json(place)).filter(|status| is_so(status)))
}

fn state<'a>(status: &'a Value, role: &str) -> &'a str {
    let processes = status["processes"].as_array().expect("an array");
    let process = processes.iter().find(|process| process["role"] == role);
    process.unwrap_or_else(|| panic!("no {role} in {status}"))["state"].as_str().expect("a text")
}

#[track_caller]
fn assert_verdict(place: &Place, option: &str, code: i32, words: &str) {
    let ended = status(place, &[option, "pings.toml"]);
    ended.assert_exit_beside(code);
    assert!(ended.stdout.contains(words), "{:?} in {}", words, ended.describe());
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
}

#[test]
fn of_a_running_pipeline_it_says_who_does_what_and_what_waits() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    let main = run.supervisor().pid;
    // Main wakes up now and then, and may be seen at it.
    let seen = until(&place, "all is written, and main asleep", |seen| {
        seen["jobs"]["done_not_written"] == 0 && seen["main"]["process_state"] == "S"
    });
    assert_eq!(seen["state"], "running");
    assert_eq!(seen["pipeline"], "pings");
    assert_eq!(seen["main"]["pid"], main);
    let jobs = &seen["jobs"];
    assert_eq!([&jobs["done"], &jobs["failed"], &jobs["in_hand"]], [10, 0, IN_HAND], "{seen}");
    assert_eq!([&jobs["ready"], &jobs["waiting_for_retry"]], [16, 0], "{seen}");
    assert_eq!([&seen["records"]["published"], &seen["records"]["written"]], [10, 10]);
    assert_eq!([&seen["list"]["handed_out"], &seen["list"]["ended"]], [30, 10], "{seen}");
    assert_eq!(seen["list"]["at_end"], true);
    let children = run.children(WORKERS);
    for role in ["source", "worker ping/0", "worker ping/1", "buffer"] {
        let processes = seen["processes"].as_array().expect("an array");
        let process = processes.iter().find(|it| it["role"] == role).expect(role);
        let pid = process["pid"].as_i64().expect("a number");
        let child = children.iter().find(|child| i64::from(child.pid) == pid).expect("its child");
        assert_eq!(child.comm, role);
        assert_eq!((&process["state"], &process["restarts"]), (&"running".into(), &0.into()));
        assert!(process["age_seconds"].as_f64().expect("an age") < 60.0);
        let in_hand = process["jobs_in_hand"].as_array().expect("an array");
        assert_eq!(in_hand.len(), if role.starts_with("worker") { 2 } else { 0 });
        for job in in_hand {
            let text = format!("job-{}", job["seq"]);
            assert_eq!(job["job"], text);
            assert!(place.started().contains(&text), "{job}");
            assert!(job["seconds"].as_f64().expect("it has begun") < 60.0);
        }
    }
    let table = status(&place, &["pings.toml"]);
    table.assert_exit_beside(0);
    assert!(table.stdout.starts_with("pings: running for "), "{}", table.stdout);
    assert!(table.stdout.contains("10 done, 0 failed"), "{}", table.stdout);
    let long = format!("{}.spool", "long".repeat(30));
    std::fs::copy(place.path(SPOOL), place.path(&long)).expect("a copy");
    let piped = status(&place, &[&long]);
    assert!(piped.stdout.contains(&long), "cut, though it is no terminal: {}", piped.stdout);
    assert_verdict(&place, "--healthy", 0, "ok: running");
    assert_verdict(&place, "--ready", 0, "ok: ready");
    gate.open();
    run.wait().assert_exit(0);
}

/// What scripts rely on.
const KEYS: [&str; 46] = [
    "/format",
    "/pipeline",
    "/state",
    "/started",
    "/running_seconds",
    "/ended",
    "/exit_code",
    "/main/pid",
    "/main/process_state",
    "/spool",
    "/output",
    "/dead_letters",
    "/log_file",
    "/version",
    "/stop",
    "/processes/0/role",
    "/processes/0/pid",
    "/processes/0/state",
    "/processes/0/age_seconds",
    "/processes/0/restarts",
    "/processes/0/last_end",
    "/processes/1/threads",
    "/processes/1/jobs_in_hand/0/seq",
    "/processes/1/jobs_in_hand/0/job",
    "/processes/1/jobs_in_hand/0/seconds",
    "/processes/1/jobs_in_hand/0/attempt",
    "/records/published",
    "/records/kept_before",
    "/records/written",
    "/records/dead_letters",
    "/records/quarantined",
    "/jobs/done",
    "/jobs/failed",
    "/jobs/done_not_written",
    "/jobs/in_hand",
    "/jobs/ready",
    "/jobs/waiting_for_retry",
    "/jobs/free_slots",
    "/list/handed_out",
    "/waiting/records",
    "/waiting/bytes",
    "/waiting/oldest_seconds",
    "/lanes/0/full_percent",
    "/buffer/last_commit_seconds",
    "/buffer/no_room_seconds",
    "/rates/jobs_per_second",
];

#[test]
fn the_keys_of_its_json_are_those_that_are_documented() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    let sampled = place.command(&["status", "--json", "--sample", "50ms"]).finish();
    sampled.assert_exit_beside(0);
    let seen: Value = serde_json::from_str(&sampled.stdout).expect("JSON");
    for key in KEYS {
        assert!(seen.pointer(key).is_some(), "no {key} in {seen}");
    }
    assert_eq!(seen["format"], 1);
    let over = seen["rates"]["over_seconds"].as_f64().expect("a sample");
    assert!(over >= 0.05, "{over}");
    gate.open();
    run.wait().assert_exit(0);
}

#[test]
fn it_works_while_main_and_workers_are_stopped_and_says_who_is() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    let worker = run.role(WORKERS, "worker ping/1").remove(0);
    worker.send(Signal::STOP);
    until(&place, "a stopped worker", |seen| state(seen, "worker ping/1") == "stopped");
    assert_verdict(&place, "--healthy", 1, "worker ping/1 (pid ");
    worker.send(Signal::CONT);
    until(&place, "it goes on", |seen| state(seen, "worker ping/1") == "running");
    assert_verdict(&place, "--healthy", 0, "ok");
    run.signal(Signal::STOP);
    let seen = until(&place, "a stopped main", |seen| seen["main"]["process_state"] == "T");
    assert_eq!(seen["state"], "running");
    assert_verdict(&place, "--healthy", 1, "SIGCONT");
    let table = status(&place, &["pings.toml"]).stdout;
    assert!(table.contains("main is stopped and answers nobody; kill -CONT "), "{table}");
    run.signal(Signal::CONT);
    gate.open();
    run.wait().assert_exit(0);
}

#[test]
fn a_worker_that_was_started_again_is_counted_with_how_the_last_one_ended() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    run.role(WORKERS, "worker ping/0")[0].send(Signal::KILL);
    let seen = until(&place, "a new worker", |seen| seen["processes"][1]["restarts"] == 1);
    assert_eq!(seen["processes"][1]["last_end"], "SIGKILL", "{seen}");
    run.signal(Signal::TERM);
    run.until_logged("stopping workers");
    gate.open();
    run.wait().assert_exit(5);
    // Restarts are those of one run, also in the same spool.
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    assert_eq!(json(&place)["processes"][1]["restarts"], 0);
}

#[test]
fn a_main_that_does_not_reap_what_has_died_is_not_healthy() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    let source = run.role(WORKERS, "source").remove(0);
    run.signal(Signal::STOP);
    until(&place, "a stopped main", |seen| seen["main"]["process_state"] == "T");
    source.send(Signal::KILL);
    assert!(source.wait(support::WATCHDOG));
    assert_verdict(&place, "--healthy", 1, "main takes no notice of it");
    run.signal(Signal::CONT);
    gate.open();
    run.wait().assert_exit(0);
}

#[test]
fn a_stop_is_shown_with_the_time_that_is_left_and_is_no_illness() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    run.signal(Signal::TERM);
    let seen = until(&place, "a stop", |seen| {
        seen["state"] == "stopping" && state(seen, "worker ping/0") == "stopping"
    });
    assert_eq!(seen["stop"]["reason"], "signal");
    assert_eq!(seen["stop"]["deadline_seconds"], 8.0);
    let left = seen["stop"]["left_seconds"].as_f64().expect("it is under way");
    assert!(left <= 8.0, "{left}");
    let waits = seen["stop"]["waiting_for"].to_string();
    assert!(waits.contains("worker ping/0") && waits.contains("buffer"), "{waits}");
    assert_verdict(&place, "--healthy", 0, "ok: stopping");
    assert_verdict(&place, "--ready", 1, "not ok: not ready");
    gate.open();
    run.wait().assert_exit(5);
    let seen = json(&place);
    assert_eq!((&seen["state"], &seen["exit_code"]), (&"ended".into(), &5.into()));
    assert_verdict(&place, "--healthy", 1, "ended with exit code 5");
}

#[test]
fn its_numbers_are_those_of_the_balance_in_the_log() {
    let (place, mut gate) = place(30);
    place.write("work.sh", "case $1 in job-?|job-10) ;; *) : < gate ;; esac\n[ $1 != job-7 ]\n");
    let run = place.start();
    run.until_written(10);
    until(&place, "four in hand", |seen| seen["jobs"]["in_hand"] == IN_HAND);
    run.signal(Signal::TERM);
    run.until_logged("stopping workers");
    gate.open();
    let first = run.wait();
    let check = |ended: &Ended| {
        let balance = support::Balance::of(&ended.log());
        let seen = json(&place);
        let number = |key: &str| seen.pointer(key).and_then(Value::as_u64).expect(key);
        assert_eq!(number("/records/published"), balance.published, "{seen}");
        assert_eq!(number("/records/kept_before"), balance.kept_before, "{seen}");
        assert_eq!(number("/records/written"), balance.written, "{seen}");
        assert_eq!(number("/waiting/records"), balance.kept, "{seen}");
        assert_eq!(number("/jobs/done"), balance.done, "{seen}");
        assert_eq!(number("/jobs/failed"), balance.failed, "{seen}");
    };
    check(&first);
    // The rest, of which an earlier run's are no part; its spool gives the room back.
    let rest = place.command(&["run", "pings.toml"]).finish();
    rest.assert_exit(3);
    check(&rest);
    assert_eq!(json(&place)["list"]["handed_out"], 30);
}

#[test]
fn main_killed_alone_leaves_orphans_and_then_a_dead_pipeline() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    let children = run.children(WORKERS);
    let children: Vec<_> = children.iter().filter_map(|child| child.handle()).collect();
    run.signal(Signal::KILL);
    run.wait_for_main();
    let seen = until(&place, "orphans", |seen| seen["state"] == "orphans");
    assert_eq!(seen["main"]["process_state"], Value::Null);
    assert_verdict(&place, "--healthy", 1, "was killed");
    gate.open();
    for child in &children {
        assert!(child.wait(support::WATCHDOG), "{:?}", child.process);
    }
    let seen = until(&place, "nobody", |seen| seen["state"] == "died");
    assert_eq!(seen["running_seconds"], Value::Null);
    let table = status(&place, &["pings.toml"]).stdout;
    assert!(table.contains("was killed; start it again to go on"), "{table}");
}

#[test]
fn all_killed_at_once_it_says_what_was_in_hand_and_disturbs_nothing() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    let all: Vec<_> = run.of_program().iter().filter_map(|process| process.handle()).collect();
    all.iter().for_each(|process| {
        process.send(Signal::KILL);
    });
    for process in &all {
        process.wait(support::WATCHDOG);
    }
    run.wait_for_main();
    let before = std::fs::read(place.path(SPOOL)).expect("the spool");
    let mut readable = std::fs::metadata(place.path(SPOOL)).expect("the spool").permissions();
    readable.set_readonly(true);
    std::fs::set_permissions(place.path(SPOOL), readable).expect("read-only");
    let seen = until(&place, "a dead pipeline", |seen| seen["state"] == "died");
    assert_eq!(seen["jobs"]["in_hand"], IN_HAND, "{seen}");
    assert_eq!(state(&seen, "worker ping/0"), "dead");
    assert_eq!(seen["processes"][1]["jobs_in_hand"][0]["seconds"], Value::Null, "{seen}");
    let table = status(&place, &["pings.toml"]).stdout;
    assert!(table.contains(" (kept) +1 more"), "{table}");
    assert_eq!(seen["rates"], Value::Null);
    assert_eq!(std::fs::read(place.path(SPOOL)).expect("the spool"), before, "untouched");
    gate.open();
}

#[test]
fn watch_goes_on_until_the_run_has_ended() {
    let (place, mut gate) = place(30);
    let run = start(&place);
    let watch = place.command(&["status", "--json", "--watch=20ms", "pings.toml"]).start();
    let lines = || std::fs::read_to_string(place.private("stdout.1")).unwrap_or_default();
    wait_until("three looks", support::WATCHDOG, || {
        (lines().matches('\n').count() >= 3).then_some(())
    });
    gate.open();
    run.wait().assert_exit_beside(0);
    let watched = watch.wait();
    watched.assert_exit(0);
    let seen: Vec<Value> =
        watched.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(seen[1]["rates"]["over_seconds"].as_f64().is_some(), "{}", seen[1]);
    let last = seen.last().expect("a last one");
    assert_eq!((&last["state"], &last["exit_code"]), (&"ended".into(), &0.into()));
    assert!(!watched.stdout.contains('\x1b'));
}

#[test]
fn a_spool_that_was_rebuilt_for_other_sizes_is_looked_at_as_before() {
    let (place, mut gate) = place(30);
    gate.open();
    place.config("[spool]\njobs = 8\n");
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    place.config("[spool]\njobs = 16\n");
    place.jobs(40);
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    let seen = json(&place);
    assert_eq!((&seen["jobs"]["slots"], &seen["jobs"]["done"]), (&16.into(), &40.into()), "{seen}");
    assert_eq!((&seen["state"], &seen["waiting"]["records"]), (&"ended".into(), &0.into()));
}

#[test]
fn what_is_no_spool_or_another_one_is_an_error_that_says_what_to_do() {
    let (place, mut gate) = place(3);
    gate.open();
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    let whole = std::fs::read(place.path(SPOOL)).expect("the spool");
    let with = |at: usize, value: u64| {
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let cases = [
        (Vec::new(), "it has only 0 bytes"),
        (b"no spool at all\n".repeat(1000), "no spool of procsig"),
        (whole[..whole.len() - 4096].to_vec(), "is damaged"),
        (with(8, 99), "has format 99"),
        (with(16, 7), "header is damaged"),
    ];
    for (bytes, words) in cases {
        std::fs::write(place.path("other.spool"), &bytes).expect("a file");
        let ended = status(&place, &["other.spool"]);
        ended.assert_exit(74);
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
        assert_eq!(std::fs::read(place.path("other.spool")).expect("it"), bytes, "untouched");
        let verdict = status(&place, &["--healthy", "other.spool"]);
        verdict.assert_exit(1);
        assert!(verdict.stdout.contains(words), "{}", verdict.stdout);
    }
    let missing = status(&place, &["missing.spool"]);
    missing.assert_exit(74);
    assert!(missing.stderr.contains("there is no such spool"), "{}", missing.stderr);
}

#[test]
fn from_outside_of_its_pid_namespace_it_says_that_nothing_can_be_seen() {
    let test = "from_outside_of_its_pid_namespace_it_says_that_nothing_can_be_seen";
    if !needs(test, &["root", "unshare"]) {
        return;
    }
    let (place, mut gate) = place(30);
    let run = place
        .command(&["run", "pings.toml"])
        .under(&["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .start();
    run.until_written(10);
    let seen = json(&place);
    assert_eq!(seen["state"], "unseen");
    let dead = |process: &Value| process["state"] == "dead";
    assert!(!seen["processes"].as_array().expect("an array").iter().any(dead), "{seen}");
    assert_verdict(&place, "--healthy", 1, "in its container");
    gate.open();
    run.wait_for(Duration::from_secs(60)).assert_exit(0);
}

#[test]
fn a_read_only_file_system_is_no_hindrance() {
    let test = "a_read_only_file_system_is_no_hindrance";
    if !needs(test, &["root", "unshare"]) {
        return;
    }
    let (place, mut gate) = place(30);
    let run = start(&place);
    let script = "mount --bind . . && mount -o remount,ro,bind . && cd \"$PWD\" && \
                  ! touch here 2>/dev/null && exec \"$@\"";
    let look = place.command(&["status", "--json", "--sample", "0s", "pings.toml"]);
    let look = look.under(&["unshare", "--mount", "sh", "-c", script, "sh"]).finish();
    look.assert_exit_beside(0);
    assert!(look.stdout.contains("\"state\":\"running\""), "{}", look.stdout);
    gate.open();
    run.wait().assert_exit(0);
}
