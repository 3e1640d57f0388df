//! What `/proc` tells about processes: who started them, when, and with which environment.
//!
//! Any process can vanish between two reads, and a number can come to mean another process. So
//! nothing here is an error: what can't be read is not there. Who wants to act on a process opens
//! a [pidfd](super::pidfd) first and asks again what made it worth acting on.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::clock;
use super::pidfd::PidFd;
use super::process::send;

/// Number of a process.
pub(crate) type Pid = i32;

/// How often the processes that have to go are looked for.
const KILL_ROUNDS_MAX: usize = 10;

/// Longest wait for a process to have an environment, or to be gone.
const IN_BETWEEN_MAX: Duration = Duration::from_millis(20);

/// The flag `PF_KTHREAD` of the kernel.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// The part of `/proc/PID/stat` that is of use here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    /// `R`, `S`, `D`, `T`, `Z`, ... as in proc_pid_stat(5).
    pub(crate) state: u8,
    /// The process that started it, or inherited it.
    pub(crate) ppid: Pid,
    /// Its process group.
    pub(crate) pgrp: Pid,
    /// Its session.
    pub(crate) session: Pid,
    /// When it started, in clock ticks since boot. With the pid it names one process for ever.
    pub(crate) start_time: u64,
    /// Its environment is not empty, or can't be known yet, in the middle of `execve`.
    may_have_environment: bool,
}

impl Stat {
    /// Has it ended, and waits only to be reaped?
    pub(crate) fn ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// Was it stopped, by SIGSTOP or by a debugger?
    pub(crate) fn is_stopped(&self) -> bool {
        matches!(self.state, b'T' | b't')
    }

    /// The name stands in parentheses and may itself hold spaces, parentheses and line ends; what
    /// follows holds none. So the fields are counted from the last parenthesis.
    fn parse(text: &[u8]) -> Option<Stat> {
        let name_end = text.iter().rposition(|byte| *byte == b')')?;
        let fields = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        // Counted as in proc_pid_stat(5), where the name is field 2.
        let field = |number: usize| fields.get(number - 3).copied();
        let state = *field(3)?.as_bytes().first()?;
        let is_kernel_thread = field(9)?.parse::<u32>().ok()? & KERNEL_THREAD != 0;
        // Until the end of `execve` there is no code, and the environment is empty or has no place
        // at all. Linux tells where it is since 3.5.
        let is_in_exec = field(26)? == "0";
        let has_environment = field(50) != field(51);
        let has_ended = matches!(state, b'Z' | b'X' | b'x');
        Some(Stat {
            state,
            ppid: field(4)?.parse().ok()?,
            pgrp: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            start_time: field(22)?.parse().ok()?,
            may_have_environment: (is_in_exec || has_environment)
                && !is_kernel_thread
                && !has_ended,
        })
    }
}

/// What the process is doing, and whose it is. `None`: there is none, or it can't be read.
pub(crate) fn stat(pid: Pid) -> Option<Stat> {
    if !is_there() {
        return None;
    }
    let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
    // The longest possible line is shorter: 52 numbers and a name of 64 bytes.
    let mut line = [0; 2048];
    let length = file.read(&mut line).ok()?;
    Stat::parse(&line[..length])
}

/// When the process started, in clock ticks since boot. A zombie still has it.
pub(crate) fn start_time(pid: Pid) -> Option<u64> {
    stat(pid).map(|stat| stat.start_time)
}

