//! The whole program, with functions of its user's own.

use crate::config::raw::KnownFunction;
use crate::config::{self, Output};
use crate::control::launch::Task;
use crate::error::Error;
use crate::flow::emitter::Emitter;
use crate::flow::job::{Job, JobError};
use crate::flow::worker::function::{PerProcess, PerThread, ProducerFunction};
use crate::pipeline::block_signals;
use crate::pipeline::sink::encoder_for;
use crate::stop::Stop;
use serde::Serialize;

/// Everything that the `procsig` program can do, with functions of your own: its commands, its options
/// and the whole configuration file, in which a worker names one of them by `function = "..."`.
///
/// ```no_run
/// use procsig::{Emitter, Job, JobError};
///
/// # #[derive(serde::Serialize)]
/// # struct Length { host: String, bytes: usize }
/// fn length(job: &Job, out: &mut Emitter<Length>) -> Result<(), JobError> {
///     let host = job.as_str()?;
///     out.emit(&Length { host: host.into(), bytes: host.len() })
/// }
///
/// fn main() -> std::process::ExitCode {
///     procsig::Daemon::new().worker("length", length).main()
/// }
/// ```
///
/// This program is run as `lengths run --jobs hosts.txt -o lengths.jsonl`, or with a configuration:
///
/// ```toml
/// [jobs]
/// lines = "hosts.txt"
///
/// [workers.length]
/// function = "length"
/// processes = 2
/// threads = 8
///
/// [output]
/// file = "lengths.jsonl"
/// ```
///
/// What is emitted is written in the format that the configuration names. Records of different functions
/// may be of different types.
#[must_use = "a daemon does nothing until its main is called"]
#[derive(Default)]
pub struct Daemon {
    pub(crate) version: Option<String>,
    functions: Vec<Function>,
}

struct Function {
    known: KnownFunction,
    task: Box<dyn FnMut(&Output) -> Task>,
}

impl Daemon {
    /// A daemon without functions: the `procsig` program.
    pub fn new() -> Daemon {
        Daemon::default()
    }

    /// What `--version` says; without it, the version of procsig.
    pub fn version(mut self, version: impl Into<String>) -> Daemon {
        self.version = Some(version.into());
        self
    }

    /// A function that is called for each job; see [`Workers::worker`](crate::Workers::worker).
    pub fn worker<T, F>(self, name: impl Into<String>, function: F) -> Daemon
    where
        T: Serialize + 'static,
        F: Fn(&Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let function = move |_: &(), job: &Job<'_>, out: &mut Emitter<'_, T>| function(job, out);
        self.worker_per_process(name, || Ok(()), function)
    }

    /// A function that is called for each job, with what its process has set up; see
    /// [`Workers::worker_per_process`](crate::Workers::worker_per_process).
    pub fn worker_per_process<T, S, U, F>(
        self,
        name: impl Into<String>,
        set_up: U,
        function: F,
    ) -> Daemon
    where
        T: Serialize + 'static,
        S: Sync + 'static,
        U: Fn() -> Result<S, JobError> + Sync + 'static,
        F: Fn(&S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let (set_up, function) = (kept(set_up), kept(function));
        self.register(name.into(), true, move |output| {
            Task::Jobs(Box::new(PerProcess { set_up, function, encode: encoder_for(output) }))
        })
    }

    /// A function that is called for each job, with what its thread has set up; see
    /// [`Workers::worker_per_thread`](crate::Workers::worker_per_thread).
    pub fn worker_per_thread<T, S, U, F>(
        self,
        name: impl Into<String>,
        set_up: U,
        function: F,
    ) -> Daemon
    where
        T: Serialize + 'static,
        S: 'static,
        U: Fn() -> Result<S, JobError> + Sync + 'static,
        F: Fn(&mut S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let (set_up, function) = (kept(set_up), kept(function));
        self.register(name.into(), true, move |output| {
            Task::Jobs(Box::new(PerThread { set_up, function, encode: encoder_for(output) }))
        })
    }

    /// A function that produces without jobs; see [`Workers::producer`](crate::Workers::producer).
    pub fn producer<T, F>(self, name: impl Into<String>, function: F) -> Daemon
    where
        T: Serialize + 'static,
        F: Fn(&Stop, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let function = kept(function);
        self.register(name.into(), false, move |output| {
            Task::Produce(Box::new(ProducerFunction { function, encode: encoder_for(output) }))
        })
    }

    /// Reads the command line of this process, does what it says, and returns what to exit with.
    ///
    /// To be called first of all in `main`: until then a signal ends the program half-way, and a run
    /// needs a process with a single thread.
    pub fn main(self) -> std::process::ExitCode {
        // The very first act, before even the arguments are parsed: from here on a signal waits for the
        // supervisor instead of ending a half-started pipeline. Only `run` has a supervisor that takes
        // them; the other commands start nothing and may be ended by a signal at any time.
        if std::env::args_os().nth(1).is_some_and(|command| command == "run") {
            block_signals();
        }
        crate::cli::main(self)
    }

    fn register(
        mut self,
        name: String,
        takes_jobs: bool,
        task: impl FnMut(&Output) -> Task + 'static,
    ) -> Daemon {
        let known = KnownFunction { name, takes_jobs };
        self.functions.push(Function { known, task: Box::new(task) });
        self
    }

    /// The functions, as far as a configuration can name them.
    pub(crate) fn known(&self) -> Vec<KnownFunction> {
        self.functions.iter().map(|function| function.known.clone()).collect()
    }

    /// Is each function's name its own?
    pub(crate) fn check(&self) -> Result<(), Error> {
        let names = self.functions.iter().map(|function| &function.known.name);
        for (index, name) in names.clone().enumerate() {
            if names.clone().take(index).any(|other| other == name) {
                return Err(Error::Config(format!(
                    "this program has registered two functions as {name:?}: give one of them another \
                     name"
                )));
            }
        }
        Ok(())
    }

    /// What a worker does whose function has this name.
    pub(crate) fn task(&mut self, name: &str, output: &config::Output) -> Option<Task> {
        let function = self.functions.iter_mut().find(|function| function.known.name == name)?;
        Some((function.task)(output))
    }
}

/// Kept for as long as the program runs: several kinds of workers may call the same function.
fn kept<F>(function: F) -> &'static F {
    Box::leak(Box::new(function))
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Daemon").field("functions", &self.known()).finish()
    }
}
