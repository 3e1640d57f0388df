//! Coprocesses that run for real, and do what they should not.

use super::*;
use crate::flow::worker::tests::{HangGuard, wait_until};
use crate::sys::proc_fs;
use std::path::Path;

fn settings(command: &[&str]) -> config::Worker {
    let command = command.iter().map(|text| text.to_string()).collect();
    config::Worker::new("test", config::Run::Coprocess(command))
}

fn coprocesses(settings: &config::Worker) -> Coprocesses {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let run_id = format!("{:x}{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let stop = Stop::new(|| {});
    Coprocesses::new(settings, None, &run_id, Duration::from_secs(8), &stop).expect("valid")
}

/// A shell that does this for each line, in `$line`; in the folder, if it needs one.
fn shell(each: &str) -> config::Worker {
    settings(&["sh", "-c", &format!("while IFS= read -r line; do {each}\ndone")])
}

fn in_folder(folder: &Path, each: &str) -> config::Worker {
    let mut settings = shell(each);
    let folder = folder.to_str().expect("UTF-8").to_owned();
    settings.env.insert("FOLDER".into(), folder);
    settings
}

fn job(job: &[u8]) -> JobRef<'_> {
    JobRef { job, seq: 17, round: None, attempt: 1 }
}

fn ask(coprocess: &mut Coprocess<'_>, text: &str) -> Outcome {
    coprocess.run(job(text.as_bytes()), &|_, _| {})
}

#[track_caller]
fn value(outcome: Outcome) -> String {
    match outcome {
        Outcome::Value(value) => value,
        other => panic!("no value: {other:?}"),
    }
}

/// The error, and whether another attempt may follow.
#[track_caller]
fn failure(outcome: Outcome) -> (String, bool) {
    match outcome {
        Outcome::Failed { error, retry, timed_out } => {
            assert_eq!(timed_out, error.starts_with("timed out"), "{error}");
            (error, retry)
        }
        other => panic!("not failed: {other:?}"),
    }
}

fn group_is_empty(group: i32) -> bool {
    let numbers = std::fs::read_dir("/proc").expect("/proc").flatten();
    let mut numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    !numbers.any(|pid| proc_fs::stat(pid).is_some_and(|it| it.pgrp == group && !it.ended()))
}

fn pid_of(coprocess: &Coprocess<'_>) -> i32 {
    coprocess.talk.as_ref().expect("one runs").pid()
}

#[test]
fn one_process_answers_all_jobs_and_its_answers_are_passed_through_as_they_came() {
    let _watchdog = HangGuard::arm("coprocesses");
    let settings =
        shell("n=$((n+1)); printf '\\t{ \"b\":%s, \"a\":1.000000000000000000001 }\\r\\n' $n");
    let all = coprocesses(&settings);
    let mut coprocess = all.of_thread();
    for n in 1..=3 {
        let expected = format!("{{ \"b\":{n}, \"a\":1.000000000000000000001 }}");
        assert_eq!(value(ask(&mut coprocess, "x")), expected);
    }
}

#[test]
fn a_request_is_one_line_that_says_which_job_it_is() {
    let _watchdog = HangGuard::arm("coprocesses");
    let all = coprocesses(&settings(&["cat"]));
    let mut coprocess = all.of_thread();
    assert_eq!(
        value(ask(&mut coprocess, "a \"b\"\n\0é")),
        r#"{"job":"a \"b\"\n\u0000é","seq":17,"attempt":1}"#
    );
    let odd = JobRef { job: b"\xff\n", seq: 1, round: Some(3), attempt: 2 };
    assert_eq!(
        value(coprocess.run(odd, &|_, _| {})),
        r#"{"job_base64":"/wo=","seq":1,"attempt":2,"round":3}"#
    );
}

#[test]
fn arguments_stay_as_they_are() {
    let _watchdog = HangGuard::arm("coprocesses");
    let all = coprocesses(&settings(&[
        "sh",
        "-c",
        "read -r line; echo \"[\\\"$*\\\"]\"",
        "{}",
        "{}",
        "a",
    ]));
    assert_eq!(value(ask(&mut all.of_thread(), "job")), "[\"{} a\"]");
}

