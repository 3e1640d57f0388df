//! Where jobs come from: a list of lines, what an iterator yields, the files of a directory, or any
//! [`Source`] of your own.
//!
//! Each of them goes on where it was, whatever was killed: no job is left out, and none is run for a
//! second result.

use crate::config::{self, Lines};
use crate::flow::source::items;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::flow::source::api::{Done, InHand, Next, Resume, Source, SourceError, Wait};
pub use crate::flow::source::items::Items;

/// The lines of a file, one job a line; blank lines are skipped.
pub fn lines(path: impl Into<PathBuf>) -> List {
    List(config::List { lines: Lines::File(path.into()), every: None, again: true })
}

/// The lines of standard input.
pub fn stdin() -> List {
    List(config::List { lines: Lines::Stdin, every: None, again: true })
}

/// The items of an iterator, each the bytes of a job. The run ends with them.
///
/// It is made anew by `make` whenever the source's process is started, and must yield the same items
/// each time: those that were handed out are counted, and skipped. A checksum says whether they are
/// the same; if not, the run ends with exit code 78. An item costs no more than its slot: nothing is
/// collected.
///
/// ```
/// # use procsig::{Emitter, Job, Pipeline, sink, source};
/// # #[derive(serde::Serialize)]
/// # struct Square { square: u64 }
/// let pipeline = Pipeline::new("squares")
///     .jobs(source::iter(|| (1..=1_000_000_u64).map(|number| number.to_string())))
///     .worker("square", |job: &Job, out: &mut Emitter<Square>| {
///         let number: u64 = job.as_str()?.parse()?;
///         out.emit(&Square { square: number * number })
///     })
///     .sink(sink::json_lines("squares.jsonl"));
/// ```
pub fn iter<F, I>(make: F) -> impl Source + 'static
where
    F: Fn() -> I + 'static,
    I: IntoIterator + 'static,
    I::Item: AsRef<[u8]>,
{
    Items::new(move || make().into_iter(), items::as_bytes)
}

/// As [`iter`](fn@iter), of items that are written as JSON. The worker reads them back with serde.
///
/// ```
/// #[derive(serde::Serialize)]
/// struct Task { host: &'static str, port: u16 }
///
/// let tasks = procsig::source::json(|| {
///     [Task { host: "example.org", port: 80 }, Task { host: "example.org", port: 443 }]
/// });
/// ```
pub fn json<F, I>(make: F) -> impl Source + 'static
where
    F: Fn() -> I + 'static,
    I: IntoIterator + 'static,
    I::Item: Serialize,
{
    Items::new(move || make().into_iter(), items::as_json)
}

/// The files of a directory, which must be there: each is a job, whose text is the file's path, as
/// the directory was given and the file's name. It waits for new ones.
///
/// When the results of its job are committed and on the disk, a file is moved into `done` in the
/// directory, or into `failed` if the job has failed for good; under a longer name if its own is
/// taken there. A stop moves what has been done until then.
///
/// **Write a file elsewhere on the same file system, and rename it into the directory.** One that is
/// written in there is taken when its writer closes it; but one that is half written when the pipeline
/// starts is taken as it is. Names that begin with a dot, or end with `~`, `.tmp`, `.part` or
/// `.partial` are left alone; so is what is no regular file: directories, links.
///
/// A file that is renamed over one which is not done yet is a job of its own. So a worker must not
/// put another file in the place of the one that it reads: that would be the next job, for ever.
///
/// ```
/// # use procsig::{Emitter, Job, Pipeline, sink, source};
/// # #[derive(serde::Serialize)]
/// # struct Size { file: String, bytes: usize }
/// let pipeline = Pipeline::new("sizes")
///     .jobs(source::directory("in"))
///     .worker("size", |job: &Job, out: &mut Emitter<Size>| {
///         let file = job.as_str()?;
///         let bytes = std::fs::read(file)?.len();
///         out.emit(&Size { file: file.into(), bytes })
///     })
///     .sink(sink::json_lines("sizes.jsonl"));
/// ```
pub fn directory(path: impl Into<PathBuf>) -> Directory {
    Directory(config::Directory { path: path.into(), once: false })
}

/// A directory that files are dropped into, see [`directory`].
#[derive(Debug, Clone)]
pub struct Directory(config::Directory);

impl Directory {
    /// The run ends when no file is left.
    #[must_use]
    pub fn once(mut self) -> Directory {
        self.0.once = true;
        self
    }
}

/// Where a pipeline gets its jobs: what [`crate::Pipeline::jobs`] takes.
pub struct Jobs {
    pub(super) config: config::Jobs,
    pub(super) own: Option<Box<dyn Source>>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Jobs").field(&self.config).finish()
    }
}

impl From<List> for Jobs {
    fn from(list: List) -> Jobs {
        Jobs { config: config::Jobs::List(list.0), own: None }
    }
}

impl From<Directory> for Jobs {
    fn from(directory: Directory) -> Jobs {
        Jobs { config: config::Jobs::Directory(directory.0), own: None }
    }
}

impl<S: Source + 'static> From<S> for Jobs {
    fn from(source: S) -> Jobs {
        let own = config::Own { name: source.name(), finite: source.is_finite() };
        Jobs { config: config::Jobs::Own(own), own: Some(Box::new(source)) }
    }
}

/// A list of jobs.
#[derive(Debug, Clone)]
pub struct List(config::List);

impl List {
    /// Runs the list again, at the first multiple of this time after the last run has ended.
    /// Without it the pipeline ends with the list.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> List {
        self.0.every = Some(interval);
        self
    }

    /// With `false`, a start that finds the list done to its end does not begin it anew, but ends at once
    /// with exit code 0: for a program that a service manager starts again and again.
    /// [`Ready::fresh`](crate::Ready::fresh) begins it anew.
    #[must_use]
    pub fn again(mut self, again: bool) -> List {
        self.0.again = again;
        self
    }
}
