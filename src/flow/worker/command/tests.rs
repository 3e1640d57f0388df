//! Commands run for jobs, and their results read back.

use super::*;
use crate::flow::worker::tests::{HangGuard, wait_until};
use crate::sys::{pidfd::PidFd, proc_fs};
use std::sync::atomic::{AtomicU32, Ordering};

fn run_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{:x}{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn settings(command: &[&str]) -> config::Worker {
    let command = command.iter().map(|text| text.to_string()).collect();
    config::Worker::new("test", config::Run::Command(command))
}

fn runner(settings: &config::Worker) -> CommandRunner {
    CommandRunner::new(settings, "test/0", &run_id()).expect("valid")
}

fn shell(script: &str) -> CommandRunner {
    runner(&settings(&["sh", "-c", script]))
}

fn job(job: &[u8]) -> JobRef<'_> {
    JobRef { job, seq: 17, round: None, attempt: 1 }
}

fn result<'a, 'b>(outcome: &'b CommandOutcome<'a>) -> &'b CommandResult<'a> {
    match outcome {
        CommandOutcome::Done(result)
        | CommandOutcome::Failed { result, .. }
        | CommandOutcome::PutBack { result, .. } => result,
    }
}

fn encoded(result: &CommandResult<'_>) -> serde_json::Value {
    let mut line = Vec::new();
    assert!(result.encode(&mut line, usize::MAX, false));
    assert_eq!(line.pop(), Some(b'\n'));
    assert!(!line.contains(&b'\n'));
    serde_json::from_slice(&line).expect("is JSON")
}

fn reason<'b>(outcome: &'b CommandOutcome<'_>) -> &'b str {
    match outcome {
        CommandOutcome::Done(_) => "done",
        CommandOutcome::Failed { reason, .. } | CommandOutcome::PutBack { reason, .. } => reason,
    }
}

fn run<'a>(runner: &'a CommandRunner, text: &'a [u8]) -> CommandOutcome<'a> {
    runner.run(job(text), &mut |_| {})
}

#[test]
fn a_result_looks_as_it_is_documented() {
    let printf = runner(&settings(&["printf", "%s\n"]));
    let outcome = run(&printf, b"example.org");
    assert!(matches!(outcome, CommandOutcome::Done(_)));
    let mut line = Vec::new();
    let mut result = CommandResult::new(job(b"example.org"), "ping/0");
    (result.ok, result.ended) = (true, Some(Ended::Exited(0)));
    result.stdout = Captured::Text { text: "...".to_owned(), cut: false };
    result.started = Duration::new(1_769_899_159, 123_456_789);
    result.took = Duration::from_millis(12);
    assert!(result.encode(&mut line, usize::MAX, false));
    let expected = concat!(
        r#"{"job":"example.org","seq":17,"ok":true,"exit":0,"stdout":"...","stderr":"","#,
        r#""attempt":1,"worker":"ping/0","started":"2026-01-31T22:39:19.123456Z","#,
        r#""seconds":0.012}"#,
        "\n"
    );
    assert_eq!(String::from_utf8(line).expect("text"), expected);
    let value = encoded(super::tests::result(&outcome));
    assert_eq!(value["stdout"], "example.org\n");
    assert_eq!((&value["ok"], &value["exit"]), (&true.into(), &0.into()));
}

#[test]
fn the_round_is_there_when_it_is_given_and_whole_seconds_stay_numbers() {
    let mut result = CommandResult::new(JobRef { round: Some(3), ..job(b"") }, "a/0");
    for (took, seconds) in [(0, 0.0), (1, 0.000_001), (10_000_000, 10.0), (1_500_000, 1.5)] {
        result.took = Duration::from_micros(took);
        let value = encoded(&result);
        assert_eq!(value["round"], 3);
        assert_eq!(value["seconds"].as_f64(), Some(seconds));
    }
    assert!(encoded(&CommandResult::new(job(b""), "a/0")).get("round").is_none());
}

#[test]
fn exit_codes_and_signals_are_told_apart() {
    let _watchdog = HangGuard::arm("commands");
    let (one, segv, real_time) = (shell("exit 42"), shell("kill -SEGV $$"), shell("kill -35 $$"));
    let outcome = run(&one, b"");
    assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
    assert_eq!(reason(&outcome), "exit code 42");
    assert_eq!(encoded(result(&outcome))["exit"], 42);
    let outcome = run(&segv, b"");
    assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
    assert_eq!(reason(&outcome), "ended by SIGSEGV");
    let value = encoded(result(&outcome));
    assert_eq!(value["signal"], "SIGSEGV");
    assert!(value.get("exit").is_none());
    assert_eq!(encoded(result(&run(&real_time, b"")))["signal"], "SIGRTMIN+1");
    assert_eq!(signal_name(32), "32");
    assert_eq!(signal_name(nix::libc::SIGRTMIN()), "SIGRTMIN");
    assert_eq!(signal_name(-1), "-1");
}

