//! However and whenever a run is asked to stop, it stops in order or has not begun: exit code as
//! documented, no process left, the output whole, no job twice; and it goes on where it was.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use support::verdict::{Before, End, goes_on_to_the_end, judge};
use support::{Ended, Handle, Place, Seed, Signal, Terminal, log, needs, tool};

// A disk can take longer than the usual eight seconds to answer.
const OPTIONS: [&str; 6] = ["-P", "2", "-j", "2", "--deadline", "40s"];

/// How many of the runs ended how.
#[derive(Default, Debug)]
struct Tally {
    plain: usize,
    stopped: usize,
    complete: usize,
}

impl Tally {
    fn count(&mut self, end: End) {
        match end {
            End::Plain => self.plain += 1,
            End::Stopped => self.stopped += 1,
            End::Complete => self.complete += 1,
        }
    }
}

/// Says where a test was when it failed.
struct At(String);

impl Drop for At {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this happened at {}", self.0);
        }
    }
}

/// A place with 40 jobs, which take a quarter of a second together.
fn place() -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(40);
    place.work_script("sleep 0.02");
    (place, jobs)
}

fn full_duration() -> Duration {
    let (place, jobs) = place();
    let before = Before::of(&place);
    let ended = place.run_work(&OPTIONS).finish();
    ended.assert_exit(0);
    judge(&place, &before, &ended, &jobs);
    place.assert_each_ran_once(&jobs);
    ended.elapsed
}

/// Stops 200 runs, half of them in their first milliseconds, and lets each go on to the end. Each job is
/// run once, but for so many in a run whose command the stop may have hit.
fn at_random_instants(hit: usize, mut stop: impl FnMut(&Place, &mut Seed, Instant) -> Ended) {
    let mut seed = Seed::new();
    let full = full_duration();
    let mut tally = Tally::default();
    for number in 0..200 {
        let (place, jobs) = place();
        let instant = if number % 2 == 0 {
            Instant::Early
        } else {
            Instant::Later(seed.time_below(full * 11 / 10))
        };
        let _at = At(format!("run {number}, {instant:?}"));
        let before = Before::of(&place);
        let ended = stop(&place, &mut seed, instant);
        let end = judge(&place, &before, &ended, &jobs);
        tally.count(end);
        if end != End::Complete {
            goes_on_to_the_end(&place, &OPTIONS, &jobs);
        }
        let started = place.started();
        let twice = started.len().saturating_sub(jobs.len());
        if (1..=hit).contains(&twice) {
            let all: BTreeSet<&String> = started.iter().collect();
            assert_eq!(all.len(), jobs.len(), "a job was not run");
        } else {
            place.assert_each_ran_once(&jobs);
        }
    }
    eprintln!("{tally:?}");
    assert!(tally.stopped >= 40, "hardly any run was stopped, this shows nothing: {tally:?}");
}

#[derive(Debug, Clone, Copy)]
enum Instant {
    /// While it starts.
    Early,
    /// So long after the start.
    Later(Duration),
}

#[test]
fn pkill_at_any_instant_stops_in_order_and_nothing_is_lost_or_doubled() {
    let test = "pkill_at_any_instant_stops_in_order_and_nothing_is_lost_or_doubled";
    if !needs(test, &["pkill"]) {
        return;
    }
    // pkill finds by its command line, before it has executed anything, a process that is a job's
    // command when the signal comes: it has been ended by somebody else then, and is run again.
    at_random_instants(2, |place, seed, instant| {
        let pkill = || tool("pkill", &["-TERM", "-f", &place.name]);
        // The sleeps are the random instants themselves; nothing relies on their order.
        let lead = seed.time_below(Duration::from_millis(12));
        match instant {
            // pkill needs some milliseconds to look through /proc: begin before the program does.
            Instant::Early if seed.below(2) == 0 => std::thread::scope(|scope| {
                let pkill = scope.spawn(pkill);
                std::thread::sleep(lead);
                let run = place.run_work(&OPTIONS).start();
                pkill.join().expect("pkill");
                run.wait()
            }),
            Instant::Early => {
                let run = place.run_work(&OPTIONS).start();
                std::thread::sleep(lead);
                pkill();
                run.wait()
            }
            Instant::Later(time) => {
                let run = place.run_work(&OPTIONS).start();
                std::thread::sleep(time);
                pkill();
                run.wait()
            }
        }
    });
}

#[test]
fn ctrl_c_at_any_instant_stops_in_order_and_nothing_is_lost_or_doubled() {
    let test = "ctrl_c_at_any_instant_stops_in_order_and_nothing_is_lost_or_doubled";
    if !needs(test, &["setsid"]) {
        return;
    }
    at_random_instants(0, |place, seed, instant| {
        let mut terminal = Terminal::open();
        let run = place.run_work(&OPTIONS).on_terminal(&terminal).start();
        std::thread::sleep(match instant {
            Instant::Early => seed.time_below(Duration::from_millis(20)),
            Instant::Later(time) => time,
        });
        terminal.type_ctrl_c();
        run.wait()
    });
}

