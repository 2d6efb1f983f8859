//! [`IdxModelCache`]: the typed rows of one table, found by key and by any number of integer and
//! uuid indexes.
//!
//! ```text
//! key ──→ slot table ─┐
//! i64 index ──────────┼─→ slot ─→ key column · value columns · rows
//! uuid index ─────────┘
//! ```
//!
//! The traits return keys by value, so the key and the indexed values of each row are kept in
//! columns beside the rows: a look-up never calls into the model, and a row that is replaced is
//! unlinked by what was linked.
//!
//! # Invariants
//! 1. A slot is in use exactly when it has a row, and its key stands in the key table once.
//! 2. The key column holds the row's primary key.
//! 3. Each index holds a slot exactly when the value column beside it holds a value there, under
//!    that value.
//! 4. A failing operation changes nothing. That includes a panic in the model: its key and its
//!    index values are asked for before the first change.

use crate::index::{Hits, HitsIter, MAX_SLOTS, MultiIndex, SegVec, SlotTable, Slots};
use crate::model::{HasPrimaryKey, Indexable};
use crate::table_cache::{SeenRows, StoreError, Upserted};
use foldhash::quality::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use uuid::Uuid;

/// Why rows could not be put into a cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Two rows have the same primary key.
    #[error("duplicate key {0}: a row with this primary key is in the cache already")]
    DuplicateKey(Uuid),
    /// The 2^31 rows that a cache can address are in use.
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
/// let found: Vec<_> = cache.get_by_i64_index("username_hash", &123).into_iter().flatten().collect();
/// assert_eq!(found, [&id]);
/// # Ok::<(), postgres_index_cache_core::CacheError>(())
/// ```
pub struct IdxModelCache<T> {
    hasher: RandomState,
    slots: Slots,
    keys: SegVec<Uuid>,
    rows: SegVec<Option<T>>,
    by_key: SlotTable,
    i64_indexes: Vec<ValueIndex<i64>>,
    uuid_indexes: Vec<ValueIndex<Uuid>>,
    /// Scratch: the values of the row that is being stored, taken from the model before anything is
    /// changed.
    i64_values: NamedValues<i64>,
    uuid_values: NamedValues<Uuid>,
    writes: u64,
    /// What each row was made of, as a digest: of the rows that a replica keeps, which so knows a
    /// row that is the same.
    digests: SegVec<u64>,
    /// How many rows the cache was made for; an index is sized for as many.
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

/// One named index with the column of values that it was linked by.
struct ValueIndex<V> {
    name: Box<str>,
    values: SegVec<Option<V>>,
    index: MultiIndex,
    /// The number of the last write that named this index: a row that does not name it is not found
    /// by it.
    named_in: u64,
}

impl<V: Copy + Eq + Hash> ValueIndex<V> {
    fn new(name: &str, expected: usize, slots: u32) -> Self {
        let mut values = SegVec::new();
        (0..slots).for_each(|slot| values.set(slot, None));
        Self {
            name: name.into(),
            values,
            index: MultiIndex::with_capacity(expected),
            named_in: 0,
        }
    }

    fn value(&self, slot: u32) -> Option<V> {
        self.values.get(slot).copied().flatten()
    }

    fn hits(&self, hasher: &RandomState, value: V) -> Hits<'_> {
        self.index.get(hasher.hash_one(value), |slot| {
            self.value(slot) == Some(value)
        })
    }

    /// Makes `value` the value of `slot`, relinking only when it is another one.
    fn link(&mut self, hasher: &RandomState, slot: u32, value: Option<V>) {
        let old = self.value(slot);
        let values = &self.values;
        let is = |wanted: V| move |slot: u32| values.get(slot).copied().flatten() == Some(wanted);
        if old == value && values.get(slot).is_some() {
            return;
        }
        if let Some(old) = old {
            self.index.remove(hasher.hash_one(old), slot, is(old));
        }
        // The value stands in its column before it is linked: the index hashes rows by their column
        // when it grows.
        self.values.set(slot, value);
        if let Some(value) = value {
            let values = &self.values;
            let hash_of = |slot: u32| {
                values
                    .get(slot)
                    .copied()
                    .flatten()
                    .map_or(0, |value| hasher.hash_one(value))
            };
            let is_same = |other: u32| values.get(other).copied().flatten() == Some(value);
            self.index
                .insert(hasher.hash_one(value), slot, is_same, &hash_of);
        }
    }

    fn memory_bytes(&self) -> usize {
        self.values.memory_bytes() + self.index.memory_bytes()
    }

