//! What a pipeline is told: the resolved settings, each with its unit and its limits.
//!
//! The settings as they are written in a file (`raw`) and as the program uses them (here) are
//! separate types: nothing below needs to be checked, defaulted or converted again.

pub(crate) mod raw;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that is not a function: what to run, where to write, when to give up.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Name of the pipeline; part of its fingerprint, and what the log calls it.
    pub name: String,
    /// Where jobs come from, if the pipeline has any; without them all workers are producers.
    pub jobs: Option<Jobs>,
    /// The kinds of workers, in the order in which they were declared. At least one.
    pub workers: Vec<Worker>,
    /// When the buffer writes.
    pub buffer: Buffer,
    /// Where the results go.
    pub output: Output,
    /// A file for the jobs that have failed for good, instead of the output; synced as that is.
    pub dead_letters: Option<PathBuf>,
    /// How long a stop may take.
    pub shutdown: Shutdown,
    /// How often a child may die before the pipeline gives up.
    pub restart: Restart,
    /// Where what must survive a crash is kept.
    pub spool: Spool,
    /// What is logged, and where.
    pub log: Log,
    /// As whom it is run.
    pub privileges: Privileges,
    /// Forget the kept jobs and begin the list anew.
    pub fresh: bool,
}

/// Where jobs come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jobs {
    /// The lines of a file, or of standard input.
    List(List),
    /// The files of a directory.
    Directory(Directory),
    /// A source that the program brings along.
    Own(Own),
}

/// A list of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The list, one job a line; blank lines are skipped.
    pub lines: Lines,
    /// Run the list again at this interval; `None`: once, and the run ends with the list.
    pub every: Option<Duration>,
    /// A start that finds the list done to its end begins it anew; otherwise it ends at once.
    pub again: bool,
}

/// A directory that files are dropped into; each is a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The directory, which must be there.
    pub path: PathBuf,
    /// The run ends when no file is left; otherwise it waits for new ones.
    pub once: bool,
}

/// What is known of a source that is an object, see [`crate::Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// What messages call it; part of the pipeline's fingerprint.
    pub name: String,
    /// It comes to an end by itself.
    pub finite: bool,
}

/// A list of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lines {
    /// The lines of a file.
    File(PathBuf),
    /// The lines of standard input.
    Stdin,
}

impl Jobs {
    /// The list, if it is one.
    pub(crate) fn list(&self) -> Option<&List> {
        match self {
            Jobs::List(list) => Some(list),
            Jobs::Directory(_) | Jobs::Own(_) => None,
        }
    }

    /// Does the run end with its jobs?
    pub(crate) fn is_finite(&self) -> bool {
        match self {
            Jobs::List(list) => list.every.is_none(),
            Jobs::Directory(directory) => directory.once,
            Jobs::Own(own) => own.finite,
        }
    }

    /// Are the same jobs run again and again?
    pub(crate) fn has_rounds(&self) -> bool {
        self.list().is_some_and(|list| list.every.is_some())
    }
}

/// One kind of worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Name of the kind; process number `i` of it is called `name/i`. 1 to 64 bytes.
    pub name: String,
    /// What it does with a job.
    pub run: Run,
    /// Processes of this kind, 1 to 10,000.
    pub processes: u16,
    /// Threads in each process, each with one job at a time, 1 to 1,024.
    pub threads: u16,
    /// A job that takes longer has failed; `None`: no limit.
    pub timeout: Option<Duration>,
    /// Failures after which a job has failed for good, 1 or more.
    pub attempts: u32,
    /// Pause between a failure and the next attempt.
    pub retry_delay: Duration,
    /// Bytes kept of a command's standard output, and as many of its standard error; bytes of a
    /// coprocess's longest answer.
    pub max_output: u64,
    /// Added to the environment of commands and coprocesses.
    pub env: BTreeMap<String, String>,
    /// Jobs after which a process ends in order and another one takes its place, 1 or more; a tenth
    /// more or less, so that not all of them do it together. `None`: never.
    pub recycle_after: Option<u64>,
    /// Bytes of private memory in use above which it does so; looked at after jobs, ten times a second
    /// at most. A coprocess that has more in use is started again alone. `None`: never.
    pub recycle_above: Option<u64>,
    /// What its processes, and what they start, may take of the machine.
    pub limits: Limits,
}

/// What a worker process, and each process that it starts, may take of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of private memory that can be written (`RLIMIT_DATA`): heap, stacks of threads, anonymous
    /// maps, used or not; not the spool, not what is mapped from files to be read. `None`: as it was.
    pub memory: Option<u64>,
    /// Descriptors that are open at a time (`RLIMIT_NOFILE`). `None`: as it was.
    pub descriptors: Option<u64>,
    /// Nice value, -20 (served first) to 19. `None`: as it was.
    pub nice: Option<i32>,
    /// How readily the kernel kills it when memory runs out: -1000 (never) to 1000 (first of all).
    /// `None`: 500 more than the supervisor's.
    pub oom_score_adj: Option<i32>,
}

