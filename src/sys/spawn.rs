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
use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, FileType, Mode, OFlags};
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, waitid, waitpid};

use super::pidfd::PidFd;
use super::process::Ended;
use super::{clock, proc_fs};

/// The environment variable that names the run, for each command of it.
pub(crate) const RUN_VARIABLE: &str = "PROCSIG_RUN";

/// The environment variable that names the job, for each command.
pub(crate) const JOB_VARIABLE: &str = "PROCSIG_JOB";

/// What the environment of all commands of a run holds; for [`proc_fs::marked`].
pub(crate) fn run_marker(run_id: &str) -> Vec<u8> {
    format!("{RUN_VARIABLE}={run_id}").into_bytes()
}

/// Pauses after a start that the system refused for the moment: about a second in all.
const START_PAUSES_MS: [u64; 8] = [5, 10, 20, 40, 80, 160, 320, 400];

/// Bytes read at a time of what is not kept: what a pipe holds.
const DISCARD_BYTES: usize = 64 << 10;

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

/// A pipe: the end that is read here, without blocking, and the end for a command.
///
/// A command can open its own output for reading, as `/dev/stdout`, and take away what a poll has
/// just promised to us; hence without blocking. The flag is not shared with the other end.
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).map_err(errno)?;
    Ok((read, above_standard(write).map_err(errno)?))
}

/// The same descriptor with a number above those of standard input, output and error.
///
/// Where those were closed, a pipe gets their numbers. `dup2` to itself would leave it
/// close-on-exec, and to another one could overwrite the other pipe.
fn above_standard(descriptor: OwnedFd) -> Result<OwnedFd, rustix::io::Errno> {
    if descriptor.as_raw_fd() > 2 {
        return Ok(descriptor);
    }
    rustix::io::fcntl_dupfd_cloexec(&descriptor, 3)
}

fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}

/// One output of a command: what was read of it, and the pipe as long as more can come.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
    max: usize,
    cut: bool,
}

impl Output {
    fn new(pipe: OwnedFd, max: usize) -> Output {
        Output { pipe: Some(pipe), kept: Vec::new(), max, cut: false }
    }

    /// The bytes that were kept, and whether there were more.
    pub(crate) fn into_parts(self) -> (Vec<u8>, bool) {
        (self.kept, self.cut)
    }

    /// Reads once, and closes the pipe at its end. Says how many bytes came.
    fn read(&mut self) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        let room = self.max - self.kept.len();
        let result = if room == 0 {
            discard(pipe)
        } else {
            // Doubles, so that little output takes little memory and much output few calls.
            self.kept.reserve(room.min(self.kept.len().max(4096)));
            rustix::io::read(pipe, spare_capacity(&mut self.kept))
        };
        match result {
            Ok(0) => self.pipe = None,
            Ok(_) if room == 0 => self.cut = true,
            Ok(_) => {
                self.cut |= self.kept.len() > self.max;
                self.kept.truncate(self.max);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.pipe = None,
        }
        result.unwrap_or(0)
    }

