//! [`IdxModelCache`]: the typed rows of one table, found by key and by any number of integer and
//! uuid indexes.
//!
//! ```text
//! key ──→ slot table ─┐
//! i64 index ──────────┼─→ slot ─→ key column · value columns · rows
//! uuid index ─────────┘
//! ```
//!
//! The model's traits return keys by value. Therefore the key and the indexed values of each row
//! are kept in columns beside the rows. A look-up then never calls into the model, and a row that
//! is replaced is unlinked under exactly the values that it was linked under.
//!
//! # Invariants
//! 1. A slot is in use exactly when a row stands in that slot. The key table holds each slot in use
//!    once.
//! 2. The key column holds each row's primary key.
//! 3. An index holds a slot exactly when the value column beside the index holds a value for that
//!    slot, and holds the slot under that value.
//! 4. An operation that fails changes nothing, even if it fails by a panic in the model. The model
//!    is asked for key and index values before the first change.

use crate::index::{Hits, HitsIter, MAX_SLOTS, MultiIndex, SegVec, SlotTable, Slots};
use crate::model::{HasPrimaryKey, Indexable};
#[cfg(feature = "postgres")]
use crate::table_cache::{SeenRows, StoreError, Upserted};
use foldhash::quality::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use uuid::Uuid;

/// The reason why rows could not be put into an [`IdxModelCache`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Two rows have the same primary key.
    #[error("duplicate key {0}: a row with this primary key is in the cache already")]
    DuplicateKey(Uuid),
    /// All 2^31 slots that a cache can address are in use.
    #[error("the cache is full: it holds {MAX_SLOTS} rows, the most it can address")]
    Full,
}

/// The typed rows of one table with their indexes.
///
/// ```
/// use postgres_index_cache_core::{HasPrimaryKey, IdxModelCache, Indexable};
/// use std::collections::HashMap;
/// use uuid::Uuid;
///
/// #[derive(Clone)]
/// struct User { id: Uuid, username_hash: i64 }
/// impl HasPrimaryKey for User {
///     fn primary_key(&self) -> Uuid { self.id }
/// }
/// impl Indexable for User {
///     fn i64_keys(&self) -> HashMap<String, Option<i64>> {
///         HashMap::from([("username_hash".to_string(), Some(self.username_hash))])
///     }
///     fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> { HashMap::new() }
/// }
///
/// let id = Uuid::from_u128(1);
/// let cache = IdxModelCache::new(vec![User { id, username_hash: 123 }])?;
/// let found = cache.get_by_i64_index("username_hash", &123);
/// let found: Vec<_> = found.into_iter().flatten().collect();
/// assert_eq!(found, [&id]);
/// # Ok::<(), postgres_index_cache_core::CacheError>(())
/// ```
pub struct IdxModelCache<T> {
    hasher: RandomState,
    slots: Slots,
    /// The primary key of each row, by slot.
    keys: SegVec<Uuid>,
    /// The rows by slot; `None` in a slot that was released.
    rows: SegVec<Option<T>>,
    by_key: SlotTable,
    i64_indexes: Vec<ValueIndex<i64>>,
    uuid_indexes: Vec<ValueIndex<Uuid>>,
    /// Scratch space for the integer values of the row that is being stored. They are taken from
    /// the model before anything is changed.
    i64_values: NamedValues<i64>,
    /// Scratch space for the uuid values of the row that is being stored.
    uuid_values: NamedValues<Uuid>,
    /// The number of rows that were stored so far; see [`ValueIndex::named_in`].
    writes: u64,
    /// By slot, a digest of the cells that the row was made of. Only rows that a replica stores
    /// have one. The replica tells by the digest that a row which came again is unchanged, and
    /// answers with it whoever asks for the row.
    digests: SegVec<[u8; 16]>,
    /// The number of rows that the cache was made for. A new index is sized for as many.
    expected: usize,
}

/// The primary keys of the rows that an index found.
#[derive(Clone)]
pub struct PrimaryKeys<'a> {
    keys: &'a SegVec<Uuid>,
    hits: HitsIter<'a>,
}

impl<'a> Iterator for PrimaryKeys<'a> {
    type Item = &'a Uuid;

    fn next(&mut self) -> Option<&'a Uuid> {
        self.hits.next().and_then(|slot| self.keys.get(slot))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.hits.size_hint()
    }
}

