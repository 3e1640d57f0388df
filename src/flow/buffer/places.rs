//! Outputs that are moved or removed under the buffer's hands, and outputs that can't be synced.
//!
//! A sync that fails is never tried again: the system says it once, and what was lost stays lost
//! although the next call succeeds. With `sync = "always"` nothing was committed that was not on the
//! disk, and the lanes still have the batch: what was written of it is cut off, the file set aside,
//! and the batch written again to a new one. If that can't be synced either, or if syncs are made
//! now and then, so that nobody has the records any more, the run ends with the bytes in question,
//! and no buffer of this run writes again.

use super::Buffer;
use crate::config::SyncPolicy;
use crate::error::Error;
use crate::flow::queue::commit::{CUT, Commit};
use crate::flow::queue::jobs::Jobs;
use crate::flow::queue::position::ListPosition;
use crate::flow::queue::spool::Whereabouts;
use crate::flow::queue::{orphans, processes};
use crate::flow::sink::{Position, Sink, failed};
use crate::sys::clock;
use std::path::Path;
use std::time::Duration;

/// Between two looks whether the spool has its name.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Bytes after which the disk begins to write.
const WRITE_BACK: usize = 64 << 20;

impl Buffer<'_, '_> {
    /// Looks whether the places are still as they were left. A new one is committed before anything
    /// is written there: after a power loss its records would be nobody's.
    pub(super) fn look_at_places(&mut self) -> Result<(), Error> {
        self.look_at_spool();
        self.sinks.look()?;
        self.note_new_places()
    }

    /// Says once if somebody has removed or moved the spool. Nobody is kept from going on by that, and
    /// it is no reason to stop: an ordered end brings it back.
    fn look_at_spool(&mut self) {
        let now = clock::now();
        if self.spool_looked_at.is_none_or(|at| at.saturating_add(LOOK_PAUSE) > now) {
            return;
        }
        self.spool_looked_at = Some(now);
        let what = match self.spool.whereabouts() {
            Whereabouts::InPlace => return,
            Whereabouts::Removed => "removed".to_owned(),
            Whereabouts::Moved(to) => format!("moved to {}", to.display()),
        };
        log::error!(
            "{}: the spool was {what} while it is in use. It is written to its place again when this run \
             ends in order; if it is killed before, or the power goes, what is kept in it is lost, and the \
             next start begins the list anew. So stop it in order{}, then start again",
            self.spool.path.display(),
            orphans::main_of(self.spool).map_or_else(String::new, |pid| format!(" (kill {pid})"))
        );
        self.spool_looked_at = None;
    }

