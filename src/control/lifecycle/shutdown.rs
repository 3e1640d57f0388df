//! The order of a stop: source, workers, buffer, the last source; and the force at the end of each
//! one's time.

use super::{
    ACKNOWLEDGE_LEAST, Action, Child, Duration, Lifecycle, Limits, Notice, PROGRESS_EVERY, Phase,
    QUIET_LIMIT, Reason, Status, Stopping, Why,
};

impl Lifecycle {
    pub(super) fn begin_stop(&mut self, reason: Reason, now: Duration) {
        let Limits { deadline, flush_reserve, .. } = self.limits;
        self.stopping = Some(Stopping {
            signals: 0,
            last_signal: now,
            quiet_until: now + QUIET_LIMIT,
            kill_workers_at: now + deadline.saturating_sub(flush_reserve),
            kill_all_at: now + deadline,
            quiet_why: Why::NotQuiet,
            kill_workers_why: Why::Reserve,
            kill_all_why: Why::Deadline,
            say_at: now + PROGRESS_EVERY,
            flush_restart: true,
        });
        if reason == Reason::Finished {
            // All is done: whoever waits for it to get ready must not take that for a failure.
            self.announce();
        }
        self.announced = true;
        self.actions.push(Action::Say(Notice::StopRequested(reason)));
        // What is dead stays dead; a buffer is started at once, since workers may wait for it.
        for status in self.workers.iter_mut().chain([&mut self.source]) {
            if matches!(status, Status::Pausing { .. }) {
                *status = Status::Gone;
            }
        }
        if !self.buffer.is_alive() {
            self.buffer = Status::Pausing { until: now };
        }
        if self.source.is_alive() {
            self.phase = Phase::AwaitSource;
            if self.source.is_at_large() {
                self.actions.push(Action::Say(Notice::StoppingSource));
                self.actions.push(Action::Stop(Child::Source));
                self.actions.push(Action::ContinueAll);
            }
        } else {
            self.stop_workers();
        }
    }

    pub(super) fn stop_workers(&mut self) {
        self.phase = Phase::AwaitWorkers;
        let left: Vec<Child> = self
            .children()
            .filter(|(child, _)| matches!(child, Child::Worker(_)))
            .filter(|(_, status)| status.is_at_large())
            .map(|(child, _)| child)
            .collect();
        if !left.is_empty() {
            self.actions.push(Action::Say(Notice::StoppingWorkers(left.len())));
            self.actions.extend(left.into_iter().map(Action::Stop));
            self.actions.push(Action::ContinueAll);
        }
    }

    pub(super) fn stop_buffer(&mut self) {
        self.phase = Phase::AwaitBuffer;
        self.actions.push(Action::Say(Notice::StoppingBuffer));
        if self.buffer.is_at_large() {
            self.actions.push(Action::Stop(Child::Buffer));
            self.actions.push(Action::ContinueAll);
        }
    }

    /// Only now: nobody else may look into the spool while the shell does, and the buffer's last
    /// commit has been made.
    pub(super) fn acknowledge_or_finish(&mut self, now: Duration) {
        let Some(stopping) = self.stopping.as_mut().filter(|_| self.acknowledges) else {
            return self.finish();
        };
        stopping.kill_all_at = stopping.kill_all_at.max(now + ACKNOWLEDGE_LEAST);
        self.phase = Phase::AwaitAcknowledgement;
        self.source = Status::Starting { since: now };
        self.actions.push(Action::Acknowledge);
    }

    pub(super) fn kill_workers(&mut self, why: Why) {
        let left = self.workers_left();
        self.actions.push(Action::Say(Notice::KillingWorkers(left)));
        self.killed = true;
        for lane in 0..self.workers.len() {
            self.kill(Child::Worker(lane as u16), why);
        }
    }

    /// Also no buffer and no last source is started any more, even if main's absence moves the
    /// deadline.
    pub(super) fn kill_all(&mut self, why: Why) {
        self.acknowledges = false;
        if let Some(stopping) = &mut self.stopping {
            stopping.flush_restart = false;
        }
        if self.all_killed() {
            return;
        }
        if self.phase == Phase::AwaitAcknowledgement {
            self.actions.push(Action::Say(Notice::KillingLastSource));
            return self.kill(Child::Source, why);
        }
        let left = self.alive().count();
        self.actions.push(Action::Say(Notice::KillingAll(left)));
        self.killed = true;
        self.kill(Child::Source, why);
        for lane in 0..self.workers.len() {
            self.kill(Child::Worker(lane as u16), why);
        }
        self.kill(Child::Buffer, why);
    }
}
