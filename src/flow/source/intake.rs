//! A list that can be read only once: a pipe, a FIFO, a socket, a terminal.
//!
//! What a process has read of a pipe is gone with the process. So the source does not read it: it
//! *moves* bytes, by `splice`, into a file in memory that main holds, the *store*, and reads them
//! there. A killed source leaves each byte in the input or in the store, and its successor goes on.
//!
//! # Invariants
//! - The store only grows, and only by what is moved, in order: its length says how much was taken
//!   from the input. One system call takes bytes and lengthens it, and a kill comes before or after
//!   the call.
//! - One process at a time uses it: a source is started after the one before it was reaped.
//! - Bytes are let go of when they were handed out (so they lie before the list position that the
//!   next source loads), or when the notes say what they were. The store keeps its length.
//! - The end of the input is noted, and final: a terminal could go on behind it.
//!
//! # The store
//! ```text
//! page 0     two records in turn: the notes
//! page 1 ..  the list, byte by byte; holes where it was let go of
//! ```
//!
//! # Limits
//! Between the input and the store there has to be a pipe. If the input is none, main holds one, and
//! bytes take two steps; nothing is taken from the input while that pipe is not empty. What can't
//! be spliced at all is read directly, and so is everything if there can be no store; then the
//! death of the source is the end of the run. A limit of file sizes (RLIMIT_FSIZE) limits the list.

use crate::config::Lines;
use crate::flow::queue::layout::{PAGE, RECORD_HEAD};
use crate::flow::queue::record;
use crate::sys::mmap::Mapping;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FallocateFlags, FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// Bytes that are moved at a time: what a pipe holds.
const MOVE: usize = 64 << 10;
/// Bytes that are let go of at a time.
const LET_GO: u64 = 256 << 10;

const NOTE_WORDS: usize = 4;
const NOTES: [usize; 2] = [0, PAGE / 2];
const _: () = assert!((RECORD_HEAD + NOTE_WORDS) * size_of::<u64>() <= PAGE / 2);

/// What main holds of such a list for as long as the run lasts.
pub(crate) struct Intake {
    /// A list that has a name. A pipe that nobody has open to read loses what is in it, so main has.
    named: Option<File>,
    store: File,
    /// Between an input that is no pipe and the store.
    between: Option<(PipeReader, PipeWriter)>,
}

impl Intake {
    /// Prepares for all sources of the run, if the list can be read only once. It waits for nothing.
    pub(crate) fn open(lines: &Lines) -> Option<Intake> {
        // The source opens the list anew then, and says what is wrong with it.
        Intake::try_open(lines).unwrap_or_else(|error| {
            log::debug!("the list of jobs is read directly: {error}");
            None
        })
    }

    fn try_open(lines: &Lines) -> io::Result<Option<Intake>> {
        let named = match lines {
            Lines::Stdin => None,
            Lines::File(path) => {
                let kind = std::fs::metadata(path)?;
                if kind.is_file() || kind.is_dir() {
                    return Ok(None);
                }
                // A FIFO would wait for its writer here; one that has none yet is not at its end.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                Some(File::from(rustix::fs::open(path, flags, Mode::empty())?))
            }
        };
        let stat = match &named {
            Some(file) => rustix::fs::fstat(file),
            None => rustix::fs::fstat(io::stdin()),
        };
        let between = match FileType::from_raw_mode(stat?.st_mode) {
            FileType::RegularFile | FileType::Directory => return Ok(None),
            FileType::Fifo => None,
            _ => Some(io::pipe()?),
        };
        Ok(Some(Intake { named, store: store()?, between }))
    }

    /// What no other role may hold open.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let between = self.between.iter();
        let between = between.flat_map(|(reader, writer)| [reader.as_raw_fd(), writer.as_raw_fd()]);
        let named = self.named.iter().map(AsRawFd::as_raw_fd);
        between.chain(named).chain([self.store.as_raw_fd()]).collect()
    }

    fn input(&self) -> io::Result<File> {
        match &self.named {
            Some(file) => file.try_clone(),
            None => duplicate_stdin(),
        }
    }
}

/// An empty store.
fn store() -> io::Result<File> {
    let create = |flags| rustix::fs::memfd_create("procsig-list", MemfdFlags::CLOEXEC | flags);
    let store = match create(MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3.
        Err(Errno::INVAL) => create(MemfdFlags::empty()),
        other => other,
    };
    let store = File::from(store?);
    store.set_len(PAGE as u64)?;
    Ok(store)
}

