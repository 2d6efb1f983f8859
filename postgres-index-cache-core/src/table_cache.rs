//! [`TableCache`]: the rows of a table whose columns are known only at run time, found by key and
//! by conditions on any columns.
//!
//! ```text
//! key ─→ slot table ─┐                       ┌ null bits · fixed-width cells · where the record is
//! column indexes ────┴─→ slot ─→ fixed part ─┤
//!                                            └→ record in the arena: the cells of no fixed width
//! ```
//!
//! Columns of integers and uuids have an index from the start, unless [`IndexedColumns`] says
//! otherwise; a column that is the whole key needs none, since the key table finds its row. Another
//! column has one only after [`TableCache::ensure_index`] was called for that column. Whoever keeps
//! a cache for long calls it before the first [`find`](TableCache::find) with conditions on the
//! column: `pgic shell` and `pgic query --watch` do. Whoever asks once does not: a scan of every
//! row takes less time than making an index.
//!
//! # Invariants
//! 1. A slot is in use exactly when a row stands in that slot. The key table holds each slot in use
//!    once, under the key cells of its row; but for the rows that were appended and are not indexed
//!    yet, which are no part of the cache.
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
#[cfg(feature = "postgres")]
mod row_deserializer;
mod row_store;
mod seen;
mod shape;

pub use condition::{CellTest, Condition, Predicate};
pub use outcome::{StoreError, Upserted};
pub use row::{JsonNulls, KeyBuf, RowBuf, RowError};
#[cfg(feature = "postgres")]
pub(crate) use row_deserializer::{RowDeserializer, read_key};
pub use seen::SeenRows;
pub use shape::{Column, ShapeError, TableShape};

use crate::index::{Hashed, Hits, MultiIndex, SlotTable};
use arena::Record;
use row_store::RowStore;
use std::fmt;
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

/// The slots in which the rows that fulfil the conditions of a query can be.
enum Candidates<'a> {
    /// The slot of the row with the key that the conditions name, if there is one.
    Key(Option<u32>),
    /// The slots that the index of a column has for the value in one condition.
    Index {
        /// The position of that condition.
        condition: usize,
        hits: Hits<'a>,
    },
    /// Every slot in use.
    Scan,
}

/// The columns that have an index from the start. Each index costs time for each row that is
/// loaded, and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum IndexedColumns {
    /// The columns of integers and uuids.
    #[default]
    IntegersAndUuids,
    /// The columns with these positions in the shape.
    Only(Vec<usize>),
}

impl IndexedColumns {
    /// Returns whether a column has an index from the start.
    pub fn has(&self, shape: &TableShape, column: usize) -> bool {
        match self {
            Self::IntegersAndUuids => shape.columns()[column].kind.is_indexed_at_load(),
            Self::Only(columns) => columns.contains(&column),
        }
    }
}

/// What a change looks at first; see [`TableCache::touch`].
#[derive(Debug, Clone, Copy)]
pub enum Touched<'a, R> {
    /// A row that is stored.
    Row(&'a R),
    /// The key of a row that is removed.
    Key(&'a KeyBuf),
}

/// The number of rows that are appended before they are indexed together. More would find more
/// entries for each segment, and would take more room meanwhile: 8 MB for so many.
pub const APPENDED: usize = 1 << 18;

/// The rows of one table with their indexes.
pub struct TableCache {
    rows: RowStore,
    by_key: SlotTable,
    /// For each column of the shape, its index if there is one.
    indexes: Vec<Option<MultiIndex>>,
    /// The columns that have an index from the start.
    indexed: IndexedColumns,
    /// The slots from this one on were appended and are not indexed yet.
    appended_from: u32,
    /// Room for the rows that are indexed together, which is used again.
    hashed: Vec<Hashed>,
    /// As `hashed`: the same rows in another order.
    ordered: Vec<Hashed>,
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
        self.cache.rows.cell(self.slot, column)
    }

    /// Returns the number of the row's slot, which the row keeps while it is in the cache. As long
    /// as no row was removed, slots are in the order of arrival.
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Returns a copy of the row. Later changes of the cache do not reach the copy.
    pub fn to_buf(&self) -> RowBuf {
        let columns = self.cache.shape().columns().len();
        RowBuf::of_cells((0..columns).map(|column| self.cell(column)))
    }

    /// Appends the row as one JSON object with the columns whose positions are `columns`, in that
    /// order.
    pub fn write_json(&self, columns: &[usize], json: &mut String) {
        self.cache
            .shape()
            .write_json(columns, |column| self.cell(column), json);
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<usize> = (0..self.cache.shape().columns().len()).collect();
        let mut json = String::new();
        self.write_json(&columns, &mut json);
        f.write_str(&json)
    }
}

