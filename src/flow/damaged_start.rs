//! Whole starts on files of which a bit is wrong, or the end is missing.
//!
//! A small pipeline is left as if everything had died in the middle of a batch: some jobs are
//! committed, some published, one in hand, some ready, some not handed out. Then one bit of its spool or its
//! output is flipped, or one of them is cut, and it is started again and run to its end, with the real source and
//! buffer, and a worker that does what workers do with the table and the lane. Either the start is refused, with
//! words, and nothing was touched; or each job has one outcome, or what is missing or double is counted.

use super::balance::{self, Balance};
use super::buffer::{self, Policy};
use super::prepare::{Outputs, prepare};
use super::queue::commit::Commit;
use super::queue::frame::Kind;
use super::queue::jobs::{Claim, Claimed, Claimer, Jobs};
use super::queue::lane::{Finish, LaneWriter, Staged};
use super::queue::layout::PAGE;
use super::queue::reader::survey;
use super::queue::settle::settle;
use super::queue::spool::{Spool, random};
use super::sink::Sinks;
use super::source;
use crate::config::{self, Config, Lines, List, Output, Run, Worker};
use crate::error::Error;
use crate::stop::Stop;
use crate::sys::{clock, futex};
use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const JOBS: u64 = 10;
const SLOTS: u32 = 4;
const LANE: u64 = 8192;
/// Longer than any start takes here, however busy the machine is.
const WATCHDOG: Duration = Duration::from_secs(60);
/// Cases of each test, if `PROCSIG_TEST_SWEEP` does not ask for all of them.
const CASES: usize = 1500;

struct Place {
    directory: tempfile::TempDir,
    config: Config,
    /// Spool and output, as they were when everything died.
    left: [Vec<u8>; 2],
    /// What has come of starts that broke the promise.
    wrong: Mutex<Vec<String>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let wrong = std::mem::take(self.wrong.get_mut().expect("no panic"));
        if !std::thread::panicking() {
            assert!(
                wrong.is_empty(),
                "{} starts: {}",
                wrong.len(),
                wrong[..wrong.len().min(10)].join("\n")
            );
        }
    }
}

fn record(seq: u64, part: u64) -> String {
    format!("job {seq} part {part}\n")
}

/// Does one job, if there is one that is ready.
fn work_once(spool: &Spool, writer: &mut LaneWriter<'_>) -> bool {
    let (mut job, jobs) = (Claimed::default(), Jobs(spool));
    if jobs.claim(Claimer { lane: 0, incarnation: 2 }, &mut job) != Claim::Job {
        return false;
    }
    jobs.begin(&job, false);
    let mut staged = Staged::default();
    let mut push = |record: String| {
        let Ok(()) = staged.push(Kind::Result, |bytes| {
            bytes.extend_from_slice(record.as_bytes());
            Ok::<(), Infallible>(())
        });
    };
    let kind = match job.reason {
        None => {
            assert_eq!(job.text, format!("job-{}", job.seq).as_bytes(), "another job is run");
            (1..=2).for_each(|part| push(record(job.seq, part)));
            Kind::JobDone
        }
        Some(_) => {
            push(format!("failed {}\n", job.seq));
            Kind::JobFailed
        }
    };
    let result_end = jobs.result_end(&job);
    let finish = Finish { kind, seq: job.seq, round: job.round, result_end };
    writer.publish(&mut staged, Some(finish)).expect("room");
    true
}

/// When the worker ends, by a panic as well, nobody else is to wait for ever.
struct Over<'a> {
    spool: &'a Spool,
    stops: [&'a Stop; 2],
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.stops.iter().for_each(|stop| stop.request());
        self.spool.wake_all(true);
    }
}

fn open_lane(spool: &Spool) -> LaneWriter<'_> {
    settle(spool, 0, None, |_| {});
    let found = survey(spool, 0, Commit::load(spool).lanes[0]).expect("ring");
    LaneWriter::open(spool, 0, found.records).expect("ring")
}

fn policy() -> Policy {
    let flush = config::Buffer {
        flush_records: 1,
        flush_bytes: 1 << 20,
        flush_after: Duration::from_secs(60),
    };
    Policy { flush, sync: config::SyncPolicy::Never }
}

