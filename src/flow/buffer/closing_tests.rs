//! Promises of the buffer about its books at the end, and after a power loss: each job and record is
//! counted once.

use super::tests::{Bench, expected, publish};
use super::*;
use crate::flow::queue::frame::Kind;
use crate::flow::queue::lane::{Finish, LaneWriter, Staged};
use crate::flow::queue::layout::ProcessState;
use crate::flow::queue::processes::{set_state, worker};
use crate::flow::queue::repair::repair;
use crate::sys::atomic::AtomicU64;

/// Publishes the end of a job that has failed, and nothing of it.
fn publish_failed(writer: &mut LaneWriter<'_>) {
    let result_end = AtomicU64::new(u64::MAX);
    let finish = Finish { kind: Kind::JobFailed, seq: 1, round: 1, result_end: &result_end };
    writer.publish(&mut Staged::default(), Some(finish)).expect("room");
}

#[test]
fn records_missing_behind_all_that_is_read_are_counted_if_their_worker_has_ended_in_order() {
    let drained = |state: ProcessState, more: &dyn Fn(u64) -> u64| {
        let bench = Bench::new(2);
        let mut writer = bench.writer(1);
        publish(&mut writer, 0..3);
        let producer = bench.spool.producer(1);
        producer.published.store(3 + more(ends::tail(producer)), Ordering::Relaxed);
        set_state(&bench.spool, worker(1), state);
        bench.drain(&mut bench.sink()).expect("drained");
        assert_eq!(bench.output(), expected(0..3));
        let books = Commit::load(&bench.spool);
        // Counted once, however often it is drained.
        bench.drain(&mut bench.sink()).expect("drained");
        assert_eq!(Commit::load(&bench.spool).totals, books.totals);
        (books.totals.quarantined, books.lanes[1].records)
    };
    assert_eq!(drained(ProcessState::Ended, &|_| 0), (0, 3));
    assert_eq!(drained(ProcessState::Ended, &|_| 2), (2, 5));
    assert_eq!(drained(ProcessState::Running, &|_| 2), (0, 3), "killed: nobody knows");
    // More than there can have been is no count.
    assert_eq!(drained(ProcessState::Ended, &|tail| tail), (0, 3));
    assert_eq!(drained(ProcessState::Ended, &|tail| tail - 1).1, 3 + tail_of_three() - 1);
    assert_eq!(drained(ProcessState::Ended, &|_| u64::MAX - 3), (0, 3));
}

/// Where a lane ends with the job of the test above.
fn tail_of_three() -> u64 {
    let bench = Bench::new(1);
    publish(&mut bench.writer(0), 0..3);
    ends::tail(bench.spool.producer(0))
}

#[test]
fn jobs_are_counted_once_each_after_a_power_loss_those_that_have_failed_as_well() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..4);
    publish_failed(&mut writer);
    bench.drain(&mut bench.sink()).expect("drained");
    let synced = Commit::load(&bench.spool);
    publish_failed(&mut writer);
    publish_failed(&mut writer);
    publish(&mut writer, 4..7);
    bench.drain(&mut bench.sink()).expect("drained");
    // What came after the first sync was committed only.
    let mut books = Commit::load(&bench.spool);
    assert_eq!((books.totals.jobs_done, books.totals.jobs_failed), (2, 3));
    (books.generation, books.synced) = (books.generation + 1, synced.synced);
    if let (Some(at), Some(before)) = (&mut books.sinks[0], synced.sinks[0]) {
        at.synced = before.synced;
    }
    books.store(&bench.spool);
    publish_failed(&mut writer);
    publish(&mut writer, 7..10);
    bench.spool.run().boots.store(1, Ordering::Release);
    repair(&bench.spool, |_| {}).expect("repaired");
    bench.drain(&mut bench.sink()).expect("drained");
    assert_eq!(bench.output(), expected(0..10));
    let totals = Commit::load(&bench.spool).totals;
    assert_eq!((totals.results, totals.jobs_done, totals.jobs_failed), (10, 3, 4));
}
