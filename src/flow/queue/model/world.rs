//! What there is in the model: the shared memory, the output, and where each process stands.

use super::wrong::Wrong;

/// Worker processes, each with a lane of its own.
pub(super) const LANES: usize = 2;
/// Slots of the job table: fewer than jobs, so that they are used again.
pub(super) const SLOTS: usize = 2;
/// Jobs of the list at the most.
pub(super) const JOBS_MAX: usize = 3;
/// Frames that a lane holds: one job and a half, so that frames go on over the ring's end and a
/// worker has to wait for room.
pub(super) const CELLS: usize = 3;
/// Frames of a job: its record and its end.
pub(super) const FRAMES: u8 = 2;
/// As in the real table, if smaller.
pub(super) const DEATHS_MAX: u8 = 2;
pub(super) const NO_RESULT: u8 = u8::MAX;
/// Room for the halves of every record, and for those of a batch that is there twice.
const OUTPUT_MAX: usize = 12;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub jobs: u8,
    /// Deaths of single processes, main among them.
    pub deaths: u8,
    /// Deaths of all at once.
    pub massacres: u8,
    /// Stops in order that nobody needed.
    pub stops: u8,
    /// Only steps that somebody else can tell apart are interleaved: see [`super::private`].
    pub reduced: bool,
    pub wrong: Option<Wrong>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum Phase {
    #[default]
    Free,
    Ready,
    /// By the worker of this lane. Which incarnation it was decides nothing.
    Claimed(u8),
}

/// As in `layout.rs`. How often the state has changed is not counted: see [`Look::fresh`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Slot {
    pub phase: Phase,
    pub job: u8,
    pub result_end: u8,
    pub begun: bool,
    pub deaths: u8,
    pub used_up: bool,
}

/// The record of a job, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Frame {
    pub offset: u8,
    pub count: u8,
    pub job: u8,
    pub failed: bool,
}

impl Frame {
    pub(super) fn is_record(offset: u8) -> bool {
        offset.is_multiple_of(FRAMES)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Lane {
    pub tail: u8,
    pub freed: u8,
    /// Records that the writer says it has published.
    pub published: u8,
    pub cells: [Option<Frame>; CELLS],
}

/// Where a reader stands in a lane: offset, records before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Mark {
    pub offset: u8,
    pub count: u8,
}

pub(super) type Marks = [Mark; LANES];

/// The newest commit. Of two records written in turn the older is the one that a death tears, so
/// there is only this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Books {
    pub lanes: Marks,
    /// Committed length of the output.
    pub len: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Intent {
    pub ends: Marks,
    pub base: u8,
    /// Its generation is the commit's plus one.
    pub current: bool,
}

/// Halves of records, as they stand in the output: `8 * job + 4 * failed + half`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Output {
    pub halves: [u8; OUTPUT_MAX],
    pub len: u8,
}

impl Output {
    pub(super) fn written(&self) -> &[u8] {
        &self.halves[..self.len.into()]
    }

    pub(super) fn push(&mut self, half: u8) {
        self.halves[usize::from(self.len)] = half;
        self.len += 1;
    }

    /// What was appended goes.
    pub(super) fn cut(&mut self, len: u8) {
        self.halves[len.into()..].fill(0);
        self.len = len;
    }
}

/// `Jobs::look` half-way.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Look {
    pub slot: u8,
    pub stage: LookStage,
    /// The state that was read first.
    pub phase: Phase,
    /// It has not changed since: what the count in the state word tells.
    pub fresh: bool,
    pub end: u8,
    pub done: bool,
}

/// What is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum LookStage {
    State,
    End,
    Tail,
    StateAgain,
}

impl std::fmt::Debug for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "slot {}, {:?}", self.slot, self.stage)
    }
}

