//! Whose job it is in the end, what is noted of it, and how seldom the watchdog wakes.

use super::*;
use crate::config::Format;
use crate::error::Error;
use crate::flow::format::{Failures, Recording};
use crate::flow::queue::jobs::{Claim, Claimer, NewJob, Phase, Reason};
use crate::flow::queue::layout::Geometry;
use crate::flow::queue::settle::{Orphan, settle};
use crate::flow::queue::spool::Spool;
use crate::sys::atomic::Ordering;

const OLD: Claimer = Claimer { lane: 0, incarnation: 1 };
const LATER: Duration = Duration::from_secs(3600);

/// Of one lane, with two jobs.
pub(in super::super) fn spool() -> (tempfile::TempDir, Spool) {
    let directory = tempfile::tempdir().expect("temp dir");
    let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 2, job_bytes: 64 };
    let path = directory.path().join("spool");
    let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
    for (index, seq) in [(0, 1), (1, 2)] {
        let job = NewJob { text: b"job", seq, round: 1, offset: 4, prefix: 0, reason: None };
        Jobs(&spool).fill(index, &job);
    }
    (directory, spool)
}

fn claim(spool: &Spool) -> Claimed {
    let mut job = Claimed::default();
    assert_eq!(Jobs(spool).claim(OLD, &mut job), Claim::Job);
    job
}

pub(in super::super) fn settings(threads: u16, attempts: u64, retry_delay: Duration) -> Settings {
    Settings {
        name: "test/0".into(),
        lane: 0,
        incarnation: 1,
        threads,
        attempts,
        retry_delay,
        timeout: None,
        blamed: None,
        recording: Recording { format: Format::JsonLines, failures: Failures::Output },
        rounds: false,
        memory_limit: None,
        enough: Default::default(),
    }
}

/// One that must hear of nothing.
struct Nobody;

impl Herald for Nobody {
    fn ready(&self) {}
    fn failed(&self, error: &Error) {
        panic!("failed: {error}");
    }
    fn overdue(&self, message: String) -> ! {
        panic!("overdue: {message}");
    }
    fn end_orphan(&self, _: Orphan) {}
}

#[test]
fn a_job_belongs_to_its_thread_or_to_the_watchdog_and_never_to_both_or_none() {
    let (_directory, spool) = spool();
    let settings = settings(1, 1, Duration::ZERO);
    let watchdog = Watchdog::new(Jobs(&spool), &settings, Duration::from_nanos(1));
    let job = claim(&spool);
    let watch = watchdog.watch();
    let (mut in_time, mut expired) = (0, 0);
    let patience = clock::now() + Duration::from_secs(20);
    // At least so often, and then until each of them has been the first.
    for round in 0.. {
        if round >= 1000 && in_time > 0 && expired > 0 {
            break;
        }
        assert!(clock::now() < patience, "no race: {in_time} in time, {expired} expired");
        // Now the one and now the other comes a little late.
        let late = |who: u32| {
            if round % 2 == who {
                (0..round % 64).for_each(|_| std::hint::spin_loop());
            }
        };
        watch.begin(&job);
        let (mut overdue, barrier) = (Overdue::default(), std::sync::Barrier::new(2));
        let ended = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                barrier.wait();
                late(0);
                watch.end()
            });
            barrier.wait();
            late(1);
            watchdog.expire(clock::now() + LATER, &mut overdue);
            thread.join().expect("no panic")
        });
        assert_eq!(overdue.threads, usize::from(!ended));
        in_time += u32::from(ended);
        expired += u32::from(!ended);
        // A thread whose job has timed out never begins another; this one does.
        watch.own.word.store(IDLE, SeqCst);
    }
}

#[test]
fn a_job_that_timed_out_stays_in_its_slot_until_the_process_is_dead() {
    let (_directory, spool) = spool();
    let settings = settings(2, 3, Duration::from_secs(50));
    let watchdog = Watchdog::new(Jobs(&spool), &settings, Duration::from_secs(5));
    let (hung, neighbour) = (claim(&spool), claim(&spool));
    let (watch, other) = (watchdog.watch(), watchdog.watch());
    // Run alone after earlier deaths: this one is counted before it begins.
    Jobs(&spool).begin(&hung, true);
    Jobs(&spool).begin(&neighbour, false);
    watch.begin(&hung);
    let mut overdue = Overdue::default();
    let now = clock::now();
    assert!(watchdog.expire(now, &mut overdue) > clock::nanos(now), "its time is not over yet");
    assert_eq!(watchdog.expire(now + LATER, &mut overdue), NEVER);
    assert!(!watch.end(), "the job is not the thread's any more");
    assert_eq!(overdue.message, "job 1 has timed out after 5s (attempt 1 of 3)");
    assert!(matches!(Jobs(&spool).phase(hung.slot), Phase::Claimed(_)), "it may still be at work");
    // The process is dead, whatever of. Its successor asks whom to blame.
    let index = processes::worker(0);
    processes::note_end(&spool, index, 512 + 9);
    let blamed = processes::blame(&spool, index);
    assert_eq!(blamed, None);
    assert_eq!(settle(&spool, 0, blamed, |_| {}), 2);
    assert_eq!(Jobs(&spool).phase(hung.slot), Phase::Ready);
    let again = claim(&spool);
    assert_eq!((again.seq, again.attempts, again.suspect), (neighbour.seq, 0, false));
    let Claim::None { until: Some(until) } = Jobs(&spool).claim(OLD, &mut Claimed::default())
    else {
        panic!("the pause between two attempts is not kept");
    };
    assert!(until > now + LATER);
    let jobs = Jobs(&spool);
    let slot = jobs.slot(hung.slot);
    assert_eq!(slot.deaths.load(Ordering::Relaxed), 0, "what was counted before is taken back");
    assert_eq!(slot.attempts.load(Ordering::Relaxed), 1);
    drop((watch, other));
}

