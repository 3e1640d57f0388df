//! The files of a directory, as jobs: each is handed out as its path, and moved into `done/` or
//! `failed/` when the results of its job are committed.
//!
//! # Which files
//! Regular ones whose names don't begin with a dot and don't end as names of files that are still
//! being written do. What is there at the start is taken by name; what comes later, when it is
//! renamed into the directory, or closed by its writer, in that order. Nothing is polled: the kernel
//! tells (inotify).
//!
//! # One file, one job
//! A file is known by its name and by what stays the same while it exists: its inode and the time of
//! its creation ([`identity`]), which is the position of its job. So a file that is dropped under the
//! name of one that is not done yet is a job of its own; and one that takes the name of a done one
//! before that is moved is not moved in its place.
//!
//! A directory is synced after files were moved, before their jobs are forgotten: no moved file comes
//! back by a loss of power.

use super::api::{Done, Next, Resume, Source, SourceError, Wait};
use crate::config;
use crate::error::Error;
use crate::flow::queue::spool::directory_of;
use crate::sys::trusted;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, RenameFlags, StatxFlags, renameat_with, statx};
use rustix::io::Errno;
use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DONE: &str = "done";
const FAILED: &str = "failed";

/// Ends of the names that programs give to files which are not whole yet.
const TEMPORARY: [&str; 4] = ["~", ".tmp", ".part", ".partial"];

/// Files of one name in `done/` at the most.
const SAME_NAME_MAX: u32 = 1_000_000;

/// Bytes of the longest name that file systems know.
const NAME_BYTES_MAX: usize = 255;

/// A file, as it is told from others: its name, and its [`identity`].
type Known = (OsString, u64);

pub(crate) struct DirectorySource {
    path: PathBuf,
    once: bool,
    job_bytes_max: usize,
    watch: Option<OwnedFd>,
    /// Found, and not handed out.
    queue: VecDeque<Known>,
    /// In the queue, handed out and not moved yet, or to be left alone.
    known: HashSet<Known>,
}

/// Finds out, before anything is started, whether files can be taken from there.
///
/// # Errors
/// If it is no directory.
pub(crate) fn check(directory: &config::Directory) -> Result<(), Error> {
    let name = directory.path.display();
    match std::fs::metadata(&directory.path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::Config(format!("{name}: no directory, so no files come from there"))),
        Err(error) => Err(Error::Config(format!("{name}: can't read the directory: {error}"))),
    }
}

impl DirectorySource {
    pub(crate) fn new(directory: &config::Directory) -> DirectorySource {
        DirectorySource {
            path: directory.path.clone(),
            once: directory.once,
            job_bytes_max: 0,
            watch: None,
            queue: VecDeque::new(),
            known: HashSet::new(),
        }
    }

    /// Looks for files that are not known yet.
    fn scan(&mut self) -> Result<(), SourceError> {
        let entries = std::fs::read_dir(&self.path).map_err(|error| unusable(&error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            // Saves a look at what is none; where the type is not known it is looked up.
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                names.push(entry.file_name());
            }
        }
        // By name, so that it is the same order each time.
        names.sort_unstable();
        for name in names {
            self.find(name)?;
        }
        Ok(())
    }

    /// There may be a file of this name.
    fn find(&mut self, name: OsString) -> Result<(), SourceError> {
        if name.as_bytes().starts_with(b".")
            || TEMPORARY.iter().any(|end| name.as_bytes().ends_with(end.as_bytes()))
        {
            return Ok(());
        }
        let path = self.path.join(&name);
        // Gone already, or no regular file.
        let Some(identity) = identity(&path)? else { return Ok(()) };
        let known = (name, identity);
        if self.known.contains(&known) {
            return Ok(());
        }
        if path.as_os_str().len() > self.job_bytes_max {
            log::warn!(
                "{}: left alone: as a job it is longer than {} bytes; raise [spool] job_bytes",
                path.display(),
                self.job_bytes_max
            );
        } else {
            self.queue.push_back(known.clone());
        }
        self.known.insert(known);
        Ok(())
    }

