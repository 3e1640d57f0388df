//! A job that is put back, and whoever looks at it meanwhile.

use super::*;
use crate::sys::atomic::AtomicU64;

/// What is put back and then passed by the tail follow each other as closely as they can.
#[test]
fn a_job_that_is_put_back_while_the_source_looks_is_never_taken_for_done() {
    let (_directory, spool) = spool(1, 1);
    let (begun, enough) = (clock::now(), few(50_000));
    // Rounds, and looks during which there was another round: on a busy machine they are few.
    let (rounds, meetings) = (AtomicU64::new(0), AtomicU64::new(0));
    let wrong = AtomicBool::new(false);
    fill(&spool, 0, 1);
    race(
        || {
            while meetings.load(Ordering::Relaxed) < enough
                && !wrong.load(Ordering::Relaxed)
                && clock::now() < begun + 60 * RACE
            {
                let job = claim(&spool, OLD);
                let end = tail(&spool) + 8;
                slot(&spool, 0).result_end.store(end, Ordering::Release);
                rounds.fetch_add(1, Ordering::Relaxed);
                Jobs(&spool).put_back(&job, PutBack::NotBegun, None);
                spool.producer(0).tail.store(end, Ordering::Release);
            }
        },
        || {
            let before = rounds.load(Ordering::Relaxed);
            if Jobs(&spool).is_done(0) {
                wrong.store(true, Ordering::Relaxed);
            }
            if rounds.load(Ordering::Relaxed) != before {
                meetings.fetch_add(1, Ordering::Relaxed);
            }
        },
    );
    assert!(!wrong.into_inner(), "a job that was never published was called done");
}
