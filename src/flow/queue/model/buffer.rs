//! The buffer: `flow/buffer.rs`, with `Commit` and the file sink's `open`.

use super::world::{
    Books, Buffer, BufferAt, Flush, Frame, Intent, LANES, Main, Marks, Output, Size, Step, World,
};
use super::wrong::Wrong;

/// The steps of a batch, in their order, as `commit.rs` tells them.
fn steps(wrong: Option<Wrong>) -> &'static [Flush] {
    use Flush::{Commit, Free, Intent, Write};
    match wrong {
        Some(Wrong::NoIntent) => &[Write, Commit, Free],
        Some(Wrong::CommitBeforeWrite) => &[Intent, Commit, Write, Free],
        Some(Wrong::FreeBeforeCommit) => &[Intent, Write, Free, Commit],
        _ => &[Intent, Write, Commit, Free],
    }
}

/// Where a step stands in the batch.
fn place(step: Flush, wrong: Option<Wrong>) -> u8 {
    steps(wrong).iter().position(|it| *it == step).unwrap_or(0) as u8
}

impl World {
    /// The buffer's next step; `None`: it waits.
    pub(super) fn step_buffer(&mut self, size: &Size) -> Option<Step> {
        match self.buffer.at {
            BufferAt::Dead | BufferAt::Stopped => return None,
            BufferAt::Recover => return Some(self.recover(size)),
            BufferAt::Idle => return self.collect_or_stop(size),
            BufferAt::Look(lane) => self.read_tail(lane),
            BufferAt::Gather => return Some(self.begin_batch()),
            BufferAt::Batch(step) => self.go_on_with_batch(step, size),
            BufferAt::FreeLane(step, lane) => self.free_lane(step, lane, size),
        }
        Some(Ok(()))
    }

    /// `Buffer::recover`, up to the first byte that it writes.
    fn recover(&mut self, size: &Size) -> Step {
        let books = self.commit;
        let unchecked = size.wrong == Some(Wrong::GenerationNotChecked);
        let pending = self.intent.filter(|intent| intent.current || unchecked);
        let Some(intent) = pending else {
            let at = BufferAt::FreeLane(place(Flush::Free, size.wrong), 0);
            self.buffer = Buffer { at, books, ends: books.lanes, ..Buffer::default() };
            return Ok(());
        };
        let mut until = intent.ends.map(|mark| mark.offset);
        if size.wrong == Some(Wrong::RecoverWithNewTails) {
            until = self.lanes.map(|lane| lane.tail);
        }
        let (ends, batch) = self.gather(books.lanes, until)?;
        let done = match size.wrong {
            Some(Wrong::NoCompare) => 0,
            _ => self.compare(intent.base, &batch),
        };
        let at = BufferAt::Batch(place(Flush::Write, size.wrong));
        self.buffer = Buffer { at, books, ends, batch, done, ..Buffer::default() };
        Ok(())
    }

    /// `FileSink::open`: how much of the batch is there already. What is there and is not of the
    /// batch is put aside.
    fn compare(&mut self, base: u8, batch: &Output) -> u8 {
        let behind = self.output.written().get(usize::from(base)..).unwrap_or(&[]);
        let same = behind.iter().zip(batch.written()).take_while(|(a, b)| a == b).count() as u8;
        if base + same < self.output.len && same < batch.len {
            self.output.cut(base + same);
        }
        same
    }

    /// `Buffer::gather`.
    fn gather(&self, mut marks: Marks, until: [u8; LANES]) -> Result<(Marks, Output), String> {
        let mut batch = Output::default();
        for lane in 0..LANES {
            let mark = &mut marks[lane];
            if until[lane] < mark.offset {
                return Err(format!("the spool is damaged: lane {lane} ends before its head"));
            }
            while mark.offset < until[lane] {
                let is_record = Frame::is_record(mark.offset);
                let frame = self.read_frame(lane, mark)?;
                if is_record {
                    let record = 8 * frame.job + 4 * u8::from(frame.failed);
                    batch.push(record);
                    batch.push(record + 1);
                }
            }
        }
        Ok((marks, batch))
    }

    /// `Buffer::collect`.
    fn collect_or_stop(&mut self, size: &Size) -> Option<Step> {
        let heads = self.buffer.books.lanes;
        let waits = (0..LANES).any(|lane| self.lanes[lane].tail > heads[lane].offset);
        let told = self.main != Main::Running
            && (self.workers_are_gone() || size.wrong == Some(Wrong::BufferStopsEarly));
        self.buffer.at = if waits {
            BufferAt::Look(0)
        } else if told {
            BufferAt::Stopped
        } else {
            return None;
        };
        Some(Ok(()))
    }