impl Look {
    pub(super) fn at(slot: u8) -> Look {
        let (stage, phase) = (LookStage::State, Phase::Free);
        Look { slot, stage, phase, fresh: true, end: 0, done: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum SourceAt {
    #[default]
    Dead,
    Start,
    SaveFirst,
    Idle,
    Fill(u8),
    Announce(u8),
    Collect(Look),
    Save,
    Free(u8),
    /// Every job is done.
    Exhausted,
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Source {
    pub at: SourceAt,
    pub position: u8,
    /// Slots that were found done.
    pub done: [bool; SLOTS],
    /// It has looked for some since it filled one.
    pub looked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Publish {
    CopyRecord,
    CopyEnd,
    ResultEnd,
    Tail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum WorkerAt {
    #[default]
    Dead,
    Settle(Look),
    MakeReady(Look),
    SetReady(Look),
    TakeOver,
    Idle,
    /// Wrong versions only: a state, or a job, was read, and is not claimed yet.
    Tempted(u8),
    Begin,
    Run,
    Publish(u8),
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Worker {
    pub at: WorkerAt,
    pub tail: u8,
    pub count: u8,
    pub slot: u8,
    pub job: u8,
    pub failed: bool,
    /// Its predecessor's jobs are settled.
    pub settled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Flush {
    Intent,
    Write,
    Commit,
    Free,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) enum BufferAt {
    #[default]
    Dead,
    Recover,
    Idle,
    /// So many tails were read.
    Look(u8),
    Gather,
    /// This step of the batch, in its order.
    Batch(u8),
    FreeLane(u8, u8),
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Buffer {
    pub at: BufferAt,
    pub books: Books,
    pub tails: [u8; LANES],
    /// Where the batch ends.
    pub ends: Marks,
    pub batch: Output,
    /// Of the batch, what is in the output already.
    pub done: u8,
}

/// What main is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Main {
    Running,
    /// In order: source, workers, buffer.
    Stopping,
    /// Dead: its children stop by themselves, and nobody is started again.
    Dead,
    /// A new run, before anybody is started: half a step for each slot.
    Settling(u8),
    /// All is done, nobody is left.
    Ended,
}

/// Workers beyond these are predecessors that main has not waited for: there are none unless that
/// is what is wrong.
pub(super) const WORKERS: usize = 2 * LANES;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct World {
    // What survives a process.
    pub slots: [Slot; SLOTS],
    /// Jobs that were handed out, as the source has saved it.
    pub saved: u8,
    pub lanes: [Lane; LANES],
    pub commit: Books,
    pub intent: Option<Intent>,
    pub output: Output,
    // The processes.
    pub source: Source,
    pub workers: [Worker; WORKERS],
    pub buffer: Buffer,
    pub main: Main,
    // What may still go wrong.
    pub deaths: u8,
    pub massacres: u8,
    pub stops: u8,
    // What only the judge knows.
    /// Jobs, and whether as failed, in the order in which each lane has published them.
    pub told: [[Option<(u8, bool)>; JOBS_MAX]; LANES],
    /// Deaths of workers that ran the job.
    pub suffered: [u8; JOBS_MAX],
}

/// A promise was broken, or the code would have panicked.
pub(super) type Step = Result<(), String>;

impl World {
    pub(super) fn begin(size: &Size) -> World {
        let mut world = World {
            slots: [Slot::default(); SLOTS],
            saved: 0,
            lanes: [Lane::default(); LANES],
            commit: Books::default(),
            intent: None,
            output: Output::default(),
            source: Source::default(),
            workers: [Worker::default(); WORKERS],
            buffer: Buffer::default(),
            main: Main::Running,
            deaths: size.deaths,
            massacres: size.massacres,
            stops: size.stops,
            told: [[None; JOBS_MAX]; LANES],
            suffered: [0; JOBS_MAX],
        };
        world.start_all();
        world
    }

    pub(super) fn stopping(&self) -> bool {
        !matches!(self.main, Main::Running)
    }

    /// A state changes: whoever holds a copy of it has an old one.
    pub(super) fn change(&mut self, slot: u8, phase: Phase) {
        self.slots[usize::from(slot)].phase = phase;
        let spoil = |look: &mut Look| look.fresh &= look.slot != slot;
        if let SourceAt::Collect(look) = &mut self.source.at {
            spoil(look);
        }
        for worker in &mut self.workers {
            if let WorkerAt::Settle(look) | WorkerAt::MakeReady(look) | WorkerAt::SetReady(look) =
                &mut worker.at
            {
                spoil(look);
            }
        }
    }

    /// Is the slot's job done, at this very moment?
    pub(super) fn is_done(&self, slot: u8) -> bool {
        let slot = &self.slots[usize::from(slot)];
        match slot.phase {
            Phase::Claimed(lane) => self.lanes[usize::from(lane)].tail >= slot.result_end,
            Phase::Free | Phase::Ready => false,
        }
    }

    /// `Jobs::is_committed`, of a job that is done.
    pub(super) fn is_committed(&self, slot: u8) -> bool {
        let slot = &self.slots[usize::from(slot)];
        match slot.phase {
            Phase::Claimed(lane) => self.lanes[usize::from(lane)].freed >= slot.result_end,
            Phase::Free | Phase::Ready => false,
        }
    }

    /// One step of `Jobs::look`; `Some`: it is at its end.
    pub(super) fn look(&self, look: &mut Look, wrong: Option<Wrong>) -> Option<Look> {
        let slot = &self.slots[usize::from(look.slot)];
        let read_state = |look: &mut Look| {
            (look.phase, look.fresh, look.done) = (slot.phase, true, false);
            look.stage = LookStage::End;
            (!matches!(look.phase, Phase::Claimed(_))).then_some(*look)
        };
        match look.stage {
            LookStage::State => read_state(look),
            LookStage::End => {
                look.end = slot.result_end;
                look.stage = LookStage::Tail;
                None
            }
            LookStage::Tail => {
                let Phase::Claimed(lane) = look.phase else { return Some(*look) };
                look.done = self.lanes[usize::from(lane)].tail >= look.end;
                look.end = 0;
                look.stage = LookStage::StateAgain;
                (wrong == Some(Wrong::LookOnce)).then_some(*look)
            }
            LookStage::StateAgain => {
                let same = match wrong {
                    Some(Wrong::ChangesNotCounted) => look.phase == slot.phase,
                    _ => look.fresh,
                };
                if same { Some(*look) } else { read_state(look) }
            }
        }
    }
}
