//! Rotated files are compressed in the background, one at a time, by a thread of the buffer's process.
//!
//! The thread gives way to all others, and ends with its process, in whatever it is doing: a stop gives
//! it a moment, and what is not done then is done after the next rotation or the next start.
//!
//! # Steps, each of which may be the last
//! 1. what an earlier thread has left half done (`NAME.zst.part`) is removed
//! 2. the file is compressed to `NAME.zst.part`, which is forced to the disk
//! 3. that is read back: same length, same checksum
//! 4. renamed to `NAME.zst`, and the directory forced to the disk
//! 5. the original is removed
//!
//! Ended between 4 and 5 both are there, and the whole of it is done again: nothing of the original
//! is gone before a copy of it is on the disk that was read back.

use super::names::{Names, PART, Rotated};
use crate::config::{Compression, Rotation};
use crate::sys::process;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;
/// More would take more memory and time than it saves.
const ZSTD_LEVEL: i32 = 3;

/// The thread's other end.
#[derive(Debug, Clone)]
pub(super) struct Compressor {
    rotated: Sender<()>,
    turn: Arc<Turn>,
}

/// Who may give files names, the thread or its stop; and how much the thread has to do.
#[derive(Debug, Default)]
struct Turn {
    stopped: AtomicBool,
    naming: Mutex<()>,
    asked: Mutex<Asked>,
    is_done: Condvar,
}

/// How often the thread was told that there may be something, and up to which of them it has looked.
#[derive(Debug, Default)]
struct Asked {
    told: u64,
    done: u64,
}

impl Turn {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn take(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the thread: unless it is to stop.
    fn take_to_work(&self) -> io::Result<MutexGuard<'_, ()>> {
        let turn = self.take();
        if self.is_stopped() { Err(io::Error::other("stopped")) } else { Ok(turn) }
    }
}

impl Compressor {
    /// Starts the thread; it waits to be told of a rotation.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn start(
        names: Names,
        how: Compression,
        rotation: Rotation,
    ) -> io::Result<Compressor> {
        let (rotated, told) = channel();
        let turn = Arc::new(Turn::default());
        let work = Work { names, how, rotation, turn: Arc::clone(&turn) };
        std::thread::Builder::new().name("compress".into()).spawn(move || work.run(&told))?;
        Ok(Compressor { rotated, turn })
    }

    /// There is something to be compressed, or may be.
    pub(super) fn tell(&self) {
        self.turn.asked().told += 1;
        // If the thread has ended, which nothing but a panic makes it do, files stay as they are.
        let _told = self.rotated.send(());
    }

    /// Waits until all is done, but not longer than `patience`. From then on nothing is begun, and what
    /// is half done is removed.
    pub(super) fn finish(&self, patience: Duration, names: &Names) {
        let is_busy = |asked: &mut Asked| asked.done < asked.told;
        drop(self.turn.is_done.wait_timeout_while(self.turn.asked(), patience, is_busy));
        self.turn.stopped.store(true, Ordering::SeqCst);
        let _turn = self.turn.take();
        for part in names.parts().unwrap_or_default() {
            // The next start removes it.
            let _removed = std::fs::remove_file(part);
        }
    }
}

struct Work {
    names: Names,
    how: Compression,
    rotation: Rotation,
    turn: Arc<Turn>,
}

impl Work {
    fn run(&self, told: &Receiver<()>) {
        process::give_way_to_others();
        let mut said = false;
        while told.recv().is_ok() {
            while told.try_recv().is_ok() {}
            let up_to = self.turn.asked().told;
            if let Err((file, error)) = self.compress_all()
                && !self.is_stopped()
                && !std::mem::replace(&mut said, true)
            {
                log::warn!(
                    "{}: can't be compressed: {error}; it stays as it is, and is tried again after \
                     the next rotation",
                    file.display()
                );
            }
            self.turn.asked().done = up_to;
            self.turn.is_done.notify_all();
        }
    }

    fn is_stopped(&self) -> bool {
        self.turn.is_stopped()
    }

    fn compress_all(&self) -> Result<(), (PathBuf, io::Error)> {
        let of = |path: &Path, error| (path.to_path_buf(), error);
        let directory = self.names.directory();
        for part in self.names.parts().map_err(|error| of(directory, error))? {
            std::fs::remove_file(&part).map_err(|error| of(&part, error))?;
        }
        let all = self.names.all().map_err(|error| of(directory, error))?;
        self.compress_each(&all)?;
        // One that was to be removed may have been in work.
        self.names.keep(self.rotation.keep).map_err(|error| of(directory, error))
    }

    fn compress_each(&self, all: &[Rotated]) -> Result<(), (PathBuf, io::Error)> {
        for Rotated { path, .. } in all.iter().filter(|it| !it.is_packed()) {
            if self.is_stopped() {
                break;
            }
            match self.compress(path) {
                Ok(packed) => {
                    log::info!("{}: compressed to {}", path.display(), packed.display());
                }
                // `keep` was faster.
                Err(_) if is_gone(path) => {}
                Err(error) => return Err((path.clone(), error)),
            }
        }
        Ok(())
    }

