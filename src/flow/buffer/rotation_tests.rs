//! Promises of the buffer about rotation, each with the death that would break it.

use super::tests::{Bench, dying, expected, killed, policy, publish};
use super::*;
use crate::config::Rotation;
use crate::flow::sink::file::{FileSink, Shape};
use crate::flow::sink::{Batch, CantOpen, Position, Sink};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// Room for five records of one digit.
const BYTES: u64 = 45;

fn rotation() -> Rotation {
    Rotation { bytes: Some(BYTES), ..Rotation::default() }
}

fn sink(bench: &Bench) -> FileSink {
    bench.sink().rotating(rotation()).expect("a file")
}

/// The rotated files, oldest first.
fn rotated(bench: &Bench) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(bench.directory.path()).expect("the directory");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    all.retain(|path| path.file_name().expect("a name").as_encoded_bytes().starts_with(b"out.2"));
    all.sort();
    all
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}

/// All that was ever written, in order.
fn everything(bench: &Bench) -> String {
    let before: String = rotated(bench).iter().map(|path| read(path)).collect();
    before + &bench.output()
}

fn place(path: &Path) -> Position {
    let metadata = std::fs::metadata(path).expect("metadata");
    let (device, inode, len) = (metadata.dev(), metadata.ino(), metadata.len());
    Position { device, inode, len, synced: len }
}

#[test]
fn an_output_is_set_aside_before_it_becomes_too_long_and_between_two_records() {
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let mut writer = bench.writer(0);
    (0..9).for_each(|number| publish(&mut writer, number..number + 1));
    bench.drain(&mut sink(&bench)).expect("drained");
    let rotated = rotated(&bench);
    assert_eq!(rotated.len(), 1);
    assert_eq!(read(&rotated[0]), expected(0..5));
    assert_eq!(bench.output(), expected(5..9));
    let books = Commit::load(&bench.spool);
    assert_eq!(books.totals.results, 9);
    let at = books.sinks[0].expect("a file");
    assert_eq!((at.inode, at.len), (place(&bench.path()).inode, 36));
}

#[test]
fn records_of_one_job_are_in_one_file_even_if_it_becomes_too_long() {
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..1);
    publish(&mut writer, 1..9);
    publish(&mut writer, 9..10);
    bench.drain(&mut sink(&bench)).expect("drained");
    let files: Vec<String> = rotated(&bench).iter().map(|path| read(path)).collect();
    assert_eq!(files, [expected(0..9)]);
    assert_eq!(bench.output(), expected(9..10));
}

#[test]
fn each_new_file_begins_with_the_header() {
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let mut writer = bench.writer(0);
    (0..8).for_each(|number| publish(&mut writer, number..number + 1));
    let shape = Shape { header: b"head\n".into(), ..Shape::ended_by(b'\n') };
    let file = FileSink::open(&bench.path(), shape).expect("open");
    bench.drain(&mut file.rotating(rotation()).expect("a file")).expect("drained");
    let rotated = rotated(&bench);
    assert_eq!(read(&rotated[0]), format!("head\n{}", expected(0..5)));
    assert_eq!(bench.output(), format!("head\n{}", expected(5..8)));
}

/// A spool and an output as a buffer leaves them that dies in a rotation, with more published.
fn dead_in_rotation() -> (Bench, Commit) {
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..3);
    bench.drain(&mut sink(&bench)).expect("drained, and synced");
    publish(&mut writer, 3..8);
    let books = Commit::load(&bench.spool);
    let generation = books.generation + 1;
    // 2026-11-21T16:15:00.123456Z
    let intent = Commit { generation, rotation: 1_795_277_700_123_456, ..books };
    intent.store_intent(&bench.spool);
    (bench, intent)
}

const ASIDE: &str = "out.2026-11-21T161500.123456Z";

