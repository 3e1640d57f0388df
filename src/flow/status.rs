//! How a pipeline stands, as its spool says it: to whoever asks, whether it runs, hangs or is dead.
//!
//! Nothing is asked of any process, and nothing is believed without a bound. What the spool says of a
//! process is held against `/proc`: a pid with its start time is that process or nobody.

pub(crate) mod facts;
pub(crate) mod health;
mod processes;
mod rates;
mod summary;
mod table;
pub(crate) mod words;

pub(crate) use table::tally;

use super::about::About;
use super::queue::commit::{Commit, Totals};
use super::queue::history::{self, Reason, Story, What};
use super::queue::layout::OPENING_WORDS;
use super::queue::position::ListPosition;
use super::queue::spool::{Extent, Spool};
use super::queue::{orphans, vitals};
use crate::error::Error;
use crate::sys::atomic::Ordering;
use crate::sys::{clock, lock, proc_fs};
use facts::{Buffer, Lane, List, Main, Records, State, Status, Stop, Waiting};
use rustix::fs::{Mode, OFlags};
use std::path::Path;
use std::time::Duration;
use table::Table;

/// How often it is looked again at what has changed in the middle of a look.
const LOOKS_MAX: usize = 5;

impl Status {
    /// How the pipeline of the spool at `path` stands. With [`Extent::Books`] nothing is said of jobs
    /// and lanes.
    ///
    /// # Errors
    /// If the spool can't be read.
    pub(crate) fn look(path: &Path, extent: Extent) -> Result<Status, Error> {
        let mut looks = 0;
        loop {
            looks += 1;
            // Asked first: who lets go of it afterwards has said before how it has ended.
            let held = is_held(path);
            let spool = Spool::look(path, extent)?;
            let look = Look::at(&spool, held, extent == Extent::Jobs && !spool.is_closed());
            // Begun, ended, or written out meanwhile?
            let same = held == spool.is_held()
                && look.state != State::Died
                && Spool::look(path, Extent::Books)
                    .is_ok_and(|now| Commit::generation(&now) == Commit::generation(&spool));
            if same || looks == LOOKS_MAX {
                return Ok(look.status());
            }
        }
    }

    /// The same, of a spool that the caller holds.
    pub(crate) fn of_own(spool: &Spool) -> Status {
        Look::at(spool, true, true).status()
    }
}

/// Does somebody hold the spool of this name?
fn is_held(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty());
    file.is_ok_and(|file| !lock::is_free(file).unwrap_or(true))
}

/// What all parts of a status go by.
struct Look<'a> {
    spool: &'a Spool,
    about: Option<About>,
    story: Story,
    books: Commit,
    state: State,
    /// Pids in the spool mean here what they mean there, and in this boot.
    visible: bool,
    /// It is of this boot: its monotonic clock is ours.
    this_boot: bool,
    /// Jobs and lanes can be looked at.
    whole: bool,
    now: Duration,
    wall: Duration,
}

