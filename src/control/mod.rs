//! Control: who runs, who is told to stop, who is killed, and when.
//!
//! [`lifecycle`] decides and [`supervisor`] carries out; [`role`] says who there is, [`launch`]
//! what each does (and is the only one here that knows of the flow of data), [`child`] what every
//! child does before and after it, [`signal`] how signals become events, [`notify`] what a service
//! manager is told.

pub(crate) mod child;
pub(crate) mod launch;
pub(crate) mod lifecycle;
pub(crate) mod notify;
pub(crate) mod role;
pub(crate) mod signal;
pub(crate) mod supervisor;
