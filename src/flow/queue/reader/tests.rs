//! Promises of the window through which a lane is read.

use super::*;
use crate::flow::queue::frame::of;
use crate::flow::queue::layout::Geometry;

const LANE: u64 = 4096;

fn spool() -> (tempfile::TempDir, Spool) {
    let directory = tempfile::tempdir().expect("temp dir");
    let geometry = Geometry { lanes: 1, lane_bytes: LANE, slots: 1, job_bytes: 64 };
    let path = directory.path().join("spool");
    let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
    (directory, spool)
}

/// Behind the tail a worker may be writing at this moment.
#[test]
fn nothing_behind_the_tail_is_copied_out() {
    let (_directory, spool) = spool();
    let reader = LaneReader::open(&spool, 0).expect("ring");
    for begin in [0, 8, LANE - 8, 3 * LANE - 800] {
        for until in (begin..=begin + LANE).step_by(8) {
            let mut window = Window::default();
            let head = reader.copied(begin, until, HEAD, &mut window);
            assert_eq!(head.is_some(), until - begin >= HEAD as u64, "{begin}..{until}");
            let copied = window.bytes.len() as u64;
            assert!(copied <= until - begin, "{copied} bytes of {begin}..{until}");
        }
    }
}

/// Whatever was looked at before: the same bytes as those in the lane.
#[test]
fn a_window_has_the_bytes_of_the_lane_wherever_it_was_before() {
    let (_directory, spool) = spool();
    let ring = spool.map_ring(0, true).expect("ring");
    let bytes: Vec<u8> = (0..LANE).map(|at| (at / 8 * 37 + at) as u8).collect();
    ring.write(0, &bytes);
    let reader = LaneReader::open(&spool, 0).expect("ring");
    let mut window = Window::default();
    let mut dice = 1_u64;
    for round in 0..5000 {
        // The beginning of a lane is where a window begins that was never filled.
        let from = if round < 2500 { 0 } else { 5 * LANE + 1000 };
        let until = from + LANE;
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = from + (dice >> 33) % (LANE / 8) * 8;
        let len = (dice >> 50) as usize % 600;
        // In part of the rounds no more than this is there yet.
        let until = if round % 3 == 0 { until.min(offset + 700) } else { until };
        // What an earlier round has copied out may lie behind the end of this one.
        if window.begin + window.bytes.len() as u64 > until {
            window = Window::default();
        }
        let expected = (offset + len as u64 <= until)
            .then(|| (0..len as u64).map(|at| bytes[((offset + at) % LANE) as usize]).collect());
        let copied = reader.copied(offset, until, len, &mut window).map(<[u8]>::to_vec);
        assert_eq!(copied, expected, "round {round}: {len} bytes at {offset} up to {until}");
    }
}

/// What fits its checksums and reaches beyond the tail was never published.
#[test]
fn a_unit_that_ends_behind_the_tail_is_none() {
    let (_directory, spool) = spool();
    let ring = spool.map_ring(0, true).expect("ring");
    let reader = LaneReader::open(&spool, 0).expect("ring");
    let alone = of(Kind::Alone, 0, 1, &[7; 100]);
    let mut job = of(Kind::Result, 0, 1, &[7; 100]);
    let end = JobEnd { seq: 1, round: 1, begin: 0 }.to_bytes();
    job.extend(of(Kind::JobDone, job.len() as u64, 1, &end));
    for unit in [alone, job] {
        ring.write(0, &unit);
        for until in (8..=unit.len() as u64).step_by(8) {
            let (mut mark, mut gathered) = (Mark::default(), Gathered::default());
            reader.gather(&mut mark, until, usize::MAX, &mut gathered);
            let whole = until == unit.len() as u64;
            assert_eq!(gathered.result_records, u64::from(whole), "up to {until}");
            assert_eq!(mark.offset, until, "torn or read");
        }
    }
}

