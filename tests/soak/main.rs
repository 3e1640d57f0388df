//! The soak: pipelines of all kinds side by side, for as long as one likes, with everything that may
//! happen to them: kills of anybody, stops, processes that stand still, hang-ups, an output that is moved
//! away, full disks. Whatever happened, each outcome is there once and in order, each balance is true, and
//! nothing grows: neither memory nor descriptors nor the spool nor files nor processes.
//!
//! `tests/soak.sh [MINUTES]` runs it for an hour, and leaves what it came to in `tests/soak.txt`. Among the
//! other tests the same runs for some seconds.
//!
//! All of it happens in a mount namespace of its own, with a small file system in memory for each pipeline:
//! that is the disk that is full now and then. Two pipelines are *steady*: their main, source and buffer live
//! as long as the soak, so that it can be seen whether these grow.

mod events;
mod lane;
mod ledger;
mod pipelines;
mod samples;
#[path = "../support/mod.rs"]
mod support;

use lane::{Lane, Soak};
use pipelines::{PLANS, Plan};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;
use support::{Seed, needs, tool};

/// Says that this is the process in the namespace of its own.
const INSIDE: &str = "PROCSIG_TEST_SOAK_INSIDE";
/// For how long.
const MINUTES: &str = "PROCSIG_TEST_SOAK_MINUTES";
/// Where what it came to is left.
const RESULT: &str = "PROCSIG_TEST_SOAK_RESULT";

#[test]
fn whatever_happens_to_pipelines_of_all_kinds_nothing_is_lost_doubled_or_left_and_nothing_grows() {
    let test = "whatever_happens_to_pipelines_of_all_kinds_nothing_is_lost_doubled_or_left_and_nothing_grows";
    let (time, gap, look) =
        (Duration::from_secs(15), Duration::from_millis(300), Duration::from_millis(200));
    inside(test, time, || soak(Soak::new(time, gap, look, 200)));
}

#[test]
#[ignore = "an hour, or PROCSIG_TEST_SOAK_MINUTES; see tests/soak.sh"]
fn an_hour_of_everything_that_may_happen_loses_doubles_and_leaves_nothing_and_nothing_grows() {
    let test =
        "an_hour_of_everything_that_may_happen_loses_doubles_and_leaves_nothing_and_nothing_grows";
    let minutes: f64 = match std::env::var(MINUTES) {
        Ok(text) => text.parse().expect("PROCSIG_TEST_SOAK_MINUTES is a number"),
        Err(_) => 60.0,
    };
    let time = Duration::from_secs_f64(minutes * 60.0);
    let (gap, look) = (Duration::from_millis(1500), Duration::from_secs(2));
    inside(test, time, || soak(Soak::new(time, gap, look, 1500)));
}

/// Runs the test once more in a mount namespace of its own, and there what it is.
#[track_caller]
fn inside(test: &str, time: Duration, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    if !needs(test, &["root", "mount", "umount", "unshare", "setsid", "setpriv"]) {
        return;
    }
    let itself = std::env::current_exe().expect("this program");
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "unshare", "--mount", "--propagation", "private", "--"])
        .arg(itself);
    command.args([test, "--exact", "--include-ignored", "--nocapture"]).env(INSIDE, "1");
    // Several runs go on at the same time, so not all that comes to us is of one of them.
    command.env_remove("NEXTEST");
    if time > Duration::from_secs(60) {
        // Whoever waits for so long wants to see it.
        let status = command.status().expect("unshare");
        assert!(status.success(), "{status}");
    } else {
        let output = command.output().expect("unshare");
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}", output.status);
    }
}

#[track_caller]
fn soak(soak: Soak) {
    // It says itself what repeats it: each pipeline has numbers of its own.
    let seed = Seed::new().start();
    eprintln!("soak: PROCSIG_TEST_SEED={seed}");
    let mut lanes = Vec::new();
    std::thread::scope(|scope| {
        let started: Vec<_> = (0..)
            .zip(PLANS)
            .map(|(number, plan)| {
                let (soak, seed) = (&soak, seed.wrapping_add(number));
                scope.spawn(move || one(plan, soak, seed))
            })
            .collect();
        lanes = started.into_iter().map(|lane| lane.join().expect("caught")).collect();
    });
    let (tables, errors): (Vec<String>, Vec<Vec<String>>) = lanes.into_iter().unzip();
    let errors = errors.concat();
    let report = report(&soak, seed, &tables.concat(), &errors);
    eprintln!("{report}");
    if let Some(path) = std::env::var_os(RESULT) {
        std::fs::write(path, report).expect("the result");
    }
    assert!(
        errors.is_empty(),
        "PROCSIG_TEST_SEED={seed} draws the same numbers again: {errors:#?}"
    );
}

/// One pipeline, in a small file system of its own. What was measured, and what is wrong.
fn one(plan: Plan, soak: &Soak, seed: u64) -> (String, Vec<String>) {
    let mut place = plan.place(|place| {
        let disk = place.path("");
        let disk = disk.to_str().expect("UTF-8");
        let mounted = tool("mount", &["-t", "tmpfs", "-o", "size=12m", "soak", disk]);
        assert!(mounted.status.success(), "{mounted:?}");
    });
    let mut numbers = Seed::of(seed);
    let outcome =
        catch_unwind(AssertUnwindSafe(|| Lane::new(plan, &place, soak, &mut numbers).run()));
    let disk = place.path("");
    let disk = disk.to_str().expect("UTF-8");
    let outcome = outcome.unwrap_or_else(|_| {
        soak.failed.store(true, Ordering::Relaxed);
        // The file system is gone with the last of its processes.
        let kept = place.private("disk");
        tool("cp", &["-a", disk, kept.to_str().expect("UTF-8")]);
        place.keep();
        (String::new(), vec![format!("{}: failed; kept in {}", plan.name, kept.display())])
    });
    tool("umount", &["--lazy", disk]);
    outcome
}

fn report(soak: &Soak, seed: u64, table: &str, errors: &[String]) -> String {
    let mut report = String::new();
    let names: Vec<&str> = PLANS.iter().map(|plan| plan.name).collect();
    let minutes = soak.began.elapsed().as_secs_f64() / 60.0;
    let tally = soak.tally();
    let sum = |begin: &str| -> u64 {
        tally.iter().filter(|(what, _)| what.starts_with(begin)).map(|(_, count)| count).sum()
    };
    let _ = writeln!(report, "seed        {seed}");
    let _ = writeln!(report, "minutes     {minutes:.1}");
    let _ = writeln!(report, "pipelines   {} ({})", names.len(), names.join(", "));
    let _ = writeln!(report, "runs        {}", sum("runs"));
    let _ = writeln!(report, "kills       {}", sum("kills: "));
    let _ = writeln!(report, "records     {}, each written once", sum("records of "));
    let verdict = if errors.is_empty() { "nothing is wrong" } else { "FAILED" };
    let _ = writeln!(report, "verdict     {verdict}");
    for error in errors {
        let _ = writeln!(report, "            {error}");
    }
    let _ = writeln!(report, "\nCounted:\n");
    for (what, count) in &tally {
        let _ = writeln!(report, "{count:8}  {what}");
    }
    let _ = writeln!(
        report,
        "\nMeasured, the middle of the first quarter and of the last, and the most:\n"
    );
    let _ = writeln!(
        report,
        "{:8} {:11} {:21} {:>9} {:>9} {:>9} {:>7}",
        "pipeline", "role", "what", "first", "last", "most", "looks"
    );
    report + table
}
