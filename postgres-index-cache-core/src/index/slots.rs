//! [`Slots`]: the set of the slots in use. [`SegVec`]: a column of values by slot.

use super::MAX_SLOTS;

/// The slots in use, as one bit each, and the released slots, which are used again.
#[derive(Default)]
pub(crate) struct Slots {
    /// One bit for each slot below `end`.
    used: Vec<u64>,
    /// The released slots; the last one is used again first.
    free: Vec<u32>,
    /// One past the highest slot that was ever taken.
    end: u32,
}

impl Slots {
    /// Makes an empty set with room for `expected` slots.
    pub(crate) fn with_capacity(expected: usize) -> Self {
        Self {
            used: Vec::with_capacity(expected.div_ceil(64)),
            free: Vec::new(),
            end: 0,
        }
    }

    /// Returns the number of slots in use.
    pub(crate) fn len(&self) -> usize {
        self.end as usize - self.free.len()
    }

    /// Returns one past the highest slot that was ever taken.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Takes a slot, a released one if there is any. Returns `None` if all 2^31 slots are in use.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let Some(slot) = self.free.pop() else {
            return self.take_last();
        };
        self.used[slot as usize / 64] |= 1 << (slot % 64);
        Some(slot)
    }

    /// Takes the slot behind all that were ever taken. Returns `None` if there is none.
    pub(crate) fn take_last(&mut self) -> Option<u32> {
        if self.end as usize >= MAX_SLOTS {
            return None;
        }
        // Slots rise without gaps: `SegVec` and `FixedRows` rely on it.
        let slot = self.end;
        self.end += 1;
        if self.used.len() * 64 < self.end as usize {
            self.used.push(0);
        }
        self.used[slot as usize / 64] |= 1 << (slot % 64);
        Some(slot)
    }

    /// Gives back a slot that was taken.
    pub(crate) fn release(&mut self, slot: u32) {
        debug_assert!(self.is_used(slot), "slot {slot} is released twice");
        self.used[slot as usize / 64] &= !(1 << (slot % 64));
        self.free.push(slot);
    }

    /// Returns whether `slot` is in use.
    pub(crate) fn is_used(&self, slot: u32) -> bool {
        self.used
            .get(slot as usize / 64)
            .is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// Returns the slots in use, in ascending order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.iter_from(0)
    }

    /// Returns the slots in use from `from` on, in ascending order.
    pub(crate) fn iter_from(&self, from: u32) -> impl Iterator<Item = u32> + '_ {
        let start = from as usize / 64;
        let words = self.used.iter().enumerate().skip(start);
        words.flat_map(move |(word, &bits)| {
            // Of the first word, the slots below `from` are passed over.
            let bits = if word == start {
                bits & (u64::MAX << (from % 64))
            } else {
                bits
            };
            // `bits & (bits - 1)` clears the lowest bit: one step for each slot in use, none for
            // free ones.
            let first = Some(bits).filter(|&bits| bits != 0);
            std::iter::successors(first, |bits| {
                Some(bits & (bits - 1)).filter(|&rest| rest != 0)
            })
            .map(move |bits| word as u32 * 64 + bits.trailing_zeros())
        })
    }

    /// Returns the bytes that the set occupies.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.used.capacity() * size_of::<u64>() + self.free.capacity() * size_of::<u32>()
    }
}

/// A vector in segments of [`SegVec::SEGMENT`] elements. Growth copies no elements, except in the
/// first segment.
pub(crate) struct SegVec<T> {
    segments: Vec<Vec<T>>,
}

impl<T> SegVec<T> {
    /// The number of elements of a segment.
    pub(crate) const SEGMENT: usize = 4096;

    /// Makes an empty vector.
    pub(crate) fn new() -> Self {
        Self {
            segments: Vec::new(),
        }
    }

    /// Stores `value` at `slot`, which is at most one past the end: [`Slots`] hands slots out
    /// without gaps.
    pub(crate) fn set(&mut self, slot: u32, value: T) {
        let segment = slot as usize / Self::SEGMENT;
        let offset = slot as usize % Self::SEGMENT;
        if segment == self.segments.len() {
            // The first segment grows like a vector: a cache of ten rows should take the room of
            // ten rows. The others are allocated whole, and so are never moved.
            let capacity = if segment == 0 { 0 } else { Self::SEGMENT };
            self.segments.push(Vec::with_capacity(capacity));
        }
        let segment = &mut self.segments[segment];
        if offset == segment.len() {
            segment.push(value);
        } else {
            segment[offset] = value;
        }
    }

    /// Stores `value` at `slot`. Every element between the end and `slot` gets the default value.
    #[cfg(feature = "postgres")]
    pub(crate) fn set_padded(&mut self, slot: u32, value: T)
    where
        T: Default,
    {
        let whole = self.segments.len().saturating_sub(1) * Self::SEGMENT;
        let end = whole + self.segments.last().map_or(0, Vec::len);
        for missing in end as u32..slot {
            self.set(missing, T::default());
        }
        self.set(slot, value);
    }

    /// Returns the value at `slot`; `None` past the end.
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.segments
            .get(slot as usize / Self::SEGMENT)?
            .get(slot as usize % Self::SEGMENT)
    }

    /// Returns the value at `slot` for writing; `None` past the end.
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.segments
            .get_mut(slot as usize / Self::SEGMENT)?
            .get_mut(slot as usize % Self::SEGMENT)
    }

    /// Returns the bytes that the elements occupy, without what they hold on the heap.
    pub(crate) fn memory_bytes(&self) -> usize {
        let elements: usize = self.segments.iter().map(Vec::capacity).sum();
        elements * size_of::<T>()
    }
}