    /// Checks invariant 3 for this index against the slots in `used`, ascending.
    fn validate(&self, hasher: &RandomState, used: &[u32]) -> Result<(), String> {
        let hash_of = |slot: u32| self.value(slot).map_or(0, |value| hasher.hash_one(value));
        let mut indexed = self.index.validate(&hash_of)?;
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

/// The values that a model names for its indexes: the position of each index, and the row's value
/// in it.
struct NamedValues<V>(Vec<(usize, Option<V>)>);

impl<V> Default for NamedValues<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V: Copy + Eq + Hash> NamedValues<V> {
    /// Asks the model for its values. An index that is named for the first time is made, empty, for
    /// `expected` rows and the first `slots_end` slots.
    ///
    /// `visit` is the application's code and may panic. Nothing but the scratch vector and an empty
    /// index has changed by then, so the cache stays sound.
    fn collect(
        &mut self,
        indexes: &mut Vec<ValueIndex<V>>,
        (expected, slots_end): (usize, u32),
        visit: impl FnOnce(&mut dyn FnMut(&str, Option<V>)),
    ) {
        self.0.clear();
        visit(&mut |name, value| {
            let at = indexes
                .iter()
                .position(|index| &*index.name == name)
                .unwrap_or_else(|| {
                    indexes.push(ValueIndex::new(name, expected, slots_end));
                    indexes.len() - 1
                });
            self.0.push((at, value));
        });
    }

    /// Links the values to `slot` in write number `write`, and unlinks the indexes that the model
    /// does not name.
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
    /// A cache of `rows`, sized for them.
    ///
    /// # Errors
    /// [`CacheError::DuplicateKey`] when two rows have the same primary key.
    pub fn new(rows: Vec<T>) -> Result<Self, CacheError> {
        let mut cache = Self::with_capacity(rows.len());
        rows.into_iter()
            .try_for_each(|row| cache.insert_unique(row))?;
        Ok(cache)
    }

    /// An empty cache with room for `expected` rows.
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

    /// How many rows the cache holds.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether the cache holds no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row with this primary key.
    pub fn get_by_primary(&self, key: &Uuid) -> Option<&T> {
        self.rows.get(self.slot(key)?)?.as_ref()
    }

    /// Whether a row has this primary key.
    pub fn contains_primary(&self, key: &Uuid) -> bool {
        self.slot(key).is_some()
    }

    /// The primary keys of the rows whose integer index `name` has `value`; `None` when there is
    /// none.
    ///
    /// An index that no row has named finds nothing.
    pub fn get_by_i64_index(&self, name: &str, value: &i64) -> Option<PrimaryKeys<'_>> {
        self.found(&self.i64_indexes, name, *value)
    }

    /// The primary keys of the rows whose uuid index `name` has `value`; `None` when there is none.
    ///
    /// An index that no row has named finds nothing.
    pub fn get_by_uuid_index(&self, name: &str, value: &Uuid) -> Option<PrimaryKeys<'_>> {
        self.found(&self.uuid_indexes, name, *value)
    }

