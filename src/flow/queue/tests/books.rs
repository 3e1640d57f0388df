//! What the books say exactly: after a power loss, with damage, and of the place in the list.

use super::super::commit::{CUT, Synced, Totals};
use super::super::jobs::Reason;
use super::super::reader::Stream;
use super::super::repair::{done_in, give_up_damaged, repair};
use super::*;
use crate::flow::sink::Position;

fn is_damaged(spool: &Spool) -> bool {
    spool.run().damaged.load(Ordering::Relaxed) != 0
}

/// Makes both commits unreadable.
fn damage_books(spool: &Spool) {
    for offset in spool.layout.commit {
        spool.mapping.write(offset + 16, b"garbage!");
    }
}

fn position(len: u64) -> Option<Position> {
    Some(Position { device: 1, inode: 2, len, synced: len / 2 })
}

/// Publishes a job that emits nothing and ends like this.
fn publish_end(spool: &Spool, writer: &mut LaneWriter<'_>, index: usize, kind: Kind) {
    fill(spool, index, 1 + index as u64);
    let job = claim(spool, OLD);
    let result_end = &slot(spool, job.slot).result_end;
    let finish = Finish { kind, seq: job.seq, round: job.round, result_end };
    writer.publish(&mut Staged::default(), Some(finish)).expect("room");
}

#[test]
fn after_a_power_loss_each_number_is_that_of_the_last_sync() {
    let (_directory, spool) = spool(2, 1);
    let numbers = |from: u64| [from, from + 1, from + 2, from + 3];
    let [results, dead_letters, jobs_done, jobs_failed] = numbers(10);
    let (quarantined, torn) = (14, 15);
    let totals = Totals { results, dead_letters, jobs_done, jobs_failed, quarantined, torn };
    let mark = |offset| Mark { offset, records: offset / 8 };
    let [results, dead_letters, jobs_done, jobs_failed] = numbers(1);
    let lanes = vec![mark(80), mark(160)];
    let synced = Synced { results, dead_letters, jobs_done, jobs_failed, lanes: lanes.clone() };
    let now = vec![mark(800), mark(1600)];
    let sinks = [position(100), position(200)];
    let books = Commit { totals, synced, lanes: now, sinks, ..Commit::initial(2) };
    for (lane, mark) in books.lanes.iter().enumerate() {
        spool.producer(lane).tail.store(mark.offset, Ordering::Release);
    }
    assert_eq!(books.clone().believed(&spool), books, "no power was lost");
    spool.run().boots.store(1, Ordering::Release);
    let believed = books.clone().believed(&spool);
    let expected = Totals { results, dead_letters, jobs_done, jobs_failed, quarantined, torn };
    assert_eq!(believed.totals, expected);
    assert_eq!(believed.lanes, lanes);
    assert_eq!(believed.sinks, [position(100), position(200)].map(|at| at.map(Position::at_sync)));
    // What the ring has no more is not believed to be there.
    spool.producer(1).tail.store(4096 + 1601, Ordering::Release);
    let oldest = Mark { offset: 1600, records: 20 };
    assert_eq!(books.believed(&spool).lanes, [mark(80), oldest]);
}

#[test]
#[cfg_attr(miri, ignore = "about the file")]
fn the_head_of_each_lane_and_the_last_number_are_those_of_the_newest_commit() {
    let (_directory, spool) = spool(3, 1);
    assert_eq!((Commit::generation(&spool), Commit::last_number(&spool, 7)), (0, 0));
    for generation in 1..=3 {
        let mark = |lane| Mark { offset: 100 * generation + lane, records: 10 * generation + lane };
        let lanes = (0..3).map(mark).collect();
        Commit { generation, lanes, boots: 2, ..Commit::initial(3) }.store(&spool);
        for lane in 0..3 {
            assert_eq!(Commit::load_head(&spool, lane), mark(lane as u64), "lane {lane}");
        }
        assert_eq!(Commit::generation(&spool), generation);
        assert_eq!(Commit::last_number(&spool, 7), (2 << 44) + generation);
        assert_eq!(Commit::last_number(&spool, 8), 0, "of another pipeline");
    }
}

#[test]
fn the_mark_of_a_cut_is_part_of_no_moment() {
    // Microseconds until the year 10,000.
    const { assert!(CUT > 253_402_300_800_000_000) };
}

#[test]
fn books_are_lost_if_something_was_committed_and_no_record_of_it_is_whole() {
    let (_directory, spool) = spool(1, 1);
    assert!(!Commit::is_lost(&spool), "never committed");
    books(1, 8).store(&spool);
    let sound = |generation: u64| spool.layout.commit[(generation % 2) as usize];
    spool.mapping.write(sound(1) + 16, b"garbage!");
    assert!(!Commit::is_lost(&spool), "a first commit that is half stored is none");
    books(2, 16).store(&spool);
    assert!(!Commit::is_lost(&spool), "one of the two is whole");
    spool.mapping.write(sound(2) + 16, b"garbage!");
    assert!(Commit::is_lost(&spool));
}

