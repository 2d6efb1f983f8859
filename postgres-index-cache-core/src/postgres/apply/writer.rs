//! [`CacheWriter`]: a cache behind its lock, and the operations that wait for the lock.
//!
//! ```text
//! bytes of Q, changes ─→ decode, check ─→ waiting operations ─ flush: the lock is held ─→ cache
//!                        (no lock)        (in order)           (all of them)
//! ```
//!
//! Rows are decoded and checked without the lock. [`flush`](CacheWriter::flush) takes the lock for
//! a moment, and again, until everything that waits is applied. Readers therefore wait neither for
//! the network nor for a parse, and see each operation whole. While a reader holds the lock for
//! longer, operations wait here, and the driver tells the engine, which keeps later changes by key.
//!
//! [`CacheWriter`] is a trait in order to hide the type of the rows. [`SinkWriter`] is the one
//! implementation.

use super::digests::DigestSource;
use super::finding::ComparisonReport;
use super::history::Came;
use super::sink::RowEvent;
use crate::digest::RangeSum;
#[cfg(feature = "nats")]
use crate::log::{JsonRow, RowOp};
use crate::postgres::error::ReadError;
use crate::sync::Change;
use crate::table_cache::{KeyBuf, RowError, StoreError};
use bytes::Bytes;
use std::time::Duration;

/// The purpose of the rows that Q brings next.
#[derive(Debug, Default)]
pub(crate) enum Incoming {
    /// All rows of a snapshot, to be merged into the cache. At the end, the rows of the cache that
    /// did not come are removed.
    #[default]
    Snapshot,
    /// The rows with these keys, which are JSON. They are kept until
    /// [`store_refetched`](CacheWriter::store_refetched).
    Refetch(Vec<String>),
    /// All rows of a snapshot, to be compared with the cache.
    Comparison,
}

/// The reason why a change, or a refetched row, cannot be stored. The table must be reloaded then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The key or the row does not have the table's shape, or the stream is not one of COPY.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The change stores a row, and the notification has none.
    #[error("the row was not sent")]
    NoRow,
}

impl From<RowError> for ApplyError {
    fn from(error: RowError) -> Self {
        Self::Read(error.into())
    }
}

/// The reason why an operation failed while the lock was held.
#[derive(Debug)]
pub(crate) struct FlushError {
    /// Whether the operation stored a row of a snapshot. If so, the snapshot cannot be used.
    pub(crate) is_of_snapshot: bool,
    pub(crate) error: StoreError,
}

impl FlushError {
    /// Makes the error of a row that a snapshot brought.
    pub(super) fn of_snapshot(error: StoreError) -> Self {
        Self {
            is_of_snapshot: true,
            error,
        }
    }

    /// Makes the error of a row that a change or a refetch brought.
    pub(super) fn of_change(error: StoreError) -> Self {
        Self {
            is_of_snapshot: false,
            error,
        }
    }
}

/// The outcome of [`flush`](CacheWriter::flush).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything that waited was applied, and nothing waits any more.
    Done,
    /// A reader holds the lock. What was not applied yet still waits.
    Locked,
}

/// A decoder of the rows of one COPY stream, which works on a thread of its own. It hands the rows to the
/// writer that made it.
pub(crate) trait AheadDecoder: Send {
    /// Takes pieces of the stream, and hands the rows that are complete to the writer, which takes
    /// them at the next [`take_decoded`](CacheWriter::take_decoded).
    ///
    /// # Errors
    /// If a row does not have the table's shape, or the stream is not one of COPY.
    fn decode(&mut self, pieces: &[Bytes]) -> Result<(), ReadError>;

    /// Checks that the stream, which has ended, is complete.
    ///
    /// # Errors
    /// If the COPY stream has no end.
    fn finish(&self) -> Result<(), ReadError>;

    /// Returns a decoder of another stream of the same read.
    fn another(&self) -> Box<dyn AheadDecoder>;
}

/// The writer of a cache that stands behind a lock.
pub(crate) trait CacheWriter: Send {
    /// Tells the writer the purpose of the rows that come next.
    fn expect(&mut self, incoming: Incoming);

    /// Notes that the snapshot of those rows was taken, and that about `expected` rows will come.
    fn begin(&mut self, expected: usize);

    /// Takes pieces of a COPY stream, which has this number.
    ///
    /// # Errors
    /// If a row does not have the table's shape, or the stream is not one of COPY.
    fn load(&mut self, stream: usize, pieces: Vec<Bytes>) -> Result<(), ReadError>;

