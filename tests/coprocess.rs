//! Coprocess workers: programs that are started once for each thread, asked line by line, and do
//! whatever programs do: answer, hang, die, talk too much, or stop listening.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use support::{Ended, Handle, Place, Process, Running, Seed, Signal, example, needs, wait_until};

/// A place with `jobs.txt`, `worker.sh`, which does `each` for every request, in `$line`, and
/// `c.toml` with these keys of the worker and these tables.
#[track_caller]
fn place(jobs: &str, each: &str, keys: &str, tables: &str) -> Place {
    let place = Place::new();
    place.write("jobs.txt", jobs);
    place.write("worker.sh", format!("while IFS= read -r line; do\n{each}\ndone\n"));
    let text = format!(
        "[jobs]\nlines = \"jobs.txt\"\n[output]\nfile = \"out.jsonl\"\n{tables}\n\
         [workers.co]\ncoprocess = [\"sh\", \"worker.sh\"]\n{keys}\n"
    );
    place.write("c.toml", text);
    place
}

const ONE: &str = "processes = 1\nthreads = 1";

/// Answers with the job itself, as it stands in the request.
const ECHO: &str = r#"job=${line#*\"job\":}; printf '%s\n' "${job%%,\"seq\":*}""#;

#[track_caller]
fn run(place: &Place) -> Ended {
    place.command(&["run", "c.toml"]).finish()
}

/// The coprocesses of a run: each leads a group, and none of them is ours.
fn coprocesses(run: &Running<'_>, place: &Place) -> Vec<Process> {
    let mut all = run.processes();
    all.retain(|it| {
        let ours = it.executable().as_ref() == Some(&place.program);
        !it.is_zombie() && it.pid == it.group && !ours
    });
    all
}

/// Waits for so many coprocesses, and takes hold of them.
#[track_caller]
fn held_coprocesses(run: &Running<'_>, place: &Place, count: usize) -> Vec<Handle> {
    run.until(&format!("{count} coprocesses"), |run| {
        let all = coprocesses(run, place);
        let held: Vec<Handle> = all.iter().filter_map(Process::handle).collect();
        (held.len() == count).then_some(held)
    })
}

fn values(place: &Place) -> Vec<Value> {
    place.results().by_job().values().map(|line| line["value"].clone()).collect()
}

/// The error of the job with this number, without what is different in each run.
#[track_caller]
fn error(place: &Place, seq: u64) -> String {
    let result = place.results().of(seq).clone();
    assert_eq!((&result["ok"], result.get("value")), (&json!(false), None), "{result}");
    result["error"].as_str().expect("a text").to_owned()
}

#[test]
fn a_result_has_the_answer_as_its_value_and_the_fields_of_the_contract() {
    let each = "printf '{\"b\": 1.10, \"a\": [%s]}\\n' \"$line\"";
    let place = place("a \"job\"\n", each, ONE, "");
    run(&place).assert_exit(0);
    let line = place.read("out.jsonl");
    let begin = concat!(
        r#"{"job":"a \"job\"","seq":1,"ok":true,"#,
        r#""value":{"b": 1.10, "a": [{"job":"a \"job\"","seq":1,"attempt":1}]},"#,
        r#""attempt":1,"worker":"co/0","started":""#
    );
    assert!(line.starts_with(begin), "{line}");
    let seconds = place.results().of(1)["seconds"].as_f64().expect("seconds");
    assert!((0.0..60.0).contains(&seconds), "{seconds}");
}

#[test]
fn each_thread_starts_one_process_and_keeps_it() {
    let place = place("", "echo $$", "processes = 2\nthreads = 2", "");
    let jobs = place.jobs(400);
    run(&place).assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    let pids: BTreeSet<u64> = values(&place).iter().map(|it| it.as_u64().expect("pid")).collect();
    assert!(pids.len() <= 4, "{pids:?}");
}

/// Puts the files of the example where a test can run them.
fn example_place(config: &str) -> Place {
    let place = Place::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/coprocess");
    for name in [config, "worker.py", "worker.sh"] {
        std::fs::copy(folder.join(name), place.path(name)).expect("a file of the example");
    }
    place
}

#[test]
fn the_example_in_python_answers_each_job() {
    if !needs("the_example_in_python_answers_each_job", &["python3"]) {
        return;
    }
    let place = example_place("python.toml");
    let jobs = ["abc", "# no", "a1 \"b\\\" é\u{1}", "žluťoučký"].map(str::to_owned);
    place.write("jobs.txt", jobs.join("\n"));
    let options = ["run", "python.toml", "--jobs", "jobs.txt", "-o", "out.jsonl"];
    place.command(&options).finish().assert_exit(3);
    let results = place.results();
    results.assert_exactly_once(&jobs);
    for (seq, letters) in [(1, 3), (3, 3), (4, 9)] {
        assert_eq!(results.of(seq)["value"], json!({ "letters": letters }));
    }
    assert_eq!(error(&place, 2), "this is a comment");
}

