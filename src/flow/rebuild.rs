//! A spool of another size: with other numbers of workers or jobs, or another size of lanes. Or of a
//! pipeline whose jobs are forgotten, and whose records are still to be written.
//!
//! A spool never changes its size. So what is published in the old one is written to the output
//! first, by its own books; then a new one is built, the jobs that are not done and the place in
//! the list are copied into it, and it takes the old one's name. Killed before that, the old one is
//! as good as it was; after it, the new one is complete.
//!
//! This is done before anything is forked: the one time that main itself moves records.

use super::buffer::{self, Policy};
use super::prepare::Outputs;
use super::queue::commit::Commit;
use super::queue::jobs::{Jobs, Phase};
use super::queue::layout::Geometry;
use super::queue::position::ListPosition;
use super::queue::spool::Spool;
use crate::error::{Error, ExitCode};
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use crate::sys::pidfd::PidFd;
use crate::sys::{clock, fork, process, signal};
use std::path::Path;
use std::time::Duration;

/// How often somebody looks whether a stop was asked for meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// What the new spool is to be.
pub(crate) struct Plan {
    pub geometry: Geometry,
    pub fingerprint: u64,
    /// Jobs that are done, in slots that are not freed yet, are kept as well: the source has to hear of
    /// them.
    pub with_done: bool,
}

/// Moves what is kept in `old`, in which nothing runs and everything is settled, into a new spool
/// of this geometry under the same name.
///
/// # Errors
/// If what is published can't be written, if a kept job does not fit into the new spool, or if
/// that can't be created. The old spool is in place then.
pub(crate) fn rebuild(
    old: &Spool,
    path: &Path,
    plan: &Plan,
    (outputs, policy): (&mut Outputs, Policy),
) -> Result<Spool, Error> {
    let &Plan { geometry, fingerprint, with_done } = plan;
    let kept: Vec<usize> = {
        let jobs = Jobs(old);
        let is_kept = |index: &usize| {
            jobs.is_pending(*index) || (with_done && jobs.phase(*index) != Phase::Free)
        };
        (0..jobs.len()).filter(is_kept).collect()
    };
    let longest = kept.iter().map(|index| Jobs(old).text(*index).len()).max().unwrap_or(0);
    if kept.len() > geometry.slots as usize || longest > geometry.job_bytes as usize {
        return Err(Error::Config(format!(
            "{}: the spool holds {} jobs of up to {longest} bytes, which don't fit into one for {} \
             jobs of {} bytes: let it finish with the old sizes, or choose larger ones. Nothing \
             was touched",
            path.display(),
            kept.len(),
            geometry.slots,
            geometry.job_bytes
        )));
    }
    let stop = Stop::new(|| {});
    stop.request();
    let before = Commit::load(old).totals.results;
    if outputs.output.tells_by_number() {
        // What an own sink opens is for a process of the buffer, not for all that come of this one.
        apart(path, || buffer::run(old, outputs.sinks(), policy, &stop, || {}))?;
    } else {
        buffer::run(old, outputs.sinks(), policy, &stop, || {})?;
    }
    let Commit { totals, boots, sinks, .. } = Commit::load(old);
    // After a power loss the books may go back by what is lost.
    let written = totals.results.saturating_sub(before);
    let (_, position) = ListPosition::load(old);
    let why = match old.layout.geometry == geometry {
        true => "for another pipeline",
        false => "in another size",
    };
    log::info!(
        "{}: built anew {why}: {written} records written before, {} jobs kept",
        path.display(),
        kept.len()
    );
    Spool::create(path, geometry, fingerprint, Some(old), |new| {
        for (index, from) in kept.iter().enumerate() {
            Jobs(new).adopt(index, &Jobs(old), *from);
            if Jobs(old).is_done(*from) {
                // By what was just written to the output, and synced.
                Jobs(new).adopt_done(index, &Jobs(old), *from);
            }
        }
        position.store(new, 1);
        let generation = Commit::last_number(old, fingerprint) + 1;
        let mut books = Commit { generation, totals, sinks, ..Commit::initial(new.lanes()) };
        books.all_synced();
        books.store(new);
        let damaged = old.run().damaged.load(Ordering::Relaxed) | boots;
        new.run().damaged.store(damaged, Ordering::Relaxed);
    })
}

/// Runs the buffer in a process of its own, to its end.
fn apart(path: &Path, buffer: impl FnOnce() -> Result<u64, Error>) -> Result<(), Error> {
    let parent = nix::unistd::getpid();
    let main = || {
        // It is in no table: nobody else would wait for it, or end it.
        let bound = process::end_with(parent).map_err(Error::system("can't follow main"));
        match bound.and_then(|()| buffer()) {
            Ok(_) => 0,
            Err(error) => {
                log::error!("{error}");
                error.exit_code().code().into()
            }
        }
    };
    let child = fork::start(main).map_err(Error::system("can't start a process"))?;
    let failed = Error::system("can't wait for a process");
    let process = PidFd::open(child.as_raw()).map_err(failed)?;
    while !process.wait(Some(clock::now() + LOOK)).unwrap_or(true) {
        // Signals are blocked here, and no event tells of one.
        if signal::is_stop_pending() {
            let _killed = process.kill();
        }
    }
    match process::reap(child) {
        Some(process::Ended::Exited(0)) => Ok(()),
        ended => Err(not_written(path, ended)),
    }
}

/// Sorted as what the process has said itself, which is in the log: by its exit code.
fn not_written(path: &Path, ended: Option<process::Ended>) -> Error {
    let how = ended.map_or_else(|| "it was killed".into(), |ended| ended.to_string());
    let message = format!(
        "the spool's sizes have changed, and what is kept in it could not be written ({how}). Nothing \
         is lost"
    );
    match ended {
        Some(process::Ended::Exited(code)) => match ExitCode::from_code(code) {
            ExitCode::Io => Error::File { path: path.into(), message },
            ExitCode::Config => Error::Config(message),
            ExitCode::Held => Error::Held(message),
            _ => Error::Failure(message),
        },
        _ => Error::Failure(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_process_that_writes_has_failed_with_is_what_the_start_fails_with() {
        let code = |ended| not_written(Path::new("spool"), ended).exit_code();
        assert_eq!(code(Some(process::Ended::Exited(74))), ExitCode::Io);
        assert_eq!(code(Some(process::Ended::Exited(75))), ExitCode::Held);
        assert_eq!(code(Some(process::Ended::Exited(101))), ExitCode::Failure);
        assert_eq!(code(Some(process::Ended::Signaled(9))), ExitCode::Failure);
        assert_eq!(code(None), ExitCode::Failure);
    }
}
