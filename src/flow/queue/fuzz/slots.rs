//! The table of jobs with hostile bytes in it: after a repair each slot is free, ready, or done; and
//! what is ready is the job that the source has written, or fails and says why.

use super::{LANE, Stage, assert_books_are_behind_the_lanes, staged};
use crate::flow::queue::commit::Commit;
use crate::flow::queue::ends;
use crate::flow::queue::frame::Kind;
use crate::flow::queue::jobs::{Claim, Claimed, Claimer, Jobs, NewJob, Phase, PutBack, Reason};
use crate::flow::queue::lane::{Finish, LaneWriter};
use crate::flow::queue::layout::Slot;
use crate::flow::queue::position::ListPosition;
use crate::flow::queue::reader::{Gathered, LaneReader, survey};
use crate::flow::queue::repair::{give_up_damaged, repair};
use crate::flow::queue::settle::settle;
use crate::flow::queue::spool::Spool;
use crate::fuzzing::Choices;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

const LANES: u16 = 2;
const SLOTS: u32 = 6;

thread_local! {
    static STAGE: Stage = Stage::new(LANES.into(), SLOTS);
}

/// Jobs are handed out, claimed, done and committed; everybody dies; bytes are changed; a start puts it
/// in order, and everything is done that is left.
pub(crate) fn jobs(data: &[u8]) {
    STAGE.with(|stage| {
        let mut choices = Choices::new(data);
        let mut story = Story::begin(stage, &mut choices);
        story.live();
        let damaged = story.damage();
        story.recover(damaged);
        story.finish(damaged);
    });
}

struct Story<'a, 'c> {
    stage: &'a Stage,
    spool: &'a Spool,
    jobs: Jobs<'a>,
    choices: &'a mut Choices<'c>,
    /// What the source has written, by number.
    written: BTreeMap<u64, (Vec<u8>, Option<Reason>)>,
    hands: Vec<(Claimer, Claimed)>,
    incarnations: [u16; LANES as usize],
}

/// What everything that matters of a slot is: who repairs twice finds it unchanged.
fn words(slot: &Slot) -> [u64; 8] {
    [
        &slot.state,
        &slot.result_end,
        &slot.seq,
        &slot.attempts,
        &slot.deaths,
        &slot.reason,
        &slot.started,
        &slot.suspect,
    ]
    .map(|word| word.load(Ordering::Relaxed))
}

impl<'a, 'c> Story<'a, 'c> {
    fn begin(stage: &'a Stage, choices: &'a mut Choices<'c>) -> Story<'a, 'c> {
        let spool = stage.reset();
        ListPosition { round: 1, ..ListPosition::default() }.store(spool, 1);
        Commit { generation: 1, ..Commit::initial(LANES.into()) }.store(spool);
        let (written, hands) = (BTreeMap::new(), Vec::new());
        let jobs = Jobs(spool);
        Story { stage, spool, jobs, choices, written, hands, incarnations: [1; LANES as usize] }
    }

    fn live(&mut self) {
        for _ in 0..self.choices.below(32) {
            match self.choices.below(7) {
                0 | 1 => self.fill(),
                2 => self.claim(),
                3 => self.publish(),
                4 => self.put_back(),
                5 => self.commit(),
                _ => self.replace_worker(),
            }
        }
    }

    fn fill(&mut self) {
        let free = |index: &usize| self.jobs.phase(*index) == Phase::Free;
        let Some(index) = (0..self.jobs.len()).find(free) else { return };
        let len = self.choices.below(80) as usize;
        let text = self.choices.bytes(len);
        let seq = 1 + self.written.len() as u64;
        let reason = (text.len() > 64).then_some(Reason::TooLong);
        let job = NewJob { text, seq, round: 1, offset: 9 * seq, prefix: seq, reason };
        self.jobs.fill(index, &job);
        self.written.insert(seq, (text[..text.len().min(64)].to_vec(), reason));
    }

    fn claim(&mut self) {
        let lane = self.choices.below(LANES.into()) as u16;
        let by = Claimer { lane, incarnation: self.incarnations[usize::from(lane)] };
        let mut job = Claimed::default();
        if self.jobs.claim(by, &mut job) == Claim::Job {
            self.check(&job, false);
            if self.choices.below(2) == 0 {
                self.jobs.begin(&job, self.hands.is_empty());
            }
            self.hands.push((by, job));
        }
    }

