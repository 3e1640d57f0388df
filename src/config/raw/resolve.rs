//! [`RawConfig`] to [`Config`]: variables, ranges, defaults and the options of the command line.
//!
//! A helper that meets a mistake notes it and answers `None`, as for a key that is not there.
//! The caller then goes on with the default, which is never used: one mistake is enough for no
//! [`Config`] to come out, and going on is how the others are found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::log::LevelFilter;

use super::super::{Buffer, Config, Format, Log, LogFormat, Restart, Run, Shutdown, Spool, Worker};
use super::files::{UsedFile, same_files};
use super::known::Known;
use super::reader::{Field, Origin};
use super::tables::{RawBuffer, RawConfig, RawLog, RawRestart, RawShutdown, RawSpool};
use super::values::{self, Environment};
use super::worker::Kinds;
use super::{Loaded, Overrides};
use crate::error::{Error, Mistake, Mistakes, Wrong};

/// Reads and resolves the settings of a file.
pub(super) fn file(
    path: &Path,
    text: &str,
    (overrides, known): (&Overrides, &Known),
    environment: Environment<'_>,
    strict: bool,
) -> Result<Loaded, Error> {
    let mut resolver = Resolver {
        source: Some((path, text)),
        overrides,
        known,
        environment,
        strict,
        unusable: BTreeSet::new(),
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    let Some(raw) = resolver.document(text) else { return Err(resolver.refusal()) };
    let kinds = resolver.workers(&raw);
    let name = stem(path);
    resolver.config(&raw, kinds, Some(name))
}

/// Resolves the quick form: a command or a function, all else from options and defaults.
pub(super) fn quick(run: Run, (overrides, known): (&Overrides, &Known)) -> Result<Loaded, Error> {
    let mut resolver = Resolver {
        source: None,
        overrides,
        known,
        environment: &|name| std::env::var(name),
        strict: true,
        unusable: BTreeSet::new(),
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
    if let Run::Command(command) | Run::Coprocess(command) = &run {
        let origin = Origin::option("the command");
        resolver.program(command, &BTreeMap::new(), (&origin, &origin));
    }
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
    pub(super) source: Option<(&'a Path, &'a str)>,
    pub(super) overrides: &'a Overrides,
    pub(super) known: &'a Known,
    pub(super) environment: Environment<'a>,
    /// What is named has to be there.
    pub(super) strict: bool,
    /// Keys whose values can't be used: one mistake in each is enough.
    pub(super) unusable: BTreeSet<String>,
    mistakes: Vec<Mistake>,
    warnings: Vec<Mistake>,
}

/// Noting what is wrong.
impl Resolver<'_> {
    pub(super) fn mistake(&mut self, origin: &Origin, wrong: impl Into<Wrong>) {
        let wrong = wrong.into();
        let is_said = self.unusable.contains(&origin.label);
        if is_said || (wrong.outside && !self.strict) {
            return;
        }
        let mistake = self.note(origin, wrong);
        self.mistakes.push(mistake);
    }

    /// What is accepted, and does something else than its user may think.
    pub(super) fn warning(&mut self, origin: &Origin, what: impl Into<Wrong>) {
        let warning = self.note(origin, what.into());
        self.warnings.push(warning);
    }

    pub(super) fn noted<T>(&mut self, origin: &Origin, result: Result<T, Wrong>) -> Option<T> {
        result.map_err(|wrong| self.mistake(origin, wrong)).ok()
    }

    /// Was one of these keys probably meant by one that is not known? Then it is not missing.
    pub(super) fn is_meant(&self, table: &str, keys: &[&str]) -> bool {
        self.mistakes.iter().any(|mistake| {
            let is_near = mistake.wrong.suggestion.as_deref().is_some_and(|it| keys.contains(&it));
            let folder = mistake.key.rsplit_once('.').map_or("", |(folder, _)| folder);
            is_near && folder == table
        })
    }

    fn note(&self, origin: &Origin, wrong: Wrong) -> Mistake {
        let bytes = origin.bytes.clone().filter(|_| self.source.is_some());
        Mistake { key: origin.label.clone(), wrong, bytes }
    }

    pub(super) fn syntax_mistake(&mut self, bytes: Option<std::ops::Range<usize>>, wrong: Wrong) {
        self.mistakes.push(Mistake { key: String::new(), wrong, bytes });
    }

    fn refusal(self) -> Error {
        Error::Mistakes(Mistakes::new(self.source, self.mistakes))
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
        let mut files = Vec::new();
        let (jobs, jobs_by_default) = if kinds.take_jobs {
            let (jobs, by_default) = self.jobs(&raw.jobs, &mut files);
            (Some(jobs), by_default)
        } else {
            self.refuse_jobs(raw);
            (None, false)
        };
        let output = self.output(&raw.output, kinds.workers.as_deref(), &mut files);
        let buffer = buffer(raw.buffer.get());
        let dead_letters = self.dead_letters(raw, &mut files);
        let shutdown = self.shutdown(&raw.shutdown);
        let restart = restart(raw.restart.get());
        let mut spool = self.spool(&raw.spool, &mut files);
        self.lanes(raw, (&spool, kinds.workers.as_deref().unwrap_or_default()));
        let name = raw.name.get().cloned().or(default_name).unwrap_or_else(|| stem(&output.file));
        if matches!(output.format, Format::Own(_)) && spool.file.is_none() {
            // There is no output beside which it could be.
            let name = name.replace('/', "_");
            spool.file = Some(self.beside_file(Path::new(&format!(".{name}.spool"))));
        } else if spool.file.is_none() {
            self.default_spool(raw, &output.file, &mut files);
        }
        let log = self.log(&raw.log, &mut files);
        let privileges = self.privileges(&raw.privileges);
        if let Some((path, _)) = self.source {
            let origin = Origin::missing::<()>("the configuration", &Field::Missing);
            files.insert(0, UsedFile::new(origin, path));
        }
        for (origin, message) in same_files(&files) {
            self.mistake(&origin, message);
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
                    privileges,
                    fresh: self.overrides.fresh,
                },
                warnings: Mistakes::new(self.source, self.warnings),
                jobs_by_default,
            }),
            _ => Err(self.refusal()),
        }
    }

    /// A list that nobody would take.
    fn refuse_jobs(&mut self, raw: &RawConfig) {
        let given = if let Some(origin) = raw.jobs.origin() {
            origin.at_name()
        } else if self.overrides.jobs.is_some() {
            Origin::option("--jobs")
        } else if self.overrides.every.is_some() {
            Origin::option("--every")
        } else {
            return;
        };
        self.mistake(&given, "no worker takes jobs: each of them is a producer");
    }

    fn shutdown(&mut self, table: &Field<RawShutdown>) -> Shutdown {
        let default = Shutdown::default();
        let nothing = RawShutdown::default();
        let raw = table.get().unwrap_or(&nothing);
        let deadline = self.overrides.deadline.or(raw.deadline.get().copied());
        let deadline = deadline.unwrap_or(default.deadline);
        // A short deadline says nothing about its parts: workers get three quarters of it.
        let quarter = deadline / 4;
        let Some((reserve, origin)) = raw.flush_reserve.with_origin() else {
            let is_short = deadline <= default.flush_reserve;
            let flush_reserve = if is_short { quarter } else { default.flush_reserve };
            return Shutdown { deadline, flush_reserve };
        };
        let is_deadline_unusable = raw.deadline.is_given() && raw.deadline.get().is_none();
        if *reserve >= deadline && self.overrides.deadline.is_some() {
            let what = format!("{reserve:?} is not less than the --deadline of {deadline:?}");
            let help = format!("a quarter of it, {quarter:?}, is kept for the flush");
            self.warning(origin, Wrong::new(what).help(help));
            return Shutdown { deadline, flush_reserve: quarter };
        }
        if *reserve >= deadline && !is_deadline_unusable {
            let wrong = Wrong::of(format!("{reserve:?}"), "is not less than the deadline")
                .allowed(format!("less than the deadline of {deadline:?}, of which it is the end"));
            self.mistake(origin, wrong);
        }
        Shutdown { deadline, flush_reserve: *reserve }
    }

    fn spool(&mut self, table: &Field<RawSpool>, files: &mut Vec<UsedFile>) -> Spool {
        let default = Spool::default();
        let nothing = RawSpool::default();
        let raw = table.get().unwrap_or(&nothing);
        let file = named_file(&raw.file, (&self.overrides.spool, "--spool"));
        Spool {
            file: file.map(|(path, origin)| {
                self.written(files, &origin, &path);
                path
            }),
            // A power of two from 64 KiB on is a multiple of 64 KiB: whole pages anywhere.
            lane: raw.lane.get().map(|bytes| bytes.next_power_of_two()),
            jobs: raw.jobs.get().copied().unwrap_or(default.jobs),
            job_bytes: raw.job_bytes.get().copied().unwrap_or(default.job_bytes),
        }
    }

    /// The spool that nobody has named, beside the output.
    fn default_spool(&mut self, raw: &RawConfig, output: &Path, files: &mut Vec<UsedFile>) {
        let origin = raw.output.get().and_then(|output| output.file.origin());
        let special = std::fs::metadata(output).is_ok_and(|it| !it.is_file() && !it.is_dir());
        if special && let Some(origin) = origin.filter(|_| self.overrides.output.is_none()) {
            let wrong = Wrong::new("this is no regular file, so the spool can't be beside it")
                .help(
                    "name it: [spool] file = \"...\". Such an output can't be compared with what was \
                     written: after a crash a batch may be in it twice",
                );
            self.mistake(origin, wrong.outside());
        }
        if let Some(name) = output.file_name() {
            let name = format!(".{}.spool", name.to_string_lossy());
            let origin = Origin::missing("the spool beside the output", &Field::<()>::Missing);
            files.push(UsedFile::new(origin, &output.with_file_name(name)));
        }
    }

    /// Is there room in a lane for what it has to hold?
    fn lanes(&mut self, raw: &RawConfig, (spool, workers): (&Spool, &[Worker])) {
        let Some(raw) = raw.spool.get() else { return };
        let lanes: u64 = workers.iter().map(|worker| u64::from(worker.processes)).sum();
        let (bytes, least) = (spool.lane_bytes(lanes), spool.lane_bytes_min());
        let sizes = [&raw.lane.origin(), &raw.job_bytes.origin()];
        let Some(origin) = sizes.into_iter().flatten().next() else { return };
        if bytes < least {
            let wrong = Wrong::new(format!(
                "a lane of {bytes} bytes is too small for jobs of up to {} bytes",
                spool.job_bytes
            ));
            let wrong = wrong.allowed(format!("a lane of {least} bytes or more for such jobs"));
            self.mistake(origin, wrong.help("change spool.lane or spool.job_bytes"));
        }
        let Some(lane) = raw.lane.origin() else { return };
        let has_room = |worker: &&Worker| 2 * worker.max_output < bytes;
        let is_command = |worker: &&Worker| matches!(worker.run, Run::Command(_));
        if let Some(worker) = workers.iter().filter(is_command).find(|worker| !has_room(worker)) {
            let what = format!("a lane of {bytes} bytes can be too small for one result");
            let help = format!(
                "workers.{}.max_output allows {} bytes of standard output and as many of standard \
                 error; of more than fits the rest is cut off, and marked as cut",
                worker.name, worker.max_output
            );
            let what = Wrong::new(what).help(help);
            self.warning(lane, what);
        }
    }

    fn log(&mut self, table: &Field<RawLog>, files: &mut Vec<UsedFile>) -> Log {
        let default = Log::default();
        let nothing = RawLog::default();
        let raw = table.get().unwrap_or(&nothing);
        let file = named_file(&raw.file, (&self.overrides.log_file, "--log-file"));
        Log {
            level: self.overrides.log_level.or(raw.level.get().copied()).unwrap_or(default.level),
            format: self
                .overrides
                .log_format
                .or(raw.format.get().copied())
                .unwrap_or(default.format),
            file: file.map(|(path, origin)| {
                self.written(files, &origin, &path);
                path
            }),
        }
    }
}

