//! The real code, killed after each of its instructions.
//!
//! A worker, the source, and a start that recovers (it settles, and runs the buffer, from the intent
//! to the freeing of the lanes) are run one instruction at a time.
//! Each state that they leave the spool and the output in is then taken for what is left of a run
//! in which everything died at this instant: it is recovered, by what a start does, and in what
//! comes out each job has all of its records in the output, once, or none of them and is ready.

mod tracer;

use super::buffer::{self, Policy};
use super::queue::bell;
use super::queue::commit::Commit;
use super::queue::frame::Kind;
use super::queue::jobs::{Claim, Claimed, Claimer, Jobs, NO_RESULT, NewJob, Phase, PutBack};
use super::queue::lane::{Finish, LaneWriter, Staged};
use super::queue::layout::Geometry;
use super::queue::position::ListPosition;
use super::queue::reader::{Mark, survey};
use super::queue::repair::repair;
use super::queue::settle::settle;
use super::queue::spool::Spool;
use super::sink::Sinks;
use super::sink::file::{FileSink, Shape};
use super::source;
use crate::config;
use crate::error::Error;
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracer::{Files, output_of, quarantine_of, spool_of};

/// Jobs of the list; the first ones are in slots.
const JOBS: u64 = 8;
const GEOMETRY: Geometry = Geometry { lanes: 2, lane_bytes: 4096, slots: 7, job_bytes: 64 };
/// What the output holds before the first record.
const OLD: &str = "old\n";
/// What somebody else has put behind a batch that was cut off.
const FOREIGN: &str = "foreign";
/// A process that is no more, and its successor.
const DEAD: Claimer = Claimer { lane: 0, incarnation: 1 };
const NEXT: Claimer = Claimer { lane: 0, incarnation: 2 };
const OTHER: Claimer = Claimer { lane: 1, incarnation: 1 };

/// Records of a job: one, two, three or none, of many lengths.
fn records(seq: u64) -> Vec<String> {
    let padding = |part| "x".repeat((seq * 11 + part * 17) as usize % 60);
    (0..seq % 4).map(|part| format!("job-{seq} part-{part} {}\n", padding(part))).collect()
}

fn list() -> String {
    (1..=JOBS).map(|seq| format!("job-{seq}\n")).collect()
}

fn list_of(place: &Path) -> PathBuf {
    place.join("list")
}

