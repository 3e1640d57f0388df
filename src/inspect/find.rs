//! Which spool is meant: by its own name, by the configuration that it belongs to, by the output that it
//! stands beside, or by the directory that it is in.

use super::removed;
use crate::config::raw::{self, Known};
use crate::error::Error;
use crate::flow::prepare::spool_path;
use crate::flow::queue::layout::MAGIC;
use crate::flow::queue::spool::sibling;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The spool of a run that was started with nothing but a command.
const DEFAULT: &str = ".results.jsonl.spool";
/// So many are listed.
const LISTED: usize = 20;

/// The spool that `given` means, the name of a spool, of a configuration, of an output or of a
/// directory; without it, the one of this directory. Whether it exists is for who opens it.
///
/// # Errors
/// [`Error::Config`] if it is a configuration that is not valid; [`Error::Usage`] if nothing is
/// found, or several.
pub(crate) fn spool(given: Option<&Path>, known: &Known) -> Result<PathBuf, Error> {
    let Some(given) = given else { return in_directory(Path::new(".")) };
    if given.is_dir() {
        return in_directory(given);
    }
    if is_named_spool(given) || begins_with_magic(given) {
        return Ok(given.to_path_buf());
    }
    let beside = hidden(given);
    // Also one that was there: who runs with it can be named.
    let is_there = || beside.symlink_metadata().is_ok() || removed::supervisor(&beside).is_some();
    if given.extension() != Some(OsStr::new("toml")) && is_there() {
        return Ok(beside);
    }
    let loaded = raw::load_to_look(given, known).map_err(|error| match error {
        Error::Mistakes(mistakes) => Error::Mistakes(mistakes.with_help(
            "this is neither a spool nor a configuration that says where one is: name the spool \
             itself, a hidden file beside the output that ends in .spool",
        )),
        other => other,
    })?;
    spool_path(&loaded.config)
}

/// The spool of an output of this name.
fn hidden(output: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(output.file_name().unwrap_or_default());
    sibling(&output.with_file_name(name), ".spool")
}

fn is_named_spool(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().ends_with(b".spool"))
}

fn begins_with_magic(path: &Path) -> bool {
    let mut magic = [0; 8];
    // A pipe must not be waited for.
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && u64::from_le_bytes(magic) == MAGIC
}

/// The only spool of a directory, or that of a run without a name.
fn in_directory(directory: &Path) -> Result<PathBuf, Error> {
    let here = |name: &OsStr| match directory == Path::new(".") {
        true => PathBuf::from(name),
        false => directory.join(name),
    };
    let default = here(OsStr::new(DEFAULT));
    if default.is_file() {
        return Ok(default);
    }
    let entries = std::fs::read_dir(directory)
        .map_err(|error| Error::file(directory, "can't be read", error))?;
    let hidden = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.as_bytes().starts_with(b".")) && path.is_file()
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| here(&entry.file_name()))
        .filter(|path| is_named_spool(path) && hidden(path))
        .collect();
    found.sort();
    let place = match directory == Path::new(".") {
        true => "this directory".into(),
        false => directory.display().to_string(),
    };
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::Usage(format!(
            "there is no spool in {place}: name the configuration, or the spool, which is a hidden \
             file beside the output and ends in .spool"
        ))),
        several => {
            let names: Vec<String> =
                several.iter().take(LISTED).map(|path| format!("  {}", path.display())).collect();
            let more = several.len().saturating_sub(LISTED);
            let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            Err(Error::Usage(format!(
                "there are several spools in {place}; name one of them:\n{}{more}",
                names.join("\n")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(given: &Path) -> Result<PathBuf, Error> {
        spool(Some(given), &Known::default())
    }

    #[test]
    fn a_spool_is_found_by_its_name_its_output_its_configuration_or_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path(".pings.jsonl.spool"), "").unwrap();
        let text = "[workers.ping]\ncommand = [\"true\"]\n[jobs]\nlines = \"-\"\n\
                    [output]\nfile = \"pings.jsonl\"\n";
        std::fs::write(path("pings.toml"), text).unwrap();
        let by = [".pings.jsonl.spool", "pings.jsonl", "pings.toml", "."];
        for given in by {
            assert_eq!(found(&path(given)).unwrap().file_name().unwrap(), ".pings.jsonl.spool");
        }
        std::fs::write(path("any name"), MAGIC.to_le_bytes()).unwrap();
        assert_eq!(found(&path("any name")).unwrap(), path("any name"));
    }

    #[test]
    fn of_several_spools_that_of_a_run_without_a_name_is_meant_or_they_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let text = |result: Result<PathBuf, Error>| {
            let error = result.unwrap_err();
            assert_eq!(error.exit_code(), crate::error::ExitCode::Usage);
            error.to_string()
        };
        assert!(text(found(folder.path())).contains("there is no spool in "));
        for name in [".b.spool", ".a.spool", "visible.spool"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let several = text(found(folder.path()));
        let place = |name: &str| several.find(name).unwrap_or_else(|| panic!("{several}"));
        assert!(place(".a.spool") < place(".b.spool"));
        assert!(!several.contains("visible"));
        std::fs::write(folder.path().join(DEFAULT), "").unwrap();
        assert_eq!(found(folder.path()).unwrap(), folder.path().join(DEFAULT));
    }

    #[test]
    fn what_is_neither_is_a_mistake_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.txt");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let error = found(&path).unwrap_err().to_string();
        assert!(error.contains("neither a spool nor a configuration"), "{error}");
    }
}
