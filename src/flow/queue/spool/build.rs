//! How a spool comes to be: in full under another name, then renamed.

use super::{Spool, checksum, directory_of, sibling, sync_directory};
use crate::error::Error;
use crate::flow::queue::layout::{Layout, MAGIC, VERSION};
use crate::sys::atomic::Ordering;
use crate::sys::mmap::Mapping;
use crate::sys::{disk, lock, proc_fs};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// File systems on which a lock or a mapping is not what it is on a local disk.
const REFUSED: [(u64, &str); 8] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x2fc1_2fc1, "ZFS (copy on write)"),
    (0xca45_1a4e, "bcachefs (copy on write)"),
];
const BTRFS: u64 = 0x9123_683e;

/// Removes what creators of this spool that were killed have left behind. Their number is part of
/// its name; one that is in use now may be in the middle of it.
pub(super) fn remove_unfinished(path: &Path) {
    let prefix = sibling(path, ".new-");
    let Some(prefix) = prefix.file_name() else { return };
    let Ok(entries) = std::fs::read_dir(directory_of(path)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.as_bytes().strip_prefix(prefix.as_bytes());
        let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        let Some(number) = number else { continue };
        let own = std::process::id().cast_signed();
        if number == own || proc_fs::stat(number).is_none_or(|creator| creator.ended()) {
            // If it can't be removed, creating the new one says why.
            let _removed = std::fs::remove_file(entry.path());
        }
    }
}

/// Creates, locks and fills the file under its temporary name.
pub(super) fn build(
    temporary: &Path,
    layout: Layout,
    (fingerprint, identity): (u64, u64),
    fill: impl FnOnce(&Spool),
) -> Result<Spool, Error> {
    let fail = |what: &str, error: io::Error| Error::to_remedy(temporary, what, &error);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(temporary, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|error| {
            fail("can't create the spool", disk::explained(directory_of(temporary), error.into()))
        })?;
    check_file_system(&file, temporary)?;
    lock::try_exclusive(&file).map_err(|error| fail("can't lock the spool", error))?;
    // In full, now: a mapped page without room on the disk would end a process with SIGBUS later.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, layout.total as u64).map_err(
        |error| fail(&format!("can't reserve {} bytes for the spool", layout.total), error.into()),
    )?;
    let mapping = Mapping::of_file(&file, layout.total)
        .map_err(|error| fail("can't map the spool", error))?;
    let spool = Spool {
        mapping,
        layout,
        file,
        path: temporary.to_path_buf(),
        closed: false,
        #[cfg(any(test, fuzzing))]
        rings: Vec::new(),
    };
    spool.run().boot_id.store(proc_fs::boot_id(), Ordering::Relaxed);
    fill(&spool);
    write_header(&spool, fingerprint, identity);
    // The name appears only after the content: what a crash leaves is the old spool or this one.
    spool.file.sync_all().map_err(|error| fail("can't write the spool", error))?;
    Ok(spool)
}

fn write_header(spool: &Spool, fingerprint: u64, identity: u64) {
    let (header, geometry) = (spool.header(), spool.layout.geometry);
    for (word, value) in [
        (&header.version, VERSION),
        (&header.lanes, geometry.lanes.into()),
        (&header.lane_bytes, geometry.lane_bytes),
        (&header.slots, geometry.slots.into()),
        (&header.job_bytes, geometry.job_bytes.into()),
        (&header.identity, identity),
        (&header.fingerprint, fingerprint),
    ] {
        word.store(value, Ordering::Relaxed);
    }
    header.checksum.store(checksum(header), Ordering::Relaxed);
    header.magic.store(MAGIC, Ordering::Release);
}

fn check_file_system(file: &File, path: &Path) -> Result<(), Error> {
    let stat = rustix::fs::fstatfs(file)
        .map_err(|error| Error::file(path, "can't query the file system", error))?;
    let kind = (stat.f_type as u64) & 0xffff_ffff;
    if let Some((_, name)) = REFUSED.iter().find(|(magic, _)| *magic == kind) {
        return Err(Error::file(
            path,
            "a spool can't live here",
            format!("this is {name}; name a file on a local disk with --spool"),
        ));
    }
    if kind == BTRFS {
        // Copied blocks could run out of room under a mapping; must be set while the file is empty.
        let flags = rustix::fs::ioctl_getflags(file)
            .and_then(|flags| rustix::fs::ioctl_setflags(file, flags | rustix::fs::IFlags::NOCOW));
        flags.map_err(|error| {
            Error::file(path, "can't switch off copy on write for the spool", error)
        })?;
    }
    Ok(())
}

/// Gives the finished spool its name.
pub(super) fn publish(temporary: &Path, path: &Path, replace: bool) -> Result<(), Error> {
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let renamed = match rustix::fs::renameat_with(CWD, temporary, CWD, path, flags) {
        // A file system without this kind of rename: a hard link refuses an existing name too.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !replace => {
            rustix::fs::linkat(CWD, temporary, CWD, path, AtFlags::empty())
                .and_then(|()| rustix::fs::unlink(temporary))
        }
        other => other,
    };
    match renamed {
        Ok(()) => sync_directory(path),
        Err(rustix::io::Errno::EXIST) => Err(Error::Held(format!(
            "{}: another daemon has just created this spool",
            path.display()
        ))),
        Err(error) => Err(Error::to_remedy(path, "can't create the spool", &error.into())),
    }
}
