//! Worker functions: what is set up for them and torn down, what their errors lead to, and what a
//! function that hangs costs. The program is tests/programs/functions.rs.

mod support;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::{Balance, Ended, Place, Seed, Signal, example};

fn functions() -> Place {
    Place::of(example("test_functions"))
}

/// Runs a kind of function with settings, `key=value` each, for these jobs.
#[track_caller]
fn run(place: &Place, jobs: &[&str], arguments: &str) -> Ended {
    place.write("jobs.txt", jobs.join("\n"));
    again(place, arguments)
}

#[track_caller]
fn again(place: &Place, arguments: &str) -> Ended {
    place.command(&arguments.split(' ').collect::<Vec<_>>()).start().wait()
}

fn lines(place: &Place) -> Vec<Value> {
    place.results().lines
}

/// The records of a job, in order.
fn records(place: &Place, seq: u64) -> Vec<Value> {
    let lines = lines(place).into_iter();
    lines.filter(|line| line["seq"] == seq && line.get("part").is_some()).collect()
}

/// The failure of a job, which has left nothing else: its error, and in which attempt.
#[track_caller]
fn failure(place: &Place, seq: u64) -> (String, u64) {
    let all: Vec<Value> = lines(place).into_iter().filter(|line| line["seq"] == seq).collect();
    let [failure] = &all[..] else { panic!("job {seq} has left not one failure: {all:#?}") };
    assert_eq!(failure["ok"], false, "{failure}");
    let error = failure["error"].as_str().expect("an error").to_owned();
    (error, failure["attempt"].as_u64().expect("an attempt"))
}

/// A job has left both of its records, of one attempt, which is told.
#[track_caller]
fn attempt_of_done(place: &Place, seq: u64) -> u64 {
    let all: Vec<Value> = lines(place).into_iter().filter(|line| line["seq"] == seq).collect();
    let parts: Vec<_> = all.iter().map(|record| record["part"].as_u64()).collect();
    assert_eq!(parts, [Some(1), Some(2)], "job {seq}: {all:#?}");
    for key in ["pid", "tid", "attempt"] {
        assert_eq!(all[0][key], all[1][key], "the records are of one call: {all:#?}");
    }
    all[0]["attempt"].as_u64().expect("an attempt")
}

/// How often a job was begun.
fn begun(place: &Place, job: &str) -> usize {
    let begun = place.read("begun");
    begun.lines().filter(|line| line.rsplitn(3, ' ').last() == Some(job)).count()
}

/// What was set up and torn down, by what `key` makes of process and thread.
fn lives<K: Ord>(place: &Place, key: impl Fn(u64, u64) -> K) -> BTreeMap<K, (usize, usize)> {
    let mut lives: BTreeMap<K, (usize, usize)> = BTreeMap::new();
    for line in place.read("life").lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse().expect("a number");
        let life = lives.entry(key(number(words[1]), number(words[2]))).or_default();
        match words[0] {
            "set-up" => life.0 += 1,
            "tear-down" => life.1 += 1,
            word => panic!("{word}?"),
        }
    }
    lives
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().expect("a number")
}

/// Who has made the records, and which numbers of calls they have seen before.
fn seen(place: &Place, key: &str) -> BTreeMap<u64, BTreeSet<u64>> {
    let mut seen: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for line in lines(place).iter().filter(|line| line["part"] == 1) {
        let first = seen.entry(number(line, key)).or_default().insert(number(line, "before"));
        assert!(first, "two calls have seen the same: {line}");
    }
    seen
}

fn well(count: usize) -> Vec<&'static str> {
    vec!["sleep 2"; count]
}

// Set-up and tear-down.

#[test]
fn each_process_is_set_up_once_for_all_its_threads_and_torn_down_at_the_end_of_the_list() {
    let place = functions();
    run(&place, &well(60), "process processes=2 threads=3").assert_exit(0);
    let lives = lives(&place, |pid, _| pid);
    // One that is so late that the list is done sets nothing up.
    assert!((1..=2).contains(&lives.len()) && lives.values().all(|it| *it == (1, 1)), "{lives:?}");
    let seen = seen(&place, "pid");
    assert_eq!(seen.values().map(BTreeSet::len).sum::<usize>(), 60);
    for (pid, calls) in seen {
        assert!(lives.contains_key(&pid));
        let all: BTreeSet<u64> = (0..calls.len() as u64).collect();
        assert_eq!(calls, all, "the threads of a process share what it has set up");
    }
}

