//! The books at the end: what came in at one end, and what went out at the other, counted apart.
//!
//! *Published* is counted by the workers, who number each record in its frame. *Written* is
//! counted by the buffer, record by record as it hands them to the sink, and committed. *Kept* is
//! what stands in the lanes, counted by reading them. So the sum can be wrong, and is checked.

use super::queue::commit::{Commit, Totals};
use super::queue::jobs::Jobs;
use super::queue::layout::BALANCE_WORDS;
use super::queue::position::ListPosition;
use super::queue::processes;
use super::queue::reader::{Mark, Survey, survey};
use super::queue::spool::Spool;
use crate::error::Error;
use crate::sys::atomic::Ordering;

/// The books when a run begins.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    /// Records published in each lane so far.
    published: Vec<u64>,
    /// Records that are published and not written.
    kept: u64,
    /// The spool was found damaged, or the power had been cut: what is lost was lost before this run.
    damaged: bool,
    totals: Totals,
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// Records that the workers have published in this run.
    pub published: u64,
    /// Records that an earlier run had published and not written.
    pub kept_before: u64,
    /// Records written to the output.
    pub written: u64,
    /// Records written to the dead letters.
    pub dead_letters: u64,
    /// Records that are published and not written: they are in the spool.
    pub kept: u64,
    /// Records that were published and are lost: the spool was damaged, or the power was cut. What
    /// was left of them is put aside.
    pub quarantined: u64,
    /// Records of those that were lost while the pipeline ran, of a spool that was sound before.
    pub lost_in_run: u64,
    /// Jobs that were done.
    pub jobs_done: u64,
    /// Jobs that have failed for good.
    pub jobs_failed: u64,
    /// Jobs that have failed for good since the list was begun, which may be runs ago.
    pub jobs_failed_of_list: u64,
    /// Jobs of the list that are neither: to be done by the next start.
    pub jobs_left: u64,
    /// False if the rest of the list could not be counted, and `jobs_left` are those handed out.
    pub jobs_left_exact: bool,
    /// The list was run to its end.
    pub complete: bool,
    /// Jobs of the list that have ended without an outcome: what was lost with a damaged spool, or with
    /// the power. Less than none: some have two.
    pub jobs_lost: i64,
    /// The spool was damaged at some time, or the power was cut.
    pub(crate) damaged: bool,
}

impl Balance {
    /// As it is noted in the spool.
    pub(crate) fn words(&self) -> [u64; BALANCE_WORDS] {
        let mut words = [0; BALANCE_WORDS];
        let values = [
            self.published,
            self.kept_before,
            self.written,
            self.dead_letters,
            self.kept,
            self.quarantined,
            self.lost_in_run,
            self.jobs_done,
            self.jobs_failed,
            self.jobs_failed_of_list,
            self.jobs_left,
            self.jobs_left_exact.into(),
            self.complete.into(),
            self.jobs_lost.cast_unsigned(),
            self.damaged.into(),
        ];
        words[..values.len()].copy_from_slice(&values);
        words
    }

    /// As it was noted in a spool.
    pub(crate) fn from_words(words: &[u64; BALANCE_WORDS]) -> Balance {
        let [
            published,
            kept_before,
            written,
            dead_letters,
            kept,
            quarantined,
            lost_in_run,
            jobs_done,
            jobs_failed,
            jobs_failed_of_list,
            jobs_left,
            jobs_left_exact,
            complete,
            jobs_lost,
            damaged,
            _,
        ] = *words;
        Balance {
            published,
            kept_before,
            written,
            dead_letters,
            kept,
            quarantined,
            lost_in_run,
            jobs_done,
            jobs_failed,
            jobs_failed_of_list,
            jobs_left,
            jobs_left_exact: jobs_left_exact != 0,
            complete: complete != 0,
            jobs_lost: jobs_lost.cast_signed(),
            damaged: damaged != 0,
        }
    }

    /// Do both sides agree?
    pub fn agrees(&self) -> bool {
        // Numbers that a broken worker has stored can be of any size.
        let sum = |terms: &[u64]| terms.iter().fold(0u64, |sum, term| sum.wrapping_add(*term));
        sum(&[self.published, self.kept_before])
            == sum(&[self.written, self.dead_letters, self.kept, self.quarantined])
    }
}

impl std::fmt::Display for Balance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} published + {} kept before = {} written + {} dead letters + {} kept{}; jobs: {} \
             done, {} failed, {} left{}",
            self.published,
            self.kept_before,
            self.written,
            self.dead_letters,
            self.kept,
            match self.quarantined {
                0 => String::new(),
                lost => format!(" + {lost} quarantined"),
            },
            self.jobs_done,
            self.jobs_failed,
            self.jobs_left,
            if self.jobs_left_exact { "" } else { " or more" },
        )
    }
}

/// Opens the books, before anything runs.
pub(crate) fn open(spool: &Spool) -> Result<Opening, Error> {
    let books = Commit::load(spool).believed(spool);
    let surveys = survey_lanes(spool, &books.lanes)?;
    let published: Vec<u64> = surveys.iter().map(|survey| survey.end.records).collect();
    let kept = kept(&published, &books.lanes);
    let run = spool.run();
    let damaged = [&run.damaged, &run.boots].iter().any(|word| word.load(Ordering::Relaxed) != 0);
    Ok(Opening { published, kept, damaged, totals: books.totals })
}

