//! Workers that start a command for each job.

use super::command::{CommandOutcome, CommandRunner, JobRef};
use super::{Attempt, ProcessWork, ThreadWork, Verdict, Work};
use crate::config::Format;
use crate::flow::format::{self, Failures};
use crate::flow::job::{Failure, JobError};
use crate::flow::queue::frame::Kind;
use crate::flow::queue::lane::Staged;
use serde_json::Value;

impl Work for CommandRunner {
    fn start(&self) -> Result<Box<dyn ProcessWork + '_>, JobError> {
        Ok(Box::new(self))
    }
}

impl ProcessWork for &CommandRunner {
    fn thread(&self) -> Result<Box<dyn ThreadWork + '_>, JobError> {
        Ok(Box::new(*self))
    }
}

impl ThreadWork for &CommandRunner {
    fn attempt(&mut self, attempt: &Attempt<'_>, staged: &mut Staged) -> Verdict {
        let job = JobRef::of(attempt);
        let outcome = self.run(job, &mut |started| {
            (attempt.note_command)(started.group, started.start_time);
        });
        (attempt.note_command)(0, 0);
        let (result, verdict) = match outcome {
            CommandOutcome::Done(result) => (result, Verdict::Done),
            CommandOutcome::Failed { result, reason, retryable } => {
                log::debug!("job {} failed: {reason}", job.seq);
                (result, Verdict::Failed { retry: retryable })
            }
            CommandOutcome::PutBack { result, reason } => {
                log::debug!("job {} is put back: {reason}", job.seq);
                (result, Verdict::Interrupted)
            }
        };
        stage(attempt, verdict, staged, |bytes, dead| {
            // If not even the rest of it fits, publishing says so, and the job fails for it.
            let _fits = result.encode(bytes, attempt.record_max, dead);
        })
    }
}

/// Stages a result of ours, which `encode` writes as a line of JSON: as a dead letter if it is one,
/// otherwise in the format of the output.
pub(super) fn stage(
    attempt: &Attempt<'_>,
    verdict: Verdict,
    staged: &mut Staged,
    encode: impl FnOnce(&mut Vec<u8>, bool),
) -> Verdict {
    let dead = verdict != Verdict::Done && attempt.recording.failures == Failures::DeadLetters;
    let kind = if dead { Kind::DeadLetter } else { Kind::Result };
    let format = &attempt.recording.format;
    let pushed = staged.push(kind, |bytes| {
        let before = bytes.len();
        encode(bytes, dead);
        if dead || *format == Format::JsonLines {
            return Ok(());
        }
        let mut record: Value = serde_json::from_slice(&bytes[before..])?;
        bytes.truncate(before);
        if *format == Format::Lines
            && let Some(value) = record.get_mut("value")
        {
            // What a coprocess has answered is the line, and not what stands around it.
            record = value.take();
        }
        format::encode(format, &record, bytes)
    });
    match pushed {
        Ok(()) => verdict,
        Err(error) => {
            let error = error.to_string();
            let failure = Failure::of(&attempt.job, attempt.round, attempt.worker, &error);
            failure.stage(attempt.recording, staged);
            Verdict::Failed { retry: false }
        }
    }
}
