//! What coprocesses write to standard error goes to the log, line by line.
//!
//! One thread of a worker process reads for all of its coprocesses, also while they have no job,
//! so that none of them is ever held up by what it says. It sleeps until there is something.
//!
//! - A line goes to the log whole. One that is longer than [`LINE_MAX`] is cut, and marked.
//! - What is more than [`BYTES_MAX`] in a second is dropped, and the lines of it are counted.
//! - What a coprocess has written before it ended is in the log before its end is.

use std::io::{self, PipeWriter, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::sys::clock;

/// Bytes of the longest line that goes to the log whole.
const LINE_MAX: usize = 8 << 10;

/// Bytes of one coprocess that go to the log in a second.
const BYTES_MAX: usize = 64 << 10;

/// What a line costs beyond its own bytes: the log's line is longer.
const LINE_COST: usize = 64;

const SECOND: Duration = Duration::from_secs(1);

/// Reads the standard error of all coprocesses of this process.
#[derive(Debug)]
pub(super) struct Listener {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    voices: Mutex<Vec<Arc<Voice>>>,
    /// Something has changed in the above, or in `ended`.
    wake: PipeWriter,
    ended: AtomicBool,
}

/// The standard error of one coprocess.
#[derive(Debug)]
struct Voice {
    pid: i32,
    pipe: OwnedFd,
    lines: Mutex<Lines>,
}

/// A coprocess that is listened to, until this is dropped.
#[derive(Debug)]
pub(super) struct Heard {
    voice: Arc<Voice>,
    shared: Arc<Shared>,
}

impl Listener {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it can't be started, or there is no descriptor left.
    pub(super) fn start() -> io::Result<Listener> {
        let (woken, wake) = io::pipe()?;
        for end in [woken.as_fd(), wake.as_fd()] {
            rustix::fs::fcntl_setfl(end, rustix::fs::OFlags::NONBLOCK)?;
        }
        let voices = Mutex::default();
        let shared = Arc::new(Shared { voices, wake, ended: AtomicBool::new(false) });
        let listening = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("stderr".into()).stack_size(256 << 10);
        let thread = builder.spawn(move || listening.listen(&OwnedFd::from(woken)))?;
        Ok(Listener { shared, thread: Some(thread) })
    }

    /// Reads this pipe, which doesn't block, from now on.
    pub(super) fn hear(&self, pid: i32, pipe: OwnedFd) -> Heard {
        let voice = Arc::new(Voice { pid, pipe, lines: Mutex::default() });
        self.shared.voices().push(Arc::clone(&voice));
        self.shared.wake();
        Heard { voice, shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there has been said already.
            let _ended = thread.join();
        }
    }
}

impl Drop for Heard {
    /// The coprocess has ended: logs the rest of what it has said.
    fn drop(&mut self) {
        self.voice.finish();
        self.shared.wake();
    }
}

impl Shared {
    fn voices(&self) -> MutexGuard<'_, Vec<Arc<Voice>>> {
        self.voices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A full pipe wakes as well.
        let _written = (&self.wake).write(b"!");
    }

    fn listen(&self, woken: &OwnedFd) {
        while !self.ended.load(Ordering::SeqCst) {
            let voices: Vec<Arc<Voice>> = {
                let mut voices = self.voices();
                voices.retain(|voice| !voice.lines().over);
                voices.clone()
            };
            let due = voices.iter().filter_map(|voice| voice.lines().due()).min();
            let mut polled = vec![PollFd::new(woken, PollFlags::IN)];
            polled.extend(voices.iter().map(|voice| PollFd::new(&voice.pipe, PollFlags::IN)));
            let pause = due.map(|due| clock::timespec(due.saturating_sub(clock::now())));
            if poll(&mut polled, pause.as_ref()).is_err() {
                // Interrupted; or no memory, and then trying at once again would only be worse.
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            if !polled[0].revents().is_empty() {
                let _emptied = rustix::io::read(woken, &mut [0; 64][..]);
            }
            for (voice, polled) in voices.iter().zip(&polled[1..]) {
                voice.attend(!polled.revents().is_empty());
            }
        }
    }
}

impl Voice {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self) -> impl Fn(Said<'_>) {
        let pid = self.pid;
        move |said| match said {
            Said::Line { text, cut } => {
                let text = String::from_utf8_lossy(text);
                log::info!("coprocess {pid}: {text}{}", if cut { " ... (cut)" } else { "" });
            }
            Said::Dropped(count) => {
                log::warn!("coprocess {pid}: {count} lines of its standard error were dropped");
            }
        }
    }

    /// Reads once if there is something, and says what is due.
    fn attend(&self, readable: bool) {
        let mut lines = self.lines();
        if lines.over {
            return;
        }
        if readable {
            self.read(&mut lines);
        }
        lines.tick(clock::now(), &self.say());
    }

    /// Says how many bytes there were.
    fn read(&self, lines: &mut Lines) -> usize {
        let mut piece = [0; 16 << 10];
        match rustix::io::read(&self.pipe, &mut piece[..]) {
            Ok(0) => lines.finish(clock::now(), &self.say()),
            Ok(length) => {
                lines.feed(&piece[..length], clock::now(), &self.say());
                return length;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => lines.finish(clock::now(), &self.say()),
        }
        0
    }

    /// Reads what is there now, and nothing after that: a process that the coprocess has left
    /// behind can write on for ever.
    fn finish(&self) {
        let mut lines = self.lines();
        let waiting = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
        let mut left = usize::try_from(waiting).unwrap_or(usize::MAX);
        while left > 0 && !lines.over {
            match self.read(&mut lines) {
                0 => break,
                length => left = left.saturating_sub(length),
            }
        }
        lines.finish(clock::now(), &self.say());
    }
}

/// Something for the log.
#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Line { text: &'a [u8], cut: bool },
    Dropped(u64),
}

