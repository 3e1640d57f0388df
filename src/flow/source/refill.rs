//! After a power loss: jobs that were handed out and that nothing knows of any more.
//!
//! A slot that was filled just before the power went may not have reached the disk, while the place in
//! the list behind it, or a later slot, has. Such a job is in no slot and in no lane. It is read again
//! from the list. Only what the lanes still hold tells which jobs were done: a job whose results were
//! overwritten in its lane since the last sync can be run again.

use super::lines::{LineReader, is_regular, name};
use crate::config;
use crate::error::Error;
use crate::flow::queue::jobs::{Jobs, NewJob, Phase};
use crate::flow::queue::position::ListPosition;
use crate::flow::queue::reader::jobs_in_lane;
use crate::flow::queue::spool::Spool;
use crate::flow::source::lines::Next;
use crate::sys::atomic::Ordering;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

/// Jobs whose ends stand in lanes, by round and number: each with its lane, and where it ends there.
type InLanes = HashMap<(u64, u64), (u16, u64)>;

/// Hands out again what was lost between the saved place in the list and the furthest job that is
/// known. To be called when nobody lives and everything is settled.
///
/// # Errors
/// If the list or the lanes can't be read.
pub(crate) fn refill(spool: &Spool, list: &config::List) -> Result<(), Error> {
    let path = name(&list.lines);
    if !is_regular(&list.lines).is_ok_and(|regular| regular) {
        return Ok(());
    }
    let saved = ListPosition::saved(spool).1;
    let in_lanes = jobs_in_all_lanes(spool)?;
    settle_by_lanes(spool, &in_lanes);
    forget_unsound(spool);
    let mut known: HashSet<(u64, u64)> = in_lanes.into_keys().collect();
    known.extend(jobs_in_slots(spool).map(|(_, job)| job));
    let Some((round, furthest)) = known.iter().copied().max() else { return Ok(()) };
    let from = match saved {
        saved if saved.round == round && !saved.complete => saved,
        saved if saved.round < round => ListPosition { round, ..saved_before(saved) },
        _ => return Ok(()),
    };
    let missing: HashSet<u64> =
        (from.seq + 1..=furthest).filter(|seq| !known.contains(&(round, *seq))).collect();
    let is_behind = |place: &ListPosition| (place.round, place.seq) < (round, furthest);
    if missing.is_empty() && !is_behind(&ListPosition::load(spool).1) {
        return Ok(());
    }
    let unreadable = |error| Error::file(path, "can't read the list of jobs", error);
    let never = std::io::pipe().map_err(Error::system("can't create a pipe"))?;
    let line_max = spool.layout.geometry.job_bytes as usize;
    let mut reader = LineReader::open(&list.lines, None, line_max, never.0.as_fd())?;
    if reader.skip_to(from.offset, from.prefix).map_err(unreadable)? != Some(true) {
        // Another list: that is for the check of the list to say.
        return Ok(());
    }
    let jobs = Jobs(spool);
    let mut free = (0..jobs.len()).filter(|index| jobs.phase(*index) == Phase::Free);
    let (mut line, mut again, mut reached) = (Vec::new(), 0, from);
    for seq in from.seq + 1..=furthest {
        let Next::Line { too_long } = reader.next(&mut line).map_err(unreadable)? else { break };
        let (offset, prefix) = reader.position();
        if missing.contains(&seq) {
            let Some(index) = free.next() else { break };
            let reason = super::hand_out::reason_of(too_long);
            jobs.fill(index, &NewJob { text: &line, seq, round, offset, prefix, reason });
            again += 1;
        }
        (reached.seq, reached.offset, reached.prefix) = (seq, offset, prefix);
    }
    if !missing.is_empty() {
        log::warn!(
            "{}: {} jobs that were handed out were lost with the power; {again} of them are handed \
             out again",
            path.display(),
            missing.len()
        );
    }
    if is_behind(&ListPosition::load(spool).1) && !is_behind(&reached) {
        // Only a lane knows the furthest one, and the list is not to be gone on with before it. First
        // the slots: a place on the disk without them would be the end of their jobs.
        spool.sync().map_err(|error| Error::file(&spool.path, "can't sync the spool", error))?;
        (reached.at_end, reached.left) = (false, None);
        reached.store(spool, ListPosition::saved(spool).0 + 1);
    }
    Ok(())
}

/// As [`refill`], for a source that is no list: what a slot does not know of its job is put right by the
/// lanes. A job that is in no slot and no lane is handed out again by a source that hands out what was
/// not acknowledged, under another number; with one that counts it is missing, which the books say at
/// the end.
///
/// # Errors
/// If the lanes can't be read.
pub(crate) fn settle_slots(spool: &Spool, acknowledged: bool) -> Result<(), Error> {
    let in_lanes = jobs_in_all_lanes(spool)?;
    settle_by_lanes(spool, &in_lanes);
    forget_unsound(spool);
    let (generation, place) = ListPosition::load(spool);
    let of_round = in_lanes.keys().filter(|(round, _)| *round == place.round);
    let furthest = of_round.map(|(_, seq)| *seq).max().unwrap_or(0);
    if acknowledged && furthest > place.seq && !place.complete {
        // No number is given to two jobs.
        ListPosition { seq: furthest, ..place }.store(spool, generation + 1);
    }
    Ok(())
}

