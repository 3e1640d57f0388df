//! What every child does before and after its own work.

use crate::error::{Error, ExitCode};
use crate::stop::Stop;
use crate::sys::{clock, descriptor, proc_fs, process, signal};
use ipc_channel::ipc::{IpcReceiver, IpcSender};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use serde::{Deserialize, Serialize};
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Before an order is waited for again that could not be received.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);

/// What main tells a child. The closing of the channel says the same.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Stop; what is not done until then (on the monotonic clock, in nanoseconds) is killed.
    Stop { deadline: u64 },
    /// Open the files that are written to anew, by their names: somebody has moved them away.
    /// Answered by [`Report::Reopened`]; not sent again before that.
    Reopen,
}

/// What a child tells main.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Report {
    /// It is ready to work.
    Ready,
    /// It has no more to do, and is about to exit.
    Finished,
    /// It can't go on, and exits when it has finished what it has in hand. Starting it again would
    /// not help.
    Failed { code: u8, message: String },
    /// It has opened its files anew, as it was told; or has said in the log why it could not.
    Reopened,
    /// It is about to exit because a job in it has timed out: this one.
    Overdue { message: String },
    /// It has done as much as one process is to do, which is this, and is about to exit.
    Recycled { why: String },
    /// It can't go on for this reason, and is about to exit. Another start may help.
    Dying { message: String },
}

/// A child's end of its reports. If main is gone nobody needs to know what is sent.
pub(crate) struct Reports(Mutex<Sender>);

struct Sender {
    reports: IpcSender<Report>,
    /// It was told that this child has failed.
    failed: bool,
}

impl Reports {
    pub(crate) fn new(reports: IpcSender<Report>) -> Reports {
        Reports(Mutex::new(Sender { reports, failed: false }))
    }

    /// Says that this child is ready to work.
    pub(crate) fn ready(&self) {
        self.send(Report::Ready);
    }

    /// Says that this child has done what [`Order::Reopen`] has told it.
    pub(crate) fn reopened(&self) {
        self.send(Report::Reopened);
    }

    /// Says that this child ends itself because a job in it has timed out.
    ///
    /// Main writes it into the log: what is hung may hold this process's lock of standard error.
    pub(crate) fn overdue(&self, message: String) {
        self.send(Report::Overdue { message });
    }

    /// Says that no child like this one can go on. Main is told once.
    ///
    /// Only then it is logged: a function that hangs may hold the lock of standard error.
    pub(crate) fn failed(&self, error: &Error) {
        let code = error.exit_code().code();
        let mut sender = self.lock();
        if !std::mem::replace(&mut sender.failed, true) {
            let _sent = sender.reports.send(Report::Failed { code, message: error.to_string() });
        }
        drop(sender);
        log::error!("{error}");
    }

    /// Says how the work has ended, and returns what to exit with.
    pub(crate) fn ended(&self, ended: Result<Outcome, Error>) -> i32 {
        let code = self.tell_end(ended);
        // Nobody says it later.
        crate::log::flush();
        code
    }

    fn tell_end(&self, ended: Result<Outcome, Error>) -> i32 {
        let error = match ended {
            Ok(Outcome::Stopped) => return 0,
            Ok(Outcome::Finished) => {
                self.send(Report::Finished);
                return ExitCode::Success.code().into();
            }
            Ok(Outcome::Recycled(why)) => {
                self.send(Report::Recycled { why });
                return ExitCode::Success.code().into();
            }
            Err(error) => error,
        };
        if !error.is_for_good() {
            log::error!("{error}");
            self.send(Report::Dying { message: error.to_string() });
        } else if !self.lock().failed {
            self.failed(&error);
        }
        error.exit_code().code().into()
    }

    fn send(&self, report: Report) {
        let _sent = self.lock().reports.send(report);
    }

    fn lock(&self) -> MutexGuard<'_, Sender> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a child's work has ended, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was told to stop.
    Stopped,
    /// It has no more to do.
    Finished,
    /// It has done enough, which is this: another one is to go on.
    Recycled(String),
}