    fn compress(&self, path: &Path) -> io::Result<PathBuf> {
        let packed = with(path, ending(self.how));
        let part = with(&packed, PART);
        let done = self.compress_to(path, &part).and_then(|()| {
            let _turn = self.turn.take_to_work()?;
            std::fs::rename(&part, &packed)?;
            File::open(self.names.directory())?.sync_all()?;
            std::fs::remove_file(path)
        });
        if done.is_err() {
            // Also to make room on a full disk.
            let _removed = std::fs::remove_file(&part);
        }
        done.map(|()| packed)
    }

    /// Steps 2 and 3.
    fn compress_to(&self, path: &Path, part: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        // Whatever somebody may have put there meanwhile is not waited for, nor followed.
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let from = options.read(true).custom_flags(flags).open(path)?;
        let metadata = from.metadata()?;
        let to = {
            let _turn = self.turn.take_to_work()?;
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(part)?
        };
        let mut from = Summed::of(from);
        pack(self.how, &mut from, &to, &|| self.is_stopped())?;
        // Only root can give a file away; whoever can't, owns it.
        let _given = fchown(&to, Some(metadata.uid()), Some(metadata.gid()));
        to.set_permissions(std::fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        to.set_modified(metadata.modified()?)?;
        to.sync_all()?;
        if from.len != metadata.len() {
            return Err(io::Error::other("it has changed meanwhile"));
        }
        self.check(part, (from.len, from.sum))
    }

    /// Step 3.
    fn check(&self, part: &Path, expected: (u64, u32)) -> io::Result<()> {
        let mut back = Summed::of(unpacked(self.how, File::open(part)?)?);
        copy(&mut back, &mut io::sink(), &|| self.is_stopped())?;
        if (back.len, back.sum) != expected {
            return Err(io::Error::other("read back, it is not the same"));
        }
        Ok(())
    }
}

fn is_gone(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Counts and sums up what is read.
struct Summed<R> {
    from: R,
    len: u64,
    sum: u32,
}

impl<R> Summed<R> {
    fn of(from: R) -> Summed<R> {
        Summed { from, len: 0, sum: 0 }
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.len += read as u64;
        self.sum = crc32c::crc32c_append(self.sum, &buffer[..read]);
        Ok(read)
    }
}

/// Copies all of it, unless it is to stop.
fn copy(
    from: &mut impl Read,
    to: &mut impl Write,
    is_stopped: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        if is_stopped() {
            return Err(io::Error::other("stopped"));
        }
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&chunk[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn pack(
    how: Compression,
    from: &mut impl Read,
    to: &File,
    is_stopped: &dyn Fn() -> bool,
) -> io::Result<()> {
    match how {
        #[cfg(feature = "zstd")]
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(to, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            copy(from, &mut encoder, is_stopped)?;
            encoder.finish().map(drop)
        }
        #[cfg(not(feature = "zstd"))]
        Compression::Zstd => Err(without_zstd()),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::default());
            copy(from, &mut encoder, is_stopped)?;
            encoder.finish().map(drop)
        }
    }
}

fn unpacked(how: Compression, from: File) -> io::Result<Box<dyn Read>> {
    match how {
        #[cfg(feature = "zstd")]
        Compression::Zstd => Ok(Box::new(zstd::stream::read::Decoder::new(from)?)),
        #[cfg(not(feature = "zstd"))]
        Compression::Zstd => Err(without_zstd()),
        Compression::Gzip => Ok(Box::new(flate2::read::MultiGzDecoder::new(from))),
    }
}

#[cfg(not(feature = "zstd"))]
fn without_zstd() -> io::Error {
    let _level = ZSTD_LEVEL;
    io::Error::other("this program was built without zstd")
}

fn ending(how: Compression) -> &'static str {
    match how {
        Compression::Zstd => ".zst",
        Compression::Gzip => ".gz",
    }
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    crate::flow::queue::spool::sibling(path, suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "out.2026-11-21T161500.123456Z.jsonl";

    fn work(directory: &Path, how: Compression) -> Work {
        let names = Names::of(&directory.join("out.jsonl"));
        Work { names, how, rotation: Rotation::default(), turn: Arc::default() }
    }

    fn files(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).expect("the directory");
        let name = |entry: io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut all: Vec<_> = entries.map(|it| name(it).into_string().expect("UTF-8")).collect();
        all.sort();
        all
    }

    fn content() -> Vec<u8> {
        (0..100_000u32).flat_map(|number| format!("record {number}\n").into_bytes()).collect()
    }

    fn hows() -> Vec<Compression> {
        let all = [Compression::Gzip, Compression::Zstd];
        all.into_iter().filter(|how| cfg!(feature = "zstd") || *how == Compression::Gzip).collect()
    }

    fn read(how: Compression, path: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        let file = File::open(path).expect("open");
        unpacked(how, file).and_then(|mut it| it.read_to_end(&mut bytes)).expect("unpacked");
        bytes
    }

    #[test]
    fn a_rotated_file_becomes_a_shorter_one_with_the_same_content_and_rights() {
        for how in hows() {
            let directory = tempfile::tempdir().expect("temp dir");
            let path = directory.path().join(NAME);
            std::fs::write(&path, content()).expect("write");
            let private = std::fs::Permissions::from_mode(0o640);
            std::fs::set_permissions(&path, private).expect("rights");
            work(directory.path(), how).compress_all().expect("compressed");
            let packed = with(&path, ending(how));
            assert_eq!(files(directory.path()), [format!("{NAME}{}", ending(how))]);
            assert_eq!(read(how, &packed), content());
            let metadata = packed.metadata().expect("metadata");
            assert!(metadata.len() * 2 < content().len() as u64);
            assert_eq!(metadata.mode() & 0o777, 0o640);
        }
    }

    #[test]
    fn what_was_left_half_done_is_done_again_and_nothing_else_is_touched() {
        for how in hows() {
            let directory = tempfile::tempdir().expect("temp dir");
            let path = |name: &str| directory.path().join(name);
            let packed = format!("{NAME}{}", ending(how));
            // Killed while it wrote; and killed before it removed the original.
            std::fs::write(path(NAME), content()).expect("write");
            std::fs::write(path(&format!("{packed}{PART}")), b"half").expect("write");
            std::fs::write(path(&packed), b"whatever").expect("write");
            let foreign = [&format!("mine.zst{PART}"), "other.2026-11-21T161500.123456Z.jsonl"];
            foreign.iter().for_each(|name| std::fs::write(path(name), b"mine").expect("write"));
            work(directory.path(), how).compress_all().expect("compressed");
            assert_eq!(files(directory.path()).len(), 3, "{:?}", files(directory.path()));
            assert_eq!(read(how, &path(&packed)), content());
            foreign.iter().for_each(|name| assert_eq!(std::fs::read(path(name)).unwrap(), b"mine"));
        }
    }

    #[test]
    fn a_file_that_was_removed_as_too_old_meanwhile_is_no_failure_and_the_next_is_compressed() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = |name: &str| directory.path().join(name);
        let newer = "out.2026-11-21T161600.123456Z.jsonl";
        [NAME, newer].iter().for_each(|name| std::fs::write(path(name), content()).expect("write"));
        let work = work(directory.path(), Compression::Gzip);
        let all = work.names.all().expect("their names");
        std::fs::remove_file(path(NAME)).expect("removed");
        work.compress_each(&all).expect("compressed");
        assert_eq!(files(directory.path()), [format!("{newer}{}", ending(Compression::Gzip))]);
    }

