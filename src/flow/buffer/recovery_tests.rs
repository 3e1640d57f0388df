//! Promises of a buffer that goes on after another: about headers, about dead letters, and about what
//! is cut off.

use super::sink_tests::{drain, publish_job};
use super::tests::{Bench, dying, expected, open, publish, quarantine};
use super::*;
use crate::flow::queue::frame::Kind;
use crate::flow::queue::lane::LaneWriter;
use crate::flow::queue::repair::repair;
use crate::flow::sink::file::{FileSink, Shape};
use std::path::PathBuf;

const HEADER: &str = "the header\n";

fn sink_with_header(bench: &Bench) -> FileSink {
    open(&bench.path(), &Shape { header: HEADER.into(), ..Shape::ended_by(b'\n') })
}

#[test]
fn a_header_stands_once_before_the_first_record_wherever_a_buffer_dies() {
    let header = HEADER.to_owned();
    for existing in ["", HEADER, "the header\nold\n"] {
        let before = if existing.is_empty() { HEADER } else { existing }.to_owned();
        for killed_at in 0..=(before.len() - existing.len()) + expected(0..2).len() {
            let bench = Bench::new(1);
            std::fs::write(bench.path(), existing).expect("write");
            let mut writer = bench.writer(0);
            publish(&mut writer, 0..2);
            assert!(bench.drain(&mut dying(sink_with_header(&bench), killed_at)).is_err());
            assert!(bench.drain(&mut dying(sink_with_header(&bench), 1)).is_err());
            let mut file = sink_with_header(&bench);
            file.check_header().expect("the same one, or the beginning of it");
            bench.drain(&mut file).expect("drained");
            drop(file);
            let first = before.clone() + &expected(0..2);
            assert_eq!(bench.output(), first, "killed after {killed_at} bytes");
            // In a batch that is not the first of its file no header is looked for.
            publish(&mut writer, 2..4);
            assert!(bench.drain(&mut dying(sink_with_header(&bench), 5)).is_err());
            bench.drain(&mut sink_with_header(&bench)).expect("drained");
            assert_eq!(bench.output(), first + &expected(2..4), "killed after {killed_at} bytes");
            assert_eq!(quarantine(&bench.path()), b"", "killed after {killed_at} bytes");
        }
    }
    // Without a record there is none.
    let bench = Bench::new(1);
    publish(&mut bench.writer(0), 0..0);
    bench.drain(&mut sink_with_header(&bench)).expect("drained");
    assert_eq!(bench.output(), "");
    // The file of the batch that was begun is gone: the new one begins as any.
    publish(&mut bench.writer(0), 0..2);
    assert!(bench.drain(&mut dying(sink_with_header(&bench), 15)).is_err());
    std::fs::remove_file(bench.path()).expect("removed");
    bench.drain(&mut sink_with_header(&bench)).expect("drained");
    assert_eq!(bench.output(), header + &expected(0..2));
}

/// A job that emits these records, each for one of two files.
fn publish_both(writer: &mut LaneWriter<'_>, records: &[(Kind, &str)]) {
    let records: Vec<(Kind, &[u8])> =
        records.iter().map(|(kind, record)| (*kind, record.as_bytes())).collect();
    publish_job(writer, &records);
}

struct Two {
    bench: Bench,
}

impl Two {
    fn new() -> Two {
        Two { bench: Bench::new(1) }
    }

    fn dead_letters(&self) -> PathBuf {
        self.bench.directory.path().join("dead")
    }

    fn sink(&self) -> FileSink {
        open(&self.dead_letters(), &Shape::ended_by(b'\n'))
    }

    fn drain(&self) {
        let (mut output, mut dead_letters) = (self.bench.sink(), self.sink());
        let sinks = Sinks { output: &mut output, dead_letters: Some(&mut dead_letters) };
        drain(&self.bench, sinks, config::SyncPolicy::Never).expect("drained");
    }

    /// The same books as then, and a boot since.
    fn lose_power(&self, books: &[u8]) {
        let spool = &self.bench.spool;
        spool.mapping.write(spool.layout.commit[0], books);
        spool.run().boots.fetch_add(1, Ordering::Release);
    }

    fn books(&self) -> Vec<u8> {
        let (spool, mut bytes) = (&self.bench.spool, Vec::new());
        let begin = spool.layout.commit[0];
        spool.mapping.append_to(begin, spool.layout.slots - begin, &mut bytes);
        bytes
    }

    fn read(&self) -> (String, String) {
        let dead = std::fs::read_to_string(self.dead_letters()).expect("dead letters");
        (self.bench.output(), dead)
    }
}

