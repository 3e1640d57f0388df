//! Worker functions for tests/functions.rs: what each job does is said by its text.
//!
//! A job is a word, or a word and `-once`: then it does that the first time, and is well behaved
//! from then on. Every job emits a record before it does it, and one after.

use procsig::config::{Restart, Shutdown};
use procsig::{Emitter, Job, JobError, Outcome, Pipeline, Stop, Workers, sink, source};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[derive(serde::Serialize)]
struct Record {
    job: String,
    part: u64,
    seq: u64,
    attempt: u64,
    pid: u32,
    tid: i32,
    /// How many jobs what was set up has seen before.
    before: u64,
}

fn main() -> ExitCode {
    procsig::block_signals();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((kind, settings)) = arguments.split_first() else { return ExitCode::from(2) };
    let settings = Settings(settings.to_vec());
    let pipeline = Pipeline::new("functions");
    let jobs = || Pipeline::new("functions").jobs(source::lines("jobs.txt"));
    let outcome = match kind.as_str() {
        "plain" => run(
            jobs().worker("plain", |job: &Job, out: &mut Emitter<Record>| act(job, out, 0)),
            &settings,
        ),
        "process" => {
            let set_up = settings.set_up();
            run(jobs().worker_per_process("process", set_up, by_process), &settings)
        }
        "thread" => {
            let set_up = settings.set_up();
            run(jobs().worker_per_thread("thread", set_up, by_thread), &settings)
        }
        "many" => run(many(jobs(), &settings), &settings),
        "typed" => run(jobs().worker("typed", typed), &settings),
        "producer" => {
            let how = settings.text("how", "stop");
            run(
                pipeline.producer("producer", move |stop: &Stop, out: &mut Emitter<Record>| {
                    produce(&how, stop, out)
                }),
                &settings,
            )
        }
        "timed-producer" => {
            let producer = |_: &Stop, _: &mut Emitter<Record>| Ok(());
            run(pipeline.producer("producer", producer).timeout(Duration::from_secs(1)), &settings)
        }
        _ => return ExitCode::from(2),
    };
    finish(outcome)
}

/// Prints the cause, if there is one.
fn finish(outcome: Outcome) -> ExitCode {
    match outcome.into_result() {
        Ok(report) => {
            if let Some(cause) = report.cause() {
                println!("cause: {cause}");
            }
            report.exit_code().code().into()
        }
        Err(error) => {
            eprintln!("{error}");
            error.exit_code().code().into()
        }
    }
}

/// `key=value` each.
struct Settings(Vec<String>);

impl Settings {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find_map(|it| it.strip_prefix(key)?.strip_prefix('='))
    }

    fn text(&self, key: &str, default: &str) -> String {
        self.get(key).unwrap_or(default).to_owned()
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.get(key).map_or(default, |text| text.parse().expect("a number"))
    }

    fn set_up(&self) -> impl Fn() -> Result<Kept, JobError> + Sync + 'static {
        let (how, drop) = (self.text("set-up", "well"), self.text("drop", "well"));
        move || Kept::set_up(&how, &drop)
    }
}

fn run(workers: Workers<Record>, settings: &Settings) -> Outcome {
    let milliseconds = |key| settings.get(key).map(|_| settings.number(key, 0));
    let mut workers = workers;
    if let Some(limit) = milliseconds("timeout") {
        workers = workers.timeout(Duration::from_millis(limit));
    }
    let deadline = Duration::from_millis(settings.number("deadline", 8000));
    workers
        .processes(settings.number("processes", 1) as u16)
        .threads(settings.number("threads", 1) as u16)
        .attempts(settings.number("attempts", 1) as u32)
        .retry_delay(Duration::from_millis(settings.number("retry-delay", 1)))
        .sink(sink::json_lines("out.jsonl"))
        .shutdown(Shutdown { deadline, flush_reserve: deadline / 4 })
        .restart(Restart {
            max: settings.number("restarts", 5) as u32,
            within: Duration::from_secs(30),
        })
        .run()
}

/// What is set up: it notes when that was, and when it is dropped.
struct Kept {
    drop: String,
    seen: std::sync::atomic::AtomicU64,
}

impl Kept {
    fn set_up(how: &str, drop: &str) -> Result<Kept, JobError> {
        note("life", "set-up");
        match how {
            "well" => {}
            "error" => return Err(JobError::new("no connection")),
            "fail" => return Err(JobError::fail("no connection at all")),
            "stop" => return Err(JobError::stop("no such user")),
            "panic" => panic!("lost its head"),
            "wait" => await_file("go"),
            "error-once" if !is_first("set-up") => {}
            "error-once" => return Err(JobError::new("no connection yet")),
            how => return Err(JobError::stop(format!("set up how: {how}?"))),
        }
        Ok(Kept { drop: drop.into(), seen: 0.into() })
    }

