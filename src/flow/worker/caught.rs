//! Calls of somebody else's code, which may panic.

use super::Error;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls it. A panic becomes an error with the panic's message.
///
/// What the call has left half done is seen by nobody, or is dropped by the caller.
pub(crate) fn caught<R>(call: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = format!("panicked: {}", message(&*panic));
        // What was thrown may panic when it is dropped, and so may what that throws.
        if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(another);
        }
        message
    })
}

/// Drops what somebody has set up. A panic is said, and nothing else comes of it.
pub(super) fn tear_down(what: impl Sized) {
    if let Err(message) = caught(|| drop(what)) {
        log::error!("the tear-down has {message}");
    }
}

/// Calls a set-up.
///
/// # Errors
/// What it says, or that it has panicked.
pub(super) fn set_up<S>(
    call: impl FnOnce() -> Result<S, crate::flow::job::JobError>,
) -> Result<S, Error> {
    match caught(call) {
        Ok(Ok(state)) => Ok(state),
        Ok(Err(error)) => Err(error.into_error("the set-up has failed")),
        Err(message) => Err(Error::Failure(format!("the set-up has {message}"))),
    }
}

/// The text of a panic.
fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics when it is dropped, with another one of its kind.
    struct Bomb(u32);

    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 > 0 && !std::thread::panicking() {
                std::panic::panic_any(Bomb(self.0 - 1));
            }
        }
    }

    #[test]
    fn a_panic_is_told_by_its_message() {
        assert_eq!(caught(|| panic!("at {}", 5)), Err::<(), _>("panicked: at 5".into()));
        assert_eq!(caught(|| panic!("plain")), Err::<(), _>("panicked: plain".into()));
        assert_eq!(caught(|| 7), Ok(7));
    }

    #[test]
    fn what_is_thrown_may_panic_again_when_it_is_dropped() {
        assert_eq!(
            caught(|| std::panic::panic_any(Bomb(3))),
            Err::<(), _>("panicked: no message".into())
        );
        tear_down(Bomb(3));
    }
}
