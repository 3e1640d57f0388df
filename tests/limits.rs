//! What workers may take of the machine, when they are replaced, and which of their deaths end a
//! pipeline. The program with functions is tests/programs/limits.rs.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::processes::children_of;
use support::{Balance, Ended, Place, Process, Running, Seed, Signal, example, needs};

fn functions() -> Place {
    Place::of(example("test_limits"))
}

#[track_caller]
fn start<'a>(place: &'a Place, jobs: &[String], arguments: &str) -> Running<'a> {
    place.write("jobs.txt", jobs.join("\n"));
    place.command(&arguments.split(' ').collect::<Vec<_>>()).start()
}

#[track_caller]
fn run(place: &Place, jobs: &[String], arguments: &str) -> Ended {
    start(place, jobs, arguments).wait()
}

fn numbered(word: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{word} {number}")).collect()
}

/// How many processes have done jobs.
fn processes(place: &Place) -> usize {
    let pids = place.results().lines.into_iter().filter_map(|line| line["pid"].as_u64());
    pids.collect::<BTreeSet<u64>>().len()
}

/// How often a worker was replaced for what it had done.
fn recycled(ended: &Ended) -> usize {
    ended.log().iter().filter(|line| line.message.ends_with("starting it again")).count()
}

// Recycling.

#[test]
fn with_a_process_for_each_job_every_job_is_done_once_and_no_death_is_counted() {
    let place = functions();
    let jobs = numbered("well", 400);
    let ended = run(&place, &jobs, "after=1 processes=2 threads=2");
    ended.assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    assert!(recycled(&ended) > 160, "{}", ended.describe());
    assert!(!ended.stderr.contains("has died"), "{}", ended.describe());
    Balance::of(&ended.log()).assert_even();
}

#[test]
fn processes_are_replaced_after_about_as_many_jobs_as_they_are_to_do() {
    let place = functions();
    let jobs = numbered("well", 1000);
    let ended = run(&place, &jobs, "after=100 processes=2 threads=1");
    ended.assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for line in place.results().lines {
        *counts.entry(line["pid"].as_u64().expect("a pid")).or_default() += 1;
    }
    assert!(counts.values().all(|count| *count <= 110), "{counts:?}");
    // All but those that were there at the end.
    let full = counts.values().filter(|count| (90..=110).contains(*count)).count();
    assert!(full >= 7, "{counts:?}");
    // The last two may have done as many, and were not replaced for it.
    assert!((full - 2..=full).contains(&recycled(&ended)), "{}", ended.describe());
}

#[test]
fn jobs_in_hand_are_finished_before_a_process_ends_and_others_go_on_meanwhile() {
    let place = functions();
    let mut jobs = vec!["await go".to_owned()];
    jobs.extend(numbered("well", 60));
    let running = start(&place, &jobs, "after=5 processes=2 threads=2");
    // All but the first, though one of the processes takes no more.
    running.until("the other jobs", |_| (place.read("ended").lines().count() == 60).then_some(()));
    let slow: i32 = place.read("begun").trim().parse().expect("a pid, once");
    assert!(Process::read(slow).is_some_and(|it| !it.is_zombie()), "it was not waited for");
    place.write("go", "");
    running.wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    let of_slow = place.results().of(1)["pid"].as_i64();
    assert_eq!(of_slow, Some(slow.into()), "the job was run in the process that had begun it");
}

#[test]
fn a_process_that_has_grown_is_replaced() {
    let place = functions();
    let jobs: Vec<String> = vec!["keep 20".to_owned(); 20];
    // Each looks at its size ten times a second at most, so there must be time for it.
    let jobs: Vec<String> =
        jobs.into_iter().flat_map(|job| [job, "sleep 120".to_owned()]).collect();
    let ended = run(&place, &jobs, "above=67108864 processes=1 threads=1");
    ended.assert_exit(0);
    assert_eq!(place.results().len(), 40);
    assert!(recycled(&ended) >= 3, "{}", ended.describe());
    assert!(ended.stderr.contains("of memory (recycle_above is 64.0 MiB)"), "{}", ended.describe());
    assert!(processes(&place) >= 4);
}

#[test]
fn a_stop_while_workers_are_being_replaced_is_an_ordered_one() {
    let mut seed = Seed::new();
    for _ in 0..5 {
        let place = functions();
        let jobs = numbered("well", 5000);
        let running = start(&place, &jobs, "after=1 processes=3 threads=2");
        running.until_logged("starting it again");
        std::thread::sleep(seed.time_below(Duration::from_millis(300)));
        running.signal(Signal::TERM);
        let ended = running.wait();
        ended.assert_exit(5);
        Balance::of(&ended.log()).assert_even();
        place.command(&["processes=3", "threads=2"]).finish().assert_exit(0);
        place.results().assert_exactly_once(&jobs);
    }
}

