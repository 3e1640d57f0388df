//! The log: one whole line an event, also with many processes writing to the same place.
//!
//! ```text
//! 2026-01-31T22:39:19.123456Z INFO  supervisor[465187] stop requested: signal
//! ```
//!
//! Three constraints shape this module. A line reaches the system in *one* `write`, or lines of
//! several processes would interleave: simplelog writes a line in about ten pieces, so
//! [`WholeLines`] collects them. A message is data from anywhere (a job, a command's output), so
//! [`escape`] keeps it on its line. And the log is never the reason that a program fails: a
//! closed or full destination loses lines, nothing else.
//!
//! A host program that has installed a logger keeps it, and gets our records.

mod lines;

use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ::log::{Level, LevelFilter, Log, Metadata, Record};
use simplelog::{ConfigBuilder, WriteLogger};

use crate::config;
use crate::error::Error;
use lines::{Destination, Output, WholeLines};

/// Sets up the log for this process and those that it forks. Does nothing if there is a logger.
///
/// # Errors
///
/// [`Error::File`] when the log file can't be opened.
pub(crate) fn init(settings: &config::Log) -> Result<(), Error> {
    let destination = match &settings.file {
        None => Destination::Stderr(io::stderr()),
        Some(path) => {
            let options = OpenOptions::new().append(true).create(true).mode(0o640).open(path);
            let file = options.map_err(|error| Error::file(path, "can't open the log", error))?;
            Destination::File(file)
        }
    };
    let logger: Box<dyn Log> = match settings.format {
        config::LogFormat::Text => Box::new(TextLog::new(settings.level, destination)),
        config::LogFormat::Json => Box::new(JsonLog::new(settings.level, destination)),
    };
    // An error means that a logger is there, and then the level is its owner's matter, too.
    if ::log::set_boxed_logger(logger).is_ok() {
        ::log::set_max_level(settings.level);
    }
    Ok(())
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

/// Time, level, role, pid, message. simplelog filters and writes; its own fields are off, since
/// its level stands in brackets, its thread means nothing here, and its macro for a time with
/// microseconds works only where the crate `time` is a direct dependency.
struct TextLog<W: Output> {
    level: LevelFilter,
    lines: Box<WriteLogger<WholeLines<W>>>,
}

impl<W: Output> TextLog<W> {
    fn new(level: LevelFilter, destination: W) -> TextLog<W> {
        let config = ConfigBuilder::new()
            .set_time_level(LevelFilter::Off)
            .set_max_level(LevelFilter::Off)
            .set_thread_level(LevelFilter::Off)
            .set_target_level(LevelFilter::Off)
            .set_location_level(LevelFilter::Off)
            .build();
        TextLog { level, lines: WriteLogger::new(level, config, WholeLines::new(destination)) }
    }
}

impl<W: Output> Log for TextLog<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_enabled(self.level, metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Formatted before simplelog takes its lock: a `Display` that logs or panics is the
        // caller's business, and must neither deadlock nor poison.
        let message = message(record);
        let message = escape(&message);
        let Identity { role, pid } = identity();
        let (time, level) = (now(), record.level());
        self.lines.log(
            &Record::builder()
                .level(level)
                .target(record.target())
                .args(format_args!("{time} {level:<5} {role}[{pid}] {message}"))
                .build(),
        );
    }

    fn flush(&self) {
        self.lines.flush();
    }
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
struct JsonLog<W: Output> {
    level: LevelFilter,
    lines: Mutex<WholeLines<W>>,
}

#[derive(serde::Serialize)]
struct JsonLine<'a> {
    time: String,
    level: &'static str,
    role: &'a str,
    pid: u32,
    message: &'a str,
}

impl<W: Output> JsonLog<W> {
    fn new(level: LevelFilter, destination: W) -> JsonLog<W> {
        JsonLog { level, lines: Mutex::new(WholeLines::new(destination)) }
    }
}

impl<W: Output> Log for JsonLog<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_enabled(self.level, metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Identity { role, pid } = identity();
        let line = JsonLine {
            time: now(),
            level: record.level().as_str(),
            role: &role,
            pid,
            message: &message(record),
        };
        // Strings and a number: this can't fail, and if it did, no line is better than a panic.
        let Ok(mut json) = serde_json::to_string(&line) else { return };
        // JSON leaves DEL and C1 controls as they are, but terminals obey them.
        if json.contains(char::is_control) {
            json = json.chars().fold(String::new(), |mut text, character| {
                match character.is_control() {
                    true => text.push_str(&format!("\\u{:04x}", u32::from(character))),
                    false => text.push(character),
                }
                text
            });
        }
        json.push('\n');
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody could be told.
        let _ = lines.write_all(json.as_bytes());
    }

    fn flush(&self) {}
}

