//! The command line as written.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Duration;

use ::log::LevelFilter;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use super::help;
use super::status::StatusArguments;
use super::stop::StopArguments;
use crate::config::raw::{self, Known, Overrides};
use crate::config::{Lines, LogFormat};

use super::render::Style;

/// The command line of this program: of `procsig`, or of one with functions of its own, for which other
/// lines can be pasted.
pub(super) fn command(program: &str, version: Option<&str>, known: &Known) -> clap::Command {
    let (short, long) = help::versions(version);
    let command = Cli::command().name(program.to_owned()).bin_name(program.to_owned());
    let command = command.version(short).long_version(long);
    let names: Vec<&str> = known.functions.iter().map(|it| it.name.as_str()).collect();
    let pasted = |command: &str| help::template(&help::examples(command, program, &names));
    let usage = format!("{program} run [CONFIG.toml] [OPTIONS] [-- COMMAND [ARG ...]]");
    let command = command
        .help_template(pasted(""))
        .mut_subcommands(|command| {
            let template = pasted(command.get_name());
            command.help_template(template)
        })
        .mut_subcommand("run", |run| run.override_usage(usage));
    if names.is_empty() {
        return command
            .mut_subcommand("run", |run| run.mut_arg("function", |function| function.hide(true)));
    }
    let names = names.join(", ");
    let help = format!("Run this function, without a configuration file: {names}");
    command
        .about(format!("Runs its functions, or commands, in worker processes: {names}"))
        .mut_subcommand("run", |run| run.mut_arg("function", |function| function.help(help)))
}

