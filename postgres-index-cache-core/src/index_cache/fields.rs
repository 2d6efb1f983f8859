//! [`HashIndex`] and [`OrderedIndex`]: indexes over the fields of a model, of any type.
//!
//! An index keeps no copy of the values that it hashes: it asks the row in a slot. So an index of
//! long texts takes no more memory than one of integers. An ordered index keeps the values, once
//! each.

use super::indexes::{IndexSize, Indexes, StoredRows};
#[cfg(feature = "postgres")]
use crate::index::Hashed;
use crate::index::{Hits, HitsIter, MultiIndex, OrderedHits, OrderedSlots, SegVec};
use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

/// The value by which the rows of a model are found: a field, or several together.
///
/// Two rows are alike to the index if their values are equal. The functions of the value's type
/// (`hash`, `eq`, and `cmp` for an [`OrderedField`]) must not panic.
pub trait IndexField: Send + Sync + 'static {
    /// The model.
    type Row;
    /// The value, which may be borrowed from a row.
    type Value<'r>: Eq + Hash;

    /// Returns the value of a row; `None` if the row is not found by this index.
    fn value(row: &Self::Row) -> Option<Self::Value<'_>>;
}

/// The value by which the rows of a model are ordered: a field, or several together.
pub trait OrderedField: Send + Sync + 'static {
    /// The model.
    type Row;
    /// The value. The index keeps one of each.
    type Value: Ord + Send + Sync;

    /// Returns the value of a row; `None` if the row is not found by this index.
    fn value(row: &Self::Row) -> Option<Self::Value>;
}

/// The rows that an index found for one value.
pub struct Rows<'a, T> {
    rows: &'a SegVec<Option<T>>,
    hits: HitsIter<'a>,
}

impl<'a, T> Rows<'a, T> {
    fn new(stored: &'a StoredRows<T>, hits: Hits<'a>) -> Self {
        Self {
            rows: &stored.rows,
            hits: hits.iter(),
        }
    }
}

impl<T> Clone for Rows<'_, T> {
    fn clone(&self) -> Self {
        Self {
            rows: self.rows,
            hits: self.hits.clone(),
        }
    }
}

impl<'a, T> Iterator for Rows<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        self.hits
            .next()
            .and_then(|slot| self.rows.get(slot)?.as_ref())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.hits.size_hint()
    }
}

impl<T> ExactSizeIterator for Rows<'_, T> {}

impl<T: fmt::Debug> fmt::Debug for Rows<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// The rows that an [`OrderedIndex`] found in a range, in the order of their values.
pub struct OrderedRows<'a, F: OrderedField> {
    stored: &'a StoredRows<F::Row>,
    hits: OrderedHits<'a, F::Value>,
}

impl<'a, F: OrderedField> Iterator for OrderedRows<'a, F> {
    type Item = &'a F::Row;

    fn next(&mut self) -> Option<&'a F::Row> {
        self.hits.next().and_then(|slot| self.stored.get(slot))
    }
}

impl<F: OrderedField> DoubleEndedIterator for OrderedRows<'_, F> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.hits.next_back().and_then(|slot| self.stored.get(slot))
    }
}

impl<F: OrderedField> Clone for OrderedRows<'_, F> {
    fn clone(&self) -> Self {
        Self {
            stored: self.stored,
            hits: self.hits.clone(),
        }
    }
}

impl<F: OrderedField> fmt::Debug for OrderedRows<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OrderedRows").finish_non_exhaustive()
    }
}

/// An index by hash: it finds the rows that have a value.
pub struct HashIndex<F> {
    index: MultiIndex,
    /// The hash of the value that was collected last; `None` if that row has no value.
    collected: Option<u64>,
    /// Whether the row that is replaced has the collected value, and so keeps its place.
    keeps_place: bool,
    /// Whether room was made for the expected rows.
    is_sized: bool,
    /// The entries that are put off, each a slot and the hash of its value.
    #[cfg(feature = "postgres")]
    put_off: Vec<Hashed>,
    field: PhantomData<fn() -> F>,
}

impl<F> Default for HashIndex<F> {
    fn default() -> Self {
        Self {
            index: MultiIndex::with_capacity(0),
            collected: None,
            keeps_place: false,
            is_sized: false,
            #[cfg(feature = "postgres")]
            put_off: Vec::new(),
            field: PhantomData,
        }
    }
}

