//! A file that is appended to.
//!
//! # Invariants
//! - Bytes before the committed length are never touched again.
//! - The file never shrinks, except by bytes that are not ours and not whole, and by a batch that
//!   can't be finished in it: a reader that follows it sees each byte once.
//! - One pipeline writes it: it is locked as long as one of our processes lives.

mod compress;
mod held;
mod moved;
mod names;
mod rotation;
mod salvage;

#[cfg(test)]
pub(crate) use rotation::rename_by_link;

use super::surplus::Surplus;
use super::{Batch, CantOpen, Position, Sink};
use crate::error::Error;
use crate::flow::quarantine::Quarantine;
use crate::flow::queue::spool::{directory_of, sync_directory};
use crate::sys::{descriptor, disk, trusted};
use held::Held;
use rotation::Rotating;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const CANT_OPEN: &str = "can't open the output";

/// Does this path name what something else has open, such as `/dev/stdout`, and no file of its own?
pub(crate) fn is_alias(path: &Path) -> bool {
    ["/dev", "/proc"].iter().any(|top| path.starts_with(top)) && !path.starts_with("/dev/shm")
}

/// How records stand in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The byte that every record ends with.
    pub terminator: u8,
    /// The terminator may also stand in a record, between quotes.
    pub quoted: bool,
    /// What a file begins with.
    pub header: Vec<u8>,
}

impl Shape {
    /// Records that end with this byte, which stands nowhere else in them.
    pub(crate) const fn ended_by(terminator: u8) -> Shape {
        Shape { terminator, quoted: false, header: Vec::new() }
    }

    /// Is this a whole record? A quote in a quoted field is written as two.
    fn is_whole(&self, record: &[u8]) -> bool {
        let quotes = || record.iter().filter(|byte| **byte == b'"').count();
        record.last() == Some(&self.terminator) && (!self.quoted || quotes().is_multiple_of(2))
    }
}

/// An output file, open and locked.
#[derive(Debug)]
pub(crate) struct FileSink {
    path: PathBuf,
    /// The file itself, should the path be a link to it.
    place: PathBuf,
    shape: Shape,
    file: File,
    /// A regular file has positions; a pipe or a terminal has none.
    regular: bool,
    at: Position,
    rotating: Rotating,
    /// Keeps the file locked beyond this process.
    held: Option<Held>,
}

