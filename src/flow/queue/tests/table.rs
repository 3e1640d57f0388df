//! What the words of slots, lanes and processes say exactly: every count, bound and reason.

use super::super::jobs::{DEATHS_MAX, Deaths, Expired, NO_RESULT, Reason};
use super::super::settle::Orphan;
use super::super::{in_hand, processes};
use super::*;
use std::collections::HashSet;

/// Settles lane 0 after a death that looked like this; `None`: on purpose.
fn settled(spool: &Spool, blamed: Option<u64>) -> Vec<Orphan> {
    let mut orphans = Vec::new();
    settle(spool, 0, blamed, |orphan| orphans.push(orphan));
    orphans
}

#[test]
fn a_reason_comes_back_as_it_was_noted() {
    let (_directory, spool) = spool(1, 1);
    let reasons = [
        Reason::TooLong,
        Reason::Deaths { last_end: 0 },
        Reason::Deaths { last_end: 521 },
        Reason::Damaged,
        Reason::TimedOut { after_us: 0 },
        Reason::TimedOut { after_us: u64::MAX >> 8 },
    ];
    for reason in reasons {
        let job = NewJob { text: b"job", seq: 1, round: 1, offset: 4, prefix: 1, reason: None };
        Jobs(&spool).fill(0, &NewJob { reason: Some(reason), ..job });
        assert_eq!(claim(&spool, OLD).reason, Some(reason));
        Jobs(&spool).forget(0);
    }
    // A time that has no room in its word is the longest that has.
    fill(&spool, 0, 1);
    let job = claim(&spool, OLD);
    Jobs(&spool).expire(&job, Expired::UsedUp { after: Duration::MAX });
    settled(&spool, None);
    let after_us = u64::MAX >> 8;
    assert_eq!(claim(&spool, NEW).reason, Some(Reason::TimedOut { after_us }));
}

#[test]
fn each_word_that_the_source_writes_is_under_the_slots_checksum() {
    let (_directory, spool) = spool(1, 1);
    fill(&spool, 0, 1);
    let slot = slot(&spool, 0);
    for (name, word) in [
        ("seq", &slot.seq),
        ("round", &slot.round),
        ("offset", &slot.offset),
        ("prefix", &slot.prefix),
        ("length and checksum", &slot.len_and_checksum),
    ] {
        for bit in [0, 40, 63] {
            word.fetch_xor(1 << bit, Ordering::Relaxed);
            assert!(!Jobs(&spool).is_sound(0), "bit {bit} of {name}");
            word.fetch_xor(1 << bit, Ordering::Relaxed);
        }
        assert!(Jobs(&spool).is_sound(0), "{name} as it was");
    }
}

#[test]
fn a_slot_that_a_lane_has_which_does_not_exist_is_neither_done_nor_committed_nor_in_hand() {
    let (_directory, spool) = spool(1, 1);
    fill(&spool, 0, 1);
    let _damaged = claim(&spool, Claimer { lane: 9, incarnation: 1 });
    slot(&spool, 0).result_end.store(0, Ordering::Release);
    assert!(!Jobs(&spool).is_done(0) && !Jobs(&spool).is_committed(0));
    assert_eq!(in_hand::in_hand(&spool), []);
}

