//! [`TableCache`]: the rows of a table whose columns are known only at run time, found by key and
//! by any column.
//!
//! ```text
//! key ─→ slot table ─┐                       ┌ null bits · fixed-width cells · where the record is
//! column indexes ────┴─→ slot ─→ fixed part ─┤
//!                                            └→ record in the arena: the cells of no fixed width
//! ```
//!
//! # Invariants
//! 1. A slot is in use exactly when it has a row, and the key table holds it once, under the key
//!    cells of that row.
//! 2. An index, where a column has one, holds every slot in use once, under the comparable form of
//!    its cell.
//! 3. A row's record stands in the arena, names the slot of that row, and no two rows share one.
//! 4. A row is stored whole or not at all: what can fail is done before anything is changed.

mod arena;
mod row;
mod shape;

pub use row::{JsonNulls, KeyBuf, RowBuf, RowError};
pub use shape::{Column, ShapeError, TableShape};

use crate::index::{Hits, MultiIndex, SlotTable, Slots};
use crate::value::{CellType, write_json_string};
use arena::{Arena, RecordPlace};
use foldhash::quality::RandomState;
use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// What an upsert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upserted {
    /// The key was not there.
    Added,
    /// The row with the key is another one now.
    Changed,
    /// The row with the key was the same already.
    Unchanged,
}

/// Why a row could not be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A row with the same key is there.
    #[error("two rows have the key {0}")]
    DuplicateKey(String),
    /// The 2^31 rows that a cache can address are in use.
    #[error("the cache is full: it holds 2^31 rows, the most it can address")]
    Full,
    /// The cells of no fixed width take more than 4 GiB.
    #[error("a row of {0} bytes is longer than a cache can hold")]
    TooLong(usize),
    /// The application's model could not take the row.
    #[error("{0}")]
    Model(String),
}

/// Which rows a new snapshot has brought: it is seen over the rows that are there, and what it did
/// not bring is swept.
#[derive(Debug, Default)]
pub struct SeenRows {
    /// The slots, as one bit each.
    slots: Vec<u64>,
}

impl SeenRows {
    /// Marks a slot; whether it was not marked before.
    pub(crate) fn mark(&mut self, slot: u32) -> bool {
        let word = slot as usize / 64;
        let bit = 1 << (slot % 64);
        if self.slots.len() <= word {
            self.slots.resize(word + 1, 0);
        }
        let is_new = self.slots[word] & bit == 0;
        self.slots[word] |= bit;
        is_new
    }

    pub(crate) fn has(&self, slot: u32) -> bool {
        self.slots
            .get(slot as usize / 64)
            .is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }
}

/// What a row must have to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The column's position in the shape.
    pub column: usize,
    /// What the cell must be.
    pub wanted: Predicate,
}

/// What a cell must be to fulfil a [`Condition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// SQL NULL.
    Null,
    /// Anything but SQL NULL.
    NotNull,
    /// Equal to this cell, as [`CellType::comparable`] has it.
    Cell(Vec<u8>),
}

impl Condition {
    /// Whether a row of `shape` fulfils it.
    pub fn is_fulfilled_by(&self, shape: &TableShape, row: &RowBuf) -> bool {
        self.wanted
            .is(shape.columns()[self.column].kind, row.cell(self.column))
    }
}

impl Predicate {
    fn is(&self, kind: CellType, cell: Option<&[u8]>) -> bool {
        match (self, cell) {
            (Self::Null, cell) => cell.is_none(),
            (Self::NotNull, cell) => cell.is_some(),
            (Self::Cell(_), None) => false,
            (Self::Cell(wanted), Some(cell)) => kind.comparable(wanted) == kind.comparable(cell),
        }
    }
}

