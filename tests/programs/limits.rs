//! Workers for tests/limits.rs: what each job takes and keeps is said by its text.
//!
//! Settings are `key=value` each: what the library is told.

use procsig::config::{Limits, Privileges, Restart};
use procsig::{Emitter, Job, JobError, Pipeline, sink, source};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

#[derive(serde::Serialize)]
struct Record {
    job: String,
    seq: u64,
    pid: u32,
}

fn main() -> ExitCode {
    procsig::block_signals();
    let settings: Vec<String> = std::env::args().skip(1).collect();
    let get = |key: &str| settings.iter().find_map(|it| it.strip_prefix(key)?.strip_prefix('='));
    let number = |key: &str| get(key).map(|text| text.parse::<u64>().expect("a number"));
    let signed = |key: &str| get(key).map(|text| text.parse::<i32>().expect("a number"));
    let mut workers = Pipeline::new("limits")
        .jobs(source::lines("jobs.txt"))
        .worker("limited", |job: &Job, out: &mut Emitter<Record>| act(job, out))
        .processes(number("processes").unwrap_or(2) as u16)
        .threads(number("threads").unwrap_or(4) as u16)
        .limits(Limits {
            memory: number("memory"),
            descriptors: number("descriptors"),
            nice: signed("nice"),
            oom_score_adj: signed("oom"),
        });
    if let Some(jobs) = number("after") {
        workers = workers.recycle_after(jobs);
    }
    if let Some(bytes) = number("above") {
        workers = workers.recycle_above(bytes);
    }
    let privileges = Privileges {
        user: get("user").map(Into::into),
        group: get("group").map(Into::into),
        no_new_privs: get("no-new-privs").is_some(),
    };
    let mut pipeline = workers.sink(sink::json_lines("out.jsonl")).privileges(privileges);
    if get("immortal").is_some() {
        // Deaths are forgotten at once: there is no limit.
        pipeline = pipeline.restart(Restart { max: 1000, within: Duration::from_millis(1) });
    }
    pipeline.run().into()
}

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn act(job: &Job, out: &mut Emitter<Record>) -> Result<(), JobError> {
    let text = job.as_str()?;
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word {
        "abort" => std::process::abort(),
        "take" => drop(memory(rest.parse()?)),
        "keep" => KEPT.lock().expect("no panic").push(memory(rest.parse()?)),
        "sleep" => std::thread::sleep(Duration::from_millis(rest.parse()?)),
        "await" => {
            note("begun", &std::process::id().to_string())?;
            while !std::path::Path::new(rest).exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        _ => {}
    }
    note("ended", &format!("{} {}", job.seq(), std::process::id()))?;
    out.emit(&Record { job: text.into(), seq: job.seq(), pid: std::process::id() })
}

/// So many MiB, all of them used.
fn memory(mib: usize) -> Vec<u8> {
    std::hint::black_box(vec![1; mib << 20])
}

fn note(file: &str, line: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{line}\n").as_bytes())
}
