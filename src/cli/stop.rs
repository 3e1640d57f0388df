//! `procsig stop`: asks for the ordered stop, shows it as it happens, and exits as the daemon did.
//!
//! The supervisor is known by its pid and its start time, and held by a pidfd before it is signalled: a
//! process that has got its number since is never hit. Nothing is killed. A stop that is under way
//! already is only watched, since another signal would kill the workers.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;

use crate::config::raw::{self, Known};
use crate::error::{Error, ExitCode};
use crate::inspect::find;
use crate::inspect::last_run::{LastRun, Main};
use crate::inspect::progress::Progress;
use crate::inspect::removed;
use crate::log::escape;
use crate::sys::pidfd::PidFd;
use crate::sys::{clock, proc_fs, signal};

/// How often the history is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it is said who is waited for, when nothing happens.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// So much longer than the deadline a stop is waited for, unless something else was asked.
const BEYOND_DEADLINE: Duration = Duration::from_secs(10);
/// A supervisor that has not begun the stop by then is said to hang.
const HEARS_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct StopArguments {
    /// The configuration that is run, or the spool [default: the spool in this directory]
    #[arg(value_name = "CONFIG.toml|SPOOL")]
    pub(super) place: Option<PathBuf>,

    /// Wait no longer than this, then exit with 1; the stop goes on [default: the deadline and 10s]
    #[arg(long, value_name = "DURATION", value_parser = raw::positive_duration)]
    timeout: Option<Duration>,

    /// Show nothing but mistakes
    #[arg(short, long)]
    quiet: bool,
}

/// Stops what runs with a spool, and waits for its end.
///
/// # Errors
/// If there is no spool; if it can't be signalled; if it has not ended in time.
pub(super) fn stop(arguments: &StopArguments, known: &Known) -> Result<ExitCode, Error> {
    let place = arguments.place.as_deref();
    let path = find::spool(place, known)?;
    if is_missing(&path) {
        refuse_removed(&path)?;
    }
    // A configuration that is valid may not have been run yet; a spool that is named has to be there.
    if place != Some(&*path) && is_missing(&path) {
        if !arguments.quiet {
            let _said = writeln!(
                io::stdout(),
                "{}: nothing was run with it yet; nothing to stop",
                escape(&place.unwrap_or(&path).display().to_string())
            );
        }
        return Ok(ExitCode::Success);
    }
    // A Ctrl-C ends the watching, and that has to be said.
    signal::block_handled().map_err(Error::system("can't block signals"))?;
    let run = LastRun::look(&path)?;
    let watch = Watch { path: &path, run_id: run.run_id, arguments, began: clock::now() };
    match run.main {
        Main::Never => watch.say("nothing was run with this spool yet; nothing to stop"),
        Main::Exited => {
            let code = run.exit.map_or("unknown".into(), |code| code.to_string());
            watch.say(&format!("not running: the last run has ended with exit code {code}"));
        }
        Main::Killed if run.children == 0 => watch.say(
            "not running: the supervisor of the last run was killed, and all its processes have \
             ended. What they have not written is in the spool; start it again to go on",
        ),
        Main::Killed => return watch.orphans(),
        Main::Elsewhere => {
            return Err(Error::Failure(format!(
                "{}: it runs where its processes can't be seen from here, most likely in a \
                 container: stop the container (`docker stop` sends what it needs), or run this \
                 command in there",
                path.display()
            )));
        }
        Main::Runs(pid) | Main::Frozen(pid) => return watch.stop_main(pid),
    }
    Ok(ExitCode::Success)
}

/// Without its spool a run can't be watched, nor known for certain: a person has to stop it.
fn refuse_removed(path: &Path) -> Result<(), Error> {
    let Some(pid) = removed::supervisor(path) else { return Ok(()) };
    Err(Error::Failure(format!(
        "{}: this spool was removed while it is in use, so its run can't be watched from here. To stop it \
         in order: kill -TERM {pid}. It writes the spool to its place again as the last it does",
        path.display()
    )))
}

fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

struct Watch<'a> {
    path: &'a Path,
    run_id: u64,
    arguments: &'a StopArguments,
    began: Duration,
}

