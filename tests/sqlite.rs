//! SQLite as the output: each row once, whoever is killed. Needs the feature `sqlite`.

mod support;

use rusqlite::Connection;
use std::collections::BTreeMap;
use support::kills::{Outcome, Story, Tally, lines};
use support::{Balance, Place, Seed, Signal, example, needs};

/// Kills of the buffer.
const KILLS: u64 = 100;
const JOBS: u64 = 3000;

fn database(place: &Place) -> Connection {
    Connection::open(place.path("out.db")).expect("the database")
}

/// How often each part of each job is there.
fn parts(place: &Place) -> BTreeMap<(u64, u64), u64> {
    let database = database(place);
    let mut rows = database.prepare("SELECT job, part, count(*) FROM parts GROUP BY job, part");
    let rows = rows.as_mut().expect("a table");
    rows.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))
        .expect("rows")
        .collect::<Result<_, _>>()
        .expect("rows")
}

fn expected(times: u64) -> BTreeMap<(u64, u64), u64> {
    let done = (1..=JOBS).filter(|job| job % 7 != 0);
    done.flat_map(|job| [((job, 1), times), ((job, 2), times)]).collect()
}

#[track_caller]
fn assert_parts(place: &Place, times: u64) {
    let (parts, expected) = (parts(place), expected(times));
    let wrong: Vec<_> = parts.iter().filter(|(part, n)| expected.get(part) != Some(n)).collect();
    assert!(wrong.is_empty(), "there, and not {times} times: {wrong:?}");
    assert_eq!(parts.len(), expected.len());
}

#[test]
fn each_row_is_there_once_after_a_hundred_kills_of_the_buffer() {
    let mut seed = Seed::new();
    let mut kills = 0;
    while kills < KILLS {
        let place = Place::of(example("test_sinks"));
        place.jobs(JOBS as usize);
        let run = place.command(&["sqlite", "q"]).start();
        kills += run.kill_buffers(&mut seed, KILLS - kills);
        let mut ended = run.wait();
        if ended.code == Some(1) {
            // In a stop a buffer is started only once more; if that is killed, the next start goes on.
            ended.assert_nothing_left();
            ended = place.command(&["sqlite", "q"]).finish();
        }
        ended.assert_exit(3);
        assert_parts(&place, 1);
    }
}

#[test]
fn each_row_is_there_once_whoever_is_killed() {
    let mut tally = Tally::of("sqlite", true);
    let first = Seed::new().start();
    for seed in first.. {
        let place = Place::of(example("test_sinks"));
        place.jobs(JOBS as usize);
        let mut story = Story::new(&place, "sql", seed, &mut tally);
        let ended = loop {
            let natural = match story.start(place.command(&["sqlite", "sql"])) {
                Outcome::Killed => continue,
                Outcome::Ended(natural) => natural,
            };
            Balance::of(&lines(&natural.ended)).assert_even();
            if natural.ended.code == Some(3) {
                break natural.ended;
            }
            let codes = [Some(1), Some(4), Some(5)];
            assert!(codes.contains(&natural.ended.code), "{}", natural.ended.describe());
        };
        story.assert_nobody_left(&ended);
        // A list whose end was not noted is begun again.
        let begun = 1 + story.done_and_killed;
        let times = parts(&place).get(&(1, 1)).copied().unwrap_or(0);
        assert!((1..=begun).contains(&times), "begun {times} times, of {begun}");
        if !ended.stderr.contains("died 3 times") {
            assert_parts(&place, times);
        }
        if tally.kills() >= KILLS {
            break;
        }
    }
}

#[test]
fn a_database_that_somebody_else_has_locked_is_waited_for() {
    let place = Place::of(example("test_sinks"));
    place.jobs(JOBS as usize);
    let other = database(&place);
    other.execute_batch("BEGIN EXCLUSIVE").expect("nobody else has it");
    let run = place.command(&["sqlite", "l"]).start();
    run.until_logged("trying again, the records are kept");
    other.execute_batch("ROLLBACK").expect("let go");
    run.wait().assert_exit(3);
    assert_parts(&place, 1);
}

#[test]
fn a_stop_and_another_start_go_on_in_the_same_table() {
    let place = Place::of(example("test_sinks"));
    place.jobs(JOBS as usize);
    let run = place.command(&["sqlite", "s"]).start();
    run.until("a row", |run| {
        let _still_running = run;
        (place.files().contains("out.db") && rows(&place) > 0).then_some(())
    });
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
    for _ in 0..2 {
        place.command(&["sqlite", "s"]).finish().assert_exit(3);
    }
    // The second start has done the list once more.
    assert_parts(&place, 2);
    let spools: u64 = database(&place)
        .query_row("SELECT count(*) FROM procsig_batches", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(spools, 1, "all of them are the same spool's");
    assert!(!place.files().contains("out.db-wal"), "it is closed in order");
}

/// Rows so far; none while there is no table.
fn rows(place: &Place) -> u64 {
    let count = "SELECT count(*) FROM parts";
    database(place).query_row(count, [], |row| row.get(0)).unwrap_or(0)
}

#[test]
fn results_of_commands_are_rows_whatever_they_came_to() {
    let place = Place::new();
    place.jobs(4);
    place.work_script("[ $1 = job-2 ] && exit 3; echo did $1");
    let text = "[jobs]\nlines = \"jobs.txt\"\n[workers.w]\ncommand = [\"sh\", \"work.sh\", \"{}\"]\n\
                [output]\nformat = \"sqlite\"\nfile = \"out.db\"\ntable = \"work\"\n";
    place.write("rows.toml", text);
    place.command(&["run", "rows.toml"]).finish().assert_exit(3);
    let database = database(&place);
    let sql = "SELECT seq || ' ' || ok || ' ' || exit || ' ' || stdout FROM work ORDER BY seq";
    let mut rows = database.prepare(sql).expect("a table");
    let rows = rows.query_map([], |row| row.get(0)).expect("rows");
    let rows: Vec<String> = rows.collect::<Result<_, _>>().expect("rows");
    let good = |job| format!("{job} 1 0 did job-{job}\n");
    assert_eq!(rows, [good(1), "2 0 3 ".into(), good(3), good(4)]);
}

/// As of every other file: SECURITY.md.
#[test]
fn a_database_behind_a_link_of_somebody_else_is_refused_and_nothing_is_written_there() {
    let test = "a_database_behind_a_link_of_somebody_else_is_refused_and_nothing_is_written_there";
    if !needs(test, &["root"]) {
        return;
    }
    let place = Place::of(example("test_sinks"));
    place.jobs(3);
    let (link, target) = (place.path("out.db"), place.private("elsewhere.db"));
    std::os::unix::fs::symlink(&target, &link).expect("a link");
    std::os::unix::fs::lchown(&link, Some(65534), Some(65534)).expect("given away");
    let ended = place.command(&["sqlite", "q"]).finish();
    ended.assert_exit(74);
    assert!(ended.stderr.contains("symbolic link of user 65534"), "{}", ended.describe());
    assert!(!target.exists(), "it was followed");
    // One's own is.
    std::os::unix::fs::lchown(&link, Some(0), Some(0)).expect("taken back");
    place.command(&["sqlite", "q"]).finish().assert_exit(0);
    assert!(target.exists());
}
