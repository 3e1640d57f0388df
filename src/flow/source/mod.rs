//! The source: hands out the jobs of a list, in order, as fast as slots become free.
//!
//! A source that is killed is replaced, and the next one goes on behind what was handed out: in a file
//! by reading it again, in a list that can be read only once by what main holds of it ([`intake`]).
//! Only of what can't be moved there nothing is left; then the run ends.

pub(crate) mod intake;
pub(crate) mod lines;
pub(crate) mod refill;

use super::queue::bell;
use super::queue::commit::{Commit, Totals};
use super::queue::jobs::{Jobs, NewJob, Phase, Reason};
use super::queue::position::ListPosition;
use super::queue::reader::Mark;
use super::queue::spool::Spool;
use crate::config;
use crate::error::Error;
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use intake::Intake;
use lines::{LineReader, Next, name};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Jobs that are filled in before idle workers are woken for them.
const ANNOUNCE_AT: usize = 32;

/// How long the source counts what is left of its list when it is stopped.
const COUNT_BUDGET: Duration = Duration::from_millis(100);

/// Why the source has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// The list is at its end and every job is done.
    Exhausted,
}

/// Finds out, before anything is started, whether the list can be gone on with.
///
/// # Errors
/// If the list is a file, and its part that was handed out has changed.
pub(crate) fn check(spool: &Spool, list: &config::Jobs) -> Result<(), Error> {
    let config::Lines::File(path) = &list.lines else { return Ok(()) };
    let (_, position) = ListPosition::load(spool);
    let over = list.every.is_some() && position.at_end && Jobs(spool).pending() == 0;
    if position.round == 0 || position.complete || over {
        return Ok(());
    }
    // A FIFO would wait for its writer here, and can't be read twice.
    if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return Ok(());
    }
    let never = std::io::pipe().map_err(Error::system("can't create a pipe"))?;
    let interrupt = std::os::fd::AsFd::as_fd(&never.0);
    let mut reader = LineReader::open(&list.lines, None, 0, interrupt)?;
    match reader.skip_to(position.offset, position.prefix) {
        Ok(Some(true)) => Ok(()),
        Ok(_) => Err(Error::Config(format!(
            "{}: the list has changed in the part that was handed out already ({} jobs, {} bytes), \
             so it can't be gone on with: restore it, begin it anew with --fresh, or name another \
             spool with --spool",
            path.display(),
            position.seq,
            position.offset
        ))),
        Err(error) => Err(Error::file(path, "can't read the list of jobs", error)),
    }
}

/// Runs the source until it is told to stop, or a list that is run once has been done.
///
/// `intake`: what main holds of a list that can be read only once. `first`: it is the first source
/// of this run. `interrupt` becomes readable when a stop is asked for.
///
/// # Errors
/// If the list can't be read.
pub(crate) fn run(
    spool: &Spool,
    list: &config::Jobs,
    intake: Option<&Intake>,
    first: bool,
    interrupt: BorrowedFd<'_>,
    stop: &Stop,
    ready: impl FnOnce(),
) -> Result<End, Error> {
    // A source that was killed may have been waiting.
    spool.bells().source_waits.store(0, Ordering::SeqCst);
    let (generation, mut position) = ListPosition::load(spool);
    let jobs = Jobs(spool);
    if list.every.is_some() && position.at_end && jobs.pending() == 0 {
        // The round was over, whoever died before it could say so.
        position.complete = true;
    }
    let next_slot = jobs.next_claimed();
    let free = around(jobs.len(), next_slot).filter(|index| jobs.phase(*index) == Phase::Free);
    let mut source = Source {
        spool,
        jobs,
        list,
        intake,
        first,
        interrupt,
        stop,
        position,
        generation,
        free: free.collect(),
        next_slot,
        unannounced: 0,
    };
    source.save();
    source.collect();
    ready();
    source.rounds()
}

struct Source<'a> {
    spool: &'a Spool,
    jobs: Jobs<'a>,
    list: &'a config::Jobs,
    intake: Option<&'a Intake>,
    first: bool,
    interrupt: BorrowedFd<'a>,
    stop: &'a Stop,
    position: ListPosition,
    generation: u64,
    /// Free slots, in the order in which they are to be filled: the one in which they are claimed, so
    /// that jobs are begun in the order of the list.
    free: VecDeque<usize>,
    /// The slot behind the one that was filled last.
    next_slot: usize,
    /// Jobs filled in that no idle worker was woken for yet.
    unannounced: usize,
}

