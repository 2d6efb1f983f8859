//! Slots, key tables and posting lists: the structure under [`IdxModelCache`](crate::IdxModelCache)
//! and [`TableCache`](crate::tooling::TableCache).
//!
//! A row lives in a *slot*, a `u32`. Nothing here stores a key. A table stores slots beside
//! one-byte *tags* of their hashes, and asks its owner to compare or to hash the row in a slot. One
//! line of a table fills one cache line. Most look-ups therefore touch one line and the row.
//!
//! ```text
//! hash ─ top bits ─→ directory ─→ segment ─ low half ─→ line: 12 tags | spill | 12 entries
//!                                                                               └→ slot, or
//!                                                                                  posting list
//! ```
//!
//! The table grows by splitting one full segment at a time (extendible hashing). The whole table
//! never stands in memory twice, and no insert waits for a rehash of the whole table.
//!
//! # Invariants
//! 1. An entry is reachable from its home line through lines whose `spill` is above zero. `spill`
//!    counts the entries that passed this line between their home and the line they stand in.
//! 2. A tag is zero exactly where the entry beside the tag is unused.
//! 3. Each directory cell names the segment whose hash prefix is that of the cell. `len` is the
//!    number of used entries.
//! 4. A posting list holds at least two slots, in ascending order, each once. A slot that shares
//!    its value with no other stands in the table itself.
//! 5. A free posting list is empty and listed once in `free`.

mod ordered;
mod postings;
mod slot_table;
mod slots;

pub(crate) use ordered::{OrderedHits, OrderedSlots};
pub(crate) use postings::{Hits, HitsIter};
pub(crate) use slot_table::{Hashed, SlotTable};
pub(crate) use slots::{SegVec, Slots};

use postings::{BLOCK, Found, PostingLists, Postings};

/// The bit that is set in an entry that names a posting list, and clear in a slot.
const POSTING_BIT: u32 = 1 << 31;
/// The number of slots that a cache can have: the upper half of `u32` names posting lists.
pub(crate) const MAX_SLOTS: usize = POSTING_BIT as usize;

/// The rows behind the slots of one index, as far as the index needs them. Any closure from slot to
/// hash is one.
pub(crate) trait Keys {
    /// Returns the hash of the indexed value of the row in `slot`.
    fn hash_of(&self, slot: u32) -> u64;
}

impl<F: Fn(u32) -> u64> Keys for F {
    fn hash_of(&self, slot: u32) -> u64 {
        self(slot)
    }
}

/// An index over values that may repeat. A value of one row takes a table entry and no heap; a
/// value that several rows share takes a posting list.
pub(crate) struct MultiIndex {
    table: SlotTable,
    lists: PostingLists,
}

impl MultiIndex {
    /// Makes an empty index with room for `expected` distinct values.
    pub(crate) fn with_capacity(expected: usize) -> Self {
        Self {
            table: SlotTable::with_capacity(expected),
            lists: PostingLists::default(),
        }
    }

