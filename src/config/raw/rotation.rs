//! The keys of `[output]` about files that are set aside.

use std::time::Duration;

use super::super::{Compression, Format, Rotation};
use super::resolve::Resolver;
use super::tables::RawOutput;
use super::values;
use crate::error::Wrong;

impl Resolver<'_> {
    pub(super) fn rotation(&mut self, raw: &RawOutput, format: &Format) -> Rotation {
        let when = [raw.rotate_bytes.origin(), raw.rotate_every.origin()];
        let of_rotated = [raw.keep.origin(), raw.compress.origin()];
        let is_database = matches!(format, Format::Sqlite { .. });
        let is_off = when.iter().all(Option::is_none);
        for origin in when.into_iter().chain(of_rotated).flatten().filter(|_| is_database) {
            self.mistake(&origin.at_name(), "a database is not rotated: drop this key");
        }
        for origin in of_rotated.into_iter().flatten().filter(|_| is_off && !is_database) {
            let message = "it is about rotated files, and nothing says when the output is rotated: \
                           add output.rotate_bytes or output.rotate_every, or drop this key";
            self.mistake(&origin.at_name(), message);
        }
        Rotation {
            bytes: raw.rotate_bytes.get().copied(),
            every: raw.rotate_every.get().copied(),
            keep: raw.keep.get().copied(),
            compress: raw.compress.get().copied(),
        }
    }
}

/// Reads a duration of at least a second: nobody wants more files than that.
pub(super) fn period(text: &str) -> Result<Duration, Wrong> {
    match values::positive_duration(text)? {
        short if short < Duration::from_secs(1) => {
            Err(format!("{text:?} is too short: \"1s\" or more is allowed").into())
        }
        period => Ok(period),
    }
}

pub(super) fn compression(text: &str) -> Result<Compression, Wrong> {
    let how = values::word(text, &[("zstd", Compression::Zstd), ("gzip", Compression::Gzip)])?;
    if how == Compression::Zstd && !cfg!(feature = "zstd") {
        let message = "this program was built without zstd: build it with the feature \"zstd\", or \
                       choose \"gzip\"";
        return Err(message.to_owned().into());
    }
    Ok(how)
}
