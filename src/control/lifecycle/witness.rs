//! Watches the machine from outside: what exists, what was told and killed, and what the time
//! allows, kept independently of the machine's own books; and says which promise was broken.

mod judge;

use super::*;

/// The promises. Each is a test of its own in [`super::explore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Promise {
    BufferLast,
    WorkersAfterSource,
    AcknowledgedLast,
    LastSourceIsHarmless,
    NothingBeforeItsTime,
    EveryPathEnds,
    SignalsAreCounted,
    NoRestartDuringStop,
    OverdueIsNoDeath,
    RecycledIsNoDeath,
    DeathsByJobsAreNotCounted,
    OnlyWhatExists,
    NeverStuckNeverTicking,
    FactsForTheExitCode,
    ReadyOnce,
}

/// A broken promise, and how.
pub(super) type Broken = (Promise, String);

/// A process, as far as the outside knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Process {
    None,
    /// Started, or about to fail to start.
    Fresh,
    Ready,
    /// Has said that it has finished.
    Finished,
    /// Has said that it has failed.
    Failed,
    /// Has said that it ends itself for a job that has timed out.
    Overdue,
    /// Has said that it has done enough.
    Recycled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Seen {
    pub process: Process,
    pub started: Duration,
    pub told: bool,
    pub killed: bool,
    /// Killed because it did not get ready.
    pub slow: bool,
}

impl Seen {
    pub(super) const NOTHING: Seen = Seen {
        process: Process::None,
        started: Duration::ZERO,
        told: false,
        killed: false,
        slow: false,
    };

    pub(super) fn exists(&self) -> bool {
        self.process != Process::None
    }

    /// Is it there, and not about to die by our hand?
    pub(super) fn at_large(&self) -> bool {
        self.exists() && !self.killed
    }

    fn is_slow(&self, now: Duration) -> bool {
        self.process == Process::Fresh && self.started + START_LIMIT <= now
    }
}

/// A stop as the outside sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StopSeen {
    pub signals: u8,
    pub last_signal: Duration,
    pub quiet_by: Duration,
    pub workers_by: Duration,
    pub all_by: Duration,
    /// One was started.
    pub last_buffer: bool,
    /// One was asked for, to acknowledge.
    pub last_source: bool,
    /// The deadline was over once, or the third signal has come.
    pub over: bool,
}

/// All that the outside knows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Witness {
    pub limits: Limits,
    pub acknowledges: bool,
    pub source: Seen,
    pub workers: [Seen; 2],
    pub buffer: Seen,
    pub deaths: VecDeque<Duration>,
    pub stop: Option<StopSeen>,
    pub finished: bool,
    /// It was said that all are ready.
    pub announced: bool,
}

/// One step, to be judged.
pub(super) struct Step<'a> {
    pub event: Event,
    pub now: Duration,
    /// When main would have woken by itself.
    pub alarm: Option<Duration>,
    pub actions: &'a [Action],
    /// The machine after it.
    pub after: &'a Lifecycle,
}

/// What an event means for the judgement of what is done about it.
struct Context {
    late: bool,
    counted: bool,
    /// Who died in this step, and what was known of it, and was it in order?
    dead: Option<(Child, Seen, bool)>,
    /// Who has ended in this step as it had said, for a job that has timed out.
    overdue: Option<Child>,
    /// Who has ended in this step, in order, since it has done enough.
    recycled: Option<Child>,
    given_up: bool,
    killed: bool,
    /// The last source was asked for before this step.
    acknowledging: bool,
    broken: Vec<Broken>,
}

impl Context {
    fn demand(&mut self, holds: bool, promise: Promise, message: &str) {
        if !holds {
            self.broken.push((promise, message.into()));
        }
    }
}

impl Witness {
    pub(super) fn new(limits: Limits, acknowledges: bool) -> Witness {
        Witness {
            limits,
            acknowledges,
            source: Seen::NOTHING,
            workers: [Seen::NOTHING; 2],
            buffer: Seen::NOTHING,
            deaths: VecDeque::new(),
            stop: None,
            finished: false,
            announced: false,
        }
    }

