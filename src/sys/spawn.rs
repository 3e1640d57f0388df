//! Starting a command, waiting for it, and ending it together with all that it started.
//!
//! `posix_spawn`, not `fork` and `exec`: its cost does not grow with this process's memory, and
//! several threads can start commands at the same time. What holds for every command:
//!
//! - It has default dispositions and an empty mask, whatever this process ignores or blocks, and a
//!   process group of its own. Never a shell; the job is part of an argument, byte for byte.
//! - It inherits three descriptors: `/dev/null` and the write ends of two pipes. All others of
//!   ours are close-on-exec from their first moment, so that two threads don't leak into each
//!   other's commands. What this program was itself started with, it passes on.
//! - Its end is what counts, not the end of its output: a process that it left behind may hold the
//!   pipes open for ever. What the command itself wrote is in the pipes when it has ended.
//! - It is not reaped before its group is done with, so the group's number can't be someone else's.
//! - Its environment names the run and the job, and so does that of all that it starts. That is how
//!   what fled to another group or session is found.
//! - No wait without a bound but for a command that is allowed to run for ever.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

mod output;

pub(crate) use output::Output;
use output::{above_standard, pipe};

use super::pidfd::PidFd;
use super::process::Ended;
use super::{clock, proc_fs};

/// The environment variable that names the run, for each command of it.
pub(crate) const RUN_VARIABLE: &str = "PROCSIG_RUN";

/// The environment variable that names the job, for each command.
pub(crate) const JOB_VARIABLE: &str = "PROCSIG_JOB";

/// A run's number as environments and messages say it.
pub(crate) fn run_name(run_id: u64) -> String {
    format!("{run_id:016x}")
}

/// What the environment of all commands of a run holds; for [`proc_fs::marked`].
pub(crate) fn run_marker(run_id: &str) -> Vec<u8> {
    format!("{RUN_VARIABLE}={run_id}").into_bytes()
}

/// Pauses after a start that the system refused for the moment: about a second in all.
const START_PAUSES_MS: [u64; 8] = [5, 10, 20, 40, 80, 160, 320, 400];

/// Longest pause between two looks at a command whose end can't be polled for.
const TICK_MAX: Duration = Duration::from_millis(50);

/// A command as it was declared, prepared so that little is left to be done for each job.
#[derive(Debug)]
pub(crate) struct CommandLine {
    /// Each argument cut at its `{}`; one without is a single piece.
    arguments: Vec<Argument>,
    /// Where the program was found, unless it is named by a path or by the job.
    found: Option<CString>,
    /// `KEY=VALUE`, the run's marker first.
    environment: Vec<CString>,
    /// Folders in which programs are looked for, with colons between.
    search_path: Vec<u8>,
    null: OwnedFd,
}

#[derive(Debug)]
enum Argument {
    Literal(CString),
    /// The pieces between which the job goes.
    Template(Vec<Vec<u8>>),
}

/// Why a command could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StartError {
    /// The job holds a NUL byte, which ends an argument. Nothing was tried.
    Nul,
    /// The system refused.
    Refused {
        /// The program's name, readable.
        program: String,
        /// What the system said.
        error: Errno,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Nul => {
                formatter.write_str("the job holds a NUL byte, which no argument can")
            }
            StartError::Refused { program, error } => {
                write!(formatter, "can't start {program:?}: {}", error.desc())
            }
        }
    }
}

impl CommandLine {
    /// Prepares `command` to be run with this process's environment, in which `environment` is
    /// added or replaced. With no `{}` in it, the job is the last argument.
    ///
    /// # Errors
    /// `InvalidInput` for an empty command, a NUL byte anywhere, or a variable without a name or
    /// with `=` in it; or `/dev/null` can't be opened.
    pub(crate) fn new(
        command: &[String],
        environment: &BTreeMap<String, String>,
        run_id: &str,
    ) -> io::Result<CommandLine> {
        let mut arguments = Vec::with_capacity(command.len() + 1);
        for text in command {
            arguments.push(Argument::new(text)?);
        }
        let Some(program) = command.first() else {
            return Err(invalid("a command needs at least the name of a program"));
        };
        if !command.iter().any(|text| text.contains("{}")) {
            arguments.push(Argument::Template(vec![Vec::new(), Vec::new()]));
        }
        let (environment, search_path) = prepare_environment(environment, run_id)?;
        let found = match &arguments[0] {
            Argument::Literal(_) => search(program.as_bytes(), &search_path).ok().flatten(),
            Argument::Template(_) => None,
        };
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let null = above_standard(null)?;
        Ok(CommandLine { arguments, found, environment, search_path, null })
    }

