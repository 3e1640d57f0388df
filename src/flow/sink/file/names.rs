//! Names of the files that an output was before: `pings.2026-11-21T161500.123456Z.jsonl`.
//!
//! The moment stands before the extension, in UTC and always equally long, so that names sort by
//! time. A file is one of ours only if its name is exactly what we would have written.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// As in a name; a colon would not do on every file system that a file may be copied to.
const FORMAT: &str = "%Y-%m-%dT%H%M%S%.6fZ";
/// Bytes of a moment in a name.
const MOMENT_BYTES: usize = 25;
/// What a file has behind its name that is not compressed yet.
pub(super) const PART: &str = ".part";
/// What compressed files have behind their names.
const PACKED: [&str; 2] = [".zst", ".gz"];

/// The most bytes that are added to the output's own name.
pub(crate) const ADDED_MAX: usize = 48;

/// The output's own name, in its two parts.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    output: PathBuf,
    directory: PathBuf,
    /// With the dot behind it.
    stem: Vec<u8>,
    /// With the dot before it; empty if there is none.
    extension: Vec<u8>,
}

/// A file that the output was before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rotated {
    /// Microseconds since 1970.
    pub moment: u64,
    pub path: PathBuf,
}

impl Rotated {
    /// Is it compressed?
    pub(crate) fn is_packed(&self) -> bool {
        let name = self.path.as_os_str().as_bytes();
        PACKED.iter().any(|packed| name.ends_with(packed.as_bytes()))
    }
}

impl Names {
    pub(crate) fn of(output: &Path) -> Names {
        let part = |part: Option<&OsStr>| part.map(|part| part.as_bytes().to_vec());
        let mut stem = part(output.file_stem()).unwrap_or_default();
        stem.push(b'.');
        let extension = part(output.extension()).map(|mut extension| {
            extension.insert(0, b'.');
            extension
        });
        let directory = crate::flow::queue::spool::directory_of(output).to_path_buf();
        let output = output.to_path_buf();
        Names { output, directory, stem, extension: extension.unwrap_or_default() }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the output is called once it is set aside.
    pub(crate) fn at(&self, moment: u64) -> PathBuf {
        let name = [&self.stem, text(moment).as_bytes(), &self.extension].concat();
        self.directory.join(OsString::from_vec(name))
    }

    /// The moment in a name of ours, compressed or not.
    fn moment(&self, name: &OsStr) -> Option<u64> {
        let mut name = name.as_bytes().strip_prefix(self.stem.as_slice())?;
        for packed in PACKED {
            name = match name.strip_suffix(packed.as_bytes()) {
                Some(rest) if rest.ends_with(&self.extension) && rest.len() >= MOMENT_BYTES => rest,
                _ => name,
            };
        }
        let written = name.strip_suffix(self.extension.as_slice())?;
        let written = std::str::from_utf8(written).ok()?;
        let time = DateTime::strptime(FORMAT, written).ok()?.to_zoned(TimeZone::UTC).ok()?;
        let moment = u64::try_from(time.timestamp().as_microsecond()).ok()?;
        // Exactly what we would have written.
        (text(moment) == written).then_some(moment)
    }

    /// Files that a compression has left half done.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub(crate) fn parts(&self) -> io::Result<Vec<PathBuf>> {
        let mut parts = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let packed = name.as_bytes().strip_suffix(PART.as_bytes());
            let packed =
                packed.filter(|name| PACKED.iter().any(|it| name.ends_with(it.as_bytes())));
            if packed.is_some_and(|name| self.moment(OsStr::from_bytes(name)).is_some()) {
                parts.push(entry.path());
            }
        }
        Ok(parts)
    }

    /// Removes the oldest, if there are more than are to be kept. One that is there as it was and
    /// compressed is one.
    ///
    /// # Errors
    /// If the directory can't be read, or a file not be removed.
    pub(crate) fn keep(&self, keep: Option<u32>) -> io::Result<()> {
        let Some(keep) = keep else { return Ok(()) };
        let all = self.all()?;
        let mut moments: Vec<u64> = all.iter().map(|it| it.moment).collect();
        moments.dedup();
        let old = moments.len().saturating_sub(keep as usize);
        let Some(oldest_kept) = moments.get(old) else { return Ok(()) };
        all.iter().filter(|it| it.moment < *oldest_kept).try_for_each(|it| {
            match std::fs::remove_file(&it.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
    }

    /// All that are there, oldest first. What is no regular file is none; nor is one of a user who is
    /// neither this one nor the output's owner: where everybody may put files, names like ours could
    /// have those that are ours removed as too many.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub(crate) fn all(&self) -> io::Result<Vec<Rotated>> {
        let owner = std::fs::symlink_metadata(&self.output).map(|output| output.uid()).ok();
        let owners = [Some(rustix::process::geteuid().as_raw()), owner];
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Some(moment) = self.moment(&entry.file_name()) else { continue };
            let is_ours = |it: std::fs::Metadata| it.is_file() && owners.contains(&Some(it.uid()));
            if entry.metadata().is_ok_and(is_ours) {
                all.push(Rotated { moment, path: entry.path() });
            }
        }
        all.sort();
        Ok(all)
    }
}

