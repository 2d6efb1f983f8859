//! [`Postings`]: the slots of the rows that share a value. [`Hits`]: the slots that an index found
//! for a value. Invariant 4 of [`index`](super) is kept here.

use super::slot_table::{Hashed, SlotTable};
use super::{Keys, POSTING_BIT};

/// The number of slots that one block of a long posting list holds at most.
pub(super) const BLOCK: usize = 512;

/// The slots that share one value, in ascending order.
pub(super) enum Postings {
    /// One vector of at most [`BLOCK`] slots.
    Short(Vec<u32>),
    /// At least two blocks of at most [`BLOCK`] slots, none empty. An insert moves the slots of one
    /// block, never those of the whole list.
    Long(Vec<Vec<u32>>),
}

impl Postings {
    /// Counts the slots. A long list adds up its blocks.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Short(slots) => slots.len(),
            Self::Long(blocks) => blocks.iter().map(Vec::len).sum(),
        }
    }

    /// Adds `slot` in its place. A slot that the list holds already is not added again.
    pub(super) fn insert(&mut self, slot: u32) {
        match self {
            Self::Short(slots) => {
                insert_sorted(slots, slot);
                if slots.len() > BLOCK {
                    let upper = slots.split_off(BLOCK / 2);
                    *self = Self::Long(vec![std::mem::take(slots), upper]);
                }
            }
            Self::Long(blocks) => {
                let at = block_of(blocks, slot);
                insert_sorted(&mut blocks[at], slot);
                if blocks[at].len() > BLOCK {
                    // A table that is loaded hands out rising slots, which all go to the last
                    // block. Cutting that one in half would leave half-full blocks behind: so it
                    // stays full, and its last slot begins the next one.
                    let cut = if at + 1 == blocks.len() {
                        BLOCK
                    } else {
                        BLOCK / 2
                    };
                    let upper = blocks[at].split_off(cut);
                    blocks.insert(at + 1, upper);
                }
            }
        }
    }

    /// Takes `slot` out and returns whether the list held that slot. A long list that is down to
    /// one block becomes a short list. A short list may be left with one slot or none.
    pub(super) fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::Short(slots) => remove_sorted(slots, slot),
            Self::Long(blocks) => {
                let at = block_of(blocks, slot);
                let removed = remove_sorted(&mut blocks[at], slot);
                if blocks[at].is_empty() {
                    blocks.remove(at);
                }
                // A caller may tell from the variant that a long list has two slots or more.
                if let [only] = blocks.as_mut_slice() {
                    *self = Self::Short(std::mem::take(only));
                }
                removed
            }
        }
    }

    /// Returns the lowest slot; `None` if the list is empty.
    pub(super) fn first(&self) -> Option<u32> {
        match self {
            Self::Short(slots) => slots.first().copied(),
            Self::Long(blocks) => blocks.first().and_then(|block| block.first().copied()),
        }
    }

    /// Returns the bytes that the list occupies on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Short(slots) => slots.capacity() * size_of::<u32>(),
            Self::Long(blocks) => {
                let slots: usize = blocks.iter().map(Vec::capacity).sum();
                blocks.capacity() * size_of::<Vec<u32>>() + slots * size_of::<u32>()
            }
        }
    }
}

/// The posting lists of an index. Entries of the index's table name them by position.
#[derive(Default)]
pub(super) struct PostingLists {
    lists: Vec<Postings>,
    /// Positions of `lists` that are unused.
    free: Vec<u32>,
}

impl PostingLists {
    /// Returns the list that `entry` names; `None` if `entry` is a slot.
    pub(super) fn list(&self, entry: u32) -> Option<&Postings> {
        (entry & POSTING_BIT != 0).then(|| &self.lists[(entry & !POSTING_BIT) as usize])
    }

    /// Returns a slot whose row has the value of `entry`.
    pub(super) fn representative(&self, entry: u32) -> u32 {
        match self.list(entry) {
            None => entry,
            // Invariant 4: a list that an entry names is never empty. No row stands in slot
            // `u32::MAX`.
            Some(list) => list.first().unwrap_or(u32::MAX),
        }
    }

    /// Adds the row in a slot to `table` or to a list here. `is_same` says whether the row in
    /// another slot has the same value. `keys` hashes the rows of a segment that has to split.
    pub(super) fn insert(
        &mut self,
        table: &mut SlotTable,
        Hashed { hash, entry: slot }: Hashed,
        mut is_same: impl FnMut(u32) -> bool,
        keys: &impl Keys,
    ) {
        let found = table.find_or_insert(
            hash,
            slot,
            |entry| is_same(self.representative(entry)),
            |entry| keys.hash_of(self.representative(entry)),
        );
        match found {
            None => {}
            Some(entry) if entry & POSTING_BIT != 0 => {
                self.lists[(entry & !POSTING_BIT) as usize].insert(slot);
            }
            Some(other) => {
                // The second row with this value: the entry, a slot until now, becomes a list.
                let list = Postings::Short(vec![other.min(slot), other.max(slot)]);
                let number = if let Some(number) = self.free.pop() {
                    self.lists[number as usize] = list;
                    number
                } else {
                    self.lists.push(list);
                    (self.lists.len() - 1) as u32
                };
                table.replace(hash, |entry| entry == other, number | POSTING_BIT);
            }
        }
    }

