//! The shell around [`lifecycle`](super::lifecycle): waits, starts, tells, kills, reaps, and
//! decides nothing.
//!
//! It waits for one thing: a message on, or the closing of, a channel, until the next alarm; for
//! ever if there is none. It never ticks.

mod inbox;
mod manager;
mod reopen;
mod say;
mod words;

pub(crate) use inbox::Inbox;
use manager::Told;
use reopen::Reopening;

use super::child::{Link, Order, Report};
use super::launch::Launch;
use super::lifecycle::{Action, Ended, Event, Lifecycle, Members, Why};
use super::role::Child;
use super::signal::{Asked, channel};
use crate::error::{Error, ExitCode};
use crate::sys::{clock, fork, proc_fs, process};
use ipc_channel::ipc::{IpcSelectionResult, IpcSender};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::RawFd;
use std::time::Duration;
use words::Words;

/// How often what is left behind is looked for before it is given up: each look kills one
/// generation of it.
const SWEEPS_MAX: usize = 20;

/// What supervision came to.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Something was killed that had work in hand.
    pub killed: bool,
    /// What a child failed with, and what it said.
    pub failure: Option<(ExitCode, Option<String>)>,
    /// When the first child was started, and when the stop began.
    pub began: Duration,
    pub stop_began: Duration,
}

/// A child's process, and main's end of its orders.
struct Handle {
    pid: Pid,
    orders: IpcSender<Order>,
    descriptor: RawFd,
    reopening: Reopening,
}

/// What grows with each child is kept in order of age, so that neighbours stand in the same memory:
/// after each fork the first touch of a page costs as much as a system call.
struct Supervisor<'a> {
    launch: &'a Launch,
    inbox: &'a mut Inbox,
    handles: BTreeMap<Child, Handle>,
    by_pid: BTreeMap<Pid, Child>,
    /// Main's ends of the reports, by their number in the set.
    reports: BTreeMap<u64, (Child, RawFd)>,
    /// Children of this process that are none of ours: they were there before.
    strangers: HashSet<i32>,
    /// Sessions of our workers: what lives in them was started by a job.
    sessions: BTreeSet<i32>,
    /// Soft limit of open descriptors before we raised it.
    descriptors: u64,
    main: Pid,
    stop_began: Option<Duration>,
    words: Words,
    /// What workers have done that are to be replaced for it.
    recycled: HashMap<Child, String>,
    terminal: bool,
    told: Told,
    /// It was said that the spool was cut.
    spool_cut: bool,
}

/// Runs the pipeline from the first fork to the last reaping.
///
/// # Errors
/// Only if waiting itself fails; then children stop by themselves as soon as main is gone.
pub(crate) fn run(launch: &Launch, inbox: &mut Inbox, descriptors: u64) -> Result<Verdict, Error> {
    let main = nix::unistd::getpid();
    let mut supervisor = Supervisor {
        launch,
        inbox,
        handles: BTreeMap::new(),
        by_pid: BTreeMap::new(),
        reports: BTreeMap::new(),
        strangers: proc_fs::children(main.as_raw()).into_iter().collect(),
        sessions: BTreeSet::new(),
        descriptors,
        main,
        stop_began: None,
        words: Words::default(),
        recycled: HashMap::new(),
        terminal: std::fs::File::open("/dev/tty").is_ok(),
        told: Told::Starting,
        spool_cut: false,
    };
    log::info!("starting: {}", launch.describe());
    let members = Members {
        source: launch.has_source(),
        acknowledges: launch.is_acknowledged(),
        workers: launch.workers(),
    };
    let began = clock::now();
    let (mut lifecycle, actions) = Lifecycle::begin(launch.limits(), members, began);
    let mut happened = supervisor.perform(actions, &lifecycle);
    while !lifecycle.is_done() {
        supervisor.tend_manager();
        if happened.is_empty() {
            happened = supervisor.wait(&lifecycle)?;
        }
        let mut next = Vec::new();
        for event in happened {
            let actions;
            (lifecycle, actions) = lifecycle.step(event, clock::now());
            next.extend(supervisor.perform(actions, &lifecycle));
        }
        happened = next;
    }
    supervisor.sweep();
    Ok(Verdict {
        killed: lifecycle.has_killed(),
        failure: lifecycle.failure().map(|code| (code, supervisor.words.cause())),
        began,
        stop_began: supervisor.stop_began.unwrap_or_else(clock::now),
    })
}

