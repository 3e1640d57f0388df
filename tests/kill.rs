//! Any process killed by force, at any instant: nothing published is lost, nothing is doubled.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use support::{Balance, Place, Process, Running, Seed, Signal, example};

/// Runs with kills in them. More by PROCSIG_TEST_KILLS.
const RUNS: u64 = 40;

/// Jobs of a list, and records of each producer.
const JOBS: usize = 2000;
const RECORDS: u64 = 30_000;

fn runs() -> u64 {
    match std::env::var("PROCSIG_TEST_KILLS") {
        Ok(text) => text.parse().expect("PROCSIG_TEST_KILLS is a number"),
        Err(_) => RUNS,
    }
}

/// Whom to kill.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Child,
    Main,
    All,
}

fn victim(seed: &mut Seed) -> Victim {
    match seed.below(8) {
        0 => Victim::Main,
        1 => Victim::All,
        _ => Victim::Child,
    }
}

/// Kills, at a random instant within `span`; says whether main is among the dead.
fn kill(run: &Running<'_>, seed: &mut Seed, span: Duration) -> bool {
    std::thread::sleep(seed.time_below(span));
    let all = run.of_program();
    let Some((main, children)) = all.split_first() else { return true };
    let send = |process: &Process| {
        if let Some(handle) = process.handle() {
            handle.send(Signal::KILL);
        }
    };
    match victim(seed) {
        Victim::Main => send(main),
        Victim::All => all.iter().for_each(send),
        Victim::Child => {
            if let Some(child) = children.get(seed.below(children.len() as u64) as usize) {
                send(child);
            }
            return false;
        }
    }
    true
}

/// Starts it, kills some of it now and then, and starts it again when main is dead, until a run
/// ends by itself. Returns the kills.
fn run_with_kills(place: &Place, arguments: &[&str], seed: &mut Seed, span: Duration) -> u32 {
    let mut kills = 0;
    let planned = 1 + seed.below(5) as u32;
    loop {
        let run = place.command(arguments).start();
        let mut dead = false;
        while kills < planned && !dead && !run.has_ended() {
            dead = kill(&run, seed, span);
            kills += 1;
        }
        let ended = run.wait();
        if ended.signal.is_some() {
            continue;
        }
        let balance = Balance::of(&ended.log());
        balance.assert_even();
        if ended.code == Some(1) && balance.kept > 0 {
            // A buffer is started only once more during a stop, and that one was killed as well:
            // what it held is in the spool, for the next start.
            ended.assert_nothing_left();
            continue;
        }
        ended.assert_exit(0);
        assert_eq!(balance.kept, 0);
        return kills;
    }
}

#[track_caller]
fn records(place: &Place) -> Vec<Value> {
    let text = place.read("out.jsonl");
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn whoever_is_killed_each_job_has_its_result_once() {
    let mut seed = Seed::new();
    let mut kills = 0;
    for _ in 0..runs() {
        let place = Place::of(example("test_pipelines"));
        let jobs = place.jobs(JOBS);
        kills += run_with_kills(&place, &["slow", "2"], &mut seed, Duration::from_millis(150));
        let mut seen = vec![0; jobs.len()];
        for record in records(&place) {
            let number = record["number"].as_u64().expect("a number") as usize;
            assert_eq!(record["text"].as_str(), Some(jobs[number - 1].as_str()));
            seen[number - 1] += 1;
        }
        let wrong: Vec<usize> = (1..=jobs.len()).filter(|number| seen[number - 1] != 1).collect();
        assert!(wrong.is_empty(), "jobs with no result, or with two: {wrong:?}");
    }
    eprintln!("{kills} kills");
    assert!(kills as u64 > runs(), "hardly anything was killed: {kills}");
}

#[test]
fn whoever_is_killed_records_of_each_producer_are_whole_in_order_and_written_once() {
    let mut seed = Seed::new();
    let mut kills = 0;
    for _ in 0..runs() {
        let place = Place::of(example("test_pipelines"));
        let records_each = RECORDS.to_string();
        let arguments = ["burst", &records_each, "2"];
        kills += run_with_kills(&place, &arguments, &mut seed, Duration::from_millis(60));
        // Each process counts from 1; one that was killed stops somewhere, the last ones of each
        // of the two lanes don't.
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        for record in records(&place) {
            let process = record["text"].as_str().expect("a text").to_owned();
            let number = record["number"].as_u64().expect("a number");
            let before = last.insert(process.clone(), number).unwrap_or(0);
            assert_eq!(number, before + 1, "the records of process {process}");
        }
        let whole = last.values().filter(|count| **count == RECORDS).count();
        assert!(whole >= 2, "both producers came to their end: {last:?}");
    }
    eprintln!("{kills} kills");
    assert!(kills as u64 > runs(), "hardly anything was killed: {kills}");
}

/// A job that ends its worker fails after three deaths alone; all others have their result.
#[track_caller]
fn assert_only_the_poison_has_failed(place: &Place, jobs: &[String], poison: &str, death: &str) {
    let records = records(place);
    assert_eq!(records.len(), jobs.len());
    let (failed, done): (Vec<&Value>, Vec<&Value>) =
        records.iter().partition(|record| record["ok"] == false);
    assert_eq!(done.len(), jobs.len() - 1);
    let [failed] = failed[..] else { panic!("{} jobs have failed", failed.len()) };
    assert_eq!(failed["job"].as_str(), Some(poison));
    let error = failed["error"].as_str().expect("a reason");
    assert!(error.contains("died 3 times") && error.contains(death), "{error}");
}

#[test]
fn a_function_that_aborts_its_worker_fails_alone_after_three_deaths() {
    for (how, death) in [("abort", "SIGABRT"), ("exit", "exit code 0")] {
        let place = Place::of(example("test_pipelines"));
        let jobs = place.jobs(40);
        let ended = place.command(&["poison", how]).start().wait();
        ended.assert_exit(3);
        assert_only_the_poison_has_failed(&place, &jobs, "job-13", death);
    }
}

#[test]
fn a_command_that_kills_its_worker_fails_alone_after_three_deaths() {
    let place = Place::new();
    let jobs = place.jobs(40);
    let script = "[ $1 = job-7 ] && kill -9 $PPID; sleep 0.01";
    let options = ["--jobs", "jobs.txt", "-P", "2", "-j", "4"];
    let ended = place.run(&options, &["sh", "-c", script, "sh", "{}"]).start().wait();
    ended.assert_exit(3);
    assert_only_the_poison_has_failed(&place, &jobs, "job-7", "SIGKILL");
}

#[test]
fn another_number_of_workers_or_jobs_goes_on_with_what_is_kept() {
    let place = Place::new();
    let jobs = place.jobs(300);
    place.work_script("sleep 0.002");
    let shapes = [
        ["-P", "2", "-j", "2"],
        ["-P", "5", "-j", "1"],
        ["-P", "1", "-j", "3"],
        ["-P", "3", "-j", "2"],
    ];
    let mut seed = Seed::new();
    for shape in shapes {
        let run = place.run_work(&shape).start();
        let before = place.started().len();
        run.until_started((before + 20).min(jobs.len()));
        // In order, or by force: with records in the lanes that no buffer has written.
        match seed.below(2) {
            0 => run.signal(Signal::TERM),
            _ => run.of_program().iter().filter_map(Process::handle).for_each(|handle| {
                handle.send(Signal::KILL);
            }),
        }
        run.wait();
    }
    place.run_work(&["-P", "4", "-j", "4"]).start().wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}
