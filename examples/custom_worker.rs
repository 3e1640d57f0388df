//! Real work on real input: how many lines, words and bytes each file of a list has.
//!
//! ```text
//! find . -name '*.rs' | cargo run --example custom_worker - counts.jsonl
//! ```

use procsig::{Emitter, Job, Pipeline};
use std::process::ExitCode;

#[derive(serde::Serialize)]
struct Counts {
    file: String,
    lines: usize,
    words: usize,
    bytes: usize,
}

fn count(job: &Job, out: &mut Emitter<Counts>) -> Result<(), procsig::JobError> {
    let file = job.as_str()?;
    let text = std::fs::read(file)?;
    out.emit(&Counts {
        file: file.into(),
        lines: text.iter().filter(|byte| **byte == b'\n').count(),
        words: text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count(),
        bytes: text.len(),
    })
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(list), Some(output)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: custom_worker LIST OUTPUT (LIST may be -, the standard input)");
        return ExitCode::from(2);
    };
    let list = match list.as_str() {
        "-" => procsig::source::stdin(),
        file => procsig::source::lines(file),
    };

    Pipeline::new("counts")
        .jobs(list)
        .worker("count", count)
        .processes(2)
        .threads(2)
        .sink(procsig::sink::json_lines(output))
        .run()
        .into()
}
