//! Promises of the buffer about sinks that tell batches by their numbers, as those of a program's own.

use super::sink_tests::{DEAD, drain, open, publish_job};
use super::tests::{Bench, expected};
use super::*;
use crate::config::{Format, SyncPolicy};
use crate::flow::queue::frame::Kind;
use crate::flow::queue::lane::LaneWriter;
use crate::flow::sink::own::{Opened, Opening, OwnSink, Records, SinkError, Transport};
use std::cell::RefCell;
use std::rc::Rc;

/// A database as another process sees it: what is in it outlives every buffer.
#[derive(Default)]
struct Database {
    rows: Vec<String>,
    /// The last batch, and its spool.
    last: Option<(u64, u64)>,
    /// Calls before it, or whoever calls it, dies.
    calls_left: usize,
    /// How often it asks to be tried again.
    busy: usize,
    opened: Vec<Opening>,
}

impl Database {
    fn call(&mut self) -> Result<(), SinkError> {
        if self.busy > 0 {
            self.busy -= 1;
            return Err(SinkError::retry("busy"));
        }
        self.calls_left = self.calls_left.checked_sub(1).ok_or(SinkError::new("killed"))?;
        Ok(())
    }
}

/// Stores the number of the batch with its rows.
struct Transactional {
    database: Rc<RefCell<Database>>,
    spool: u64,
}

impl crate::flow::sink::own::Sink<String> for Transactional {
    fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
        let mut database = self.database.borrow_mut();
        database.call()?;
        database.opened.push(*opening);
        self.spool = opening.spool;
        let number = database.last.filter(|(spool, _)| *spool == opening.spool);
        let number = number.map_or(0, |(_, number)| number);
        let written = opening.unfinished.is_some_and(|unfinished| unfinished <= number);
        Ok(if written { Opened::Written(number) } else { Opened::At(number) })
    }

    fn write(&mut self, batch: &Records<String>) -> Result<u64, SinkError> {
        let mut database = self.database.borrow_mut();
        database.call()?;
        assert!(database.last.is_none_or(|last| last < (self.spool, batch.number())));
        database.last = Some((self.spool, batch.number()));
        database.rows.extend(batch.iter().cloned());
        // It was committed; the answer may be lost.
        database.call()?;
        Ok(batch.number())
    }

    fn sync(&mut self) -> Result<(), SinkError> {
        self.database.borrow_mut().call()
    }
}

fn own(database: &Rc<RefCell<Database>>, calls: usize) -> OwnSink<String, Transactional> {
    database.borrow_mut().calls_left = calls;
    let sink = Transactional { database: Rc::clone(database), spool: 0 };
    OwnSink::new(sink, "database", Transport::Postcard)
}

fn drain_own(bench: &Bench, database: &Rc<RefCell<Database>>, calls: usize) -> Result<u64, Error> {
    let mut sink = own(database, calls);
    drain(bench, Sinks { output: &mut sink, dead_letters: None }, SyncPolicy::Always)
}

/// Publishes records as an own sink gets them.
fn publish_typed(writer: &mut LaneWriter<'_>, records: std::ops::Range<u32>) {
    let encode = Transport::Postcard.encoder::<String>();
    for number in records {
        let mut bytes = Vec::new();
        encode(&format!("record {number}\n"), &mut bytes).expect("a record");
        publish_job(writer, &[(Kind::Result, &bytes)]);
    }
}

#[test]
fn a_sink_that_stores_the_number_of_a_batch_has_each_record_once_wherever_the_buffer_dies() {
    for first in 0..12 {
        for second in 0..6 {
            let (bench, database) = (Bench::new(1), Rc::default());
            let mut writer = bench.writer(0);
            publish_typed(&mut writer, 0..3);
            let died = drain_own(&bench, &database, first).is_err();
            publish_typed(&mut writer, 3..5);
            let _died_again = drain_own(&bench, &database, second);
            publish_typed(&mut writer, 5..6);
            drain_own(&bench, &database, usize::MAX).expect("drained");
            assert_eq!(database.borrow().rows.concat(), expected(0..6), "{first} {second}");
            assert_eq!(died, first < 5, "open, two of a write, two of syncs: {first}");
            assert_eq!(Commit::load(&bench.spool).totals.results, 6);
        }
    }
}

#[test]
fn a_sink_that_asks_for_patience_is_opened_again_and_then_written_to() {
    let (bench, database) = (Bench::new(1), Rc::<RefCell<Database>>::default());
    publish_typed(&mut bench.writer(0), 0..2);
    database.borrow_mut().busy = 2;
    drain_own(&bench, &database, usize::MAX).expect("drained");
    assert_eq!(database.borrow().rows.concat(), expected(0..2));
    let opened = database.borrow().opened.clone();
    assert_eq!(opened[0].spool, bench.spool.identity());
    assert_eq!((opened[0].position, opened[0].unfinished), (None, None));
}

