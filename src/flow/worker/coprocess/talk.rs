//! One coprocess, and one exchange with it: a line there, a line back.
//!
//! - Both directions are served at once: it may begin to answer before it has read all.
//! - A line counts from its line end on, even if the coprocess has ended since.
//! - No wait without a bound but for an answer that may take for ever.

use std::io;
use std::time::Duration;

use nix::unistd::Pid;

use super::super::command::signal_name;
use super::stderr::Heard;
use crate::sys::clock;
use crate::sys::process::Ended;
use crate::sys::spawn::{Piped, Ready};

/// Longest wait for the end of a coprocess that was killed. Beyond it the coprocess is given up.
const KILL_MAX: Duration = Duration::from_secs(5);

/// How long a coprocess that has closed one of its streams may take to end by itself: its exit
/// code then says more than that.
const CLOSED_MAX: Duration = Duration::from_secs(1);

/// What a talk needs of a coprocess, see [`Piped`].
pub(super) trait Streams {
    fn wait(&self, input: bool, until: Option<Duration>) -> io::Result<Ready>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    fn read(&mut self, into: &mut Vec<u8>) -> usize;
    fn read_rest(&mut self, into: &mut Vec<u8>, max: usize);
    fn output_is_closed(&self) -> bool;
}

impl Streams for Piped {
    fn wait(&self, input: bool, until: Option<Duration>) -> io::Result<Ready> {
        self.wait(input, until)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    fn read(&mut self, into: &mut Vec<u8>) -> usize {
        self.read(into)
    }

    fn read_rest(&mut self, into: &mut Vec<u8>, max: usize) {
        self.read_rest(into, max);
    }

    fn output_is_closed(&self) -> bool {
        self.output_is_closed()
    }
}

/// A coprocess that runs.
#[derive(Debug)]
pub(super) struct Talk<S = Piped> {
    piped: S,
    /// In the environment of all that it starts.
    marker: Vec<u8>,
    /// What it has written and nobody has used.
    received: Vec<u8>,
    /// It has answered before.
    proven: bool,
    heard: Option<Heard>,
}

/// What an exchange came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Exchanged {
    /// A line, without its end.
    Answer(Vec<u8>),
    /// It was gone before it took anything: the job is as it was.
    NotTaken,
    /// It has ended, or has closed its output, and has not answered.
    Died,
    /// The moment has come before the answer.
    Late,
    /// More bytes than allowed, and no line end.
    TooLong,
    /// A line came before it could have read the whole request.
    TooEarly,
}

/// What a coprocess is found as that should wait for the next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    Waiting,
    Gone,
    /// It has written more than its answer.
    Surplus,
}

/// How a coprocess has ended.
#[derive(Debug)]
pub(super) struct End {
    /// `None`: it was killed by us, or nobody knows.
    pub(super) ended: Option<Ended>,
    /// For people.
    pub(super) how: String,
    /// What could not even be killed, to be reaped when it ends.
    pub(super) given_up: Option<Pid>,
}

impl<S: Streams> Talk<S> {
    pub(super) fn new(piped: S, marker: Vec<u8>, heard: Option<Heard>) -> Talk<S> {
        Talk { piped, marker, received: Vec::new(), proven: false, heard }
    }

    /// Has it ever answered?
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// Looks what has become of it since its last answer.
    ///
    /// # Errors
    /// The system can't tell, for lack of memory.
    pub(super) fn look(&mut self) -> io::Result<Idle> {
        let ready = self.piped.wait(false, Some(Duration::ZERO))?;
        if ready.output {
            self.piped.read(&mut self.received);
        }
        Ok(if !self.received.is_empty() {
            Idle::Surplus
        } else if ready.ended || self.piped.output_is_closed() {
            Idle::Gone
        } else {
            Idle::Waiting
        })
    }

