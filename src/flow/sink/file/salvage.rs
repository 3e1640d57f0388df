//! An output after a power loss: bytes that were committed can be gone, bytes that were not can be
//! there, and some can be zeroes.

use super::super::surplus::Surplus;
use super::FileSink;
use crate::error::Error;
use crate::flow::queue::frame::PAYLOAD_MAX;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

/// Reads a file from an offset on, wherever its own position is.
struct From<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

impl FileSink {
    /// Keeps the whole records behind what was synced, and says which they are. From the first torn
    /// one on everything is put aside.
    pub(super) fn keep_whole_records(&mut self, synced: u64) -> Result<Surplus, Error> {
        let unreadable = |sink: &FileSink, error| sink.fail("can't read the output", error);
        let mut surplus = Surplus::default();
        let length = self.at.len;
        let mut at = synced.min(length);
        self.at.synced = at;
        if at < synced {
            log::warn!(
                "{}: is shorter than what was forced to the disk ({at} of {synced} bytes); going on at \
                 its end",
                self.path.display()
            );
            self.end_an_open_line()?;
            return Ok(surplus);
        }
        let (begin, mut before) = (at, [self.shape.terminator]);
        if at > 0 {
            let read = self.file.read_exact_at(&mut before, at - 1);
            read.map_err(|error| unreadable(self, error))?;
        }
        let file = self.file.try_clone().map_err(|error| unreadable(self, error))?;
        let mut reader = BufReader::new(From { file: &file, offset: at });
        let mut record = Vec::new();
        while at < length {
            let read = self
                .read_record(&mut reader, &mut record)
                .map_err(|error| unreadable(self, error))?;
            if at == 0 && !record.is_empty() && record == self.shape.header {
                at += read as u64;
                continue;
            }
            let half_of_header = at == 0 && self.shape.header.starts_with(&record);
            if read == 0 || half_of_header || self.is_torn(&record) {
                self.quarantine(at)?;
                self.at.len = at;
                break;
            }
            if self.shape.is_whole(&record) {
                surplus.add(&record);
            } else {
                surplus.half.clone_from(&record);
            }
            at += read as u64;
        }
        if before[0] != self.shape.terminator && self.at.len == begin + surplus.half.len() as u64 {
            // Edited since: what it ends with is part of a line that is not ours.
            surplus.half.clear();
            self.end_an_open_line()?;
        }
        Ok(surplus)
    }

    /// Reads a record, or the half of one with which the file ends, and says how long it is.
    fn read_record(&self, from: &mut impl BufRead, record: &mut Vec<u8>) -> io::Result<usize> {
        record.clear();
        let mut limited = from.take(PAYLOAD_MAX as u64 + 1);
        while limited.read_until(self.shape.terminator, record)? > 0 {
            if self.shape.is_whole(record) {
                break;
            }
        }
        Ok(record.len())
    }

    /// Blocks that were never written are read as zeroes. JSON has none; postcard's records end
    /// with one, so two in a row are one too many.
    fn is_torn(&self, record: &[u8]) -> bool {
        match self.shape.terminator {
            0 => record == [0],
            _ => record.contains(&0),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::flow::sink::file::{FileSink, Shape};
    use crate::flow::sink::{Batch, Position, Sink};

    /// An output of which `synced` bytes are certain, after the power came back: its records behind
    /// them, half of one at its end, what is left of it, what was put aside.
    fn salvage(content: &[u8], synced: u64) -> (u64, Vec<u8>, Vec<u8>, Vec<u8>) {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("out");
        std::fs::write(&path, content).expect("write");
        let mut sink = FileSink::open(&path, Shape::ended_by(b'\n')).expect("open");
        let here = sink.position().expect("a file");
        let device = here.device + 1;
        let synced = Some(Position { len: synced, device, ..here });
        let surplus = sink.salvage(synced, Batch::default());
        let surplus = surplus.expect("salvaged");
        let aside = directory.path().join("out.quarantine");
        let half = surplus.half.clone();
        let left = std::fs::read(&path).expect("read");
        assert_eq!(sink.position().expect("a file").len, left.len() as u64);
        (surplus.len(), half, left, std::fs::read(aside).unwrap_or_default())
    }

    #[test]
    fn whole_records_behind_what_was_synced_stay_and_are_told_of() {
        let (surplus, half, left, aside) = salvage(b"one\ntwo\nthree\n", 4);
        assert_eq!((surplus, half.as_slice(), aside.as_slice()), (2, &b""[..], &b""[..]));
        assert_eq!(left, b"one\ntwo\nthree\n");
    }

    #[test]
    fn from_the_first_zero_on_everything_is_put_aside() {
        let (surplus, half, left, aside) = salvage(b"one\ntwo\nth\0\0\0\nfour\n", 4);
        assert_eq!((surplus, half.as_slice()), (1, &b""[..]));
        assert_eq!(left, b"one\ntwo\n");
        assert_eq!(aside, b"th\0\0\0\nfour\n");
    }

    #[test]
    fn zeroes_in_what_was_there_before_are_nobodys_business() {
        let (_, _, left, aside) = salvage(b"o\0e\ntwo\n", 4);
        assert_eq!((left.as_slice(), aside.as_slice()), (&b"o\0e\ntwo\n"[..], &b""[..]));
    }

    #[test]
    fn half_of_a_record_stays_and_is_told_of_until_somebody_cuts_it_off() {
        let (surplus, half, left, aside) = salvage(b"one\ntwo\nth", 4);
        assert_eq!((surplus, half.as_slice(), aside.as_slice()), (1, &b"th"[..], &b""[..]));
        assert_eq!(left, b"one\ntwo\nth");
    }

    /// Cut by hand before the start, or by a disk that has not kept what it was told to keep.
    #[test]
    fn an_output_that_has_less_than_was_synced_goes_on_with_whole_records() {
        let (surplus, half, left, aside) = salvage(b"one\ntw", 8);
        assert_eq!((surplus, half.as_slice(), aside.as_slice()), (0, &b""[..], &b""[..]));
        assert_eq!(left, b"one\ntw\n");
    }

    /// Edited where it is, so that what was synced ends in the middle of a line.
    #[test]
    fn an_output_that_was_edited_goes_on_with_whole_records() {
        let (surplus, half, left, aside) = salvage(b"one\ntwo", 6);
        assert_eq!((surplus, half.as_slice(), aside.as_slice()), (0, &b""[..], &b""[..]));
        assert_eq!(left, b"one\ntwo\n");
        let (surplus, half, left, aside) = salvage(b"one\ntw\0\0", 6);
        assert_eq!((surplus, half.as_slice(), aside.as_slice()), (0, &b""[..], &b"\0\0"[..]));
        assert_eq!(left, b"one\ntw\n");
        let (surplus, half, left, _) = salvage(b"one\ntwo\nth", 6);
        assert_eq!(
            (surplus, half.as_slice(), left.as_slice()),
            (1, &b"th"[..], &b"one\ntwo\nth"[..])
        );
    }
}
