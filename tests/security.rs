//! Who else is on the machine, and what a job may say: files and links that somebody has planted, the modes
//! of files, jobs that look like something else, and what is shown of secrets. SECURITY.md says what of it is
//! promised.

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use support::place::{OUTPUT, SPOOL};
use support::{Ended, Place, Signal, needs, tool};

/// Somebody who is neither root nor whoever runs the tests.
const STRANGER: u32 = 54_321;

#[track_caller]
fn give_away(path: &Path) {
    lchown(path, Some(STRANGER), Some(STRANGER)).expect("root may");
}

#[track_caller]
fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("our own");
}

/// With a file for each thing that is written.
const FILES: &str =
    "[dead_letters]\nfile = \"dead.jsonl\"\n[log]\nfile = \"log.txt\"\nlevel = \"info\"\n";

fn place(jobs: usize, tables: &str) -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(jobs);
    place.work_script("");
    place.config(tables);
    (place, jobs)
}

#[track_caller]
fn run(place: &Place) -> Ended {
    place.command(&["run", "pings.toml"]).finish()
}

// Modes.

#[test]
fn files_are_as_private_as_it_is_documented_and_as_the_mask_says() {
    for (mask, public, log) in [("000", 0o644, 0o640), ("027", 0o640, 0o640), ("077", 0o600, 0o600)]
    {
        let (place, jobs) = place(60, FILES);
        place.work_script("[ $1 != job-2 ]");
        let rotated = "file = \"out.jsonl\"\nrotate_bytes = \"4KiB\"";
        place
            .write("pings.toml", place.read("pings.toml").replace("file = \"out.jsonl\"", rotated));
        let wrapper = ["sh", "-c", &format!("umask {mask}; exec \"$@\""), "sh"];
        let ended = place.command(&["run", "pings.toml"]).under(&wrapper).finish();
        ended.assert_exit(3);
        let mode = |name: &str| {
            let metadata = std::fs::metadata(place.path(name));
            metadata.unwrap_or_else(|error| panic!("{name}: {error}")).mode() & 0o7777
        };
        assert_eq!(mode(SPOOL), 0o600, "the spool, with mask {mask}");
        assert_eq!(mode("log.txt"), log, "the log, with mask {mask}");
        let rotated = place.rotated();
        assert!(!rotated.is_empty() && jobs.len() == 60);
        let rotated = rotated.iter().map(String::as_str);
        for name in rotated.chain([OUTPUT, "dead.jsonl"]) {
            assert_eq!(mode(name), public, "{name}, with mask {mask}");
        }
    }
}

// What others have planted.

/// Each file that is written, and what the message about it begins with.
const PLANTED: [(&str, &str); 3] = [
    (OUTPUT, "can't open the output"),
    ("dead.jsonl", "can't open the output"),
    ("log.txt", "can't open the log"),
];

#[test]
fn a_link_of_somebody_else_is_not_followed_wherever_it_was_planted() {
    let test = "a_link_of_somebody_else_is_not_followed_wherever_it_was_planted";
    if !needs(test, &["root"]) {
        return;
    }
    for (name, what) in PLANTED {
        for target in ["precious", "not there"] {
            let (place, _) = place(2, FILES);
            place.write("precious", "mine\n");
            symlink(target, place.path(name)).expect("a link");
            give_away(&place.path(name));
            let ended = run(&place);
            ended.assert_exit(74);
            assert!(ended.stderr.contains(what), "{}", ended.describe());
            let why = "it is a symbolic link of user 54321";
            assert!(ended.stderr.contains(why), "{name}: {}", ended.describe());
            assert!(!ended.stderr.contains("Give this user the right"), "{}", ended.describe());
            assert_eq!(place.read("precious"), "mine\n", "written through {name}");
            assert!(!place.path("not there").exists(), "created through {name}");
            assert!(place.started().is_empty());
        }
    }
}

