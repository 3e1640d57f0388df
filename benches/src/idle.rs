//! What costs something although there is nothing to do.

use crate::processes::{Running, idle_daemon, kib, name, tree};
use crate::stop;
use rustix::process::Signal;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

const WORKERS: usize = 4;

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Of all threads of all processes, in a second.
    pub wake_ups: f64,
    /// Proportional memory of a worker process, mean, in KiB.
    pub worker_kib: f64,
    /// Of all processes, in KiB.
    pub all_kib: f64,
}

/// A pipeline of four workers that has done a job.
///
/// # Errors
/// What the system says.
pub fn procsig(folder: &Path, watched: Duration) -> io::Result<Idle> {
    let folder = tempfile::tempdir_in(folder)?;
    let running = idle_daemon(folder.path(), WORKERS)?;
    watch(running, watched, Signal::TERM)
}

/// s6's supervisor with as many services.
///
/// # Errors
/// What the system says.
pub fn s6(folder: &Path, watched: Duration) -> io::Result<Idle> {
    let folder = tempfile::tempdir_in(folder)?;
    watch(stop::start_s6(folder.path())?, watched, Signal::TERM)
}

fn watch(running: Running, watched: Duration, stop: Signal) -> io::Result<Idle> {
    // The last flush, and the sync a second later.
    std::thread::sleep(Duration::from_secs(3).min(watched * 3));
    let processes = tree(running.main.id());
    let before = switches(&processes)?;
    std::thread::sleep(watched);
    let wake_ups = (switches(&processes)? - before) as f64 / watched.as_secs_f64();
    let (mut workers, mut all) = (0.0, 0.0);
    for pid in &processes {
        let gone = || io::Error::other(format!("no Pss of process {pid}"));
        let kib = kib(*pid, "smaps_rollup", "Pss").ok_or_else(gone)?;
        all += kib;
        if name(*pid).starts_with("worker") {
            workers += kib;
        }
    }
    running.stop(stop)?;
    Ok(Idle { wake_ups, worker_kib: workers / WORKERS as f64, all_kib: all })
}

/// Times that a thread of these has let go of a processor, or had it taken away: as often as it was
/// given one.
fn switches(processes: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in processes {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
            sum += counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(sum)
}
