//! The main function of a worker process.

use super::{Launch, Orders, Task, is_ours, reopener};
use crate::config::{self, Shutdown};
use crate::control::child::{self, Outcome, Reports, Told};
use crate::control::role::Child;
use crate::error::Error;
use crate::flow::format::Recording;
use crate::flow::queue::jobs::Jobs;
use crate::flow::queue::layout::ProcessState;
use crate::flow::queue::processes::{self, Entry};
use crate::flow::queue::settle::Orphan;
use crate::flow::queue::spool::{Role, Spool};
use crate::flow::worker::command::CommandRunner;
use crate::flow::worker::coprocess::Coprocesses;
use crate::flow::worker::recycle::Enough;
use crate::flow::worker::{self, Herald, Settings};
use crate::stop::Stop;
use crate::sys::spawn::{RUN_VARIABLE, run_marker, run_name};
use crate::sys::{limits, proc_fs, process};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::sync::Arc;

/// By how much of a thousand the kernel prefers workers when memory runs out: theirs is the memory
/// that somebody else's code takes, and another one finds the job in the spool.
const WORKERS_FIRST: i32 = 500;

impl Launch {
    /// What may have been the cause of an end like this.
    pub(crate) fn hint_of(&self, child: Child, ended: process::Ended) -> String {
        let Child::Worker(lane) = child else { return String::new() };
        let end = process::Ended::Signaled(Signal::SIGABRT as i32);
        match self.kind(lane).0.settings.limits.memory {
            Some(bytes) if ended == end => worker::hint_of_memory(bytes),
            _ => String::new(),
        }
    }

    /// Sets the process up, and works until it is told to stop or has done enough.
    pub(super) fn run_worker(
        &self,
        lane: u16,
        entry: Entry,
        orders: Orders,
        main: Pid,
        reports: &Arc<Reports>,
    ) -> Result<Outcome, Error> {
        child::leave_stdin()?;
        let (kind, _) = self.kind(lane);
        limit(&kind.settings)?;
        self.restrict(Role::Worker(lane))?;
        process::set_environment(RUN_VARIABLE, &run_name(self.run_id));
        for (key, value) in &self.environment {
            process::set_environment(key, value);
        }
        let own_type = !is_ours(&kind.task);
        let settings = Settings {
            name: self.worker_name(lane),
            lane,
            incarnation: entry.incarnation,
            threads: kind.settings.threads,
            attempts: kind.settings.attempts.into(),
            retry_delay: kind.settings.retry_delay,
            // A command is ended by its own time-out.
            timeout: kind.settings.timeout.filter(|_| matches!(kind.task, Task::Jobs(_))),
            blamed: processes::blame(&self.spool, processes::worker(lane.into())),
            recording: Recording::of(&self.config, own_type),
            rounds: self.has_rounds(),
            memory_limit: kind.settings.limits.memory,
            enough: Enough {
                jobs: kind.settings.recycle_after,
                memory: kind.settings.recycle_above,
            },
        };
        let spool = Arc::clone(&self.spool);
        let stop = Stop::new(move || Jobs(&spool).wake_set(worker::sleepers(lane)));
        let Shutdown { deadline, flush_reserve } = self.config.shutdown;
        let limit = deadline.saturating_sub(flush_reserve);
        let reopen = reopener(reports);
        child::listen(orders, main, stop.clone(), Told { reopen, orphaned: || {}, limit })?;
        let herald = Messenger { spool: &self.spool, lane, reports };
        let ended = match &kind.task {
            Task::Jobs(work) => worker::run_jobs(&self.spool, &**work, &settings, &stop, &herald)?,
            Task::Command => {
                let run_id = run_name(self.run_id);
                let runner = CommandRunner::new(&kind.settings, &settings.name, &run_id)
                    .map_err(|error| Error::Config(format!("{}: {error}", settings.name)))?;
                worker::run_jobs(&self.spool, &runner, &settings, &stop, &herald)?
            }
            Task::Coprocess(record) => {
                let (run_id, record) = (run_name(self.run_id), record.clone());
                let own = Coprocesses::new(&kind.settings, record, &run_id, limit, &stop)
                    .map_err(Error::system("can't get ready for coprocesses"))?;
                worker::run_jobs(&self.spool, &own, &settings, &stop, &herald)?
            }
            Task::Produce(produce) => {
                worker::run_producer(&self.spool, &**produce, &settings, &stop, &herald)?;
                worker::Ended::Stopped
            }
        };
        if let worker::Ended::Recycled(why) = ended {
            crate::log::flush();
            log::debug!("ended: it {why}");
            return Ok(Outcome::Recycled(why));
        }
        crate::log::flush();
        log::info!("stopped");
        Ok(if stop.requested() { Outcome::Stopped } else { Outcome::Finished })
    }
}

/// Limits what this worker, and all that it starts, may take of the machine.
fn limit(worker: &config::Worker) -> Result<(), Error> {
    let config::Limits { memory, descriptors, nice, oom_score_adj } = worker.limits;
    match oom_score_adj {
        Some(value) => limits::set_oom_score_adj(value)
            .map_err(Error::system("can't set how readily it is killed (oom_score_adj)"))?,
        None => process::offer_to_be_killed_first(WORKERS_FIRST),
    }
    if let Some(value) = nice {
        limits::set_nice(value).map_err(Error::system("can't set its nice value (nice)"))?;
    }
    if let Some(count) = descriptors {
        limits::limit_descriptors(count)
            .map_err(Error::system("can't limit its descriptors (descriptor_limit)"))?;
    } else if let Some(least) = config::Limits::least(worker.threads).descriptors {
        // The usual soft limit, 1024, is too low for some hundred commands at a time.
        limits::allow_descriptors(least);
    }
    limits::close_the_way(descriptors.is_some());
    if let Some(bytes) = memory {
        limits::limit_memory(bytes)
            .map_err(Error::system("can't limit its memory (memory_limit)"))?;
    }
    Ok(())
}

/// What a worker tells main, and the process table.
struct Messenger<'a> {
    spool: &'a Spool,
    lane: u16,
    reports: &'a Reports,
}

impl Herald for Messenger<'_> {
    fn ready(&self) {
        let index = processes::worker(self.lane.into());
        processes::set_state(self.spool, index, ProcessState::Running);
        self.reports.ready();
    }

    fn failed(&self, error: &Error) {
        self.reports.failed(error);
    }

    fn overdue(&self, message: String) -> ! {
        self.reports.overdue(message);
        crate::log::flush();
        process::exit_now(0)
    }

    fn end_orphan(&self, orphan: Orphan) {
        end_orphan(orphan);
    }
}

/// Ends the command that a dead worker had left running for a job that is to be run again.
pub(super) fn end_orphan(orphan: Orphan) {
    // A leader with this start time is the one; without a leader a member says whose it is. The
    // number alone, read from a file, is no reason to kill.
    let ours = match proc_fs::stat(orphan.group) {
        Some(leader) => leader.start_time == orphan.start,
        None => {
            let marker = run_marker(&run_name(orphan.run_id));
            let in_group = |pid| proc_fs::stat(pid).is_some_and(|it| it.pgrp == orphan.group);
            proc_fs::marked(&[&marker]).into_iter().any(in_group)
        }
    };
    if ours {
        // Gone already, most of the time: main has ended the worker's session.
        let _killed = process::send(Pid::from_raw(-orphan.group), Signal::SIGKILL);
    }
}
