//! Threads of one process and a bounded channel: no isolation, and nothing survives the process.

use super::{BLOCK, Task};
use crate::record::Record;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fs::File;
use std::io::{self, BufWriter, Write};

/// A send for each record.
///
/// # Errors
/// What the system says.
pub fn each(task: &Task) -> io::Result<()> {
    let produce = |producer, records, sender: Sender<Record>| {
        for number in 0..records {
            let _ended = sender.send(Record::of(producer, number));
        }
    };
    run(task, 4096, produce, |record, line| record.encode(line))
}

/// A send for 256 records.
///
/// # Errors
/// What the system says.
pub fn batched(task: &Task) -> io::Result<()> {
    let produce = |producer, records, sender: Sender<Vec<Record>>| {
        for start in (0..records).step_by(256) {
            let numbers = start..records.min(start + 256);
            let _ended = sender.send(numbers.map(|it| Record::of(producer, it)).collect());
        }
    };
    run(task, 64, produce, |batch, lines| batch.iter().for_each(|record| record.encode(lines)))
}

/// A send for a block that the producer has encoded.
///
/// # Errors
/// What the system says.
pub fn blocks(task: &Task) -> io::Result<()> {
    let produce = |producer, records, sender: Sender<Vec<u8>>| {
        let mut block = Vec::with_capacity(BLOCK + 256);
        for number in 0..records {
            Record::of(producer, number).encode(&mut block);
            if block.len() >= BLOCK {
                let full = std::mem::replace(&mut block, Vec::with_capacity(BLOCK + 256));
                let _ended = sender.send(full);
            }
        }
        let _ended = sender.send(block);
    };
    let (sender, receiver) = bounded(16);
    std::thread::scope(|scope| {
        start(scope, task, sender, produce);
        let mut file = File::create(&task.output)?;
        receiver.iter().try_for_each(|block| file.write_all(&block))
    })
}

fn run<T: Send>(
    task: &Task,
    room: usize,
    produce: impl Fn(u64, u64, Sender<T>) + Copy + Send,
    encode: impl Fn(&T, &mut Vec<u8>),
) -> io::Result<()> {
    let (sender, receiver): (Sender<T>, Receiver<T>) = bounded(room);
    std::thread::scope(|scope| {
        start(scope, task, sender, produce);
        let mut file = BufWriter::with_capacity(256 << 10, File::create(&task.output)?);
        let mut lines = Vec::new();
        for message in receiver {
            lines.clear();
            encode(&message, &mut lines);
            file.write_all(&lines)?;
        }
        file.flush()
    })
}

fn start<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    task: &Task,
    sender: Sender<T>,
    produce: impl Fn(u64, u64, Sender<T>) + Copy + Send + 'scope,
) {
    let records = task.records;
    for producer in 0..task.producers {
        let sender = sender.clone();
        scope.spawn(move || produce(producer, records, sender));
    }
}
