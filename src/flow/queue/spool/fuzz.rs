//! Files that say that they are spools: see [`crate::fuzzing`].

use super::look::{Extent, looked_at};
use super::{Spool, checksum, layout_of};
use crate::flow::queue::fuzz::scratch;
use crate::flow::queue::layout::{Geometry, Header, Layout, MAGIC, PAGE, VERSION};
use crate::fuzzing::Choices;
use crate::sys::atomic::Ordering;
use crate::sys::mmap::Mapping;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// No longer file is made. Bytes.
const LENGTH_MAX: u64 = 1 << 40;
/// Of no longer one all is looked at: that takes memory.
const LOOKED_AT_MAX: usize = 1 << 20;

thread_local! {
    static STAGE: Stage = Stage::new();
}

/// A file that is used again and again.
struct Stage {
    directory: PathBuf,
    path: PathBuf,
    file: File,
    /// A page for headers.
    page: Mapping,
}

impl Stage {
    fn new() -> Stage {
        let directory = scratch();
        let path = directory.join("spool");
        let page = open(&directory.join("page"));
        page.set_len(PAGE as u64).expect("a length");
        let page = Mapping::of_file(&page, PAGE).expect("mapped");
        Stage { file: open(&path), path, directory, page }
    }

    /// A page that begins with these words.
    fn page_of(&self, words: &[u64; 9]) -> &Mapping {
        for (index, word) in words.iter().enumerate() {
            self.page.write(8 * index, &word.to_le_bytes());
        }
        &self.page
    }

    /// The checksum that a header with these words has.
    fn summed(&self, words: &[u64; 9]) -> u64 {
        checksum(self.page_of(words).at::<Header>(0))
    }

    /// As long as a file with this header should be.
    fn length_by(&self, words: &[u64; 9]) -> Option<u64> {
        let (layout, _) = layout_of(Some(self.page_of(words)), LENGTH_MAX).ok()?;
        Some(layout.total as u64)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.directory);
    }
}

/// A header, as it was written or changed, before a file of some length: it is opened as what it says, or
/// refused with words and not touched.
pub(crate) fn header(data: &[u8]) {
    STAGE.with(|stage| {
        let Stage { path, file, .. } = stage;
        let mut choices = Choices::new(data);
        let (page, length) = page(stage, &mut choices);
        file.set_len(0).expect("emptied");
        file.write_all_at(&page[..page.len().min(length as usize)], 0).expect("written");
        file.set_len(length).expect("a length");
        let before = state(file);
        match Spool::open(path) {
            Ok(spool) => {
                let spool = spool.expect("it is there");
                assert_sound(&spool, length);
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("spool"), "{text}");
                assert!(text.len() > 40, "too short to be of help: {text}");
            }
        }
        look(stage, &page, length);
        assert_eq!(state(file), before, "it was touched");
    });
}

fn open(path: &Path) -> File {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    file.expect("a file")
}

/// A first page, and how long the file is.
fn page(stage: &Stage, choices: &mut Choices<'_>) -> (Vec<u8>, u64) {
    let geometry = Geometry {
        lanes: 1 + choices.below(4) as u32,
        lane_bytes: PAGE as u64 * (1 + choices.below(4)),
        slots: 1 + choices.below(16) as u32,
        job_bytes: 1 + choices.below(100) as u32,
    };
    let mut words = [
        MAGIC,
        VERSION,
        geometry.lanes.into(),
        geometry.lane_bytes,
        geometry.slots.into(),
        geometry.job_bytes.into(),
        1,
        2,
        0,
    ];
    words[8] = stage.summed(&words);
    for _ in 0..choices.below(4) {
        let word = choices.below(9) as usize;
        match choices.below(3) {
            0 => words[word] ^= 1 << choices.below(64),
            1 => words[word] = choices.word(),
            // A damaged one that has a checksum all the same.
            _ => words[8] = stage.summed(&words),
        }
    }
    let layout = Layout::of(geometry);
    let length = match choices.below(6) {
        0 => choices.word() % LENGTH_MAX,
        1 => layout.slots as u64,
        2 => choices.below(8192),
        3 => (layout.total as u64 + choices.below(3)).saturating_sub(1),
        4 => stage.length_by(&words).unwrap_or(0),
        _ => layout.total as u64,
    };
    let mut page: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    page.extend_from_slice(choices.rest());
    page.truncate(PAGE);
    (page, length)
}

/// What is opened has the header of a spool, and all that it says to have.
fn assert_sound(spool: &Spool, length: u64) {
    let header = spool.header();
    let words = [&header.magic, &header.version].map(|word| word.load(Ordering::Relaxed));
    assert_eq!(words, [MAGIC, VERSION]);
    assert_eq!(header.checksum.load(Ordering::Relaxed), checksum(header));
    assert!(spool.layout.geometry.is_sound());
    let layout = &spool.layout;
    let whole = length >= layout.total as u64;
    assert!(whole || (spool.is_closed() && length == layout.slots as u64));
}

/// Somebody looks at it from outside.
fn look(stage: &Stage, page: &[u8], length: u64) {
    let mut words = [0; 9];
    for (word, bytes) in words.iter_mut().zip(page.chunks_exact(8)) {
        *word = bytes.try_into().map_or(0, u64::from_le_bytes);
    }
    let layout = layout_of(Some(stage.page_of(&words)), length);
    let looked = layout.map(|(layout, _)| looked_at(&layout, Extent::Jobs));
    if looked.is_ok_and(|bytes| bytes > LOOKED_AT_MAX) {
        return;
    }
    for extent in [Extent::Books, Extent::Jobs] {
        if let Ok(spool) = Spool::look(&stage.path, extent) {
            assert_sound(&spool, length);
        }
    }
}

/// All of the file that anybody could have changed.
fn state(file: &File) -> (u64, i64, i64, Vec<u8>) {
    let metadata = file.metadata().expect("its state");
    let mut begin = vec![0; 2 * PAGE];
    let read = file.read_at(&mut begin, 0).expect("its beginning");
    begin.truncate(read);
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec(), begin)
}
