//! A handful of words that are replaced as one: a checksum says whether all of them are there,
//! and a pair of records written in turn keeps the last good one while the next is stored.
//!
//! ```text
//! word 0      checksum of all that follows (CRC-32C, in the low half)
//! word 1      generation: grows by one with each store, from 1; 0: never stored
//! word 2 ..   what the record says
//! ```

use super::layout::RECORD_HEAD;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::mmap::Mapping;

/// The newest record of the two that is whole, as its generation and words.
pub(crate) fn load_newest(
    mapping: &Mapping,
    offsets: [usize; 2],
    words: usize,
) -> Option<(u64, Vec<u64>)> {
    newest(mapping, offsets, |offset| load(mapping, offset, words))
}

/// A few words of the newest record of the two that is whole, from `first` on: without room for all of
/// them, which each of a thousand processes would have to make first.
pub(crate) fn load_part_of_newest<const N: usize>(
    mapping: &Mapping,
    offsets: [usize; 2],
    words: usize,
    first: usize,
) -> Option<[u64; N]> {
    let load = |offset| {
        let mut part = [0; N];
        let generation = read(mapping, offset, words, |index, word| {
            let place = index.checked_sub(first).and_then(|index| part.get_mut(index));
            place.into_iter().for_each(|place| *place = word);
        });
        Some((generation?, part))
    };
    newest(mapping, offsets, load).map(|(_, part)| part)
}

fn newest<T>(
    mapping: &Mapping,
    offsets: [usize; 2],
    load: impl Fn(usize) -> Option<(u64, T)>,
) -> Option<(u64, T)> {
    let generation = |offset: usize| mapping.at::<AtomicU64>(offset + 8).load(Ordering::Acquire);
    let mut before = None;
    for _ in 0..LOOKS {
        let now = offsets.map(generation);
        let records = offsets.map(&load);
        let newest = records.into_iter().flatten().max_by_key(|(generation, _)| *generation);
        if newest.is_some() || begun(mapping, offsets) == 0 {
            return newest;
        }
        // Both were being stored while they were read: possible only if we were long away, and then
        // another was begun since the last look. If not, both are damaged.
        if before.replace(now) == Some(now) {
            return None;
        }
        std::thread::yield_now();
    }
    None
}

/// The generation of the newest record that was stored, or was begun to be; 0: none ever was.
pub(crate) fn begun(mapping: &Mapping, offsets: [usize; 2]) -> u64 {
    let generation = |offset: usize| mapping.at::<AtomicU64>(offset + 8).load(Ordering::Acquire);
    generation(offsets[0]).max(generation(offsets[1]))
}

/// How often a pair of records is looked at before it is taken for damaged.
const LOOKS: usize = 1000;

/// Stores a record over the older one of the two.
pub(crate) fn store_next(mapping: &Mapping, offsets: [usize; 2], generation: u64, words: &[u64]) {
    store(mapping, offsets[(generation % 2) as usize], generation, words);
}

/// The record at `offset`, if it is whole.
pub(crate) fn load(mapping: &Mapping, offset: usize, words: usize) -> Option<(u64, Vec<u64>)> {
    let mut found = Vec::with_capacity(words);
    let generation = read(mapping, offset, words, |_, word| found.push(word))?;
    Some((generation, found))
}

/// Reads each word of a record once. Its generation, if it is whole.
fn read(
    mapping: &Mapping,
    offset: usize,
    words: usize,
    mut each: impl FnMut(usize, u64),
) -> Option<u64> {
    let word = |index: usize| mapping.at::<AtomicU64>(offset + 8 * index);
    let expected = word(0).load(Ordering::Acquire);
    let generation = word(1).load(Ordering::Relaxed);
    let mut checksum = Checksum::default();
    checksum.add(generation);
    for index in 0..words {
        let word = word(RECORD_HEAD + index).load(Ordering::Relaxed);
        checksum.add(word);
        each(index, word);
    }
    (generation != 0 && expected == u64::from(checksum.end())).then_some(generation)
}

/// Puts a record right in which a single bit is wrong, which its checksum can tell; says whether there
/// was one. To be called when nobody stores.
///
/// One that was half stored has the checksum of what was there before: if it differs from that by a
/// bit, it is that again, which is older than what counts.
pub(crate) fn mend(mapping: &Mapping, offset: usize, words: usize) -> bool {
    let word = |index: usize| mapping.at::<AtomicU64>(offset + 8 * index);
    let all: Vec<u64> =
        (1..RECORD_HEAD + words).map(|index| word(index).load(Ordering::Relaxed)).collect();
    let is = word(0).load(Ordering::Relaxed);
    let difference = is ^ u64::from(checksum(all[0], &all[1..]));
    if difference == 0 || (is == 0 && all.iter().all(|word| *word == 0)) {
        return false;
    }
    let (index, bit) = if difference.is_power_of_two() {
        (0, difference.trailing_zeros() as usize)
    } else {
        match changed_bit(difference, 64 * all.len()) {
            Some(bit) => (1 + bit / 64, bit % 64),
            None => return false,
        }
    };
    word(index).fetch_xor(1 << bit, Ordering::AcqRel);
    true
}

/// Which of so many bits changes their checksum by this much. What the last of them changes is the
/// polynomial of CRC-32C (RFC 3720, its bits reversed); one further from the end, what one step of the
/// division makes of that.
fn changed_bit(difference: u64, bits: usize) -> Option<usize> {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let steps = |change: &u32| Some((change >> 1) ^ if change & 1 == 1 { POLYNOMIAL } else { 0 });
    let mut changes = std::iter::successors(Some(POLYNOMIAL), steps).take(bits);
    let from_end = changes.position(|change| u64::from(change) == difference)?;
    Some(bits - 1 - from_end)
}