    /// Begins to listen. What happens from now on is told.
    fn watch(&mut self) -> Result<(), SourceError> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| SourceError::retry(format!("can't watch the directory: {error}")))?;
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&watch, &self.path, events) {
            Ok(_) => self.watch = Some(watch),
            Err(Errno::NOSPC) => {
                return Err(SourceError::retry(
                    "can't watch the directory: the user has used up \
                     /proc/sys/fs/inotify/max_user_watches",
                ));
            }
            Err(error) => return Err(unusable(&error.into())),
        }
        Ok(())
    }

    /// Takes in what has been told, without waiting.
    fn listen(&mut self) -> Result<(), SourceError> {
        let Some(watch) = self.watch.take() else { return Ok(()) };
        let mut buffer = [MaybeUninit::<u8>::uninit(); 8192];
        let (mut names, mut overflow, mut gone) = (Vec::new(), false, false);
        let mut reader = inotify::Reader::new(watch.as_fd(), &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    overflow |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
                    let ends = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
                    gone |= event.events().intersects(ends);
                    names.extend(
                        event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec())),
                    );
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        self.watch = Some(watch);
        if gone {
            return Err(unusable(&io::Error::other("it was moved away or removed")));
        }
        for name in names {
            self.find(name)?;
        }
        if overflow { self.scan() } else { Ok(()) }
    }

    /// Moves a file whose job has ended, if it is still the one that was handed out.
    fn put_away(&mut self, job: &Done) -> Result<(), SourceError> {
        let name = name_of(&job.job);
        self.known.remove(&(name.to_owned(), job.position));
        let path = self.path.join(name);
        let Some(found) = identity(&path)? else {
            log::debug!("{}: gone before it could be moved away", path.display());
            return Ok(());
        };
        if found != job.position {
            // Somebody has dropped another one under its name, which is a job of its own.
            return self.find(name.to_owned());
        }
        let folder = self.path.join(if job.failed { FAILED } else { DONE });
        match self.move_done(name, &folder, job.position) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&folder)?;
                self.move_done(name, &folder, job.position)
            }
            moved => moved,
        }
        .or_else(|error| {
            let what = format!("can't move {} into {}", path.display(), folder.display());
            match error.kind() {
                // Somebody else was faster.
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(trouble(&what, &error)),
            }
        })
    }

    /// Moves the file of this name away. If another one has taken its name just before, that is moved
    /// back, and is found as what it is: a job of its own.
    fn move_done(&self, name: &OsStr, folder: &Path, wanted: u64) -> io::Result<()> {
        let target = move_into(&self.path.join(name), folder, name)?;
        match identity(&target)? {
            Some(moved) if moved != wanted => move_into(&target, &self.path, name).map(drop),
            _ => Ok(()),
        }
    }

    fn sync(&self, failed: bool) -> io::Result<()> {
        let folder = self.path.join(if failed { FAILED } else { DONE });
        match File::open(folder) {
            Ok(folder) => folder.sync_all()?,
            // Nothing was moved: all were gone already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        File::open(&self.path)?.sync_all()
    }
}

impl Source for DirectorySource {
    fn open(&mut self, resume: &Resume<'_>) -> Result<(), SourceError> {
        self.job_bytes_max = resume.job_bytes_max();
        self.queue.clear();
        let in_hand = resume.in_hand().iter();
        self.known = in_hand.map(|job| (name_of(&job.job).to_owned(), job.position)).collect();
        for folder in [DONE, FAILED] {
            let folder = self.path.join(folder);
            let what = format!("can't use the folder {}", folder.display());
            make_folder(&folder).map_err(|error| trouble(&what, &error))?;
        }
        if resume.only_to_acknowledge() {
            return Ok(());
        }
        if !self.once {
            self.watch()?;
        }
        self.scan()
    }

    fn next(&mut self, wait: &Wait<'_>, job: &mut Vec<u8>) -> Result<Next, SourceError> {
        self.listen()?;
        if self.queue.is_empty() && self.once {
            self.scan()?;
        }
        let Some((name, identity)) = self.queue.pop_front() else {
            let Some(watch) = self.watch.as_ref().filter(|_| !self.once) else {
                return Ok(Next::End);
            };
            wait.readable(watch.as_fd(), Duration::MAX)?;
            return Ok(Next::After(Duration::ZERO));
        };
        job.extend_from_slice(self.path.join(name).as_os_str().as_bytes());
        Ok(Next::Job(identity))
    }

