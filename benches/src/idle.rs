//! What a pipeline costs that has nothing to do.

use crate::processes::{idle_daemon, tree};
use rustix::process::Signal;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

const WORKERS: usize = 4;

/// How long it is watched.
const WATCHED: Duration = Duration::from_secs(20);

/// What was seen.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    /// Of all threads of all processes, in a second.
    pub wake_ups: f64,
    /// Proportional memory of a worker process, mean, in KiB.
    pub worker_kib: f64,
    /// Of the whole pipeline, in KiB.
    pub all_kib: f64,
}

/// # Errors
/// What the system says.
pub fn procsig(folder: &Path) -> io::Result<Idle> {
    let folder = tempfile::tempdir_in(folder)?;
    let running = idle_daemon(folder.path(), WORKERS)?;
    // The last flush, and the sync a second later.
    std::thread::sleep(Duration::from_secs(3));
    let processes = tree(running.main.id());
    let before = switches(&processes)?;
    std::thread::sleep(WATCHED);
    let wake_ups = (switches(&processes)? - before) as f64 / WATCHED.as_secs_f64();
    let (mut workers, mut all) = (0.0, 0.0);
    for pid in &processes {
        let kib = proportional(*pid)?;
        all += kib;
        if name(*pid)?.starts_with("worker") {
            workers += kib;
        }
    }
    running.stop(Signal::TERM)?;
    Ok(Idle { wake_ups, worker_kib: workers / WORKERS as f64, all_kib: all })
}

fn name(pid: u32) -> io::Result<String> {
    fs::read_to_string(format!("/proc/{pid}/comm"))
}

/// Times that a thread of these was given a processor, which is each time that it has woken.
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

fn proportional(pid: u32) -> io::Result<f64> {
    let all = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = all.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.ok_or_else(|| io::Error::other("no Pss in smaps_rollup"))
}
