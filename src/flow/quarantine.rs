//! Where bytes go that can't be used: put aside, never thrown away, never in the way.

use super::queue::spool::{directory_of, sibling};
use crate::sys::{disk, trusted};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A quarantine file, open for more.
pub(crate) struct Quarantine {
    pub path: PathBuf,
    file: File,
}

impl Quarantine {
    /// Opens the one that belongs to this file: `NAME.quarantine` beside it.
    ///
    /// # Errors
    /// If it can't be opened or created.
    pub(crate) fn of(path: &Path) -> io::Result<Quarantine> {
        let path = sibling(path, ".quarantine");
        // Whatever somebody may have put there is not waited for.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK;
        let flags = flags | OFlags::NOCTTY;
        let file = trusted::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| said(&path, disk::explained(directory_of(&path), error)))?;
        if !file.metadata()?.is_file() {
            return Err(said(&path, io::Error::other("it is no regular file; remove it")));
        }
        Ok(Quarantine { path, file })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// If they can't be written.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).map_err(|error| said(&self.path, error))
    }

    /// Forces them to the disk: only then the originals may go. Killed in between, they are here
    /// twice.
    ///
    /// # Errors
    /// If the system says so.
    pub(crate) fn finish(self) -> io::Result<PathBuf> {
        self.file.sync_all().map_err(|error| said(&self.path, error))?;
        Ok(self.path)
    }
}

/// The error with the file's name, and of the same kind: a full disk is waited for.
fn said(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("can't put torn bytes aside in {}: {error}", path.display()),
    )
}
