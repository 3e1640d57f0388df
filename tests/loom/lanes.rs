//! A lane's two ends: what is published is whole, and nothing is overwritten before it was read.

use crate::queue::layout::{Consumer, Producer};
use crate::queue::{bell, ends};
use crate::sys::atomic::{AtomicU32, Weakness, full_fence};
use crate::{holds_but_not_with, sys};
use loom::cell::Cell;
use loom::sync::Arc;
use loom::thread;

struct Lane {
    producer: Producer,
    consumer: Consumer,
    /// A ring for one record.
    cell: Cell<u64>,
    buffer_bell: AtomicU32,
    space_bell: AtomicU32,
}

const CAPACITY: u64 = 1;
const RECORDS: u64 = 2;

/// As `LaneWriter::publish` does it.
fn write(lane: &Lane) {
    for record in 1..=RECORDS {
        let tail = record - 1;
        let has_room = || tail - ends::freed(&lane.consumer) < CAPACITY;
        while !has_room() {
            bell::sleep_unless(&lane.space_bell, None, has_room);
        }
        lane.cell.set(record);
        ends::publish(&lane.producer, &lane.consumer, &lane.buffer_bell, record, record);
    }
}

/// As `Buffer::collect` and `Buffer::free` do it.
fn read(lane: &Lane) {
    let mut head = 0;
    while head < RECORDS {
        let tail = ends::tail(&lane.producer);
        if tail == head {
            ends::ask_for_ring(&lane.consumer, head + 1, u64::MAX);
            let has_come = || ends::has_come(&lane.producer, &lane.consumer);
            bell::sleep_unless(&lane.buffer_bell, None, has_come);
            continue;
        }
        assert_eq!(lane.cell.get(), tail, "a record of another lap");
        head = tail;
        ends::free(&lane.consumer, head);
        full_fence();
        bell::ring_after_fence(&lane.space_bell);
    }
}

#[test]
fn what_is_published_is_whole_and_nobody_sleeps_for_ever() {
    let weaknesses = [Weakness::NoFences, Weakness::NoRelease, Weakness::NoAcquire];
    holds_but_not_with(
        "lanes::what_is_published_is_whole_and_nobody_sleeps_for_ever",
        &weaknesses,
        Some(2),
        || {
            let lane = Arc::new(Lane {
                producer: Producer::default(),
                consumer: Consumer::default(),
                cell: Cell::new(0),
                buffer_bell: AtomicU32::new(1),
                space_bell: AtomicU32::new(1),
            });
            sys::futex::prepare(&lane.buffer_bell);
            sys::futex::prepare(&lane.space_bell);
            let writer = Arc::clone(&lane);
            let writer = thread::spawn(move || write(&writer));
            read(&lane);
            writer.join().expect("no panic");
        },
    );
}
