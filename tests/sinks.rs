//! Sinks of a program's own, dead letters, and the formats of an output: each record once, whoever is
//! killed.

mod support;

use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use support::kills::{Outcome, Story, Tally, lines};
use support::place::{OUTPUT, SPOOL};
use support::{Balance, Ended, Place, Seed, Signal, example};

/// Kills of the buffer for each kind of sink.
const KILLS: u64 = 30;
const JOBS: u64 = 1500;

fn place() -> Place {
    Place::of(example("test_sinks"))
}

/// Runs a pipeline whose buffer is killed again and again, until there were enough kills. `check` is
/// told of each place when its list is done.
fn kill_buffers(arguments: &[&str], check: impl Fn(&Place)) {
    let mut seed = Seed::new();
    let mut kills = 0;
    while kills < KILLS {
        let place = place();
        place.jobs(JOBS as usize);
        let run = place.command(arguments).start();
        kills += run.kill_buffers(&mut seed, KILLS - kills);
        let mut ended = run.wait();
        if ended.code == Some(1) {
            // In a stop a buffer is started only once more; if that is killed, the next start goes on.
            ended.assert_nothing_left();
            ended = place.command(arguments).finish();
        }
        ended.assert_exit(3);
        check(&place);
    }
}

/// Both records of each job are there once, and none of those that have failed.
#[track_caller]
fn assert_parts_once(parts: impl Iterator<Item = (u64, u64)>, jobs: u64) {
    let mut count = BTreeMap::new();
    for part in parts {
        *count.entry(part).or_insert(0) += 1;
    }
    let expected = (1..=jobs).filter(|job| job % 7 != 0).flat_map(|job| [(job, 1), (job, 2)]);
    let expected: BTreeMap<(u64, u64), i32> = expected.map(|part| (part, 1)).collect();
    let wrong: Vec<_> = count.iter().filter(|(part, n)| expected.get(part) != Some(n)).collect();
    assert!(wrong.is_empty(), "there, and not once: {wrong:?}");
    let missing: Vec<_> = expected.keys().filter(|part| !count.contains_key(part)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
}

/// The two numbers of each line.
fn pairs(text: &str) -> impl Iterator<Item = (u64, u64)> {
    text.lines().map(|line| {
        let (job, part) = line.split_once(' ').expect("two numbers");
        (job.parse().expect("a job"), part.parse().expect("a part"))
    })
}

/// Spools that batches have come from, and all that is in them.
#[track_caller]
fn batches(place: &Place) -> (usize, String) {
    let mut text = String::new();
    let mut directories = place.files();
    directories.retain(|name| name.starts_with("batches-"));
    for directory in &directories {
        for entry in std::fs::read_dir(place.path(directory)).expect("the batches") {
            let entry = entry.expect("a batch");
            if entry.file_name() != "unfinished" {
                text += &std::fs::read_to_string(entry.path()).expect("a batch");
            }
        }
    }
    (directories.len(), text)
}

#[test]
fn a_sink_that_knows_its_batches_has_each_record_once_after_kills_of_the_buffer() {
    kill_buffers(&["transactional"], |place| {
        let (_, text) = batches(place);
        assert_parts_once(pairs(&text), JOBS);
    });
}

#[test]
fn a_sink_that_goes_back_has_each_record_once_after_kills_of_the_buffer() {
    for sync in ["always", "now-and-then"] {
        kill_buffers(&["rewinding", sync], |place| {
            assert_parts_once(pairs(&place.read("own.txt")), JOBS);
        });
    }
}

/// The spool is built anew: what is kept is written before, by a process of its own, and the new spool
/// goes on with the numbers of the old one.
#[test]
fn another_number_of_workers_goes_on_with_what_an_own_sink_has_not_got_yet() {
    let place = place();
    place.jobs(JOBS as usize);
    for processes in ["2", "3", "1", "2"] {
        let run = place.command(&["transactional", processes]).start();
        let before = batches(&place).1.len();
        run.until("a batch", |_| (batches(&place).1.len() > before).then_some(()));
        for process in run.of_program() {
            if let Some(handle) = process.handle() {
                handle.send(Signal::KILL);
            }
        }
        run.wait_for_main();
    }
    let ended = place.command(&["transactional", "4"]).finish();
    ended.assert_exit(3);
    assert!(ended.stderr.contains("built anew in another size"), "{}", ended.stderr);
    let (spools, text) = batches(&place);
    assert_parts_once(pairs(&text), JOBS);
    assert_eq!(spools, 1);
}

/// The process in which that is done waits for its sink, and nobody knows of it but main.
#[test]
fn a_main_that_dies_while_the_spool_is_built_anew_leaves_nobody_behind() {
    let place = place();
    place.jobs(10);
    for processes in ["1", "2"] {
        let run = place.command(&["failing", "busy", processes]).start();
        run.until_logged("the server is being started");
        let others: Vec<_> = run.of_program().iter().filter_map(|it| it.handle()).collect();
        if processes == "1" {
            let _sent = others.iter().filter(|other| other.send(Signal::KILL)).count();
        } else {
            run.signal(Signal::KILL);
        }
        for other in &others {
            assert!(other.wait(Duration::from_secs(10)), "somebody is left behind");
        }
        run.wait_for_main();
    }
}

#[cfg(feature = "bincode")]
#[test]
fn records_may_travel_in_bincode() {
    kill_buffers(&["bincode"], |place| {
        assert_parts_once(pairs(&place.read("own.txt")), JOBS);
    });
}

/// A row of comma-separated values, and what follows it.
fn row(text: &str) -> (Vec<String>, &str) {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(mut quoted) = rest.strip_prefix('"') {
            loop {
                let (part, behind) = quoted.split_once('"').expect("a closing quote");
                field += part;
                // Two quotes are one.
                let Some(more) = behind.strip_prefix('"') else {
                    rest = behind;
                    break;
                };
                field.push('"');
                quoted = more;
            }
        } else {
            let end = rest.find([',', '\n']).expect("the end of a row");
            field.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return (fields, rest.strip_prefix('\n').expect("the end of a row")),
        }
    }
}

