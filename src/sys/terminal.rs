//! Facts about a terminal.

use std::os::fd::AsFd;

/// Columns and rows of the terminal; `None` if it is none, or says nothing of its size.
pub(crate) fn size(terminal: impl AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

/// Is this process among those that the terminal is for now, and not in its background?
pub(crate) fn is_foreground(terminal: impl AsFd) -> bool {
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}