#[test]
fn ones_own_link_at_the_output_is_followed_and_at_the_spool_is_refused() {
    let (place, jobs) = place(2, "");
    std::fs::create_dir(place.path("far")).expect("a directory");
    symlink("far/results", place.path(OUTPUT)).expect("a link");
    run(&place).assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    assert!(place.path(OUTPUT).is_symlink() && place.path("far/results").is_file());
    std::fs::rename(place.path(SPOOL), place.path("far/spool")).expect("moved");
    symlink("far/spool", place.path(SPOOL)).expect("a link");
    let ended = run(&place);
    ended.assert_exit(74);
    assert!(ended.stderr.contains("can't open the spool: it is a symbolic link"));
}

#[test]
fn a_file_of_somebody_else_is_not_taken_where_everybody_may_put_files() {
    let test = "a_file_of_somebody_else_is_not_taken_where_everybody_may_put_files";
    if !needs(test, &["root"]) {
        return;
    }
    for mode in [0o1777, 0o777] {
        for (name, what) in PLANTED {
            for fifo in [false, true] {
                let (place, _) = place(2, FILES);
                // Somebody reads it, so that it could be written to.
                let _reader = fifo.then(|| place.pipe(name));
                if !fifo {
                    place.write(name, "");
                }
                give_away(&place.path(name));
                set_mode(&place.path(""), mode);
                let place_of_spool = place.read("pings.toml") + "[spool]\nfile = \"the.spool\"\n";
                place.write("pings.toml", place_of_spool);
                let ended = run(&place);
                ended.assert_exit(74);
                assert!(ended.stderr.contains(what), "{name}: {}", ended.describe());
                let why = "it belongs to user 54321, and everybody may put files";
                assert!(ended.stderr.contains(why), "{name}: {}", ended.describe());
            }
        }
    }
}

#[test]
fn a_spool_of_somebody_else_is_not_trusted_and_not_touched() {
    let test = "a_spool_of_somebody_else_is_not_trusted_and_not_touched";
    if !needs(test, &["root"]) {
        return;
    }
    let (place, _) = place(2, "");
    run(&place).assert_exit(0);
    give_away(&place.path(SPOOL));
    let before = std::fs::read(place.path(SPOOL)).expect("a spool");
    let ended = run(&place);
    ended.assert_exit(74);
    assert!(ended.stderr.contains("the spool is not trusted: it belongs to user 54321"));
    assert!(std::fs::read(place.path(SPOOL)).expect("a spool") == before);
    assert_eq!(std::fs::metadata(place.path(SPOOL)).expect("there").uid(), STRANGER);
}

/// The name under which a spool is built has the number of the process in it, and can be foreseen.
#[test]
fn a_link_planted_where_the_spool_is_built_is_not_followed() {
    let (place, jobs) = place(2, "");
    place.write("precious", "mine\n");
    let plant = format!("ln -s precious {SPOOL}.new-$$; exec \"$@\"");
    let wrapper = ["sh", "-c", &plant, "sh"];
    place.command(&["run", "pings.toml"]).under(&wrapper).finish().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
    assert_eq!(place.read("precious"), "mine\n");
    assert!(!place.path(SPOOL).is_symlink());
}

/// An administrator looks into somebody's directory: a link there must not lead to another pipeline, and
/// least of all stop it.
#[test]
fn status_and_stop_follow_no_link_of_somebody_else_to_another_pipeline() {
    let test = "status_and_stop_follow_no_link_of_somebody_else_to_another_pipeline";
    if !needs(test, &["root"]) {
        return;
    }
    let (place, _) = place(4, "");
    let mut gate = place.gate();
    place.work_script(": < gate");
    let running = place.start();
    running.until_started(4);
    std::fs::create_dir(place.path("theirs")).expect("a directory");
    let planted = place.path("theirs/.results.jsonl.spool");
    symlink(place.path(SPOOL), &planted).expect("a link");
    let program = place.program.to_str().expect("UTF-8");
    let planted_name = planted.to_str().expect("UTF-8");
    let own = tool(program, &["status", planted_name]);
    assert!(own.status.success(), "one's own link is followed: {own:?}");
    give_away(&planted);
    for command in ["status", "stop", "timeline"] {
        let told = tool(program, &[command, planted_name]);
        let said = String::from_utf8_lossy(&told.stderr).into_owned();
        assert_eq!(told.status.code(), Some(74), "{command}: {said}");
        assert!(said.contains("it is a symbolic link of user 54321"), "{command}: {said}");
    }
    assert!(!running.stderr().contains("stop requested"), "{}", running.describe());
    gate.open();
    running.wait().assert_exit(0);
}

