//! A spool of another size: with other numbers of workers or jobs, or another size of lanes.
//!
//! A spool never changes its size. So what is published in the old one is written to the output
//! first, by its own books; then a new one is built, the jobs that are not done and the place in
//! the list are copied into it, and it takes the old one's name. Killed before that, the old one is
//! as good as it was; after it, the new one is complete.
//!
//! This is done before anything is forked: the one time that main itself moves records.

use super::buffer::{self, Policy};
use super::queue::commit::Commit;
use super::queue::jobs::{Jobs, Phase};
use super::queue::layout::Geometry;
use super::queue::position::ListPosition;
use super::queue::spool::Spool;
use super::sink::Sink;
use super::sink::file::FileSink;
use crate::error::Error;
use crate::stop::Stop;
use crate::sys::atomic::Ordering;
use std::path::Path;

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
    (sink, policy): (&mut FileSink, Policy),
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
    let written = buffer::run(old, sink, policy, &stop, || {})?;
    let (_, position) = ListPosition::load(old);
    log::info!(
        "{}: built anew in another size: {written} records written before, {} jobs kept",
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
        let Commit { totals, boots, .. } = Commit::load(old);
        let sinks = [sink.position(), None];
        let mut books = Commit { generation: 1, totals, sinks, ..Commit::initial(new.lanes()) };
        books.all_synced();
        books.store(new);
        let damaged = old.run().damaged.load(Ordering::Relaxed) | boots;
        new.run().damaged.store(damaged, Ordering::Relaxed);
    })
}
