//! A worker process: threads that take jobs and publish their results, or produce without jobs.

pub(crate) mod caught;
pub(crate) mod command;
pub(crate) mod coprocess;
pub(crate) mod function;
mod process_work;
mod reasons;
pub(crate) mod recycle;
mod threads;
mod watchdog;

use super::emitter::Publish;
use super::format::Recording;
use super::job::{Failure, Job, JobError};
use super::queue::commit::Commit;
use super::queue::frame::Kind;
use super::queue::jobs::{Claim, Claimed, Claimer, Jobs, PutBack, Reason};
use super::queue::lane::{Finish, LaneWriter, Staged, TooLarge};
use super::queue::processes;
use super::queue::reader::survey;
use super::queue::settle::{Orphan, settle};
use super::queue::spool::Spool;
use crate::error::Error;
use crate::stop::Stop;
use crate::sys::clock;
use crate::sys::futex::Set;
use caught::{set_up, tear_down};
use reasons::explain;
pub(crate) use reasons::hint_of_memory;
use recycle::{Enough, Recycling};
use std::cell::RefCell;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;
use threads::on_threads;
use watchdog::{Watch, Watchdog};

/// A command that somebody else has ended is put back so often without counting as a failure.
const PUT_BACKS_MAX: u64 = 3;

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done: what was staged is its result.
    Done,
    /// Failed: what was staged is what to record if that was the last attempt. `retry`: can
    /// another one come to anything else?
    Failed { retry: bool },
    /// Somebody else has ended it, which is not the job's fault; otherwise as failed.
    Interrupted,
    /// Not done, and the pipeline is to be stopped for this reason. The job is none the worse for it.
    Stop(String),
}

/// One attempt at a job.
pub(crate) struct Attempt<'a> {
    pub job: Job<'a>,
    /// The round, if results say it.
    pub round: Option<u64>,
    /// What of it is recorded where.
    pub recording: &'a Recording,
    /// Name of the worker process, as results say it.
    pub worker: &'a str,
    /// Bytes of the longest record.
    pub record_max: usize,
    /// Notes the process group of the command that the job has started, and its start time.
    pub note_command: &'a dyn Fn(i32, u64),
}

/// What the workers of a kind do with jobs, before there is a process for it.
pub(crate) trait Work {
    /// Sets up what the threads of a process share. Called once in each process, after the fork and
    /// before it is ready.
    ///
    /// # Errors
    /// Why there can be no such process.
    fn start(&self) -> Result<Box<dyn ProcessWork + '_>, JobError>;
}

/// What a worker process does with jobs. Dropped when its last thread has ended.
pub(crate) trait ProcessWork: Sync {
    /// Sets up what one thread needs. Called in that thread, before it takes its first job.
    ///
    /// # Errors
    /// Why there can be no such thread.
    fn thread(&self) -> Result<Box<dyn ThreadWork + '_>, JobError>;
}

/// What a thread does with jobs. Dropped in its thread, when that has ended.
pub(crate) trait ThreadWork {
    /// Does the job, and stages what is to be recorded of it.
    fn attempt(&mut self, attempt: &Attempt<'_>, staged: &mut Staged) -> Verdict;

    /// Is it in a state that no other job should meet? Then it is dropped, and another one set up,
    /// before the next job is taken.
    fn is_broken(&self) -> bool {
        false
    }
}

/// What a producer does.
pub(crate) trait Produce: Sync {
    /// Produces until it is told to stop, or has no more.
    ///
    /// # Errors
    /// Why it can't go on.
    fn produce(&self, stop: &Stop, lane: &dyn Publish) -> Result<(), Error>;
}

/// What a worker process tells the one who started it, and has done by it.
pub(crate) trait Herald: Sync {
    /// It is ready to work.
    fn ready(&self);

    /// It can't go on, and no other process could. Said at once: threads that are still busy may
    /// take long, and from now on the time of a stop is running.
    fn failed(&self, error: &Error);

    /// Ends this process at once, since these jobs have timed out in it, and has another one started.
    fn overdue(&self, message: String) -> !;

