//! A worker with one thread: `flow/worker/mod.rs`, with `settle`, `Jobs::claim`, `Jobs::begin` and
//! `LaneWriter::publish`.

use super::world::{
    CELLS, DEATHS_MAX, FRAMES, Frame, LANES, Look, Main, Mark, NO_RESULT, Phase, Publish, SLOTS,
    Size, Step, Worker, WorkerAt, World,
};
use super::wrong::Wrong;

/// The steps of `LaneWriter::publish`, in their order.
fn publish(wrong: Option<Wrong>) -> [Publish; 4] {
    use Publish::{CopyEnd, CopyRecord, ResultEnd, Tail};
    match wrong {
        Some(Wrong::TailBeforeFrames) => [ResultEnd, Tail, CopyRecord, CopyEnd],
        Some(Wrong::EndAfterTail) => [CopyRecord, CopyEnd, Tail, ResultEnd],
        _ => [CopyRecord, CopyEnd, ResultEnd, Tail],
    }
}

impl World {
    /// The next step of a worker; `None`: it waits, or has no such choice.
    pub(super) fn step_worker(&mut self, index: usize, slot: u8, size: &Size) -> Option<Step> {
        let at = self.workers[index].at;
        if at != WorkerAt::Idle && slot > 0 {
            return None;
        }
        match at {
            WorkerAt::Dead | WorkerAt::Stopped => return None,
            WorkerAt::Settle(look) => self.settle(index, look, size),
            WorkerAt::MakeReady(look) => {
                self.make_ready(look.slot, true, size);
                self.workers[index].at = WorkerAt::SetReady(look);
            }
            WorkerAt::SetReady(look) => return Some(self.set_ready(index, look, size)),
            WorkerAt::TakeOver => return Some(self.take_over(index, size)),
            WorkerAt::Idle => return self.claim(index, slot, size),
            WorkerAt::Tempted(slot) => self.claim_late(index, slot, size),
            WorkerAt::Begin => {
                let slot = &mut self.slots[usize::from(self.workers[index].slot)];
                (slot.begun, slot.deaths) = (true, slot.deaths + 1);
                self.workers[index].at = WorkerAt::Run;
            }
            WorkerAt::Run => {
                if size.wrong != Some(Wrong::DeathsNotTakenBack) {
                    // `Jobs::survived`.
                    let slot = &mut self.slots[usize::from(self.workers[index].slot)];
                    slot.deaths = slot.deaths.saturating_sub(1);
                }
                self.workers[index].at = WorkerAt::Publish(0);
            }
            WorkerAt::Publish(step) => return self.publish(index, step, size),
        }
        Some(Ok(()))
    }

    /// What a new worker begins with.
    pub(super) fn worker_begins(wrong: Option<Wrong>) -> Worker {
        let at = match wrong {
            Some(Wrong::SettleAfterPublish) => WorkerAt::TakeOver,
            _ => WorkerAt::Settle(Look::at(0)),
        };
        Worker { at, ..Worker::default() }
    }

    /// `settle`: is there something to do about this slot?
    fn settle(&mut self, index: usize, mut look: Look, size: &Size) {
        let lane = (index % LANES) as u8;
        let seen = self.look(&mut look, size.wrong);
        self.workers[index].at = match seen {
            // A slot that another lane has claimed can't come to be of this one.
            None if look.phase != Phase::Claimed(lane) => settled_up_to(look.slot, index, self),
            None => WorkerAt::Settle(look),
            Some(seen) if seen.phase == Phase::Claimed(lane) && !seen.done => {
                WorkerAt::MakeReady(Look { end: 0, ..seen })
            }
            Some(_) => settled_up_to(look.slot, index, self),
        };
    }

    /// `Jobs::make_ready`: all but the state.
    pub(super) fn make_ready(&mut self, slot: u8, blamed: bool, size: &Size) {
        let slot = &mut self.slots[usize::from(slot)];
        if blamed && slot.begun {
            slot.used_up |= slot.deaths >= DEATHS_MAX;
        } else if slot.begun {
            slot.deaths = slot.deaths.saturating_sub(1);
        }
        slot.begun = false;
        if size.wrong != Some(Wrong::EndNotResetBySettling) {
            slot.result_end = NO_RESULT;
        }
    }

    /// `Jobs::make_ready`: the state.
    fn set_ready(&mut self, index: usize, look: Look, size: &Size) -> Step {
        let same = match size.wrong {
            Some(Wrong::ChangesNotCounted) => {
                self.slots[usize::from(look.slot)].phase == look.phase
            }
            _ => look.fresh,
        };
        if !same {
            return Err(format!("panic: slot {} was changed by somebody else", look.slot));
        }
        self.change(look.slot, Phase::Ready);
        self.workers[index].at = settled_up_to(look.slot, index, self);
        Ok(())
    }

    /// `count_records` and `LaneWriter::open`.
    fn take_over(&mut self, index: usize, size: &Size) -> Step {
        let lane = index % LANES;
        let tail = self.lanes[lane].tail;
        let mut mark = self.commit.lanes[lane];
        while mark.offset < tail {
            self.read_frame(lane, &mut mark)?;
        }
        let count = match size.wrong {
            Some(Wrong::CountNotFromFrames) => self.lanes[lane].published,
            _ => mark.count,
        };
        let settled = size.wrong != Some(Wrong::SettleAfterPublish);
        self.workers[index] =
            Worker { at: WorkerAt::Idle, tail, count, settled, ..Worker::default() };
        Ok(())
    }