impl Opening {
    /// Notes them in the spool, for who looks at the run.
    pub(crate) fn note(&self, spool: &Spool) {
        let Totals { results, dead_letters, jobs_done, jobs_failed, quarantined, .. } = self.totals;
        let published = self.published.iter().fold(0u64, |sum, lane| sum.wrapping_add(*lane));
        let words =
            [results, dead_letters, jobs_done, jobs_failed, quarantined, published, self.kept];
        for (word, value) in spool.run().opening.iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// How much was done since the books were opened, while the pipeline runs: what is committed.
pub(crate) fn progress(spool: &Spool, opening: &Opening, has_jobs: bool) -> String {
    let (now, then) = (Commit::load(spool).totals, opening.totals);
    let written = now.results.wrapping_sub(then.results);
    let done = now.jobs_done.wrapping_sub(then.jobs_done);
    let failed = now.jobs_failed.wrapping_sub(then.jobs_failed);
    match has_jobs {
        true => format!("{done} jobs done, {failed} failed"),
        false => format!("{written} records written"),
    }
}

/// Closes the books, when no process runs any more. `unacknowledged`: so many jobs are done, and the
/// source does not know it.
pub(crate) fn close(
    spool: &Spool,
    opening: &Opening,
    unacknowledged: usize,
) -> Result<Balance, Error> {
    let books = Commit::load(spool).believed(spool);
    let in_lanes: Vec<u64> =
        survey_lanes(spool, &books.lanes)?.iter().map(|survey| survey.end.records).collect();
    // A worker that has ended in order has said itself how much it has published. One that was
    // killed may have been about to: then the frames say.
    let published = (0..spool.lanes()).map(|lane| {
        if processes::has_ended(spool, processes::worker(lane)) {
            spool.producer(lane).published.load(Ordering::Relaxed)
        } else {
            in_lanes[lane]
        }
    });
    let published: u64 =
        published.zip(&opening.published).map(|(end, start)| end.saturating_sub(*start)).sum();
    let pending = Jobs(spool).pending() as u64;
    let (_, position) = ListPosition::load(spool);
    let quarantined = books.totals.quarantined.wrapping_sub(opening.totals.quarantined);
    Ok(Balance {
        published,
        kept_before: opening.kept,
        written: books.totals.results.wrapping_sub(opening.totals.results),
        dead_letters: books.totals.dead_letters.wrapping_sub(opening.totals.dead_letters),
        kept: kept(&in_lanes, &books.lanes),
        quarantined,
        lost_in_run: if opening.damaged { 0 } else { quarantined },
        jobs_done: books.totals.jobs_done.wrapping_sub(opening.totals.jobs_done),
        jobs_failed: books.totals.jobs_failed.wrapping_sub(opening.totals.jobs_failed),
        jobs_failed_of_list: books.totals.jobs_failed.saturating_sub(position.failed_before),
        jobs_left: pending + position.left.unwrap_or(0),
        // Round 0: there is no list, or nothing of it was handed out.
        jobs_left_exact: position.left.is_some() || position.at_end || position.round == 0,
        complete: position.at_end && pending == 0 && unacknowledged == 0,
        jobs_lost: jobs_lost(spool, &books, &position, pending),
        damaged: books.totals.torn > 0
            || books.boots > 0
            || spool.run().damaged.load(Ordering::Relaxed) != 0,
    })
}

/// Jobs that were handed out since the list was begun, less those that have ended: in the slots,
/// counted by the source, against what the frames said, counted by the buffer.
fn jobs_lost(spool: &Spool, books: &Commit, position: &ListPosition, pending: u64) -> i64 {
    let drained = |(lane, head): (usize, &Mark)| {
        spool.producer(lane).tail.load(Ordering::Acquire) == head.offset
    };
    let Some(before) = position.ended_before else { return 0 };
    if position.round == 0 || position.complete || !books.lanes.iter().enumerate().all(drained) {
        return 0;
    }
    let handed_out = position.seq.wrapping_sub(pending);
    let ended = books.totals.jobs_done.wrapping_add(books.totals.jobs_failed).wrapping_sub(before);
    handed_out.wrapping_sub(ended).cast_signed()
}

fn survey_lanes(spool: &Spool, heads: &[Mark]) -> Result<Vec<Survey>, Error> {
    heads
        .iter()
        .enumerate()
        .map(|(lane, head)| survey(spool, lane, *head))
        .collect::<Result<_, _>>()
        .map_err(Error::system("can't read the lanes"))
}

fn kept(published: &[u64], heads: &[Mark]) -> u64 {
    published.iter().zip(heads).map(|(end, head)| end.saturating_sub(head.records)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balance_that_was_noted_is_read_as_it_was() {
        let words: [u64; BALANCE_WORDS] = std::array::from_fn(|word| match word {
            11 | 12 | 14 => 1,
            15 => 0,
            other => 100 + other as u64,
        });
        let balance = Balance::from_words(&words);
        assert_eq!(balance.words(), words);
        assert_eq!((balance.published, balance.jobs_left, balance.complete), (100, 110, true));
    }
}
