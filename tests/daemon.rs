//! A program with functions of its own is the whole of `procsig`: commands, options, configuration.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use support::place::OUTPUT;
use support::{Ended, Place, Signal, example, log};

const FUNCTIONS: &str = r#"
[jobs]
lines = "jobs.txt"

[workers.sums]
function = "crc"
threads = 2

[workers.alive]
function = "heartbeat"

[output]
file = "out.jsonl"
"#;

/// The example, three files, and the list of them.
fn place() -> (Place, BTreeMap<String, u32>) {
    let place = Place::of(example("daemon"));
    let contents = [("a.txt", "first"), ("b.txt", ""), ("c.txt", "third\n")];
    let mut sums = BTreeMap::new();
    for (name, content) in contents {
        place.write(name, content);
        sums.insert(name.to_owned(), crc32c::crc32c(content.as_bytes()));
    }
    place.write("jobs.txt", "a.txt\nb.txt\nc.txt\n");
    (place, sums)
}

fn records(place: &Place) -> Vec<Value> {
    let output = place.read(OUTPUT);
    output.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Each file that has a checksum in the output, with it.
#[track_caller]
fn sums(place: &Place) -> BTreeMap<String, u32> {
    let mut sums = BTreeMap::new();
    for record in records(place).iter().filter(|record| record.get("file").is_some()) {
        let file = record["file"].as_str().expect("a name").to_owned();
        let sum = record["crc32c"].as_u64().expect("a checksum") as u32;
        assert_eq!(sums.insert(file, sum), None, "twice in the output: {record}");
    }
    sums
}

#[track_caller]
fn refused(place: &Place, ended: &Ended, code: i32, words: &[&str]) {
    ended.assert_exit(code);
    for words in words {
        assert!(ended.stderr.contains(words), "nothing about {words}: {}", ended.describe());
    }
    assert!(!place.path(OUTPUT).exists(), "an output was made\n{}", ended.describe());
}

#[test]
fn a_configuration_names_functions_that_take_jobs_and_functions_that_produce() {
    let (place, expected) = place();
    place.write("sums.toml", FUNCTIONS);
    let checked = place.command(&["check", "sums.toml"]).finish();
    checked.assert_exit(0);
    assert!(checked.stdout.starts_with("sums.toml: valid\n"), "{}", checked.stdout);
    let ended = place.command(&["run", "sums.toml"]).finish();
    ended.assert_exit(0);
    assert_eq!(sums(&place), expected);
    let beats =
        records(&place).iter().filter(|record| record.get("unix_seconds").is_some()).count();
    assert!(beats >= 1, "no heartbeat: {}", ended.describe());
    log::assert_nothing_out_of_order(&ended.log());
}

#[test]
fn producers_alone_run_until_they_are_told_to_stop() {
    let (place, _) = place();
    let text = "[workers.alive]\nfunction = \"heartbeat\"\n[output]\nfile = \"out.jsonl\"\n";
    place.write("alive.toml", text);
    let run = place.command(&["run", "alive.toml"]).start();
    run.until_written(1);
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
    let ended = place.command(&["run", "alive.toml", "--jobs", "jobs.txt"]).finish();
    ended.assert_exit(78);
    assert!(ended.stderr.contains("--jobs: no worker takes jobs"), "{}", ended.describe());
}

#[test]
fn a_function_is_run_without_a_configuration() {
    let (place, expected) = place();
    let options = ["run", "--function", "crc", "--jobs", "jobs.txt", "-o", OUTPUT, "-P", "1"];
    place.command(&options).finish().assert_exit(0);
    assert_eq!(sums(&place), expected);
    let again = place.command(&["run", "--jobs", "jobs.txt", "-o", "other.jsonl"]).finish();
    again.assert_exit(2);
    assert!(again.stderr.contains("--function: crc, heartbeat"), "{}", again.describe());
}

#[test]
fn a_command_is_run_as_by_procsig_itself() {
    let (place, _) = place();
    let ended = place.run(&["--jobs", "jobs.txt"], &["cat", "{}"]).finish();
    ended.assert_exit(0);
    let mut outputs: Vec<String> =
        records(&place).iter().map(|it| it["stdout"].as_str().expect("text").to_owned()).collect();
    outputs.sort();
    assert_eq!(outputs, ["", "first", "third\n"]);
}

#[test]
fn an_unknown_function_is_refused_with_the_known_ones_and_a_suggestion() {
    let (place, _) = place();
    place.write("sums.toml", FUNCTIONS.replace("\"crc\"", "\"crcc\""));
    let words =
        ["sums.toml:6:12: workers.sums.function", "did you mean \"crc\"?", "crc, heartbeat"];
    let ended = place.command(&["run", "sums.toml"]).finish();
    refused(&place, &ended, 78, &words);
    let ended = place.command(&["check", "sums.toml"]).finish();
    refused(&place, &ended, 78, &words);
    let ended = place.command(&["run", "--function", "hartbeat", "-o", OUTPUT]).finish();
    refused(&place, &ended, 2, &["did you mean \"heartbeat\"?"]);
}

#[test]
fn procsig_itself_says_where_functions_come_from() {
    let place = Place::new();
    place.write("jobs.txt", "a\n");
    place.write("sums.toml", FUNCTIONS);
    let ended = place.command(&["run", "sums.toml"]).finish();
    refused(&place, &ended, 78, &["this program has no functions", "Daemon::worker"]);
}

#[test]
fn help_speaks_of_this_program_and_its_functions() {
    let (place, _) = place();
    let ended = place.command(&["--help"]).finish();
    ended.assert_exit(0);
    let first = format!("{} run --jobs jobs.txt", place.name);
    assert!(ended.stdout.starts_with(&first), "{}", ended.stdout);
    let ended = place.command(&["run", "--help"]).finish();
    assert!(ended.stdout.contains("crc, heartbeat"), "{}", ended.stdout);
    let version = place.command(&["--version"]).finish();
    assert!(version.stdout.starts_with(&format!("{} ", place.name)), "{}", version.stdout);
}

#[test]
fn a_daemon_that_is_killed_goes_on_where_it_was() {
    let place = Place::of(example("daemon"));
    let count = 3000;
    let mut list = String::new();
    for number in 0..count {
        let name = format!("{number}.txt");
        place.write(&name, number.to_string());
        list += &format!("{name}\n");
    }
    place.write("jobs.txt", list);
    // Nobody runs far ahead of what is written, by which the kill is timed.
    let tables = "[spool]\njobs = 40\n[buffer]\nflush_records = 20\n";
    place.write("sums.toml", format!("{FUNCTIONS}{tables}"));
    let run = place.command(&["run", "sums.toml"]).start();
    run.until_written(1);
    // All of them at once, main first.
    for process in run.of_program() {
        if let Some(handle) = process.handle() {
            handle.send(Signal::KILL);
        }
    }
    drop(run.wait());
    place.command(&["run", "sums.toml"]).finish().assert_exit(0);
    let sums = sums(&place);
    assert_eq!(sums.len(), count);
    for (name, sum) in sums {
        let content = name.strip_suffix(".txt").expect("a name").as_bytes();
        assert_eq!(sum, crc32c::crc32c(content), "{name}");
    }
}

const OWN: &str = "[jobs]\nsource = \"hundred\"\n[output]\nsink = \"table\"\n[workers.size]\nfunction = \"size\"\n";

/// The test's own daemon, and a hundred files.
fn own_place() -> Place {
    let place = Place::of(example("test_sizes"));
    for number in 0..100 {
        place.write(&number.to_string(), "x".repeat(number));
    }
    place.write("own.toml", OWN);
    place
}

#[test]
fn a_configuration_names_a_sink_and_a_source_of_the_program() {
    let place = own_place();
    place.command(&["check", "own.toml"]).finish().assert_exit(0);
    place.command(&["run", "own.toml"]).finish().assert_exit(0);
    let table = place.read("table.txt");
    let mut lines: Vec<&str> = table.lines().collect();
    lines.sort_by_key(|line| line.split(' ').next().and_then(|number| number.parse::<u32>().ok()));
    let expected: Vec<String> = (0..100).map(|number| format!("{number} {number}")).collect();
    assert_eq!(lines, expected);
    assert!(place.path(".own.spool").exists(), "{:?}", place.files());
}

#[test]
fn a_sink_that_can_not_take_what_a_function_emits_is_refused_before_anything_runs() {
    let place = own_place();
    place.write("own.toml", OWN.replace("\"size\"", "\"echo\""));
    for command in ["check", "run"] {
        let ended = place.command(&[command, "own.toml"]).finish();
        let words = ["workers.size", "emits alloc::string::String", "test_sizes::Size"];
        refused(&place, &ended, 78, &words);
    }
    place.write("own.toml", OWN.replace("function = \"size\"", "command = [\"true\"]"));
    let ended = place.command(&["check", "own.toml"]).finish();
    refused(&place, &ended, 78, &["output.sink", "only records of functions"]);
}

#[test]
fn unknown_sinks_and_sources_are_refused_with_a_suggestion() {
    let place = own_place();
    place.write("own.toml", OWN.replace("\"table\"", "\"tabel\"").replace("hundred", "hundert"));
    let ended = place.command(&["check", "own.toml"]).finish();
    let words = ["did you mean \"table\"?", "did you mean \"hundred\"?"];
    refused(&place, &ended, 78, &words);
}
