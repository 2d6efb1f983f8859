//! [`Backlog`]: what comes for a cache while it cannot be changed, by key.
//!
//! An application may hold a cache's lock for as long as it likes; the server's queue and this
//! memory must not grow with what is written meanwhile. So of each key the last change alone is
//! kept, and a TRUNCATE drops all that came before it. What follows for a row that is to be read
//! again is not kept: it is in the row that will be read. What came before is, since a fence may
//! have come in between.

use super::change::{Change, Operation};
use std::collections::HashMap;

#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// That the table was truncated, and the keys whose rows are newer.
    cleared: Option<Vec<String>>,
    changes: HashMap<String, Change>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a change in place of what was kept of its keys; how many changes that were.
    pub(super) fn keep(&mut self, change: Change) -> u64 {
        if change.operation() == Operation::ReplaceKey {
            return self.keep_one(change.clone().remove_old()) + self.keep_one(change.store_new());
        }
        self.keep_one(change)
    }

    fn keep_one(&mut self, change: Change) -> u64 {
        let key = change.id().to_string();
        self.bytes += change.bytes() + key.len();
        let dropped = self.changes.insert(key, change);
        self.bytes -= dropped
            .as_ref()
            .map_or(0, |dropped| dropped.bytes() + dropped.id().len());
        u64::from(dropped.is_some())
    }

    /// The table was truncated: what came before is of no use. How many changes that were.
    pub(super) fn clear(&mut self, keep: Vec<String>) -> u64 {
        let dropped = self.changes.len() as u64;
        *self = Self {
            cleared: Some(keep),
            ..Self::default()
        };
        dropped
    }

    /// What is to be done once the cache can be changed: first of all, whether it is to be cleared,
    /// then each change.
    pub(super) fn take(&mut self) -> (Option<Vec<String>>, impl Iterator<Item = Change> + use<>) {
        let Self {
            cleared, changes, ..
        } = std::mem::take(self);
        (cleared, changes.into_values())
    }
}
