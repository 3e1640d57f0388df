//! Promises about results that are damaged between their worker and the buffer: nothing of them is
//! written, all else is, and their jobs are run again by the next start.

use super::tests::{dying, open, policy};
use super::*;
use crate::flow::queue::frame::Kind;
use crate::flow::queue::jobs::{Claim, Claimed, Claimer, Jobs, NewJob, Phase};
use crate::flow::queue::lane::{Finish, LaneWriter, Staged};
use crate::flow::queue::layout::Geometry;
use crate::flow::queue::reader::survey;
use crate::flow::queue::repair::repair;
use crate::flow::sink::Sink;
use crate::flow::sink::file::{FileSink, Shape};
use std::convert::Infallible;
use std::path::PathBuf;

const LANES: u16 = 2;
const JOBS: u64 = 8;

struct Bench {
    _directory: tempfile::TempDir,
    spool: Spool,
    output: PathBuf,
}

fn record(seq: u64, part: u64) -> String {
    format!("job {seq} part {part}\n")
}

impl Bench {
    /// Jobs are handed out and claimed by two lanes in turn; those of the first half are done.
    fn new() -> Bench {
        let directory = tempfile::tempdir().expect("temp dir");
        let geometry =
            Geometry { lanes: LANES.into(), lane_bytes: 4096, slots: JOBS as u32, job_bytes: 64 };
        let path = directory.path().join("spool");
        let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
        for seq in 1..=JOBS {
            let job =
                NewJob { text: b"job", seq, round: 1, offset: 4 * seq, prefix: seq, reason: None };
            Jobs(&spool).fill(seq as usize - 1, &job);
        }
        let output = directory.path().join("out");
        let bench = Bench { _directory: directory, spool, output };
        bench.work(JOBS);
        bench
    }

    /// So many jobs are done.
    fn work(&self, count: u64) {
        for number in 0..count {
            let lane = (number % u64::from(LANES)) as u16;
            let (mut job, jobs) = (Claimed::default(), Jobs(&self.spool));
            assert_eq!(jobs.claim(Claimer { lane, incarnation: 1 }, &mut job), Claim::Job);
            let head = Commit::load(&self.spool).lanes[usize::from(lane)];
            let found = survey(&self.spool, lane.into(), head).expect("ring");
            let mut writer =
                LaneWriter::open(&self.spool, lane.into(), found.records).expect("ring");
            let mut staged = Staged::default();
            for part in 1..=2 {
                let Ok(()) = staged.push(Kind::Result, |bytes| {
                    bytes.extend_from_slice(record(job.seq, part).as_bytes());
                    Ok::<(), Infallible>(())
                });
            }
            let result_end = jobs.result_end(&job);
            let finish = Finish { kind: Kind::JobDone, seq: job.seq, round: 1, result_end };
            writer.publish(&mut staged, Some(finish)).expect("room");
        }
    }

    /// Damages the results of a job that is done.
    fn tear(&self, seq: u64) {
        let (jobs, index) = (Jobs(&self.spool), seq as usize - 1);
        let Phase::Claimed(by) = jobs.phase(index) else { panic!("it is not done") };
        let end = jobs.slot(index).result_end.load(Ordering::Acquire);
        let ring = self.spool.map_ring(by.lane.into(), true).expect("ring");
        ring.write(((end - 40) % 4096) as usize, b"garbage!");
    }

    fn sink(&self) -> FileSink {
        open(&self.output, &Shape::ended_by(b'\n'))
    }

    fn drain(&self, sink: &mut dyn Sink) -> Result<u64, Error> {
        let stop = Stop::new(|| {});
        stop.request();
        run(&self.spool, Sinks { output: sink, dead_letters: None }, policy(), &stop, || {})
    }

    fn output(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.output).expect("output");
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// What a start does, and the workers after it.
    fn start_again(&self) -> u64 {
        repair(&self.spool, |_| {}).expect("repaired");
        let again = Jobs(&self.spool).pending() as u64;
        self.drain(&mut self.sink()).expect("drained");
        self.work(again);
        self.drain(&mut self.sink()).expect("drained");
        again
    }
}

fn records(seqs: impl Iterator<Item = u64>) -> Vec<String> {
    let mut records: Vec<String> = seqs.flat_map(|seq| [record(seq, 1), record(seq, 2)]).collect();
    records.sort();
    records
}

