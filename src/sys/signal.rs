//! Masks and dispositions: what main blocks, what children ignore.

#![allow(unsafe_code)]

use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction,
};
use std::io;

/// What main handles itself, and so blocks from its first act on.
pub(crate) const HANDLED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGCHLD,
];

/// What children ignore: requests to stop are for main alone to hear.
const IGNORED_BY_CHILDREN: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1];

/// The set of the given signals.
pub(crate) fn set_of(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// Blocks what main handles, for this thread and those that it will start, and returns the mask
/// as it was.
pub(crate) fn block_handled() -> io::Result<SigSet> {
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set_of(&HANDLED)), Some(&mut before))?;
    Ok(before)
}

/// Has a signal arrived that asks for a stop, and waits for being unblocked?
pub(crate) fn is_stop_pending() -> bool {
    // SAFETY: sigset_t is plain data, for which all zeroes is a valid value.
    let mut pending: nix::libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `pending` is valid for one set to be written; the members are valid signals.
    unsafe {
        nix::libc::sigpending(&mut pending) == 0
            && [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT]
                .iter()
                .any(|signal| nix::libc::sigismember(&pending, *signal as i32) == 1)
    }
}

/// Unblocks the given signals for this thread.
pub(crate) fn unblock(signals: &[Signal]) -> io::Result<()> {
    Ok(pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&set_of(signals)), None)?)
}

/// Makes this the thread's mask.
pub(crate) fn set_mask(mask: &SigSet) -> io::Result<()> {
    Ok(pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?)
}

/// Is the signal ignored now, as under nohup?
pub(crate) fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut now = std::mem::MaybeUninit::<nix::libc::sigaction>::uninit();
    // SAFETY: a null new action only queries; `now` is valid for one sigaction to be written.
    let code = unsafe { nix::libc::sigaction(signal as i32, std::ptr::null(), now.as_mut_ptr()) };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has written the whole structure.
    Ok(unsafe { now.assume_init() }.sa_sigaction == nix::libc::SIG_IGN)
}

/// Gives the signal back its default, or ignores it.
pub(crate) fn dispose(signal: Signal, ignore: bool) -> io::Result<()> {
    replace(signal, ignore).map(drop)
}

/// As [`dispose`], and returns the handler that was there.
pub(crate) fn replace(signal: Signal, ignore: bool) -> io::Result<SigHandler> {
    let handler = if ignore { SigHandler::SigIgn } else { SigHandler::SigDfl };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither disposition runs code of ours in signal context.
    let before = unsafe { sigaction(signal, &action) }?;
    Ok(before.handler())
}

/// What a child does first, with everything still blocked by main across the fork: it ignores
/// what is for main alone, takes the default for the rest, and only then opens its mask.
///
/// The whole mask is emptied, not restored: one that was inherited from whoever started main
/// would keep a worker function's own signals from it.
pub(crate) fn become_child() -> io::Result<()> {
    for signal in IGNORED_BY_CHILDREN {
        dispose(signal, true)?;
    }
    dispose(Signal::SIGCHLD, false)?;
    set_mask(&SigSet::empty())
}

/// What a process exits with when a mapped page is gone: the file was truncated, or the disk failed.
const EXIT_BUS: i32 = 74;

extern "C" fn on_bus_error(_signal: i32) {
    let message =
        b"procsig: error: the spool can't be accessed any more: it was cut, or its disk has failed; this \
        process ends. What was written is in the output. If the spool was cut: Move the spool away, \
        then start again; if the disk has failed: see to it, then start again\n";
    // SAFETY: write and _exit are async-signal-safe, and the message is valid for its length.
    unsafe {
        nix::libc::write(2, message.as_ptr().cast(), message.len());
        nix::libc::_exit(EXIT_BUS);
    }
}

/// Ends the process with a message of its own, instead of a core dump, when the spool's memory
/// can't be had any more.
pub(crate) fn exit_on_bus_error() -> io::Result<()> {
    let handler = SigHandler::Handler(on_bus_error);
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler calls only what is async-signal-safe.
    unsafe { sigaction(Signal::SIGBUS, &action) }?;
    Ok(())
}
