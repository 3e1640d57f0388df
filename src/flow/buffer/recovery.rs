//! What a buffer does about what it finds: the batch of a dead one, the lanes after a power loss, and
//! bytes that are no records.

use super::Buffer;
use super::room::{Room, open};
use crate::error::Error;
use crate::flow::quarantine::Quarantine;
use crate::flow::queue::commit::Commit;
use crate::flow::queue::processes;
use crate::flow::queue::repair::done_in;
use crate::flow::sink::surplus::Found;
use crate::flow::sink::{Batch, Position, Sink, is_full};
use crate::sys::atomic::Ordering;
use std::io;
use std::path::PathBuf;

impl Buffer<'_, '_> {
    /// Finishes the batch that the last buffer was writing when it died, exactly that one.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        if self.is_salvaging() {
            return self.salvage();
        }
        let intent = Commit::load_intent(self.spool, &self.books);
        if self.syncs_always() {
            // Neither the intent nor the commit of the dead one may have reached the disk.
            self.sync_spool()?;
        }
        self.gathered.clear();
        let Some(intent) = intent else {
            self.open_sinks(self.books.sinks, 0)?;
            self.note_places()?;
            // What an earlier buffer had committed and not yet freed.
            self.free();
            return Ok(());
        };
        if intent.rotation != 0 {
            return self.go_on_rotating(&intent);
        }
        let mut ends: Vec<u64> = intent.lanes.iter().map(|mark| mark.offset).collect();
        let mut lanes = self.gather(&ends, usize::MAX);
        // One that knows batches by their numbers may have all of it, with what is torn by now.
        let held = !self.sinks.output.tells_by_number() && self.hold_back(&mut ends);
        if held {
            self.gathered.clear();
            lanes = self.gather(&ends, usize::MAX);
        }
        let done = self.open_sinks(intent.sinks, intent.number())?;
        log::info!(
            "going on with the batch that was being written: {} of {} bytes are there",
            done[0] + done[1],
            self.gathered.bytes()
        );
        if held || !self.gathered.torn.is_empty() {
            self.cut_surplus(intent.sinks, done)?;
        }
        self.put_torn_aside()?;
        let next = self.books_after(lanes);
        self.write_all(next.number(), done)?;
        self.commit(next)?;
        if self.syncs_always() {
            self.sync_spool()?;
        }
        self.free();
        Ok(())
    }

    /// Opens the sinks at these positions, and says how much of the batch of this number, which was
    /// gathered, they have got.
    fn open_sinks(&mut self, at: [Option<Position>; 2], number: u64) -> Result<[usize; 2], Error> {
        // What was led by a header when it was written is compared with one that is.
        let header = self.sinks.output.header().len();
        let led = header > 0
            && !self.gathered.results.ends.is_empty()
            && at[0].is_some_and(|at| at.len == 0);
        if led {
            self.gathered.results.lead_with(self.sinks.output.header());
        }
        let results = self.gathered.results.batch(number);
        let done = open(self.spool, self.sinks.output, at[0], results)?;
        if done == 0 {
            // It may have to go to another place than it was meant for.
            self.gathered.results.behead(if led { header } else { 0 });
            self.lead();
        }
        let dead_letters = self.gathered.dead_letters.batch(number);
        let done_of_dead = match self.sinks.dead_letters.as_deref_mut() {
            Some(sink) => open(self.spool, sink, at[1], dead_letters)?,
            None => 0,
        };
        Ok([done, done_of_dead])
    }

    /// A part of the batch is torn that was not when it was being written: what stands in a file behind
    /// the rest may be of that part, and is put aside.
    fn cut_surplus(&mut self, begin: [Option<Position>; 2], done: [usize; 2]) -> Result<(), Error> {
        let cut = |sink: &mut dyn Sink, index: usize| {
            let (Some(begin), Some(at)) = (begin[index], sink.position()) else { return Ok(()) };
            let ours = begin.len.saturating_add(done[index] as u64);
            let is_same = (begin.device, begin.inode) == (at.device, at.inode);
            let is_file = sink.beside().is_some();
            match at.len.checked_sub(ours) {
                Some(surplus) if is_same && is_file => sink.cut(surplus, done[index] > 0),
                _ => Ok(()),
            }
        };
        cut(&mut *self.sinks.output, 0)?;
        self.sinks.dead_letters.as_deref_mut().map_or(Ok(()), |sink| cut(sink, 1))
    }

    /// A sink may have said for the first time where it stands: killed in its first batch, it is to
    /// know where that began.
    fn note_places(&mut self) -> Result<(), Error> {
        let places = self.sinks.positions();
        if places.iter().zip(&self.books.sinks).all(|(now, then)| now.is_none() || then.is_some()) {
            return Ok(());
        }
        self.books.generation += 1;
        self.books.sinks = places;
        self.books.store(self.spool);
        if self.syncs_always() { self.sync_spool() } else { Ok(()) }
    }

    /// After a power loss: what was published since the last sync and what the lanes still have of it
    /// is written, unless it stands in the output already. All of it is one batch without an intent:
    /// killed in between, it is done again, and finds what it had written.
    ///
    /// A sink that tells batches by their numbers can't be asked for records. If all but the batch of
    /// the intent was synced, it is asked for that one, and the rest comes later, as ever. Otherwise
    /// this batch has an intent as well, so that who does it again can ask for it.
    fn salvage(&mut self) -> Result<(), Error> {
        let committed = std::mem::replace(&mut self.books, Commit::initial(0));
        self.books = committed.clone().believed(self.spool);
        let has_numbers = self.sinks.output.tells_by_number();
        let by_number = has_numbers && self.books.lanes == committed.lanes;
        let begun_here = |intent: &Commit| has_numbers && intent.boots == self.boots();
        let intent = Commit::load_intent(self.spool, &committed)
            .filter(|intent| by_number || begun_here(intent));
        self.gathered.clear();
        let heads: Vec<u64> = committed.lanes.iter().map(|mark| mark.offset).collect();
        let mut lanes = self.books.lanes.clone();
        self.gather_on(&mut lanes, &heads, usize::MAX);
        let (jobs_done, jobs_failed) = (self.gathered.jobs_done, self.gathered.jobs_failed);
        self.books.lanes.clone_from(&lanes);
        let tails = match &intent {
            Some(intent) => intent.lanes.iter().map(|mark| mark.offset).collect(),
            None => self.look().tails,
        };
        self.gather_on(&mut lanes, &tails, usize::MAX);
        let done = self.take_out(intent.as_ref())?;
        self.put_torn_aside()?;
        let mut next = self.books_after(lanes);
        // Of a batch that was begun, the number is known.
        let number = intent.as_ref().map(Commit::number);
        next.boots = self.boots();
        if self.gathered.lost <= 0 {
            // Ends of jobs can be overwritten whose results are all there.
            let (done, failed) = (committed.totals.jobs_done, committed.totals.jobs_failed);
            next.totals.jobs_done = done + self.gathered.jobs_done - jobs_done;
            next.totals.jobs_failed = failed + self.gathered.jobs_failed - jobs_failed;
        }
        if has_numbers && intent.is_none() {
            next.store_intent(self.spool);
        }
        // As any sync: the spool, the output, the commit that says so. Otherwise a second power loss
        // could leave the commit without what it is about.
        self.sync_spool()?;
        self.write_all(number.unwrap_or_else(|| next.number()), done)?;
        self.sync_sinks()?;
        next.sinks = self.sinks.positions();
        next.all_synced();
        self.commit(next)?;
        self.sync_spool()?;
        self.free();
        Ok(())
    }

    /// Takes the records out of what was gathered that outlived a power loss in the sinks, and says how
    /// much of the rest is there: half of a record of each.
    fn take_out(&mut self, intent: Option<&Commit>) -> Result<[usize; 2], Error> {
        let pending = match intent {
            Some(intent) => self.gathered.results.batch(intent.number()),
            None => Batch::default(),
        };
        let mut surplus = self.sinks.output.salvage(self.books.sinks[0], pending)?;
        let found = surplus.take_from(&mut self.gathered.results);
        if found.done == 0 {
            self.sinks.output.cut(surplus.half.len() as u64, false)?;
            self.lead();
        }
        let elsewhere = self.count_found(&found, &self.sinks.output.name());
        self.gathered.result_records += elsewhere;
        let Some(dead_letters) = self.sinks.dead_letters.as_deref_mut() else {
            return Ok([found.done, 0]);
        };
        let mut surplus = dead_letters.salvage(self.books.sinks[1], Batch::default())?;
        let of_dead = surplus.take_from(&mut self.gathered.dead_letters);
        if of_dead.done == 0 {
            dead_letters.cut(surplus.half.len() as u64, false)?;
        }
        let name = dead_letters.name();
        let elsewhere = self.count_found(&of_dead, &name);
        self.gathered.dead_letter_records += elsewhere;
        Ok([found.done, of_dead.done])
    }

    /// Says what was found in a sink. Of those that the lanes have lost, it may have some: the answer
    /// is how many.
    fn count_found(&mut self, found: &Found, sink: &str) -> u64 {
        let elsewhere = found.unknown.min(u64::try_from(self.gathered.lost).unwrap_or(0));
        self.gathered.lost -= elsewhere.cast_signed();
        log::warn!(
            "{sink}: the machine was booted since the last run: of what was written or waiting since \
             the last sync, {} records stand there ({elsewhere} of them in no lane), {} are written \
             anew, {} are lost",
            found.there + elsewhere,
            found.missing,
            self.gathered.lost.max(0)
        );
        if found.unknown > elsewhere {
            log::warn!(
                "{sink}: {} records behind what was synced are in no lane; a job whose result one of \
                 them is may be run again",
                found.unknown - elsewhere
            );
        }
        elsewhere
    }

    /// What is committed is of before a power loss.
    pub(super) fn is_salvaging(&self) -> bool {
        self.books.boots != self.boots()
    }

    fn boots(&self) -> u64 {
        self.spool.run().boots.load(Ordering::Acquire)
    }

    /// Jobs that count as done can have results that were torn since. Only a start can make them ready
    /// again: until then nothing behind them is read, or they would be committed, and lost. Says whether
    /// that is so, and lets what is gathered end before them.
    pub(super) fn hold_back(&self, ends: &mut [u64]) -> bool {
        let mut held = false;
        for torn in &self.gathered.torn {
            if torn.from < ends[torn.lane] && done_in(self.spool, *torn).next().is_some() {
                ends[torn.lane] = torn.from;
                held = true;
            }
        }
        held
    }

    /// All else is written; what was held back is for the next start.
    pub(super) fn refuse_to_go_on(&mut self, tails: &[u64], ends: &[u64]) -> Result<(), Error> {
        let Some(lane) = (0..tails.len()).find(|lane| ends[*lane] < tails[*lane]) else {
            return Ok(());
        };
        self.sync()?;
        let message = format!(
            "lane {lane}: results of jobs that are done, from offset {} on, were damaged before they \
             were written: a worker has written where it must not, or memory is bad. None of them was \
             written; start it again, and these jobs are run again",
            ends[lane]
        );
        Err(Error::file(&self.spool.path, "the spool is damaged", message))
    }

    /// Puts the torn bytes of what was gathered aside, before anybody may overwrite them.
    pub(super) fn put_torn_aside(&mut self) -> Result<(), Error> {
        if self.gathered.torn.is_empty() {
            return Ok(());
        }
        let mut room = Room::new(self.spool);
        let aside = loop {
            match self.try_to_put_aside() {
                Ok(aside) => break aside,
                Err(error) if is_full(&error) => room.wait(&self.spool.path, &error),
                Err(error) => {
                    let path = &self.spool.path;
                    return Err(Error::of_records(path, "the spool is damaged", &error));
                }
            }
        };
        room.over(|| self.spool.path.display().to_string());
        for torn in &self.gathered.torn {
            log::error!(
                "{}: lane {}: {} published bytes from offset {} on are damaged; moved to {}",
                self.spool.path.display(),
                torn.lane,
                torn.to - torn.from,
                torn.from,
                aside.display()
            );
        }
        Ok(())
    }

    fn try_to_put_aside(&self) -> io::Result<PathBuf> {
        let mut aside = Quarantine::of(self.sinks.output.beside().unwrap_or(&self.spool.path))?;
        for torn in &self.gathered.torn {
            aside.append(&self.readers[torn.lane].bytes(*torn))?;
        }
        aside.finish()
    }

    /// Counts records that are missing at the end of a lane, behind which no frame says so.
    pub(super) fn close_books(&mut self) {
        let mut next = self.books.clone();
        for (lane, mark) in next.lanes.iter_mut().enumerate() {
            let published = self.spool.producer(lane).published.load(Ordering::Relaxed);
            // Of a worker that was killed nobody knows whether it had published what it counted.
            if processes::has_ended(self.spool, processes::worker(lane))
                && published > mark.records
                && published - mark.records < mark.offset
            {
                next.totals.quarantined += published - mark.records;
                mark.records = published;
            }
        }
        if next != self.books {
            next.generation += 1;
            next.store(self.spool);
            self.books = next;
        }
    }
}
