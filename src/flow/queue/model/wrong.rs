//! Versions of the protocol that are wrong: the search must find out what is wrong with each.

use super::world::Size;

/// One thing that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    // The source.
    /// The slot is ready before all of its fields are stored.
    ReadyBeforeFields,
    /// A slot that is filled keeps the end of its last job's results.
    EndNotResetByFill,
    /// Slots are given back before the place in the list is saved.
    FreeBeforeSave,
    /// A new source believes the saved place alone, and not what stands in slots.
    SlotsDoNotCountForPlace,
    /// A look at a slot does not read the state again.
    LookOnce,
    /// The state word has no count, so it can come back.
    ChangesNotCounted,
    // The worker.
    /// A ready slot is taken by two steps: look, store.
    ClaimWithoutSwap,
    /// What the job is, is read before the claim, which only wants the slot to be ready.
    FieldsBeforeClaim,
    /// The tail is moved, then the frames are copied.
    TailBeforeFrames,
    /// The tail is moved, then the slot says where the results end.
    EndAfterTail,
    /// A full lane is written over.
    NoWaitForSpace,
    /// A new worker publishes, then settles what its predecessor had in hand.
    SettleAfterPublish,
    /// A new worker begins while the one before it still lives.
    SettleBeforeReaped,
    /// A slot that is made ready keeps the end of the results.
    EndNotResetBySettling,
    /// A new worker believes the count of the dead one, and not the frames.
    CountNotFromFrames,
    /// What was counted before an attempt stays, also if the worker survives it.
    DeathsNotTakenBack,
    // The buffer.
    /// Nothing says what is being written.
    NoIntent,
    /// What is in the output already is not looked for.
    NoCompare,
    /// Any intent is believed, also one whose batch was committed. That would do no harm: such a
    /// batch ends where the commit does, so it is empty.
    GenerationNotChecked,
    /// A batch is done again with all that has come since.
    RecoverWithNewTails,
    CommitBeforeWrite,
    FreeBeforeCommit,
    /// There is one record for the commit, not two in turn.
    CommitInPlace,
    /// A new buffer frees up to the tails, not up to the commit.
    FreeUpToTails,
    /// The buffer stops before the last worker is gone.
    BufferStopsEarly,
}

impl Wrong {
    /// How much must be tried to find it.
    pub(super) fn size(self) -> Size {
        let (jobs, deaths) = match self {
            // A slot must be used again, or a worker die twice of its job.
            Wrong::FieldsBeforeClaim => (3, 0),
            Wrong::DeathsNotTakenBack => (1, 2),
            // A slot must be freed and used again while a successor settles.
            Wrong::LookOnce | Wrong::ChangesNotCounted => (3, 1),
            _ => (2, 1),
        };
        // What is nobody else's affair in the protocol as it is meant to be, need not be here.
        let reduced = deaths > 0 && !matches!(self, Wrong::LookOnce | Wrong::ChangesNotCounted);
        Size { jobs, deaths, massacres: 0, stops: 0, reduced, wrong: Some(self) }
    }

    /// All but the one that does no harm and the one that takes minutes.
    pub(super) const ALL: [Wrong; 23] = [
        Wrong::ReadyBeforeFields,
        Wrong::EndNotResetByFill,
        Wrong::FreeBeforeSave,
        Wrong::SlotsDoNotCountForPlace,
        Wrong::LookOnce,
        Wrong::ClaimWithoutSwap,
        Wrong::FieldsBeforeClaim,
        Wrong::TailBeforeFrames,
        Wrong::EndAfterTail,
        Wrong::NoWaitForSpace,
        Wrong::SettleAfterPublish,
        Wrong::SettleBeforeReaped,
        Wrong::EndNotResetBySettling,
        Wrong::CountNotFromFrames,
        Wrong::DeathsNotTakenBack,
        Wrong::NoIntent,
        Wrong::NoCompare,
        Wrong::RecoverWithNewTails,
        Wrong::CommitBeforeWrite,
        Wrong::FreeBeforeCommit,
        Wrong::CommitInPlace,
        Wrong::FreeUpToTails,
        Wrong::BufferStopsEarly,
    ];
}
