//! Why a job is used up, in words.

use super::Settings;
use crate::flow::queue::jobs::{DEATHS_MAX, Reason};
use crate::flow::queue::layout::Geometry;
use crate::sys::process;
use std::time::Duration;

/// What a program ends with that aborts itself.
const SIGABRT: u64 = nix::libc::SIGABRT as u64;

/// Why a job has failed for good, in a sentence.
pub(super) fn explain(reason: Reason, settings: &Settings, sizes: &Geometry) -> String {
    match reason {
        Reason::TooLong => {
            format!("the job is longer than {} bytes: raise [spool] job_bytes", sizes.job_bytes)
        }
        Reason::Damaged => "the spool was damaged: this is what is left of the job".into(),
        Reason::TimedOut { after_us } => {
            format!("timed out after {:?}", Duration::from_micros(after_us))
        }
        Reason::Deaths { last_end } => format!(
            "its worker died {DEATHS_MAX} times while it ran nothing but this job{}{}",
            match last_end {
                0 => String::new(),
                1..512 => format!(", the last time with exit code {}", last_end - 1),
                signal => format!(", the last time by {}", name_of_signal(signal - 512)),
            },
            match settings.memory_limit {
                Some(bytes) if last_end == 512 + SIGABRT => hint_of_memory(bytes),
                _ => String::new(),
            }
        ),
    }
}

/// A program that gets no memory aborts itself, most of the time; nobody else can know why.
pub(crate) fn hint_of_memory(limit: u64) -> String {
    format!("; it may have met its memory_limit of {}", bytesize::ByteSize(limit))
}

fn name_of_signal(number: u64) -> String {
    process::Ended::Signaled(i32::try_from(number).unwrap_or(0)).to_string()
}
