//! Any bytes as a list of jobs: see [`crate::fuzzing`].

use super::hand_out::HandOut;
use super::lines::{LineReader, Next};
use crate::config::Lines;
use crate::flow::queue::fuzz::scratch;
use crate::flow::queue::jobs::{Claim, Claimed, Claimer, Jobs, Reason};
use crate::flow::queue::layout::Geometry;
use crate::flow::queue::spool::Spool;
use crate::flow::worker;
use crate::fuzzing::Choices;
use crate::stop::Stop;
use crate::sys::spawn::CommandLine;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::PathBuf;

/// Bytes of the longest job.
const LINE_MAX: usize = 16;
const SLOTS: usize = 8;

struct Stage {
    directory: PathBuf,
    list: Lines,
    spool: Spool,
    command: CommandLine,
    /// Nobody asks for an end.
    never: (PipeReader, PipeWriter),
}

thread_local! {
    static STAGE: Stage = Stage::new();
}

impl Stage {
    fn new() -> Stage {
        let directory = scratch();
        let list = Lines::File(directory.join("list"));
        let (slots, job_bytes) = (SLOTS as u32, LINE_MAX as u32);
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots, job_bytes };
        let path = directory.join("spool");
        let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("a spool");
        let command = ["program", "--of={}!", "{}{}", "as it is"].map(str::to_owned);
        let command = CommandLine::new(&command, &Default::default(), "run").expect("a command");
        let never = std::io::pipe().expect("a pipe");
        Stage { directory, list, spool, command, never }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.directory);
    }
}

/// A line of the list: what of it is a job, whether it is too long, and where the list goes on.
type Line = (Vec<u8>, bool, u64);

/// Each line is a job, unchanged, or one that fails since it is too long; wherever a source has died, the
/// next one goes on there, and only if the list is still the same.
pub(crate) fn lines(data: &[u8]) {
    STAGE.with(|stage| {
        let mut choices = Choices::new(data);
        let (place, change) = (choices.byte(), choices.byte());
        let content = choices.rest();
        stage.write(content);
        let expected = expected(content);
        let read = stage.read_from(None).expect("it begins as it begins");
        assert_eq!(read.0, expected);
        let end = (content.len() as u64, crc32c::crc32c(content).into());
        assert_eq!(read.1, end, "all bytes are accounted for");
        stage.hand_out(&expected);
        if !expected.is_empty() {
            stage.go_on(content, &expected, place.into(), change);
        }
    });
}

/// The lines, by the simplest way to find them.
fn expected(content: &[u8]) -> Vec<Line> {
    let mut at = 0;
    let lines = content.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
        at += line.len() as u64;
        let text = match line.strip_suffix(b"\n") {
            Some(text) => text.strip_suffix(b"\r").unwrap_or(text),
            None => line,
        };
        let too_long = text.len() > LINE_MAX;
        let is_blank = !too_long && text.trim_ascii().is_empty();
        (!is_blank).then(|| (text[..text.len().min(LINE_MAX)].to_vec(), too_long, at))
    });
    lines.collect()
}

impl Stage {
    fn write(&self, content: &[u8]) {
        std::fs::write(self.directory.join("list"), content).expect("a list");
    }

    /// The lines from a place on, and the position at the end; `None` if the list is another one.
    fn read_from(&self, place: Option<(u64, u64)>) -> Option<(Vec<Line>, (u64, u64))> {
        let reader = LineReader::open(&self.list, None, LINE_MAX, self.never.0.as_fd());
        let mut reader = reader.expect("a list");
        if let Some((offset, prefix)) = place
            && reader.skip_to(offset, prefix).expect("readable") != Some(true)
        {
            assert_eq!(reader.position().0, 0, "it stands at the beginning of another list");
            return None;
        }
        let (mut all, mut line) = (Vec::new(), Vec::new());
        while let Next::Line { too_long } = reader.next(&mut line).expect("readable") {
            all.push((line.clone(), too_long, reader.position().0));
        }
        Some((all, reader.position()))
    }

    /// Behind one of the jobs.
    fn go_on(&self, content: &[u8], expected: &[Line], place: usize, change: u8) {
        let place = place % expected.len();
        let offset = expected[place].2;
        let prefix = crc32c::crc32c(&content[..offset as usize]).into();
        let (rest, _) = self.read_from(Some((offset, prefix))).expect("the same list");
        assert_eq!(rest, expected[place + 1..]);
        if change > 0 {
            let mut other = content.to_vec();
            other[place % offset as usize] ^= change;
            self.write(&other);
            assert_eq!(self.read_from(Some((offset, prefix))), None, "it has changed");
        }
    }

    /// What workers get of the first jobs, and what they make of it.
    fn hand_out(&self, expected: &[Line]) {
        let (jobs, stop) = (Jobs(&self.spool), Stop::new(|| {}));
        (0..jobs.len()).for_each(|index| jobs.forget(index));
        let mut out = HandOut::begin(&self.spool, &stop);
        for (text, too_long, offset) in expected.iter().take(SLOTS) {
            out.fill(text, *too_long, (*offset, 0));
        }
        let by = Claimer { lane: 0, incarnation: 1 };
        let mut job = Claimed::default();
        let mut claimed = Vec::new();
        while jobs.claim(by, &mut job) == Claim::Job {
            claimed.push(job.slot);
            let (text, too_long, _) = &expected[claimed.len() - 1];
            assert_eq!((&job.text, job.reason), (text, too_long.then_some(Reason::TooLong)));
            self.assert_arguments(&job.text);
            worker::coprocess::fuzz::assert_job_is_unchanged(&job.text, job.seq);
        }
        assert_eq!(claimed.len(), expected.len().min(SLOTS));
    }

    /// A job is an argument, or a part of one, as it is; with a NUL in it, it is none.
    fn assert_arguments(&self, job: &[u8]) {
        let filled = self.command.fill_in(job);
        if job.contains(&0) {
            assert!(filled.is_err(), "a NUL ends an argument");
            return;
        }
        let filled = filled.expect("arguments");
        let filled: Vec<&[u8]> = filled.iter().map(|argument| argument.to_bytes()).collect();
        let of = [b"--of=", job, b"!"].concat();
        assert_eq!(filled, [b"program", &of[..], &[job, job].concat(), b"as it is"]);
    }
}