/// A signal that came at that moment of the monotonic clock.
fn signal(at: u64) -> Event {
    Event::Signal { late: clock::now().saturating_sub(Duration::from_nanos(at)) }
}

impl Supervisor<'_> {
    /// Waits until something has happened, and says what.
    fn wait(&mut self, lifecycle: &Lifecycle) -> Result<Vec<Event>, Error> {
        let alarm = [lifecycle.next_alarm(), self.next_word()].into_iter().flatten().min();
        let results = self.inbox.wait(alarm)?;
        let mut events = Vec::new();
        let mut reap = false;
        self.read(results, &mut events, &mut reap);
        // What is read meanwhile may tell of more deaths.
        while std::mem::take(&mut reap) {
            let reaped = self.reap();
            if !reaped.is_empty() {
                // What the dead have said before they died comes first: all of it, however many
                // they are, since one look sees only some of them.
                loop {
                    let results = self.inbox.wait(Some(Duration::ZERO))?;
                    if results.is_empty() {
                        break;
                    }
                    self.read(results, &mut events, &mut reap);
                }
                // They may have owed a wake-up.
                let buffer = |event: &Event| matches!(event, Event::Reaped(Child::Buffer, _));
                self.launch.wake_all(reaped.iter().any(buffer));
            }
            events.extend(reaped);
        }
        if events.is_empty() {
            events.push(Event::Time);
        }
        Ok(events)
    }

    fn read(&mut self, results: Vec<IpcSelectionResult>, events: &mut Vec<Event>, reap: &mut bool) {
        for result in results {
            match result {
                IpcSelectionResult::MessageReceived(id, message) if id == self.inbox.asked => {
                    let Ok(asked) = message.to::<Asked>() else { continue };
                    asked.taken();
                    match asked {
                        Asked::Stop { at } => events.push(signal(at)),
                        Asked::Hangup { at } if self.terminal => events.push(signal(at)),
                        Asked::Hangup { .. } => self.reopen(),
                        Asked::Status => self.say_status(),
                        Asked::Reap => *reap = true,
                    }
                }
                IpcSelectionResult::MessageReceived(id, message) => {
                    let Some((child, _)) = self.reports.get(&id) else { continue };
                    let Ok(report) = message.to::<Report>() else { continue };
                    let child = *child;
                    let words = |message| format!("{}: {message}", self.launch.name(child));
                    match report {
                        Report::Ready => {
                            self.launch.note_ready(child);
                            self.tell_recovery();
                            events.push(Event::Ready(child));
                        }
                        Report::Reopened => self.reopened(child),
                        Report::Finished => events.push(Event::Finished(child)),
                        Report::Overdue { message } => {
                            log::warn!("{}: its process ends for that", words(message));
                            events.push(Event::Overdue(child));
                        }
                        Report::Recycled { why } => {
                            self.recycled.insert(child, why);
                            events.push(Event::Recycled(child));
                        }
                        Report::Failed { code, message } => {
                            let words = words(message);
                            self.words.failed(child, words);
                            let code = ExitCode::from_code(code.into());
                            events.push(Event::Failed(child, code));
                        }
                        Report::Dying { message } => {
                            let words = words(message);
                            self.words.said(child, words);
                        }
                    }
                }
                // The set has closed its descriptor. The child's death is told by SIGCHLD.
                IpcSelectionResult::ChannelClosed(id) => {
                    self.reports.remove(&id);
                    *reap = true;
                }
            }
        }
    }

    /// Reaps all children that have ended.
    fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(pid) = process::peek_ended() {
            if self.strangers.contains(&pid.as_raw()) {
                // Somebody else's to reap, and it hides the others.
                let mut children = proc_fs::children(self.main.as_raw());
                children.retain(|pid| !self.strangers.contains(pid));
                let children = children.into_iter().map(Pid::from_raw);
                events.extend(children.flat_map(|pid| self.reap_one(pid)));
                break;
            }
            events.extend(self.reap_one(pid));
        }
        events
    }

    fn reap_one(&mut self, pid: Pid) -> Vec<Event> {
        let Some(how) = process::reap(pid) else { return Vec::new() };
        let Some(child) = self.by_pid.remove(&pid) else {
            log::debug!("reaped process {pid}, which a job has left behind: {how}");
            return Vec::new();
        };
        self.handles.remove(&child);
        let clean = how == process::Ended::Exited(0);
        // Asked before its successor settles what it had in hand.
        let by_job = !clean && self.launch.is_put_down_to_a_job(child);
        self.launch.note_end(child, how);
        if !clean {
            let hint = self.launch.hint_of(child, how);
            let last_words =
                format!("{} (pid {pid}) has died: {how}{hint}", self.launch.name(child));
            log::warn!("{last_words}");
            self.words.died(child, last_words);
        }
        // During a stop all of it is swept at the end.
        if matches!(child, Child::Worker(_)) && (!clean || self.stop_began.is_none()) {
            self.end_session(pid);
        }
        let how = match (clean, by_job) {
            (true, _) => Ended::Clean,
            (false, true) => Ended::ByJob,
            (false, false) => Ended::Crashed,
        };
        let mut events = self.cut_spool(child);
        events.push(Event::Reaped(child, how));
        events
    }

    /// Processes that touch what was cut off the spool die, again and again: nobody can go on.
    fn cut_spool(&mut self, child: Child) -> Vec<Event> {
        if self.spool_cut || !self.launch.is_spool_cut() {
            return Vec::new();
        }
        self.spool_cut = true;
        let words = self.launch.words_of_cut_spool();
        log::error!("{words}");
        self.words.failed(child, words);
        vec![Event::Failed(child, ExitCode::Io)]
    }

    /// Kills what the jobs of a dead worker have left behind.
    fn end_session(&mut self, session: Pid) {
        for _ in 0..SWEEPS_MAX {
            let left = self.left_behind(session.as_raw());
            if left.is_empty() {
                // The number may come to be somebody else's.
                self.sessions.remove(&session.as_raw());
                return;
            }
            for pid in left {
                // One that can't be signalled is looked for again at the end, and said then.
                let _killed = process::send(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// What lives of a session whose leader has died: below those children of main that main has
    /// not started itself, since main inherits who loses its parent. So nobody else's processes
    /// need to be looked at, however many the machine has.
    fn left_behind(&self, session: i32) -> Vec<i32> {
        let known = |pid: i32| {
            self.strangers.contains(&pid) || self.by_pid.contains_key(&Pid::from_raw(pid))
        };
        let mut left = proc_fs::children(self.main.as_raw());
        left.retain(|pid| !known(*pid));
        let below = |pid: &i32| proc_fs::descendants(*pid).into_iter().map(|(pid, _)| pid);
        let all = left.iter().flat_map(below).chain(left.iter().copied());
        let lives_there = |pid: &i32| {
            proc_fs::stat(*pid).is_some_and(|stat| stat.session == session && !stat.ended())
        };
        all.filter(lives_there).collect()
    }

    /// Does what the lifecycle says; returns what came of it at once.
    fn perform(&mut self, actions: Vec<Action>, lifecycle: &Lifecycle) -> Vec<Event> {
        let mut events = Vec::new();
        for action in actions {
            match action {
                Action::Start(child) => {
                    if let Err(error) = self.start(child) {
                        log::error!("can't start {}: {error}", self.launch.name(child));
                        self.words.said(child, error.to_string());
                        events.push(Event::NotStarted(child));
                    }
                }
                Action::Acknowledge => events.extend(self.start_last_source()),
                Action::Stop(child) => self.tell_to_stop(child),
                Action::ContinueAll => {
                    for handle in self.handles.values() {
                        // The process may just have ended.
                        let _continued = process::send(handle.pid, Signal::SIGCONT);
                    }
                }
                Action::Kill(child, why) => self.kill(child, why),
                Action::Say(notice) => {
                    self.say(notice, lifecycle);
                    self.tell_notice(notice, lifecycle);
                }
                Action::Finish => {}
            }
        }
        events
    }

    fn start(&mut self, child: Child) -> Result<(), Error> {
        let (orders, orders_end, [orders_descriptor, _]) = channel::<Order>()?;
        let (reports_end, reports, [_, reports_descriptor]) = channel::<Report>()?;
        let id = self.inbox.set.add(reports).map_err(Error::system("can't wait for events"))?;
        self.reports.insert(id, (child, reports_descriptor));
        let mut foreign = self.inbox.descriptors.clone();
        foreign.extend(self.handles.values().map(|handle| handle.descriptor));
        foreign.extend(self.reports.values().map(|(_, descriptor)| *descriptor));
        foreign.push(orders_descriptor);
        foreign.extend(self.launch.descriptors_foreign_to(child));
        let mut ends = Some(Link {
            orders: orders_end,
            reports: reports_end,
            foreign,
            main: self.main,
            descriptors: self.descriptors,
        });
        // What is buffered here would be written twice.
        let _flushed = std::io::Write::flush(&mut std::io::stdout());
        let launch = self.launch;
        let pid = fork::start(|| ends.take().map_or(1, |link| launch.run(child, link)))
            .map_err(Error::system("can't fork"))?;
        drop(ends);
        if matches!(child, Child::Worker(_)) {
            self.sessions.insert(pid.as_raw());
        }
        self.launch.note_start(child, pid);
        self.words.started(child);
        self.by_pid.insert(pid, child);
        let (descriptor, reopening) = (orders_descriptor, Reopening::No);
        self.handles.insert(child, Handle { pid, orders, descriptor, reopening });
        log::debug!("started {} as {pid}", self.launch.name(child));
        Ok(())
    }

    /// Jobs that were finished after the source had gone are acknowledged by one more source.
    /// Whatever becomes of it, the next start does what it has not done.
    fn start_last_source(&mut self) -> Option<Event> {
        // What the pipeline has failed of, if it has, was said before.
        self.words.close();
        if !self.launch.acknowledges_at_last() {
            return Some(Event::NothingToAcknowledge);
        }
        log::info!("starting source once more, to acknowledge what was written at the stop");
        let error = self.start(Child::Source).err()?;
        log::warn!("can't start source: {error}; the next start acknowledges the rest");
        Some(Event::NotStarted(Child::Source))
    }

    fn tell_to_stop(&self, child: Child) {
        let Some(handle) = self.handles.get(&child) else { return };
        let deadline = self.stop_began.unwrap_or_default() + self.launch.limits().deadline;
        self.launch.note_told(child);
        // If that fails the child has just ended, and is about to be reaped.
        let _told = handle.orders.send(Order::Stop { deadline: clock::nanos(deadline) });
    }

    fn kill(&self, child: Child, why: Why) {
        let Some(handle) = self.handles.get(&child) else { return };
        self.launch.condemn(child, why);
        if let Err(error) = process::send(handle.pid, Signal::SIGKILL) {
            log::error!("can't kill {} (pid {}): {error}", self.launch.name(child), handle.pid);
        }
    }

    /// Ends what jobs have left behind. As a subreaper main is the parent of all of it by now.
    fn sweep(&mut self) {
        for _ in 0..SWEEPS_MAX {
            self.reap();
            if !process::has_children() {
                return;
            }
            let mut left = proc_fs::children(self.main.as_raw());
            left.retain(|pid| !self.strangers.contains(pid) && self.is_ours(*pid));
            if left.is_empty() {
                return;
            }
            for pid in left {
                log::debug!("ending process {pid}, which a job has left behind");
                let held = crate::sys::pidfd::PidFd::open(pid);
                if let Err(error) = process::send(Pid::from_raw(pid), Signal::SIGKILL) {
                    log::error!("can't end process {pid}, which a job has left behind: {error}");
                    self.strangers.insert(pid);
                    continue;
                }
                if let Ok(held) = held {
                    // Dies at once; one that does not is stuck in the kernel.
                    let _gone = held.wait(Some(clock::now() + Duration::from_secs(1)));
                }
            }
        }
    }

    /// Was it started by one of our jobs?
    fn is_ours(&self, pid: i32) -> bool {
        let in_session =
            proc_fs::stat(pid).is_some_and(|stat| self.sessions.contains(&stat.session));
        let marker = self.launch.marker();
        let ours = in_session || proc_fs::is_marked(pid, &[&marker]);
        if !ours {
            log::debug!("process {pid} is none of ours; leaving it alone");
        }
        ours
    }
}
