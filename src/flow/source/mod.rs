//! Sources: they hand out jobs, in order, as fast as slots become free.
//!
//! A list of lines is handed out here. A source that is killed is replaced, and the next one goes on
//! behind what was handed out: in a file by reading it again, in a list that can be read only once by
//! what main holds of it ([`intake`]). Only of what can't be moved there nothing is left; then the run
//! ends.
//!
//! What is no list is an object that implements a trait ([`api`]), and [`own`] hands out its jobs.

pub(crate) mod api;
pub(crate) mod directory;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod hand_out;
pub(crate) mod intake;
pub(crate) mod items;
pub(crate) mod lines;
pub(crate) mod own;
pub(crate) mod refill;

use super::queue::jobs::Jobs;
use super::queue::position::ListPosition;
use super::queue::spool::Spool;
use crate::config;
use crate::error::Error;
use crate::stop::Stop;
use crate::sys::clock;
use hand_out::HandOut;
use intake::Intake;
use lines::{LineReader, Next, name};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How long the source counts what is left of its list when it is stopped.
const COUNT_BUDGET: Duration = Duration::from_millis(100);

/// Why the source has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// There are no more jobs, and every job is done.
    Exhausted,
}

/// Finds out, before anything is started, whether the list can be gone on with.
///
/// # Errors
/// If the list is a file, and its part that was handed out has changed.
pub(crate) fn check(spool: &Spool, list: &config::List) -> Result<(), Error> {
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

/// Runs the source of a list until it is told to stop, or a list that is run once has been done.
///
/// `intake`: what main holds of a list that can be read only once. `first`: it is the first source
/// of this run. `interrupt` becomes readable when a stop is asked for.
///
/// # Errors
/// If the list can't be read.
pub(crate) fn run(
    spool: &Spool,
    list: &config::List,
    intake: Option<&Intake>,
    first: bool,
    interrupt: BorrowedFd<'_>,
    stop: &Stop,
    ready: impl FnOnce(),
) -> Result<End, Error> {
    let mut out = HandOut::begin(spool, stop);
    if list.every.is_some() && out.position.at_end && out.jobs.pending() == 0 {
        // The round was over, whoever died before it could say so.
        out.position.complete = true;
    }
    out.save();
    out.collect();
    ready();
    Source { out, list, intake, first, interrupt }.rounds()
}

struct Source<'a> {
    out: HandOut<'a>,
    list: &'a config::List,
    intake: Option<&'a Intake>,
    first: bool,
    interrupt: BorrowedFd<'a>,
}

impl<'a> Source<'a> {
    fn rounds(&mut self) -> Result<End, Error> {
        if self.first && !self.list.again && self.was_done() {
            log::info!(
                "the list was done to its end before, and jobs.again = false: nothing is to be done; \
                 --fresh begins it anew"
            );
            return Ok(End::Exhausted);
        }
        let first = clock::now();
        loop {
            let mut reader = match self.open() {
                Ok(Some(reader)) => reader,
                Ok(None) => return Ok(End::Stopped),
                // Between two rounds somebody may be replacing it.
                Err(error) if self.out.position.complete => {
                    let Some(every) = self.list.every else { return Err(error) };
                    log::warn!("{error}; this round is skipped");
                    if self.out.stop.wait(until_next_tick(clock::now() - first, every)) {
                        return Ok(End::Stopped);
                    }
                    continue;
                }
                Err(error) => return Err(error),
            };
            if self.hand_out(&mut reader)? == End::Stopped || !self.out.await_all() {
                if !self.out.position.at_end {
                    self.out.position.left = reader.count_left(COUNT_BUDGET);
                }
                self.out.save();
                return Ok(End::Stopped);
            }
            let Some(every) = self.list.every else { return Ok(End::Exhausted) };
            if self.out.stop.wait(until_next_tick(clock::now() - first, every)) {
                return Ok(End::Stopped);
            }
            self.out.position.complete = true;
        }
    }

    /// Was the list done to its end by an earlier run? It was not if that is only forgotten.
    fn was_done(&self) -> bool {
        let position = &self.out.position;
        self.list.every.is_none() && position.complete && position.at_end
    }

    /// Opens the list where it is to be gone on with: behind the last job that was handed out,
    /// or at the beginning of a new round. `None`: stopped meanwhile.
    ///
    /// A list that can be read only once is [begun](LineReader::begin) when the saved position is one
    /// of this input: a source that is killed before finds its place as this one did.
    fn open(&mut self) -> Result<Option<LineReader<'a>>, Error> {
        let line_max = self.out.spool.layout.geometry.job_bytes as usize;
        let mut reader = LineReader::open(&self.list.lines, self.intake, line_max, self.interrupt)?;
        let position = self.out.position;
        if position.round > 0 && !position.complete {
            if !self.first && !reader.survives() {
                return Err(Error::file(
                    name(&self.list.lines),
                    "can't go on with this list",
                    "its reader has died, and what it had read is gone, since this input can only be \
                     read directly. What was handed out is done or kept; give the same input again \
                     to go on behind it",
                ));
            }
            let behind = reader.skip_to(position.offset, position.prefix);
            let behind = behind.map_err(|error| self.unreadable(error))?;
            let Some(same) = behind else { return Ok(None) };
            if same {
                if position.seq > 0 {
                    self.out.say_going_on();
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
        if self.was_done() {
            log::info!("the list was done to its end before; it is begun anew");
        }
        self.out.begin_round();
        reader.begin();
        Ok(Some(reader))
    }

    /// Hands out the list to its end.
    fn hand_out(&mut self, reader: &mut LineReader<'_>) -> Result<End, Error> {
        let mut line = Vec::new();
        loop {
            if self.out.stop.requested() || !self.out.find_free() {
                self.out.announce();
                return Ok(End::Stopped);
            }
            if reader.must_read() {
                self.out.announce();
            }
            match reader.next(&mut line).map_err(|error| self.unreadable(error))? {
                Next::Line { too_long } => self.out.fill(&line, too_long, reader.position()),
                Next::Interrupted => return Ok(End::Stopped),
                Next::End => break,
            }
        }
        self.out.announce();
        if self.out.position.seq == 0 {
            log::warn!("{}: the list of jobs is empty", name(&self.list.lines).display());
        }
        self.out.end_round();
        Ok(End::Exhausted)
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        Error::file(name(&self.list.lines), "can't read the list of jobs", error)
    }
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

    #[test]
    fn missed_ticks_are_skipped() {
        let second = Duration::from_secs(1);
        assert_eq!(until_next_tick(Duration::from_millis(300), second).as_millis(), 700);
        assert_eq!(until_next_tick(Duration::from_millis(2300), second).as_millis(), 700);
        assert_eq!(until_next_tick(Duration::from_secs(2), second), second);
    }
}
