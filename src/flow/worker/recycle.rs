//! When a worker process has done enough and another one is to take its place.
//!
//! Some code keeps a little more memory with each job. So a process can be told to do so many jobs,
//! or to stay below a size; then it takes no new job, finishes those in hand, is torn down in order and
//! ends, and main starts another one at once. One lane has one writer at a time, so the next process
//! begins when this one has gone; the other processes of the kind go on meanwhile.

use super::Settings;
use crate::sys::{clock, proc_fs};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// When a process has done enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Enough {
    /// So many jobs, a tenth more or less.
    pub jobs: Option<u64>,
    /// More private memory in use than this, in bytes.
    pub memory: Option<u64>,
}

impl Enough {
    /// How many jobs the process of this lane does. Processes of one kind are started together and do
    /// about as many jobs; a tenth more or less keeps them from ending together.
    fn jobs_of(self, lane: u16, incarnation: u64) -> u64 {
        let Some(jobs) = self.jobs else { return u64::MAX };
        let spread = jobs / 10;
        let mixed = (u64::from(lane) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ incarnation.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        (jobs - spread).saturating_add((mixed >> 20) % (2 * spread + 1)).max(1)
    }
}

/// How often a process looks at its size, at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a process has done so far.
#[derive(Debug)]
pub(super) struct Recycling {
    jobs_max: u64,
    memory_max: u64,
    jobs: AtomicU64,
    /// When its size is looked at again, on the monotonic clock in nanoseconds.
    look_at: AtomicU64,
    /// Set once: it has done enough, and what.
    enough: OnceLock<String>,
}

impl Recycling {
    pub(super) fn of(settings: &Settings) -> Recycling {
        let Settings { enough, lane, incarnation, .. } = settings;
        Recycling {
            jobs_max: enough.jobs_of(*lane, *incarnation),
            memory_max: enough.memory.unwrap_or(u64::MAX),
            jobs: AtomicU64::new(0),
            look_at: AtomicU64::new(0),
            enough: OnceLock::new(),
        }
    }

    /// Has it done enough?
    pub(super) fn is_due(&self) -> bool {
        self.enough.get().is_some()
    }

    /// What it has done, if that is enough.
    pub(super) fn into_reason(self) -> Option<String> {
        self.enough.into_inner()
    }

    /// Counts a job that is no longer in hand. True once: with it, it has done enough, and threads
    /// that sleep are to be woken.
    pub(super) fn job_ended(&self) -> bool {
        let jobs = self.jobs.fetch_add(1, Relaxed) + 1;
        let reason = if jobs >= self.jobs_max {
            format!("has done {jobs} job{}", if jobs == 1 { "" } else { "s" })
        } else {
            match self.look() {
                Some(bytes) if bytes > self.memory_max => self.too_large(bytes, jobs),
                _ => return false,
            }
        };
        self.enough.set(reason).is_ok()
    }

    fn too_large(&self, bytes: u64, jobs: u64) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let hint = match jobs {
            1 => ". After one job it is no smaller than that: raise recycle_above",
            _ => "",
        };
        format!(
            "takes {:.1} MiB of memory (recycle_above is {:.1} MiB) and has done {jobs} jobs{hint}",
            mib(bytes),
            mib(self.memory_max)
        )
    }

    /// Its size, if it is time to look. One thread looks, the others go on.
    fn look(&self) -> Option<u64> {
        if self.memory_max == u64::MAX {
            return None;
        }
        let now = clock::nanos(clock::now());
        let at = self.look_at.load(Relaxed);
        let next = now.saturating_add(clock::nanos(LOOK_EVERY));
        let mine = at <= now && self.look_at.compare_exchange(at, next, Relaxed, Relaxed).is_ok();
        mine.then(proc_fs::private_memory).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recycling(jobs_max: u64, memory_max: u64) -> Recycling {
        Recycling {
            jobs_max,
            memory_max,
            jobs: AtomicU64::new(0),
            look_at: AtomicU64::new(0),
            enough: OnceLock::new(),
        }
    }

    #[test]
    fn processes_of_a_kind_do_about_as_many_jobs_and_not_the_same_number() {
        let enough = Enough { jobs: Some(1000), memory: None };
        let counts: Vec<u64> = (0..100).map(|lane| enough.jobs_of(lane, 1)).collect();
        assert!(counts.iter().all(|count| (900..=1100).contains(count)), "{counts:?}");
        let mut unique = counts.clone();
        unique.sort_unstable();
        unique.dedup();
        assert!(unique.len() > 50, "{counts:?}");
        assert_ne!(enough.jobs_of(0, 1), enough.jobs_of(0, 2));
        assert_eq!(Enough { jobs: Some(1), memory: None }.jobs_of(7, 7), 1);
        assert_eq!(Enough::default().jobs_of(7, 7), u64::MAX);
        Enough { jobs: Some(u64::MAX), memory: None }.jobs_of(7, 7);
    }

    #[test]
    fn enough_is_said_once_and_stays() {
        let recycling = recycling(3, u64::MAX);
        let said: Vec<bool> = (0..5).map(|_| recycling.job_ended()).collect();
        assert_eq!(said, [false, false, true, false, false]);
        assert!(recycling.is_due());
        assert_eq!(recycling.into_reason().as_deref(), Some("has done 3 jobs"));
    }

    #[test]
    fn a_process_that_is_too_large_has_done_enough_and_a_small_one_not() {
        let small = recycling(u64::MAX, 1 << 50);
        assert!(!small.job_ended() && !small.is_due());
        let large = recycling(u64::MAX, 1 << 12);
        assert!(large.job_ended());
        let reason = large.into_reason().expect("a reason");
        assert!(
            reason.contains("recycle_above is 0.0 MiB") && reason.contains("raise"),
            "{reason}"
        );
    }

    #[test]
    fn its_size_is_looked_at_now_and_then() {
        let recycling = recycling(u64::MAX, 1 << 50);
        assert!(recycling.look().is_some());
        // A moment later, if nobody has stopped us in between.
        assert!((0..50).any(|_| recycling.look().is_none()));
    }
}
