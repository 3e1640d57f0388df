//! What a valid configuration would do, in a few lines, or as JSON.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{Config, Format, Jobs, Lines, Run, SyncPolicy, Worker};
use crate::flow::prepare::spool_path;
use crate::log::escape;

/// Whoever would kill procsig from outside waits so much longer than its own deadline.
const OUTER_MARGIN: Duration = Duration::from_secs(5);

/// A line for each thing that its user wants to see right.
pub(super) fn text(config: &Config) -> String {
    let mut rows = vec![("name", config.name.clone()), ("jobs", jobs(config.jobs.as_ref()))];
    for worker in &config.workers {
        let row = if rows.len() == 2 { "workers" } else { "" };
        rows.push((row, describe(worker)));
    }
    rows.push(("output", output(config)));
    if let Some(path) = &config.dead_letters {
        rows.push(("failed", format!("{}, the jobs that have failed for good", path.display())));
    }
    rows.push(("spool", spool(config).map_or_else(String::new, |it| it.display().to_string())));
    let log = config.log.file.as_ref().map(|path| path.display().to_string());
    let level = config.log.level.as_str().to_lowercase();
    rows.push(("log", format!("{}, {level}", log.unwrap_or("standard error".into()))));
    let (deadline, reserve) = (config.shutdown.deadline, config.shutdown.flush_reserve);
    rows.push((
        "stop",
        format!("takes {deadline:?} at most; the last {reserve:?} of it are for writing results"),
    ));
    let seconds = outer_seconds(config);
    rows.push(("killer", format!("must wait {seconds} s: docker stop -t {seconds},")));
    rows.push((
        "",
        format!("TimeoutStopSec={seconds} (systemd), stopwaitsecs={seconds} (supervisord),"),
    ));
    rows.push(("", format!("terminationGracePeriodSeconds: {seconds} (Kubernetes)")));
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "  {name:<8} {}", escape(&value));
    }
    text
}

/// The same for programs.
pub(super) fn json(config: &Config) -> Value {
    let workers: Vec<Value> = config
        .workers
        .iter()
        .map(|worker| {
            let (run, what) = match &worker.run {
                Run::Command(command) => ("command", json!(command)),
                Run::Coprocess(command) => ("coprocess", json!(command)),
                Run::Function(name) => ("function", json!(name)),
            };
            json!({
                "name": worker.name,
                "processes": worker.processes,
                "threads": worker.threads,
                "timeout_seconds": worker.timeout.map(|limit| limit.as_secs_f64()),
                "attempts": worker.attempts,
                run: what,
            })
        })
        .collect();
    let output = match &config.output.format {
        Format::Own(name) => json!({ "sink": name }),
        format => json!({ "file": lossy(&config.output.file), "format": format_name(format) }),
    };
    json!({
        "name": config.name,
        "jobs": config.jobs.as_ref().map(|_| jobs(config.jobs.as_ref())),
        "finite": config.jobs.as_ref().is_some_and(Jobs::is_finite),
        "workers": workers,
        "output": output,
        "dead_letters": config.dead_letters.as_deref().map(lossy),
        "spool": spool(config).as_deref().map(lossy),
        "log": config.log.file.as_deref().map(lossy),
        "deadline_seconds": config.shutdown.deadline.as_secs_f64(),
        "flush_reserve_seconds": config.shutdown.flush_reserve.as_secs_f64(),
        "outer_time_limit_seconds": outer_seconds(config),
    })
}

/// Whole seconds that an outer killer has to wait.
fn outer_seconds(config: &Config) -> u64 {
    let limit = config.shutdown.deadline.saturating_add(OUTER_MARGIN);
    limit.as_secs() + u64::from(limit.subsec_nanos() > 0)
}

fn spool(config: &Config) -> Option<PathBuf> {
    // What can't be a spool's place is a mistake, and then there is no summary.
    spool_path(config).ok()
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn jobs(jobs: Option<&Jobs>) -> String {
    match jobs {
        None => "none: all workers are producers".to_owned(),
        Some(Jobs::List(list)) => {
            let name = match &list.lines {
                Lines::File(path) => path.display().to_string(),
                Lines::Stdin => "standard input".to_owned(),
            };
            match list.every {
                Some(every) => format!("the lines of {name}, again every {every:?}"),
                None => format!("the lines of {name}, once"),
            }
        }
        Some(Jobs::Directory(directory)) => {
            let end = if directory.once { "until none is left" } else { "for ever" };
            format!("the files of {}, {end}", directory.path.display())
        }
        Some(Jobs::Own(own)) => own.name.clone(),
    }
}

fn describe(worker: &Worker) -> String {
    let what = match &worker.run {
        Run::Command(command) => format!("runs {}", command.join(" ")),
        Run::Coprocess(command) => format!("asks {}", command.join(" ")),
        Run::Function(name) => format!("calls {name}"),
    };
    let many = |number: u16, one: &str, several: &str| match number {
        1 => format!("1 {one}"),
        number => format!("{number} {several}"),
    };
    let processes = many(worker.processes, "process", "processes");
    let threads = many(worker.threads, "thread", "threads");
    format!("{}: {processes} of {threads}, {what}", worker.name)
}

fn output(config: &Config) -> String {
    let sync = match config.output.sync {
        SyncPolicy::Always => "on the disk after each flush".to_owned(),
        SyncPolicy::Every(interval) => format!("on the disk every {interval:?}"),
        SyncPolicy::Never => "on the disk at the end".to_owned(),
    };
    match &config.output.format {
        Format::Own(name) => format!("the sink {name}, {sync}"),
        format => format!("{} ({}), {sync}", config.output.file.display(), format_name(format)),
    }
}

fn format_name(format: &Format) -> &'static str {
    match format {
        Format::JsonLines => "json",
        Format::Postcard => "postcard",
        Format::Csv { .. } => "csv",
        Format::Lines => "lines",
        Format::Sqlite { .. } => "sqlite",
        Format::Own(_) => "sink",
    }
}
