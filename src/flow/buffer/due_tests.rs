//! Promises of the buffer about when: what is due, what it is woken for, and what it says of itself.

use super::tests::{Bench, expected, policy, publish};
use super::*;
use crate::flow::queue::jobs::{Jobs, NewJob};
use crate::flow::queue::layout::SOURCE_WAITS_SYNC;
use crate::flow::sink::file::FileSink;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Longer than anything here takes, however busy the machine is.
const WATCHDOG: Duration = Duration::from_secs(20);

const SECOND: Duration = Duration::from_secs(1);

/// Has a buffer that has begun look at it.
fn with_buffer<T>(bench: &Bench, policy: Policy, look: impl FnOnce(&mut Buffer<'_, '_>) -> T) -> T {
    with_stop(bench, policy, &Stop::new(|| {}), look)
}

fn with_stop<T>(
    bench: &Bench,
    policy: Policy,
    stop: &Stop,
    look: impl FnOnce(&mut Buffer<'_, '_>) -> T,
) -> T {
    let mut file: FileSink = bench.sink();
    let readers = (0..bench.spool.lanes()).map(|lane| LaneReader::open(&bench.spool, lane));
    let mut buffer = Buffer {
        spool: &bench.spool,
        sinks: Sinks { output: &mut file, dead_letters: None },
        policy,
        stop,
        readers: readers.collect::<Result<_, _>>().expect("rings"),
        books: Commit::load(&bench.spool),
        gathered: Gathered::default(),
        written: 0,
        oldest: None,
        synced: 100 * SECOND,
        dirty: false,
        not_begun: 0,
        insane: vec![false; bench.spool.lanes()],
        unsynced: false,
        spool_looked_at: None,
        synced_with: None,
    };
    look(&mut buffer)
}

fn of_sync(sync: config::SyncPolicy) -> Policy {
    Policy { sync, ..policy() }
}

#[test]
fn a_batch_is_due_at_each_of_its_limits_and_not_before() {
    let flush = config::Buffer {
        flush_records: 10,
        flush_bytes: 1000,
        flush_after: Duration::from_secs(5),
    };
    let bench = Bench::new(1);
    with_buffer(&bench, Policy { flush, ..policy() }, |buffer| {
        let due = |records, bytes, waiting, seconds: u32| {
            let pending = Pending { records, bytes, waiting, ..Pending::default() };
            buffer.is_due(&pending, 100 * SECOND, (100 + seconds) * SECOND)
        };
        assert!(!due(9, 999, false, 4));
        assert!(due(10, 0, false, 0) && due(11, 0, false, 0));
        assert!(due(1, 1000, false, 0) && due(1, 1001, false, 0));
        assert!(due(1, 1, false, 5) && due(1, 1, false, 6));
        assert!(due(1, 1, true, 0));
    });
}

/// Of all lanes together never more than what is missing.
#[test]
fn each_lane_may_publish_its_share_of_what_is_missing_before_the_buffer_looks_again() {
    let flush = config::Buffer { flush_records: 20, flush_bytes: 1000, flush_after: SECOND };
    let bench = Bench::new(4);
    with_buffer(&bench, Policy { flush, ..policy() }, |buffer| {
        let thresholds =
            |records, bytes| buffer.thresholds(&Pending { records, bytes, ..Pending::default() });
        assert_eq!(thresholds(0, 0), (1, 1), "the first of all is what it waits for");
        assert_eq!(thresholds(4, 200), (4, 200));
        assert_eq!(thresholds(18, 999), (1, 1));
        assert_eq!(thresholds(30, 2000), (1, 1));
    });
}

#[test]
fn a_sync_is_due_an_interval_after_the_last_if_something_was_written_since() {
    let bench = Bench::new(1);
    for sync in [config::SyncPolicy::Never, config::SyncPolicy::Always] {
        with_buffer(&bench, of_sync(sync), |buffer| {
            buffer.dirty = true;
            assert_eq!(buffer.sync_at(), None);
        });
    }
    with_buffer(&bench, of_sync(config::SyncPolicy::Every(3 * SECOND)), |buffer| {
        assert_eq!(buffer.sync_at(), None);
        buffer.dirty = true;
        assert_eq!(buffer.sync_at(), Some(103 * SECOND));
    });
}

