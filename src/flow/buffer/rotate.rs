//! The output is set aside between two batches, and a new one begun. The steps stand in
//! [`crate::flow::queue::commit`].

use super::room::{Room, open};
use super::{BATCH_BYTES, Buffer, SYNCED_BATCH_BYTES};
use crate::error::Error;
use crate::flow::queue::commit::{CUT, Commit};
use crate::flow::sink::{Batch, Position, failed, is_full};
use crate::sys::clock;
use std::io;
use std::path::Path;
use std::time::Duration;

impl Buffer<'_, '_> {
    /// How much is gathered at a time: no more than fits into the file, so that it is set aside
    /// when it is nearly full, and not by a whole batch earlier.
    pub(super) fn batch_bytes(&self) -> usize {
        let most = if self.syncs_always() { SYNCED_BATCH_BYTES } else { BATCH_BYTES };
        let room = self.sinks.output.room().map(|room| usize::try_from(room).unwrap_or(usize::MAX));
        room.map_or(most, |room| room.clamp(1, most))
    }

    /// When the output is to be set aside, if no more records come.
    pub(super) fn rotates_at(&self) -> Option<Duration> {
        let rest = self.sinks.output.rotates_in()?;
        Some(clock::now().saturating_add(rest))
    }

    /// Sets the output aside if it is time, before what was gathered is written. Says whether it was.
    pub(super) fn rotate_if_due(&mut self) -> Result<bool, Error> {
        if !self.sinks.output.is_to_rotate(self.gathered.results.bytes.len()) {
            return Ok(false);
        }
        self.set_aside()?;
        Ok(true)
    }

    /// Sets the output aside as it is committed, with everything synced.
    pub(super) fn set_aside(&mut self) -> Result<(), Error> {
        self.sync()?;
        let intent = Commit {
            generation: self.books.generation + 1,
            rotation: self.sinks.output.rotation_moment().max(1),
            ..self.books.clone()
        };
        intent.store_intent(self.spool);
        self.rotate(&intent)
    }

    /// After the death of a buffer that had stored this intent: does what is left to be done.
    pub(super) fn go_on_rotating(&mut self, intent: &Commit) -> Result<(), Error> {
        if intent.rotation & CUT != 0 {
            self.cut_dead_letters()?;
        }
        if let Some(dead_letters) = self.sinks.dead_letters.as_deref_mut() {
            open(self.spool, dead_letters, self.books.sinks[1], Batch::default())?;
        }
        log::info!("{}: going on with the rotation that was begun", self.sinks.output.name());
        self.rotate(intent)?;
        // What an earlier buffer had committed and not yet freed.
        self.free();
        Ok(())
    }

    pub(super) fn rotate(&mut self, intent: &Commit) -> Result<(), Error> {
        let output = &mut *self.sinks.output;
        if intent.rotation & CUT != 0 {
            let cut = output.cut_to(intent.sinks[0]);
            cut.map_err(|error| failed(output, "can't cut off what is not on the disk", &error))?;
        }
        let mut room = Room::new(self.spool);
        loop {
            match output.rotate(intent.sinks[0], intent.rotation & !CUT) {
                Ok(()) => break,
                Err(error) if is_full(&error) => room.wait(Path::new(&output.name()), &error),
                Err(error) => return Err(failed(output, "can't rotate the output", &error)),
            }
        }
        room.over(|| output.name());
        let file = |at: Option<Position>| at.map(|at| (at.device, at.inode));
        if intent.rotation & CUT != 0 && file(output.position()) == file(intent.sinks[0]) {
            let error = io::Error::other("it can't be set aside");
            return Err(failed(output, "can't write again what is not on the disk", &error));
        }
        let next = Commit {
            generation: intent.generation,
            sinks: self.sinks.positions(),
            ..self.books.clone()
        };
        next.store(self.spool);
        self.books = next;
        // Before a byte is written to the new file: after a power loss it would be nobody's.
        self.sync_spool()?;
        self.sinks.output.tidy();
        Ok(())
    }
}
