//! Are there descriptors enough? Asked before anything is opened: a run that finds out in its middle has
//! failed jobs for it, or restarts children in vain.

use crate::config::Worker;
use crate::control::launch::{Kind, Task};
use crate::error::Error;
use crate::sys::{descriptor, limits};

/// What main has open at once for each child: its ends of two channels.
const EACH_CHILD: usize = 2;
/// Source and buffer.
const CHILDREN: usize = 2;
/// What main has open besides, at the most at once: spool, output and dead letters, what signals come
/// through, a child's own ends while it is started, a look into `/proc`.
const MAIN: usize = 20;

/// What a worker has open that runs programs: spool, channels, standard streams, and some to spare.
const WORKER: u64 = 16;
/// For a command: two pipes, both ends while it is started, and what it is waited for by.
const EACH_COMMAND: u64 = 5;
/// For a coprocess: three pipes, and the same.
const EACH_COPROCESS: u64 = 7;

/// # Errors
/// What is needed, what there is, and how to get more.
pub(super) fn check(kinds: &[Kind]) -> Result<(), Error> {
    let children = kinds.iter().map(|kind| usize::from(kind.settings.processes)).sum::<usize>();
    let needed = MAIN + EACH_CHILD * (CHILDREN + children);
    let most = limits::descriptors_max();
    descriptor::room_for(needed).map_err(|(free, error)| {
        Error::Failure(format!(
            "too few open files are allowed for {children} worker processes: {needed} more are \
             needed, {free} are left of {most} ({error}). Allow more (ulimit -n, or LimitNOFILE= of \
             systemd), or use fewer processes"
        ))
    })?;
    kinds.iter().try_for_each(|kind| check_worker(kind, most))
}

fn check_worker(kind: &Kind, most: u64) -> Result<(), Error> {
    let Worker { name, threads, limits, .. } = &kind.settings;
    let each = match kind.task {
        Task::Command => EACH_COMMAND,
        Task::Coprocess(_) => EACH_COPROCESS,
        Task::Jobs(_) | Task::Produce(_) => return Ok(()),
    };
    let needed = WORKER + each * u64::from(*threads);
    // One that is set for the worker has been checked with the configuration.
    if limits.descriptors.is_some() || needed <= most {
        return Ok(());
    }
    Err(Error::Failure(format!(
        "too few open files are allowed for worker {name}: {threads} programs at a time in a process \
         need {needed}, and {most} are allowed. Allow more (ulimit -Hn, or LimitNOFILE= of systemd), or \
         use fewer threads"
    )))
}
