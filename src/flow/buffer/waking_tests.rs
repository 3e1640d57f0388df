//! Promises of the buffer about who sleeps: whoever waits for room is woken once there is some.

use super::tests::{Bench, expected, policy, publish};
use super::*;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

/// Longer than anything here takes, however busy the machine is.
const WATCHDOG: Duration = Duration::from_secs(20);

/// Both wait most of the time, and often one commit gives room to both.
#[test]
fn two_workers_whose_lanes_are_full_both_go_on_whenever_there_is_room() {
    const JOBS: u32 = 600;
    const RECORDS: u32 = 60;
    let bench = Arc::new(Bench::new(2));
    let stop = Stop::new(|| {});
    let (used, stopper) = (Arc::clone(&bench), stop.clone());
    // Threads that are not waited for if one of them is stuck.
    let buffer = thread::spawn(move || {
        let mut file = used.sink();
        let sinks = Sinks { output: &mut file, dead_letters: None };
        run(&used.spool, sinks, policy(), &stop, || {}).expect("drained");
    });
    let workers = [0, 1].map(|lane| {
        let bench = Arc::clone(&bench);
        thread::spawn(move || {
            let mut writer = bench.writer(lane);
            (0..JOBS).for_each(|_| publish(&mut writer, 0..RECORDS));
        })
    });
    let (mut seen, mut since) = ([0; 2], Instant::now());
    while !workers.iter().all(thread::JoinHandle::is_finished) {
        let tails = [0, 1].map(|lane| ends::tail(bench.spool.producer(lane)));
        if tails != seen {
            (seen, since) = (tails, Instant::now());
        }
        assert!(since.elapsed() < WATCHDOG, "a worker that waits for room is not woken: {tails:?}");
        thread::yield_now();
    }
    stopper.request();
    bell::ring_for_sure(&bench.spool.bells().buffer);
    buffer.join().expect("no panic");
    assert_eq!(bench.output().len(), 2 * JOBS as usize * expected(0..RECORDS).len());
}

/// The lane is full to the last byte: what is published next would be written over its first frame.
#[test]
fn a_worker_whose_lane_has_room_for_all_but_one_frame_waits_and_goes_on_with_that_room() {
    let bench = Arc::new(Bench::new(1));
    let capacity = bench.spool.layout.geometry.lane_bytes;
    let used = Arc::clone(&bench);
    let worker = thread::spawn(move || {
        let mut writer = used.writer(0);
        // Ends of jobs, of 48 bytes each, and at last one more than there is room for.
        (0..=capacity / 48).for_each(|_| publish(&mut writer, 0..0));
    });
    let (producer, consumer) = (bench.spool.producer(0), bench.spool.consumer(0));
    let full = capacity / 48 * 48;
    let since = Instant::now();
    while producer.waiting_for.load(Ordering::Acquire) == 0 && ends::tail(producer) <= full {
        assert!(since.elapsed() < WATCHDOG, "it neither waits nor goes on");
        thread::yield_now();
    }
    assert_eq!(ends::tail(producer), full, "written over what is not freed");
    ends::free(consumer, 48);
    while !worker.is_finished() {
        bell::ring(bench.spool.lane_bell(0));
        assert!(since.elapsed() < 2 * WATCHDOG, "it does not see that there is room");
        thread::yield_now();
    }
    assert_eq!(ends::tail(producer), full + 48);
}
