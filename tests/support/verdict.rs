//! What must hold of every run that was stopped, whenever that was.

use super::log::{Balance, assert_nothing_out_of_order, stop_requests};
use super::place::{OUTPUT, Place, SPOOL};
use super::{Ended, Line};
use std::collections::BTreeSet;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Killed by the signal before it had started anything.
    Plain,
    /// Stopped in order, with jobs left.
    Stopped,
    /// All jobs done.
    Complete,
}

/// What was there before a run.
pub struct Before {
    files: BTreeSet<String>,
    output: Option<Vec<u8>>,
    spool: Option<Vec<u8>>,
    lines: usize,
}

impl Before {
    #[track_caller]
    pub fn of(place: &Place) -> Before {
        Before {
            files: place.files(),
            output: super::place::bytes(&place.path(OUTPUT)),
            spool: super::place::bytes(&place.path(SPOOL)),
            lines: place.results().len(),
        }
    }
}

/// Judges a run of `jobs` that a signal may have stopped: it ended in one of the three documented
/// ways, and left neither process nor temporary file; the output is whole, has each job at most
/// once, and grew by what the balance says.
#[track_caller]
pub fn judge(place: &Place, before: &Before, ended: &Ended, jobs: &[String]) -> End {
    ended.assert_nothing_left();
    let results = place.results();
    results.assert_at_most_once(jobs);
    assert_no_stray_file(place, before, ended);
    let end = match (ended.code, ended.signal) {
        (None, Some(2 | 15)) => End::Plain,
        (Some(5), None) => End::Stopped,
        (Some(0), None) => End::Complete,
        _ => panic!("neither an ordered stop nor a plain death\n{}", ended.describe()),
    };
    if end == End::Plain {
        let now = Before::of(place);
        let same = (now.output, now.spool) == (before.output.clone(), before.spool.clone());
        assert!(same, "died of the signal with files changed\n{}", ended.describe());
        assert_eq!(now.files, before.files, "died of the signal with files left behind");
        assert!(ended.log().is_empty(), "died of the signal in its work\n{}", ended.describe());
        return end;
    }
    let log = ended.log();
    assert_nothing_out_of_order(&log);
    assert_balance(&log, results.len() - before.lines, ended);
    match end {
        End::Complete => results.assert_exactly_once(jobs),
        _ => assert_eq!(stop_requests(&log), 1, "{}", ended.describe()),
    }
    end
}

#[track_caller]
fn assert_balance(log: &[Line], grown: usize, ended: &Ended) {
    let balance = Balance::of(log);
    balance.assert_even();
    assert_eq!(balance.written, grown as u64, "written, and in the output\n{}", ended.describe());
    assert_eq!(balance.kept, 0, "an ordered stop writes everything\n{}", ended.describe());
}

/// No temporary file, lock or quarantine is left.
#[track_caller]
pub fn assert_no_stray_file(place: &Place, before: &Before, ended: &Ended) {
    let expected = [OUTPUT, SPOOL, super::place::STARTED];
    let mut stray = place.files();
    stray.retain(|name| !before.files.contains(name) && !expected.contains(&name.as_str()));
    assert!(stray.is_empty(), "files left behind: {stray:?}\n{}", ended.describe());
}

/// Started undisturbed, by its configuration, it comes to the end: each job has one result, and nothing
/// is left.
#[track_caller]
pub fn goes_on(place: &Place, jobs: &[String]) -> Ended {
    let before = Before::of(place);
    // As long as it takes: a sync of a busy disk can take seconds.
    let ended = place.command(&["run", "pings.toml", "--deadline", "60s"]).finish();
    ended.assert_exit(0);
    Balance::of(&ended.log()).assert_even();
    assert_no_stray_file(place, &before, &ended);
    place.results().assert_exactly_once(jobs);
    ended
}

/// Starts it again without a signal: it goes on where it was stopped, and in the end each job is
/// in the output exactly once.
#[track_caller]
pub fn goes_on_to_the_end(place: &Place, options: &[&str], jobs: &[String]) {
    let before = Before::of(place);
    let ended = place.run_work(options).finish();
    ended.assert_exit(0);
    assert_eq!(judge(place, &before, &ended, jobs), End::Complete);
    place.results().assert_exactly_once(jobs);
}
