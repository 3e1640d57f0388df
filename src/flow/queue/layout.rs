//! Where everything stands in the spool.
//!
//! # Constraints
//! - A child can be killed between any two instructions, so every change becomes visible by one
//!   store: a tail, a state, a checksum.
//! - Each region says who writes it. Regions of different writers are on different pages, so
//!   that each role maps only its own as writable.
//! - Offsets follow from the [`Geometry`] alone; nothing in the file is an address.
//!
//! # Format (version 4, all words little-endian, every region on a page of its own)
//! ```text
//! region      written by                what
//! header      creator, once             magic, version, geometry, identity, fingerprint, checksum
//! run         main                      run id, boot id, main's pid, deadlines, exit
//! about       main, at each start       what runs, for who has no configuration: a text with a checksum
//! history     main                      what happened to whom in the last run, and in its stop
//! position    source                    two records in turn: how far the job list was handed out
//! processes   each child, and main      pid, start time, incarnation, state; how it ended
//! bells       all                       futex words: who sleeps, and for what
//! commit      buffer                    two records in turn: heads of lanes, positions of sinks, totals
//! intent      buffer                    the batch being written: ends of lanes, base position
//! vitals      buffer                    how long what waits has been waiting, for `status` alone
//! slots       source and workers        one job each: state, where its results end, attempts
//! payloads    source                    the text of the job in each slot
//! producers   a page for each lane, its worker     tail, records published
//! consumers   a page for each lane, buffer         space freed, when to ring the buffer
//! rings       a ring for each lane, its worker     frames
//! ```

use crate::sys::atomic::{AtomicU32, AtomicU64};
use crate::sys::mmap::Shared;

/// The first word of every spool: `procsig` and a zero. A machine of the other byte order reads
/// another number, and so refuses the file.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"procsig\0");

/// Version of the format. Another version's spool is refused, never guessed at.
pub(crate) const VERSION: u64 = 5;

/// Regions begin on multiples of this, on every architecture that we run on.
pub(crate) const PAGE: usize = 4096;

/// Words of a record before its own: checksum and generation.
pub(crate) const RECORD_HEAD: usize = 2;

/// Words of a commit before the heads of the lanes.
pub(crate) const COMMIT_FIXED: usize = 24;

/// Words of a commit, or of an intent, for each lane: offset, and records up to there; and the same as
/// they were at the last sync.
pub(crate) const COMMIT_PER_LANE: usize = 4;

/// Words of a source position.
pub(crate) const POSITION_WORDS: usize = 8;

/// Bytes of what is known about a run, with its head: so many, and so many for each lane, since a
/// kind of worker has one at least.
const ABOUT_BYTES: usize = 16 << 10;
const ABOUT_BYTES_PER_LANE: usize = 256;

/// Entries of the history before the stop, of which the newest are kept, and of the stop, of which
/// all are: so many, and so many for each child.
const HISTORY_BEFORE: usize = 64;
const HISTORY_BEFORE_PER_CHILD: usize = 2;
const HISTORY_STOP: usize = 64;
const HISTORY_STOP_PER_CHILD: usize = 4;

/// The sizes that a spool is built for; they never change in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// One for each worker process.
    pub lanes: u32,
    /// Bytes of each lane's ring, a multiple of the page size.
    pub lane_bytes: u64,
    /// Jobs handed out at a time.
    pub slots: u32,
    /// Bytes of the longest job.
    pub job_bytes: u32,
}

/// The largest geometry that is believed: what a damaged header may make us map.
const LANES_MAX: u32 = 0xffff;
const LANE_BYTES_MAX: u64 = 1 << 32;
const SLOTS_MAX: u32 = 1 << 20;
const JOB_BYTES_MAX: u32 = 1 << 24;

impl Geometry {
    /// Is this a spool that we could have built?
    pub(crate) fn is_sound(&self) -> bool {
        (1..=LANES_MAX).contains(&self.lanes)
            && (PAGE as u64..=LANE_BYTES_MAX).contains(&self.lane_bytes)
            && self.lane_bytes.is_multiple_of(PAGE as u64)
            && (1..=SLOTS_MAX).contains(&self.slots)
            && (1..=JOB_BYTES_MAX).contains(&self.job_bytes)
    }
}

/// Offsets of the regions, in bytes from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    pub geometry: Geometry,
    pub run: usize,
    pub about: usize,
    /// Bytes of the text at most.
    pub about_bytes: usize,
    pub history: usize,
    /// Entries in its two parts.
    pub history_before: usize,
    pub history_stop: usize,
    pub position: [usize; 2],
    pub processes: usize,
    pub bells: usize,
    pub commit: [usize; 2],
    pub intent: usize,
    pub vitals: usize,
    pub slots: usize,
    pub payloads: usize,
    /// Bytes from one job's text to the next.
    pub payload_stride: usize,
    pub producers: usize,
    pub consumers: usize,
    pub rings: usize,
    /// Bytes of the whole file.
    pub total: usize,
}

