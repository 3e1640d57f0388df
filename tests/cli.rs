//! The command line: exit codes, mistakes, second daemons, another pipeline's spool, the log.

mod support;

use serde_json::Value;
use support::place::{OUTPUT, SPOOL, bytes};
use support::verdict::goes_on_to_the_end;
use support::{Balance, Ended, Place, Running, Signal, log};

const LIST: [&str; 2] = ["--jobs", "jobs.txt"];

/// Refused before anything was started: with this code, a reason, and no file made.
#[track_caller]
fn refused(place: &Place, ended: &Ended, code: i32, reason: &str) {
    ended.assert_exit(code);
    let told = ended.stderr.to_lowercase();
    assert!(told.contains(&reason.to_lowercase()), "nothing about {reason}: {}", ended.describe());
    assert!(place.started().is_empty(), "jobs were run\n{}", ended.describe());
}

fn place() -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(10);
    place.work_script("[ -e calm ] || sleep 0.05");
    (place, jobs)
}

#[test]
fn a_list_that_was_done_to_its_end_is_begun_anew_and_the_log_says_so() {
    let (place, _) = place();
    let words = "it is begun anew";
    let first = place.run_work(&[]).finish();
    first.assert_exit(0);
    assert!(!first.stderr.contains(words), "{}", first.describe());
    let again = place.run_work(&[]).finish();
    again.assert_exit(0);
    assert!(again.stderr.contains(words), "{}", again.describe());
    assert_eq!(place.results().len(), 20);
}

#[test]
fn a_file_by_another_of_its_names_is_the_same_pipelines() {
    let (place, jobs) = place();
    std::fs::create_dir(place.path("beside")).expect("a directory");
    let mut gate = place.gate();
    place.work_script("[ -e calm ] || : < gate\n[ \"$1\" != job-1 ]");
    let run = place.run_work(&[]).start();
    run.until_started(1);
    run.signal(Signal::KILL);
    run.wait_for_main();
    place.write("calm", "");
    gate.open();
    let there = ["run", "--jobs", "beside/../jobs.txt", "-o", "beside/../out.jsonl"];
    let command = ["--", "sh", "work.sh", "{}"];
    let ended = place.command(&[&there[..], &command].concat()).finish();
    ended.assert_exit(3);
    assert!(ended.stderr.contains("jobs that have failed for good: 1"), "{}", ended.describe());
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn a_finished_list_exits_with_0() {
    let (place, jobs) = place();
    goes_on_to_the_end(&place, &[], &jobs);
}

#[test]
fn failed_jobs_exit_with_3() {
    let (place, _) = place();
    let ended = place.run(&LIST, &["false"]).finish();
    ended.assert_exit(3);
    assert!(place.results().lines.iter().all(|line| line["ok"] == false && line["exit"] == 1));
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert_eq!((balance.failed, balance.left), (10, 0), "{balance:?}");
}

#[test]
fn a_stop_before_the_end_of_a_list_exits_with_5() {
    let (place, _) = place();
    place.jobs(400);
    let run = place.run_work(&["-P", "2", "-j", "2"]).start();
    run.until_started(4);
    run.signal(Signal::INT);
    run.wait().assert_exit(5);
}

#[test]
fn a_stop_of_an_endless_pipeline_exits_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let (place, jobs) = place();
        let run = place.run_work(&["--every", "1h"]).start();
        run.until_written(jobs.len());
        run.signal(signal);
        let ended = run.wait();
        ended.assert_exit(0);
        log::assert_full_stop(&ended.log(), 2);
        assert!(place.results().lines.iter().all(|line| line["round"].is_u64()));
    }
}

#[test]
fn a_list_that_is_not_to_be_begun_again_is_done_once_however_often_it_is_started() {
    let (place, jobs) = place();
    let config = "[jobs]\nlines = \"jobs.txt\"\nagain = false\n[workers.w]\ncommand = \
                  [\"sh\", \"-c\", \"test {} != job-3\"]\n[output]\nfile = \"out.jsonl\"\n";
    place.write("c.toml", config);
    let run = |options: &[&str]| {
        let ended = place.command(&[&["run", "c.toml"], options].concat()).finish();
        (ended.code, place.results().len(), ended.stderr)
    };
    let (code, count, _) = run(&[]);
    assert_eq!((code, count), (Some(3), jobs.len()));
    for _ in 0..2 {
        let (code, count, log) = run(&[]);
        assert_eq!((code, count), (Some(0), jobs.len()), "{log}");
        assert!(log.contains("--fresh begins it anew"), "{log}");
        assert!(!log.contains("it is begun anew"), "{log}");
    }
    let (code, count, log) = run(&["--fresh"]);
    assert_eq!((code, count), (Some(3), 2 * jobs.len()), "{log}");
    assert_eq!(run(&[]).1, 2 * jobs.len());
}