    #[test]
    fn what_reads_back_as_something_else_is_no_copy() {
        for how in hows() {
            let directory = tempfile::tempdir().expect("temp dir");
            let (path, part) = (directory.path().join(NAME), directory.path().join("part"));
            std::fs::write(&path, content()).expect("write");
            let work = work(directory.path(), how);
            work.compress_to(&path, &part).expect("compressed");
            let content = content();
            let mut whole = Summed::of(&content[..]);
            copy(&mut whole, &mut io::sink(), &|| false).expect("read");
            let expected = (whole.len, whole.sum);
            work.check(&part, expected).expect("the same");
            assert!(work.check(&part, (expected.0, expected.1 ^ 1)).is_err());
            let bytes = std::fs::read(&part).expect("read");
            std::fs::write(&part, &bytes[..bytes.len() / 2]).expect("half of it");
            assert!(work.check(&part, expected).is_err());
        }
    }

    #[test]
    fn a_compressed_file_that_can_not_have_its_name_leaves_the_original_where_it_is() {
        for how in hows() {
            let directory = tempfile::tempdir().expect("temp dir");
            let path = directory.path().join(NAME);
            std::fs::write(&path, content()).expect("write");
            let packed = with(&path, ending(how));
            std::fs::create_dir(&packed).expect("a directory in its place");
            assert!(work(directory.path(), how).compress(&path).is_err());
            assert_eq!(std::fs::read(&path).expect("the original"), content());
            assert!(!with(&packed, PART).exists(), "what is of no use takes room");
        }
    }

    /// As after the rotations of a short run.
    #[test]
    fn all_that_was_told_of_is_compressed_at_the_end_if_there_is_time() {
        let directory = tempfile::tempdir().expect("temp dir");
        let newer = "out.2026-11-21T161600.123456Z.jsonl";
        let names = Names::of(&directory.path().join("out.jsonl"));
        let (how, rotation) = (Compression::Gzip, Rotation::default());
        let compressor = Compressor::start(names.clone(), how, rotation).expect("a thread");
        for name in [NAME, newer] {
            std::fs::write(directory.path().join(name), content()).expect("write");
            compressor.tell();
        }
        compressor.finish(Duration::from_secs(60), &names);
        assert_eq!(files(directory.path()), [NAME, newer].map(|name| format!("{name}.gz")));
    }

    #[test]
    fn a_compression_that_is_stopped_leaves_the_file_as_it_is() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join(NAME);
        std::fs::write(&path, content()).expect("write");
        let work = work(directory.path(), Compression::Gzip);
        work.turn.stopped.store(true, Ordering::SeqCst);
        assert!(work.compress(&path).is_err());
        assert_eq!(files(directory.path()), [NAME]);
    }
}