#[test]
fn results_that_are_torn_while_it_runs_are_not_committed_and_their_jobs_run_again_once() {
    for torn in 1..=JOBS {
        let bench = Bench::new();
        bench.tear(torn);
        let error = bench.drain(&mut bench.sink()).expect_err("it can't go on").to_string();
        assert!(error.contains(&format!("lane {}", (torn - 1) % 2)), "{error}");
        // Those behind it in its lane wait; all else is written.
        let written = (1..=JOBS).filter(|seq| seq % 2 != torn % 2 || *seq < torn);
        assert_eq!(bench.output(), records(written));
        let jobs = Jobs(&bench.spool);
        assert!(!jobs.is_committed(torn as usize - 1), "its slot would be freed, and it lost");
        // However often it is tried.
        bench.drain(&mut bench.sink()).expect_err("it can't go on");
        assert_eq!(bench.start_again(), 1);
        assert_eq!(bench.output(), records(1..=JOBS));
        let totals = Commit::load(&bench.spool).totals;
        assert_eq!((totals.jobs_done, totals.torn), (JOBS, 1));
    }
}

/// Two batches of a lane are there, of which the last was begun and not committed: a tail between them is
/// one that a worker could have stored, but for the intent.
#[test]
fn a_tail_before_the_end_of_the_batch_that_was_begun_is_damaged_and_no_job_is_done_twice() {
    let whole = records(1..=JOBS).concat().len();
    for left in (0..whole).step_by(9) {
        let bench = Bench::new();
        assert!(bench.drain(&mut dying(bench.sink(), left)).is_err());
        let tails = [0, 1].map(|lane| &bench.spool.producer(lane).tail);
        let before = tails.map(|tail| tail.load(Ordering::Acquire));
        for (tail, first) in tails.iter().zip([0, 1]) {
            let end = Jobs(&bench.spool).slot(first).result_end.load(Ordering::Acquire);
            tail.store(end, Ordering::Release);
        }
        assert_eq!(bench.start_again(), 0, "{left} bytes written");
        assert_eq!(tails.map(|tail| tail.load(Ordering::Acquire)), before);
        assert_eq!(bench.output(), records(1..=JOBS), "{left} bytes written");
    }
}

#[test]
fn a_tail_is_never_before_what_is_committed_of_its_lane_whatever_is_left_of_the_batch() {
    let bench = Bench::new();
    assert!(bench.drain(&mut dying(bench.sink(), 9)).is_err());
    let (tail, before) = (&bench.spool.producer(0).tail, Commit::load(&bench.spool));
    let end = tail.swap(before.lanes[0].offset, Ordering::AcqRel);
    let ring = bench.spool.map_ring(0, true).expect("ring");
    ring.write(0, &vec![0; end as usize]);
    assert_eq!(bench.start_again(), JOBS / 2);
    assert_eq!(bench.output(), records(1..=JOBS));
}

#[test]
fn a_tail_that_is_only_too_small_is_no_reason_to_write_again_what_is_committed() {
    let bench = Bench::new();
    bench.drain(&mut bench.sink()).expect("drained");
    let mut begun = Commit::load(&bench.spool);
    begun.generation += 1;
    begun.lanes[0].offset += 80;
    begun.store_intent(&bench.spool);
    assert_eq!(bench.start_again(), 0);
    assert_eq!(bench.output(), records(1..=JOBS));
}

#[test]
fn results_that_are_torn_when_their_batch_is_half_written_are_there_once_in_the_end() {
    let whole = records(1..=JOBS).concat().len();
    let cases = (0..=whole).step_by(9).flat_map(|left| [1, 2, JOBS].map(|torn| (left, torn)));
    for (left, torn) in cases.chain([(8 * 13 + 1, 2), (8 * 13 + 13, 2)]) {
        // Found by the next buffer of the run, or by the next start.
        for in_run in [true, false] {
            let what = format!("{left} bytes written, job {torn}, in the run: {in_run}");
            let bench = Bench::new();
            let _died = bench.drain(&mut dying(bench.sink(), left));
            bench.tear(torn);
            let committed = Jobs(&bench.spool).is_committed(torn as usize - 1);
            if in_run {
                assert_eq!(bench.drain(&mut bench.sink()).is_err(), !committed, "{what}");
            }
            assert_eq!(bench.start_again(), u64::from(!committed), "{what}");
            assert_eq!(bench.output(), records(1..=JOBS), "{what}");
        }
    }
}
