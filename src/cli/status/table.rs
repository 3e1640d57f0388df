//! How a pipeline stands, for people: a headline, a line for each process, and what waits.

use std::collections::BTreeMap;

use crate::flow::status::facts::{Doing, Process, State, Status};
use crate::flow::status::words::{bytes, columns, count, cut, number, pad, rate, short_time, time};

/// More processes than this are summed up.
const SHOWN_MAX: usize = 40;

/// Of those that are summed up, so many are shown that are unusual, or longest at work.
const UNUSUAL_MAX: usize = 12;

/// Columns of a role at most.
const ROLE_MAX: usize = 24;

/// The lines, none wider than `width`. If there is room for `rows` only, processes are left out.
pub(super) fn lines(status: &Status, width: usize, rows: Option<usize>, all: bool) -> Vec<String> {
    let mut lines = headline(status, width);
    let numbers = if status.state == State::Never { Vec::new() } else { numbers(status) };
    if !status.processes.is_empty() {
        lines.push(String::new());
        let mut shown = processes(status, width, all);
        let room = rows.map(|rows| rows.saturating_sub(lines.len() + 1 + numbers.len()));
        if let Some(room) = room.filter(|room| shown.len() > *room) {
            let left_out = shown.len() - room.saturating_sub(1);
            shown.truncate(room.saturating_sub(1));
            shown.push(format!("... {} more", count(left_out as u64, "line", "lines")));
        }
        lines.extend(shown);
    }
    if !numbers.is_empty() {
        lines.push(String::new());
        lines.extend(numbers);
    }
    lines.iter().map(|line| cut(line.trim_end(), width)).collect()
}

fn headline(status: &Status, width: usize) -> Vec<String> {
    let name = status.pipeline.as_deref().unwrap_or("pipeline");
    let mut lines = vec![format!("{name}: {}", state(status))];
    lines.extend(main_state(status));
    if let Some(stop) = status.stop.as_ref().filter(|stop| !stop.waiting_for.is_empty()) {
        lines.push(waiting_for(&stop.waiting_for, width));
    }
    if let Some(seconds) = status.buffer.no_room_seconds {
        lines.push(format!(
            "the disk is full: the buffer has been waiting for room for {}",
            time(seconds)
        ));
    }
    lines.push(format!("spool   {}", status.spool));
    lines.extend(status.output.iter().map(|output| format!("output  {output}")));
    lines.extend(status.log_file.iter().map(|log| format!("log     {log}")));
    lines
}

/// As many of the names as there is room for, and how many more there are.
fn waiting_for(names: &[String], width: usize) -> String {
    let mut line = format!("waiting for {}", names.first().map_or("nobody", String::as_str));
    for (index, name) in names.iter().enumerate().skip(1) {
        let more = format!(" and {} more", names.len() - index);
        if columns(&line) + columns(name) + 2 + more.len() > width {
            return line + &more;
        }
        line += &format!(", {name}");
    }
    line
}

fn state(status: &Status) -> String {
    let pid = status.main.pid.map_or_else(|| "unknown".into(), |pid| pid.to_string());
    let age = status.running_seconds.map(time).unwrap_or_default();
    match status.state {
        State::Never => "nothing was ever run with this spool".into(),
        State::Starting => "starting: somebody holds the spool and puts it in order".into(),
        State::Running => format!("running for {age}, main is process {pid}"),
        State::Stopping => match status.stop.as_ref() {
            None => format!("stopping, main is process {pid}"),
            Some(stop) => {
                let reason = stop.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
                let left = match (stop.overdue_seconds, stop.left_seconds) {
                    (Some(by), _) => format!("its deadline has passed {} ago", time(by)),
                    (None, Some(left)) => {
                        format!("{left:.1} s of {:.1} s left", stop.deadline_seconds)
                    }
                    (None, None) => "for how long is not known".into(),
                };
                format!("stopping{reason}, {left}, main is process {pid}")
            }
        },
        State::Orphans => format!(
            "main (process {pid}) was killed; {}",
            match living(status) {
                0 => "its processes have ended".into(),
                1 => "1 process finishes what is in hand".into(),
                living => format!("{living} processes finish what is in hand"),
            }
        ),
        State::Unseen => {
            "it can't be seen from here, but from its container (PID namespace)".into()
        }
        State::Died => {
            format!("died: main (process {pid}) was killed; start it again to go on")
        }
        State::Ended => {
            let code = status.exit_code.unwrap_or(0);
            let when = status.ended.as_deref().map(|at| format!(" at {at}")).unwrap_or_default();
            format!("ended with exit code {code}{when}")
        }
    }
}

fn living(status: &Status) -> usize {
    status.processes.iter().filter(|process| !process.state.is_gone()).count()
}

