//! Who runs with a spool that somebody has removed: nothing but `/proc` knows it any more.

use crate::flow::queue::spool::directory_of;
use crate::sys::proc_fs;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

/// The supervisor of a run that has a spool open which was removed from this path, if it can be seen
/// from here. All processes of a run have its spool open, and it is the parent of the others.
pub(crate) fn supervisor(spool: &Path) -> Option<i32> {
    let directory = directory_of(spool).canonicalize().ok()?;
    // As the system writes it.
    let mut removed = OsString::from(directory.join(spool.file_name()?));
    removed.push(" (deleted)");
    let holders: BTreeSet<i32> =
        proc_fs::all().filter(|pid| has_open(*pid, Path::new(&removed))).collect();
    let mut parents = holders.iter().filter_map(|pid| Some(proc_fs::stat(*pid)?.ppid));
    parents.find(|parent| holders.contains(parent))
}

fn has_open(pid: i32, target: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let mut targets = descriptors.flatten().flat_map(|it| std::fs::read_link(it.path()));
    targets.any(|it| it == target)
}