    /// Starts the command for a job. `job_id` is what [`JOB_VARIABLE`] will say; of each of its
    /// outputs up to `output_max` bytes will be kept.
    ///
    /// What the system refuses only for the moment is tried again, for about a second.
    pub(crate) fn start(
        &self,
        job: &[u8],
        job_id: &CStr,
        output_max: usize,
    ) -> Result<Running, StartError> {
        let arguments = self.fill_in(job)?;
        let mut environment: Vec<&CStr> = Vec::with_capacity(self.environment.len() + 1);
        environment.push(job_id);
        environment.extend(self.environment.iter().map(CString::as_c_str));
        let mut pauses = START_PAUSES_MS.iter();
        loop {
            let error = match self.start_once(&arguments, &environment, output_max) {
                Ok(running) => return Ok(running),
                Err(error) => error,
            };
            match pauses.next() {
                Some(pause) if is_transient(error) => {
                    std::thread::sleep(Duration::from_millis(*pause));
                }
                _ => {
                    let program = arguments[0].to_string_lossy().into_owned();
                    return Err(StartError::Refused { program, error });
                }
            }
        }
    }

    fn fill_in(&self, job: &[u8]) -> Result<Vec<Cow<'_, CStr>>, StartError> {
        let mut filled = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            filled.push(match argument {
                Argument::Literal(text) => Cow::Borrowed(text.as_c_str()),
                Argument::Template(pieces) => {
                    let text = CString::new(pieces.join(job)).map_err(|_| StartError::Nul)?;
                    Cow::Owned(text)
                }
            });
        }
        Ok(filled)
    }

    fn start_once(
        &self,
        arguments: &[Cow<'_, CStr>],
        environment: &[&CStr],
        output_max: usize,
    ) -> Result<Running, Errno> {
        let (stdout, stdout_write) = pipe()?;
        let (stderr, stderr_write) = pipe()?;
        let mut actions = PosixSpawnFileActions::init()?;
        // None of the three has a number below 3, so none is overwritten before its turn.
        actions.add_dup2(self.null.as_raw_fd(), 0)?;
        actions.add_dup2(stdout_write.as_raw_fd(), 1)?;
        actions.add_dup2(stderr_write.as_raw_fd(), 2)?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigdefault(&SigSet::all())?;
        attributes.set_sigmask(&SigSet::empty())?;
        let spawn = |path: &CStr| posix_spawnp(path, &actions, &attributes, arguments, environment);
        let pid = self.with_program(&arguments[0], spawn)?;
        Ok(Running::new(pid, Output::new(stdout, output_max), Output::new(stderr, output_max)))
    }

    /// Calls `spawn` with the path of the program.
    ///
    /// The program is looked for here and not by `posix_spawnp`, since that would use this
    /// process's PATH and not the command's, and would try each folder again for each job.
    fn with_program(
        &self,
        name: &CStr,
        spawn: impl Fn(&CStr) -> Result<Pid, Errno>,
    ) -> Result<Pid, Errno> {
        if let Some(path) = &self.found {
            match spawn(path) {
                // Perhaps it stands elsewhere by now.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => {}
                decided => return decided,
            }
        }
        match search(name.to_bytes(), &self.search_path)? {
            Some(path) => spawn(&path),
            None => spawn(name),
        }
    }
}

impl Argument {
    fn new(text: &str) -> io::Result<Argument> {
        if text.contains('\0') {
            return Err(invalid("an argument of a command can't hold a NUL byte"));
        }
        let pieces: Vec<Vec<u8>> = text.split("{}").map(|piece| piece.into()).collect();
        match pieces.len() {
            1 => Ok(Argument::Literal(CString::new(text)?)),
            _ => Ok(Argument::Template(pieces)),
        }
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// The environment as `KEY=VALUE`, and the value of its PATH.
fn prepare_environment(
    added: &BTreeMap<String, String>,
    run_id: &str,
) -> io::Result<(Vec<CString>, Vec<u8>)> {
    let mut variables: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (key, value) in added {
        if key.is_empty() || key.contains('=') {
            return Err(invalid("the name of an environment variable can't be empty or hold `=`"));
        }
        variables.insert(key.into(), value.into());
    }
    // Those of a run that this one is itself a command of; ours are added below.
    variables.remove(JOB_VARIABLE.as_ref() as &std::ffi::OsStr);
    variables.remove(RUN_VARIABLE.as_ref() as &std::ffi::OsStr);
    // What the C library takes when there is none.
    let search_path = variables.get("PATH".as_ref() as &std::ffi::OsStr);
    let search_path = search_path.map_or(b"/bin:/usr/bin".to_vec(), |path| path.as_bytes().into());
    let mut entries = vec![CString::new(run_marker(run_id))?];
    for (key, value) in variables {
        let entry = [key.into_vec(), value.into_vec()].join(&b'=');
        entries.push(CString::new(entry)?);
    }
    Ok((entries, search_path))
}

/// Looks for a program in the folders of a PATH. `None`: the name is a path already.
fn search(name: &[u8], search_path: &[u8]) -> Result<Option<CString>, Errno> {
    if name.contains(&b'/') {
        return Ok(None);
    }
    let mut error = Errno::ENOENT;
    for folder in search_path.split(|byte| *byte == b':') {
        // An empty one is the working directory.
        let folder: &[u8] = if folder.is_empty() { b"." } else { folder };
        let Ok(path) = CString::new([folder, name].join(&b'/')) else { continue };
        let is_file = rustix::fs::stat(&path)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if !is_file || name.is_empty() {
            continue;
        }
        match rustix::fs::access(&path, Access::EXEC_OK) {
            Ok(()) => return Ok(Some(path)),
            Err(_) => error = Errno::EACCES,
        }
    }
    Err(error)
}

/// Can the same start succeed a moment later? `ETXTBSY`: another thread is just writing the
/// program, or one of its commands has not let go of it yet.
fn is_transient(error: Errno) -> bool {
    matches!(error, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ETXTBSY)
}

/// A command that was started and not reaped yet.
#[derive(Debug)]
pub(crate) struct Running {
    pid: Pid,
    start_time: u64,
    /// `None`: there was no descriptor left, or the kernel is older than 5.3.
    pidfd: Option<PidFd>,
    outputs: [Output; 2],
    /// Nobody has to care for it any more.
    released: bool,
}

/// What a wait came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waited {
    /// The command has ended, and its output is complete.
    Ended,
    /// The moment has come before.
    Late,
}

impl Running {
    fn new(pid: Pid, stdout: Output, stderr: Output) -> Running {
        let start_time = proc_fs::start_time(pid.as_raw()).unwrap_or(0);
        let pidfd = PidFd::open(pid.as_raw()).ok();
        Running { pid, start_time, pidfd, outputs: [stdout, stderr], released: false }
    }

