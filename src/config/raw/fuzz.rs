//! Any bytes as a configuration file: see [`crate::fuzzing`].

use std::env::VarError;
use std::path::Path;

use super::known::{Known, KnownFunction};
use super::{Overrides, resolve, text};
use crate::config::Config;
use crate::error::{Error, Mistakes};

/// Reads them as a file, and says what is wrong. Nothing but names is looked up on this machine.
pub(crate) fn configuration(data: &[u8]) -> Mistakes {
    let path = Path::new("fuzz.toml");
    let text = match text::of_bytes(path, data.to_vec()) {
        Ok(text) => text,
        Err(mistakes) => return checked(mistakes),
    };
    let function = |name: &str, takes_jobs| KnownFunction {
        name: name.to_owned(),
        takes_jobs,
        record: "record",
    };
    let known = Known {
        functions: vec![function("check", true), function("tick", false)],
        ..Known::default()
    };
    let environment = |name: &str| match name {
        "LIST" => Ok("hosts.txt".to_owned()),
        "EMPTY" => Ok(String::new()),
        "RED" => Ok("\u{1b}[31m\n".to_owned()),
        _ => Err(VarError::NotPresent),
    };
    let overrides = Overrides::default();
    let loaded = resolve::file(path, &text, (&overrides, &known), &environment, false);
    match loaded {
        Ok(loaded) => {
            assert_valid(&loaded.config);
            checked(loaded.warnings)
        }
        Err(Error::Mistakes(mistakes)) => {
            assert!(mistakes.iter().len() > 0, "refused, and nobody knows why");
            checked(mistakes)
        }
        Err(error) => panic!("a mistake without a place: {error}"),
    }
}

/// The place of each mistake is in the file.
fn checked(mistakes: Mistakes) -> Mistakes {
    let lines = 1 + mistakes.text().bytes().filter(|byte| *byte == b'\n').count();
    for mistake in mistakes.iter() {
        if let Some(bytes) = &mistake.bytes {
            assert!(bytes.start <= bytes.end, "{mistake:?}");
            assert!(bytes.start <= mistakes.text().len(), "{mistake:?}");
        }
        if let Some(range) = mistakes.range(mistake) {
            assert!((1..=lines).contains(&range.start.line), "{mistake:?}");
            assert!(range.start <= range.end && range.end.line <= lines, "{mistake:?}");
            assert!(range.start.column > 0, "{mistake:?}");
        }
        assert!(!mistake.wrong.message().is_empty(), "{mistake:?}");
    }
    mistakes
}

/// What everything else relies on.
fn assert_valid(config: &Config) {
    assert!(!config.name.is_empty() && !config.workers.is_empty(), "{config:?}");
    assert!(config.shutdown.flush_reserve <= config.shutdown.deadline, "{config:?}");
    assert!(config.buffer.flush_records > 0 && config.buffer.flush_bytes > 0, "{config:?}");
    assert!(config.spool.jobs > 0 && config.spool.job_bytes > 0, "{config:?}");
    for (index, worker) in config.workers.iter().enumerate() {
        assert!(worker.processes > 0 && worker.threads > 0 && worker.attempts > 0, "{worker:?}");
        assert!(config.workers[..index].iter().all(|other| other.name != worker.name));
    }
}
