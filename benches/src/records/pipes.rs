//! Processes and a pipe each, through which a producer sends blocks that it has encoded. And a
//! producer for loggers, all of which write into one pipe.

use super::{BLOCK, Task, producer_process, wait_for};
use crate::record::Record;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

/// What a pipe takes in one piece, see pipe(7).
const PIPE_BUF: usize = 4096;

/// # Errors
/// What the system says.
pub fn run(task: &Task) -> io::Result<()> {
    let mut producers = Vec::new();
    let mut pipes = Vec::new();
    for producer in 0..task.producers {
        let arguments = [producer.to_string(), task.records.to_string()];
        let mut command = producer_process("pipes", &arguments)?;
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let pipe = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        rustix::pipe::fcntl_setpipe_size(&pipe, 1 << 20)?;
        // What was read of it and is no whole line yet.
        pipes.push((pipe, Vec::with_capacity(2 << 20)));
        producers.push(child);
    }
    let mut file = File::create(&task.output)?;
    while !pipes.is_empty() {
        let mut ready: Vec<PollFd<'_>> =
            pipes.iter().map(|(pipe, _)| PollFd::new(pipe, PollFlags::IN)).collect();
        poll(&mut ready, None)?;
        let ready: Vec<bool> = ready.iter().map(|it| !it.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let mut failed = None;
        pipes.retain_mut(|(pipe, bytes)| {
            if ready.next() != Some(true) {
                return true;
            }
            match pass_on(pipe, bytes, &mut file) {
                Ok(more) => more,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
    }
    wait_for(producers)
}

/// Reads once, and writes what there is of whole lines. Says if there may be more.
fn pass_on(pipe: &mut impl Read, bytes: &mut Vec<u8>, file: &mut File) -> io::Result<bool> {
    let before = bytes.len();
    bytes.resize(before + (1 << 20), 0);
    let read = pipe.read(&mut bytes[before..])?;
    bytes.truncate(before + read);
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    file.write_all(&bytes[..whole])?;
    bytes.drain(..whole);
    Ok(read > 0)
}

/// # Errors
/// What the system says.
pub fn produce(producer: u64, records: u64) -> io::Result<()> {
    write_blocks(&mut unbuffered_stdout()?, BLOCK + 256, producer, records)
}

/// For a pipe that several producers write to: what is no longer than `PIPE_BUF` is not torn apart.
///
/// # Errors
/// What the system says.
pub fn produce_lines(producer: u64, records: u64) -> io::Result<()> {
    write_blocks(&mut unbuffered_stdout()?, PIPE_BUF, producer, records)
}

/// For loggers that listen on a Unix socket.
///
/// # Errors
/// What the system says.
pub fn produce_to_socket(producer: u64, records: u64, socket: &Path) -> io::Result<()> {
    write_blocks(&mut UnixStream::connect(socket)?, BLOCK + 256, producer, records)
}

/// Writes whole lines, at most so many bytes at a time.
fn write_blocks(out: &mut impl Write, most: usize, producer: u64, records: u64) -> io::Result<()> {
    let mut block = Vec::with_capacity(most + 256);
    for number in 0..records {
        let whole = block.len();
        Record::of(producer, number).encode(&mut block);
        if block.len() > most {
            out.write_all(&block[..whole])?;
            block.drain(..whole);
        }
    }
    out.write_all(&block)
}

/// Standard output without the buffer of the library, which tears blocks apart.
fn unbuffered_stdout() -> io::Result<File> {
    Ok(File::from(rustix::io::dup(io::stdout())?))
}
