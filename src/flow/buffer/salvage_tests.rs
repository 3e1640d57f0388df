//! Promises of the buffer about damaged lanes and lost power.

use super::tests::{Bench, dying, expected, policy, publish, quarantine};
use super::*;
use crate::flow::queue::lane::LaneWriter;
use crate::flow::queue::repair::repair;
use crate::flow::sink::{Batch, Sink};
use std::ops::Range;

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn torn_bytes_are_put_aside_and_counted_and_all_else_is_written() {
    let bench = Bench::new(2);
    for (lane, jobs) in [(0, [0..2, 2..4, 4..6]), (1, [6..8, 8..10, 10..12])] {
        let mut writer = bench.writer(lane);
        jobs.into_iter().for_each(|records| publish(&mut writer, records));
    }
    let job = bench.spool.producer(0).tail.load(Ordering::Acquire) as usize / 3;
    bench.spool.map_ring(0, true).expect("ring").write(job + 30, b"!");
    bench.drain(&mut bench.sink()).expect("drained");
    assert_eq!(bench.output(), expected(0..2) + &expected(4..12));
    let aside = quarantine(&bench.path());
    assert_eq!(aside.len(), job);
    assert!(aside.windows(9).any(|bytes| bytes == b"record 3\n"));
    let books = Commit::load(&bench.spool);
    assert_eq!((books.totals.results, books.totals.quarantined), (10, 2));
    assert_eq!(books.totals.jobs_done, 5);
}

#[test]
fn a_buffer_that_dies_with_torn_bytes_in_its_batch_leaves_the_rest_to_be_gone_on_with() {
    let total = expected(0..2).len() + expected(4..6).len();
    for killed_at in 0..=total {
        let bench = Bench::new(1);
        let mut writer = bench.writer(0);
        [0..2, 2..4, 4..6].into_iter().for_each(|records| publish(&mut writer, records));
        let job = bench.spool.producer(0).tail.load(Ordering::Acquire) as usize / 3;
        bench.spool.map_ring(0, true).expect("ring").write(job + 30, b"!");
        assert!(bench.drain(&mut dying(bench.sink(), killed_at)).is_err());
        bench.drain(&mut bench.sink()).expect("drained");
        assert_eq!(bench.output(), expected(0..2) + &expected(4..6), "at byte {killed_at}");
        assert_eq!(Commit::load(&bench.spool).totals.quarantined, 2);
    }
}

/// Two batches were written; the power went before the disk had heard of the second one's commit.
struct PowerLoss {
    bench: Bench,
    /// Bytes of the output that were committed and synced.
    committed: usize,
}

const FIRST: Range<u32> = 0..4;
const SECOND: Range<u32> = 4..10;

impl PowerLoss {
    fn new() -> PowerLoss {
        let bench = Bench::new(1);
        let mut writer = bench.writer(0);
        publish(&mut writer, FIRST);
        bench.drain(&mut bench.sink()).expect("drained");
        let committed = bench.output().len();
        let (commits, books) = (bench.spool.layout.commit, bench.spool.layout.slots);
        let mut old = Vec::new();
        bench.spool.mapping.append_to(commits[0], books - commits[0], &mut old);
        publish(&mut writer, SECOND.start..7);
        publish(&mut writer, 7..SECOND.end);
        bench.drain(&mut bench.sink()).expect("drained");
        bench.spool.mapping.write(commits[0], &old);
        bench.spool.run().boots.store(1, Ordering::Release);
        PowerLoss { bench, committed }
    }

    /// What is left of the output.
    fn leave(&self, output: &[u8]) {
        std::fs::write(self.bench.path(), output).expect("write");
    }

    fn written(&self) -> Vec<u8> {
        (expected(FIRST) + &expected(SECOND)).into_bytes()
    }

    #[track_caller]
    fn assert_whole(&self) {
        let output = self.bench.output();
        assert_eq!(sorted(&output), sorted(&(expected(FIRST) + &expected(SECOND))));
        assert!(output.starts_with(&expected(FIRST)));
        let books = Commit::load(&self.bench.spool);
        assert_eq!((books.totals.results, books.totals.quarantined, books.boots), (10, 0, 1));
        assert_eq!(books.sinks[0].expect("a file").len, output.len() as u64);
        // It is seen to, once.
        self.bench.drain(&mut self.bench.sink()).expect("drained");
        assert_eq!(self.bench.output(), output);
    }
}

#[test]
fn records_that_outlived_the_power_loss_in_the_output_are_not_written_again() {
    let whole = PowerLoss::new().written();
    for length in PowerLoss::new().committed..=whole.len() {
        let loss = PowerLoss::new();
        loss.leave(&whole[..length]);
        loss.bench.drain(&mut loss.bench.sink()).expect("drained");
        loss.assert_whole();
        assert_eq!(quarantine(&loss.bench.path()), b"", "half of a record is gone on with");
    }
}

#[test]
fn zeroes_at_the_end_of_an_output_are_put_aside_with_what_they_are_part_of() {
    let whole = PowerLoss::new().written();
    for length in PowerLoss::new().committed..whole.len() {
        let loss = PowerLoss::new();
        let mut torn = whole[..length].to_vec();
        torn.resize(whole.len(), 0);
        loss.leave(&torn);
        loss.bench.drain(&mut loss.bench.sink()).expect("drained");
        loss.assert_whole();
        assert!(quarantine(&loss.bench.path()).ends_with(&[0]));
    }
}