impl ExactSizeIterator for PrimaryKeys<'_> {}

impl fmt::Debug for PrimaryKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// One named index with the column of values that its slots are linked under.
struct ValueIndex<V> {
    name: Box<str>,
    /// The indexed value of each row, by slot.
    values: SegVec<Option<V>>,
    index: MultiIndex,
    /// The number of the last write whose row named this index. A row that does not name an index
    /// is not found by that index.
    named_in: u64,
}

/// Returns the value in `slot` of a column; `None` for NULL and past the column's end.
fn value_in<V: Copy>(values: &SegVec<Option<V>>, slot: u32) -> Option<V> {
    values.get(slot).copied().flatten()
}

/// Returns the hash of the value in `slot` of a column. Zero stands for NULL, which no index holds.
fn value_hash<V: Copy + Hash>(values: &SegVec<Option<V>>, hasher: &RandomState, slot: u32) -> u64 {
    value_in(values, slot).map_or(0, |value| hasher.hash_one(value))
}

/// The sizes that an index is made with when a row names that index for the first time.
#[derive(Clone, Copy)]
struct IndexSize {
    /// The number of values to make room for.
    expected: usize,
    /// One past the highest slot that was ever used.
    slots_end: u32,
}

impl<V: Copy + Eq + Hash> ValueIndex<V> {
    /// Makes an empty index. All slots below `size.slots_end` are NULL in its column.
    fn new(name: &str, size: IndexSize) -> Self {
        let mut values = SegVec::new();
        (0..size.slots_end).for_each(|slot| values.set(slot, None));
        Self {
            name: name.into(),
            values,
            index: MultiIndex::with_capacity(size.expected),
            named_in: 0,
        }
    }

    /// Returns the value that the row in `slot` is indexed under.
    fn value(&self, slot: u32) -> Option<V> {
        value_in(&self.values, slot)
    }

    /// Returns the slots whose rows have `value`.
    fn hits(&self, hasher: &RandomState, value: V) -> Hits<'_> {
        self.index.get(hasher.hash_one(value), |slot| {
            self.value(slot) == Some(value)
        })
    }

    /// Makes `value` the indexed value of `slot`; `None` takes the slot out of the index. Does
    /// nothing if the slot has that value already.
    fn link(&mut self, hasher: &RandomState, slot: u32, value: Option<V>) {
        let old = self.value(slot);
        // A new slot needs a place in the column even for NULL: a column has no gaps.
        let has_place = self.values.get(slot).is_some();
        if old == value && has_place {
            return;
        }
        if let Some(old) = old {
            let values = &self.values;
            self.index.remove(hasher.hash_one(old), slot, |other| {
                value_in(values, other) == Some(old)
            });
        }
        // The value stands in the column before its slot is linked: when the index grows, it hashes
        // each slot, the new one too, by the column.
        self.values.set(slot, value);
        if let Some(value) = value {
            let values = &self.values;
            self.index.insert(
                hasher.hash_one(value),
                slot,
                |other| value_in(values, other) == Some(value),
                &|other: u32| value_hash(values, hasher, other),
            );
        }
    }

    /// Brings near in memory the lines of the values that the rows in `slots` have. What is
    /// returned means nothing.
    #[cfg(feature = "postgres")]
    fn touch(&self, hasher: &RandomState, slots: &[u32]) -> u32 {
        let hashes = slots
            .iter()
            .map(|&slot| value_hash(&self.values, hasher, slot));
        self.index.touch(hashes)
    }

    /// Returns the bytes that the index and its column occupy.
    fn memory_bytes(&self) -> usize {
        self.values.memory_bytes() + self.index.memory_bytes()
    }

    /// Checks invariant 3 for this index. `used` are the slots in use, in ascending order.
    fn validate(&self, hasher: &RandomState, used: &[u32]) -> Result<(), String> {
        let mut indexed = self
            .index
            .validate(&|slot: u32| value_hash(&self.values, hasher, slot))?;
        indexed.sort_unstable();
        let valued: Vec<u32> = used
            .iter()
            .copied()
            .filter(|&slot| self.value(slot).is_some())
            .collect();
        if indexed == valued {
            Ok(())
        } else {
            Err(format!(
                "index {} holds {indexed:?}, not {valued:?}",
                self.name
            ))
        }
    }
}

