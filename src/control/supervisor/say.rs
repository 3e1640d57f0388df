//! What the log is told.

use super::Supervisor;
use crate::control::lifecycle::{Lifecycle, Notice, Reason};
use crate::control::role::Child;
use crate::sys::clock;
use std::time::Duration;

impl Supervisor<'_> {
    pub(super) fn say(&mut self, notice: Notice, lifecycle: &Lifecycle) {
        match notice {
            Notice::AllReady => log::debug!("all are ready"),
            Notice::StopRequested(reason) => {
                self.stop_began = Some(clock::now());
                self.launch.begin_stop(reason);
                crate::log::hurry();
                log::info!("stop requested: {}", word(reason));
            }
            Notice::StoppingSource => log::info!("stopping source"),
            Notice::StoppingWorkers(count) => log::info!("stopping workers ({count})"),
            Notice::StoppingBuffer => log::info!("stopping buffer"),
            Notice::Waiting { left } => log::info!(
                "waiting for {}; {:.1} s left",
                self.list_with_jobs(lifecycle.alive()),
                left.as_secs_f64()
            ),
            Notice::Signal(count) => self.say_signal(count),
            Notice::DeadlineMoved(by) => self.say_moved(by),
            Notice::KillingSource => log::warn!("source did not stop in time; killing it"),
            Notice::KillingWorkers(count) => log::warn!(
                "killing workers ({count}): {}; their jobs stay in the spool",
                self.list_with_jobs(
                    lifecycle.alive().filter(|child| matches!(child, Child::Worker(_)))
                )
            ),
            Notice::KillingAll(count) => log::error!(
                "killing what is left ({count}): {}; the spool keeps the rest, start again to go on",
                self.list(lifecycle.alive())
            ),
            Notice::KillingLastSource => {
                log::warn!("killing source; the next start acknowledges the rest");
            }
            Notice::Restarting(child, pause) => log::warn!(
                "starting {} again in {:.1} s",
                self.launch.name(child),
                pause.as_secs_f64()
            ),
            Notice::Replacing(child) => {
                log::info!("starting {} again: a job has timed out", self.launch.name(child));
            }
            Notice::Recycling(child) => self.say_recycling(child),
            Notice::StartTooSlow(child) => {
                log::error!("{} does not get ready; killing it", self.launch.name(child));
            }
            Notice::GivingUp(child) => self.say_given_up(child),
            Notice::Abandoned(count) => {
                lifecycle.alive().for_each(|child| self.launch.note_abandoned(child));
                log::error!(
                    "{} could not even be killed; leaving {} behind",
                    self.list(lifecycle.alive()),
                    if count == 1 { "it" } else { "them" }
                );
            }
        }
    }

    fn say_signal(&self, count: u8) {
        self.launch.note_signal(count);
        match count {
            1 => log::info!("signal: the stop is under way; another one kills the workers"),
            2 => log::warn!("second signal: killing the workers now; a third kills all"),
            _ => log::warn!("third signal: killing everything now"),
        }
    }

    fn say_moved(&self, by: Duration) {
        self.launch.note_moved(by);
        log::warn!(
            "this process was stopped, or had no processor: the deadline is {:.1} s later",
            by.as_secs_f64()
        );
    }

    fn say_given_up(&mut self, child: Child) {
        let words = self.words.given_up().unwrap_or("no cause known");
        log::error!(
            "{} died too often; stopping: {words}; start it again to go on, or allow more by \
             [restart] max",
            self.launch.name(child)
        );
    }

    fn say_recycling(&mut self, child: Child) {
        let why = self.recycled.remove(&child).unwrap_or_default();
        log::info!("{} {why}: starting it again", self.launch.name(child));
    }

    /// Names a few of the children.
    pub(super) fn list(&self, children: impl Iterator<Item = Child>) -> String {
        self.list_with(children, |_| None)
    }

    /// Names a few of the children, with what they have in hand.
    fn list_with_jobs(&self, children: impl Iterator<Item = Child>) -> String {
        let mut in_hand = self.launch.in_hand();
        self.list_with(children, |child| in_hand.remove(&child))
    }

    fn list_with(
        &self,
        children: impl Iterator<Item = Child>,
        mut detail: impl FnMut(Child) -> Option<String>,
    ) -> String {
        const NAMED: usize = 8;
        let all: Vec<Child> = children.collect();
        let mut names: Vec<String> = all
            .iter()
            .take(NAMED)
            .map(|child| match self.handles.get(child) {
                Some(handle) => {
                    let detail = detail(*child).map(|words| format!(", {words}"));
                    let detail = detail.unwrap_or_default();
                    format!("{} (pid {}{detail})", self.launch.name(*child), handle.pid)
                }
                None => self.launch.name(*child),
            })
            .collect();
        if all.len() > NAMED {
            names.push(format!("and {} more", all.len() - NAMED));
        }
        names.join(", ")
    }

    pub(super) fn say_status(&self) {
        let mut lines = self.launch.status().into_iter();
        let books = lines.next().unwrap_or_default();
        log::info!("{books}; children: {}", self.handles.len());
        lines.for_each(|line| log::info!("{line}"));
    }
}

/// Why, in a word.
pub(super) fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Signal => "signal",
        Reason::Finished => "finished",
        Reason::Failure => "failure",
    }
}