#[test]
fn a_directory_that_everybody_may_change_is_warned_of_once_and_a_sticky_one_is_not() {
    for (mode, warnings) in [(0o755, 0), (0o1777, 0), (0o777, 1)] {
        let (place, jobs) = place(2, "");
        set_mode(&place.path(""), mode);
        let ended = run(&place);
        ended.assert_exit(0);
        let said = "every user may remove and replace files in this directory";
        assert_eq!(ended.stderr.matches(said).count(), warnings, "{mode:o}: {}", ended.describe());
        place.results().assert_exactly_once(&jobs);
    }
}

/// Where files are dropped by others, they could have them moved to wherever root may write.
#[test]
fn files_that_are_done_are_moved_into_no_folder_that_somebody_else_has_planted() {
    let test = "files_that_are_done_are_moved_into_no_folder_that_somebody_else_has_planted";
    if !needs(test, &["root"]) {
        return;
    }
    for link in [true, false] {
        let place = Place::new();
        for folder in ["in", "precious"] {
            std::fs::create_dir(place.path(folder)).expect("a directory");
        }
        place.write("in/a", "");
        match link {
            true => symlink("../precious", place.path("in/done")).expect("a link"),
            false => std::fs::create_dir(place.path("in/done")).expect("a directory"),
        }
        give_away(&place.path("in/done"));
        let text = "[jobs]\ndirectory = \"in\"\nonce = true\n[output]\nfile = \"out.jsonl\"\n\
                    [workers.w]\ncommand = [\"true\", \"{}\"]\n";
        place.write("pings.toml", text);
        let ended = run(&place);
        assert_ne!(ended.code, Some(0), "{}", ended.describe());
        assert!(ended.stderr.contains("can't use the folder"), "{}", ended.describe());
        assert!(ended.stderr.contains("user 54321"), "{}", ended.describe());
        assert!(place.path("in/a").exists() && !place.path("precious/a").exists());
    }
}

// What jobs say.

/// Texts that would steer a terminal, or be taken for something else.
const NASTY: [&str; 10] = [
    "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{202e}x",
    "; rm -rf /",
    "--help",
    "$(touch harmed)",
    "\u{9b}31m",
    "a\rb\u{8}\u{7f}",
    "\u{202e}desrever\u{2066}",
    "2026-01-31T22:39:19.123456Z INFO  supervisor[1] done in 0.000s: all is well",
    "\u{2028}2026-01-31T22:39:19.123456Z ERROR supervisor[1] forged",
    "{\"level\":\"ERROR\",\"message\":\"forged\"}",
];

/// Nothing that is printed steers a terminal, and no line is another's.
#[track_caller]
fn assert_harmless(text: &str, context: &str) {
    for line in text.lines() {
        let bad = |it: char| it.is_control() || ('\u{202a}'..='\u{202e}').contains(&it);
        assert!(!line.contains(bad), "{line:?} in {context}");
        assert!(!line.starts_with("2026-01-31"), "forged: {line:?} in {context}");
    }
}

