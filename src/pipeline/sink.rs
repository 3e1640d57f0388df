//! Where results go.
//!
//! | sink | takes | a job that has failed for good |
//! | --- | --- | --- |
//! | [`json_lines`] | any `Serialize` | a line with `"ok": false` |
//! | [`csv`] | structs and maps, as rows | a line in the log |
//! | [`lines`] | text and bytes, as they are | a line in the log |
//! | [`postcard()`] | any `Serialize` that postcard can hold | a line in the log |
//! | `sqlite` (feature `sqlite`) | structs and maps, as rows of a table | a line in the log |
//! | [`own`] | what your own [`Sink`] takes | a line in the log |
//!
//! With [`Ready::dead_letters`](crate::Ready::dead_letters) it is recorded there instead.

use crate::config::{self, Format, Rotation, SyncPolicy};
use crate::flow::emitter::Encode;
use crate::flow::format;
use crate::flow::sink::own::{OwnSink, Transport};
use serde::{Serialize, de::DeserializeOwned};
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::flow::sink::own::{Opened, Opening, Records, Sink, SinkError};

/// A file of JSON lines: one object for each record, appended.
pub fn json_lines(path: impl Into<PathBuf>) -> JsonLines {
    JsonLines(config::Output::new(path))
}

/// A file of comma-separated values (RFC 4180): a row for each record, appended. The first line of an
/// empty file names the columns; a file that begins with other columns is refused.
///
/// A record is a struct or a map with named fields, of which those that are called like a column
/// are written. A field that is missing, or nothing, is empty; one that is no text, number or truth
/// value is written as JSON. A NUL character becomes U+FFFD.
///
/// ```no_run
/// # use procsig::{Emitter, Job, Pipeline};
/// #[derive(serde::Serialize)]
/// struct Ping { host: String, ms: Option<f64> }
///
/// # let pipeline = Pipeline::new("pings").jobs(procsig::source::lines("hosts.txt"))
/// #     .worker("ping", |job: &Job, out: &mut Emitter<Ping>| Ok(()));
/// pipeline.sink(procsig::sink::csv("pings.csv", ["host", "ms"])).run();
/// ```
pub fn csv<C: Into<String>>(path: impl Into<PathBuf>, columns: impl IntoIterator<Item = C>) -> Csv {
    let columns = columns.into_iter().map(Into::into).collect();
    Csv(config::Output { format: Format::Csv { columns }, ..config::Output::new(path) })
}

/// A file of lines, appended as they are: for records that are text or bytes. One that has a newline
/// or a NUL byte in it fails its job.
pub fn lines(path: impl Into<PathBuf>) -> Lines {
    Lines(config::Output { format: Format::Lines, ..config::Output::new(path) })
}

/// A file of compact records: each is postcard's bytes, framed by COBS and ended by a zero byte.
/// [`read_postcard`] reads it back. The format is not self-describing: whoever reads must know
/// the type, and a type with `#[serde(flatten)]` or `untagged` can't be read.
pub fn postcard(path: impl Into<PathBuf>) -> Postcard {
    Postcard(config::Output { format: Format::Postcard, ..config::Output::new(path) })
}

/// A table of an SQLite database: a row for each record, once, whatever is killed. The rows of a
/// batch and its number are one transaction; the table `procsig_batches` keeps the number.
///
/// A record is a struct or a map with named fields, each of which is a column. Table and columns
/// are created when they are first needed; case makes no difference between them. Truth values are
/// 0 and 1, and what is no text or number is JSON text. A number above `i64::MAX` is text.
///
/// Everything is forced to the disk in each flush, unless [`Sqlite::sync`] says otherwise; then a
/// power loss may double the rows since the last sync. A database that is busy or full is waited for.
#[cfg(feature = "sqlite")]
pub fn sqlite(path: impl Into<PathBuf>, table: impl Into<String>) -> Sqlite {
    let format = Format::Sqlite { table: table.into() };
    Sqlite(config::Output { format, sync: SyncPolicy::Always, ..config::Output::new(path) })
}

/// A sink of the program's own; see [`Sink`].
///
/// The spool is `.NAME.spool` in the working directory for a pipeline called NAME, if
/// [`Ready::spool`](crate::Ready::spool) does not say otherwise.
pub fn own<S>(sink: S) -> Own<S> {
    Own { sink, sync: SyncPolicy::Always, transport: Transport::Postcard }
}

/// See [`own`].
#[derive(Debug, Clone)]
pub struct Own<S> {
    sink: S,
    sync: SyncPolicy,
    transport: Transport,
}

impl<S> Own<S> {
    /// When [`Sink::sync`] is called: after each batch by default. At stop it always is.
    #[must_use]
    pub fn sync(mut self, policy: SyncPolicy) -> Own<S> {
        self.sync = policy;
        self
    }

