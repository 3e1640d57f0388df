//! The system underneath: nearly all `unsafe` of the crate, behind interfaces that are safe to use.
//!
//! Nothing here knows of pipelines; nothing here imports anything of ours but its own siblings.

pub(crate) mod atomic;
pub(crate) mod clock;
pub(crate) mod descriptor;
pub(crate) mod disk;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod limits;
pub(crate) mod lock;
pub(crate) mod mmap;
pub(crate) mod pidfd;
pub(crate) mod privileges;
pub(crate) mod proc_fs;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod terminal;
pub(crate) mod trusted;