impl Place {
    fn new() -> Place {
        let parent = if std::path::Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" };
        let directory = tempfile::Builder::new().prefix("pst-").tempdir_in(parent).expect("dir");
        let list: String = (1..=JOBS).map(|seq| format!("job-{seq}\n")).collect();
        std::fs::write(directory.path().join("list"), list).expect("list");
        let lines = Lines::File(directory.path().join("list"));
        let mut worker = Worker::new("w", Run::Command(vec!["true".into()]));
        (worker.processes, worker.threads) = (1, 1);
        let config = Config {
            name: "test".into(),
            jobs: Some(config::Jobs::List(List { lines, every: None, again: true })),
            workers: vec![worker],
            buffer: policy().flush,
            output: Output::new(directory.path().join("out")),
            dead_letters: None,
            shutdown: Default::default(),
            restart: Default::default(),
            spool: config::Spool { file: None, lane: Some(LANE), jobs: SLOTS, job_bytes: 16 },
            log: Default::default(),
            privileges: Default::default(),
            fresh: false,
        };
        let mut place =
            Place { directory, config, left: Default::default(), wrong: Mutex::default() };
        place.die_half_way();
        place.left = place.files().map(|file| std::fs::read(file).expect("a file"));
        place
    }

    fn files(&self) -> [PathBuf; 2] {
        [".out.spool", "out"].map(|name| self.directory.path().join(name))
    }

    fn prepare(&self) -> Result<(Spool, Outputs), Error> {
        loop {
            match prepare(&self.config, None, false, |_| {}) {
                // A command that another test starts at this moment has the lock until it runs.
                Err(Error::Held(_)) => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    fn list(&self) -> &List {
        match &self.config.jobs {
            Some(config::Jobs::List(list)) => list,
            _ => unreachable!("the jobs are a list"),
        }
    }

    /// The source hands out until all slots are in use, again and again.
    fn hand_out(&self, spool: &Spool) {
        let (never, _open) = std::io::pipe().expect("pipe");
        // Asked to stop before it waits for anything.
        let stop = Stop::new(|| {});
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let jobs = Jobs(spool);
                await_until(|| (0..jobs.len()).all(|index| jobs.is_pending(index)));
                stop.request();
                spool.wake_all(true);
            });
            source::run(spool, self.list(), None, true, never.as_fd(), &stop, || {})
                .expect("readable");
        });
    }

    fn die_half_way(&self) {
        let (spool, mut outputs) = self.prepare().expect("a start");
        let drain = |outputs: &mut Outputs| {
            let stop = Stop::new(|| {});
            stop.request();
            buffer::run(&spool, outputs.sinks(), policy(), &stop, || {}).expect("drained");
        };
        self.hand_out(&spool);
        let mut writer = open_lane(&spool);
        (0..3).for_each(|_| assert!(work_once(&spool, &mut writer)));
        drain(&mut outputs);
        self.hand_out(&spool);
        (0..2).for_each(|_| assert!(work_once(&spool, &mut writer)));
        // A batch is begun: its intent is there, and the half of it.
        let before = Commit::load(&spool);
        let (commits, mut books) = (spool.layout.commit[0], Vec::new());
        spool.mapping.append_to(commits, spool.layout.intent - commits, &mut books);
        let output = std::fs::read(&self.files()[1]).expect("output");
        drain(&mut outputs);
        let whole = std::fs::read(&self.files()[1]).expect("output");
        let half = output.len() + (whole.len() - output.len()) / 2 - 3;
        std::fs::File::options()
            .write(true)
            .open(&self.files()[1])
            .and_then(|file| file.set_len(half as u64))
            .expect("cut");
        super::queue::ends::free(spool.consumer(0), before.lanes[0].offset);
        spool.mapping.write(commits, &books);
        assert_eq!(Commit::load(&spool), before, "as if it had died before the commit");
        let mut job = Claimed::default();
        let claim = Jobs(&spool).claim(Claimer { lane: 0, incarnation: 2 }, &mut job);
        assert_eq!(claim, Claim::Job);
    }

    /// As it was left, with the same files, since the books know them.
    fn restore(&self, contents: [&[u8]; 2]) {
        for (file, content) in self.files().iter().zip(contents) {
            std::fs::write(file, content).expect("restored");
        }
        let aside = self.directory.path().join("out.quarantine");
        let _none = std::fs::remove_file(aside);
    }

    /// A start, to the end of its list.
    fn start(&self) -> Result<Balance, Error> {
        let (spool, mut outputs) = self.prepare()?;
        source::check(&spool, self.list())?;
        let opening = balance::open(&spool)?;
        let (stop_source, stop_buffer) = (Stop::new(|| {}), Stop::new(|| {}));
        let (source_over, hung) = (AtomicBool::new(false), AtomicBool::new(false));
        let (never, _open) = std::io::pipe().expect("pipe");
        let written = std::thread::scope(|scope| {
            let source = scope.spawn(|| {
                let ended = source::run(
                    &spool,
                    self.list(),
                    None,
                    true,
                    never.as_fd(),
                    &stop_source,
                    || {},
                );
                source_over.store(true, Ordering::SeqCst);
                ended
            });
            scope.spawn(|| {
                let _over = Over { spool: &spool, stops: [&stop_source, &stop_buffer] };
                let (mut writer, begun) = (open_lane(&spool), clock::now());
                while !source_over.load(Ordering::SeqCst) {
                    if clock::now() > begun + WATCHDOG {
                        hung.store(true, Ordering::SeqCst);
                        stop_source.request();
                        spool.wake_all(true);
                    }
                    if !work_once(&spool, &mut writer) {
                        let jobs = Jobs(&spool);
                        let soon = clock::now() + Duration::from_millis(1);
                        jobs.wait(jobs.bell(), Some(soon), futex::EVERYONE);
                    }
                }
            });
            let sinks: Sinks<'_> = outputs.sinks();
            let written = buffer::run(&spool, sinks, policy(), &stop_buffer, || {});
            if written.is_err() {
                // As main does: all others are told to stop.
                stop_source.request();
                spool.wake_all(true);
            }
            source.join().expect("no panic")?;
            written
        });
        assert!(!hung.load(Ordering::SeqCst), "it hangs");
        written?;
        balance::close(&spool, &opening, 0)
    }

    /// Starts it with these contents, and judges what comes of it.
    fn judge(&self, contents: [&[u8]; 2], what: &str) {
        self.restore(contents);
        match self.start() {
            Ok(balance) => self.assert_each_job_once_or_counted(&balance, what),
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() > 60, "{what}: not of help: {text}");
                // What is refused before anything was done is as it was; or the next start goes on.
                let files = self.files().map(|file| std::fs::read(file).expect("a file"));
                if files.iter().map(Vec::as_slice).ne(contents) {
                    let balance = self.start().unwrap_or_else(|error| panic!("{what}: {error}"));
                    self.assert_each_job_once_or_counted(&balance, what);
                }
            }
        }
    }

    /// As [`Place::judge`], but records may be there twice.
    fn judge_no_loss(&self, contents: [&[u8]; 2], what: &str) {
        self.restore(contents);
        let Ok(balance) = self.start() else { return self.judge(contents, what) };
        let output = std::fs::read(&self.files()[1]).expect("output");
        let output = String::from_utf8_lossy(&output);
        let is_there = |seq: u64| {
            let parts =
                [1, 2].map(|part| output.lines().any(|it| it == record(seq, part).trim_end()));
            parts == [true; 2] || output.lines().any(|line| line == format!("failed {seq}"))
        };
        if balance.jobs_lost == 0 && balance.quarantined == 0 && !(1..=JOBS).all(is_there) {
            let wrong = format!("{what}: {balance:?}\n{output}");
            self.wrong.lock().expect("no panic").push(wrong);
        }
    }

    fn assert_each_job_once_or_counted(&self, balance: &Balance, what: &str) {
        let output = std::fs::read(&self.files()[1]).expect("output");
        let lines: Vec<String> = output
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        let count = |line: &str| lines.iter().filter(|other| *other == line).count();
        let outcomes = |seq: u64| {
            let parts = [1, 2].map(|part| count(&record(seq, part)));
            (parts[0] == parts[1]).then(|| parts[0] + count(&format!("failed {seq}\n")))
        };
        let is_right = (1..=JOBS).all(|seq| outcomes(seq) == Some(1));
        // Each of these is said, and most of them change the exit code.
        let counted = [balance.jobs_lost.unsigned_abs(), balance.quarantined, balance.jobs_failed];
        if is_right || counted.iter().any(|count| *count > 0) {
            return;
        }
        let wrong = format!("{what}: {balance:?}\n{}", lines.concat());
        self.wrong.lock().expect("no panic").push(wrong);
    }
}

