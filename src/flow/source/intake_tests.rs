//! Promises of the intake. A kill is an unwinding that ends the source between two steps; its
//! successor finds what is there.

use super::*;
use crate::flow::source::lines::{LineReader, Next, PIPE_PREFIX_MAX};
use std::cell::Cell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

/// What is kept of a line here.
const LINE_MAX: usize = 5000;

thread_local! {
    /// Steps that are left to live for the source of this thread.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

struct Killed;

pub(super) fn step() {
    LEFT.set(LEFT.get() - 1);
    if LEFT.get() == 0 {
        resume_unwind(Box::new(Killed));
    }
}

/// A small source of random numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % limit
    }
}

/// A list with lines of all kinds, many of which don't fit into a pipe, and some of which are longer
/// than what is let go of at a time; blanks that are, too; and an end that is no line's.
fn list(dice: &mut Dice, lines: usize) -> Vec<u8> {
    let mut list = Vec::new();
    for number in 0..lines {
        let length = match dice.below(12) {
            0 => 0,
            1 => LINE_MAX as u64 - 2 + dice.below(5),
            2 => dice.below(3 * MOVE as u64),
            3 if number % 5 == 0 => LET_GO + dice.below(2 * LET_GO),
            4 if number % 5 == 0 => {
                let blank: &[u8] = if dice.below(2) == 0 { b"\n" } else { b"\r\n" };
                let times = (LET_GO + dice.below(LET_GO)) as usize / 1000;
                list.extend_from_slice(&[&[b' '; 1000][..], blank].concat().repeat(times));
                3
            }
            _ => dice.below(100),
        };
        let text: Vec<u8> = (0..97).map(|at| b'a' + ((at * 7 + number) % 26) as u8).collect();
        let end = list.len() + length as usize;
        list.extend_from_slice(&text.repeat(length as usize / text.len() + 1));
        list.truncate(end);
        list.extend_from_slice(if dice.below(4) == 0 { b"\r\n" } else { b"\n" });
    }
    list.extend_from_slice(b"the last one");
    list
}

/// What is to be handed out of a list: text, whether it was cut, where the list goes on.
type Line = (Vec<u8>, bool, u64);

/// By another way than that of the reader.
fn expected(list: &[u8]) -> Vec<Line> {
    let mut at = 0;
    let lines = list.split_inclusive(|byte| *byte == b'\n').filter_map(|line| {
        at += line.len() as u64;
        let text = line.strip_suffix(b"\n");
        let text = text.map_or(line, |text| text.strip_suffix(b"\r").unwrap_or(text));
        let cut = text.len() > LINE_MAX;
        let blank = text.trim_ascii().is_empty() && !cut;
        (!blank).then(|| (text[..text.len().min(LINE_MAX)].to_vec(), cut, at))
    });
    lines.collect()
}

/// A short list in which there is everything that is passed over.
fn list_with_all() -> Vec<u8> {
    let mut list = b"first\r\nsecond\n".to_vec();
    let blank = [&[b' '; 1999][..], b"\n"].concat();
    list.extend_from_slice(&blank.repeat(LET_GO as usize / 2000 + 100));
    list.extend_from_slice(b"third\n");
    list.extend_from_slice(&vec![b'x'; LET_GO as usize + 3 * MOVE]);
    list.extend_from_slice(b"\nfourth\n\nfifth");
    list
}

/// What the spool keeps of the list position, and what was handed out.
struct Sources {
    position: (u64, u64),
    handed_out: Vec<Line>,
    /// The list had another beginning than the position says.
    anew: u32,
    most_kept: u64,
    lives: u32,
}

impl Sources {
    fn new() -> Sources {
        Sources { position: (0, 0), handed_out: Vec::new(), anew: 0, most_kept: 0, lives: 0 }
    }

    /// One source, from its start to its end or its death after so many steps, as
    /// [`crate::flow::source::run`] does it. Says whether the list has come to its end.
    fn run(&mut self, intake: &Intake, steps: u64) -> bool {
        self.lives += 1;
        assert!(self.lives < 3000, "no source gets any further");
        LEFT.set(steps);
        let ended = catch_unwind(AssertUnwindSafe(|| self.hand_out(intake)));
        LEFT.set(u64::MAX);
        match ended {
            Ok(()) => true,
            Err(panic) if panic.is::<Killed>() => false,
            Err(panic) => resume_unwind(panic),
        }
    }

    fn hand_out(&mut self, intake: &Intake) {
        let (quiet, _writer) = io::pipe().expect("pipe");
        let lines = Lines::File(PathBuf::from("not opened"));
        let reader = LineReader::open(&lines, Some(intake), LINE_MAX, quiet.as_fd());
        let mut reader = reader.expect("open");
        let (offset, prefix) = self.position;
        let same = reader.skip_to(offset, prefix).expect("skip").expect("no interruption");
        if !same {
            step();
            self.position = (0, 0);
            self.anew += 1;
        }
        reader.begin();
        let mut line = Vec::new();
        while let Next::Line { too_long } = reader.next(&mut line).expect("read") {
            step();
            self.position = reader.position();
            self.handed_out.push((line.clone(), too_long, self.position.0));
            step();
            let kept = intake.store.metadata().expect("metadata").blocks() * 512;
            self.most_kept = self.most_kept.max(kept);
        }
        self.position = reader.position();
    }
}

