//! What main notes in the spool: which run it is, what has happened to whom, how it has ended.

use super::{Launch, Task, origin, slot};
use crate::control::lifecycle::{Reason, Why};
use crate::control::role::Child;
use crate::flow::about::About;
use crate::flow::balance::Balance;
use crate::flow::queue::blame::{self, InHand};
use crate::flow::queue::history::{self, End, What};
use crate::flow::queue::spool::Whereabouts;
use crate::flow::queue::{in_hand, processes};
use crate::sys::atomic::Ordering;
use crate::sys::{clock, proc_fs, process};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::time::Duration;

/// Of a job's text so many characters are said.
const JOB_CHARACTERS: usize = 60;

impl Launch {
    /// Enters this run into the spool.
    pub(super) fn sign(&self) {
        let run = self.spool.run();
        let pid = std::process::id();
        let start = i32::try_from(pid).ok().and_then(proc_fs::start_time).unwrap_or(0);
        let shutdown = self.config.shutdown;
        for (word, value) in [
            (&run.main_start, 0),
            (&run.run_id, self.run_id),
            (&run.boot_id, proc_fs::boot_id()),
            (&run.main_pid, pid.into()),
            (&run.started, clock::nanos(clock::wall())),
            (&run.deadline, clock::nanos(shutdown.deadline)),
            (&run.flush_reserve, clock::nanos(shutdown.flush_reserve)),
            (&run.pid_namespace, proc_fs::pid_namespace()),
            (&run.stopping, 0),
            (&run.ended, 0),
        ] {
            word.store(value, Ordering::Release);
        }
        self.about().store(&self.spool);
        history::begin(&self.spool, self.run_id, clock::now());
        self.note(None, What::RunStarted { pid: pid.into() });
        for index in 0..self.spool.processes() {
            processes::begin_run(&self.spool, index);
        }
        self.opening.note(&self.spool);
        // Whoever looks believes none of it before that.
        run.main_start.store(start, Ordering::Release);
        self.spool.bells().jobs_idle.store(0, Ordering::Release);
    }

    /// What a reader without the configuration needs to know.
    fn about(&self) -> About {
        let takes_jobs = self.kinds.iter().map(|kind| !matches!(kind.task, Task::Produce(_)));
        let jobs = self.config.jobs.as_ref().map(origin);
        About::of(&self.config, self.run_id, jobs, takes_jobs)
    }

    /// Notes that a stop has begun, and why: from now on no worker begins a job.
    pub(crate) fn begin_stop(&self, reason: Reason) {
        self.spool.run().stopping.store(1, Ordering::Release);
        self.note(
            None,
            What::StopRequested(match reason {
                Reason::Signal => history::Reason::Signal,
                Reason::Finished => history::Reason::Finished,
                Reason::Failure => history::Reason::Failure,
            }),
        );
    }

    /// Notes that the child was forked.
    pub(crate) fn note_start(&self, child: Child, pid: Pid) {
        self.note(Some(child), What::Started { pid: pid.as_raw().unsigned_abs().into() });
    }

    /// Notes that the child is ready to work.
    pub(crate) fn note_ready(&self, child: Child) {
        self.note(Some(child), What::Ready);
    }

    /// Notes that the child was told to stop.
    pub(crate) fn note_told(&self, child: Child) {
        self.note(Some(child), What::Told);
    }

    /// Notes that one more signal has counted.
    pub(crate) fn note_signal(&self, count: u8) {
        self.note(None, What::Signal { count: count.into() });
    }

    /// Notes that the deadline has moved.
    pub(crate) fn note_moved(&self, by: Duration) {
        self.note(None, What::DeadlineMoved { by });
    }

    /// Notes that the child could not be killed.
    pub(crate) fn note_abandoned(&self, child: Child) {
        self.note(Some(child), What::Abandoned);
    }

    /// What workers have in hand, for a message: for each one that has something its oldest job, since
    /// when, and how many more.
    pub(crate) fn in_hand(&self) -> HashMap<Child, String> {
        let wall = clock::wall();
        let mut words: HashMap<Child, (String, usize)> = HashMap::new();
        for job in in_hand::in_hand(&self.spool) {
            let say = || {
                let text = in_hand::text(&self.spool, &job, JOB_CHARACTERS);
                let since = job.started.map(|started| wall.saturating_sub(started).as_secs_f64());
                let since = since.map(|since| format!(" for {since:.1} s")).unwrap_or_default();
                (format!("job {}{since}: {}", job.seq, crate::log::escape(&text)), 0)
            };
            words
                .entry(Child::Worker(job.lane))
                .and_modify(|(_, more)| *more += 1)
                .or_insert_with(say);
        }
        let with_more = |(words, more)| match more {
            0 => words,
            more => format!("{words}; and {more} more"),
        };
        words.into_iter().map(|(child, words)| (child, with_more(words))).collect()
    }

