//! What happened to whom in the last run, and in its stop: noted by main, read by anybody.
//!
//! # Constraints
//! - Only main writes, one entry at a time. A main that is killed leaves all entries that it has
//!   finished: an entry is written, then the number of entries is stored.
//! - What happened before the stop can't crowd out what happened in it: of the former the newest
//!   entries are kept, of the latter the first, with room for the last word.
//! - Nothing that is read is believed without its checksum, which covers the run's number as well:
//!   what an earlier run has left behind is no entry of this one.
//!
//! # Format of an entry
//! ```text
//! word 0      kind in the low 16 bits; the child's slot + 1 in the high half, 0: main itself
//! word 1      which entry of its part it is, from 0
//! word 2      monotonic time since the run has begun, in nanoseconds
//! word 3      wall time in nanoseconds since 1970
//! word 4, 5   what belongs to the kind
//! word 6      zero
//! word 7      CRC-32C of the run's number and of all words before
//! ```

use super::layout::{BALANCE_WORDS, HistoryEntry};
use super::spool::Spool;
use crate::sys::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// Since the run has begun.
    pub at: Duration,
    /// Since 1970, as far as the clock on the wall was right.
    pub wall: Duration,
    /// Slot of the child in the process table; `None`: main itself.
    pub slot: Option<usize>,
    pub what: What,
}

/// What has happened to a child, or what main has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Main has begun the run, with this pid.
    RunStarted { pid: u64 },
    /// The child was forked.
    Started { pid: u64 },
    /// The child is ready to work.
    Ready,
    /// The child was reaped.
    Ended(End),
    /// A stop was asked for.
    StopRequested(Reason),
    /// One more signal has counted: 2 or 3 of them.
    Signal { count: u64 },
    /// The child was told to stop.
    Told,
    /// A SIGKILL was sent to the child.
    Killed(Why),
    /// Main was away itself, and has moved the deadline by this much.
    DeadlineMoved { by: Duration },
    /// The child could not even be killed, and was left behind.
    Abandoned,
    /// All is over; main exits with this code.
    Done { code: u8 },
}

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(u8),
    Signaled(u8),
}

/// Why a stop was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Signal = 1,
    Finished = 2,
    Failure = 3,
}

/// Why a child was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It did not get ready in time.
    NotReady = 1,
    /// The source had not ended a second after it was told to.
    NotQuiet = 2,
    /// The rest of the deadline is kept for the flush.
    Reserve = 3,
    /// One more signal has come: the second, or any while there is nothing but to acknowledge.
    Signal = 4,
    Deadline = 5,
    ThirdSignal = 6,
}

/// All that is known of the last run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Story {
    /// Which run it tells of; 0: of none.
    pub run_id: u64,
    /// When that began, on the monotonic clock.
    pub began: Duration,
    /// What happened before the stop: the newest of it, in order.
    pub before: Vec<Event>,
    /// What happened in the stop, in order; empty: none was asked for.
    pub stop: Vec<Event>,
    /// So much of the stop found no room.
    pub missed: u64,
    /// Entries that were made and can't be read.
    pub damaged: usize,
    /// The balance, if the run has come to its end.
    pub balance: Option<[u64; BALANCE_WORDS]>,
}

/// Forgets the run before; from now on it is this one's history.
pub(crate) fn begin(spool: &Spool, run_id: u64, now: Duration) {
    let head = spool.history_head();
    // Killed in between, it tells of nothing.
    head.stop.store(0, Ordering::Release);
    head.before.store(0, Ordering::Release);
    for word in [&head.missed, &head.balance_checksum].into_iter().chain(&head.balance) {
        word.store(0, Ordering::Relaxed);
    }
    head.began.store(nanos(now), Ordering::Relaxed);
    head.run_id.store(run_id, Ordering::Release);
}