/// Opens the spool. A command that another test starts at this moment has a copy of every
/// descriptor, and with it the lock, until it is executed.
fn open_spool(place: &Path) -> Spool {
    loop {
        match Spool::open(&spool_of(place)) {
            Ok(spool) => return spool.expect("there is one"),
            Err(Error::Held(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn open_sink(place: &Path) -> FileSink {
    loop {
        match FileSink::open(&output_of(place), Shape::ended_by(b'\n')) {
            Ok(sink) => return sink,
            Err(Error::Held(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

// What is run.

/// Puts the job with this number into the slot.
fn fill(spool: &Spool, index: usize, seq: u64) {
    let list = list();
    let offset = list.match_indices('\n').nth(seq as usize - 1).expect("a line").0 + 1;
    let prefix = crc32c::crc32c(&list.as_bytes()[..offset]).into();
    let text = format!("job-{seq}");
    let (text, offset) = (text.as_bytes(), offset as u64);
    Jobs(spool).fill(index, &NewJob { text, seq, round: 1, offset, prefix, reason: None });
}

fn claim(spool: &Spool, by: Claimer) -> Option<Claimed> {
    let mut job = Claimed::default();
    let claimed = Jobs(spool).claim(by, &mut job) == Claim::Job;
    claimed.then(|| {
        Jobs(spool).begin(&job, true);
        job
    })
}

fn open_lane(spool: &Spool, lane: usize) -> LaneWriter<'_> {
    let found = survey(spool, lane, Commit::load(spool).lanes[lane]).expect("ring");
    LaneWriter::open(spool, lane, found.end.records).expect("ring")
}

fn publish(spool: &Spool, writer: &mut LaneWriter<'_>, job: &Claimed) {
    let mut staged = Staged::default();
    for record in records(job.seq) {
        let Ok(()) = staged.push(Kind::Result, |bytes| {
            bytes.extend_from_slice(record.as_bytes());
            Ok::<(), Infallible>(())
        });
    }
    let jobs = Jobs(spool);
    let finish = Finish {
        kind: Kind::JobDone,
        seq: job.seq,
        round: job.round,
        result_end: jobs.result_end(job),
    };
    writer.publish(&mut staged, Some(finish)).expect("room");
}

fn drain(spool: &Spool, sink: &mut FileSink) {
    let stop = Stop::new(|| {});
    stop.request();
    let flush = config::Buffer {
        flush_records: 1000,
        flush_bytes: 1 << 20,
        flush_after: Duration::from_secs(60),
    };
    let policy = Policy { flush, sync: config::SyncPolicy::Always };
    buffer::run(spool, Sinks { output: sink, dead_letters: None }, policy, &stop, || {})
        .expect("drained");
}

/// What the next start does once everything has died.
fn recover(spool: &Spool, sink: &mut FileSink) {
    repair(spool, |_| {}).expect("repaired");
    drain(spool, sink);
}

/// A worker that comes after a dead one: it settles what that one had in hand, does a job, puts one
/// back, does another.
fn succeed(spool: &Spool) {
    settle(spool, 0, Some(512 + 9), |_| {});
    let mut writer = open_lane(spool, 0);
    let first = claim(spool, NEXT).expect("a job");
    publish(spool, &mut writer, &first);
    let second = claim(spool, NEXT).expect("a job");
    Jobs(spool).survived(&second, true);
    Jobs(spool).put_back(&second, PutBack::Failed, None);
    let third = claim(spool, NEXT).expect("a job");
    publish(spool, &mut writer, &third);
}

/// The source, from where the dead one has got to, and workers and a buffer that do what is ready. At
/// the end of the list it is told to stop.
fn hand_out(spool: &Spool, place: &Path, sink: &mut FileSink) {
    let lines = config::Lines::File(list_of(place));
    let list = config::List { lines, every: None, again: true };
    let (interrupt, _never) = std::io::pipe().expect("a pipe");
    let stop = Stop::new(|| {});
    let work = || {
        do_all(spool);
        drain(spool, sink);
        if ListPosition::load(spool).1.at_end {
            stop.request();
            bell::ring_for_sure(&spool.bells().source);
        }
        stop.requested()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| tracer::nudges(work));
        source::run(spool, &list, None, true, interrupt.as_fd(), &stop, || {})
            .expect("a whole list");
    });
}

/// A new worker of lane 1 does all that is ready.
fn do_all(spool: &Spool) {
    let mut writer = open_lane(spool, 1);
    while let Some(job) = claim(spool, Claimer { incarnation: 2, ..OTHER }) {
        publish(spool, &mut writer, &job);
    }
}

#[test]
#[ignore = "the process that the others of this module run one instruction at a time"]
fn the_traced_process() {
    let Some((task, place)) = tracer::task() else { return };
    let (spool, mut sink) = (open_spool(&place), open_sink(&place));
    tracer::be_traced(|| match task.as_str() {
        "worker" => succeed(&spool),
        "source" => hand_out(&spool, &place, &mut sink),
        "start" => recover(&spool, &mut sink),
        other => panic!("no task: {other}"),
    });
}

// What it starts from.

/// A spool that was in the middle of everything when it all died.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    /// Jobs 1 and 2 are in the hand of a dead worker of lane 0, the first of them with its frames
    /// behind the tail; 3 is in the hand of one of lane 1, which has published 5; 4 and 6 are ready.
    /// Nothing is written. `laps` moves lane 0 on by so many bytes before.
    fn new(behind: u64) -> World {
        // In memory, where a sync costs nothing: what is synced is no matter here.
        let memory = Path::new("/dev/shm");
        let directory =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let world = World { directory: directory.expect("a directory") };
        let place = world.place();
        std::fs::write(output_of(place), OLD).expect("an output");
        std::fs::write(list_of(place), list()).expect("a list");
        let spool = Spool::create(&spool_of(place), GEOMETRY, 7, None, |_| {}).expect("a spool");
        world.move_on(&spool, behind);
        for seq in [2, 1] {
            fill(&spool, seq as usize - 1, seq);
            let job = claim(&spool, DEAD).expect("a job");
            if seq == 1 {
                World::leave_unpublished(&spool, &job);
            }
        }
        let mut other = open_lane(&spool, 1);
        for seq in [3, 5] {
            fill(&spool, seq as usize - 1, seq);
            let job = claim(&spool, OTHER).expect("a job");
            if seq == 5 {
                publish(&spool, &mut other, &job);
            }
        }
        for seq in [4, 6] {
            fill(&spool, seq as usize - 1, seq);
        }
        world
    }

    fn place(&self) -> &Path {
        self.directory.path()
    }

    /// Publishes and writes records without a job until lane 0 has come to this offset.
    fn move_on(&self, spool: &Spool, behind: u64) {
        let mut writer = open_lane(spool, 0);
        while spool.producer(0).tail.load(Ordering::Relaxed) < behind {
            writer.publish(&mut filler(), None).expect("room");
            drain(spool, &mut open_sink(self.place()));
        }
        Files { output: OLD.into(), ..Files::read(self.place()) }.write(self.place());
        let mut books = Commit::load(spool);
        if let Some(position) = &mut books.sinks[0] {
            position.len = OLD.len() as u64;
            books.generation += 1;
            books.store(spool);
        }
    }

    /// A worker that was killed before it moved the tail over the first job: as one that has, but
    /// for that.
    fn leave_unpublished(spool: &Spool, job: &Claimed) {
        let tail = &spool.producer(0).tail;
        let before = tail.load(Ordering::Relaxed);
        publish(spool, &mut open_lane(spool, 0), job);
        tail.store(before, Ordering::Relaxed);
        assert!(Jobs(spool).slot(job.slot).result_end.load(Ordering::Relaxed) > before);
    }
}

/// A record that is no matter.
fn filler() -> Staged {
    let mut staged = Staged::default();
    let Ok(()) = staged.push(Kind::Result, |bytes| {
        bytes.extend_from_slice(&[b'-'; 99]);
        bytes.push(b'\n');
        Ok::<(), Infallible>(())
    });
    staged
}

// What must be true.

/// What a recovery has made of a state.
#[derive(Debug, PartialEq)]
struct Outcome {
    files: (Vec<u8>, Option<Vec<u8>>),
    /// For each slot: the job that it holds, and whether it is done.
    slots: Vec<Option<(u64, bool)>>,
    position: ListPosition,
    books: (u64, u64, Vec<Mark>),
}

impl Outcome {
    fn of(place: &Path, spool: &Spool) -> Outcome {
        let (jobs, books) = (Jobs(spool), Commit::load(spool));
        let slot = |index| {
            let (state, done) = jobs.look(index);
            let seq = jobs.slot(index).seq.load(Ordering::Relaxed);
            let result_end = jobs.slot(index).result_end.load(Ordering::Relaxed);
            assert!(state.phase() != Phase::Ready || result_end == NO_RESULT, "job {seq}: stale");
            assert!(done || !matches!(state.phase(), Phase::Claimed(_) | Phase::Unknown));
            (state.phase() != Phase::Free).then_some((seq, done))
        };
        Outcome {
            files: (
                std::fs::read(output_of(place)).expect("the output"),
                std::fs::read(quarantine_of(place)).ok(),
            ),
            slots: (0..jobs.len()).map(slot).collect(),
            position: ListPosition::load(spool).1,
            books: (books.totals.results, books.totals.jobs_done, books.lanes),
        }
    }

    /// How often each job is in the output. All of its records are then, in order, with nothing
    /// in between.
    #[track_caller]
    fn written(&self) -> BTreeMap<u64, usize> {
        let text = std::str::from_utf8(&self.files.0).expect("UTF-8");
        let mut rest = text.strip_prefix(OLD).expect("what was there before is there");
        let mut written = BTreeMap::new();
        while !rest.is_empty() {
            let whole = (1..=JOBS).find_map(|seq| {
                let records = records(seq).concat();
                let behind = rest.strip_prefix(&records).filter(|_| !records.is_empty())?;
                Some((seq, behind))
            });
            let (seq, behind) = whole.unwrap_or_else(|| panic!("not all of a job: {text:?}"));
            *written.entry(seq).or_insert(0) += 1;
            rest = behind;
        }
        written
    }

    /// All or nothing of each job.
    #[track_caller]
    fn check(&self) {
        let written = self.written();
        let mut done = 0;
        for seq in 1..=JOBS {
            let there = self.slots.iter().flatten().filter(|slot| slot.0 == seq);
            let there: Vec<bool> = there.map(|slot| slot.1).collect();
            let finished = match there[..] {
                [finished] => finished,
                [] => seq <= self.position.seq,
                _ => panic!("job {seq} stands in two slots: {self:?}"),
            };
            done += u64::from(finished);
            let times = usize::from(finished && !records(seq).is_empty());
            let times_written = written.get(&seq).copied().unwrap_or(0);
            assert_eq!(times_written, times, "job {seq}, finished: {finished}, in {self:?}");
        }
        let highest = self.slots.iter().flatten().map(|slot| slot.0).max().unwrap_or(0);
        assert!(self.position.seq >= highest, "the list would be handed out again: {self:?}");
        assert_eq!(self.books.1, done, "jobs done, in the books and in the table: {self:?}");
    }
}

/// Recovers what stands in `place`, twice, and goes on with it until each job that was handed out is
/// done.
#[track_caller]
fn check_recovery(place: &Path, foreign: bool) -> Outcome {
    recover(&open_spool(place), &mut open_sink(place));
    let spool = open_spool(place);
    let outcome = Outcome::of(place, &spool);
    outcome.check();
    recover(&spool, &mut open_sink(place));
    assert_eq!(Outcome::of(place, &spool), outcome, "a second recovery has changed something");
    // A death alone tears nothing that was published.
    assert!(foreign || outcome.files.1.is_none(), "torn: {outcome:?}");
    let aside = outcome.files.1.as_ref().map(|bytes| String::from_utf8_lossy(bytes));
    assert!(!foreign || aside.is_some_and(|aside| aside.contains(FOREIGN)), "bytes are lost");
    // The next workers find all that is not done.
    do_all(&spool);
    drain(&spool, &mut open_sink(place));
    let end = Outcome::of(place, &spool);
    end.check();
    assert!(end.slots.iter().flatten().all(|slot| slot.1), "not all is done: {end:?}");
    outcome
}

/// Steps through the task from this world on and recovers each state. Returns the last state in
/// which the output was as in the beginning, and the output in the end.
fn explore(world: &World, task: &str, foreign: bool) -> Option<(Files, Vec<u8>)> {
    let (_, module) = module_path!().split_once("::").expect("a module of the crate");
    let runner = format!("{module}::the_traced_process");
    let before = Files::read(world.place());
    let (mut last, mut nudges) = (before.clone(), 0);
    let steps = tracer::step_through(&runner, task, world.place(), |files| {
        if files.output == before.output {
            last.clone_from(files);
        }
        let outcome = check_recovery(world.place(), foreign);
        // Once when the first line is handed out, once when the last is.
        let due = match nudges {
            0 => outcome.slots.contains(&Some((7, false))),
            1 => outcome.position.at_end,
            _ => false,
        };
        nudges += u32::from(due);
        task == "source" && due
    });
    let Some(steps) = steps else {
        assert!(std::env::var("CI").is_err(), "in CI a process can be traced");
        eprintln!("skipped: {task}: no process may be traced here");
        return None;
    };
    eprintln!("{task}: {} instructions, {} states recovered", steps.instructions, steps.states);
    assert!(steps.instructions > 3000 && steps.states > 20, "hardly anything was done: {steps:?}");
    Some((last, Files::read(world.place()).output))
}

/// Elsewhere an atomic operation is a loop that never comes to its end when it is interrupted after
/// each instruction.
fn can_be_stepped(test: &str) -> bool {
    let can = cfg!(target_arch = "x86_64");
    if !can {
        eprintln!("skipped: {test} needs a processor of the kind x86_64");
    }
    can
}

#[test]
fn killed_after_any_instruction_of_a_worker_that_succeeds_a_dead_one_each_job_is_whole_or_ready() {
    if can_be_stepped("a worker, one instruction at a time") {
        explore(&World::new(0), "worker", false);
    }
}

#[test]
fn killed_after_any_instruction_of_a_worker_that_goes_over_the_end_of_the_ring_as_well() {
    if !can_be_stepped("a worker at the end of the ring, one instruction at a time") {
        return;
    }
    // The dead one's frames end before the end of the ring, those of its successor behind it.
    let world = World::new(GEOMETRY.lane_bytes - 250);
    let lap = || open_spool(world.place()).producer(0).tail.load(Ordering::Relaxed) / 4096;
    assert_eq!(lap(), 0);
    if explore(&world, "worker", false).is_some() {
        assert_eq!(lap(), 1);
    }
}

#[test]
fn killed_after_any_instruction_of_a_start_that_settles_writes_and_commits_each_job_is_written_once()
 {
    if !can_be_stepped("a start, one instruction at a time") {
        return;
    }
    let world = World::new(0);
    let Some((before, output)) = explore(&world, "start", false) else { return };
    // The same, after a death in the middle of the batch; and somebody else has written behind it.
    let mut files = before.clone();
    files.output.extend_from_slice(&output[OLD.len()..output.len() / 2]);
    files.output.extend_from_slice(FOREIGN.as_bytes());
    files.write(world.place());
    explore(&world, "start", true);
}

#[test]
fn killed_after_any_instruction_of_a_source_each_line_was_handed_out_once_or_will_be() {
    if can_be_stepped("a source, one instruction at a time") {
        explore(&World::new(0), "source", false);
    }
}
