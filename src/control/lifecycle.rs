//! Every decision about the processes, as one pure function: no clock, no system call, no log.
//!
//! [`Lifecycle::step`] takes what has happened and what time it is, and says what is to be done.
//! The shell around it ([`super::supervisor`]) does it and decides nothing.
//!
//! # Invariants
//! - The buffer is told to stop only after the last worker has been reaped.
//! - Nothing is killed before its time: the source one second after it was told to stop, workers
//!   at `deadline - flush_reserve`, the buffer at `deadline`, or at a second and third signal; a
//!   child that does not get ready, at its start-up limit.
//! - When the buffer is gone, and with it all else, one more source is started to acknowledge what
//!   was committed at the stop, if sources do that; not after the deadline or a third signal. It is
//!   started once, and killed at the deadline, but not before it had a second, or at a further
//!   signal. However it ends, the next start does what it has not done: it is no reason for
//!   anything.
//! - Every stop ends by its deadline, or by the end of that second, and what can't even be killed is
//!   left behind one second later.
//! - Dead workers and sources are started again only while no stop is under way; a dead buffer is
//!   started once more during a stop, to flush.
//! - A worker that has ended itself for a job that has timed out is started again at once, and no
//!   death is counted for it. So is one that has done the jobs it was to do, if it ends in order.
//! - A death that is put down to a job is not counted either: what bounds it is counted there.

mod shutdown;
mod terms;
mod time;

pub(crate) use terms::{Action, Ended, Event, Limits, Members, Notice, Reason, Why};

use super::role::Child;
use crate::error::ExitCode;
use std::collections::VecDeque;
use std::time::Duration;

/// How long the source may take to become quiet. Killing it is harmless: it has no job in hand.
const QUIET_LIMIT: Duration = Duration::from_secs(1);
/// How long a child may take from its start until it is ready.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A signal sooner than this after the last one is the same request, delivered twice.
pub(crate) const REPEAT_AFTER: Duration = Duration::from_millis(300);
/// The first begins a stop, the second kills the workers, the third everything.
pub(crate) const SIGNALS_MAX: u8 = 3;
/// How often a stop under way says who is waited for.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Being later than this for one's own alarm means having been stopped oneself.
const LATE: Duration = Duration::from_secs(1);
/// How long after such an absence nobody is killed.
const HEARING: Duration = Duration::from_secs(1);
/// How long the last source may take at least, to acknowledge.
const ACKNOWLEDGE_LEAST: Duration = Duration::from_secs(1);
/// How long a killed process may take to be gone before it is left behind.
const ABANDON_AFTER: Duration = Duration::from_secs(1);
/// The first pause before a dead child is started again; doubled with each further death.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// What is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    /// Anything that would be a reason to stop.
    Running,
    /// The source's end.
    AwaitSource,
    /// The last worker's end.
    AwaitWorkers,
    /// The buffer's end.
    AwaitBuffer,
    /// The end of one more source, which acknowledges what was committed at the stop. Nobody else
    /// is left.
    AwaitAcknowledgement,
    /// Nothing.
    Done,
}

/// How it stands with one child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Status {
    /// Forked, not ready yet.
    Starting {
        since: Duration,
    },
    Running,
    /// It has said that it has no more to do.
    Finishing,
    /// It has said that it ends itself to end a job that has timed out: no death, and no end either.
    Overdue,
    /// It has said that it has done its jobs, and another one is to take its place: no end either.
    Recycled,
    /// A SIGKILL is on its way, on purpose.
    Killed,
    /// A SIGKILL is on its way, since it did not get ready: a death like any other.
    TooSlow,
    /// Dead, to be started again then.
    Pausing {
        until: Duration,
    },
    /// Reaped, and not to be started again.
    Gone,
}

impl Status {
    /// Is there a process?
    fn is_alive(self) -> bool {
        match self {
            Status::Starting { .. }
            | Status::Running
            | Status::Finishing
            | Status::Overdue
            | Status::Recycled
            | Status::Killed
            | Status::TooSlow => true,
            Status::Pausing { .. } | Status::Gone => false,
        }
    }

    /// Has it come to work, or is it one that does not exist?
    fn got_ready(self) -> bool {
        match self {
            Status::Running
            | Status::Finishing
            | Status::Overdue
            | Status::Recycled
            | Status::Gone => true,
            Status::Starting { .. } | Status::Killed | Status::TooSlow | Status::Pausing { .. } => {
                false
            }
        }
    }

    /// Is there a process that is not being killed?
    fn is_at_large(self) -> bool {
        self.is_alive() && !matches!(self, Status::Killed | Status::TooSlow)
    }
}

