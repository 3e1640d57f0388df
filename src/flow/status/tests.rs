//! What is said of a spool, whatever stands in it.

use super::facts::Doing;
use super::*;
use crate::flow::about::{About, Kind};
use crate::flow::queue::frame;
use crate::flow::queue::history::What;
use crate::flow::queue::jobs::{Claim, Claimed, Claimer, Jobs, NewJob};
use crate::flow::queue::lane::{Finish, LaneWriter, Staged};
use crate::flow::queue::layout::{Geometry, ProcessState};
use crate::flow::queue::processes;
use std::convert::Infallible;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

#[test]
fn of_a_thousand_workers_each_is_looked_at() {
    let stage = Stage::of(Geometry { lanes: 1000, ..GEOMETRY });
    (0..2).for_each(|index| stage.fill(index, b"job"));
    let job = stage.claim(999);
    stage.finish(&job, 999);
    stage.claim(500);
    let status = stage.look();
    assert_eq!((status.processes.len(), status.lanes.len()), (1002, 1000));
    assert_eq!((status.waiting.records, status.lanes[999].records), (1, 1));
    let busy = |process: &&facts::Process| !process.jobs_in_hand.is_empty();
    let busy: Vec<&facts::Process> = status.processes.iter().filter(busy).collect();
    assert_eq!(busy.len(), 1);
    assert_eq!(busy[0].role, "worker of lane 500", "the configuration says two");
    assert_eq!(serde_json::to_value(&status).expect("JSON")["processes"][1001]["role"], "buffer");
}

/// A spool of two workers that this test plays all parts of.
struct Stage {
    _directory: tempfile::TempDir,
    path: PathBuf,
    spool: Spool,
}

const GEOMETRY: Geometry = Geometry { lanes: 2, lane_bytes: 4096, slots: 8, job_bytes: 64 };

impl Stage {
    /// Its main is this process, and so are its children.
    fn running() -> Stage {
        Stage::of(GEOMETRY)
    }

    fn of(geometry: Geometry) -> Stage {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("spool");
        let spool = Spool::create(&path, geometry, 7, None, |_| {}).expect("spool");
        let run = spool.run();
        let pid = std::process::id();
        let start = proc_fs::start_time(pid as i32).expect("this process");
        for (word, value) in [
            (&run.run_id, 9),
            (&run.boot_id, proc_fs::boot_id()),
            (&run.main_pid, pid.into()),
            (&run.main_start, start),
            (&run.started, clock::nanos(clock::wall())),
            (&run.deadline, 8_000_000_000),
            (&run.pid_namespace, proc_fs::pid_namespace()),
        ] {
            word.store(value, Ordering::Relaxed);
        }
        about().store(&spool);
        history::begin(&spool, 9, clock::now());
        for index in 0..spool.processes() {
            processes::begin_run(&spool, index);
            processes::enter(&spool, index);
            processes::set_state(&spool, index, ProcessState::Running);
        }
        Stage { _directory: directory, path, spool }
    }

    fn fill(&self, index: usize, text: &[u8]) {
        let seq = index as u64 + 1;
        let job = NewJob { text, seq, round: 1, offset: 4 * seq, prefix: seq, reason: None };
        Jobs(&self.spool).fill(index, &job);
    }

    fn claim(&self, lane: u16) -> Claimed {
        let mut job = Claimed::default();
        let claim = Jobs(&self.spool).claim(Claimer { lane, incarnation: 1 }, &mut job);
        assert_eq!(claim, Claim::Job);
        job
    }

    fn finish(&self, job: &Claimed, lane: usize) {
        let mut staged = Staged::default();
        let Ok(()) = staged.push(frame::Kind::Result, |bytes| {
            bytes.extend_from_slice(b"result");
            Ok::<(), Infallible>(())
        });
        let jobs = Jobs(&self.spool);
        let result_end = jobs.result_end(job);
        let (kind, seq, round) = (frame::Kind::JobDone, job.seq, job.round);
        let mut writer = LaneWriter::open(&self.spool, lane, 0).expect("ring");
        let finish = Finish { kind, seq, round, result_end };
        writer.publish(&mut staged, Some(finish)).expect("room");
    }

    fn look(&self) -> Status {
        Status::look(&self.path, Extent::Jobs).expect("a spool")
    }
}

fn about() -> About {
    About {
        run_id: 9,
        version: "1.2.3".into(),
        name: "test".into(),
        jobs: Some("hosts.txt".into()),
        finite: true,
        output: "/tmp/out.jsonl".into(),
        own_sink: false,
        format: "JsonLines".into(),
        dead_letters: None,
        log_file: None,
        kinds: vec![Kind {
            name: "ping".into(),
            processes: 2,
            threads: 4,
            runs: "command".into(),
            what: vec!["ping".into()],
            takes_jobs: true,
        }],
        flush_records: 1000,
        flush_bytes: 1000,
        flush_after_seconds: 1.0,
    }
}

