//! What Q is asked for, and the messages that a read sends to the driver.

use crate::postgres::error::DriverError;
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::sync::{Snapshot, TableId};
use bytes::Bytes;

/// A read that Q is asked for. A message of any other read is of a connection that is gone, or of a
/// read that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct ReadRequest {
    /// The number of Q's opening.
    pub(in crate::postgres) epoch: u64,
    pub(in crate::postgres) table: TableId,
    /// The engine's number: the generation of a read, the batch of a refetch, or the comparison.
    pub(in crate::postgres) work: u64,
    pub(in crate::postgres) kind: ReadKind,
}

/// What a read does, and in which transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum ReadKind {
    /// Copies all rows, in a transaction of its own.
    All,
    /// Copies the rows of some keys, in a transaction of its own.
    Rows,
    /// Begins the transaction of a comparison and takes its snapshot; the transaction stays open.
    Cut,
    /// Copies the rows of some keys, inside that transaction.
    RowsOfCut,
    /// Copies all rows inside that transaction, to be compared, and ends it.
    Compare,
}

impl ReadKind {
    pub(in crate::postgres) fn is_refetch(self) -> bool {
        matches!(self, Self::Rows | Self::RowsOfCut)
    }
}

/// What a read brings. These messages have a bounded channel of their own, which the driver does not
/// look at while the table's cache is locked: then Q waits, and nothing else does.
pub(in crate::postgres) enum ReadMessage {
    /// The snapshot is taken, and the table has this fingerprint under it.
    Snapshot {
        asked: ReadRequest,
        snapshot: Snapshot,
        fingerprint: Box<Fingerprint>,
    },
    /// Pieces of the COPY stream.
    Rows {
        asked: ReadRequest,
        pieces: Vec<Bytes>,
    },
    /// Everything was sent, and the transaction is ended if it should be.
    All { asked: ReadRequest },
}

impl ReadMessage {
    /// Returns the read that the message is of.
    pub(in crate::postgres) fn asked(&self) -> ReadRequest {
        match self {
            Self::Snapshot { asked, .. } | Self::Rows { asked, .. } | Self::All { asked } => *asked,
        }
    }
}

/// The failure of a read. It has another channel than the [`ReadMessage`]s, so that the driver hears
/// of it while the cache is locked.
pub(in crate::postgres) struct ReadFailed {
    pub(in crate::postgres) asked: ReadRequest,
    pub(in crate::postgres) error: DriverError,
}