/// The values that a row names for its indexes. Each is the position of an index in the cache's
/// list and the row's value there.
struct NamedValues<V>(Vec<(usize, Option<V>)>);

impl<V> Default for NamedValues<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: Copy + Eq + Hash> NamedValues<V> {
    /// Asks the model for a row's values. If the row names an index for the first time, an empty
    /// index of `size` is made.
    ///
    /// `visit` is the application's code and may panic. Nothing but the scratch vector and an empty
    /// index has changed by then, so the cache stays sound.
    fn collect(
        &mut self,
        indexes: &mut Vec<ValueIndex<V>>,
        size: IndexSize,
        visit: impl FnOnce(&mut dyn FnMut(&str, Option<V>)),
    ) {
        self.0.clear();
        visit(&mut |name, value| {
            // A model names a handful of indexes: a scan of their names will do.
            let known = indexes.iter().position(|index| &*index.name == name);
            let at = known.unwrap_or_else(|| {
                indexes.push(ValueIndex::new(name, size));
                indexes.len() - 1
            });
            self.0.push((at, value));
        });
    }

    /// Links `slot` under the collected values, and takes the slot out of the indexes that its row
    /// does not name. `write` is the number of this write.
    fn link(&self, indexes: &mut [ValueIndex<V>], hasher: &RandomState, slot: u32, write: u64) {
        for &(at, value) in &self.0 {
            indexes[at].named_in = write;
            indexes[at].link(hasher, slot, value);
        }
        for index in indexes.iter_mut().filter(|index| index.named_in != write) {
            index.link(hasher, slot, None);
        }
    }
}

impl<T: HasPrimaryKey + Indexable> IdxModelCache<T> {
    /// Makes a cache of `rows`, sized for them.
    ///
    /// # Errors
    /// [`CacheError::DuplicateKey`] if two rows have the same primary key.
    pub fn new(rows: Vec<T>) -> Result<Self, CacheError> {
        let mut cache = Self::with_capacity(rows.len());
        rows.into_iter()
            .try_for_each(|row| cache.insert_unique(row))?;
        Ok(cache)
    }

    /// Makes an empty cache with room for `expected` rows.
    pub fn with_capacity(expected: usize) -> Self {
        Self {
            hasher: RandomState::default(),
            slots: Slots::with_capacity(expected),
            keys: SegVec::new(),
            rows: SegVec::new(),
            by_key: SlotTable::with_capacity(expected),
            i64_indexes: Vec::new(),
            uuid_indexes: Vec::new(),
            i64_values: NamedValues::default(),
            uuid_values: NamedValues::default(),
            writes: 0,
            digests: SegVec::new(),
            expected,
        }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether the cache holds no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the row with this primary key.
    pub fn get_by_primary(&self, key: &Uuid) -> Option<&T> {
        self.rows.get(self.slot(key)?)?.as_ref()
    }

    /// Returns whether a row has this primary key.
    pub fn contains_primary(&self, key: &Uuid) -> bool {
        self.slot(key).is_some()
    }

    /// Returns the primary keys of the rows that have `value` in the integer index `name`; `None`
    /// if there are none.
    ///
    /// Also returns `None` if no row has named that index so far. A misspelt name is no error.
    pub fn get_by_i64_index(&self, name: &str, value: &i64) -> Option<PrimaryKeys<'_>> {
        self.found(&self.i64_indexes, name, *value)
    }