#[test]
fn a_sink_that_loses_its_connection_in_a_sync_is_opened_again() {
    #[derive(Default)]
    struct Lost {
        connections: u32,
        syncs: u32,
        opened: Rc<RefCell<Vec<Opening>>>,
    }
    impl crate::flow::sink::own::Sink<String> for Lost {
        fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
            self.connections += 1;
            self.opened.borrow_mut().push(*opening);
            Ok(Opened::At(opening.position.unwrap_or(0)))
        }
        fn write(&mut self, _: &Records<String>) -> Result<u64, SinkError> {
            Ok(9)
        }
        fn sync(&mut self) -> Result<(), SinkError> {
            self.syncs += 1;
            match (self.connections, self.syncs) {
                (1, 4..) => Err(SinkError::new("never opened again")),
                (1, _) => Err(SinkError::retry("the connection is lost")),
                _ => Ok(()),
            }
        }
    }
    let bench = Bench::new(1);
    publish_typed(&mut bench.writer(0), 0..1);
    let lost = Lost::default();
    let opened = Rc::clone(&lost.opened);
    let mut sink: OwnSink<String, Lost> = OwnSink::new(lost, "lost", Transport::Postcard);
    drain(&bench, Sinks { output: &mut sink, dead_letters: None }, SyncPolicy::Always)
        .expect("drained");
    let last = *opened.borrow().last().expect("opened");
    assert_eq!((opened.borrow().len(), last.position, last.unfinished), (2, Some(9), None));
}

/// The power goes: the disk has the spool as it was when it was last synced, or as it was any time
/// later, and the sink has what it said it had.
#[test]
fn with_sync_always_a_sink_that_stores_numbers_has_each_record_once_after_a_power_loss() {
    for calls in 0..12 {
        let (bench, database) = (Bench::new(1), Rc::default());
        let mut writer = bench.writer(0);
        publish_typed(&mut writer, 0..2);
        drain_own(&bench, &database, usize::MAX).expect("drained");
        publish_typed(&mut writer, 2..5);
        let _died = drain_own(&bench, &database, calls);
        bench.spool.run().boots.fetch_add(1, Ordering::Release);
        publish_typed(&mut writer, 5..7);
        // It dies while it salvages, too.
        for calls in [1, 2, 3] {
            let _died = drain_own(&bench, &database, calls);
        }
        drain_own(&bench, &database, usize::MAX).expect("drained");
        assert_eq!(database.borrow().rows.concat(), expected(0..7), "{calls}");
        let books = Commit::load(&bench.spool);
        assert_eq!((books.totals.results, books.totals.quarantined, books.boots), (7, 0, 1));
    }
}

/// What the sink has got since the last sync may come again, but not once more with each death.
#[test]
fn a_buffer_that_dies_while_it_salvages_leaves_a_batch_that_the_sink_is_asked_for() {
    let (bench, database) = (Bench::new(1), Rc::default());
    let mut writer = bench.writer(0);
    publish_typed(&mut writer, 0..3);
    drain_own(&bench, &database, usize::MAX).expect("drained");
    let mut books = Commit::load(&bench.spool);
    (books.generation, books.synced) = (books.generation + 1, Commit::initial(1).synced);
    books.store(&bench.spool);
    bench.spool.run().boots.store(1, Ordering::Release);
    for (record, calls) in (3..).zip([0, 1, 2, 3, 2, 3]) {
        assert!(drain_own(&bench, &database, calls).is_err());
        publish_typed(&mut writer, record..record + 1);
    }
    drain_own(&bench, &database, usize::MAX).expect("drained");
    assert_eq!(database.borrow().rows.concat(), expected(0..3) + &expected(0..9));
    let books = Commit::load(&bench.spool);
    assert_eq!((books.totals.results, books.totals.quarantined, books.boots), (9, 0, 1));
}

/// All that the disk has heard of was synced; then came a batch that only the dead letters have kept.
#[test]
fn dead_letters_beside_a_sink_with_numbers_are_not_written_again_after_a_power_loss() {
    let (bench, database) = (Bench::new(1), Rc::<RefCell<Database>>::default());
    let dead = bench.directory.path().join("dead");
    let mut writer = bench.writer(0);
    publish_typed(&mut writer, 0..2);
    let drain_both = || {
        let mut output = own(&database, usize::MAX);
        let mut file = open(&dead, &Format::JsonLines);
        let sinks = Sinks { output: &mut output, dead_letters: Some(&mut file) };
        drain(&bench, sinks, SyncPolicy::Never).expect("drained");
    };
    drain_both();
    let layout = &bench.spool.layout;
    let mut old = Vec::new();
    bench.spool.mapping.append_to(layout.commit[0], layout.slots - layout.commit[0], &mut old);
    publish_job(&mut writer, &[(Kind::DeadLetter, b"dead one\n")]);
    drain_both();
    bench.spool.mapping.write(layout.commit[0], &old);
    bench.spool.run().boots.store(1, Ordering::Release);
    publish_job(&mut writer, &[(Kind::DeadLetter, b"dead two\n")]);
    drain_both();
    assert_eq!(std::fs::read_to_string(&dead).expect("dead letters"), DEAD);
    assert_eq!(database.borrow().rows.concat(), expected(0..2));
}

