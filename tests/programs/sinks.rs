//! Pipelines with sinks of all kinds, for `tests/sinks.rs` and `tests/sqlite.rs`. Each job has two
//! records.

use procsig::config::{Buffer, Restart, Spool, SyncPolicy};
use procsig::sink::{Opened, Opening, Records, SinkError};
use procsig::{Emitter, Job, JobError, Pipeline, Ready, Workers, sink, source};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Serialize, Deserialize)]
struct Part {
    job: u64,
    part: u8,
    text: String,
}

fn main() -> ExitCode {
    procsig::block_signals();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["transactional"] => run(parts("t").sink(sink::own(Transactional::default()))),
        ["transactional", processes] => {
            let processes = processes.parse().expect("a number");
            run(parts("t").processes(processes).sink(sink::own(Transactional::default())))
        }
        ["rewinding", sync] => {
            run(parts("r").sink(sink::own(Rewinding(None)).sync(policy(sync)).json()))
        }
        ["failing", how] => run(parts("f").sink(sink::own(Failing(how.into())))),
        ["failing", how, processes] => {
            let processes = processes.parse().expect("a number");
            run(parts("f").processes(processes).sink(sink::own(Failing(how.into()))))
        }
        // Always synced: the time between a write and its commit is long enough to be killed in.
        ["dead-letters", tag] => run(parts(tag)
            .sink(sink::json_lines("out.jsonl").sync(SyncPolicy::Always))
            .dead_letters("dead.jsonl")),
        ["dead-letters", tag, "other"] => {
            run(parts(tag).sink(sink::json_lines("out.jsonl")).dead_letters("other.jsonl"))
        }
        ["dead-letters", tag, "none"] => run(parts(tag).sink(sink::json_lines("out.jsonl"))),
        ["csv", tag] => run(parts(tag).sink(sink::csv("out.csv", ["job", "part", "text"]))),
        ["csv", tag, dead_letters] => {
            run(parts(tag).sink(sink::csv("out.csv", ["job", "part"])).dead_letters(dead_letters))
        }
        ["columns", "none"] => run(parts("n").sink(sink::csv("out.csv", [""; 0]))),
        ["columns", "twice"] => run(parts("n").sink(sink::csv("out.csv", ["a", "b", "a"]))),
        ["lines"] => lines(),
        #[cfg(feature = "sqlite")]
        ["sqlite", tag] => run(parts(tag).sink(sink::sqlite("out.db", "parts"))),
        #[cfg(feature = "bincode")]
        ["bincode"] => run(parts("b").sink(sink::own(Rewinding(None)).bincode())),
        _ => {
            eprintln!("which pipeline?");
            ExitCode::from(2)
        }
    }
}

fn policy(text: &str) -> SyncPolicy {
    match text {
        "always" => SyncPolicy::Always,
        _ => SyncPolicy::Every(Duration::from_millis(5)),
    }
}

/// Two records of each job, but for every seventh, which fails after the first one.
fn parts(tag: &str) -> Workers<Part> {
    Pipeline::new("sinks")
        .jobs(source::lines("jobs.txt"))
        .worker(tag, |job: &Job, out: &mut Emitter<Part>| {
            std::thread::sleep(Duration::from_micros(500));
            // What a field of comma-separated values has to be quoted for.
            let text = format!("{}, \"quoted\"\nand more", job.as_str()?);
            out.emit(&Part { job: job.seq(), part: 1, text: text.clone() })?;
            if job.seq().is_multiple_of(7) {
                return Err(JobError::new("a seventh job"));
            }
            out.emit(&Part { job: job.seq(), part: 2, text })
        })
        .processes(2)
        .threads(2)
}

fn run(pipeline: Ready) -> ExitCode {
    pipeline
        .flush(Buffer {
            flush_records: 8,
            flush_bytes: 1 << 20,
            flush_after: Duration::from_millis(5),
        })
        .spool(Spool { lane: Some(16 << 10), jobs: 64, job_bytes: 64, ..Spool::default() })
        // Deaths are forgotten at once: each pause is the first one, and there is no limit.
        .restart(Restart { max: 1000, within: Duration::from_millis(1) })
        .run()
        .into()
}

/// Text as it is; what is called "two" is two lines.
fn lines() -> ExitCode {
    let pipeline = Pipeline::new("lines")
        .jobs(source::lines("jobs.txt"))
        .worker("lines", |job: &Job, out: &mut Emitter<String>| {
            out.emit(&job.as_str()?.replace("two", "t\nwo"))
        })
        .sink(sink::lines("out.txt"));
    run(pipeline)
}

fn text_of(batch: &Records<Part>) -> String {
    batch.iter().map(|part| format!("{} {}\n", part.job, part.part)).collect()
}

/// A directory in which each batch is a file, by its number, that comes into being by a rename.
#[derive(Default)]
struct Transactional {
    directory: PathBuf,
}

impl procsig::Sink<Part> for Transactional {
    fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
        self.directory = PathBuf::from(format!("batches-{:016x}", opening.spool));
        std::fs::create_dir_all(&self.directory)?;
        let path = |number: u64| self.directory.join(format!("{number:020}"));
        Ok(match opening.unfinished {
            Some(number) if path(number).exists() => Opened::Written(number),
            _ => Opened::At(opening.position.unwrap_or(0)),
        })
    }

    fn write(&mut self, batch: &Records<Part>) -> Result<u64, SinkError> {
        let path = self.directory.join(format!("{:020}", batch.number()));
        let temporary = self.directory.join("unfinished");
        std::fs::write(&temporary, text_of(batch))?;
        if path.exists() {
            return Err(SinkError::new(format_args!("batch {} comes twice", batch.number())));
        }
        std::fs::rename(temporary, path)?;
        Ok(batch.number())
    }
}

/// A file that is cut to where it was.
struct Rewinding(Option<File>);

impl procsig::Sink<Part> for Rewinding {
    fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
        let mut file = File::options().create(true).append(true).open("own.txt")?;
        if let Some(position) = opening.position {
            file.set_len(position)?;
        }
        let position = file.seek(SeekFrom::End(0))?;
        self.0 = Some(file);
        Ok(Opened::At(position))
    }

    fn write(&mut self, batch: &Records<Part>) -> Result<u64, SinkError> {
        let file = self.0.as_mut().ok_or_else(|| SinkError::new("not open"))?;
        // In two parts, to be killed in between.
        let text = text_of(batch);
        let (first, second) = text.split_at(text.len() / 2);
        file.write_all(first.as_bytes())?;
        file.write_all(second.as_bytes())?;
        Ok(file.stream_position()?)
    }

    fn sync(&mut self) -> Result<(), SinkError> {
        self.0.as_ref().map_or(Ok(()), |file| Ok(file.sync_data()?))
    }
}

/// One that does as it is told, wrongly.
struct Failing(String);

impl procsig::Sink<Part> for Failing {
    fn open(&mut self, _: &Opening) -> Result<Opened, SinkError> {
        match self.0.as_str() {
            "open" => Err(SinkError::new("no such server")),
            "busy" => Err(SinkError::retry("the server is being started")),
            _ => Ok(Opened::At(0)),
        }
    }

    fn write(&mut self, _: &Records<Part>) -> Result<u64, SinkError> {
        match self.0.as_str() {
            "panic" => panic!("lost its head"),
            "hang" => loop {
                std::thread::park();
            },
            _ => Err(SinkError::new("the table is gone")),
        }
    }
}
