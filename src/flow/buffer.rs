//! The buffer: collects what is published in the lanes and writes it in batches.
//!
//! The lanes are the memory; there is no second queue. The buffer sleeps until a threshold is
//! reached, the oldest record is old enough, a worker waits for room, or it is told to stop; an
//! idle pipeline does not wake it at all. The steps of a batch are those of
//! [`super::queue::commit`]; what is done about a batch of a dead buffer stands in [`recovery`].

mod places;
mod recovery;
mod room;
mod rotate;

use super::queue::commit::{Commit, Totals};
use super::queue::layout::{SOURCE_WAITS_FLUSH, SOURCE_WAITS_SYNC};
use super::queue::position::ListPosition;
use super::queue::reader::{Gathered, LaneReader, Mark};
use super::queue::spool::Spool;
use super::queue::{bell, ends, processes, vitals};
use super::sink::Sinks;
use crate::config;
use crate::error::Error;
use crate::stop::Stop;
use crate::sys::atomic::{Ordering, full_fence};
use crate::sys::clock;
use places::unsynced;
use room::write;
use std::time::Duration;

/// Bytes of a batch at the most (and one record): what is gathered at a time, written with one
/// call, and committed. A worker whose lane is full goes on after each, so that it waits for less
/// than a whole lane, and what was gathered is still in the cache when it is written.
const BATCH_BYTES: usize = 256 << 10;
/// The same, where each batch is synced.
const SYNCED_BATCH_BYTES: usize = 1 << 20;

/// How long a stop waits at the most, once everything is synced, for what the next start could do as well.
const PATIENCE: Duration = Duration::from_secs(1);

/// When to write and when to sync.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policy {
    pub flush: config::Buffer,
    pub sync: config::SyncPolicy,
}

/// Runs the buffer until it is told to stop and all lanes are drained. Returns the records that
/// it has written.
///
/// # Errors
/// If the output can't be read, written or synced, or the spool is damaged. What was not
/// committed stays in the spool.
pub(crate) fn run(
    spool: &Spool,
    sinks: Sinks<'_>,
    policy: Policy,
    stop: &Stop,
    ready: impl FnOnce(),
) -> Result<u64, Error> {
    let readers: Result<Vec<_>, _> =
        (0..spool.lanes()).map(|lane| LaneReader::open(spool, lane)).collect();
    sinks.output.belong_to(spool.identity());
    let mut buffer = Buffer {
        spool,
        sinks,
        policy,
        stop,
        readers: readers.map_err(Error::system("can't map the lanes"))?,
        books: Commit::load(spool),
        gathered: Gathered::default(),
        written: 0,
        oldest: None,
        synced: clock::now(),
        dirty: true,
        not_begun: 0,
        insane: vec![false; spool.lanes()],
        unsynced: false,
        spool_looked_at: Some(clock::now()),
        synced_with: None,
    };
    vitals::begin(spool);
    // Before what may wait for room on a full disk: that is no reason to be killed for.
    ready();
    if processes::is_unsynced(spool) {
        return Err(unsynced(&*buffer.sinks.output));
    }
    buffer.go_on_after(Buffer::recover)?;
    buffer.sinks.output.tidy();
    buffer.go_on_after(Buffer::collect)?;
    buffer.close_books();
    buffer.go_on_after(Buffer::look_at_places)?;
    buffer.go_on_after(Buffer::sync_last)?;
    // Who is in time may use a part of what is left.
    let patience = stop.time_left().map_or(Duration::ZERO, |left| (left / 4).min(PATIENCE));
    buffer.sinks.output.close(patience);
    if buffer.insane.contains(&true) {
        let message = "a lane has a tail that no worker can have stored; what is behind it is \
                       looked through by the next start";
        return Err(Error::file(&spool.path, "the spool is damaged", message));
    }
    Ok(buffer.written)
}

struct Buffer<'a, 's> {
    spool: &'a Spool,
    sinks: Sinks<'s>,
    policy: Policy,
    stop: &'a Stop,
    readers: Vec<LaneReader>,
    /// The newest commit.
    books: Commit,
    gathered: Gathered,
    /// Records written by this process.
    written: u64,
    /// Since when the oldest record that is not written may have been waiting.
    oldest: Option<Duration>,
    /// When the last sync was.
    synced: Duration,
    /// Something was written since the last sync.
    dirty: bool,
    /// Bytes that were written since the disk has begun with those before them.
    not_begun: usize,
    /// Lanes whose tail is none that a worker can have stored. Nothing more is read of them.
    insane: Vec<bool>,
    /// A sync has just failed.
    unsynced: bool,
    /// When it was seen last that the spool has its name; `None`: it has not, and that was said.
    spool_looked_at: Option<Duration>,
    /// What the spool had in it at the last sync: see [`Buffer::in_spool`].
    synced_with: Option<(u64, ListPosition)>,
}

