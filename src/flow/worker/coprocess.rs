//! The worker that talks with a program of any language: started once for each thread, and kept.
//!
//! # The talk
//! The coprocess reads a line from its standard input for each job, an object of JSON, and answers
//! it with one line of JSON on its standard output:
//!
//! ```text
//! {"job":"example.org","seq":17,"attempt":1}
//! {"status":200}
//! ```
//!
//! With `every` the request has the `round` as well; a job that is no UTF-8 stands in `job_base64`
//! instead of `job`. The answer becomes the result's `value` as it came. An answer that is an
//! object with the key `procsig_error` says that the job has failed, with that text; with
//! `"retry": false` beside it for good.
//!
//! # Constraints
//! - One request at a time, one line for each. A coprocess that writes anything else is replaced,
//!   since nobody knows which job its next line would belong to. Lines carry no number, so a second
//!   line that comes when the next request is already on its way is taken for that one's answer.
//! - If it ends with a job in hand the job is tried again at once in a new one, three times in
//!   all; then the job has failed for good. This counts no attempt. One that was ended by a SIGINT,
//!   SIGTERM or SIGHUP, none of which we send, is as a command that was ended so.
//! - If it ends between two jobs, that is no failure of either.
//! - It is never waited for without a bound, unless it has a job in hand and no time-out.
//! - It is started with its first job, whose time-out its start is part of.
//!
//! # Parts
//! `talk` is one coprocess and one exchange, `answer` the lines, `stderr` what goes to the log.
//! How processes are started and ended is in [`crate::sys::spawn`].

use std::ffi::CString;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::caught::caught;
use super::command::{JobRef, complain_once, is_shutdown};
use super::process_work::stage;
use super::{Attempt, ProcessWork, ThreadWork, Verdict, Work};
use crate::config;
use crate::flow::format::Failures;
use crate::flow::job::{Failure, JobError};
use crate::flow::queue::lane::Staged;
use crate::stop::Stop;
use crate::sys::process::Ended;
use crate::sys::spawn::{self, CommandLine, JOB_VARIABLE, StartError};
use crate::sys::{clock, proc_fs};
use answer::{Answer, CoprocessResult, Outcome, write_request};
use stderr::Listener;
use talk::{End, Exchanged, Idle, Talk};

mod answer;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod stderr;
mod talk;

/// Coprocesses that may die of a job, or beside it.
const DEATHS_MAX: u32 = 3;

/// How long a coprocess may take to end by itself when its input has ended.
const GRACE: Duration = Duration::from_secs(1);

/// Of the time that a stop leaves, a coprocess may take this part.
const GRACE_PART: u32 = 2;

/// Makes a record of an answer and stages it, for a pipeline whose records are typed. Told how
/// many bytes a record may have at the most.
pub(crate) type Record =
    Arc<dyn Fn(&str, &mut Staged, usize) -> Result<(), JobError> + Send + Sync>;

/// What the coprocesses of a worker process have in common.
pub(crate) struct Coprocesses {
    line: CommandLine,
    run_marker: Vec<u8>,
    timeout: Option<Duration>,
    output_max: usize,
    /// One that has more private memory in use is replaced, in bytes.
    memory_max: Option<u64>,
    /// `None`: an answer becomes the `value` of a line of JSON.
    record: Option<Record>,
    /// So long after a stop was asked for, what is left of this process is killed.
    limit: Duration,
    stop: Stop,
    listener: Listener,
    started: AtomicU64,
    /// Said that none can be started.
    complained: AtomicBool,
    /// Those that could not be ended and are to be reaped when they do.
    given_up: Mutex<Vec<nix::unistd::Pid>>,
}

/// The coprocess of one thread.
pub(crate) struct Coprocess<'a> {
    all: &'a Coprocesses,
    talk: Option<Talk>,
    request: Vec<u8>,
    /// It has grown too large, and is to be ended.
    grown: bool,
}

