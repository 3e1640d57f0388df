//! A bell: the one word that a process sleeps on, and that others ring.
//!
//! The word is 0 while its owner sleeps or is about to, and 1 once it was rung. So ringing costs
//! a load while the owner is awake, and one system call for each sleep.
//!
//! Why nobody sleeps through a ring: the owner stores 0, fences, then looks at its condition; the
//! ringer makes the condition true, fences, then looks at the word. Whatever the order, one of
//! them sees the other.

use crate::sys::atomic::{AtomicU32, Ordering, full_fence};
use crate::sys::futex;
use std::time::Duration;

/// Rings if the owner sleeps or is about to. What the owner waits for must have been stored before.
pub(crate) fn ring(word: &AtomicU32) {
    full_fence();
    ring_after_fence(word);
}

/// As [`ring`], for a caller that has fenced already.
pub(crate) fn ring_after_fence(word: &AtomicU32) {
    if word.load(Ordering::Relaxed) == 0 && word.swap(1, Ordering::SeqCst) == 0 {
        futex::wake(word, u32::MAX, futex::EVERYONE);
    }
}

/// Rings also if the word says that the owner is awake: it may say so because the one who rang
/// was killed before it could wake anyone.
pub(crate) fn ring_for_sure(word: &AtomicU32) {
    word.store(1, Ordering::SeqCst);
    futex::wake(word, u32::MAX, futex::EVERYONE);
}

/// Sleeps until rung, or until the moment `until`, unless `awaited` is true already.
///
/// May return early; the caller looks again.
pub(crate) fn sleep_unless(
    word: &AtomicU32,
    until: Option<Duration>,
    mut awaited: impl FnMut() -> bool,
) {
    word.store(0, Ordering::SeqCst);
    full_fence();
    if !awaited() {
        futex::wait(word, 0, until, futex::EVERYONE);
    }
    word.store(1, Ordering::SeqCst);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sys::atomic::AtomicU64;

    #[test]
    fn nobody_sleeps_through_a_ring() {
        let rounds = if cfg!(miri) { 200 } else { 20_000 };
        let word = AtomicU32::new(0);
        let value = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for next in 1..=rounds {
                    while value.load(Ordering::Acquire) < next {
                        sleep_unless(&word, None, || value.load(Ordering::Acquire) >= next);
                    }
                }
            });
            for next in 1..=rounds {
                value.store(next, Ordering::Release);
                ring(&word);
            }
        });
    }
}