#[test]
fn what_was_committed_and_not_synced_is_written_again_as_far_as_the_lanes_still_have_it() {
    let whole = PowerLoss::new().written();
    for length in [0, 9, 12, 36, 50, whole.len()] {
        let loss = PowerLoss::new();
        // All was committed, nothing was ever synced: the disk may have anything of it.
        let mut books = Commit::load(&loss.bench.spool);
        let initial = Commit::initial(1);
        (books.generation, books.synced) = (books.generation + 1, initial.synced);
        if let Some(at) = &mut books.sinks[0] {
            at.synced = 0;
        }
        books.store(&loss.bench.spool);
        loss.leave(&whole[..length]);
        repair(&loss.bench.spool, |_| {}).expect("repaired");
        assert_eq!(loss.bench.spool.consumer(0).freed.load(Ordering::Acquire), 0);
        loss.bench.drain(&mut loss.bench.sink()).expect("drained");
        let output = loss.bench.output();
        assert_eq!(sorted(&output), sorted(std::str::from_utf8(&whole).expect("text")));
        assert!(output.as_bytes().starts_with(&whole[..length]));
        let totals = Commit::load(&loss.bench.spool).totals;
        assert_eq!((totals.results, totals.jobs_done, totals.quarantined), (10, 3, 0));
    }
}

#[test]
fn a_buffer_that_dies_while_it_salvages_finds_what_it_had_written() {
    let whole = PowerLoss::new().written();
    for length in [36, 50] {
        for killed_at in 0..whole.len() - length {
            let loss = PowerLoss::new();
            loss.leave(&whole[..length]);
            let file = loss.bench.sink();
            assert!(loss.bench.drain(&mut dying(file, killed_at)).is_err());
            loss.bench.drain(&mut loss.bench.sink()).expect("drained");
            loss.assert_whole();
        }
    }
}

/// Of two commits the disk had the older one, and of the intents the newest: as many commits later that
/// one would be the next.
#[test]
fn an_intent_from_before_a_power_loss_is_no_batch_that_comes_after_it() {
    let loss = PowerLoss::new();
    loss.leave(&loss.written());
    loss.bench.drain(&mut loss.bench.sink()).expect("drained");
    let mut stale = Commit::load(&loss.bench.spool);
    (stale.generation, stale.boots) = (stale.generation + 1, 0);
    // The end of a unit that was lost; those that have come in its place end elsewhere.
    stale.lanes[0].offset += 64;
    stale.store_intent(&loss.bench.spool);
    let mut writer = LaneWriter::open(&loss.bench.spool, 0, 10).expect("ring");
    publish(&mut writer, 10..14);
    loss.bench.drain(&mut loss.bench.sink()).expect("drained");
    assert!(loss.bench.output().ends_with(&expected(10..14)));
    let totals = Commit::load(&loss.bench.spool).totals;
    assert_eq!((totals.results, totals.quarantined, totals.torn), (14, 0, 0));
}

#[test]
fn what_the_lanes_have_lost_in_a_power_loss_is_counted_if_the_output_has_not_got_it() {
    for in_output in [false, true] {
        let loss = PowerLoss::new();
        // Frames that never reached the disk.
        let from = Commit::load(&loss.bench.spool).lanes[0].offset as usize;
        loss.bench.spool.map_ring(0, true).expect("ring").write(from, &[0; 100]);
        let mut left = expected(FIRST);
        if in_output {
            left += &expected(4..7);
        }
        loss.leave(left.as_bytes());
        loss.bench.drain(&mut loss.bench.sink()).expect("drained");
        assert_eq!(loss.bench.output(), left + &expected(7..10));
        let totals = Commit::load(&loss.bench.spool).totals;
        let lost = if in_output { 0 } else { 3 };
        assert_eq!((totals.results, totals.quarantined), (10 - lost, lost));
    }
}

#[test]
fn with_sync_always_room_is_given_only_once_the_commit_is_on_the_disk() {
    let bench = Bench::new(1);
    let mut writer: LaneWriter<'_> = bench.writer(0);
    publish(&mut writer, 0..2);
    let policy = Policy { sync: config::SyncPolicy::Always, ..policy() };
    let stop = Stop::new(|| {});
    stop.request();
    let freed = || bench.spool.consumer(0).freed.load(Ordering::Acquire);
    let write = |file: &mut crate::flow::sink::file::FileSink, bytes: &[u8]| {
        assert_eq!(freed(), 0, "written, not committed");
        file.write(Batch::of(bytes), 0)
    };
    let (file, write) = (bench.sink(), Box::new(write));
    let mut sink = super::tests::Faulty { file, write, syncs: 2, syncs_again: 0 };
    let sinks = Sinks { output: &mut sink, dead_letters: None };
    run(&bench.spool, sinks, policy, &stop, || {}).expect("drained");
    assert_eq!(freed(), Commit::load(&bench.spool).lanes[0].offset);
}
