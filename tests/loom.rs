//! The queue's atomics under loom: every order of steps of two or three threads, and every order in
//! which the memory model lets their stores be seen.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --test loom --release`; without that flag this is empty.
//!
//! What runs here is the real code of `bell`, `ends`, `jobs` and `settle`, compiled into this test; only
//! what is below them is a stand-in: atomics and futexes by loom, and a spool that is a few vectors.
//! The stand-in atomics can be told to be weaker than they were asked to be, or to have no fences:
//! each test must fail then, and that is tested as well.
#![cfg(loom)]
#![allow(dead_code)]

#[path = "loom"]
mod sys {
    #[path = "atomic.rs"]
    pub(crate) mod atomic;
    #[path = "clock.rs"]
    pub(crate) mod clock;
    #[path = "futex.rs"]
    pub(crate) mod futex;
}

#[path = "loom"]
mod queue {
    #[path = "../../src/flow/queue/bell.rs"]
    pub(crate) mod bell;
    #[path = "../../src/flow/queue/ends.rs"]
    pub(crate) mod ends;
    #[path = "../../src/flow/queue/jobs.rs"]
    pub(crate) mod jobs;
    #[path = "layout.rs"]
    pub(crate) mod layout;
    #[path = "../../src/flow/queue/settle.rs"]
    pub(crate) mod settle;
    #[path = "../../src/flow/queue/slot.rs"]
    pub(crate) mod slot;
    #[path = "spool.rs"]
    pub(crate) mod spool;
}

#[path = "loom/bells.rs"]
mod bells;
#[path = "loom/lanes.rs"]
mod lanes;
#[path = "loom/slots.rs"]
mod slots;

use sys::atomic::Weakness;

/// Says, in a process of its own, what is to be weak.
const WEAKNESS: &str = "LOOM_WEAKNESS";

/// The test `name` must hold in every order, and must fail with each of the weaknesses: in a process
/// of its own, since a model that fails may abort. `preemptions`: of running threads, at the most.
fn holds_but_not_with(
    name: &str,
    weaknesses: &[Weakness],
    preemptions: Option<usize>,
    test: impl Fn() + Sync + Send + 'static,
) {
    let weakness = std::env::var(WEAKNESS).map_or(Weakness::None, |name| Weakness::named(&name));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        sys::atomic::begin(weakness);
        sys::futex::forget();
        test();
    });
    if weakness != Weakness::None {
        return;
    }
    for weakness in weaknesses {
        let program = std::env::current_exe().expect("the test's own name");
        let output = std::process::Command::new(program)
            .args(["--include-ignored", "--exact", name])
            .env(WEAKNESS, format!("{weakness:?}"))
            .output()
            .expect("it runs");
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("running 1 test"), "{name} is no test");
        assert!(!output.status.success(), "loom has found nothing wrong with {weakness:?}");
        println!("{weakness:?}: {}", said.lines().find(|line| is_finding(line)).unwrap_or(""));
    }
}

fn is_finding(line: &str) -> bool {
    ["deadlock", "Causality", "assertion", "never published", "ready again", "lap"]
        .iter()
        .any(|word| line.contains(word))
}
