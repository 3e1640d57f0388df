//! A daemon with functions of its own: every command, every option and the whole configuration file of
//! `procsig`.
//!
//! ```text
//! find . -name '*.rs' | cargo run --example daemon -- run --function crc -o sums.jsonl
//! cargo run --example daemon -- help run
//! ```

use procsig::{Daemon, Emitter, Job, JobError, Stop};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

#[derive(serde::Serialize)]
struct Checksum {
    file: String,
    bytes: usize,
    crc32c: u32,
}

/// Called for each job: the name of a file.
fn crc(job: &Job, out: &mut Emitter<Checksum>) -> Result<(), JobError> {
    let file = job.as_str()?;
    let content = std::fs::read(file)?;
    out.emit(&Checksum {
        file: file.into(),
        bytes: content.len(),
        crc32c: crc32c::crc32c(&content),
    })
}

#[derive(serde::Serialize)]
struct Beat {
    unix_seconds: u64,
}

/// Runs until it is told to stop, beside whatever else the configuration declares.
fn heartbeat(stop: &Stop, out: &mut Emitter<Beat>) -> Result<(), JobError> {
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        out.emit(&Beat { unix_seconds: now.as_secs() })?;
        if stop.wait(Duration::from_secs(1)) {
            return Ok(());
        }
    }
}

fn main() -> ExitCode {
    Daemon::new().worker("crc", crc).producer("heartbeat", heartbeat).main()
}
