//! Stands in for `src/flow/queue/layout.rs`: the same words, in no place of a file.

use crate::sys::atomic::{AtomicU32, AtomicU64};

#[derive(Debug, Default)]
pub(crate) struct Run {
    pub run_id: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Bells {
    pub jobs: AtomicU32,
    pub jobs_idle: AtomicU32,
    pub jobs_hint: AtomicU32,
    pub source: AtomicU32,
    pub buffer: AtomicU32,
}

#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub state: AtomicU64,
    pub result_end: AtomicU64,
    pub seq: AtomicU64,
    pub round: AtomicU64,
    pub offset: AtomicU64,
    pub prefix: AtomicU64,
    pub not_before: AtomicU64,
    pub len_and_checksum: AtomicU64,
    pub attempts: AtomicU64,
    pub deaths: AtomicU64,
    pub put_back: AtomicU64,
    pub reason: AtomicU64,
    pub started: AtomicU64,
    pub command: AtomicU64,
    pub command_start: AtomicU64,
    pub suspect: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Producer {
    pub tail: AtomicU64,
    pub published: AtomicU64,
    pub waiting_for: AtomicU64,
}

#[derive(Debug, Default)]
pub(crate) struct Consumer {
    pub freed: AtomicU64,
    pub ring_at_tail: AtomicU64,
    pub ring_at_published: AtomicU64,
}
