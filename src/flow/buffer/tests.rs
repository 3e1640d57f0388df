//! Promises of the buffer, each with the death that would break it.
//!
//! A kill is an error that ends the buffer between two steps; its successor finds what is there.

use super::*;
use crate::flow::queue::frame::Kind;
use crate::flow::queue::lane::{Finish, LaneWriter, Staged};
use crate::flow::queue::layout::Geometry;
use crate::flow::sink::Position;
use crate::flow::sink::Sink;
use crate::flow::sink::file::{FileSink, Shape};
use crate::flow::sink::surplus::Surplus;
use crate::flow::sink::{Batch, CantOpen};
use crate::sys::atomic::AtomicU64;
use std::convert::Infallible;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

pub(super) struct Bench {
    pub directory: tempfile::TempDir,
    pub spool: Spool,
}

impl Bench {
    pub fn new(lanes: u32) -> Bench {
        Bench::with_lanes_of(4096, lanes)
    }

    pub fn with_lanes_of(lane_bytes: u64, lanes: u32) -> Bench {
        let directory = tempfile::tempdir().expect("temp dir");
        let geometry = Geometry { lanes, lane_bytes, slots: 1, job_bytes: 64 };
        let path = directory.path().join("spool");
        let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
        Bench { directory, spool }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    pub fn sink(&self) -> FileSink {
        open(&self.path(), &Shape::ended_by(b'\n'))
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(self.path()).expect("output")
    }

    pub fn writer(&self, lane: usize) -> LaneWriter<'_> {
        LaneWriter::open(&self.spool, lane, 0).expect("ring")
    }

    /// Runs a buffer that is told to stop at once: what is published is written, and synced.
    pub fn drain(&self, sink: &mut dyn Sink) -> Result<u64, Error> {
        // As any start does.
        processes::forget_unsynced(&self.spool);
        let stop = Stop::new(|| {});
        stop.request();
        let sinks = Sinks { output: sink, dead_letters: None };
        run(&self.spool, sinks, policy(), &stop, || {})
    }
}

/// Opens an output. A command that another test starts at this moment has a copy of every descriptor, and
/// with it the lock, until it is executed.
pub(super) fn open(path: &Path, shape: &Shape) -> FileSink {
    loop {
        match FileSink::open(path, shape.clone()) {
            Ok(sink) => return sink,
            Err(Error::Held(_)) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What was put aside of an output.
pub(super) fn quarantine(output: &Path) -> Vec<u8> {
    let mut name = output.as_os_str().to_owned();
    name.push(".quarantine");
    std::fs::read(name).unwrap_or_default()
}

pub(super) fn policy() -> Policy {
    let flush = config::Buffer {
        flush_records: 1000,
        flush_bytes: 1 << 20,
        flush_after: Duration::from_secs(60),
    };
    Policy { flush, sync: config::SyncPolicy::Never }
}

pub(super) fn publish(writer: &mut LaneWriter<'_>, records: std::ops::Range<u32>) {
    let mut staged = Staged::default();
    for number in records {
        let Ok(()) = staged.push(Kind::Result, |bytes| {
            bytes.extend_from_slice(format!("record {number}\n").as_bytes());
            Ok::<(), Infallible>(())
        });
    }
    let result_end = AtomicU64::new(u64::MAX);
    let finish = Finish { kind: Kind::JobDone, seq: 1, round: 1, result_end: &result_end };
    writer.publish(&mut staged, Some(finish)).expect("room");
}

pub(super) fn expected(records: std::ops::Range<u32>) -> String {
    records.map(|number| format!("record {number}\n")).collect()
}

/// What a write comes to.
type Writing<'a> = Box<dyn FnMut(&mut FileSink, &[u8]) -> io::Result<usize> + 'a>;

/// A file to which something happens when it is written to.
pub(super) struct Faulty<'a> {
    pub file: FileSink,
    pub write: Writing<'a>,
    /// Syncs before one in which it dies.
    pub syncs: usize,
    /// And then again, if it goes on.
    pub syncs_again: usize,
}

pub(super) fn killed() -> io::Error {
    io::Error::other("killed")
}

/// Dies once it has written so many bytes, or in a sync.
pub(super) fn dying(file: FileSink, mut left: usize) -> Faulty<'static> {
    let write = move |file: &mut FileSink, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(left)];
        left -= bytes.len();
        if bytes.is_empty() { Err(killed()) } else { file.write(Batch::of(bytes), 0) }
    };
    Faulty { file, write: Box::new(write), syncs: 0, syncs_again: 0 }
}

