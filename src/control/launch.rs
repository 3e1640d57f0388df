//! What each child does: the one place where control and flow meet.

use super::child::{self, Link, Outcome, Reports, Told};
use super::lifecycle::Limits;
use super::role::Child;
use crate::config::{self, Config, Worker};
use crate::error::Error;
use crate::flow::balance::{self, Balance, Opening};
use crate::flow::buffer::{self, Policy};
use crate::flow::format::{Failures, Recording};
use crate::flow::prepare::{self, Outputs};
use crate::flow::progress;
use crate::flow::queue::layout::ProcessState;
use crate::flow::queue::position::ListPosition;
use crate::flow::queue::processes::Entry;
use crate::flow::queue::spool::{Role, Spool};
use crate::flow::queue::{bell, orphans, processes};
use crate::flow::sink::Sink;
use crate::flow::source::api::Source;
use crate::flow::source::directory::DirectorySource;
use crate::flow::source::{self, intake::Intake, own};
use crate::flow::status::facts::Status;
use crate::flow::worker::coprocess;
use crate::flow::worker::{Produce, Work};
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use crate::sys::spawn::{run_marker, run_name};
use crate::sys::{clock, limits, proc_fs};
use nix::unistd::Pid;
use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;

mod notes;
mod worker;

/// What the workers of one kind do.
pub(crate) enum Task {
    /// They take jobs.
    Jobs(Box<dyn Work>),
    /// They start a command for each job.
    Command,
    /// They ask a program for each job, which each of their threads has started.
    Coprocess(Option<coprocess::Record>),
    /// They produce without jobs.
    Produce(Box<dyn Produce>),
}

/// One kind of worker.
pub(crate) struct Kind {
    pub settings: Worker,
    pub task: Task,
}

/// What a program has brought along.
#[derive(Default)]
pub(crate) struct Own {
    pub source: Option<Box<dyn Source>>,
    pub sink: Option<Box<dyn Sink>>,
}

/// A pipeline that is ready to be run: files open and locked, nothing forked.
pub(crate) struct Launch {
    config: Config,
    kinds: Vec<Kind>,
    spool: Arc<Spool>,
    outputs: RefCell<Outputs>,
    /// Held for as long as the run lasts, for each source in turn.
    intake: Option<Intake>,
    /// Where jobs come from, if that is no list. Used in the source's process alone.
    own: Option<RefCell<Box<dyn Source>>>,
    /// All that is left for a source is to acknowledge.
    stopped: Cell<bool>,
    /// Jobs that were done well when a worker died last with jobs in hand.
    done_at_death: Cell<u64>,
    /// What workers find in their environment of the user that they run as.
    environment: Vec<(&'static str, String)>,
    opening: Opening,
    run_id: u64,
}

impl Launch {
    /// Opens and locks what the pipeline needs, and puts the spool in order.
    ///
    /// # Errors
    /// If a file can't be opened, is held by another daemon, or holds work of another pipeline.
    pub(crate) fn prepare(
        config: Config,
        kinds: Vec<Kind>,
        own: Own,
        environment: Vec<(&'static str, String)>,
        run_id: u64,
    ) -> Result<Launch, Error> {
        for Kind { settings, task } in &kinds {
            if matches!(task, Task::Coprocess(_)) {
                coprocess::check(settings).map_err(|error| {
                    Error::Config(format!("workers.{}.coprocess: {error}", settings.name))
                })?;
            }
        }
        let source = match &config.jobs {
            Some(config::Jobs::Directory(directory)) => {
                Some(Box::new(DirectorySource::new(directory)) as Box<dyn Source>)
            }
            Some(config::Jobs::List(_)) | None => None,
            Some(config::Jobs::Own(_)) => own.source,
        };
        let acknowledged = source.as_ref().is_some_and(|source| source.acknowledges());
        let (spool, mut outputs) =
            prepare::prepare(&config, own.sink, acknowledged, worker::end_orphan)?;
        let list = config.jobs.as_ref().and_then(config::Jobs::list);
        if let Some(list) = list {
            source::check(&spool, list)?;
        }
        let opening = balance::open(&spool)?;
        outputs.leave_to_children()?;
        let (spool, outputs) = (Arc::new(spool), RefCell::new(outputs));
        let intake = list.and_then(|list| Intake::open(&list.lines));
        let (own, stopped) = (source.map(RefCell::new), Cell::new(false));
        let done_at_death = Cell::new(processes::jobs_done(&spool));
        let launch = Launch {
            config,
            kinds,
            spool,
            outputs,
            intake,
            own,
            stopped,
            done_at_death,
            environment,
            opening,
            run_id,
        };
        launch.sign();
        Ok(launch)
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            deadline: self.config.shutdown.deadline,
            flush_reserve: self.config.shutdown.flush_reserve,
            restart_max: self.config.restart.max,
            restart_within: self.config.restart.within,
        }
    }

