//! Counts the letters of each line of a file in Python, with `worker.py` beside this file: its
//! answers become records of a Rust type, whatever the sink.
//!
//! `cargo run --example coprocess -- FILE OUTPUT [WORKER]`

use procsig::{Pipeline, sink, source};
use serde::{Deserialize, Serialize};
use std::process::ExitCode;

#[derive(Serialize, Deserialize)]
struct Letters {
    letters: u64,
}

fn main() -> ExitCode {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/coprocess/worker.py").to_owned();
    let mut arguments = std::env::args().skip(1);
    let (Some(list), Some(output)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: coprocess FILE OUTPUT [WORKER]");
        return ExitCode::from(2);
    };
    let worker = arguments.next().unwrap_or(beside);
    Pipeline::new("letters")
        .jobs(source::lines(list))
        .coprocess::<Letters, _>("letters", ["python3", &worker])
        .processes(2)
        .threads(2)
        .sink(sink::json_lines(output))
        .run()
        .into()
}