    /// Ends a command that a dead worker had left running.
    fn end_orphan(&self, orphan: Orphan);
}

/// What a worker process is told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Name of the process, `ping/0`.
    pub name: String,
    pub lane: u16,
    pub incarnation: u64,
    pub threads: u16,
    /// Failures after which a job has failed for good.
    pub attempts: u64,
    pub retry_delay: Duration,
    /// An attempt that takes longer is ended together with its process.
    pub timeout: Option<Duration>,
    /// How the process before this one ended, if its jobs may have been the cause.
    pub blamed: Option<u64>,
    /// What of a job is recorded where.
    pub recording: Recording,
    /// Results say in which round they came to be.
    pub rounds: bool,
    /// Bytes of memory that the process may have.
    pub memory_limit: Option<u64>,
    /// When the process ends for another one to take its place.
    pub enough: Enough,
}

/// How the work of a process that takes jobs has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was told to stop.
    Stopped,
    /// It has done enough, which is this; another one is to go on.
    Recycled(String),
}

/// The set of sleepers that a stop of the worker with this lane wakes: others may be in it, and
/// then look up for nothing.
pub(crate) fn sleepers(lane: u16) -> Set {
    Set::new(1 << (u32::from(lane) % Set::BITS)).unwrap_or(Set::MIN)
}

/// Takes over the lane: jobs that its dead predecessors had in hand are settled first.
fn take_over<'a>(
    spool: &'a Spool,
    settings: &Settings,
    end: impl FnMut(Orphan),
) -> Result<Mutex<LaneWriter<'a>>, Error> {
    let lane = usize::from(settings.lane);
    let settled = settle(spool, settings.lane, settings.blamed, end);
    processes::note_settled(spool, processes::worker(lane));
    if settled > 0 {
        log::info!("{settled} jobs of the worker before this one are ready again");
        Jobs(spool).announce(settled);
    }
    survey(spool, lane, Commit::load_head(spool, lane))
        .and_then(|survey| LaneWriter::open(spool, lane, survey.records))
        .map(Mutex::new)
        .map_err(Error::system("can't map the lane"))
}

/// Runs a worker that takes jobs, until it is told to stop or has done enough; jobs in hand are
/// finished.
///
/// # Errors
/// If the lane can't be mapped, a thread can't be started, the set-up fails, or a job asks for the
/// stop of the pipeline.
pub(crate) fn run_jobs(
    spool: &Spool,
    work: &dyn Work,
    settings: &Settings,
    stop: &Stop,
    herald: &dyn Herald,
) -> Result<Ended, Error> {
    let lane = take_over(spool, settings, |orphan| herald.end_orphan(orphan))?;
    let record_max = lane.lock().unwrap_or_else(PoisonError::into_inner).record_max();
    if stop.requested() {
        // What is about to stop is not set up.
        return Ok(Ended::Stopped);
    }
    let process = set_up(|| work.start())?;
    herald.ready();
    let claimer = Claimer { lane: settings.lane, incarnation: settings.incarnation as u16 };
    let gate = RwLock::new(());
    let recycling = Recycling::of(settings);
    let watchdog = settings.timeout.map(|it| Watchdog::new(Jobs(spool), settings, it));
    let thread = || {
        let mut thread = JobThread {
            watch: watchdog.as_ref().map(Watchdog::watch),
            gate: &gate,
            recycling: &recycling,
            jobs: Jobs(spool),
            claimer,
            process: &*process,
            settings,
            lane: &lane,
            record_max,
            staged: Staged::default(),
        };
        thread.run(stop)
    };
    let result = watched(watchdog.as_ref(), stop, herald, || {
        on_threads(settings.threads, stop, herald, thread)
    });
    tear_down(process);
    result?;
    Ok(match recycling.into_reason() {
        Some(reason) if !stop.requested() => Ended::Recycled(reason),
        _ => Ended::Stopped,
    })
}

/// Runs it, with the watchdog in a thread beside it if there is one.
fn watched(
    watchdog: Option<&Watchdog<'_>>,
    stop: &Stop,
    herald: &dyn Herald,
    run: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(watchdog) = watchdog else { return run() };
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("watchdog".into()).stack_size(256 << 10);
        builder
            .spawn_scoped(scope, || watchdog.run(stop, herald))
            .map_err(Error::system("can't start the thread that watches time-outs"))?;
        let result = run();
        watchdog.close();
        result
    })
}

