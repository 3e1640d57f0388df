//! The spool: the one file in which everything lives that must survive a process.
//!
//! It is created whole under another name and then renamed, and locked by a descriptor that all
//! our processes share and no command inherits: as long as one of them lives, it is held.

use super::commit::Commit;
use super::layout::{
    AboutHead, Bells, Consumer, Geometry, Header, HistoryEntry, HistoryHead, LaneBell, Layout,
    MAGIC, PAGE, Process, Producer, Run, VERSION,
};
use super::{orphans, processes};
use crate::error::Error;
use crate::sys::atomic::{AtomicU32, Ordering};
use crate::sys::mmap::Mapping;
use crate::sys::{lock, signal};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A mapped and locked spool.
pub(crate) struct Spool {
    pub(crate) mapping: Mapping,
    pub(crate) layout: Layout,
    file: File,
    pub(crate) path: PathBuf,
    /// Its run has ended with nothing left in it, and given the room back: only what `status`
    /// reads is there.
    closed: bool,
    /// In place of mapping the file's rings: in [`Spool::in_memory`], or [kept](Spool::keep_rings).
    #[cfg(any(test, fuzzing))]
    rings: Vec<Mapping>,
}

/// Which of our processes asks for its view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Source,
    /// The one with this lane.
    Worker(u16),
    Buffer,
}

/// How often orphans are waited for, each time until their deadline.
const WAITS_MAX: u32 = 3;
/// How often, and with what pause, a holder that the process table does not name is looked for.
const UNNAMED_LOOKS: u32 = 200;
const UNNAMED_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

mod build;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod look;
mod lost;

pub(crate) use look::Extent;
pub(crate) use lost::Whereabouts;

impl Spool {
    /// Creates a spool at `path`, with what `fill` puts into it before anybody can see it. An
    /// existing one is replaced only if the caller holds it, which it shows by passing it.
    ///
    /// # Errors
    /// [`Error::Held`] if another daemon was faster; [`Error::File`] if there is no room, no
    /// permission, or the file system is none that a spool can live on.
    pub(crate) fn create(
        path: &Path,
        geometry: Geometry,
        fingerprint: u64,
        replaces: Option<&Spool>,
        fill: impl FnOnce(&Spool),
    ) -> Result<Spool, Error> {
        let layout = Layout::of(geometry);
        let temporary = sibling(path, &format!(".new-{}", std::process::id()));
        build::remove_unfinished(path);
        // What goes on numbering its batches stays the same spool for who tells them by that.
        let identity = match replaces {
            Some(old) if Commit::last_number(old, fingerprint) > 0 => old.identity(),
            _ => random(),
        };
        let built =
            build::build(&temporary, layout, (fingerprint, identity), fill).and_then(|spool| {
                build::publish(&temporary, path, replaces.is_some())?;
                Ok(spool)
            });
        let mut spool = built.inspect_err(|_| {
            // Half of a spool is of no use to anyone; if it can't be removed either, the next
            // start will try.
            let _removed = std::fs::remove_file(&temporary);
        })?;
        spool.path = path.to_path_buf();
        Ok(spool)
    }

    /// Opens and locks the spool at `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Held`] if another daemon holds it; [`Error::File`] if it is none of ours. Orphans of
    /// a main that was killed are waited for, until their deadline.
    pub(crate) fn open(path: &Path) -> Result<Option<Spool>, Error> {
        let fail = |what: &str, error: io::Error| Error::to_remedy(path, what, &error);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut waits = 0;
        loop {
            let file = match rustix::fs::open(path, flags, Mode::empty()) {
                Ok(descriptor) => File::from(descriptor),
                Err(rustix::io::Errno::NOENT) => return Ok(None),
                Err(rustix::io::Errno::LOOP) => {
                    return Err(Error::file(path, "can't open the spool", "it is a symbolic link"));
                }
                Err(error) => return Err(fail("can't open the spool", error.into())),
            };
            let metadata = file.metadata().map_err(|error| fail("can't open the spool", error))?;
            if !metadata.is_file() {
                return Err(Error::file(path, "this is no spool", "not a regular file"));
            }
            if metadata.uid() != rustix::process::geteuid().as_raw() {
                return Err(Error::file(
                    path,
                    "the spool is not trusted",
                    format!("it belongs to user {}, and we run as another", metadata.uid()),
                ));
            }
            if !lock::try_exclusive(&file).map_err(|error| fail("can't lock the spool", error))? {
                waits += 1;
                if waits > WAITS_MAX {
                    let message = "processes that can't be ended hold this spool; name another \
                                   with --spool";
                    return Err(Error::Held(format!("{}: {message}", path.display())));
                }
                await_orphans(file, path, metadata.len())?;
                continue;
            }
            // Was it replaced between opening and locking? Then the lock is on a file that
            // nobody will look at again.
            let still = std::fs::symlink_metadata(path);
            if still.is_ok_and(|now| (now.dev(), now.ino()) == (metadata.dev(), metadata.ino())) {
                // It may be good as it is, so that none will be created.
                build::remove_unfinished(path);
                return Spool::of_file(file, path, metadata.len()).map(Some);
            }
        }
    }