#[test]
fn the_third_death_that_is_put_down_to_a_job_uses_it_up_and_no_other_counts() {
    let (_directory, spool) = spool(1, 1);
    let jobs = Jobs(&spool);
    fill(&spool, 0, 1);
    // Claimed and not begun: nobody can have died of it.
    let _claimed = claim(&spool, OLD);
    settled(&spool, Some(9));
    assert!(!claim(&spool, OLD).suspect);
    settled(&spool, None);
    for death in 1..=DEATHS_MAX {
        let job = claim(&spool, OLD);
        assert_eq!((job.reason, job.suspect), (None, death > 1), "before death {death}");
        jobs.begin(&job, true);
        settled(&spool, Some(500 + death));
        assert_eq!(Deaths::of(slot(&spool, 0)).counted, death);
        if death < DEATHS_MAX {
            // Killed on purpose, before it was begun and after.
            let _claimed = claim(&spool, OLD);
            settled(&spool, None);
            assert_eq!(Deaths::of(slot(&spool, 0)).counted, death);
            let job = claim(&spool, OLD);
            jobs.begin(&job, true);
            settled(&spool, None);
            assert_eq!(Deaths::of(slot(&spool, 0)).counted, death);
            // Survived, with others beside it and alone.
            for alone in [false, true] {
                let job = claim(&spool, OLD);
                jobs.begin(&job, alone);
                jobs.survived(&job, alone);
                jobs.put_back(&job, PutBack::NotBegun, None);
                assert_eq!(Deaths::of(slot(&spool, 0)).counted, death);
            }
        }
    }
    let last_end = 500 + DEATHS_MAX;
    assert_eq!(claim(&spool, NEW).reason, Some(Reason::Deaths { last_end }));
}

#[test]
fn that_a_job_has_failed_is_known_of_it_and_not_of_its_next_attempt() {
    let (_directory, spool) = spool(1, 1);
    let jobs = Jobs(&spool);
    fill(&spool, 0, 1);
    let job = claim(&spool, OLD);
    for alone in [false, true] {
        jobs.begin(&job, alone);
        assert!(!jobs.has_failed(0), "begun");
    }
    jobs.note_failed(&job);
    assert!(jobs.has_failed(0));
    jobs.begin(&job, false);
    assert!(!jobs.has_failed(0), "begun again");
}

#[test]
fn the_command_of_a_dead_worker_is_named_until_it_has_ended() {
    let (_directory, spool) = spool(1, 1);
    spool.run().run_id.store(77, Ordering::Relaxed);
    fill(&spool, 0, 1);
    let job = claim(&spool, OLD);
    Jobs(&spool).note_command(&job, 4321, 99);
    assert_eq!(settled(&spool, None), [Orphan { group: 4321, start: 99, run_id: 77 }]);
    let job = claim(&spool, NEW);
    Jobs(&spool).note_command(&job, 4321, 99);
    Jobs(&spool).note_command(&job, 0, 0);
    assert_eq!(settled(&spool, None), []);
    // No group that a kill would not mean everybody by.
    let job = claim(&spool, NEW);
    Jobs(&spool).note_command(&job, 1, 0);
    assert_eq!(settled(&spool, None), []);
}

#[test]
fn a_job_goes_into_another_spool_with_its_history() {
    let (_first, old) = spool(1, 2);
    let (_second, new) = spool(1, 4);
    let (from, to) = (Jobs(&old), Jobs(&new));
    let text = b"ping example.org";
    let reason = Some(Reason::TooLong);
    from.fill(0, &NewJob { text, seq: 7, round: 2, offset: 34, prefix: 9, reason });
    for (word, value) in [
        (&slot(&old, 0).attempts, 1),
        (&slot(&old, 0).deaths, 2),
        (&slot(&old, 0).put_back, 3),
        (&slot(&old, 0).suspect, 1),
    ] {
        word.store(value, Ordering::Relaxed);
    }
    to.adopt(2, &from, 0);
    let job = claim(&new, OLD);
    assert_eq!((job.slot, &job.text[..], job.seq, job.round), (2, &text[..], 7, 2));
    assert_eq!((job.attempts, job.put_back, job.suspect, job.reason), (1, 3, true, reason));
    assert_eq!(Deaths::of(slot(&new, 2)).counted, 2);
    let words = |slot: &Slot| [&slot.offset, &slot.prefix].map(|word| word.load(Ordering::Relaxed));
    assert_eq!(words(slot(&new, 2)), [34, 9]);
    assert!(to.is_sound(2));
    // One with nothing wrong is one.
    fill(&old, 1, 8);
    to.adopt(0, &from, 1);
    assert_eq!(claim(&new, OLD).reason, None);
    from.forget(1);
    // One that is not what the source had written stays one; one that is done and has failed as well.
    fill(&old, 1, 8);
    slot(&old, 1).offset.store(1, Ordering::Relaxed);
    to.adopt(3, &from, 1);
    assert_eq!(claim(&new, OLD).reason, Some(Reason::Damaged));
    slot(&old, 1).started.store(1001, Ordering::Relaxed);
    to.adopt(1, &from, 1);
    assert!(!to.is_done(1) && !to.has_failed(1));
    to.adopt_done(1, &from, 1);
    assert!(to.is_done(1) && to.is_committed(1) && to.has_failed(1));
}