#[test]
fn rows_with_line_ends_and_quotes_are_there_once_after_kills_of_the_buffer() {
    kill_buffers(&["csv", "c"], |place| {
        let text = place.read("out.csv");
        let mut rest = text.strip_prefix("job,part,text\n").expect("a header");
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let (fields, behind) = row(rest);
            rest = behind;
            let [job, part, text] = &fields[..] else { panic!("{fields:?}") };
            assert_eq!(text, &format!("job-{job}, \"quoted\"\nand more"));
            parts.push((job.parse().expect("a job"), part.parse().expect("a part")));
        }
        assert_parts_once(parts.into_iter(), JOBS);
    });
}

#[test]
fn text_is_written_as_it_is_and_what_is_two_lines_fails() {
    let place = place();
    place.write("jobs.txt", "one \"1\"\ntwo\nthree\n");
    let ended = place.command(&["lines"]).finish();
    ended.assert_exit(3);
    let mut lines: Vec<String> = place.read("out.txt").lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["one \"1\"", "three"]);
    assert!(ended.stderr.contains("a record has a newline (byte 1 of 4)"), "{}", ended.stderr);
}

#[test]
fn a_sink_that_fails_for_good_is_an_ordered_stop_with_74_and_its_words() {
    for (how, words) in [
        ("open", "can't open the sink: no such server"),
        ("write", "can't write the output: the table is gone"),
        ("panic", "can't write the output: panicked: lost its head"),
    ] {
        let place = place();
        place.jobs(20);
        let ended = place.command(&["failing", how]).finish();
        ended.assert_exit(74);
        assert!(ended.stderr.contains(words), "{}", ended.describe());
        assert!(place.files().contains(".sinks.spool"), "what was published is kept");
    }
}

#[test]
fn a_sink_that_hangs_or_asks_for_patience_is_ended_at_the_deadline_and_nothing_is_lost() {
    for how in ["hang", "busy"] {
        let place = place();
        // More than the lanes hold.
        place.jobs(3000);
        let run = place.command(&["failing", how]).start();
        let buffer = run.role(2, "buffer");
        assert_eq!(buffer.len(), 1);
        if how == "busy" {
            run.until_logged("the server is being started; trying again, the records are kept");
        }
        run.signal(Signal::TERM);
        let ended = run.wait();
        ended.assert_exit(4);
        let balance = Balance::of(&ended.log());
        balance.assert_even();
        assert!(balance.kept > 0 && balance.written == 0, "{}", ended.describe());
    }
}