/// Stores a record, the checksum last.
pub(crate) fn store(mapping: &Mapping, offset: usize, generation: u64, words: &[u64]) {
    assert_ne!(generation, 0, "generations count from one");
    let word = |index: usize| mapping.at::<AtomicU64>(offset + 8 * index);
    word(1).store(generation, Ordering::Relaxed);
    for (index, value) in words.iter().enumerate() {
        word(RECORD_HEAD + index).store(*value, Ordering::Relaxed);
    }
    word(0).store(checksum(generation, words).into(), Ordering::Release);
}

fn checksum(generation: u64, words: &[u64]) -> u32 {
    let mut checksum = Checksum::default();
    checksum.add(generation);
    words.iter().for_each(|word| checksum.add(*word));
    checksum.end()
}

/// A checksum of words. Many at a time: a call for each of thousands of them takes longer than what
/// it does.
struct Checksum {
    crc: u32,
    bytes: [u8; 512],
    len: usize,
}

impl Default for Checksum {
    fn default() -> Checksum {
        Checksum { crc: 0, bytes: [0; 512], len: 0 }
    }
}

impl Checksum {
    fn add(&mut self, word: u64) {
        self.bytes[self.len..self.len + 8].copy_from_slice(&word.to_le_bytes());
        self.len += 8;
        if self.len == self.bytes.len() {
            self.crc = crc32c::crc32c_append(self.crc, &self.bytes);
            self.len = 0;
        }
    }

    fn end(&self) -> u32 {
        crc32c::crc32c_append(self.crc, &self.bytes[..self.len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping() -> Mapping {
        if cfg!(miri) {
            return Mapping::private(8192);
        }
        let file = tempfile::tempfile().expect("temp file");
        file.set_len(8192).expect("set length");
        Mapping::of_file(&file, 8192).expect("map")
    }

    #[test]
    fn the_newest_whole_record_is_found() {
        let mapping = mapping();
        let offsets = [0, 4096];
        assert_eq!(load_newest(&mapping, offsets, 2), None);
        store_next(&mapping, offsets, 1, &[10, 11]);
        store_next(&mapping, offsets, 2, &[20, 21]);
        assert_eq!(load_newest(&mapping, offsets, 2), Some((2, vec![20, 21])));
        store_next(&mapping, offsets, 3, &[30, 31]);
        assert_eq!(load_newest(&mapping, offsets, 2), Some((3, vec![30, 31])));
    }

    #[test]
    fn any_single_bit_that_is_wrong_is_put_right_and_two_are_not() {
        let (mapping, offset) = (mapping(), 0);
        assert!(!mend(&mapping, offset, 2), "never stored");
        store(&mapping, offset, 5, &[10, u64::MAX]);
        assert!(!mend(&mapping, offset, 2), "nothing is wrong");
        for bit in 0..4 * 64 {
            let word = mapping.at::<AtomicU64>(8 * (bit / 64));
            word.fetch_xor(1 << (bit % 64), Ordering::Relaxed);
            assert!(mend(&mapping, offset, 2), "bit {bit}");
            assert_eq!(load(&mapping, offset, 2), Some((5, vec![10, u64::MAX])), "bit {bit}");
            word.fetch_xor(1 << (bit % 64), Ordering::Relaxed);
            mapping.at::<AtomicU64>(8 * ((bit / 64 + 1) % 4)).fetch_xor(1 << 7, Ordering::Relaxed);
            assert!(!mend(&mapping, offset, 2), "bit {bit} and another");
            store(&mapping, offset, 5, &[10, u64::MAX]);
        }
    }

    #[test]
    fn a_part_of_the_newest_whole_record_is_what_all_of_it_has_there() {
        let mapping = mapping();
        let offsets = [0, 4096];
        let part = |first| load_part_of_newest::<2>(&mapping, offsets, 200, first);
        assert_eq!(part(0), None);
        for generation in 1..=3 {
            let words: Vec<u64> = (0..200).map(|index| generation * 1000 + index).collect();
            store_next(&mapping, offsets, generation, &words);
            assert_eq!(load_newest(&mapping, offsets, 200), Some((generation, words)));
            for first in [0, 61, 62, 63, 64, 198] {
                let word = generation * 1000 + first as u64;
                assert_eq!(part(first), Some([word, word + 1]), "from {first} on");
            }
        }
        mapping.at::<AtomicU64>(4096 + 8 * 150).store(99, Ordering::Relaxed);
        assert_eq!(part(10), Some([2010, 2011]), "the newest is torn, far behind the part");
    }

    #[test]
    fn the_checksum_is_that_of_all_words_in_a_row() {
        for len in [0, 1, 62, 63, 64, 127, 128, 300] {
            let words: Vec<u64> =
                (0..len).map(|index: u64| index.wrapping_mul(0x0123_4567_89ab_cdef)).collect();
            let bytes: Vec<u8> = std::iter::once(&7)
                .chain(&words)
                .flat_map(|word: &u64| word.to_le_bytes())
                .collect();
            assert_eq!(checksum(7, &words), crc32c::crc32c(&bytes), "{len} words");
        }
    }

    #[test]
    fn a_record_that_was_torn_at_any_word_leaves_the_one_before_it() {
        let offsets = [0, 4096];
        for torn in 0..4 {
            let mapping = mapping();
            store_next(&mapping, offsets, 1, &[10, 11]);
            store_next(&mapping, offsets, 2, &[20, 21]);
            mapping.at::<AtomicU64>(8 * torn).store(99, Ordering::Relaxed);
            assert_eq!(load_newest(&mapping, offsets, 2), Some((1, vec![10, 11])), "word {torn}");
        }
    }
}
