//! Files where others may have been first: a link or a file that somebody has planted under a name that
//! is known beforehand.
//!
//! - A symbolic link in the last place of a path is followed if it is this user's own or root's. Anybody
//!   else's could lead to any file that this user may write.
//! - In a directory that everybody may write to, a file is taken if it is this user's own, root's, or the
//!   directory's owner's. Who else has put it there could read all that is written to it.
//!
//! The kernel does the same if it is told to (`fs.protected_symlinks`, `protected_regular`,
//! `protected_fifos`); not every system tells it, and these hold in sticky directories alone. The
//! directories on the way to a file are believed.

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// As many as the kernel follows.
const LINKS_MAX: usize = 40;
/// What `/proc` calls itself. Its links lead to what is open, whatever they say.
const PROC: u64 = 0x9fa0;

/// Opens a file, or creates it, if it can be trusted to be the one that is meant.
///
/// # Errors
/// What the system says; or who has put it there, and what to do.
pub(crate) fn open(path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let (file, place) = open_at_end(path, flags, mode)?;
    check_owner(&place, &rustix::fs::fstat(&file)?)?;
    Ok(file)
}

/// The same for what is only looked at, whoever has put it there: what counts is not to be led elsewhere.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_to_look(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    open_at_end(path, flags, Mode::empty()).map(|(file, _)| file)
}

/// Opens what stands at the end of trusted links, and says where that is.
fn open_at_end(path: &Path, flags: OFlags, mode: Mode) -> io::Result<(File, PathBuf)> {
    let flags = flags | OFlags::CLOEXEC;
    let mut place = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        match rustix::fs::open(&place, flags | OFlags::NOFOLLOW, mode) {
            Ok(file) => return Ok((file.into(), place)),
            Err(Errno::LOOP) => match follow(&place)? {
                Link::To(target) => place = target,
                Link::OfProc => {
                    let file = rustix::fs::open(&place, flags, mode)?;
                    return Ok((file.into(), place));
                }
            },
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::LOOP.into())
}

/// The same question for a library that opens files itself.
///
/// # Errors
/// As [`open`]; not if there is nothing.
#[cfg(any(test, feature = "sqlite"))]
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        checked => checked.map(drop),
    }
}

/// Is it a directory, no link to one, and nobody's but this user's, root's, or `whose`?
///
/// # Errors
/// Whose it is, if not; what the system says.
pub(crate) fn check_directory(path: &Path, whose: u32) -> io::Result<()> {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Symlink && !is_trusted(&stat, &[]) {
        return Err(refused(format!("it is a symbolic link of {}", user(&stat))));
    }
    if kind == FileType::Directory && !is_trusted(&stat, &[whose]) {
        return Err(refused(format!("it belongs to {}", user(&stat))));
    }
    Ok(())
}

/// Can everybody remove and replace what is in this directory?
pub(crate) fn is_open_to_all(directory: &Path) -> bool {
    let sticky = Mode::from_raw_mode(nix::libc::S_ISVTX);
    rustix::fs::stat(directory).is_ok_and(|stat| {
        let mode = Mode::from_raw_mode(stat.st_mode);
        mode.contains(Mode::WOTH) && !mode.intersects(sticky)
    })
}

enum Link {
    To(PathBuf),
    OfProc,
}

/// Where a link leads that is trusted. Looked at by a handle, so that it is the same all the time.
fn follow(place: &Path) -> io::Result<Link> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let link = rustix::fs::open(place, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&link)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // Something else has taken its place: look again.
        return Ok(Link::To(place.to_path_buf()));
    }
    if rustix::fs::fstatfs(&link)?.f_type as u64 == PROC {
        return Ok(Link::OfProc);
    }
    if !is_trusted(&stat, &[]) {
        return Err(refused(format!(
            "it is a symbolic link of {}, and could lead anywhere",
            user(&stat)
        )));
    }
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?.into_bytes();
    Ok(Link::To(directory_of(place).join(OsString::from_vec(target))))
}

fn check_owner(place: &Path, stat: &Stat) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Fifo) {
        return Ok(());
    }
    let directory = rustix::fs::stat(directory_of(place))?;
    let is_open = Mode::from_raw_mode(directory.st_mode).contains(Mode::WOTH);
    if !is_open || is_trusted(stat, &[directory.st_uid]) {
        return Ok(());
    }
    Err(refused(format!(
        "it belongs to {}, and everybody may put files into its directory",
        user(stat)
    )))
}

fn is_trusted(stat: &Stat, others: &[u32]) -> bool {
    let own = rustix::process::geteuid().as_raw();
    [own, 0].contains(&stat.st_uid) || others.contains(&stat.st_uid)
}

fn user(stat: &Stat) -> String {
    format!("user {}", stat.st_uid)
}

