//! [`RawConfig`] to [`Config`]: variables, ranges, defaults and the options of the command line.
//!
//! A helper that meets a mistake notes it and answers `None`, as for a key that is not there.
//! The caller then goes on with the default, which is never used: one mistake is enough for no
//! [`Config`] to come out, and going on is how the others are found.

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use ::log::LevelFilter;
use toml::Spanned;

use super::super::{Buffer, Config, Format, Log, LogFormat, Restart, Run, Shutdown, Spool, Worker};
use super::files::{UsedFile, same_files};
use super::known::Known;
use super::values::{self, Amount, Environment};
use super::worker::Kinds;
use super::{
    Field, Loaded, Overrides, RawBuffer, RawConfig, RawLog, RawRestart, RawShutdown, RawSpool,
    place,
};
use crate::error::Error;

/// What a setting came from: the key or option that names it, and its place.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) label: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// These bytes of the file.
    Bytes(Range<usize>),
    /// The file, since what is meant is not in it.
    File,
    /// An option of the command line.
    Option,
}

impl Origin {
    pub(super) fn key(label: &str, span: Range<usize>) -> Origin {
        Origin { label: label.to_owned(), place: Place::Bytes(span) }
    }

    pub(super) fn file(label: &str) -> Origin {
        Origin { label: label.to_owned(), place: Place::File }
    }

    pub(super) fn option(label: &str) -> Origin {
        Origin { label: label.to_owned(), place: Place::Option }
    }
}

/// Resolves the settings of a file.
pub(super) fn file(
    path: &Path,
    text: &str,
    raw: RawConfig,
    (overrides, known): (&Overrides, &Known),
    environment: Environment<'_>,
) -> Result<Loaded, Error> {
    let mut resolver = Resolver {
        file: Some((path, text)),
        overrides,
        known,
        environment,
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    let kinds = resolver.workers(&raw);
    let name = stem(path);
    resolver.config(&raw, kinds, Some(name))
}

/// Resolves the quick form: a command or a function, all else from options and defaults.
pub(super) fn quick(run: Run, (overrides, known): (&Overrides, &Known)) -> Result<Loaded, Error> {
    let resolver = Resolver {
        file: None,
        overrides,
        known,
        environment: &|name| std::env::var(name),
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    let take_jobs = match &run {
        Run::Function(name) => known.takes_jobs(name),
        _ => true,
    };
    let name = match &run {
        Run::Command(command) | Run::Coprocess(command) => {
            values::tame(&stem(Path::new(&command[0])), 64)
        }
        Run::Function(name) => values::tame(name, 64),
    };
    let mut worker = Worker::new(name, run);
    if !take_jobs {
        (worker.processes, worker.threads) = (1, 1);
    }
    resolver.override_worker(&mut worker);
    resolver.config(&RawConfig::default(), Kinds { workers: Some(vec![worker]), take_jobs }, None)
}

/// A path's last part without its extension, as a name.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
    match values::tame(&stem, 255) {
        name if name.is_empty() => "procsig".to_owned(),
        name => name,
    }
}

pub(super) struct Resolver<'a> {
    /// Path and text of the file; `None` in the quick form.
    file: Option<(&'a Path, &'a str)>,
    pub(super) overrides: &'a Overrides,
    pub(super) known: &'a Known,
    environment: Environment<'a>,
    /// Each with the byte of the file where it is, to tell them in that order.
    mistakes: Vec<(usize, String)>,
    pub(super) warnings: Vec<String>,
}

