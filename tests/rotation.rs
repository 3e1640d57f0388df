//! What becomes of an output that is rotated, by procsig or by somebody else, and of one whose disk
//! fails.

mod support;

use std::collections::BTreeMap;
use support::place::OUTPUT;
use support::{Balance, Ended, Place, Signal, example, log, needs, tool};

const JOBS: usize = 5000;

fn place() -> Place {
    let place = Place::of(example("test_pipelines"));
    place.jobs(JOBS);
    place
}

/// Each job has its one or two records once, in lines that are whole.
#[track_caller]
fn assert_each_once(text: &str, ended: &Ended) {
    assert!(text.ends_with('\n'), "torn at its end\n{}", ended.describe());
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
        *times.entry(record["number"].as_u64().expect("a number")).or_default() += 1;
    }
    let expected =
        (1..=JOBS as u64).flat_map(|seq| (0..1 + seq % 2).map(move |part| 2 * seq + part));
    let expected: BTreeMap<u64, usize> = expected.map(|number| (number, 1)).collect();
    let wrong = expected.iter().filter(|(number, _)| times.get(number) != Some(&1)).count();
    assert_eq!(
        wrong,
        0,
        "of {} records, {} there\n{}",
        expected.len(),
        times.len(),
        ended.describe()
    );
    assert_eq!(times.len(), expected.len());
}

/// Rotates 20 times under load with logrotate, and a SIGHUP after each.
#[test]
fn logrotate_and_sighup_twenty_times_under_load_lose_and_double_nothing() {
    let test = "logrotate_and_sighup_twenty_times_under_load_lose_and_double_nothing";
    if !needs(test, &["root", "logrotate", "setsid"]) {
        return;
    }
    for mode in ["create", "nocreate"] {
        let place = place();
        let run = place.command(&["lossy-jobs", "100"]).without_terminal().start();
        run.until_written(1);
        let main = run.supervisor();
        let output = place.path(OUTPUT);
        let settings = place.private("logrotate.conf");
        let script = format!("kill -HUP {}", main.pid);
        let text = format!(
            "{} {{\n rotate 50\n {mode}\n nocompress\n su root root\n postrotate\n {script}\n endscript\n}}\n",
            output.display()
        );
        std::fs::write(&settings, text).expect("write");
        let state = place.private("state");
        let mut done = 0;
        for number in 1..=20 {
            let words = [state.to_str(), settings.to_str()].map(|path| path.expect("UTF-8"));
            let made = tool("logrotate", &["-f", "-s", words[0], words[1]]);
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            // The next may come when this one was heard of.
            let opened = run.until("the output to be opened anew", |run| {
                let opened =
                    run.log().iter().filter(|it| it.message.ends_with(": opened anew")).count();
                (opened >= number).then_some(true).or(run.has_ended().then_some(false))
            });
            if !opened {
                break;
            }
            run.until("records in the new one", |run| {
                let len = std::fs::metadata(&output).map_or(0, |metadata| metadata.len());
                (len > 0 || run.has_ended()).then_some(())
            });
            done = number;
        }
        assert_eq!(done, 20, "the load has ended before\n{}", run.describe());
        let ended = run.wait();
        ended.assert_exit(0);
        Balance::of(&ended.log()).assert_even();
        let mut text = String::new();
        for number in (1..=20).rev() {
            text += &place.read(&format!("{OUTPUT}.{number}"));
        }
        assert_each_once(&(text + &place.read(OUTPUT)), &ended);
        log::assert_nothing_out_of_order(&ended.log());
    }
}

/// The run, under strace, which lets the output's syncs fail as `when` says.
fn with_failing_syncs(place: &Place, sync: &str, when: &str) -> Ended {
    let (file, output) = (place.private("trace"), place.path(OUTPUT));
    let (file, output) = (file.to_str().expect("UTF-8"), output.to_str().expect("UTF-8"));
    let inject = format!("inject=fdatasync:error=EIO:when={when}");
    let arguments =
        ["strace", "-f", "-o", file, "-P", output, "-e", "trace=fdatasync", "-e", &inject];
    let mut ended = place.command(&["lossy-jobs", sync]).under(&arguments).finish();
    let lines = ended.stderr.split_inclusive('\n').filter(|line| !line.starts_with("strace: "));
    ended.stderr = lines.collect();
    ended
}

