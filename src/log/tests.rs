//! What a line looks like, and what is written at all.

use super::lines::tests::Recorder;
use super::*;

/// Role and pid belong to the process, and tests share one.
static SOLE_USE_OF_IDENTITY: Mutex<()> = Mutex::new(());

fn sole_use_of_identity() -> impl Drop {
    SOLE_USE_OF_IDENTITY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text_logger(level: LevelFilter, recorder: Recorder) -> Logger<Recorder> {
    Logger::new(level, config::LogFormat::Text, recorder)
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
    assert_eq!(escape("\u{202e}evil\u{200b}"), "\\u{202e}evil\\u{200b}", "turned around, not seen");
    assert!(matches!(escape("Grüße, 世界 \\ 🦀"), Cow::Borrowed("Grüße, 世界 \\ 🦀")));
}

#[test]
fn a_text_line_has_its_shape_and_is_one_write() {
    let _guard = sole_use_of_identity();
    let recorder = Recorder::default();
    let logger = text_logger(LevelFilter::Info, recorder.clone());
    log(&logger, Level::Info, "procsig::control", "stop requested:\nsignal");
    log(&logger, Level::Error, "procsig", &"x".repeat(300_000));
    log(&logger, Level::Debug, "procsig", "not shown");
    let writes = recorder.writes();
    assert_eq!(writes.len(), 2);
    let (time, rest) = writes[0].split_at("2026-01-31T22:39:19.123456Z".len());
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
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
    let logger = Logger::new(LevelFilter::Trace, config::LogFormat::Json, recorder.clone());
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
    log(&text_logger(LevelFilter::Info, recorder.clone()), Level::Info, "procsig", "ready");
    set_role(&former);
    let expected = format!(" INFO  worker a\\nb/0[{}] ready\n", std::process::id());
    assert!(recorder.writes()[0].ends_with(&expected), "{:?}", recorder.writes());
}

#[test]
fn libraries_are_quiet_below_warnings() {
    let recorder = Recorder::default();
    let logger = text_logger(LevelFilter::Trace, recorder.clone());
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

#[test]
fn a_warning_that_is_repeated_is_said_once_with_a_count_at_the_end_and_news_are_said() {
    let recorder = Recorder::default();
    let logger = text_logger(LevelFilter::Info, recorder.clone());
    for _ in 0..5 {
        log(&logger, Level::Warn, "procsig", "no room");
        log(&logger, Level::Info, "procsig", "tick");
    }
    log(&logger, Level::Error, "elsewhere", "no room");
    logger.flush();
    logger.flush();
    let all = recorder.writes().concat();
    assert_eq!(all.matches("tick").count(), 5, "{all}");
    assert_eq!(all.matches("no room\n").count(), 2, "{all}");
    assert_eq!(all.matches("no room (said 4 times more in ").count(), 1, "{all}");
    assert_eq!(recorder.writes().len(), 8, "{all}");
}

#[test]
fn who_wants_to_see_everything_does() {
    let recorder = Recorder::default();
    let logger = text_logger(LevelFilter::Debug, recorder.clone());
    for _ in 0..3 {
        log(&logger, Level::Warn, "procsig", "no room");
    }
    assert_eq!(recorder.writes().len(), 3);
}

#[test]
fn lost_lines_are_said_when_there_is_room_again() {
    let recorder = Recorder::default();
    let logger = text_logger(LevelFilter::Info, recorder.clone());
    *recorder.failures.lock().unwrap() = vec![std::io::ErrorKind::StorageFull; 3];
    for text in ["one", "two", "three"] {
        log(&logger, Level::Info, "procsig", text);
    }
    let writes = recorder.writes();
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    // The second told of the first, in vain; so did the third of both.
    let expected = format!("2 lines of the log before this one lost: {full}\n");
    assert!(writes[0].ends_with(&expected), "{writes:?}");
    assert!(writes[1].ends_with(" three\n"), "{writes:?}");
    assert_eq!(writes.len(), 2);
}
