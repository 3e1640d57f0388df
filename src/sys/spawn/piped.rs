//! A command that is talked with: a pipe at each of its standard streams, none of which ever
//! makes this process wait.
//!
//! - Its own end is what counts: a pipe that something it has started holds open says nothing.
//! - Its standard error is taken by somebody else, who reads it whether or not there is a talk.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::unistd::Pid;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags};

use super::super::clock;
use super::super::process::Ended;
use super::leader::{Leader, poll_once};

/// Bytes read at a time, at the least.
const READ_BYTES: usize = 4 << 10;

/// Bytes read at a time, at the most: what a pipe holds.
const READ_BYTES_MAX: usize = 64 << 10;

/// A command that was started and not reaped yet.
#[derive(Debug)]
pub(crate) struct Piped {
    pub(super) leader: Leader,
    /// `None`: it was closed here.
    stdin: Option<OwnedFd>,
    /// `None`: nobody can write to it any more.
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// What a wait has found; nothing of it: the moment has come before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Its standard output has something to read, or was closed.
    pub(crate) output: bool,
    /// Its standard input takes something, or was closed.
    pub(crate) input: bool,
    /// The command has ended. What it wrote before that can be read.
    pub(crate) ended: bool,
}

impl Piped {
    pub(super) fn new(leader: Leader, stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Piped {
        Piped { leader, stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr) }
    }

    /// Its number, which is the number of its process group as well.
    pub(crate) fn pid(&self) -> i32 {
        self.leader.pid()
    }

    /// When it was started, in clock ticks since boot; 0 if `/proc` can't be read.
    pub(crate) fn start_time(&self) -> u64 {
        self.leader.start_time()
    }

    /// The reading end of its standard error, which doesn't block; the first time only.
    pub(crate) fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    /// Has it closed its standard output, with all that it has started?
    pub(crate) fn output_is_closed(&self) -> bool {
        self.stdout.is_none()
    }

    /// Has it closed its standard input? Known from the next write on.
    pub(crate) fn input_is_closed(&self) -> bool {
        self.stdin.is_none()
    }

    /// Tells it that nothing more will come.
    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Writes as much as its standard input takes now, and says how much that was.
    ///
    /// # Errors
    /// It has closed its standard input.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stdin) = &self.stdin else { return Err(io::ErrorKind::BrokenPipe.into()) };
        loop {
            match rustix::io::write(stdin, bytes) {
                Ok(written) => return Ok(written),
                Err(rustix::io::Errno::AGAIN) => return Ok(0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    self.stdin = None;
                    return Err(error.into());
                }
            }
        }
    }

    /// Appends what is in its standard output now, up to 64 KiB of it, and says how much that was;
    /// see [`Piped::output_is_closed`] when it was nothing.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>) -> usize {
        let Some(stdout) = &self.stdout else { return 0 };
        // Doubles, so that short answers take little memory and long ones few calls.
        into.reserve(into.len().clamp(READ_BYTES, READ_BYTES_MAX));
        match rustix::io::read(stdout, spare_capacity(into)) {
            Ok(0) => {
                self.stdout = None;
                0
            }
            Ok(read) => read,
            // Somebody else has read it: a command can open its own output.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(_) => {
                self.stdout = None;
                0
            }
        }
    }

    /// Appends what a command that has ended left in its standard output, but not much more than
    /// `max` bytes: what it left behind can go on filling the pipe for ever.
    pub(crate) fn read_rest(&mut self, into: &mut Vec<u8>, max: usize) {
        let waiting = self.stdout.as_ref().and_then(|it| rustix::io::ioctl_fionread(it).ok());
        let mut left = usize::try_from(waiting.unwrap_or(0)).unwrap_or(usize::MAX);
        while left > 0 && into.len() <= max {
            match self.read(into) {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
    }

    /// Waits until there is output, there is room for input if `input` asks for that, the command
    /// has ended, or [`clock::now`] has come to `until`.
    ///
    /// # Errors
    /// The system can't wait, for lack of memory. The command runs on.
    pub(crate) fn wait(&self, input: bool, until: Option<Duration>) -> io::Result<Ready> {
        let mut tick = Duration::from_millis(1);
        loop {
            let left = until.map(|until| until.saturating_sub(clock::now()));
            let ready = self.wait_once(input, self.leader.pause(left, &mut tick))?;
            if ready != Ready::default() || left == Some(Duration::ZERO) {
                return Ok(ready);
            }
        }
    }

    fn wait_once(&self, input: bool, pause: Option<Duration>) -> io::Result<Ready> {
        let stdin = self.stdin.as_ref().filter(|_| input);
        let sources = [
            (stdin.map(AsFd::as_fd), PollFlags::OUT),
            (self.stdout.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (self.leader.pidfd.as_ref().map(AsFd::as_fd), PollFlags::IN),
        ];
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(sources.len());
        for (descriptor, flags) in sources {
            polled.extend(descriptor.map(|fd| PollFd::from_borrowed_fd(fd, flags)));
        }
        if !poll_once(&mut polled, pause)? {
            return Ok(Ready::default());
        }
        let mut events = polled.iter().map(|polled| !polled.revents().is_empty());
        // Any event of a stream: its other end may have been closed.
        let mut next = |there: bool| there && events.next().unwrap_or(false);
        let (input, output) = (next(stdin.is_some()), next(self.stdout.is_some()));
        let ended = match &self.leader.pidfd {
            Some(_) => next(true),
            None => self.leader.has_ended(),
        };
        Ok(Ready { output, input, ended })
    }

    /// Reaps a command that has ended.
    ///
    /// # Errors
    /// It is not known how it ended: SIGCHLD is ignored, or somebody else has reaped it.
    pub(crate) fn reap(self) -> io::Result<Ended> {
        self.leader.reap()
    }

    /// Lets go of a command that can't be ended. Its number stays its own until it is reaped.
    pub(crate) fn give_up(self) -> Pid {
        self.leader.give_up()
    }

    /// Ends its process group. One that has ended itself is still a member until it is reaped.
    ///
    /// # Errors
    /// None of the group can be signalled.
    pub(crate) fn kill_group(&self) -> io::Result<()> {
        self.leader.kill_group()
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
