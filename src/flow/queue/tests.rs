//! Promises of the queue, each with the death or the interleaving that would break it.
//!
//! A kill is a writer that goes no further: what it has stored is there, what it was about to store
//! never comes.

use super::bell;
use super::commit::Commit;
use super::ends;
use super::frame::{self, HEAD, Kind};
use super::jobs::{Claim, Claimed, Claimer, Jobs, NewJob, Phase, PutBack};
use super::lane::{Finish, LaneWriter, Staged};
use super::layout::{Geometry, Slot};
use super::position::ListPosition;
use super::reader::{Gathered, LaneReader, Mark, Torn, survey};
use super::settle::settle;
use super::spool::Spool;
use crate::sys::atomic::{AtomicU32, Ordering};
use crate::sys::{clock, futex};
use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

mod books;
mod put_back;
mod restricted;
mod table;

/// How long a race is looked for.
const RACE: Duration = Duration::from_millis(300);

/// So many, or what Miri can do in a second.
const fn few(rounds: u64) -> u64 {
    if cfg!(miri) { rounds / 100 } else { rounds }
}

const OLD: Claimer = Claimer { lane: 0, incarnation: 1 };
const NEW: Claimer = Claimer { lane: 0, incarnation: 2 };

fn spool(lanes: u32, slots: u32) -> (tempfile::TempDir, Spool) {
    let directory = tempfile::tempdir().expect("temp dir");
    let geometry = Geometry { lanes, lane_bytes: 4096, slots, job_bytes: 64 };
    let spool = if cfg!(miri) {
        Spool::in_memory(geometry)
    } else {
        Spool::create(&directory.path().join("spool"), geometry, 7, None, |_| {}).expect("spool")
    };
    (directory, spool)
}

fn slot(spool: &Spool, index: usize) -> &Slot {
    spool.mapping.at::<Slot>(spool.layout.slots + index * size_of::<Slot>())
}

fn fill(spool: &Spool, index: usize, seq: u64) {
    let job = NewJob { text: b"job", seq, round: 1, offset: 4 * seq, prefix: seq, reason: None };
    Jobs(spool).fill(index, &job);
}

fn claim(spool: &Spool, by: Claimer) -> Claimed {
    let mut job = Claimed::default();
    assert_eq!(Jobs(spool).claim(by, &mut job), Claim::Job);
    job
}

fn staged(records: &[&[u8]]) -> Staged {
    let mut staged = Staged::default();
    for record in records {
        let Ok(()) = staged.push(Kind::Result, |bytes| {
            bytes.extend_from_slice(record);
            Ok::<(), Infallible>(())
        });
    }
    staged
}

fn publish(spool: &Spool, writer: &mut LaneWriter<'_>, job: &Claimed, records: &[&[u8]]) {
    let result_end = &slot(spool, job.slot).result_end;
    let finish = Finish { kind: Kind::JobDone, seq: job.seq, round: job.round, result_end };
    writer.publish(&mut staged(records), Some(finish)).expect("room");
}

fn writer(spool: &Spool, lane: usize) -> LaneWriter<'_> {
    let survey = survey(spool, lane, Commit::load_head(spool, lane)).expect("ring");
    LaneWriter::open(spool, lane, survey.end.records).expect("ring")
}

fn read(spool: &Spool, from: &mut Mark) -> Gathered {
    let mut gathered = Gathered::default();
    let tail = spool.producer(0).tail.load(Ordering::Acquire);
    let reader = LaneReader::open(spool, 0).expect("ring");
    reader.gather(from, tail, usize::MAX, &mut gathered);
    gathered
}

fn tail(spool: &Spool) -> u64 {
    spool.producer(0).tail.load(Ordering::Acquire)
}

/// Runs `other` again and again in a second thread for as long as `main` runs.
fn race(main: impl FnOnce(), other: impl Fn() + Sync) {
    struct Over<'a>(&'a AtomicBool);
    // Also when an assertion of `main` fails.
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                other();
            }
        });
        let _over = Over(&over);
        main();
    });
}

// A worker's death, between any two steps of a job.

