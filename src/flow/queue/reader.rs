//! The reading end of a lane.
//!
//! # Constraints
//! - Nothing that is read is believed: a broken worker can write any bytes, a disk can lose some, and
//!   after a power loss a page may be older than its neighbours.
//! - A unit is read whole or not at all: of a job that is torn, no record is handed on, since the job
//!   is run again. So no batch ever ends inside of a job.
//! - What is torn never ends the reading: it is skipped, told of, and can be put aside.
//!
//! # Finding the way again
//! Behind torn bytes every multiple of eight is tried as the start of a frame: its head holds its
//! own offset in the lane, and a checksum of everything. A frame that is found may still belong to
//! the torn job, or to one that has no end, with a whole one behind it; what ends a job says where
//! that began. Nothing of this depends on the tail, so who reads the same bytes later, with more
//! behind them, skips the same.

use super::frame::{self, ALIGN, HEAD, Head, JobEnd, Kind};
use super::spool::Spool;
use crate::flow::sink::Batch;
use crate::sys::atomic::Ordering;
use crate::sys::mmap::Mapping;
use std::io;

/// Where a reader stands in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub offset: u64,
    /// Records before the offset, as the frames count them.
    pub records: u64,
}

/// Bytes that were published and are no units any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Torn {
    pub lane: usize,
    pub from: u64,
    pub to: u64,
}

/// What was read of the lanes for one batch.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub results: Stream,
    pub result_records: u64,
    pub dead_letters: Stream,
    pub dead_letter_records: u64,
    pub jobs_done: u64,
    pub jobs_failed: u64,
    /// What was skipped.
    pub torn: Vec<Torn>,
    /// The jobs that have ended, if they are wanted.
    pub jobs: Option<Vec<EndedJob>>,
    /// Records that are missing by the numbers of those that were read. Less than none if a broken
    /// worker has counted backwards.
    pub lost: i64,
}

/// A job whose end stands in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EndedJob {
    pub round: u64,
    pub seq: u64,
    /// Where its unit ends in the lane.
    pub end: u64,
}

/// Records for one of the sinks.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// One behind the other.
    pub bytes: Vec<u8>,
    /// Where each of them ends.
    pub ends: Vec<usize>,
}

impl Stream {
    pub(crate) fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(record);
        self.ends.push(self.bytes.len());
    }

    /// Puts bytes before the first record, as part of it.
    pub(crate) fn lead_with(&mut self, header: &[u8]) {
        self.bytes.splice(..0, header.iter().copied());
        self.ends.iter_mut().for_each(|end| *end += header.len());
    }

    /// Takes as many bytes off its beginning.
    pub(crate) fn behead(&mut self, len: usize) {
        self.bytes.drain(..len);
        self.ends.iter_mut().for_each(|end| *end -= len);
    }

    pub(crate) fn batch(&self, number: u64) -> Batch<'_> {
        Batch { number, bytes: &self.bytes, ends: &self.ends }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Its bytes and records.
    fn len(&self) -> (usize, usize) {
        (self.bytes.len(), self.ends.len())
    }

    fn truncate(&mut self, (bytes, records): (usize, usize)) {
        self.bytes.truncate(bytes);
        self.ends.truncate(records);
    }
}

/// How much had been gathered before a unit.
struct Before {
    results: (usize, usize),
    result_records: u64,
    dead_letters: (usize, usize),
    dead_letter_records: u64,
    lost: i64,
}

impl Gathered {
    pub(crate) fn clear(&mut self) {
        self.results.clear();
        self.dead_letters.clear();
        self.torn.clear();
        *self = Gathered {
            results: std::mem::take(&mut self.results),
            dead_letters: std::mem::take(&mut self.dead_letters),
            torn: std::mem::take(&mut self.torn),
            jobs: self.jobs.take(),
            ..Gathered::default()
        };
    }

    pub(crate) fn bytes(&self) -> usize {
        self.results.bytes.len() + self.dead_letters.bytes.len()
    }