    /// Opens files anew that somebody has moved, with everything committed in the old ones.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        self.sync()?;
        let mut sinks = vec![&mut *self.sinks.output];
        if let Some(dead_letters) = self.sinks.dead_letters.as_deref_mut() {
            sinks.push(dead_letters);
        }
        for sink in sinks {
            if let Err(error) = sink.reopen() {
                log::error!("{error}; going on in the file that was open");
            }
        }
        self.note_new_places()
    }

    fn note_new_places(&mut self) -> Result<(), Error> {
        let file = |at: &Option<Position>| at.map(|at| (at.device, at.inode));
        let now = self.sinks.positions();
        let moved = now.iter().map(file).ne(self.books.sinks.iter().map(file));
        if moved { self.sync() } else { Ok(()) }
    }

    /// Lets the disk begin with the output while more is gathered, after every few MiB: a sync, for which
    /// everybody may have to wait, finds little left to do then.
    ///
    /// As in a sync the spool goes first: an output that has outlived a power loss must not be newer
    /// than the books.
    pub(super) fn begin_write_back(&mut self) -> Result<(), Error> {
        self.not_begun += self.gathered.bytes();
        if self.not_begun < WRITE_BACK || !matches!(self.policy.sync, SyncPolicy::Every(_)) {
            return Ok(());
        }
        self.not_begun = 0;
        self.sync_spool()?;
        self.sinks.output.begin_write_back();
        if let Some(dead_letters) = self.sinks.dead_letters.as_deref_mut() {
            dead_letters.begin_write_back();
        }
        Ok(())
    }

    /// What a sync of the spool has in it, beside jobs: the newest commit, and the place in the list.
    /// That one is looked for in slots too: to have saved it and freed them changes nothing.
    pub(super) fn in_spool(&self) -> (u64, ListPosition) {
        (self.books.generation, ListPosition::load(self.spool).1)
    }

    /// Would a start after a power loss miss nothing that is in the spool? If jobs are pending it may:
    /// what became of them since the last sync is not followed.
    pub(super) fn is_spool_synced(&self) -> bool {
        let jobs = Jobs(self.spool);
        let pending = (0..jobs.len()).any(|index| jobs.is_pending(index));
        !self.dirty && !pending && self.synced_with == Some(self.in_spool())
    }

    /// Syncs the sinks; if that fails, notes it before anything else can happen.
    pub(super) fn sync_sinks(&mut self) -> Result<(), Error> {
        let synced = self.sinks.sync();
        if synced.is_err() && self.writes_a_file() {
            processes::note_unsynced(self.spool);
            self.unsynced = true;
        }
        synced
    }

    /// Does `step`; if it fails of a sync that can be made good, makes it good and does it again.
    pub(super) fn go_on_after(
        &mut self,
        step: impl Fn(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut made_good = false;
        loop {
            let Err(error) = step(self) else { return Ok(()) };
            let unsynced = std::mem::take(&mut self.unsynced);
            if unsynced && !made_good && self.can_begin_afresh() {
                log::error!("{error}; writing it again to a new file");
                self.begin_afresh()?;
                made_good = true;
            } else if unsynced {
                return Err(with_way_out(error));
            } else if self.sinks.output.takes_no_more() && !self.is_salvaging() {
                let name = self.sinks.output.name();
                log::warn!("{name}: is as long as a file may be here; going on in a new one");
                self.make_way()?;
            } else {
                return Err(error);
            }
        }
    }

    /// The output is as long as a file may be. Cuts off what was written of the batch, so that no record
    /// is in two files, and sets it aside. Died in between, the batch is found not to be there.
    fn make_way(&mut self) -> Result<(), Error> {
        let committed = self.books.sinks[0];
        let output = &mut *self.sinks.output;
        let cut = output.cut_to(committed);
        cut.map_err(|error| failed(output, "can't cut off what is written again", &error))?;
        self.cut_dead_letters()?;
        // An empty one takes what there was no place for in a longer one, or a smaller batch.
        if committed.is_none_or(|at| at.len == 0) { Ok(()) } else { self.set_aside() }
    }

    fn can_begin_afresh(&self) -> bool {
        matches!(self.policy.sync, SyncPolicy::Always)
            && self.writes_a_file()
            && self.books.sinks[0].is_some()
    }

    /// What a sink of a program's own says about its syncs is its own affair.
    pub(super) fn writes_a_file(&self) -> bool {
        self.sinks.output.beside().is_some()
    }

    /// Sets the output aside as it was committed, and begins a new one. The lanes are read again from
    /// what is committed on.
    fn begin_afresh(&mut self) -> Result<(), Error> {
        let intent = Commit {
            generation: self.books.generation + 1,
            rotation: self.sinks.output.rotation_moment().max(1) | CUT,
            ..self.books.clone()
        };
        intent.store_intent(self.spool);
        self.cut_dead_letters()?;
        self.rotate(&intent)?;
        processes::forget_unsynced(self.spool);
        Ok(())
    }

    /// What of the batch was written to the dead letters is written again with it.
    pub(super) fn cut_dead_letters(&mut self) -> Result<(), Error> {
        let Some(dead_letters) = self.sinks.dead_letters.as_deref_mut() else { return Ok(()) };
        let cut = dead_letters.cut_to(self.books.sinks[1]);
        cut.map_err(|error| failed(dead_letters, "can't cut off what is written again", &error))
    }
}

/// A sync that has failed for good, with what to do about it.
fn with_way_out(error: Error) -> Error {
    let way_out = "what is not written is kept in the spool. See to the disk (dmesg says more), then \
                   start again";
    match error {
        Error::File { path, message } => {
            Error::File { path, message: format!("{message}; {way_out}") }
        }
        other => other,
    }
}

/// What a buffer says that finds that one before it could not sync.
pub(super) fn unsynced(output: &dyn Sink) -> Error {
    let message = "a sync of it has failed in this run, so nothing more is written to it; the spool \
                   keeps what is not committed. See to the disk, then start again";
    Error::file(Path::new(&output.name()), "can't go on", message)
}
