//! The whole program, with functions of its user's own.

use crate::config::raw::{Known, KnownFunction, KnownSink, KnownSource};
use crate::config::{self, Config, Format, Output, Run};
use crate::control::launch::{Kind, Own, Task};
use crate::error::Error;
use crate::flow::emitter::{Emitter, Encode};
use crate::flow::format::encoder_for;
use crate::flow::job::{Job, JobError};
use crate::flow::sink::Sink as ByteSink;
use crate::flow::worker::function::{PerProcess, PerThread, ProducerFunction};
use crate::pipeline::sink::Takes;
use crate::pipeline::{block_signals, sink, source};
use crate::stop::Stop;
use serde::Serialize;
use std::any::{Any, type_name};

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
/// What is emitted is written in the format that the configuration names (`[output] format`). Records of
/// different functions may be of different types, unless they go to a sink of your own.
#[must_use = "a daemon does nothing until its main is called"]
#[derive(Default)]
pub struct Daemon {
    pub(crate) version: Option<String>,
    functions: Vec<Function>,
    sinks: Vec<NamedSink>,
    sources: Vec<NamedSource>,
}

struct Function {
    known: KnownFunction,
    /// The type of its records, as messages call it.
    record: &'static str,
    task: Factory,
}

/// What makes the task of a kind of worker; `None`: the sink takes records of another type.
type Factory = Box<dyn Fn(&Encoder<'_>) -> Option<Task>>;

struct NamedSink {
    known: KnownSink,
    record: &'static str,
    /// An `Encode<T>` of the type that it takes.
    encode: Box<dyn Any>,
    sink: Box<dyn ByteSink>,
}

struct NamedSource {
    known: KnownSource,
    source: Box<dyn source::Source>,
}

/// How records are encoded.
enum Encoder<'a> {
    /// As the output's format says.
    Of(&'a Output),
    /// For a sink of the program's own: see [`NamedSink::encode`].
    Own(&'a dyn Any),
}

impl Encoder<'_> {
    fn of<T: Serialize + 'static>(&self) -> Option<Encode<T>> {
        match self {
            Encoder::Of(output) => Some(encoder_for(output)),
            Encoder::Own(encode) => encode.downcast_ref::<Encode<T>>().cloned(),
        }
    }
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
        self.register::<T>(name.into(), true, move |encoder| {
            let encode = encoder.of::<T>()?;
            Some(Task::Jobs(Box::new(PerProcess { set_up, function, encode })))
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
        self.register::<T>(name.into(), true, move |encoder| {
            let encode = encoder.of::<T>()?;
            Some(Task::Jobs(Box::new(PerThread { set_up, function, encode })))
        })
    }

    /// A function that produces without jobs; see [`Workers::producer`](crate::Workers::producer).
    pub fn producer<T, F>(self, name: impl Into<String>, function: F) -> Daemon
    where
        T: Serialize + 'static,
        F: Fn(&Stop, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let function = kept(function);
        self.register::<T>(name.into(), false, move |encoder| {
            let encode = encoder.of::<T>()?;
            Some(Task::Produce(Box::new(ProducerFunction { function, encode })))
        })
    }

    /// A sink of your own, for the records of functions that emit its type. A configuration names it by
    /// `[output] sink = "..."`.
    ///
    /// ```no_run
    /// use procsig::sink::{Opened, Opening, Records, SinkError, own};
    /// # use procsig::{Daemon, Emitter, Job};
    ///
    /// struct Counter(u64);
    ///
    /// impl procsig::Sink<String> for Counter {
    ///     fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
    ///         self.0 = opening.position.unwrap_or(0);
    ///         Ok(Opened::At(self.0))
    ///     }
    ///
    ///     fn write(&mut self, records: &Records<String>) -> Result<u64, SinkError> {
    ///         self.0 += records.len() as u64;
    ///         println!("{} so far", self.0);
    ///         Ok(self.0)
    ///     }
    /// }
    ///
    /// Daemon::new()
    ///     .worker("echo", |job: &Job, out: &mut Emitter<String>| out.emit(&job.as_str()?.into()))
    ///     .sink("counter", own(Counter(0)))
    ///     .main();
    /// ```
    pub fn sink<T, S>(mut self, name: impl Into<String>, sink: sink::Own<S>) -> Daemon
    where
        T: 'static,
        sink::Own<S>: Takes<T>,
    {
        let parts = sink.into_parts();
        if let Some(sink) = parts.own {
            let name = name.into();
            // Two of the same type are told apart by their names.
            let output = Output { format: Format::Own(name.clone()), ..parts.output };
            let known = KnownSink { name, output, record: type_name::<T>() };
            let encode = Box::new(parts.encode);
            self.sinks.push(NamedSink { known, record: type_name::<T>(), encode, sink });
        }
        self
    }

    /// A source of your own. A configuration names it by `[jobs] source = "..."`.
    pub fn source(
        mut self,
        name: impl Into<String>,
        source: impl source::Source + 'static,
    ) -> Daemon {
        let name = name.into();
        let own =
            config::Own { name: format!("{name}: {}", source.name()), finite: source.is_finite() };
        let known = KnownSource { name, own };
        self.sources.push(NamedSource { known, source: Box::new(source) });
        self
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

    fn register<T>(
        mut self,
        name: String,
        takes_jobs: bool,
        task: impl Fn(&Encoder<'_>) -> Option<Task> + 'static,
    ) -> Daemon {
        let known = KnownFunction { name, takes_jobs, record: type_name::<T>() };
        let (record, task) = (type_name::<T>(), Box::new(task));
        self.functions.push(Function { known, record, task });
        self
    }

    /// What a configuration can name.
    pub(crate) fn known(&self) -> Known {
        Known {
            functions: self.functions.iter().map(|function| function.known.clone()).collect(),
            sinks: self.sinks.iter().map(|sink| sink.known.clone()).collect(),
            sources: self.sources.iter().map(|source| source.known.clone()).collect(),
        }
    }

    /// Is each name that of one thing?
    pub(crate) fn check(&self) -> Result<(), Error> {
        let Known { functions, sinks, sources } = self.known();
        let names = |what, names: Vec<String>| {
            let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
            twice.map_or(Ok(()), |(_, name)| {
                Err(Error::Config(format!(
                    "this program has registered two {what}s as {name:?}: give one of them another \
                     name"
                )))
            })
        };
        names("function", functions.into_iter().map(|it| it.name).collect())?;
        names("sink", sinks.into_iter().map(|it| it.name).collect())?;
        names("source", sources.into_iter().map(|it| it.name).collect())
    }

    /// What a configuration makes of it: its kinds of workers, and what the program brings along.
    ///
    /// # Errors
    /// If a function emits what its sink does not take.
    pub(crate) fn parts(self, config: &Config) -> Result<(Vec<Kind>, Own), Error> {
        let Daemon { functions, sinks, sources, .. } = self;
        let mut sinks = sinks.into_iter();
        let sink = match &config.output.format {
            Format::Own(_) => sinks.find(|sink| sink.known.output.format == config.output.format),
            _ => None,
        };
        let encoder = match &sink {
            Some(sink) => Encoder::Own(&*sink.encode),
            None => Encoder::Of(&config.output),
        };
        let kind = |settings: &config::Worker| {
            let task = match &settings.run {
                Run::Command(_) => Task::Command,
                Run::Coprocess(_) => Task::Coprocess(None),
                Run::Function(name) => {
                    let function = functions.iter().find(|function| function.known.name == *name);
                    // Who resolved the configuration knows the functions.
                    let function = function.ok_or_else(|| {
                        Error::Config(format!("workers.{}: no such function", settings.name))
                    })?;
                    (function.task)(&encoder).ok_or_else(|| {
                        let takes = sink.as_ref().map_or("nothing", |sink| sink.record);
                        Error::Config(format!(
                            "workers.{}: the function {name:?} emits {}, and the sink takes {takes}",
                            settings.name, function.record
                        ))
                    })?
                }
            };
            Ok(Kind { settings: settings.clone(), task })
        };
        let kinds = config.workers.iter().map(kind).collect::<Result<Vec<Kind>, Error>>()?;
        let source = match &config.jobs {
            Some(config::Jobs::Own(own)) => {
                sources.into_iter().find(|source| source.known.own == *own)
            }
            _ => None,
        };
        let own = Own { source: source.map(|it| it.source), sink: sink.map(|it| it.sink) };
        Ok((kinds, own))
    }
}

/// Kept for as long as the program runs: several kinds of workers may call the same function.
fn kept<F>(function: F) -> &'static F {
    Box::leak(Box::new(function))
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Daemon").field("known", &self.known()).finish()
    }
}
