//! Writing to a disk that may be full.

use crate::error::Error;
use crate::flow::queue::spool::{Spool, directory_of};
use crate::flow::queue::vitals;
use crate::flow::sink::{Batch, CantOpen, Position, Sink, failed, is_full};
use crate::sys::atomic::AtomicU64;
use crate::sys::{clock, disk};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Pause before a full disk is tried again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(500);

/// Writes a batch, from what is there already of it on. Waits while the disk is full.
pub(super) fn write(
    spool: &Spool,
    sink: &mut dyn Sink,
    batch: Batch<'_>,
    mut done: usize,
) -> Result<(), Error> {
    let mut room = Room::new(spool);
    while done < batch.bytes.len() {
        match sink.write(batch, done) {
            Ok(there) => done = there,
            Err(error) if is_full(&error) => room.wait(Path::new(&sink.name()), &error),
            Err(error) => return Err(failed(sink, "can't write the output", &error)),
        }
    }
    room.over(|| sink.name());
    Ok(())
}

/// Opens a sink where it was. Waits while there is no room for what has to be written first.
pub(super) fn open(
    spool: &Spool,
    sink: &mut dyn Sink,
    at: Option<Position>,
    pending: Batch<'_>,
) -> Result<usize, Error> {
    let mut room = Room::new(spool);
    loop {
        match sink.open(at, pending) {
            Ok(done) => {
                room.over(|| sink.name());
                return Ok(done);
            }
            Err(CantOpen::Full(file, error)) => room.wait(&file, &error),
            Err(CantOpen::Failed(error)) => return Err(error),
        }
    }
}

/// Room on a disk that is full. For who looks, the spool says since when it is waited for.
pub(super) struct Room<'a> {
    since: &'a AtomicU64,
    waited_for: bool,
}

impl Room<'_> {
    pub(super) fn new(spool: &Spool) -> Room<'_> {
        Room { since: &vitals::of(spool).no_room_since, waited_for: false }
    }

    /// Waits a little, and says so once.
    pub(super) fn wait(&mut self, file: &Path, error: &io::Error) {
        if !std::mem::replace(&mut self.waited_for, true) {
            let directory = directory_of(file);
            let free = disk::free(directory);
            log::warn!(
                "{}: {error}{free}; waiting for room, the records are kept in the spool. Make room in \
                 {}, and it goes on by itself",
                file.display(),
                directory.display()
            );
            vitals::note(self.since, Some(clock::now()));
        }
        // Nothing else can be done meanwhile: no event says that there is room.
        std::thread::sleep(FULL_DISK_PAUSE);
    }

    /// Says that it has come to an end, if there was anything to wait for.
    pub(super) fn over(&self, name: impl FnOnce() -> String) {
        if self.waited_for {
            vitals::note(self.since, None);
            log::info!("{}: there is room again", name());
        }
    }
}
