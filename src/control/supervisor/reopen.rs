//! SIGHUP without a terminal: files that somebody has moved away are opened anew by their names.

use super::Supervisor;
use crate::control::child::Order;
use crate::control::role::Child;

/// How far a child has come with it. One order at a time is under way to each: a channel holds
/// only so many, and a child that is stopped takes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reopening {
    No,
    /// It was told.
    Told,
    /// It was told, and asked for once more since.
    Again,
}

impl Supervisor<'_> {
    /// Main first: who is started from now on finds the new files.
    pub(super) fn reopen(&mut self) {
        self.tell_reload();
        crate::log::reopen();
        log::info!("SIGHUP: files are opened anew");
        for handle in self.handles.values_mut() {
            handle.reopening = match handle.reopening {
                Reopening::No => {
                    // If that fails the child has just ended, and is about to be reaped.
                    let _told = handle.orders.send(Order::Reopen);
                    Reopening::Told
                }
                Reopening::Told | Reopening::Again => Reopening::Again,
            };
        }
    }

    /// A child has answered.
    pub(super) fn reopened(&mut self, child: Child) {
        let Some(handle) = self.handles.get_mut(&child) else { return };
        handle.reopening = match handle.reopening {
            Reopening::Again => {
                let _told = handle.orders.send(Order::Reopen);
                Reopening::Told
            }
            Reopening::No | Reopening::Told => Reopening::No,
        };
    }
}
