//! Processes as /proc shows them.

use super::MARKER;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One process, as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub comm: String,
    pub state: char,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    pub start: u64,
}

impl Process {
    /// Reads /proc/PID/stat; `None` when there is no such process.
    pub fn read(pid: i32) -> Option<Process> {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let (head, tail) = stat.rsplit_once(") ")?;
        let comm = head.split_once(" (")?.1.to_owned();
        let fields: Vec<&str> = tail.split(' ').collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
        Some(Process {
            pid,
            comm,
            state: fields.first()?.chars().next()?,
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// All processes there are.
    pub fn all() -> Vec<Process> {
        let entries = std::fs::read_dir("/proc").expect("/proc");
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).filter_map(Process::read).collect()
    }

    /// The processes whose environment says that this test started them.
    pub fn marked(value: &str) -> Vec<Process> {
        let wanted = format!("{MARKER}={value}").into_bytes();
        let marked = |process: &Process| process.environment().contains(&wanted);
        Process::all().into_iter().filter(marked).collect()
    }

    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    /// Entries of its first environment.
    pub fn environment(&self) -> Vec<Vec<u8>> {
        self.file("environ").split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    }

    /// Whether the kernel has filled it in yet.
    pub fn has_environment(&self) -> bool {
        !self.file("environ").is_empty()
    }

    /// Its arguments, with blanks between them.
    pub fn command_line(&self) -> String {
        String::from_utf8_lossy(&self.file("cmdline")).replace('\0', " ")
    }

    /// The program it runs.
    pub fn executable(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// A field of /proc/PID/status.
    pub fn status(&self, field: &str) -> Option<String> {
        let text = String::from_utf8_lossy(&self.file("status")).into_owned();
        let value = |line: &str| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().into());
        text.lines().find_map(value)
    }

    /// Whether a signal is in one of the masks of /proc/PID/status (SigBlk, SigIgn, SigCgt).
    #[track_caller]
    pub fn mask_has(&self, mask: &str, signal: Signal) -> bool {
        let text = self.status(mask).unwrap_or_else(|| panic!("no {mask} of {self:?}"));
        let bits = u64::from_str_radix(&text, 16).expect("a mask in hexadecimal");
        bits >> (signal.as_raw() - 1) & 1 == 1
    }

    /// Its descriptors, and what each is.
    pub fn descriptors(&self) -> BTreeMap<i32, PathBuf> {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.pid)) else {
            return BTreeMap::new();
        };
        let names = entries.flatten().filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, std::fs::read_link(entry.path()).ok()?))
        });
        names.collect()
    }

    /// Context switches of all its threads so far, by thread.
    pub fn switches(&self) -> BTreeMap<i32, Vec<String>> {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/task", self.pid)) else {
            return BTreeMap::new();
        };
        let counted = entries.flatten().filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let lines = text.lines().filter(|line| line.contains("ctxt_switches"));
            let lines = lines.map(str::to_owned).collect();
            Some((entry.file_name().to_str()?.parse().ok()?, lines))
        });
        counted.collect()
    }

    /// A hold on this very process, which no other can take the place of; `None` when it is gone.
    pub fn handle(&self) -> Option<Handle> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        let now = Process::read(self.pid)?;
        (now.start == self.start).then(|| Handle { process: self.clone(), fd })
    }

    /// One line about it, for a person who looks for what hangs.
    pub fn describe(&self) -> String {
        let waits = |name| {
            let text = String::from_utf8_lossy(&self.file(name)).trim().replace('\n', " < ");
            text.chars().take(200).collect::<String>()
        };
        format!(
            "{} {:?} state {} parent {} group {} session {} waits in {} [{}] command {}",
            self.pid,
            self.comm,
            self.state,
            self.parent,
            self.group,
            self.session,
            waits("wchan"),
            waits("stack"),
            self.command_line()
        )
    }
}

/// A hold on one process.
#[derive(Debug)]
pub struct Handle {
    pub process: Process,
    fd: OwnedFd,
}

impl Handle {
    /// Sends a signal; false when the process is gone.
    pub fn send(&self, signal: Signal) -> bool {
        pidfd_send_signal(&self.fd, signal).is_ok()
    }

    /// Waits for its end; false when the time is over first.
    pub fn wait(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let limit =
            Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        poll(&mut fds, Some(&limit)).expect("poll on a pidfd") > 0
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }
}

/// The children of a process, zombies included.
pub fn children_of(pid: i32) -> Vec<Process> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().map(|thread| thread.path().join("children"));
    let text: String = lists.filter_map(|list| std::fs::read_to_string(list).ok()).collect();
    let pids = text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Process::read).collect()
}

/// Waits until at least one of them ends, and returns the indices of all that have.
pub fn wait_for_any(handles: &[&Handle], limit: Duration) -> Vec<usize> {
    let mut fds: Vec<_> =
        handles.iter().map(|handle| PollFd::new(&handle.fd, PollFlags::IN)).collect();
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: 0 };
    poll(&mut fds, Some(&limit)).expect("poll on pidfds");
    let ended = |(index, fd): (usize, &PollFd)| (!fd.revents().is_empty()).then_some(index);
    fds.iter().enumerate().filter_map(ended).collect()
}

/// The numbers of the pipes and sockets among descriptors, such as `socket:[1234]`.
pub fn pipes_and_sockets(descriptors: &BTreeMap<i32, PathBuf>) -> Vec<String> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let local = |text: &String| text.starts_with("pipe:") || text.starts_with("socket:");
    descriptors.iter().filter(|(fd, _)| **fd > 2).map(|(_, p)| text(p)).filter(local).collect()
}

/// Whether a path is what a descriptor of any of the processes refers to.
pub fn held_as_standard_stream(process: &Process, path: &Path) -> bool {
    process.descriptors().range(0..=2).any(|(_, target)| target == path)
}
