//! What a program has registered, as far as a configuration can name it.

use super::super::{Output, Own, Run};
use super::values;
use crate::error::Wrong;

/// Functions, sinks and sources by their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Known {
    pub functions: Vec<KnownFunction>,
    pub sinks: Vec<KnownSink>,
    pub sources: Vec<KnownSource>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownFunction {
    pub name: String,
    /// It is called for each job; otherwise it produces without jobs.
    pub takes_jobs: bool,
    /// The type of the records that it emits.
    pub record: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct KnownSink {
    pub name: String,
    /// What it is as an output, without settings.
    pub output: Output,
    /// The type of the records that it takes.
    pub record: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownSource {
    pub name: String,
    pub own: Own,
}

impl Known {
    /// What a worker with this function runs.
    pub(super) fn function(&self, name: &str) -> Result<Run, Wrong> {
        let names = self.functions.iter().map(|function| function.name.as_str());
        let found = find(name, "function", "Daemon::worker", names)?;
        Ok(Run::Function(self.functions[found].name.clone()))
    }

    /// Does this function take jobs? One that can't be known is taken for one that does, as most do.
    pub(super) fn takes_jobs(&self, function: &str) -> bool {
        let known = self.functions.iter().find(|known| known.name == function);
        known.is_none_or(|known| known.takes_jobs)
    }

    pub(super) fn sink(&self, name: &str) -> Result<&KnownSink, Wrong> {
        let names = self.sinks.iter().map(|sink| sink.name.as_str());
        let found = find(name, "sink", "Daemon::sink", names)?;
        Ok(&self.sinks[found])
    }

    /// The type of the records that a function emits.
    pub(super) fn record_of(&self, function: &str) -> Option<&'static str> {
        self.functions.iter().find(|known| known.name == function).map(|known| known.record)
    }

    pub(super) fn source(&self, name: &str) -> Result<Own, Wrong> {
        let names = self.sources.iter().map(|source| source.name.as_str());
        let found = find(name, "source", "Daemon::source", names)?;
        Ok(self.sources[found].own.clone())
    }
}

/// Finds what was registered under a name.
fn find<'a>(
    written: &str,
    what: &str,
    register: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<usize, Wrong> {
    let names: Vec<&str> = names.collect();
    if let Some(found) = names.iter().position(|name| *name == written) {
        return Ok(found);
    }
    if names.is_empty() {
        return Err(Wrong::new(format!("this program has no {what}s")).help(format!(
            "{written:?} has to be registered by a program of your own, with {register} of the \
             procsig library"
        )));
    }
    let suggestion = values::near_miss(written, names.iter().copied());
    Err(Wrong::new(format!("this program has no {what} {written:?}"))
        .suggest(suggestion.map(|name| format!("{name:?}")))
        .allowed(names.join(", ")))
}