/// Can the worker's coprocess be started?
///
/// # Errors
/// Why not: there is no such program, or what was declared can't be an argument list.
pub(crate) fn check(worker: &config::Worker) -> Result<(), String> {
    let line = command_line(worker, "").map_err(|error| error.to_string())?;
    line.check_program().map_err(|error| error.to_string())
}

fn command_line(worker: &config::Worker, run_id: &str) -> io::Result<CommandLine> {
    let config::Run::Coprocess(command) = &worker.run else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it runs no coprocess"));
    };
    CommandLine::fixed(command, &worker.env, run_id)
}

impl Coprocesses {
    /// For a worker process of the run `run_id`, which has `limit` to end when a stop has begun.
    ///
    /// # Errors
    /// `InvalidInput` if the worker has no coprocess, or one that can't be an argument list;
    /// whatever keeps a thread from being started.
    pub(crate) fn new(
        worker: &config::Worker,
        record: Option<Record>,
        run_id: &str,
        limit: Duration,
        stop: &Stop,
    ) -> io::Result<Coprocesses> {
        // That it has gone is told by the write, not by a signal that ends us.
        crate::sys::signal::dispose(nix::sys::signal::Signal::SIGPIPE, true)?;
        Ok(Coprocesses {
            line: command_line(worker, run_id)?,
            run_marker: spawn::run_marker(run_id),
            timeout: worker.timeout,
            output_max: usize::try_from(worker.max_output).unwrap_or(usize::MAX),
            memory_max: worker.recycle_above,
            record,
            limit,
            stop: stop.clone(),
            listener: Listener::start()?,
            started: AtomicU64::new(0),
            complained: AtomicBool::new(false),
            given_up: Mutex::default(),
        })
    }

    /// The coprocess of a thread, not started yet.
    fn of_thread(&self) -> Coprocess<'_> {
        Coprocess { all: self, talk: None, request: Vec::new(), grown: false }
    }

    fn start(&self) -> Result<Talk, StartError> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        // All that it starts has this in its environment, and nobody else.
        let marker = format!("{JOB_VARIABLE}=coprocess.{}.{number}", std::process::id());
        let mut piped = self
            .line
            .start_piped(&CString::new(marker.as_str()).unwrap_or_default())
            .inspect_err(|error| complain_once(error, &self.complained))?;
        let pid = piped.pid();
        log::debug!("coprocess {pid} started");
        let heard = piped.take_stderr().map(|pipe| self.listener.hear(pid, pipe));
        Ok(Talk::new(piped, marker.into_bytes(), heard))
    }

    /// How long a coprocess may take to end by itself now.
    fn grace(&self) -> Duration {
        let since = self.stop.since().unwrap_or_else(clock::now);
        let left = since.saturating_add(self.limit).saturating_sub(clock::now());
        GRACE.min(left / GRACE_PART)
    }

    fn bury(&self, talk: Talk) -> End {
        let end = talk.bury(&self.run_marker);
        self.remember(end)
    }

    fn remember(&self, end: End) -> End {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.retain(|pid| !spawn::reap_given_up(*pid));
        given_up.extend(end.given_up);
        end
    }
}

impl Work for Coprocesses {
    fn start(&self) -> Result<Box<dyn ProcessWork + '_>, JobError> {
        Ok(Box::new(self))
    }
}

impl ProcessWork for &Coprocesses {
    fn thread(&self) -> Result<Box<dyn ThreadWork + '_>, JobError> {
        Ok(Box::new(self.of_thread()))
    }
}

impl ThreadWork for Coprocess<'_> {
    fn attempt(&mut self, attempt: &Attempt<'_>, staged: &mut Staged) -> Verdict {
        let job = JobRef::of(attempt);
        let (began, started) = (clock::now(), clock::wall());
        let outcome = self.run(job, attempt.note_command);
        (attempt.note_command)(0, 0);
        if let Outcome::Failed { error, .. } | Outcome::Interrupted { error } = &outcome {
            log::debug!("attempt {} at job {}: {error}", job.attempt, job.seq);
        }
        if let Some(record) = &self.all.record {
            return stage_record(record, attempt, outcome, staged);
        }
        if attempt.recording.failures == Failures::Log
            && let Some((error, verdict)) = outcome.failure()
        {
            stage_failure(error, attempt, staged);
            return verdict;
        }
        let took = clock::now().saturating_sub(began);
        let worker = attempt.worker;
        let result = CoprocessResult { job, worker, started, took, outcome: &outcome };
        let verdict = outcome.failure().map_or(Verdict::Done, |(_, verdict)| verdict);
        stage(attempt, verdict, staged, |bytes, dead| result.encode(bytes, dead))
    }

    /// Ended together with what belongs to its thread, and the next one is started with the next job.
    fn is_broken(&self) -> bool {
        self.grown
    }
}

