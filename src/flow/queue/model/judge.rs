//! What must be true in every state, by whatever steps and deaths it was reached.

use super::world::{CELLS, DEATHS_MAX, FRAMES, Frame, LANES, Phase, SLOTS, Size, Step, World};

fn must(kept: bool, promise: impl FnOnce() -> String) -> Step {
    if kept { Ok(()) } else { Err(promise()) }
}

impl World {
    /// Judges a step.
    pub(super) fn judge(&self, before: &World) -> Step {
        let (old, new) = (before.output.written(), self.output.written());
        must(new.starts_with(old), || "the output has shrunk, or changed".into())?;
        self.judge_lanes()?;
        self.judge_told()?;
        self.judge_output()?;
        self.judge_slots()
    }

    /// `freed ≤ head ≤ tail ≤ freed + length`.
    fn judge_lanes(&self) -> Step {
        for (lane, ends) in self.lanes.iter().enumerate() {
            let head = self.commit.lanes[lane].offset;
            must(ends.freed <= head && head <= ends.tail, || {
                format!("lane {lane}: freed, head, tail are {}, {head}, {}", ends.freed, ends.tail)
            })?;
            must(usize::from(ends.tail - ends.freed) <= CELLS, || {
                format!("lane {lane}: more is published than it holds")
            })?;
        }
        Ok(())
    }

    fn told(&self, lane: usize) -> impl Iterator<Item = (u8, bool)> + '_ {
        self.told[lane].iter().map_while(|told| *told)
    }

    /// Each job is published once, as failed only after its deaths; what is published and not
    /// committed stands in its lane, whole.
    fn judge_told(&self) -> Step {
        let mut seen = 0u8;
        for lane in 0..LANES {
            let head = self.commit.lanes[lane].offset;
            let mut offset = 0;
            for (job, failed) in self.told(lane) {
                must(seen & 1 << job == 0, || format!("job {job} is published twice"))?;
                seen |= 1 << job;
                let enough = self.suffered[usize::from(job)] >= DEATHS_MAX;
                must(!failed || enough, || format!("job {job} has failed, and nobody died of it"))?;
                for at in offset..offset + FRAMES {
                    let frame = self.lanes[lane].cells[usize::from(at) % CELLS];
                    let whole = frame.is_some_and(|it: Frame| {
                        (it.offset, it.job, it.failed) == (at, job, failed)
                    });
                    must(at < head || whole, || {
                        format!("job {job} is published, and not in its lane at {at}")
                    })?;
                }
                offset += FRAMES;
            }
            must(offset == self.lanes[lane].tail, || format!("lane {lane}: a tail of no job"))?;
        }
        Ok(())
    }

    /// Whole records, each once, those of a lane in its order; what is committed is there.
    fn judge_output(&self) -> Step {
        let halves = self.output.written();
        let mut next = [0; LANES];
        for record in halves.chunks(2) {
            let (job, failed) = (record[0] / 8, record[0] & 4 != 0);
            let lane = (0..LANES)
                .find(|lane| self.told(*lane).nth(next[*lane]) == Some((job, failed)))
                .ok_or_else(|| {
                    format!("the output has job {job} twice, too early, or from nowhere")
                })?;
            next[lane] += 1;
            let whole =
                record[0].is_multiple_of(2) && record.get(1).is_none_or(|it| *it == record[0] + 1);
            must(whole, || "the output has half of a record".into())?;
        }
        let len = self.commit.len;
        must(self.output.len >= len && len.is_multiple_of(2), || {
            "more is committed than is written".into()
        })?;
        let committed: u8 = self.commit.lanes.iter().map(|mark| mark.offset / FRAMES).sum();
        must(committed == len / 2, || "what is committed is not what is written".into())
    }

    /// A claimed job is done exactly if it is published; one that waits is not, and is there once.
    fn judge_slots(&self) -> Step {
        let is_told = |job| (0..LANES).any(|lane| self.told(lane).any(|(told, _)| told == job));
        for (index, slot) in self.slots.iter().enumerate() {
            let (job, done) = (slot.job, self.is_done(index as u8));
            match slot.phase {
                Phase::Free => continue,
                Phase::Ready => {
                    must(!is_told(job), || format!("job {job} is published, and ready again"))?;
                }
                Phase::Claimed(_) => must(done == is_told(job), || {
                    format!("job {job}: done is {done}, published is {}", is_told(job))
                })?,
            }
            let twice = self.slots[index + 1..SLOTS]
                .iter()
                .any(|other| other.phase != Phase::Free && other.job == job);
            must(!twice, || format!("job {job} stands in two slots"))?;
        }
        Ok(())
    }

    /// Everything is done, and nobody is left.
    pub(super) fn judge_end(&self, size: &Size) -> Step {
        let mut jobs: Vec<u8> = self.output.written().iter().map(|half| half / 8).collect();
        jobs.sort_unstable();
        let all: Vec<u8> = (0..size.jobs).flat_map(|job| [job, job]).collect();
        must(jobs == all, || format!("at the end, the output has jobs {jobs:?}"))
    }
}
