//! The books at the end: what came in at one end, and what went out at the other, counted apart.
//!
//! *Published* is counted by the workers, who number each record in its frame. *Written* is
//! counted by the buffer, record by record as it hands them to the sink, and committed. *Kept* is
//! what stands in the lanes, counted by reading them. So the sum can be wrong, and is checked.

use super::queue::commit::{Commit, Totals};
use super::queue::jobs::Jobs;
use super::queue::lane::{Mark, count_records};
use super::queue::position::ListPosition;
use super::queue::processes;
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
}

impl Balance {
    /// Do both sides agree?
    pub fn agrees(&self) -> bool {
        self.published + self.kept_before == self.written + self.dead_letters + self.kept
    }
}

impl std::fmt::Display for Balance {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "{} published + {} kept before = {} written + {} dead letters + {} kept; jobs: {} \
             done, {} failed, {}{} left",
            self.published,
            self.kept_before,
            self.written,
            self.dead_letters,
            self.kept,
            self.jobs_done,
            self.jobs_failed,
            self.jobs_left,
            if self.jobs_left_exact { "" } else { " or more" },
        )
    }
}

/// Opens the books, before anything runs.
pub(crate) fn open(spool: &Spool) -> Result<Opening, Error> {
    let books = Commit::load(spool);
    let published = records_in_lanes(spool, &books.lanes)?;
    let kept = kept(&published, &books.lanes);
    Ok(Opening { published, kept, totals: books.totals })
}

/// Closes the books, when no process runs any more.
pub(crate) fn close(spool: &Spool, opening: &Opening) -> Result<Balance, Error> {
    let books = Commit::load(spool);
    let in_lanes = records_in_lanes(spool, &books.lanes)?;
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
    Ok(Balance {
        published,
        kept_before: opening.kept,
        written: books.totals.results - opening.totals.results,
        dead_letters: books.totals.dead_letters - opening.totals.dead_letters,
        kept: kept(&in_lanes, &books.lanes),
        jobs_done: books.totals.jobs_done - opening.totals.jobs_done,
        jobs_failed: books.totals.jobs_failed - opening.totals.jobs_failed,
        jobs_failed_of_list: books.totals.jobs_failed.saturating_sub(position.failed_before),
        jobs_left: pending + position.left.unwrap_or(0),
        // Round 0: there is no list, or nothing of it was handed out.
        jobs_left_exact: position.left.is_some() || position.at_end || position.round == 0,
        complete: position.at_end && pending == 0,
    })
}

fn records_in_lanes(spool: &Spool, heads: &[Mark]) -> Result<Vec<u64>, Error> {
    heads
        .iter()
        .enumerate()
        .map(|(lane, head)| count_records(spool, lane, *head))
        .collect::<Result<_, _>>()
        .map_err(Error::system("can't read the lanes"))
}

fn kept(published: &[u64], heads: &[Mark]) -> u64 {
    published.iter().zip(heads).map(|(end, head)| end.saturating_sub(head.records)).sum()
}
