//! One pipeline, all along: started, disturbed, killed, stopped, started again, and judged each time.

use crate::events::Disturbances;
use crate::ledger::Ledger;
use crate::pipelines::{CONFIG, Drops, Kind, LINES_OF_A_ROUND, Plan, lines};
use crate::samples::Samples;
use crate::support::log::assert_nothing_out_of_order;
use crate::support::processes::children_of;
use crate::support::{self, Balance, Ended, Line, Place, Process, Running, Seed, Signal};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So long nothing may be written by a run that nobody disturbs, and so long a stop may last: far more
/// than the deadline of 6 s, on a machine that is busy with other things.
const HUNG: Duration = Duration::from_secs(60);
/// See the configurations.
const DEADLINE: Duration = Duration::from_secs(6);

/// What all pipelines share.
pub struct Soak {
    pub began: Instant,
    pub until: Instant,
    /// On average between two events of a pipeline.
    pub gap: Duration,
    /// Between two looks at memory and files.
    pub look: Duration,
    /// Jobs of a list.
    pub jobs: u64,
    pub failed: AtomicBool,
    tally: Mutex<BTreeMap<String, u64>>,
}

impl Soak {
    pub fn new(time: Duration, gap: Duration, look: Duration, jobs: u64) -> Soak {
        let (began, failed, tally) = (Instant::now(), AtomicBool::new(false), Mutex::default());
        Soak { began, until: began + time, gap, look, jobs, failed, tally }
    }

    pub fn count(&self, what: impl Into<String>) {
        self.count_many(what, 1);
    }

    fn count_many(&self, what: impl Into<String>, more: u64) {
        *self
            .tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(what.into())
            .or_default() += more;
    }

    pub fn tally(&self) -> BTreeMap<String, u64> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// A run that goes on.
pub struct Start<'a> {
    pub run: Running<'a>,
    /// When it was first asked to stop, and how often.
    pub told: Option<Instant>,
    pub requests: u32,
    /// Main was killed.
    pub killed: bool,
    /// Buffers that were killed.
    pub buffers: u32,
    /// When somebody was killed or stood still last, or the disk was full.
    pub disturbed: Option<Instant>,
    pub met_full_disk: bool,
    last_change: (Instant, (u64, u64)),
}

/// How the run before this one has ended by itself.
struct Natural {
    /// In all files; not known where a batch may be half written.
    records: Option<u64>,
    kept: u64,
}

pub struct Lane<'a> {
    pub plan: Plan,
    pub place: &'a Place,
    pub soak: &'a Soak,
    pub seed: &'a mut Seed,
    pub disturbances: Disturbances,
    samples: Samples,
    ledger: Ledger,
    looked: Instant,
    drops: Drops,
    /// An output that was moved away, and how many there were.
    moved: Option<PathBuf>,
    moves: u64,
    /// Of its lists.
    epoch: u64,
    /// The next list is to be begun.
    is_fresh: bool,
    before: Option<Natural>,
}

