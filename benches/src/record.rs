//! The record that all contestants carry, and what becomes of it in the output.

#[cfg(feature = "iceoryx2")]
use iceoryx2::prelude::ZeroCopySend;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// A measurement of one resource: 105 bytes as a line of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "iceoryx2", derive(ZeroCopySend))]
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
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "iceoryx2", derive(ZeroCopySend))]
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

/// Reads an output line by line: each record is there once, whole, and in its producer's order. A
/// logger's output may be a folder, with a file for each part; read as they are named.
///
/// # Errors
/// What is not as it should be.
pub fn verify(output: &Path, producers: u64, records: u64) -> io::Result<()> {
    let mut next = vec![0; producers as usize];
    for part in parts(output)? {
        verify_part(&part, &mut next)?;
    }
    match next.iter().all(|number| *number == records) {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{}: records of each producer: {next:?}, not {records}",
            output.display()
        ))),
    }
}

/// An output itself, or the files of a folder that have records in them.
fn parts(output: &Path) -> io::Result<Vec<PathBuf>> {
    if !output.is_dir() {
        return Ok(vec![output.to_path_buf()]);
    }
    let entries = fs::read_dir(output)?.map(|entry| Ok(entry?.path()));
    let mut parts = entries.collect::<io::Result<Vec<_>>>()?;
    // What multilog and s6-log have set aside has the time in its name, in this form.
    parts.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name == "current" || name.starts_with('@')
    });
    parts.sort();
    Ok(parts)
}

/// `next` is what comes next of each producer.
fn verify_part(output: &Path, next: &mut [u64]) -> io::Result<()> {
    let wrong = |what: String| io::Error::other(format!("{}: {what}", output.display()));
    let (mut line, mut expected) = (Vec::new(), Vec::new());
    let mut file = BufReader::with_capacity(1 << 20, File::open(output)?);
    while file.read_until(b'\n', &mut line)? > 0 {
        let id = line.get(6..).and_then(|rest| {
            let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
            std::str::from_utf8(&rest[..digits]).ok()?.parse::<u64>().ok()
        });
        let producer =
            id.and_then(|id| (id / IDS).checked_sub(1)).filter(|it| *it < next.len() as u64);
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
    Ok(())
}

/// Bytes of the output with these records.
pub fn bytes(producers: u64, records: u64) -> u64 {
    let mut line = Vec::new();
    let all = (0..producers).flat_map(|producer| (0..records).map(move |it| (producer, it)));
    all.map(|(producer, number)| {
        line.clear();
        Record::of(producer, number).encode(&mut line);
        line.len() as u64
    })
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: impl AsRef<[u8]>) -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let output = folder.path().join("out");
        fs::write(&output, text)?;
        verify(&output, 2, 3)
    }

    fn lines(order: &[(u64, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        order
            .iter()
            .for_each(|(producer, number)| Record::of(*producer, *number).encode(&mut bytes));
        bytes
    }

    #[test]
    fn an_output_with_a_record_lost_doubled_torn_or_out_of_order_is_told_from_a_good_one() {
        let good = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)];
        let lines_of_good = lines(&good);
        written(&lines_of_good).unwrap();
        assert_eq!(bytes(2, 3), lines_of_good.len() as u64);
        written(lines(&good[..5])).unwrap_err();
        written(lines(&[&good[..], &good[5..]].concat())).unwrap_err();
        written(lines(&[(0, 1), (0, 0), (0, 2), (1, 0), (1, 1), (1, 2)])).unwrap_err();
        written(&lines_of_good[..lines_of_good.len() - 1]).unwrap_err();
        let mut other = lines_of_good.clone();
        other[80] ^= 1;
        written(other).unwrap_err();
        written(lines(&[(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2)])).unwrap_err();
    }

    #[test]
    fn an_output_in_parts_is_read_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let part = |name: &str, order: &[(u64, u64)]| {
            fs::write(folder.path().join(name), lines(order)).unwrap();
        };
        part("@1.s", &[(0, 0), (1, 0)]);
        part("@2.s", &[(0, 1), (1, 1)]);
        part("current", &[(1, 2), (0, 2)]);
        fs::write(folder.path().join("lock"), "").unwrap();
        verify(folder.path(), 2, 3).unwrap();
        part("@2.s", &[(0, 1)]);
        verify(folder.path(), 2, 3).unwrap_err();
    }
}