#[test]
fn who_is_idle_is_counted_and_who_is_woken_for_another_reason_hears_it() {
    let (_directory, spool) = spool(1, 1);
    let jobs = Jobs(&spool);
    let idle = || spool.bells().jobs_idle.load(Ordering::Relaxed);
    let (first, second) = (jobs.idle(), jobs.idle());
    assert_eq!(idle(), 2);
    drop(first);
    assert_eq!(idle(), 1);
    // A start has begun to count anew meanwhile.
    spool.bells().jobs_idle.store(0, Ordering::Relaxed);
    drop(second);
    assert_eq!(idle(), 0);
    let seen = jobs.bell();
    jobs.wake_set(futex::EVERYONE);
    assert_ne!(jobs.bell(), seen, "whoever is about to sleep does not");
}

#[test]
fn jobs_in_hand_are_told_with_those_first_that_have_been_longest() {
    let (_directory, spool) = spool(2, 5);
    for seq in 1..=5 {
        fill(&spool, seq as usize - 1, seq);
    }
    let by = Claimer { lane: 1, incarnation: 1 };
    let (first, second, third) = (claim(&spool, OLD), claim(&spool, by), claim(&spool, by));
    publish(&spool, &mut writer(&spool, 0), &claim(&spool, OLD), &[b"done\n"]);
    // The lowest bit says that it has failed, and is no time.
    slot(&spool, first.slot).started.store(2001, Ordering::Relaxed);
    slot(&spool, second.slot).started.store(1000, Ordering::Relaxed);
    slot(&spool, third.slot).started.store(1, Ordering::Relaxed);
    slot(&spool, second.slot).attempts.store(4, Ordering::Relaxed);
    let told: Vec<_> = in_hand::in_hand(&spool)
        .iter()
        .map(|job| (job.seq, job.lane, job.attempts, job.started.map(|at| at.as_nanos())))
        .collect();
    assert_eq!(told, [(2, 1, 4, Some(1000)), (1, 0, 0, Some(2000)), (3, 1, 0, None)]);
    let all = in_hand::in_hand(&spool);
    assert_eq!(in_hand::text(&spool, &all[0], 3), "job");
    assert_eq!(in_hand::text(&spool, &all[0], 2), "jo…");
}

#[test]
fn jobs_done_well_are_those_of_all_workers_and_of_nobody_else() {
    let (_directory, spool) = spool(2, 1);
    assert_eq!(spool.processes(), 4);
    for index in [processes::worker(0), processes::worker(1), processes::worker(1)] {
        assert!(index != processes::SOURCE && index != processes::BUFFER);
        processes::note_job_done(&spool, index);
    }
    processes::note_job_done(&spool, processes::SOURCE);
    processes::note_job_done(&spool, processes::BUFFER);
    assert_eq!(processes::jobs_done(&spool), 3);
}

// Lanes.

#[test]
fn what_is_staged_is_counted_and_gone_when_it_is_cleared() {
    let (_directory, spool) = spool(1, 1);
    let mut staged = staged(&[b"four", b"seven\n\n"]);
    assert_eq!(staged.len(), 11);
    staged.clear();
    assert_eq!(staged.len(), 0);
    writer(&spool, 0).publish(&mut staged, None).expect("nothing needs no room");
    assert_eq!(tail(&spool), 0, "nothing was published");
}

