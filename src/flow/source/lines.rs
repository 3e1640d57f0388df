//! Reading a list of lines, byte by byte accounted for.

use crate::config::Lines;
use crate::error::Error;
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// The longest prefix of a pipe that is kept in memory to find out whether it is the same list.
const PIPE_PREFIX_MAX: u64 = 256 << 20;

/// A list, read line by line.
pub(crate) struct LineReader<'a> {
    input: File,
    /// A regular file answers at once; all else is waited for together with `interrupt`.
    regular: bool,
    interrupt: BorrowedFd<'a>,
    buffer: Vec<u8>,
    /// What of the buffer is read and not yet handed out.
    start: usize,
    /// The longest line that is kept whole, in bytes.
    line_max: usize,
    /// Bytes of the list that were handed out, and their checksum.
    offset: u64,
    prefix: u32,
    at_end: bool,
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A line is in the caller's buffer.
    Line {
        /// It was longer than what is kept of a line.
        too_long: bool,
    },
    /// The list is at its end.
    End,
    /// Nothing was to be had before the interruption.
    Interrupted,
}

impl<'a> LineReader<'a> {
    /// Opens the list at its beginning.
    pub(crate) fn open(
        lines: &Lines,
        line_max: usize,
        interrupt: BorrowedFd<'a>,
    ) -> Result<LineReader<'a>, Error> {
        let fail =
            |error: io::Error| Error::file(name(lines), "can't read the list of jobs", error);
        let input = match lines {
            Lines::File(path) => File::open(path).map_err(fail)?,
            Lines::Stdin => duplicate_stdin().map(File::from).map_err(fail)?,
        };
        let metadata = input.metadata().map_err(fail)?;
        if metadata.is_dir() {
            return Err(Error::file(
                name(lines),
                "can't read the list of jobs",
                "it is a directory",
            ));
        }
        let mut reader = LineReader {
            input,
            regular: metadata.is_file(),
            interrupt,
            buffer: Vec::with_capacity(CHUNK),
            start: 0,
            line_max,
            offset: 0,
            prefix: 0,
            at_end: false,
        };
        if reader.regular {
            // Standard input may be a file that somebody has read from.
            reader.input.seek(SeekFrom::Start(0)).map_err(fail)?;
        }
        Ok(reader)
    }

    /// Bytes handed out, and their checksum.
    pub(crate) fn position(&self) -> (u64, u64) {
        (self.offset, self.prefix.into())
    }

    /// May the next line have to be waited for? A blank one is none.
    pub(crate) fn must_read(&self) -> bool {
        let whole = |line: &[u8]| line.ends_with(b"\n") && !line.trim_ascii().is_empty();
        !self.buffer[self.start..].split_inclusive(|byte| *byte == b'\n').any(whole)
    }

    /// Can the list be read again?
    pub(crate) fn is_regular(&self) -> bool {
        self.regular
    }

    /// Goes on behind `offset`, if the list begins as it did: the same bytes up to there.
    /// Otherwise `false`, and it stands at its beginning again.
    pub(crate) fn skip_to(&mut self, offset: u64, prefix: u64) -> io::Result<Option<bool>> {
        if offset == 0 {
            return Ok(Some(true));
        }
        let mut kept: Vec<u8> = Vec::new();
        let (mut done, mut checksum) = (0u64, 0u32);
        while done < offset {
            if self.start == self.buffer.len() && !self.fill()? {
                if !self.at_end {
                    return Ok(None);
                }
                break;
            }
            let available = &self.buffer[self.start..];
            let take = available.len().min(usize::try_from(offset - done).unwrap_or(usize::MAX));
            checksum = crc32c::crc32c_append(checksum, &available[..take]);
            if !self.regular && offset <= PIPE_PREFIX_MAX {
                kept.extend_from_slice(&available[..take]);
            }
            self.start += take;
            done += take as u64;
        }
        if done == offset && u64::from(checksum) == prefix {
            (self.offset, self.prefix) = (offset, checksum);
            return Ok(Some(true));
        }
        if self.regular {
            self.input.seek(SeekFrom::Start(0))?;
            self.buffer.clear();
        } else {
            if offset > PIPE_PREFIX_MAX {
                return Err(io::Error::other(
                    "the input is another one, and its beginning is gone: give it again, with \
                     --fresh",
                ));
            }
            kept.extend_from_slice(&self.buffer[self.start..]);
            self.buffer = kept;
        }
        (self.start, self.at_end) = (0, false);
        Ok(Some(false))
    }

    /// The next line that is not blank, without its end (`\n` or `\r\n`).
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Next> {
        loop {
            line.clear();
            let mut dropped = false;
            let ended = loop {
                let available = &self.buffer[self.start..];
                let newline = available.iter().position(|byte| *byte == b'\n');
                let take = newline.map_or(available.len(), |at| at + 1);
                if newline.is_none() && !self.at_end && available.len() < CHUNK {
                    // An unfinished line stays in the buffer, so that an interruption takes
                    // nothing of it.
                    if self.fill()? || self.at_end {
                        continue;
                    }
                    return Ok(Next::Interrupted);
                }
                let room = (self.line_max + 2).saturating_sub(line.len());
                line.extend_from_slice(&available[..take.min(room)]);
                dropped |= take > room;
                self.prefix = crc32c::crc32c_append(self.prefix, &available[..take]);
                self.offset += take as u64;
                self.start += take;
                if newline.is_some() || self.at_end {
                    break take > 0;
                }
            };
            if !ended && line.is_empty() {
                return Ok(Next::End);
            }
            trim_end(line);
            let too_long = dropped || line.len() > self.line_max;
            line.truncate(self.line_max);
            if too_long || !line.trim_ascii().is_empty() {
                return Ok(Next::Line { too_long });
            }
        }
    }

    /// Reads more. `false`: interrupted, or at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.at_end || (!self.regular && !self.wait()?) {
            return Ok(false);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[before..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        self.at_end = read? == 0;
        Ok(!self.at_end)
    }

    /// Waits for input; `false`: interrupted before there was any.
    fn wait(&self) -> io::Result<bool> {
        loop {
            let mut fds = [
                PollFd::new(&self.input, PollFlags::IN),
                PollFd::from_borrowed_fd(self.interrupt, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) if !fds[1].revents().is_empty() => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Counts the jobs that are left in a regular file, for as long as `budget` says.
    pub(crate) fn count_left(&mut self, budget: Duration) -> Option<u64> {
        let until = crate::sys::clock::now() + budget;
        let (mut line, mut left) = (Vec::new(), 0);
        if !self.regular {
            return None;
        }
        loop {
            match self.next(&mut line) {
                Ok(Next::Line { .. }) => left += 1,
                Ok(Next::End) => return Some(left),
                Ok(Next::Interrupted) | Err(_) => return None,
            }
            if left % 1024 == 0 && crate::sys::clock::now() > until {
                return None;
            }
        }
    }
}

fn trim_end(line: &mut Vec<u8>) {
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
}

/// What messages call the list.
pub(crate) fn name(lines: &Lines) -> &Path {
    match lines {
        Lines::File(path) => path,
        Lines::Stdin => Path::new("standard input"),
    }
}

fn duplicate_stdin() -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// Reads a list through a file or a pipe, and says what came.
    fn read(content: &[u8], line_max: usize, piped: bool) -> Vec<(Vec<u8>, bool, u64)> {
        let (quiet, _writer) = io::pipe().expect("pipe");
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        file.write_all(content).expect("write");
        let lines = Lines::File(file.path().to_path_buf());
        let mut reader = LineReader::open(&lines, line_max, quiet.as_fd()).expect("open");
        let feeder = piped.then(|| {
            let (input, mut writer) = io::pipe().expect("pipe");
            (reader.input, reader.regular) = (File::from(OwnedFd::from(input)), false);
            let content = content.to_vec();
            std::thread::spawn(move || writer.write_all(&content).expect("feed"))
        });
        let mut all = Vec::new();
        let mut line = Vec::new();
        while let Next::Line { too_long } = reader.next(&mut line).expect("read") {
            all.push((line.clone(), too_long, reader.position().0));
        }
        assert_eq!(reader.position(), (content.len() as u64, crc32c::crc32c(content).into()));
        if let Some(feeder) = feeder {
            feeder.join().expect("feeder");
        }
        all
    }

    #[test]
    fn blank_lines_are_skipped_and_ends_of_lines_taken_off() {
        for piped in [false, true] {
            let all = read(b"a\n\n  \nb\r\n\xff \0\nlast", 10, piped);
            let expected = [
                (b"a".to_vec(), false, 2),
                (b"b".to_vec(), false, 9),
                (b"\xff \0".to_vec(), false, 13),
                (b"last".to_vec(), false, 17),
            ];
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn a_line_of_the_largest_size_is_whole_and_a_longer_one_is_cut_and_said_so() {
        for piped in [false, true] {
            for size in [1, 9, 10, 11, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
                let mut content = vec![b'x'; size];
                content.extend_from_slice(b"\nnext\n");
                let all = read(&content, 10, piped);
                assert_eq!(all.len(), 2, "{size}");
                assert_eq!(all[0], (vec![b'x'; size.min(10)], size > 10, size as u64 + 1));
                assert_eq!(all[1].0, b"next");
            }
        }
    }

    #[test]
    fn a_list_is_gone_on_with_only_if_it_begins_as_it_did() {
        let (quiet, _writer) = io::pipe().expect("pipe");
        let mut file = tempfile::NamedTempFile::new().expect("temp file");
        file.write_all(b"one\ntwo\nthree\n").expect("write");
        let lines = Lines::File(file.path().to_path_buf());
        let mut line = Vec::new();
        let mut reader = LineReader::open(&lines, 10, quiet.as_fd()).expect("open");
        reader.next(&mut line).expect("read");
        let (offset, prefix) = reader.position();
        let mut again = LineReader::open(&lines, 10, quiet.as_fd()).expect("open");
        assert_eq!(again.skip_to(offset, prefix).expect("read"), Some(true));
        again.next(&mut line).expect("read");
        assert_eq!(line, b"two");
        let mut other = LineReader::open(&lines, 10, quiet.as_fd()).expect("open");
        assert_eq!(other.skip_to(offset, prefix ^ 1).expect("read"), Some(false));
        other.next(&mut line).expect("read");
        assert_eq!(line, b"one");
    }

    #[test]
    fn an_interruption_takes_nothing_of_an_unfinished_line() {
        let (interrupt, mut interrupter) = io::pipe().expect("pipe");
        let (input, mut writer) = io::pipe().expect("pipe");
        let file = tempfile::NamedTempFile::new().expect("temp file");
        let lines = Lines::File(file.path().to_path_buf());
        let mut reader = LineReader::open(&lines, 10, interrupt.as_fd()).expect("open");
        (reader.input, reader.regular) = (File::from(OwnedFd::from(input)), false);
        writer.write_all(b"whole\nunfin").expect("feed");
        let mut line = Vec::new();
        assert_eq!(reader.next(&mut line).expect("read"), Next::Line { too_long: false });
        interrupter.write_all(b"!").expect("interrupt");
        assert_eq!(reader.next(&mut line).expect("read"), Next::Interrupted);
        assert_eq!(reader.position().0, 6);
    }
}