    fn acknowledge(&mut self, done: &[Done]) -> Result<(), SourceError> {
        for job in done {
            self.put_away(job)?;
        }
        for failed in [false, true] {
            if done.iter().any(|job| job.failed == failed) {
                self.sync(failed)?;
            }
        }
        Ok(())
    }

    fn is_finite(&self) -> bool {
        self.once
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

fn unusable(error: &io::Error) -> SourceError {
    trouble("can't take files from this directory", error)
}

/// What may pass by itself is tried again; for anything else somebody has to come.
fn trouble(what: &str, error: &io::Error) -> SourceError {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, ResourceBusy, StorageFull};
    let passes = [OutOfMemory, QuotaExceeded, ResourceBusy, StorageFull].contains(&error.kind())
        || [Errno::MFILE, Errno::NFILE]
            .map(|it| Some(it.raw_os_error()))
            .contains(&error.raw_os_error());
    if passes {
        return SourceError::retry(format!("{what}: {error}"));
    }
    SourceError::fatal(format!(
        "{what}: {error}. Files that were handed out are done or kept; start it again when that is \
         in order"
    ))
}

/// The name of the file that a job means: what stands behind the last `/`, which no name has.
fn name_of(job: &[u8]) -> &OsStr {
    let start = job.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    OsStr::from_bytes(&job[start..])
}

/// What a regular file keeps for as long as it exists, under whatever name, and hardly shares with
/// any that comes after it. `None`: there is no such file.
fn identity(path: &Path) -> io::Result<Option<u64>> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::BTIME;
    let stat = match statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let kind = rustix::fs::FileType::from_raw_mode(u32::from(stat.stx_mode));
    // An inode can be given to the next file as soon as this one is gone. Where the file system
    // knows no time of creation, it is all there is.
    let born = stat.stx_btime;
    let words = [stat.stx_ino, born.tv_sec.cast_unsigned(), born.tv_nsec.into()];
    let mixed = words.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, word| {
        let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ hash >> 32
    });
    Ok(kind.is_file().then_some(mixed))
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        // Whoever may drop files may have put a link there, to have them moved elsewhere.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            trusted::check_directory(folder, std::fs::metadata(directory_of(folder))?.uid())
        }
        made => made,
    }
}

