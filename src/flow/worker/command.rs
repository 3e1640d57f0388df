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
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;

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
            started: clock::wall(),
            took: Duration::ZERO,
        }
    }

    fn fail(mut self, error: String, retryable: bool) -> CommandOutcome<'a> {
        self.error = Some(error.clone());
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

    /// Appends the result as one line of JSON with its line end.
    ///
    /// A line that would be longer than `size_max` bytes gets less of stdout and stderr, marked as
    /// cut, so that it is not. Says whether it succeeded; if not, the line was appended without
    /// any output and still is longer.
    #[must_use]
    pub(crate) fn encode(&self, out: &mut Vec<u8>, size_max: usize) -> bool {
        let begin = out.len();
        let (stdout, stderr) = (self.stdout.view(), self.stderr.view());
        self.write(out, &stdout, &stderr);
        if out.len() - begin <= size_max {
            return true;
        }
        out.truncate(begin);
        self.write(out, &stdout.none(), &stderr.none());
        let Some(room) = size_max.checked_sub(out.len() - begin) else { return false };
        out.truncate(begin);
        // Half for each, and what one doesn't need for the other.
        let (stdout_size, stderr_size) = (stdout.encoded_len(), stderr.encoded_len());
        let stdout_room = stdout_size.min((room / 2).max(room.saturating_sub(stderr_size)));
        let stderr_room = stderr_size.min(room - stdout_room);
        self.write(out, &stdout.shrunk(stdout_room), &stderr.shrunk(stderr_room));
        true
    }

    fn write(&self, out: &mut Vec<u8>, stdout: &View<'_>, stderr: &View<'_>) {
        let JobRef { job, seq, round, attempt } = self.job;
        out.push(b'{');
        match std::str::from_utf8(job) {
            Ok(text) => put_text(out, "job", text),
            Err(_) => put_base64(out, "job", job),
        }
        put(out, format_args!(",\"seq\":{seq}"));
        if let Some(round) = round {
            put(out, format_args!(",\"round\":{round}"));
        }
        put(out, format_args!(",\"ok\":{}", self.ok));
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
        if let Some(error) = &self.error {
            out.push(b',');
            put_text(out, "error", error);
        }
        put(out, format_args!(",\"attempt\":{attempt},"));
        put_text(out, "worker", self.worker);
        put(out, format_args!(",\"started\":\"{:.6}\"", timestamp(self.started)));
        let seconds = format!("{}.{:06}", self.took.as_secs(), self.took.subsec_micros());
        let mut digits = seconds.trim_end_matches('0');
        if digits.ends_with('.') {
            digits = &seconds[..digits.len() + 1];
        }
        put(out, format_args!(",\"seconds\":{digits}}}\n"));
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

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // A Vec takes everything.
    let _infallible = out.write_fmt(text);
}

fn put_text(out: &mut Vec<u8>, key: &str, text: &str) {
    put(out, format_args!("\"{key}\":"));
    // As above; and a string can always be written.
    let _infallible = serde_json::to_writer(out, text);
}

fn put_base64(out: &mut Vec<u8>, key: &str, bytes: &[u8]) {
    put(out, format_args!("\"{key}_base64\":\"{}\"", BASE64.encode(bytes)));
}

/// A moment of the calendar. A clock that is set beyond the year 9999 reads as 1970.
fn timestamp(since_epoch: Duration) -> jiff::Timestamp {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
    let nanoseconds = i32::try_from(since_epoch.subsec_nanos()).unwrap_or(0);
    jiff::Timestamp::new(seconds, nanoseconds).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Does this signal mean that somebody shuts down more than the command?
fn is_shutdown(signal: i32) -> bool {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].iter().any(|shut| *shut as i32 == signal)
}