/// Noting mistakes, and reading single values.
impl Resolver<'_> {
    pub(super) fn mistake(&mut self, origin: &Origin, message: &str) {
        let line = format!("{}: {message}", origin.label);
        let (byte, line) = match (&origin.place, self.file) {
            (Place::Bytes(span), Some((path, text))) => {
                (span.start, place(path, text, Some(span.clone()), &line))
            }
            (Place::File, Some((path, text))) => (0, place(path, text, None, &line)),
            (Place::Option, _) | (_, None) => (0, line),
        };
        self.mistakes.push((byte, line));
    }

    pub(super) fn noted<T>(&mut self, origin: &Origin, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.mistake(origin, &message)).ok()
    }

    pub(super) fn without_effect(&mut self, key: &str, consequence: &str) {
        self.warnings.push(format!("{key} has no effect yet in this version: {consequence}"));
    }

    /// A text with its variables replaced.
    pub(super) fn string(&mut self, key: &str, value: &Spanned<String>) -> Option<String> {
        let origin = Origin::key(key, value.span());
        let text = values::interpolate(value.get_ref(), self.environment);
        let text = self.noted(&origin, text)?;
        // The system ends each text at a NUL byte, so a path or an argument would be cut there.
        let text = match text.contains('\0') {
            true => Err("a NUL character is not allowed".to_owned()),
            false => Ok(text),
        };
        self.noted(&origin, text)
    }

    /// A text that stands for something else.
    pub(super) fn parsed<T>(
        &mut self,
        key: &str,
        field: &Field<String>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = field.as_ref()?;
        let text = self.string(key, value)?;
        self.noted(&Origin::key(key, value.span()), parse(&text))
    }

    pub(super) fn size<T: TryFrom<u64>>(
        &mut self,
        key: &str,
        field: &Field<Amount>,
        allowed: RangeInclusive<u64>,
    ) -> Option<T> {
        let value = field.as_ref()?;
        let written = Spanned::new(value.span(), value.get_ref().0.clone());
        let text = self.string(key, &written)?;
        let size = values::size(&text, &allowed);
        self.noted(&Origin::key(key, value.span()), size)?.try_into().ok()
    }

    pub(super) fn number<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        field: &Field<i64>,
        allowed: RangeInclusive<i64>,
    ) -> Option<T> {
        let value = field.as_ref()?;
        let number = values::whole(*value.get_ref(), &allowed);
        self.noted(&Origin::key(key, value.span()), number)?.try_into().ok()
    }

    /// A path, relative to the file's folder.
    pub(super) fn path(&mut self, key: &str, field: &Field<String>) -> Option<(PathBuf, Origin)> {
        let path = self.parsed(key, field, |text| match text {
            "" => Err("the path is empty".to_owned()),
            path => Ok(PathBuf::from(path)),
        })?;
        let origin = Origin::key(key, field.as_ref()?.span());
        Some((self.beside_file(&path), origin))
    }

    pub(super) fn beside_file(&self, path: &Path) -> PathBuf {
        let folder = self.file.and_then(|(file, _)| file.parent()).unwrap_or(Path::new(""));
        folder.join(path)
    }
}

