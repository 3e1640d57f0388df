//! What was written, file by file: each outcome once, each author's records in order and without a gap.
//!
//! A file that was set aside is read once, before it is one of those that are not kept any more. The
//! one that is written to is read only while nobody writes, and for that look alone.

use crate::pipelines::{DEAD, Kind};
use crate::support::Place;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

/// See above.
#[derive(Clone)]
pub struct Ledger {
    kind: Kind,
    /// Files that were set aside, by the names they got then.
    read: BTreeSet<String>,
    /// Records in them.
    records: u64,
    /// Outcomes of jobs: by their texts or the names of files; rounds before them.
    pub done: BTreeSet<String>,
    /// The last record of each author.
    pub authors: BTreeMap<String, u64>,
    /// A job of which some records are there.
    open: BTreeMap<String, (String, u64)>,
}

impl Ledger {
    pub fn of(kind: Kind) -> Ledger {
        let (read, done, authors, open) = Default::default();
        Ledger { kind, read, records: 0, done, authors, open }
    }

    /// Records that were read so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Files that were set aside so far.
    pub fn files(&self) -> usize {
        self.read.len()
    }

    /// All jobs up to now have their outcomes, and others have other names.
    pub fn forget_done(&mut self) {
        self.done.clear();
    }

    /// Reads what was set aside since the last look.
    #[track_caller]
    pub fn read_set_aside(&mut self, place: &Place) {
        let files = place.files();
        let names: BTreeSet<&str> =
            files.iter().filter_map(|name| self.kind.set_aside(name)).collect();
        for name in names {
            if self.read.contains(name) {
                continue;
            }
            let packed = [String::new(), ".gz".into(), ".zst".into()];
            let found = packed.iter().find_map(|end| unpack(&place.path(&format!("{name}{end}"))));
            // Compressed since we have looked: the next look finds it.
            let Some(bytes) = found else { return };
            self.read_file(name, &bytes);
            self.read.insert(name.to_owned());
        }
    }

    /// Reads a file that others have moved away, and that nobody writes to any more.
    #[track_caller]
    pub fn read_moved(&mut self, path: &Path) {
        let bytes = std::fs::read(path).expect("a file that was moved");
        self.read_file(&path.display().to_string(), &bytes);
    }

    /// All that there is while nobody writes.
    #[track_caller]
    pub fn whole(&self, place: &Place, moved: Option<&Path>) -> Ledger {
        let mut all = self.clone();
        all.read_set_aside(place);
        if let Some(moved) = moved {
            all.read_moved(moved);
        }
        let bytes = std::fs::read(place.path(self.kind.output())).unwrap_or_default();
        all.read_file(self.kind.output(), &bytes);
        all.read_dead_letters(place);
        all
    }

    /// Of all times.
    #[track_caller]
    fn read_dead_letters(&mut self, place: &Place) {
        let text = place.read(DEAD);
        assert!(text.is_empty() || text.ends_with('\n'), "{DEAD} ends in a torn line");
        let mut dead = BTreeSet::new();
        for line in text.lines() {
            let letter: Value = parse(DEAD, line);
            let job = letter["job"].as_str().expect("a job").rsplit('/').next().expect("a name");
            assert!(letter["reason"].is_string(), "no reason: {line}");
            assert!(dead.insert(job.to_owned()), "{job} is in {DEAD} twice");
            assert!(self.done.insert(job.to_owned()), "{job} has a result, and is in {DEAD}");
            self.records += 1;
        }
    }

    #[track_caller]
    fn read_file(&mut self, name: &str, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(text.is_empty() || text.ends_with('\n'), "{name} ends in a torn line");
        if self.kind == Kind::Files {
            let mut rows = rows(name, text).into_iter();
            let header = rows.next();
            let columns = ["who", "nth", "file", "text"];
            assert!(header.is_none_or(|header| header == columns), "{name}: no header");
            for row in rows {
                self.records += 1;
                let [who, nth, file, text] = &row[..] else { panic!("{name}: {row:?}") };
                self.next(name, who, nth.parse().expect("a number"), true);
                assert!(!text.starts_with("bad"), "{name}: a bad file has a row: {row:?}");
                self.outcome(name, file.clone());
            }
            return;
        }
        for line in text.lines() {
            self.records += 1;
            self.read_line(name, &parse(name, line));
        }
    }

    #[track_caller]
    fn read_line(&mut self, name: &str, line: &Value) {
        let job = line["job"].as_str().unwrap_or_default().to_owned();
        let author = |value: &Value| {
            let (who, nth) = (value["who"].as_str()?.to_owned(), value["nth"].as_u64()?);
            Some((who, nth))
        };
        match self.kind {
            Kind::Commands => {
                assert_eq!(line["ok"], true, "{name}: {line}");
                let said = line["stdout"].as_str().unwrap_or_default();
                assert!(said.starts_with(&format!("{job}\n")), "{name}: of another job: {line}");
                self.outcome(name, job);
            }
            Kind::Coprocesses => {
                let round = line["round"].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
                if line["ok"] == true {
                    let (who, nth) = author(&line["value"]).unwrap_or_else(|| panic!("{line}"));
                    // What it has answered for a worker that was killed is nowhere.
                    self.next(name, &who, nth, false);
                }
                self.outcome(name, format!("{round:08}/{job}"));
            }
            Kind::Functions if line["ok"] == false => self.outcome(name, job),
            Kind::Functions => {
                let (who, nth) = author(line).unwrap_or_else(|| panic!("{name}: {line}"));
                self.next(name, &who, nth, true);
                self.part(name, &who, line);
            }
            Kind::Producers => {
                let (who, nth) = author(line).unwrap_or_else(|| panic!("{name}: {line}"));
                let pad = line["pad"].as_str().map_or(0, str::len) as u64;
                assert_eq!(pad, nth * 31 % 200, "{name}: {line}");
                self.next(name, &who, nth, true);
            }
            Kind::Files => unreachable!("rows"),
        }
    }

