//! Promises of the buffer about outputs that can't be synced, or are opened anew.

use super::tests::{Bench, Faulty, expected, policy, publish};
use super::*;
use crate::flow::sink::file::FileSink;
use crate::flow::sink::{Batch, Sink};
use std::path::{Path, PathBuf};

/// A file of which one sync fails, and all others succeed.
fn failing(file: FileSink, syncs: usize) -> Faulty<'static> {
    let write = |file: &mut FileSink, bytes: &[u8]| file.write(Batch::of(bytes), 0);
    Faulty { file, write: Box::new(write), syncs, syncs_again: usize::MAX }
}

fn run_with(bench: &Bench, sink: &mut dyn Sink, sync: config::SyncPolicy) -> Result<u64, Error> {
    let stop = Stop::new(|| {});
    stop.request();
    run(
        &bench.spool,
        Sinks { output: sink, dead_letters: None },
        Policy { sync, ..policy() },
        &stop,
        || {},
    )
}

/// What else is in the directory, by its names.
fn aside(bench: &Bench) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(bench.directory.path()).expect("the directory");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.retain(|path| !["out", "spool"].iter().any(|name| path.ends_with(name)));
    all.sort();
    all
}

#[test]
fn a_batch_that_can_not_be_synced_is_written_again_to_a_fresh_file_and_the_old_one_has_none_of_it()
{
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..2);
    run_with(&bench, &mut bench.sink(), config::SyncPolicy::Always).expect("drained");
    publish(&mut writer, 2..5);
    let mut sink = failing(bench.sink(), 0);
    run_with(&bench, &mut sink, config::SyncPolicy::Always).expect("made good");
    drop(sink);
    let aside = aside(&bench);
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read_to_string(&aside[0]).expect("a file"), expected(0..2));
    assert_eq!(bench.output(), expected(2..5));
    let books = Commit::load(&bench.spool);
    assert_eq!(books.totals.results, 5);
    assert!(!processes::is_unsynced(&bench.spool));
}

#[test]
fn a_fresh_file_that_can_not_be_synced_either_ends_the_run_and_nobody_tries_again() {
    let bench = Bench::new(1);
    publish(&mut bench.writer(0), 0..3);
    let mut sink = failing(bench.sink(), 0);
    // Every sync fails.
    sink.syncs_again = 0;
    let error = run_with(&bench, &mut sink, config::SyncPolicy::Always).expect_err("no disk");
    assert!(error.to_string().contains("can't force the output to the disk"), "{error}");
    drop(sink);
    let again = run_with(&bench, &mut bench.sink(), config::SyncPolicy::Always);
    assert!(again.expect_err("refused").to_string().contains("has failed in this run"));
    assert_eq!(Commit::load(&bench.spool).totals.results, 0);
    // The next start.
    bench.drain(&mut bench.sink()).expect("drained");
    let all: String = aside(&bench).iter().map(|it| std::fs::read_to_string(it).unwrap()).collect();
    assert_eq!(all + &bench.output(), expected(0..3));
}

#[test]
fn a_sync_now_and_then_that_fails_names_the_bytes_and_is_not_tried_again() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..2);
    bench.drain(&mut bench.sink()).expect("drained, and synced");
    publish(&mut writer, 2..5);
    let every = config::SyncPolicy::Every(Duration::from_secs(3600));
    let error = run_with(&bench, &mut failing(bench.sink(), 0), every).expect_err("no disk");
    let told = format!("bytes 18 to {}, written since the last sync", expected(0..5).len());
    assert!(error.to_string().contains(&told), "{error}");
    let again = run_with(&bench, &mut bench.sink(), every).expect_err("refused");
    assert!(again.to_string().contains("has failed in this run"), "{again}");
    bench.drain(&mut bench.sink()).expect("the next start goes on");
    assert_eq!(bench.output(), expected(0..5));
    assert_eq!(aside(&bench), [] as [PathBuf; 0]);
}

#[test]
fn a_file_that_was_moved_is_let_go_of_when_that_is_asked_for_and_not_before() {
    let bench = Bench::new(1);
    let spool = &bench.spool;
    let moved = bench.directory.path().join("out.1");
    let mut writer = bench.writer(0);
    let stop = Stop::new(|| {});
    let wake = || bell::ring_for_sure(&spool.bells().buffer);
    let until = |what: &dyn Fn() -> bool| {
        let until = clock::now() + Duration::from_secs(20);
        while !what() && clock::now() < until {
            std::thread::yield_now();
        }
        assert!(what(), "in vain");
    };
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    std::thread::scope(|scope| {
        let (bench, stopper) = (&bench, stop.clone());
        let buffer = scope.spawn(move || {
            let mut file = bench.sink();
            let flush = config::Buffer { flush_records: 1, ..policy().flush };
            let sinks = Sinks { output: &mut file, dead_letters: None };
            run(spool, sinks, Policy { flush, ..policy() }, &stopper, || {})
        });
        publish(&mut writer, 0..2);
        until(&|| read(&bench.path()) == expected(0..2));
        std::fs::rename(bench.path(), &moved).expect("rename");
        publish(&mut writer, 2..4);
        until(&|| read(&moved) == expected(0..4));
        stop.request_reopening();
        wake();
        until(&|| bench.path().exists());
        publish(&mut writer, 4..6);
        until(&|| read(&bench.path()) == expected(4..6));
        // It has its name: nothing happens.
        stop.request_reopening();
        wake();
        publish(&mut writer, 6..8);
        until(&|| read(&bench.path()) == expected(4..8));
        stop.request();
        wake();
        buffer.join().expect("no panic").expect("drained");
    });
    assert_eq!(read(&moved), expected(0..4));
    assert_eq!(Commit::load(&bench.spool).totals.results, 8);
}

#[test]
fn records_in_a_file_that_took_the_place_of_a_removed_one_are_not_doubled_by_a_power_loss() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..2);
    bench.drain(&mut bench.sink()).expect("drained");
    publish(&mut writer, 2..4);
    let file = bench.sink();
    std::fs::remove_file(bench.path()).expect("remove");
    let path = bench.path();
    let write = move |file: &mut FileSink, bytes: &[u8]| {
        // The first that the buffer has seen of it is that it was removed.
        assert!(path.exists());
        file.write(Batch::of(bytes), 0)
    };
    let mut sink = Faulty { file, write: Box::new(write), syncs: 1, syncs_again: usize::MAX };
    assert!(bench.drain(&mut sink).is_err(), "dead before the last sync");
    drop(sink);
    assert_eq!(bench.output(), expected(2..4));
    bench.spool.run().boots.store(1, Ordering::Release);
    bench.drain(&mut bench.sink()).expect("drained");
    assert_eq!(bench.output(), expected(2..4));
}
