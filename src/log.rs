//! The log: one whole line an event, also with many processes writing to the same place.
//!
//! ```text
//! 2026-01-31T22:39:19.123456Z INFO  supervisor[465187] stop requested: signal
//! ```
//!
//! Four constraints shape this module. A line arrives whole, or lines of several processes would
//! interleave: simplelog writes a line in about ten pieces, so [`lines`] collects them. A message
//! is data from anywhere (a job, a command's output), so [`escape`] keeps it on its line. The log
//! is never the reason that a program fails or waits: a destination that is closed, full or stuck
//! loses lines, and is told how many when it takes some again. And what is said again and again
//! is said once with a count ([`repeats`]), or a thousand failing jobs a second would fill a disk.
//!
//! A host program that has installed a logger keeps it, and gets our records.

pub(crate) mod bar;
mod between;
mod destination;
mod lines;
mod repeats;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, WriteLogger};

use crate::config;
use crate::error::Error;
use crate::sys::{clock, disk};
use destination::{Destination, Output};
use lines::{Lines, Pieces};
use repeats::Repeats;

/// Set if the logger of this process is ours.
static OURS: OnceLock<Ours> = OnceLock::new();

/// Where our lines go.
struct Ours {
    lines: Arc<Mutex<Lines<Destination>>>,
    /// `None`: standard error.
    path: Option<PathBuf>,
}

/// Sets up the log for this process and those that it forks. Does nothing if there is a logger.
///
/// # Errors
///
/// [`Error::File`] when the log file can't be opened.
pub(crate) fn init(settings: &config::Log) -> Result<(), Error> {
    let destination = match &settings.file {
        None => Destination::stderr(),
        Some(path) => open(path)?,
    };
    let logger = Logger::new(settings.level, settings.format, destination);
    let lines = Arc::clone(&logger.lines);
    // An error means that a logger is there, and then the level is its owner's matter, too.
    if ::log::set_boxed_logger(Box::new(logger)).is_ok() {
        ::log::set_max_level(settings.level);
        // Nobody else gets here: there is one logger in the life of a process.
        let _first = OURS.set(Ours { lines, path: settings.file.clone() });
    }
    Ok(())
}

fn open(path: &std::path::Path) -> Result<Destination, Error> {
    Destination::open(path).map_err(|error| {
        let directory = path.parent().unwrap_or(std::path::Path::new("."));
        Error::file(path, "can't open the log", disk::explained(directory, error))
    })
}

/// Opens the log file anew by its name: somebody has moved it away. If that fails, it goes on in
/// the old one, and says why there.
pub(crate) fn reopen() {
    let Some(Ours { lines, path: Some(path) }) = OURS.get() else { return };
    match open(path) {
        Ok(destination) => locked(lines).replace(destination),
        Err(error) => ::log::error!("{error}; going on in the file as it was"),
    }
}

/// Says what has been held back so far. To be called before a process ends: nobody else does.
pub(crate) fn flush() {
    // Another's may wait for what a job holds.
    if OURS.get().is_some() {
        ::log::logger().flush();
    }
}

