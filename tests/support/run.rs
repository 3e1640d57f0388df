//! A run of the program: while it lasts, and when it has ended.

use super::log::{self, Line};
use super::place::{OUTPUT, Place};
use super::{Handle, Process, Seed, WATCHDOG, own_children, poll_until, spawn};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// A run that was started. When it is dropped before it was waited for, all of it is killed.
pub struct Running<'a> {
    place: &'a Place,
    child: Child,
    what: String,
    stderr: PathBuf,
    stdout: PathBuf,
    started: Instant,
    over: bool,
}

impl<'a> Running<'a> {
    #[track_caller]
    pub(super) fn start(place: &'a Place, mut command: Command, what: String) -> Running<'a> {
        let number = place.runs.fetch_add(1, Ordering::Relaxed);
        let stderr = place.private(&format!("stderr.{number}"));
        let stdout = place.private(&format!("stdout.{number}"));
        let open = |path: &PathBuf| {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            file.expect("a file for what is printed")
        };
        command.stdout(Stdio::from(open(&stdout))).stderr(Stdio::from(open(&stderr)));
        let started = Instant::now();
        let child = spawn(&mut command).unwrap_or_else(|error| panic!("{what}: {error}"));
        Running { place, child, what, stderr, stdout, started, over: false }
    }

    /// The pid of what was started: the program, or what it was started through.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The writing end of its standard input, when that was a pipe.
    #[track_caller]
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is a pipe")
    }

    /// All processes of the run.
    pub fn processes(&self) -> Vec<Process> {
        Process::marked(&self.place.name)
    }

    /// The processes that run the program, the supervisor first. A command that was forked but
    /// not executed yet can be among them.
    pub fn of_program(&self) -> Vec<Process> {
        let ours = |process: &Process| {
            !process.is_zombie() && process.executable().as_ref() == Some(&self.place.program)
        };
        let mut all: Vec<Process> = self.processes().into_iter().filter(ours).collect();
        let pids: BTreeSet<i32> = all.iter().map(|process| process.pid).collect();
        all.sort_by_key(|process| (pids.contains(&process.parent), process.start, process.pid));
        all
    }

    /// The supervisor, as soon as it runs.
    #[track_caller]
    pub fn supervisor(&self) -> Process {
        self.until("the supervisor", |run| run.of_program().into_iter().next())
    }

    /// The supervisor's children, once all of them are there with their names: source, buffer and
    /// this many workers.
    #[track_caller]
    pub fn children(&self, workers: usize) -> Vec<Process> {
        self.until("the supervisor's children", |run| {
            let all = run.of_program();
            let main = all.first()?.pid;
            let mut children = all;
            children.retain(|process| process.parent == main);
            let named = |name: &str| children.iter().filter(|p| p.comm.starts_with(name)).count();
            let complete = (named("source"), named("buffer"), named("worker ")) == (1, 1, workers);
            complete.then_some(children)
        })
    }

    /// Those of its children whose name begins so.
    #[track_caller]
    pub fn role(&self, workers: usize, name: &str) -> Vec<Handle> {
        let mut children = self.children(workers);
        children.retain(|process| process.comm.starts_with(name));
        children.iter().map(|process| process.handle().expect("a living child")).collect()
    }