    pub(crate) fn has_source(&self) -> bool {
        self.config.jobs.is_some()
    }

    /// Does the run end with its jobs?
    pub(crate) fn is_finite(&self) -> bool {
        self.config.jobs.as_ref().is_some_and(config::Jobs::is_finite)
    }

    /// Are the same jobs run again and again?
    pub(crate) fn has_rounds(&self) -> bool {
        self.config.jobs.as_ref().is_some_and(config::Jobs::has_rounds)
    }

    /// Does the source have to hear of each job before its slot is freed?
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.own.as_ref().is_some_and(|source| source.borrow().acknowledges())
    }

    /// Are results forced to the disk at some time before the stop?
    fn is_synced(&self) -> bool {
        !matches!(self.config.output.sync, config::SyncPolicy::Never)
    }

    /// Is one more source needed, that acknowledges what was committed at the stop? From now on a
    /// source does nothing else. To be asked when no child is left.
    pub(crate) fn acknowledges_at_last(&self) -> bool {
        self.stopped.set(true);
        own::has_unacknowledged(&self.spool, self.is_synced())
    }

    pub(crate) fn workers(&self) -> u16 {
        self.spool.layout.geometry.lanes as u16
    }

    /// The kind that the worker of this lane is of, and its number in that kind.
    fn kind(&self, lane: u16) -> (&Kind, u16) {
        let mut number = lane;
        for kind in &self.kinds {
            if number < kind.settings.processes {
                return (kind, number);
            }
            number -= kind.settings.processes;
        }
        unreachable!("there are as many lanes as worker processes")
    }

    /// What log and `ps` call the child.
    pub(crate) fn name(&self, child: Child) -> String {
        match child {
            Child::Source => "source".into(),
            Child::Buffer => "buffer".into(),
            Child::Worker(lane) => format!("worker {}", self.worker_name(lane)),
        }
    }

    fn worker_name(&self, lane: u16) -> String {
        let (kind, number) = self.kind(lane);
        format!("{}/{number}", kind.settings.name)
    }

    /// What stands in the environment of everything that a job of this run starts.
    pub(crate) fn marker(&self) -> Vec<u8> {
        run_marker(&run_name(self.run_id))
    }

    /// Descriptors that are open for another role.
    pub(crate) fn descriptors_foreign_to(&self, child: Child) -> Vec<RawFd> {
        let mut foreign = Vec::new();
        if child != Child::Buffer {
            foreign.extend(self.outputs.borrow().descriptors());
        }
        if let Some(intake) = self.intake.as_ref().filter(|_| child != Child::Source) {
            foreign.extend(intake.descriptors());
        }
        foreign
    }

    /// After a death; that of a buffer was one of them.
    pub(crate) fn wake_all(&self, buffer: bool) {
        self.spool.wake_all(buffer);
    }

    /// What is about to run, in a line.
    pub(crate) fn describe(&self) -> String {
        let kinds = self.kinds.iter().map(|Kind { settings, .. }| {
            let config::Worker { name, processes, threads, .. } = settings;
            format!("worker {name} ({processes} processes, {threads} threads each)")
        });
        let kinds: Vec<String> = kinds.collect();
        let list = match &self.config.jobs {
            None => String::new(),
            Some(jobs) => format!("jobs from {}, ", origin(jobs)),
        };
        let output = match &self.config.output.format {
            config::Format::Own(name) => name.clone(),
            _ => self.config.output.file.display().to_string(),
        };
        format!("{list}{}, results to {output}", kinds.join(", "))
    }

