//! Hands out the jobs of a [`Source`], and acknowledges them when their results are committed.
//!
//! # Invariants
//! - A job is acknowledged after a commit that holds its results, and that has been synced unless
//!   nothing ever is, and before its slot is freed. So whoever is killed when: what is not acknowledged
//!   stands in a slot, and is acknowledged by the source after this one, perhaps for the second time.
//! - One thread calls the source. While it waits for something outside, it is woken for commits too.

use super::End;
use super::api::{Done, ErrorKind, InHand, Next, Resume, Source, SourceError, Wait, checksum};
use super::hand_out::HandOut;
use crate::error::Error;
use crate::flow::queue::bell;
use crate::flow::queue::commit::Commit;
use crate::flow::queue::jobs::{Jobs, Phase};
use crate::flow::queue::layout::{SOURCE_LISTENS, SOURCE_WAITS_FLUSH, SOURCE_WAITS_SYNC};
use crate::flow::queue::spool::Spool;
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

/// The first pause before a source in trouble is opened again; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a source of this kind is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings<'a> {
    /// What messages call it.
    pub name: &'a str,
    /// Results count as committed when they are on the disk: unless nothing is ever synced.
    pub synced: bool,
    /// The pipeline has stopped: no job is handed out any more.
    pub only_to_acknowledge: bool,
}

/// Runs such a source until it is told to stop, or has come to its end and every job is done and
/// acknowledged.
///
/// # Errors
/// What the source says that is not to be retried; a panic of it.
pub(crate) fn run(
    spool: &Spool,
    source: &mut dyn Source,
    settings: Settings<'_>,
    stop: &Stop,
    ready: impl FnOnce(),
) -> Result<End, Error> {
    let mut out = HandOut::begin(spool, stop);
    out.save();
    ready();
    let acknowledges = source.acknowledges();
    let books = Books::of(spool, acknowledges && settings.synced);
    let mut own = Own { out, source, acknowledges, settings, books: &books, trouble: None };
    let ended = own.run();
    own.out.announce();
    own.out.save();
    ended
}

/// Is there something for the source to acknowledge? To be asked when nobody else runs.
pub(crate) fn has_unacknowledged(spool: &Spool, synced: bool) -> bool {
    !Books::of(spool, synced).committed().is_empty()
}

/// How many slots are in use.
pub(crate) fn slots_in_use(spool: &Spool) -> usize {
    let jobs = Jobs(spool);
    (0..jobs.len()).filter(|index| jobs.phase(*index) != Phase::Free).count()
}

/// The commits of the buffer, as far as this source has looked at them.
pub(super) struct Books<'a> {
    jobs: Jobs<'a>,
    synced: bool,
    /// What [`Books::state`] was at the last look.
    seen: Cell<Option<u64>>,
}

impl<'a> Books<'a> {
    fn of(spool: &'a Spool, synced: bool) -> Books<'a> {
        Books { jobs: Jobs(spool), synced, seen: Cell::new(None) }
    }

    pub(super) fn spool(&self) -> &'a Spool {
        self.jobs.0
    }

    /// Positions of the jobs that were handed out and not acknowledged.
    pub(super) fn positions_in_hand(&self) -> impl Iterator<Item = u64> {
        let in_use = |index: &usize| self.jobs.phase(*index) != Phase::Free;
        let slots = (0..self.jobs.len()).filter(in_use);
        slots.map(|index| self.jobs.slot(index).offset.load(Ordering::Relaxed))
    }

    /// Has more been committed since the last look, and is it all of some job?
    pub(super) fn have_news(&self) -> bool {
        self.has_changed() && !self.committed().is_empty()
    }

    fn has_changed(&self) -> bool {
        self.seen.get() != Some(self.state(Commit::generation(self.spool())))
    }

    /// A number that grows with whatever the buffer says about what is committed.
    fn state(&self, generation: u64) -> u64 {
        let freed = |lane| self.spool().consumer(lane).freed.load(Ordering::Acquire);
        (0..self.spool().lanes()).fold(generation, |sum, lane| sum.wrapping_add(freed(lane)))
    }

    /// Slots of jobs whose results are committed.
    fn committed(&self) -> Vec<usize> {
        self.committed_in(&Commit::load(self.spool()))
    }