/// Moves a file into a folder of the same file system, under a name of its own there, and says where it
/// is then.
fn move_into(path: &Path, folder: &Path, name: &OsStr) -> io::Result<PathBuf> {
    let mut target = folder.join(name);
    for number in 1..SAME_NAME_MAX {
        match renameat_with(CWD, path, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(target),
            Err(Errno::EXIST) => {}
            // A file system that can't do both at once. Nobody else moves files into there.
            Err(Errno::INVAL) if target.symlink_metadata().is_err() => {
                return std::fs::rename(path, &target).map(|()| target);
            }
            Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        let end = format!(".{number}");
        let room = NAME_BYTES_MAX - end.len();
        let mut other = name.as_bytes()[..name.len().min(room)].to_vec();
        other.extend_from_slice(end.as_bytes());
        target = folder.join(OsStr::from_bytes(&other));
    }
    Err(io::Error::other(format!("there are {SAME_NAME_MAX} files of this name already")))
}

#[cfg(test)]
mod tests {
    use super::super::api::{ErrorKind, InHand};
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Place {
            let place = Place(tempfile::tempdir().expect("temp dir"));
            std::fs::create_dir(place.path("in")).expect("a directory");
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Renamed into the directory.
        fn drop_file(&self, name: &str) -> u64 {
            std::fs::write(self.path("elsewhere"), "").expect("written");
            let path = self.path("in").join(name);
            std::fs::rename(self.path("elsewhere"), &path).expect("renamed");
            identity(&path).expect("a look").expect("a file")
        }

        fn source(&self, in_hand: &[InHand]) -> DirectorySource {
            let directory = config::Directory { path: self.path("in"), once: false };
            let mut source = DirectorySource::new(&directory);
            let resume = Resume {
                last: None,
                handed_out: 0,
                checksum: 0,
                in_hand,
                job_bytes_max: 4096,
                only_to_acknowledge: false,
            };
            source.open(&resume).expect("opened");
            source
        }

        fn job(&self, name: &str) -> Vec<u8> {
            self.path("in").join(name).into_os_string().into_vec()
        }

        fn done(&self, name: &str, position: u64) -> Done {
            Done { job: self.job(name), seq: 1, position, failed: false }
        }
    }

    fn queued(source: &DirectorySource) -> Vec<String> {
        source.queue.iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn what_is_in_hand_is_not_found_again_and_what_comes_later_is() {
        let place = Place::new();
        let (a, _b) = (place.drop_file("a"), place.drop_file("b"));
        let in_hand = [InHand { job: place.job("a"), seq: 1, position: a }];
        let mut source = place.source(&in_hand);
        assert_eq!(queued(&source), ["b"]);
        place.drop_file("c");
        std::fs::write(place.path("in/d"), "written in there").expect("written");
        source.listen().expect("heard");
        assert_eq!(queued(&source), ["b", "c", "d"]);
        // Another one under the name of what is in hand.
        place.drop_file("a");
        source.listen().expect("heard");
        assert_eq!(queued(&source), ["b", "c", "d", "a"]);
    }

    #[test]
    fn acknowledging_twice_moves_nothing_that_was_dropped_in_between() {
        let place = Place::new();
        let first = place.drop_file("a");
        let mut source = place.source(&[]);
        source.acknowledge(&[place.done("a", first)]).expect("moved");
        assert!(place.path("in/done/a").exists() && !place.path("in/a").exists());
        let second = place.drop_file("a");
        assert_ne!(first, second);
        // As after a crash: the slot was not freed.
        source.acknowledge(&[place.done("a", first)]).expect("nothing to be moved");
        assert!(place.path("in/a").exists() && !place.path("in/done/a.1").exists());
        source.acknowledge(&[place.done("a", second)]).expect("moved");
        assert!(place.path("in/done/a.1").exists() && !place.path("in/a").exists());
    }

    /// Between the look at it and the move.
    #[test]
    fn a_file_that_takes_the_name_of_a_done_one_at_the_last_moment_is_a_job_of_its_own() {
        let place = Place::new();
        let first = place.drop_file("a");
        let mut source = place.source(&[InHand { job: place.job("a"), seq: 1, position: first }]);
        assert_ne!(place.drop_file("a"), first);
        source.move_done(OsStr::new("a"), &place.path("in/done"), first).expect("moved and back");
        assert!(place.path("in/a").exists() && !place.path("in/done/a").exists());
        source.listen().expect("heard");
        assert_eq!(queued(&source), ["a"]);
    }

    #[test]
    fn a_long_name_that_is_taken_is_shortened() {
        let place = Place::new();
        let name = "n".repeat(NAME_BYTES_MAX);
        let mut source = place.source(&[]);
        for _ in 0..2 {
            let position = place.drop_file(&name);
            source.acknowledge(&[place.done(&name, position)]).expect("moved");
        }
        assert!(place.path("in/done").join(&name).exists());
        assert!(place.path("in/done").join(format!("{}.1", &name[2..])).exists());
    }

    #[test]
    fn a_directory_that_goes_away_is_an_error_for_good() {
        let place = Place::new();
        let mut source = place.source(&[]);
        std::fs::rename(place.path("in"), place.path("away")).expect("renamed");
        assert_eq!(source.listen().expect_err("gone").kind, ErrorKind::Fatal);
    }

    #[test]
    fn a_folder_that_was_removed_is_made_again() {
        let place = Place::new();
        let position = place.drop_file("a");
        let mut source = place.source(&[]);
        std::fs::remove_dir(place.path("in/done")).expect("removed");
        source.acknowledge(&[place.done("a", position)]).expect("moved");
        assert!(place.path("in/done/a").exists());
    }
}
