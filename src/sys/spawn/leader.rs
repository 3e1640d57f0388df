//! The process of a command: it leads its group, and is ended and reaped by its number.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::event::{PollFd, poll};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

use super::super::pidfd::PidFd;
use super::super::process::Ended;
use super::super::{clock, proc_fs};

/// Longest pause between two looks at a command whose end can't be polled for.
const TICK_MAX: Duration = Duration::from_millis(50);

/// A command that was started and not reaped yet.
#[derive(Debug)]
pub(super) struct Leader {
    pid: Pid,
    start_time: u64,
    /// `None`: there was no descriptor left, or the kernel is older than 5.3.
    pub(super) pidfd: Option<PidFd>,
    /// Nobody has to care for it any more.
    released: bool,
}

impl Leader {
    pub(super) fn new(pid: Pid) -> Leader {
        let start_time = proc_fs::start_time(pid.as_raw()).unwrap_or(0);
        Leader { pid, start_time, pidfd: PidFd::open(pid.as_raw()).ok(), released: false }
    }

    /// Its number, which is the number of its process group as well.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// When it was started, in clock ticks since boot, as in [`proc_fs::start_time`]; 0 if `/proc`
    /// can't be read.
    pub(super) fn start_time(&self) -> u64 {
        self.start_time
    }

    /// The next pause of a wait for `left`, if the end of the command must be asked for.
    pub(super) fn pause(&self, left: Option<Duration>, tick: &mut Duration) -> Option<Duration> {
        if self.pidfd.is_some() {
            return left;
        }
        let pause = left.map_or(*tick, |left| left.min(*tick));
        *tick = (*tick * 2).min(TICK_MAX);
        Some(pause)
    }

    /// Asks without reaping it.
    pub(super) fn has_ended(&self) -> bool {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid.as_raw()) else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), options) {
            Ok(found) => found.is_some(),
            // Somebody else has reaped it.
            Err(error) => error == rustix::io::Errno::CHILD,
        }
    }

    /// Reaps a command that has ended.
    ///
    /// # Errors
    /// It is not known how it ended: SIGCHLD is ignored, or somebody else has reaped it.
    pub(super) fn reap(mut self) -> io::Result<Ended> {
        self.released = true;
        loop {
            // Not without blocking: while a tracer looks at the dead it is not ours to reap yet.
            match waitpid(rustix::process::Pid::from_raw(self.pid()), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => return Ok(Ended::Exited(code)),
                        (None, Some(signal)) => return Ok(Ended::Signaled(signal)),
                        (None, None) => {}
                    }
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Lets go of a command that can't be ended. Its number stays its own until it is reaped.
    pub(super) fn give_up(mut self) -> Pid {
        self.released = true;
        self.pid
    }

    /// Ends its process group, of which it is a member unless it has left it.
    ///
    /// # Errors
    /// None of the group can be signalled.
    pub(super) fn kill_group(&self) -> io::Result<()> {
        match killpg(self.pid, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the command and all that it started: its group, its descendants, and whatever has all
    /// of `markers` in its environment. Takes no longer than until `until`.
    ///
    /// # Errors
    /// The command itself, or all of its group, can't be signalled.
    pub(super) fn kill_all(&self, markers: &[&[u8]], until: Duration) -> io::Result<()> {
        // Looked for first: with its parent a process loses what shows whose it is.
        let fled = self.fled_descendants();
        let group = killpg(self.pid, Signal::SIGKILL);
        // It can have joined another group.
        let itself = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
        for (_, process) in &fled {
            // One that can't be killed is one of another user, and no reason to spare the others.
            let _killed = process.kill();
        }
        proc_fs::kill_marked(markers, until);
        match (itself, group) {
            (Ok(()) | Err(Errno::ESRCH), _) | (_, Ok(())) => Ok(()),
            (Err(error), _) => Err(error.into()),
        }
    }

    /// What descends from the command and is not in its group.
    fn fled_descendants(&self) -> Vec<(i32, PidFd)> {
        let mut fled = Vec::new();
        for (pid, parent) in proc_fs::descendants(self.pid.as_raw()) {
            let Ok(process) = PidFd::open(pid) else { continue };
            // Asked while the number is held: is it still the process that was found?
            let is_fled = proc_fs::stat(pid)
                .is_some_and(|stat| stat.ppid == parent && stat.pgrp != self.pid.as_raw());
            if is_fled {
                fled.push((pid, process));
            }
        }
        fled
    }
}

/// Polls, for `pause` at most. Says whether there can be an event: not if it was interrupted.
pub(super) fn poll_once(polled: &mut [PollFd<'_>], pause: Option<Duration>) -> io::Result<bool> {
    match poll(polled, pause.map(clock::timespec).as_ref()) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reaps a command that was [given up](Leader::give_up), if it has ended by now. Says whether
/// there is nothing left to be reaped.
pub(crate) fn reap_given_up(pid: Pid) -> bool {
    loop {
        match waitpid(rustix::process::Pid::from_raw(pid.as_raw()), WaitOptions::NOHANG) {
            Ok(None) => return false,
            Ok(Some((_, status))) if status.exited() || status.signaled() => return true,
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

impl Drop for Leader {
    /// Only a panic comes here with a command that runs.
    fn drop(&mut self) {
        if !self.released {
            let _gone = killpg(self.pid, Signal::SIGKILL);
            reap_given_up(self.pid);
        }
    }
}
