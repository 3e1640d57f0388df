//! A command that runs for one job, with nothing to read but what is kept of its output.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};

use super::super::clock;
use super::super::pidfd::PidFd;
use super::super::process::Ended;
use super::leader::{Leader, poll_once};
use super::output::Output;

/// A command that was started and not reaped yet.
#[derive(Debug)]
pub(crate) struct Running {
    pub(super) leader: Leader,
    pub(super) outputs: [Output; 2],
}

/// What a wait came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The command has ended, and its output is complete.
    Ended,
    /// The moment has come before.
    Late,
}

impl Running {
    pub(super) fn new(leader: Leader, outputs: [Output; 2]) -> Running {
        Running { leader, outputs }
    }

    /// Its number, which is the number of its process group as well.
    pub(crate) fn pid(&self) -> i32 {
        self.leader.pid()
    }

    /// When it was started, in clock ticks since boot; 0 if `/proc` can't be read.
    pub(crate) fn start_time(&self) -> u64 {
        self.leader.start_time()
    }

    /// Reads its output until it has ended or [`clock::now`] has come to `until`.
    ///
    /// # Errors
    /// The system can't wait, for lack of memory. The command runs on.
    pub(crate) fn wait(&mut self, until: Option<Duration>) -> io::Result<Waited> {
        let mut tick = Duration::from_millis(1);
        loop {
            let left = until.map(|until| until.saturating_sub(clock::now()));
            let pause = self.leader.pause(left, &mut tick);
            if self.wait_once(pause)? {
                self.outputs.iter_mut().for_each(Output::finish);
                return Ok(Waited::Ended);
            }
            if left == Some(Duration::ZERO) {
                return Ok(Waited::Late);
            }
        }
    }

    /// Waits for the next event and reads what is there. Says whether the command has ended.
    pub(super) fn wait_once(&mut self, pause: Option<Duration>) -> io::Result<bool> {
        let pipes = self.outputs.iter().filter_map(|output| output.pipe.as_ref());
        let pidfd = self.leader.pidfd.iter().map(PidFd::as_fd);
        let descriptors = pipes.map(OwnedFd::as_fd).chain(pidfd);
        let mut polled: Vec<PollFd<'_>> =
            descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        if !poll_once(&mut polled, pause)? {
            return Ok(false);
        }
        let events: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        let mut events = events.into_iter();
        for output in self.outputs.iter_mut().filter(|output| output.pipe.is_some()) {
            output.on_event(events.next().unwrap_or(PollFlags::empty()));
        }
        match events.next() {
            Some(events) => Ok(!events.is_empty()),
            None => Ok(self.leader.has_ended()),
        }
    }

    /// Reaps a command that [has ended](Waited::Ended), and hands out its two outputs.
    ///
    /// # Errors
    /// It is not known how it ended: SIGCHLD is ignored, or somebody else has reaped it.
    pub(crate) fn reap(self) -> (io::Result<Ended>, [Output; 2]) {
        (self.leader.reap(), self.outputs)
    }

    /// Lets go of a command that can't be ended. Its number stays its own until it is reaped.
    pub(crate) fn give_up(self) -> (Pid, [Output; 2]) {
        (self.leader.give_up(), self.outputs)
    }

    /// Ends the command and all that it started: its group, its descendants, and whatever has all
    /// of `markers` in its environment. Takes no longer than until `until`.
    ///
    /// # Errors
    /// The command itself, or all of its group, can't be signalled.
    pub(crate) fn kill_all(&self, markers: &[&[u8]], until: Duration) -> io::Result<()> {
        self.leader.kill_all(markers, until)
    }
}