#[test]
fn a_buffer_that_dies_between_any_two_steps_of_a_rotation_is_gone_on_from_there() {
    for step in 0..4 {
        for main_has_the_old_file in [false, true] {
            let (bench, intent) = dead_in_rotation();
            let opened_before = main_has_the_old_file.then(|| sink(&bench));
            let aside = bench.directory.path().join(ASIDE);
            if step >= 1 {
                std::fs::rename(bench.path(), &aside).expect("rename");
            }
            if step >= 2 {
                std::fs::write(bench.path(), "").expect("create");
            }
            if step >= 3 {
                let sinks = [Some(place(&bench.path())), None];
                Commit { sinks, rotation: 0, ..intent }.store(&bench.spool);
            }
            let mut file = opened_before.unwrap_or_else(|| sink(&bench));
            bench.drain(&mut file).expect("drained");
            assert_eq!(rotated(&bench), std::slice::from_ref(&aside), "step {step}");
            assert_eq!(read(&aside), expected(0..3), "step {step}");
            assert_eq!(bench.output(), expected(3..8), "step {step}");
            assert_eq!(Commit::load(&bench.spool).totals.results, 8);
        }
    }
}

/// An output whose buffer dies when the file has its other name, and no new one is there.
struct DiesRenamed(FileSink);

impl Sink for DiesRenamed {
    fn open(&mut self, committed: Option<Position>, pending: Batch<'_>) -> Result<usize, CantOpen> {
        self.0.open(committed, pending)
    }

