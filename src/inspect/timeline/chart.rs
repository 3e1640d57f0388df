//! What a chart of a stop shows, before anybody knows how it is drawn: rows of bars, in the order of the
//! stop.

use super::super::last_run::{LastRun, Main};
use super::{reason_sentence, signal_name, stopped_words, why_words};
use crate::flow::queue::history::{End, Event, Reason, What, Why};
use crate::flow::queue::processes;
use std::time::Duration;

/// Rows of workers, at the most; of more only the telling ones have a row.
const WORKERS_SHOWN: usize = 14;
/// Of those that were not killed, so many of the slowest.
const SLOWEST_SHOWN: usize = 4;
/// This part of a chart shows what was before the stop.
const LEAD: f64 = 0.06;
/// The deadline is shown if the stop took at least this part of it.
const NEAR_DEADLINE: f64 = 0.25;

/// A chart. All times are seconds since the stop was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chart {
    pub title: String,
    pub subtitle: String,
    pub from: f64,
    pub to: f64,
    pub rows: Vec<Row>,
    /// `deadline - flush_reserve` and the deadline, as far as they are shown.
    pub reserve: Option<f64>,
    pub deadline: Option<f64>,
    /// What is worth a sentence.
    pub notes: Vec<String>,
    pub balance: Option<String>,
}

/// A process, or several that are shown as one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub name: String,
    pub bars: Vec<Bar>,
    pub end: Outcome,
    /// When it ended, if it has, in seconds.
    pub at: Option<f64>,
    /// What is said of it beside its bars.
    pub words: String,
}

/// A piece of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bar {
    pub from: f64,
    pub to: f64,
    pub doing: Doing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Not told to stop yet.
    Running,
    /// Told to stop, finishing what it has in hand.
    Draining,
    /// The buffer, told to stop: it writes what is left.
    Flushing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ended as it was told to.
    Ended,
    /// It was killed, or died.
    Died,
    /// It still runs.
    Runs,
    /// Nobody has seen what became of it.
    Unknown,
}

/// The chart of the last run's stop; `now` and `boot` are the clocks that tell how long a stop is under way.
/// `None`: no stop was asked for.
pub(crate) fn chart(run: &LastRun, now: Duration) -> Option<Chart> {
    let first = run.story.stop.first()?;
    let What::StopRequested(reason) = first.what else { return None };
    let seen = Seen::of(run, first.at, now);
    let mut rows = Vec::new();
    rows.extend(seen.row(processes::SOURCE));
    rows.extend(workers(&seen));
    rows.extend(seen.row(processes::BUFFER));
    rows.push(seen.supervisor());
    let seconds = |time: Duration| time.as_secs_f64();
    let moved: f64 = seen.moved();
    let deadline = seconds(run.deadline) + moved;
    let last = if seen.under_way { seen.end.max(deadline) } else { seen.end };
    let near = last >= NEAR_DEADLINE * deadline;
    let to = if near { last.max(deadline) } else { last }.max(0.001) * 1.02;
    let reserve = deadline - seconds(run.flush_reserve);
    Some(Chart {
        title: title(run, &seen, reason),
        subtitle: format!(
            "{}; deadline {}, the last {} of it for the flush",
            super::minute(first.wall),
            short(seconds(run.deadline)),
            short(seconds(run.flush_reserve)),
        ),
        from: -LEAD * to,
        to,
        rows,
        reserve: near.then_some(reserve),
        deadline: near.then_some(deadline),
        notes: notes(run, &seen),
        balance: run.balance.map(|balance| balance.to_string()),
    })
}

/// A number of seconds, with as many digits as are of use.
pub(crate) fn short(seconds: f64) -> String {
    if seconds == seconds.trunc() {
        format!("{seconds} s")
    } else if seconds < 10.0 {
        format!("{seconds:.3} s")
    } else {
        format!("{seconds:.1} s")
    }
}

fn title(run: &LastRun, seen: &Seen<'_>, reason: Reason) -> String {
    let name = run.about.as_ref().map_or("the pipeline", |about| &about.name);
    let took = format!("{:.3} s", seen.end);
    let (reason, stopped) = (reason_sentence(reason), stopped_words(reason));
    match (seen.done, run.main) {
        (Some(0), _) => format!("{name}: {stopped} in {took}, in order"),
        (Some(code), _) => {
            format!("{name}: {stopped} in {took}, exit code {code}: {}", code_words(code))
        }
        (None, Main::Runs(_)) => format!("{name}: {reason}; the stop is under way for {took}"),
        (None, Main::Frozen(pid)) => {
            format!("{name}: {reason}; the stop hangs since the supervisor (pid {pid}) is frozen")
        }
        (None, Main::Elsewhere) => {
            format!("{name}: {reason}; the stop is under way, in another container")
        }
        (None, _) => {
            format!("{name}: {reason}; the supervisor was killed in the middle of the stop")
        }
    }
}

