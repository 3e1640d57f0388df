//! What a source that is no list implements, and what it is told.

use super::own::Books;
use crate::flow::job::JobError;
use crate::flow::queue::bell;
use crate::flow::queue::layout::SOURCE_LISTENS;
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Where jobs come from: a queue, a table, a directory, a counter.
///
/// The object is created in `main`, before anything is forked, and used in the source's own process,
/// by one thread. If that process dies, the next one gets the object as it was in `main`. So whatever
/// connects, connects in [`open`](Source::open), and nothing that must survive is kept in the object:
/// what was handed out is in the spool, and `open` is told.
///
/// For each job that is handed out, and whoever is killed when, procsig keeps this order: its results
/// are written to the output and committed, the output is forced to the disk, the job is
/// [acknowledged](Source::acknowledge), and only then forgotten. So a job that was handed out is not
/// lost, and has its results once, as long as the source does not hand it out a second time. (After a
/// loss of power, jobs that were handed out since the last sync may not be known any more.)
///
/// At a stop no more jobs are asked for. A source that is in [`next`](Source::next) then sees it by
/// [`Wait::is_over`]; one that does not return within a second is killed, which does no harm.
///
/// ```
/// use procsig::source::{Done, Next, Resume, SourceError, Wait};
///
/// /// The numbers from 1 to 1000.
/// struct Numbers(u64);
///
/// impl procsig::Source for Numbers {
///     fn open(&mut self, resume: &Resume<'_>) -> Result<(), SourceError> {
///         self.0 = resume.last().unwrap_or(0);
///         Ok(())
///     }
///
///     fn next(&mut self, _: &Wait<'_>, job: &mut Vec<u8>) -> Result<Next, SourceError> {
///         if self.0 == 1000 {
///             return Ok(Next::End);
///         }
///         self.0 += 1;
///         job.extend_from_slice(self.0.to_string().as_bytes());
///         Ok(Next::Job(self.0))
///     }
///
///     fn acknowledge(&mut self, _: &[Done]) -> Result<(), SourceError> {
///         Ok(())
///     }
/// }
/// ```
pub trait Source {
    /// Prepares for [`next`](Source::next), or for [`acknowledge`](Source::acknowledge) alone: goes on
    /// behind what was handed out before. Called first, in each process that the source has in its
    /// turn, and again after each error that is to be [retried](SourceError::retry).
    ///
    /// # Errors
    /// If it can't be opened, for the moment or for good.
    fn open(&mut self, resume: &Resume<'_>) -> Result<(), SourceError>;

    /// Puts the next job into `job`, which is empty, and says its position.
    ///
    /// If there is none now it says so by [`Next::After`], and procsig waits. One that can be told of
    /// new jobs by a file descriptor waits for it with [`Wait::readable`]. Where something else has
    /// to be waited for, it returns soon after [`Wait::is_over`] has become true.
    ///
    /// # Errors
    /// If there may be a job that can't be got at, for the moment or for good. No job is handed out
    /// then, whatever `job` holds.
    fn next(&mut self, wait: &Wait<'_>, job: &mut Vec<u8>) -> Result<Next, SourceError>;

    /// The results of these jobs are in the output, to stay: what has handed them to us may forget
    /// them.
    ///
    /// Called for each job that was handed out, many at a time under load, not in the order in which they
    /// were. Never before that; but after a crash, or an error, a second time for the same jobs, then
    /// perhaps together with others. With `sync = "never"` the results are written, and may not have
    /// reached the disk.
    ///
    /// When the pipeline stops, what was in hand then is acknowledged at its end, by one more process,
    /// in which `open` was called before. If there is no time for that, the next start does it.
    ///
    /// # Errors
    /// If they can't be acknowledged, for the moment or for good. All of them are, again, later.
    fn acknowledge(&mut self, done: &[Done]) -> Result<(), SourceError>;

    /// Does it want to be told of jobs whose results are committed? One that says no does without
    /// [`acknowledge`](Source::acknowledge), and its jobs make room for others a little sooner. Asked
    /// before `open`; always the same.
    fn acknowledges(&self) -> bool {
        true
    }

    /// Does it come to an end by itself? Then a stop before its end is one that leaves work undone
    /// (exit code 5), and failed jobs make for exit code 3. Asked before `open`; always the same.
    fn is_finite(&self) -> bool {
        false
    }

    /// What messages call it. Part of what tells this pipeline's spool from that of another: with a
    /// queue's name in it, no job of one queue is taken for one of another.
    fn name(&self) -> String {
        "own source".into()
    }
}

/// What [`Source::next`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A job is in the buffer. Its position is any number that the source wants to hear again, from
    /// [`Resume::last`] or with the job itself; to procsig it means nothing.
    ///
    /// A job is at most `job_bytes` long ([`Resume::job_bytes_max`]); a longer one is cut, and fails
    /// with that reason.
    Job(u64),
    /// There is none now. It is asked again after this time, or sooner.
    After(Duration),
    /// There is none, and never will be. The run ends when all jobs are done, and the next start
    /// begins anew.
    End,
}

/// Where to go on, see [`Source::open`].
#[derive(Debug)]
pub struct Resume<'a> {
    pub(super) last: Option<u64>,
    pub(super) handed_out: u64,
    pub(super) checksum: u32,
    pub(super) in_hand: &'a [InHand],
    pub(super) job_bytes_max: usize,
    pub(super) only_to_acknowledge: bool,
}

