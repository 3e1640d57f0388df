//! The text of a configuration file. Whatever the path names, it is read at once or refused.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::files::reason;
use crate::error::{Mistake, Mistakes, Wrong};

/// No configuration is longer. Bytes.
const LENGTH_MAX: u64 = 1 << 20;

/// Reads a configuration file.
pub(super) fn read(path: &Path) -> Result<String, Mistakes> {
    let bytes = bytes(path).map_err(|wrong| Mistakes::of_file(path, wrong))?;
    of_bytes(path, bytes)
}

/// The text that a file of these bytes is.
pub(super) fn of_bytes(path: &Path, bytes: Vec<u8>) -> Result<String, Mistakes> {
    let (invalid, valid_length) = match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => return Ok(text),
        Ok(text) => {
            let length = text.find('\0').unwrap_or(0);
            (text.into_bytes(), length)
        }
        Err(error) => {
            let length = error.utf8_error().valid_up_to();
            (error.into_bytes(), length)
        }
    };
    let wrong = match invalid.as_slice() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Wrong::new("this is UTF-16: save it as UTF-8"),
        bytes if bytes.contains(&0) => Wrong::new("this is no text, but something binary"),
        bytes => Wrong::new(format!("the byte 0x{:02x} is not valid UTF-8", bytes[valid_length]))
            .help("save it as UTF-8"),
    };
    let text = String::from_utf8_lossy(&invalid);
    let mistake =
        Mistake { key: String::new(), wrong, bytes: Some(valid_length..valid_length + 1) };
    Err(Mistakes::new(Some((path, &text)), vec![mistake]))
}

fn bytes(path: &Path) -> Result<Vec<u8>, Wrong> {
    let unreadable =
        |error| Wrong::new(format!("the configuration can't be read: {}", reason(&error)));
    // Without waiting: to open a FIFO may take for ever.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file: File =
        OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(unreadable)?;
    let kind = file.metadata().map_err(unreadable)?.file_type();
    let what = match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a directory"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_char_device() => Some("a terminal or another device"),
        () => Some("something else"),
    };
    if let Some(what) = what {
        return Err(Wrong::new(format!("a configuration is a file, and this is {what}")));
    }
    let mut bytes = Vec::new();
    file.take(LENGTH_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LENGTH_MAX {
        return Err(Wrong::new("this is longer than 1 MiB, so it can't be a configuration"));
    }
    Ok(bytes)
}
