//! What happens to a pipeline at random: kills, stops, standing still, a full disk, an output that is moved.

use crate::lane::{Lane, Start};
use crate::pipelines::FILLER;
use crate::support::processes::children_of;
use crate::support::{Handle, Place, Process, Signal};
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

/// What lasts for a while.
#[derive(Default)]
pub struct Disturbances {
    /// Who stands still, and until when.
    standing: Vec<(Handle, Instant)>,
    full: Option<Instant>,
}

impl Disturbances {
    pub fn disk_is_full(&self) -> bool {
        self.full.is_some()
    }

    pub fn are_under_way(&self) -> bool {
        self.disk_is_full() || !self.standing.is_empty()
    }

    /// Ends those whose time has come.
    pub fn tend(&mut self, place: &Place) {
        let now = Instant::now();
        self.standing.retain(|(who, until)| {
            let over = now >= *until;
            !(over && (who.send(Signal::CONT) || who.has_ended()))
        });
        if self.full.is_some_and(|until| now >= until) {
            fs::remove_file(place.path(FILLER)).expect("what filled the disk");
            self.full = None;
        }
    }

    /// All of them are over at the next look. Says whether there are any.
    pub fn end(&mut self) -> bool {
        let now = Instant::now();
        self.standing.iter_mut().for_each(|(_, until)| *until = now);
        self.full = self.full.map(|_| now);
        self.are_under_way()
    }

    fn stop(&mut self, process: &Process, time: Duration) -> bool {
        let Some(handle) = process.handle().filter(|handle| handle.send(Signal::STOP)) else {
            return false;
        };
        self.standing.push((handle, Instant::now() + time));
        true
    }

    fn fill(&mut self, place: &Place, time: Duration) {
        let Ok(mut filler) = fs::File::create(place.path(FILLER)) else { return };
        for size in [1 << 16, 1 << 9] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
        self.full = Some(Instant::now() + time);
    }
}