/// A stop under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stopping {
    /// Counted signals, and when the last one came.
    signals: u8,
    last_signal: Duration,
    quiet_until: Duration,
    kill_workers_at: Duration,
    kill_all_at: Duration,
    /// Why each of these moments is what it is.
    quiet_why: Why,
    kill_workers_why: Why,
    kill_all_why: Why,
    say_at: Duration,
    /// The buffer may be started once more.
    flush_restart: bool,
}

/// The whole state of control.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Lifecycle {
    limits: Limits,
    /// In the end one more source is to acknowledge.
    acknowledges: bool,
    /// It was said that all are ready, or is not said any more, since a stop was begun.
    announced: bool,
    phase: Phase,
    source: Status,
    workers: Vec<Status>,
    buffer: Status,
    /// When children died, as far as it counts for the limit.
    deaths: VecDeque<Duration>,
    stopping: Option<Stopping>,
    killed: bool,
    failure: Option<ExitCode>,
    /// What the present step says is to be done.
    actions: Vec<Action>,
}

impl Lifecycle {
    /// The beginning: all are to be started, the buffer first and the source last, so that each
    /// finds those that it hands its work to.
    pub(crate) fn begin(
        limits: Limits,
        members: Members,
        now: Duration,
    ) -> (Lifecycle, Vec<Action>) {
        let Members { source, acknowledges, workers } = members;
        let starting = Status::Starting { since: now };
        let mut actions = vec![Action::Start(Child::Buffer)];
        actions.extend((0..workers).map(|lane| Action::Start(Child::Worker(lane))));
        if source {
            actions.push(Action::Start(Child::Source));
        }
        let lifecycle = Lifecycle {
            limits,
            acknowledges,
            announced: false,
            phase: Phase::Running,
            source: if source { starting } else { Status::Gone },
            workers: vec![starting; workers.into()],
            buffer: starting,
            deaths: VecDeque::new(),
            stopping: None,
            killed: false,
            failure: None,
            actions: Vec::new(),
        };
        (lifecycle, actions)
    }

    /// Takes an event, and says what is to be done about it.
    pub(crate) fn step(mut self, event: Event, now: Duration) -> (Lifecycle, Vec<Action>) {
        self.forgive_own_absence(now);
        match event {
            Event::Signal { late } => self.signal(now, now.saturating_sub(late)),
            Event::Ready(child) => self.ready(child),
            Event::Finished(child) => self.finishing(child),
            Event::Failed(child, code) => self.failing(child, code, now),
            Event::Overdue(child) => self.about_to_be_replaced(child, Status::Overdue),
            Event::Recycled(child) => self.about_to_be_replaced(child, Status::Recycled),
            Event::NotStarted(child) => self.ended(child, Ended::Crashed, now),
            Event::NothingToAcknowledge => self.ended(Child::Source, Ended::Clean, now),
            Event::Reaped(child, how) => self.ended(child, how, now),
            Event::Time => {}
        }
        self.look_at_the_clock(now);
        self.go_on(now);
        let actions = std::mem::take(&mut self.actions);
        (self, actions)
    }

    /// Is there nothing left to wait for?
    pub(crate) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Was something killed that had work in hand?
    pub(crate) fn has_killed(&self) -> bool {
        self.killed
    }

    /// The worst that a child failed with.
    pub(crate) fn failure(&self) -> Option<ExitCode> {
        self.failure
    }

    /// Children that have a process.
    pub(crate) fn alive(&self) -> impl Iterator<Item = Child> {
        self.children().filter(|(_, status)| status.is_alive()).map(|(child, _)| child)
    }

    // What events do.

    /// A signal that came at a moment which may be past: main was busy.
    fn signal(&mut self, now: Duration, at: Duration) {
        let Some(stopping) = &mut self.stopping else {
            self.begin_stop(Reason::Signal, now);
            if let Some(stopping) = &mut self.stopping {
                (stopping.signals, stopping.last_signal) = (1, at);
            }
            return;
        };
        let repeated = stopping.signals > 0 && at < stopping.last_signal + REPEAT_AFTER;
        if repeated || stopping.signals >= SIGNALS_MAX || self.phase == Phase::Done {
            return;
        }
        stopping.signals += 1;
        stopping.last_signal = at;
        let sooner = |at: &mut Duration, reason: &mut Why, why: Why| {
            if now < *at {
                (*at, *reason) = (now, why);
            }
        };
        if stopping.signals == 2 {
            sooner(&mut stopping.kill_workers_at, &mut stopping.kill_workers_why, Why::Signal);
            sooner(&mut stopping.quiet_until, &mut stopping.quiet_why, Why::Signal);
        }
        // To kill the last source does no harm, so any signal does it.
        if stopping.signals == SIGNALS_MAX {
            sooner(&mut stopping.kill_all_at, &mut stopping.kill_all_why, Why::ThirdSignal);
        } else if self.phase == Phase::AwaitAcknowledgement {
            sooner(&mut stopping.kill_all_at, &mut stopping.kill_all_why, Why::Signal);
        }
        self.actions.push(Action::Say(Notice::Signal(stopping.signals)));
    }

