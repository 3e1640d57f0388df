//! Workers that call a Rust function.

use super::{Attempt, Produce, Verdict, Work};
use crate::flow::emitter::{Emitter, Encode, Publish};
use crate::flow::job::{Failure, Job, JobError};
use crate::flow::queue::lane::Staged;
use crate::stop::Stop;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A function that is called for each job.
pub(crate) struct JobFunction<T, F> {
    pub function: F,
    pub encode: Encode<T>,
}

impl<T, F> Work for JobFunction<T, F>
where
    F: Fn(&Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync,
{
    fn attempt(&self, attempt: &Attempt<'_>, staged: &mut Staged) -> Verdict {
        let mut emitter = Emitter::of_job(&self.encode, staged, attempt.record_max);
        let call = AssertUnwindSafe(|| (self.function)(&attempt.job, &mut emitter));
        let error = match catch_unwind(call) {
            Ok(Ok(())) => return Verdict::Done,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("panicked: {}", panic_message(&*panic)),
        };
        // A job's results are all or nothing.
        staged.clear();
        let failure = Failure::of(&attempt.job, attempt.round, attempt.worker, &error);
        failure.stage(attempt.failures, staged);
        Verdict::Failed { retry: true }
    }
}

/// A function that produces without jobs.
pub(crate) struct ProducerFunction<T, F> {
    pub function: F,
    pub encode: Encode<T>,
}

impl<T, F> Produce for ProducerFunction<T, F>
where
    F: Fn(&Stop, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync,
{
    fn produce(&self, stop: &Stop, lane: &dyn Publish) -> Result<(), String> {
        let mut emitter = Emitter::of_producer(&self.encode, lane);
        match catch_unwind(AssertUnwindSafe(|| (self.function)(stop, &mut emitter))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(format!("panicked: {}", panic_message(&*panic))),
        }
    }
}

/// The text of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
