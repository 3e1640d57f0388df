//! What is said again and again is said once, and then how often.
//!
//! For warnings and errors only, which are what a program in trouble repeats; each process for
//! itself. Two rules, both within [`WINDOW`]:
//!
//! - The same text again is counted.
//! - Of one place in procsig's own code, the first [`FIRST`] texts are said whatever they are; more
//!   are counted, and the last of them is kept. (How much a program's own functions have to say, with
//!   other words each time, is their affair.)
//!
//! No thread says the counts: the next line of the process does, whatever that is, or its end. So a
//! count says for how long it has counted, and if the last of it is not from just now, when it was.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use ::log::{Level, Record};

/// How long is counted until the count is said.
const WINDOW: Duration = Duration::from_secs(10);
/// Different texts of one place that are said in that time.
const FIRST: usize = 10;
/// Places that are remembered. What comes from more of them is said as it comes.
const PLACES_MAX: usize = 256;
/// Characters that are kept of a text, to be said with its count.
const TEXT_MAX: usize = 400;
/// What is older than this was not just now.
const JUST_NOW: Duration = Duration::from_secs(1);

/// What a process has said lately, by the places in the code that it came from.
#[derive(Default)]
pub(super) struct Repeats(BTreeMap<u64, Place>);

/// A place in the code.
struct Place {
    level: Level,
    /// When counting began.
    began: Duration,
    said: Vec<Text>,
    /// More than these were not said.
    others: Count,
    /// It has just now said so much that no other text of it is said before it has calmed down.
    is_flood: bool,
}

struct Text {
    hash: u64,
    count: Count,
}

/// How often something was not said, when last, and what it was.
#[derive(Default)]
struct Count {
    times: u64,
    last: Duration,
    text: String,
}

impl Repeats {
    /// Is this record to be said? If not, it was counted.
    pub(super) fn hear(&mut self, record: &Record<'_>, message: &str, now: Duration) -> bool {
        if record.level() > Level::Warn {
            return true;
        }
        let place = hash(&(record.level(), record.target(), record.file(), record.line()));
        let is_ours = matches!(record.target().split("::").next(), Some("procsig"));
        if !self.0.contains_key(&place) && self.0.len() >= PLACES_MAX {
            return true;
        }
        let place = self.0.entry(place).or_insert_with(|| Place::new(record.level(), now));
        place.hear(message, is_ours, now)
    }

    /// Counts whose time is over, to be said now.
    pub(super) fn due(&mut self, now: Duration) -> Vec<(Level, String)> {
        self.take(now, |place| now.saturating_sub(place.began) >= WINDOW)
    }

    /// All counts.
    pub(super) fn take_all(&mut self, now: Duration) -> Vec<(Level, String)> {
        self.take(now, |_| true)
    }

    fn take(&mut self, now: Duration, is_due: impl Fn(&Place) -> bool) -> Vec<(Level, String)> {
        let mut taken = Vec::new();
        self.0.retain(|_, place| {
            if !is_due(place) {
                return true;
            }
            let before = taken.len();
            place.take(now, &mut taken);
            // What was quiet for that long may speak again.
            taken.len() > before
        });
        taken
    }
}

impl Place {
    fn new(level: Level, now: Duration) -> Place {
        Place { level, began: now, said: Vec::new(), others: Count::default(), is_flood: false }
    }

    fn hear(&mut self, message: &str, is_ours: bool, now: Duration) -> bool {
        let hash = hash(message);
        if let Some(same) = self.said.iter_mut().find(|text| text.hash == hash) {
            same.count.add(now);
            return false;
        }
        if is_ours && (self.is_flood || self.said.len() >= FIRST) {
            self.others.add(now);
            self.others.text = cut(message);
            return false;
        }
        if !is_ours && self.said.len() >= FIRST {
            self.forget_one();
        }
        let count = Count { text: cut(message), ..Count::default() };
        self.said.push(Text { hash, count });
        true
    }

    /// The oldest that was not repeated makes room; else this text is not looked for.
    fn forget_one(&mut self) {
        if let Some(oldest) = self.said.iter().position(|text| text.count.times == 0) {
            self.said.remove(oldest);
        }
    }

