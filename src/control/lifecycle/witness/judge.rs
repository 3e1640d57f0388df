//! What the witness demands after each step.

use super::*;

impl Witness {
    /// Has everything been done whose turn has come?
    pub(super) fn judge_order(&self, step: &Step, context: &mut Context) {
        if matches!(step.event, Event::Signal { .. }) {
            let stops = self.stop.is_some_and(|stop| stop.signals > 0);
            context.demand(stops, Promise::SignalsAreCounted, "a signal began no stop");
        }
        let (Some(stop), false) = (self.stop, self.finished) else { return };
        if context.acknowledging {
            let killed = !context.counted || !self.source.at_large();
            let message = "the last source outlived another signal";
            return context.demand(killed, Promise::SignalsAreCounted, message);
        }
        let told = |seen: &Seen| !seen.at_large() || seen.told || stop.last_source;
        context.demand(told(&self.source), Promise::EveryPathEnds, "the source was not told");
        // One that is being killed gets the rest of its second.
        if !self.source.exists() || stop.quiet_by <= step.now {
            let all = self.workers.iter().all(told);
            context.demand(all, Promise::EveryPathEnds, "a worker was not told to stop");
            if !self.any_worker() {
                let message = "the buffer was not told to stop when its turn had come";
                context.demand(told(&self.buffer), Promise::NoRestartDuringStop, message);
            }
        }
        let source = self.source.at_large() && !stop.last_source;
        let at_large = source || self.workers.iter().any(Seen::at_large);
        if stop.signals >= 2 {
            let message = "a worker or the source outlived the second signal";
            context.demand(!at_large, Promise::SignalsAreCounted, message);
        }
        if stop.signals >= 3 {
            let message = "the buffer outlived the third signal";
            context.demand(!self.buffer.at_large(), Promise::SignalsAreCounted, message);
        }
    }

    /// Is everything done by its time, and is there an end?
    pub(super) fn judge_time(&self, step: &Step, context: &mut Context) {
        let now = step.now;
        let workers = self.workers.iter().any(Seen::at_large);
        let alarm = step.after.next_alarm();
        context.demand(
            self.finished == step.after.is_done(),
            Promise::EveryPathEnds,
            "Finish and is_done do not agree",
        );
        if self.finished {
            context.demand(alarm.is_none(), Promise::NeverStuckNeverTicking, "alarm at the end");
            return;
        }
        context.demand(
            alarm.is_none_or(|alarm| alarm > now),
            Promise::NeverStuckNeverTicking,
            "the next alarm is not after now: main would spin",
        );
        let slow = [self.source, self.workers[0], self.workers[1], self.buffer]
            .iter()
            .any(|seen| seen.at_large() && seen.is_slow(now));
        context.demand(!slow, Promise::EveryPathEnds, "outlived its start limit");
        let Some(stop) = self.stop else {
            return self.judge_idleness(step.after, alarm, context);
        };
        let promise = Promise::EveryPathEnds;
        context.demand(
            stop.quiet_by > now || !self.source.at_large() || stop.last_source,
            promise,
            "the source outlived its second",
        );
        context.demand(
            stop.workers_by > now || !workers,
            promise,
            "a worker outlived the start of the flush reserve",
        );
        context.demand(
            stop.all_by > now || !self.buffer.at_large(),
            promise,
            "the buffer outlived the deadline",
        );
        context.demand(
            stop.all_by > now || !self.source.at_large(),
            promise,
            "the last source outlived the deadline and its second",
        );
        let end = stop.all_by + ABANDON_AFTER;
        context.demand(end > now, promise, "not finished one second after the deadline");
        context.demand(self.any_exists(), promise, "nothing is left to wait for, and no end");
        context.demand(
            alarm.is_some_and(|alarm| alarm <= end),
            Promise::NeverStuckNeverTicking,
            "no alarm before the end of the stop: it can get stuck",
        );
    }

    /// No stop is under way: is there an alarm exactly when something is pending?
    fn judge_idleness(&self, after: &Lifecycle, alarm: Option<Duration>, context: &mut Context) {
        let all = [self.source, self.workers[0], self.workers[1], self.buffer];
        let starting = all.iter().any(|seen| seen.at_large() && seen.process == Process::Fresh);
        let pausing = after.children().any(|(_, status)| matches!(status, Status::Pausing { .. }));
        context.demand(
            alarm.is_some() == (starting || pausing),
            Promise::NeverStuckNeverTicking,
            "an alarm with nothing pending, or none with something pending",
        );
        let finished = |status: &Status| *status == Status::Gone;
        context.demand(
            !finished(&after.source) || !after.workers.iter().all(finished),
            Promise::NeverStuckNeverTicking,
            "all have finished, and nothing will ever happen",
        );
    }

