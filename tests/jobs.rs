//! Jobs and results: how a job reaches its command, what comes back, and what is done when a
//! command fails, hangs, floods or leaves something behind.

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;
use support::verdict::goes_on_to_the_end;
use support::{Balance, Ended, Place, Results, Signal, needs};

const ONE: [&str; 6] = ["--jobs", "jobs.txt", "-P", "1", "-j", "1"];

/// Runs a command for each line of a list, one after the other.
#[track_caller]
fn run_list(list: impl AsRef<[u8]>, options: &[&str], command: &[&str]) -> (Results, Ended) {
    let place = Place::new();
    place.write("jobs.txt", list);
    let ended = place.run(&[&ONE[..], options].concat(), command).finish();
    ended.assert_nothing_left();
    ended.log();
    (place.results(), ended)
}

/// What the command printed for each job, in the order of the list.
#[track_caller]
fn printed(list: &str, command: &[&str]) -> Vec<String> {
    let (results, ended) = run_list(list, &[], command);
    ended.assert_exit(0);
    let jobs = results.by_job();
    jobs.values().map(|line| line["stdout"].as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_result_has_the_fields_of_the_contract() {
    let (results, ended) =
        run_list("a job\n", &[], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    ended.assert_exit(3);
    let mut result = results.of(1).clone();
    let fields = result.as_object_mut().expect("an object");
    let started = fields.remove("started").expect("started");
    let started = started.as_str().expect("a time");
    assert_eq!(started.len(), "2026-01-31T22:39:19.123456Z".len(), "{started}");
    started.parse::<jiff::Timestamp>().expect("a time");
    let seconds = fields.remove("seconds").and_then(|value| value.as_f64()).expect("seconds");
    assert!((0.0..60.0).contains(&seconds), "{seconds}");
    let worker = fields.remove("worker").expect("worker");
    let worker = worker.as_str().expect("a name");
    assert!(worker.ends_with("/0") && worker.len() > 2, "{worker}");
    let expected = json!({
        "job": "a job", "seq": 1, "ok": false, "exit": 7,
        "stdout": "out\n", "stderr": "err\n", "attempt": 1,
    });
    assert_eq!(result, expected);
}

#[test]
fn a_job_takes_the_place_of_each_pair_of_braces() {
    let out = printed("X\n", &["printf", "%s|", "{}", "a{}b", "{}{}", "{", "}", "{ }"]);
    assert_eq!(out, ["X|aXb|XX|{|}|{ }|"]);
}

#[test]
fn braces_in_a_job_are_not_replaced_again() {
    assert_eq!(printed("{}\n", &["printf", "%s|", "<{}>", "x"]), ["<{}>|x|"]);
}

#[test]
fn without_braces_the_job_is_the_last_argument() {
    assert_eq!(printed("X\n", &["printf", "%s|", "a"]), ["a|X|"]);
}

#[test]
fn a_job_is_one_argument_and_never_seen_by_a_shell() {
    let jobs = [
        "; rm -rf /",
        "--help",
        "$(touch harmed)",
        "`touch harmed`",
        "a b  c",
        "'\"\\",
        "*",
        "-",
        "\u{1}\t\u{1b}[31m\u{7f}",
        "a\rb",
        " blanks around ",
        "žluťoučký 🐎",
    ];
    let place = Place::new();
    place.write("jobs.txt", jobs.join("\n"));
    let ended = place.run(&ONE, &["printf", "%s", "{}"]).finish();
    ended.assert_exit(0);
    ended.log();
    let results = place.results();
    results.assert_exactly_once(&jobs.map(str::to_owned));
    for (line, job) in results.by_job().values().zip(jobs) {
        assert_eq!(line["stdout"], job);
    }
    assert!(!place.path("harmed").exists(), "a shell saw the job");
}

#[test]
fn blank_lines_are_skipped_and_jobs_numbered_from_one() {
    let (results, ended) = run_list("\na\n\n\nb\nb\n\nc", &[], &["echo"]);
    ended.assert_exit(0);
    results.assert_exactly_once(&["a", "b", "b", "c"].map(str::to_owned));
    assert_eq!(results.of(4)["stdout"], "c\n", "the last line, without a newline");
}

#[test]
fn lines_can_end_as_on_windows() {
    let (results, ended) = run_list("a\r\n\r\nb\r\nc\rd\n", &[], &["printf", "%s"]);
    ended.assert_exit(0);
    results.assert_exactly_once(&["a", "b", "c\rd"].map(str::to_owned));
    assert_eq!(results.of(3)["stdout"], "c\rd");
}

#[test]
fn jobs_are_read_from_a_pipe_by_default() {
    for options in [&[][..], &["--jobs", "-"][..]] {
        let place = Place::new();
        let mut run = place.run(options, &["echo", "{}"]).stdin(Stdio::piped()).start();
        let mut stdin = run.take_stdin();
        stdin.write_all(b"one\n").expect("write");
        // The first result is written though the list has no end yet.
        run.until_written(1);
        stdin.write_all(b"two\nthree").expect("write");
        drop(stdin);
        run.wait().assert_exit(0);
        place.results().assert_exactly_once(&["one", "two", "three"].map(str::to_owned));
    }
}

#[test]
fn jobs_are_read_from_a_file_as_standard_input() {
    let place = Place::new();
    let jobs = place.jobs(100);
    let file = std::fs::File::open(place.path("jobs.txt")).expect("the list");
    place.run(&[], &["true"]).stdin(file).finish().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn an_empty_list_is_a_success_with_a_warning() {
    for list in ["", "\n\n"] {
        let (results, ended) = run_list(list, &[], &["true"]);
        ended.assert_exit(0);
        assert_eq!(results.len(), 0);
        let log = ended.log();
        assert!(log.iter().any(|line| line.level == "WARN"), "no warning: {log:#?}");
        Balance::of(&log).assert_even();
    }
}

#[test]
fn a_signal_that_ends_a_command_is_named() {
    let (results, ended) = run_list("x\n", &[], &["sh", "-c", "kill -SEGV $$"]);
    ended.assert_exit(3);
    assert_eq!(results.of(1)["signal"], "SIGSEGV");
    assert_eq!(results.of(1)["ok"], false);
    assert!(results.of(1).get("exit").is_none());
}

#[test]
fn a_timeout_kills_the_command_with_all_it_started() {
    let place = Place::new();
    // The next job of the same thread looks whether anything of the first stays there, other than
    // as a zombie that main has yet to reap.
    place.write("jobs.txt", "hang\nlook\n");
    place.write(
        "work.sh",
        "lives() { grep -qs '^State:.[^ZX]' /proc/$1/status; }\n\
         case $1 in\n\
         hang) echo begun; trap '' TERM; sleep 1000 & echo $! > pids; echo $$ >> pids; wait;;\n\
         look) for pid in $(cat pids); do\n\
           n=0; while lives $pid && [ $n -lt 100 ]; do sleep 0.01; n=$((n + 1)); done\n\
           lives $pid && echo alive $pid; done; true;;\n\
         esac\n",
    );
    let options = [&ONE[..], &["--timeout", "3s"]].concat();
    let ended = place.run(&options, &["sh", "work.sh", "{}"]).finish();
    ended.assert_exit(3);
    let results = place.results();
    let hung = results.of(1);
    assert_eq!((&hung["ok"], &hung["timed_out"]), (&json!(false), &json!(true)), "{hung}");
    assert_eq!(hung["stdout"], "begun\n");
    assert!(hung["seconds"].as_f64().expect("seconds") >= 3.0, "{hung}");
    let look = results.of(2);
    assert_eq!((&look["ok"], &look["stdout"]), (&json!(true), &json!("")), "{look}");
    assert!(look.get("timed_out").is_none());
}

#[test]
fn a_command_that_leaves_something_behind_ends_when_it_ends() {
    // What is left holds the pipes open: whoever waits for their end waits for ever.
    let command = ["sh", "-c", "sleep 1000 & setsid sleep 1000 & echo done"];
    let (results, ended) = run_list("a\nb\n", &[], &command);
    ended.assert_exit(0);
    assert_eq!(results.of(2)["stdout"], "done\n");
}

#[test]
fn a_failure_is_tried_again_after_the_delay() {
    let place = Place::new();
    let jobs = place.jobs(3);
    place.config("attempts = 3\nretry_delay = \"200ms\"\n");
    place.work_script(
        "date +%s%N >> times.$1; [ $(wc -l < times.$1) -ge 3 ] || { echo no >&2; exit 1; }",
    );
    let ended = place.command(&["run", "pings.toml"]).finish();
    ended.assert_exit(0);
    let results = place.results();
    results.assert_exactly_once(&jobs);
    for (line, job) in results.by_job().values().zip(&jobs) {
        assert_eq!(
            (&line["attempt"], &line["ok"], &line["stderr"]),
            (&json!(3), &json!(true), &json!(""))
        );
        let times = place.read(&format!("times.{job}"));
        let times: Vec<u64> = times.lines().map(|time| time.parse().expect("a time")).collect();
        assert_eq!(times.len(), 3);
        for pair in times.windows(2) {
            assert!(pair[1] - pair[0] >= 200_000_000, "tried again too soon: {times:?}");
        }
    }
}

#[test]
fn a_job_that_fails_each_time_has_failed_for_good() {
    let place = Place::new();
    place.jobs(4);
    place.config("attempts = 2\nretry_delay = \"10ms\"\n");
    place.work_script("[ $1 != job-3 ]");
    let ended = place.command(&["run", "pings.toml"]).finish();
    ended.assert_exit(3);
    let results = place.results();
    assert_eq!((&results.of(3)["ok"], &results.of(3)["attempt"]), (&json!(false), &json!(2)));
    assert_eq!(results.of(4)["ok"], true);
    assert_eq!(place.started().iter().filter(|job| *job == "job-3").count(), 2);
    let balance = Balance::of(&ended.log());
    assert_eq!((balance.done, balance.failed, balance.left), (3, 1, 0), "{balance:?}");
}

#[test]
fn a_command_ended_by_a_signal_from_outside_is_put_back_and_not_counted() {
    let (results, ended) = run_list(
        "x\n",
        &[],
        &["sh", "-c", "[ -e again ] || { touch again; kill -TERM $$; }; echo done"],
    );
    ended.assert_exit(0);
    assert_eq!(results.of(1)["stdout"], "done\n");
    assert_eq!(results.of(1)["attempt"], 1);
}

#[test]
fn what_is_too_much_output_is_cut_and_marked() {
    let place = Place::new();
    place.write("jobs.txt", "1024\n1025\n300000\n");
    place.config("max_output = \"1KiB\"\n");
    place.work_script("head -c $1 /dev/zero | tr '\\0' x; echo small >&2");
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    let results = place.results();
    for (seq, cut) in [(1, false), (2, true), (3, true)] {
        let line = results.of(seq);
        assert_eq!(line["stdout"], "x".repeat(1024), "job {seq}");
        assert_eq!(line.get("stdout_cut"), cut.then_some(&Value::Bool(true)), "{line}");
        assert_eq!(line["stderr"], "small\n");
        assert!(line.get("stderr_cut").is_none(), "{line}");
    }
}

#[test]
fn output_that_is_no_utf8_is_in_base64() {
    use base64::Engine;
    let (results, ended) = run_list("x\n", &[], &["printf", "\\377\\0\\376%s"]);
    ended.assert_exit(0);
    let line = results.of(1);
    let text = line["stdout_base64"].as_str().expect("base64");
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    assert_eq!(bytes, b"\xff\0\xfex");
    assert!(line.get("stdout").is_none(), "{line}");
    assert_eq!(line["stderr"], "");
}

#[test]
fn newlines_and_nul_in_an_output_are_kept() {
    let (results, ended) = run_list("x\n", &[], &["printf", "a\\nb\\0c\\r\\n\\n%s"]);
    ended.assert_exit(0);
    assert_eq!(results.of(1)["stdout"], "a\nb\0c\r\n\nx");
}

#[test]
fn a_job_that_is_no_utf8_reaches_its_command_as_it_is() {
    use base64::Engine;
    let (results, ended) = run_list(b"a\xffb\n".as_slice(), &[], &["printf", "%s"]);
    ended.assert_exit(0);
    let text = results.of(1)["stdout_base64"].as_str().expect("base64");
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    assert_eq!(bytes, b"a\xffb");
}

/// A job that can't be run fails alone: with its reason, and the others unharmed.
#[track_caller]
fn fails_alone(job: &[u8], reason: &str) {
    let list = [b"before\n", job, b"\nafter\n"].concat();
    let (results, ended) = run_list(list, &[], &["echo"]);
    ended.assert_exit(3);
    assert_eq!(results.by_job().len(), 3);
    assert_eq!(results.of(1)["stdout"], "before\n");
    assert_eq!(results.of(3)["stdout"], "after\n");
    let failed = results.of(2);
    assert_eq!(failed["ok"], false);
    let fields = failed.as_object().expect("an object");
    let told = fields
        .iter()
        .filter(|(name, _)| *name != "job")
        .any(|(_, value)| value.as_str().is_some_and(|text| text.to_lowercase().contains(reason)));
    assert!(told, "nothing about {reason:?} in {failed}");
}

#[test]
fn a_job_longer_than_job_bytes_fails_alone_with_that_reason() {
    fails_alone(&b"x".repeat(5000), "byte");
}

#[test]
fn a_job_of_exactly_job_bytes_is_run() {
    let job = "x".repeat(4096);
    let (results, ended) = run_list(&job, &[], &["printf", "%s"]);
    ended.assert_exit(0);
    assert_eq!(results.of(1)["stdout"], job);
}

#[test]
fn a_job_with_nul_fails_alone_with_that_reason() {
    fails_alone(b"a\0b", "nul");
}

#[test]
fn a_command_gets_its_environment_and_an_empty_standard_input() {
    let place = Place::new();
    place.jobs(1);
    place.config("env = { GREETING = \"hello\" }\n");
    place.write(
        "work.sh",
        "cat; readlink /proc/$$/fd/0; echo $GREETING; echo ${PROCSIG_RUN:+run}\n",
    );
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    let results = place.results();
    assert_eq!(results.of(1)["stdout"], "/dev/null\nhello\nrun\n");
    let worker = results.of(1)["worker"].as_str().expect("a name").to_owned();
    assert!(["ping/0", "ping/1"].contains(&worker.as_str()), "{worker}");
}

#[test]
fn jobs_that_failed_are_not_run_again_when_it_goes_on() {
    let place = Place::new();
    let jobs = place.jobs(60);
    place.work_script("[ -e calm ] || { sleep 0.2; [ $1 != job-2 ]; }");
    let run = place.run_work(&["-P", "2", "-j", "2"]).start();
    run.until_started(12);
    run.signal(Signal::TERM);
    // Both are true, that it was stopped and that a job failed: the first is told.
    run.wait().assert_exit(5);
    place.write("calm", "");
    let ended = place.run_work(&["-P", "2", "-j", "2"]).finish();
    // The list was finished, and a job of it has failed, if not in this run.
    ended.assert_exit(3);
    place.results().assert_exactly_once(&jobs);
    assert_eq!(place.results().of(2)["ok"], false);
    place.assert_each_ran_once(&jobs);
}

#[test]
fn rounds_are_repeated_and_numbered() {
    let place = Place::new();
    let jobs = place.jobs(3);
    place.work_script("");
    let run = place.run_work(&["--every", "2s"]).start();
    run.until("three rounds", |_| {
        let whole = place.read(support::place::OUTPUT);
        let whole = &whole[..whole.rfind('\n')? + 1];
        let round = |line: &str| serde_json::from_str::<Value>(line).ok()?["round"].as_u64();
        let mut rounds: Vec<u64> = whole.lines().filter_map(round).collect();
        rounds.dedup();
        rounds.sort_unstable();
        rounds.dedup();
        (rounds.len() >= 3).then_some(())
    });
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
    let results = place.results();
    results.assert_at_most_once(&jobs);
    let by_job = results.by_job();
    let first = by_job.keys().next().expect("a result").0;
    for round in first..first + 2 {
        for seq in 1..=3 {
            assert!(by_job.contains_key(&(round, seq)), "no job {seq} in round {round}");
        }
    }
    let started = |round| {
        let line = by_job[&(round, 1)]["started"].as_str().expect("a time");
        line.parse::<jiff::Timestamp>().expect("a time")
    };
    let apart = started(first + 1).duration_since(started(first));
    // Ticks, not pauses: a late first round can be followed a little sooner than in two seconds.
    assert!(apart > jiff::SignedDuration::from_millis(500), "rounds {apart:?} apart");
}

#[test]
fn a_list_that_was_finished_begins_anew() {
    let place = Place::new();
    let jobs = place.jobs(5);
    place.work_script("");
    goes_on_to_the_end(&place, &[], &jobs);
    place.run_work(&[]).finish().assert_exit(0);
    assert_eq!(place.results().len(), 10, "two runs of the list, appended");
}

#[test]
fn a_stop_under_full_load_loses_nothing() {
    let place = Place::new();
    place.write("jobs.txt", "300000\n".repeat(20_000));
    place.config("max_output = \"1KiB\"\n\n[buffer]\nflush_records = 1\n");
    place.work_script("head -c $1 /dev/zero");
    let run = place.start();
    run.until_written(50);
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(5);
    Balance::of(&ended.log()).assert_even();
    assert_eq!(place.results().by_job().len(), place.started().len());
}

#[test]
fn the_output_is_synced_as_the_policy_says_and_always_at_stop() {
    if !needs("the_output_is_synced_as_the_policy_says_and_always_at_stop", &["strace"]) {
        return;
    }
    let syncs = |policy: &str| {
        let place = Place::new();
        let jobs = place.jobs(40);
        place.work_script("");
        place.config("[buffer]\nflush_records = 10\nflush_after = \"1h\"\n");
        let config = place.read("pings.toml");
        let synced = config.replace("[output]\n", &format!("[output]\nsync = \"{policy}\"\n"));
        place.write("pings.toml", synced);
        let trace = place.private("trace");
        let strace =
            ["strace", "-fy", "-e", "trace=fdatasync,write", "-o", trace.to_str().expect("UTF-8")];
        place.command(&["run", "pings.toml"]).under(&strace).finish().assert_exit(0);
        place.results().assert_exactly_once(&jobs);
        let text = std::fs::read_to_string(&trace).expect("the trace");
        // With the path of each file.
        let syncs = text.lines().filter(|line| line.contains("fdatasync("));
        let spools = syncs.map(|line| line.contains(".spool>")).collect::<Vec<bool>>();
        let named = format!("/{}>", support::place::OUTPUT);
        let output = text.lines().filter(|line| line.contains(&named));
        (spools, output.map(|line| line.contains("fdatasync(")).collect::<Vec<bool>>())
    };
    // At stop: the spool, the output, and the spool with the commit that says so.
    assert_eq!(syncs("never").0, [true, false, true]);
    assert_eq!(syncs("1h").0, [true, false, true]);
    let (always, output) = syncs("always");
    // However many records a busy buffer writes at once.
    let each_write_is_synced = output.chunks(2).all(|pair| pair == [false, true]);
    assert!(each_write_is_synced && !output.is_empty(), "at each flush: {output:?}");
    // The last commit, and once more at the end what others have stored since.
    assert!(always.ends_with(&[false, true, true]), "{always:?}");
}

#[test]
fn a_program_that_can_not_be_started_is_said_once_by_each_worker_and_fails_its_jobs() {
    let place = Place::new();
    let jobs = place.jobs(20);
    // It may be there when its first job comes: a path that is relative is not refused.
    let ended = place.run(&["--jobs", "jobs.txt"], &["./no-such-program"]).finish();
    ended.assert_exit(3);
    place.results().assert_exactly_once(&jobs);
    let said = ended.stderr.matches("can't start \"./no-such-program\"").count();
    assert!((1..=2).contains(&said), "{}", ended.describe());
    assert!(ended.stderr.contains("jobs that have failed for good: 20"), "{}", ended.describe());
}

#[test]
fn a_program_that_is_nowhere_is_refused_before_anything_is_touched() {
    let place = Place::new();
    place.jobs(2);
    let before = place.files();
    for program in ["procsig-no-such-program", "/no/such/program", "/etc/passwd", "/etc"] {
        let ended = place.run(&["--jobs", "jobs.txt"], &[program]).finish();
        ended.assert_exit(78);
        assert!(ended.stderr.contains(program), "{}", ended.describe());
        assert_eq!(place.files(), before);
    }
}
