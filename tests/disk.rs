//! Disks that are full, fail, or can't be written, and outputs and spools that somebody removes, moves
//! or cuts underfoot: nothing is lost but what others have removed, and what is wrong is said, with
//! what to do about it.

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use support::place::OUTPUT;
use support::{Balance, Ended, Launch, Place, Running, Signal, needs};

/// Small lanes, so that the spool is small as well; every few results are written.
const SMALL: &str = "[spool]\nlane = \"64KiB\"\njobs = 16\njob_bytes = 64\n\
     [buffer]\nflush_records = 4\n";

/// A pipeline of that many jobs, whose spool is not where its output is.
fn place(jobs: usize, output: &str, tables: &str) -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(jobs);
    place.config(&format!("{}{tables}", SMALL.replace("[spool]\n", "[spool]\nfile = \"spool\"\n")));
    let text = place.read("pings.toml").replace("file = \"out.jsonl\"", output);
    place.write("pings.toml", text);
    place.work_script("");
    (place, jobs)
}

fn run(place: &Place) -> Launch<'_> {
    place.command(&["run", "pings.toml"])
}

/// Results of some 1,000 bytes each.
fn long_results(place: &Place) {
    place.work_script("head -c 900 /dev/zero | tr '\\0' x");
}

/// Every ERROR is one that says what to do.
#[track_caller]
fn assert_it_says_what_to_do(ended: &Ended) {
    let errors = ended.stderr.lines().filter(|line| line.contains(" ERROR "));
    let errors: Vec<&str> = errors.collect();
    assert!(!errors.is_empty(), "no error was said\n{}", ended.describe());
    for error in errors {
        assert!(error.contains("start again"), "{error}\n{}", ended.describe());
    }
}

/// Its log, without what strace says of itself.
fn without_strace(mut ended: Ended) -> Ended {
    let lines = ended.stderr.split_inclusive('\n').filter(|line| !line.starts_with("strace: "));
    ended.stderr = lines.collect();
    ended
}

/// With the fault gone it goes on, and each job has its result once.
#[track_caller]
fn goes_on(place: &Place, jobs: &[String]) -> Ended {
    let ended = run(place).finish();
    ended.assert_exit(0);
    Balance::of(&ended.log()).assert_even();
    assert_once(place, jobs, &ended);
    ended
}

#[track_caller]
fn assert_once(place: &Place, jobs: &[String], ended: &Ended) {
    let mut seqs: Vec<u64> = place.everything().lines().map(|line| seq(line, ended)).collect();
    seqs.sort_unstable();
    let all: Vec<u64> = (1..=jobs.len() as u64).collect();
    assert_eq!(seqs, all, "{}", ended.describe());
}

#[track_caller]
fn seq(line: &str, ended: &Ended) -> u64 {
    let result: Result<serde_json::Value, _> = serde_json::from_str(line);
    let seq = result.ok().and_then(|result| result["seq"].as_u64());
    seq.unwrap_or_else(|| panic!("no result: {line:?}\n{}", ended.describe()))
}

/// The run in a namespace of its own, in which `before` has mounted something at `disk`; and a second
/// one, if `between` is to be done before that. What they have written is in OUTPUT then, and the exit
/// code of the first in `first`.
fn mounted<'a>(place: &'a Place, before: &str, between: Option<&str>) -> Launch<'a> {
    std::fs::create_dir_all(place.path("disk")).expect("a place to mount at");
    let again = between.map(|between| {
        format!("echo $code >first; {{ {between}; }} || exit 98; \"$@\"; code=$?\n")
    });
    let again = again.unwrap_or_default();
    let script = format!(
        "{{ {before}; }} || exit 99\n\"$@\"; code=$?\n{again}\
         {{ zcat disk/out.2*.gz; cat disk/out.2*.jsonl disk/out.jsonl; }} >{OUTPUT} 2>/dev/null\n\
         ! ls disk/*.part 2>/dev/null || exit 97\nexit $code"
    );
    run(place).under(&["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh"])
}

/// A file below the run's mounts, as it sees it.
fn seen_by(run: &Running<'_>, path: &Path) -> PathBuf {
    let main = run.supervisor();
    PathBuf::from(format!("/proc/{}/root{}", main.pid, path.display()))
}

