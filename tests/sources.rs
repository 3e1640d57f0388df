//! Jobs that come from something else than a list of lines: what an iterator yields, files that are
//! dropped into a directory, sources of one's own. Whatever is killed, each job has its results once,
//! and its source is told of it, not before they are written and at last of all of them.

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::kills::{Outcome, Story, Tally};
use support::{Ended, Place, Seed, Signal, example};

fn sources() -> Place {
    Place::of(example("test_sources"))
}

/// Numbers and texts of the output.
#[track_caller]
fn records(place: &Place) -> Vec<(u64, String)> {
    let text = place.read("out.jsonl");
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole");
    let record = |line: &str| {
        let value: Value = serde_json::from_str(line).expect("a line of JSON");
        let text = value["text"].as_str().or(value["error"].as_str()).expect("a text");
        (value["number"].as_u64().unwrap_or(0), text.to_owned())
    };
    text.lines().map(record).collect()
}

#[track_caller]
fn run(place: &Place, arguments: &[&str]) -> Ended {
    place.command(arguments).start().wait()
}

/// Kills at random, of anybody and of all, until the plan is used up and a start has come to its end.
fn story(tag: &'static str, place: &Place, arguments: &[&str], tally: &mut Tally, number: u64) {
    let mut story = Story::new(place, tag, number, tally);
    loop {
        let Outcome::Ended(natural) = story.start(place.command(arguments)) else { continue };
        match natural.ended.code {
            Some(0 | 3) => break story.assert_nobody_left(&natural.ended),
            // Told to stop before the end, or nobody was left to flush.
            Some(5) if natural.told => {}
            Some(4) => {}
            Some(1) if natural.buffers >= 2 => {}
            _ => panic!("not the right code\n{}", natural.ended.describe()),
        }
    }
}

const STORIES: u64 = 5;

#[test]
fn items_of_an_iterator_have_one_result_each_whoever_is_killed_whenever() {
    let mut tally = Tally::of("items", true);
    let first = Seed::new();
    for number in first.start()..first.start() + STORIES {
        let place = sources();
        story("items", &place, &["items", "items", "1200", ""], &mut tally, number);
        let mut records = records(&place);
        records.sort();
        let expected: Vec<(u64, String)> =
            (1..=1200).map(|number| (number, format!("item-{number}"))).collect();
        assert!(records == expected, "{} records; seed {number}", records.len());
    }
    assert!(tally.kills() >= 10 * STORIES, "{}", tally.kills());
}

#[test]
fn an_iterator_that_yields_other_items_than_before_is_refused_with_78() {
    let place = sources();
    let running = place.command(&["items", "items", "5000", ""]).start();
    running.until_written(100);
    running.signal(Signal::TERM);
    running.wait().assert_exit(5);
    let ended = run(&place, &["items", "items", "5000", "!"]);
    ended.assert_exit(78);
    assert!(ended.stderr.contains("the items have changed"), "{}", ended.describe());
    assert!(ended.stderr.contains("another spool"), "{}", ended.describe());
    // What was handed out before may have been worked on meanwhile, and nothing else.
    assert!(records(&place).iter().all(|(_, text)| !text.ends_with('!')));
    run(&place, &["items", "items", "5000", ""]).assert_exit(0);
    let numbers: BTreeSet<u64> = records(&place).into_iter().map(|(number, _)| number).collect();
    assert_eq!((records(&place).len(), numbers.len()), (5000, 5000));
    // It was run to its end: now other items are a new list.
    run(&place, &["items", "items", "5", "!"]).assert_exit(0);
    assert_eq!(records(&place).len(), 5005);
}

