//! Which jobs workers have in hand, for messages and for `status`.

use super::jobs::{Jobs, Phase};
use super::spool::Spool;
use crate::sys::atomic::Ordering;
use std::time::Duration;

/// A job that a worker has claimed and not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InHand {
    /// Its slot in the table of jobs.
    pub index: usize,
    pub lane: u16,
    /// Its number in the list.
    pub seq: u64,
    pub attempts: u64,
    /// When the present attempt began, since 1970; `None`: it is about to.
    pub started: Option<Duration>,
}

/// All jobs in hand, those that have been longest first. Of a closed spool there are none.
pub(crate) fn in_hand(spool: &Spool) -> Vec<InHand> {
    if spool.is_closed() {
        return Vec::new();
    }
    let jobs = Jobs(spool);
    let mut all: Vec<InHand> = (0..jobs.len())
        .filter_map(|index| match jobs.look(index) {
            (state, false) => match state.phase() {
                Phase::Claimed(by) if spool.has_lane(by.lane) => Some((index, by.lane)),
                _ => None,
            },
            (_, true) => None,
        })
        .map(|(index, lane)| {
            let slot = jobs.slot(index);
            // The lowest bit says something else.
            let started = slot.started.load(Ordering::Relaxed) & !1;
            InHand {
                index,
                lane,
                seq: slot.seq.load(Ordering::Relaxed),
                attempts: slot.attempts.load(Ordering::Relaxed),
                started: (started != 0).then(|| Duration::from_nanos(started)),
            }
        })
        .collect();
    all.sort_by_key(|job| (job.started.unwrap_or(Duration::MAX), job.index));
    all
}

/// The text of a job in hand for a line of a message: so many characters at most.
pub(crate) fn text(spool: &Spool, job: &InHand, characters: usize) -> String {
    let text = Jobs(spool).text(job.index);
    let text = String::from_utf8_lossy(&text);
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}
