//! Clocks: monotonic for everything that is waited for, wall time for everything that is read.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Time since an arbitrary moment that is the same for all processes of this boot. It never jumps,
/// and it goes on while a process is stopped.
pub(crate) fn now() -> Duration {
    duration(clock_gettime(ClockId::Monotonic))
}

/// Time since the machine was started, which starts of processes are counted in.
pub(crate) fn since_boot() -> Duration {
    duration(clock_gettime(ClockId::Boottime))
}

/// Time since 1970-01-01T00:00:00Z, as far as the clock on the wall is right.
pub(crate) fn wall() -> Duration {
    duration(clock_gettime(ClockId::Realtime))
}

/// Nanoseconds as they are stored in shared memory; enough for 584 years.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// For system calls. A time that doesn't fit is the longest one that does.
pub(crate) fn timespec(time: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

fn duration(time: Timespec) -> Duration {
    // Both clocks count from zero; a clock set to before 1970 reads as 1970.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let before = now();
        assert!(now() >= before);
    }

    #[test]
    fn a_time_that_does_not_fit_is_the_longest_one() {
        assert_eq!(timespec(Duration::MAX).tv_sec, i64::MAX);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
}