/// Number of the user that the process acts as.
pub(crate) fn user(pid: Pid) -> Option<u32> {
    // The folder's own owner would be root for many a process that is somebody else's.
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// For how long the process has been there.
pub(crate) fn age(stat: &Stat) -> Option<Duration> {
    let per_second = rustix::param::clock_ticks_per_second();
    let ticks = u128::from(stat.start_time);
    let started = ticks.checked_mul(1_000_000_000)?.checked_div(per_second.into())?;
    let started = Duration::from_nanos(u64::try_from(started).ok()?);
    Some(clock::since_boot().saturating_sub(started))
}

/// The processes that were started with all of these `KEY=VALUE` in their environment.
///
/// Not found are: zombies, which have no environment any more; processes of other users, unless
/// the caller is root; and processes that wrote their title over their environment.
pub(crate) fn marked(entries: &[&[u8]]) -> Vec<Pid> {
    let mut environ = Vec::new();
    all().filter(|pid| environ_holds(*pid, entries, &mut environ)).collect()
}

/// Was this process started with all of these `KEY=VALUE` in its environment?
pub(crate) fn is_marked(pid: Pid, entries: &[&[u8]]) -> bool {
    environ_holds(pid, entries, &mut Vec::new())
}

/// Kills all processes that were started with all of these `KEY=VALUE` in their environment, but
/// not this one, and waits for their end; no longer than until [`clock::now`] is `until`.
///
/// What can't be signalled is left alone. Whoever starts new ones as fast as they are killed is
/// given up after ten rounds.
pub(crate) fn kill_marked(entries: &[&[u8]], until: Duration) {
    for _ in 0..KILL_ROUNDS_MAX {
        let mut found = marked(entries);
        found.retain(|pid| pid.unsigned_abs() != std::process::id());
        if !kill_found(&found, entries, until) || clock::now() >= until {
            break;
        }
    }
}

/// Says whether it makes sense to look for more.
fn kill_found(found: &[Pid], entries: &[&[u8]], until: Duration) -> bool {
    let mut ending = Vec::new();
    let mut any = false;
    for pid in found {
        // Asked again while its number is held; without a descriptor left, asked just before.
        let held = PidFd::open(*pid);
        if !is_marked(*pid, entries) {
            any = true;
            continue;
        }
        match held {
            Ok(process) if process.kill().is_ok() => ending.push(process),
            Ok(_) => {}
            Err(_) => any |= send(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL).is_ok(),
        }
    }
    any |= !ending.is_empty();
    // Each has its environment, and so would be found again, until it has really ended.
    for process in ending {
        let _ended_in_time = process.wait(Some(until));
    }
    any
}

/// The buffer is the caller's, so that a scan allocates once.
///
/// While a process is in `execve` there is a moment in which its environment reads as empty, even
/// after the one who started it was told that it runs. Who looked away then would miss it.
fn environ_holds(pid: Pid, entries: &[&[u8]], environ: &mut Vec<u8>) -> bool {
    let mut until = None;
    loop {
        if read_environ(pid, environ).is_none() {
            return false;
        }
        // Asked afterwards, so that an `execve` that ends in between is not missed either.
        let may_have_environment = || stat(pid).is_some_and(|stat| stat.may_have_environment);
        if !environ.is_empty() || !may_have_environment() {
            break;
        }
        let now = clock::now();
        if now >= *until.get_or_insert(now + IN_BETWEEN_MAX) {
            break;
        }
        // No event tells of it.
        std::thread::sleep(Duration::from_micros(100));
    }
    entries.iter().all(|entry| environ.split(|byte| *byte == 0).any(|found| found == *entry))
}

fn read_environ(pid: Pid, environ: &mut Vec<u8>) -> Option<()> {
    environ.clear();
    let mut file = File::open(format!("/proc/{pid}/environ")).ok()?;
    let mut piece = [0; 16 << 10];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Some(()),
            Ok(length) => environ.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// The processes of this session that have not ended yet.
pub(crate) fn in_session(session: Pid) -> Vec<Pid> {
    let belongs = |pid: &Pid| stat(*pid).is_some_and(|s| s.session == session && !s.ended());
    all().filter(belongs).collect()
}

/// The children of a process, of all its threads, those included that wait to be reaped.
pub(crate) fn children(pid: Pid) -> Vec<Pid> {
    // 0 is nobody, but is what the parent of the first process reads as.
    if pid <= 0 {
        return Vec::new();
    }
    listed_children(pid).unwrap_or_else(|| {
        all().filter(|child| stat(*child).is_some_and(|stat| stat.ppid == pid)).collect()
    })
}

/// The children as the kernel lists them. `None`: it was built without the list.
fn listed_children(pid: Pid) -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    if !is_there() {
        return Some(children);
    }
    let (mut threads, mut lists) = (0, 0);
    for thread in numbers(&format!("/proc/{pid}/task")) {
        threads += 1;
        let Ok(list) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")) else {
            continue;
        };
        lists += 1;
        children.extend(list.split_ascii_whitespace().filter_map(|n| n.parse::<Pid>().ok()));
    }
    (threads == 0 || lists > 0).then_some(children)
}