/// Ways on which such a list comes.
#[derive(Debug, Clone, Copy)]
enum By {
    Pipe,
    Socket,
}

/// An intake, with the thread that feeds it with `list` in pieces of all sizes.
fn feed(list: &[u8], by: By, mut dice: Dice) -> (Intake, std::thread::JoinHandle<()>) {
    let (input, mut writer): (OwnedFd, File) = match by {
        By::Pipe => {
            let (reader, writer) = io::pipe().expect("pipe");
            (reader.into(), OwnedFd::from(writer).into())
        }
        By::Socket => {
            let (reader, writer) = UnixStream::pair().expect("sockets");
            (reader.into(), OwnedFd::from(writer).into())
        }
    };
    let between = matches!(by, By::Socket).then(|| io::pipe().expect("pipe"));
    let intake = Intake { named: Some(input.into()), store: store().expect("store"), between };
    let mut list = list.to_vec();
    let feeder = std::thread::spawn(move || {
        while !list.is_empty() {
            let piece = (1 + dice.below(3 * MOVE as u64) as usize).min(list.len());
            writer.write_all(&list[..piece]).expect("feed");
            list.drain(..piece);
        }
    });
    (intake, feeder)
}

#[track_caller]
fn assert_same(found: &[Line], expected: &[Line], what: &str) {
    let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let brief = |line: Option<&Line>| {
        line.map(|(text, cut, at)| {
            (String::from_utf8_lossy(&text[..text.len().min(20)]).into_owned(), *cut, *at)
        })
    };
    assert!(
        found == expected,
        "{what}: the line number {same} of {}/{} is {:?} and not {:?}",
        found.len(),
        expected.len(),
        brief(found.get(same)),
        brief(expected.get(same))
    );
}

#[test]
fn whenever_sources_are_killed_each_line_is_handed_out_once() {
    let mut kills = 0;
    for seed in 0..15 {
        for by in [By::Pipe, By::Socket] {
            let mut dice = Dice(seed);
            let list = list(&mut dice, 40);
            let (intake, feeder) = feed(&list, by, Dice(seed + 1000));
            let mut sources = Sources::new();
            let life = 5 + dice.below(60);
            while !sources.run(&intake, 1 + dice.below(life)) {
                kills += 1;
            }
            feeder.join().expect("feeder");
            let what = format!("seed {seed}, {by:?}");
            assert_same(&sources.handed_out, &expected(&list), &what);
            assert_eq!(sources.position, (list.len() as u64, crc32c::crc32c(&list).into()));
            assert_eq!(sources.anew, 0);
        }
    }
    assert!(kills > 150, "hardly anything was killed: {kills}");
}

#[test]
fn a_kill_before_each_step_leaves_each_line_to_be_handed_out_once() {
    let list = list_with_all();
    let expected = expected(&list);
    for by in [By::Pipe, By::Socket] {
        for number in 1.. {
            let (intake, feeder) = feed(&list, by, Dice(number));
            let mut sources = Sources::new();
            let killed = !sources.run(&intake, number);
            // The second one dies soon, on its way to where it goes on.
            sources.run(&intake, 1 + number % 3);
            assert!(sources.run(&intake, u64::MAX));
            feeder.join().expect("feeder");
            assert_same(&sources.handed_out, &expected, &format!("{by:?}, step {number}"));
            if !killed {
                assert!(number > 20, "only {number} steps");
                break;
            }
        }
    }
}

#[test]
fn the_input_of_an_earlier_run_is_gone_on_with_whenever_sources_are_killed() {
    let mut furthest = 0;
    for (seed, lines) in [(1, 5), (2, 20), (3, 120)] {
        let list = list(&mut Dice(seed), lines);
        let all = expected(&list);
        // In the middle, and behind more than is kept to find out whether it is the same.
        for done in [1, all.len() / 2, all.len() - 1] {
            let (_, _, offset) = all[done - 1];
            furthest = furthest.max(offset);
            let prefix = crc32c::crc32c(&list[..offset as usize]).into();
            let mut dice = Dice(seed);
            for life in [5, 10, 40] {
                let (intake, feeder) = feed(&list, By::Pipe, Dice(seed));
                let mut sources = Sources { position: (offset, prefix), ..Sources::new() };
                while !sources.run(&intake, 1 + dice.below(life)) {}
                feeder.join().expect("feeder");
                let what = format!("seed {seed}, {offset} of {} bytes", list.len());
                assert_same(&sources.handed_out, &all[done..], &what);
                assert_eq!(sources.anew, 0, "{what}");
            }
        }
    }
    assert!(furthest > PIPE_PREFIX_MAX + 2 * LET_GO, "all of it is kept: {furthest} bytes");
}