/// The tables of the file, one method each.
impl Resolver<'_> {
    fn config(
        mut self,
        raw: &RawConfig,
        kinds: Kinds,
        default_name: Option<String>,
    ) -> Result<Loaded, Error> {
        let name = self.parsed("name", &raw.name, pipeline_name);
        let mut files = Vec::new();
        let (jobs, jobs_by_default) = if kinds.take_jobs {
            let (jobs, by_default) = self.jobs(raw.jobs.as_ref(), &mut files);
            (Some(jobs), by_default)
        } else {
            self.refuse_jobs(raw);
            (None, false)
        };
        let output = self.output(&raw.output, kinds.workers.as_deref(), &mut files);
        let buffer = self.buffer(&raw.buffer);
        let dead_letters = self.dead_letters(raw, &mut files);
        let shutdown = self.shutdown(&raw.shutdown);
        let restart = self.restart(&raw.restart);
        let mut spool = self.spool(&raw.spool, &mut files);
        let name = name.or(default_name).unwrap_or_else(|| stem(&output.file));
        if matches!(output.format, Format::Own(_)) && spool.file.is_none() {
            // There is no output beside which it could be.
            let name = name.replace('/', "_");
            spool.file = Some(self.beside_file(Path::new(&format!(".{name}.spool"))));
        }
        let log = self.log(&raw.log, &mut files);
        if let Some((path, _)) = self.file {
            files.insert(0, UsedFile::new(Origin::file("the configuration"), path));
        }
        for (origin, message) in same_files(&files) {
            self.mistake(&origin, &message);
        }
        match kinds.workers {
            Some(workers) if self.mistakes.is_empty() => Ok(Loaded {
                config: Config {
                    name,
                    jobs,
                    workers,
                    buffer,
                    output,
                    dead_letters,
                    shutdown,
                    restart,
                    spool,
                    log,
                    fresh: self.overrides.fresh,
                },
                warnings: self.warnings,
                jobs_by_default,
            }),
            _ => {
                self.mistakes.sort_by_key(|(byte, _)| *byte);
                let lines: Vec<String> = self.mistakes.into_iter().map(|(_, line)| line).collect();
                Err(Error::Config(lines.join("\n")))
            }
        }
    }

    /// A list that nobody would take.
    fn refuse_jobs(&mut self, raw: &RawConfig) {
        let given = if raw.jobs.is_some() {
            Origin::file("jobs")
        } else if self.overrides.jobs.is_some() {
            Origin::option("--jobs")
        } else if self.overrides.every.is_some() {
            Origin::option("--every")
        } else {
            return;
        };
        self.mistake(&given, "no worker takes jobs: each of them is a producer");
    }

    fn buffer(&mut self, raw: &RawBuffer) -> Buffer {
        let default = Buffer::default();
        Buffer {
            flush_records: self
                .number("buffer.flush_records", &raw.flush_records, 1..=i64::MAX)
                .unwrap_or(default.flush_records),
            flush_bytes: self
                .size("buffer.flush_bytes", &raw.flush_bytes, 1..=u64::MAX)
                .unwrap_or(default.flush_bytes),
            flush_after: self
                .parsed("buffer.flush_after", &raw.flush_after, values::positive_duration)
                .unwrap_or(default.flush_after),
        }
    }

    fn shutdown(&mut self, raw: &RawShutdown) -> Shutdown {
        let default = Shutdown::default();
        let deadline = self.parsed("shutdown.deadline", &raw.deadline, values::positive_duration);
        let deadline = self.overrides.deadline.or(deadline).unwrap_or(default.deadline);
        const RESERVE: &str = "shutdown.flush_reserve";
        let explicit = self.parsed(RESERVE, &raw.flush_reserve, values::positive_duration);
        let flush_reserve = match (explicit, &raw.flush_reserve) {
            (Some(reserve), Some(field)) => {
                if reserve >= deadline {
                    let message = format!(
                        "it must be less than the deadline of {deadline:?}, of which it is the \
                         last part"
                    );
                    self.mistake(&Origin::key(RESERVE, field.span()), &message);
                }
                reserve
            }
            // A short deadline says nothing about its parts: workers get three quarters of it.
            _ if deadline <= default.flush_reserve => deadline / 4,
            _ => default.flush_reserve,
        };
        Shutdown { deadline, flush_reserve }
    }

    fn restart(&mut self, raw: &RawRestart) -> Restart {
        let default = Restart::default();
        Restart {
            max: self
                .number("restart.max", &raw.max, 0..=i64::from(u32::MAX))
                .unwrap_or(default.max),
            within: self
                .parsed("restart.within", &raw.within, values::positive_duration)
                .unwrap_or(default.within),
        }
    }

    fn spool(&mut self, raw: &RawSpool, files: &mut Vec<UsedFile>) -> Spool {
        let default = Spool::default();
        let file = self.path("spool.file", &raw.file);
        let file = match &self.overrides.spool {
            Some(path) => Some((path.clone(), Origin::option("--spool"))),
            None => file,
        };
        let file = file.map(|(path, origin)| {
            files.push(UsedFile::new(origin, &path));
            path
        });
        let lane: Option<u64> = self.size("spool.lane", &raw.lane, 64 << 10..=1 << 30);
        Spool {
            file,
            // A power of two from 64 KiB on is a multiple of 64 KiB: whole pages anywhere.
            lane: lane.map(u64::next_power_of_two),
            jobs: self.number("spool.jobs", &raw.jobs, 1..=1 << 20).unwrap_or(default.jobs),
            job_bytes: self
                .size("spool.job_bytes", &raw.job_bytes, 64..=1 << 20)
                .unwrap_or(default.job_bytes),
        }
    }

    fn log(&mut self, raw: &RawLog, files: &mut Vec<UsedFile>) -> Log {
        let default = Log::default();
        let level = self.parsed("log.level", &raw.level, log_level);
        let format = self.parsed("log.format", &raw.format, log_format);
        let file = self.path("log.file", &raw.file);
        let file = match &self.overrides.log_file {
            Some(path) => Some((path.clone(), Origin::option("--log-file"))),
            None => file,
        };
        let file = file.map(|(path, origin)| {
            files.push(UsedFile::new(origin, &path));
            path
        });
        Log {
            level: self.overrides.log_level.or(level).unwrap_or(default.level),
            format: self.overrides.log_format.or(format).unwrap_or(default.format),
            file,
        }
    }
}

fn pipeline_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || text.contains(char::is_control) {
        return Err("1 to 255 bytes without control characters are allowed".to_owned());
    }
    Ok(text.to_owned())
}

fn log_level(text: &str) -> Result<LevelFilter, String> {
    let levels = LevelFilter::iter().map(|level| (level.as_str().to_lowercase(), level));
    let levels: Vec<(String, LevelFilter)> = levels.collect();
    let words: Vec<(&str, LevelFilter)> =
        levels.iter().map(|(name, level)| (name.as_str(), *level)).collect();
    values::word(text, &words)
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    values::word(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}
