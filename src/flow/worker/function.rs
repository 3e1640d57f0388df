//! Workers that call a Rust function.
//!
//! What a function has been set up with belongs to a process and is shared by its threads
//! ([`PerProcess`]), or belongs to one thread ([`PerThread`]). A function that needs nothing is one
//! whose process has set up `()`.

use super::caught::caught;
use super::{Attempt, ProcessWork, Produce, ThreadWork, Verdict, Work};
use crate::error::Error;
use crate::flow::emitter::{Emitter, Encode, Publish};
use crate::flow::job::{Consequence, Failure, Job, JobError};
use crate::flow::queue::lane::Staged;
use crate::stop::Stop;

/// A function that is called for each job, with what its process has set up.
pub(crate) struct PerProcess<T, U, F> {
    pub set_up: U,
    pub function: F,
    pub encode: Encode<T>,
}

impl<T, S, U, F> Work for PerProcess<T, U, F>
where
    S: Sync + 'static,
    U: Fn() -> Result<S, JobError>,
    F: Fn(&S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync,
{
    fn start(&self) -> Result<Box<dyn ProcessWork + '_>, JobError> {
        let state = (self.set_up)()?;
        Ok(Box::new(OfProcess { state, function: &self.function, encode: &self.encode }))
    }
}

struct OfProcess<'a, T, S, F> {
    state: S,
    function: &'a F,
    encode: &'a Encode<T>,
}

impl<T, S, F> ProcessWork for OfProcess<'_, T, S, F>
where
    S: Sync,
    F: Fn(&S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync,
{
    fn thread(&self) -> Result<Box<dyn ThreadWork + '_>, JobError> {
        Ok(Box::new(self))
    }
}

impl<T, S, F> ThreadWork for &OfProcess<'_, T, S, F>
where
    F: Fn(&S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError>,
{
    fn attempt(&mut self, attempt: &Attempt<'_>, staged: &mut Staged) -> Verdict {
        let call = |out: &mut Emitter<'_, T>| (self.function)(&self.state, &attempt.job, out);
        call_for_job(self.encode, attempt, staged, call).verdict
    }
}

/// A function that is called for each job, with what its thread has set up.
pub(crate) struct PerThread<T, U, F> {
    pub set_up: U,
    pub function: F,
    pub encode: Encode<T>,
}

impl<T, S, U, F> Work for PerThread<T, U, F>
where
    S: 'static,
    U: Fn() -> Result<S, JobError> + Sync,
    F: Fn(&mut S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync,
{
    fn start(&self) -> Result<Box<dyn ProcessWork + '_>, JobError> {
        Ok(Box::new(self))
    }
}

impl<T, S, U, F> ProcessWork for &PerThread<T, U, F>
where
    S: 'static,
    U: Fn() -> Result<S, JobError> + Sync,
    F: Fn(&mut S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync,
{
    fn thread(&self) -> Result<Box<dyn ThreadWork + '_>, JobError> {
        let state = (self.set_up)()?;
        let (function, encode) = (&self.function, &self.encode);
        Ok(Box::new(OfThread { state, function, encode, panicked: false }))
    }
}

struct OfThread<'a, T, S, F> {
    state: S,
    function: &'a F,
    encode: &'a Encode<T>,
    /// A call has panicked: nobody knows what it has left of the state.
    panicked: bool,
}

impl<T, S, F> ThreadWork for OfThread<'_, T, S, F>
where
    F: Fn(&mut S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError>,
{
    fn attempt(&mut self, attempt: &Attempt<'_>, staged: &mut Staged) -> Verdict {
        let (state, function) = (&mut self.state, self.function);
        let call = |out: &mut Emitter<'_, T>| function(state, &attempt.job, out);
        let called = call_for_job(self.encode, attempt, staged, call);
        self.panicked |= called.panicked;
        called.verdict
    }

    fn is_broken(&self) -> bool {
        self.panicked
    }
}

struct Called {
    verdict: Verdict,
    panicked: bool,
}

/// Calls a function for a job. A job's results are all or nothing: of one that fails, the failure
/// is what is staged.
fn call_for_job<T>(
    encode: &Encode<T>,
    attempt: &Attempt<'_>,
    staged: &mut Staged,
    call: impl FnOnce(&mut Emitter<'_, T>) -> Result<(), JobError>,
) -> Called {
    let mut emitter = Emitter::of_job(encode, staged, attempt.record_max);
    let outcome = caught(|| call(&mut emitter));
    let panicked = outcome.is_err();
    let (consequence, message) = match outcome {
        Ok(Ok(())) => return Called { verdict: Verdict::Done, panicked },
        Ok(Err(error)) => (error.consequence(), error.to_string()),
        Err(message) => (Consequence::Retry, message),
    };
    staged.clear();
    let failure = Failure::of(&attempt.job, attempt.round, attempt.worker, &message);
    failure.stage(attempt.recording, staged);
    let verdict = match consequence {
        Consequence::Retry => Verdict::Failed { retry: true },
        Consequence::Fail => Verdict::Failed { retry: false },
        Consequence::Stop => Verdict::Stop(message),
    };
    Called { verdict, panicked }
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
    fn produce(&self, stop: &Stop, lane: &dyn Publish) -> Result<(), Error> {
        let mut emitter = Emitter::of_producer(&self.encode, lane);
        match caught(|| (self.function)(stop, &mut emitter)) {
            Ok(result) => result.map_err(|error| error.into_error("")),
            Err(message) => Err(Error::Failure(message)),
        }
    }
}
