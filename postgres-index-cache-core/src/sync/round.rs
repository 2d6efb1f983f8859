//! [`Round`]: a comparison of a cache with its table at one exact cut.
//!
//! ```text
//! Holding ─ snapshot S, then a fence ─→ Settling ─ what S sees is done ─→ Comparing ─ every row of S was compared ─→ over
//!   what comes is held                    rows are read again inside S      what comes is kept by key
//! ```
//!
//! What had arrived before the round began was committed before S was taken, so S sees it; the fence was sent after S, so
//! all that S sees has arrived before it. What S does not see is held back. So at *Comparing* the cache is S, or something
//! was missed.

use super::change::Change;
use super::snapshot::Snapshot;

#[derive(Debug)]
pub(super) enum Round {
    /// Entered when Q is asked for the snapshot. Changes are held in order.
    Holding { round: u64, snapshot: Option<Snapshot>, token: Option<String>, held: Vec<Change>, bytes: usize },
    /// Entered when the fence has come. What the snapshot sees is done; rows that are to be read again for that are read
    /// inside its transaction; the rest is held.
    Settling { round: u64, held: Vec<Change>, bytes: usize },
    /// Entered when nothing is left to be read. The cache is compared, and not changed.
    Comparing { round: u64 },
}

impl Round {
    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Holding { round, .. } | Self::Settling { round, .. } | Self::Comparing { round } => *round,
        }
    }

    /// Whether this is the token of the fence that it waits for.
    pub(super) fn waits_for(&self, arrived: &str) -> bool {
        matches!(self, Self::Holding { token: Some(token), .. } if token == arrived)
    }
}
