//! [`ComparisonReport`]: the differences that a comparison of a cache with its table has found.

use crate::table_cache::KeyBuf;
use std::collections::HashSet;

/// The way in which a cache and its table differ in one row.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The table has the row, and the cache does not.
    Missing,
    /// Both have the row, with different values.
    Stale,
    /// The cache has the row, and the table does not.
    Ghost,
}

/// A column of a stale row, with both values as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DifferingColumn {
    /// The column's name.
    pub column: String,
    /// The value in the cache.
    pub cache: String,
    /// The value in the table.
    pub table: String,
}

/// A row that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The way in which the row differs.
    pub kind: FindingKind,
    /// The key, as JSON: one value, or for a composite key an array in key order.
    pub key: String,
    /// The key, as the cells of a cache.
    #[doc(hidden)]
    pub key_cells: KeyBuf,
    /// The columns that differ. Empty unless the row is stale and the cache keeps columns. A cache
    /// of an application's own type keeps none.
    pub columns: Vec<DifferingColumn>,
}

/// The differences between a cache and its table at one exact cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComparisonReport {
    /// The number of rows of the table.
    pub rows: usize,
    /// The number of rows that the table has and the cache does not.
    pub missing: usize,
    /// The number of rows that both have, with different values.
    pub stale: usize,
    /// The number of rows that the cache has and the table does not.
    pub ghosts: usize,
    /// The number of rows of the table that are rightly kept out of the cache, since they do not
    /// fit the application's model.
    pub kept_out: usize,
    /// The rows that differ, at most [`ComparisonReport::FINDINGS`].
    pub findings: Vec<Finding>,
    /// The keys of the rows of the table that the cache knows as kept out. Another row that the
    /// cache knows as kept out is a ghost: the table does not have that row.
    pub(super) out: HashSet<KeyBuf>,
}

impl ComparisonReport {
    /// The most findings that are kept.
    pub const FINDINGS: usize = 10_000;

    /// Returns the number of rows that differ.
    pub fn differing(&self) -> usize {
        self.missing + self.stale + self.ghosts
    }

    /// Counts a row that differs. `finding` describes the row, and is called only if fewer than
    /// [`FINDINGS`](Self::FINDINGS) rows were described.
    pub(super) fn find(&mut self, kind: FindingKind, finding: impl FnOnce(FindingKind) -> Finding) {
        let count = match kind {
            FindingKind::Missing => &mut self.missing,
            FindingKind::Stale => &mut self.stale,
            FindingKind::Ghost => &mut self.ghosts,
        };
        *count += 1;
        if self.findings.len() < Self::FINDINGS {
            self.findings.push(finding(kind));
        }
    }
}
