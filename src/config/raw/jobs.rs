//! The table `[jobs]`: a list of lines, or a directory of files.

use std::path::{Path, PathBuf};

use super::super::{Directory, Jobs, Lines, List, Own};
use super::files::{UsedFile, job_list_mistake, reason};
use super::reader::{self, Field, Origin, Value};
use super::resolve::Resolver;
use super::tables::RawJobs;
use crate::error::Wrong;

impl Resolver<'_> {
    /// Where jobs come from, and whether it is standard input only because nobody named anything.
    pub(super) fn jobs(
        &mut self,
        table: &Field<RawJobs>,
        files: &mut Vec<UsedFile>,
    ) -> (Jobs, bool) {
        let nothing = RawJobs::default();
        let raw = table.get().unwrap_or(&nothing);
        let every = self.overrides.every.or(raw.every.get().copied());
        if self.overrides.jobs.is_none() {
            if let Some((name, origin)) = raw.source.with_origin() {
                return (self.own_source((name, origin), raw), false);
            }
            if let Some((path, origin)) = raw.directory.with_origin() {
                return (self.directory((path, origin), raw), false);
            }
            if let Some(origin) = raw.once.origin() {
                self.mistake(origin, "it goes with jobs.directory; a list is run once by itself");
            }
        }
        let again = raw.again.get().is_none_or(|again| *again);
        if let (false, Some(origin), Some(_)) = (again, raw.again.origin(), every) {
            self.mistake(origin, "it goes with a list that is run once, and jobs.every repeats it");
        }
        let named = match &self.overrides.jobs {
            Some(lines) => Some((lines.clone(), Origin::option("--jobs"))),
            None => raw.lines.with_origin().map(|(lines, origin)| (lines.clone(), origin.clone())),
        };
        let Some((lines, origin)) = named else {
            return (Jobs::List(List { lines: Lines::Stdin, every, again }), true);
        };
        if let Lines::File(path) = &lines {
            match (job_list_mistake(path), raw.every.origin()) {
                (Some(wrong), _) => self.mistake(&origin, wrong),
                (None, Some(every)) if !path.is_file() => {
                    let wrong = Wrong::new("only a file can be run again and again").help(format!(
                        "{} is a pipe or a terminal, read only once",
                        path.display()
                    ));
                    self.mistake(every, wrong.outside());
                }
                (None, _) => {}
            }
            files.push(UsedFile::new(origin, path));
        }
        (Jobs::List(List { lines, every, again }), false)
    }

    /// A source that the program has registered.
    fn own_source(&mut self, (name, origin): (&str, &Origin), raw: &RawJobs) -> Jobs {
        let others = [
            ("lines", raw.lines.origin()),
            ("directory", raw.directory.origin()),
            ("once", raw.once.origin()),
            ("every", raw.every.origin()),
            ("again", raw.again.origin()),
        ];
        for (key, other) in others {
            if other.is_some() {
                let message = format!("jobs.{key} is set as well: jobs come from one of them");
                self.mistake(origin, message);
            }
        }
        if self.overrides.every.is_some() {
            self.mistake(origin, "--every is for lists: drop it, or this key");
        }
        let known = self.known.source(name);
        let nothing = || Own { name: String::new(), finite: false };
        Jobs::Own(self.noted(origin, known).unwrap_or_else(nothing))
    }

    fn directory(&mut self, (path, origin): (&PathBuf, &Origin), raw: &RawJobs) -> Jobs {
        if raw.lines.is_given() {
            self.mistake(origin, "jobs.lines is set as well: jobs come from one of them");
        }
        let by_option = || self.overrides.every.map(|_| Origin::option("--every"));
        if let Some(every) = raw.every.origin().cloned().or_else(by_option) {
            self.mistake(&every, "a directory is not run again: its files are moved when done");
        }
        if let Some(wrong) = directory_mistake(path) {
            self.mistake(origin, wrong);
        }
        let once = raw.once.get().is_some_and(|once| *once);
        Jobs::Directory(Directory { path: path.clone(), once })
    }
}

/// Reads the name of a list; `-` is standard input.
pub(super) fn lines(
    resolver: &mut Resolver<'_>,
    value: &Value<'_>,
    origin: &Origin,
) -> Option<Lines> {
    let path = reader::path(resolver, value, origin)?;
    // By its text: as a path, "./-" would be equal, and that is how to name such a file.
    let is_stdin = path.as_os_str() == resolver.beside_file(Path::new("-")).as_os_str();
    Some(if is_stdin { Lines::Stdin } else { Lines::File(path) })
}

/// Why files can't be taken from there, if so.
fn directory_mistake(path: &Path) -> Option<Wrong> {
    let name = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => Some(
            Wrong::new(format!("{name} is no directory"))
                .help("here each file of a directory is a job; the lines of a file are jobs.lines")
                .outside(),
        ),
        Err(error) => {
            let what = format!("the directory {name} can't be read: {}", reason(&error));
            Some(Wrong::new(what).outside())
        }
    }
}
