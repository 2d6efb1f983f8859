//! [`TableCache`]: the rows of a table whose columns are known only at run time, found by key and
//! by conditions on any columns.
//!
//! ```text
//! key ─→ slot table ─┐                       ┌ null bits · fixed-width cells · where the record is
//! column indexes ────┴─→ slot ─→ fixed part ─┤
//!                                            └→ record in the arena: the cells of no fixed width
//! ```
//!
//! Columns of integers and uuids have an index from the start; a column that is the whole key needs
//! none, since the key table finds its row. Another column has one only after
//! [`TableCache::ensure_index`] was called for that column. Whoever keeps a cache for long calls it
//! before the first [`find`](TableCache::find) with conditions on the column: `pgic shell` and
//! `pgic query --watch` do. Whoever asks once does not: a scan of every row takes less time than
//! making an index.
//!
//! # Invariants
//! 1. A slot is in use exactly when a row stands in that slot. The key table holds each slot in use
//!    once, under the key cells of its row.
//! 2. The index of a column holds every slot in use once, under the comparable form of the slot's
//!    cell. NULLs are indexed too.
//! 3. The record of a row stands in the arena and names the slot of that row. No two rows share a
//!    record.
//! 4. A row is stored whole or not at all: the steps that can fail are done before anything is
//!    changed.

mod arena;
mod condition;
mod outcome;
mod place;
mod row;
mod seen;
mod shape;

pub use condition::{CellTest, Condition, Predicate};
pub use outcome::{StoreError, Upserted};
pub use row::{JsonNulls, KeyBuf, RowBuf, RowError};
pub use seen::SeenRows;
pub use shape::{Column, ShapeError, TableShape};

use crate::index::{Hits, MultiIndex, SlotTable, Slots};
use arena::{Arena, FixedRows, Record, StoredRecord};
use foldhash::quality::RandomState;
use place::{CellPlace, RecordPlace};
use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// The way in which the rows of a [`QueryResult`] were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessPath {
    /// By the key.
    Key,
    /// By the index on the column with this position in the shape.
    Index(usize),
    /// By looking at every row.
    Scan,
}

/// The rows that fulfil every condition of a query, and how they were found.
#[derive(Debug)]
pub struct QueryResult<'a> {
    /// The rows, in no particular order.
    pub rows: Vec<Row<'a>>,
    /// The way in which the rows were found.
    pub access: AccessPath,
    /// The number of rows that were compared with the conditions.
    pub looked_at: usize,
}

/// Slots of rows, a superset of the rows that fulfil the conditions of a query.
struct Candidates {
    access: AccessPath,
    slots: Vec<u32>,
}

/// The rows of one table with their indexes.
pub struct TableCache {
    shape: Arc<TableShape>,
    hasher: RandomState,
    slots: Slots,
    fixed: FixedRows,
    arena: Arena,
    by_key: SlotTable,
    /// For each column of the shape, its index if there is one.
    indexes: Vec<Option<MultiIndex>>,
}

/// One row of a [`TableCache`].
#[derive(Clone, Copy)]
pub struct Row<'a> {
    cache: &'a TableCache,
    slot: u32,
}

impl<'a> Row<'a> {
    /// Returns the cell of the column with this position in the shape; `None` is SQL NULL.
    pub fn cell(&self, column: usize) -> Option<&'a [u8]> {
        self.cache.cell(self.slot, column)
    }

    /// Returns the number of the row's slot, which the row keeps while it is in the cache. As long
    /// as no row was removed, slots are in the order of arrival.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Returns a copy of the row. Later changes of the cache do not reach the copy.
    pub fn to_buf(&self) -> RowBuf {
        RowBuf::of_cells((0..self.cache.shape.columns().len()).map(|column| self.cell(column)))
    }

    /// Appends the row as one JSON object with the columns whose positions are `columns`, in that
    /// order.
    pub fn write_json(&self, columns: &[usize], json: &mut String) {
        self.cache
            .shape
            .write_json(columns, |column| self.cell(column), json);
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<usize> = (0..self.cache.shape.columns().len()).collect();
        let mut json = String::new();
        self.write_json(&columns, &mut json);
        f.write_str(&json)
    }
}

