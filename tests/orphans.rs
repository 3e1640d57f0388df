//! Main killed by force: its orphans come to an end within the deadline, hung and stopped ones
//! included; what they had in hand is written; and the next start waits for them and goes on.

mod support;

use std::time::{Duration, Instant};
use support::place::{OUTPUT, SPOOL};
use support::{Balance, Ended, Handle, Place, Process, Signal, WATCHDOG, wait_until};

/// Two processes of two threads.
const WORKERS: usize = 2;
const IN_HAND: usize = 4;

/// A stop may take this long, and the last part of it is kept for the flush.
const DEADLINE: Duration = Duration::from_secs(3);
const RESERVE: Duration = Duration::from_secs(2);
/// What a busy machine may add to it.
const GRACE: Duration = Duration::from_secs(3);

/// A place with jobs that do `body`, and a deadline that a test can wait for.
fn place(count: usize, body: &str) -> (Place, Vec<String>) {
    place_with(count, body, "[shutdown]\ndeadline = \"3s\"\nflush_reserve = \"2s\"\n")
}

/// The same, where nobody is to come near a deadline, however busy the machine is.
fn patient_place(count: usize, body: &str) -> (Place, Vec<String>) {
    place_with(count, body, "[shutdown]\ndeadline = \"60s\"\nflush_reserve = \"30s\"\n")
}

fn place_with(count: usize, body: &str, tables: &str) -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(count);
    place.work_script(body);
    place.config(tables);
    (place, jobs)
}

/// A run with all of its threads at work, and what was got hold of before main was killed.
struct Orphans {
    workers: Vec<Handle>,
    buffer: Handle,
    all: Vec<Handle>,
    since: Instant,
    main: i32,
    /// All that main had said.
    ended: Ended,
    log: std::path::PathBuf,
}

/// Starts it, waits until its threads have jobs in hand, does `before`, and kills main.
fn orphaned(place: &Place, before: impl FnOnce(&Handle, &[Handle])) -> Orphans {
    let run = place.start();
    run.until_started(IN_HAND);
    let children = run.children(WORKERS);
    let named = |name: &str| -> Vec<Handle> {
        let named = children.iter().filter(|child| child.comm.starts_with(name));
        named.map(|child| child.handle().expect("a living child")).collect()
    };
    let (workers, buffer) = (named("worker "), named("buffer").remove(0));
    let all = children.iter().map(|child| child.handle().expect("a living child")).collect();
    before(&buffer, &workers);
    let main = run.pid();
    run.signal(Signal::KILL);
    let since = Instant::now();
    let ended = run.wait();
    assert_eq!(ended.signal, Some(9), "{}", ended.describe());
    Orphans { workers, buffer, all, since, main, ended, log: place.private("stderr.0") }
}

impl Orphans {
    /// All of them end by the deadline; returns how long that took.
    #[track_caller]
    fn end_in_time(&self, place: &Place) -> Duration {
        self.end(place, DEADLINE + GRACE)
    }

    #[track_caller]
    fn end(&self, place: &Place, limit: Duration) -> Duration {
        for handle in &self.all {
            let left = limit.saturating_sub(self.since.elapsed());
            let process = Process::read(handle.process.pid);
            assert!(handle.wait(left), "still there: {process:?}\n{}", self.said());
        }
        let took = self.since.elapsed();
        let alive = || Process::marked(&place.name).into_iter().filter(|it| !it.is_zombie());
        // A command is killed and gone a moment later.
        wait_until(&format!("the end of commands\n{}", self.said()), GRACE, || {
            alive().next().is_none().then_some(())
        });
        took
    }

    /// What was printed, by orphans too.
    fn said(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        format!("{}\n--\n{text}", self.ended.describe())
    }

    fn has_said(&self, text: &str) -> bool {
        self.said().contains(text)
    }
}

/// The next start runs what is left, and in the end each job has one result and nothing is left.
#[track_caller]
fn goes_on(place: &Place, jobs: &[String]) -> Ended {
    // As long as it takes: a sync of a busy disk can take seconds.
    let ended = place.command(&["run", "pings.toml", "--deadline", "60s"]).finish();
    assert_whole(place, jobs, &ended);
    ended
}

