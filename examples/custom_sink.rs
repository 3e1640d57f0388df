//! A sink of one's own: a line for each batch, with how many records it had and how long they were.
//!
//! ```text
//! cargo run --example custom_sink LIST OUTPUT
//! ```
//!
//! It can go back to a position, so it has each record once, whoever is killed.

use procsig::sink::{Opened, Opening, Records, SinkError};
use procsig::{Emitter, Job, Pipeline, Sink};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::process::ExitCode;

struct Totals {
    path: String,
    file: Option<File>,
}

impl Sink<u64> for Totals {
    fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        if let Some(position) = opening.position {
            if file.metadata()?.len() < position {
                return Err(SinkError::new("this is not the file that was written to"));
            }
            file.set_len(position)?;
        }
        let position = file.seek(SeekFrom::End(0))?;
        self.file = Some(file);
        Ok(Opened::At(position))
    }

    fn write(&mut self, batch: &Records<u64>) -> Result<u64, SinkError> {
        let file = self.file.as_mut().ok_or_else(|| SinkError::new("not open"))?;
        writeln!(file, "{} records, {} bytes", batch.len(), batch.iter().sum::<u64>())?;
        Ok(file.stream_position()?)
    }

    fn sync(&mut self) -> Result<(), SinkError> {
        self.file.as_ref().map_or(Ok(()), |file| Ok(file.sync_data()?))
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(list), Some(path)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: custom_sink LIST OUTPUT");
        return ExitCode::from(2);
    };
    Pipeline::new("totals")
        .jobs(procsig::source::lines(list))
        .worker("length", |job: &Job, out: &mut Emitter<u64>| {
            out.emit(&(job.as_bytes().len() as u64))
        })
        .sink(procsig::sink::own(Totals { path, file: None }))
        .run()
        .into()
}
