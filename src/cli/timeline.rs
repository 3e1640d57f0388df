//! `procsig timeline`: the chart of the last run's stop.

use std::path::Path;

use super::{print, terminal};
use crate::config::raw::Known;
use crate::error::{Error, ExitCode};
use crate::inspect::find;
use crate::inspect::last_run::LastRun;
use crate::inspect::timeline::text::Style;
use crate::inspect::timeline::{self, chart, svg, text};
use crate::log::harmless_json;
use crate::sys::clock;

/// Shows how the last run of a spool was stopped, or writes it to a file.
///
/// # Errors
/// If there is no spool, or it can't be read; if the file can't be written; if there is no chart to
/// write, since no stop was asked for.
pub(super) fn show(
    given: Option<&Path>,
    output: Option<&Path>,
    json: bool,
    known: &Known,
) -> Result<ExitCode, Error> {
    let run = LastRun::look(&find::spool(given, known)?)?;
    if json {
        return print(&harmless_json(timeline::json(&run)));
    }
    let chart = chart::chart(&run, clock::now());
    let style = Style {
        width: if output.is_some() { 80 } else { terminal::columns() },
        unicode: terminal::takes_unicode(),
        color: output.is_none() && terminal::takes_color(),
    };
    match (chart, output) {
        (None, None) => print(&timeline::without_stop(&run)),
        (None, Some(_)) => {
            Err(Error::Failure(format!("nothing to draw: {}", timeline::without_stop(&run).trim())))
        }
        (Some(chart), None) => print(&text::draw(&chart, style)),
        (Some(chart), Some(file)) => {
            let is_svg = file.extension().is_some_and(|end| end.eq_ignore_ascii_case("svg"));
            let drawn = if is_svg { svg::draw(&chart) } else { text::draw(&chart, style) };
            std::fs::write(file, drawn)
                .map_err(|error| Error::file(file, "can't write the chart", error))?;
            Ok(ExitCode::Success)
        }
    }
}