/// Appends one JSON object with `columns`, by position, in that order.
fn write_json<'a>(
    shape: &TableShape,
    columns: &[usize],
    cell: impl Fn(usize) -> Option<&'a [u8]>,
    json: &mut String,
) {
    json.push('{');
    for (at, &column) in columns.iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        let described = &shape.columns()[column];
        write_json_string(&described.name, json);
        json.push(':');
        match cell(column) {
            Some(cell) => described.kind.write_json(cell, json),
            None => json.push_str("null"),
        }
    }
    json.push('}');
}

/// How an answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessPath {
    /// By the key.
    Key,
    /// By the index on a column, by its position in the shape.
    Index(usize),
    /// By looking at every row.
    Scan,
}

/// The rows that fulfil every condition, and how they were found.
#[derive(Debug)]
pub struct QueryResult<'a> {
    /// The rows, in no order that means anything.
    pub rows: Vec<Row<'a>>,
    /// How they were found.
    pub access: AccessPath,
    /// How many rows were looked at.
    pub looked_at: usize,
}

/// The rows of one table with their indexes.
pub struct TableCache {
    shape: Arc<TableShape>,
    hasher: RandomState,
    slots: Slots,
    fixed: arena::FixedRows,
    arena: Arena,
    by_key: SlotTable,
    indexes: Vec<Option<MultiIndex>>,
}

/// One row of a [`TableCache`].
#[derive(Clone, Copy)]
pub struct Row<'a> {
    cache: &'a TableCache,
    slot: u32,
}

impl<'a> Row<'a> {
    /// The cell of a column by its position in the shape; `None` is SQL NULL.
    pub fn cell(&self, column: usize) -> Option<&'a [u8]> {
        self.cache.cell(self.slot, column)
    }

    /// The position that the row keeps while it is in the cache, in order of arrival where none was
    /// removed.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// A copy of the row, which stays as it is.
    pub fn to_buf(&self) -> RowBuf {
        RowBuf::of_cells((0..self.cache.shape.columns().len()).map(|column| self.cell(column)))
    }

    /// Appends the row as one JSON object with `columns`, by position, in that order.
    pub fn write_json(&self, columns: &[usize], json: &mut String) {
        write_json(&self.cache.shape, columns, |column| self.cell(column), json);
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut json = String::new();
        self.write_json(
            &(0..self.cache.shape.columns().len()).collect::<Vec<_>>(),
            &mut json,
        );
        f.write_str(&json)
    }
}

impl TableCache {
    /// An empty cache for rows of `shape`, sized for `expected` of them.
    pub fn new(shape: Arc<TableShape>, expected: usize) -> Self {
        let index = |column: &Column| {
            column
                .kind
                .is_indexed_at_load()
                .then(|| MultiIndex::with_capacity(expected))
        };
        Self {
            hasher: RandomState::default(),
            slots: Slots::with_capacity(expected),
            fixed: arena::FixedRows::new(shape.stride()),
            arena: Arena::default(),
            by_key: SlotTable::with_capacity(expected),
            // A key of one column is found by the key table.
            indexes: shape
                .columns()
                .iter()
                .enumerate()
                .map(|(at, column)| {
                    if shape.key() == [at] {
                        None
                    } else {
                        index(column)
                    }
                })
                .collect(),
            shape,
        }
    }

    /// The columns and the key.
    pub fn shape(&self) -> &Arc<TableShape> {
        &self.shape
    }

