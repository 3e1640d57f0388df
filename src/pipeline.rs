//! What a user declares, and how it is run.

mod coprocess;
mod descriptors;
pub(crate) mod privileges;
pub mod sink;
pub mod source;
mod workers;

use crate::config::{self, Config, Worker};
use crate::control::launch::{Kind, Launch, Own, Task};
use crate::control::supervisor::{self, Inbox};
use crate::control::{notify, signal};
use crate::daemon::Daemon;
use crate::error::{Error, ExitCode};
use crate::flow::balance::Balance;
use crate::flow::queue::spool;
use crate::sys;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;
pub use workers::Workers;

/// A pipeline: where jobs come from, what works on them, where the results go.
///
/// ```no_run
/// use procsig::{Emitter, Job, Pipeline};
///
/// # #[derive(serde::Serialize)]
/// # struct Length { host: String, bytes: usize }
/// fn main() -> std::process::ExitCode {
///     Pipeline::new("lengths")
///         .jobs(procsig::source::lines("hosts.txt"))
///         .worker("length", |job: &Job, out: &mut Emitter<Length>| {
///             let host = job.as_str()?;
///             out.emit(&Length { host: host.into(), bytes: host.len() })
///         })
///         .processes(2)
///         .threads(8)
///         .sink(procsig::sink::json_lines("lengths.jsonl"))
///         .run()
///         .into()
/// }
/// ```
#[derive(Debug)]
#[must_use = "a pipeline does nothing until it is run"]
pub struct Pipeline {
    name: String,
    jobs: Option<source::Jobs>,
}

/// A pipeline that has all it needs.
#[must_use = "a pipeline does nothing until it is run"]
pub struct Ready {
    config: Config,
    kinds: Vec<Kind>,
    own: Own,
}

impl Pipeline {
    /// A pipeline of this name. The name is part of what tells its spool from another pipeline's.
    pub fn new(name: impl Into<String>) -> Pipeline {
        Pipeline { name: name.into(), jobs: None }
    }

    /// Where the jobs come from: one of [`source`], or a [`Source`](source::Source) of your own. Without
    /// it there are only producers.
    pub fn jobs(mut self, jobs: impl Into<source::Jobs>) -> Pipeline {
        self.jobs = Some(jobs.into());
        self
    }
}

impl<T: 'static> Workers<T> {
    /// Where the records go. A sink that can't take what the workers emit does not compile.
    pub fn sink<S: sink::Takes<T>>(self, sink: S) -> Ready {
        let sink::private::Parts { output, encode, own: sink } = sink.into_parts();
        let Workers { pipeline, kinds } = self;
        let with_encoder = |(settings, factory): (Worker, workers::Factory<T>)| Kind {
            settings,
            task: factory(encode.clone()),
        };
        let kinds: Vec<Kind> = kinds.into_iter().map(with_encoder).collect();
        let jobs = pipeline.jobs.map(|source::Jobs { config, own }| (config, own));
        let (jobs, source) = jobs.map_or((None, None), |(config, own)| (Some(config), own));
        let config = Config {
            name: pipeline.name,
            jobs,
            workers: kinds.iter().map(|kind| kind.settings.clone()).collect(),
            buffer: config::Buffer::default(),
            output,
            dead_letters: None,
            shutdown: config::Shutdown::default(),
            restart: config::Restart::default(),
            spool: config::Spool::default(),
            log: config::Log::default(),
            privileges: config::Privileges::default(),
            fresh: false,
        };
        Ready { config, kinds, own: Own { source, sink } }
    }
}

impl Ready {
    /// When the buffer writes.
    pub fn flush(mut self, buffer: config::Buffer) -> Ready {
        self.config.buffer = buffer;
        self
    }

    /// A file for the jobs that have failed for good, with the reason: a line of JSON for each,
    /// instead of a record in the output. It is written exactly once as well, and forced to the disk
    /// when the output is. `procsig dead-letters FILE` prints the jobs, to be run again.
    pub fn dead_letters(mut self, file: impl Into<PathBuf>) -> Ready {
        self.config.dead_letters = Some(file.into());
        self
    }

    /// How long a stop may take, and which part of it is kept for the flush.
    pub fn shutdown(mut self, shutdown: config::Shutdown) -> Ready {
        self.config.shutdown = shutdown;
        self
    }

