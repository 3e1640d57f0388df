//! How far a finite run has got, on a terminal: one bar, drawn again and again by a small thread of
//! the buffer, which is the last to stop and has the books.
//!
//! It only reads, and only what is there for all: nobody counts or waits for it, and whatever becomes of
//! it means nothing to the run.

use super::queue::commit::Commit;
use super::queue::position::ListPosition;
use super::queue::spool::Spool;
use super::status::tally;
use crate::log::bar;
use crate::sys::atomic::Ordering;
use crate::sys::clock;
use nix::unistd::{Pid, getppid};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often it is drawn.
const INTERVAL: Duration = Duration::from_millis(250);

/// The rate is that of so long a time.
const WINDOW: Duration = Duration::from_secs(10);

/// A bar that is being drawn.
pub(crate) struct Progress(Option<(mpsc::Sender<()>, JoinHandle<()>)>);

/// Begins to draw, if there may be a bar. `list_bytes`: the length of the list, if it is a file.
/// It is drawn as long as `main` is the parent of this process.
pub(crate) fn start(spool: &Arc<Spool>, list_bytes: Option<u64>, main: Pid) -> Progress {
    if !bar::is_active() {
        return Progress(None);
    }
    let (stop, stopped) = mpsc::channel();
    let mut view = View::new(Arc::clone(spool), list_bytes);
    let draw = move || {
        // Without main there is a prompt on the terminal.
        while getppid() == main {
            bar::draw(&view.look().line(bar::width()));
            match stopped.recv_timeout(INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) => return bar::replace(&view.look().last_line(bar::width())),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        bar::replace("");
    };
    let thread = std::thread::Builder::new().name("progress".into()).stack_size(256 << 10);
    // Without it there is no bar, and no harm.
    Progress(thread.spawn(draw).ok().map(|thread| (stop, thread)))
}

impl Progress {
    /// Puts a last line in its place.
    pub(crate) fn finish(mut self) {
        if let Some((stop, thread)) = self.0.take() {
            // It has ended by itself if that fails, or panicked, and that was said.
            let _told = stop.send(());
            let _ended = thread.join();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            let _ended = thread.join();
        }
    }
}

/// What the bar is made of, over time.
struct View {
    spool: Arc<Spool>,
    list_bytes: Option<u64>,
    /// What had ended at some moments of the last while, oldest first.
    samples: VecDeque<(Duration, u64)>,
    /// Ended when this process began to look.
    first: Option<(Duration, u64)>,
}

/// What the bar shows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Shown {
    /// Jobs of the list that have ended, done or failed.
    ended: u64,
    failed: u64,
    /// All jobs of the list, once that is known.
    total: Option<u64>,
    /// How much of the list has ended, of 1, if it can be told.
    part: Option<f64>,
    per_second: f64,
    /// Since the run began.
    seconds: f64,
    stopping: bool,
}

impl View {
    fn new(spool: Arc<Spool>, list_bytes: Option<u64>) -> View {
        View { spool, list_bytes, samples: VecDeque::new(), first: None }
    }

    fn look(&mut self) -> Shown {
        let books = Commit::load(&self.spool);
        let table = tally(&self.spool, &books, clock::now());
        let (_, saved) = ListPosition::saved(&self.spool);
        let opening = &self.spool.run().opening;
        let opened = |word: usize| opening[word].load(Ordering::Relaxed);
        let totals = books.totals;
        let ended = totals.jobs_done.wrapping_add(totals.jobs_failed);
        let before = saved.ended_before.unwrap_or_else(|| opened(2).wrapping_add(opened(3)));
        let ended = ended.wrapping_sub(before).wrapping_add(table.counts.done_not_written);
        // Books and table are not of one moment: it does not go back.
        let ended = ended.max(self.samples.back().map_or(0, |(_, ended)| *ended));
        let (_, seq, offset) = table.furthest.max((saved.round, saved.seq, saved.offset));
        let total = saved.at_end.then_some(seq);
        let now = clock::now();
        let began = self.spool.history_head().began.load(Ordering::Relaxed);
        Shown {
            ended,
            failed: totals.jobs_failed.saturating_sub(saved.failed_before),
            total,
            part: part(ended, total, seq, offset, self.list_bytes),
            per_second: self.rate(now, ended),
            seconds: now.saturating_sub(Duration::from_nanos(began)).as_secs_f64(),
            stopping: self.spool.is_stopping(),
        }
    }

    /// Jobs a second in the last while.
    fn rate(&mut self, now: Duration, ended: u64) -> f64 {
        self.first.get_or_insert((now, ended));
        self.samples.push_back((now, ended));
        while self.samples.get(1).is_some_and(|(at, _)| *at + WINDOW < now) {
            self.samples.pop_front();
        }
        let recent = self.samples.front().copied();
        let rate = |(at, before): (Duration, u64)| {
            let seconds = now.saturating_sub(at).as_secs_f64();
            let jobs = ended.saturating_sub(before);
            (seconds > 0.0).then(|| jobs as f64 / seconds)
        };
        // Jobs that take longer than a while have a rate as well.
        let recent = recent.and_then(rate).filter(|rate| *rate > 0.0);
        recent.or_else(|| self.first.and_then(rate)).unwrap_or(0.0)
    }
}

