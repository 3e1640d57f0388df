//! The commands of the binary.
//!
//! `args` is the command line as written, `run` carries a pipeline out; the smaller commands
//! are here. Standard output is for what was asked for; mistakes and warnings go to standard
//! error, each exit code is that of the error ([`ExitCode`]).

mod args;
mod check;
mod dead_letters;
mod help;
mod init;
mod manual;
mod render;
mod run;
mod status;
mod stop;
mod summary;
mod terminal;
mod timeline;
mod tip;

use std::io::{self, Write};
use std::path::Path;

use clap::FromArgMatches;

use crate::config::raw::Known;
use crate::daemon::Daemon;
use crate::error::{Error, ExitCode, Mistakes};
use crate::inspect::find;
use crate::log::escape;

use args::{Cli, Command};
use render::Style;

/// Shows the mistakes of a configuration in every way that there is.
#[cfg(any(test, fuzzing))]
pub(crate) fn show_for_fuzzing(mistakes: &Mistakes) {
    for (width, color) in [(0, true), (80, false), (1000, false)] {
        let shown = render::mistakes(mistakes, Style { width, color });
        let is_control = |c: char| c.is_control() && c != '\n' && !(color && c == '\x1b');
        assert!(!shown.contains(is_control), "{shown:?}");
        assert_eq!(shown.is_empty(), mistakes.iter().len() == 0, "{shown:?}");
    }
}

/// Reads the command line of this process and does what it says.
pub(crate) fn main(daemon: Daemon) -> std::process::ExitCode {
    let known = daemon.known();
    let program = if known == Known::default() { "procsig".to_owned() } else { program_name() };
    if let Err(error) = daemon.check() {
        complain(&program, "error", &error.to_string());
        return error.exit_code().code().into();
    }
    let line = args::command(&program, daemon.version.as_deref(), &known);
    let matches = line.clone().try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => {
            let words: Vec<_> = std::env::args_os().collect();
            if let Some(tip) = tip::forgotten_dashes(&words, &line, &program)
                && error.use_stderr()
            {
                complain(&program, "error", &tip);
                return ExitCode::Usage.code().into();
            }
            // Help and version come this way, too. If they can't be printed, nobody is reading.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(ExitCode::Usage.code()).into();
        }
    };
    let style = cli.color.style();
    let outcome = match cli.command {
        Command::Run(arguments) => run::run(*arguments, daemon, &program),
        Command::Check { config, json } => check::check(&config, json, daemon, style, &program),
        Command::DeadLetters { file } => {
            dead_letters::print(&file, |mistake| complain(&program, "error", mistake))
        }
        Command::Timeline { spool, output, json } => {
            timeline::show(spool.as_deref(), output.as_deref(), json, &known)
        }
        Command::Status(arguments) => find::spool(arguments.place.as_deref(), &known)
            .and_then(|spool| status::status(&arguments, &spool)),
        Command::Stop(arguments) => stop::stop(&arguments, &known),
        Command::Init => print(&init::example(&program, &known)),
        Command::Completions { shell } => print(&help::completions(shell, line, &program)),
        Command::Man => manual::page(line, &program, &known).and_then(|page| print(&page)),
    };
    match outcome {
        Ok(code) => code.code().into(),
        Err(error) => {
            match &error {
                Error::Mistakes(mistakes) => show(&program, mistakes, style),
                error => complain(&program, "error", &error.to_string()),
            }
            error.exit_code().code().into()
        }
    }
}

/// Shows all mistakes of a configuration on standard error, and how many there are.
fn show(program: &str, mistakes: &Mistakes, style: Style) {
    let _ = write!(io::stderr(), "{}", render::mistakes(mistakes, style));
    complain(program, "error", &format!("{}: nothing was started", count(mistakes)));
}

/// `3 mistakes in pings.toml`
fn count(mistakes: &Mistakes) -> String {
    let number = match mistakes.iter().len() {
        1 => "1 mistake".to_owned(),
        number => format!("{number} mistakes"),
    };
    match mistakes.file() {
        Some(path) => format!("{number} in {}", path.display()),
        None => number,
    }
}

/// What a program with functions of its own is called by: its file's name.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "procsig".into())
}

fn print(text: &str) -> Result<ExitCode, Error> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough, as in `procsig init | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::Success),
        Err(error) => Err(Error::System { what: "can't write to standard output", source: error }),
        Ok(()) => Ok(ExitCode::Success),
    }
}

/// Tells of a mistake on standard error. Names of files and keys come from anywhere: what would
/// steer a terminal is shown as an escape.
fn complain(program: &str, kind: &str, text: &str) {
    let lines: Vec<_> = text.lines().map(escape).collect();
    // With no standard error there is nobody left to tell; the exit code says it.
    let _ = writeln!(io::stderr(), "{}: {kind}: {}", escape(program), lines.join("\n"));
}
