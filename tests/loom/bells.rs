//! Nobody sleeps through a ring.

use crate::queue::bell;
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering, Weakness};
use crate::{holds_but_not_with, sys};
use loom::sync::Arc;
use loom::thread;

struct Shared {
    word: AtomicU32,
    value: AtomicU64,
}

fn shared() -> Arc<Shared> {
    // As it is while its owner is awake.
    let shared = Arc::new(Shared { word: AtomicU32::new(1), value: AtomicU64::new(0) });
    sys::futex::prepare(&shared.word);
    shared
}

fn sleep_until(shared: &Shared, value: u64) {
    while shared.value.load(Ordering::Acquire) < value {
        bell::sleep_unless(&shared.word, None, || shared.value.load(Ordering::Acquire) >= value);
    }
}

#[test]
fn nobody_sleeps_through_a_ring() {
    // Without fences the sleeper misses the value, and the ringer that somebody sleeps.
    holds_but_not_with("bells::nobody_sleeps_through_a_ring", &[Weakness::NoFences], None, || {
        let shared = shared();
        let ringer = Arc::clone(&shared);
        let ringer = thread::spawn(move || {
            ringer.value.store(1, Ordering::Release);
            bell::ring(&ringer.word);
        });
        sleep_until(&shared, 1);
        ringer.join().expect("no panic");
    });
}

#[test]
fn a_second_sleep_is_rung_for_as_well() {
    holds_but_not_with(
        "bells::a_second_sleep_is_rung_for_as_well",
        &[Weakness::NoFences],
        Some(3),
        || {
            let shared = shared();
            let ringer = Arc::clone(&shared);
            let ringer = thread::spawn(move || {
                for value in 1..=2 {
                    ringer.value.store(value, Ordering::Release);
                    bell::ring(&ringer.word);
                }
            });
            sleep_until(&shared, 1);
            sleep_until(&shared, 2);
            ringer.join().expect("no panic");
        },
    );
}

#[test]
fn of_two_ringers_none_is_missed() {
    holds_but_not_with(
        "bells::of_two_ringers_none_is_missed",
        &[Weakness::NoFences],
        Some(2),
        || {
            let shared = shared();
            let ringers: Vec<_> = (0..2)
                .map(|_| {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || {
                        shared.value.fetch_add(1, Ordering::AcqRel);
                        bell::ring(&shared.word);
                    })
                })
                .collect();
            sleep_until(&shared, 2);
            for ringer in ringers {
                ringer.join().expect("no panic");
            }
        },
    );
}