    /// `Buffer::look`.
    fn read_tail(&mut self, lane: u8) {
        self.buffer.tails[usize::from(lane)] = self.lanes[usize::from(lane)].tail;
        let next = lane + 1;
        self.buffer.at =
            if usize::from(next) < LANES { BufferAt::Look(next) } else { BufferAt::Gather };
    }

    /// `Buffer::flush`, up to the intent.
    fn begin_batch(&mut self) -> Step {
        let books = self.buffer.books;
        let (ends, batch) = self.gather(books.lanes, self.buffer.tails)?;
        let at = BufferAt::Batch(0);
        self.buffer = Buffer { at, books, ends, batch, ..Buffer::default() };
        Ok(())
    }

    fn go_on_with_batch(&mut self, step: u8, size: &Size) {
        let Some(what) = steps(size.wrong).get(usize::from(step)) else {
            let books = self.buffer.books;
            self.buffer = Buffer { at: BufferAt::Idle, books, ..Buffer::default() };
            return;
        };
        match what {
            // `Commit::store_intent`.
            Flush::Intent => {
                let (ends, base) = (self.buffer.ends, self.output.len);
                self.intent = Some(Intent { ends, base, current: true });
            }
            // `Buffer::write_all`.
            Flush::Write => self.write(self.buffer.batch.len),
            // `Commit::store`.
            Flush::Commit => {
                let unwritten = self.buffer.batch.len - self.buffer.done;
                let len = match size.wrong {
                    Some(Wrong::CommitBeforeWrite) => self.output.len + unwritten,
                    _ => self.output.len,
                };
                self.commit = Books { lanes: self.buffer.ends, len };
                self.buffer.books = self.commit;
                self.intent = self
                    .intent
                    .map(|intent| Intent { current: false, ..intent })
                    // Nobody believes it any more.
                    .filter(|_| size.wrong == Some(Wrong::GenerationNotChecked));
            }
            Flush::Free => {
                self.buffer.at = BufferAt::FreeLane(step, 0);
                return;
            }
        }
        self.buffer.at = BufferAt::Batch(step + 1);
    }

    /// Appends what is left of the batch, up to `until`.
    fn write(&mut self, until: u8) {
        while self.buffer.done < until {
            let half = self.buffer.batch.halves[usize::from(self.buffer.done)];
            self.output.push(half);
            self.buffer.done += 1;
        }
    }

    /// `Buffer::free`, one lane.
    fn free_lane(&mut self, step: u8, lane: u8, size: &Size) {
        let index = usize::from(lane);
        let recovering = self.buffer.batch.len == 0;
        self.lanes[index].freed = match size.wrong {
            Some(Wrong::FreeUpToTails) if recovering => self.lanes[index].tail,
            _ => self.buffer.ends[index].offset,
        };
        let next = lane + 1;
        self.buffer.at = if usize::from(next) < LANES {
            BufferAt::FreeLane(step, next)
        } else {
            BufferAt::Batch(step + 1)
        };
    }

    /// How many ways there are to die in the middle of the buffer's next step.
    pub(super) fn tears(&self, size: &Size) -> u8 {
        let BufferAt::Batch(step) = self.buffer.at else { return 0 };
        match steps(size.wrong).get(usize::from(step)) {
            // All but the last half of a record, at the most.
            Some(Flush::Write) => (self.buffer.batch.len - self.buffer.done).saturating_sub(1),
            Some(Flush::Intent | Flush::Commit) => 1,
            Some(Flush::Free) | None => 0,
        }
    }

    /// Dies in the middle of its next step, in the `tear`th way.
    pub(super) fn tear(&mut self, tear: u8, size: &Size) {
        let BufferAt::Batch(step) = self.buffer.at else { return };
        match steps(size.wrong).get(usize::from(step)) {
            Some(Flush::Write) => self.write(self.buffer.done + 1 + tear),
            // The checksum says so, and then it was never stored.
            Some(Flush::Intent) => self.intent = None,
            Some(Flush::Commit) if size.wrong == Some(Wrong::CommitInPlace) => {
                self.commit = Books::default();
            }
            // The record before it stands in the other place.
            Some(Flush::Commit | Flush::Free) | None => {}
        }
        self.buffer = Buffer::default();
    }
}
