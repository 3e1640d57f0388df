//! What the words of a slot mean: its state, who has claimed it, what is counted of its job.

use super::layout::Slot;
use crate::sys::atomic::Ordering;

/// Not yet: no tail ever gets there.
pub(crate) const NO_RESULT: u64 = u64::MAX;

/// Who claims: a lane, and which of the processes that have had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claimer {
    pub lane: u16,
    pub incarnation: u16,
}

/// What a slot is, in one word, so that it changes in one step.
///
/// ```text
/// bits 0..8 phase, 8..24 lane, 24..40 incarnation, 40..64 how often the state has changed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State(u64);

/// Phase of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The source may fill it.
    Free,
    /// Any worker may claim it.
    Ready,
    /// A worker has it in hand, or has finished it.
    Claimed(Claimer),
    /// No state that we ever store: the spool is damaged.
    Unknown,
}

impl State {
    pub(crate) fn from_word(word: u64) -> State {
        State(word)
    }

    pub(super) fn word(self) -> u64 {
        self.0
    }

    pub(crate) fn phase(self) -> Phase {
        match self.0 & 0xff {
            0 => Phase::Free,
            1 => Phase::Ready,
            2 => Phase::Claimed(Claimer {
                lane: (self.0 >> 8) as u16,
                incarnation: (self.0 >> 24) as u16,
            }),
            _ => Phase::Unknown,
        }
    }

    /// The state after this one.
    pub(super) fn then(self, phase: Phase) -> State {
        let changes = ((self.0 >> 40) + 1) << 40;
        State(match phase {
            Phase::Free => changes,
            Phase::Ready => changes | 1,
            Phase::Claimed(by) => {
                changes | 2 | u64::from(by.lane) << 8 | u64::from(by.incarnation) << 24
            }
            Phase::Unknown => unreachable!("no one asks for an unknown state"),
        })
    }
}

/// Deaths of a worker that ran nothing else, after which a job has failed for good.
pub(crate) const DEATHS_MAX: u64 = 3;

/// Deaths of a job, as its slot keeps them: with the mark that the present attempt is among them, so
/// that whoever takes that one back does it once.
pub(crate) struct Deaths {
    pub counted: u64,
    pub under_way: bool,
}

impl Deaths {
    pub const UNDER_WAY: u64 = 1 << 63;

    pub fn of(slot: &Slot) -> Deaths {
        let word = slot.deaths.load(Ordering::Relaxed);
        let under_way = word & Deaths::UNDER_WAY != 0;
        Deaths { counted: word & !Deaths::UNDER_WAY, under_way }
    }

    pub fn take_back(&self, slot: &Slot) {
        slot.deaths.store(self.counted.saturating_sub(1), Ordering::Relaxed);
    }
}

/// Why a job is used up, as its slot keeps it for the one who publishes the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The job is longer than a slot's payload.
    TooLong,
    /// The worker died too often with it in hand; the last time like this, as in
    /// [`super::layout::Process::last_end`].
    Deaths { last_end: u64 },
    /// What the source has written of it was damaged afterwards.
    Damaged,
    /// Its last attempt did not end in so many microseconds.
    TimedOut { after_us: u64 },
}

impl Reason {
    pub(super) fn from_word(word: u64) -> Option<Reason> {
        match word & 0xff {
            1 => Some(Reason::TooLong),
            2 => Some(Reason::Deaths { last_end: word >> 8 }),
            3 => Some(Reason::Damaged),
            4 => Some(Reason::TimedOut { after_us: word >> 8 }),
            _ => None,
        }
    }

    pub(super) fn to_word(self) -> u64 {
        match self {
            Reason::TooLong => 1,
            Reason::Deaths { last_end } => 2 | last_end << 8,
            Reason::Damaged => 3,
            // More than two thousand years are as good as that.
            Reason::TimedOut { after_us } => 4 | after_us.min(u64::MAX >> 8) << 8,
        }
    }
}

/// A job on its way into a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewJob<'a> {
    pub text: &'a [u8],
    pub seq: u64,
    pub round: u64,
    /// Where the list goes on behind it.
    pub offset: u64,
    /// Checksum of the list up to there.
    pub prefix: u64,
    pub reason: Option<Reason>,
}

impl NewJob<'_> {
    /// Checksum of all that the source writes of it. The text's length is summed as well: a CRC-32C tells
    /// not how many zeros follow four bytes of 0xff.
    pub(super) fn checksum(&self) -> u32 {
        let mut words = [0; 5 * size_of::<u64>()];
        let values = [self.text.len() as u64, self.seq, self.round, self.offset, self.prefix];
        for (place, value) in words.chunks_exact_mut(size_of::<u64>()).zip(values) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        crc32c::crc32c_append(crc32c::crc32c(self.text), &words)
    }
}
