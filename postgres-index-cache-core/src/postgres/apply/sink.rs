//! [`CacheSink`]: what a cache must be able to do to be kept in step, and [`RowDecoder`]: how its rows are
//! read.

use crate::Column;
use crate::postgres::connection::session::quote_identifier;
use crate::postgres::error::ReadError;
use crate::table_cache::{
    JsonNulls, KeyBuf, Row, RowBuf, RowError, SeenRows, StoreError, TableCache, TableShape,
    Upserted,
};
use std::collections::HashSet;
use std::sync::Arc;
use uuid::Uuid;

/// What became of a row.
#[derive(Debug, Clone)]
pub enum RowChange {
    /// It is new.
    Added(RowBuf),
    /// It is another one.
    Changed {
        /// What it was.
        old: RowBuf,
        /// What it is.
        new: RowBuf,
    },
    /// It is gone.
    Removed(RowBuf),
}

/// What became of a row whose content is the application's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChangeKind {
    /// It is new.
    Added,
    /// It is another one.
    Changed,
    /// It is gone.
    Removed,
}

/// What became of a row, of a cache of either kind.
#[derive(Debug)]
pub(in crate::postgres) enum RowEvent {
    /// What became of it, and the server's process whose notification it was, if one was.
    Row(RowChange, Option<i32>),
    Model(Uuid, RowChangeKind),
    /// The row of this key does not fit the model, and is kept out; and the sender, likewise.
    Misfit(Uuid, Arc<str>, Option<i32>),
}

/// A row as a cache can take it.
pub(in crate::postgres) enum Decoded<R> {
    Row(R),
    /// The row does not fit the application's model: it is kept out, and its key says which.
    Misfit {
        key: KeyBuf,
        why: Arc<str>,
    },
}

/// What is wrong with a row of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FindingKind {
    /// The table has the row, the cache has not.
    Missing,
    /// Both have it, and it is not the same.
    Stale,
    /// The cache has the row, the table has not.
    Ghost,
}

/// A column whose values differ, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DifferingColumn {
    /// Its name.
    pub column: String,
    /// The cache's value.
    pub cache: String,
    /// The table's value.
    pub table: String,
}

/// A row that is not in the cache as it is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// The key, as JSON: a scalar, or an array in key order.
    pub key: String,
    /// The key as the cache has it.
    pub key_cells: KeyBuf,
    /// The columns that differ, of a stale row whose columns the cache keeps.
    pub columns: Vec<DifferingColumn>,
}

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComparisonReport {
    /// How many rows the table has.
    pub rows: usize,
    /// How many rows the table has and the cache has not.
    pub missing: usize,
    /// How many rows both have, and not the same.
    pub stale: usize,
    /// How many rows the cache has and the table has not.
    pub ghosts: usize,
    /// How many rows of the table are kept out of the cache, as they must be, since they do not fit
    /// the model.
    pub kept_out: usize,
    /// What is wrong, up to [`ComparisonReport::FINDINGS`] rows.
    pub findings: Vec<Finding>,
    /// The keys of those that are kept out, until all rows have come: what is kept out beside them
    /// is a ghost.
    pub(in crate::postgres) out: HashSet<KeyBuf>,
}

impl ComparisonReport {
    /// The most findings that are kept.
    pub const FINDINGS: usize = 10_000;

    /// How many rows differ.
    pub fn differing(&self) -> usize {
        self.missing + self.stale + self.ghosts
    }

    pub(in crate::postgres) fn find(
        &mut self,
        kind: FindingKind,
        finding: impl FnOnce(FindingKind) -> Finding,
    ) {
        *match kind {
            FindingKind::Missing => &mut self.missing,
            FindingKind::Stale => &mut self.stale,
            FindingKind::Ghost => &mut self.ghosts,
        } += 1;
        if self.findings.len() < Self::FINDINGS {
            self.findings.push(finding(kind));
        }
    }
}

/// How a row is put into a cache.
pub(in crate::postgres) enum WriteMode<'a> {
    /// It must be new.
    Insert,
    /// It is one of a snapshot, which brings each key once.
    Merge(&'a mut SeenRows),
    /// In place of the one with its key, if there is one.
    Upsert,
}