    fn before(&self) -> Before {
        Before {
            results: self.results.len(),
            result_records: self.result_records,
            dead_letters: self.dead_letters.len(),
            dead_letter_records: self.dead_letter_records,
            lost: self.lost,
        }
    }

    fn back_to(&mut self, before: &Before) {
        self.results.truncate(before.results);
        self.dead_letters.truncate(before.dead_letters);
        self.result_records = before.result_records;
        self.dead_letter_records = before.dead_letter_records;
        self.lost = before.lost;
    }

    fn enter(&mut self, kind: Kind, payload: &[u8]) {
        match kind {
            Kind::Result | Kind::Alone => {
                self.result_records += 1;
                self.results.push(payload);
            }
            Kind::DeadLetter => {
                self.dead_letter_records += 1;
                self.dead_letters.push(payload);
            }
            Kind::JobDone | Kind::JobFailed => {}
        }
    }
}

/// A stretch of a lane, copied out: what is checked is what is used, whatever becomes of the lane.
#[derive(Default)]
struct Window {
    begin: u64,
    bytes: Vec<u8>,
}

/// Bytes that are copied out at a time, as far as there are so many: they stay in the cache.
const WINDOW: u64 = 32 << 10;

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

    /// Can the lane be published up to this tail, if it was read up to that mark? No other tail was
    /// ever stored by a worker that works.
    pub(crate) fn is_sane(&self, mark: Mark, tail: u64) -> bool {
        tail >= mark.offset
            && tail - mark.offset <= self.capacity
            && tail.is_multiple_of(ALIGN as u64)
    }

    /// Reads units from `mark` on, up to `until` or until `bytes_max` are gathered (at least one
    /// unit, if there is one), and moves the mark behind them. Torn bytes are skipped.
    pub(crate) fn gather(
        &self,
        mark: &mut Mark,
        until: u64,
        bytes_max: usize,
        into: &mut Gathered,
    ) {
        if !self.is_sane(*mark, until) {
            return;
        }
        // Forged heads could make us sum up the whole lane again and again: enough is enough.
        let mut budget = 8 * self.capacity;
        let mut window = Window::default();
        while mark.offset < until && into.bytes() < bytes_max {
            if let Some(end) = self.unit(*mark, until, &mut window, into) {
                *mark = end;
                continue;
            }
            let (lane, from) = (self.lane, mark.offset);
            mark.offset = self.find_unit(from, until, &mut window, &mut budget);
            let to = mark.offset;
            match into.torn.last_mut() {
                Some(last) if (last.lane, last.to) == (lane, from) => last.to = to,
                _ => into.torn.push(Torn { lane, from, to }),
            }
        }
    }

    /// A copy of the bytes of a torn range that was met in reading this lane.
    pub(crate) fn bytes(&self, torn: Torn) -> Vec<u8> {
        let mut bytes = Vec::new();
        let len = torn.to.saturating_sub(torn.from).min(self.capacity);
        self.ring.append_to(self.place(torn.from), len as usize, &mut bytes);
        bytes
    }

    fn place(&self, offset: u64) -> usize {
        (offset % self.capacity) as usize
    }

    /// Gathers the unit at `mark`, and says where it ends; `None` if there is none, and then
    /// nothing was gathered.
    fn unit(
        &self,
        mark: Mark,
        until: u64,
        window: &mut Window,
        into: &mut Gathered,
    ) -> Option<Mark> {
        // Not checked yet, but whatever it is, it is checked as that.
        if self.head(mark.offset, until, window)?.kind == Kind::Alone {
            let (head, payload) = self.frame(mark.offset, until, window)?;
            into.lost = into.lost.wrapping_add(missing(&head, mark));
            into.enter(head.kind, payload);
            return Some(Mark { offset: mark.offset + size(&head), records: head.records });
        }
        let before = into.before();
        let end = self.job(mark, until, window, into);
        if end.is_none() {
            into.back_to(&before);
        }
        end
    }

    /// Gathers the job whose first frame is at `mark`, and says where it ends; `None` if it is not
    /// there whole.
    fn job(
        &self,
        mark: Mark,
        until: u64,
        window: &mut Window,
        into: &mut Gathered,
    ) -> Option<Mark> {
        let mut at = mark;
        loop {
            let (head, payload) = self.frame(at.offset, until, window)?;
            let missing = missing(&head, at);
            // Records can be missing behind torn bytes, never inside of a unit.
            if head.kind == Kind::Alone || (missing != 0 && at.offset != mark.offset) {
                return None;
            }
            into.lost = into.lost.wrapping_add(missing);
            into.enter(head.kind, payload);
            at = Mark { offset: at.offset + size(&head), records: head.records };
            if !matches!(head.kind, Kind::JobDone | Kind::JobFailed) {
                continue;
            }
            let job = JobEnd::from_bytes(payload).filter(|job| job.begin == mark.offset)?;
            if let Some(jobs) = &mut into.jobs {
                jobs.push(EndedJob { round: job.round, seq: job.seq, end: at.offset });
            }
            into.jobs_done += u64::from(head.kind == Kind::JobDone);
            into.jobs_failed += u64::from(head.kind == Kind::JobFailed);
            return Some(at);
        }
    }

    /// The frame at this offset: its head and payload.
    fn frame<'w>(
        &self,
        offset: u64,
        until: u64,
        window: &'w mut Window,
    ) -> Option<(Head, &'w [u8])> {
        let head = self.head(offset, until, window)?;
        if head.offset != offset || size(&head) > until - offset || !plausible(&head) {
            return None;
        }
        let frame = self.copied(offset, until, frame::size(head.len), window)?;
        head.fits(frame).then(|| (head, &frame[HEAD..HEAD + head.len]))
    }

    /// What the bytes at this offset say if they are the head of a frame.
    fn head(&self, offset: u64, until: u64, window: &mut Window) -> Option<Head> {
        Head::from_bytes(self.copied(offset, until, HEAD, window)?.first_chunk()?)
    }

    /// So many bytes of the lane, copied out.
    fn copied<'w>(
        &self,
        offset: u64,
        until: u64,
        len: usize,
        window: &'w mut Window,
    ) -> Option<&'w [u8]> {
        // Before the window: far behind it.
        let at = offset.wrapping_sub(window.begin);
        let end = at.saturating_add(len as u64);
        if end <= window.bytes.len() as u64 {
            return window.bytes.get(at as usize..end as usize);
        }
        let left = until.checked_sub(offset).filter(|left| len as u64 <= *left)?;
        window.begin = offset;
        window.bytes.clear();
        // What follows comes with it.
        let stretch = left.min(WINDOW.max(len as u64)) as usize;
        self.ring.append_to(self.place(offset), stretch, &mut window.bytes);
        window.bytes.get(..len)
    }

    /// Where the first unit begins behind `torn`, where none does; `until` if there is none, or none
    /// within the budget of bytes to be looked at.
    fn find_unit(&self, torn: u64, until: u64, window: &mut Window, budget: &mut u64) -> u64 {
        const STEP: u64 = ALIGN as u64;
        let mut at = torn.saturating_add(STEP);
        while at < until && *budget > 0 {
            let Some((head, _)) = self.frame(at, until, window) else {
                *budget = budget.saturating_sub(self.summed(at, until, window).max(1));
                at = at.saturating_add(STEP);
                continue;
            };
            if head.kind == Kind::Alone {
                return at;
            }
            match self.job_end(at, until, window) {
                // Here, or behind frames of another job that has no end.
                Ok((begin, end)) if self.leads_to(at, begin, end, window) => return begin,
                // The rest of the torn job.
                Ok((_, end)) => return end,
                Err(broken) => {
                    *budget = budget.saturating_sub(broken - at);
                    at = broken.max(at.saturating_add(STEP));
                }
            }
        }
        until
    }

    /// Does one of the frames from here on begin there? They are known to be whole.
    fn leads_to(&self, from: u64, begin: u64, until: u64, window: &mut Window) -> bool {
        let mut at = from;
        while at < begin {
            let Some(head) = self.head(at, until, window) else { return false };
            at = at.saturating_add(size(&head));
        }
        at == begin
    }

    /// Bytes that looking for a frame here has summed up in vain.
    fn summed(&self, at: u64, until: u64, window: &mut Window) -> u64 {
        self.head(at, until, window)
            .filter(|head| head.offset == at && size(head) <= until - at)
            .map_or(0, |head| size(&head))
    }

    /// Follows the frames of a job to what ends it: where that says it began, and where it ends. Or
    /// where there is no frame of a job.
    fn job_end(&self, from: u64, until: u64, window: &mut Window) -> Result<(u64, u64), u64> {
        let mut at = from;
        loop {
            let (head, payload) = self.frame(at, until, window).ok_or(at)?;
            let end = at + size(&head);
            match head.kind {
                Kind::Alone => return Err(at),
                Kind::Result | Kind::DeadLetter => at = end,
                Kind::JobDone | Kind::JobFailed => {
                    let job = JobEnd::from_bytes(payload).ok_or(end)?;
                    return Ok((job.begin, end));
                }
            }
        }
    }
}

