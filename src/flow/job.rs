//! A job, as a worker function sees it, and what is recorded when it fails for good.

use super::format::{self, Failures, Recording};
use super::queue::frame::Kind;
use super::queue::lane::Staged;
use crate::config::Format;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::str::Utf8Error;

/// One job: a line of the list, with its number.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    pub(crate) text: &'a [u8],
    pub(crate) seq: u64,
    pub(crate) round: u64,
    pub(crate) attempt: u64,
}

impl<'a> Job<'a> {
    /// The job's text.
    ///
    /// # Errors
    /// If it is not valid UTF-8; see [`Job::as_bytes`]. Such a job is tried as often as any.
    pub fn as_str(&self) -> Result<&'a str, Utf8Error> {
        std::str::from_utf8(self.text)
    }

    /// The job's bytes, without the end of the line.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.text
    }

    /// The job as a JSON value of this type. It may borrow text from the job.
    ///
    /// ```
    /// #[derive(serde::Deserialize)]
    /// struct Check<'a> {
    ///     host: &'a str,
    ///     port: u16,
    /// }
    ///
    /// fn check(job: &procsig::Job) -> Result<(), procsig::JobError> {
    ///     let Check { host, port } = job.json()?; // {"host": "example.org", "port": 443}
    ///     println!("{host}:{port}");
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// If it is none. The job has then failed for good, since it will never be one.
    pub fn json<T: Deserialize<'a>>(&self) -> Result<T, JobError> {
        serde_json::from_slice(self.text)
            .map_err(|error| JobError::fail(format_args!("the job can't be read: {error}")))
    }

    /// The job's number in its list, from 1. Two equal lines are two jobs.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Which run through the list this is, from 1.
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Which attempt at the job this is, from 1.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }
}

/// Why a worker function could not do a job or produce a record, and what is to come of it.
///
/// Any error becomes one by `?`, and so does [`JobError::new`]: the job is tried again as long as
/// it has attempts left, then it has failed for good, and is recorded with this text. With
/// [`JobError::fail`] it has failed for good at once; [`JobError::stop`] stops the pipeline.
///
/// ```
/// use procsig::{Job, JobError};
///
/// fn port(job: &Job) -> Result<u16, JobError> {
///     let port = job.as_str()?.parse()?; // failed, and tried again
///     match port {
///         0 => Err(JobError::fail("port 0 is none")), // failed for good
///         1..1024 if !may_bind() => Err(JobError::stop("no right to bind such ports")),
///         _ => Ok(port),
///     }
/// }
/// # fn may_bind() -> bool { false }
/// ```
pub struct JobError {
    consequence: Consequence,
    message: String,
}

/// What comes of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// Another attempt, if there is one left.
    Retry,
    /// The job has failed for good.
    Fail,
    /// The pipeline stops.
    Stop,
}

impl JobError {
    /// An error with a text of its own. The job is tried again if it has attempts left.
    pub fn new(message: impl std::fmt::Display) -> JobError {
        JobError { consequence: Consequence::Retry, message: message.to_string() }
    }

    /// The job has failed for good: another attempt would come to the same.
    ///
    /// Anywhere else than in a job (in a producer, in a set-up) as [`JobError::new`].
    pub fn fail(message: impl std::fmt::Display) -> JobError {
        JobError { consequence: Consequence::Fail, message: message.to_string() }
    }

    /// Stops the pipeline in order, with exit code 1 and this text as its
    /// [cause](crate::Report::cause).
    ///
    /// The job stays in the spool as not done, with no attempt counted, and is done first when the
    /// pipeline is started again. Jobs that other threads have in hand are finished.
    pub fn stop(message: impl std::fmt::Display) -> JobError {
        JobError { consequence: Consequence::Stop, message: message.to_string() }
    }

    pub(crate) fn consequence(&self) -> Consequence {
        self.consequence
    }

    /// The end of the process that it has come up in, outside of any job.
    pub(crate) fn into_error(self, what: &str) -> Error {
        let message = match what {
            "" => self.message,
            what => format!("{what}: {}", self.message),
        };
        match self.consequence {
            Consequence::Retry | Consequence::Fail => Error::Failure(message),
            Consequence::Stop => Error::Stop(message),
        }
    }
}

impl std::fmt::Display for JobError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::fmt::Debug for JobError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