impl FileSink {
    /// Opens the file for appending, creates it if need be, and locks it.
    ///
    /// # Errors
    /// [`Error::Held`] if another pipeline writes it; [`Error::File`] if it can't be written.
    pub(crate) fn open(path: &Path, shape: Shape) -> Result<FileSink, Error> {
        let fail = |error: io::Error| Error::to_remedy(path, CANT_OPEN, &error);
        let existing = std::fs::metadata(path).ok();
        if existing.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(Error::file(path, "can't write the output", "it is a directory"));
        }
        let regular = existing.as_ref().is_none_or(std::fs::Metadata::is_file);
        let is = |kind: fn(&std::fs::FileType) -> bool| {
            existing.as_ref().is_some_and(|existing| kind(&existing.file_type()))
        };
        let (fifo, socket) = (is(FileTypeExt::is_fifo), is(FileTypeExt::is_socket));
        // A regular file is also read, to find out what of a batch is there already. A FIFO is
        // opened without waiting for a reader: without one the answer is an error that says so.
        let flags = match (regular, fifo) {
            (true, _) => OFlags::RDWR | OFlags::CREATE,
            (false, true) => OFlags::WRONLY | OFlags::NONBLOCK,
            (false, false) => OFlags::WRONLY,
        };
        let flags = flags | OFlags::APPEND | OFlags::NOCTTY;
        let opened = trusted::open(path, flags, Mode::from_raw_mode(0o644));
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(nix::libc::ENXIO) if fifo => {
                Error::file(path, CANT_OPEN, "nobody reads this FIFO")
            }
            Some(nix::libc::ENXIO) if socket => Error::file(
                path,
                CANT_OPEN,
                "it is a socket, which has no name to be opened by; name a file, or a pipe",
            ),
            _ => fail(disk::explained(directory_of(path), error)),
        })?;
        if fifo {
            let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| fail(error.into()))?;
            rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)
                .map_err(|error| fail(error.into()))?;
        }
        if regular && !held::lock(&file).map_err(fail)? {
            return Err(Error::Held(format!(
                "{}: another pipeline writes this output; stop it first, or name another output \
                 with --output",
                path.display()
            )));
        }
        if existing.is_none() {
            sync_directory(path)?;
        }
        let held = Held::new().filter(|_| regular);
        let place = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let (path, rotating) = (path.to_path_buf(), Rotating::default());
        let at = place_of(&file).map_err(|error| Error::to_remedy(&path, CANT_OPEN, &error))?;
        Ok(FileSink { path, place, shape, file, regular, at, rotating, held })
    }

    /// Does an existing file begin as it should?
    ///
    /// # Errors
    /// If it begins with something else.
    pub(crate) fn check_header(&self) -> Result<(), Error> {
        let header = &self.shape.header;
        let len = usize::try_from(self.at.len).unwrap_or(usize::MAX);
        let mut begin = vec![0; header.len().min(len)];
        if !self.regular || self.file.read_exact_at(&mut begin, 0).is_err() {
            // What is wrong will be said when it is written to.
            return Ok(());
        }
        // A buffer can die, or the power can go, while the header is written.
        if header.starts_with(&begin) || begin.contains(&0) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "{}: has other columns: it begins with {:?}, and not with {:?}. Name another output, or \
             the same columns (output.columns)",
            self.path.display(),
            String::from_utf8_lossy(&begin),
            String::from_utf8_lossy(header)
        )))
    }

    fn fail(&self, what: &str, error: io::Error) -> Error {
        Error::of_records(&self.path, what, &error)
    }

    /// Before the file is believed to be the one that was opened: its length, or another file if
    /// it was removed, moved or rotated.
    fn find_again(&mut self) -> Result<(), Error> {
        let query = |sink: &FileSink| {
            sink.file.metadata().map_err(|error| sink.fail("can't query the output", error))
        };
        let mut metadata = query(self)?;
        let named = std::fs::metadata(&self.path);
        if !named.is_ok_and(|named| (named.dev(), named.ino()) == (metadata.dev(), metadata.ino()))
        {
            // Not since main has opened it. A buffer before this one may have gone on in a new
            // file: that is the one to go on with.
            self.open_again()?;
            metadata = query(self)?;
        }
        self.at.len = metadata.len();
        self.note_age();
        Ok(())
    }

    fn is_at(&self, position: &Position) -> bool {
        (position.device, position.inode) == (self.at.device, self.at.inode)
    }

    /// Bytes of `pending` that stand in the file behind `from`.
    fn common_prefix(&self, from: u64, pending: &[u8]) -> io::Result<usize> {
        let mut chunk = vec![0; 64 << 10];
        let mut matched = 0;
        while matched < pending.len() {
            let room = chunk.len().min(pending.len() - matched);
            let read = match self.file.read_at(&mut chunk[..room], from + matched as u64) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let same = chunk[..read].iter().zip(&pending[matched..]).take_while(|(a, b)| a == b);
            let same = same.count();
            matched += same;
            if same < read {
                break;
            }
        }
        Ok(matched)
    }

    /// Bytes of `pending` that the file ends with: for one that was emptied under our hands, so
    /// that nobody knows where the batch began.
    fn pending_at_end(&self, pending: &[u8]) -> io::Result<usize> {
        let most = pending.len().min(usize::try_from(self.at.len).unwrap_or(usize::MAX));
        let mut end = vec![0; most];
        self.file.read_exact_at(&mut end, self.at.len - most as u64)?;
        Ok((0..=most).rev().find(|len| end.ends_with(&pending[..*len])).unwrap_or(0))
    }

    /// Puts aside what stands behind `keep` and is not ours, so that the file goes on with whole
    /// records.
    fn quarantine(&mut self, keep: u64) -> Result<(), Error> {
        let failed = |sink: &FileSink, error| sink.fail("damaged", error);
        let mut aside = Quarantine::of(&self.path).map_err(|error| failed(self, error))?;
        let mut moved = 0;
        let mut chunk = vec![0; 64 << 10];
        loop {
            let read = self
                .file
                .read_at(&mut chunk, keep + moved)
                .map_err(|error| self.fail("can't read the output", error))?;
            if read == 0 {
                break;
            }
            aside.append(&chunk[..read]).map_err(|error| failed(self, error))?;
            moved += read as u64;
        }
        let aside = aside.finish().map_err(|error| failed(self, error))?;
        self.file.set_len(keep).map_err(|error| self.fail("can't cut torn bytes off", error))?;
        log::warn!(
            "{}: {moved} bytes behind the last whole record were not ours; moved to {}",
            self.path.display(),
            aside.display()
        );
        Ok(())
    }

    /// Writes some of the bytes, and says how many.
    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.at.len += written as u64;
                    self.note_write();
                    if self.regular {
                        // Appending has gone to the end, wherever somebody else has moved that. If it
                        // can't be asked, the bytes are written all the same.
                        let end = self.file.stream_position().unwrap_or(self.at.len);
                        self.note_length(end);
                    }
                    return Ok(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.note_refusal(&error);
                    return Err(self.of_length(error));
                }
            }
        }
    }

    /// Takes the file's length for where it goes on, and says so if that is another than it should be.
    fn note_length(&mut self, len: u64) -> bool {
        let changed = len != self.at.len;
        if changed {
            log::warn!(
                "{}: somebody else has changed its length from {} to {len} bytes; going on at its end",
                self.path.display(),
                self.at.len
            );
            self.at.len = len;
            self.at.synced = self.at.synced.min(len);
        }
        changed
    }

    fn end_an_open_line(&mut self) -> Result<(), Error> {
        let mut last = [0];
        let read = match self.at.len.checked_sub(1) {
            Some(at) => self.file.read_at(&mut last, at),
            None => Ok(0),
        };
        if read.map_err(|error| self.fail("can't read the output", error))? == 1
            && last[0] != self.shape.terminator
        {
            log::warn!("{}: did not end with a whole record; ended it", self.path.display());
            let ended = self.append(&[self.shape.terminator]);
            ended.map_err(|error| self.fail("can't write the output", error))?;
            // Part of what was there before us.
            self.at.synced = self.at.len;
        }
        Ok(())
    }
}

