//! A process that is run one instruction at a time, and what it has changed after each of them.
//!
//! The process is this test program itself, started again. It stops right before the code in
//! question and right behind it; between the two it is stepped. While it stands, its files are
//! ours: they can be copied, recovered in place as if everything had died at this instruction, and
//! put back for the next step. It has let go of its locks for that.

use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::lock;
use crate::sys::mmap::Mapping;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::Duration;

/// In the environment of the traced process: what it is to do, and where.
const TASK: &str = "PROCSIG_TEST_STEP";
const PLACE: &str = "PROCSIG_TEST_STEP_PLACE";
/// What it says before the number of the thread that is traced; 0: it may not be.
const READY: &str = "traced thread ";
/// What it says when it has done what it was nudged for.
const NUDGED: &str = "nudged";

/// How long it may be at one step before it is called hung.
const HUNG: Duration = Duration::from_secs(60);

/// The files that a step can change.
pub(super) fn spool_of(place: &Path) -> PathBuf {
    place.join("spool")
}

pub(super) fn output_of(place: &Path) -> PathBuf {
    place.join("out")
}

pub(super) fn quarantine_of(place: &Path) -> PathBuf {
    place.join("out.quarantine")
}

/// All bytes that outlive a process, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Files {
    pub spool: Vec<u8>,
    pub output: Vec<u8>,
    pub quarantine: Option<Vec<u8>>,
}

impl Files {
    pub(super) fn read(place: &Path) -> Files {
        Files {
            spool: std::fs::read(spool_of(place)).expect("the spool"),
            output: std::fs::read(output_of(place)).expect("the output"),
            quarantine: std::fs::read(quarantine_of(place)).ok(),
        }
    }

    /// Puts them back, into the same files: somebody may have them open, or mapped.
    pub(super) fn write(&self, place: &Path) {
        let overwrite = |path: PathBuf, bytes: &[u8]| {
            let file = File::options().write(true).open(path).expect("a file of the place");
            file.set_len(bytes.len() as u64).expect("its length");
            file.write_all_at(bytes, 0).expect("its bytes");
        };
        overwrite(spool_of(place), &self.spool);
        overwrite(output_of(place), &self.output);
        match &self.quarantine {
            Some(bytes) => overwrite(quarantine_of(place), bytes),
            None => drop(std::fs::remove_file(quarantine_of(place))),
        }
    }
}

/// The task of this process, if it is one to be traced, and its place.
pub(super) fn task() -> Option<(String, PathBuf)> {
    Some((std::env::var(TASK).ok()?, std::env::var_os(PLACE)?.into()))
}

/// Stands still, then runs `task` one instruction at a time, if somebody traces us.
pub(super) fn be_traced(task: impl FnOnce()) {
    release_locks();
    let traced = ptrace::traceme().is_ok();
    println!("{READY}{}", if traced { gettid().as_raw() } else { 0 });
    if traced {
        raise(Signal::SIGSTOP).expect("a stop before the first step");
        task();
        raise(Signal::SIGSTOP).expect("a stop behind the last step");
    }
}

/// What another thread of the traced process does whenever the tracer says so, which stands still
/// meanwhile, as the traced thread does. Until `nudged` says that it was the last time.
pub(super) fn nudges(mut nudged: impl FnMut() -> bool) {
    let mut byte = [0];
    while std::io::stdin().read_exact(&mut byte).is_ok() {
        let last = nudged();
        println!("{NUDGED}");
        if last {
            return;
        }
    }
}

fn release_locks() {
    let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).expect("a pidfd");
    for entry in std::fs::read_dir("/proc/self/fd").expect("/proc").flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let number = number.expect("a descriptor is a number");
        let Ok(same) = pidfd_getfd(&ourselves, number, PidfdGetfdFlags::empty()) else { continue };
        // What is no file has no lock to let go of.
        let _released = lock::release(same);
    }
}

/// What came of stepping.
#[derive(Debug)]
pub(super) struct Steps {
    pub instructions: u64,
    /// States that the files were in, each of which was looked at once.
    pub states: u64,
}

