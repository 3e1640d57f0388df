//! Commands started and ended for real.

use super::*;
use crate::sys::process::Ended;
use crate::sys::{clock, pidfd::PidFd};
use nix::sys::signal::Signal;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn line(command: &[&str], environment: &[(&str, &str)]) -> CommandLine {
    let command: Vec<String> = command.iter().map(|text| text.to_string()).collect();
    let environment =
        environment.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    CommandLine::new(&command, &environment, "spawn-test").expect("valid")
}

fn start(line: &CommandLine, job: &str) -> Result<Running, StartError> {
    line.start(job.as_bytes(), c"PROCSIG_JOB=1.0.1", 1 << 20)
}

fn stdout(mut running: Running) -> (Ended, String) {
    let until = clock::now() + Duration::from_secs(60);
    assert_eq!(running.wait(Some(until)).expect("can wait"), Waited::Ended);
    let (ended, [stdout, _]) = running.reap();
    (ended.expect("is our child"), String::from_utf8(stdout.into_parts().0).expect("text"))
}

fn script(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).expect("can write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("is ours");
}

/// Runs the test of this name in a process of its own, with [`IN_CHILD`] set, which ignores
/// the signals that our processes ignore.
fn in_own_process(test: &str) {
    let module = module_path!().split_once("::").expect("in a crate").1;
    let output = Command::new("sh")
        .args(["-c", "trap '' HUP INT QUIT TERM USR1; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("is running"))
        .args(["--exact", &format!("{module}::{test}"), "--test-threads=1", "--nocapture"])
        .env(IN_CHILD, "1")
        .output()
        .expect("can start itself");
    assert!(output.status.success(), "{output:?}");
}

const IN_CHILD: &str = "SPAWN_TEST_IN_CHILD";

fn is_in_child() -> bool {
    std::env::var_os(IN_CHILD).is_some()
}

#[test]
fn each_pair_of_braces_is_replaced_once_and_without_any_the_job_comes_last() {
    let print = line(&["printf", "%s|", "{}", "a{}b{}c", "d"], &[]);
    let (ended, text) = stdout(start(&print, "{}x").expect("starts"));
    assert_eq!((ended, text.as_str()), (Ended::Exited(0), "{}x|a{}xb{}xc|d|"));
    let (_, text) = stdout(start(&line(&["printf", "%s|", "a"], &[]), "--help").expect("is"));
    assert_eq!(text, "a|--help|");
    let (_, text) = stdout(start(&line(&["{}", "x"], &[]), "echo").expect("starts"));
    assert_eq!(text, "x\n");
}

#[test]
fn the_program_is_looked_for_in_the_path_of_the_command_and_again_when_it_moved() {
    let folder = tempfile::tempdir().expect("can make one");
    let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
    for folder in [&first, &second] {
        std::fs::create_dir(folder).expect("is new");
    }
    let path = format!("{}:{}", first.display(), second.display());
    script(&first.join("tool"), "#!/bin/sh\necho first", 0o755);
    let tool = line(&["tool"], &[("PATH", &path)]);
    assert_eq!(stdout(start(&tool, "").expect("starts")).1, "first\n");
    std::fs::remove_file(first.join("tool")).expect("is there");
    script(&second.join("tool"), "#!/bin/sh\necho second", 0o755);
    assert_eq!(stdout(start(&tool, "").expect("starts")).1, "second\n");
    script(&second.join("tool"), "", 0o644);
    let error = start(&tool, "").expect_err("can't be executed").to_string();
    assert_eq!(error, "can't start \"tool\": Permission denied");
}

#[test]
fn a_file_without_an_interpreter_is_not_handed_to_a_shell() {
    let folder = tempfile::tempdir().expect("can make one");
    script(&folder.path().join("plain"), "echo shell", 0o755);
    let name = folder.path().join("plain").display().to_string();
    let error = start(&line(&[&name], &[]), "").expect_err("is no program").to_string();
    assert_eq!(error, format!("can't start {name:?}: Exec format error"));
}

#[test]
fn what_can_be_no_command_is_refused_when_it_is_prepared() {
    let new = |command: &[&str], key: &str| {
        let command: Vec<String> = command.iter().map(|text| text.to_string()).collect();
        let environment = BTreeMap::from([(key.to_owned(), String::new())]);
        CommandLine::new(&command, &environment, "1").map_err(|error| error.kind())
    };
    assert!(new(&["true"], "KEY").is_ok());
    for (command, key) in
        [(&[][..], "KEY"), (&["a\0"], "KEY"), (&["a"], ""), (&["a"], "A=B"), (&["a"], "A\0")]
    {
        assert_eq!(new(command, key).expect_err("not valid"), io::ErrorKind::InvalidInput);
    }
}

#[test]
fn the_markers_replace_those_of_an_outer_run() {
    let environment = [("PROCSIG_RUN", "outer"), ("PROCSIG_JOB", "outer"), ("LANG", "C")];
    let env =
        line(&["sh", "-c", "env | grep -E '^(PROCSIG_(RUN|JOB)|LANG)=' | sort"], &environment);
    let (_, text) = stdout(start(&env, "").expect("starts"));
    assert_eq!(text, "LANG=C\nPROCSIG_JOB=1.0.1\nPROCSIG_RUN=spawn-test\n");
}

#[test]
fn commands_have_default_dispositions_and_an_empty_mask_and_a_group_of_their_own() {
    if !is_in_child() {
        return in_own_process(
            "commands_have_default_dispositions_and_an_empty_mask_and_a_group_of_their_own",
        );
    }
    SigSet::all().thread_block().expect("valid");
    let own = std::fs::read_to_string("/proc/self/status").expect("mounted");
    assert!(!own.contains("SigIgn:\t0000000000000000"));
    let command = "grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2";
    let running = start(&line(&["sh", "-c", command], &[]), "").expect("starts");
    let group = nix::unistd::getpgid(Some(Pid::from_raw(running.pid()))).expect("is there");
    assert_eq!(group.as_raw(), running.pid());
    let (_, text) = stdout(running);
    let masks = text.lines().map(|mask| u64::from_str_radix(mask, 16).expect("a mask"));
    // glibc lets the two signals that it keeps to itself be ignored.
    let reserved = 0b11 << 31;
    assert_eq!(masks.map(|mask| mask & !reserved).collect::<Vec<u64>>(), [0, 0]);
}

#[test]
fn where_the_standard_descriptors_are_closed_the_outputs_still_arrive() {
    if !is_in_child() {
        return in_own_process(
            "where_the_standard_descriptors_are_closed_the_outputs_still_arrive",
        );
    }
    let mut all_right = true;
    // Also with each pair closed alone: then the pipes are born as 1 and 2, or 2 and 1.
    for closed in [&[0][..], &[1], &[2], &[0, 1, 2]] {
        for number in closed {
            let _perhaps_closed_already = nix::unistd::close(*number);
        }
        let print = line(&["sh", "-c", "echo out; echo err >&2; cat"], &[]);
        let mut running = start(&print, "").expect("starts");
        let waited = running.wait(None).ok();
        let (ended, outputs) = running.reap();
        let [stdout, stderr] = outputs.map(|output| output.into_parts().0);
        all_right &= waited == Some(Waited::Ended)
            && ended.ok() == Some(Ended::Exited(0))
            && stdout == b"out\n"
            && stderr == b"err\n"
            && answer_of_cat().is_some_and(|answer| answer == b"a\n");
    }
    for number in 0..=2 {
        let _perhaps_closed_already = nix::unistd::close(number);
    }
    let lowest = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let moved = lowest.and_then(above_standard);
    all_right &= moved.is_ok_and(|fd| {
        fd.as_raw_fd() > 2 && rustix::io::fcntl_getfd(&fd).is_ok_and(|flags| !flags.is_empty())
    });
    // The harness can't print any more.
    std::process::exit(if all_right { 0 } else { 1 });
}

/// Talks once with a command that has a pipe at each of its standard streams.
fn answer_of_cat() -> Option<Vec<u8>> {
    let cat = CommandLine::fixed(&["cat".to_owned()], &BTreeMap::new(), "spawn-test").ok()?;
    let mut piped = cat.start_piped(c"PROCSIG_JOB=x").ok()?;
    let mut answer = Vec::new();
    if piped.write(b"a\n").ok()? == 2 {
        let until = clock::now() + Duration::from_secs(60);
        let _event = piped.wait(false, Some(until)).ok()?;
        piped.read(&mut answer);
    }
    piped.close_input();
    while !piped.wait(false, None).ok()?.ended {
        piped.read(&mut Vec::new());
    }
    (piped.reap().ok()? == Ended::Exited(0)).then_some(answer)
}

#[test]
fn a_talk_without_pidfds_notices_answers_ends_and_time_outs_all_the_same() {
    let talk = |script: &str| {
        let command = ["sh", "-c", script].map(str::to_owned);
        let line = CommandLine::fixed(&command, &BTreeMap::new(), "spawn-test").expect("valid");
        let mut piped = line.start_piped(c"PROCSIG_JOB=x").expect("starts");
        piped.leader.pidfd = None;
        piped
    };
    let mut piped = talk("read -r line; echo \"$line\"; read -r line; exit 3");
    assert_eq!(piped.write(b"a\n").expect("is open"), 2);
    let mut answer = Vec::new();
    assert!(piped.wait(false, None).expect("can wait").output);
    piped.read(&mut answer);
    assert_eq!(answer, b"a\n");
    let soon = Some(clock::now() + Duration::from_millis(20));
    assert_eq!(piped.wait(false, soon).expect("can wait"), piped::Ready::default());
    piped.close_input();
    while !piped.wait(false, None).expect("can wait").ended {
        piped.read(&mut answer);
    }
    assert_eq!(piped.reap().expect("is our child"), Ended::Exited(3));
}

#[test]
fn without_pidfds_the_end_and_the_time_out_are_noticed_all_the_same() {
    let mut running = start(&line(&["sh", "-c", "echo a; exit 3"], &[]), "").expect("starts");
    running.leader.pidfd = None;
    assert_eq!(stdout(running), (Ended::Exited(3), "a\n".to_owned()));
    let mut running = start(&line(&["sleep", "1000", "{}"], &[]), "1").expect("starts");
    running.leader.pidfd = None;
    let until = clock::now() + Duration::from_millis(20);
    assert_eq!(running.wait(Some(until)).expect("can wait"), Waited::Late);
    running.kill_all(&[b"NO=SUCH"], clock::now()).expect("is ours");
    assert_eq!(stdout(running).0, Ended::Signaled(9));
}

#[test]
fn a_command_that_does_not_end_is_given_up_and_reaped_later() {
    let mut running = start(&line(&["sleep", "1000", "{}"], &[]), "1").expect("starts");
    assert_eq!(running.wait(Some(clock::now())).expect("can wait"), Waited::Late);
    let (pid, _) = running.give_up();
    assert!(!reap_given_up(pid));
    let process = PidFd::open(pid.as_raw()).expect("is there");
    process.kill().expect("is ours");
    assert!(process.wait(None).expect("can wait"));
    assert!(reap_given_up(pid));
    assert!(reap_given_up(pid));
}

#[test]
fn a_command_that_can_not_be_signalled_is_an_error_and_not_waited_for() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: a_command_that_can_not_be_signalled needs root");
    }
    // To the kernel user ids belong to threads. This one loses its right to kill root's.
    let process = std::thread::spawn(|| {
        let folder = tempfile::tempdir().expect("can make one");
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours")
        };
        mode(folder.path(), 0o755);
        let setuid = folder.path().join("setpriv");
        std::fs::copy("/usr/bin/setpriv", &setuid).expect("can copy");
        mode(&setuid, 0o4755);
        let command = "echo started; exec sleep 1000";
        let path = setuid.display().to_string();
        let root = line(&[&path, "--reuid", "0", "sh", "-c", command], &[]);
        let nobody = Some(rustix::process::Uid::from_raw(65534));
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("is root");
        let mut running = start(&root, "").expect("starts");
        while running.outputs[0].kept.is_empty() {
            assert!(!running.wait_once(None).expect("can wait"));
        }
        let until = clock::now() + Duration::from_secs(60);
        let killed = running.kill_all(&[b"NO=SUCH"], until).map_err(|error| error.kind());
        assert_eq!(killed, Err(io::ErrorKind::PermissionDenied));
        assert_eq!(running.wait(Some(clock::now())).expect("can wait"), Waited::Late);
        running.give_up().0
    });
    let pid = process.join().expect("no panic");
    nix::sys::signal::kill(pid, Signal::SIGKILL).expect("is root, and it still runs");
    while !reap_given_up(pid) {
        std::thread::yield_now();
    }
}