/// A child's ends of its two channels, and what it needs to know about main.
pub(crate) struct Link {
    pub orders: IpcReceiver<Order>,
    pub reports: IpcSender<Report>,
    /// Descriptors of main and of other children.
    pub foreign: Vec<RawFd>,
    pub main: Pid,
    /// Soft limit of open descriptors as the user has set it.
    pub descriptors: u64,
}

/// Becomes a child: nothing before this may take a lock or fail.
///
/// # Errors
/// What the system says of dispositions and descriptors.
pub(crate) fn become_child(link: &mut Link, name: &str, session: bool) -> std::io::Result<()> {
    signal::become_child()?;
    process::set_comm(name);
    crate::log::set_role(name);
    descriptor::close_foreign(std::mem::take(&mut link.foreign));
    process::restore_descriptor_limit(link.descriptors);
    if session {
        nix::unistd::setsid()?;
    }
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}

/// What a child does when it is told something, besides raising its stop.
pub(crate) struct Told<R, O> {
    /// Opens its files anew and answers. It must not wait: whoever waits here hears no stop.
    pub reopen: R,
    /// Main is gone: waits for what has to be waited for without it.
    pub orphaned: O,
    /// How long after that this process may last.
    pub limit: Duration,
}

/// Waits, in a small thread of its own, for orders, and raises `stop` when one of them says so.
///
/// When main is gone this process first waits for what has to be waited for without it; and since
/// nobody is left to kill us at a deadline, we end ourselves at the limit after that.
pub(crate) fn listen<R, O>(
    orders: IpcReceiver<Order>,
    main: Pid,
    stop: Stop,
    told: Told<R, O>,
) -> Result<(), Error>
where
    R: Fn() + Send + 'static,
    O: FnOnce() + Send + 'static,
{
    let alone = getppid() != main;
    let Told { reopen, orphaned, limit } = told;
    let hear = move || {
        while let Some(order) = if alone { None } else { next(&orders, main) } {
            match order {
                Order::Stop { deadline } => {
                    let left = deadline.saturating_sub(clock::nanos(clock::now()));
                    log::debug!("told to stop, {:.3} s left", left as f64 / 1e9);
                    crate::log::hurry();
                    stop.request_until(deadline);
                    // Who does not end in time is killed, and says no more.
                    crate::log::flush();
                }
                Order::Reopen => reopen(),
            }
        }
        // Dead, its end of the channel closed. Or dead before we had our descriptors in
        // order, when somebody else may still hold that end.
        log::warn!("the supervisor is gone; stopping");
        crate::log::hurry();
        let until = clock::now().saturating_add(limit);
        orphaned();
        stop.request();
        end_at(until, &stop);
    };
    std::thread::Builder::new()
        .name("stop".into())
        .stack_size(256 << 10)
        .spawn(hear)
        .map(drop)
        .map_err(Error::system("can't start the thread that waits for the stop"))
}

/// The next order; `None`: main is gone. That is told by the closing of the channel, and not by a call
/// that has failed for the moment.
fn next(orders: &IpcReceiver<Order>, main: Pid) -> Option<Order> {
    loop {
        match orders.recv() {
            Ok(order) => return Some(order),
            Err(ipc_channel::IpcError::Io(_)) if getppid() == main => {
                std::thread::sleep(RECEIVE_PAUSE);
            }
            Err(_) => return None,
        }
    }
}

/// Ends this process at that moment, if it has not ended before, with all it has started.
fn end_at(until: Duration, stop: &Stop) -> ! {
    while clock::now() < until {
        std::thread::sleep(until.saturating_sub(clock::now()));
    }
    log::error!("did not come to an end in time; what is not done is in the spool");
    crate::log::flush();
    // A command that we kill now must not be taken for a job that has failed.
    stop.condemn();
    let own = std::process::id();
    let session = nix::unistd::getsid(None).map_or(0, Pid::as_raw);
    // Only a session of our own is ours to end.
    if session.unsigned_abs() == own {
        for pid in proc_fs::in_session(session) {
            if pid.unsigned_abs() != own {
                let _killed = process::send(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
    process::exit_now(ExitCode::Killed.code().into())
}

/// Detaches from the input, which only the source reads.
pub(crate) fn leave_stdin() -> Result<(), Error> {
    descriptor::detach_stdin().map_err(Error::system("can't open /dev/null"))
}