impl<F: IndexField> HashIndex<F> {
    /// Returns the rows that have this value.
    pub(super) fn find<'w, 'c: 'w>(
        &'c self,
        stored: &'c StoredRows<F::Row>,
        wanted: F::Value<'w>,
    ) -> Rows<'c, F::Row> {
        Rows::new(stored, hits::<F>(&self.index, stored, wanted))
    }
}

/// Returns the slots whose rows have this value. The rows live longer than the value: so they are
/// borrowed for as long as that, in which both values are of one type.
fn hits<'w, 'c: 'w, F: IndexField>(
    index: &'c MultiIndex,
    stored: &'c StoredRows<F::Row>,
    wanted: F::Value<'w>,
) -> Hits<'c> {
    let wanted = Some(wanted);
    let hash = wanted.as_ref().map_or(0, |value| stored.hash_of(value));
    index.get(hash, |slot| {
        let row: Option<&'w F::Row> = stored.get(slot);
        row.is_some_and(|row| F::value(row) == wanted)
    })
}

/// Returns the value of the row in `slot`.
fn value_in<F: IndexField>(stored: &StoredRows<F::Row>, slot: u32) -> Option<F::Value<'_>> {
    stored.get(slot).and_then(F::value)
}

/// Returns the hash of the value of the row in `slot`. Zero stands for no value, which no index
/// holds.
fn hash_in<F: IndexField>(stored: &StoredRows<F::Row>, slot: u32) -> u64 {
    value_in::<F>(stored, slot).map_or(0, |value| stored.hash_of(&value))
}

impl<F: IndexField> Indexes<F::Row> for HashIndex<F> {
    fn collect(&mut self, row: &F::Row, stored: &StoredRows<F::Row>, size: IndexSize) {
        self.collected = F::value(row).map(|value| stored.hash_of(&value));
        self.keeps_place = false;
        if !self.is_sized && self.collected.is_some() {
            self.index.reserve(size.expected);
            self.is_sized = true;
        }
    }

    fn unlink(&mut self, stored: &StoredRows<F::Row>, slot: u32, new: Option<&F::Row>) {
        let Some(old) = value_in::<F>(stored, slot) else {
            return;
        };
        let old = Some(old);
        if let Some(new) = new {
            self.keeps_place = F::value(new) == old;
            if self.keeps_place {
                return;
            }
        }
        self.index
            .remove(hash_in::<F>(stored, slot), slot, |other| {
                value_in::<F>(stored, other) == old
            });
    }

    fn link(&mut self, stored: &StoredRows<F::Row>, slot: u32) {
        let Some(hash) = self.collected.filter(|_| !self.keeps_place) else {
            return;
        };
        self.index.insert(
            hash,
            slot,
            |other| value_in::<F>(stored, other) == value_in::<F>(stored, slot),
            &|other: u32| hash_in::<F>(stored, other),
        );
    }

    #[cfg(feature = "postgres")]
    fn link_later(&mut self, _: &StoredRows<F::Row>, slot: u32) {
        let hashed = self.collected.map(|hash| Hashed { hash, entry: slot });
        self.put_off.extend(hashed);
    }

    #[cfg(feature = "postgres")]
    fn link_put_off(&mut self, stored: &StoredRows<F::Row>) {
        self.index.insert_touched(
            &self.put_off,
            |one, other| value_in::<F>(stored, one) == value_in::<F>(stored, other),
            &|slot: u32| hash_in::<F>(stored, slot),
        );
        self.put_off.clear();
    }

    #[cfg(feature = "postgres")]
    fn touch(&self, stored: &StoredRows<F::Row>, slots: &[u32]) -> u32 {
        self.index
            .touch(slots.iter().map(|&slot| hash_in::<F>(stored, slot)))
    }

    fn memory_bytes(&self) -> usize {
        self.index.memory_bytes()
    }

    fn validate(&self, stored: &StoredRows<F::Row>, used: &[u32]) -> Result<(), String> {
        let mut indexed = self
            .index
            .validate(&|slot: u32| hash_in::<F>(stored, slot))?;
        indexed.sort_unstable();
        let valued = valued(used, |slot| value_in::<F>(stored, slot).is_some());
        same_slots::<F>(&indexed, &valued)
    }
}

/// Returns those of the slots whose rows have a value.
fn valued(used: &[u32], has_value: impl Fn(u32) -> bool) -> Vec<u32> {
    used.iter()
        .copied()
        .filter(|&slot| has_value(slot))
        .collect()
}

