//! A stop as it happens: what is new since the last look.

use super::last_run::LastRun;
use super::timeline;
use crate::flow::queue::history::{Event, What};
use crate::flow::queue::processes;
use std::collections::BTreeSet;
use std::time::Duration;

/// Of more workers than this only their number is told, but for those that were killed.
const TOLD_APART: usize = 16;
/// So many are named.
const NAMED: usize = 6;

/// How much was told.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    told: usize,
}

impl Progress {
    /// What has happened since the last time, a line each.
    pub(crate) fn news(&mut self, run: &LastRun) -> Vec<String> {
        let Some(first) = run.story.stop.first() else { return Vec::new() };
        let new = run.story.stop.get(self.told..).unwrap_or_default();
        self.told = run.story.stop.len();
        let workers = new.iter().filter(|event| is_quiet_worker(event)).count();
        let apart = workers <= TOLD_APART;
        let mut lines: Vec<String> = Vec::new();
        let mut ended = 0;
        for event in new {
            if apart || !is_quiet_worker(event) {
                lines.push(line(run, event, first.at));
            } else if matches!(event.what, What::Ended(_)) {
                ended += 1;
            }
        }
        if ended > 0 {
            let left = left(run).iter().filter(|slot| **slot >= processes::worker(0)).count();
            lines.push(format!("{ended} workers have ended, {left} are left"));
        }
        lines
    }

    /// Who is waited for, and how much time there is.
    pub(crate) fn waiting(&self, run: &LastRun, now: Duration) -> Option<String> {
        let first = run.story.stop.first()?;
        let moved = |event: &Event| match event.what {
            What::DeadlineMoved { by } => by,
            _ => Duration::ZERO,
        };
        let moved: Duration = run.story.stop.iter().map(moved).sum();
        let end = run.story.began + first.at + run.deadline + moved;
        let left = left(run);
        let mut names: Vec<String> = left.iter().take(NAMED).map(|slot| run.name(*slot)).collect();
        if left.len() > NAMED {
            names.push(format!("{} more", left.len() - NAMED));
        }
        if names.is_empty() {
            names.push("supervisor".into());
        }
        let seconds = end.saturating_sub(now).as_secs_f64();
        Some(format!("waiting for {}; {seconds:.1} s left", names.join(", ")))
    }
}

/// Told to stop, or killed, and not ended.
fn left(run: &LastRun) -> BTreeSet<usize> {
    let mut left = BTreeSet::new();
    for event in &run.story.stop {
        let Some(slot) = event.slot else { continue };
        match event.what {
            What::Told | What::Killed(_) => {
                left.insert(slot);
            }
            What::Ended(_) => {
                left.remove(&slot);
            }
            _ => {}
        }
    }
    left
}

fn is_quiet_worker(event: &Event) -> bool {
    let worker = event.slot.is_some_and(|slot| slot >= processes::worker(0));
    worker && !matches!(event.what, What::Killed(_) | What::Abandoned)
}

fn line(run: &LastRun, event: &Event, began: Duration) -> String {
    let at = event.at.saturating_sub(began).as_secs_f64();
    format!("{at:>9.3} s  {}", timeline::sentence(run, event))
}