#[test]
fn an_answer_can_say_that_the_job_has_failed_and_its_process_goes_on() {
    let _watchdog = HangGuard::arm("coprocesses");
    let table = [
        (r#"{"procsig_error":"no such host"}"#, "no such host", true),
        (r#"{"retry":false,"x":1,"procsig_error":"never\nwill"}"#, "never\nwill", false),
        (r#"{"procsig_error":"again","retry":true}"#, "again", true),
    ];
    let folder = tempfile::tempdir().expect("can make one");
    let each = "IFS= read -r answer < \"$FOLDER/answer\"; printf '%s\\n' \"$answer\"";
    let all = coprocesses(&in_folder(folder.path(), each));
    let mut coprocess = all.of_thread();
    let mut pids = Vec::new();
    for (answer, text, retry) in table {
        std::fs::write(folder.path().join("answer"), format!("{answer}\n")).expect("can write");
        assert_eq!(failure(ask(&mut coprocess, "x")), (text.to_owned(), retry));
        pids.push(pid_of(&coprocess));
    }
    for answer in
        [r#"{"procsig_error":null}"#, r#"{"a":{"procsig_error":"x"}}"#, r#"["procsig_error"]"#]
    {
        std::fs::write(folder.path().join("answer"), format!("{answer}\n")).expect("can write");
        assert_eq!(value(ask(&mut coprocess, "x")), answer);
        pids.push(pid_of(&coprocess));
    }
    pids.dedup();
    assert_eq!(pids.len(), 1);
    for answer in [r#"{"procsig_error":5}"#, r#"{"procsig_error":"x","retry":"no"}"#] {
        std::fs::write(folder.path().join("answer"), format!("{answer}\n")).expect("can write");
        let (error, _) = failure(ask(&mut coprocess, "x"));
        assert!(error.contains("must be a text"), "{error}");
    }
}

#[test]
fn what_is_no_json_fails_the_job_and_the_next_one_gets_a_new_process() {
    let _watchdog = HangGuard::arm("coprocesses");
    let folder = tempfile::tempdir().expect("can make one");
    let each = "case $line in *bad*) cat \"$FOLDER/answer\";; *) echo $$;; esac";
    let all = coprocesses(&in_folder(folder.path(), each));
    let mut coprocess = all.of_thread();
    let deep = |depth| format!("{}{}\n", "[".repeat(depth), "]".repeat(depth));
    let (deep, deeper) = (deep(127), deep(1000));
    let table: [(&[u8], &str); 11] = [
        (b"nonsense\n", "\"nonsense\""),
        (b"\n", "(EOF"),
        (b"{\"a\":1\n", "(EOF"),
        (b"{} {}\n", "trailing"),
        (b"NaN\n", "expected value"),
        (b"\"\\ud800\"\n", "hex escape"),
        (b"1e999\n", "out of range"),
        (b"[\"\xff\"]\n", "no UTF-8 at byte 2"),
        (b"\"\x00\"\n", "control character"),
        // One less than serde_json itself refuses: in its result it is one deeper.
        (deep.as_bytes(), "nested"),
        (deeper.as_bytes(), "nested"),
    ];
    let mut before = value(ask(&mut coprocess, "good"));
    for (answer, why) in table {
        std::fs::write(folder.path().join("answer"), answer).expect("can write");
        let (error, retry) = failure(ask(&mut coprocess, "bad"));
        assert!(error.contains("no JSON") && error.contains(why) && retry, "{error}, {why}");
        assert!(error.len() < 250, "{error}");
        let after = value(ask(&mut coprocess, "good"));
        assert_ne!(before, after);
        before = after;
    }
}

#[test]
fn one_that_hangs_is_killed_with_its_group_and_the_next_job_gets_a_new_one() {
    let _watchdog = HangGuard::arm("coprocesses");
    let mut settings = shell("case $line in *hang*) sleep 1000 & sleep 1000;; *) echo 1;; esac");
    // The next job has to meet it, too.
    settings.timeout = Some(Duration::from_secs(3));
    let all = coprocesses(&settings);
    let mut coprocess = all.of_thread();
    let group = AtomicU64::new(0);
    let note = |pid: i32, _| group.store(pid as u64, Ordering::Relaxed);
    let outcome = coprocess.run(job(b"hang"), &note);
    assert_eq!(failure(outcome), ("timed out after 3s".into(), true));
    wait_until("its group to be gone", || group_is_empty(group.load(Ordering::Relaxed) as i32));
    assert_eq!(value(ask(&mut coprocess, "x")), "1");
}

#[test]
fn one_that_dies_with_the_job_in_hand_is_replaced_at_once_and_three_times_at_most() {
    let _watchdog = HangGuard::arm("coprocesses");
    let folder = tempfile::tempdir().expect("can make one");
    let die_once = "if mkdir \"$FOLDER/died\"; then kill -9 $$; fi 2>/dev/null; echo 1";
    let all = coprocesses(&in_folder(folder.path(), die_once));
    assert_eq!(value(ask(&mut all.of_thread(), "x")), "1");
    for (death, why) in [
        ("exit 3", "exit code 3"),
        ("exit 0", "exit code 0"),
        ("kill -9 $$", "ended by SIGKILL"),
        ("kill -SEGV $$", "ended by SIGSEGV"),
        ("printf '{\"a\":'; exit 4", "exit code 4"),
        ("exec >&-; exit 5", "exit code 5"),
        ("sleep 1000 & exit 6", "exit code 6"),
    ] {
        let each = format!("echo $$ >> \"$FOLDER/starts\"; {death}");
        let all = coprocesses(&in_folder(folder.path(), &each));
        let (error, retry) = failure(ask(&mut all.of_thread(), "x"));
        let expected = format!("died 3 times with the job in hand, the last time: {why}");
        assert!(error.ends_with(&expected) && !retry, "{error}");
        let starts = std::fs::read_to_string(folder.path().join("starts")).expect("is there");
        assert_eq!(starts.lines().count(), 3, "{death}");
        for pid in starts.lines() {
            // What it has left behind went with its group.
            wait_until(death, || group_is_empty(pid.parse().expect("a number")));
        }
        std::fs::remove_file(folder.path().join("starts")).expect("is there");
    }
}

#[test]
fn one_that_can_not_even_begin_fails_the_job_with_what_it_ended_with() {
    let _watchdog = HangGuard::arm("coprocesses");
    let all = coprocesses(&settings(&["sh", "-c", "exit 9"]));
    let (error, retry) = failure(ask(&mut all.of_thread(), "x"));
    assert!(error.ends_with("exit code 9") && !retry, "{error}");
}

#[test]
fn one_that_is_ended_by_a_signal_of_a_shutdown_is_interrupted() {
    let _watchdog = HangGuard::arm("coprocesses");
    for signal in ["INT", "TERM", "HUP"] {
        let all = coprocesses(&shell(&format!("kill -{signal} $$; sleep 1000")));
        let outcome = ask(&mut all.of_thread(), "x");
        let Outcome::Interrupted { error } = outcome else { panic!("{outcome:?}") };
        assert_eq!(error, format!("its coprocess was ended by SIG{signal}"));
    }
}

#[test]
fn one_that_ends_after_its_answer_or_between_two_jobs_costs_nothing() {
    let _watchdog = HangGuard::arm("coprocesses");
    let all = coprocesses(&shell("echo 1; exit 7"));
    let mut coprocess = all.of_thread();
    for _ in 0..20 {
        assert_eq!(value(ask(&mut coprocess, "x")), "1");
    }
    let all = coprocesses(&shell("echo 1"));
    let mut coprocess = all.of_thread();
    for _ in 0..5 {
        assert_eq!(value(ask(&mut coprocess, "x")), "1");
        let pid = pid_of(&coprocess);
        crate::sys::process::send(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("is ours");
        wait_until("its end", || proc_fs::stat(pid).is_some_and(|stat| stat.ended()));
        assert_eq!(value(ask(&mut coprocess, "x")), "1");
        assert_ne!(pid_of(&coprocess), pid);
    }
}

#[test]
fn a_long_answer_counts_though_its_writer_has_ended_before_any_of_it_was_read() {
    let _watchdog = HangGuard::arm("coprocesses");
    // Something else still holds its input open, so that the request can be written.
    let script = "exec 3<&0; sleep 1000 3<&3 & printf '\"%050000d\"\\n' 0";
    let all = coprocesses(&settings(&["sh", "-c", script]));
    let mut talk = all.start().expect("starts");
    let pid = talk.pid();
    wait_until("its end", || proc_fs::stat(pid).is_some_and(|stat| stat.ended()));
    let exchanged = talk.exchange(b"{}\n", 1 << 20, None).expect("can wait");
    let Exchanged::Answer(line) = exchanged else { panic!("{exchanged:?}") };
    assert_eq!(line.len(), 50_002);
    all.bury(talk);
}

#[test]
fn a_second_line_for_a_job_ends_the_process_and_is_nobodys_answer() {
    let _watchdog = HangGuard::arm("coprocesses");
    let all = coprocesses(&shell("printf '%s\\n\"surplus\"\\n' $$"));
    let mut coprocess = all.of_thread();
    let mut answers: Vec<String> = (0..10).map(|_| value(ask(&mut coprocess, "x"))).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 10, "each job got a new process: {answers:?}");
    assert!(!answers.contains(&"\"surplus\"".to_owned()));
}

#[test]
fn an_answer_may_have_as_many_bytes_as_allowed_and_not_one_more() {
    let _watchdog = HangGuard::arm("coprocesses");
    // A number does not begin with zeroes, a text may.
    let each = "case $line in *fit*) n=100000;; *) n=100001;; esac; printf '\"%0*d\"\\n' $n 0";
    let mut settings = shell(each);
    settings.max_output = 100_002;
    let all = coprocesses(&settings);
    let mut coprocess = all.of_thread();
    assert_eq!(value(ask(&mut coprocess, "fit")).len(), 100_002);
    let (error, _) = failure(ask(&mut coprocess, "more"));
    assert!(error.contains("more than 100002 bytes"), "{error}");
    assert_eq!(value(ask(&mut coprocess, "fit")).len(), 100_002);
    let all = coprocesses(&shell("yes | tr -d '\\n'"));
    let (error, retry) = failure(ask(&mut all.of_thread(), "x"));
    assert!(error.contains("more than 65536 bytes") && retry, "{error}");
}

#[test]
fn a_flood_of_standard_error_holds_up_nobody_with_a_job_or_without() {
    let _watchdog = HangGuard::arm("coprocesses");
    let folder = tempfile::tempdir().expect("can make one");
    let flood = "head -c 3000000 /dev/zero | tr '\\0' 'x' >&2";
    let lines = "yes | head -c 3000000 >&2";
    let each = format!("{flood}; {lines}; echo 1; {{ {lines}; {flood}; : > \"$FOLDER/done\"; }} &");
    let all = coprocesses(&in_folder(folder.path(), &each));
    let mut coprocess = all.of_thread();
    assert_eq!(value(ask(&mut coprocess, "x")), "1");
    // Nothing is asked meanwhile.
    wait_until("the end of what it says", || folder.path().join("done").exists());
}

#[test]
fn one_that_closes_its_output_or_its_input_and_lives_on_is_ended() {
    let _watchdog = HangGuard::arm("coprocesses");
    let all = coprocesses(&shell("exec >&-; sleep 1000"));
    let (error, _) = failure(ask(&mut all.of_thread(), "x"));
    assert!(error.ends_with("it has closed its standard output and did not end"), "{error}");
    let all = coprocesses(&settings(&["sh", "-c", "exec <&-; sleep 1000"]));
    // The first of them may close it after the request was written: then nobody can tell, and only
    // the time-out ends it.
    let mut coprocess = all.of_thread();
    coprocess.talk = Some(all.start().expect("starts"));
    let stdin = format!("/proc/{}/fd/0", pid_of(&coprocess));
    wait_until("it to close its input", || !Path::new(&stdin).exists());
    let asked = coprocess.ask(job(b"x"), b"{}\n", &|_, _| {});
    let Asked::NotTaken { proven: false, end } = asked else { panic!("it was taken") };
    assert_eq!(end.how, "it has closed its standard input and did not end");
    // One that has answered before is replaced as if it had ended.
    let all = coprocesses(&settings(&["sh", "-c", "read -r line; exec <&-; echo $$; sleep 1000"]));
    let mut coprocess = all.of_thread();
    let first = value(ask(&mut coprocess, "x"));
    assert_ne!(value(ask(&mut coprocess, "x")), first);
    let asked = coprocess.ask(job(b"x"), b"{}\n", &|_, _| {});
    assert!(matches!(asked, Asked::NotTaken { proven: true, .. }));
}

#[test]
fn pipes_that_a_grandchild_holds_open_are_not_waited_for() {
    let _watchdog = HangGuard::arm("coprocesses");
    // In a session of its own it is not in the group either.
    let all = coprocesses(&shell("echo $$; setsid sleep 30 & exit 0"));
    let began = clock::now();
    let mut coprocess = all.of_thread();
    for _ in 0..5 {
        value(ask(&mut coprocess, "x"));
    }
    drop(coprocess);
    assert!(clock::now() - began < Duration::from_secs(20));
    proc_fs::kill_marked(&[&all.run_marker], clock::now() + Duration::from_secs(10));
}

#[test]
fn a_request_and_an_answer_that_no_pipe_holds_are_exchanged_at_the_same_time() {
    let _watchdog = HangGuard::arm("coprocesses");
    let text = "head -c 300000 /dev/zero | tr '\\0' ' '; read -r line; echo ${#line}";
    let mut settings = settings(&["sh", "-c", text]);
    settings.max_output = 1 << 20;
    let all = coprocesses(&settings);
    let mut coprocess = all.of_thread();
    let long = "x".repeat(1 << 20);
    assert_eq!(
        value(ask(&mut coprocess, &long)),
        (long.len() + r#"{"job":"","seq":17,"attempt":1}"#.len()).to_string()
    );
    let all = coprocesses(&self::settings(&["sh", "-c", "echo 1; sleep 1000"]));
    let (error, _) = failure(ask(&mut all.of_thread(), &long));
    assert!(error.contains("before it had read the whole job"), "{error}");
}

#[test]
fn a_program_that_is_not_there_is_named_before_anything_is_started_and_when_it_goes() {
    let _watchdog = HangGuard::arm("coprocesses");
    let error = check(&settings(&["no-such-program-at-all", "x"])).expect_err("is not there");
    assert_eq!(error, "can't start \"no-such-program-at-all\": No such file or directory");
    let error = check(&settings(&["/dev/null"])).expect_err("is no program");
    assert_eq!(error, "can't start \"/dev/null\": Permission denied");
    assert_eq!(check(&settings(&["sh"])), Ok(()));
    let all = coprocesses(&settings(&["/nonexistent/program"]));
    let (error, retry) = failure(ask(&mut all.of_thread(), "x"));
    assert!(error.starts_with("can't start") && retry, "{error}");
}

#[test]
fn at_the_end_its_input_ends_and_it_may_come_to_an_end_by_itself() {
    let _watchdog = HangGuard::arm("coprocesses");
    let folder = tempfile::tempdir().expect("can make one");
    let script =
        "while read -r line; do echo 1; done; head -c 200000 /dev/zero; : > \"$FOLDER/end\"";
    let mut settings = settings(&["sh", "-c", script]);
    settings.env = in_folder(folder.path(), "").env;
    let all = coprocesses(&settings);
    let mut coprocess = all.of_thread();
    value(ask(&mut coprocess, "x"));
    drop(coprocess);
    assert!(folder.path().join("end").exists());
}

#[test]
fn one_that_ignores_the_end_of_its_input_is_killed_with_its_group() {
    let _watchdog = HangGuard::arm("coprocesses");
    let all = coprocesses(&shell("echo 1; sleep 1000 & sleep 1000"));
    let mut coprocess = all.of_thread();
    value(ask(&mut coprocess, "x"));
    let pid = pid_of(&coprocess);
    all.stop.request();
    let began = clock::now();
    drop(coprocess);
    assert!(clock::now() - began >= GRACE);
    wait_until("its group to be gone", || group_is_empty(pid));
    assert!(proc_fs::stat(pid).is_none(), "it was reaped");
}

#[test]
fn a_stop_whose_time_is_nearly_over_gives_no_grace() {
    let all = coprocesses(&settings(&["cat"]));
    assert_eq!(all.grace(), GRACE);
    let mut short = all;
    short.limit = Duration::from_millis(300);
    assert!(short.grace() <= Duration::from_millis(150));
    short.stop.request();
    let over = short.stop.since().expect("was asked for") + short.limit;
    while clock::now() < over {
        std::thread::sleep(over.saturating_sub(clock::now()));
    }
    assert_eq!(short.grace(), Duration::ZERO);
}

#[test]
fn a_result_has_its_fields_in_the_order_that_is_documented() {
    let started = Duration::new(1_769_899_159, 123_456_789);
    let line = |round, outcome: Outcome, dead: bool| {
        let mut line = Vec::new();
        let job = JobRef { round, ..job(b"example.org") };
        let took = Duration::from_millis(12);
        let result = CoprocessResult { job, worker: "check/0", started, took, outcome: &outcome };
        result.encode(&mut line, dead);
        String::from_utf8(line).expect("text")
    };
    let tail = concat!(
        r#""attempt":1,"worker":"check/0","started":"2026-01-31T22:39:19.123456Z","#,
        "\"seconds\":0.012}\n"
    );
    assert_eq!(
        line(None, Outcome::Value("{\"z\": 1}".into()), false),
        format!(r#"{{"job":"example.org","seq":17,"ok":true,"value":{{"z": 1}},{tail}"#)
    );
    let failed = || Outcome::Failed { error: "a\n".into(), timed_out: true, retry: true };
    let begin = r#"{"job":"example.org","seq":17,"round":2,"#;
    assert_eq!(
        line(Some(2), failed(), false),
        format!(r#"{begin}"ok":false,"timed_out":true,"error":"a\n",{tail}"#)
    );
    let tail = tail.replace(r#""attempt":1,"#, "");
    assert_eq!(
        line(Some(2), failed(), true),
        format!(r#"{begin}"reason":"a\n","attempts":1,"timed_out":true,{tail}"#)
    );
}
