//! A lane: the way of records from one worker process to the buffer.
//!
//! # Constraints
//! - One process writes, one reads; no lock between them. The threads of the writing process
//!   share a lock of their own around [`LaneWriter`].
//! - Either process can be killed between any two instructions.
//!
//! # Format
//! A ring of [frames](super::frame). Offsets count from the lane's beginning and never wrap;
//! modulo the ring's length they are a place in it. The ring is mapped twice in a row, so a frame
//! is contiguous wherever it begins. What is published as one and read as one is a *unit*: the
//! frames of a job up to and with the one that ends it, or a record that belongs to no job.
//!
//! # Operation
//! `freed ≤ head ≤ tail ≤ freed + length`. The writer copies frames behind the tail and then
//! moves the tail over all of them at once (SYNC POINT `publish`: release, read by acquire). The
//! reader copies them out, and once they are committed moves `freed` (SYNC POINT `free`: release,
//! read by acquire). So what is between `freed` and the tail is never overwritten, and nothing
//! beyond the tail is ever read. This is the writer; [`super::reader`] is the other end.

use super::bell;
use super::ends;
use super::frame::{self, HEAD, Head, JobEnd, Kind};
use super::spool::Spool;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::mmap::Mapping;
use std::io;

/// Records of a job, in the memory of the thread that runs it, until they are published as one.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    bytes: Vec<u8>,
    /// Kind of each record and where it ends in `bytes`.
    records: Vec<(Kind, usize)>,
}

impl Staged {
    /// Appends a record that `encode` writes; nothing stays of it if that fails.
    pub(crate) fn push<E>(
        &mut self,
        kind: Kind,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let before = self.bytes.len();
        if let Err(error) = encode(&mut self.bytes) {
            self.bytes.truncate(before);
            return Err(error);
        }
        self.records.push((kind, self.bytes.len()));
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
    }

    /// Bytes of all records.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The records, in order.
    fn iter(&self) -> impl Iterator<Item = (Kind, &[u8])> {
        let mut start = 0;
        self.records.iter().map(move |(kind, end)| {
            let payload = &self.bytes[start..*end];
            start = *end;
            (*kind, payload)
        })
    }

    /// Bytes that the records take in a lane, and the longest of their payloads.
    fn size(&self) -> (usize, usize) {
        self.iter().fold((0, 0), |(size, longest), (_, payload)| {
            (size + frame::size(payload.len()), longest.max(payload.len()))
        })
    }
}

/// What ends a job, published in one step with its records.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    pub kind: Kind,
    pub seq: u64,
    pub round: u64,
    /// The slot's word that says where the job's results end.
    pub result_end: &'a AtomicU64,
}

/// The records can't be published, however long one waits: the lane is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "its results take {needed} bytes in the spool and a lane holds {capacity}: raise [spool] lane, \
     or emit less for one job"
)]
pub(crate) struct TooLarge {
    needed: usize,
    capacity: usize,
}

/// The writing end of a lane, of which there is one in one process.
pub(crate) struct LaneWriter<'a> {
    spool: &'a Spool,
    lane: usize,
    ring: Mapping,
    capacity: usize,
    tail: u64,
    /// Records published so far.
    records: u64,
}

impl<'a> LaneWriter<'a> {
    /// Takes over the lane where the last writer left it: what is behind the tail was never
    /// published, and is overwritten.
    ///
    /// `records` are those before the tail, counted from the frames themselves.
    pub(crate) fn open(spool: &'a Spool, lane: usize, records: u64) -> io::Result<LaneWriter<'a>> {
        let ring = spool.map_ring(lane, true)?;
        let producer = spool.producer(lane);
        producer.waiting_for.store(0, Ordering::Relaxed);
        producer.published.store(records, Ordering::Relaxed);
        let tail = producer.tail.load(Ordering::Acquire);
        let capacity = spool.layout.geometry.lane_bytes as usize;
        Ok(LaneWriter { spool, lane, ring, capacity, tail, records })
    }

    /// Bytes of the longest single record that a job may emit if it emits nothing else.
    pub(crate) fn record_max(&self) -> usize {
        let overhead = frame::size(JobEnd::BYTES) + HEAD + 8;
        (self.capacity - overhead).min(frame::PAYLOAD_MAX)
    }

    /// Publishes the records, and the end of the job with them, in one step. Waits while the
    /// lane is full.
    ///
    /// # Errors
    /// [`TooLarge`]; then nothing was published.
    pub(crate) fn publish(
        &mut self,
        staged: &Staged,
        finish: Option<Finish<'_>>,
    ) -> Result<(), TooLarge> {
        let (mut needed, longest) = staged.size();
        if finish.is_some() {
            needed += frame::size(JobEnd::BYTES);
        }
        if needed > self.capacity || longest > frame::PAYLOAD_MAX {
            return Err(TooLarge { needed, capacity: self.capacity });
        }
        self.wait_for_space(needed);
        let (mut tail, mut records) = (self.tail, self.records);
        for (kind, payload) in staged.iter() {
            let kind = if finish.is_some() { kind } else { Kind::Alone };
            records += u64::from(kind.is_record());
            tail = self.write(Head::of(kind, tail, records, payload), payload);
        }
        if let Some(finish) = finish {
            let Finish { seq, round, .. } = finish;
            let payload = JobEnd { seq, round, begin: self.tail }.to_bytes();
            tail = self.write(Head::of(finish.kind, tail, records, &payload), &payload);
            // Before the tail: whoever sees the tail there sees that the job is done.
            finish.result_end.store(tail, Ordering::Release);
        }
        assert_eq!(tail, self.tail + needed as u64, "frames take what was reckoned");
        self.advance(tail, records);
        Ok(())
    }

    /// Copies a frame behind the tail, and says where the next one goes.
    fn write(&self, head: Head, payload: &[u8]) -> u64 {
        let place = (head.offset % self.capacity as u64) as usize;
        self.ring.write(place, &head.to_bytes());
        self.ring.write(place + HEAD, payload);
        head.offset + frame::size(payload.len()) as u64
    }

    fn advance(&mut self, tail: u64, records: u64) {
        (self.tail, self.records) = (tail, records);
        let (producer, consumer) = (self.spool.producer(self.lane), self.spool.consumer(self.lane));
        ends::publish(producer, consumer, &self.spool.bells().buffer, tail, records);
    }

    fn free_bytes(&self) -> usize {
        let freed = ends::freed(self.spool.consumer(self.lane));
        assert!(freed <= self.tail, "the buffer has freed what was never published");
        let used = usize::try_from(self.tail - freed).unwrap_or(usize::MAX);
        self.capacity.saturating_sub(used)
    }

    fn wait_for_space(&self, needed: usize) {
        if self.free_bytes() >= needed {
            return;
        }
        let producer = self.spool.producer(self.lane);
        // A waiter is a reason to flush: nobody waits for a timer.
        producer.waiting_for.store(self.tail + needed as u64, Ordering::Release);
        let word = self.spool.lane_bell(self.lane);
        while self.free_bytes() < needed {
            bell::ring(&self.spool.bells().buffer);
            bell::sleep_unless(word, None, || self.free_bytes() >= needed);
        }
        producer.waiting_for.store(0, Ordering::Release);
    }
}