    /// All rows, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots
            .iter()
            .filter_map(|slot| self.rows.get(slot)?.as_ref())
    }

    /// Adds a row that must be new.
    ///
    /// # Errors
    /// [`CacheError::DuplicateKey`] when a row has its primary key; nothing is changed then.
    pub fn insert_unique(&mut self, row: T) -> Result<(), CacheError> {
        let key = row.primary_key();
        if self.contains_primary(&key) {
            return Err(CacheError::DuplicateKey(key));
        }
        self.store_new(key, row)
    }

    /// Stores a row, replacing the one with its primary key, which is returned.
    ///
    /// # Panics
    /// When the cache holds 2^31 rows already.
    pub fn upsert(&mut self, row: T) -> Option<T> {
        let key = row.primary_key();
        let Some(slot) = self.slot(&key) else {
            // 2^31 rows of even the smallest model take more memory than this can meet before it is
            // exhausted.
            self.store_new(key, row)
                .expect("a cache of 2^31 rows cannot take another");
            return None;
        };
        self.collect_values(&row);
        self.link_values(slot);
        self.rows.get_mut(slot).and_then(|place| place.replace(row))
    }

    /// Adds a row. It **replaces** a row with the same primary key, which is returned: an insert
    /// may be announced for a row that the snapshot has seen already.
    /// [`insert_unique`](Self::insert_unique) refuses instead.
    pub fn add(&mut self, row: T) -> Option<T> {
        self.upsert(row)
    }

    /// Updates a row. It **adds** the row when there is none with its primary key, and returns the
    /// one it replaced.
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
        self.slots.release(slot);
        self.rows.get_mut(slot).and_then(Option::take)
    }

    /// Stores a row that was made of what has this digest; gives its slot.
    pub(crate) fn put_digested(
        &mut self,
        row: T,
        digest: u64,
    ) -> Result<(u32, Upserted), StoreError> {
        let key = row.primary_key();
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

    /// The digest of what the row with this key was made of, and its slot.
    pub(crate) fn digest(&self, key: &Uuid) -> Option<(u32, u64)> {
        let slot = self.slot(key)?;
        Some((slot, *self.digests.get(slot)?))
    }

    /// The keys of the rows that are not among `laid`.
    pub(crate) fn not_seen(&self, laid: &SeenRows) -> Vec<Uuid> {
        let slots = self.slots.iter().filter(|&slot| !laid.has(slot));
        slots
            .filter_map(|slot| self.keys.get(slot).copied())
            .collect()
    }

    /// Removes every row; the names of the indexes are forgotten with them.
    pub fn clear(&mut self) {
        *self = Self::with_capacity(0);
    }

    /// What the cache occupies, in bytes, without what the rows hold on the heap themselves.
    pub fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
            + self.keys.memory_bytes()
            + self.rows.memory_bytes()
            + self.digests.memory_bytes()
            + self.by_key.memory_bytes()
            + self
                .i64_indexes
                .iter()
                .map(ValueIndex::memory_bytes)
                .sum::<usize>()
            + self
                .uuid_indexes
                .iter()
                .map(ValueIndex::memory_bytes)
                .sum::<usize>()
    }

    fn slot(&self, key: &Uuid) -> Option<u32> {
        self.by_key.find(self.hasher.hash_one(key), |slot| {
            self.keys.get(slot) == Some(key)
        })
    }

    /// `indexes` is one of the two fields of `self`: one body serves both.
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

    fn store_new(&mut self, key: Uuid, row: T) -> Result<(), CacheError> {
        self.collect_values(&row);
        let slot = self.slots.take().ok_or(CacheError::Full)?;
        self.keys.set(slot, key);
        let keys = &self.keys;
        let hasher = &self.hasher;
        let hash_of = |slot: u32| keys.get(slot).map_or(0, |key| hasher.hash_one(key));
        self.by_key
            .insert_unique(hasher.hash_one(key), slot, hash_of);
        self.link_values(slot);
        self.rows.set(slot, Some(row));
        Ok(())
    }

    /// Asks the model for the values that `row` is indexed by. Calls the application's code; see
    /// [`NamedValues::collect`].
    fn collect_values(&mut self, row: &T) {
        let size = (self.expected.max(self.len()), self.slots.end());
        self.i64_values
            .collect(&mut self.i64_indexes, size, |visit| {
                row.visit_i64_keys(visit);
            });
        self.uuid_values
            .collect(&mut self.uuid_indexes, size, |visit| {
                row.visit_uuid_keys(visit);
            });
    }

    /// Links the values that were collected to `slot`.
    fn link_values(&mut self, slot: u32) {
        self.writes += 1;
        self.i64_values
            .link(&mut self.i64_indexes, &self.hasher, slot, self.writes);
        self.uuid_values
            .link(&mut self.uuid_indexes, &self.hasher, slot, self.writes);
    }

    /// Checks the invariants; for tests.
    ///
    /// # Errors
    /// What is violated.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        let hash_of = |slot: u32| {
            self.keys
                .get(slot)
                .map_or(0, |key| self.hasher.hash_one(key))
        };
        let mut keyed = self.by_key.validate(hash_of)?;
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
        /// `None`: this row does not name the index at all.
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
                let found: BTreeSet<_> = cache.get_by_i64_index("hash", &hash).into_iter().flatten().copied().collect();
                let expected: BTreeSet<_> = oracle.values().filter(|row| row.hash == Some(hash)).map(|row| row.id).collect();
                prop_assert_eq!(found, expected);
            }
            for owner in (0..4).map(uuid) {
                let found: BTreeSet<_> = cache.get_by_uuid_index("owner", &owner).into_iter().flatten().copied().collect();
                let expected: BTreeSet<_> =
                    oracle.values().filter(|row| row.owner == Some(Some(owner))).map(|row| row.id).collect();
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

    #[test]
    fn a_model_that_panics_changes_nothing() {
        let row = |n, hash, breaks| Fragile {
            id: uuid(n),
            hash,
            breaks,
        };
        let mut cache = IdxModelCache::new(vec![row(1, 1, false), row(2, 2, false)]).unwrap();
        for broken in [row(3, 3, true), row(1, 9, true)] {
            let stored =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| cache.upsert(broken)));
            assert!(stored.is_err());
            cache.validate().unwrap();
            assert_eq!((cache.len(), cache.iter().count()), (2, 2));
            assert_eq!(
                cache.get_by_i64_index("hash", &1).map(|keys| keys.len()),
                Some(1)
            );
            assert!(
                cache.get_by_i64_index("hash", &9).is_none() && !cache.contains_primary(&uuid(3))
            );
        }
        cache.upsert(row(3, 3, false));
        cache.validate().unwrap();
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn an_index_that_appears_late_covers_a_slot_that_is_used_again() {
        let bare = |n| Row {
            id: uuid(n),
            hash: Some(1),
            owner: None,
        };
        let mut cache = IdxModelCache::new((0..9).map(bare).collect()).unwrap();
        cache.remove(&uuid(2));
        cache.add(Row {
            owner: Some(Some(uuid(7))),
            ..bare(50)
        });
        cache.update(Row {
            owner: Some(Some(uuid(7))),
            ..bare(8)
        });
        assert_eq!(
            cache
                .get_by_uuid_index("owner", &uuid(7))
                .map(|keys| keys.len()),
            Some(2)
        );
        assert!(cache.get_by_i64_index("no such index", &1).is_none());
        cache.validate().unwrap();
    }
}
