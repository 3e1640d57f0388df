//! What workers do: the functions that a user declares, and how often each is run at a time.

use super::Pipeline;
use crate::config::{Run, Worker};
use crate::control::launch::Task;
use crate::flow::emitter::{Emitter, Encode};
use crate::flow::job::{Job, JobError};
use crate::flow::worker::function::{PerProcess, PerThread, ProducerFunction};
use crate::stop::Stop;
use std::time::Duration;

/// A pipeline with at least one kind of worker, which emits records of type `T`.
///
/// Exactly one kind takes the jobs ([`worker`](Workers::worker),
/// [`worker_per_process`](Workers::worker_per_process),
/// [`worker_per_thread`](Workers::worker_per_thread) or
/// [`coprocess`](Workers::coprocess)) if there is a list of jobs; any number of
/// [producers](Workers::producer) can run beside it.
///
/// # What a function may do
///
/// - Anything that takes its time: connections, files, programs that it starts. It is called by
///   several threads of several processes at once.
/// - Start threads, and a runtime with threads of its own: in a set-up, or during a job. A thread
///   that outlives its job is no part of it: what it does is not waited for.
/// - Fork, if the child only executes another program: [`std::process::Command`] does that. What is
///   left running when a worker dies, or at the end, is killed.
/// - Fail, panic, hang, or end its process: its job fails, after as many attempts and deaths as are
///   allowed, and nobody else's.
///
/// # What it must not rely on
///
/// - That something set up before [`run`](super::Ready::run) works after the fork. Memory is
///   copied, threads are not: a thread pool, a runtime or a client started before has no threads in
///   the worker, and a lock that such a thread held stays locked. A static that is set after the
///   fork is set in that one process. Set such things up per process or per thread.
/// - That files and sockets opened before the fork are its own: they are shared with all others,
///   with one position.
/// - That it is called once for a job. When its process is killed, its job is called again, and so
///   are the jobs beside it. Its *records* are published once; what else it does should bear
///   repetition.
/// - That a job's records are seen before it has returned `Ok`: they are published all together, or
///   not at all.
/// - Destructors at the end of a process that was killed, or that ends for a
///   [time-out](Workers::timeout).
/// - `stdin`, which is empty, and `stdout`, which belongs to whoever wants a pipeline's output.
/// - Signal handlers and masks: SIGINT, SIGTERM and SIGHUP are ignored in a worker, since the
///   supervisor tells it to stop.
#[must_use = "a pipeline does nothing until it is run"]
pub struct Workers<T> {
    pub(super) pipeline: Pipeline,
    pub(super) kinds: Vec<(Worker, Factory<T>)>,
}

/// What makes the task of a kind of worker as soon as it is known how records are encoded.
pub(crate) type Factory<T> = Box<dyn FnOnce(Encode<T>) -> Task>;

impl Pipeline {
    /// A kind of worker that is called for each job; see [`Workers::worker`].
    pub fn worker<T, F>(self, name: impl Into<String>, function: F) -> Workers<T>
    where
        T: 'static,
        F: Fn(&Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        Workers::of(self).worker(name, function)
    }

    /// A kind of worker with something that each of its processes sets up; see
    /// [`Workers::worker_per_process`].
    pub fn worker_per_process<T, S, U, F>(
        self,
        name: impl Into<String>,
        set_up: U,
        function: F,
    ) -> Workers<T>
    where
        T: 'static,
        S: Sync + 'static,
        U: Fn() -> Result<S, JobError> + 'static,
        F: Fn(&S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        Workers::of(self).worker_per_process(name, set_up, function)
    }

    /// A kind of worker with something that each of its threads sets up; see
    /// [`Workers::worker_per_thread`].
    pub fn worker_per_thread<T, S, U, F>(
        self,
        name: impl Into<String>,
        set_up: U,
        function: F,
    ) -> Workers<T>
    where
        T: 'static,
        S: 'static,
        U: Fn() -> Result<S, JobError> + Sync + 'static,
        F: Fn(&mut S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        Workers::of(self).worker_per_thread(name, set_up, function)
    }

