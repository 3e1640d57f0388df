//! Power lost at any instant: what had been synced is there, nothing is there twice, and it goes on.
//!
//! A run has its output and its spool on a file system in an image. At a random instant its processes
//! are stopped and the image is copied: what the kernel had not written back is not in it, as after a
//! power loss. Before that, random parts of both files are written back ahead of their time, in no
//! order that the program has asked for, as a kernel that needs the memory does. The copy is mounted,
//! and the run is started again, as after another boot.
//!
//! The mounts are in namespaces of their own, which end with the last process in them: nothing is
//! left behind, also by a test that fails.
//!
//! Some images of each kind by default; more by PROCSIG_TEST_IMAGES.

mod support;

use rustix::fs::{Advice, fadvise};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use support::place::is_rotated;
use support::{
    Balance, Ended, Place, Running, Seed, Signal, example, needs, poll_until, tool, wait_until,
};

const IMAGES: u64 = 6;
const IMAGE_BYTES: u64 = 32 << 20;
const JOBS: usize = 5000;

/// What is in the directory of the mounted image is copied out before and behind the program.
const MOUNTED: &str = "mount -o loop \"$1\" disk && cd disk || exit 99
cat out.2*.jsonl out.jsonl >../before 2>/dev/null
shift; \"$@\"; code=$?
cat out.2*.jsonl out.jsonl >../behind 2>/dev/null
exit $code";

fn images() -> u64 {
    match std::env::var("PROCSIG_TEST_IMAGES") {
        Ok(text) => text.parse().expect("PROCSIG_TEST_IMAGES is a number"),
        Err(_) => IMAGES,
    }
}

fn can_lose_power(test: &str) -> bool {
    let tools = ["root", "mkfs.ext4", "mount", "losetup", "unshare"];
    if !needs(test, &tools) {
        return false;
    }
    let free = tool("losetup", &["-f"]).status.success();
    assert!(free || std::env::var("CI").is_err(), "{test} needs a loop device");
    if !free {
        eprintln!("skipped: {test} needs a loop device");
    }
    free
}

/// A place in which the program runs on a mounted image.
struct Disk {
    place: Place,
    images: tempfile::TempDir,
}

impl Disk {
    fn new() -> Disk {
        let place = Place::of(example("test_pipelines"));
        // In memory: what has come to the disk is what has come into this file, and quickly.
        let memory = Path::new("/dev/shm");
        let images =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let disk = Disk { place, images: images.expect("a directory") };
        std::fs::create_dir(disk.place.path("disk")).expect("a place to mount at");
        std::fs::create_dir(disk.place.path("seed")).expect("a directory");
        let jobs = disk.place.jobs(JOBS).join("\n") + "\n";
        disk.place.write("seed/jobs.txt", jobs);
        let image = disk.image("live");
        File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).expect("an image");
        let seed = disk.place.path("seed");
        let (seed, image) = (seed.to_str().expect("UTF-8"), image.to_str().expect("UTF-8"));
        let options = "lazy_itable_init=0,lazy_journal_init=0";
        let made = tool("mkfs.ext4", &["-q", "-F", "-E", options, "-d", seed, image]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        disk
    }

    fn image(&self, name: &str) -> PathBuf {
        self.images.path().join(name)
    }