    /// How often a child may die before the pipeline gives up.
    pub fn restart(mut self, restart: config::Restart) -> Ready {
        self.config.restart = restart;
        self
    }

    /// Where what must survive a crash is kept, and how large it is.
    pub fn spool(mut self, spool: config::Spool) -> Ready {
        self.config.spool = spool;
        self
    }

    /// What is logged, and where. A logger that the program has installed itself is kept.
    pub fn log(mut self, log: config::Log) -> Ready {
        self.config.log = log;
        self
    }

    /// As whom it is run. The program itself becomes that user, for good, before anything is created.
    pub fn privileges(mut self, privileges: config::Privileges) -> Ready {
        self.config.privileges = privileges;
        self
    }

    /// Forget the kept jobs and begin the list anew.
    pub fn fresh(mut self, fresh: bool) -> Ready {
        self.config.fresh = fresh;
        self
    }

    /// Runs the pipeline to its end: forks, supervises, stops in order.
    ///
    /// It takes over the signals of the process and keeps them: SIGINT and SIGTERM no longer end
    /// it, also after this has returned. So return from `main` soon.
    pub fn run(self) -> Outcome {
        let result = check(&self.config, &self.kinds)
            .and_then(|()| privileges::settle(&self.config))
            .and_then(|()| crate::log::init(&self.config.log))
            .and_then(|()| run(self.config, self.kinds, self.own));
        Outcome { result }
    }
}

/// What became of a run. Converts into the exit code of `main`.
#[derive(Debug)]
#[must_use = "it says whether the run has failed"]
pub struct Outcome {
    result: Result<Report, Error>,
}

impl Outcome {
    /// The report, or why the pipeline could not be run.
    ///
    /// # Errors
    /// If it could not be started, or supervision failed.
    pub fn into_result(self) -> Result<Report, Error> {
        self.result
    }
}

impl From<Outcome> for std::process::ExitCode {
    fn from(outcome: Outcome) -> std::process::ExitCode {
        match outcome.result {
            Ok(report) => report.exit_code().code().into(),
            Err(error) => {
                let text = error.to_string();
                let lines: Vec<_> = text.lines().map(crate::log::escape).collect();
                // A closed standard error is no reason for another exit code.
                let _said = writeln!(std::io::stderr(), "procsig: error: {}", lines.join("\n"));
                error.exit_code().code().into()
            }
        }
    }
}

/// How a run has ended.
#[derive(Debug, Clone)]
pub struct Report {
    balance: Balance,
    exit: ExitCode,
    cause: Option<String>,
}

impl Report {
    /// The exit code that says it.
    pub fn exit_code(&self) -> ExitCode {
        self.exit
    }

    /// The books.
    pub fn balance(&self) -> &Balance {
        &self.balance
    }

    /// What the child said, or died of, that could not be kept running.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }
}

/// Blocks the signals that a run handles, so that from now on none of them ends the process.
///
/// A program's very first act, if nothing that comes before [`Ready::run`] may be cut off half-way;
/// `run` does it as well.
pub fn block_signals() {
    // Fails for no set of signals.
    let _mask = sys::signal::block_handled();
}

/// Runs what a configuration declares, with the functions of this program.
pub(crate) fn run_config(config: Config, daemon: Daemon) -> Result<Report, Error> {
    let (kinds, own) = daemon.parts(&config)?;
    run(config, kinds, own)
}