    /// How many rows the cache holds.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the cache holds no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the cache occupies, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
            + self.fixed.memory_bytes()
            + self.arena.memory_bytes()
            + self.by_key.memory_bytes()
            + self
                .indexes
                .iter()
                .flatten()
                .map(MultiIndex::memory_bytes)
                .sum::<usize>()
    }

    /// The row with this key.
    pub fn get(&self, key: &KeyBuf) -> Option<Row<'_>> {
        self.slot_of(key.cells())
            .map(|slot| Row { cache: self, slot })
    }

    /// All rows, in no order that means anything.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.slots.iter().map(|slot| Row { cache: self, slot })
    }

    /// Stores a row that must be new.
    ///
    /// # Errors
    /// When its key is there, or the cache is full; nothing is changed then.
    pub fn insert_unique(&mut self, row: &RowBuf) -> Result<(), StoreError> {
        if self.slot_of(self.shape.key_of(row)).is_some() {
            return Err(StoreError::DuplicateKey(self.shape.key_text(row)));
        }
        self.store_new(row).map(|_| ())
    }

    /// Lays a row of a new snapshot over what is there. A row that the snapshot has brought before
    /// must not come again.
    ///
    /// # Errors
    /// When its key has come before, or the cache is full; nothing is changed then.
    pub fn merge(&mut self, row: &RowBuf, seen: &mut SeenRows) -> Result<Upserted, StoreError> {
        if self
            .slot_of(self.shape.key_of(row))
            .is_some_and(|slot| seen.has(slot))
        {
            return Err(StoreError::DuplicateKey(self.shape.key_text(row)));
        }
        let (slot, upserted) = self.put(row)?;
        seen.mark(slot);
        Ok(upserted)
    }

    /// Spares the row of this key, if there is one, when the rest is swept.
    pub fn mark(&self, key: &KeyBuf, seen: &mut SeenRows) {
        if let Some(slot) = self.slot_of(key.cells()) {
            seen.mark(slot);
        }
    }

    /// Removes what the snapshot has not brought; `removing` is shown each row before.
    pub fn sweep(&mut self, seen: &SeenRows, mut removing: impl FnMut(Row<'_>)) {
        let swept: Vec<u32> = self.slots.iter().filter(|&slot| !seen.has(slot)).collect();
        for slot in swept {
            removing(Row { cache: self, slot });
            self.remove_slot(slot);
        }
    }

    /// Stores a row, in place of the one with its key where there is one.
    ///
    /// # Errors
    /// When the cache is full; nothing is changed then.
    pub fn upsert(&mut self, row: &RowBuf) -> Result<Upserted, StoreError> {
        self.put(row).map(|(_, upserted)| upserted)
    }

    fn put(&mut self, row: &RowBuf) -> Result<(u32, Upserted), StoreError> {
        let Some(slot) = self.slot_of(self.shape.key_of(row)) else {
            return self.store_new(row).map(|slot| (slot, Upserted::Added));
        };
        let changed: Vec<usize> = (0..self.shape.columns().len())
            .filter(|&column| self.cell(slot, column) != row.cell(column))
            .collect();
        if changed.is_empty() {
            return Ok((slot, Upserted::Unchanged));
        }
        let record = arena::Record::new(&self.shape, row)?;
        let relinked: Vec<usize> = changed
            .into_iter()
            .filter(|&column| {
                self.indexes[column].is_some() && !self.is_equal(slot, column, row.cell(column))
            })
            .collect();
        for &column in &relinked {
            self.unlink(slot, column);
        }
        self.write(slot, row, &record);
        for &column in &relinked {
            self.link(slot, column);
        }
        Ok((slot, Upserted::Changed))
    }

    /// Removes the row with this key; whether there was one.
    pub fn remove(&mut self, key: &KeyBuf) -> bool {
        let slot = self.slot_of(key.cells());
        slot.inspect(|&slot| self.remove_slot(slot)).is_some()
    }

    fn remove_slot(&mut self, slot: u32) {
        for column in 0..self.indexes.len() {
            self.unlink(slot, column);
        }
        let hash = self.key_hash(slot);
        self.by_key.remove(hash, |entry| entry == slot);
        self.free_record(slot);
        self.slots.release(slot);
        self.compact();
    }

    /// Removes every row. Indexes that were built on use are gone with them.
    pub fn clear(&mut self) {
        *self = Self::new(Arc::clone(&self.shape), 0);
    }

    /// Indexes a column, so that conditions on it need no scan. Takes a pass over the rows.
    pub fn ensure_index(&mut self, column: usize) {
        if self.indexes[column].is_some() || self.shape.key() == [column] {
            return;
        }
        self.indexes[column] = Some(MultiIndex::with_capacity(self.len()));
        let slots: Vec<u32> = self.slots.iter().collect();
        for slot in slots {
            self.link(slot, column);
        }
    }

    /// The rows that fulfil all of `conditions`, by the key or the index that finds the fewest.
    pub fn find(&self, conditions: &[Condition]) -> QueryResult<'_> {
        let (access, candidates): (AccessPath, Vec<u32>) = match self.best_access(conditions) {
            Some((access, hits)) => (access, hits.iter().collect()),
            None => match self.by_single_key(conditions) {
                Some(slots) => (AccessPath::Key, slots),
                None => (AccessPath::Scan, self.slots.iter().collect()),
            },
        };
        let looked_at = candidates.len();
        let fits = |slot: &u32| {
            conditions
                .iter()
                .all(|condition| self.fulfils(*slot, condition))
        };
        let rows = candidates
            .into_iter()
            .filter(fits)
            .map(|slot| Row { cache: self, slot })
            .collect();
        QueryResult {
            rows,
            access,
            looked_at,
        }
    }

    /// The slots that a condition on a key of one column finds, none or one; `None` when there is
    /// no such condition.
    fn by_single_key(&self, conditions: &[Condition]) -> Option<Vec<u32>> {
        let &[key] = self.shape.key() else {
            return None;
        };
        conditions
            .iter()
            .find_map(|condition| match &condition.wanted {
                Predicate::Cell(cell)
                    if condition.column == key
                        && self.shape.columns()[key].kind.is_indexed_at_load() =>
                {
                    Some(
                        self.slot_of(std::iter::once(cell.as_slice()))
                            .into_iter()
                            .collect(),
                    )
                }
                _ => None,
            })
    }

    fn best_access(&self, conditions: &[Condition]) -> Option<(AccessPath, Hits<'_>)> {
        if self.by_single_key(conditions).is_some() {
            return None;
        }
        let of_index = |condition: &Condition| {
            let index = self.indexes[condition.column].as_ref()?;
            let kind = self.shape.columns()[condition.column].kind;
            let wanted = match &condition.wanted {
                Predicate::Cell(cell) => Some(kind.comparable(cell)),
                Predicate::Null => None,
                Predicate::NotNull => return None,
            };
            let hash = self.value_hash(wanted.as_deref());
            let hits = index.get(hash, |slot| {
                self.comparable(slot, condition.column) == wanted
            });
            Some((AccessPath::Index(condition.column), hits))
        };
        conditions
            .iter()
            .filter_map(of_index)
            .min_by_key(|(_, hits)| hits.len())
    }

    fn fulfils(&self, slot: u32, condition: &Condition) -> bool {
        let kind = self.shape.columns()[condition.column].kind;
        condition.wanted.is(kind, self.cell(slot, condition.column))
    }

    fn cell(&self, slot: u32, column: usize) -> Option<&[u8]> {
        let row = self.fixed.row(slot);
        if self.shape.is_null(row, column) {
            return None;
        }
        match self.shape.place(column) {
            shape::CellPlace::Fixed { offset, width } => Some(&row[offset..offset + width]),
            shape::CellPlace::Record { number } => Some(self.arena.cell(
                self.shape.place_of_record(row),
                self.shape.record_cells(),
                number,
            )),
        }
    }

    fn comparable(&self, slot: u32, column: usize) -> Option<Cow<'_, [u8]>> {
        self.cell(slot, column)
            .map(|cell| self.shape.columns()[column].kind.comparable(cell))
    }

    fn is_equal(&self, slot: u32, column: usize, other: Option<&[u8]>) -> bool {
        let kind: CellType = self.shape.columns()[column].kind;
        self.comparable(slot, column) == other.map(|cell| kind.comparable(cell))
    }

    fn value_hash(&self, comparable: Option<&[u8]>) -> u64 {
        self.hasher.hash_one(comparable)
    }

    fn slot_hash(&self, slot: u32, column: usize) -> u64 {
        self.value_hash(self.comparable(slot, column).as_deref())
    }

    fn hash_cells<'a>(&self, cells: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for cell in cells {
            hasher.write_usize(cell.len());
            hasher.write(cell);
        }
        hasher.finish()
    }

    fn key_cells(&self, slot: u32) -> impl Iterator<Item = &[u8]> {
        // A key column is NOT NULL; an empty cell stands for what cannot be.
        self.shape
            .key()
            .iter()
            .map(move |&column| self.cell(slot, column).unwrap_or(&[]))
    }

    fn key_hash(&self, slot: u32) -> u64 {
        self.hash_cells(self.key_cells(slot))
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "an iterator that is cloned is as good as given away"
    )]
    fn slot_of<'a>(&self, key: impl Iterator<Item = &'a [u8]> + Clone) -> Option<u32> {
        self.by_key.find(self.hash_cells(key.clone()), |slot| {
            self.key_cells(slot).eq(key.clone())
        })
    }

    fn store_new(&mut self, row: &RowBuf) -> Result<u32, StoreError> {
        let record = arena::Record::new(&self.shape, row)?;
        let slot = self.slots.take().ok_or(StoreError::Full)?;
        self.fixed.ensure(slot);
        self.shape
            .set_place_of_record(self.fixed.row_mut(slot), RecordPlace::NONE);
        self.write(slot, row, &record);
        let hash = self.key_hash(slot);
        let mut by_key = std::mem::replace(&mut self.by_key, SlotTable::with_capacity(0));
        by_key.insert_unique(hash, slot, |other| self.key_hash(other));
        self.by_key = by_key;
        for column in 0..self.indexes.len() {
            self.link(slot, column);
        }
        Ok(slot)
    }

    /// Writes the cells of `row` into `slot`; what the slot held is freed.
    fn write(&mut self, slot: u32, row: &RowBuf, record: &arena::Record<'_>) {
        self.free_record(slot);
        let place = self.arena.store(slot, record);
        let fixed = self.fixed.row_mut(slot);
        self.shape.write_fixed(fixed, row);
        self.shape.set_place_of_record(fixed, place);
        self.compact();
    }

    fn free_record(&mut self, slot: u32) {
        let place = self.shape.place_of_record(self.fixed.row(slot));
        self.shape
            .set_place_of_record(self.fixed.row_mut(slot), RecordPlace::NONE);
        self.arena.free(place);
    }

    /// Moves what lives out of the chunks that are mostly dead.
    fn compact(&mut self) {
        while let Some(sparse) = self.arena.take_sparse() {
            for (slot, old) in self.arena.records(sparse) {
                if self.slots.is_used(slot)
                    && self.shape.place_of_record(self.fixed.row(slot)) == old
                {
                    let moved = self.arena.relocate(old);
                    self.shape
                        .set_place_of_record(self.fixed.row_mut(slot), moved);
                }
            }
            self.arena.release(sparse);
        }
    }

    fn link(&mut self, slot: u32, column: usize) {
        let Some(mut index) = self.indexes[column].take() else {
            return;
        };
        let value = self.comparable(slot, column);
        let is_same = |other: u32| self.comparable(other, column) == value;
        index.insert(
            self.slot_hash(slot, column),
            slot,
            is_same,
            &|other: u32| self.slot_hash(other, column),
        );
        drop(value);
        self.indexes[column] = Some(index);
    }

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
    /// What is violated.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        let used: Vec<u32> = self.slots.iter().collect();
        let sorted = |mut slots: Vec<u32>| {
            slots.sort_unstable();
            slots
        };
        if sorted(self.by_key.validate(|slot| self.key_hash(slot))?) != used {
            return Err("the key table does not hold exactly the slots in use".to_string());
        }
        for &slot in &used {
            if self.slot_of(self.key_cells(slot).collect::<Vec<_>>().into_iter()) != Some(slot) {
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
        self.arena.validate(
            used.iter()
                .map(|&slot| (slot, self.shape.place_of_record(self.fixed.row(slot)))),
        )
    }
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
