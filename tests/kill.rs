//! Any process killed by force, at any instant, and again while what was killed is put in order:
//! nothing published is lost, nothing is doubled, nobody is left behind.
//!
//! PROCSIG_TEST_KILLS says how many kills the two tests make together, PROCSIG_TEST_SEED repeats
//! the stories from that one on. `tests/long_run.sh` makes very many.

mod support;

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use support::kills::{Natural, Outcome, Story, Tally, lines, wanted};
use support::place::{OUTPUT, SPOOL, is_rotated};
use support::{Balance, Place, Process, Seed, Signal, example};

/// Sizes of a lane: the smallest holds some twenty records.
const LANES: [u64; 4] = [8 << 10, 16 << 10, 64 << 10, 1 << 20];

/// When the buffer flushes, how it syncs, and how fast the workers are.
struct Settings {
    text: String,
    lane: u64,
    /// The output is set aside again and again.
    rotates: bool,
    /// Nothing but a full lane is a reason to flush.
    only_full_lanes: bool,
    /// Lines of the list, or records of each producer.
    count: u64,
}

impl Settings {
    fn of(seed: &mut Seed, tag: &str) -> Settings {
        let mut pick = |values: &[u64]| values[seed.below(values.len() as u64) as usize];
        let (never, hour) = (1 << 40, 3_600_000_000);
        let only_full_lanes = pick(&[0, 0, 0, 1]) == 1;
        let (records, bytes, after, lane) = if only_full_lanes {
            (never, never, hour, LANES[0])
        } else {
            let records = pick(&[1, 7, 100, never]);
            let bytes = pick(&[1, 3000, 100_000, never]);
            (records, bytes, pick(&[1000, 20_000, 1_000_000]), pick(&LANES))
        };
        let sync = ["never", "5000", "always"][pick(&[0, 1, 2]) as usize];
        let (threads, slots, pause) =
            (pick(&[1, 2, 4]), pick(&[4, 64, 1024]), pick(&[0, 300, 1000]));
        let count = if pause == 0 { 6000 } else { 2500 };
        // Hundreds of files in a story, or some, or one. Not thousands: each rotation reads the names
        // of those before, and a busy machine would take minutes.
        let rotate = match pick(&[0, 0, 2000, 10_000, 50_000]) {
            0 => 0,
            bytes => bytes.max(4 * count),
        };
        let compress = pick(&[0, 1]);
        let text = format!(
            "tag={tag} records={records} bytes={bytes} after={after} sync={sync} \
             threads={threads} slots={slots} pause={pause} count={count} rotate={rotate} \
             compress={compress}"
        );
        Settings { text, lane, rotates: rotate > 0, only_full_lanes, count }
    }

    /// The settings of one start: with other lanes now and then, for which the spool is built anew.
    fn of_start(&self, seed: &mut Seed) -> String {
        let lane = match seed.below(10) {
            0 if !self.only_full_lanes => LANES[seed.below(4) as usize],
            _ => self.lane,
        };
        format!("{} lane={lane}", self.text)
    }
}

/// Tells stories until there were enough kills, each with a seed of its own.
fn tell(test: &'static str, story: impl Fn(&mut Tally, u64)) {
    let first = Seed::new().start();
    let mut tally = Tally::of(test, test == "jobs");
    let half = wanted().div_ceil(2);
    for number in first.. {
        story(&mut tally, number);
        tally.note("stories");
        if tally.kills() < half {
            continue;
        }
        match tally.missing() {
            None => break,
            // What is rare may be missing by chance in as many, and not in three times as many.
            Some(missing) => assert!(tally.kills() < 3 * half, "{missing}"),
        }
    }
}

/// Lets a story come to the end of its list, or of its producers.
fn to_the_end<'a>(story: &mut Story<'a>, place: &'a Place, pipeline: &str, settings: &Settings) {
    let mut slow = 0;
    loop {
        let start = settings.of_start(&mut story.seed);
        let natural = match story.start(place.command(&[pipeline, &start])) {
            Outcome::Killed => continue,
            Outcome::Ended(natural) => natural,
        };
        let complete = judge(&natural, pipeline == "killed-producers");
        if natural.ended.code == Some(4) {
            // The next start waits for it, or goes on with what it has left. A disk is slow once or
            // twice; hundreds of rotations may take several deadlines, each of which writes some.
            slow += u32::from(Balance::of(&lines(&natural.ended)).written == 0);
            assert!(slow <= 2, "{}", natural.ended.describe());
            continue;
        }
        story.assert_nobody_left(&natural.ended);
        if complete {
            break assert_no_stray_file(place);
        }
    }
}