/// A lane with these bytes at its beginning, read up to their end.
fn read(spool: &Spool, lane: &[u8]) -> Gathered {
    spool.map_ring(0, true).expect("ring").write(0, lane);
    let reader = LaneReader::open(spool, 0).expect("ring");
    let (mut mark, mut gathered) = (Mark::default(), Gathered::default());
    reader.gather(&mut mark, lane.len() as u64, usize::MAX, &mut gathered);
    assert_eq!(mark.offset, lane.len() as u64, "all of it is read or torn");
    gathered
}

/// A frame behind those that are there, and where it ends.
fn append(lane: &mut Vec<u8>, kind: Kind, records: u64, payload: &[u8]) -> u64 {
    lane.extend(of(kind, lane.len() as u64, records, payload));
    lane.len() as u64
}

fn end_of_job(begin: u64) -> [u8; JobEnd::BYTES] {
    JobEnd { seq: 1, round: 1, begin }.to_bytes()
}

/// A broken worker can give its frames any number, with the right checksum: what it counts wrong
/// must not become millions of lost records in the books.
#[test]
fn a_frame_that_counts_more_records_than_fit_before_it_is_torn() {
    // The first frame takes 32 bytes: one of no length would have fitted in before, and a rest.
    let most = 32 / HEAD as u64 + 1;
    for (counts, is_read) in [(2, true), (most, true), (most + 1, false), (u64::MAX, false)] {
        let (_directory, spool) = spool();
        let mut lane = Vec::new();
        let from = append(&mut lane, Kind::Alone, 1, b"first\n");
        let to = append(&mut lane, Kind::Alone, counts, b"second\n");
        append(&mut lane, Kind::Alone, 3, b"third\n");
        let gathered = read(&spool, &lane);
        let (expected, torn) = match is_read {
            true => ("first\nsecond\nthird\n", vec![]),
            false => ("first\nthird\n", vec![Torn { lane: 0, from, to }]),
        };
        assert_eq!(gathered.results.bytes, expected.as_bytes(), "counts {counts}");
        assert_eq!(gathered.torn, torn, "counts {counts}");
        assert_eq!(gathered.lost, i64::from(!is_read), "counts {counts}");
    }
}

/// As a worker leaves it that dies, and whose successor begins in the wrong place.
#[test]
fn a_job_begins_where_its_end_says_and_frames_before_that_are_none_of_it() {
    for (begin, expected, torn, lost) in [
        (0, "stray\nwhole\n", 0, 0),
        (32, "whole\n", 32, 1),
        (64, "", 64, 2),
        // No frame begins there, or none of this job.
        (8, "", 112, 0),
        (1 << 40, "", 112, 0),
    ] {
        let (_directory, spool) = spool();
        let mut lane = Vec::new();
        append(&mut lane, Kind::Result, 1, b"stray\n");
        append(&mut lane, Kind::Result, 2, b"whole\n");
        let end = append(&mut lane, Kind::JobDone, 2, &end_of_job(begin));
        assert_eq!(end, 112);
        let gathered = read(&spool, &lane);
        assert_eq!(gathered.results.bytes, expected.as_bytes(), "begun at {begin}");
        let to = gathered.torn.iter().map(|range| range.to - range.from).sum::<u64>();
        assert_eq!(to, torn, "begun at {begin}: {:?}", gathered.torn);
        assert_eq!(gathered.jobs_done, u64::from(torn < end), "begun at {begin}");
        assert_eq!(gathered.lost, lost, "begun at {begin}");
    }
}