    /// Starts the program on this image; `boot`: of which boot it is to believe to be.
    fn start(&self, image: &str, boot: &str, arguments: &[&str]) -> Running<'_> {
        let image = self.image(image);
        let image = image.to_str().expect("UTF-8");
        let wrapper = ["unshare", "-m", "--propagation", "private", "sh", "-c", MOUNTED, "sh"];
        let launch = self.place.command(arguments).env("PROCSIG_TEST_BOOT_ID", boot);
        launch.under(&[&wrapper[..], &[image]].concat()).start()
    }

    /// A file of the mounted image, as the run sees it.
    fn seen_by(&self, run: &Running<'_>, name: &str) -> PathBuf {
        let path = self.place.path("disk").join(name);
        let pid = run.of_program().first().map_or(0, |main| main.pid);
        PathBuf::from(format!("/proc/{pid}/root{}", path.display()))
    }

    /// All that the run has written, as it sees it: what was set aside, then the output.
    fn output_of(&self, run: &Running<'_>) -> Vec<u8> {
        let directory = self.seen_by(run, "");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        let name =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.retain(|path| is_rotated(&name(path)));
        files.sort();
        files.push(self.seen_by(run, support::place::OUTPUT));
        files.iter().flat_map(|file| std::fs::read(file).unwrap_or_default()).collect()
    }

    /// Copies the image as it is once nothing more is written back to it.
    fn lose_power(&self) {
        let read = || std::fs::read(self.image("live")).expect("the image");
        let mut last = read();
        wait_until("an image that stands still", Duration::from_secs(30), || {
            let now = read();
            let still = now == last;
            last = now;
            still.then_some(())
        });
        std::fs::write(self.image("copy"), last).expect("the copy");
    }
}

/// Has some of a file written back, and waits for none of it.
fn write_back(path: &Path, seed: &mut Seed) {
    let Ok(file) = File::open(path) else { return };
    let pages = file.metadata().map_or(0, |metadata| metadata.len() / 4096 + 1);
    let from = seed.below(pages) * 4096;
    let len = NonZeroU64::new(4096 * (1 + seed.below(3)));
    // What can't be written back ahead of its time is not.
    let _advised = fadvise(&file, from, len, Advice::DontNeed);
}

/// Everything stands still.
fn stop(run: &Running<'_>) {
    wait_until("every process stopped", Duration::from_secs(30), || {
        let all = run.of_program();
        let moving: Vec<_> = all.iter().filter(|process| process.state != 'T').collect();
        for handle in moving.iter().filter_map(|process| process.handle()) {
            handle.send(Signal::STOP);
        }
        assert!(!all.is_empty(), "it has ended by itself\n{}", run.describe());
        moving.is_empty().then_some(())
    });
}

/// What was known when the power went.
struct Lost {
    /// The output as the dead had it.
    live: String,
    /// Bytes of it that had been synced, as far as can be told from outside.
    synced: usize,
}

/// Runs until a random instant, with random parts written back on the way, and loses power.
fn run_and_lose_power(disk: &Disk, sync: &str, arguments: &[&str], seed: &mut Seed) -> Lost {
    let run = disk.start("live", "1", arguments);
    run.until("the supervisor", |run| run.of_program().into_iter().next());
    let until = Instant::now() + seed.time_below(Duration::from_millis(500));
    let mut lengths = vec![0];
    poll_until(Duration::from_secs(30), || {
        let output = disk.seen_by(&run, support::place::OUTPUT);
        let length = disk.output_of(&run).len();
        if lengths.last() != Some(&length) {
            lengths.push(length);
        }
        match seed.below(6) {
            0 => write_back(&output, seed),
            1 => write_back(&disk.seen_by(&run, support::place::SPOOL), seed),
            _ => {}
        }
        (Instant::now() >= until).then_some(())
    });
    stop(&run);
    let live = String::from_utf8(disk.output_of(&run));
    disk.lose_power();
    drop(run);
    // With `always` a batch is synced before the next one is written: so all was, that stood there
    // two batches ago.
    let synced = lengths.iter().rev().nth(2).filter(|_| sync == "always").copied().unwrap_or(0);
    let live = live.unwrap_or_default();
    Lost { synced: synced.min(live.len()), live }
}