impl Limits {
    /// The least that a worker process of so many threads can live with: what it needs itself.
    pub(crate) fn least(threads: u16) -> Limits {
        let threads = u64::from(threads);
        Limits {
            memory: Some((32 << 20) + threads * (4 << 20)),
            descriptors: Some(32 + 16 * threads),
            ..Limits::default()
        }
    }
}

/// What a worker does with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Run {
    /// Starts this command, directly and never through a shell. Each `{}` in an argument is
    /// replaced by the job; with no `{}` the job is the last argument.
    Command(Vec<String>),
    /// Starts this program once for each thread, and asks it for each job: a line of JSON on its
    /// standard input, a line of JSON back. Never through a shell; `{}` stays as it is.
    Coprocess(Vec<String>),
    /// Calls the Rust function that the program registered under this name.
    Function(String),
}

/// When the buffer writes: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// This many records are waiting, 1 or more.
    pub flush_records: u64,
    /// This many bytes are waiting, 1 or more.
    pub flush_bytes: u64,
    /// The oldest waiting record is this old.
    pub flush_after: Duration,
}

/// Where the results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The file that results are appended to.
    pub file: PathBuf,
    /// When what was written is forced to the disk. At stop it always is.
    pub sync: SyncPolicy,
    /// How a record looks there.
    pub format: Format,
    /// When the file is set aside and a new one begun.
    pub rotation: Rotation,
}

/// When an output file is set aside and a new one begun, and what becomes of those set aside.
///
/// A file `pings.jsonl` becomes `pings.2026-11-21T161500.123456Z.jsonl`, by the time (UTC) of its
/// rotation, so that names sort by time. A rotation falls between two records, and each new file
/// begins with the header of its format. Dead letters are not rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotation {
    /// Before the file becomes longer than this many bytes, 1 or more. It can be longer by the
    /// records of one job.
    pub bytes: Option<u64>,
    /// When a new period of this length has begun, 1 second or more. Periods are counted from
    /// 1970-01-01T00:00:00Z: `1day` ends at midnight, UTC. A file without records stays.
    pub every: Option<Duration>,
    /// So many are kept, 1 or more, and older ones removed; `None`: all.
    pub keep: Option<u32>,
    /// What those set aside are compressed with, in the background. A stop gives it a second at the most;
    /// the next start goes on.
    pub compress: Option<Compression>,
}

/// What rotated files are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `NAME.zst`; needs the feature `zstd`, which is on by default.
    Zstd,
    /// `NAME.gz`.
    Gzip,
}

impl Rotation {
    /// Is a file ever set aside?
    pub(crate) fn is_on(&self) -> bool {
        self.bytes.is_some() || self.every.is_some()
    }
}

/// How a record looks in the output.
///
/// Where nothing else is said, a job that has failed for good leaves nothing but a line in the log,
/// if there is no file for [dead letters](Config::dead_letters).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One JSON object a line. A job that has failed for good is one with `"ok": false`.
    JsonLines,
    /// Postcard's bytes, framed by COBS and ended by a zero byte.
    Postcard,
    /// Comma-separated values (RFC 4180), the names of the columns in the first line. Of a command
    /// that has failed for good there is a row.
    Csv {
        /// The fields that are written, in this order.
        columns: Vec<String>,
    },
    /// Text that is a line as it is, without quotes; what is no text as JSON.
    Lines,
    /// Rows of a table in an SQLite database, a column for each field. Of a command that has failed
    /// for good there is a row.
    Sqlite {
        /// The table's name.
        table: String,
    },
    /// A sink that the program brings along, by the name of its type. There is no file.
    Own(String),
}

impl Format {
    /// What is wrong with its settings, if something is.
    pub(crate) fn mistake(&self) -> Option<String> {
        match self {
            Format::Csv { columns } if columns.is_empty() => {
                Some("at least one column is needed".into())
            }
            Format::Csv { columns } => {
                let twice = |(index, name): (usize, &String)| columns[..index].contains(name);
                let found = columns.iter().enumerate().find(|column| twice(*column));
                found.map(|(_, name)| format!("the column {name:?} is there twice"))
            }
            Format::Sqlite { table } => {
                let lower = table.to_ascii_lowercase();
                let taken = lower.starts_with("sqlite_") || lower == "procsig_batches";
                (taken || table.is_empty() || table.contains('\0')).then(|| {
                    format!(
                        "{table:?} can't be a table: not empty, not procsig_batches, and nothing that \
                         begins with sqlite_ is allowed"
                    )
                })
            }
            Format::JsonLines | Format::Postcard | Format::Lines | Format::Own(_) => None,
        }
    }
}