/// What a job writes may be anything, such as the bytes of a frame for just that place.
#[test]
fn a_whole_record_in_the_rest_of_a_torn_job_is_not_searched_for_units() {
    let (_directory, spool) = spool();
    let mut lane = Vec::new();
    let place = append(&mut lane, Kind::Result, 1, b"torn\n") + HEAD as u64;
    append(&mut lane, Kind::Result, 2, &of(Kind::Alone, place, 2, b"forged\n"));
    let to = append(&mut lane, Kind::JobDone, 2, &end_of_job(0));
    let end = append(&mut lane, Kind::Alone, 3, b"behind\n");
    lane[HEAD] = b'T';
    let gathered = read(&spool, &lane);
    assert_eq!(gathered.results.bytes, b"behind\n");
    assert_eq!(gathered.torn, [Torn { lane: 0, from: 0, to }]);
    assert_eq!((gathered.lost, gathered.jobs_done), (2, 0));
    // Found where it is, it would have been believed.
    let reader = LaneReader::open(&spool, 0).expect("ring");
    assert!(reader.frame(place, end, &mut Window::default()).is_some());
}

/// Each of them says that its frame reaches up to the end: to believe all of them would take hours in a
/// large lane.
#[test]
fn forged_heads_are_summed_up_only_so_often() {
    let (_directory, spool) = spool();
    let found = |heads: usize, beyond: bool| {
        let last = of(Kind::Alone, LANE - 32, 0, b"unforged");
        assert_eq!(last.len(), 32);
        let mut lane = Vec::new();
        for number in 0..heads {
            let begin = number * HEAD;
            let end = if beyond { LANE as usize + 2 * begin } else { LANE as usize };
            let forged = of(Kind::Result, begin as u64, 0, &vec![0; end - begin - HEAD]);
            lane.extend_from_slice(&forged[..HEAD]);
        }
        lane.resize(LANE as usize - last.len(), 0);
        lane.extend_from_slice(&last);
        let gathered = read(&spool, &lane);
        assert_eq!(gathered.torn.len(), 1);
        (gathered.result_records, gathered.torn[0].to)
    };
    assert_eq!(found(5, false), (1, LANE - 32));
    assert_eq!(found(100, false), (0, LANE), "it has been given up");
    // What would end behind the tail is not summed up at all.
    assert_eq!(found(100, true), (1, LANE - 32));
}

/// Its writer has counted them, or had it been killed just then, so many more as a job has.
#[test]
fn records_torn_at_the_end_are_as_many_as_their_writer_counts_if_there_is_room_for_so_many() {
    let (_directory, spool) = spool();
    let mut lane = Vec::new();
    let torn_from = append(&mut lane, Kind::Alone, 1, &[7; 40]) as usize;
    lane.resize(torn_from + 10 * HEAD, 0);
    spool.map_ring(0, true).expect("ring").write(0, &lane);
    spool.producer(0).tail.store(lane.len() as u64, Ordering::Relaxed);
    for (counted, records) in [(0, 1), (1, 1), (2, 2), (10, 10), (11, 11), (12, 1), (u64::MAX, 1)] {
        spool.producer(0).published.store(counted, Ordering::Relaxed);
        let survey = survey(&spool, 0, Mark::default()).expect("a ring");
        assert_eq!(survey.torn.len(), 1);
        assert_eq!((survey.end.offset, survey.end.records), (lane.len() as u64, 1));
        assert_eq!(survey.records, records, "{counted} are counted");
    }
}

#[test]
fn a_record_that_belongs_to_no_job_is_part_of_none() {
    let (_directory, spool) = spool();
    let mut lane = Vec::new();
    append(&mut lane, Kind::Result, 1, b"of a job");
    let alone = lane.len() as u64;
    let behind = append(&mut lane, Kind::Alone, 2, b"alone");
    append(&mut lane, Kind::Result, 3, b"of a job");
    append(&mut lane, Kind::JobDone, 3, &end_of_job(0));
    let gathered = read(&spool, &lane);
    assert_eq!(gathered.results.bytes, b"alone");
    assert_eq!((gathered.jobs_done, gathered.torn.len()), (0, 2));
    assert_eq!((gathered.torn[0].to, gathered.torn[1].from), (alone, behind));
}
