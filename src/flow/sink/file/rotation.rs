//! A file that is set aside, and a new one begun in its place. The steps and what a death between
//! any two of them leaves stand in [`crate::flow::queue::commit`].

use super::FileSink;
use super::compress::Compressor;
use super::names::{self, Names};
use crate::config::Rotation;
use crate::error::Error;
use crate::flow::sink::{Position, is_full};
use crate::sys::clock;
use rustix::fs::{AtFlags, CWD, Mode, RenameFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes of the longest name that Linux file systems take.
const NAME_MAX: usize = 255;
/// After which a file that can't be renamed is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Names that are tried, should the first be taken. More are no accident.
const NAMES_TRIED: u64 = 1000;

/// When a file is rotated, and what is known of it for that.
#[derive(Debug, Clone, Default)]
pub(super) struct Rotating {
    pub rotation: Rotation,
    /// The number of the period that its newest record is of; `None`: it has none.
    pub period: Option<u64>,
    /// It could not be renamed, and that is not tried again before this moment.
    not_before: Duration,
    /// Bytes at which the system has refused to write any more.
    limit: Option<u64>,
    /// It has just done so, at fewer than were known of.
    pub refused: bool,
    /// It was said that a file can't be removed.
    warned: bool,
    /// Of the buffer's process, if files are compressed.
    compressor: Option<Compressor>,
}

impl Rotating {
    /// The number of the period that this moment is in; 0 if there are no periods.
    fn number(&self, wall: Duration) -> u64 {
        let every = self.rotation.every.map_or(0, |every| every.as_nanos());
        wall.as_nanos().checked_div(every).map_or(0, |number| u64::try_from(number).unwrap_or(0))
    }

    /// Bytes that a file may have at the most.
    fn max(&self) -> Option<u64> {
        self.rotation.bytes.into_iter().chain(self.limit).min()
    }

    /// Is it time, for a file that is so long, before so many more bytes?
    fn is_due(&self, len: u64, more: usize, wall: Duration) -> bool {
        let full = self.max().is_some_and(|max| len.saturating_add(more as u64) > max);
        let over = self.period.is_some_and(|period| period < self.number(wall));
        len > 0 && (full || over)
    }

    /// When the period ends of which the file is.
    fn ends(&self) -> Option<Duration> {
        let every = self.rotation.every.filter(|every| !every.is_zero())?;
        let end = every.as_nanos() * (u128::from(self.period?) + 1);
        let seconds = u64::try_from(end / 1_000_000_000).ok()?;
        Some(Duration::new(seconds, (end % 1_000_000_000) as u32))
    }
}

impl FileSink {
    /// Rotates from now on.
    ///
    /// # Errors
    /// If this is no file that can be.
    pub(crate) fn rotating(mut self, rotation: Rotation) -> Result<FileSink, Error> {
        if !rotation.is_on() {
            return Ok(self);
        }
        let refused = |why: &str| {
            Err(Error::Config(format!(
                "{}: can't be rotated, {why}: name another output, or drop output.rotate_bytes \
                 and output.rotate_every",
                self.path.display()
            )))
        };
        if !self.regular {
            return refused("since it is no regular file");
        }
        if super::is_alias(&self.path) {
            return refused("since its name is not a file's own");
        }
        let name = self.place.file_name().map_or(0, std::ffi::OsStr::len);
        if name + super::names::ADDED_MAX > NAME_MAX {
            return refused("since its name is too long for a moment to be added");
        }
        self.rotating.rotation = rotation;
        self.note_age();
        Ok(self)
    }

    /// Takes the file's last change for the age of its newest record.
    pub(super) fn note_age(&mut self) {
        let changed = self.file.metadata().ok().filter(|it| it.len() > 0);
        let changed = changed.map(|it| {
            let nanos = u32::try_from(it.mtime_nsec()).unwrap_or(0);
            Duration::new(it.mtime().max(0).unsigned_abs(), nanos)
        });
        let number = changed.map(|changed| self.rotating.number(changed));
        self.rotating.period = number.filter(|_| self.rotating.rotation.every.is_some());
    }

    /// Notes that something was written now.
    pub(super) fn note_write(&mut self) {
        if self.rotating.rotation.every.is_some() {
            let number = self.rotating.number(clock::wall());
            // One that is still to come is of a clock that was wrong, and may be years away.
            let known = self.rotating.period.filter(|period| *period <= number);
            self.rotating.period = Some(known.unwrap_or(number));
        }
    }

    /// Notes up to where a file could be written, if it could not be written because of its length.
    pub(super) fn note_refusal(&mut self, error: &io::Error) {
        let rotating = &mut self.rotating;
        if error.kind() == io::ErrorKind::FileTooLarge && rotating.rotation.is_on() {
            let before = rotating.limit.replace(self.at.len);
            rotating.refused = before.is_none_or(|before| self.at.len < before);
        }
    }

    /// The error, with the limit that it is about if it is about one, and what to do.
    pub(super) fn of_length(&self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::FileTooLarge {
            return error;
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        let (limit, way_out) = match limit {
            Some(limit) => (
                format!("and files of this process may have {limit} at the most"),
                "Raise that limit (ulimit -f, LimitFSIZE=)",
            ),
            None => ("and its file system takes no longer one".into(), "Name another output"),
        };
        let or = match self.rotating.rotation.is_on() {
            true => "",
            false => ", or set output.rotate_bytes to less",
        };
        let message = format!(
            "can't write the output: {error}: it has {} bytes, {limit}; what is not written is kept in \
             the spool. {way_out}{or}, then start again",
            self.at.len
        );
        io::Error::other(Error::File { path: self.path.clone(), message })
    }

    pub(super) fn is_due(&self, more: usize) -> bool {
        clock::now() >= self.rotating.not_before
            && self.rotating.is_due(self.at.len, more, clock::wall())
    }

    pub(super) fn room_left(&self) -> Option<u64> {
        let max = self.rotating.max()?;
        let header = self.shape.header.len() as u64;
        // A full one is about to be empty.
        let used = if (1..max).contains(&self.at.len) { self.at.len } else { header };
        Some(max.saturating_sub(used))
    }

    pub(super) fn period_ends(&self) -> Option<Duration> {
        let end = self.rotating.ends().filter(|_| self.at.len > 0)?;
        let put_off = self.rotating.not_before.saturating_sub(clock::now());
        Some(end.saturating_sub(clock::wall()).max(put_off))
    }

    /// Now; or a little later than the newest that is there, should the clock have gone back.
    pub(super) fn moment(&self) -> u64 {
        let now = u64::try_from(clock::wall().as_micros()).unwrap_or(u64::MAX);
        // If they can't be read, the names that are taken are found one by one.
        let all = Names::of(&self.place).all().unwrap_or_default();
        // Behind the end of the calendar all names are the same.
        let later = all.last().map(|newest| newest.moment + 1).filter(|at| names::is_distinct(*at));
        later.map_or(now, |later| now.max(later))
    }

    /// Steps 3 and 4.
    pub(super) fn set_aside(&mut self, committed: Position, moment: u64) -> io::Result<()> {
        let names = Names::of(&self.place);
        let old = std::fs::symlink_metadata(&self.place).ok();
        let is_committed =
            |it: &std::fs::Metadata| (it.dev(), it.ino()) == (committed.device, committed.inode);
        if old.as_ref().is_some_and(is_committed) {
            match rename_to_free(&self.place, &names, moment) {
                Ok(aside) => {
                    log::info!("{}: rotated to {}", self.path.display(), aside.display());
                }
                Err(error) if is_full(&error) => return Err(error),
                // Nothing has happened yet, and a file that becomes too long is better than none.
                Err(error) => {
                    self.put_off(&error);
                    self.find_again().map_err(io::Error::other)?;
                    self.at.synced = committed.synced.min(self.at.len);
                    return Ok(());
                }
            }
        }
        self.begin_new(committed)?;
        File::open(names.directory())?.sync_all()?;
        // Main may have opened the new one, after everything had died.
        self.find_again().map_err(io::Error::other)?;
        self.at.synced = self.at.len;
        Ok(())
    }

    fn put_off(&mut self, error: &io::Error) {
        log::error!(
            "{}: can't be rotated: {error}; going on in it, and trying again in {RETRY:?}. A file that \
             is mounted by itself can't be renamed: mount its directory; and that has to be writable",
            self.path.display()
        );
        self.rotating.not_before = clock::now().saturating_add(RETRY);
    }

    /// Creates the file that comes next, with owner and mode of the one before, if it isn't there.
    fn begin_new(&self, committed: Position) -> io::Result<()> {
        // Main opens, and so creates, the output before it knows of a rotation that was begun.
        let before = (!self.is_at(&committed)).then(|| self.find_moved(committed)).flatten();
        let model = before.as_ref().map_or(&self.file, |(_, file)| file).metadata()?;
        // None is known if the one before is gone, and this process has had none open.
        let mode = if model.is_file() { model.mode() & 0o7777 } else { 0o644 };
        let mut options = OpenOptions::new();
        // Whatever somebody may have put there meanwhile is not waited for, nor followed.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        options.append(true).create(true).mode(mode & 0o777).custom_flags(flags);
        let new = options.open(&self.place)?;
        let metadata = new.metadata()?;
        // What somebody has put there meanwhile is not ours to change.
        let ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.nlink() == 1;
        if metadata.len() > 0 || !metadata.is_file() || !ours {
            return Ok(());
        }
        if (metadata.uid(), metadata.gid()) != (model.uid(), model.gid()) {
            // Only root can give a file away; whoever can't, owns the new one.
            let _given = std::os::unix::fs::fchown(&new, Some(model.uid()), Some(model.gid()));
        }
        // What the mask has taken away. One that can't be given is as good as that.
        let _changed = rustix::fs::fchmod(&new, Mode::from_raw_mode(mode));
        Ok(())
    }

    /// After a power loss: is the committed file the one that was set aside last? Then the commit of
    /// that rotation is lost, torn by one behind it, and all of the present file was written since.
    pub(super) fn is_rotated(&self, committed: Position) -> bool {
        let all = Names::of(&self.place).all().unwrap_or_default();
        let Some(newest) = all.last() else { return false };
        let is_committed = |path: &Path| {
            let metadata = std::fs::symlink_metadata(path);
            metadata.is_ok_and(|it| (it.dev(), it.ino()) == (committed.device, committed.inode))
        };
        let mut last = all.iter().filter(|it| it.moment == newest.moment);
        // Once it is compressed, nothing of it is left but the name.
        last.any(|it| is_committed(&it.path))
            || (newest.is_packed() && self.find_moved(committed).is_none())
    }

    /// Removes what is not to be kept, and has the rest compressed.
    pub(super) fn see_to_old(&mut self) {
        if !self.rotating.rotation.is_on() {
            return;
        }
        let kept = Names::of(&self.place).keep(self.rotating.rotation.keep);
        let warned = kept.is_err() && std::mem::replace(&mut self.rotating.warned, true);
        if let Err(error) = kept
            && !warned
        {
            log::warn!(
                "{}: can't remove rotated files that are not to be kept: {error}",
                self.path.display()
            );
        }
        if let Some(compressor) = &self.rotating.compressor {
            compressor.tell();
        }
    }

    /// Compresses from now on, in a thread of this process.
    pub(super) fn compress(&mut self) {
        let rotation = self.rotating.rotation;
        let Some(how) = rotation.compress.filter(|_| rotation.is_on()) else { return };
        match Compressor::start(Names::of(&self.place), how, rotation) {
            Ok(compressor) => self.rotating.compressor = Some(compressor),
            Err(error) => log::warn!(
                "{}: rotated files are not compressed, since no thread can be started: {error}",
                self.path.display()
            ),
        }
    }

    pub(super) fn finish_compressing(&self, patience: Duration) {
        if let Some(compressor) = &self.rotating.compressor {
            compressor.finish(patience, &Names::of(&self.place));
        }
    }
}

/// Gives the file a name that nobody has: that of the moment, or of the next that is free.
fn rename_to_free(from: &Path, names: &Names, moment: u64) -> io::Result<PathBuf> {
    for moment in moment..moment.saturating_add(NAMES_TRIED) {
        let to = names.at(moment);
        let renamed = match rustix::fs::renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => rename_by_link(from, &to),
            other => other,
        };
        match renamed {
            Ok(()) => return Ok(to),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// On a file system without a rename that refuses a name that is taken: a hard link refuses it, too.
pub(crate) fn rename_by_link(from: &Path, to: &Path) -> rustix::io::Result<()> {
    match rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty()) {
        // Who has linked it has died before the next step: a second name would be all of it twice.
        Err(rustix::io::Errno::EXIST) if is_same_file(from, to) => {}
        linked => linked?,
    }
    rustix::fs::unlink(from)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| std::fs::symlink_metadata(path).map(|it| (it.dev(), it.ino())).ok();
    identity(one).is_some_and(|one| identity(other) == Some(one))
}
