//! The log of a run: its lines taken apart, the order of a stop, and the balance.

use std::collections::BTreeSet;

/// One line of the log.
#[derive(Clone)]
pub struct Line {
    text: String,
    pub at: jiff::Timestamp,
    pub level: String,
    pub role: String,
    pub pid: i32,
    pub message: String,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Line {
    /// Takes a line apart; `None` when it is not exactly
    /// `2026-01-31T22:39:19.123456Z INFO  worker ping/0[465191] message`.
    pub fn parse(text: &str) -> Option<Line> {
        let (time, rest) = text.split_once(' ')?;
        let fraction = time.strip_suffix('Z')?.split_once('.')?.1;
        if fraction.len() != 6 || text.chars().any(char::is_control) {
            return None;
        }
        let at = time.parse().ok()?;
        let (level, rest) = rest.split_at_checked(5)?;
        let level = level.trim_end();
        if !["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level) {
            return None;
        }
        let (who, message) = rest.strip_prefix(' ')?.split_once("] ")?;
        let (role, pid) = who.rsplit_once('[')?;
        let known = ["supervisor", "source", "buffer"].contains(&role);
        if !known && !role.strip_prefix("worker ")?.contains('/') {
            return None;
        }
        let pid = pid.parse().ok()?;
        let (level, role, message) = (level.to_owned(), role.to_owned(), message.to_owned());
        Some(Line { text: text.to_owned(), at, level, role, pid, message })
    }

    /// Where in a stop this line has its place; `None` for a line that belongs to no stop.
    fn rank(&self) -> Option<u32> {
        let worker = self.role.starts_with("worker ");
        let rank = match (self.role.as_str(), self.message.as_str()) {
            ("supervisor", "stopping source") => 1,
            ("source", "stopped") => 2,
            ("supervisor", text) if text.starts_with("stopping workers (") => 3,
            (_, "stopped") if worker => 4,
            ("supervisor", "stopping buffer") => 5,
            ("buffer", text) if text.starts_with("stopped: ") => 6,
            ("supervisor", text) if text.starts_with("done in ") => 7,
            _ => return None,
        };
        Some(rank)
    }

    fn asks_for_stop(&self) -> bool {
        self.role == "supervisor" && self.message.starts_with("stop requested")
    }
}

/// The whole log, each line of which must be whole.
#[track_caller]
pub fn parse(text: &str) -> Vec<Line> {
    assert!(text.is_empty() || text.ends_with('\n'), "the log ends within a line:\n{text}");
    let line = |line| Line::parse(line).unwrap_or_else(|| panic!("no log line: {line:?}\n{text}"));
    text.lines().map(line).collect()
}

/// How often a stop was asked for.
pub fn stop_requests(log: &[Line]) -> usize {
    log.iter().filter(|line| line.asks_for_stop()).count()
}

/// The number of workers that were told to stop.
pub fn workers_told_to_stop(log: &[Line]) -> Option<usize> {
    let text = |line: &Line| {
        let count = line.message.strip_prefix("stopping workers (")?.strip_suffix(')')?;
        count.parse().ok()
    };
    log.iter().find_map(text)
}

/// Nothing of a stop is out of order. Holds also for a stop during start-up, when some children
/// were not there yet, and for the end of a list, when the source went by itself.
#[track_caller]
pub fn assert_nothing_out_of_order(log: &[Line]) {
    let mut highest = 0;
    for line in log {
        let Some(rank) = line.rank() else { continue };
        // A source that has come to the end of the list may be told to stop all the same.
        let rank = rank.max(2);
        assert!(rank >= highest, "out of order: {line:?}\nin {log:#?}");
        highest = rank;
    }
}

/// A stop in the middle of the work, with all its lines, each once, in the order of the contract.
#[track_caller]
pub fn assert_full_stop(log: &[Line], workers: usize) {
    assert_nothing_out_of_order(log);
    let count = |rank| log.iter().filter(|line| line.rank() == Some(rank)).count();
    assert!(stop_requests(log) >= 1, "no stop was asked for: {log:#?}");
    for (rank, expected) in [(1, 1), (2, 1), (3, 1), (4, workers), (5, 1), (6, 1), (7, 1)] {
        assert_eq!(count(rank), expected, "lines of step {rank} of the stop in {log:#?}");
    }
    assert_eq!(workers_told_to_stop(log), Some(workers), "{log:#?}");
    let asked = log.iter().position(Line::asks_for_stop);
    let told = log.iter().position(|line| line.rank() == Some(1));
    let heard = log.iter().position(|line| line.rank() == Some(2));
    assert!(told < heard, "the source has stopped before it was told: {log:#?}");
    assert!(asked < told, "the source was told before anybody asked: {log:#?}");
    let last = log.last().and_then(Line::rank);
    assert_eq!(last, Some(7), "something was logged after the last line: {log:#?}");
    let pids: BTreeSet<i32> =
        log.iter().filter(|line| line.rank() == Some(4)).map(|line| line.pid).collect();
    assert_eq!(pids.len(), workers, "a worker stopped twice: {log:#?}");
}

/// What the last line of the log says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balance {
    pub seconds: f64,
    pub published: u64,
    pub kept_before: u64,
    pub written: u64,
    pub dead_letters: u64,
    pub kept: u64,
    /// Lost in a damaged spool.
    pub quarantined: u64,
    pub done: u64,
    pub failed: u64,
    pub left: u64,
    /// Whether there can be more jobs left than that: of a pipe nobody knows.
    pub or_more: bool,
}