fn code_words(code: u8) -> &'static str {
    use crate::error::ExitCode;
    match ExitCode::from_code(code.into()) {
        ExitCode::Config => "configuration",
        ExitCode::Usage => "usage",
        ExitCode::Held => "held by another daemon",
        ExitCode::Io => "input or output failed",
        ExitCode::Failure => "failure",
        ExitCode::Killed => "something was killed",
        ExitCode::Unfinished => "the list is not finished",
        ExitCode::JobsFailed => "jobs have failed",
        ExitCode::Success => "success",
    }
}

/// The sentences below a chart.
fn notes(run: &LastRun, seen: &Seen<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    for (event, at) in seen.events() {
        match event.what {
            What::Signal { count } => {
                notes.push(format!("{}: signal number {count}", short_at(at)));
            }
            What::DeadlineMoved { by } => notes.push(format!(
                "{}: the supervisor had been stopped itself, or had no processor; the deadline was \
                 moved by {}",
                short_at(at),
                short(by.as_secs_f64())
            )),
            _ => {}
        }
    }
    if seen.done.is_none() && !seen.under_way {
        let left = match run.children {
            0 => "none of its processes is left".into(),
            1 => "1 of its processes still ends by itself".into(),
            more => format!("{more} of its processes still end by themselves"),
        };
        notes.push(format!("what came after {} was noted by nobody; {left}", short_at(seen.end)));
    }
    if run.story.missed > 0 || run.story.damaged > 0 {
        notes.push(format!(
            "{} events found no room, {} can't be read",
            run.story.missed, run.story.damaged
        ));
    }
    notes
}

fn short_at(seconds: f64) -> String {
    format!("{seconds:.3} s")
}

/// The history, by processes.
struct Seen<'a> {
    run: &'a LastRun,
    began: Duration,
    /// The last moment of which anything is known.
    end: f64,
    done: Option<u8>,
    under_way: bool,
}

impl Seen<'_> {
    fn of(run: &LastRun, began: Duration, now: Duration) -> Seen<'_> {
        let done = run.story.stop.iter().find_map(|event| match event.what {
            What::Done { code } => Some(code),
            _ => None,
        });
        let lives = matches!(run.main, Main::Runs(_) | Main::Frozen(_) | Main::Elsewhere);
        let under_way = done.is_none() && lives;
        let last = run.story.stop.iter().map(|event| event.at).max().unwrap_or(began);
        let now = now.saturating_sub(run.story.began);
        let end = if under_way { last.max(now) } else { last };
        let end = end.saturating_sub(began).as_secs_f64();
        Seen { run, began, end, done, under_way }
    }

    fn at(&self, event: &Event) -> f64 {
        event.at.saturating_sub(self.began).as_secs_f64()
    }

    fn events(&self) -> impl Iterator<Item = (&Event, f64)> {
        self.run.story.stop.iter().map(|event| (event, self.at(event)))
    }

    fn moved(&self) -> f64 {
        let by = |(event, _): (&Event, f64)| match event.what {
            What::DeadlineMoved { by } => by.as_secs_f64(),
            _ => 0.0,
        };
        self.events().map(by).sum()
    }

    /// Slots of workers that had a process during the stop.
    fn workers(&self) -> Vec<usize> {
        let stories = self.run.story.before.iter().chain(&self.run.story.stop);
        let mut slots: Vec<usize> = stories.filter_map(|event| event.slot).collect();
        slots.retain(|slot| *slot >= processes::worker(0));
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Had this slot a process when the stop began?
    fn was_alive(&self, slot: usize) -> bool {
        let of_slot = |event: &&Event| event.slot == Some(slot);
        let last_of = |event: &&Event| {
            of_slot(event) && matches!(event.what, What::Started { .. } | What::Ended(_))
        };
        match self.run.story.before.iter().rev().find(last_of) {
            Some(event) => matches!(event.what, What::Started { .. }),
            // Longer ago than the history goes back.
            None => {
                let first = self.run.story.stop.iter().find(of_slot);
                first.is_some_and(|event| !matches!(event.what, What::Started { .. }))
            }
        }
    }

    /// The row of a process; `None`: there was none.
    fn row(&self, slot: usize) -> Option<Row> {
        let told = match slot {
            processes::BUFFER => Doing::Flushing,
            _ => Doing::Draining,
        };
        let mut bars = Vec::new();
        let mut present = self.was_alive(slot).then_some((-f64::MAX, Doing::Running));
        let (mut killed, mut end) = (None, None);
        for (event, at) in self.events().filter(|(event, _)| event.slot == Some(slot)) {
            match (event.what, present) {
                (What::Started { .. }, _) => {
                    (present, killed, end) = (Some((at, Doing::Running)), None, None);
                }
                (What::Told, Some((from, doing))) => {
                    bars.push(Bar { from, to: at.max(from), doing });
                    present = Some((at, told));
                }
                (What::Killed(why), _) => killed = Some((why, at)),
                (What::Ended(how), Some((from, doing))) => {
                    bars.push(Bar { from, to: at.max(from), doing });
                    (present, end) = (None, Some((how, at)));
                }
                _ => {}
            }
        }
        if let Some((from, doing)) = present {
            bars.push(Bar { from, to: self.end.max(from), doing });
        }
        if bars.is_empty() {
            return None;
        }
        let (outcome, words) = self.outcome(killed, end);
        let at = end.map(|(_, at)| at);
        Some(Row { name: self.run.name(slot), bars, end: outcome, at, words })
    }

    fn outcome(&self, killed: Option<(Why, f64)>, end: Option<(End, f64)>) -> (Outcome, String) {
        let because = |why: Why| format!("killed: {}", why_words(why));
        match (end, killed) {
            (Some((End::Exited(0), _)), _) => (Outcome::Ended, String::new()),
            (Some((End::Exited(code), _)), _) => (Outcome::Died, format!("exit code {code}")),
            (Some((End::Signaled(9), _)), Some((why, _))) => (Outcome::Died, because(why)),
            (Some((End::Signaled(signal), _)), _) => {
                (Outcome::Died, format!("died of {}", signal_name(signal)))
            }
            (None, Some((why, _))) if self.under_way => {
                (Outcome::Runs, format!("{}, not gone yet", because(why)))
            }
            (None, Some((why, _))) => {
                (Outcome::Unknown, format!("{}, not seen to end", because(why)))
            }
            (None, None) if self.under_way => (Outcome::Runs, "still there".into()),
            (None, None) => (Outcome::Unknown, "not seen to end".into()),
        }
    }

    fn supervisor(&self) -> Row {
        let (end, at, words) = match (self.done, self.run.main) {
            (Some(0), _) => (Outcome::Ended, Some(self.end), String::new()),
            (Some(code), _) => (Outcome::Ended, Some(self.end), format!("exit code {code}")),
            (None, Main::Frozen(_)) => (Outcome::Runs, None, "frozen".into()),
            (None, _) if self.under_way => (Outcome::Runs, None, "still there".into()),
            (None, _) => (Outcome::Died, None, "killed, or died".into()),
        };
        let bars = vec![Bar { from: -f64::MAX, to: self.end, doing: Doing::Running }];
        Row { name: "supervisor".into(), bars, end, at, words }
    }
}