const ON_DISK: &str = "file = \"disk/out.jsonl\"";
/// A file system in memory that has room for the results of some 100 jobs, or of all.
const TIGHT: &str =
    "mount -t tmpfs -o size=700k none disk && head -c 600000 /dev/zero >disk/filler";

// Row 14: no room for the output.

#[test]
fn a_full_disk_under_the_output_is_waited_for_with_workers_at_rest_and_then_it_goes_on() {
    let test = "a_full_disk_under_the_output_is_waited_for_with_workers_at_rest";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let (place, jobs) = place(400, ON_DISK, "");
    long_results(&place);
    let run = mounted(&place, TIGHT, None).start();
    let line = run.until_logged("waiting for room, the records are kept");
    assert!(line.message.contains("Make room in disk, and it goes on by itself"), "{line:?}");
    // Lanes of 64 KiB hold some fifty results each, and then no job is begun any more.
    let mut started = (0, 0);
    run.until("the same number of jobs for a while", |_| {
        let now = place.started().len();
        started = if started.0 == now { (now, started.1 + 1) } else { (now, 0) };
        (started.1 >= 40).then_some(())
    });
    assert!(started.0 < jobs.len(), "nobody was held up\n{}", run.describe());
    std::fs::remove_file(seen_by(&run, &place.path("disk/filler"))).expect("make room");
    run.until_logged("there is room again");
    let ended = run.wait();
    ended.assert_exit(0);
    Balance::of(&ended.log()).assert_even();
    assert_once(&place, &jobs, &ended);
    place.assert_each_ran_once(&jobs);
}

#[test]
fn a_stop_on_a_full_disk_exits_with_4_and_the_next_start_writes_what_was_kept() {
    let test = "a_stop_on_a_full_disk_exits_with_4_and_the_next_start_writes_what_was_kept";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let (place, jobs) =
        place(200, ON_DISK, "[shutdown]\ndeadline = \"2s\"\nflush_reserve = \"1s\"\n");
    long_results(&place);
    let run = mounted(&place, TIGHT, Some("rm disk/filler; sed -i s/2s/60s/ pings.toml")).start();
    run.until_logged("waiting for room, the records are kept");
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(0);
    assert_eq!(place.read("first"), "4\n", "{}", ended.describe());
    let log = ended.log();
    let first = log.iter().position(|line| line.message.starts_with("done in ")).expect("an end");
    let kept = Balance::of(&log[..=first]).kept;
    assert!(kept > 0, "{}", ended.describe());
    let second = Balance::of(&log[first + 1..]);
    second.assert_even();
    assert_eq!(second.kept_before, kept);
    assert_once(&place, &jobs, &ended);
}

/// What is left of a disk that is nearly full is filled by half a batch.
#[test]
fn a_recovery_on_a_full_disk_waits_for_room_and_goes_on_behind_the_half_that_is_there() {
    let test = "a_recovery_on_a_full_disk_waits_for_room";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let (place, jobs) = place(200, ON_DISK, "");
    long_results(&place);
    let run = mounted(&place, TIGHT, Some(":")).start();
    run.until_logged("waiting for room, the records are kept");
    for process in run.of_program() {
        process.handle().map(|it| it.send(Signal::KILL));
    }
    // The shell says of the first that it was killed: that is no line of the log.
    run.until("the next start to wait for room as well", |run| {
        let text = run.stderr();
        let (_, next) = text.split_once("going on with the batch that was being written")?;
        next.contains("waiting for room").then_some(())
    });
    std::fs::remove_file(seen_by(&run, &place.path("disk/filler"))).expect("make room");
    let ended = run.wait();
    // Orphans of the first come to this test, which has not looked for them.
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", ended.describe());
    assert_eq!(place.read("first"), "137\n", "{}", ended.describe());
    assert_once(&place, &jobs, &ended);
}