#[test]
fn a_command_that_was_told_to_end_is_put_back_but_not_a_killed_one() {
    let _watchdog = HangGuard::arm("commands");
    for (name, put_back) in
        [("TERM", true), ("INT", true), ("HUP", true), ("KILL", false), ("QUIT", false)]
    {
        let runner = shell(&format!("kill -{name} $$"));
        let outcome = run(&runner, b"");
        assert_eq!(matches!(outcome, CommandOutcome::PutBack { .. }), put_back, "{name}");
        assert_eq!(reason(&outcome), format!("ended by SIG{name}"));
        assert_eq!(encoded(result(&outcome))["signal"], format!("SIG{name}"));
    }
}

#[test]
fn a_time_out_ends_all_that_the_command_started() {
    let _watchdog = HangGuard::arm("commands");
    let mut settings = settings(&[
        "sh",
        "-c",
        "sleep 1000 & setsid sleep 1000 & setsid sh -c 'setsid sleep 1000 & wait' &
        (setsid sh -c 'sleep 1000 & sleep 1000' &)
        setsid env -i sleep 1000 & echo $!; trap '' TERM; sleep 1000",
    ]);
    settings.timeout = Some(Duration::from_secs(2));
    let runner = runner(&settings);
    let mut group = 0;
    let job = JobRef { round: Some(2), ..job(b"x") };
    let outcome = runner.run(job, &mut |started| group = started.group);
    assert_eq!(reason(&outcome), "timed out after 2s");
    assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
    let value = encoded(result(&outcome));
    assert_eq!((&value["timed_out"], &value["ok"]), (&true.into(), &false.into()));
    assert_eq!(value["signal"], "SIGKILL");
    assert!(proc_fs::marked(&[&runner.run_marker]).is_empty());
    assert_eq!(proc_fs::stat(group), None);
    // One without a marker: only its parent shows whose it is.
    let text = value["stdout"].as_str().expect("text");
    let bare: i32 = text.trim().parse().expect("it was started before the time-out");
    let deadline = clock::now() + Duration::from_secs(60);
    if let Ok(process) = PidFd::open(bare) {
        assert!(process.wait(Some(deadline)).expect("can wait"));
    }
}

#[test]
fn what_ends_by_itself_after_its_time_out_has_failed_all_the_same() {
    let late = |ended| {
        let mut result = CommandResult::new(job(b""), "test/0");
        (result.timed_out, result.ended) = (true, Some(ended));
        result.into_outcome(Some(Duration::from_millis(1500)))
    };
    for ended in [Ended::Exited(0), Ended::Signaled(15)] {
        let outcome = late(ended);
        assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
        assert_eq!(reason(&outcome), "timed out after 1.5s");
        assert_eq!(encoded(result(&outcome))["ok"], false);
    }
}

#[test]
fn a_stopped_command_is_killed_at_its_time_out() {
    let _watchdog = HangGuard::arm("commands");
    let mut settings = settings(&["sh", "-c", "kill -STOP $$"]);
    settings.timeout = Some(Duration::from_millis(50));
    let runner = runner(&settings);
    assert_eq!(reason(&run(&runner, b"")), "timed out after 50ms");
}

#[test]
fn a_flood_is_cut_and_marked_and_does_not_block_the_command() {
    let _watchdog = HangGuard::arm("commands");
    let mut settings = settings(&[
        "sh",
        "-c",
        "head -c 10000000 /dev/zero | tr '\\0' a; head -c 9 /dev/zero | tr '\\0' b >&2; echo ok >&2",
    ]);
    for max in [0, 1, 4096, 5000, 65536, 100_000] {
        settings.max_output = max;
        let runner = runner(&settings);
        let outcome = run(&runner, b"");
        assert!(matches!(outcome, CommandOutcome::Done(_)), "{outcome:?}");
        let value = encoded(result(&outcome));
        assert_eq!(value["stdout"], "a".repeat(max as usize));
        assert_eq!(value["stdout_cut"], true);
        assert_eq!(value["stderr"], "bbbbbbbbbok\n"[..12.min(max as usize)]);
        assert_eq!(value.get("stderr_cut").is_some(), max < 12);
    }
}