#[test]
fn a_repair_of_a_sound_spool_changes_nothing_and_speaks_of_no_damage() {
    let (_directory, spool) = spool(1, 3);
    repair(&spool, |_| {}).expect("repaired");
    assert_eq!(Commit::load(&spool), Commit::initial(1));
    fill(&spool, 0, 1);
    publish(&spool, &mut writer(&spool, 0), &claim(&spool, OLD), &[b"x\n"]);
    books(1, 0).store(&spool);
    repair(&spool, |_| {}).expect("repaired");
    give_up_damaged(&spool);
    assert_eq!(Commit::load(&spool), books(1, 0));
    assert!(Jobs(&spool).is_done(0) && !is_damaged(&spool));
}

#[test]
fn lost_books_are_made_of_what_was_freed_and_of_the_last_intent() {
    let sinks = [position(100), None];
    // Pending: behind what was freed; or not; or of a rotation, before which all was committed.
    for (intent_at, rotation) in [(None, 0), (Some(1600), 0), (Some(800), 0), (Some(1600), 9)] {
        let (_directory, spool) = spool(1, 1);
        spool.run().boots.store(3, Ordering::Relaxed);
        books(6, 800).store(&spool);
        books(7, 800).store(&spool);
        spool.consumer(0).freed.store(800, Ordering::Relaxed);
        spool.producer(0).tail.store(1600, Ordering::Relaxed);
        let place = ListPosition { round: 1, ended_before: Some(4), ..ListPosition::default() };
        place.store(&spool, 1);
        if let Some(offset) = intent_at {
            Commit { sinks, rotation, boots: 3, ..books(8, offset) }.store_intent(&spool);
        }
        damage_books(&spool);
        repair(&spool, |_| {}).expect("repaired");
        let restored = Commit::load(&spool);
        let expected = match (intent_at, rotation) {
            (None, _) => (1 << 40, [None, None], 800),
            (Some(1600), 0) => (7, sinks, 800),
            (Some(_), 0) => (8, [None, None], 800),
            _ => (8, [None, None], 1600),
        };
        let is = (restored.generation, restored.sinks, restored.lanes[0].offset);
        assert_eq!(is, expected, "an intent at {intent_at:?}, rotation {rotation}");
        assert_eq!(restored.boots, 2, "the power loss is still to be seen to");
        assert_eq!(ListPosition::saved(&spool).1.ended_before, None);
        assert!(is_damaged(&spool));
    }
}

#[test]
fn a_tail_that_can_not_be_right_is_moved_behind_jobs_that_have_emitted_nothing_as_well() {
    for kinds in [&[Kind::JobDone][..], &[Kind::JobFailed], &[Kind::JobDone, Kind::JobFailed]] {
        let (_directory, spool) = spool(1, 2);
        let mut writer = writer(&spool, 0);
        for (index, kind) in kinds.iter().enumerate() {
            publish_end(&spool, &mut writer, index, *kind);
        }
        let end = tail(&spool);
        spool.producer(0).tail.store(u64::MAX - 7, Ordering::Release);
        repair(&spool, |_| {}).expect("repaired");
        assert_eq!(tail(&spool), end, "{kinds:?}");
        assert!(is_damaged(&spool));
    }
}

#[test]
fn a_head_that_was_overwritten_long_ago_is_moved_by_a_commit_of_its_own() {
    let (_directory, spool) = spool(1, 1);
    spool.producer(0).tail.store(3 * 4096, Ordering::Release);
    spool.consumer(0).freed.store(3 * 4096, Ordering::Release);
    let lanes = vec![Mark { offset: 3 * 4096, records: 100 }];
    Commit { generation: 5, lanes, ..Commit::initial(1) }.store(&spool);
    let mut writer = writer(&spool, 0);
    publish_end(&spool, &mut writer, 0, Kind::JobDone);
    books(6, 8).store(&spool);
    repair(&spool, |_| {}).expect("repaired");
    assert_eq!(Commit::load(&spool).generation, 7);
    assert!(Commit::load(&spool).lanes[0].offset > 8);
}

#[test]
fn a_slot_in_no_state_of_ours_is_ready_again_and_that_is_damage() {
    let (_directory, spool) = spool(1, 2);
    fill(&spool, 0, 1);
    slot(&spool, 0).state.store(0xff, Ordering::Release);
    repair(&spool, |_| {}).expect("repaired");
    assert_eq!(Jobs(&spool).phase(0), Phase::Ready);
    assert!(is_damaged(&spool));
}

#[test]
fn a_job_that_is_not_what_the_source_wrote_is_damage_and_a_free_slot_is_none() {
    let (_directory, spool) = spool(1, 2);
    slot(&spool, 1).seq.store(99, Ordering::Relaxed);
    fill(&spool, 0, 1);
    give_up_damaged(&spool);
    assert!(!is_damaged(&spool));
    slot(&spool, 0).seq.store(99, Ordering::Relaxed);
    give_up_damaged(&spool);
    assert!(is_damaged(&spool));
    assert_eq!(claim(&spool, OLD).reason, Some(Reason::Damaged));
}