/// The rows of the workers. Of many the first one, the slowest, and those that died or are not gone have a
/// row of their own.
fn workers(seen: &Seen<'_>) -> Vec<Row> {
    let mut rows: Vec<Row> = seen.workers().into_iter().filter_map(|slot| seen.row(slot)).collect();
    if rows.len() <= WORKERS_SHOWN {
        return rows;
    }
    let mut order: Vec<usize> = (0..rows.len()).collect();
    let rank = |row: &Row| match row.end {
        Outcome::Died => 0,
        Outcome::Runs | Outcome::Unknown => 1,
        Outcome::Ended => 2,
    };
    let late = |row: &Row| row.at.unwrap_or(f64::MAX);
    order.sort_by(|a, b| {
        let (a, b) = (&rows[*a], &rows[*b]);
        rank(a).cmp(&rank(b)).then(late(b).total_cmp(&late(a)))
    });
    let telling = rows.iter().filter(|row| row.end != Outcome::Ended).count();
    let shown = (telling + SLOWEST_SHOWN).min(WORKERS_SHOWN - 1);
    let first = order.iter().copied().min_by(|a, b| late(&rows[*a]).total_cmp(&late(&rows[*b])));
    let mut keep: Vec<usize> = order.iter().copied().take(shown).chain(first).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut index = 0;
    let mut folded = Vec::new();
    rows.retain(|row| {
        index += 1;
        let kept = keep.binary_search(&(index - 1)).is_ok();
        if !kept {
            folded.push(row.clone());
        }
        kept
    });
    rows.extend(fold(&folded));
    rows
}

/// Several rows as one.
fn fold(rows: &[Row]) -> Option<Row> {
    let bars = || rows.iter().flat_map(|row| &row.bars);
    let told = bars().filter(|bar| bar.doing == Doing::Draining).map(|bar| bar.from);
    let to = bars().map(|bar| bar.to).max_by(f64::total_cmp)?;
    let told = told.min_by(f64::total_cmp).unwrap_or(to);
    let ended = || rows.iter().filter_map(|row| row.at);
    let (first, last) = (ended().min_by(f64::total_cmp), ended().max_by(f64::total_cmp));
    let died = rows.iter().filter(|row| row.end == Outcome::Died).count();
    let open = rows.iter().filter(|row| row.at.is_none()).count();
    let mut words = match (first, last) {
        (Some(first), Some(last)) => format!("all within {}", short_at(last - first)),
        _ => "still there".into(),
    };
    if died > 0 {
        words = format!("{died} of them died or were killed");
    }
    if open > 0 {
        words = format!("{open} of them not seen to end");
    }
    Some(Row {
        name: format!("... and {} more", rows.len()),
        bars: vec![
            Bar { from: -f64::MAX, to: told, doing: Doing::Running },
            Bar { from: told, to: to.max(told), doing: Doing::Draining },
        ],
        end: match (died, open) {
            (0, 0) => Outcome::Ended,
            (_, 0) => Outcome::Died,
            _ => rows.iter().find(|row| row.at.is_none()).map_or(Outcome::Unknown, |row| row.end),
        },
        at: if open > 0 { None } else { last },
        words,
    })
}
