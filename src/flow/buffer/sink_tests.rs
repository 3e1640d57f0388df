//! Promises of the buffer about two sinks at once, and about files that begin with a header.

use super::tests::{Bench, Faulty, dying, policy};
use super::*;
use crate::config::{Format, SyncPolicy};
use crate::flow::format::shape;
use crate::flow::queue::frame::Kind;
use crate::flow::queue::lane::{Finish, LaneWriter, Staged};
use crate::flow::queue::layout::Geometry;
use crate::flow::sink::Position;
use crate::flow::sink::Sink;
use crate::flow::sink::file::FileSink;
use crate::flow::sink::{Batch, CantOpen};
use crate::sys::atomic::AtomicU64;
use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::path::Path;

/// Publishes a job with these records.
pub(super) fn publish_job(writer: &mut LaneWriter<'_>, records: &[(Kind, &[u8])]) {
    let mut staged = Staged::default();
    for (kind, record) in records {
        let Ok(()) = staged.push(*kind, |bytes| {
            bytes.extend_from_slice(record);
            Ok::<(), Infallible>(())
        });
    }
    let result_end = AtomicU64::new(u64::MAX);
    let finish = Finish { kind: Kind::JobDone, seq: 1, round: 1, result_end: &result_end };
    writer.publish(&mut staged, Some(finish)).expect("room");
}

pub(super) fn open(path: &Path, format: &Format) -> FileSink {
    tests::open(path, &shape(format))
}

pub(super) fn drain(bench: &Bench, sinks: Sinks<'_>, sync: SyncPolicy) -> Result<u64, Error> {
    // As any start does.
    processes::forget_unsynced(&bench.spool);
    let stop = Stop::new(|| {});
    stop.request();
    run(&bench.spool, sinks, Policy { sync, ..policy() }, &stop, || {})
}

const RESULTS: &str = "one\ntwo\n";
pub(super) const DEAD: &str = "dead one\ndead two\n";

/// Two jobs done, two failed.
fn publish_both(bench: &Bench) {
    let mut writer = bench.writer(0);
    publish_job(&mut writer, &[(Kind::Result, b"one\n")]);
    publish_job(&mut writer, &[(Kind::DeadLetter, b"dead one\n")]);
    publish_job(&mut writer, &[(Kind::Result, b"two\n")]);
    publish_job(&mut writer, &[(Kind::DeadLetter, b"dead two\n")]);
}

#[test]
fn a_buffer_that_dies_at_any_byte_of_either_file_is_gone_on_with_in_both() {
    for (of_output, of_dead) in (0..=RESULTS.len())
        .map(|at| (at, usize::MAX))
        .chain((0..=DEAD.len()).map(|at| (usize::MAX, at)))
    {
        let bench = Bench::new(1);
        let dead = bench.directory.path().join("dead");
        publish_both(&bench);
        {
            let mut output = dying(bench.sink(), of_output);
            let mut dead_letters = dying(open(&dead, &Format::JsonLines), of_dead);
            let dead_letters: Option<&mut dyn Sink> = Some(&mut dead_letters);
            let sinks = Sinks { output: &mut output, dead_letters };
            assert!(drain(&bench, sinks, SyncPolicy::Never).is_err());
        }
        let (mut output, mut dead_letters) = (bench.sink(), open(&dead, &Format::JsonLines));
        let sinks = Sinks { output: &mut output, dead_letters: Some(&mut dead_letters) };
        drain(&bench, sinks, SyncPolicy::Never).expect("drained");
        assert_eq!(bench.output(), RESULTS, "{of_output} {of_dead}");
        assert_eq!(std::fs::read_to_string(&dead).expect("dead letters"), DEAD);
        let books = Commit::load(&bench.spool);
        assert_eq!((books.totals.results, books.totals.dead_letters), (2, 2));
        assert_eq!(books.sinks[1].expect("a file").len, DEAD.len() as u64);
    }
}

#[test]
fn dead_letters_that_outlived_a_power_loss_are_not_written_again() {
    for length in 0..=DEAD.len() {
        let bench = Bench::new(1);
        let dead = bench.directory.path().join("dead");
        // From now on it is known where the files were before.
        for round in 0..2 {
            if round == 1 {
                publish_both(&bench);
                std::fs::write(bench.path(), &RESULTS[..4]).expect("what is left of it");
                std::fs::write(&dead, &DEAD[..length]).expect("what is left of it");
                bench.spool.run().boots.store(1, Ordering::Release);
            }
            let (mut output, mut dead_letters) = (bench.sink(), open(&dead, &Format::JsonLines));
            let sinks = Sinks { output: &mut output, dead_letters: Some(&mut dead_letters) };
            drain(&bench, sinks, SyncPolicy::Never).expect("drained");
        }
        assert_eq!(bench.output(), RESULTS);
        assert_eq!(std::fs::read_to_string(&dead).expect("dead letters"), DEAD, "{length}");
    }
}