/// All that descends from a process, each with its parent, parents first; without itself.
///
/// What lost its parent on the way belongs to another one now and is not found.
pub(crate) fn descendants(pid: Pid) -> Vec<(Pid, Pid)> {
    let mut found: Vec<(Pid, Pid)> = Vec::new();
    // Numbers can be used again during the walk: without this it might never end.
    let mut seen = HashSet::from([pid]);
    let mut parent = pid;
    for next in 0.. {
        let new = children(parent).into_iter().filter(|child| seen.insert(*child));
        found.extend(new.map(|child| (child, parent)));
        match found.get(next) {
            Some((child, _)) => parent = *child,
            None => break,
        }
    }
    found
}

/// Bytes of memory that this process has in use and shares with no file; `None` if `/proc` can't be
/// read. What it has of the parent's memory by `fork` counts.
pub(crate) fn private_memory() -> Option<u64> {
    memory_in("/proc/self/statm")
}

/// As [`private_memory`], of another process.
pub(crate) fn private_memory_of(pid: Pid) -> Option<u64> {
    memory_in(&format!("/proc/{pid}/statm"))
}

fn memory_in(path: &str) -> Option<u64> {
    let mut line = [0; 256];
    let length = File::open(path).ok()?.read(&mut line).ok()?;
    let line = std::str::from_utf8(&line[..length]).ok()?;
    // Counted in pages: size, resident, of that shared, ...
    let mut fields = line.split_ascii_whitespace().skip(1).map(str::parse::<u64>);
    let (resident, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(resident.saturating_sub(shared).saturating_mul(rustix::param::page_size() as u64))
}

/// The number of threads of this process; 1 if `/proc` can't be read.
pub(crate) fn thread_count() -> usize {
    use std::os::unix::fs::MetadataExt;
    let folder = "/proc/self/task";
    // Besides its own two names the folder has a link for each thread. One thread is what every child
    // begins with, and this is one system call; to list the folder is five.
    if fs::metadata(folder).is_ok_and(|it| it.nlink() == 3) {
        return 1;
    }
    numbers(folder).count().max(1)
}

/// Is `/proc` there, with the numbers that processes have here? In another namespace of processes
/// than the one that it was mounted in, its numbers are those of others, and nothing is read from it.
pub(crate) fn is_there() -> bool {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    *IS_THERE.get_or_init(|| {
        let own = fs::read_link("/proc/self").ok();
        own.is_some_and(|own| own.as_os_str() == std::process::id().to_string().as_str())
    })
}

/// All processes that this one can see.
pub(crate) fn all() -> impl Iterator<Item = Pid> {
    numbers(if is_there() { "/proc" } else { "" })
}

/// The names in a folder that are numbers; none if it can't be read.
fn numbers(folder: &str) -> impl Iterator<Item = Pid> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Number of the PID namespace that this process is in; 0: not known.
pub(crate) fn pid_namespace() -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/pid").map_or(0, |namespace| namespace.ino())
}

