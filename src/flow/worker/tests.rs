//! The life of a worker process, by one that notes what is done to it.

use super::*;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;

/// Ends the whole test program when a test hangs.
pub(super) struct HangGuard {
    _alive: mpsc::Sender<()>,
}

impl HangGuard {
    /// `of`: what the test is about.
    pub(super) fn arm(of: &'static str) -> HangGuard {
        let (alive, dropped) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let limit = Duration::from_secs(120);
            if dropped.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                // Not eprintln, which is captured.
                let _seen = writeln!(std::io::stderr(), "a test of {of} hangs");
                std::process::abort();
            }
        });
        HangGuard { _alive: alive }
    }
}

#[track_caller]
pub(super) fn wait_until(what: &str, mut there: impl FnMut() -> bool) {
    let until = clock::now() + Duration::from_secs(60);
    while !there() {
        assert!(clock::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What has happened, in order.
type Notes = Mutex<Vec<&'static str>>;

fn note(notes: &Notes, what: &'static str) {
    notes.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

struct Noted<'a> {
    notes: &'a Notes,
    stop: &'a Stop,
    fails: bool,
    /// Jobs to be done before the stop.
    left: AtomicUsize,
}

struct NotedProcess<'a>(&'a Noted<'a>);
struct NotedThread<'a>(&'a Noted<'a>);

impl Work for Noted<'_> {
    fn start(&self) -> Result<Box<dyn ProcessWork + '_>, JobError> {
        note(self.notes, "process set up");
        if self.fails {
            return Err(JobError::new("not today"));
        }
        Ok(Box::new(NotedProcess(self)))
    }
}

impl ProcessWork for NotedProcess<'_> {
    fn thread(&self) -> Result<Box<dyn ThreadWork + '_>, JobError> {
        note(self.0.notes, "thread set up");
        Ok(Box::new(NotedThread(self.0)))
    }
}

impl ThreadWork for NotedThread<'_> {
    fn attempt(&mut self, _: &Attempt<'_>, _: &mut Staged) -> Verdict {
        note(self.0.notes, "job");
        if self.0.left.fetch_sub(1, SeqCst) == 1 {
            self.0.stop.request();
        }
        Verdict::Done
    }
}

impl Drop for NotedProcess<'_> {
    fn drop(&mut self) {
        note(self.0.notes, "process torn down");
    }
}

impl Drop for NotedThread<'_> {
    fn drop(&mut self) {
        note(self.0.notes, "thread torn down");
    }
}

impl Herald for Notes {
    fn ready(&self) {
        note(self, "ready");
    }
    fn failed(&self, _: &Error) {
        note(self, "failed");
    }
    fn overdue(&self, message: String) -> ! {
        panic!("overdue: {message}");
    }
    fn end_orphan(&self, _: Orphan) {}
}

/// Runs a worker of one thread on two jobs; what has happened, and its error.
fn run(fails: bool, stopped: bool) -> (Vec<&'static str>, Option<String>) {
    let (_directory, spool) = watchdog::tests::spool();
    let (notes, stop) = (Notes::default(), Stop::new(|| {}));
    if stopped {
        stop.request();
    }
    let work = Noted { notes: &notes, stop: &stop, fails, left: AtomicUsize::new(2) };
    let settings = Settings { threads: 1, ..watchdog::tests::settings(1, 1, Duration::ZERO) };
    let error = run_jobs(&spool, &work, &settings, &stop, &notes).err();
    (notes.into_inner().expect("no panic"), error.map(|error| error.to_string()))
}

#[test]
fn a_worker_is_ready_when_its_process_is_set_up_and_torn_down_from_within() {
    let happened = [
        "process set up",
        "ready",
        "thread set up",
        "job",
        "job",
        "thread torn down",
        "process torn down",
    ];
    assert_eq!(run(false, false), (happened.to_vec(), None));
}

#[test]
fn a_worker_whose_set_up_fails_is_never_ready() {
    let error = "the set-up has failed: not today".to_owned();
    assert_eq!(run(true, false), (vec!["process set up"], Some(error)));
}

#[test]
fn a_worker_that_has_done_enough_takes_no_more_jobs_is_torn_down_and_says_so() {
    let (_directory, spool) = watchdog::tests::spool();
    let (notes, stop) = (Notes::default(), Stop::new(|| {}));
    let work = Noted { notes: &notes, stop: &stop, fails: false, left: AtomicUsize::new(100) };
    let enough = Enough { jobs: Some(1), memory: None };
    let settings =
        Settings { threads: 3, enough, ..watchdog::tests::settings(1, 1, Duration::ZERO) };
    let ended = run_jobs(&spool, &work, &settings, &stop, &notes).expect("no error");
    let Ended::Recycled(reason) = ended else { panic!("{ended:?}") };
    assert!(reason.starts_with("has done ") && reason.contains(" job"), "{reason}");
    let notes = notes.into_inner().expect("no panic");
    let count = |what| notes.iter().filter(|note| **note == what).count();
    assert!((1..=3).contains(&count("job")), "each thread at most one: {notes:?}");
    assert_eq!(count("thread set up"), count("thread torn down"), "{notes:?}");
    assert_eq!(notes.last(), Some(&"process torn down"));
}

#[test]
fn a_worker_that_is_told_to_stop_before_its_set_up_sets_up_nothing() {
    assert_eq!(run(false, true), (vec![], None));
}