    /// Says the counts, and begins to count anew.
    fn take(&mut self, now: Duration, taken: &mut Vec<(Level, String)>) {
        let took = now.saturating_sub(self.began);
        self.said.retain(|text| text.count.times > 0);
        for Text { count, .. } in &mut self.said {
            let times = if count.times == 1 { "once" } else { &format!("{} times", count.times) };
            let when = count.when(took, now);
            taken.push((self.level, format!("{} (said {times} more {when})", count.text)));
            count.times = 0;
        }
        self.is_flood = self.others.times > 0;
        if self.is_flood {
            let others = std::mem::take(&mut self.others);
            let when = others.when(took, now);
            let text = format!("{} more like this {when}: {}", others.times, others.text);
            taken.push((self.level, text));
        }
        self.began = now;
    }
}

impl Count {
    fn add(&mut self, now: Duration) {
        self.times += 1;
        self.last = now;
    }

    fn when(&self, took: Duration, now: Duration) -> String {
        let ago = now.saturating_sub(self.last);
        match ago > JUST_NOW {
            true => {
                format!("in {:.1} s, the last {:.1} s ago", took.as_secs_f64(), ago.as_secs_f64())
            }
            false => format!("in {:.1} s", took.as_secs_f64()),
        }
    }
}

fn hash(what: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(repeats: &mut Repeats, target: &str, line: u32, text: &str, seconds: u64) -> bool {
        let mut record = Record::builder();
        let record = record.level(Level::Warn).target(target).line(Some(line));
        repeats.hear(&record.build(), text, Duration::from_secs(seconds))
    }

    fn texts(said: Vec<(Level, String)>) -> Vec<String> {
        said.into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn the_same_text_is_counted_and_said_again_only_as_a_count() {
        let mut repeats = Repeats::default();
        assert!(hear(&mut repeats, "procsig::flow", 1, "no room", 0));
        assert!(!hear(&mut repeats, "procsig::flow", 1, "no room", 1));
        assert!(!hear(&mut repeats, "procsig::flow", 1, "no room", 9));
        assert!(repeats.due(Duration::from_secs(9)).is_empty());
        let due = texts(repeats.due(Duration::from_secs(10)));
        assert_eq!(due, ["no room (said 2 times more in 10.0 s)"]);
        // It goes on: nothing but the next count.
        assert!(!hear(&mut repeats, "procsig::flow", 1, "no room", 12));
        let due = texts(repeats.due(Duration::from_secs(3600)));
        assert_eq!(due, ["no room (said once more in 3590.0 s, the last 3588.0 s ago)"]);
        // It was quiet for a while: news again.
        assert!(repeats.due(Duration::from_secs(3611)).is_empty());
        assert!(hear(&mut repeats, "procsig::flow", 1, "no room", 3612));
    }

    #[test]
    fn of_one_place_the_first_texts_are_said_and_the_rest_is_counted() {
        let mut repeats = Repeats::default();
        let job = |number: u64| format!("job {number} has failed");
        let said = |repeats: &mut Repeats, numbers: std::ops::Range<u64>, seconds| {
            numbers
                .filter(|number| hear(repeats, "procsig::flow::job", 7, &job(*number), seconds))
                .count()
        };
        assert_eq!(said(&mut repeats, 0..1000, 5), FIRST);
        assert!(hear(&mut repeats, "procsig::flow::job", 8, "another place", 5));
        let due = texts(repeats.due(Duration::from_secs(15)));
        assert_eq!(due, ["990 more like this in 10.0 s, the last 10.0 s ago: job 999 has failed"]);
        // The flood goes on.
        assert_eq!(said(&mut repeats, 1000..2000, 24), 0);
        let rest = texts(repeats.take_all(Duration::from_secs(24)));
        assert_eq!(rest, ["1000 more like this in 9.0 s: job 1999 has failed"]);
        assert!(repeats.take_all(Duration::from_secs(25)).is_empty());
        assert_eq!(said(&mut repeats, 0..3, 26), 3);
    }

    #[test]
    fn other_words_of_a_program_s_own_functions_are_all_said() {
        let mut repeats = Repeats::default();
        for number in 0..100 {
            assert!(hear(&mut repeats, "checks", 7, &format!("host {number} is slow"), 0));
        }
        assert!(!hear(&mut repeats, "checks", 7, "host 99 is slow", 0));
        let place = repeats.0.values().next().unwrap();
        assert!(place.said.len() <= FIRST, "what is remembered has a bound");
    }

    #[test]
    fn what_is_no_warning_is_said_however_often() {
        let mut repeats = Repeats::default();
        for _ in 0..3 {
            let mut record = Record::builder();
            let record = record.level(Level::Info).target("procsig").build();
            assert!(repeats.hear(&record, "stopping source", Duration::ZERO));
        }
    }
}
