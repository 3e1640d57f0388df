//! `procsig run`: settings, log, pipeline.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use super::args::RunArguments;
use crate::config::raw::{self, Known, Loaded, Overrides};
use crate::config::{Jobs, Lines};
use crate::daemon::Daemon;
use crate::error::{Error, ExitCode};
use crate::{log, pipeline};

/// What is run, as the command line says it.
struct Source {
    config: Option<PathBuf>,
    function: Option<String>,
    command: Vec<String>,
    overrides: Overrides,
}

/// Runs a pipeline to its end.
pub(super) fn run(
    arguments: RunArguments,
    daemon: Daemon,
    program: &str,
) -> Result<ExitCode, Error> {
    let overrides = arguments.overrides();
    let RunArguments { config, function, command, .. } = arguments;
    let example = example(program, &daemon.known());
    let source = Source { config, function, command, overrides };
    let loaded = load(source, &daemon.known(), &example)?;
    check_standard_input(&loaded, &example)?;
    pipeline::privileges::settle(&loaded.config)?;
    log::init(&loaded.config.log)?;
    log::bar::allow(&loaded.config.log);
    for warning in loaded.warnings.lines() {
        ::log::warn!("{warning}");
    }
    let has_log_file = loaded.config.log.file.is_some();
    match pipeline::run_config(loaded.config, daemon) {
        Ok(report) => Ok(report.exit_code()),
        Err(error) => {
            // Of a daemon, the log file is often all that is ever read.
            if has_log_file {
                ::log::error!("{error}");
            }
            Err(error)
        }
    }
}

/// A line that could be typed.
fn example(program: &str, known: &Known) -> String {
    match known.functions.as_slice() {
        [] => format!("{program} run --jobs hosts.txt -- ping -c1 {{}}"),
        [_] => format!("{program} run --jobs hosts.txt"),
        [first, ..] => format!("{program} run --jobs hosts.txt --function {}", first.name),
    }
}

/// The settings, from a file, a command or a function: from exactly one of them.
fn load(source: Source, known: &Known, example: &str) -> Result<Loaded, Error> {
    let Source { config, function, command, overrides } = source;
    match (config, function, command.is_empty()) {
        (Some(path), None, true) => from_file(&path, &overrides, known, example),
        (None, None, false) => raw::quick(command, &overrides),
        (None, Some(name), true) => raw::quick_function(Some(&name), &overrides, known),
        (None, None, true) if known.functions.is_empty() => Err(Error::Usage(format!(
            "there is nothing to run: name a configuration file, or a command after \"--\", \
             for example: {example}"
        ))),
        (None, None, true) => raw::quick_function(None, &overrides, known),
        (Some(path), None, false) => Err(Error::Usage(format!(
            "both a configuration file and a command are given: drop \"-- {}\" to run what {} \
             says, or drop the file to run the command",
            command.join(" "),
            path.display()
        ))),
        (Some(path), Some(name), _) => Err(Error::Usage(format!(
            "both a configuration file and --function are given: drop --function {name} to run \
             what {} says, or drop the file to run the function",
            path.display()
        ))),
        (None, Some(name), false) => Err(Error::Usage(format!(
            "both --function and a command are given: drop --function {name} to run the command, \
             or drop \"-- {}\" to run the function",
            command.join(" ")
        ))),
    }
}

fn from_file(
    path: &Path,
    overrides: &Overrides,
    known: &Known,
    example: &str,
) -> Result<Loaded, Error> {
    raw::load(path, overrides, known).map_err(|error| match error {
        Error::Mistakes(mistakes) if path.extension().is_none() && !path.exists() => {
            Error::Mistakes(
                mistakes.with_help(&format!("a command is written after \"--\": {example}")),
            )
        }
        other => other,
    })
}

/// Standard input as the list of jobs: only on request when it is a terminal, or a run without
/// `--jobs` would seem to hang; and not when it is the file that results are appended to.
fn check_standard_input(loaded: &Loaded, example: &str) -> Result<(), Error> {
    let list = loaded.config.jobs.as_ref().and_then(Jobs::list);
    let is_stdin = list.is_some_and(|list| list.lines == Lines::Stdin);
    if !is_stdin {
        return Ok(());
    }
    if loaded.jobs_by_default && io::stdin().is_terminal() {
        return Err(Error::Usage(format!(
            "there are no jobs: give a list with --jobs FILE, or pipe lines in, for example: \
             {example}"
        )));
    }
    let output = &loaded.config.output.file;
    let (Ok(input), Ok(target)) = (rustix::fs::fstat(io::stdin()), rustix::fs::stat(output)) else {
        // An output that isn't there yet is no list; other errors are for who opens it.
        return Ok(());
    };
    let is_file = rustix::fs::FileType::from_raw_mode(input.st_mode).is_file();
    if is_file && (input.st_dev, input.st_ino) == (target.st_dev, target.st_ino) {
        return Err(Error::Config(format!(
            "output.file: {} is the same file as standard input, the list of jobs",
            output.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::KnownFunction;

    const EXAMPLE: &str = "procsig run --jobs hosts.txt -- ping -c1 {}";

    fn known(names: &[&str]) -> Known {
        let known =
            |name: &&str| KnownFunction { name: (*name).into(), takes_jobs: true, record: "u64" };
        Known { functions: names.iter().map(known).collect(), ..Known::default() }
    }

    fn load_of(
        config: &str,
        function: &str,
        command: &[&str],
        names: &[&str],
    ) -> Result<Loaded, Error> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let source = Source {
            config: some(config).map(PathBuf::from),
            function: some(function),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            overrides: Overrides::default(),
        };
        load(source, &known(names), EXAMPLE)
    }

    #[test]
    fn a_file_or_a_command_or_a_function_is_needed_and_only_one_of_them() {
        let text = |config, function, command: &[&str], names: &[&str]| {
            let error = load_of(config, function, command, names).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Usage);
            error.to_string()
        };
        let both = text("c.toml", "", &["x", "y"], &[]);
        assert!(both.contains("drop \"-- x y\" to run what c.toml says"), "{both}");
        assert!(text("", "", &[], &[]).contains(EXAMPLE));
        assert!(text("c.toml", "f", &[], &["f"]).contains("drop --function f"));
        assert!(text("", "f", &["x"], &["f"]).contains("drop --function f"));
        let several = text("", "", &[], &["probe", "check"]);
        assert!(several.contains("--function: probe, check"), "{several}");
        let unknown = text("", "chekc", &[], &["probe", "check"]);
        assert!(unknown.contains("did you mean \"check\"?"), "{unknown}");
    }

    #[test]
    fn the_only_function_is_the_one_that_is_meant() {
        let worker = |function, names: &[&str]| {
            load_of("", function, &[], names).unwrap().config.workers[0].clone()
        };
        assert_eq!(worker("", &["check"]).run, crate::config::Run::Function("check".into()));
        assert_eq!(worker("b", &["a", "b"]).name, "b");
    }

    #[test]
    fn a_command_without_dashes_is_taken_for_a_file_and_the_message_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let text = |name| {
            let path = folder.path().join(name);
            let error =
                from_file(&path, &Overrides::default(), &Known::default(), EXAMPLE).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Config);
            error.to_string()
        };
        assert!(text("ping").contains("after \"--\""));
        assert!(!text("missing.toml").contains("after \"--\""));
    }
}
