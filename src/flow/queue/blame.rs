//! What a worker had in hand when it died: is its death a job's doing?
//!
//! Main asks it when it has reaped a worker, before a successor settles the slots. The answer decides
//! nothing about the job, which [`super::settle`] does; only whether the death is one of those after
//! which a pipeline is given up.

use super::jobs::{Deaths, Jobs, Phase};
use super::layout::Process;
use super::processes;
use super::spool::Spool;
use crate::sys::atomic::Ordering;

/// What the last process of a lane had in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InHand {
    /// No job that had begun.
    Nothing,
    /// Jobs that no worker has died of before.
    Jobs,
    /// A job that a worker has died of before, and that ran alone for this reason.
    SuspectAlone,
}

/// What the last process of this lane had in hand; to be asked when it was reaped, and nothing has
/// taken its place.
pub(crate) fn in_hand(spool: &Spool, lane: u16) -> InHand {
    let jobs = Jobs(spool);
    let process: &Process = spool.process(processes::worker(lane.into()));
    let incarnation = process.incarnation.load(Ordering::Acquire) as u16;
    let of_slot = |index: usize| {
        let (state, done) = jobs.look(index);
        match state.phase() {
            // What an earlier process has left is not this one's.
            Phase::Claimed(by) if by.lane == lane && by.incarnation == incarnation && !done => {}
            _ => return InHand::Nothing,
        }
        let slot = jobs.slot(index);
        let alone = Deaths::of(slot).under_way;
        if alone && slot.suspect.load(Ordering::Relaxed) != 0 {
            InHand::SuspectAlone
        } else if alone || slot.started.load(Ordering::Relaxed) != 0 {
            InHand::Jobs
        } else {
            InHand::Nothing
        }
    };
    (0..jobs.len()).map(of_slot).max().unwrap_or(InHand::Nothing)
}

#[cfg(test)]
mod tests {
    use super::super::jobs::{Claim, Claimed, Claimer, NewJob};
    use super::super::layout::Geometry;
    use super::super::settle::settle;
    use super::*;

    fn spool(jobs: u64) -> Spool {
        let geometry = Geometry { lanes: 2, lane_bytes: 4096, slots: 4, job_bytes: 8 };
        let spool = Spool::in_memory(geometry);
        for seq in 1..=jobs {
            let new = NewJob { text: b"job", seq, round: 1, offset: seq, prefix: 0, reason: None };
            let table = Jobs(&spool);
            let free = (0..table.len()).find(|at| table.phase(*at) == Phase::Free);
            table.fill(free.expect("a free slot"), &new);
        }
        spool
    }

    /// The next process of a lane takes a job.
    fn take(spool: &Spool, lane: u16) -> Claimed {
        let index = processes::worker(lane.into());
        let by = Claimer { lane, incarnation: processes::enter(spool, index).incarnation as u16 };
        let mut job = Claimed::default();
        assert_eq!(Jobs(spool).claim(by, &mut job), Claim::Job);
        job
    }

    #[test]
    fn a_suspect_is_told_from_a_job_and_a_job_from_nothing() {
        let spool = spool(1);
        assert_eq!(in_hand(&spool, 0), InHand::Nothing);
        let job = take(&spool, 0);
        assert_eq!(in_hand(&spool, 0), InHand::Nothing, "not begun");
        Jobs(&spool).begin(&job, false);
        assert_eq!((in_hand(&spool, 0), in_hand(&spool, 1)), (InHand::Jobs, InHand::Nothing));
        settle(&spool, 0, Some(1), |_| {});
        assert_eq!(in_hand(&spool, 0), InHand::Nothing, "ready again");
        let job = take(&spool, 1);
        assert!(job.suspect);
        Jobs(&spool).begin(&job, true);
        assert_eq!(in_hand(&spool, 1), InHand::SuspectAlone);
    }

    #[test]
    fn what_an_earlier_process_had_in_hand_is_not_put_down_to_the_one_that_dies_before_it_settles()
    {
        let spool = spool(1);
        let job = take(&spool, 0);
        Jobs(&spool).begin(&job, true);
        assert_eq!(in_hand(&spool, 0), InHand::Jobs);
        processes::enter(&spool, processes::worker(0));
        assert_eq!(in_hand(&spool, 0), InHand::Nothing);
    }
}
