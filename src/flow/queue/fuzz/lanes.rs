//! A lane that a broken worker has written to: what is read of it is what somebody has published,
//! whole, in order, each once.

use super::{LANE, Stage, staged};
use crate::flow::queue::commit::Commit;
use crate::flow::queue::ends;
use crate::flow::queue::frame::Kind;
use crate::flow::queue::lane::{Finish, LaneWriter};
use crate::flow::queue::reader::{Gathered, LaneReader, Mark, Torn, survey};
use crate::flow::queue::spool::Spool;
use crate::fuzzing::Choices;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static STAGE: Stage = Stage::new(1, 1);
}

/// Units are published, bytes changed, and all is read, again and again.
pub(crate) fn lanes(data: &[u8]) {
    STAGE.with(|stage| Story::begin(stage, &mut Choices::new(data)).tell());
}

/// What was once published as one.
struct Unit {
    begin: u64,
    end: u64,
    kind: Kind,
    records: Vec<(Kind, Vec<u8>)>,
    /// As it stood in the ring.
    bytes: Vec<u8>,
}

impl Unit {
    /// The records for one of the sinks, one behind the other.
    fn stream(&self, dead: bool) -> Vec<u8> {
        let records = self.records.iter().filter(|(kind, _)| (*kind == Kind::DeadLetter) == dead);
        records.flat_map(|(_, record)| record.iter().copied()).collect()
    }
}

struct Story<'a, 'c> {
    stage: &'a Stage,
    spool: &'a Spool,
    choices: &'a mut Choices<'c>,
    reader: LaneReader,
    writer: LaneWriter<'a>,
    /// Where the writer stands.
    tail: u64,
    head: Mark,
    units: Vec<Unit>,
    /// The writer has always gone on where it was, as one that works.
    steady: bool,
    /// A tail that was published since the head was moved.
    earlier: Option<u64>,
}

impl<'a, 'c> Story<'a, 'c> {
    fn begin(stage: &'a Stage, choices: &'a mut Choices<'c>) -> Story<'a, 'c> {
        let spool = stage.reset();
        // In the middle of some lap, or in the first.
        let tail = choices.short() / 8 * 8;
        let head = Mark { offset: tail, records: tail / 100 };
        spool.producer(0).tail.store(tail, Ordering::Release);
        let lanes = vec![head];
        Commit { generation: 1, lanes, ..Commit::initial(1) }.store(spool);
        let reader = LaneReader::open(spool, 0).expect("a ring");
        let writer = LaneWriter::open(spool, 0, head.records).expect("a ring");
        let units = Vec::new();
        let (steady, earlier) = (true, None);
        Story { stage, spool, choices, reader, writer, tail, head, units, steady, earlier }
    }

    fn tell(&mut self) {
        let mut left = 40;
        while !self.choices.is_over() && left > 0 {
            left -= 1;
            match self.choices.below(8) {
                0..=2 => self.publish(true),
                3 => self.publish(false),
                4 | 5 => self.stage.damage(0, self.choices),
                6 => self.commit(),
                _ => self.move_writer(),
            }
        }
        let tail = match self.choices.below(4) {
            0 => self.choices.word(),
            1 => self.tail.wrapping_add(self.choices.short()).wrapping_sub(1 << 15),
            _ => self.published(),
        };
        self.spool.producer(0).tail.store(tail, Ordering::Release);
        self.read(tail);
    }

    fn published(&self) -> u64 {
        ends::tail(self.spool.producer(0))
    }