    /// Its number, which is the number of its process group as well.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// When it was started, in clock ticks since boot, as in [`proc_fs::start_time`]; 0 if `/proc`
    /// can't be read.
    pub(crate) fn start_time(&self) -> u64 {
        self.start_time
    }

    /// Reads its output until it has ended or [`clock::now`] has come to `until`.
    ///
    /// # Errors
    /// The system can't wait, for lack of memory. The command runs on.
    pub(crate) fn wait(&mut self, until: Option<Duration>) -> io::Result<Waited> {
        let mut tick = Duration::from_millis(1);
        loop {
            let left = until.map(|until| until.saturating_sub(clock::now()));
            let mut pause = left;
            if self.pidfd.is_none() {
                pause = Some(left.map_or(tick, |left| left.min(tick)));
                tick = (tick * 2).min(TICK_MAX);
            }
            if self.wait_once(pause)? {
                self.outputs.iter_mut().for_each(Output::finish);
                return Ok(Waited::Ended);
            }
            if left == Some(Duration::ZERO) {
                return Ok(Waited::Late);
            }
        }
    }

    /// Waits for the next event and reads what is there. Says whether the command has ended.
    fn wait_once(&mut self, pause: Option<Duration>) -> io::Result<bool> {
        let pipes = self.outputs.iter().filter_map(|output| output.pipe.as_ref());
        let descriptors = pipes.map(OwnedFd::as_fd).chain(self.pidfd.iter().map(PidFd::as_fd));
        let mut polled: Vec<PollFd<'_>> =
            descriptors.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut polled, pause.map(clock::timespec).as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let events: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        let mut events = events.into_iter();
        for output in self.outputs.iter_mut().filter(|output| output.pipe.is_some()) {
            output.on_event(events.next().unwrap_or(PollFlags::empty()));
        }
        match events.next() {
            Some(events) => Ok(!events.is_empty()),
            None => Ok(self.has_ended()),
        }
    }

    /// Asks without reaping it.
    fn has_ended(&self) -> bool {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid.as_raw()) else { return true };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(pid), options) {
            Ok(found) => found.is_some(),
            // Somebody else has reaped it.
            Err(error) => error == rustix::io::Errno::CHILD,
        }
    }

    /// Reaps a command that [has ended](Waited::Ended), and hands out its two outputs.
    ///
    /// # Errors
    /// It is not known how it ended: SIGCHLD is ignored, or somebody else has reaped it.
    pub(crate) fn reap(mut self) -> (io::Result<Ended>, [Output; 2]) {
        self.released = true;
        let ended = loop {
            // Not without blocking: while a tracer looks at the dead it is not ours to reap yet.
            match waitpid(rustix::process::Pid::from_raw(self.pid()), WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => break Ok(Ended::Exited(code)),
                        (None, Some(signal)) => break Ok(Ended::Signaled(signal)),
                        (None, None) => {}
                    }
                }
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => break Err(error.into()),
            }
        };
        (ended, std::mem::take(&mut self.outputs))
    }

    /// Lets go of a command that can't be ended. Its number stays its own until it is reaped.
    pub(crate) fn give_up(mut self) -> (Pid, [Output; 2]) {
        self.released = true;
        (self.pid, std::mem::take(&mut self.outputs))
    }

    /// Ends the command and all that it started: its group, its descendants, and whatever has all
    /// of `markers` in its environment. Takes no longer than until `until`.
    ///
    /// # Errors
    /// The command itself, or all of its group, can't be signalled.
    pub(crate) fn kill_all(&self, markers: &[&[u8]], until: Duration) -> io::Result<()> {
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

/// Reaps a command that was [given up](Running::give_up), if it has ended by now. Says whether
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

impl Drop for Running {
    /// Only a panic comes here with a command that runs.
    fn drop(&mut self) {
        if !self.released {
            let _gone = killpg(self.pid, Signal::SIGKILL);
            reap_given_up(self.pid);
        }
    }
}

#[cfg(test)]
mod tests;
