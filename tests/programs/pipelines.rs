//! Pipelines for the tests of the library. They can't run inside of a test: a test is a thread.

mod author;
mod killed;

use procsig::config::{Buffer, Compression, Restart, Rotation, Shutdown, Spool, SyncPolicy};
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
        ["noop", threads] => noop(threads),
        ["killed-jobs", settings] => killed::jobs(settings),
        ["killed-producers", settings] => killed::producers(settings),
        ["burst", count, processes] => burst(count, processes),
        ["lossy-jobs", sync] => lossy_jobs(sync, "0"),
        ["lossy-jobs", sync, rotate] => lossy_jobs(sync, rotate),
        ["lossy-records", sync, count] => lossy_records(sync, count, "0"),
        ["lossy-records", sync, count, rotate] => lossy_records(sync, count, rotate),
        ["piped", list, micros] => piped(list, Duration::from_micros(number(micros))),
        ["durable"] => durable(source::lines("jobs.txt"), Rotation::default()),
        ["durable", "-"] => durable(source::stdin(), Rotation::default()),
        ["durable", "rotated"] => durable(source::lines("jobs.txt"), few()),
        ["durable", "packed"] => durable(
            source::lines("jobs.txt"),
            Rotation { compress: Some(Compression::Gzip), ..few() },
        ),
        ["durable", "kept"] => {
            durable(source::lines("jobs.txt"), Rotation { keep: Some(2), ..few() })
        }
        ["durable", "dead"] => durable_dead(),
        ["pending", count, flush_records] => pending(count, flush_records),
        ["faulty"] => faulty(),
        ["poison", how] => poison(how.to_owned()),
        ["typed"] => typed(),
        ["narrow"] => narrow(),
        ["few-slots", slots] => few_slots(slots),
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
            deadline: Duration::from_secs(20),
            flush_reserve: Duration::from_millis(19_500),
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

/// A record for each job.
fn noop(threads: &str) -> ExitCode {
    Pipeline::new("noop")
        .jobs(source::lines("jobs.txt"))
        .worker("noop", |job: &Job, out: &mut Emitter<Record>| {
            out.emit(&Record { number: job.seq(), text: job.as_str()?.into() })
        })
        .processes(2)
        .threads(number(threads) as u16)
        .sink(sink::json_lines("out.jsonl"))
        .restart(Restart { max: 1000, within: Duration::from_secs(1) })
        .run()
        .into()
}

/// A record for each line of standard input (`-`) or of what has that name, after a pause. What dies
/// is started again soon, however often.
fn piped(list: &str, pause: Duration) -> ExitCode {
    let list = if list == "-" { source::stdin() } else { source::lines(list) };
    Pipeline::new("piped")
        .jobs(list)
        .worker("piped", move |job: &Job, out: &mut Emitter<Record>| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            out.emit(&Record { number: job.seq(), text: job.as_str()?.into() })
        })
        .processes(2)
        .threads(2)
        .sink(sink::json_lines("out.jsonl"))
        .restart(Restart { max: 1000, within: Duration::from_millis(1) })
        .run()
        .into()
}

/// A record for each job; every second one is a reason to flush, and each flush is synced.
fn durable(list: source::List, rotation: Rotation) -> ExitCode {
    let packs = rotation.compress.is_some();
    let pipeline = Pipeline::new("durable")
        .jobs(list)
        .worker("durable", move |job: &Job, out: &mut Emitter<Record>| {
            std::thread::sleep(Duration::from_millis(2));
            if packs && job.seq() == 16 {
                // Compression gives way to all others, and no end of a run waits for it.
                wait_for_packed();
            }
            out.emit(&Record { number: job.seq(), text: job.as_str()?.into() })
        })
        .processes(2)
        .threads(2)
        .sink(sink::json_lines("out.jsonl").sync(SyncPolicy::Always).rotate(rotation));
    run_durably(pipeline)
}

/// The same, of which every third job fails.
fn durable_dead() -> ExitCode {
    let pipeline = Pipeline::new("durable")
        .jobs(source::lines("jobs.txt"))
        .worker("durable", |job: &Job, out: &mut Emitter<Record>| {
            std::thread::sleep(Duration::from_millis(2));
            match job.seq() % 3 {
                0 => Err(JobError::new("every third one")),
                _ => out.emit(&Record { number: job.seq(), text: job.as_str()?.into() }),
            }
        })
        .processes(2)
        .threads(2)
        .sink(sink::json_lines("out.jsonl").sync(SyncPolicy::Always))
        .dead_letters("dead.jsonl");
    run_durably(pipeline)
}

