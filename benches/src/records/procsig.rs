//! This project, with all that it promises: a spool that is a file, framing, checksums, commits.

use super::Task;
use crate::record::Record;
use procsig::{Emitter, Pipeline, Stop};
use std::io;

/// # Errors
/// If it did not end well.
pub fn run(task: &Task) -> io::Result<()> {
    let records = task.records;
    let produce = move |producer| {
        move |_: &Stop, out: &mut Emitter<'_, Record>| {
            (0..records).try_for_each(|number| out.emit(&Record::of(producer, number)))
        }
    };
    let mut workers = Pipeline::new("records").producer("p0", produce(0));
    for producer in 1..task.producers {
        workers = workers.producer(format!("p{producer}"), produce(producer));
    }
    let outcome = workers.sink(procsig::sink::json_lines(&task.output)).run();
    let report = outcome.into_result().map_err(io::Error::other)?;
    match report.exit_code().code() {
        0 => Ok(()),
        code => Err(io::Error::other(format!("exit code {code}"))),
    }
}