#[test]
fn each_thread_is_set_up_for_itself_and_torn_down_at_the_end_of_the_list() {
    let place = functions();
    run(&place, &well(60), "thread processes=2 threads=3").assert_exit(0);
    let threads = lives(&place, |_, tid| tid);
    assert!(threads.values().all(|life| *life == (1, 1)), "{threads:?}");
    assert!(lives(&place, |pid, _| pid).values().all(|(up, down)| *up <= 3 && up == down));
    let seen = seen(&place, "tid");
    assert_eq!(seen.values().map(BTreeSet::len).sum::<usize>(), 60);
    for (tid, calls) in seen {
        assert!(threads.contains_key(&tid), "a thread calls with what it has set up itself");
        assert_eq!(calls, (0..calls.len() as u64).collect());
    }
}

#[test]
fn what_was_set_up_is_torn_down_at_a_stop_also_after_jobs_that_failed() {
    for kind in ["process", "thread"] {
        let place = functions();
        place.write("jobs.txt", "error\npanic\nfail\nawait go\nawait go\nawait go\n");
        let running = place.command(&[kind, "processes=1", "threads=2"]).start();
        running.until("jobs that wait", |_| (begun(&place, "await go") == 2).then_some(()));
        running.signal(Signal::TERM);
        running.until_logged("stopping workers");
        place.write("go", "");
        let ended = running.wait();
        ended.assert_exit(5);
        let (ups, downs) = lives(&place, |_, _| ())[&()];
        assert_eq!(ups, if kind == "thread" { 3 } else { 1 }, "once more after the panic");
        assert_eq!(ups, downs, "{kind}");
        assert_eq!(Balance::of(&ended.log()).left, 1);
    }
}

#[test]
fn after_a_panic_a_thread_is_set_up_anew_and_a_process_is_not() {
    let place = functions();
    let list = ["well", "panic", "error", "well"];
    run(&place, &list, "thread").assert_exit(3);
    assert_eq!(lives(&place, |_, tid| tid).into_values().collect::<Vec<_>>(), [(2, 2)]);
    assert_eq!(number(&records(&place, 4)[0], "before"), 1, "of the second one");
    let place = functions();
    run(&place, &list, "process threads=1").assert_exit(3);
    assert_eq!(lives(&place, |_, tid| tid).into_values().collect::<Vec<_>>(), [(1, 1)]);
    assert_eq!(number(&records(&place, 4)[0], "before"), 3);
    assert_eq!(failure(&place, 2), ("panicked: lost its head".into(), 1));
}

#[test]
fn a_panic_in_a_tear_down_or_of_what_was_thrown_is_said_and_costs_nothing() {
    for kind in ["process", "thread"] {
        let place = functions();
        let jobs = ["well", "panic", "thrown", "well"];
        let ended = run(&place, &jobs, &format!("{kind} drop=panic threads=1"));
        ended.assert_exit(3);
        assert_eq!([attempt_of_done(&place, 1), attempt_of_done(&place, 4)], [1, 1]);
        assert_eq!(failure(&place, 2).0, "panicked: lost its head");
        assert_eq!(failure(&place, 3).0, "panicked: no message");
        let log = ended.log();
        let worker = log.iter().filter(|line| line.role.starts_with("worker "));
        let said: Vec<&str> = worker.map(|line| line.message.as_str()).collect();
        let words = "the tear-down has panicked: lost at the end";
        let downs: Vec<usize> = (0..said.len()).filter(|at| said[*at].starts_with(words)).collect();
        // What is said again within seconds is counted in a line of its own.
        let times = downs.iter().map(|at| match &said[*at][words.len()..] {
            "" => 1,
            more if more.starts_with(" (said once more") => 1,
            more => more.split(' ').nth(2).and_then(|count| count.parse().ok()).expect("a count"),
        });
        assert_eq!(
            times.sum::<usize>(),
            if kind == "thread" { 3 } else { 1 },
            "{}",
            ended.describe()
        );
        let stopped = said.iter().position(|line| *line == "stopped").expect("stopped in order");
        assert!(downs.iter().all(|down| *down < stopped), "{}", ended.describe());
        assert!(!ended.stderr.contains("has died"), "{}", ended.describe());
    }
}

