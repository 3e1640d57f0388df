//! How signals become events: two parked threads that do nothing but send.
//!
//! SIGINT and SIGTERM come by `ctrlc`, whose handler wakes its thread; SIGHUP, SIGQUIT, SIGUSR1 and
//! SIGCHLD are blocked in every thread and fetched by one that is parked in `sigwait`. That one
//! thread leaves SIGINT and SIGTERM open, so that the handler always runs there: main's own
//! thread has everything blocked for as long as it lives, and so has each child that it forks,
//! until the child has seen to itself.
//!
//! At most one event of a kind is under way, of requests to stop as many as can count: a storm of
//! signals can't fill the channel. Each request carries its time, since a busy main may hear of two at
//! once. The threads
//! take no lock and write no log, so a fork catches them in the middle of nothing.

use super::lifecycle::{REPEAT_AFTER, SIGNALS_MAX};
use crate::error::Error;
use crate::sys::signal::{dispose, is_ignored, replace, set_of, unblock};
use crate::sys::{clock, descriptor};
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use nix::sys::signal::{SigHandler, Signal};
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Asked {
    /// SIGINT, SIGTERM, SIGQUIT: stop; when it came, on the monotonic clock, in nanoseconds.
    Stop { at: u64 },
    /// SIGHUP; when it came, likewise.
    Hangup { at: u64 },
    /// SIGUSR1.
    Status,
    /// SIGCHLD: look for children that have ended.
    Reap,
}

/// Events of a kind that are sent and not yet taken.
struct Pending {
    count: AtomicU32,
    max: u32,
}

static STOPS: Pending = Pending { count: AtomicU32::new(0), max: SIGNALS_MAX as u32 };
static HANGUPS: Pending = Pending { count: AtomicU32::new(0), max: 1 };
static STATUSES: Pending = Pending { count: AtomicU32::new(0), max: 1 };
static REAPS: Pending = Pending { count: AtomicU32::new(0), max: 1 };

/// When the last request to stop came that was not the same one, delivered twice.
static LAST_STOP: LastStop = LastStop(AtomicU64::new(0));

/// How many threads [`install`] starts.
pub(crate) const THREADS: usize = 2;

/// How long they may take to get there.
const START_LIMIT: Duration = Duration::from_secs(30);

impl Pending {
    /// Is there room for one more? Then it is under way.
    fn add(&self) -> bool {
        let more = |count: u32| (count < self.max).then_some(count + 1);
        self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    fn take(&self) {
        let less = |count: u32| count.checked_sub(1);
        // There is one: that of the event that was taken.
        let _taken = self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }
}

struct LastStop(AtomicU64);

impl LastStop {
    /// Is a request that comes now another one than the last?
    fn is_another(&self, at: u64) -> bool {
        let another = |last: u64| {
            let same = last != 0 && at < last.saturating_add(clock::nanos(REPEAT_AFTER));
            (!same).then_some(at)
        };
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, another).is_ok()
    }
}

impl Asked {
    fn pending(self) -> &'static Pending {
        match self {
            Asked::Stop { .. } => &STOPS,
            Asked::Hangup { .. } => &HANGUPS,
            Asked::Status => &STATUSES,
            Asked::Reap => &REAPS,
        }
    }

    /// To be called when the event was taken: from now on the next one is sent again.
    pub(crate) fn taken(self) {
        self.pending().take();
    }

    fn send(self, sender: &IpcSender<Asked>) {
        // Not even a slow main may take one request for two, or two for one.
        if matches!(self, Asked::Stop { at } if !LAST_STOP.is_another(at)) {
            return;
        }
        if self.pending().add() {
            // Fails only when the supervisor is gone, and then nobody is left to be told.
            let _sent = sender.send(self);
        }
    }

    fn stop() -> Asked {
        Asked::Stop { at: clock::nanos(clock::now()) }
    }

    fn hangup() -> Asked {
        Asked::Hangup { at: clock::nanos(clock::now()) }
    }
}

/// The receiving end, and the descriptors of both, which children must close.
pub(crate) struct Installed {
    pub events: IpcReceiver<Asked>,
    pub descriptors: [RawFd; 2],
}

/// A channel, and the descriptors of its two ends: the library keeps them to itself, but a child
/// must close those that are not its own.
type Channel<T> = (IpcSender<T>, IpcReceiver<T>, [RawFd; 2]);

