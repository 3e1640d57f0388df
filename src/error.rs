//! What can go wrong before or while a pipeline runs, and the exit code that says so.

mod mistakes;

use nix::libc;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

pub use mistakes::Mistakes;
pub(crate) use mistakes::{Mistake, Wrong};

/// The exit codes of a run, as scripts and service managers see them.
///
/// Where several are true, the one further up wins; the order of the variants is that order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// The configuration is not valid, or the spool holds pending work of another pipeline.
    Config = 78,
    /// Wrong usage of the command line.
    Usage = 2,
    /// Another daemon holds this spool or this output.
    Held = 75,
    /// The spool or the output can't be read or written.
    Io = 74,
    /// A child could not be kept running.
    Failure = 1,
    /// Something had to be killed; what it held is in the spool.
    Killed = 4,
    /// Stopped in order before the end of a finite list.
    Unfinished = 5,
    /// A finite list was finished, and some jobs failed for good.
    JobsFailed = 3,
    /// Everything stopped in order, everything flushed.
    Success = 0,
}

impl ExitCode {
    /// All of them, in the order of precedence.
    pub const ALL: [ExitCode; 9] = [
        ExitCode::Config,
        ExitCode::Usage,
        ExitCode::Held,
        ExitCode::Io,
        ExitCode::Failure,
        ExitCode::Killed,
        ExitCode::Unfinished,
        ExitCode::JobsFailed,
        ExitCode::Success,
    ];

    /// What it means, as the manual page says it.
    pub const fn meaning(self) -> &'static str {
        match self {
            ExitCode::Config => {
                "the configuration is not valid, or the spool holds pending work of another pipeline"
            }
            ExitCode::Usage => "wrong usage",
            ExitCode::Held => "another daemon holds this spool or this output",
            ExitCode::Io => {
                "the spool or the output can't be read or written, or a damaged spool has cost a \
                 job of a finished list its result"
            }
            ExitCode::Failure => "a child could not be kept running",
            ExitCode::Killed => {
                "something had to be killed, at the deadline or by a second signal; what it held is \
                 in the spool"
            }
            ExitCode::Unfinished => {
                "stopped in order before the end of a finite list; start it again to go on"
            }
            ExitCode::JobsFailed => "a finite list was finished, and some jobs failed for good",
            ExitCode::Success => {
                "everything stopped in order, everything flushed; so too an endless pipeline after \
                 SIGTERM or SIGINT"
            }
        }
    }

    /// The number that the process exits with.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Position in the order of precedence: 0 wins over everything.
    const fn rank(self) -> u8 {
        match self {
            ExitCode::Config => 0,
            ExitCode::Usage => 1,
            ExitCode::Held => 2,
            ExitCode::Io => 3,
            ExitCode::Failure => 4,
            ExitCode::Killed => 5,
            ExitCode::Unfinished => 6,
            ExitCode::JobsFailed => 7,
            ExitCode::Success => 8,
        }
    }

    /// The one of the two that takes precedence.
    #[must_use]
    pub const fn worst(self, other: ExitCode) -> ExitCode {
        if other.rank() < self.rank() { other } else { self }
    }

    /// The code that a child process exited with, read back; anything unknown is a failure.
    pub const fn from_code(code: i32) -> ExitCode {
        match code {
            78 => ExitCode::Config,
            2 => ExitCode::Usage,
            75 => ExitCode::Held,
            74 => ExitCode::Io,
            4 => ExitCode::Killed,
            5 => ExitCode::Unfinished,
            3 => ExitCode::JobsFailed,
            0 => ExitCode::Success,
            _ => ExitCode::Failure,
        }
    }
}