#[test]
fn whoever_is_killed_while_workers_are_being_replaced_each_job_is_done_once() {
    let mut seed = Seed::new();
    let place = functions();
    let jobs = numbered("well", 2000);
    let running = start(&place, &jobs, "after=3 processes=3 threads=2 immortal=1");
    let mut kills = 0;
    while kills < 150 && !running.has_ended() {
        std::thread::sleep(seed.time_below(Duration::from_millis(20)));
        let children = children_of(running.pid());
        let alive: Vec<&Process> = children.iter().filter(|it| !it.is_zombie()).collect();
        if alive.is_empty() {
            continue;
        }
        let chosen = alive[seed.below(alive.len() as u64) as usize];
        kills += usize::from(chosen.handle().is_some_and(|it| it.send(Signal::KILL)));
    }
    let ended = running.wait();
    assert!(kills > 20, "only {kills} kills");
    // A job that was in hand three times when its worker was killed has failed.
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    ended.assert_exit(if balance.failed > 0 { 3 } else { 0 });
    assert_eq!((balance.done + balance.failed, balance.left), (2000, 0), "{}", ended.describe());
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn commands_and_coprocesses_are_recycled_with_their_workers() {
    let answer = "while read -r line; do echo \"{\\\"pid\\\": $$}\"; done";
    for run in ["command = [\"true\"]", &format!("coprocess = [\"sh\", \"-c\", {answer:?}]")] {
        let place = Place::new();
        let jobs = place.jobs(40);
        place.write(
            "c.toml",
            format!(
                "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n[workers.w]\n{run}\n\
                 processes = 1\nthreads = 2\nrecycle_after = 5\n"
            ),
        );
        let ended = place.command(&["run", "c.toml"]).finish();
        ended.assert_exit(0);
        place.results().assert_exactly_once(&jobs);
        assert!((6..=8).contains(&recycled(&ended)), "{}", ended.describe());
    }
}

#[test]
fn a_coprocess_that_has_grown_is_replaced_alone_and_its_worker_goes_on() {
    let test = "a_coprocess_that_has_grown_is_replaced_alone_and_its_worker_goes_on";
    if !needs(test, &["python3"]) {
        return;
    }
    let place = Place::new();
    let jobs = place.jobs(20);
    place.write(
        "grow.py",
        "import os, sys\nkept = []\nfor line in sys.stdin:\n    kept.append(bytearray(b'x') * (20 << 20))\n    \
         print(os.getpid(), flush=True)\n",
    );
    place.write(
        "c.toml",
        "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n[workers.w]\n\
         coprocess = [\"python3\", \"grow.py\"]\nprocesses = 1\nthreads = 1\n\
         recycle_above = \"70MiB\"\n",
    );
    let ended = place.command(&["run", "c.toml"]).finish();
    ended.assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    assert!(
        ended.stderr.contains("(recycle_above is 70.0 MiB): ending it"),
        "{}",
        ended.describe()
    );
    let lines = place.results().lines;
    let pids: BTreeSet<u64> = lines.iter().filter_map(|line| line["value"].as_u64()).collect();
    assert!((4..=8).contains(&pids.len()), "{pids:?}");
    assert_eq!(recycled(&ended), 0, "{}", ended.describe());
}

// Deaths.

#[test]
fn twenty_poison_jobs_among_a_thousand_fail_and_all_others_are_done() {
    let place = functions();
    let job = |number| match number % 50 {
        49 => format!("abort {number}"),
        _ => format!("well {number}"),
    };
    let jobs: Vec<String> = (0..1000).map(job).collect();
    let ended = run(&place, &jobs, "processes=2 threads=4");
    ended.assert_exit(3);
    place.results().assert_exactly_once(&jobs);
    let balance = Balance::of(&ended.log());
    assert_eq!((balance.done, balance.failed), (980, 20));
    for line in place.results().lines.iter().filter(|line| line["ok"] == false) {
        assert!(line["job"].as_str().is_some_and(|job| job.starts_with("abort")), "{line}");
    }
}

#[test]
fn a_worker_that_can_do_no_job_at_all_uses_up_no_list() {
    for settings in ["processes=1 threads=1", "processes=2 threads=4"] {
        let place = functions();
        let ended = run(&place, &numbered("abort", 1000), settings);
        ended.assert_exit(1);
        let balance = Balance::of(&ended.log());
        assert_eq!((balance.done, balance.failed, balance.left), (0, 0, 1000));
        assert!(ended.stderr.contains("died too often"), "{}", ended.describe());
    }
}

// Limits.

#[test]
fn a_worker_that_gets_no_more_memory_dies_for_its_job_alone_and_the_limit_is_named() {
    let place = functions();
    let jobs = ["take 8", "take 300", "take 8", "take 16"].map(str::to_owned);
    let ended = run(&place, &jobs, "processes=1 threads=2 memory=134217728");
    ended.assert_exit(3);
    let failed = place.results().of(2).clone();
    assert_eq!(failed["ok"], false, "{failed}");
    let error = failed["error"].as_str().expect("a reason");
    let expected = "by SIGABRT; it may have met its memory_limit of 128.0 MiB";
    assert!(error.ends_with(expected), "{error}");
    assert_eq!(place.results().len(), 4);
    let died = "has died: SIGABRT; it may have met its memory_limit of 128.0 MiB";
    assert!(ended.stderr.contains(died), "{}", ended.describe());
}

/// `Max open files` and the like of a process: soft and hard.
#[track_caller]
fn limit(process: &Process, name: &str) -> (String, String) {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", process.pid)).expect("limits");
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("that limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().expect("soft"), words.next().expect("hard"))
}

fn nice(process: &Process) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).expect("a process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    fields.split(' ').nth(16).and_then(|field| field.parse().ok()).expect("a nice value")
}

fn oom_score_adj(process: &Process) -> i32 {
    let path = format!("/proc/{}/oom_score_adj", process.pid);
    std::fs::read_to_string(path).expect("a process").trim().parse().expect("a number")
}

/// One process of one thread that sleeps for its job, with these keys.
fn limited(place: &Place, keys: &str) {
    place.write("jobs.txt", "60\n");
    place.write(
        "c.toml",
        format!(
            "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n[workers.w]\n\
             command = [\"sleep\", \"{{}}\"]\nprocesses = 1\nthreads = 1\n{keys}"
        ),
    );
}

#[test]
fn worker_and_command_have_the_limits_that_are_declared_and_nobody_else_has() {
    let place = Place::new();
    let own = Process::read(std::process::id() as i32).expect("this one");
    let now = oom_score_adj(&own);
    let (nicer, score) = (5, (now + 700).min(1000));
    limited(
        &place,
        &format!(
            "memory_limit = \"256MiB\"\ndescriptor_limit = 100\nnice = {nicer}\n\
             oom_score_adj = {score}\n[shutdown]\ndeadline = \"3s\"\n"
        ),
    );
    let running = place.command(&["run", "c.toml"]).start();
    let children = running.children(1);
    let worker = children.iter().find(|it| it.comm.starts_with("worker")).expect("a worker");
    let command = running.until("the command", |_| {
        children_of(worker.pid).into_iter().find(|it| it.comm == "sleep")
    });
    let pair = |value: &str| (value.to_owned(), value.to_owned());
    for process in [worker, &command] {
        assert_eq!(limit(process, "Max data size"), pair("268435456"), "{process:?}");
        assert_eq!(limit(process, "Max open files"), pair("100"), "{process:?}");
        assert_eq!((nice(process), oom_score_adj(process)), (nicer, score), "{process:?}");
    }
    let main = running.supervisor();
    let others = children.iter().filter(|it| !it.comm.starts_with("worker")).chain([&main]);
    for process in others {
        assert_eq!(limit(process, "Max data size"), pair("unlimited"), "{process:?}");
        assert_ne!(limit(process, "Max open files").1, "100", "{process:?}");
        assert_eq!((nice(process), oom_score_adj(process)), (nice(&own), now), "{process:?}");
    }
    running.signal(Signal::TERM);
    running.wait().assert_exit(4);
}

#[test]
fn with_the_least_that_is_allowed_commands_coprocesses_and_functions_work() {
    let answer = "while read -r line; do echo 1; done";
    for (run, threads) in [
        ("command = [\"sh\", \"-c\", \"echo out; echo err >&2\"]".to_owned(), 8),
        (format!("coprocess = [\"sh\", \"-c\", {answer:?}]"), 8),
        ("command = [\"true\"]".to_owned(), 1),
    ] {
        let place = Place::new();
        let jobs = place.jobs(100);
        let (memory, descriptors) = (32 + 4 * threads, 32 + 16 * threads);
        place.write(
            "c.toml",
            format!(
                "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n[workers.w]\n{run}\n\
                 processes = 1\nthreads = {threads}\nmemory_limit = \"{memory}MiB\"\n\
                 descriptor_limit = {descriptors}\n"
            ),
        );
        place.command(&["run", "c.toml"]).finish().assert_exit(0);
        place.results().assert_exactly_once(&jobs);
    }
    let place = functions();
    let jobs = numbered("well", 100);
    let least = format!("processes=1 threads=8 memory={} descriptors=160", 64 << 20);
    run(&place, &jobs, &least).assert_exit(0);
}

#[test]
fn limits_that_nobody_may_have_are_78_before_anything_is_created() {
    let place = Place::new();
    let before = {
        limited(&place, "descriptor_limit = 1000000000\n");
        place.files()
    };
    let ended = place.command(&["run", "c.toml"]).finish();
    ended.assert_exit(78);
    assert!(ended.stderr.contains("workers.w.descriptor_limit: 1000000000 are more than the"));
    assert!(ended.stderr.contains("ulimit -Hn"), "{}", ended.describe());
    assert_eq!(place.files(), before);
}