#[test]
fn the_example_in_shell_answers_each_job() {
    let place = example_place("shell.toml");
    let jobs = ["abc", "x\",y", "%s\\n $(id)"].map(str::to_owned);
    place.write("jobs.txt", jobs.join("\n"));
    let options = ["run", "shell.toml", "--jobs", "jobs.txt", "-o", "out.jsonl"];
    place.command(&options).finish().assert_exit(0);
    let results = place.results();
    results.assert_exactly_once(&jobs);
    // As `printf abc | cksum` says; the others have their escapes counted with them.
    assert_eq!(results.of(1)["value"], json!({ "cksum": 1_219_131_554, "bytes": 3 }));
    assert_eq!(results.of(2)["value"]["bytes"], 5);
    assert_eq!(results.of(3)["value"]["bytes"], 11);
}

#[test]
fn the_example_in_rust_makes_records_of_the_answers_and_failures_of_the_rest() {
    let test = "the_example_in_rust_makes_records_of_the_answers_and_failures_of_the_rest";
    if !needs(test, &["python3"]) {
        return;
    }
    let place = Place::of(example("coprocess"));
    place.write("jobs.txt", "abc\n# no\nä1\n");
    place.command(&["jobs.txt", "out.jsonl"]).finish().assert_exit(3);
    let mut lines: Vec<String> = place.read("out.jsonl").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines[1..], [r#"{"letters":1}"#, r#"{"letters":3}"#]);
    assert_eq!(error(&place, 2), "this is a comment");
    // Answers that are no such record.
    let place = Place::of(example("coprocess"));
    place.write("jobs.txt", "abc\n");
    place.write("other.py", "input()\nprint('{\"letters\":-1}', flush=True)\ninput()");
    place.command(&["jobs.txt", "out.jsonl", "other.py"]).finish().assert_exit(3);
    let error = error(&place, 1);
    assert!(error.contains("is no record: invalid value: integer `-1`"), "{error}");
}

#[test]
fn with_every_the_round_is_in_the_request_and_in_the_result() {
    let place = place("a\n", "printf '[%s]\\n' \"$line\"", ONE, "[buffer]\nflush_records = 1");
    let run = place.command(&["run", "c.toml", "--every", "10ms"]).start();
    run.until_written(3);
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
    for line in place.results().lines {
        assert_eq!(line["value"][0]["round"], line["round"], "{line}");
    }
}

#[test]
fn a_coprocess_that_does_wrong_fails_its_job_with_the_reason_and_no_other() {
    let each = r#"case $line in
        *hang*) sleep 1000 & sleep 1000;;
        *exit*) exit 7;;
        *kill*) kill -9 $$;;
        *torn*) printf '{"a":'; exit 1;;
        *garbage*) echo 'Traceback (most recent call last):';;
        *bytes*) printf '"\377"\n';;
        *flood*) yes | tr -d '\n';;
        *mute*) exec >&-; sleep 1000;;
        *own*) echo '{"procsig_error":"no such host","retry":false}';;
        *) echo '"fine"';;
    esac"#;
    let wrong = [
        ("hang", "timed out after 2s"),
        ("exit", "the last time: exit code 7"),
        ("kill", "the last time: ended by SIGKILL"),
        ("torn", "the last time: exit code 1"),
        ("garbage", "no JSON (expected value at byte 1): \"Traceback"),
        ("bytes", "no JSON (no UTF-8 at byte 1)"),
        ("flood", "more than 4096 bytes: raise max_output"),
        ("mute", "it has closed its standard output and did not end"),
        ("own", "no such host"),
    ];
    let list: String = wrong.iter().map(|(job, _)| format!("a\n{job}\nb\n")).collect();
    let keys = format!("{ONE}\ntimeout = \"2s\"\nmax_output = \"4KiB\"");
    let place = place(&list, each, &keys, "");
    run(&place).assert_exit(3);
    let jobs: Vec<String> = list.lines().map(str::to_owned).collect();
    place.results().assert_exactly_once(&jobs);
    for (index, job) in jobs.iter().enumerate() {
        let seq = index as u64 + 1;
        match wrong.iter().find(|(wrong, _)| wrong == job) {
            Some((_, why)) => {
                let error = error(&place, seq);
                assert!(error.contains(why), "{job}: {error}");
                let late = place.results().of(seq).get("timed_out").is_some();
                assert_eq!(late, job == "hang");
            }
            None => assert_eq!(place.results().of(seq)["value"], "fine"),
        }
    }
}