impl Look<'_> {
    fn at(spool: &Spool, held: bool, whole: bool) -> Look<'_> {
        let run = spool.run();
        let this_boot = run.boot_id.load(Ordering::Relaxed) == proc_fs::boot_id();
        let namespace = run.pid_namespace.load(Ordering::Relaxed);
        let same = namespace == 0 || namespace == proc_fs::pid_namespace();
        let visible = this_boot && same;
        let about = About::load(spool);
        let run_id = run.run_id.load(Ordering::Relaxed);
        let story = Some(history::read(spool)).filter(|story| story.run_id == run_id);
        Look {
            spool,
            about,
            story: story.unwrap_or_default(),
            books: Commit::load(spool),
            state: state(spool, held, same, visible),
            visible,
            this_boot,
            whole,
            now: clock::now(),
            wall: clock::wall(),
        }
    }

    fn status(&self) -> Status {
        let table = self.table();
        let run = self.spool.run();
        let word = |word: &crate::sys::atomic::AtomicU64| word.load(Ordering::Relaxed);
        let began = Some(Duration::from_nanos(word(&run.started))).filter(|began| !began.is_zero());
        let main = orphans::main_of(self.spool).filter(|_| self.visible);
        let process_state = main.and_then(proc_fs::stat).map(|stat| stat.state.into());
        let pid = Some(word(&run.main_pid)).filter(|pid| *pid != 0);
        let ended = self.story.stop.iter().find(|event| matches!(event.what, What::Done { .. }));
        let code = word(&run.ended).checked_sub(1).and_then(|code| u8::try_from(code).ok());
        let about = self.about.as_ref();
        let over = self.state == State::Ended;
        let lanes = self.lanes();
        let mut status = Status {
            format: facts::FORMAT,
            pipeline: about.map(|about| about.name.clone()),
            state: self.state,
            started: began.map(timestamp),
            running_seconds: began
                .filter(|_| self.state.goes_on())
                .map(|began| self.wall.saturating_sub(began).as_secs_f64()),
            ended: ended.filter(|_| over).map(|event| timestamp(event.wall)),
            exit_code: code.filter(|_| over),
            main: Main { pid, process_state },
            spool: self.spool.path.display().to_string(),
            output: about.map(|about| about.output.clone()),
            dead_letters: about.and_then(|about| about.dead_letters.clone()),
            log_file: about.and_then(|about| about.log_file.clone()),
            version: about.map(|about| about.version.clone()),
            stop: None,
            processes: self.processes(&table),
            records: self.records(&lanes),
            list: self.list(&table),
            jobs: table.counts,
            waiting: self.waiting(&lanes),
            lanes,
            buffer: self.buffer(),
            rates: None,
            average: None,
        };
        status.stop = self.stop(&status.processes);
        status.average = status.average_until_now();
        status
    }

    /// Of the run: what the books say now, less what they said when it began.
    fn of_run(&self) -> Totals {
        let opening = self.opening();
        let totals = self.books.totals;
        Totals {
            results: totals.results.wrapping_sub(opening[0]),
            dead_letters: totals.dead_letters.wrapping_sub(opening[1]),
            jobs_done: totals.jobs_done.wrapping_sub(opening[2]),
            jobs_failed: totals.jobs_failed.wrapping_sub(opening[3]),
            quarantined: totals.quarantined.wrapping_sub(opening[4]),
            torn: totals.torn,
        }
    }

    fn opening(&self) -> [u64; OPENING_WORDS] {
        self.spool.run().opening.each_ref().map(|word| word.load(Ordering::Relaxed))
    }

    fn table(&self) -> Table {
        let mut table = match self.whole {
            true => tally(self.spool, &self.books, self.now),
            false => Table::default(),
        };
        let totals = self.of_run();
        table.counts.done = totals.jobs_done;
        table.counts.failed = totals.jobs_failed;
        table.counts.slots = self.spool.layout.geometry.slots.into();
        if self.spool.is_closed() {
            table.counts.free_slots = table.counts.slots;
        }
        table
    }

    fn lanes(&self) -> Vec<Lane> {
        let capacity = self.spool.layout.geometry.lane_bytes;
        let lane = |(lane, head): (usize, &super::queue::reader::Mark)| {
            let (mut records, mut bytes) = (0, 0);
            if self.whole {
                let producer = self.spool.producer(lane);
                let tail = producer.tail.load(Ordering::Acquire);
                // A tail that no worker can have stored says nothing.
                bytes = tail.checked_sub(head.offset).filter(|it| *it <= capacity).unwrap_or(0);
                let published = producer.published.load(Ordering::Relaxed);
                // One that was killed may have counted what it did not publish.
                records = if bytes == 0 { 0 } else { published.saturating_sub(head.records) };
            }
            Lane {
                worker: self.worker(lane),
                records,
                bytes,
                capacity_bytes: capacity,
                full_percent: bytes as f64 * 100.0 / capacity as f64,
            }
        };
        self.books.lanes.iter().enumerate().map(lane).collect()
    }

    fn records(&self, lanes: &[Lane]) -> Records {
        let totals = self.of_run();
        let kept_before = self.opening()[6];
        let waiting = lanes.iter().fold(0u64, |sum, lane| sum.wrapping_add(lane.records));
        // Counted at the other end: what was written, what waits, less what was there before.
        let there = [totals.results, totals.dead_letters, totals.quarantined, waiting];
        let there = there.into_iter().fold(0u64, u64::wrapping_add);
        Records {
            published: there.saturating_sub(kept_before),
            kept_before,
            written: totals.results,
            dead_letters: totals.dead_letters,
            quarantined: totals.quarantined,
        }
    }

    fn waiting(&self, lanes: &[Lane]) -> Waiting {
        let sum = |of: fn(&Lane) -> u64| {
            lanes.iter().fold(0u64, |sum, lane| sum.saturating_add(of(lane)))
        };
        let records = sum(|lane| lane.records);
        let since = &vitals::of(self.spool).waiting_since;
        let goes_on = self.this_boot && self.state.goes_on();
        let oldest = vitals::age(since).filter(|_| goes_on && (records > 0 || !self.whole));
        Waiting {
            records,
            bytes: sum(|lane| lane.bytes),
            capacity_bytes: sum(|lane| lane.capacity_bytes),
            oldest_seconds: oldest.map(|age| age.as_secs_f64()),
        }
    }

    fn buffer(&self) -> Buffer {
        let vitals = vitals::of(self.spool);
        let age = |word| vitals::age(word).filter(|_| self.this_boot).map(|age| age.as_secs_f64());
        Buffer {
            last_commit_seconds: age(&vitals.committed_at),
            last_sync_seconds: age(&vitals.synced_at),
            no_room_seconds: age(&vitals.no_room_since).filter(|_| self.state.goes_on()),
            flush_after_seconds: self.about.as_ref().map(|about| about.flush_after_seconds),
        }
    }

    fn list(&self, table: &Table) -> Option<List> {
        let (_, saved) = ListPosition::saved(self.spool);
        let (round, seq, offset) = table.furthest;
        let further = (round, seq) > (saved.round, saved.seq) && !saved.complete;
        let at =
            if further { (round, seq, offset) } else { (saved.round, saved.seq, saved.offset) };
        let from = self.about.as_ref().and_then(|about| about.jobs.clone());
        if at.0 == 0 && from.is_none() {
            return None;
        }
        let totals = self.books.totals;
        let ended = totals.jobs_done.wrapping_add(totals.jobs_failed);
        let ended = ended.wrapping_add(table.counts.done_not_written);
        Some(List {
            from,
            round: at.0,
            handed_out: at.1,
            offset_bytes: at.2,
            at_end: saved.at_end && !further,
            ended: saved
                .ended_before
                .map(|before| ended.wrapping_sub(before))
                .filter(|n| *n <= at.1),
        })
    }

    fn stop(&self, processes: &[facts::Process]) -> Option<Stop> {
        let (deadline, _) = orphans::deadlines(self.spool);
        let began = self.story.stop.iter().find_map(|event| match event.what {
            What::StopRequested(reason) => Some((event.at, reason)),
            _ => None,
        });
        if began.is_none() && self.state != State::Stopping {
            return None;
        }
        let moved: Duration = self
            .story
            .stop
            .iter()
            .map(|event| match event.what {
                What::DeadlineMoved { by } => by,
                _ => Duration::ZERO,
            })
            .fold(Duration::ZERO, Duration::saturating_add);
        let deadline = deadline.saturating_add(moved);
        let until =
            began.map(|(at, _)| self.story.began.saturating_add(at).saturating_add(deadline));
        let waits = |process: &&facts::Process| process.state != facts::Doing::Ended;
        let until = until.filter(|_| self.this_boot && self.state.goes_on());
        Some(Stop {
            reason: began.map(|(_, reason)| match reason {
                Reason::Signal => "signal",
                Reason::Finished => "finished",
                Reason::Failure => "failure",
            }),
            deadline_seconds: deadline.as_secs_f64(),
            left_seconds: until.map(|until| until.saturating_sub(self.now).as_secs_f64()),
            overdue_seconds: until
                .and_then(|until| self.now.checked_sub(until))
                .map(|by| by.as_secs_f64()),
            waiting_for: match self.state.goes_on() {
                true => {
                    let left = processes.iter().filter(waits);
                    let there = left.filter(|process| {
                        !matches!(process.state, facts::Doing::Absent | facts::Doing::Dead)
                    });
                    there.map(|process| process.role.clone()).collect()
                }
                false => Vec::new(),
            },
        })
    }

    /// What the worker of a lane is called.
    fn worker(&self, lane: usize) -> String {
        let mut number = lane;
        for kind in self.about.iter().flat_map(|about| &about.kinds) {
            if number < usize::from(kind.processes) {
                return format!("{}/{number}", kind.name);
            }
            number -= usize::from(kind.processes);
        }
        format!("of lane {lane}")
    }
}

