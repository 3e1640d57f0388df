//! The lock of an output that is given a new file while its pipeline runs.
//!
//! A lock belongs to a file that was opened. Only the buffer opens the one that comes next; were it
//! the only one to have it open, its death would let others take the output before the next buffer
//! is there. So the opened file is also left in a socket that all processes of the buffer's line
//! have, main first: what is under way in a socket is open. The next buffer takes it from there,
//! with its lock, and main needs no file of its own, whose space would come back only at its end.

use super::{CANT_OPEN, FileSink, place_of};
use crate::error::Error;
use crate::sys::lock;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// How often a lock is asked for that somebody has, and the pause in between. The last process of a run
/// that was killed lets go of its spool first, and of what it left in a socket a moment later.
const LOCK_LOOKS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Files that are kept open, and so locked, until the last process ends that has this.
#[derive(Debug)]
pub(super) struct Held {
    put: OwnedFd,
    take: OwnedFd,
}

impl Held {
    /// Without it, should the system have none, everything works, but the lock ends with the buffer.
    pub(super) fn new() -> Option<Held> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok();
        pair.map(|(put, take)| Held { put, take })
    }

    pub(super) fn descriptors(&self) -> [RawFd; 2] {
        [self.put.as_raw_fd(), self.take.as_raw_fd()]
    }

    /// Keeps this one, and lets go of all before it. Says whether it is kept.
    pub(super) fn keep(&self, file: &File) -> bool {
        let is_it = |other: &File| identity(other).is_some_and(|it| identity(file) == Some(it));
        // The new one first: there is no moment without a lock.
        let kept = self.first().as_ref().is_some_and(is_it) || self.add(file);
        while kept && self.first().as_ref().is_some_and(|first| !is_it(first)) {
            self.drop_first();
        }
        kept
    }

    /// The oldest that is kept; it stays.
    pub(super) fn first(&self) -> Option<File> {
        self.receive(RecvFlags::PEEK)
    }

    /// To be asked for the next.
    pub(super) fn drop_first(&self) {
        let _dropped = self.receive(RecvFlags::empty());
    }

    fn add(&self, file: &File) -> bool {
        let files = [file.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let flags = SendFlags::NOSIGNAL;
        control.push(SendAncillaryMessage::ScmRights(&files))
            && rustix::net::sendmsg(&self.put, &[IoSlice::new(&[0])], &mut control, flags).is_ok()
    }

    fn receive(&self, flags: RecvFlags) -> Option<File> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        loop {
            let mut parts = [IoSliceMut::new(&mut byte)];
            match rustix::net::recvmsg(&self.take, &mut parts, &mut control, flags) {
                Err(Errno::INTR) => {}
                Err(_) => return None,
                Ok(_) => break,
            }
        }
        control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next().map(File::from),
            _ => None,
        })
    }
}

/// Locks a file for this pipeline, or says `false` when another one keeps it.
///
/// # Errors
/// What the system says.
pub(super) fn lock(file: &File) -> io::Result<bool> {
    let mut looks = 0;
    lock::exclusive_soon(file, || {
        std::thread::sleep(LOCK_PAUSE);
        looks += 1;
        looks < LOCK_LOOKS
    })
}

impl FileSink {
    /// Leaves the file to processes that are started from now on.
    pub(super) fn let_go(&mut self) -> io::Result<()> {
        if self.held.as_ref().is_some_and(|held| held.keep(&self.file)) {
            self.file = File::open("/dev/null")?;
        }
        Ok(())
    }

    /// Takes the file that was left, or one that an earlier buffer has left instead of it.
    pub(super) fn take_up(&mut self) {
        let Some(file) = self.held.as_ref().and_then(Held::first) else { return };
        if let Ok(at) = place_of(&file) {
            (self.file, self.at) = (file, at);
        }
    }

    /// Opens the file again that has the output's name.
    pub(super) fn open_again(&mut self) -> Result<(), Error> {
        if let Some(file) = self.held_by_name() {
            self.at = place_of(&file).map_err(|error| self.fail(CANT_OPEN, error))?;
            self.file = file;
        } else {
            let opened = FileSink::open(&self.path, self.shape.clone());
            let FileSink { file, at, place, regular, .. } = opened.inspect_err(|_| {
                // Still the one to be locked.
                self.keep_locked();
            })?;
            (self.file, self.at, self.place, self.regular) = (file, at, place, regular);
        }
        self.keep_locked();
        self.note_age();
        Ok(())
    }

    fn keep_locked(&self) {
        if let Some(held) = &self.held
            && self.regular
            && !held.keep(&self.file)
        {
            log::debug!("{}: locked by this process alone", self.path.display());
        }
    }

    /// The kept file, if it is the one that has the output's name. What was kept before it is let go
    /// of: a buffer has died that was about to.
    fn held_by_name(&self) -> Option<File> {
        let held = self.held.as_ref()?;
        let named = std::fs::metadata(&self.path).ok()?;
        loop {
            let file = held.first()?;
            if identity(&file) == Some((named.dev(), named.ino())) {
                return Some(file);
            }
            held.drop_first();
        }
    }
}

fn identity(file: &File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|it| (it.dev(), it.ino()))
}
