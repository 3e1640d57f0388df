//! From `emit` to the line in the file, and a pipe there and back for comparison.

use procsig::{Emitter, Pipeline, Stop, config};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// Microseconds of each of so many records.
///
/// # Errors
/// If the run fails.
pub fn procsig(folder: &Path, records: u64) -> io::Result<Vec<f64>> {
    let folder = tempfile::tempdir_in(folder)?;
    let output = folder.path().join("out.jsonl");
    let mut command = Command::new(std::env::current_exe()?);
    let ended = command
        .arg("latency")
        .arg(&output)
        .arg(records.to_string())
        .stderr(Stdio::null())
        .output()?;
    if !ended.status.success() {
        return Err(io::Error::other(format!("latency: {}", ended.status)));
    }
    let text = String::from_utf8(ended.stdout).map_err(io::Error::other)?;
    text.split_whitespace().map(|it| it.parse().map_err(io::Error::other)).collect()
}

/// A pipeline whose producer looks for each of its records in the file before it emits the next.
pub fn measure(output: &Path, records: u64) -> ExitCode {
    let path = output.to_path_buf();
    let produce = move |_: &Stop, out: &mut Emitter<'_, u64>| {
        let file = File::open(&path)?;
        let mut len = 0;
        let mut times = String::new();
        for number in 0..records {
            let line = format!("{number}\n");
            let began = Instant::now();
            out.emit(&number)?;
            // Gives up its processor each time: there may be only one.
            while file.metadata()?.size() < len + line.len() as u64 {
                std::thread::yield_now();
            }
            times.push_str(&format!("{:.3}\n", began.elapsed().as_secs_f64() * 1e6));
            let mut there = vec![0; line.len()];
            file.read_exact_at(&mut there, len)?;
            if there != line.as_bytes() {
                return Err(procsig::JobError::stop("another line is in the file"));
            }
            len += line.len() as u64;
        }
        io::stdout().write_all(times.as_bytes())?;
        Ok(io::stdout().flush()?)
    };
    Pipeline::new("latency")
        .producer("p", produce)
        .sink(procsig::sink::json_lines(output))
        .flush(config::Buffer { flush_records: 1, ..config::Buffer::default() })
        .run()
        .into()
}

/// Microseconds of a byte through a pipe to another process and back, so many times. Both ends are where
/// the scheduler puts them: mostly on one processor.
///
/// # Errors
/// What the system says.
pub fn pipe(bytes: u64) -> io::Result<Vec<f64>> {
    there_and_back(bytes, None)
}

/// The same, with the two ends on two processors. `None` if there is only one.
///
/// # Errors
/// What the system says.
pub fn pipe_between_processors(bytes: u64) -> io::Result<Option<Vec<f64>>> {
    let allowed = sched_getaffinity(None)?;
    let mut processors = (0..CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number));
    let (Some(here), Some(there)) = (processors.next(), processors.next()) else {
        return Ok(None);
    };
    // A thread of its own, so that nothing else is kept on one processor.
    std::thread::scope(|scope| {
        let measure = scope.spawn(|| {
            sched_setaffinity(None, &only(here))?;
            there_and_back(bytes, Some(only(there)))
        });
        measure.join().map_err(|_| io::Error::other("the measurement has panicked"))?.map(Some)
    })
}

fn only(processor: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(processor);
    set
}

fn there_and_back(bytes: u64, echo_on: Option<CpuSet>) -> io::Result<Vec<f64>> {
    let mut echo = Command::new(std::env::current_exe()?)
        .arg("echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(set) = echo_on {
        sched_setaffinity(Some(Pid::from_child(&echo)), &set)?;
    }
    let mut there = echo.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut back = echo.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut times = Vec::new();
    for _ in 0..bytes {
        let began = Instant::now();
        there.write_all(b".")?;
        back.read_exact(&mut [0])?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    drop(there);
    echo.wait()?;
    Ok(times)
}

/// Sends each byte back.
///
/// # Errors
/// What the system says.
pub fn echo() -> io::Result<()> {
    let (mut input, mut output) = (io::stdin().lock(), File::from(dup_stdout()?));
    let mut byte = [0];
    while input.read(&mut byte)? > 0 {
        output.write_all(&byte)?;
    }
    Ok(())
}

/// Standard output without the buffer of the library.
fn dup_stdout() -> io::Result<rustix::fd::OwnedFd> {
    Ok(rustix::io::dup(io::stdout())?)
}

/// Two processes that keep both processors busy, until they are dropped.
pub struct Load(Vec<std::process::Child>);

impl Load {
    /// # Errors
    /// What the system says.
    pub fn start() -> io::Result<Load> {
        let busy = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        Ok(Load(vec![busy()?, busy()?]))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It has not ended by itself, so these can't fail.
            let _killed = child.kill();
            let _reaped = child.wait();
        }
    }
}
