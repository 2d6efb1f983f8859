//! [`CacheSink`]: the operations that a cache must offer in order to be kept in step, and
//! [`RowDecoder`]: how its rows are made of bytes.
//!
//! The two are apart because rows are decoded without the cache's lock, and stored under it.
//! [`TableCache`](crate::tooling::TableCache) (in [`cells`](super::cells)) and
//! [`ModelCache`](super::models::ModelCache) implement them.

use super::finding::ComparisonReport;
use crate::postgres::error::ReadError;
use crate::table_cache::{JsonNulls, KeyBuf, RowBuf, SeenRows, StoreError, TableShape, Upserted};
use std::sync::Arc;
use uuid::Uuid;

/// How a row of a [`TableCache`](crate::tooling::TableCache) has changed.
#[derive(Debug, Clone)]
pub enum RowChange {
    /// The row is new.
    Added(RowBuf),
    /// The row has other values.
    Changed {
        /// The row before.
        old: RowBuf,
        /// The row now.
        new: RowBuf,
    },
    /// The row is gone.
    Removed(RowBuf),
}

/// How a row of an application's own type has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChangeKind {
    /// The row is new.
    Added,
    /// The row has other values.
    Changed,
    /// The row is gone.
    Removed,
}

/// A change of one row, of a cache of either kind. Senders are the server's processes whose
/// notifications brought the rows; `None` for a row that was read.
#[derive(Debug)]
pub(in crate::postgres) enum RowEvent {
    /// A row of cells has changed.
    Row {
        change: RowChange,
        sender: Option<i32>,
    },
    /// A row of an application's own type has changed.
    Model { key: Uuid, change: RowChangeKind },
    /// A row does not fit the application's model, and is kept out.
    Misfit {
        key: Uuid,
        why: Arc<str>,
        sender: Option<i32>,
    },
}

/// A row that was decoded.
pub(in crate::postgres) enum Decoded<R> {
    /// The row, as the cache takes it.
    Row(R),
    /// The row does not fit the application's model and is to be kept out.
    Misfit { key: KeyBuf, why: Arc<str> },
}

/// How a row is put into a cache.
pub(in crate::postgres) enum WriteMode<'a> {
    /// The row must be new.
    Insert,
    /// The row is one of a snapshot, which brings each key once, and is marked as seen.
    Merge(&'a mut SeenRows),
    /// The row takes the place of the one with its key, if there is one.
    Upsert,
}

/// A cache that is kept in step.
pub(in crate::postgres) trait CacheSink: Send + Sync + 'static {
    /// A row as the cache takes it.
    type Row: Send;
    /// How rows are made.
    type Decoder: RowDecoder<Row = Self::Row>;

    /// Returns how many rows the cache has.
    fn len(&self) -> usize;

    /// Returns whether the cache has no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many bytes the cache takes.
    fn memory_bytes(&self) -> usize;

    /// Makes an empty cache anew, with room for so many rows.
    fn make_room(&mut self, expected: usize);

    /// Notes that a snapshot of all rows begins.
    fn begin_load(&mut self) {}

    /// Notes that all rows of the snapshot have been put in.
    fn end_load(&mut self) {}

    /// Stores `row`, and records the change in `events`. The implementation may move data out of
    /// `row`; afterwards it may only be passed to [`recycle`](RowDecoder::recycle).
    fn put(
        &mut self,
        row: &mut Self::Row,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError>;

    /// Removes the row of a key, if there is one.
    fn remove(&mut self, key: &KeyBuf, events: Option<&mut Vec<RowEvent>>);

    /// Keeps the row of a key out: it does not fit. The row that the cache has goes. A cache that
    /// takes every row has none to keep out.
    fn keep_out(&mut self, _key: &KeyBuf, _why: Arc<str>, _events: Option<&mut Vec<RowEvent>>) {}

    /// Forgets the rows that were kept out, except those of these keys.
    fn retain_out(&mut self, _keys: &[KeyBuf]) {}

    /// Returns how many rows are kept out, and the first of them with the reason.
    fn kept_out(&self) -> Option<(usize, String)> {
        None
    }

    /// Marks the row of a key, so that [`sweep`](Self::sweep) leaves it.
    fn mark(&self, key: &KeyBuf, seen: &mut SeenRows);

    /// Removes every row that is not marked.
    fn sweep(&mut self, seen: &SeenRows, events: Option<&mut Vec<RowEvent>>);

    /// Removes every row.
    fn clear(&mut self);

    /// Compares a row of the table with the one in the cache, and marks the latter.
    fn compare(&self, row: &Self::Row, seen: &mut SeenRows, report: &mut ComparisonReport);

    /// Compares a row of the table that does not fit with what the cache knows of it.
    fn compare_misfit(&self, _key: &KeyBuf, _seen: &mut SeenRows, _report: &mut ComparisonReport) {}

    /// Reports the rows that are not marked: the table does not have them.
    fn find_ghosts(&self, seen: &SeenRows, report: &mut ComparisonReport);
}

/// Makes rows of the bytes that the server sends.
pub(in crate::postgres) trait RowDecoder: Send {
    /// A row as its cache takes it.
    type Row;

    /// Returns the shape of the table's rows.
    fn shape(&self) -> &Arc<TableShape>;

    /// Returns the query that reads rows of `relation`, a quoted name. `only` is empty, or a WHERE
    /// clause with a space in front.
    fn query(&self, relation: &str, only: &str) -> String;

    /// Returns whether that query selects the columns themselves, so that COPY of the table would
    /// bring the same.
    fn reads_columns(&self) -> bool {
        false
    }

    /// Decodes a tuple of binary COPY.
    fn read_copy(&mut self, tuple: &[u8]) -> Result<Decoded<Self::Row>, ReadError>;

    /// Decodes the `data` of a payload, whose row must have this key.
    fn read_json(
        &mut self,
        data: &str,
        nulls: JsonNulls<'_>,
        key: &KeyBuf,
    ) -> Result<Decoded<Self::Row>, ReadError>;

    /// Returns the key of a row.
    fn key_of(&self, row: &Self::Row) -> KeyBuf;

    /// Takes back a row that is done with, so that its memory is used again.
    fn recycle(&mut self, row: Self::Row);
}
