//! Outputs and spools that somebody removes, moves or cuts while they are in use: what others remove is
//! gone, all else is there once, and nothing happens in silence.

mod support;

use support::place::{OUTPUT, SPOOL};
use support::{Balance, Ended, Place, Running, Signal, example, needs, tool};

/// A pipeline of that many jobs that take a moment each, of which the last waits at the gate.
fn place(jobs: usize) -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(jobs);
    place.config("[buffer]\nflush_records = 4\nflush_after = \"20ms\"\n");
    let last = jobs.last().expect("a job");
    place.work_script(&format!("sleep 0.005; [ $1 != {last} ] || : < gate"));
    (place, jobs)
}

fn seqs(text: &str, ended: &Ended) -> Vec<u64> {
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["seq"].as_u64();
    let number = |line| number(line).unwrap_or_else(|| panic!("{line:?}\n{}", ended.describe()));
    let mut seqs: Vec<u64> = text.lines().map(number).collect();
    seqs.sort_unstable();
    seqs
}

/// All results but the last, which waits, are written.
fn until_all_but_one(run: &Running<'_>, jobs: &[String], written: impl Fn() -> usize) {
    run.until("all but the last", |_| (written() == jobs.len() - 1).then_some(()));
}

fn lines(text: &str) -> usize {
    text.lines().count()
}

// Row 22: the output.

#[test]
fn an_output_that_is_removed_is_said_to_be_and_gone_on_with_in_a_new_file() {
    let (place, jobs) = place(200);
    let mut gate = place.gate();
    let run = place.start();
    run.until_written(20);
    std::fs::remove_file(place.path(OUTPUT)).expect("remove it");
    // What is noticed at a flush is noticed at that of the last job at the latest.
    gate.open();
    run.until_logged("was removed, and what was written to it is gone with it");
    let ended = run.wait();
    ended.assert_exit(0);
    Balance::of(&ended.log()).assert_even();
    let there = seqs(&place.read(OUTPUT), &ended);
    let mut once = there.clone();
    once.dedup();
    assert!(there == once && there.contains(&200) && there.len() <= 180, "{there:?}");
    place.assert_each_ran_once(&jobs);
}

#[test]
fn an_output_that_is_moved_is_written_to_under_its_other_name_until_the_end() {
    let (place, jobs) = place(200);
    let mut gate = place.gate();
    let run = place.start();
    run.until_written(20);
    std::fs::rename(place.path(OUTPUT), place.path("moved")).expect("move it");
    until_all_but_one(&run, &jobs, || lines(&place.read("moved")));
    gate.open();
    let ended = run.wait();
    ended.assert_exit(0);
    let all: Vec<u64> = (1..=200).collect();
    assert_eq!(seqs(&place.read("moved"), &ended), all, "{}", ended.describe());
    assert_eq!(place.read(OUTPUT), "");
}

#[test]
fn an_output_that_is_cut_is_said_to_be_and_gone_on_with_at_its_end() {
    for cut in ["0", "1000"] {
        let (place, jobs) = place(200);
        let mut gate = place.gate();
        let run = place.start();
        run.until_written(40);
        let output = place.path(OUTPUT);
        assert!(tool("truncate", &["-s", cut, output.to_str().expect("UTF-8")]).status.success());
        gate.open();
        run.until_logged("somebody else has changed its length from ");
        let ended = run.wait();
        ended.assert_exit(0);
        // The cut has gone through a line, which is none any more; and only through that.
        let text = place.read(OUTPUT);
        let whole = |line: &&str| line.starts_with('{') && line.ends_with('}');
        let torn = text.lines().filter(|line| !whole(line)).count();
        assert_eq!(torn, usize::from(cut != "0"), "{text}");
        let text: String = text.lines().filter(whole).map(|line| format!("{line}\n")).collect();
        let there = seqs(&text, &ended);
        let mut once = there.clone();
        once.dedup();
        assert!(there == once && there.contains(&200), "{there:?}");
        // What has come since is there.
        let at = ended.stderr.find("has changed its length from ").expect("it was said");
        let from = ended.stderr[at..].split(' ').nth(5).and_then(|text| text.parse::<usize>().ok());
        let before = from.expect("a length") / 150;
        assert!(there.len() > 200 - before - 40, "{} of 200, {before} before", there.len());
        place.assert_each_ran_once(&jobs);
    }
}