impl Watch<'_> {
    fn stop_main(&self, pid: i32) -> Result<ExitCode, Error> {
        let main = match PidFd::open(pid) {
            Ok(main) => main,
            // Gone in this moment.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return self.ended(),
            Err(error) => return Err(Error::system("can't watch the supervisor")(error)),
        };
        // Still the same one after we have got hold of it?
        let run = LastRun::look(self.path)?;
        if run.run_id != self.run_id || !matches!(run.main, Main::Runs(_) | Main::Frozen(_)) {
            return self.ended();
        }
        check_owner(&run, pid)?;
        let name = run.about.as_ref().map_or("the pipeline", |about| &about.name).to_owned();
        if run.story.stop.is_empty() {
            main.send(Signal::SIGTERM).map_err(|error| self.not_signalled(pid, &error))?;
            self.say(&format!("stopping {name} (pid {pid})"));
        } else {
            self.say(&format!("{name} (pid {pid}) is being stopped already"));
        }
        let patience = self.arguments.timeout.unwrap_or(run.deadline + BEYOND_DEADLINE);
        let mut progress = Progress::default();
        let (mut said, mut hung) = (clock::now(), false);
        while !main.wait(Some(clock::now() + LOOK_EVERY)).unwrap_or(true) {
            let now = clock::now();
            self.check_interrupt()?;
            let run = LastRun::look(self.path)?;
            let news = progress.news(&run);
            if !news.is_empty() {
                said = now;
            }
            news.iter().for_each(|line| self.say(line));
            if !hung && run.story.stop.is_empty() && now >= self.began + HEARS_WITHIN {
                self.say(&hangs(&run, pid));
                hung = true;
            }
            if now >= said + SAY_EVERY {
                said = now;
                if let Some(line) = progress.waiting(&run, now) {
                    self.say(&line);
                }
            }
            if now >= self.began + patience {
                return Err(self.timed_out(&run, pid));
            }
        }
        let run = LastRun::look(self.path)?;
        if run.run_id == self.run_id {
            progress.news(&run).iter().for_each(|line| self.say(line));
        }
        self.ended()
    }

    /// The supervisor is gone: how has it ended?
    fn ended(&self) -> Result<ExitCode, Error> {
        let run = LastRun::look(self.path)?;
        if run.run_id != self.run_id {
            self.say(
                "it has ended, and another run has begun since: whoever watches over it has \
                      started it again",
            );
            return Ok(ExitCode::Success);
        }
        let Some(code) = run.exit else { return self.orphans() };
        if let Some(balance) = &run.balance {
            self.say(&balance.to_string());
        }
        self.say(&format!("stopped, exit code {code}"));
        Ok(ExitCode::from_code(code.into()))
    }

    /// The supervisor was killed; what is left of it ends by itself.
    fn orphans(&self) -> Result<ExitCode, Error> {
        let mut before = None;
        loop {
            self.check_interrupt()?;
            let run = LastRun::look(self.path)?;
            if run.run_id != self.run_id || run.children == 0 {
                break;
            }
            if before != Some(run.children) {
                let left = run.children;
                self.say(&match before {
                    None => format!(
                        "the supervisor was killed; {}, within {:.1} s at most",
                        match left {
                            1 => "1 of its processes finishes what it has in hand and ends by \
                                  itself"
                                .into(),
                            _ => format!(
                                "{left} of its processes finish what they have in hand and end by \
                                 themselves"
                            ),
                        },
                        run.deadline.as_secs_f64()
                    ),
                    Some(_) => format!("{left} left"),
                });
                before = Some(left);
            }
            let patience = self.arguments.timeout.unwrap_or(run.deadline + BEYOND_DEADLINE);
            if clock::now() >= self.began + patience {
                return Err(Error::Failure(format!(
                    "{} processes of a run whose supervisor was killed have not ended in time; \
                     the next start ends them",
                    run.children
                )));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.say(
            "all processes have ended; the supervisor was killed, so nobody has noted an exit code. \
             What is not written is in the spool; start it again to go on",
        );
        Ok(ExitCode::Killed)
    }

    fn check_interrupt(&self) -> Result<(), Error> {
        match signal::is_stop_pending() {
            false => Ok(()),
            true => Err(Error::Failure(
                "no longer watching, since this command was interrupted; the stop itself goes on"
                    .into(),
            )),
        }
    }

    fn not_signalled(&self, pid: i32, error: &io::Error) -> Error {
        let denied = error.raw_os_error() == Some(nix::libc::EPERM);
        let hint = match denied {
            true => "; it belongs to another user: run this as that user, or as root",
            false => "",
        };
        Error::Failure(format!("can't signal the supervisor (pid {pid}): {error}{hint}"))
    }

    fn timed_out(&self, run: &LastRun, pid: i32) -> Error {
        let how = match run.main {
            Main::Frozen(_) => {
                format!("it is frozen; `kill -CONT {pid}` wakes it, and it stops then")
            }
            _ if run.story.stop.is_empty() => {
                format!(
                    "it has not even begun; `procsig status` says more, `kill -KILL {pid}` ends \
                         it, and its processes then end by themselves"
                )
            }
            _ => "the stop goes on; `procsig timeline` shows how far it is".into(),
        };
        Error::Failure(format!(
            "the supervisor (pid {pid}) has not ended after {:.1} s: {how}",
            clock::now().saturating_sub(self.began).as_secs_f64()
        ))
    }

    fn say(&self, line: &str) {
        if !self.arguments.quiet {
            // Nobody may be reading any more; the stop is what counts.
            let _said = writeln!(io::stdout(), "{}", escape(line));
        }
    }
}

/// Whoever can write a spool can name any process in it, and only root could stop it for them.
fn check_owner(run: &LastRun, pid: i32) -> Result<(), Error> {
    let (Some(owner), Some(user)) = (run.owner, proc_fs::user(pid)) else { return Ok(()) };
    if owner == user {
        return Ok(());
    }
    Err(Error::Failure(format!(
        "{}: this spool is not trusted: it belongs to user {owner}, but process {pid}, which it names \
         as its supervisor, to user {user}. If it is one all the same: kill -TERM {pid}",
        run.path.display()
    )))
}

/// Nothing has come of the request yet.
fn hangs(run: &LastRun, pid: i32) -> String {
    match run.main {
        Main::Frozen(_) => format!(
            "the supervisor (pid {pid}) is frozen by SIGSTOP or a debugger: it stops when `kill -CONT \
             {pid}` wakes it"
        ),
        _ => format!("the supervisor (pid {pid}) has not heard of it yet: it is busy, or it hangs"),
    }
}
