//! The least that a supervisor can do: processes are forked, told to end, waited for.
#![allow(unsafe_code)]

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pause};
use std::io::{self, Read, Write};

/// Starts so many processes that do nothing but wait; says so by a byte when all are there; waits for
/// SIGTERM if it is to; ends them all, and waits for their ends.
///
/// # Errors
/// What the system says.
pub fn supervise(processes: usize, wait: bool) -> io::Result<()> {
    let term = SigSet::from(Signal::SIGTERM);
    if wait {
        term.thread_block()?;
    }
    let (mut said, say) = io::pipe()?;
    let children = (0..processes).map(|_| start(&term, &say)).collect::<io::Result<Vec<Pid>>>()?;
    drop(say);
    said.read_exact(&mut vec![0; processes])?;
    if wait {
        io::stdout().write_all(b".")?;
        io::stdout().flush()?;
        term.wait()?;
    }
    for child in &children {
        kill(*child, Signal::SIGTERM)?;
    }
    for child in &children {
        match waitpid(*child, None)? {
            WaitStatus::Signaled(_, Signal::SIGTERM, _) => {}
            other => return Err(io::Error::other(format!("{other:?}"))),
        }
    }
    Ok(())
}

/// A process that says that it is there, and waits.
fn start(term: &SigSet, mut say: &io::PipeWriter) -> io::Result<Pid> {
    // SAFETY: this program has a single thread here, so nothing is locked in the child.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let ready = say.write_all(b".").and_then(|()| Ok(term.thread_unblock()?));
            while ready.is_ok() {
                pause();
            }
            std::process::exit(1)
        }
    }
}
