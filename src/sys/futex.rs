//! Sleeping on a word of shared memory, across processes (so never `PRIVATE`).

use super::atomic::AtomicU32;
use super::clock;
use rustix::io::Errno;
use rustix::thread::futex;
use std::num::NonZeroU32;
use std::time::Duration;

/// The set of sleepers that a wake-up is for: a sleeper in set `a` hears wakers of `a` and of
/// [`EVERYONE`].
pub(crate) type Set = NonZeroU32;

/// All sleepers.
pub(crate) const EVERYONE: Set = NonZeroU32::MAX;

/// Sleeps while `word` is `expected`, until woken or until the moment `until` on
/// [`clock::now`]'s clock.
///
/// May return early for no reason; the caller looks at its condition again.
pub(crate) fn wait(word: &AtomicU32, expected: u32, until: Option<Duration>, set: Set) {
    let until = until.map(clock::timespec);
    match futex::wait_bitset(word, futex::Flags::empty(), expected, until.as_ref(), set) {
        // Woken, the word had changed already, the time is up, or a signal came: all the same
        // to a caller that looks at its condition again.
        Ok(()) | Err(Errno::AGAIN | Errno::TIMEDOUT | Errno::INTR) => {}
        // Nothing else can happen to a valid, aligned word. Going on in a loop that looks at its
        // condition is safe, if wasteful.
        Err(_) => std::thread::yield_now(),
    }
}

/// Wakes up to `count` sleepers.
pub(crate) fn wake(word: &AtomicU32, count: u32, set: Set) {
    // The only errors are those of an invalid address.
    let _woken = futex::wake_bitset(word, futex::Flags::empty(), count.min(i32::MAX as u32), set);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::atomic::Ordering;

    #[test]
    fn a_changed_word_is_not_slept_on() {
        wait(&AtomicU32::new(1), 0, None, EVERYONE);
    }

    #[test]
    fn a_sleep_ends_at_its_moment() {
        let until = clock::now() + Duration::from_millis(5);
        let word = AtomicU32::new(0);
        while clock::now() < until {
            wait(&word, 0, Some(until), EVERYONE);
        }
    }

    #[test]
    fn a_sleeper_hears_its_own_set() {
        let word = AtomicU32::new(0);
        let set = Set::new(4).expect("not zero");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::SeqCst) == 0 {
                    wait(&word, 0, None, set);
                }
            });
            word.store(1, Ordering::SeqCst);
            wake(&word, u32::MAX, set);
        });
    }
}
