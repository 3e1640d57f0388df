//! What ends a function that hangs past its time-out: the end of its process, for nothing less does.
//!
//! # Who has the job
//! A thread notes the deadline of each attempt in a word of its own. At its end it clears the word;
//! at its deadline the watchdog marks it. Both do it by one compare-and-swap, so exactly one of the
//! two goes on with the job. A function that returns too late finds its word marked, and its thread
//! parks for ever.
//!
//! # What becomes of it
//! The job that timed out keeps its slot, with the attempt counted or the reason noted, until the
//! process is dead: a function that is not really hung must not run beside its next attempt. The
//! next process of the lane makes it ready ([settle](crate::flow::queue::settle)). Nobody is blamed
//! for this death: other jobs in hand get [`GRACE`] to end, and those that don't are ready again as
//! if they had never begun.
//!
//! # What it costs
//! Two stores for each job. The watchdog sleeps until the earliest deadline that it has
//! seen; a thread wakes it only if its own is earlier, which is so after a pause. With no job in
//! hand it does not wake.
//!
//! The watchdog writes no log: what is hung may hold the lock of standard error.

use super::{Herald, Settings};
use crate::flow::queue::jobs::{Claimed, Expired, Jobs};
use crate::flow::queue::processes;
use crate::stop::Stop;
use crate::sys::clock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long jobs in hand may take to end when the process is about to.
const GRACE: Duration = Duration::from_secs(1);
/// Being later than this means that the process was stopped as a whole, or had no processor: its
/// jobs are not blamed for that.
const LATE: Duration = Duration::from_secs(1);

/// A thread's word while it makes no attempt.
const IDLE: u64 = 0;
/// A thread's word when its attempt has timed out. Any other value is a deadline, in nanoseconds.
const TIMED_OUT: u64 = u64::MAX;
/// The watchdog's own next time while there is no deadline.
const NEVER: u64 = u64::MAX;

/// Watches the threads of one worker process.
pub(super) struct Watchdog<'a> {
    jobs: Jobs<'a>,
    settings: &'a Settings,
    timeout: Duration,
    threads: Box<[Watched]>,
    /// Threads that have begun.
    begun: AtomicUsize,
    /// When it looks at the clock again.
    next: AtomicU64,
    state: Mutex<State>,
    wake: Condvar,
    /// How often it has looked at the clock.
    #[cfg(test)]
    rounds: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// Threads that have ended.
    ended: usize,
    /// All that have begun have ended.
    closed: bool,
}

/// What the watchdog knows of a thread.
#[derive(Default)]
struct Watched {
    /// [`IDLE`], [`TIMED_OUT`] or the deadline of its attempt.
    word: AtomicU64,
    /// The job of its attempt, without its text.
    job: Mutex<Claimed>,
}

/// A thread's own end of the watchdog.
pub(super) struct Watch<'a> {
    watchdog: &'a Watchdog<'a>,
    own: &'a Watched,
}