/// A cache that is kept in step.
pub(in crate::postgres) trait CacheSink: Send + Sync + 'static {
    type Row: Send;
    type Reader: RowDecoder<Row = Self::Row>;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize;
    fn memory_bytes(&self) -> usize;

    /// An empty cache is made anew for so many rows.
    fn make_room(&mut self, expected: usize);

    /// A snapshot of all rows begins.
    fn begin_load(&mut self) {}

    /// All rows of the snapshot are there.
    fn end_load(&mut self) {}

    /// Stores a row; it need not be one any more after that.
    fn put(
        &mut self,
        row: &mut Self::Row,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError>;

    fn remove(&mut self, key: &KeyBuf, events: Option<&mut Vec<RowEvent>>);

    /// Keeps the row of this key out, since it does not fit: the one that is there goes. A cache
    /// that takes every row has none to keep out.
    fn keep_out(&mut self, _key: &KeyBuf, _why: Arc<str>, _told: Option<&mut Vec<RowEvent>>) {}

    /// Forgets the rows that were kept out but for those of these keys.
    fn retain_out(&mut self, _keys: &[KeyBuf]) {}

    /// How many rows are kept out, and the first of them with the cause.
    fn kept_out(&self) -> Option<(usize, String)> {
        None
    }

    /// Compares a row of the table that does not fit with what the cache knows of it.
    fn compare_misfit(
        &self,
        _key: &KeyBuf,
        _laid: &mut SeenRows,
        _comparison: &mut ComparisonReport,
    ) {
    }

    /// Spares the row of this key when the rest is swept.
    fn mark(&self, key: &KeyBuf, seen: &mut SeenRows);

    /// Removes what is not seen.
    fn sweep(&mut self, seen: &SeenRows, events: Option<&mut Vec<RowEvent>>);

    fn clear(&mut self);

    /// Compares a row of the table with that of the cache, which is marked.
    fn compare(&self, row: &Self::Row, seen: &mut SeenRows, comparison: &mut ComparisonReport);

    /// The rows that are not marked are not in the table.
    fn ghosts(&self, seen: &SeenRows, comparison: &mut ComparisonReport);
}

/// Makes rows of what the server sends.
pub(in crate::postgres) trait RowDecoder: Send {
    type Row;

    fn shape(&self) -> &Arc<TableShape>;

    /// See [`CacheWriter::query`](crate::postgres::apply::writer::CacheWriter::query).
    fn query(&self, relation: &str, only: &str) -> String;

    /// Whether a row that it reads is the columns that are kept, as PostgreSQL sends them.
    fn reads_columns(&self) -> bool {
        false
    }

    fn read_copy(&mut self, tuple: &[u8]) -> Result<Decoded<Self::Row>, ReadError>;

    /// RowDecoder the `data` of a payload, whose row must have this key.
    fn read_json(
        &mut self,
        data: &str,
        nulls: JsonNulls<'_>,
        key: &KeyBuf,
    ) -> Result<Decoded<Self::Row>, String>;

    fn key_of(&self, row: &Self::Row) -> KeyBuf;

    /// Takes back a row that is done with: its room is used again.
    fn recycle(&mut self, row: Self::Row);
}

/// RowDecoder rows as cells.
#[derive(Debug)]
pub(in crate::postgres) struct CellDecoder {
    shape: Arc<TableShape>,
    spare: Vec<RowBuf>,
}

impl CellDecoder {
    pub(in crate::postgres) fn new(shape: Arc<TableShape>) -> Self {
        Self {
            shape,
            spare: Vec::new(),
        }
    }

    /// Fills a row; one that could not be filled is used again.
    fn filled<E>(
        &mut self,
        fill: impl FnOnce(&TableShape, &mut RowBuf) -> Result<(), E>,
    ) -> Result<RowBuf, E> {
        let mut row = self.spare.pop().unwrap_or_default();
        fill(&self.shape, &mut row)?;
        Ok(row)
    }
}

impl RowDecoder for CellDecoder {
    type Row = RowBuf;

    fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    fn query(&self, relation: &str, only: &str) -> String {
        let column = |column: &Column| {
            column
                .kind
                .select_expression(&quote_identifier(&column.name))
        };
        let columns: Vec<String> = self.shape.columns().iter().map(column).collect();
        format!("SELECT {} FROM {relation}{only}", columns.join(", "))
    }

    fn reads_columns(&self) -> bool {
        true
    }

    fn read_copy(&mut self, tuple: &[u8]) -> Result<Decoded<RowBuf>, ReadError> {
        Ok(Decoded::Row(
            self.filled(|shape, row| row.read_copy_tuple(shape, tuple))?,
        ))
    }

    fn read_json(
        &mut self,
        data: &str,
        nulls: JsonNulls<'_>,
        key: &KeyBuf,
    ) -> Result<Decoded<RowBuf>, String> {
        let row = self
            .filled(|shape, row| row.read_json(shape, data, nulls))
            .map_err(|error| error.to_string())?;
        if row.has_key(&self.shape, key) {
            Ok(Decoded::Row(row))
        } else {
            Err(RowError::KeyMismatch.to_string())
        }
    }