impl Balance {
    /// The balance in a message, if that is one.
    pub fn parse(message: &str) -> Option<Balance> {
        let (seconds, rest) = message.strip_prefix("done in ")?.split_once("s: ")?;
        let (published, rest) = rest.split_once(" published + ")?;
        let (kept_before, rest) = rest.split_once(" kept before = ")?;
        let (written, rest) = rest.split_once(" written + ")?;
        let (dead_letters, rest) = rest.split_once(" dead letters + ")?;
        let (kept, rest) = rest.split_once(" kept")?;
        let (quarantined, rest) = rest.split_once("; jobs: ")?;
        let quarantined = match quarantined {
            "" => 0,
            some => some.strip_prefix(" + ")?.strip_suffix(" quarantined")?.parse().ok()?,
        };
        let (done, rest) = rest.split_once(" done, ")?;
        let (failed, left) = rest.split_once(" failed, ")?;
        let (left, or_more) = match left.strip_suffix(" left or more") {
            Some(left) => (left, true),
            None => (left.strip_suffix(" left")?, false),
        };
        Some(Balance {
            seconds: seconds.parse().ok()?,
            published: published.parse().ok()?,
            kept_before: kept_before.parse().ok()?,
            written: written.parse().ok()?,
            dead_letters: dead_letters.parse().ok()?,
            kept: kept.parse().ok()?,
            quarantined,
            done: done.parse().ok()?,
            failed: failed.parse().ok()?,
            left: left.parse().ok()?,
            or_more,
        })
    }

    /// The balance of a log, which has exactly one.
    #[track_caller]
    pub fn of(log: &[Line]) -> Balance {
        let done = |line: &&Line| line.message.starts_with("done in ");
        let lines: Vec<&Line> = log.iter().filter(done).collect();
        assert_eq!(lines.len(), 1, "lines with a balance in {log:#?}");
        Balance::parse(&lines[0].message).unwrap_or_else(|| panic!("no balance: {:?}", lines[0]))
    }

    /// Both sides are equal.
    #[track_caller]
    pub fn assert_even(&self) {
        let gone = self.written + self.dead_letters + self.kept + self.quarantined;
        assert_eq!(self.published + self.kept_before, gone, "the balance is uneven: {self:?}");
    }
}
