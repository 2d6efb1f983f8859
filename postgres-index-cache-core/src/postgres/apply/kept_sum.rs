//! [`KeptSum`]: the sum of the digests of a cache's rows, kept in step with each change.
//!
//! A relay publishes the sum, and each node compares its own. Rows that do not fit a node's model
//! are rows of the table all the same, and count. To add up all rows takes a second for
//! a million of them, so the sum is corrected by the rows that change.

use super::sink::CacheSink;
use crate::digest::{Digest, RangeSum, RowDigester, key_digest, salted};
use crate::table_cache::{KeyBuf, TableShape};

/// The sum of the digests of a cache's rows.
#[derive(Debug)]
pub(super) struct KeptSum {
    digester: RowDigester,
    /// The sum; `None` if it is to be computed from all rows.
    sum: Option<RangeSum>,
}

impl KeptSum {
    pub(super) fn new(shape: &TableShape) -> Self {
        Self {
            digester: RowDigester::new(shape),
            sum: None,
        }
    }

    /// Takes the rows with these keys away, before they change. `None` stands for all rows.
    pub(super) fn before<C: CacheSink>(&mut self, cache: &C, keys: Option<&[KeyBuf]>) {
        let (Some(sum), Some(keys)) = (&mut self.sum, keys) else {
            self.sum = None;
            return;
        };
        for key in keys {
            if let Some(row) = digest_of(cache, &mut self.digester, key) {
                sum.remove(entry(key_digest(key), row));
            }
        }
    }

    /// Adds the rows with these keys, after they have changed.
    pub(super) fn after<C: CacheSink>(&mut self, cache: &C, keys: Option<&[KeyBuf]>) {
        let (Some(sum), Some(keys)) = (&mut self.sum, keys) else {
            return;
        };
        for key in keys {
            if let Some(row) = digest_of(cache, &mut self.digester, key) {
                sum.add(entry(key_digest(key), row));
            }
        }
    }

    /// Returns the sum of all rows.
    pub(super) fn of<C: CacheSink>(&mut self, cache: &C) -> RangeSum {
        let digester = &mut self.digester;
        *self.sum.get_or_insert_with(|| {
            let mut sum = RangeSum::default();
            let mut add = |key, row| sum.add(entry(key, row));
            cache.visit_digests(digester, 0, usize::MAX, &mut add);
            cache.visit_kept_out(&mut add);
            sum
        })
    }
}

/// Returns the digest of the row with this key, whether the row fits a model or is kept out.
fn digest_of<C: CacheSink>(cache: &C, digester: &mut RowDigester, key: &KeyBuf) -> Option<Digest> {
    cache
        .row_digest(digester, key)
        .or_else(|| cache.kept_out_digest(key))
}

/// Returns the part of the sum that stands for one row. The log shows all rows to whoever reads the
/// sums, so a salt would hide nothing.
fn entry(key: Digest, row: Digest) -> Digest {
    salted(Digest::default(), key, row)
}