/// Half of a batch is in a file that logrotate has moved, and the rest finds no room.
#[test]
fn a_batch_that_was_begun_in_an_output_that_was_moved_waits_for_room_and_is_finished_there() {
    let test = "a_batch_that_was_begun_in_an_output_that_was_moved_waits_for_room";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let (place, jobs) = place(200, ON_DISK, "");
    long_results(&place);
    let run = mounted(&place, TIGHT, Some("mv disk/out.jsonl disk/out.2.jsonl")).start();
    run.until_logged("waiting for room, the records are kept");
    for process in run.of_program() {
        process.handle().map(|it| it.send(Signal::KILL));
    }
    run.until("the next start to wait for room in the moved output", |run| {
        let text = run.stderr();
        let (_, waits) = text.split_once("out.2.jsonl: No space left on device")?;
        waits.contains("waiting for room").then_some(())
    });
    std::fs::remove_file(seen_by(&run, &place.path("disk/filler"))).expect("make room");
    let ended = run.wait();
    // Orphans of the first come to this test, which has not looked for them.
    assert_eq!((ended.code, ended.signal), (Some(0), None), "{}", ended.describe());
    let told = "out.2.jsonl; appending to a new one";
    assert_eq!(ended.stderr.matches(told).count(), 1, "said once\n{}", ended.describe());
    assert_once(&place, &jobs, &ended);
}

/// Files that were set aside stay as they are, and give way to the output.
#[test]
fn a_disk_that_has_no_room_for_compressed_files_loses_nothing_and_the_output_goes_on() {
    let test = "a_disk_that_has_no_room_for_compressed_files_loses_nothing";
    if !needs(test, &["root", "mount", "unshare", "base64"]) {
        return;
    }
    let output = format!("{ON_DISK}\nrotate_bytes = \"100KiB\"\ncompress = \"gzip\"");
    let (place, jobs) = place(50, &output, "");
    let mut gate = place.gate();
    place.work_script("[ $1 != job-50 ] || : < gate; head -c 3000 /dev/urandom | base64 -w0");
    // One file and its compressed copy fit, and then one as it is; no more.
    let mount = "mount -t tmpfs -o size=232k none disk";
    let copied = mounted(&place, mount, None);
    let run = copied.start();
    let line = run.until_logged("can't be compressed: No space left on device");
    assert!(line.message.contains("it stays as it is, and is tried again after"), "{line:?}");
    gate.open();
    let ended = run.wait();
    ended.assert_exit(0);
    assert_eq!(ended.stderr.matches(" ERROR ").count(), 0, "{}", ended.describe());
    Balance::of(&ended.log()).assert_even();
    assert_once(&place, &jobs, &ended);
}

// Rows 15 and 16: no room for the spool, no inodes.

/// Refused before anything is started, with these words, and nothing is left of it.
#[track_caller]
fn assert_refused(place: &Place, ended: &Ended, words: &[&str]) {
    ended.assert_exit(74);
    for word in words {
        assert!(ended.stderr.contains(word), "nothing of {word:?}\n{}", ended.describe());
    }
    assert!(place.started().is_empty());
    assert!(ended.stderr.contains("start again"), "{}", ended.describe());
}

#[test]
fn a_spool_that_finds_no_room_is_refused_with_the_bytes_that_it_needs_and_leaves_nothing() {
    let test = "a_spool_that_finds_no_room_is_refused";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    let (place, jobs) = place(4, "file = \"out.jsonl\"", "");
    let text = place.read("pings.toml").replace("\"spool\"", "\"disk/spool\"");
    place.write("pings.toml", text);
    let small = "mount -t tmpfs -o size=100k none disk";
    let between = "[ -z \"$(ls -A disk)\" ] && mount -o remount,size=10m disk";
    let ended = mounted(&place, small, Some(&format!("cp {OUTPUT} kept; {between}"))).finish();
    ended.assert_exit(0);
    assert_eq!(place.read("first"), "74\n", "{}", ended.describe());
    let told = "can't reserve 229376 bytes for the spool: No space left on device (os error 28). Make \
                room, then start again";
    assert!(ended.stderr.contains(told), "{}", ended.describe());
    assert_eq!(place.started().len(), jobs.len());
}

#[test]
fn a_file_system_without_inodes_is_refused_before_anything_is_started() {
    let test = "a_file_system_without_inodes_is_refused_before_anything_is_started";
    if !needs(test, &["root", "mount", "unshare"]) {
        return;
    }
    // Its root is one; then there is place for the output and not for the spool, or for neither.
    for (inodes, what) in [(1, "can't open the output"), (2, "can't create the spool")] {
        let (place, _) = place(4, ON_DISK, "");
        let text = place.read("pings.toml").replace("\"spool\"", "\"disk/spool\"");
        place.write("pings.toml", text);
        let mount = format!("mount -t tmpfs -o nr_inodes={inodes} none disk");
        let ended = mounted(&place, &mount, None).finish();
        let told =
            "No space left on device (os error 28): no inodes are left, so it can hold no more";
        assert_refused(&place, &ended, &[what, told]);
    }
}