fn size(head: &Head) -> u64 {
    frame::size(head.len) as u64
}

/// Records that are missing between the mark and this frame, by their numbers.
fn missing(head: &Head, mark: Mark) -> i64 {
    let expected = mark.records.wrapping_add(head.kind.is_record().into());
    head.records.wrapping_sub(expected).cast_signed()
}

/// A lane can't have had more records than frames would fit in before it.
fn plausible(head: &Head) -> bool {
    head.records <= head.offset / HEAD as u64 + 1
}

/// What a look at a lane has found, from the committed head to the tail.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Behind the last unit or torn range.
    pub end: Mark,
    pub torn: Vec<Torn>,
    /// Records that are missing in between, by the numbers of the others.
    pub lost: i64,
    /// Records before the tail, if what is torn at the end of the lane is counted as its writer has:
    /// by one job too many, if it was killed just then.
    pub records: u64,
}

/// Looks through what is published in a lane and not committed.
///
/// A writer's own count may be ahead by one job after a kill; the frames are the truth.
pub(crate) fn survey(spool: &Spool, lane: usize, head: Mark) -> io::Result<Survey> {
    let tail = spool.producer(lane).tail.load(Ordering::Acquire);
    if head.offset >= tail {
        // Nothing to read: most lanes, most of the time, and mapping a ring is not cheap.
        return Ok(Survey { end: head, records: head.records, ..Survey::default() });
    }
    let reader = LaneReader::open(spool, lane)?;
    let mut survey = Survey { end: head, ..Survey::default() };
    let mut scratch = Gathered::default();
    while survey.end.offset < tail && reader.is_sane(survey.end, tail) {
        scratch.clear();
        reader.gather(&mut survey.end, tail, 1 << 16, &mut scratch);
        survey.torn.append(&mut scratch.torn);
        survey.lost = survey.lost.wrapping_add(scratch.lost);
    }
    survey.records = survey.end.records;
    if let Some(torn) = survey.torn.last().filter(|torn| torn.to == survey.end.offset) {
        let counted = spool.producer(lane).published.load(Ordering::Relaxed);
        let most = survey.end.records + (torn.to - torn.from) / HEAD as u64;
        if (survey.end.records..=most).contains(&counted) {
            survey.records = counted;
        }
    }
    Ok(survey)
}

/// The jobs whose ends stand anywhere in a lane, written or not.
pub(crate) fn jobs_in_lane(spool: &Spool, lane: usize) -> io::Result<Vec<EndedJob>> {
    let reader = LaneReader::open(spool, lane)?;
    let tail = spool.producer(lane).tail.load(Ordering::Acquire);
    let offset = tail.saturating_sub(reader.capacity).next_multiple_of(ALIGN as u64);
    let mut gathered = Gathered { jobs: Some(Vec::new()), ..Gathered::default() };
    reader.gather(&mut Mark { offset, records: 0 }, tail, usize::MAX, &mut gathered);
    Ok(gathered.jobs.unwrap_or_default())
}

#[cfg(test)]
mod tests;
