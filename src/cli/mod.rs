//! The commands of the binary.
//!
//! `args` is the command line as written, `run` carries a pipeline out; the smaller commands
//! are here. Standard output is for what was asked for; mistakes and warnings go to standard
//! error, each exit code is that of the error ([`ExitCode`]).

mod args;
mod dead_letters;
mod help;
mod manual;
mod run;

use std::io::{self, Write};
use std::path::Path;

use clap::FromArgMatches;

use crate::config::raw::{self, Known, Overrides};
use crate::daemon::Daemon;
use crate::error::{Error, ExitCode};
use crate::inspect::{find, last_run::LastRun, timeline};
use crate::log::escape;

use args::{Cli, Command};

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
            // Help and version come this way, too. If they can't be printed, nobody is reading.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(ExitCode::Usage.code()).into();
        }
    };
    let outcome = match cli.command {
        Command::Run(arguments) => run::run(*arguments, daemon, &program),
        Command::Check { config } => check(&config, daemon, &program),
        Command::DeadLetters { file } => {
            dead_letters::print(&file, |mistake| complain(&program, "error", mistake))
        }
        Command::Timeline { spool, json } => timeline(spool.as_deref(), json, &known),
        Command::Init => print(EXAMPLE),
        Command::Completions { shell } => print(&help::completions(shell, line, &program)),
        Command::Man => manual::page(line, &program, &known).and_then(|page| print(&page)),
    };
    match outcome {
        Ok(code) => code.code().into(),
        Err(error) => {
            complain(&program, "error", &error.to_string());
            error.exit_code().code().into()
        }
    }
}

/// What a program with functions of its own is called by: its file's name.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "procsig".into())
}

fn check(path: &Path, daemon: Daemon, program: &str) -> Result<ExitCode, Error> {
    let loaded = raw::load(path, &Overrides::default(), &daemon.known())?;
    daemon.parts(&loaded.config)?;
    for warning in &loaded.warnings {
        complain(program, "warning", warning);
    }
    print(&format!("{}: valid\n", path.display()))
}

fn timeline(given: Option<&Path>, json: bool, known: &Known) -> Result<ExitCode, Error> {
    let run = LastRun::look(&find::spool(given, known)?)?;
    print(&if json { timeline::json(&run) } else { timeline::list(&run) })
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

/// What `init` prints. A line that begins with `# ` and a key shows a setting that is not in
/// force; without the `# ` it is valid, too.
const EXAMPLE: &str = r#"# A configuration of procsig. Check it with `procsig check FILE`, run it with
# `procsig run FILE`. Paths are relative to this file, but for those in commands, which run in the
# directory in which procsig was started. In texts, ${VAR} and ${VAR:-default} are replaced by
# variables of the environment; $${ stands for a literal ${.
# A program with functions, sinks and sources of its own names them by function = "NAME" in place of
# command, sink = "NAME" in place of file, and source = "NAME" in place of lines.

# The name of the pipeline; without it, this file's name without extension.
# name = "pings"

[jobs]
# One job a line, blank lines are skipped: the name of a file, or "-" for standard input.
lines = "-"
# Run the list again and again; without it, the run ends with the list.
# every = "30s"
# Or, in place of lines: each file of a directory is a job, its path; the file is moved to done/
# in there when its results are written, to failed/ when it failed for good. Write a file elsewhere
# and rename it into the directory.
#   directory = "in/"
#   once = true     # ends when no file is left; without it, it waits for new ones

# What is done with a job; "ping" is the name that log and results show.
[workers.ping]
# Started directly, without a shell. Each {} is replaced by the job; with no {}, the job is the
# last argument. Instead, with coprocess = ["python3", "worker.py"], a program of any language is
# started once for each thread, reads each job as a line of JSON, and answers with one.
command = ["ping", "-c1", "{}"]
processes = 2
# In each process; each thread has one job at a time.
threads = 4
# A job that takes longer has failed; without it there is no limit.
timeout = "5s"
# A job that failed this often has failed for good.
attempts = 1
# retry_delay = "1s"
# Kept of standard output, and as much of standard error; more is cut and marked. A coprocess's
# answer may not be longer.
# max_output = "64KiB"
# env = { LANG = "C" }

# Results are written when any of these is reached.
[buffer]
flush_records = 1000
flush_bytes = "1MiB"
flush_after = "1s"

[output]
# Appended to; one JSON object a line, if format is not another: "csv" or "sqlite", and for the
# records of functions also "lines" or "postcard".
file = "results.jsonl"
# format = "json"
#   columns = ["job", "ok", "seconds"]   # for "csv": the fields that are written
#   table = "results"                    # for "sqlite"
# Forced to the disk after each flush ("always"), at most once in a duration, or only at the
# end ("never").
sync = "1s"

# A file for jobs that have failed for good, in place of the output. `procsig dead-letters FILE`
# prints them, to be run again.
#   [dead_letters]
#   file = "results.dead.jsonl"

[shutdown]
# From the first signal to the exit. Whoever kills procsig should wait 5 s longer.
deadline = "8s"
# The last part of it, kept for writing results.
# flush_reserve = "2s"

# More deaths of processes than this in this time end the run with exit code 1.
[restart]
max = 5
within = "30s"

# What survives a crash; start again with the same file to go on.
[spool]
# file = ".results.jsonl.spool"
# Room for results, for each worker process; it must hold all results of one job.
# lane = "1MiB"
# Jobs handed out at a time, and the length of the longest.
jobs = 1024
job_bytes = "4KiB"

[log]
# "error", "warn", "info", "debug" or "trace"
level = "info"
# "text" or "json"
format = "text"
# Without it, the log goes to standard error.
# file = "procsig.log"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<raw::Loaded, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("example.toml");
        std::fs::write(&path, text).unwrap();
        raw::load(&path, &Overrides::default(), &Known::default())
    }

    #[test]
    fn the_example_is_valid_as_it_is() {
        let loaded = load_text(EXAMPLE).unwrap();
        assert_eq!(loaded.warnings, Vec::<String>::new());
        assert_eq!(loaded.config.workers[0].name, "ping");
    }

    #[test]
    fn the_example_is_valid_with_every_setting_in_force() {
        let is_setting = |line: &str| {
            let key = line.split(" = ").next().unwrap_or("");
            key != line && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        let text: Vec<&str> = EXAMPLE
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| is_setting(rest)).unwrap_or(line))
            .collect();
        assert!(text.contains(&"every = \"30s\""));
        let loaded = load_text(&text.join("\n")).unwrap();
        assert_eq!(loaded.config.name, "pings");
        assert_eq!(loaded.config.spool.lane, Some(1 << 20));
    }
}