#[test]
fn a_job_of_a_worker_that_died_before_the_tail_is_ready_again_and_none_of_it_is_read() {
    let (_directory, spool) = spool(1, 1);
    fill(&spool, 0, 1);
    let job = claim(&spool, OLD);
    // Died after the frames and `result_end`, before the tail.
    spool.map_ring(0, true).expect("ring").write(0, &frame::of(Kind::Result, 0, 1, b"x"));
    slot(&spool, job.slot).result_end.store(64, Ordering::Release);
    spool.producer(0).published.store(1, Ordering::Release);
    assert_eq!(settle(&spool, 0, None, |_| {}), 1);
    assert_eq!(Jobs(&spool).phase(0), Phase::Ready);
    let mut mark = Mark::default();
    assert_eq!(read(&spool, &mut mark).result_records, 0);
    // Its successor publishes over it, past the dead one's `result_end`, with numbers that go on.
    let again = claim(&spool, NEW);
    let mut writer = writer(&spool, 0);
    assert!(!Jobs(&spool).is_done(0));
    publish(&spool, &mut writer, &again, &[b"first\n", b"second\n"]);
    assert!(Jobs(&spool).is_done(0));
    let gathered = read(&spool, &mut mark);
    assert_eq!(
        (gathered.results.bytes.as_slice(), gathered.jobs_done),
        (&b"first\nsecond\n"[..], 1)
    );
}

#[test]
fn a_job_of_a_worker_that_died_behind_the_tail_is_done_for_ever() {
    let (_directory, spool) = spool(1, 1);
    fill(&spool, 0, 1);
    let job = claim(&spool, OLD);
    publish(&spool, &mut writer(&spool, 0), &job, &[b"x\n"]);
    for _ in 0..2 {
        assert_eq!(settle(&spool, 0, None, |_| {}), 0);
    }
    assert!(Jobs(&spool).is_done(0) && !Jobs(&spool).is_committed(0));
    spool.consumer(0).freed.store(tail(&spool), Ordering::Release);
    assert!(Jobs(&spool).is_committed(0));
    Jobs(&spool).free(0);
    fill(&spool, 0, 2);
    assert!(!Jobs(&spool).is_done(0), "nothing of the slot's last job is believed of the next");
    let _next = claim(&spool, NEW);
    assert!(!Jobs(&spool).is_done(0), "nor once it is claimed");
}

#[test]
fn a_stale_result_end_never_makes_a_job_that_was_put_back_done() {
    let (_directory, spool) = spool(1, 2);
    fill(&spool, 0, 1);
    let job = claim(&spool, OLD);
    Jobs(&spool).begin(&job, true);
    slot(&spool, 0).result_end.store(8, Ordering::Release);
    Jobs(&spool).put_back(&job, PutBack::Failed, None);
    spool.producer(0).tail.store(4000, Ordering::Release);
    let again = claim(&spool, OLD);
    assert!(!Jobs(&spool).is_done(again.slot));
    assert_eq!(again.attempts, 1);
}

#[test]
fn settling_never_touches_a_slot_that_the_source_gives_back_meanwhile() {
    let (_directory, spool) = spool(1, 1);
    let until = clock::now() + RACE;
    let resurrected = AtomicU32::new(0);
    race(
        || {
            while clock::now() < until && resurrected.load(Ordering::Relaxed) == 0 {
                // Whoever sees it claimed sees it done: so there is never anything to settle.
                fill(&spool, 0, 1);
                slot(&spool, 0).result_end.store(0, Ordering::Release);
                let _claimed = claim(&spool, OLD);
                if Jobs(&spool).is_done(0) {
                    Jobs(&spool).free(0);
                }
                if Jobs(&spool).phase(0) != Phase::Free {
                    break;
                }
            }
        },
        || {
            let settled = settle(&spool, 0, None, |_| {});
            resurrected.fetch_add(settled as u32, Ordering::Relaxed);
        },
    );
    assert_eq!(resurrected.into_inner(), 0, "a job that was done is ready again");
}

