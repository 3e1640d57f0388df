//! The library, by programs that use it.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use support::{Balance, Ended, Place, Signal, example};

fn pipelines() -> Place {
    Place::of(example("test_pipelines"))
}

/// The records of the output, in order.
#[track_caller]
fn records(place: &Place) -> Vec<Value> {
    let text = place.read("out.jsonl");
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn numbers(place: &Place) -> Vec<u64> {
    records(place).iter().map(|record| record["number"].as_u64().expect("a number")).collect()
}

#[track_caller]
fn run(place: &Place, arguments: &[&str]) -> Ended {
    place.command(arguments).start().wait()
}

#[test]
fn a_producer_that_does_not_stop_is_killed_before_the_reserve_and_what_it_published_is_written() {
    let place = pipelines();
    let running = place.command(&["stubborn"]).start();
    running.until_written(1000);
    running.signal(Signal::TERM);
    let ended = running.wait();
    ended.assert_exit(4);
    assert_eq!(numbers(&place), (1..=1000).collect::<Vec<u64>>());
    let log = ended.log();
    let at = |text: &str| {
        let line = log.iter().position(|line| line.message.contains(text));
        line.unwrap_or_else(|| panic!("no {text:?} in the log\n{}", ended.describe()))
    };
    assert!(at("stopping workers (1)") < at("killing workers (1)"));
    assert!(at("killing workers (1)") < at("stopping buffer"));
    assert!(at("stopping buffer") < at("stopped: 1000 records written"));
}

#[test]
fn run_in_a_process_with_threads_is_an_error_that_says_what_to_do() {
    let place = pipelines();
    let ended = run(&place, &["threaded"]);
    ended.assert_exit(1);
    assert!(ended.stderr.contains("single thread"), "{}", ended.describe());
    assert!(ended.stderr.contains("call `run` before"), "{}", ended.describe());
    assert!(place.files().is_empty(), "nothing was touched: {:?}", place.files());
}

#[test]
fn a_declaration_that_makes_no_sense_is_refused_before_anything_is_touched() {
    let place = pipelines();
    let ended = run(&place, &["nothing-to-do"]);
    ended.assert_exit(78);
    assert!(ended.stderr.contains("no worker takes them"), "{}", ended.describe());
    assert!(place.files().is_empty(), "nothing was touched: {:?}", place.files());
}

/// Memory of its own that no process may exceed, however long the list is. What is mapped of the
/// spool is shared, and bounded by its size.
const PRIVATE_KIB_MAX: u64 = 16 << 10;

/// Memory of a process that is its own.
fn private_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

#[test]
fn a_hundred_thousand_jobs_through_a_function_each_have_one_result_in_flat_memory() {
    let place = pipelines();
    let jobs = place.jobs(100_000);
    let running = place.command(&["noop", "4"]).start();
    let mut most = 0;
    while !running.has_ended() {
        most =
            most.max(running.of_program().iter().map(|it| private_kib(it.pid)).max().unwrap_or(0));
    }
    running.wait().assert_exit(0);
    assert!(most > 0, "no process was looked at");
    assert!(most < PRIVATE_KIB_MAX, "a process has grown to {most} KiB");
    let mut by_number = BTreeMap::new();
    for record in records(&place) {
        let number = record["number"].as_u64().expect("a number");
        let text = record["text"].as_str().expect("a text").to_owned();
        assert!(by_number.insert(number, text).is_none(), "job {number} has two results");
    }
    assert_eq!(by_number.len(), jobs.len());
    for (number, job) in (1..).zip(&jobs) {
        assert_eq!(by_number.get(&number), Some(job));
    }
}

#[test]
fn records_of_a_producer_are_written_once_and_in_its_order() {
    let place = pipelines();
    let ended = run(&place, &["burst", "200000", "3"]);
    ended.assert_exit(0);
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    for record in records(&place) {
        let process = record["text"].as_str().expect("a text").to_owned();
        let last = next.entry(process).or_default();
        *last += 1;
        assert_eq!(record["number"].as_u64(), Some(*last));
    }
    assert_eq!(next.into_values().collect::<Vec<_>>(), [200_000; 3]);
    let balance = Balance::of(&ended.log());
    assert_eq!((balance.published, balance.written), (600_000, 600_000));
}

#[test]
fn a_job_that_fails_leaves_none_of_its_records_and_one_failure() {
    let place = pipelines();
    place.write("jobs.txt", "good\nerror\npanic\nsecond\n");
    let ended = run(&place, &["faulty"]);
    ended.assert_exit(3);
    let records = records(&place);
    let texts: Vec<&str> = records.iter().filter_map(|record| record["text"].as_str()).collect();
    let mut sorted = texts.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["half of good", "half of second", "rest of good", "rest of second"]);
    let failure = |job: &str| {
        let mut all = records.iter().filter(|record| record["job"] == job);
        let found = all.next().unwrap_or_else(|| panic!("no failure of {job}"));
        assert!(all.next().is_none(), "{job} has failed once");
        assert_eq!((found["ok"].as_bool(), found["attempt"].as_u64()), (Some(false), Some(2)));
        found["error"].as_str().expect("an error").to_owned()
    };
    assert_eq!(failure("error"), "went wrong");
    assert_eq!(failure("panic"), "panicked: lost its head");
    let balance = Balance::of(&ended.log());
    assert_eq!((balance.done, balance.failed, balance.left), (2, 2, 0));
}

