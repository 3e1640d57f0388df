//! Starting a command, waiting for it, and ending it together with all that it started.
//!
//! `posix_spawn`, not `fork` and `exec`: its cost does not grow with this process's memory, and
//! several threads can start commands at the same time. What holds for every command:
//!
//! - It has default dispositions and an empty mask, whatever this process ignores or blocks, and a
//!   process group of its own. Never a shell; the job is part of an argument, byte for byte.
//! - It inherits three descriptors: `/dev/null`, or the read end of a pipe, and the write ends of
//!   two pipes. All others of ours are close-on-exec from their first moment, so that two threads don't leak into each
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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use rustix::fs::{Access, FileType, Mode, OFlags};

mod leader;
mod output;
mod piped;
mod running;

pub(crate) use leader::reap_given_up;
pub(crate) use output::Output;
pub(crate) use piped::{Piped, Ready};
pub(crate) use running::{Running, Waited};

use leader::Leader;
use output::{above_standard, input_pipe, pipe};

/// The environment variable that names the run, for each command of it.
pub(crate) const RUN_VARIABLE: &str = "PROCSIG_RUN";

/// The environment variable that names the job, for each command.
pub(crate) const JOB_VARIABLE: &str = "PROCSIG_JOB";

/// A run's number as environments and messages say it.
pub(crate) fn run_name(run_id: u64) -> String {
    format!("{run_id:016x}")
}

/// What the environment of all commands of a run holds; for [`super::proc_fs::marked`].
pub(crate) fn run_marker(run_id: &str) -> Vec<u8> {
    format!("{RUN_VARIABLE}={run_id}").into_bytes()
}

/// Pauses after a start that the system refused for the moment: about a second in all.
const START_PAUSES_MS: [u64; 8] = [5, 10, 20, 40, 80, 160, 320, 400];

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

    /// Prepares `command` to be run without a job: its arguments stay as they are, `{}` too.
    ///
    /// # Errors
    /// As [`CommandLine::new`].
    pub(crate) fn fixed(
        command: &[String],
        environment: &BTreeMap<String, String>,
        run_id: &str,
    ) -> io::Result<CommandLine> {
        let mut line = CommandLine::new(command, environment, run_id)?;
        line.arguments.clear();
        for text in command {
            line.arguments.push(Argument::Literal(CString::new(text.as_str())?));
        }
        line.found = search(line.program_name(), &line.search_path).ok().flatten();
        Ok(line)
    }

    /// Is there such a program, and may it be executed?
    ///
    /// # Errors
    /// [`StartError::Refused`] if not.
    pub(crate) fn check_program(&self) -> Result<(), StartError> {
        let name = self.program_name();
        let checked = search(name, &self.search_path).and_then(|found| match found {
            Some(_) => Ok(()),
            None => rustix::fs::access(name, Access::EXEC_OK)
                .map_err(|error| Errno::from_raw(error.raw_os_error())),
        });
        checked.map_err(|error| {
            let program = String::from_utf8_lossy(name).into_owned();
            StartError::Refused { program, error }
        })
    }

    /// The name as it was declared; empty if it comes from the job.
    fn program_name(&self) -> &[u8] {
        match self.arguments.first() {
            Some(Argument::Literal(name)) => name.to_bytes(),
            _ => &[],
        }
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
        self.start_with(&arguments, job_id, |arguments, environment| {
            let (stdout, stdout_write) = pipe()?;
            let (stderr, stderr_write) = pipe()?;
            let streams = [self.null.as_fd(), stdout_write.as_fd(), stderr_write.as_fd()];
            let leader = self.spawn(arguments, environment, streams)?;
            let outputs = [stdout, stderr].map(|pipe| Output::new(pipe, output_max));
            Ok(Running::new(leader, outputs))
        })
    }

    /// Starts the command with a pipe at each of its three standard streams, and without a job.
    /// `id` is what [`JOB_VARIABLE`] will say.
    ///
    /// What the system refuses only for the moment is tried again, for about a second.
    pub(crate) fn start_piped(&self, id: &CStr) -> Result<Piped, StartError> {
        let arguments = self.fill_in(b"")?;
        self.start_with(&arguments, id, |arguments, environment| {
            let (stdin_read, stdin) = input_pipe()?;
            let (stdout, stdout_write) = pipe()?;
            let (stderr, stderr_write) = pipe()?;
            let streams = [stdin_read.as_fd(), stdout_write.as_fd(), stderr_write.as_fd()];
            let leader = self.spawn(arguments, environment, streams)?;
            Ok(Piped::new(leader, stdin, stdout, stderr))
        })
    }

    fn start_with<T>(
        &self,
        arguments: &[Cow<'_, CStr>],
        id: &CStr,
        start_once: impl Fn(&[Cow<'_, CStr>], &[&CStr]) -> Result<T, Errno>,
    ) -> Result<T, StartError> {
        let mut environment: Vec<&CStr> = Vec::with_capacity(self.environment.len() + 1);
        environment.push(id);
        environment.extend(self.environment.iter().map(CString::as_c_str));
        let mut pauses = START_PAUSES_MS.iter();
        loop {
            let error = match start_once(arguments, &environment) {
                Ok(started) => return Ok(started),
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

    /// The arguments for a job: the job in each of its places, whatever it holds.
    pub(crate) fn fill_in(&self, job: &[u8]) -> Result<Vec<Cow<'_, CStr>>, StartError> {
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

    /// Starts it once, with these as its standard streams. None of them may have a number below
    /// 3, so that none is overwritten before its turn.
    fn spawn(
        &self,
        arguments: &[Cow<'_, CStr>],
        environment: &[&CStr],
        streams: [BorrowedFd<'_>; 3],
    ) -> Result<Leader, Errno> {
        let mut actions = PosixSpawnFileActions::init()?;
        for (stream, number) in streams.iter().zip(0..) {
            actions.add_dup2(stream.as_raw_fd(), number)?;
        }
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
        self.with_program(&arguments[0], spawn).map(Leader::new)
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

/// Is there a program of this name, for a command with these additions to the environment?
pub(crate) fn find_program(
    name: &str,
    environment: &BTreeMap<String, String>,
) -> Result<(), Errno> {
    let (_, search_path) = prepare_environment(environment, "").map_err(|_| Errno::EINVAL)?;
    match search(name.as_bytes(), &search_path)? {
        Some(_) => Ok(()),
        None => rustix::fs::access(name, Access::EXEC_OK)
            .map_err(|error| Errno::from_raw(error.raw_os_error())),
    }
}

/// Can the same start succeed a moment later? `ETXTBSY`: another thread is just writing the
/// program, or one of its commands has not let go of it yet.
fn is_transient(error: Errno) -> bool {
    matches!(error, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::ETXTBSY)
}

#[cfg(test)]
mod tests;
