//! The files that a configuration names: is the job list there, and are two of them one?

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::reader::Origin;

/// A file that is read or written, and what names it.
#[derive(Debug)]
pub(super) struct UsedFile {
    origin: Origin,
    identity: Identity,
}

#[derive(Debug, PartialEq, Eq)]
enum Identity {
    /// A regular file: device and inode, so that links are seen through.
    Inode(u64, u64),
    /// Not there yet.
    Absent(PathBuf),
    /// A terminal, a pipe, `/dev/null`: may be used twice.
    Special,
}

impl UsedFile {
    pub(super) fn new(origin: Origin, path: &Path) -> UsedFile {
        let identity = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Identity::Inode(metadata.dev(), metadata.ino()),
            Ok(_) => Identity::Special,
            Err(_) => Identity::Absent(full(path)),
        };
        UsedFile { origin, identity }
    }
}

/// The full path of a file that isn't there; its folder may be.
fn full(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path,
    }
}

/// Two names of one file are a mistake: one use would destroy what the other needs.
pub(super) fn same_files(files: &[UsedFile]) -> Vec<(Origin, String)> {
    let mut mistakes = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let earlier = files[..index].iter().find(|earlier| {
            file.identity != Identity::Special && file.identity == earlier.identity
        });
        if let Some(earlier) = earlier {
            // What a default names stands nowhere in the file; then the other is what can be marked.
            let (marked, other) =
                match file.origin.bytes.is_none() && earlier.origin.bytes.is_some() {
                    true => (earlier, file),
                    false => (file, earlier),
                };
            let message = format!("this is the same file as {}", other.origin.label);
            mistakes.push((marked.origin.clone(), message));
        }
    }
    mistakes
}

/// Why a list of jobs can't be read, if so. The list itself is not opened: it may be a FIFO,
/// and opening that waits for its writer.
pub(super) fn job_list_mistake(path: &Path) -> Option<String> {
    let name = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("the list of jobs {name} can't be read: {error}")),
    };
    if metadata.is_dir() {
        return Some(format!("{name} is a directory, but a list of jobs is a file of lines"));
    }
    match rustix::fs::access(path, rustix::fs::Access::READ_OK) {
        Ok(()) => None,
        Err(errno) => {
            let error = std::io::Error::from(errno);
            Some(format!("the list of jobs {name} can't be read: {error}"))
        }
    }
}
