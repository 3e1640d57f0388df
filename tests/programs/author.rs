//! Records that tell who has made them, and in which order.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

/// Who numbers what it emits or writes: a name that no other has, and how much there was so far.
pub struct Author {
    pub name: String,
    pub count: u64,
}

impl Author {
    pub fn new() -> Author {
        // Two threads can be born in the same nanosecond, and numbers of processes come again.
        static THREADS: AtomicU32 = AtomicU32::new(0);
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        let since = SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos();
        Author { name: format!("{}-{number}-{since}", std::process::id()), count: 0 }
    }

    pub fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}