    /// A kind of worker that produces without jobs; see [`Workers::producer`].
    pub fn producer<T, F>(self, name: impl Into<String>, function: F) -> Workers<T>
    where
        T: 'static,
        F: Fn(&Stop, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        Workers::of(self).producer(name, function)
    }
}

impl<T: 'static> Workers<T> {
    pub(super) fn of(pipeline: Pipeline) -> Workers<T> {
        Workers { pipeline, kinds: Vec::new() }
    }

    /// A kind of worker that is called for each job, by several threads of several processes at
    /// the same time. What it emits is published all together when it returns `Ok`, and not at
    /// all otherwise.
    ///
    /// Each process has a copy of it by `fork`: what it captures is shared by no two of them. Which
    /// errors lead to what is said by [`JobError`]; a panic fails the job like an error, with its
    /// message.
    ///
    /// ```no_run
    /// use procsig::{Emitter, Job, JobError, Pipeline};
    ///
    /// fn size(job: &Job, out: &mut Emitter<u64>) -> Result<(), JobError> {
    ///     out.emit(&std::fs::metadata(job.as_str()?)?.len())
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     Pipeline::new("sizes")
    ///         .jobs(procsig::source::lines("files.txt"))
    ///         .worker("size", size)
    ///         .attempts(3)
    ///         .sink(procsig::sink::json_lines("sizes.jsonl"))
    ///         .run()
    ///         .into()
    /// }
    /// ```
    pub fn worker<F>(self, name: impl Into<String>, function: F) -> Workers<T>
    where
        F: Fn(&Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let function = move |_: &(), job: &Job<'_>, out: &mut Emitter<'_, T>| function(job, out);
        self.worker_per_process(name, || Ok(()), function)
    }

    /// A kind of worker as [`Workers::worker`], with something that each process sets up once, after
    /// the fork, for all of its threads: a pool of connections, an HTTP client, a runtime.
    ///
    /// It is dropped when the last thread of the process has ended: at a stop, at the end of the
    /// list, whatever became of the jobs. It may be in use by another thread while a call panics, and
    /// stays in use after that.
    ///
    /// A set-up may take 30 s. One that fails ends its process, and is tried again in another one,
    /// within the limits of [`Ready::restart`](super::Ready::restart); then the pipeline stops with
    /// exit code 1 and the set-up's error as its cause. With [`JobError::stop`] it stops at once.
    ///
    /// ```no_run
    /// use procsig::{Emitter, Job, JobError, Pipeline};
    /// use std::collections::HashSet;
    ///
    /// fn read_words() -> Result<HashSet<String>, JobError> {
    ///     let text = std::fs::read_to_string("words.txt")?;
    ///     Ok(text.lines().map(str::to_owned).collect())
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     Pipeline::new("spelling")
    ///         .jobs(procsig::source::lines("texts.txt"))
    ///         .worker_per_process(
    ///             "spell",
    ///             read_words,
    ///             |words: &HashSet<String>, job: &Job, out: &mut Emitter<String>| {
    ///                 let text = std::fs::read_to_string(job.as_str()?)?;
    ///                 for word in text.split_whitespace().filter(|word| !words.contains(*word)) {
    ///                     out.emit(&word.to_owned())?;
    ///                 }
    ///                 Ok(())
    ///             },
    ///         )
    ///         .sink(procsig::sink::json_lines("unknown.jsonl"))
    ///         .run()
    ///         .into()
    /// }
    /// ```
    pub fn worker_per_process<S, U, F>(
        mut self,
        name: impl Into<String>,
        set_up: U,
        function: F,
    ) -> Workers<T>
    where
        S: Sync + 'static,
        U: Fn() -> Result<S, JobError> + 'static,
        F: Fn(&S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let factory = |encode| Task::Jobs(Box::new(PerProcess { set_up, function, encode }));
        self.kinds.push((kind(name.into()), Box::new(factory)));
        self
    }

    /// A kind of worker as [`Workers::worker`], with something that each thread sets up for itself,
    /// before it takes its first job: a connection, a buffer, a generator of random numbers. It
    /// never leaves its thread.
    ///
    /// It is dropped when its thread ends, as in [`Workers::worker_per_process`]. After a call that
    /// has panicked it is dropped as well, since it may be half changed, and set up anew. Set-ups
    /// that fail are as there.
    ///
    /// ```no_run
    /// use procsig::{Emitter, Job, JobError, Pipeline};
    /// use std::io::{BufRead, BufReader, Write};
    /// use std::net::TcpStream;
    ///
    /// fn connect() -> Result<BufReader<TcpStream>, JobError> {
    ///     Ok(BufReader::new(TcpStream::connect("127.0.0.1:7000")?))
    /// }
    ///
    /// fn ask(
    ///     server: &mut BufReader<TcpStream>,
    ///     job: &Job,
    ///     out: &mut Emitter<String>,
    /// ) -> Result<(), JobError> {
    ///     writeln!(server.get_mut(), "{}", job.as_str()?)?;
    ///     let mut answer = String::new();
    ///     if server.read_line(&mut answer)? == 0 {
    ///         // Nothing works without this server; but nothing is lost either.
    ///         return Err(JobError::stop("the server has hung up"));
    ///     }
    ///     out.emit(&answer)
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     Pipeline::new("questions")
    ///         .jobs(procsig::source::lines("questions.txt"))
    ///         .worker_per_thread("ask", connect, ask)
    ///         .threads(16)
    ///         .sink(procsig::sink::json_lines("answers.jsonl"))
    ///         .run()
    ///         .into()
    /// }
    /// ```
    pub fn worker_per_thread<S, U, F>(
        mut self,
        name: impl Into<String>,
        set_up: U,
        function: F,
    ) -> Workers<T>
    where
        S: 'static,
        U: Fn() -> Result<S, JobError> + Sync + 'static,
        F: Fn(&mut S, &Job<'_>, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let factory = |encode| Task::Jobs(Box::new(PerThread { set_up, function, encode }));
        self.kinds.push((kind(name.into()), Box::new(factory)));
        self
    }

    /// A kind of worker that produces without jobs until it is told to stop. A record is published
    /// when `emit` returns. When all producers have returned, the pipeline ends by itself.
    ///
    /// One that returns an error or panics is started again, within the limits of
    /// [`Ready::restart`](super::Ready::restart); with [`JobError::stop`] it stops the pipeline.
    ///
    /// ```no_run
    /// use procsig::{Emitter, Pipeline, Stop};
    /// use std::time::Duration;
    ///
    /// fn main() -> std::process::ExitCode {
    ///     Pipeline::new("load")
    ///         .producer("load", |stop: &Stop, out: &mut Emitter<String>| {
    ///             while !stop.wait(Duration::from_secs(1)) {
    ///                 out.emit(&std::fs::read_to_string("/proc/loadavg")?)?;
    ///             }
    ///             Ok(())
    ///         })
    ///         .sink(procsig::sink::json_lines("load.jsonl"))
    ///         .run()
    ///         .into()
    /// }
    /// ```
    pub fn producer<F>(mut self, name: impl Into<String>, function: F) -> Workers<T>
    where
        F: Fn(&Stop, &mut Emitter<'_, T>) -> Result<(), JobError> + Sync + 'static,
    {
        let factory = |encode| Task::Produce(Box::new(ProducerFunction { function, encode }));
        let worker = Worker { processes: 1, threads: 1, ..kind(name.into()) };
        self.kinds.push((worker, Box::new(factory)));
        self
    }

    /// How many processes there are of the kind declared last: 2 by default, 1 of a producer.
    pub fn processes(self, count: u16) -> Workers<T> {
        self.change(|worker| worker.processes = count)
    }

    /// How many threads each process of the kind declared last has: 4 by default, 1 of a
    /// producer.
    pub fn threads(self, count: u16) -> Workers<T> {
        self.change(|worker| worker.threads = count)
    }

    /// Failures after which a job of the kind declared last has failed for good; 1 by default.
    pub fn attempts(self, count: u32) -> Workers<T> {
        self.change(|worker| worker.attempts = count)
    }

    /// Pause between a failure and the next attempt; 1 s by default.
    pub fn retry_delay(self, pause: Duration) -> Workers<T> {
        self.change(|worker| worker.retry_delay = pause)
    }

    /// How long one attempt at a job of the kind declared last may take, from 1 ms on; there is no
    /// limit by default.
    ///
    /// A function can't be interrupted, so one that takes longer is ended together with its process,
    /// and another process takes its place at once. That attempt has failed. Jobs that other threads
    /// of the process have in hand get a second to end; otherwise they are run again, with no attempt
    /// counted. What the function holds outside of the process is not freed by this: a row locked in
    /// a database, a file half written.
    ///
    /// Set it to what no job ever needs: a function that is merely slow is ended as well. A producer
    /// can't have one, and a set-up is not bounded by it.
    ///
    /// ```no_run
    /// # use procsig::{Emitter, Job, Pipeline};
    /// # use std::time::Duration;
    /// # fn main() -> std::process::ExitCode {
    /// Pipeline::new("hosts")
    ///     .jobs(procsig::source::lines("hosts.txt"))
    ///     .worker("resolve", |job: &Job, out: &mut Emitter<String>| {
    ///         use std::net::ToSocketAddrs;
    ///         for address in (job.as_str()?, 0).to_socket_addrs()? {
    ///             out.emit(&address.ip().to_string())?;
    ///         }
    ///         Ok(())
    ///     })
    ///     .timeout(Duration::from_secs(60))
    ///     .sink(procsig::sink::json_lines("addresses.jsonl"))
    ///     .run()
    ///     .into()
    /// # }
    /// ```
    pub fn timeout(self, limit: Duration) -> Workers<T> {
        self.change(|worker| worker.timeout = Some(limit))
    }

    /// After how many jobs a process of the kind declared last ends in order, and another one takes
    /// its place: for code that keeps a little more memory with each job. Never by default.
    ///
    /// It takes no new job, finishes those in hand, drops what it has set up, and ends; the next one
    /// is started at once, and it counts as no death. Each does a tenth more or less than `jobs`, so
    /// that not all end together. While one is replaced the other processes of the kind go on; with
    /// one process, jobs wait for as long as its last jobs in hand take, and the next set-up.
    ///
    /// A producer can't be recycled.
    pub fn recycle_after(self, jobs: u64) -> Workers<T> {
        self.change(|worker| worker.recycle_after = Some(jobs))
    }

    /// Above how many bytes of private memory in use a process of the kind declared last is replaced,
    /// as by [`Workers::recycle_after`]. It is looked at after jobs, ten times a second at most. Never
    /// by default.
    ///
    /// It is not a limit: a job may take as much as it likes. For that, see
    /// [`Limits::memory`](crate::config::Limits::memory).
    pub fn recycle_above(self, bytes: u64) -> Workers<T> {
        self.change(|worker| worker.recycle_above = Some(bytes))
    }

    /// What a process of the kind declared last, and each that it starts, may take of the machine.
    pub fn limits(self, limits: crate::config::Limits) -> Workers<T> {
        self.change(|worker| worker.limits = limits)
    }

    pub(super) fn change(mut self, change: impl FnOnce(&mut Worker)) -> Workers<T> {
        if let Some((worker, _)) = self.kinds.last_mut() {
            change(worker);
        }
        self
    }
}

fn kind(name: String) -> Worker {
    Worker::new(name.clone(), Run::Function(name))
}
