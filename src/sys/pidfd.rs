//! Waiting for the end of a process that may be no child of ours.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::clock;

/// A process, held so that its number can't come to mean another one.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// The process that has this number now.
    ///
    /// # Errors
    /// `ESRCH` if there is none; `EMFILE`, `ENFILE`, `ENOMEM`.
    pub(crate) fn open(pid: i32) -> io::Result<PidFd> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(PidFd(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Waits until the process has ended or the moment `until` has come; says whether it ended.
    pub(crate) fn wait(&self, until: Option<Duration>) -> io::Result<bool> {
        loop {
            let timeout = until.map(|until| clock::timespec(until.saturating_sub(clock::now())));
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// `EPERM` if it belongs to somebody else, `ESRCH` if it has ended and was reaped.
    pub(crate) fn send(&self, signal: nix::sys::signal::Signal) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal as i32).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(pidfd_send_signal(&self.0, signal)?)
    }

    /// Ends the process by force. That it has ended already is no error.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.0, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
