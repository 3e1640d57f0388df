//! An output that somebody else has moved.

use super::{FileSink, Rotating};
use crate::error::Error;
use crate::flow::queue::spool::directory_of;
use crate::flow::sink::{CantOpen, Position, is_full};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

impl FileSink {
    /// The file that was written to has another name now, or none. A batch that was begun in it is
    /// finished there, so that no record is cut in two or written to both. Says how many bytes of
    /// the batch are done: all or none.
    pub(super) fn settle_moved(
        &self,
        committed: Position,
        pending: &[u8],
    ) -> Result<usize, CantOpen> {
        let Some((path, file)) = self.find_moved(committed) else {
            log::warn!("{}: not the file it was; appending to this one", self.path.display());
            return Ok(0);
        };
        let fail =
            |error| Error::of_records(&path, "can't finish a batch in the moved output", &error);
        let moved = FileSink {
            path: path.clone(),
            place: path.clone(),
            shape: self.shape.clone(),
            file,
            regular: true,
            at: committed,
            rotating: Rotating::default(),
            held: None,
        };
        let done = moved.common_prefix(committed.len, pending).map_err(fail)?;
        if done > 0 {
            let rest = moved.file.write_all_at(&pending[done..], committed.len + done as u64);
            match rest {
                // Tried again, it finds what there was room for.
                Err(error) if is_full(&error) => return Err(CantOpen::Full(path, error)),
                rest => rest.map_err(fail)?,
            }
            moved.file.sync_data().map_err(fail)?;
        }
        log::warn!(
            "{}: the file that was written to is now {}; appending to a new one",
            self.path.display(),
            path.display()
        );
        Ok(if done > 0 { pending.len() } else { 0 })
    }

    /// As it is asked for by a signal: whoever has moved the file wants it closed.
    pub(super) fn reopen_by_name(&mut self) -> Result<(), Error> {
        let before = self.at;
        self.find_again()?;
        if !self.is_at(&before) {
            log::info!("{}: opened anew", self.path.display());
            self.end_an_open_line()?;
        }
        Ok(())
    }

    /// Cuts off what is behind this position, if the file that is open is the one that it is in, or the
    /// one that has the output's name.
    pub(super) fn cut_off(&mut self, committed: Position) -> io::Result<()> {
        let is_it =
            |it: &std::fs::Metadata| (it.dev(), it.ino()) == (committed.device, committed.inode);
        let named = || {
            let mut options = OpenOptions::new();
            // Whatever may have taken its place is not waited for.
            options.write(true).custom_flags(nix::libc::O_NONBLOCK).open(&self.place)
        };
        let file = match self.file.metadata().is_ok_and(|open| is_it(&open)) {
            true => self.file.try_clone(),
            false => named(),
        };
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let metadata = file.metadata()?;
        if is_it(&metadata) && metadata.len() > committed.len {
            file.set_len(committed.len)?;
            self.at.len = committed.len;
        }
        Ok(())
    }

    /// Looks for the committed file among those beside the output: beside the file itself first, should
    /// the output be a link to it.
    pub(super) fn find_moved(&self, committed: Position) -> Option<(PathBuf, File)> {
        let beside = [&self.place, &self.path].map(|path| directory_of(path));
        let entries = beside.into_iter().filter_map(|directory| std::fs::read_dir(directory).ok());
        let entries = entries.flatten().flatten();
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
}