impl Sink for FileSink {
    fn open(&mut self, committed: Option<Position>, pending: Batch<'_>) -> Result<usize, CantOpen> {
        let pending = pending.bytes;
        if !self.regular {
            return Ok(0);
        }
        self.find_again()?;
        let Some(committed) = committed else {
            self.end_an_open_line()?;
            return Ok(0);
        };
        if !self.is_at(&committed) {
            let done = self.settle_moved(committed, pending)?;
            self.end_an_open_line()?;
            return Ok(done);
        }
        self.at.synced = committed.synced.min(self.at.len);
        if self.at.len < committed.len {
            log::warn!(
                "{}: is shorter than what was written to it ({} of {} bytes); going on at its end",
                self.path.display(),
                self.at.len,
                committed.len
            );
            let done = self
                .pending_at_end(pending)
                .map_err(|error| self.fail("can't read the output", error))?;
            if done == 0 {
                self.end_an_open_line()?;
            }
            return Ok(done);
        }
        let done = self
            .common_prefix(committed.len, pending)
            .map_err(|error| self.fail("can't read the output", error))?;
        let ours = committed.len + done as u64;
        if ours < self.at.len && done < pending.len() {
            self.quarantine(ours)?;
            self.at.len = ours;
        } else if ours < self.at.len {
            log::warn!(
                "{}: somebody else has appended {} bytes; going on behind them",
                self.path.display(),
                self.at.len - ours
            );
        }
        if done == 0 || done == pending.len() {
            self.end_an_open_line()?;
        }
        Ok(done)
    }

