//! The sink of a [`TableCache`]: rows as cells, by the columns of the table.

use super::finding::{ComparisonReport, DifferingColumn, Finding, FindingKind};
use super::sink::{CacheSink, Decoded, RowChange, RowDecoder, RowEvent, WriteMode};
use super::sink_writer::ROWS_TOGETHER;
use crate::digest::{Digest, RowDigester, digest_of_key};
use crate::postgres::error::ReadError;
use crate::table_cache::{
    JsonNulls, KeyBuf, Row, RowBuf, RowError, SeenRows, StoreError, TableCache, TableShape,
    Touched, Upserted,
};
use crate::value::CellType;
use std::sync::Arc;

/// The decoder that makes rows of cells.
#[derive(Debug)]
pub(crate) struct CellDecoder {
    shape: Arc<TableShape>,
    /// Rows that were stored or dropped, to be filled again without an allocation.
    recycled: Vec<RowBuf>,
}

impl CellDecoder {
    pub(crate) fn new(shape: Arc<TableShape>) -> Self {
        Self {
            shape,
            recycled: Vec::new(),
        }
    }

    /// Returns a row that `fill` has filled. The row is a recycled one if there is any.
    fn filled<E>(
        &mut self,
        fill: impl FnOnce(&TableShape, &mut RowBuf) -> Result<(), E>,
    ) -> Result<RowBuf, E> {
        let mut row = self.recycled.pop().unwrap_or_default();
        fill(&self.shape, &mut row)?;
        Ok(row)
    }
}

impl RowDecoder for CellDecoder {
    type Row = RowBuf;

    const IS_WORTH_A_THREAD: bool = false;

    fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    fn again(&self) -> Self {
        Self::new(Arc::clone(&self.shape))
    }

    fn read_copy(&mut self, tuple: &[u8]) -> Result<Decoded<RowBuf>, ReadError> {
        let row = self.filled(|shape, row| row.read_copy_tuple(shape, tuple))?;
        Ok(Decoded::Row(row))
    }

    fn read_json(
        &mut self,
        data: &str,
        nulls: JsonNulls<'_>,
        key: &KeyBuf,
    ) -> Result<Decoded<RowBuf>, ReadError> {
        let row = self.filled(|shape, row| row.read_json(shape, data, nulls))?;
        // The engine goes by the payload's `id`: a row under another key would be stored unnoticed.
        if row.has_key(&self.shape, key) {
            Ok(Decoded::Row(row))
        } else {
            Err(RowError::KeyMismatch.into())
        }
    }

    fn key_of(&self, row: &RowBuf) -> KeyBuf {
        KeyBuf::of_row(&self.shape, row)
    }

    fn recycle(&mut self, row: RowBuf) {
        /// The most rows that are kept: about as many as a message of Q brings.
        const MOST: usize = 8 * ROWS_TOGETHER;
        if self.recycled.len() < MOST {
            self.recycled.push(row);
        }
    }
}

impl CacheSink for TableCache {
    type Row = RowBuf;
    type Decoder = CellDecoder;

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn memory_bytes(&self) -> usize {
        Self::memory_bytes(self)
    }

    fn make_room(&mut self, expected: usize) {
        Self::make_room(self, expected);
    }

    fn stored(&self) -> usize {
        Self::stored(self)
    }

    fn append(&mut self, row: &mut RowBuf) -> Result<(), StoreError> {
        Self::append(self, row)
    }

    fn index_appended(&mut self) -> Result<(), StoreError> {
        Self::index_appended(self)
    }

    fn looks_up_appended(&self) -> bool {
        false
    }

