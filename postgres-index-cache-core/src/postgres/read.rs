//! Reading rows on Q: a task copies them out of the server while the driver goes on.
//!
//! - [`task`]: one read, from the lock to the last row.
//! - [`table`]: a table without a cache.
//! - [`parts`]: further sessions that read parts of one large table.
//! - [`copy`]: the tuples in the stream that COPY sends.
//! - [`decoding`]: the thread that makes rows of many tuples.

pub(super) mod copy;
mod decoding;
pub(super) mod parts;
pub(super) mod request;
pub(super) mod statement;
pub(super) mod table;
pub(super) mod task;
