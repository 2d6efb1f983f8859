//! Reading rows on Q. A task of its own copies them out of the server while the driver goes on.
//!
//! - [`task`]: one read, from its lock to its last row.
//! - [`copy`]: the tuples in the stream that COPY sends.

pub(super) mod copy;
pub(super) mod task;
