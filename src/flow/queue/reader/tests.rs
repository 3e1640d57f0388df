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
