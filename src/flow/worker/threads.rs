//! The threads of a worker process.

use super::Herald;
use crate::error::Error;
use crate::stop::Stop;
use crate::sys::{fork, process};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the same on each of so many threads, the calling one among them. After an error the others
/// are asked to stop. One that another process would not get around counts more than others.
pub(super) fn on_threads(
    threads: u16,
    stop: &Stop,
    herald: &dyn Herald,
    main: impl Fn() -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let guarded = || {
        // Functions and commands catch their own panics. This is a bug of ours, with a job in
        // hand that nobody would finish: better to die at once, and be settled.
        let result = catch_unwind(AssertUnwindSafe(&main))
            .unwrap_or_else(|_| process::exit_now(fork::EXIT_PANIC));
        if let Err(error) = &result {
            if error.is_for_good() {
                herald.failed(error);
            }
            stop.request();
        }
        result
    };
    std::thread::scope(|scope| {
        let mut handles = Vec::new();
        let mut result = Ok(());
        for number in 1..threads {
            let builder = std::thread::Builder::new().name(format!("thread {number}"));
            match builder.spawn_scoped(scope, guarded) {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    stop.request();
                    result = Err(Error::system("can't start a thread")(error));
                    break;
                }
            }
        }
        if result.is_ok() {
            result = guarded();
        }
        for handle in handles {
            let ended = handle
                .join()
                .unwrap_or_else(|_| Err(Error::Failure("a thread has panicked".into())));
            result = match (result, ended) {
                (Err(first), Err(error)) if error.is_for_good() && !first.is_for_good() => {
                    Err(error)
                }
                (result, ended) => result.and(ended),
            };
        }
        result
    })
}
