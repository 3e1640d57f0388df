//! The settings as they are written: the TOML file and the command line, read into a [`Config`].
//!
//! A file is read in two steps. The text becomes [`tables::RawConfig`], which keeps each value with
//! its place in the file (`reader`): unknown keys, wrong types and values out of range are noted on
//! the way. Then `resolve` looks at how the keys go together, and applies defaults and the options of
//! the command line ([`Overrides`]). Nothing stops at a mistake: all of them are gathered in
//! [`Mistakes`], and only a file without any becomes a [`Config`].
//!
//! # How a key is added
//!
//! 1. Its line in its table in `tables.rs`: the name, the type, and what reads it: `text(parse)`,
//!    `duration(parse)`, `positive`, `whole(range)`, `size(range)`, `boolean`, `path`, `texts`. That
//!    is all that mistakes in its value need. A new table also gets its line in `tables::keys`.
//! 2. Its field in [`Config`], filled where its table is resolved (`resolve.rs`, `output.rs`,
//!    `worker.rs`, `jobs.rs`) from `raw.KEY.get()`. What depends on other keys is checked there:
//!    `self.mistake(origin, Wrong::new("what").allowed("...").help("..."))`, with the place
//!    from `raw.KEY.origin()`; `self.warning` for what is accepted and has no effect.
//! 3. Its explanation in what `procsig init` prints (`cli/init.toml`), and a value out of its range in
//!    `mistake_tests.rs`. Tests say so if they are forgotten.

mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod jobs;
mod known;
mod limits;
mod output;
mod programs;
mod reader;
mod resolve;
mod rotation;
mod tables;
mod text;
mod values;
mod worker;

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, Lines, LogFormat, Run};
use crate::error::{Error, Mistakes, Wrong};

pub(crate) use known::{Known, KnownFunction, KnownSink, KnownSource};
use reader::{Field, Origin};
use resolve::Resolver;
#[cfg(test)]
pub(crate) use tables::keys;
pub(crate) use values::{duration, positive_duration};

/// What the command line says; each field overrides its key of the file.
///
/// Paths are relative to the working directory, not to the file's folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// `jobs.lines`
    pub(crate) jobs: Option<Lines>,
    /// `jobs.every`
    pub(crate) every: Option<Duration>,
    /// `output.file`
    pub(crate) output: Option<PathBuf>,
    /// `workers.NAME.processes`
    pub(crate) processes: Option<u16>,
    /// `workers.NAME.threads`
    pub(crate) threads: Option<u16>,
    /// `workers.NAME.timeout`
    pub(crate) timeout: Option<Duration>,
    /// `workers.NAME.attempts`
    pub(crate) attempts: Option<u32>,
    /// `shutdown.deadline`
    pub(crate) deadline: Option<Duration>,
    /// `spool.file`
    pub(crate) spool: Option<PathBuf>,
    /// Forget the kept jobs; no key of the file says this.
    pub(crate) fresh: bool,
    /// `log.level`
    pub(crate) log_level: Option<::log::LevelFilter>,
    /// `log.format`
    pub(crate) log_format: Option<LogFormat>,
    /// `log.file`
    pub(crate) log_file: Option<PathBuf>,
}

/// A valid configuration, and what its user should know about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What to run.
    pub(crate) config: Config,
    /// What was accepted, and does something else than its user may think.
    pub(crate) warnings: Mistakes,
    /// Nobody named a list of jobs, so standard input is it. A caller that is about to run
    /// must refuse this when standard input is a terminal.
    pub(crate) jobs_by_default: bool,
}

/// Reads a configuration file. Starts, creates and locks nothing.
///
/// # Errors
///
/// [`Error::Mistakes`] with each mistake.
pub(crate) fn load(path: &Path, overrides: &Overrides, known: &Known) -> Result<Loaded, Error> {
    let text = text::read(path).map_err(Error::Mistakes)?;
    resolve::file(path, &text, (overrides, known), &|name| std::env::var(name), true)
}

/// The settings of a run that is looked at and not started: what they name, such as the list of jobs,
/// need not be there any more.
///
/// # Errors
///
/// [`Error::Mistakes`] with each mistake.
pub(crate) fn load_to_look(path: &Path, known: &Known) -> Result<Loaded, Error> {
    let (text, overrides) = (text::read(path).map_err(Error::Mistakes)?, Overrides::default());
    resolve::file(path, &text, (&overrides, known), &|name| std::env::var(name), false)
}

/// The quick form, without a file: one kind of worker, named after its command.
///
/// # Errors
///
/// [`Error::Usage`] for an empty command, [`Error::Mistakes`] with each mistake.
pub(crate) fn quick(command: Vec<String>, overrides: &Overrides) -> Result<Loaded, Error> {
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::Usage("the command is empty: name a program after \"--\"".into()));
    }
    resolve::quick(Run::Command(command), (overrides, &Known::default()))
}

/// The quick form with a function: the one that is named, or the only one there is.
///
/// # Errors
///
/// [`Error::Usage`] if it is not clear which one is meant, [`Error::Config`] with a line for each
/// mistake.
pub(crate) fn quick_function(
    name: Option<&str>,
    overrides: &Overrides,
    known: &Known,
) -> Result<Loaded, Error> {
    let allowed: Vec<(&str, &str)> =
        known.functions.iter().map(|it| (it.name.as_str(), it.name.as_str())).collect();
    let name = match (name, allowed.as_slice()) {
        (Some(name), allowed) => values::word(name, allowed)
            .map_err(|wrong| Error::Usage(format!("--function: {wrong}")))?,
        (None, [(only, _)]) => only,
        (None, _) => {
            let names: Vec<&str> = allowed.iter().map(|(name, _)| *name).collect();
            return Err(Error::Usage(format!(
                "there are several functions: name a configuration file, or one of them with \
                 --function: {}",
                names.join(", ")
            )));
        }
    };
    resolve::quick(Run::Function(name.to_owned()), (overrides, known))
}

impl Resolver<'_> {
    /// The tables of a file; `None` if its syntax is wrong.
    fn document(&mut self, text: &str) -> Option<tables::RawConfig> {
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            self.syntax(text, &errors);
            return None;
        }
        let value = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
        let origin = Origin::missing("", &Field::<()>::Missing);
        reader::table(self, &value, &origin)
    }

    /// Notes the first mistake of each line: the others there mostly follow from it.
    fn syntax(&mut self, text: &str, errors: &[toml::de::Error]) {
        let mut lines = Vec::new();
        for error in errors {
            let bytes = error.span();
            let before = &text.as_bytes()[..bytes.as_ref().map_or(0, |bytes| bytes.start)];
            let line = before.iter().filter(|byte| **byte == b'\n').count();
            if lines.contains(&line) || lines.len() == SYNTAX_MISTAKES_MAX {
                continue;
            }
            lines.push(line);
            let message = error.message().trim_end().replace('\n', ", ");
            let wrong = match message.split_once(", expected ") {
                Some((what, expected)) => Wrong::new(what).allowed(expected.replace('`', "")),
                None => Wrong::new(message),
            };
            self.syntax_mistake(bytes, wrong);
        }
    }
}

/// Behind so many mistakes of syntax, others are guesses.
const SYNTAX_MISTAKES_MAX: usize = 10;

#[cfg(test)]
mod mistake_tests;
#[cfg(test)]
mod tests;
