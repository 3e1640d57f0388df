//! What a reader without the configuration needs to know of a run: main writes it into the spool
//! at each start, as JSON with a length and a checksum.
//!
//! It is for people, so it is never a reason to refuse anything: what is too long is cut, first
//! what workers run, then all other texts.

use super::queue::spool::Spool;
use crate::config::{self, Config, Format, Run};
use crate::sys::atomic::Ordering;
use serde::{Deserialize, Serialize};

/// What runs, or ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct About {
    /// Which run this was written by.
    pub run_id: u64,
    /// Version of the program.
    pub version: String,
    /// Name of the pipeline.
    pub name: String,
    /// Where jobs come from; without it there are only producers.
    pub jobs: Option<String>,
    /// The run ends with its jobs.
    pub finite: bool,
    /// Where results go: a file, unless `own_sink`.
    pub output: String,
    pub own_sink: bool,
    /// How records look there; empty if it was not written down.
    #[serde(default)]
    pub format: String,
    pub dead_letters: Option<String>,
    /// Without it the log goes to standard error.
    pub log_file: Option<String>,
    /// The kinds of worker, in the order of their lanes.
    pub kinds: Vec<Kind>,
    /// When the buffer writes.
    pub flush_records: u64,
    pub flush_bytes: u64,
    pub flush_after_seconds: f64,
}

/// One kind of worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kind {
    pub name: String,
    pub processes: u16,
    pub threads: u16,
    /// "command", "coprocess" or "function".
    pub runs: String,
    /// The command with its arguments, or the function's name. Cut if it is long.
    pub what: Vec<String>,
    pub takes_jobs: bool,
}

/// Texts are cut to so many bytes: first what workers run, then all others too.
const CUTS: [usize; 6] = [4096, 1024, 256, 64, 16, 0];

impl About {
    /// What is to be known of a run. `jobs`: what messages call the place that they come from.
    /// `takes_jobs`: of each kind of worker, whether it takes them.
    pub(crate) fn of(
        config: &Config,
        run_id: u64,
        jobs: Option<String>,
        takes_jobs: impl IntoIterator<Item = bool>,
    ) -> About {
        let kinds = config.workers.iter().zip(takes_jobs);
        let own_sink = match &config.output.format {
            Format::Own(name) => Some(name.clone()),
            _ => None,
        };
        About {
            run_id,
            version: env!("CARGO_PKG_VERSION").into(),
            name: config.name.clone(),
            jobs,
            finite: config.jobs.as_ref().is_some_and(config::Jobs::is_finite),
            own_sink: own_sink.is_some(),
            output: own_sink.unwrap_or_else(|| absolute(&config.output.file)),
            format: format!("{:?}", config.output.format),
            dead_letters: config.dead_letters.as_deref().map(absolute),
            log_file: config.log.file.as_deref().map(absolute),
            kinds: kinds.map(|(worker, takes_jobs)| Kind::of(worker, takes_jobs)).collect(),
            flush_records: config.buffer.flush_records,
            flush_bytes: config.buffer.flush_bytes,
            flush_after_seconds: config.buffer.flush_after.as_secs_f64(),
        }
    }

    /// Are the files that it writes those of this configuration, and are they written alike? Never of
    /// what is no file.
    pub(crate) fn has_files_of(&self, config: &Config) -> bool {
        let is_file = !matches!(config.output.format, Format::Own(_) | Format::Sqlite { .. });
        let theirs = About::of(config, self.run_id, None, []);
        is_file
            && self.own_sink == theirs.own_sink
            && self.output == theirs.output
            && self.format == theirs.format
            && self.dead_letters == theirs.dead_letters
    }

    /// Writes it into the spool. Killed half-way, there is none.
    pub(crate) fn store(&self, spool: &Spool) {
        let text = self.text(spool.layout.about_bytes);
        let head = spool.about_head();
        head.len.store(0, Ordering::Release);
        spool.mapping.write(spool.about_text(), &text);
        head.checksum.store(checksum(self.run_id, &text), Ordering::Relaxed);
        head.len.store(text.len() as u64, Ordering::Release);
    }

    /// Reads what the last run has written, if it is whole and of that run.
    pub(crate) fn load(spool: &Spool) -> Option<About> {
        let head = spool.about_head();
        let len = usize::try_from(head.len.load(Ordering::Acquire)).ok()?;
        if len == 0 || len > spool.layout.about_bytes {
            return None;
        }
        let mut text = Vec::new();
        spool.mapping.append_to(spool.about_text(), len, &mut text);
        let run_id = spool.run().run_id.load(Ordering::Relaxed);
        if head.checksum.load(Ordering::Relaxed) != checksum(run_id, &text) {
            return None;
        }
        serde_json::from_slice(&text).ok().filter(|about: &About| about.run_id == run_id)
    }

    /// As JSON of so many bytes at most.
    fn text(&self, bytes_max: usize) -> Vec<u8> {
        let mut about = self.clone();
        let json = |about: &About| serde_json::to_vec(about).unwrap_or_default();
        let fits = |text: &Vec<u8>| text.len() <= bytes_max;
        if let Some(text) = Some(json(&about)).filter(fits) {
            return text;
        }
        for limit in CUTS {
            about.kinds.iter_mut().for_each(|kind| kind.cut(limit));
            if let Some(text) = Some(json(&about)).filter(fits) {
                return text;
            }
        }
        for limit in CUTS {
            about.cut(limit);
            if let Some(text) = Some(json(&about)).filter(fits) {
                return text;
            }
        }
        // More kinds than lanes: no configuration has that.
        about.kinds.clear();
        Some(json(&about)).filter(fits).unwrap_or_default()
    }

    fn cut(&mut self, limit: usize) {
        let names = self.kinds.iter_mut().map(|kind| &mut kind.name);
        let some = [&mut self.jobs, &mut self.dead_letters, &mut self.log_file];
        let texts = [&mut self.name, &mut self.output, &mut self.format].into_iter().chain(names);
        // A name of 64 bytes stays as it is.
        texts.chain(some.into_iter().flatten()).for_each(|text| cut(text, limit.max(64)));
    }
}

impl Kind {
    fn of(worker: &config::Worker, takes_jobs: bool) -> Kind {
        let (runs, what) = match &worker.run {
            Run::Command(argv) => ("command", argv.clone()),
            Run::Coprocess(argv) => ("coprocess", argv.clone()),
            Run::Function(name) => ("function", vec![name.clone()]),
        };
        let &config::Worker { processes, threads, .. } = worker;
        Kind { name: worker.name.clone(), processes, threads, runs: runs.into(), what, takes_jobs }
    }

    /// Leaves so many bytes of what it runs, arguments from the end first.
    fn cut(&mut self, limit: usize) {
        let mut left = limit;
        let whole = self.what.len();
        self.what.retain_mut(|word| {
            let before = std::mem::take(&mut left);
            if before == 0 {
                return false;
            }
            cut(word, before);
            left = before.saturating_sub(word.len() + 1);
            true
        });
        if limit > 0 && self.what.len() < whole {
            self.what.push("…".into());
        }
    }
}

/// Cuts a text to so many bytes at most, but for the sign that says so.
fn cut(text: &mut String, limit: usize) {
    const SIGN: &str = "…";
    if text.len() > limit + SIGN.len() {
        let end = (0..=limit).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(SIGN);
    }
}

/// How a person in another directory finds the file.
fn absolute(path: &std::path::Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string()
}

fn checksum(run_id: u64, text: &[u8]) -> u64 {
    crc32c::crc32c_append(crc32c::crc32c(&run_id.to_le_bytes()), text).into()
}

#[cfg(test)]
mod tests;
