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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn torn_bytes_are_for_their_owner_alone() {
        let place = tempfile::tempdir().expect("a directory");
        let mut aside = Quarantine::of(&place.path().join("out")).expect("created");
        aside.append(b"torn").expect("written");
        let path = aside.finish().expect("synced");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read(path).expect("read"), b"torn");
    }

    #[test]
    fn whatever_is_planted_at_a_quarantine_is_neither_followed_nor_waited_for() {
        let place = tempfile::tempdir().expect("a directory");
        let (output, aside) = (place.path().join("out"), place.path().join("out.quarantine"));
        // Nobody reads it: to open it would take for ever.
        nix::unistd::mkfifo(&aside, nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
        assert!(Quarantine::of(&output).is_err());
        let _reader = File::options().read(true).write(true).open(&aside).expect("both ends");
        let error = Quarantine::of(&output).err().expect("still no file").to_string();
        assert!(error.contains("it is no regular file"), "{error}");
        std::fs::remove_file(&aside).expect("removed");
        symlink("elsewhere", &aside).expect("a link");
        if std::os::unix::fs::lchown(&aside, Some(54_321), None).is_err() {
            return eprintln!("skipped: only root can give links away");
        }
        let error = Quarantine::of(&output).err().expect("not followed").to_string();
        assert!(error.contains("a symbolic link of user 54321"), "{error}");
        assert!(!place.path().join("elsewhere").exists());
    }
}
