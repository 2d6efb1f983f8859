//! Reading rows on Q: a task of its own copies them out of the server while the driver goes on.

pub(super) mod copy;
pub(super) mod task;
