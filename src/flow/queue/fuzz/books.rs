//! Commits, the intent and the place in the list with hostile bytes in them: a start and a buffer go on
//! with what is whole, and the books are never ahead of the lanes.

use super::{Stage, assert_books_are_behind_the_lanes, staged};
use crate::config;
use crate::flow::buffer::{self, Policy};
use crate::flow::queue::commit::{Commit, Totals};
use crate::flow::queue::ends;
use crate::flow::queue::frame::Kind;
use crate::flow::queue::lane::{Finish, LaneWriter};
use crate::flow::queue::layout::PAGE;
use crate::flow::queue::position::ListPosition;
use crate::flow::queue::processes;
use crate::flow::queue::reader::{Gathered, LaneReader, Mark};
use crate::flow::queue::repair::repair;
use crate::flow::queue::spool::Spool;
use crate::flow::sink::file::{FileSink, Shape};
use crate::flow::sink::{Position, Sinks};
use crate::fuzzing::Choices;
use crate::stop::Stop;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LANES: usize = 2;

thread_local! {
    static STAGE: Stage = Stage::new(LANES as u32, 1);
}

/// Batches are written and committed; a last one is broken off; bytes of the books are changed, or whole
/// books forged; a start and its buffer go on.
pub(crate) fn commits(data: &[u8]) {
    STAGE.with(|stage| Story::begin(stage, &mut Choices::new(data)).tell());
}

struct Story<'a, 'c> {
    stage: &'a Stage,
    spool: &'a Spool,
    choices: &'a mut Choices<'c>,
    output: PathBuf,
    file: File,
    /// What the output has to have of each lane: its records, in order.
    published: [Vec<String>; LANES],
}

impl<'a, 'c> Story<'a, 'c> {
    fn begin(stage: &'a Stage, choices: &'a mut Choices<'c>) -> Story<'a, 'c> {
        let spool = stage.reset();
        let output = stage.directory.join("out");
        // What a rotation, or the quarantine, has left.
        for entry in std::fs::read_dir(&stage.directory).expect("a directory").flatten() {
            if entry.file_name() != "spool" {
                std::fs::remove_file(entry.path()).expect("a file of the last time");
            }
        }
        let file = File::create(&output).expect("an output");
        Commit { generation: 1, ..Commit::initial(LANES) }.store(spool);
        ListPosition::default().store(spool, 1);
        Story { stage, spool, choices, output, file, published: Default::default() }
    }

    fn tell(&mut self) {
        for _ in 0..self.choices.below(4) {
            self.publish();
            self.write_batch(true);
        }
        self.publish();
        if self.choices.below(2) == 0 {
            self.write_batch(false);
        }
        let damaged = match self.choices.below(4) {
            0 => Damage::None,
            1 => self.flip(),
            2 => self.overwrite(),
            _ => self.forge(),
        };
        repair(self.spool, |_| {}).expect("repaired");
        assert_books_are_behind_the_lanes(self.spool);
        let drained = self.drain();
        self.check(damaged, drained);
        let generation = Commit::load(self.spool).generation;
        let intent = Commit::load_any_intent(self.spool);
        let is_ahead = intent.is_some_and(|intent| intent.generation > generation);
        assert!(!drained || !is_ahead || damaged == Damage::Many, "a batch is left");
        // One that is forged for a batch that is still to come is believed then, whatever it says.
        if drained && !is_ahead {
            let before = self.lines();
            repair(self.spool, |_| {}).expect("repaired");
            assert!(self.drain(), "what was drained once can be drained again");
            assert_eq!(self.lines(), before, "written twice");
        }
    }

    fn publish(&mut self) {
        for lane in 0..LANES {
            let parts = self.choices.below(4);
            let records: Vec<(Kind, Vec<u8>)> = (0..parts)
                .map(|_| {
                    let number = self.published[lane].len();
                    let filler = "x".repeat(self.choices.below(16) as usize);
                    let record = format!("lane {lane} record {number} {filler}\n");
                    self.published[lane].push(record.clone());
                    (Kind::Result, record.into_bytes())
                })
                .collect();
            let count = (self.published[lane].len() as u64) - parts;
            let mut writer = LaneWriter::open(self.spool, lane, count).expect("a ring");
            let result_end = AtomicU64::new(u64::MAX);
            let finish = Finish { kind: Kind::JobDone, seq: 1, round: 1, result_end: &result_end };
            writer.publish(&mut staged(&records), Some(finish)).expect("it fits into a lane");
        }
    }

    /// As a buffer does that is killed in its last batch.
    fn write_batch(&mut self, whole: bool) {
        let books = Commit::load(self.spool);
        let (mut next, mut gathered) = (books.clone(), Gathered::default());
        for lane in 0..LANES {
            let tail = ends::tail(self.spool.producer(lane));
            let reader = LaneReader::open(self.spool, lane).expect("a ring");
            reader.gather(&mut next.lanes[lane], tail, usize::MAX, &mut gathered);
        }
        next.generation += 1;
        next.totals.results += gathered.result_records;
        next.totals.jobs_done += gathered.jobs_done;
        let mut at = self.position();
        next.sinks = [Some(at), None];
        next.store_intent(self.spool);
        let written = match whole {
            true => gathered.results.bytes.len(),
            false => self.choices.below(1 + gathered.results.bytes.len() as u64) as usize,
        };
        self.file.write_all(&gathered.results.bytes[..written]).expect("the output");
        if whole {
            at.len += written as u64;
            at.synced = at.len;
            next.sinks = [Some(at), None];
            next.store(self.spool);
            for (lane, mark) in next.lanes.iter().enumerate() {
                ends::free(self.spool.consumer(lane), mark.offset);
            }
        }
    }

