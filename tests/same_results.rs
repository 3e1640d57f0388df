//! One list through a Rust function, through a coprocess in Python and through a command: whichever it
//! is, and whoever is killed meanwhile, the set of results is the same.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use support::place::OUTPUT;
use support::{Place, Seed, Signal, example};

/// Files, each of another length.
const FILES: u64 = 1500;
/// Kills in each run through the list.
const KILLS: u64 = 10;
/// How long after its moment in the list a kill is made, at the most.
const DELAY: Duration = Duration::from_millis(30);

const COPROCESS: &str = "\
import json, os, sys
for line in sys.stdin:
    print(os.path.getsize(json.loads(line)['job']), flush=True)
";

/// The list is run to its end by workers that do this, with random kills on the way. Returns what it has
/// found out about each file.
fn sizes(worker: &str, value: impl Fn(&Value) -> u64) -> BTreeMap<String, u64> {
    let place = Place::of(example("test_sizes"));
    let mut list = String::new();
    for number in 0..FILES {
        place.write(&number.to_string(), "x".repeat(number as usize));
        list += &format!("{number}\n");
    }
    place.write("jobs.txt", list);
    place.write("size.py", COPROCESS);
    let restart = "[restart]\nmax = 1000\n";
    let files = "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n";
    // Nobody runs ahead of what is written, by which kills are timed.
    let buffer = "[buffer]\nflush_records = 20\n[spool]\njobs = 40\n";
    place.write("sizes.toml", format!("{files}{buffer}{restart}[workers.size]\n{worker}\n"));
    kill_and_go_on(&place);
    let mut sizes = BTreeMap::new();
    for line in place.read(OUTPUT).lines() {
        let result: Value = serde_json::from_str(line).expect("a line of JSON");
        let job = result["job"].as_str().expect("a job").to_owned();
        assert_eq!(sizes.insert(job, value(&result)), None, "twice in the output: {line}");
    }
    sizes
}

/// Kills one of its processes, whichever, at random moments in the first half of the list, and starts it
/// again when it was the supervisor.
fn kill_and_go_on(place: &Place) {
    let mut seed = Seed::new();
    let mut kills = 0;
    loop {
        let run = place.command(&["run", "sizes.toml"]).start();
        while kills < KILLS {
            run.until_written((kills * FILES / (2 * KILLS)) as usize);
            std::thread::sleep(seed.time_below(DELAY));
            let mut processes = run.of_program();
            // What a worker is about to execute is of the program, too, for a moment: a command that is
            // killed has failed, as anybody's who kills it.
            processes.retain(|it| it.pid == run.pid() || it.parent == run.pid());
            assert!(!processes.is_empty(), "it has ended\n{}", run.describe());
            let one = &processes[seed.below(processes.len() as u64) as usize];
            let hit = one.handle().is_some_and(|handle| handle.send(Signal::KILL));
            kills += u64::from(hit);
            if hit && one.pid == run.pid() {
                break;
            }
        }
        let ended = run.wait();
        match (ended.code, ended.signal) {
            (Some(0), None) => break,
            (None, Some(9)) => {}
            _ => panic!("{}", ended.describe()),
        }
    }
    assert_eq!(kills, KILLS, "the list was done before");
}

fn expected() -> BTreeMap<String, u64> {
    (0..FILES).map(|number| (number.to_string(), number)).collect()
}

#[test]
fn a_function_a_coprocess_and_a_command_give_the_same_results_whoever_is_killed() {
    let value = |result: &Value| result["value"].as_u64().expect("a number");
    assert_eq!(sizes("function = \"size\"", value), expected());
    let coprocess = "coprocess = [\"python3\", \"size.py\"]";
    assert_eq!(sizes(coprocess, value), expected());
    let printed = |result: &Value| {
        let text = result["stdout"].as_str().expect("what stat prints");
        text.trim().parse().expect("a number")
    };
    assert_eq!(sizes("command = [\"stat\", \"-c\", \"%s\", \"{}\"]", printed), expected());
}