/// Notes what has happened. `now` and `wall` are the two clocks.
pub(crate) fn note(spool: &Spool, now: Duration, wall: Duration, slot: Option<usize>, what: What) {
    let (head, layout) = (spool.history_head(), &spool.layout);
    let stops = head.stop.load(Ordering::Relaxed);
    let in_stop = stops > 0 || matches!(what, What::StopRequested(_));
    let (count, entry) = if in_stop {
        let room = layout.history_stop - usize::from(!matches!(what, What::Done { .. }));
        let index = usize::try_from(stops).unwrap_or(usize::MAX);
        if index >= room {
            head.missed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        (&head.stop, layout.history_before + index)
    } else {
        let index = head.before.load(Ordering::Relaxed) % layout.history_before as u64;
        (&head.before, index as usize)
    };
    let at = now.saturating_sub(Duration::from_nanos(head.began.load(Ordering::Relaxed)));
    let number = count.load(Ordering::Relaxed);
    let words = encode(&Event { at, wall, slot, what }, number);
    let entry = spool.history_entry(entry);
    // An old entry of the ring must not be taken for whole while it is replaced.
    entry.checksum.store(u64::MAX, Ordering::Release);
    for (word, value) in entry.words.iter().zip(words) {
        word.store(value, Ordering::Relaxed);
    }
    let run_id = head.run_id.load(Ordering::Relaxed);
    entry.checksum.store(checksum(run_id, &words), Ordering::Release);
    count.store(number + 1, Ordering::Release);
}

/// Notes the balance and, as the last word, the exit code.
pub(crate) fn note_done(
    spool: &Spool,
    now: Duration,
    wall: Duration,
    balance: &[u64; BALANCE_WORDS],
    code: u8,
) {
    let head = spool.history_head();
    for (word, value) in head.balance.iter().zip(balance) {
        word.store(*value, Ordering::Relaxed);
    }
    let run_id = head.run_id.load(Ordering::Relaxed);
    head.balance_checksum.store(checksum(run_id, balance), Ordering::Release);
    note(spool, now, wall, None, What::Done { code });
}

/// Reads all of it. Whoever reads while main writes sees what was there a moment ago.
pub(crate) fn read(spool: &Spool) -> Story {
    let (head, layout) = (spool.history_head(), &spool.layout);
    let run_id = head.run_id.load(Ordering::Acquire);
    if run_id == 0 {
        return Story::default();
    }
    let before = head.before.load(Ordering::Acquire);
    let stop = head.stop.load(Ordering::Acquire).min(layout.history_stop as u64);
    let mut damaged = 0;
    let mut look = |index: usize, number: u64| {
        let event = load(spool.history_entry(index), run_id, number);
        damaged += usize::from(event.is_none());
        event.filter(|event| event.slot.is_none_or(|slot| slot < spool.processes()))
    };
    let room = layout.history_before as u64;
    let before: Vec<Event> = (before.saturating_sub(room)..before)
        .filter_map(|number| look((number % room) as usize, number))
        .collect();
    let stop: Vec<Event> = (0..stop)
        .filter_map(|number| look(layout.history_before + number as usize, number))
        .collect();
    let expected = head.balance_checksum.load(Ordering::Acquire);
    let balance = std::array::from_fn(|word| head.balance[word].load(Ordering::Relaxed));
    Story {
        run_id,
        began: Duration::from_nanos(head.began.load(Ordering::Relaxed)),
        before,
        stop,
        missed: head.missed.load(Ordering::Relaxed),
        damaged,
        balance: (expected == checksum(run_id, &balance)).then_some(balance),
    }
}

fn load(entry: &HistoryEntry, run_id: u64, number: u64) -> Option<Event> {
    let expected = entry.checksum.load(Ordering::Acquire);
    let words: [u64; 7] =
        entry.words.each_ref().map(|word: &AtomicU64| word.load(Ordering::Relaxed));
    if expected != checksum(run_id, &words) || words[1] != number {
        return None;
    }
    decode(&words)
}

fn checksum(run_id: u64, words: &[u64]) -> u64 {
    let crc = crc32c::crc32c(&run_id.to_le_bytes());
    words.iter().fold(crc, |crc, word| crc32c::crc32c_append(crc, &word.to_le_bytes())).into()
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

const RUN_STARTED: u64 = 1;
const STARTED: u64 = 2;
const READY: u64 = 3;
const ENDED: u64 = 4;
const STOP_REQUESTED: u64 = 5;
const SIGNAL: u64 = 6;
const TOLD: u64 = 7;
const KILLED: u64 = 8;
const DEADLINE_MOVED: u64 = 9;
const ABANDONED: u64 = 10;
const DONE: u64 = 11;

fn encode(event: &Event, number: u64) -> [u64; 7] {
    let (kind, detail, more) = match event.what {
        What::RunStarted { pid } => (RUN_STARTED, pid, 0),
        What::Started { pid } => (STARTED, pid, 0),
        What::Ready => (READY, 0, 0),
        What::Ended(End::Exited(code)) => (ENDED, 0, code.into()),
        What::Ended(End::Signaled(signal)) => (ENDED, 1, signal.into()),
        What::StopRequested(reason) => (STOP_REQUESTED, reason as u64, 0),
        What::Signal { count } => (SIGNAL, count, 0),
        What::Told => (TOLD, 0, 0),
        What::Killed(why) => (KILLED, why as u64, 0),
        What::DeadlineMoved { by } => (DEADLINE_MOVED, nanos(by), 0),
        What::Abandoned => (ABANDONED, 0, 0),
        What::Done { code } => (DONE, code.into(), 0),
    };
    let slot = event.slot.map_or(0, |slot| slot as u64 + 1);
    [kind | slot << 32, number, nanos(event.at), nanos(event.wall), detail, more, 0]
}

fn decode(words: &[u64; 7]) -> Option<Event> {
    let [kind, _, at, wall, detail, more, _] = *words;
    let byte = |word: u64| u8::try_from(word).ok();
    let what = match kind & 0xffff {
        RUN_STARTED => What::RunStarted { pid: detail },
        STARTED => What::Started { pid: detail },
        READY => What::Ready,
        ENDED if detail == 0 => What::Ended(End::Exited(byte(more)?)),
        ENDED => What::Ended(End::Signaled(byte(more)?)),
        STOP_REQUESTED => What::StopRequested(match detail {
            1 => Reason::Signal,
            2 => Reason::Finished,
            3 => Reason::Failure,
            _ => return None,
        }),
        SIGNAL => What::Signal { count: detail },
        TOLD => What::Told,
        KILLED => What::Killed(match detail {
            1 => Why::NotReady,
            2 => Why::NotQuiet,
            3 => Why::Reserve,
            4 => Why::Signal,
            5 => Why::Deadline,
            6 => Why::ThirdSignal,
            _ => return None,
        }),
        DEADLINE_MOVED => What::DeadlineMoved { by: Duration::from_nanos(detail) },
        ABANDONED => What::Abandoned,
        DONE => What::Done { code: byte(detail)? },
        _ => return None,
    };
    let slot = usize::try_from(kind >> 32).ok()?.checked_sub(1);
    Some(Event { at: Duration::from_nanos(at), wall: Duration::from_nanos(wall), slot, what })
}

#[cfg(test)]
mod tests;
