//! How far the source has handed out its list.
//!
//! Saved before any slot is freed: so what was handed out is in a slot, or the saved position is
//! behind it, and a restart neither skips a line nor hands one out twice.

use super::jobs::{Jobs, Phase};
use super::layout::POSITION_WORDS;
use super::record;
use super::spool::Spool;
use crate::sys::atomic::Ordering;

/// A place in a list that is run through again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ListPosition {
    /// Which run through the list, from 1; 0: none has begun.
    pub round: u64,
    /// Bytes of the list that were handed out.
    pub offset: u64,
    /// Jobs of this round that were handed out.
    pub seq: u64,
    /// Checksum of the list up to the offset: does a changed or piped list begin with the same?
    pub prefix: u64,
    /// The list was at its end there.
    pub at_end: bool,
    /// The last round is over, its results are written: the next start begins anew.
    pub complete: bool,
    /// Jobs that had failed for good in the life of the spool when this round began.
    pub failed_before: u64,
    /// Jobs that had ended, done or failed, in the life of the spool when this round began; `None` if
    /// some of an earlier one were still under way.
    pub ended_before: Option<u64>,
    /// Jobs of this round that were not handed out, counted at stop; `None`: not known.
    pub left: Option<u64>,
}

impl ListPosition {
    /// The saved position, or the furthest of those in slots if a slot was filled after the last
    /// save. With it the generation of the record.
    pub(crate) fn load(spool: &Spool) -> (u64, ListPosition) {
        let (generation, saved) = ListPosition::saved(spool);
        if spool.is_closed() {
            return (generation, saved);
        }
        let jobs = Jobs(spool);
        let furthest = (0..jobs.len())
            .filter(|index| jobs.phase(*index) != Phase::Free && jobs.is_sound(*index))
            .map(|index| {
                let slot = jobs.slot(index);
                ListPosition {
                    round: slot.round.load(Ordering::Relaxed),
                    offset: slot.offset.load(Ordering::Relaxed),
                    seq: slot.seq.load(Ordering::Relaxed),
                    prefix: slot.prefix.load(Ordering::Relaxed),
                    failed_before: saved.failed_before,
                    ended_before: saved.ended_before,
                    ..ListPosition::default()
                }
            })
            .max_by_key(ListPosition::order);
        match furthest {
            Some(furthest) if furthest.order() > saved.order() => (generation, furthest),
            _ => (generation, saved),
        }
    }

    /// The saved position alone, with the generation of its record.
    pub(crate) fn saved(spool: &Spool) -> (u64, ListPosition) {
        record::load_newest(&spool.mapping, spool.layout.position, POSITION_WORDS)
            .map_or((0, ListPosition::default()), |(generation, words)| {
                (generation, ListPosition::from_words(&words))
            })
    }

    /// Was a place saved once, and no record of it is whole? To be asked when nobody saves.
    pub(crate) fn is_lost(spool: &Spool) -> bool {
        let (mapping, offsets) = (&spool.mapping, spool.layout.position);
        record::begun(mapping, offsets) > 1
            && record::load_newest(mapping, offsets, POSITION_WORDS).is_none()
    }

    /// Saves the position; `generation` grows by one with each save.
    pub(crate) fn store(&self, spool: &Spool, generation: u64) {
        record::store_next(&spool.mapping, spool.layout.position, generation, &self.to_words());
    }

    /// A round that was declared over is over, whatever is left of it in slots.
    fn order(&self) -> (u64, bool, u64) {
        (self.round, self.complete, self.seq)
    }

    fn to_words(self) -> [u64; POSITION_WORDS] {
        let flags = u64::from(self.at_end) | u64::from(self.complete) << 1;
        let [left, ended] = [self.left, self.ended_before].map(|n| n.map_or(0, |n| n + 1));
        [self.round, self.offset, self.seq, self.prefix, flags, left, self.failed_before, ended]
    }

    fn from_words(words: &[u64]) -> ListPosition {
        ListPosition {
            round: words[0],
            offset: words[1],
            seq: words[2],
            prefix: words[3],
            at_end: words[4] & 1 != 0,
            complete: words[4] & 2 != 0,
            left: words[5].checked_sub(1),
            failed_before: words[6],
            ended_before: words[7].checked_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_reads_back_as_it_was_stored() {
        let position = ListPosition {
            round: 1,
            offset: 2,
            seq: 3,
            prefix: 4,
            at_end: true,
            complete: false,
            failed_before: 5,
            ended_before: Some(0),
            left: Some(0),
        };
        assert_eq!(ListPosition::from_words(&position.to_words()), position);
    }
}
