//! What the pipelines of `tests/soak` run: functions for jobs, files and records, and a coprocess. What a
//! job does is said by the number at the end of its text, so that the test knows what to expect.

mod author;

use author::Author;
use procsig::{Daemon, Emitter, Job, JobError, Stop};
use std::cell::RefCell;
use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == "answer") {
        return answer();
    }
    Daemon::new()
        .worker("work", work)
        .worker_per_process("file", || Ok(()), |(): &(), job: &Job, out| file(job, out))
        .producer("tick", tick)
        .main()
}

thread_local!(static AUTHOR: RefCell<Author> = RefCell::new(Author::new()));

/// The number at the end of a job's text.
fn number(text: &str) -> u64 {
    text.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}

#[derive(serde::Serialize)]
struct Part {
    job: String,
    part: u64,
    of: u64,
    who: String,
    nth: u64,
    pad: String,
}

/// One to three records for each job; some fail, panic, hang, or end their worker.
fn work(job: &Job, out: &mut Emitter<Part>) -> Result<(), JobError> {
    let text = job.as_str()?;
    let (number, first) = (number(text), job.attempt() == 1);
    pause(40 + number % 40);
    match number % 400 {
        50 => return Err(JobError::fail("is to fail for good")),
        100 => return Err(JobError::new("is to fail twice")),
        150 if first => panic!("is to panic once"),
        200 if first => pause(5000),
        // Once only if it was alone; its neighbours are run again.
        250 if number % 2000 == 250 => std::process::abort(),
        _ => {}
    }
    let of = 1 + number % 3;
    AUTHOR.with_borrow_mut(|author| {
        let before = author.count;
        for part in 1..=of {
            let (who, nth) = (author.name.clone(), author.next());
            let pad = "x".repeat((number * 31 % 200) as usize);
            out.emit(&Part { job: text.into(), part, of, who, nth, pad })?;
        }
        if number % 400 == 300 && first {
            // What it has emitted is written with no attempt but the next one.
            author.count = before;
            return Err(JobError::new("is to fail half-way"));
        }
        Ok(())
    })
}

#[derive(serde::Serialize)]
struct Row {
    who: String,
    nth: u64,
    file: String,
    text: String,
}

/// What a file holds; one that says that it is bad fails.
fn file(job: &Job, out: &mut Emitter<Row>) -> Result<(), JobError> {
    let path = Path::new(job.as_str()?);
    let text = std::fs::read_to_string(path)?;
    pause(30);
    if text.starts_with("bad") {
        return Err(JobError::fail("a bad file"));
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    AUTHOR.with_borrow_mut(|author| {
        let (who, nth) = (author.name.clone(), author.next());
        out.emit(&Row { who, nth, file, text })
    })
}

#[derive(serde::Serialize)]
struct Tick {
    who: String,
    nth: u64,
    pad: String,
}

/// Notes outside of the pipeline for how many records `emit` has returned: those are published.
fn tick(stop: &Stop, out: &mut Emitter<Tick>) -> Result<(), JobError> {
    let mut author = Author::new();
    let published = std::env::var("SOAK_PUBLISHED")?;
    let published = std::fs::File::create(Path::new(&published).join(&author.name))?;
    loop {
        let nth = author.next();
        let pad = "x".repeat((nth * 31 % 200) as usize);
        out.emit(&Tick { who: author.name.clone(), nth, pad })?;
        published.write_all_at(&nth.to_le_bytes(), 0)?;
        if nth.is_multiple_of(8) && stop.wait(Duration::from_millis(200)) {
            return Ok(());
        }
    }
}

/// A coprocess: it numbers its answers; some are late, garbage, or none.
fn answer() -> ExitCode {
    let mut author = Author::new();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let request: serde_json::Value = serde_json::from_str(&line).expect("a request");
        let number = number(request["job"].as_str().unwrap_or_default());
        pause(10 + number % 30);
        if request["attempt"] == 1 {
            match number % 60 {
                10 => return ExitCode::from(3),
                20 => pause(5000),
                30 => println!("no answer at all"),
                _ => {}
            }
        }
        let answer = match number % 60 {
            40 => serde_json::json!({ "procsig_error": "is to fail", "retry": false }),
            _ => serde_json::json!({ "who": author.name.clone(), "nth": author.next() }),
        };
        println!("{answer}");
        if std::io::stdout().flush().is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}
