//! [`ReadRequest`]: a read that the driver asks of a session, Q or another. [`ReadMessage`] and
//! [`ReadFailed`]: the messages that the read sends back.

use crate::postgres::error::DriverError;
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::sync::{Snapshot, TableId};
use bytes::Bytes;

/// A read that the driver asks of a session. Each message of the read carries the request. The
/// driver ignores messages with another request than the current one: their connection is gone, or
/// their read was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct ReadRequest {
    /// The number of the session's opening.
    pub(in crate::postgres) epoch: u64,
    /// The table that is read.
    pub(in crate::postgres) table: TableId,
    /// The engine's number of the read: a generation, the batch of a refetch, or a comparison.
    pub(in crate::postgres) work: u64,
    pub(in crate::postgres) kind: ReadKind,
}

/// The kind of a read: which rows are copied, and in which transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum ReadKind {
    /// Copies all rows, in a transaction of its own.
    All,
    /// Copies the rows of some keys, in a transaction of its own.
    Rows,
    /// Begins the transaction of a comparison and takes the snapshot. The transaction stays open.
    Cut,
    /// Copies the rows of some keys, inside the transaction of a comparison.
    RowsOfCut,
    /// Copies all rows, to be compared, inside the transaction of a comparison, and ends that
    /// transaction.
    Compare,
}

impl ReadKind {
    /// Returns whether the read copies the rows of some keys.
    pub(in crate::postgres) fn is_refetch(self) -> bool {
        matches!(self, Self::Rows | Self::RowsOfCut)
    }
}

/// A message of a read that goes well. These messages have a bounded channel of their own. While
/// the table's cache is locked, the driver takes none of them: then the session waits, and nothing
/// else does.
pub(in crate::postgres) enum ReadMessage {
    /// The snapshot is taken, and the table has this fingerprint under it.
    Snapshot {
        asked: ReadRequest,
        snapshot: Snapshot,
        fingerprint: Box<Fingerprint>,
    },
    /// Pieces of a COPY stream.
    Rows {
        asked: ReadRequest,
        /// The number of the stream, from 0: parts of a large table come by streams of their own.
        stream: usize,
        pieces: Vec<Bytes>,
    },
    /// The cache's own decoder has made rows of so many bytes of the COPY stream, on another
    /// thread.
    Decoded { asked: ReadRequest, bytes: usize },
    /// All rows were sent, by so many COPY streams. The transaction is ended, unless the read is of
    /// a kind that leaves it open.
    All { asked: ReadRequest, streams: usize },
}

impl ReadMessage {
    /// Returns the request of the read that sent the message.
    pub(in crate::postgres) fn asked(&self) -> ReadRequest {
        match self {
            Self::Snapshot { asked, .. }
            | Self::Rows { asked, .. }
            | Self::Decoded { asked, .. }
            | Self::All { asked, .. } => *asked,
        }
    }
}

/// The message that a read has failed. Failures have another channel than [`ReadMessage`]s, so that
/// the driver learns of a failure while the cache is locked.
pub(in crate::postgres) struct ReadFailed {
    pub(in crate::postgres) asked: ReadRequest,
    pub(in crate::postgres) error: DriverError,
}