#[test]
fn a_job_that_times_out_in_its_last_attempt_is_ready_with_that_reason_at_once() {
    let (_directory, spool) = spool();
    let settings = settings(1, 1, LATER);
    let watchdog = Watchdog::new(Jobs(&spool), &settings, Duration::from_millis(1500));
    let job = claim(&spool);
    let watch = watchdog.watch();
    watch.begin(&job);
    watchdog.expire(clock::now() + LATER, &mut Overdue::default());
    assert_eq!(settle(&spool, 0, None, |_| {}), 1);
    let _other = claim(&spool);
    let again = claim(&spool);
    assert_eq!(again.reason, Some(Reason::TimedOut { after_us: 1_500_000 }));
    assert_eq!((again.seq, again.attempts), (job.seq, 0), "the failure says which attempt it was");
}

/// Also when an assertion fails.
struct Close<'a>(&'a Watchdog<'a>);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[test]
fn the_watchdog_sleeps_until_the_first_deadline_and_then_until_there_is_another() {
    let (_directory, spool) = spool();
    let settings = settings(1, 1, Duration::ZERO);
    // So long that this thread gets to run in between, however busy the machine is.
    let timeout = Duration::from_secs(3);
    let watchdog = Watchdog::new(Jobs(&spool), &settings, timeout);
    let stop = Stop::new(|| {});
    let job = claim(&spool);
    let rounds = || {
        // It is asleep then, and its last round is over.
        let _asleep = watchdog.state();
        watchdog.rounds.load(SeqCst)
    };
    let wait_for = |what: &str, holds: &dyn Fn() -> bool| {
        let until = clock::now() + Duration::from_secs(20);
        while !holds() {
            assert!(clock::now() < until, "{what}; {} rounds", rounds());
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| watchdog.run(&stop, &Nobody));
        let _close = Close(&watchdog);
        wait_for("it begins", &|| rounds() == 1);
        let watch = watchdog.watch();
        for _ in 0..3 {
            let (before, began) = (rounds(), clock::now());
            watch.begin(&job);
            let deadline = watch.own.word.load(SeqCst);
            wait_for("it is woken for the first job", &|| rounds() > before);
            assert!(watch.end());
            for _ in 0..1000 {
                watch.begin(&job);
                assert!(watch.end());
                let woken = rounds() - before;
                assert!(woken == 1 || clock::nanos(clock::now()) >= deadline, "woken for each job");
            }
            wait_for("there is nothing to look up for", &|| {
                let _asleep = watchdog.state();
                watchdog.next.load(SeqCst) == NEVER
            });
            // Once for each time-out that has passed, and once for the first and the last job.
            let most = (clock::now() - began).as_secs() as usize + 2;
            assert!(rounds() - before <= most, "{} rounds, not {most}", rounds() - before);
        }
    });
    assert!(!stop.requested());
}

#[test]
fn in_a_process_that_was_stopped_each_job_gets_its_whole_time_again() {
    let (_directory, spool) = spool();
    let settings = settings(1, 1, Duration::ZERO);
    let watchdog = Watchdog::new(Jobs(&spool), &settings, Duration::from_secs(5));
    let job = claim(&spool);
    let watch = watchdog.watch();
    let continued = clock::now() + LATER;
    watchdog.begin_anew(continued);
    assert_eq!(watch.own.word.load(SeqCst), IDLE, "there is none");
    watch.begin(&job);
    watchdog.begin_anew(continued);
    let mut overdue = Overdue::default();
    watchdog.expire(continued + Duration::from_secs(4), &mut overdue);
    assert_eq!(overdue.threads, 0);
    watchdog.expire(continued + Duration::from_secs(5), &mut overdue);
    assert_eq!(overdue.threads, 1);
    watchdog.begin_anew(continued + LATER);
    assert_eq!(watch.own.word.load(SeqCst), TIMED_OUT, "what has timed out has timed out");
}
