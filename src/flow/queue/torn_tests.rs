//! Promises about damage: what is torn costs the job that it belongs to and no other, and that one is
//! run again.

use super::commit::Commit;
use super::frame::{Kind, size};
use super::jobs::{Claim, Claimed, Claimer, Jobs, NO_RESULT, NewJob, Phase};
use super::lane::{Finish, LaneWriter, Staged};
use super::layout::Geometry;
use super::reader::{Gathered, LaneReader, Mark, survey};
use super::repair::repair;
use super::spool::Spool;
use crate::sys::atomic::{AtomicU64, Ordering};
use std::convert::Infallible;

const LANE: usize = 4096;
const JOBS: u64 = 4;
const BY: Claimer = Claimer { lane: 0, incarnation: 1 };

fn spool() -> (tempfile::TempDir, Spool) {
    let directory = tempfile::tempdir().expect("temp dir");
    let geometry = Geometry { lanes: 1, lane_bytes: LANE as u64, slots: 8, job_bytes: 64 };
    let spool =
        Spool::create(&directory.path().join("spool"), geometry, 7, None, |_| {}).expect("spool");
    (directory, spool)
}

fn record(job: u64, part: u64) -> String {
    format!("job {job} part {part}\n")
}

fn staged(records: &[String]) -> Staged {
    let mut staged = Staged::default();
    for record in records {
        let Ok(()) = staged.push(Kind::Result, |bytes| {
            bytes.extend_from_slice(record.as_bytes());
            Ok::<(), Infallible>(())
        });
    }
    staged
}

/// Hands out jobs and publishes the results of each, two records.
fn with_jobs() -> (tempfile::TempDir, Spool) {
    let (directory, spool) = spool();
    // So that frames go on over the end of the ring.
    start_at(&spool, 3 * LANE as u64 - 200);
    let mut writer = LaneWriter::open(&spool, 0, 100).expect("ring");
    for seq in 1..=JOBS {
        let job =
            NewJob { text: b"job", seq, round: 1, offset: 4 * seq, prefix: seq, reason: None };
        Jobs(&spool).fill(seq as usize - 1, &job);
        let mut job = Claimed::default();
        assert_eq!(Jobs(&spool).claim(BY, &mut job), Claim::Job);
        let jobs = Jobs(&spool);
        let result_end = jobs.result_end(&job);
        let finish = Finish { kind: Kind::JobDone, seq, round: 1, result_end };
        writer.publish(&mut staged(&[record(seq, 1), record(seq, 2)]), Some(finish)).expect("room");
    }
    (directory, spool)
}

/// As after so many bytes of earlier laps, with 100 records in them.
fn start_at(spool: &Spool, offset: u64) {
    spool.producer(0).tail.store(offset, Ordering::Release);
    spool.consumer(0).freed.store(offset, Ordering::Release);
    let lanes = vec![Mark { offset, records: 100 }];
    Commit { generation: 2, lanes, ..Commit::initial(1) }.store(spool);
}

fn bytes(spool: &Spool) -> Vec<u8> {
    let mut bytes = Vec::new();
    spool.mapping.append_to(0, spool.layout.total, &mut bytes);
    bytes
}

fn tail(spool: &Spool) -> u64 {
    spool.producer(0).tail.load(Ordering::Acquire)
}

fn head(spool: &Spool) -> Mark {
    Commit::load(spool).lanes[0]
}

fn flip(spool: &Spool, offset: u64, bits: u8) {
    let ring = spool.map_ring(0, true).expect("ring");
    let place = (offset % LANE as u64) as usize;
    let [byte] = ring.read::<1>(place);
    ring.write(place, &[byte ^ bits]);
}

fn gather(spool: &Spool) -> (Gathered, Mark) {
    let (mut mark, mut gathered) = (head(spool), Gathered::default());
    let reader = LaneReader::open(spool, 0).expect("ring");
    reader.gather(&mut mark, tail(spool), usize::MAX, &mut gathered);
    (gathered, mark)
}

