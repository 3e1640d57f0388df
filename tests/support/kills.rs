//! Kills at random instants: whom, when, and how many of each kind there were.
//!
//! A *story* is a place whose pipeline is started, killed in part or as a whole, and started again,
//! until its plan of kills is used up and a last start runs to its end. What the plan is follows
//! from the story's seed; what it hits is up to the machine.

use super::place::Launch;
use super::processes::children_of;
use super::{Ended, Line, Place, Process, Running, Seed, Signal, WATCHDOG, wait_until};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// So long after its start a run is taken to be starting, or recovering from the kill before.
const BEGINNING: Duration = Duration::from_millis(30);
/// So much is between two kills, at the most.
const GAP: Duration = Duration::from_millis(25);
/// About as long as a stop takes, and its first part, in which workers are still there.
const STOP: Duration = Duration::from_millis(6);
const STOP_BEGINS: Duration = Duration::from_millis(1);
/// Orphans that have not ended by then may be waiting for a buffer that is not there, which they do
/// until their deadline.
const ORPHANS: Duration = Duration::from_millis(40);

/// A child that does not bear its name yet can be any of them.
const NAMELESS: &str = "a child without a name yet";

/// What a main says that is told to stop while it waits for orphans.
const STILL_HELD: &str = "a run that was killed still holds this spool";

/// What was going on when somebody was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// The first moments of a run that found everything in order.
    Starting,
    /// The first moments of a run after one that was killed.
    Recovering,
    Working,
    /// After a SIGTERM that main has heard.
    Stopping,
    /// After the death of main.
    Orphaned,
}

/// Whom to kill.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Child,
    /// A child whose name begins so.
    Named(&'static str),
    Main,
    All,
}

impl Victim {
    fn any(seed: &mut Seed) -> Victim {
        match seed.below(6) {
            0 => Victim::Main,
            1 | 2 => Victim::All,
            _ => Victim::Child,
        }
    }
}

/// Kills and other things that have happened, counted. Printed when it is dropped, so that also
/// who fails has said how far it came.
pub struct Tally {
    test: &'static str,
    sources: bool,
    kills: BTreeMap<(When, String), u64>,
    others: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Of pipelines that have a source, or have none.
    pub fn of(test: &'static str, sources: bool) -> Tally {
        Tally { test, sources, kills: BTreeMap::new(), others: BTreeMap::new() }
    }

    /// All processes at once are one kill.
    pub fn kills(&self) -> u64 {
        self.kills.values().sum()
    }

    fn count(&mut self, when: When, who: String) {
        *self.kills.entry((when, who)).or_default() += 1;
    }

    pub fn note(&mut self, what: &'static str) {
        *self.others.entry(what).or_default() += 1;
    }

    pub fn noted(&self, what: &str) -> u64 {
        self.others.get(what).copied().unwrap_or(0)
    }

    /// A kind of kill that was made too seldom, or something that kills should have met more often, if
    /// there were enough of them to say so.
    pub fn missing(&self) -> Option<String> {
        // Of fewer than that some may be missing by chance.
        let least = if self.kills() < 1000 { 0 } else { 1.max(self.kills() / 2000) };
        for when in [When::Starting, When::Recovering, When::Working, When::Stopping] {
            let kills = self.kills.iter().filter(|((it, _), _)| *it == when);
            let kills: u64 = kills.map(|(_, count)| *count).sum();
            if kills < least {
                return Some(format!("{when:?}: {kills} kills of {}", self.kills()));
            }
            // A busy machine has hardly any of a child that has its name and is not yet at work.
            if self.kills() < 10_000 {
                continue;
            }
            for who in ["source", "worker 0", "worker 1", "buffer", "main alone", "all at once"] {
                if who == "source" && !self.sources {
                    continue;
                }
                let count = self.kills.get(&(when, who.to_owned())).copied().unwrap_or(0);
                if count < least {
                    return Some(format!("{when:?}, {who}: {count} kills of {}", self.kills()));
                }
            }
        }
        let noted = [
            "starts killed before their first fork",
            "recoveries killed in a row",
            "half-written batches that were finished",
            "spools that were built anew",
            "starts that waited for orphans",
            "stories in which only full lanes were flushed",
            "rotations",
            "rotations that were gone on with",
            "compressed files",
        ];
        let rare = noted.into_iter().find(|what| self.noted(what) < least)?;
        Some(format!("{rare}: {}", self.noted(rare)))
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        for ((when, who), count) in &self.kills {
            eprintln!("kills: {}: {when:?}, {who}: {count}", self.test);
        }
        for (what, count) in &self.others {
            eprintln!("count: {}: {what}: {count}", self.test);
        }
    }
}

