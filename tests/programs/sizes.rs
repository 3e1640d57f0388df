//! A daemon whose one function says how large a file is, as a command and a coprocess do in
//! `tests/same_results.rs`. Not an example to follow.

use procsig::{Daemon, Emitter, Job, JobError};
use std::process::ExitCode;
use std::time::Duration;

#[derive(serde::Serialize)]
struct Size {
    job: String,
    value: u64,
}

fn size(job: &Job, out: &mut Emitter<Size>) -> Result<(), JobError> {
    let file = job.as_str()?;
    // About as long as a command takes: so it is killed half-way as often.
    std::thread::sleep(Duration::from_millis(3));
    out.emit(&Size { job: file.into(), value: std::fs::metadata(file)?.len() })
}

fn main() -> ExitCode {
    Daemon::new().worker("size", size).main()
}
