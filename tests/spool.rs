//! Spools that are none of ours, or of another version: refused, with nothing touched.

mod support;

use std::os::unix::fs::MetadataExt;
use support::place::{OUTPUT, SPOOL, bytes};
use support::{Place, Signal};

/// A place whose run was stopped with work pending: there is something to be lost.
fn pending() -> (Place, Vec<String>) {
    let place = Place::new();
    let jobs = place.jobs(80);
    place.config("");
    place.work_script("[ -e calm ] || sleep 0.1");
    let run = place.start();
    run.until_started(12);
    run.signal(Signal::TERM);
    run.wait().assert_exit(5);
    (place, jobs)
}

/// All that a refusal must leave as it is.
fn state(place: &Place) -> impl PartialEq + std::fmt::Debug + use<> {
    let spool = std::fs::metadata(place.path(SPOOL)).expect("the spool");
    let times = (spool.mtime(), spool.mtime_nsec(), spool.ino(), spool.mode());
    // Only whether they are the same is of interest: not one of millions of bytes is to be printed.
    let hash = |name: &str| crc32c::crc32c(&bytes(&place.path(name)).unwrap_or_default());
    (place.files(), times, hash(SPOOL), hash(OUTPUT), place.started().len())
}

/// With this in place of its spool a pipeline does not start, says so, and touches nothing; with
/// the right one again it goes on.
#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<u8>), reason: &str) {
    let (place, jobs) = pending();
    let right = bytes(&place.path(SPOOL)).expect("the spool");
    let mut wrong = right.clone();
    change(&mut wrong);
    assert!(wrong != right, "nothing was changed");
    place.write(SPOOL, &wrong);
    let before = state(&place);
    for options in [&["run", "pings.toml"][..], &["run", "pings.toml", "--fresh"]] {
        let ended = place.command(options).finish();
        ended.assert_exit(74);
        let told = ended.stderr.contains(SPOOL) && ended.stderr.contains(reason);
        assert!(told, "nothing about {reason:?}\n{}", ended.describe());
        assert_eq!(state(&place), before, "{}", ended.describe());
    }
    place.write(SPOOL, &right);
    place.write("calm", "");
    place.command(&["run", "pings.toml"]).finish().assert_exit(0);
    place.results().assert_exactly_once(&jobs);
}

// Where things stand in the header: magic, version, lanes, bytes of a lane, slots, bytes of a job,
// identity, fingerprint, checksum; words of eight bytes.

#[test]
fn a_spool_of_another_version_is_refused_and_untouched() {
    for version in [0, 1, 255] {
        refused(|spool| spool[8] = version, &format!("format {version}"));
    }
}

#[test]
fn a_file_with_another_magic_number_is_refused_and_untouched() {
    refused(|spool| spool[0] ^= 1, "no spool of procsig");
    refused(|spool| spool[..8].fill(0), "no spool of procsig");
    refused(|spool| *spool = b"[jobs]\n".repeat(10_000), "no spool of procsig");
}

#[test]
fn a_spool_of_the_other_byte_order_is_refused_and_untouched() {
    let swap = |spool: &mut Vec<u8>| spool[..72].chunks_exact_mut(8).for_each(<[u8]>::reverse);
    refused(swap, "another kind of machine");
}

#[test]
fn a_spool_of_another_length_is_refused_and_untouched() {
    refused(Vec::clear, "0 bytes");
    refused(|spool| spool.truncate(4095), "4095 bytes");
    refused(|spool| spool.truncate(4096), "4096 bytes");
    refused(|spool| spool.truncate(spool.len() / 2), "bytes where");
    refused(|spool| spool.truncate(spool.len() - 1), "bytes where");
}

#[test]
fn a_spool_with_a_damaged_header_is_refused_and_untouched() {
    for word in 2..9 {
        refused(|spool| spool[8 * word] ^= 1, "header is damaged");
    }
}
