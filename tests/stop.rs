//! `stop` and `timeline`: asked of runs that are busy, hung, frozen, killed and over.

mod support;

use std::time::Duration;
use support::place::{Gate, OUTPUT, SPOOL};
use support::{Ended, Place, Process, Running, Seed, Signal, needs};

/// So many that they are not done before a `stop` gets its turn.
const MANY: usize = 4000;

/// Two processes of two threads.
const IN_HAND: usize = 4;

/// A place whose jobs do `body`.
fn place(body: &str, tables: &str) -> Place {
    let place = Place::new();
    place.jobs(200);
    place.work_script(body);
    place.config(tables);
    place
}

/// A place of which all jobs wait at a gate.
fn gated(tables: &str) -> (Place, Gate) {
    let place = place(": < gate", tables);
    let gate = place.gate();
    (place, gate)
}

/// Starts it, and waits until all threads have a job in hand.
fn start(place: &Place) -> Running<'_> {
    let run = place.start();
    run.until_started(IN_HAND);
    run
}

fn timeline(place: &Place) -> String {
    let ended = place.command(&["timeline", "pings.toml"]).finish();
    ended.assert_exit_beside(0);
    // However long its lines are.
    ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Waits until a command has said this.
#[track_caller]
fn until_said(command: &Running, text: &str) {
    command.until(text, |command| command.stdout().contains(text).then_some(()));
}

/// These stand in the text, in this order.
#[track_caller]
fn assert_in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let (_, behind) = rest
            .split_once(part)
            .unwrap_or_else(|| panic!("{part:?} is not there, or early:\n{text}"));
        rest = behind;
    }
}

#[test]
fn a_spool_of_another_user_than_the_process_it_names_stops_nobody() {
    // Only root can give a spool away.
    if !needs("a_spool_of_another_user_than_the_process_it_names_stops_nobody", &["root"]) {
        return;
    }
    let place = place("sleep 0.05", "");
    place.jobs(MANY);
    let run = start(&place);
    let own = |user| std::os::unix::fs::chown(place.path(SPOOL), Some(user), None).expect("chown");
    own(65534);
    let refused = place.command(&["stop", "pings.toml"]).finish();
    refused.assert_exit_beside(1);
    assert!(refused.stderr.contains("belongs to user 65534"), "{}", refused.stderr);
    own(0);
    let stop = place.command(&["stop", "pings.toml"]).finish();
    stop.assert_exit_beside(5);
    assert!(stop.stdout.contains("stopping pings"), "it was not asked before: {}", stop.stdout);
    run.wait().assert_exit(5);
}

#[test]
fn stop_of_a_busy_pipeline_shows_the_order_and_exits_as_the_daemon_did() {
    let place = place("sleep 0.05", "");
    place.jobs(MANY);
    let run = start(&place);
    let stop = place.command(&["stop", "pings.toml"]).finish();
    stop.assert_exit_beside(5);
    run.wait().assert_exit(5);
    let order = [
        "stopping pings (pid ",
        "supervisor stop requested: signal",
        "source told to stop",
        "source exited: exit code 0",
        "worker ping/0 told to stop",
        "buffer told to stop",
        "buffer exited: exit code 0",
        "supervisor done: exit code 5",
        " published + 0 kept before = ",
        "stopped, exit code 5",
    ];
    assert_in_order(&stop.stdout, &order);
    let why = "exit code 5: the list is not finished";
    let rows = [why, "source", "worker ping/0", "worker ping/1", "buffer", "supervisor"];
    assert_in_order(&timeline(&place), &rows);
}

#[test]
fn a_job_that_hangs_is_named_while_it_is_waited_for_and_its_kill_is_in_the_story() {
    let (place, _gate) = gated("[shutdown]\ndeadline = \"4s\"\nflush_reserve = \"1s\"\n");
    let run = start(&place);
    let stop = place.command(&["stop", "pings.toml"]).finish();
    stop.assert_exit_beside(4);
    let ended = run.wait();
    ended.assert_exit(4);
    let waiting = ended.log().into_iter().find(|line| line.message.starts_with("waiting for "));
    let waiting = waiting.expect("after two seconds it is said").message;
    let says =
        [" (pid ", ", job ", " for ", " s: job-", "; and 1 more)", "buffer (pid ", " s left"];
    assert_in_order(&waiting, &says);
    let killing = ended.log().into_iter().find(|line| line.message.starts_with("killing "));
    let killing = killing.expect("it is said").message;
    let says =
        ["killing workers (2): worker ping/0 (pid ", ", job ", " s: job-", "their jobs stay"];
    assert_in_order(&killing, &says);
    let killed = "ping/0 killed: to leave time for the flush";
    assert_in_order(&stop.stdout, &["waiting for worker ping/0, worker ping/1; ", killed]);
    let parts = ["exit code 4", "worker ping/0: killed: to leave time", "200 left"];
    assert_in_order(&timeline(&place), &parts);
}

#[test]
fn a_stop_that_is_under_way_is_watched_and_nobody_is_killed_for_it() {
    let (place, mut gate) = gated("");
    let run = start(&place);
    run.signal(Signal::TERM);
    run.until_logged("stopping workers");
    assert!(timeline(&place).contains("the stop is under way for"));
    // Longer ago than signals count as one.
    std::thread::sleep(Duration::from_millis(400));
    let stop = place.command(&["stop", "pings.toml"]).start();
    until_said(&stop, "is being stopped already");
    // Long enough for a signal of its own to be heard.
    std::thread::sleep(Duration::from_millis(400));
    gate.open();
    stop.wait().assert_exit_beside(5);
    run.wait().assert_exit(5);
}