#[track_caller]
fn assert_whole(place: &Place, jobs: &[String], ended: &Ended) {
    ended.assert_exit(0);
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert_eq!((balance.kept, balance.failed, balance.left), (0, 0, 0), "{}", ended.describe());
    place.results().assert_exactly_once(jobs);
    assert!(place.results().lines.iter().all(|line| line["ok"] == true), "{}", ended.describe());
    let expected = [OUTPUT, SPOOL, "jobs.txt", "pings.toml", "work.sh", "started.txt"];
    let mut stray = place.files();
    stray.retain(|name| !expected.contains(&name.as_str()) && !["gate", "calm"].contains(&&**name));
    assert!(stray.is_empty(), "files left behind: {stray:?}\n{}", ended.describe());
}

/// Each job was run once, but those that somebody had to kill were run once more.
#[track_caller]
fn assert_runs(place: &Place, jobs: &[String], twice: usize) {
    let started = place.started();
    assert_eq!(started.len(), jobs.len() + twice, "jobs that were started: {started:?}");
}

#[test]
fn workers_whose_main_is_killed_finish_their_jobs_and_the_results_are_written_before_all_exit() {
    let (place, jobs) = patient_place(12, ": < gate");
    let mut gate = place.gate();
    let orphans = orphaned(&place, |_, _| ());
    wait_until("the orphans know", WATCHDOG, || {
        (orphans.said().matches("the supervisor is gone; stopping").count() > WORKERS).then_some(())
    });
    gate.open();
    orphans.end_in_time(&place);
    let results = place.results();
    results.assert_at_most_once(&jobs);
    assert_eq!(results.len(), IN_HAND, "jobs in hand are finished, no other begun");
    assert!(!orphans.has_said("killing"), "{}", orphans.said());
    goes_on(&place, &jobs);
    assert_runs(&place, &jobs, 0);
}

#[test]
fn a_hung_worker_without_main_is_ended_before_the_reserve_and_the_rest_is_flushed() {
    // All but job-4 hang the first time; what is done beside them is in the output all the same.
    let (place, jobs) = place(12, "[ -e calm ] || [ $1 = job-4 ] || sleep 1000; : < gate");
    let mut gate = place.gate();
    let orphans = orphaned(&place, |_, _| ());
    gate.open();
    let took = orphans.end_in_time(&place);
    // Not at once: whoever is in time may finish.
    let patience = DEADLINE.saturating_sub(RESERVE);
    assert!(took >= patience, "ended after {took:?} only\n{}", orphans.said());
    assert!(orphans.has_said("did not"), "an end that nobody has said\n{}", orphans.said());
    let results = place.results();
    results.assert_at_most_once(&jobs);
    // What we have killed has not failed: it is run again.
    assert_eq!(results.len(), 1, "{:?}\n{}", results.lines, orphans.said());
    place.write("calm", "");
    goes_on(&place, &jobs);
    assert_runs(&place, &jobs, IN_HAND - 1);
}

#[test]
fn a_stopped_worker_without_main_is_killed_by_the_buffer_with_its_commands() {
    let (place, jobs) = place(12, ": < gate");
    let mut gate = place.gate();
    let orphans = orphaned(&place, |_, workers| {
        assert!(workers[0].send(Signal::STOP));
    });
    gate.open();
    orphans.end_in_time(&place);
    assert!(orphans.has_said("did not end in time; killing it"), "{}", orphans.said());
    let results = place.results();
    results.assert_at_most_once(&jobs);
    assert_eq!(results.len(), IN_HAND / WORKERS, "those of the other worker\n{}", orphans.said());
    goes_on(&place, &jobs);
    assert_runs(&place, &jobs, IN_HAND / WORKERS);
}

