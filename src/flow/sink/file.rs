//! A file that is appended to.
//!
//! # Invariants
//! - Bytes before the committed length are never touched again.
//! - The file never shrinks, except by bytes that are not ours and not whole: a reader that
//!   follows it sees each byte once.
//! - One pipeline writes it: it is locked as long as one of our processes lives.

mod salvage;

use super::surplus::Surplus;
use super::{Batch, Position, Sink};
use crate::error::Error;
use crate::flow::quarantine::Quarantine;
use crate::flow::queue::spool::{directory_of, sync_directory};
use crate::sys::lock;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

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
    shape: Shape,
    file: File,
    /// A regular file has positions; a pipe or a terminal has none.
    regular: bool,
    at: Position,
}

impl FileSink {
    /// Opens the file for appending, creates it if need be, and locks it.
    ///
    /// # Errors
    /// [`Error::Held`] if another pipeline writes it; [`Error::File`] if it can't be written.
    pub(crate) fn open(path: &Path, shape: Shape) -> Result<FileSink, Error> {
        let fail = |error: io::Error| Error::file(path, "can't open the output", error);
        let existing = std::fs::metadata(path).ok();
        if existing.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(Error::file(path, "can't write the output", "it is a directory"));
        }
        let regular = existing.as_ref().is_none_or(std::fs::Metadata::is_file);
        let fifo = existing.as_ref().is_some_and(|existing| existing.file_type().is_fifo());
        let mut options = OpenOptions::new();
        // A regular file is also read, to find out what of a batch is there already. A FIFO is
        // opened without waiting for a reader: without one the answer is an error that says so.
        options.append(true).read(regular).create(regular).mode(0o644);
        if fifo {
            options.custom_flags(nix::libc::O_NONBLOCK);
        }
        let file = options.open(path).map_err(|error| match error.raw_os_error() {
            Some(nix::libc::ENXIO) => {
                Error::file(path, "can't open the output", "nobody reads this FIFO")
            }
            _ => fail(error),
        })?;
        if fifo {
            let flags = rustix::fs::fcntl_getfl(&file).map_err(|error| fail(error.into()))?;
            rustix::fs::fcntl_setfl(&file, flags - rustix::fs::OFlags::NONBLOCK)
                .map_err(|error| fail(error.into()))?;
        }
        if regular && !lock::try_exclusive(&file).map_err(fail)? {
            return Err(Error::Held(format!(
                "{}: another pipeline writes this output; stop it first, or name another output \
                 with --output",
                path.display()
            )));
        }
        if existing.is_none() {
            sync_directory(path)?;
        }
        let metadata = file.metadata().map_err(fail)?;
        let (device, inode, len) = (metadata.dev(), metadata.ino(), metadata.len());
        // What was there before us is not to be judged after a power loss.
        let at = Position { device, inode, len, synced: len };
        Ok(FileSink { path: path.to_path_buf(), shape, file, regular, at })
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

    fn fail(&self, what: &str, error: impl std::fmt::Display) -> Error {
        Error::file(&self.path, what, error)
    }

    /// Before the file is believed to be the one that was opened: its length, or another file if it
    /// was removed.
    fn find_again(&mut self) -> Result<(), Error> {
        let query = |sink: &FileSink| {
            sink.file.metadata().map_err(|error| sink.fail("can't query the output", error))
        };
        let mut metadata = query(self)?;
        if metadata.nlink() == 0 {
            // Removed since main has opened it. A buffer before this one may have gone on in a new
            // file: that is the one to go on with.
            *self = FileSink::open(&self.path, self.shape.clone())?;
            metadata = query(self)?;
        }
        self.at.len = metadata.len();
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

    /// The file that was written to has another name now, or none. A batch that was begun in it is
    /// finished there, so that no record is cut in two or written to both. Says how many bytes of
    /// the batch are done: all or none.
    fn settle_moved(&self, committed: Position, pending: &[u8]) -> Result<usize, Error> {
        let Some((path, file)) = self.find_moved(committed) else {
            log::warn!("{}: not the file it was; appending to this one", self.path.display());
            return Ok(0);
        };
        log::warn!(
            "{}: the file that was written to is now {}; appending to a new one",
            self.path.display(),
            path.display()
        );
        let fail = |error| Error::file(&path, "can't finish a batch in the moved output", error);
        let moved = FileSink {
            path: path.clone(),
            shape: self.shape.clone(),
            file,
            regular: true,
            at: committed,
        };
        let done = moved.common_prefix(committed.len, pending).map_err(fail)?;
        if done == 0 {
            return Ok(0);
        }
        moved.file.write_all_at(&pending[done..], committed.len + done as u64).map_err(fail)?;
        moved.file.sync_data().map_err(fail)?;
        Ok(pending.len())
    }

    /// Looks for the committed file among those beside the output.
    fn find_moved(&self, committed: Position) -> Option<(PathBuf, File)> {
        let entries = std::fs::read_dir(directory_of(&self.path)).ok()?.flatten();
        let same = |metadata: &std::fs::Metadata| {
            (metadata.dev(), metadata.ino()) == (committed.device, committed.inode)
        };
        let mut found = entries.filter(|entry| entry.metadata().is_ok_and(|it| same(&it)));
        let path = found.next()?.path();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .ok()?;
        // Still the same after it was opened?
        file.metadata().is_ok_and(|metadata| same(&metadata)).then_some((path, file))
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
                    if self.regular {
                        // Appending has gone to the end, wherever somebody else has moved that.
                        self.at.len = self.file.stream_position()?;
                    }
                    return Ok(written);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
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
    fn open(&mut self, committed: Option<Position>, pending: Batch<'_>) -> Result<usize, Error> {
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
        if ours < self.at.len && done < pending.len() && !pending.is_empty() {
            self.quarantine(ours)?;
            self.at.len = ours;
        } else if ours < self.at.len {
            log::warn!(
                "{}: somebody else has appended {} bytes; going on behind them",
                self.path.display(),
                self.at.len - ours
            );
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
            None => self.open(committed, Batch::default()).map(|_| Surplus::default()),
        }
    }

    fn cut(&mut self, half: &[u8]) -> Result<(), Error> {
        if !half.is_empty() {
            self.at.len = self.at.len.saturating_sub(half.len() as u64);
            self.quarantine(self.at.len)?;
        }
        Ok(())
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
            log::warn!("{}: was removed; going on in a new file", self.path.display());
            *self = FileSink::open(&self.path, self.shape.clone())?;
        } else if metadata.len() != self.at.len {
            log::warn!(
                "{}: somebody else has changed its length from {} to {} bytes; going on at its end",
                self.path.display(),
                self.at.len,
                metadata.len()
            );
            self.at.len = metadata.len();
            self.at.synced = self.at.synced.min(self.at.len);
        }
        Ok(())
    }

    fn header(&self) -> &[u8] {
        &self.shape.header
    }

    fn write(&mut self, batch: Batch<'_>, done: usize) -> io::Result<usize> {
        self.append(&batch.bytes[done..]).map(|written| done + written)
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
        vec![self.file.as_raw_fd()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(content: &[u8]) -> (tempfile::TempDir, FileSink) {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("out");
        std::fs::write(&path, content).expect("write");
        let sink = FileSink::open(&path, Shape::ended_by(b'\n')).expect("open");
        (directory, sink)
    }

    fn at(sink: &FileSink, len: u64) -> Option<Position> {
        Some(Position { len, ..sink.at })
    }

    #[test]
    fn what_of_a_batch_is_there_already_is_not_written_again() {
        let (_directory, mut sink) = sink(b"old\nnew");
        let committed = at(&sink, 4);
        assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"new\nmore\n")).expect("open"), 3);
        assert_eq!(sink.position().expect("regular").len, 7);
    }