/// What the pipeline does. `same`: it is in our PID namespace; `visible`: its pids can be believed.
fn state(spool: &Spool, held: bool, same: bool, visible: bool) -> State {
    let run = spool.run();
    let over = run.ended.load(Ordering::Acquire) != 0;
    let never = run.run_id.load(Ordering::Relaxed) == 0;
    if visible && !never && orphans::main_of(spool).is_some() {
        return match (over, spool.is_stopping()) {
            (true, _) => State::Ended,
            (false, true) => State::Stopping,
            (false, false) => State::Running,
        };
    }
    match (held, never, over) {
        (true, false, _) if !same => State::Unseen,
        (true, _, _) => {
            let orphans = visible && processes::any_lives(spool);
            if orphans { State::Orphans } else { State::Starting }
        }
        (false, true, _) => State::Never,
        (false, false, true) => State::Ended,
        (false, false, false) => State::Died,
    }
}

/// A moment of the clock on the wall, as RFC 3339 in UTC.
fn timestamp(wall: Duration) -> String {
    let nanos = i128::try_from(wall.as_nanos()).unwrap_or(i128::MAX);
    let timestamp = jiff::Timestamp::from_nanosecond(nanos).unwrap_or(jiff::Timestamp::MAX);
    format!("{timestamp:.3}")
}

#[cfg(test)]
mod tests;
