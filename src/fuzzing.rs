//! Hostile bytes: for each thing that is read and not believed, a function that reads it from any
//! bytes, and panics if a promise is broken.
//!
//! `fuzz/` gives them to libFuzzer (`--cfg fuzzing`, which makes this module part of the library). The
//! tests below give them what is kept in `fuzz/corpus`, and random changes of it, with the stable
//! compiler. What a function makes of its bytes is said where it stands, beside what it reads.

mod choices;
#[cfg(test)]
mod tests;

pub(crate) use choices::Choices;

use crate::{cli, config, flow};

/// Reads the bytes as one of the things that are not believed.
pub type Target = fn(&[u8]);

/// All of them, by the names that they have in `fuzz/`.
pub const TARGETS: [(&str, Target); 7] = [
    ("header", header),
    ("lanes", lanes),
    ("jobs", jobs),
    ("commits", commits),
    ("configuration", configuration),
    ("lines", lines),
    ("answers", answers),
];

/// A file as a spool, by its first page and its length.
pub fn header(data: &[u8]) {
    flow::queue::spool::fuzz::header(data);
}

/// What workers have published, torn and forged, as the buffer reads it.
pub fn lanes(data: &[u8]) {
    flow::queue::fuzz::lanes::lanes(data);
}

/// The table of jobs, as a start finds it.
pub fn jobs(data: &[u8]) {
    flow::queue::fuzz::slots::jobs(data);
}

/// The books of the buffer, as a start and the next buffer find them.
pub fn commits(data: &[u8]) {
    flow::queue::fuzz::books::commits(data);
}

/// A configuration file: it is valid, or each mistake is shown with its place.
pub fn configuration(data: &[u8]) {
    let mistakes = config::raw::fuzz::configuration(data);
    cli::show_for_fuzzing(&mistakes);
}

/// A list of jobs, up to what a worker gets.
pub fn lines(data: &[u8]) {
    flow::source::fuzz::lines(data);
}

/// What a coprocess writes.
pub fn answers(data: &[u8]) {
    flow::worker::coprocess::fuzz::answers(data);
}
