//! The story of the last run's stop: a chart with a row for each process, as text or as SVG, and the
//! events that it is made of.

pub(crate) mod chart;
pub(crate) mod svg;
pub(crate) mod text;

use super::last_run::{LastRun, Main};
use crate::flow::queue::history::{End, Event, Reason, What, Why};
use serde_json::{Value, json};
use std::time::Duration;

/// All that is known, with every event.
pub(crate) fn json(run: &LastRun) -> String {
    let events = |events: &[Event]| -> Vec<Value> {
        events.iter().map(|event| event_as_json(run, event)).collect()
    };
    let value = json!({
        "spool": run.path.display().to_string(),
        "run": (run.run_id != 0).then(|| format!("{:016x}", run.run_id)),
        "name": run.about.as_ref().map(|about| &about.name),
        "main": main_word(run.main),
        "pid": run.pid,
        "booted_since": run.booted_since,
        "children_living": run.children,
        "started": (run.run_id != 0).then(|| timestamp(run.started)),
        "deadline_seconds": run.deadline.as_secs_f64(),
        "flush_reserve_seconds": run.flush_reserve.as_secs_f64(),
        "exit": run.exit,
        "balance": run.balance.map(|balance| balance.to_string()),
        "before_stop": events(&run.story.before),
        "stop": events(&run.story.stop),
        "events_missed": run.story.missed,
        "events_damaged": run.story.damaged,
    });
    format!("{value:#}\n")
}

/// What runs, or ran, when no stop was asked for.
pub(crate) fn without_stop(run: &LastRun) -> String {
    let name = run.about.as_ref().map_or("a pipeline", |about| &about.name);
    let since = minute(run.started);
    let mut text = match run.main {
        Main::Never => {
            return format!("{}: nothing was run with this spool yet\n", run.path.display());
        }
        Main::Runs(pid) => format!(
            "{name} runs since {since} (pid {pid}, {} children); no stop was asked for yet\n",
            run.children
        ),
        Main::Frozen(pid) => format!(
            "{name} was started {since}; its supervisor (pid {pid}) is frozen by a signal, and hears \
             of nothing until it gets SIGCONT. No stop was asked for\n"
        ),
        Main::Elsewhere => format!(
            "{name} runs since {since} in another container, or is ending there; no stop was asked \
             for yet\n"
        ),
        Main::Exited | Main::Killed if run.booted_since => format!(
            "{name} was started {since}, and the machine was booted since: there was no stop\n"
        ),
        Main::Exited | Main::Killed => format!(
            "{name} was started {since}, and its supervisor (pid {}) was killed before any stop was \
             asked for; {}\n",
            run.pid,
            match run.children {
                0 => "all its processes have ended".into(),
                1 => "1 of its processes is still ending by itself".into(),
                many => format!("{many} of its processes are still ending by themselves"),
            }
        ),
    };
    if let Some(about) = &run.about {
        for kind in &about.kinds {
            let what = kind.what.join(" ");
            text += &format!(
                "  worker {}: {} processes, {} threads each, {}: {what}\n",
                kind.name, kind.processes, kind.threads, kind.runs
            );
        }
    }
    let lines: Vec<_> = text.lines().map(crate::log::escape).collect();
    lines.join("\n") + "\n"
}

/// An event in words.
pub(crate) fn sentence(run: &LastRun, event: &Event) -> String {
    let who = event.slot.map_or_else(|| "supervisor".into(), |slot| run.name(slot));
    match words(event.what) {
        (what, Some(detail)) => format!("{who} {what}: {detail}"),
        (what, None) => format!("{who} {what}"),
    }
}

fn event_as_json(run: &LastRun, event: &Event) -> Value {
    let (what, detail) = words(event.what);
    json!({
        "time": timestamp(event.wall),
        "seconds": event.at.as_secs_f64(),
        "who": event.slot.map_or_else(|| "supervisor".into(), |slot| run.name(slot)),
        "what": what,
        "detail": detail,
    })
}

/// One word for what has happened, and what belongs to it.
fn words(what: What) -> (&'static str, Option<String>) {
    match what {
        What::RunStarted { pid } => ("began", Some(format!("pid {pid}"))),
        What::Started { pid } => ("started", Some(format!("pid {pid}"))),
        What::Ready => ("ready", None),
        What::Ended(End::Exited(code)) => ("exited", Some(format!("exit code {code}"))),
        What::Ended(End::Signaled(signal)) => ("died", Some(signal_name(signal))),
        What::StopRequested(reason) => ("stop requested", Some(reason_word(reason).into())),
        What::Signal { count } => ("signal", Some(format!("number {count}"))),
        What::Told => ("told to stop", None),
        What::Killed(why) => ("killed", Some(why_words(why).into())),
        What::DeadlineMoved { by } => {
            ("deadline moved", Some(format!("by {:.3} s", by.as_secs_f64())))
        }
        What::Abandoned => ("left behind", None),
        What::Done { code } => ("done", Some(format!("exit code {code}"))),
    }
}

/// The reason as the beginning of a sentence.
fn reason_sentence(reason: Reason) -> &'static str {
    match reason {
        Reason::Signal => "asked to stop by a signal",
        Reason::Finished => "all jobs were done",
        Reason::Failure => "a child could not go on",
    }
}

/// A wall time for people.
fn minute(since_1970: Duration) -> String {
    let time = timestamp(since_1970);
    // 2026-01-31T22:39:19.123456Z
    let seconds = time.get(..19).unwrap_or(&time);
    format!("{} UTC", seconds.replace('T', " "))
}

/// Seconds from one tick of an axis to the next, so that there are about so many up to `to`.
fn tick(to: f64, ticks: usize) -> f64 {
    let least = (to / ticks as f64).max(1e-6);
    let magnitude = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * magnitude);
    steps.into_iter().find(|step| *step >= least * 0.999).unwrap_or(10.0 * magnitude)
}

/// Digits behind the point that tell such ticks apart.
fn digits(step: f64) -> usize {
    (0..6).find(|digits| step * 10f64.powi(*digits) >= 0.999).unwrap_or(6) as usize
}

/// The same of a stop that is over.
fn stopped_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Signal => "stopped by a signal",
        Reason::Finished => "stopped when all jobs were done",
        Reason::Failure => "stopped since a child could not go on",
    }
}

fn reason_word(reason: Reason) -> &'static str {
    match reason {
        Reason::Signal => "signal",
        Reason::Finished => "finished",
        Reason::Failure => "failure",
    }
}

fn why_words(why: Why) -> &'static str {
    match why {
        Why::NotReady => "not ready in time",
        Why::NotQuiet => "not stopped after a second",
        Why::Reserve => "to leave time for the flush",
        Why::Signal => "another signal",
        Why::Deadline => "deadline",
        Why::ThirdSignal => "third signal",
    }
}

fn main_word(main: Main) -> &'static str {
    match main {
        Main::Runs(_) => "runs",
        Main::Frozen(_) => "frozen",
        Main::Exited => "exited",
        Main::Killed => "killed",
        Main::Elsewhere => "elsewhere",
        Main::Never => "never ran",
    }
}

fn signal_name(signal: u8) -> String {
    match nix::sys::signal::Signal::try_from(i32::from(signal)) {
        Ok(signal) => signal.as_str().into(),
        Err(_) => format!("signal {signal}"),
    }
}

fn timestamp(since_1970: Duration) -> String {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::new(seconds, since_1970.subsec_nanos().cast_signed());
    format!("{:.6}", time.unwrap_or(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests;
