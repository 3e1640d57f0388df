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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::queue::layout::Geometry;
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    const LATER: Duration = Duration::from_secs(60);

    fn spool() -> Spool {
        Spool::in_memory(Geometry { lanes: 1, lane_bytes: 4096, slots: 1, job_bytes: 8 })
    }

    /// Enters a process as the worker of the only lane.
    fn enter(spool: &Spool, child: &Child) {
        let entry = spool.process(processes::worker(0));
        let start = proc_fs::start_time(child.id().cast_signed()).expect("it is there");
        entry.pid.store(child.id().into(), Ordering::Relaxed);
        entry.start.store(start, Ordering::Release);
    }

    fn run(command: &mut Command) -> Child {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process")
    }

    fn all(spool: &Spool) -> Range<usize> {
        0..spool.processes()
    }

    fn is_condemned(spool: &Spool) -> bool {
        processes::blame(spool, processes::worker(0)).is_none()
    }

    #[test]
    fn an_orphan_that_ends_in_time_is_waited_for_and_left_alone() {
        let spool = spool();
        let mut child = run(&mut Command::new("cat"));
        enter(&spool, &child);
        let input = std::cell::Cell::new(child.stdin.take());
        let asked = std::cell::Cell::new(0);
        let enough = || {
            asked.set(asked.get() + 1);
            // It has been waited for, in vain, before it ends.
            if asked.get() == 3 {
                drop(input.take());
            }
            false
        };
        assert!(outlast(&spool, all(&spool), clock::now() + LATER, enough));
        assert!(asked.get() >= 3);
        assert!(!is_condemned(&spool));
        assert!(child.wait().expect("it is ours").success());
    }

    #[test]
    fn an_orphan_that_does_not_end_in_time_is_killed_with_all_of_its_session_and_not_blamed() {
        let spool = spool();
        let script = "sleep 1000 & echo there; exec sleep 1000";
        let mut child = run(Command::new("setsid").args(["sh", "-c", script]));
        let mut output = child.stdout.take().expect("a pipe");
        let mut line = [0; 6];
        output.read_exact(&mut line).expect("a line");
        enter(&spool, &child);
        let began = clock::now();
        assert!(outlast(&spool, all(&spool), began + LOOK_EVERY / 2, || false));
        assert!(clock::now() >= began + LOOK_EVERY / 2, "it has that long");
        assert!(is_condemned(&spool));
        // Both of them have it: at the end neither is there any more.
        assert_eq!(output.read_to_end(&mut Vec::new()).expect("a pipe"), 0);
        assert!(!child.wait().expect("it is ours").success());
    }

    #[test]
    fn nobody_is_waited_for_who_is_not_wanted_or_not_the_one_that_was_entered() {
        let spool = spool();
        let mut child = run(&mut Command::new("cat"));
        assert!(outlast(&spool, all(&spool), clock::now() + LATER, || panic!("nobody is there")));
        enter(&spool, &child);
        assert!(!outlast(&spool, all(&spool), clock::now() + LATER, || true));
        spool.process(processes::worker(0)).start.fetch_add(1, Ordering::Relaxed);
        assert!(outlast(&spool, all(&spool), Duration::ZERO, || panic!("it is somebody else")));
        assert!(!is_condemned(&spool));
        assert!(child.try_wait().expect("it is ours").is_none(), "it is as it was");
        drop(child.stdin.take());
        assert!(child.wait().expect("it is ours").success());
    }
}
