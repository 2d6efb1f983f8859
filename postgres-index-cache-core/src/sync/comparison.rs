//! [`Comparison`]: a comparison of a cache with its table at one exact cut.
//!
//! ```text
//! Holding ─ snapshot S,  ─→ Settling ─ the changes   ─→ Comparing ─ all rows ─→ over
//!           then a fence               that S sees                   of S
//!                                      are applied
//!   changes are held          rows are refetched inside S   changes are kept by key
//! ```
//!
//! - Every change that had arrived before the comparison began was committed before S was taken.
//!   So S sees these changes.
//! - The fence was sent after S was taken. So every change that S sees has arrived before the
//!   fence.
//! - Changes that S does not see are held back.
//!
//! So at *Comparing* the cache is S, or a change was missed. The rules behind this are
//! [`Rule::Hold`](super::rules::Rule::Hold) and
//! [`Rule::ComparisonFence`](super::rules::Rule::ComparisonFence).

use super::change::Change;
use super::snapshot::Snapshot;

/// The numbers of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ComparisonId {
    /// The engine's number for the comparison.
    pub(super) comparison: u64,
    /// The caller's number for the question that the comparison answers.
    pub(super) question: u64,
}

/// How far a comparison is.
#[derive(Debug)]
pub(super) enum Comparison {
    /// Entered when Q is asked for the snapshot. Changes are held, in order.
    Holding {
        id: ComparisonId,
        /// The snapshot, once Q has taken it.
        snapshot: Option<Snapshot>,
        /// The token of the fence that was sent after the snapshot.
        token: Option<String>,
        held: Vec<Change>,
        /// How many bytes `held` takes.
        bytes: usize,
    },
    /// Entered when the fence has come back. The changes that the snapshot sees are applied. Rows
    /// that must be refetched for them are read inside the snapshot's transaction. The other
    /// changes are held.
    Settling {
        id: ComparisonId,
        held: Vec<Change>,
        /// How many bytes of `held` came since the fence.
        bytes: usize,
    },
    /// Entered when nothing is left to be refetched. The cache is compared, and not changed:
    /// changes wait in the table's backlog.
    Comparing { id: ComparisonId },
}

impl Comparison {
    /// Returns the numbers of the comparison.
    pub(super) fn id(&self) -> ComparisonId {
        match self {
            Self::Holding { id, .. } | Self::Settling { id, .. } | Self::Comparing { id } => *id,
        }
    }

    /// Returns the number of the question that the comparison answers.
    pub(super) fn question(&self) -> u64 {
        self.id().question
    }

    /// Returns whether `arrived` is the token of the fence that the comparison waits for.
    pub(super) fn waits_for(&self, arrived: &str) -> bool {
        matches!(self, Self::Holding { token: Some(token), .. } if token == arrived)
    }
}
