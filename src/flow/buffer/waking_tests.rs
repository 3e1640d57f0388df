//! Promises of the buffer about who sleeps: whoever waits for room is woken once there is some.

use super::tests::{Bench, expected, policy, publish};
use super::*;
use std::time::Instant;

/// Longer than anything here takes, however busy the machine is.
const WATCHDOG: Duration = Duration::from_secs(20);

/// Both wait most of the time, and often one commit gives room to both.
#[test]
fn two_workers_whose_lanes_are_full_both_go_on_whenever_there_is_room() {
    const JOBS: u32 = 600;
    const RECORDS: u32 = 60;
    let bench = Bench::new(2);
    let stop = Stop::new(|| {});
    let (spool, stopper) = (&bench.spool, stop.clone());
    let stuck = std::thread::scope(|scope| {
        let buffer = scope.spawn(|| {
            let mut file = bench.sink();
            let sinks = Sinks { output: &mut file, dead_letters: None };
            run(spool, sinks, policy(), &stop, || {})
        });
        let work = |lane| {
            let mut writer = bench.writer(lane);
            (0..JOBS).for_each(|_| publish(&mut writer, 0..RECORDS));
        };
        let workers = [0, 1].map(|lane| scope.spawn(move || work(lane)));
        let (mut seen, mut since, mut stuck) = ([0; 2], Instant::now(), false);
        while !workers.iter().all(|worker| worker.is_finished()) {
            let tails = [0, 1].map(|lane| ends::tail(spool.producer(lane)));
            if tails != seen {
                (seen, since) = (tails, Instant::now());
            }
            if since.elapsed() > WATCHDOG {
                // So that the test has an end.
                stuck = true;
                (0..2).for_each(|lane| bell::ring_for_sure(spool.lane_bell(lane)));
                bell::ring_for_sure(&spool.bells().buffer);
            }
            std::thread::yield_now();
        }
        stopper.request();
        bell::ring_for_sure(&spool.bells().buffer);
        buffer.join().expect("no panic").expect("drained");
        stuck
    });
    assert!(!stuck, "a worker that waited for room was not woken");
    let written = bench.output().len();
    assert_eq!(written, 2 * JOBS as usize * expected(0..RECORDS).len());
}