/// Standard input, as a file that can be dropped.
pub(super) fn duplicate_stdin() -> io::Result<File> {
    let duplicate: OwnedFd = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?;
    Ok(duplicate.into())
}

/// What reading came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Got {
    Bytes(usize),
    End,
    Interrupted,
}

/// Such a list, as the source of the moment reads it.
pub(super) struct Stream<'a> {
    input: File,
    interrupt: BorrowedFd<'a>,
    /// `None`: read directly.
    taken: Option<Taken<'a>>,
}

impl<'a> Stream<'a> {
    /// What is read of `input` dies with this process.
    pub(super) fn direct(input: File, interrupt: BorrowedFd<'a>) -> Stream<'a> {
        Stream { input, interrupt, taken: None }
    }

    /// Goes on where the last source was.
    pub(super) fn open(intake: &'a Intake, interrupt: BorrowedFd<'a>) -> io::Result<Stream<'a>> {
        let taken = Taken::open(intake)?;
        let taken = (!taken.notes.direct).then_some(taken);
        Ok(Stream { input: intake.input()?, interrupt, taken })
    }

    /// Is what was read still there for the next source?
    pub(super) fn survives(&self) -> bool {
        self.taken.is_some()
    }

    /// Has an earlier source of this run found its place in the list?
    pub(super) fn was_begun(&self) -> bool {
        self.taken.as_ref().is_some_and(|taken| taken.notes.begun)
    }

    /// From now on the list position that is in the spool is one of this input.
    pub(super) fn begin(&mut self) {
        if let Some(taken) = self.taken.as_mut().filter(|taken| !taken.notes.begun) {
            taken.note(Notes { begun: true, ..taken.notes });
        }
    }

    /// Bytes that were passed over, see [`Stream::pass`].
    pub(super) fn passed(&self) -> Passed {
        self.taken.as_ref().map_or(Passed::default(), |taken| taken.notes.passed)
    }

    /// Reads on from there. Only what [survives](Stream::survives) can be read again.
    pub(super) fn seek(&mut self, offset: u64) {
        if let Some(taken) = &mut self.taken {
            taken.next = offset;
        }
    }

