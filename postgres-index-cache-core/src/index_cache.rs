//! [`IdxModelCache`]: the typed rows of one table, found by key and by any number of indexes.
//!
//! ```text
//! key ─→ slot table ─┐
//! indexes ───────────┴─→ slot ─→ key column · rows · digests
//! ```
//!
//! Models return keys by value. Therefore the key of each row is kept in a column beside the rows,
//! and a look-up by key never calls into the model. The indexes are those of the model
//! ([`CacheModel::Indexes`]): [`NamedIndexes`] of a model that names them at run time, or a tuple of
//! [`HashIndex`] and [`OrderedIndex`] over its fields.
//!
//! # Invariants
//! 1. A slot is in use exactly when a row stands in that slot. The key table holds each slot in use
//!    once.
//! 2. The key column holds each row's key.
//! 3. An index holds a slot exactly when the row in that slot has a value there, and holds the slot
//!    under that value.
//! 4. An operation that fails changes nothing, even if it fails by a panic in the model. The model
//!    is asked for key and index values before the first change.

mod fields;
mod indexes;
mod named;
mod staged;

pub use self::fields::{HashIndex, IndexField, OrderedField, OrderedIndex, OrderedRows, Rows};
pub use self::indexes::Indexes;
pub use self::named::NamedIndexes;
pub use self::staged::{Staged, StagedView};

use self::indexes::{IndexSize, StoredRows};
use crate::index::{Hits, HitsIter, MAX_SLOTS, SegVec, SlotTable, Slots};
use crate::model::{CacheModel, HasPrimaryKey, Indexable};
#[cfg(feature = "postgres")]
use crate::table_cache::{SeenRows, StoreError, Upserted};
use std::borrow::Borrow;
use std::fmt;
use std::ops::RangeBounds;
use uuid::Uuid;

/// The reason why rows could not be put into an [`IdxModelCache`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError<K = Uuid> {
    /// Two rows have the same primary key.
    #[error("duplicate key {0:?}: a row with this primary key is in the cache already")]
    DuplicateKey(K),
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
pub struct IdxModelCache<T: CacheModel> {
    stored: StoredRows<T>,
    slots: Slots,
    /// The primary key of each row, by slot.
    keys: SegVec<T::Key>,
    by_key: SlotTable,
    indexes: T::Indexes,
    /// By slot, a digest of the cells that the row was made of. Only rows that a replica stores
    /// have one. The replica tells by the digest that a row which came again is unchanged, and
    /// answers with it whoever asks for the row.
    digests: SegVec<[u8; 16]>,
    /// The number of rows that the cache was made for. A new index is sized for as many.
    expected: usize,
    /// Whether a change has begun and not ended. Only code of the model's types that panics where it
    /// must not (`hash`, `eq`, `cmp`) leaves that behind, and the invariants with it.
    is_torn: bool,
    /// The number of rows whose entries in the indexes are put off: invariant 3 does not hold for
    /// them yet.
    #[cfg(feature = "postgres")]
    put_off: usize,
}

/// The way in which a new row is entered in the indexes of its model.
type Link<T> = fn(&mut <T as CacheModel>::Indexes, &StoredRows<T>, u32);

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

impl<T: CacheModel> IdxModelCache<T> {
    /// Makes a cache of `rows`, sized for them.
    ///
    /// # Errors
    /// [`CacheError::DuplicateKey`] if two rows have the same primary key.
    pub fn new(rows: Vec<T>) -> Result<Self, CacheError<T::Key>> {
        let mut cache = Self::with_capacity(rows.len());
        rows.into_iter()
            .try_for_each(|row| cache.insert_unique(row))?;
        Ok(cache)
    }