    /// Where jobs are recorded that have failed for good.
    pub(crate) fn failures(&self) -> String {
        let Config { output, dead_letters, .. } = &self.config;
        let own_type = !self.kinds.iter().any(|kind| is_ours(&kind.task));
        match (Recording::of(&self.config, own_type).failures, dead_letters) {
            (Failures::DeadLetters, Some(file)) => format!("they are in {}", file.display()),
            (Failures::Output, _) => {
                format!("their results in {} have \"ok\": false", output.file.display())
            }
            _ => {
                "lines above name the first of them; a file named in [dead_letters] has all".into()
            }
        }
    }

    /// How much was done since this run began; quickly, and without reading the list.
    pub(crate) fn progress(&self) -> String {
        balance::progress(&self.spool, &self.opening, self.has_source())
    }

    /// A few lines about how it stands.
    pub(crate) fn status(&self) -> Vec<String> {
        let books = match self.balance() {
            Ok(balance) => balance.to_string(),
            Err(error) => error.to_string(),
        };
        let mut lines = vec![books];
        lines.extend(Status::of_own(&self.spool).summary());
        lines
    }

    fn balance(&self) -> Result<Balance, Error> {
        let unacknowledged =
            if self.is_acknowledged() { own::slots_in_use(&self.spool) } else { 0 };
        let mut balance = balance::close(&self.spool, &self.opening, unacknowledged)?;
        if self.has_source() && !balance.complete && balance.jobs_left == 0 {
            // Nobody has looked into the list yet: what is in it was not counted.
            balance.jobs_left_exact = false;
        }
        Ok(balance)
    }

    /// Counts, and notes the end, when no process runs any more.
    ///
    /// # Errors
    /// If the spool can't be read.
    pub(crate) fn close(&self, in_order: bool) -> Result<Balance, Error> {
        let balance = self.balance()?;
        if in_order && balance.complete && balance.kept == 0 {
            let (generation, position) = ListPosition::load(&self.spool);
            let complete = ListPosition { complete: true, ..position };
            complete.store(&self.spool, generation + 1);
        }
        Ok(balance)
    }

    /// The main function of a child.
    pub(crate) fn run(&self, child: Child, mut link: Link) -> i32 {
        let name = self.name(child);
        let session = matches!(child, Child::Worker(_));
        let began = child::become_child(&mut link, &name, session)
            .map_err(Error::system("can't become a child"));
        let index = slot(child);
        let entry = processes::enter(&self.spool, index);
        let Link { orders, reports, main, .. } = link;
        let reports = Arc::new(Reports::new(reports));
        let ready = || {
            processes::set_state(&self.spool, index, ProcessState::Running);
            reports.ready();
        };
        if !session {
            limits::close_the_way(false);
        }
        let ended = began.and_then(|()| match child {
            Child::Source => self.run_source(entry, orders, main, &reports, ready),
            Child::Worker(lane) => self.run_worker(lane, entry, orders, main, &reports),
            Child::Buffer => self.run_buffer(orders, main, &reports, ready),
        });
        if ended.is_ok() {
            processes::set_state(&self.spool, index, ProcessState::Ended);
        }
        reports.ended(ended)
    }

    fn run_source(
        &self,
        entry: Entry,
        orders: Orders,
        main: Pid,
        reports: &Arc<Reports>,
        ready: impl FnOnce(),
    ) -> Result<Outcome, Error> {
        let Some(jobs) = &self.config.jobs else { return Ok(Outcome::Finished) };
        self.restrict(Role::Source)?;
        let (interrupt, interrupter) =
            std::io::pipe().map_err(Error::system("can't create a pipe"))?;
        let spool = Arc::clone(&self.spool);
        let stop = Stop::new(move || {
            bell::ring_for_sure(&spool.bells().source);
            // Readable for good: whoever polls it sees the stop. It can't be full.
            let _written = std::io::Write::write(&mut (&interrupter), b"!");
        });
        let (limit, reopen) = (self.config.shutdown.deadline, reopener(reports));
        child::listen(orders, main, stop.clone(), Told { reopen, orphaned: || {}, limit })?;
        let end = match (&self.own, jobs.list()) {
            (Some(source), _) => {
                let settings = own::Settings {
                    name: &origin(jobs),
                    synced: self.is_synced(),
                    only_to_acknowledge: self.stopped.get(),
                };
                own::run(&self.spool, &mut **source.borrow_mut(), settings, &stop, ready)?
            }
            (None, Some(list)) => {
                let (intake, interrupt) = (self.intake.as_ref(), interrupt.as_fd());
                source::run(&self.spool, list, intake, entry.first, interrupt, &stop, ready)?
            }
            (None, None) => return Ok(Outcome::Finished),
        };
        crate::log::flush();
        log::info!("stopped");
        Ok(match end {
            source::End::Stopped => Outcome::Stopped,
            source::End::Exhausted => Outcome::Finished,
        })
    }