/// A moment as it stands in a name. One beyond the year 9999 is the last one before.
fn text(moment: u64) -> String {
    let moment = i64::try_from(moment).ok().and_then(|at| Timestamp::from_microsecond(at).ok());
    moment.unwrap_or(Timestamp::MAX).strftime(FORMAT).to_string()
}

/// Has this moment a name of its own?
pub(super) fn is_distinct(moment: u64) -> bool {
    i64::try_from(moment).is_ok_and(|at| Timestamp::from_microsecond(at).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21T16:15:00.123456Z
    const MOMENT: u64 = 1_795_277_700_123_456;

    fn name(output: &str) -> String {
        let path = Names::of(Path::new(output)).at(MOMENT);
        path.file_name().expect("a name").to_str().expect("UTF-8").to_owned()
    }

    #[test]
    fn the_extension_stays_and_the_moment_stands_before_it() {
        assert_eq!(name("/x/pings.jsonl"), "pings.2026-11-21T161500.123456Z.jsonl");
        assert_eq!(name("pings.tar.csv"), "pings.tar.2026-11-21T161500.123456Z.csv");
        assert_eq!(name("results"), "results.2026-11-21T161500.123456Z");
        assert_eq!(name(".hidden"), ".hidden.2026-11-21T161500.123456Z");
        assert_eq!(text(MOMENT).len(), MOMENT_BYTES);
        assert!(MOMENT_BYTES + 1 + PACKED[0].len() <= ADDED_MAX);
    }

    #[test]
    fn only_what_we_would_have_written_is_ours() {
        let names = Names::of(Path::new("/x/pings.jsonl"));
        let moment = |name: &str| names.moment(OsStr::new(name));
        for ours in ["", ".zst", ".gz"] {
            let name = format!("pings.2026-11-21T161500.123456Z.jsonl{ours}");
            assert_eq!(moment(&name), Some(MOMENT), "{name}");
        }
        for foreign in [
            "pings.jsonl",
            "pings.jsonl.1",
            "pings.2026-11-21.jsonl",
            "pings.2026-11-21T161500Z.jsonl",
            "pings.2026-11-21T161500.123456Z.csv",
            "pings.2026-11-21T161500.123456Z.jsonl.bak",
            "pings.2026-11-21T161500.123456Z.jsonl.gz.zst.gz",
            "pings.2026-13-21T161500.123456Z.jsonl",
            "pings.2026-11-21T161500.1234567Z.jsonl",
            "pings.2026-11-21T161500.12345Z.jsonl",
            "pings.+026-11-21T161500.123456Z.jsonl",
            "old.pings.2026-11-21T161500.123456Z.jsonl",
            "pings.x.2026-11-21T161500.123456Z.jsonl",
            ".pings.2026-11-21T161500.123456Z.jsonl",
            "",
        ] {
            assert_eq!(moment(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn files_of_somebody_else_are_none_of_ours_whatever_their_names_are() {
        let place = tempfile::tempdir().expect("a directory");
        let output = place.path().join("pings.jsonl");
        std::fs::write(&output, "").expect("an output");
        let names = Names::of(&output);
        (0..4).for_each(|at| std::fs::write(names.at(MOMENT + at), "").expect("a rotated file"));
        let planted = [MOMENT + 2, MOMENT + 3].map(|at| names.at(at));
        for path in &planted {
            if std::os::unix::fs::chown(path, Some(54_321), None).is_err() {
                return eprintln!("skipped: only root can give files away");
            }
        }
        assert_eq!(names.all().expect("a look").len(), 2);
        names.keep(Some(2)).expect("kept");
        assert!(names.at(MOMENT).exists(), "removed for files of somebody else");
        // Whoever the output belongs to, its files do.
        std::os::unix::fs::chown(&output, Some(54_321), None).expect("root may");
        assert_eq!(names.all().expect("a look").len(), 4);
    }

    #[test]
    fn names_sort_by_time() {
        let moments = [0, 1, 999_999, 1_000_000, MOMENT, MOMENT + 1, 4_102_444_800_000_000];
        let names: Vec<String> = moments.iter().map(|at| text(*at)).collect();
        assert!(names.is_sorted(), "{names:?}");
        // No panic.
        text(u64::MAX);
    }
}
