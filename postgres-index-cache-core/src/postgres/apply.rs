//! The way of rows and changes into the caches.
//!
//! ```text
//! DriverTable   a table as the driver knows it: definition, fingerprint, state of the lock
//!   └ CacheWriter   operations in order, behind the cache's lock; hides the type of the rows
//!       └ CacheSink   the cache itself: TableCache (cells), ModelCache (an application's rows)
//! ```
//!
//! [`finding`] has the rows in which a cache differs from its table.

pub(crate) mod cells;
pub(crate) mod digests;
pub(crate) mod driver_table;
pub(crate) mod finding;
pub(crate) mod history;
mod kept_sum;
pub(super) mod models;
pub(crate) mod sink;
pub(crate) mod sink_writer;
pub(super) mod watch;
pub(crate) mod writer;
pub(super) mod written;