/// Generations that the disk has never heard of come again after a power loss.
#[test]
fn numbers_of_batches_grow_over_a_power_loss_that_has_taken_commits() {
    let (bench, database) = (Bench::new(1), Rc::default());
    let mut writer = bench.writer(0);
    publish_typed(&mut writer, 0..1);
    drain_own(&bench, &database, usize::MAX).expect("drained");
    let layout = &bench.spool.layout;
    let mut old = Vec::new();
    bench.spool.mapping.append_to(layout.commit[0], layout.slots - layout.commit[0], &mut old);
    for number in 1..4 {
        publish_typed(&mut writer, number..number + 1);
        drain_own(&bench, &database, usize::MAX).expect("drained");
    }
    let before = database.borrow().last.expect("a batch");
    bench.spool.mapping.write(layout.commit[0], &old);
    bench.spool.run().boots.store(1, Ordering::Release);
    publish_typed(&mut writer, 4..5);
    drain_own(&bench, &database, usize::MAX).expect("drained");
    let after = database.borrow().last.expect("a batch");
    assert!(after > before && after.1 <= i64::MAX as u64, "{before:?} {after:?}");
}

#[test]
fn a_panic_of_a_sink_and_a_record_of_another_type_are_errors_for_good() {
    struct Panics;
    impl crate::flow::sink::own::Sink<u64> for Panics {
        fn open(&mut self, _: &Opening) -> Result<Opened, SinkError> {
            Ok(Opened::At(0))
        }
        fn write(&mut self, _: &Records<u64>) -> Result<u64, SinkError> {
            panic!("lost its head")
        }
    }
    for (transport, message) in [
        (Transport::Postcard, "panicked: lost its head"),
        (Transport::Json, "can't be read as u64"),
    ] {
        let bench = Bench::new(1);
        let mut bytes = Vec::new();
        Transport::Postcard.encoder()(&7_u64, &mut bytes).expect("a record");
        publish_job(&mut bench.writer(0), &[(Kind::Result, &bytes)]);
        let mut sink: OwnSink<u64, Panics> = OwnSink::new(Panics, "panics", transport);
        let error =
            drain(&bench, Sinks { output: &mut sink, dead_letters: None }, SyncPolicy::Always);
        let error = error.expect_err("no such sink").to_string();
        assert!(
            error.contains("panics: can't write the output") && error.contains(message),
            "{error}"
        );
        assert_eq!(Commit::load(&bench.spool).totals.results, 0);
    }
}

#[test]
fn a_record_whose_reading_panics_in_the_buffer_is_an_error_for_good() {
    thread_local!(static BUFFER: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    struct Touchy;
    impl serde::Serialize for Touchy {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u8(7)
        }
    }
    impl<'de> serde::Deserialize<'de> for Touchy {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Touchy, D::Error> {
            if BUFFER.get() { panic!("not here") } else { Ok(Touchy) }
        }
    }
    struct Nowhere;
    impl crate::flow::sink::own::Sink<Touchy> for Nowhere {
        fn open(&mut self, _: &Opening) -> Result<Opened, SinkError> {
            Ok(Opened::At(0))
        }
        fn write(&mut self, _: &Records<Touchy>) -> Result<u64, SinkError> {
            Ok(0)
        }
    }
    let bench = Bench::new(1);
    let mut bytes = Vec::new();
    let encode = Transport::Postcard.encoder();
    let result = encode(&Touchy, &mut bytes);
    assert!(result.is_err(), "a byte of it is left");
    publish_job(&mut bench.writer(0), &[(Kind::Result, &bytes)]);
    BUFFER.set(true);
    let mut sink: OwnSink<Touchy, Nowhere> = OwnSink::new(Nowhere, "nowhere", Transport::Postcard);
    let error = drain(&bench, Sinks { output: &mut sink, dead_letters: None }, SyncPolicy::Always);
    let error = error.expect_err("unreadable").to_string();
    assert!(error.contains("panicked: not here"), "{error}");
}

#[test]
fn numbers_travel_as_json_without_losing_a_bit() {
    let encode = Transport::Json.encoder::<f64>();
    let mut dice = 1_u64;
    for _ in 0..10_000 {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = f64::from_bits(dice);
        if !number.is_finite() {
            continue;
        }
        let mut bytes = Vec::new();
        encode(&number, &mut bytes).expect("a record");
        let read: f64 = serde_json::from_slice(&bytes[..bytes.len() - 1]).expect("JSON");
        assert_eq!(read.to_bits(), number.to_bits(), "{number:e}");
    }
}

#[test]
fn a_record_that_could_not_be_read_back_fails_where_it_is_emitted() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Sparse {
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<u8>,
        count: u8,
    }
    let encode = |transport: Transport, note| {
        transport.encoder()(&Sparse { note, count: 3 }, &mut Vec::new())
    };
    assert!(encode(Transport::Postcard, Some(1)).is_ok());
    let error = encode(Transport::Postcard, None).expect_err("a field is missing").to_string();
    assert!(error.contains("can't be read back"), "{error}");
    assert!(encode(Transport::Json, None).is_ok());
    #[cfg(feature = "bincode")]
    assert!(encode(Transport::Bincode, Some(1)).is_ok());
}