    /// Sends a request and waits for its answer: a line of `max` bytes at the most, until `until`.
    ///
    /// # Errors
    /// The system can't wait, for lack of memory.
    pub(super) fn exchange(
        &mut self,
        request: &[u8],
        max: usize,
        until: Option<Duration>,
    ) -> io::Result<Exchanged> {
        let mut sent = 0;
        // No line end stands before this place.
        let mut searched = 0;
        loop {
            if sent < request.len() {
                match self.piped.write(&request[sent..]) {
                    Ok(written) => sent += written,
                    Err(_) => {
                        let over = self.exchange_is_over(max, until)?;
                        return Ok(if sent == 0 { Exchanged::NotTaken } else { over });
                    }
                }
            }
            let ready = self.piped.wait(sent < request.len(), until)?;
            if ready.output {
                self.piped.read(&mut self.received);
            }
            if ready.ended {
                self.piped.read_rest(&mut self.received, max);
            }
            let end = self.received[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.map(|end| searched + end) {
                return Ok(match end > max {
                    true => Exchanged::TooLong,
                    false if sent < request.len() => Exchanged::TooEarly,
                    false => Exchanged::Answer(self.take_line(end)),
                });
            }
            searched = self.received.len();
            if searched > max {
                return Ok(Exchanged::TooLong);
            }
            if ready.ended {
                return Ok(Exchanged::Died);
            }
            if self.piped.output_is_closed() {
                return self.exchange_is_over(max, until);
            }
            if until.is_some_and(|until| clock::now() >= until) {
                return Ok(Exchanged::Late);
            }
        }
    }

    fn take_line(&mut self, end: usize) -> Vec<u8> {
        let rest = self.received.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.received, rest);
        line.pop();
        self.proven = true;
        line
    }

    /// There will be no answer. Most often it is just about to end.
    fn exchange_is_over(&mut self, max: usize, until: Option<Duration>) -> io::Result<Exchanged> {
        let soon = clock::now().saturating_add(CLOSED_MAX);
        self.wait_for_end(max, until.map_or(soon, |until| until.min(soon)))?;
        Ok(Exchanged::Died)
    }

    /// Waits for its end, and reads what it writes until then so that it can come to it; says
    /// whether it has ended.
    fn wait_for_end(&mut self, max: usize, until: Duration) -> io::Result<bool> {
        loop {
            let ready = self.piped.wait(false, Some(until))?;
            if ready.ended {
                return Ok(true);
            }
            if ready.output {
                self.received.truncate(max);
                self.piped.read(&mut self.received);
            }
            if clock::now() >= until {
                return Ok(false);
            }
        }
    }
}

impl Talk {
    pub(super) fn pid(&self) -> i32 {
        self.piped.pid()
    }

    pub(super) fn start_time(&self) -> u64 {
        self.piped.start_time()
    }

    /// Ends it, if it has not ended by itself, with all that it has started. `run_marker` is in
    /// the environment of everything of this run.
    pub(super) fn bury(mut self, run_marker: &[u8]) -> End {
        let ended = self.piped.wait(false, Some(Duration::ZERO)).is_ok_and(|ready| ready.ended);
        if ended {
            // Not reaped yet, so the group's number is still its own.
            let _killed = self.piped.kill_group();
            return self.reap(true);
        }
        let closed = match (self.piped.output_is_closed(), self.piped.input_is_closed()) {
            (true, _) => Some("output"),
            (false, true) => Some("input"),
            (false, false) => None,
        };
        let until = clock::now().saturating_add(KILL_MAX);
        let killed = self.piped.kill_all(&[run_marker, &self.marker], until);
        // What can't be signalled is not waited for; it might have ended by itself.
        let until = if killed.is_ok() { until } else { clock::now() };
        if !self.wait_for_end(0, until).unwrap_or(false) {
            let why = killed.err().map_or("it does not end".to_owned(), |error| error.to_string());
            let how = format!("it can't be killed: {why}");
            drop(self.heard.take());
            return End { ended: None, how, given_up: Some(self.piped.give_up()) };
        }
        let mut end = self.reap(false);
        if let Some(stream) = closed {
            end.how = format!("it has closed its standard {stream} and did not end");
        }
        end
    }

    /// Closes its input and gives it until `until` to end by itself; then ends it.
    pub(super) fn dismiss(mut self, run_marker: &[u8], until: Duration) -> (bool, End) {
        self.piped.close_input();
        let in_time = self.wait_for_end(0, until).unwrap_or(false);
        (in_time, self.bury(run_marker))
    }

    fn reap(mut self, by_itself: bool) -> End {
        // In the log, its last words stand before its end.
        drop(self.heard.take());
        let (ended, how) = match self.piped.reap() {
            Ok(Ended::Exited(code)) => (Some(Ended::Exited(code)), format!("exit code {code}")),
            Ok(Ended::Signaled(signal)) => {
                (Some(Ended::Signaled(signal)), format!("ended by {}", signal_name(signal)))
            }
            Err(error) => (None, format!("its exit code is lost: {error}")),
        };
        End { ended: ended.filter(|_| by_itself), how, given_up: None }
    }
}