#[test]
fn what_is_in_hand_ready_and_done_is_counted_each_once() {
    let stage = Stage::running();
    for index in 0..5 {
        stage.fill(index, format!("job {index}").as_bytes());
    }
    let (first, second) = (stage.claim(0), stage.claim(1));
    Jobs(&stage.spool).begin(&first, false);
    stage.finish(&second, 1);
    let later = clock::now() + Duration::from_secs(3600);
    Jobs(&stage.spool).slot(4).not_before.store(clock::nanos(later), Ordering::Relaxed);
    let status = stage.look();
    assert_eq!(status.state, State::Running);
    assert_eq!(status.pipeline.as_deref(), Some("test"));
    let jobs = status.jobs;
    assert_eq!([jobs.in_hand, jobs.ready, jobs.waiting_for_retry], [1, 2, 1]);
    assert_eq!([jobs.done_not_written, jobs.free_slots, jobs.slots], [1, 3, 8]);
    assert_eq!((status.waiting.records, status.records.published), (1, 1));
    assert_eq!(status.lanes[1].records, 1);
    assert_eq!(status.lanes[0].bytes, 0);
    let list = status.list.expect("a list");
    assert_eq!((list.handed_out, list.offset_bytes, list.at_end), (5, 20, false));
    let roles: Vec<&str> = status.processes.iter().map(|process| process.role.as_str()).collect();
    assert_eq!(roles, ["source", "worker ping/0", "worker ping/1", "buffer"]);
    let states: Vec<Doing> = status.processes.iter().map(|process| process.state).collect();
    assert_eq!(states, [Doing::Running, Doing::Running, Doing::Idle, Doing::Running]);
    let job = &status.processes[1].jobs_in_hand[0];
    assert_eq!((job.job.as_deref(), job.seq, job.attempt), (Some("job 0"), 1, 1));
    assert!(job.seconds.expect("it has begun") < 60.0);
}

#[test]
fn a_process_is_dead_if_its_number_means_another_one_now() {
    let stage = Stage::running();
    stage.spool.process(processes::worker(1)).start.store(1, Ordering::Relaxed);
    processes::note_end(&stage.spool, processes::worker(1), 512 + 9);
    let status = stage.look();
    let dead = &status.processes[2];
    assert_eq!((dead.state, dead.last_end.as_deref()), (Doing::Dead, Some("SIGKILL")));
    assert!(health::judge(&status).is_ok(), "main starts it again");
    assert!(health::judge_ready(&status).is_err());
}

#[test]
fn how_the_run_stands_is_told_from_who_lives_and_who_holds_the_spool() {
    let mut stage = Stage::running();
    let run = stage.spool.run();
    run.stopping.store(1, Ordering::Relaxed);
    assert_eq!(stage.look().state, State::Stopping);
    run.ended.store(6, Ordering::Relaxed);
    let status = stage.look();
    assert_eq!((status.state, status.exit_code), (State::Ended, Some(5)));
    run.ended.store(0, Ordering::Relaxed);
    // Main is gone; its children are not.
    run.main_start.store(1, Ordering::Relaxed);
    assert_eq!(stage.look().state, State::Orphans);
    (0..4).for_each(|index| stage.spool.process(index).start.store(1, Ordering::Relaxed));
    assert_eq!(stage.look().state, State::Starting, "somebody holds it who has not signed");
    run.pid_namespace.store(1, Ordering::Relaxed);
    let unseen = stage.look();
    assert_eq!(unseen.state, State::Unseen);
    assert!(unseen.processes.iter().all(|process| process.state != Doing::Dead), "{unseen:?}");
    let released = Spool::look(&stage.path, Extent::Jobs).expect("a copy");
    stage.spool = released;
    // Another test that starts a command at this moment has the lock until it is executed.
    while stage.spool.is_held() {
        std::thread::yield_now();
    }
    assert_eq!(stage.look().state, State::Died);
}

