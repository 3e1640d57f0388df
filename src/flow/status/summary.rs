//! How a pipeline stands in a few lines, for its own log.

use super::facts::{Doing, Status};
use super::words::{bytes, count, cut, number, rate, time};

/// Columns of a job that is named.
const JOB_MAX: usize = 80;

/// Processes that are named because something is wrong with them.
const NAMED_MAX: usize = 8;

impl Status {
    /// A few lines: what is in hand, what waits, and who is not as he should be.
    pub(crate) fn summary(&self) -> Vec<String> {
        let age = self.running_seconds.map(time).unwrap_or_default();
        let mut first = format!(
            "running for {age}: {} in hand, {} ready, {} to be tried again, {} ended and not written",
            count(self.jobs.in_hand, "job", "jobs"),
            number(self.jobs.ready),
            number(self.jobs.waiting_for_retry),
            number(self.jobs.done_not_written),
        );
        if let Some(average) = &self.average {
            let jobs = rate(average.jobs_per_second);
            first += &format!("; {jobs} jobs a second on average");
        }
        let waiting = &self.waiting;
        let mut second = format!(
            "waiting to be written: {}, {} of {}",
            count(waiting.records, "record", "records"),
            bytes(waiting.bytes),
            bytes(waiting.capacity_bytes)
        );
        second +=
            &waiting.oldest_seconds.map(|age| format!(", for {}", time(age))).unwrap_or_default();
        for (what, seconds) in [
            ("last commit", self.buffer.last_commit_seconds),
            ("last sync", self.buffer.last_sync_seconds),
        ] {
            second += &seconds.map(|age| format!("; {what} {} ago", time(age))).unwrap_or_default();
        }
        let mut lines = vec![first, second];
        lines.extend(self.longest());
        lines.extend(self.unusual());
        lines
    }

    fn longest(&self) -> Option<String> {
        let jobs = self.processes.iter();
        let jobs =
            jobs.flat_map(|process| process.jobs_in_hand.iter().map(move |job| (process, job)));
        let (process, job) =
            jobs.filter(|(_, job)| job.seconds.is_some()).max_by(|(_, a), (_, b)| {
                a.seconds.unwrap_or(0.0).total_cmp(&b.seconds.unwrap_or(0.0))
            })?;
        Some(format!(
            "longest in hand, for {}: {} (job {}, attempt {}, {})",
            time(job.seconds.unwrap_or(0.0)),
            cut(job.job.as_deref().unwrap_or("?"), JOB_MAX),
            job.seq,
            job.attempt,
            process.role
        ))
    }

    fn unusual(&self) -> Option<String> {
        let state = |doing| match doing {
            Doing::Dead => Some("dead"),
            Doing::Stopped => Some("stopped"),
            Doing::Starting => Some("starting"),
            _ => None,
        };
        let named = |process: &super::facts::Process| {
            let state = state(process.state);
            (state.is_some() || process.restarts > 0).then(|| {
                format!(
                    "{} {}started again {}",
                    process.role,
                    state.map(|state| format!("is {state}, ")).unwrap_or_default(),
                    count(process.restarts, "time", "times")
                )
            })
        };
        let mut all: Vec<String> = self.processes.iter().filter_map(named).collect();
        let more = all.len().saturating_sub(NAMED_MAX);
        all.truncate(NAMED_MAX);
        if more > 0 {
            all.push(format!("and {} more", number(more as u64)));
        }
        (!all.is_empty()).then(|| all.join("; "))
    }
}
