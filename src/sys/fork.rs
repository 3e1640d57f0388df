//! The one place that forks.

#![allow(unsafe_code)]

use nix::unistd::{ForkResult, Pid, fork};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a child exits with when its main function panicked: as a Rust program does.
pub(crate) const EXIT_PANIC: i32 = 101;

/// Starts a child that runs `main` and exits with what it returns.
///
/// The child never returns into the caller's code, also when `main` panics, and runs neither
/// destructors nor `atexit` handlers of what it inherited.
///
/// The caller must have no thread that could hold a lock of its own at this moment: the child
/// has a copy of the memory, but only of this one thread.
///
/// # Errors
/// `EAGAIN` or `ENOMEM`: the system has no room for another process.
pub(crate) fn start(main: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the child is free to allocate and to take locks, because the callers fork only
    // while this is the only thread, or while the others are the two signal threads. Those
    // allocate, but glibc holds the allocator's locks across a fork; they take no other lock.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = catch_unwind(AssertUnwindSafe(main)).unwrap_or(EXIT_PANIC);
            super::process::exit_now(code)
        }
    }
}
