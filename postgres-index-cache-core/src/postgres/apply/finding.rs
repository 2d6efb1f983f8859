//! [`ComparisonReport`]: the differences that a comparison of a cache with its table has found.

use crate::table_cache::KeyBuf;
use std::collections::HashSet;

/// How a row of a cache differs from its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// The table has the row, the cache has not.
    Missing,
    /// Both have the row, with different values.
    Stale,
    /// The cache has the row, the table has not.
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
    /// How the row differs.
    pub kind: FindingKind,
    /// The key, as JSON: a scalar, or an array in key order.
    pub key: String,
    /// The key, as the cells of a cache.
    #[doc(hidden)]
    pub key_cells: KeyBuf,
    /// The columns that differ, if the row is stale and the cache keeps columns. A cache of an
    /// application's own type keeps none.
    pub columns: Vec<DifferingColumn>,
}

/// The differences between a cache and its table at one exact cut.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComparisonReport {
    /// How many rows the table has.
    pub rows: usize,
    /// How many rows the table has and the cache has not.
    pub missing: usize,
    /// How many rows both have, with different values.
    pub stale: usize,
    /// How many rows the cache has and the table has not.
    pub ghosts: usize,
    /// How many rows of the table are rightly kept out of the cache: they do not fit the
    /// application's model.
    pub kept_out: usize,
    /// The rows that differ, at most [`ComparisonReport::FINDINGS`].
    pub findings: Vec<Finding>,
    /// The keys of the rows that are rightly kept out. A row that the cache keeps out beside these is
    /// a ghost.
    pub(super) out: HashSet<KeyBuf>,
}

impl ComparisonReport {
    /// The most findings that are kept.
    pub const FINDINGS: usize = 10_000;

    /// Returns how many rows differ.
    pub fn differing(&self) -> usize {
        self.missing + self.stale + self.ghosts
    }

    /// Counts a row that differs. `finding` describes it, and is called only if there is room.
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