    /// A spool in private memory, for tests under Miri. Of its file there is only the handle.
    #[cfg(test)]
    pub(crate) fn in_memory(geometry: Geometry) -> Spool {
        let layout = Layout::of(geometry);
        let ring = |_| Mapping::private_ring(geometry.lane_bytes as usize);
        Spool {
            mapping: Mapping::private(layout.rings),
            layout,
            file: File::open("/dev/null").expect("a file"),
            path: PathBuf::new(),
            closed: false,
            rings: (0..geometry.lanes).map(ring).collect(),
        }
    }

    fn of_file(file: File, path: &Path, len: u64) -> Result<Spool, Error> {
        let refuse = |why: String| Error::File { path: path.to_path_buf(), message: why };
        let page = Mapping::of_file(&file, PAGE)
            .map_err(|error| Error::file(path, "can't be read", error));
        let page = if len < PAGE as u64 { None } else { Some(page?) };
        let (layout, closed) = layout_of(page.as_ref(), len).map_err(refuse)?;
        drop(page);
        let mapped = if closed { layout.slots } else { layout.total };
        let mapping = Mapping::of_file(&file, mapped)
            .map_err(|error| Error::file(path, "can't map the spool", error))?;
        Ok(Spool {
            mapping,
            layout,
            file,
            path: path.to_path_buf(),
            closed,
            #[cfg(any(test, fuzzing))]
            rings: Vec::new(),
        })
    }

    /// Has a stop begun?
    pub(crate) fn is_stopping(&self) -> bool {
        self.run().stopping.load(Ordering::Acquire) != 0
    }

    /// Has its last run ended with nothing left in it?
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Was it built for this pipeline?
    pub(crate) fn has_fingerprint(&self, fingerprint: u64) -> bool {
        self.header().fingerprint.load(Ordering::Relaxed) == fingerprint
    }

    /// Notes how the run has ended. If nothing is left in it, the room is given back; nothing may
    /// touch the rest after that.
    pub(crate) fn end(&self, code: u8, empty: bool) {
        self.run().ended.store(1 + u64::from(code), Ordering::Release);
        if empty {
            // If that fails it is only larger than it needs to be.
            let _shrunk = self.file.set_len(self.layout.slots as u64);
        }
    }

    /// From now on this process can write only what its role writes.
    ///
    /// A worker lets go of what nobody but the buffer and the other workers needs of their lanes. For
    /// each page that is written back, the kernel goes through everybody who has it mapped: with a
    /// thousand workers who all had the pages of each other, a sync took a second of a processor.
    /// The producers' pages stay: whether a job of a slot is done is seen by its lane's tail.
    pub(crate) fn restrict(&self, role: Role) -> io::Result<()> {
        let layout = &self.layout;
        let (position, processes) = (layout.position[0], layout.processes);
        let (commit, slots) = (layout.commit[0], layout.slots);
        let (producers, consumers) = (layout.producers, layout.consumers);
        let (rings, total) = (layout.rings, layout.total);
        let read_only = |ranges: &[std::ops::Range<usize>]| {
            ranges.iter().try_for_each(|range| self.mapping.make_read_only(range.clone()))
        };
        match role {
            Role::Source => read_only(&[0..position, commit..slots, producers..total]),
            Role::Worker(lane) => {
                let consumer = consumers + usize::from(lane) * PAGE;
                self.mapping.let_go(consumers..consumer)?;
                // The own ring is mapped apart.
                self.mapping.let_go(consumer + PAGE..total)?;
                let consumer = consumer..consumer + PAGE;
                read_only(&[0..processes, commit..slots, layout.payloads..producers, consumer])
            }
            Role::Buffer => read_only(&[0..processes, slots..consumers, rings..total]),
        }
    }

