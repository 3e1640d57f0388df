//! The files that a configuration names: is the job list there, and are two of them one?

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::reader::Origin;
use super::resolve::Resolver;
use crate::error::Wrong;

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

impl Resolver<'_> {
    /// Notes a file that is written, and what is wrong with it if its name stands in the file.
    ///
    /// What an option names is for its opening to say: it has not the same exit code.
    pub(super) fn written(&mut self, files: &mut Vec<UsedFile>, origin: &Origin, path: &Path) {
        files.push(UsedFile::new(origin.clone(), path));
        if let Some(wrong) = written_mistake(path).filter(|_| origin.bytes.is_some()) {
            self.mistake(origin, wrong.outside());
        }
    }
}

fn written_mistake(path: &Path) -> Option<Wrong> {
    if path.is_dir() {
        let wrong = Wrong::new(format!("{} is a directory, and a file is needed", path.display()));
        return Some(wrong.help("name a file in it"));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => return None,
    };
    let name = folder.display();
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => None,
        Ok(_) => Some(Wrong::new(format!("{name} is a file, and has to be a directory"))),
        Err(error) if error.kind() == ErrorKind::NotFound => Some(
            Wrong::new(format!("there is no directory {name}"))
                .help(format!("create it, for example with: mkdir -p {name}")),
        ),
        // Whoever runs it may see more than who checks it.
        Err(_) => None,
    }
}

/// Why a list of jobs can't be read, if so. The list itself is not opened: it may be a FIFO,
/// and opening that waits for its writer.
pub(super) fn job_list_mistake(path: &Path) -> Option<Wrong> {
    let name = path.display();
    let unreadable = |error: std::io::Error| {
        let what = format!("the list of jobs {name} can't be read: {}", reason(&error));
        Some(Wrong::new(what).outside())
    };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return unreadable(error),
    };
    if metadata.is_dir() {
        let what = format!("{name} is a directory, but a list of jobs is a file of lines");
        let help = "to take each file of a directory as a job, name it in jobs.directory";
        return Some(Wrong::new(what).help(help).outside());
    }
    match rustix::fs::access(path, rustix::fs::Access::READ_OK) {
        Ok(()) => None,
        Err(errno) => unreadable(errno.into()),
    }
}

/// What the system said, without its number.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
