//! [`Truncates`]: the TRUNCATEs that were announced, and whether looks have seen them.
//!
//! Any role can announce a TRUNCATE. A genuine one gives the table new files, which the next look
//! must find. Until then the table is not live.

/// The announced TRUNCATEs of a table.
#[derive(Debug, Default)]
pub(super) struct Truncates {
    /// The transaction of the last TRUNCATE.
    last: Option<u64>,
    /// The server's process that announced the last TRUNCATE.
    sender: Option<i32>,
    /// The first look that began after rows were removed for the last TRUNCATE that was not seen;
    /// `None` if all have been seen.
    unseen_since: Option<u64>,
    /// How many times rows were removed since a look has seen other files.
    unseen: u32,
    /// The transaction whose TRUNCATE was the last change that arrived, if one was.
    just_before: Option<u64>,
}

impl Truncates {
    /// Notes a TRUNCATE that was announced.
    pub(super) fn announced(&mut self, xid: Option<u64>, sender: i32) {
        self.last = xid;
        self.sender = Some(sender);
    }

    /// Returns the transaction of the last TRUNCATE that was announced.
    pub(super) fn last(&self) -> Option<u64> {
        self.last
    }

    /// Notes that the change which is followed now is a TRUNCATE of this transaction.
    pub(super) fn set_just_before(&mut self, xid: Option<u64>) {
        self.just_before = xid;
    }

    /// Returns the transaction whose TRUNCATE was the last change that arrived, and forgets it.
    pub(super) fn take_just_before(&mut self) -> Option<u64> {
        self.just_before.take()
    }

    /// Notes that rows were removed. Looks from number `look` on begin later.
    pub(super) fn cleared(&mut self, look: u64) {
        self.unseen_since = Some(look);
        self.unseen += 1;
    }

    /// Returns whether rows were removed for a TRUNCATE that no look has seen.
    pub(super) fn is_unseen(&self) -> bool {
        self.unseen_since.is_some()
    }

    /// Returns whether the look with this number began after rows were removed for every TRUNCATE
    /// that was not seen.
    pub(super) fn must_be_seen_by(&self, look: u64) -> bool {
        self.unseen_since.is_some_and(|first| first <= look)
    }

    /// Notes that a look has found other files (`has_happened`), or the old ones. Returns the
    /// sender of the last TRUNCATE.
    pub(super) fn seen(&mut self, has_happened: bool) -> Option<i32> {
        // New files are the work of one TRUNCATE: if several were announced, the others must be
        // seen too.
        self.unseen = if has_happened {
            self.unseen.saturating_sub(1)
        } else {
            0
        };
        if self.unseen == 0 {
            self.unseen_since = None;
        }
        self.sender
    }

    /// Forgets the TRUNCATEs that have not been seen. A read that is asked for from now on sees
    /// their effect.
    pub(super) fn forget_unseen(&mut self) {
        self.just_before = None;
        self.unseen_since = None;
        self.unseen = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_truncate_that_was_announced_must_be_seen() {
        let mut truncates = Truncates::default();
        truncates.announced(Some(7), 42);
        truncates.cleared(3);
        truncates.announced(Some(8), 42);
        truncates.cleared(5);
        assert!(!truncates.must_be_seen_by(4) && truncates.must_be_seen_by(5));
        assert_eq!(truncates.seen(true), Some(42));
        assert!(truncates.is_unseen(), "one of two was seen");
        truncates.seen(true);
        assert!(!truncates.is_unseen());
        assert_eq!(truncates.last(), Some(8));
    }
}