/// A file that an option or a key names.
pub(super) fn named_file(
    key: &Field<PathBuf>,
    (option, name): (&Option<PathBuf>, &str),
) -> Option<(PathBuf, Origin)> {
    match option {
        Some(path) => Some((path.clone(), Origin::option(name))),
        None => key.with_origin().map(|(path, origin)| (path.clone(), origin.clone())),
    }
}

fn buffer(raw: Option<&RawBuffer>) -> Buffer {
    let default = Buffer::default();
    let Some(raw) = raw else { return default };
    Buffer {
        flush_records: raw.flush_records.get().copied().unwrap_or(default.flush_records),
        flush_bytes: raw.flush_bytes.get().copied().unwrap_or(default.flush_bytes),
        flush_after: raw.flush_after.get().copied().unwrap_or(default.flush_after),
    }
}

fn restart(raw: Option<&RawRestart>) -> Restart {
    let default = Restart::default();
    let Some(raw) = raw else { return default };
    Restart {
        max: raw.max.get().copied().unwrap_or(default.max),
        within: raw.within.get().copied().unwrap_or(default.within),
    }
}

pub(super) fn pipeline_name(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.len() > 255 || text.contains(char::is_control) {
        return Err(Wrong::of(format!("{text:?}"), "can't be a name")
            .allowed("1 to 255 bytes without control characters"));
    }
    Ok(text.to_owned())
}

pub(super) fn log_level(text: &str) -> Result<LevelFilter, Wrong> {
    let levels = LevelFilter::iter().map(|level| (level.as_str().to_lowercase(), level));
    let levels: Vec<(String, LevelFilter)> = levels.collect();
    let words: Vec<(&str, LevelFilter)> =
        levels.iter().map(|(name, level)| (name.as_str(), *level)).collect();
    values::word(text, &words)
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, Wrong> {
    values::word(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}
