//! What a spool says of its run, read from outside: whoever runs it, and whatever became of them.
//!
//! Nothing here locks or writes a spool. Of the flow it knows what stands in the queue; of control
//! nothing.

pub(crate) mod find;
pub(crate) mod last_run;
pub(crate) mod progress;
pub(crate) mod removed;
pub(crate) mod timeline;
