//! [`DriverTable`]: a table as its driver knows it.

use crate::postgres::apply::writer::CacheWriter;
use crate::postgres::schema::eligibility::TableConfig;
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::table_cache::KeyBuf;
use std::fmt;
use std::time::Instant;

/// A table that a driver follows, with the writer of its cache.
pub(crate) struct DriverTable {
    /// The table as it was described last.
    pub(crate) config: TableConfig,
    /// The writer of the table's cache.
    pub(crate) writer: Box<dyn CacheWriter>,
    /// The fingerprint under which the table was read last. Before the first read, the one under
    /// which the table was described.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// Whether the table is held: its cache is neither reloaded nor changed until the table is
    /// described afresh.
    pub(crate) is_held: bool,
    /// Whether one session reads the table alone, since a part of it was lost. It holds until a read
    /// of the table is done.
    pub(crate) is_read_alone: bool,
    /// Whether one session reads the table alone from now on, since the server refuses parts.
    pub(crate) is_never_divided: bool,
    /// The time at which the driver tries the cache's lock again; `None` unless a reader holds it.
    pub(crate) busy_until: Option<Instant>,
}

impl DriverTable {
    pub(crate) fn new(config: TableConfig, writer: Box<dyn CacheWriter>) -> Self {
        Self {
            fingerprint: config.fingerprint.clone(),
            is_held: false,
            is_read_alone: false,
            is_never_divided: false,
            config,
            writer,
            busy_until: None,
        }
    }

    /// Returns those of `keys`, as JSON, that a row of the table can have.
    pub(crate) fn possible(&self, mut keys: Vec<String>) -> Vec<String> {
        // Any role can notify of keys that no row can have. PostgreSQL refuses a statement with
        // such a key, so the good keys of the batch would not be read either.
        let mut key = KeyBuf::default();
        keys.retain(|id| key.read_json(&self.config.shape, id).is_ok());
        keys
    }
}

impl fmt::Debug for DriverTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverTable")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