/// Makes lines of pieces, and few of many.
#[derive(Debug, Default)]
struct Lines {
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// It was longer than what is kept of it.
    cut: bool,
    /// When the current second began, and what has gone to the log in it.
    began: Duration,
    spent: usize,
    dropped: u64,
    /// Nothing more will come, or nothing more is wanted.
    over: bool,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], now: Duration, say: &dyn Fn(Said<'_>)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LINE_MAX - self.partial.len();
            self.cut |= text.len() > room;
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end_line(now, say);
            }
        }
    }

    fn end_line(&mut self, now: Duration, say: &dyn Fn(Said<'_>)) {
        self.tick(now, say);
        let text = self.partial.trim_ascii_end();
        let cost = text.len() + LINE_COST;
        if text.is_empty() {
            // Tells nothing, in a log where each line says when and who.
        } else if self.spent + cost <= BYTES_MAX {
            self.spent += cost;
            say(Said::Line { text, cut: self.cut });
        } else {
            self.dropped += 1;
        }
        self.partial.clear();
        self.cut = false;
    }

    /// When the next second begins, if there is something to be said then.
    fn due(&self) -> Option<Duration> {
        (self.dropped > 0).then(|| self.began.saturating_add(SECOND))
    }

    /// Begins a new second, if the last one is over.
    fn tick(&mut self, now: Duration, say: &dyn Fn(Said<'_>)) {
        if now >= self.began.saturating_add(SECOND) {
            (self.began, self.spent) = (now, 0);
            self.say_dropped(say);
        }
    }

    fn say_dropped(&mut self, say: &dyn Fn(Said<'_>)) {
        if self.dropped > 0 {
            say(Said::Dropped(std::mem::take(&mut self.dropped)));
        }
    }

    fn finish(&mut self, now: Duration, say: &dyn Fn(Said<'_>)) {
        if self.over {
            return;
        }
        self.end_line(now, say);
        self.say_dropped(say);
        self.over = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn said(feed: impl FnOnce(&dyn Fn(Said<'_>))) -> Vec<String> {
        let all = RefCell::new(Vec::new());
        feed(&|said| {
            all.borrow_mut().push(match said {
                Said::Line { text, cut } => {
                    format!("{}{}", String::from_utf8_lossy(text), if cut { "|cut" } else { "" })
                }
                Said::Dropped(count) => format!("dropped {count}"),
            });
        });
        all.into_inner()
    }

    #[test]
    fn lines_are_whole_however_they_come_and_the_last_one_needs_no_end() {
        let text = b"one\ntwo\r\n\nthree";
        for size in 1..=text.len() {
            let lines = said(|say| {
                let mut lines = Lines::default();
                text.chunks(size).for_each(|piece| lines.feed(piece, SECOND, say));
                lines.finish(SECOND, say);
                lines.finish(SECOND, say);
            });
            assert_eq!(lines, ["one", "two", "three"]);
        }
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_takes_no_more_memory() {
        let lines = said(|say| {
            let mut lines = Lines::default();
            for _ in 0..100 {
                lines.feed(&[b'x'; 1000], SECOND, say);
                assert!(lines.partial.len() <= LINE_MAX);
            }
            lines.feed(b"\nnext\n", SECOND, say);
        });
        assert_eq!(lines, [format!("{}|cut", "x".repeat(LINE_MAX)), "next".to_owned()]);
    }

    #[test]
    fn a_flood_is_dropped_and_counted_and_the_next_second_begins_anew() {
        let line = [b"y".repeat(LINE_COST).as_slice(), b"\n"].concat();
        let most = BYTES_MAX / (2 * LINE_COST);
        let lines = said(|say| {
            let mut lines = Lines::default();
            lines.tick(SECOND, say);
            for _ in 0..most + 5 {
                lines.feed(&line, SECOND, say);
            }
            assert_eq!(lines.due(), Some(2 * SECOND));
            lines.tick(2 * SECOND - Duration::from_nanos(1), say);
            lines.tick(2 * SECOND, say);
            assert_eq!(lines.due(), None);
            lines.feed(b"after\n", 2 * SECOND, say);
        });
        assert_eq!(lines.len(), most + 2);
        assert_eq!(lines[most..], ["dropped 5", "after"]);
    }
}
