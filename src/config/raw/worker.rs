//! The `[workers.NAME]` tables.

use std::collections::BTreeMap;

use super::super::{Limits, Run, Worker};
use super::reader::{Field, Named, Origin};
use super::resolve::Resolver;
use super::tables::{RawConfig, RawWorker};
use super::values;
use crate::error::Wrong;

/// The kinds of workers of a configuration.
pub(super) struct Kinds {
    /// `None`: there is a mistake in them.
    pub workers: Option<Vec<Worker>>,
    /// One of them takes the jobs.
    pub take_jobs: bool,
}

impl Resolver<'_> {
    /// The kinds of workers, with what the command line says about the one that takes the jobs.
    pub(super) fn workers(&mut self, raw: &RawConfig) -> Kinds {
        let nothing = Vec::new();
        let kinds = raw.workers.get().unwrap_or(&nothing);
        if kinds.is_empty() {
            self.no_workers(&raw.workers);
            return Kinds { workers: None, take_jobs: true };
        }
        let mut takers: Vec<usize> = Vec::new();
        for (index, kind) in kinds.iter().enumerate() {
            if !kind.table.as_ref().is_some_and(|table| self.takes_jobs(table)) {
                continue;
            }
            if let Some(first) = takers.first() {
                let wrong = Wrong::new(format!(
                    "only one kind of worker can take the jobs, and workers.{} takes them",
                    kinds[*first].name
                ));
                let help = "commands and coprocesses always take jobs: declare one kind in each \
                            configuration";
                self.mistake(&kind.origin, wrong.help(help));
            }
            takers.push(index);
        }
        let workers: Vec<Option<Worker>> = kinds.iter().map(|kind| self.worker(kind)).collect();
        let mut workers: Option<Vec<Worker>> = workers.into_iter().collect();
        let overridden = takers.first().copied().or((kinds.len() == 1).then_some(0));
        if let (Some(workers), Some(index)) = (&mut workers, overridden) {
            self.override_worker(&mut workers[index]);
        }
        // Of a worker that can't be read nobody knows whether it takes them.
        let unknown = kinds.iter().any(|kind| kind.table.is_none());
        Kinds { workers, take_jobs: !takers.is_empty() || unknown }
    }

    fn no_workers(&mut self, table: &Field<Vec<Named<RawWorker>>>) {
        let unusable = table.is_given() && table.get().is_none();
        if unusable || self.is_meant("", &["workers"]) {
            return;
        }
        let what = match self.known.functions.first() {
            Some(function) => format!("function = {:?}", function.name),
            None => "command = [\"PROGRAM\", \"{}\"]".to_owned(),
        };
        let wrong = Wrong::new("no kind of worker is declared")
            .help(format!("add a table [workers.NAME] with {what}"));
        // Without any, it is the end of the file that lacks it.
        let end = || self.source.map(|(_, text)| text.trim_end().len());
        let mut origin = Origin::missing("workers", table);
        origin.bytes = origin.bytes.or_else(|| end().map(|end| end..end));
        self.mistake(&origin, wrong);
    }

    fn takes_jobs(&self, raw: &RawWorker) -> bool {
        raw.function.get().is_none_or(|name| self.known.takes_jobs(name))
    }

    /// Applies the options that are about the kind of worker that takes the jobs.
    pub(super) fn override_worker(&self, worker: &mut Worker) {
        let overrides = self.overrides;
        worker.processes = overrides.processes.unwrap_or(worker.processes);
        worker.threads = overrides.threads.unwrap_or(worker.threads);
        worker.timeout = overrides.timeout.or(worker.timeout);
        worker.attempts = overrides.attempts.unwrap_or(worker.attempts);
    }

    fn worker(&mut self, kind: &Named<RawWorker>) -> Option<Worker> {
        let raw = kind.table.as_ref()?;
        if let Err(wrong) = values::worker_name(&kind.name) {
            self.mistake(&kind.origin, wrong);
        }
        let run = self.run(&kind.origin, raw);
        let mut worker = Worker::new(&kind.name, Run::Command(Vec::new()));
        if !self.takes_jobs(raw) {
            (worker.processes, worker.threads) = (1, 1);
            self.note_unused(raw);
        }
        worker.processes = raw.processes.get().copied().unwrap_or(worker.processes);
        worker.threads = raw.threads.get().copied().unwrap_or(worker.threads);
        worker.timeout = raw.timeout.get().copied();
        worker.attempts = raw.attempts.get().copied().unwrap_or(worker.attempts);
        worker.retry_delay = raw.retry_delay.get().copied().unwrap_or(worker.retry_delay);
        worker.max_output = raw.max_output.get().copied().unwrap_or(worker.max_output);
        worker.env = raw.env.get().cloned().unwrap_or_default();
        worker.recycle_after = raw.recycle_after.get().copied();
        worker.recycle_above = raw.recycle_above.get().copied();
        worker.limits = Limits {
            memory: raw.memory_limit.get().copied(),
            descriptors: raw.descriptor_limit.get().copied(),
            nice: raw.nice.get().copied(),
            oom_score_adj: raw.oom_score_adj.get().copied(),
        };
        let overridden = self.overrides.threads.filter(|_| self.takes_jobs(raw));
        self.check_limits(raw, overridden.unwrap_or(worker.threads));
        worker.run = run?;
        self.note_without_effect(&worker, raw);
        Some(worker)
    }

    /// What the worker does with a job: one of three keys says it.
    fn run(&mut self, kind: &Origin, raw: &RawWorker) -> Option<Run> {
        let given = [raw.command.origin(), raw.function.origin(), raw.coprocess.origin()];
        match given.iter().flatten().count() {
            1 => {}
            0 if self.is_meant(&kind.label, &["command", "function", "coprocess"]) => {}
            0 => {
                let function = self.known.functions.first();
                let function = function.map(|it| format!("function = {:?}, or ", it.name));
                let wrong = Wrong::new("it does nothing with a job").help(format!(
                    "add {}command = [\"PROGRAM\", \"{{}}\"], or coprocess = [\"PROGRAM\"], which is \
                     started once and kept",
                    function.unwrap_or_default()
                ));
                self.mistake(kind, wrong);
            }
            _ => {
                let wrong = Wrong::new("only one of command, function and coprocess is allowed");
                self.mistake(kind, wrong.help("it is what the worker does with a job"));
            }
        }
        if let Some((function, origin)) = raw.function.with_origin() {
            let known = self.known.function(function);
            return self.noted(origin, known);
        }
        let coprocess = self.command(&raw.coprocess, raw).map(Run::Coprocess);
        let command = self.command(&raw.command, raw).map(Run::Command);
        coprocess.or(command)
    }

    /// Keys that say something about jobs, of a worker that takes none.
    fn note_unused(&mut self, raw: &RawWorker) {
        let keys = [
            raw.timeout.origin(),
            raw.attempts.origin(),
            raw.retry_delay.origin(),
            raw.max_output.origin(),
            raw.env.origin(),
            raw.recycle_after.origin(),
            raw.recycle_above.origin(),
        ];
        for origin in keys.into_iter().flatten() {
            let what = "has no effect: this function produces without jobs";
            self.warning(&origin.at_name(), what);
        }
    }

    /// Keys that say nothing beside what the others say.
    fn note_without_effect(&mut self, worker: &Worker, raw: &RawWorker) {
        let attempts = self.overrides.attempts.unwrap_or(worker.attempts);
        if let Some(origin) = raw.retry_delay.origin().filter(|_| attempts == 1) {
            let what = "has no effect: attempts is 1, so that nothing is tried again";
            self.warning(&origin.at_name(), what);
        }
        let function = matches!(&worker.run, Run::Function(name) if self.known.takes_jobs(name));
        for origin in [raw.max_output.origin(), raw.env.origin()].into_iter().flatten() {
            if function {
                let what =
                    "has no effect: it is for commands and coprocesses, and this is a function";
                self.warning(&origin.at_name(), what);
            }
        }
    }

    fn command(
        &mut self,
        field: &Field<Vec<(String, Origin)>>,
        raw: &RawWorker,
    ) -> Option<Vec<String>> {
        let (given, origin) = field.with_origin()?;
        let command: Vec<String> = given.iter().map(|(text, _)| text.clone()).collect();
        if command.first().is_none_or(String::is_empty) {
            self.mistake(origin, "it is empty: the first element names the program");
            return None;
        }
        let nothing = BTreeMap::new();
        // Where an environment can't be read, its PATH is not known.
        if !raw.env.is_given() || raw.env.get().is_some() {
            let environment = raw.env.get().unwrap_or(&nothing);
            self.program(&command, environment, (origin, &given[0].1));
        }
        self.warn_of_shell(given);
        Some(command)
    }
}