/// What waits in the lanes at one moment.
#[derive(Debug, Default)]
struct Pending {
    tails: Vec<u64>,
    published: Vec<u64>,
    records: u64,
    bytes: u64,
    /// A worker waits for room, or the source for a commit.
    waiting: bool,
}

impl Buffer<'_, '_> {
    /// Gathers units up to the given ends, and says how far that is.
    fn gather(&mut self, ends: &[u64], bytes_max: usize) -> Vec<Mark> {
        let mut lanes = self.books.lanes.clone();
        self.gather_on(&mut lanes, ends, bytes_max);
        lanes
    }

    fn gather_on(&mut self, lanes: &mut [Mark], ends: &[u64], bytes_max: usize) {
        for ((reader, mark), end) in self.readers.iter().zip(lanes).zip(ends) {
            reader.gather(mark, *end, bytes_max, &mut self.gathered);
        }
    }

    /// The books as they will be once what was gathered is written.
    fn books_after(&self, lanes: Vec<Mark>) -> Commit {
        let (totals, gathered) = (self.books.totals, &self.gathered);
        Commit {
            generation: self.books.generation + 1,
            boots: self.books.boots,
            totals: Totals {
                results: totals.results + gathered.result_records,
                dead_letters: totals.dead_letters + gathered.dead_letter_records,
                jobs_done: totals.jobs_done + gathered.jobs_done,
                jobs_failed: totals.jobs_failed + gathered.jobs_failed,
                quarantined: totals.quarantined.wrapping_add_signed(gathered.lost),
                torn: totals.torn + gathered.torn.len() as u64,
            },
            sinks: self.sinks.positions(),
            lanes,
            synced: self.books.synced.clone(),
            rotation: 0,
        }
    }

    fn collect(&mut self) -> Result<(), Error> {
        loop {
            // Before the tails are read: all that was published when the stop was asked for is
            // seen by the look that follows.
            let stopping = self.stop.requested();
            if self.stop.take_reopening() {
                self.reopen()?;
            }
            let now = clock::now();
            let pending = self.look();
            if pending.bytes == 0 {
                self.note_oldest(None);
                if stopping {
                    return Ok(());
                }
            } else {
                let oldest = self.oldest.unwrap_or(now);
                self.note_oldest(Some(oldest));
                if stopping || self.is_due(&pending, oldest, now) {
                    // What comes from here on may be as old as this look.
                    self.note_oldest(Some(now));
                    self.flush(&pending.tails)?;
                    if self.source_wants_sync() {
                        self.sync()?;
                    }
                    continue;
                }
            }
            if self.sync_at().is_some_and(|at| at <= now) || self.source_wants_sync() {
                self.sync()?;
                continue;
            }
            self.gathered.clear();
            if !self.rotate_if_due()? {
                self.sleep(&pending);
            }
        }
    }

    fn note_oldest(&mut self, oldest: Option<Duration>) {
        self.oldest = oldest;
        vitals::note(&vitals::of(self.spool).waiting_since, oldest);
    }

    fn look(&mut self) -> Pending {
        let mut pending = Pending::default();
        for lane in 0..self.books.lanes.len() {
            let tail = self.tail(lane).unwrap_or_else(|| self.books.lanes[lane].offset);
            self.note_sanity(lane);
            let mark = self.books.lanes[lane];
            let published = self.spool.producer(lane).published.load(Ordering::Relaxed);
            pending.bytes = pending.bytes.saturating_add(tail - mark.offset);
            // A broken worker can store any number here; the frames are what is believed.
            pending.records =
                pending.records.saturating_add(published.saturating_sub(mark.records));
            pending.waiting |= self.waits_for_room(lane);
            pending.tails.push(tail);
            pending.published.push(published);
        }
        pending.waiting |= pending.bytes > 0 && self.source_waits();
        pending
    }

    /// Up to where a lane is published; `None` if its tail is none that a worker can have stored.
    fn tail(&self, lane: usize) -> Option<u64> {
        let tail = ends::tail(self.spool.producer(lane));
        self.readers[lane].is_sane(self.books.lanes[lane], tail).then_some(tail)
    }

    fn note_sanity(&mut self, lane: usize) {
        let insane = self.tail(lane).is_none();
        if insane && !self.insane[lane] {
            log::error!(
                "{}: lane {lane} has a tail that no worker can have stored; nothing is read of it \
                 until it has another",
                self.spool.path.display()
            );
        }
        self.insane[lane] = insane;
    }

