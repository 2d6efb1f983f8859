//! [`Backlog`]: what comes for a cache while it cannot be changed, by key.
//!
//! An application may hold a cache's lock for as long as it likes; the server's queue and this
//! memory must not grow with what is written meanwhile. So of each key the last change alone is
//! kept, and a TRUNCATE drops all that came before it. What follows for a row that is to be read
//! again is not kept: it is in the row that will be read. What came before is, since a fence may
//! have come in between.

use super::change::{Change, Operation};
use super::hashing::SeededState;
use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct Backlog {
    /// That the table was truncated, and the keys whose rows are newer.
    cleared: Option<Vec<String>>,
    changes: HashMap<String, Change, SeededState>,
    bytes: usize,
}

/// What a backlog has kept, in the order in which it is to be done.
#[derive(Debug)]
pub(super) struct Kept {
    /// If the table was truncated: the keys whose rows are newer. All others are removed first.
    pub(super) cleared: Option<Vec<String>>,
    /// The last change of each key.
    pub(super) changes: HashMap<String, Change, SeededState>,
}

impl Backlog {
    /// Returns an empty backlog.
    pub(super) fn new(hashing: SeededState) -> Self {
        Self {
            cleared: None,
            changes: HashMap::with_hasher(hashing),
            bytes: 0,
        }
    }

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

    /// Notes that the table was truncated, so that the changes before are of no use. `keep` are the
    /// keys whose rows are newer. Returns how many changes were dropped.
    pub(super) fn clear(&mut self, keep: Vec<String>) -> u64 {
        let dropped = self.changes.len() as u64;
        self.changes.clear();
        self.bytes = 0;
        self.cleared = Some(keep);
        dropped
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Kept {
        let empty = Self::new(*self.changes.hasher());
        let full = std::mem::replace(self, empty);
        Kept {
            cleared: full.cleared,
            changes: full.changes,
        }
    }
}
