//! The source: `flow/source/mod.rs`, with `Jobs::fill`, `Jobs::free` and `ListPosition`.

use super::world::{Look, NO_RESULT, Phase, SLOTS, Size, Slot, SourceAt, Step, World};
use super::wrong::Wrong;

impl World {
    /// The source's next step; `None`: it waits.
    pub(super) fn step_source(&mut self, size: &Size) -> Option<Step> {
        match self.source.at {
            SourceAt::Dead | SourceAt::Exhausted | SourceAt::Stopped => return None,
            SourceAt::Start => self.load_position(size),
            SourceAt::SaveFirst => {
                self.saved = self.source.position;
                self.source.at = SourceAt::Idle;
            }
            SourceAt::Idle => return self.go_on(size),
            SourceAt::Fill(slot) => self.store_fields(slot, size),
            SourceAt::Announce(slot) => self.announce(slot, size),
            SourceAt::Collect(look) => self.collect(look, size),
            SourceAt::Save => {
                self.saved = self.source.position;
                self.begin_free(size);
            }
            SourceAt::Free(slot) => return Some(self.free(slot, size)),
        }
        Some(Ok(()))
    }

    /// `ListPosition::load`, and the collection of free slots in `source::run`.
    fn load_position(&mut self, size: &Size) {
        let in_slots = self.slots.iter().filter(|slot| slot.phase != Phase::Free);
        let furthest = in_slots.map(|slot| slot.job + 1).max().unwrap_or(0);
        self.source.position = match size.wrong {
            Some(Wrong::SlotsDoNotCountForPlace) => self.saved,
            _ => self.saved.max(furthest),
        };
        self.source.at = SourceAt::SaveFirst;
    }

    /// `Source::hand_out` and `Source::await_all`: what comes next.
    fn go_on(&mut self, size: &Size) -> Option<Step> {
        let free = (0..SLOTS).find(|slot| self.slots[*slot].phase == Phase::Free);
        let more = self.source.position < size.jobs;
        let all_free = self.slots.iter().all(|slot| slot.phase == Phase::Free);
        self.source.at = if self.stopping() {
            SourceAt::Stopped
        } else if let (true, Some(slot)) = (more, free) {
            SourceAt::Fill(slot as u8)
        } else if !more && all_free {
            SourceAt::Exhausted
        } else if !self.source.looked || (0..SLOTS as u8).any(|slot| self.is_done(slot)) {
            // It looks once, and then sleeps until some slot is done.
            self.source.looked = true;
            SourceAt::Collect(Look::at(0))
        } else {
            return None;
        };
        Some(Ok(()))
    }

    /// `Jobs::fill`: all but the state.
    fn store_fields(&mut self, slot: u8, size: &Size) {
        self.source.at = SourceAt::Announce(slot);
        match size.wrong {
            Some(Wrong::ReadyBeforeFields) => self.change(slot, Phase::Ready),
            _ => self.fill(slot, size),
        }
    }

    fn fill(&mut self, slot: u8, size: &Size) {
        let slot = &mut self.slots[usize::from(slot)];
        let result_end = match size.wrong {
            Some(Wrong::EndNotResetByFill) => slot.result_end,
            _ => NO_RESULT,
        };
        let (phase, job) = (slot.phase, self.source.position);
        *slot = Slot { phase, job, result_end, ..Slot::default() };
    }

    /// `Jobs::fill`: the state, by which it can be claimed.
    fn announce(&mut self, slot: u8, size: &Size) {
        match size.wrong {
            Some(Wrong::ReadyBeforeFields) => self.fill(slot, size),
            _ => self.change(slot, Phase::Ready),
        }
        self.source.position += 1;
        self.source.looked = false;
        self.source.at = SourceAt::Idle;
    }

    /// `Source::collect`: looks for slots whose jobs are done, and their results committed.
    fn collect(&mut self, mut look: Look, size: &Size) {
        match self.look(&mut look, size.wrong) {
            None => self.source.at = SourceAt::Collect(look),
            Some(seen) => {
                self.source.done[usize::from(look.slot)] =
                    seen.done && self.is_committed(look.slot);
                let next = look.slot + 1;
                if usize::from(next) < SLOTS {
                    self.source.at = SourceAt::Collect(Look::at(next));
                } else if self.source.done == [false; SLOTS] {
                    self.source.at = SourceAt::Idle;
                } else if size.wrong == Some(Wrong::FreeBeforeSave) {
                    self.source.at = SourceAt::Free(0);
                } else {
                    self.source.at = SourceAt::Save;
                }
            }
        }
    }

    fn begin_free(&mut self, size: &Size) {
        self.source.at = match size.wrong {
            Some(Wrong::FreeBeforeSave) => SourceAt::Idle,
            _ => SourceAt::Free(0),
        };
    }

    /// `Jobs::free`, for each slot that was found committed.
    fn free(&mut self, slot: u8, size: &Size) -> Step {
        let done = &mut self.source.done[usize::from(slot)];
        if std::mem::take(done) {
            if !self.is_done(slot) || !self.is_committed(slot) {
                return Err(format!(
                    "panic: slot {slot} is given back, and its job is not committed"
                ));
            }
            self.change(slot, Phase::Free);
        }
        let next = slot + 1;
        self.source.at = if usize::from(next) < SLOTS {
            SourceAt::Free(next)
        } else if size.wrong == Some(Wrong::FreeBeforeSave) {
            SourceAt::Save
        } else {
            SourceAt::Idle
        };
        Ok(())
    }
}
