//! What stands in an output behind the committed length after a power loss.
//!
//! The commit that would say that it is ours was lost with the memory. So the records that are still
//! in the lanes are looked up here: one that stands in the output is not written again.

use crate::flow::queue::reader::Gathered;
use std::collections::HashMap;

/// Records of an output that no commit knows of.
#[derive(Debug, Default)]
pub(crate) struct Surplus {
    /// Whole records, each with how often it is there.
    records: HashMap<Vec<u8>, u64>,
    /// The beginning of a record, with which the output ends.
    pub half: Vec<u8>,
}

/// What was found of a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Records of the batch that are in the output.
    pub there: u64,
    /// Records of the output that are not in the batch.
    pub unknown: u64,
    /// Bytes at the beginning of what is left of the batch that are in the output.
    pub done: usize,
}

impl Surplus {
    pub(crate) fn add(&mut self, record: &[u8]) {
        *self.records.entry(record.to_vec()).or_default() += 1;
    }

    /// Whole records that nobody has taken.
    pub(crate) fn len(&self) -> u64 {
        self.records.values().sum()
    }

    /// Takes the results that are in the output out of the batch. If the output ends with half of the
    /// first one that is left, that is gone on with. Half of another is none of them: before it would
    /// have to stand what was published before it.
    pub(crate) fn take_from(&mut self, gathered: &mut Gathered) -> Found {
        let mut found = Found::default();
        let mut rest = Vec::new();
        let mut start = 0;
        for end in std::mem::take(&mut gathered.ends) {
            let record = &gathered.results[start..end];
            start = end;
            match self.records.get_mut(record) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    found.there += 1;
                }
                _ => rest.extend_from_slice(record),
            }
        }
        if rest.starts_with(&self.half) {
            found.done = self.half.len();
        }
        found.unknown = self.len();
        gathered.results = rest;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: &[&str]) -> Gathered {
        let mut gathered = Gathered::default();
        for record in records {
            gathered.results.extend_from_slice(record.as_bytes());
            gathered.ends.push(gathered.results.len());
        }
        gathered
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
        assert_eq!(found, Found { there: 2, unknown: 1, done: 0 });
        assert_eq!(batch.results, b"b\na\n");
    }

    #[test]
    fn the_first_record_that_is_missing_is_gone_on_with_if_half_of_it_is_there() {
        let mut batch = batch(&["one\n", "two\n", "three\n"]);
        let found = surplus(&["one\n"], "tw").take_from(&mut batch);
        assert_eq!(found, Found { there: 1, unknown: 0, done: 2 });
        assert_eq!(batch.results, b"two\nthree\n");
    }

    /// Two lanes can have records that begin alike.
    #[test]
    fn half_of_a_later_record_does_not_bring_it_before_those_that_come_first() {
        let mut batch = batch(&["1 of a\n", "2 of a\n", "2 of b\n"]);
        let found = surplus(&["1 of b\n"], "2 of ").take_from(&mut batch);
        assert_eq!(found, Found { there: 0, unknown: 1, done: 0 });
        assert_eq!(batch.results, b"1 of a\n2 of a\n2 of b\n");
    }
}