fn refused(why: String) -> io::Error {
    let own = rustix::process::geteuid().as_raw();
    let message = format!(
        "{why}, while this runs as user {own}: not trusted. Remove it, or name another place that only \
         you can write to"
    );
    // Not as a lack of rights, which somebody would be told to give.
    io::Error::other(message)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Somebody who is neither root nor who runs the tests.
    const STRANGER: u32 = 54_321;

    const APPEND: OFlags = OFlags::WRONLY.union(OFlags::APPEND).union(OFlags::CREATE);

    fn place() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    fn append(path: &Path) -> io::Result<()> {
        open(path, APPEND, Mode::RUSR | Mode::WUSR)?.write_all(b"x")
    }

    fn give_away(path: &Path) -> bool {
        let given = std::os::unix::fs::lchown(path, Some(STRANGER), Some(STRANGER));
        if given.is_err() {
            eprintln!("skipped: only root can give files away");
        }
        given.is_ok()
    }

    fn open_to_all(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn ones_own_links_are_followed_whatever_they_are_relative_to() {
        let place = place();
        let path = |name: &str| place.path().join(name);
        std::fs::create_dir(path("far")).expect("a directory");
        symlink("far/there", path("near")).expect("a link");
        symlink(path("near"), path("first")).expect("a link");
        append(&path("first")).expect("through two links, and created at their end");
        assert_eq!(std::fs::read(path("far/there")).expect("there"), b"x");
        symlink("loop", path("loop")).expect("a link");
        let error = append(&path("loop")).expect_err("it leads nowhere");
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }

    #[test]
    fn what_is_open_can_be_opened_again_by_its_number() {
        let place = place();
        let file = File::create(place.path().join("file")).expect("a file");
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        append(&PathBuf::from(format!("/proc/self/fd/{number}"))).expect("by its number");
        let (mut read, written) = io::pipe().expect("a pipe");
        let number = std::os::fd::AsRawFd::as_raw_fd(&written);
        symlink(format!("/proc/self/fd/{number}"), place.path().join("link")).expect("a link");
        append(&place.path().join("link")).expect("a pipe has no name of its own");
        drop(written);
        let mut all = String::new();
        read.read_to_string(&mut all).expect("read");
        assert_eq!(all, "x");
    }

    #[test]
    fn a_link_of_somebody_else_is_not_followed_and_nothing_is_created_at_its_end() {
        let place = place();
        let path = |name: &str| place.path().join(name);
        symlink("target", path("planted")).expect("a link");
        symlink("planted", path("own")).expect("a link");
        if !give_away(&path("planted")) {
            return;
        }
        for name in ["planted", "own"] {
            let error = append(&path(name)).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::Other);
            assert!(error.to_string().contains("a symbolic link of user 54321"), "{error}");
            assert!(check(&path(name)).is_err());
        }
        assert!(!path("target").exists());
    }

    #[test]
    fn a_file_of_somebody_else_is_not_taken_where_everybody_may_put_one() {
        let place = place();
        let path = place.path().join("planted");
        std::fs::write(&path, "").expect("a file");
        if !give_away(&path) {
            return;
        }
        for mode in [0o1777, 0o777] {
            open_to_all(place.path(), mode);
            let error = append(&path).expect_err("it is not ours");
            assert!(error.to_string().contains("it belongs to user 54321"), "{error}");
        }
        assert_eq!(std::fs::metadata(&path).expect("there").size(), 0);
        // Who owns the directory can do what they like there in any case.
        assert!(give_away(place.path()));
        append(&path).expect("its directory's owner");
        open_to_all(place.path(), 0o755);
        append(&path).expect("nobody else can have put it there");
    }

    #[test]
    fn a_directory_is_told_from_one_that_is_planted() {
        let place = place();
        let path = |name: &str| place.path().join(name);
        std::fs::create_dir(path("done")).expect("a directory");
        symlink("done", path("link")).expect("a link");
        let whose = STRANGER + 1;
        check_directory(&path("done"), whose).expect("our own");
        check_directory(&path("link"), whose).expect("our own");
        if !give_away(&path("done")) || !give_away(&path("link")) {
            return;
        }
        assert!(check_directory(&path("done"), whose).is_err());
        check_directory(&path("done"), STRANGER).expect("theirs");
        assert!(check_directory(&path("link"), STRANGER).is_err(), "a link leads anywhere");
    }

    #[test]
    fn only_without_the_sticky_bit_everybody_can_replace_what_is_there() {
        let place = place();
        for (mode, open) in [(0o755, false), (0o775, false), (0o777, true), (0o1777, false)] {
            open_to_all(place.path(), mode);
            assert_eq!(is_open_to_all(place.path()), open, "{mode:o}");
        }
    }
}