#[test]
fn a_record_of_the_largest_size_is_whole_and_a_larger_one_fails_its_job_alone() {
    let place = pipelines();
    let lengths: Vec<usize> = (8000..8192).chain([0, 1, 100_000]).collect();
    let list: Vec<String> = lengths.iter().map(ToString::to_string).collect();
    place.write("jobs.txt", list.join("\n"));
    let ended = run(&place, &["narrow"]);
    ended.assert_exit(3);
    let (mut whole, mut failed) = (Vec::new(), Vec::new());
    for record in records(&place) {
        match record.as_str() {
            Some(text) => whole.push(text.len()),
            None => {
                let error = record["error"].as_str().expect("an error");
                assert!(error.contains("raise [spool] lane"), "{error}");
                assert_eq!(record["attempt"], 1, "another attempt would come to the same");
                failed.push(record["job"].as_str().and_then(|job| job.parse().ok()).expect("job"));
            }
        }
    }
    whole.sort_unstable();
    failed.sort_unstable();
    let largest = *whole.last().expect("some fit");
    assert!(failed.iter().all(|length: &usize| *length > largest));
    assert_eq!(whole.len() + failed.len(), lengths.len());
    assert!(largest > 8000 && failed.len() > 1, "the limit was reached: {largest}");
}

#[test]
fn the_threshold_of_records_counts_over_all_lanes() {
    let place = pipelines();
    let running = place.command(&["late-flush", "records"]).start();
    running.until_written(10);
    running.signal(Signal::TERM);
    running.wait().assert_exit(0);
    assert_eq!(records(&place).len(), 10);
}

#[test]
fn the_threshold_of_bytes_is_a_reason_to_flush() {
    let place = pipelines();
    let running = place.command(&["late-flush", "bytes"]).start();
    // Of some 60 bytes each in the lanes; the rest is written at stop.
    running.until_written(2);
    running.signal(Signal::TERM);
    running.wait().assert_exit(0);
    assert_eq!(records(&place).len(), 10);
}

#[test]
fn a_child_that_can_not_be_kept_running_ends_the_pipeline_with_1_and_its_cause() {
    let place = pipelines();
    let ended = run(&place, &["crashing-producer"]);
    ended.assert_exit(1);
    assert!(ended.stderr.contains("the other side has hung up"), "{}", ended.describe());
    assert!(ended.stderr.contains("died too often"), "{}", ended.describe());
    assert_eq!(numbers(&place), [1, 1, 1], "one of each start");
}

#[test]
fn two_runs_in_one_process_follow_each_other() {
    let place = pipelines();
    let ended = run(&place, &["again"]);
    ended.assert_exit(0);
    assert_eq!(numbers(&place), [1, 1]);
}