/// The exit code is the right one and the balance even; says whether all is done.
#[track_caller]
fn judge(natural: &Natural, endless: bool) -> bool {
    let Natural { ended, told, buffers } = natural;
    assert!(ended.stderr.contains(" done in "), "no balance\n{}", ended.describe());
    let balance = Balance::of(&lines(ended));
    balance.assert_even();
    let right = match ended.code {
        // A buffer is started only once more during a stop, and that one was killed as well: what
        // it held is in the spool, for the next start.
        Some(1) => *buffers >= 2,
        Some(0) => balance.kept == 0 && (endless || (balance.failed, balance.left) == (0, 0)),
        // A job that was in hand each time when its worker was killed.
        Some(3) => !endless && balance.kept == 0 && balance.left == 0,
        // Nobody can end a process that waits for a disk, and this one has not answered for as long as
        // the deadline. Or it has answered so late that hundreds of rotations, each of which is synced,
        // did not come to their end.
        Some(4) => {
            ended.stderr.contains("could not even be killed")
                || ended.stderr.contains("killing what is left (1): buffer")
        }
        Some(5) => {
            let left = balance.left > 0 || balance.or_more;
            !endless && *told && balance.kept == 0 && left
        }
        _ => false,
    };
    assert!(right, "not the right code\n{}", ended.describe());
    matches!(ended.code, Some(0 | 3)) && !(endless && *told)
}

#[track_caller]
fn assert_no_stray_file(place: &Place) {
    let mut files = place.files();
    files.retain(|name| !is_rotated(name));
    files.retain(|name| ![OUTPUT, SPOOL, "jobs.txt", "published"].contains(&name.as_str()));
    assert!(files.is_empty(), "files left behind: {files:?}");
}

/// The value of a key of a line that was written by `tests/programs/killed.rs`.
fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!("\"{key}\":"))?.1;
    Some(rest.split([',', '}']).next()?.trim_matches('"'))
}

fn number(line: &str, key: &str) -> Option<u64> {
    value(line, key)?.parse().ok()
}

/// The lines of the output, all of them whole.
#[track_caller]
fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole");
    text.lines()
}

/// The records of each thread are there from its first one on, in order and without a gap.
#[track_caller]
fn assert_next<'a>(last: &mut BTreeMap<&'a str, (u64, &'a str)>, line: &'a str) -> &'a str {
    let who = value(line, "who").unwrap_or_else(|| panic!("not a record: {line}"));
    let (nth, before) = last.insert(who, (0, line)).unwrap_or((0, ""));
    assert_eq!(number(line, "nth"), Some(nth + 1), "{line}\nbehind {before}");
    last.insert(who, (nth + 1, line));
    before
}

