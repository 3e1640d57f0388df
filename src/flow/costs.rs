//! What the steps of a record's way cost, in instructions. `tests/instructions.sh` runs this under
//! callgrind and compares what it counts with `tests/instructions.txt`.
//!
//! Only there with `--cfg costs`: so it is the code of a release that is counted, and not that of a
//! test. All runs in one process and one thread, and nothing waits for anything: what is counted
//! is the same each time.
//!
//! The way is gone through by its outermost functions, `run_producer`, `run_jobs` and `buffer::run`.
//! Their set-up is not told from their steps here: it goes away with the difference between a run of so
//! many steps and one of twice as many.

use super::buffer::{self, Policy};
use super::emitter::{Emitter, Encode};
use super::format::{Failures, Recording};
use super::job::{Job, JobError};
use super::queue::commit::Commit;
use super::queue::jobs::{Claim, Claimed, Claimer, Jobs, NewJob};
use super::queue::layout::Geometry;
use super::queue::settle::{Orphan, settle};
use super::queue::spool::Spool;
use super::sink::file::{FileSink, Shape};
use super::sink::surplus::Surplus;
use super::sink::{Batch, CantOpen, Position, Sink, Sinks};
use super::worker::function::{PerProcess, ProducerFunction};
use super::worker::recycle::Enough;
use super::worker::{Herald, Settings, run_jobs, run_producer};
use crate::config;
use crate::error::Error;
use crate::stop::Stop;
use std::cell::Cell;
use std::hint::black_box;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A step, and what goes through it so many times in such a directory.
type Step = (&'static str, fn(u64, &Path) -> Result<(), Error>);

/// What can be counted.
const STEPS: [Step; 7] = [
    ("publish", publish),
    ("flush", flush),
    ("flush-alone", flush_alone),
    ("claim", claim),
    ("job", job),
    ("hand-out", hand_out),
    ("settle", settle_jobs),
];

/// Slots of the table: the most jobs that a step can have.
const SLOTS: u32 = 4096;

/// Room for as many jobs with a result each, or records.
const LANE_BYTES: u64 = 1 << 20;

/// Records of a batch that is not one of a single record.
const BATCH: u64 = 1000;

/// A record of the size of a small JSON line.
const RECORD: [u8; 105] = {
    let mut record = [b'x'; 105];
    record[104] = b'\n';
    record
};

const CLAIMER: Claimer = Claimer { lane: 0, incarnation: 1 };

/// The names of the steps.
pub fn steps() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|(name, _)| *name)
}

/// Goes through a step so many times, with its files in an empty directory.
///
/// # Errors
/// If a file can't be used.
///
/// # Panics
/// If there is no such step, or it can't be made so many times.
pub fn run(step: &str, times: u64, directory: &Path) -> Result<(), Error> {
    assert!(
        times > 0 && times <= SLOTS.into() && times.is_multiple_of(BATCH),
        "{times} times is no multiple of {BATCH} up to {SLOTS}"
    );
    let known = STEPS.iter().find(|(name, _)| *name == step);
    let (_, go_through) = known.unwrap_or_else(|| panic!("there is no step {step}"));
    go_through(times, directory)
}

/// Callgrind counts what is called by this, since it is told its name. The two functions must stay
/// calls, and two: nothing is inlined, comes last, or is the same in both.
#[inline(never)]
fn counted(step: &mut dyn FnMut()) {
    let name = black_box("counted");
    step();
    black_box(name);
}

/// Inside of what is counted: this is not. Outside of it, it would be.
#[inline(never)]
fn uncounted(step: &mut dyn FnMut()) {
    let name = black_box("uncounted");
    step();
    black_box(name);
}

/// What is outside of it anyway.
fn as_it_is(step: &mut dyn FnMut()) {
    step();
}

/// A record, emitted by a producer: until it is published in its lane.
fn publish(times: u64, directory: &Path) -> Result<(), Error> {
    produce(&spool(directory)?, times, counted)
}

