//! The queue between producers and buffer: one file, mapped by all, owned by none.
//!
//! In the order in which a job travels: [`jobs`] is the table it is handed out by
//! ([`slot`]: what its words mean), [`lane`] the way
//! its records take, [`reader`] the far end of it, [`ends`] the words at which both meet, [`commit`] the
//! books that say how far they have got, [`settle`] what is done about the jobs of the dead, [`repair`] what a start does about a
//! spool in which nobody lives. [`spool`] is the file, [`layout`] where everything stands in it,
//! [`record`] and [`frame`] how words and records are kept whole, [`bell`] how sleepers are woken, [`history`]
//! what happened to whom, [`in_hand`] what workers are at.

pub(crate) mod bell;
pub(crate) mod blame;
pub(crate) mod commit;
pub(crate) mod ends;
pub(crate) mod frame;
pub(crate) mod history;
pub(crate) mod in_hand;
pub(crate) mod jobs;
pub(crate) mod lane;
pub(crate) mod layout;
pub(crate) mod orphans;
pub(crate) mod position;
pub(crate) mod processes;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod repair;
pub(crate) mod settle;
pub(crate) mod slot;
pub(crate) mod spool;
pub(crate) mod vitals;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod torn_tests;
#[cfg(test)]
mod wraps;