#[test]
fn the_longest_record_of_a_job_is_as_long_as_is_said_and_hardly_longer() {
    for (more, fits) in [(0, true), (HEAD, false)] {
        let (_directory, spool) = spool(1, 1);
        let mut writer = writer(&spool, 0);
        let record = vec![b'x'; writer.record_max() + more];
        fill(&spool, 0, 1);
        let job = claim(&spool, OLD);
        let result_end = &slot(&spool, job.slot).result_end;
        let finish = Finish { kind: Kind::JobDone, seq: 1, round: 1, result_end };
        let published = writer.publish(&mut staged(&[&record]), Some(finish));
        assert_eq!(published.is_ok(), fits, "{} bytes", record.len());
        assert_eq!(result_end.load(Ordering::Relaxed) != NO_RESULT, fits);
    }
}

/// A record that belongs to no job takes a frame of its own, and nothing else.
#[test]
fn a_record_may_fill_its_lane_to_the_last_byte() {
    for (more, fits) in [(0, true), (1, false)] {
        let (_directory, spool) = spool(1, 1);
        let mut writer = writer(&spool, 0);
        let record = vec![b'x'; 4096 - HEAD + more];
        let published = writer.publish(&mut staged(&[&record]), None);
        assert_eq!(published.is_ok(), fits, "{} bytes", record.len());
        assert_eq!(tail(&spool), if fits { 4096 } else { 0 });
    }
}

#[test]
#[cfg_attr(miri, ignore = "a quarter of a gigabyte")]
fn no_record_is_longer_than_a_frame_can_say_however_large_the_lane() {
    let geometry = Geometry { lanes: 1, lane_bytes: 1 << 29, slots: 1, job_bytes: 8 };
    let spool = Spool::in_memory(geometry);
    let mut writer = writer(&spool, 0);
    assert_eq!(writer.record_max(), frame::PAYLOAD_MAX);
    let mut staged = Staged::default();
    let Ok(()) = staged.push(Kind::Result, |bytes| {
        bytes.resize(bytes.len() + frame::PAYLOAD_MAX + 1, b'x');
        Ok::<(), Infallible>(())
    });
    assert!(writer.publish(&mut staged, None).is_err());
    assert_eq!(tail(&spool), 0);
}

#[test]
#[cfg_attr(miri, ignore = "waits for another thread by the clock")]
fn a_writer_that_waits_says_up_to_where_it_needs_room_and_goes_on_once_it_has_it() {
    let (_directory, spool) = spool(1, 1);
    let record = vec![b'x'; 1000];
    let size = frame::size(record.len()) as u64;
    let waiting_for = || spool.producer(0).waiting_for.load(Ordering::Acquire);
    let mut waited = (0, 0);
    std::thread::scope(|scope| {
        let published = scope.spawn(|| {
            let mut writer = writer(&spool, 0);
            for _ in 0..5 {
                writer.publish(&mut staged(&[&record]), None).expect("not too large");
            }
        });
        let until = clock::now() + Duration::from_secs(60);
        while waiting_for() == 0 && clock::now() < until {
            std::thread::yield_now();
        }
        waited = (tail(&spool), waiting_for());
        // Room for all of them, as after a commit; whatever was seen, so that nobody waits for ever.
        while !published.is_finished() {
            ends::free(spool.consumer(0), tail(&spool));
            bell::ring_for_sure(spool.lane_bell(0));
            std::thread::yield_now();
        }
    });
    assert_eq!(waited, (4 * size, 5 * size), "a lane has 4096 bytes");
    assert_eq!((tail(&spool), waiting_for()), (5 * size, 0));
}

#[test]
fn the_buffer_is_rung_at_exactly_the_bytes_or_records_that_it_has_asked_for() {
    let (_directory, spool) = spool(1, 1);
    let (producer, consumer) = (spool.producer(0), spool.consumer(0));
    for (tail, records, rings) in
        [(96, 9, false), (104, 9, true), (112, 9, true), (96, 10, true), (96, 11, true)]
    {
        ends::ask_for_ring(consumer, 104, 10);
        let buffer = AtomicU32::new(0);
        ends::publish(producer, consumer, &buffer, tail, records);
        let asked = format!("{tail} bytes, {records} records");
        assert_eq!(buffer.load(Ordering::Relaxed) == 1, rings, "{asked}");
        assert_eq!(ends::has_come(producer, consumer), rings, "{asked}");
    }
}