    /// As a job, or as records that belong to none.
    fn publish(&mut self, as_job: bool) {
        let number = self.units.len();
        let parts = self.choices.below(4);
        let records: Vec<(Kind, Vec<u8>)> = (0..parts)
            .map(|part| {
                let choice = self.choices.byte();
                let mut record = format!("{number}.{part} ").into_bytes();
                record.resize(record.len() + usize::from(choice), choice);
                let dead = as_job && choice.is_multiple_of(4);
                (if dead { Kind::DeadLetter } else { Kind::Result }, record)
            })
            .collect();
        let kind = if self.choices.below(4) == 0 { Kind::JobFailed } else { Kind::JobDone };
        // The reader may be behind by more than a ring then, as with a worker that doesn't wait.
        ends::free(self.spool.consumer(0), self.tail);
        let result_end = AtomicU64::new(u64::MAX);
        let job = Finish { kind, seq: number as u64, round: 1, result_end: &result_end };
        if as_job {
            let mut staged = staged(&records);
            self.writer.publish(&mut staged, Some(job)).expect("it fits into a lane");
            assert_eq!(result_end.load(Ordering::Acquire), self.published());
            self.note(kind, records);
        } else {
            for record in records {
                self.writer.publish(&mut staged([&record]), None).expect("it fits into a lane");
                self.note(Kind::Alone, vec![record]);
            }
        }
        self.earlier.get_or_insert(self.tail);
    }

    fn note(&mut self, kind: Kind, records: Vec<(Kind, Vec<u8>)>) {
        let (begin, end) = (self.tail, self.published());
        assert!(end > begin && end - begin <= LANE);
        self.tail = end;
        let bytes = self.stage.bytes(0, begin, end);
        self.units.push(Unit { begin, end, kind, records, bytes });
    }

    /// A worker that goes on at some place, with some number of records.
    fn move_writer(&mut self) {
        let moved = self.choices.short() / 8 * 8;
        self.tail = match self.choices.below(3) {
            0 => self.tail.saturating_sub(moved % LANE),
            1 => self.tail + moved % LANE,
            _ => moved << self.choices.below(40),
        };
        self.spool.producer(0).tail.store(self.tail, Ordering::Release);
        // No lane ever has more: what frames say is believed only as far as its offset goes.
        let records = self.choices.word() >> 8;
        self.writer = LaneWriter::open(self.spool, 0, records).expect("a ring");
        self.steady = false;
    }

    /// The buffer writes what there is.
    fn commit(&mut self) {
        self.head = self.read(self.published());
        self.earlier = None;
    }

    /// Reads from the head to this tail, and says where that has led.
    fn read(&self, tail: u64) -> Mark {
        let (mut end, mut all) = (self.head, wanting_jobs());
        self.reader.gather(&mut end, tail, usize::MAX, &mut all);
        if !self.reader.is_sane(self.head, tail) {
            assert_eq!((end, all.bytes(), all.torn.len()), (self.head, 0, 0));
            return end;
        }
        assert_eq!(end.offset, tail, "all that is published is read or skipped");
        let counted = self.head.records.wrapping_add(all.result_records);
        let counted = counted.wrapping_add(all.dead_letter_records).wrapping_add_signed(all.lost);
        assert_eq!(end.records, counted, "what is missing is counted");
        let found = self.explain(tail, &all);
        self.assert_complete(tail, &found);
        self.assert_the_same_in_two(tail, end, &all);
        // A start, which only looks, sees what the buffer will see.
        let seen = survey(self.spool, 0, self.head).expect("a ring");
        if self.published() == tail {
            assert_eq!(seen.end, end);
            assert_eq!(flat(&seen.torn), flat(&all.torn));
            assert_eq!(seen.lost, all.lost);
        }
        end
    }