#[test]
fn dead_letters_that_outlived_a_power_loss_are_counted_and_not_written_again() {
    let (good, bad) = (Kind::Result, Kind::DeadLetter);
    let first = [(good, "good 1\n"), (bad, "bad 1\n")];
    let second = [(bad, "bad 2\n"), (good, "good 2\n"), (bad, "bad 3\n")];
    let third = [(bad, "bad 4\n"), (good, "good 3\n")];
    let whole_dead = "bad 1\nbad 2\nbad 3\nbad 4\n";
    for (is_lost, half) in [(false, 0), (true, 0), (false, 3)] {
        let two = Two::new();
        let mut writer = two.bench.writer(0);
        publish_both(&mut writer, &first);
        two.drain();
        let books = two.books();
        let from = Commit::load(&two.bench.spool).lanes[0].offset as usize;
        publish_both(&mut writer, &second);
        publish_both(&mut writer, &third);
        two.drain();
        two.lose_power(&books);
        if is_lost {
            // The job's frames never reached the disk, what had been written of it has.
            two.bench.spool.map_ring(0, true).expect("ring").write(from, &[0; 80]);
        }
        if half > 0 {
            let left = &whole_dead[..whole_dead.len() - half];
            std::fs::write(two.dead_letters(), left).expect("write");
        }
        two.drain();
        let dead = whole_dead.to_owned();
        let expected = ("good 1\ngood 2\ngood 3\n".to_owned(), dead);
        assert_eq!(two.read(), expected, "lost: {is_lost}, half: {half}");
        let totals = Commit::load(&two.bench.spool).totals;
        assert_eq!(
            (totals.results, totals.dead_letters, totals.quarantined, totals.jobs_done),
            (3, 4, 0, if is_lost { 2 } else { 3 }),
            "lost: {is_lost}, half: {half}"
        );
        assert_eq!(quarantine(&two.dead_letters()), b"");
    }
}

/// Half of a record that the lanes have no more is put aside.
#[test]
fn half_a_dead_letter_that_is_in_no_lane_any_more_is_put_aside_after_a_power_loss() {
    let two = Two::new();
    let mut writer = two.bench.writer(0);
    publish_both(&mut writer, &[(Kind::Result, "good 1\n"), (Kind::DeadLetter, "bad 1\n")]);
    two.drain();
    two.lose_power(&two.books());
    std::fs::write(two.dead_letters(), "bad 1\nba").expect("write");
    publish_both(&mut writer, &[(Kind::DeadLetter, "last 2\n")]);
    two.drain();
    assert_eq!(two.read(), ("good 1\n".to_owned(), "bad 1\nlast 2\n".to_owned()));
    assert!(quarantine(&two.dead_letters()).ends_with(b"ba"));
}

/// A part of the batch is torn by now, so what stands behind the rest is cut off; but of another file,
/// which has the output's name by now, nothing is.
#[test]
fn nothing_is_cut_off_a_file_that_was_put_in_the_place_of_the_output() {
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    [0..2, 2..4, 4..6].into_iter().for_each(|records| publish(&mut writer, records));
    let job = ends::tail(bench.spool.producer(0)) as usize / 3;
    assert!(bench.drain(&mut dying(bench.sink(), expected(0..1).len())).is_err());
    bench.spool.map_ring(0, true).expect("ring").write(job + 30, b"!");
    let moved = bench.directory.path().join("moved");
    std::fs::rename(bench.path(), &moved).expect("moved");
    let foreign = "somebody else's line\n".repeat(20);
    std::fs::write(bench.path(), &foreign).expect("written");
    bench.drain(&mut bench.sink()).expect("drained");
    let moved = std::fs::read_to_string(moved).expect("moved");
    let output = bench.output();
    assert!(output.starts_with(&foreign));
    assert_eq!(moved + &output[foreign.len()..], expected(0..2) + &expected(4..6));
    assert!(!String::from_utf8_lossy(&quarantine(&bench.path())).contains("somebody"));
}

/// The intent on the disk can be older than the output there.
#[test]
fn after_a_power_loss_an_intent_does_not_say_where_the_output_ends() {
    let two = Two::new();
    let bench = &two.bench;
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..4);
    bench.drain(&mut bench.sink()).expect("drained");
    publish(&mut writer, 4..7);
    assert!(bench.drain(&mut dying(bench.sink(), 5)).is_err());
    let books = two.books();
    publish(&mut writer, 7..10);
    bench.drain(&mut bench.sink()).expect("drained");
    two.lose_power(&books);
    bench.drain(&mut bench.sink()).expect("drained");
    assert_eq!(bench.output(), expected(0..10));
    assert_eq!(Commit::load(&bench.spool).totals.results, 10);
}

/// A commit is newer than the last sync, and what it is about has been written over in the lane since.
#[test]
fn jobs_whose_ends_were_overwritten_count_after_a_power_loss_that_has_cost_no_record() {
    const JOBS: u32 = 60;
    let bench = Bench::new(1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..1);
    bench.drain(&mut bench.sink()).expect("drained");
    let synced = Commit::load(&bench.spool);
    for job in 1..JOBS {
        publish(&mut writer, job..job + 1);
        bench.drain(&mut bench.sink()).expect("drained");
    }
    let mut books = Commit::load(&bench.spool);
    assert!(books.lanes[0].offset > 4096, "it has gone round");
    (books.generation, books.synced) = (books.generation + 1, synced.synced);
    if let (Some(at), Some(before)) = (&mut books.sinks[0], synced.sinks[0]) {
        at.synced = before.synced;
    }
    books.store(&bench.spool);
    bench.spool.run().boots.store(1, Ordering::Release);
    publish(&mut writer, JOBS..JOBS + 1);
    repair(&bench.spool, |_| {}).expect("repaired");
    bench.drain(&mut bench.sink()).expect("drained");
    assert_eq!(bench.output(), expected(0..JOBS + 1));
    let totals = Commit::load(&bench.spool).totals;
    let all = u64::from(JOBS) + 1;
    assert_eq!((totals.results, totals.jobs_done, totals.quarantined), (all, all, 0));
}