/// The source's sleep is one that only a commit, or only a sync, ends.
#[test]
fn a_source_that_waits_is_a_reason_to_write_or_to_sync_only_if_there_is_something_to() {
    let bench = Bench::new(2);
    let waits = &bench.spool.bells().source_waits;
    with_buffer(&bench, policy(), |buffer| {
        for lane in 0..2 {
            // Nobody is to ring for what comes.
            ends::ask_for_ring(bench.spool.consumer(lane), u64::MAX, u64::MAX);
        }
        for (words, syncs) in [(SOURCE_WAITS_FLUSH, false), (SOURCE_WAITS_SYNC, true)] {
            waits.store(words, Ordering::SeqCst);
            assert!(!buffer.look().waiting && !buffer.was_rung_for());
            assert!(!buffer.source_wants_sync());
            buffer.dirty = true;
            assert_eq!((buffer.source_wants_sync(), buffer.was_rung_for()), (syncs, syncs));
            buffer.dirty = false;
        }
        publish(&mut bench.writer(1), 0..1);
        for words in [SOURCE_WAITS_FLUSH, SOURCE_WAITS_SYNC] {
            waits.store(words, Ordering::SeqCst);
            assert!(buffer.look().waiting && buffer.was_rung_for());
        }
        waits.store(0, Ordering::SeqCst);
        assert!(!buffer.look().waiting && !buffer.was_rung_for());
        ends::ask_for_ring(bench.spool.consumer(1), ends::tail(bench.spool.producer(1)), u64::MAX);
        assert!(buffer.was_rung_for());
    });
}

#[test]
fn a_worker_that_waits_for_more_room_than_a_lane_has_is_a_reason_to_write() {
    let bench = Bench::new(2);
    let capacity = bench.spool.layout.geometry.lane_bytes;
    let (producer, consumer) = (bench.spool.producer(1), bench.spool.consumer(1));
    with_buffer(&bench, policy(), |buffer| {
        publish(&mut bench.writer(1), 0..1);
        (0..2).for_each(|lane| ends::ask_for_ring(bench.spool.consumer(lane), u64::MAX, u64::MAX));
        for (wanted, waits) in [(0, false), (capacity, false), (capacity + 1, true)] {
            producer.waiting_for.store(wanted, Ordering::Release);
            assert_eq!(buffer.waits_for_room(1), waits, "{wanted}");
            assert_eq!((buffer.look().waiting, buffer.was_rung_for()), (waits, waits));
            assert!(!buffer.waits_for_room(0));
        }
        // What it waits for is counted from what is free.
        ends::free(consumer, 8);
        assert!(!buffer.waits_for_room(1));
        producer.waiting_for.store(capacity + 9, Ordering::Release);
        assert!(buffer.waits_for_room(1));
        // It has died waiting, and all that it has published is written.
        buffer.books.lanes[1].offset = ends::tail(producer);
        assert!(!buffer.waits_for_room(1));
    });
}

#[test]
fn a_tail_that_no_worker_can_have_stored_is_read_by_nobody_and_ends_the_run_with_an_error() {
    for wrong in [12, 3, 4096 + 8] {
        let bench = Bench::new(2);
        publish(&mut bench.writer(0), 0..3);
        let producer = bench.spool.producer(1);
        producer.tail.store(wrong, Ordering::Release);
        let error = bench.drain(&mut bench.sink()).expect_err("it can't be read").to_string();
        assert!(error.contains("a tail that no worker can have stored"), "{error}");
        assert_eq!(bench.output(), expected(0..3), "the others are written");
        // Whoever has stored it may store another one.
        producer.tail.store(0, Ordering::Release);
        assert_eq!(bench.drain(&mut bench.sink()).expect("drained"), 0);
    }
}

#[test]
fn a_buffer_says_since_when_something_waits_and_how_much_it_has_written() {
    let bench = Bench::new(1);
    let vitals = vitals::of(&bench.spool);
    with_buffer(&bench, policy(), |buffer| {
        buffer.note_oldest(Some(5 * SECOND));
        assert_eq!(vitals.waiting_since.load(Ordering::Relaxed), clock::nanos(5 * SECOND));
        buffer.note_oldest(None);
        assert_eq!(vitals.waiting_since.load(Ordering::Relaxed), 0);
    });
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..3);
    // What one has said that is dead.
    vitals::note(&vitals.no_room_since, Some(5 * SECOND));
    assert_eq!(bench.drain(&mut bench.sink()).expect("drained"), 3);
    assert_eq!(vitals.no_room_since.load(Ordering::Relaxed), 0);
    publish(&mut writer, 3..5);
    assert_eq!(bench.drain(&mut bench.sink()).expect("drained"), 2);
}

