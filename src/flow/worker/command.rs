//! The worker that runs a command for each job, and the result that comes of it.
//!
//! - A job is one attempt here. Whether there is another one is for the caller to decide, by the
//!   [`CommandOutcome`]; each outcome can be encoded as the job's final result.
//! - Whatever the job holds, it is an argument or part of one, never a command line.
//! - No call waits for longer than the time-out and [`KILL_MAX`]; without a time-out, no longer
//!   than the command runs.
//!
//! A result is one line of JSON, see [`CommandResult::encode`].

use std::ffi::CString;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;

use super::Attempt;
use crate::config;
use crate::sys::process::Ended;
use crate::sys::spawn::{self, CommandLine, Output, Running, Waited};
use crate::sys::{clock, spawn::JOB_VARIABLE};

/// Longest wait for the end of a command that was killed. Beyond it the command is given up.
const KILL_MAX: Duration = Duration::from_secs(5);

/// A job as the worker gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JobRef<'a> {
    /// What is to be done: bytes, of any kind.
    pub(crate) job: &'a [u8],
    /// Its number in the list, from 1.
    pub(crate) seq: u64,
    /// How often the list had been begun, if it is run again and again.
    pub(crate) round: Option<u64>,
    /// The number of this attempt, from 1.
    pub(crate) attempt: u32,
}

impl<'a> JobRef<'a> {
    pub(super) fn of(attempt: &Attempt<'a>) -> JobRef<'a> {
        let Attempt { job, round, .. } = attempt;
        JobRef {
            job: job.text,
            seq: job.seq,
            round: *round,
            attempt: u32::try_from(job.attempt).unwrap_or(u32::MAX),
        }
    }
}

/// A command that has just been started: what is needed to kill it when its worker is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Started {
    /// Its number.
    pub(crate) pid: i32,
    /// When it was started, in clock ticks since boot; 0 if `/proc` can't be read.
    pub(crate) start_time: u64,
    /// Its process group.
    pub(crate) group: i32,
}

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum CommandOutcome<'a> {
    /// The command exited with 0, in time.
    Done(CommandResult<'a>),
    /// It did not. Counts as an attempt.
    Failed {
        /// The result to publish if there is no other attempt.
        result: CommandResult<'a>,
        /// Why, for the log. Without the job.
        reason: String,
        /// Can another attempt come to anything else? Not if the job can't be an argument.
        retryable: bool,
    },
    /// A SIGINT, SIGTERM or SIGHUP ended it, and we send none of these: the machine or the service
    /// is being shut down. The job goes back and the attempt does not count, three times at most;
    /// from then on the caller treats it as failed.
    PutBack {
        /// The result to publish if it was put back too often.
        result: CommandResult<'a>,
        /// Why, for the log. Without the job.
        reason: String,
    },
}

/// The result of one attempt.
#[derive(Debug)]
pub(crate) struct CommandResult<'a> {
    job: JobRef<'a>,
    worker: &'a str,
    ok: bool,
    ended: Option<Ended>,
    timed_out: bool,
    stdout: Captured,
    stderr: Captured,
    /// What the other fields don't tell.
    error: Option<String>,
    /// Why it has failed, in a sentence.
    reason: String,
    started: Duration,
    took: Duration,
}

/// Runs a command for one job at a time and thread. All threads of a worker share it.
#[derive(Debug)]
pub(crate) struct CommandRunner {
    line: CommandLine,
    run_marker: Vec<u8>,
    worker: String,
    timeout: Option<Duration>,
    output_max: usize,
    /// Commands that could not be ended and are to be reaped when they do.
    given_up: Mutex<Vec<nix::unistd::Pid>>,
    /// It was said that a command can't be started.
    complained: AtomicBool,
}