/// What keeps main from answering, if something does.
fn main_state(status: &Status) -> Option<String> {
    let pid = status.main.pid?;
    match status.main.process_state? {
        'T' | 't' => Some(format!("main is stopped and answers nobody; kill -CONT {pid} wakes it")),
        'D' => Some("main waits for a disk (state D)".into()),
        _ => None,
    }
}

fn processes(status: &Status, width: usize, all: bool) -> Vec<String> {
    let everyone: Vec<&Process> = status.processes.iter().collect();
    if all || everyone.len() <= SHOWN_MAX {
        return rows(&everyone, width);
    }
    let mut lines = sums(status);
    let worker = |process: &&&Process| process.role.starts_with("worker ");
    let (workers, others): (Vec<&Process>, Vec<&Process>) =
        everyone.iter().partition(|process| worker(process));
    let mut telling: Vec<&Process> = workers;
    telling.sort_by(|a, b| rank(a).0.cmp(&rank(b).0).then(rank(b).1.total_cmp(&rank(a).1)));
    let unusual = telling.iter().filter(|process| rank(process).0 < USUAL).count();
    telling.truncate(UNUSUAL_MAX);
    let shown: Vec<&Process> = others.into_iter().chain(telling).collect();
    lines.push(String::new());
    lines.extend(rows(&shown, width));
    let hidden = unusual.saturating_sub(UNUSUAL_MAX);
    if hidden > 0 {
        lines.push(format!("... and {} more that are unusual (--all)", number(hidden as u64)));
    }
    lines
}

/// Where what is nothing special begins.
const USUAL: u8 = 4;

/// What is to be shown first: what is wrong, then what was started again, then who is longest at work.
fn rank(process: &Process) -> (u8, f64) {
    let longest = process.jobs_in_hand.first().and_then(|job| job.seconds).unwrap_or(-1.0);
    let rank = match process.state {
        Doing::Dead | Doing::Stopped | Doing::Unknown => 0,
        Doing::Starting => 1,
        Doing::Stopping => 2,
        _ if process.restarts > 0 => 3,
        _ => USUAL,
    };
    (rank, longest)
}

/// A line for each kind of worker.
fn sums(status: &Status) -> Vec<String> {
    let mut kinds: Vec<(&str, Vec<&Process>)> = Vec::new();
    for process in &status.processes {
        let Some((kind, _)) = process.role.rsplit_once('/') else { continue };
        match kinds.last_mut().filter(|(last, _)| *last == kind) {
            Some((_, members)) => members.push(process),
            None => kinds.push((kind, vec![process])),
        }
    }
    let line = |(kind, members): &(&str, Vec<&Process>)| {
        let mut states: BTreeMap<Doing, u64> = BTreeMap::new();
        for member in members {
            *states.entry(member.state).or_default() += 1;
        }
        let states: Vec<String> = states
            .iter()
            .map(|(state, many)| format!("{} {}", number(*many), doing(*state)))
            .collect();
        let jobs: usize = members.iter().map(|member| member.jobs_in_hand.len()).sum();
        let restarts = members.iter().fold(0u64, |sum, it| sum.saturating_add(it.restarts));
        format!(
            "{kind}: {}; {} in hand, {}",
            states.join(", "),
            count(jobs as u64, "job", "jobs"),
            count(restarts, "restart", "restarts")
        )
    };
    kinds.iter().map(line).collect()
}

fn doing(doing: Doing) -> &'static str {
    match doing {
        Doing::Dead => "dead",
        Doing::Stopped => "stopped (T)",
        Doing::Unknown => "unknown",
        Doing::Starting => "starting",
        Doing::Stopping => "stopping",
        Doing::Running => "running",
        Doing::Idle => "idle",
        Doing::Ended => "ended",
        Doing::Absent => "absent",
    }
}

fn rows(processes: &[&Process], width: usize) -> Vec<String> {
    let roles = processes.iter().map(|process| columns(&cut(&process.role, ROLE_MAX)));
    let role_width = roles.max().unwrap_or(0).max("PROCESS".len());
    // Where there is little room, what is in hand matters more than ages.
    let narrow = width < 60;
    let row = |[role, pid, state, age, restarts, job]: [&str; 6]| {
        let role = pad(&cut(role, role_width), role_width, false);
        let (pid, state) = (pad(pid, 7, true), pad(state, 11, false));
        if narrow {
            return format!("{role} {pid}  {state} {job}");
        }
        let (age, restarts) = (pad(age, 6, true), pad(restarts, 8, true));
        format!("{role} {pid}  {state} {age} {restarts}  {job}")
    };
    let mut lines = vec![row(["PROCESS", "PID", "STATE", "AGE", "RESTARTS", "JOB IN HAND"])];
    for process in processes {
        let pid = process.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let age = process.age_seconds.map(short_time).unwrap_or_default();
        let restarts = process.restarts.to_string();
        let head = row([&process.role, &pid, doing(process.state), &age, &restarts, ""]);
        lines.push(format!("{head}{}", in_hand(process, width.saturating_sub(columns(&head)))));
    }
    lines
}

