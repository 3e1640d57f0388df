//! How much of everything: as it is measured, and as little as shows that all of it works.

use std::time::Duration;

/// Sizes of all workloads.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Of each of two producers.
    pub records: u64,
    /// Commands that do nothing.
    pub commands: usize,
    /// Records that wait when the stop is asked for.
    pub pending: u64,
    /// How long an idle pipeline is watched.
    pub watched: Duration,
    /// Records whose way to the file is timed, one by one.
    pub latencies: u64,
    /// Numbers of producers.
    pub producers: &'static [u64],
    /// Numbers of workers that are started and stopped.
    pub workers: &'static [usize],
    /// Numbers of threads of a worker process.
    pub threads: &'static [u32],
    /// Jobs that do nothing.
    pub jobs: u64,
    /// MiB that wait in the spool when everything is killed.
    pub killed_mib: &'static [u64],
    /// Bytes of a large spool's only lane.
    pub large_lane: u64,
}

/// As `docs/performance.md` shows it.
pub const FULL: Scale = Scale {
    records: 1_000_000,
    commands: 5_000,
    pending: 1_000_000,
    watched: Duration::from_secs(20),
    latencies: 5_000,
    producers: &[1, 4, 16, 64, 256],
    workers: &[1, 10, 100, 1_000],
    threads: &[1, 4, 16, 64],
    jobs: 300_000,
    killed_mib: &[1, 16, 256],
    large_lane: 1 << 30,
};

/// In seconds; what it measures means nothing.
pub const SMALL: Scale = Scale {
    records: 1_000,
    commands: 20,
    pending: 1_000,
    watched: Duration::from_millis(200),
    latencies: 20,
    producers: &[1, 4],
    workers: &[1, 3],
    threads: &[1, 4],
    jobs: 500,
    killed_mib: &[1],
    large_lane: 16 << 20,
};
