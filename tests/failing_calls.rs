//! Every system call of the buffer that can fail, failing with each of four errors: no record is lost
//! or doubled by it, nothing hangs, and what is said says what to do.
//!
//! The calls are those of a run that nobody disturbs, counted by name in the buffer's first thread and
//! in its others. In each of the runs that follow one of them fails once. If the run has not come to
//! its end, it is started again, with the fault gone, and does.
//!
//! What became of all of them is written as a table, one for each test, to cargo's directory for
//! tests (`target/tmp`); the last ones are kept as `tests/failing_calls.md`. By default a part is
//! taken, the seed's choice; PROCSIG_TEST_SWEEP=all takes all, a number N every Nth.

#![cfg(target_arch = "x86_64")]

mod support;

use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Mutex;
use support::inject::{Call, Fate, Traced, Tracing};
use support::place::{OUTPUT, SPOOL, is_rotated};
use support::{Balance, Ended, Line, Place, Seed, example, log};

const ERRORS: [Errno; 4] = [Errno::EIO, Errno::ENOSPC, Errno::EINTR, Errno::EAGAIN];
const JOBS: usize = 16;
const DEAD: &str = "dead.jsonl";
/// So many points of each pipeline by default.
const SAMPLE: usize = 40;

/// They don't return, or never fail.
const CAN_NOT_FAIL: [&str; 9] = [
    "exit",
    "exit_group",
    "getpid",
    "getppid",
    "gettid",
    "restart_syscall",
    "rseq",
    "rt_sigreturn",
    "set_robust_list",
];

/// What runs.
struct Scene {
    name: &'static str,
    arguments: &'static [&'static str],
    /// What a run exits with that has come to its end.
    complete: i32,
    /// It is started where everything was killed in the middle of a batch.
    recovers: bool,
}

const ALWAYS: Scene =
    Scene { name: "synced always", arguments: &["durable"], complete: 0, recovers: false };
/// The output is set aside again and again.
const ROTATED: Scene = Scene { name: "rotated", arguments: &["durable", "rotated"], ..ALWAYS };
const SOMETIMES: Scene =
    Scene { name: "synced at last", arguments: &["lossy-jobs", "60000"], ..ALWAYS };
/// Every third job fails.
const DEAD_LETTERS: Scene =
    Scene { name: "dead letters", arguments: &["durable", "dead"], complete: 3, ..ALWAYS };
const RECOVERY: Scene = Scene { name: "recovery", recovers: true, ..ALWAYS };

fn place() -> Place {
    let place = Place::of(example("test_pipelines"));
    place.jobs(JOBS);
    place
}

impl Scene {
    fn place(&self) -> Place {
        if !self.recovers {
            return place();
        }
        // The buffer's first calls of this name are to the output. On a busy machine the first batch
        // may be the last.
        loop {
            let place = place();
            let second = Call { first_thread: true, name: "write", number: 2 };
            let doomed = Some((second, Fate::LastOfAll));
            let (run, tracing) = Tracing::start(place.command(self.arguments), doomed);
            run.wait_for_main();
            let (_, text) = (tracing.end(), place.read(OUTPUT));
            if text.lines().count() >= 2 && !text.ends_with('\n') {
                return place;
            }
        }
    }
}

/// Runs it with this call failing.
fn run(place: &Place, arguments: &[&str], doomed: Option<(Call, Fate)>) -> (Ended, Traced) {
    let (run, tracing) = Tracing::start(place.command(arguments), doomed);
    let ended = run.wait();
    (ended, tracing.end())
}

