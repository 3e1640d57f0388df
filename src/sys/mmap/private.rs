//! Mappings that can be had again and again: on memory of this process alone, for tests under Miri, which
//! can't map files; or of a file, for fuzzing, where to map it anew takes longer than all else.
//!
//! Miri can't map one page at two places either, so the second half of a ring is a copy: what is
//! written to one half is written to the other as well. All that goes through a [`Mapping`] is the
//! real code; only how the memory came to be is not.

use super::Mapping;
#[cfg(test)]
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::sync::Arc;

/// What keeps the memory, shared by the mappings on it.
#[derive(Debug, Clone)]
pub(super) struct Private {
    _memory: Arc<Memory>,
    /// Bytes after which it comes once more; 0: it does not.
    repeats: usize,
}

#[derive(Debug)]
enum Memory {
    #[cfg(test)]
    Allocated { base: *mut u8, layout: Layout },
    /// Unmapped with the last that uses it.
    Mapped { _mapping: Mapping },
}

// SAFETY: as for `Mapping`.
unsafe impl Send for Memory {}
// SAFETY: as for `Mapping`.
unsafe impl Sync for Memory {}

#[cfg(test)]
impl Drop for Memory {
    fn drop(&mut self) {
        if let Memory::Allocated { base, layout } = *self {
            // SAFETY: allocated with this layout, and no mapping is left that would use it.
            unsafe { dealloc(base, layout) };
        }
    }
}

impl Mapping {
    /// One that can be had [again](Mapping::again).
    pub(crate) fn kept(self) -> Mapping {
        let (base, len) = (self.base, self.len);
        let memory = Arc::new(Memory::Mapped { _mapping: self });
        Mapping { base, len, private: Some(Private { _memory: memory, repeats: 0 }) }
    }

    /// Another mapping of the same memory.
    pub(crate) fn again(&self) -> Mapping {
        assert!(self.private.is_some(), "only memory that is kept is shared like this");
        Mapping { base: self.base, len: self.len, private: self.private.clone() }
    }

    /// Writes to the other half of a ring what was written to this one.
    pub(super) fn mirror(&self, offset: usize, bytes: &[u8]) {
        let Some(Private { repeats: len @ 1.., .. }) = self.private else { return };
        for (at, byte) in (offset..).zip(bytes) {
            let other = if at < len { at + len } else { at - len };
            // SAFETY: in bounds, since `at` was, and the one half is as long as the other.
            unsafe { self.base.add(other).write(*byte) };
        }
    }
}

#[cfg(test)]
impl Mapping {
    /// As [`Mapping::of_file`], of a file that is all zeros.
    pub(crate) fn private(len: usize) -> Mapping {
        Mapping::on_memory(len, 0)
    }

    /// As [`Mapping::ring`], likewise.
    pub(crate) fn private_ring(len: usize) -> Mapping {
        Mapping::on_memory(2 * len, len)
    }

    fn on_memory(len: usize, repeats: usize) -> Mapping {
        let layout = Layout::from_size_align(len, 4096).expect("a size that there is");
        assert!(len > 0, "nothing can't be mapped");
        // SAFETY: the size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        let private = Private { _memory: Arc::new(Memory::Allocated { base, layout }), repeats };
        Mapping { base, len, private: Some(private) }
    }
}

#[test]
#[cfg_attr(miri, ignore = "maps a file")]
fn a_ring_that_is_kept_is_there_as_long_as_anybody_has_it() {
    let file = tempfile::tempfile().expect("temp file");
    file.set_len(4096).expect("set length");
    let kept = Mapping::ring(&file, 0, 4096, true).expect("a ring").kept();
    let again = kept.again();
    drop(kept);
    again.write(4094, b"1234");
    assert_eq!(&again.again().read::<2>(0), b"34");
}

#[test]
fn what_is_written_across_the_end_of_a_private_ring_is_at_its_beginning() {
    let ring = Mapping::private_ring(4096);
    ring.again().write(4090, b"0123456789");
    let mut out = Vec::new();
    ring.append_to(4090, 10, &mut out);
    assert_eq!(out, b"0123456789");
    assert_eq!((&ring.read::<4>(0), &ring.read::<6>(8186)), (b"6789", b"012345"));
}

#[test]
#[should_panic(expected = "outside")]
fn not_even_one_byte_is_read_beyond_private_memory() {
    let _bytes = Mapping::private(64).read::<8>(57);
}
