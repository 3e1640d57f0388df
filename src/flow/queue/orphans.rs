//! Processes that have outlived their main: waited for, then ended, by what the process table
//! says of them. A pid alone names nobody; with its start time it names one process for ever.

use super::processes;
use super::spool::Spool;
use crate::sys::atomic::Ordering;
use crate::sys::pidfd::PidFd;
use crate::sys::{clock, proc_fs, process};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::ops::Range;
use std::time::Duration;

/// How long a killed process may take to be gone.
const KILLED_MAX: Duration = Duration::from_secs(1);

/// How often it is asked whether to go on waiting.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Is the main of this spool's last run alive? Then its pid.
pub(crate) fn main_of(spool: &Spool) -> Option<i32> {
    let run = spool.run();
    let start = run.main_start.load(Ordering::Acquire);
    let pid = i32::try_from(run.main_pid.load(Ordering::Relaxed)).ok().filter(|pid| *pid > 0)?;
    let stat = proc_fs::stat(pid)?;
    (start != 0 && stat.start_time == start && !stat.ended()).then_some(pid)
}

/// How long a stop of this spool's last run may take, and the part of it that is kept for the
/// flush.
pub(crate) fn deadlines(spool: &Spool) -> (Duration, Duration) {
    let run = spool.run();
    (
        Duration::from_nanos(run.deadline.load(Ordering::Relaxed)),
        Duration::from_nanos(run.flush_reserve.load(Ordering::Relaxed)),
    )
}

/// Waits until the processes in these slots of the table are gone; ends those that still are
/// there at `kill_at`, with all that they have started. Stops waiting, and says so by `false`, when
/// `enough` says that nobody wants it any more.
pub(crate) fn outlast(
    spool: &Spool,
    slots: Range<usize>,
    kill_at: Duration,
    enough: impl Fn() -> bool,
) -> bool {
    for index in slots {
        let Some(pid) = processes::living(spool, index) else { continue };
        let Ok(held) = PidFd::open(pid) else { continue };
        // Still the same after we have got hold of it?
        if processes::living(spool, index) != Some(pid) {
            continue;
        }
        let mut gone = false;
        while !gone && clock::now() < kill_at {
            if enough() {
                return false;
            }
            gone = held.wait(Some(kill_at.min(clock::now() + LOOK_EVERY))).unwrap_or(true);
        }
        if gone {
            continue;
        }
        log::warn!("process {pid} of the run before did not end in time; killing it");
        // Ended by us, so what it has in hand counts no death.
        spool.process(index).condemned.store(1, Ordering::Release);
        // First the process itself, which would take the death of its commands for a failure.
        // What can't be signalled stays; nothing more can be done about it here.
        let _killed = held.kill();
        let _gone = held.wait(Some(clock::now() + KILLED_MAX));
        for left in proc_fs::in_session(pid) {
            let _killed = process::send(Pid::from_raw(left), Signal::SIGKILL);
        }
    }
    true
}