#[test]
fn whatever_a_job_or_its_command_says_it_forges_no_line_of_the_log_and_steers_no_terminal() {
    let place = Place::new();
    place.work_script("printf '%s\\n' \"$1\" >&2; [ -e calm ] || sleep 60; exit 1");
    let options = ["-P", "1", "-j", "1", "--deadline", "2s", "-v"];
    // For the first, it is stopped: whom a stop has waited for is named.
    place.write("jobs.txt", NASTY[0]);
    let running = place.run_work(&options).start();
    running.until_started(1);
    running.signal(Signal::TERM);
    let ended = running.wait();
    ended.assert_exit(4);
    ended.log();
    assert_harmless(&ended.stderr, "the log");
    let said = ": \\x1b[2J\\x1b]0;title\\x07\\x9b31m\\u{202e}x);";
    assert!(ended.stderr.contains(said), "{}", ended.describe());
    place.write("jobs.txt", NASTY.join("\n"));
    place.write("calm", "");
    let ended = place.run_work(&options).finish();
    ended.assert_exit(3);
    ended.log();
    assert_harmless(&ended.stderr, "the log");
    place.results().assert_exactly_once(&NASTY.map(str::to_owned));
    assert!(!place.path("harmed").exists(), "a shell saw the job");
}

#[test]
fn what_a_coprocess_says_and_files_are_called_is_harmless_in_the_log_too() {
    let place = Place::new();
    std::fs::create_dir(place.path("in")).expect("a directory");
    // The last is too long for a job, and so is named in the log.
    let forged = format!("\n2026-01-31T22:39:19.123456Z ERROR supervisor[1] {}", "x".repeat(150));
    let names = ["a\nb", "\u{1b}[2J", "-rf", "; touch harmed", "\u{202e}gpj.exe", &forged];
    for name in names {
        place.write(&format!("in/{name}"), "");
    }
    place.write("nasty", NASTY.join("\n") + "\n");
    let script = "while read -r line; do cat nasty >&2; echo no answer; done";
    place.write(
        "pings.toml",
        format!(
            "[jobs]\ndirectory = \"in\"\nonce = true\n[output]\nfile = \"out.jsonl\"\n\
             [workers.\"w\"]\ncoprocess = [\"sh\", \"-c\", {script:?}]\nprocesses = 1\nthreads = 1\n\
             [spool]\njob_bytes = \"128\"\n[log]\nlevel = \"debug\"\n"
        ),
    );
    let ended = run(&place);
    ended.assert_exit(3);
    ended.log();
    assert_harmless(&ended.stderr, "the log");
    let left_alone = "/\\n2026-01-31T22:39:19.123456Z ERROR supervisor[1] x";
    assert!(ended.stderr.contains(left_alone), "{}", ended.describe());
    assert!(ended.stderr.contains(": \\x1b[2J\\x1b]0;title\\x07"), "{}", ended.describe());
    assert_eq!(place.results().len(), names.len() - 1);
}

#[test]
fn what_is_shown_of_a_job_in_hand_steers_no_terminal() {
    let place = Place::new();
    place.write("jobs.txt", NASTY.join("\n"));
    let mut gate = place.gate();
    place.work_script(": < gate");
    let running = place.run_work(&["-P", "1", "-j", "10"]).start();
    running.until_started(NASTY.len());
    let program = place.program.to_str().expect("UTF-8");
    let spool = place.path(SPOOL);
    let spool = spool.to_str().expect("UTF-8");
    let deadline = ["stop", "--timeout", "1ms", spool];
    for arguments in [&["status", spool][..], &["status", "--json", spool], &["timeline", spool]] {
        let told = tool(program, arguments);
        assert!(told.status.success(), "{told:?}");
        assert_harmless(&String::from_utf8_lossy(&told.stdout), &format!("{arguments:?}"));
    }
    let told = tool(program, &deadline);
    assert_harmless(&String::from_utf8_lossy(&told.stdout), "stop");
    gate.open();
    running.wait().assert_exit(0);
}

