//! Who there is.

/// A child of main.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Child {
    /// Hands out jobs.
    Source,
    /// The worker process of this lane.
    Worker(u16),
    /// Collects and writes.
    Buffer,
}