// Row 17: writes that fail.

/// Under strace, which lets calls of this name on the output fail so.
fn with_failing(place: &Place, call: &str, inject: &str) -> Ended {
    let (file, output) = (place.private("trace"), place.path(OUTPUT));
    let (file, output) = (file.to_str().expect("UTF-8"), output.to_str().expect("UTF-8"));
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{inject}"));
    let strace = ["strace", "-f", "-o", file, "-P", output, "-e", &trace, "-e", &inject];
    without_strace(run(place).under(&strace).finish())
}

#[test]
fn a_write_that_fails_ends_with_74_commits_nothing_of_it_and_the_next_start_writes_it() {
    if !needs("a_write_that_fails_ends_with_74", &["strace"]) {
        return;
    }
    for (error, when, way_out) in [
        ("EIO", "3+", "dmesg says more"),
        ("EROFS", "1+", "mount it to be written"),
        ("ENXIO", "1+", "has failed"),
        ("EPERM", "1+", "Give this user the right to it"),
    ] {
        let (place, jobs, ended) = loop {
            let (place, jobs) = place(60, "file = \"out.jsonl\"", "");
            let ended = with_failing(&place, "write", &format!("error={error}:when={when}"));
            // A buffer that was late has written all of it with two calls.
            if (when, ended.code) != ("3+", Some(0)) {
                break (place, jobs, ended);
            }
        };
        ended.assert_exit(74);
        assert_it_says_what_to_do(&ended);
        assert!(ended.stderr.contains(way_out), "{}", ended.describe());
        let balance = Balance::of(&ended.log());
        balance.assert_even();
        // Another buffer tries once more at the stop, and its first two writes may come through.
        assert!(balance.kept > 0 || when != "1+", "{}", ended.describe());
        assert_eq!(balance.written, place.results().len() as u64, "{}", ended.describe());
        let again = goes_on(&place, &jobs);
        assert_eq!(Balance::of(&again.log()).kept_before, balance.kept, "{}", again.describe());
    }
}

// Row 19: interrupted and short writes.

#[test]
fn interrupted_writes_are_invisible() {
    if !needs("interrupted_writes_are_invisible", &["strace"]) {
        return;
    }
    let (place, jobs) = place(60, "file = \"out.jsonl\"", "");
    let ended = with_failing(&place, "write", "error=EINTR:when=1+2");
    ended.assert_exit(0);
    assert_eq!(ended.stderr.matches(" ERROR ").count(), 0, "{}", ended.describe());
    assert_eq!(ended.stderr.matches(" WARN ").count(), 1, "{}", ended.describe());
    assert_once(&place, &jobs, &ended);
}

/// A limit of the length of files makes the write short that reaches it.
fn limited<'a>(place: &'a Place, bytes: u64) -> Launch<'a> {
    run(place).under(&["prlimit", &format!("--fsize={bytes}")])
}

#[test]
fn short_writes_lose_nothing_and_a_limit_of_files_ends_with_74_that_names_it_and_what_to_do() {
    if !needs("short_writes_lose_nothing", &["prlimit"]) {
        return;
    }
    let (place, jobs) = place(400, "file = \"out.jsonl\"", "");
    long_results(&place);
    let ended = limited(&place, 300_001).finish();
    ended.assert_exit(74);
    let told = "out.jsonl: can't write the output: File too large (os error 27): it has 300001 bytes, \
                and files of this process may have 300001 at the most; what is not written is kept in \
                the spool. Raise that limit (ulimit -f, LimitFSIZE=), or set output.rotate_bytes to \
                less, then start again";
    assert!(ended.stderr.contains(told), "{}", ended.describe());
    assert_eq!(place.read(OUTPUT).len(), 300_001);
    Balance::of(&ended.log()).assert_even();
    // Lines are of any length: one of a thousand runs has the end of one just there.
    let is_torn = !place.read(OUTPUT).ends_with('\n');
    let again = goes_on(&place, &jobs);
    let goes_on = again.stderr.contains("going on with the batch that was being written: ");
    assert!(goes_on || !is_torn, "{}", again.describe());
}