    /// Makes an empty cache with room for `expected` rows.
    pub fn with_capacity(expected: usize) -> Self {
        Self {
            stored: StoredRows::new(),
            slots: Slots::with_capacity(expected),
            keys: SegVec::new(),
            by_key: SlotTable::with_capacity(expected),
            indexes: T::Indexes::default(),
            digests: SegVec::new(),
            expected,
            is_torn: false,
            #[cfg(feature = "postgres")]
            put_off: 0,
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
    pub fn get_by_primary(&self, key: &T::Key) -> Option<&T> {
        self.stored.get(self.slot(key)?)
    }

    /// Returns whether a row has this primary key.
    pub fn contains_primary(&self, key: &T::Key) -> bool {
        self.slot(key).is_some()
    }

    /// Returns all rows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| self.stored.get(slot))
    }

    /// Adds a row whose primary key must be new.
    ///
    /// # Errors
    /// [`CacheError::DuplicateKey`] if a row with this primary key is in the cache.
    /// [`CacheError::Full`] if all slots are in use. The cache is unchanged in both cases.
    pub fn insert_unique(&mut self, row: T) -> Result<(), CacheError<T::Key>> {
        let key = row.key();
        if self.contains_primary(&key) {
            return Err(CacheError::DuplicateKey(key));
        }
        self.store_new(key, row, T::Indexes::link).map(drop)
    }

    /// Stores a row. Replaces and returns the row with the same primary key, if there is one.
    ///
    /// # Panics
    /// If the row is new and the cache holds 2^31 rows already.
    pub fn upsert(&mut self, row: T) -> Option<T> {
        let key = row.key();
        let Some(slot) = self.slot(&key) else {
            // Memory is exhausted long before this can fail: the keys and the key table of 2^31
            // rows alone take about 50 GB.
            self.store_new(key, row, T::Indexes::link)
                .expect("a cache of 2^31 rows cannot take another");
            return None;
        };
        self.replace(slot, row)
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
    pub fn remove(&mut self, key: &T::Key) -> Option<T> {
        #[cfg(feature = "postgres")]
        self.link_put_off();
        let hash = self.stored.hash_of(key);
        let slot = self.slot(key)?;
        self.is_torn = true;
        self.by_key.remove(hash, |entry| entry == slot);
        self.indexes.unlink(&self.stored, slot, None);
        // The slot's key and digest stay behind. Nothing reads them until the slot is taken again;
        // `store_new` and `put_digested` set them then.
        self.slots.release(slot);
        self.is_torn = false;
        self.stored.rows.get_mut(slot).and_then(Option::take)
    }

    /// Stores a row that was made of cells with this digest. Returns the row's slot, and the row that
    /// was replaced.
    #[cfg(feature = "postgres")]
    pub(crate) fn put_digested(
        &mut self,
        row: T,
        digest: [u8; 16],
    ) -> Result<(u32, Upserted, Option<T>), StoreError> {
        self.put_linked(row, digest, T::Indexes::link)
    }

    /// Does the work of [`put_digested`](Self::put_digested). `link` enters a new row in the
    /// indexes.
    #[cfg(feature = "postgres")]
    fn put_linked(
        &mut self,
        row: T,
        digest: [u8; 16],
        link: Link<T>,
    ) -> Result<(u32, Upserted, Option<T>), StoreError> {
        let key = row.key();
        // Two rows with one digest are taken for the same row. A digest is 128 bits of a SHA-256:
        // nobody can make two such rows.
        let (slot, upserted, old) = match self.slot(&key) {
            Some(slot) if self.digests.get(slot) == Some(&digest) => {
                return Ok((slot, Upserted::Unchanged, None));
            }
            Some(slot) => {
                let old = self.replace(slot, row);
                (slot, Upserted::Changed, old)
            }
            None => {
                let slot = self
                    .store_new(key, row, link)
                    .map_err(|_| StoreError::Full)?;
                (slot, Upserted::Added, None)
            }
        };
        self.digests.set(slot, digest);
        Ok((slot, upserted, old))
    }

    /// As [`put_digested`](Self::put_digested), of a row of a snapshot that is put into an empty
    /// cache. Its entries in the indexes may be put off: the caller must call
    /// [`link_put_off`](Self::link_put_off) before anybody looks for rows.
    #[cfg(feature = "postgres")]
    pub(crate) fn append_digested(
        &mut self,
        row: T,
        digest: [u8; 16],
    ) -> Result<(u32, Upserted, Option<T>), StoreError> {
        /// The entries of an index that are put off: enough for the memory to serve many reads at
        /// once, and few enough for the lines to stay near until they are written.
        const MOST: usize = 1024;
        let put = self.put_linked(row, digest, T::Indexes::link_later)?;
        self.put_off += 1;
        if self.put_off >= MOST {
            self.link_put_off();
        }
        Ok(put)
    }

    /// Makes the entries in the indexes that were put off.
    #[cfg(feature = "postgres")]
    pub(crate) fn link_put_off(&mut self) {
        if self.put_off == 0 {
            return;
        }
        // A panic of a value's own code leaves the indexes without the rest.
        self.is_torn = true;
        self.indexes.link_put_off(&self.stored);
        self.put_off = 0;
        self.is_torn = false;
    }

    /// Returns the row in a slot.
    #[cfg(feature = "postgres")]
    pub(crate) fn row_in(&self, slot: u32) -> Option<&T> {
        self.stored.get(slot)
    }

    /// Takes the row out of each slot that is in use, and calls `take` with the row and its key. The
    /// cache must be cleared then.
    pub(crate) fn take_rows(&mut self, mut take: impl FnMut(&T::Key, T)) {
        for slot in self.slots.iter() {
            let row = self.stored.rows.get_mut(slot).and_then(Option::take);
            if let (Some(key), Some(row)) = (self.keys.get(slot), row) {
                take(key, row);
            }
        }
    }

    /// Brings near in memory what the next changes of the rows with these keys look at: their keys,
    /// their rows, and the lines of their indexed values. What is returned means nothing.
    ///
    /// As with [`TableCache::touch`](crate::table_cache::TableCache::touch), the lines of many
    /// changes are asked for at once. The values that the rows get are not known here: the model is
    /// asked for them when a row is stored.
    #[cfg(feature = "postgres")]
    pub(crate) fn touch<'k>(&self, keys: impl Iterator<Item = &'k T::Key>) -> u32
    where
        T::Key: 'k,
    {
        let hashes: Vec<u64> = keys.map(|key| self.stored.hash_of(key)).collect();
        let mut near = self.by_key.touch(hashes.iter().copied());
        // The first row whose hash has the tag of a key's is nearly always the row with that key.
        let slots: Vec<u32> = hashes
            .iter()
            .filter_map(|&hash| self.by_key.find(hash, |_| true))
            .collect();
        for &slot in &slots {
            let key = self
                .keys
                .get(slot)
                .map_or(0, |key| self.stored.hash_of(key));
            let digest = self.digests.get(slot).map_or(0, |digest| digest[0]);
            let has_row = self.stored.get(slot).is_some();
            near ^= key as u32 ^ u32::from(digest) ^ u32::from(has_row);
        }
        near ^ self.indexes.touch(&self.stored, &slots)
    }

    /// Returns the slot of the row with this key, and the digest of the cells that the row was made
    /// of.
    #[cfg(feature = "postgres")]
    pub(crate) fn digest(&self, key: &T::Key) -> Option<(u32, [u8; 16])> {
        let slot = self.slot(key)?;
        Some((slot, *self.digests.get(slot)?))
    }

    /// Returns whether a change was left half done, by a panic in the code of the model's types. The
    /// cache must be cleared then.
    pub(crate) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Changes every digest, so that each row counts as another one when it comes again.
    #[cfg(feature = "postgres")]
    pub(crate) fn forget_digests(&mut self) {
        for slot in 0..self.slots.end() {
            for byte in self.digests.get_mut(slot).into_iter().flatten() {
                // Not undone by a second change of the table before its rows have come again.
                *byte = byte.wrapping_add(1);
            }
        }
    }

    /// Returns the slots from `from` on that are in use, each with the row's key and digest.
    #[cfg(feature = "postgres")]
    pub(crate) fn digests_from(
        &self,
        from: u32,
    ) -> impl Iterator<Item = (u32, &T::Key, &[u8; 16])> + '_ {
        self.slots
            .iter_from(from)
            .filter_map(|slot| Some((slot, self.keys.get(slot)?, self.digests.get(slot)?)))
    }

