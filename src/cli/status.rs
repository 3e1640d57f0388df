//! `procsig status`: how a pipeline stands, as a table, as JSON, again and again, or as a verdict.

mod table;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::print;
use crate::config::raw;
use crate::error::{Error, ExitCode};
use crate::flow::queue::spool::{Extent, Spool};
use crate::flow::status::facts::Status;
use crate::flow::status::health;
use crate::log::harmless_json;
use crate::sys::{clock, terminal};

/// Columns of a terminal that does not say.
const WIDTH: usize = 80;

/// How long after it looks like it main is said not to reap its children.
const REAP_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    /// The configuration that is run, or the spool [default: the spool in this directory]
    #[arg(value_name = "CONFIG.toml|SPOOL")]
    pub(super) place: Option<PathBuf>,

    /// Print one JSON object, with more in it than the table has room for
    #[arg(long)]
    json: bool,

    /// Look again at this interval until the run ends [default interval: 1s]
    #[arg(long, value_name = "INTERVAL", value_parser = raw::positive_duration)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "1s")]
    watch: Option<Duration>,

    /// Show every process, also if there are very many
    #[arg(long)]
    all: bool,

    /// Count for so long how fast it goes; 0s: don't
    #[arg(long, value_name = "DURATION", value_parser = raw::duration, default_value = "500ms")]
    sample: Duration,

    /// Say in a line whether all is well, for a liveness probe: exit code 0 if it is, 1 if not
    #[arg(long, conflicts_with_all = ["json", "watch", "all", "ready"])]
    healthy: bool,

    /// Say in a line whether all processes are ready, for a readiness probe: exit code 0 if they
    /// are, 1 if not
    #[arg(long, conflicts_with_all = ["json", "watch", "all"])]
    ready: bool,
}

/// Looks at the spool and says what is there.
pub(super) fn status(arguments: &StatusArguments, spool: &Path) -> Result<ExitCode, Error> {
    if arguments.healthy || arguments.ready {
        return verdict(arguments, spool);
    }
    match arguments.watch {
        Some(interval) => watch(arguments, spool, interval),
        None => once(arguments, spool),
    }
}

fn look(spool: &Path) -> Result<Status, Error> {
    Status::look(spool, Extent::Jobs)
}

fn once(arguments: &StatusArguments, spool: &Path) -> Result<ExitCode, Error> {
    let (mut status, at) = (look(spool)?, clock::now());
    if status.state.is_live() && !arguments.sample.is_zero() {
        let before = status.counted();
        std::thread::sleep(arguments.sample);
        // Gone since: then how it stood is all that can be said.
        if let Ok(next) = look(spool) {
            status = next;
            status.rate_since(before, clock::now().saturating_sub(at));
        }
    }
    print(&text(arguments, &status, width(), None))
}

/// As JSON in a line, or as a table; of so many lines at most.
fn text(arguments: &StatusArguments, status: &Status, width: usize, rows: Option<usize>) -> String {
    if arguments.json {
        // Numbers and texts: this can't fail.
        let json = harmless_json(serde_json::to_string(status).unwrap_or_default());
        return json + "\n";
    }
    let mut lines = table::lines(status, width, rows, arguments.all);
    lines.truncate(rows.unwrap_or(usize::MAX).max(1));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Columns that there is room for: of what is no terminal, any number.
fn width() -> usize {
    let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
    let size = terminal::size(io::stdout()).map(|(columns, _)| columns);
    let unknown = if io::stdout().is_terminal() { WIDTH } else { usize::MAX };
    size.or_else(columns).unwrap_or(unknown).max(1)
}

/// Shows it again and again until the run ends: in place on a terminal, one below the other elsewhere.
///
/// Nothing of the terminal is changed, so that Ctrl-C leaves it as it is.
fn watch(arguments: &StatusArguments, spool: &Path, interval: Duration) -> Result<ExitCode, Error> {
    let in_place = io::stdout().is_terminal() && !arguments.json;
    let mut before: Option<(_, Duration)> = None;
    let mut first = true;
    loop {
        let began = clock::now();
        let mut status = look(spool)?;
        if let Some((counted, at)) = before.filter(|_| status.state.is_live()) {
            status.rate_since(counted, began.saturating_sub(at));
        }
        before = Some((status.counted(), began));
        let rows = terminal::size(io::stdout()).map(|(_, rows)| rows.saturating_sub(1));
        let shown = text(arguments, &status, width(), rows.filter(|_| in_place));
        let shown = match (in_place, first) {
            // Each line is cleared behind its end, and what is below at last: nothing flickers.
            (true, true) => format!("\x1b[2J\x1b[H{shown}"),
            (true, false) => format!("\x1b[H{}\x1b[J", shown.replace('\n', "\x1b[K\n")),
            (false, false) if !arguments.json => format!("\n{shown}"),
            (false, _) => shown,
        };
        first = false;
        let mut out = io::stdout().lock();
        match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::Success);
            }
            Err(error) => {
                return Err(Error::System {
                    what: "can't write to standard output",
                    source: error,
                });
            }
            Ok(()) => {}
        }
        drop(out);
        if !status.state.goes_on() {
            return Ok(ExitCode::Success);
        }
        std::thread::sleep((began + interval).saturating_sub(clock::now()));
    }
}

/// Says in a line whether all is well.
fn verdict(arguments: &StatusArguments, spool: &Path) -> Result<ExitCode, Error> {
    let unreaped = || Spool::look(spool, Extent::Books).map(|spool| health::unreaped(&spool));
    let suspects = match unreaped() {
        Ok(suspects) => suspects,
        Err(error) => return say(Err(error.to_string())),
    };
    if !suspects.is_empty() {
        // Most of the time main is just about to do it.
        std::thread::sleep(REAP_PATIENCE);
        let still = unreaped().unwrap_or_default();
        if let Some(pid) = suspects.iter().find(|pid| still.contains(pid)) {
            let reason = format!("process {pid} has ended, and main takes no notice of it");
            return say(Err(reason));
        }
    }
    let status = match Status::look(spool, Extent::Books) {
        Ok(status) => status,
        Err(error) => return say(Err(error.to_string())),
    };
    say(if arguments.ready { health::judge_ready(&status) } else { health::judge(&status) })
}

fn say(verdict: health::Verdict) -> Result<ExitCode, Error> {
    let (kind, words, code) = match &verdict {
        Ok(words) => ("ok", words, ExitCode::Success),
        Err(words) => ("not ok", words, ExitCode::Failure),
    };
    print(&format!("{kind}: {}\n", crate::log::escape(words)))?;
    Ok(code)
}
