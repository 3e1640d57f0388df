//! Where the log goes.
//!
//! A write must never wait for a reader, since then the log would hold up the pipeline, and its
//! stop. For whether it waits counts how the descriptor was opened, and standard error was opened
//! by somebody else, who shares it with others: it is not ours to change. So a pipe and a terminal
//! are opened once more by way of `/proc`, which makes a description of our own. Where that is
//! refused, a piece is written that has room for sure, if nobody else has taken it meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::SendFlags;

use crate::sys::{clock, trusted};

/// What a pipe takes whole if it takes anything: PIPE_BUF.
pub(super) const PIPE_BUF: usize = 4096;

/// Where lines go. One call of `write` is one system call, and does not wait for room.
pub(super) trait Output: Send + 'static {
    /// Writes as much as there is room for.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` if there is no room.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Waits for so long until the destination takes bytes, and says whether it does.
    fn is_writable(&self, wait: Duration) -> bool;

    /// Can lines of several processes get into each other there? Not in a file: a write to its end
    /// is one step.
    fn is_stream(&self) -> bool;
}

pub(super) struct Destination {
    /// `None`: standard error itself.
    file: Option<File>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A file, or a device like `/dev/null`: there is always room, or an error.
    File,
    /// A pipe or a terminal, whose description is our own: it says when there is no room.
    OwnStream,
    /// A pipe or a terminal that others have opened: a write may wait.
    OthersStream,
    Socket,
}

impl Destination {
    /// Opens a file to append to, or a named pipe, a terminal or another device.
    ///
    /// # Errors
    /// What the system says; also of a named pipe that nobody reads.
    pub(super) fn open(path: &Path) -> io::Result<Destination> {
        let file = own_description(path, true).map_err(|error| {
            let is_fifo = std::fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo());
            match is_fifo && error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) {
                true => io::Error::new(error.kind(), "it is a named pipe that nobody reads yet"),
                false => error,
            }
        })?;
        let kind = match kind_of(file.as_fd()) {
            FileType::Fifo | FileType::CharacterDevice => Kind::OwnStream,
            _ => Kind::File,
        };
        Ok(Destination { file: Some(file), kind })
    }

    /// Standard error.
    pub(super) fn stderr() -> Destination {
        let stderr = rustix::stdio::stderr();
        let kind = match kind_of(stderr) {
            FileType::Fifo => Kind::OthersStream,
            FileType::CharacterDevice if rustix::termios::isatty(stderr) => Kind::OthersStream,
            FileType::Socket => Kind::Socket,
            _ => Kind::File,
        };
        let again = || own_description(Path::new("/proc/self/fd/2"), false).ok();
        match (kind == Kind::OthersStream).then(again).flatten() {
            Some(file) => Destination { file: Some(file), kind: Kind::OwnStream },
            None => Destination { file: None, kind },
        }
    }
}

/// Opens it so that no later write waits; nor does the opening.
fn own_description(path: &Path, create: bool) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = if create { flags | OFlags::CREATE } else { flags };
    trusted::open(path, flags, Mode::from_raw_mode(0o640))
}

fn kind_of(descriptor: BorrowedFd<'_>) -> FileType {
    rustix::fs::fstat(descriptor)
        .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
}

impl AsFd for Destination {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // Not through std's standard error: a job that hangs may hold its lock.
        self.file.as_ref().map_or(rustix::stdio::stderr(), File::as_fd)
    }
}

impl Output for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.kind {
            Kind::File | Kind::OwnStream => rustix::io::write(&self, bytes),
            Kind::OthersStream => rustix::io::write(&self, &bytes[..bytes.len().min(PIPE_BUF)]),
            Kind::Socket => {
                rustix::net::send(&self, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            }
        };
        Ok(written?)
    }

    fn is_writable(&self, wait: Duration) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::OUT)];
        // What can't be asked is tried: a write that fails says why.
        !matches!(rustix::event::poll(&mut fds, Some(&clock::timespec(wait))), Ok(0))
    }

    fn is_stream(&self) -> bool {
        self.kind != Kind::File
    }
}