#[test]
fn a_stopped_buffer_without_main_is_ended_by_the_next_start_which_writes_what_it_had() {
    let (place, jobs) = place(12, ": < gate");
    let mut gate = place.gate();
    let orphans = orphaned(&place, |buffer, _| {
        assert!(buffer.send(Signal::STOP));
    });
    gate.open();
    for worker in &orphans.workers {
        assert!(worker.wait(DEADLINE + GRACE), "a worker hangs\n{}", orphans.said());
    }
    assert!(!orphans.buffer.has_ended(), "nobody has told the buffer to go on");
    assert_eq!(place.results().len(), 0, "nothing is written without the buffer");
    let ended = goes_on(&place, &jobs);
    assert!(orphans.buffer.has_ended());
    let balance = Balance::of(&ended.log());
    let (kept, published) = (IN_HAND as u64, (jobs.len() - IN_HAND) as u64);
    assert_eq!((balance.kept_before, balance.published), (kept, published), "{balance:?}");
    let log = ended.log();
    let waits = log.iter().position(|line| line.message.contains("still ending; waiting for"));
    let killed = format!("process {} of the run before did not end", orphans.buffer.process.pid);
    let kills = log.iter().position(|line| line.message.contains(&killed));
    assert!(waits.is_some() && waits < kills, "{}", ended.describe());
    assert_runs(&place, &jobs, 0);
}

#[test]
fn without_main_and_buffer_the_workers_finish_and_the_next_start_writes_their_results() {
    let (place, jobs) = patient_place(12, ": < gate");
    let mut gate = place.gate();
    let orphans = orphaned(&place, |_, _| ());
    assert!(orphans.buffer.send(Signal::KILL), "it has workers to wait for");
    gate.open();
    orphans.end_in_time(&place);
    assert_eq!(place.results().len(), 0, "nothing is written without the buffer");
    let ended = goes_on(&place, &jobs);
    assert_eq!(Balance::of(&ended.log()).kept_before, IN_HAND as u64);
    assert_runs(&place, &jobs, 0);
}

#[test]
fn a_second_daemon_exits_with_75_at_once_while_main_lives_and_names_it() {
    let (place, jobs) = patient_place(12, ": < gate");
    let mut gate = place.gate();
    let run = place.start();
    run.until_started(IN_HAND);
    let second = place.start().wait_for(GRACE);
    second.assert_exit_beside(75);
    assert!(second.stderr.contains(&format!("(pid {})", run.pid())), "{}", second.describe());
    // A main that is stopped is not dead.
    run.signal(Signal::STOP);
    let third = place.start().wait_for(GRACE);
    third.assert_exit_beside(75);
    assert!(third.stderr.contains(&format!("(pid {})", run.pid())), "{}", third.describe());
    run.signal(Signal::CONT);
    gate.open();
    assert_whole(&place, &jobs, &run.wait());
    assert_runs(&place, &jobs, 0);
}

#[test]
fn a_start_while_only_orphans_live_says_so_waits_for_their_jobs_and_takes_over() {
    let (place, jobs) = patient_place(12, ": < gate");
    let mut gate = place.gate();
    let orphans = orphaned(&place, |_, _| ());
    let run = place.start();
    let waits = run.until_logged("still ending; waiting for");
    assert_eq!(waits.level, "WARN");
    assert!(!orphans.workers.iter().any(Handle::has_ended), "they are left in peace");
    gate.open();
    let ended = run.wait();
    assert_whole(&place, &jobs, &ended);
    assert!(!ended.stderr.contains("killing"), "{}", ended.describe());
    assert!(orphans.all.iter().all(Handle::has_ended), "one lock, one owner");
    assert_runs(&place, &jobs, 0);
}

/// The last process of a run that was killed lets go of its spool first, and of its output in a moment.
#[test]
fn an_output_that_somebody_is_about_to_let_go_of_is_waited_for() {
    let (place, jobs) = patient_place(4, ":");
    let output = std::fs::File::create(place.path(OUTPUT)).expect("an output");
    let whole = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&output, nix::fcntl::FcntlArg::F_OFD_SETLK(&whole)).expect("a lock");
    let run = place.start();
    let name = place.path(OUTPUT).canonicalize().expect("it is there");
    run.until("it has opened its output", |run| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", run.pid())).ok()?;
        let mut names = open.flatten().filter_map(|entry| entry.path().read_link().ok());
        names.any(|open| open == name).then_some(())
    });
    drop(output);
    assert_whole(&place, &jobs, &run.wait());
}

