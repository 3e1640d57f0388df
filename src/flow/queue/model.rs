//! The protocol of slots, lanes, intent, commit and settling as a model, searched to its end.
//!
//! A source, two workers, a buffer and main run a list of jobs. Each step is one that other
//! processes can see: the store of a word, or of words that nobody believes before another; what
//! only its own process can see is no step. After every step anyone may die, or everyone, or a stop
//! may be asked for; the dead are started again, as often as there are deaths. All interleavings
//! are tried, and [`judge`] looks at each state. Every step names the function that it stands for.
//!
//! What the model leaves out: how sleepers are woken and in which order stores are seen (`loom`
//! does that), threads of one worker (they share a lock), attempts that are put back, power loss.
//!
//! That the search finds what is wrong is shown by [`wrong`]: each of those versions is caught.

mod buffer;
mod judge;
mod main;
mod private;
mod source;
mod worker;
mod world;
mod wrong;

use main::Role;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use world::{Size, Step, WORKERS, World};
use wrong::Wrong;

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Action {
    Source,
    Buffer,
    /// The worker, and which slot it claims.
    Worker(u8, u8),
    Main(u8),
    Dies(Role),
    /// The worker is there at the deadline.
    Late(u8),
    /// The buffer dies in the middle of a step.
    Torn(u8),
    AllDie,
    Stop,
    StartedEarly(u8),
}

impl Action {
    /// All that could be thought of.
    fn all(world: &World, size: &Size, into: &mut Vec<Action>) {
        into.clear();
        if size.reduced
            && let Some(role) = world.private()
        {
            let step = match role {
                Role::Source => Action::Source,
                Role::Worker(index) => Action::Worker(index, 0),
                Role::Buffer => Action::Buffer,
                Role::Main => Action::Main(0),
            };
            into.extend([step, Action::Dies(role), Action::AllDie]);
            if let Role::Worker(index) = role {
                into.push(Action::Late(index));
            }
            if world.deaths > 0 && role == Role::Buffer {
                into.extend((0..world.tears(size)).map(Action::Torn));
            }
            return;
        }
        into.extend([Action::Source, Action::Buffer]);
        into.extend((0..4).map(Action::Main));
        let workers = if size.wrong == Some(Wrong::SettleBeforeReaped) { WORKERS } else { 2 };
        for worker in 0..workers as u8 {
            into.extend([Action::Worker(worker, 0), Action::Worker(worker, 1)]);
            into.extend([Action::Dies(Role::Worker(worker)), Action::Late(worker)]);
        }
        if workers == WORKERS {
            into.extend([Action::StartedEarly(0), Action::StartedEarly(1)]);
        }
        into.extend([Role::Source, Role::Buffer, Role::Main].map(Action::Dies));
        if world.deaths > 0 {
            into.extend((0..world.tears(size)).map(Action::Torn));
        }
        into.extend([Action::AllDie, Action::Stop]);
    }

    /// Is it what the processes do by themselves?
    fn is_progress(self) -> bool {
        matches!(
            self,
            Action::Source
                | Action::Buffer
                | Action::Worker(..)
                | Action::Main(_)
                | Action::Late(_)
        )
    }

    /// Does it; `None`: it can't happen here.
    fn act(self, world: &mut World, size: &Size) -> Option<Step> {
        match self {
            Action::Source => world.step_source(size),
            Action::Buffer => world.step_buffer(size),
            Action::Worker(worker, slot) => world.step_worker(worker.into(), slot, size),
            Action::Main(choice) => world.step_main(choice, size),
            Action::Dies(role) => world.kill(role),
            Action::Late(worker) => world.kill_late(worker.into()),
            Action::Torn(tear) => {
                world.deaths -= 1;
                world.tear(tear, size);
                Some(Ok(()))
            }
            Action::AllDie => world.kill_all(),
            Action::Stop => world.stop(),
            Action::StartedEarly(lane) => world.start_early(lane, size),
        }
    }

    /// A line for the way to a state.
    fn describe(self, world: &World) -> String {
        match self {
            Action::Source => format!("source: {:?}", world.source.at),
            Action::Buffer => format!("buffer: {:?}", world.buffer.at),
            Action::Worker(worker, slot) => {
                let at = world.workers[usize::from(worker)].at;
                format!("worker {worker}: {at:?}, slot {slot}")
            }
            Action::Main(_) => format!("main: {:?}", world.main),
            other => format!("{other:?}"),
        }
    }
}

/// What the search came to.
struct Found {
    states: usize,
    steps: usize,
    ends: usize,
    outputs: BTreeSet<Vec<u8>>,
    /// The first promise that was broken, and the shortest way there.
    broken: Option<String>,
}

/// A hash that takes little time without optimisation. Two states with the same 64 bits would be
/// taken for one: with a million of them the odds are one in thirty million.
#[derive(Default)]
struct Mixer(u64);

impl Mixer {
    fn mix(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let mixed = self.0.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.mix(value.into());
    }
    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }
    fn write_isize(&mut self, value: isize) {
        self.mix(value as u64);
    }
}

