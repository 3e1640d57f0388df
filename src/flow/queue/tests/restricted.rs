//! What a process still has of the spool when it has its role.

use super::super::layout::PAGE;
use super::super::spool::Role;
use super::*;

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_worker_has_its_own_ring_mapped_and_no_other_and_sees_what_others_have_done() {
    let (_folder, spool) = spool(3, 4);
    fill(&spool, 0, 1);
    fill(&spool, 1, 2);
    claim(&spool, Claimer { lane: 2, incarnation: 1 });
    spool.restrict(Role::Worker(1)).expect("restricted");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let path = spool.path.display().to_string();
    // What of the file is mapped, and how.
    let mapped: Vec<(std::ops::Range<usize>, &str)> = maps
        .lines()
        .filter(|line| line.ends_with(&path))
        .map(|line| {
            let mut words = line.split_whitespace();
            let (from, to) = words.next().and_then(|it| it.split_once('-')).expect("addresses");
            let access = words.next().expect("access");
            let number = |word| usize::from_str_radix(word, 16).expect("a number");
            let offset = number(words.next().expect("offset"));
            (offset..offset + number(to) - number(from), access)
        })
        .collect();
    let access = |offset: usize| {
        let found = mapped.iter().find(|(range, _)| range.contains(&offset));
        found.map(|(_, access)| *access)
    };
    let layout = &spool.layout;
    for lane in 0..3 {
        let consumer = access(layout.consumers + lane * PAGE);
        let expected = if lane == 1 { Some("r--s") } else { None };
        assert_eq!(consumer, expected, "lane {lane}: {mapped:?}");
        assert_eq!(access(layout.ring(lane)), None, "its ring is mapped apart: {mapped:?}");
    }
    let (header, slots) = (access(0), access(layout.slots));
    let (payloads, commit) = (access(layout.payloads), access(layout.commit[0]));
    assert_eq!([header, slots], [Some("r--s"), Some("rw-s")]);
    assert_eq!([payloads, commit], [Some("r--s"), Some("r--s")]);
    // It works with what it has, and takes over while others have jobs in hand.
    assert_eq!(settle(&spool, 1, None, |_| {}), 0);
    let mut lane = writer(&spool, 1);
    let job = claim(&spool, Claimer { lane: 1, incarnation: 1 });
    publish(&spool, &mut lane, &job, &[b"done"]);
    assert!(Jobs(&spool).is_done(job.slot));
}