impl Lane<'_> {
    /// Whatever comes next.
    #[track_caller]
    pub fn disturb(&mut self, start: &mut Start<'_>) {
        let Some(main) = Process::read(start.run.pid()) else { return };
        let mut children = children_of(main.pid);
        children.retain(|child| !child.is_zombie());
        let when = match start.told {
            Some(_) => "in a stop",
            None => "at work",
        };
        let steady = self.plan.steady;
        match self.seed.below(24) {
            0..=6 => self.kill_a_child(start, children, when),
            7 | 8 => self.kill_a_job(&children),
            9 | 10 if !steady => {
                start.killed = kill(&main);
                start.disturbed = Some(Instant::now());
                self.soak.count(format!("kills: main alone, {when}"));
            }
            11 | 12 if !steady => self.kill_all(start, main, children, when),
            13 | 14 if !steady => {
                let signal = if self.seed.below(2) == 0 { Signal::TERM } else { Signal::INT };
                self.ask_to_stop(start, signal);
                self.soak.count(match start.requests {
                    0 | 1 => "stops: asked for once",
                    2 => "stops: asked for twice",
                    _ => "stops: asked for more than twice",
                });
            }
            15..=17 => self.stand_still(start, main, children),
            // Before it has children it may not heed signals yet.
            18..=20 if !children.is_empty() => self.hang_up(&main),
            21 | 22 if !self.disturbances.disk_is_full() => {
                let time = self.seed.time_below(Duration::from_secs(3));
                self.disturbances.fill(self.place, time);
                start.met_full_disk = true;
                self.soak.count("full disks");
            }
            _ => {}
        }
    }

    fn kill_a_child(&mut self, start: &mut Start<'_>, mut children: Vec<Process>, when: &str) {
        if self.plan.steady {
            children.retain(|child| child.comm.starts_with("worker "));
        }
        let Some(child) = self.one_of(&children).filter(kill) else { return };
        let role = role(&child);
        // One without a name yet can be any of them.
        start.buffers += u32::from(!["source", "worker"].contains(&role));
        start.disturbed = Some(Instant::now());
        self.soak.count(format!("kills: {role}, {when}"));
    }

    /// Or what else is asked for by a signal.
    fn hang_up(&mut self, main: &Process) {
        let (signal, what) = match self.seed.below(3) {
            0 => (Signal::USR1, "requests for the status"),
            _ => (Signal::HUP, "hang-ups"),
        };
        if signal == Signal::HUP {
            self.move_output();
        }
        if main.handle().is_some_and(|main| main.send(signal)) {
            self.soak.count(what);
        }
    }

    fn one_of(&mut self, processes: &[Process]) -> Option<Process> {
        processes.get(self.seed.below(processes.len() as u64) as usize).cloned()
    }

    /// A command, a coprocess, or what one of them has started.
    fn kill_a_job(&mut self, children: &[Process]) {
        let jobs: Vec<Process> = children.iter().flat_map(|child| children_of(child.pid)).collect();
        if self.one_of(&jobs).is_some_and(|job| kill(&job)) {
            self.soak.count("kills: a job's process");
        }
    }

    fn kill_all(
        &mut self,
        start: &mut Start<'_>,
        main: Process,
        mut children: Vec<Process>,
        when: &str,
    ) {
        // Main first, or somewhere in between.
        let at = self.seed.below(2) * self.seed.below(children.len() as u64 + 1);
        children.insert(at as usize, main);
        let killed: Vec<bool> = children.iter().map(kill).collect();
        start.killed = killed[at as usize];
        start.buffers += 1;
        start.disturbed = Some(Instant::now());
        self.soak.count(format!("kills: all at once, {when}"));
    }

    /// One of them, or all, or a job's process.
    fn stand_still(&mut self, start: &mut Start<'_>, main: Process, children: Vec<Process>) {
        let time = self.seed.time_below(Duration::from_millis(1500));
        let mut who = match self.seed.below(6) {
            0 => vec![main],
            1 => [vec![main], children].concat(),
            2 => children.iter().flat_map(|child| children_of(child.pid)).collect(),
            _ => self.one_of(&children).into_iter().collect(),
        };
        who.retain(|process| self.disturbances.stop(process, time));
        start.disturbed = Some(Instant::now());
        if let [one] = &who[..] {
            let role = if one.pid == start.run.pid() { "main" } else { role(one) };
            self.soak.count(format!("standing still: {role}"));
        } else if !who.is_empty() {
            self.soak.count("standing still: many at once");
        }
    }

    /// Main is dead: some of its orphans are killed as well, or stand still.
    pub fn disturb_orphans(&mut self, main: i32) {
        if self.soak.began > self.soak.until || self.seed.below(3) > 0 {
            return;
        }
        std::thread::sleep(self.seed.time_below(Duration::from_millis(20)));
        let worker = format!("worker {}/", self.plan.name);
        let mut orphans = children_of(std::process::id() as i32);
        orphans.retain(|it| it.group == main || it.comm.starts_with(&worker));
        orphans.retain(|it| !it.is_zombie() && it.pid != main);
        let Some(orphan) = self.one_of(&orphans) else { return };
        if self.seed.below(4) == 0 {
            let time = self.seed.time_below(Duration::from_millis(1500));
            if self.disturbances.stop(&orphan, time) {
                self.soak.count("standing still: an orphan");
            }
        } else if kill(&orphan) {
            self.soak.count(format!("kills: {}, orphaned", role(&orphan)));
        }
    }
}

/// Says whether it was alive until now.
fn kill(process: &Process) -> bool {
    let handle = process.handle();
    handle.is_some_and(|handle| !handle.has_ended() && handle.send(Signal::KILL))
}

fn role(process: &Process) -> &'static str {
    match process.comm.as_str() {
        "source" => "source",
        "buffer" => "buffer",
        name if name.starts_with("worker ") => "worker",
        _ => "another process, or one without a name yet",
    }
}
