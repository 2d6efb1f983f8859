//! [`OrderedSlots`]: slots in the order of the values of their rows.

use super::postings::{Found, Hits, HitsIter, Postings};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Range};
use std::iter::{FlatMap, Flatten};
use std::ops::Bound;
use std::option;

/// The slots of the rows that have one value.
enum SlotSet {
    /// One row, which takes no heap.
    One(u32),
    /// Two rows or more.
    Many(Postings),
}

impl SlotSet {
    fn hits(&self) -> Hits<'_> {
        Hits(match self {
            Self::One(slot) => Found::One(*slot),
            Self::Many(postings) => Found::Many(postings),
        })
    }
}

/// The function that returns the slots of one value.
type HitsOf<'a, V> = fn((&'a V, &'a SlotSet)) -> HitsIter<'a>;

/// The values in a range, if there is one, with their slots.
type Values<'a, V> = Flatten<option::IntoIter<Range<'a, V, SlotSet>>>;

/// The slots of the values in a range, in the order of the values.
pub(crate) struct OrderedHits<'a, V>(FlatMap<Values<'a, V>, HitsIter<'a>, HitsOf<'a, V>>);

impl<V> Clone for OrderedHits<'_, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V> Iterator for OrderedHits<'_, V> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.0.next()
    }
}

impl<V> DoubleEndedIterator for OrderedHits<'_, V> {
    fn next_back(&mut self) -> Option<u32> {
        self.0.next_back()
    }
}

/// Slots by value, in the order of the values. Slots with one value are in ascending order.
pub(crate) struct OrderedSlots<V> {
    by_value: BTreeMap<V, SlotSet>,
    /// The number of slots that share their value with others.
    shared: usize,
}

impl<V> Default for OrderedSlots<V> {
    fn default() -> Self {
        Self {
            by_value: BTreeMap::new(),
            shared: 0,
        }
    }
}

impl<V: Ord> OrderedSlots<V> {
    /// Adds the row in `slot`, which is not in the index.
    pub(crate) fn insert(&mut self, value: V, slot: u32) {
        match self.by_value.entry(value) {
            Entry::Vacant(place) => {
                place.insert(SlotSet::One(slot));
            }
            Entry::Occupied(mut place) => match place.get_mut() {
                SlotSet::One(other) => {
                    let both = vec![slot.min(*other), slot.max(*other)];
                    *place.get_mut() = SlotSet::Many(Postings::Short(both));
                    self.shared += 2;
                }
                SlotSet::Many(postings) => {
                    postings.insert(slot);
                    self.shared += 1;
                }
            },
        }
    }

    /// Takes out the row in `slot`, which has this value.
    pub(crate) fn remove(&mut self, value: &V, slot: u32) {
        let Some(slots) = self.by_value.get_mut(value) else {
            return;
        };
        let SlotSet::Many(postings) = slots else {
            if matches!(slots, SlotSet::One(other) if *other == slot) {
                self.by_value.remove(value);
            }
            return;
        };
        self.shared -= usize::from(postings.remove(slot));
        if let Postings::Short(rest) = postings
            && let &[last] = rest.as_slice()
        {
            *slots = SlotSet::One(last);
            self.shared -= 1;
        }
    }

    /// Returns the slots whose rows have this value.
    pub(crate) fn get<Q: Ord + ?Sized>(&self, value: &Q) -> Hits<'_>
    where
        V: Borrow<Q>,
    {
        let slots = self.by_value.get(value);
        slots.map_or(Hits(Found::Nothing), SlotSet::hits)
    }

    /// Returns the slots of the rows whose values lie between the bounds, in the order of the
    /// values. Bounds that exclude every value find nothing.
    pub(crate) fn range<Q: Ord + ?Sized>(
        &self,
        (start, end): (Bound<&Q>, Bound<&Q>),
    ) -> OrderedHits<'_, V>
    where
        V: Borrow<Q>,
    {
        // A BTreeMap panics if the bounds are in the wrong order.
        let is_empty = match (start, end) {
            (Bound::Excluded(start), Bound::Excluded(end)) => start >= end,
            (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end))
            | (Bound::Included(start), Bound::Excluded(end)) => start > end,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        };
        let found = (!is_empty).then(|| self.by_value.range::<Q, _>((start, end)));
        let hits_of: HitsOf<'_, V> = |(_, slots)| slots.hits().iter();
        OrderedHits(found.into_iter().flatten().flat_map(hits_of))
    }

    /// Returns about the bytes that the index occupies, without what the values hold on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        // The nodes of a BTreeMap are two thirds full; so are lists of slots, at worst.
        (self.by_value.len() * size_of::<(V, SlotSet)>() + self.shared * size_of::<u32>()) * 3 / 2
    }

    /// Returns every slot, in no order. `has_value` says whether the row in a slot has a value.
    ///
    /// # Errors
    /// If a slot stands under a value that is not its row's, or a list is kept for one slot.
    pub(crate) fn validate(&self, has_value: impl Fn(u32, &V) -> bool) -> Result<Vec<u32>, String> {
        let mut all = Vec::new();
        let mut shared = 0;
        for (value, slots) in &self.by_value {
            let found: Vec<u32> = slots.hits().iter().collect();
            if matches!(slots, SlotSet::Many(_)) {
                shared += found.len();
                if found.len() < 2 || !found.is_sorted_by(|a, b| a < b) {
                    return Err(format!("a list is short or out of order: {found:?}"));
                }
            }
            if let Some(slot) = found.iter().find(|&&slot| !has_value(slot, value)) {
                return Err(format!(
                    "slot {slot} stands under a value that is not its own"
                ));
            }
            all.extend(found);
        }
        if shared == self.shared {
            Ok(all)
        } else {
            Err(format!("{shared} slots share values, not {}", self.shared))
        }
    }
}
