//! The way of rows and changes into the caches.
//!
//! ```text
//! DriverTable   a table as the driver knows it: definition, fingerprint, state of the lock
//!   └ CacheWriter   operations in order, behind the cache's lock; hides the type of the rows
//!       └ CacheSink   the cache itself: TableCache (cells), ModelCache (an application's rows)
//! ```
//!
//! [`finding`] has the rows in which a cache differs from its table.

pub(super) mod cells;
pub(super) mod digests;
pub(super) mod driver_table;
pub(super) mod finding;
pub(super) mod history;
pub(super) mod models;
pub(super) mod sink;
pub(super) mod sink_writer;
pub(super) mod watch;
pub(super) mod writer;
pub(super) mod written;