    /// Sends a signal to the supervisor.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let main = self.supervisor().handle();
        if !main.is_some_and(|main| main.send(signal)) {
            panic!("no supervisor to send a signal to\n{}", self.describe());
        }
    }

    /// What it printed on standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// What it printed on standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// Whole lines of the log so far.
    #[track_caller]
    pub fn log(&self) -> Vec<Line> {
        let text = self.stderr();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        log::parse(&text[..whole])
    }

    /// Waits for an answer; fails with everything printed when there is none in time, or when the
    /// run ends without.
    #[track_caller]
    pub fn until<T>(&self, what: &str, mut answer: impl FnMut(&Running) -> Option<T>) -> T {
        let found = poll_until(WATCHDOG, || {
            let over = self.has_ended();
            match answer(self) {
                Some(found) => Some(Some(found)),
                None => over.then_some(None),
            }
        });
        match found {
            Some(Some(found)) => found,
            Some(None) => panic!("ended without: {what}\n{}", self.describe()),
            None => panic!("waited {WATCHDOG:?} in vain: {what}\n{}", self.describe()),
        }
    }

    /// Waits for a line of the log that contains this text.
    #[track_caller]
    pub fn until_logged(&self, text: &str) -> Line {
        self.until(&format!("{text:?} in the log"), |run| {
            run.log().into_iter().find(|line| line.message.contains(text))
        })
    }

    /// Waits until so many workers have heard of the stop, which they say in the log at the level `debug`:
    /// from now on they take no new job.
    #[track_caller]
    pub fn until_told_to_stop(&self, workers: usize) {
        self.until(&format!("{workers} workers to have heard of the stop"), |run| {
            let log = run.log();
            let heard = log.iter().filter(|line| {
                line.role.starts_with("worker ") && line.message.starts_with("told to stop")
            });
            (heard.count() == workers).then_some(())
        });
    }

    /// Waits until at least so many jobs have started (see [`Place::work_script`]).
    #[track_caller]
    pub fn until_started(&self, jobs: usize) {
        self.until(&format!("{jobs} jobs started"), |run| {
            (run.place.started().len() >= jobs).then_some(())
        });
    }

    /// Waits until at least so many results are in the output.
    #[track_caller]
    pub fn until_written(&self, results: usize) {
        self.until(&format!("{results} results in the output"), |run| {
            let text = run.place.read(OUTPUT);
            (text.bytes().filter(|byte| *byte == b'\n').count() >= results).then_some(())
        });
    }

    /// Kills one buffer after the other, each a random time after it was started, until so many were
    /// killed or the run has ended. Says how many there were.
    #[track_caller]
    pub fn kill_buffers(&self, seed: &mut Seed, most: u64) -> u64 {
        let mut kills = 0;
        while kills < most && !self.has_ended() {
            let buffer = poll_until(WATCHDOG, || {
                let children = super::processes::children_of(self.pid());
                let is_buffer = |it: &Process| it.comm == "buffer" && !it.is_zombie();
                let buffer = children.into_iter().find(is_buffer).and_then(|it| it.handle());
                buffer.map(Some).or_else(|| self.has_ended().then_some(None))
            });
            match buffer {
                Some(Some(buffer)) => {
                    std::thread::sleep(seed.time_below(Duration::from_millis(25)));
                    kills += u64::from(!buffer.has_ended() && buffer.send(Signal::KILL));
                }
                Some(None) => break,
                None => panic!("no buffer\n{}", self.describe()),
            }
        }
        kills
    }

    /// Whether it has ended; it is a zombie then, its status not yet read.
    pub fn has_ended(&self) -> bool {
        Process::read(self.pid()).is_none_or(|process| process.is_zombie())
    }

    /// Waits for its end, for a minute at most.
    #[track_caller]
    pub fn wait(self) -> Ended {
        self.wait_for(WATCHDOG)
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_for(self, limit: Duration) -> Ended {
        self.end(limit, |_| true)
    }

    /// As [`Running::wait`], but does not look for what a main that was killed has left behind: that
    /// is known to be much.
    #[track_caller]
    pub fn wait_for_main(self) -> Ended {
        self.end(WATCHDOG, |signal| signal != Some(Signal::KILL.as_raw()))
    }

    #[track_caller]
    fn end(mut self, limit: Duration, look_around: impl Fn(Option<i32>) -> bool) -> Ended {
        let ended = match Process::read(self.pid()).and_then(|process| process.handle()) {
            Some(handle) => handle.wait(limit),
            None => true,
        };
        assert!(ended, "still running after {limit:?}\n{}", self.describe());
        let elapsed = self.started.elapsed();
        let status = self.child.wait().expect("its status");
        self.over = true;
        let orphans = if look_around(status.signal()) { self.orphans() } else { Vec::new() };
        own_children().remove(&self.pid());
        Ended {
            code: status.code(),
            signal: status.signal(),
            stderr: self.stderr(),
            stdout: std::fs::read_to_string(&self.stdout).unwrap_or_default(),
            elapsed,
            what: self.what.clone(),
            left_over: orphans,
        }
    }

    /// What the run left behind: processes that are marked, and zombies that came to us.
    fn orphans(&self) -> Vec<String> {
        let own = own_children();
        let mut ids: BTreeSet<i32> =
            self.stderr().lines().filter_map(Line::parse).map(|line| line.pid).collect();
        ids.insert(self.pid());
        // With one test a process everything that comes to us is this run's.
        let alone = std::env::var_os("NEXTEST").is_some();
        let ours = |process: &Process| {
            let kin = [process.pid, process.group, process.session];
            alone || kin.iter().any(|id| ids.contains(id))
        };
        let us = std::process::id() as i32;
        let adopted = Process::all().into_iter();
        let adopted = adopted.filter(|p| p.parent == us && !own.contains(&p.pid) && ours(p));
        let not_us = |process: &Process| process.pid != self.pid();
        let marked = self.processes().into_iter().filter(not_us);
        marked.chain(adopted).map(|process| process.describe()).collect()
    }

    /// Everything that is known of it.
    pub fn describe(&self) -> String {
        let mut text = format!("run: {}\nafter {:?}\n", self.what, self.started.elapsed());
        for process in self.processes() {
            let _ = writeln!(text, "process: {}", process.describe());
        }
        let output = self.place.read(OUTPUT);
        let lines: Vec<&str> = output.lines().collect();
        let _ = writeln!(text, "files: {:?}", self.place.files());
        let _ = writeln!(text, "output, {} lines, the last of them:", lines.len());
        for line in lines.iter().rev().take(3).rev() {
            let _ = writeln!(text, "  {line}");
        }
        let _ = writeln!(text, "standard error:\n{}", self.stderr());
        text
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Main first, or it would start again what is killed here.
        let mut doomed = self.of_program();
        doomed.extend(self.processes());
        for process in doomed {
            if let Some(handle) = process.handle() {
                handle.send(Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        own_children().remove(&self.pid());
    }
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it exited with.
    pub code: Option<i32>,
    /// What killed it.
    pub signal: Option<i32>,
    pub stderr: String,
    pub stdout: String,
    pub elapsed: Duration,
    what: String,
    left_over: Vec<String>,
}

impl Ended {
    /// The log, every line of which is whole.
    #[track_caller]
    pub fn log(&self) -> Vec<Line> {
        log::parse(&self.stderr)
    }

    /// It exited with this code and left no process behind, living or dead.
    #[track_caller]
    pub fn assert_exit(&self, code: i32) -> &Ended {
        assert_eq!((self.code, self.signal), (Some(code), None), "{}", self.describe());
        self.assert_nothing_left()
    }

    /// As [`Ended::assert_exit`], where another run of the same place is still going on.
    #[track_caller]
    pub fn assert_exit_beside(&self, code: i32) {
        assert_eq!((self.code, self.signal), (Some(code), None), "{}", self.describe());
    }

    /// It left no process behind, living or dead.
    #[track_caller]
    pub fn assert_nothing_left(&self) -> &Ended {
        assert!(self.left_over.is_empty(), "left: {:#?}\n{}", self.left_over, self.describe());
        self
    }

    pub fn describe(&self) -> String {
        format!(
            "run: {}\nafter {:?}: code {:?}, signal {:?}\nstandard output:\n{}\nstandard error:\n{}",
            self.what, self.elapsed, self.code, self.signal, self.stdout, self.stderr
        )
    }
}