    fn run_buffer(
        &self,
        orders: Orders,
        main: Pid,
        reports: &Arc<Reports>,
        ready: impl FnOnce(),
    ) -> Result<Outcome, Error> {
        let list_bytes = self.list_bytes();
        child::leave_stdin()?;
        self.restrict(Role::Buffer)?;
        let spool = Arc::clone(&self.spool);
        let stop = Stop::new(move || bell::ring_for_sure(&spool.bells().buffer));
        let spool = Arc::clone(&self.spool);
        // Without main nobody tells us when the last worker is gone; the kernel does.
        let limit = self.config.shutdown.deadline;
        let (of_log, of_outputs) = (reopener(reports), stop.clone());
        let reopen = move || {
            of_outputs.request_reopening();
            of_log();
        };
        let orphaned = move || outlive_workers(&spool);
        child::listen(orders, main, stop.clone(), Told { reopen, orphaned, limit })?;
        let policy = Policy { flush: self.config.buffer, sync: self.config.output.sync };
        let mut outputs = self.outputs.borrow_mut();
        outputs.take_up();
        let bar = progress::start(&self.spool, list_bytes, main);
        let written = buffer::run(&self.spool, outputs.sinks(), policy, &stop, ready)?;
        bar.finish();
        crate::log::flush();
        log::info!("stopped: {written} records written");
        Ok(Outcome::Stopped)
    }

    /// The length of the list, if it is a file.
    fn list_bytes(&self) -> Option<u64> {
        let stat = match &self.config.jobs.as_ref()?.list()?.lines {
            config::Lines::File(path) => rustix::fs::stat(path),
            config::Lines::Stdin => rustix::fs::fstat(std::io::stdin()),
        };
        let stat = stat.ok()?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        is_file.then(|| u64::try_from(stat.st_size).ok()).flatten()
    }

    fn restrict(&self, role: Role) -> Result<(), Error> {
        self.spool.restrict(role).map_err(Error::system("can't protect the spool"))
    }
}

/// What a child does that has no file of its own to open anew but the log.
fn reopener(reports: &Arc<Reports>) -> impl Fn() + Send + use<> {
    let reports = Arc::clone(reports);
    move || {
        crate::log::reopen();
        reports.reopened();
    }
}

/// What messages call the place that jobs come from.
fn origin(jobs: &config::Jobs) -> String {
    match jobs {
        config::Jobs::List(list) => source::lines::name(&list.lines).display().to_string(),
        config::Jobs::Directory(directory) => directory.path.display().to_string(),
        config::Jobs::Own(own) => own.name.clone(),
    }
}

/// Are its records results as procsig itself makes them?
fn is_ours(task: &Task) -> bool {
    matches!(task, Task::Command | Task::Coprocess(None))
}

type Orders = ipc_channel::ipc::IpcReceiver<child::Order>;

fn slot(child: Child) -> usize {
    match child {
        Child::Source => processes::SOURCE,
        Child::Buffer => processes::BUFFER,
        Child::Worker(lane) => processes::worker(lane.into()),
    }
}

/// After the death of main: waits until the last worker is gone; ends those that take too long,
/// so that there is time left to flush.
fn outlive_workers(spool: &Spool) {
    let (deadline, reserve) = orphans::deadlines(spool);
    let kill_at = clock::now().saturating_add(deadline.saturating_sub(reserve));
    // Nobody can ask us to stop waiting: signals are ignored here, and main is gone.
    orphans::outlast(spool, processes::worker(0)..spool.processes(), kill_at, || false);
    // What jobs have left behind has no other parent any more. Our own processes were not executed
    // with the marker in their environment.
    let run_id = spool.run().run_id.load(Ordering::Relaxed);
    let marker = run_marker(&run_name(run_id));
    proc_fs::kill_marked(&[&marker], kill_at);
}
