//! Explores the machine exhaustively for one source, two workers and one buffer, once for sources
//! that acknowledge and once for others.
//!
//! Every interleaving of signals, reports, deaths, failed starts and time is tried, until no new
//! state is found; [`super::witness`] judges each step. The environment is as free as the real
//! one: what is told or killed dies in order, by a crash, later or never; a child may die before
//! it is ready, or exit unasked; reports may be lost. Only two things can't happen: events of
//! children that do not exist, and reports after a child's last one.
//!
//! Time is taken at the next alarm, just before it, half-way, a little late, and late by more
//! than a second. To keep the reachable states finite they are normalised ([`World::normalise`]):
//! times are relative to now, what can't matter any more is wiped, and two workers that have
//! swapped their roles are the same. Three times are rounded, for machine and witness alike: what
//! is set off just before a full second is set off there, back-offs last full seconds, and a start
//! or a death that has long to count is as good as one just now. What only goes into the exit
//! code is wiped as well, and judged step by step. The result is some 51,000 states and 3,300,000
//! steps.

use super::witness::{Broken, Process, Promise, Seen, Step, StopSeen, Witness};
use super::*;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::sync::LazyLock;

const LIMITS: Limits = Limits {
    deadline: Duration::from_secs(4),
    flush_reserve: Duration::from_secs(1),
    restart_max: 2,
    restart_within: Duration::from_secs(20),
};
/// What `now` is in every normalised state.
const NOW: Duration = Duration::from_secs(1000);
/// Everything but "just before" happens at a full second.
const GRID: Duration = Duration::from_secs(1);
/// "Just before" a time.
const JUST: Duration = Duration::from_millis(1);
/// Of a long wait only the last part is divided further.
const LONG: Duration = Duration::from_secs(4);
const A_BIT_LATE: Duration = LATE;
const VERY_LATE: Duration = Duration::from_secs(2);

/// So many states mean that their number has no end.
const TOO_MANY: usize = 100_000;

/// The machine and what is around it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    machine: Lifecycle,
    witness: Witness,
    /// [`NOW`], or just before it.
    now: Duration,
}

impl World {
    fn begin(acknowledges: bool) -> (World, Vec<Broken>) {
        let members = Members { source: true, acknowledges, workers: 2 };
        let (machine, actions) = Lifecycle::begin(LIMITS, members, NOW);
        let mut witness = Witness::new(LIMITS, acknowledges);
        let step =
            Step { event: Event::Time, now: NOW, alarm: None, actions: &actions, after: &machine };
        let broken = witness.watch(&step);
        (World { machine, witness, now: NOW }, broken)
    }

    /// What can happen.
    fn events(&self, into: &mut Vec<Event>) {
        into.extend([Event::Time, Event::Signal { late: Duration::ZERO }]);
        // The answers to the start of the last source may come after whatever else happens.
        if self.witness.is_acknowledging() && self.witness.source.exists() {
            into.extend([Event::NotStarted(Child::Source), Event::NothingToAcknowledge]);
        }
        let [first, second] = self.witness.workers;
        let twins = first == second && self.machine.workers[0] == self.machine.workers[1];
        let children = [
            (Child::Source, self.witness.source),
            (Child::Worker(0), first),
            (Child::Worker(1), second),
            (Child::Buffer, self.witness.buffer),
        ];
        for (child, seen) in children {
            // What happens to one could as well happen to the other.
            if twins && child == Child::Worker(1) {
                continue;
            }
            let talks = matches!(seen.process, Process::Fresh | Process::Ready);
            if seen.process == Process::Fresh {
                into.extend([Event::NotStarted(child), Event::Ready(child)]);
            }
            if talks {
                into.push(Event::Failed(child, ExitCode::Io));
            }
            if talks && matches!(child, Child::Worker(_)) {
                into.extend([Event::Overdue(child), Event::Recycled(child)]);
            }
            // The buffer never has nothing more to do.
            if talks && child != Child::Buffer {
                into.push(Event::Finished(child));
            }
            if seen.exists() {
                into.push(Event::Reaped(child, Ended::Crashed));
            }
            // Only a worker has jobs in hand.
            if seen.exists() && matches!(child, Child::Worker(_)) {
                into.push(Event::Reaped(child, Ended::ByJob));
            }
            // Who has failed exits with the code of that.
            if seen.exists() && seen.process != Process::Failed {
                into.push(Event::Reaped(child, Ended::Clean));
            }
        }
    }

