//! The table of jobs that were handed out.
//!
//! # Invariants
//! - Only the source fills a slot, and only the source frees one.
//! - Only the worker that has claimed a slot changes it, until it is ready again; after the
//!   worker's death, [`super::settle`].
//! - Nothing of a slot is believed before it is claimed: the claim is the one compare-and-swap.
//! - A claimed slot is *done* exactly if its claimer's lane has a tail of at least `result_end`.
//!   So a job is done, and all of its records are published, by one and the same store.
//! - A slot is freed once the results of its job are committed, not before: if they are damaged in
//!   the lane, the job can be run again.
//! - `result_end` is `u64::MAX` whenever a slot becomes ready.

use super::bell;
use super::layout::Slot;
pub(crate) use super::slot::{
    Claimer, DEATHS_MAX, Deaths, NO_RESULT, NewJob, Phase, Reason, State,
};
use super::spool::Spool;
use crate::sys::atomic::{AtomicU64, Ordering, full_fence};
use crate::sys::{clock, futex};
use std::time::Duration;

/// A job in hand.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub slot: usize,
    pub text: Vec<u8>,
    pub seq: u64,
    pub round: u64,
    /// Failures before this attempt.
    pub attempts: u64,
    pub put_back: u64,
    pub reason: Option<Reason>,
    /// To be run with nothing else in its process.
    pub suspect: bool,
    state: u64,
}

/// See [`Slot::started`].
const FAILED: u64 = 1;

impl Claimed {
    /// All that is known of it but its text.
    pub(crate) fn without_text(&self) -> Claimed {
        Claimed { text: Vec::new(), ..*self }
    }
}

/// What looking for a job came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// One is in hand.
    Job,
    /// There is none now; the first of those that wait for their next attempt may start then.
    None { until: Option<Duration> },
}

/// The table, as any role sees it.
#[derive(Clone, Copy)]
pub(crate) struct Jobs<'a>(pub &'a Spool);