    pub(super) fn seen(&mut self, child: Child) -> &mut Seen {
        match child {
            Child::Source => &mut self.source,
            Child::Worker(lane) => &mut self.workers[usize::from(lane)],
            Child::Buffer => &mut self.buffer,
        }
    }

    pub(super) fn all(&mut self) -> [&mut Seen; 4] {
        let [first, second] = &mut self.workers;
        [&mut self.source, first, second, &mut self.buffer]
    }

    /// Was the last source asked for?
    pub(super) fn is_acknowledging(&self) -> bool {
        self.stop.is_some_and(|stop| stop.last_source)
    }

    fn any_exists(&self) -> bool {
        self.source.exists() || self.any_worker() || self.buffer.exists()
    }

    fn any_worker(&self) -> bool {
        self.workers.iter().any(Seen::exists)
    }

    /// All that happens in a step, in its order; returns the promises that were broken.
    pub(super) fn watch(&mut self, step: &Step) -> Vec<Broken> {
        let mut context = Context {
            late: step.alarm.is_some_and(|alarm| step.now > alarm + LATE),
            counted: false,
            dead: None,
            overdue: None,
            recycled: None,
            given_up: false,
            killed: false,
            acknowledging: self.is_acknowledging(),
            broken: Vec::new(),
        };
        let was_finished = self.finished;
        if let (true, Some(alarm)) = (context.late, step.alarm) {
            self.forgive(step.now - alarm + HEARING);
        }
        self.hear(step, &mut context);
        if let Some(stop) = &mut self.stop {
            stop.over |= stop.all_by <= step.now;
        }
        for action in step.actions {
            context.demand(!self.finished, Promise::EveryPathEnds, "something after Finish");
            self.act(*action, step, &mut context);
        }
        if !was_finished {
            self.judge_order(step, &mut context);
            self.judge_time(step, &mut context);
            self.judge_facts(step, &mut context);
            self.judge_replaced(step, &mut context);
            self.judge_by_job(step, &mut context);
            self.judge_last_source(step, &mut context);
            self.judge_announcement(&mut context);
        }
        context.broken
    }

    /// Main was away: everything that time would have brought comes later by as much, and by a
    /// second more, so that main first hears what has happened meanwhile.
    fn forgive(&mut self, absence: Duration) {
        if let Some(stop) = &mut self.stop {
            stop.quiet_by += absence;
            stop.workers_by += absence;
            stop.all_by += absence;
        }
        for seen in self.all() {
            seen.started += absence;
        }
    }

    fn hear(&mut self, step: &Step, context: &mut Context) {
        match step.event {
            Event::Signal { .. } => context.counted = self.count_signal(step.now),
            Event::Ready(child) => self.seen(child).process = Process::Ready,
            Event::Finished(child) => self.seen(child).process = Process::Finished,
            Event::Failed(child, _) => self.seen(child).process = Process::Failed,
            Event::Overdue(child) => self.seen(child).process = Process::Overdue,
            Event::Recycled(child) => self.seen(child).process = Process::Recycled,
            Event::NotStarted(child) => {
                let seen = std::mem::replace(self.seen(child), Seen::NOTHING);
                context.dead = Some((child, seen, false));
            }
            Event::Reaped(child, how) => {
                let seen = std::mem::replace(self.seen(child), Seen::NOTHING);
                let finished = seen.process == Process::Finished && !seen.slow;
                let in_order = how == Ended::Clean && (seen.told || finished);
                let overdue = seen.process == Process::Overdue && !seen.killed;
                let recycled =
                    seen.process == Process::Recycled && !seen.killed && how == Ended::Clean;
                context.overdue = overdue.then_some(child);
                context.recycled = recycled.then_some(child);
                context.dead = Some((child, seen, in_order || overdue || recycled));
            }
            Event::NothingToAcknowledge => self.source = Seen::NOTHING,
            Event::Time => {}
        }
        let by_job = matches!(step.event, Event::Reaped(_, Ended::ByJob));
        if let (Some((_, _, false)), None, false) = (context.dead, self.stop, by_job) {
            let window = self.limits.restart_within;
            self.deaths.retain(|death| *death + window >= step.now);
            self.deaths.push_back(step.now);
        }
    }

