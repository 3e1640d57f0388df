//! What is said of a pipeline: the object that `procsig status --json` prints, and what the table is
//! made of. Fields are added, none is renamed or changes its meaning as long as [`FORMAT`] stays.
//! What is not known is null.

use serde::Serialize;

/// Version of this description.
pub(crate) const FORMAT: u32 = 1;

/// What a pipeline is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Nothing was ever run with this spool.
    Never,
    /// A process holds the spool and has not begun its run: it recovers, or waits for orphans.
    Starting,
    Running,
    /// A stop is under way.
    Stopping,
    /// Main is gone without an end, and processes of it finish what they have in hand.
    Orphans,
    /// Somebody holds the spool in another PID namespace, so that nothing can be said of processes.
    Unseen,
    /// Main is gone without an end, and so are all others.
    Died,
    /// It has come to its end.
    Ended,
}

impl State {
    /// Does main run it?
    pub(crate) fn is_live(self) -> bool {
        matches!(self, State::Running | State::Stopping)
    }

    /// Does anything happen still, or is about to?
    pub(crate) fn goes_on(self) -> bool {
        !matches!(self, State::Never | State::Died | State::Ended)
    }
}

/// All that is known of a pipeline at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Status {
    pub format: u32,
    pub pipeline: Option<String>,
    pub state: State,
    /// When the run began, as a timestamp of RFC 3339.
    pub started: Option<String>,
    /// For how long it has been running, if it does.
    pub running_seconds: Option<f64>,
    /// When the run ended, as far as it was noted.
    pub ended: Option<String>,
    pub exit_code: Option<u8>,
    pub main: Main,
    pub spool: String,
    pub output: Option<String>,
    pub dead_letters: Option<String>,
    pub log_file: Option<String>,
    /// The version of procsig that runs it, or did.
    pub version: Option<String>,
    pub stop: Option<Stop>,
    pub processes: Vec<Process>,
    pub records: Records,
    pub jobs: Jobs,
    pub list: Option<List>,
    pub waiting: Waiting,
    pub lanes: Vec<Lane>,
    pub buffer: Buffer,
    /// Null if nothing runs, or if no sample was taken.
    pub rates: Option<Rates>,
    /// Averages since the run began, null if nothing runs.
    pub average: Option<Rates>,
}

/// The supervisor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Main {
    pub pid: Option<u64>,
    /// The letter that `ps` shows: `S` when all is well, `T` stopped, `D` waiting for a disk; null: it
    /// is not there, or can't be seen from here.
    pub process_state: Option<char>,
}

/// A stop that is under way, or how the last one began.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Stop {
    /// "signal", "finished" or "failure"; null: not known yet.
    pub reason: Option<&'static str>,
    pub deadline_seconds: f64,
    /// Until the deadline, zero when it has passed; null when the stop is over.
    pub left_seconds: Option<f64>,
    /// Since the deadline, if it has passed and the stop is not over.
    pub overdue_seconds: Option<f64>,
    /// Processes that were told to stop and have not ended.
    pub waiting_for: Vec<String>,
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Doing {
    /// Its last process is gone, and had not ended in order.
    Dead,
    /// It gets no time: somebody has sent SIGSTOP.
    Stopped,
    /// What the spool says of it is no state that there is.
    Unknown,
    Starting,
    /// It was told to stop.
    Stopping,
    Running,
    /// It is a worker and has no job in hand.
    Idle,
    /// It has ended in order.
    Ended,
    /// It was not started in this run.
    Absent,
}

impl Doing {
    /// Is there no such process?
    pub(crate) fn is_gone(self) -> bool {
        matches!(self, Doing::Dead | Doing::Ended | Doing::Absent)
    }
}

/// A child of main.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Process {
    /// "source", "buffer" or "worker NAME/NUMBER".
    pub role: String,
    pub pid: Option<u64>,
    pub state: Doing,
    pub age_seconds: Option<f64>,
    /// Processes that have had this role in this run, but for the first.
    pub restarts: u64,
    /// How the last one ended, such as "exit code 1" or "SIGKILL".
    pub last_end: Option<String>,
    /// Threads of a worker, each with one job at a time.
    pub threads: Option<u16>,
    /// Longest first.
    pub jobs_in_hand: Vec<JobInHand>,
}

/// A job that a worker has in hand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct JobInHand {
    pub seq: u64,
    pub round: u64,
    /// The job; what is no UTF-8 is replaced. Null if it had changed before it could be read.
    pub job: Option<String>,
    /// Since the attempt began; null: it has not, or its process is gone and the job is kept.
    pub seconds: Option<f64>,
    /// Which attempt this is, from 1.
    pub attempt: u64,
    /// The process group of its command.
    pub command_pid: Option<u64>,
}

/// Records of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Records {
    pub published: u64,
    /// Published by an earlier run, and not written by it.
    pub kept_before: u64,
    pub written: u64,
    pub dead_letters: u64,
    pub quarantined: u64,
}

/// The table of jobs, and what became of those of this run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Jobs {
    /// Jobs of this run whose results are written.
    pub done: u64,
    pub failed: u64,
    /// Done or failed, but their results are not written yet.
    pub done_not_written: u64,
    pub in_hand: u64,
    pub ready: u64,
    pub waiting_for_retry: u64,
    /// Written, but their slots are not given back yet.
    pub written_not_freed: u64,
    pub free_slots: u64,
    pub slots: u64,
}

/// How far the list was handed out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct List {
    /// Where jobs come from.
    pub from: Option<String>,
    /// Which run through it, from 1.
    pub round: u64,
    /// Jobs of this round that were handed out.
    pub handed_out: u64,
    /// Bytes of a list of lines up to there.
    pub offset_bytes: u64,
    /// All of it was handed out, so that `handed_out` is the number of its jobs.
    pub at_end: bool,
    /// Jobs of this round that have ended, null if it is not known.
    pub ended: Option<u64>,
}

/// What is published and not written.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Waiting {
    pub records: u64,
    pub bytes: u64,
    /// Of all lanes together.
    pub capacity_bytes: u64,
    /// How long the oldest of them may have been waiting; null: nothing does, or it is not known.
    pub oldest_seconds: Option<f64>,
}

/// What waits in the lane of one worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Lane {
    pub worker: String,
    pub records: u64,
    pub bytes: u64,
    pub capacity_bytes: u64,
    pub full_percent: f64,
}

/// What the buffer says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(crate) struct Buffer {
    pub last_commit_seconds: Option<f64>,
    pub last_sync_seconds: Option<f64>,
    /// For how long it has been waiting for room on a full disk.
    pub no_room_seconds: Option<f64>,
    /// A record waits no longer than this, if all is well.
    pub flush_after_seconds: Option<f64>,
}

/// How fast it goes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Rates {
    /// Published.
    pub records_per_second: f64,
    /// Done or failed.
    pub jobs_per_second: f64,
    /// The time in which they were counted.
    pub over_seconds: f64,
}