    /// The parts of a job stand one behind the other among the records of their author.
    #[track_caller]
    fn part(&mut self, name: &str, who: &str, line: &Value) {
        let job = line["job"].as_str().expect("a job");
        let (part, of) = (line["part"].as_u64(), line["of"].as_u64());
        let (part, of) = part.zip(of).unwrap_or_else(|| panic!("{name}: {line}"));
        let before = self.open.remove(who);
        let expected = before.as_ref().map_or((job, 1), |(job, part)| (job, part + 1));
        assert_eq!((job, part), expected, "{name}: half of a job: {before:?}, then {line}");
        if part == of {
            self.outcome(name, job.to_owned());
        } else {
            self.open.insert(who.to_owned(), (job.to_owned(), part));
        }
    }

    #[track_caller]
    fn next(&mut self, name: &str, who: &str, nth: u64, without_a_gap: bool) {
        let last = self.authors.entry(who.to_owned()).or_default();
        let right = if without_a_gap { nth == *last + 1 } else { nth > *last };
        assert!(right, "{name}: record {nth} of {who} stands behind record {last}");
        *last = nth;
    }

    #[track_caller]
    fn outcome(&mut self, name: &str, job: String) {
        assert!(!self.done.contains(&job), "{name}: {job} has a second outcome");
        self.done.insert(job);
    }

    /// Each job of a list, and no other.
    #[track_caller]
    pub fn assert_all_of(&self, prefix: &str, count: u64) {
        assert!(self.open.is_empty(), "half of a job: {:?}", self.open);
        let all: BTreeSet<String> = (1..=count).map(|nth| format!("{prefix}-{nth}")).collect();
        let ours = |job: &&String| job.starts_with(&format!("{prefix}-"));
        let done: BTreeSet<String> = self.done.iter().filter(ours).cloned().collect();
        let missing: Vec<&String> = all.difference(&done).collect();
        let strange: Vec<&String> = done.difference(&all).collect();
        assert!(missing.is_empty(), "{} jobs without an outcome: {missing:?}", missing.len());
        assert!(strange.is_empty(), "outcomes of no job: {strange:?}");
    }

    /// Each file that was dropped, and no other.
    #[track_caller]
    pub fn assert_all_files(&self, dropped: &BTreeSet<String>) {
        let missing: Vec<&String> = dropped.difference(&self.done).collect();
        let strange: Vec<&String> = self.done.difference(dropped).collect();
        assert!(missing.is_empty(), "{} files without an outcome: {missing:?}", missing.len());
        assert!(strange.is_empty(), "outcomes of no file: {strange:?}");
    }

    /// Each round but the one that a stop has cut has all its jobs.
    #[track_caller]
    pub fn assert_whole_rounds(&self, lines: u64) {
        let mut rounds: BTreeMap<&str, u64> = BTreeMap::new();
        for outcome in &self.done {
            let round = outcome.split('/').next().expect("a round");
            *rounds.entry(round).or_default() += 1;
        }
        let last = rounds.keys().next_back().copied();
        let short: Vec<_> = rounds
            .iter()
            .filter(|(round, jobs)| **jobs != lines && Some(**round) != last)
            .collect();
        assert!(short.is_empty(), "rounds that are not whole: {short:?}");
    }

    /// What `emit` has returned for is written, and at most one more of each author, who was killed
    /// before it could note it.
    #[track_caller]
    pub fn assert_published(&self, place: &Place) {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(place.private("published")).expect("a directory").flatten() {
            let name = entry.file_name().into_string().expect("UTF-8");
            let bytes = std::fs::read(entry.path()).expect("a file");
            let published = bytes.try_into().map_or(0, u64::from_le_bytes);
            let written = self.authors.get(&name).copied().unwrap_or(0);
            let right = (published..=published + 1).contains(&written);
            assert!(right, "{name} has published {published} records, and {written} are written");
            names.insert(name);
        }
        let strange = self.authors.keys().find(|name| !names.contains(*name));
        assert!(strange.is_none(), "records of nobody: {strange:?}");
    }
}

#[track_caller]
fn parse(name: &str, line: &str) -> Value {
    let value = serde_json::from_str(line);
    value.unwrap_or_else(|error| panic!("{name}: {error} in the line {line:?}"))
}

/// The content of a file, unpacked if it is compressed; `None` where there is none.
#[track_caller]
fn unpack(path: &Path) -> Option<Vec<u8>> {
    let bytes = std::fs::read(path).ok()?;
    match path.extension()?.to_str()? {
        "gz" => {
            let mut unpacked = Vec::new();
            let mut reader = flate2::read::MultiGzDecoder::new(&bytes[..]);
            reader.read_to_end(&mut unpacked).expect("a whole compressed file");
            Some(unpacked)
        }
        "zst" => Some(zstd::decode_all(&bytes[..]).expect("a whole compressed file")),
        _ => Some(bytes),
    }
}

/// The rows of a CSV file.
#[track_caller]
fn rows(name: &str, text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                field.push('"');
                characters.next();
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            other => field.push(other),
        }
    }
    assert!(!quoted && row.is_empty() && field.is_empty(), "{name} ends in a torn row");
    rows
}
