//! What the tests of the program share: a place of its own for each test, runs of the program in
//! it, and what may be said of a run afterwards: its log, its output, and what it left behind.
//!
//! Rules that all of them keep:
//!
//! - A test waits for an event, never for a time: [`poll_until`] and [`Running::until`] are the
//!   only loops, and both have a watchdog that prints everything known when it bites.
//! - Only processes that the test started are ended. They are known by [`MARKER`] in their
//!   environment, by the test's own name for the program, or as children of its process group.
//! - Nothing random is left unsaid: [`Seed`] prints what repeats a failure.

#![allow(dead_code, unused_imports)]

pub mod freezer;
#[cfg(target_arch = "x86_64")]
pub mod inject;
pub mod kills;
pub mod log;
pub mod managers;
pub mod pids;
pub mod place;
pub mod processes;
pub mod results;
pub mod run;
pub mod terminal;
pub mod verdict;

pub use freezer::Freezer;
pub use log::{Balance, Line};
pub use pids::Pids;
pub use place::{Launch, Place};
pub use processes::{Handle, Process};
pub use results::Results;
pub use run::{Ended, Running};
pub use rustix::process::Signal;
pub use terminal::Terminal;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// In the environment of everything that a test starts, with the test's own value.
pub const MARKER: &str = "PROCSIG_TEST";

/// How long anything may take before a test calls it hung.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// Asks until there is an answer, with a short back-off; `None` when the time is over.
pub fn poll_until<T>(limit: Duration, mut predicate: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(answer) = predicate() {
            return Some(answer);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(20));
    }
}

/// [`poll_until`] for what has no run to be printed with it.
#[track_caller]
pub fn wait_until<T>(what: &str, limit: Duration, predicate: impl FnMut() -> Option<T>) -> T {
    match poll_until(limit, predicate) {
        Some(answer) => answer,
        None => panic!("waited {limit:?} in vain: {what}"),
    }
}

/// The pids of the direct children of this test program, so that what else turns up as its child
/// is known to be an orphan of a run.
static OWN_CHILDREN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn own_children() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN_CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a command as a registered child; orphans of what it starts come to this program.
pub fn spawn(command: &mut Command) -> std::io::Result<Child> {
    static SUBREAPER: Once = Once::new();
    SUBREAPER.call_once(|| nix::sys::prctl::set_child_subreaper(true).expect("subreaper"));
    let mut children = own_children();
    let child = command.spawn()?;
    let pid = child.id() as i32;
    children.insert(pid);
    drop(children);
    // The kernel lets us go on when the program is replaced, and fills in its environment afterwards: until
    // then nobody would find the process by its mark.
    wait_until("an environment", WATCHDOG, || {
        Process::read(pid).is_none_or(|it| it.is_zombie() || it.has_environment()).then_some(())
    });
    Ok(child)
}

/// Reaps what has come to this test program because its parent was killed, and has ended.
pub fn reap_orphans() {
    // Held until the end: who is started meanwhile is not known yet.
    let own = own_children();
    for process in processes::children_of(std::process::id() as i32) {
        if process.is_zombie() && !own.contains(&process.pid) {
            let pid = nix::unistd::Pid::from_raw(process.pid);
            // Another test may have been faster.
            let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        }
    }
}

/// Runs a tool to its end and returns what it printed.
#[track_caller]
pub fn tool(name: &str, args: &[&str]) -> Output {
    let mut command = Command::new(name);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn(&mut command).unwrap_or_else(|error| panic!("{name}: {error}"));
    let pid = child.id() as i32;
    let output = child.wait_with_output().unwrap_or_else(|error| panic!("{name}: {error}"));
    own_children().remove(&pid);
    output
}

/// Whether a test can have what it needs: tools by name, and `root`. If not, it says which, by
/// name, and is skipped; where CI=true that is a failure.
#[track_caller]
pub fn needs(test: &str, what: &[&str]) -> bool {
    let missing = what.iter().find(|what| match **what {
        "root" => !rustix::process::geteuid().is_root(),
        tool => !on_path(tool),
    });
    let Some(missing) = missing else { return true };
    assert!(std::env::var("CI").is_err(), "{test} needs {missing}, and in CI it has to be there");
    eprintln!("skipped: {test} needs {missing}");
    false
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
}

/// Where the program is.
pub fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_procsig"))
}

/// Where an example is.
pub fn example(name: &str) -> PathBuf {
    program().with_file_name("examples").join(name)
}

/// A source of random numbers (splitmix64) whose seed is printed when the test fails.
pub struct Seed {
    start: u64,
    state: u64,
}

impl Seed {
    /// From PROCSIG_TEST_SEED, or else from the clock.
    pub fn new() -> Seed {
        let start = match std::env::var("PROCSIG_TEST_SEED") {
            Ok(text) => text.parse().expect("PROCSIG_TEST_SEED is a number"),
            Err(_) => {
                let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                now.expect("a clock after 1970").as_nanos() as u64
            }
        };
        Seed::of(start)
    }

    /// Repeats the numbers of another.
    pub fn of(start: u64) -> Seed {
        Seed { start, state: start }
    }

    /// What repeats the numbers from the first on.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below the limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A time below the limit.
    pub fn time_below(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.below(limit.as_nanos() as u64))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("PROCSIG_TEST_SEED={} repeats this", self.start);
        }
    }
}