#[test]
fn a_job_that_is_settled_while_the_source_looks_is_never_taken_for_done() {
    let (_directory, spool) = spool(1, 1);
    let until = clock::now() + RACE;
    let wrong = AtomicBool::new(false);
    fill(&spool, 0, 1);
    race(
        || {
            while clock::now() < until && !wrong.load(Ordering::Relaxed) {
                // Dies before its tail; the next one settles, then publishes something else past it.
                let _claimed = claim(&spool, OLD);
                let tail = tail(&spool);
                slot(&spool, 0).result_end.store(tail + 8, Ordering::Release);
                assert_eq!(settle(&spool, 0, None, |_| {}), 1);
                spool.producer(0).tail.store(tail + 16, Ordering::Release);
            }
        },
        || {
            if Jobs(&spool).is_done(0) {
                wrong.store(true, Ordering::Relaxed);
            }
        },
    );
    assert!(!wrong.into_inner(), "a job that was never published was called done");
}

#[test]
fn the_claims_of_two_workers_never_meet() {
    let (_directory, spool) = spool(2, 4);
    let until = clock::now() + Duration::from_millis(50);
    let held = [const { AtomicU32::new(0) }; 4];
    let work = |lane: u16| {
        let mut job = Claimed::default();
        if Jobs(&spool).claim(Claimer { lane, incarnation: 1 }, &mut job) == Claim::Job {
            assert_eq!(held[job.slot].fetch_add(1, Ordering::SeqCst), 0);
            assert_eq!(job.seq, job.slot as u64 + 1);
            held[job.slot].fetch_sub(1, Ordering::SeqCst);
            Jobs(&spool).put_back(&job, PutBack::Interrupted, None);
        }
    };
    for index in 0..4 {
        fill(&spool, index, index as u64 + 1);
    }
    race(
        || {
            while clock::now() < until {
                work(0);
            }
        },
        || work(1),
    );
}

#[test]
fn what_one_thread_publishes_another_reads_whole_and_in_order() {
    let (_directory, spool) = spool(1, 1);
    let rounds = few(2_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = writer(&spool, 0);
            for number in 1..=rounds {
                writer
                    .publish(&mut staged(&[&number.to_le_bytes(), &[b'x'; 500]]), None)
                    .expect("room");
            }
        });
        let (reader, consumer) = (LaneReader::open(&spool, 0).expect("ring"), spool.consumer(0));
        let (mut mark, mut gathered) = (Mark::default(), Gathered::default());
        let mut next = 1;
        while next <= rounds {
            let tail = ends::tail(spool.producer(0));
            reader.gather(&mut mark, tail, usize::MAX, &mut gathered);
            assert!(gathered.torn.is_empty(), "whole frames");
            for record in gathered.results.bytes.chunks(508) {
                assert_eq!(record[..8], next.to_le_bytes());
                next += 1;
            }
            gathered.clear();
            ends::free(consumer, mark.offset);
            bell::ring(spool.lane_bell(0));
        }
    });
}

// The place in the list.

#[test]
#[cfg_attr(miri, ignore = "Miri has no atomics on half of a word")]
fn the_place_in_the_list_is_that_of_the_last_job_that_is_in_a_slot_or_was_saved() {
    let (_directory, spool) = spool(1, 2);
    fill(&spool, 0, 7);
    fill(&spool, 1, 8);
    assert_eq!(ListPosition::load(&spool).1.seq, 8, "killed after the fill, before a save");
    let saved = ListPosition { round: 1, seq: 9, offset: 36, ..ListPosition::default() };
    saved.store(&spool, 1);
    assert_eq!(ListPosition::load(&spool).1, saved, "killed after the save, before a fill");
    let torn = ListPosition { seq: 10, ..saved };
    torn.store(&spool, 2);
    // Killed in the middle of a save.
    let word = spool.layout.position[0] + 8 * 4;
    spool.mapping.at::<AtomicU32>(word).store(99, Ordering::Relaxed);
    assert_eq!(ListPosition::load(&spool).1, saved);
}

#[test]
fn a_round_that_was_declared_over_is_over_whatever_slots_say() {
    let (_directory, spool) = spool(1, 2);
    fill(&spool, 0, 7);
    // `--fresh`, killed before all slots were forgotten.
    ListPosition { round: 1, complete: true, ..ListPosition::default() }.store(&spool, 1);
    assert!(ListPosition::load(&spool).1.complete);
}

