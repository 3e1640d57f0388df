//! A worker that writes garbage over memory that it shares with others: the buffer neither crashes nor
//! writes it, the records of others are written once, and what was damaged is run again. The program is
//! tests/programs/hostile.rs.

mod support;

use std::collections::BTreeMap;
use support::{Balance, Ended, Place, Process, Signal, example};

/// Jobs of a list; the one in the middle is the hostile one.
const JOBS: usize = 40;

/// A place whose jobs' results are flushed when the list is done, and one of which does this.
fn place(deed: &str) -> Place {
    let place = Place::of(example("test_hostile"));
    let mut jobs: Vec<String> = (1..=JOBS).map(|number| format!("job-{number}")).collect();
    jobs[JOBS / 2] = deed.to_owned();
    place.write("jobs.txt", jobs.join("\n"));
    place
}

fn run(place: &Place) -> Ended {
    let ended = place.command(&[]).finish();
    ended.assert_nothing_left();
    assert!(!ended.stderr.contains("panicked"), "{}", ended.describe());
    ended
}

/// The parts of each job that are in the output; each line is one that a function has emitted, or the
/// failure of a job of which only this is known.
#[track_caller]
fn parts(place: &Place) -> BTreeMap<u64, Vec<u64>> {
    let mut parts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for line in place.results().lines {
        if line["ok"] == false {
            assert!(line["error"].is_string(), "a failure without a reason");
            continue;
        }
        let keys: Vec<&String> = line.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["job", "part", "pid", "seq"]);
        let number = |key: &str| line[key].as_u64().expect("a number");
        assert!((1..=JOBS as u64).contains(&number("seq")), "{line}");
        parts.entry(number("seq")).or_default().push(number("part"));
    }
    parts
}

#[track_caller]
fn assert_each_once(place: &Place) {
    let parts = parts(place);
    assert_eq!(parts.len(), JOBS, "jobs without a result");
    assert!(parts.values().all(|parts| parts == &[1, 2]), "{parts:?}");
}

#[test]
fn what_a_worker_writes_over_its_lane_is_never_written_and_costs_no_job_its_result() {
    for deed in ["ring", "zeros-ring"] {
        let place = place(deed);
        let ended = run(&place);
        ended.assert_exit(74);
        assert!(place.read(&format!("first-{deed}")).is_empty() && place.files().len() > 3);
        let (log, said) = (ended.log(), &ended.stderr);
        assert!(said.contains("were damaged before they were written"), "{}", ended.describe());
        Balance::of(&log).assert_even();
        // All that was published elsewhere is written, whole.
        let written = parts(&place);
        assert!(written.values().all(|parts| parts == &[1, 2]), "{written:?}");
        assert!(!written.is_empty() && written.len() < JOBS, "{}", written.len());
        let ended = run(&place);
        ended.assert_exit(0);
        let said = &ended.stderr;
        assert!(said.contains("jobs whose results are damaged are run again"), "{said}");
        assert!(said.contains("moved to out.jsonl.quarantine"), "{said}");
        Balance::of(&ended.log()).assert_even();
        assert_each_once(&place);
    }
}

#[track_caller]
fn assert_ended_as_documented(place: &Place, deed: &str, ended: &Ended, codes: &[i32]) {
    let is_one = ended.code.is_some_and(|code| codes.contains(&code));
    assert!(is_one, "{deed}: {}", ended.describe());
    ended.assert_nothing_left();
    parts(place);
}

#[test]
fn whatever_a_worker_may_write_the_output_has_only_records_and_a_start_goes_on() {
    for deed in ["slots", "ends", "all", "zeros-slots", "zeros-ends", "zeros-all"] {
        let place = place(deed);
        // Jobs that nobody can find any more are not waited for when a stop is asked for.
        let running = place.command(&[]).start();
        running.until("the deed", |_| place.path(&format!("first-{deed}")).exists().then_some(()));
        if let Some(main) = running.of_program().first().and_then(Process::handle) {
            main.send(Signal::TERM);
        }
        assert_ended_as_documented(&place, deed, &running.wait(), &[0, 1, 3, 4, 5, 74]);
        assert_ended_as_documented(&place, deed, &run(&place), &[0, 1, 3, 74, 78]);
    }
}