    /// When it can happen.
    fn times(&self, into: &mut Vec<Duration>) {
        into.push(self.now);
        let Some(alarm) = self.machine.next_alarm() else {
            let window = LIMITS.restart_within;
            return into.extend([NOW + window, NOW + 2 * window]);
        };
        let wait = alarm.saturating_sub(NOW);
        if wait > LONG {
            into.push(alarm - LONG);
        } else if wait >= 2 * GRID {
            into.push(NOW + GRID * (wait.as_secs() / 2) as u32);
        }
        if wait > Duration::ZERO && alarm == round_up(alarm) {
            into.push(alarm - JUST);
        }
        into.extend([alarm, alarm + A_BIT_LATE, alarm + VERY_LATE]);
    }

    fn step(&self, event: Event, now: Duration) -> (World, Vec<Broken>) {
        let alarm = self.machine.next_alarm();
        let (machine, actions) = self.machine.clone().step(event, now);
        let mut witness = self.witness.clone();
        let step = Step { event, now, alarm, actions: &actions, after: &machine };
        let broken = witness.watch(&step);
        (World { machine, witness, now }, broken)
    }

    /// Makes worlds equal that can't be told apart by anything that may still happen.
    fn normalise(&mut self) {
        // What was set off just before a multiple of the grid is set off there, and so are
        // back-offs, as if by other dice.
        let now = round_up(self.now);
        let was = self.now;
        self.for_each_time(|time, is_limit| {
            // A limit that was reached stays reached.
            let reached = is_limit && *time <= was;
            let rounded = if reached { was.min(round_up(*time)) } else { round_up(*time) };
            *time = (rounded + NOW).saturating_sub(now);
        });
        self.now = was + NOW - now;
        let World { machine, witness, .. } = self;
        (machine.failure, machine.killed) = (None, false);
        match (&mut machine.stopping, &mut witness.stop) {
            (Some(stopping), Some(seen)) => {
                machine.deaths.clear();
                witness.deaths.clear();
                normalise_stop(stopping, seen, machine.phase, &witness.workers);
            }
            _ => {
                for deaths in [&mut machine.deaths, &mut witness.deaths] {
                    deaths.retain(|death| *death + LIMITS.restart_within >= NOW);
                    // So may one that has just died.
                    for death in deaths {
                        *death =
                            if *death + LIMITS.restart_within > NOW + LONG { NOW } else { *death };
                    }
                }
            }
        }
        self.normalise_children();
        self.order_workers();
    }

    fn normalise_children(&mut self) {
        let end = self.machine.stopping.map(|stopping| stopping.kill_all_at + ABANDON_AFTER);
        for child in [Child::Source, Child::Worker(0), Child::Worker(1), Child::Buffer] {
            let (status, seen) = (self.machine.status(child), self.witness.seen(child));
            // A start limit that would be reached after the end never is.
            let unlimited = end.is_some_and(|end| seen.started + START_LIMIT > end);
            if unlimited && seen.process == Process::Fresh && !seen.killed {
                (*status, seen.process) = (Status::Running, Process::Ready);
            }
            // One that has long to go may as well have just been started.
            if end.is_none() && seen.started + START_LIMIT > NOW + LONG {
                if let Status::Starting { since } = status {
                    *since = NOW;
                }
                seen.started = NOW;
            }
            if seen.process != Process::Fresh || seen.killed {
                seen.started = Duration::ZERO;
            }
            // The dying may say and do anything, as often as they like.
            if seen.killed {
                seen.process = Process::Ready;
            }
            // During a stop it does not matter how a worker or the source ends.
            if end.is_some() && child != Child::Buffer && seen.exists() {
                seen.slow = false;
                if seen.killed {
                    *status = Status::Killed;
                    seen.told = true;
                } else if seen.process != Process::Fresh {
                    *status = Status::Running;
                    seen.process = Process::Ready;
                }
            }
        }
    }

    fn order_workers(&mut self) {
        let hasher = BuildHasherDefault::<Mixer>::new();
        let key = |lane: usize| hasher.hash_one(self.machine.workers[lane]);
        let [first, second] = &self.witness.workers;
        if first.cmp(second).then_with(|| key(0).cmp(&key(1))).is_gt() {
            self.machine.workers.swap(0, 1);
            self.witness.workers.swap(0, 1);
        }
    }