    /// Returns the bytes that the index occupies.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.lists.memory_bytes()
    }

    /// Returns the slots whose rows have the value with this `hash`. `is_wanted` says whether the
    /// row in a slot has that value.
    pub(crate) fn get(&self, hash: u64, mut is_wanted: impl FnMut(u32) -> bool) -> Hits<'_> {
        // All slots of a posting list share one value: comparing the first one is enough.
        let found = self
            .table
            .find(hash, |entry| is_wanted(self.lists.representative(entry)));
        Hits(match found {
            None => Found::Nothing,
            Some(entry) => match self.lists.list(entry) {
                Some(postings) => Found::Many(postings),
                None => Found::One(entry),
            },
        })
    }

    /// Adds the row in `slot`, whose value has this `hash`. `is_same` says whether the row in
    /// another slot has the same value. `keys` hashes the rows of a segment that has to split.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        slot: u32,
        is_same: impl FnMut(u32) -> bool,
        keys: &impl Keys,
    ) {
        let hashed = Hashed { hash, entry: slot };
        self.lists.insert(&mut self.table, hashed, is_same, keys);
    }

    /// Adds rows, each by its slot and the hash of its value, after their lines were asked for.
    /// `is_same` says whether the rows in two slots have the same value.
    #[cfg(feature = "postgres")]
    pub(crate) fn insert_touched(
        &mut self,
        slots: &[Hashed],
        is_same: impl Fn(u32, u32) -> bool,
        keys: &impl Keys,
    ) {
        std::hint::black_box(self.touch(slots.iter().map(|hashed| hashed.hash)));
        for &Hashed { hash, entry: slot } in slots {
            self.insert(hash, slot, |other| is_same(other, slot), keys);
        }
    }

    /// Adds many rows at once, each by its slot and the hash of its value. `is_same` says whether
    /// the rows in two slots have the same value. `ordered` is room that is used again.
    pub(crate) fn insert_all(
        &mut self,
        slots: &[Hashed],
        ordered: &mut Vec<Hashed>,
        is_same: impl Fn(u32, u32) -> bool,
        keys: &impl Keys,
    ) {
        let lists = &mut self.lists;
        self.table.add_by_segment(slots, ordered, |table, hashed| {
            let is_same = |other| is_same(other, hashed.entry);
            lists.insert(table, hashed, is_same, keys);
        });
    }

    /// Makes room for `expected` distinct values at once, if the index has none.
    pub(crate) fn reserve(&mut self, expected: usize) {
        self.table.reserve(expected);
    }

    /// Brings the lines of these hashes near; see [`SlotTable::touch`].
    pub(crate) fn touch(&self, hashes: impl Iterator<Item = u64>) -> u32 {
        self.table.touch(hashes)
    }

    /// Takes out the row in `slot`, whose value has this `hash`, and returns whether the index held
    /// that slot. `is_same` says whether the row in another slot has the same value.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        slot: u32,
        mut is_same: impl FnMut(u32) -> bool,
    ) -> bool {
        let lists = &mut self.lists;
        // A slot that stands alone is recognised by its number. Only a list has to be compared by
        // value: the slot may stand anywhere in that list.
        let found = self.table.find(hash, |entry| {
            entry == slot || (entry & POSTING_BIT != 0 && is_same(lists.representative(entry)))
        });
        let Some(entry) = found else { return false };
        if entry == slot {
            return self.table.remove(hash, |entry| entry == slot).is_some();
        }
        let (removed, last) = lists.remove(entry, slot);
        if let Some(last) = last {
            self.table.replace(hash, |found| found == entry, last);
        }
        removed
    }

    /// Checks invariants 1 to 5 and returns every slot that is indexed, in no order.
    ///
    /// # Errors
    /// If an invariant is violated, with a text that says which.
    pub(crate) fn validate(&self, keys: &impl Keys) -> Result<Vec<u32>, String> {
        let entries = self
            .table
            .validate(|entry| keys.hash_of(self.lists.representative(entry)))?;
        let mut slots = Vec::new();
        let mut lists = 0;
        for entry in entries {
            let Some(list) = self.lists.list(entry) else {
                slots.push(entry);
                continue;
            };
            lists += 1;
            let content: Vec<u32> = Hits(Found::Many(list)).iter().collect();
            if content.len() < 2 || !content.is_sorted_by(|a, b| a < b) {
                return Err(format!(
                    "posting list {entry:#x} is short or out of order: {content:?}"
                ));
            }
            let has_bad_block = match list {
                Postings::Short(_) => false,
                Postings::Long(blocks) => blocks
                    .iter()
                    .any(|block| block.is_empty() || block.len() > BLOCK),
            };
            if has_bad_block {
                return Err(format!(
                    "posting list {entry:#x} has an empty or overlong block"
                ));
            }
            // The index knows hashes, not values: one hash for the whole list is all it can check.
            let hash = keys.hash_of(content[0]);
            if content.iter().any(|&slot| keys.hash_of(slot) != hash) {
                return Err(format!("posting list {entry:#x} mixes values"));
            }
            slots.extend(content);
        }
        self.lists.check_count(lists)?;
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::slot_table::segment_count;
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Hashes poorly on purpose: segments split unevenly and lines overflow.
    fn poor_hash(value: u64) -> u64 {
        (value % 97).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (value << 52)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn an_index_agrees_with_a_map_of_sets(
            expected in 0_usize..3000,
            operations in prop::collection::vec((0_u32..1500, 0_u64..300, any::<bool>()), 0..3000),
        ) {
            let mut index = MultiIndex::with_capacity(expected);
            let mut values: BTreeMap<u32, u64> = BTreeMap::new();
            let mut oracle: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
            for (slot, value, add) in operations {
                if let Some(old) = values.get(&slot).copied() {
                    let removed = index.remove(poor_hash(old), slot, |other| {
                        values.get(&other) == Some(&old)
                    });
                    prop_assert!(removed);
                    values.remove(&slot);
                    oracle.get_mut(&old).unwrap().remove(&slot);
                }
                if add {
                    // The value stands before its slot is indexed: a split hashes the new row too.
                    values.insert(slot, value);
                    index.insert(
                        poor_hash(value),
                        slot,
                        |other| values[&other] == value,
                        &|slot: u32| poor_hash(values[&slot]),
                    );
                    oracle.entry(value).or_default().insert(slot);
                }
            }
            let mut indexed = index
                .validate(&|slot: u32| poor_hash(values[&slot]))
                .map_err(TestCaseError::fail)?;
            indexed.sort_unstable();
            prop_assert_eq!(indexed, values.keys().copied().collect::<Vec<_>>());
            for (value, slots) in &oracle {
                let hits = index.get(poor_hash(*value), |slot| values[&slot] == *value);
                prop_assert_eq!(hits.len(), slots.len());
                prop_assert_eq!(hits.iter().collect::<BTreeSet<_>>(), slots.clone());
            }
        }
    }

    #[test]
    fn a_value_that_many_rows_share_stays_cheap_to_change() {
        // In one sorted vector, a removal would move every slot behind the removed one.
        let mut index = MultiIndex::with_capacity(0);
        let rows = 200_000_u32;
        for slot in 0..rows {
            index.insert(7, slot, |_| true, &|_: u32| 7);
        }
        for slot in (0..rows).rev().step_by(3) {
            assert!(index.remove(7, slot, |_| true));
            assert!(
                !index.remove(7, slot, |_| true),
                "slot {slot} was removed twice"
            );
        }
        let left: Vec<u32> = index.get(7, |_| true).iter().collect();
        assert_eq!(left.len(), (rows - rows.div_ceil(3)) as usize);
        index.validate(&|_: u32| 7).unwrap();
    }

    #[test]
    fn a_presized_table_does_not_split_and_stays_near_seven_bytes_an_entry() {
        // A fixed seed: how unevenly the segments fill, and so whether one splits, is in the
        // hashes.
        fn hash(entry: u32) -> u64 {
            let hasher = foldhash::quality::FixedState::with_seed(1);
            std::hash::BuildHasher::hash_one(&hasher, entry)
        }
        let count = 300_000;
        let mut table = SlotTable::with_capacity(count);
        let before = segment_count(&table);
        for entry in 0..count as u32 {
            table.insert_unique(hash(entry), entry, hash);
        }
        assert_eq!(segment_count(&table), before);
        assert!(
            table.memory_bytes() < count * 8,
            "{} bytes",
            table.memory_bytes()
        );
        assert_eq!(table.validate(hash).unwrap().len(), count);
    }

    #[test]
    fn slots_are_used_again_and_listed_in_order() {
        let mut slots = Slots::default();
        for expected in 0..130 {
            assert_eq!(slots.take(), Some(expected));
        }
        slots.release(64);
        slots.release(3);
        assert_eq!(slots.len(), 128);
        assert!(!slots.is_used(64));
        assert!(!slots.is_used(500), "a slot that was never taken");
        assert_eq!(slots.iter().count(), 128);
        // The slot that was released last is used again first.
        assert_eq!(slots.take(), Some(3));
        assert_eq!(slots.iter().filter(|&slot| slot == 64).count(), 0);
    }
}