/// A job that was handed out and is not acknowledged yet. It is waiting, being worked on, or done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InHand {
    /// The job, cut to [`Resume::job_bytes_max`].
    pub job: Vec<u8>,
    /// Its number, from 1.
    pub seq: u64,
    /// What the source has said with it.
    pub position: u64,
}

/// A job whose results are committed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done {
    /// The job, cut to [`Resume::job_bytes_max`].
    pub job: Vec<u8>,
    /// Its number, from 1.
    pub seq: u64,
    /// What the source has said with it.
    pub position: u64,
    /// It has failed for good; what is committed says so. (Not known any more, and false, for some
    /// jobs after a power loss.)
    pub failed: bool,
}

impl<'a> Resume<'a> {
    /// Position of the job that was handed out last; `None`: begin at the beginning.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// How many jobs were handed out since the beginning.
    pub fn handed_out(&self) -> u64 {
        self.handed_out
    }

    /// Jobs that were handed out and are not acknowledged yet, in that order: they must not be handed
    /// out again. See also [`Wait::is_in_hand`].
    pub fn in_hand(&self) -> &'a [InHand] {
        self.in_hand
    }

    /// Bytes of the longest job, see [`crate::config::Spool::job_bytes`].
    pub fn job_bytes_max(&self) -> usize {
        self.job_bytes_max
    }

    /// Will no job be asked for? Then the pipeline has stopped, and all that is left is to acknowledge.
    pub fn only_to_acknowledge(&self) -> bool {
        self.only_to_acknowledge
    }

    /// A checksum of all jobs that were handed out.
    pub(super) fn checksum(&self) -> u32 {
        self.checksum
    }
}

/// The checksum of one job more.
pub(super) fn checksum(before: u32, job: &[u8]) -> u32 {
    let len = crc32c::crc32c_append(before, &(job.len() as u64).to_le_bytes());
    crc32c::crc32c_append(len, job)
}

/// How a source waits for what is outside of procsig.
pub struct Wait<'a> {
    pub(super) books: &'a Books<'a>,
    pub(super) stop: &'a Stop,
}

