//! The `[workers.NAME]` tables.

use std::collections::BTreeMap;

use toml::Spanned;

use super::super::{Run, Worker};
use super::resolve::{Origin, Resolver};
use super::values;
use super::{RawConfig, RawWorker};

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
        let mut kinds: Vec<_> = raw.workers.iter().collect();
        // The map sorts by name; the file's order is what its user thinks in.
        kinds.sort_by_key(|(name, _)| name.span().start);
        if kinds.is_empty() {
            let what = match self.known.functions.first() {
                Some(function) => format!("function = {:?}", function.name),
                None => "command = [\"PROGRAM\", \"{}\"]".to_owned(),
            };
            self.mistake(
                &Origin::file("workers"),
                &format!("no kind of worker is declared: add a table [workers.NAME] with {what}"),
            );
            return Kinds { workers: None, take_jobs: true };
        }
        let mut takers: Vec<usize> = Vec::new();
        for (index, (name, raw)) in kinds.iter().enumerate() {
            if !self.takes_jobs(raw) {
                continue;
            }
            if let Some(first) = takers.first() {
                let message = format!(
                    "only one kind of worker can take the jobs, and workers.{} takes them: \
                     commands and coprocesses always do, so declare one kind in each configuration",
                    kinds[*first].0.get_ref()
                );
                self.mistake(&kind_origin(name), &message);
            }
            takers.push(index);
        }
        let workers: Vec<Option<Worker>> =
            kinds.iter().map(|(name, raw)| self.worker(name, raw)).collect();
        let mut workers: Option<Vec<Worker>> = workers.into_iter().collect();
        let overridden = takers.first().copied().or((kinds.len() == 1).then_some(0));
        if let (Some(workers), Some(index)) = (&mut workers, overridden) {
            self.override_worker(&mut workers[index]);
        }
        Kinds { workers, take_jobs: !takers.is_empty() }
    }

    fn takes_jobs(&self, raw: &RawWorker) -> bool {
        raw.function.as_ref().is_none_or(|name| self.known.takes_jobs(name.get_ref()))
    }

    /// Applies the options that are about the kind of worker that takes the jobs.
    pub(super) fn override_worker(&self, worker: &mut Worker) {
        let overrides = self.overrides;
        worker.processes = overrides.processes.unwrap_or(worker.processes);
        worker.threads = overrides.threads.unwrap_or(worker.threads);
        worker.timeout = overrides.timeout.or(worker.timeout);
        worker.attempts = overrides.attempts.unwrap_or(worker.attempts);
    }

    fn worker(&mut self, name: &Spanned<String>, raw: &RawWorker) -> Option<Worker> {
        if let Err(message) = values::worker_name(name.get_ref()) {
            self.mistake(&kind_origin(name), &message);
        }
        let key = |key: &str| format!("workers.{}.{key}", name.get_ref());
        let run = self.run(name, raw);
        let mut worker = Worker::new(name.get_ref(), Run::Command(Vec::new()));
        if !self.takes_jobs(raw) {
            (worker.processes, worker.threads) = (1, 1);
            self.note_unused(name.get_ref(), raw);
        }
        if let Some(processes) = self.number(&key("processes"), &raw.processes, 1..=10_000) {
            worker.processes = processes;
        }
        if let Some(threads) = self.number(&key("threads"), &raw.threads, 1..=1_024) {
            worker.threads = threads;
        }
        worker.timeout = self.parsed(&key("timeout"), &raw.timeout, |text| {
            values::positive_duration(text)
                .map_err(|message| format!("{message}; without the key there is no limit"))
        });
        let attempts = 1..=i64::from(u32::MAX);
        if let Some(attempts) = self.number(&key("attempts"), &raw.attempts, attempts) {
            worker.attempts = attempts;
        }
        if let Some(delay) = self.parsed(&key("retry_delay"), &raw.retry_delay, values::duration) {
            worker.retry_delay = delay;
        }
        if let Some(bytes) = self.size(&key("max_output"), &raw.max_output, 1 << 10..=1 << 30) {
            worker.max_output = bytes;
        }
        worker.env = self.env(name.get_ref(), &raw.env);
        worker.run = run?;
        Some(worker)
    }

    /// What the worker does with a job: one of three keys says it.
    fn run(&mut self, name: &Spanned<String>, raw: &RawWorker) -> Option<Run> {
        let given = [raw.command.is_some(), raw.function.is_some(), raw.coprocess.is_some()];
        match given.iter().filter(|given| **given).count() {
            1 => {}
            0 => {
                let function = self.known.functions.first();
                let function = function.map(|it| format!("function = {:?}, or ", it.name));
                let message = format!(
                    "it does nothing with a job: add {}command = [\"PROGRAM\", \"{{}}\"], or \
                     coprocess = [\"PROGRAM\"], which is started once and kept",
                    function.unwrap_or_default()
                );
                self.mistake(&kind_origin(name), &message);
            }
            _ => {
                let message = "only one of command, function and coprocess is allowed: that is what \
                               the worker does with a job";
                self.mistake(&kind_origin(name), message);
            }
        }
        let key = |key: &str| format!("workers.{}.{key}", name.get_ref());
        if let Some(function) = &raw.function {
            let known = self.known.function(function.get_ref());
            return self.noted(&Origin::key(&key("function"), function.span()), known);
        }
        let coprocess = raw.coprocess.as_ref().map(|raw| self.command(&key("coprocess"), raw));
        let command = raw.command.as_ref().map(|raw| self.command(&key("command"), raw));
        coprocess.flatten().map(Run::Coprocess).or(command.flatten().map(Run::Command))
    }

    /// Keys that say something about jobs, of a worker that takes none.
    fn note_unused(&mut self, name: &str, raw: &RawWorker) {
        let keys = [
            ("timeout", raw.timeout.is_some()),
            ("attempts", raw.attempts.is_some()),
            ("retry_delay", raw.retry_delay.is_some()),
            ("max_output", raw.max_output.is_some()),
            ("env", !raw.env.is_empty()),
        ];
        for (key, _) in keys.iter().filter(|(_, given)| *given) {
            self.warnings.push(format!(
                "workers.{name}.{key} has no effect: this function produces without jobs"
            ));
        }
    }

    fn command(&mut self, key: &str, raw: &Spanned<Vec<Spanned<String>>>) -> Option<Vec<String>> {
        // All of them first: an early end would hide the mistakes in later arguments.
        let command: Vec<Option<String>> =
            raw.get_ref().iter().map(|argument| self.string(key, argument)).collect();
        let command: Vec<String> = command.into_iter().collect::<Option<_>>()?;
        if command.first().is_none_or(String::is_empty) {
            let message = "it is empty: the first element names the program";
            self.mistake(&Origin::key(key, raw.span()), message);
            return None;
        }
        Some(command)
    }

    fn env(
        &mut self,
        worker: &str,
        raw: &BTreeMap<Spanned<String>, Spanned<String>>,
    ) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        for (name, value) in raw {
            let key = format!("workers.{worker}.env.{}", name.get_ref());
            if name.get_ref().is_empty() || name.get_ref().contains(['=', '\0']) {
                let message = "the name of a variable can't be empty or contain '=' or NUL";
                self.mistake(&Origin::key(&key, name.span()), message);
            }
            if let Some(value) = self.string(&key, value) {
                env.insert(name.get_ref().clone(), value);
            }
        }
        env
    }
}

fn kind_origin(name: &Spanned<String>) -> Origin {
    Origin::key(&format!("workers.{}", name.get_ref()), name.span())
}