impl Sink for Faulty<'_> {
    fn open(&mut self, committed: Option<Position>, pending: Batch<'_>) -> Result<usize, CantOpen> {
        self.file.open(committed, pending)
    }

    fn salvage(&mut self, synced: Option<Position>, pending: Batch<'_>) -> Result<Surplus, Error> {
        self.file.salvage(synced, pending)
    }

    fn cut(&mut self, len: u64, goes_on: bool) -> Result<(), Error> {
        self.file.cut(len, goes_on)
    }

    fn beside(&self) -> Option<&Path> {
        self.file.beside()
    }

    fn look(&mut self) -> Result<(), Error> {
        self.file.look()
    }

    fn header(&self) -> &[u8] {
        self.file.header()
    }

    fn write(&mut self, batch: Batch<'_>, done: usize) -> io::Result<usize> {
        (self.write)(&mut self.file, &batch.bytes[done..]).map(|written| done + written)
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.syncs.checked_sub(1) {
            Some(left) => self.syncs = left,
            None => {
                self.syncs = self.syncs_again;
                return Err(killed());
            }
        }
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

    fn rotation_moment(&self) -> u64 {
        self.file.rotation_moment()
    }

    fn rotate(&mut self, committed: Option<Position>, moment: u64) -> io::Result<()> {
        self.file.rotate(committed, moment)
    }

    fn cut_to(&mut self, committed: Option<Position>) -> io::Result<()> {
        self.file.cut_to(committed)
    }

    fn reopen(&mut self) -> Result<(), Error> {
        self.file.reopen()
    }
}

#[test]
fn no_room_is_given_for_what_is_not_committed_yet() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    let mut writes = 0;
    for records in [0..3, 3..4] {
        publish(&mut writer, records);
        let (file, consumer) = (bench.sink(), bench.spool.consumer(0));
        let write = |file: &mut FileSink, bytes: &[u8]| {
            writes += 1;
            let committed = Commit::load(&bench.spool).lanes[0].offset;
            assert!(ends::freed(consumer) <= committed, "a worker may write over what is read");
            file.write(Batch::of(bytes), 0)
        };
        let mut sink = Faulty { file, write: Box::new(write), syncs: 9, syncs_again: 0 };
        bench.drain(&mut sink).expect("drained");
    }
    assert_eq!((bench.output(), writes), (expected(0..4), 2));
    assert_eq!(ends::freed(bench.spool.consumer(0)), ends::tail(bench.spool.producer(0)));
}

#[test]
fn a_buffer_that_dies_at_any_byte_is_gone_on_from_exactly_there() {
    let total = expected(0..3).len();
    for killed_at in 0..=total {
        for existing in ["", "old\n", "old"] {
            let bench = Bench::new(1);
            std::fs::write(bench.path(), existing).expect("write");
            publish(&mut bench.writer(0), 0..3);
            let file = bench.sink();
            assert!(bench.drain(&mut dying(file, killed_at)).is_err());
            // Died again at once, then not any more.
            let file = bench.sink();
            assert!(bench.drain(&mut dying(file, 1)).is_err());
            let mut file = bench.sink();
            bench.drain(&mut file).expect("drained");
            let before = if existing.is_empty() { "" } else { "old\n" };
            assert_eq!(bench.output(), format!("{before}{}", expected(0..3)), "{killed_at}");
            let books = Commit::load(&bench.spool);
            assert_eq!((books.totals.results, books.totals.jobs_done), (3, 1));
            assert_eq!(books.sinks[0].expect("a file").len, bench.output().len() as u64);
        }
    }
}

#[test]
fn what_was_published_after_the_batch_of_a_dead_buffer_comes_behind_it() {
    let bench = Bench::new(2);
    let (mut first, mut second) = (bench.writer(0), bench.writer(1));
    publish(&mut second, 0..2);
    let file = bench.sink();
    assert!(bench.drain(&mut dying(file, 12)).is_err());
    publish(&mut first, 2..4);
    let mut file = bench.sink();
    bench.drain(&mut file).expect("drained");
    assert_eq!(bench.output(), expected(0..4));
}

#[test]
fn a_commit_that_only_syncs_hides_no_batch_and_repeats_none() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    for round in 0..5 {
        publish(&mut writer, 2 * round..2 * round + 2);
        let file = bench.sink();
        // Odd rounds end before their sync, with the batch committed; others in its middle.
        let left = if round % 2 == 0 { 5 } else { usize::MAX };
        assert!(bench.drain(&mut dying(file, left)).is_err());
        let mut file = bench.sink();
        bench.drain(&mut file).expect("drained, and synced by a commit of its own");
        assert_eq!(bench.output(), expected(0..2 * round + 2));
    }
}

#[test]
fn a_batch_that_stands_in_an_output_that_was_emptied_is_not_written_again() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..50);
    bench.drain(&mut bench.sink()).expect("drained");
    // logrotate's copytruncate, while the buffer runs; then it dies between write and commit.
    publish(&mut writer, 50..52);
    let file = bench.sink();
    let path = bench.path();
    let truncated = |file: &mut FileSink, bytes: &[u8]| {
        std::fs::File::create(&path)?;
        assert_eq!(file.write(Batch::of(bytes), 0)?, bytes.len());
        Err(killed())
    };
    assert!(
        bench
            .drain(&mut Faulty { file, write: Box::new(truncated), syncs: 0, syncs_again: 0 })
            .is_err()
    );
    bench.drain(&mut bench.sink()).expect("drained");
    assert_eq!(bench.output(), expected(50..52));
}

