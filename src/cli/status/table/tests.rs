use super::*;
use crate::flow::status::facts::{self, Buffer, JobInHand, Main, Rates, Records, Stop, Waiting};

fn process(role: &str, state: Doing) -> Process {
    Process {
        role: role.into(),
        pid: Some(4711),
        state,
        age_seconds: Some(192.0),
        restarts: 0,
        last_end: None,
        threads: None,
        jobs_in_hand: Vec::new(),
    }
}

fn job(text: &str, seconds: f64) -> JobInHand {
    JobInHand {
        seq: 17,
        round: 1,
        job: Some(text.into()),
        seconds: Some(seconds),
        attempt: 1,
        command_pid: None,
    }
}

fn status(processes: Vec<Process>) -> Status {
    Status {
        format: facts::FORMAT,
        pipeline: Some("pings".into()),
        state: State::Running,
        started: None,
        running_seconds: Some(192.0),
        ended: None,
        exit_code: None,
        main: Main { pid: Some(4710), process_state: Some('S') },
        spool: "/srv/.pings.jsonl.spool".into(),
        output: Some("/srv/pings.jsonl".into()),
        dead_letters: None,
        log_file: None,
        version: Some("0.1.0".into()),
        stop: None,
        processes,
        records: Records { published: 12_345, written: 12_300, ..Records::default() },
        jobs: facts::Jobs { done: 12_000, failed: 300, in_hand: 2, slots: 8, ..Default::default() },
        list: None,
        waiting: Waiting {
            records: 45,
            bytes: 1536,
            capacity_bytes: 2 << 20,
            oldest_seconds: Some(0.4),
        },
        lanes: Vec::new(),
        buffer: Buffer { last_commit_seconds: Some(0.2), ..Buffer::default() },
        rates: Some(Rates { records_per_second: 120.0, jobs_per_second: 12.0, over_seconds: 0.5 }),
        average: None,
    }
}

#[test]
fn a_running_pipeline_is_shown_in_a_table() {
    let mut worker = process("worker ping/0", Doing::Running);
    worker.restarts = 1;
    worker.jobs_in_hand = vec![job("example.org", 12.0), job("example.com", 3.0)];
    let shown = lines(&status(vec![process("source", Doing::Running), worker]), 80, None, false);
    let expected = "\
pings: running for 3 min 12 s, main is process 4710
spool   /srv/.pings.jsonl.spool
output  /srv/pings.jsonl

PROCESS           PID  STATE          AGE RESTARTS  JOB IN HAND
source           4711  running      3m12s        0
worker ping/0    4711  running      3m12s        1  example.org for 12s +1 more

records 12,300 written; 120 a second
waiting 45 records to be written, for 0.4 s; 1.5 KiB of 2.0 MiB, 0.1 % full
jobs    12,000 done, 300 failed; 12.0 a second
        2 in hand, 0 ready, 0 of 8 slots free
last    commit 0.2 s ago";
    assert_eq!(shown.join("\n"), expected);
}

#[test]
fn no_line_is_wider_than_the_terminal_and_no_text_of_a_job_steers_it() {
    let mut worker = process("worker a-name-that-is-much-too-long-for-a-column/0", Doing::Stopped);
    worker.jobs_in_hand =
        vec![job("\x1b[2J\r\n漢字かな交じり文\u{9b}31m and so on and on", 100_000.0)];
    let mut status = status(vec![worker, process("buffer", Doing::Dead)]);
    status.state = State::Stopping;
    status.stop = Some(Stop {
        reason: Some("signal"),
        deadline_seconds: 8.0,
        left_seconds: Some(0.0),
        overdue_seconds: Some(3.0),
        waiting_for: vec!["worker ping/0".into(); 100],
    });
    for width in 1..130 {
        for line in lines(&status, width, None, false) {
            assert!(columns(&line) <= width, "{width}: {line:?}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
    let shown = lines(&status, 80, None, false).join("\n");
    assert!(shown.contains("its deadline has passed 3.0 s ago"), "{shown}");
    assert!(shown.contains("\\x1b"), "{shown}");
    assert!(shown.contains("worker ping/0, worker ping/0 and 97 more\n"), "{shown}");
}

#[test]
fn a_thousand_workers_are_summed_up_and_the_unusual_ones_are_named() {
    let mut all = vec![process("source", Doing::Running)];
    for number in 0..1000 {
        let mut worker = process(&format!("worker ping/{number}"), Doing::Idle);
        match number {
            500 => worker.state = Doing::Dead,
            600 => worker.restarts = 2,
            700 => {
                worker.state = Doing::Running;
                worker.jobs_in_hand = vec![job("slow.example.org", 3600.0)];
            }
            _ => {}
        }
        all.push(worker);
    }
    all.push(process("buffer", Doing::Running));
    let status = status(all);
    let shown = lines(&status, 80, None, false);
    assert!(shown.len() < 35, "{shown:#?}");
    let place = |text: &str| {
        shown.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{shown:#?}"))
    };
    place("worker ping: 1 dead, 1 running, 998 idle; 1 job in hand, 2 restarts");
    assert!(place("worker ping/500 ") < place("worker ping/600 "));
    assert!(place("worker ping/600 ") < place("slow.example.org"));
    place("source ");
    place("buffer ");
    let small = lines(&status, 80, Some(20), false);
    assert_eq!(small.len(), 20, "{small:#?}");
    assert_eq!(small.last(), shown.last(), "what waits is there all the same");
    assert_eq!(lines(&status, 80, None, true).len(), shown.len() - 2 - 12 + 1000);
}

#[test]
fn a_job_of_a_process_that_is_gone_is_kept_and_has_no_time() {
    for (state, expected) in
        [(Doing::Dead, "7 (kept) +1 more"), (Doing::Running, "7 for 12s +1 more")]
    {
        let mut worker = process("worker ping/0", state);
        worker.jobs_in_hand = vec![job("7", 12.0), job("8", 3.0)];
        let shown = lines(&status(vec![worker]), 80, None, false);
        let line = shown.iter().find(|line| line.starts_with("worker ping/0")).expect("its line");
        assert!(line.ends_with(expected), "{line}");
    }
}

#[test]
fn what_has_no_main_says_so_and_what_to_do() {
    let headline = |state| {
        let mut status = status(Vec::new());
        status.state = state;
        status.exit_code = Some(5);
        lines(&status, 80, None, false)[0].clone()
    };
    assert!(headline(State::Died).ends_with("was killed; start it again to go on"));
    assert!(headline(State::Ended).contains("ended with exit code 5"));
    assert!(headline(State::Unseen).contains("its container"));
    assert!(headline(State::Orphans).contains("was killed; its processes have ended"));
    let mut stopped = status(Vec::new());
    stopped.main.process_state = Some('T');
    assert!(lines(&stopped, 80, None, false)[1].contains("kill -CONT 4710"));
}