impl TableCache {
    /// Makes an empty cache for rows of `shape`. The key table and the indexes have room for
    /// `expected` rows at once.
    pub fn new(shape: Arc<TableShape>, expected: usize) -> Self {
        let mut indexes = Vec::new();
        for (at, column) in shape.columns().iter().enumerate() {
            let is_indexed = column.kind.is_indexed_at_load() && !is_found_by_key(&shape, at);
            indexes.push(is_indexed.then(|| MultiIndex::with_capacity(expected)));
        }
        Self {
            hasher: RandomState::default(),
            slots: Slots::with_capacity(expected),
            fixed: FixedRows::new(shape.stride()),
            arena: Arena::default(),
            by_key: SlotTable::with_capacity(expected),
            indexes,
            shape,
        }
    }

    /// Returns the shape of the table: its columns and its key.
    pub fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether the cache holds no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes that the cache occupies.
    pub fn memory_bytes(&self) -> usize {
        let indexes = self.indexes.iter().flatten().map(MultiIndex::memory_bytes);
        self.slots.memory_bytes()
            + self.fixed.memory_bytes()
            + self.arena.memory_bytes()
            + self.by_key.memory_bytes()
            + indexes.sum::<usize>()
    }

    /// Returns the row with this key.
    pub fn get(&self, key: &KeyBuf) -> Option<Row<'_>> {
        self.slot_of(key.cells())
            .map(|slot| Row { cache: self, slot })
    }

    /// Returns all rows, in no particular order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.slots.iter().map(|slot| Row { cache: self, slot })
    }

    /// Returns the rows from the slot `from` on, in the order of their slots.
    #[cfg(feature = "postgres")]
    pub(crate) fn rows_from(&self, from: u32) -> impl Iterator<Item = Row<'_>> {
        let slots = self.slots.iter_from(from);
        slots.map(|slot| Row { cache: self, slot })
    }

    /// Stores a row whose key must be new.
    ///
    /// # Errors
    /// If a row with this key is in the cache, the cache is full, or the row is too long. The cache
    /// is unchanged then.
    pub fn insert_unique(&mut self, row: &RowBuf) -> Result<(), StoreError> {
        if self.slot_of(row.key_cells(&self.shape)).is_some() {
            return Err(StoreError::DuplicateKey(row.key_text(&self.shape)));
        }
        self.store_new(row).map(|_| ())
    }

    /// Stores a row of a new snapshot, in place of the row with the same key if there is one, and
    /// marks the row in `seen`.
    ///
    /// # Errors
    /// If the snapshot has brought a row with this key before, the cache is full, or the row is too
    /// long. The cache is unchanged then.
    pub fn merge(&mut self, row: &RowBuf, seen: &mut SeenRows) -> Result<Upserted, StoreError> {
        if self
            .slot_of(row.key_cells(&self.shape))
            .is_some_and(|slot| seen.has(slot))
        {
            return Err(StoreError::DuplicateKey(row.key_text(&self.shape)));
        }
        let (slot, upserted) = self.put(row)?;
        seen.mark(slot);
        Ok(upserted)
    }

    /// Marks the row with this key, if there is one, so that a sweep spares the row.
    pub fn mark(&self, key: &KeyBuf, seen: &mut SeenRows) {
        if let Some(slot) = self.slot_of(key.cells()) {
            seen.mark(slot);
        }
    }

    /// Removes the rows that are not marked in `seen`. Each row is passed to `removing` just before
    /// its removal.
    pub fn sweep(&mut self, seen: &SeenRows, mut removing: impl FnMut(Row<'_>)) {
        let swept: Vec<u32> = self.slots.iter().filter(|&slot| !seen.has(slot)).collect();
        for slot in swept {
            removing(Row { cache: self, slot });
            self.remove_slot(slot);
        }
    }

    /// Stores a row, in place of the row with the same key if there is one.
    ///
    /// # Errors
    /// If the cache is full or the row is too long. The cache is unchanged then.
    pub fn upsert(&mut self, row: &RowBuf) -> Result<Upserted, StoreError> {
        self.put(row).map(|(_, upserted)| upserted)
    }

    /// Does the work of [`upsert`](Self::upsert), and returns the row's slot as well.
    fn put(&mut self, row: &RowBuf) -> Result<(u32, Upserted), StoreError> {
        let Some(slot) = self.slot_of(row.key_cells(&self.shape)) else {
            return self.store_new(row).map(|slot| (slot, Upserted::Added));
        };
        let changed: Vec<usize> = (0..self.shape.columns().len())
            .filter(|&column| self.cell(slot, column) != row.cell(column))
            .collect();
        if changed.is_empty() {
            return Ok((slot, Upserted::Unchanged));
        }
        // Of the steps that change a stored row, this is the last that can fail (invariant 4).
        let record = Record::new(&self.shape, row)?;
        // A cell may change and keep its place in the index: 1.10 becomes 1.1.
        let relinked: Vec<usize> = changed
            .into_iter()
            .filter(|&column| {
                self.indexes[column].is_some() && !self.is_equal(slot, column, row.cell(column))
            })
            .collect();
        // Unlink, write, link: an index reads the value of a slot from the stored row, so the old
        // cells must stand while a slot is unlinked, and the new ones while it is linked.
        for &column in &relinked {
            self.unlink(slot, column);
        }
        self.write(slot, row, &record);
        for &column in &relinked {
            self.link(slot, column);
        }
        Ok((slot, Upserted::Changed))
    }

    /// Removes the row with this key and returns whether there was one.
    pub fn remove(&mut self, key: &KeyBuf) -> bool {
        let slot = self.slot_of(key.cells());
        slot.inspect(|&slot| self.remove_slot(slot)).is_some()
    }

    /// Removes the row in `slot`, which is in use.
    fn remove_slot(&mut self, slot: u32) {
        // Indexes and key table read the row's cells: the record is freed after they let go.
        for column in 0..self.indexes.len() {
            self.unlink(slot, column);
        }
        let hash = self.key_hash(slot);
        self.by_key.remove(hash, |entry| entry == slot);
        self.free_record(slot);
        self.slots.release(slot);
        self.compact();
    }

    /// Removes every row, and the indexes that [`ensure_index`](Self::ensure_index) made.
    pub fn clear(&mut self) {
        *self = Self::new(Arc::clone(&self.shape), 0);
    }

    /// Returns the positions of the columns for which [`ensure_index`](Self::ensure_index) would
    /// help [`find`](Self::find) with these conditions. There are none if the key finds the row.
    pub fn missing_indexes(&self, conditions: &[Condition]) -> Vec<usize> {
        if self.named_key(conditions).is_some() {
            return Vec::new();
        }
        let mut missing: Vec<usize> = conditions
            .iter()
            .filter(|condition| is_answered_by_index(&condition.wanted))
            .map(|condition| condition.column)
            .filter(|&column| self.can_index(column))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    /// Returns the most bytes that one more index takes, for the rows that the cache has.
    pub fn index_bytes(&self) -> usize {
        /// An index of distinct values takes about 8 bytes a row. It takes most if each value
        /// stands in two rows: then every two rows have a posting list, with a vector of its own.
        const BYTES_PER_ROW: usize = 48;
        self.len() * BYTES_PER_ROW
    }

    /// Makes an index on a column, if there is none, in one pass over the rows. Conditions on the
    /// column then need no scan. The index is kept in step with the rows until the next
    /// [`clear`](Self::clear).
    ///
    /// Does nothing for a column that is the whole key, unless the type has several cells for one
    /// value, as `numeric` has for 1.1 and 1.10. The key table finds one of those cells alone.
    pub fn ensure_index(&mut self, column: usize) {
        if !self.can_index(column) {
            return;
        }
        self.indexes[column] = Some(MultiIndex::with_capacity(self.len()));
        let slots: Vec<u32> = self.slots.iter().collect();
        for slot in slots {
            self.link(slot, column);
        }
    }

    /// Returns whether [`ensure_index`](Self::ensure_index) would make an index on a column.
    fn can_index(&self, column: usize) -> bool {
        self.indexes[column].is_none() && !is_found_by_key(&self.shape, column)
    }

    /// Returns the rows that fulfil all of `conditions`. They are found by the key or by the index
    /// with the fewest candidates; if no condition has either, every row is looked at.
    pub fn find(&self, conditions: &[Condition]) -> QueryResult<'_> {
        let candidates = self.candidates(conditions);
        let looked_at = candidates.slots.len();
        let mut rows = Vec::new();
        for slot in candidates.slots {
            let mut conditions = conditions.iter();
            if conditions.all(|condition| self.fulfils(slot, condition)) {
                rows.push(Row { cache: self, slot });
            }
        }
        QueryResult {
            rows,
            access: candidates.access,
            looked_at,
        }
    }

    /// Chooses the way to find the rows that fulfil `conditions`, and returns the slots found.
    fn candidates(&self, conditions: &[Condition]) -> Candidates {
        // A key finds at most one row: no index can do better.
        if let Some(key) = self.named_key(conditions) {
            let slot = self.slot_of(key.into_iter());
            return Candidates {
                access: AccessPath::Key,
                slots: slot.into_iter().collect(),
            };
        }
        let by_index = conditions
            .iter()
            .filter_map(|condition| Some((condition.column, self.by_index(condition)?)));
        match by_index.min_by_key(|(_, hits)| hits.len()) {
            Some((column, hits)) => Candidates {
                access: AccessPath::Index(column),
                slots: hits.iter().collect(),
            },
            None => Candidates {
                access: AccessPath::Scan,
                slots: self.slots.iter().collect(),
            },
        }
    }

    /// Returns the cells of the key that `conditions` name, in key order. Returns `None` if the key
    /// table cannot answer `conditions`: a key column has no condition on its value, or is of a
    /// type with several cells for one value.
    fn named_key<'c>(&self, conditions: &'c [Condition]) -> Option<Vec<&'c [u8]>> {
        let mut key = Vec::with_capacity(self.shape.key().len());
        for &column in self.shape.key() {
            // The key table compares cells by their bytes, a condition by their comparable forms.
            // Numeric keys 1.10 and 1.1 are one value to SQL and two to the key table.
            if !self.shape.columns()[column].kind.compares_by_cell() {
                return None;
            }
            let cell = conditions
                .iter()
                .find_map(|condition| match &condition.wanted {
                    Predicate::Cell(cell) if condition.column == column => Some(cell.as_slice()),
                    _ => None,
                })?;
            key.push(cell);
        }
        Some(key)
    }

    /// Returns the slots that the index of a condition's column finds; `None` if the column has no
    /// index, or the index cannot answer the condition.
    fn by_index(&self, condition: &Condition) -> Option<Hits<'_>> {
        let index = self.indexes[condition.column].as_ref()?;
        let kind = self.shape.columns()[condition.column].kind;
        let wanted = match &condition.wanted {
            Predicate::Cell(cell) => Some(kind.comparable(cell)),
            Predicate::Null => None,
            Predicate::NotNull | Predicate::Passes(_) => return None,
        };
        let hash = self.value_hash(wanted.as_deref());
        Some(index.get(hash, |slot| {
            self.comparable(slot, condition.column) == wanted
        }))
    }

    /// Returns whether the row in `slot` fulfils a condition.
    fn fulfils(&self, slot: u32, condition: &Condition) -> bool {
        let kind = self.shape.columns()[condition.column].kind;
        condition.wanted.is(kind, self.cell(slot, condition.column))
    }

    /// Returns the cell of a column in the row of `slot`; `None` is SQL NULL.
    fn cell(&self, slot: u32, column: usize) -> Option<&[u8]> {
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
    fn comparable(&self, slot: u32, column: usize) -> Option<Cow<'_, [u8]>> {
        self.cell(slot, column)
            .map(|cell| self.shape.columns()[column].kind.comparable(cell))
    }

    /// Returns whether a cell and `other` stand in the same place of an index.
    fn is_equal(&self, slot: u32, column: usize, other: Option<&[u8]>) -> bool {
        let kind = self.shape.columns()[column].kind;
        self.comparable(slot, column) == other.map(|cell| kind.comparable(cell))
    }

    /// Returns the hash that an index has for a value; `None` is SQL NULL.
    fn value_hash(&self, comparable: Option<&[u8]>) -> u64 {
        self.hasher.hash_one(comparable)
    }

    /// Returns the hash that the index of a column has for the row in `slot`.
    fn slot_hash(&self, slot: u32, column: usize) -> u64 {
        self.value_hash(self.comparable(slot, column).as_deref())
    }

    /// Returns the hash that the key table has for the cells of a key.
    fn hash_cells<'a>(&self, cells: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for cell in cells {
            // With the lengths: else ("ab", "c") and ("a", "bc") would have one hash.
            hasher.write_usize(cell.len());
            hasher.write(cell);
        }
        hasher.finish()
    }

    /// Returns the key cells of the row in `slot`, in key order.
    fn key_cells(&self, slot: u32) -> impl Iterator<Item = &[u8]> {
        // A key column is never NULL, so the empty cell is never used.
        self.shape
            .key()
            .iter()
            .map(move |&column| self.cell(slot, column).unwrap_or(&[]))
    }

    /// Returns the hash that the key table has for the row in `slot`.
    fn key_hash(&self, slot: u32) -> u64 {
        self.hash_cells(self.key_cells(slot))
    }

    /// Returns the slot of the row with these key cells.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an iterator that is cloned is as good as given away"
    )]
    fn slot_of<'a>(&self, key: impl Iterator<Item = &'a [u8]> + Clone) -> Option<u32> {
        self.by_key.find(self.hash_cells(key.clone()), |slot| {
            self.key_cells(slot).eq(key.clone())
        })
    }

    /// Stores a row whose key the caller knows to be new, and returns its slot.
    fn store_new(&mut self, row: &RowBuf) -> Result<u32, StoreError> {
        // The two steps that can fail come first (invariant 4).
        let record = Record::new(&self.shape, row)?;
        let slot = self.slots.take().ok_or(StoreError::Full)?;
        self.fixed.ensure(slot);
        // A new fixed part is all zeros, which reads as the first record of the first chunk:
        // `write` would free that record.
        self.shape
            .set_place_of_record(self.fixed.row_mut(slot), RecordPlace::NONE);
        self.write(slot, row, &record);
        let hash = self.key_hash(slot);
        // The key table is moved out of `self` for the moment: hashing a key reads the rest of
        // `self`.
        let mut by_key = std::mem::replace(&mut self.by_key, SlotTable::with_capacity(0));
        by_key.insert_unique(hash, slot, |other| self.key_hash(other));
        self.by_key = by_key;
        for column in 0..self.indexes.len() {
            self.link(slot, column);
        }
        Ok(slot)
    }

    /// Writes the cells of `row` into `slot`, and frees the record that the slot had. `record` is
    /// made of the same row.
    fn write(&mut self, slot: u32, row: &RowBuf, record: &Record<'_>) {
        self.free_record(slot);
        let place = self.arena.store(slot, record);
        let fixed = self.fixed.row_mut(slot);
        row.write_fixed(&self.shape, fixed);
        self.shape.set_place_of_record(fixed, place);
        self.compact();
    }

    /// Frees the record of the row in `slot`, if there is one.
    fn free_record(&mut self, slot: u32) {
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

    /// Enters `slot` in the index of a column, if there is one, under the stored cell.
    fn link(&mut self, slot: u32, column: usize) {
        // The index is moved out of `self` for the moment: comparing and hashing read the rest.
        let Some(mut index) = self.indexes[column].take() else {
            return;
        };
        let value = self.comparable(slot, column);
        index.insert(
            self.slot_hash(slot, column),
            slot,
            |other| self.comparable(other, column) == value,
            &|other: u32| self.slot_hash(other, column),
        );
        drop(value);
        self.indexes[column] = Some(index);
    }

    /// Takes `slot` out of the index of a column, if there is one. The cell under which the slot
    /// was linked must still stand.
    fn unlink(&mut self, slot: u32, column: usize) {
        let Some(mut index) = self.indexes[column].take() else {
            return;
        };
        let value = self.comparable(slot, column);
        index.remove(self.slot_hash(slot, column), slot, |other| {
            self.comparable(other, column) == value
        });
        drop(value);
        self.indexes[column] = Some(index);
    }

    /// Checks the invariants; for tests.
    ///
    /// # Errors
    /// If an invariant is violated, with a text that says which.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        fn sorted(mut slots: Vec<u32>) -> Vec<u32> {
            slots.sort_unstable();
            slots
        }
        let used: Vec<u32> = self.slots.iter().collect();
        if sorted(self.by_key.validate(|slot| self.key_hash(slot))?) != used {
            return Err("the key table does not hold exactly the slots in use".to_string());
        }
        for &slot in &used {
            let key: Vec<&[u8]> = self.key_cells(slot).collect();
            if self.slot_of(key.into_iter()) != Some(slot) {
                return Err(format!("slot {slot} is not found by its key"));
            }
        }
        for (column, index) in self.indexes.iter().enumerate() {
            let Some(index) = index else { continue };
            if sorted(index.validate(&|slot: u32| self.slot_hash(slot, column))?) != used {
                return Err(format!(
                    "the index on column {column} does not hold exactly the slots in use"
                ));
            }
        }
        let records = used.iter().map(|&slot| StoredRecord {
            slot,
            place: self.shape.place_of_record(self.fixed.row(slot)),
        });
        self.arena.validate(records)
    }
}

/// Returns whether the key table finds rows by the value of this column: the column is the whole
/// key, and each value has one cell.
fn is_found_by_key(shape: &TableShape, column: usize) -> bool {
    shape.key() == [column] && shape.columns()[column].kind.compares_by_cell()
}

/// Returns whether an index on its column can answer a predicate. A hash index finds one value, or
/// NULL. It cannot find all the values that are not NULL.
fn is_answered_by_index(wanted: &Predicate) -> bool {
    matches!(wanted, Predicate::Cell(_) | Predicate::Null)
}

impl fmt::Debug for TableCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableCache")
            .field("rows", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