impl<'a> Lane<'a> {
    pub fn new(plan: Plan, place: &'a Place, soak: &'a Soak, seed: &'a mut Seed) -> Lane<'a> {
        Lane {
            plan,
            place,
            soak,
            seed,
            disturbances: Disturbances::default(),
            samples: Samples::new(soak.began),
            ledger: Ledger::of(plan.kind),
            looked: soak.began,
            drops: Drops::default(),
            moved: None,
            moves: 0,
            epoch: 0,
            is_fresh: false,
            before: None,
        }
    }

    /// Until the time is over, and then to the end of all that was begun. The table of what was
    /// measured, and what has grown.
    #[track_caller]
    pub fn run(&mut self) -> (String, Vec<String>) {
        self.begin_list();
        while !self.soak.is_over() && !self.soak.has_failed() {
            if self.once() && self.plan.kind.is_finite() {
                self.begin_list();
            }
        }
        let mut complete = false;
        for _ in 0..5 {
            complete = complete || self.soak.has_failed() || self.once();
        }
        assert!(complete, "five runs in a row that nobody has disturbed, and it is not done");
        if !self.soak.has_failed() {
            self.assert_nobody_left();
        }
        let records = self.before.as_ref().and_then(|before| before.records).unwrap_or(0);
        self.soak.count_many(format!("records of {}", self.plan.name), records);
        self.soak.count_many("files set aside", self.ledger.files() as u64 + self.moves);
        self.samples.judge(self.plan.name)
    }

    /// A new list, which the next start begins.
    fn begin_list(&mut self) {
        if !self.plan.kind.is_finite() {
            return;
        }
        while self.disturbances.disk_is_full() {
            self.tend_quietly();
        }
        self.epoch += 1;
        self.ledger.forget_done();
        self.place.write("jobs.txt", lines(&format!("e{}", self.epoch), self.soak.jobs));
        self.is_fresh = true;
    }

    /// One start, to its end. Says whether all is done that there is to do.
    #[track_caller]
    fn once(&mut self) -> bool {
        let arguments: &[&str] =
            if self.is_fresh { &["run", "--fresh", CONFIG] } else { &["run", CONFIG] };
        let published = self.place.private("published");
        // Most pipelines have no end of their own: whoever kills this test ends them as well.
        let launch = self.place.command(arguments).without_terminal();
        let launch = launch.under(&["setpriv", "--pdeathsig", "KILL", "--"]);
        let run = launch.env("SOAK_PUBLISHED", published.to_str().expect("UTF-8")).start();
        self.soak.count("runs");
        let mut start = Start {
            run,
            told: None,
            requests: 0,
            killed: false,
            buffers: 0,
            disturbed: None,
            met_full_disk: self.disturbances.disk_is_full(),
            last_change: (Instant::now(), (0, 0)),
        };
        let mut next_event = self.next_event(&start);
        while !start.run.has_ended() {
            if self.soak.has_failed() {
                return false;
            }
            self.tend(&mut start);
            if self.soak.is_over() {
                self.bring_to_its_end(&mut start);
            } else if Instant::now() >= next_event && !self.is_beginning_a_list() {
                self.disturb(&mut start);
                next_event = self.next_event(&start);
            }
            let rest = next_event.saturating_duration_since(Instant::now());
            std::thread::sleep(rest.clamp(Duration::from_millis(1), Duration::from_millis(40)));
        }
        let complete = self.judge(start);
        let pause = self.seed.time_below(Duration::from_millis(200));
        std::thread::sleep(if self.seed.below(2) == 0 { pause } else { Duration::ZERO });
        complete
    }

    fn next_event(&mut self, start: &Start<'_>) -> Instant {
        // A stop takes a moment only.
        let gap = if start.told.is_some() { self.soak.gap / 8 } else { self.soak.gap * 2 };
        Instant::now() + self.seed.time_below(gap)
    }

    /// Who asks for a list to be begun anew may do so once: not again after it was begun.
    fn is_beginning_a_list(&mut self) -> bool {
        if self.is_fresh {
            let job = format!("\"e{}-", self.epoch);
            self.ledger.read_set_aside(self.place);
            let begun = self.place.read(self.plan.kind.output()).contains(&job)
                || self.ledger.done.iter().any(|it| it.starts_with(&job[1..]));
            self.is_fresh = !begun;
        }
        self.is_fresh
    }

    /// The time is over, and nobody is disturbed any more.
    fn bring_to_its_end(&mut self, start: &mut Start<'_>) {
        if self.disturbances.end() || self.plan.kind.is_finite() || start.told.is_some() {
            return;
        }
        // A signal before it has begun would be the end of it, and of nothing that it does.
        if children_of(start.run.pid()).len() < 3 {
            return;
        }
        if self.plan.kind != Kind::Files || self.drops.are_done() {
            self.ask_to_stop(start, Signal::TERM);
        }
    }

    pub fn ask_to_stop(&mut self, start: &mut Start<'_>, signal: Signal) {
        let main = Process::read(start.run.pid()).and_then(|main| main.handle());
        if main.is_some_and(|main| main.send(signal)) {
            start.told.get_or_insert_with(Instant::now);
            start.requests += 1;
        }
    }

    /// All that goes on beside the run.
    #[track_caller]
    fn tend(&mut self, start: &mut Start<'_>) {
        self.tend_quietly();
        let disturbed = self.disturbances.are_under_way();
        start.met_full_disk |= self.disturbances.disk_is_full();
        let now = Instant::now();
        if disturbed {
            start.disturbed = Some(now);
        }
        let output = fs::metadata(self.place.path(self.plan.kind.output()));
        let state = (output.map_or(0, |it| it.len()), self.ledger.records());
        if disturbed || state != start.last_change.1 {
            start.last_change = (now, state);
        }
        let hung = now - start.last_change.0 > HUNG;
        assert!(!hung, "nothing was written for {HUNG:?}\n{}", start.run.describe());
        if disturbed {
            self.samples.forget_zombies();
        } else if start.told.is_none() {
            let kind = self.plan.kind;
            let spool = kind.spool();
            self.samples.take(
                start.run.pid(),
                self.place,
                (&spool, kind.processes()),
                self.soak.look,
            );
        }
    }

    /// What goes on whether there is a run or not.
    #[track_caller]
    fn tend_quietly(&mut self) {
        self.disturbances.tend(self.place);
        support::reap_orphans();
        if self.looked.elapsed() < Duration::from_millis(250) {
            return;
        }
        self.looked = Instant::now();
        self.ledger.read_set_aside(self.place);
        self.look_at_moved();
        if self.plan.kind == Kind::Files {
            self.drops.take_moved(self.place);
            if !self.soak.is_over() {
                (0..self.seed.below(12)).for_each(|_| self.drops.drop(self.place));
            }
        }
    }

    /// Moves the output away, as logrotate does; a SIGHUP is to follow.
    pub fn move_output(&mut self) {
        if self.plan.kind != Kind::Coprocesses || self.moved.is_some() {
            return;
        }
        let moved = self.place.path(&format!("moved.{}.jsonl", self.moves + 1));
        if fs::rename(self.place.path(self.plan.kind.output()), &moved).is_ok() {
            self.moves += 1;
            self.moved = Some(moved);
        }
    }

    /// What was moved is over when there is something in the next one.
    #[track_caller]
    fn look_at_moved(&mut self) {
        let output = fs::metadata(self.place.path(self.plan.kind.output()));
        if output.is_ok_and(|output| output.len() > 0)
            && let Some(moved) = self.moved.take()
        {
            self.ledger.read_moved(&moved);
            fs::remove_file(moved).expect("a file that was moved");
        }
    }

    /// A run has ended: was it right to, and is all there that it says? Whether all is done.
    #[track_caller]
    fn judge(&mut self, start: Start<'a>) -> bool {
        let Start { run, told, requests, killed, buffers, .. } = start;
        let main = run.pid();
        let ended = run.wait_for_main();
        support::reap_orphans();
        let text = &ended.stderr;
        let balance = text.contains(" done in ").then(|| Balance::of(&whole_lines(&ended)));
        match (ended.code, ended.signal) {
            (None, Some(9)) if killed => {
                self.soak.count("ends: killed");
                self.before = None;
                self.disturb_orphans(main);
                return false;
            }
            // It had not begun, so nothing has changed.
            (None, Some(2 | 15)) if told.is_some() && text.is_empty() => {
                self.soak.count("ends: by the signal, before it had begun");
                return false;
            }
            (Some(75), None) if told.is_some() && text.contains("still holds this spool") => {
                self.soak.count("ends: 75, told to stop beside orphans");
                return false;
            }
            (Some(74), None) if start.met_full_disk && balance.is_none() => {
                self.soak.count("ends: 74, no room to start");
                return false;
            }
            _ => {}
        }
        let describe = || ended.describe();
        let code = ended.code.unwrap_or_else(|| panic!("ended by a signal\n{}", describe()));
        self.soak.count(format!("ends: {code}"));
        let balance = balance.unwrap_or_else(|| panic!("no balance\n{}", describe()));
        balance.assert_even();
        assert_eq!(balance.quarantined, 0, "{}", describe());
        ended.assert_nothing_left();
        let (finite, ordered) = (self.plan.kind.is_finite(), balance.kept == 0);
        let right = match code {
            0 if finite => ordered && balance.left == 0,
            0 => ordered && told.is_some(),
            3 => finite && ordered && balance.left == 0,
            5 => finite && ordered && told.is_some(),
            4 => requests >= 2 || start.disturbed.is_some_and(|at| at.elapsed() < DEADLINE * 2),
            // A buffer is started only once more during a stop.
            1 => buffers >= 2,
            _ => false,
        };
        assert!(right, "not the right code\n{}", describe());
        assert_order(&whole_lines(&ended));
        if matches!(code, 0 | 3 | 5) {
            self.assert_no_stray_file(&ended);
        }
        self.judge_files(&balance, &ended);
        if !matches!(code, 0 | 3) {
            return false;
        }
        self.judge_all(told.is_some())
    }

    /// What was written stands in the files, and what was kept by the run before was known to this one.
    #[track_caller]
    fn judge_files(&mut self, balance: &Balance, ended: &Ended) {
        self.ledger.read_set_aside(self.place);
        let whole = balance.kept == 0;
        let records = whole.then(|| self.ledger.whole(self.place, self.moved.as_deref()).records());
        if let Some(before) = &self.before {
            assert_eq!(balance.kept_before, before.kept, "{}", ended.describe());
            if let Some((before, records)) = before.records.zip(records) {
                let (grown, written) = (records - before, balance.written + balance.dead_letters);
                assert_eq!(
                    grown,
                    written,
                    "in the files, and by the balance\n{}",
                    ended.describe()
                );
            }
        }
        self.before = Some(Natural { records, kept: balance.kept });
    }

    /// Each outcome is there, of all that there was to do up to now.
    #[track_caller]
    fn judge_all(&mut self, told: bool) -> bool {
        let all = self.ledger.whole(self.place, self.moved.as_deref());
        match self.plan.kind {
            Kind::Commands | Kind::Functions => {
                all.assert_all_of(&format!("e{}", self.epoch), self.soak.jobs);
                self.soak.count("lists done");
                return true;
            }
            Kind::Coprocesses => all.assert_whole_rounds(LINES_OF_A_ROUND),
            Kind::Producers => all.assert_published(self.place),
            Kind::Files => {
                self.drops.take_moved(self.place);
                if !self.drops.are_done() {
                    return false;
                }
                all.assert_all_files(&self.drops.dropped);
            }
        }
        told
    }

    #[track_caller]
    fn assert_no_stray_file(&self, ended: &Ended) {
        let mut files = self.place.files();
        files.retain(|name| !self.plan.kind.is_known_file(name));
        assert!(files.is_empty(), "files left behind: {files:?}\n{}", ended.describe());
    }

    /// Neither living nor dead.
    #[track_caller]
    fn assert_nobody_left(&self) {
        support::reap_orphans();
        let worker = format!("worker {}/", self.plan.name);
        let mut left = children_of(std::process::id() as i32);
        left.retain(|it| it.comm.starts_with(&worker));
        left.extend(Process::marked(&self.place.name));
        let left: Vec<String> = left.iter().map(Process::describe).collect();
        assert!(left.is_empty(), "left behind: {left:#?}");
    }
}

/// The whole lines of a log in which somebody may have been killed while he wrote his.
fn whole_lines(ended: &Ended) -> Vec<Line> {
    ended.stderr.lines().filter_map(Line::parse).collect()
}

/// A stop in which nobody has died is in order.
#[track_caller]
fn assert_order(log: &[Line]) {
    let asked = log.iter().position(|line| line.message.starts_with("stop requested"));
    let (before, stop) = log.split_at(asked.unwrap_or(log.len()));
    if stop.iter().any(|line| line.message.contains("has died")) {
        return;
    }
    // Its last part, for jobs to be acknowledged, is behind all others.
    let once_more = stop.iter().position(|line| line.message.contains("source once more"));
    let stop = &stop[..once_more.unwrap_or(stop.len())];
    assert_nothing_out_of_order(&[before, stop].concat());
}
