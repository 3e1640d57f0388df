//! The job table: a claim, a look, a settled slot.

use crate::queue::jobs::{Claim, Claimed, Claimer, Jobs, NewJob, Phase};
use crate::queue::settle::settle;
use crate::queue::spool::Spool;
use crate::sys::atomic::{Ordering, Weakness};
use crate::{holds_but_not_with, sys};
use loom::sync::Arc;
use loom::thread;

const fn by(lane: u16) -> Claimer {
    Claimer { lane, incarnation: 1 }
}

fn spool(lanes: usize, slots: u32) -> Arc<Spool> {
    let spool = Arc::new(Spool::new(lanes, slots));
    sys::futex::prepare(&spool.bells().jobs);
    sys::futex::prepare(&spool.bells().source);
    spool
}

fn fill(spool: &Spool, index: usize, seq: u64, text: [u8; 4]) {
    let job = NewJob { text: &text, seq, round: 1, offset: seq, prefix: seq, reason: None };
    Jobs(spool).fill(index, &job);
}

fn claim(spool: &Spool, by: Claimer) -> Option<Claimed> {
    let mut job = Claimed::default();
    (Jobs(spool).claim(by, &mut job) == Claim::Job).then_some(job)
}

/// As the buffer does once it has committed.
fn commit(spool: &Spool, lane: usize) {
    let tail = spool.producer(lane).tail.load(Ordering::Acquire);
    spool.consumer(lane).freed.store(tail, Ordering::Release);
}

/// As `LaneWriter::publish` ends a job.
fn publish(spool: &Spool, lane: usize, slot: usize, end: u64) {
    Jobs(spool).slot(slot).result_end.store(end, Ordering::Release);
    spool.producer(lane).tail.store(end, Ordering::Release);
}

#[test]
fn who_claims_a_job_reads_it_whole_and_nobody_else_claims_it() {
    let weaknesses = [Weakness::NoRelease, Weakness::NoAcquire];
    holds_but_not_with(
        "slots::who_claims_a_job_reads_it_whole_and_nobody_else_claims_it",
        &weaknesses,
        Some(2),
        || {
            let spool = spool(2, 1);
            let workers: Vec<_> = (0..2)
                .map(|lane| {
                    let spool = Arc::clone(&spool);
                    thread::spawn(move || {
                        let job = claim(&spool, by(lane));
                        job.is_some_and(|job| {
                            assert_eq!((job.seq, &job.text[..]), (7, &b"text"[..]));
                            true
                        })
                    })
                })
                .collect();
            fill(&spool, 0, 7, *b"text");
            let claims = workers.into_iter().map(|worker| worker.join().expect("no panic"));
            assert!(claims.filter(|claimed| *claimed).count() <= 1);
        },
    );
}

#[test]
fn a_slot_that_is_used_again_is_read_before_it_is_filled() {
    // The worker's reading of the text, its tail, the source's look, the next text: a chain.
    let weaknesses = [Weakness::NoRelease, Weakness::NoAcquire];
    holds_but_not_with(
        "slots::a_slot_that_is_used_again_is_read_before_it_is_filled",
        &weaknesses,
        Some(2),
        || {
            let spool = spool(1, 1);
            fill(&spool, 0, 1, *b"one ");
            let worker = Arc::clone(&spool);
            let worker = thread::spawn(move || {
                let job = claim(&worker, by(0)).expect("it is ready");
                publish(&worker, 0, job.slot, 8);
            });
            let jobs = Jobs(&spool);
            commit(&spool, 0);
            if jobs.is_committed(0) {
                jobs.free(0);
                fill(&spool, 0, 2, *b"two ");
            }
            worker.join().expect("no panic");
        },
    );
}

#[test]
fn a_job_that_is_settled_while_the_source_looks_is_never_taken_for_done() {
    let weaknesses = [Weakness::NoRelease, Weakness::NoAcquire];
    holds_but_not_with(
        "slots::a_job_that_is_settled_while_the_source_looks_is_never_taken_for_done",
        &weaknesses,
        Some(3),
        || {
            let spool = spool(1, 1);
            fill(&spool, 0, 1, *b"text");
            let _dead = claim(&spool, by(0)).expect("it is ready");
            // Died before its tail.
            Jobs(&spool).slot(0).result_end.store(8, Ordering::Release);
            let successor = Arc::clone(&spool);
            let successor = thread::spawn(move || {
                assert_eq!(settle(&successor, 0, None, |_| {}), 1);
                // Something else, past the dead one's end.
                successor.producer(0).tail.store(16, Ordering::Release);
            });
            assert!(!Jobs(&spool).is_done(0), "it was never published");
            successor.join().expect("no panic");
        },
    );
}

#[test]
fn settling_never_touches_a_slot_that_the_source_gives_back_meanwhile() {
    let test = || {
        let spool = spool(1, 1);
        fill(&spool, 0, 1, *b"text");
        let job = claim(&spool, by(0)).expect("it is ready");
        publish(&spool, 0, job.slot, 8);
        commit(&spool, 0);
        let successor = Arc::clone(&spool);
        let successor = thread::spawn(move || settle(&successor, 0, None, |_| {}));
        Jobs(&spool).free(0);
        fill(&spool, 0, 2, *b"next");
        assert_eq!(successor.join().expect("no panic"), 0, "a job that was done is ready again");
        assert_eq!(Jobs(&spool).phase(0), Phase::Ready);
    };
    holds_but_not_with(
        "slots::settling_never_touches_a_slot_that_the_source_gives_back_meanwhile",
        &[Weakness::NoRelease],
        Some(3),
        test,
    );
}

#[test]
fn an_idle_worker_hears_of_a_job_that_is_announced() {
    holds_but_not_with(
        "slots::an_idle_worker_hears_of_a_job_that_is_announced",
        &[Weakness::NoFences],
        Some(2),
        || {
            let spool = spool(1, 1);
            let worker = Arc::clone(&spool);
            let worker = thread::spawn(move || {
                let jobs = Jobs(&worker);
                loop {
                    let _idle = jobs.idle();
                    let seen = jobs.bell();
                    if claim(&worker, by(0)).is_some() {
                        break;
                    }
                    jobs.wait(seen, None, sys::futex::EVERYONE);
                }
            });
            fill(&spool, 0, 1, *b"text");
            Jobs(&spool).announce(1);
            worker.join().expect("no panic");
        },
    );
}
