//! [`DriverTable`]: a table that a driver follows.

use crate::postgres::apply::writer::CacheWriter;
use crate::postgres::schema::eligibility::{Distrust, TableConfig};
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::table_cache::KeyBuf;
use std::fmt;
use std::time::Instant;

/// A table that a driver follows, with the writer of its cache.
pub(in crate::postgres) struct DriverTable {
    pub(in crate::postgres) config: TableConfig,
    pub(in crate::postgres) writer: Box<dyn CacheWriter>,
    /// The fingerprint under which the table was read last, or else described.
    pub(in crate::postgres) fingerprint: Option<Fingerprint>,
    /// Whether the table is neither read nor changed until it is described afresh.
    pub(in crate::postgres) is_held: bool,
    /// When the cache's lock, which a reader holds, is tried again; `None` if it is free.
    pub(in crate::postgres) busy_until: Option<Instant>,
}

impl DriverTable {
    pub(in crate::postgres) fn new(config: TableConfig, writer: Box<dyn CacheWriter>) -> Self {
        Self {
            fingerprint: config.fingerprint.clone(),
            is_held: false,
            config,
            writer,
            busy_until: None,
        }
    }

    /// Returns those of `keys`, as JSON, that a row of the table can have. Any role can send others,
    /// and PostgreSQL would refuse to read them.
    pub(in crate::postgres) fn possible(&self, mut keys: Vec<String>) -> Vec<String> {
        let mut key = KeyBuf::default();
        keys.retain(|id| key.read_json(&self.config.shape, id).is_ok());
        keys
    }

    /// Returns how far a query of the table is distrusted.
    pub(in crate::postgres) fn distrust(&self) -> Distrust {
        match self.config.distrust {
            // COPY of the table itself runs no code of its owner's, but this cache needs a query.
            Distrust::OfQueries if !self.writer.reads_columns() => Distrust::OfTable,
            distrust => distrust,
        }
    }
}

impl fmt::Debug for DriverTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DriverTable")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