    /// Maps a lane's ring, twice in a row.
    pub(crate) fn map_ring(&self, lane: usize, writable: bool) -> io::Result<Mapping> {
        #[cfg(any(test, fuzzing))]
        if let Some(ring) = self.rings.get(lane) {
            return Ok(ring.again());
        }
        let (offset, len) = (self.layout.ring(lane), self.layout.geometry.lane_bytes as usize);
        Mapping::ring(&self.file, offset as u64, len, writable)
    }

    /// Maps the rings once and for all: for who opens the same lanes by the million.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn keep_rings(&mut self) -> io::Result<()> {
        let rings = (0..self.lanes()).map(|lane| self.map_ring(lane, true).map(Mapping::kept));
        self.rings = rings.collect::<io::Result<_>>()?;
        Ok(())
    }

    /// Forces everything to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Tells it from any other spool.
    pub(crate) fn identity(&self) -> u64 {
        self.header().identity.load(Ordering::Relaxed)
    }

    pub(crate) fn header(&self) -> &Header {
        self.mapping.at(0)
    }

    pub(crate) fn run(&self) -> &Run {
        self.mapping.at(self.layout.run)
    }

    pub(crate) fn about_head(&self) -> &AboutHead {
        self.mapping.at(self.layout.about)
    }

    /// Where the text of what is known about the run stands.
    pub(crate) fn about_text(&self) -> usize {
        self.layout.about + size_of::<AboutHead>()
    }

    pub(crate) fn history_head(&self) -> &HistoryHead {
        self.mapping.at(self.layout.history)
    }

    /// An entry of the history: first come those of before the stop, then those of the stop.
    pub(crate) fn history_entry(&self, index: usize) -> &HistoryEntry {
        let entries = self.layout.history_before + self.layout.history_stop;
        assert!(index < entries, "entry {index} of {entries}");
        let first = self.layout.history + size_of::<HistoryHead>();
        self.mapping.at(first + index * size_of::<HistoryEntry>())
    }

    pub(crate) fn bells(&self) -> &Bells {
        self.mapping.at(self.layout.bells)
    }

    pub(crate) fn lane_bell(&self, lane: usize) -> &AtomicU32 {
        self.check_lane(lane);
        let lanes = self.layout.bells + size_of::<Bells>();
        &self.mapping.at::<LaneBell>(lanes + lane * size_of::<LaneBell>()).space
    }

    pub(crate) fn process(&self, index: usize) -> &Process {
        assert!(index < self.processes(), "process {index}");
        self.mapping.at(self.layout.processes + index * size_of::<Process>())
    }

    /// How many slots the process table has.
    pub(crate) fn processes(&self) -> usize {
        2 + self.lanes()
    }

    pub(crate) fn lanes(&self) -> usize {
        self.layout.geometry.lanes as usize
    }

    /// Does this number, read from the spool, name a lane?
    pub(crate) fn has_lane(&self, lane: u16) -> bool {
        usize::from(lane) < self.lanes()
    }

    pub(crate) fn producer(&self, lane: usize) -> &Producer {
        self.check_lane(lane);
        self.mapping.at(self.layout.producers + lane * PAGE)
    }

    pub(crate) fn consumer(&self, lane: usize) -> &Consumer {
        self.check_lane(lane);
        self.mapping.at(self.layout.consumers + lane * PAGE)
    }

    fn check_lane(&self, lane: usize) {
        assert!(lane < self.lanes(), "lane {lane} of {}", self.lanes());
    }

    /// Wakes everyone who sleeps on a word of this spool: after a death, since the dead may have
    /// owed a wake-up. Who waits for room in a lane is owed it by the buffer alone: to wake a thousand
    /// after each of a thousand deaths are a million system calls.
    pub(crate) fn wake_all(&self, buffer: bool) {
        let bells = self.bells();
        bells.jobs.fetch_add(1, Ordering::SeqCst);
        crate::sys::futex::wake(&bells.jobs, u32::MAX, crate::sys::futex::EVERYONE);
        super::bell::ring_for_sure(&bells.source);
        super::bell::ring_for_sure(&bells.buffer);
        for lane in (0..self.lanes()).filter(|_| buffer) {
            super::bell::ring_for_sure(self.lane_bell(lane));
        }
    }
}

/// The layout of a file of this length by its first page, if it has that; and whether its room was
/// given back.
fn layout_of(page: Option<&Mapping>, len: u64) -> Result<(Layout, bool), String> {
    let layout = Layout::of(read_header(page, len)?);
    let closed = len == layout.slots as u64;
    if !closed && len < layout.total as u64 {
        return Err(format!(
            "the spool is damaged: it has {len} bytes where {} belong; nothing was touched. \
             Move it away to begin anew, or restore it",
            layout.total
        ));
    }
    Ok((layout, closed))
}