/// Runs a worker without jobs, until it is told to stop or has no more to produce.
///
/// # Errors
/// What the function says, or if a thread can't be started.
pub(crate) fn run_producer(
    spool: &Spool,
    produce: &dyn Produce,
    settings: &Settings,
    stop: &Stop,
    herald: &dyn Herald,
) -> Result<(), Error> {
    let lane = take_over(spool, settings, |_| {})?;
    herald.ready();
    on_threads(settings.threads, stop, herald, || {
        if settings.threads > 1 {
            return produce.produce(stop, &lane);
        }
        // The only thread needs no lock for each record.
        let lane = RefCell::new(lane.lock().unwrap_or_else(PoisonError::into_inner));
        produce.produce(stop, &lane)
    })
}

struct JobThread<'a> {
    /// If attempts can time out.
    watch: Option<Watch<'a>>,
    /// Held for reading by each thread that runs a job, for writing by one that runs a suspect.
    gate: &'a RwLock<()>,
    recycling: &'a Recycling,
    jobs: Jobs<'a>,
    claimer: Claimer,
    process: &'a dyn ProcessWork,
    settings: &'a Settings,
    lane: &'a Mutex<LaneWriter<'a>>,
    record_max: usize,
    staged: Staged,
}

impl JobThread<'_> {
    fn run(&mut self, stop: &Stop) -> Result<(), Error> {
        let process = self.process;
        while !self.takes_no_more(stop) {
            let mut work = set_up(|| process.thread())?;
            let result = self.take_jobs(&mut *work, stop);
            tear_down(work);
            result?;
        }
        Ok(())
    }

    /// Is no job to be taken any more?
    fn takes_no_more(&self, stop: &Stop) -> bool {
        stop.requested() || self.recycling.is_due()
    }

    /// Takes jobs and does them, until a stop is asked for or `work` is broken.
    fn take_jobs(&mut self, work: &mut dyn ThreadWork, stop: &Stop) -> Result<(), Error> {
        let mut job = Claimed::default();
        // We alone may know of a job that waits for its next attempt.
        let mut knows_timer = false;
        while !self.takes_no_more(stop) && !work.is_broken() {
            if self.jobs.0.is_stopping() {
                // Not told yet, but about to be: many workers are told one after the other.
                stop.wait(Duration::MAX);
                return Ok(());
            }
            match self.jobs.claim(self.claimer, &mut job) {
                Claim::Job => {
                    if std::mem::take(&mut knows_timer) {
                        // While we are busy, somebody else must know.
                        self.jobs.announce(1);
                    }
                    self.finish(&job, work, stop)?;
                }
                Claim::None { until } => {
                    let knew = knows_timer || until.is_some();
                    knows_timer = self.wait(stop, work, &mut job, knew)?;
                }
            }
        }
        Ok(())
    }

    /// Sleeps until there may be a job, and says whether it was until a timer that perhaps nobody
    /// else knows of. Takes a job that has become ready meanwhile.
    fn wait(
        &mut self,
        stop: &Stop,
        work: &mut dyn ThreadWork,
        job: &mut Claimed,
        knew_timer: bool,
    ) -> Result<bool, Error> {
        let idle = self.jobs.idle();
        // Whatever becomes ready after this changes the word, and the sleep is none.
        let seen = self.jobs.bell();
        if self.takes_no_more(stop) || self.jobs.0.is_stopping() {
            return Ok(false);
        }
        match self.jobs.claim(self.claimer, job) {
            Claim::None { until } => {
                self.jobs.wait(seen, until, sleepers(self.claimer.lane));
                Ok(until.is_some())
            }
            Claim::Job => {
                drop(idle);
                if knew_timer {
                    self.jobs.announce(1);
                }
                self.finish(job, work, stop)?;
                Ok(false)
            }
        }
    }

    /// Does a job in hand, to its end or back into the table; and counts it.
    fn finish(
        &mut self,
        job: &Claimed,
        work: &mut dyn ThreadWork,
        stop: &Stop,
    ) -> Result<(), Error> {
        self.finish_one(job, work, stop)?;
        if self.recycling.job_ended() {
            // Others that sleep would wait for a job that they are not to take.
            self.jobs.wake_set(sleepers(self.claimer.lane));
        }
        Ok(())
    }

    fn finish_one(
        &mut self,
        job: &Claimed,
        work: &mut dyn ThreadWork,
        stop: &Stop,
    ) -> Result<(), Error> {
        self.staged.clear();
        let view =
            Job { text: &job.text, seq: job.seq, round: job.round, attempt: job.attempts + 1 };
        if let Some(reason) = job.reason {
            let text = explain(reason, self.settings, &self.jobs.0.layout.geometry);
            let cut = matches!(reason, Reason::TooLong | Reason::Damaged);
            self.stage_failure(&view, &text, cut);
            self.publish(job, &view, Kind::JobFailed);
            return Ok(());
        }
        let Some(verdict) = self.attempt(job, view, work, stop) else {
            self.jobs.put_back(job, PutBack::NotBegun, None);
            return Ok(());
        };
        match verdict {
            Verdict::Done => self.publish(job, &view, Kind::JobDone),
            Verdict::Interrupted if job.put_back < PUT_BACKS_MAX => {
                self.jobs.put_back(job, PutBack::Interrupted, None);
            }
            Verdict::Failed { retry: true } | Verdict::Interrupted
                if view.attempt < self.settings.attempts =>
            {
                let again = clock::now().saturating_add(self.settings.retry_delay);
                self.jobs.put_back(job, PutBack::Failed, Some(again));
            }
            Verdict::Failed { .. } | Verdict::Interrupted => {
                self.publish(job, &view, Kind::JobFailed);
            }
            // It stays in hand, so that nobody takes it up before the pipeline has stopped; the next
            // start finds it not done.
            Verdict::Stop(why) => {
                return Err(Error::Stop(format!("job {} asks for a stop: {why}", job.seq)));
            }
        }
        Ok(())
    }

    /// Makes the attempt; alone in this process if a worker has died of it before. `None`: while
    /// it waited for its turn, a stop was asked for.
    fn attempt(
        &mut self,
        job: &Claimed,
        view: Job<'_>,
        work: &mut dyn ThreadWork,
        stop: &Stop,
    ) -> Option<Verdict> {
        let gate = self.gate;
        // Nothing is guarded but the turn, so a panic leaves nothing half done.
        let (_together, _alone) = if job.suspect {
            (None, Some(gate.write().unwrap_or_else(PoisonError::into_inner)))
        } else {
            (Some(gate.read().unwrap_or_else(PoisonError::into_inner)), None)
        };
        if stop.requested() {
            return None;
        }
        let alone = job.suspect || self.settings.threads == 1;
        self.jobs.begin(job, alone);
        let attempt = Attempt {
            job: view,
            round: self.settings.rounds.then_some(job.round),
            recording: &self.settings.recording,
            worker: &self.settings.name,
            record_max: self.record_max,
            note_command: &|group, start| self.jobs.note_command(job, group, start),
        };
        if let Some(watch) = &self.watch {
            watch.begin(job);
        }
        let verdict = work.attempt(&attempt, &mut self.staged);
        let in_time = self.watch.as_ref().is_none_or(Watch::end);
        while !in_time || stop.is_condemned() {
            // Ended by us, with the process that is about to follow.
            std::thread::park();
        }
        self.jobs.survived(job, alone);
        Some(verdict)
    }

    fn publish(&mut self, job: &Claimed, view: &Job<'_>, kind: Kind) {
        if let Err(too_large) = self.publish_staged(job, kind) {
            self.staged.clear();
            self.stage_failure(view, &too_large.to_string(), false);
            // A failure holds the job's text and a sentence; every lane holds more.
            self.publish_staged(job, Kind::JobFailed)
                .unwrap_or_else(|error| panic!("no room for a failure: {error}"));
        }
    }

    fn publish_staged(&mut self, job: &Claimed, kind: Kind) -> Result<(), TooLarge> {
        let result_end = self.jobs.result_end(job);
        let finish = Finish { kind, seq: job.seq, round: job.round, result_end };
        if kind == Kind::JobFailed {
            self.jobs.note_failed(job);
        }
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        lane.publish(&mut self.staged, Some(finish))?;
        drop(lane);
        if kind == Kind::JobDone {
            processes::note_job_done(self.jobs.0, processes::worker(self.settings.lane.into()));
        }
        Ok(())
    }

    fn stage_failure(&mut self, job: &Job<'_>, why: &str, cut: bool) {
        let round = self.settings.rounds.then_some(job.round);
        let failure = Failure::of(job, round, &self.settings.name, why);
        let failure = if cut { failure.of_cut_job() } else { failure };
        failure.stage(&self.settings.recording, &mut self.staged);
    }
}

#[cfg(test)]
mod tests;
