//! The buffer's books: what has been written where, and what is being written now.
//!
//! A batch goes through these steps; a kill between any two of them leaves the step before:
//!
//! 1. read tails, gather units                 nothing has changed
//! 2. store the *intent*: which bytes of which lanes, behind which positions
//! 3. write to the sinks                        the intent says what belongs behind the position
//! 4. sync, as the policy says
//! 5. store the *commit* over the older of its two records
//! 6. free the lanes' space
//!
//! With `sync = "always"` the spool is synced after step 2, which also makes the commit before
//! durable, and space is freed only then: so after a power loss, too, either the output has a
//! record, or the lane has it and the intent says where in the output it may stand.
//!
//! An intent counts if its generation is the commit's plus one: otherwise its batch was committed,
//! or it was never stored whole, and then nothing of it was written. And if it is not from before a
//! power loss that the commit has seen to, which makes generations come again.
//!
//! # Rotation
//!
//! Between two batches the output can be set aside and a new file begun in its place. The intent says
//! so, and the name; its commit is the first with a position in the new file:
//!
//! 1. sync: spool, output, commit              the old file is whole on the disk, for good
//! 2. store the intent: the output is to be renamed, by this moment
//! 3. rename the output
//! 4. create the new one, force the directory to the disk
//! 5. store the commit: the same records, the place is the new file, at 0
//! 6. force the spool to the disk              no byte of the new file is older than its commit
//!
//! If a sync of the output has failed with `sync = "always"`, the batch that was written last is cut off
//! the output, which is set aside like this, and written again to the new file: the intent says that
//! as well.
//!
//! Whoever finds such an intent looks which file has the output's name. If it is the committed one,
//! step 3 has not happened; if it is none or another, it has. What is missing is done. After a power
//! loss nobody needs the intent: either the commit of step 5 is there, and with it the new file; or
//! the old file is the committed one, under whichever name, and nothing was written to the new one.

use super::layout::{COMMIT_FIXED, COMMIT_PER_LANE};
use super::reader::Mark;
use super::record;
use super::spool::Spool;
use crate::flow::sink::Position;
use crate::sys::atomic::Ordering;

/// Totals over the life of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub results: u64,
    pub dead_letters: u64,
    pub jobs_done: u64,
    pub jobs_failed: u64,
    /// Records that were published and can't be read any more.
    pub quarantined: u64,
    /// Torn ranges that were met in the lanes.
    pub torn: u64,
}

/// What had been written when output and spool were last forced to the disk: what is certain after a
/// power loss. The sinks' positions say it of their bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Synced {
    pub results: u64,
    pub dead_letters: u64,
    pub jobs_done: u64,
    pub jobs_failed: u64,
    pub lanes: Vec<Mark>,
}

/// A boot is worth more batches than a spool ever has; and half a million boots fit into an `i64`.
const BOOT_SHIFT: u32 = 44;

/// How far everything has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// 0: nothing was ever committed.
    pub generation: u64,
    /// What was lost in so many power losses has been seen to, see [`super::layout::Run::boots`].
    pub boots: u64,
    pub totals: Totals,
    /// Output, dead letters.
    pub sinks: [Option<Position>; 2],
    pub lanes: Vec<Mark>,
    pub synced: Synced,
    /// Of an intent only: no batch is being written, but the output set aside, under the name of
    /// this moment (microseconds since 1970). 0: a batch.
    pub rotation: u64,
}

/// In [`Commit::rotation`]: the output was not forced to the disk, and what is not committed of it is
/// cut off before, since it is written again.
pub(crate) const CUT: u64 = 1 << 63;

impl Commit {
    /// Of a spool in which nothing was committed yet.
    pub(crate) fn initial(lanes: usize) -> Commit {
        Commit {
            generation: 0,
            boots: 0,
            totals: Totals::default(),
            sinks: [None, None],
            lanes: vec![Mark::default(); lanes],
            synced: Synced {
                results: 0,
                dead_letters: 0,
                jobs_done: 0,
                jobs_failed: 0,
                lanes: vec![Mark::default(); lanes],
            },
            rotation: 0,
        }
    }

    /// The books of this spool that are to be gone on with: those of the last sync, if the power was
    /// cut since. What was written after it is looked for in the output.
    pub(crate) fn believed(self, spool: &Spool) -> Commit {
        if self.boots == spool.run().boots.load(Ordering::Acquire) {
            return self;
        }
        let capacity = spool.layout.geometry.lane_bytes;
        let lanes = self.lanes.iter().zip(&self.synced.lanes).enumerate();
        let lanes = lanes.map(|(lane, (head, synced))| {
            // What the ring still has of it.
            let tail = spool.producer(lane).tail.load(Ordering::Acquire);
            let oldest = tail.saturating_sub(capacity).next_multiple_of(8);
            let offset = synced.offset.max(oldest).min(head.offset);
            Mark { offset, records: synced.records }
        });
        let Synced { results, dead_letters, jobs_done, jobs_failed, .. } = self.synced;
        Commit {
            lanes: lanes.collect(),
            totals: Totals { results, dead_letters, jobs_done, jobs_failed, ..self.totals },
            sinks: self.sinks.map(|at| at.map(Position::at_sync)),
            ..self
        }
    }