impl CommandRunner {
    /// A runner for the worker process called `name`, such as `ping/0`, in the run `run_id`.
    ///
    /// # Errors
    /// `InvalidInput` if the worker runs no command, or one that can't be an argument list;
    /// whatever keeps `/dev/null` from being opened.
    pub(crate) fn new(
        worker: &config::Worker,
        name: &str,
        run_id: &str,
    ) -> io::Result<CommandRunner> {
        let config::Run::Command(command) = &worker.run else {
            let message = format!("worker {name} runs no command");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        Ok(CommandRunner {
            line: CommandLine::new(command, &worker.env, run_id)?,
            run_marker: spawn::run_marker(run_id),
            worker: name.to_owned(),
            timeout: worker.timeout,
            output_max: usize::try_from(worker.max_output).unwrap_or(usize::MAX),
            given_up: Mutex::default(),
            complained: AtomicBool::new(false),
        })
    }

    /// Runs the command for a job, to its end or its time-out. `on_start` is told of it as soon as
    /// it is there, so that it can be found if this process dies.
    ///
    /// Background processes of a command that ends by itself are left alone.
    pub(crate) fn run<'a>(
        &'a self,
        job: JobRef<'a>,
        on_start: &mut dyn FnMut(Started),
    ) -> CommandOutcome<'a> {
        self.reap_given_up();
        let mut result = CommandResult::new(job, &self.worker);
        let begin = clock::now();
        let marker = job_marker(job);
        let running = match self.line.start(job.job, &marker, self.output_max) {
            Ok(running) => running,
            Err(error) => {
                result.took = clock::now().saturating_sub(begin);
                complain_once(&error, &self.complained);
                return result.fail(error.to_string(), error != spawn::StartError::Nul);
            }
        };
        let pid = running.pid();
        on_start(Started { pid, start_time: running.start_time(), group: pid });
        self.wait(running, begin, &marker, &mut result);
        result.took = clock::now().saturating_sub(begin);
        result.into_outcome(self.timeout)
    }

    /// Waits for the command and fills in what it came to.
    fn wait(
        &self,
        mut running: Running,
        begin: Duration,
        marker: &CString,
        result: &mut CommandResult<'_>,
    ) {
        let until = self.timeout.and_then(|timeout| begin.checked_add(timeout));
        let ended = match running.wait(until) {
            Ok(Waited::Ended) => true,
            late_or_error => {
                result.timed_out = late_or_error.is_ok();
                result.error = late_or_error.err().map(|error| format!("can't wait: {error}"));
                let kill_until = clock::now().saturating_add(KILL_MAX);
                let markers = [self.run_marker.as_slice(), marker.as_bytes()];
                let killed = running.kill_all(&markers, kill_until);
                // What can't be signalled is not waited for; it might have ended by itself.
                let kill_until = if killed.is_ok() { kill_until } else { clock::now() };
                let ended = matches!(running.wait(Some(kill_until)), Ok(Waited::Ended));
                if !ended {
                    let why = match killed {
                        Ok(()) => "it does not end".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    result.error = Some(format!("can't kill process {}: {why}", running.pid()));
                }
                ended
            }
        };
        let outputs = if ended {
            let (ended, outputs) = running.reap();
            match ended {
                Ok(ended) => result.ended = Some(ended),
                Err(error) => result.error = Some(format!("its exit code is lost: {error}")),
            }
            outputs
        } else {
            let (pid, outputs) = running.give_up();
            self.given_up.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
            outputs
        };
        [result.stdout, result.stderr] = outputs.map(Captured::new);
    }

    /// Reaps those that could not be ended and have ended since.
    fn reap_given_up(&self) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.retain(|pid| !spawn::reap_given_up(*pid));
    }
}

/// What the environment of a job's command holds, and of all that it starts.
fn job_marker(job: JobRef<'_>) -> CString {
    let JobRef { seq, round, attempt, .. } = job;
    let text = format!("{JOB_VARIABLE}={seq}.{}.{attempt}", round.unwrap_or(0));
    CString::new(text).unwrap_or_default()
}

