//! What an output file does about what it finds.

use super::*;

fn sink(content: &[u8]) -> (tempfile::TempDir, FileSink) {
    let directory = tempfile::tempdir().expect("temp dir");
    let path = directory.path().join("out");
    std::fs::write(&path, content).expect("write");
    let sink = FileSink::open(&path, Shape::ended_by(b'\n')).expect("open");
    (directory, sink)
}

fn at(sink: &FileSink, len: u64) -> Option<Position> {
    Some(Position { len, ..sink.at })
}

#[test]
fn what_of_a_batch_is_there_already_is_not_written_again() {
    let (_directory, mut sink) = sink(b"old\nnew");
    let committed = at(&sink, 4);
    assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"new\nmore\n")).expect("open"), 3);
    assert_eq!(sink.position().expect("regular").len, 7);
}

#[test]
fn bytes_that_are_not_ours_are_put_aside() {
    let (directory, mut sink) = sink(b"old\nnexx");
    let committed = at(&sink, 4);
    assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"new\n")).expect("open"), 2);
    assert_eq!(std::fs::read(directory.path().join("out")).expect("read"), b"old\nne");
    assert_eq!(std::fs::read(directory.path().join("out.quarantine")).expect("read"), b"xx");
}

#[test]
fn a_batch_that_was_begun_in_a_file_that_was_moved_is_finished_there() {
    let (directory, mut sink) = sink(b"old\nne");
    let committed = at(&sink, 4);
    let (path, moved) = (directory.path().join("out"), directory.path().join("out.1"));
    std::fs::rename(&path, &moved).expect("rename");
    std::fs::write(&path, "").expect("a new output");
    sink = loop {
        // See the test of the lock.
        if let Ok(sink) = FileSink::open(&path, Shape::ended_by(b'\n')) {
            break sink;
        }
    };
    assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"new\n")).expect("open"), 4);
    assert_eq!(std::fs::read(&moved).expect("read"), b"old\nnew\n");
    assert_eq!(std::fs::read(&path).expect("read"), b"");
}

#[test]
fn a_batch_that_was_begun_in_a_file_that_a_link_leads_to_is_finished_there() {
    let directory = tempfile::tempdir().expect("temp dir");
    let [links, files] = ["links", "files"].map(|name| directory.path().join(name));
    for folder in [&links, &files] {
        std::fs::create_dir(folder).expect("a folder");
    }
    let (link, path, moved) = (links.join("out"), files.join("out"), files.join("out.1"));
    std::fs::write(&moved, b"old\nne").expect("write");
    let metadata = std::fs::metadata(&moved).expect("metadata");
    std::fs::write(&path, "").expect("a new output");
    std::os::unix::fs::symlink(&path, &link).expect("link");
    let (device, inode) = (metadata.dev(), metadata.ino());
    let committed = Some(Position { device, inode, len: 4, synced: 0 });
    let mut sink = FileSink::open(&link, Shape::ended_by(b'\n')).expect("open");
    assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"new\n")).expect("open"), 4);
    assert_eq!(std::fs::read(&moved).expect("read"), b"old\nnew\n");
    assert_eq!(std::fs::read(&path).expect("read"), b"");
}

#[test]
fn a_buffer_whose_output_was_removed_goes_on_in_the_file_that_the_one_before_it_has_made() {
    let (directory, mut of_main) = sink(b"old\n");
    let path = directory.path().join("out");
    std::fs::remove_file(&path).expect("remove");
    std::fs::write(&path, b"first\nsec").expect("what the other buffer has written");
    let metadata = std::fs::metadata(&path).expect("metadata");
    let (device, inode) = (metadata.dev(), metadata.ino());
    let committed = Some(Position { device, inode, len: 6, synced: 0 });
    assert_eq!(Sink::open(&mut of_main, committed, Batch::of(b"second\n")).expect("open"), 3);
    of_main.append(b"ond\n").expect("write");
    assert_eq!(std::fs::read(&path).expect("read"), b"first\nsecond\n");
}

