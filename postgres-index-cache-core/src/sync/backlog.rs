//! [`Backlog`]: the changes that come for a cache while it cannot be changed, by key.
//!
//! An application may hold a cache's lock for as long as it likes. The server's queue and this
//! memory must not grow with the changes that are written meanwhile. So only the last change of
//! each key is kept, and a TRUNCATE drops all changes before it.
//!
//! A change of a row that is to be refetched is not kept: the row that will be read has the change.
//! A change that came before the row was wanted stays in the backlog. A fence may have come in
//! between: such a fence does not wait for the row, and needs the change.

use super::change::{Change, Operation};
use super::hashing::SeededState;
use std::collections::HashMap;

/// The changes that wait for a cache.
#[derive(Debug)]
pub(super) struct Backlog {
    /// If the table was truncated: the keys whose rows are newer than the TRUNCATE.
    cleared: Option<Vec<String>>,
    /// The last change of each key since the TRUNCATE.
    changes: HashMap<String, Change, SeededState>,
    /// How many bytes `changes` takes.
    bytes: usize,
}

/// The contents of a backlog, in the order in which they are to be applied.
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

    /// Returns how many bytes the kept changes take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a change, and drops the earlier changes of its keys. Returns how many were dropped.
    pub(super) fn keep(&mut self, change: Change) -> u64 {
        // A key change is kept as two changes, since a later change may replace either half alone.
        // The driver applies all that a backlog gives out under one lock, so readers still see both
        // halves at once.
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

    /// Notes that the table was truncated, and drops the changes before that. `keep` are the keys
    /// whose rows are newer than the TRUNCATE. Returns how many changes were dropped.
    pub(super) fn clear(&mut self, keep: Vec<String>) -> u64 {
        let dropped = self.changes.len() as u64;
        self.changes.clear();
        self.bytes = 0;
        self.cleared = Some(keep);
        dropped
    }

    /// Takes everything out. The backlog is empty afterwards.
    pub(super) fn take(&mut self) -> Kept {
        let empty = Self::new(*self.changes.hasher());
        let full = std::mem::replace(self, empty);
        Kept {
            cleared: full.cleared,
            changes: full.changes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Payload;

    fn change(action: &str, id: u32, more: &str) -> Change {
        let payload = format!(
            r#"{{"table":"users","action":"{action}","id":{id},"schema":"app","xid":"7"{more}}}"#
        );
        let parsed = Payload::parse(&payload).expect("a payload");
        Change::new(&payload, &parsed, 1)
    }

    fn backlog() -> Backlog {
        Backlog::new(SeededState::new(0))
    }

    #[test]
    fn only_the_last_change_of_a_key_is_kept_and_counted_in_bytes() {
        let mut backlog = backlog();
        assert_eq!(backlog.keep(change("update", 1, r#","data":{"id":1}"#)), 0);
        let one = backlog.bytes();
        assert_eq!(backlog.keep(change("update", 1, r#","data":{"id":1}"#)), 1);
        assert_eq!(backlog.bytes(), one, "a row that is written over and over");
        assert_eq!(backlog.keep(change("delete", 1, "")), 1);
        let kept = backlog.take();
        assert!(kept.cleared.is_none());
        assert_eq!(kept.changes["1"].operation(), Operation::Remove);
        assert_eq!(backlog.bytes(), 0);
        assert!(backlog.take().changes.is_empty());
    }

    #[test]
    fn a_key_change_is_kept_as_an_end_of_the_old_key_and_a_row_of_the_new() {
        let mut backlog = backlog();
        let second = change("update", 2, r#","old_id":1,"data":{"id":2}"#);
        assert_eq!(backlog.keep(second.replace_key()), 0);
        // A later row takes the old key: the end of that key is of no use any more.
        assert_eq!(backlog.keep(change("insert", 1, r#","data":{"id":1}"#)), 1);
        let kept = backlog.take();
        assert_eq!(kept.changes["1"].operation(), Operation::Upsert);
        assert_eq!(kept.changes["2"].operation(), Operation::Upsert);
    }

    #[test]
    fn a_truncate_drops_the_changes_before_it_and_names_the_newer_rows() {
        let mut backlog = backlog();
        backlog.keep(change("delete", 1, ""));
        backlog.keep(change("delete", 2, ""));
        assert_eq!(backlog.clear(vec!["3".to_string()]), 2);
        assert_eq!(backlog.bytes(), 0);
        backlog.keep(change("delete", 4, ""));
        let kept = backlog.take();
        assert_eq!(kept.cleared, Some(vec!["3".to_string()]));
        assert_eq!(kept.changes.len(), 1);
    }
}
