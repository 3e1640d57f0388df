//! What time does: when main has to wake, what is due then, and what is not, since main was away
//! itself.

use super::{
    ABANDON_AFTER, Action, Child, Duration, HEARING, LATE, Lifecycle, Notice, PROGRESS_EVERY,
    Phase, START_LIMIT, Status, Why,
};

impl Lifecycle {
    /// When time alone is the next event; `None`: never.
    pub(crate) fn next_alarm(&self) -> Option<Duration> {
        let children = self.children().filter_map(|(_, status)| match status {
            Status::Starting { since } => Some(since + START_LIMIT),
            Status::Pausing { until } => Some(until),
            Status::Running
            | Status::Finishing
            | Status::Overdue
            | Status::Recycled
            | Status::Killed
            | Status::TooSlow
            | Status::Gone => None,
        });
        let stopping = self.stopping.iter().flat_map(|stopping| {
            [
                (self.phase == Phase::AwaitSource).then_some(stopping.quiet_until),
                (!self.workers_killed()).then_some(stopping.kill_workers_at),
                (!self.all_killed()).then_some(stopping.kill_all_at),
                Some(stopping.kill_all_at + ABANDON_AFTER),
                Some(stopping.say_at),
            ]
        });
        if self.phase == Phase::Done {
            return None;
        }
        children.chain(stopping.flatten()).min()
    }

    /// A main that was stopped itself, or had no processor, condemns nobody for it. What was due
    /// meanwhile is due a little later, so that first it hears who has ended while it was away.
    pub(super) fn forgive_own_absence(&mut self, now: Duration) {
        let late = match self.next_alarm() {
            Some(alarm) => now.saturating_sub(alarm),
            None => return,
        };
        if late <= LATE {
            return;
        }
        let late = late + HEARING;
        if let Some(stopping) = &mut self.stopping {
            stopping.quiet_until += late;
            stopping.kill_workers_at += late;
            stopping.kill_all_at += late;
            stopping.say_at += late;
            self.actions.push(Action::Say(Notice::DeadlineMoved(late)));
        }
        let children = self.workers.iter_mut().chain([&mut self.source, &mut self.buffer]);
        for status in children {
            if let Status::Starting { since } = status {
                *since += late;
            }
        }
    }

    pub(super) fn look_at_the_clock(&mut self, now: Duration) {
        let slow: Vec<Child> = self
            .children()
            .filter(|(_, status)| {
                matches!(status, Status::Starting { since } if *since + START_LIMIT <= now)
            })
            .map(|(child, _)| child)
            .collect();
        for child in slow {
            self.actions.push(Action::Say(Notice::StartTooSlow(child)));
            self.actions.push(Action::Kill(child, Why::NotReady));
            *self.status(child) = Status::TooSlow;
        }
        let Some(stopping) = self.stopping else { return };
        if self.phase == Phase::AwaitSource && stopping.quiet_until <= now {
            if self.source.is_at_large() {
                self.actions.push(Action::Say(Notice::KillingSource));
            }
            self.kill(Child::Source, stopping.quiet_why);
            self.stop_workers();
        }
        if stopping.kill_workers_at <= now && !self.workers_killed() {
            self.kill_workers(stopping.kill_workers_why);
        }
        if stopping.kill_all_at <= now {
            self.kill_all(stopping.kill_all_why);
        }
        if stopping.say_at <= now && self.phase != Phase::Done {
            let left = stopping.kill_all_at.saturating_sub(now);
            // A buffer that has died comes back after a pause.
            if self.alive().next().is_some() {
                self.actions.push(Action::Say(Notice::Waiting { left }));
            }
            if let Some(stopping) = &mut self.stopping {
                stopping.say_at = now + PROGRESS_EVERY;
            }
        }
        if stopping.kill_all_at + ABANDON_AFTER <= now && self.phase != Phase::Done {
            let left = self.alive().count();
            if left > 0 {
                self.actions.push(Action::Say(Notice::Abandoned(left)));
            }
            self.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    #[test]
    fn it_is_never_said_that_nobody_is_waited_for() {
        let second = Duration::from_secs(1);
        let (deadline, flush_reserve, restart_within) = (8 * second, 2 * second, 30 * second);
        let limits = Limits { deadline, flush_reserve, restart_max: 5, restart_within };
        let members = Members { source: false, acknowledges: false, workers: 1 };
        let (buffer, worker) = (Child::Buffer, Child::Worker(0));
        for how in [Ended::Clean, Ended::Crashed] {
            let mut now = 100 * second;
            let (mut machine, _) = Lifecycle::begin(limits, members, now);
            let signal = Event::Signal { late: Duration::ZERO };
            let worker_ended = Event::Reaped(worker, Ended::Clean);
            for event in [Event::Ready(buffer), Event::Ready(worker), signal, worker_ended] {
                machine = machine.step(event, now).0;
            }
            // Time to say something: it has just ended.
            now += PROGRESS_EVERY;
            let (machine, actions) = machine.step(Event::Reaped(buffer, how), now);
            let waiting = |it: &Action| matches!(it, Action::Say(Notice::Waiting { .. }));
            let nobody = machine.alive().count() == 0;
            assert!(!(nobody && actions.iter().any(waiting)), "{actions:?}");
            assert!(nobody || actions.contains(&Action::Start(buffer)), "{actions:?}");
        }
    }
}