fn fingerprint(world: &World) -> u64 {
    let mut mixer = Mixer::default();
    world.hash(&mut mixer);
    mixer.finish()
}

/// Tries everything, nearest first, until nothing new comes or a promise is broken.
fn search(size: &Size) -> Found {
    let first = World::begin(size);
    let mut known = HashSet::from([fingerprint(&first)]);
    // How each state was reached.
    let mut origins: Vec<Option<(u32, Action)>> = vec![None];
    let mut queue = VecDeque::from([(0u32, first)]);
    let mut found = Found { states: 0, steps: 0, ends: 0, outputs: BTreeSet::new(), broken: None };
    let mut actions = Vec::new();
    while let Some((index, world)) = queue.pop_front() {
        let mut stuck = world.main != world::Main::Ended;
        if !stuck {
            found.ends += 1;
            found.outputs.insert(world.output.written().to_vec());
        }
        Action::all(&world, size, &mut actions);
        for action in &actions {
            let mut next = world;
            let Some(step) = action.act(&mut next, size) else { continue };
            stuck &= !action.is_progress();
            found.steps += 1;
            if size.reduced && size.wrong.is_none() {
                next.forget();
            }
            if let Err(why) = step.and_then(|()| next.judge(&world)) {
                found.broken = Some(way(&origins, index, *action, &why, size));
                found.states = known.len();
                return found;
            }
            if known.insert(fingerprint(&next)) {
                queue.push_back((origins.len() as u32, next));
                origins.push(Some((index, *action)));
            }
        }
        if stuck {
            let why = "nobody can go on";
            found.broken = Some(way(&origins, index, Action::Main(0), why, size));
            break;
        }
    }
    found.states = known.len();
    found
}

/// The whole way from the beginning.
fn way(origins: &[Option<(u32, Action)>], at: u32, last: Action, why: &str, size: &Size) -> String {
    let mut actions = vec![last];
    let mut at = at;
    while let Some((before, action)) = origins[at as usize] {
        actions.push(action);
        at = before;
    }
    let mut world = World::begin(size);
    let mut text = String::new();
    for action in actions.into_iter().rev() {
        let _written = writeln!(text, "  {}", action.describe(&world));
        let _same = action.act(&mut world, size);
        if size.reduced && size.wrong.is_none() {
            world.forget();
        }
    }
    format!("{why}, after:\n{text}")
}

/// Searches, and says how it can end: in which order the output has the jobs, and which have failed.
fn assert_kept(size: &Size, states_min: usize) -> BTreeSet<Vec<u8>> {
    let began = std::time::Instant::now();
    let Found { states, steps, ends, outputs, broken } = search(size);
    println!("{size:?}: {states} states, {steps} steps, {ends} ends, {:?}", began.elapsed());
    if let Some(broken) = broken {
        panic!("{broken}");
    }
    assert!(states >= states_min && ends > 0, "the search has found too little: {states}");
    outputs
}

/// A size that is searched in one go.
const fn size(jobs: u8, deaths: u8, massacres: u8, stops: u8) -> Size {
    Size { jobs, deaths, massacres, stops, reduced: true, wrong: None }
}

#[test]
fn every_job_is_in_the_output_once_whoever_dies_once() {
    assert_kept(&size(3, 1, 0, 0), 1_000_000);
}

#[test]
fn every_job_is_in_the_output_once_whoever_dies_twice() {
    assert_kept(&size(2, 2, 0, 0), 1_000_000);
}

#[test]
fn every_job_is_in_the_output_once_if_all_die_at_once_after_any_stop() {
    assert_kept(&size(2, 0, 1, 1), 100_000);
}

#[test]
#[ignore = "takes minutes: for long runs"]
fn every_job_is_in_the_output_once_whatever_dies() {
    assert_kept(&size(2, 1, 1, 1), 5_000_000);
}

#[test]
fn no_outcome_is_left_out_with_the_interleavings() {
    for (jobs, deaths) in [(3, 0), (1, 1)] {
        let reduced = size(jobs, deaths, 0, 0);
        let whole = Size { reduced: false, ..reduced };
        assert_eq!(assert_kept(&whole, 10_000), assert_kept(&reduced, 1_000));
    }
}

#[test]
fn an_intent_of_a_committed_batch_would_do_no_harm() {
    assert_kept(&Wrong::GenerationNotChecked.size(), 100_000);
}

#[test]
#[ignore = "takes minutes: for long runs"]
fn a_state_that_could_come_back_would_do_harm() {
    let found = search(&Wrong::ChangesNotCounted.size());
    println!("{} states", found.states);
    println!("{}", found.broken.expect("nothing was found wrong"));
}

#[test]
fn the_search_finds_what_is_wrong_with_each_wrong_version() {
    let mut missed = Vec::new();
    for wrong in Wrong::ALL {
        let found = search(&wrong.size());
        println!("{wrong:?}: {} states", found.states);
        match found.broken {
            Some(broken) => println!("{broken}"),
            None => missed.push(wrong),
        }
    }
    assert!(missed.is_empty(), "nothing was found wrong with {missed:?}");
}
