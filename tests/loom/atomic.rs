//! Stands in for `src/sys/atomic.rs`: loom's atomics, weaker than asked for if a test wants that.

use std::cell::Cell;

pub(crate) use loom::sync::atomic::Ordering;

/// What is taken from the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weakness {
    None,
    /// No fence does anything.
    NoFences,
    /// No store and no compare-and-swap releases.
    NoRelease,
    /// No load and no compare-and-swap acquires.
    NoAcquire,
}

impl Weakness {
    pub(crate) fn named(name: &str) -> Weakness {
        let all = [Weakness::NoFences, Weakness::NoRelease, Weakness::NoAcquire];
        let found = all.into_iter().find(|weakness| format!("{weakness:?}") == name);
        found.expect("a name that there is")
    }
}

std::thread_local! {
    // Loom runs all threads of a model on one of the system's.
    static WEAKNESS: Cell<Weakness> = const { Cell::new(Weakness::None) };
    static STEPS: Cell<Option<&'static loom::sync::atomic::AtomicU32>> = const { Cell::new(None) };
}

/// A model begins.
pub(crate) fn begin(weakness: Weakness) {
    WEAKNESS.set(weakness);
    // Leaked: see the futex.
    STEPS.set(Some(Box::leak(Box::new(loom::sync::atomic::AtomicU32::new(0)))));
}

/// Threads may change places here.
///
/// Loom sees by itself where that can matter, but of each word it remembers the last access alone: a
/// thread that looks at a word and then swaps it hides the other's look before. All threads count
/// their steps in one word, so that any two steps are tried in both orders. The count is relaxed: it
/// orders nothing for anybody else.
fn step() {
    if let Some(steps) = STEPS.get() {
        steps.fetch_add(1, Ordering::Relaxed);
    }
}

/// What is left of an order.
fn weakened(order: Ordering) -> Ordering {
    match (WEAKNESS.get(), order) {
        (Weakness::NoRelease, Ordering::Release) => Ordering::Relaxed,
        (Weakness::NoRelease, Ordering::AcqRel) => Ordering::Acquire,
        (Weakness::NoAcquire, Ordering::Acquire) => Ordering::Relaxed,
        (Weakness::NoAcquire, Ordering::AcqRel) => Ordering::Release,
        _ => order,
    }
}

pub(crate) fn full_fence() {
    if WEAKNESS.get() != Weakness::NoFences {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

macro_rules! atomic {
    ($name:ident, $inner:ty, $value:ty) => {
        #[derive(Debug, Default)]
        pub(crate) struct $name($inner);

        impl $name {
            pub(crate) fn new(value: $value) -> $name {
                $name(<$inner>::new(value))
            }
            pub(crate) fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(weakened(order))
            }
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, weakened(order));
            }
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.swap(value, order)
            }
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_add(value, order)
            }
            pub(crate) fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_sub(value, order)
            }
            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_or(value, order)
            }
            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(current, new, weakened(success), failure)
            }
            pub(crate) fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                step();
                self.0.fetch_update(set, fetch, update)
            }
        }
    };
}

atomic!(AtomicU32, loom::sync::atomic::AtomicU32, u32);
atomic!(AtomicU64, loom::sync::atomic::AtomicU64, u64);