/// When written bytes are forced to the disk (fdatasync).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After each flush.
    Always,
    /// At most once in this time.
    Every(Duration),
    /// Only at stop.
    Never,
}

/// How long a stop may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// All of it, from the first signal to exit; what is left then is killed.
    pub deadline: Duration,
    /// The last part of the deadline, which workers can't use up. Less than the deadline.
    pub flush_reserve: Duration,
}

/// How often a child may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// More deaths than this `within` the window end the pipeline with exit code 1.
    pub max: u32,
    /// The window.
    pub within: Duration,
}

/// The spool: the file that holds what must survive a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// Its path; `None`: beside the output, `.NAME.spool` for an output file NAME.
    pub file: Option<PathBuf>,
    /// Bytes of a lane, one lane per worker process; `None`: 1 MiB, less with many workers.
    pub lane: Option<u64>,
    /// Jobs handed out at a time, 1 to 1,048,576.
    pub jobs: u32,
    /// Bytes of the longest job; a longer one has failed with that reason.
    pub job_bytes: u32,
}

/// What is logged, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least urgent level that is written.
    pub level: log::LevelFilter,
    /// How a line looks.
    pub format: LogFormat,
    /// A file to append to; `None`: standard error.
    pub file: Option<PathBuf>,
}

/// As whom a pipeline is run, and what its programs may become.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Privileges {
    /// The user that the supervisor becomes, and all that it starts: a name, or a number. It does so
    /// before it creates or opens anything but the configuration, with the supplementary groups of
    /// that user. `HOME`, `USER` and `LOGNAME` of workers are the user's. `None`: whoever it was
    /// started by.
    pub user: Option<String>,
    /// The group in place of the user's own, a name or a number; only together with `user`.
    pub group: Option<String>,
    /// Programs that are started gain no rights by being executed: set-user-id bits and capabilities
    /// of files are without effect (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: bool,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `2026-01-31T22:39:19.123456Z INFO  buffer[465191] message`
    Text,
    /// One JSON object a line with `time`, `level`, `role`, `pid` and `message`.
    Json,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer { flush_records: 1000, flush_bytes: 1 << 20, flush_after: Duration::from_secs(1) }
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown { deadline: Duration::from_secs(8), flush_reserve: Duration::from_secs(2) }
    }
}

impl Default for Restart {
    fn default() -> Restart {
        Restart { max: 5, within: Duration::from_secs(30) }
    }
}

impl Default for Spool {
    fn default() -> Spool {
        Spool { file: None, lane: None, jobs: 1024, job_bytes: 4096 }
    }
}

/// What is in memory of all lanes together, if nobody says how large one is. Bytes.
const LANES_BYTES: u64 = 64 << 20;
/// Of a lane then at the most, and at the least. Bytes.
const LANE_BYTES: (u64, u64) = (1 << 20, 128 << 10);
/// Lanes are whole pages.
const PAGE: u64 = 4096;

impl Spool {
    /// Bytes of each of so many lanes: whole pages.
    pub(crate) fn lane_bytes(&self, lanes: u64) -> u64 {
        let (most, least) = LANE_BYTES;
        let even_share = LANES_BYTES / lanes.max(1) / PAGE * PAGE;
        self.lane.unwrap_or(even_share.clamp(least, most)).next_multiple_of(PAGE)
    }

    /// Bytes that a lane needs for jobs of this length: a failure repeats the job's text, each byte
    /// of it escaped at worst.
    pub(crate) fn lane_bytes_min(&self) -> u64 {
        8 * u64::from(self.job_bytes) + PAGE
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { level: log::LevelFilter::Info, format: LogFormat::Text, file: None }
    }
}

impl Worker {
    /// A worker of the given name with the defaults: 2 processes of 4 threads, one attempt.
    pub fn new(name: impl Into<String>, run: Run) -> Worker {
        Worker {
            name: name.into(),
            run,
            processes: 2,
            threads: 4,
            timeout: None,
            attempts: 1,
            retry_delay: Duration::from_secs(1),
            max_output: 64 << 10,
            env: BTreeMap::new(),
            recycle_after: None,
            recycle_above: None,
            limits: Limits::default(),
        }
    }
}

impl Output {
    /// An output file with the default policy: forced to the disk at most once a second.
    pub fn new(file: impl Into<PathBuf>) -> Output {
        Output {
            file: file.into(),
            sync: SyncPolicy::Every(Duration::from_secs(1)),
            format: Format::JsonLines,
            rotation: Rotation::default(),
        }
    }
}