/// Each job of the list has the same number of outcomes, one for each time that the list was begun.
#[track_caller]
fn assert_each_job_once(text: &str, jobs: &[String], begun_at_most: u64, tally: &mut Tally) {
    let mut outcomes = vec![0; jobs.len()];
    let mut last = BTreeMap::new();
    for line in whole_lines(text) {
        if line.contains("\"ok\":false") {
            let failed: Value = serde_json::from_str(line).expect("a line of JSON");
            let job = failed["seq"].as_u64().expect("a number") as usize;
            let error = failed["error"].as_str().expect("a reason");
            assert!(error.contains("died 3 times") && error.contains("SIGKILL"), "{line}");
            outcomes[job - 1] += 1;
            tally.note("jobs that have failed after three deaths");
            continue;
        }
        let job = number(line, "job").unwrap_or_else(|| panic!("not a record: {line}"));
        let (part, of) = (number(line, "part"), 1 + job % 3);
        let before = assert_next(&mut last, line);
        let behind = if part == Some(1) { 0 } else { job };
        let same = number(before, "job") == Some(behind) && number(before, "part") < part;
        let whole = number(before, "part") == number(before, "of");
        assert!(if behind == 0 { whole } else { same }, "a torn job: {line}\nbehind {before}");
        outcomes[job as usize - 1] += u64::from(part == Some(of));
        let (who, nth) = (value(line, "who").unwrap_or(""), number(line, "nth").unwrap_or(0));
        let mut expected = format!("{{\"job\":{job},\"part\":{},\"of\":{of},", part.unwrap_or(0));
        let (text, pad) = (&jobs[job as usize - 1], "x".repeat((job * 31 % 200) as usize));
        let _ = write!(expected, "\"who\":\"{who}\",\"nth\":{nth},");
        let _ = write!(expected, "\"text\":\"{text}\",\"pad\":\"{pad}\"}}");
        assert_eq!(line, expected);
    }
    let torn = last.values().find(|(_, line)| number(line, "part") != number(line, "of"));
    assert!(torn.is_none(), "half of a job: {torn:?}");
    let begun = outcomes[0];
    assert!((1..=1 + begun_at_most).contains(&begun), "the list was begun {begun} times");
    let wrong: Vec<_> = (1..).zip(&outcomes).filter(|(_, count)| **count != begun).collect();
    assert!(wrong.is_empty(), "jobs without an outcome, or with two (of {begun}): {wrong:?}");
}

#[test]
fn whoever_is_killed_whenever_each_job_has_its_results_once_and_in_order() {
    tell("jobs", |tally, seed| {
        let place = Place::of(example("test_pipelines"));
        let mut story = Story::new(&place, "j", seed, tally);
        let settings = Settings::of(&mut story.seed, "j");
        let jobs = place.jobs(settings.count as usize);
        to_the_end(&mut story, &place, "killed-jobs", &settings);
        let begun = story.done_and_killed;
        let text = place.everything();
        assert_each_job_once(&text, &jobs, begun, tally);
        note_back_pressure(&settings, &text, tally);
        note_rotations(&settings, &place, tally);
    });
}

/// What is more than the lanes hold can only have been written because they were full.
fn note_back_pressure(settings: &Settings, text: &str, tally: &mut Tally) {
    if settings.only_full_lanes && text.len() as u64 > 8 * settings.lane {
        tally.note("stories in which only full lanes were flushed");
    }
}

#[track_caller]
fn note_rotations(settings: &Settings, place: &Place, tally: &mut Tally) {
    let rotated = place.rotated();
    assert_eq!(settings.rotates, !rotated.is_empty(), "{} files", rotated.len());
    rotated.iter().for_each(|_| tally.note("rotations"));
    for name in rotated.iter().filter(|name| name.ends_with(".gz")) {
        tally.note("compressed files");
        // After an end in order.
        let original = name.trim_end_matches(".gz").to_owned();
        assert!(!rotated.contains(&original), "{name} is there as it was as well");
    }
}

#[test]
fn whoever_is_killed_whenever_what_a_producer_has_published_is_written_once_and_in_order() {
    tell("producers", |tally, seed| {
        let place = Place::of(example("test_pipelines"));
        std::fs::create_dir(place.path("published")).expect("a directory");
        let mut story = Story::new(&place, "p", seed, tally);
        let settings = Settings::of(&mut story.seed, "p");
        to_the_end(&mut story, &place, "killed-producers", &settings);
        let text = place.everything();
        let mut last = BTreeMap::new();
        for line in whole_lines(&text) {
            assert_next(&mut last, line);
            let (who, nth) = (value(line, "who").unwrap_or(""), number(line, "nth").unwrap_or(0));
            let pad = "x".repeat((nth * 31 % 200) as usize);
            assert_eq!(line, format!("{{\"who\":\"{who}\",\"nth\":{nth},\"pad\":\"{pad}\"}}"));
        }
        assert_what_was_published_is_there(&place, &last);
        let whole = last.values().filter(|(nth, _)| *nth == settings.count).count();
        assert!(whole >= 2, "both producers have come to their end: {last:?}");
        note_back_pressure(&settings, &text, tally);
        note_rotations(&settings, &place, tally);
    });
}