impl<'a> Watchdog<'a> {
    pub(super) fn new(jobs: Jobs<'a>, settings: &'a Settings, timeout: Duration) -> Watchdog<'a> {
        Watchdog {
            jobs,
            settings,
            timeout,
            threads: (0..settings.threads).map(|_| Watched::default()).collect(),
            begun: AtomicUsize::new(0),
            next: AtomicU64::new(NEVER),
            state: Mutex::default(),
            wake: Condvar::new(),
            #[cfg(test)]
            rounds: AtomicUsize::new(0),
        }
    }

    /// For a thread that begins; no more of them than there are in the settings.
    pub(super) fn watch(&'a self) -> Watch<'a> {
        Watch { watchdog: self, own: &self.threads[self.begun.fetch_add(1, SeqCst)] }
    }

    /// Ends the watching, when all threads have ended.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches until [`Watchdog::close`], or until the process must end.
    pub(super) fn run(&self, stop: &Stop, herald: &dyn Herald) {
        let mut overdue = Overdue::default();
        let mut state = self.state();
        while !state.closed {
            #[cfg(test)]
            self.rounds.fetch_add(1, SeqCst);
            // From here to the end of the round every thread that begins an attempt wakes us.
            let planned = self.next.swap(NEVER, SeqCst);
            let now = clock::now();
            let late = now.saturating_sub(Duration::from_nanos(planned));
            if late > LATE {
                self.begin_anew(now);
            }
            let mut next = self.expire(now, &mut overdue);
            if let Some(until) = overdue.until {
                stop.request();
                if overdue.threads + state.ended >= self.threads.len() || until <= now {
                    herald.overdue(overdue.message);
                }
                next = next.min(clock::nanos(until));
            }
            // Who has begun one meanwhile has noted it there.
            next = self.next.fetch_min(next, SeqCst).min(next);
            state = match next {
                NEVER => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                next => {
                    let pause = Duration::from_nanos(next).saturating_sub(clock::now());
                    let woken = self.wake.wait_timeout(state, pause);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Gives every attempt under way its whole time again: how much of it was missed nobody knows.
    fn begin_anew(&self, now: Duration) {
        for thread in &self.threads {
            let _ended_meanwhile = thread.word.fetch_update(SeqCst, SeqCst, |word| match word {
                IDLE | TIMED_OUT => None,
                _deadline => Some(self.deadline(now)),
            });
        }
    }

    /// Of an attempt that begins now.
    fn deadline(&self, now: Duration) -> u64 {
        clock::nanos(now.saturating_add(self.timeout)).clamp(IDLE + 1, TIMED_OUT - 1)
    }

    /// Takes their jobs from threads that are past their deadline. Returns the next deadline.
    fn expire(&self, now: Duration, overdue: &mut Overdue) -> u64 {
        let mut next = NEVER;
        for thread in &self.threads {
            let word = thread.word.load(SeqCst);
            if word == IDLE || word == TIMED_OUT {
                continue;
            }
            if word > clock::nanos(now) {
                next = next.min(word);
            } else if thread.word.compare_exchange(word, TIMED_OUT, SeqCst, SeqCst).is_ok() {
                self.give_up(thread, now, overdue);
            }
        }
        next
    }

    fn give_up(&self, thread: &Watched, now: Duration, overdue: &mut Overdue) {
        // First, so that however this process ends from now on, no job is blamed.
        processes::condemn(self.jobs.0, processes::worker(self.settings.lane.into()));
        // The thread has let go of it before its attempt began.
        let job = thread.job.lock().unwrap_or_else(PoisonError::into_inner);
        let (attempt, attempts) = (job.attempts + 1, self.settings.attempts);
        let again = attempt < attempts;
        self.jobs.expire(
            &job,
            if again {
                Expired::Again { not_before: now.saturating_add(self.settings.retry_delay) }
            } else {
                Expired::UsedUp { after: self.timeout }
            },
        );
        overdue.threads += 1;
        overdue.until.get_or_insert(now.saturating_add(GRACE));
        if !overdue.message.is_empty() {
            overdue.message.push_str(", ");
        }
        overdue.message.push_str(&format!(
            "job {} has timed out after {:?} (attempt {attempt} of {attempts})",
            job.seq, self.timeout
        ));
    }
}

/// What has timed out.
#[derive(Default)]
struct Overdue {
    threads: usize,
    /// When the process ends, whoever still has a job in hand.
    until: Option<Duration>,
    message: String,
}

impl Watch<'_> {
    /// Notes that an attempt begins.
    pub(super) fn begin(&self, job: &Claimed) {
        *self.own.job.lock().unwrap_or_else(PoisonError::into_inner) = job.without_text();
        let deadline = self.watchdog.deadline(clock::now());
        self.own.word.store(deadline, SeqCst);
        // Either the watchdog sees this deadline in its present round, or we see that it does not
        // know of it: both have a store before their load. It is noted here, not there, so that a
        // watchdog that does not get to run sees how late it is.
        if self.watchdog.next.fetch_min(deadline, SeqCst) > deadline {
            // With the lock it is asleep, or has not yet begun its next round.
            drop(self.watchdog.state());
            self.watchdog.wake.notify_one();
        }
    }

    /// Notes that the attempt has ended, and says whether that was in time. If not, the job is not
    /// this thread's any more.
    #[must_use]
    pub(super) fn end(&self) -> bool {
        let ended = self.own.word.fetch_update(SeqCst, SeqCst, |word| match word {
            TIMED_OUT => None,
            _deadline => Some(IDLE),
        });
        ended.is_ok()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.watchdog.state().ended += 1;
        self.watchdog.wake.notify_one();
    }
}

#[cfg(test)]
pub(super) mod tests;
