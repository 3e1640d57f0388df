//! What becomes of the jobs of a dead worker.
//!
//! A slot that it had claimed is *done* exactly if its lane's tail has reached the slot's
//! `result_end`: then everything of the job is published. Otherwise nothing is, and the job is
//! ready again. That holds only while nobody publishes in the lane: so a new worker settles the
//! slots of its predecessors before it does anything else, and only after the old one was reaped.

use super::jobs::{Jobs, Phase};
use super::spool::Spool;
use crate::sys::atomic::Ordering;

/// A command that a dead worker had left running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orphan {
    /// Process group.
    pub group: i32,
    /// Start time of its leader, in clock ticks since boot.
    pub start: u64,
    /// Of the run that started it.
    pub run_id: u64,
}

/// Settles the slots that dead processes of this lane had claimed. Their commands are killed by
/// `end` before their jobs are ready again. Returns how many are.
///
/// `blamed`: one of them may have been the cause of the death, which was this; `None`: it was
/// killed on purpose, or everything died at once.
pub(crate) fn settle(
    spool: &Spool,
    lane: u16,
    blamed: Option<u64>,
    mut end: impl FnMut(Orphan),
) -> usize {
    let jobs = Jobs(spool);
    let mut made_ready = 0;
    for index in 0..jobs.len() {
        // One look at both: the source may be freeing it at this moment.
        let (state, done) = jobs.look(index);
        match state.phase() {
            Phase::Claimed(by) if by.lane == lane && !done => {}
            _ => continue,
        }
        let slot = jobs.slot(index);
        let group = slot.command.load(Ordering::Acquire);
        if let Ok(group @ 2..) = i32::try_from(group) {
            end(Orphan {
                group,
                start: slot.command_start.load(Ordering::Relaxed),
                run_id: spool.run().run_id.load(Ordering::Relaxed),
            });
        }
        jobs.make_ready(index, state, blamed);
        made_ready += 1;
    }
    made_ready
}
