//! The queue between producers and buffer: one file, mapped by all, owned by none.
//!
//! In the order in which a job travels: [`jobs`] is the table it is handed out by, [`lane`] the way
//! its records take, [`commit`] the books that say how far they have got, [`settle`] what is done
//! about the jobs of the dead. [`spool`] is the file, [`layout`] where everything stands in it,
//! [`record`] and [`frame`] how words and records are kept whole, [`bell`] how sleepers are woken.

pub(crate) mod bell;
pub(crate) mod commit;
pub(crate) mod frame;
pub(crate) mod jobs;
pub(crate) mod lane;
pub(crate) mod layout;
pub(crate) mod orphans;
pub(crate) mod position;
pub(crate) mod processes;
pub(crate) mod record;
pub(crate) mod settle;
pub(crate) mod spool;

#[cfg(test)]
mod tests;
