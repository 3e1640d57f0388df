//! What the service manager is told, and when.

use super::Supervisor;
use super::reopen::Reopening;
use crate::control::lifecycle::{Lifecycle, Notice};
use crate::control::notify;
use crate::sys::clock;
use std::time::Duration;

/// What a stop may take beyond its deadline: reaping, sweeping, the books. Whoever kills us from
/// outside is told to wait for that, too.
const BEYOND_DEADLINE: Duration = Duration::from_secs(5);
/// How long files may take to be opened anew before the manager is told that it is done: a child
/// that is stopped does it when it goes on.
const RELOAD_MAX: Duration = Duration::from_secs(5);

/// What the manager knows of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Starting,
    Ready,
    /// Until then at the latest.
    Reloading(Duration),
    Stopping,
}

impl Supervisor<'_> {
    /// When the manager has to be told something, whatever happens.
    pub(super) fn next_word(&self) -> Option<Duration> {
        let reloading = match self.told {
            Told::Reloading(until) => Some(until),
            Told::Starting | Told::Ready | Told::Stopping => None,
        };
        [notify::next_alarm(), reloading].into_iter().flatten().min()
    }

    /// What time or a child's answer has made true. Each turn of the loop comes by here, so that a
    /// loop that hangs is noticed.
    pub(super) fn tend_manager(&mut self) {
        let now = clock::now();
        notify::ping(now, || self.how());
        if let Told::Reloading(until) = self.told {
            let is_done = self.handles.values().all(|handle| handle.reopening == Reopening::No);
            if is_done || until <= now {
                self.told = Told::Ready;
                notify::tell(|| format!("READY=1\n{}", notify::status(&self.how())));
            }
        }
    }

    /// SIGHUP has come; the manager waits until all have opened their files anew.
    pub(super) fn tell_reload(&mut self) {
        if matches!(self.told, Told::Ready | Told::Reloading(_)) {
            let now = clock::now();
            self.told = Told::Reloading(now + RELOAD_MAX);
            notify::tell(|| format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
        }
    }

    /// A child that had died is there again.
    pub(super) fn tell_recovery(&self) {
        if self.told == Told::Ready {
            notify::tell(|| notify::status(&self.how()));
        }
    }

    pub(super) fn tell_notice(&mut self, notice: Notice, lifecycle: &Lifecycle) {
        match notice {
            Notice::AllReady => {
                self.told = Told::Ready;
                notify::tell(|| format!("READY=1\n{}", notify::status(&self.how())));
            }
            Notice::StopRequested(reason) => {
                self.told = Told::Stopping;
                let longest = self.launch.limits().deadline + BEYOND_DEADLINE;
                let status = notify::status(&format!("stopping: {}", super::say::word(reason)));
                notify::tell(|| format!("STOPPING=1\n{}\n{status}", extend(longest)));
            }
            Notice::Waiting { left } => {
                let text = format!(
                    "stopping: waiting for {}; {:.1} s left",
                    self.list(lifecycle.alive()),
                    left.as_secs_f64()
                );
                let longest = left + BEYOND_DEADLINE;
                notify::tell(|| format!("{}\n{}", extend(longest), notify::status(&text)));
            }
            Notice::DeadlineMoved(_) => {
                // At the most: how much of it is left, the next notice says.
                let longest = self.launch.limits().deadline + BEYOND_DEADLINE;
                notify::tell(|| extend(longest));
            }
            Notice::Restarting(child, pause) => {
                let (name, pause) = (self.launch.name(child), pause.as_secs_f64());
                let text = format!("{name} has died; it is started again in {pause:.1} s");
                notify::tell(|| notify::status(&text));
            }
            Notice::StoppingSource
            | Notice::StoppingWorkers(_)
            | Notice::StoppingBuffer
            | Notice::Signal(_)
            | Notice::KillingSource
            | Notice::KillingWorkers(_)
            | Notice::KillingAll(_)
            | Notice::KillingLastSource
            | Notice::Replacing(_)
            | Notice::Recycling(_)
            | Notice::StartTooSlow(_)
            | Notice::GivingUp(_)
            | Notice::Abandoned(_) => {}
        }
    }

    /// How it goes, in a line.
    fn how(&self) -> String {
        let state = match self.told {
            Told::Starting => "starting",
            Told::Ready => "running",
            Told::Reloading(_) => "opening files anew",
            Told::Stopping => "stopping",
        };
        format!("{state}: {}; {} processes", self.launch.progress(), self.handles.len())
    }
}

/// The manager's own limit is moved to so long from now, if it is nearer.
fn extend(by: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", by.as_micros())
}
