//! Directories in which others can do as they like.

use super::queue::spool::directory_of;
use crate::config::{Config, Format, Jobs};
use crate::sys::trusted;
use std::path::{Path, PathBuf};

/// Says which of the directories that are written to everybody can write to as well, without the sticky
/// bit. Not refused: in a container that may be all that there is, and nobody else is there.
pub(super) fn warn(config: &Config, spool: &Path) {
    let output = match config.output.format {
        Format::Own(_) => None,
        _ => Some(config.output.file.as_path()),
    };
    let files = [Some(spool), output, config.dead_letters.as_deref(), config.log.file.as_deref()];
    let mut directories: Vec<PathBuf> =
        files.into_iter().flatten().map(|file| directory_of(file).to_path_buf()).collect();
    if let Some(Jobs::Directory(dropped)) = &config.jobs {
        directories.push(dropped.path.clone());
    }
    directories.sort_unstable();
    directories.dedup();
    for directory in directories.iter().filter(|directory| trusted::is_open_to_all(directory)) {
        log::warn!(
            "{}: every user may remove and replace files in this directory, also those of this pipeline. \
             Take the right to write from them (chmod o-w), or use another directory; harmless where \
             nobody else can get in, as in a volume of a container",
            directory.display()
        );
    }
}
