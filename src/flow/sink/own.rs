//! Sinks that a program brings along, and what they are told.
//!
//! Records travel to the buffer in a format of their own, and are its type again there. A batch is
//! known by its number alone: what a sink has written of it can't be compared with anything.

use super::{Batch, CantOpen, Position, Sink as Bytes};
use crate::error::Error;
use crate::flow::emitter::Encode;
use crate::flow::job::JobError;
use crate::flow::worker::caught::caught;
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Pause before a sink is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// A place for records: a database, a service, a file of another kind.
///
/// The one object is made in the program's own process, before anything runs, and copied by `fork`
/// into each process of the buffer: so it connects in [`Sink::open`], and not when it is made. Only
/// the buffer calls it, from one thread. When a pipeline has ended in order it is dropped there.
///
/// # Exactly once
///
/// Each batch has a number, and is written whole or not at all. If a buffer is killed, the next one
/// asks in [`Sink::open`] whether the batch that was being written is there. Two kinds of sinks can
/// tell:
///
/// - one that can do several things at once (a transaction): it stores the number of the batch, and
///   which spool it is from, together with the records;
/// - one that can go back to a position: it does, and says that the batch is not there.
///
/// One that can do neither says that it is not there, and may have it twice.
///
/// What a power loss leaves of it depends on when the sink and the spool are forced to the disk. With
/// [`SyncPolicy::Always`](crate::config::SyncPolicy), the default of an own sink, each record is there
/// once after that, too, if [`Sink::sync`] keeps its promise. With an interval the records since
/// the last sync may be there twice, unless the sink goes back to the position that it is given.
///
/// # Errors and time
///
/// All three may take as long as they need; back-pressure makes the workers wait. A stop waits for
/// them up to its deadline. See [`SinkError`] for what an error does; a panic is an error for good.
///
/// # Examples
///
/// A sink that can go back: a file, cut to where it was.
///
/// ```
/// use procsig::sink::{Opened, Opening, Records, SinkError};
/// use std::fs::File;
/// use std::io::{Seek, SeekFrom, Write};
///
/// struct Totals(Option<File>);
///
/// impl procsig::Sink<u64> for Totals {
///     fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError> {
///         let mut file = File::options().create(true).append(true).open("totals.txt")?;
///         if let Some(position) = opening.position {
///             if file.metadata()?.len() < position {
///                 return Err(SinkError::new("totals.txt is not the file that was written to"));
///             }
///             file.set_len(position)?;
///         }
///         let position = file.seek(SeekFrom::End(0))?;
///         self.0 = Some(file);
///         Ok(Opened::At(position))
///     }
///
///     fn write(&mut self, batch: &Records<u64>) -> Result<u64, SinkError> {
///         let file = self.0.as_mut().ok_or(SinkError::new("not open"))?;
///         writeln!(file, "{}", batch.iter().sum::<u64>())?;
///         Ok(file.stream_position()?)
///     }
///
///     fn sync(&mut self) -> Result<(), SinkError> {
///         self.0.as_ref().map_or(Ok(()), |file| Ok(file.sync_data()?))
///     }
/// }
/// ```
pub trait Sink<T> {
    /// Called in each new buffer process before anything is written, and again after a
    /// [`SinkError::retry`]: connects, and says where it stands.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn open(&mut self, opening: &Opening) -> Result<Opened, SinkError>;

    /// Writes a batch, whole or not at all, and says where it stands then. It is not called with an
    /// empty one.
    ///
    /// # Errors
    /// See [`SinkError`]. Nothing of the batch may stay, or [`Sink::open`] must know of it.
    fn write(&mut self, batch: &Records<T>) -> Result<u64, SinkError>;

    /// Forces what was written to where a power loss does not reach it.
    ///
    /// # Errors
    /// See [`SinkError`].
    fn sync(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// What a sink is told when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Names the spool that the batches come from. Another spool has another, and begins to count
    /// its batches anew.
    pub spool: u64,
    /// What the sink has said last that was committed: behind the last batch that is known to be
    /// there. `None`: nothing is, as at the first start, and after a run that came to its end. What
    /// is there then is older, and stays.
    pub position: Option<u64>,
    /// The number of the batch of which nobody knows whether it was written. `None`: there is none.
    pub unfinished: Option<u64>,
}

/// Where a sink stands, in a measure of its own: bytes, rows, the number of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Here, and the unfinished batch is not there: it is going to be written.
    At(u64),
    /// Here, behind the unfinished batch, which is there, whole.
    Written(u64),
}

/// The records of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records<T> {
    number: u64,
    records: Vec<T>,
}