    fn write(&mut self, batch: Batch<'_>, done: usize) -> io::Result<usize> {
        self.0.write(batch, done)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn position(&self) -> Option<Position> {
        self.0.position()
    }

    fn name(&self) -> String {
        self.0.name()
    }

    fn is_to_rotate(&self, more: usize) -> bool {
        self.0.is_to_rotate(more)
    }

    fn rotation_moment(&self) -> u64 {
        self.0.rotation_moment()
    }

    fn rotate(&mut self, _committed: Option<Position>, _moment: u64) -> io::Result<()> {
        let path = PathBuf::from(self.0.name());
        std::fs::rename(&path, path.with_file_name(ASIDE))?;
        Err(killed())
    }
}

#[test]
fn a_rotation_is_under_way_until_the_new_file_is_there_and_is_gone_on_with_by_whoever_comes_next() {
    use std::os::unix::fs::PermissionsExt;
    for was_begun_before in [false, true] {
        let (bench, old) = if was_begun_before {
            (dead_in_rotation().0, 3)
        } else {
            let bench = Bench::with_lanes_of(16 << 10, 1);
            let mut writer = bench.writer(0);
            publish(&mut writer, 0..5);
            bench.drain(&mut sink(&bench)).expect("drained");
            publish(&mut writer, 5..8);
            (bench, 5)
        };
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(bench.path(), mode).expect("set");
        assert!(bench.drain(&mut DiesRenamed(sink(&bench))).is_err());
        let committed = Commit::load(&bench.spool);
        let intent = Commit::load_intent(&bench.spool, &committed).expect("nothing is committed");
        assert_ne!(intent.rotation, 0);
        // Main creates an output of its own mode, as it knows of nothing.
        bench.drain(&mut sink(&bench)).expect("drained");
        let mode = std::fs::metadata(bench.path()).expect("metadata").permissions().mode();
        assert_eq!((mode & 0o777, bench.output()), (0o600, expected(old..8)));
        assert_eq!(read(&bench.directory.path().join(ASIDE)), expected(0..old));
    }
}

#[test]
fn a_name_that_is_taken_is_nobodys_loss() {
    let (bench, _) = dead_in_rotation();
    let taken = bench.directory.path().join(ASIDE);
    std::fs::write(&taken, "foreign\n").expect("write");
    bench.drain(&mut sink(&bench)).expect("drained");
    assert_eq!(read(&taken), "foreign\n");
    assert_eq!(everything(&bench), format!("foreign\n{}", expected(0..8)));
}

#[test]
fn an_output_that_somebody_else_has_moved_in_the_middle_of_a_rotation_is_left_where_it_is() {
    let (bench, _) = dead_in_rotation();
    let moved = bench.directory.path().join("moved");
    std::fs::rename(bench.path(), &moved).expect("rename");
    std::fs::write(bench.path(), "foreign\n").expect("write");
    bench.drain(&mut sink(&bench)).expect("drained");
    assert_eq!(read(&moved), expected(0..3));
    assert_eq!(everything(&bench), format!("foreign\n{}", expected(3..8)));
}

#[test]
fn a_buffer_that_dies_at_any_byte_of_a_rotated_output_is_gone_on_from_exactly_there() {
    let total = expected(0..10).len();
    // At each byte around the ends of the files, and at some others.
    for killed_at in (0..=total).filter(|at| at % 45 < 3 || at % 7 == 0) {
        let bench = Bench::with_lanes_of(16 << 10, 1);
        let mut writer = bench.writer(0);
        (0..10).for_each(|number| publish(&mut writer, number..number + 1));
        let file = sink(&bench);
        let mut dies = dying(file, killed_at);
        // In a write, or in the first sync after the last.
        dies.syncs = 1000;
        assert_eq!(bench.drain(&mut dies).is_err(), killed_at < total, "{killed_at}");
        drop(dies);
        bench.drain(&mut sink(&bench)).expect("drained");
        assert_eq!(everything(&bench), expected(0..10), "{killed_at}");
        assert!(rotated(&bench).len() == 1, "{killed_at}");
    }
}

#[test]
fn after_a_power_loss_in_any_step_of_a_rotation_nothing_is_lost_or_doubled() {
    for step in 0..3 {
        let (bench, _) = dead_in_rotation();
        let aside = bench.directory.path().join(ASIDE);
        if step >= 1 {
            std::fs::rename(bench.path(), &aside).expect("rename");
        }
        if step >= 2 {
            std::fs::write(bench.path(), "").expect("create");
        }
        bench.spool.run().boots.store(1, Ordering::Release);
        bench.drain(&mut sink(&bench)).expect("drained");
        assert_eq!(everything(&bench), expected(0..8), "step {step}");
        assert_eq!(Commit::load(&bench.spool).totals.quarantined, 0);
    }
}

#[test]
fn what_was_written_to_a_new_file_before_a_power_loss_is_not_written_again() {
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let mut writer = bench.writer(0);
    (0..9).for_each(|number| publish(&mut writer, number..number + 1));
    // Dies when it is to be synced at the end; the disk has what was written since the rotation.
    let mut dies = dying(sink(&bench), usize::MAX);
    dies.syncs = 1;
    assert!(bench.drain(&mut dies).is_err());
    drop(dies);
    assert_eq!((rotated(&bench).len(), bench.output()), (1, expected(5..9)));
    bench.spool.run().boots.store(1, Ordering::Release);
    bench.drain(&mut sink(&bench)).expect("drained");
    assert_eq!(everything(&bench), expected(0..9));
    assert_eq!(rotated(&bench).len(), 1);
}

#[test]
fn what_stands_in_a_new_file_is_not_written_again_if_the_power_loss_has_torn_the_commit_of_it() {
    // Of a new file the disk has nothing, some of it with half of a record, or all.
    let cases = [0, 1, 9, 14, 27, 36].into_iter().flat_map(|left| [(left, false), (left, true)]);
    for (left, is_compressed) in cases {
        let bench = Bench::with_lanes_of(16 << 10, 1);
        let mut writer = bench.writer(0);
        publish(&mut writer, 0..5);
        bench.drain(&mut sink(&bench)).expect("drained, and synced");
        let (commits, books) = (bench.spool.layout.commit, bench.spool.layout.slots);
        let mut old = Vec::new();
        bench.spool.mapping.append_to(commits[0], books - commits[0], &mut old);
        (5..9).for_each(|number| publish(&mut writer, number..number + 1));
        let mut dies = dying(sink(&bench), usize::MAX);
        dies.syncs = 1;
        assert!(bench.drain(&mut dies).is_err());
        drop(dies);
        assert_eq!((rotated(&bench).len(), bench.output()), (1, expected(5..9)));
        // The older commit is whole, the newer one was torn when it was stored over that of the
        // rotation.
        bench.spool.mapping.write(commits[0], &old);
        let file = std::fs::File::options().write(true).open(bench.path()).expect("open");
        file.set_len(left).expect("cut");
        let aside = rotated(&bench).remove(0);
        if is_compressed {
            let packed = crate::flow::queue::spool::sibling(&aside, ".gz");
            std::fs::write(&packed, "compressed\n").expect("write");
            std::fs::remove_file(&aside).expect("remove");
        }
        let old = if is_compressed { "compressed\n".into() } else { expected(0..5) };
        bench.spool.run().boots.store(1, Ordering::Release);
        bench.drain(&mut sink(&bench)).expect("drained");
        assert_eq!(everything(&bench), old + &expected(5..9), "{left} bytes left");
        assert_eq!(rotated(&bench).len(), 1);
        assert_eq!(Commit::load(&bench.spool).totals.results, 9);
    }
}

#[test]
fn a_link_that_was_made_for_a_rotation_and_nothing_else_is_no_second_copy() {
    let (bench, intent) = dead_in_rotation();
    let aside = bench.directory.path().join(ASIDE);
    std::fs::hard_link(bench.path(), &aside).expect("link");
    let renamed = crate::flow::sink::file::rename_by_link(&bench.path(), &aside);
    assert!(renamed.is_ok() && !bench.path().exists());
    bench.drain(&mut sink(&bench)).expect("drained");
    assert_eq!((rotated(&bench), bench.output()), (vec![aside], expected(3..8)), "{intent:?}");
}

#[test]
fn a_file_with_the_last_name_of_the_calendar_hangs_nobody() {
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let last = bench.directory.path().join("out.9999-12-30T220000.999999Z");
    std::fs::write(&last, "planted\n").expect("write");
    let mut writer = bench.writer(0);
    (0..9).for_each(|number| publish(&mut writer, number..number + 1));
    bench.drain(&mut sink(&bench)).expect("drained");
    assert_eq!((read(&last), bench.output()), ("planted\n".into(), expected(5..9)));
    assert_eq!(rotated(&bench).len(), 1);
}

#[test]
fn a_new_file_has_the_mode_of_the_one_before_although_main_has_created_it() {
    use std::os::unix::fs::PermissionsExt;
    let (bench, _) = dead_in_rotation();
    let aside = bench.directory.path().join(ASIDE);
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(bench.path(), mode).expect("set");
    std::fs::rename(bench.path(), &aside).expect("rename");
    // As main does, before anybody knows of the rotation.
    bench.drain(&mut sink(&bench)).expect("drained");
    let mode = std::fs::metadata(bench.path()).expect("metadata").permissions().mode();
    assert_eq!((mode & 0o777, bench.output()), (0o600, expected(3..8)));
}

#[test]
fn an_output_that_can_not_be_renamed_is_gone_on_with() {
    let (bench, _) = dead_in_rotation();
    // All names that are tried are taken.
    let taken = (123_456..124_456).map(|micros| format!("out.2026-11-21T161500.{micros}Z"));
    let taken: Vec<PathBuf> = taken.map(|name| bench.directory.path().join(name)).collect();
    taken.iter().for_each(|path| std::fs::write(path, "").expect("write"));
    bench.drain(&mut sink(&bench)).expect("drained");
    assert_eq!((bench.output(), rotated(&bench)), (expected(0..8), taken));
    let books = Commit::load(&bench.spool);
    assert_eq!((books.totals.results, books.sinks[0].expect("a file").len), (8, 72));
}

#[test]
fn a_fifo_that_was_put_in_the_output_s_place_in_a_rotation_is_not_waited_for() {
    let (bench, _) = dead_in_rotation();
    let mut file = sink(&bench);
    let aside = bench.directory.path().join(ASIDE);
    std::fs::rename(bench.path(), &aside).expect("rename");
    nix::unistd::mkfifo(&bench.path(), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    assert!(bench.drain(&mut file).is_err());
    assert_eq!(read(&aside), expected(0..3));
    std::fs::remove_file(bench.path()).expect("remove");
    bench.drain(&mut file).expect("drained");
    assert_eq!(everything(&bench), expected(0..8));
}

#[test]
fn the_oldest_are_removed_and_nothing_that_is_not_ours() {
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let mut writer = bench.writer(0);
    (0..40).for_each(|number| publish(&mut writer, number..number + 1));
    let path = |name: &str| bench.directory.path().join(name);
    let foreign = ["out.1", "out.2026-11-21", "other.2020-11-21T161500.123456Z", "out.bak"];
    foreign.iter().for_each(|name| std::fs::write(path(name), "mine").expect("write"));
    let link = "out.2020-01-01T000000.000000Z";
    std::os::unix::fs::symlink(path("out.bak"), path(link)).expect("link");
    let keep = Rotation { keep: Some(2), ..rotation() };
    bench.drain(&mut bench.sink().rotating(keep).expect("a file")).expect("drained");
    let left = rotated(&bench);
    let ours = left.iter().filter(|path| path.is_file() && !path.is_symlink());
    let ours: Vec<_> = ours.filter(|path| !foreign.iter().any(|it| path.ends_with(it))).collect();
    assert_eq!(ours.len(), 2, "{left:?}");
    foreign.iter().for_each(|name| assert_eq!(read(&path(name)), "mine"));
    assert!(path(link).is_symlink());
    let newest: String = ours.iter().map(|path| read(path)).collect();
    assert!(expected(0..40).ends_with(&(newest + &bench.output())));
}

#[test]
fn a_rotated_file_sorts_behind_all_before_it_although_the_clock_went_back() {
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let mut writer = bench.writer(0);
    let future = bench.directory.path().join("out.2999-01-01T000000.000000Z");
    std::fs::write(&future, "old\n").expect("write");
    (0..12).for_each(|number| publish(&mut writer, number..number + 1));
    bench.drain(&mut sink(&bench)).expect("drained");
    assert_eq!(everything(&bench), format!("old\n{}", expected(0..12)));
    assert_eq!(rotated(&bench).len(), 3);
}

/// The time of a file's last change.
fn set_changed(path: &Path, seconds_ago: u64) {
    let file = std::fs::File::options().append(true).open(path).expect("open");
    let now = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    let changed = now - Duration::from_secs(seconds_ago);
    file.set_modified(changed).expect("set");
}

#[test]
fn a_file_of_an_earlier_period_is_set_aside_by_whoever_writes_next() {
    let every = Rotation { every: Some(Duration::from_secs(36_000_000)), ..Rotation::default() };
    let bench = Bench::with_lanes_of(16 << 10, 1);
    let mut writer = bench.writer(0);
    publish(&mut writer, 0..2);
    bench.drain(&mut bench.sink().rotating(every).expect("a file")).expect("drained");
    publish(&mut writer, 2..4);
    bench.drain(&mut bench.sink().rotating(every).expect("a file")).expect("drained");
    assert_eq!((bench.output(), rotated(&bench).len()), (expected(0..4), 0));
    set_changed(&bench.path(), 36_000_001);
    publish(&mut writer, 4..6);
    bench.drain(&mut bench.sink().rotating(every).expect("a file")).expect("drained");
    assert_eq!((bench.output(), rotated(&bench).len()), (expected(4..6), 1));
    assert_eq!(read(&rotated(&bench)[0]), expected(0..4));
}

#[test]
fn a_period_that_ends_while_nothing_comes_is_noticed_and_an_empty_file_stays() {
    let every = Rotation { every: Some(Duration::from_secs(1)), ..Rotation::default() };
    let bench = Bench::with_lanes_of(16 << 10, 1);
    publish(&mut bench.writer(0), 0..2);
    let stop = Stop::new(|| {});
    std::thread::scope(|scope| {
        let (spool, stopper) = (&bench.spool, stop.clone());
        let bench = &bench;
        let buffer = scope.spawn(move || {
            let mut file = bench.sink().rotating(every).expect("a file");
            let flush = config::Buffer { flush_records: 1, ..policy().flush };
            let sinks = Sinks { output: &mut file, dead_letters: None };
            run(spool, sinks, Policy { flush, ..policy() }, &stopper, || {})
        });
        let until = clock::now() + Duration::from_secs(20);
        while rotated(bench).is_empty() && clock::now() < until {
            std::thread::yield_now();
        }
        // Another period, in which there is nothing to be set aside.
        stop.wait(Duration::from_millis(1100));
        stop.request();
        bell::ring_for_sure(&bench.spool.bells().buffer);
        buffer.join().expect("no panic").expect("drained");
    });
    assert_eq!(rotated(&bench).len(), 1);
    assert_eq!(read(&rotated(&bench)[0]), expected(0..2));
    assert_eq!(bench.output(), "");
    // Nothing was written since: the last intent is the rotation's.
    let intent = Commit::load_any_intent(&bench.spool).expect("an intent");
    assert_ne!(intent.rotation, 0);
}
