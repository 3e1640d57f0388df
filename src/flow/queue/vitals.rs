//! What the buffer says of itself for whoever looks at the spool: how long what waits has been
//! waiting. Written by relaxed stores of the buffer alone; nothing depends on them.

use super::layout::Vitals;
use super::spool::Spool;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::clock;
use std::time::Duration;

/// The words in which the buffer of this spool says it.
pub(crate) fn of(spool: &Spool) -> &Vitals {
    spool.mapping.at(spool.layout.vitals)
}

/// A new process: of what waits nothing is known yet.
pub(crate) fn begin(spool: &Spool) {
    let vitals = of(spool);
    note(&vitals.waiting_since, None);
    note(&vitals.no_room_since, None);
}

/// Notes that this is so since a moment of the monotonic clock, or not any more.
pub(crate) fn note(word: &AtomicU64, since: Option<Duration>) {
    // Moment zero is the machine's start, long before anything of ours.
    word.store(since.map_or(0, |since| clock::nanos(since).max(1)), Ordering::Relaxed);
}

/// How long ago that was; `None`: it is not so. What was noted by a clock that was started later
/// reads as just now.
pub(crate) fn age(word: &AtomicU64) -> Option<Duration> {
    let since = word.load(Ordering::Relaxed);
    (since != 0).then(|| clock::now().saturating_sub(Duration::from_nanos(since)))
}