    fn key_of(&self, row: &RowBuf) -> KeyBuf {
        KeyBuf::of_row(&self.shape, row)
    }

    fn recycle(&mut self, row: RowBuf) {
        /// As many as a batch has.
        const KEPT: usize = 512;
        if self.spare.len() < KEPT {
            self.spare.push(row);
        }
    }
}

impl CacheSink for TableCache {
    type Row = RowBuf;
    type Reader = CellDecoder;

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn memory_bytes(&self) -> usize {
        Self::memory_bytes(self)
    }

    fn make_room(&mut self, expected: usize) {
        *self = Self::new(Arc::clone(self.shape()), expected);
    }

    fn put(
        &mut self,
        row: &mut RowBuf,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError> {
        let is_recorded = events.is_some() && !matches!(mode, WriteMode::Insert);
        let old = is_recorded
            .then(|| {
                self.get(&KeyBuf::of_row(self.shape(), row))
                    .map(|old| old.to_buf())
            })
            .flatten();
        let upserted = match mode {
            WriteMode::Insert => self.insert_unique(row).map(|()| Upserted::Added),
            WriteMode::Merge(seen) => self.merge(row, seen),
            WriteMode::Upsert => self.upsert(row),
        }?;
        if let Some(events) = events.filter(|_| upserted != Upserted::Unchanged) {
            let change = match old {
                Some(old) => RowChange::Changed {
                    old,
                    new: row.clone(),
                },
                None => RowChange::Added(row.clone()),
            };
            events.push(RowEvent::Row(change, None));
        }
        Ok(upserted)
    }

    fn remove(&mut self, key: &KeyBuf, events: Option<&mut Vec<RowEvent>>) {
        if let Some(events) = events {
            events.extend(
                self.get(key)
                    .map(|old| RowEvent::Row(RowChange::Removed(old.to_buf()), None)),
            );
        }
        Self::remove(self, key);
    }

    fn mark(&self, key: &KeyBuf, seen: &mut SeenRows) {
        Self::mark(self, key, seen);
    }

    fn sweep(&mut self, seen: &SeenRows, mut events: Option<&mut Vec<RowEvent>>) {
        Self::sweep(self, seen, |row: Row<'_>| {
            if let Some(events) = &mut events {
                events.push(RowEvent::Row(RowChange::Removed(row.to_buf()), None));
            }
        });
    }

    fn clear(&mut self) {
        Self::clear(self);
    }

    fn compare(&self, row: &RowBuf, seen: &mut SeenRows, comparison: &mut ComparisonReport) {
        let shape = self.shape();
        let key_cells = KeyBuf::of_row(shape, row);
        let Some(cached) = self.get(&key_cells) else {
            return comparison.find(FindingKind::Missing, |kind| {
                let key = key_cells.to_json(shape);
                Finding {
                    kind,
                    key,
                    key_cells,
                    columns: Vec::new(),
                }
            });
        };
        seen.mark(cached.slot());
        let differing = |column: &usize| cached.cell(*column) != row.cell(*column);
        if (0..shape.columns().len()).any(|column| differing(&column)) {
            let json = |column: usize, cell: Option<&[u8]>| {
                let mut json = String::new();
                match cell {
                    Some(cell) => shape.columns()[column].kind.write_json(cell, &mut json),
                    None => json.push_str("null"),
                }
                json
            };
            let columns =
                (0..shape.columns().len())
                    .filter(differing)
                    .map(|column| DifferingColumn {
                        column: shape.columns()[column].name.clone(),
                        cache: json(column, cached.cell(column)),
                        table: json(column, row.cell(column)),
                    });
            comparison.find(FindingKind::Stale, |kind| {
                let columns = columns.collect();
                let key = key_cells.to_json(shape);
                Finding {
                    kind,
                    key,
                    key_cells,
                    columns,
                }
            });
        }
    }

    fn ghosts(&self, seen: &SeenRows, comparison: &mut ComparisonReport) {
        for row in self.rows().filter(|row| !seen.has(row.slot())) {
            let key_cells = KeyBuf::of_row(self.shape(), &row.to_buf());
            comparison.find(FindingKind::Ghost, |kind| {
                let key = key_cells.to_json(self.shape());
                Finding {
                    kind,
                    key,
                    key_cells,
                    columns: Vec::new(),
                }
            });
        }
    }
}