#[test]
fn jobs_that_failed_in_a_round_of_an_endless_pipeline_change_nothing_about_its_exit() {
    let (place, jobs) = place();
    let options = ["--jobs", "jobs.txt", "--every", "1h"];
    let run = place.run(&options, &["/bin/false"]).start();
    run.until_written(jobs.len());
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
    assert!(place.results().lines.iter().all(|line| line["ok"] == false));
}

#[test]
fn wrong_usage_exits_with_2() {
    let (place, _) = place();
    let wrong: [&[&str]; 9] = [
        &["run", "--jobs", "jobs.txt", "--no-such-option", "--", "true"],
        &["run", "--jobs", "jobs.txt", "-P", "0", "--", "true"],
        &["run", "--jobs", "jobs.txt", "-P", "many", "--", "true"],
        &["run", "--jobs", "jobs.txt", "-j", "0", "--", "true"],
        &["run", "--jobs", "jobs.txt", "--timeout", "soon", "--", "true"],
        &["run", "--jobs", "jobs.txt", "--deadline", "-1s", "--", "true"],
        &["run", "--jobs", "jobs.txt"],
        &["run", "--jobs", "jobs.txt", "--"],
        &["no-such-command"],
    ];
    for args in wrong {
        let before = place.files();
        let ended = place.command(args).finish();
        assert!(!ended.stderr.is_empty(), "no word about it\n{}", ended.describe());
        refused(&place, &ended, 2, "");
        assert_eq!(place.files(), before, "files were made\n{}", ended.describe());
    }
}

#[test]
fn help_and_version_exit_with_0() {
    let place = Place::new();
    let help = place.command(&["--help"]).finish();
    help.assert_exit(0);
    let first: String = help.stdout.lines().take(6).collect();
    let paste = "procsig run --jobs hosts.txt -o pings.jsonl -j 8 --timeout 5s -- ping -c1 {}";
    assert!(first.contains(paste), "the first lines are to be pasted: {}", help.stdout);
    let version = place.command(&["--version"]).finish();
    version.assert_exit(0);
    let first = format!("procsig {}\n", env!("CARGO_PKG_VERSION"));
    assert!(version.stdout.starts_with(&first), "{}", version.stdout);
}

#[test]
fn bash_completes_commands_and_options_with_what_is_printed_for_it() {
    let (place, _) = place();
    let printed = place.command(&["completions", "bash"]).finish();
    printed.assert_exit(0);
    place.write("completions.bash", &printed.stdout);
    let complete = |words: &str, last: usize| {
        let script = format!(
            ". ./completions.bash; COMP_WORDS=({words}); COMP_CWORD={last}; \
             _procsig procsig \"${{COMP_WORDS[{last}]}}\" x 2>/dev/null; echo \"${{COMPREPLY[*]}}\""
        );
        let mut bash = std::process::Command::new("bash");
        let output = bash.args(["-c", &script]).current_dir(place.path("")).output();
        String::from_utf8_lossy(&output.expect("bash").stdout).trim().to_owned()
    };
    assert_eq!(complete("procsig dead", 1), "dead-letters");
    assert_eq!(complete("procsig run --dead", 2), "--deadline");
}

#[test]
fn an_invalid_configuration_exits_with_78_before_anything_starts() {
    let good = "processes = 2\n";
    let wrong = [
        ("proceses = 2\n", "proceses"),
        ("[buffer]\nflush_recrods = 10\n", "flush_recrods"),
        ("[no_such_table]\nx = 1\n", "no_such_table"),
        ("processes = 0\n", "processes"),
        ("processes = \"two\"\n", "two"),
        ("timeout = \"soon\"\n", "timeout"),
        ("[shutdown]\ndeadline = \"1s\"\nflush_reserve = \"2s\"\n", "flush_reserve"),
        ("[shutdown\n", ""),
    ];
    for (tables, reason) in wrong {
        let (place, _) = place();
        place.config("");
        let text = place.read("pings.toml").replace(good, "") + tables;
        place.write("pings.toml", text);
        let before = place.files();
        let ended = place.command(&["run", "pings.toml"]).finish();
        refused(&place, &ended, 78, reason);
        assert_eq!(place.files(), before, "files were made\n{}", ended.describe());
    }
}

