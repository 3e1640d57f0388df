//! What stands in an output behind the committed length after a power loss.
//!
//! The commit that would say that it is ours was lost with the memory. So the records that are still
//! in the lanes are looked up here: one that stands in the output is not written again.

use crate::flow::queue::reader::Stream;
use std::collections::HashMap;

/// Records of an output that no commit knows of.
#[derive(Debug, Default)]
pub(crate) struct Surplus {
    /// Whole records, each with how often it is there.
    records: HashMap<Vec<u8>, u64>,
    /// The beginning of a record, with which the output ends.
    pub half: Vec<u8>,
    /// Bytes of the batch that the output was asked about, and has: all of it, or none.
    pub done: usize,
}

/// What was found of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Records of the batch that are in the output.
    pub there: u64,
    /// Records of the batch that are not.
    pub missing: u64,
    /// Records of the output that are not in the batch.
    pub unknown: u64,
    /// Bytes at the beginning of what is left of the batch that are in the output.
    pub done: usize,
}

impl Surplus {
    /// Of an output that knows nothing but how much it has of the batch it was asked about.
    pub(crate) fn of_batch(done: usize) -> Surplus {
        Surplus { done, ..Surplus::default() }
    }

    pub(crate) fn add(&mut self, record: &[u8]) {
        *self.records.entry(record.to_vec()).or_default() += 1;
    }

    /// Whole records that nobody has taken.
    pub(crate) fn len(&self) -> u64 {
        self.records.values().sum()
    }

    /// Takes the records that are in the output out of the batch. If the output ends with half of the
    /// first one that is left, that is gone on with. Half of another is none of them: before it would
    /// have to stand what was published before it.
    pub(crate) fn take_from(&mut self, batch: &mut Stream) -> Found {
        let mut found = Found::default();
        let mut rest = Stream::default();
        let mut start = 0;
        for end in &batch.ends {
            let record = &batch.bytes[start..*end];
            start = *end;
            match self.records.get_mut(record) {
                _ if *end <= self.done => found.there += 1,
                Some(count) if *count > 0 => {
                    *count -= 1;
                    found.there += 1;
                }
                _ => rest.push(record),
            }
        }
        if rest.bytes.starts_with(&self.half) {
            found.done = self.half.len();
        }
        found.unknown = self.len();
        found.missing = rest.ends.len() as u64;
        *batch = rest;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: &[&str]) -> Stream {
        let mut batch = Stream::default();
        records.iter().for_each(|record| batch.push(record.as_bytes()));
        batch
    }

    fn surplus(records: &[&str], half: &str) -> Surplus {
        let mut surplus = Surplus { half: half.into(), ..Surplus::default() };
        records.iter().for_each(|record| surplus.add(record.as_bytes()));
        surplus
    }

    #[test]
    fn a_record_that_is_there_is_taken_out_as_often_as_it_is_there() {
        let mut batch = batch(&["a\n", "b\n", "a\n", "a\n"]);
        let found = surplus(&["a\n", "x\n", "a\n"], "").take_from(&mut batch);
        assert_eq!(found, Found { there: 2, missing: 2, unknown: 1, done: 0 });
        assert_eq!(batch.bytes, b"b\na\n");
        assert_eq!(batch.ends, [2, 4]);
    }

    #[test]
    fn the_first_record_that_is_missing_is_gone_on_with_if_half_of_it_is_there() {
        let mut batch = batch(&["one\n", "two\n", "three\n"]);
        let found = surplus(&["one\n"], "tw").take_from(&mut batch);
        assert_eq!(found, Found { there: 1, missing: 2, unknown: 0, done: 2 });
        assert_eq!(batch.bytes, b"two\nthree\n");
    }

    /// Two lanes can have records that begin alike.
    #[test]
    fn half_of_a_later_record_does_not_bring_it_before_those_that_come_first() {
        let mut batch = batch(&["1 of a\n", "2 of a\n", "2 of b\n"]);
        let found = surplus(&["1 of b\n"], "2 of ").take_from(&mut batch);
        assert_eq!(found, Found { there: 0, missing: 3, unknown: 1, done: 0 });
        assert_eq!(batch.bytes, b"1 of a\n2 of a\n2 of b\n");
    }

    #[test]
    fn what_the_output_says_to_have_of_a_batch_is_taken_out_of_it() {
        let mut batch = batch(&["one\n", "two\n", "three\n"]);
        let found = Surplus::of_batch(8).take_from(&mut batch);
        assert_eq!(found, Found { there: 2, missing: 1, unknown: 0, done: 0 });
        assert_eq!(batch.bytes, b"three\n");
    }
}