/// First half of the kernel's boot id. A build with debug assertions lets a test say another.
pub(crate) fn boot_id() -> u64 {
    let pretended = cfg!(debug_assertions).then(|| std::env::var("PROCSIG_TEST_BOOT_ID").ok());
    if let Some(id) = pretended.flatten().and_then(|id| u64::from_str_radix(&id, 16).ok()) {
        return id;
    }
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    /// A child that lives until it is dropped.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(command: &mut Command) -> Sleeper {
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            Sleeper(command.spawn().expect("can start cat"))
        }

        /// Also waits until the program itself runs: `spawn` returns before the end of `execve`.
        fn running(command: &mut Command) -> Sleeper {
            let mut sleeper = Sleeper::start(command);
            let (stdin, stdout) = (&mut sleeper.0.stdin, &mut sleeper.0.stdout);
            stdin.as_mut().expect("is piped").write_all(b"a").expect("reads it");
            stdout.as_mut().expect("is piped").read_exact(&mut [0]).expect("answers");
            sleeper
        }

        fn pid(&self) -> Pid {
            self.0.id() as Pid
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _gone = self.0.kill();
            let _gone = self.0.wait();
        }
    }

    #[test]
    fn a_name_with_spaces_parentheses_and_line_ends_confuses_nobody() {
        let numbers = "7 8 4194304 10 11 12 13 14 15 16 17 18 19 20 21 4711 23 24 25 26";
        let line = format!("4 (a) R 1 1 (\n) S 2 3 4 {numbers}");
        let expected = Some(Stat {
            state: b'S',
            ppid: 2,
            pgrp: 3,
            session: 4,
            start_time: 4711,
            may_have_environment: false,
        });
        assert_eq!(Stat::parse(line.as_bytes()), expected);
        let binary = [b"4 (\xFF\xFE) S 2 3 4 ".as_slice(), numbers.as_bytes()].concat();
        assert_eq!(Stat::parse(&binary), expected);
    }

    #[test]
    fn a_line_that_is_torn_anywhere_is_nothing_and_no_panic() {
        let line = b"4 (cat) S 2 3 4 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 4711 23 24 25 2";
        for length in 0..line.len() - 1 {
            assert_eq!(Stat::parse(&line[..length]), None);
        }
    }

    #[test]
    fn a_process_is_found_by_an_inherited_mark_from_its_first_moment() {
        let path = format!("PATH={}", std::env::var("PATH").expect("is set"));
        for _ in 0..200 {
            let sleeper = Sleeper::start(&mut Command::new("cat"));
            assert!(is_marked(sleeper.pid(), &[path.as_bytes()]));
        }
    }

    #[test]
    fn an_environment_that_is_really_empty_is_not_waited_for() {
        let sleeper = Sleeper::running(Command::new("/bin/cat").env_clear());
        assert!(!is_marked(sleeper.pid(), &[b"A=B"]));
        assert!(!stat(sleeper.pid()).expect("runs").may_have_environment);
        let other = Sleeper::running(Command::new("cat").env("A", "B"));
        assert!(stat(other.pid()).expect("runs").may_have_environment);
        // Kernel threads have none for ever.
        let mut kernel = all().filter_map(stat).filter(|stat| stat.ppid == 2);
        assert!(kernel.all(|stat| !stat.may_have_environment));
    }

    #[test]
    fn this_process_is_described_as_the_system_calls_describe_it() {
        let me = std::process::id() as Pid;
        let stat = stat(me).expect("/proc is mounted");
        assert_eq!(stat.ppid, nix::unistd::getppid().as_raw());
        assert_eq!(stat.pgrp, nix::unistd::getpgrp().as_raw());
        assert_eq!(stat.session, nix::unistd::getsid(None).expect("own session").as_raw());
        assert!(!stat.ended());
        assert_eq!(start_time(me), Some(stat.start_time));
        assert!(thread_count() >= 1);
    }

    #[test]
    fn memory_that_is_used_counts_and_a_mapped_file_does_not() {
        // Other tests of this process take and give back memory of their own meanwhile.
        let counts = (0..20).any(|_| {
            let before = private_memory().expect("/proc is mounted");
            let taken = std::hint::black_box(vec![1_u8; 64 << 20]);
            let after = private_memory().expect("/proc is mounted");
            drop(taken);
            (before + (48 << 20)..before + (80 << 20)).contains(&after)
        });
        assert!(counts);
    }

    #[test]
    fn a_process_that_is_not_there_is_nothing() {
        for pid in [-1, 0, Pid::MAX] {
            assert_eq!(stat(pid), None);
            assert_eq!(start_time(pid), None);
            assert!(!is_marked(pid, &[]));
            assert!(children(pid).is_empty());
            assert!(descendants(pid).is_empty());
        }
    }

    #[test]
    fn only_processes_with_all_marks_exactly_are_found() {
        let run = format!("PROC_FS_TEST={}", std::process::id());
        let (key, value) = run.split_once('=').expect("has one");
        let one = Sleeper::running(Command::new("cat").env(key, value).env("PROC_FS_JOB", "1"));
        let two = Sleeper::running(Command::new("cat").env(key, value).env("PROC_FS_JOB", "12"));
        let mut both = marked(&[run.as_bytes()]);
        both.sort_unstable();
        let mut expected = vec![one.pid(), two.pid()];
        expected.sort_unstable();
        assert_eq!(both, expected);
        assert_eq!(marked(&[run.as_bytes(), b"PROC_FS_JOB=1"]), [one.pid()]);
        assert!(is_marked(two.pid(), &[run.as_bytes(), b"PROC_FS_JOB=12"]));
        assert!(marked(&[run.as_bytes(), b"PROC_FS_JOB"]).is_empty());
    }

    #[test]
    fn children_and_descendants_are_found_from_every_thread() {
        let mine = std::process::id() as Pid;
        let start = || Sleeper::running(&mut Command::new("cat"));
        let child = std::thread::spawn(start).join().expect("no panic");
        assert!(children(mine).contains(&child.pid()));
        assert!(descendants(mine).contains(&(child.pid(), mine)));
        let session = nix::unistd::getsid(None).expect("own session").as_raw();
        assert!(in_session(session).contains(&child.pid()));
    }
}
