//! The story of the last run's stop.

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

/// Every event, a line each.
pub(crate) fn list(run: &LastRun) -> String {
    let events = run.story.before.iter().chain(&run.story.stop);
    let line = |event: &Event| {
        let who = event.slot.map_or_else(|| "supervisor".into(), |slot| run.name(slot));
        let (what, detail) = words(event.what);
        let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
        format!("{:>12.3} s  {who} {what}{detail}\n", event.at.as_secs_f64())
    };
    events.map(line).collect()
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
        Why::Reserve => "the rest of the deadline is kept for the flush",
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
