//! Stands in for `src/flow/queue/spool.rs`: what the job table needs of it.

use super::layout::{Bells, Consumer, Producer, Run, Slot};
use std::any::Any;

pub(crate) struct Geometry {
    pub slots: u32,
    pub job_bytes: u32,
}

pub(crate) struct Layout {
    pub geometry: Geometry,
    pub slots: usize,
    pub payloads: usize,
    pub payload_stride: usize,
}

/// Slots, and a text of a few bytes for each. Two threads that touch a text without being in
/// order are found out by loom's cell.
pub(crate) struct Mapping {
    slots: Vec<Slot>,
    payloads: Vec<loom::cell::Cell<[u8; JOB_BYTES]>>,
}

const JOB_BYTES: usize = 4;
const PAYLOADS: usize = 1 << 16;

impl Mapping {
    pub(crate) fn at<T: Any>(&self, offset: usize) -> &T {
        let slot: &dyn Any = &self.slots[offset / size_of::<Slot>()];
        slot.downcast_ref().expect("only slots are asked for")
    }

    fn payload(&self, offset: usize) -> &loom::cell::Cell<[u8; JOB_BYTES]> {
        &self.payloads[(offset - PAYLOADS) / JOB_BYTES]
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        self.payload(offset).set(bytes.try_into().expect("all jobs have this length here"));
    }

    pub(crate) fn append_to(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.payload(offset).get()[..len]);
    }
}

pub(crate) struct Spool {
    pub(crate) mapping: Mapping,
    pub(crate) layout: Layout,
    run: Run,
    bells: Bells,
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
}

impl Spool {
    pub(crate) fn new(lanes: usize, slots: u32) -> Spool {
        let mapping = Mapping {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            payloads: (0..slots).map(|_| loom::cell::Cell::new([0; JOB_BYTES])).collect(),
        };
        let layout = Layout {
            geometry: Geometry { slots, job_bytes: JOB_BYTES as u32 },
            slots: 0,
            payloads: PAYLOADS,
            payload_stride: JOB_BYTES,
        };
        let (run, bells) = (Run::default(), Bells::default());
        let producers = (0..lanes).map(|_| Producer::default()).collect();
        let consumers = (0..lanes).map(|_| Consumer::default()).collect();
        Spool { mapping, layout, run, bells, producers, consumers }
    }

    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    pub(crate) fn bells(&self) -> &Bells {
        &self.bells
    }

    pub(crate) fn has_lane(&self, lane: u16) -> bool {
        usize::from(lane) < self.producers.len()
    }

    pub(crate) fn producer(&self, lane: usize) -> &Producer {
        &self.producers[lane]
    }

    pub(crate) fn consumer(&self, lane: usize) -> &Consumer {
        &self.consumers[lane]
    }
}
