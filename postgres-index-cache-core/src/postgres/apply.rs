//! Applying rows and changes to the caches.
//!
//! - [`driver_table`]: a table that the driver follows, with the writer of its cache.
//! - [`writer`]: the order of what is to be done to one cache, and the lock that it waits for.
//! - [`sink`]: what a cache must be able to do; [`models`]: the cache of an application's rows.

pub(super) mod driver_table;
pub(super) mod models;
pub(super) mod sink;
pub(super) mod writer;
