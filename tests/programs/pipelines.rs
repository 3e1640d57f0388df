//! Pipelines for the tests of the library. They can't run inside of a test: a test is a thread.

use procsig::config::{Buffer, Restart, Shutdown, Spool, SyncPolicy};
use procsig::{Emitter, Job, JobError, Pipeline, Stop, sink, source};
use std::process::ExitCode;
use std::time::Duration;

#[derive(serde::Serialize)]
struct Record {
    number: u64,
    text: String,
}

fn record(number: u64) -> Record {
    Record { number, text: format!("record {number}") }
}

fn main() -> ExitCode {
    procsig::block_signals();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["stubborn"] => stubborn(),
        ["threaded"] => threaded(),
        ["nothing-to-do"] => no_worker_for_the_jobs(),
        ["noop", threads] => noop(threads, Duration::ZERO),
        ["slow", threads] => noop(threads, Duration::from_micros(500)),
        ["burst", count, processes] => burst(count, processes),
        ["durable"] => durable(),
        ["faulty"] => faulty(),
        ["poison", how] => poison(how.to_owned()),
        ["typed"] => typed(),
        ["narrow"] => narrow(),
        ["late-flush", "records"] => late_flush(10, u64::MAX / 4),
        ["late-flush", "bytes"] => late_flush(u64::MAX / 4, 200),
        ["crashing-producer"] => crashing_producer(),
        ["again"] => again(),
        _ => {
            eprintln!("which pipeline?");
            ExitCode::from(2)
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

/// A producer that does not listen.
fn stubborn() -> ExitCode {
    Pipeline::new("stubborn")
        .producer("deaf", |_: &Stop, out: &mut Emitter<Record>| {
            for count in 1..=1000 {
                out.emit(&record(count))?;
            }
            loop {
                std::thread::park();
            }
        })
        .sink(sink::json_lines("out.jsonl"))
        .shutdown(Shutdown {
            deadline: Duration::from_millis(1500),
            flush_reserve: Duration::from_secs(1),
        })
        .run()
        .into()
}

/// `run` where it can't fork.
fn threaded() -> ExitCode {
    let (keep, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let outcome = Pipeline::new("threaded")
        .producer("never", |_: &Stop, out: &mut Emitter<Record>| out.emit(&record(0)))
        .sink(sink::json_lines("out.jsonl"))
        .run();
    drop(keep);
    let _ended = thread.join();
    outcome.into()
}

fn no_worker_for_the_jobs() -> ExitCode {
    Pipeline::new("nothing")
        .jobs(source::lines("jobs.txt"))
        .producer("producer", |_: &Stop, out: &mut Emitter<Record>| out.emit(&record(0)))
        .sink(sink::json_lines("out.jsonl"))
        .run()
        .into()
}

/// A record for each job, after a pause.
fn noop(threads: &str, pause: Duration) -> ExitCode {
    Pipeline::new("noop")
        .jobs(source::lines("jobs.txt"))
        .worker("noop", move |job: &Job, out: &mut Emitter<Record>| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            out.emit(&Record { number: job.seq(), text: job.as_str()?.into() })
        })
        .processes(2)
        .threads(number(threads) as u16)
        .sink(sink::json_lines("out.jsonl"))
        .restart(Restart { max: 1000, within: Duration::from_secs(1) })
        .run()
        .into()
}

/// A record for each job; every second one is a reason to flush, and each flush is synced.
fn durable() -> ExitCode {
    Pipeline::new("durable")
        .jobs(source::lines("jobs.txt"))
        .worker("durable", |job: &Job, out: &mut Emitter<Record>| {
            std::thread::sleep(Duration::from_millis(2));
            out.emit(&Record { number: job.seq(), text: job.as_str()?.into() })
        })
        .processes(2)
        .threads(2)
        .sink(sink::json_lines("out.jsonl").sync(SyncPolicy::Always))
        .flush(Buffer {
            flush_records: 2,
            flush_bytes: 1 << 20,
            flush_after: Duration::from_millis(20),
        })
        .shutdown(Shutdown {
            deadline: Duration::from_secs(6),
            flush_reserve: Duration::from_secs(3),
        })
        .run()
        .into()
}

/// Producers that end by themselves. Each numbers its records; the text is the process.
fn burst(count: &str, processes: &str) -> ExitCode {
    let count = number(count);
    Pipeline::new("burst")
        .producer("burst", move |_: &Stop, out: &mut Emitter<Record>| {
            let text = std::process::id().to_string();
            for number in 1..=count {
                out.emit(&Record { number, text: text.clone() })?;
            }
            Ok(())
        })
        .processes(number(processes) as u16)
        .sink(sink::json_lines("out.jsonl"))
        .restart(Restart { max: 1000, within: Duration::from_secs(1) })
        .run()
        .into()
}

/// Jobs that fail in every way: they return an error, or panic, at once or after they emitted.
fn faulty() -> ExitCode {
    Pipeline::new("faulty")
        .jobs(source::lines("jobs.txt"))
        .worker("faulty", |job: &Job, out: &mut Emitter<Record>| {
            let text = job.as_str()?;
            out.emit(&Record { number: job.seq(), text: format!("half of {text}") })?;
            match text {
                "error" => return Err(JobError::new("went wrong")),
                "panic" => panic!("lost its head"),
                "second" if job.attempt() < 2 => return Err(JobError::new("not yet")),
                _ => {}
            }
            out.emit(&Record { number: job.seq(), text: format!("rest of {text}") })
        })
        .attempts(2)
        .retry_delay(Duration::from_millis(1))
        .sink(sink::json_lines("out.jsonl"))
        .run()
        .into()
}

/// One job ends its worker, each time, while others are in hand.
fn poison(how: String) -> ExitCode {
    Pipeline::new("poison")
        .jobs(source::lines("jobs.txt"))
        .worker("victim", move |job: &Job, out: &mut Emitter<Record>| {
            let text = job.as_str()?;
            if text == "job-13" {
                match how.as_str() {
                    "abort" => std::process::abort(),
                    "exit" => std::process::exit(0),
                    _ => return Err(JobError::new("which way?")),
                }
            }
            std::thread::sleep(Duration::from_millis(5));
            out.emit(&Record { number: job.seq(), text: text.into() })
        })
        .processes(2)
        .threads(4)
        .sink(sink::json_lines("out.jsonl"))
        .run()
        .into()
}

/// Records as postcard's bytes, read back as their type; one job fails.
fn typed() -> ExitCode {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Typed(u64, Option<String>, Vec<u8>);
    let outcome = Pipeline::new("typed")
        .jobs(source::lines("jobs.txt"))
        .worker("typed", |job: &Job, out: &mut Emitter<Typed>| {
            if job.seq() == 7 {
                return Err(JobError::new("seven"));
            }
            out.emit(&Typed(job.seq(), Some(job.as_str()?.into()), vec![0; 3]))
        })
        .sink(sink::postcard("out.bin"))
        .run();
    let file = std::fs::File::open("out.bin").expect("the output");
    for record in sink::read_postcard::<Typed>(file) {
        let Typed(seq, text, zeroes) = record.expect("a whole record");
        assert_eq!(zeroes, [0; 3]);
        println!("{seq} {}", text.expect("a text"));
    }
    outcome.into()
}

/// Records of the length that each job says, through the smallest lane.
fn narrow() -> ExitCode {
    Pipeline::new("narrow")
        .jobs(source::lines("jobs.txt"))
        .worker("narrow", |job: &Job, out: &mut Emitter<String>| {
            let length = job.as_str()?.parse()?;
            out.emit(&"x".repeat(length))
        })
        .sink(sink::json_lines("out.jsonl"))
        .spool(Spool { lane: Some(8192), job_bytes: 64, jobs: 4, file: None })
        .run()
        .into()
}

/// Ten records and no reason to flush but their number, which is reached by the tenth, or their
/// bytes.
fn late_flush(flush_records: u64, flush_bytes: u64) -> ExitCode {
    Pipeline::new("late")
        .producer("late", |stop: &Stop, out: &mut Emitter<Record>| {
            for count in 1..=5 {
                out.emit(&record(count))?;
            }
            stop.wait(Duration::MAX);
            Ok(())
        })
        .processes(2)
        .sink(sink::json_lines("out.jsonl"))
        .flush(Buffer { flush_records, flush_bytes, flush_after: Duration::from_secs(3600) })
        .run()
        .into()
}

/// A producer that can't go on.
fn crashing_producer() -> ExitCode {
    Pipeline::new("crashing")
        .producer("crashing", |_: &Stop, out: &mut Emitter<Record>| {
            out.emit(&record(1))?;
            Err(JobError::new("the other side has hung up"))
        })
        .sink(sink::json_lines("out.jsonl"))
        .restart(Restart { max: 2, within: Duration::from_secs(30) })
        .run()
        .into()
}

/// Two runs in one process, one after the other.
fn again() -> ExitCode {
    let once = || {
        Pipeline::new("again")
            .producer("once", |_: &Stop, out: &mut Emitter<Record>| out.emit(&record(1)))
            .sink(sink::json_lines("out.jsonl"))
            .run()
            .into_result()
    };
    for _ in 0..2 {
        match once() {
            Ok(report) => eprintln!("{} published", report.balance().published),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