    /// What a worker gets is what the source has written, or is known not to be.
    fn check(&self, job: &Claimed, damaged: bool) {
        let known = self.written.get(&job.seq);
        match (&job.reason, known) {
            (None, Some((text, reason))) => {
                assert_eq!(&job.text, text, "job {} is another one", job.seq);
                assert!(reason.is_none() || damaged, "job {} is run all the same", job.seq);
            }
            (None, None) => panic!("nobody has written a job {}", job.seq),
            (Some(_), _) if damaged => {}
            (Some(reason), Some((_, expected))) => {
                let died = matches!(reason, Reason::Deaths { .. });
                assert!(died || Some(*reason) == *expected, "job {}: {reason:?}", job.seq);
            }
            (Some(reason), None) => panic!("job {}: {reason:?}", job.seq),
        }
    }

    fn take(&mut self) -> Option<(Claimer, Claimed)> {
        let count = self.hands.len() as u64;
        (count > 0).then(|| self.hands.remove(self.choices.below(count) as usize))
    }

    fn publish(&mut self) {
        let Some((by, job)) = self.take() else { return };
        let parts = self.choices.below(3);
        let lane = usize::from(by.lane);
        let found = survey(self.spool, lane, Commit::load(self.spool).lanes[lane]).expect("a ring");
        let room = LANE - (ends::tail(self.spool.producer(lane)) - self.freed(lane));
        if room < 400 {
            // The worker would wait.
            self.hands.push((by, job));
            return;
        }
        let mut writer = LaneWriter::open(self.spool, lane, found.end.records).expect("a ring");
        publish(self.jobs, &mut writer, &job, parts);
    }

    fn freed(&self, lane: usize) -> u64 {
        ends::freed(self.spool.consumer(lane))
    }

    fn put_back(&mut self) {
        let Some((_, job)) = self.take() else { return };
        let why = [PutBack::Failed, PutBack::Interrupted, PutBack::NotBegun];
        self.jobs.put_back(&job, self.choices.one_of(&why), None);
    }

    /// The buffer writes what there is of some lanes, and the source takes slots back.
    fn commit(&mut self) {
        let mut books = Commit::load(self.spool);
        books.generation += 1;
        let chosen = self.choices.byte();
        for lane in (0..usize::from(LANES)).filter(|lane| chosen & (1 << lane) != 0) {
            let reader = LaneReader::open(self.spool, lane).expect("a ring");
            let tail = ends::tail(self.spool.producer(lane));
            reader.gather(&mut books.lanes[lane], tail, usize::MAX, &mut Gathered::default());
            ends::free(self.spool.consumer(lane), books.lanes[lane].offset);
        }
        books.store(self.spool);
        if chosen & 4 != 0 {
            let committed = (0..self.jobs.len()).filter(|index| self.jobs.is_committed(*index));
            committed.collect::<Vec<_>>().into_iter().for_each(|index| self.jobs.free(index));
        }
    }

    fn replace_worker(&mut self) {
        let lane = self.choices.below(LANES.into()) as u16;
        let blamed = (self.choices.below(2) == 0).then_some(521);
        self.hands.retain(|(by, _)| by.lane != lane);
        self.incarnations[usize::from(lane)] += 1;
        settle(self.spool, lane, blamed, |_| {});
    }

    /// Everybody is dead. Says whether anything was changed.
    fn damage(&mut self) -> bool {
        self.hands.clear();
        let count = self.choices.below(4);
        let layout = &self.spool.layout;
        let slots = SLOTS as usize * size_of::<Slot>();
        let payloads = SLOTS as usize * layout.payload_stride;
        for _ in 0..count {
            let (start, len) = match self.choices.below(5) {
                0 | 1 => (layout.slots, slots),
                2 => (layout.payloads, payloads),
                3 => (layout.producers, 4096 + 24),
                _ => {
                    let lane = self.choices.below(LANES.into()) as usize;
                    self.stage.damage(lane, self.choices);
                    continue;
                }
            };
            let place = start + self.choices.below(len as u64) as usize;
            let mapping = &self.spool.mapping;
            if self.choices.below(2) == 0 {
                let [byte] = mapping.read::<1>(place);
                mapping.write(place, &[byte ^ (1 << self.choices.below(8))]);
            } else {
                let word = self.choices.word().to_le_bytes();
                mapping.write(place.min(start + len - 8) / 8 * 8, &word);
            }
        }
        count > 0
    }