#[test]
fn another_input_is_read_from_its_beginning_whenever_sources_are_killed() {
    let list = list(&mut Dice(1), 10);
    for offset in [1, 1000, 1 << 20] {
        for life in [5, 10, 40] {
            let (intake, feeder) = feed(&list, By::Pipe, Dice(life));
            let mut dice = Dice(life);
            let mut sources = Sources { position: (offset, 1), ..Sources::new() };
            while !sources.run(&intake, 1 + dice.below(life)) {}
            feeder.join().expect("feeder");
            assert_same(&sources.handed_out, &expected(&list), &format!("{offset} bytes"));
            // It is found out once, and not again of the position in this very input.
            assert_eq!(sources.anew, 1);
        }
    }
}

#[test]
fn memory_is_given_back_while_the_list_goes_through() {
    let lines = [&[b'x'; 999][..], b"\n"].concat();
    let mut list = Vec::new();
    for number in 0..30 {
        list.extend_from_slice(&lines.repeat(100));
        list.extend_from_slice(&vec![b'x'; if number % 3 == 0 { 700_000 } else { 3000 }]);
        list.push(b'\n');
        list.extend_from_slice(&b"\n".repeat(if number % 4 == 0 { 500_000 } else { 1 }));
    }
    let mut dice = Dice(1);
    // One source, or many that find what others have not yet given back.
    for (list, lives) in [(lines.repeat(10_000), 0), (list, 4000)] {
        let (intake, feeder) = feed(&list, By::Pipe, Dice(1));
        let mut sources = Sources::new();
        let mut steps = || if lives == 0 { u64::MAX } else { 1 + dice.below(lives) };
        while !sources.run(&intake, steps()) {}
        feeder.join().expect("feeder");
        assert_same(&sources.handed_out, &expected(&list), "the long list");
        let most = LET_GO + 2 * MOVE as u64 + if lives == 0 { 0 } else { 2 * MOVE as u64 };
        let kept = sources.most_kept;
        assert!(kept > LET_GO / 2 && kept <= most, "{kept} bytes of {} in memory", list.len());
    }
}

#[test]
fn bytes_in_the_pipe_between_and_bytes_in_the_store_are_the_successors() {
    let (intake, feeder) = feed(b"one\ntwo\n", By::Socket, Dice(1));
    feeder.join().expect("feeder");
    let (_, between) = intake.between.as_ref().expect("a pipe between");
    let input = intake.input().expect("input");
    assert_eq!(move_bytes(&input, between, None).expect("splice"), Some(8));
    let mut sources = Sources::new();
    assert!(sources.run(&intake, u64::MAX));
    assert_same(&sources.handed_out, &expected(b"one\ntwo\n"), "between");
}

#[test]
fn a_fifo_is_opened_without_its_writer_and_ends_once_with_it() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("FIFO");
    let lines = Lines::File(path.clone());
    let intake = Intake::open(&lines).expect("an intake");
    let (interrupt, mut interrupter) = io::pipe().expect("pipe");
    let mut stream = Stream::open(&intake, interrupt.as_fd()).expect("open");
    interrupter.write_all(b"!").expect("interrupt");
    // No writer yet: that is no end.
    assert_eq!(stream.read(&mut [0; 9]).expect("read"), Got::Interrupted);
    let mut writer = File::options().write(true).open(&path).expect("open");
    writer.write_all(b"one\n").expect("write");
    drop(writer);
    let mut sources = Sources::new();
    assert!(sources.run(&intake, u64::MAX));
    let mut second = File::options().write(true).open(&path).expect("open");
    second.write_all(b"two\n").expect("write");
    drop(second);
    assert!(sources.run(&intake, u64::MAX));
    assert_same(&sources.handed_out, &expected(b"one\n"), "after the end");
}

#[test]
fn what_cannot_be_spliced_is_read_directly_and_the_successor_knows() {
    // A counter of events: eight bytes at a time, and no splice.
    let counter = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty());
    let counter = File::from(counter.expect("eventfd"));
    (&counter).write_all(b"one\ntwo\n").expect("write");
    let between = Some(io::pipe().expect("pipe"));
    let intake = Intake { named: Some(counter), store: store().expect("store"), between };
    let (quiet, _writer) = io::pipe().expect("pipe");
    let mut stream = Stream::open(&intake, quiet.as_fd()).expect("open");
    assert!(stream.survives());
    let mut buffer = [0; 100];
    assert_eq!(stream.read(&mut buffer).expect("read"), Got::Bytes(8));
    assert_eq!(&buffer[..8], b"one\ntwo\n");
    assert!(!stream.survives());
    assert!(!Stream::open(&intake, quiet.as_fd()).expect("open").survives());
}

#[test]
fn a_regular_file_and_a_missing_one_need_no_intake() {
    let file = tempfile::NamedTempFile::new().expect("temp file");
    assert!(Intake::open(&Lines::File(file.path().to_path_buf())).is_none());
    assert!(Intake::open(&Lines::File(file.path().join("missing"))).is_none());
    assert!(Intake::open(&Lines::File(PathBuf::from("/"))).is_none());
}
