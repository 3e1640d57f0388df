//! The table `[jobs]`: a list of lines, or a directory of files.

use std::path::Path;

use toml::Spanned;

use super::super::{Directory, Jobs, Lines, List, Own};
use super::files::{UsedFile, job_list_mistake};
use super::resolve::{Origin, Resolver};
use super::{Field, RawJobs, values};

impl Resolver<'_> {
    /// Where jobs come from, and whether it is standard input only because nobody named anything.
    pub(super) fn jobs(
        &mut self,
        raw: Option<&RawJobs>,
        files: &mut Vec<UsedFile>,
    ) -> (Jobs, bool) {
        let every =
            raw.and_then(|raw| self.parsed("jobs.every", &raw.every, values::positive_duration));
        let every = self.overrides.every.or(every);
        if let Some(raw) = raw.filter(|_| self.overrides.jobs.is_none()) {
            if let Some(name) = &raw.source {
                return (self.own_source(name, raw), false);
            }
            if let Some(directory) = &raw.directory {
                return (self.directory(raw, directory), false);
            }
            if let Some(once) = &raw.once {
                let origin = Origin::key("jobs.once", once.span());
                self.mistake(&origin, "it goes with jobs.directory; a list is run once by itself");
            }
        }
        let named = match (&self.overrides.jobs, raw) {
            (Some(lines), _) => Some((lines.clone(), Origin::option("--jobs"))),
            (None, Some(raw)) => self.lines(&raw.lines),
            (None, None) => None,
        };
        let Some((lines, origin)) = named else {
            return (Jobs::List(List { lines: Lines::Stdin, every }), true);
        };
        if let Lines::File(path) = &lines {
            if let Some(message) = job_list_mistake(path) {
                self.mistake(&origin, &message);
            }
            files.push(UsedFile::new(origin, path));
        }
        (Jobs::List(List { lines, every }), false)
    }

    /// A source that the program has registered.
    fn own_source(&mut self, name: &Spanned<String>, raw: &RawJobs) -> Jobs {
        let origin = Origin::key("jobs.source", name.span());
        let others = [
            ("lines", raw.lines.is_some()),
            ("directory", raw.directory.is_some()),
            ("once", raw.once.is_some()),
            ("every", raw.every.is_some()),
        ];
        for (key, _) in others.iter().filter(|(_, given)| *given) {
            let message = format!("jobs.{key} is set as well: jobs come from one of them");
            self.mistake(&origin, &message);
        }
        if self.overrides.every.is_some() {
            self.mistake(&origin, "--every is for lists: drop it, or this key");
        }
        let known = self.known.source(name.get_ref());
        let nothing = || Own { name: String::new(), finite: false };
        Jobs::Own(self.noted(&origin, known).unwrap_or_else(nothing))
    }

    fn directory(&mut self, raw: &RawJobs, named: &Spanned<String>) -> Jobs {
        let origin = Origin::key("jobs.directory", named.span());
        if raw.lines.is_some() {
            self.mistake(&origin, "jobs.lines is set as well: jobs come from one of them");
        }
        if let Some(every) = &raw.every {
            let origin = Origin::key("jobs.every", every.span());
            self.mistake(&origin, "a directory is not run again: its files are moved when done");
        } else if self.overrides.every.is_some() {
            let origin = Origin::option("--every");
            self.mistake(&origin, "a directory is not run again: its files are moved when done");
        }
        let path = self.path("jobs.directory", &raw.directory).map(|(path, _)| path);
        if let Some(message) = path.as_deref().and_then(directory_mistake) {
            self.mistake(&origin, &message);
        }
        let once = raw.once.as_ref().is_some_and(|once| *once.get_ref());
        // Without a path there was a mistake, and nothing is run.
        Jobs::Directory(Directory { path: path.unwrap_or_default(), once })
    }

    fn lines(&mut self, field: &Field<String>) -> Option<(Lines, Origin)> {
        let (path, origin) = self.path("jobs.lines", field)?;
        // By its text: as a path, "./-" would be equal, and that is how to name such a file.
        let is_stdin = path.as_os_str() == self.beside_file(Path::new("-")).as_os_str();
        Some((if is_stdin { Lines::Stdin } else { Lines::File(path) }, origin))
    }
}

/// Why files can't be taken from there, if so.
fn directory_mistake(path: &Path) -> Option<String> {
    let name = path.display();
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => Some(format!(
            "{name} is no directory: here each file of a directory is a job; the lines of a file \
             are jobs.lines"
        )),
        Err(error) => Some(format!("the directory {name} can't be read: {error}")),
    }
}
