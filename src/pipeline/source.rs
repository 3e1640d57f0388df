//! Where jobs come from.

use crate::config::{self, Lines};
use std::path::PathBuf;
use std::time::Duration;

/// The lines of a file, one job a line; blank lines are skipped.
pub fn lines(path: impl Into<PathBuf>) -> List {
    List(config::Jobs { lines: Lines::File(path.into()), every: None })
}

/// The lines of standard input.
pub fn stdin() -> List {
    List(config::Jobs { lines: Lines::Stdin, every: None })
}

/// A list of jobs.
#[derive(Debug, Clone)]
pub struct List(pub(super) config::Jobs);

impl List {
    /// Runs the list again, at the first multiple of this time after the last run has ended.
    /// Without it the pipeline ends with the list.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> List {
        self.0.every = Some(interval);
        self
    }
}
