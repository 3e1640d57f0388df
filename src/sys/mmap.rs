//! Shared memory, mapped from a file.
//!
//! Other processes write here while we read, and one of them may be broken. So there is no Rust
//! reference into a mapping but to atomics ([`Shared`]); bytes are copied in and out.

#![allow(unsafe_code)]

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

/// A type that may live in memory which other processes write.
///
/// # Safety
/// Every bit pattern must be valid, there must be no padding that matters, and every field must
/// be an atomic or an array of atomics, laid out by `repr(C)`.
pub(crate) unsafe trait Shared {}

// SAFETY: an atomic integer, for which every bit pattern is valid.
unsafe impl Shared for super::atomic::AtomicU64 {}
// SAFETY: an atomic integer, for which every bit pattern is valid.
unsafe impl Shared for super::atomic::AtomicU32 {}

/// A mapped range of a file, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: *mut u8,
    /// Bytes that may be addressed.
    len: usize,
    #[cfg(any(test, fuzzing))]
    private: Option<private::Private>,
}

#[cfg(any(test, fuzzing))]
mod private;

// SAFETY: a mapping is an address that stays valid until drop; all access is by atomics or by
// copying bytes, which the users of the queue synchronise with the atomics.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

/// Bytes of a file that are copied at a time.
const COPIED_AT_A_TIME: usize = 256 << 10;

impl Mapping {
    fn new(base: *mut u8, len: usize) -> Mapping {
        Mapping {
            base,
            len,
            #[cfg(any(test, fuzzing))]
            private: None,
        }
    }

