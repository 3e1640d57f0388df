//! The practical limit: each producer process appends its own encoded blocks to the file. There is
//! no collector, no order of a stop, and a killed producer leaves half a block.

use super::{Task, producer_process, wait_for};
use crate::record::Record;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Whole pages, as large as the second-level cache takes well.
const BLOCK: usize = 512 << 10;

/// If `sync`, the file is forced to the disk before the end, as procsig does it.
///
/// # Errors
/// What the system says.
pub fn run(task: &Task, sync: bool) -> io::Result<()> {
    let file = File::create(&task.output)?;
    let output = task.output.display().to_string();
    let producers = (0..task.producers).map(|producer| {
        let arguments = [producer.to_string(), task.records.to_string(), output.clone()];
        producer_process("append", &arguments)?.spawn()
    });
    wait_for(producers.collect::<io::Result<_>>()?)?;
    if sync { file.sync_data() } else { Ok(()) }
}

/// # Errors
/// What the system says.
pub fn produce(producer: u64, records: u64, output: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(output)?;
    let mut block = Vec::with_capacity(BLOCK + 256);
    for number in 0..records {
        Record::of(producer, number).encode(&mut block);
        if block.len() >= BLOCK {
            file.write_all(&block)?;
            block.clear();
        }
    }
    file.write_all(&block)
}