impl Layout {
    pub(crate) fn of(geometry: Geometry) -> Layout {
        assert!(geometry.is_sound(), "a geometry that no spool may have: {geometry:?}");
        let lanes = geometry.lanes as usize;
        let record = |words: usize| (RECORD_HEAD + words) * size_of::<u64>();
        let batch = record(COMMIT_FIXED + COMMIT_PER_LANE * lanes);
        let payload_stride = (geometry.job_bytes as usize).next_multiple_of(64);
        let about = ABOUT_BYTES + lanes * ABOUT_BYTES_PER_LANE;
        let children = 2 + lanes;
        let history_before = HISTORY_BEFORE + children * HISTORY_BEFORE_PER_CHILD;
        let history_stop = HISTORY_STOP + children * HISTORY_STOP_PER_CHILD;
        let entries = (history_before + history_stop) * size_of::<HistoryEntry>();
        let mut end = PAGE;
        let mut region = |bytes: usize| {
            let start = end;
            end += bytes.next_multiple_of(PAGE);
            start
        };
        Layout {
            geometry,
            run: region(size_of::<Run>()),
            about: region(about),
            about_bytes: about - size_of::<AboutHead>(),
            history: region(size_of::<HistoryHead>() + entries),
            history_before,
            history_stop,
            position: [region(record(POSITION_WORDS)), region(record(POSITION_WORDS))],
            processes: region((2 + lanes) * size_of::<Process>()),
            bells: region(size_of::<Bells>() + lanes * size_of::<LaneBell>()),
            commit: [region(batch), region(batch)],
            intent: region(batch),
            vitals: region(size_of::<Vitals>()),
            slots: region(geometry.slots as usize * size_of::<Slot>()),
            payloads: region(geometry.slots as usize * payload_stride),
            payload_stride,
            producers: region(lanes * PAGE),
            consumers: region(lanes * PAGE),
            rings: region(lanes * geometry.lane_bytes as usize),
            total: end,
        }
    }

    /// Offset of a lane's ring.
    pub(crate) fn ring(&self, lane: usize) -> usize {
        self.rings + lane * self.geometry.lane_bytes as usize
    }
}

/// Written by the creator, before anyone else can see the file.
#[repr(C)]
pub(crate) struct Header {
    /// Stored last: a file without it was never finished.
    pub magic: AtomicU64,
    pub version: AtomicU64,
    pub lanes: AtomicU64,
    pub lane_bytes: AtomicU64,
    pub slots: AtomicU64,
    pub job_bytes: AtomicU64,
    /// Random; names this spool in the environment of what it starts and in messages.
    pub identity: AtomicU64,
    /// Of job source, workers and outputs: whose work is in here.
    pub fingerprint: AtomicU64,
    /// Of all words before it but the magic.
    pub checksum: AtomicU64,
}

/// Written by main; read by orphans, `status`, and the next start.
#[repr(C)]
pub(crate) struct Run {
    /// Random, new at each start.
    pub run_id: AtomicU64,
    /// First half of the kernel's boot id: after another boot, memory was lost.
    pub boot_id: AtomicU64,
    pub main_pid: AtomicU64,
    /// In clock ticks since boot, from /proc: with the pid it names one process for ever.
    pub main_start: AtomicU64,
    /// Wall time in nanoseconds since 1970.
    pub started: AtomicU64,
    /// How long a stop may take, in nanoseconds.
    pub deadline: AtomicU64,
    /// The part of it that is kept for the flush, in nanoseconds.
    pub flush_reserve: AtomicU64,
    /// Nonzero once a stop has begun: no job is begun any more, also by a worker that has not
    /// been told yet.
    pub stopping: AtomicU64,
    /// 0 while it runs, then 1 + the exit code.
    pub ended: AtomicU64,
    /// How often a start has found that the machine was booted since the run before, and what was
    /// only in memory is gone. A commit says which of these it knows of.
    pub boots: AtomicU64,
    /// Nonzero: a start has found the spool damaged at some time.
    pub damaged: AtomicU64,
    /// Number of the PID namespace that main is in: in another one, pids say nothing.
    pub pid_namespace: AtomicU64,
    /// The books when this run began, for who wants to know what it has done.
    pub opening: [AtomicU64; OPENING_WORDS],
}

/// Before the text of what is known about a run.
#[repr(C)]
pub(crate) struct AboutHead {
    /// Of the text, in bytes; 0: there is none.
    pub len: AtomicU64,
    /// CRC-32C of the text and of the run's number.
    pub checksum: AtomicU64,
}