#[test]
fn what_was_committed_stays_whole_also_behind_bytes_that_somebody_else_appended() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..2);
    let file = bench.sink();
    // The buffer has found the end of the file, then somebody else writes.
    let mut intruder = intruder(bench.path());
    let write = move |file: &mut FileSink, bytes: &[u8]| {
        intruder()?;
        file.write(Batch::of(bytes), 0)
    };
    assert!(
        bench.drain(&mut Faulty { file, write: Box::new(write), syncs: 1, syncs_again: 0 }).is_ok()
    );
    assert_eq!(bench.output(), format!("foreign\n{}", expected(0..2)));
    // The next batch is begun, and cut off.
    publish(&mut writer, 2..4);
    let file = bench.sink();
    assert!(bench.drain(&mut dying(file, 15)).is_err());
    bench.drain(&mut bench.sink()).expect("drained");
    assert_eq!(bench.output(), format!("foreign\n{}", expected(0..4)));
}

/// Somebody else, who appends when called for the first time.
fn intruder(path: PathBuf) -> impl FnMut() -> io::Result<()> {
    let mut first = true;
    move || {
        if std::mem::take(&mut first) {
            let mut file = std::fs::OpenOptions::new().append(true).open(&path)?;
            file.write_all(b"foreign\n")?;
        }
        Ok(())
    }
}

#[test]
fn an_output_that_somebody_appends_to_while_the_buffer_runs_keeps_every_committed_byte() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..2);
    let file = bench.sink();
    let (mut intruder, mut writes) = (intruder(bench.path()), 0);
    // While the first batch is written the next is published; once that is written it dies.
    let write = move |file: &mut FileSink, bytes: &[u8]| {
        intruder()?;
        let written = file.write(Batch::of(bytes), 0)?;
        writes += 1;
        if writes == 2 {
            return Err(killed());
        }
        publish(&mut writer, 2..4);
        Ok(written)
    };
    assert!(
        bench
            .drain(&mut Faulty { file, write: Box::new(write), syncs: 0, syncs_again: 0 })
            .is_err()
    );
    bench.drain(&mut bench.sink()).expect("drained");
    assert_eq!(bench.output().replace("foreign\n", ""), expected(0..4));
}

/// Processor time of the calling thread.
fn used() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs an idle buffer for a while and says how much processor time that took.
fn idle(bench: &Bench) -> Duration {
    let spool = &bench.spool;
    let stop = Stop::new(|| {});
    std::thread::scope(|scope| {
        let stopper = stop.clone();
        let buffer = scope.spawn(move || {
            let mut file = bench.sink();
            let before = used();
            run(spool, Sinks { output: &mut file, dead_letters: None }, policy(), &stop, || {})
                .expect("drained");
            used() - before
        });
        stopper.wait(Duration::from_millis(200));
        stopper.request();
        bell::ring_for_sure(&spool.bells().buffer);
        buffer.join().expect("no panic")
    })
}

#[test]
fn a_worker_that_died_waiting_for_room_does_not_keep_the_buffer_awake() {
    let bench = Bench::new(1);
    publish(&mut bench.writer(0), 0..2);
    // Killed in `make_room`; its successor has not come yet.
    bench.spool.producer(0).waiting_for.store(200, Ordering::Release);
    let used = idle(&bench);
    // What a host takes from a virtual machine counts as used.
    assert!(used < Duration::from_millis(100), "{used:?} of 200 ms");
    assert_eq!(bench.output(), expected(0..2));
}

#[test]
fn counters_that_a_broken_worker_wrote_end_in_no_panic() {
    for (published, tail) in [(u64::MAX, 0), (u64::MAX, 8), (1 << 63, 0), (0, u64::MAX)] {
        let bench = Bench::new(2);
        for lane in 0..2 {
            bench.spool.producer(lane).published.store(published, Ordering::Release);
            bench.spool.producer(lane).tail.store(tail, Ordering::Release);
        }
        // An error or not: an answer.
        let stop = Stop::new(|| {});
        std::thread::scope(|scope| {
            let (spool, stopper) = (&bench.spool, stop.clone());
            let buffer = scope.spawn(|| {
                let mut file = bench.sink();
                let sinks = Sinks { output: &mut file, dead_letters: None };
                let _ended = run(&bench.spool, sinks, policy(), &stop, || {});
            });
            stopper.wait(Duration::from_millis(20));
            stopper.request();
            bell::ring_for_sure(&spool.bells().buffer);
            assert!(buffer.join().is_ok(), "published {published}, tail {tail}");
        });
    }
}