/// Longer times could not be added to the clock.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);
const LANE_MAX: u64 = 1 << 30;
/// A shorter time-out would end processes as fast as they can be started.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// What the configuration file's own checks say of a file, for what was declared in code.
fn check(config: &Config, kinds: &[Kind]) -> Result<(), Error> {
    let mut mistakes = Vec::new();
    let takes = |kind: &&Kind| matches!(kind.task, Task::Jobs(_) | Task::Coprocess(_));
    let takers = kinds.iter().filter(takes).count();
    match (&config.jobs, takers) {
        (Some(_), 1) | (None, 0) => {}
        (Some(_), 0) => mistakes.push("there is a list of jobs, but no worker takes them".into()),
        (None, _) => mistakes.push("a worker takes jobs, but there is no list of them".into()),
        (Some(_), _) => mistakes.push("exactly one kind of worker can take the jobs".into()),
    }
    for kind in kinds {
        let Worker { name, processes, threads, attempts, timeout, .. } = &kind.settings;
        if timeout.is_some() && matches!(kind.task, Task::Produce(_)) {
            mistakes.push(format!("worker {name:?}: a producer has no jobs that could time out"));
        }
        if timeout.is_some_and(|limit| limit < TIMEOUT_MIN || limit > DURATION_MAX) {
            mistakes
                .push(format!("worker {name:?}: a time-out has 1 ms at least, 100 years at most"));
        }
        mistakes.extend(privileges::mistakes(kind));
        if name.is_empty() || name.len() > 64 || name.contains(|c: char| c.is_control() || c == '/')
        {
            mistakes.push(format!("worker {name:?}: a name has 1 to 64 bytes and no '/'"));
        }
        if !(1..=10_000).contains(processes) || !(1..=1024).contains(threads) || *attempts == 0 {
            mistakes.push(format!(
                "worker {name:?}: 1 to 10,000 processes, 1 to 1,024 threads, at least 1 attempt"
            ));
        }
    }
    mistakes.extend(config.output.format.mistake().map(|mistake| format!("the output: {mistake}")));
    if config.shutdown.flush_reserve >= config.shutdown.deadline {
        mistakes.push("the reserve for the flush must be shorter than the deadline".into());
    }
    if config.shutdown.deadline > DURATION_MAX || config.restart.within > DURATION_MAX {
        mistakes.push("a deadline and a window for restarts are 100 years long at most".into());
    }
    if let config::Format::Csv { columns } = &config.output.format {
        let mut unique = columns.clone();
        unique.sort_unstable();
        unique.dedup();
        if columns.is_empty() || unique.len() != columns.len() {
            mistakes.push("a CSV file has one column at least, and none of them twice".into());
        }
    }
    if config.spool.lane.is_some_and(|bytes| bytes > LANE_MAX) {
        mistakes.push("a lane is 1 GiB large at most".into());
    }
    if config.buffer.flush_records == 0 || config.buffer.flush_bytes == 0 {
        mistakes.push("the buffer flushes at 1 record and 1 byte at least".into());
    }
    if mistakes.is_empty() { Ok(()) } else { Err(Error::Config(mistakes.join("\n"))) }
}

/// Where signals arrive, between two runs of one process.
static INBOX: Mutex<Option<Inbox>> = Mutex::new(None);

/// The inbox, in a process with no threads but those that it needs itself.
fn claim_threads() -> Result<MutexGuard<'static, Option<Inbox>>, Error> {
    let threads = sys::proc_fs::thread_count();
    // Held by another run: that of the process which has forked this one.
    let Some(inbox) = try_lock(&INBOX) else { return Err(Error::Threaded { threads }) };
    let parked = if inbox.is_some() { signal::THREADS } else { 0 };
    if threads != 1 + parked {
        return Err(Error::Threaded { threads: threads.saturating_sub(parked) });
    }
    Ok(inbox)
}

fn run(config: Config, kinds: Vec<Kind>, own: Own) -> Result<Report, Error> {
    let mut inbox = claim_threads()?;
    if inbox.is_none() {
        notify::take_over();
    }
    let ended = run_alone(config, kinds, own, &mut inbox);
    notify::tell(|| match &ended {
        Ok(report) => {
            let code = report.exit.code();
            let cause = report.cause.as_ref().map(|cause| format!("; {cause}")).unwrap_or_default();
            notify::status(&format!("stopped with exit code {code}: {}{cause}", report.balance))
        }
        Err(error) => notify::status(&error.to_string()),
    });
    ended
}

/// Runs it as the only run of this process.
fn run_alone(
    config: Config,
    kinds: Vec<Kind>,
    own: Own,
    inbox: &mut Option<Inbox>,
) -> Result<Report, Error> {
    let mask = sys::signal::block_handled().map_err(Error::system("can't block signals"))?;
    let descriptors = sys::process::raise_descriptor_limit();
    let room = descriptors::check(&kinds);
    let prepared = room.and_then(|()| prepare(config, kinds, own)).and_then(|launch| {
        let inbox = match inbox {
            Some(inbox) => inbox,
            none => none.insert(Inbox::open(signal::install()?)?),
        };
        Ok((launch, inbox))
    });
    let (launch, inbox) = prepared.inspect_err(|_| {
        // Nothing was started: the caller is as it was.
        sys::process::restore_descriptor_limit(descriptors);
        let _restored = sys::signal::set_mask(&mask);
    })?;
    if launch.is_finite() {
        crate::log::bar::begin();
    }
    let verdict = supervisor::run(&launch, inbox, descriptors);
    crate::log::bar::end();
    sys::process::restore_descriptor_limit(descriptors);
    sys::limits::close_the_way(false);
    conclude(&launch, verdict?)
}