impl<'a> CommandResult<'a> {
    fn new(job: JobRef<'a>, worker: &'a str) -> CommandResult<'a> {
        CommandResult {
            job,
            worker,
            ok: false,
            ended: None,
            timed_out: false,
            stdout: Captured::default(),
            stderr: Captured::default(),
            error: None,
            reason: String::new(),
            started: clock::wall(),
            took: Duration::ZERO,
        }
    }

    fn fail(mut self, error: String, retryable: bool) -> CommandOutcome<'a> {
        self.error = Some(error.clone());
        self.reason.clone_from(&error);
        CommandOutcome::Failed { result: self, reason: error, retryable }
    }

    fn into_outcome(mut self, timeout: Option<Duration>) -> CommandOutcome<'a> {
        let mut reason = String::new();
        if self.timed_out {
            reason = format!("timed out after {:?}", timeout.unwrap_or_default());
        } else if let Some(ended) = self.ended {
            reason = match ended {
                Ended::Exited(code) => format!("exit code {code}"),
                Ended::Signaled(signal) => format!("ended by {}", signal_name(signal)),
            };
        }
        if let Some(error) = &self.error {
            let separator = if reason.is_empty() { "" } else { ", " };
            reason = format!("{reason}{separator}{error}");
        }
        self.reason.clone_from(&reason);
        let by_itself = !self.timed_out && self.error.is_none();
        match self.ended {
            Some(Ended::Exited(0)) if by_itself => {
                self.ok = true;
                CommandOutcome::Done(self)
            }
            Some(Ended::Signaled(signal)) if by_itself && is_shutdown(signal) => {
                CommandOutcome::PutBack { result: self, reason }
            }
            _ => CommandOutcome::Failed { result: self, reason, retryable: true },
        }
    }

    /// Appends the result as one line of JSON with its line end: as one that has failed for good, if it
    /// is for the dead letters.
    ///
    /// A line that would be longer than `size_max` bytes gets less of stdout and stderr, marked as
    /// cut, so that it is not. Says whether it succeeded; if not, the line was appended without
    /// any output and still is longer.
    #[must_use]
    pub(crate) fn encode(&self, out: &mut Vec<u8>, size_max: usize, dead: bool) -> bool {
        let begin = out.len();
        let (stdout, stderr) = (self.stdout.view(), self.stderr.view());
        self.write(out, &stdout, &stderr, dead);
        if out.len() - begin <= size_max {
            return true;
        }
        out.truncate(begin);
        self.write(out, &stdout.none(), &stderr.none(), dead);
        let Some(room) = size_max.checked_sub(out.len() - begin) else { return false };
        out.truncate(begin);
        // Half for each, and what one doesn't need for the other.
        let (stdout_size, stderr_size) = (stdout.encoded_len(), stderr.encoded_len());
        let stdout_room = stdout_size.min((room / 2).max(room.saturating_sub(stderr_size)));
        let stderr_room = stderr_size.min(room - stdout_room);
        self.write(out, &stdout.shrunk(stdout_room), &stderr.shrunk(stderr_room), dead);
        true
    }

    fn write(&self, out: &mut Vec<u8>, stdout: &View<'_>, stderr: &View<'_>, dead: bool) {
        put_job(out, self.job);
        if dead {
            put_dead(out, &self.reason, self.job.attempt);
        } else {
            put(out, format_args!(",\"ok\":{}", self.ok));
        }
        match self.ended {
            Some(Ended::Exited(code)) => put(out, format_args!(",\"exit\":{code}")),
            Some(Ended::Signaled(signal)) => {
                put(out, format_args!(",\"signal\":\"{}\"", signal_name(signal)));
            }
            None => {}
        }
        if self.timed_out {
            put(out, format_args!(",\"timed_out\":true"));
        }
        stdout.write(out, "stdout");
        stderr.write(out, "stderr");
        if let Some(error) = self.error.as_ref().filter(|_| !dead) {
            out.push(b',');
            put_text(out, "error", error);
        }
        if !dead {
            put(out, format_args!(",\"attempt\":{}", self.job.attempt));
        }
        put_end(out, self.worker, self.started, self.took);
    }
}

/// An output of a command, as text if it is text.
#[derive(Debug)]
enum Captured {
    Text { text: String, cut: bool },
    Bytes { bytes: Vec<u8>, cut: bool },
}

impl Default for Captured {
    fn default() -> Captured {
        Captured::Text { text: String::new(), cut: false }
    }
}

impl Captured {
    fn new(output: Output) -> Captured {
        let (mut bytes, cut) = output.into_parts();
        // Text stays text when it was cut in the middle of a character.
        if cut
            && let Err(error) = std::str::from_utf8(&bytes)
            && error.error_len().is_none()
        {
            bytes.truncate(error.valid_up_to());
        }
        match String::from_utf8(bytes) {
            Ok(text) => Captured::Text { text, cut },
            Err(error) => Captured::Bytes { bytes: error.into_bytes(), cut },
        }
    }

    fn view(&self) -> View<'_> {
        match self {
            Captured::Text { text, cut } => View { content: Content::Text(text), cut: *cut },
            Captured::Bytes { bytes, cut } => View { content: Content::Bytes(bytes), cut: *cut },
        }
    }
}

/// As much of an output as is written.
#[derive(Debug, Clone, Copy)]
struct View<'a> {
    content: Content<'a>,
    cut: bool,
}

