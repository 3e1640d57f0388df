//! The only word of control that the flow of data knows: stop.

use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sys::{clock, futex};
use std::sync::Arc;
use std::time::Duration;

/// Says whether this process has been asked to stop. Cheap to ask and to clone.
///
/// It is asked once and never taken back. In a worker it is raised when main says so, and also
/// when main is gone.
#[derive(Clone)]
pub struct Stop(Arc<Inner>);

struct Inner {
    /// 0: go on, 1: stop, 2: this process is about to be ended.
    word: AtomicU32,
    /// When it was asked for, in nanoseconds; 0: not yet.
    since: AtomicU64,
    /// When whoever has not ended is killed, in nanoseconds; 0: nobody has said so.
    deadline: AtomicU64,
    /// 1: files are to be opened anew.
    reopen: AtomicU32,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Stop {
    /// `wake` wakes whoever sleeps on something else than this.
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Stop {
        let (word, reopen) = (AtomicU32::new(0), AtomicU32::new(0));
        let (since, deadline) = (AtomicU64::new(0), AtomicU64::new(0));
        Stop(Arc::new(Inner { word, since, deadline, reopen, wake: Box::new(wake) }))
    }

    /// Has a stop been asked for?
    pub fn requested(&self) -> bool {
        self.0.word.load(Ordering::SeqCst) != 0
    }

    /// Sleeps for `duration` at most and says whether a stop has been asked for; returns at once
    /// when it is. What a producer waits with between two records.
    pub fn wait(&self, duration: Duration) -> bool {
        let until = clock::now().saturating_add(duration);
        while !self.requested() && clock::now() < until {
            futex::wait(&self.0.word, 0, Some(until), futex::EVERYONE);
        }
        self.requested()
    }

    /// No stop, but the other thing that main can ask for: files are to be opened anew. Wakes who
    /// sleeps as a stop does.
    pub(crate) fn request_reopening(&self) {
        self.0.reopen.store(1, Ordering::SeqCst);
        (self.0.wake)();
    }

    /// Was that asked for, and not taken yet?
    pub(crate) fn is_reopening_requested(&self) -> bool {
        self.0.reopen.load(Ordering::SeqCst) == 1
    }

    /// Takes it: who asks again from now on is heard again.
    pub(crate) fn take_reopening(&self) -> bool {
        self.0.reopen.compare_exchange(1, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Says that this process is about to be ended with all it has started: what ends from now on
    /// was ended by us, and means nothing.
    pub(crate) fn condemn(&self) {
        self.0.word.store(2, Ordering::SeqCst);
    }

    /// See [`Stop::condemn`].
    pub(crate) fn is_condemned(&self) -> bool {
        self.0.word.load(Ordering::SeqCst) == 2
    }

    /// When the stop was asked for.
    pub(crate) fn since(&self) -> Option<Duration> {
        match self.0.since.load(Ordering::SeqCst) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    /// Asks for the stop; whoever has not ended at `deadline` (on the monotonic clock, in nanoseconds) is
    /// killed.
    pub(crate) fn request_until(&self, deadline: u64) {
        self.0.deadline.store(deadline.max(1), Ordering::SeqCst);
        self.request();
    }

    /// How long it is until the deadline; `None`: there is none, or none was named.
    pub(crate) fn time_left(&self) -> Option<Duration> {
        match self.0.deadline.load(Ordering::SeqCst) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos).saturating_sub(clock::now())),
        }
    }

    /// Asks for the stop and wakes all who wait.
    pub(crate) fn request(&self) {
        let now = clock::nanos(clock::now()).max(1);
        // The first time counts; where this fails, it was not the first.
        let _first = self.0.since.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst);
        self.0.word.fetch_max(1, Ordering::SeqCst);
        futex::wake(&self.0.word, u32::MAX, futex::EVERYONE);
        (self.0.wake)();
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Stop").field(&self.requested()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_is_that_until_the_deadline_that_was_named() {
        let stop = Stop::new(|| {});
        stop.request();
        assert_eq!(stop.time_left(), None);
        let hour = Duration::from_secs(3600);
        stop.request_until(clock::nanos(clock::now() + hour));
        let left = stop.time_left().expect("a deadline");
        assert!(left <= hour && left > hour / 2, "{left:?}");
        stop.request_until(clock::nanos(clock::now()) - 1);
        assert_eq!(stop.time_left(), Some(Duration::ZERO));
    }

    #[test]
    fn a_waiter_hears_the_stop_at_once() {
        let stop = Stop::new(|| {});
        assert!(!stop.wait(Duration::ZERO));
        let asker = stop.clone();
        let thread = std::thread::spawn(move || asker.request());
        assert!(stop.wait(Duration::MAX));
        thread.join().expect("the asker does not panic");
    }
}
