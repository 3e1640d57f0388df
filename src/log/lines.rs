//! Where the log goes, and how a line gets there whole.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Where lines go. `write` is one `write(2)`.
pub(super) trait Output: Write + Send + 'static {
    /// Waits for so long until the destination takes bytes, and says whether it does: a reader
    /// that is stuck must not hold up who logs.
    fn is_writable(&self, wait: Timespec) -> bool;
}

/// How long a line is waited for.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long after one that was waited for in vain.
const NONE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

pub(super) enum Destination {
    /// Standard error, which std does not buffer.
    Stderr(io::Stderr),
    File(File),
}

impl Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Destination::Stderr(stderr) => stderr.write(bytes),
            Destination::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output for Destination {
    fn is_writable(&self, wait: Timespec) -> bool {
        let descriptor = match self {
            Destination::Stderr(stderr) => stderr.as_fd(),
            Destination::File(file) => file.as_fd(),
        };
        let mut fds = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
        // What can't be asked is tried: a write that fails says why.
        !matches!(rustix::event::poll(&mut fds, Some(&wait)), Ok(0))
    }
}

/// Collects pieces and hands each line on whole, in one call of `write` if the system takes it
/// in one. (std's `LineWriter` splits lines that are longer than its buffer.)
pub(super) struct WholeLines<W: Output> {
    destination: W,
    /// The beginning of a line whose end has not come yet.
    pending: Vec<u8>,
    /// Only part of the last line could be written.
    is_torn: bool,
    /// It did not take the last line in time.
    is_stuck: bool,
}

impl<W: Output> WholeLines<W> {
    pub(super) fn new(destination: W) -> WholeLines<W> {
        WholeLines { destination, pending: Vec::new(), is_torn: false, is_stuck: false }
    }

    /// Writes what is pending. What can't be written is lost.
    fn write_pending(&mut self) {
        if self.is_torn {
            // The next line must not look like the rest of the torn one.
            self.pending.insert(0, b'\n');
        }
        // Room for some bytes need not be room for these.
        let mut tries = 3;
        let mut written = 0;
        while written < self.pending.len() {
            // A reader that is stuck costs a second once, not the program.
            let patience = if self.is_stuck { NONE } else { PATIENCE };
            self.is_stuck = !self.destination.is_writable(patience);
            if self.is_stuck {
                break;
            }
            match self.destination.write(&self.pending[written..]) {
                Ok(0) => break,
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries > 0 => tries -= 1,
                Err(_) => break,
            }
        }
        self.is_torn = match written {
            0 => self.is_torn,
            _ => written < self.pending.len() && self.pending[written - 1] != b'\n',
        };
        self.pending.clear();
        self.pending.shrink_to(PENDING_KEPT);
    }
}

/// Memory kept between lines: most lines fit, and a single long one does not cost for ever.
const PENDING_KEPT: usize = 4096;

impl<W: Output> Write for WholeLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if bytes.ends_with(b"\n") {
            self.write_pending();
        }
        Ok(bytes.len())
    }

    /// Does nothing: half a line is never written.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Records each call of `write`; takes at most `limit` bytes a call, and fails in between as
    /// `failures` say.
    #[derive(Clone, Default)]
    pub(in crate::log) struct Recorder {
        writes: Arc<Mutex<Vec<Vec<u8>>>>,
        failures: Arc<Mutex<Vec<io::ErrorKind>>>,
        limit: Option<usize>,
    }

    impl Write for Recorder {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.failures.lock().unwrap().pop() {
                return Err(kind.into());
            }
            let length = bytes.len().min(self.limit.unwrap_or(usize::MAX));
            self.writes.lock().unwrap().push(bytes[..length].to_vec());
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for Recorder {
        fn is_writable(&self, _wait: Timespec) -> bool {
            true
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
        let mut lines = WholeLines::new(recorder.clone());
        lines.write_all(b"abc").unwrap();
        assert!(recorder.writes().is_empty());
        lines.write_all(b"defg\n").unwrap();
        assert_eq!(recorder.writes(), ["abcd", "efg\n"]);
    }

    #[test]
    fn a_destination_whose_reader_is_stuck_loses_lines_and_holds_up_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
        rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
        let mut file = File::from(std::os::fd::OwnedFd::from(writer));
        while file.write(&[b'x'; 4096]).is_ok() {}
        rustix::fs::fcntl_setfl(&file, flags).unwrap();
        let mut lines = WholeLines::new(Destination::File(file));
        // A write that blocks would never return: nobody reads.
        lines.write_all(b"waited for\n").unwrap();
        assert!(lines.is_stuck);
        lines.write_all(b"not waited for\n").unwrap();
        drop(reader);
    }

    #[test]
    fn a_destination_that_fails_loses_lines_and_nothing_else() {
        let recorder = Recorder::default();
        let mut lines = WholeLines::new(recorder.clone());
        *recorder.failures.lock().unwrap() =
            vec![io::ErrorKind::StorageFull, io::ErrorKind::BrokenPipe];
        lines.write_all(b"one\n").unwrap();
        lines.write_all(b"two\n").unwrap();
        lines.write_all(b"three\n").unwrap();
        assert_eq!(recorder.writes(), ["three\n"]);
    }

    #[test]
    fn a_line_after_a_torn_one_begins_anew() {
        let recorder = Recorder { limit: Some(2), ..Recorder::default() };
        let mut lines = WholeLines::new(TearsOnce(recorder.clone(), 0));
        lines.write_all(b"lost\n").unwrap();
        lines.write_all(b"x\n").unwrap();
        lines.write_all(b"y\n").unwrap();
        assert_eq!(recorder.writes().concat(), "lo\nx\ny\n");
    }

    /// Takes one write, then fails once.
    struct TearsOnce(Recorder, usize);

    impl Write for TearsOnce {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            match self.1 {
                2 => Err(io::ErrorKind::StorageFull.into()),
                _ => self.0.write(bytes),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for TearsOnce {
        fn is_writable(&self, _wait: Timespec) -> bool {
            true
        }
    }
}
