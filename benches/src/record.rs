//! The record that all contestants carry, and what becomes of it in the output.

use iceoryx2::prelude::ZeroCopySend;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

/// A measurement of one resource: 105 bytes as a line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ZeroCopySend)]
#[repr(C)]
pub struct Record {
    pub id: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    pub resource: Resource,
    pub status: u32,
    /// Seconds.
    pub latency: f64,
}

/// Fifteen characters in place, so that a record can also travel through shared memory.
#[derive(Debug, Clone, Copy, PartialEq, ZeroCopySend)]
#[repr(C)]
pub struct Resource([u8; 15]);

impl Serialize for Resource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.0).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Resource {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Resource, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        text.as_bytes().try_into().map(Resource).map_err(serde::de::Error::custom)
    }
}

/// Ids of a producer begin at a multiple of this.
const IDS: u64 = 1_000_000_000;

impl Record {
    /// The record with this number of this producer; everything in it follows from these two, so
    /// that each line of an output can be checked.
    pub fn of(producer: u64, number: u64) -> Record {
        let id = (producer + 1) * IDS + number;
        Record {
            id,
            time: 1_700_000_000_000_000_000 + id * 1_000,
            resource: Resource(*b"host-0042.local"),
            status: 200 + (number % 5) as u32,
            latency: 0.001 + (number % 1_000) as f64 / 1e6,
        }
    }

    /// Appends the line of JSON.
    ///
    /// # Panics
    /// Never: numbers and a string.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        serde_json::to_writer(&mut *bytes, self).expect("numbers and a string");
        bytes.push(b'\n');
    }
}

/// Reads an output line by line: each record is there once, whole, and in its producer's order.
///
/// # Errors
/// What is not as it should be.
pub fn verify(output: &Path, producers: u64, records: u64) -> io::Result<()> {
    let wrong = |what: String| io::Error::other(format!("{}: {what}", output.display()));
    let mut next = vec![0; producers as usize];
    let (mut line, mut expected) = (Vec::new(), Vec::new());
    let mut file = BufReader::with_capacity(1 << 20, File::open(output)?);
    while file.read_until(b'\n', &mut line)? > 0 {
        let id = line.get(6..).and_then(|rest| {
            let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
            std::str::from_utf8(&rest[..digits]).ok()?.parse::<u64>().ok()
        });
        let producer = id.and_then(|id| (id / IDS).checked_sub(1)).filter(|it| *it < producers);
        let Some(producer) = producer else {
            return Err(wrong(format!("no record: {:?}", String::from_utf8_lossy(&line))));
        };
        let number = &mut next[producer as usize];
        expected.clear();
        Record::of(producer, *number).encode(&mut expected);
        if line != expected {
            return Err(wrong(format!(
                "expected {:?}, there is {:?}",
                String::from_utf8_lossy(&expected),
                String::from_utf8_lossy(&line)
            )));
        }
        *number += 1;
        line.clear();
    }
    match next.iter().all(|number| *number == records) {
        true => Ok(()),
        false => Err(wrong(format!("records of each producer: {next:?}, not {records}"))),
    }
}