/// Before the entries of the history.
#[repr(C)]
pub(crate) struct HistoryHead {
    /// Of which run it tells; 0: of none.
    pub run_id: AtomicU64,
    /// When that began, on the monotonic clock, in nanoseconds.
    pub began: AtomicU64,
    /// Entries before the stop that were ever made; only the newest are there.
    pub before: AtomicU64,
    /// Entries of the stop; the first is what it was asked for.
    pub stop: AtomicU64,
    /// Entries of the stop that found no room.
    pub missed: AtomicU64,
    /// The balance at the end, and its checksum, with that of the run's number.
    pub balance: [AtomicU64; BALANCE_WORDS],
    pub balance_checksum: AtomicU64,
    reserved: [AtomicU64; 2],
}

/// Words of a balance.
pub(crate) const BALANCE_WORDS: usize = 16;

/// One entry of the history; what its words mean is said in [`super::history`].
#[repr(C)]
pub(crate) struct HistoryEntry {
    pub words: [AtomicU64; 7],
    pub checksum: AtomicU64,
}
/// Words of [`Run::opening`]: totals as a commit has them (results, dead letters, jobs done, jobs failed,
/// quarantined), records published, and of these kept.
pub(crate) const OPENING_WORDS: usize = 7;

/// What a child is doing, in [`Process::state`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum ProcessState {
    Absent = 0,
    Starting = 1,
    Running = 2,
    Ended = 3,
}

/// One child. Slot 0 is the source, 1 the buffer, 2 + n the worker of lane n.
#[repr(C)]
pub(crate) struct Process {
    pub pid: AtomicU64,
    /// In clock ticks since boot, from /proc.
    pub start: AtomicU64,
    /// Counts the processes that have had this role, from 1.
    pub incarnation: AtomicU64,
    /// A [`ProcessState`].
    pub state: AtomicU64,
    /// Nonzero once main has decided to kill it, or it ends itself for a job that has timed out: its
    /// jobs in hand count no death.
    pub condemned: AtomicU64,
    /// How the last process of this slot ended, as main has seen it: 0 unknown, 1 + exit code, or
    /// 512 + signal.
    pub last_end: AtomicU64,
    /// The [`Process::incarnation`] when this run began.
    pub before_run: AtomicU64,
    /// Jobs that the workers of this slot have done well, in the life of the spool.
    pub jobs_done: AtomicU64,
    /// Of the buffer's slot: nonzero since a sync of the output has failed in this run. It is not
    /// written to any more.
    pub unsynced: AtomicU64,
    reserved: [AtomicU64; 7],
}

/// Futex words that are nobody's own.
#[repr(C)]
pub(crate) struct Bells {
    /// Grows whenever a job may have become ready. Idle worker threads sleep on it.
    pub jobs: AtomicU32,
    /// Threads asleep on `jobs`, or about to be. Only a hint: a killed one is never taken off,
    /// which costs a system call and no more.
    pub jobs_idle: AtomicU32,
    /// Where the next ready job probably stands. Only a hint.
    pub jobs_hint: AtomicU32,
    apart: [AtomicU32; 13],
    /// The source sleeps on it while no slot is free.
    pub source: AtomicU32,
    /// What the source, asleep, waits for: the sum of [`SOURCE_WAITS_FLUSH`] and the two after it.
    pub source_waits: AtomicU32,
    apart_again: [AtomicU32; 14],
    /// The buffer sleeps on it.
    pub buffer: AtomicU32,
    apart_at_last: [AtomicU32; 15],
}

/// No job is ready, and all that the source waits for are commits of done ones: a reason to flush.
pub(crate) const SOURCE_WAITS_FLUSH: u32 = 1;
/// And they must be synced: a reason to sync as well.
pub(crate) const SOURCE_WAITS_SYNC: u32 = 2;
/// It has time, but wants to hear of each commit and each sync.
pub(crate) const SOURCE_LISTENS: u32 = 4;

/// The worker of a lane sleeps on it while the lane is full.
#[repr(C)]
pub(crate) struct LaneBell {
    pub space: AtomicU32,
    apart: [AtomicU32; 15],
}

/// What the buffer says of itself. Nothing depends on it: it is there to be shown. Moments are of the
/// monotonic clock, in nanoseconds; 0: there is none.
#[repr(C)]
pub(crate) struct Vitals {
    /// Since when the oldest record that is not written may have been waiting.
    pub waiting_since: AtomicU64,
    /// When the last batch was committed.
    pub committed_at: AtomicU64,
    /// When what was written was last forced to the disk.
    pub synced_at: AtomicU64,
    /// Since when it waits for room on a full disk.
    pub no_room_since: AtomicU64,
}

