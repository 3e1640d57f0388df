//! The tables of the file: each key with the kind of value that it takes.
//!
//! Ranges that hold by themselves stand here; what depends on other keys is for
//! [`super::resolve`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ::log::LevelFilter;

use super::super::{Compression, Lines, LogFormat, SyncPolicy};
use super::jobs;
use super::output::{self, Kind};
use super::reader::{self, Field, Named, Origin, Value};
use super::resolve::{self, Resolver};
use super::rotation;
use super::values;
use reader::{boolean, duration, named_tables, path, positive, size, table, text, texts, whole};

/// Words, or what names one: read as they are, checked where it is known what there is.
fn any(text: &str) -> Result<String, crate::error::Wrong> {
    Ok(text.to_owned())
}

/// A table whose keys are known.
pub(super) trait Table: Default {
    /// Its keys, in the order in which messages list them.
    const KEYS: &'static [&'static str];

    /// Reads the value of a key. `false`: there is no such key.
    fn set(&mut self, key: &str, given: (&mut Resolver<'_>, &Value<'_>, &Origin)) -> bool;
}

/// `KEY: TYPE = what reads it`
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty = $read:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name {
            $(pub(super) $key: Field<$type>,)*
        }

        impl Table for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn set(
                &mut self,
                key: &str,
                (resolver, value, origin): (&mut Resolver<'_>, &Value<'_>, &Origin),
            ) -> bool {
                match key {
                    $(stringify!($key) => {
                        self.$key = resolver.field((value, origin), $read);
                    })*
                    _ => return false,
                }
                true
            }
        }
    };
}

table! {
    /// The whole file.
    RawConfig {
        name: String = text(resolve::pipeline_name),
        jobs: RawJobs = table,
        workers: Vec<Named<RawWorker>> = named_tables,
        buffer: RawBuffer = table,
        output: RawOutput = table,
        dead_letters: RawDeadLetters = table,
        shutdown: RawShutdown = table,
        restart: RawRestart = table,
        spool: RawSpool = table,
        log: RawLog = table,
        privileges: RawPrivileges = table,
    }
}

table! {
    /// `[jobs]`
    RawJobs {
        lines: Lines = jobs::lines,
        every: Duration = positive,
        again: bool = boolean,
        directory: PathBuf = path,
        once: bool = boolean,
        source: String = text(any),
    }
}

table! {
    /// `[workers.NAME]`
    RawWorker {
        command: Vec<(String, Origin)> = texts,
        function: String = text(any),
        coprocess: Vec<(String, Origin)> = texts,
        processes: u16 = whole(1..=10_000),
        threads: u16 = whole(1..=1_024),
        timeout: Duration = positive,
        attempts: u32 = whole(1..=i64::from(u32::MAX)),
        retry_delay: Duration = duration(values::duration),
        max_output: u64 = size(1 << 10..=1 << 30),
        env: BTreeMap<String, String> = reader::environment,
        recycle_after: u64 = whole(1..=i64::MAX),
        recycle_above: u64 = size(1 << 20..=u64::MAX),
        memory_limit: u64 = size(1 << 20..=1 << 50),
        descriptor_limit: u64 = whole(1..=1 << 30),
        nice: i32 = whole(-20..=19),
        oom_score_adj: i32 = whole(-1000..=1000),
    }
}

table! {
    /// `[buffer]`
    RawBuffer {
        flush_records: u64 = whole(1..=i64::MAX),
        flush_bytes: u64 = size(1..=u64::MAX),
        flush_after: Duration = positive,
    }
}

table! {
    /// `[output]`
    RawOutput {
        file: PathBuf = path,
        sink: String = text(any),
        format: Kind = text(output::kind),
        columns: Vec<(String, Origin)> = texts,
        table: String = text(output::table_name),
        sync: SyncPolicy = duration(output::sync_policy),
        rotate_bytes: u64 = size(1 << 10..=u64::MAX),
        rotate_every: Duration = duration(rotation::period),
        keep: u32 = whole(1..=i64::from(u32::MAX)),
        compress: Compression = text(rotation::compression),
    }
}

table! {
    /// `[dead_letters]`
    RawDeadLetters {
        file: PathBuf = path,
    }
}

table! {
    /// `[shutdown]`
    RawShutdown {
        deadline: Duration = positive,
        flush_reserve: Duration = positive,
    }
}

table! {
    /// `[restart]`
    RawRestart {
        max: u32 = whole(0..=i64::from(u32::MAX)),
        within: Duration = positive,
    }
}

table! {
    /// `[spool]`
    RawSpool {
        file: PathBuf = path,
        lane: u64 = size(64 << 10..=1 << 30),
        jobs: u32 = whole(1..=1 << 20),
        job_bytes: u32 = size(64..=1 << 20),
    }
}

table! {
    /// `[log]`
    RawLog {
        level: LevelFilter = text(resolve::log_level),
        format: LogFormat = text(resolve::log_format),
        file: PathBuf = path,
    }
}

table! {
    /// `[privileges]`
    RawPrivileges {
        user: String = text(any),
        group: String = text(any),
        no_new_privs: bool = boolean,
    }
}

/// All keys with the tables that they belong to; the table of a file's own keys has no name.
pub(crate) fn keys() -> Vec<(&'static str, &'static str)> {
    let tables = [
        ("jobs", RawJobs::KEYS),
        ("workers.NAME", RawWorker::KEYS),
        ("buffer", RawBuffer::KEYS),
        ("output", RawOutput::KEYS),
        ("dead_letters", RawDeadLetters::KEYS),
        ("shutdown", RawShutdown::KEYS),
        ("restart", RawRestart::KEYS),
        ("spool", RawSpool::KEYS),
        ("log", RawLog::KEYS),
        ("privileges", RawPrivileges::KEYS),
    ];
    let is_table = |key: &str| tables.iter().any(|(table, _)| table.split('.').next() == Some(key));
    let own = RawConfig::KEYS.iter().filter(|key| !is_table(key)).map(|key| ("", *key));
    let of_tables = tables.iter().flat_map(|(table, keys)| keys.iter().map(|key| (*table, *key)));
    own.chain(of_tables).collect()
}

#[cfg(test)]
mod tests {
    use super::keys;

    /// The page that names all keys, with the table that each belongs to.
    const PAGE: &str = include_str!("../../../docs/configuration.md");

    #[test]
    fn the_page_of_the_configuration_has_every_key_and_no_other() {
        let (mut table, mut there) = (String::new(), Vec::new());
        for line in PAGE.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                let name = heading.strip_prefix("`[").and_then(|rest| rest.strip_suffix("]`"));
                table = name.unwrap_or("").to_owned();
            }
            let key = line.strip_prefix("| `").and_then(|rest| rest.split_once("` |"));
            there.extend(key.map(|(key, _)| (table.clone(), key.to_owned())));
        }
        let mut known: Vec<(String, String)> =
            keys().into_iter().map(|(table, key)| (table.into(), key.into())).collect();
        known.sort();
        there.sort();
        assert_eq!(there, known, "docs/configuration.md against the keys that are known");
    }
}