    /// Takes `slot` out of the list that `entry` names. Returns whether the list held that slot,
    /// and the last slot of a list that is given up, to stand in the table itself again.
    pub(super) fn remove(&mut self, entry: u32, slot: u32) -> (bool, Option<u32>) {
        let number = entry & !POSTING_BIT;
        let list = &mut self.lists[number as usize];
        let removed = list.remove(slot);
        // Only a short list can be down to its last slot: a long one has at least two blocks. So
        // the slots of a long list, which may be millions, need not be counted here.
        if let Postings::Short(slots) = list
            && let &[last] = slots.as_slice()
        {
            *list = Postings::Short(Vec::new());
            self.free.push(number);
            return (removed, Some(last));
        }
        (removed, None)
    }

    /// Returns the bytes that the lists occupy.
    pub(super) fn memory_bytes(&self) -> usize {
        let lists: usize = self.lists.iter().map(Postings::memory_bytes).sum();
        self.lists.capacity() * size_of::<Postings>()
            + lists
            + self.free.capacity() * size_of::<u32>()
    }

    /// Checks invariant 5. `named` is the number of lists that entries name.
    ///
    /// # Errors
    /// If the invariant is violated, with a text that says how.
    pub(super) fn check_count(&self, named: usize) -> Result<(), String> {
        let free_are_empty = self
            .free
            .iter()
            .all(|&number| self.lists[number as usize].len() == 0);
        if named + self.free.len() == self.lists.len() && free_are_empty {
            return Ok(());
        }
        Err(format!(
            "{named} lists and {} free of {}",
            self.free.len(),
            self.lists.len()
        ))
    }
}

/// Adds `slot` to sorted `slots`, unless they hold that slot.
fn insert_sorted(slots: &mut Vec<u32>, slot: u32) {
    // While a table is loaded, each slot is higher than all before: no search then.
    if slots.last().is_none_or(|&last| last < slot) {
        slots.push(slot);
    } else if let Err(at) = slots.binary_search(&slot) {
        slots.insert(at, slot);
    }
}

/// Takes `slot` out of sorted `slots` and returns whether they held that slot.
fn remove_sorted(slots: &mut Vec<u32>, slot: u32) -> bool {
    slots
        .binary_search(&slot)
        .map(|at| slots.remove(at))
        .is_ok()
}

/// Returns the position of the block that holds `slot`, or would hold that slot.
fn block_of(blocks: &[Vec<u32>], slot: u32) -> usize {
    blocks
        .partition_point(|block| block.first().is_some_and(|&first| first <= slot))
        .saturating_sub(1)
}

/// The slots that an index found for a value, in ascending order.
#[derive(Clone, Copy)]
pub(crate) struct Hits<'a>(pub(super) Found<'a>);

/// The content of [`Hits`].
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    /// No row with the value.
    Nothing,
    /// One row with the value, by its slot.
    One(u32),
    /// Several rows with the value.
    Many(&'a Postings),
}

impl<'a> Hits<'a> {
    /// Counts the slots.
    pub(crate) fn len(self) -> usize {
        match self.0 {
            Found::Nothing => 0,
            Found::One(_) => 1,
            Found::Many(postings) => postings.len(),
        }
    }

    /// Returns an iterator over the slots.
    pub(crate) fn iter(self) -> HitsIter<'a> {
        let mut iter = HitsIter {
            one: None,
            block: [].iter(),
            blocks: [].iter(),
            last: [].iter(),
            left: self.len(),
        };
        match self.0 {
            Found::Nothing => {}
            Found::One(slot) => iter.one = Some(slot),
            Found::Many(Postings::Short(slots)) => iter.block = slots.iter(),
            Found::Many(Postings::Long(blocks)) => iter.blocks = blocks.iter(),
        }
        iter
    }
}

/// An iterator over the slots of [`Hits`], without an allocation.
#[derive(Clone)]
pub(crate) struct HitsIter<'a> {
    /// The slot of [`Found::One`].
    one: Option<u32>,
    /// The rest of the block that is read now.
    block: std::slice::Iter<'a, u32>,
    /// The blocks between `block` and `last`.
    blocks: std::slice::Iter<'a, Vec<u32>>,
    /// The rest of the block that is read from the back.
    last: std::slice::Iter<'a, u32>,
    /// The number of slots that are still to come.
    left: usize,
}

impl HitsIter<'_> {
    /// Counts a slot as returned.
    fn counted(&mut self, slot: Option<u32>) -> Option<u32> {
        self.left -= usize::from(slot.is_some());
        slot
    }
}

impl Iterator for HitsIter<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let slot = self
            .one
            .take()
            .or_else(|| self.block.next().copied())
            .or_else(|| {
                self.block = self.blocks.next()?.iter();
                self.block.next().copied()
            })
            .or_else(|| self.last.next().copied());
        self.counted(slot)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for HitsIter<'_> {
    fn next_back(&mut self) -> Option<u32> {
        let slot = self
            .last
            .next_back()
            .copied()
            .or_else(|| {
                self.last = self.blocks.next_back()?.iter();
                self.last.next_back().copied()
            })
            .or_else(|| self.block.next_back().copied())
            .or_else(|| self.one.take());
        self.counted(slot)
    }
}