/// Where the list stood when a round began that was never saved.
fn saved_before(saved: ListPosition) -> ListPosition {
    let ListPosition { failed_before, ended_before, .. } = saved;
    ListPosition { failed_before, ended_before, ..ListPosition::default() }
}

/// A job whose end stands in a lane is done, whatever an older page says of its slot.
fn settle_by_lanes(spool: &Spool, in_lanes: &InLanes) {
    let jobs = Jobs(spool);
    for (index, job) in jobs_in_slots(spool) {
        if let Some((lane, end)) = in_lanes.get(&job).filter(|_| jobs.is_pending(index)) {
            jobs.make_done(index, *lane, *end);
        }
    }
}

/// Where a slot and its text don't fit together, one is an older page than the other: the slot was given
/// from a job that is done to one that has not been run. That one is read again from the list; if the
/// place in the list was saved behind it, it is missing, which the books say at the end.
fn forget_unsound(spool: &Spool) {
    let jobs = Jobs(spool);
    (0..jobs.len())
        .filter(|index| jobs.is_pending(*index) && !jobs.is_sound(*index))
        .for_each(|index| jobs.forget(index));
}

/// Round and number of the jobs in slots, each with its slot.
fn jobs_in_slots(spool: &Spool) -> impl Iterator<Item = (usize, (u64, u64))> {
    let jobs = Jobs(spool);
    let filled = move |index: &usize| jobs.phase(*index) != Phase::Free && jobs.is_sound(*index);
    (0..jobs.len()).filter(filled).map(move |index| {
        let slot = jobs.slot(index);
        (index, (slot.round.load(Ordering::Relaxed), slot.seq.load(Ordering::Relaxed)))
    })
}