    /// Returns the slots of the rows that are not among `seen`, each with the row's key.
    #[cfg(feature = "postgres")]
    pub(crate) fn not_seen(&self, seen: &SeenRows) -> Vec<(u32, T::Key)> {
        let slots = self.slots.iter().filter(|&slot| !seen.has(slot));
        slots
            .filter_map(|slot| Some((slot, self.keys.get(slot)?.clone())))
            .collect()
    }

    /// Removes every row, and forgets the names of the indexes.
    pub fn clear(&mut self) {
        *self = Self::with_capacity(0);
    }

    /// Returns the bytes that the cache occupies, without what the rows hold on the heap
    /// themselves.
    pub fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
            + self.keys.memory_bytes()
            + self.stored.rows.memory_bytes()
            + self.digests.memory_bytes()
            + self.by_key.memory_bytes()
            + self.indexes.memory_bytes()
    }

    /// Returns the slot of the row with this primary key.
    fn slot(&self, key: &T::Key) -> Option<u32> {
        self.by_key.find(self.stored.hash_of(key), |slot| {
            self.keys.get(slot) == Some(key)
        })
    }

    /// Stores a row whose primary key, `key`, the caller knows to be new. Returns the row's slot.
    fn store_new(&mut self, key: T::Key, row: T, link: Link<T>) -> Result<u32, CacheError<T::Key>> {
        // The two steps that can fail come first (invariant 4): the model may panic, the cache may
        // be full.
        self.collect(&row);
        let hash = self.stored.hash_of(&key);
        let slot = self.slots.take().ok_or(CacheError::Full)?;
        self.is_torn = true;
        // The key stands in its column before its slot is entered: when the key table grows, it
        // hashes each slot, the new one too, by the column. The row, likewise, before it is indexed.
        self.keys.set(slot, key);
        let keys = &self.keys;
        let stored = &self.stored;
        self.by_key
            .insert_unique(hash, slot, |other| key_hash(keys, stored, other));
        self.stored.rows.set(slot, Some(row));
        link(&mut self.indexes, &self.stored, slot);
        self.is_torn = false;
        Ok(slot)
    }

    /// Stores a row in the place of another one with the same key, which is returned.
    fn replace(&mut self, slot: u32, row: T) -> Option<T> {
        #[cfg(feature = "postgres")]
        self.link_put_off();
        // The model may panic here, and must not be half-way through a change by then (invariant
        // 4).
        self.collect(&row);
        self.is_torn = true;
        self.indexes.unlink(&self.stored, slot, Some(&row));
        let place = self.stored.rows.get_mut(slot);
        let old = place.and_then(|place| place.replace(row));
        self.indexes.link(&self.stored, slot);
        self.is_torn = false;
        old
    }

    /// Asks the model for the values that `row` is indexed under. Calls the application's code.
    fn collect(&mut self, row: &T) {
        let size = IndexSize {
            expected: self.expected.max(self.len()),
            slots_end: self.slots.end(),
        };
        self.indexes.collect(row, &self.stored, size);
    }

    /// Checks the invariants; for tests.
    ///
    /// # Errors
    /// If an invariant is violated, with a text that says which.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        let mut keyed = self
            .by_key
            .validate(|slot| key_hash(&self.keys, &self.stored, slot))?;
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
                .stored
                .get(slot)
                .ok_or(format!("slot {slot} has no row"))?;
            if self.keys.get(slot) != Some(&row.key()) {
                return Err(format!("slot {slot} has another key than its row"));
            }
        }
        self.indexes.validate(&self.stored, &used)
    }
}