#[test]
#[cfg_attr(miri, ignore = "about the file")]
fn a_spool_that_gives_its_room_back_still_knows_the_place_in_the_list() {
    let (directory, spool) = spool(1, 2);
    let place = ListPosition { round: 1, seq: 9, offset: 36, ..ListPosition::default() };
    place.store(&spool, 1);
    spool.end(5, true);
    drop(spool);
    let spool = Spool::open(&directory.path().join("spool")).expect("open").expect("there");
    assert!(spool.is_closed());
    assert_eq!(ListPosition::load(&spool).1, place);
}

// The books.

fn books(generation: u64, offset: u64) -> Commit {
    let lanes = vec![Mark { offset, records: offset }];
    Commit { generation, lanes, ..Commit::initial(1) }
}

#[test]
fn an_intent_is_pending_exactly_until_its_own_commit() {
    let (_directory, spool) = spool(1, 1);
    let pending = || Commit::load_intent(&spool, &Commit::load(&spool)).map(|one| one.generation);
    assert_eq!(pending(), None);
    books(1, 10).store_intent(&spool);
    assert_eq!(pending(), Some(1), "the very first batch, before any commit");
    books(1, 10).store(&spool);
    assert_eq!(pending(), None);
    // A sync: a commit of its own, without a batch.
    books(2, 10).store(&spool);
    assert_eq!(pending(), None, "an old intent is not taken for the next");
    books(3, 20).store_intent(&spool);
    assert_eq!(pending(), Some(3), "a sync before an intent does not hide it");
    books(3, 20).store(&spool);
    books(4, 20).store(&spool);
    books(5, 20).store(&spool);
    assert_eq!(pending(), None);
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no atomics on half of a word")]
fn an_intent_that_was_torn_was_never_begun() {
    let (_directory, spool) = spool(1, 1);
    books(1, 10).store(&spool);
    for torn in 1..20 {
        books(2, 20).store_intent(&spool);
        let word = spool.mapping.at::<AtomicU32>(spool.layout.intent + 8 * torn);
        word.store(word.load(Ordering::Relaxed) ^ 1, Ordering::Relaxed);
        assert_eq!(Commit::load_intent(&spool, &Commit::load(&spool)), None, "word {torn}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no atomics on half of a word")]
fn a_torn_commit_leaves_the_one_before_it_and_its_intent_pending() {
    let (_directory, spool) = spool(1, 1);
    books(1, 10).store(&spool);
    books(2, 20).store_intent(&spool);
    books(2, 20).store(&spool);
    let word = spool.mapping.at::<AtomicU32>(spool.layout.commit[0] + 8);
    word.store(77, Ordering::Relaxed);
    let committed = Commit::load(&spool);
    assert_eq!(committed.generation, 1);
    assert_eq!(Commit::load_intent(&spool, &committed), Some(books(2, 20)));
}

#[test]
fn the_books_are_whole_for_whoever_reads_them_while_they_are_written() {
    let (_directory, spool) = spool(64, 1);
    let many = |generation: u64| Commit {
        generation,
        lanes: vec![Mark { offset: generation, records: generation }; 64],
        ..Commit::initial(64)
    };
    many(1).store(&spool);
    many(2).store(&spool);
    let until = clock::now() + RACE;
    let failed = AtomicBool::new(false);
    let mut generation = 2;
    race(
        || {
            while clock::now() < until && !failed.load(Ordering::Relaxed) {
                generation += 1;
                many(generation).store(&spool);
            }
        },
        || {
            let read = Commit::load(&spool);
            let same = read.lanes.iter().all(|mark| mark.offset == read.generation);
            if read.generation == 0 || !same {
                failed.store(true, Ordering::Relaxed);
            }
        },
    );
    assert!(!failed.into_inner(), "a worker that takes over its lane found no books at all");
}

// Bytes that a broken worker wrote.

#[test]
fn no_tail_and_no_bytes_of_a_broken_worker_make_the_reader_panic() {
    let (_directory, spool) = spool(1, 1);
    let ring = spool.map_ring(0, true).expect("ring");
    let reader = LaneReader::open(&spool, 0).expect("ring");
    let mut seed = 1u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..few(20_000) {
        let at = random();
        let mut frame = frame::of(Kind::Result, at, 1, b"12345678");
        frame[(random() % HEAD as u64) as usize] ^= random() as u8;
        ring.write((at % 4096) as usize, &frame);
        let until = match random() % 4 {
            0 => at.wrapping_add(random() % 5000),
            1 => u64::MAX,
            2 => at.wrapping_sub(1),
            _ => random(),
        };
        let mut mark = Mark { offset: at, records: (at % 2) << 40 };
        // An end, and no more than there is room for.
        let mut gathered = Gathered::default();
        reader.gather(&mut mark, until, usize::MAX, &mut gathered);
        assert!(gathered.results.bytes.len() < 4096 && mark.offset - at <= 4096);
    }
}

#[test]
fn a_frame_of_an_earlier_lap_is_never_read_again() {
    let (_directory, spool) = spool(1, 1);
    let mut writer = writer(&spool, 0);
    let (mut mark, record) = (Mark::default(), [b'x'; 1000]);
    for _ in 0..4 {
        writer.publish(&mut staged(&[&record]), None).expect("room");
        read(&spool, &mut mark);
        spool.consumer(0).freed.store(mark.offset, Ordering::Release);
    }
    // A broken writer moves its tail and writes nothing: what stands there is of the lap before.
    let end = mark.offset + 4096 - mark.offset % 4096;
    let reader = LaneReader::open(&spool, 0).expect("ring");
    let mut lapped = Mark { offset: end, records: mark.records };
    let mut gathered = Gathered::default();
    reader.gather(&mut lapped, end + 1024, usize::MAX, &mut gathered);
    assert_eq!((gathered.result_records, lapped.offset), (0, end + 1024));
    assert_eq!(gathered.torn, [Torn { lane: 0, from: end, to: end + 1024 }]);
}

#[test]
fn frames_go_on_over_the_end_of_the_ring_and_over_every_counter() {
    let (_directory, spool) = spool(1, 1);
    // As after 2^40 bytes: nothing is kept in fewer bits.
    let start = (1 << 40) + 4096 - 16;
    spool.producer(0).tail.store(start, Ordering::Release);
    spool.consumer(0).freed.store(start, Ordering::Release);
    let mut writer = LaneWriter::open(&spool, 0, 1 << 33).expect("ring");
    let mut mark = Mark { offset: start, records: 1 << 33 };
    for number in 0..100u32 {
        let record = number.to_le_bytes();
        writer.publish(&mut staged(&[&record, b""]), None).expect("room");
        let gathered = read(&spool, &mut mark);
        assert_eq!((gathered.results.bytes.as_slice(), gathered.result_records), (&record[..], 2));
        spool.consumer(0).freed.store(mark.offset, Ordering::Release);
    }
}

// Waking.

#[test]
fn a_ring_that_must_be_heard_wakes_also_after_a_ringer_that_died_half_way() {
    let word = AtomicU32::new(1);
    let awaited = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            while !awaited.load(Ordering::SeqCst) {
                bell::sleep_unless(&word, None, || awaited.load(Ordering::SeqCst));
            }
        });
        while word.load(Ordering::SeqCst) != 0 {
            std::thread::yield_now();
        }
        // Killed between the two halves of a ring.
        word.store(1, Ordering::SeqCst);
        awaited.store(true, Ordering::SeqCst);
        bell::ring_for_sure(&word);
        sleeper.join().expect("awake");
    });
}

#[test]
fn an_idle_thread_hears_of_a_job_that_is_announced_at_any_moment() {
    let (_directory, spool) = spool(1, 1);
    let jobs = Jobs(&spool);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..few(2_000) {
                let job = loop {
                    let _idle = jobs.idle();
                    let seen = jobs.bell();
                    let mut job = Claimed::default();
                    match jobs.claim(OLD, &mut job) {
                        Claim::Job => break job,
                        Claim::None { until } => jobs.wait(seen, until, futex::EVERYONE),
                    }
                };
                slot(&spool, job.slot).result_end.store(0, Ordering::Release);
                bell::ring(&spool.bells().source);
            }
        });
        for seq in 1..=few(2_000) {
            fill(&spool, 0, seq);
            jobs.announce(1);
            while !jobs.is_done(0) {
                bell::sleep_unless(&spool.bells().source, None, || jobs.is_done(0));
            }
            jobs.free(0);
        }
    });
}