#[test]
fn a_job_is_claimed_once_its_moment_has_come_and_not_before() {
    let (_directory, spool) = spool(1, 2);
    fill(&spool, 0, 1);
    fill(&spool, 1, 2);
    let hour = clock::nanos(clock::now() + Duration::from_secs(3600));
    slot(&spool, 0).not_before.store(hour, Ordering::Relaxed);
    slot(&spool, 1).not_before.store(1, Ordering::Relaxed);
    assert_eq!(claim(&spool, OLD).seq, 2, "long ago");
    assert_eq!(
        Jobs(&spool).claim(OLD, &mut Claimed::default()),
        Claim::None { until: Some(Duration::from_nanos(hour)) }
    );
}

#[test]
fn a_text_that_is_too_long_touches_no_other_slot() {
    let (_directory, spool) = spool(1, 3);
    let long = [b'x'; 200];
    for (index, seq) in [(2, 3), (0, 1), (1, 2)] {
        let text = if index == 1 { &long[..] } else { b"other" };
        let job = NewJob { text, seq, round: 1, offset: seq, prefix: seq, reason: None };
        Jobs(&spool).fill(index, &job);
    }
    let jobs = Jobs(&spool);
    assert_eq!([0, 1, 2].map(|index| jobs.text(index)), [&b"other"[..], &long[..64], b"other"]);
    assert!((0..3).all(|index| jobs.is_sound(index)));
    let second = spool.layout.payloads + spool.layout.payload_stride;
    assert_eq!(spool.mapping.read::<64>(second), long[..64], "each has a place of its own");
}

#[test]
fn everything_in_a_spool_has_a_place_of_its_own() {
    let (_directory, spool) = spool(3, 2);
    let mut places = Vec::new();
    let mut add = |begin: usize, len: usize| places.push((begin, begin + len));
    for index in 0..spool.processes() {
        let process = std::ptr::from_ref(spool.process(index));
        add(process.addr(), size_of_val(spool.process(index)));
    }
    for lane in 0..3 {
        add(std::ptr::from_ref(spool.producer(lane)).addr(), size_of_val(spool.producer(lane)));
        add(std::ptr::from_ref(spool.consumer(lane)).addr(), size_of_val(spool.consumer(lane)));
        add(std::ptr::from_ref(spool.lane_bell(lane)).addr(), size_of::<AtomicU32>());
    }
    for index in 0..spool.layout.history_before + spool.layout.history_stop {
        let entry = spool.history_entry(index);
        add(std::ptr::from_ref(entry).addr(), size_of_val(entry));
    }
    for index in 0..2 {
        add(std::ptr::from_ref(slot(&spool, index)).addr(), size_of::<Slot>());
    }
    let whole: [(usize, usize); 5] = [
        (std::ptr::from_ref(spool.header()).addr(), size_of_val(spool.header())),
        (std::ptr::from_ref(spool.run()).addr(), size_of_val(spool.run())),
        (std::ptr::from_ref(spool.about_head()).addr(), size_of_val(spool.about_head())),
        (std::ptr::from_ref(spool.history_head()).addr(), size_of_val(spool.history_head())),
        (std::ptr::from_ref(spool.bells()).addr(), size_of_val(spool.bells())),
    ];
    whole.into_iter().for_each(|(begin, len)| add(begin, len));
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:?}");
    assert!(spool.has_lane(2) && !spool.has_lane(3));
}

#[test]
#[should_panic(expected = "lane 2 of 2")]
fn nobody_gets_hold_of_a_lane_that_there_is_not() {
    let (_directory, spool) = spool(2, 1);
    spool.producer(2);
}

#[test]
#[cfg_attr(miri, ignore = "a spool in memory has no header")]
fn each_spool_is_told_from_any_other() {
    let spools = [0; 8].map(|_| spool(1, 1));
    let identities: HashSet<u64> = spools.iter().map(|(_, spool)| spool.identity()).collect();
    assert_eq!(identities.len(), 8);
}
