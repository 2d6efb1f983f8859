//! [`DeferredKeys`]: the keys whose rows have changed while nothing can be appended to the log.
//!
//! The rows are in the cache, so their keys suffice. Their memory is bounded. Past the bound the
//! log is begun anew with a snapshot.

use super::entry::{RowChanges, RowOp, TableName};
use std::collections::{BTreeMap, BTreeSet};

/// The keys of rows that are to be published later, as JSON, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeferredKeys {
    tables: BTreeMap<TableName, BTreeSet<String>>,
    bytes: usize,
}

impl DeferredKeys {
    /// The bytes of a key beside the text.
    const OVERHEAD: usize = 48;

    /// Adds the keys of `changes`. Returns false if no keys can name the changed rows: all rows
    /// were cleared, or the keys have more than `most` bytes.
    #[must_use]
    pub(super) fn add(&mut self, changes: &RowChanges, most: usize) -> bool {
        // Looked up once: most tables are there already.
        let keys = match self.tables.get_mut(&changes.table) {
            Some(keys) => keys,
            None => self.tables.entry(changes.table.clone()).or_default(),
        };
        for op in &changes.ops {
            let changed: [Option<&String>; 2] = match op {
                RowOp::Upsert { id, .. } | RowOp::Remove { id } => [Some(id), None],
                RowOp::Replace { old_id, id, .. } => [Some(old_id), Some(id)],
                RowOp::Clear { .. } => return false,
            };
            for id in changed.into_iter().flatten() {
                if keys.insert(id.clone()) {
                    self.bytes += id.len() + Self::OVERHEAD;
                }
            }
        }
        self.bytes <= most
    }

    /// Returns the keys by table.
    pub fn tables(&self) -> impl Iterator<Item = (&TableName, &BTreeSet<String>)> {
        self.tables.iter()
    }
}