fn try_lock<T>(mutex: &'static Mutex<T>) -> Option<MutexGuard<'static, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// All that comes before the first fork and can be refused.
fn prepare(config: Config, kinds: Vec<Kind>, own: Own) -> Result<Launch, Error> {
    sys::signal::exit_on_bus_error().map_err(Error::system("can't handle SIGBUS"))?;
    // A file that may not grow is an error to be told of, not a death.
    sys::signal::dispose(nix::sys::signal::Signal::SIGXFSZ, true)
        .map_err(Error::system("can't ignore SIGXFSZ"))?;
    sys::process::become_subreaper().map_err(Error::system("can't become a subreaper"))?;
    crate::log::set_role("supervisor");
    if !sys::proc_fs::is_there() {
        log::warn!(
            "/proc is not mounted, or is that of another namespace of processes: what jobs leave \
             behind can't be found and ended, and a start soon after this process was killed exits \
             with 75 until its children have ended"
        );
    }
    let environment = privileges::environment(&config.privileges)?;
    Launch::prepare(config, kinds, own, environment, spool::random())
}

/// Has the run come to its end, or is it one that does? An own source may say so only when it is there.
/// The end of a round is none.
fn is_finite(launch: &Launch, balance: &Balance) -> bool {
    launch.is_finite() || (balance.complete && !launch.has_rounds())
}

/// Does every job of the list have one outcome?
fn judge_jobs(launch: &Launch, balance: &Balance) -> ExitCode {
    if balance.jobs_lost == 0 || !is_finite(launch, balance) {
        return ExitCode::Success;
    }
    let number = balance.jobs_lost.unsigned_abs();
    if !balance.damaged {
        log::error!(
            "{number} jobs have no outcome, or two: this is a bug of procsig; please report it"
        );
        return ExitCode::Failure;
    }
    if balance.jobs_lost < 0 {
        log::error!("{number} jobs have two results: what was known of them went with the power");
        return ExitCode::Success;
    }
    log::error!(
        "{number} jobs have no result: it was lost with the damaged part of the spool, or with the \
         power. --fresh runs the whole list again"
    );
    if balance.complete { ExitCode::Io } else { ExitCode::Success }
}

/// Counts, says how it went, and with which exit code.
fn conclude(launch: &Launch, verdict: supervisor::Verdict) -> Result<Report, Error> {
    let in_order = verdict.failure.is_none() && !verdict.killed;
    let balance = launch.close(in_order)?;
    let mut exit = ExitCode::Success;
    if is_finite(launch, &balance) && balance.jobs_failed_of_list > 0 {
        exit = exit.worst(ExitCode::JobsFailed);
        log::warn!(
            "jobs that have failed for good: {}; {}",
            balance.jobs_failed_of_list,
            launch.failures()
        );
    }
    if launch.is_finite() && !balance.complete {
        exit = exit.worst(ExitCode::Unfinished);
    }
    if verdict.killed {
        exit = exit.worst(ExitCode::Killed);
    }
    if balance.lost_in_run > 0 {
        // Damaged while it ran, so that nobody runs their jobs again.
        exit = exit.worst(ExitCode::Io);
    }
    exit = exit.worst(judge_jobs(launch, &balance));
    let mut cause = None;
    if let Some((code, last_words)) = verdict.failure {
        exit = exit.worst(code);
        cause = last_words;
    }
    if !balance.agrees() {
        log::error!("the books don't agree: this is a bug of procsig; please report it");
        exit = exit.worst(ExitCode::Failure);
    }
    launch.end(&balance, exit.code());
    if !launch.bring_spool_back() {
        exit = exit.worst(ExitCode::Io);
    }
    let now = sys::clock::now();
    let stop = now.saturating_sub(verdict.stop_began).as_secs_f64();
    let run = now.saturating_sub(verdict.began).as_secs_f64();
    crate::log::flush();
    log::info!("the run took {run:.3} s, the stop {stop:.3} s of it");
    // The last words; scripts read them.
    log::info!("done in {stop:.3}s: {balance}");
    Ok(Report { balance, exit, cause })
}