    /// Does it with every time that there is; the other argument: is it a limit, or else the time
    /// of an event?
    fn for_each_time(&mut self, mut act: impl FnMut(&mut Duration, bool)) {
        let World { machine, witness, .. } = self;
        for time in machine.deaths.iter_mut().chain(&mut witness.deaths) {
            act(time, false);
        }
        let statuses = machine.workers.iter_mut().chain([&mut machine.source, &mut machine.buffer]);
        for status in statuses {
            if let Status::Starting { since: time } | Status::Pausing { until: time } = status {
                act(time, false);
            }
        }
        if let Some(stopping) = &mut machine.stopping {
            act(&mut stopping.last_signal, false);
            act(&mut stopping.quiet_until, true);
            act(&mut stopping.kill_workers_at, true);
            act(&mut stopping.kill_all_at, true);
            act(&mut stopping.say_at, true);
        }
        if let Some(stop) = &mut witness.stop {
            act(&mut stop.last_signal, false);
            act(&mut stop.quiet_by, true);
            act(&mut stop.workers_by, true);
            act(&mut stop.all_by, true);
        }
        for seen in witness.all() {
            act(&mut seen.started, false);
        }
    }
}

/// Wipes what was done already: it can't be done again.
fn normalise_stop(stopping: &mut Stopping, seen: &mut StopSeen, phase: Phase, workers: &[Seen; 2]) {
    if phase == Phase::AwaitAcknowledgement {
        // Any further signal is the same now, and no buffer is started any more.
        if stopping.signals > 0 {
            (stopping.signals, seen.signals) = (2, 2);
        }
        (stopping.flush_restart, seen.last_buffer) = (false, true);
    }
    let long_ago = NOW - GRID;
    stopping.last_signal = stopping.last_signal.max(long_ago);
    seen.last_signal = seen.last_signal.max(long_ago);
    if stopping.signals == 0 || stopping.signals == SIGNALS_MAX || phase == Phase::Done {
        (stopping.last_signal, seen.last_signal) = (long_ago, long_ago);
    }
    if phase == Phase::Done {
        let over = (&mut stopping.kill_all_at, &mut stopping.say_at, &mut seen.all_by);
        (*over.0, *over.1, *over.2) = (NOW, NOW, NOW);
    }
    if phase != Phase::AwaitSource {
        (stopping.quiet_until, seen.quiet_by) = (NOW, NOW);
    }
    if !workers.iter().any(Seen::at_large) {
        (stopping.kill_workers_at, seen.workers_by) = (NOW, NOW);
    }
}

fn round_up(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

/// A fast hash: the standard one takes most of the time in a debug build.
#[derive(Default)]
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix((*byte).into()));
    }
    fn write_u32(&mut self, value: u32) {
        self.mix(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }
    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }
    fn write_isize(&mut self, value: isize) {
        self.mix(value as u64);
    }
}

/// How a world was reached: from which one, by what, how long after.
type Origin = Option<(usize, Event, Duration)>;

struct Exploration {
    worlds: usize,
    steps: usize,
    finished: usize,
    /// Worlds in which there is a last source.
    acknowledging: usize,
    /// The first that was found of each kind, with the way there.
    broken: HashMap<Promise, String>,
}

static EXPLORED: LazyLock<Exploration> = LazyLock::new(explore);

fn explore() -> Exploration {
    let mut found = HashMap::with_hasher(BuildHasherDefault::<Mixer>::default());
    let mut origins: Vec<Origin> = Vec::new();
    let mut queue = VecDeque::new();
    let mut explored =
        Exploration { worlds: 0, steps: 0, finished: 0, acknowledging: 0, broken: HashMap::new() };
    for acknowledges in [true, false] {
        let (first, broken) = World::begin(acknowledges);
        explored.broken.extend(broken);
        queue.push_back((origins.len(), first.clone()));
        found.insert(first, origins.len());
        origins.push(None);
    }
    let (mut times, mut events) = (Vec::new(), Vec::new());
    while let Some((index, world)) = queue.pop_front() {
        if found.len() > TOO_MANY {
            let message =
                format!("it goes on for ever:\n{}", path(&origins, origins[index], &world));
            explored.broken.insert(Promise::EveryPathEnds, message);
            break;
        }
        times.clear();
        events.clear();
        world.times(&mut times);
        world.events(&mut events);
        let alarm = world.machine.next_alarm();
        explored.finished += usize::from(world.witness.finished);
        let last = world.witness.is_acknowledging() && world.witness.source.exists();
        explored.acknowledging += usize::from(last && !world.witness.finished);
        for (now, event) in times.iter().flat_map(|now| events.iter().map(move |it| (*now, *it))) {
            // Whoever is a little late is late for whatever happens; time and signals show it.
            let a_bit_late = alarm.is_some_and(|alarm| now == alarm + A_BIT_LATE);
            if a_bit_late && !matches!(event, Event::Time | Event::Signal { .. }) {
                continue;
            }
            let (mut next, broken) = world.step(event, now);
            explored.steps += 1;
            let origin = Some((index, event, now - world.now));
            for (promise, message) in &broken {
                explored
                    .broken
                    .entry(*promise)
                    .or_insert_with(|| format!("{message}\n{}", path(&origins, origin, &next)));
            }
            // Beyond what is broken nothing is to be learnt; beyond the end there is nothing.
            if !broken.is_empty() || world.witness.finished {
                continue;
            }
            next.normalise();
            if let std::collections::hash_map::Entry::Vacant(vacant) = found.entry(next) {
                queue.push_back((origins.len(), vacant.key().clone()));
                vacant.insert(origins.len());
                origins.push(origin);
            }
        }
    }
    explored.worlds = found.len();
    explored
}