#[test]
fn what_somebody_else_appended_stays() {
    let (directory, mut sink) = sink(b"old\nforeign\n");
    let committed = at(&sink, 4);
    assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"")).expect("open"), 0);
    sink.append(b"ours\n").expect("write");
    let content = std::fs::read(directory.path().join("out")).expect("read");
    assert_eq!(content, b"old\nforeign\nours\n");
}

#[test]
fn an_existing_output_without_a_last_newline_gets_one() {
    let (directory, mut sink) = sink(b"old");
    assert_eq!(Sink::open(&mut sink, None, Batch::of(b"")).expect("open"), 0);
    sink.append(b"ours\n").expect("write");
    assert_eq!(std::fs::read(directory.path().join("out")).expect("read"), b"old\nours\n");
}

/// Edited where it is, or cut, while nothing ran: the place that is known of it is in the middle of a line.
#[test]
fn no_record_is_appended_to_half_a_line_that_was_left_before_the_place_of_a_batch() {
    let (directory, mut sink) = sink(b"other\ntext here\n");
    let read = |name: &str| std::fs::read(directory.path().join(name)).expect("read");
    let committed = at(&sink, 9);
    assert_eq!(Sink::open(&mut sink, committed, Batch::of(b"new\n")).expect("open"), 0);
    assert_eq!(read("out.quarantine"), b"t here\n");
    sink.append(b"new\n").expect("write");
    assert_eq!(read("out"), b"other\ntex\nnew\n");
    let committed = at(&sink, 8);
    std::fs::write(directory.path().join("out"), b"other\nte").expect("write");
    assert_eq!(Sink::open(&mut sink, committed, Batch::default()).expect("open"), 0);
    assert_eq!(read("out"), b"other\nte\n");
}

#[test]
fn no_record_is_appended_to_half_a_line_of_a_file_that_somebody_has_put_where_a_rotation_makes_one()
{
    let (directory, sink) = sink(b"old\n");
    let committed = at(&sink, 4);
    let path = directory.path().join("out");
    std::fs::rename(&path, directory.path().join("aside")).expect("rename");
    std::fs::write(&path, b"foreign").expect("write");
    let rotation = crate::config::Rotation { bytes: Some(4), ..Default::default() };
    let mut sink = sink.rotating(rotation).expect("a file");
    Sink::rotate(&mut sink, committed, 1).expect("rotated");
    sink.append(b"new\n").expect("write");
    assert_eq!(std::fs::read(&path).expect("read"), b"foreign\nnew\n");
}

#[test]
fn an_output_that_another_pipeline_writes_is_refused() {
    let (directory, _sink) = sink(b"");
    let second = FileSink::open(&directory.path().join("out"), Shape::ended_by(b'\n'));
    assert!(matches!(second, Err(Error::Held(_))));
}

#[test]
fn a_clock_that_was_far_ahead_does_not_put_the_next_rotation_off_until_then() {
    let (directory, sink) = sink(b"old\n");
    let every = Duration::from_secs(3600);
    let path = directory.path().join("out");
    let file = File::options().append(true).open(&path).expect("open");
    let changed = file.metadata().and_then(|metadata| metadata.modified()).expect("a time");
    file.set_modified(changed + Duration::from_secs(10 * 365 * 86400)).expect("set");
    let rotation = crate::config::Rotation { every: Some(every), ..Default::default() };
    let mut sink = sink.rotating(rotation).expect("a file");
    assert!(sink.rotates_in().expect("a period") > 2 * every);
    sink.append(b"new\n").expect("write");
    assert!(sink.rotates_in().expect("a period") <= every);
}

#[test]
fn a_period_of_no_length_wakes_nobody() {
    let (_directory, sink) = sink(b"old\n");
    let rotation = crate::config::Rotation { every: Some(Duration::ZERO), ..Default::default() };
    let mut sink = sink.rotating(rotation).expect("a file");
    sink.append(b"new\n").expect("write");
    assert_eq!((sink.is_to_rotate(1), sink.rotates_in()), (false, None));
}
