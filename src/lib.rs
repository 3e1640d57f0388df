//! # procsig
//!
//! An ordered multi-process pipeline runtime: producer → buffer → sink.

#![warn(missing_docs)]

pub mod cli;
pub mod config;
mod control;
mod error;
mod flow;
mod log;
mod pipeline;
mod stop;
mod sys;

pub use error::{Error, ExitCode};
pub use flow::balance::Balance;
pub use flow::emitter::Emitter;
pub use flow::job::{Job, JobError};
pub use pipeline::{Outcome, Pipeline, Report, Workers, Ready, block_signals, sink, source};
pub use stop::Stop;
