//! Steps that nobody else can tell apart from the ones before or after them.
//!
//! Such a step gives the same whether it is done now or after any steps of others, and takes nothing
//! from them. So where one can be done, it is enough to try it alone, or the death of its process
//! (or of all) before it; everything else comes after. That leaves out interleavings, and no
//! outcome (known as partial-order reduction, with one process as the ample set).
//!
//! It holds for the protocol as it is meant to be. Whether it is, is not taken for granted: sizes
//! that can be searched without this are, and wrong versions always.

use super::main::Role;
use super::world::{
    BufferAt, CELLS, DEATHS_MAX, FRAMES, LANES, Phase, SLOTS, Slot, SourceAt, Worker, WorkerAt,
    World,
};

impl World {
    /// Forgets what nobody will ever look at.
    pub(super) fn forget(&mut self) {
        for slot in &mut self.slots {
            if slot.phase == Phase::Free && !matches!(self.source.at, SourceAt::Announce(_)) {
                *slot = Slot::default();
            }
        }
        for (lane, worker) in self.lanes.iter_mut().zip(&self.workers) {
            let end = match worker.at {
                WorkerAt::Publish(_) => lane.tail + FRAMES,
                _ => lane.tail,
            };
            let kept = lane.freed..end;
            for cell in &mut lane.cells {
                *cell = cell.filter(|frame| kept.contains(&frame.offset));
            }
            lane.published = 0;
        }
        for told in self.told.iter().flatten().flatten() {
            self.suffered[usize::from(told.0)] = if told.1 { DEATHS_MAX } else { 0 };
        }
    }

    /// Whose next step is its own affair.
    pub(super) fn private(&self) -> Option<Role> {
        if self.buffer_is_private() {
            return Some(Role::Buffer);
        }
        if self.source_is_private() {
            return Some(Role::Source);
        }
        (0..LANES).find(|lane| self.worker_is_private(*lane)).map(|lane| Role::Worker(lane as u8))
    }

    /// From the tails that it has read to the end of the batch: nobody else writes what it reads,
    /// and what others read of it (the lanes' heads, their free space) only ever lets them go on.
    fn buffer_is_private(&self) -> bool {
        match self.buffer.at {
            BufferAt::Recover | BufferAt::Gather => true,
            BufferAt::Batch(_) | BufferAt::FreeLane(..) => true,
            BufferAt::Dead | BufferAt::Idle | BufferAt::Look(_) | BufferAt::Stopped => false,
        }
    }

    /// Which slots are free is its own affair, and so is the place in the list.
    fn source_is_private(&self) -> bool {
        match self.source.at {
            SourceAt::Start | SourceAt::SaveFirst | SourceAt::Fill(_) | SourceAt::Save => true,
            SourceAt::Free(slot) => !self.source.done[usize::from(slot)],
            SourceAt::Dead
            | SourceAt::Idle
            | SourceAt::Announce(_)
            | SourceAt::Collect(_)
            | SourceAt::Exhausted
            | SourceAt::Stopped => false,
        }
    }

    fn worker_is_private(&self, lane: usize) -> bool {
        let Worker { at, tail, .. } = self.workers[lane];
        match at {
            // Of a slot that its predecessor had in hand nobody changes anything, unless it is
            // done; one that it had not can't come to be one.
            WorkerAt::Settle(look) => {
                let mine = self.slots[usize::from(look.slot)].phase == Phase::Claimed(lane as u8);
                !mine || !self.is_done(look.slot)
            }
            // Its tail is its own; what the buffer commits meanwhile leaves the count the same.
            WorkerAt::TakeOver => true,
            // Only its successor reads that.
            WorkerAt::Begin | WorkerAt::Run => true,
            // Behind the tail nobody reads.
            WorkerAt::Publish(0) => {
                usize::from((tail + FRAMES).saturating_sub(self.lanes[lane].freed)) <= CELLS
            }
            WorkerAt::Publish(1) => true,
            WorkerAt::Publish(_) => false,
            WorkerAt::MakeReady(_) | WorkerAt::SetReady(_) | WorkerAt::Tempted(_) => false,
            WorkerAt::Dead | WorkerAt::Idle | WorkerAt::Stopped => false,
        }
    }
}

const _: () = assert!(SLOTS > 1, "slots are looked at one after the other");