/// Reads and checks the first page. What is wrong is said so that a tired person knows what to do.
fn read_header(page: Option<&Mapping>, len: u64) -> Result<Geometry, String> {
    let Some(page) = page else {
        return Err(format!(
            "this is no spool: it has only {len} bytes; nothing was touched. If you don't need the \
             file, remove it; otherwise name another with --spool"
        ));
    };
    let header: &Header = page.at(0);
    if header.magic.load(Ordering::Acquire) != MAGIC {
        return Err("this is no spool of procsig, or one of another kind of machine; nothing was \
                    touched. Name another file with --spool"
            .into());
    }
    let version = header.version.load(Ordering::Relaxed);
    if version != VERSION {
        return Err(format!(
            "the spool has format {version}, and this program reads format {VERSION}; nothing was \
             touched. Let the version that wrote it finish it, or move it away to begin anew"
        ));
    }
    let word = |value: u64| u32::try_from(value).unwrap_or(0);
    let geometry = Geometry {
        lanes: word(header.lanes.load(Ordering::Relaxed)),
        lane_bytes: header.lane_bytes.load(Ordering::Relaxed),
        slots: word(header.slots.load(Ordering::Relaxed)),
        job_bytes: word(header.job_bytes.load(Ordering::Relaxed)),
    };
    if header.checksum.load(Ordering::Relaxed) != checksum(header) || !geometry.is_sound() {
        return Err("the spool's header is damaged; nothing was touched. Restore it, or move it \
                    away to begin anew"
            .into());
    }
    Ok(geometry)
}

fn checksum(header: &Header) -> u64 {
    let words = [
        &header.version,
        &header.lanes,
        &header.lane_bytes,
        &header.slots,
        &header.job_bytes,
        &header.identity,
        &header.fingerprint,
    ];
    words
        .iter()
        .fold(0, |crc, word| {
            crc32c::crc32c_append(crc, &word.load(Ordering::Relaxed).to_le_bytes())
        })
        .into()
}

/// The directory that a file stands in; `.` for a bare name.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Forces the directory entry of `path` to the disk.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = directory_of(path);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| Error::to_remedy(directory, "can't write the directory", &error))
}

/// `path` with something behind its name.
pub(crate) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(suffix);
    path.with_file_name(name)
}

/// A random word.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    // Cannot fail for so few bytes on any kernel we run on; if it does, time and pid still tell
    // two spools apart.
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => crate::sys::clock::nanos(crate::sys::clock::wall()) ^ u64::from(std::process::id()),
    }
}

/// Another process holds the spool. If its main lives that is an error; if only orphans do, they
/// are waited for, and ended at their deadline.
fn await_orphans(file: File, path: &Path, len: u64) -> Result<(), Error> {
    let held = |who: String| {
        Error::Held(format!(
            "{}: {who} holds this spool; stop it first, or name another spool with --spool",
            path.display()
        ))
    };
    // One that is being built can't be read yet.
    let spool = Spool::of_file(file, path, len).map_err(|_| held("another process".into()))?;
    if let Some(pid) = orphans::main_of(&spool) {
        return Err(held(format!("another procsig (pid {pid})")));
    }
    let living: Vec<i32> =
        (0..spool.processes()).filter_map(|index| processes::living(&spool, index)).collect();
    if living.is_empty() {
        // It is about to be gone, or is one that has not entered itself yet and ends very soon.
        // No event tells when a lock that is not waited for is let go.
        for _ in 0..UNNAMED_LOOKS {
            if lock::is_free(&spool.file).unwrap_or(true) {
                return Ok(());
            }
            std::thread::sleep(UNNAMED_PAUSE);
        }
        return Err(held("a process that it does not name".into()));
    }
    let (deadline, _) = orphans::deadlines(&spool);
    log::warn!(
        "{}: the run before was killed, and {} still ending; waiting for {}, {:.1} s at most",
        path.display(),
        match living.len() {
            1 => "1 of its processes is".into(),
            many => format!("{many} of its processes are"),
        },
        if living.len() == 1 { "it" } else { "them" },
        deadline.as_secs_f64()
    );
    let kill_at = crate::sys::clock::now().saturating_add(deadline);
    let outlasted =
        orphans::outlast(&spool, 0..spool.processes(), kill_at, signal::is_stop_pending);
    if outlasted { Ok(()) } else { Err(held("a run that was killed still".into())) }
}