    /// Returns the primary keys of the rows that have `value` in the uuid index `name`; `None` if
    /// there are none.
    ///
    /// Also returns `None` if no row has named that index so far. A misspelt name is no error.
    pub fn get_by_uuid_index(&self, name: &str, value: &Uuid) -> Option<PrimaryKeys<'_>> {
        self.found(&self.uuid_indexes, name, *value)
    }

    /// Returns all rows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots
            .iter()
            .filter_map(|slot| self.rows.get(slot)?.as_ref())
    }

    /// Adds a row whose primary key must be new.
    ///
    /// # Errors
    /// [`CacheError::DuplicateKey`] if a row with this primary key is in the cache.
    /// [`CacheError::Full`] if all slots are in use. The cache is unchanged in both cases.
    pub fn insert_unique(&mut self, row: T) -> Result<(), CacheError> {
        let key = row.primary_key();
        if self.contains_primary(&key) {
            return Err(CacheError::DuplicateKey(key));
        }
        self.store_new(key, row)
    }

    /// Stores a row. Replaces and returns the row with the same primary key, if there is one.
    ///
    /// # Panics
    /// If the row is new and the cache holds 2^31 rows already.
    pub fn upsert(&mut self, row: T) -> Option<T> {
        let key = row.primary_key();
        let Some(slot) = self.slot(&key) else {
            // Memory is exhausted long before this can fail: the keys and the key table of 2^31
            // rows alone take about 50 GB.
            self.store_new(key, row)
                .expect("a cache of 2^31 rows cannot take another");
            return None;
        };
        // The model may panic here, and must not be half-way through a change by then (invariant
        // 4).
        self.collect_values(&row);
        self.link_values(slot);
        self.rows.get_mut(slot).and_then(|place| place.replace(row))
    }

    /// Adds a row. **Replaces** and returns the row with the same primary key, if there is one: an
    /// insert may be announced for a row that the snapshot has seen already. To refuse such a row,
    /// use [`insert_unique`](Self::insert_unique).
    pub fn add(&mut self, row: T) -> Option<T> {
        self.upsert(row)
    }

    /// Updates a row, and returns the row that was replaced. **Adds** the row if there is none with
    /// its primary key.
    pub fn update(&mut self, row: T) -> Option<T> {
        self.upsert(row)
    }

    /// Removes the row with this primary key and returns it.
    pub fn remove(&mut self, key: &Uuid) -> Option<T> {
        let hash = self.hasher.hash_one(key);
        let keys = &self.keys;
        let slot = self
            .by_key
            .remove(hash, |slot| keys.get(slot) == Some(key))?;
        for index in &mut self.i64_indexes {
            index.link(&self.hasher, slot, None);
        }
        for index in &mut self.uuid_indexes {
            index.link(&self.hasher, slot, None);
        }
        // The slot's key and digest stay behind. Nothing reads them until the slot is taken again;
        // `store_new` and `put_digested` set them then.
        self.slots.release(slot);
        self.rows.get_mut(slot).and_then(Option::take)
    }

    /// Stores a row that was made of cells with this digest. Returns the row's slot.
    #[cfg(feature = "postgres")]
    pub(crate) fn put_digested(
        &mut self,
        row: T,
        digest: [u8; 16],
    ) -> Result<(u32, Upserted), StoreError> {
        let key = row.primary_key();
        // Two rows with one digest are taken for the same row. A digest is 128 bits of a SHA-256:
        // nobody can make two such rows.
        let upserted = match self.slot(&key) {
            Some(slot) if self.digests.get(slot) == Some(&digest) => {
                return Ok((slot, Upserted::Unchanged));
            }
            Some(slot) => {
                self.collect_values(&row);
                self.link_values(slot);
                self.rows.set(slot, Some(row));
                Upserted::Changed
            }
            None => {
                self.store_new(key, row).map_err(|_| StoreError::Full)?;
                Upserted::Added
            }
        };
        let slot = self.slot(&key).ok_or(StoreError::Full)?;
        self.digests.set(slot, digest);
        Ok((slot, upserted))
    }

    /// Brings near in memory what the next changes of the rows with these keys look at: their keys,
    /// their rows, and the lines of their indexed values. What is returned means nothing.
    ///
    /// As with [`TableCache::touch`](crate::table_cache::TableCache::touch), the lines of many
    /// changes are asked for at once. The values that the rows get are not known here: the model is
    /// asked for them when a row is stored.
    #[cfg(feature = "postgres")]
    pub(crate) fn touch(&self, keys: &[Uuid]) -> u32 {
        let hashes: Vec<u64> = keys.iter().map(|key| self.hasher.hash_one(key)).collect();
        let mut near = self.by_key.touch(hashes.iter().copied());
        // The first row whose hash has the tag of a key's is nearly always the row with that key.
        let slots: Vec<u32> = hashes
            .iter()
            .filter_map(|&hash| self.by_key.find(hash, |_| true))
            .collect();
        for &slot in &slots {
            let key = self.keys.get(slot).map_or(0, |key| key.as_bytes()[0]);
            let digest = self.digests.get(slot).map_or(0, |digest| digest[0]);
            let has_row = self.rows.get(slot).is_some_and(Option::is_some);
            near ^= u32::from(key) ^ u32::from(digest) ^ u32::from(has_row);
        }
        for index in &self.i64_indexes {
            near ^= index.touch(&self.hasher, &slots);
        }
        for index in &self.uuid_indexes {
            near ^= index.touch(&self.hasher, &slots);
        }
        near
    }

    /// Returns the slot of the row with this key, and the digest of the cells that the row was made
    /// of.
    #[cfg(feature = "postgres")]
    pub(crate) fn digest(&self, key: &Uuid) -> Option<(u32, [u8; 16])> {
        let slot = self.slot(key)?;
        Some((slot, *self.digests.get(slot)?))
    }

    /// Returns the slots from `from` on that are in use, each with the row's key and digest.
    #[cfg(feature = "postgres")]
    pub(crate) fn digests_from(
        &self,
        from: u32,
    ) -> impl Iterator<Item = (u32, &Uuid, &[u8; 16])> + '_ {
        self.slots
            .iter_from(from)
            .filter_map(|slot| Some((slot, self.keys.get(slot)?, self.digests.get(slot)?)))
    }

    /// Returns the keys of the rows that are not among `seen`.
    #[cfg(feature = "postgres")]
    pub(crate) fn not_seen(&self, seen: &SeenRows) -> Vec<Uuid> {
        let slots = self.slots.iter().filter(|&slot| !seen.has(slot));
        slots
            .filter_map(|slot| self.keys.get(slot).copied())
            .collect()
    }

    /// Removes every row, and forgets the names of the indexes.
    pub fn clear(&mut self) {
        *self = Self::with_capacity(0);
    }

    /// Returns the bytes that the cache occupies, without what the rows hold on the heap
    /// themselves.
    pub fn memory_bytes(&self) -> usize {
        let i64_indexes = self.i64_indexes.iter().map(ValueIndex::memory_bytes);
        let uuid_indexes = self.uuid_indexes.iter().map(ValueIndex::memory_bytes);
        self.slots.memory_bytes()
            + self.keys.memory_bytes()
            + self.rows.memory_bytes()
            + self.digests.memory_bytes()
            + self.by_key.memory_bytes()
            + i64_indexes.chain(uuid_indexes).sum::<usize>()
    }

    /// Returns the slot of the row with this primary key.
    fn slot(&self, key: &Uuid) -> Option<u32> {
        self.by_key.find(self.hasher.hash_one(key), |slot| {
            self.keys.get(slot) == Some(key)
        })
    }

    /// Returns the keys that the index `name` finds for `value`. `indexes` is one of the two lists
    /// of `self`.
    fn found<'a, V: Copy + Eq + Hash>(
        &'a self,
        indexes: &'a [ValueIndex<V>],
        name: &str,
        value: V,
    ) -> Option<PrimaryKeys<'a>> {
        let hits = indexes
            .iter()
            .find(|index| &*index.name == name)?
            .hits(&self.hasher, value);
        (hits.len() > 0).then(|| PrimaryKeys {
            keys: &self.keys,
            hits: hits.iter(),
        })
    }

    /// Stores a row whose primary key, `key`, the caller knows to be new.
    fn store_new(&mut self, key: Uuid, row: T) -> Result<(), CacheError> {
        // The two steps that can fail come first (invariant 4): the model may panic, the cache may
        // be full.
        self.collect_values(&row);
        let slot = self.slots.take().ok_or(CacheError::Full)?;
        // The key stands in its column before its slot is entered: when the key table grows, it
        // hashes each slot, the new one too, by the column.
        self.keys.set(slot, key);
        let keys = &self.keys;
        let hasher = &self.hasher;
        self.by_key
            .insert_unique(hasher.hash_one(key), slot, |other| {
                key_hash(keys, hasher, other)
            });
        self.link_values(slot);
        self.rows.set(slot, Some(row));
        Ok(())
    }

    /// Asks the model for the values that `row` is indexed under. Calls the application's code; see
    /// [`NamedValues::collect`].
    fn collect_values(&mut self, row: &T) {
        let size = IndexSize {
            expected: self.expected.max(self.len()),
            slots_end: self.slots.end(),
        };
        self.i64_values
            .collect(&mut self.i64_indexes, size, |visit| {
                row.visit_i64_keys(visit);
            });
        self.uuid_values
            .collect(&mut self.uuid_indexes, size, |visit| {
                row.visit_uuid_keys(visit);
            });
    }

    /// Links `slot` under the values that were collected last.
    fn link_values(&mut self, slot: u32) {
        // A number of its own for each write tells which indexes this row has named, without a flag
        // in each index that would have to be cleared.
        self.writes += 1;
        self.i64_values
            .link(&mut self.i64_indexes, &self.hasher, slot, self.writes);
        self.uuid_values
            .link(&mut self.uuid_indexes, &self.hasher, slot, self.writes);
    }

    /// Checks the invariants; for tests.
    ///
    /// # Errors
    /// If an invariant is violated, with a text that says which.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        let mut keyed = self
            .by_key
            .validate(|slot| key_hash(&self.keys, &self.hasher, slot))?;
        keyed.sort_unstable();
        let used: Vec<u32> = self.slots.iter().collect();
        if keyed != used || used.len() != self.len() {
            return Err(format!(
                "{} slots are in use, {} are keyed, len is {}",
                used.len(),
                keyed.len(),
                self.len()
            ));
        }
        for &slot in &used {
            let row = self
                .rows
                .get(slot)
                .and_then(Option::as_ref)
                .ok_or(format!("slot {slot} has no row"))?;
            if self.keys.get(slot) != Some(&row.primary_key()) {
                return Err(format!("slot {slot} has another key than its row"));
            }
        }
        self.i64_indexes
            .iter()
            .try_for_each(|index| index.validate(&self.hasher, &used))?;
        self.uuid_indexes
            .iter()
            .try_for_each(|index| index.validate(&self.hasher, &used))
    }
}