#[test]
fn where_nothing_runs_stop_says_how_it_ended_and_exits_with_0() {
    let place = place("true", "");
    let never = place.command(&["stop", "pings.toml"]).finish();
    never.assert_exit(0);
    assert!(never.stdout.contains("nothing was run with it yet"), "{}", never.stdout);
    place.command(&["stop", SPOOL]).finish().assert_exit(74);
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    let stop = place.command(&["stop", "pings.toml"]).finish();
    stop.assert_exit(0);
    assert!(stop.stdout.contains("ended with exit code 0"), "{}", stop.stdout);
    // Of a spool that was cut down to its books the story is still there.
    assert_in_order(&timeline(&place), &["when all jobs were done", "in order", "200 done"]);
}

#[test]
fn of_a_run_whose_spool_was_removed_stop_names_the_supervisor_and_how_to_stop_it() {
    let (place, mut gate) = gated("");
    let run = start(&place);
    std::fs::remove_file(place.path(SPOOL)).expect("removed");
    for spool in ["pings.toml", SPOOL, OUTPUT] {
        let stop = place.command(&["stop", spool]).finish();
        stop.assert_exit_beside(1);
        let told = format!("kill -TERM {}. It writes the spool", run.supervisor().pid);
        assert!(stop.stderr.contains(&told), "{}", stop.stderr);
    }
    run.signal(Signal::TERM);
    run.until_logged("stopping workers");
    gate.open();
    run.wait().assert_exit(5);
    let stop = place.command(&["stop", SPOOL]).finish();
    stop.assert_exit(0);
    assert!(stop.stdout.contains("ended with exit code 5"), "{}", stop.stdout);
}

#[test]
fn what_a_killed_supervisor_has_left_is_waited_for() {
    let (place, mut gate) = gated("");
    let run = start(&place);
    let main = run.supervisor().handle().expect("main");
    run.signal(Signal::KILL);
    assert!(main.wait(support::WATCHDOG));
    let stop = place.command(&["stop", "pings.toml"]).start();
    let ended = run.wait_for_main();
    assert_eq!(ended.signal, Some(Signal::KILL.as_raw()));
    until_said(&stop, "the supervisor was killed; ");
    gate.open();
    let stop = stop.wait();
    stop.assert_exit(4);
    assert_in_order(&stop.stdout, &["the supervisor was killed; ", "all processes have ended"]);
    place.command(&["stop", "pings.toml"]).finish().assert_exit(0);
}

#[test]
fn a_frozen_supervisor_is_said_and_not_killed_and_stops_when_it_is_woken() {
    let place = place("sleep 0.5", "");
    let run = start(&place);
    run.signal(Signal::STOP);
    let stop = place.command(&["stop", "pings.toml", "--timeout", "3s"]).finish();
    stop.assert_exit_beside(1);
    assert!(stop.stdout.contains("is frozen by SIGSTOP"), "{}", stop.stdout);
    assert!(stop.stderr.contains("kill -CONT"), "{}", stop.stderr);
    run.signal(Signal::CONT);
    run.wait().assert_exit(5);
}

#[test]
fn an_interrupted_stop_command_says_so_and_the_stop_goes_on() {
    let (place, mut gate) = gated("");
    let run = start(&place);
    let stop = place.command(&["stop", "pings.toml"]).start();
    run.until_logged("stopping workers");
    let command = Process::read(stop.pid()).and_then(|it| it.handle()).expect("the command");
    // As Ctrl-C, which whoever runs the tests in the background has ignored.
    assert!(command.send(Signal::TERM));
    let stop = stop.wait();
    stop.assert_exit_beside(1);
    assert!(stop.stderr.contains("the stop itself goes on"), "{}", stop.stderr);
    gate.open();
    run.wait().assert_exit(5);
}

#[test]
fn whenever_main_is_killed_in_a_stop_there_is_a_timeline_of_what_was_noted() {
    let mut seed = Seed::new();
    for _ in 0..20 {
        let place = place("sleep 0.03", "");
        let run = start(&place);
        let main = run.supervisor().handle().expect("main");
        run.signal(Signal::TERM);
        std::thread::sleep(seed.time_below(Duration::from_millis(80)));
        // It may have been faster.
        main.send(Signal::KILL);
        let ended: Ended = run.wait_for_main();
        let text = timeline(&place);
        assert!(
            text.contains("supervisor") || text.contains("was killed before any stop"),
            "{text}"
        );
        assert!(!text.contains("can't be read"), "{text}\n{}", ended.describe());
        let json = place.command(&["timeline", "--json", "pings.toml"]).finish();
        let json: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert_eq!(json["events_damaged"], 0);
        place.command(&["stop", "-q", "pings.toml"]).finish();
    }
}

#[test]
fn reading_writes_nothing_and_needs_no_permission_to_write() {
    let place = place("true", "");
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    let spool = place.path(SPOOL);
    let before = std::fs::read(&spool).expect("the spool");
    let modified = || std::fs::metadata(&spool).and_then(|it| it.modified()).expect("a time");
    let since = modified();
    for options in [&["timeline"][..], &["timeline", "--json"], &["stop"]] {
        place.command(&[options, &["pings.toml"]].concat()).finish().assert_exit(0);
    }
    place.command(&["timeline", "-o", "stop.svg", "pings.toml"]).finish().assert_exit(0);
    assert!(place.read("stop.svg").contains("<title>pings: stopped when all jobs were done"));
    assert_eq!(std::fs::read(&spool).expect("the spool"), before);
    assert_eq!(modified(), since);
}