impl TableCache {
    /// Makes an empty cache for rows of `shape`. The key table and the indexes have room for
    /// `expected` rows at once.
    pub fn new(shape: Arc<TableShape>, expected: usize) -> Self {
        Self::with_indexes(shape, expected, IndexedColumns::default())
    }

    /// Makes an empty cache as [`new`](Self::new) does, with indexes on these columns.
    pub fn with_indexes(shape: Arc<TableShape>, expected: usize, indexed: IndexedColumns) -> Self {
        let mut indexes = Vec::new();
        for column in 0..shape.columns().len() {
            let is_indexed = indexed.has(&shape, column) && !is_found_by_key(&shape, column);
            indexes.push(is_indexed.then(|| MultiIndex::with_capacity(expected)));
        }
        Self {
            rows: RowStore::new(shape, expected),
            by_key: SlotTable::with_capacity(expected),
            indexes,
            indexed,
            appended_from: 0,
            hashed: Vec::new(),
            ordered: Vec::new(),
        }
    }

    /// Makes the cache, which is empty, one with room for `expected` rows.
    #[cfg(feature = "postgres")]
    pub(crate) fn make_room(&mut self, expected: usize) {
        *self = Self::with_indexes(Arc::clone(self.shape()), expected, self.indexed.clone());
    }

    /// Returns the shape of the table: its columns and its key.
    pub fn shape(&self) -> &Arc<TableShape> {
        &self.rows.shape
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.stored() - self.appended()
    }

    /// Returns whether the cache holds no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of rows, those included that were appended and are not indexed yet.
    pub fn stored(&self) -> usize {
        self.rows.slots.len()
    }

    /// Returns the number of rows that were appended and are not indexed yet.
    fn appended(&self) -> usize {
        // None of these slots was released: whatever removes a row indexes all of them first.
        (self.rows.slots.end() - self.appended_from) as usize
    }

    /// Returns the bytes that the cache occupies.
    pub fn memory_bytes(&self) -> usize {
        let indexes = self.indexes.iter().flatten().map(MultiIndex::memory_bytes);
        let room = self.hashed.capacity() + self.ordered.capacity();
        self.rows.memory_bytes()
            + self.by_key.memory_bytes()
            + indexes.sum::<usize>()
            + room * size_of::<Hashed>()
    }