    fn is_due(&self, pending: &Pending, oldest: Duration, now: Duration) -> bool {
        let flush = self.policy.flush;
        pending.waiting
            || pending.records >= flush.flush_records
            || pending.bytes >= flush.flush_bytes
            || oldest.saturating_add(flush.flush_after) <= now
    }

    /// Writes all that was published before the tails, in batches.
    fn flush(&mut self, tails: &[u64]) -> Result<(), Error> {
        let mut ends = tails.to_vec();
        loop {
            self.gathered.clear();
            let lanes = self.gather(&ends, self.batch_bytes());
            if self.hold_back(&mut ends) {
                continue;
            }
            if lanes == self.books.lanes {
                break;
            }
            self.put_torn_aside()?;
            self.look_at_places()?;
            self.rotate_if_due()?;
            self.lead();
            let next = self.books_after(lanes);
            next.store_intent(self.spool);
            if self.syncs_always() {
                // With it the commit before becomes durable, and only then its frames may go.
                self.sync_spool()?;
                self.free();
            }
            self.write_all(next.number(), [0, 0])?;
            self.commit(next)?;
            if !self.syncs_always() {
                self.free();
                self.begin_write_back()?;
            } else if self.sinks.output.tells_by_number() {
                // Its number is all that tells this batch from the next, whose intent takes the
                // place of this one's.
                self.sync_spool()?;
            }
        }
        if self.syncs_always() {
            self.sync_spool()?;
            self.free();
            self.dirty = false;
            vitals::note(&vitals::of(self.spool).synced_at, Some(clock::now()));
        }
        self.refuse_to_go_on(tails, &ends)
    }

    /// Puts the header before what was gathered, if the output is empty.
    fn lead(&mut self) {
        let empty = match self.sinks.output.position() {
            Some(position) => position.len == 0,
            // Nobody knows, as of a pipe: once for each spool.
            None => self.books.totals.results == 0,
        };
        if empty && !self.gathered.results.ends.is_empty() {
            self.gathered.results.lead_with(self.sinks.output.header());
        }
    }

    /// Writes what was gathered to both sinks, from what is there already of it on.
    fn write_all(&mut self, number: u64, done: [usize; 2]) -> Result<(), Error> {
        write(self.spool, self.sinks.output, self.gathered.results.batch(number), done[0])?;
        let dead_letters = self.gathered.dead_letters.batch(number);
        match self.sinks.dead_letters.as_deref_mut() {
            Some(sink) => write(self.spool, sink, dead_letters, done[1])?,
            None if dead_letters.ends.is_empty() => {}
            None => {
                let message = "it holds dead letters, and no file is named for them";
                return Err(Error::file(
                    &self.spool.path,
                    "the spool can't be written out",
                    message,
                ));
            }
        }
        self.dirty = true;
        Ok(())
    }

    /// Commits what was written; synced before, if the policy says so.
    fn commit(&mut self, mut next: Commit) -> Result<(), Error> {
        if self.syncs_always() {
            self.sync_sinks()?;
        }
        next.sinks = self.sinks.positions();
        if self.syncs_always() {
            next.all_synced();
        }
        next.store(self.spool);
        vitals::note(&vitals::of(self.spool).committed_at, Some(clock::now()));
        self.books = next;
        self.written += self.gathered.result_records;
        Ok(())
    }

    fn syncs_always(&self) -> bool {
        matches!(self.policy.sync, config::SyncPolicy::Always)
    }

    /// Lets the writers have the space of what is committed, and wakes those that wait for it.
    fn free(&self) {
        let mut moved = Vec::new();
        for (lane, mark) in self.books.lanes.iter().enumerate() {
            let consumer = self.spool.consumer(lane);
            // Who waits in another lane finds no more room than before.
            if ends::freed(consumer) != mark.offset {
                ends::free(consumer, mark.offset);
                moved.push(lane);
            }
        }
        full_fence();
        for lane in moved {
            bell::ring_after_fence(self.spool.lane_bell(lane));
        }
        self.ring_source_after_fence();
    }

    fn ring_source_after_fence(&self) {
        if self.source_wants() != 0 {
            bell::ring_after_fence(&self.spool.bells().source);
        }
    }

    fn source_wants(&self) -> u32 {
        self.spool.bells().source_waits.load(Ordering::SeqCst)
    }

    /// Does the source wait for a commit?
    fn source_waits(&self) -> bool {
        self.source_wants() & (SOURCE_WAITS_FLUSH | SOURCE_WAITS_SYNC) != 0
    }

    /// Does the source wait for a sync that there is something for?
    fn source_wants_sync(&self) -> bool {
        self.dirty && self.source_wants() & SOURCE_WAITS_SYNC != 0
    }