#[test]
fn the_example_graceful_stop_stops_the_producer_before_the_buffer_with_every_tick_written() {
    let place = Place::of(example("graceful_stop"));
    let running = place.command(&["out.jsonl", "1"]).start();
    running.until_written(3);
    running.signal(Signal::INT);
    let ended = running.wait();
    ended.assert_exit(0);
    let ticks: Vec<u64> = records(&place).iter().filter_map(|tick| tick["tick"].as_u64()).collect();
    assert_eq!(ticks, (0..ticks.len() as u64).collect::<Vec<_>>());
    let balance = Balance::of(&ended.log());
    assert_eq!((balance.published, balance.written), (ticks.len() as u64, ticks.len() as u64));
}

#[test]
fn the_example_custom_worker_counts_what_wc_counts() {
    let place = Place::of(example("custom_worker"));
    place.write("a.txt", "one two\nthree\n");
    place.write("b.txt", "");
    place.write("jobs.txt", "a.txt\nb.txt\nmissing.txt\n");
    let ended = run(&place, &["jobs.txt", "out.jsonl"]);
    ended.assert_exit(3);
    let records = records(&place);
    let counts = |file: &str| {
        let found = records.iter().find(|record| record["file"] == file).expect("its counts");
        ["lines", "words", "bytes"].map(|what| found[what].as_u64().expect("a count"))
    };
    assert_eq!(counts("a.txt"), [2, 3, 14]);
    assert_eq!(counts("b.txt"), [0, 0, 0]);
    let missing = records.iter().find(|record| record["job"] == "missing.txt").expect("failure");
    assert!(missing["error"].as_str().is_some_and(|error| error.contains("No such file")));
}

#[test]
fn many_producers_that_finish_at_once_are_each_run_once() {
    for _ in 0..5 {
        let place = pipelines();
        let ended = run(&place, &["burst", "1", "40"]);
        ended.assert_exit(0);
        assert_eq!(numbers(&place), [1; 40]);
        assert!(!ended.stderr.contains("again in"), "{}", ended.describe());
    }
}

#[test]
fn typed_records_are_read_back_as_their_type_and_a_failure_is_said_in_the_log() {
    let place = pipelines();
    let jobs = place.jobs(50);
    let ended = run(&place, &["typed"]);
    ended.assert_exit(3);
    let mut lines: Vec<&str> = ended.stdout.lines().collect();
    lines.sort_unstable();
    let expected = (1..).zip(&jobs).filter(|(seq, _)| *seq != 7);
    let mut expected: Vec<String> = expected.map(|(seq, job)| format!("{seq} {job}")).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    assert!(ended.stderr.contains("has failed (attempt 1): seven"), "{}", ended.describe());
}

#[test]
fn with_hardly_any_slots_nobody_waits_for_one_who_waits_for_him() {
    // Many jobs: whoever must be seen to lie down at the wrong moment does so once in some 100,000.
    for (slots, jobs) in [(1, 100_000), (3, 20_000)] {
        let place = Place::of(example("test_pipelines"));
        let jobs = place.jobs(jobs);
        place.command(&["few-slots", &slots.to_string()]).finish().assert_exit(0);
        let numbers: Vec<u64> =
            place.read("out.jsonl").lines().map(|line| line.parse().expect("a number")).collect();
        let expected: Vec<u64> = (1..=jobs.len() as u64).collect();
        assert!(numbers == expected, "{} numbers, not in order or not all", numbers.len());
    }
}

#[test]
fn a_csv_file_without_columns_or_with_one_twice_is_refused() {
    for columns in [vec![], vec!["job", "job"]] {
        let outcome = procsig::Pipeline::new("csv")
            .producer("none", |_: &procsig::Stop, _: &mut procsig::Emitter<String>| Ok(()))
            .sink(procsig::sink::csv("never.csv", columns))
            .run();
        let error = outcome.into_result().expect_err("refused");
        assert_eq!(error.exit_code(), procsig::ExitCode::Config);
        assert!(error.to_string().contains("none of them twice"), "{error}");
    }
}
