//! What the processes are doing: what the spool says of them, held against `/proc`.

use super::Look;
use super::facts::{self, Doing, JobInHand};
use super::table::Table;
use crate::flow::queue::history::What;
use crate::flow::queue::jobs::Jobs;
use crate::flow::queue::layout::ProcessState;
use crate::flow::queue::processes::{self, BUFFER, SOURCE};
use crate::flow::queue::spool::Spool;
use crate::sys::atomic::Ordering;
use crate::sys::{proc_fs, process};
use std::time::Duration;

/// Bytes of a job's text that are shown at most.
const TEXT_MAX: usize = 4096;

/// Is one of the processes that the spool names alive?
pub(super) fn any_lives(spool: &Spool) -> bool {
    (0..spool.processes()).any(|index| processes::living(spool, index).is_some())
}

impl Look<'_> {
    pub(super) fn processes(&self, table: &Table) -> Vec<facts::Process> {
        let told = self.told();
        // In the order in which they stop.
        let workers = (0..self.spool.lanes()).map(processes::worker);
        let order = std::iter::once(SOURCE).chain(workers).chain([BUFFER]);
        let look = |index| self.process(index, told[index], table);
        let shown = |process: &facts::Process| process.state != Doing::Absent;
        order.map(look).filter(shown).collect()
    }

    /// Which of them were told to stop.
    fn told(&self) -> Vec<bool> {
        let mut told = vec![false; self.spool.processes()];
        for event in self.story.stop.iter() {
            let Some(slot) = event.slot.and_then(|slot| told.get_mut(slot)) else { continue };
            match event.what {
                What::Told | What::Killed(_) => *slot = true,
                What::Started { .. } => *slot = false,
                _ => {}
            }
        }
        told
    }

    fn process(&self, index: usize, told: bool, table: &Table) -> facts::Process {
        let entry = self.spool.process(index);
        let lane = index.checked_sub(processes::worker(0));
        let jobs = lane.and_then(|lane| table.in_hand.get(&u16::try_from(lane).ok()?));
        let mut jobs_in_hand = self.jobs_in_hand(jobs.map_or(&[][..], Vec::as_slice));
        let kind = lane.and_then(|lane| self.kind(lane));
        let idle = kind.is_some_and(|kind| kind.takes_jobs) && jobs_in_hand.is_empty();
        let living = processes::living(self.spool, index).filter(|_| self.visible);
        let stat = living.and_then(proc_fs::stat);
        let word = entry.state.load(Ordering::Relaxed);
        let state = match (word, &stat) {
            (word, _) if word == ProcessState::Absent as u64 => Doing::Absent,
            (word, None) if word == ProcessState::Ended as u64 => Doing::Ended,
            (1..=2, None) if self.visible || !self.state.goes_on() => Doing::Dead,
            (1..=3, Some(stat)) if matches!(stat.state, b'T' | b't') => Doing::Stopped,
            (1..=2, _) if told => Doing::Stopping,
            (1, _) => Doing::Starting,
            (2, _) if idle => Doing::Idle,
            (2, _) => Doing::Running,
            (3, _) => Doing::Stopping,
            _ => Doing::Unknown,
        };
        if state.is_gone() {
            // Nobody is at work on them: they are kept.
            jobs_in_hand.iter_mut().for_each(|job| job.seconds = None);
        }
        let incarnation = entry.incarnation.load(Ordering::Relaxed);
        let before = entry.before_run.load(Ordering::Relaxed);
        let pid = Some(entry.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0);
        let restarts = incarnation.saturating_sub(before).saturating_sub(1);
        facts::Process {
            role: match lane {
                None if index == SOURCE => "source".into(),
                None => "buffer".into(),
                Some(lane) => format!("worker {}", self.worker(lane)),
            },
            pid,
            state,
            age_seconds: stat.and_then(|stat| proc_fs::age(&stat)).map(|age| age.as_secs_f64()),
            restarts,
            last_end: Some(entry.last_end.load(Ordering::Relaxed))
                .filter(|_| restarts > 0 || stat.is_none() && state != Doing::Ended)
                .and_then(how_ended),
            threads: kind.map(|kind| kind.threads),
            jobs_in_hand,
        }
    }

    fn kind(&self, lane: usize) -> Option<&crate::flow::about::Kind> {
        let mut number = lane;
        self.about.iter().flat_map(|about| &about.kinds).find(|kind| {
            let here = number < usize::from(kind.processes);
            number = number.saturating_sub(kind.processes.into());
            here
        })
    }

    fn jobs_in_hand(&self, slots: &[usize]) -> Vec<JobInHand> {
        let mut jobs: Vec<JobInHand> = slots.iter().map(|slot| self.job(*slot)).collect();
        // One whose attempt has not begun goes last.
        jobs.sort_by(|a, b| {
            let seconds = |job: &JobInHand| job.seconds.unwrap_or(-1.0);
            seconds(b).total_cmp(&seconds(a)).then(a.seq.cmp(&b.seq))
        });
        jobs
    }

    fn job(&self, index: usize) -> JobInHand {
        let jobs = Jobs(self.spool);
        let slot = jobs.slot(index);
        let word = |word: &crate::sys::atomic::AtomicU64| word.load(Ordering::Relaxed);
        let started = Some(word(&slot.started)).filter(|started| *started != 0);
        // Its text may be that of the next job by now.
        let text = jobs.is_sound(index).then(|| {
            let mut text = jobs.text(index);
            text.truncate(TEXT_MAX);
            String::from_utf8_lossy(&text).into_owned()
        });
        JobInHand {
            seq: word(&slot.seq),
            round: word(&slot.round),
            job: text,
            seconds: started
                .map(|at| self.wall.saturating_sub(Duration::from_nanos(at)).as_secs_f64()),
            attempt: word(&slot.attempts).saturating_add(1),
            command_pid: Some(word(&slot.command)).filter(|pid| *pid != 0),
        }
    }
}

/// In words what [`crate::flow::queue::layout::Process::last_end`] says.
fn how_ended(word: u64) -> Option<String> {
    let ended = match word {
        1..512 => process::Ended::Exited(i32::try_from(word - 1).ok()?),
        512.. => process::Ended::Signaled(i32::try_from(word - 512).ok()?),
        0 => return None,
    };
    Some(ended.to_string())
}