#[test]
fn every_mistake_of_a_configuration_is_shown() {
    let (place, _) = place();
    place.config("timeout = \"soon\"\nattempts = 0\n\n[buffer]\nflush_after = \"never\"\n");
    let ended = place.command(&["run", "pings.toml"]).finish();
    for reason in ["soon", "attempts", "never"] {
        refused(&place, &ended, 78, reason);
    }
}

#[test]
fn a_missing_file_exits_with_78() {
    let (place, _) = place();
    refused(&place, &place.command(&["run", "none.toml"]).finish(), 78, "none.toml");
    let ended = place.run(&["--jobs", "none.txt"], &["true"]).finish();
    refused(&place, &ended, 78, "none.txt");
}

/// A run that has done its list and waits for the next hour.
#[track_caller]
fn idle<'a>(place: &'a Place, jobs: &[String]) -> Running<'a> {
    let run = place.run_work(&["--every", "1h"]).start();
    run.until_written(jobs.len());
    run
}

#[test]
fn a_second_daemon_on_the_same_spool_exits_with_75_and_does_no_harm() {
    let (place, jobs) = place();
    let run = idle(&place, &jobs);
    place.run_work(&["--every", "1h"]).finish().assert_exit_beside(75);
    let options = [&LIST[..], &["--spool", SPOOL, "--fresh"]].concat();
    let other =
        place.command(&[&["run", "-o", "other.jsonl"], &options[..], &["--", "true"]].concat());
    other.finish().assert_exit_beside(75);
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn a_second_daemon_on_the_same_output_exits_with_75_and_does_no_harm() {
    let (place, jobs) = place();
    let run = idle(&place, &jobs);
    let options = ["--every", "1h", "--spool", "another.spool"];
    place.run_work(&options).finish().assert_exit_beside(75);
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

#[test]
fn an_output_or_spool_that_cannot_be_written_exits_with_74() {
    let (place, _) = place();
    place.write("file", "");
    std::fs::create_dir(place.path("directory")).expect("a directory");
    let wrong: [(&[&str], &str); 5] = [
        (&["-o", "directory"], "directory"),
        (&["-o", "file/under/out.jsonl"], "file/under"),
        (&["-o", "missing/out.jsonl"], "missing"),
        (&["-o", "fine.jsonl", "--spool", "file/spool"], "file/spool"),
        (&["-o", "fine.jsonl", "--spool", "directory"], "directory"),
    ];
    let mut others = Vec::new();
    for (options, path) in wrong {
        let args = [&["run"], &LIST[..], options, &["--", "sh", "work.sh", "{}"]].concat();
        let ended = place.command(&args).finish();
        ended.assert_nothing_left();
        let told = ended.stderr.contains(path) && place.started().is_empty();
        if ended.code != Some(74) || !told {
            others.push(ended.describe());
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
}

/// A place whose spool has jobs left.
fn place_with_pending_work() -> (Place, Vec<String>) {
    let (place, _) = place();
    let jobs = place.jobs(100);
    place.work_script("[ -e calm ] || sleep 0.2");
    let run = place.run_work(&["-P", "2", "-j", "2"]).start();
    run.until_started(10);
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
    place.write("calm", "");
    (place, jobs)
}

#[test]
fn pending_work_of_another_command_or_list_exits_with_78_and_nothing_is_touched() {
    let (place, jobs) = place_with_pending_work();
    place.write("other.txt", "another\n");
    let files = || (bytes(&place.path(OUTPUT)), bytes(&place.path(SPOOL)), place.files());
    let before = files();
    let harmful = ["sh", "-c", "touch harmed", "{}"];
    let others = [
        place.run(&LIST, &harmful),
        place.run(&["--jobs", "other.txt"], &["sh", "work.sh", "{}"]),
        place.run(&["--jobs", "other.txt"], &harmful),
    ];
    for other in others {
        let ended = other.finish();
        ended.assert_exit(78);
        for way_out in ["--fresh", "--spool"] {
            assert!(ended.stderr.contains(way_out), "no {way_out}: {}", ended.describe());
        }
        assert!(files() == before, "something was touched\n{}", ended.describe());
    }
    // The old command goes on as if nothing had been.
    goes_on_to_the_end(&place, &["-P", "2", "-j", "2"], &jobs);
    place.assert_each_ran_once(&jobs);
}

#[test]
fn a_fresh_run_forgets_the_jobs_and_keeps_what_was_written() {
    let (place, jobs) = place_with_pending_work();
    let before = bytes(&place.path(OUTPUT)).expect("an output");
    let ended = place.run(&[&LIST[..], &["--fresh"]].concat(), &["true"]).finish();
    ended.assert_exit(0);
    let after = bytes(&place.path(OUTPUT)).expect("an output");
    assert!(after.starts_with(&before), "what was there was changed");
    let added = after[before.len()..].iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(added, jobs.len(), "the list was begun anew");
    assert!(!ended.stderr.contains("was done to its end before"), "{}", ended.describe());
}

/// Everything was killed with records in the spool that were not written.
#[test]
fn a_fresh_run_of_another_command_writes_the_records_of_the_one_before_to_the_same_output_only() {
    let place = Place::new();
    let jobs = place.jobs(60);
    place.config("[buffer]\nflush_records = 1000000\nflush_after = \"1h\"\n");
    place.work_script("[ -e calm ] || sleep 0.02; echo old");
    let run = place.start();
    run.until_started(12);
    // Main last, and deaf: nobody is to be started again, nor to write since it is gone.
    run.signal(Signal::STOP);
    for process in run.of_program().iter().rev() {
        process.handle().map(|process| process.send(Signal::KILL));
    }
    run.wait_for_main();
    assert_eq!(place.results().len(), 0, "all of it is in the spool");
    let files = || (bytes(&place.path(OUTPUT)), bytes(&place.path(SPOOL)), place.files());
    let old = place.read("pings.toml");
    let new = old.replace("\"work.sh\"", "\"-c\", \"echo new\"");
    let elsewhere =
        new.replace("out.jsonl", "other.jsonl") + "[spool]\nfile = \".out.jsonl.spool\"\n";
    for (config, options, may_begin_anew) in
        [(&new, &[][..], true), (&elsewhere, &[], false), (&elsewhere, &["--fresh"], false)]
    {
        place.write("pings.toml", config);
        let before = files();
        let ended = place.command(&[&["run", "pings.toml"], options].concat()).finish();
        // Commands of the first run may be at work still.
        ended.assert_exit_beside(78);
        assert_eq!(ended.stderr.contains("--fresh"), may_begin_anew, "{}", ended.describe());
        assert!(files() == before, "something was touched\n{}", ended.describe());
    }
    place.write("pings.toml", &new);
    place.command(&["run", "pings.toml", "--fresh"]).finish().assert_exit(0);
    let results = place.results();
    let of = |what: &str| {
        let is_of = |line: &&serde_json::Value| line["stdout"] == format!("{what}\n");
        let mut seqs: Vec<u64> =
            results.lines.iter().filter(is_of).filter_map(|line| line["seq"].as_u64()).collect();
        seqs.sort_unstable();
        seqs
    };
    assert_eq!(of("new"), (1..=jobs.len() as u64).collect::<Vec<_>>());
    let old = of("old");
    assert!((8..=60).contains(&old.len()), "{} records of the first run", old.len());
    assert!(old.is_sorted_by(|one, next| one < next), "{old:?}");
    assert_eq!(results.len(), jobs.len() + old.len());
}

#[test]
fn lines_of_the_log_can_be_json() {
    let (place, _) = place();
    let ended = place.run_work(&["--log-format", "json"]).finish();
    ended.assert_exit(0);
    let mut last = None;
    for line in ended.stderr.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for key in ["time", "level", "role", "pid", "message"] {
            assert!(value.get(key).is_some(), "no {key} in {line}");
        }
        last = value["message"].as_str().map(str::to_owned);
    }
    let balance = last.as_deref().and_then(Balance::parse);
    balance.expect("the balance in the last line").assert_even();
}

#[test]
fn the_log_can_go_to_a_file_and_be_quiet_or_loud() {
    let (place, _) = place();
    place.write("calm", "");
    place.run_work(&["--log-file", "log.txt"]).finish().assert_exit(0);
    let normal = log::parse(&place.read("log.txt")).len();
    assert!(normal > 0, "nothing in the file");
    let quiet = place.run_work(&["-q"]).finish();
    quiet.assert_exit(0);
    assert!(quiet.log().iter().all(|line| line.level != "INFO"), "{}", quiet.describe());
    let loud = place.run_work(&["-v"]).finish();
    loud.assert_exit(0);
    assert!(loud.log().len() >= normal, "{}", loud.describe());
}

#[test]
fn sigusr1_writes_the_status_to_the_log() {
    let (place, jobs) = place();
    let run = idle(&place, &jobs);
    let before = run.log().len();
    run.signal(Signal::USR1);
    run.until("a line about the status", |run| {
        run.log()[before..].iter().any(|line| line.role == "supervisor").then_some(())
    });
    run.signal(Signal::TERM);
    run.wait().assert_exit(0);
}