#[test]
fn failures_are_tried_again_as_often_as_allowed_and_deaths_count_apart() {
    let each = r#"case $line in
        *'"attempt":3'*) echo 3;;
        *bad*) echo '{"procsig_error":"not yet"}';;
        *die*) if mkdir died 2>/dev/null; then exit 1; fi; echo 1;;
    esac"#;
    let place =
        place("bad\ndie\n", each, &format!("{ONE}\nattempts = 3\nretry_delay = \"1ms\""), "");
    run(&place).assert_exit(0);
    let results = place.results();
    assert_eq!((&results.of(1)["value"], &results.of(1)["attempt"]), (&json!(3), &json!(3)));
    assert_eq!((&results.of(2)["value"], &results.of(2)["attempt"]), (&json!(1), &json!(1)));
}

#[test]
fn with_dead_letters_what_has_failed_is_there_and_not_in_the_output() {
    let each = r#"case $line in
        *hang*) sleep 1000;;
        *never*) echo '{"procsig_error":"no such host","retry":false}';;
        *) echo 1;;
    esac"#;
    let keys = format!("{ONE}\ntimeout = \"1s\"\nattempts = 2\nretry_delay = \"1ms\"");
    let place = place("hang\nnever\na\n", each, &keys, "[dead_letters]\nfile = \"dead.jsonl\"");
    run(&place).assert_exit(3);
    assert_eq!(values(&place), [json!(1)]);
    let dead = support::Results::read(&place.path("dead.jsonl"));
    assert_eq!(dead.len(), 2);
    let (hang, never) = (dead.of(1), dead.of(2));
    assert_eq!((&hang["job"], &hang["reason"]), (&json!("hang"), &json!("timed out after 1s")));
    assert_eq!((&hang["attempts"], &hang["timed_out"]), (&json!(2), &json!(true)));
    assert_eq!((&never["reason"], &never["attempts"]), (&json!("no such host"), &json!(1)));
}

#[test]
fn an_answer_that_no_lane_holds_fails_its_job_and_says_what_to_raise() {
    let each = "printf '\"%0200000d\"\\n' 0";
    let keys = format!("{ONE}\nmax_output = \"1MiB\"");
    let place = place("a\n", each, &keys, "[spool]\nlane = \"128KiB\"");
    run(&place).assert_exit(3);
    assert!(error(&place, 1).contains("raise [spool] lane"), "{}", error(&place, 1));
}

#[test]
fn standard_error_goes_to_the_log_in_whole_lines_and_a_flood_of_it_is_cut() {
    let each = r#"case $line in
        *say*) printf 'one\n\033[31mtwo\t\377' >&2;;
        *flood*) yes 'a long line of little use' | head -c 3000000 >&2;;
    esac
    echo $$; exit 0"#;
    let place = place("say\nflood\n", each, ONE, "");
    let ended = run(&place);
    ended.assert_exit(0);
    let log = ended.log();
    let from = |seq: u64| format!("coprocess {}: ", place.results().of(seq)["value"]);
    let said = |seq: u64| -> Vec<String> {
        let messages = log.iter().filter_map(|line| line.message.strip_prefix(&from(seq)));
        messages.map(str::to_owned).collect()
    };
    assert_eq!(said(1), ["one", "\\x1b[31mtwo\\t\u{fffd}"]);
    let flood = said(2);
    // Said once a second, as long as it goes on.
    let dropped: Vec<usize> = flood
        .iter()
        .filter_map(|line| line.split_once(" lines of its standard error")?.0.parse().ok())
        .collect();
    let said = flood.len() - dropped.len();
    // A line may have been cut off at the end, where `head` stopped.
    assert_eq!(said + dropped.iter().sum::<usize>(), 3_000_000_usize.div_ceil(26));
    assert!(said >= 100 && said < 3000 * dropped.len(), "{said} lines, dropped {dropped:?}");
}

#[test]
fn a_program_that_is_not_there_is_refused_before_anything_is_touched() {
    let place = place("a\n", "", ONE, "");
    let text = place.read("c.toml").replace("\"sh\"", "\"no-such-program\"");
    place.write("c.toml", text);
    let before = place.files();
    let ended = run(&place);
    ended.assert_exit(78);
    let expected = "workers.co.coprocess: there is no program \"no-such-program\" in any directory";
    assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    assert_eq!(place.files(), before);
}