/// The records of the output and the dead letters, sorted.
fn records(place: &Place, ended: &Ended) -> Vec<u64> {
    let dead = place.read(DEAD);
    let text = place.everything() + &dead;
    assert!(text.is_empty() || text.ends_with('\n'), "torn: {text}\n{}", ended.describe());
    let number = |line: &str| {
        let record: serde_json::Value = serde_json::from_str(line).ok()?;
        record["number"].as_u64().or_else(|| record["seq"].as_u64())
    };
    let number = |line| number(line).unwrap_or_else(|| panic!("{line:?}\n{}", ended.describe()));
    let dead: Vec<u64> = dead.lines().map(number).collect();
    assert!(dead.iter().all(|seq| seq % 3 == 0), "{dead:?}\n{}", ended.describe());
    let mut numbers: Vec<u64> = text.lines().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// What an undisturbed run writes.
fn expected(arguments: &[&str]) -> Vec<u64> {
    let jobs = 1..=JOBS as u64;
    match arguments[0] {
        "durable" => jobs.collect(),
        _ => jobs.flat_map(|seq| (0..1 + seq % 2).map(move |part| 2 * seq + part)).collect(),
    }
}

/// One row of the table.
#[derive(Debug, Default)]
struct Row {
    tried: usize,
    /// How often it ended so: with this code, after so many deaths of a buffer.
    ends: BTreeMap<(i32, usize), usize>,
    /// What was said of it, numbers taken out.
    said: BTreeSet<String>,
}

type Table = BTreeMap<(&'static str, &'static str), Row>;

/// What was said above the level of information.
fn said(log: &[Line]) -> Vec<String> {
    let lines = log.iter().filter(|line| ["ERROR", "WARN"].contains(&line.level.as_str()));
    lines.map(|line| line.message.clone()).collect()
}

/// The log, without what Rust's runtime says of a process that it aborts: in pieces, between which
/// lines of others can stand.
fn log_of(ended: &Ended) -> Vec<Line> {
    const ABORTED: &str = "fatal runtime error: failed to initiate panic, error 5, aborting";
    let own = |line: &str| {
        let begin = (0..line.len()).find(|at| line.get(*at..).and_then(Line::parse).is_some());
        let (foreign, own) = line.split_at(begin.unwrap_or(line.len()));
        let known = ABORTED.contains(foreign) || foreign.starts_with("memory alloc");
        assert!(known, "who says this? {foreign:?}\n{}", ended.describe());
        Line::parse(own)
    };
    ended.stderr.lines().filter_map(own).collect()
}

/// Says what to do, or that nothing has to be done.
fn says_what_to_do(message: &str) -> bool {
    [
        "start again",
        "start it again",
        "stop it first",
        // The cause stands in the line before.
        " has died: ",
        " again in ",
        // Of jobs, and not of the call.
        "jobs that have failed for good: ",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// Judges one call that has failed. Whatever it comes to, nothing is lost or doubled.
fn judge(scene: &Scene, call: &Call, error: Errno, table: &mut Table) -> bool {
    let Scene { name, arguments, complete, .. } = *scene;
    let place = scene.place();
    let (ended, traced) = run(&place, arguments, Some((call.clone(), Fate::Fails(error))));
    let context = || format!("{call:?} {error:?}: {name}\n{}", ended.describe());
    let Some(code) = ended.code else { panic!("killed: {}", context()) };
    assert!([complete, 1, 4, 74].contains(&code), "{}", context());
    let log = log_of(&ended);
    let said = said(&log);
    // If it has come to its end all the same, nothing has to be done.
    let mute = said.iter().find(|message| code != complete && !says_what_to_do(message));
    assert!(mute.is_none(), "it does not say what to do: {mute:?}\n{}", context());
    let told = said.iter().any(|it| it.contains("start again") || it.contains("stop it first"));
    assert!(code == complete || told, "nothing says what to do: {}", context());
    Balance::of(&log).assert_even();
    log::assert_nothing_out_of_order(&log);
    place.until_all_have_ended();
    if code == complete {
        assert_eq!(records(&place, &ended), expected(arguments), "{}", context());
    } else {
        let mut once = records(&place, &ended);
        once.dedup();
        assert_eq!(records(&place, &ended), once, "{}", context());
        let again = place.command(arguments).finish();
        let both = format!("{}\nand then\n{}", context(), again.describe());
        assert_eq!((again.code, again.signal), (Some(complete), None), "{both}");
        Balance::of(&again.log()).assert_even();
        assert_eq!(records(&place, &again), expected(arguments), "{both}");
    }
    assert_no_stray_file(&place, &context());
    if traced.reached {
        let deaths = ended.stderr.matches(" has died: ").count();
        let row = table.entry((call.name, error_name(error))).or_default();
        row.tried += 1;
        *row.ends.entry((code, deaths)).or_default() += 1;
        row.said.extend(said.iter().filter_map(|message| condensed(message)));
    }
    traced.reached
}

#[track_caller]
fn assert_no_stray_file(place: &Place, context: &str) {
    let mut stray = place.files();
    stray.retain(|name| !is_rotated(name));
    stray.retain(|name| ![OUTPUT, SPOOL, DEAD, "jobs.txt"].contains(&name.as_str()));
    assert!(stray.is_empty(), "{stray:?} {context}");
}

fn error_name(error: Errno) -> &'static str {
    match error {
        Errno::EIO => "EIO",
        Errno::ENOSPC => "ENOSPC",
        Errno::EINTR => "EINTR",
        _ => "EAGAIN",
    }
}

/// A message without what differs from one run or error to the next; nothing of jobs, nor of what
/// follows from the death of a buffer, which is counted.
fn condensed(message: &str) -> Option<String> {
    let others = [" has died: ", " again in ", "jobs that have failed for good: "];
    if others.iter().any(|words| message.contains(words)) {
        return None;
    }
    let mut text = message.replace('|', "/").replace("\\n", " ");
    for error in ERRORS {
        text = text.replace(&std::io::Error::from(error).to_string(), "ERROR");
    }
    let mut short = String::new();
    for letter in text.chars() {
        match letter {
            '0'..='9' if short.ends_with('N') => {}
            '0'..='9' => short.push('N'),
            letter => short.push(letter),
        }
    }
    // A panic's place in Rust's own library says nothing of us.
    let panic =
        short.split_once("stack_overflow.rs:N:N: ").map(|(_, what)| format!("panicked: {what}"));
    Some(panic.unwrap_or(short))
}

/// One row for all errors that came to the same.
fn written(table: &Table) -> String {
    let mut rows: BTreeMap<(&str, String, String), (Vec<&str>, usize)> = BTreeMap::new();
    for ((name, error), row) in table {
        let ends = row.ends.keys().map(|(code, deaths)| match deaths {
            0 => format!("{code}"),
            1 => format!("{code} (another buffer)"),
            _ => format!("{code} ({deaths} more buffers)"),
        });
        let ends: Vec<String> = ends.collect();
        let said: Vec<&str> = row.said.iter().map(String::as_str).collect();
        let said = if said.is_empty() { "nothing".into() } else { said.join("<br>") };
        let (errors, tried) = rows.entry((name, ends.join(", "), said)).or_default();
        errors.push(error);
        *tried += row.tried;
    }
    let mut text = String::new();
    for ((name, ends, said), (errors, tried)) in rows {
        let _ = writeln!(text, "| {name} | {} | {tried} | {ends} | {said} |", errors.join(" "));
    }
    text
}

/// Every how manyeth point is taken, if not only some.
fn every() -> Option<usize> {
    match std::env::var("PROCSIG_TEST_SWEEP").as_deref() {
        Ok("all") => Some(1),
        Ok(number) => Some(number.parse().expect("PROCSIG_TEST_SWEEP: `all`, or a number")),
        Err(_) => None,
    }
}

fn is_all() -> bool {
    every() == Some(1)
}

/// What fails and how, of the calls that an undisturbed run makes.
fn points(scene: &Scene) -> Vec<(Call, Errno)> {
    let mut seed = Seed::new();
    let place = scene.place();
    let (ended, traced) = run(&place, scene.arguments, None);
    assert_eq!((ended.code, ended.signal), (Some(scene.complete), None), "{}", ended.describe());
    let mut calls = traced.calls;
    calls.retain(|call| !CAN_NOT_FAIL.contains(&call.name));
    let names: BTreeSet<&str> = calls.iter().map(|call| call.name).collect();
    eprintln!("{}: {} calls of {} names: {names:?}", scene.name, calls.len(), names.len());
    assert!(calls.len() > 50 && !names.contains("another"), "{names:?}");
    let points = calls.iter().flat_map(|call| ERRORS.map(|error| (call.clone(), error)));
    let mut points: Vec<(Call, Errno)> = points.collect();
    if let Some(every) = every() {
        assert!(every % 2 == 1, "an odd number, so that each error is among them");
        return points.into_iter().step_by(every).collect();
    }
    // In an order of its own, but one of each name first.
    for index in (1..points.len()).rev() {
        points.swap(index, seed.below(index as u64 + 1) as usize);
    }
    let mut seen = BTreeSet::new();
    points.sort_by_key(|(call, _)| !seen.insert(call.name));
    points.truncate(SAMPLE);
    points
}

/// The sweep over one scene.
fn sweep(test: &str, scene: &Scene) {
    let _alone = ALONE.lock();
    let points = points(scene);
    let (mut table, mut wrong, mut reached) = (Table::new(), Vec::new(), 0);
    for (call, error) in &points {
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            judge(scene, call, *error, &mut table)
        }));
        match judged {
            Ok(there) => reached += usize::from(there),
            Err(_) => wrong.push(format!("{call:?} {error:?}")),
        }
    }
    let text = format!(
        "## {}\n\n{reached} of {} points, {} wrong. `cargo test --test failing_calls {test}`\n\n\
         | call | error | times | exit code | what was said |\n| --- | --- | --- | --- | --- |\n{}",
        scene.name,
        points.len(),
        wrong.len(),
        written(&table)
    );
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}.md"));
    std::fs::write(&path, text).expect("write the table");
    eprintln!("{reached} calls have failed; the table is {}", path.display());
    assert!(wrong.is_empty(), "wrong at {} points:\n{}", wrong.len(), wrong.join("\n"));
    assert!(reached * 2 >= points.len(), "{reached} of {} points show nothing", points.len());
}

