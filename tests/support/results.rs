//! The output of runs: every line whole, every job at most once.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The lines of an output, in order.
#[derive(Debug, Clone)]
pub struct Results {
    pub lines: Vec<Value>,
}

impl Results {
    /// Reads an output, every line of which must be whole. No file is no results.
    #[track_caller]
    pub fn read(path: &Path) -> Results {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("{}: {error}", path.display()),
        };
        let text = String::from_utf8(bytes).expect("the output is UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "the output ends in a torn line: {text}");
        let parse = |line: &str| {
            let value = serde_json::from_str::<Value>(line);
            let value = value.unwrap_or_else(|error| panic!("{error} in the line {line:?}"));
            assert!(value.is_object(), "no object: {line}");
            value
        };
        Results { lines: text.lines().map(parse).collect() }
    }

    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// The results by round (0 where there are no rounds) and number of the job, each of which is
    /// there at most once.
    #[track_caller]
    pub fn by_job(&self) -> BTreeMap<(u64, u64), &Value> {
        let mut results = BTreeMap::new();
        for line in &self.lines {
            let seq = line["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {line}"));
            let round = line.get("round").map_or(0, |round| round.as_u64().expect("a number"));
            let before = results.insert((round, seq), line);
            assert!(before.is_none(), "twice in the output: {line} and {before:?}");
        }
        results
    }

    /// Every job at most once, and each result is that of its job.
    #[track_caller]
    pub fn assert_at_most_once(&self, jobs: &[String]) {
        for ((_, seq), line) in self.by_job() {
            let job = jobs.get((seq as usize).wrapping_sub(1));
            assert_eq!(line["job"].as_str(), job.map(String::as_str), "the job of {line}");
        }
    }

    /// Every job exactly once.
    #[track_caller]
    pub fn assert_exactly_once(&self, jobs: &[String]) {
        self.assert_at_most_once(jobs);
        let there: Vec<u64> = self.by_job().keys().map(|(_, seq)| *seq).collect();
        let missing: Vec<u64> =
            (1..=jobs.len() as u64).filter(|seq| !there.contains(seq)).collect();
        assert!(missing.is_empty(), "missing of {}: {missing:?}", jobs.len());
        assert_eq!(self.len(), jobs.len());
    }

    /// The result of the job with this number.
    #[track_caller]
    pub fn of(&self, seq: u64) -> &Value {
        let found = self.lines.iter().find(|line| line["seq"] == seq);
        found.unwrap_or_else(|| panic!("no result of job {seq} in {:#?}", self.lines))
    }
}
