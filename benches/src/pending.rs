//! Records that are published and not yet written: how long it takes to write them at a stop, and at
//! the start after everything was killed.

use crate::contest::median;
use crate::processes::{Manager, Running, daemon, kib, tree};
use crate::record::{self, Record};
use procsig::{Emitter, Pipeline, Stop, config};
use rustix::process::Signal;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a record in a lane, with its frames: no less.
const FRAMED: u64 = 192;

/// A pipeline that publishes records, says so by a byte, and writes none before it is stopped. If it is
/// there to recover, it publishes none.
pub fn pipeline(output: &Path, records: u64, recovers: bool) -> ExitCode {
    let never = Duration::from_secs(3600);
    let produce = move |stop: &Stop, out: &mut Emitter<'_, Record>| {
        if recovers {
            return Ok(());
        }
        for number in 0..records {
            out.emit(&Record::of(0, number))?;
        }
        io::stdout().write_all(b".").and_then(|()| io::stdout().flush())?;
        while !stop.wait(never) {}
        Ok(())
    };
    let lane = (records * FRAMED).clamp(1 << 20, 1 << 30);
    Pipeline::new("pending")
        .producer("p", produce)
        .sink(procsig::sink::json_lines(output))
        .flush(config::Buffer {
            flush_records: u64::MAX,
            flush_bytes: u64::MAX,
            flush_after: never,
        })
        .shutdown(config::Shutdown {
            deadline: Duration::from_secs(60),
            flush_reserve: Duration::from_secs(50),
        })
        .spool(config::Spool { lane: Some(lane), ..config::Spool::default() })
        .run()
        .into()
}

fn command(output: &Path, records: u64, recovers: bool) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("pending").arg(output).arg(records.to_string());
    command.args(recovers.then_some("recover")).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(command)
}

/// Such a pipeline, when all of its records are published.
fn start(output: &Path, records: u64) -> io::Result<Running> {
    let mut main = command(output, records, false)?.spawn()?;
    let mut said = main.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    said.read_exact(&mut [0])?;
    match fs::metadata(output)?.len() {
        0 => Running::of(main),
        written => Err(io::Error::other(format!("{written} bytes were written before the stop"))),
    }
}

/// Seconds to stop a pipeline in which so many records wait to be written.
///
/// # Errors
/// If one of them is not in the output.
pub fn stop(folder: &Path, records: u64) -> io::Result<f64> {
    let folder = tempfile::tempdir_in(folder)?;
    let output = folder.path().join("out.jsonl");
    let took = start(&output, records)?.stop(Signal::TERM)?;
    record::verify(&output, 1, records)?;
    Ok(took)
}

/// What a start after everything was killed has come to.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// From the start to the end of the last process, with everything written and on the disk.
    pub seconds: f64,
    /// Memory of its own that all processes together had at a time, at the most, as far as looks every
    /// few milliseconds have seen. Not the spool, which is a file, and is in the page cache.
    pub own_kib: f64,
}

/// Kills all of a pipeline in which so many records wait to be written, and starts it again.
///
/// # Errors
/// If one of them is not in the output.
pub fn recover(folder: &Path, records: u64) -> io::Result<Recovery> {
    let folder = tempfile::tempdir_in(folder)?;
    let output = folder.path().join("out.jsonl");
    start(&output, records)?.kill_all()?;
    let began = Instant::now();
    let mut main = command(&output, records, true)?.spawn()?;
    let (pid, over) = (main.id(), AtomicBool::new(false));
    let (status, own_kib) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| most_memory(pid, &over));
        let status = main.wait();
        let seconds = began.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        (status.map(|status| (status, seconds)), watch.join().unwrap_or(f64::NAN))
    });
    let (status, seconds) = status?;
    if !status.success() {
        return Err(io::Error::other(format!("the start after the kill: {status}")));
    }
    record::verify(&output, 1, records)?;
    Ok(Recovery { seconds, own_kib })
}

fn most_memory(main: u32, over: &AtomicBool) -> f64 {
    let mut most = 0.0;
    while !over.load(Ordering::Relaxed) {
        let now = tree(main).into_iter().filter_map(|pid| kib(pid, "status", "RssAnon")).sum();
        most = f64::max(most, now);
        std::thread::sleep(Duration::from_millis(5));
    }
    most
}

/// Seconds to write so many bytes to a new file and to the disk.
///
/// # Errors
/// What the system says.
pub fn disk(folder: &Path, bytes: u64) -> io::Result<f64> {
    let block: Vec<u8> = (0..1 << 20).map(|at| (at % 251) as u8).collect();
    let began = Instant::now();
    let mut file = tempfile::tempfile_in(folder)?;
    let mut left = bytes;
    while left > 0 {
        let part = left.min(block.len() as u64);
        file.write_all(&block[..part as usize])?;
        left -= part;
    }
    file.sync_data()?;
    Ok(began.elapsed().as_secs_f64())
}

/// What it takes to start with a large spool.
#[derive(Debug, Clone, Copy)]
pub struct Large {
    /// Until all is ready, with a spool that is created.
    pub new: f64,
    /// The same with the spool that everything was killed with.
    pub after_kill: f64,
    /// Proportional memory of all processes of the latter, in MiB.
    pub pss_mib: f64,
}

/// A daemon whose spool has a lane of so many bytes; medians of so many times.
///
/// # Errors
/// If it does not get ready.
pub fn large(folder: &Path, lane: u64, rounds: usize) -> io::Result<Large> {
    let (mut new, mut after_kill, mut pss) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let folder = tempfile::tempdir_in(folder)?;
        let config = format!(
            "jobs.lines = \"-\"\noutput.file = \"out.jsonl\"\nspool.lane = \"{lane}B\"\n\
             [workers.w]\nfunction = \"nothing\"\nprocesses = 1\n"
        );
        fs::write(folder.path().join("large.toml"), config)?;
        for (times, is_last) in [(&mut new, false), (&mut after_kill, true)] {
            let mut command = Command::new(daemon()?);
            command.args(["run", "large.toml", "-q"]).current_dir(folder.path());
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let manager = Manager::new()?;
            let began = Instant::now();
            let main = manager.start(&mut command)?;
            times.push(began.elapsed().as_secs_f64());
            let running = Running::of(main)?;
            if is_last {
                let all = tree(running.main.id());
                let sum: f64 = all.iter().filter_map(|it| kib(*it, "smaps_rollup", "Pss")).sum();
                pss.push(sum / 1024.0);
            }
            running.kill_all()?;
        }
    }
    Ok(Large { new: median(&new), after_kill: median(&after_kill), pss_mib: median(&pss) })
}
