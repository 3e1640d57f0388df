//! The last run of a spool: who it was, who of it lives, how it went.

use crate::error::Error;
use crate::flow::about::About;
use crate::flow::balance::Balance;
use crate::flow::queue::history::{self, Story};
use crate::flow::queue::spool::{Extent, Spool};
use crate::flow::queue::{orphans, processes};
use crate::sys::atomic::Ordering;
use crate::sys::proc_fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is known of the last run of a spool at one moment.
#[derive(Debug, Clone)]
pub(crate) struct LastRun {
    pub path: PathBuf,
    /// 0: nothing was ever run with this spool.
    pub run_id: u64,
    pub main: Main,
    /// Pid of main, as main itself sees it.
    pub pid: u64,
    /// The user that the spool belongs to.
    pub owner: Option<u32>,
    /// The machine was booted since.
    pub booted_since: bool,
    /// How many of its children live, as far as can be seen from here.
    pub children: usize,
    /// Since 1970.
    pub started: Duration,
    /// How long a stop may take, and the part of it that is kept for the flush.
    pub deadline: Duration,
    pub flush_reserve: Duration,
    /// What it has exited with, if it came to that.
    pub exit: Option<u8>,
    pub about: Option<About>,
    pub story: Story,
    pub balance: Option<Balance>,
}

/// What became of main.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Main {
    /// It runs, with this pid.
    Runs(i32),
    /// It has been stopped by a signal (SIGSTOP), and does nothing.
    Frozen(i32),
    /// It has exited.
    Exited,
    /// It was killed, or the machine was.
    Killed,
    /// Somebody holds the spool, and it is nobody that can be seen from here: it runs in a container, or
    /// on another machine.
    Elsewhere,
    /// Nothing was ever run.
    Never,
}

impl LastRun {
    /// Reads it.
    ///
    /// # Errors
    /// If the spool can't be read.
    pub(crate) fn look(path: &Path) -> Result<LastRun, Error> {
        Ok(LastRun::of(&Spool::look(path, Extent::Books)?))
    }

    /// What a spool that was [looked](Spool::look) at says.
    pub(crate) fn of(spool: &Spool) -> LastRun {
        let run = spool.run();
        let word = |word: &crate::sys::atomic::AtomicU64| word.load(Ordering::Relaxed);
        let run_id = word(&run.run_id);
        let booted_since = run_id != 0 && word(&run.boot_id) != proc_fs::boot_id();
        let exit = word(&run.ended).checked_sub(1).map(|code| u8::try_from(code).unwrap_or(1));
        let story = Some(history::read(spool)).filter(|story| story.run_id == run_id);
        let story = story.unwrap_or_default();
        let living = |index: &usize| processes::living(spool, *index).is_some();
        let children = if booted_since { 0 } else { (0..spool.processes()).filter(living).count() };
        let (deadline, flush_reserve) = orphans::deadlines(spool);
        LastRun {
            path: spool.path.clone(),
            run_id,
            main: main(spool, run_id, booted_since, exit, children),
            pid: word(&run.main_pid),
            owner: spool.owner(),
            booted_since,
            children,
            started: Duration::from_nanos(word(&run.started)),
            deadline,
            flush_reserve,
            exit,
            about: About::load(spool),
            balance: story.balance.as_ref().map(Balance::from_words),
            story,
        }
    }

    /// What log and `ps` call the child of this slot.
    pub(crate) fn name(&self, slot: usize) -> String {
        match slot {
            processes::SOURCE => "source".into(),
            processes::BUFFER => "buffer".into(),
            worker => format!("worker {}", self.worker_name(worker - processes::worker(0))),
        }
    }

    fn worker_name(&self, lane: usize) -> String {
        let mut number = lane;
        for kind in self.about.iter().flat_map(|about| &about.kinds) {
            let processes = usize::from(kind.processes);
            if number < processes {
                return format!("{}/{number}", kind.name);
            }
            number -= processes;
        }
        lane.to_string()
    }
}

fn main(spool: &Spool, run_id: u64, booted_since: bool, exit: Option<u8>, children: usize) -> Main {
    if run_id == 0 {
        return Main::Never;
    }
    let found = if booted_since { None } else { orphans::main_of(spool) };
    match found {
        Some(pid) if proc_fs::stat(pid).is_some_and(|stat| stat.is_stopped()) => Main::Frozen(pid),
        Some(pid) => Main::Runs(pid),
        None if exit.is_some() => Main::Exited,
        // Held by somebody, and nobody whom it names is here.
        None if children == 0 && spool.is_held() => Main::Elsewhere,
        None => Main::Killed,
    }
}
