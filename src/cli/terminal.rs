//! What is known of the terminal that standard output goes to.

use crate::sys::terminal;
use std::ffi::OsString;
use std::io::{self, IsTerminal};

/// Columns of something that is no terminal.
const COLUMNS: usize = 80;

/// Columns of the terminal; 80 if it is none, or does not say.
pub(super) fn columns() -> usize {
    let asked = terminal::size(io::stdout()).map_or(0, |(columns, _)| columns);
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    match (asked, said) {
        (0, Some(columns)) => columns,
        (0, None) => COLUMNS,
        (columns, _) => columns,
    }
}

/// Are colours wanted? Only on a terminal, and not with NO_COLOR.
pub(super) fn takes_color() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && !is("TERM", "dumb")
}

fn is(name: &str, value: &str) -> bool {
    std::env::var_os(name) == Some(OsString::from(value))
}

/// Does the locale say that text is UTF-8?
pub(super) fn takes_unicode() -> bool {
    let names = ["LC_ALL", "LC_CTYPE", "LANG"];
    let locale = names.iter().filter_map(std::env::var_os).find(|value| !value.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_string_lossy().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}