fn run_durably(pipeline: procsig::Ready) -> ExitCode {
    pipeline
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

/// Until there is a compressed file, for a while.
fn wait_for_packed() {
    for _ in 0..2000 {
        let mut files = std::fs::read_dir(".").into_iter().flatten().flatten();
        if files.any(|file| file.path().extension().is_some_and(|it| it == "gz")) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Some four records in a file.
fn few() -> Rotation {
    Rotation { bytes: Some(120), ..Rotation::default() }
}

/// A file that is set aside when it holds so much, if that is not 0; synced as `sync` says.
fn lossy(sync: &str, rotate: &str) -> sink::JsonLines {
    let bytes = Some(number(rotate)).filter(|bytes| *bytes > 0);
    let rotation = Rotation { bytes, ..Rotation::default() };
    sink::json_lines("out.jsonl").sync(sync_policy(sync)).rotate(rotation)
}

/// `always`, or an interval in milliseconds.
fn sync_policy(text: &str) -> SyncPolicy {
    match text {
        "always" => SyncPolicy::Always,
        _ => SyncPolicy::Every(Duration::from_millis(number(text))),
    }
}

/// What is flushed often, and synced as `sync` says.
fn flushed_often() -> Buffer {
    Buffer { flush_records: 8, flush_bytes: 1 << 20, flush_after: Duration::from_millis(10) }
}

/// One or two records for each job.
fn lossy_jobs(sync: &str, rotate: &str) -> ExitCode {
    Pipeline::new("lossy")
        .jobs(source::lines("jobs.txt"))
        .worker("lossy", |job: &Job, out: &mut Emitter<Record>| {
            std::thread::sleep(Duration::from_millis(1));
            for part in 0..1 + job.seq() % 2 {
                out.emit(&Record { number: 2 * job.seq() + part, text: job.as_str()?.into() })?;
            }
            Ok(())
        })
        .processes(2)
        .threads(2)
        .sink(lossy(sync, rotate))
        .flush(flushed_often())
        .run()
        .into()
}

/// Producers that number their records; the text is the process.
fn lossy_records(sync: &str, count: &str, rotate: &str) -> ExitCode {
    let count = number(count);
    Pipeline::new("lossy")
        .producer("lossy", move |stop: &Stop, out: &mut Emitter<Record>| {
            let text = std::process::id().to_string();
            for number in 1..=count {
                out.emit(&Record { number, text: text.clone() })?;
                if stop.wait(Duration::from_micros(300)) {
                    break;
                }
            }
            Ok(())
        })
        .processes(2)
        .sink(lossy(sync, rotate))
        .flush(flushed_often())
        .run()
        .into()
}

/// Producers that publish so many records into large lanes, say so by a file each, and wait. Nothing
/// is a reason to flush but the number of records.
fn pending(count: &str, flush_records: &str) -> ExitCode {
    let count = number(count);
    Pipeline::new("pending")
        .producer("pending", move |stop: &Stop, out: &mut Emitter<Record>| {
            let pid = std::process::id();
            for number in 1..=count {
                out.emit(&Record { number, text: pid.to_string() })?;
            }
            std::fs::write(format!("published-{pid}"), [])
                .map_err(|error| JobError::new(error.to_string()))?;
            stop.wait(Duration::MAX);
            Ok(())
        })
        .processes(2)
        .sink(sink::json_lines("out.jsonl"))
        .flush(Buffer {
            flush_records: number(flush_records),
            flush_bytes: u64::MAX / 4,
            flush_after: Duration::from_secs(3600),
        })
        .spool(Spool { lane: Some(256 << 20), job_bytes: 64, jobs: 4, file: None })
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
                    "segfault" => fault(),
                    "memory" => exhaust_memory(),
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

/// What comes of reading where nothing is. Rust's own handler gives up the first time.
fn fault() -> ! {
    loop {
        let _dead = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSEGV);
    }
}

/// Takes all the memory there is, and never gives it back.
fn exhaust_memory() -> ! {
    let mut taken = Vec::new();
    loop {
        taken.push(vec![1_u8; 1 << 20]);
    }
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
        .attempts(2)
        .sink(sink::json_lines("out.jsonl"))
        .spool(Spool { lane: Some(8192), job_bytes: 64, jobs: 4, file: None })
        .run()
        .into()
}

/// A record for each job, through a table of so few slots that source, worker and buffer wait for each
/// other all the time.
fn few_slots(slots: &str) -> ExitCode {
    Pipeline::new("few")
        .jobs(source::lines("jobs.txt"))
        .worker("few", |job: &Job, out: &mut Emitter<u64>| out.emit(&job.seq()))
        .processes(1)
        .threads(1)
        .sink(sink::json_lines("out.jsonl"))
        .spool(Spool { jobs: number(slots) as u32, ..Spool::default() })
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