    /// Does this signal count? Three at the most, 300 ms apart at the least.
    fn count_signal(&mut self, now: Duration) -> bool {
        let Some(stop) = &mut self.stop else { return true };
        let repeated = stop.signals > 0 && now < stop.last_signal + REPEAT_AFTER;
        if repeated || stop.signals == 3 || self.finished {
            return false;
        }
        (stop.signals, stop.last_signal) = (stop.signals + 1, now);
        if stop.signals >= 2 {
            stop.quiet_by = stop.quiet_by.min(now);
            stop.workers_by = stop.workers_by.min(now);
        }
        if stop.signals == 3 || stop.last_source {
            stop.all_by = stop.all_by.min(now);
        }
        true
    }

    fn act(&mut self, action: Action, step: &Step, context: &mut Context) {
        match action {
            Action::Start(child) => self.start(child, step.now, context),
            Action::Acknowledge => self.acknowledge(step.now, context),
            Action::Stop(child) => self.tell(child, context),
            Action::Kill(child, _) => self.kill(child, step.now, context),
            Action::Finish => self.finish(step.now, context),
            Action::Say(Notice::AllReady) => self.announce(step, context),
            Action::Say(Notice::GivingUp(_)) => context.given_up = true,
            Action::Say(Notice::StopRequested(_)) => {
                context.demand(
                    self.stop.is_none(),
                    Promise::EveryPathEnds,
                    "a second stop was begun, and would get another deadline",
                );
                let Limits { deadline, flush_reserve, .. } = self.limits;
                self.announced = true;
                self.stop = Some(StopSeen {
                    signals: u8::from(matches!(step.event, Event::Signal { .. })),
                    last_signal: step.now,
                    quiet_by: step.now + QUIET_LIMIT,
                    workers_by: step.now + deadline - flush_reserve,
                    all_by: step.now + deadline,
                    last_buffer: false,
                    last_source: false,
                    over: false,
                });
            }
            Action::Say(_) | Action::ContinueAll => {}
        }
    }

    fn announce(&mut self, step: &Step, context: &mut Context) {
        let promise = Promise::ReadyOnce;
        context.demand(!self.announced, promise, "said twice that all are ready");
        context.demand(self.stop.is_none(), promise, "said during a stop that all are ready");
        let done = Action::Say(Notice::StopRequested(Reason::Finished));
        let is_fresh = self.all().iter().any(|seen| seen.process == Process::Fresh);
        let message = "said that all are ready, when one was not and there was work";
        context.demand(!is_fresh || step.actions.contains(&done), promise, message);
        self.announced = true;
    }

    /// Whoever waits for it hears it as soon as it is true.
    fn judge_announcement(&mut self, context: &mut Context) {
        let is_ready = |seen: &&mut Seen| seen.at_large() && seen.process != Process::Fresh;
        let ready = self.stop.is_none() && self.all().iter().all(is_ready);
        let message = "all are ready, and it was not said";
        context.demand(!ready || self.announced, Promise::ReadyOnce, message);
    }

    fn start(&mut self, child: Child, now: Duration, context: &mut Context) {
        let exists = self.seen(child).exists();
        context.demand(!exists, Promise::OnlyWhatExists, "started although its process exists");
        if let Some(stop) = &mut self.stop {
            context.demand(
                child == Child::Buffer,
                Promise::NoRestartDuringStop,
                "a worker or the source was started during a stop",
            );
            context.demand(
                !stop.last_buffer,
                Promise::NoRestartDuringStop,
                "the buffer was started twice during a stop",
            );
            context.demand(
                !stop.over,
                Promise::NoRestartDuringStop,
                "the buffer was started after the deadline or the third signal",
            );
            stop.last_buffer = true;
        }
        *self.seen(child) = Seen { process: Process::Fresh, started: now, ..Seen::NOTHING };
    }