#[test]
fn items_are_written_as_json() {
    let place = sources();
    run(&place, &["json"]).assert_exit(0);
    let mut records = records(&place);
    records.sort();
    assert_eq!(records.len(), 3);
    assert_eq!(records[1], (2, r#"{"name":"b","size":2}"#.to_owned()));
}

/// Drops a file: written elsewhere, and renamed.
#[track_caller]
fn drop_file(place: &Place, name: impl AsRef<Path>, text: &str) {
    place.write("elsewhere", text);
    std::fs::rename(place.path("elsewhere"), place.path("in").join(name)).expect("renamed");
}

fn directory() -> Place {
    let place = sources();
    std::fs::create_dir(place.path("in")).expect("a directory");
    place
}

/// Names in a folder, and in folders of it.
fn names(place: &Place, folder: &str) -> BTreeSet<OsString> {
    let Ok(entries) = std::fs::read_dir(place.path(folder)) else { return BTreeSet::new() };
    let entries = entries.map(|entry| entry.expect("an entry"));
    entries
        .filter(|it| it.file_type().expect("a type").is_file())
        .map(|it| it.file_name())
        .collect()
}

#[test]
fn files_have_one_result_each_and_are_all_in_done_whoever_is_killed_whenever() {
    const FILES: usize = 500;
    let mut tally = Tally::of("files", true);
    let first = Seed::new();
    for number in first.start()..first.start() + STORIES {
        let place = directory();
        let expected: BTreeSet<String> = (0..FILES).map(|file| format!("file {file}")).collect();
        for name in &expected {
            drop_file(&place, name, name);
        }
        story("files", &place, &["directory-once", "files", "2000"], &mut tally, number);
        let records = records(&place);
        assert_eq!(records.len(), FILES, "seed {number}");
        let texts: BTreeSet<String> = records.into_iter().map(|(_, text)| text).collect();
        assert!(texts == expected, "seed {number}");
        let done: BTreeSet<OsString> = expected.iter().map(OsString::from).collect();
        assert!(names(&place, "in/done") == done, "seed {number}");
        assert!(names(&place, "in").is_empty() && names(&place, "in/failed").is_empty());
    }
    assert!(tally.kills() >= 10 * STORIES, "{}", tally.kills());
}

#[test]
fn a_directory_waits_for_files_and_a_stop_has_moved_all_that_were_done() {
    let place = directory();
    drop_file(&place, "early", "early");
    let running = place.command(&["directory", "files", "0"]).start();
    running.until_written(1);
    drop_file(&place, "late", "late");
    // Written in the directory itself: taken when it is closed.
    place.write("in/written", "written");
    running.until_written(3);
    running.signal(Signal::TERM);
    // Endless: a stop is no failure.
    running.wait().assert_exit(0);
    let expected = ["early", "late", "written"].map(OsString::from);
    assert_eq!(names(&place, "in/done"), BTreeSet::from(expected));
    assert!(names(&place, "in").is_empty());
    let ended = run(&place, &["directory-once", "files", "0"]);
    ended.assert_exit(0);
    assert_eq!(records(&place).len(), 3);
}

#[test]
fn a_file_whose_job_has_failed_is_moved_into_failed() {
    let place = directory();
    drop_file(&place, "good", "good");
    drop_file(&place, "evil", "bad");
    run(&place, &["directory-once", "files", "0"]).assert_exit(3);
    assert_eq!(names(&place, "in/done"), BTreeSet::from(["good".into()]));
    assert_eq!(names(&place, "in/failed"), BTreeSet::from(["evil".into()]));
    let mut texts: Vec<String> = records(&place).into_iter().map(|(_, text)| text).collect();
    texts.sort();
    assert_eq!(texts, ["a bad file", "good"]);
}

#[test]
fn names_of_any_bytes_are_jobs_and_temporary_hidden_and_irregular_ones_are_left_alone() {
    let place = directory();
    let strange = [&b"two\nlines"[..], b" ", b"\xff\xfe", b"a;b 'c' \"d\"", b"-rf"];
    let strange: Vec<OsString> =
        strange.iter().map(|bytes| OsString::from_vec(bytes.to_vec())).collect();
    for name in &strange {
        drop_file(&place, name, "strange");
    }
    for name in [".hidden", "half.tmp", "backup~", "half.part"] {
        drop_file(&place, name, "not to be taken");
    }
    std::fs::create_dir(place.path("in/folder")).expect("a directory");
    std::os::unix::fs::symlink("good", place.path("in/link")).expect("a link");
    drop(place.pipe("in/pipe"));
    run(&place, &["directory-once", "files", "0"]).assert_exit(0);
    assert_eq!(records(&place).len(), strange.len());
    assert_eq!(names(&place, "in/done"), strange.into_iter().collect());
    assert_eq!(names(&place, "in").len(), 4);
}

#[test]
fn a_name_that_is_taken_in_done_gets_a_number_and_nothing_is_overwritten() {
    let place = directory();
    for text in ["one", "two", "three"] {
        drop_file(&place, "same", text);
        run(&place, &["directory-once", "files", "0"]).assert_exit(0);
    }
    let texts: Vec<String> = records(&place).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one", "two", "three"]);
    for (name, text) in [("same", "one"), ("same.1", "two"), ("same.2", "three")] {
        assert_eq!(place.read(&format!("in/done/{name}")), text);
    }
}

#[test]
fn a_file_dropped_under_the_name_of_one_in_hand_is_a_job_of_its_own() {
    let place = directory();
    drop_file(&place, "same", "first");
    // So slow that the second one comes while the first is in hand.
    let running = place.command(&["directory", "files", "500000"]).start();
    running.until("it was read", |_| place.path("reading").exists().then_some(()));
    drop_file(&place, "same", "second");
    running.until_written(2);
    running.signal(Signal::TERM);
    running.wait().assert_exit(0);
    let mut texts: Vec<String> = records(&place).into_iter().map(|(_, text)| text).collect();
    // In whose lane a record is says when it is written.
    texts.sort_unstable();
    assert_eq!(texts, ["first", "second"]);
    // The first was overwritten by who dropped the second.
    assert_eq!(names(&place, "in/done"), BTreeSet::from(["same".into()]));
    assert_eq!(place.read("in/done/same"), "second");
}

/// What the counter has noted of acknowledgements: each of these, and none too early.
#[track_caller]
fn assert_acknowledged(place: &Place, count: u64) -> usize {
    let text = place.read("acknowledged.txt");
    let lines: Vec<&str> = text.lines().collect();
    let numbers: Result<BTreeSet<u64>, _> = lines.iter().map(|line| line.parse()).collect();
    let numbers = numbers.unwrap_or_else(|_| panic!("acknowledged wrongly:\n{text}"));
    let missing: Vec<u64> = (1..=count).filter(|number| !numbers.contains(number)).collect();
    assert!(missing.is_empty(), "not acknowledged: {missing:?}");
    assert_eq!(numbers.len() as u64, count);
    lines.len()
}

#[track_caller]
fn assert_each_once(place: &Place, count: u64) {
    let mut records = records(place);
    records.sort();
    let expected: Vec<(u64, String)> =
        (1..=count).map(|number| (number, format!("job at {}", 10 * number))).collect();
    assert!(records == expected, "{} records of {count}", records.len());
}

#[test]
fn each_job_is_acknowledged_after_its_result_is_written_whoever_is_killed_whenever() {
    let mut tally = Tally::of("counter", true);
    let first = Seed::new();
    for number in first.start()..first.start() + STORIES {
        let place = sources();
        let sync = ["always", "often", "never"][(number % 3) as usize];
        story("counter", &place, &["counter", "counter", sync, "end", "800"], &mut tally, number);
        assert_each_once(&place, 800);
        assert_acknowledged(&place, 800);
    }
    assert!(tally.kills() >= 10 * STORIES, "{}", tally.kills());
}

#[test]
fn without_a_crash_each_job_is_acknowledged_once_at_the_latest_before_the_run_ends() {
    for sync in ["always", "often", "hourly", "never"] {
        let place = sources();
        run(&place, &["counter", "counter", sync, "end", "300"]).assert_exit(0);
        assert_each_once(&place, 300);
        assert_eq!(assert_acknowledged(&place, 300), 300, "sync = {sync}");
    }
}

#[test]
fn what_is_done_at_a_stop_is_acknowledged_before_the_program_has_ended() {
    for (sync, how) in [("hourly", "wait"), ("often", "listen"), ("hourly", "listen")] {
        let place = sources();
        let running = place.command(&["counter", "counter", sync, how, "20"]).start();
        running.until_written(20);
        running.signal(Signal::TERM);
        running.wait().assert_exit(0);
        assert_eq!(assert_acknowledged(&place, 20), 20, "{sync}, {how}");
    }
}

#[test]
fn a_source_that_waits_hears_of_commits_and_calls_are_few() {
    for how in ["wait", "listen"] {
        let place = sources();
        let running = place.command(&["counter", "counter", "often", how, "20"]).start();
        running.until("all are acknowledged while it waits", |_| {
            let lines = place.read("acknowledged.txt").lines().count();
            (lines >= 20).then_some(())
        });
        let calls = place.read("calls.txt").lines().count();
        // Once for each time that something was committed, and not again and again.
        assert!(calls <= 1 + 20 + 2, "{calls} calls");
        running.signal(Signal::TERM);
        running.wait().assert_exit(0);
        assert_acknowledged(&place, 20);
        assert!(!place.read("calls.txt").contains("to acknowledge"), "nothing was left for that");
    }
}

#[test]
fn a_source_that_does_not_return_is_killed_a_second_after_the_stop_and_that_is_no_harm() {
    let place = sources();
    let running = place.command(&["counter", "counter", "hourly", "deaf", "20"]).start();
    running.until_written(20);
    running.signal(Signal::TERM);
    let ended = running.wait();
    ended.assert_exit(0);
    assert!(ended.stderr.contains("source did not stop in time"), "{}", ended.describe());
    // By another one, at the end.
    assert_acknowledged(&place, 20);
    assert!(place.read("calls.txt").contains("to acknowledge"));
}

#[test]
fn a_source_in_trouble_is_opened_again_until_it_works_and_the_log_says_so_once() {
    for at in ["open", "next", "acknowledge"] {
        let place = sources();
        let ended = run(&place, &["trouble", &format!("{at}-retry")]);
        ended.assert_exit(0);
        assert_eq!(records(&place).len(), 20, "{at}");
        assert!(records(&place).iter().all(|(_, text)| text == "half of a job"), "{at}");
        assert_eq!(place.read("failures.txt").lines().count(), 3, "{at}");
        let said = ended.stderr.matches("the queue does not answer").count();
        assert_eq!(said, 1, "{at}: {}", ended.describe());
    }
}

#[test]
fn a_source_that_can_not_go_on_stops_the_pipeline_in_order_with_its_message() {
    for (how, message) in [("fatal", "the queue was deleted"), ("panic", "the queue is empty?")] {
        for (at, done) in [("open", 0), ("next", 10)] {
            let place = sources();
            let ended = run(&place, &["trouble", &format!("{at}-{how}")]);
            ended.assert_exit(74);
            assert!(ended.stderr.contains(message), "{}", ended.describe());
            assert!(ended.stderr.contains("stop requested: failure"), "{}", ended.describe());
            assert!(records(&place).len() <= done, "{at}, {how}");
            // What was handed out is kept, and goes on when the source is in order again.
            run(&place, &["trouble", "none"]).assert_exit(0);
            assert_eq!(records(&place).len(), 20, "{at}, {how}");
        }
    }
}

#[test]
fn the_example_of_a_source_follows_a_file_and_notes_what_is_done() {
    let place = Place::of(example("custom_source"));
    place.write("queue.txt", "one\ntwo\nhalf of ");
    let running = place.command(&["queue.txt", "out.jsonl"]).start();
    running.until_written(2);
    let mut queue = std::fs::OpenOptions::new().append(true).open(place.path("queue.txt"));
    std::io::Write::write_all(queue.as_mut().expect("the queue"), b"three\n").expect("written");
    running.until_written(3);
    running.signal(Signal::TERM);
    running.wait().assert_exit(0);
    let sorted = |name: &str| {
        let text = place.read(name);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted("out.jsonl"), [r#""HALF OF THREE""#, r#""ONE""#, r#""TWO""#]);
    assert_eq!(sorted("queue.txt.done"), ["half of three", "one", "two"]);
    // Nothing is done again.
    let running = place.command(&["queue.txt", "out.jsonl"]).start();
    running.until_logged("going on behind job 3");
    running.signal(Signal::TERM);
    running.wait().assert_exit(0);
    assert_eq!(place.read("out.jsonl").lines().count(), 3);
}

const CAT: &str = "[output]\nfile = \"out.jsonl\"\n[workers.cat]\ncommand = [\"cat\", \"{}\"]\n";

#[test]
fn the_daemon_takes_the_files_of_a_directory_by_its_configuration() {
    let place = Place::new();
    std::fs::create_dir(place.path("in")).expect("a directory");
    for name in ["a", "b", "c"] {
        place.write(&format!("in/{name}"), format!("text of {name}"));
    }
    place.write("cat.toml", format!("[jobs]\ndirectory = \"in/\"\nonce = true\n{CAT}"));
    place.command(&["run", "cat.toml"]).finish().assert_exit(0);
    let results = place.results();
    let mut texts: Vec<(&str, &str)> = results
        .lines
        .iter()
        .map(|line| (line["job"].as_str().expect("job"), line["stdout"].as_str().expect("text")))
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, [("in/a", "text of a"), ("in/b", "text of b"), ("in/c", "text of c")]);
    assert_eq!(names(&place, "in/done"), BTreeSet::from(["a", "b", "c"].map(OsString::from)));
    // Without `once` it waits.
    place.write("cat.toml", format!("[jobs]\ndirectory = \"in\"\n{CAT}"));
    let running = place.command(&["run", "cat.toml"]).start();
    running.until_logged("starting: jobs from in");
    drop_file(&place, "d", "text of d");
    running.until_written(4);
    running.signal(Signal::TERM);
    running.wait().assert_exit(0);
    assert!(place.path("in/done/d").exists());
}

/// Kills all processes of a run, main first.
fn kill_all(running: support::Running<'_>) {
    for process in running.of_program() {
        if let Some(handle) = process.handle() {
            handle.send(Signal::KILL);
        }
    }
    running.wait_for_main();
}

#[test]
fn what_is_done_and_not_acknowledged_survives_a_spool_of_another_size() {
    let place = sources();
    let running = place.command(&["counter", "counter", "hourly", "wait", "20"]).start();
    running.until_written(20);
    kill_all(running);
    assert_eq!(place.read("acknowledged.txt"), "");
    let again = place.command(&["counter", "counter", "hourly", "end", "20"]);
    let ended = again.env("LANE", "131072").finish();
    ended.assert_exit(0);
    assert!(ended.stderr.contains("built anew in another size"), "{}", ended.describe());
    assert_each_once(&place, 20);
    assert_acknowledged(&place, 20);
}

#[test]
fn whatever_becomes_of_the_last_source_is_no_failure_and_the_next_start_acknowledges() {
    for how in ["refuse", "stuck"] {
        let place = sources();
        let running = place.command(&["counter", "counter", "hourly", how, "20"]).start();
        running.until_written(20);
        running.signal(Signal::TERM);
        if how == "stuck" {
            running.until_logged("starting source once more");
            let main = running.supervisor().handle().expect("the supervisor");
            // By the first that is not taken for the same one again.
            running.until("another signal kills it", |running| {
                let _sent = main.send(Signal::TERM);
                running.stderr().contains("killing source; the next start").then_some(())
            });
        }
        let ended = running.wait();
        ended.assert_exit(0);
        let refused = ended.stderr.contains("the queue was deleted");
        assert_eq!(refused, how == "refuse", "{}", ended.describe());
        assert_eq!(place.read("acknowledged.txt"), "", "{how}");
        run(&place, &["counter", "counter", "hourly", "end", "20"]).assert_exit(0);
        assert_eq!(assert_acknowledged(&place, 20), 20, "{how}");
        assert_each_once(&place, 20);
    }
}

#[test]
fn the_last_source_is_killed_at_the_deadline() {
    let place = sources();
    let running = place.command(&["counter", "counter", "hourly", "stuck", "20"]).start();
    running.until_written(20);
    let asked = Instant::now();
    running.signal(Signal::TERM);
    let ended = running.wait();
    ended.assert_exit(0);
    assert!(ended.stderr.contains("killing source; the next start"), "{}", ended.describe());
    assert!(asked.elapsed() >= Duration::from_secs(6), "not before: {}", ended.describe());
}

#[test]
fn files_that_are_done_and_not_moved_are_moved_by_a_fresh_start_and_not_run_again() {
    let place = Place::new();
    std::fs::create_dir(place.path("in")).expect("a directory");
    let expected: BTreeSet<OsString> = (0..20).map(|file| format!("{file}").into()).collect();
    for name in &expected {
        drop_file(&place, name, "text");
    }
    let hourly = CAT.replacen('\n', "\nsync = \"1h\"\n", 1);
    place.write("cat.toml", format!("[jobs]\ndirectory = \"in\"\n{hourly}"));
    let running = place.command(&["run", "cat.toml"]).start();
    running.until_written(20);
    kill_all(running);
    assert_eq!(names(&place, "in"), expected, "none was moved");
    place.write("cat.toml", format!("[jobs]\ndirectory = \"in\"\nonce = true\n{hourly}"));
    place.command(&["run", "cat.toml", "--fresh"]).finish().assert_exit(0);
    assert_eq!(names(&place, "in/done"), expected);
    assert_eq!(place.results().len(), 20);
}

#[test]
fn a_run_is_not_over_before_its_last_job_is_acknowledged() {
    let place = sources();
    let running = place.command(&["trouble", "acknowledge-always"]).start();
    running.until_written(20);
    running.until_logged("the queue does not answer");
    running.signal(Signal::TERM);
    // Not for ever: a second signal ends that as well.
    running.until_logged("starting source once more");
    running.signal(Signal::TERM);
    let ended = running.wait();
    ended.assert_exit(0);
    assert!(ended.stderr.contains("the next start acknowledges"), "{}", ended.describe());
    let ended = run(&place, &["trouble", "none"]);
    ended.assert_exit(0);
    assert!(ended.stderr.contains("going on behind job 20"), "{}", ended.describe());
    assert_eq!(records(&place).len(), 20);
}