    /// Reads some of the list. Waits for it, if it has to, until the interruption.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        loop {
            if let Some(taken) = &mut self.taken {
                match taken.read(buffer)? {
                    0 if taken.notes.ended => return Ok(Got::End),
                    0 if taken.drain()? => continue,
                    0 => {}
                    read => return Ok(Got::Bytes(read)),
                }
            }
            if !self.wait()? {
                return Ok(Got::Interrupted);
            }
            let Some(taken) = &mut self.taken else {
                match self.input.read(buffer) {
                    Ok(0) => return Ok(Got::End),
                    Ok(read) => return Ok(Got::Bytes(read)),
                    Err(error) if is_transient(&error) => continue,
                    Err(error) => return Err(error),
                }
            };
            match taken.take(&self.input) {
                Ok(()) => {}
                // Nothing can be moved, and nothing was.
                Err(Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP)
                    if taken.moved == 0 =>
                {
                    taken.note(Notes { direct: true, ..taken.notes });
                    self.taken = None;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for input; `false`: interrupted before there was any.
    fn wait(&self) -> io::Result<bool> {
        loop {
            let mut fds = [
                PollFd::new(&self.input, PollFlags::IN),
                PollFd::from_borrowed_fd(self.interrupt, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// All before `offset` was handed out, and is needed no more.
    pub(super) fn let_go(&mut self, offset: u64) -> io::Result<()> {
        self.taken.as_mut().map_or(Ok(()), |taken| taken.let_go(offset))
    }

    /// Nothing of what lies before `passed.at` is to be handed out any more, but for a line that
    /// begins at `passed.from` and of which `keep` bytes are wanted.
    pub(super) fn pass(&mut self, passed: Passed, keep: u64) -> io::Result<()> {
        self.taken.as_mut().map_or(Ok(()), |taken| taken.pass(passed, keep))
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// A part of the list that is read, and yields nothing but perhaps the beginning of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Passed {
    /// Where the line begins that is longer than what is kept of one; `at` if there is none.
    pub from: u64,
    pub at: u64,
    /// Checksum of the list up to `at`.
    pub prefix: u32,
}

/// What the next source has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Notes {
    begun: bool,
    ended: bool,
    direct: bool,
    passed: Passed,
}

impl Notes {
    fn to_words(self) -> [u64; NOTE_WORDS] {
        let Passed { from, at, prefix } = self.passed;
        let flags =
            u64::from(self.begun) | u64::from(self.ended) << 1 | u64::from(self.direct) << 2;
        [flags, from, at, prefix.into()]
    }

    fn from_words(words: &[u64]) -> Notes {
        Notes {
            begun: words[0] & 1 != 0,
            ended: words[0] & 2 != 0,
            direct: words[0] & 4 != 0,
            passed: Passed { from: words[1], at: words[2], prefix: words[3] as u32 },
        }
    }
}

/// The store, in the hands of one source.
struct Taken<'a> {
    intake: &'a Intake,
    mapping: Mapping,
    generation: u64,
    notes: Notes,
    /// Bytes of the list that are, or were, in the store.
    moved: u64,
    /// What is read next.
    next: u64,
    /// All before it was let go of.
    gone: u64,
    /// Where something was let go of last.
    let_go_at: u64,
}

impl<'a> Taken<'a> {
    fn open(intake: &'a Intake) -> io::Result<Taken<'a>> {
        let mapping = Mapping::of_file(&intake.store, PAGE)?;
        let (generation, notes) = record::load_newest(&mapping, NOTES, NOTE_WORDS)
            .map_or((0, Notes::default()), |(generation, words)| {
                (generation, Notes::from_words(&words))
            });
        let moved = intake.store.metadata()?.len().saturating_sub(PAGE as u64);
        Ok(Taken { intake, mapping, generation, notes, moved, next: 0, gone: 0, let_go_at: 0 })
    }

    fn note(&mut self, notes: Notes) {
        step();
        self.generation += 1;
        self.notes = notes;
        record::store_next(&self.mapping, NOTES, self.generation, &notes.to_words());
    }

    /// Reads what is in the store; 0: all of it was read.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.moved - self.next).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        self.intake.store.read_exact_at(&mut buffer[..len], PAGE as u64 + self.next)?;
        self.next += len as u64;
        Ok(len)
    }

    /// Takes from the input what is there.
    fn take(&mut self, input: &File) -> Result<(), Errno> {
        let taken = match &self.intake.between {
            None => move_bytes(input, &self.intake.store, Some(PAGE as u64 + self.moved))?,
            Some((_, between)) => move_bytes(input, between, None)?,
        };
        match taken {
            Some(0) => self.note(Notes { ended: true, ..self.notes }),
            Some(taken) if self.intake.between.is_none() => self.moved += taken as u64,
            // In the pipe between; or somebody else was faster.
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Moves what has come as far as the pipe between. Says whether there was any.
    fn drain(&mut self) -> io::Result<bool> {
        let Some((between, _)) = &self.intake.between else { return Ok(false) };
        let end = PAGE as u64 + self.moved;
        let drained = move_bytes(between, &self.intake.store, Some(end))?.unwrap_or(0);
        self.moved += drained as u64;
        Ok(drained > 0)
    }

    fn let_go(&mut self, offset: u64) -> io::Result<()> {
        if offset >= self.let_go_at + LET_GO {
            self.punch(self.gone, offset)?;
            (self.gone, self.let_go_at) = (offset, offset);
        }
        Ok(())
    }

    fn pass(&mut self, passed: Passed, keep: u64) -> io::Result<()> {
        let Passed { from, at, .. } = passed;
        if at >= self.let_go_at + LET_GO {
            self.note(Notes { passed, ..self.notes });
            self.punch(self.gone, from)?;
            self.punch((from + keep).next_multiple_of(PAGE as u64), at)?;
            (self.gone, self.let_go_at) = (from, at);
        }
        Ok(())
    }

    /// Gives the memory of a part of the store back, from the page on in which it begins. A page of
    /// which only a part is let go of stays, and is the first of the next part.
    fn punch(&self, from: u64, to: u64) -> io::Result<()> {
        let page = PAGE as u64;
        let (from, to) = (from - from % page, to - to % page);
        if from < to {
            step();
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.intake.store, flags, page + from, to - from)?;
        }
        Ok(())
    }
}

/// Moves what is there, one end being a pipe; `None`: nothing is, yet.
fn move_bytes(from: impl AsFd, to: impl AsFd, at: Option<u64>) -> Result<Option<usize>, Errno> {
    loop {
        let mut at = at;
        step();
        match splice(&from, None, &to, at.as_mut(), MOVE, SpliceFlags::NONBLOCK) {
            Ok(moved) => return Ok(Some(moved)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Comes before each step that leaves something behind: there a test's kill comes.
#[cfg(not(test))]
fn step() {}

#[cfg(test)]
use tests::step;

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