/// The system calls that main makes in a whole run, start-up and shut-down included: how often
/// each. Some more are added, since the number of wake-ups varies.
fn system_calls_of_main() -> Vec<(String, usize)> {
    let place = small_place().0;
    let trace = place.private("trace");
    let trace_name = trace.to_str().expect("UTF-8");
    place.run_work(&OPTIONS).under(&["strace", "-o", trace_name]).finish().assert_exit(0);
    let text = std::fs::read_to_string(&trace).expect("the trace");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        if name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    let total: usize = counts.values().sum();
    eprintln!("main makes {total} system calls of {} kinds", counts.len());
    assert!(total > 50, "strace saw hardly anything: {text}");
    let all = counts.into_iter().flat_map(|(name, count)| {
        (1..=count + count / 10 + 1).map(move |number| (name.clone(), number))
    });
    all.collect()
}

fn small_place() -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(8);
    place.work_script("sleep 0.03");
    (place, jobs)
}

/// Stops one run for each system call that main makes, two runs at a time.
fn at_every_system_call(stop: impl Fn(&Place, &str, usize) -> Ended + Sync) {
    let calls = system_calls_of_main();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut tally = Tally::default();
        while let Some((name, number)) = calls.get(next.fetch_add(1, Ordering::Relaxed)) {
            let _at = At(format!("call {number} of {name}"));
            let (place, jobs) = small_place();
            let before = Before::of(&place);
            let ended = stop(&place, name, *number);
            let end = judge(&place, &before, &ended, &jobs);
            tally.count(end);
            if end != End::Complete {
                goes_on_to_the_end(&place, &OPTIONS, &jobs);
            }
            place.assert_each_ran_once(&jobs);
        }
        tally
    };
    let tallies = std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.map(|thread| thread.join().expect("all system calls"))
    });
    eprintln!("{tallies:?}");
    let stopped: usize = tallies.iter().map(|tally| tally.stopped).sum();
    assert!(stopped >= 20, "hardly any run was stopped, this shows nothing: {tallies:?}");
}

/// Stops main at a system call and sends it a signal there, as `kill` does: to the process,
/// whichever of its threads takes it.
///
/// strace stops it, the test sends the signal: what strace itself can send goes to one thread, and
/// main's first thread has these signals blocked for ever. `when` counts for each name of a call,
/// and an injection does nothing unless that call is traced (strace 6.1 is silent about it).
fn signal_at_system_call(place: &Place, name: &str, number: usize, signal: Signal) -> Ended {
    let file = place.private("trace");
    let file_name = file.to_str().expect("UTF-8");
    let (trace, inject) =
        (format!("trace={name}"), format!("inject={name}:signal=STOP:when={number}"));
    let strace = ["strace", "-o", file_name, "-e", &trace, "-e", &inject];
    let run = place.run_work(&OPTIONS).under(&strace).start();
    let main = run.until("main stopped by strace, or its end", |run| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let stopped = text.contains("--- stopped by SIGSTOP ---");
        let main = || run.of_program().first()?.handle();
        if stopped { main().map(Some) } else { run.has_ended().then_some(None) }
    });
    if let Some(main) = main {
        assert!(main.send(signal) && main.send(Signal::CONT), "the supervisor is gone");
    }
    run.wait()
}

#[test]
fn a_term_at_any_system_call_of_main_stops_in_order() {
    if needs("a_term_at_any_system_call_of_main_stops_in_order", &["strace"]) {
        at_every_system_call(|place, name, number| {
            signal_at_system_call(place, name, number, Signal::TERM)
        });
    }
}

#[test]
fn an_interrupt_at_any_system_call_of_main_stops_in_order() {
    if needs("an_interrupt_at_any_system_call_of_main_stops_in_order", &["strace"]) {
        at_every_system_call(|place, name, number| {
            signal_at_system_call(place, name, number, Signal::INT)
        });
    }
}

#[test]
fn a_storm_of_ten_thousand_signals_is_three_stop_requests_at_most_and_nothing_is_lost() {
    let mut seed = Seed::new();
    let place = Place::new();
    let jobs = place.jobs(12);
    place.work_script("[ -e calm ] || sleep 2");
    let run = place.run_work(&OPTIONS).without_terminal().start();
    run.until_started(4);
    let main = run.supervisor().handle().expect("a living supervisor");
    let children: Vec<Handle> =
        run.children(2).iter().map(|child| child.handle().expect("a living child")).collect();
    let mut storm = |signals: usize| {
        for _ in 0..signals {
            let which = seed.below(1 + children.len() as u64) as usize;
            let kinds = [Signal::INT, Signal::TERM, Signal::HUP, Signal::USR1, Signal::QUIT];
            match which.checked_sub(1) {
                // What SIGQUIT does to main is not promised.
                None => main.send(kinds[seed.below(4) as usize]),
                Some(child) => children[child].send(kinds[seed.below(5) as usize]),
            };
        }
    };
    // In less than the 300 ms within which it is one request, so that the workers are told.
    storm(500);
    run.until_logged("stopping workers (2)");
    // What comes within 300 ms of the first request is the same request.
    std::thread::sleep(Duration::from_millis(350));
    storm(9_500);
    let ended = run.wait();
    let log = ended.log();
    // The second request is to be seen by what it does: code 4, since workers were killed.
    assert!((1..=3).contains(&log::stop_requests(&log)), "{}", ended.describe());
    ended.assert_exit(4);
    log::assert_nothing_out_of_order(&log);
    log::Balance::of(&log).assert_even();
    place.results().assert_at_most_once(&jobs);
    place.write("calm", "");
    goes_on_to_the_end(&place, &OPTIONS, &jobs);
}
