//! [`CacheSink`]: the operations that a cache must offer in order to be kept in step.
//! [`RowDecoder`]: the way in which the cache's rows are made of bytes.
//!
//! The two are apart because rows are decoded without the cache's lock and stored under that lock.
//! [`TableCache`](crate::tooling::TableCache) (in [`cells`](super::cells)) and
//! [`ModelCache`](super::models::ModelCache) are sinks, each with a decoder of its own.

use super::finding::ComparisonReport;
use crate::digest::{Digest, RowDigester};
use crate::notification::Key;
use crate::postgres::error::ReadError;
use crate::table_cache::{
    JsonNulls, KeyBuf, RowBuf, SeenRows, StoreError, TableShape, Touched, Upserted,
};
use std::sync::Arc;

/// A change of a row of a [`TableCache`](crate::tooling::TableCache).
#[derive(Debug, Clone)]
pub enum RowChange {
    /// The row was added.
    Added(RowBuf),
    /// The row has other values.
    Changed {
        /// The row before.
        old: RowBuf,
        /// The row after the change.
        new: RowBuf,
    },
    /// The row was removed.
    Removed(RowBuf),
}

/// The kind of change of a row of an application's own type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChangeKind {
    /// The row was added.
    Added,
    /// The row has other values.
    Changed,
    /// The row was removed.
    Removed,
}

/// The notification that brought a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notified {
    /// The server's process that sent the notification.
    pub sender: i32,
    /// The transaction, as the payload says; `None` if the payload does not say.
    pub xid: Option<u64>,
}

/// A change of one row, of a cache of either kind. `by` is the notification that brought the row;
/// `None` if the row was read by Q.
#[derive(Debug)]
pub(crate) enum RowEvent {
    /// A row of cells has changed.
    Row {
        change: RowChange,
        by: Option<Notified>,
    },
    /// A row of an application's own type has changed.
    Model { key: Key, change: RowChangeKind },
    /// A row does not fit the application's model, for the reason `why`, and is kept out.
    Misfit {
        key: Key,
        why: Arc<str>,
        by: Option<Notified>,
    },
}

/// The outcome of decoding a row.
pub(crate) enum Decoded<R> {
    /// The row, as the cache takes it.
    Row(R),
    /// The row does not fit the application's model and is to be kept out.
    Misfit(MisfitRow),
}

/// A row that does not fit the application's model.
#[derive(Debug, Clone)]
pub(crate) struct MisfitRow {
    /// The key of the row.
    pub(crate) key: KeyBuf,
    /// The digest of the row's cells.
    pub(crate) digest: Digest,
    /// The reason why the row does not fit.
    pub(crate) why: Arc<str>,
}

/// The way in which a row is put into a cache.
pub(crate) enum WriteMode<'a> {
    /// The row must be new.
    Insert,
    /// The row comes from a snapshot. The row is marked as seen. A second row with a key that was
    /// marked is an error.
    Merge(&'a mut SeenRows),
    /// The row takes the place of the one with its key, if there is one.
    Upsert,
}

