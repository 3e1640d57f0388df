//! Where results go.

use crate::config::{self, SyncPolicy};
use crate::flow::emitter::Encode;
use crate::flow::job::JobError;
use serde::Serialize;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

/// A file of JSON lines: one object for each record, appended.
pub fn json_lines(path: impl Into<PathBuf>) -> JsonLines {
    JsonLines(config::Output::new(path))
}

/// A file of compact records: each is postcard's bytes, framed by COBS and ended by a zero byte.
/// [`read_postcard`] reads it back. The format is not self-describing: whoever reads must know
/// the type, and a type with `#[serde(flatten)]` or `untagged` can't be read.
///
/// A job that has failed for good leaves no record in it, only a line in the log.
pub fn postcard(path: impl Into<PathBuf>) -> Postcard {
    Postcard(config::Output { format: config::Format::Postcard, ..config::Output::new(path) })
}

/// See [`postcard()`].
#[derive(Debug, Clone)]
pub struct Postcard(pub(super) config::Output);

impl Postcard {
    /// When what was written is forced to the disk; by default at most once a second. At stop
    /// it always is.
    #[must_use]
    pub fn sync(mut self, policy: SyncPolicy) -> Postcard {
        self.0.sync = policy;
        self
    }
}

/// Reads the records of a file that [`postcard()`] has written, one after the other.
///
/// # Errors
/// What the system says of the file; `InvalidData` for a record that is none of this type.
pub fn read_postcard<T: serde::de::DeserializeOwned>(
    file: impl std::io::Read,
) -> impl Iterator<Item = std::io::Result<T>> {
    let mut input = std::io::BufReader::new(file);
    let mut record = Vec::new();
    std::iter::from_fn(move || {
        record.clear();
        match input.read_until(0, &mut record) {
            Ok(0) => None,
            Ok(_) => Some(
                postcard::from_bytes_cobs(&mut record)
                    .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error)),
            ),
            Err(error) => Some(Err(error)),
        }
    })
}

/// See [`json_lines`].
#[derive(Debug, Clone)]
pub struct JsonLines(pub(super) config::Output);

impl JsonLines {
    /// When what was written is forced to the disk; by default at most once a second. At stop
    /// it always is.
    #[must_use]
    pub fn sync(mut self, policy: SyncPolicy) -> JsonLines {
        self.0.sync = policy;
        self
    }
}

/// A sink that can take records of type `T`.
///
/// Records are encoded where they are emitted, in the worker's process; the one buffer only
/// moves bytes.
pub trait Takes<T>: private::Sealed {
    #[doc(hidden)]
    fn encoder(&self) -> Encode<T>;
}

pub(super) mod private {
    /// Own sinks come with a later version.
    pub trait Sealed {
        #[doc(hidden)]
        fn output(self) -> crate::config::Output;
    }
}

impl private::Sealed for JsonLines {
    fn output(self) -> config::Output {
        self.0
    }
}

impl private::Sealed for Postcard {
    fn output(self) -> config::Output {
        self.0
    }
}

impl<T: Serialize> Takes<T> for Postcard {
    fn encoder(&self) -> Encode<T> {
        Arc::new(|record, bytes| {
            bytes.extend_from_slice(&postcard::to_stdvec_cobs(record)?);
            Ok(())
        })
    }
}

impl<T: Serialize> Takes<T> for JsonLines {
    fn encoder(&self) -> Encode<T> {
        Arc::new(|record, bytes| {
            serde_json::to_writer(&mut *bytes, record).map_err(JobError::from)?;
            bytes.push(b'\n');
            Ok(())
        })
    }
}

/// How records are encoded for an output that a configuration declares.
pub(crate) fn encoder_for<T: Serialize>(output: &config::Output) -> Encode<T> {
    match output.format {
        config::Format::JsonLines => JsonLines(output.clone()).encoder(),
        config::Format::Postcard => Postcard(output.clone()).encoder(),
    }
}
