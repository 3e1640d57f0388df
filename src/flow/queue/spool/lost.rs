//! A spool that somebody removes or moves while it is in use.
//!
//! Its processes have it open and mapped, and go on as if nothing had happened; but who comes next
//! finds none, begins the list anew, and does not know what is kept. So the buffer says it as soon as
//! it sees it, and main, when all others have ended, writes the spool to its place again. Only if main
//! is killed before that, or the power goes, is lost what was in it.

use super::{Spool, build, sibling};
use crate::error::Error;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

/// Bytes that are copied at a time.
const CHUNK: usize = 256 << 10;

/// Where a spool is that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    InPlace,
    /// No file has it any more.
    Removed,
    /// It has another name, or none that we can see.
    Moved(PathBuf),
}

impl Spool {
    /// Is it still where it was opened?
    pub(crate) fn whereabouts(&self) -> Whereabouts {
        let Ok(open) = self.file.metadata() else { return Whereabouts::InPlace };
        if open.nlink() == 0 {
            return Whereabouts::Removed;
        }
        let identity = |it: &std::fs::Metadata| (it.dev(), it.ino());
        match std::fs::symlink_metadata(&self.path) {
            Ok(named) if identity(&named) == identity(&open) => Whereabouts::InPlace,
            Err(error) if error.kind() != io::ErrorKind::NotFound => Whereabouts::InPlace,
            _ => {
                let link = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                Whereabouts::Moved(std::fs::read_link(link).unwrap_or_default())
            }
        }
    }

    /// Was it cut, so that what is mapped of it is not there?
    pub(crate) fn is_cut(&self) -> bool {
        let expected = if self.closed { self.layout.slots } else { self.layout.total };
        self.file.metadata().is_ok_and(|it| it.len() < expected as u64)
    }

    /// Writes it to its place again, where it is no more. To be called by the last process that uses it.
    ///
    /// # Errors
    /// If that can't be done, or another file has its name.
    pub(crate) fn bring_back(&self) -> Result<(), Error> {
        if self.path.symlink_metadata().is_ok() {
            let why = "another file has its name";
            return Err(Error::file(&self.path, "the spool can't be written again", why));
        }
        let temporary = sibling(&self.path, &format!(".new-{}", std::process::id()));
        build::remove_unfinished(&self.path);
        let copied = self
            .copy_to(&temporary)
            .map_err(|error| Error::file(&self.path, "the spool can't be written again", error));
        let published = copied.and_then(|()| build::publish(&temporary, &self.path, false));
        published.inspect_err(|_| {
            // Half of a spool is of no use; if it can't be removed either, the next start will try.
            let _removed = std::fs::remove_file(&temporary);
        })
    }

    fn copy_to(&self, temporary: &std::path::Path) -> io::Result<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = File::from(rustix::fs::open(temporary, flags, Mode::RUSR | Mode::WUSR)?);
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        loop {
            match self.file.read_at(&mut chunk, at) {
                Ok(0) => break,
                Ok(read) => {
                    to.write_all_at(&chunk[..read], at)?;
                    at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        to.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::queue::layout::Geometry;

    fn spool(directory: &std::path::Path) -> Spool {
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 1, job_bytes: 64 };
        Spool::create(&directory.join("spool"), geometry, 7, None, |_| {}).expect("a spool")
    }

    #[test]
    fn a_spool_that_was_removed_or_moved_is_written_to_its_place_again_byte_by_byte() {
        for moved in [false, true] {
            let directory = tempfile::tempdir().expect("temp dir");
            let (path, other) = (directory.path().join("spool"), directory.path().join("other"));
            let spool = spool(directory.path());
            assert_eq!(spool.whereabouts(), Whereabouts::InPlace);
            std::fs::rename(&path, &other).expect("moved");
            spool.run().run_id.store(11, crate::sys::atomic::Ordering::Relaxed);
            let before = std::fs::read(&other).expect("its bytes");
            let expected = match moved {
                true => Whereabouts::Moved(other.canonicalize().expect("a path")),
                false => {
                    std::fs::remove_file(&other).expect("removed");
                    Whereabouts::Removed
                }
            };
            assert_eq!(spool.whereabouts(), expected);
            spool.bring_back().expect("brought back");
            drop(spool);
            assert_eq!(std::fs::read(&path).expect("its bytes"), before);
            let again = Spool::open(&path).expect("as it was").expect("there");
            assert_eq!(again.run().run_id.load(crate::sys::atomic::Ordering::Relaxed), 11);
            assert_eq!(again.whereabouts(), Whereabouts::InPlace);
        }
    }

    #[test]
    fn a_file_that_has_taken_the_place_of_a_spool_is_not_touched() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("spool");
        let spool = spool(directory.path());
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "mine").expect("write");
        assert!(spool.bring_back().is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "mine");
        let files = std::fs::read_dir(directory.path()).expect("the directory").count();
        assert_eq!(files, 1, "something was left behind");
    }
}