/// Has the test `runner` of this program done `task` in `place`, one instruction at a time.
/// Whenever the files have changed to what they never were before, `look` is called, and may
/// change them: they are put back. When it says so, the input of the traced process is closed.
///
/// `None`: no process may be traced here.
pub(super) fn step_through(
    runner: &str,
    task: &str,
    place: &Path,
    mut look: impl FnMut(&Files) -> bool,
) -> Option<Steps> {
    stay_on_one_processor();
    let mut traced = Traced::start(runner, task, place)?;
    let mut now = Files::read(place);
    let spool = File::options().read(true).write(true).open(spool_of(place)).expect("the spool");
    let spool = Mapping::of_file(spool, now.spool.len()).expect("the spool, mapped");
    let (mut last, mut lengths) = (Files::default(), None);
    let (hasher, mut known) = (RandomState::new(), HashSet::new());
    let mut steps = Steps { instructions: 0, states: 0 };
    loop {
        if now != last {
            if known.insert(hasher.hash_one(&now)) {
                steps.states += 1;
                let nudge = look(&now);
                now.write(place);
                if nudge {
                    traced.nudge();
                }
            }
            last.clone_from(&now);
        }
        if !traced.step() {
            break;
        }
        steps.instructions += 1;
        now.spool.clear();
        spool.append_to(0, last.spool.len(), &mut now.spool);
        // Nothing of the other two is ever written over, so that their lengths tell.
        let lengths_now = [output_of(place), quarantine_of(place)].map(length);
        if lengths.replace(lengths_now) != Some(lengths_now) {
            now = Files { spool: std::mem::take(&mut now.spool), ..Files::read(place) };
        }
    }
    traced.finish();
    Some(steps)
}

fn length(path: PathBuf) -> Option<u64> {
    Some(std::fs::metadata(path).ok()?.len())
}

/// The tracer and the traced never run at the same time, and hand over to each other much faster on
/// one processor. Concerns this thread and what it starts.
fn stay_on_one_processor() {
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    // If it is refused it only takes longer.
    let _stays = sched_setaffinity(None, &one);
}

/// The traced process; killed when it is dropped before its end.
struct Traced {
    process: Child,
    /// What it prints.
    lines: Box<dyn Iterator<Item = String>>,
    thread: Pid,
    over: bool,
    steps: Arc<AtomicU64>,
    /// As long as it is there, the watchdog watches.
    _watched: Sender<()>,
}

/// Kills a process that makes no step any more: it sleeps, and nobody will wake it.
fn watch(process: Pid, steps: Arc<AtomicU64>) -> Sender<()> {
    let (watched, over) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut last = u64::MAX;
        while over.recv_timeout(HUNG) == Err(RecvTimeoutError::Timeout) {
            let now = steps.load(Ordering::Relaxed);
            if now == last {
                // That it has just ended by itself is no harm.
                let _killed = kill(process, Signal::SIGKILL);
            }
            last = now;
        }
    });
    watched
}

impl Traced {
    fn start(runner: &str, task: &str, place: &Path) -> Option<Traced> {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", runner, "--ignored", "--nocapture", "--test-threads=1"])
            .env(TASK, task)
            .env(PLACE, place)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let stdout = process.stdout.take().expect("a pipe");
        let mut lines = BufReader::new(stdout).lines().map(|line| line.expect("UTF-8"));
        let thread = lines.find_map(|line| line.split_once(READY)?.1.parse().ok());
        let thread = thread.expect("the traced process says which thread it is");
        if thread == 0 {
            process.wait().expect("its end");
            return None;
        }
        let thread = Pid::from_raw(thread);
        let steps = Arc::new(AtomicU64::new(0));
        let watched = watch(Pid::from_raw(process.id().cast_signed()), Arc::clone(&steps));
        let lines = Box::new(lines);
        let traced = Traced { process, lines, thread, over: false, steps, _watched: watched };
        assert_eq!(traced.wait(), Signal::SIGSTOP, "it stands before the first step");
        Some(traced)
    }

    /// One instruction. `false`: it was the last.
    fn step(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        ptrace::step(self.thread, None).expect("a step");
        match self.wait() {
            Signal::SIGTRAP => true,
            Signal::SIGSTOP => false,
            other => panic!("the traced process got {other}"),
        }
    }

    /// Lets its other thread do something, and waits until that is done.
    fn nudge(&mut self) {
        let input = self.process.stdin.as_mut().expect("a pipe");
        input.write_all(b"!").expect("a nudge");
        assert!(self.lines.any(|line| line.contains(NUDGED)), "it has ended before the nudge");
    }

    /// Waits until it stands, and says by what.
    fn wait(&self) -> Signal {
        match waitpid(self.thread, Some(WaitPidFlag::__WALL)).expect("the traced thread") {
            WaitStatus::Stopped(_, signal) => signal,
            other => panic!("the traced process has ended: {other:?}"),
        }
    }

    fn finish(mut self) {
        ptrace::detach(self.thread, None).expect("let go of");
        self.over = true;
        let end = self.process.wait().expect("its end");
        assert!(end.success(), "the traced process has failed: {end}");
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // A traced thread is dead only once its tracer has seen it.
        let _killed = self.process.kill();
        let _seen = waitpid(self.thread, Some(WaitPidFlag::__WALL));
        let _reaped = self.process.wait();
    }
}