    fn recover(&mut self, damaged: bool) {
        let pending: Vec<usize> =
            (0..self.jobs.len()).filter(|index| self.jobs.is_pending(*index)).collect();
        repair(self.spool, |_| {}).expect("repaired");
        let after: Vec<[u64; 8]> =
            (0..self.jobs.len()).map(|index| words(self.jobs.slot(index))).collect();
        for index in 0..self.jobs.len() {
            match self.jobs.phase(index) {
                Phase::Free => {}
                Phase::Ready => assert!(!self.jobs.is_done(index)),
                Phase::Claimed(by) => {
                    assert!(self.spool.has_lane(by.lane) && self.jobs.is_done(index));
                }
                Phase::Unknown => panic!("slot {index} is nothing"),
            }
            assert!(damaged || pending.contains(&index) == self.jobs.is_pending(index));
        }
        assert_books_are_behind_the_lanes(self.spool);
        repair(self.spool, |_| {}).expect("repaired");
        for (index, before) in after.iter().enumerate() {
            // What was said to be in no state may have its state changed once more, to the same.
            assert_eq!(words(self.jobs.slot(index)), *before, "slot {index}, repaired twice");
        }
        give_up_damaged(self.spool);
        let (_, position) = ListPosition::load(self.spool);
        assert!(damaged || position.seq <= self.written.len() as u64);
    }

    /// Everything that is left is done: each job once.
    fn finish(&mut self, damaged: bool) {
        let by = Claimer { lane: 0, incarnation: 99 };
        let mut books = Commit::load(self.spool);
        let found = survey(self.spool, 0, books.lanes[0]).expect("a ring");
        let mut writer = LaneWriter::open(self.spool, 0, found.records).expect("a ring");
        let reader = LaneReader::open(self.spool, 0).expect("a ring");
        let (mut seen, mut job) = (Vec::new(), Claimed::default());
        while self.jobs.claim(by, &mut job) == Claim::Job {
            self.check(&job, damaged);
            assert!(damaged || !seen.contains(&job.seq), "job {} twice", job.seq);
            seen.push(job.seq);
            self.jobs.begin(&job, true);
            // The buffer has written all before.
            let tail = ends::tail(self.spool.producer(0));
            reader.gather(&mut books.lanes[0], tail, usize::MAX, &mut Gathered::default());
            ends::free(self.spool.consumer(0), books.lanes[0].offset);
            publish(self.jobs, &mut writer, &job, 2);
            let mut last = Gathered { jobs: Some(Vec::new()), ..Gathered::default() };
            let tail = ends::tail(self.spool.producer(0));
            reader.gather(&mut books.lanes[0], tail, usize::MAX, &mut last);
            assert_eq!(last.jobs.map(|jobs| jobs.last().map(|end| end.seq)), Some(Some(job.seq)));
            assert!(self.jobs.is_done(job.slot));
            assert!(seen.len() <= SLOTS as usize, "a job comes again and again");
        }
        assert_eq!(self.jobs.pending(), 0, "nobody will ever do what is left");
    }
}

fn publish(jobs: Jobs<'_>, writer: &mut LaneWriter<'_>, job: &Claimed, parts: u64) {
    let record = |part| (Kind::Result, format!("{}.{part}\n", job.seq).into_bytes());
    let records: Vec<(Kind, Vec<u8>)> = (0..parts).map(record).collect();
    let result_end = jobs.result_end(job);
    let kind = if job.reason.is_some() { Kind::JobFailed } else { Kind::JobDone };
    let finish = Finish { kind, seq: job.seq, round: job.round, result_end };
    writer.publish(&mut staged(&records), Some(finish)).expect("it fits into a lane");
}
