//! Reading a list of lines, byte by byte accounted for.

use super::intake::{Got, Intake, Passed, Stream, duplicate_stdin};
use crate::config::Lines;
use crate::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// The longest prefix of a pipe that is kept in memory while it is found out whether it is the same
/// list.
pub(super) const PIPE_PREFIX_MAX: u64 = if cfg!(test) { 1 << 20 } else { 256 << 20 };

/// A list, read line by line.
pub(crate) struct LineReader<'a> {
    input: Input<'a>,
    buffer: Vec<u8>,
    /// What of the buffer is read and not yet handed out.
    start: usize,
    /// The longest line that is kept whole, in bytes.
    line_max: usize,
    /// Bytes of the list that were handed out, and their checksum.
    offset: u64,
    prefix: u32,
    at_end: bool,
    /// An earlier source has read so much of an over-long line, which is yet to be handed out.
    passed: Option<Passed>,
}

enum Input<'a> {
    /// A regular file: it answers at once, and can be read again.
    Regular(File),
    /// Anything else.
    Stream(Stream<'a>),
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
    /// Opens the list at its beginning. `intake`: what main holds of it, if it can be read only once.
    pub(crate) fn open(
        lines: &Lines,
        intake: Option<&'a Intake>,
        line_max: usize,
        interrupt: BorrowedFd<'a>,
    ) -> Result<LineReader<'a>, Error> {
        let fail =
            |error: io::Error| Error::file(name(lines), "can't read the list of jobs", error);
        let input = match (intake, lines) {
            (Some(intake), _) => Input::Stream(Stream::open(intake, interrupt).map_err(fail)?),
            (None, Lines::File(path)) => {
                File::open(path).and_then(|file| Input::of_file(file, interrupt)).map_err(fail)?
            }
            (None, Lines::Stdin) => {
                duplicate_stdin().and_then(|file| Input::of_file(file, interrupt)).map_err(fail)?
            }
        };
        Ok(LineReader::of_input(input, line_max))
    }

    fn of_input(input: Input<'a>, line_max: usize) -> LineReader<'a> {
        LineReader {
            input,
            buffer: Vec::with_capacity(CHUNK),
            start: 0,
            line_max,
            offset: 0,
            prefix: 0,
            at_end: false,
            passed: None,
        }
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

    /// Is what was read still there for the source after this one?
    pub(crate) fn survives(&self) -> bool {
        match &self.input {
            Input::Regular(_) => true,
            Input::Stream(stream) => stream.survives(),
        }
    }

    /// From now on the list position that is in the spool is a place in this very input, and the next
    /// source of this run goes on there.
    pub(crate) fn begin(&mut self) {
        if let Input::Stream(stream) = &mut self.input {
            stream.begin();
        }
    }

    /// Goes on behind `offset`, if the list begins as it did: the same bytes up to there.
    /// Otherwise `false`, and it stands at its beginning again. `None`: interrupted.
    pub(crate) fn skip_to(&mut self, offset: u64, prefix: u64) -> io::Result<Option<bool>> {
        let (mut done, mut checksum) = (0u64, 0u32);
        if let Input::Stream(stream) = &mut self.input {
            let passed = stream.passed();
            if stream.was_begun() {
                self.go_on(offset, prefix as u32, passed);
                return Ok(Some(true));
            }
            (done, checksum) = (passed.at, passed.prefix);
            stream.seek(done);
        }
        let mut kept: Vec<u8> = Vec::new();
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
            self.start += take;
            done += take as u64;
            match &mut self.input {
                Input::Stream(stream) if offset > PIPE_PREFIX_MAX => {
                    stream.pass(Passed { from: done, at: done, prefix: checksum }, 0)?;
                }
                Input::Stream(stream) if !stream.survives() => {
                    kept.extend_from_slice(&self.buffer[self.start - take..self.start]);
                }
                _ => {}
            }
        }
        if done == offset && u64::from(checksum) == prefix {
            (self.offset, self.prefix) = (offset, checksum);
            return Ok(Some(true));
        }
        self.rewind(kept, offset).map(|()| Some(false))
    }

    /// Goes on where the last source of this run was: behind what was handed out, or further if
    /// there was nothing to be handed out.
    fn go_on(&mut self, offset: u64, prefix: u32, passed: Passed) {
        (self.offset, self.prefix) = (offset, prefix);
        if passed.at > offset {
            self.offset = passed.from;
            if passed.from == passed.at {
                self.prefix = passed.prefix;
            } else {
                self.passed = Some(passed);
            }
        }
        self.seek(self.offset);
    }

    /// Takes another list for what it is, and stands at its beginning.
    fn rewind(&mut self, mut kept: Vec<u8>, offset: u64) -> io::Result<()> {
        match &mut self.input {
            Input::Regular(file) => {
                file.seek(SeekFrom::Start(0))?;
                self.buffer.clear();
            }
            Input::Stream(_) if offset > PIPE_PREFIX_MAX => {
                return Err(io::Error::other(
                    "the input is another one, and its beginning is gone: give it again, with \
                     --fresh",
                ));
            }
            Input::Stream(stream) if stream.survives() => {
                stream.seek(0);
                self.buffer.clear();
            }
            Input::Stream(_) => {
                kept.extend_from_slice(&self.buffer[self.start..]);
                self.buffer = kept;
            }
        }
        (self.start, self.at_end) = (0, false);
        Ok(())
    }

    /// Reads on at `offset` of what an earlier source has taken from the input.
    fn seek(&mut self, offset: u64) {
        if let Input::Stream(stream) = &mut self.input {
            stream.seek(offset);
        }
        self.buffer.clear();
        self.start = 0;
    }

    /// The next line that is not blank, without its end (`\n` or `\r\n`). All before it must have
    /// been handed out.
    pub(crate) fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Next> {
        if let Input::Stream(stream) = &mut self.input {
            stream.let_go(self.offset)?;
        }
        loop {
            line.clear();
            let from = self.offset;
            let mut dropped = self.enter(line)?;
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
                let room = self.room(line);
                line.extend_from_slice(&available[..take.min(room)]);
                dropped |= take > room;
                self.prefix = crc32c::crc32c_append(self.prefix, &available[..take]);
                self.offset += take as u64;
                self.start += take;
                if newline.is_some() || self.at_end {
                    break take > 0;
                }
                if dropped {
                    self.pass(from)?;
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
            self.pass(self.offset)?;
        }
    }

    /// What of a line is kept: enough to see that it is too long, whatever its end.
    fn room(&self, line: &[u8]) -> usize {
        (self.line_max + 2).saturating_sub(line.len())
    }

    /// Goes on inside of an over-long line, if that is where an earlier source was. Says whether it is.
    fn enter(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        let Some(passed) = self.passed.take() else { return Ok(false) };
        while self.room(line) > 0 {
            // It is there: nothing is waited for.
            if self.start == self.buffer.len() && !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let available = &self.buffer[self.start..];
            let take = available.len().min(self.room(line));
            line.extend_from_slice(&available[..take]);
            self.start += take;
        }
        (self.offset, self.prefix) = (passed.at, passed.prefix);
        self.seek(passed.at);
        Ok(true)
    }

    /// All that was read is blank, or was handed out, or belongs to an over-long line that begins at
    /// `from`: the input may let go of it.
    fn pass(&mut self, from: u64) -> io::Result<()> {
        let passed = Passed { from, at: self.offset, prefix: self.prefix };
        match &mut self.input {
            Input::Stream(stream) => stream.pass(passed, self.line_max as u64 + 2),
            Input::Regular(_) => Ok(()),
        }
    }

    /// Reads more. `false`: interrupted, or at the end.
    fn fill(&mut self) -> io::Result<bool> {
        if self.at_end {
            return Ok(false);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let before = self.buffer.len();
        self.buffer.extend_from_slice(&[0; CHUNK]);
        let got = self.input.read(&mut self.buffer[before..]);
        let read = if let Ok(Got::Bytes(read)) = got { read } else { 0 };
        self.buffer.truncate(before + read);
        self.at_end = got? == Got::End;
        Ok(read > 0)
    }

    /// Counts the jobs that are left in a regular file, for as long as `budget` says.
    pub(crate) fn count_left(&mut self, budget: Duration) -> Option<u64> {
        let until = crate::sys::clock::now() + budget;
        let (mut line, mut left) = (Vec::new(), 0);
        if !matches!(self.input, Input::Regular(_)) {
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

impl<'a> Input<'a> {
    /// What is opened without main's help.
    fn of_file(mut file: File, interrupt: BorrowedFd<'a>) -> io::Result<Input<'a>> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::Error::other("it is a directory"));
        }
        if !metadata.is_file() {
            return Ok(Input::Stream(Stream::direct(file, interrupt)));
        }
        // Standard input may be a file that somebody has read from.
        file.seek(SeekFrom::Start(0))?;
        Ok(Input::Regular(file))
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        let file = match self {
            Input::Stream(stream) => return stream.read(buffer),
            Input::Regular(file) => file,
        };
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok(Got::End),
                Ok(read) => return Ok(Got::Bytes(read)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
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

/// Is the list a file, which can be read again?
pub(crate) fn is_regular(lines: &Lines) -> io::Result<bool> {
    match lines {
        Lines::File(path) => std::fs::metadata(path).map(|metadata| metadata.is_file()),
        Lines::Stdin => {
            let stat = rustix::fs::fstat(io::stdin())?;
            Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::{AsFd, OwnedFd};

    /// How a list comes.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum By {
        File,
        /// A pipe that is read directly.
        Pipe,
        /// A FIFO of which main holds what was read.
        Intake,
    }

    const WAYS: [By; 3] = [By::File, By::Pipe, By::Intake];

    /// Reads a list, and says what came.
    fn read(content: &[u8], line_max: usize, by: By) -> Vec<(Vec<u8>, bool, u64)> {
        let (quiet, _writer) = io::pipe().expect("pipe");
        let quiet = quiet.as_fd();
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("list");
        let lines = Lines::File(path.clone());
        if by == By::Intake {
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("FIFO");
        } else {
            std::fs::write(&path, content).expect("write");
        }
        let intake = Intake::open(&lines);
        assert_eq!(intake.is_some(), by == By::Intake);
        let mut reader = LineReader::open(&lines, intake.as_ref(), line_max, quiet).expect("open");
        let writer: Option<Box<dyn Write + Send>> = match by {
            By::File => None,
            By::Intake => Some(Box::new(File::options().write(true).open(&path).expect("open"))),
            By::Pipe => {
                let (input, writer) = io::pipe().expect("pipe");
                let stream = Stream::direct(File::from(OwnedFd::from(input)), quiet);
                reader = LineReader::of_input(Input::Stream(stream), line_max);
                Some(Box::new(writer))
            }
        };
        let content_too = content.to_vec();
        let feeder = writer.map(|mut writer| {
            std::thread::spawn(move || writer.write_all(&content_too).expect("feed"))
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
        for by in WAYS {
            let all = read(b"a\n\n  \nb\r\n\xff \0\nlast", 10, by);
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
        for by in WAYS {
            for size in [1, 9, 10, 11, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
                let mut content = vec![b'x'; size];
                content.extend_from_slice(b"\nnext\n");
                let all = read(&content, 10, by);
                assert_eq!(all.len(), 2, "{size} {by:?}");
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
        let mut reader = LineReader::open(&lines, None, 10, quiet.as_fd()).expect("open");
        reader.next(&mut line).expect("read");
        let (offset, prefix) = reader.position();
        let mut again = LineReader::open(&lines, None, 10, quiet.as_fd()).expect("open");
        assert_eq!(again.skip_to(offset, prefix).expect("read"), Some(true));
        again.next(&mut line).expect("read");
        assert_eq!(line, b"two");
        let mut other = LineReader::open(&lines, None, 10, quiet.as_fd()).expect("open");
        assert_eq!(other.skip_to(offset, prefix ^ 1).expect("read"), Some(false));
        other.next(&mut line).expect("read");
        assert_eq!(line, b"one");
    }

    #[test]
    fn an_interruption_takes_nothing_of_an_unfinished_line() {
        let (interrupt, mut interrupter) = io::pipe().expect("pipe");
        let (input, mut writer) = io::pipe().expect("pipe");
        let stream = Stream::direct(File::from(OwnedFd::from(input)), interrupt.as_fd());
        let mut reader = LineReader::of_input(Input::Stream(stream), 10);
        writer.write_all(b"whole\nunfin").expect("feed");
        let mut line = Vec::new();
        assert_eq!(reader.next(&mut line).expect("read"), Next::Line { too_long: false });
        interrupter.write_all(b"!").expect("interrupt");
        assert_eq!(reader.next(&mut line).expect("read"), Next::Interrupted);
        assert_eq!(reader.position().0, 6);
    }
}
