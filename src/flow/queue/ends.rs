//! Where the two ends of a lane meet: the few words through which records are published, space is
//! freed, and the buffer is woken in time.
//!
//! Apart from the rest of lane and buffer, so that a model checker can try every order in which
//! their stores may be seen (`tests/loom.rs`).

use super::bell;
use super::layout::{Consumer, Producer};
use crate::sys::atomic::{AtomicU32, Ordering, full_fence};

/// Publishes all before `tail`, and rings the buffer if it has asked for it. `records`: of the
/// whole lane.
pub(crate) fn publish(
    producer: &Producer,
    consumer: &Consumer,
    buffer_bell: &AtomicU32,
    tail: u64,
    records: u64,
) {
    producer.published.store(records, Ordering::Relaxed);
    // SYNC POINT `publish`.
    producer.tail.store(tail, Ordering::Release);
    full_fence();
    if tail >= consumer.ring_at_tail.load(Ordering::Relaxed)
        || records >= consumer.ring_at_published.load(Ordering::Relaxed)
    {
        bell::ring_after_fence(buffer_bell);
    }
}

/// All before it is published.
pub(crate) fn tail(producer: &Producer) -> u64 {
    // SYNC POINT `publish`.
    producer.tail.load(Ordering::Acquire)
}

/// Lets the writer have the space of all before `head`.
pub(crate) fn free(consumer: &Consumer, head: u64) {
    // SYNC POINT `free`.
    consumer.freed.store(head, Ordering::Release);
}

/// All before it may be overwritten.
pub(crate) fn freed(consumer: &Consumer) -> u64 {
    // SYNC POINT `free`.
    consumer.freed.load(Ordering::Acquire)
}

/// Asks the writer to ring once its tail is here, or so many records are published.
pub(crate) fn ask_for_ring(consumer: &Consumer, tail: u64, records: u64) {
    consumer.ring_at_published.store(records, Ordering::Relaxed);
    consumer.ring_at_tail.store(tail, Ordering::Relaxed);
}

/// Is what was asked for there?
pub(crate) fn has_come(producer: &Producer, consumer: &Consumer) -> bool {
    tail(producer) >= consumer.ring_at_tail.load(Ordering::Relaxed)
        || producer.published.load(Ordering::Relaxed)
            >= consumer.ring_at_published.load(Ordering::Relaxed)
}