/// A buffer is killed before this call. Says whether it was.
fn judge_kill(arguments: &[&str], call: &Call) -> bool {
    let place = place();
    let (ended, traced) = run(&place, arguments, Some((call.clone(), Fate::Killed)));
    let context = || format!("{call:?} of {arguments:?}\n{}", ended.describe());
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", context());
    let killed = ended.stderr.contains(" has died: SIGKILL");
    assert_eq!(killed, traced.reached, "{}", context());
    Balance::of(&ended.log()).assert_even();
    let mut once = records(&place, &ended);
    once.dedup();
    if arguments.contains(&"kept") {
        // What is left of it is there once; which files that is, stands elsewhere.
        assert_eq!(records(&place, &ended), once, "{}", context());
        assert!(place.rotated().len() <= 2, "{:?}\n{}", place.files(), context());
    } else {
        assert_eq!(records(&place, &ended), expected(arguments), "{}", context());
    }
    assert_no_stray_file(&place, &context());
    killed
}

#[test]
fn a_buffer_killed_at_any_call_of_compression_and_of_keep_is_replaced_and_no_record_is_lost() {
    let _alone = ALONE.lock();
    let mut seed = Seed::new();
    for arguments in [["durable", "packed"], ["durable", "kept"]] {
        let (ended, traced) = run(&place(), &arguments, None);
        assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", ended.describe());
        let files = ["openat", "rename", "renameat2", "unlink", "fsync", "fchmod", "write", "read"];
        let mut calls = traced.calls;
        calls.retain(|call| files.contains(&call.name));
        let removed = calls.iter().filter(|call| call.name == "unlink").count();
        assert!(removed >= 1, "{arguments:?}: nothing was compressed or removed: {calls:?}");
        calls.retain(|call| is_all() || call.name == "unlink" || seed.below(3) == 0);
        let killed = calls.iter().filter(|call| judge_kill(&arguments, call)).count();
        eprintln!("{arguments:?}: {killed} kills at {} calls", calls.len());
        assert!(killed * 10 >= calls.len() * 5, "{killed} kills show nothing");
    }
}

/// One sweep at a time: each has many processes.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_call_of_the_buffer_that_fails_loses_nothing_with_each_batch_synced() {
    sweep("a_call_of_the_buffer_that_fails_loses_nothing_with_each_batch_synced", &ALWAYS);
}

#[test]
fn a_call_of_the_buffer_that_fails_loses_nothing_in_rotations() {
    sweep("a_call_of_the_buffer_that_fails_loses_nothing_in_rotations", &ROTATED);
}

#[test]
fn a_call_of_the_buffer_that_fails_loses_nothing_with_syncs_now_and_then() {
    sweep("a_call_of_the_buffer_that_fails_loses_nothing_with_syncs_now_and_then", &SOMETIMES);
}

#[test]
fn a_call_of_the_buffer_that_fails_loses_nothing_with_dead_letters() {
    sweep("a_call_of_the_buffer_that_fails_loses_nothing_with_dead_letters", &DEAD_LETTERS);
}

#[test]
fn a_call_of_the_buffer_that_fails_while_it_recovers_loses_nothing() {
    sweep("a_call_of_the_buffer_that_fails_while_it_recovers_loses_nothing", &RECOVERY);
}