/// Its bell is 0 as long as it sleeps.
#[test]
fn a_source_that_waits_is_rung_for_after_a_commit_and_after_a_sync_and_no_other() {
    let bench = Bench::new(1);
    let bells = bench.spool.bells();
    with_buffer(&bench, policy(), |buffer| {
        for (waits, rung) in [(0, 0), (SOURCE_WAITS_FLUSH, 1)] {
            bells.source_waits.store(waits, Ordering::SeqCst);
            bells.source.store(0, Ordering::SeqCst);
            buffer.free();
            assert_eq!(bells.source.load(Ordering::SeqCst), rung, "after a commit");
            bells.source.store(0, Ordering::SeqCst);
            buffer.sync().expect("synced");
            assert_eq!(bells.source.load(Ordering::SeqCst), rung, "after a sync");
        }
    });
}

/// As if the rings had come a moment before it would sleep.
#[test]
fn a_buffer_that_was_asked_for_something_does_not_sleep() {
    let bench = Bench::new(1);
    let asked: [fn(&Stop); 3] = [Stop::request, Stop::request_reopening, |_| ()];
    for (number, ask) in asked.iter().enumerate() {
        let stop = Stop::new(|| {});
        with_stop(&bench, policy(), &stop, |buffer| {
            let nothing = buffer.look();
            ask(&stop);
            if number == 2 {
                publish(&mut bench.writer(0), 0..1);
            }
            buffer.sleep(&nothing);
        });
    }
}

/// Nothing but time goes by until it would sync.
#[test]
fn what_was_written_is_synced_by_a_buffer_that_goes_on_once_its_interval_is_over_and_not_before() {
    for (interval, syncs) in [(Duration::from_millis(1), true), (3600 * SECOND, false)] {
        let bench = Arc::new(Bench::new(1));
        let stop = Stop::new(|| {});
        let (used, stopper) = (Arc::clone(&bench), stop.clone());
        let flush = config::Buffer { flush_records: 1, ..policy().flush };
        let policy = Policy { flush, sync: config::SyncPolicy::Every(interval) };
        let buffer = thread::spawn(move || {
            let mut file = used.sink();
            let sinks = Sinks { output: &mut file, dead_letters: None };
            run(&used.spool, sinks, policy, &stop, || {}).expect("drained")
        });
        publish(&mut bench.writer(0), 0..3);
        let since = Instant::now();
        // It sleeps: what was due is done.
        let done = || {
            let books = Commit::load(&bench.spool);
            let asleep = bench.spool.bells().buffer.load(Ordering::SeqCst) == 0;
            books.totals.results == 3 && asleep && (books.synced.results == 3) == syncs
        };
        while !done() && !buffer.is_finished() {
            assert!(since.elapsed() < WATCHDOG, "{interval:?}: {:?}", Commit::load(&bench.spool));
            thread::yield_now();
        }
        stopper.request();
        bell::ring_for_sure(&bench.spool.bells().buffer);
        assert_eq!(buffer.join().expect("no panic"), 3);
        assert_eq!(Commit::load(&bench.spool).synced.results, 3, "at the end in any case");
    }
}

/// What a start after a power loss would miss is a reason for a last sync, and nothing else is.
#[test]
fn a_spool_is_synced_if_nothing_in_it_is_newer_than_its_last_sync() {
    let bench = Bench::new(1);
    with_buffer(&bench, policy(), |buffer| {
        assert!(!buffer.is_spool_synced(), "nobody has");
        buffer.sync().expect("synced");
        assert!(buffer.is_spool_synced());
        buffer.dirty = true;
        assert!(!buffer.is_spool_synced(), "something was written");
        buffer.dirty = false;
        assert!(buffer.is_spool_synced());
        buffer.books.generation += 1;
        assert!(!buffer.is_spool_synced(), "something was committed");
        buffer.sync().expect("synced");
        let (generation, place) = ListPosition::load(&bench.spool);
        ListPosition { seq: place.seq + 1, ..place }.store(&bench.spool, generation + 1);
        assert!(!buffer.is_spool_synced(), "the list has gone on");
        buffer.sync().expect("synced");
        assert!(buffer.is_spool_synced());
        let job = NewJob { text: b"", seq: 1, round: 0, offset: 0, prefix: 0, reason: None };
        Jobs(&bench.spool).fill(0, &job);
        assert!(!buffer.is_spool_synced(), "a job is pending");
    });
}