#[test]
fn a_set_up_that_always_fails_is_an_ordered_stop_with_1_that_names_its_error() {
    for (kind, how, cause) in [
        ("process", "error", "the set-up has failed: no connection"),
        ("process", "panic", "the set-up has panicked: lost its head"),
        ("thread", "fail", "the set-up has failed: no connection at all"),
        ("thread", "panic", "the set-up has panicked: lost its head"),
    ] {
        let place = functions();
        let settings = format!("{kind} set-up={how} restarts=2");
        let ended = run(&place, &well(5), &settings);
        ended.assert_exit(1);
        assert_eq!(ended.stdout, format!("cause: worker {kind}/0: {cause}\n"));
        assert!(ended.stderr.contains("died too often; stopping: worker"), "{}", ended.describe());
        assert_eq!(lives(&place, |_, _| ())[&()], (3, 0));
        assert_eq!(place.read("begun"), "", "no job is begun before the set-up");
        // With the same list, and a set-up that works, it goes on.
        again(&place, kind).assert_exit(0);
        assert!((1..=5).all(|seq| attempt_of_done(&place, seq) == 1));
    }
}

#[test]
fn a_set_up_that_fails_once_is_tried_again_in_another_process() {
    for kind in ["process", "thread"] {
        let place = functions();
        run(&place, &well(5), &format!("{kind} set-up=error-once threads=2")).assert_exit(0);
        assert!((1..=5).all(|seq| attempt_of_done(&place, seq) == 1));
    }
}

#[test]
fn a_set_up_that_asks_for_a_stop_gets_it_at_once() {
    for kind in ["process", "thread"] {
        let place = functions();
        let ended = run(&place, &well(5), &format!("{kind} set-up=stop"));
        ended.assert_exit(1);
        let cause = format!("cause: worker {kind}/0: the set-up has failed: no such user\n");
        assert_eq!(ended.stdout, cause);
        assert_eq!(lives(&place, |_, _| ())[&()], (1, 0));
        assert!(ended.stderr.contains("stop requested: failure"), "{}", ended.describe());
    }
}

#[test]
fn a_stop_during_a_set_up_is_an_ordered_one() {
    for kind in ["process", "thread"] {
        let place = functions();
        place.jobs(3);
        let running = place.command(&[kind, "set-up=wait"]).start();
        running.until("a set-up", |_| (!place.read("life").is_empty()).then_some(()));
        running.signal(Signal::TERM);
        running.until_logged("stopping workers");
        place.write("go", "");
        running.wait().assert_exit(5);
        assert_eq!(lives(&place, |_, _| ())[&()], (1, 1));
    }
}

// Errors.

#[test]
fn an_error_is_tried_again_and_a_failure_for_good_is_not() {
    let place = functions();
    let ended = run(&place, &["error", "fail", "error-once", "panic-once"], "plain attempts=3");
    ended.assert_exit(3);
    assert_eq!(failure(&place, 1), ("went wrong".into(), 3));
    assert_eq!(failure(&place, 2), ("will never do".into(), 1));
    assert_eq!([attempt_of_done(&place, 3), attempt_of_done(&place, 4)], [2, 2]);
    assert_eq!((begun(&place, "error"), begun(&place, "fail")), (3, 1));
    let balance = Balance::of(&ended.log());
    assert_eq!((balance.done, balance.failed, balance.left), (2, 2, 0));
}

