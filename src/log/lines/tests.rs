//! Destinations that take half a line, fail, or are stuck.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, fcntl_lock};

use super::super::destination::Destination;
use super::*;

/// Records each write; takes at most `limit` bytes a call, and fails in between as `failures` say.
#[derive(Clone, Default)]
pub(in crate::log) struct Recorder {
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
    pub(in crate::log) failures: Arc<Mutex<Vec<io::ErrorKind>>>,
    limit: Option<usize>,
}

impl Output for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(kind) = self.failures.lock().unwrap().pop() {
            return Err(kind.into());
        }
        let length = bytes.len().min(self.limit.unwrap_or(usize::MAX));
        self.writes.lock().unwrap().push(bytes[..length].to_vec());
        Ok(length)
    }

    fn is_writable(&self, _wait: Duration) -> bool {
        true
    }

    fn is_stream(&self) -> bool {
        false
    }
}

impl Recorder {
    pub(in crate::log) fn writes(&self) -> Vec<String> {
        let writes = self.writes.lock().unwrap();
        writes.iter().map(|bytes| String::from_utf8(bytes.clone()).unwrap()).collect()
    }
}

#[test]
fn interrupted_and_short_writes_are_continued() {
    let recorder = Recorder { limit: Some(4), ..Recorder::default() };
    *recorder.failures.lock().unwrap() =
        vec![io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
    let lines = Arc::new(Mutex::new(Lines::new(recorder.clone())));
    let mut pieces = Pieces::new(lines);
    pieces.write_all(b"abc").unwrap();
    assert!(recorder.writes().is_empty());
    pieces.write_all(b"defg\n").unwrap();
    assert_eq!(recorder.writes(), ["abcd", "efg\n"]);
}

#[test]
fn a_destination_that_fails_loses_lines_and_counts_them() {
    let recorder = Recorder::default();
    let mut lines = Lines::new(recorder.clone());
    *recorder.failures.lock().unwrap() =
        vec![io::ErrorKind::StorageFull, io::ErrorKind::BrokenPipe];
    lines.write(b"one\n");
    lines.write(b"two\n");
    lines.write(b"three\n");
    assert_eq!(recorder.writes(), ["three\n"]);
    let why = io::Error::from(io::ErrorKind::StorageFull).to_string();
    assert_eq!(lines.take_lost(), Some((2, why)));
    assert_eq!(lines.take_lost(), None);
}

#[test]
fn a_line_after_a_torn_one_begins_anew() {
    let recorder = Recorder { limit: Some(2), ..Recorder::default() };
    let mut lines = Lines::new(TearsOnce(recorder.clone(), 0));
    lines.write(b"lost\n");
    lines.write(b"x\n");
    lines.write(b"y\n");
    assert_eq!(recorder.writes().concat(), "lo\nx\ny\n");
    assert_eq!(lines.take_lost().map(|(count, _)| count), Some(1));
}

/// Takes one write, then fails once.
struct TearsOnce(Recorder, usize);

impl Output for TearsOnce {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 += 1;
        match self.1 {
            2 => Err(io::ErrorKind::StorageFull.into()),
            _ => self.0.write(bytes),
        }
    }

    fn is_writable(&self, _wait: Duration) -> bool {
        true
    }

    fn is_stream(&self) -> bool {
        false
    }
}

/// A named pipe, opened to read and as the log.
fn named_pipe() -> (tempfile::TempDir, File, Destination) {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = Destination::open(&path).err().expect("nobody reads it");
    assert_eq!(refused.to_string(), "it is a named pipe that nobody reads yet");
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let reader = File::options().read(true).custom_flags(flags).open(&path).unwrap();
    let destination = Destination::open(&path).unwrap();
    (folder, reader, destination)
}

/// All that is in the pipe now.
fn drain(reader: &mut File) -> String {
    let mut all = Vec::new();
    let mut piece = [0; 1 << 16];
    while let Ok(length @ 1..) = reader.read(&mut piece) {
        all.extend_from_slice(&piece[..length]);
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn a_reader_that_is_stuck_costs_lines_and_their_count_and_holds_up_nobody() {
    let (_folder, mut reader, destination) = named_pipe();
    let room = rustix::pipe::fcntl_getpipe_size(destination.as_fd()).unwrap();
    let mut lines = Lines::new(destination);
    let short = format!("{}\n", "s".repeat(99));
    // Longer than what is left, more than once: a write that waits would never return.
    let long = format!("{}\n", "l".repeat(room / 2));
    for _ in 0..4 {
        lines.write(long.as_bytes());
    }
    assert!(lines.is_stuck);
    lines.write(short.as_bytes());
    assert_eq!(lines.take_lost(), None, "there is no room to say it");
    let read = drain(&mut reader);
    assert!(read.starts_with(&long), "the first is whole");
    let (count, why) = lines.take_lost().expect("there is room");
    assert_eq!(why, "it was full, and nobody has read it");
    assert_eq!(count, 4);
    lines.write(short.as_bytes());
    // What was torn has its line to itself.
    assert_eq!(drain(&mut reader), format!("\n{short}"));
    assert!(!lines.is_stuck);
}

#[test]
fn a_line_of_another_process_is_waited_for_and_not_broken_into() {
    let (_folder, mut reader, destination) = named_pipe();
    let mut lines = Lines::new(destination);
    // The lock is a process's, so another process is needed to hold it. Its death releases it.
    let lock = lines.between.file.as_ref().unwrap().try_clone().unwrap();
    let holder = crate::sys::fork::start(|| {
        let held = fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive);
        if held.is_ok() {
            std::thread::sleep(Duration::from_secs(60));
        }
        1
    });
    let holder = holder.unwrap();
    let is_held = || {
        let mut probe = nix::libc::flock { l_type: nix::libc::F_WRLCK as i16, ..free() };
        let asked = nix::fcntl::fcntl(&lock, nix::fcntl::FcntlArg::F_GETLK(&mut probe));
        asked.is_ok() && probe.l_pid == holder.as_raw()
    };
    while !is_held() {
        std::thread::yield_now();
    }
    let long = format!("{}\n", "l".repeat(PIPE_BUF));
    lines.write(long.as_bytes());
    assert_eq!(drain(&mut reader), "");
    let (_, why) = lines.take_lost().expect("it was lost");
    assert_eq!(why, "another process is still writing a line");
    // A short one gets there, since the holder may be stopped for good.
    lines.write(b"short\n");
    assert_eq!(drain(&mut reader), "short\n");
    crate::sys::process::send(holder, nix::sys::signal::Signal::SIGKILL).unwrap();
    while crate::sys::process::reap(holder).is_none() {
        std::thread::yield_now();
    }
    lines.write(long.as_bytes());
    assert_eq!(drain(&mut reader), long);
}

fn free() -> nix::libc::flock {
    nix::libc::flock { l_type: 0, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 }
}
