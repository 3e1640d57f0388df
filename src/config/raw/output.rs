//! The `[output]` and `[dead_letters]` tables.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::super::{Format, Output, Run, SyncPolicy, Worker};
use super::files::UsedFile;
use super::resolve::{Origin, Resolver};
use super::{RawConfig, RawOutput, values};

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

/// What can be chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Csv,
    Lines,
    Postcard,
    Sqlite,
}

impl Resolver<'_> {
    pub(super) fn output(
        &mut self,
        raw: &RawOutput,
        workers: Option<&[Worker]>,
        files: &mut Vec<UsedFile>,
    ) -> Output {
        if let Some(name) = &raw.sink {
            return self.own_sink(name, raw, workers);
        }
        let format = self.format(raw, workers);
        let name = match &format {
            Format::Csv { .. } => "results.csv",
            Format::Lines => "results.txt",
            Format::Postcard => "results.postcard",
            Format::Sqlite { .. } => "results.db",
            Format::JsonLines | Format::Own(_) => OUTPUT_DEFAULT,
        };
        let file = self.path("output.file", &raw.file);
        let file = match &self.overrides.output {
            Some(path) => (path.clone(), Origin::option("--output")),
            None => file.unwrap_or_else(|| {
                (self.beside_file(Path::new(name)), Origin::file("output.file"))
            }),
        };
        files.push(UsedFile::new(file.1, &file.0));
        let mut output = Output { format, ..Output::new(file.0) };
        if matches!(output.format, Format::Sqlite { .. }) {
            // A transaction is forced to the disk in any case.
            output.sync = SyncPolicy::Always;
        }
        if let Some(sync) = self.parsed("output.sync", &raw.sync, sync_policy) {
            output.sync = sync;
        }
        self.rotation(raw);
        output
    }

    /// A sink that the program has registered.
    fn own_sink(
        &mut self,
        name: &Spanned<String>,
        raw: &RawOutput,
        workers: Option<&[Worker]>,
    ) -> Output {
        let origin = Origin::key("output.sink", name.span());
        let others = [
            ("file", raw.file.is_some()),
            ("format", raw.format.is_some()),
            ("columns", raw.columns.is_some()),
            ("table", raw.table.is_some()),
            ("rotate_bytes", raw.rotate_bytes.is_some()),
            ("rotate_every", raw.rotate_every.is_some()),
            ("keep", raw.keep.is_some()),
            ("compress", raw.compress.is_some()),
        ];
        for (key, _) in others.iter().filter(|(_, given)| *given) {
            self.mistake(&origin, &format!("output.{key} is for files: drop it, or this key"));
        }
        if self.overrides.output.is_some() {
            self.mistake(&origin, "--output names a file: drop it, or this key");
        }
        let is_function = |worker: &Worker| matches!(worker.run, Run::Function(_));
        if !workers.is_none_or(|workers| workers.iter().all(is_function)) {
            self.mistake(
                &origin,
                "only records of functions can go to a sink of the program's own",
            );
        }
        let known = self.known.sink(name.get_ref());
        let mut output = self.noted(&origin, known).unwrap_or_else(|| Output::new(OUTPUT_DEFAULT));
        if let Some(sync) = self.parsed("output.sync", &raw.sync, sync_policy) {
            output.sync = sync;
        }
        output
    }

    /// Keys of a later version: checked, so that a file that is valid now stays valid then.
    fn rotation(&mut self, raw: &RawOutput) {
        const GROWS: &str = "the output is not rotated, it only grows";
        self.size::<u64>("output.rotate_bytes", &raw.rotate_bytes, 1..=u64::MAX);
        self.parsed("output.rotate_every", &raw.rotate_every, values::positive_duration);
        self.number::<i64>("output.keep", &raw.keep, 0..=i64::MAX);
        self.parsed("output.compress", &raw.compress, |text| {
            values::word(text, &[("zstd", ()), ("gzip", ())])
        });
        for (key, is_set) in [
            ("output.rotate_bytes", raw.rotate_bytes.is_some()),
            ("output.rotate_every", raw.rotate_every.is_some()),
            ("output.keep", raw.keep.is_some()),
            ("output.compress", raw.compress.is_some()),
        ] {
            if is_set {
                self.without_effect(key, GROWS);
            }
        }
    }

    pub(super) fn dead_letters(
        &mut self,
        raw: &RawConfig,
        files: &mut Vec<UsedFile>,
    ) -> Option<PathBuf> {
        let (path, origin) = self.path("dead_letters.file", &raw.dead_letters.as_ref()?.file)?;
        files.push(UsedFile::new(origin, &path));
        Some(path)
    }

    fn format(&mut self, raw: &RawOutput, workers: Option<&[Worker]>) -> Format {
        let words = [
            ("json", Kind::Json),
            ("csv", Kind::Csv),
            ("lines", Kind::Lines),
            ("postcard", Kind::Postcard),
            ("sqlite", Kind::Sqlite),
        ];
        let kind = self.parsed("output.format", &raw.format, |text| values::word(text, &words));
        let kind = kind.unwrap_or(Kind::Json);
        let columns = self.columns(raw);
        let table = self.parsed("output.table", &raw.table, table_name);
        self.refuse_keys_of_others(raw, kind);
        let any = |is: fn(&Run) -> bool| {
            workers.is_some_and(|workers| workers.iter().any(|worker| is(&worker.run)))
        };
        let is_command = any(|run| matches!(run, Run::Command(_)));
        let is_function = !any(|run| !matches!(run, Run::Function(_)));
        let origin = match &raw.format {
            Some(format) => Origin::key("output.format", format.span()),
            None => Origin::file("output.format"),
        };
        match kind {
            Kind::Json => Format::JsonLines,
            Kind::Csv => {
                let default = is_command.then(|| COMMAND_COLUMNS.map(str::to_owned).to_vec());
                if columns.is_none() && default.is_none() && raw.columns.is_none() {
                    let message = "\"csv\" needs columns = [\"FIELD\", ...]: the fields of a \
                                   record that are written, in this order";
                    self.mistake(&origin, message);
                }
                Format::Csv { columns: columns.or(default).unwrap_or_default() }
            }
            Kind::Lines if is_command => {
                let message = "the result of a command has several fields: \"json\", \"csv\" and \
                               \"sqlite\" can hold it; \"lines\" is for the records of functions and \
                               the answers of coprocesses";
                self.mistake(&origin, message);
                Format::JsonLines
            }
            Kind::Postcard if !is_function => {
                let message = "it can't hold the results of commands and coprocesses: \"json\", \
                               \"csv\" and \"sqlite\" can; \"postcard\" is for the records of \
                               functions";
                self.mistake(&origin, message);
                Format::JsonLines
            }
            Kind::Lines => Format::Lines,
            Kind::Postcard => Format::Postcard,
            Kind::Sqlite => {
                if !cfg!(feature = "sqlite") {
                    let message = "this program was built without SQLite: build it with the \
                                   feature \"sqlite\", or choose another format";
                    self.mistake(&origin, message);
                }
                Format::Sqlite { table: table.unwrap_or_else(|| "results".into()) }
            }
        }
    }

    fn refuse_keys_of_others(&mut self, raw: &RawOutput, kind: Kind) {
        for (key, span, of) in [
            ("output.columns", raw.columns.as_ref().map(Spanned::span), Kind::Csv),
            ("output.table", raw.table.as_ref().map(Spanned::span), Kind::Sqlite),
        ] {
            if let Some(span) = span.filter(|_| kind != of) {
                let format = if of == Kind::Csv { "csv" } else { "sqlite" };
                let message = format!("only the format {format:?} has this key");
                self.mistake(&Origin::key(key, span), &message);
            }
        }
    }

    fn columns(&mut self, raw: &RawOutput) -> Option<Vec<String>> {
        const KEY: &str = "output.columns";
        let field = raw.columns.as_ref()?;
        if field.get_ref().is_empty() {
            self.mistake(&Origin::key(KEY, field.span()), "at least one column is needed");
        }
        let mut columns: Vec<String> = Vec::new();
        for column in field.get_ref() {
            let name = self.string(KEY, column)?;
            if columns.contains(&name) {
                let message = format!("{name:?} is there twice");
                self.mistake(&Origin::key(KEY, column.span()), &message);
            }
            columns.push(name);
        }
        Some(columns)
    }
}

fn table_name(text: &str) -> Result<String, String> {
    let mistake = Format::Sqlite { table: text.to_owned() }.mistake();
    mistake.map_or_else(|| Ok(text.to_owned()), Err)
}

fn sync_policy(text: &str) -> Result<SyncPolicy, String> {
    match text {
        "always" => Ok(SyncPolicy::Always),
        "never" => Ok(SyncPolicy::Never),
        _ => match values::duration(text) {
            Ok(Duration::ZERO) => Ok(SyncPolicy::Always),
            Ok(interval) => Ok(SyncPolicy::Every(interval)),
            Err(_) => Err(format!(
                "{text:?} is not known: \"always\", \"never\" or a duration such as \"1s\" is \
                 allowed"
            )),
        },
    }
}
