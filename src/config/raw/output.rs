//! The `[output]` and `[dead_letters]` tables.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::{Format, Output, Run, SyncPolicy, Worker};
use super::files::UsedFile;
use super::known::KnownSink;
use super::reader::{Field, Origin};
use super::resolve::{Resolver, named_file};
use super::tables::{RawConfig, RawOutput};
use super::values;
use crate::error::Wrong;

/// The output if nobody names one.
const OUTPUT_DEFAULT: &str = "results.jsonl";

/// The columns of the results of commands, if nobody names others.
const COMMAND_COLUMNS: [&str; 14] = [
    "job",
    "seq",
    "round",
    "ok",
    "exit",
    "signal",
    "timed_out",
    "stdout",
    "stderr",
    "error",
    "attempt",
    "worker",
    "started",
    "seconds",
];

/// A format as its word says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Json,
    Csv,
    Lines,
    Postcard,
    Sqlite,
}

impl Resolver<'_> {
    pub(super) fn output(
        &mut self,
        table: &Field<RawOutput>,
        workers: Option<&[Worker]>,
        files: &mut Vec<UsedFile>,
    ) -> Output {
        let nothing = RawOutput::default();
        let raw = table.get().unwrap_or(&nothing);
        if let Some((name, origin)) = raw.sink.with_origin() {
            return self.own_sink((name, origin), raw, workers);
        }
        let format = self.format(table, raw, workers);
        let name = match &format {
            Format::Csv { .. } => "results.csv",
            Format::Lines => "results.txt",
            Format::Postcard => "results.postcard",
            Format::Sqlite { .. } => "results.db",
            Format::JsonLines | Format::Own(_) => OUTPUT_DEFAULT,
        };
        let file = named_file(&raw.file, (&self.overrides.output, "--output"));
        let (path, origin) = file.unwrap_or_else(|| {
            let origin = Origin::missing("output.file", &Field::<()>::Missing);
            (self.beside_file(Path::new(name)), origin)
        });
        self.written(files, &origin, &path);
        let mut output = Output { format, ..Output::new(path) };
        if matches!(output.format, Format::Sqlite { .. }) {
            // A transaction is forced to the disk in any case.
            output.sync = SyncPolicy::Always;
        }
        output.sync = raw.sync.get().copied().unwrap_or(output.sync);
        output.rotation = self.rotation(raw, &output.format);
        output
    }

    /// A sink that the program has registered.
    fn own_sink(
        &mut self,
        (name, origin): (&str, &Origin),
        raw: &RawOutput,
        workers: Option<&[Worker]>,
    ) -> Output {
        let others = [
            raw.file.origin(),
            raw.format.origin(),
            raw.columns.origin(),
            raw.table.origin(),
            raw.rotate_bytes.origin(),
            raw.rotate_every.origin(),
            raw.keep.origin(),
            raw.compress.origin(),
        ];
        for other in others.into_iter().flatten() {
            let message = format!("{} is for files: drop it, or this key", other.label);
            self.mistake(origin, message);
        }
        if self.overrides.output.is_some() {
            self.mistake(origin, "--output names a file: drop it, or this key");
        }
        let is_function = |worker: &Worker| matches!(worker.run, Run::Function(_));
        if !workers.is_none_or(|workers| workers.iter().all(is_function)) {
            self.mistake(origin, "only records of functions can go to a sink of the program's own");
        }
        let known = self.known;
        let known = self.noted(origin, known.sink(name));
        for worker in workers.unwrap_or_default() {
            self.refuse_records(worker, known, origin);
        }
        let output = known.map(|known| known.output.clone());
        let mut output = output.unwrap_or_else(|| Output::new(OUTPUT_DEFAULT));
        output.sync = raw.sync.get().copied().unwrap_or(output.sync);
        output
    }

    /// Does the sink take what this worker's function emits?
    fn refuse_records(&mut self, worker: &Worker, sink: Option<&KnownSink>, origin: &Origin) {
        let Run::Function(function) = &worker.run else { return };
        let (Some(emitted), Some(sink)) = (self.known.record_of(function), sink) else { return };
        if emitted != sink.record {
            let what = format!(
                "the sink takes {}, and the function {function:?} of workers.{} emits {emitted}",
                sink.record, worker.name
            );
            self.mistake(origin, what);
        }
    }

    pub(super) fn dead_letters(
        &mut self,
        raw: &RawConfig,
        files: &mut Vec<UsedFile>,
    ) -> Option<PathBuf> {
        let (path, origin) = raw.dead_letters.get()?.file.with_origin()?;
        self.written(files, origin, path);
        Some(path.clone())
    }

    fn format(
        &mut self,
        table: &Field<RawOutput>,
        raw: &RawOutput,
        workers: Option<&[Worker]>,
    ) -> Format {
        let unusable = raw.format.is_given() && raw.format.get().is_none();
        let kind = raw.format.get().copied().unwrap_or(Kind::Json);
        let columns = self.columns(raw);
        if !unusable {
            self.refuse_keys_of_others(raw, kind);
        }
        let any = |is: fn(&Run) -> bool| {
            workers.is_some_and(|workers| workers.iter().any(|worker| is(&worker.run)))
        };
        let is_command = any(|run| matches!(run, Run::Command(_)));
        let is_function = !any(|run| !matches!(run, Run::Function(_)));
        let origin = match raw.format.origin() {
            Some(format) => format.clone(),
            None => Origin::missing("output.format", table),
        };
        match kind {
            Kind::Json => Format::JsonLines,
            Kind::Csv => {
                let default = is_command.then(|| COMMAND_COLUMNS.map(str::to_owned).to_vec());
                if columns.is_none() && default.is_none() && !raw.columns.is_given() {
                    let wrong = Wrong::new("\"csv\" needs columns = [\"FIELD\", ...]")
                        .help("they are the fields of a record that are written, in this order");
                    self.mistake(&origin, wrong);
                }
                Format::Csv { columns: columns.or(default).unwrap_or_default() }
            }
            Kind::Lines if is_command => {
                let wrong = Wrong::new("the result of a command has several fields")
                    .allowed("\"json\", \"csv\", \"sqlite\"")
                    .help(
                        "\"lines\" is for the records of functions and the answers of coprocesses",
                    );
                self.mistake(&origin, wrong);
                Format::JsonLines
            }
            Kind::Postcard if !is_function => {
                let wrong = Wrong::new("it can't hold the results of commands and coprocesses")
                    .allowed("\"json\", \"csv\", \"sqlite\"")
                    .help("\"postcard\" is for the records of functions");
                self.mistake(&origin, wrong);
                Format::JsonLines
            }
            Kind::Lines => Format::Lines,
            Kind::Postcard => Format::Postcard,
            Kind::Sqlite => {
                if !cfg!(feature = "sqlite") {
                    let wrong = Wrong::new("this program was built without SQLite")
                        .help("build it with the feature \"sqlite\", or choose another format");
                    self.mistake(&origin, wrong);
                }
                Format::Sqlite { table: raw.table.get().cloned().unwrap_or("results".into()) }
            }
        }
    }

    fn refuse_keys_of_others(&mut self, raw: &RawOutput, kind: Kind) {
        let keys = [(raw.columns.origin(), Kind::Csv), (raw.table.origin(), Kind::Sqlite)];
        for (origin, of) in keys {
            if let Some(origin) = origin.filter(|_| kind != of) {
                let format = if of == Kind::Csv { "csv" } else { "sqlite" };
                let message = format!("only the format {format:?} has this key");
                self.mistake(&origin.at_name(), message);
            }
        }
    }

    fn columns(&mut self, raw: &RawOutput) -> Option<Vec<String>> {
        let (given, origin) = raw.columns.with_origin()?;
        if given.is_empty() {
            self.mistake(origin, "at least one column is needed");
        }
        let mut columns: Vec<String> = Vec::new();
        for (name, origin) in given {
            if columns.contains(name) {
                self.mistake(origin, format!("{name:?} is there twice"));
            }
            columns.push(name.clone());
        }
        Some(columns)
    }
}

