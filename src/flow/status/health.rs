//! Is the pipeline well? For a probe that restarts what is not.
//!
//! What it proves: main is alive and not stopped, and reaps its children; no child is stopped; what is
//! published is written in time. What it does not prove: that a job which takes long makes progress
//! (give it a time-out), that main would answer a signal at once (it sleeps until something happens),
//! that results are right. A full disk and a stop under way are no illness: a restart helps with
//! neither.

use super::facts::{Doing, State, Status};
use crate::flow::queue::spool::Spool;
use crate::flow::queue::{orphans, processes};
use crate::sys::atomic::Ordering;
use crate::sys::proc_fs;

/// How much longer than `flush_after` a record may wait before something is wrong, in seconds: a disk
/// that is busy takes its time.
pub(crate) const PATIENCE_SECONDS: f64 = 30.0;

/// How much longer than its deadline a stop may take, in seconds.
const STOP_PATIENCE_SECONDS: f64 = 10.0;

/// `Ok`: it is well. `Err`: what is wrong. Both in a line.
pub(crate) type Verdict = Result<String, String>;

/// Judges what was seen.
pub(crate) fn judge(status: &Status) -> Verdict {
    let pid = status.main.pid.unwrap_or(0);
    match status.state {
        State::Never => return Err("not running: nothing was ever run with this spool".into()),
        State::Ended => {
            let code = status.exit_code.unwrap_or(0);
            return Err(format!("not running: it has ended with exit code {code}"));
        }
        State::Died => return Err(format!("not running: main (pid {pid}) was killed")),
        State::Orphans => {
            return Err(format!("main (pid {pid}) was killed; what it has left is finishing"));
        }
        State::Unseen => {
            return Err(
                "it runs in another PID namespace, so that nothing can be said from here; \
                        ask in its container"
                    .into(),
            );
        }
        State::Starting => return Ok("starting: it puts the spool in order".into()),
        State::Running | State::Stopping => {}
    }
    if matches!(status.main.process_state, Some('T' | 't')) {
        return Err(format!("main (pid {pid}) is stopped: send it SIGCONT"));
    }
    if let Some(stop) = status.stop.as_ref().filter(|_| status.state == State::Stopping) {
        return match stop.overdue_seconds {
            Some(by) if by > STOP_PATIENCE_SECONDS => {
                Err(format!("it is stopping, and should have ended {by:.0} s ago"))
            }
            _ => Ok(format!("stopping, {:.1} s left", stop.left_seconds.unwrap_or(0.0))),
        };
    }
    if let Some(stopped) = status.processes.iter().find(|it| it.state == Doing::Stopped) {
        let pid = stopped.pid.unwrap_or(0);
        return Err(format!("{} (pid {pid}) is stopped: send it SIGCONT", stopped.role));
    }
    if let Some(seconds) = status.buffer.no_room_seconds {
        return Ok(format!(
            "running, but the disk is full: it has been waiting for room for {seconds:.0} s"
        ));
    }
    let patience = status.buffer.flush_after_seconds.unwrap_or(1.0) + PATIENCE_SECONDS;
    if let Some(oldest) = status.waiting.oldest_seconds.filter(|oldest| *oldest > patience) {
        return Err(format!(
            "{} records wait to be written, the oldest for {oldest:.0} s: the buffer does not get on",
            status.waiting.records
        ));
    }
    Ok(format!("running, {} processes", status.processes.len() + 1))
}

/// Is it ready to work: main is well, and all children are?
pub(crate) fn judge_ready(status: &Status) -> Verdict {
    let well = judge(status)?;
    if status.state != State::Running {
        return Err(format!("not ready: {well}"));
    }
    let unready = |state| matches!(state, Doing::Starting | Doing::Dead | Doing::Unknown);
    match status.processes.iter().find(|it| unready(it.state)) {
        Some(process) => Err(format!("not ready: {} is not", process.role)),
        // Not even entered: main has just begun.
        None if status.processes.is_empty() => Err("not ready: nothing was started yet".into()),
        None => Ok(format!("ready: {well}")),
    }
}

/// Children that have ended and that main has not reaped. It does that at once, so that who stands
/// here twice, a while apart, says that main hangs.
pub(crate) fn unreaped(spool: &Spool) -> Vec<u64> {
    // What a dead main has left behind is not its to reap.
    let Some(main) = orphans::main_of(spool) else { return Vec::new() };
    let entry = |index: usize| {
        let process = spool.process(index);
        let pid = process.pid.load(Ordering::Relaxed);
        let stat = proc_fs::stat(i32::try_from(pid).ok()?)?;
        let start = process.start.load(Ordering::Relaxed);
        (stat.ended() && stat.start_time == start && stat.ppid == main).then_some(pid)
    };
    (0..processes::worker(spool.lanes())).filter_map(entry).collect()
}
