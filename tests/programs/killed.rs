//! The two pipelines that `tests/kill.rs` kills. The test draws their settings anew for each story,
//! and knows every byte that they write.

use super::author::Author;
use procsig::config::{Buffer, Compression, Restart, Rotation, Spool, SyncPolicy};
use procsig::{Emitter, Job, Pipeline, Stop, sink, source};
use std::cell::RefCell;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::time::Duration;

/// What the test has said: `name=value` with blanks between.
struct Settings<'a>(&'a str);

impl Settings<'_> {
    fn text(&self, name: &str) -> &str {
        let pairs = self.0.split(' ').filter_map(|pair| pair.split_once('='));
        let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
        values.next().unwrap_or_else(|| panic!("{name} is missing in {:?}", self.0))
    }

    fn number(&self, name: &str) -> u64 {
        super::number(self.text(name))
    }

    fn time(&self, name: &str) -> Duration {
        Duration::from_micros(self.number(name))
    }

    fn sync(&self) -> SyncPolicy {
        match self.text("sync") {
            "always" => SyncPolicy::Always,
            "never" => SyncPolicy::Never,
            _ => SyncPolicy::Every(self.time("sync")),
        }
    }

    /// What a file may hold; 0: it is never set aside.
    fn sink(&self) -> sink::JsonLines {
        let bytes = Some(self.number("rotate")).filter(|bytes| *bytes > 0);
        let compress = Some(Compression::Gzip).filter(|_| self.number("compress") == 1);
        let rotation = Rotation { bytes, compress, ..Rotation::default() };
        sink::json_lines("out.jsonl").sync(self.sync()).rotate(rotation)
    }

    fn run(&self, pipeline: procsig::Ready) -> ExitCode {
        pipeline
            .flush(Buffer {
                flush_records: self.number("records"),
                flush_bytes: self.number("bytes"),
                flush_after: self.time("after"),
            })
            .spool(Spool {
                lane: Some(self.number("lane")),
                job_bytes: 64,
                jobs: self.number("slots") as u32,
                file: None,
            })
            // Deaths are forgotten at once: each pause is the first one, and there is no limit.
            .restart(Restart { max: 1000, within: Duration::from_millis(1) })
            .run()
            .into()
    }
}

#[derive(serde::Serialize)]
struct Part {
    job: u64,
    part: u64,
    of: u64,
    who: String,
    nth: u64,
    text: String,
    pad: String,
}

/// One to three records for each job, which tell its text, who has written them, and in which order.
pub fn jobs(settings: &str) -> ExitCode {
    thread_local!(static AUTHOR: RefCell<Author> = RefCell::new(Author::new()));
    let settings = Settings(settings);
    let pause = settings.time("pause");
    let pipeline = Pipeline::new("killed")
        .jobs(source::lines("jobs.txt"))
        .worker(settings.text("tag"), move |job: &Job, out: &mut Emitter<Part>| {
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
            let of = 1 + job.seq() % 3;
            AUTHOR.with_borrow_mut(|author| {
                for part in 1..=of {
                    let nth = author.next();
                    let pad = "x".repeat((job.seq() * 31 % 200) as usize);
                    let (who, text) = (author.name.clone(), job.as_str()?.into());
                    out.emit(&Part { job: job.seq(), part, of, who, nth, text, pad })?;
                }
                Ok(())
            })
        })
        .processes(2)
        .threads(settings.number("threads") as u16)
        .sink(settings.sink());
    settings.run(pipeline)
}

#[derive(serde::Serialize)]
struct Produced {
    who: String,
    nth: u64,
    pad: String,
}

/// Producers that number their records, and note outside of the pipeline how many of them `emit` has
/// returned for: those are published.
pub fn producers(settings: &str) -> ExitCode {
    let settings = Settings(settings);
    let (count, pause) = (settings.number("count"), settings.time("pause"));
    let pipeline = Pipeline::new("killed")
        .producer(settings.text("tag"), move |stop: &Stop, out: &mut Emitter<Produced>| {
            let mut author = Author::new();
            let published = std::fs::File::create(format!("published/{}", author.name))?;
            while author.count < count && !stop.requested() {
                let nth = author.next();
                let pad = "x".repeat((nth * 31 % 200) as usize);
                out.emit(&Produced { who: author.name.clone(), nth, pad })?;
                published.write_all_at(&nth.to_le_bytes(), 0)?;
                if nth.is_multiple_of(16) {
                    stop.wait(pause);
                }
            }
            Ok(())
        })
        .processes(2)
        .sink(settings.sink());
    settings.run(pipeline)
}
