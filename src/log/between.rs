//! What the processes of a run agree on when they write to the same place.
//!
//! A pipe takes short lines whole, but a long one in pieces, between which another process could
//! get its own. So whoever writes to a pipe holds a lock. It is one of the kernel's on a file in
//! memory that main has made before it forked: it belongs to a process, and is gone with it,
//! however that dies. A holder that is stopped keeps it, so nobody waits for it for ever.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, memfd_create};

use crate::sys::clock;

/// The first pause of who waits for the lock, doubled up to the last.
const PAUSES: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(5)];

/// Shared by this process and all that it forks.
pub(super) struct Between {
    /// A byte that says whether the last line there is torn. `None`: not to be had, and lines of
    /// several processes are kept apart only as well as the system does it by itself.
    pub(super) file: Option<File>,
}

impl Between {
    pub(super) fn new() -> Between {
        let memory = memfd_create("procsig-log", MemfdFlags::CLOEXEC).ok();
        Between { file: memory.map(File::from) }
    }

    /// Takes the lock; `None` if it can't be had until then.
    ///
    /// It keeps processes apart, not threads: those share one mutex.
    pub(super) fn lock(&self, until: Duration) -> Option<Held<'_>> {
        let Some(file) = &self.file else { return Some(Held(None)) };
        let [mut pause, longest] = PAUSES;
        loop {
            match fcntl_lock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(Held(Some(file))),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {}
                // Out of locks: as if there were none.
                Err(_) => return Some(Held(None)),
            }
            if clock::now() >= until {
                return None;
            }
            sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }

    /// Is the last line that was written only part of one?
    pub(super) fn is_torn(&self) -> bool {
        let mut byte = [0];
        let file = self.file.as_ref();
        file.is_some_and(|file| matches!(file.read_at(&mut byte, 0), Ok(1)) && byte[0] != 0)
    }

    pub(super) fn set_torn(&self, torn: bool) {
        // Fails for want of memory; then a line may begin within another.
        let _noted = self.file.as_ref().map(|file| file.write_at(&[torn.into()], 0));
    }
}

/// The lock is held until this is dropped.
pub(super) struct Held<'a>(Option<&'a File>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            let _released = fcntl_lock(file, FlockOperation::NonBlockingUnlock);
        }
    }
}