/// Runs a command for each job of a list, many at a time, and appends each result to a file:
/// once, also when it is stopped or killed and started again
#[derive(Debug, Parser)]
#[command(name = "procsig", version, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,

    /// Colours in what is shown to people: auto is on a terminal, unless NO_COLOR is set
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        global = true,
        hide_default_value = true
    )]
    #[arg(help_heading = "Log")]
    pub(super) color: ColorArgument,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs a pipeline: from a configuration file, or from options and a command
    Run(Box<RunArguments>),
    /// Shows how the last run was stopped: who was told when, and when each process had ended
    Timeline {
        /// The spool, its configuration, its output or its directory [default: the spool of this
        /// directory]
        #[arg(value_name = "CONFIG.toml|SPOOL")]
        spool: Option<PathBuf>,

        /// Write the chart to this file instead: as SVG if its name ends in .svg, otherwise as text
        #[arg(short, long, value_name = "FILE", conflicts_with = "json")]
        output: Option<PathBuf>,

        /// Print what is known, with every event, as JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows what runs, how fast, and what waits; it works on a busy, a hung and a dead daemon
    Status(StatusArguments),
    /// Asks for the ordered stop, shows it as it happens, waits, and exits as the daemon did; with 0 if
    /// nothing runs, with 4 if its supervisor was killed, with 1 if it did not end in time
    Stop(StopArguments),
    /// Prints the jobs of a file of dead letters, one a line, to be run again
    DeadLetters {
        /// The file that dead_letters.file names
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Says whether a configuration file is valid, and if not, what is wrong with it
    Check {
        /// The configuration file
        #[arg(value_name = "CONFIG.toml")]
        config: PathBuf,

        /// Print what is wrong, or what it would do, as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Prints a commented example of a configuration file
    Init,
    /// Prints what completes this command line in a shell
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Prints the manual page
    Man,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// The configuration file; each option overrides its key
    #[arg(value_name = "CONFIG.toml")]
    pub(super) config: Option<PathBuf>,

    /// The list, one job a line; "-" is standard input, which is the default when it is not a
    /// terminal
    #[arg(long, value_name = "FILE", help_heading = "Jobs")]
    jobs: Option<PathBuf>,

    /// Run the list again at this interval, such as 30s; without it the run ends with the list
    #[arg(long, value_name = "DURATION", value_parser = raw::positive_duration)]
    #[arg(help_heading = "Jobs")]
    every: Option<Duration>,

    /// Forget the kept jobs and begin the list anew; without it, go on where the last run
    /// stopped (a list that was done to its end is begun anew in any case)
    #[arg(long, help_heading = "Jobs")]
    fresh: bool,

    /// Append the results to this file [default: results.jsonl]
    #[arg(short, long, value_name = "FILE", help_heading = "Results")]
    output: Option<PathBuf>,

    /// Keep what must survive a crash in this file [default: .NAME.spool beside the output NAME]
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    spool: Option<PathBuf>,

    /// Run this function, without a configuration file
    #[arg(long, value_name = "NAME", help_heading = "Workers")]
    pub(super) function: Option<String>,

    /// Worker processes [default: 2]
    #[arg(short = 'P', long, value_name = "N", help_heading = "Workers")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=10_000))]
    processes: Option<u16>,

    /// Threads in each worker process, each with one job at a time [default: 4]
    #[arg(short = 'j', long, value_name = "N", help_heading = "Workers")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Option<u16>,

    /// A job that takes longer has failed [default: no limit]
    #[arg(long, value_name = "DURATION", value_parser = raw::positive_duration)]
    #[arg(help_heading = "Workers")]
    timeout: Option<Duration>,

    /// A job that failed this often has failed for good [default: 1]
    #[arg(long, value_name = "N", help_heading = "Workers")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    attempts: Option<u32>,

    /// How long a stop may take, from the first signal to the exit [default: 8s]
    #[arg(help_heading = "Stop")]
    #[arg(long, value_name = "DURATION", value_parser = raw::positive_duration)]
    deadline: Option<Duration>,

    /// Log more: debug, and with -vv trace
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    #[arg(help_heading = "Log")]
    verbose: u8,

    /// Log less: warnings and errors, and with -qq errors only
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Log")]
    quiet: u8,

    /// How a line of the log looks [default: text]
    #[arg(long, value_name = "FORMAT", hide_default_value = true, help_heading = "Log")]
    log_format: Option<LogFormatArgument>,

    /// Append the log to this file [default: standard error]
    #[arg(long, value_name = "FILE", help_heading = "Log")]
    log_file: Option<PathBuf>,

    /// The command, started directly and never through a shell; each {} in it is replaced by the
    /// job, with no {} the job is the last argument
    #[arg(value_name = "COMMAND", last = true)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatArgument {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum ColorArgument {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ColorArgument {
    /// How standard error is written to.
    pub(super) fn style(self) -> Style {
        let is_terminal = io::stderr().is_terminal();
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let color = match self {
            ColorArgument::Auto => is_terminal && !is_set("NO_COLOR") && !is_dumb,
            ColorArgument::Always => true,
            ColorArgument::Never => false,
        };
        let width = terminal_size::terminal_size_of(io::stderr());
        let width = width.map_or(80, |(columns, _)| usize::from(columns.0));
        Style { width, color }
    }
}

impl RunArguments {
    /// The options as what they override.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            jobs: self.jobs.clone().map(|path| match path.as_os_str() == "-" {
                true => Lines::Stdin,
                false => Lines::File(path),
            }),
            every: self.every,
            output: self.output.clone(),
            processes: self.processes,
            threads: self.threads,
            timeout: self.timeout,
            attempts: self.attempts,
            deadline: self.deadline,
            spool: self.spool.clone(),
            fresh: self.fresh,
            log_level: match (self.verbose, self.quiet) {
                (0, 0) => None,
                (0, 1) => Some(LevelFilter::Warn),
                (0, _) => Some(LevelFilter::Error),
                (1, _) => Some(LevelFilter::Debug),
                (_, _) => Some(LevelFilter::Trace),
            },
            log_format: self.log_format.map(|format| match format {
                LogFormatArgument::Text => LogFormat::Text,
                LogFormatArgument::Json => LogFormat::Json,
            }),
            log_file: self.log_file.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn run_arguments(line: &[&str]) -> RunArguments {
        let words = ["procsig", "run"].iter().chain(line);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Run(arguments) => *arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_begins_with_two_lines_to_paste_and_leaves_them_whole() {
        for words in [&["procsig", "--help"][..], &["procsig", "run", "--help"], &["procsig"]] {
            let command = command("procsig", None, &Known::default());
            let help = command.try_get_matches_from(words).unwrap_err().to_string();
            let mut lines = help.lines();
            assert_eq!(
                lines.next(),
                Some(
                    "procsig run --jobs hosts.txt -o pings.jsonl -j 8 --timeout 5s -- ping -c1 {}"
                )
            );
            assert_eq!(
                lines.next(),
                Some(
                    "procsig run --jobs urls.txt --every 30s -o checks.jsonl -- curl -fsS \
                     -o /dev/null -w '%{http_code}' {}"
                )
            );
        }
    }

    #[test]
    fn the_lines_to_paste_are_understood() {
        let arguments = run_arguments(&[
            "--jobs",
            "hosts.txt",
            "-o",
            "pings.jsonl",
            "-j",
            "8",
            "--timeout",
            "5s",
            "--",
            "ping",
            "-c1",
            "{}",
        ]);
        assert_eq!(arguments.command, ["ping", "-c1", "{}"]);
        let overrides = arguments.overrides();
        assert_eq!(overrides.jobs, Some(Lines::File("hosts.txt".into())));
        assert_eq!(overrides.output, Some("pings.jsonl".into()));
        assert_eq!(overrides.threads, Some(8));
        assert_eq!(overrides.timeout, Some(Duration::from_secs(5)));
        assert_eq!(overrides.log_level, None);
        assert!(!overrides.fresh);
    }

    #[test]
    fn a_dash_is_standard_input_and_verbosity_counts() {
        let overrides = run_arguments(&["-vv", "--jobs", "-", "--fresh"]).overrides();
        assert_eq!(overrides.jobs, Some(Lines::Stdin));
        assert_eq!(overrides.log_level, Some(LevelFilter::Trace));
        assert!(overrides.fresh);
        let level = |option| run_arguments(&[option]).overrides().log_level;
        assert_eq!(level("-v"), Some(LevelFilter::Debug));
        assert_eq!(level("-q"), Some(LevelFilter::Warn));
        assert_eq!(level("-qqq"), Some(LevelFilter::Error));
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for line in [
            &["run", "-P", "0"][..],
            &["run", "-P", "10001"],
            &["run", "-j", "1025"],
            &["run", "--attempts", "0"],
            &["run", "--timeout", "5"],
            &["run", "--deadline", "0s"],
            &["run", "--color", "sometimes"],
            &["run", "-v", "-q"],
            &["run", "c.toml", "d.toml"],
            &["check"],
            &["status", "--sample", "1"],
            &["status", "--healthy", "--json"],
            &["status", "a.toml", "b.toml"],
        ] {
            let error = Cli::try_parse_from(["procsig"].iter().chain(line)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line:?}");
        }
    }
}
