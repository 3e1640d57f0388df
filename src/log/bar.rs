//! The one line of a terminal that is drawn again and again, below the log.
//!
//! Many processes write to the same terminal, each line with one `write`, and none of them knows of the
//! others. So each line of the log begins by erasing what stands in its line, which is the bar or
//! nothing, and the bar is there again at its next turn. Nothing of the terminal is changed: whoever is
//! killed leaves it as it was.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use ::log::LevelFilter;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::config::{self, LogFormat};
use crate::sys::terminal;

/// To the beginning of the line, and all of it gone.
const ERASE: &str = "\r\x1b[K";

/// Nobody is bothered by a bar.
static ALLOWED: AtomicBool = AtomicBool::new(false);
/// The log goes to the same terminal.
static BELOW_LOG: AtomicBool = AtomicBool::new(false);
/// One may be on the terminal now. Inherited by what is forked.
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Lets runs of this process draw a bar on standard error if that is a terminal that can do it, and
/// whoever reads it wants to see how it goes.
pub(crate) fn allow(settings: &config::Log) {
    let able = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
    let wanted = settings.level >= LevelFilter::Info && settings.format == LogFormat::Text;
    BELOW_LOG.store(settings.file.is_none(), Ordering::Relaxed);
    ALLOWED.store(able && wanted && io::stderr().is_terminal(), Ordering::Relaxed);
}

/// From now on, and in all processes that are forked from here on, there may be a bar.
pub(crate) fn begin() {
    ACTIVE.store(ALLOWED.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// May there be a bar?
pub(crate) fn is_active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// There is none any more: whoever has drawn it may have been killed.
pub(crate) fn end() {
    if ACTIVE.swap(false, Ordering::Relaxed) {
        write(ERASE);
    }
}

/// What a line of the log begins with.
pub(super) fn erase() -> &'static str {
    if is_active() && BELOW_LOG.load(Ordering::Relaxed) { ERASE } else { "" }
}

/// Columns that a bar may take: there is room behind it for what the terminal itself shows of Ctrl-C.
pub(crate) fn width() -> usize {
    terminal::size(io::stderr()).map_or(77, |(columns, _)| columns.saturating_sub(3))
}

/// Draws it. It is skipped while the terminal is for other programs, or takes nothing.
pub(crate) fn draw(text: &str) {
    if terminal::is_foreground(io::stderr()) {
        write(&format!("\r{text}\x1b[K"));
    }
}

/// Puts a line in its place, that stays; an empty one puts nothing there.
pub(crate) fn replace(line: &str) {
    let end = if line.is_empty() { "" } else { "\n" };
    write(&format!("{ERASE}{line}{end}"));
}

fn write(text: &str) {
    let stderr = io::stderr();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::OUT)];
    // A terminal that was halted by Ctrl-S must not hold up who writes.
    if rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0) {
        let mut stderr = stderr.lock();
        // A bar is not worth failing for.
        let _drawn = stderr.write_all(text.as_bytes());
    }
}