/// Starts it again from what the disk had, as after another boot. Returns the output that it ends
/// with, and how many whole lines of the dead one's are not in it.
fn go_on(disk: &Disk, lost: &Lost, arguments: &[&str]) -> (Vec<Value>, usize) {
    let ended = disk.start("copy", "2", arguments).wait();
    let context = |what: &str| format!("{what}\nlive: {}\n{}", lost.live, ended.describe());
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", context("its end"));
    ended.assert_nothing_left();
    let (before, output) = (disk.place.read("before"), disk.place.read("behind"));
    assert!(output.ends_with('\n'), "{}", context("torn at its end"));
    let lines: BTreeSet<&str> = output.lines().collect();
    assert_eq!(lines.len(), output.lines().count(), "{}", context("a line is there twice"));
    let missing = |text: &str| {
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        text[..whole].lines().filter(|line| !lines.contains(line)).count()
    };
    assert_eq!(missing(&lost.live[..lost.synced]), 0, "{}", context("what was synced is lost"));
    let of_disk = before.trim_end_matches('\0');
    assert_eq!(missing(of_disk), 0, "{}", context("what was on the disk is lost"));
    let parse = |line: &&str| {
        serde_json::from_str(line).unwrap_or_else(|_| panic!("{}", context("a line is not whole")))
    };
    let values = output.lines().collect::<Vec<_>>().iter().map(parse).collect();
    (values, missing(&lost.live))
}

fn text_of(record: &Value) -> &str {
    record["text"].as_str().expect("a text")
}

fn number_of(record: &Value) -> u64 {
    record["number"].as_u64().expect("a number")
}

#[track_caller]
fn assert_each_job_at_most_once(records: &[Value]) -> usize {
    let mut jobs: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for record in records {
        jobs.entry(text_of(record)).or_default().push(number_of(record));
    }
    for (job, numbers) in &jobs {
        let seq: u64 = job.strip_prefix("job-").expect("a job").parse().expect("a number");
        let whole: Vec<u64> = (0..1 + seq % 2).map(|part| 2 * seq + part).collect();
        assert!(numbers.len() <= whole.len(), "{job} is there twice: {numbers:?}");
        assert!(whole.ends_with(numbers) || whole.starts_with(numbers), "{job}: {numbers:?}");
    }
    JOBS - jobs.len()
}

#[track_caller]
fn assert_in_order(records: &[Value]) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    for record in records {
        let before = last.insert(text_of(record), number_of(record));
        assert!(before < Some(number_of(record)), "behind {before:?}: {record}");
    }
}

fn lose_power_with_jobs(test: &str, sync: &str, rotate: &str) {
    if !can_lose_power(test) {
        return;
    }
    let (mut seed, mut missing, mut lines) = (Seed::new(), 0, 0);
    for _ in 0..images() {
        let disk = Disk::new();
        let arguments = ["lossy-jobs", sync, rotate];
        let lost = run_and_lose_power(&disk, sync, &arguments, &mut seed);
        let (records, gone) = go_on(&disk, &lost, &arguments);
        missing += assert_each_job_at_most_once(&records);
        lines += gone;
    }
    eprintln!("{}: {missing} jobs without a result, {lines} written lines gone", images());
}

fn lose_power_with_records(test: &str, sync: &str, rotate: &str) {
    if !can_lose_power(test) {
        return;
    }
    let (mut seed, mut lines) = (Seed::new(), 0);
    for _ in 0..images() {
        let disk = Disk::new();
        let arguments = ["lossy-records", sync, "1000000", rotate];
        let lost = run_and_lose_power(&disk, sync, &arguments, &mut seed);
        let (records, gone) = go_on(&disk, &lost, &["lossy-records", sync, "50", rotate]);
        assert_in_order(&records);
        lines += gone;
    }
    eprintln!("{}: {lines} written lines gone", images());
}

#[test]
fn power_lost_in_jobs_that_are_always_synced_takes_nothing_that_was_and_doubles_nothing() {
    lose_power_with_jobs("power loss, jobs, always synced", "always", "0");
}

#[test]
fn power_lost_in_jobs_that_are_synced_now_and_then_doubles_nothing() {
    lose_power_with_jobs("power loss, jobs, synced now and then", "100", "0");
}