#[test]
fn jobs_whose_results_were_torn_are_those_that_end_in_the_range_and_not_before_it() {
    const NONE: [usize; 0] = [];
    let (_directory, spool) = spool(2, 4);
    let mut writer = writer(&spool, 0);
    let mut ends = vec![0];
    for index in 0..3 {
        publish_end(&spool, &mut writer, index, Kind::JobDone);
        ends.push(tail(&spool));
    }
    // In hand, with a `result_end` of an attempt that was never published.
    fill(&spool, 3, 4);
    let _claimed = claim(&spool, OLD);
    slot(&spool, 3).result_end.store(ends[3] + 8, Ordering::Release);
    let torn = |lane, from, to| done_in(&spool, Torn { lane, from, to }).collect::<Vec<_>>();
    assert_eq!(torn(0, ends[1], ends[2]), [1]);
    assert_eq!(torn(0, ends[0], ends[2]), [0, 1]);
    assert_eq!(torn(0, ends[1] + 1, ends[2] - 1), NONE);
    assert_eq!(torn(0, ends[2], ends[3] + 8), [2]);
    assert_eq!(torn(1, ends[0], ends[3]), NONE, "another lane's");
}

#[test]
fn the_place_of_a_slot_has_all_that_the_round_knows_and_a_saved_one_more() {
    let (_directory, spool) = spool(1, 2);
    let saved = ListPosition {
        round: 1,
        seq: 8,
        offset: 32,
        failed_before: 5,
        ended_before: Some(6),
        ..ListPosition::default()
    };
    saved.store(&spool, 1);
    fill(&spool, 0, 9);
    let furthest = ListPosition { seq: 9, offset: 36, prefix: 9, ..saved };
    assert_eq!(ListPosition::load(&spool), (1, furthest));
    // A job that the source has not written whole says nothing of the list.
    fill(&spool, 1, 10);
    slot(&spool, 1).offset.store(1, Ordering::Relaxed);
    assert_eq!(ListPosition::load(&spool), (1, furthest));
    // The end of the list was seen behind the last job that was handed out.
    let at_end = ListPosition { at_end: true, left: Some(0), ..furthest };
    at_end.store(&spool, 2);
    assert_eq!(ListPosition::load(&spool), (2, at_end));
}

#[test]
fn where_records_end_moves_with_what_is_put_before_them_or_taken_off() {
    let mut stream = Stream::default();
    stream.push(b"one\n");
    stream.push(b"three\n");
    stream.lead_with(b"header\n");
    assert_eq!(
        (&stream.bytes[..], &stream.ends[..]),
        (&b"header\none\nthree\n"[..], &[11, 17][..])
    );
    stream.behead(7);
    assert_eq!((&stream.bytes[..], &stream.ends[..]), (&b"one\nthree\n"[..], &[4, 10][..]));
}

#[test]
fn torn_jobs_side_by_side_are_one_torn_range() {
    let (_directory, spool) = spool(1, 4);
    let mut writer = writer(&spool, 0);
    let mut ends = vec![0];
    for index in 0..4 {
        fill(&spool, index, 1 + index as u64);
        publish(&spool, &mut writer, &claim(&spool, OLD), &[b"a record of some bytes\n"]);
        ends.push(tail(&spool));
    }
    let ring = spool.map_ring(0, true).expect("ring");
    for torn in [1, 2] {
        ring.write(ends[torn] as usize + HEAD, b"?");
    }
    let gathered = read(&spool, &mut Mark::default());
    assert_eq!(gathered.torn, [Torn { lane: 0, from: ends[1], to: ends[3] }]);
    assert_eq!((gathered.jobs_done, gathered.lost), (2, 2));
}

#[test]
fn a_place_in_the_list_is_lost_if_it_was_saved_again_and_no_record_of_it_is_whole() {
    let (_directory, spool) = spool(1, 1);
    let place = |seq| ListPosition { seq, offset: seq, ..ListPosition::default() };
    let damage = |spool: &Spool| {
        for offset in spool.layout.position {
            let [byte] = spool.mapping.read::<1>(offset + 20);
            // Two bits: one would be put right.
            spool.mapping.write(offset + 20, &[byte ^ 3]);
        }
    };
    assert!(!ListPosition::is_lost(&spool), "there was none");
    place(0).store(&spool, 1);
    assert!(!ListPosition::is_lost(&spool));
    damage(&spool);
    assert!(!ListPosition::is_lost(&spool), "of the first save only the beginning is lost");
    damage(&spool);
    place(1).store(&spool, 2);
    assert!(!ListPosition::is_lost(&spool));
    damage(&spool);
    assert!(ListPosition::is_lost(&spool));
}