/// The job that a process has had in hand for longest, in so many columns; or how it has ended.
fn in_hand(process: &Process, width: usize) -> String {
    let Some(job) = process.jobs_in_hand.first() else {
        return match &process.last_end {
            Some(end) => cut(&format!("(the last one: {end})"), width),
            None => String::new(),
        };
    };
    let text = job.job.as_deref().unwrap_or("?");
    let seconds = match job.seconds {
        _ if process.state.is_gone() => Some(" (kept)".into()),
        seconds => seconds.map(|seconds| format!(" for {}", short_time(seconds))),
    };
    let more = match process.jobs_in_hand.len() {
        1 => String::new(),
        all => format!(" +{} more", all - 1),
    };
    let rest = format!("{}{more}", seconds.unwrap_or_default());
    format!("{}{rest}", cut(text, width.saturating_sub(columns(&rest)).max(4)))
}

fn numbers(status: &Status) -> Vec<String> {
    let (records, jobs, waiting) = (&status.records, &status.jobs, &status.waiting);
    let rates = status.rates.as_ref().or(status.average.as_ref());
    let of = match (&status.rates, &status.average) {
        (None, Some(_)) => " on average",
        _ => "",
    };
    let per_second = |get: fn(&crate::flow::status::facts::Rates) -> f64| {
        rates.map(|rates| format!("; {} a second{of}", rate(get(rates)))).unwrap_or_default()
    };
    let mut lines = vec![format!(
        "records {} written{}{}",
        number(records.written),
        match records.dead_letters {
            0 => String::new(),
            letters => format!(", {}", count(letters, "dead letter", "dead letters")),
        },
        per_second(|rates| rates.records_per_second)
    )];
    if records.quarantined > 0 {
        lines.push(format!("        {} lost, of a damaged spool", number(records.quarantined)));
    }
    lines.push(format!(
        "waiting {} to be written{}; {} of {}, {:.1} % full",
        count(waiting.records, "record", "records"),
        waiting.oldest_seconds.map(|age| format!(", for {}", time(age))).unwrap_or_default(),
        bytes(waiting.bytes),
        bytes(waiting.capacity_bytes),
        waiting.bytes as f64 * 100.0 / (waiting.capacity_bytes as f64).max(1.0)
    ));
    lines.extend(fullest(status));
    if status.list.is_some() || jobs.done > 0 || jobs.free_slots < jobs.slots {
        lines.push(format!(
            "jobs    {} done, {} failed{}",
            number(jobs.done),
            number(jobs.failed),
            per_second(|rates| rates.jobs_per_second)
        ));
        lines.push(format!("        {}", under_way(status)));
    }
    lines.extend(list(status));
    lines.extend(ages(status));
    lines
}

/// The lane that is fullest, if one is rather full: its worker waits, or soon will.
fn fullest(status: &Status) -> Option<String> {
    let fullest = status.lanes.iter().max_by(|a, b| a.full_percent.total_cmp(&b.full_percent))?;
    (fullest.full_percent >= 50.0).then(|| {
        format!("        the lane of {} is {:.0} % full", fullest.worker, fullest.full_percent)
    })
}

fn under_way(status: &Status) -> String {
    let jobs = &status.jobs;
    let mut parts = vec![format!("{} in hand, {} ready", number(jobs.in_hand), number(jobs.ready))];
    if jobs.waiting_for_retry > 0 {
        parts.push(format!("{} to be tried again", number(jobs.waiting_for_retry)));
    }
    if jobs.done_not_written > 0 {
        parts.push(format!("{} ended and not written", number(jobs.done_not_written)));
    }
    parts.push(format!("{} of {} slots free", number(jobs.free_slots), number(jobs.slots)));
    parts.join(", ")
}

fn list(status: &Status) -> Option<String> {
    let list = status.list.as_ref()?;
    let from = list.from.as_deref().unwrap_or("not known");
    let round =
        if list.round > 1 { format!(", round {}", number(list.round)) } else { String::new() };
    let all = if list.at_end { "all of its " } else { "" };
    let left = list.ended.map(|ended| list.handed_out.saturating_sub(ended));
    let left = left.map(|left| format!(", {} not done", number(left))).unwrap_or_default();
    Some(format!(
        "list    {from}: {all}{} handed out{left}{round}",
        count(list.handed_out, "job", "jobs")
    ))
}

fn ages(status: &Status) -> Option<String> {
    let commit = status.buffer.last_commit_seconds.map(|age| format!("commit {} ago", time(age)));
    let sync = status.buffer.last_sync_seconds.map(|age| format!("sync {} ago", time(age)));
    let ages: Vec<String> = [commit, sync].into_iter().flatten().collect();
    (!ages.is_empty()).then(|| format!("last    {}", ages.join(", ")))
}

#[cfg(test)]
mod tests;
