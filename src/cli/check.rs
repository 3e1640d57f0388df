//! `procsig check`: is a configuration valid, and what would it do?

use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::render::{self, Style};
use super::{complain, count, print, summary};
use crate::config::raw::{self, Loaded, Overrides};
use crate::daemon::Daemon;
use crate::error::{Error, ExitCode, Mistake, Mistakes, Wrong};
use crate::log::harmless_json;

/// Says whether a configuration file is valid: to people, or as JSON.
pub(super) fn check(
    path: &Path,
    as_json: bool,
    daemon: Daemon,
    style: Style,
    program: &str,
) -> Result<ExitCode, Error> {
    let loaded = load(path, daemon);
    if as_json {
        return report(path, &loaded);
    }
    match loaded {
        Ok(loaded) => {
            show(&render::warnings(&loaded.warnings, style));
            let summary = summary::text(&loaded.config);
            print(&format!("{}: valid\n{summary}", path.display()))
        }
        Err(Error::Mistakes(mistakes)) => {
            show(&render::mistakes(&mistakes, style));
            complain(program, "error", &count(&mistakes));
            Ok(ExitCode::Config)
        }
        Err(error) => Err(error),
    }
}

/// Writes to standard error. With none there is nobody left to tell; the exit code says it.
fn show(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn load(path: &Path, daemon: Daemon) -> Result<Loaded, Error> {
    let loaded = raw::load(path, &Overrides::default(), &daemon.known())?;
    match daemon.parts(&loaded.config) {
        Ok(_) => Ok(loaded),
        Err(Error::Config(message)) => {
            Err(Error::Mistakes(Mistakes::of_file(path, Wrong::new(message))))
        }
        Err(error) => Err(error),
    }
}

/// One JSON object on standard output.
fn report(path: &Path, loaded: &Result<Loaded, Error>) -> Result<ExitCode, Error> {
    let list = |mistakes: &Mistakes| -> Vec<Value> {
        mistakes.iter().map(|mistake| as_json(path, mistakes, mistake)).collect()
    };
    let (code, mistakes, warnings) = match loaded {
        Ok(loaded) => (ExitCode::Success, Vec::new(), list(&loaded.warnings)),
        Err(Error::Mistakes(mistakes)) => (ExitCode::Config, list(mistakes), Vec::new()),
        Err(error) => {
            let mistakes = Mistakes::of_file(path, Wrong::new(error.to_string()));
            (error.exit_code(), list(&mistakes), Vec::new())
        }
    };
    let object = json!({
        "file": path.to_string_lossy(),
        "valid": code == ExitCode::Success,
        "mistakes": mistakes,
        "warnings": warnings,
        "would": loaded.as_ref().ok().map(|loaded| summary::json(&loaded.config)),
    });
    print(&harmless_json(format!("{object:#}\n"))).map(|_| code)
}

fn as_json(path: &Path, all: &Mistakes, mistake: &Mistake) -> Value {
    let range = all.range(mistake);
    let start = range.as_ref().map(|range| range.start);
    let end = range.as_ref().map(|range| {
        json!({
            "line": range.end.line,
            "column": range.end.column,
        })
    });
    json!({
        "file": path.to_string_lossy(),
        "line": start.map(|start| start.line),
        "column": start.map(|start| start.column),
        "end": end,
        "key": (!mistake.key.is_empty()).then_some(&mistake.key),
        "message": mistake.wrong.message(),
        "allowed": mistake.wrong.allowed,
        "suggestion": mistake.wrong.suggestion,
        "help": mistake.wrong.help,
    })
}
