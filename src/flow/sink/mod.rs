//! Where batches end up.

pub(crate) mod file;
pub(crate) mod own;
#[cfg(feature = "sqlite")]
mod sqlite;
pub(crate) mod surplus;

use crate::config::SyncPolicy;
use crate::error::Error;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use surplus::Surplus;

/// How far a sink has got, as it is committed together with the heads of the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub device: u64,
    /// Never 0.
    pub inode: u64,
    /// Bytes up to here are ours and committed.
    pub len: u64,
    /// Bytes up to here were forced to the disk.
    pub synced: u64,
}

impl Position {
    pub(crate) fn to_words(self) -> [u64; 4] {
        [self.device, self.inode, self.len, self.synced]
    }

    pub(crate) fn from_words([device, inode, len, synced]: [u64; 4]) -> Option<Position> {
        (inode != 0).then_some(Position { device, inode, len, synced })
    }

    /// Of a sink that measures in its own way.
    pub(crate) fn of_own(len: u64, synced: u64) -> Position {
        Position { device: 0, inode: u64::MAX, len, synced }
    }

    /// Where it was at the last sync.
    pub(crate) fn at_sync(self) -> Position {
        Position { len: self.synced, ..self }
    }
}

/// Records that are written together, or what is to be known of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Batch<'a> {
    /// No other batch of this spool has the same; a later one has a larger one.
    pub number: u64,
    /// The records, one behind the other.
    pub bytes: &'a [u8],
    /// Where each of them ends.
    pub ends: &'a [usize],
}

impl<'a> Batch<'a> {
    #[cfg(test)]
    pub(crate) fn of(bytes: &'a [u8]) -> Batch<'a> {
        Batch { bytes, ..Batch::default() }
    }

    /// The records, one after the other.
    pub(crate) fn records(self) -> impl Iterator<Item = &'a [u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| &self.bytes[std::mem::replace(&mut start, *end)..*end])
    }
}

/// Why a sink can't go on where it was.
#[derive(Debug)]
pub(crate) enum CantOpen {
    /// The disk of this file is full, and something has to be written to it first. Can be tried again.
    Full(PathBuf, io::Error),
    Failed(Error),
}

impl From<Error> for CantOpen {
    fn from(error: Error) -> CantOpen {
        CantOpen::Failed(error)
    }
}

impl From<CantOpen> for Error {
    fn from(error: CantOpen) -> Error {
        match error {
            CantOpen::Full(path, error) => {
                Error::of_records(&path, "can't finish a batch in the moved output", &error)
            }
            CantOpen::Failed(error) => error,
        }
    }
}

/// What the buffer writes batches to.
pub(crate) trait Sink {
    /// Says which spool the batches come from, before anything else is asked.
    fn belong_to(&mut self, _spool: u64) {}