    fn touch(&self, changes: &[Touched<'_, RowBuf>]) {
        std::hint::black_box(Self::touch(self, changes));
    }

    fn put(
        &mut self,
        row: &mut RowBuf,
        mode: WriteMode<'_>,
        events: Option<&mut Vec<RowEvent>>,
    ) -> Result<Upserted, StoreError> {
        // A copy of the old row costs more than the change itself. It is made only if somebody
        // wants the events, and a row that must be new has no old one.
        let old = if events.is_some() && !matches!(mode, WriteMode::Insert) {
            let key = KeyBuf::of_row(self.shape(), row);
            self.get(&key).map(|old| old.to_buf())
        } else {
            None
        };
        let upserted = match mode {
            WriteMode::Insert => self.insert_unique(row).map(|()| Upserted::Added),
            WriteMode::Merge(seen) => self.merge(row, seen),
            WriteMode::Upsert => self.upsert(row),
        }?;
        if let Some(events) = events.filter(|_| upserted != Upserted::Unchanged) {
            let new = row.clone();
            events.push(RowEvent::Row {
                change: match old {
                    Some(old) => RowChange::Changed { old, new },
                    None => RowChange::Added(new),
                },
                by: None,
            });
        }
        Ok(upserted)
    }

    fn remove(&mut self, key: &KeyBuf, events: Option<&mut Vec<RowEvent>>) {
        // The event first: it needs the row that is about to go.
        if let Some(events) = events
            && let Some(old) = self.get(key)
        {
            events.push(removed(old));
        }
        Self::remove(self, key);
    }

    fn mark(&self, key: &KeyBuf, seen: &mut SeenRows) {
        Self::mark(self, key, seen);
    }

    fn sweep(&mut self, seen: &SeenRows, mut events: Option<&mut Vec<RowEvent>>) {
        Self::sweep(self, seen, |row: Row<'_>| {
            if let Some(events) = &mut events {
                events.push(removed(row));
            }
        });
    }

    fn clear(&mut self) {
        Self::clear(self);
    }

    fn compare(&self, row: &RowBuf, seen: &mut SeenRows, report: &mut ComparisonReport) {
        let shape = self.shape();
        let key = KeyBuf::of_row(shape, row);
        let Some(cached) = self.get(&key) else {
            report.find(FindingKind::Missing, |kind| {
                finding(shape, kind, key, Vec::new())
            });
            return;
        };
        seen.mark(cached.slot());
        // By the cells' bytes, not by `=`: the numeric 1.10 in place of 1.1 is a difference.
        if (0..shape.columns().len()).any(|column| cached.cell(column) != row.cell(column)) {
            report.find(FindingKind::Stale, |kind| {
                let columns = differing_columns(shape, cached, row);
                finding(shape, kind, key, columns)
            });
        }
    }

    fn visit_digests(
        &self,
        digester: &mut RowDigester,
        from: u32,
        most: usize,
        visit: &mut dyn FnMut(Digest, Digest),
    ) -> Option<u32> {
        let shape = self.shape();
        let mut next = None;
        for row in self.rows_from(from).take(most) {
            let key = shape.key().iter().filter_map(|column| row.cell(*column));
            visit(digest_of_key(key), digester.row(|at| row.cell(at)));
            next = Some(row.slot() + 1);
        }
        next
    }

    fn row_digest(&self, digester: &mut RowDigester, key: &KeyBuf) -> Option<Digest> {
        let row = self.get(key)?;
        Some(digester.row(|at| row.cell(at)))
    }

    fn find_ghosts(&self, seen: &SeenRows, report: &mut ComparisonReport) {
        let shape = self.shape();
        for row in self.rows().filter(|row| !seen.has(row.slot())) {
            let key = KeyBuf::of_row(shape, &row.to_buf());
            report.find(FindingKind::Ghost, |kind| {
                finding(shape, kind, key, Vec::new())
            });
        }
    }
}

/// Returns the event that a row was removed.
fn removed(row: Row<'_>) -> RowEvent {
    RowEvent::Row {
        change: RowChange::Removed(row.to_buf()),
        by: None,
    }
}

/// Returns the finding of a row that differs. `columns` are empty unless the row is stale.
fn finding(
    shape: &TableShape,
    kind: FindingKind,
    key: KeyBuf,
    columns: Vec<DifferingColumn>,
) -> Finding {
    Finding {
        kind,
        key: key.to_json(shape),
        key_cells: key,
        columns,
    }
}

/// Returns the columns in which a row of the cache and the row of the table differ.
fn differing_columns(shape: &TableShape, cached: Row<'_>, row: &RowBuf) -> Vec<DifferingColumn> {
    let mut differing = Vec::new();
    for (at, column) in shape.columns().iter().enumerate() {
        if cached.cell(at) != row.cell(at) {
            differing.push(DifferingColumn {
                column: column.name.clone(),
                cache: json(column.kind, cached.cell(at)),
                table: json(column.kind, row.cell(at)),
            });
        }
    }
    differing
}

/// Returns a cell as JSON.
fn json(kind: CellType, cell: Option<&[u8]>) -> String {
    let Some(cell) = cell else {
        return "null".to_string();
    };
    let mut json = String::new();
    kind.write_json(cell, &mut json);
    json
}