    /// Returns a decoder for the rows that come next, which takes the pieces in place of
    /// [`load`](Self::load). Returns `None` if that would save no time, or if the rows may turn out
    /// not to be wanted.
    fn decode_ahead(&mut self) -> Option<Box<dyn AheadDecoder>>;

    /// Takes the next batch of rows that a decoder ahead has made, of `bytes` further bytes of a
    /// COPY stream.
    fn take_decoded(&mut self, bytes: usize);

    /// Wants no more of the rows that decoders ahead make: they end at their next batches.
    fn give_up_decoding(&mut self);

    /// Returns the number of bytes of COPY streams that have come.
    fn copied(&self) -> usize;

    /// Notes that all rows have come, by so many COPY streams. Those that decoders ahead have made
    /// are taken.
    ///
    /// # Errors
    /// If a COPY stream has no end.
    fn finish(&mut self, streams: usize) -> Result<(), ReadError>;

    /// Makes the refetched rows wait for the lock. Of a key that was asked for and did not come,
    /// the row is removed.
    ///
    /// # Errors
    /// If a row cannot be stored. Nothing waits then, and the table must be reloaded.
    fn store_refetched(&mut self) -> Result<(), ApplyError>;

    /// From now on applies all that waits under one hold of the lock: no reader sees a part of a
    /// log's entry.
    #[cfg(feature = "nats")]
    fn all_together(&mut self);

    /// Makes a change that a log brings wait for the lock.
    ///
    /// # Errors
    /// If the change cannot be stored. The cache is not the log's image then.
    #[cfg(feature = "nats")]
    fn row_op(&mut self, op: &RowOp) -> Result<(), ApplyError>;

    /// Makes a row of a log's snapshot wait for the lock, between [`begin`](Self::begin) and
    /// [`end_load`](Self::end_load).
    ///
    /// # Errors
    /// If the row does not have the table's shape.
    #[cfg(feature = "nats")]
    fn load_row(&mut self, id: &str, row: &JsonRow) -> Result<(), ApplyError>;

    /// Notes that all rows of a log's snapshot have come.
    #[cfg(feature = "nats")]
    fn end_load(&mut self);

    /// Returns the sum of the digests of the rows that the cache has, as of the last flush. The
    /// first call, and the first one after a load, looks at each row.
    fn sum(&mut self) -> RangeSum;

    /// Returns whether the last snapshot brought other rows than the cache had, as far as the
    /// snapshot's rows have been applied.
    fn has_changed(&self) -> bool;

    /// Makes a change wait for the lock.
    ///
    /// # Errors
    /// If the change cannot be stored. The table must be reloaded then.
    fn change(&mut self, change: &Change) -> Result<(), ApplyError>;

    /// Makes the removal of all rows wait for the lock, except the rows with the keys `keep`.
    ///
    /// # Errors
    /// If a key is not one of the table. The table must be reloaded then.
    fn clear(&mut self, keep: &[String]) -> Result<(), ApplyError>;

    /// Takes the report of a comparison, once every row of the table has come. Returns `None` if
    /// there was no comparison.
    fn take_comparison(&mut self) -> Option<ComparisonReport>;

    /// Applies everything that waits, unless a reader holds the lock for longer than `patience`.
    ///
    /// # Errors
    /// If an operation fails, with the error of the first one that did. The operations behind it
    /// were applied all the same.
    fn flush(&mut self, patience: Duration) -> Result<Flushed, FlushError>;

    /// Returns whether an operation waits for the lock.
    fn is_waiting(&self) -> bool;

    /// Returns the number of rows that the cache had at the last flush.
    fn rows(&self) -> usize;

    /// Returns the number of rows that did not fit the application's model at the last flush, and
    /// the first of these rows with the reason. Returns `None` if every row did fit.
    fn kept_out(&self) -> Option<&(usize, String)>;

    /// Returns the bytes that the cache takes. If the lock is not free, returns the bytes that the
    /// cache took when it last was.
    fn memory_bytes(&mut self) -> usize;

    /// Returns the rows of the cache as digests.
    fn digests(&self) -> Box<dyn DigestSource>;

    /// Remembers from now on how rows come into the cache.
    fn keep_history(&mut self);

    /// Returns how the row with this key came into the cache; `None` if that is not remembered.
    fn last_of(&self, key: &KeyBuf) -> Option<Came>;

    /// Records the changes of rows from now on.
    fn record_events(&mut self);

    /// Takes the changes of rows that were recorded.
    fn take_row_events(&mut self) -> Vec<RowEvent>;
}