#[test]
fn dead_letters_without_a_file_stay_in_the_spool() {
    let bench = Bench::new(1);
    publish_both(&bench);
    let error = bench.drain(&mut bench.sink()).expect_err("nowhere to go").to_string();
    assert!(error.contains("no file is named"), "{error}");
    assert_eq!(Commit::load(&bench.spool).totals.dead_letters, 0);
}

fn csv() -> Format {
    Format::Csv { columns: vec!["host".into(), "ms".into()] }
}

const ROWS: [&str; 3] = ["a,1\n", "\"b\nb\",2\n", "\"c \"\"c\"\"\",\n"];

fn publish_rows(bench: &Bench) {
    let mut writer = bench.writer(0);
    ROWS.iter().for_each(|row| publish_job(&mut writer, &[(Kind::Result, row.as_bytes())]));
}

#[test]
fn rows_with_line_ends_in_them_are_told_apart_after_a_power_loss() {
    let whole = format!("host,ms\n{}", ROWS.concat());
    for length in 0..=whole.len() {
        let bench = Bench::new(1);
        bench.drain(&mut open(&bench.path(), &csv())).expect("nothing to write");
        publish_rows(&bench);
        std::fs::write(bench.path(), &whole[..length]).expect("what is left of it");
        bench.spool.run().boots.store(1, Ordering::Release);
        bench.drain(&mut open(&bench.path(), &csv())).expect("drained");
        assert_eq!(bench.output(), whole, "{length}");
        assert_eq!(Commit::load(&bench.spool).totals.results, 3);
    }
}

#[test]
fn a_file_that_was_moved_or_emptied_begins_with_a_header_again() {
    let bench = Bench::new(1);
    publish_rows(&bench);
    bench.drain(&mut open(&bench.path(), &csv())).expect("drained");
    std::fs::rename(bench.path(), bench.directory.path().join("out.1")).expect("rename");
    publish_rows(&bench);
    bench.drain(&mut open(&bench.path(), &csv())).expect("drained");
    assert_eq!(bench.output(), format!("host,ms\n{}", ROWS.concat()));
}

#[test]
fn a_file_with_other_columns_is_refused() {
    let bench = Bench::new(1);
    for (content, fits) in [("", true), ("ho", true), ("host,ms\na,1\n", true), ("host,s\n", false)]
    {
        std::fs::write(bench.path(), content).expect("write");
        let checked = open(&bench.path(), &csv()).check_header();
        assert_eq!(checked.is_ok(), fits, "{content:?}");
        if let Err(error) = checked {
            assert_eq!(error.exit_code(), crate::error::ExitCode::Config);
            assert!(error.to_string().contains("has other columns"), "{error}");
        }
    }
}

#[test]
fn a_full_disk_under_the_dead_letters_is_waited_for() {
    let bench = Bench::new(1);
    let dead = bench.directory.path().join("dead");
    publish_both(&bench);
    let since = || vitals::of(&bench.spool).no_room_since.load(Ordering::Relaxed) != 0;
    let mut full = 1;
    let write = move |file: &mut FileSink, bytes: &[u8]| {
        assert_eq!(since(), full == 0, "who looks is told that it waits for room");
        if full > 0 {
            full -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.write(Batch::of(bytes), 0)
    };
    let file = open(&dead, &Format::JsonLines);
    let mut dead_letters = Faulty { file, write: Box::new(write), syncs: 9, syncs_again: 0 };
    let mut output = bench.sink();
    let sinks = Sinks { output: &mut output, dead_letters: Some(&mut dead_letters) };
    drain(&bench, sinks, SyncPolicy::Never).expect("drained");
    assert!(!since(), "it does not wait any more");
    assert_eq!(std::fs::read_to_string(&dead).expect("dead letters"), DEAD);
}

/// Dead letters of which the first sync fails, and all others succeed.
fn unsynced(path: &Path) -> Faulty<'static> {
    let write = |file: &mut FileSink, bytes: &[u8]| file.write(Batch::of(bytes), 0);
    let file = open(path, &Format::JsonLines);
    Faulty { file, write: Box::new(write), syncs: 0, syncs_again: usize::MAX }
}

