//! Where bytes go that can't be used: put aside, never thrown away, never in the way.

use super::queue::spool::sibling;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
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
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| said(&path, error))?;
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