/// Stages what a typed pipeline records of an attempt.
fn stage_record(
    record: &Record,
    attempt: &Attempt<'_>,
    outcome: Outcome,
    staged: &mut Staged,
) -> Verdict {
    let (error, verdict) = match outcome {
        Outcome::Value(value) => {
            // How the record is read and written is its user's matter.
            let error = match caught(|| record(&value, staged, attempt.record_max)) {
                Ok(Ok(())) => return Verdict::Done,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic,
            };
            (error, Verdict::Failed { retry: true })
        }
        Outcome::Failed { error, retry, .. } => (error, Verdict::Failed { retry }),
        Outcome::Interrupted { error } => (error, Verdict::Interrupted),
    };
    stage_failure(&error, attempt, staged);
    verdict
}

fn stage_failure(error: &str, attempt: &Attempt<'_>, staged: &mut Staged) {
    staged.clear();
    let failure = Failure::of(&attempt.job, attempt.round, attempt.worker, error);
    failure.stage(attempt.recording, staged);
}

impl Coprocess<'_> {
    /// Asks the coprocess, and new ones in its place while they die of it. `note` is told of each
    /// that has the job in hand, so that it can be found if this process dies.
    fn run(&mut self, job: JobRef<'_>, note: &dyn Fn(i32, u64)) -> Outcome {
        let mut request = std::mem::take(&mut self.request);
        write_request(job, &mut request);
        let mut deaths = 0;
        let outcome = loop {
            let asked = self.ask(job, &request, note);
            let (proven, end) = match asked {
                Asked::Said(outcome) => break outcome,
                Asked::NotTaken { proven, end } => (proven, end),
                Asked::Died { end } => (false, end),
            };
            if proven {
                // It was going to end, job or no job; the next one has not answered before.
                log::info!("a coprocess has ended between two jobs: {}", end.how);
                continue;
            }
            if let Some(Ended::Signaled(signal)) = end.ended
                && is_shutdown(signal)
            {
                let error = format!("its coprocess was {}", end.how);
                break Outcome::Interrupted { error };
            }
            if self.all.stop.is_condemned() {
                // Ended by us, and a new one would outlive us.
                break Outcome::Interrupted { error: end.how };
            }
            deaths += 1;
            log::warn!("a coprocess died with job {} in hand: {}", job.seq, end.how);
            if deaths == DEATHS_MAX {
                let error = format!(
                    "its coprocess died {DEATHS_MAX} times with the job in hand, the last time: {}",
                    end.how
                );
                break Outcome::Failed { error, timed_out: false, retry: false };
            }
        };
        self.request = request;
        outcome
    }

    /// Has it grown too large? The worker's own size says nothing about it.
    fn look_at_size(&mut self, pid: i32) {
        let Some(limit) = self.all.memory_max else { return };
        let taken = proc_fs::private_memory_of(pid).unwrap_or(0);
        if taken > limit {
            let (taken, limit) = (bytesize::ByteSize(taken), bytesize::ByteSize(limit));
            log::info!("a coprocess takes {taken} of memory (recycle_above is {limit}): ending it");
            self.grown = true;
        }
    }

    /// Asks the coprocess once.
    fn ask(&mut self, job: JobRef<'_>, request: &[u8], note: &dyn Fn(i32, u64)) -> Asked {
        let all = self.all;
        let mut talk = match self.ready_talk() {
            Ok(talk) => talk,
            Err(error) => return Asked::failed(error),
        };
        note(talk.pid(), talk.start_time());
        let until = all.timeout.map(|timeout| clock::now().saturating_add(timeout));
        let exchanged = talk.exchange(request, all.output_max, until);
        let (error, timed_out) = match exchanged {
            Ok(Exchanged::Answer(line)) => match Answer::parse(&line) {
                Ok(answer) => {
                    self.look_at_size(talk.pid());
                    self.talk = Some(talk);
                    return Asked::Said(match answer {
                        Answer::Value(value) => Outcome::Value(value),
                        Answer::Error { text, retry } => {
                            Outcome::Failed { error: text, timed_out: false, retry }
                        }
                    });
                }
                Err(error) => (format!("the coprocess {error}"), false),
            },
            Ok(Exchanged::NotTaken) => {
                let proven = talk.is_proven();
                return Asked::NotTaken { proven, end: all.bury(talk) };
            }
            Ok(Exchanged::Died) => return Asked::Died { end: all.bury(talk) },
            Ok(Exchanged::Late) => {
                (format!("timed out after {:?}", all.timeout.unwrap_or_default()), true)
            }
            Ok(Exchanged::TooLong) => (
                format!(
                    "the coprocess answered with more than {} bytes: raise max_output, or answer \
                     with less",
                    all.output_max
                ),
                false,
            ),
            Ok(Exchanged::TooEarly) => {
                ("the coprocess answered before it had read the whole job".to_owned(), false)
            }
            Err(error) => (format!("can't wait for the coprocess: {error}"), false),
        };
        let pid = talk.pid();
        log::warn!("job {}: {error}; coprocess {pid} is ended, a new one takes over", job.seq);
        let end = all.bury(talk);
        let error = match end.given_up {
            Some(_) => format!("{error}, {}", end.how),
            None => error,
        };
        Asked::Said(Outcome::Failed { error, timed_out, retry: true })
    }

    /// The coprocess that waits for a job: the last one, if it still does, or a new one.
    fn ready_talk(&mut self) -> Result<Talk, StartError> {
        if let Some(mut talk) = self.talk.take() {
            let pid = talk.pid();
            match talk.look() {
                Ok(Idle::Waiting) => return Ok(talk),
                Ok(Idle::Gone) => {
                    let end = self.all.bury(talk);
                    log::info!("coprocess {pid} has ended between two jobs: {}", end.how);
                }
                Ok(Idle::Surplus) => {
                    log::warn!(
                        "coprocess {pid} wrote more than one line for a job; it is ended, a new \
                         one takes over"
                    );
                    self.all.bury(talk);
                }
                Err(error) => {
                    log::warn!("coprocess {pid} is ended: can't see how it is: {error}");
                    self.all.bury(talk);
                }
            }
        }
        self.all.start()
    }
}

/// What asking a coprocess came to.
enum Asked {
    Said(Outcome),
    /// It was gone before it took anything of the job. `proven`: it has answered before.
    NotTaken {
        proven: bool,
        end: End,
    },
    Died {
        end: End,
    },
}

impl Asked {
    fn failed(error: StartError) -> Asked {
        let error = error.to_string();
        Asked::Said(Outcome::Failed { error, timed_out: false, retry: true })
    }
}

impl Drop for Coprocess<'_> {
    /// The thread ends: its coprocess sees the end of its input and may end by itself.
    fn drop(&mut self) {
        let Some(talk) = self.talk.take() else { return };
        let pid = talk.pid();
        let grace = self.all.grace();
        let until = clock::now().saturating_add(grace);
        let (in_time, end) = talk.dismiss(&self.all.run_marker, until);
        let end = self.all.remember(end);
        match end.ended {
            Some(Ended::Exited(0)) => log::debug!("coprocess {pid} has ended"),
            _ if in_time => {
                log::warn!("coprocess {pid} ended at the end of its input: {}", end.how)
            }
            _ => log::warn!(
                "coprocess {pid} did not end within {grace:.1?} of the end of its input; it was \
                 killed"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