impl<'a> Source<'a> {
    fn rounds(&mut self) -> Result<End, Error> {
        let first = clock::now();
        loop {
            let mut reader = match self.open() {
                Ok(Some(reader)) => reader,
                Ok(None) => return Ok(End::Stopped),
                // Between two rounds somebody may be replacing it.
                Err(error) if self.position.complete => {
                    let Some(every) = self.list.every else { return Err(error) };
                    log::warn!("{error}; this round is skipped");
                    if self.stop.wait(until_next_tick(clock::now() - first, every)) {
                        return Ok(End::Stopped);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.hand_out(&mut reader)? == End::Stopped || !self.await_all() {
                if !self.position.at_end {
                    self.position.left = reader.count_left(COUNT_BUDGET);
                }
                self.save();
                return Ok(End::Stopped);
            }
            let Some(every) = self.list.every else { return Ok(End::Exhausted) };
            if self.stop.wait(until_next_tick(clock::now() - first, every)) {
                return Ok(End::Stopped);
            }
            self.position.complete = true;
        }
    }

    /// Opens the list where it is to be gone on with: behind the last job that was handed out,
    /// or at the beginning of a new round. `None`: stopped meanwhile.
    ///
    /// A list that can be read only once is [begun](LineReader::begin) when the saved position is one
    /// of this input: a source that is killed before finds its place as this one did.
    fn open(&mut self) -> Result<Option<LineReader<'a>>, Error> {
        let line_max = self.spool.layout.geometry.job_bytes as usize;
        let mut reader = LineReader::open(&self.list.lines, self.intake, line_max, self.interrupt)?;
        if self.position.round > 0 && !self.position.complete {
            if !self.first && !reader.survives() {
                return Err(Error::file(
                    name(&self.list.lines),
                    "can't go on with this list",
                    "its reader has died, and what it had read is gone, since this input can only be \
                     read directly. What was handed out is done or kept; give the same input again \
                     to go on behind it",
                ));
            }
            let behind = reader.skip_to(self.position.offset, self.position.prefix);
            let behind = behind.map_err(|error| self.unreadable(error))?;
            let Some(same) = behind else { return Ok(None) };
            if same {
                if self.position.seq > 0 {
                    log::info!("going on behind job {}", self.position.seq);
                }
                reader.begin();
                return Ok(Some(reader));
            }
            log::warn!(
                "{}: not the input that was being worked on; what the spool has kept is done, and \
                 this input is read from its beginning",
                name(&self.list.lines).display()
            );
        }
        let books = Commit::load(self.spool);
        let drained = |(lane, head): (usize, &Mark)| {
            self.spool.producer(lane).tail.load(Ordering::Acquire) == head.offset
        };
        let nothing_under_way =
            self.free.len() == self.jobs.len() && books.lanes.iter().enumerate().all(drained);
        let Totals { jobs_done, jobs_failed, .. } = books.totals;
        self.position = ListPosition {
            round: self.position.round + 1,
            failed_before: jobs_failed,
            ended_before: nothing_under_way.then_some(jobs_done + jobs_failed),
            ..ListPosition::default()
        };
        // Before any slot is filled: what stands in slots does not know of the failures.
        self.save();
        reader.begin();
        Ok(Some(reader))
    }

    /// Hands out the list to its end.
    fn hand_out(&mut self, reader: &mut LineReader<'_>) -> Result<End, Error> {
        let mut line = Vec::new();
        loop {
            if self.stop.requested() || !self.find_free() {
                self.announce();
                return Ok(End::Stopped);
            }
            if reader.must_read() {
                self.announce();
            }
            match reader.next(&mut line).map_err(|error| self.unreadable(error))? {
                Next::Line { too_long } => self.fill(&line, too_long, reader.position()),
                Next::Interrupted => return Ok(End::Stopped),
                Next::End => break,
            }
        }
        self.announce();
        if self.position.seq == 0 {
            log::warn!("{}: the list of jobs is empty", name(&self.list.lines).display());
        }
        (self.position.at_end, self.position.left) = (true, Some(0));
        self.save();
        Ok(End::Exhausted)
    }

    fn fill(&mut self, line: &[u8], too_long: bool, (offset, prefix): (u64, u64)) {
        self.position.seq += 1;
        (self.position.offset, self.position.prefix) = (offset, prefix);
        // `find_free` has found one.
        let Some(index) = self.free.pop_front() else { return };
        self.next_slot = (index + 1) % self.jobs.len();
        let (seq, round) = (self.position.seq, self.position.round);
        let reason = reason_of(too_long);
        self.jobs.fill(index, &NewJob { text: line, seq, round, offset, prefix, reason });
        self.unannounced += 1;
        if self.unannounced >= ANNOUNCE_AT {
            self.announce();
        }
    }

    /// Sees to it that there is a free slot; waits for one. `false`: stopped meanwhile.
    fn find_free(&mut self) -> bool {
        while self.free.is_empty() {
            self.announce();
            self.collect();
            if self.free.is_empty() {
                if self.stop.requested() {
                    return false;
                }
                self.sleep();
            }
        }
        true
    }

    /// Waits until every job that was handed out is done. `false`: stopped before.
    fn await_all(&mut self) -> bool {
        loop {
            self.collect();
            if self.jobs.pending() == 0 {
                return true;
            }
            if self.stop.requested() {
                return false;
            }
            bell::sleep_unless(&self.spool.bells().source, None, || {
                self.stop.requested() || self.jobs.pending() == 0
            });
        }
    }

    /// Gives the slots of jobs back whose results are committed. Their place in the list is saved
    /// before: so a job is in a slot, or behind the saved position.
    fn collect(&mut self) {
        let done: Vec<usize> = around(self.jobs.len(), self.next_slot)
            .filter(|index| self.jobs.is_committed(*index))
            .collect();
        if done.is_empty() {
            return;
        }
        self.save();
        for index in done {
            self.jobs.free(index);
            self.free.push_back(index);
        }
    }

    /// Sleeps until a worker has found no job, which is when slots are needed, or until stop. If all
    /// that is missing then are commits, the buffer is asked for them.
    fn sleep(&self) {
        let bells = self.spool.bells();
        let any = |is: fn(&Jobs<'_>, usize) -> bool| {
            (0..self.jobs.len()).any(|index| is(&self.jobs, index))
        };
        let starving = || {
            any(|jobs, index| jobs.is_done(index))
                && !any(|jobs, index| jobs.phase(index) == Phase::Ready)
        };
        let asks = starving();
        if asks {
            bells.source_waits.store(1, Ordering::SeqCst);
            bell::ring(&bells.buffer);
        }
        bell::sleep_unless(&bells.source, None, || {
            // A worker that has just run out of jobs may have rung before we lay down.
            self.stop.requested()
                || any(|jobs, index| jobs.is_committed(index))
                || (!asks && starving())
        });
        bells.source_waits.store(0, Ordering::SeqCst);
    }

    fn announce(&mut self) {
        if self.unannounced > 0 {
            self.jobs.announce(self.unannounced);
            self.unannounced = 0;
        }
    }

    fn save(&mut self) {
        self.generation += 1;
        self.position.store(self.spool, self.generation);
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        Error::file(name(&self.list.lines), "can't read the list of jobs", error)
    }
}

/// The slots from `first` on, and round again to it.
fn around(count: usize, first: usize) -> impl Iterator<Item = usize> {
    (first..count).chain(0..first)
}

/// Why a job can't be run, if it can't.
fn reason_of(too_long: bool) -> Option<Reason> {
    too_long.then_some(Reason::TooLong)
}

/// Time from `elapsed` after the first tick to the next one; missed ones are skipped.
fn until_next_tick(elapsed: Duration, every: Duration) -> Duration {
    let (elapsed, every) = (elapsed.as_nanos(), every.as_nanos().max(1));
    let left = every - elapsed % every;
    Duration::from_nanos(u64::try_from(left).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::queue::jobs::{Claim, Claimed, Claimer};
    use crate::flow::queue::layout::Geometry;
    use std::os::fd::AsFd;

    /// Whatever the moments at which slots become free, and are looked for.
    #[test]
    fn one_who_claims_alone_gets_the_jobs_in_the_order_of_the_list() {
        let directory = tempfile::tempdir().expect("temp dir");
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 3, job_bytes: 64 };
        let path = directory.path().join("spool");
        let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
        let list = config::Jobs { lines: config::Lines::File("not opened".into()), every: None };
        let (quiet, _writer) = std::io::pipe().expect("pipe");
        let stop = Stop::new(|| {});
        let jobs = Jobs(&spool);
        let mut source = Source {
            spool: &spool,
            jobs,
            list: &list,
            intake: None,
            first: true,
            interrupt: quiet.as_fd(),
            stop: &stop,
            position: ListPosition { round: 1, ..ListPosition::default() },
            generation: 0,
            free: (0..jobs.len()).collect(),
            next_slot: 0,
            unannounced: 0,
        };
        let mut claimed = 0;
        let mut dice = 1_u32;
        for round in 0..2000 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match dice >> 30 {
                0 if source.free.is_empty() => source.collect(),
                0 | 1 if !source.free.is_empty() => source.fill(b"job", false, (0, 0)),
                2 | 3 => {
                    let mut job = Claimed::default();
                    if jobs.claim(Claimer { lane: 0, incarnation: 1 }, &mut job) == Claim::Job {
                        claimed += 1;
                        assert_eq!(job.seq, claimed, "in round {round}");
                        jobs.make_done(job.slot);
                    }
                }
                _ => {}
            }
        }
        assert!(claimed > 400, "{claimed}");
    }

    #[test]
    fn missed_ticks_are_skipped() {
        let second = Duration::from_secs(1);
        assert_eq!(until_next_tick(Duration::from_millis(300), second).as_millis(), 700);
        assert_eq!(until_next_tick(Duration::from_millis(2300), second).as_millis(), 700);
        assert_eq!(until_next_tick(Duration::from_secs(2), second), second);
    }
}