#[track_caller]
fn objects(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is not whole");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// Of a list that was begun so often, each job is in one of the two files, as often.
#[track_caller]
fn assert_each_job_in_one_file(place: &Place, ended: &Ended, begun_at_most: u64) {
    let dead = objects(&place.read("dead.jsonl"));
    let (mut letters, mut done) = (BTreeMap::new(), BTreeMap::new());
    for letter in &dead {
        *letters.entry(number(letter, "seq")).or_insert(0) += 1;
        let reason = letter["reason"].as_str().expect("a reason");
        assert!(reason == "a seventh job" || reason.contains("died 3 times"), "{letter}");
        assert_eq!(letter["job"].as_str(), Some(&*format!("job-{}", number(letter, "seq"))));
    }
    for part in objects(&place.read(OUTPUT)) {
        assert!(part.get("ok").is_none(), "a failure in the output: {part}");
        *done.entry((number(&part, "job"), number(&part, "part"))).or_insert(0) += 1;
    }
    let times = letters.get(&7).copied().unwrap_or(0);
    assert!((1..=1 + begun_at_most).contains(&times), "begun {times} times\n{}", ended.describe());
    for job in 1..=JOBS {
        let of_dead = letters.get(&job).copied().unwrap_or(0);
        let parts = [1, 2].map(|part| done.get(&(job, part)).copied().unwrap_or(0));
        assert!(parts == [times - of_dead; 2], "job {job}: {parts:?}, {of_dead} of {times}");
        assert!(job % 7 != 0 || of_dead == times, "job {job}");
    }
}

#[test]
fn whoever_is_killed_each_job_is_in_the_output_or_in_the_dead_letters_once() {
    let mut tally = Tally::of("dead letters", true);
    let first = Seed::new().start();
    for seed in first.. {
        let place = place();
        place.jobs(JOBS as usize);
        let mut story = Story::new(&place, "dead", seed, &mut tally);
        let ended = loop {
            let natural = match story.start(place.command(&["dead-letters", "dead"])) {
                Outcome::Killed => continue,
                Outcome::Ended(natural) => natural,
            };
            let balance = Balance::of(&lines(&natural.ended));
            balance.assert_even();
            if natural.ended.code == Some(3) {
                break natural.ended;
            }
            // Told to stop, or a second buffer was killed during the stop.
            let codes = [Some(1), Some(4), Some(5)];
            assert!(codes.contains(&natural.ended.code), "{}", natural.ended.describe());
        };
        story.assert_nobody_left(&ended);
        let begun = story.done_and_killed;
        assert_each_job_in_one_file(&place, &ended, begun);
        if tally.kills() >= 100 {
            break;
        }
    }
}

#[test]
fn dead_letters_are_counted_and_said_in_the_balance() {
    let place = place();
    place.jobs(70);
    let ended = place.command(&["dead-letters", "d"]).finish();
    ended.assert_exit(3);
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert_eq!((balance.written, balance.failed), (120, 10), "{}", ended.stderr);
    assert!(ended.stderr.contains(" + 10 dead letters + 0 kept"), "{}", ended.stderr);
    let letters = objects(&place.read("dead.jsonl"));
    assert_eq!(letters.len(), 10);
    assert_eq!(letters[0]["attempts"], 1);
    assert!(letters[0]["worker"].as_str().expect("a worker").starts_with("d/"));
}

/// A configuration of a command that fails for jobs with an even number, with dead letters.
fn with_dead_letters(place: &Place, tables: &str) {
    place.work_script("case $1 in *[02468]) echo \"not $1\" >&2; exit 5;; esac; echo did $1");
    place.config(&format!("{tables}\n[dead_letters]\nfile = \"dead.jsonl\"\n"));
}

#[test]
fn jobs_of_the_dead_letters_are_printed_and_can_be_run_again() {
    let place = Place::new();
    place.jobs(20);
    with_dead_letters(&place, "attempts = 2\nretry_delay = \"1ms\"");
    place.command(&["run", "pings.toml"]).finish().assert_exit(3);
    let letters = objects(&place.read("dead.jsonl"));
    assert_eq!((letters.len(), place.results().len()), (10, 10));
    for letter in &letters {
        assert_eq!(letter["reason"], "exit code 5");
        assert_eq!((number(letter, "attempts"), number(letter, "exit")), (2, 5));
        assert_eq!(letter["stderr"], format!("not {}\n", letter["job"].as_str().expect("a job")));
        assert!(letter.get("ok").is_none() && letter.get("attempt").is_none(), "{letter}");
    }
    let printed = place.command(&["dead-letters", "dead.jsonl"]).finish();
    printed.assert_exit(0);
    let mut jobs: Vec<&str> = printed.stdout.lines().collect();
    jobs.sort_unstable();
    let mut expected: Vec<String> = (1..=10).map(|half| format!("job-{}", 2 * half)).collect();
    expected.sort();
    assert_eq!(jobs, expected);
    // Again, with a command that can do them.
    place.write("again.txt", &printed.stdout);
    let options = ["--jobs", "again.txt", "--spool", "again.spool"];
    place.run(&options, &["true"]).finish().assert_exit(0);
    assert_eq!(place.results().len(), 20);
}

#[test]
fn a_dead_letter_that_is_none_is_said_and_the_others_are_printed() {
    let place = Place::new();
    place.write(
        "dead.jsonl",
        "{\"job\":\"one\",\"seq\":1,\"reason\":\"no\"}\n{\"job\":\"t\\nwo\",\"seq\":2,\"reason\":\"no\"}\n\
         foreign\n{\"job_base64\":\"dGhyZWU=\",\"seq\":3,\"reason\":\"no\"}\n{\"job\":\"fo",
    );
    let ended = place.command(&["dead-letters", "dead.jsonl"]).finish();
    ended.assert_exit(1);
    assert_eq!(ended.stdout, "one\nthree\n");
    for line in [
        "dead.jsonl:2: this job has a line end",
        "dead.jsonl:3: this is no dead letter",
        "dead.jsonl:5: ",
    ] {
        assert!(ended.stderr.contains(line), "{}", ended.stderr);
    }
    let ended = place.command(&["dead-letters", "nothing.jsonl"]).finish();
    ended.assert_exit(74);
}

#[test]
fn a_job_of_which_only_the_beginning_is_known_is_not_printed_to_be_run_again() {
    let place = Place::new();
    let long = "x".repeat(100);
    place.write("jobs.txt", format!("job-1\n{long}\njob-2\n"));
    with_dead_letters(&place, "[spool]\njob_bytes = 64\n");
    place.command(&["run", "pings.toml"]).finish().assert_exit(3);
    let letters = objects(&place.read("dead.jsonl"));
    let cut = letters.iter().find(|letter| letter["job_cut"] == true).expect("the long one");
    assert_eq!(cut["job"].as_str().map(str::len), Some(64));
    assert!(cut["reason"].as_str().expect("a reason").contains("longer than 64 bytes"), "{cut}");
    let printed = place.command(&["dead-letters", "dead.jsonl"]).finish();
    printed.assert_exit(1);
    assert_eq!(printed.stdout, "job-2\n");
    assert!(printed.stderr.contains("only the beginning of this job is known"));
}

#[test]
fn settings_of_a_sink_that_can_not_be_are_refused_before_anything_is_started() {
    for (how, message) in [("none", "at least one column"), ("twice", "\"a\" is there twice")] {
        let place = place();
        place.jobs(1);
        let ended = place.command(&["columns", how]).finish();
        ended.assert_exit(78);
        assert!(ended.stderr.contains(message), "{}", ended.stderr);
        assert_eq!(place.files().len(), 1, "{:?}", place.files());
    }
}

#[test]
fn dead_letters_that_find_no_room_keep_everything_in_the_spool() {
    let place = place();
    place.jobs(3000);
    let run = place.command(&["csv", "c", "/dev/full"]).start();
    run.until_logged("/dev/full: ");
    run.until_logged("waiting for room, the records are kept");
    run.signal(Signal::TERM);
    let ended = run.wait();
    ended.assert_exit(4);
    let balance = Balance::of(&ended.log());
    balance.assert_even();
    assert!(balance.kept > 0, "{}", ended.describe());
}

#[test]
fn pending_work_with_other_dead_letters_is_refused_and_nothing_is_touched() {
    let place = place();
    place.jobs(3000);
    let run = place.command(&["dead-letters", "d"]).start();
    run.until_written(10);
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
    let spool = std::fs::read(place.path(SPOOL)).expect("the spool");
    for other in ["other", "none"] {
        let ended = place.command(&["dead-letters", "d", other]).finish();
        ended.assert_exit(78);
        assert!(ended.stderr.contains("other dead letters"), "{}", ended.stderr);
        assert!(!place.files().contains("other.jsonl"));
        assert!(std::fs::read(place.path(SPOOL)).expect("the spool") == spool);
    }
    place.command(&["dead-letters", "d"]).finish().assert_exit(3);
}

#[test]
fn dead_letters_that_another_pipeline_writes_are_refused_with_75() {
    let place = place();
    // More than are done before it is stopped.
    place.jobs(300_000);
    let run = place.command(&["dead-letters", "d"]).start();
    run.until_written(1);
    // So that it is not over meanwhile.
    run.signal(Signal::STOP);
    let other = place.command(&["csv", "c", "dead.jsonl"]).finish();
    other.assert_exit_beside(75);
    assert!(other.stderr.contains("dead.jsonl: another pipeline writes"), "{}", other.stderr);
    run.signal(Signal::CONT);
    run.signal(Signal::TERM);
    let ended = run.wait();
    assert!(matches!(ended.code, Some(3 | 5)), "{}", ended.describe());
}

#[test]
fn dead_letters_can_not_be_a_file_that_is_used_for_something_else() {
    for file in [OUTPUT, "jobs.txt", SPOOL] {
        let place = Place::new();
        place.jobs(3);
        place.work_script("true");
        place.config(&format!("[dead_letters]\nfile = \"{file}\"\n"));
        let ended = place.command(&["run", "pings.toml"]).finish();
        ended.assert_exit(78);
        assert!(ended.stderr.contains("dead_letters.file"), "{}", ended.stderr);
    }
}

#[test]
fn results_of_commands_are_rows_of_the_columns_that_are_named() {
    let place = Place::new();
    place.jobs(4);
    place.work_script("[ $1 = job-2 ] && exit 3; echo \"a, b\"; echo c");
    let text = "[jobs]\nlines = \"jobs.txt\"\n[workers.w]\ncommand = [\"sh\", \"work.sh\", \"{}\"]\n\
                [output]\nformat = \"csv\"\ncolumns = [\"seq\", \"ok\", \"exit\", \"stdout\"]\n";
    place.write("rows.toml", text);
    place.command(&["run", "rows.toml"]).finish().assert_exit(3);
    let text = place.read("results.csv");
    let mut rest = text.strip_prefix("seq,ok,exit,stdout\n").expect("a header");
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let (fields, behind) = row(rest);
        rest = behind;
        rows.push(fields.join("|"));
    }
    rows.sort();
    let good = |seq| format!("{seq}|true|0|a, b\nc\n");
    assert_eq!(rows, [good(1), "2|false|3|".into(), good(3), good(4)]);
    // Another start with other columns is refused, as long as the file is there.
    let other = place.read("rows.toml").replace("\"seq\", ", "");
    place.write("rows.toml", other);
    let ended = place.command(&["run", "rows.toml"]).finish();
    ended.assert_exit(78);
    assert!(ended.stderr.contains("has other columns"), "{}", ended.stderr);
}

