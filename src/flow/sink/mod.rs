//! Where batches end up.

pub(crate) mod file;
pub(crate) mod surplus;

use crate::error::Error;
use std::io;
use std::path::Path;
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
}

/// What the buffer writes batches to.
pub(crate) trait Sink {
    /// Goes on behind the committed position. `pending` is the batch that was being written when
    /// the last buffer died: the answer is how many bytes of it are there already.
    ///
    /// # Errors
    /// If it can't be read, compared or put in order.
    fn open(&mut self, committed: Option<Position>, pending: &[u8]) -> Result<usize, Error>;

    /// As [`Sink::open`], after a power loss: only what was synced is certain, up to the position
    /// that is given. The answer is what stands behind it.
    ///
    /// # Errors
    /// As those of [`Sink::open`].
    fn salvage(&mut self, synced: Option<Position>) -> Result<Surplus, Error> {
        self.open(synced, &[]).map(|_| Surplus::default())
    }

    /// Puts the half of a record aside with which the place ends.
    ///
    /// # Errors
    /// If that fails.
    fn cut(&mut self, half: &[u8]) -> Result<(), Error> {
        debug_assert!(half.is_empty(), "who finds half a record can cut it off");
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
    fn look(&mut self) -> Result<(), Error>;

    /// Writes some of the bytes, at least one, and says how many.
    ///
    /// # Errors
    /// What the system says; nothing was written then.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Forces what was written to the disk.
    ///
    /// # Errors
    /// What the system says. What was written since the last success may be lost then, also if
    /// a later call succeeds.
    fn sync(&mut self) -> io::Result<()>;

    /// Where the next byte goes, as far as is known; `None` for a sink that has no place, such as
    /// a pipe.
    fn position(&self) -> Option<Position>;

    /// What messages call it.
    fn name(&self) -> String;
}
