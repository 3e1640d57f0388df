//! Benchmarks of procsig beside others. See `docs/performance.md`.

mod bare;
mod commands;
mod contest;
mod growth;
mod idle;
mod latency;
mod machine;
mod page;
mod pending;
mod picture;
mod processes;
mod record;
mod records;
mod report;
mod scale;
mod stop;
mod suite;

#[cfg(feature = "iceoryx2")]
use records::iceoryx;
use records::{Task, append, crossbeam, ipc, pipes, procsig};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: procsig-benches all RESULTS --memory FOLDER --disk FOLDER [--rounds N] \
                     [--small] [--of TEXT] [--page FILE] [WORKLOAD ...]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("procsig-benches: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> io::Result<ExitCode> {
    match words {
        ["all", results, options @ ..] => all(Path::new(results), options)?,
        // What it starts of itself.
        ["contestant", name, output, producers, records] => {
            let (producers, records) = (number(producers)?, number(records)?);
            contestant(name, Task { output: PathBuf::from(output), producers, records })?;
        }
        ["producer", role, rest @ ..] => producer(role, rest)?,
        ["pending", output, records, recovers @ ..] => {
            let recovers = recovers == ["recover"];
            return Ok(pending::pipeline(Path::new(output), number(records)?, recovers));
        }
        ["latency", output, records] => {
            return Ok(latency::measure(Path::new(output), number(records)?));
        }
        ["echo"] => latency::echo()?,
        ["bare", processes, wait @ ..] => {
            bare::supervise(number(processes)? as usize, wait == ["wait"])?;
        }
        _ => return Err(io::Error::other(USAGE)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs workloads, and writes `results.md`, `results.svg` and `results.tsv` into the folder; if there is
/// a page of the documentation, its tables and the picture beside it as well.
fn all(results: &Path, options: &[&str]) -> io::Result<()> {
    let (mut memory, mut disk, mut page, mut of) = (None, None, None, None);
    let (mut rounds, mut scale, mut workloads) = (5, scale::FULL, Vec::new());
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let mut value = || options.next().ok_or_else(|| io::Error::other(USAGE));
        match *option {
            "--memory" => memory = Some(PathBuf::from(value()?)),
            "--disk" => disk = Some(PathBuf::from(value()?)),
            "--page" => page = Some(PathBuf::from(value()?)),
            "--of" => of = Some(value()?.to_string()),
            "--rounds" => rounds = number(value()?)?.max(1) as usize,
            "--small" => scale = scale::SMALL,
            workload => workloads.push(workload.to_string()),
        }
    }
    let (Some(memory), Some(disk)) = (memory, disk) else { return Err(io::Error::other(USAGE)) };
    if page.is_some() && !workloads.is_empty() {
        return Err(io::Error::other("the page shows all workloads of one run"));
    }
    let mut found = suite::run(suite::Plan { memory, disk, rounds, scale, workloads })?;
    found.conditions.extend(of.iter().flat_map(|of| [" ", of]));
    let (tables, picture) = (found.tables(), picture::picture(&found.rows));
    print!("{tables}");
    fs::write(results.join("results.md"), &tables)?;
    fs::write(results.join("results.tsv"), found.raw())?;
    fs::write(results.join("results.svg"), &picture)?;
    if let Some(page) = page {
        fs::write(&page, page::with(&fs::read_to_string(&page)?, &tables)?)?;
        fs::write(page.with_extension("svg"), &picture)?;
    }
    Ok(())
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

/// One of those that carry records to a file.
fn contestant(name: &str, task: Task) -> io::Result<()> {
    match name {
        "procsig" => procsig::run(&task),
        "append" => append::run(&task, false),
        "append-synced" => append::run(&task, true),
        "crossbeam" => crossbeam::each(&task),
        "crossbeam-256" => crossbeam::batched(&task),
        "crossbeam-blocks" => crossbeam::blocks(&task),
        "ipc-channel" => ipc::run(&task, 1),
        "ipc-channel-256" => ipc::run(&task, 256),
        #[cfg(feature = "iceoryx2")]
        "iceoryx2" => iceoryx::run(&task, 1),
        #[cfg(feature = "iceoryx2")]
        "iceoryx2-256" => iceoryx::run(&task, 256),
        "pipes" => pipes::run(&task),
        _ => Err(io::Error::other(format!("no contestant {name:?}"))),
    }
}

/// A producer process of one of them.
fn producer(role: &str, arguments: &[&str]) -> io::Result<()> {
    let [producer, records, rest @ ..] = arguments else {
        return Err(io::Error::other("producer ROLE PRODUCER RECORDS ..."));
    };
    let (producer, records) = (number(producer)?, number(records)?);
    match (role, rest) {
        ("append", [output]) => append::produce(producer, records, Path::new(output)),
        ("pipes", []) => pipes::produce(producer, records),
        ("lines", []) => pipes::produce_lines(producer, records),
        ("socket", [path]) => pipes::produce_to_socket(producer, records, Path::new(path)),
        ("ipc", [server, batch]) => {
            ipc::produce(producer, records, (*server).to_string(), number(batch)?)
        }
        #[cfg(feature = "iceoryx2")]
        ("iceoryx", [name, batch]) => {
            iceoryx::produce(producer, records, name, number(batch)? as usize)
        }
        _ => Err(io::Error::other("no such producer")),
    }
}
