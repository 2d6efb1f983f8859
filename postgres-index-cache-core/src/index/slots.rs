//! [`Slots`]: which slots are in use, and [`SegVec`]: a column of values by slot.

use super::MAX_SLOTS;

/// Slots that are in use, as one bit each, with the ones to use again.
#[derive(Default)]
pub(crate) struct Slots {
    used: Vec<u64>,
    free: Vec<u32>,
    end: u32,
}

impl Slots {
    pub(crate) fn with_capacity(expected: usize) -> Self {
        Self {
            used: Vec::with_capacity(expected.div_ceil(64)),
            free: Vec::new(),
            end: 0,
        }
    }

    /// How many slots are in use.
    pub(crate) fn len(&self) -> usize {
        self.end as usize - self.free.len()
    }

    /// One past the highest slot ever used.
    pub(crate) fn end(&self) -> u32 {
        self.end
    }

    /// Takes a slot, a freed one first. `None` when all of the 2^31 are in use.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if (self.end as usize) < MAX_SLOTS => {
                self.end += 1;
                if self.used.len() * 64 < self.end as usize {
                    self.used.push(0);
                }
                self.end - 1
            }
            None => return None,
        };
        self.used[slot as usize / 64] |= 1 << (slot % 64);
        Some(slot)
    }

    pub(crate) fn release(&mut self, slot: u32) {
        debug_assert!(self.is_used(slot), "slot {slot} is released twice");
        self.used[slot as usize / 64] &= !(1 << (slot % 64));
        self.free.push(slot);
    }

    pub(crate) fn is_used(&self, slot: u32) -> bool {
        self.used
            .get(slot as usize / 64)
            .is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// The slots in use, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.used.iter().enumerate().flat_map(|(word, &bits)| {
            std::iter::successors((bits != 0).then_some(bits), |bits| {
                Some(bits & (bits - 1)).filter(|&rest| rest != 0)
            })
            .map(move |bits| word as u32 * 64 + bits.trailing_zeros())
        })
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.used.capacity() * size_of::<u64>() + self.free.capacity() * size_of::<u32>()
    }
}

/// A vector in segments of [`SegVec::SEGMENT`] elements: growing it never copies what is there.
pub(crate) struct SegVec<T> {
    segments: Vec<Vec<T>>,
}

impl<T> SegVec<T> {
    pub(crate) const SEGMENT: usize = 4096;

    pub(crate) fn new() -> Self {
        Self {
            segments: Vec::new(),
        }
    }

    /// Stores `value` at `slot`; slots are handed out without gaps, so it is at most one past the
    /// end.
    pub(crate) fn set(&mut self, slot: u32, value: T) {
        let segment = slot as usize / Self::SEGMENT;
        let offset = slot as usize % Self::SEGMENT;
        if segment == self.segments.len() {
            // The first segment grows like a vector: a cache of ten rows should take the room of
            // ten rows.
            self.segments.push(if segment == 0 {
                Vec::new()
            } else {
                Vec::with_capacity(Self::SEGMENT)
            });
        }
        let segment = &mut self.segments[segment];
        if offset == segment.len() {
            segment.push(value);
        } else {
            segment[offset] = value;
        }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.segments
            .get(slot as usize / Self::SEGMENT)?
            .get(slot as usize % Self::SEGMENT)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.segments
            .get_mut(slot as usize / Self::SEGMENT)?
            .get_mut(slot as usize % Self::SEGMENT)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| segment.capacity() * size_of::<T>())
            .sum()
    }
}