/// What `emit` has returned for is in the output, and at most one more of each producer: it was
/// killed before it could note it.
#[track_caller]
fn assert_what_was_published_is_there(place: &Place, last: &BTreeMap<&str, (u64, &str)>) {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(place.path("published")).expect("the directory") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("UTF-8");
        let bytes = std::fs::read(entry.path()).expect("a file");
        let published = bytes.try_into().map_or(0, u64::from_le_bytes);
        let written = last.get(name.as_str()).map_or(0, |(nth, _)| *nth);
        let right = (published..=published + 1).contains(&written);
        assert!(right, "{name} has published {published} records, and {written} are written");
        names.insert(name);
    }
    let strange = last.keys().find(|name| !names.contains(**name));
    assert!(strange.is_none(), "records of nobody: {strange:?}");
}

#[track_caller]
fn records(place: &Place) -> Vec<Value> {
    whole_lines(&place.read(OUTPUT))
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// A job that ends its worker fails after three deaths alone; all others have their result.
#[track_caller]
fn assert_only_the_poison_has_failed(place: &Place, jobs: &[String], poison: &str, death: &str) {
    let records = records(place);
    assert_eq!(records.len(), jobs.len());
    let (failed, done): (Vec<&Value>, Vec<&Value>) =
        records.iter().partition(|record| record["ok"] == false);
    assert_eq!(done.len(), jobs.len() - 1);
    let [failed] = failed[..] else { panic!("{} jobs have failed", failed.len()) };
    assert_eq!(failed["job"].as_str(), Some(poison));
    let error = failed["error"].as_str().expect("a reason");
    assert!(error.contains("died 3 times") && error.contains(death), "{error}");
}

#[test]
fn a_function_that_aborts_its_worker_fails_alone_after_three_deaths() {
    for (how, death) in [("abort", "SIGABRT"), ("exit", "exit code 0"), ("segfault", "SIGSEGV")] {
        let place = Place::of(example("test_pipelines"));
        let jobs = place.jobs(40);
        let ended = place.command(&["poison", how]).start().wait();
        ended.assert_exit(3);
        assert_only_the_poison_has_failed(&place, &jobs, "job-13", death);
    }
}

#[test]
fn a_command_that_kills_its_worker_fails_alone_after_three_deaths() {
    let place = Place::new();
    let jobs = place.jobs(40);
    let script = "[ $1 = job-7 ] && kill -9 $PPID; sleep 0.01";
    let options = ["--jobs", "jobs.txt", "-P", "2", "-j", "4"];
    let ended = place.run(&options, &["sh", "-c", script, "sh", "{}"]).start().wait();
    ended.assert_exit(3);
    assert_only_the_poison_has_failed(&place, &jobs, "job-7", "SIGKILL");
}

/// They are in hand at its first death, and would be at each of the others were they run beside it again.
#[test]
fn a_command_that_kills_its_worker_each_time_takes_none_of_its_neighbours_with_it() {
    let place = Place::new();
    let jobs = place.jobs(4);
    let script = "[ $1 = job-2 ] && sleep 0.3 && kill -9 $PPID; sleep 0.8";
    let options = ["--jobs", "jobs.txt", "-P", "1", "-j", "4"];
    let ended = place.run(&options, &["sh", "-c", script, "sh", "{}"]).start().wait();
    ended.assert_exit(3);
    assert_only_the_poison_has_failed(&place, &jobs, "job-2", "SIGKILL");
}

#[test]
fn another_number_of_workers_or_jobs_goes_on_with_what_is_kept() {
    let place = Place::new();
    let jobs = place.jobs(300);
    place.work_script("[ -e calm ] || sleep 0.05");
    let shapes = [
        ["-P", "2", "-j", "2"],
        ["-P", "5", "-j", "1"],
        ["-P", "1", "-j", "3"],
        ["-P", "3", "-j", "2"],
    ];
    let mut seed = Seed::new();
    for shape in shapes {
        let run = place.run_work(&shape).start();
        let before = place.started().len();
        run.until_started((before + 20).min(jobs.len()));
        // In order, or by force: with records in the lanes that no buffer has written.
        match seed.below(2) {
            0 => run.signal(Signal::TERM),
            _ => run.of_program().iter().filter_map(Process::handle).for_each(|handle| {
                handle.send(Signal::KILL);
            }),
        }
        run.wait();
    }
    place.write("calm", "");
    place.run_work(&["-P", "4", "-j", "4"]).start().wait().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}