/// Returns the hash of the primary key in `slot` of the key column.
fn key_hash(keys: &SegVec<Uuid>, hasher: &RandomState, slot: u32) -> u64 {
    // The key table holds no slot past the column's end.
    keys.get(slot).map_or(0, |key| hasher.hash_one(key))
}

impl<T> fmt::Debug for IdxModelCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdxModelCache")
            .field("rows", &self.slots.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet, HashMap};

    #[derive(Debug, Clone, PartialEq)]
    struct Row {
        id: Uuid,
        hash: Option<i64>,
        /// The value in the index `owner`; `None` if this row does not name that index at all.
        #[expect(
            clippy::option_option,
            reason = "not named, null and a value are three cases"
        )]
        owner: Option<Option<Uuid>>,
    }

    impl HasPrimaryKey for Row {
        fn primary_key(&self) -> Uuid {
            self.id
        }
    }

    impl Indexable for Row {
        fn i64_keys(&self) -> HashMap<String, Option<i64>> {
            HashMap::from([("hash".to_string(), self.hash)])
        }

        fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
            self.owner
                .map(|owner| ("owner".to_string(), owner))
                .into_iter()
                .collect()
        }
    }

    fn uuid(n: u8) -> Uuid {
        Uuid::from_u128(u128::from(n))
    }

    fn rows() -> impl Strategy<Value = Row> {
        let owner = prop::option::of(prop::option::of((0_u8..4).prop_map(uuid)));
        (0_u8..40, prop::option::of(0_i64..6), owner).prop_map(|(id, hash, owner)| Row {
            id: uuid(id),
            hash,
            owner,
        })
    }

    fn keys_of(found: Option<PrimaryKeys<'_>>) -> BTreeSet<Uuid> {
        found.into_iter().flatten().copied().collect()
    }

    fn keys_where(rows: &BTreeMap<Uuid, Row>, fits: impl Fn(&Row) -> bool) -> BTreeSet<Uuid> {
        let fitting = rows.values().filter(|row| fits(row));
        fitting.map(|row| row.id).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
        #[test]
        fn a_cache_agrees_with_a_map_of_rows(
            operations in prop::collection::vec((rows(), 0_u8..4), 0..200),
        ) {
            let mut cache = IdxModelCache::with_capacity(4);
            let mut oracle: BTreeMap<Uuid, Row> = BTreeMap::new();
            for (row, operation) in operations {
                match operation {
                    0 => prop_assert_eq!(cache.remove(&row.id), oracle.remove(&row.id)),
                    1 => {
                        let is_new = !oracle.contains_key(&row.id);
                        let inserted = cache.insert_unique(row.clone());
                        prop_assert_eq!(inserted.is_ok(), is_new);
                        if is_new {
                            oracle.insert(row.id, row);
                        }
                    }
                    _ => prop_assert_eq!(cache.upsert(row.clone()), oracle.insert(row.id, row)),
                }
                cache.validate().map_err(TestCaseError::fail)?;
            }
            prop_assert_eq!(cache.len(), oracle.len());
            for n in 0..40 {
                prop_assert_eq!(cache.get_by_primary(&uuid(n)), oracle.get(&uuid(n)));
            }
            for hash in 0..6 {
                let found = keys_of(cache.get_by_i64_index("hash", &hash));
                let expected = keys_where(&oracle, |row| row.hash == Some(hash));
                prop_assert_eq!(found, expected);
            }
            for owner in (0..4).map(uuid) {
                let found = keys_of(cache.get_by_uuid_index("owner", &owner));
                let expected = keys_where(&oracle, |row| row.owner == Some(Some(owner)));
                prop_assert_eq!(found, expected);
            }
            prop_assert_eq!(cache.iter().count(), oracle.len());
        }
    }

    #[test]
    fn new_refuses_two_rows_with_one_key() {
        let row = Row {
            id: uuid(1),
            hash: None,
            owner: None,
        };
        assert_eq!(
            IdxModelCache::new(vec![row.clone(), row]).err(),
            Some(CacheError::DuplicateKey(uuid(1)))
        );
    }

    /// A model whose code panics where a test says so.
    #[derive(Debug, Clone)]
    struct Fragile {
        id: Uuid,
        hash: i64,
        breaks: bool,
    }

    impl HasPrimaryKey for Fragile {
        fn primary_key(&self) -> Uuid {
            self.id
        }
    }

    impl Indexable for Fragile {
        fn i64_keys(&self) -> HashMap<String, Option<i64>> {
            HashMap::from([("hash".to_string(), Some(self.hash))])
        }

        fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
            assert!(!self.breaks, "the model's own panic");
            HashMap::new()
        }
    }

    impl Fragile {
        fn sound(n: u8, hash: i64) -> Self {
            Self {
                id: uuid(n),
                hash,
                breaks: false,
            }
        }

        fn broken(n: u8, hash: i64) -> Self {
            Self {
                breaks: true,
                ..Self::sound(n, hash)
            }
        }
    }

    #[test]
    fn a_model_that_panics_changes_nothing() {
        let sound = vec![Fragile::sound(1, 1), Fragile::sound(2, 2)];
        let mut cache = IdxModelCache::new(sound).unwrap();
        // A new row, and one that would replace a row. Both panic in `uuid_keys`: the integer
        // values have been collected by then, and must not have been linked.
        for broken in [Fragile::broken(3, 3), Fragile::broken(1, 9)] {
            let stored =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.upsert(broken)));
            assert!(stored.is_err());
            cache.validate().unwrap();
            assert_eq!(cache.len(), 2);
            assert_eq!(cache.iter().count(), 2);
            assert_eq!(keys_of(cache.get_by_i64_index("hash", &1)).len(), 1);
            assert!(cache.get_by_i64_index("hash", &9).is_none());
            assert!(!cache.contains_primary(&uuid(3)));
        }
        cache.upsert(Fragile::sound(3, 3));
        cache.validate().unwrap();
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn an_index_that_appears_late_covers_a_slot_that_is_used_again() {
        fn without_owner(n: u8) -> Row {
            Row {
                id: uuid(n),
                hash: Some(1),
                owner: None,
            }
        }
        fn with_owner(n: u8, owner: Uuid) -> Row {
            Row {
                owner: Some(Some(owner)),
                ..without_owner(n)
            }
        }
        let mut cache = IdxModelCache::new((0..9).map(without_owner).collect()).unwrap();
        cache.remove(&uuid(2));
        // The first row that names `owner` stands in the slot of the removed row: below slots that
        // were used before the index was there, and that its column must cover.
        cache.add(with_owner(50, uuid(7)));
        cache.update(with_owner(8, uuid(7)));
        assert_eq!(keys_of(cache.get_by_uuid_index("owner", &uuid(7))).len(), 2);
        assert!(cache.get_by_i64_index("no such index", &1).is_none());
        cache.validate().unwrap();
    }
}