    /// Is another one started at once, and nobody given up for it?
    pub(super) fn judge_replaced(&self, step: &Step, context: &mut Context) {
        for (child, promise) in [
            (context.overdue, Promise::OverdueIsNoDeath),
            (context.recycled, Promise::RecycledIsNoDeath),
        ] {
            let Some(child) = child else { continue };
            let started = step.actions.contains(&Action::Start(child));
            let message = "a worker that was to be replaced is not started again at once";
            context.demand(started || self.stop.is_some(), promise, message);
            let message = "a worker that was to be replaced was given up";
            context.demand(!context.given_up, promise, message);
        }
    }

    /// Is it started again, but not at once, and nobody given up for it?
    pub(super) fn judge_by_job(&self, step: &Step, context: &mut Context) {
        let Event::Reaped(child, Ended::ByJob) = step.event else { return };
        let promise = Promise::DeathsByJobsAreNotCounted;
        context.demand(!context.given_up, promise, "given up for a death that is a job's");
        let at_once = step.actions.contains(&Action::Start(child));
        let message = "started again at once after a death: it may become a spin";
        let replaced = context.overdue.is_some() || self.stop.is_some();
        context.demand(replaced || !at_once, promise, message);
        let again = step.after.children().any(|(who, status)| {
            who == child && matches!(status, Status::Pausing { .. } | Status::Starting { .. })
        });
        let message = "a worker that a job has ended is not started again";
        context.demand(again || self.stop.is_some(), promise, message);
    }

    /// Does nothing come of the last source, but that it is killed in its time?
    pub(super) fn judge_last_source(&self, step: &Step, context: &mut Context) {
        if !context.acknowledging {
            return;
        }
        let promise = Promise::LastSourceIsHarmless;
        let only_killed = step.actions.iter().all(|action| {
            matches!(action, Action::Kill(Child::Source, _) | Action::Say(_) | Action::Finish)
        });
        let message = "something was done about the last source but to kill it";
        context.demand(only_killed, promise, message);
        let message = "what the last source failed with is kept";
        context.demand(step.after.failure().is_none(), promise, message);
        let message = "that the last source was killed is kept";
        context.demand(!step.after.has_killed(), promise, message);
    }

    /// What the exit code is made of. (Books from before this step were wiped.)
    pub(super) fn judge_facts(&self, step: &Step, context: &mut Context) {
        let promise = Promise::FactsForTheExitCode;
        let failure = step.after.failure();
        if let (Event::Failed(_, code), false) = (step.event, context.acknowledging) {
            let message = "what a child failed with is not kept";
            context.demand(failure == Some(code), promise, message);
            let message = "a child failed for good, and no stop was begun";
            context.demand(self.stop.is_some(), promise, message);
        }
        let too_many = self.deaths.len() > self.limits.restart_max as usize;
        let running = context.dead.is_some() && self.deaths.back() == Some(&step.now);
        if running && too_many {
            let message = "more deaths than allowed, and it was not given up";
            context.demand(context.given_up && self.stop.is_some(), promise, message);
            let message = "given up without a failure";
            context.demand(failure == Some(ExitCode::Failure), promise, message);
        }
        context.demand(!context.given_up || too_many, promise, "given up too early");
        let message = "kills of workers and the buffer, and has_killed, do not agree";
        context.demand(step.after.has_killed() == context.killed, promise, message);
        let started = step.actions.contains(&Action::Start(Child::Buffer));
        if let (Some((Child::Buffer, seen, false)), Some(_)) = (context.dead, self.stop) {
            let on_purpose = seen.killed && !seen.slow;
            context.demand(
                started || on_purpose || failure.is_some(),
                Promise::NoRestartDuringStop,
                "the buffer died for good during a stop, and nothing failed",
            );
        }
        if let (Some((Child::Buffer, seen, false)), Some(stop)) = (context.dead, self.stop) {
            let may = !stop.over && (seen.slow || !seen.killed);
            context.demand(
                !may || stop.last_buffer,
                Promise::NoRestartDuringStop,
                "the buffer is dead, and none was started to flush",
            );
        }
    }
}
