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
use super::frame::{self, HEAD, JobEnd, Kind};
use super::spool::Spool;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::mmap::Mapping;
use std::io;

/// Records of a job, in the memory of the thread that runs it, until they are published as one:
/// frames as they will stand in the lane, but for their heads.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    frames: Vec<u8>,
    /// Kind of each record and the length of its payload.
    records: Vec<(Kind, usize)>,
    /// Bytes of all payloads, and of the longest.
    len: usize,
    longest: usize,
}

impl Staged {
    /// Appends a record that `encode` writes; nothing stays of it if that fails.
    pub(crate) fn push<E>(
        &mut self,
        kind: Kind,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let begin = self.frames.len();
        self.frames.extend_from_slice(&[0; HEAD]);
        if let Err(error) = encode(&mut self.frames) {
            self.frames.truncate(begin);
            return Err(error);
        }
        let len = self.frames.len() - begin - HEAD;
        // Of a fixed length, so that no call is made for a few bytes.
        self.frames.extend_from_slice(&[0; frame::ALIGN]);
        self.frames.truncate(begin + frame::size(len));
        self.records.push((kind, len));
        self.len += len;
        self.longest = self.longest.max(len);
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.records.clear();
        (self.len, self.longest) = (0, 0);
    }

    /// Bytes of all records.
    pub(crate) fn len(&self) -> usize {
        self.len
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
    /// Where the tail is in the ring.
    place: usize,
    /// Up to here there was room at the last look.
    room: u64,
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
        let place = (tail % capacity as u64) as usize;
        Ok(LaneWriter { spool, lane, ring, capacity, tail, place, room: tail, records })
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
        staged: &mut Staged,
        finish: Option<Finish<'_>>,
    ) -> Result<(), TooLarge> {
        let end = finish.map_or(0, |_| frame::size(JobEnd::BYTES));
        let needed = staged.frames.len() + end;
        if needed > self.capacity || staged.longest > frame::PAYLOAD_MAX {
            return Err(TooLarge { needed, capacity: self.capacity });
        }
        self.make_room(needed as u64);
        let (mut tail, mut records) = (self.tail, self.records);
        let mut rest = &mut *staged.frames;
        for (kind, len) in &staged.records {
            let kind = if finish.is_some() { *kind } else { Kind::Alone };
            records += u64::from(kind.is_record());
            let (frame, behind) = rest.split_at_mut(frame::size(*len));
            frame::seal(frame, kind, *len, tail, records);
            tail += frame.len() as u64;
            rest = behind;
        }
        self.ring.write(self.place, &staged.frames);
        if let Some(finish) = finish {
            let Finish { seq, round, .. } = finish;
            let mut frame = [0; frame::size(JobEnd::BYTES)];
            let payload = JobEnd { seq, round, begin: self.tail }.to_bytes();
            frame[HEAD..HEAD + JobEnd::BYTES].copy_from_slice(&payload);
            frame::seal(&mut frame, finish.kind, JobEnd::BYTES, tail, records);
            // Mapped twice in a row, the ring goes on behind its end.
            self.ring.write(self.place + staged.frames.len(), &frame);
            tail += frame.len() as u64;
            // Before the tail: whoever sees the tail there sees that the job is done.
            finish.result_end.store(tail, Ordering::Release);
        }
        assert_eq!(tail, self.tail + needed as u64, "frames take what was reckoned");
        self.advance(tail, records);
        Ok(())
    }

    fn advance(&mut self, tail: u64, records: u64) {
        self.place += (tail - self.tail) as usize;
        if self.place >= self.capacity {
            self.place -= self.capacity;
        }
        (self.tail, self.records) = (tail, records);
        let (producer, consumer) = (self.spool.producer(self.lane), self.spool.consumer(self.lane));
        ends::publish(producer, consumer, &self.spool.bells().buffer, tail, records);
    }

    /// Waits until there is room for so many more bytes.
    fn make_room(&mut self, needed: u64) {
        if self.room - self.tail >= needed || self.has_room(needed) {
            return;
        }
        let spool = self.spool;
        let producer = spool.producer(self.lane);
        // A waiter is a reason to flush: nobody waits for a timer.
        producer.waiting_for.store(self.tail + needed, Ordering::Release);
        let word = spool.lane_bell(self.lane);
        while !self.has_room(needed) {
            bell::ring(&spool.bells().buffer);
            bell::sleep_unless(word, None, || self.has_room(needed));
        }
        producer.waiting_for.store(0, Ordering::Release);
    }

    /// Looks how much room there is.
    fn has_room(&mut self, needed: u64) -> bool {
        let freed = ends::freed(self.spool.consumer(self.lane));
        assert!(freed <= self.tail, "the buffer has freed what was never published");
        self.room = freed.saturating_add(self.capacity as u64).max(self.tail);
        self.room - self.tail >= needed
    }
}