#[test]
fn a_sync_that_fails_now_and_then_ends_the_run_with_74_names_the_bytes_and_is_not_tried_again() {
    if !needs("a_sync_that_fails_now_and_then_ends_the_run_with_74", &["strace"]) {
        return;
    }
    let place = place();
    let ended = with_failing_syncs(&place, "100", "3");
    ended.assert_exit(74);
    assert!(
        ended.stderr.contains("can't force the output to the disk: bytes "),
        "{}",
        ended.describe()
    );
    let syncs = std::fs::read_to_string(place.private("trace")).expect("the trace");
    let output = place.path(OUTPUT);
    let failed = syncs.find("EIO").expect("a sync has failed");
    assert!(!syncs[failed..].contains("fdatasync("), "tried again: {syncs} {}", output.display());
    let last = place.command(&["lossy-jobs", "100"]).finish();
    last.assert_exit(0);
    assert!(last.stderr.contains("could not be forced to the disk"), "{}", last.describe());
    assert_each_once(&place.everything(), &last);
}

#[test]
fn a_batch_whose_sync_fails_is_written_again_to_a_fresh_file_and_each_record_is_there_once() {
    if !needs("a_batch_whose_sync_fails_is_written_again_to_a_fresh_file", &["strace"]) {
        return;
    }
    let place = place();
    let ended = with_failing_syncs(&place, "always", "9");
    ended.assert_exit(0);
    assert!(ended.stderr.contains("; writing it again to a new file"), "{}", ended.describe());
    assert_eq!(place.rotated().len(), 1, "{:?}", place.files());
    assert_each_once(&place.everything(), &ended);
}

/// A run that rotates and compresses; its processes.
const PACKING: &str = "[output]\nfile = \"out.jsonl\"\nrotate_bytes = \"1KiB\"\nkeep = 3\n\
     compress = \"gzip\"\n[workers.ping]\ncommand = [\"sh\", \"work.sh\", \"{}\"]\n\
     [jobs]\nlines = \"jobs.txt\"\n[buffer]\nflush_records = 1\n";

#[test]
fn rotated_files_are_compressed_in_the_background_kept_as_many_as_asked_for_and_read_back_whole() {
    let place = Place::new();
    place.jobs(60);
    place.work_script("");
    place.write("pings.toml", PACKING);
    let mut gate = place.gate();
    place.write("jobs.txt", place.read("jobs.txt") + "last\n");
    place.work_script("[ $1 != last ] || : < gate");
    let run = place.start();
    run.until_started(61);
    run.until("three compressed files, and no other", |_| {
        let rotated = place.rotated();
        let done = rotated.len() == 3 && rotated.iter().all(|name| name.ends_with(".gz"));
        done.then_some(())
    });
    gate.open();
    let ended = run.wait();
    ended.assert_exit(0);
    assert!((1..=3).contains(&place.rotated().len()), "{:?}", place.files());
    assert!(!place.files().iter().any(|name| name.ends_with(".part")), "{:?}", place.files());
    let text = place.everything();
    let seqs: Vec<u64> = text.lines().map(seq).collect();
    let mut once = seqs.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), seqs.len(), "{seqs:?}");
    assert!(once.contains(&61), "{once:?}");
    ended.assert_nothing_left();
}

#[test]
fn hang_ups_without_a_reason_change_nothing() {
    let place = place();
    let run = place.command(&["lossy-jobs", "100"]).without_terminal().start();
    run.until_written(1);
    let main = run.supervisor();
    for _ in 0..50 {
        if !main.handle().is_some_and(|main| main.send(Signal::HUP)) {
            break;
        }
    }
    let ended = run.wait();
    ended.assert_exit(0);
    assert_eq!(place.rotated().len(), 0);
    assert_each_once(&place.read(OUTPUT), &ended);
}

/// The disk is full until the test removes a file from it.
const FULL: &str = "mount -t tmpfs -o size=200k none disk && head -c 122880 /dev/zero >disk/filler
\"$@\"; code=$?
cat disk/out.2*.jsonl disk/out.jsonl >behind
exit $code";