    /// When the next sync is due, if something is to be synced.
    fn sync_at(&self) -> Option<Duration> {
        match self.policy.sync {
            config::SyncPolicy::Every(interval) if self.dirty => {
                Some(self.synced.saturating_add(interval))
            }
            _ => None,
        }
    }

    /// The spool goes first: an output that has outlived a power loss without the frames that it
    /// came from could not be told from one that somebody else has written. Then the output, then
    /// the commit that says so.
    fn sync(&mut self) -> Result<(), Error> {
        if self.dirty {
            self.sync_spool()?;
        }
        self.sync_sinks()?;
        let mut next = self.books.clone();
        next.generation += 1;
        next.sinks = self.sinks.positions();
        next.all_synced();
        next.store(self.spool);
        self.books = next;
        let in_spool = self.in_spool();
        self.sync_spool()?;
        self.synced_with = Some(in_spool);
        self.synced = clock::now();
        self.not_begun = 0;
        vitals::note(&vitals::of(self.spool).synced_at, Some(self.synced));
        self.dirty = false;
        full_fence();
        self.ring_source_after_fence();
        Ok(())
    }

    /// The sync at the end. What was synced already with all that is in it costs no second one.
    fn sync_last(&mut self) -> Result<(), Error> {
        // A sink of a program's own may count on it.
        if self.dirty || !self.writes_a_file() {
            return self.sync();
        }
        if self.is_spool_synced() { Ok(()) } else { self.sync_spool() }
    }

    fn sync_spool(&self) -> Result<(), Error> {
        self.spool
            .sync()
            .map_err(|error| Error::of_records(&self.spool.path, "can't sync the spool", &error))
    }

    /// Sleeps until there is something to do.
    fn sleep(&self, pending: &Pending) {
        let (records_at, bytes_at) = self.thresholds(pending);
        for (lane, mark) in self.books.lanes.iter().enumerate() {
            // From where they stood at that look: what has come since counts.
            let published = pending.published[lane].max(mark.records);
            ends::ask_for_ring(
                self.spool.consumer(lane),
                pending.tails[lane].saturating_add(bytes_at),
                published.saturating_add(records_at),
            );
        }
        let flush_at = self.oldest.map(|at| at.saturating_add(self.policy.flush.flush_after));
        let until = [flush_at, self.sync_at(), self.rotates_at()].into_iter().flatten().min();
        bell::sleep_unless(&self.spool.bells().buffer, until, || {
            self.stop.requested() || self.stop.is_reopening_requested() || self.was_rung_for()
        });
    }

    /// How many more records or bytes a single lane may publish before the buffer looks again.
    ///
    /// Nothing waits: the first record wakes it, so that it can look at the clock. Otherwise each
    /// lane may have an even share of what is missing: the sum can't exceed the threshold unseen.
    fn thresholds(&self, pending: &Pending) -> (u64, u64) {
        if pending.bytes == 0 {
            return (1, 1);
        }
        let lanes = self.spool.lanes() as u64;
        let share = |missing: u64| (missing / lanes).max(1);
        let flush = self.policy.flush;
        (
            share(flush.flush_records.saturating_sub(pending.records)),
            share(flush.flush_bytes.saturating_sub(pending.bytes)),
        )
    }

    /// Would a writer have rung since the lanes were looked at?
    fn was_rung_for(&self) -> bool {
        let lane_waits = (0..self.spool.lanes()).any(|lane| {
            let (producer, consumer) = (self.spool.producer(lane), self.spool.consumer(lane));
            self.tail(lane).is_some_and(|tail| {
                ends::has_come(producer, consumer)
                    || (tail > self.books.lanes[lane].offset && self.source_waits())
                    || self.waits_for_room(lane)
            })
        });
        lane_waits || self.source_wants_sync()
    }

    /// Does the lane's worker wait for room that a flush would give it? One that has died waiting
    /// does not count once its lane is empty.
    fn waits_for_room(&self, lane: usize) -> bool {
        let producer = self.spool.producer(lane);
        let freed = self.spool.consumer(lane).freed.load(Ordering::Relaxed);
        let wanted = producer.waiting_for.load(Ordering::Acquire).saturating_sub(freed);
        wanted > self.spool.layout.geometry.lane_bytes
            && self.tail(lane).is_some_and(|tail| tail > self.books.lanes[lane].offset)
    }
}

#[cfg(test)]
mod closing_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod due_tests;
#[cfg(test)]
mod own_sink_tests;
#[cfg(test)]
mod places_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod salvage_tests;
#[cfg(test)]
mod sink_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod waking_tests;
