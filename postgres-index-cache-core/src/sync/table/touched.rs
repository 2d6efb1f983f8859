//! [`Touched`]: the keys that the transaction which is being followed has announced already.
//!
//! Row triggers can announce the changes of one row in another order than they were made. A second
//! announcement of a key in one transaction is the sign for that.

use crate::sync::change::Change;
use crate::sync::hashing::{AsIs, SeededState};
use std::collections::HashMap;

/// The last announcement of a key by a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    /// A delete of the key.
    Removed,
    /// An insert or update of a row with the key.
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
    keys: HashMap<u64, Touch, AsIs>,
    hashing: SeededState,
}

impl Touched {
    /// Returns a set of keys that is empty.
    pub(super) fn new(hashing: SeededState) -> Self {
        Self {
            xid: None,
            keys: HashMap::default(),
            hashing,
        }
    }

    /// Goes on to a change of transaction `xid`, and forgets the keys of any other transaction.
    pub(super) fn begin(&mut self, xid: Option<u64>) {
        // A change without an xid is taken for a transaction of its own. The other way round, two
        // ordinary changes of one key would make the row be refetched each time.
        if xid.is_none() || xid != self.xid {
            self.forget_keys();
            self.xid = xid;
        }
    }

    /// Notes the announcement of a change's key. Returns the transaction's last announcement of
    /// that key; `None` if there was none.
    pub(super) fn insert(&mut self, change: &Change, touch: Touch) -> Option<Touch> {
        self.keys.insert(change.key_hash(&self.hashing), touch)
    }

    /// Forgets the keys but not the transaction, as after a TRUNCATE, which removes every row that
    /// the transaction stored.
    pub(super) fn forget_keys(&mut self) {
        /// The most entries of a map that is cleared. Clearing takes time in proportion to the
        /// capacity, so a larger map is dropped.
        const LARGE: usize = 1024;
        if self.keys.capacity() > LARGE {
            self.keys = HashMap::default();
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
        // The table of a `HashMap` has one control byte for each entry.
        self.keys.capacity() * (size_of::<(u64, Touch)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Payload;

    fn change(id: u32) -> Change {
        let payload = format!(r#"{{"table":"users","action":"delete","id":{id},"xid":"7"}}"#);
        let parsed = Payload::parse(&payload).expect("a payload");
        Change::new(&payload, &parsed, 1)
    }

    #[test]
    fn keys_are_those_of_one_transaction() {
        let mut touched = Touched::new(SeededState::new(0));
        touched.begin(Some(7));
        assert_eq!(touched.insert(&change(1), Touch::Stored), None);
        touched.begin(Some(7));
        let before = touched.insert(&change(1), Touch::Removed);
        assert_eq!(before, Some(Touch::Stored));
        touched.begin(Some(8));
        assert_eq!(touched.insert(&change(1), Touch::Stored), None);
        touched.begin(None);
        touched.insert(&change(1), Touch::Stored);
        touched.begin(None);
        let before = touched.insert(&change(1), Touch::Stored);
        assert_eq!(before, None, "nobody knows whether it is one transaction");
    }

    #[test]
    fn a_truncate_forgets_keys_and_their_bytes_if_they_were_many() {
        let mut touched = Touched::new(SeededState::new(0));
        touched.begin(Some(7));
        for id in 0..5000 {
            touched.insert(&change(id), Touch::Stored);
        }
        assert!(touched.bytes() > 5000 * size_of::<u64>());
        touched.forget_keys();
        assert_eq!(touched.bytes(), 0);
        assert_eq!(touched.insert(&change(1), Touch::Removed), None);
    }
}
