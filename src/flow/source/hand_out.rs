//! The source's side of the table of jobs: it fills free slots, saves how far it has got, and takes
//! slots back. Every kind of source works through this.

use crate::flow::queue::bell;
use crate::flow::queue::commit::{Commit, Totals};
use crate::flow::queue::jobs::{Jobs, NewJob, Phase, Reason};
use crate::flow::queue::layout::SOURCE_WAITS_FLUSH;
use crate::flow::queue::position::ListPosition;
use crate::flow::queue::reader::Mark;
use crate::flow::queue::spool::Spool;
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use std::collections::VecDeque;

/// Jobs that are filled in before an idle worker is woken for them. One, which may be able to do them
/// all: as many as there are jobs are woken before the source does anything that takes time.
const WAKE_AT: usize = 32;

pub(super) struct HandOut<'a> {
    pub spool: &'a Spool,
    pub jobs: Jobs<'a>,
    pub stop: &'a Stop,
    pub position: ListPosition,
    generation: u64,
    /// Free slots, in the order in which they are to be filled: the one in which they are claimed, so
    /// that jobs are begun in the order in which they were handed out.
    free: VecDeque<usize>,
    /// The slot behind the one that was filled last.
    next_slot: usize,
    /// Jobs filled in since as many idle workers were woken as there were jobs.
    unannounced: usize,
}

impl<'a> HandOut<'a> {
    /// Goes on where the source before this one was.
    pub(super) fn begin(spool: &'a Spool, stop: &'a Stop) -> HandOut<'a> {
        // A source that was killed may have been waiting.
        spool.bells().source_waits.store(0, Ordering::SeqCst);
        let (generation, position) = ListPosition::load(spool);
        let jobs = Jobs(spool);
        let next_slot = jobs.next_claimed();
        let around = (next_slot..jobs.len()).chain(0..next_slot);
        let free = around.filter(|index| jobs.phase(*index) == Phase::Free).collect();
        HandOut { spool, jobs, stop, position, generation, free, next_slot, unannounced: 0 }
    }

    /// Says where the list is gone on with, and that nothing before it is left out.
    pub(super) fn say_going_on(&self) {
        let seq = self.position.seq;
        match self.jobs.pending() {
            0 => log::info!("going on behind job {seq}"),
            1 => log::info!("going on behind job {seq}; 1 before it is kept, and done first"),
            kept => {
                log::info!("going on behind job {seq}; {kept} before it are kept, and done first")
            }
        }
    }

    /// A round begins in which nothing was handed out yet.
    pub(super) fn begin_round(&mut self) {
        let books = Commit::load(self.spool);
        let drained = |(lane, head): (usize, &Mark)| {
            self.spool.producer(lane).tail.load(Ordering::Acquire) == head.offset
        };
        let nothing_under_way = self.is_idle() && books.lanes.iter().enumerate().all(drained);
        let Totals { jobs_done, jobs_failed, .. } = books.totals;
        self.position = ListPosition {
            round: self.position.round + 1,
            failed_before: jobs_failed,
            ended_before: nothing_under_way.then_some(jobs_done + jobs_failed),
            ..ListPosition::default()
        };
        // Before any slot is filled: what stands in slots does not know of the failures.
        self.save();
    }

    /// Nothing more of this round is to be handed out.
    pub(super) fn end_round(&mut self) {
        (self.position.at_end, self.position.left) = (true, Some(0));
        self.save();
    }

    /// Is no slot in use?
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.jobs.len()
    }

    pub(super) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Hands out a job. There must be a free slot. `offset` and `prefix`: where it goes on behind it.
    pub(super) fn fill(&mut self, text: &[u8], too_long: bool, (offset, prefix): (u64, u64)) {
        self.position.seq += 1;
        (self.position.offset, self.position.prefix) = (offset, prefix);
        // What was at its end has grown.
        (self.position.at_end, self.position.left) = (false, None);
        let Some(index) = self.free.pop_front() else { return };
        self.next_slot = (index + 1) % self.jobs.len();
        let (seq, round) = (self.position.seq, self.position.round);
        let reason = reason_of(too_long);
        self.jobs.fill(index, &NewJob { text, seq, round, offset, prefix, reason });
        self.unannounced += 1;
        if self.unannounced.is_multiple_of(WAKE_AT) {
            self.jobs.announce(1);
        }
    }

    /// Sees to it that there is a free slot; waits for one. `false`: stopped meanwhile.
    pub(super) fn find_free(&mut self) -> bool {
        while self.free.is_empty() {
            self.announce();
            self.collect();
            if self.free.is_empty() {
                if self.stop.requested() {
                    return false;
                }
                self.sleep();
            }
        }
        true
    }

    /// Waits until every job that was handed out is done. `false`: stopped before.
    pub(super) fn await_all(&mut self) -> bool {
        loop {
            self.collect();
            if self.jobs.pending() == 0 {
                return true;
            }
            if self.stop.requested() {
                return false;
            }
            bell::sleep_unless(&self.spool.bells().source, None, || {
                self.stop.requested() || self.jobs.pending() == 0
            });
        }
    }

    /// Gives the slots of jobs back whose results are committed.
    pub(super) fn collect(&mut self) {
        let slots = 0..self.jobs.len();
        self.give_back(slots.filter(|index| self.jobs.is_committed(*index)).collect());
    }

    /// Gives slots back. Their place in the list is saved before: so a job is in a slot,
    /// or behind the saved position.
    pub(super) fn give_back(&mut self, mut slots: Vec<usize>) {
        if slots.is_empty() {
            return;
        }
        self.save();
        // In the order in which they are to be filled again.
        let count = self.jobs.len();
        slots.sort_by_key(|index| (index + count - self.next_slot) % count);
        for index in slots {
            self.jobs.free(index);
            self.free.push_back(index);
        }
    }

    /// Is there nothing to do for workers, while jobs that are done hold slots?
    pub(super) fn is_starving(&self) -> bool {
        let any = |is: fn(&Jobs<'_>, usize) -> bool| {
            (0..self.jobs.len()).any(|index| is(&self.jobs, index))
        };
        any(|jobs, index| jobs.is_done(index))
            && !any(|jobs, index| jobs.phase(index) == Phase::Ready)
    }

    /// Sleeps until a worker has found no job, which is when slots are needed, or until stop. If all
    /// that is missing then are commits, the buffer is asked for them.
    fn sleep(&self) {
        let bells = self.spool.bells();
        let asks = self.is_starving();
        if asks {
            bells.source_waits.store(SOURCE_WAITS_FLUSH, Ordering::SeqCst);
            bell::ring(&bells.buffer);
        }
        bell::sleep_unless(&bells.source, None, || {
            // A worker that has just run out of jobs may have rung before we lay down.
            self.stop.requested()
                || (0..self.jobs.len()).any(|index| self.jobs.is_committed(index))
                || (!asks && self.is_starving())
        });
        bells.source_waits.store(0, Ordering::SeqCst);
    }

    /// To be called before anything that may wait, or takes time: wakes an idle worker for each job.
    pub(super) fn announce(&mut self) {
        if self.unannounced > 0 {
            self.jobs.announce(self.unannounced);
            self.unannounced = 0;
        }
    }

    pub(super) fn save(&mut self) {
        self.generation += 1;
        self.position.store(self.spool, self.generation);
    }
}

