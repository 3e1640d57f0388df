//! A source of one's own: the lines of a file as others append them, for as long as it runs. What is
//! done is noted in a second file, FILE.done, and that may be twice after a crash.
//!
//! ```text
//! cargo run --example custom_source -- queue.txt OUTPUT &
//! echo 'a job' >> queue.txt
//! ```

use procsig::source::{Done, Next, Resume, SourceError, Wait};
use procsig::{Emitter, Job, Pipeline, Source};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::process::ExitCode;
use std::time::Duration;

struct Follow {
    path: String,
    file: Option<BufReader<File>>,
    /// Bytes that were handed out: the position.
    at: u64,
}

impl Source for Follow {
    fn open(&mut self, resume: &Resume<'_>) -> Result<(), SourceError> {
        self.at = resume.last().unwrap_or(0);
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.at))?;
        self.file = Some(BufReader::new(file));
        Ok(())
    }

    fn next(&mut self, _: &Wait<'_>, job: &mut Vec<u8>) -> Result<Next, SourceError> {
        let Some(file) = &mut self.file else { return Err(SourceError::fatal("not opened")) };
        file.read_until(b'\n', job)?;
        if job.last() != Some(&b'\n') {
            // Nothing, or half a line: the rest is yet to come.
            file.seek(SeekFrom::Start(self.at))?;
            return Ok(Next::After(Duration::from_millis(200)));
        }
        self.at += job.len() as u64;
        job.pop();
        Ok(Next::Job(self.at))
    }

    fn acknowledge(&mut self, done: &[Done]) -> Result<(), SourceError> {
        let mut note =
            OpenOptions::new().create(true).append(true).open(self.path.clone() + ".done")?;
        let lines: Vec<&[u8]> = done.iter().flat_map(|done| [&done.job[..], b"\n"]).collect();
        Ok(note.write_all(&lines.concat())?)
    }

    fn name(&self) -> String {
        self.path.clone()
    }
}

fn shout(job: &Job, out: &mut Emitter<String>) -> Result<(), procsig::JobError> {
    out.emit(&job.as_str()?.to_uppercase())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(output)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: custom_source FILE OUTPUT");
        return ExitCode::from(2);
    };
    Pipeline::new("shouts")
        .jobs(Follow { path, file: None, at: 0 })
        .worker("shout", shout)
        .sink(procsig::sink::json_lines(output))
        .run()
        .into()
}
