//! The flow of data, in the order in which it travels: a [`source`] hands out [`job`]s, a
//! [`worker`] turns them into records by an [`emitter`], the [`queue`] carries the records, the
//! [`buffer`] collects them, a [`sink`] writes them. [`prepare`] comes before ([`rebuild`]
//! if sizes have changed), [`balance`] counts at both ends, [`about`] is what a run leaves written of itself.
//! if sizes have changed), [`balance`] counts at both ends. [`status`] says how it stands, [`progress`] draws
//! how far it has got.
//!
//! Nothing here knows of processes, signals or deadlines: all it hears of control is
//! [`crate::stop`].

pub(crate) mod about;
pub(crate) mod balance;
pub(crate) mod buffer;
#[cfg(costs)]
pub mod costs;
pub(crate) mod emitter;
mod exposed;
pub(crate) mod format;
pub(crate) mod job;
pub(crate) mod prepare;
pub(crate) mod progress;
pub(crate) mod quarantine;
pub(crate) mod queue;
pub(crate) mod rebuild;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod status;
pub(crate) mod worker;

#[cfg(test)]
mod damaged_start;
#[cfg(test)]
mod single_step;