    fn see(&self) -> u64 {
        self.seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        note("life", "tear-down");
        assert!(self.drop != "panic", "lost at the end");
    }
}

fn by_process(kept: &Kept, job: &Job, out: &mut Emitter<Record>) -> Result<(), JobError> {
    act(job, out, kept.see())
}

fn by_thread(kept: &mut Kept, job: &Job, out: &mut Emitter<Record>) -> Result<(), JobError> {
    act(job, out, kept.see())
}

fn act(job: &Job, out: &mut Emitter<Record>, before: u64) -> Result<(), JobError> {
    let text = job.as_str()?;
    note("begun", text);
    let record = |part| Record {
        job: text.into(),
        part,
        seq: job.seq(),
        attempt: job.attempt(),
        pid: std::process::id(),
        tid: nix::unistd::gettid().as_raw(),
        before,
    };
    out.emit(&record(1))?;
    let word = match text.strip_suffix("-once") {
        Some(word) if is_first(&format!("job-{}", job.seq())) => word,
        Some(_) => "well",
        None => text,
    };
    misbehave(word)?;
    out.emit(&record(2))
}

fn misbehave(word: &str) -> Result<(), JobError> {
    match word.split_once(' ').unwrap_or((word, "")) {
        ("error", _) => return Err(JobError::new("went wrong")),
        ("fail", _) => return Err(JobError::fail("will never do")),
        ("stop", _) => return Err(JobError::stop("the disk is on fire")),
        ("panic", _) => panic!("lost its head"),
        ("abort", _) => std::process::abort(),
        ("exit", _) => std::process::exit(0),
        ("kill", _) => {
            let _killed = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
        ("hang", _) => loop {
            std::thread::park();
        },
        ("hang-with-stderr", _) => {
            let _held = std::io::stderr().lock();
            loop {
                std::thread::park();
            }
        }
        ("sleep", milliseconds) => {
            std::thread::sleep(Duration::from_millis(milliseconds.parse()?));
        }
        ("await", file) => await_file(file),
        ("thrown", _) => std::panic::panic_any(Bomb),
        _ => {}
    }
    Ok(())
}

/// What panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("thrown by what was thrown");
        }
    }
}

/// Jobs are JSON values of this type.
#[derive(serde::Deserialize)]
struct Check<'a> {
    host: &'a str,
    #[serde(default)]
    port: u16,
}

fn typed(job: &Job, out: &mut Emitter<Record>) -> Result<(), JobError> {
    let check: Check = job.json()?;
    let (seq, attempt) = (job.seq(), job.attempt());
    let job = check.host.into();
    out.emit(&Record { job, part: check.port.into(), seq, attempt, pid: 0, tid: 0, before: 0 })
}

/// A kind that takes the jobs, and two that produce.
fn many(pipeline: Pipeline, settings: &Settings) -> Workers<Record> {
    let tick = |name: &'static str| {
        move |stop: &Stop, out: &mut Emitter<Record>| {
            let (pid, tid) = (std::process::id(), nix::unistd::gettid().as_raw());
            for part in 1.. {
                let (job, seq, attempt, before) = (name.into(), 0, 0, 0);
                out.emit(&Record { job, part, seq, attempt, pid, tid, before })?;
                if stop.wait(Duration::from_millis(5)) {
                    break;
                }
            }
            Ok(())
        }
    };
    let set_up = settings.set_up();
    pipeline
        .producer("tick", tick("tick"))
        .producer("tock", tick("tock"))
        .worker_per_thread("jobs", set_up, by_thread)
}

fn produce(how: &str, stop: &Stop, out: &mut Emitter<Record>) -> Result<(), JobError> {
    let (pid, tid) = (std::process::id(), nix::unistd::gettid().as_raw());
    let record = Record { job: how.into(), part: 1, seq: 0, attempt: 0, pid, tid, before: 0 };
    out.emit(&record)?;
    match how {
        "stop" => Err(JobError::stop("the other side is gone for good")),
        "fail" => Err(JobError::fail("the other side has hung up")),
        "fail-once" if is_first("producer") => Err(JobError::fail("the other side has hung up")),
        "panic" => panic!("lost its head"),
        _ => {
            stop.wait(Duration::ZERO);
            Ok(())
        }
    }
}

/// Appends a line to a file, with who writes it.
fn note(file: &str, what: &str) {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
    let line = format!("{what} {} {}\n", std::process::id(), nix::unistd::gettid());
    file.expect("a file").write_all(line.as_bytes()).expect("a line");
}

/// Is this the first time, for all processes?
fn is_first(what: &str) -> bool {
    std::fs::OpenOptions::new().write(true).create_new(true).open(format!("first-{what}")).is_ok()
}

fn await_file(name: &str) {
    while !Path::new(name).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