    fn committed_in(&self, commit: &Commit) -> Vec<usize> {
        let is_synced = |index: usize| match self.jobs.look(index) {
            (state, true) => match state.phase() {
                Phase::Claimed(by) => {
                    let end = self.jobs.slot(index).result_end.load(Ordering::Acquire);
                    let lane = commit.synced.lanes.get(usize::from(by.lane));
                    lane.is_some_and(|mark| mark.offset >= end)
                }
                Phase::Free | Phase::Ready | Phase::Unknown => false,
            },
            _ => false,
        };
        (0..self.jobs.len())
            .filter(|index| self.jobs.is_committed(*index))
            .filter(|index| !self.synced || is_synced(*index))
            .collect()
    }
}

struct Own<'a> {
    out: HandOut<'a>,
    source: &'a mut dyn Source,
    acknowledges: bool,
    settings: Settings<'a>,
    books: &'a Books<'a>,
    /// The pause after the last error; `None`: there was none since all went well.
    trouble: Option<Duration>,
}

impl Own<'_> {
    fn run(&mut self) -> Result<End, Error> {
        loop {
            let error = match self.work() {
                Ok(end) => return Ok(end),
                Err(error) => error,
            };
            match error.kind {
                ErrorKind::Retry if self.pause(&error) => {}
                ErrorKind::Retry => return Ok(End::Stopped),
                ErrorKind::Fatal => {
                    let message = error.message;
                    return Err(Error::File {
                        path: Path::new(self.settings.name).into(),
                        message,
                    });
                }
                ErrorKind::Refused => {
                    let name = self.settings.name;
                    return Err(Error::Config(format!("{name}: {error}")));
                }
            }
        }
    }

    /// Waits after an error; `false`: stopped meanwhile.
    fn pause(&mut self, error: &SourceError) -> bool {
        let pause = match self.trouble {
            None => {
                log::warn!("{}: {error}; it is tried again until it works", self.settings.name);
                PAUSE_FIRST
            }
            Some(pause) => (2 * pause).min(PAUSE_MAX),
        };
        self.trouble = Some(pause);
        self.out.announce();
        !self.out.stop.wait(pause)
    }

    fn went_well(&mut self) {
        if self.trouble.take().is_some() {
            log::info!("{}: goes on", self.settings.name);
        }
    }

    /// Opens it, and works until it ends or fails.
    fn work(&mut self) -> Result<End, SourceError> {
        self.open()?;
        if self.settings.only_to_acknowledge {
            let count = self.acknowledge()?;
            log::info!("{count} jobs acknowledged");
            return Ok(End::Stopped);
        }
        let (books, stop) = (self.books, self.out.stop);
        let mut job = Vec::new();
        let mut ended = false;
        loop {
            if stop.requested() {
                return Ok(End::Stopped);
            }
            self.acknowledge()?;
            if ended {
                if self.out.is_idle() {
                    return Ok(End::Exhausted);
                }
                self.await_commits();
                continue;
            }
            if !self.out.has_free() {
                self.await_commits();
                continue;
            }
            self.out.announce();
            job.clear();
            let wait = Wait { books, stop };
            let next = self.call(|source| source.next(&wait, &mut job))?;
            self.went_well();
            match next {
                Next::Job(position) => self.fill(&job, position),
                Next::After(pause) => wait.sleep(clock::now().saturating_add(pause), || false),
                Next::End => {
                    ended = true;
                    self.out.end_round();
                }
            }
        }
    }

    fn open(&mut self) -> Result<(), SourceError> {
        let position = self.out.position;
        if position.round == 0 || position.complete {
            self.out.begin_round();
        } else if position.seq > 0 && self.trouble.is_none() {
            self.out.say_going_on();
        }
        let position = self.out.position;
        let in_hand = self.in_hand();
        let resume = Resume {
            last: (position.seq > 0).then_some(position.offset),
            handed_out: position.seq,
            checksum: position.prefix as u32,
            in_hand: &in_hand,
            job_bytes_max: self.out.spool.layout.geometry.job_bytes as usize,
            only_to_acknowledge: self.settings.only_to_acknowledge,
        };
        self.call(|source| source.open(&resume))
    }

    /// Jobs in slots, in the order in which they were handed out. Of a damaged slot nobody knows what
    /// was in it: its job fails, and is acknowledged by nobody.
    fn in_hand(&self) -> Vec<InHand> {
        let jobs = self.out.jobs;
        let mut in_hand: Vec<(u64, InHand)> = (0..jobs.len())
            .filter(|index| jobs.phase(*index) != Phase::Free && jobs.is_sound(*index))
            .map(|index| {
                let slot = jobs.slot(index);
                let [round, seq, position] =
                    [&slot.round, &slot.seq, &slot.offset].map(|word| word.load(Ordering::Relaxed));
                (round, InHand { job: jobs.text(index), seq, position })
            })
            .collect();
        in_hand.sort_by_key(|(round, job)| (*round, job.seq));
        in_hand.into_iter().map(|(_, job)| job).collect()
    }

    fn fill(&mut self, job: &[u8], position: u64) {
        let too_long = job.len() > self.out.spool.layout.geometry.job_bytes as usize;
        let checksum = checksum(self.out.position.prefix as u32, job);
        self.out.fill(job, too_long, (position, checksum.into()));
    }

    /// Acknowledges what has been committed since the last look, and takes its slots back. Says how
    /// many jobs that were.
    fn acknowledge(&mut self) -> Result<usize, SourceError> {
        if !self.books.has_changed() {
            return Ok(0);
        }
        let commit = Commit::load(self.out.spool);
        // Before the look: what changes meanwhile is a reason for another.
        let state = self.books.state(commit.generation);
        let slots = self.books.committed_in(&commit);
        if self.acknowledges && !slots.is_empty() {
            let done = self.done(&slots);
            self.call(|source| source.acknowledge(&done))?;
        }
        self.books.seen.set(Some(state));
        let count = slots.len();
        self.out.give_back(slots);
        Ok(count)
    }

    fn done(&self, slots: &[usize]) -> Vec<Done> {
        let jobs = self.out.jobs;
        let mut done: Vec<Done> = slots
            .iter()
            .filter(|index| jobs.is_sound(**index))
            .map(|index| {
                let slot = jobs.slot(*index);
                let [seq, position] =
                    [&slot.seq, &slot.offset].map(|word| word.load(Ordering::Relaxed));
                Done { job: jobs.text(*index), seq, position, failed: jobs.has_failed(*index) }
            })
            .collect();
        done.sort_by_key(|job| job.seq);
        done
    }

    /// Sleeps until some job's results are committed, or until stop. If commits, or their syncs, are
    /// all that is missing, the buffer is asked for them.
    fn await_commits(&mut self) {
        self.out.announce();
        let bells = self.out.spool.bells();
        let asks = self.out.is_starving();
        let request = match (asks, self.books.synced) {
            (true, true) => SOURCE_WAITS_FLUSH | SOURCE_WAITS_SYNC,
            (true, false) => SOURCE_WAITS_FLUSH,
            (false, _) => SOURCE_LISTENS,
        };
        bells.source_waits.store(request, Ordering::SeqCst);
        if asks {
            bell::ring(&bells.buffer);
        }
        bell::sleep_unless(&bells.source, None, || {
            self.out.stop.requested() || self.books.have_news() || (!asks && self.out.is_starving())
        });
        bells.source_waits.store(0, Ordering::SeqCst);
    }

    /// Calls the source. A panic of it is an error for good.
    fn call<T>(
        &mut self,
        what: impl FnOnce(&mut dyn Source) -> Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        let source = &mut *self.source;
        // After a panic it is not called again.
        catch_unwind(AssertUnwindSafe(|| what(source))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "no text".into());
            Err(SourceError::fatal(format!("the source has panicked: {text}")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::queue::ends;
    use crate::flow::queue::frame::Kind;
    use crate::flow::queue::jobs::{Claim, Claimed, Claimer};
    use crate::flow::queue::lane::{Finish, LaneWriter, Staged};
    use crate::flow::queue::layout::Geometry;

    /// Two jobs at positions 10 and 20, of which the second is done.
    fn spool(directory: &Path, stop: &Stop) -> Spool {
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 4, job_bytes: 8 };
        let spool =
            Spool::create(&directory.join("spool"), geometry, 7, None, |_| {}).expect("spool");
        let mut out = HandOut::begin(&spool, stop);
        out.begin_round();
        for (job, position) in [("first", 10), ("second", 20)] {
            out.fill(job.as_bytes(), false, (position, 0));
        }
        let (jobs, mut job) = (Jobs(&spool), Claimed::default());
        let mut writer = LaneWriter::open(&spool, 0, 0).expect("ring");
        for _ in 0..2 {
            let claimer = Claimer { lane: 0, incarnation: 1 };
            assert_eq!(jobs.claim(claimer, &mut job), Claim::Job);
        }
        jobs.note_failed(&job);
        let (kind, result_end) = (Kind::JobFailed, jobs.result_end(&job));
        let finish = Finish { kind, seq: job.seq, round: 1, result_end };
        writer.publish(&mut Staged::default(), Some(finish)).expect("room");
        drop(writer);
        spool
    }

    /// Commits what is published; and syncs it.
    fn commit(spool: &Spool, synced: bool) {
        let mut next = Commit::load(spool);
        next.generation += 1;
        next.lanes[0].offset = spool.producer(0).tail.load(Ordering::Acquire);
        if synced {
            next.all_synced();
        }
        next.store(spool);
        ends::free(spool.consumer(0), next.lanes[0].offset);
    }

    /// Notes what it is told.
    #[derive(Default)]
    struct Noting {
        opened: Vec<(Option<u64>, Vec<u64>)>,
        done: Vec<Done>,
        failures: u32,
    }

    impl Source for Noting {
        fn open(&mut self, resume: &Resume<'_>) -> Result<(), SourceError> {
            let in_hand = resume.in_hand().iter().map(|job| job.position).collect();
            self.opened.push((resume.last(), in_hand));
            Ok(())
        }

        fn next(&mut self, _: &Wait<'_>, _: &mut Vec<u8>) -> Result<Next, SourceError> {
            panic!("it is only to acknowledge")
        }

        fn acknowledge(&mut self, done: &[Done]) -> Result<(), SourceError> {
            self.done.extend_from_slice(done);
            if self.failures > 0 {
                self.failures -= 1;
                return Err(SourceError::retry("not now"));
            }
            Ok(())
        }
    }

    fn acknowledge(spool: &Spool, source: &mut Noting) {
        let stop = Stop::new(|| {});
        let settings = Settings { name: "noting", synced: true, only_to_acknowledge: true };
        assert_eq!(run(spool, source, settings, &stop, || {}).expect("done"), End::Stopped);
    }

    #[test]
    fn a_job_is_acknowledged_when_its_results_are_committed_and_synced_and_not_before() {
        let directory = tempfile::tempdir().expect("temp dir");
        let stop = Stop::new(|| {});
        let spool = spool(directory.path(), &stop);
        let mut source = Noting::default();
        assert!(!has_unacknowledged(&spool, false), "nothing is committed");
        commit(&spool, false);
        assert!(has_unacknowledged(&spool, false), "that is all if nothing is ever synced");
        assert!(!has_unacknowledged(&spool, true));
        acknowledge(&spool, &mut source);
        assert_eq!((source.done.len(), slots_in_use(&spool)), (0, 2));
        commit(&spool, true);
        acknowledge(&spool, &mut source);
        let done = Done { job: b"second".into(), seq: 2, position: 20, failed: true };
        assert_eq!((&source.done[..], slots_in_use(&spool)), (&[done][..], 1));
        acknowledge(&spool, &mut source);
        assert_eq!(source.done.len(), 1, "it is forgotten");
        assert_eq!(
            source.opened,
            [(Some(20), vec![10, 20]), (Some(20), vec![10, 20]), (Some(20), vec![10])]
        );
    }

    #[test]
    fn what_could_not_be_acknowledged_is_acknowledged_again_after_another_open() {
        let directory = tempfile::tempdir().expect("temp dir");
        let stop = Stop::new(|| {});
        let spool = spool(directory.path(), &stop);
        commit(&spool, true);
        let mut source = Noting { failures: 1, ..Noting::default() };
        acknowledge(&spool, &mut source);
        assert_eq!((source.opened.len(), source.done.len()), (2, 2));
        assert_eq!(slots_in_use(&spool), 1);
    }

    #[test]
    fn a_damaged_slot_is_acknowledged_by_nobody_and_freed() {
        let directory = tempfile::tempdir().expect("temp dir");
        let stop = Stop::new(|| {});
        let spool = spool(directory.path(), &stop);
        commit(&spool, true);
        Jobs(&spool).slot(1).offset.store(30, Ordering::Relaxed);
        let mut source = Noting::default();
        acknowledge(&spool, &mut source);
        assert_eq!((source.done.len(), slots_in_use(&spool)), (0, 1));
        assert_eq!(source.opened[0].1, [10]);
    }

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let directory = tempfile::tempdir().expect("temp dir");
        let stop = Stop::new(|| {});
        let spool = spool(directory.path(), &stop);
        let settings = Settings { name: "noting", synced: true, only_to_acknowledge: false };
        let error = run(&spool, &mut Noting::default(), settings, &stop, || {});
        let error = error.expect_err("it has panicked");
        assert_eq!(error.exit_code(), crate::error::ExitCode::Io);
        assert!(error.to_string().contains("it is only to acknowledge"), "{error}");
    }
}