/// Checks that an index holds the slots that it should.
///
/// # Errors
/// If the index does not, with both lists.
fn same_slots<F>(indexed: &[u32], valued: &[u32]) -> Result<(), String> {
    if indexed == valued {
        Ok(())
    } else {
        let name = std::any::type_name::<F>();
        Err(format!("index {name} holds {indexed:?}, not {valued:?}"))
    }
}

/// An index in the order of the values: it finds the rows that have a value, and those in a range.
pub struct OrderedIndex<F: OrderedField> {
    slots: OrderedSlots<F::Value>,
    /// The value that was collected last and is not linked yet.
    collected: Option<F::Value>,
}

impl<F: OrderedField> Default for OrderedIndex<F> {
    fn default() -> Self {
        Self {
            slots: OrderedSlots::default(),
            collected: None,
        }
    }
}

impl<F: OrderedField> OrderedIndex<F> {
    /// Returns the rows that have this value.
    pub(super) fn find<'c, Q: Ord + ?Sized>(
        &'c self,
        stored: &'c StoredRows<F::Row>,
        wanted: &Q,
    ) -> Rows<'c, F::Row>
    where
        F::Value: Borrow<Q>,
    {
        Rows::new(stored, self.slots.get(wanted))
    }

    /// Returns the rows whose values lie in a range, in the order of the values.
    pub(super) fn range<'c, Q: Ord + ?Sized>(
        &'c self,
        stored: &'c StoredRows<F::Row>,
        range: impl RangeBounds<Q>,
    ) -> OrderedRows<'c, F>
    where
        F::Value: Borrow<Q>,
    {
        let bounds = (range.start_bound(), range.end_bound());
        OrderedRows {
            stored,
            hits: self.slots.range(bounds),
        }
    }

    /// Returns the rows whose values begin with `prefix`, in the order of the values.
    pub(super) fn prefix<'c>(
        &'c self,
        stored: &'c StoredRows<F::Row>,
        prefix: &str,
    ) -> OrderedRows<'c, F>
    where
        F::Value: Borrow<str>,
    {
        let end = after_prefix(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        OrderedRows {
            stored,
            hits: self.slots.range((Bound::Included(prefix), end)),
        }
    }
}

/// Returns the least text that is greater than all which begin with `prefix`; `None` if there is
/// none.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut end = prefix.to_string();
    // Texts are ordered by their characters. The last one that has a next one is replaced by that.
    while let Some(last) = end.pop() {
        let next = match last {
            // The numbers between are no characters.
            '\u{d7ff}' => Some('\u{e000}'),
            last => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            end.push(next);
            return Some(end);
        }
    }
    None
}

impl<F: OrderedField> Indexes<F::Row> for OrderedIndex<F> {
    fn collect(&mut self, row: &F::Row, _: &StoredRows<F::Row>, _: IndexSize) {
        self.collected = F::value(row);
    }

    fn unlink(&mut self, stored: &StoredRows<F::Row>, slot: u32, new: Option<&F::Row>) {
        let Some(old) = stored.get(slot).and_then(F::value) else {
            return;
        };
        if new.is_some() && self.collected.as_ref() == Some(&old) {
            // The row keeps its place.
            self.collected = None;
            return;
        }
        self.slots.remove(&old, slot);
    }

    fn link(&mut self, _: &StoredRows<F::Row>, slot: u32) {
        if let Some(value) = self.collected.take() {
            self.slots.insert(value, slot);
        }
    }

    #[cfg(feature = "postgres")]
    fn touch(&self, _: &StoredRows<F::Row>, _: &[u32]) -> u32 {
        0
    }

    fn memory_bytes(&self) -> usize {
        self.slots.memory_bytes()
    }

    fn validate(&self, stored: &StoredRows<F::Row>, used: &[u32]) -> Result<(), String> {
        let value_in = |slot| stored.get(slot).and_then(F::value);
        let mut indexed = self
            .slots
            .validate(|slot, value| value_in(slot).as_ref() == Some(value))?;
        indexed.sort_unstable();
        let valued = valued(used, |slot| value_in(slot).is_some());
        same_slots::<F>(&indexed, &valued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_behind_all_that_begin_with_it() {
        assert_eq!(after_prefix("ab").as_deref(), Some("ac"));
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(after_prefix("\u{10ffff}"), None);
        assert_eq!(after_prefix(""), None);
    }
}