    fn note(&self, child: Option<Child>, what: What) {
        history::note(&self.spool, clock::now(), clock::wall(), child.map(slot), what);
    }

    /// Notes that main kills the child: what it has in hand counts no death.
    pub(crate) fn condemn(&self, child: Child, why: Why) {
        processes::condemn(&self.spool, slot(child));
        self.note(
            Some(child),
            What::Killed(match why {
                Why::NotReady => history::Why::NotReady,
                Why::NotQuiet => history::Why::NotQuiet,
                Why::Reserve => history::Why::Reserve,
                Why::Signal => history::Why::Signal,
                Why::Deadline => history::Why::Deadline,
                Why::ThirdSignal => history::Why::ThirdSignal,
            }),
        );
    }

    /// Is the death of this child, which was reaped a moment ago, put down to a job that it had in
    /// hand?
    ///
    /// The limit of deaths ends pipelines that can't work. A job that is run alone since a worker
    /// has died of it fails after a few deaths, which bounds them. A death with other jobs in hand is
    /// put down to them if they run in the worker itself, as functions do, and if jobs have been done
    /// well since the last such death: if none is done any more, it may well be the worker that is
    /// broken, and no list is to be used up by that.
    pub(crate) fn is_put_down_to_a_job(&self, child: Child) -> bool {
        let Child::Worker(lane) = child else { return false };
        match blame::in_hand(&self.spool, lane) {
            InHand::SuspectAlone => true,
            InHand::Jobs if matches!(self.kind(lane).0.task, Task::Jobs(_)) => {
                let done = processes::jobs_done(&self.spool);
                self.done_at_death.replace(done) != done
            }
            InHand::Jobs | InHand::Nothing => false,
        }
    }

    /// Notes how a child has ended, for its successor to say what its job did.
    pub(crate) fn note_end(&self, child: Child, ended: process::Ended) {
        let end = match ended {
            process::Ended::Exited(code) => 1 + u64::from(code.unsigned_abs()),
            process::Ended::Signaled(signal) => 512 + u64::from(signal.unsigned_abs()),
        };
        processes::note_end(&self.spool, slot(child), end);
        let end = match ended {
            process::Ended::Exited(code) => End::Exited(low_byte(code)),
            process::Ended::Signaled(signal) => End::Signaled(low_byte(signal)),
        };
        self.note(Some(child), What::Ended(end));
    }

    /// Notes the exit code, and gives the room of an empty spool back: one that nothing is kept
    /// in, neither records nor jobs nor a place in the list.
    pub(crate) fn end(&self, balance: &Balance, code: u8) {
        let done = balance.kept == 0 && (balance.complete || !self.has_source());
        // After a failure nobody knows whether the output has reached the disk.
        let empty = done && matches!(code, 0 | 3);
        history::note_done(&self.spool, clock::now(), clock::wall(), &balance.words(), code);
        self.spool.end(code, empty);
    }

    /// Writes the spool to its place again, if somebody has removed or moved it; says whether it is
    /// where the next start looks for it.
    pub(crate) fn bring_spool_back(&self) -> bool {
        let (was, kept) = match self.spool.whereabouts() {
            Whereabouts::InPlace => return true,
            Whereabouts::Removed => {
                let kept = "what was kept in it is lost, and the next start begins the list anew";
                ("removed".to_owned(), kept.to_owned())
            }
            Whereabouts::Moved(to) => (
                format!("moved to {0}", to.display()),
                format!("move it back from {} before the next start", to.display()),
            ),
        };
        let back = self.spool.bring_back();
        match &back {
            Ok(()) => log::warn!(
                "{}: the spool was {was} while it was in use; what is in it is written to its place again",
                self.spool.path.display()
            ),
            Err(error) => log::error!("{error}. It was {was} while it was in use: {kept}"),
        }
        back.is_ok()
    }

    /// Was the spool cut, so that processes die of what is mapped of it?
    pub(crate) fn is_spool_cut(&self) -> bool {
        self.spool.is_cut()
    }

    pub(crate) fn words_of_cut_spool(&self) -> String {
        format!(
            "{}: the spool was cut while it is in use, so nobody can go on. What was written is in the \
             output; what was not is lost. Move the spool away, then start again: the list is begun anew, \
             and jobs that were done are done again",
            self.spool.path.display()
        )
    }
}

fn low_byte(number: i32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}