    /// `JobThread::run` and `Jobs::claim`. Where it looks first is only a hint, so any slot will do.
    fn claim(&mut self, index: usize, slot: u8, size: &Size) -> Option<Step> {
        let worker = &mut self.workers[index];
        if self.main != Main::Running {
            worker.at = WorkerAt::Stopped;
            return (slot == 0).then_some(Ok(()));
        }
        if self.slots[usize::from(slot)].phase != Phase::Ready {
            let late = slot == 0 && !worker.settled && !self.any_ready();
            if late {
                self.workers[index].at = WorkerAt::Settle(Look::at(0));
            }
            return late.then_some(Ok(()));
        }
        match size.wrong {
            Some(Wrong::ClaimWithoutSwap) => worker.at = WorkerAt::Tempted(slot),
            Some(Wrong::FieldsBeforeClaim) => {
                self.read_fields(index, slot);
                self.workers[index].at = WorkerAt::Tempted(slot);
            }
            _ => self.swap_and_read(index, slot),
        }
        Some(Ok(()))
    }

    fn any_ready(&self) -> bool {
        self.slots.iter().any(|slot| slot.phase == Phase::Ready)
    }

    /// The compare-and-swap succeeds exactly if the state is still what was read, so both are one
    /// step; nobody changes the fields of a claimed slot, so they are read in the same.
    fn swap_and_read(&mut self, index: usize, slot: u8) {
        self.change(slot, Phase::Claimed((index % LANES) as u8));
        self.read_fields(index, slot);
    }

    /// `Jobs::read`.
    fn read_fields(&mut self, index: usize, slot: u8) {
        let fields = self.slots[usize::from(slot)];
        let worker = &mut self.workers[index];
        (worker.slot, worker.job, worker.failed) = (slot, fields.job, fields.used_up);
        worker.at = if fields.used_up { WorkerAt::Publish(0) } else { WorkerAt::Begin };
    }

    /// The second half of a claim that is no single step.
    fn claim_late(&mut self, index: usize, slot: u8, size: &Size) {
        if size.wrong == Some(Wrong::ClaimWithoutSwap) {
            return self.swap_and_read(index, slot);
        }
        if self.slots[usize::from(slot)].phase != Phase::Ready {
            self.workers[index].at = WorkerAt::Idle;
            return;
        }
        self.change(slot, Phase::Claimed((index % LANES) as u8));
        let failed = self.workers[index].failed;
        self.workers[index].at = if failed { WorkerAt::Publish(0) } else { WorkerAt::Begin };
    }

    /// `LaneWriter::publish`.
    fn publish(&mut self, index: usize, step: u8, size: &Size) -> Option<Step> {
        let lane_number = index % LANES;
        let worker = self.workers[index];
        let lane = &mut self.lanes[lane_number];
        let end = worker.tail + FRAMES;
        // `wait_for_space`, before anything else.
        let used = end.saturating_sub(lane.freed);
        if step == 0 && usize::from(used) > CELLS && size.wrong != Some(Wrong::NoWaitForSpace) {
            return None;
        }
        let mut copy = |offset: u8| {
            let (job, failed, count) = (worker.job, worker.failed, worker.count + 1);
            lane.cells[usize::from(offset) % CELLS] = Some(Frame { offset, count, job, failed });
        };
        match publish(size.wrong)[usize::from(step)] {
            Publish::CopyRecord => copy(worker.tail),
            Publish::CopyEnd => copy(worker.tail + 1),
            Publish::ResultEnd => {
                self.slots[usize::from(worker.slot)].result_end = end;
                self.lanes[lane_number].published = worker.count + 1;
            }
            Publish::Tail => {
                lane.tail = end;
                let told = &mut self.told[lane_number];
                let Some(place) = told.iter_mut().find(|place| place.is_none()) else {
                    return Some(Err("more jobs are published than there are".into()));
                };
                *place = Some((worker.job, worker.failed));
            }
        }
        self.workers[index] = if step < 3 {
            Worker { at: WorkerAt::Publish(step + 1), ..worker }
        } else {
            let at = if worker.settled { WorkerAt::Idle } else { WorkerAt::Settle(Look::at(0)) };
            let (tail, count, settled) = (end, worker.count + 1, worker.settled);
            Worker { at, tail, count, settled, ..Worker::default() }
        };
        Some(Ok(()))
    }

    /// A frame as `LaneReader::gather` believes it: of this place, whole, next in number.
    pub(super) fn read_frame(&self, lane: usize, mark: &mut Mark) -> Result<Frame, String> {
        let offset = mark.offset;
        let count = mark.count + u8::from(Frame::is_record(offset));
        let frame = self.lanes[lane].cells[usize::from(offset) % CELLS]
            .filter(|frame| frame.offset == offset && frame.count == count)
            .ok_or_else(|| format!("the spool is damaged: lane {lane}, offset {offset}"))?;
        (mark.offset, mark.count) = (offset + 1, count);
        Ok(frame)
    }
}

/// After this slot comes the next one, or the end of settling.
fn settled_up_to(slot: u8, index: usize, world: &mut World) -> WorkerAt {
    let next = slot + 1;
    if usize::from(next) < SLOTS {
        return WorkerAt::Settle(Look::at(next));
    }
    if world.workers[index].tail > 0 {
        // One that has published already, which is wrong.
        world.workers[index].settled = true;
        return WorkerAt::Idle;
    }
    WorkerAt::TakeOver
}
