//! What goes into the lifecycle and what comes out of it.

use crate::control::role::Child;
use crate::error::ExitCode;
use std::time::Duration;

/// What the configuration says about time and deaths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Limits {
    pub deadline: Duration,
    pub flush_reserve: Duration,
    pub restart_max: u32,
    pub restart_within: Duration,
}

/// Who there is besides the buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Members {
    pub source: bool,
    /// The source has to hear of each job whose results are committed.
    pub acknowledges: bool,
    pub workers: u16,
}

/// Something has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// SIGINT, SIGTERM or SIGQUIT, or SIGHUP of a terminal; it came so long ago.
    Signal { late: Duration },
    /// The child is ready to work.
    Ready(Child),
    /// The child has nothing more to do and is about to exit: the list is done, or the producer
    /// has produced all.
    Finished(Child),
    /// The child is about to exit because of this, and starting it again would not help.
    Failed(Child, ExitCode),
    /// The worker is about to exit because a job in it has timed out, which only its end can end.
    Overdue(Child),
    /// The worker is about to exit since it has done as many jobs as it is to do, or has grown too
    /// large: another one is to take its place.
    Recycled(Child),
    /// The child could not be started.
    NotStarted(Child),
    /// There is nothing that a last source would have to do; none was started.
    NothingToAcknowledge,
    /// The child has ended and has been reaped. Clean: it has exited with 0.
    Reaped(Child, Ended),
    /// Nothing but time has passed.
    Time,
}

/// How a child has ended, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ended {
    /// With exit code 0.
    Clean,
    /// With another exit code, or by a signal.
    Crashed,
    /// As `Crashed`, and it is put down to a job that it had in hand, which others than this one's
    /// deaths bound: it is run alone from now on, or was, and fails in the end.
    ByJob,
}

/// Something is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Fork it.
    Start(Child),
    /// Fork one more source, that only acknowledges what was committed at the stop; if there is such.
    Acknowledge,
    /// Tell it to stop.
    Stop(Child),
    /// Send SIGCONT to all children, so that a stopped one hears what it is told.
    ContinueAll,
    /// Kill it with all it has started.
    Kill(Child, Why),
    /// Say something.
    Say(Notice),
    /// Nothing is left to wait for: sweep, count, exit.
    Finish,
}

/// Something worth saying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Notice {
    /// Every child has got ready. Said once, however often some are started again; also when the work
    /// was done before the last of them could say so; and not if the stop came first.
    AllReady,
    StopRequested(Reason),
    StoppingSource,
    StoppingWorkers(usize),
    StoppingBuffer,
    /// Still waiting; the deadline is so far away.
    Waiting {
        left: Duration,
    },
    /// One more signal has counted; so many have by now.
    Signal(u8),
    /// Main was away itself, so all times of the stop are later by this much.
    DeadlineMoved(Duration),
    /// The source did not become quiet.
    KillingSource,
    /// So many workers have not ended in their time.
    KillingWorkers(usize),
    /// The deadline, or a third signal.
    KillingAll(usize),
    /// Its time is over, or another signal has come: it need not acknowledge now.
    KillingLastSource,
    /// A child has died; it is started again after a pause.
    Restarting(Child, Duration),
    /// A worker has ended because a job in it had timed out; another one is started at once.
    Replacing(Child),
    /// A worker has ended because it has done enough; another one is started at once.
    Recycling(Child),
    /// It does not get ready.
    StartTooSlow(Child),
    /// Too many deaths.
    GivingUp(Child),
    /// These could not even be killed.
    Abandoned(usize),
}

/// Why a stop was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    Signal,
    /// All is done.
    Finished,
    /// A child failed for good, or died too often.
    Failure,
}

/// Why a child is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Why {
    /// It did not get ready.
    NotReady,
    /// The source did not become quiet.
    NotQuiet,
    /// What is left of the deadline is kept for the flush.
    Reserve,
    /// One more signal has come.
    Signal,
    Deadline,
    ThirdSignal,
}