/// Why a job can't be run, if it can't.
pub(super) fn reason_of(too_long: bool) -> Option<Reason> {
    too_long.then_some(Reason::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::queue::jobs::{Claim, Claimed, Claimer};
    use crate::flow::queue::layout::Geometry;
    use crate::sys::futex;
    use std::sync::atomic::AtomicUsize;
    use std::time::{Duration, Instant};

    /// Whatever the moments at which slots become free, and are looked for.
    #[test]
    fn one_who_claims_alone_gets_the_jobs_in_the_order_of_the_list() {
        let directory = tempfile::tempdir().expect("temp dir");
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 3, job_bytes: 64 };
        let path = directory.path().join("spool");
        let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
        let stop = Stop::new(|| {});
        let jobs = Jobs(&spool);
        let mut source = HandOut::begin(&spool, &stop);
        source.begin_round();
        let mut claimed = 0;
        let mut dice = 1_u32;
        for round in 0..2000 {
            dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            match dice >> 30 {
                0 if source.free.is_empty() => source.collect(),
                0 | 1 if !source.free.is_empty() => source.fill(b"job", false, (0, 0)),
                2 | 3 => {
                    let mut job = Claimed::default();
                    if jobs.claim(Claimer { lane: 0, incarnation: 1 }, &mut job) == Claim::Job {
                        claimed += 1;
                        assert_eq!(job.seq, claimed, "in round {round}");
                        jobs.make_done(job.slot, 0, 0);
                    }
                }
                _ => {}
            }
        }
        assert!(claimed > 400, "{claimed}");
    }

    /// A job that nobody is woken for waits for whoever is awake.
    #[test]
    fn as_many_idle_workers_as_there_are_jobs_are_woken_before_the_source_waits() {
        const WORKERS: usize = 4;
        let directory = tempfile::tempdir().expect("temp dir");
        let geometry = Geometry { lanes: 1, lane_bytes: 4096, slots: 4, job_bytes: 64 };
        let path = directory.path().join("spool");
        let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
        let stop = Stop::new(|| {});
        let jobs = Jobs(&spool);
        let mut source = HandOut::begin(&spool, &stop);
        source.begin_round();
        let asleep = AtomicUsize::new(0);
        // Each takes a single job, and is busy with it from then on.
        let work = || {
            let _idle = jobs.idle();
            loop {
                let (seen, mut job) = (jobs.bell(), Claimed::default());
                match jobs.claim(Claimer { lane: 0, incarnation: 1 }, &mut job) {
                    Claim::Job => return,
                    Claim::None { until } => {
                        asleep.fetch_add(1, Ordering::SeqCst);
                        jobs.wait(seen, until, futex::EVERYONE);
                    }
                }
            }
        };
        let woken = std::thread::scope(|scope| {
            let workers: [_; WORKERS] = std::array::from_fn(|_| scope.spawn(work));
            while asleep.load(Ordering::SeqCst) < WORKERS {
                std::thread::yield_now();
            }
            let waiting = scope.spawn(|| {
                (0..WORKERS).for_each(|_| source.fill(b"job", false, (0, 0)));
                source.find_free()
            });
            let end = Instant::now() + Duration::from_secs(20);
            let all = || workers.iter().all(|worker| worker.is_finished());
            while !all() && Instant::now() < end {
                std::thread::yield_now();
            }
            let woken = all();
            // So that the test has an end.
            while !all() || !waiting.is_finished() {
                stop.request();
                jobs.announce(WORKERS);
                bell::ring_for_sure(&spool.bells().source);
                std::thread::yield_now();
            }
            woken
        });
        assert!(woken, "a worker slept beside a job");
    }
}