#[test]
fn text_that_a_coprocess_answers_is_the_line() {
    let place = Place::new();
    place.write("jobs.txt", "a\nb\n");
    place.write("answer.sh", "while read -r line; do echo '\"an \\\"answer\\\"\"'; done\n");
    let text = "[jobs]\nlines = \"jobs.txt\"\n[workers.w]\ncoprocess = [\"sh\", \"answer.sh\"]\n\
                [output]\nformat = \"lines\"\n";
    place.write("answers.toml", text);
    place.command(&["run", "answers.toml"]).finish().assert_exit(0);
    assert_eq!(place.read("results.txt"), "an \"answer\"\nan \"answer\"\n");
}

#[test]
fn a_job_that_a_coprocess_fails_is_no_line_but_is_in_the_log() {
    let place = Place::new();
    place.write("jobs.txt", "a\nbad\nb\n");
    place.write(
        "answer.sh",
        "while read -r line; do case $line in *bad*) echo '{\"procsig_error\":\"worse\"}' ;; *) \
         echo '\"good\"' ;; esac; done\n",
    );
    let text = "[jobs]\nlines = \"jobs.txt\"\n[workers.w]\ncoprocess = [\"sh\", \"answer.sh\"]\n\
                [output]\nformat = \"lines\"\n";
    place.write("answers.toml", text);
    let ended = place.command(&["run", "answers.toml"]).finish();
    ended.assert_exit(3);
    assert_eq!(place.read("results.txt"), "good\ngood\n");
    assert!(ended.stderr.contains("job 2 (bad) has failed (attempt 1): worse"), "{}", ended.stderr);
}

#[test]
fn the_example_of_an_own_sink_writes_each_record_once() {
    let place = Place::of(example("custom_sink"));
    place.jobs(50);
    place.command(&["jobs.txt", "totals.txt"]).finish().assert_exit(0);
    let text = place.read("totals.txt");
    let count: usize = text
        .lines()
        .map(|line| line.split(' ').next().expect("a count").parse::<usize>().expect("a count"))
        .sum();
    assert_eq!(count, 50, "{text}");
}
