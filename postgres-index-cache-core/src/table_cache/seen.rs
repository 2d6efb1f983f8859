//! [`SeenRows`]: the marks of a mark and sweep over the rows of a cache.

/// The rows that a new snapshot has brought. A snapshot is merged row by row into a cache that has
/// rows already; the rows that the snapshot did not bring are swept at its end.
#[derive(Debug, Default)]
pub struct SeenRows {
    /// The slots of the rows, as one bit each.
    slots: Vec<u64>,
}

impl SeenRows {
    /// Marks a slot and returns whether this was the first time.
    pub(crate) fn mark(&mut self, slot: u32) -> bool {
        let word = slot as usize / 64;
        let bit = 1 << (slot % 64);
        if self.slots.len() <= word {
            self.slots.resize(word + 1, 0);
        }
        let is_new = self.slots[word] & bit == 0;
        self.slots[word] |= bit;
        is_new
    }

    /// Returns whether a slot is marked.
    pub(crate) fn has(&self, slot: u32) -> bool {
        self.slots
            .get(slot as usize / 64)
            .is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }
}
