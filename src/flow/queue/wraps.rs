//! Every counter of the queue at its end, reached by setting it there: the types are the real ones.

use super::commit::{Commit, Totals};
use super::frame::Kind;
use super::jobs::{Claim, Claimed, Claimer, Jobs, NewJob, Phase};
use super::lane::{LaneWriter, Staged};
use super::layout::Geometry;
use super::position::ListPosition;
use super::processes;
use super::reader::{Mark, survey};
use super::settle::settle;
use super::spool::Spool;
use crate::sys::atomic::Ordering;
use crate::sys::futex;

/// A slot's word counts its changes in 24 bits, from bit 40 on.
const CHANGES_MAX: u64 = 0xff_ffff << 40;

fn spool() -> (tempfile::TempDir, Spool) {
    let directory = tempfile::tempdir().expect("temp dir");
    let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 2, job_bytes: 64 };
    let path = directory.path().join("spool");
    let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
    (directory, spool)
}

fn fill(spool: &Spool, index: usize, seq: u64) {
    let (offset, prefix, round) = (seq, seq, u64::MAX);
    let job = NewJob { text: b"job", seq, round, offset, prefix, reason: None };
    Jobs(spool).fill(index, &job);
}

fn claim(spool: &Spool, by: Claimer) -> Claimed {
    let mut job = Claimed::default();
    assert_eq!(Jobs(spool).claim(by, &mut job), Claim::Job);
    job
}

#[test]
fn a_slot_whose_count_of_changes_wraps_goes_on_through_all_its_phases() {
    let (_directory, spool) = spool();
    let jobs = Jobs(&spool);
    let by = Claimer { lane: 0, incarnation: 1 };
    // From each of its last changes on, so that each step is the one that wraps.
    for before in 0..4 {
        jobs.slot(0).state.store(CHANGES_MAX - (before << 40), Ordering::Release);
        fill(&spool, 0, 5);
        assert_eq!(jobs.phase(0), Phase::Ready);
        let job = claim(&spool, by);
        assert_eq!((job.slot, job.seq, jobs.phase(0)), (0, 5, Phase::Claimed(by)));
        assert_eq!(settle(&spool, 0, None, |_| {}), 1);
        assert_eq!(jobs.phase(0), Phase::Ready);
        let job = claim(&spool, by);
        jobs.result_end(&job).store(0, Ordering::Release);
        assert!(jobs.is_done(0));
        jobs.free(0);
        assert_eq!(jobs.phase(0), Phase::Free);
        let changes = jobs.slot(0).state.load(Ordering::Acquire) >> 40;
        assert_eq!(changes, (0xff_ffff - before + 5) & 0xff_ffff, "every step is one change");
    }
}

#[test]
fn jobs_of_the_last_incarnation_that_sixteen_bits_hold_are_settled_by_the_one_after_it() {
    let (_directory, spool) = spool();
    let index = processes::worker(0);
    spool.process(index).incarnation.store(0xfffe, Ordering::Relaxed);
    let claimer = || {
        let incarnation = processes::enter(&spool, index).incarnation as u16;
        Claimer { lane: 0, incarnation }
    };
    fill(&spool, 0, 1);
    let last = claimer();
    assert_eq!(last.incarnation, 0xffff);
    claim(&spool, last);
    let next = claimer();
    assert_eq!(next.incarnation, 0);
    assert_eq!(settle(&spool, 0, None, |_| {}), 1);
    assert_eq!(claim(&spool, next).seq, 1);
    assert_eq!(Jobs(&spool).phase(0), Phase::Claimed(next));
}

#[test]
fn a_word_of_announcements_that_wraps_still_wakes_who_waits_for_jobs() {
    let (_directory, spool) = spool();
    let jobs = Jobs(&spool);
    spool.bells().jobs.store(u32::MAX, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            loop {
                let _idle = jobs.idle();
                let seen = jobs.bell();
                let mut job = Claimed::default();
                match jobs.claim(Claimer { lane: 0, incarnation: 1 }, &mut job) {
                    Claim::Job => return job.seq,
                    Claim::None { until } => jobs.wait(seen, until, futex::EVERYONE),
                }
            }
        });
        // The worker is asleep, or about to be.
        while spool.bells().jobs_idle.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        fill(&spool, 1, 9);
        jobs.announce(1);
        assert_eq!(worker.join().expect("awake"), 9);
    });
    assert_eq!(jobs.bell(), 0, "it has wrapped");
}

#[test]
fn a_hint_where_to_look_for_jobs_may_be_any_number() {
    let (_directory, spool) = spool();
    let by = Claimer { lane: 0, incarnation: 1 };
    for hint in [0, 1, 2, u32::MAX - 1, u32::MAX] {
        spool.bells().jobs_hint.store(hint, Ordering::Relaxed);
        fill(&spool, 1, 3);
        let job = claim(&spool, by);
        assert_eq!(job.slot, 1);
        Jobs(&spool).result_end(&job).store(0, Ordering::Release);
        Jobs(&spool).free(1);
    }
}

/// Numbers of 64 bits don't wrap: at a thousand million a second one lasts for 500 years. Up to
/// there nothing is kept in fewer.
#[test]
fn books_and_places_are_kept_whole_up_to_the_last_number() {
    let (_directory, spool) = spool();
    let last = u64::MAX - 1;
    let totals = Totals {
        results: last,
        dead_letters: last,
        jobs_done: last,
        jobs_failed: last,
        quarantined: last,
        torn: last,
    };
    let lanes = vec![Mark { offset: last, records: last }];
    let books = Commit { generation: last, totals, lanes, ..Commit::initial(1) };
    books.store(&spool);
    Commit { generation: u64::MAX, ..books.clone() }.store_intent(&spool);
    assert_eq!(Commit::load(&spool), books);
    let intent = Commit::load_intent(&spool, &books).expect("newer than the books");
    assert_eq!((intent.generation, intent.totals), (u64::MAX, totals));
    let place = ListPosition { seq: last, round: last, offset: last, ..ListPosition::default() };
    place.store(&spool, last);
    assert_eq!(ListPosition::load(&spool), (last, place));
}

#[test]
fn a_lane_goes_on_where_two_to_the_sixty_third_bytes_have_gone_through_it() {
    let (_directory, spool) = spool();
    let start = (1_u64 << 63) - 4096;
    spool.producer(0).tail.store(start, Ordering::Release);
    spool.consumer(0).freed.store(start, Ordering::Release);
    // The largest number that fits: a frame takes 24 bytes at the least.
    let records = start / 24 - 20;
    let mut writer = LaneWriter::open(&spool, 0, records).expect("ring");
    let mark = Mark { offset: start, records };
    let mut staged = Staged::default();
    let pushed = staged.push(Kind::Result, |bytes| {
        bytes.extend_from_slice(b"record");
        Ok::<(), ()>(())
    });
    assert_eq!(pushed, Ok(()));
    for number in 1..=20 {
        writer.publish(&mut staged, None).expect("room");
        let found = survey(&spool, 0, mark).expect("ring");
        assert_eq!((found.end.records, found.lost), (records + number, 0));
    }
}
