//! The one place that atomics come from, so that a model checker's can stand in for them.

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The fence between "I published" and "is anyone asleep", and between "I am about to sleep" and
/// "is there anything".
///
/// Both sides need it: a release store followed by a load of another word may be reordered, and
/// then each side misses the other and the sleeper sleeps for ever.
pub(crate) fn full_fence() {
    fence(Ordering::SeqCst);
}
