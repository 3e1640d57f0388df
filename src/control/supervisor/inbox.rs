//! What main waits for.

use crate::control::signal::Installed;
use crate::error::Error;
use crate::sys::{clock, descriptor};
use ipc_channel::TrySelectError;
use ipc_channel::ipc::{IpcReceiverSet, IpcSelectionResult};
use std::os::fd::RawFd;
use std::time::Duration;

/// Where signals arrive. Lives as long as the process: handlers can be set only once.
pub(crate) struct Inbox {
    pub(super) set: IpcReceiverSet,
    pub(super) asked: u64,
    /// Of the set and of the signals' channel.
    pub(super) descriptors: Vec<RawFd>,
}

impl Inbox {
    /// # Errors
    /// If the signals can't be taken over.
    pub(crate) fn open(installed: Installed) -> Result<Inbox, Error> {
        let fail = || Error::system("can't wait for events");
        let (first, second) = descriptor::next_two(std::io::stderr()).map_err(fail())?;
        let mut set = IpcReceiverSet::new().map_err(fail())?;
        let asked = set.add(installed.events).map_err(fail())?;
        // How many the set has of its own is its affair.
        let mut descriptors = vec![first, second];
        descriptors.retain(|number| descriptor::is_open(*number));
        descriptors.extend(installed.descriptors);
        Ok(Inbox { set, asked, descriptors })
    }

    /// Waits for something to happen, until `until` at most.
    pub(super) fn wait(
        &mut self,
        until: Option<Duration>,
    ) -> Result<Vec<IpcSelectionResult>, Error> {
        let fail = || Error::system("can't wait for events");
        let Some(until) = until else { return self.set.select().map_err(fail()) };
        match self.set.try_select_timeout(until.saturating_sub(clock::now())) {
            Ok(results) => Ok(results),
            Err(TrySelectError::Empty) => Ok(Vec::new()),
            Err(TrySelectError::IoError(error)) => Err(fail()(error)),
        }
    }
}
