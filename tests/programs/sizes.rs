//! A daemon with functions, a sink and a source of its own. Not an example to follow.
//!
//! One function says how large a file is, as a command and a coprocess do in `tests/same_results.rs`.

use procsig::sink::{Opened, Opening, Records, SinkError, own};
use procsig::source::iter;
use procsig::{Daemon, Emitter, Job, JobError, Sink};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::process::ExitCode;
use std::time::Duration;

#[derive(serde::Serialize, serde::Deserialize)]
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

/// A job's own text: another type than a size.
fn echo(job: &Job, out: &mut Emitter<String>) -> Result<(), JobError> {
    out.emit(&job.as_str()?.to_owned())
}

/// A line for each size, in a file that is cut to where it was committed.
struct Table(Option<File>);

impl Sink<Size> for Table {
    fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
        let mut file = File::options().create(true).append(true).open("table.txt")?;
        if let Some(position) = opening.position {
            file.set_len(position)?;
        }
        let end = file.seek(SeekFrom::End(0))?;
        self.0 = Some(file);
        Ok(Opened::At(end))
    }

    fn write(&mut self, sizes: &Records<Size>) -> Result<u64, SinkError> {
        let file = self.0.as_mut().ok_or(SinkError::new("not open"))?;
        for Size { job, value } in sizes {
            writeln!(file, "{job} {value}")?;
        }
        Ok(file.stream_position()?)
    }
}

fn main() -> ExitCode {
    Daemon::new()
        .worker("size", size)
        .worker("echo", echo)
        .sink("table", own(Table(None)))
        .source("hundred", iter(|| (0..100).map(|number| number.to_string())))
        .main()
}
