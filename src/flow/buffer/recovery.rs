//! What a buffer does about what it finds: the batch of a dead one, the lanes after a power loss, and
//! bytes that are no records.

use super::{Buffer, Room, is_full};
use crate::error::Error;
use crate::flow::quarantine::Quarantine;
use crate::flow::queue::commit::Commit;
use crate::flow::queue::processes;
use crate::sys::atomic::Ordering;
use std::io;
use std::path::PathBuf;

impl Buffer<'_> {
    /// Finishes the batch that the last buffer was writing when it died, exactly that one.
    pub(super) fn recover(&mut self) -> Result<(), Error> {
        if self.books.boots != self.boots() {
            return self.salvage();
        }
        let intent = Commit::load_intent(self.spool, &self.books);
        if self.syncs_always() {
            // Neither the intent nor the commit of the dead one may have reached the disk.
            self.sync_spool()?;
        }
        self.gathered.clear();
        let Some(intent) = intent else {
            self.sink.open(self.books.sinks[0], &[])?;
            // What an earlier buffer had committed and not yet freed.
            self.free();
            return Ok(());
        };
        let ends: Vec<u64> = intent.lanes.iter().map(|mark| mark.offset).collect();
        let lanes = self.gather(&ends, usize::MAX);
        let done = self.sink.open(intent.sinks[0], &self.gathered.results)?;
        log::info!(
            "going on with the batch that was being written: {done} of {} bytes are there",
            self.gathered.results.len()
        );
        self.put_torn_aside()?;
        let next = self.books_after(lanes);
        self.write_all(done)?;
        self.commit(next)?;
        if self.syncs_always() {
            self.sync_spool()?;
        }
        self.free();
        Ok(())
    }

    /// After a power loss: what was published since the last sync and what the lanes still have of it
    /// is written, unless it stands in the output already. All of it is one batch without an intent:
    /// killed in between, it is done again, and finds what it had written.
    fn salvage(&mut self) -> Result<(), Error> {
        let committed = std::mem::replace(&mut self.books, Commit::initial(0));
        self.books = committed.clone().believed(self.spool);
        self.gathered.clear();
        let heads: Vec<u64> = committed.lanes.iter().map(|mark| mark.offset).collect();
        let mut lanes = self.books.lanes.clone();
        self.gather_on(&mut lanes, &heads, usize::MAX);
        let (jobs_done, jobs_failed) = (self.gathered.jobs_done, self.gathered.jobs_failed);
        self.books.lanes.clone_from(&lanes);
        let tails = self.look().tails;
        self.gather_on(&mut lanes, &tails, usize::MAX);
        let mut surplus = self.sink.salvage(self.books.sinks[0])?;
        let found = surplus.take_from(&mut self.gathered);
        if found.done == 0 {
            self.sink.cut(&surplus.half)?;
        }
        self.put_torn_aside()?;
        // Of those that the lanes have lost, the output may have some.
        let elsewhere = found.unknown.min(u64::try_from(self.gathered.lost).unwrap_or(0));
        self.gathered.lost -= elsewhere.cast_signed();
        self.gathered.result_records += elsewhere;
        log::warn!(
            "the machine was booted since the last run: of what was written or waiting since the \
             last sync, {} records stand in the output ({} of them in no lane), {} are written anew, {} \
             are lost",
            found.there + elsewhere,
            elsewhere,
            self.gathered.result_records - found.there - elsewhere,
            self.gathered.lost.max(0)
        );
        if found.unknown > elsewhere {
            log::warn!(
                "{}: {} records behind what was synced are in no lane; a job whose result one of them is \
                 may be run again",
                self.sink.name(),
                found.unknown - elsewhere
            );
        }
        let mut next = self.books_after(lanes);
        next.boots = self.boots();
        if self.gathered.lost <= 0 {
            // Ends of jobs can be overwritten whose results are all there.
            let (done, failed) = (committed.totals.jobs_done, committed.totals.jobs_failed);
            next.totals.jobs_done = done + self.gathered.jobs_done - jobs_done;
            next.totals.jobs_failed = failed + self.gathered.jobs_failed - jobs_failed;
        }
        // As any sync: the spool, the output, the commit that says so. Otherwise a second power loss
        // could leave the commit without what it is about.
        self.sync_spool()?;
        self.write_all(found.done)?;
        self.sink.sync().map_err(|error| self.failed("can't sync the output", error))?;
        next.sinks[0] = self.sink.position();
        next.all_synced();
        self.commit(next)?;
        self.sync_spool()?;
        self.free();
        Ok(())
    }

    fn boots(&self) -> u64 {
        self.spool.run().boots.load(Ordering::Acquire)
    }

    /// Puts the torn bytes of what was gathered aside, before anybody may overwrite them.
    pub(super) fn put_torn_aside(&mut self) -> Result<(), Error> {
        if self.gathered.torn.is_empty() {
            return Ok(());
        }
        let mut room = Room::default();
        let aside = loop {
            match self.try_to_put_aside() {
                Ok(aside) => break aside,
                Err(error) if is_full(&error) => room.wait(&self.spool.path, &error),
                Err(error) => {
                    return Err(Error::file(&self.spool.path, "the spool is damaged", error));
                }
            }
        };
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
        let mut aside = Quarantine::of(self.sink.beside().unwrap_or(&self.spool.path))?;
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