impl<T> Records<T> {
    /// A batch, for tests of a sink.
    pub fn new(number: u64, records: Vec<T>) -> Records<T> {
        Records { number, records }
    }

    /// The number of the batch: of two batches of a spool the later one has the larger one, and a
    /// batch that is written again keeps it. At most `i64::MAX`.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl<T> std::ops::Deref for Records<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.records
    }
}

impl<'a, T> IntoIterator for &'a Records<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.iter()
    }
}

/// Why a sink could not be opened, written or synced.
///
/// Any error becomes one by `?`, and then is one for good: the pipeline stops in order with exit
/// code 74, and the spool keeps the records for the next start. With [`SinkError::retry`] the
/// buffer says so once, pauses for half a second, opens the sink again and goes on.
pub struct SinkError {
    message: String,
    retry: bool,
}

impl SinkError {
    /// An error for good.
    pub fn new(message: impl std::fmt::Display) -> SinkError {
        SinkError { message: message.to_string(), retry: false }
    }

    /// An error that passes: a server that is being started again, a disk that is full.
    pub fn retry(message: impl std::fmt::Display) -> SinkError {
        SinkError { retry: true, ..SinkError::new(message) }
    }

    #[cfg(all(test, feature = "sqlite"))]
    pub(crate) fn passes(&self) -> bool {
        self.retry
    }
}

impl std::fmt::Display for SinkError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::fmt::Debug for SinkError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

// As with `JobError`: only since it is no error itself, every error can be converted into it.
impl<E: std::error::Error> From<E> for SinkError {
    fn from(error: E) -> SinkError {
        SinkError::new(JobError::from(error))
    }
}

/// How records travel from the workers to the buffer. Pending ones say it by their last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Transport {
    Postcard = b'p',
    Json = b'j',
    #[cfg(feature = "bincode")]
    Bincode = b'b',
}

impl Transport {
    /// Encodes a record, if it can be read back: one that can't would stand in the way of all that
    /// come after it.
    pub(crate) fn encoder<T: Serialize + DeserializeOwned>(self) -> Encode<T> {
        Arc::new(move |record, out| {
            let start = out.len();
            match self {
                Transport::Postcard => out.extend_from_slice(&postcard::to_stdvec(record)?),
                Transport::Json => serde_json::to_writer(&mut *out, record)?,
                #[cfg(feature = "bincode")]
                Transport::Bincode => {
                    let config = bincode::config::standard();
                    bincode::serde::encode_into_std_write(record, out, config)?;
                }
            }
            out.push(self as u8);
            self.decode::<T>(&out[start..]).map(|_| ()).map_err(|error| {
                let name = std::any::type_name::<T>();
                JobError::new(format_args!("a {name} can't be read back: {error}{}", self.advice()))
            })
        })
    }

    /// What to do about a type that it can't hold.
    fn advice(self) -> &'static str {
        match self {
            Transport::Json => "",
            _ => "; let it travel as JSON, by sink::own(..).json()",
        }
    }

    fn decode<T: DeserializeOwned>(self, record: &[u8]) -> Result<T, String> {
        let record = match record.split_last() {
            Some((tag, record)) if *tag == self as u8 => record,
            _ => return Err("it was encoded in another way".into()),
        };
        let whole = |(value, rest): (T, usize)| match rest {
            0 => Ok(value),
            rest => Err(format!("{rest} bytes of it are left")),
        };
        match self {
            Transport::Postcard => postcard::take_from_bytes(record)
                .map_err(|error| error.to_string())
                .and_then(|(value, rest)| whole((value, rest.len()))),
            Transport::Json => serde_json::from_slice(record).map_err(|error| error.to_string()),
            #[cfg(feature = "bincode")]
            Transport::Bincode => {
                bincode::serde::decode_from_slice(record, bincode::config::standard())
                    .map_err(|error| error.to_string())
                    .and_then(|(value, read)| whole((value, record.len() - read)))
            }
        }
    }
}

