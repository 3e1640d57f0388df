//! Locks on files that belong to an open file description: all processes that inherited it hold
//! the lock together, and the kernel lets go of it when the last of them is gone.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::io;
use std::os::fd::AsFd;

/// Locks the whole file for writing, or says `false` when another description holds it.
///
/// # Errors
/// What the system says of a file that can't be locked: a pipe, a file system without locks.
pub(crate) fn try_exclusive(file: impl AsFd) -> io::Result<bool> {
    let lock = whole_file(libc::F_WRLCK);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Lets go of a lock that the description has, although it stays open.
#[cfg(test)]
pub(crate) fn release(file: impl AsFd) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)))?;
    Ok(())
}

/// Could the whole file be locked now? Takes no lock.
///
/// # Errors
/// What the system says of a file that can't be locked.
pub(crate) fn is_free(file: impl AsFd) -> io::Result<bool> {
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type == libc::F_UNLCK as libc::c_short)
}

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_against_another_description_and_shared_with_a_duplicate() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let first = file.reopen().expect("reopen");
        let second = file.reopen().expect("reopen");
        assert!(try_exclusive(&first).expect("lock"));
        assert!(!try_exclusive(&second).expect("query"));
        let duplicate = first.try_clone().expect("dup");
        assert!(try_exclusive(&duplicate).expect("the same description"));
        drop((first, duplicate));
        // A command that another test starts at this moment has a copy of every descriptor, until
        // it is executed.
        while !try_exclusive(&second).expect("free again") {
            std::thread::yield_now();
        }
    }
}