/// A record of a large batch: from its lane to the file, committed, and its room given back.
fn flush(times: u64, directory: &Path) -> Result<(), Error> {
    flush_batches(times, BATCH, directory)
}

/// A record that is a batch by itself.
fn flush_alone(times: u64, directory: &Path) -> Result<(), Error> {
    flush_batches(times, 1, directory)
}

/// A claim of a job, by a worker that has looked for one.
fn claim(times: u64, directory: &Path) -> Result<(), Error> {
    let spool = spool(directory)?;
    fill(&spool, times);
    let mut job = Claimed::default();
    counted(&mut || {
        for _ in 0..times {
            assert_eq!(Jobs(&spool).claim(CLAIMER, &mut job), Claim::Job);
        }
    });
    Ok(())
}

/// A job of a function that emits one record: claimed, done and published.
fn job(times: u64, directory: &Path) -> Result<(), Error> {
    let spool = spool(directory)?;
    fill(&spool, times);
    work(&spool, times, counted)
}

/// A slot's part of a job: filled, and given back once its results are committed.
fn hand_out(times: u64, directory: &Path) -> Result<(), Error> {
    let spool = spool(directory)?;
    counted(&mut || fill(&spool, times));
    work(&spool, times, as_it_is)?;
    drain(&spool, directory)?;
    counted(&mut || {
        for index in (0..times as usize).filter(|index| Jobs(&spool).is_committed(*index)) {
            Jobs(&spool).free(index);
        }
    });
    assert_eq!(Jobs(&spool).pending(), 0);
    Ok(())
}

/// A job in hand of a dead worker, made ready again.
fn settle_jobs(times: u64, directory: &Path) -> Result<(), Error> {
    let spool = spool(directory)?;
    fill(&spool, times);
    let mut job = Claimed::default();
    for _ in 0..times {
        assert_eq!(Jobs(&spool).claim(CLAIMER, &mut job), Claim::Job);
    }
    counted(&mut || assert_eq!(settle(&spool, 0, None, |_| {}) as u64, times));
    Ok(())
}

fn spool(directory: &Path) -> Result<Spool, Error> {
    let geometry = Geometry { lanes: 1, lane_bytes: LANE_BYTES, slots: SLOTS, job_bytes: 256 };
    Spool::create(&directory.join("spool"), geometry, 7, None, |_| {})
}

fn output(directory: &Path) -> Result<FileSink, Error> {
    FileSink::open(&directory.join("out"), Shape::ended_by(b'\n'))
}

fn fill(spool: &Spool, times: u64) {
    for seq in 1..=times {
        let text = b"192.168.100.100";
        let job = NewJob { text, seq, round: 1, offset: 16 * seq, prefix: seq, reason: None };
        Jobs(spool).fill(seq as usize - 1, &job);
    }
}

/// What the format makes of a record is not ours to count: it stands there already.
fn encode() -> Encode<[u8; 105]> {
    Arc::new(|record, bytes| {
        bytes.extend_from_slice(record);
        Ok(())
    })
}

fn settings() -> Settings {
    Settings {
        name: "costs/0".into(),
        lane: CLAIMER.lane,
        incarnation: CLAIMER.incarnation.into(),
        threads: 1,
        attempts: 3,
        retry_delay: Duration::ZERO,
        timeout: None,
        blamed: None,
        recording: Recording { format: config::Format::JsonLines, failures: Failures::Output },
        rounds: false,
        memory_limit: None,
        enough: Enough::default(),
    }
}

/// Emits so many records one by one.
fn produce(spool: &Spool, times: u64, how: fn(&mut dyn FnMut())) -> Result<(), Error> {
    let function = |_: &Stop, out: &mut Emitter<'_, [u8; 105]>| {
        let mut result = Ok(());
        how(&mut || result = (0..times).try_for_each(|_| out.emit(&RECORD)));
        result
    };
    let produce = ProducerFunction { function, encode: encode() };
    run_producer(spool, &produce, &settings(), &Stop::new(|| {}), &Nobody)
}