#[test]
fn a_rotated_output_at_the_limit_of_files_is_set_aside_whole_and_a_new_one_begun() {
    if !needs("a_rotated_output_at_the_limit_of_files_is_set_aside", &["prlimit"]) {
        return;
    }
    for sync in ["always", "1s", "never"] {
        let rotated = format!("file = \"out.jsonl\"\nrotate_bytes = \"1GiB\"\nsync = \"{sync}\"");
        let (place, jobs) = place(900, &rotated, "");
        long_results(&place);
        let ended = limited(&place, 300_001).finish();
        ended.assert_exit(0);
        assert!(place.rotated().len() >= 3, "{:?}", place.files());
        for name in place.rotated() {
            let text = place.read(&name);
            assert!(text.ends_with('\n') && text.len() <= 300_001, "{name}: {}", text.len());
        }
        let told = "is as long as a file may be here; going on in a new one";
        assert_eq!(ended.stderr.matches(told).count(), 1, "said once\n{}", ended.describe());
        Balance::of(&ended.log()).assert_even();
        assert_once(&place, &jobs, &ended);
        place.assert_each_ran_once(&jobs);
    }
}

/// Names of the files that were synced before the stop was asked for, and from then on.
fn syncs(trace: &str) -> (Vec<&str>, Vec<&str>) {
    fn of_file(line: &str) -> Option<&str> {
        let (_, call) = line.split_once("fdatasync(")?;
        call.split_once('>')?.0.rsplit('/').next()
    }
    let (before, behind) = trace.split_once("--- SIGTERM").unwrap_or((trace, ""));
    (before.lines().filter_map(of_file).collect(), behind.lines().filter_map(of_file).collect())
}

#[test]
fn a_stop_syncs_what_is_new_since_the_last_sync_and_nothing_if_nothing_is() {
    if !needs("a_stop_syncs_what_is_new", &["strace"]) {
        return;
    }
    const SPOOL: &str = ".out.jsonl.spool";
    // A bad job is put back, which writes no record, and waits for its next attempt. What becomes of it
    // is not followed: it is a reason for a sync whether it was handed out after the last one or before.
    for (bad_before, bad_behind) in [(false, false), (false, true), (true, false)] {
        let at_the_stop: &[&str] = if bad_before || bad_behind { &[SPOOL] } else { &[] };
        let place = Place::new();
        let mut pipe = place.pipe("jobs.txt");
        place.work_script("[ \"$1\" != bad ]");
        place.config("attempts = 2\nretry_delay = \"1h\"\n");
        let trace = place.private("trace");
        let file = trace.to_str().expect("UTF-8");
        let strace = ["strace", "-f", "-y", "-o", file, "-e", "trace=fdatasync"];
        let run = place.command(&["run", "pings.toml"]).under(&strace).start();
        // A sync is of the spool, the output, and of the spool with the books. The first is of what is
        // found at the start.
        let until_synced = |times: usize| {
            run.until("a sync", |run| {
                assert!(!run.has_ended(), "{}", run.describe());
                let text = std::fs::read_to_string(&trace).unwrap_or_default();
                let synced = [SPOOL, "out.jsonl", SPOOL].repeat(times);
                syncs(&text).0.ends_with(&synced).then_some(())
            });
        };
        until_synced(1);
        let hand_out_bad = |mut pipe: &std::fs::File| {
            pipe.write_all(b"bad\n").expect("a job");
            run.until("a job that waits for its next attempt", |_| {
                let status = place.command(&["status", "--json", SPOOL]).finish();
                status.stdout.contains("\"waiting_for_retry\":1").then_some(())
            });
        };
        if bad_before {
            hand_out_bad(&pipe);
        }
        pipe.write_all(b"good\n").expect("a job");
        until_synced(2);
        run.until_written(1);
        if bad_behind {
            hand_out_bad(&pipe);
        }
        run.signal(Signal::TERM);
        run.wait();
        let text = std::fs::read_to_string(&trace).expect("a trace");
        assert_eq!(syncs(&text).1, at_the_stop, "{text}");
        let jobs = if bad_before { ["bad", "good"] } else { ["good", "bad"] };
        place.results().assert_at_most_once(&jobs.map(String::from));
    }
}
