//! Stands in for `src/sys/futex.rs`. As in the kernel, the word is looked at under the lock that
//! wakers take, so a sleeper is woken, or has seen the word change.

use super::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};
use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

pub(crate) type Set = NonZeroU32;

pub(crate) const EVERYONE: Set = NonZeroU32::MAX;

/// The kernel's queue of sleepers on a word. Leaked: a model that fails leaves loom's objects behind
/// when nothing of loom may be dropped any more.
type Queue = &'static (Mutex<()>, Condvar);

std::thread_local! {
    static QUEUES: RefCell<HashMap<usize, Queue>> = RefCell::default();
}

/// Another model begins; what was of the last one is not to be touched any more.
pub(crate) fn forget() {
    QUEUES.with(|queues| std::mem::take(&mut *queues.borrow_mut()));
}

/// Makes the queue of a word, which must be done before threads race for it.
pub(crate) fn prepare(word: &AtomicU32) {
    let _made = queue(word);
}

fn queue(word: &AtomicU32) -> Queue {
    let address = std::ptr::from_ref(word).addr();
    QUEUES.with(|queues| {
        let new = || -> Queue { Box::leak(Box::new((Mutex::new(()), Condvar::new()))) };
        *queues.borrow_mut().entry(address).or_insert_with(new)
    })
}

/// Sleeps for ever: a test that needs the time to pass would hide a lost wake-up.
pub(crate) fn wait(word: &AtomicU32, expected: u32, _until: Option<Duration>, _set: Set) {
    let queue = queue(word);
    let guard = queue.0.lock().expect("no thread panics");
    if word.load(Ordering::SeqCst) == expected {
        let _guard = queue.1.wait(guard).expect("no thread panics");
    }
}

pub(crate) fn wake(word: &AtomicU32, _count: u32, _set: Set) {
    let queue = queue(word);
    let _guard = queue.0.lock().expect("no thread panics");
    queue.1.notify_all();
}
