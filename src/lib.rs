//! procsig runs a pipeline in several processes, producer → buffer → sink, and stops it in strict
//! order: the source of jobs first, then the workers, which finish what they have in hand, then
//! the buffer, flushed to its file. It is a daemon (the `procsig` program) and this library,
//! which runs your own functions in the same way.
//!
//! # A pipeline in one page
//!
//! ```no_run
//! use procsig::{Emitter, Job, Pipeline};
//! use std::process::ExitCode;
//!
//! #[derive(serde::Serialize)]
//! struct Check {
//!     host: String,
//!     length: usize,
//! }
//!
//! fn main() -> ExitCode {
//!     Pipeline::new("checks")
//!         .jobs(procsig::source::lines("hosts.txt"))
//!         .worker("check", |job: &Job, out: &mut Emitter<Check>| {
//!             let host = job.as_str()?;
//!             out.emit(&Check { host: host.into(), length: host.len() })
//!         })
//!         .processes(2)
//!         .threads(8)
//!         .sink(procsig::sink::json_lines("checks.jsonl"))
//!         .run()
//!         .into()
//! }
//! ```
//!
//! [`Pipeline`] and what its methods return say what runs; [`Ready::run`] forks a source, the
//! workers and a buffer, supervises them, and returns an [`Outcome`] that converts into the exit
//! code of `main`. A worker without jobs is a [producer](Workers::producer): it runs until its
//! [`Stop`] says so.
//!
//! A worker can also be a program in any language, which reads a line of JSON for each job and
//! answers with one: see [`Workers::coprocess`].
//!
//! # What is promised
//!
//! A record is *published* when its job ends (all records of a job at once), or, in a producer,
//! when [`Emitter::emit`] returns. What is published is in the *spool*, a file that all processes
//! map, and no death of any process takes it away. The buffer writes it to the output, notes in
//! the spool how far it has got, and only then gives the room back.
//!
//! # Limitations
//!
//! - Linux only, on a local file system: the spool is a locked and mapped file.
//! - [`Ready::run`] forks, so the process must have a single thread when it is called. What
//!   closures capture is copied into each process; open files in it are shared, locks are not.
//! - It takes over the signals of the process for good: return from `main` when it has returned.
//! - A job's own side effects can happen twice, since the job of a killed worker is run again.
//!   Its results can't be published twice.
//! - All records of one job must fit into a lane of the spool at once ([`config::Spool::lane`]).
//! - A panic that unwinds fails its job. One that aborts, and an abort of the process, costs the
//!   worker process, which is started again.
//! - A function can't be interrupted: one that exceeds its [time-out](Workers::timeout) is ended
//!   together with its process, and what the process had in hand besides may be run again.
//! - What a function may do in its process, and what it must not rely on, is said in
//!   [`Workers`].

mod cli;
pub mod config;
mod control;
mod daemon;
mod error;
mod flow;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod inspect;
mod log;
mod pipeline;
mod stop;
mod sys;

#[doc = include_str!("../docs/writing-a-worker.md")]
pub mod guide {}

pub use daemon::Daemon;
pub use error::{Error, ExitCode, Mistakes};
// For `tests/instructions.sh` only.
pub use flow::balance::Balance;
#[cfg(costs)]
pub use flow::costs;
pub use flow::emitter::Emitter;
pub use flow::job::{Job, JobError};
pub use pipeline::sink::Sink;
pub use pipeline::source::Source;
pub use pipeline::{Outcome, Pipeline, Ready, Report, Workers, block_signals, sink, source};
pub use stop::Stop;
