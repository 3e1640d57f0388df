//! Every target with what is kept of its inputs, and with random changes of them.

use super::{TARGETS, Target};
use crate::flow::queue::spool::random;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Changed inputs for each target, if `PROCSIG_TEST_FUZZ` says nothing else.
const CHANGED: u64 = 5000;
/// Bytes of the longest input that comes of changes.
const LENGTH_MAX: usize = 1 << 10;

/// Inputs of a target, by name so that every run has them in the same order.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).expect("a corpus");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "nothing in {}", folder.display());
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("an input"))).collect()
}

/// An input that breaks a promise is left in a file, for `fuzz/` or for the corpus.
fn give(name: &str, target: Target, input: &[u8], from: &str) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let path = std::env::temp_dir().join(format!("procsig-fuzz-{name}"));
        let kept =
            std::fs::write(&path, input).map_or(String::new(), |()| path.display().to_string());
        panic!("{name} breaks its promise with {from}; the input is in {kept:?}: {input:02x?}");
    }
}

fn target(name: &str) -> Target {
    TARGETS.iter().find(|(known, _)| *known == name).expect("a target").1
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }

    /// Changes an input, as fuzzers do; `other` is another one.
    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len());
        match self.below(7) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = self.next() as u8,
            2 => input.insert(at, self.next() as u8),
            3 => input.truncate(at),
            4 => {
                let (from, len) = (self.below(other.len()), self.below(16));
                let piece: Vec<u8> = other[from..].iter().copied().take(len).collect();
                input.splice(at..at, piece);
            }
            5 => {
                let word = [0, 1, u64::MAX, 1 << 63, 1 << 32, 4096, self.next()][self.below(7)];
                let end = (at + 8).min(input.len());
                input.splice(at..end, word.to_le_bytes());
            }
            _ => {
                let len = self.below(8).min(input.len() - at);
                input.drain(at..at + len);
            }
        }
        input.truncate(LENGTH_MAX);
    }
}

fn replay(name: &str) {
    for (path, input) in corpus(name) {
        give(name, target(name), &input, &path.display().to_string());
    }
}

fn change(name: &str) {
    let number = |variable: &str| Some(std::env::var(variable).ok()?.parse().expect("a number"));
    let seed: u64 = number("PROCSIG_TEST_SEED").unwrap_or_else(random);
    let (mut random, inputs) = (Random(seed | 1), corpus(name));
    for round in 0..number("PROCSIG_TEST_FUZZ").unwrap_or(CHANGED) {
        let [mut input, other] = [0; 2].map(|_| inputs[random.below(inputs.len())].1.clone());
        for _ in 0..=random.below(4) {
            random.change(&mut input, &other);
        }
        give(name, target(name), &input, &format!("PROCSIG_TEST_SEED={seed}, input {round}"));
    }
}

#[test]
fn kept_headers_are_sound_or_refused_untouched() {
    replay("header");
}

#[test]
fn changed_headers_are_sound_or_refused_untouched() {
    change("header");
}

#[test]
fn of_kept_lanes_what_is_read_was_published_whole_in_order_and_once() {
    replay("lanes");
}

#[test]
fn of_changed_lanes_what_is_read_was_published_whole_in_order_and_once() {
    change("lanes");
}

#[test]
fn of_kept_tables_each_job_is_as_it_was_written_or_fails() {
    replay("jobs");
}

#[test]
fn of_changed_tables_each_job_is_as_it_was_written_or_fails() {
    change("jobs");
}

#[test]
fn kept_books_are_never_ahead_of_the_lanes_and_double_nothing() {
    replay("commits");
}

#[test]
fn changed_books_are_never_ahead_of_the_lanes_and_double_nothing() {
    change("commits");
}

#[test]
fn kept_configurations_are_valid_or_each_mistake_has_its_place() {
    replay("configuration");
}

#[test]
fn changed_configurations_are_valid_or_each_mistake_has_its_place() {
    change("configuration");
}

#[test]
fn kept_lists_give_each_line_unchanged_or_as_too_long() {
    replay("lines");
}

#[test]
fn changed_lists_give_each_line_unchanged_or_as_too_long() {
    change("lines");
}

#[test]
fn kept_answers_belong_to_one_job_each_and_are_readable() {
    replay("answers");
}

#[test]
fn changed_answers_belong_to_one_job_each_and_are_readable() {
    change("answers");
}

#[test]
fn every_target_has_inputs_that_are_kept_and_a_program_in_fuzz() {
    for (name, _) in TARGETS {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let text = std::fs::read_to_string(program.join(format!("{name}.rs")));
        let call = format!("procsig::fuzzing::{name}(");
        assert!(text.expect("a program").contains(&call), "{name}");
        assert!(!corpus(name).is_empty(), "{name}");
    }
}