impl Jobs<'_> {
    pub(crate) fn len(&self) -> usize {
        self.0.layout.geometry.slots as usize
    }

    pub(crate) fn slot(&self, index: usize) -> &Slot {
        assert!(index < self.len(), "slot {index} of {}", self.len());
        self.0.mapping.at::<Slot>(self.0.layout.slots + index * size_of::<Slot>())
    }

    pub(crate) fn phase(&self, index: usize) -> Phase {
        State::from_word(self.slot(index).state.load(Ordering::Acquire)).phase()
    }

    /// The slot's state, and whether its job has been published whole, as both were at one moment.
    ///
    /// The state is read again at the end: if somebody has settled the slot meanwhile, what was
    /// read of `result_end` and of the tail belongs to two different claims.
    pub(crate) fn look(&self, index: usize) -> (State, bool) {
        let slot = self.slot(index);
        let mut state = slot.state.load(Ordering::Acquire);
        loop {
            let done = match State::from_word(state).phase() {
                Phase::Claimed(by) if self.0.has_lane(by.lane) => {
                    let end = slot.result_end.load(Ordering::Acquire);
                    let tail = self.0.producer(by.lane.into()).tail.load(Ordering::Acquire);
                    end != NO_RESULT && tail >= end
                }
                _ => false,
            };
            let again = slot.state.load(Ordering::Acquire);
            if again == state {
                return (State::from_word(state), done);
            }
            state = again;
        }
    }

    /// Has the slot's job been published whole?
    pub(crate) fn is_done(&self, index: usize) -> bool {
        self.look(index).1
    }

    /// Has everything that the slot's job has published been written, and committed?
    pub(crate) fn is_committed(&self, index: usize) -> bool {
        let (state, done) = self.look(index);
        match state.phase() {
            // Who has claimed a done slot is not going to change any more.
            Phase::Claimed(by) if done => {
                let freed = self.0.consumer(by.lane.into()).freed.load(Ordering::Acquire);
                freed >= self.slot(index).result_end.load(Ordering::Acquire)
            }
            _ => false,
        }
    }

    /// Slots that hold a job which is not done.
    pub(crate) fn pending(&self) -> usize {
        (0..self.len()).filter(|index| self.is_pending(*index)).count()
    }

    /// Does the slot hold a job that is not done?
    pub(crate) fn is_pending(&self, index: usize) -> bool {
        let (state, done) = self.look(index);
        state.phase() != Phase::Free && !done
    }

    /// The slot's text.
    pub(crate) fn text(&self, index: usize) -> Vec<u8> {
        let mut text = Vec::new();
        self.read_text(index, &mut text);
        text
    }

    /// Copies the slot's text out, and says whether the slot holds what the source has written.
    fn read_text(&self, index: usize, text: &mut Vec<u8>) -> bool {
        let slot = self.slot(index);
        let word = slot.len_and_checksum.load(Ordering::Relaxed);
        let len = u64::from(word as u32).min(self.0.layout.geometry.job_bytes.into());
        text.clear();
        self.0.mapping.append_to(self.payload(index), len as usize, text);
        let written = NewJob {
            text,
            seq: slot.seq.load(Ordering::Relaxed),
            round: slot.round.load(Ordering::Relaxed),
            offset: slot.offset.load(Ordering::Relaxed),
            prefix: slot.prefix.load(Ordering::Relaxed),
            reason: None,
        };
        (word >> 32) as u32 == written.checksum()
    }

    /// Does a slot that is not free hold what the source has written into it?
    pub(crate) fn is_sound(&self, index: usize) -> bool {
        self.read_text(index, &mut Vec::new())
    }

    fn payload(&self, index: usize) -> usize {
        self.0.layout.payloads + index * self.0.layout.payload_stride
    }

    // What the source does.

    /// Puts a job into a free slot. It is not seen by workers before [`Jobs::announce`] wakes
    /// them, but may be claimed at once by one that looks.
    pub(crate) fn fill(&self, index: usize, job: &NewJob<'_>) {
        let slot = self.slot(index);
        let state = State::from_word(slot.state.load(Ordering::Acquire));
        assert_eq!(state.phase(), Phase::Free, "only a free slot is filled");
        let len = job.text.len().min(self.0.layout.geometry.job_bytes as usize);
        let job = NewJob { text: &job.text[..len], ..job.clone() };
        self.0.mapping.write(self.payload(index), job.text);
        // Before anything else of the slot may be seen to change: who looks at it meanwhile must not
        // pair its old state with its new end.
        slot.result_end.store(NO_RESULT, Ordering::Release);
        for (word, value) in [
            (&slot.len_and_checksum, len as u64 | u64::from(job.checksum()) << 32),
            (&slot.seq, job.seq),
            (&slot.round, job.round),
            (&slot.offset, job.offset),
            (&slot.prefix, job.prefix),
            (&slot.reason, job.reason.map_or(0, Reason::to_word)),
            (&slot.not_before, 0),
            (&slot.attempts, 0),
            (&slot.deaths, 0),
            (&slot.put_back, 0),
            (&slot.suspect, 0),
            (&slot.started, 0),
            (&slot.command, 0),
            (&slot.command_start, 0),
        ] {
            word.store(value, Ordering::Relaxed);
        }
        slot.state.store(state.then(Phase::Ready).word(), Ordering::Release);
    }

    /// Copies a job that is not done from another spool into a free slot, with its history.
    pub(crate) fn adopt(&self, index: usize, from: &Jobs<'_>, old: usize) {
        let (text, slot) = (from.text(old), from.slot(old));
        let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
        self.fill(
            index,
            &NewJob {
                text: &text,
                seq: word(&slot.seq),
                round: word(&slot.round),
                offset: word(&slot.offset),
                prefix: word(&slot.prefix),
                reason: match Reason::from_word(word(&slot.reason)) {
                    None if !from.is_sound(old) => Some(Reason::Damaged),
                    reason => reason,
                },
            },
        );
        let new = self.slot(index);
        for (to, from) in [
            (&new.attempts, &slot.attempts),
            (&new.deaths, &slot.deaths),
            (&new.put_back, &slot.put_back),
            (&new.suspect, &slot.suspect),
        ] {
            to.store(word(from), Ordering::Relaxed);
        }
    }

    /// Makes an adopted job done, as it was in the other spool: its results are committed.
    pub(crate) fn adopt_done(&self, index: usize, from: &Jobs<'_>, old: usize) {
        let started = from.slot(old).started.load(Ordering::Relaxed);
        self.slot(index).started.store(started, Ordering::Relaxed);
        self.make_done(index, 0, 0);
    }

    /// The slot at which the next one who claims begins to look.
    pub(crate) fn next_claimed(&self) -> usize {
        self.0.bells().jobs_hint.load(Ordering::Relaxed) as usize % self.len()
    }

    /// Wakes as many idle threads as there are new jobs.
    pub(crate) fn announce(&self, count: usize) {
        let bells = self.0.bells();
        bells.jobs.fetch_add(1, Ordering::SeqCst);
        full_fence();
        if bells.jobs_idle.load(Ordering::Relaxed) > 0 {
            futex::wake(&bells.jobs, u32::try_from(count).unwrap_or(u32::MAX), futex::EVERYONE);
        }
    }

    /// Gives the slot of a job back whose results are committed. Its position in the list must have
    /// been saved before.
    pub(crate) fn free(&self, index: usize) {
        let (state, _) = self.look(index);
        assert!(self.is_committed(index), "a slot is freed before its job's results are committed");
        self.change(index, state, Phase::Free);
    }

    /// Changes a state that nobody else may change.
    fn change(&self, index: usize, from: State, to: Phase) {
        let swap = self.slot(index).state.compare_exchange(
            from.word(),
            from.then(to).word(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        assert!(swap.is_ok(), "slot {index} was changed by somebody who has no right to");
    }

    /// Gives a slot back whose job nobody wants any more, while nothing runs.
    pub(crate) fn forget(&self, index: usize) {
        let state = State::from_word(self.slot(index).state.load(Ordering::Acquire));
        self.change(index, state, Phase::Free);
    }

    // What a worker does.

    /// Takes a job that is ready and due, if there is one.
    pub(crate) fn claim(&self, by: Claimer, job: &mut Claimed) -> Claim {
        let hint = &self.0.bells().jobs_hint;
        let start = self.next_claimed();
        let mut until: Option<u64> = None;
        for step in 0..self.len() {
            let index = (start + step) % self.len();
            let slot = self.slot(index);
            let state = State::from_word(slot.state.load(Ordering::Acquire));
            if state.phase() != Phase::Ready {
                continue;
            }
            // Not claimed yet, so only a hint; if it is wrong the worst is an early start.
            let due = slot.not_before.load(Ordering::Relaxed);
            if due > 0 && due > clock::nanos(clock::now()) {
                until = Some(until.map_or(due, |until| until.min(due)));
                continue;
            }
            let claimed = state.then(Phase::Claimed(by)).word();
            let swap = slot.state.compare_exchange(
                state.word(),
                claimed,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if swap.is_ok() {
                hint.store((index + 1) as u32, Ordering::Relaxed);
                self.read(index, claimed, job);
                return Claim::Job;
            }
        }
        Claim::None { until: until.map(Duration::from_nanos) }
    }

    fn read(&self, index: usize, state: u64, job: &mut Claimed) {
        let slot = self.slot(index);
        let sound = self.read_text(index, &mut job.text);
        job.slot = index;
        job.seq = slot.seq.load(Ordering::Relaxed);
        job.round = slot.round.load(Ordering::Relaxed);
        job.attempts = slot.attempts.load(Ordering::Relaxed);
        job.put_back = slot.put_back.load(Ordering::Relaxed);
        job.reason = match Reason::from_word(slot.reason.load(Ordering::Relaxed)) {
            None if !sound => Some(Reason::Damaged),
            reason => reason,
        };
        job.suspect = slot.suspect.load(Ordering::Relaxed) != 0;
        job.state = state;
    }

    /// Notes that the attempt begins. If nothing else runs in its process, its death is counted
    /// before it starts: if the worker dies, nobody is left to count, and nothing else has done it.
    pub(crate) fn begin(&self, job: &Claimed, alone: bool) {
        let slot = self.slot(job.slot);
        if alone {
            let deaths = Deaths::of(slot);
            slot.deaths.store(Deaths::UNDER_WAY | (deaths.counted + 1), Ordering::Relaxed);
        }
        slot.started.store(clock::nanos(clock::wall()) & !FAILED, Ordering::Release);
    }

    /// Takes back what [`Jobs::begin`] has counted: the worker has survived the attempt.
    pub(crate) fn survived(&self, job: &Claimed, alone: bool) {
        if alone {
            Deaths::of(self.slot(job.slot)).take_back(self.slot(job.slot));
        }
    }

    /// Notes that what is about to be published of the job says that it has failed for good; for the
    /// source, once it is done. If it is not published after all, the next attempt knows nothing of it.
    pub(crate) fn note_failed(&self, job: &Claimed) {
        self.slot(job.slot).started.fetch_or(FAILED, Ordering::Relaxed);
    }

    /// Has the job of a done slot failed for good?
    pub(crate) fn has_failed(&self, index: usize) -> bool {
        self.slot(index).started.load(Ordering::Relaxed) & FAILED != 0
    }

    /// Notes the process group of the job's command, so that whoever settles this slot after our
    /// death can end it first; 0: it has ended.
    pub(crate) fn note_command(&self, job: &Claimed, group: i32, start_time: u64) {
        let slot = self.slot(job.slot);
        slot.command_start.store(start_time, Ordering::Relaxed);
        slot.command.store(u64::from(group.unsigned_abs()), Ordering::Release);
    }

    /// Makes a job in hand ready again, to be started at `not_before` or later.
    pub(crate) fn put_back(&self, job: &Claimed, why: PutBack, not_before: Option<Duration>) {
        let slot = self.slot(job.slot);
        match why {
            PutBack::Failed => slot.attempts.fetch_add(1, Ordering::Relaxed),
            PutBack::Interrupted => slot.put_back.fetch_add(1, Ordering::Relaxed),
            PutBack::NotBegun => 0,
        };
        slot.started.store(0, Ordering::Relaxed);
        slot.not_before.store(not_before.map_or(0, clock::nanos), Ordering::Relaxed);
        slot.command.store(0, Ordering::Relaxed);
        slot.result_end.store(NO_RESULT, Ordering::Release);
        self.change(job.slot, State::from_word(job.state), Phase::Ready);
        self.announce(1);
    }

    /// Notes what is to become of a job in hand whose attempt will not end before its process does.
    ///
    /// The slot stays claimed: as long as the process lives, the attempt may still be at work. It is
    /// ready again when it is settled, with what is noted here.
    pub(crate) fn expire(&self, job: &Claimed, what: Expired) {
        let slot = self.slot(job.slot);
        match what {
            Expired::Again { not_before } => {
                slot.not_before.store(clock::nanos(not_before), Ordering::Relaxed);
                slot.attempts.fetch_add(1, Ordering::Release);
            }
            Expired::UsedUp { after } => {
                let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
                let reason = Reason::TimedOut { after_us };
                slot.reason.store(reason.to_word(), Ordering::Release);
            }
        }
    }

    /// Sleeps until a job may be ready, `until`, or `stop`; `set` names the sleeper's process.
    ///
    /// The caller has found none since it read `seen` from [`Jobs::bell`]. If the source waits for
    /// slots it is woken: by now there may be some.
    pub(crate) fn wait(&self, seen: u32, until: Option<Duration>, set: futex::Set) {
        let bells = self.0.bells();
        bell::ring(&bells.source);
        futex::wait(&bells.jobs, seen, until, set);
    }

    /// The word that grows with each announcement.
    pub(crate) fn bell(&self) -> u32 {
        self.0.bells().jobs.load(Ordering::SeqCst)
    }

    /// Counts the caller among the idle for as long as the guard lives.
    pub(crate) fn idle(&self) -> Idle<'_> {
        self.0.bells().jobs_idle.fetch_add(1, Ordering::SeqCst);
        full_fence();
        Idle(self.0)
    }

    /// Wakes the threads of one worker process, which have another reason than a job to look up.
    pub(crate) fn wake_set(&self, set: futex::Set) {
        let bells = self.0.bells();
        bells.jobs.fetch_add(1, Ordering::SeqCst);
        futex::wake(&bells.jobs, u32::MAX, set);
    }

    // What settling does: see there.

    /// Makes a slot of a dead worker ready again. `blamed`: if the attempt had begun, the job may
    /// have been the cause, and how the worker ended.
    ///
    /// The state goes last: killed before it, this is simply done again, with the same outcome.
    pub(crate) fn make_ready(&self, index: usize, state: State, blamed: Option<u64>) {
        let slot = self.slot(index);
        let deaths = Deaths::of(slot);
        let begun = deaths.under_way || slot.started.load(Ordering::Relaxed) != 0;
        match blamed {
            Some(last_end) if begun => {
                slot.suspect.store(1, Ordering::Relaxed);
                if deaths.counted >= DEATHS_MAX {
                    let reason = Reason::Deaths { last_end };
                    slot.reason.store(reason.to_word(), Ordering::Relaxed);
                }
                slot.deaths.store(deaths.counted, Ordering::Relaxed);
            }
            // Killed on purpose: what was counted before the start is taken back, once.
            None if deaths.under_way => deaths.take_back(slot),
            _ => {}
        }
        slot.started.store(0, Ordering::Relaxed);
        slot.command.store(0, Ordering::Relaxed);
        slot.result_end.store(NO_RESULT, Ordering::Release);
        self.change(index, state, Phase::Ready);
    }

    /// Makes a job done whose results a lane has, up to this offset, though its slot does not know it:
    /// what the slot knew went with the power.
    pub(crate) fn make_done(&self, index: usize, lane: u16, end: u64) {
        let slot = self.slot(index);
        slot.result_end.store(end, Ordering::Release);
        let state = State::from_word(slot.state.load(Ordering::Acquire));
        self.change(index, state, Phase::Claimed(Claimer { lane, incarnation: 0 }));
    }

    /// Lets a job be started at once. After another boot the clock that it waits for is another.
    pub(crate) fn make_due(&self, index: usize) {
        self.slot(index).not_before.store(0, Ordering::Relaxed);
    }

    /// The word that says where a job's results end, for the lane that publishes them.
    pub(crate) fn result_end(&self, job: &Claimed) -> &AtomicU64 {
        &self.slot(job.slot).result_end
    }
}

/// Why a job goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PutBack {
    /// The attempt failed, and counts.
    Failed,
    /// Somebody else ended its command; counted apart.
    Interrupted,
    /// The attempt was not even begun.
    NotBegun,
}

/// What becomes of a job whose attempt does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The attempt counts, and there is another one, not before this.
    Again { not_before: Duration },
    /// That was the last attempt; it took so long.
    UsedUp { after: Duration },
}

/// See [`Jobs::idle`].
pub(crate) struct Idle<'a>(&'a Spool);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        // Never below zero: a restart may have reset it while we slept.
        let _old =
            self.0
                .bells()
                .jobs_idle
                .fetch_update(Ordering::SeqCst, Ordering::Relaxed, |count| count.checked_sub(1));
    }
}