#[test]
fn a_coprocess_has_default_dispositions_an_empty_mask_and_a_group_of_its_own() {
    let each = "status=$(sed -n 's/^Sig\\(Blk\\|Ign\\):.0*/\\1/p' /proc/$$/status | tr -d '\\n')
        group=$(cut -d ' ' -f 5 /proc/$$/stat)
        printf '[\"%s\",%s,%s]\\n' \"$status\" $$ $group";
    let place = place("a\n", each, ONE, "");
    run(&place).assert_exit(0);
    let value = place.results().of(1)["value"].clone();
    // The C library itself ignores two real-time signals in what it spawns, and says nothing of it.
    let status = value[0].as_str().map(|status| status.replace("Ign180000000", "Ign"));
    assert_eq!(status.as_deref(), Some("BlkIgn"), "{value}");
    assert_eq!(value[1], value[2], "it leads its group");
}

#[test]
fn a_stop_waits_for_the_job_in_hand_and_a_signal_to_the_group_disturbs_nobody() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = place("", &format!("echo x >> started.txt; : < gate; {ECHO}"), ONE, "");
        let jobs = place.jobs(3);
        let mut gate = place.gate();
        let run = place.command(&["run", "c.toml"]).start();
        run.until_started(1);
        let group = rustix::process::Pid::from_raw(run.pid()).expect("a number");
        rustix::process::kill_process_group(group, signal).expect("the group is there");
        run.until_logged("stopping workers");
        gate.open();
        run.wait().assert_exit(5);
        assert_eq!(values(&place), [json!("job-1")]);
        self::run(&place).assert_exit(0);
        place.results().assert_exactly_once(&jobs);
        assert_eq!(place.started().len(), 3, "none was run twice");
    }
}

#[test]
fn coprocesses_that_are_all_ended_from_outside_with_the_rest_leave_their_jobs_for_the_next_start() {
    let each = format!("echo x >> started.txt; : < gate; {ECHO}");
    let place = place("", &each, "processes = 2\nthreads = 2", "");
    let jobs = place.jobs(20);
    let mut gate = place.gate();
    let run = place.command(&["run", "c.toml"]).start();
    run.until_started(4);
    let held = held_coprocesses(&run, &place, 4);
    // As systemd does with all processes of a service.
    run.signal(Signal::TERM);
    run.until_logged("stop requested");
    for coprocess in &held {
        coprocess.send(Signal::TERM);
    }
    let ended = run.wait();
    ended.assert_exit(5);
    gate.open();
    self::run(&place).assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    assert!(place.results().lines.iter().all(|line| line["ok"] == true));
}

#[test]
fn one_that_ignores_the_end_of_its_input_does_not_hold_up_the_stop() {
    let place = place("a\n", "echo 1; sleep 1000 & sleep 1000", ONE, "");
    let ended = run(&place);
    ended.assert_exit(0);
    assert!(ended.stderr.contains("of the end of its input; it was killed"), "{}", ended.stderr);
    // With little time a stop gives little of it away.
    let place = self::place("a\n", "echo 1; sleep 1000", ONE, "[shutdown]\ndeadline = \"20s\"");
    let text = place.read("c.toml").replace("\"20s\"", "\"20s\"\nflush_reserve = \"19300ms\"");
    place.write("c.toml", text);
    run(&place).assert_exit(0);
}

#[test]
fn the_coprocesses_of_a_killed_worker_are_gone_busy_or_idle_and_the_job_is_run_again() {
    // The idle one does not mind the end of its input, and has something in the background.
    let each = format!(
        "sleep 1000 &\necho x >> started.txt\ncase $line in *gate*) : < gate;; esac\n{ECHO}"
    );
    let place = place("", &each, "processes = 1\nthreads = 2", "[buffer]\nflush_records = 1");
    let text = place.read("c.toml").replace("jobs.txt", "-");
    place.write("c.toml", text);
    place.write("worker.sh", format!("{}while :; do sleep 1000; done\n", place.read("worker.sh")));
    let mut gate = place.gate();
    let mut run = place.command(&["run", "c.toml"]).stdin(Stdio::piped()).start();
    let mut stdin = run.take_stdin();
    stdin.write_all(b"gate\na\n").expect("write");
    run.until_written(1);
    let held = held_coprocesses(&run, &place, 2);
    let worker = run.role(1, "worker").remove(0);
    worker.send(Signal::KILL);
    for coprocess in &held {
        assert!(coprocess.wait(support::WATCHDOG), "{}", run.describe());
    }
    let groups: Vec<i32> = held.iter().map(|it| it.process.group).collect();
    run.until("an end of all that they had started", |run| {
        run.processes().iter().all(|it| !groups.contains(&it.group)).then_some(())
    });
    gate.open();
    run.until_written(2);
    drop(stdin);
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&["gate", "a"].map(str::to_owned));
    assert_eq!(place.started().len(), 3, "only the job in hand was run again");
}