/// How much has ended: of all jobs, or of as many as the list may have by its length, if what was
/// handed out is like the rest.
fn part(
    ended: u64,
    total: Option<u64>,
    handed_out: u64,
    offset: u64,
    list_bytes: Option<u64>,
) -> Option<f64> {
    let all = match (total, list_bytes) {
        (Some(total), _) => total as f64,
        (None, Some(bytes)) if offset > 0 => handed_out as f64 * bytes as f64 / offset as f64,
        (None, _) => return None,
    };
    (all > 0.0).then(|| (ended as f64 / all).clamp(0.0, 1.0))
}

impl Shown {
    /// The bar, in so many columns.
    fn line(&self, width: usize) -> String {
        let mut parts = vec![match self.total {
            Some(total) => format!("{}/{} jobs", self.ended, total),
            None => format!("{} jobs", self.ended),
        }];
        if self.failed > 0 {
            parts.push(format!("{} failed", self.failed));
        }
        parts.push(format!("{:.1}/s", self.per_second));
        let left = self.part.filter(|part| *part > 0.0 && self.per_second > 0.0);
        if self.stopping {
            parts.push("stopping".into());
        } else if let Some(part) = left {
            let jobs = self.ended as f64 * (1.0 - part) / part;
            parts.push(format!("{} left", clock_time(jobs / self.per_second)));
        }
        let text = parts.join("  ");
        let Some(part) = self.part else { return cut(text, width) };
        let percent = format!("{:3.0} % ", (part * 100.0).floor());
        // What is counted comes first where there is little room.
        let room = width.saturating_sub(percent.len() + 4 + text.len()).min(40);
        if room < 8 {
            return cut(format!("{percent} {text}"), width);
        }
        let full = ((room as f64 * part) as usize).min(room);
        cut(format!("{percent}[{}{}]  {text}", "#".repeat(full), "-".repeat(room - full)), width)
    }

    /// What stays.
    fn last_line(&self, width: usize) -> String {
        let of = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} of them failed"),
        };
        let took = clock_time(self.seconds);
        cut(format!("{}{of} jobs ended in {took}{failed}", self.ended), width)
    }
}

/// All of it is ASCII.
fn cut(mut text: String, width: usize) -> String {
    text.truncate(width);
    text
}

/// `0:07`, `12:34`, `1:02:03`, `3d 04h`.
fn clock_time(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..3600 => format!("{}:{:02}", whole / 60, whole % 60),
        3600..86_400 => format!("{}:{:02}:{:02}", whole / 3600, whole % 3600 / 60, whole % 60),
        _ => format!("{}d {:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Shown = Shown {
        ended: 500,
        failed: 0,
        total: Some(1000),
        part: Some(0.5),
        per_second: 12.5,
        seconds: 40.0,
        stopping: false,
    };

    #[test]
    fn a_bar_has_part_jobs_rate_time_left_and_failures() {
        let line = HALF.line(100);
        let bar = format!(" 50 % [{}{}]", "#".repeat(20), "-".repeat(20));
        assert_eq!(line, format!("{bar}  500/1000 jobs  12.5/s  0:40 left"));
        let failed = Shown { failed: 3, ..HALF };
        assert!(failed.line(79).ends_with("500/1000 jobs  3 failed  12.5/s  0:40 left"));
        let stopping = Shown { stopping: true, ..HALF };
        assert!(stopping.line(79).ends_with("12.5/s  stopping"));
        let unknown = Shown { total: None, part: None, ..HALF };
        assert_eq!(unknown.line(79), "500 jobs  12.5/s");
        assert_eq!(failed.last_line(79), "500 of 1000 jobs ended in 0:40, 3 of them failed");
    }

    #[test]
    fn a_bar_is_never_wider_than_its_terminal_and_says_the_most_with_what_it_has() {
        for width in 0..200 {
            let shown = [HALF, Shown { part: None, ..HALF }, Shown { total: None, ..HALF }];
            assert!(shown.iter().all(|shown| shown.line(width).len() <= width));
        }
        assert_eq!(HALF.line(30), " 50 %  500/1000 jobs  12.5/s  ");
    }

    #[test]
    fn what_is_not_counted_yet_is_estimated_by_the_length_of_the_list() {
        assert_eq!(part(50, Some(100), 0, 0, None), Some(0.5));
        // 100 jobs were handed out of a quarter of the list.
        assert_eq!(part(100, None, 100, 250, Some(1000)), Some(0.25));
        assert_eq!(part(10, None, 10, 0, Some(1000)), None);
        assert_eq!(part(10, None, 10, 100, None), None);
        assert_eq!(part(0, Some(0), 0, 0, Some(0)), None);
        assert_eq!(part(7, Some(5), 5, 0, None), Some(1.0));
    }

    #[test]
    fn times_are_as_a_clock_shows_them() {
        let times = [0.4, 61.0, 3723.0, 273_600.0].map(clock_time);
        assert_eq!(times, ["0:00", "1:01", "1:02:03", "3d 04h"]);
    }
}