    fn ready(&mut self, child: Child) {
        let status = self.status(child);
        if matches!(status, Status::Starting { .. }) {
            *status = Status::Running;
        }
    }

    fn finishing(&mut self, child: Child) {
        let status = self.status(child);
        if matches!(status, Status::Starting { .. } | Status::Running) {
            *status = Status::Finishing;
        }
    }

    fn about_to_be_replaced(&mut self, child: Child, why: Status) {
        let status = self.status(child);
        if matches!(status, Status::Starting { .. } | Status::Running) {
            *status = why;
        }
    }

    /// The stop begins at once: a child that has said so may yet hang on its way out, or be killed
    /// before it is gone.
    fn failing(&mut self, child: Child, code: ExitCode, now: Duration) {
        // From now on not the start limit counts, but the stop's.
        self.ready(child);
        if self.phase == Phase::AwaitAcknowledgement {
            // The pipeline has done its work, whatever becomes of this.
            return;
        }
        self.fail(code);
        if self.stopping.is_none() {
            self.begin_stop(Reason::Failure, now);
        }
    }

    fn ended(&mut self, child: Child, how: Ended, now: Duration) {
        let before = std::mem::replace(self.status(child), Status::Gone);
        let in_order = match before {
            Status::Finishing => how == Ended::Clean,
            Status::Overdue => return self.replace(child, Notice::Replacing(child), now),
            Status::Recycled if how == Ended::Clean => {
                return self.replace(child, Notice::Recycling(child), now);
            }
            Status::Recycled => false,
            // Not what it was told: it had not even begun.
            Status::TooSlow => false,
            Status::Starting { .. } | Status::Running | Status::Killed => {
                how == Ended::Clean && self.was_told_to_stop(child)
            }
            // There was no process.
            Status::Pausing { .. } | Status::Gone => return,
        };
        if in_order {
            return;
        }
        match (&self.stopping, child) {
            (None, _) if how == Ended::ByJob => self.pause(child, 1, now),
            (None, _) => self.pause_or_give_up(child, now),
            (Some(_), Child::Buffer) if before == Status::Killed => {}
            (Some(stopping), Child::Buffer) => {
                if stopping.flush_restart && now < stopping.kill_all_at {
                    self.buffer = Status::Pausing { until: now };
                } else {
                    self.fail(ExitCode::Failure);
                }
            }
            // What it had in hand, or had yet to acknowledge, is in the spool.
            (Some(_), Child::Source | Child::Worker(_)) => {}
        }
    }

    /// What ends for a job that has timed out, or since it has done enough of them, has done as it
    /// should, and counts no death. Nor can this become a spin: a time-out or a job lies between any
    /// two.
    fn replace(&mut self, child: Child, why: Notice, now: Duration) {
        if self.stopping.is_none() {
            *self.status(child) = Status::Pausing { until: now };
            self.actions.push(Action::Say(why));
        }
    }

