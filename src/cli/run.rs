//! `procsig run`: settings, log, pipeline.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use super::args::RunArguments;
use crate::config::Lines;
use crate::config::raw::{self, Loaded, Overrides};
use crate::error::{Error, ExitCode};
use crate::{log, pipeline};

const USAGE_EXAMPLE: &str = "procsig run --jobs hosts.txt -- ping -c1 {}";

/// Runs a pipeline to its end.
pub(super) fn run(arguments: RunArguments) -> Result<ExitCode, Error> {
    let overrides = arguments.overrides();
    let loaded = load(arguments.config, arguments.command, &overrides)?;
    check_standard_input(&loaded)?;
    log::init(&loaded.config.log)?;
    for warning in &loaded.warnings {
        ::log::warn!("{warning}");
    }
    let has_log_file = loaded.config.log.file.is_some();
    match pipeline::run_config(loaded.config) {
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

/// The settings, from a file or a command: from exactly one of them.
fn load(
    config: Option<PathBuf>,
    command: Vec<String>,
    overrides: &Overrides,
) -> Result<Loaded, Error> {
    match (config, command.is_empty()) {
        (Some(path), true) => from_file(&path, overrides),
        (None, false) => raw::quick(command, overrides),
        (None, true) => Err(Error::Usage(format!(
            "there is nothing to run: name a configuration file, or a command after \"--\", \
             for example: {USAGE_EXAMPLE}"
        ))),
        (Some(path), false) => Err(Error::Usage(format!(
            "both a configuration file and a command are given: drop \"-- {}\" to run what {} \
             says, or drop the file to run the command",
            command.join(" "),
            path.display()
        ))),
    }
}

fn from_file(path: &Path, overrides: &Overrides) -> Result<Loaded, Error> {
    raw::load(path, overrides).map_err(|error| match error {
        Error::Config(text) if path.extension().is_none() && !path.exists() => {
            Error::Config(format!("{text}; a command is written after \"--\": {USAGE_EXAMPLE}"))
        }
        other => other,
    })
}

/// Standard input as the list of jobs: only on request when it is a terminal, or a run without
/// `--jobs` would seem to hang; and not when it is the file that results are appended to.
fn check_standard_input(loaded: &Loaded) -> Result<(), Error> {
    let is_stdin = loaded.config.jobs.as_ref().is_some_and(|jobs| jobs.lines == Lines::Stdin);
    if !is_stdin {
        return Ok(());
    }
    if loaded.jobs_by_default && io::stdin().is_terminal() {
        return Err(Error::Usage(format!(
            "there are no jobs: give a list with --jobs FILE, or pipe lines in, for example: \
             {USAGE_EXAMPLE}"
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

    #[test]
    fn a_file_or_a_command_is_needed_and_not_both() {
        let both = load(Some("c.toml".into()), vec!["x".into(), "y".into()], &Overrides::default());
        let both = both.unwrap_err();
        assert_eq!(both.exit_code(), ExitCode::Usage);
        assert!(both.to_string().contains("drop \"-- x y\" to run what c.toml says"), "{both}");
        let neither = load(None, Vec::new(), &Overrides::default()).unwrap_err();
        assert_eq!(neither.exit_code(), ExitCode::Usage);
        assert!(neither.to_string().contains(USAGE_EXAMPLE));
    }

    #[test]
    fn a_command_without_dashes_is_taken_for_a_file_and_the_message_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let text = |name| {
            let error = from_file(&folder.path().join(name), &Overrides::default()).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Config);
            error.to_string()
        };
        assert!(text("ping").contains("after \"--\""));
        assert!(!text("missing.toml").contains("after \"--\""));
    }
}
