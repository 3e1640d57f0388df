//! The output of a command: the pipe, and what is kept of it.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use rustix::buffer::spare_capacity;
use rustix::event::PollFlags;
use rustix::fs::OFlags;

/// Bytes read at a time of what is not kept: what a pipe holds.
const DISCARD_BYTES: usize = 64 << 10;

/// A pipe: the end that is read here, without blocking, and the end for a command.
///
/// A command can open its own output for reading, as `/dev/stdout`, and take away what a poll has
/// just promised to us; hence without blocking. The flag is not shared with the other end.
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).map_err(errno)?;
    Ok((read, above_standard(write).map_err(errno)?))
}

/// A pipe: the end for a command, and the end that is written here, without blocking.
pub(super) fn input_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK).map_err(errno)?;
    Ok((above_standard(read).map_err(errno)?, write))
}

/// The same descriptor with a number above those of standard input, output and error.
///
/// Where those were closed, a pipe gets their numbers. `dup2` to itself would leave it
/// close-on-exec, and to another one could overwrite the other pipe.
pub(super) fn above_standard(descriptor: OwnedFd) -> Result<OwnedFd, rustix::io::Errno> {
    if descriptor.as_raw_fd() > 2 {
        return Ok(descriptor);
    }
    rustix::io::fcntl_dupfd_cloexec(&descriptor, 3)
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// One output of a command: what was read of it, and the pipe as long as more can come.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(super) pipe: Option<OwnedFd>,
    pub(super) kept: Vec<u8>,
    max: usize,
    cut: bool,
}

impl Output {
    pub(super) fn new(pipe: OwnedFd, max: usize) -> Output {
        Output { pipe: Some(pipe), kept: Vec::new(), max, cut: false }
    }

    /// The bytes that were kept, and whether there were more.
    pub(crate) fn into_parts(self) -> (Vec<u8>, bool) {
        (self.kept, self.cut)
    }

    /// Reads once, and closes the pipe at its end. Says how many bytes came.
    fn read(&mut self) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        let room = self.max - self.kept.len();
        let result = if room == 0 {
            discard(pipe)
        } else {
            // Doubles, so that little output takes little memory and much output few calls.
            self.kept.reserve(room.min(self.kept.len().max(4096)));
            rustix::io::read(pipe, spare_capacity(&mut self.kept))
        };
        match result {
            Ok(0) => self.pipe = None,
            Ok(_) if room == 0 => self.cut = true,
            Ok(_) => {
                self.cut |= self.kept.len() > self.max;
                self.kept.truncate(self.max);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.pipe = None,
        }
        result.unwrap_or(0)
    }

    /// Reads what is in the pipe now, and closes it.
    ///
    /// Of what is in it when the command has ended, all that the command wrote is part; a process
    /// that it left behind can go on filling the pipe for ever.
    pub(super) fn finish(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let waiting = rustix::io::ioctl_fionread(pipe).unwrap_or(0);
        let mut left = usize::try_from(waiting).unwrap_or(usize::MAX);
        while left > 0 && self.pipe.is_some() {
            match self.read() {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        self.pipe = None;
    }

    pub(super) fn on_event(&mut self, events: PollFlags) {
        if events.contains(PollFlags::IN) {
            self.read();
        } else if !events.is_empty() {
            // Nothing is in it, and nobody can write any more.
            self.pipe = None;
        }
    }
}

/// Reads what is not kept, or the command would block. Apart, since only few need that much stack.
#[inline(never)]
fn discard(pipe: &OwnedFd) -> Result<usize, rustix::io::Errno> {
    let mut discarded = [std::mem::MaybeUninit::<u8>::uninit(); DISCARD_BYTES];
    rustix::io::read(pipe, &mut discarded).map(|(read, _)| read.len())
}