/// The whole way from the beginning.
fn path(origins: &[Origin], last: Origin, at: &World) -> String {
    let mut steps = Vec::new();
    let mut origin = last;
    while let Some((from, event, after)) = origin {
        steps.push((event, after));
        origin = origins[from];
    }
    let mut text = String::from("after the start of all:\n");
    for (event, after) in steps.into_iter().rev() {
        let _written = writeln!(text, "  {:>8.3} s later: {event:?}", after.as_secs_f64());
    }
    let _written = write!(text, "and then: {at:#?}");
    text
}

fn assert_kept(promise: Promise) {
    if let Some(message) = EXPLORED.broken.get(&promise) {
        panic!("{message}");
    }
}

#[test]
fn the_exploration_is_not_empty() {
    let Exploration { worlds, steps, finished, acknowledging, .. } = *EXPLORED;
    println!("{worlds} states, {steps} steps, {finished} ends, {acknowledging} at the last source");
    assert!(worlds > 30_000 && steps > 1_600_000 && finished > 150 && acknowledging > 50);
}

#[test]
fn the_buffer_is_told_to_stop_only_after_the_last_worker_was_reaped() {
    assert_kept(Promise::BufferLast);
}

#[test]
fn workers_are_told_to_stop_only_after_the_source() {
    assert_kept(Promise::WorkersAfterSource);
}

#[test]
fn a_last_source_is_started_only_if_all_else_is_gone_and_once_and_not_told_to_stop() {
    assert_kept(Promise::AcknowledgedLast);
}

#[test]
fn nothing_comes_of_the_last_source_but_that_it_is_killed_in_its_time() {
    assert_kept(Promise::LastSourceIsHarmless);
}

#[test]
fn nothing_is_killed_before_its_time_or_for_main_s_absence() {
    assert_kept(Promise::NothingBeforeItsTime);
}

#[test]
fn every_path_ends_by_the_deadline_or_a_second_for_the_last_source() {
    assert_kept(Promise::EveryPathEnds);
}

#[test]
fn signals_count_three_times_at_the_most_and_any_ends_the_last_source() {
    assert_kept(Promise::SignalsAreCounted);
}

#[test]
fn only_the_buffer_is_started_again_during_a_stop_and_only_once() {
    assert_kept(Promise::NoRestartDuringStop);
}

#[test]
fn a_worker_that_ends_for_a_timed_out_job_is_started_again_at_once_and_counts_no_death() {
    assert_kept(Promise::OverdueIsNoDeath);
}

#[test]
fn a_worker_that_has_done_enough_is_started_again_at_once_and_counts_no_death() {
    assert_kept(Promise::RecycledIsNoDeath);
}

#[test]
fn a_death_that_is_put_down_to_a_job_ends_no_pipeline_and_is_no_spin() {
    assert_kept(Promise::DeathsByJobsAreNotCounted);
}

#[test]
fn only_what_exists_is_told_or_killed() {
    assert_kept(Promise::OnlyWhatExists);
}

#[test]
fn it_never_gets_stuck_and_never_ticks() {
    assert_kept(Promise::NeverStuckNeverTicking);
}

#[test]
fn failures_and_kills_are_kept_for_the_exit_code() {
    assert_kept(Promise::FactsForTheExitCode);
}

#[test]
fn it_is_said_once_that_all_are_ready_and_only_when_they_are() {
    assert_kept(Promise::ReadyOnce);
}