#[derive(Debug, Clone, Copy)]
enum Content<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl<'a> View<'a> {
    /// Nothing of it, marked as cut: the least that it can take.
    fn none(self) -> View<'a> {
        let content = match self.content {
            Content::Text(_) => Content::Text(""),
            Content::Bytes(_) => Content::Bytes(b""),
        };
        View { content, cut: true }
    }

    /// The bytes that the content takes when it is written, without its quotes.
    fn encoded_len(&self) -> usize {
        match self.content {
            Content::Text(text) => text.bytes().map(escaped_len).sum(),
            Content::Bytes(bytes) => bytes.len().div_ceil(3) * 4,
        }
    }

    /// As much of its beginning as takes `room` bytes when it is written.
    fn shrunk(self, room: usize) -> View<'a> {
        if self.encoded_len() <= room {
            return self;
        }
        let content = match self.content {
            Content::Text(text) => {
                let mut left = room;
                let mut end = text.len();
                for (at, byte) in text.bytes().enumerate() {
                    match left.checked_sub(escaped_len(byte)) {
                        Some(rest) => left = rest,
                        None => {
                            end = at;
                            break;
                        }
                    }
                }
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                Content::Text(&text[..end])
            }
            Content::Bytes(bytes) => Content::Bytes(&bytes[..bytes.len().min(room / 4 * 3)]),
        };
        View { content, cut: true }
    }

    fn write(&self, out: &mut Vec<u8>, key: &str) {
        out.push(b',');
        match self.content {
            Content::Text(text) => put_text(out, key, text),
            Content::Bytes(bytes) => put_base64(out, key, bytes),
        }
        if self.cut {
            put(out, format_args!(",\"{key}_cut\":true"));
        }
    }
}

/// The bytes that a byte of text takes in a string of JSON, as serde_json writes it.
fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// The result of a job that fails of it says so as well; but there may be thousands of them.
pub(super) fn complain_once(error: &spawn::StartError, complained: &AtomicBool) {
    let refused = matches!(error, spawn::StartError::Refused { .. });
    if refused && !complained.swap(true, Ordering::Relaxed) {
        log::warn!("{error}; every job that needs it fails (said once)");
    }
}

pub(super) fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A Vec takes everything.
    let _infallible = out.write_fmt(text);
}

pub(super) fn put_text(out: &mut Vec<u8>, key: &str, text: &str) {
    put(out, format_args!("\"{key}\":"));
    // As above; and a string can always be written.
    let _infallible = serde_json::to_writer(out, text);
}

pub(super) fn put_base64(out: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    put(out, format_args!("\"{key}_base64\":\"{}\"", BASE64.encode(bytes)));
}

/// Begins a result: the job and its number.
pub(super) fn put_job(out: &mut Vec<u8>, job: JobRef<'_>) {
    let JobRef { job, seq, round, .. } = job;
    out.push(b'{');
    match std::str::from_utf8(job) {
        Ok(text) => put_text(out, "job", text),
        Err(_) => put_base64(out, "job", job),
    }
    put(out, format_args!(",\"seq\":{seq}"));
    if let Some(round) = round {
        put(out, format_args!(",\"round\":{round}"));
    }
}

/// Goes on with what is recorded of a job that has failed for good.
pub(super) fn put_dead(out: &mut Vec<u8>, reason: &str, attempts: u32) {
    out.push(b',');
    put_text(out, "reason", reason);
    put(out, format_args!(",\"attempts\":{attempts}"));
}

/// Ends a result: who has come to it, when, and in which time.
pub(super) fn put_end(out: &mut Vec<u8>, worker: &str, started: Duration, took: Duration) {
    out.push(b',');
    put_text(out, "worker", worker);
    put(out, format_args!(",\"started\":\"{:.6}\"", timestamp(started)));
    let seconds = format!("{}.{:06}", took.as_secs(), took.subsec_micros());
    let mut digits = seconds.trim_end_matches('0');
    if digits.ends_with('.') {
        digits = &seconds[..digits.len() + 1];
    }
    put(out, format_args!(",\"seconds\":{digits}}}\n"));
}

/// A moment of the calendar. A clock that is set beyond the year 9999 reads as 1970.
fn timestamp(since_epoch: Duration) -> jiff::Timestamp {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
    let nanoseconds = i32::try_from(since_epoch.subsec_nanos()).unwrap_or(0);
    jiff::Timestamp::new(seconds, nanoseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Does this signal mean that somebody shuts down more than the command?
pub(super) fn is_shutdown(signal: i32) -> bool {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].iter().any(|shut| *shut as i32 == signal)
}

/// `SIGKILL`, `SIGRTMIN+1`; the number where there is no name.
pub(super) fn signal_name(number: i32) -> String {
    if let Ok(signal) = Signal::try_from(number) {
        return signal.as_str().to_owned();
    }
    let first = nix::libc::SIGRTMIN();
    match number - first {
        0 => "SIGRTMIN".to_owned(),
        offset if offset > 0 && number <= nix::libc::SIGRTMAX() => format!("SIGRTMIN+{offset}"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests;
