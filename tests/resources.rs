//! Memory and clocks: who goes first when memory runs out, how much is used however much is done,
//! and which clock deadlines go by.

mod support;

use std::path::PathBuf;
use std::time::Duration;
use support::place::OUTPUT;
use support::{Balance, Place, Process, Running, Signal, example, needs};

fn adjustment(process: &Process) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", process.pid));
    text.expect("a living process").trim().parse().expect("a number")
}

#[test]
fn workers_and_their_commands_are_killed_first_when_memory_runs_out_and_nobody_else_is_changed() {
    let place = Place::new();
    place.jobs(200);
    place.config("");
    place.work_script("cat /proc/self/oom_score_adj; [ -e calm ] || sleep 0.05");
    let run = place.start();
    run.until_written(1);
    let ours = adjustment(&Process::read(std::process::id() as i32).expect("this process"));
    assert_eq!(adjustment(&run.supervisor()), ours);
    for child in run.children(2) {
        let more = if child.comm.starts_with("worker ") { 500 } else { 0 };
        assert_eq!(adjustment(&child), (ours + more).min(1000), "{child:?}");
    }
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
    let first = place.results().of(1)["stdout"].to_string();
    assert!(first.contains(&(ours + 500).min(1000).to_string()), "of a command: {first}");
}

/// A group of processes that have only so much memory together.
struct Small(PathBuf);

impl Small {
    /// `None`, and says so, where there is no group for memory that can be written.
    fn new(test: &str, bytes: u64) -> Option<Small> {
        let group = PathBuf::from(format!("/sys/fs/cgroup/memory/{test}-{}", std::process::id()));
        if std::fs::create_dir(&group).is_err() {
            eprintln!("skipped: {test} needs a cgroup for memory (version 1) that can be written");
            return None;
        }
        let small = Small(group);
        std::fs::write(small.0.join("memory.limit_in_bytes"), bytes.to_string()).expect("a limit");
        Some(small)
    }

    /// Kills so far.
    fn kills(&self) -> u64 {
        let text = std::fs::read_to_string(self.0.join("memory.oom_control")).expect("its control");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("the kills").parse().expect("a number")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn when_memory_runs_out_the_worker_goes_and_is_started_again_and_only_the_greedy_job_fails() {
    let test =
        "when_memory_runs_out_the_worker_goes_and_is_started_again_and_only_the_greedy_job_fails";
    if !needs(test, &["root", "sh"]) {
        return;
    }
    let Some(small) = Small::new("greedy", 96 << 20) else { return };
    let place = Place::of(example("test_pipelines"));
    let jobs = place.jobs(40);
    let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", small.0.display());
    let run = place.command(&["poison", "memory"]).under(&["sh", "-c", &enter, "sh"]).start();
    let ended = run.wait();
    ended.assert_exit(3);
    let deaths: Vec<&str> =
        ended.stderr.lines().filter(|line| line.contains(" has died: ")).collect();
    let worker = |line: &&str| line.contains("worker victim/") && line.contains("SIGKILL");
    assert!(deaths.iter().all(worker), "{deaths:#?}");
    // The first time the job was not alone, and so no suspect.
    assert_eq!((deaths.len(), small.kills()), (4, 4), "{}", ended.describe());
    let text = place.read(OUTPUT);
    assert_eq!(text.lines().count(), jobs.len());
    let failed: Vec<&str> = text.lines().filter(|line| line.contains("\"ok\":false")).collect();
    assert!(matches!(failed[..], [one] if one.contains("job-13")), "{failed:?}");
}

/// Memory of its own that no process may exceed, whatever the number of records.
const PRIVATE_KIB_MAX: u64 = 16 << 10;

fn private_kib(process: &Process) -> u64 {
    let text = process.status("RssAnon").unwrap_or_default();
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// More by PROCSIG_TEST_RECORDS: ten million of them take a minute.
#[test]
fn a_million_tiny_records_are_each_written_once_in_order_and_in_flat_memory() {
    let count = match std::env::var("PROCSIG_TEST_RECORDS") {
        Ok(text) => text.parse().expect("PROCSIG_TEST_RECORDS is a number"),
        Err(_) => 1_000_000_u64,
    };
    let place = Place::of(example("test_pipelines"));
    let run = place.command(&["burst", &(count / 2).to_string(), "2"]).start();
    let mut most = 0;
    while !run.has_ended() {
        most = most.max(run.of_program().iter().map(private_kib).max().unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = run.wait_for(Duration::from_secs(600));
    ended.assert_exit(0);
    assert!((1..PRIVATE_KIB_MAX).contains(&most), "a process has grown to {most} KiB");
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert_eq!((balance.written, balance.kept), (count, 0));
    let mut last = std::collections::BTreeMap::new();
    let file = std::fs::File::open(place.path(OUTPUT)).expect("the output");
    for line in std::io::BufRead::lines(std::io::BufReader::new(file)) {
        let line = line.expect("text");
        let record = line.strip_prefix("{\"number\":").and_then(|rest| rest.strip_suffix("\"}"));
        let (number, process) = record.and_then(|it| it.split_once(",\"text\":\"")).expect("whole");
        let nth = last.entry(process.to_owned()).or_insert(0_u64);
        *nth += 1;
        assert_eq!(number.parse(), Ok(*nth), "{line}");
    }
    assert!(last.len() == 2 && last.values().all(|nth| *nth == count / 2), "{last:?}");
}

/// In a time namespace whose monotonic clock shows another time: as after another boot, or on
/// another machine.
fn at_another_time<'a>(place: &'a Place, seconds: &str) -> Running<'a> {
    let unshare = ["unshare", "-T", "--fork", "--monotonic", seconds, "--boottime", seconds];
    place.command(&["run", "pings.toml"]).under(&unshare).start()
}

#[test]
fn a_clock_that_shows_another_time_after_a_restart_delays_no_job_and_no_stop() {
    let test = "a_clock_that_shows_another_time_after_a_restart_delays_no_job_and_no_stop";
    if !needs(test, &["root", "unshare"]) {
        return;
    }
    let place = Place::new();
    let jobs = place.jobs(400);
    // Each job fails at first, and waits for an hour by a clock that is then another.
    place.config("attempts = 2\nretry_delay = \"1h\"\n");
    place.work_script("[ -e calm ] || { [ -e $1 ] || { : > $1; exit 1; }; sleep 0.02; }");
    for clock in ["1000000", "-600", "0", "7000000"] {
        let before = place.started().len();
        let run = at_another_time(&place, clock);
        run.until_started(before + 20);
        let told = std::time::Instant::now();
        run.signal(Signal::TERM);
        let ended = run.wait();
        ended.assert_exit(5);
        assert!(told.elapsed() < Duration::from_secs(8), "{}", ended.describe());
        Balance::of(&ended.log()).assert_even();
    }
    place.write("calm", "");
    let ended = at_another_time(&place, "-1200").wait();
    ended.assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}