pub(super) fn kind(text: &str) -> Result<Kind, Wrong> {
    let words = [
        ("json", Kind::Json),
        ("csv", Kind::Csv),
        ("lines", Kind::Lines),
        ("postcard", Kind::Postcard),
        ("sqlite", Kind::Sqlite),
    ];
    values::word(text, &words)
}

pub(super) fn table_name(text: &str) -> Result<String, Wrong> {
    let mistake = Format::Sqlite { table: text.to_owned() }.mistake();
    mistake.map_or_else(|| Ok(text.to_owned()), |mistake| Err(mistake.into()))
}

pub(super) fn sync_policy(text: &str) -> Result<SyncPolicy, Wrong> {
    match text {
        "always" => Ok(SyncPolicy::Always),
        "never" => Ok(SyncPolicy::Never),
        _ => match values::duration(text) {
            Ok(Duration::ZERO) => Ok(SyncPolicy::Always),
            Ok(interval) => Ok(SyncPolicy::Every(interval)),
            Err(wrong) => {
                let near = values::near_miss(text, ["always", "never"]);
                let suggestion = near.map(|word| format!("{word:?}")).or(wrong.suggestion);
                Err(Wrong::of(format!("{text:?}"), "is not known")
                    .suggest(suggestion)
                    .allowed("\"always\", \"never\", or a duration such as \"1s\""))
            }
        },
    }
}