    /// Records travel to the buffer as JSON and not in postcard's format, which is shorter but can't
    /// hold all types: none with `#[serde(flatten)]`, `untagged` or `skip_serializing_if`, and no
    /// `serde_json::Value`. A record that can't be read back fails its job.
    #[must_use]
    pub fn json(mut self) -> Own<S> {
        self.transport = Transport::Json;
        self
    }

    /// Records travel to the buffer in the format of bincode 2, for types that postcard can't hold
    /// and bincode can. Its authors have given it up, with a security advisory against every version
    /// (RUSTSEC-2025-0141).
    #[cfg(feature = "bincode")]
    #[must_use]
    pub fn bincode(mut self) -> Own<S> {
        self.transport = Transport::Bincode;
        self
    }
}

/// Reads the records of a file that [`postcard()`] has written, one after the other.
///
/// # Errors
/// What the system says of the file; `InvalidData` for a record that is none of this type.
pub fn read_postcard<T: DeserializeOwned>(
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

/// A sink that can take records of type `T`.
///
/// Records are encoded where they are emitted, in the worker's process; the one buffer only
/// moves bytes, unless the sink is an [own](own()) one.
pub trait Takes<T>: private::Sealed {
    #[doc(hidden)]
    fn into_parts(self) -> private::Parts<T>;
}

pub(super) mod private {
    use crate::config::Output;
    use crate::flow::emitter::Encode;
    use crate::flow::sink::Sink;

    /// Own sinks come by [`super::own`].
    pub trait Sealed {}

    /// What a pipeline needs to know of a sink.
    pub struct Parts<T> {
        pub(crate) output: Output,
        pub(crate) encode: Encode<T>,
        pub(crate) own: Option<Box<dyn Sink>>,
    }

    impl<T> Parts<T> {
        pub(super) fn new(output: Output, encode: Encode<T>) -> Parts<T> {
            Parts { output, encode, own: None }
        }
    }
}

use private::Parts;

/// Sinks that are files, with the encoder of each.
macro_rules! files {
    ($($(#[$feature:meta])* $name:ident by $function:literal;)+) => {$(
        $(#[$feature])*
        #[doc = concat!("See [`", $function, "`].")]
        #[derive(Debug, Clone)]
        pub struct $name(config::Output);

        $(#[$feature])*
        impl $name {
            /// When what was written is forced to the disk. At stop it always is.
            #[must_use]
            pub fn sync(mut self, policy: SyncPolicy) -> $name {
                self.0.sync = policy;
                self
            }
        }

        $(#[$feature])*
        impl private::Sealed for $name {}
    )+};
}

/// Files that can be set aside.
macro_rules! rotating {
    ($($name:ident),+) => {$(
        impl $name {
            /// When the file is set aside and a new one begun; not at all if nothing is said.
            #[must_use]
            pub fn rotate(mut self, rotation: Rotation) -> $name {
                self.0.rotation = rotation;
                self
            }
        }
    )+};
}

rotating!(JsonLines, Csv, Lines, Postcard);

files! {
    JsonLines by "json_lines";
    Csv by "csv()";
    Lines by "lines()";
    Postcard by "postcard()";
    #[cfg(feature = "sqlite")]
    Sqlite by "sqlite()";
}

/// Takes what the format of its output can encode.
macro_rules! takes_all {
    ($($(#[$feature:meta])* $name:ident,)+) => {$(
        $(#[$feature])*
        impl<T: Serialize> Takes<T> for $name {
            fn into_parts(self) -> Parts<T> {
                let encode = format::encoder_for(&self.0);
                Parts::new(self.0, encode)
            }
        }
    )+};
}

takes_all! {
    JsonLines,
    Csv,
    Postcard,
    #[cfg(feature = "sqlite")]
    Sqlite,
}

impl<T: AsRef<[u8]>> Takes<T> for Lines {
    fn into_parts(self) -> Parts<T> {
        let encode: Encode<T> = Arc::new(|record, out| format::line(record.as_ref(), out));
        Parts::new(self.0, encode)
    }
}

impl<S> private::Sealed for Own<S> {}

impl<T, S> Takes<T> for Own<S>
where
    T: Serialize + DeserializeOwned + 'static,
    S: Sink<T> + 'static,
{
    fn into_parts(self) -> Parts<T> {
        let name = std::any::type_name::<S>();
        let format = Format::Own(name.to_owned());
        let output = config::Output { format, sync: self.sync, ..config::Output::new("") };
        let own = OwnSink::<T, S>::new(self.sink, name, self.transport);
        let encode = self.transport.encoder();
        Parts { own: Some(Box::new(own)), ..Parts::new(output, encode) }
    }
}
