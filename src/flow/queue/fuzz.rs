//! The queue with hostile bytes in it: see [`crate::fuzzing`].
//!
//! Nothing here writes a frame, a slot or a record by hand: what is sound is made by the real writers,
//! what is forged as well, at places and with numbers that no worker has; and then bytes are changed.

pub(crate) mod books;
pub(crate) mod lanes;
pub(crate) mod slots;

use super::commit::Commit;
use super::frame::Kind;
use super::lane::Staged;
use super::layout::Geometry;
use super::spool::Spool;
use crate::fuzzing::Choices;
use crate::sys::mmap::Mapping;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a lane.
const LANE: u64 = 4096;

/// A spool that is used again and again, each time as it was when it was created.
struct Stage {
    directory: PathBuf,
    spool: Spool,
    /// Its rings.
    rings: Vec<Mapping>,
    /// All of its bytes.
    fresh: Vec<u8>,
}

impl Stage {
    fn new(lanes: u32, slots: u32) -> Stage {
        let directory = scratch();
        let geometry = Geometry { lanes, lane_bytes: LANE, slots, job_bytes: 64 };
        let path = directory.join("spool");
        let mut spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("a spool");
        spool.keep_rings().expect("mapped");
        let rings = (0..lanes as usize).map(|lane| spool.map_ring(lane, true).expect("a ring"));
        let rings = rings.collect();
        let mut fresh = Vec::new();
        spool.mapping.append_to(0, spool.layout.total, &mut fresh);
        Stage { directory, spool, rings, fresh }
    }

    fn reset(&self) -> &Spool {
        self.spool.mapping.write(0, &self.fresh);
        &self.spool
    }

    /// Bytes of a lane, of which this many are there.
    fn bytes(&self, lane: usize, from: u64, to: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.rings[lane].append_to((from % LANE) as usize, (to - from) as usize, &mut bytes);
        bytes
    }

    /// Changes bytes of a lane: a bit, some bytes, or bytes of somewhere else in it.
    fn damage(&self, lane: usize, choices: &mut Choices<'_>) {
        let ring = &self.rings[lane];
        let place = choices.below(LANE) as usize;
        match choices.below(3) {
            0 => {
                let [byte] = ring.read::<1>(place);
                ring.write(place, &[byte ^ (1 << choices.below(8))]);
            }
            1 => {
                let len = choices.byte().into();
                ring.write(place, choices.bytes(len));
            }
            _ => {
                let mut bytes = Vec::new();
                let from = choices.below(LANE) as usize;
                ring.append_to(from, choices.below(LANE) as usize, &mut bytes);
                ring.write(place, &bytes);
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _removed = std::fs::remove_dir_all(&self.directory);
    }
}

/// A directory for this thread, in `PROCSIG_FUZZ_SCRATCH`, or in memory if there is such a place: a disk
/// would be written to all the time.
pub(crate) fn scratch() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let memory = Path::new("/dev/shm");
    let parent = match std::env::var_os("PROCSIG_FUZZ_SCRATCH") {
        Some(parent) => parent.into(),
        None if memory.is_dir() => memory.to_path_buf(),
        None => std::env::temp_dir(),
    };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = parent.join(format!("procsig-fuzzing-{}-{number}", std::process::id()));
    let _left_by_an_earlier_process = std::fs::remove_dir_all(&path);
    std::fs::create_dir(&path).expect("a directory");
    path
}

fn staged<'a>(records: impl IntoIterator<Item = &'a (Kind, Vec<u8>)>) -> Staged {
    let mut staged = Staged::default();
    for (kind, record) in records {
        let Ok(()) = staged.push(*kind, |bytes| {
            bytes.extend_from_slice(record);
            Ok::<(), Infallible>(())
        });
    }
    staged
}

/// Whatever was found: nothing was committed that is not published, and nothing freed that is not
/// committed.
fn assert_books_are_behind_the_lanes(spool: &Spool) {
    let books = Commit::load(spool);
    for (lane, head) in books.lanes.iter().enumerate() {
        let tail = spool.producer(lane).tail.load(Ordering::Acquire);
        let freed = spool.consumer(lane).freed.load(Ordering::Acquire);
        assert!(head.offset <= tail, "lane {lane}: committed up to {}, tail {tail}", head.offset);
        assert!(freed <= head.offset, "lane {lane}: freed {freed}, committed {}", head.offset);
        assert!(tail - freed <= LANE, "lane {lane}: more than a ring from {freed} to {tail}");
    }
}