/// All that was ever written to the output of this name.
fn everything(bench: &Bench) -> String {
    let entries = std::fs::read_dir(bench.directory.path()).expect("the directory");
    let mut all: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.retain(|path| !["spool", "dead"].iter().any(|name| path.ends_with(name)));
    all.iter().map(|path| std::fs::read_to_string(path).expect("text")).collect()
}

#[test]
fn a_batch_whose_dead_letters_can_not_be_synced_is_written_again_and_is_there_once() {
    let bench = Bench::new(1);
    let dead = bench.directory.path().join("dead");
    publish_both(&bench);
    {
        let (mut output, mut dead_letters) = (bench.sink(), unsynced(&dead));
        let sinks = Sinks { output: &mut output, dead_letters: Some(&mut dead_letters) };
        drain(&bench, sinks, SyncPolicy::Always).expect("made good");
    }
    assert_eq!(std::fs::read_to_string(&dead).expect("dead letters"), DEAD);
    assert_eq!(everything(&bench), RESULTS);
    let books = Commit::load(&bench.spool);
    assert_eq!((books.totals.results, books.totals.dead_letters), (2, 2));
    assert!(!processes::is_unsynced(&bench.spool));
}

#[test]
fn dead_letters_whose_sync_now_and_then_fails_end_the_run_and_the_next_start_goes_on_behind_them() {
    let bench = Bench::new(1);
    let dead = bench.directory.path().join("dead");
    publish_both(&bench);
    {
        let (mut output, mut dead_letters) = (bench.sink(), unsynced(&dead));
        let sinks = Sinks { output: &mut output, dead_letters: Some(&mut dead_letters) };
        let error = drain(&bench, sinks, SyncPolicy::Never).expect_err("no disk").to_string();
        let told = format!("dead: can't force the output to the disk: bytes 0 to {}", DEAD.len());
        assert!(error.contains(&told) && error.contains("then start again"), "{error}");
    }
    assert!(processes::is_unsynced(&bench.spool), "and nobody of this run tries again");
    let (mut output, mut dead_letters) = (bench.sink(), open(&dead, &Format::JsonLines));
    let sinks = Sinks { output: &mut output, dead_letters: Some(&mut dead_letters) };
    drain(&bench, sinks, SyncPolicy::Never).expect("the next start");
    assert_eq!(std::fs::read_to_string(&dead).expect("dead letters"), DEAD);
    assert_eq!(everything(&bench), RESULTS);
}

/// A file that somebody is told of when it is looked at, which is before each batch.
struct Watched<'a> {
    file: FileSink,
    look: Box<dyn FnMut() + 'a>,
}

impl Sink for Watched<'_> {
    fn open(&mut self, committed: Option<Position>, pending: Batch<'_>) -> Result<usize, CantOpen> {
        Sink::open(&mut self.file, committed, pending)
    }

    fn look(&mut self) -> Result<(), Error> {
        (self.look)();
        self.file.look()
    }

    fn write(&mut self, batch: Batch<'_>, done: usize) -> io::Result<usize> {
        self.file.write(batch, done)
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
}

#[test]
fn with_sync_always_a_commit_gives_no_room_before_it_is_on_the_disk() {
    let directory = tempfile::tempdir().expect("temp dir");
    let geometry = Geometry { lanes: 1, lane_bytes: 2 << 20, slots: 1, job_bytes: 64 };
    let path = directory.path().join("spool");
    let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
    let bench = Bench { directory, spool };
    let mut writer = bench.writer(0);
    // Two batches of one flush.
    for _ in 0..3 {
        publish_job(&mut writer, &[(Kind::Result, &[b'x'; 600 << 10])]);
    }
    let freed = || bench.spool.consumer(0).freed.load(Ordering::Acquire);
    let seen = RefCell::new(Vec::new());
    let look = || seen.borrow_mut().push((Commit::load(&bench.spool).totals.results, freed()));
    let mut output = Watched { file: bench.sink(), look: Box::new(look) };
    let sinks = Sinks { output: &mut output, dead_letters: None };
    drain(&bench, sinks, SyncPolicy::Always).expect("drained");
    assert_eq!(seen.borrow()[..2], [(0, 0), (2, 0)], "records committed, bytes freed");
    assert!(freed() > 3 * (600 << 10));
}