#[test]
fn output_is_exact_up_to_the_last_byte_that_is_kept() {
    let _watchdog = HangGuard::arm("commands");
    let mut settings = settings(&["sh", "-c", "head -c 70000 /dev/zero | tr '\\0' a"]);
    for (max, cut) in [(69_999, true), (70_000, false), (70_001, false), (u64::MAX, false)] {
        settings.max_output = max;
        let runner = runner(&settings);
        let value = encoded(result(&run(&runner, b"")));
        assert_eq!(value["stdout"].as_str().map(str::len), Some(max.min(70_000) as usize));
        assert_eq!(value.get("stdout_cut").is_some(), cut);
    }
}

#[test]
fn text_that_is_cut_within_a_character_stays_text() {
    let mut settings = settings(&["printf", "%s"]);
    for (max, kept) in [(1, ""), (2, "ä"), (3, "ä"), (5, "ä€"), (8, "ä€"), (9, "ä€😀")]
    {
        settings.max_output = max;
        let runner = runner(&settings);
        let value = encoded(result(&run(&runner, "ä€😀".as_bytes())));
        assert_eq!(value["stdout"], kept);
        assert_eq!(value.get("stdout_cut").is_some(), max < 9);
    }
}

#[test]
fn bytes_that_are_no_text_are_kept_exactly() {
    let printf = runner(&settings(&["printf", "%s"]));
    let bytes: Vec<u8> = (1..=255).collect();
    let outcome = run(&printf, &bytes);
    let value = encoded(result(&outcome));
    for key in ["job_base64", "stdout_base64"] {
        let text = value[key].as_str().expect("is there");
        assert_eq!(BASE64.decode(text).expect("base64"), bytes);
    }
    assert!(value.get("job").is_none() && value.get("stdout").is_none());
    assert_eq!(value["stderr"], "");
}

#[test]
fn a_job_is_one_argument_whatever_it_holds() {
    let printf = runner(&settings(&["printf", "%s|"]));
    for text in ["; rm -rf /", "--help", "$(x)", "a b", "", "\u{1b}[31m\n\t\u{7f}", "{}", "'\""] {
        let value = encoded(result(&run(&printf, text.as_bytes())));
        assert_eq!(value["stdout"], format!("{text}|"));
        assert_eq!(value["job"], text);
    }
}

#[test]
fn what_can_not_be_started_has_failed_with_the_reason() {
    let printf = runner(&settings(&["printf", "%s"]));
    let mut starts = 0;
    let outcome = printf.run(job(b"a\0b"), &mut |_| starts += 1);
    assert!(matches!(outcome, CommandOutcome::Failed { retryable: false, .. }));
    assert!(reason(&outcome).contains("NUL"));
    assert_eq!(encoded(result(&outcome))["job"], "a\0b");
    let missing = runner(&settings(&["procsig-no-such-program"]));
    let outcome = missing.run(job(b"a"), &mut |_| starts += 1);
    assert!(matches!(outcome, CommandOutcome::Failed { retryable: true, .. }));
    let value = encoded(result(&outcome));
    let error = "can't start \"procsig-no-such-program\": No such file or directory";
    assert_eq!(value["error"], error);
    assert_eq!(value["ok"], false);
    assert!(value.get("exit").is_none() && value.get("signal").is_none());
    let long = vec![b'a'; 1 << 20];
    assert!(reason(&run(&printf, &long)).ends_with("Argument list too long"));
    assert_eq!(starts, 0);
}

#[test]
fn what_a_command_leaves_behind_is_left_alone_and_does_not_hold_up_the_job() {
    let _watchdog = HangGuard::arm("commands");
    let runner = shell("sleep 1000 & yes >&2 & echo done");
    let outcome = run(&runner, b"");
    assert_eq!(encoded(result(&outcome))["stdout"], "done\n");
    // `yes` may have noticed already that nobody reads it; `sleep` has its environment in a moment.
    wait_until("what it has left", || !proc_fs::marked(&[&runner.run_marker]).is_empty());
    let left = proc_fs::marked(&[&runner.run_marker]);
    assert!(!left.is_empty() && left.len() <= 2, "{left:?}");
    proc_fs::kill_marked(&[&runner.run_marker], clock::now() + Duration::from_secs(60));
    assert!(proc_fs::marked(&[&runner.run_marker]).is_empty());
}

#[test]
fn a_command_that_closes_its_outputs_is_waited_for() {
    let _watchdog = HangGuard::arm("commands");
    let runner = shell("exec >&- 2>&-; sleep 0.05; exit 7");
    assert_eq!(reason(&run(&runner, b"")), "exit code 7");
}