    fn salvage(&mut self, committed: Option<Position>, _: Batch<'_>) -> Result<Surplus, Error> {
        if self.regular {
            self.find_again()?;
        }
        // Numbers of devices are given anew at each boot.
        let committed = committed.map(|at| Position { device: self.at.device, ..at });
        match committed.filter(|committed| self.regular && self.is_at(committed)) {
            Some(committed) => self.keep_whole_records(committed.len),
            None if committed.is_some_and(|committed| self.is_rotated(committed)) => {
                self.keep_whole_records(0)
            }
            None => {
                self.open(committed, Batch::default())?;
                Ok(Surplus::default())
            }
        }
    }

    fn cut(&mut self, len: u64, goes_on: bool) -> Result<(), Error> {
        if len == 0 {
            return Ok(());
        }
        self.at.len = self.at.len.saturating_sub(len);
        self.quarantine(self.at.len)?;
        if goes_on { Ok(()) } else { self.end_an_open_line() }
    }

    fn beside(&self) -> Option<&Path> {
        self.regular.then_some(self.path.as_path())
    }

    fn look(&mut self) -> Result<(), Error> {
        if !self.regular {
            return Ok(());
        }
        let metadata =
            self.file.metadata().map_err(|error| self.fail("can't query the output", error))?;
        if metadata.nlink() == 0 {
            log::warn!(
                "{}: was removed, and what was written to it is gone with it; going on in a new file",
                self.path.display()
            );
            self.open_again()?;
        } else if self.note_length(metadata.len()) {
            // What was cut may have ended in the middle of a record, to which none of ours belongs.
            self.end_an_open_line()?;
        }
        Ok(())
    }

    fn header(&self) -> &[u8] {
        &self.shape.header
    }

    fn write(&mut self, batch: Batch<'_>, done: usize) -> io::Result<usize> {
        self.append(&batch.bytes[done..]).map(|written| done + written)
    }
    fn begin_write_back(&mut self) {
        if self.regular {
            descriptor::begin_write_back(&self.file, self.at.synced.min(self.at.len));
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.regular {
            self.file.sync_data()?;
            self.at.synced = self.at.len;
        }
        Ok(())
    }

    fn position(&self) -> Option<Position> {
        self.regular.then_some(self.at)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn descriptors(&self) -> Vec<RawFd> {
        let held = self.held.iter().flat_map(Held::descriptors);
        std::iter::once(self.file.as_raw_fd()).chain(held).collect()
    }

    fn leave_to_children(&mut self) -> io::Result<()> {
        self.let_go()
    }

    fn room(&self) -> Option<u64> {
        self.room_left()
    }

    fn takes_no_more(&mut self) -> bool {
        std::mem::take(&mut self.rotating.refused)
    }

    fn is_to_rotate(&self, more: usize) -> bool {
        self.is_due(more)
    }

    fn rotates_in(&self) -> Option<Duration> {
        self.period_ends()
    }

    fn rotation_moment(&self) -> u64 {
        self.moment()
    }

    fn rotate(&mut self, committed: Option<Position>, moment: u64) -> io::Result<()> {
        if let Some(committed) = committed {
            self.set_aside(committed, moment)?;
        }
        // What has the output's name now can be somebody else's.
        if self.regular { self.end_an_open_line().map_err(io::Error::other) } else { Ok(()) }
    }

    fn cut_to(&mut self, committed: Option<Position>) -> io::Result<()> {
        match committed {
            Some(committed) if self.regular => self.cut_off(committed),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn reopen(&mut self) -> Result<(), Error> {
        if self.regular { self.reopen_by_name() } else { Ok(()) }
    }

    fn work_in_background(&mut self) {
        self.take_up();
        self.compress();
    }

    fn close(&mut self, patience: Duration) {
        self.finish_compressing(patience);
    }

    fn tidy(&mut self) {
        self.see_to_old();
    }
}

/// Where a file goes on that was just opened.
fn place_of(file: &File) -> io::Result<Position> {
    let metadata = file.metadata()?;
    let (device, inode, len) = (metadata.dev(), metadata.ino(), metadata.len());
    // What was there before us is not to be judged after a power loss.
    Ok(Position { device, inode, len, synced: len })
}

#[cfg(test)]
mod tests;
