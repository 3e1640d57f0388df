//! System calls of the buffer that come to something else than they would: its first process is
//! traced, and nobody besides it. So a call is known by its name and its number among those of that
//! name, which strace can't say of one process of many.

use super::place::Launch;
use super::{Running, WATCHDOG, wait_until};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal as Sig;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::thread::JoinHandle;

/// A call, by its name and its number among all of that name in a thread: the first thread of the
/// process, or any other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub first_thread: bool,
    pub name: &'static str,
    pub number: usize,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// It is not made, and fails so.
    Fails(Errno),
    /// Its process is killed before it is made.
    Killed,
    /// It writes a part of what it would, and then everything is killed.
    LastOfAll,
}

/// The calls that were made, in order, and whether the one in question was among them.
#[derive(Debug, Default)]
pub struct Traced {
    pub calls: Vec<Call>,
    pub reached: bool,
}

/// A run whose buffer is traced.
pub struct Tracing {
    tracer: JoinHandle<Traced>,
}

impl Tracing {
    /// Starts it; `doomed`: a call, and what is to become of it.
    #[track_caller]
    pub fn start(launch: Launch<'_>, doomed: Option<(Call, Fate)>) -> (Running<'_>, Tracing) {
        let marker = launch.place.name.clone();
        // It stands still until it is traced, and is the program itself from then on.
        let run = launch.under(&["sh", "-c", "kill -STOP $$; exec \"$@\"", "sh"]).start();
        wait_until("a shell that stands still", WATCHDOG, || {
            super::Process::read(run.pid()).filter(|it| it.state == 'T').map(drop)
        });
        let main = Pid::from_raw(run.pid());
        // Who traces is a thread.
        let tracer = std::thread::spawn(move || trace(main, doomed, &marker));
        (run, Tracing { tracer })
    }

    /// To be called when the run has ended.
    pub fn end(self) -> Traced {
        self.tracer.join().expect("the tracer")
    }
}

/// One that is traced.
#[derive(Default)]
struct Thread {
    first: bool,
    /// Between the two stops of a call.
    inside: bool,
    /// What the call is to return.
    returns: Option<Errno>,
    /// Everything is killed when it returns.
    last: bool,
    counts: BTreeMap<&'static str, usize>,
}