/// A sink of the program's own, as the buffer sees it.
pub(crate) struct OwnSink<T, S> {
    /// None once it is closed.
    sink: Option<S>,
    name: String,
    transport: Transport,
    spool: u64,
    at: Option<u64>,
    synced: u64,
    records: std::marker::PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned, S: Sink<T>> OwnSink<T, S> {
    pub(crate) fn new(sink: S, name: &str, transport: Transport) -> OwnSink<T, S> {
        let records = std::marker::PhantomData;
        OwnSink {
            sink: Some(sink),
            name: name.into(),
            transport,
            spool: 0,
            at: None,
            synced: 0,
            records,
        }
    }

    /// Calls the sink; a panic is an error for good.
    fn call<R>(
        &mut self,
        call: impl FnOnce(&mut S) -> Result<R, SinkError>,
    ) -> Result<R, SinkError> {
        let sink = self.sink.as_mut().ok_or_else(|| SinkError::new("it is closed"))?;
        caught(|| call(sink)).unwrap_or_else(|message| Err(SinkError::new(message)))
    }

    fn decode(&self, batch: Batch<'_>) -> Result<Records<T>, String> {
        let decode = |record| self.transport.decode(record);
        // The type's own code may panic as well.
        let records = caught(|| batch.records().map(decode).collect::<Result<_, _>>());
        let records = records.unwrap_or_else(Err);
        let records = records.map_err(|error| {
            format!(
                "a record can't be read as {}: {error}. If another version of the program has \
                 written it, let that one finish",
                std::any::type_name::<T>()
            )
        })?;
        Ok(Records { number: batch.number, records })
    }

    /// Opens the sink, however long that takes, and says whether it has the unfinished batch.
    fn connect(
        &mut self,
        position: Option<u64>,
        unfinished: Option<u64>,
        trouble: &mut Trouble,
    ) -> Result<bool, String> {
        let opening = Opening { spool: self.spool, position, unfinished };
        loop {
            match self.call(|sink| sink.open(&opening)) {
                Ok(opened) => {
                    let (Opened::At(at) | Opened::Written(at)) = opened;
                    self.at = Some(at);
                    return Ok(opened == Opened::Written(at));
                }
                Err(error) => trouble.pause(&self.name, error)?,
            }
        }
    }

    fn write_whole(&mut self, batch: Batch<'_>) -> Result<(), String> {
        let records = self.decode(batch)?;
        let mut trouble = Trouble::default();
        loop {
            match self.call(|sink| sink.write(&records)) {
                Ok(at) => {
                    self.at = Some(at);
                    break;
                }
                Err(error) => trouble.pause(&self.name, error)?,
            }
            if self.connect(self.at, Some(batch.number), &mut trouble)? {
                break;
            }
        }
        trouble.is_over(&self.name);
        Ok(())
    }

    fn sync_all(&mut self) -> Result<(), String> {
        let mut trouble = Trouble::default();
        while let Err(error) = self.call(S::sync) {
            trouble.pause(&self.name, error)?;
            // What was written is there: nothing is unfinished.
            self.connect(self.at, None, &mut trouble)?;
        }
        trouble.is_over(&self.name);
        Ok(())
    }
}

/// A sink that asks for patience.
#[derive(Default)]
struct Trouble {
    said: bool,
}

impl Trouble {
    /// Waits a little, and says why once; not for what does not pass.
    fn pause(&mut self, name: &str, error: SinkError) -> Result<(), String> {
        if !error.retry {
            return Err(error.message);
        }
        if !std::mem::replace(&mut self.said, true) {
            log::warn!("{name}: {error}; trying again, the records are kept");
        }
        // Nothing else can be done meanwhile: no event says that it has passed.
        std::thread::sleep(RETRY_PAUSE);
        Ok(())
    }

    fn is_over(&self, name: &str) {
        if self.said {
            log::info!("{name}: takes records again");
        }
    }
}

impl<T: DeserializeOwned, S: Sink<T>> Bytes for OwnSink<T, S> {
    fn belong_to(&mut self, spool: u64) {
        self.spool = spool;
    }

    fn tells_by_number(&self) -> bool {
        true
    }

    fn open(&mut self, committed: Option<Position>, pending: Batch<'_>) -> Result<usize, CantOpen> {
        let unfinished = (!pending.ends.is_empty()).then_some(pending.number);
        let mut trouble = Trouble::default();
        let written = self
            .connect(committed.map(|at| at.len), unfinished, &mut trouble)
            .map_err(|error| Error::file(Path::new(&self.name), "can't open the sink", error))?;
        trouble.is_over(&self.name);
        // What was there before us is not to be judged after a power loss.
        self.synced = committed.map(|at| at.synced).or(self.at).unwrap_or(0);
        Ok(if written && unfinished.is_some() { pending.bytes.len() } else { 0 })
    }

    fn write(&mut self, batch: Batch<'_>, _: usize) -> io::Result<usize> {
        self.write_whole(batch).map_err(io::Error::other)?;
        Ok(batch.bytes.len())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all().map_err(io::Error::other)?;
        self.synced = self.at.unwrap_or(0);
        Ok(())
    }

    fn close(&mut self, _patience: Duration) {
        if let Err(message) = caught(|| drop(self.sink.take())) {
            log::error!("{}: {message}", self.name);
        }
    }

    fn position(&self) -> Option<Position> {
        self.at.map(|at| Position::of_own(at, self.synced))
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
