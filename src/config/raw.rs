//! The settings as they are written: the TOML file and the command line, read into a [`Config`].
//!
//! A file is read in three steps. [`parse`] turns text into [`RawConfig`], which keeps each value
//! with its place in the file and rejects what is no key or of the wrong type. [`resolve`]
//! replaces variables, checks ranges, applies defaults and the options of the command line
//! ([`Overrides`]), and gathers every mistake on its way. Only a file without any mistake
//! becomes a [`Config`].
//!
//! Each mistake is one line, `FILE:LINE:COLUMN: KEY: what is wrong and what is allowed`.

mod files;
mod jobs;
mod known;
mod output;
mod resolve;
mod values;
mod worker;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Config, Lines, LogFormat, Run};
use crate::error::Error;

pub(crate) use known::{Known, KnownFunction, KnownSink, KnownSource};
use values::Amount;
pub(crate) use values::positive_duration;

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
    /// What was accepted but does nothing; one line each, for the log.
    pub(crate) warnings: Vec<String>,
    /// Nobody named a list of jobs, so standard input is it. A caller that is about to run
    /// must refuse this when standard input is a terminal.
    pub(crate) jobs_by_default: bool,
}

/// Reads a configuration file. Starts, creates and locks nothing.
///
/// # Errors
///
/// [`Error::Config`] with a line for each mistake.
pub(crate) fn load(path: &Path, overrides: &Overrides, known: &Known) -> Result<Loaded, Error> {
    let bytes = std::fs::read(path).map_err(|error| {
        Error::Config(format!("{}: the configuration can't be read: {error}", path.display()))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let (line, column) = position(&String::from_utf8_lossy(valid), valid.len());
        Error::Config(format!("{}:{line}:{column}: this is not valid UTF-8", path.display()))
    })?;
    let raw = parse(path, &text)?;
    resolve::file(path, &text, raw, (overrides, known), &|name| std::env::var(name))
}

/// The quick form, without a file: one kind of worker, named after its command.
///
/// # Errors
///
/// [`Error::Usage`] for an empty command, [`Error::Config`] with a line for each mistake.
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
            .map_err(|message| Error::Usage(format!("--function: {message}")))?,
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

/// A value that may be missing, with its place in the file.
type Field<T> = Option<Spanned<T>>;

/// The file as written. `None` is a key that is not there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawConfig {
    name: Field<String>,
    jobs: Option<RawJobs>,
    workers: BTreeMap<Spanned<String>, RawWorker>,
    buffer: RawBuffer,
    output: RawOutput,
    dead_letters: Option<RawDeadLetters>,
    shutdown: RawShutdown,
    restart: RawRestart,
    spool: RawSpool,
    log: RawLog,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawJobs {
    source: Field<String>,
    lines: Field<String>,
    directory: Field<String>,
    once: Field<bool>,
    every: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawWorker {
    command: Field<Vec<Spanned<String>>>,
    function: Field<String>,
    coprocess: Field<Vec<Spanned<String>>>,
    processes: Field<i64>,
    threads: Field<i64>,
    timeout: Field<String>,
    attempts: Field<i64>,
    retry_delay: Field<String>,
    max_output: Field<Amount>,
    env: BTreeMap<Spanned<String>, Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawBuffer {
    flush_records: Field<i64>,
    flush_bytes: Field<Amount>,
    flush_after: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawOutput {
    file: Field<String>,
    sink: Field<String>,
    format: Field<String>,
    columns: Field<Vec<Spanned<String>>>,
    table: Field<String>,
    sync: Field<String>,
    rotate_bytes: Field<Amount>,
    rotate_every: Field<String>,
    keep: Field<i64>,
    compress: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawDeadLetters {
    file: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawShutdown {
    deadline: Field<String>,
    flush_reserve: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawRestart {
    max: Field<i64>,
    within: Field<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSpool {
    file: Field<String>,
    lane: Field<Amount>,
    jobs: Field<i64>,
    job_bytes: Field<Amount>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLog {
    level: Field<String>,
    format: Field<String>,
    file: Field<String>,
}

/// Text to [`RawConfig`]; stops at the first mistake.
fn parse(path: &Path, text: &str) -> Result<RawConfig, Error> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let message = rephrase(error.message());
        Error::Config(place(path, text, error.span(), &message))
    })
}

/// Says in the user's words what serde says in Rust's, and adds a suggestion for an unknown key.
fn rephrase(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message
            .replace("expected i64", "expected a whole number")
            .replace("expected a map", "expected a table")
            .replace("expected a sequence", "expected an array")
            .trim_end()
            .replace('\n', ", ");
    };
    // `unknown field `KEY`, expected one of `A`, `B``: a key may itself contain a backtick, so
    // it ends where the list begins.
    let (key, list) = rest.rsplit_once("`, expected").unwrap_or((rest, ""));
    let allowed: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    let suggestion = values::near_miss(key, &allowed).map(|text| format!(", {text}"));
    format!(
        "unknown key {key:?}{} The keys here are {}",
        suggestion.unwrap_or_else(|| ".".into()),
        allowed.join(", ")
    )
}

/// `FILE:LINE:COLUMN: message`; without a place `FILE: message`.
fn place(path: &Path, text: &str, span: Option<Range<usize>>, message: &str) -> String {
    match span {
        Some(span) => {
            let (line, column) = position(text, span.start);
            format!("{}:{line}:{column}: {message}", path.display())
        }
        None => format!("{}: {message}", path.display()),
    }
}

/// Line and column of a byte, both from 1, the column in characters, as editors count.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
    (line, 1 + before[line_start..].chars().count())
}

#[cfg(test)]
mod tests;