/// The jobs of which both records were gathered, in order and with nothing else between them.
fn whole_jobs(gathered: &Gathered) -> Vec<u64> {
    let jobs: Vec<u64> = (1..=JOBS)
        .filter(|job| {
            let text = String::from_utf8_lossy(&gathered.results.bytes).into_owned();
            text.contains(&format!("{}{}", record(*job, 1), record(*job, 2)))
        })
        .collect();
    assert_eq!(gathered.result_records, 2 * jobs.len() as u64, "no job in parts");
    assert_eq!(gathered.jobs_done, jobs.len() as u64);
    let expected: String = jobs.iter().map(|job| record(*job, 1) + &record(*job, 2)).collect();
    assert_eq!(gathered.results.bytes, expected.as_bytes());
    jobs
}

/// Jobs that a start finds done, and those that it makes ready again.
fn after_repair(spool: &Spool) -> (Vec<u64>, Vec<u64>) {
    repair(spool, |_| {}).expect("repaired");
    let jobs = Jobs(spool);
    let (mut done, mut ready) = (Vec::new(), Vec::new());
    for (index, seq) in (1..=JOBS).enumerate() {
        match jobs.phase(index) {
            Phase::Ready => ready.push(seq),
            _ if jobs.is_done(index) => done.push(seq),
            phase => panic!("job {seq}: {phase:?}"),
        }
    }
    (done, ready)
}

#[test]
fn any_flipped_bit_costs_one_job_which_is_run_again_and_no_other() {
    let (_directory, spool) = with_jobs();
    let (begin, end) = (head(&spool).offset, tail(&spool));
    let job_bytes = (end - begin) / JOBS;
    let (mut torn, mut unharmed) = (0, 0);
    let sound = bytes(&spool);
    for bit in 0..8 * (end - begin) {
        spool.mapping.write(0, &sound);
        let (at, hit) = (begin + bit / 8, bit / 8 / job_bytes + 1);
        flip(&spool, at, 1 << (bit % 8));
        let (gathered, mark) = gather(&spool);
        let whole = whole_jobs(&gathered);
        assert_eq!(mark.offset, end, "the way is found again");
        if whole.len() as u64 == JOBS {
            // Padding.
            unharmed += 1;
            assert!(gathered.torn.is_empty());
            continue;
        }
        torn += 1;
        let others: Vec<u64> = (1..=JOBS).filter(|job| *job != hit).collect();
        assert_eq!(whole, others, "byte {}", bit / 8);
        // Behind the last one nobody says how many there were.
        assert_eq!(gathered.lost, if hit == JOBS { 0 } else { 2 });
        let [range] = gathered.torn[..] else { panic!("{:?}", gathered.torn) };
        assert!((range.from..range.to).contains(&at) && range.to - range.from == job_bytes);
        for _again in 0..2 {
            assert_eq!(after_repair(&spool), (others.clone(), vec![hit]));
        }
        let (again, _) = gather(&spool);
        assert_eq!(
            again.results.bytes, gathered.results.bytes,
            "a start skips what the buffer will skip"
        );
    }
    assert!(torn > 10 * unharmed, "{torn} torn, {unharmed} unharmed");
}

#[test]
fn what_is_published_behind_torn_bytes_is_read_and_its_numbers_tell_what_is_lost() {
    let (_directory, spool) = with_jobs();
    let begin = head(&spool).offset;
    // The end of the last job: nobody behind it tells.
    flip(&spool, tail(&spool) - 10, 1);
    let before = tail(&spool);
    let (gathered, mark) = gather(&spool);
    assert_eq!((whole_jobs(&gathered), gathered.lost), (vec![1, 2, 3], 0));
    assert_eq!((mark.offset, mark.records), (before, 106));
    // The worker that still lives goes on with its own count.
    let mut writer = LaneWriter::open(&spool, 0, 108).expect("ring");
    writer.publish(&mut staged(&[record(9, 1)]), None).expect("room");
    let reader = LaneReader::open(&spool, 0).expect("ring");
    let (mut mark, mut more) = (mark, Gathered::default());
    reader.gather(&mut mark, tail(&spool), usize::MAX, &mut more);
    assert_eq!((more.results.bytes, more.lost), (record(9, 1).into_bytes(), 2));
    // Whoever reads all of it at once skips the same.
    let (mut mark, mut all) = (Mark { offset: begin, records: 100 }, Gathered::default());
    reader.gather(&mut mark, tail(&spool), usize::MAX, &mut all);
    assert_eq!((all.lost, all.torn.len(), all.result_records), (2, 1, 7));
}