    /// Reads what is in the pipe now, and closes it.
    ///
    /// Of what is in it when the command has ended, all that the command wrote is part; a process
    /// that it left behind can go on filling the pipe for ever.
    fn finish(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let waiting = rustix::io::ioctl_fionread(pipe).unwrap_or(0);
        let mut left = usize::try_from(waiting).unwrap_or(usize::MAX);
        while left > 0 && self.pipe.is_some() {
            match self.read() {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        self.pipe = None;
    }

    fn on_event(&mut self, events: PollFlags) {
        if events.contains(PollFlags::IN) {
            self.read();
        } else if !events.is_empty() {
            // Nothing is in it, and nobody can write any more.
            self.pipe = None;
        }
    }
}

/// Reads what is not kept, or the command would block. Apart, since only few need that much stack.
#[inline(never)]
fn discard(pipe: &OwnedFd) -> Result<usize, rustix::io::Errno> {
    let mut discarded = [std::mem::MaybeUninit::<u8>::uninit(); DISCARD_BYTES];
    rustix::io::read(pipe, &mut discarded).map(|(read, _)| read.len())
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
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Command;

    fn line(command: &[&str], environment: &[(&str, &str)]) -> CommandLine {
        let command: Vec<String> = command.iter().map(|text| text.to_string()).collect();
        let environment =
            environment.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        CommandLine::new(&command, &environment, "spawn-test").expect("valid")
    }

    fn start(line: &CommandLine, job: &str) -> Result<Running, StartError> {
        line.start(job.as_bytes(), c"PROCSIG_JOB=1.0.1", 1 << 20)
    }

    fn stdout(mut running: Running) -> (Ended, String) {
        let until = clock::now() + Duration::from_secs(60);
        assert_eq!(running.wait(Some(until)).expect("can wait"), Waited::Ended);
        let (ended, [stdout, _]) = running.reap();
        (ended.expect("is our child"), String::from_utf8(stdout.into_parts().0).expect("text"))
    }

    fn script(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).expect("can write");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("is ours");
    }

    /// Runs the test of this name in a process of its own, with [`IN_CHILD`] set, which ignores
    /// the signals that our processes ignore.
    fn in_own_process(test: &str) {
        let module = module_path!().split_once("::").expect("in a crate").1;
        let output = Command::new("sh")
            .args(["-c", "trap '' HUP INT QUIT TERM USR1; exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().expect("is running"))
            .args(["--exact", &format!("{module}::{test}"), "--test-threads=1", "--nocapture"])
            .env(IN_CHILD, "1")
            .output()
            .expect("can start itself");
        assert!(output.status.success(), "{output:?}");
    }

    const IN_CHILD: &str = "SPAWN_TEST_IN_CHILD";

    fn is_in_child() -> bool {
        std::env::var_os(IN_CHILD).is_some()
    }

    #[test]
    fn each_pair_of_braces_is_replaced_once_and_without_any_the_job_comes_last() {
        let print = line(&["printf", "%s|", "{}", "a{}b{}c", "d"], &[]);
        let (ended, text) = stdout(start(&print, "{}x").expect("starts"));
        assert_eq!((ended, text.as_str()), (Ended::Exited(0), "{}x|a{}xb{}xc|d|"));
        let (_, text) = stdout(start(&line(&["printf", "%s|", "a"], &[]), "--help").expect("is"));
        assert_eq!(text, "a|--help|");
        let (_, text) = stdout(start(&line(&["{}", "x"], &[]), "echo").expect("starts"));
        assert_eq!(text, "x\n");
    }

    #[test]
    fn the_program_is_looked_for_in_the_path_of_the_command_and_again_when_it_moved() {
        let folder = tempfile::tempdir().expect("can make one");
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        for folder in [&first, &second] {
            std::fs::create_dir(folder).expect("is new");
        }
        let path = format!("{}:{}", first.display(), second.display());
        script(&first.join("tool"), "#!/bin/sh\necho first", 0o755);
        let tool = line(&["tool"], &[("PATH", &path)]);
        assert_eq!(stdout(start(&tool, "").expect("starts")).1, "first\n");
        std::fs::remove_file(first.join("tool")).expect("is there");
        script(&second.join("tool"), "#!/bin/sh\necho second", 0o755);
        assert_eq!(stdout(start(&tool, "").expect("starts")).1, "second\n");
        script(&second.join("tool"), "", 0o644);
        let error = start(&tool, "").expect_err("can't be executed").to_string();
        assert_eq!(error, "can't start \"tool\": Permission denied");
    }

    #[test]
    fn a_file_without_an_interpreter_is_not_handed_to_a_shell() {
        let folder = tempfile::tempdir().expect("can make one");
        script(&folder.path().join("plain"), "echo shell", 0o755);
        let name = folder.path().join("plain").display().to_string();
        let error = start(&line(&[&name], &[]), "").expect_err("is no program").to_string();
        assert_eq!(error, format!("can't start {name:?}: Exec format error"));
    }

    #[test]
    fn what_can_be_no_command_is_refused_when_it_is_prepared() {
        let new = |command: &[&str], key: &str| {
            let command: Vec<String> = command.iter().map(|text| text.to_string()).collect();
            let environment = BTreeMap::from([(key.to_owned(), String::new())]);
            CommandLine::new(&command, &environment, "1").map_err(|error| error.kind())
        };
        assert!(new(&["true"], "KEY").is_ok());
        for (command, key) in
            [(&[][..], "KEY"), (&["a\0"], "KEY"), (&["a"], ""), (&["a"], "A=B"), (&["a"], "A\0")]
        {
            assert_eq!(new(command, key).expect_err("not valid"), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn the_markers_replace_those_of_an_outer_run() {
        let environment = [("PROCSIG_RUN", "outer"), ("PROCSIG_JOB", "outer"), ("LANG", "C")];
        let env = line(&["sh", "-c", "env | grep -E '^(PROCSIG|LANG=)' | sort"], &environment);
        let (_, text) = stdout(start(&env, "").expect("starts"));
        assert_eq!(text, "LANG=C\nPROCSIG_JOB=1.0.1\nPROCSIG_RUN=spawn-test\n");
    }

    #[test]
    fn commands_have_default_dispositions_and_an_empty_mask_and_a_group_of_their_own() {
        if !is_in_child() {
            return in_own_process(
                "commands_have_default_dispositions_and_an_empty_mask_and_a_group_of_their_own",
            );
        }
        SigSet::all().thread_block().expect("valid");
        let own = std::fs::read_to_string("/proc/self/status").expect("mounted");
        assert!(!own.contains("SigIgn:\t0000000000000000"));
        let command = "grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2";
        let running = start(&line(&["sh", "-c", command], &[]), "").expect("starts");
        let group = nix::unistd::getpgid(Some(running.pid)).expect("is there");
        assert_eq!(group, running.pid);
        let (_, text) = stdout(running);
        let masks = text.lines().map(|mask| u64::from_str_radix(mask, 16).expect("a mask"));
        // glibc lets the two signals that it keeps to itself be ignored.
        let reserved = 0b11 << 31;
        assert_eq!(masks.map(|mask| mask & !reserved).collect::<Vec<u64>>(), [0, 0]);
    }

    #[test]
    fn where_the_standard_descriptors_are_closed_the_outputs_still_arrive() {
        if !is_in_child() {
            return in_own_process(
                "where_the_standard_descriptors_are_closed_the_outputs_still_arrive",
            );
        }
        let mut all_right = true;
        // Also with each pair closed alone: then the pipes are born as 1 and 2, or 2 and 1.
        for closed in [&[0][..], &[1], &[2], &[0, 1, 2]] {
            for number in closed {
                let _perhaps_closed_already = nix::unistd::close(*number);
            }
            let print = line(&["sh", "-c", "echo out; echo err >&2; cat"], &[]);
            let mut running = start(&print, "").expect("starts");
            let waited = running.wait(None).ok();
            let (ended, outputs) = running.reap();
            let [stdout, stderr] = outputs.map(|output| output.into_parts().0);
            all_right &= waited == Some(Waited::Ended)
                && ended.ok() == Some(Ended::Exited(0))
                && stdout == b"out\n"
                && stderr == b"err\n";
        }
        for number in 0..=2 {
            let _perhaps_closed_already = nix::unistd::close(number);
        }
        let lowest = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let moved = lowest.and_then(above_standard);
        all_right &= moved.is_ok_and(|fd| {
            fd.as_raw_fd() > 2 && rustix::io::fcntl_getfd(&fd).is_ok_and(|flags| !flags.is_empty())
        });
        // The harness can't print any more.
        std::process::exit(if all_right { 0 } else { 1 });
    }

    #[test]
    fn without_pidfds_the_end_and_the_time_out_are_noticed_all_the_same() {
        let mut running = start(&line(&["sh", "-c", "echo a; exit 3"], &[]), "").expect("starts");
        running.pidfd = None;
        assert_eq!(stdout(running), (Ended::Exited(3), "a\n".to_owned()));
        let mut running = start(&line(&["sleep", "1000", "{}"], &[]), "1").expect("starts");
        running.pidfd = None;
        let until = clock::now() + Duration::from_millis(20);
        assert_eq!(running.wait(Some(until)).expect("can wait"), Waited::Late);
        running.kill_all(&[b"NO=SUCH"], clock::now()).expect("is ours");
        assert_eq!(stdout(running).0, Ended::Signaled(9));
    }

    #[test]
    fn a_command_that_does_not_end_is_given_up_and_reaped_later() {
        let mut running = start(&line(&["sleep", "1000", "{}"], &[]), "1").expect("starts");
        assert_eq!(running.wait(Some(clock::now())).expect("can wait"), Waited::Late);
        let (pid, _) = running.give_up();
        assert!(!reap_given_up(pid));
        let process = PidFd::open(pid.as_raw()).expect("is there");
        process.kill().expect("is ours");
        assert!(process.wait(None).expect("can wait"));
        assert!(reap_given_up(pid));
        assert!(reap_given_up(pid));
    }

    #[test]
    fn a_command_that_can_not_be_signalled_is_an_error_and_not_waited_for() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: a_command_that_can_not_be_signalled needs root");
        }
        // To the kernel user ids belong to threads. This one loses its right to kill root's.
        let process = std::thread::spawn(|| {
            let folder = tempfile::tempdir().expect("can make one");
            let mode = |path: &Path, mode| {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours")
            };
            mode(folder.path(), 0o755);
            let setuid = folder.path().join("setpriv");
            std::fs::copy("/usr/bin/setpriv", &setuid).expect("can copy");
            mode(&setuid, 0o4755);
            let command = "echo started; exec sleep 1000";
            let path = setuid.display().to_string();
            let root = line(&[&path, "--reuid", "0", "sh", "-c", command], &[]);
            let nobody = Some(rustix::process::Uid::from_raw(65534));
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("is root");
            let mut running = start(&root, "").expect("starts");
            while running.outputs[0].kept.is_empty() {
                assert!(!running.wait_once(None).expect("can wait"));
            }
            let until = clock::now() + Duration::from_secs(60);
            let killed = running.kill_all(&[b"NO=SUCH"], until).map_err(|error| error.kind());
            assert_eq!(killed, Err(io::ErrorKind::PermissionDenied));
            assert_eq!(running.wait(Some(clock::now())).expect("can wait"), Waited::Late);
            running.give_up().0
        });
        let pid = process.join().expect("no panic");
        nix::sys::signal::kill(pid, Signal::SIGKILL).expect("is root, and it still runs");
        while !reap_given_up(pid) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_command_that_is_dropped_is_killed() {
        let running = start(&line(&["sleep", "1000", "{}"], &[]), "1").expect("starts");
        let process = PidFd::open(running.pid()).expect("is there");
        drop(running);
        assert!(process.wait(Some(clock::now() + Duration::from_secs(60))).expect("can wait"));
    }

    #[test]
    fn what_is_refused_for_the_moment_is_tried_again() {
        // A program that is open for writing can't be executed.
        let folder = tempfile::tempdir().expect("can make one");
        let program = folder.path().join("true");
        std::fs::copy("/bin/true", &program).expect("can copy");
        let writer = std::fs::OpenOptions::new().append(true).open(&program).expect("is ours");
        let command = line(&[&program.display().to_string()], &[]);
        let begin = clock::now();
        let error = start(&command, "").expect_err("is being written").to_string();
        assert!(error.ends_with(": Text file busy"), "{error}");
        let pauses = START_PAUSES_MS.iter().sum();
        assert!(clock::now() - begin >= Duration::from_millis(pauses));
        drop(writer);
        assert_eq!(stdout(start(&command, "").expect("starts")).0, Ended::Exited(0));
    }

    #[test]
    fn only_our_end_of_a_pipe_does_not_block_and_both_are_close_on_exec() {
        let (read, write) = pipe().expect("a pipe");
        let nonblocking = [&read, &write].map(|end| {
            let flags = rustix::fs::fcntl_getfl(end).expect("is open");
            assert!(rustix::io::fcntl_getfd(end).is_ok_and(|flags| !flags.is_empty()));
            flags.contains(OFlags::NONBLOCK)
        });
        assert_eq!(nonblocking, [true, false]);
    }
}