#[test]
fn a_disk_that_fills_up_while_the_output_is_rotated_is_waited_for_and_nothing_is_lost() {
    let test = "a_disk_that_fills_up_while_the_output_is_rotated_is_waited_for";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let place = Place::new();
    place.jobs(600);
    place.work_script("");
    std::fs::create_dir(place.path("disk")).expect("a place to mount at");
    place.config("[spool]\nfile = \"out.spool\"");
    let rotated = "file = \"disk/out.jsonl\"\nrotate_bytes = \"10KiB\"";
    place.write("pings.toml", place.read("pings.toml").replace("file = \"out.jsonl\"", rotated));
    let wrapper = ["unshare", "-m", "--propagation", "private", "sh", "-c", FULL, "sh"];
    let run = place.command(&["run", "pings.toml"]).under(&wrapper).start();
    run.until_logged("waiting for room, the records are kept");
    let pid = run.of_program().first().map_or(0, |main| main.pid);
    let filler = format!("/proc/{pid}/root{}", place.path("disk/filler").display());
    std::fs::remove_file(filler).expect("make room");
    run.until_logged("there is room again");
    let ended = run.wait();
    ended.assert_exit(0);
    let text = place.read("behind");
    let mut seqs: Vec<u64> = text.lines().map(seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=600).collect::<Vec<u64>>(), "{}", ended.describe());
    assert!(ended.stderr.matches(": rotated to ").count() > 3, "{}", ended.describe());
}

fn seq(line: &str) -> u64 {
    let result: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    result["seq"].as_u64().expect("a number")
}

/// Rotates after each few records, and waits at the gate when all but the last are written.
fn rotating_at_a_gate(place: &Place) {
    place.jobs(60);
    place.write("pings.toml", PACKING.replace("keep = 3\ncompress = \"gzip\"\n", ""));
    place.write("jobs.txt", place.read("jobs.txt") + "last\n");
    place.work_script("[ $1 != last ] || : < gate");
}

#[test]
fn nobody_gets_an_output_that_was_rotated_while_its_buffer_is_dead_and_main_holds_no_file_open() {
    let place = Place::new();
    let mut gate = place.gate();
    rotating_at_a_gate(&place);
    let run = place.start();
    run.until_started(61);
    // Not in the middle of a rotation: the file that is being begun is nobody's for a moment.
    run.until("all but the last", |_| (place.everything().lines().count() == 60).then_some(()));
    assert!(place.rotated().len() > 3, "{:?}", place.files());
    let main = run.supervisor();
    let mut open = main.descriptors();
    let begin = place.path("out.").to_string_lossy().into_owned();
    open.retain(|_, path| path.to_string_lossy().starts_with(&begin));
    assert!(open.is_empty(), "{open:?}");
    let main = main.handle().expect("a living main");
    // It starts no other buffer meanwhile.
    assert!(main.send(Signal::STOP));
    let of_program = run.of_program();
    let buffer = of_program.iter().find(|process| process.comm.starts_with("buffer"));
    let buffer = buffer.and_then(support::Process::handle).expect("a living buffer");
    buffer.send(Signal::KILL);
    assert!(buffer.wait(support::WATCHDOG));
    let other = place.run_work(&["--spool", "other.spool"]).finish();
    assert!(main.send(Signal::CONT));
    other.assert_exit_beside(75);
    assert!(other.stderr.contains("another pipeline writes this output"), "{}", other.describe());
    run.until_logged("has died");
    gate.open();
    let ended = run.wait();
    ended.assert_exit(0);
    let mut seqs: Vec<u64> = place.everything().lines().map(seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=61).collect::<Vec<u64>>(), "{}", ended.describe());
}

/// All of it is written at the end: the thread that compresses has hardly begun.
#[test]
fn what_a_short_run_has_set_aside_is_compressed_at_its_end() {
    let mut left = Vec::new();
    // A busy disk may need more time than a stop has.
    for _ in 0..5 {
        let place = Place::new();
        place.jobs(200);
        place.config("[buffer]\nflush_records = 1000000\nflush_after = \"1h\"\n");
        place.work_script("");
        let keys = "file = \"out.jsonl\"\nrotate_bytes = \"10KiB\"\ncompress = \"gzip\"";
        place.write("pings.toml", place.read("pings.toml").replace("file = \"out.jsonl\"", keys));
        place.start().wait().assert_exit(0);
        let (packed, plain): (Vec<_>, Vec<_>) =
            place.rotated().into_iter().partition(|name| name.ends_with(".gz"));
        assert!(packed.len() + plain.len() >= 2, "{packed:?} {plain:?}");
        if plain.is_empty() {
            return;
        }
        left.push(plain.len());
    }
    panic!("files that were not compressed: {left:?}");
}