/// To a person they are shown, to a file they go as they are.
#[test]
fn dead_letters_on_a_terminal_are_escaped_and_in_a_pipe_they_are_the_jobs() {
    if !needs("dead_letters_on_a_terminal_are_escaped", &["script"]) {
        return;
    }
    let (place, _) = place(1, "[dead_letters]\nfile = \"dead.jsonl\"\n");
    place.write("jobs.txt", "\u{1b}[2Jboo\n");
    place.work_script("exit 1");
    run(&place).assert_exit(3);
    let dead = place.path("dead.jsonl");
    let program = place.program.to_str().expect("UTF-8");
    let piped = tool(program, &["dead-letters", dead.to_str().expect("UTF-8")]);
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "\u{1b}[2Jboo\n");
    let line = format!("{program} dead-letters {}", dead.display());
    let seen = tool("script", &["-qec", &line, "/dev/null"]);
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("\\x1b[2Jboo") && !seen.contains('\u{1b}'), "{seen:?}");
}

// What is known of secrets.

#[test]
fn commands_have_the_environment_of_main_what_is_declared_and_two_markers() {
    let (place, _) = place(1, "env = { ADDED = \"1\", CHANGED = \"new\" }\n");
    place.work_script("env");
    let marker = format!("{}={}", support::MARKER, place.name);
    let path = format!("PATH={}", std::env::var("PATH").expect("a PATH"));
    let given = ["env", "-i", &marker, &path, "KEPT=1", "CHANGED=old"];
    // What is for procsig is for nobody that it starts.
    let more = ["NOTIFY_SOCKET=@nobody", "WATCHDOG_USEC=60000000", "WATCHDOG_PID=1"];
    let wrapper = [&given[..], &more].concat();
    place.command(&["run", "pings.toml"]).under(&wrapper).finish().assert_exit(0);
    let results = place.results();
    let text = results.of(1)["stdout"].as_str().expect("output").to_owned();
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split('=').next()).collect();
    // The shell adds PWD, OLDPWD, SHLVL and _ by itself.
    let of_shell = ["PWD", "OLDPWD", "SHLVL", "_"];
    let names: Vec<&str> = names.into_iter().filter(|name| !of_shell.contains(name)).collect();
    let expected =
        ["ADDED", "CHANGED", "KEPT", "PATH", "PROCSIG_JOB", "PROCSIG_RUN", support::MARKER];
    assert_eq!(names, expected, "{text}");
    assert!(text.contains("CHANGED=new"), "{text}");
}

#[test]
fn no_environment_is_shown_in_log_status_or_timeline_nor_kept_in_the_spool() {
    let (place, _) =
        place(4, "env = { TOKEN = \"hunter2-${SECRET}\" }\n[log]\nlevel = \"trace\"\n");
    let mut gate = place.gate();
    // Jobs that succeed, one that fails, and one that can't be started.
    place.work_script(": < gate; [ \"$TOKEN\" = hunter2-hunter3 ] || echo no; [ $1 != job-2 ]");
    let running = place.command(&["run", "pings.toml"]).env("SECRET", "hunter3").start();
    running.until_started(4);
    running.signal(Signal::USR1);
    running.until_logged("jobs");
    let program = place.program.to_str().expect("UTF-8");
    let spool = place.path(SPOOL);
    let spool_name = spool.to_str().expect("UTF-8");
    let mut shown = Vec::new();
    for arguments in [
        &["status", "--all", spool_name][..],
        &["status", "--all", "--json", spool_name],
        &["timeline", "--json", spool_name],
    ] {
        let told = tool(program, arguments);
        assert!(told.status.success(), "{told:?}");
        shown.extend(told.stdout);
    }
    shown.extend(std::fs::read(&spool).expect("the spool"));
    gate.open();
    let ended = running.wait();
    ended.assert_exit(3);
    shown.extend(std::fs::read(&spool).expect("the spool"));
    shown.extend(ended.stderr.as_bytes());
    shown.extend(place.read(OUTPUT).as_bytes());
    assert!(!place.read(OUTPUT).contains("no\\n"), "the command has it");
    let found = ["hunter2", "hunter3"]
        .into_iter()
        .find(|secret| shown.windows(secret.len()).any(|window| window == secret.as_bytes()));
    assert_eq!(found, None, "{}", ended.describe());
}