    fn position(&self) -> Position {
        let metadata = self.file.metadata().expect("the output");
        let (device, inode, len) = (metadata.dev(), metadata.ino(), metadata.len());
        Position { device, inode, len, synced: len }
    }

    /// One of the records that the buffer, or the source, stores.
    fn record(&mut self) -> usize {
        let layout = &self.spool.layout;
        let [one, two] = layout.commit;
        let [first, second] = layout.position;
        self.choices.one_of(&[one, two, layout.intent, first, second])
    }

    fn flip(&mut self) -> Damage {
        let place = self.record() + self.choices.below(PAGE as u64) as usize;
        let [byte] = self.spool.mapping.read::<1>(place);
        self.spool.mapping.write(place, &[byte ^ (1 << self.choices.below(8))]);
        Damage::One
    }

    fn overwrite(&mut self) -> Damage {
        for _ in 0..1 + self.choices.below(3) {
            let place = self.record() + self.choices.below(256) as usize;
            let len = self.choices.byte().into();
            self.spool.mapping.write(place, self.choices.bytes(len));
        }
        Damage::Many
    }

    /// Records with the right checksum that nobody has written like this.
    fn forge(&mut self) -> Damage {
        let spool = self.spool;
        let moment = self.choices.short();
        let generation = 1 + self.choices.below(8);
        let mut forged = Commit { generation, ..Commit::load(spool) };
        let mut number = || self.choices.word() >> self.choices.below(60).max(8);
        forged.totals = Totals { results: number(), jobs_done: number(), ..forged.totals };
        for lane in &mut forged.lanes {
            *lane = Mark { offset: number(), records: number() };
        }
        for lane in &mut forged.synced.lanes {
            *lane = Mark { offset: number(), records: number() };
        }
        let forged_len = number();
        let real = Position { len: forged_len, synced: forged_len, ..self.position() };
        forged.sinks[0] = match self.choices.below(3) {
            0 => None,
            1 => Some(real),
            _ => Some(Position { inode: moment, ..real }),
        };
        forged.boots = self.choices.below(3);
        spool.run().boots.store(self.choices.below(3), Ordering::Relaxed);
        match self.choices.below(3) {
            0 => forged.store(spool),
            1 => forged.store_intent(spool),
            _ => {
                forged.rotation = moment;
                forged.store_intent(spool);
            }
        }
        Damage::Many
    }

    /// Says whether the buffer has come to its end; it may refuse, and says so.
    fn drain(&self) -> bool {
        processes::forget_unsynced(self.spool);
        let stop = Stop::new(|| {});
        stop.request();
        let flush = config::Buffer {
            flush_records: 1000,
            flush_bytes: 1 << 20,
            flush_after: Duration::from_secs(60),
        };
        let policy = Policy { flush, sync: config::SyncPolicy::Never };
        let Ok(mut sink) = FileSink::open(&self.output, Shape::ended_by(b'\n')) else {
            return false;
        };
        let sinks = Sinks { output: &mut sink, dead_letters: None };
        let drained = buffer::run(self.spool, sinks, policy, &stop, || {});
        assert_books_are_behind_the_lanes(self.spool);
        drained.is_ok()
    }

    /// What is in the output was published, whole; and of books of which one record at the most was
    /// changed, each record once, in order.
    fn check(&self, damage: Damage, drained: bool) {
        let text = String::from_utf8(self.everything()).expect("only what was published");
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for line in text.split_inclusive('\n') {
            *seen.entry(line).or_default() += 1;
        }
        for line in seen.keys() {
            // A batch that nobody knows of any more may have been broken off anywhere.
            let half = (damage == Damage::Many).then(|| line.trim_end_matches('\n'));
            let is_record = |record: &String| {
                record == line || half.is_some_and(|half| record.starts_with(half))
            };
            assert!(self.published.iter().flatten().any(is_record), "{line:?}");
        }
        if damage == Damage::None {
            assert!(drained);
        }
        if damage != Damage::Many && drained {
            for records in &self.published {
                let count = |record: &String| seen.get(record.as_str()).copied().unwrap_or(0);
                assert!(records.iter().all(|record| count(record) == 1), "{damage:?}\n{text}");
            }
        }
    }

    /// All lines, in whichever file they are, in no order.
    fn lines(&self) -> Vec<Vec<u8>> {
        let all = self.everything();
        let mut lines: Vec<Vec<u8>> =
            all.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    }

    /// The output, with what was set aside of it.
    fn everything(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.stage.directory).expect("a directory").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("out") && !name.ends_with(".quarantine") {
                all.extend(std::fs::read(entry.path()).expect("an output"));
            }
        }
        all
    }
}

/// How much of the books was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    None,
    One,
    Many,
}
