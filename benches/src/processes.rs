//! Processes from outside: the daemon under test, its children, their ends.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Is this program here?
pub fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).exists())
}

/// The daemon that stands beside this program.
///
/// # Errors
/// If it was not built.
pub fn daemon() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("procsig-bench-daemon");
    match path.exists() {
        true => Ok(path),
        false => Err(io::Error::other(format!("{} was not built", path.display()))),
    }
}

/// Pids of the children, of all threads.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().filter_map(|it| it.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// A process and all that come of it.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        all.extend(children(all[next]));
        next += 1;
    }
    all
}

/// Something that runs, and the processes that it consists of.
pub struct Running {
    pub main: Child,
    pub processes: Vec<OwnedFd>,
}

impl Running {
    /// Starts a command and waits until it consists of so many processes.
    ///
    /// # Errors
    /// If that does not come to be within a minute.
    pub fn start(command: &mut Command, processes: usize) -> io::Result<Running> {
        let main = command.spawn()?;
        let began = Instant::now();
        loop {
            let tree = tree(main.id());
            if tree.len() >= processes {
                let opened = tree.iter().map(|pid| open(*pid)).collect::<io::Result<_>>()?;
                return Ok(Running { main, processes: opened });
            }
            if began.elapsed() > Duration::from_secs(60) {
                return Err(io::Error::other(format!(
                    "{command:?} has {} processes, not {processes}",
                    tree.len()
                )));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Signals the main process, and says how long it takes until all have ended, in seconds.
    ///
    /// # Errors
    /// What the system says.
    pub fn stop(mut self, signal: Signal) -> io::Result<f64> {
        let pid = Pid::from_child(&self.main);
        let began = Instant::now();
        kill_process(pid, signal)?;
        for process in &self.processes {
            poll(&mut [PollFd::new(process, PollFlags::IN)], None)?;
        }
        let took = began.elapsed();
        self.main.wait()?;
        Ok(took.as_secs_f64())
    }
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(pidfd_open(pid.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?)
}

/// The daemon, idle: it waits for jobs that nobody sends. Its standard input must be kept.
///
/// # Errors
/// If it does not get ready.
pub fn idle_daemon(folder: &Path, workers: usize) -> io::Result<Running> {
    let workers_option = workers.to_string();
    let mut command = Command::new(daemon()?);
    command
        .args(["run", "--jobs", "-", "-o", "out.jsonl", "-j", "1", "-P", &workers_option, "-v"])
        .args(["--", "/bin/true"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut running = Running::start(&mut command, workers + 3)?;
    // All are there; a job that is done says that they work.
    let mut stdin = running.main.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    io::Write::write_all(&mut stdin, b"first\n")?;
    running.main.stdin = Some(stdin);
    let output = folder.join("out.jsonl");
    let began = Instant::now();
    loop {
        let lines = fs::File::open(&output).map(|file| BufReader::new(file).lines().count());
        if lines.unwrap_or(0) > 0 {
            return Ok(running);
        }
        if began.elapsed() > Duration::from_secs(60) {
            return Err(io::Error::other("the daemon does not get ready"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