impl Wait<'_> {
    /// Is there something else to do: a stop, or jobs to be acknowledged? Then [`Source::next`] returns
    /// [`Next::After`] soon, with any time.
    pub fn is_over(&self) -> bool {
        self.stop.requested() || self.books.have_news()
    }

    /// Was a job with this position handed out, by this process or one before it, and is not acknowledged
    /// yet? For what gives the same job again when it hears nothing of it.
    pub fn is_in_hand(&self, position: u64) -> bool {
        self.books.positions_in_hand().any(|it| it == position)
    }

    /// Waits until the descriptor is readable, or has failed, for this long at most; says whether it
    /// is. Returns early when [it is over](Wait::is_over).
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `EAGAIN`: the system has no room for a pipe or a thread.
    pub fn readable(&self, descriptor: BorrowedFd<'_>, at_most: Duration) -> io::Result<bool> {
        if is_readable(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(Duration::ZERO))? {
            return Ok(true);
        }
        let until = clock::now().saturating_add(at_most);
        let (cancelled, cancel) = io::pipe()?;
        let (readable, bell) = (AtomicBool::new(false), &self.books.spool().bells().source);
        // What procsig has to say comes by a futex, for which no descriptor stands: so somebody else
        // looks after that one meanwhile.
        std::thread::scope(|scope| {
            let look = || {
                let (ours, cancelled) = (descriptor.as_fd(), cancelled.as_fd());
                let mut both =
                    [PollFd::new(&ours, PollFlags::IN), PollFd::new(&cancelled, PollFlags::IN)];
                // An error is for the caller to meet when he reads.
                let _ready = is_readable(&mut both, None);
                readable.store(!both[0].revents().is_empty(), Ordering::Release);
                bell::ring_for_sure(bell);
            };
            let thread = std::thread::Builder::new().name("wait".into()).stack_size(128 << 10);
            thread.spawn_scoped(scope, look)?;
            self.sleep(until, || readable.load(Ordering::Acquire));
            drop(cancel);
            Ok(())
        })
        .map(|()| readable.load(Ordering::Acquire))
    }

    /// Sleeps until that moment, until [it is over](Wait::is_over), or `awaited`.
    pub(super) fn sleep(&self, until: Duration, awaited: impl Fn() -> bool) {
        let bells = self.books.spool().bells();
        bells.source_waits.store(SOURCE_LISTENS, Ordering::SeqCst);
        while !self.is_over() && !awaited() && clock::now() < until {
            bell::sleep_unless(&bells.source, Some(until), || self.is_over() || awaited());
        }
        bells.source_waits.store(0, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Wait<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Wait").field("is_over", &self.is_over()).finish()
    }
}

fn is_readable(descriptors: &mut [PollFd<'_>], at_most: Option<Duration>) -> io::Result<bool> {
    let at_most: Option<Timespec> = at_most.map(clock::timespec);
    loop {
        match poll(descriptors, at_most.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why a source can't go on, and what is to be done about it.
///
/// Any error becomes one that is retried, by `?`.
pub struct SourceError {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorKind {
    Retry,
    Fatal,
    Refused,
}

impl SourceError {
    /// For the moment: the source is [opened](Source::open) again after a pause, of 0.1 s at first
    /// and 5 s at last, for as long as it takes. The log says so once. Meanwhile jobs that are in the
    /// spool are worked on.
    pub fn retry(message: impl std::fmt::Display) -> SourceError {
        SourceError { kind: ErrorKind::Retry, message: message.to_string() }
    }

    /// For good: the pipeline stops in order, with exit code 74 and this message.
    pub fn fatal(message: impl std::fmt::Display) -> SourceError {
        SourceError { kind: ErrorKind::Fatal, message: message.to_string() }
    }

    /// What is there is not what was handed out before, so it can't be gone on with: the pipeline stops
    /// in order, with exit code 78 and this message. `--fresh` begins anew.
    pub fn refused(message: impl std::fmt::Display) -> SourceError {
        SourceError { kind: ErrorKind::Refused, message: message.to_string() }
    }
}

impl std::fmt::Display for SourceError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::fmt::Debug for SourceError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}: {}", self.kind, self.message)
    }
}

// As `JobError`: no `std::error::Error` itself, so that every error can be converted into it.
impl<E: std::error::Error> From<E> for SourceError {
    fn from(error: E) -> SourceError {
        SourceError::retry(JobError::from(error))
    }
}