    /// Goes on behind the committed position. `pending` is the batch that was being written when
    /// the last buffer died: the answer is how many bytes of it are there already.
    ///
    /// # Errors
    /// If it can't be read, compared or put in order.
    fn open(&mut self, committed: Option<Position>, pending: Batch<'_>) -> Result<usize, CantOpen>;

    /// As [`Sink::open`], after a power loss: only what was synced is certain, up to the position
    /// that is given. The answer is what stands behind it. `pending` is a batch that may have been
    /// written, if nothing else was since.
    ///
    /// # Errors
    /// As those of [`Sink::open`].
    fn salvage(&mut self, synced: Option<Position>, pending: Batch<'_>) -> Result<Surplus, Error> {
        Ok(Surplus::of_batch(self.open(synced, pending)?))
    }

    /// Does it tell batches by their numbers, and not by what is in them?
    fn tells_by_number(&self) -> bool {
        false
    }

    /// Puts the last bytes of the place aside, so many, as the half of a record. `goes_on`: with what is
    /// left a record begins, the rest of which is written next.
    ///
    /// # Errors
    /// If that fails.
    fn cut(&mut self, len: u64, _goes_on: bool) -> Result<(), Error> {
        debug_assert!(len == 0, "who finds half a record can cut it off");
        Ok(())
    }

    /// The file beside which bytes are put aside that can't be used, if there is one.
    fn beside(&self) -> Option<&Path> {
        None
    }

    /// Looks whether the place is still as it was left, before it is believed to be.
    ///
    /// # Errors
    /// If it can't be queried, or is gone and can't be had again.
    fn look(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// What stands before the first record of an empty place.
    fn header(&self) -> &[u8] {
        &[]
    }

    /// Writes what follows the `done` bytes of the batch that are there, at least one byte of it,
    /// and says how many are there then.
    ///
    /// # Errors
    /// What the system says; nothing was written then.
    fn write(&mut self, batch: Batch<'_>, done: usize) -> io::Result<usize>;

    /// Forces what was written to the disk.
    ///
    /// # Errors
    /// What the system says. What was written since the last success may be lost then, also if
    /// a later call succeeds.
    fn sync(&mut self) -> io::Result<()>;

    /// Lets the disk begin with what was written, and does not wait for it: the next sync finds less
    /// to do then. Nothing is promised by it.
    fn begin_write_back(&mut self) {}

    /// Lets go of it, once everything is synced. What can be done later as well may take so long.
    fn close(&mut self, _patience: Duration) {}

    /// Where the next byte goes, as far as is known; `None` for a sink that has no place, such as
    /// a pipe.
    fn position(&self) -> Option<Position>;

    /// What messages call it.
    fn name(&self) -> String;

    /// Descriptors that no other process needs.
    fn descriptors(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// Bytes that fit in before it is set aside, at least one; `None`: any number.
    fn room(&self) -> Option<u64> {
        None
    }

    /// Has the last write failed since the file is as long as one may be, and can another be begun?
    /// Once for each length.
    fn takes_no_more(&mut self) -> bool {
        false
    }

    /// Is it to be set aside before so many more bytes are written? Asked between two batches.
    fn is_to_rotate(&self, _more: usize) -> bool {
        false
    }

    /// In how much time that comes true without another record.
    fn rotates_in(&self) -> Option<Duration> {
        None
    }

    /// The moment after which it is to be called when it is set aside now: microseconds since 1970,
    /// later than those of all before it.
    fn rotation_moment(&self) -> u64 {
        0
    }

    /// Sets the file aside that was committed as this one, and goes on in a new one. To be called
    /// again if it fails, or if whoever called it has died: does what is left of it.
    ///
    /// # Errors
    /// What the system says.
    fn rotate(&mut self, _committed: Option<Position>, _moment: u64) -> io::Result<()> {
        Ok(())
    }

    /// Cuts off what is behind the committed position, if the file that has it is still there.
    ///
    /// # Errors
    /// What the system says.
    fn cut_to(&mut self, _committed: Option<Position>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Opens the place anew if another file has its name by now, or none; otherwise it stays.
    ///
    /// # Errors
    /// If it can't be opened. It is as it was then.
    fn reopen(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// After a rotation is committed, and at the start: removes files that are not to be kept, and
    /// has others compressed.
    fn tidy(&mut self) {}

    /// Says that this process only starts others, which write: it needs no file open, but keeps the
    /// lock.
    ///
    /// # Errors
    /// What the system says. The file is open as before then.
    fn leave_to_children(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Says that this process is the buffer's, so that it may start a thread.
    fn work_in_background(&mut self) {}
}

/// All that a pipeline writes: its output, and the jobs that have failed for good, if they go
/// elsewhere.
pub(crate) struct Sinks<'a> {
    pub output: &'a mut dyn Sink,
    pub dead_letters: Option<&'a mut dyn Sink>,
}

impl Sinks<'_> {
    /// Where they stand, as a commit says it.
    pub(crate) fn positions(&self) -> [Option<Position>; 2] {
        let dead_letters = self.dead_letters.as_ref().and_then(|sink| sink.position());
        [self.output.position(), dead_letters]
    }

    /// [`Sink::look`] for each.
    pub(crate) fn look(&mut self) -> Result<(), Error> {
        self.output.look()?;
        self.dead_letters.as_mut().map_or(Ok(()), |sink| sink.look())
    }

    /// [`Sink::sync`] for each.
    ///
    /// # Errors
    /// With the name of the one that has failed.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        let sync = |sink: &mut dyn Sink| {
            let synced = sink.sync();
            let place = sink.position();
            synced.map_err(|error| unsynced(sink, place, &error))
        };
        sync(self.output)?;
        match &mut self.dead_letters {
            Some(sink) => sync(&mut **sink),
            None => Ok(()),
        }
    }
}

/// An SQLite database, to be opened by the buffer.
///
/// # Errors
/// If this program was built without it.
pub(crate) fn sqlite(path: &Path, table: &str, sync: SyncPolicy) -> Result<Box<dyn Sink>, Error> {
    #[cfg(feature = "sqlite")]
    return Ok(sqlite::open(path, table, sync));
    #[cfg(not(feature = "sqlite"))]
    {
        let _unused = (table, sync);
        Err(Error::Config(format!(
            "{}: this program was built without SQLite: build it with the feature \"sqlite\", or \
             choose another output.format",
            path.display()
        )))
    }
}

/// The error of a sync: which bytes of the sink are in doubt.
fn unsynced(sink: &dyn Sink, place: Option<Position>, error: &io::Error) -> Error {
    let which = place.filter(|at| at.synced < at.len).map_or_else(String::new, |at| {
        format!(
            ": bytes {} to {}, written since the last sync, may not be on it",
            at.synced, at.len
        )
    });
    let what = format!("can't force the output to the disk{which}");
    Error::file(Path::new(&sink.name()), &what, error)
}

/// Can it be tried again when somebody has made room?
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The error of a sink, by its name.
pub(crate) fn failed(sink: &dyn Sink, what: &str, error: &io::Error) -> Error {
    Error::of_records(Path::new(&sink.name()), what, error)
}
