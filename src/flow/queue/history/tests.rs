use super::*;
use crate::flow::queue::layout::Geometry;

const LANES: u32 = 3;

fn spool() -> Spool {
    let spool =
        Spool::in_memory(Geometry { lanes: LANES, lane_bytes: 4096, slots: 1, job_bytes: 8 });
    begin(&spool, 77, Duration::from_secs(100));
    spool
}

fn at(spool: &Spool, millis: u64, slot: Option<usize>, what: What) {
    let since = Duration::from_millis(millis);
    note(
        spool,
        Duration::from_secs(100) + since,
        Duration::from_secs(1_000_000) + since,
        slot,
        what,
    );
}

const ALL: [What; 19] = [
    What::StopRequested(Reason::Failure),
    What::RunStarted { pid: 4321 },
    What::Started { pid: u64::MAX },
    What::Ready,
    What::Ended(End::Exited(255)),
    What::Ended(End::Signaled(9)),
    What::Signal { count: 2 },
    What::Told,
    What::Killed(Why::NotReady),
    What::Killed(Why::NotQuiet),
    What::Killed(Why::Reserve),
    What::Killed(Why::Signal),
    What::Killed(Why::Deadline),
    What::Killed(Why::ThirdSignal),
    What::DeadlineMoved { by: Duration::from_nanos(1) },
    What::Abandoned,
    What::StopRequested(Reason::Signal),
    What::StopRequested(Reason::Finished),
    What::Done { code: 78 },
];

#[test]
fn what_was_noted_is_read_as_it_was() {
    let spool = spool();
    for (number, what) in ALL.iter().enumerate() {
        at(&spool, number as u64, (number % 2 == 0).then_some(number % 5), *what);
    }
    let story = read(&spool);
    assert_eq!(story.stop.iter().map(|event| event.what).collect::<Vec<_>>(), ALL);
    assert_eq!((story.run_id, story.began, story.damaged), (77, Duration::from_secs(100), 0));
    assert_eq!(story.stop[4].slot, Some(4));
    assert_eq!(story.stop[5].slot, None);
    assert_eq!(story.stop[5].at, Duration::from_millis(5));
    assert_eq!(story.stop[5].wall, Duration::from_millis(1_000_000_005));
}

#[test]
fn starts_and_deaths_before_the_stop_do_not_crowd_out_what_happens_in_it() {
    let spool = spool();
    let room = spool.layout.history_before as u64;
    for pid in 0..10 * room {
        at(&spool, pid, Some(2), What::Started { pid });
    }
    at(&spool, 0, None, What::StopRequested(Reason::Signal));
    at(&spool, 0, Some(0), What::Told);
    let story = read(&spool);
    let pids: Vec<What> = story.before.iter().map(|event| event.what).collect();
    let newest: Vec<What> = (9 * room..10 * room).map(|pid| What::Started { pid }).collect();
    assert_eq!(pids, newest, "the newest are kept, in order");
    assert_eq!(story.stop.len(), 2);
}

#[test]
fn a_stop_with_more_to_say_than_there_is_room_for_keeps_its_beginning_and_the_last_word() {
    let spool = spool();
    at(&spool, 0, None, What::StopRequested(Reason::Signal));
    let room = spool.layout.history_stop as u64;
    for _ in 0..2 * room {
        at(&spool, 0, None, What::DeadlineMoved { by: Duration::from_secs(1) });
    }
    note_done(&spool, Duration::ZERO, Duration::ZERO, &[9; BALANCE_WORDS], 4);
    let story = read(&spool);
    assert_eq!(story.stop.len() as u64, room);
    assert_eq!(story.stop[0].what, What::StopRequested(Reason::Signal));
    assert_eq!(story.stop.last().unwrap().what, What::Done { code: 4 });
    assert_eq!(story.missed, room + 2);
    assert_eq!(story.balance, Some([9; BALANCE_WORDS]));
}

#[test]
fn the_largest_pipelines_stop_has_room_for_each_child_to_be_told_killed_and_reaped() {
    let geometry = Geometry { lanes: 1000, lane_bytes: 4096, slots: 1, job_bytes: 8 };
    let spool = Spool::in_memory(geometry);
    begin(&spool, 1, Duration::ZERO);
    at(&spool, 0, None, What::StopRequested(Reason::Signal));
    let three = [What::Told, What::Killed(Why::Reserve), What::Ended(End::Signaled(9))];
    for what in three {
        (0..1002).for_each(|slot| at(&spool, 0, Some(slot), what));
    }
    note_done(&spool, Duration::ZERO, Duration::ZERO, &[0; BALANCE_WORDS], 4);
    let story = read(&spool);
    assert_eq!((story.missed, story.stop.len()), (0, 2 + 3 * 1002));
}

#[test]
fn another_run_forgets_the_one_before_it() {
    let spool = spool();
    ALL.iter().for_each(|what| at(&spool, 0, None, *what));
    begin(&spool, 78, Duration::from_secs(200));
    assert_eq!(
        read(&spool),
        Story { run_id: 78, began: Duration::from_secs(200), ..Story::default() }
    );
    // Numbers that come back from a lost page don't bring the old entries back.
    spool.history_head().stop.store(5, Ordering::Relaxed);
    let story = read(&spool);
    assert_eq!((story.stop.len(), story.damaged), (0, 5));
}

#[test]
fn no_bit_of_an_entry_can_be_wrong_unseen() {
    let spool = spool();
    at(&spool, 0, None, What::StopRequested(Reason::Signal));
    at(&spool, 1, Some(1), What::Killed(Why::Deadline));
    let entry = spool.history_entry(spool.layout.history_before + 1);
    let words = || entry.words.iter().chain([&entry.checksum]);
    for word in words() {
        for bit in 0..64 {
            let before = word.load(Ordering::Relaxed);
            word.store(before ^ 1 << bit, Ordering::Relaxed);
            let story = read(&spool);
            assert_eq!((story.stop.len(), story.damaged), (1, 1));
            word.store(before, Ordering::Relaxed);
        }
    }
    assert_eq!(read(&spool).stop.len(), 2);
}

#[test]
fn a_slot_that_there_is_not_and_numbers_beyond_the_room_are_left_out() {
    let spool = spool();
    at(&spool, 0, None, What::StopRequested(Reason::Signal));
    at(&spool, 0, Some(spool.processes()), What::Told);
    assert_eq!(read(&spool).stop.len(), 1);
    let head = spool.history_head();
    for wrong in [head, head].map(|head| [&head.stop, &head.before]).concat() {
        wrong.store(u64::MAX, Ordering::Relaxed);
    }
    let story = read(&spool);
    assert_eq!(story.stop.len(), 1);
    assert!(story.before.is_empty());
}

#[test]
fn garbage_is_no_history_and_no_panic() {
    let spool = spool();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let entries = spool.layout.history_before + spool.layout.history_stop;
    for _ in 0..if cfg!(miri) { 2 } else { 300 } {
        let head = spool.history_head();
        for word in [&head.run_id, &head.began, &head.before, &head.stop, &head.missed] {
            word.store(random(), Ordering::Relaxed);
        }
        for index in 0..entries {
            let entry = spool.history_entry(index);
            for word in entry.words.iter().chain([&entry.checksum]) {
                word.store(random(), Ordering::Relaxed);
            }
        }
        let story = read(&spool);
        assert!(story.before.is_empty() && story.stop.is_empty());
    }
}