#[test]
fn a_record_that_belongs_to_no_job_is_lost_alone() {
    for hit in 0..5 {
        let (_directory, spool) = spool();
        let mut writer = LaneWriter::open(&spool, 0, 0).expect("ring");
        for number in 0..5 {
            writer.publish(&mut staged(&[record(number, 0)]), None).expect("room");
        }
        let size = tail(&spool) / 5;
        flip(&spool, size * hit + 30, 1);
        let (gathered, _) = gather(&spool);
        let expected: String =
            (0..5).filter(|number| *number != hit).map(|number| record(number, 0)).collect();
        assert_eq!(gathered.results.bytes, expected.as_bytes());
        assert_eq!(gathered.lost, i64::from(hit < 4));
    }
}

#[test]
fn zeroes_garbage_and_older_bytes_anywhere_leave_whole_jobs_and_an_end() {
    let mut seed = 1u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let (_directory, spool) = with_jobs();
    let (begin, end) = (head(&spool).offset, tail(&spool));
    let sound = bytes(&spool);
    for _ in 0..2000 {
        spool.mapping.write(0, &sound);
        let ring = spool.map_ring(0, true).expect("ring");
        let from = begin + random(end - begin);
        let len = 1 + random(end - from);
        let other = random(LANE as u64) as usize;
        for at in 0..len {
            let byte = match random(3) {
                0 => [0],
                1 => [random(256) as u8],
                // A frame of somewhere else.
                _ => ring.read::<1>((other + at as usize) % LANE),
            };
            ring.write(((from + at) % LANE as u64) as usize, &byte);
        }
        let (gathered, mark) = gather(&spool);
        let whole = whole_jobs(&gathered);
        assert_eq!(mark.offset, end);
        let (done, ready) = after_repair(&spool);
        assert_eq!(done, whole, "done is what is read, and nothing else");
        assert_eq!(done.len() + ready.len(), JOBS as usize);
    }
}

#[test]
fn a_tail_that_no_worker_has_stored_is_moved_to_where_jobs_end() {
    let (_directory, sound) = with_jobs();
    let (begin, end) = (head(&sound).offset, tail(&sound));
    for broken in [0, begin - 8, begin + LANE as u64 + 8, end + (1 << 40), u64::MAX] {
        let (_directory, spool) = with_jobs();
        spool.producer(0).tail.store(broken, Ordering::Release);
        let reader = LaneReader::open(&spool, 0).expect("ring");
        assert!(!reader.is_sane(head(&spool), broken));
        assert_eq!(after_repair(&spool), (vec![1, 2, 3, 4], vec![]));
        assert_eq!((tail(&spool), head(&spool).offset), (end, begin), "from {broken}");
        assert_eq!(whole_jobs(&gather(&spool).0), [1, 2, 3, 4]);
    }
}

#[test]
fn a_commit_that_is_older_than_all_that_the_ring_holds_costs_what_was_overwritten() {
    let (_directory, spool) = with_jobs();
    let end = tail(&spool);
    // As after a power loss: the books of two laps ago, the tail of today.
    let lanes = vec![Mark { offset: end - 2 * LANE as u64 - 8, records: 20 }];
    Commit { generation: 5, lanes, ..Commit::initial(1) }.store(&spool);
    assert_eq!(after_repair(&spool), (vec![1, 2, 3, 4], vec![]));
    let (gathered, mark) = gather(&spool);
    assert_eq!(whole_jobs(&gathered), [1, 2, 3, 4]);
    assert_eq!((mark.offset, gathered.lost), (end, 80));
}

#[test]
fn with_both_commits_damaged_what_was_not_freed_is_gone_on_with() {
    let (_directory, spool) = with_jobs();
    let before = head(&spool);
    for offset in spool.layout.commit {
        spool.mapping.write(offset + 16, b"garbage!");
    }
    assert!(Commit::is_lost(&spool));
    assert_eq!(after_repair(&spool), (vec![1, 2, 3, 4], vec![]));
    assert_eq!(head(&spool), before);
    assert_eq!(whole_jobs(&gather(&spool).0), [1, 2, 3, 4]);
}