/// `SIGKILL`, `SIGRTMIN+1`; the number where there is no name.
fn signal_name(number: i32) -> String {
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
mod tests {
    use super::*;
    use crate::sys::{pidfd::PidFd, proc_fs};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    /// Ends the whole test program when a test hangs.
    struct Watchdog {
        _alive: mpsc::Sender<()>,
    }

    impl Watchdog {
        fn arm() -> Watchdog {
            let (alive, dropped) = mpsc::channel::<()>();
            std::thread::spawn(move || {
                let limit = Duration::from_secs(120);
                if dropped.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                    // Not eprintln, which is captured.
                    let _seen = writeln!(io::stderr(), "a test of commands hangs");
                    std::process::abort();
                }
            });
            Watchdog { _alive: alive }
        }
    }

    fn run_id() -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        format!("{:x}{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn settings(command: &[&str]) -> config::Worker {
        let command = command.iter().map(|text| text.to_string()).collect();
        config::Worker::new("test", config::Run::Command(command))
    }

    fn runner(settings: &config::Worker) -> CommandRunner {
        CommandRunner::new(settings, "test/0", &run_id()).expect("valid")
    }

    fn shell(script: &str) -> CommandRunner {
        runner(&settings(&["sh", "-c", script]))
    }

    fn job(job: &[u8]) -> JobRef<'_> {
        JobRef { job, seq: 17, round: None, attempt: 1 }
    }

    fn result<'a, 'b>(outcome: &'b CommandOutcome<'a>) -> &'b CommandResult<'a> {
        match outcome {
            CommandOutcome::Done(result)
            | CommandOutcome::Failed { result, .. }
            | CommandOutcome::PutBack { result, .. } => result,
        }
    }

    fn encoded(result: &CommandResult<'_>) -> serde_json::Value {
        let mut line = Vec::new();
        assert!(result.encode(&mut line, usize::MAX));
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(!line.contains(&b'\n'));
        serde_json::from_slice(&line).expect("is JSON")
    }

    fn reason<'b>(outcome: &'b CommandOutcome<'_>) -> &'b str {
        match outcome {
            CommandOutcome::Done(_) => "done",
            CommandOutcome::Failed { reason, .. } | CommandOutcome::PutBack { reason, .. } => {
                reason
            }
        }
    }

    fn run<'a>(runner: &'a CommandRunner, text: &'a [u8]) -> CommandOutcome<'a> {
        runner.run(job(text), &mut |_| {})
    }

    #[test]
    fn a_result_looks_as_it_is_documented() {
        let printf = runner(&settings(&["printf", "%s\n"]));
        let outcome = run(&printf, b"example.org");
        assert!(matches!(outcome, CommandOutcome::Done(_)));
        let mut line = Vec::new();
        let mut result = CommandResult::new(job(b"example.org"), "ping/0");
        (result.ok, result.ended) = (true, Some(Ended::Exited(0)));
        result.stdout = Captured::Text { text: "...".to_owned(), cut: false };
        result.started = Duration::new(1_769_899_159, 123_456_789);
        result.took = Duration::from_millis(12);
        assert!(result.encode(&mut line, usize::MAX));
        let expected = concat!(
            r#"{"job":"example.org","seq":17,"ok":true,"exit":0,"stdout":"...","stderr":"","#,
            r#""attempt":1,"worker":"ping/0","started":"2026-01-31T22:39:19.123456Z","#,
            r#""seconds":0.012}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line).expect("text"), expected);
        let value = encoded(super::tests::result(&outcome));
        assert_eq!(value["stdout"], "example.org\n");
        assert_eq!((&value["ok"], &value["exit"]), (&true.into(), &0.into()));
    }

    #[test]
    fn the_round_is_there_when_it_is_given_and_whole_seconds_stay_numbers() {
        let mut result = CommandResult::new(JobRef { round: Some(3), ..job(b"") }, "a/0");
        for (took, seconds) in [(0, 0.0), (1, 0.000_001), (10_000_000, 10.0), (1_500_000, 1.5)] {
            result.took = Duration::from_micros(took);
            let value = encoded(&result);
            assert_eq!(value["round"], 3);
            assert_eq!(value["seconds"].as_f64(), Some(seconds));
        }
        assert!(encoded(&CommandResult::new(job(b""), "a/0")).get("round").is_none());
    }

    #[test]
    fn exit_codes_and_signals_are_told_apart() {
        let _watchdog = Watchdog::arm();
        let (one, segv, real_time) =
            (shell("exit 42"), shell("kill -SEGV $$"), shell("kill -35 $$"));
        let outcome = run(&one, b"");
        assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
        assert_eq!(reason(&outcome), "exit code 42");
        assert_eq!(encoded(result(&outcome))["exit"], 42);
        let outcome = run(&segv, b"");
        assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
        assert_eq!(reason(&outcome), "ended by SIGSEGV");
        let value = encoded(result(&outcome));
        assert_eq!(value["signal"], "SIGSEGV");
        assert!(value.get("exit").is_none());
        assert_eq!(encoded(result(&run(&real_time, b"")))["signal"], "SIGRTMIN+1");
        assert_eq!(signal_name(32), "32");
        assert_eq!(signal_name(nix::libc::SIGRTMIN()), "SIGRTMIN");
        assert_eq!(signal_name(-1), "-1");
    }

    #[test]
    fn a_command_that_was_told_to_end_is_put_back_but_not_a_killed_one() {
        let _watchdog = Watchdog::arm();
        for (name, put_back) in
            [("TERM", true), ("INT", true), ("HUP", true), ("KILL", false), ("QUIT", false)]
        {
            let runner = shell(&format!("kill -{name} $$"));
            let outcome = run(&runner, b"");
            assert_eq!(matches!(outcome, CommandOutcome::PutBack { .. }), put_back, "{name}");
            assert_eq!(reason(&outcome), format!("ended by SIG{name}"));
            assert_eq!(encoded(result(&outcome))["signal"], format!("SIG{name}"));
        }
    }

    #[test]
    fn a_time_out_ends_all_that_the_command_started() {
        let _watchdog = Watchdog::arm();
        let mut settings = settings(&[
            "sh",
            "-c",
            "sleep 1000 & setsid sleep 1000 & setsid sh -c 'setsid sleep 1000 & wait' &
            (setsid sh -c 'sleep 1000 & sleep 1000' &)
            setsid env -i sleep 1000 & echo $!; trap '' TERM; sleep 1000",
        ]);
        settings.timeout = Some(Duration::from_secs(2));
        let runner = runner(&settings);
        let mut group = 0;
        let job = JobRef { round: Some(2), ..job(b"x") };
        let outcome = runner.run(job, &mut |started| group = started.group);
        assert_eq!(reason(&outcome), "timed out after 2s");
        assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
        let value = encoded(result(&outcome));
        assert_eq!((&value["timed_out"], &value["ok"]), (&true.into(), &false.into()));
        assert_eq!(value["signal"], "SIGKILL");
        assert!(proc_fs::marked(&[&runner.run_marker]).is_empty());
        assert_eq!(proc_fs::stat(group), None);
        // One without a marker: only its parent shows whose it is.
        let text = value["stdout"].as_str().expect("text");
        let bare: i32 = text.trim().parse().expect("it was started before the time-out");
        let deadline = clock::now() + Duration::from_secs(60);
        if let Ok(process) = PidFd::open(bare) {
            assert!(process.wait(Some(deadline)).expect("can wait"));
        }
    }

    #[test]
    fn what_ends_by_itself_after_its_time_out_has_failed_all_the_same() {
        let late = |ended| {
            let mut result = CommandResult::new(job(b""), "test/0");
            (result.timed_out, result.ended) = (true, Some(ended));
            result.into_outcome(Some(Duration::from_millis(1500)))
        };
        for ended in [Ended::Exited(0), Ended::Signaled(15)] {
            let outcome = late(ended);
            assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
            assert_eq!(reason(&outcome), "timed out after 1.5s");
            assert_eq!(encoded(result(&outcome))["ok"], false);
        }
    }

    #[test]
    fn a_stopped_command_is_killed_at_its_time_out() {
        let _watchdog = Watchdog::arm();
        let mut settings = settings(&["sh", "-c", "kill -STOP $$"]);
        settings.timeout = Some(Duration::from_millis(50));
        let runner = runner(&settings);
        assert_eq!(reason(&run(&runner, b"")), "timed out after 50ms");
    }

    #[test]
    fn a_flood_is_cut_and_marked_and_does_not_block_the_command() {
        let _watchdog = Watchdog::arm();
        let mut settings = settings(&[
            "sh",
            "-c",
            "head -c 10000000 /dev/zero | tr '\\0' a; head -c 9 /dev/zero | tr '\\0' b >&2; echo ok >&2",
        ]);
        for max in [0, 1, 4096, 5000, 65536, 100_000] {
            settings.max_output = max;
            let runner = runner(&settings);
            let outcome = run(&runner, b"");
            assert!(matches!(outcome, CommandOutcome::Done(_)), "{outcome:?}");
            let value = encoded(result(&outcome));
            assert_eq!(value["stdout"], "a".repeat(max as usize));
            assert_eq!(value["stdout_cut"], true);
            assert_eq!(value["stderr"], "bbbbbbbbbok\n"[..12.min(max as usize)]);
            assert_eq!(value.get("stderr_cut").is_some(), max < 12);
        }
    }

    #[test]
    fn output_is_exact_up_to_the_last_byte_that_is_kept() {
        let _watchdog = Watchdog::arm();
        let mut settings = settings(&["sh", "-c", "head -c 70000 /dev/zero | tr '\\0' a"]);
        for (max, cut) in [(69_999, true), (70_000, false), (70_001, false), (u64::MAX, false)] {
            settings.max_output = max;
            let runner = runner(&settings);
            let value = encoded(result(&run(&runner, b"")));
            assert_eq!(value["stdout"].as_str().map(str::len), Some(max.min(70_000) as usize));
            assert_eq!(value.get("stdout_cut").is_some(), cut);
        }
    }

    #[test]
    fn text_that_is_cut_within_a_character_stays_text() {
        let mut settings = settings(&["printf", "%s"]);
        for (max, kept) in [(1, ""), (2, "ä"), (3, "ä"), (5, "ä€"), (8, "ä€"), (9, "ä€😀")]
        {
            settings.max_output = max;
            let runner = runner(&settings);
            let value = encoded(result(&run(&runner, "ä€😀".as_bytes())));
            assert_eq!(value["stdout"], kept);
            assert_eq!(value.get("stdout_cut").is_some(), max < 9);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_exactly() {
        let printf = runner(&settings(&["printf", "%s"]));
        let bytes: Vec<u8> = (1..=255).collect();
        let outcome = run(&printf, &bytes);
        let value = encoded(result(&outcome));
        for key in ["job_base64", "stdout_base64"] {
            let text = value[key].as_str().expect("is there");
            assert_eq!(BASE64.decode(text).expect("base64"), bytes);
        }
        assert!(value.get("job").is_none() && value.get("stdout").is_none());
        assert_eq!(value["stderr"], "");
    }

    #[test]
    fn a_job_is_one_argument_whatever_it_holds() {
        let printf = runner(&settings(&["printf", "%s|"]));
        for text in ["; rm -rf /", "--help", "$(x)", "a b", "", "\u{1b}[31m\n\t\u{7f}", "{}", "'\""]
        {
            let value = encoded(result(&run(&printf, text.as_bytes())));
            assert_eq!(value["stdout"], format!("{text}|"));
            assert_eq!(value["job"], text);
        }
    }

    #[test]
    fn what_can_not_be_started_has_failed_with_the_reason() {
        let printf = runner(&settings(&["printf", "%s"]));
        let mut starts = 0;
        let outcome = printf.run(job(b"a\0b"), &mut |_| starts += 1);
        assert!(matches!(outcome, CommandOutcome::Failed { retryable: false, .. }));
        assert!(reason(&outcome).contains("NUL"));
        assert_eq!(encoded(result(&outcome))["job"], "a\0b");
        let missing = runner(&settings(&["procsig-no-such-program"]));
        let outcome = missing.run(job(b"a"), &mut |_| starts += 1);
        assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
        let value = encoded(result(&outcome));
        let error = "can't start \"procsig-no-such-program\": No such file or directory";
        assert_eq!(value["error"], error);
        assert_eq!(value["ok"], false);
        assert!(value.get("exit").is_none() && value.get("signal").is_none());
        let long = vec![b'a'; 1 << 20];
        assert!(reason(&run(&printf, &long)).ends_with("Argument list too long"));
        assert_eq!(starts, 0);
    }

    #[test]
    fn what_a_command_leaves_behind_is_left_alone_and_does_not_hold_up_the_job() {
        let _watchdog = Watchdog::arm();
        let runner = shell("sleep 1000 & yes >&2 & echo done");
        let outcome = run(&runner, b"");
        assert_eq!(encoded(result(&outcome))["stdout"], "done\n");
        let left = proc_fs::marked(&[&runner.run_marker]);
        // `yes` may have noticed already that nobody reads it.
        assert!(!left.is_empty() && left.len() <= 2, "{left:?}");
        proc_fs::kill_marked(&[&runner.run_marker], clock::now() + Duration::from_secs(60));
        assert!(proc_fs::marked(&[&runner.run_marker]).is_empty());
    }

    #[test]
    fn a_command_that_closes_its_outputs_is_waited_for() {
        let _watchdog = Watchdog::arm();
        let runner = shell("exec >&- 2>&-; sleep 0.05; exit 7");
        assert_eq!(reason(&run(&runner, b"")), "exit code 7");
    }

    #[test]
    fn a_command_that_reads_its_own_output_still_times_out() {
        let _watchdog = Watchdog::arm();
        let mut settings = settings(&["sh", "-c", "while :; do echo a; done & cat /dev/stdout"]);
        settings.timeout = Some(Duration::from_millis(200));
        assert_eq!(reason(&run(&runner(&settings), b"")), "timed out after 200ms");
    }

    #[test]
    fn the_started_command_is_named_by_pid_start_time_and_group() {
        let runner = shell("cut -d' ' -f1,5,22 /proc/$$/stat");
        let mut named = None;
        let outcome = runner.run(job(b""), &mut |started| named = Some(started));
        let Started { pid, start_time, group } = named.expect("was started");
        let expected = format!("{pid} {group} {start_time}\n");
        assert_eq!(encoded(result(&outcome))["stdout"], expected);
    }

    #[test]
    fn commands_of_several_threads_inherit_three_descriptors_and_leave_none_behind() {
        let _watchdog = Watchdog::arm();
        let name = "commands_of_several_threads_inherit_three_descriptors_and_leave_none_behind";
        // In a process of its own, or other tests' descriptors would be counted.
        if std::env::var_os("COMMAND_TEST_IN_CHILD").is_none() {
            let module = module_path!().split_once("::").expect("in a crate").1;
            let output = std::process::Command::new(std::env::current_exe().expect("is running"))
                .args(["--exact", &format!("{module}::{name}"), "--test-threads=1"])
                .env("COMMAND_TEST_IN_CHILD", "1")
                .output()
                .expect("can start itself");
            return assert!(output.status.success(), "{output:?}");
        }
        let count = || std::fs::read_dir("/proc/self/fd").expect("mounted").count();
        let command = ["sh", "-c", "echo /proc/self/fd/*"];
        // What the test program was itself started with, it passes on; the rest are the three, and
        // the folder that is being listed.
        let own = std::process::Command::new(command[0]).args(&command[1..]).output();
        let own = String::from_utf8(own.expect("starts").stdout).expect("text");
        let list = runner(&settings(&command));
        let before = count();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_eq!(encoded(result(&run(&list, b"")))["stdout"], own);
                    }
                });
            }
        });
        assert_eq!(count(), before);
        assert!(proc_fs::children(std::process::id() as i32).is_empty());
    }

    /// A small generator; the same numbers each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % limit as u64) as usize
        }

        fn captured(&mut self) -> Captured {
            let length = self.below(300);
            let cut = self.below(4) == 0;
            if self.below(3) == 0 {
                let bytes = (0..length).map(|_| self.below(256) as u8).chain([0xFF]).collect();
                return Captured::Bytes { bytes, cut };
            }
            let characters =
                ['a', '"', '\\', '\n', '\u{0}', '\u{1f}', '\u{7f}', 'ä', '€', '😀', '\u{8}'];
            let text = (0..length).map(|_| characters[self.below(characters.len())]).collect();
            Captured::Text { text, cut }
        }
    }

    #[test]
    fn a_line_is_never_longer_than_allowed_and_holds_the_beginning_of_each_output() {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        for _ in 0..3000 {
            let mut result = CommandResult::new(job(b"j\"\xC3\xA4"), "test/0");
            (result.stdout, result.stderr) = (random.captured(), random.captured());
            let mut whole = Vec::new();
            assert!(result.encode(&mut whole, usize::MAX));
            let size_max = random.below(whole.len() + 10);
            let mut line = b"before".to_vec();
            let fits = result.encode(&mut line, size_max);
            let line = line.strip_prefix(b"before").expect("is appended");
            assert_eq!(fits, line.len() <= size_max);
            if whole.len() <= size_max {
                assert_eq!(line, whole);
            }
            let value: serde_json::Value = serde_json::from_slice(line).expect("is JSON");
            for (key, captured) in [("stdout", &result.stdout), ("stderr", &result.stderr)] {
                let (kept, all, was_cut) = match captured {
                    Captured::Text { text, cut } => {
                        (value[key].as_str().expect("text").into(), text.as_bytes(), *cut)
                    }
                    Captured::Bytes { bytes, cut } => {
                        let text = value[format!("{key}_base64")].as_str().expect("base64");
                        (BASE64.decode(text).expect("base64"), bytes.as_slice(), *cut)
                    }
                };
                assert!(all.starts_with(&kept));
                let is_cut = value.get(format!("{key}_cut")).is_some();
                assert!(is_cut == (was_cut || kept.len() < all.len()) || !fits);
                assert!(fits || kept.is_empty());
            }
            // Nothing is thrown away without need.
            assert!(!fits || whole.len() <= size_max || size_max - line.len() < 50);
        }
    }
}