    fn pause_or_give_up(&mut self, child: Child, now: Duration) {
        let window = self.limits.restart_within;
        while self.deaths.front().is_some_and(|death| *death + window < now) {
            self.deaths.pop_front();
        }
        self.deaths.push_back(now);
        let deaths = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX);
        if deaths > self.limits.restart_max {
            self.actions.push(Action::Say(Notice::GivingUp(child)));
            self.fail(ExitCode::Failure);
            return self.begin_stop(Reason::Failure, now);
        }
        self.pause(child, deaths, now);
    }

    fn pause(&mut self, child: Child, deaths: u32, now: Duration) {
        let pause = BACKOFF_FIRST
            .saturating_mul(1 << (deaths - 1).min(16))
            .min(BACKOFF_MAX)
            .mul_f64(jitter(child, deaths));
        *self.status(child) = Status::Pausing { until: now + pause };
        self.actions.push(Action::Say(Notice::Restarting(child, pause)));
    }

    // What follows.

    /// Whatever follows from where everyone stands now.
    fn go_on(&mut self, now: Duration) {
        if !self.announced && self.children().all(|(_, status)| status.got_ready()) {
            self.announce();
        }
        let finished = self.source == Status::Gone && self.workers_left() == 0;
        let no_more_jobs = self.source == Status::Finishing;
        if self.stopping.is_none() && (no_more_jobs || (finished && !self.any_pausing())) {
            self.begin_stop(Reason::Finished, now);
        }
        if self.stopping.is_none() {
            return self.start_due(now);
        }
        if self.phase == Phase::AwaitSource && !self.source.is_alive() {
            self.stop_workers();
        }
        if self.phase == Phase::AwaitWorkers && self.workers_left() == 0 {
            self.stop_buffer();
        }
        if matches!(self.buffer, Status::Pausing { .. }) {
            self.buffer = Status::Starting { since: now };
            if let Some(stopping) = &mut self.stopping {
                stopping.flush_restart = false;
            }
            self.actions.push(Action::Start(Child::Buffer));
            if self.phase == Phase::AwaitBuffer {
                self.actions.push(Action::Stop(Child::Buffer));
            }
        }
        let gone = !self.buffer.is_alive() && !self.source.is_alive();
        if self.phase == Phase::AwaitBuffer && gone {
            return self.acknowledge_or_finish(now);
        }
        if self.phase == Phase::AwaitAcknowledgement && gone {
            self.finish();
        }
    }

    fn announce(&mut self) {
        if !std::mem::replace(&mut self.announced, true) {
            self.actions.push(Action::Say(Notice::AllReady));
        }
    }

    fn start_due(&mut self, now: Duration) {
        let due: Vec<Child> = self
            .children()
            .filter(|(_, status)| matches!(status, Status::Pausing { until } if *until <= now))
            .map(|(child, _)| child)
            .collect();
        for child in due {
            *self.status(child) = Status::Starting { since: now };
            self.actions.push(Action::Start(child));
        }
    }

    fn finish(&mut self) {
        self.phase = Phase::Done;
        self.actions.push(Action::Finish);
    }

    // Small things.

    fn kill(&mut self, child: Child, why: Why) {
        let status = self.status(child);
        if status.is_at_large() {
            *status = Status::Killed;
            self.actions.push(Action::Kill(child, why));
        }
    }

    fn fail(&mut self, code: ExitCode) {
        self.failure = Some(self.failure.map_or(code, |failure| failure.worst(code)));
    }

    fn was_told_to_stop(&self, child: Child) -> bool {
        match (self.phase, child) {
            (Phase::Running, _) => false,
            (_, Child::Source) => true,
            (phase, Child::Worker(_)) => phase != Phase::AwaitSource,
            (phase, Child::Buffer) => matches!(phase, Phase::AwaitBuffer | Phase::Done),
        }
    }

    fn status(&mut self, child: Child) -> &mut Status {
        match child {
            Child::Source => &mut self.source,
            Child::Worker(lane) => &mut self.workers[usize::from(lane)],
            Child::Buffer => &mut self.buffer,
        }
    }

    fn children(&self) -> impl Iterator<Item = (Child, Status)> {
        let workers = self.workers.iter().enumerate();
        [(Child::Source, self.source)]
            .into_iter()
            .chain(workers.map(|(lane, status)| (Child::Worker(lane as u16), *status)))
            .chain([(Child::Buffer, self.buffer)])
    }

    fn workers_left(&self) -> usize {
        self.workers.iter().filter(|status| status.is_alive()).count()
    }

    fn workers_killed(&self) -> bool {
        !self.workers.iter().any(|status| status.is_at_large())
    }

    fn all_killed(&self) -> bool {
        !self.children().any(|(_, status)| status.is_at_large())
    }

    fn any_pausing(&self) -> bool {
        self.children().any(|(_, status)| matches!(status, Status::Pausing { .. }))
    }
}

/// A factor between 0.75 and 1.25, so that what died together is not started together; drawn from
/// who and how often, since a pure function has no dice.
fn jitter(child: Child, deaths: u32) -> f64 {
    let who = match child {
        Child::Source => 1,
        Child::Buffer => 2,
        Child::Worker(lane) => 3 + u32::from(lane),
    };
    let mixed = (who.wrapping_mul(0x9e37_79b9) ^ deaths.wrapping_mul(0x85eb_ca6b)) >> 16;
    0.75 + 0.5 * f64::from(mixed) / 65535.0
}

#[cfg(test)]
mod examples;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod witness;
