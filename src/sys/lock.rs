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

/// The same of a file that may have been one of a process that is just ending: asks again after each pause,
/// as long as `pause` says that it was one. What a dead process had open is not closed all at once, and no
/// event tells when a lock that is not waited for is let go.
///
/// # Errors
/// As of [`try_exclusive`].
pub(crate) fn exclusive_soon(file: impl AsFd, mut pause: impl FnMut() -> bool) -> io::Result<bool> {
    while !try_exclusive(&file)? {
        if !pause() {
            return Ok(false);
        }
    }
    Ok(true)
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

    #[test]
    fn a_lock_that_is_let_go_while_it_is_asked_for_is_had_in_the_end() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let mut first = Some(file.reopen().expect("reopen"));
        assert!(try_exclusive(first.as_ref().expect("open")).expect("lock"));
        let second = file.reopen().expect("reopen");
        let mut pauses = 0;
        let mut pause = |limit: i32, gone: i32| {
            pauses += 1;
            if pauses == gone {
                first = None;
            }
            pauses <= limit
        };
        assert!(!exclusive_soon(&second, || pause(3, 9)).expect("query"));
        // Whoever forks at this moment has a copy of it for a little longer.
        assert!(exclusive_soon(&second, || pause(i32::MAX, 9)).expect("lock"));
        assert!(pauses >= 9);
    }
}