/// How one start of a story came to its end.
pub enum Outcome {
    /// Main was killed, or told to stop before it had begun.
    Killed,
    Ended(Box<Natural>),
}

/// A run that has ended by itself, and what is to be held in its favour.
pub struct Natural {
    pub ended: Ended,
    /// It was sent a SIGTERM.
    pub told: bool,
    /// So many buffers of it were killed at the most.
    pub buffers: u32,
}

/// A run, and who was killed in it so far.
struct Start<'a> {
    run: Running<'a>,
    began: Instant,
    told: Option<Instant>,
    kills: Vec<(When, String)>,
    buffers: u32,
    main_dead: bool,
}

/// See above.
pub struct Story<'a> {
    place: &'a Place,
    pub seed: Seed,
    /// Name of the kind of workers, which no other story at the same time has.
    tag: &'static str,
    tally: &'a mut Tally,
    /// Kills that are still to be made.
    left: u64,
    /// So many starts are killed in their first moments.
    short: u64,
    /// The last start was killed.
    crashed: bool,
    /// Starts that were killed when their list was done, after which it may begin anew.
    pub done_and_killed: u64,
    mains: BTreeSet<i32>,
    orphans: BTreeSet<i32>,
}

impl<'a> Story<'a> {
    pub fn new(
        place: &'a Place,
        tag: &'static str,
        number: u64,
        tally: &'a mut Tally,
    ) -> Story<'a> {
        let mut seed = Seed::of(number);
        let left = 10 + seed.below(31);
        let short = 1 + seed.below(3);
        let (mains, orphans) = (BTreeSet::new(), BTreeSet::new());
        let (crashed, done_and_killed) = (false, 0);
        Story { place, seed, tag, tally, left, short, crashed, done_and_killed, mains, orphans }
    }

    pub fn note(&mut self, what: &'static str) {
        self.tally.note(what);
    }

    /// Starts it, and kills as the plan says until main is dead or has ended.
    pub fn start(&mut self, launch: Launch<'a>) -> Outcome {
        let run = launch.start();
        self.mains.insert(run.pid());
        let began = Instant::now();
        let (kills, buffers) = (Vec::new(), 0);
        let mut start = Start { run, began, told: None, kills, buffers, main_dead: false };
        if self.short > 0 && self.left > 0 {
            self.short -= 1;
            let victim = Victim::any(&mut self.seed);
            self.kill(&mut start, victim, BEGINNING);
        }
        while self.left > 0 && !start.main_dead && !start.run.has_ended() {
            match self.seed.below(15) {
                0 | 1 => self.stop(&mut start),
                2 => self.kill(&mut start, Victim::Main, GAP),
                3 => self.kill(&mut start, Victim::All, GAP),
                _ => self.kill(&mut start, Victim::Child, GAP),
            }
        }
        self.end(start)
    }

    /// Asks main to stop, and kills while it does.
    fn stop(&mut self, start: &mut Start<'_>) {
        std::thread::sleep(self.seed.time_below(GAP));
        let main = Process::read(start.run.pid()).and_then(|main| main.handle());
        if !main.is_some_and(|main| main.send(Signal::TERM)) {
            return;
        }
        start.told = Some(Instant::now());
        // These two are gone before anything else can happen to them.
        match self.seed.below(4) {
            0 => self.kill(start, Victim::Named("source"), STOP_BEGINS),
            1 | 2 => self.kill(start, Victim::Named("worker "), STOP_BEGINS),
            _ => {}
        }
        for _ in 0..=self.seed.below(3) {
            if !start.main_dead {
                let victim = Victim::any(&mut self.seed);
                self.kill(start, victim, STOP);
            }
        }
    }

    /// Kills after a random time below `within`.
    fn kill(&mut self, start: &mut Start<'_>, victim: Victim, within: Duration) {
        std::thread::sleep(self.seed.time_below(within));
        let Some(main) = Process::read(start.run.pid()) else { return };
        let mut children = children_of(main.pid);
        let name = if let Victim::Named(name) = victim { name } else { "" };
        children.retain(|child| !child.is_zombie() && child.comm.starts_with(name));
        let when = match (start.began.elapsed() < BEGINNING, self.crashed) {
            _ if start.told.is_some() => When::Stopping,
            (true, true) => When::Recovering,
            (true, false) => When::Starting,
            (false, _) => When::Working,
        };
        let who = match victim {
            Victim::Child | Victim::Named(_) if children.is_empty() => return,
            Victim::Child | Victim::Named(_) => {
                let child = &children[self.seed.below(children.len() as u64) as usize];
                kill(child).then(|| role(child))
            }
            Victim::Main => kill(&main).then(|| "main alone".into()),
            Victim::All => {
                let before = children.is_empty();
                // Main first, or somewhere in between.
                let at = self.seed.below(2) * self.seed.below(children.len() as u64 + 1);
                children.insert(at as usize, main);
                let killed: Vec<bool> = children.iter().map(kill).collect();
                // It counts also where main has ended by itself before its turn came.
                let buffers = children.iter().zip(&killed).filter(|(child, killed)| {
                    **killed && ["buffer", NAMELESS].contains(&role(child).as_str())
                });
                start.buffers += buffers.count() as u32;
                if killed[at as usize] && before {
                    self.note("starts killed before their first fork");
                }
                killed[at as usize].then(|| "all at once".into())
            }
        };
        let Some(who) = who else { return };
        self.left = self.left.saturating_sub(1);
        start.buffers += u32::from(who == "buffer" || who == NAMELESS);
        start.main_dead = matches!(victim, Victim::Main | Victim::All);
        start.kills.push((when, who));
    }

    fn end(&mut self, start: Start<'a>) -> Outcome {
        let Start { run, told, kills, buffers, .. } = start;
        let ended = run.wait_for_main();
        let heard = ended.stderr.contains("stop requested: signal");
        for (when, who) in kills {
            // Main itself may not have come to know of it.
            let when = if when == When::Stopping && !heard { When::Starting } else { when };
            self.tally.count(when, who);
        }
        for (what, text) in [
            ("jobs of dead workers that were ready again", "are ready again"),
            ("lists that were gone on with", "going on behind job"),
            ("half-written batches that were finished", "going on with the batch"),
            ("starts that waited for orphans", "still ending; waiting for"),
            ("rotations that were gone on with", "going on with the rotation"),
            ("spools that were built anew", "built anew in another size"),
        ] {
            if ended.stderr.contains(text) {
                self.tally.note(what);
            }
        }
        self.adopt();
        let plain = ended.signal == Some(15) && ended.stderr.is_empty();
        let waited = ended.code == Some(75) && ended.stderr.contains(STILL_HELD);
        if told.is_some() && (plain || waited) {
            // It had not begun, so nothing has changed.
            self.note("starts that were told to stop before they had begun");
            return Outcome::Killed;
        }
        if ended.signal.is_none() {
            self.crashed = false;
            self.short = self.seed.below(2);
            if let Some(told) = told {
                // The default deadline, and what a busy machine may add to it.
                assert!(told.elapsed() < Duration::from_secs(8 + 30), "{}", ended.describe());
            }
            return Outcome::Ended(Box::new(Natural { ended, told: told.is_some(), buffers }));
        }
        assert_eq!(ended.signal, Some(9), "{}", ended.describe());
        if self.crashed && self.short > 0 {
            self.note("recoveries killed in a row");
        }
        self.crashed = true;
        self.done_and_killed += u64::from(ended.stderr.contains("stop requested: finished"));
        if self.short == 0 && self.seed.below(3) == 0 {
            self.short = 1 + self.seed.below(6);
        }
        self.kill_orphans();
        Outcome::Killed
    }

    /// Leaves orphans to the next start, which has to wait for them itself; or waits for them here,
    /// and kills those that are too slow, or one of them before.
    fn kill_orphans(&mut self) {
        let alone = !self.adopted().iter().any(|it| it.comm == "buffer" && !it.is_zombie());
        if !alone && self.seed.below(2) == 0 {
            return;
        }
        if self.seed.below(3) == 0 {
            std::thread::sleep(self.seed.time_below(STOP));
            let mut living = self.adopted();
            living.retain(|it| !it.is_zombie());
            let victim = living.get(self.seed.below(living.len() as u64) as usize);
            self.kill_orphan(victim);
        }
        let mut late = Instant::now() + ORPHANS;
        wait_until("the end of orphans", WATCHDOG, || {
            let mut left = self.adopted();
            left.retain(|it| !it.is_zombie());
            if Instant::now() >= late {
                self.kill_orphan(left.first());
                late = Instant::now() + ORPHANS;
            }
            left.is_empty().then_some(())
        });
        self.reap();
    }

    fn kill_orphan(&mut self, victim: Option<&Process>) {
        let Some(victim) = victim.filter(|victim| kill(victim)) else { return };
        self.left = self.left.saturating_sub(1);
        self.tally.count(When::Orphaned, role(victim));
    }

    /// Takes note of who has become a child of ours because main is dead.
    fn adopt(&mut self) {
        self.orphans.extend(self.adopted().iter().map(|process| process.pid));
    }

    /// Children of this program that were forked by a main of this story.
    fn adopted(&self) -> Vec<Process> {
        let worker = format!("worker {}/", self.tag);
        let mut children = children_of(std::process::id() as i32);
        // Main itself leads its group.
        children.retain(|it| self.mains.contains(&it.group) || it.comm.starts_with(&worker));
        children.retain(|it| !self.mains.contains(&it.pid));
        children
    }

    /// Reaps orphans, which nobody else does; main's own must be reaped by main.
    fn reap(&mut self) {
        for process in self.adopted() {
            if process.is_zombie() && self.orphans.contains(&process.pid) {
                let pid = nix::unistd::Pid::from_raw(process.pid);
                nix::sys::wait::waitpid(pid, None).expect("a zombie of ours");
                self.orphans.remove(&process.pid);
            }
        }
    }

    /// Nothing is left of the story, neither living nor dead, beyond the orphans of killed mains.
    #[track_caller]
    pub fn assert_nobody_left(&mut self, ended: &Ended) {
        ended.assert_nothing_left();
        self.reap();
        let left = self.adopted();
        assert!(left.is_empty(), "left behind: {left:#?}\n{}", ended.describe());
    }
}

/// Says whether it was alive until now.
fn kill(process: &Process) -> bool {
    let handle = process.handle();
    handle.is_some_and(|handle| !handle.has_ended() && handle.send(Signal::KILL))
}

/// Who a child of main is; before it has its name, nobody in particular.
fn role(child: &Process) -> String {
    match child.comm.split_once('/') {
        Some((kind, lane)) if kind.starts_with("worker ") => format!("worker {lane}"),
        _ if ["source", "buffer"].contains(&child.comm.as_str()) => child.comm.clone(),
        _ => NAMELESS.into(),
    }
}

/// The whole lines of a log in which somebody may have been killed while he wrote his.
pub fn lines(ended: &Ended) -> Vec<Line> {
    ended.stderr.lines().filter_map(Line::parse).collect()
}

/// Kills that the tests of this program are to make, all together.
pub fn wanted() -> u64 {
    match std::env::var("PROCSIG_TEST_KILLS") {
        Ok(text) => text.parse().expect("PROCSIG_TEST_KILLS is a number"),
        Err(_) => 2200,
    }
}
