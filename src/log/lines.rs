//! How a line gets to its destination whole, or not at all, and in a bounded time.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::between::Between;
use super::destination::{Output, PIPE_BUF};
use crate::sys::clock;

/// How long a destination that takes nothing is waited for. Once: until it takes something again,
/// nobody waits for it any more.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same while a stop is under way, which lines are no reason to delay.
const PATIENCE_IN_STOP: Duration = Duration::from_millis(100);

/// This process is about to stop.
static HURRY: AtomicBool = AtomicBool::new(false);

pub(super) fn hurry() {
    HURRY.store(true, Ordering::Relaxed);
}

/// Writes lines, and counts those that it can't.
pub(super) struct Lines<W: Output> {
    destination: W,
    between: Between,
    /// It did not take the last line in time.
    is_stuck: bool,
    /// How many lines were lost that nobody was told of yet, and why the last of them.
    lost: u64,
    why: String,
}

impl<W: Output> Lines<W> {
    pub(super) fn new(destination: W) -> Lines<W> {
        let between = Between::new();
        Lines { destination, between, is_stuck: false, lost: 0, why: String::new() }
    }

    /// From now on lines go there.
    pub(super) fn replace(&mut self, destination: W) {
        self.destination = destination;
        self.between.set_torn(false);
        self.is_stuck = false;
    }

    /// How many lines were lost so far and why, if a line could be written now. They are not counted
    /// again.
    pub(super) fn take_lost(&mut self) -> Option<(u64, String)> {
        if self.lost == 0 || !self.destination.is_writable(Duration::ZERO) {
            return None;
        }
        Some((std::mem::take(&mut self.lost), self.why.clone()))
    }

    /// If the last line was lost, it was one that told of so many.
    pub(super) fn add_lost(&mut self, count: u64) {
        if self.lost > 0 {
            self.lost += count - 1;
        }
    }

    /// Writes a line, which ends with its end. What can't be written is lost.
    pub(super) fn write(&mut self, line: &[u8]) {
        let patience = match (self.is_stuck, HURRY.load(Ordering::Relaxed)) {
            (true, _) => Duration::ZERO,
            (false, true) => PATIENCE_IN_STOP,
            (false, false) => PATIENCE,
        };
        let written = self.try_write(line, clock::now().saturating_add(patience));
        self.is_stuck = matches!(written, Err(Failed::Stuck(_)));
        if let Err(why) = written {
            self.lost += 1;
            self.why = match why {
                Failed::Stuck(why) => why.to_owned(),
                Failed::Error(error) => error.to_string(),
            };
        }
    }

    fn try_write(&mut self, line: &[u8], until: Duration) -> Result<(), Failed> {
        // Another process may have torn its line.
        let mut is_torn = self.between.is_torn();
        let mut held = None;
        if self.destination.is_stream() || is_torn {
            held = self.between.lock(until);
            if held.is_none() && line.len() > PIPE_BUF {
                return Err(Failed::Stuck("another process is still writing a line"));
            }
            is_torn = self.between.is_torn();
        }
        // The next line must not look like the rest of the torn one.
        let begun_anew = if is_torn { [b"\n", line].concat() } else { Vec::new() };
        let bytes = if is_torn { &begun_anew } else { line };
        let (written, failed) = write_all(&mut self.destination, bytes, until);
        let last = written.checked_sub(1).map(|last| bytes[last]);
        let tears = last.is_some_and(|last| last != b'\n');
        if last.is_some() && tears != is_torn {
            self.between.set_torn(tears);
        }
        drop(held);
        failed
    }
}
/// Why not all of a line was written.
enum Failed {
    /// There was no room in time.
    Stuck(&'static str),
    Error(io::Error),
}

/// Writes as much as it can until then, and says how much it was.
fn write_all<W: Output>(
    destination: &mut W,
    bytes: &[u8],
    until: Duration,
) -> (usize, Result<(), Failed>) {
    let stuck = |written| (written, Err(Failed::Stuck("it was full, and nobody has read it")));
    // Room for some bytes need not be room for these.
    let mut tries = 3;
    let mut written = 0;
    while written < bytes.len() {
        if !destination.is_writable(until.saturating_sub(clock::now())) {
            return stuck(written);
        }
        match destination.write(&bytes[written..]) {
            Ok(0) => return stuck(written),
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if tries == 0 {
                    return stuck(written);
                }
                tries -= 1;
            }
            Err(error) => return (written, Err(Failed::Error(error))),
        }
    }
    (written, Ok(()))
}

/// Collects the pieces of a line for [`Lines`]. (std's `LineWriter` splits lines that are longer
/// than its buffer.)
pub(super) struct Pieces<W: Output> {
    lines: Arc<Mutex<Lines<W>>>,
    /// The beginning of a line whose end has not come yet.
    pending: Vec<u8>,
}

/// Memory kept between lines: most lines fit, and a single long one does not cost for ever.
const PENDING_KEPT: usize = 4096;

impl<W: Output> Pieces<W> {
    pub(super) fn new(lines: Arc<Mutex<Lines<W>>>) -> Pieces<W> {
        Pieces { lines, pending: Vec::new() }
    }
}

impl<W: Output> Write for Pieces<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if bytes.ends_with(b"\n") {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.write(&self.pending);
            self.pending.clear();
            self.pending.shrink_to(PENDING_KEPT);
        }
        Ok(bytes.len())
    }

    /// Does nothing: half a line is never written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