impl<T: HasPrimaryKey + Indexable> IdxModelCache<T> {
    /// Returns the primary keys of the rows that have `value` in the integer index `name`; `None`
    /// if there are none.
    ///
    /// Also returns `None` if no row has named that index so far. A misspelt name is no error.
    pub fn get_by_i64_index(&self, name: &str, value: &i64) -> Option<PrimaryKeys<'_>> {
        self.found(self.indexes.integer(&self.stored.hasher, name, *value))
    }

    /// Returns the primary keys of the rows that have `value` in the uuid index `name`; `None` if
    /// there are none.
    ///
    /// Also returns `None` if no row has named that index so far. A misspelt name is no error.
    pub fn get_by_uuid_index(&self, name: &str, value: &Uuid) -> Option<PrimaryKeys<'_>> {
        self.found(self.indexes.uuid(&self.stored.hasher, name, *value))
    }

    /// Returns the keys of the rows in these slots; `None` if there are none.
    fn found<'a>(&'a self, hits: Option<Hits<'a>>) -> Option<PrimaryKeys<'a>> {
        let hits = hits.filter(|hits| hits.len() > 0)?;
        Some(PrimaryKeys {
            keys: &self.keys,
            hits: hits.iter(),
        })
    }
}

/// Look-ups by an index of the model. `#[derive(CacheModel)]` writes a method for each; `index`
/// chooses one of the model's [`Indexes`](CacheModel::Indexes), such as `|indexes| &indexes.0`.
impl<T: CacheModel> IdxModelCache<T> {
    /// Returns the rows that have `value` in a [`HashIndex`].
    pub fn find<'w, 'c: 'w, F: IndexField<Row = T>>(
        &'c self,
        index: impl FnOnce(&T::Indexes) -> &HashIndex<F>,
        value: F::Value<'w>,
    ) -> Rows<'c, T> {
        index(&self.indexes).find(&self.stored, value)
    }

    /// Returns the rows that have `value` in an [`OrderedIndex`].
    pub fn find_ordered<F: OrderedField<Row = T>, Q: Ord + ?Sized>(
        &self,
        index: impl FnOnce(&T::Indexes) -> &OrderedIndex<F>,
        value: &Q,
    ) -> Rows<'_, T>
    where
        F::Value: Borrow<Q>,
    {
        index(&self.indexes).find(&self.stored, value)
    }

    /// Returns the rows whose values lie in `range`, in the order of the values. The first one has
    /// the least value, and the last one (`next_back`) the greatest. A range that ends before it
    /// begins has no rows.
    pub fn range<F: OrderedField<Row = T>, Q: Ord + ?Sized>(
        &self,
        index: impl FnOnce(&T::Indexes) -> &OrderedIndex<F>,
        range: impl RangeBounds<Q>,
    ) -> OrderedRows<'_, F>
    where
        F::Value: Borrow<Q>,
    {
        index(&self.indexes).range(&self.stored, range)
    }

    /// Returns the rows whose texts begin with `prefix`, in the order of the texts. Texts are in the
    /// order of their characters, as under the collation `C`.
    pub fn prefix<F: OrderedField<Row = T>>(
        &self,
        index: impl FnOnce(&T::Indexes) -> &OrderedIndex<F>,
        prefix: &str,
    ) -> OrderedRows<'_, F>
    where
        F::Value: Borrow<str>,
    {
        index(&self.indexes).prefix(&self.stored, prefix)
    }
}

/// Returns the hash of the primary key in `slot` of the key column.
fn key_hash<T: CacheModel>(keys: &SegVec<T::Key>, stored: &StoredRows<T>, slot: u32) -> u64 {
    // The key table holds no slot past the column's end.
    keys.get(slot).map_or(0, |key| stored.hash_of(key))
}

impl<T: CacheModel> fmt::Debug for IdxModelCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdxModelCache")
            .field("rows", &self.slots.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod field_tests;
#[cfg(test)]
mod tests;