/// Why a pipeline could not start, or could not go on.
///
/// Sorted by what the caller can do about it: correct the declaration, wait for another daemon,
/// look after a file, or look at the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was declared makes no sense; nothing was started. The text may have several lines.
    #[error("{0}")]
    Config(String),
    /// A configuration file is not valid; nothing was started. Each mistake has its place.
    #[error("{0}")]
    Mistakes(Mistakes),
    /// The command line makes no sense; nothing was started.
    #[error("{0}")]
    Usage(String),
    /// Another daemon holds the spool or the output.
    #[error("{0}")]
    Held(String),
    /// A file can't be read, written or trusted.
    #[error("{path}: {message}")]
    File {
        /// The file in question.
        path: PathBuf,
        /// What was tried, what came of it and what to do.
        message: String,
    },
    /// `run` was called where it can't fork: the process has more than one thread.
    #[error(
        "procsig forks its workers and so must be started from a process with a single thread, \
         but this one has {threads}: call `run` before starting a thread pool, an async runtime \
         or a logger with a thread of its own, or start the pipeline from a program of its own"
    )]
    Threaded {
        /// The number of threads found.
        threads: usize,
    },
    /// The system refused something: a fork, a channel, a signal handler.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A child could not be kept running, or failed for good.
    #[error("{0}")]
    Failure(String),
    /// A worker function has asked for the stop of its pipeline.
    #[error("{0}")]
    Stop(String),
}

/// What can be done about what the system has said of a file.
fn way_out(error: &io::Error) -> &'static str {
    const FAILED: &str = "The disk, or the way to it, has failed (dmesg says more): see to it";
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => {
            return "Raise the limit of descriptors (ulimit -n, LimitNOFILE=)";
        }
        Some(libc::EIO | libc::ENXIO | libc::ENODEV) => return FAILED,
        _ => {}
    }
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "Make room",
        ErrorKind::ReadOnlyFilesystem => {
            "Its file system can only be read, mostly since the disk has failed (dmesg says more): see \
             to it, and mount it to be written"
        }
        ErrorKind::StaleNetworkFileHandle | ErrorKind::TimedOut => FAILED,
        ErrorKind::PermissionDenied => "Give this user the right to it",
        ErrorKind::BrokenPipe => "Whoever has read it is gone: start the reader",
        ErrorKind::NotFound => "Create the directory that it is to be in",
        ErrorKind::OutOfMemory => "Give it more memory",
        _ => "Remove the cause",
    }
}

impl Error {
    /// A file error from what the system said.
    pub(crate) fn file(path: &Path, what: &str, source: impl std::fmt::Display) -> Error {
        Error::File { path: path.to_path_buf(), message: format!("{what}: {source}") }
    }

    /// A file error from what the system said, with what to do about it.
    pub(crate) fn to_remedy(path: &Path, what: &str, source: &io::Error) -> Error {
        Error::file(path, what, format!("{source}. {}, then start again", way_out(source)))
    }

    /// As [`Error::to_remedy`], of what records are written to when there are some.
    pub(crate) fn of_records(path: &Path, what: &str, source: &io::Error) -> Error {
        // It may say already what to do.
        match source.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::File { path: its, message }) if its == path => {
                return Error::File { path: path.to_path_buf(), message: message.clone() };
            }
            Some(inner) => return Error::file(path, what, inner),
            None => {}
        }
        let kept = "what is not written is kept in the spool";
        let way_out = way_out(source);
        Error::file(path, what, format!("{source}; {kept}. {way_out}, then start again"))
    }

    /// A system error for `what` was tried; for use with `map_err`.
    pub(crate) fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::System { what, source: source.into() }
    }

    /// The exit code that stands for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Error::Config(_) | Error::Mistakes(_) => ExitCode::Config,
            Error::Usage(_) => ExitCode::Usage,
            Error::Held(_) => ExitCode::Held,
            Error::File { .. } => ExitCode::Io,
            Error::Threaded { .. } | Error::System { .. } | Error::Failure(_) | Error::Stop(_) => {
                ExitCode::Failure
            }
        }
    }

    /// Would another process in this one's place come to the same? It finds the same file, the same
    /// list, the same configuration.
    pub(crate) fn is_for_good(&self) -> bool {
        match self {
            Error::File { .. }
            | Error::Config(_)
            | Error::Mistakes(_)
            | Error::Held(_)
            | Error::Stop(_) => true,
            Error::System { .. } | Error::Failure(_) | Error::Threaded { .. } | Error::Usage(_) => {
                false
            }
        }
    }
}
