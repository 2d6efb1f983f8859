//! [`NamedIndexes`]: the indexes of a model that names them at run time ([`Indexable`]), each over
//! integers or uuids.
//!
//! The model returns its values by value. Therefore each index has a column of the values beside the
//! rows: a look-up never calls into the model, and a row that is replaced is unlinked under exactly
//! the values that it was linked under.

use super::indexes::{IndexSize, Indexes, StoredRows};
#[cfg(feature = "postgres")]
use crate::index::Hashed;
use crate::index::{Hits, MultiIndex, SegVec};
use crate::model::Indexable;
use foldhash::quality::RandomState;
use std::hash::{BuildHasher, Hash};
use uuid::Uuid;

/// The indexes that the rows of a model name, over integers and over uuids.
#[derive(Default)]
pub struct NamedIndexes {
    integers: Vec<ValueIndex<i64>>,
    uuids: Vec<ValueIndex<Uuid>>,
    /// Scratch space for the integer values of the row that is being stored. They are taken from
    /// the model before anything is changed.
    integer_values: NamedValues<i64>,
    /// Scratch space for the uuid values of the row that is being stored.
    uuid_values: NamedValues<Uuid>,
    /// The number of rows that were stored so far; see [`ValueIndex::named_in`].
    writes: u64,
}

impl NamedIndexes {
    /// Returns the slots whose rows have `value` in the integer index `name`; `None` if no row has
    /// named that index so far.
    pub(super) fn integer(&self, hasher: &RandomState, name: &str, value: i64) -> Option<Hits<'_>> {
        hits_of(&self.integers, hasher, name, value)
    }

    /// Returns the slots whose rows have `value` in the uuid index `name`; `None` if no row has
    /// named that index so far.
    pub(super) fn uuid(&self, hasher: &RandomState, name: &str, value: Uuid) -> Option<Hits<'_>> {
        hits_of(&self.uuids, hasher, name, value)
    }
}

/// Returns the slots that the index `name` finds for `value`; `None` if there is no such index.
fn hits_of<'a, V: Copy + Eq + Hash>(
    indexes: &'a [ValueIndex<V>],
    hasher: &RandomState,
    name: &str,
    value: V,
) -> Option<Hits<'a>> {
    let index = indexes.iter().find(|index| &*index.name == name)?;
    Some(index.hits(hasher, value))
}

impl<T: Indexable> Indexes<T> for NamedIndexes {
    fn collect(&mut self, row: &T, stored: &StoredRows<T>, size: IndexSize) {
        let _ = stored;
        self.integer_values
            .collect(&mut self.integers, size, |visit| row.visit_i64_keys(visit));
        self.uuid_values
            .collect(&mut self.uuids, size, |visit| row.visit_uuid_keys(visit));
    }

    fn unlink(&mut self, stored: &StoredRows<T>, slot: u32, new: Option<&T>) {
        // The values of a row that is replaced are compared with the new ones when those are linked.
        if new.is_some() {
            return;
        }
        for index in &mut self.integers {
            index.link(&stored.hasher, slot, None);
        }
        for index in &mut self.uuids {
            index.link(&stored.hasher, slot, None);
        }
    }

    fn link(&mut self, stored: &StoredRows<T>, slot: u32) {
        // A number of its own for each write tells which indexes this row has named, without a flag
        // in each index that would have to be cleared.
        self.writes += 1;
        self.integer_values
            .link(&mut self.integers, &stored.hasher, slot, self.writes);
        self.uuid_values
            .link(&mut self.uuids, &stored.hasher, slot, self.writes);
    }

    #[cfg(feature = "postgres")]
    fn link_later(&mut self, stored: &StoredRows<T>, slot: u32) {
        self.writes += 1;
        self.integer_values
            .link_later(&mut self.integers, &stored.hasher, slot, self.writes);
        self.uuid_values
            .link_later(&mut self.uuids, &stored.hasher, slot, self.writes);
    }

    #[cfg(feature = "postgres")]
    fn link_put_off(&mut self, stored: &StoredRows<T>) {
        for index in &mut self.integers {
            index.link_put_off(&stored.hasher);
        }
        for index in &mut self.uuids {
            index.link_put_off(&stored.hasher);
        }
    }

    #[cfg(feature = "postgres")]
    fn touch(&self, stored: &StoredRows<T>, slots: &[u32]) -> u32 {
        let integers = self
            .integers
            .iter()
            .fold(0, |near, index| near ^ index.touch(&stored.hasher, slots));
        self.uuids.iter().fold(integers, |near, index| {
            near ^ index.touch(&stored.hasher, slots)
        })
    }

    fn memory_bytes(&self) -> usize {
        let integers = self.integers.iter().map(ValueIndex::memory_bytes);
        let uuids = self.uuids.iter().map(ValueIndex::memory_bytes);
        integers.chain(uuids).sum()
    }

    fn validate(&self, stored: &StoredRows<T>, used: &[u32]) -> Result<(), String> {
        self.integers
            .iter()
            .try_for_each(|index| index.validate(&stored.hasher, used))?;
        self.uuids
            .iter()
            .try_for_each(|index| index.validate(&stored.hasher, used))
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
    /// The entries that are put off, each a slot and the hash of its value.
    #[cfg(feature = "postgres")]
    put_off: Vec<Hashed>,
}

/// Returns the value in `slot` of a column; `None` for NULL and past the column's end.
fn value_in<V: Copy>(values: &SegVec<Option<V>>, slot: u32) -> Option<V> {
    values.get(slot).copied().flatten()
}

/// Returns the hash of the value in `slot` of a column. Zero stands for NULL, which no index holds.
fn value_hash<V: Copy + Hash>(values: &SegVec<Option<V>>, hasher: &RandomState, slot: u32) -> u64 {
    value_in(values, slot).map_or(0, |value| hasher.hash_one(value))
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
            #[cfg(feature = "postgres")]
            put_off: Vec::new(),
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

    /// Makes `value` the indexed value of `slot`, which has none so far. The entry is put off until
    /// [`link_put_off`](Self::link_put_off).
    #[cfg(feature = "postgres")]
    fn link_later(&mut self, hasher: &RandomState, slot: u32, value: Option<V>) {
        let Some(value) = value.filter(|_| self.value(slot).is_none()) else {
            // A row that names an index twice has its first entry before its second.
            self.link_put_off(hasher);
            return self.link(hasher, slot, value);
        };
        self.values.set(slot, Some(value));
        let hash = hasher.hash_one(value);
        self.put_off.push(Hashed { hash, entry: slot });
    }

    /// Makes the entries that were put off.
    #[cfg(feature = "postgres")]
    fn link_put_off(&mut self, hasher: &RandomState) {
        let values = &self.values;
        self.index.insert_touched(
            &self.put_off,
            |one, other| value_in(values, one) == value_in(values, other),
            &|slot: u32| value_hash(values, hasher, slot),
        );
        self.put_off.clear();
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

    /// Checks that the index holds exactly the slots that have a value in its column. `used` are the slots in use, in ascending order.
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

    /// As [`link`](Self::link), of a slot that is in no index.
    #[cfg(feature = "postgres")]
    fn link_later(
        &self,
        indexes: &mut [ValueIndex<V>],
        hasher: &RandomState,
        slot: u32,
        write: u64,
    ) {
        for &(at, value) in &self.0 {
            indexes[at].named_in = write;
            indexes[at].link_later(hasher, slot, value);
        }
        for index in indexes.iter_mut().filter(|index| index.named_in != write) {
            index.link(hasher, slot, None);
        }
    }
}
