//! The daemon of the article, done right: a producer that ticks, a buffer that collects, a log
//! that shows who stopped when.
//!
//! ```text
//! cargo run --example graceful_stop [OUTPUT [MILLISECONDS]]
//! ```
//!
//! Press Ctrl-C, or run `pkill -f graceful_stop`: the producer stops first, then the buffer, with
//! every tick in the output.

use procsig::{Emitter, Pipeline, Stop};
use std::process::ExitCode;
use std::time::Duration;

#[derive(serde::Serialize)]
struct Tick {
    tick: u64,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let output = arguments.next().unwrap_or_else(|| "ticks.jsonl".into());
    let milliseconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let pause = Duration::from_millis(milliseconds);

    Pipeline::new("graceful-stop")
        .producer("ticker", move |stop: &Stop, out: &mut Emitter<Tick>| {
            let mut tick = 0;
            loop {
                out.emit(&Tick { tick })?;
                tick += 1;
                if stop.wait(pause) {
                    return Ok(());
                }
            }
        })
        .sink(procsig::sink::json_lines(output))
        .run()
        .into()
}
