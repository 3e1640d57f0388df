//! Benchmarks of procsig beside others. See `docs/performance.md`.

mod commands;
mod contest;
mod growth;
mod idle;
mod latency;
mod processes;
mod record;
mod records;
mod report;
mod stop;
mod suite;

use records::{Task, append, crossbeam, iceoryx, ipc, pipes, procsig};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["contestant", name, output, producers, records] => number(producers)
            .and_then(|producers| Ok((producers, number(records)?)))
            .and_then(|(producers, records)| {
                contestant(name, Task { output: PathBuf::from(output), producers, records })
            }),
        ["producer", role, rest @ ..] => producer(role, rest),
        ["pending", output] => return stop::pending(Path::new(output)),
        ["latency", output] => return latency::measure(Path::new(output)),
        ["echo"] => latency::echo(),
        ["all", folder, rounds, workloads @ ..] => number(rounds)
            .and_then(|rounds| suite::run(Path::new(folder), rounds as usize, workloads)),
        _ => Err(io::Error::other("usage: all FOLDER ROUNDS [WORKLOAD ...]")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("procsig-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

/// One of those that carry records to a file.
fn contestant(name: &str, task: Task) -> io::Result<()> {
    match name {
        "procsig" => procsig::run(&task),
        "append" => append::run(&task),
        "crossbeam" => crossbeam::each(&task),
        "crossbeam-256" => crossbeam::batched(&task),
        "crossbeam-blocks" => crossbeam::blocks(&task),
        "ipc-channel" => ipc::run(&task, 1),
        "ipc-channel-256" => ipc::run(&task, 256),
        "iceoryx2" => iceoryx::run(&task, 1),
        "iceoryx2-256" => iceoryx::run(&task, 256),
        "pipes" => pipes::run(&task),
        _ => Err(io::Error::other(format!("no contestant {name:?}"))),
    }
}

/// A producer process of one of them.
fn producer(role: &str, arguments: &[&str]) -> io::Result<()> {
    match (role, arguments) {
        ("append", [producer, records, output]) => {
            append::produce(number(producer)?, number(records)?, Path::new(output))
        }
        ("pipes", [producer, records]) => pipes::produce(number(producer)?, number(records)?),
        ("ipc", [producer, records, server, batch]) => {
            ipc::produce(number(producer)?, number(records)?, (*server).to_string(), number(batch)?)
        }
        ("iceoryx", [producer, records, name, batch]) => {
            iceoryx::produce(number(producer)?, number(records)?, name, number(batch)? as usize)
        }
        _ => Err(io::Error::other("no such producer")),
    }
}