fn await_until(is: impl Fn() -> bool) {
    let begun = clock::now();
    while !is() {
        assert!(clock::now() < begun + WATCHDOG, "it hangs");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// All of them if that is asked for, otherwise so many of them at random.
fn some_of(all: Vec<usize>) -> Vec<usize> {
    if std::env::var("PROCSIG_TEST_SWEEP").is_ok_and(|sweep| sweep == "all") {
        println!("{}: {} cases", std::thread::current().name().unwrap_or_default(), all.len());
        return all;
    }
    let mut state = random() | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize >> 8
    };
    (0..CASES.min(all.len())).map(|_| all[next() % all.len()]).collect()
}

/// Bits of the words that are in use: the rest of a page is never read.
fn bits_in_use(bytes: &[u8]) -> Vec<usize> {
    let near = |at: usize| {
        let page = at / PAGE * PAGE;
        let end = (at + 16).min(bytes.len()).min(page + PAGE);
        bytes[at.saturating_sub(16).max(page)..end].iter().any(|byte| *byte != 0)
    };
    (0..bytes.len()).filter(|at| near(*at)).flat_map(|at| 8 * at..8 * at + 8).collect()
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

#[test]
fn a_start_after_everything_has_died_in_a_batch_does_each_job_once() {
    let place = Place::new();
    let [spool, output] = &place.left;
    place.judge([spool, output], "unchanged");
    let balance = {
        place.restore([spool, output]);
        place.start().expect("a start")
    };
    assert_eq!((balance.jobs_lost, balance.quarantined, balance.complete), (0, 0, true));
}

#[test]
fn any_bit_of_a_spool_may_be_wrong_and_each_job_is_there_once_or_it_is_refused_or_counted() {
    let place = Place::new();
    let [spool, output] = &place.left;
    for bit in some_of(bits_in_use(spool)) {
        place
            .judge([&flipped(spool, bit), output], &format!("bit {} of byte {}", bit % 8, bit / 8));
    }
}

#[test]
fn a_spool_may_be_cut_anywhere_and_is_refused_untouched() {
    let place = Place::new();
    let [spool, output] = &place.left;
    let closed = {
        let (spool, _) = place.prepare().expect("a start");
        spool.layout.slots
    };
    // A run that leaves nothing cuts its spool to this very length.
    for len in some_of((0..spool.len()).filter(|len| *len != closed).collect()) {
        place.restore([&spool[..len], output]);
        let error = place.start().expect_err("it is not whole").to_string();
        assert!(error.contains(&format!("{len} bytes")), "{error}");
        assert!(error.contains("nothing was touched"), "{error}");
        let files = place.files().map(|file| std::fs::read(file).expect("a file"));
        assert!(files[0] == spool[..len] && files[1] == *output, "cut to {len}: touched");
    }
}

#[test]
fn an_output_may_be_cut_anywhere_or_have_any_wrong_bit_and_each_job_is_there_once_or_counted() {
    let place = Place::new();
    let [spool, output] = &place.left;
    let committed = {
        place.restore([spool, output]);
        let (spool, _) = place.prepare().expect("a start");
        Commit::load(&spool).sinks[0].expect("a file").len as usize
    };
    for len in committed..=output.len() {
        place.judge([spool, &output[..len]], &format!("output cut to {len}"));
    }
    for bit in some_of((8 * committed..8 * output.len()).collect()) {
        place.judge([spool, &flipped(output, bit)], &format!("bit {bit} of the output"));
    }
    // What was committed is never looked at again: nothing else of it changes, and nothing is doubled.
    for len in 0..committed {
        place.restore([spool, &output[..len]]);
        let balance = place.start().expect("a start");
        assert_eq!(balance.jobs_lost, 0, "output cut to {len}");
    }
}

/// As a disk leaves what it never wrote: whole pages, sectors, or any other stretch.
#[test]
fn any_stretch_of_a_spool_or_an_output_may_be_zeroed_and_no_job_is_lost_uncounted() {
    let place = Place::new();
    let [spool, output] = &place.left;
    let (committed, books) = {
        place.restore([spool, output]);
        let (spool, _) = place.prepare().expect("a start");
        let [first, second] = spool.layout.commit;
        let books = [spool.layout.intent, first, second];
        (Commit::load(&spool).sinks[0].expect("a file").len as usize, books)
    };
    let end_of_books = books.map(|at| at + PAGE).into_iter().max().expect("some");
    let books = books.into_iter().min().expect("some")..end_of_books;
    for unit in [PAGE, 512, 64, 8] {
        let is_zero = |at: &usize| spool[*at..*at + unit].iter().all(|byte| *byte == 0);
        let begins = (0..spool.len() / unit).map(|number| number * unit).filter(|at| !is_zero(at));
        for begin in some_of(begins.collect()) {
            let what = format!("{unit} bytes of the spool from {begin} on are zero");
            let contents = [&zeroed(spool, begin, unit)[..], output];
            match books.contains(&begin) {
                false => place.judge(contents, &what),
                // More than a bit of these can't be put right: the batch of that moment is written once
                // more, behind what is there of it, which is said to be somebody else's.
                true => place.judge_no_loss(contents, &what),
            }
        }
    }
    for begin in 0..output.len() {
        for len in [1, 7, 64, output.len()] {
            let what = format!("{len} bytes of the output from {begin} on are zero");
            let contents = [&spool[..], &zeroed(output, begin, len)];
            if begin >= committed {
                place.judge(contents, &what);
            } else {
                // What was committed is never looked at again.
                place.restore(contents);
                let balance = place.start().unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(balance.jobs_lost, 0, "{what}");
            }
        }
    }
}

fn zeroed(bytes: &[u8], begin: usize, len: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let end = (begin + len).min(bytes.len());
    bytes[begin..end].fill(0);
    bytes
}