#[test]
fn power_lost_in_records_that_are_always_synced_takes_nothing_that_was_and_keeps_their_order() {
    lose_power_with_records("power loss, records, always synced", "always", "0");
}

#[test]
fn power_lost_in_records_that_are_synced_now_and_then_keeps_their_order() {
    lose_power_with_records("power loss, records, synced now and then", "100", "0");
}

#[test]
fn power_lost_while_the_output_is_rotated_takes_nothing_that_was_synced_and_doubles_nothing() {
    lose_power_with_jobs("power loss, jobs, rotated", "always", "1500");
}

#[test]
fn power_lost_while_an_output_that_is_synced_now_and_then_is_rotated_doubles_nothing() {
    lose_power_with_jobs("power loss, jobs, rotated now and then", "100", "4000");
    lose_power_with_records("power loss, records, rotated now and then", "100", "4000");
}

// Without an image, and harsher: each page of the spool is as it was at either of two instants, and
// the output ends anywhere. Nothing was synced in between.

/// Longer than any test.
const NEVER: &str = "3600000";
/// What a run had in its files at one instant.
struct Snapshot {
    spool: Vec<u8>,
    output: Vec<u8>,
}

/// Lets it run for a random time, then stops all of it and looks.
fn run_on(place: &Place, run: &Running<'_>, seed: &mut Seed) -> Snapshot {
    for handle in run.of_program().iter().filter_map(|process| process.handle()) {
        handle.send(Signal::CONT);
    }
    std::thread::sleep(seed.time_below(Duration::from_millis(200)));
    stop(run);
    let read = |name| std::fs::read(place.path(name)).expect("a file of the run");
    Snapshot { spool: read(support::place::SPOOL), output: read(support::place::OUTPUT) }
}

/// What a disk may have of two instants.
fn mix(older: &Snapshot, newer: Snapshot, seed: &mut Seed) -> Snapshot {
    let Snapshot { mut spool, mut output } = newer;
    let share = seed.below(101);
    for (page, old) in spool.chunks_mut(4096).zip(older.spool.chunks(4096)) {
        if seed.below(100) < share {
            page.copy_from_slice(old);
        }
    }
    let cut = seed.below(output.len() as u64 + 1) as usize;
    let behind = (cut + 4096).min(output.len());
    match seed.below(4) {
        0 => output.truncate(cut),
        1 => output[cut..].fill(0),
        // A block that was not written back before those behind it.
        2 => output[cut..behind].fill(0),
        _ => {}
    }
    Snapshot { spool, output }
}

/// How it went after pages were lost.
struct Recovered {
    records: Vec<Value>,
    /// What the disk had of the output, and of the spool.
    outlived: String,
    ended: Ended,
}

/// Runs, mixes, starts again.
fn lose_pages(arguments: [&[&str]; 2], seed: &mut Seed) -> Recovered {
    let place = Place::of(example("test_pipelines"));
    place.jobs(JOBS);
    let run = place.command(arguments[0]).env("PROCSIG_TEST_BOOT_ID", "1").start();
    run.until_written(1);
    let older = run_on(&place, &run, seed);
    let newer = run_on(&place, &run, seed);
    let live = String::from_utf8_lossy(&newer.output).into_owned();
    let left = mix(&older, newer, seed);
    drop(run);
    place.write(support::place::SPOOL, &left.spool);
    place.write(support::place::OUTPUT, &left.output);
    let ended = place.command(arguments[1]).env("PROCSIG_TEST_BOOT_ID", "2").finish();
    let output = place.read(support::place::OUTPUT);
    let context = |what: &str| format!("{what}\nlive: {live}\nnow: {output}\n{}", ended.describe());
    // 3: jobs whose slot was damaged have failed; 74: the results of some are lost. It says so.
    let said = ended.code != Some(74) || ended.stderr.contains(" jobs have no result");
    assert!(said && matches!(ended.code, Some(0 | 3 | 74)), "{}", context("its end"));
    ended.assert_nothing_left();
    Balance::of(&ended.log()).assert_even();
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|_| panic!("{}", context("a line is not whole")))
    };
    let outlived = String::from_utf8_lossy(&[left.output, left.spool].concat()).into_owned();
    Recovered { records: output.lines().map(parse).collect(), outlived, ended }
}

