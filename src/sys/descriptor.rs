//! Descriptors that a forked child must let go of, though the objects that own them are forgotten.

#![allow(unsafe_code)]

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// The two lowest free descriptor numbers: those that the next `socketpair` will get, as long as
/// nothing else opens a descriptor in between.
///
/// For channels whose library keeps the numbers to itself.
pub(crate) fn next_two(any_open: impl AsFd) -> io::Result<(RawFd, RawFd)> {
    let first = rustix::io::fcntl_dupfd_cloexec(&any_open, 3)?;
    let second = rustix::io::fcntl_dupfd_cloexec(&any_open, 3)?;
    Ok((first.as_raw_fd(), second.as_raw_fd()))
}

/// Can so many descriptors more be open at once? Opens them, and closes them again.
///
/// # Errors
/// How many can be, and what the system says to one more.
pub(crate) fn room_for(count: usize) -> Result<(), (usize, io::Error)> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        match rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 3) {
            Ok(descriptor) => taken.push(descriptor),
            // There is no standard error: nothing can be said.
            Err(rustix::io::Errno::BADF) => break,
            Err(error) => return Err((taken.len(), error.into())),
        }
    }
    Ok(())
}

/// Is this number an open socket now?
pub(crate) fn is_socket(number: RawFd) -> bool {
    nix::sys::stat::fstat(borrow(number))
        .is_ok_and(|stat| stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFSOCK)
}

/// Is this number open now?
pub(crate) fn is_open(number: RawFd) -> bool {
    nix::sys::stat::fstat(borrow(number)).is_ok()
}

fn borrow(number: RawFd) -> std::os::fd::BorrowedFd<'static> {
    // SAFETY: used for the length of one fstat, which answers EBADF for a closed number. No
    // caller passes -1.
    unsafe { std::os::fd::BorrowedFd::borrow_raw(number) }
}

/// Runs of neighbours among these numbers. Marked in a row instead of sorted: with a thousand children
/// there are thousands of them, in no order, in each child.
fn runs(numbers: &[RawFd]) -> Vec<RangeInclusive<RawFd>> {
    let most = numbers.iter().copied().max().unwrap_or(-1);
    let mut open = vec![false; usize::try_from(most + 1).unwrap_or(0)];
    for number in numbers {
        usize::try_from(*number).into_iter().for_each(|number| open[number] = true);
    }
    let mut next = 0;
    let runs = open.chunk_by(|a, b| a == b).map(|run| {
        let first = next;
        next += run.len() as RawFd;
        (run[0], first..=next - 1)
    });
    runs.filter(|(is_open, _)| *is_open).map(|(_, run)| run).collect()
}

/// Closes the given numbers in this process, runs of neighbours in one system call each.
///
/// For a forked child only: the objects that own the numbers stand in the stack frames and on the
/// heap of the parent that it never returns to, and are neither used nor dropped.
pub(crate) fn close_foreign(numbers: Vec<RawFd>) {
    for run in runs(&numbers) {
        let (first, last) = (*run.start() as u32, *run.end() as u32);
        // SAFETY: nothing in this process uses these numbers, see above.
        let code = unsafe { nix::libc::close_range(first, last, 0) };
        if code != 0 {
            for number in run {
                // SAFETY: as above; for a kernel without close_range (before 5.9).
                unsafe { nix::libc::close(number) };
            }
        }
    }
}

/// Has the disk begin to write what this file has in memory from `from` on, and does not wait for it.
///
/// A hint, and no sync: nothing is promised, and an error is left for the next sync to tell.
pub(crate) fn begin_write_back(file: impl AsFd, from: u64) {
    const TO_THE_END: i64 = 0;
    let (number, from) = (file.as_fd().as_raw_fd(), from.cast_signed());
    // SAFETY: takes numbers only, and the descriptor is open.
    let _hint = unsafe {
        nix::libc::sync_file_range(number, from, TO_THE_END, nix::libc::SYNC_FILE_RANGE_WRITE)
    };
}

/// Makes descriptor 0 `/dev/null`, so that this process does not hold the input open.
pub(crate) fn detach_stdin() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdin(&null)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_closed_together_and_nothing_in_between() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[0]), [0..=0]);
        assert_eq!(runs(&[9, 4, 3, 5, 4, 11, 10]), [3..=5, 9..=11]);
        assert_eq!(runs(&[-1, 7]), [7..=7], "what is no descriptor is none");
    }
}