fn jobs_in_all_lanes(spool: &Spool) -> Result<InLanes, Error> {
    let mut found = HashMap::new();
    for lane in 0..spool.lanes() {
        let ended = jobs_in_lane(spool, lane).map_err(Error::system("can't map a lane"))?;
        // Lanes are numbered by u16 in the layout.
        found.extend(ended.iter().map(|job| ((job.round, job.seq), (lane as u16, job.end))));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::queue::frame::Kind;
    use crate::flow::queue::jobs::{Claim, Claimed, Claimer};
    use crate::flow::queue::lane::{Finish, LaneWriter, Staged};
    use crate::flow::queue::layout::Geometry;

    const JOBS: u64 = 8;

    /// Jobs handed out, and the place saved behind the third; the sixth is done.
    fn handed_out(directory: &std::path::Path) -> (Spool, config::List) {
        let path = directory.join("jobs.txt");
        let lines: String = (1..=20).map(|seq| format!("job-{seq:02}\n")).collect();
        std::fs::write(&path, &lines).expect("write");
        let list = config::List { lines: config::Lines::File(path), every: None, again: true };
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 10, job_bytes: 64 };
        let spool =
            Spool::create(&directory.join("spool"), geometry, 7, None, |_| {}).expect("spool");
        for seq in 1..=JOBS {
            let (text, offset) = (format!("job-{seq:02}"), 7 * seq);
            let prefix = crc32c::crc32c(&lines.as_bytes()[..offset as usize]).into();
            let text = text.as_bytes();
            let job = NewJob { text, seq, round: 1, offset, prefix, reason: None };
            Jobs(&spool).fill(seq as usize - 1, &job);
            if seq == 3 {
                let place = ListPosition { round: 1, offset, seq, prefix, ..Default::default() };
                place.store(&spool, 1);
            }
        }
        let jobs = Jobs(&spool);
        let mut writer = LaneWriter::open(&spool, 0, 0).expect("ring");
        let mut job = Claimed::default();
        while job.seq != 6 {
            let claimer = Claimer { lane: 0, incarnation: 1 };
            assert_eq!(jobs.claim(claimer, &mut job), Claim::Job);
        }
        let (kind, result_end) = (Kind::JobDone, jobs.result_end(&job));
        let finish = Finish { kind, seq: 6, round: 1, result_end };
        writer.publish(&mut Staged::default(), Some(finish)).expect("room");
        (spool, list)
    }

    fn pending(spool: &Spool) -> Vec<u64> {
        let jobs = Jobs(spool);
        let slots = (0..jobs.len()).filter(|index| jobs.is_pending(*index));
        let mut pending: Vec<u64> =
            slots.map(|index| jobs.slot(index).seq.load(Ordering::Relaxed)).collect();
        pending.sort_unstable();
        pending
    }

    #[test]
    fn jobs_that_no_slot_and_no_lane_knows_are_handed_out_again_once() {
        for lost in [vec![], vec![4], vec![4, 5, 7], vec![5, 6, 7]] {
            let directory = tempfile::tempdir().expect("temp dir");
            let (spool, list) = handed_out(directory.path());
            // Pages that never reached the disk: these slots were free before.
            for seq in &lost {
                Jobs(&spool).slot(*seq as usize - 1).state.store(0, Ordering::Release);
            }
            for _again in 0..2 {
                refill(&spool, &list).expect("refilled");
                assert_eq!(pending(&spool), [1, 2, 3, 4, 5, 7, 8], "{lost:?} were lost");
            }
            let jobs = Jobs(&spool);
            for index in (0..jobs.len()).filter(|index| jobs.is_pending(*index)) {
                let seq = jobs.slot(index).seq.load(Ordering::Relaxed);
                assert_eq!(jobs.text(index), format!("job-{seq:02}").as_bytes());
                assert!(jobs.is_sound(index));
            }
        }
    }

    #[test]
    fn a_job_that_only_a_lane_knows_is_not_read_from_the_list_again() {
        // The sixth is known to the lane alone; of those before it some are missing, or none.
        for lost in [4..=JOBS, 6..=JOBS] {
            let directory = tempfile::tempdir().expect("temp dir");
            let (spool, list) = handed_out(directory.path());
            for seq in lost.clone() {
                Jobs(&spool).slot(seq as usize - 1).state.store(0, Ordering::Release);
            }
            for _again in 0..2 {
                refill(&spool, &list).expect("refilled");
                assert_eq!(pending(&spool), [1, 2, 3, 4, 5], "{lost:?} were lost");
                let ListPosition { round, seq, offset, prefix, .. } = ListPosition::load(&spool).1;
                assert_eq!((round, seq, offset), (1, 6, 42), "{lost:?} were lost");
                let lines = std::fs::read(directory.path().join("jobs.txt")).expect("read");
                assert_eq!(prefix, u64::from(crc32c::crc32c(&lines[..42])));
            }
        }
    }

    #[test]
    fn a_job_whose_end_stands_in_a_lane_is_done_whatever_its_slot_says() {
        let directory = tempfile::tempdir().expect("temp dir");
        let (spool, list) = handed_out(directory.path());
        // An older page: claimed, and nothing published yet.
        let jobs = Jobs(&spool);
        let slot = jobs.slot(5);
        slot.result_end.store(u64::MAX, Ordering::Release);
        assert!(pending(&spool).contains(&6));
        refill(&spool, &list).expect("refilled");
        assert_eq!(pending(&spool), [1, 2, 3, 4, 5, 7, 8]);
        assert!(jobs.is_done(5) && !jobs.is_committed(5), "its results are not written yet");
        let tail = spool.producer(0).tail.load(Ordering::Acquire);
        spool.consumer(0).freed.store(tail, Ordering::Release);
        assert!(jobs.is_committed(5), "the source may free it");
    }

    #[test]
    fn a_slot_that_does_not_fit_its_text_is_not_believed_and_its_job_is_read_again() {
        let directory = tempfile::tempdir().expect("temp dir");
        let (spool, list) = handed_out(directory.path());
        let jobs = Jobs(&spool);
        // One page was written back, the other was not.
        for index in [4, 6] {
            jobs.slot(index).len_and_checksum.fetch_xor(1 << 40, Ordering::Relaxed);
            assert!(!jobs.is_sound(index));
        }
        refill(&spool, &list).expect("refilled");
        assert_eq!(pending(&spool), [1, 2, 3, 4, 5, 7, 8]);
        for index in (0..jobs.len()).filter(|index| jobs.is_pending(*index)) {
            let seq = jobs.slot(index).seq.load(Ordering::Relaxed);
            assert_eq!(jobs.text(index), format!("job-{seq:02}").as_bytes());
        }
    }

    #[test]
    fn of_a_source_that_is_no_list_no_number_is_given_twice() {
        let directory = tempfile::tempdir().expect("temp dir");
        let (spool, _) = handed_out(directory.path());
        // None of these slots has reached the disk; the lane knows that the sixth job is done.
        for seq in 4..=JOBS {
            Jobs(&spool).slot(seq as usize - 1).state.store(0, Ordering::Release);
        }
        settle_slots(&spool, false).expect("settled");
        assert_eq!(ListPosition::load(&spool).1.seq, 3);
        settle_slots(&spool, true).expect("settled");
        assert_eq!(ListPosition::load(&spool).1.seq, 6);
    }

    #[test]
    fn a_list_that_has_changed_is_left_alone() {
        let directory = tempfile::tempdir().expect("temp dir");
        let (spool, list) = handed_out(directory.path());
        Jobs(&spool).slot(3).state.store(0, Ordering::Release);
        std::fs::write(directory.path().join("jobs.txt"), "other\njobs\n".repeat(9))
            .expect("write");
        refill(&spool, &list).expect("refilled");
        assert_eq!(pending(&spool), [1, 2, 3, 5, 7, 8]);
    }
}