#[test]
fn whatever_pages_a_disk_has_of_it_no_record_is_there_twice_and_order_is_kept() {
    let mut seed = Seed::new();
    for _ in 0..2 * images() {
        let arguments = [&["lossy-records", NEVER, "1000000"][..], &["lossy-records", NEVER, "50"]];
        assert_in_order(&lose_pages(arguments, &mut seed).records);
    }
}

/// Results can outlive what the slot knew of its job, in the output or in a lane: then the job is run
/// again. More than that is not.
#[test]
fn whatever_pages_a_disk_has_of_it_a_job_is_there_twice_only_if_its_result_outlived_its_slot() {
    let (mut seed, mut twice, mut gone, mut failed) = (Seed::new(), 0, 0, 0);
    for _ in 0..2 * images() {
        let arguments = ["lossy-jobs", NEVER];
        let Recovered { records, outlived, ended } =
            lose_pages([&arguments, &arguments], &mut seed);
        let mut results: BTreeMap<(&str, u64), usize> = BTreeMap::new();
        for record in records.iter().filter(|record| record.get("text").is_some()) {
            *results.entry((text_of(record), number_of(record))).or_default() += 1;
        }
        let words = ended.describe();
        let doubled: Vec<_> = results.iter().filter(|(_, times)| **times > 1).collect();
        for ((job, number), times) in &doubled {
            let line = format!("{{\"number\":{number},\"text\":\"{job}\"}}\n");
            assert!(**times == 2 && outlived.contains(&line), "{times} times: {line}{words}");
        }
        assert!(words.contains("the machine was booted since the last run"), "{words}");
        let jobs: BTreeSet<&str> = results.keys().map(|(job, _)| *job).collect();
        twice += doubled.len();
        gone += JOBS - jobs.len();
        failed += usize::from(ended.code == Some(3));
    }
    eprintln!("{}: {twice} records twice, {gone} jobs gone, {failed} times damaged", 2 * images());
}

/// What the disk has of the output must never be newer than what it has of the spool.
#[test]
fn the_disk_begins_with_the_output_only_right_after_the_spool_was_synced() {
    if !needs("the_disk_begins_with_the_output", &["strace"]) {
        return;
    }
    let place = Place::new();
    place.jobs(150);
    place.config("max_output = \"900KiB\"");
    let text = place.read("pings.toml");
    place.write(
        "pings.toml",
        text.replace("file = \"out.jsonl\"", "file = \"out.jsonl\"\nsync = \"60s\""),
    );
    // Together more than after which the disk begins.
    place.work_script("head -c 900000 /dev/zero | tr '\\0' x");
    let trace = place.private("trace");
    let file = trace.to_str().expect("UTF-8");
    let calls = "trace=write,fdatasync,sync_file_range";
    let strace = ["strace", "-f", "-y", "-o", file, "-e", calls];
    place.command(&["run", "pings.toml"]).under(&strace).finish().assert_exit(0);
    let text = std::fs::read_to_string(&trace).expect("a trace");
    // Of the buffer, which is the only one that writes the output.
    let of_output = |line: &&str| line.contains("/out.jsonl>") || line.contains(".spool>");
    let calls: Vec<&str> = text.lines().filter(of_output).collect();
    let begun = |line: &str| line.contains("sync_file_range(");
    assert!(calls.iter().any(|line| begun(line)), "it was never begun: {} calls", calls.len());
    for pair in calls.windows(2).filter(|pair| begun(pair[1])) {
        assert!(pair[0].contains("fdatasync(") && pair[0].contains(".spool>"), "{pair:#?}");
        assert!(pair[1].contains("/out.jsonl>"), "{pair:#?}");
    }
}