#[test]
fn a_slot_that_is_not_what_the_source_wrote_fails_and_says_why() {
    let (_directory, spool) = spool();
    let text = b"ping example.org";
    let job = NewJob { text, seq: 1, round: 1, offset: 17, prefix: 9, reason: None };
    Jobs(&spool).fill(0, &job);
    assert!(Jobs(&spool).is_sound(0));
    // A text of the slot's earlier life, as after a power loss.
    spool.mapping.write(spool.layout.payloads, b"kill");
    assert!(!Jobs(&spool).is_sound(0));
    let mut job = Claimed::default();
    assert_eq!(Jobs(&spool).claim(BY, &mut job), Claim::Job);
    assert_eq!(job.reason, Some(super::jobs::Reason::Damaged));
}

#[test]
fn a_survey_and_the_buffer_count_alike() {
    let (_directory, spool) = with_jobs();
    flip(&spool, head(&spool).offset + 40, 4);
    let found = survey(&spool, 0, head(&spool)).expect("ring");
    let (gathered, mark) = gather(&spool);
    assert_eq!((found.end, found.torn), (mark, gathered.torn));
}

#[test]
fn a_tail_between_two_frames_steps_is_no_tail_and_what_is_published_next_is_read() {
    for off in 1..8 {
        let (_directory, spool) = with_jobs();
        let end = tail(&spool);
        spool.producer(0).tail.store(end + off, Ordering::Release);
        assert_eq!(after_repair(&spool), (vec![1, 2, 3, 4], vec![]));
        assert_eq!(tail(&spool), end);
    }
}

#[test]
fn a_lane_with_nothing_in_it_outlives_any_tail() {
    for broken in [1, 8, 4095, 1 << 63, u64::MAX - 7, u64::MAX] {
        let (_directory, spool) = spool();
        start_at(&spool, 2400);
        spool.producer(0).tail.store(broken, Ordering::Release);
        repair(&spool, |_| {}).expect("repaired");
        assert_eq!((tail(&spool), head(&spool).offset), (2400, 2400), "from {broken}");
    }
}

#[test]
fn records_torn_at_the_end_of_a_lane_are_counted_by_what_is_published_next() {
    let (_directory, spool) = with_jobs();
    let end = tail(&spool);
    flip(&spool, end - 10, 1);
    repair(&spool, |_| {}).expect("repaired");
    let found = survey(&spool, 0, head(&spool)).expect("ring");
    assert_eq!((found.end.records, found.records), (106, 108));
    let mut writer = LaneWriter::open(&spool, 0, found.records).expect("ring");
    writer.publish(&mut staged(&[record(9, 1)]), None).expect("room");
    assert_eq!(gather(&spool).0.lost, 2);
}

/// As after a power loss that has left the tail in the middle of a job, between two of its frames.
#[test]
fn what_is_published_behind_a_part_of_a_job_is_read_by_whoever_comes_later_as_well() {
    let (_directory, spool) = with_jobs();
    let (begin, end) = (head(&spool).offset, tail(&spool));
    let job_bytes = (end - begin) / JOBS;
    let record_bytes = size(record(1, 1).len()) as u64;
    for records_left in [1, 2] {
        let (_directory, spool) = with_jobs();
        let part = end - job_bytes + records_left * record_bytes;
        spool.producer(0).tail.store(part, Ordering::Release);
        assert_eq!(after_repair(&spool), (vec![1, 2, 3], vec![4]));
        let found = survey(&spool, 0, head(&spool)).expect("ring");
        assert_eq!((found.end.offset, found.torn.len()), (part, 1));
        let mut writer = LaneWriter::open(&spool, 0, found.records).expect("ring");
        let result_end = AtomicU64::new(NO_RESULT);
        let finish = Finish { kind: Kind::JobDone, seq: 4, round: 1, result_end: &result_end };
        writer.publish(&mut staged(&[record(4, 1), record(4, 2)]), Some(finish)).expect("room");
        let (gathered, mark) = gather(&spool);
        assert_eq!(whole_jobs(&gathered), [1, 2, 3, 4], "{records_left} records are left");
        assert_eq!(mark.offset, part + job_bytes);
        assert_eq!(gathered.torn, found.torn, "skipped is what was skipped before");
    }
}
