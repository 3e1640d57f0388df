//! Looking into a spool from outside, whoever has it and whatever became of them.
//!
//! What is looked at is a copy, read from the file: nothing is locked and nothing is written, so nobody is
//! disturbed; and a run that gives the room of its spool back meanwhile takes nothing away under us.

use super::{Spool, layout_of};
use crate::error::Error;
use crate::flow::queue::layout::{Layout, PAGE};
use crate::sys::lock;
use crate::sys::mmap::Mapping;
use crate::sys::trusted;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How much of a spool is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What is kept after the end: run, history, processes, books. Nothing behind it may be touched.
    Books,
    /// Also the table of jobs, and the ends of the lanes; not what is in them. Nothing but the books if
    /// the spool [is closed](Spool::is_closed).
    Jobs,
}

impl Spool {
    /// Reads a copy of the spool at `path`, as it is now.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, if it is none of ours, or if it belongs to somebody else and
    /// can't be read.
    pub(crate) fn look(path: &Path, extent: Extent) -> Result<Spool, Error> {
        let fail = |what: &str, error: io::Error| Error::file(path, what, error);
        let file = trusted::open_to_look(path).map_err(|error| not_opened(path, error))?;
        let metadata = file.metadata().map_err(|error| fail("can't read the spool", error))?;
        if !metadata.is_file() {
            return Err(Error::file(path, "this is no spool", "not a regular file"));
        }
        let refuse = |why: String| Error::File { path: path.to_path_buf(), message: why };
        let copy = |len: usize| {
            Mapping::copy_of(&file, len).map_err(|error| fail("can't read the spool", error))
        };
        let mut len = metadata.len();
        let page = if len < PAGE as u64 { None } else { Some(copy(PAGE)?) };
        let (layout, mut closed) = layout_of(page.as_ref(), len).map_err(refuse)?;
        let mut mapping = copy(looked_at(&layout, if closed { Extent::Books } else { extent }))?;
        if extent == Extent::Jobs && !closed {
            // Has it given its room back meanwhile?
            len = file.metadata().map_err(|error| fail("can't read the spool", error))?.len();
            (_, closed) = layout_of(Some(&mapping), len).map_err(refuse)?;
            if closed {
                mapping = copy(looked_at(&layout, Extent::Books))?;
            }
        }
        Ok(Spool {
            mapping,
            layout,
            file,
            path: path.to_path_buf(),
            closed,
            #[cfg(any(test, fuzzing))]
            rings: Vec::new(),
        })
    }

    /// Number of the user that it belongs to; whoever runs with it is this user.
    pub(crate) fn owner(&self) -> Option<u32> {
        self.file.metadata().ok().map(|metadata| metadata.uid())
    }

    /// Does any process of ours hold it, main or an orphan? Also one that can't be seen from here, as in a
    /// container.
    pub(crate) fn is_held(&self) -> bool {
        !lock::is_free(&self.file).unwrap_or(true)
    }
}

/// Bytes from the beginning of the file.
pub(super) fn looked_at(layout: &Layout, extent: Extent) -> usize {
    match extent {
        Extent::Books => layout.slots,
        Extent::Jobs => layout.rings,
    }
}

/// Why the spool can't be opened, and what to do about it.
fn not_opened(path: &Path, error: io::Error) -> Error {
    let owner = std::fs::symlink_metadata(path).map(|metadata| metadata.uid());
    let denied = error.raw_os_error() == Some(nix::libc::EACCES);
    match (error.kind(), owner) {
        (_, Ok(owner)) if denied => Error::File {
            path: path.to_path_buf(),
            message: format!(
                "permission denied: the spool belongs to user {owner}, and we run as user {}. Run \
                 this as that user, or as root",
                rustix::process::geteuid().as_raw()
            ),
        },
        (io::ErrorKind::NotFound, _) => Error::File {
            path: path.to_path_buf(),
            message: "there is no such spool: nothing was run with it yet, or it was removed"
                .into(),
        },
        _ => Error::file(path, "can't open the spool", error),
    }
}
