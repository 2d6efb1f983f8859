//! [`Postings`]: the slots that share a value, and [`Hits`], what an index found. Invariant 4.

/// How many slots one block of a long posting list holds at most.
pub(super) const BLOCK: usize = 512;

/// The slots that share one value, ascending.
pub(super) enum Postings {
    Short(Vec<u32>),
    /// Blocks of at most [`BLOCK`] slots, none empty: an insert moves one block, never the whole
    /// list.
    Long(Vec<Vec<u32>>),
}

impl Postings {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Short(slots) => slots.len(),
            Self::Long(blocks) => blocks.iter().map(Vec::len).sum(),
        }
    }

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
                    // Rows that are loaded come with rising slots: leave full blocks behind the
                    // last one.
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

    pub(super) fn remove(&mut self, slot: u32) -> bool {
        match self {
            Self::Short(slots) => remove_sorted(slots, slot),
            Self::Long(blocks) => {
                let at = block_of(blocks, slot);
                let removed = remove_sorted(&mut blocks[at], slot);
                if blocks[at].is_empty() {
                    blocks.remove(at);
                }
                if let [only] = blocks.as_mut_slice() {
                    *self = Self::Short(std::mem::take(only));
                }
                removed
            }
        }
    }

    pub(super) fn first(&self) -> Option<u32> {
        match self {
            Self::Short(slots) => slots.first().copied(),
            Self::Long(blocks) => blocks.first().and_then(|block| block.first().copied()),
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Short(slots) => slots.capacity() * size_of::<u32>(),
            Self::Long(blocks) => {
                blocks.capacity() * size_of::<Vec<u32>>()
                    + blocks
                        .iter()
                        .map(|block| block.capacity() * size_of::<u32>())
                        .sum::<usize>()
            }
        }
    }
}

fn insert_sorted(slots: &mut Vec<u32>, slot: u32) {
    if slots.last().is_none_or(|&last| last < slot) {
        slots.push(slot);
    } else if let Err(at) = slots.binary_search(&slot) {
        slots.insert(at, slot);
    }
}

fn remove_sorted(slots: &mut Vec<u32>, slot: u32) -> bool {
    slots
        .binary_search(&slot)
        .map(|at| slots.remove(at))
        .is_ok()
}

fn block_of(blocks: &[Vec<u32>], slot: u32) -> usize {
    blocks
        .partition_point(|block| block.first().is_some_and(|&first| first <= slot))
        .saturating_sub(1)
}

/// The slots that an index found for a value, ascending.
#[derive(Clone, Copy)]
pub(crate) struct Hits<'a>(pub(super) Found<'a>);

#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    Nothing,
    One(u32),
    Many(&'a Postings),
}

impl<'a> Hits<'a> {
    pub(crate) fn len(self) -> usize {
        match self.0 {
            Found::Nothing => 0,
            Found::One(_) => 1,
            Found::Many(postings) => postings.len(),
        }
    }

    pub(crate) fn iter(self) -> HitsIter<'a> {
        let (one, block, blocks): (Option<u32>, &'a [u32], &'a [Vec<u32>]) = match self.0 {
            Found::Nothing => (None, &[], &[]),
            Found::One(slot) => (Some(slot), &[], &[]),
            Found::Many(Postings::Short(slots)) => (None, slots, &[]),
            Found::Many(Postings::Long(blocks)) => (None, &[], blocks),
        };
        HitsIter {
            one,
            block: block.iter(),
            blocks: blocks.iter(),
            left: self.len(),
        }
    }
}

/// Walks the slots of [`Hits`].
#[derive(Clone)]
pub(crate) struct HitsIter<'a> {
    one: Option<u32>,
    block: std::slice::Iter<'a, u32>,
    blocks: std::slice::Iter<'a, Vec<u32>>,
    left: usize,
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
            })?;
        self.left -= 1;
        Some(slot)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}