/// Makes a text fit into one line and harmless on a terminal: control characters and line
/// separators are written as escapes, all else stays. A backslash stays, too: this is for eyes.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let is_harmful =
        |character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
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

#[cfg(test)]
mod tests {
    use super::lines::tests::Recorder;
    use super::*;

    /// Role and pid belong to the process, and tests share one.
    static SOLE_USE_OF_IDENTITY: Mutex<()> = Mutex::new(());

    fn sole_use_of_identity() -> impl Drop {
        SOLE_USE_OF_IDENTITY.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(logger: &dyn Log, level: Level, target: &str, message: &str) {
        logger.log(
            &Record::builder().level(level).target(target).args(format_args!("{message}")).build(),
        );
    }

    #[test]
    fn control_characters_are_escaped_and_all_else_is_kept() {
        assert_eq!(escape("a\nb\r\t\x1b[31m\0\x7f\u{9b}"), "a\\nb\\r\\t\\x1b[31m\\x00\\x7f\\x9b");
        assert_eq!(escape("\u{2028}"), "\\u{2028}");
        assert!(matches!(escape("Grüße, 世界 \\ 🦀"), Cow::Borrowed("Grüße, 世界 \\ 🦀")));
    }

    #[test]
    fn a_text_line_has_its_shape_and_is_one_write() {
        let _guard = sole_use_of_identity();
        let recorder = Recorder::default();
        let logger = TextLog::new(LevelFilter::Info, recorder.clone());
        log(&logger, Level::Info, "procsig::control", "stop requested:\nsignal");
        log(&logger, Level::Error, "procsig", &"x".repeat(300_000));
        log(&logger, Level::Debug, "procsig", "not shown");
        let writes = recorder.writes();
        assert_eq!(writes.len(), 2);
        let (time, rest) = writes[0].split_at("2026-01-31T22:39:19.123456Z".len());
        let shape: String =
            time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
        let Identity { role, pid } = identity();
        assert_eq!(rest, format!(" INFO  {role}[{pid}] stop requested:\\nsignal\n"));
        assert!(writes[1].contains(" ERROR ") && writes[1].ends_with("x\n"));
        assert!(writes[1].len() > 300_000);
    }

    #[test]
    fn a_json_line_is_one_object_and_one_write() {
        let _guard = sole_use_of_identity();
        let recorder = Recorder::default();
        let logger = JsonLog::new(LevelFilter::Trace, recorder.clone());
        log(&logger, Level::Warn, "procsig", "a \"b\"\n\u{9b}c");
        let writes = recorder.writes();
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].matches(char::is_control).collect::<String>(), "\n");
        let value: serde_json::Value = serde_json::from_str(&writes[0]).unwrap();
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "a \"b\"\n\u{9b}c");
        assert_eq!(value["role"], *role());
        assert_eq!(value["pid"], std::process::id());
        let time = value["time"].as_str().unwrap();
        assert_eq!(time.len(), "2026-01-31T22:39:19.123456Z".len());
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }

    #[test]
    fn a_role_is_shown_with_its_pid_and_on_one_line() {
        let _guard = sole_use_of_identity();
        let former = role();
        set_role("worker a\nb/0");
        let recorder = Recorder::default();
        log(&TextLog::new(LevelFilter::Info, recorder.clone()), Level::Info, "procsig", "ready");
        set_role(&former);
        let expected = format!(" INFO  worker a\\nb/0[{}] ready\n", std::process::id());
        assert!(recorder.writes()[0].ends_with(&expected), "{:?}", recorder.writes());
    }

    #[test]
    fn libraries_are_quiet_below_warnings() {
        let recorder = Recorder::default();
        let logger = TextLog::new(LevelFilter::Trace, recorder.clone());
        log(&logger, Level::Debug, "ipc_channel::platform", "no");
        log(&logger, Level::Info, "mio", "no");
        log(&logger, Level::Warn, "mio::poll", "yes");
        log(&logger, Level::Trace, "miolike", "yes");
        assert_eq!(recorder.writes().len(), 2);
    }

    #[test]
    fn a_log_file_is_appended_to_and_not_readable_by_all() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("procsig.log");
        let settings = config::Log { file: Some(path.clone()), ..config::Log::default() };
        init(&settings).unwrap();
        init(&settings).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o137, 0, "{mode:o}");
        let settings =
            config::Log { file: Some(folder.path().to_path_buf()), ..config::Log::default() };
        assert!(matches!(init(&settings), Err(Error::File { .. })));
    }
}