#[test]
fn a_stop_says_why_how_long_it_may_take_and_who_is_waited_for() {
    let stage = Stage::running();
    let note = |slot, what| history::note(&stage.spool, clock::now(), clock::wall(), slot, what);
    stage.spool.run().stopping.store(1, Ordering::Relaxed);
    note(None, What::StopRequested(Reason::Signal));
    note(Some(processes::SOURCE), What::Told);
    processes::set_state(&stage.spool, processes::SOURCE, ProcessState::Ended);
    stage.spool.process(processes::SOURCE).start.store(1, Ordering::Relaxed);
    note(Some(processes::worker(0)), What::Told);
    let status = stage.look();
    let stop = status.stop.clone().expect("a stop");
    assert_eq!((stop.reason, stop.deadline_seconds), (Some("signal"), 8.0));
    let left = stop.left_seconds.expect("it is under way");
    assert!(left > 0.0 && left <= 8.0, "{left}");
    assert_eq!(stop.waiting_for, ["worker ping/0", "worker ping/1", "buffer"]);
    assert_eq!(status.processes[1].state, Doing::Stopping);
    assert!(health::judge(&status).is_ok(), "a probe must not end a stop");
    note(None, What::DeadlineMoved { by: Duration::from_secs(100) });
    assert!(stage.look().stop.expect("a stop").left_seconds > Some(90.0));
}

#[test]
fn a_record_that_is_not_written_in_time_is_no_health_but_a_full_disk_and_a_start_are() {
    let stage = Stage::running();
    let vitals = vitals::of(&stage.spool);
    let judge = || health::judge(&Status::look(&stage.path, Extent::Books).expect("a spool"));
    assert!(judge().is_ok());
    let ago = |seconds| Some(clock::now().saturating_sub(Duration::from_secs(seconds)));
    vitals::note(&vitals.waiting_since, ago(20));
    assert!(judge().is_ok(), "a disk may take its time");
    vitals::note(&vitals.waiting_since, ago(40));
    let sick = judge().expect_err("31 s are over");
    assert!(sick.contains("40 s"), "{sick}");
    vitals::note(&vitals.no_room_since, ago(39));
    assert!(judge().expect("no illness").contains("disk is full"));
    vitals::note(&vitals.no_room_since, None);
    vitals::note(&vitals.waiting_since, None);
    assert!(judge().is_ok());
}

#[test]
fn of_another_boot_no_age_is_shown_and_nobody_lives() {
    let stage = Stage::running();
    vitals::note(&vitals::of(&stage.spool).committed_at, Some(clock::now()));
    assert!(stage.look().buffer.last_commit_seconds.is_some());
    stage.spool.run().boot_id.store(1, Ordering::Relaxed);
    let status = stage.look();
    assert_eq!(status.buffer, Buffer { flush_after_seconds: Some(1.0), ..Buffer::default() });
    assert!(status.processes.iter().all(|process| process.age_seconds.is_none()));
}

/// Whatever is damaged, an answer comes, and it is one or an error that can be read.
#[test]
fn a_damaged_spool_is_looked_at_without_harm_wherever_the_damage_is() {
    let stage = Stage::running();
    for index in 0..6 {
        stage.fill(index, b"some job");
    }
    let job = stage.claim(0);
    Jobs(&stage.spool).begin(&job, true);
    let done = stage.claim(1);
    stage.finish(&done, 1);
    let copy = stage.path.with_file_name("copy");
    let whole = std::fs::read(&stage.path).expect("the spool");
    std::fs::write(&copy, &whole).expect("a copy");
    let file = std::fs::OpenOptions::new().write(true).open(&copy).expect("the copy");
    let used = stage.spool.layout.rings as u64;
    let mut state = 0x1234_5678_9abc_def0u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 20
    };
    for round in 0..2000 {
        // Where nearly all is zero, a page is as likely to be hit as any other.
        let at = match round % 3 {
            0 => next() % used,
            1 => next() % 40 * 4096 + next() % 256,
            _ => next() % 4096,
        };
        let at = at.min(used - 8) & !7;
        let old: [u8; 8] = whole[at as usize..][..8].try_into().expect("eight bytes");
        let new = match round % 5 {
            0 => u64::MAX,
            1 => next() << 30,
            2 => u64::from_le_bytes(old) ^ (1 << (next() % 64)),
            3 => u64::from_le_bytes(old).wrapping_add(1),
            _ => next() % 8,
        };
        file.write_all_at(&new.to_le_bytes(), at).expect("damage");
        match Status::look(&copy, Extent::Jobs) {
            Ok(status) => {
                let json = serde_json::to_string(&status).expect("JSON");
                assert!(json.starts_with("{\"format\":1,"), "{json}");
                status.summary();
                let _either = health::judge_ready(&status);
            }
            Err(error) => assert!(error.to_string().len() > 40, "{error}"),
        }
        // Damage adds up for a while.
        if round % 16 == 15 {
            file.write_all_at(&whole, 0).expect("as it was");
        }
    }
}
