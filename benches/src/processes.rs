//! Processes from outside: the daemon under test, its children, their ends.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
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

/// A process and all that it has started and that it answers for.
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
    /// A process and what it consists of now.
    ///
    /// # Errors
    /// If one of them is gone.
    pub fn of(main: Child) -> io::Result<Running> {
        let processes = tree(main.id()).into_iter().map(open).collect::<io::Result<_>>()?;
        Ok(Running { main, processes })
    }

    /// Kills all of them as if the machine had run out of memory, and waits until all have ended.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill_all(mut self) -> io::Result<()> {
        for process in &self.processes {
            pidfd_send_signal(process, Signal::KILL)?;
        }
        self.wait_for_all()?;
        self.main.wait()?;
        Ok(())
    }

    fn wait_for_all(&self) -> io::Result<()> {
        for process in &self.processes {
            poll(&mut [PollFd::new(process, PollFlags::IN)], None)?;
        }
        Ok(())
    }

    /// Signals the main process, and says how long it takes until all have ended, in seconds.
    ///
    /// # Errors
    /// What the system says.
    pub fn stop(mut self, signal: Signal) -> io::Result<f64> {
        let pid = Pid::from_child(&self.main);
        let began = Instant::now();
        kill_process(pid, signal)?;
        self.wait_for_all()?;
        let took = began.elapsed();
        self.main.wait()?;
        Ok(took.as_secs_f64())
    }
}

/// A process that is there.
fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    Ok(pidfd_open(pid.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty())?)
}

/// What a daemon tells whoever has started it, as it tells a service manager: sd_notify(3). So nobody
/// has to look again and again, which would take time from what is measured.
pub struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Manager> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("procsig-benches-{}-{number}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Manager { socket, name: format!("@{name}") })
    }

    /// Starts it, and waits until it says that all of it is ready.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut child = command.env("NOTIFY_SOCKET", &self.name).spawn()?;
        match self.wait_until_ready() {
            Ok(()) => Ok(child),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(io::Error::other(format!("{command:?} does not get ready: {error}")))
            }
        }
    }

    fn wait_until_ready(&self) -> io::Result<()> {
        let mut words = [0; 4096];
        loop {
            let len = self.socket.recv(&mut words)?;
            if words[..len].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok(());
            }
        }
    }
}

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// The daemon with so many workers that have nothing to do: it waits for jobs that nobody sends.
/// What is started by this command needs its standard input, which is a pipe.
///
/// # Errors
/// If it was not built.
pub fn daemon_command(folder: &Path, workers: usize) -> io::Result<Command> {
    let mut command = Command::new(daemon()?);
    command
        .args(["run", "--jobs", "-", "-o", "out.jsonl", "-j", "1", "-P", &workers.to_string()])
        .args(["--deadline", "60s", "-q", "--", "/bin/true"])
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command)
}

/// Such a daemon, which has done a job and is idle.
///
/// # Errors
/// If it does not get there.
pub fn idle_daemon(folder: &Path, workers: usize) -> io::Result<Running> {
    let mut main = Manager::new()?.start(&mut daemon_command(folder, workers)?)?;
    let mut stdin = main.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    io::Write::write_all(&mut stdin, b"first\n")?;
    main.stdin = Some(stdin);
    let output = folder.join("out.jsonl");
    wait_until("a result", || Ok(fs::read(&output)?.ends_with(b"\n")))?;
    Running::of(main)
}

/// Looks until it is so.
///
/// # Errors
/// If it takes too long.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let began = Instant::now();
    while !is_so()? {
        if began.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("{what}: not within {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The name of a process, or of a file's program before it has one.
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_string()
}

/// The number in KiB behind a key in such a file of `/proc/PID`, as `Pss` in `smaps_rollup`. `None` if
/// the process is gone.
pub fn kib(pid: u32, file: &str, key: &str) -> Option<f64> {
    let all = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let value = all.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.trim().parse().ok()
}