fn trace(main: Pid, doomed: Option<(Call, Fate)>, marker: &str) -> Traced {
    ptrace::seize(main, Options::PTRACE_O_TRACEFORK).expect("to trace");
    nix::sys::signal::kill(main, Sig::SIGCONT).expect("a living shell");
    let Some(buffer) = first_child(main) else { return Traced::default() };
    let mut threads = BTreeMap::new();
    let mut traced = Traced::default();
    loop {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let status = match waitpid(None, Some(flags)) {
            Ok(status) => status,
            Err(Errno::EINTR) => continue,
            // There is nobody any more.
            Err(_) => return traced,
        };
        let Some(pid) = status.pid() else { continue };
        let thread = threads.entry(pid).or_insert_with(|| {
            let thread = Thread { first: pid == buffer, ..Thread::default() };
            let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
            // One that is dead is heard of next.
            let _set = ptrace::setoptions(pid, options);
            thread
        });
        let signal = match status {
            WaitStatus::PtraceSyscall(_) => {
                at_call(pid, thread, &mut traced, doomed.as_ref());
                if thread.last && !thread.inside {
                    kill_all(marker);
                }
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            WaitStatus::PtraceEvent(..) => None,
            _ => continue,
        };
        let _gone_on = ptrace::syscall(pid, signal);
    }
}

/// The first process that this one forks, which stands still; nobody else is traced from then on.
fn first_child(main: Pid) -> Option<Pid> {
    loop {
        match waitpid(main, Some(WaitPidFlag::__WALL)).ok()? {
            WaitStatus::PtraceEvent(_, _, event) if event == nix::libc::PTRACE_EVENT_FORK => {
                let child = ptrace::getevent(main).ok()?;
                ptrace::detach(main, None).ok()?;
                return Some(Pid::from_raw(i32::try_from(child).ok()?));
            }
            // A stop of the whole group is one event, whatever it was for.
            WaitStatus::PtraceEvent(..) => ptrace::cont(main, None).ok()?,
            WaitStatus::Stopped(_, signal) => ptrace::cont(main, signal).ok()?,
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return None,
            _ => {}
        }
    }
}

fn at_call(pid: Pid, thread: &mut Thread, traced: &mut Traced, doomed: Option<&(Call, Fate)>) {
    let Ok(mut registers) = ptrace::getregs(pid) else { return };
    thread.inside = !thread.inside;
    if !thread.inside {
        if let Some(error) = thread.returns.take() {
            registers.rax = -i64::from(error as i32) as u64;
            ptrace::setregs(pid, registers).expect("its registers");
        }
        return;
    }
    let name = name_of(registers.orig_rax);
    let count = thread.counts.entry(name).or_default();
    *count += 1;
    let call = Call { first_thread: thread.first, name, number: *count };
    if let Some((_, fate)) = doomed.filter(|(doomed, _)| *doomed == call && !traced.reached) {
        traced.reached = true;
        match fate {
            Fate::Fails(error) => {
                thread.returns = Some(*error);
                // No call has this number.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(pid, registers).expect("its registers");
            }
            Fate::Killed => {
                let _killed = nix::sys::signal::kill(pid, Sig::SIGKILL);
            }
            Fate::LastOfAll => {
                thread.last = true;
                registers.rdx -= registers.rdx / 3;
                ptrace::setregs(pid, registers).expect("its registers");
            }
        }
    }
    traced.calls.push(call);
}

/// Also what main has started meanwhile in the place of what was killed.
fn kill_all(marker: &str) {
    wait_until("the end of all", WATCHDOG, || {
        let mut living = super::Process::marked(marker);
        living.retain(|process| !process.is_zombie());
        for process in living.iter().filter_map(super::Process::handle) {
            process.send(super::Signal::KILL);
        }
        living.is_empty().then_some(())
    });
}

/// The names of calls by their numbers.
fn name_of(number: u64) -> &'static str {
    macro_rules! names {
        ($($name:ident)*) => {
            [$((nix::libc::$name, stringify!($name)),)*]
        };
    }
    let names = names! {
        SYS_read SYS_write SYS_open SYS_close SYS_stat
        SYS_fstat SYS_lstat SYS_poll SYS_lseek SYS_mmap
        SYS_mprotect SYS_munmap SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask
        SYS_ioctl SYS_pread64 SYS_pwrite64 SYS_access SYS_sched_yield
        SYS_mremap SYS_madvise SYS_dup SYS_dup2 SYS_nanosleep SYS_getpid
        SYS_socket SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg
        SYS_shutdown SYS_socketpair SYS_setsockopt SYS_getsockopt SYS_clone
        SYS_fork SYS_exit SYS_kill SYS_fcntl SYS_flock
        SYS_fsync SYS_fdatasync SYS_truncate SYS_ftruncate SYS_getdents
        SYS_getcwd SYS_chdir SYS_rename SYS_mkdir SYS_unlink
        SYS_readlink SYS_chmod SYS_fchmod SYS_fchown SYS_umask
        SYS_gettimeofday SYS_getrlimit SYS_getuid SYS_geteuid SYS_getppid
        SYS_setsid SYS_sigaltstack SYS_statfs SYS_fstatfs SYS_prctl
        SYS_arch_prctl SYS_sync SYS_gettid SYS_futex SYS_sched_setaffinity
        SYS_sched_getaffinity SYS_getdents64 SYS_set_tid_address SYS_restart_syscall SYS_fadvise64
        SYS_clock_gettime SYS_clock_nanosleep SYS_exit_group SYS_epoll_wait SYS_epoll_ctl
        SYS_waitid SYS_openat SYS_newfstatat SYS_unlinkat SYS_renameat
        SYS_linkat SYS_readlinkat SYS_faccessat SYS_ppoll SYS_set_robust_list
        SYS_splice SYS_utimensat SYS_fallocate SYS_eventfd2 SYS_epoll_create1
        SYS_dup3 SYS_pipe2 SYS_prlimit64 SYS_sched_setattr SYS_renameat2
        SYS_getrandom SYS_memfd_create SYS_statx SYS_rseq SYS_clone3
        SYS_close_range SYS_pidfd_open SYS_pidfd_send_signal SYS_setpriority SYS_sched_setscheduler
        SYS_rt_sigreturn SYS_epoll_pwait SYS_faccessat2 SYS_fchownat SYS_sched_setparam
        SYS_epoll_pwait2 SYS_ioprio_set SYS_tgkill SYS_getpriority SYS_setrlimit
        SYS_sendfile SYS_copy_file_range
    };
    let found = names.iter().find(|(it, _)| u64::try_from(*it) == Ok(number));
    found.map_or("another", |(_, name)| name.trim_start_matches("SYS_"))
}