/// From now on a destination that is stuck is waited for no longer than a stop can spare.
pub(crate) fn hurry() {
    lines::hurry();
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Role and pid of this process, as lines of the log show them. `None` until [`set_role`].
static IDENTITY: RwLock<Option<Identity>> = RwLock::new(None);

#[derive(Clone)]
struct Identity {
    role: Arc<str>,
    pid: u32,
}

/// Says what this process is. Each forked child calls it, as long as it has a single thread: the
/// pid is read here, once, and a child that doesn't call it logs as its parent.
pub(crate) fn set_role(role: &str) {
    let identity = Identity { role: escape(role).into(), pid: std::process::id() };
    // Only moves under the lock; allocating and freeing happen outside.
    let former = {
        let mut guard = IDENTITY.write().unwrap_or_else(PoisonError::into_inner);
        guard.replace(identity)
    };
    drop(former);
}

/// What this process is; `supervisor` until [`set_role`] says otherwise.
#[cfg(test)]
fn role() -> Arc<str> {
    identity().role
}

fn identity() -> Identity {
    let known = IDENTITY.read().unwrap_or_else(PoisonError::into_inner).clone();
    known.unwrap_or_else(|| Identity { role: "supervisor".into(), pid: std::process::id() })
}

/// What is written of a record: all from its level on, but of the libraries that procsig is made
/// of only warnings and errors. They would tell of each message and descriptor.
fn is_enabled(level: LevelFilter, metadata: &Metadata<'_>) -> bool {
    let is_within = |library: &str| match metadata.target().strip_prefix(library) {
        Some(rest) => rest.is_empty() || rest.starts_with("::"),
        None => false,
    };
    metadata.level() <= level
        && (metadata.level() <= Level::Warn || !["mio", "ipc_channel"].into_iter().any(is_within))
}

/// The logger of a process.
struct Logger<W: Output> {
    level: LevelFilter,
    /// simplelog writes lines of text; JSON is ours.
    text: Option<Box<WriteLogger<Pieces<W>>>>,
    lines: Arc<Mutex<Lines<W>>>,
    /// And of which process. Nothing is held back from who wants to see everything.
    repeats: Option<Mutex<(u32, Repeats)>>,
}

/// What this process has said. What the one that has forked it has counted, that one says itself.
fn own(counted: &mut (u32, Repeats), pid: u32) -> &mut Repeats {
    if counted.0 != pid {
        *counted = (pid, Repeats::default());
    }
    &mut counted.1
}

impl<W: Output> Logger<W> {
    fn new(level: LevelFilter, format: config::LogFormat, destination: W) -> Logger<W> {
        let lines = Arc::new(Mutex::new(Lines::new(destination)));
        let text = match format {
            config::LogFormat::Text => Some(text_writer(level, Pieces::new(Arc::clone(&lines)))),
            config::LogFormat::Json => None,
        };
        let repeats = (level < LevelFilter::Debug).then(Mutex::default);
        Logger { level, text, lines, repeats }
    }

    /// Writes a line, and before it how many were lost, if any were and it can be said now.
    fn write(&self, level: Level, target: &str, message: &str) {
        let lost = locked(&self.lines).take_lost();
        if let Some((count, why)) = &lost {
            let lines = if *count == 1 { "line" } else { "lines" };
            let notice = format!("{count} {lines} of the log before this one lost: {why}");
            self.write_line(Level::Warn, "procsig", &notice);
            // The notice itself is none of them.
            locked(&self.lines).add_lost(*count);
        }
        self.write_line(level, target, message);
    }

    fn write_line(&self, level: Level, target: &str, message: &str) {
        let Identity { role, pid } = identity();
        let (time, erase) = (now(), bar::erase());
        match &self.text {
            Some(text) => {
                let message = escape(message);
                text.log(
                    &Record::builder()
                        .level(level)
                        .target(target)
                        .args(format_args!("{erase}{time} {level:<5} {role}[{pid}] {message}"))
                        .build(),
                );
            }
            None => {
                let line = JsonLine { time, level: level.as_str(), role: &role, pid, message };
                if let Some(json) = line.json() {
                    locked(&self.lines).write(json.as_bytes());
                }
            }
        }
    }
}

impl<W: Output> Log for Logger<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_enabled(self.level, metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Formatted before any lock is taken: a `Display` that logs or panics is the caller's
        // business, and must neither deadlock nor poison.
        let message = message(record);
        if let Some(repeats) = &self.repeats {
            let (due, is_said) = {
                let (mut repeats, now) = (locked(repeats), clock::now());
                let repeats = own(&mut repeats, identity().pid);
                (repeats.due(now), repeats.hear(record, &message, now))
            };
            for (level, text) in due {
                self.write(level, "procsig", &text);
            }
            if !is_said {
                return;
            }
        }
        self.write(record.level(), record.target(), &message);
    }

    fn flush(&self) {
        if let Some(repeats) = &self.repeats {
            let held_back = own(&mut locked(repeats), identity().pid).take_all(clock::now());
            for (level, text) in held_back {
                self.write(level, "procsig", &text);
            }
        }
    }
}

/// Time, level, role, pid, message. simplelog's own fields are off, since its level stands in
/// brackets, its thread means nothing here, and its macro for a time with microseconds works only
/// where the crate `time` is a direct dependency.
fn text_writer<W: Output>(level: LevelFilter, pieces: Pieces<W>) -> Box<WriteLogger<Pieces<W>>> {
    let config = ConfigBuilder::new()
        .set_time_level(LevelFilter::Off)
        .set_max_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build();
    WriteLogger::new(level, config, pieces)
}

/// UTC with microseconds: `2026-01-31T22:39:19.123456Z`.
fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

fn message<'a>(record: &Record<'a>) -> Cow<'a, str> {
    match record.args().as_str() {
        Some(text) => Cow::Borrowed(text),
        None => Cow::Owned(record.args().to_string()),
    }
}

/// One JSON object a line.
#[derive(serde::Serialize)]
struct JsonLine<'a> {
    time: String,
    level: &'static str,
    role: &'a str,
    pid: u32,
    message: &'a str,
}

impl JsonLine<'_> {
    /// With the line's end. Strings and a number: this can't fail, and if it did, no line is better
    /// than a panic.
    fn json(&self) -> Option<String> {
        let mut json = harmless_json(serde_json::to_string(self).ok()?);
        json.push('\n');
        Some(json)
    }
}

/// Makes a text fit into one line and harmless on a terminal: control characters, line separators and
/// what is not seen or turns a line around are written as escapes, all else stays. A backslash stays,
/// too: this is for eyes.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            _ if character.is_control() => {
                escaped.push_str(&format!("\\x{:02x}", u32::from(character)));
            }
            _ if is_harmful(character) => escaped.extend(character.escape_unicode()),
            _ => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// JSON leaves DEL and C1 controls as they are, but terminals obey them: the same object, with escapes for
/// what [`escape`] replaces.
pub(crate) fn harmless_json(json: String) -> String {
    // A line end as it is stands between values, and never in a text.
    let is_harmful = |character: char| character != '\n' && is_harmful(character);
    if !json.contains(is_harmful) {
        return json;
    }
    json.chars().fold(String::with_capacity(json.len() + 8), |mut text, character| {
        match is_harmful(character) {
            // None of them is beyond four digits.
            true => text.push_str(&format!("\\u{:04x}", u32::from(character))),
            false => text.push(character),
        }
        text
    })
}

/// Would it steer a terminal, or show a line as another than it is?
fn is_harmful(character: char) -> bool {
    matches!(
        character,
        '\u{061c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    ) || character.is_control()
}

#[cfg(test)]
mod tests;
