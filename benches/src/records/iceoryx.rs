//! Processes and iceoryx2: samples in shared memory, without a copy. The collector polls, as the
//! publish-subscribe port has nothing to sleep on.

use super::{Task, producer_process, wait_for};
use crate::record::Record;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::process::Stdio;

/// Samples that wait for the collector, of each producer.
const ROOM: usize = 64;

type Service = PortFactory<ipc::Service, [Record], ()>;

/// With so many records in each sample.
///
/// # Errors
/// What iceoryx2 says.
pub fn run(task: &Task, batch: usize) -> io::Result<()> {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().create::<ipc::Service>().map_err(io::Error::other)?;
    let name = format!("procsig-benches/{}", std::process::id());
    let service = service(&node, &name, batch)?;
    let subscriber =
        service.subscriber_builder().buffer_size(room(batch)).create().map_err(io::Error::other)?;
    let mut producers = Vec::new();
    for producer in 0..task.producers {
        let arguments =
            [producer.to_string(), task.records.to_string(), name.clone(), batch.to_string()];
        let mut command = producer_process("iceoryx", &arguments)?;
        producers.push(command.stdin(Stdio::piped()).spawn()?);
    }
    let mut file = BufWriter::with_capacity(256 << 10, File::create(&task.output)?);
    let mut lines = Vec::new();
    let mut left = task.producers * task.records;
    while left > 0 {
        let Some(sample) = subscriber.receive().map_err(io::Error::other)? else {
            std::thread::yield_now();
            continue;
        };
        lines.clear();
        sample.iter().for_each(|record| record.encode(&mut lines));
        left -= sample.len() as u64;
        drop(sample);
        file.write_all(&lines)?;
    }
    file.flush()?;
    // The end of its input tells each that its samples were taken.
    producers.iter_mut().for_each(|producer| drop(producer.stdin.take()));
    wait_for(producers)
}

/// As many records as with large batches, within what fits the cache.
fn room(batch: usize) -> usize {
    if batch == 1 { 64 * ROOM } else { ROOM }
}

fn service(node: &Node<ipc::Service>, name: &str, batch: usize) -> io::Result<Service> {
    node.service_builder(&name.try_into().map_err(io::Error::other)?)
        .publish_subscribe::<[Record]>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(room(batch))
        .max_publishers(64)
        .max_nodes(128)
        .open_or_create()
        .map_err(io::Error::other)
}

/// # Errors
/// What iceoryx2 says.
pub fn produce(producer: u64, records: u64, name: &str, batch: usize) -> io::Result<()> {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().create::<ipc::Service>().map_err(io::Error::other)?;
    let service = service(&node, name, batch)?;
    let publisher: Publisher<ipc::Service, [Record], ()> = service
        .publisher_builder()
        .initial_max_slice_len(batch)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()
        .map_err(io::Error::other)?;
    for start in (0..records).step_by(batch) {
        let len = (records - start).min(batch as u64) as usize;
        // A full buffer may be answered by "sent to nobody", in spite of the strategy: again then.
        loop {
            let sample = publisher.loan_slice_uninit(len).map_err(io::Error::other)?;
            let sample = sample.write_from_fn(|index| Record::of(producer, start + index as u64));
            if sample.send().map_err(io::Error::other)? > 0 {
                break;
            }
        }
    }
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
