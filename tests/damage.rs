//! A spool that was damaged, or outlived a power loss: it never stands in the way of a start, what is
//! torn is put aside and told of, and what can be done again is.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use support::place::SPOOL;
use support::{Balance, Ended, Place, Signal, wait_until};

const JOBS: usize = 60;
/// Bytes of a lane, as the place's configuration says.
const LANE: u64 = 1 << 17;

/// A place whose jobs' results are never flushed before the end.
fn place() -> Place {
    let place = Place::new();
    place.jobs(JOBS);
    // However late it is killed, some are left then.
    place.work_script("[ ${1#job-} -le 34 ] || until [ -e calm ]; do sleep 0.02; done; sleep 0.02");
    let tables = format!(
        "[buffer]\nflush_after = \"1h\"\n\n[spool]\nlane = \"{LANE}\"\n\n[shutdown]\ndeadline = \"20s\"\n\
         flush_reserve = \"19s\"\n"
    );
    place.config(&tables);
    place
}

/// Runs until so many jobs have been started, then kills everything.
fn kill_all(place: &Place, started: usize) {
    let run = place.start();
    run.until_started(started);
    for process in run.of_program() {
        if let Some(handle) = process.handle() {
            handle.send(Signal::KILL);
        }
    }
    wait_until("the end of all", support::WATCHDOG, || run.of_program().is_empty().then_some(()));
    run.wait();
}

/// The spool, and where the ring of this lane begins in it: the rings stand at its end.
fn ring(place: &Place, lane: u64) -> (File, u64) {
    let file = File::options().read(true).write(true).open(place.path(SPOOL)).expect("the spool");
    let len = file.metadata().expect("its length").len();
    (file, len - (2 - lane) * LANE)
}

fn finish(place: &Place, boot: Option<&str>) -> Ended {
    place.write("calm", "");
    // As long as it takes: a sync of a busy disk can take seconds.
    let run = place.command(&["run", "pings.toml", "--deadline", "60s"]);
    let ended = match boot {
        Some(boot) => run.env("PROCSIG_TEST_BOOT_ID", boot).finish(),
        None => run.finish(),
    };
    ended.assert_exit(0);
    Balance::of(&ended.log()).assert_even();
    ended
}

#[test]
fn a_damaged_lane_is_put_aside_and_its_jobs_are_run_again() {
    for lane in 0..2 {
        // A worker may be so late that it has published nothing.
        let published = (0..5).find_map(|_| {
            let place = place();
            kill_all(&place, JOBS / 2);
            let (file, ring) = ring(&place, lane);
            let mut bytes = [0; 40];
            file.read_exact_at(&mut bytes, ring + 100).expect("read");
            (bytes != [0; 40]).then_some((place, file, ring))
        });
        let (place, file, ring) = published.expect("something is published in each lane");
        file.write_all_at(&[0xa5; 40], ring + 100).expect("write");
        let ran = place.started().len();
        let ended = finish(&place, None);
        place.results().assert_exactly_once(&place.jobs(JOBS));
        let again = JOBS - ran;
        assert!(place.started().len() > ran + again, "a job of the damaged range is run again");
        let aside = place.read("out.jsonl.quarantine");
        assert!(aside.contains("job-"), "{aside:?}");
        assert!(
            ended.stderr.contains("are damaged; moved to out.jsonl.quarantine"),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains("jobs whose results are damaged are run again"));
        assert!(ended.stderr.contains(" quarantined; jobs:"), "{}", ended.stderr);
    }
}

#[test]
fn a_tail_that_no_worker_has_stored_loses_nothing() {
    let place = place();
    kill_all(&place, JOBS / 2);
    let (file, ring) = ring(&place, 0);
    // The page of each lane's producer stands before those of the consumers and the rings.
    let producer = ring - 2 * 4096 - 2 * 4096;
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, producer).expect("read");
    assert!((1..LANE).contains(&u64::from_le_bytes(tail)), "{tail:?}");
    file.write_all_at(&u64::MAX.to_le_bytes(), producer).expect("write");
    let ended = finish(&place, None);
    place.results().assert_exactly_once(&place.jobs(JOBS));
    assert!(ended.stderr.contains("its tail is damaged"), "{}", ended.stderr);
}

#[test]
fn a_job_whose_text_was_damaged_fails_and_says_so_and_is_never_run() {
    let place = place();
    let mut gate = place.gate();
    place.work_script(": < gate");
    kill_all(&place, 4);
    let spool = std::fs::read(place.path(SPOOL)).expect("the spool");
    let text = b"job-50";
    let at = spool.windows(text.len()).position(|bytes| bytes == text).expect("a waiting job");
    let (file, _) = ring(&place, 0);
    file.write_all_at(b"job-66", at as u64).expect("write");
    gate.open();
    let ended = place.command(&["run", "pings.toml", "--deadline", "60s"]).finish();
    ended.assert_exit(3);
    assert!(ended.stderr.contains("1 jobs are damaged, and fail"), "{}", ended.stderr);
    let results = place.results();
    assert_eq!(results.len(), JOBS);
    let failed = results.of(50);
    assert_eq!(failed["ok"], false);
    let error = failed["error"].as_str().expect("a reason");
    assert!(error.contains("damaged"), "{error}");
    assert!(!place.started().contains(&"job-66".to_owned()));
}

#[test]
fn after_another_boot_what_the_lanes_have_is_written_once() {
    for written in [false, true] {
        let place = place();
        kill_all(&place, JOBS / 2);
        if written {
            // The results of the first run reach the output by a second one, of whose commits the
            // disk has heard nothing.
            let spool = std::fs::read(place.path(SPOOL)).expect("the spool");
            let gate = place.gate();
            place.work_script(": < gate");
            let run = place.start();
            run.until_logged(" before it are kept, and done first");
            run.signal(Signal::TERM);
            run.wait().assert_exit(4);
            drop(gate);
            assert!(place.results().len() > JOBS / 4);
            std::fs::write(place.path(SPOOL), spool).expect("the spool of before");
            std::fs::remove_file(place.path("gate")).expect("the gate");
            place.work_script("");
        }
        let ended = finish(&place, Some("abc"));
        place.results().assert_exactly_once(&place.jobs(JOBS));
        assert!(ended.stderr.contains("the machine was booted since the last run"));
    }
}
