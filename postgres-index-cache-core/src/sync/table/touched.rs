//! [`Touched`]: which keys the transaction that is being followed has announced already.

use crate::sync::change::Change;
use crate::sync::hashing::SeededState;
use std::collections::HashMap;

/// How a transaction left a key with its last announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    Removed,
    Stored,
}

/// The keys that the last transaction has announced, each with its last announcement.
///
/// PostgreSQL delivers the notifications of a transaction together, so one transaction is followed
/// at a time.
#[derive(Debug)]
pub(super) struct Touched {
    xid: Option<u64>,
    /// By the hash of the key. Two keys of one hash would be refetched once too often, no more.
    keys: HashMap<u64, Touch, SeededState>,
    hashing: SeededState,
}

impl Touched {
    pub(super) fn new(hashing: SeededState) -> Self {
        Self {
            xid: None,
            keys: HashMap::with_hasher(hashing),
            hashing,
        }
    }

    /// Begins with a change of transaction `xid`, which forgets the keys of another one. Changes
    /// without an xid are each taken for a transaction of its own.
    pub(super) fn begin(&mut self, xid: Option<u64>) {
        if xid.is_none() || xid != self.xid {
            self.forget_keys();
            self.xid = xid;
        }
    }

    /// Notes what a change does to its key. Returns what the transaction did to the key before.
    pub(super) fn insert(&mut self, change: &Change, touch: Touch) -> Option<Touch> {
        self.keys.insert(change.key_hash(&self.hashing), touch)
    }

    /// Forgets the keys, and goes on with the transaction: a TRUNCATE removes all that it stored.
    pub(super) fn forget_keys(&mut self) {
        /// A large map is let go: to clear it takes time in proportion to the most that it held.
        const LARGE: usize = 1024;
        if self.keys.capacity() > LARGE {
            self.keys = HashMap::with_hasher(self.hashing);
        } else {
            self.keys.clear();
        }
    }

    /// Forgets the transaction.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.hashing);
    }

    /// Returns how many bytes the keys take.
    pub(super) fn bytes(&self) -> usize {
        // A byte of control for each entry.
        self.keys.capacity() * (size_of::<(u64, Touch)>() + 1)
    }
}
