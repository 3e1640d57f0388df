//! How it grows: with workers, with threads.

use crate::processes::{Manager, daemon, daemon_command};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Seconds from the start of a daemon with so many workers to its end, when it is stopped as soon as
/// all of them are ready.
///
/// # Errors
/// What the system says.
pub fn start_and_stop(folder: &Path, workers: usize) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let manager = Manager::new()?;
    let mut command = daemon_command(folder.path(), workers)?;
    let began = Instant::now();
    let mut main = manager.start(&mut command)?;
    kill_process(Pid::from_child(&main), Signal::TERM)?;
    let status = main.wait()?;
    match status.code() {
        Some(0 | 5) => Ok(began.elapsed().as_secs_f64()),
        _ => Err(io::Error::other(format!("{workers} workers: {status}"))),
    }
}

/// Seconds of a program that forks as many processes, hears of each that it is there, ends them, and
/// waits for their ends.
///
/// # Errors
/// What the system says.
pub fn bare_start_and_stop(processes: usize) -> io::Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    let began = Instant::now();
    let status = command.args(["bare", &processes.to_string()]).status()?;
    match status.success() {
        true => Ok(began.elapsed().as_secs_f64()),
        false => Err(io::Error::other(format!("{processes} bare processes: {status}"))),
    }
}

/// Million jobs a second through a function that emits a number, with so many threads in each of two
/// processes.
///
/// # Errors
/// If a result is missing.
pub fn jobs(folder: &Path, threads: u32, count: u64) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let list: String = (1..=count).map(|job| format!("{job}\n")).collect();
    fs::write(folder.path().join("jobs.txt"), list)?;
    let mut command = Command::new(daemon()?);
    let threads = threads.to_string();
    command
        .args(["run", "--function", "nothing", "--jobs", "jobs.txt", "-o", "out.jsonl"])
        .args(["-P", "2", "-j", &threads, "-q"])
        .current_dir(folder.path())
        .stderr(Stdio::null());
    let began = Instant::now();
    let status = command.status()?;
    let took = began.elapsed();
    let results = fs::read_to_string(folder.path().join("out.jsonl"))?;
    let mut numbers: Vec<u64> = results.lines().filter_map(|line| line.parse().ok()).collect();
    numbers.sort_unstable();
    match status.success() && numbers.into_iter().eq(1..=count) {
        true => Ok(count as f64 / took.as_secs_f64() / 1e6),
        false => Err(io::Error::other(format!("{count} jobs: {status}, or results are missing"))),
    }
}