    #[test]
    fn bytes_that_are_not_ours_are_put_aside() {
        let (directory, mut sink) = sink(b"old\nnexx");
        let committed = at(&sink, 4);
        assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"new\n")).expect("open"), 2);
        assert_eq!(std::fs::read(directory.path().join("out")).expect("read"), b"old\nne");
        assert_eq!(std::fs::read(directory.path().join("out.quarantine")).expect("read"), b"xx");
    }

    #[test]
    fn a_batch_that_was_begun_in_a_file_that_was_moved_is_finished_there() {
        let (directory, mut sink) = sink(b"old\nne");
        let committed = at(&sink, 4);
        let (path, moved) = (directory.path().join("out"), directory.path().join("out.1"));
        std::fs::rename(&path, &moved).expect("rename");
        std::fs::write(&path, "").expect("a new output");
        sink = loop {
            // See the test of the lock.
            if let Ok(sink) = FileSink::open(&path, Shape::ended_by(b'\n')) {
                break sink;
            }
        };
        assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"new\n")).expect("open"), 4);
        assert_eq!(std::fs::read(&moved).expect("read"), b"old\nnew\n");
        assert_eq!(std::fs::read(&path).expect("read"), b"");
    }

    #[test]
    fn a_buffer_whose_output_was_removed_goes_on_in_the_file_that_the_one_before_it_has_made() {
        let (directory, mut of_main) = sink(b"old\n");
        let path = directory.path().join("out");
        std::fs::remove_file(&path).expect("remove");
        std::fs::write(&path, b"first\nsec").expect("what the other buffer has written");
        let metadata = std::fs::metadata(&path).expect("metadata");
        let (device, inode) = (metadata.dev(), metadata.ino());
        let committed = Some(Position { device, inode, len: 6, synced: 0 });
        assert_eq!(Sink::open(&mut of_main, committed, Batch::of(b"second\n")).expect("open"), 3);
        of_main.append(b"ond\n").expect("write");
        assert_eq!(std::fs::read(&path).expect("read"), b"first\nsecond\n");
    }

    #[test]
    fn what_somebody_else_appended_stays() {
        let (directory, mut sink) = sink(b"old\nforeign\n");
        let committed = at(&sink, 4);
        assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"")).expect("open"), 0);
        sink.append(b"ours\n").expect("write");
        let content = std::fs::read(directory.path().join("out")).expect("read");
        assert_eq!(content, b"old\nforeign\nours\n");
    }

    #[test]
    fn an_existing_output_without_a_last_newline_gets_one() {
        let (directory, mut sink) = sink(b"old");
        assert_eq!(Sink::open(&mut sink, None, Batch::of(b"")).expect("open"), 0);
        sink.append(b"ours\n").expect("write");
        assert_eq!(std::fs::read(directory.path().join("out")).expect("read"), b"old\nours\n");
    }

    #[test]
    fn an_output_that_another_pipeline_writes_is_refused() {
        let (directory, _sink) = sink(b"");
        let second = FileSink::open(&directory.path().join("out"), Shape::ended_by(b'\n'));
        assert!(matches!(second, Err(Error::Held(_))));
    }
}