    /// Returns the row with this key.
    pub fn get(&self, key: &KeyBuf) -> Option<Row<'_>> {
        self.slot_of(key.cells()).map(|slot| self.row(slot))
    }

    /// Returns the row in a slot that is in use.
    fn row(&self, slot: u32) -> Row<'_> {
        Row { cache: self, slot }
    }

    /// Returns all rows, in no particular order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.slots_from(0).map(|slot| self.row(slot))
    }

    /// Returns the rows from the slot `from` on, in the order of their slots.
    #[cfg(feature = "postgres")]
    pub(crate) fn rows_from(&self, from: u32) -> impl Iterator<Item = Row<'_>> {
        self.slots_from(from).map(|slot| self.row(slot))
    }

    /// Returns the slots of rows from `from` on, in ascending order.
    fn slots_from(&self, from: u32) -> impl Iterator<Item = u32> + '_ {
        let slots = self.rows.slots.iter_from(from);
        slots.take_while(|&slot| slot < self.appended_from)
    }

    /// Appends a row of a snapshot, which is part of the cache only after
    /// [`index_appended`](Self::index_appended). That is many times faster than to add the rows
    /// one by one: see [`SlotTable::add_by_segment`].
    ///
    /// # Errors
    /// If the cache is full, the row is too long, or, for every [`APPENDED`] rows, as
    /// [`index_appended`](Self::index_appended).
    pub fn append(&mut self, row: &RowBuf) -> Result<(), StoreError> {
        self.rows.append(row)?;
        if self.appended() < APPENDED {
            return Ok(());
        }
        self.index_appended()
    }

    /// Enters the rows that were appended in the key table and the indexes.
    ///
    /// # Errors
    /// If a row has the key of another one. The other one stays, this one is dropped, and the rows
    /// behind it are entered all the same.
    pub fn index_appended(&mut self) -> Result<(), StoreError> {
        let appended = self.appended();
        let from = self.appended_from;
        self.appended_from = self.rows.slots.end();
        if appended == 0 {
            self.hashed = Vec::new();
            self.ordered = Vec::new();
            return Ok(());
        }
        let Self {
            rows,
            by_key,
            indexes,
            hashed,
            ordered,
            ..
        } = self;
        // All hashes first: they are computed in the order in which the rows lie in memory.
        hashed.clear();
        hashed.extend((from..rows.slots.end()).map(|slot| Hashed {
            hash: rows.key_hash(slot),
            entry: slot,
        }));
        by_key.reserve(appended);
        let mut doubles = Vec::new();
        by_key.add_by_segment(hashed, ordered, |by_key, Hashed { hash, entry: slot }| {
            let found = by_key.find_or_insert(
                hash,
                slot,
                |other| rows.has_key(other, rows.key_cells(slot)),
                |other| rows.key_hash(other),
            );
            if found.is_some() {
                doubles.push(slot);
            }
        });
        doubles.sort_unstable();
        let first_double = doubles.first().map(|&slot| {
            let mut key = String::new();
            rows.shape.write_key_text(rows.key_cells(slot), &mut key);
            key
        });
        for &slot in &doubles {
            rows.remove(slot);
        }
        if !doubles.is_empty() {
            hashed.retain(|hashed| doubles.binary_search(&hashed.entry).is_err());
        }
        for (column, index) in indexes.iter_mut().enumerate() {
            let Some(index) = index else { continue };
            for hashed in hashed.iter_mut() {
                hashed.hash = rows.value_hash(hashed.entry, column);
            }
            index.reserve(appended);
            index.insert_all(
                hashed,
                ordered,
                |one, other| rows.have_equal(one, other, column),
                &|slot: u32| rows.value_hash(slot, column),
            );
        }
        if appended < APPENDED {
            // The last rows of a snapshot: the room is not needed again soon.
            *hashed = Vec::new();
            *ordered = Vec::new();
        }
        match first_double {
            Some(key) => Err(StoreError::DuplicateKey(key)),
            None => Ok(()),
        }
    }

    /// Brings near what the next changes look at: the rows that they store, and the rows with the
    /// keys that they remove or change. What is returned means nothing.
    ///
    /// A change needs several lines of memory one after another, each of which may be far away.
    /// Here the lines of many changes are asked for at once, and the memory serves them together.
    pub fn touch(&self, changes: &[Touched<'_, RowBuf>]) -> u32 {
        let shape = self.shape();
        let rows = || {
            changes.iter().filter_map(|change| match change {
                Touched::Row(row) => Some(*row),
                Touched::Key(_) => None,
            })
        };
        let hashes: Vec<u64> = changes
            .iter()
            .map(|change| match change {
                Touched::Row(row) => self.rows.hash_of_key(row.key_cells(shape)),
                Touched::Key(key) => self.rows.hash_of_key(key.cells()),
            })
            .collect();
        let mut near = self.by_key.touch(hashes.iter().copied());
        for (column, index) in self.indexes.iter().enumerate() {
            let Some(index) = index else { continue };
            let kind = shape.columns()[column].kind;
            near ^= index.touch(rows().map(|row| {
                let value = row.cell(column).map(|cell| kind.comparable(cell));
                self.rows.hash_of_value(value.as_deref())
            }));
        }
        // The lines are near: so the rows are found without a wait, and are asked for themselves.
        // The first row whose hash has the tag of a key's is nearly always the row with that key.
        let slots: Vec<u32> = hashes
            .iter()
            .filter_map(|&hash| self.by_key.find(hash, |_| true))
            .collect();
        for &slot in &slots {
            near ^= self.rows.touch(slot);
        }
        // The lines of the values that the rows have now.
        for (column, index) in self.indexes.iter().enumerate() {
            let Some(index) = index else { continue };
            let old = slots.iter().map(|&slot| self.rows.value_hash(slot, column));
            near ^= index.touch(old);
        }
        near
    }

    /// Stores a row whose key must be new.
    ///
    /// # Errors
    /// If a row with this key is in the cache, the cache is full, or the row is too long. The cache
    /// is unchanged then.
    pub fn insert_unique(&mut self, row: &RowBuf) -> Result<(), StoreError> {
        if self.slot_of(row.key_cells(self.shape())).is_some() {
            return Err(StoreError::DuplicateKey(row.key_text(self.shape())));
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
        let found = self.slot_of(row.key_cells(self.shape()));
        if found.is_some_and(|slot| seen.has(slot)) {
            return Err(StoreError::DuplicateKey(row.key_text(self.shape())));
        }
        let (slot, upserted) = self.put(row, found)?;
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
        let swept: Vec<u32> = self.slots_from(0).filter(|&slot| !seen.has(slot)).collect();
        for slot in swept {
            removing(self.row(slot));
            self.remove_slot(slot);
        }
    }

    /// Stores a row, in place of the row with the same key if there is one.
    ///
    /// # Errors
    /// If the cache is full or the row is too long. The cache is unchanged then.
    pub fn upsert(&mut self, row: &RowBuf) -> Result<Upserted, StoreError> {
        let found = self.slot_of(row.key_cells(self.shape()));
        self.put(row, found).map(|(_, upserted)| upserted)
    }

    /// Stores a row in place of the one in the slot `found`, which has the same key; as a new one
    /// if there is none. Returns the row's slot as well.
    fn put(&mut self, row: &RowBuf, found: Option<u32>) -> Result<(u32, Upserted), StoreError> {
        let Some(slot) = found else {
            return self.store_new(row).map(|slot| (slot, Upserted::Added));
        };
        let columns = self.shape().columns().len();
        let differs = |column: usize| self.rows.cell(slot, column) != row.cell(column);
        let Some(first) = (0..columns).find(|&column| differs(column)) else {
            return Ok((slot, Upserted::Unchanged));
        };
        // Of the steps that change a stored row, this is the last that can fail (invariant 4).
        let record = Record::new(self.shape(), row)?;
        // A cell may change and keep its place in the index: 1.10 becomes 1.1.
        let is_relinked = |column: &usize| {
            self.indexes[*column].is_some() && !self.rows.is_equal(slot, *column, row.cell(*column))
        };
        let relinked: Vec<usize> = (first..columns).filter(is_relinked).collect();
        // Unlink, write, link: an index reads the value of a slot from the stored row, so the old
        // cells must stand while a slot is unlinked, and the new ones while it is linked.
        for &column in &relinked {
            self.unlink(slot, column);
        }
        self.rows.write(slot, row, &record);
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
        let hash = self.rows.key_hash(slot);
        self.by_key.remove(hash, |entry| entry == slot);
        self.rows.remove(slot);
    }

    /// Removes every row, and the indexes that [`ensure_index`](Self::ensure_index) made.
    pub fn clear(&mut self) {
        *self = Self::with_indexes(Arc::clone(self.shape()), 0, self.indexed.clone());
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
        let mut index = MultiIndex::with_capacity(self.len());
        let rows = &self.rows;
        let hashed: Vec<Hashed> = self
            .slots_from(0)
            .map(|slot| Hashed {
                hash: rows.value_hash(slot, column),
                entry: slot,
            })
            .collect();
        let mut ordered = Vec::new();
        // In parts, so that the second copy of the hashes stays small.
        for part in hashed.chunks(APPENDED) {
            index.insert_all(
                part,
                &mut ordered,
                |one, other| rows.have_equal(one, other, column),
                &|slot: u32| rows.value_hash(slot, column),
            );
        }
        self.indexes[column] = Some(index);
    }

    /// Returns whether [`ensure_index`](Self::ensure_index) would make an index on a column.
    fn can_index(&self, column: usize) -> bool {
        self.indexes[column].is_none() && !is_found_by_key(self.shape(), column)
    }

    /// Returns the rows that fulfil all of `conditions`. They are found by the key or by the index
    /// with the fewest candidates; if no condition has either, every row is looked at.
    pub fn find(&self, conditions: &[Condition]) -> QueryResult<'_> {
        match self.candidates(conditions) {
            Candidates::Key(slot) => {
                self.filtered(AccessPath::Key, slot.into_iter(), conditions, None)
            }
            Candidates::Index { condition, hits } => {
                let access = AccessPath::Index(conditions[condition].column);
                self.filtered(access, hits.iter(), conditions, Some(condition))
            }
            Candidates::Scan => {
                self.filtered(AccessPath::Scan, self.slots_from(0), conditions, None)
            }
        }
    }

    /// Finds rows by many values of one column at once. Each row is passed to `found` with the
    /// position of the value that it has among `cells`; the values are in that order.
    ///
    /// A look-up waits for two or three lines of memory, one after another. Here the lines of many
    /// look-ups are asked for together, which takes a third of the time if the column has an index
    /// or is the key.
    pub fn find_many<'a>(
        &'a self,
        column: usize,
        cells: &[&[u8]],
        mut found: impl FnMut(usize, Row<'a>),
    ) {
        /// The look-ups whose lines are asked for together: what they bring near must not push out
        /// each other.
        const TOGETHER: usize = 64;
        let kind = self.shape().columns()[column].kind;
        let is_key = is_found_by_key(self.shape(), column);
        let index = self.indexes[column].as_ref();
        for (part, cells) in cells.chunks(TOGETHER).enumerate() {
            let first = part * TOGETHER;
            let mut hashes = [0; TOGETHER];
            let mut near = 0;
            if is_key {
                for (hash, cell) in hashes.iter_mut().zip(cells) {
                    *hash = self.rows.hash_of_key(std::iter::once(*cell));
                }
                let hashes = &hashes[..cells.len()];
                near ^= self.by_key.touch(hashes.iter().copied());
                for &hash in hashes {
                    near ^= self.touch_likely(self.by_key.find(hash, |_| true));
                }
                for (at, (&hash, cell)) in hashes.iter().zip(cells).enumerate() {
                    let has_key = |slot| self.rows.has_key(slot, std::iter::once(*cell));
                    if let Some(slot) = self.by_key.find(hash, has_key) {
                        found(first + at, self.row(slot));
                    }
                }
            } else if let Some(index) = index {
                for (hash, cell) in hashes.iter_mut().zip(cells) {
                    *hash = self.rows.hash_of_value(Some(&kind.comparable(cell)));
                }
                let hashes = &hashes[..cells.len()];
                near ^= index.touch(hashes.iter().copied());
                for &hash in hashes {
                    near ^= self.touch_likely(index.get(hash, |_| true).iter().next());
                }
                for (at, (&hash, cell)) in hashes.iter().zip(cells).enumerate() {
                    let wanted = Some(*cell);
                    let hits = index.get(hash, |slot| self.rows.is_equal(slot, column, wanted));
                    for slot in hits.iter() {
                        found(first + at, self.row(slot));
                    }
                }
            } else {
                for (at, cell) in cells.iter().enumerate() {
                    let wanted = Predicate::Cell(cell.to_vec());
                    let rows = self.find(&[Condition { column, wanted }]).rows;
                    for row in rows {
                        found(first + at, row);
                    }
                }
            }
            std::hint::black_box(near);
        }
    }

    /// Brings a row near that is likely to be looked at. The result means nothing.
    fn touch_likely(&self, slot: Option<u32>) -> u32 {
        slot.map_or(0, |slot| self.rows.touch(slot))
    }

    /// Returns those of the rows in `slots` that fulfil all of `conditions`. All of them are known
    /// to fulfil the condition at the position `known`.
    fn filtered(
        &self,
        access: AccessPath,
        slots: impl Iterator<Item = u32>,
        conditions: &[Condition],
        known: Option<usize>,
    ) -> QueryResult<'_> {
        let mut looked_at = 0;
        let slots = slots.inspect(|_| looked_at += 1);
        let rows = slots
            .filter(|&slot| {
                let mut conditions = conditions.iter().enumerate();
                conditions.all(|(at, condition)| known == Some(at) || self.fulfils(slot, condition))
            })
            .map(|slot| self.row(slot));
        QueryResult {
            rows: rows.collect(),
            access,
            looked_at,
        }
    }

    /// Chooses the way to find the rows that fulfil `conditions`.
    fn candidates(&self, conditions: &[Condition]) -> Candidates<'_> {
        // A key finds at most one row: no index can do better.
        if let Some(key) = self.named_key(conditions) {
            return Candidates::Key(self.slot_of(key));
        }
        let by_index = conditions
            .iter()
            .enumerate()
            .filter_map(|(at, condition)| Some((at, self.by_index(condition)?)));
        match by_index.min_by_key(|(_, hits)| hits.len()) {
            Some((condition, hits)) => Candidates::Index { condition, hits },
            None => Candidates::Scan,
        }
    }

    /// Returns the cells of the key that `conditions` name, in key order. Returns `None` if the key
    /// table cannot answer `conditions`: a key column has no condition on its value, or is of a
    /// type with several cells for one value.
    fn named_key<'c>(
        &'c self,
        conditions: &'c [Condition],
    ) -> Option<impl Iterator<Item = &'c [u8]> + Clone> {
        let cell_of = move |column: usize| {
            conditions
                .iter()
                .find_map(|condition| match &condition.wanted {
                    Predicate::Cell(cell) if condition.column == column => Some(cell.as_slice()),
                    _ => None,
                })
        };
        let shape = self.shape();
        // The key table compares cells by their bytes, a condition by their comparable forms.
        // Numeric keys 1.10 and 1.1 are one value to SQL and two to the key table.
        let is_named = shape.key().iter().all(|&column| {
            shape.columns()[column].kind.compares_by_cell() && cell_of(column).is_some()
        });
        let key = shape.key().iter();
        is_named.then(|| key.map(move |&column| cell_of(column).unwrap_or(&[])))
    }

    /// Returns the slots that the index of a condition's column finds; `None` if the column has no
    /// index, or the index cannot answer the condition.
    fn by_index(&self, condition: &Condition) -> Option<Hits<'_>> {
        let index = self.indexes[condition.column].as_ref()?;
        let kind = self.shape().columns()[condition.column].kind;
        let wanted = match &condition.wanted {
            Predicate::Cell(cell) => Some(kind.comparable(cell)),
            Predicate::Null => None,
            Predicate::NotNull | Predicate::Passes(_) => return None,
        };
        let hash = self.rows.hash_of_value(wanted.as_deref());
        Some(index.get(hash, |slot| {
            self.rows.comparable(slot, condition.column) == wanted
        }))
    }

    /// Returns whether the row in `slot` fulfils a condition.
    fn fulfils(&self, slot: u32, condition: &Condition) -> bool {
        let kind = self.shape().columns()[condition.column].kind;
        condition
            .wanted
            .is(kind, self.rows.cell(slot, condition.column))
    }

    /// Returns the slot of the row with these key cells.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "an iterator that is cloned is as good as given away"
    )]
    fn slot_of<'a>(&self, key: impl Iterator<Item = &'a [u8]> + Clone) -> Option<u32> {
        self.by_key
            .find(self.rows.hash_of_key(key.clone()), |slot| {
                self.rows.has_key(slot, key.clone())
            })
    }

    /// Stores a row whose key the caller knows to be new, and returns its slot.
    fn store_new(&mut self, row: &RowBuf) -> Result<u32, StoreError> {
        debug_assert_eq!(self.appended(), 0, "rows were appended and not indexed");
        let slot = self.rows.add(row)?;
        self.appended_from = self.rows.slots.end();
        let rows = &self.rows;
        self.by_key
            .insert_unique(rows.key_hash(slot), slot, |other| rows.key_hash(other));
        for column in 0..self.indexes.len() {
            self.link(slot, column);
        }
        Ok(slot)
    }

    /// Enters `slot` in the index of a column, if there is one, under the stored cell.
    fn link(&mut self, slot: u32, column: usize) {
        let (Some(index), rows) = (&mut self.indexes[column], &self.rows) else {
            return;
        };
        index.insert(
            rows.value_hash(slot, column),
            slot,
            |other| rows.have_equal(other, slot, column),
            &|other: u32| rows.value_hash(other, column),
        );
    }

    /// Takes `slot` out of the index of a column, if there is one. The cell under which the slot
    /// was linked must still stand.
    fn unlink(&mut self, slot: u32, column: usize) {
        let (Some(index), rows) = (&mut self.indexes[column], &self.rows) else {
            return;
        };
        index.remove(rows.value_hash(slot, column), slot, |other| {
            rows.have_equal(other, slot, column)
        });
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
        let rows = &self.rows;
        let used: Vec<u32> = self.slots_from(0).collect();
        if sorted(self.by_key.validate(|slot| rows.key_hash(slot))?) != used {
            return Err("the key table does not hold exactly the slots in use".to_string());
        }
        for &slot in &used {
            if self.slot_of(rows.key_cells(slot)) != Some(slot) {
                return Err(format!("slot {slot} is not found by its key"));
            }
        }
        for (column, index) in self.indexes.iter().enumerate() {
            let Some(index) = index else { continue };
            if sorted(index.validate(&|slot: u32| rows.value_hash(slot, column))?) != used {
                return Err(format!(
                    "the index on column {column} does not hold exactly the slots in use"
                ));
            }
        }
        rows.validate()
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
