//! `procsig check`: what it says of a configuration, to people and to programs, and what it exits with.

mod support;

use serde_json::Value;
use support::*;

const TWELVE: &str = r#"name = 5
[jobs]
lines = "none.txt"
[workers.work]
command = ["sh", "work.sh", "{}"]
thread = 2
timeout = 10
attempts = 0
[output]
file = "no/such/directory/out.jsonl"
sync = "alwyas"
[shutdown]
deadline = "2s"
flush_reserve = "3s"
[spool]
lane = "1KiB"
job_bytes = true
[log]
level = "inof"
[ouput]
"#;

const PLACES: [&str; 12] = [
    "c.toml:1:8: name: ",
    "c.toml:3:9: jobs.lines: ",
    "c.toml:6:1: workers.work.thread: ",
    "c.toml:7:11: workers.work.timeout: ",
    "c.toml:8:12: workers.work.attempts: ",
    "c.toml:10:8: output.file: ",
    "c.toml:11:8: output.sync: ",
    "c.toml:14:17: shutdown.flush_reserve: ",
    "c.toml:16:8: spool.lane: ",
    "c.toml:17:13: spool.job_bytes: ",
    "c.toml:19:9: log.level: ",
    "c.toml:20:2: ouput: ",
];

fn place(text: &str) -> Place {
    let place = Place::new();
    place.write("c.toml", text);
    place
}

fn json(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", ended.describe()))
}

#[test]
fn twelve_mistakes_are_shown_by_check_and_by_run_each_with_a_caret_and_are_counted() {
    let place = place(TWELVE);
    let before = place.files();
    for command in ["check", "run"] {
        let ended = place.command(&[command, "c.toml"]).finish();
        ended.assert_exit(78);
        let starts: Vec<&str> =
            ended.stderr.lines().filter(|line| line.starts_with("c.toml:")).collect();
        assert_eq!(starts.len(), PLACES.len(), "{}", ended.describe());
        for (line, start) in starts.iter().zip(PLACES) {
            assert!(line.starts_with(start), "{line} is not {start}");
        }
        let carets = ended.stderr.lines().filter(|line| line.contains("| ") && line.contains('^'));
        assert_eq!(carets.count(), PLACES.len(), "{}", ended.describe());
        assert!(ended.stderr.contains("error: 12 mistakes in c.toml"), "{}", ended.describe());
        assert!(!ended.stderr.contains('\x1b'), "colours without a terminal: {}", ended.stderr);
        assert_eq!(place.files(), before);
    }
}

#[test]
fn as_json_each_mistake_has_its_place_its_key_and_what_was_meant() {
    let place = place(TWELVE);
    let ended = place.command(&["check", "--json", "c.toml"]).finish();
    ended.assert_exit(78);
    assert_eq!(ended.stderr, "");
    let object = json(&ended);
    assert_eq!(object["valid"], false);
    assert_eq!(object["would"], Value::Null);
    let mistakes = object["mistakes"].as_array().expect("an array");
    assert_eq!(mistakes.len(), PLACES.len());
    for (mistake, place) in mistakes.iter().zip(PLACES) {
        let text = |key: &str| mistake[key].as_str().unwrap_or_default().to_owned();
        let (file, line, column) = (text("file"), &mistake["line"], &mistake["column"]);
        assert_eq!(format!("{file}:{line}:{column}: {}: ", text("key")), place);
        assert!(!text("message").is_empty());
    }
    let timeout = &mistakes[3];
    assert_eq!(timeout["end"]["column"], 13);
    assert_eq!(timeout["suggestion"], "\"10s\"");
    assert!(timeout["allowed"].as_str().is_some_and(|allowed| allowed.contains("30s")));
}

#[test]
fn a_valid_configuration_says_what_it_would_do_and_how_long_a_killer_has_to_wait() {
    let place = Place::new();
    place.jobs(1);
    place.config("retry_delay = \"1s\"\n[shutdown]\ndeadline = \"7500ms\"\n");
    let ended = place.command(&["check", "pings.toml"]).finish();
    ended.assert_exit(0);
    for said in [
        "pings.toml: valid\n",
        "docker stop -t 13",
        "TimeoutStopSec=13",
        "stopwaitsecs=13",
        "terminationGracePeriodSeconds: 13",
        "jobs.txt",
    ] {
        assert!(ended.stdout.contains(said), "no {said}: {}", ended.describe());
    }
    assert!(ended.stderr.contains(": warning: workers."), "{}", ended.describe());
    let object = json(&place.command(&["check", "--json", "pings.toml"]).finish());
    assert_eq!(
        (&object["valid"], &object["would"]["outer_time_limit_seconds"]),
        (&true.into(), &13.into())
    );
    assert_eq!(object["warnings"].as_array().map(Vec::len), Some(1));
}

#[test]
fn colours_are_there_if_they_are_asked_for() {
    let place = place("nam = 1\n");
    let coloured = |arguments: &[&str]| {
        let ended = place.command(arguments).finish();
        ended.assert_exit(78);
        ended.stderr.contains("\x1b[1;31m^^^")
    };
    assert!(coloured(&["check", "--color", "always", "c.toml"]));
    assert!(coloured(&["run", "--color=always", "c.toml"]));
    assert!(!coloured(&["check", "c.toml"]));
    assert!(!coloured(&["check", "--color", "never", "c.toml"]));
}

#[test]
fn what_init_prints_is_valid_as_it_is() {
    let place = Place::new();
    let ended = place.command(&["init"]).finish();
    ended.assert_exit(0);
    place.write("c.toml", &ended.stdout);
    let ended = place.command(&["check", "c.toml"]).finish();
    ended.assert_exit(0);
    assert_eq!(ended.stderr, "");
}

#[test]
fn a_pipe_as_the_configuration_is_refused_and_not_waited_for() {
    let place = Place::new();
    let made = std::process::Command::new("mkfifo").arg(place.path("c.toml")).status();
    assert!(made.expect("mkfifo").success());
    for command in ["check", "run"] {
        let ended = place.command(&[command, "c.toml"]).finish();
        ended.assert_exit(78);
        assert!(ended.stderr.contains("this is a pipe"), "{}", ended.describe());
    }
}

#[test]
fn a_command_without_its_dashes_gets_a_tip() {
    let place = Place::new();
    let ended = place.command(&["run", "ping", "-c1", "example.org"]).finish();
    ended.assert_exit(2);
    assert!(ended.stderr.contains("run -- ping -c1 example.org"), "{}", ended.describe());
}
