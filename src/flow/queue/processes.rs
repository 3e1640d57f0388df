//! The table of our processes, for `status`, for orphans, and for the next start.

use super::layout::{Process, ProcessState};
use super::spool::Spool;
use crate::sys::atomic::Ordering;
use crate::sys::proc_fs;

/// Slot of the source.
pub(crate) const SOURCE: usize = 0;
/// Slot of the buffer.
pub(crate) const BUFFER: usize = 1;

/// Slot of the worker of a lane.
pub(crate) const fn worker(lane: usize) -> usize {
    2 + lane
}

/// The calling process, as it is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which process in this role it is in the life of the spool, from 1.
    pub incarnation: u64,
    /// It is the first of this run.
    pub first: bool,
}

/// Enters the calling process.
pub(crate) fn enter(spool: &Spool, index: usize) -> Entry {
    let pid = std::process::id();
    let process: &Process = spool.process(index);
    // The start time goes last: with an old one, the new pid names nobody.
    process.start.store(0, Ordering::Relaxed);
    process.pid.store(pid.into(), Ordering::Relaxed);
    let before = process.state.swap(ProcessState::Starting as u64, Ordering::Relaxed);
    let incarnation = process.incarnation.fetch_add(1, Ordering::Relaxed) + 1;
    let start = i32::try_from(pid).ok().and_then(proc_fs::start_time).unwrap_or(0);
    process.start.store(start, Ordering::Release);
    Entry { incarnation, first: before == ProcessState::Absent as u64 }
}

/// Clears the slot for a new run.
pub(crate) fn begin_run(spool: &Spool, index: usize) {
    let process = spool.process(index);
    process.before_run.store(process.incarnation.load(Ordering::Relaxed), Ordering::Relaxed);
    set_state(spool, index, ProcessState::Absent);
}

/// Notes how the process of this slot has ended, see [`Process::last_end`].
pub(crate) fn note_end(spool: &Spool, index: usize, end: u64) {
    spool.process(index).last_end.store(end, Ordering::Release);
}

/// Notes that the process of this slot is ended on purpose: what it has in hand counts no death.
pub(crate) fn condemn(spool: &Spool, index: usize) {
    spool.process(index).condemned.store(1, Ordering::Release);
}

/// What the jobs of the process before this one may be blamed for: how it ended, unless it was
/// killed on purpose. To be asked by its successor, which may die before it has
/// [settled](note_settled) them.
pub(crate) fn blame(spool: &Spool, index: usize) -> Option<u64> {
    let process = spool.process(index);
    let condemned = process.condemned.load(Ordering::Acquire) != 0;
    (!condemned).then(|| process.last_end.load(Ordering::Acquire))
}

/// Notes that the jobs of the process before this one are settled: from now on the blame is for those of
/// this one.
pub(crate) fn note_settled(spool: &Spool, index: usize) {
    spool.process(index).condemned.store(0, Ordering::Release);
}

/// Notes that what was written could not be forced to the disk: no buffer of this run may try again,
/// since the system says so only once, and whatever it says then means nothing.
pub(crate) fn note_unsynced(spool: &Spool) {
    spool.process(BUFFER).unsynced.store(1, Ordering::Release);
}

/// Has a buffer of this run noted that?
pub(crate) fn is_unsynced(spool: &Spool) -> bool {
    spool.process(BUFFER).unsynced.load(Ordering::Acquire) != 0
}

/// A new run begins, or a new file. Was it noted?
pub(crate) fn forget_unsynced(spool: &Spool) -> bool {
    spool.process(BUFFER).unsynced.swap(0, Ordering::AcqRel) != 0
}

/// Notes that the calling worker has done a job well.
pub(crate) fn note_job_done(spool: &Spool, index: usize) {
    spool.process(index).jobs_done.fetch_add(1, Ordering::Relaxed);
}

/// How many jobs workers have done well in the life of the spool.
pub(crate) fn jobs_done(spool: &Spool) -> u64 {
    let done = |index| spool.process(index).jobs_done.load(Ordering::Relaxed);
    (worker(0)..spool.processes()).map(done).fold(0, u64::wrapping_add)
}

/// Says what the process of this slot is doing.
pub(crate) fn set_state(spool: &Spool, index: usize, state: ProcessState) {
    spool.process(index).state.store(state as u64, Ordering::Release);
}

/// Has the process of this slot ended in order?
pub(crate) fn has_ended(spool: &Spool, index: usize) -> bool {
    spool.process(index).state.load(Ordering::Acquire) == ProcessState::Ended as u64
}

/// The living process of this slot: its pid, if one is entered and it is still the same process.
pub(crate) fn living(spool: &Spool, index: usize) -> Option<i32> {
    let process = spool.process(index);
    let start = process.start.load(Ordering::Acquire);
    let pid = i32::try_from(process.pid.load(Ordering::Relaxed)).ok().filter(|pid| *pid > 0)?;
    let stat = proc_fs::stat(pid)?;
    (start != 0 && stat.start_time == start && !stat.ended()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::queue::layout::Geometry;

    #[test]
    fn jobs_of_a_process_that_was_killed_on_purpose_are_not_blamed_for_the_death_of_the_next_one() {
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 1, job_bytes: 8 };
        let spool = Spool::in_memory(geometry);
        condemn(&spool, worker(0));
        note_end(&spool, worker(0), 1);
        assert_eq!(blame(&spool, worker(0)), None);
        // Killed before it has settled them.
        note_end(&spool, worker(0), 521);
        assert_eq!(blame(&spool, worker(0)), None);
        note_settled(&spool, worker(0));
        assert_eq!(blame(&spool, worker(0)), Some(521));
    }

    #[test]
    fn a_process_is_the_first_of_its_run_once_and_its_incarnations_are_counted_through_all_runs() {
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 1, job_bytes: 8 };
        let spool = Spool::in_memory(geometry);
        let mut incarnation = 0;
        for run in 0..3 {
            begin_run(&spool, worker(0));
            let before_run = spool.process(worker(0)).before_run.load(Ordering::Relaxed);
            assert_eq!(before_run, incarnation);
            for nth in 0..3 {
                incarnation += 1;
                let entry = enter(&spool, worker(0));
                assert_eq!(entry, Entry { incarnation, first: nth == 0 }, "run {run}");
                assert_eq!(living(&spool, worker(0)), std::process::id().try_into().ok());
            }
        }
    }

    #[test]
    fn that_a_sync_has_failed_is_forgotten_once() {
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 1, job_bytes: 8 };
        let spool = Spool::in_memory(geometry);
        assert!(!is_unsynced(&spool) && !forget_unsynced(&spool));
        note_unsynced(&spool);
        assert!(is_unsynced(&spool) && forget_unsynced(&spool));
        assert!(!is_unsynced(&spool) && !forget_unsynced(&spool));
    }
}