#[test]
fn a_killed_main_leaves_no_coprocess_behind_for_long_and_the_next_start_finishes_the_list() {
    let each = format!("echo x >> started.txt; case $line in *job-3*) : < gate;; esac; {ECHO}");
    let place = place(
        "",
        &each,
        "processes = 2\nthreads = 2",
        "[shutdown]\ndeadline = \"2s\"\nflush_reserve = \"1s\"",
    );
    let jobs = place.jobs(40);
    let mut gate = place.gate();
    let run = place.command(&["run", "c.toml"]).start();
    run.until_started(30);
    run.signal(Signal::KILL);
    run.wait_for_main();
    gate.open();
    place.command(&["run", "c.toml", "--deadline", "60s"]).finish().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    wait_until("the end of all coprocesses", support::WATCHDOG, || {
        Process::marked(&place.name).is_empty().then_some(())
    });
}

/// Kills coprocesses and workers at random, until the list is done. Only those are killed that have
/// answered once, which they say by a file with their pid as its name: so no job loses three
/// coprocesses by chance, and none three workers.
#[track_caller]
fn kill_at_random(place: &Place, jobs: &[String], least: u64) {
    let mut seed = Seed::new();
    let run = place.command(&["run", "c.toml"]).start();
    let written = || place.read("out.jsonl").bytes().filter(|byte| *byte == b'\n').count();
    let (mut coprocesses_killed, mut workers_killed) = (0, 0);
    let mut next = 1;
    while next + 100 < jobs.len() {
        run.until("progress", |_| (written() >= next).then_some(()));
        std::thread::sleep(seed.time_below(Duration::from_millis(10)));
        let is_worker = (coprocesses_killed + workers_killed) % 6 == 5;
        let mut victims = if is_worker { run.of_program() } else { coprocesses(&run, place) };
        let answered = |it: &Process| place.path(&it.pid.to_string()).exists();
        victims.retain(|it| if is_worker { it.comm.starts_with("worker ") } else { answered(it) });
        let victim = victims.get(seed.below(victims.len() as u64) as usize);
        if victim.and_then(Process::handle).is_some_and(|it| it.send(Signal::KILL)) {
            *(if is_worker { &mut workers_killed } else { &mut coprocesses_killed }) += 1;
        }
        // What a worker has had in hand has to be done before another one dies.
        next = written() + if is_worker { 200 } else { 15 };
    }
    run.wait().assert_exit(0);
    eprintln!("killed: {coprocesses_killed} coprocesses, {workers_killed} workers");
    assert!(coprocesses_killed >= least && workers_killed > 0, "too few were killed");
    place.results().assert_exactly_once(jobs);
    for line in place.results().lines {
        assert_eq!((&line["ok"], &line["value"]), (&json!(true), &line["job"]), "{line}");
    }
}

const KILLS: &str = "[buffer]\nflush_records = 1\n[restart]\nmax = 1000\nwithin = \"1s\"";

#[test]
fn whoever_is_killed_each_job_has_its_own_answer_once() {
    let each = format!("sleep 0.005; {ECHO}; : > $$");
    let place = place("", &each, "processes = 2\nthreads = 2", KILLS);
    let jobs = place.jobs(2000);
    kill_at_random(&place, &jobs, 10);
}

#[test]
fn whoever_is_killed_each_job_has_its_own_answer_once_from_python_too() {
    let test = "whoever_is_killed_each_job_has_its_own_answer_once_from_python_too";
    if !needs(test, &["python3"]) {
        return;
    }
    let place = place("", "", "processes = 2\nthreads = 2", KILLS);
    place.write(
        "worker.py",
        "import json, os, sys, time\nfor line in sys.stdin:\n    time.sleep(0.005)\n    \
         print(json.dumps(json.loads(line)['job']), flush=True)\n    \
         open(str(os.getpid()), 'w').close()\n",
    );
    let text = place.read("c.toml").replace("\"sh\", \"worker.sh\"", "\"python3\", \"worker.py\"");
    place.write("c.toml", text);
    let jobs = place.jobs(1500);
    kill_at_random(&place, &jobs, 5);
}
