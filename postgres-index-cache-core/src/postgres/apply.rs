//! Applying rows and changes to the caches.
//!
//! ```text
//! DriverTable   what the driver knows of a table: definition, fingerprint, the lock's state
//!   └ CacheWriter   operations in order, behind the cache's lock; hides the type of the rows
//!       └ CacheSink   the cache itself: TableCache (cells), ModelCache (an application's rows)
//! ```
//!
//! [`finding`] is what a comparison of a cache with its table has found.

pub(super) mod cells;
pub(super) mod driver_table;
pub(super) mod finding;
pub(super) mod models;
pub(super) mod sink;
pub(super) mod writer;