#[test]
fn a_job_that_asks_for_a_stop_gets_it_is_named_and_is_done_by_the_next_start() {
    let place = functions();
    place.write("jobs.txt", "await go\nstop-once\nwell\nwell\n");
    let running = place.command(&["plain", "processes=2", "threads=2"]).start();
    running.until_logged("stop requested: failure");
    running.until_logged("stopping workers");
    place.write("go", "");
    let ended = running.wait();
    ended.assert_exit(1);
    let message = "job 2 asks for a stop: the disk is on fire";
    let log = ended.log();
    let said: Vec<_> = log.iter().filter(|line| line.level == "ERROR").collect();
    let [line] = &said[..] else { panic!("said once: {}", ended.describe()) };
    assert_eq!(line.message, message);
    assert_eq!(ended.stdout, format!("cause: {}: {message}\n", line.role));
    assert_eq!(attempt_of_done(&place, 1), 1, "what another thread had in hand is finished");
    assert!(records(&place, 2).is_empty(), "nobody else takes it up");
    Balance::of(&log).assert_even();
    again(&place, "plain threads=2").assert_exit(0);
    assert_eq!((attempt_of_done(&place, 2), begun(&place, "stop-once")), (1, 2));
    assert_eq!(lines(&place).len(), 8);
}

#[test]
fn a_stop_that_was_asked_for_is_not_held_up_by_a_job_that_hangs_and_stays_the_cause() {
    let place = functions();
    let ended = run(&place, &["hang", "stop"], "plain threads=2 deadline=1500");
    ended.assert_exit(1);
    assert!(ended.stderr.contains("killing workers (1)"), "{}", ended.describe());
    assert!(ended.stdout.contains("the disk is on fire"), "{}", ended.describe());
    assert!(lines(&place).is_empty());
}

#[test]
fn a_producer_that_asks_for_a_stop_gets_it_and_one_that_fails_is_started_again() {
    let place = functions();
    let ended = again(&place, "producer how=stop");
    ended.assert_exit(1);
    assert_eq!(ended.stdout, "cause: worker producer/0: the other side is gone for good\n");
    assert_eq!(lines(&place).len(), 1, "once");
    for (how, cause) in
        [("fail", "the other side has hung up"), ("panic", "panicked: lost its head")]
    {
        let place = functions();
        let ended = again(&place, &format!("producer how={how} restarts=1"));
        ended.assert_exit(1);
        assert_eq!(ended.stdout, format!("cause: worker producer/0: {cause}\n"));
        assert_eq!(lines(&place).len(), 2);
    }
    let place = functions();
    again(&place, "producer how=fail-once").assert_exit(0);
    assert_eq!(lines(&place).len(), 2);
}