// Like `anyhow::Error`, this type is no `std::error::Error` itself: only so can every error be
// converted into it.
impl<E: std::error::Error> From<E> for JobError {
    fn from(error: E) -> JobError {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        JobError::new(message)
    }
}

/// What is recorded of a job that has failed for good.
#[derive(Debug)]
pub(crate) struct Failure<'a> {
    job: &'a [u8],
    /// Only the beginning of the job is known.
    cut: bool,
    seq: u64,
    round: Option<u64>,
    error: &'a str,
    attempt: u64,
    worker: &'a str,
}

/// Its record in the output.
#[derive(Serialize)]
struct Failed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_base64: Option<String>,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<u64>,
    ok: bool,
    error: &'a str,
    attempt: u64,
    worker: &'a str,
}

/// Its record in the dead letters.
#[derive(Serialize)]
struct DeadLetter<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_base64: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    job_cut: bool,
    seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<u64>,
    reason: &'a str,
    attempts: u64,
    worker: &'a str,
}

impl<'a> Failure<'a> {
    pub(crate) fn of(
        job: &Job<'a>,
        round: Option<u64>,
        worker: &'a str,
        error: &'a str,
    ) -> Failure<'a> {
        Failure {
            job: job.text,
            cut: false,
            seq: job.seq,
            round,
            error,
            attempt: job.attempt,
            worker,
        }
    }

    /// Of a job of which only the beginning is known: it can't be run again.
    pub(crate) fn of_cut_job(self) -> Failure<'a> {
        Failure { cut: true, ..self }
    }

    /// Stages it where failures are recorded; what can't be recorded is in the log.
    pub(crate) fn stage(&self, recording: &Recording, staged: &mut Staged) {
        use base64::Engine;
        let job = std::str::from_utf8(self.job).ok();
        let encoded = || base64::engine::general_purpose::STANDARD.encode(self.job);
        let job_base64 = job.is_none().then(encoded);
        let Failure { seq, round, error, attempt, worker, .. } = *self;
        let staged = match recording.failures {
            Failures::Output => staged.push(Kind::Result, |out| {
                let ok = false;
                let record = Failed { job, job_base64, seq, round, ok, error, attempt, worker };
                format::encode(&recording.format, &record, out)
            }),
            Failures::DeadLetters => staged.push(Kind::DeadLetter, |out| {
                let (job_cut, reason, attempts) = (self.cut, error, attempt);
                let record =
                    DeadLetter { job, job_base64, job_cut, seq, round, reason, attempts, worker };
                format::encode(&Format::JsonLines, &record, out)
            }),
            Failures::Log => Err(JobError::new("")),
        };
        if staged.is_err() {
            let text: String = String::from_utf8_lossy(self.job).chars().take(80).collect();
            log::warn!("job {seq} ({text}) has failed (attempt {attempt}): {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(text: &[u8]) -> Job<'_> {
        Job { text, seq: 1, round: 1, attempt: 1 }
    }

    #[test]
    fn a_job_that_is_no_value_of_its_type_has_failed_for_good() {
        assert_eq!(job(b"[1, 2]").json::<Vec<u8>>().ok(), Some(vec![1, 2]));
        assert_eq!(job(b"\"text\"").json::<&str>().ok(), Some("text"));
        for wrong in [&b"[1, 300]"[..], b"[1", b"[1] [2]", b"\xff"] {
            let error = job(wrong).json::<Vec<u8>>().expect_err("no such value");
            assert_eq!(error.consequence(), Consequence::Fail);
            assert!(error.to_string().starts_with("the job can't be read: "), "{error}");
        }
    }

    #[test]
    fn an_error_says_what_comes_of_it_and_keeps_its_causes() {
        let retry: JobError = "x".parse::<u8>().expect_err("no number").into();
        assert_eq!(retry.consequence(), Consequence::Retry);
        assert_eq!(JobError::new("x").consequence(), Consequence::Retry);
        assert_eq!(JobError::fail("x").consequence(), Consequence::Fail);
        assert_eq!(JobError::stop("x").consequence(), Consequence::Stop);
        let stop = JobError::stop("x").into_error("the set-up has failed");
        assert!(stop.is_for_good() && stop.to_string() == "the set-up has failed: x");
        assert!(!JobError::fail("x").into_error("").is_for_good());
    }
}