#[test]
fn a_command_that_reads_its_own_output_still_times_out() {
    let _watchdog = HangGuard::arm("commands");
    let mut settings = settings(&["sh", "-c", "while :; do echo a; done & cat /dev/stdout"]);
    settings.timeout = Some(Duration::from_millis(200));
    assert_eq!(reason(&run(&runner(&settings), b"")), "timed out after 200ms");
}

#[test]
fn the_started_command_is_named_by_pid_start_time_and_group() {
    let runner = shell("cut -d' ' -f1,5,22 /proc/$$/stat");
    let mut named = None;
    let outcome = runner.run(job(b""), &mut |started| named = Some(started));
    let Started { pid, start_time, group } = named.expect("was started");
    let expected = format!("{pid} {group} {start_time}\n");
    assert_eq!(encoded(result(&outcome))["stdout"], expected);
}

#[test]
fn commands_of_several_threads_inherit_three_descriptors_and_leave_none_behind() {
    let _watchdog = HangGuard::arm("commands");
    let name = "commands_of_several_threads_inherit_three_descriptors_and_leave_none_behind";
    // In a process of its own, or other tests' descriptors would be counted.
    if std::env::var_os("COMMAND_TEST_IN_CHILD").is_none() {
        let module = module_path!().split_once("::").expect("in a crate").1;
        let output = std::process::Command::new(std::env::current_exe().expect("is running"))
            .args(["--exact", &format!("{module}::{name}"), "--test-threads=1"])
            .env("COMMAND_TEST_IN_CHILD", "1")
            .output()
            .expect("can start itself");
        return assert!(output.status.success(), "{output:?}");
    }
    let count = || std::fs::read_dir("/proc/self/fd").expect("mounted").count();
    let command = ["sh", "-c", "echo /proc/self/fd/*"];
    // What the test program was itself started with, it passes on; the rest are the three, and
    // the folder that is being listed.
    let own = std::process::Command::new(command[0]).args(&command[1..]).output();
    let own = String::from_utf8(own.expect("starts").stdout).expect("text");
    let list = runner(&settings(&command));
    let before = count();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(encoded(result(&run(&list, b"")))["stdout"], own);
                }
            });
        }
    });
    assert_eq!(count(), before);
    assert!(proc_fs::children(std::process::id() as i32).is_empty());
}

/// A small generator; the same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn captured(&mut self) -> Captured {
        let length = self.below(300);
        let cut = self.below(4) == 0;
        if self.below(3) == 0 {
            let bytes = (0..length).map(|_| self.below(256) as u8).chain([0xFF]).collect();
            return Captured::Bytes { bytes, cut };
        }
        let characters =
            ['a', '"', '\\', '\n', '\u{0}', '\u{1f}', '\u{7f}', 'ä', '€', '😀', '\u{8}'];
        let text = (0..length).map(|_| characters[self.below(characters.len())]).collect();
        Captured::Text { text, cut }
    }
}

#[test]
fn a_line_is_never_longer_than_allowed_and_holds_the_beginning_of_each_output() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..3000 {
        let mut result = CommandResult::new(job(b"j\"\xC3\xA4"), "test/0");
        (result.stdout, result.stderr) = (random.captured(), random.captured());
        let mut whole = Vec::new();
        assert!(result.encode(&mut whole, usize::MAX, false));
        let size_max = random.below(whole.len() + 10);
        let mut line = b"before".to_vec();
        let fits = result.encode(&mut line, size_max, false);
        let line = line.strip_prefix(b"before").expect("is appended");
        assert_eq!(fits, line.len() <= size_max);
        if whole.len() <= size_max {
            assert_eq!(line, whole);
        }
        let value: serde_json::Value = serde_json::from_slice(line).expect("is JSON");
        for (key, captured) in [("stdout", &result.stdout), ("stderr", &result.stderr)] {
            let (kept, all, was_cut) = match captured {
                Captured::Text { text, cut } => {
                    (value[key].as_str().expect("text").into(), text.as_bytes(), *cut)
                }
                Captured::Bytes { bytes, cut } => {
                    let text = value[format!("{key}_base64")].as_str().expect("base64");
                    (BASE64.decode(text).expect("base64"), bytes.as_slice(), *cut)
                }
            };
            assert!(all.starts_with(&kept));
            let is_cut = value.get(format!("{key}_cut")).is_some();
            assert!(is_cut == (was_cut || kept.len() < all.len()) || !fits);
            assert!(fits || kept.is_empty());
        }
        // Nothing is thrown away without need.
        assert!(!fits || whole.len() <= size_max || size_max - line.len() < 50);
    }
}