/// What logrotate's `copytruncate` does: the output is copied and then cut. Lines that come in between
/// are gone, as documented; each cut is said, and what the files have they have once.
#[test]
fn with_copytruncate_each_cut_is_said_and_no_record_is_there_twice_or_torn() {
    let test = "with_copytruncate_each_cut_is_said_and_no_record_is_there_twice_or_torn";
    if !needs(test, &["root", "logrotate"]) {
        return;
    }
    let place = Place::of(example("test_pipelines"));
    place.jobs(8000);
    let run = place.command(&["lossy-jobs", "100"]).start();
    let settings = place.private("logrotate.conf");
    let output = place.path(OUTPUT);
    let text = format!(
        "{} {{\n rotate 50\n copytruncate\n nocompress\n su root root\n}}\n",
        output.display()
    );
    std::fs::write(&settings, text).expect("write");
    let state = place.private("state");
    let words = [state.to_str(), settings.to_str()].map(|path| path.expect("UTF-8"));
    let said = |run: &Running<'_>| run.stderr().matches("has changed its length from ").count();
    for number in 1..=5 {
        run.until("records", |_| (place.read(OUTPUT).len() > 1000).then_some(()));
        let made = tool("logrotate", &["-f", "-s", words[0], words[1]]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        run.until("the cut to be noticed", |run| (said(run) >= number).then_some(()));
    }
    let ended = run.wait();
    ended.assert_exit(0);
    Balance::of(&ended.log()).assert_even();
    let copies = (1..=5).rev().map(|number| place.read(&format!("{OUTPUT}.{number}")));
    let text: String = copies.chain([place.read(OUTPUT)]).collect();
    let mut numbers = std::collections::BTreeSet::new();
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("a whole line");
        let number = record["number"].as_u64().expect("a number");
        assert!(numbers.insert(number), "{number} is there twice\n{}", ended.describe());
    }
    // What is written between copy and cut is lost, as documented, and nothing else.
    assert!(numbers.len() > 100, "only {}", numbers.len());
}

// Row 23: the spool.

#[test]
fn a_spool_that_is_cut_while_it_is_mapped_ends_the_run_with_74_and_not_in_a_crash_loop() {
    for (bytes, fast) in [("0", false), ("4096", false), ("100000", true), ("200000", true)] {
        let (place, jobs) = place(2000);
        let tables = "[spool]\nlane = \"64KiB\"\njobs = 16\njob_bytes = 64\n";
        place.write("pings.toml", place.read("pings.toml") + tables);
        let run = place.start();
        run.until_written(20);
        let spool = place.path(SPOOL);
        assert!(tool("truncate", &["-s", bytes, spool.to_str().expect("UTF-8")]).status.success());
        let ended = run.wait();
        let context = || format!("cut to {bytes}\n{}", ended.describe());
        assert_eq!((ended.code, ended.signal), (Some(74), None), "{}", context());
        place.until_all_have_ended();
        let deaths = ended.stderr.matches("the spool can't be accessed any more").count();
        assert!((1..=8).contains(&deaths), "{deaths} deaths\n{}", context());
        let told = ended.stderr.contains("Move the spool away, then start again");
        assert!(told, "{}", context());
        assert!(!fast || ended.stderr.contains("the spool was cut while it is in use"));
        place.results().assert_at_most_once(&jobs);
        let again = place.start().wait();
        again.assert_exit(74);
        assert!(again.stderr.contains("nothing was touched"), "{}", again.describe());
        std::fs::rename(spool, place.path("away")).expect("move it away");
    }
}

/// Until the end nobody misses it, and then it is where it was: the next start goes on.
#[test]
fn a_spool_that_is_removed_or_moved_is_said_to_be_and_is_there_again_at_the_end() {
    for moved in [false, true] {
        // Looked for once a second: more jobs than are done by then.
        let (place, jobs) = place(2000);
        let _gate = place.gate();
        let run = place.start();
        run.until_written(20);
        let inode = |name: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(place.path(name)).map(|it| it.ino()).ok()
        };
        let before = inode(SPOOL);
        match moved {
            true => std::fs::rename(place.path(SPOOL), place.path("elsewhere")),
            false => std::fs::remove_file(place.path(SPOOL)),
        }
        .expect("gone");
        let line = run.until_logged("while it is in use. It is written to its place again when");
        assert_eq!(line.level, "ERROR");
        assert!(line.message.contains(if moved { "/elsewhere" } else { "removed" }), "{line:?}");
        run.signal(Signal::TERM);
        let ended = run.wait();
        ended.assert_exit(5);
        assert!(ended.stderr.contains("is written to its place again"), "{}", ended.describe());
        assert_eq!(ended.stderr.matches(" ERROR ").count(), 1, "{}", ended.describe());
        assert!(inode(SPOOL).is_some() && inode(SPOOL) != before);
        place.write("work.sh", "echo \"$1\" >>started.txt\n");
        let again = place.start().wait();
        again.assert_exit(0);
        assert!(again.stderr.contains("going on behind job "), "{}", again.describe());
        place.results().assert_exactly_once(&jobs);
        place.assert_each_ran_once(&jobs);
    }
}

/// Nothing that somebody has put in its place is touched.
#[test]
fn a_spool_whose_place_is_taken_at_the_end_is_an_error_with_74_that_says_what_is_lost() {
    for (moved, told) in
        [(false, "the next start begins the list anew"), (true, "before the next start")]
    {
        let (place, _) = place(400);
        let _gate = place.gate();
        let run = place.start();
        run.until_written(20);
        let (spool, other) = (place.path(SPOOL), place.path("elsewhere"));
        std::fs::rename(&spool, &other).expect("moved");
        if !moved {
            std::fs::remove_file(other).expect("removed");
        }
        place.write(SPOOL, "mine");
        run.signal(Signal::TERM);
        let ended = run.wait();
        ended.assert_exit(74);
        assert!(ended.stderr.contains("another file has its name"), "{}", ended.describe());
        assert!(ended.stderr.contains(told), "{}", ended.describe());
        assert_eq!(place.read(SPOOL), "mine");
        assert!(!place.files().iter().any(|name| name.contains(".new-")), "{:?}", place.files());
    }
}
