//! How it grows: with producers, with workers, with threads, with what is pending.

use crate::processes::{daemon, tree};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds from the start of a daemon with so many workers to its end, when it is stopped as soon as
/// all are there.
///
/// # Errors
/// What the system says.
pub fn start_and_stop(folder: &Path, workers: usize) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let began = Instant::now();
    let mut command = Command::new(daemon()?);
    let workers_option = workers.to_string();
    let mut main = command
        .args(["run", "--jobs", "-", "-o", "out.jsonl", "-j", "1", "-P", &workers_option])
        .args(["--deadline", "60s", "-q", "--", "/bin/true"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    while tree(main.id()).len() < workers + 3 {
        if main.try_wait()?.is_some() || began.elapsed() > Duration::from_secs(120) {
            return Err(io::Error::other(format!("no {workers} workers")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&main), Signal::TERM)?;
    let status = main.wait()?;
    match status.code() {
        Some(0 | 5) => Ok(began.elapsed().as_secs_f64()),
        _ => Err(io::Error::other(format!("{workers} workers: {status}"))),
    }
}

/// Seconds to start as many processes that do nothing but wait, to end them, and to reap them.
///
/// # Errors
/// What the system says.
pub fn bare_start_and_stop(processes: usize) -> io::Result<f64> {
    let began = Instant::now();
    let mut children = Vec::new();
    for _ in 0..processes {
        let child = Command::new(std::env::current_exe()?)
            .arg("echo")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        children.push(child);
    }
    for child in &children {
        kill_process(Pid::from_child(child), Signal::TERM)?;
    }
    for child in &children {
        waitpid(Some(Pid::from_child(child)), WaitOptions::empty())?;
    }
    Ok(began.elapsed().as_secs_f64())
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