    /// The number of the batch that ends here, which no other batch of this spool has.
    ///
    /// After a power loss generations come again that the disk has never heard of, but a sink may
    /// have. How often the power was lost is on the disk before anything is written after it.
    pub(crate) fn number(&self) -> u64 {
        self.generation.wrapping_add(self.boots << BOOT_SHIFT)
    }

    /// The number of the last batch of a spool, if it is of this pipeline; otherwise 0.
    pub(crate) fn last_number(spool: &Spool, fingerprint: u64) -> u64 {
        if spool.has_fingerprint(fingerprint) { Commit::load(spool).number() } else { 0 }
    }

    /// Notes that everything in it is on the disk.
    pub(crate) fn all_synced(&mut self) {
        let Totals { results, dead_letters, jobs_done, jobs_failed, .. } = self.totals;
        let lanes = self.lanes.clone();
        self.synced = Synced { results, dead_letters, jobs_done, jobs_failed, lanes };
    }

    /// Words of a commit, or of an intent, behind the head of its record.
    pub(crate) fn words(lanes: usize) -> usize {
        COMMIT_FIXED + COMMIT_PER_LANE * lanes
    }

    /// The newest commit.
    pub(crate) fn load(spool: &Spool) -> Commit {
        record::load_newest(&spool.mapping, spool.layout.commit, Commit::words(spool.lanes()))
            .map_or_else(
                || Commit::initial(spool.lanes()),
                |(generation, words)| Commit::from_words(generation, &words),
            )
    }

    /// The head of a lane in the newest commit.
    pub(crate) fn load_head(spool: &Spool, lane: usize) -> Mark {
        let first = COMMIT_FIXED + COMMIT_PER_LANE * lane;
        let words = Self::words(spool.lanes());
        record::load_part_of_newest(&spool.mapping, spool.layout.commit, words, first)
            .map_or_else(Mark::default, |[offset, records]| Mark { offset, records })
    }

    /// The generation of the newest commit, or of one that is being stored: has anything changed?
    pub(crate) fn generation(spool: &Spool) -> u64 {
        record::begun(&spool.mapping, spool.layout.commit)
    }

    /// Was something committed once, and no record of it is whole? To be asked when nobody commits.
    ///
    /// A first commit that is only half stored is none: its batch is in the intent.
    pub(crate) fn is_lost(spool: &Spool) -> bool {
        let (mapping, offsets) = (&spool.mapping, spool.layout.commit);
        record::begun(mapping, offsets) > 1
            && record::load_newest(mapping, offsets, Commit::words(spool.lanes())).is_none()
    }

    /// The intent that was stored last, committed or not.
    pub(crate) fn load_any_intent(spool: &Spool) -> Option<Commit> {
        record::load(&spool.mapping, spool.layout.intent, Commit::words(spool.lanes()))
            .map(|(generation, words)| Commit::from_words(generation, &words))
    }

    /// The intent that was stored last and not committed, if there is one: where its batch ends.
    pub(crate) fn load_intent(spool: &Spool, committed: &Commit) -> Option<Commit> {
        Commit::load_any_intent(spool)
            .filter(|intent| intent.generation == committed.generation + 1)
            // One from before a power loss that the commit knows of: its lanes end elsewhere now.
            .filter(|intent| intent.boots >= committed.boots)
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
        words[12] = self.totals.quarantined;
        words[13] = self.boots;
        words[14] = self.totals.torn;
        words[15] = self.rotation;
        words[16] = self.synced.results;
        words[17] = self.synced.jobs_done;
        words[18] = self.synced.jobs_failed;
        words[19] = self.synced.dead_letters;
        let marks = self.lanes.iter().zip(&self.synced.lanes);
        words.extend(
            marks.flat_map(|(mark, synced)| {
                [mark.offset, mark.records, synced.offset, synced.records]
            }),
        );
        words
    }

    fn from_words(generation: u64, words: &[u64]) -> Commit {
        let sink = |at: usize| {
            Position::from_words([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        let marks = |at: usize| {
            let lanes = words[COMMIT_FIXED..].chunks_exact(COMMIT_PER_LANE);
            lanes.map(|lane| Mark { offset: lane[at], records: lane[at + 1] }).collect()
        };
        Commit {
            generation,
            totals: Totals {
                results: words[0],
                dead_letters: words[1],
                jobs_done: words[2],
                jobs_failed: words[3],
                quarantined: words[12],
                torn: words[14],
            },
            boots: words[13],
            sinks: [sink(4), sink(8)],
            lanes: marks(0),
            synced: Synced {
                results: words[16],
                dead_letters: words[19],
                jobs_done: words[17],
                jobs_failed: words[18],
                lanes: marks(2),
            },
            rotation: words[15],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_reads_back_as_it_was_stored() {
        let commit = Commit {
            generation: 9,
            boots: 13,
            totals: Totals {
                results: 1,
                dead_letters: 2,
                jobs_done: 3,
                jobs_failed: 4,
                quarantined: 14,
                torn: 15,
            },
            sinks: [Some(Position { device: 5, inode: 6, len: 7, synced: 8 }), None],
            lanes: vec![Mark { offset: 9, records: 10 }, Mark { offset: 11, records: 12 }],
            synced: Synced {
                results: 16,
                dead_letters: 19,
                jobs_done: 17,
                jobs_failed: 18,
                lanes: vec![Mark { offset: 5, records: 6 }, Mark { offset: 7, records: 8 }],
            },
            rotation: 20,
        };
        assert_eq!(Commit::from_words(9, &commit.to_words()), commit);
    }
}