/// A cache that is kept in step.
pub(crate) trait CacheSink: Send + Sync + 'static {
    /// The type of the rows that the cache stores.
    type Row: Send;
    /// The decoder that makes these rows.
    type Decoder: RowDecoder<Row = Self::Row> + 'static;

    /// Returns the number of rows in the cache.
    fn len(&self) -> usize;

    /// Returns whether the cache has no rows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes that the cache takes.
    fn memory_bytes(&self) -> usize;

    /// Replaces the cache, which is empty, by an empty one with room for `expected` rows.
    fn make_room(&mut self, expected: usize);

    /// Notes that a snapshot of all rows begins.
    fn begin_load(&mut self) {}

    /// Notes that all rows of a snapshot have been put in.
    fn end_load(&mut self) {}

    /// Returns the number of rows in the cache, and of those that were appended so far.
    fn stored(&self) -> usize {
        self.len()
    }

    /// Appends a row of a snapshot to a cache that was empty when the snapshot began. `row` is as
    /// in [`put`](Self::put). The row need not be in the cache before
    /// [`index_appended`](Self::index_appended), which is called before any other change.
    ///
    /// # Errors
    /// As [`put`](Self::put). The error may be that of a row which was appended earlier.
    fn append(&mut self, row: &mut Self::Row) -> Result<(), StoreError> {
        self.put(row, WriteMode::Insert, None).map(|_| ())
    }

    /// Makes the rows that were appended part of the cache.
    ///
    /// # Errors
    /// If two rows have one key. One of them is in the cache then.
    fn index_appended(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Completes what readers may see. Called before the cache's lock is let go.
    fn before_unlock(&mut self) {}

    /// Returns whether [`append`](Self::append) looks for a row with the same key.
    fn looks_up_appended(&self) -> bool;

    /// Brings near in memory what these changes will look at. Changes nothing.
    fn touch(&self, _changes: &[Touched<'_, Self::Row>]) {}

    /// Stores `row`, and records the change in `events`. The implementation may move data out of
    /// `row`. Afterwards `row` may only be passed to [`recycle`](RowDecoder::recycle).
    ///
    /// # Errors
    /// If the cache cannot take the row, or `mode` does not allow the row's key.
    fn put(
        &mut self,
        row: &mut Self::Row,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError>;

    /// Removes the row with this key, if there is one, and records the change in `events`.
    fn remove(&mut self, key: &KeyBuf, events: Option<&mut Vec<RowEvent>>);

    /// Keeps out a row that does not fit. The row that the cache has under the key is removed. Does
    /// nothing in a cache that takes every row.
    fn keep_out(&mut self, _row: MisfitRow, _events: Option<&mut Vec<RowEvent>>) {}

    /// Forgets the rows that were kept out, except those with these keys.
    fn retain_out(&mut self, _keys: &[KeyBuf]) {}

    /// Returns the number of rows that are kept out, and the first of them with the reason. Returns
    /// `None` if no row is kept out.
    fn kept_out(&self) -> Option<(usize, String)> {
        None
    }

    /// Marks the row with this key, if there is one, so that [`sweep`](Self::sweep) spares the row.
    fn mark(&self, key: &KeyBuf, seen: &mut SeenRows);

    /// Removes every row that is not marked, and records these changes in `events`.
    fn sweep(&mut self, seen: &SeenRows, events: Option<&mut Vec<RowEvent>>);

    /// Takes the reason why the last operation emptied the cache; `None` if it did not. The table
    /// must be read again then.
    fn take_broken(&mut self) -> Option<String> {
        None
    }

    /// Removes every row, those that are kept out included. Records no changes.
    fn clear(&mut self);

    /// Compares a row of the table with the row that the cache has under the same key. Marks the
    /// cache's row, and adds a difference to `report`.
    fn compare(&self, row: &Self::Row, seen: &mut SeenRows, report: &mut ComparisonReport);

    /// Checks that the cache keeps out the row of the table with this key, which does not fit. Adds
    /// a difference to `report`.
    fn compare_misfit(&self, _key: &KeyBuf, _seen: &mut SeenRows, _report: &mut ComparisonReport) {}

    /// Passes the digests of key and row of up to `most` rows to `visit`, from the slot `from` on.
    /// Returns the slot to go on from; `None` after the last row.
    fn visit_digests(
        &self,
        digester: &mut RowDigester,
        from: u32,
        most: usize,
        visit: &mut dyn FnMut(Digest, Digest),
    ) -> Option<u32>;

    /// Returns the digest of the row with this key; `None` if there is none.
    fn row_digest(&self, digester: &mut RowDigester, key: &KeyBuf) -> Option<Digest>;

    /// Returns whether the row with this key is kept out.
    fn is_kept_out(&self, key: &KeyBuf) -> bool {
        self.kept_out_digest(key).is_some()
    }

    /// Returns the digest of the row with this key that is kept out; `None` if there is none.
    fn kept_out_digest(&self, _key: &KeyBuf) -> Option<Digest> {
        None
    }

    /// Passes the digests of key and row of each row that is kept out to `visit`.
    fn visit_kept_out(&self, _visit: &mut dyn FnMut(Digest, Digest)) {}

    /// Returns the key digests of the rows that are kept out, at most `most` of them.
    fn kept_out_keys(&self, _most: usize) -> Vec<Digest> {
        Vec::new()
    }

    /// Adds to `report` the rows of the cache that are not marked: the table does not have them.
    fn find_ghosts(&self, seen: &SeenRows, report: &mut ComparisonReport);
}

/// A decoder that makes rows of the bytes which the server sends.
pub(crate) trait RowDecoder: Send + Sized {
    /// The type of the rows that the decoder makes.
    type Row;

    /// Whether to decode a row costs so much more than to hand it over that a thread does it.
    const IS_WORTH_A_THREAD: bool;

    /// Returns the shape of the table's rows.
    fn shape(&self) -> &Arc<TableShape>;

    /// Returns another decoder of the same rows.
    fn again(&self) -> Self;

    /// Decodes a tuple of binary COPY.
    ///
    /// # Errors
    /// If the tuple does not have the shape's columns, in order.
    fn read_copy(&mut self, tuple: &[u8]) -> Result<Decoded<Self::Row>, ReadError>;

    /// Decodes the `data` of a payload, whose row must have this key.
    ///
    /// # Errors
    /// If `data` is no row of the table, or the row has another key.
    fn read_json(
        &mut self,
        data: &str,
        nulls: JsonNulls<'_>,
        key: &KeyBuf,
    ) -> Result<Decoded<Self::Row>, ReadError>;

    /// Returns the key of a row.
    fn key_of(&self, row: &Self::Row) -> KeyBuf;

    /// Takes back a row that is not needed any more, so that the row's memory is used again.
    fn recycle(&mut self, row: Self::Row);
}
