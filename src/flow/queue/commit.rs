//! The buffer's books: what has been written where, and what is being written now.
//!
//! A batch goes through these steps; a kill between any two of them leaves the step before:
//!
//! 1. read tails, gather frames                nothing has changed
//! 2. store the *intent*: which bytes of which lanes, behind which positions
//! 3. write to the sinks                        the intent says what belongs behind the position
//! 4. sync, as the policy says
//! 5. store the *commit* over the older of its two records
//! 6. free the lanes' space
//!
//! An intent counts if its generation is the commit's plus one: otherwise its batch was committed,
//! or it was never stored whole, and then nothing of it was written.

use super::lane::Mark;
use super::layout::{COMMIT_FIXED, COMMIT_PER_LANE};
use super::record;
use super::spool::Spool;
use crate::flow::sink::Position;

/// Totals over the life of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub results: u64,
    pub dead_letters: u64,
    pub jobs_done: u64,
    pub jobs_failed: u64,
}

/// How far everything has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// 0: nothing was ever committed.
    pub generation: u64,
    pub totals: Totals,
    /// Output, dead letters.
    pub sinks: [Option<Position>; 2],
    pub lanes: Vec<Mark>,
}

impl Commit {
    /// Of a spool in which nothing was committed yet.
    pub(crate) fn initial(lanes: usize) -> Commit {
        Commit {
            generation: 0,
            totals: Totals::default(),
            sinks: [None, None],
            lanes: vec![Mark::default(); lanes],
        }
    }

    /// The newest commit.
    pub(crate) fn load(spool: &Spool) -> Commit {
        record::load_newest(&spool.mapping, spool.layout.commit, words(spool.lanes())).map_or_else(
            || Commit::initial(spool.lanes()),
            |(generation, words)| Commit::from_words(generation, &words),
        )
    }

    /// The intent that was stored last and not committed, if there is one: where its batch ends.
    pub(crate) fn load_intent(spool: &Spool, committed: &Commit) -> Option<Commit> {
        let (generation, words) =
            record::load(&spool.mapping, spool.layout.intent, words(spool.lanes()))?;
        (generation == committed.generation + 1).then(|| Commit::from_words(generation, &words))
    }

    /// Step 5. Everything in it has happened.
    pub(crate) fn store(&self, spool: &Spool) {
        record::store_next(&spool.mapping, spool.layout.commit, self.generation, &self.to_words());
    }

    /// Step 2. Everything in it is about to happen, behind the sinks' positions.
    pub(crate) fn store_intent(&self, spool: &Spool) {
        record::store(&spool.mapping, spool.layout.intent, self.generation, &self.to_words());
    }

    fn to_words(&self) -> Vec<u64> {
        let mut words = vec![0; COMMIT_FIXED];
        words[0] = self.totals.results;
        words[1] = self.totals.dead_letters;
        words[2] = self.totals.jobs_done;
        words[3] = self.totals.jobs_failed;
        for (sink, at) in self.sinks.iter().zip([4, 8]) {
            if let Some(position) = sink {
                words[at..at + 4].copy_from_slice(&position.to_words());
            }
        }
        words.extend(self.lanes.iter().flat_map(|mark| [mark.offset, mark.records]));
        words
    }

    fn from_words(generation: u64, words: &[u64]) -> Commit {
        let sink = |at: usize| {
            Position::from_words([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        Commit {
            generation,
            totals: Totals {
                results: words[0],
                dead_letters: words[1],
                jobs_done: words[2],
                jobs_failed: words[3],
            },
            sinks: [sink(4), sink(8)],
            lanes: words[COMMIT_FIXED..]
                .chunks_exact(COMMIT_PER_LANE)
                .map(|mark| Mark { offset: mark[0], records: mark[1] })
                .collect(),
        }
    }
}

fn words(lanes: usize) -> usize {
    COMMIT_FIXED + COMMIT_PER_LANE * lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_reads_back_as_it_was_stored() {
        let commit = Commit {
            generation: 9,
            totals: Totals { results: 1, dead_letters: 2, jobs_done: 3, jobs_failed: 4 },
            sinks: [Some(Position { device: 5, inode: 6, len: 7, synced: 8 }), None],
            lanes: vec![Mark { offset: 9, records: 10 }, Mark { offset: 11, records: 12 }],
        };
        assert_eq!(Commit::from_words(9, &commit.to_words()), commit);
    }
}