    /// Which units were gathered: each byte up to the tail is one of a unit, once, or torn.
    fn explain(&self, tail: u64, all: &Gathered) -> Vec<usize> {
        let (mut found, mut at) = (Vec::new(), self.head.offset);
        let (mut results, mut dead) = (&all.results.bytes[..], &all.dead_letters.bytes[..]);
        let mut torn = all.torn.iter().peekable();
        let jobs = all.jobs.as_deref().unwrap_or_default();
        let mut ends = jobs.iter();
        while at < tail {
            if let Some(range) = torn.next_if(|torn| torn.from == at) {
                assert!(range.from < range.to && range.to <= tail, "{range:?}");
                at = range.to;
                continue;
            }
            let unit = self.units.iter().position(|unit| {
                let intact = unit.begin == at && self.is_intact(unit);
                intact
                    && unit.end <= tail
                    && results.starts_with(&unit.stream(false))
                    && dead.starts_with(&unit.stream(true))
            });
            let unit = unit.unwrap_or_else(|| panic!("nobody has published a unit at {at}"));
            found.push(unit);
            let unit = &self.units[unit];
            results = &results[unit.stream(false).len()..];
            dead = &dead[unit.stream(true).len()..];
            if unit.kind != Kind::Alone {
                assert_eq!(ends.next().map(|job| job.end), Some(unit.end));
            }
            at = unit.end;
        }
        assert!(results.is_empty() && dead.is_empty(), "records that stand nowhere");
        assert!(torn.next().is_none() && ends.next().is_none());
        let count =
            |kind: Kind| found.iter().filter(|unit| self.units[**unit].kind == kind).count();
        assert_eq!(all.jobs_done, count(Kind::JobDone) as u64);
        assert_eq!(all.jobs_failed, count(Kind::JobFailed) as u64);
        found
    }

    /// Does the ring still have what was published? Only padding may differ, and of that we know
    /// nothing; so no more is asked than that the reader takes it.
    fn is_intact(&self, unit: &Unit) -> bool {
        let (mut mark, mut one) = (Mark { offset: unit.begin, records: 0 }, wanting_jobs());
        self.reader.gather(&mut mark, unit.end, usize::MAX, &mut one);
        let ended = (one.jobs_done, one.jobs_failed);
        let kind = match unit.kind {
            Kind::JobDone => ended == (1, 0),
            Kind::JobFailed => ended == (0, 1),
            Kind::Result | Kind::DeadLetter | Kind::Alone => ended == (0, 0),
        };
        kind && one.torn.is_empty()
            && one.results.bytes == unit.stream(false)
            && one.dead_letters.bytes == unit.stream(true)
    }

    /// Of a writer that has always gone on where it was, each unit that is not changed was found.
    fn assert_complete(&self, tail: u64, found: &[usize]) {
        for (number, unit) in self.units.iter().enumerate().filter(|_| self.steady) {
            let there = unit.begin >= self.head.offset && unit.end <= tail;
            if there && self.stage.bytes(0, unit.begin, unit.end) == unit.bytes {
                assert!(found.contains(&number), "the unit at {} was skipped", unit.begin);
            }
        }
    }

    /// Who has read a part before, and the rest later, has read the same.
    fn assert_the_same_in_two(&self, tail: u64, end: Mark, all: &Gathered) {
        let Some(earlier) = self.earlier.filter(|at| self.steady && *at < tail) else { return };
        let (mut mark, mut parts) = (self.head, wanting_jobs());
        for until in [earlier, tail] {
            self.reader.gather(&mut mark, until, usize::MAX, &mut parts);
        }
        assert_eq!(mark, end);
        assert_eq!(parts.results.bytes, all.results.bytes);
        assert_eq!(parts.dead_letters.bytes, all.dead_letters.bytes);
        assert_eq!((flat(&parts.torn), parts.lost), (flat(&all.torn), all.lost));
    }
}

fn wanting_jobs() -> Gathered {
    Gathered { jobs: Some(Vec::new()), ..Gathered::default() }
}

/// The ranges, those that touch each other as one.
fn flat(torn: &[Torn]) -> Vec<(u64, u64)> {
    let mut flat: Vec<(u64, u64)> = Vec::new();
    for range in torn {
        match flat.last_mut() {
            Some(last) if last.1 == range.from => last.1 = range.to,
            _ => flat.push((range.from, range.to)),
        }
    }
    flat
}
