//! Main: `control/lifecycle.rs` as far as the data is concerned, with `prepare::settle_all`. And
//! deaths.

use super::world::{
    Buffer, BufferAt, LANES, Main, Phase, SLOTS, Size, Source, SourceAt, Step, WORKERS, Worker,
    WorkerAt, World,
};
use super::wrong::Wrong;

/// Who may die alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Source,
    Worker(u8),
    Buffer,
    Main,
}

impl World {
    pub(super) fn start_all(&mut self) {
        self.source = Source { at: SourceAt::Start, ..Source::default() };
        self.workers = [Worker::default(); WORKERS];
        for worker in &mut self.workers[..LANES] {
            *worker = World::worker_begins(None);
        }
        self.buffer = Buffer { at: BufferAt::Recover, ..Buffer::default() };
    }

    /// Nobody is left of them, and so nothing more is published.
    pub(super) fn workers_are_gone(&self) -> bool {
        self.workers.iter().all(|worker| matches!(worker.at, WorkerAt::Dead | WorkerAt::Stopped))
    }

    fn all_are_gone(&self) -> bool {
        let source =
            matches!(self.source.at, SourceAt::Dead | SourceAt::Exhausted | SourceAt::Stopped);
        let buffer = matches!(self.buffer.at, BufferAt::Dead | BufferAt::Stopped);
        source && buffer && self.workers_are_gone()
    }

    /// A step of main; `None`: it waits, or has no such choice.
    pub(super) fn step_main(&mut self, choice: u8, size: &Size) -> Option<Step> {
        match (self.main, choice) {
            (Main::Running, 0) => {
                let restart = self.source.at == SourceAt::Dead;
                let end = self.source.at == SourceAt::Exhausted;
                if restart {
                    self.source.at = SourceAt::Start;
                } else if end {
                    self.main = Main::Stopping;
                }
                (restart || end).then_some(Ok(()))
            }
            (Main::Running | Main::Stopping, 1) => {
                let restart = self.buffer.at == BufferAt::Dead;
                if restart {
                    self.buffer.at = BufferAt::Recover;
                }
                restart.then_some(Ok(()))
            }
            (Main::Running, 2 | 3) => {
                let lane = usize::from(choice - 2);
                let restart = self.workers[lane].at == WorkerAt::Dead;
                if restart {
                    self.workers[lane] = World::worker_begins(size.wrong);
                }
                restart.then_some(Ok(()))
            }
            (Main::Stopping | Main::Dead, 0) => self.all_are_gone().then(|| self.end_run(size)),
            (Main::Settling(step), 0) => {
                self.settle_one(step, size);
                Some(Ok(()))
            }
            _ => None,
        }
    }

    /// The run is over: everything is done, or the next one begins.
    fn end_run(&mut self, size: &Size) -> Step {
        let heads = self.commit.lanes;
        let kept = (0..LANES).any(|lane| self.lanes[lane].tail > heads[lane].offset);
        if self.buffer.at == BufferAt::Stopped && kept {
            return Err("the buffer has stopped in order, and not all is written".into());
        }
        let done = self.source.at == SourceAt::Exhausted && !kept;
        self.main = if done { Main::Ended } else { Main::Settling(0) };
        (self.source, self.buffer) = (Source::default(), Buffer::default());
        self.workers = [Worker::default(); WORKERS];
        if done { self.judge_end(size) } else { Ok(()) }
    }

    /// `prepare::settle_all`: half of what is done about a slot.
    fn settle_one(&mut self, step: u8, size: &Size) {
        let slot = step / 2;
        let claimed = matches!(self.slots[usize::from(slot)].phase, Phase::Claimed(_));
        if claimed && !self.is_done(slot) {
            if step.is_multiple_of(2) {
                self.make_ready(slot, false, size);
            } else {
                self.change(slot, Phase::Ready);
            }
        }
        self.main = Main::Settling(step + 1);
        if usize::from(step + 1) == 2 * SLOTS {
            self.main = Main::Running;
            self.start_all();
        }
    }

    /// Kills one, if it lives and may die.
    pub(super) fn kill(&mut self, role: Role) -> Option<Step> {
        if self.deaths == 0 {
            return None;
        }
        let lived = match role {
            Role::Source => std::mem::take(&mut self.source).is_alive(),
            Role::Buffer => std::mem::take(&mut self.buffer).is_alive(),
            Role::Worker(index) => self.kill_worker(index.into()),
            Role::Main => match self.main {
                Main::Running | Main::Stopping => {
                    self.main = Main::Dead;
                    true
                }
                // Then all are dead.
                Main::Dead | Main::Settling(_) | Main::Ended => false,
            },
        };
        // One that main has not waited for was killed already.
        let counts = !matches!(role, Role::Worker(index) if usize::from(index) >= LANES);
        self.deaths -= u8::from(counts);
        lived.then_some(Ok(()))
    }

    /// Kills a worker that the deadline finds: main does, or it ends itself. That is nobody's fault.
    pub(super) fn kill_late(&mut self, index: usize) -> Option<Step> {
        let late = matches!(self.main, Main::Stopping | Main::Dead);
        (late && std::mem::take(&mut self.workers[index]).is_alive()).then_some(Ok(()))
    }

    fn kill_worker(&mut self, index: usize) -> bool {
        let worker = std::mem::take(&mut self.workers[index]);
        if worker.at == WorkerAt::Run && self.main == Main::Running {
            self.suffered[usize::from(worker.job)] += 1;
        }
        !matches!(worker.at, WorkerAt::Dead | WorkerAt::Stopped)
    }

    /// Kills all at once; the next run begins.
    pub(super) fn kill_all(&mut self) -> Option<Step> {
        if self.massacres == 0 || matches!(self.main, Main::Ended) {
            return None;
        }
        self.massacres -= 1;
        // No job is to blame for it.
        self.workers = [Worker::default(); WORKERS];
        (self.source, self.buffer) = (Source::default(), Buffer::default());
        self.main = Main::Settling(0);
        Some(Ok(()))
    }

    /// A stop is asked for.
    pub(super) fn stop(&mut self) -> Option<Step> {
        if self.stops == 0 || self.main != Main::Running {
            return None;
        }
        self.stops -= 1;
        self.main = Main::Stopping;
        Some(Ok(()))
    }

    /// What is wrong: a worker is killed, and the next one started before this one is gone.
    pub(super) fn start_early(&mut self, lane: u8, size: &Size) -> Option<Step> {
        let lane = usize::from(lane);
        let may = size.wrong == Some(Wrong::SettleBeforeReaped)
            && self.deaths > 0
            && self.main == Main::Running
            && self.workers[lane].is_alive()
            && !self.workers[lane + LANES].is_alive();
        may.then(|| {
            self.deaths -= 1;
            self.workers[lane + LANES] = self.workers[lane];
            self.workers[lane] = World::worker_begins(size.wrong);
            Ok(())
        })
    }
}

impl Source {
    fn is_alive(&self) -> bool {
        !matches!(self.at, SourceAt::Dead | SourceAt::Exhausted | SourceAt::Stopped)
    }
}

impl Buffer {
    fn is_alive(&self) -> bool {
        !matches!(self.at, BufferAt::Dead | BufferAt::Stopped)
    }
}

impl Worker {
    fn is_alive(&self) -> bool {
        !matches!(self.at, WorkerAt::Dead | WorkerAt::Stopped)
    }
}
