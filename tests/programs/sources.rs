//! Pipelines whose jobs come from something else than a list, for `tests/sources.rs`.

use procsig::config::{Buffer, Restart, Shutdown, Spool, SyncPolicy};
use procsig::source::{Done, Next, Resume, SourceError, Wait};
use procsig::{Emitter, Job, JobError, Pipeline, Source, sink, source};
use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[derive(serde::Serialize)]
struct Record {
    number: u64,
    text: String,
}

fn main() -> ExitCode {
    procsig::block_signals();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["items", tag, count, salt] => items(tag, number(count), salt.to_owned()),
        ["json"] => json(),
        ["directory", tag, pause] => files(source::directory("in"), tag, pause),
        ["directory-once", tag, pause] => files(source::directory("in").once(), tag, pause),
        ["counter", tag, sync, how, count] => counter(tag, sync, how, number(count)),
        ["trouble", what] => trouble(what.to_owned()),
        _ => {
            eprintln!("which pipeline?");
            ExitCode::from(2)
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// Runs what gives one record for each job: its text, after a pause. Jobs of few slots, so that the
/// source waits; small lanes; whoever dies is started again soon.
fn run(
    tag: &str,
    jobs: impl Into<source::Jobs>,
    sync: SyncPolicy,
    work: impl Fn(&Job) -> Result<String, JobError> + Send + Sync + 'static,
) -> ExitCode {
    let lane = std::env::var("LANE").map_or(64 << 10, |lane| number(&lane));
    Pipeline::new(tag)
        .jobs(jobs)
        .worker(tag, move |job: &Job, out: &mut Emitter<Record>| {
            out.emit(&Record { number: job.seq(), text: work(job)? })
        })
        .processes(2)
        .threads(2)
        .sink(sink::json_lines("out.jsonl").sync(sync))
        .flush(Buffer {
            flush_records: 16,
            flush_bytes: 1 << 20,
            flush_after: Duration::from_millis(20),
        })
        .spool(Spool { jobs: 32, lane: Some(lane), ..Spool::default() })
        .restart(Restart { max: 1000, within: Duration::from_secs(1) })
        .shutdown(Shutdown {
            deadline: Duration::from_secs(6),
            flush_reserve: Duration::from_secs(3),
        })
        .run()
        .into()
}

fn often() -> SyncPolicy {
    SyncPolicy::Every(Duration::from_millis(5))
}

fn short_work(job: &Job) -> Result<String, JobError> {
    std::thread::sleep(Duration::from_micros(500));
    Ok(job.as_str()?.to_owned())
}

fn items(tag: &str, count: u64, salt: String) -> ExitCode {
    let make = move || {
        let salt = salt.clone();
        (1..=count).map(move |number| format!("item-{number}{salt}"))
    };
    run(tag, source::iter(make), often(), short_work)
}

fn json() -> ExitCode {
    #[derive(serde::Serialize)]
    struct Item {
        name: &'static str,
        size: u64,
    }
    let make = || ["a", "b", "c"].into_iter().zip(1..).map(|(name, size)| Item { name, size });
    run("json", source::json(make), often(), short_work)
}

/// The record of a file is what it holds. One that holds "bad" fails.
fn files(jobs: source::Directory, tag: &str, pause: &str) -> ExitCode {
    let pause = Duration::from_micros(number(pause));
    run(tag, jobs, often(), move |job| {
        let path = Path::new(std::ffi::OsStr::from_bytes(job.as_bytes()));
        let text = fs::read_to_string(path)?;
        if pause > Duration::from_millis(100) {
            fs::write("reading", [])?;
        }
        std::thread::sleep(pause);
        if text == "bad" { Err(JobError::new("a bad file")) } else { Ok(text) }
    })
}

/// Counts to `count`, and then ends, or waits for more, or blocks; or acknowledges nothing. It notes in files what it was
/// told: a line for each job that was acknowledged, and another one if that was too early.
struct Counter {
    count: u64,
    last: u64,
    how: String,
    in_hand: HashSet<u64>,
}

fn note(file: &str, text: &str) {
    let file = OpenOptions::new().create(true).append(true).open(file);
    file.expect("a file").write_all(text.as_bytes()).expect("written");
}

impl Source for Counter {
    fn open(&mut self, resume: &Resume<'_>) -> Result<(), SourceError> {
        self.last = resume.last().unwrap_or(0);
        // Positions are ten times the numbers.
        assert_eq!(self.last, 10 * resume.handed_out());
        self.in_hand = resume.in_hand().iter().map(|job| job.position).collect();
        for job in resume.in_hand() {
            assert_eq!(job.job, job_of(job.position).as_bytes());
            assert_eq!(job.position, 10 * job.seq);
        }
        let what = if resume.only_to_acknowledge() { "open to acknowledge\n" } else { "open\n" };
        note("calls.txt", what);
        Ok(())
    }

    fn next(&mut self, wait: &Wait<'_>, job: &mut Vec<u8>) -> Result<Next, SourceError> {
        if self.last < 10 * self.count {
            self.last += 10;
            assert!(!self.in_hand.contains(&self.last), "handed out twice");
            assert!(!wait.is_in_hand(self.last), "handed out twice");
            // What was handed out before it is in hand, or acknowledged.
            let note = fs::read_to_string("acknowledged.txt").unwrap_or_default();
            let known = |position: u64| {
                wait.is_in_hand(position)
                    || note.lines().any(|it| it == (position / 10).to_string())
            };
            let before = self.last - 10;
            assert!(before == 0 || known(before), "job at {before} is forgotten");
            job.extend_from_slice(job_of(self.last).as_bytes());
            return Ok(Next::Job(self.last));
        }
        note("calls.txt", "no more\n");
        match self.how.as_str() {
            "end" => Ok(Next::End),
            "wait" | "refuse" | "stuck" => Ok(Next::After(Duration::MAX)),
            "listen" => {
                let (reader, _writer) = std::io::pipe()?;
                let fd = std::os::fd::AsFd::as_fd(&reader);
                assert!(!wait.readable(fd, Duration::MAX)?, "nobody writes");
                Ok(Next::After(Duration::ZERO))
            }
            "deaf" => loop {
                std::thread::park();
            },
            other => panic!("{other}?"),
        }
    }

    fn acknowledge(&mut self, done: &[Done]) -> Result<(), SourceError> {
        match self.how.as_str() {
            "refuse" => return Err(SourceError::fatal("the queue was deleted")),
            "stuck" => loop {
                std::thread::park();
            },
            _ => {}
        }
        let output = fs::read_to_string("out.jsonl")?;
        for job in done {
            let right = job.position == 10 * job.seq && job.job == job_of(job.position).as_bytes();
            let there = output.contains(&format!("{{\"number\":{},", job.seq));
            let verdict = match (right, there) {
                (true, true) => "",
                (true, false) => " TOO EARLY",
                (false, _) => " ANOTHER JOB",
            };
            note("acknowledged.txt", &format!("{}{verdict}\n", job.seq));
        }
        Ok(())
    }

    fn is_finite(&self) -> bool {
        self.how == "end"
    }

    fn name(&self) -> String {
        "counter".into()
    }
}

fn job_of(position: u64) -> String {
    format!("job at {position}")
}

fn counter(tag: &str, sync: &str, how: &str, count: u64) -> ExitCode {
    let source = Counter { count, last: 0, how: how.into(), in_hand: HashSet::new() };
    let sync = match sync {
        "always" => SyncPolicy::Always,
        "never" => SyncPolicy::Never,
        "hourly" => SyncPolicy::Every(Duration::from_secs(3600)),
        _ => often(),
    };
    run(tag, source, sync, short_work)
}

/// Fails in some way after ten jobs of twenty; what is retried works then. The object is new in each
/// process, so a file says how often it has failed.
struct Troubled(String, u64);

impl Troubled {
    fn fail(&self, at: &str) -> Result<(), SourceError> {
        let (place, kind) = self.0.split_once('-').unwrap_or(("", ""));
        let failures = fs::read_to_string("failures.txt").unwrap_or_default().lines().count();
        if place != at || (kind == "retry" && failures >= 3) {
            return Ok(());
        }
        note("failures.txt", "once\n");
        match kind {
            "fatal" => Err(SourceError::fatal("the queue was deleted")),
            "retry" | "always" => Err(std::io::Error::other("the queue does not answer").into()),
            "panic" => panic!("the queue is {}", "empty?"),
            other => panic!("{other}?"),
        }
    }
}

impl Source for Troubled {
    fn open(&mut self, resume: &Resume<'_>) -> Result<(), SourceError> {
        self.1 = resume.last().unwrap_or(0);
        self.fail("open")
    }

    fn next(&mut self, _: &Wait<'_>, job: &mut Vec<u8>) -> Result<Next, SourceError> {
        if self.1 == 20 {
            return Ok(Next::End);
        }
        job.extend_from_slice(b"half of a j");
        if self.1 == 10 {
            self.fail("next")?;
        }
        self.1 += 1;
        job.extend_from_slice(b"ob");
        Ok(Next::Job(self.1))
    }

    fn acknowledge(&mut self, _: &[Done]) -> Result<(), SourceError> {
        self.fail("acknowledge")
    }
}

fn trouble(what: String) -> ExitCode {
    run("trouble", Troubled(what, 0), often(), short_work)
}
