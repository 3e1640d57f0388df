//! Pipelines whose jobs and records have any bytes, and any number of them, for `tests/bytes.rs`.

mod noise;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use noise::Noise;
use procsig::config::{Shutdown, Spool};
use procsig::sink::{Opened, Opening, Records, SinkError};
use procsig::{Emitter, Job, JobError, Pipeline, Ready, Sink, Stop, sink, source};
use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    procsig::block_signals();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["records", lane] => run(records(), lane, 512),
        ["texts", lane] => run(texts(), lane, 512),
        ["nothing"] => run(nothing(), "8192", 64),
        ["nothing", "postcard"] => nothing_in_a_file(),
        ["producer", lane, lengths] => run(producer(lengths.to_owned()), lane, 64),
        ["echo", lane, job_bytes] => run(echo(), lane, number(job_bytes)),
        _ => {
            eprintln!("which pipeline?");
            ExitCode::from(2)
        }
    }
}

fn run(pipeline: Ready, lane: &str, job_bytes: u32) -> ExitCode {
    let lane = Some(number(lane));
    // Megabytes, on a machine that has much else to do.
    let (deadline, flush_reserve) = (Duration::from_secs(50), Duration::from_secs(40));
    pipeline
        .spool(Spool { lane, job_bytes, jobs: 16, file: None })
        .shutdown(Shutdown { deadline, flush_reserve })
        .run()
        .into()
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("a number")
}

/// The first number of a job, and the others.
fn numbers(job: &Job) -> Result<(u64, Vec<usize>), JobError> {
    let mut words = job.as_str()?.split(' ');
    let seed = words.next().unwrap_or_default().parse()?;
    Ok((seed, words.map(number).collect()))
}

/// Bytes, with who they are in front of them.
fn chunk(seq: u64, part: u64, bytes: Vec<u8>) -> Vec<u8> {
    [&seq.to_le_bytes()[..], &part.to_le_bytes(), &bytes].concat()
}

/// A line for each chunk: job, part, and the bytes in base64.
struct Chunks(Option<File>);

impl Sink<Vec<u8>> for Chunks {
    fn open(&mut self, _: &Opening) -> Result<Opened, SinkError> {
        self.0 = Some(File::options().create(true).append(true).open("chunks.txt")?);
        Ok(Opened::At(0))
    }

    fn write(&mut self, chunks: &Records<Vec<u8>>) -> Result<u64, SinkError> {
        let file = self.0.as_mut().ok_or(SinkError::new("not open"))?;
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
        for chunk in chunks {
            let (seq, part) = (number(&chunk[..8])?, number(&chunk[8..16])?);
            writeln!(file, "{seq} {part} {}", BASE64.encode(&chunk[16..]))?;
        }
        Ok(0)
    }
}

/// Of each job `SEED LENGTH ..` a record of each of these lengths.
fn records() -> Ready {
    Pipeline::new("records")
        .jobs(source::lines("jobs.txt"))
        .worker("records", |job: &Job, out: &mut Emitter<Vec<u8>>| {
            let (seed, lengths) = numbers(job)?;
            let mut noise = Noise(seed);
            for (part, length) in (0..).zip(lengths) {
                out.emit(&chunk(job.seq(), part, noise.bytes(length)))?;
            }
            Ok(())
        })
        .attempts(2)
        .sink(sink::own(Chunks(None)))
        .dead_letters("dead.jsonl")
}

/// The same, with characters in place of bytes, as JSON.
fn texts() -> Ready {
    Pipeline::new("texts")
        .jobs(source::lines("jobs.txt"))
        .worker("texts", |job: &Job, out: &mut Emitter<(u64, u64, String)>| {
            let (seed, lengths) = numbers(job)?;
            let mut noise = Noise(seed);
            for (part, length) in (0..).zip(lengths) {
                out.emit(&(job.seq(), part, noise.text(length)))?;
            }
            Ok(())
        })
        .attempts(2)
        .sink(sink::json_lines("out.jsonl"))
        .dead_letters("dead.jsonl")
}

/// Counts records that have no bytes, a line for each batch.
struct Counted(Option<File>);

impl Sink<()> for Counted {
    fn open(&mut self, _: &Opening) -> Result<Opened, SinkError> {
        self.0 = Some(File::options().create(true).append(true).open("counts.txt")?);
        Ok(Opened::At(0))
    }

    fn write(&mut self, batch: &Records<()>) -> Result<u64, SinkError> {
        let file = self.0.as_mut().ok_or(SinkError::new("not open"))?;
        writeln!(file, "{}", batch.len())?;
        Ok(0)
    }
}

fn emit_nothing(job: &Job, out: &mut Emitter<()>) -> Result<(), JobError> {
    (0..job.as_str()?.parse()?).try_for_each(|_: u64| out.emit(&()))
}

/// As many records without any bytes as each job says.
fn nothing() -> Ready {
    Pipeline::new("nothing")
        .jobs(source::lines("jobs.txt"))
        .worker("nothing", emit_nothing)
        .sink(sink::own(Counted(None)))
}

/// Into a file whose format marks where a record ends; what is read back is counted.
fn nothing_in_a_file() -> ExitCode {
    let outcome = Pipeline::new("nothing")
        .jobs(source::lines("jobs.txt"))
        .worker("nothing", emit_nothing)
        .sink(sink::postcard("out.bin"))
        .run();
    let file = File::open("out.bin").expect("the output");
    let read = sink::read_postcard::<()>(file).map(|record| record.expect("a whole record"));
    println!("{}", read.count());
    outcome.into()
}

/// Records of these lengths; what is refused is noted with its reason.
fn producer(lengths: String) -> Ready {
    Pipeline::new("producer")
        .producer("producer", move |_: &Stop, out: &mut Emitter<Vec<u8>>| {
            for (part, length) in (0..).zip(lengths.split(' ')) {
                if let Err(error) = out.emit(&chunk(0, part, Noise(part).bytes(number(length)))) {
                    let mut refused = File::options().create(true).append(true).open("refused")?;
                    writeln!(refused, "{length} {error}")?;
                }
            }
            Ok(())
        })
        .sink(sink::own(Chunks(None)))
}

/// Each job's own bytes.
fn echo() -> Ready {
    Pipeline::new("echo")
        .jobs(source::lines("jobs.txt"))
        .worker("echo", |job: &Job, out: &mut Emitter<Vec<u8>>| {
            out.emit(&chunk(job.seq(), 0, job.as_bytes().to_vec()))
        })
        .sink(sink::own(Chunks(None)))
        .dead_letters("dead.jsonl")
}
