//! [`RowStore`]: the rows of a cache by their slots, without the tables that find them.

use super::arena::{Arena, FixedRows, Record, StoredRecord};
use super::outcome::StoreError;
use super::place::{CellPlace, RecordPlace};
use super::row::RowBuf;
use super::shape::TableShape;
use crate::index::Slots;
use foldhash::quality::RandomState;
use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// The rows of a cache, each in a slot.
pub(super) struct RowStore {
    pub(super) shape: Arc<TableShape>,
    /// The slots in use.
    pub(super) slots: Slots,
    hasher: RandomState,
    fixed: FixedRows,
    arena: Arena,
}

impl RowStore {
    /// Makes an empty store with room for `expected` slots.
    pub(super) fn new(shape: Arc<TableShape>, expected: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            slots: Slots::with_capacity(expected),
            fixed: FixedRows::new(shape.stride()),
            arena: Arena::default(),
            shape,
        }
    }

    /// Returns the bytes that the rows occupy.
    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes() + self.fixed.memory_bytes() + self.arena.memory_bytes()
    }

    /// Stores a row in a slot of its own, and returns the slot.
    ///
    /// # Errors
    /// If the store is full or the row is too long. Nothing is changed then.
    pub(super) fn add(&mut self, row: &RowBuf) -> Result<u32, StoreError> {
        let record = Record::new(&self.shape, row)?;
        let slot = self.slots.take().ok_or(StoreError::Full)?;
        self.fill(slot, row, &record);
        Ok(slot)
    }

    /// Stores a row as [`add`](Self::add) does, in a slot behind all that were ever taken.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub(super) fn append(&mut self, row: &RowBuf) -> Result<u32, StoreError> {
        let record = Record::new(&self.shape, row)?;
        let slot = self.slots.take_last().ok_or(StoreError::Full)?;
        self.fill(slot, row, &record);
        Ok(slot)
    }

    /// Writes a row into a slot that was just taken.
    fn fill(&mut self, slot: u32, row: &RowBuf, record: &Record<'_>) {
        self.fixed.ensure(slot);
        // A new fixed part is all zeros, which reads as the first record of the first chunk:
        // `write` would free that record.
        self.shape
            .set_place_of_record(self.fixed.row_mut(slot), RecordPlace::NONE);
        self.write(slot, row, record);
    }

    /// Writes the cells of `row` into `slot`, and frees the record that the slot had. `record` is
    /// made of the same row.
    pub(super) fn write(&mut self, slot: u32, row: &RowBuf, record: &Record<'_>) {
        self.free_record(slot);
        let place = self.arena.store(slot, &self.shape, record);
        let fixed = self.fixed.row_mut(slot);
        row.write_fixed(&self.shape, fixed);
        self.shape.set_place_of_record(fixed, place);
        self.compact();
    }

    /// Gives up the row in `slot`. No key table and no index names the slot any more.
    pub(super) fn remove(&mut self, slot: u32) {
        self.free_record(slot);
        self.slots.release(slot);
        self.compact();
    }

    /// Frees the record of the row in `slot`, if there is one.
    fn free_record(&mut self, slot: u32) {
        if self.shape.record_cells() == 0 {
            return;
        }
        let place = self.shape.place_of_record(self.fixed.row(slot));
        self.shape
            .set_place_of_record(self.fixed.row_mut(slot), RecordPlace::NONE);
        self.arena.free(place);
    }

    /// Moves the live records out of the sparse chunks, and releases those chunks.
    fn compact(&mut self) {
        while let Some(sparse) = self.arena.take_sparse() {
            for record in self.arena.records(sparse) {
                let slot = record.slot;
                // A record is live exactly if the row in its slot names this place. A dead one may
                // name a slot that was released, or that has another row by now.
                if self.slots.is_used(slot)
                    && self.shape.place_of_record(self.fixed.row(slot)) == record.place
                {
                    let moved = self.arena.relocate(record.place);
                    self.shape
                        .set_place_of_record(self.fixed.row_mut(slot), moved);
                }
            }
            self.arena.release(sparse);
        }
    }

    /// Returns the cell of a column in the row of `slot`; `None` is SQL NULL.
    pub(super) fn cell(&self, slot: u32, column: usize) -> Option<&[u8]> {
        let row = self.fixed.row(slot);
        if self.shape.is_null(row, column) {
            return None;
        }
        match self.shape.place(column) {
            CellPlace::Fixed { offset, width } => Some(&row[offset..offset + width]),
            CellPlace::Record { number } => Some(self.arena.cell(
                self.shape.place_of_record(row),
                self.shape.record_cells(),
                number,
            )),
        }
    }

    /// Returns the comparable form of a cell; `None` is SQL NULL.
    pub(super) fn comparable(&self, slot: u32, column: usize) -> Option<Cow<'_, [u8]>> {
        self.cell(slot, column)
            .map(|cell| self.shape.columns()[column].kind.comparable(cell))
    }

    /// Returns whether a cell and `other` stand in the same place of an index.
    pub(super) fn is_equal(&self, slot: u32, column: usize, other: Option<&[u8]>) -> bool {
        let kind = self.shape.columns()[column].kind;
        self.comparable(slot, column) == other.map(|cell| kind.comparable(cell))
    }

    /// Returns whether the rows in two slots stand in the same place of an index.
    pub(super) fn have_equal(&self, one: u32, other: u32, column: usize) -> bool {
        self.comparable(one, column) == self.comparable(other, column)
    }

    /// Returns whether the row in `slot` has these key cells.
    pub(super) fn has_key<'a>(&self, slot: u32, mut key: impl Iterator<Item = &'a [u8]>) -> bool {
        match self.shape.fixed_key() {
            // The usual key is one column of fixed width, never NULL: its bytes are at one place.
            Some(at) => key.next().is_some_and(|cell| {
                let stored = &self.fixed.row(slot)[at];
                is_same_bytes(stored, cell)
            }),
            None => self.key_cells(slot).eq(key),
        }
    }

    /// Returns the key cells of the row in `slot`, in key order.
    pub(super) fn key_cells(&self, slot: u32) -> impl Iterator<Item = &[u8]> + Clone {
        // A key column is never NULL, so the empty cell is never used.
        self.shape
            .key()
            .iter()
            .map(move |&column| self.cell(slot, column).unwrap_or(&[]))
    }

    /// Returns the hash that the key table has for the row in `slot`.
    pub(super) fn key_hash(&self, slot: u32) -> u64 {
        match self.shape.fixed_key() {
            Some(at) => self.hash_of_key(std::iter::once(&self.fixed.row(slot)[at])),
            None => self.hash_of_key(self.key_cells(slot)),
        }
    }

    /// Returns the hash that the key table has for the cells of a key.
    pub(super) fn hash_of_key<'a>(&self, cells: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        cells.for_each(|cell| write_cell(&mut hasher, cell));
        hasher.finish()
    }

    /// Returns the hash that the index of a column has for the row in `slot`.
    pub(super) fn value_hash(&self, slot: u32, column: usize) -> u64 {
        self.hash_of_value(self.comparable(slot, column).as_deref())
    }

    /// Returns the hash that an index has for a comparable form; `None` is SQL NULL.
    pub(super) fn hash_of_value(&self, comparable: Option<&[u8]>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        match comparable {
            Some(comparable) => write_cell(&mut hasher, comparable),
            None => hasher.write_u8(0),
        }
        hasher.finish()
    }

    /// Reads a byte of the row in `slot`, which is near then. The result means nothing.
    pub(super) fn touch(&self, slot: u32) -> u32 {
        self.fixed
            .row(slot)
            .first()
            .map_or(0, |byte| u32::from(*byte))
    }

    /// Checks the records; see [`Arena::validate`].
    ///
    /// # Errors
    /// If a check fails, with a text that says which.
    pub(super) fn validate(&self) -> Result<(), String> {
        self.arena
            .validate(self.slots.iter().map(|slot| StoredRecord {
                slot,
                place: self.shape.place_of_record(self.fixed.row(slot)),
            }))
    }
}

/// Adds a cell to a hash. The cells of the usual types are one word or two.
fn write_cell(hasher: &mut impl Hasher, cell: &[u8]) {
    if let Ok(word) = <[u8; 8]>::try_from(cell) {
        hasher.write_u64(u64::from_le_bytes(word));
    } else if let Ok(words) = <[u8; 16]>::try_from(cell) {
        hasher.write_u128(u128::from_le_bytes(words));
    } else {
        // With the length: else ("ab", "c") and ("a", "bc") would have one hash.
        hasher.write_usize(cell.len());
        hasher.write(cell);
    }
}

/// Returns whether two cells are the same bytes. The usual lengths are compared as numbers.
fn is_same_bytes(one: &[u8], other: &[u8]) -> bool {
    if let (Ok(one), Ok(other)) = (<[u8; 16]>::try_from(one), <[u8; 16]>::try_from(other)) {
        return u128::from_ne_bytes(one) == u128::from_ne_bytes(other);
    }
    if let (Ok(one), Ok(other)) = (<[u8; 8]>::try_from(one), <[u8; 8]>::try_from(other)) {
        return u64::from_ne_bytes(one) == u64::from_ne_bytes(other);
    }
    one == other
}