#[test]
fn a_command_that_is_dropped_is_killed() {
    let running = start(&line(&["sleep", "1000", "{}"], &[]), "1").expect("starts");
    let process = PidFd::open(running.pid()).expect("is there");
    drop(running);
    assert!(process.wait(Some(clock::now() + Duration::from_secs(60))).expect("can wait"));
}

#[test]
fn what_is_refused_for_the_moment_is_tried_again() {
    // A program that is open for writing can't be executed.
    let folder = tempfile::tempdir().expect("can make one");
    let program = folder.path().join("true");
    std::fs::copy("/bin/true", &program).expect("can copy");
    let writer = std::fs::OpenOptions::new().append(true).open(&program).expect("is ours");
    let command = line(&[&program.display().to_string()], &[]);
    let begin = clock::now();
    let error = start(&command, "").expect_err("is being written").to_string();
    assert!(error.ends_with(": Text file busy"), "{error}");
    let pauses = START_PAUSES_MS.iter().sum();
    assert!(clock::now() - begin >= Duration::from_millis(pauses));
    drop(writer);
    assert_eq!(stdout(start(&command, "").expect("starts")).0, Ended::Exited(0));
}

#[test]
fn only_our_end_of_a_pipe_does_not_block_and_both_are_close_on_exec() {
    let (read, write) = pipe().expect("a pipe");
    let nonblocking = [&read, &write].map(|end| {
        let flags = rustix::fs::fcntl_getfl(end).expect("is open");
        assert!(rustix::io::fcntl_getfd(end).is_ok_and(|flags| !flags.is_empty()));
        flags.contains(OFlags::NONBLOCK)
    });
    assert_eq!(nonblocking, [true, false]);
}
