//! [`SnapshotPlace`]: the part of a log that a snapshot of the rows stands for.
//!
//! ```text
//! log   ──┬──────────── entries go on ─────────────┬──→
//!       start      rows are read bit by bit       end
//! ```
//!
//! Rows are read while entries go on, so a snapshot has rows of different positions. Each operation
//! has the whole row, so the rows are exact for whoever loads them and reads from `start` up to
//! `end`.

use super::position::Place;
use serde::{Deserialize, Serialize};

/// Where the reading of a snapshot's rows began and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPlace {
    /// The last entry that was stored when the first row was read.
    pub start: Place,
    /// An entry that was written when the last row was read, or later.
    pub end: Place,
}

impl SnapshotPlace {
    /// Returns whether both ends stand in the log, as `stands` tells.
    ///
    /// If the log has lost the end, the snapshot has rows of entries that are in no log any more.
    pub fn is_usable(&self, stands: impl Fn(Place) -> bool) -> bool {
        stands(self.start) && stands(self.end)
    }
}