    /// Maps the first `len` bytes of the file, readable and writable, shared.
    ///
    /// # Errors
    /// What the system says: `ENOMEM`, `EACCES`, `ENODEV`.
    pub(crate) fn of_file(file: impl AsFd, len: usize) -> io::Result<Mapping> {
        // SAFETY: the kernel chooses an address where nothing is mapped.
        let base = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0)
        }?;
        Ok(Mapping::new(base.cast(), len))
    }

    /// The first `len` bytes of the file as they are now, in memory of our own. What the file does not
    /// have is zero.
    ///
    /// # Errors
    /// What the system says: `ENOMEM`, `EIO`, `EBADF`.
    pub(crate) fn copy_of(file: &std::fs::File, len: usize) -> io::Result<Mapping> {
        use std::os::unix::fs::FileExt;
        // SAFETY: the kernel chooses an address where nothing is mapped.
        let base = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE)
        }?;
        let copy = Mapping::new(base.cast(), len);
        let mut piece = vec![0; COPIED_AT_A_TIME.min(len)];
        let mut done = 0;
        while done < len {
            let want = piece.len().min(len - done);
            match file.read_at(&mut piece[..want], done as u64) {
                Ok(0) => break,
                Ok(read) => {
                    copy.write(done, &piece[..read]);
                    done += read;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(copy)
    }

    /// Maps `len` bytes of the file, from `offset` on, twice in a row: so what begins before the
    /// end of the ring and goes on at its start is contiguous.
    ///
    /// # Errors
    /// What the system says; `EINVAL` if offset or length are no multiples of the page size.
    pub(crate) fn ring(
        file: impl AsFd,
        offset: u64,
        len: usize,
        writable: bool,
    ) -> io::Result<Mapping> {
        let twice = len.checked_mul(2).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: reserves address space where nothing is mapped.
        let base = unsafe {
            mmap_anonymous(std::ptr::null_mut(), twice, ProtFlags::empty(), MapFlags::PRIVATE)
        }?;
        let ring = Mapping::new(base.cast(), twice);
        let protection =
            if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        for half in [0, len] {
            // SAFETY: MAP_FIXED replaces a part of the range that was reserved above and that
            // nothing else uses.
            unsafe {
                let address = base.cast::<u8>().add(half).cast();
                mmap(address, len, protection, MapFlags::SHARED | MapFlags::FIXED, &file, offset)
            }?;
        }
        Ok(ring)
    }

    /// From now on this process can only read the range, which must be whole pages.
    pub(crate) fn make_read_only(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.len, "range outside of the mapping");
        // SAFETY: the range is inside of this mapping. A later store into it would be a bug of
        // ours and ends the process, which is what the protection is for.
        unsafe { mprotect(self.base.add(range.start).cast(), range.len(), MprotectFlags::READ) }?;
        Ok(())
    }

    /// From now on this process has nothing there, though the addresses stay taken. The range must be
    /// whole pages; whoever touches it is killed.
    pub(crate) fn let_go(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.len, "range outside of the mapping");
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: MAP_FIXED replaces a part of this mapping. To use it later would be a bug of ours
        // and ends the process.
        unsafe {
            let address = self.base.add(range.start).cast();
            let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
            mmap_anonymous(address, range.len(), ProtFlags::empty(), flags)
        }?;
        Ok(())
    }

    /// The shared object at `offset`.
    ///
    /// # Panics
    /// If it would not lie inside of the mapping, or not be aligned: offsets come from our own
    /// layout, never from the file.
    pub(crate) fn at<T: Shared>(&self, offset: usize) -> &T {
        let end = offset.checked_add(size_of::<T>());
        assert!(end.is_some_and(|end| end <= self.len), "object outside of the mapping");
        // SAFETY: in bounds by the assertion.
        let address = unsafe { self.base.add(offset) };
        assert!(address.cast::<T>().is_aligned(), "object not aligned");
        // SAFETY: in bounds, aligned, alive as long as `self`; T is Shared, so every bit pattern
        // is valid and concurrent stores by others are stores to atomics.
        unsafe { &*address.cast::<T>() }
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// If the range is not inside of the mapping.
    pub(crate) fn append_to(&self, offset: usize, len: usize, out: &mut Vec<u8>) {
        let end = offset.checked_add(len);
        assert!(end.is_some_and(|end| end <= self.len), "read outside of the mapping");
        out.reserve(len);
        // SAFETY: the source is in bounds by the assertion, the target has `len` bytes reserved
        // and can't overlap with the mapping; after the copy they are initialised. If another
        // process writes here meanwhile, the bytes are arbitrary, and are checked as such.
        unsafe {
            let target = out.as_mut_ptr().add(out.len());
            std::ptr::copy_nonoverlapping(self.base.add(offset), target, len);
            out.set_len(out.len() + len);
        }
    }

    /// Copies a few bytes out.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn read<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = Vec::new();
        self.append_to(offset, N, &mut bytes);
        bytes.try_into().expect("so many were asked for")
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// If the range is not inside of the mapping.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let end = offset.checked_add(bytes.len());
        assert!(end.is_some_and(|end| end <= self.len), "write outside of the mapping");
        // SAFETY: the target is in bounds by the assertion; `bytes` can't overlap with it, since
        // no reference into a mapping exists. That no other process of ours writes the same range
        // is the queue's protocol.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len());
        }
        #[cfg(any(test, fuzzing))]
        self.mirror(offset, bytes);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        #[cfg(any(test, fuzzing))]
        if self.private.is_some() {
            return;
        }
        // SAFETY: the range was mapped by this object, and no reference into it outlives it.
        // The only errors are those of an invalid range.
        let _unmapped = unsafe { munmap(self.base.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::atomic::{AtomicU64, Ordering};

    fn file(len: u64) -> std::fs::File {
        let file = tempfile::tempfile().expect("temp file");
        file.set_len(len).expect("set length");
        file
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn what_is_written_across_the_end_of_a_ring_is_contiguous() {
        let file = file(3 * 4096);
        let ring = Mapping::ring(&file, 4096, 4096, true).expect("ring");
        ring.write(4090, b"0123456789");
        let mut out = Vec::new();
        ring.append_to(4090, 10, &mut out);
        assert_eq!(out, b"0123456789");
        assert_eq!(&ring.read::<4>(0), b"6789");
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn two_mappings_of_one_file_see_each_other() {
        let file = file(4096);
        let one = Mapping::of_file(&file, 4096).expect("map");
        let two = Mapping::of_file(&file, 4096).expect("map");
        one.at::<AtomicU64>(8).store(7, Ordering::Release);
        assert_eq!(two.at::<AtomicU64>(8).load(Ordering::Acquire), 7);
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_copy_has_what_the_file_had_and_zeros_behind_its_end() {
        let file = file(5000);
        let shared = Mapping::of_file(&file, 5000).expect("map");
        shared.write(4990, b"0123456789");
        let copy = Mapping::copy_of(&file, 8192).expect("copy");
        shared.write(4990, b"..........");
        assert_eq!(&copy.read::<12>(4990), b"0123456789\0\0");
    }

    #[test]
    #[should_panic(expected = "outside")]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn an_object_that_reaches_over_the_end_is_refused() {
        let mapping = Mapping::of_file(file(4096), 4096).expect("map");
        mapping.at::<AtomicU64>(4092);
    }
}
