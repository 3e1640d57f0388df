//! How fast a pipeline goes: no process counts for that, so it is the difference of two looks.

use super::facts::{Rates, Status};
use std::time::Duration;

/// What is counted on while a pipeline runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    records: u64,
    jobs: u64,
}

impl Status {
    /// What rates are made of.
    pub(crate) fn counted(&self) -> Counted {
        // Also what is not written yet, or a rate would come in leaps.
        let jobs = [self.jobs.done, self.jobs.failed, self.jobs.done_not_written];
        Counted {
            records: self.records.published,
            jobs: jobs.into_iter().fold(0u64, u64::wrapping_add),
        }
    }

    /// Adds how fast it has gone since an earlier look.
    pub(crate) fn rate_since(&mut self, before: Counted, elapsed: Duration) {
        self.rates = rates(before, self.counted(), elapsed.as_secs_f64());
    }

    /// How fast it has gone since it began.
    pub(super) fn average_until_now(&self) -> Option<Rates> {
        let seconds = self.running_seconds.filter(|_| self.state.is_live())?;
        rates(Counted { records: 0, jobs: 0 }, self.counted(), seconds)
    }
}

fn rates(before: Counted, now: Counted, seconds: f64) -> Option<Rates> {
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    (seconds > 0.0).then(|| Rates {
        records_per_second: rate(before.records, now.records),
        jobs_per_second: rate(before.jobs, now.jobs),
        over_seconds: seconds,
    })
}
