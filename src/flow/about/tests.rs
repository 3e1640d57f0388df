use super::*;
use crate::config::{Output, Worker};
use crate::flow::queue::layout::Geometry;

fn spool(lanes: u32) -> Spool {
    let spool = Spool::in_memory(Geometry { lanes, lane_bytes: 4096, slots: 1, job_bytes: 8 });
    spool.run().run_id.store(7, Ordering::Relaxed);
    spool
}

fn about(argv: &[&str], kinds: usize) -> About {
    let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
    let worker = |number: usize| Worker::new(format!("w{number}"), Run::Command(argv.clone()));
    let config = Config {
        name: "test".into(),
        jobs: None,
        workers: (0..kinds).map(worker).collect(),
        buffer: Default::default(),
        output: Output::new("/tmp/out.jsonl"),
        dead_letters: Some("/tmp/dead.jsonl".into()),
        shutdown: Default::default(),
        restart: Default::default(),
        spool: Default::default(),
        log: Default::default(),
        privileges: Default::default(),
        fresh: false,
    };
    About::of(&config, 7, Some("hosts.txt".into()), vec![true; kinds])
}

#[test]
fn what_was_written_is_read_as_it_was() {
    let (spool, about) = (spool(1), about(&["ping", "-c1", "{}"], 1));
    assert_eq!(About::load(&spool), None);
    about.store(&spool);
    assert_eq!(About::load(&spool), Some(about));
}

#[test]
fn what_another_run_has_written_is_not_believed() {
    let spool = spool(1);
    about(&["true"], 1).store(&spool);
    spool.run().run_id.store(8, Ordering::Relaxed);
    assert_eq!(About::load(&spool), None);
}

#[test]
fn what_is_too_long_is_cut_and_never_refused() {
    let long = "ü".repeat(100_000);
    for (argv, kinds) in
        [(vec![long.as_str()], 1), (vec!["argument"; 50_000], 1), (vec!["x"; 900], 60)]
    {
        let spool = spool(kinds as u32);
        let mut whole = about(&argv, kinds);
        whole.store(&spool);
        let read = About::load(&spool).expect("something is there");
        assert!(read.kinds[0].what.concat().len() > 10, "as much as there is room for is kept");
        assert!(read.kinds.iter().all(|kind| kind.what.concat().ends_with('…')));
        whole.kinds = read.kinds.clone();
        assert_eq!(read, whole, "what workers run is cut first");
    }
    let (spool, mut whole) = (spool(1), about(&["ping"], 1));
    (whole.output, whole.name) = (long.clone(), "\u{1}".repeat(50_000));
    whole.store(&spool);
    let read = About::load(&spool).expect("something is there");
    assert_eq!(read.kinds[0].name, "w0");
    assert!(read.output.starts_with("üüü") && read.output.ends_with('…'), "{}", read.output);
}

#[test]
fn a_thousand_kinds_all_have_their_names() {
    let (spool, mut whole) = (spool(1000), about(&["a", "command", "with", "arguments"], 1000));
    for (number, kind) in whole.kinds.iter_mut().enumerate() {
        kind.name = format!("{number:064}");
    }
    whole.store(&spool);
    let read = About::load(&spool).expect("something is there");
    assert_eq!(read.kinds.len(), 1000);
    assert_eq!(read.kinds[999].name, whole.kinds[999].name);
}

#[test]
fn no_bit_and_no_length_can_be_wrong_unseen() {
    let (spool, about) = (spool(1), about(&["ping"], 1));
    about.store(&spool);
    let head = spool.about_head();
    let len = head.len.load(Ordering::Relaxed);
    for wrong in (0..len).chain([len + 1, u64::MAX, spool.layout.about_bytes as u64 + 1]) {
        head.len.store(wrong, Ordering::Relaxed);
        assert_eq!(About::load(&spool), None, "{wrong} bytes");
    }
    head.len.store(len, Ordering::Relaxed);
    for byte in 0..len as usize {
        let at = spool.about_text() + byte;
        let before: [u8; 1] = spool.mapping.read(at);
        for bit in 0..8 {
            spool.mapping.write(at, &[before[0] ^ 1 << bit]);
            assert_eq!(About::load(&spool), None, "byte {byte}");
        }
        spool.mapping.write(at, &before);
    }
    assert_eq!(About::load(&spool), Some(about));
}
