//! A worker function that writes garbage over memory that it may write, for tests/hostile.rs.
//!
//! A job is a word: `ring`, `slots`, `ends` and `all` say over what; `zeros-ring` writes zeros, and so on.
//! Any other word does nothing of the kind. What has been done once is not done again.

use procsig::{Emitter, Job, JobError, Pipeline, config, sink, source};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

#[derive(serde::Serialize)]
struct Record {
    job: String,
    seq: u64,
    part: u64,
    pid: u32,
}

fn main() -> ExitCode {
    procsig::block_signals();
    let set = config::Spool { lane: Some(64 << 10), jobs: 64, ..config::Spool::default() };
    Pipeline::new("hostile")
        .jobs(source::lines("jobs.txt"))
        .worker("hostile", work)
        .processes(2)
        .threads(1)
        .sink(sink::json_lines("out.jsonl"))
        .flush(config::Buffer {
            flush_records: 1_000_000,
            flush_bytes: 1 << 30,
            flush_after: Duration::from_secs(3600),
        })
        .shutdown(config::Shutdown {
            deadline: Duration::from_secs(10),
            flush_reserve: Duration::from_secs(2),
        })
        .spool(set)
        .run()
        .into()
}

fn work(job: &Job, out: &mut Emitter<Record>) -> Result<(), JobError> {
    let (text, seq, pid) = (job.as_str()?.to_owned(), job.seq(), std::process::id());
    for part in 1..=2 {
        out.emit(&Record { job: text.clone(), seq, part, pid })?;
    }
    // So that each of the two processes has published something elsewhere.
    match text.as_str() {
        "job-1" => meet("job-1", "job-2"),
        "job-2" => meet("job-2", "job-1"),
        _ => {}
    }
    let (bytes, place) = match text.strip_prefix("zeros-") {
        Some(place) => (Bytes::Zeros, place),
        None => (Bytes::Garbage(seq), text.as_str()),
    };
    let over: Option<fn(&Mapped) -> bool> = match place {
        "ring" => Some(|it| it.twice),
        "slots" => Some(|it| !it.twice && it.number == 1),
        "ends" => Some(|it| !it.twice && it.number == 2),
        "all" => Some(|_| true),
        _ => None,
    };
    if let Some(over) = over
        && first(&text)
    {
        scribble(over, bytes)?;
    }
    Ok(())
}

/// Waits until the other job was begun as well.
fn meet(own: &str, other: &str) {
    first(own);
    while !Path::new(&format!("first-{other}")).exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Is it the first to do this, of all processes and runs?
fn first(what: &str) -> bool {
    File::options().write(true).create_new(true).open(format!("first-{what}")).is_ok()
}

enum Bytes {
    Zeros,
    Garbage(u64),
}

/// Memory that this process shares with others and may write.
struct Mapped {
    start: u64,
    len: u64,
    /// A ring is mapped twice in a row.
    twice: bool,
    /// Of those that are no ring, in the order in which they stand in the spool.
    number: usize,
}

/// Through the kernel, so that no pointer is needed; memory that is read-only stays as it is.
fn scribble(over: fn(&Mapped) -> bool, bytes: Bytes) -> Result<(), JobError> {
    let memory = File::options().write(true).open("/proc/self/mem")?;
    for mapped in mapped()?.iter().filter(|mapped| over(mapped)) {
        let mut garbage = vec![0; mapped.len as usize];
        if let Bytes::Garbage(seed) = bytes {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            for byte in &mut garbage {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state as u8;
            }
        }
        memory.write_all_at(&garbage, mapped.start)?;
        println!("{} bytes", mapped.len);
    }
    Ok(())
}

fn mapped() -> Result<Vec<Mapped>, JobError> {
    let mut by_offset: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, "rw-s", offset, _, _, path] = words[..] else { continue };
        if !path.ends_with(".spool") {
            continue;
        }
        let hex = |text: &str| u64::from_str_radix(text, 16);
        let (start, end) = range.split_once('-').ok_or_else(|| JobError::new("no range"))?;
        let (start, end) = (hex(start)?, hex(end)?);
        by_offset.entry(hex(offset)?).or_default().push((start, end - start));
    }
    let mut number = 0;
    let mapped = by_offset.into_values().map(|places| {
        let twice = places.len() > 1;
        let mapped = Mapped { start: places[0].0, len: places[0].1, twice, number };
        number += usize::from(!twice);
        mapped
    });
    Ok(mapped.collect())
}
