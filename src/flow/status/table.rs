//! The table of jobs, gone through once.

use super::facts;
use crate::flow::queue::commit::Commit;
use crate::flow::queue::jobs::{Jobs, Phase};
use crate::flow::queue::spool::Spool;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use std::collections::HashMap;
use std::time::Duration;

/// What the slots say.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// But for jobs that are done or failed, of which the books tell.
    pub counts: facts::Jobs,
    /// Slots of jobs in hand, for each lane.
    pub in_hand: HashMap<u16, Vec<usize>>,
    /// Round, number and offset of the job that is furthest in the list.
    pub furthest: (u64, u64, u64),
}

/// Goes through the slots. `books`: of the same moment, or one before.
pub(crate) fn tally(spool: &Spool, books: &Commit, now: Duration) -> Table {
    let (jobs, now) = (Jobs(spool), clock::nanos(now));
    let mut table = Table::default();
    for index in 0..jobs.len() {
        let slot = jobs.slot(index);
        let (state, done) = jobs.look(index);
        let counts = &mut table.counts;
        match state.phase() {
            Phase::Free => {
                counts.free_slots += 1;
                continue;
            }
            Phase::Ready if slot.not_before.load(Ordering::Relaxed) > now => {
                counts.waiting_for_retry += 1;
            }
            Phase::Ready => counts.ready += 1,
            Phase::Claimed(by) if done => {
                let end = slot.result_end.load(Ordering::Relaxed);
                match books.lanes.get(usize::from(by.lane)) {
                    Some(head) if head.offset >= end => counts.written_not_freed += 1,
                    _ => counts.done_not_written += 1,
                }
            }
            Phase::Claimed(by) => {
                counts.in_hand += 1;
                table.in_hand.entry(by.lane).or_default().push(index);
            }
            // Damaged. The next start says so.
            Phase::Unknown => continue,
        }
        let [round, seq, offset] =
            [&slot.round, &slot.seq, &slot.offset].map(|word| word.load(Ordering::Relaxed));
        table.furthest = table.furthest.max((round, seq, offset));
    }
    table
}
