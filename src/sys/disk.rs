//! What a disk has room for.

use rustix::fs::StatVfs;
use std::io;
use std::path::Path;

/// The error, and what is lacking, if that is not what it seems to be: a file system that can hold no more
/// files says that there is no space, however much there is. Of the same kind.
pub(crate) fn explained(directory: &Path, error: io::Error) -> io::Error {
    let is_full = error.kind() == io::ErrorKind::StorageFull;
    match rustix::fs::statvfs(directory) {
        Ok(stat) if is_full && has_no_inodes(&stat) => io::Error::new(
            error.kind(),
            format!(
                "{error}: no inodes are left, so it can hold no more files, however large it is. \
                 Remove some files in it, or take another disk"
            ),
        ),
        _ => error,
    }
}

/// What is free in the file system of this directory, for a message; empty if nobody knows.
pub(crate) fn free(directory: &Path) -> String {
    let Ok(stat) = rustix::fs::statvfs(directory) else { return String::new() };
    let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
    match has_no_inodes(&stat) {
        true => format!(", {bytes} bytes are free, but no inodes: it can hold no more files"),
        false => format!(", {bytes} bytes are free"),
    }
}

/// Some file systems don't count them.
fn has_no_inodes(stat: &StatVfs) -> bool {
    stat.f_files > 0 && stat.f_favail == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_a_disk_that_has_inodes_stays_as_it_is() {
        let directory = std::env::temp_dir();
        let full = io::Error::from_raw_os_error(nix::libc::ENOSPC);
        let said = explained(&directory, full);
        assert_eq!(said.raw_os_error(), Some(nix::libc::ENOSPC));
        assert!(free(&directory).ends_with(" bytes are free"), "{}", free(&directory));
    }
}