/// Opens a channel.
///
/// # Errors
/// `EMFILE` or `ENFILE`: no more descriptors are to be had.
pub(crate) fn channel<T>() -> Result<Channel<T>, Error>
where
    T: for<'de> Deserialize<'de> + Serialize,
{
    let fail = || Error::system("can't create a channel");
    let (first, second) = descriptor::next_two(std::io::stderr()).map_err(fail())?;
    let (sender, receiver) = ipc::channel().map_err(fail())?;
    if !descriptor::is_socket(first) || !descriptor::is_socket(second) {
        return Err(fail()(std::io::Error::other(
            "another thread opens descriptors at the same time",
        )));
    }
    Ok((sender, receiver, [first, second]))
}

/// Takes over the signals of this process. Once in its life; they must all be blocked already.
pub(crate) fn install() -> Result<Installed, Error> {
    let fail = || Error::system("can't handle signals");
    let (sender, events, descriptors) = channel::<Asked>()?;
    // What the library sets up at first use must not be set up by a thread, half-way at a fork.
    sender.send(Asked::Reap).map_err(|error| fail()(std::io::Error::other(error.to_string())))?;
    events.recv().map_err(|error| fail()(std::io::Error::other(error.to_string())))?;

    let hangup_ignored = is_ignored(Signal::SIGHUP).map_err(fail())?;
    let (started, starting) = mpsc::channel();
    let (stop, first_started) = (sender.clone(), started.clone());
    let mut first = Some(first_started);
    let handler = move || match first.take() {
        // We have called the handler ourselves, see below.
        Some(started) => drop(started.send(())),
        None => Asked::stop().send(&stop),
    };
    ctrlc::set_handler(handler).map_err(|error| {
        fail()(match error {
            ctrlc::Error::System(error) => error,
            // Only these two signals are asked for, and there are such.
            ctrlc::Error::MultipleHandlers | ctrlc::Error::NoSuchSignal(_) => {
                std::io::Error::other("a handler of this program is installed already")
            }
        })
    })?;
    // ctrlc takes SIGHUP as well. What was ignored at start, as under nohup, stays ignored.
    let handler = replace(Signal::SIGHUP, hangup_ignored).map_err(fail())?;
    // An ignored SIGCHLD, inherited from whoever started us, would leave nobody to wait for.
    for signal in [Signal::SIGCHLD, Signal::SIGQUIT, Signal::SIGUSR1] {
        dispose(signal, false).map_err(fail())?;
    }
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || wait_for_signals(&sender, &started, hangup_ignored))
        .map_err(fail())?;
    // A thread that is still being started holds locks of the standard library, which a child
    // forked now would wait for in vain. Ours says when it is there; that of ctrlc, which knows
    // of no such thing, by running our closure once for a signal that never was.
    if let SigHandler::Handler(handler) = handler {
        handler(Signal::SIGHUP as i32);
    }
    for _ in 0..THREADS {
        starting
            .recv_timeout(START_LIMIT)
            .map_err(|error| fail()(std::io::Error::other(format!("a thread: {error}"))))?;
    }
    Ok(Installed { events, descriptors })
}

fn wait_for_signals(sender: &IpcSender<Asked>, started: &mpsc::Sender<()>, hangup_ignored: bool) {
    let mut waited = set_of(&[Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGCHLD]);
    if !hangup_ignored {
        // A blocked signal is fetched even if it is to be ignored.
        waited.add(Signal::SIGHUP);
    }
    // If that fails, only this thread's mask is as it was: signals then stay pending, and the
    // process can still be killed.
    let _open = unblock(&[Signal::SIGINT, Signal::SIGTERM]);
    // Fails only when nobody waits for it any more.
    let _told = started.send(());
    loop {
        match waited.wait() {
            Ok(Signal::SIGQUIT) => Asked::stop().send(sender),
            Ok(Signal::SIGHUP) => Asked::hangup().send(sender),
            Ok(Signal::SIGUSR1) => Asked::Status.send(sender),
            Ok(Signal::SIGCHLD) => Asked::Reap.send(sender),
            // No other signal is in the set.
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_request_within_300_ms_is_the_same_one_and_a_later_one_is_another() {
        let last = LastStop(AtomicU64::new(0));
        assert!(last.is_another(5000 * MS));
        assert!(!last.is_another(5000 * MS), "delivered twice");
        assert!(!last.is_another(5299 * MS));
        assert!(last.is_another(5300 * MS));
        assert!(!last.is_another(5599 * MS), "counted from the last one that was another");
    }

    #[test]
    fn as_many_as_can_count_are_under_way_and_a_storm_is_no_more() {
        let stops = Pending { count: AtomicU32::new(0), max: 3 };
        let added = (0..10_000).filter(|_| stops.add()).count();
        assert_eq!(added, 3);
        stops.take();
        assert!(stops.add() && !stops.add());
        (0..9).for_each(|_| stops.take());
        assert_eq!(stops.count.load(Ordering::SeqCst), 0);
    }
}