    /// The last source is there from now on, until it is said that there is nothing to do for it.
    fn acknowledge(&mut self, now: Duration, context: &mut Context) {
        let promise = Promise::AcknowledgedLast;
        let message = "a last source, although sources do not acknowledge";
        context.demand(self.acknowledges, promise, message);
        let message = "the last source was started while something else was left";
        context.demand(!self.any_exists(), promise, message);
        context.demand(self.stop.is_some(), promise, "a last source without a stop under way");
        if let Some(stop) = &mut self.stop {
            context.demand(!stop.last_source, promise, "the last source was started twice");
            let message = "the last source was started after the deadline or the third signal";
            context.demand(!stop.over, promise, message);
            stop.last_source = true;
            stop.all_by = stop.all_by.max(now + ACKNOWLEDGE_LEAST);
        }
        self.source = Seen { process: Process::Fresh, started: now, ..Seen::NOTHING };
    }

    fn tell(&mut self, child: Child, context: &mut Context) {
        let seen = *self.seen(child);
        context.demand(
            seen.at_large() && !seen.told,
            Promise::OnlyWhatExists,
            "told to stop: what does not exist, was killed, or was told already",
        );
        match child {
            Child::Source => context.demand(
                !self.is_acknowledging(),
                Promise::AcknowledgedLast,
                "the last source was told to stop",
            ),
            Child::Worker(_) => context.demand(
                !self.source.at_large(),
                Promise::WorkersAfterSource,
                "a worker was told to stop while the source works",
            ),
            Child::Buffer => context.demand(
                !self.any_worker(),
                Promise::BufferLast,
                "the buffer was told to stop before the last worker was reaped",
            ),
        }
        context.demand(
            self.stop.is_some(),
            Promise::EveryPathEnds,
            "told to stop without a stop under way",
        );
        self.seen(child).told = true;
    }

    fn kill(&mut self, child: Child, now: Duration, context: &mut Context) {
        let seen = *self.seen(child);
        context.demand(
            seen.at_large(),
            Promise::OnlyWhatExists,
            "killed: what does not exist, or was killed already",
        );
        let slow = seen.is_slow(now);
        let due = self.stop.is_some_and(|stop| match child {
            Child::Source if stop.last_source => stop.all_by <= now,
            Child::Source => stop.quiet_by.min(stop.all_by) <= now,
            Child::Worker(_) => stop.workers_by.min(stop.all_by) <= now,
            Child::Buffer => stop.all_by <= now,
        });
        context.demand(slow || due, Promise::NothingBeforeItsTime, "killed before its time");
        context.demand(
            !context.late || context.counted,
            Promise::NothingBeforeItsTime,
            "killed at once by a main that was away itself",
        );
        if child == Child::Buffer && !slow && self.any_worker() {
            context.demand(
                self.stop.is_some_and(|stop| stop.all_by <= now),
                Promise::BufferLast,
                "the buffer was killed before the deadline, with workers left",
            );
        }
        context.killed |= !slow && child != Child::Source;
        let seen = self.seen(child);
        (seen.killed, seen.slow) = (true, slow);
    }

    fn finish(&mut self, now: Duration, context: &mut Context) {
        let over = self.stop.is_some_and(|stop| stop.all_by + ABANDON_AFTER <= now);
        let given_up = self.stop.is_some_and(|stop| stop.over);
        context.demand(
            over || !self.any_exists(),
            Promise::EveryPathEnds,
            "finished with a process left, before its time",
        );
        context.demand(
            self.any_exists() || self.is_acknowledging() || !self.acknowledges || given_up,
            Promise::AcknowledgedLast,
            "finished, and no source was started to acknowledge",
        );
        self.finished = true;
    }
}