/// Does as many jobs as were handed out.
fn work(spool: &Spool, times: u64, how: fn(&mut dyn FnMut())) -> Result<(), Error> {
    let stop = Stop::new(|| {});
    let asker = stop.clone();
    let function = move |_: &(), job: &Job<'_>, out: &mut Emitter<'_, [u8; 105]>| {
        if job.seq() == times {
            asker.request();
        }
        out.emit(&RECORD)
    };
    let work = PerProcess { set_up: || Ok::<(), JobError>(()), function, encode: encode() };
    let mut result = Ok(());
    how(&mut || result = run_jobs(spool, &work, &settings(), &stop, &Nobody).map(|_| ()));
    result
}

/// Writes what is published.
fn drain(spool: &Spool, directory: &Path) -> Result<(), Error> {
    let stop = Stop::new(|| {});
    stop.request();
    let mut output = output(directory)?;
    let sinks = Sinks { output: &mut output, dead_letters: None };
    buffer::run(spool, sinks, policy(BATCH), &stop, || {}).map(|_| ())
}

/// Writes so many records in batches of this size, each of which is published while the one before is
/// written: so the buffer finds it when it looks, and never sleeps.
fn flush_batches(times: u64, size: u64, directory: &Path) -> Result<(), Error> {
    let spool = spool(directory)?;
    let stop = Stop::new(|| {});
    let left = Cell::new(times);
    let publish_next = || {
        if left.get() == 0 {
            stop.request();
        } else {
            left.set(left.get() - size);
            produce(&spool, size, as_it_is).unwrap_or_else(|error| panic!("{error}"));
        }
    };
    publish_next();
    let mut output = Refilled { file: output(directory)?, refill: &publish_next };
    let sinks = Sinks { output: &mut output, dead_letters: None };
    let mut result = Ok(0);
    let mut sinks = Some(sinks);
    counted(&mut || {
        if let Some(sinks) = sinks.take() {
            result = buffer::run(&spool, sinks, policy(size), &stop, || {});
        }
    });
    assert_eq!(result?, times);
    assert_eq!(Commit::load(&spool).totals.results, times);
    Ok(())
}

fn policy(flush_records: u64) -> Policy {
    let flush = config::Buffer {
        flush_records,
        flush_bytes: LANE_BYTES,
        flush_after: Duration::from_secs(3600),
    };
    Policy { flush, sync: config::SyncPolicy::Never }
}

/// A file, and what is done when a batch has been written to it.
struct Refilled<'a> {
    file: FileSink,
    refill: &'a dyn Fn(),
}

impl Sink for Refilled<'_> {
    fn belong_to(&mut self, spool: u64) {
        self.file.belong_to(spool);
    }

    fn open(&mut self, committed: Option<Position>, pending: Batch<'_>) -> Result<usize, CantOpen> {
        self.file.open(committed, pending)
    }

    fn salvage(&mut self, synced: Option<Position>, pending: Batch<'_>) -> Result<Surplus, Error> {
        self.file.salvage(synced, pending)
    }

    fn look(&mut self) -> Result<(), Error> {
        self.file.look()
    }

    fn header(&self) -> &[u8] {
        self.file.header()
    }

    fn write(&mut self, batch: Batch<'_>, done: usize) -> io::Result<usize> {
        let there = self.file.write(batch, done)?;
        if there == batch.bytes.len() {
            uncounted(&mut || (self.refill)());
        }
        Ok(there)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    fn position(&self) -> Option<Position> {
        self.file.position()
    }

    fn name(&self) -> String {
        self.file.name()
    }

    fn room(&self) -> Option<u64> {
        self.file.room()
    }

    fn is_to_rotate(&self, more: usize) -> bool {
        self.file.is_to_rotate(more)
    }

    fn rotates_in(&self) -> Option<Duration> {
        self.file.rotates_in()
    }
}

/// Nobody is told anything.
struct Nobody;

impl Herald for Nobody {
    fn ready(&self) {}
    fn failed(&self, _: &Error) {}
    fn overdue(&self, message: String) -> ! {
        panic!("overdue: {message}");
    }
    fn end_orphan(&self, _: Orphan) {}
}
