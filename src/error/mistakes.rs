//! What is wrong in a configuration: each mistake with its place, and all of them together.
//!
//! Only data: how it is shown on a terminal, with the line and a caret below it, is for the
//! command line.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So much of a value is repeated in a message. Characters.
const GIVEN_MAX: usize = 60;

/// Why a value can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Wrong {
    /// What was given, as it is shown; what is wrong then goes on with "is ...".
    given: Option<Box<str>>,
    what: String,
    /// What can stand there, as a list or a range.
    pub(crate) allowed: Option<String>,
    /// What was probably meant: it can take the place of what is marked.
    pub(crate) suggestion: Option<String>,
    /// What else to do about it.
    pub(crate) help: Option<String>,
    /// It is not the text that is wrong, but what it names on this machine.
    pub(crate) outside: bool,
}

impl Wrong {
    pub(crate) fn new(what: impl Into<String>) -> Wrong {
        Wrong { what: what.into(), ..Wrong::default() }
    }

    /// `what` speaks of a value: `Wrong::of("\"5\"", "is no duration")`.
    pub(crate) fn of(given: impl Into<String>, what: impl Into<String>) -> Wrong {
        let mut given: String = given.into();
        if let Some((end, _)) = given.char_indices().nth(GIVEN_MAX) {
            // All of it stands below, as far as there is room.
            given.replace_range(end.., "...");
        }
        Wrong { given: Some(given.into()), ..Wrong::new(what) }
    }

    pub(crate) fn allowed(mut self, allowed: impl Into<String>) -> Wrong {
        self.allowed = Some(allowed.into());
        self
    }

    pub(crate) fn suggest(mut self, suggestion: Option<impl Into<String>>) -> Wrong {
        self.suggestion = suggestion.map(Into::into);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Wrong {
        self.help = Some(help.into());
        self
    }

    /// The text may be right: it names what is not there, or can't be used, on this machine.
    pub(crate) fn outside(mut self) -> Wrong {
        self.outside = true;
        self
    }

    /// Leaves out what came from a variable, which may be a secret: the text is shown as written.
    pub(crate) fn hide(mut self, written: &str) -> Wrong {
        if self.given.is_some() {
            self.given = Some(format!("{written:?}, as its variables are set,").into());
            self.suggestion = None;
        }
        self
    }

    /// What is wrong, without what could stand there.
    pub(crate) fn message(&self) -> String {
        match &self.given {
            Some(given) => format!("{given} {}", self.what),
            None => self.what.clone(),
        }
    }
}

impl<T: Into<String>> From<T> for Wrong {
    fn from(what: T) -> Wrong {
        Wrong::new(what)
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message())?;
        if let Some(suggestion) = &self.suggestion {
            write!(formatter, "; did you mean {suggestion}?")?;
        }
        if let Some(allowed) = &self.allowed {
            write!(formatter, "; allowed: {allowed}")?;
        }
        if let Some(help) = &self.help {
            write!(formatter, "; {help}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Wrong {}

/// One mistake of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// The key or option, such as `workers.ping.timeout`; empty for a mistake of syntax.
    pub(crate) key: String,
    pub(crate) wrong: Wrong,
    /// The bytes of the file that are meant; `None`: it isn't in the file.
    pub(crate) bytes: Option<Range<usize>>,
}

/// The mistakes of a configuration, in the order of the file.
///
/// As text, each is a line that begins with `FILE:LINE:COLUMN: KEY: `.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mistakes(Box<Inner>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Inner {
    /// Path and text of the file; `None` without one.
    source: Option<(PathBuf, Arc<str>)>,
    list: Vec<Mistake>,
}

/// Line and column, both from 1, the column in characters, as editors count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Mistakes {
    /// `source`: path and text of the file.
    pub(crate) fn new(source: Option<(&Path, &str)>, mut list: Vec<Mistake>) -> Mistakes {
        list.sort_by_key(|mistake| mistake.bytes.as_ref().map(|bytes| bytes.start));
        let source = source.map(|(path, text)| (path.to_path_buf(), text.into()));
        Mistakes(Box::new(Inner { source, list }))
    }

    /// One mistake that is about the file as a whole.
    pub(crate) fn of_file(path: &Path, wrong: Wrong) -> Mistakes {
        let mistake = Mistake { key: String::new(), wrong, bytes: None };
        Mistakes::new(Some((path, "")), vec![mistake])
    }

    /// The same with an advice for each.
    pub(crate) fn with_help(mut self, help: &str) -> Mistakes {
        for mistake in &mut self.0.list {
            mistake.wrong.help = Some(help.to_owned());
        }
        self
    }

    /// The file, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.0.source.as_ref().map(|(path, _)| path.as_path())
    }

    /// The text of the file; empty if it could not be read.
    pub(crate) fn text(&self) -> &str {
        self.0.source.as_ref().map_or("", |(_, text)| text)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Mistake> {
        self.0.list.iter()
    }

    /// Where a mistake begins, and the place behind its end.
    pub(crate) fn range(&self, mistake: &Mistake) -> Option<Range<Position>> {
        let bytes = mistake.bytes.as_ref()?;
        let start = position(self.text(), bytes.start);
        Some(start..position(self.text(), bytes.end.max(bytes.start)))
    }

    /// A mistake's place, as it begins its line: `FILE:LINE:COLUMN: `.
    pub(crate) fn place(&self, mistake: &Mistake) -> String {
        let mut place = String::new();
        let begins_with_option = mistake.key.starts_with('-');
        if let Some(path) = self.file().filter(|_| !begins_with_option) {
            place += &path.display().to_string();
            if let Some(range) = self.range(mistake) {
                place += &format!(":{}:{}", range.start.line, range.start.column);
            }
            place += ": ";
        }
        place
    }

    /// Each of them in one line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.iter().map(|mistake| {
            let key = if mistake.key.is_empty() { "" } else { ": " };
            format!("{}{}{key}{}", self.place(mistake), mistake.key, mistake.wrong)
        })
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.lines().collect();
        formatter.write_str(&lines.join("\n"))
    }
}

fn position(text: &str, byte: usize) -> Position {
    // The mark at the beginning of some files is no character of their first line.
    let text_start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let before = &text.as_bytes()[..byte.min(text.len())];
    let line_start =
        before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let begins_character = |byte: &&u8| (**byte & 0xc0) != 0x80;
    let line_start = line_start.max(text_start).min(before.len());
    Position { line, column: 1 + before[line_start..].iter().filter(begins_character).count() }
}
