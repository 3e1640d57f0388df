//! A lane: the way of records from one worker process to the buffer.
//!
//! # Constraints
//! - One process writes, one reads; no lock between them. The threads of the writing process
//!   share a lock of their own around [`LaneWriter`].
//! - Either process can be killed between any two instructions.
//! - The reader believes nothing that it reads: a broken worker can write any bytes.
//!
//! # Format
//! A ring of [frames](super::frame). Offsets count from the lane's beginning and never wrap;
//! modulo the ring's length they are a place in it. The ring is mapped twice in a row, so a frame
//! is contiguous wherever it begins.
//!
//! # Operation
//! `freed ≤ head ≤ tail ≤ freed + length`. The writer copies frames behind the tail and then
//! moves the tail over all of them at once (SYNC POINT `publish`: release, read by acquire). The
//! reader copies them out, and once they are committed moves `freed` (SYNC POINT `free`: release,
//! read by acquire). So what is between `freed` and the tail is never overwritten, and nothing
//! beyond the tail is ever read.

use super::bell;
use super::frame::{self, HEAD, Head, JobEnd, Kind};
use super::layout::{Consumer, Producer};
use super::spool::Spool;
use crate::sys::atomic::{AtomicU64, Ordering, full_fence};
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
    pub end: JobEnd,
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
            records += u64::from(kind.is_record());
            tail = self.write(Head::of(kind, tail, records, payload), payload);
        }
        if let Some(finish) = finish {
            let payload = finish.end.to_bytes();
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
        let producer: &Producer = self.spool.producer(self.lane);
        producer.published.store(records, Ordering::Relaxed);
        // SYNC POINT `publish`.
        producer.tail.store(tail, Ordering::Release);
        full_fence();
        let consumer: &Consumer = self.spool.consumer(self.lane);
        if tail >= consumer.ring_at_tail.load(Ordering::Relaxed)
            || records >= consumer.ring_at_published.load(Ordering::Relaxed)
        {
            bell::ring_after_fence(&self.spool.bells().buffer);
        }
    }

    fn free_bytes(&self) -> usize {
        // SYNC POINT `free`.
        let freed = self.spool.consumer(self.lane).freed.load(Ordering::Acquire);
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

/// What was read of the lanes for one batch.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// The results, one behind the other.
    pub results: Vec<u8>,
    pub result_records: u64,
    /// The dead letters, likewise.
    pub dead_letters: Vec<u8>,
    pub dead_letter_records: u64,
    pub jobs_done: u64,
    pub jobs_failed: u64,
}

impl Gathered {
    pub(crate) fn clear(&mut self) {
        self.results.clear();
        self.dead_letters.clear();
        *self = Gathered {
            results: std::mem::take(&mut self.results),
            dead_letters: std::mem::take(&mut self.dead_letters),
            ..Gathered::default()
        };
    }

    pub(crate) fn bytes(&self) -> usize {
        self.results.len() + self.dead_letters.len()
    }
}

/// Where a reader stands in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub offset: u64,
    /// Records before the offset.
    pub records: u64,
}

/// The bytes at this offset are no frame of this lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("lane {lane}: no valid frame at offset {offset}")]
pub(crate) struct Torn {
    pub lane: usize,
    pub offset: u64,
}

/// The reading end of a lane.
pub(crate) struct LaneReader {
    lane: usize,
    ring: Mapping,
    capacity: u64,
}

impl LaneReader {
    pub(crate) fn open(spool: &Spool, lane: usize) -> io::Result<LaneReader> {
        let ring = spool.map_ring(lane, false)?;
        Ok(LaneReader { lane, ring, capacity: spool.layout.geometry.lane_bytes })
    }

    /// Reads frames from `mark` on, up to `until` or until `bytes_max` of payload are gathered
    /// (at least one frame, if there is one), and moves the mark behind them.
    ///
    /// # Errors
    /// [`Torn`]; the mark then stands before the frame that is none, and all before it was read.
    pub(crate) fn gather(
        &self,
        mark: &mut Mark,
        until: u64,
        bytes_max: usize,
        into: &mut Gathered,
    ) -> Result<(), Torn> {
        let torn = |offset| Torn { lane: self.lane, offset };
        // A tail beyond the ring's length is no tail that we ever stored.
        if until < mark.offset || until - mark.offset > self.capacity {
            return Err(torn(mark.offset));
        }
        while mark.offset < until && into.bytes() < bytes_max {
            let place = (mark.offset % self.capacity) as usize;
            let left = (until - mark.offset) as usize;
            let head = (left >= HEAD).then(|| self.ring.read::<HEAD>(place));
            let head = head
                .and_then(|bytes| Head::from_bytes(&bytes))
                .filter(|head| head.offset == mark.offset && frame::size(head.len) <= left)
                .filter(|head| head.records == mark.records + u64::from(head.kind.is_record()))
                .ok_or(torn(mark.offset))?;
            if !self.take(&head, place + HEAD, into) {
                return Err(torn(mark.offset));
            }
            mark.offset += frame::size(head.len) as u64;
            mark.records = head.records;
        }
        Ok(())
    }

    /// Copies the payload out, and only then checks it: the bytes that are checked are those
    /// that are used.
    fn take(&self, head: &Head, place: usize, into: &mut Gathered) -> bool {
        let target = match head.kind {
            Kind::DeadLetter => &mut into.dead_letters,
            Kind::Result | Kind::JobDone | Kind::JobFailed => &mut into.results,
        };
        let before = target.len();
        self.ring.append_to(place, head.len, target);
        let fits = head.fits(&target[before..]);
        if !fits || !head.kind.is_record() {
            target.truncate(before);
        }
        if fits {
            match head.kind {
                Kind::Result => into.result_records += 1,
                Kind::DeadLetter => into.dead_letter_records += 1,
                Kind::JobDone => into.jobs_done += 1,
                Kind::JobFailed => into.jobs_failed += 1,
            }
        }
        fits
    }
}

/// Records that are published in a lane, counted frame by frame from the committed head on.
///
/// The writer's own count may be ahead by one job after a kill; the frames are the truth.
pub(crate) fn count_records(spool: &Spool, lane: usize, head: Mark) -> io::Result<u64> {
    let reader = LaneReader::open(spool, lane)?;
    let tail = spool.producer(lane).tail.load(Ordering::Acquire);
    let (mut mark, mut scratch) = (head, Gathered::default());
    while mark.offset < tail {
        scratch.clear();
        if reader.gather(&mut mark, tail, 1 << 16, &mut scratch).is_err() {
            // The buffer will find the same, put the bytes aside and report them. Until then the
            // writer's count is the best there is.
            return Ok(spool.producer(lane).published.load(Ordering::Relaxed).max(mark.records));
        }
    }
    Ok(mark.records)
}
