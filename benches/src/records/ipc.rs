//! Processes and an ipc-channel, which carries serialised messages over a Unix socket.

use super::{Task, producer_process, wait_for};
use crate::record::Record;
use ipc_channel::ipc::{IpcOneShotServer, IpcSender, channel};
use std::fs::File;
use std::io::{self, BufWriter, Write};

type Batch = Vec<Record>;

/// With so many records in each message; one record is sent as itself.
///
/// # Errors
/// What the system says.
pub fn run(task: &Task, batch: u64) -> io::Result<()> {
    match batch {
        1 => collect(task, batch, |record: &Record, lines| record.encode(lines)),
        _ => collect(task, batch, |batch: &Batch, lines| {
            batch.iter().for_each(|record| record.encode(lines));
        }),
    }
}

fn collect<T>(task: &Task, batch: u64, encode: impl Fn(&T, &mut Vec<u8>)) -> io::Result<()>
where
    T: for<'de> serde::Deserialize<'de> + serde::Serialize,
{
    let (sender, receiver) = channel::<T>()?;
    let mut producers = Vec::new();
    for producer in 0..task.producers {
        let (server, name) = IpcOneShotServer::<IpcSender<IpcSender<T>>>::new()?;
        let arguments = [producer.to_string(), task.records.to_string(), name, batch.to_string()];
        producers.push(producer_process("ipc", &arguments)?.spawn()?);
        let (_, back) = server.accept().map_err(io::Error::other)?;
        back.send(sender.clone()).map_err(io::Error::other)?;
    }
    drop(sender);
    let mut file = BufWriter::with_capacity(256 << 10, File::create(&task.output)?);
    let mut lines = Vec::new();
    while let Ok(message) = receiver.recv() {
        lines.clear();
        encode(&message, &mut lines);
        file.write_all(&lines)?;
    }
    file.flush()?;
    wait_for(producers)
}

/// # Errors
/// What the system says.
pub fn produce(producer: u64, records: u64, server: String, batch: u64) -> io::Result<()> {
    match batch {
        1 => {
            let sender = connect::<Record>(server)?;
            (0..records)
                .try_for_each(|number| sender.send(Record::of(producer, number)))
                .map_err(io::Error::other)
        }
        _ => {
            let sender = connect::<Batch>(server)?;
            (0..records)
                .step_by(batch as usize)
                .map(|start| start..records.min(start + batch))
                .try_for_each(|numbers| {
                    sender.send(numbers.map(|number| Record::of(producer, number)).collect())
                })
                .map_err(io::Error::other)
        }
    }
}

fn connect<T>(server: String) -> io::Result<IpcSender<T>>
where
    T: for<'de> serde::Deserialize<'de> + serde::Serialize,
{
    let to_collector = IpcSender::connect(server)?;
    let (back, sender) = channel::<IpcSender<T>>()?;
    to_collector.send(back).map_err(io::Error::other)?;
    sender.recv().map_err(io::Error::other)
}