#[test]
fn a_start_ends_an_orphan_that_is_stopped_and_takes_over_within_the_deadline() {
    let (place, jobs) = place(12, ": < gate");
    let mut gate = place.gate();
    let orphans = orphaned(&place, |buffer, workers| {
        assert!(workers[0].send(Signal::STOP) && buffer.send(Signal::STOP));
    });
    let run = place.start();
    run.until_logged("still ending; waiting for");
    gate.open();
    run.until_logged("did not end in time; killing it");
    let ended = run.wait();
    assert_whole(&place, &jobs, &ended);
    assert!(ended.elapsed < DEADLINE + GRACE, "{}", ended.describe());
    assert!(orphans.all.iter().all(Handle::has_ended), "one lock, one owner");
    assert_runs(&place, &jobs, IN_HAND / WORKERS);
}

#[test]
fn two_starts_beside_orphans_don_t_share_the_spool_one_takes_over_and_the_other_exits_with_75() {
    let (place, jobs) = patient_place(12, ": < gate");
    let mut gate = place.gate();
    let _orphans = orphaned(&place, |_, _| ());
    let (one, two) = (place.start(), place.start());
    one.until_logged("still ending; waiting for");
    two.until_logged("still ending; waiting for");
    gate.open();
    let both = [one.wait(), two.wait()];
    let mut codes = both.each_ref().map(|ended| ended.code);
    codes.sort_unstable();
    let told = || both.each_ref().map(Ended::describe).join("\n");
    // The slower one can also be so slow that it finds the list done, and begins it anew.
    assert!(codes == [Some(0), Some(75)] || codes == [Some(0), Some(0)], "{}", told());
    let rounds = codes.iter().filter(|code| **code == Some(0)).count();
    let results = place.results();
    assert_eq!(results.len(), rounds * jobs.len(), "{}", told());
    let left = Process::marked(&place.name);
    assert!(left.iter().all(Process::is_zombie), "{left:#?}\n{}", told());
}

#[test]
fn a_process_that_has_taken_the_number_of_an_orphan_or_of_main_is_left_alone() {
    let (place, jobs) = patient_place(12, ": < gate");
    let mut gate = place.gate();
    let orphans = orphaned(&place, |_, _| ());
    assert!(orphans.buffer.send(Signal::KILL), "it has workers to wait for");
    gate.open();
    orphans.end_in_time(&place);
    // Somebody else, who lives: in the spool he has the numbers of the dead, not their start times.
    let mut bystander = support::spawn(std::process::Command::new("sleep").arg("1000"));
    let bystander = bystander.as_mut().expect("a process");
    let dead = [orphans.main, orphans.buffer.process.pid, orphans.workers[0].process.pid];
    let mut spool = std::fs::read(place.path(SPOOL)).expect("the spool");
    // The numbers stand in the pages before the jobs: of main, and in the table of processes.
    let replaced = replace_words(&mut spool[..16 * 4096], &dead, bystander.id());
    assert!(replaced >= dead.len(), "numbers found in the spool: {replaced}");
    // In place: a copy would be another file.
    place.write(SPOOL, &spool);
    goes_on(&place, &jobs);
    assert!(matches!(bystander.try_wait(), Ok(None)), "it was nobody's to kill");
    bystander.kill().expect("still ours");
    bystander.wait().expect("killed");
    assert_runs(&place, &jobs, 0);
}

/// Replaces words that hold one of these numbers; says how many.
fn replace_words(bytes: &mut [u8], from: &[i32], to: u32) -> usize {
    let from: Vec<[u8; 8]> = from.iter().map(|pid| i64::from(*pid).to_le_bytes()).collect();
    let mut replaced = 0;
    for word in bytes.chunks_exact_mut(8) {
        if from.iter().any(|pid| pid.as_slice() == &*word) {
            word.copy_from_slice(&u64::from(to).to_le_bytes());
            replaced += 1;
        }
    }
    replaced
}
