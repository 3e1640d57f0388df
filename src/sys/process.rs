//! Small facts and acts about processes.

#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::Id;
use nix::unistd::Pid;
use std::ffi::CString;
use std::io;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ended {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it. A number, since not every signal has a name.
    Signaled(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exited(code) => write!(formatter, "exit code {code}"),
            Ended::Signaled(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(formatter, "{signal}"),
                Err(_) => write!(formatter, "signal {number}"),
            },
        }
    }
}

/// Looks for a child that has ended, without reaping it. `None`: there is none now.
pub(crate) fn peek_ended() -> Option<Pid> {
    wait_id(Id::All, nix::libc::WNOWAIT).ok()?.map(|(pid, _)| pid)
}

/// Has this process any child, living or ended?
pub(crate) fn has_children() -> bool {
    !matches!(wait_id(Id::All, nix::libc::WNOWAIT), Err(Errno::ECHILD))
}

/// Reaps this child if it has ended.
pub(crate) fn reap(pid: Pid) -> Option<Ended> {
    wait_id(Id::Pid(pid), 0).ok()?.map(|(_, ended)| ended)
}

/// `waitid` without blocking; `None`: nobody has ended. Of its own, because nix can't name every
/// signal that ends a child.
///
/// # Errors
/// ECHILD: there is no such child.
fn wait_id(id: Id, flags: i32) -> nix::Result<Option<(Pid, Ended)>> {
    let (kind, number) = match id {
        Id::Pid(pid) => (nix::libc::P_PID, pid.as_raw().unsigned_abs()),
        _ => (nix::libc::P_ALL, 0),
    };
    // SAFETY: siginfo_t is plain data, for which all zeroes is a valid value.
    let mut info: nix::libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = flags | nix::libc::WEXITED | nix::libc::WNOHANG;
    loop {
        // SAFETY: `info` is valid for one siginfo_t to be written.
        let code = unsafe { nix::libc::waitid(kind, number, &mut info, flags) };
        if code == 0 {
            break;
        }
        match Errno::last() {
            Errno::EINTR => {}
            error => return Err(error),
        }
    }
    // SAFETY: waitid has filled in the SIGCHLD part of the union, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let ended = if info.si_code == nix::libc::CLD_EXITED {
        Ended::Exited(status)
    } else {
        Ended::Signaled(status)
    };
    Ok(Some((Pid::from_raw(pid), ended)))
}

/// Sends the signal. That the process is gone already is no error.
pub(crate) fn send(pid: Pid, signal: Signal) -> io::Result<()> {
    match kill(pid, signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The calling thread, and nothing else of its process, runs when no other wants to, and reads and
/// writes when nobody else does. What the system refuses of that is no harm.
pub(crate) fn give_way_to_others() {
    const WHO_PROCESS: i32 = 1;
    const IDLE: i32 = 3 << 13;
    let thread = rustix::thread::gettid();
    let _nice = rustix::process::setpriority_process(Some(thread), 19);
    // SAFETY: numbers only; 0 is the calling thread.
    #[allow(unsafe_code)]
    let _idle = unsafe { nix::libc::syscall(nix::libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE) };
}

/// Sets the name that `ps -o comm` and `top` show; the first 15 bytes count.
///
/// The arguments stay as they are, so that `pgrep -f` and `pkill -f` find the process by them.
pub(crate) fn set_comm(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|byte| *byte != 0).take(15).collect();
    if let Ok(name) = CString::new(bytes) {
        // Fails for no valid string; and a name is not worth failing for.
        let _named = nix::sys::prctl::set_name(&name);
    }
}

/// Puts a variable into the environment that what this process starts will inherit.
///
/// # Panics
/// If the process has more than one thread: another could be reading the environment.
pub(crate) fn set_environment(key: &str, value: &str) {
    assert_eq!(super::proc_fs::thread_count(), 1, "the environment is set before threads start");
    // SAFETY: there is no other thread, as was just seen.
    unsafe { std::env::set_var(key, value) };
}

/// Takes a variable out of the environment, if it is there, and returns what it was.
///
/// # Panics
/// If it is there and the process has more than one thread: another could be reading the environment.
pub(crate) fn take_environment(key: &str) -> Option<std::ffi::OsString> {
    let value = std::env::var_os(key)?;
    assert_eq!(
        super::proc_fs::thread_count(),
        1,
        "the environment is changed before threads start"
    );
    // SAFETY: there is no other thread, as was just seen.
    unsafe { std::env::remove_var(key) };
    Some(value)
}

/// Raises the soft limit of open descriptors to the hard one and returns the old soft limit:
/// main holds two for each child.
pub(crate) fn raise_descriptor_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            if soft < hard {
                // If it is refused, opening more fails later, with a clear error.
                let _raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
            }
            soft
        }
        Err(_) => u64::MAX,
    }
}

/// Sets the soft limit of open descriptors back to what it was for what the user runs.
pub(crate) fn restore_descriptor_limit(soft: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Lowering one's own soft limit is always allowed.
        let _lowered = setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard);
    }
}

/// Makes this process, and what it starts, the first that the kernel kills when memory runs out,
/// ahead of others by this much of a thousand.
pub(crate) fn offer_to_be_killed_first(by: i32) {
    let path = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    // More is always allowed. Without /proc the kernel chooses as it likes.
    let _offered = std::fs::write(path, now.unwrap_or(0).saturating_add(by).min(1000).to_string());
}

/// Ends the process at once, without destructors and without `atexit` handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit is always sound.
    unsafe { nix::libc::_exit(code) }
}

/// From now on this process is killed when the thread that has forked it ends. To be called first of
/// all: if `parent` has ended by now, so does this process, at once.
pub(crate) fn end_with(parent: Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if nix::unistd::getppid() != parent {
        exit_now(0);
    }
    Ok(())
}

/// Makes this process the parent of what its children leave behind.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}
