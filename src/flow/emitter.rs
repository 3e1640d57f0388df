//! What a worker function hands its records to.

use super::job::JobError;
use super::queue::frame::Kind;
use super::queue::lane::{LaneWriter, Staged, TooLarge};
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Appends a record to the bytes that the sink will write. Chosen by the sink, run in the worker,
/// by all its threads.
pub(crate) type Encode<T> = Arc<dyn Fn(&T, &mut Vec<u8>) -> Result<(), JobError> + Send + Sync>;

/// Takes the records that a worker function emits.
///
/// In a job they are published all together when the job ends, or not at all. In a producer each
/// is published when [`Emitter::emit`] returns: from then on no death of any process loses it.
pub struct Emitter<'a, T> {
    encode: &'a Encode<T>,
    to: To<'a>,
}

enum To<'a> {
    /// The records of a job.
    Job { staged: &'a mut Staged, record_max: usize },
    /// A lane, at once; the staging area is only kept to be used again.
    Lane { lane: &'a dyn Publish, staged: Staged },
}

/// A lane, as the threads of its worker share it, or as the only one has it.
pub(crate) trait Publish {
    /// Publishes records at once, without the end of a job.
    fn publish(&self, staged: &mut Staged) -> Result<(), TooLarge>;
}

impl Publish for Mutex<LaneWriter<'_>> {
    fn publish(&self, staged: &mut Staged) -> Result<(), TooLarge> {
        // A thread that panicked with the lock has published all or nothing.
        self.lock().unwrap_or_else(PoisonError::into_inner).publish(staged, None)
    }
}

impl Publish for RefCell<MutexGuard<'_, LaneWriter<'_>>> {
    fn publish(&self, staged: &mut Staged) -> Result<(), TooLarge> {
        self.borrow_mut().publish(staged, None)
    }
}

impl<'a, T> Emitter<'a, T> {
    pub(crate) fn of_job(
        encode: &'a Encode<T>,
        staged: &'a mut Staged,
        record_max: usize,
    ) -> Emitter<'a, T> {
        Emitter { encode, to: To::Job { staged, record_max } }
    }

    pub(crate) fn of_producer(encode: &'a Encode<T>, lane: &'a dyn Publish) -> Emitter<'a, T> {
        Emitter { encode, to: To::Lane { lane, staged: Staged::default() } }
    }

    /// Emits a record.
    ///
    /// In a producer this waits while the lane is full: back-pressure instead of growth.
    ///
    /// # Errors
    /// If the record can't be encoded in the sink's format, or is longer than a lane can hold, for
    /// which its job has failed for good. Nothing of it is emitted then.
    pub fn emit(&mut self, record: &T) -> Result<(), JobError> {
        let encode = &**self.encode;
        match &mut self.to {
            To::Job { staged, record_max } => {
                let record_max = *record_max;
                if staged.len() > record_max {
                    // It can't be published any more; what more would come has no bound.
                    return Err(JobError::fail(format_args!(
                        "its records have {} bytes so far and a lane holds {record_max}: raise \
                         [spool] lane, or emit less for one job",
                        staged.len()
                    )));
                }
                staged.push(Kind::Result, |bytes| {
                    let before = bytes.len();
                    encode(record, bytes)?;
                    let len = bytes.len() - before;
                    if len > record_max {
                        return Err(JobError::fail(format_args!(
                            "a record of {len} bytes is longer than a lane can hold ({record_max} \
                             bytes): raise [spool] lane"
                        )));
                    }
                    Ok(())
                })
            }
            To::Lane { lane, staged } => {
                staged.clear();
                staged.push(Kind::Result, |bytes| encode(record, bytes))?;
                lane.publish(staged).map_err(JobError::from)
            }
        }
    }
}

impl<T> std::fmt::Debug for Emitter<'_, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Emitter")
    }
}