#[test]
fn a_job_is_read_as_its_type_and_one_that_is_none_fails_for_good() {
    let place = functions();
    let list = [r#"{"host":"a","port":1}"#, r#"{"host":5}"#, "nonsense", r#"{"host":"b"}"#];
    run(&place, &list, "typed attempts=3").assert_exit(3);
    for (seq, host, port) in [(1, "a", 1), (4, "b", 0)] {
        let [record] = &records(&place, seq)[..] else { panic!("not one record of job {seq}") };
        assert_eq!((record["job"].as_str(), number(record, "part")), (Some(host), port));
    }
    for seq in [2, 3] {
        let (error, attempt) = failure(&place, seq);
        assert!(error.starts_with("the job can't be read: "), "{error}");
        assert_eq!(attempt, 1);
    }
}

#[test]
fn a_job_that_breaks_off_half_way_leaves_none_of_its_records_whatever_has_broken_it_off() {
    let words = ["error", "panic", "kill", "abort", "exit", "hang"];
    let odd: Vec<String> = words.iter().map(|word| format!("{word}-once")).collect();
    let mut jobs = Vec::new();
    for job in &odd {
        jobs.extend([job.as_str(), "sleep 5", "well"]);
    }
    for kind in ["plain", "process", "thread"] {
        let place = functions();
        let settings = "processes=2 threads=2 attempts=2 timeout=3000 restarts=100";
        let ended = run(&place, &jobs, &format!("{kind} {settings}"));
        ended.assert_exit(0);
        for (seq, job) in (1..).zip(&jobs) {
            let attempt = attempt_of_done(&place, seq);
            // Deaths are counted apart, also that of a neighbour which has come before an error.
            let counts = ["error-once", "panic-once", "hang-once"].contains(job);
            assert!(attempt == 1 || (attempt == 2 && counts), "{job}: {attempt}");
        }
        for job in &odd {
            assert!(begun(&place, job) >= 2, "{job} was begun again");
        }
        assert_eq!(Balance::of(&ended.log()).done, jobs.len() as u64);
    }
}

// Time-outs.

#[test]
fn a_job_that_always_times_out_fails_with_that_reason_after_its_attempts() {
    let place = functions();
    let ended = run(&place, &["hang", "well"], "plain timeout=2000 attempts=3 threads=2");
    ended.assert_exit(3);
    assert_eq!(failure(&place, 1), ("timed out after 2s".into(), 3));
    assert_eq!(attempt_of_done(&place, 2), 1);
    let said = "job 1 has timed out after 2s (attempt 2 of 3)";
    assert!(ended.stderr.contains(said), "{}", ended.describe());
    assert!(!ended.stderr.contains("has died"), "{}", ended.describe());
}

#[test]
fn a_neighbour_of_a_job_that_times_out_may_end_within_a_second() {
    let place = functions();
    let jobs = ["hang-once", "sleep 4000", "sleep 1500", "well"];
    let ended = run(&place, &jobs, "plain timeout=5000 threads=2 attempts=2");
    ended.assert_exit(0);
    assert_eq!(begun(&place, "sleep 1500"), 1, "{}", ended.describe());
    assert_eq!((1..=4).map(|seq| attempt_of_done(&place, seq)).collect::<Vec<_>>(), [2, 1, 1, 1]);
    let [begun, next] = [3, 4].map(|seq| number(&records(&place, seq)[0], "pid"));
    assert_ne!(begun, next, "nothing new is begun in a process that is about to end");
}

#[test]
fn a_neighbour_that_is_cut_off_is_run_again_with_no_attempt_counted() {
    let place = functions();
    let jobs = ["hang-once", "sleep 2000", "sleep 2500"];
    let ended = run(&place, &jobs, "plain timeout=3000 threads=2 attempts=2");
    ended.assert_exit(0);
    assert_eq!(begun(&place, "sleep 2500"), 2, "{}", ended.describe());
    assert_eq!((1..=3).map(|seq| attempt_of_done(&place, seq)).collect::<Vec<_>>(), [2, 1, 1]);
}

#[test]
fn a_function_that_returns_too_late_publishes_nothing() {
    let place = functions();
    // It returns while its neighbour is still given time.
    let jobs = ["sleep 1300", "sleep 600", "sleep 700"];
    let ended = run(&place, &jobs, "plain timeout=1000 threads=2");
    ended.assert_exit(3);
    assert_eq!(failure(&place, 1), ("timed out after 1s".into(), 1));
}

#[test]
fn a_hung_function_in_a_stop_is_waited_for_until_its_time_out_and_not_longer() {
    let place = functions();
    place.write("jobs.txt", "hang-once\nwell\n");
    let settings = ["process", "timeout=1500", "attempts=2", "deadline=40000"];
    let running = place.command(&settings).start();
    running.until("a hung job", |_| (begun(&place, "hang-once") == 1).then_some(()));
    running.signal(Signal::TERM);
    let ended = running.wait();
    // Nothing had to be killed, and no other worker was started.
    ended.assert_exit(5);
    assert_eq!(ended.log().iter().filter(|line| line.message.contains("again")).count(), 0);
    Balance::of(&ended.log()).assert_even();
    again(&place, "process attempts=2").assert_exit(0);
    assert_eq!([attempt_of_done(&place, 1), attempt_of_done(&place, 2)], [2, 1]);
}

#[test]
fn twenty_time_outs_in_a_row_do_not_end_the_pipeline() {
    let place = functions();
    let ended = run(&place, &["hang"; 20], "plain timeout=100 restarts=0");
    ended.assert_exit(3);
    assert!((1..=20).all(|seq| failure(&place, seq) == ("timed out after 100ms".into(), 1)));
}

#[test]
fn a_function_that_hangs_with_standard_error_locked_can_not_keep_its_process_alive() {
    let place = functions();
    let ended = run(&place, &["hang-with-stderr", "well"], "plain timeout=3000");
    ended.assert_exit(3);
    assert_eq!(failure(&place, 1).0, "timed out after 3s");
    assert_eq!(attempt_of_done(&place, 2), 1);
}

#[test]
fn jobs_of_a_worker_that_was_stopped_are_not_blamed_for_that() {
    let place = functions();
    place.write("jobs.txt", "sleep 3000\n");
    let running = place.command(&["plain", "timeout=4000"]).start();
    running.until("the job", |_| (begun(&place, "sleep 3000") == 1).then_some(()));
    let workers = running.role(1, "worker ");
    assert!(workers[0].send(Signal::STOP));
    // Nothing to wait for: it is the time that is to pass.
    std::thread::sleep(Duration::from_millis(5500));
    assert!(workers[0].send(Signal::CONT));
    running.wait().assert_exit(0);
    assert_eq!(attempt_of_done(&place, 1), 1);
}

#[test]
fn a_producer_with_a_time_out_is_refused() {
    let place = functions();
    let ended = again(&place, "timed-producer");
    ended.assert_exit(78);
    assert!(ended.stderr.contains("a producer has no jobs"), "{}", ended.describe());
    let ended = run(&place, &["well"], "plain timeout=0");
    ended.assert_exit(78);
    assert!(ended.stderr.contains("a time-out has 1 ms at least"), "{}", ended.describe());
}

// All together.

#[test]
fn a_kind_that_takes_jobs_and_two_that_produce_run_side_by_side() {
    let place = functions();
    let ended = run(&place, &well(40), "many threads=2 timeout=5000");
    ended.assert_exit(0);
    assert!((1..=40).all(|seq| attempt_of_done(&place, seq) == 1));
    let mut parts: BTreeMap<(String, u64), Vec<u64>> = BTreeMap::new();
    for line in lines(&place).iter().filter(|line| line["seq"] == 0) {
        let who = (line["job"].as_str().expect("a name").to_owned(), number(line, "pid"));
        parts.entry(who).or_default().push(number(line, "part"));
    }
    let names: Vec<&str> = parts.keys().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tick", "tock"]);
    for all in parts.into_values() {
        assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    }
    let threads: Vec<_> = lives(&place, |_, tid| tid).into_values().collect();
    assert!(
        (1..=2).contains(&threads.len()) && threads.iter().all(|it| *it == (1, 1)),
        "{threads:?}"
    );
    Balance::of(&ended.log()).assert_even();
}

#[test]
fn jobs_that_hang_fail_and_panic_have_their_records_once_whoever_is_killed_whenever() {
    let (mut seed, place) = (Seed::new(), functions());
    let words = ["well", "sleep 3", "hang-once", "error-once", "panic-once", "sleep 9"];
    let jobs: Vec<&str> = words.into_iter().cycle().take(300).collect();
    place.write("jobs.txt", jobs.join("\n"));
    let kinds = ["process", "thread"];
    let kind = kinds[seed.below(2) as usize];
    let settings = "processes=2 threads=2 timeout=150 attempts=100 restarts=10000";
    let arguments: Vec<&str> = [kind].into_iter().chain(settings.split(' ')).collect();
    let mut kills = 0;
    let ended = loop {
        let running = place.command(&arguments).start();
        while kills < 15 && !running.has_ended() {
            std::thread::sleep(seed.time_below(Duration::from_millis(200)));
            let all = running.of_program();
            let Some(chosen) = all.get(seed.below(all.len() as u64) as usize) else { continue };
            kills += u32::from(chosen.handle().is_some_and(|it| it.send(Signal::KILL)));
        }
        let ended = running.wait_for_main();
        if ended.signal.is_none() {
            break ended;
        }
    };
    ended.assert_exit(0);
    assert!(kills >= 5, "it was done after {kills} kills");
    for (seq, job) in (1..).zip(&jobs) {
        assert!(attempt_of_done(&place, seq) < 10, "{job}");
    }
    assert_eq!(lines(&place).len(), 2 * jobs.len());
}