/// A job that was handed out.
#[repr(C)]
pub(crate) struct Slot {
    /// See [`super::jobs::State`]; changed by compare-and-swap only.
    pub state: AtomicU64,
    /// The job is done once the claimer's lane has a tail of at least this; `u64::MAX`: not yet.
    pub result_end: AtomicU64,
    /// Number in the list, from 1.
    pub seq: AtomicU64,
    /// Which run through the list, from 1.
    pub round: AtomicU64,
    /// Where the list goes on behind this job, in bytes.
    pub offset: AtomicU64,
    /// Checksum of the list up to there.
    pub prefix: AtomicU64,
    /// Not to be started before this moment of the monotonic clock, in nanoseconds.
    pub not_before: AtomicU64,
    /// Bytes of the job in the low half, in the high one a checksum (CRC-32C) of its text, of its
    /// length and of the four words before `not_before`: what the source writes once.
    pub len_and_checksum: AtomicU64,
    /// Failures so far.
    pub attempts: AtomicU64,
    /// Deaths of the worker while it ran nothing but this job, the present start included; bit 63: it is.
    pub deaths: AtomicU64,
    /// How often it was put back because somebody else ended its command.
    pub put_back: AtomicU64,
    /// Nonzero: used up; its next claimer publishes the failure. See [`super::jobs::Reason`].
    pub reason: AtomicU64,
    /// When the present attempt began: wall time in nanoseconds, an even number; 0: it has not. The
    /// lowest bit: what is published of the job says that it has failed for good.
    pub started: AtomicU64,
    /// Process group of the job's command, 0 if there is none.
    pub command: AtomicU64,
    /// Start time of the command's process, in clock ticks since boot.
    pub command_start: AtomicU64,
    /// Nonzero: a worker died with this job in hand, so from now on it is run alone.
    pub suspect: AtomicU64,
}

/// The producing end of a lane.
#[repr(C)]
pub(crate) struct Producer {
    /// All before it is published. Never decreases.
    pub tail: AtomicU64,
    /// Records before the tail; stored just before it, so it may be ahead by one job after a kill.
    pub published: AtomicU64,
    /// Nonzero: the worker waits until the lane is free up to this offset less its size.
    pub waiting_for: AtomicU64,
}

/// The consuming end of a lane.
#[repr(C)]
pub(crate) struct Consumer {
    /// All before it may be overwritten. Never decreases; never above the committed head.
    pub freed: AtomicU64,
    /// Ring the buffer once the tail has reached this.
    pub ring_at_tail: AtomicU64,
    /// Ring the buffer once so many records are published.
    pub ring_at_published: AtomicU64,
}

macro_rules! shared {
    ($($name:ident = $bytes:expr),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$name>() == $bytes, "the format of the spool has changed");
        // SAFETY: repr(C) and every field is an atomic integer or an array of them.
        #[allow(unsafe_code)]
        unsafe impl Shared for $name {}
    )+};
}
shared!(
    Header = 72,
    AboutHead = 16,
    HistoryHead = 192,
    HistoryEntry = 64,
    Run = 152,
    Process = 128,
    Bells = 192,
    LaneBell = 64,
    Vitals = 32,
    Slot = 128,
    Producer = 24,
    Consumer = 24,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_in_order_page_aligned_and_do_not_overlap() {
        let geometry = Geometry { lanes: 500, lane_bytes: 1 << 17, slots: 1024, job_bytes: 4000 };
        let layout = Layout::of(geometry);
        let starts = [
            0,
            layout.run,
            layout.about,
            layout.history,
            layout.position[0],
            layout.position[1],
            layout.processes,
            layout.bells,
            layout.commit[0],
            layout.commit[1],
            layout.intent,
            layout.vitals,
            layout.slots,
            layout.payloads,
            layout.producers,
            layout.consumers,
            layout.rings,
            layout.total,
        ];
        assert!(starts.iter().all(|start| start % PAGE == 0));
        assert!(starts.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(layout.total - layout.ring(499), 1 << 17);
        assert_eq!(layout.payload_stride, 4032);
    }

    #[test]
    fn a_geometry_that_no_spool_has_is_not_sound() {
        let sound = Geometry { lanes: 1, lane_bytes: 4096, slots: 1, job_bytes: 1 };
        assert!(sound.is_sound());
        for broken in [
            Geometry { lanes: 0, ..sound },
            Geometry { lanes: u32::MAX, ..sound },
            Geometry { lane_bytes: 4095, ..sound },
            Geometry { lane_bytes: u64::MAX, ..sound },
            Geometry { slots: 0, ..sound },
            Geometry { job_bytes: u32::MAX, ..sound },
        ] {
            assert!(!broken.is_sound(), "{broken:?}");
        }
    }
}
