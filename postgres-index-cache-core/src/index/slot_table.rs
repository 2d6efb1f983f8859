//! [`SlotTable`]: an open-addressed table of entries with tags, in segments that split one at a
//! time. Invariants 1 to 3 of [`index`](super) are kept here.

/// The number of entries in a line: with 12, tags, spill and entries fill the 64 bytes of a cache
/// line.
const LINE_ENTRIES: usize = 12;
/// The number of lines at which a segment that grows is split instead of enlarged.
const DEFAULT_LINES: usize = 64;

/// One cache line of a segment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    /// For each entry, [`tag`] of its hash, or zero where no entry stands.
    tags: [u8; LINE_ENTRIES],
    /// The number of entries that passed this line because it was full (invariant 1).
    spill: u32,
    /// Slots or posting lists; zero where no entry stands.
    entries: [u32; LINE_ENTRIES],
}

const EMPTY_LINE: Line = Line {
    tags: [0; LINE_ENTRIES],
    spill: 0,
    entries: [0; LINE_ENTRIES],
};

impl Line {
    /// Returns the positions that carry `tag`, in ascending order.
    #[expect(
        clippy::many_single_char_names,
        reason = "each is one tag of twelve, and no more than its place among them"
    )]
    #[inline]
    fn matches(&self, tag: u8) -> Matches {
        /// The low bits of each byte of a word.
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        // Eight tags are compared at once, as the bytes of a word. A byte that is zero in
        // `differing` is the only one whose high bit stays clear: neither the sum, which cannot
        // carry into the next byte, nor the byte itself, nor `LOW` sets that bit.
        let same = |word: u64| {
            let differing = word ^ (0x0101_0101_0101_0101 * u64::from(tag));
            !(((differing & LOW) + LOW) | differing | LOW)
        };
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.tags;
        let low = same(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        // The upper four bytes of this word are no tags.
        let high = same(u64::from(u32::from_le_bytes([i, j, k, l]))) & 0xffff_ffff;
        Matches(u128::from(low) | (u128::from(high) << 64))
    }

    /// Stores an entry at a position that is unused.
    fn put(&mut self, position: usize, tag: u8, entry: u32) {
        self.tags[position] = tag;
        self.entries[position] = entry;
    }
}

/// Positions of a line. Position `n` is bit `8 * n + 7`.
struct Matches(u128);

impl Iterator for Matches {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let position = self.0.trailing_zeros() as usize / 8;
        self.0 &= self.0 - 1;
        Some(position)
    }
}

/// An entry with its hash, before the entry stands in the table.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hashed {
    pub(crate) hash: u64,
    pub(crate) entry: u32,
}

/// The entries of all hashes that begin with the same `depth` bits.
struct Segment {
    lines: Box<[Line]>,
    /// The number of leading hash bits that the entries share.
    depth: u8,
    /// The number of used entries.
    len: u32,
}

/// The position of an entry in a segment.
#[derive(Clone, Copy)]
struct EntryPosition {
    line: usize,
    /// The position in the line, below [`LINE_ENTRIES`].
    position: usize,
}

impl Segment {
    fn new(lines: usize, depth: u8) -> Self {
        Self {
            lines: vec![EMPTY_LINE; lines].into_boxed_slice(),
            depth,
            len: 0,
        }
    }

    /// Returns whether the segment must grow before the next insert.
    fn is_full(&self) -> bool {
        // Past 15/16 the way from home to a free entry grows long. A segment of 64 lines is left
        // with 48 free entries at that point.
        self.len as usize * 16 >= self.lines.len() * LINE_ENTRIES * 15
    }

    /// Returns the line that takes the entries for which there is no room in `line`.
    fn next(&self, line: usize) -> usize {
        // Not `%`: a segment may have any number of lines, and a division is slow.
        if line + 1 == self.lines.len() {
            0
        } else {
            line + 1
        }
    }

    /// Stores `entry` in the first line from its home that has room. The caller has checked that
    /// the segment is not full; in a segment without a free entry the search would not end.
    fn insert(&mut self, hash: u64, entry: u32) {
        let mut line = home(hash, self.lines.len());
        loop {
            if let Some(position) = self.lines[line].matches(0).next() {
                self.lines[line].put(position, tag(hash), entry);
                self.len += 1;
                return;
            }
            self.lines[line].spill += 1;
            line = self.next(line);
        }
    }

    /// Returns the position of the entry with this `hash` that `is_wanted` accepts.
    fn find(&self, hash: u64, mut is_wanted: impl FnMut(u32) -> bool) -> Option<EntryPosition> {
        let mut line = home(hash, self.lines.len());
        // Bounded: all lines of a small segment may have spilt.
        for _ in 0..self.lines.len() {
            let current = &self.lines[line];
            // `is_wanted` reads a row, which is likely to be a cache miss. A tag keeps away all but
            // one in 255 of the entries with another hash.
            let mut same_tag = current.matches(tag(hash));
            if let Some(position) = same_tag.find(|&at| is_wanted(current.entries[at])) {
                return Some(EntryPosition { line, position });
            }
            // No entry went past this line: the entry is nowhere further on either.
            if current.spill == 0 {
                return None;
            }
            line = self.next(line);
        }
        None
    }

    /// Stores `entry`, unless an entry with this `hash` stands here that `is_same` accepts; that
    /// one is returned. The caller has checked that the segment is not full.
    fn find_or_insert(
        &mut self,
        hash: u64,
        entry: u32,
        mut is_same: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let home = home(hash, self.lines.len());
        let line = &mut self.lines[home];
        let found = line
            .matches(tag(hash))
            .find(|&at| is_same(line.entries[at]));
        if let Some(position) = found {
            return Some(line.entries[position]);
        }
        if line.spill > 0 {
            if let Some(at) = self.find(hash, is_same) {
                return Some(self.lines[at.line].entries[at.position]);
            }
        } else if let Some(position) = line.matches(0).next() {
            // Nothing that belongs here stands elsewhere, and there is room: the usual case.
            line.put(position, tag(hash), entry);
            self.len += 1;
            return None;
        }
        self.insert(hash, entry);
        None
    }

    /// Removes the entry with this `hash` that stands at `at`.
    fn remove_at(&mut self, hash: u64, at: EntryPosition) {
        // The counts of the lines that the entry passed go down: so a removal leaves no tombstone,
        // and a table with many removals keeps its short ways.
        let mut passed = home(hash, self.lines.len());
        while passed != at.line {
            self.lines[passed].spill -= 1;
            passed = self.next(passed);
        }
        let line = &mut self.lines[at.line];
        line.tags[at.position] = 0;
        line.entries[at.position] = 0;
        self.len -= 1;
    }

    /// Returns all entries with their hashes, in no order.
    fn hashed(&self, hash_of: impl Fn(u32) -> u64) -> Vec<Hashed> {
        // All hashes before anything else is done: the rows are far apart, and the memory serves
        // many reads at once only if they follow each other closely.
        let hashed = self.entries().map(|entry| Hashed {
            hash: hash_of(entry),
            entry,
        });
        hashed.collect()
    }

    /// Returns all entries, in no order.
    fn entries(&self) -> impl Iterator<Item = u32> + '_ {
        self.lines.iter().flat_map(|line| {
            (0..LINE_ENTRIES)
                .filter(|&at| line.tags[at] != 0)
                .map(|at| line.entries[at])
        })
    }
}

/// Returns the tag of a hash; never zero, which marks an unused entry.
fn tag(hash: u64) -> u8 {
    // The directory uses the top bits and the line the low half. Bits that chose the place would be
    // alike in all entries of that place, and a tag of them would tell nothing.
    ((hash >> 32) as u8).max(1)
}

/// Returns the line, of `lines`, from which the search for a hash begins.
fn home(hash: u64, lines: usize) -> usize {
    // Multiply-shift: works for any number of lines, and needs no division.
    ((u64::from(hash as u32) * lines as u64) >> 32) as usize
}

/// Returns the cell of a hash in a directory of this depth.
fn cell_at(depth: u8, hash: u64) -> usize {
    // A shift by all 64 bits would overflow.
    if depth == 0 {
        0
    } else {
        (hash >> (64 - depth)) as usize
    }
}

/// An open-addressed table of entries (slots, or posting lists under a flag bit), without their
/// keys.
pub(crate) struct SlotTable {
    /// For each value of the top `depth` bits of a hash, the number of the segment.
    directory: Vec<u32>,
    segments: Vec<Segment>,
    /// The number of hash bits that choose a cell of the directory.
    depth: u8,
    /// The number of entries.
    len: usize,
}

impl SlotTable {
    /// Makes an empty table with room for `expected` entries before a segment has to split.
    pub(crate) fn with_capacity(expected: usize) -> Self {
        // Aim at 4/5 full: few entries spill, and no segment fills up because hashes are not spread
        // evenly.
        let lines = (expected * 5).div_ceil(4 * LINE_ENTRIES).max(1);
        let depth = lines
            .div_ceil(DEFAULT_LINES * 3 / 2)
            .next_power_of_two()
            .trailing_zeros() as u8;
        let count = 1_usize << depth;
        let lines_each = if expected == 0 {
            1
        } else {
            lines.div_ceil(count).max(4)
        };
        Self {
            directory: (0..count as u32).collect(),
            segments: (0..count)
                .map(|_| Segment::new(lines_each, depth))
                .collect(),
            depth,
            len: 0,
        }
    }

    /// Returns the bytes that the table occupies.
    pub(crate) fn memory_bytes(&self) -> usize {
        let lines: usize = self
            .segments
            .iter()
            .map(|segment| segment.lines.len())
            .sum();
        self.directory.capacity() * size_of::<u32>()
            + self.segments.capacity() * size_of::<Segment>()
            + lines * size_of::<Line>()
    }

    /// Returns the directory cell of a hash.
    fn cell(&self, hash: u64) -> usize {
        cell_at(self.depth, hash)
    }

    /// Returns the number of the segment of a hash.
    fn segment(&self, hash: u64) -> usize {
        self.directory[self.cell(hash)] as usize
    }

    /// Returns the entry with this `hash` that `is_wanted` accepts.
    pub(crate) fn find(&self, hash: u64, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let segment = &self.segments[self.segment(hash)];
        let at = segment.find(hash, &mut is_wanted)?;
        Some(segment.lines[at.line].entries[at.position])
    }

    /// Adds `entry`, unless an entry with this `hash` is there that `is_same` accepts; that one is
    /// returned. `hash_of` is as in [`insert_unique`](Self::insert_unique).
    pub(crate) fn find_or_insert(
        &mut self,
        hash: u64,
        entry: u32,
        is_same: impl FnMut(u32) -> bool,
        hash_of: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        let at = self.segment(hash);
        let segment = &mut self.segments[at];
        if segment.is_full() {
            if let Some(at) = segment.find(hash, is_same) {
                return Some(segment.lines[at.line].entries[at.position]);
            }
            self.insert_unique(hash, entry, hash_of);
            return None;
        }
        let found = segment.find_or_insert(hash, entry, is_same);
        self.len += usize::from(found.is_none());
        found
    }

    /// Makes room for `expected` entries at once, if the table has none.
    pub(crate) fn reserve(&mut self, expected: usize) {
        if self.len == 0 && expected > 0 {
            let roomy = Self::with_capacity(expected);
            if roomy.memory_bytes() > self.memory_bytes() {
                *self = roomy;
            }
        }
    }

    /// Calls `add` with the table and each of `entries`, those of one segment one after another.
    ///
    /// In the order in which rows come, almost every entry would wait for a line of its own to
    /// come from memory. Here the lines of a whole segment are asked for at once, and serve many
    /// entries. `ordered` is room that is used again.
    pub(crate) fn add_by_segment(
        &mut self,
        entries: &[Hashed],
        ordered: &mut Vec<Hashed>,
        mut add: impl FnMut(&mut Self, Hashed),
    ) {
        /// The entries of a segment from which on bringing all its lines near is worth while.
        const MANY: usize = 16;
        self.order(entries, ordered);
        let cells = self.directory.len();
        let depth = self.depth;
        let brings_near = entries.len() / cells >= MANY;
        let mut last = None;
        for &hashed in &*ordered {
            // The cells of the directory as it was: segments may split meanwhile.
            let cell = cell_at(depth, hashed.hash);
            if brings_near && last.replace(cell) != Some(cell) {
                std::hint::black_box(self.touch_segment(hashed.hash));
            }
            add(self, hashed);
        }
    }

    /// Sorts `entries` by their cells of the directory.
    fn order(&self, entries: &[Hashed], ordered: &mut Vec<Hashed>) {
        // A counting sort: first the number of entries of each cell, then where they begin.
        let mut next = vec![0_usize; self.directory.len() + 1];
        for hashed in entries {
            next[self.cell(hashed.hash) + 1] += 1;
        }
        for at in 1..next.len() {
            next[at] += next[at - 1];
        }
        ordered.clear();
        ordered.resize(entries.len(), Hashed::default());
        for &hashed in entries {
            let at = &mut next[self.cell(hashed.hash)];
            ordered[*at] = hashed;
            *at += 1;
        }
    }

    /// Reads each line of the segment of a hash. The result means nothing: the lines are near then.
    fn touch_segment(&self, hash: u64) -> u32 {
        let lines = &self.segments[self.segment(hash)].lines;
        lines.iter().fold(0, |near, line| near ^ line.spill)
    }

    /// Reads the home line of each hash, so that a search for these hashes finds them near. The
    /// reads do not depend on each other, so the memory serves many at once. The result means
    /// nothing.
    pub(crate) fn touch(&self, hashes: impl Iterator<Item = u64>) -> u32 {
        hashes.fold(0, |near, hash| {
            let lines = &self.segments[self.segment(hash)].lines;
            near ^ lines[home(hash, lines.len())].spill
        })
    }

    /// Adds `entry`, whose key the caller knows to be absent. `hash_of` returns the hash of an
    /// entry that is in the table; a split needs it, since the table holds no keys.
    pub(crate) fn insert_unique(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> u64) {
        while self.segments[self.segment(hash)].is_full() {
            self.split(hash, &hash_of);
        }
        let segment = self.segment(hash);
        self.segments[segment].insert(hash, entry);
        self.len += 1;
    }

    /// Takes out and returns the entry with this `hash` that `is_wanted` accepts.
    pub(crate) fn remove(&mut self, hash: u64, is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        let at = segment.find(hash, is_wanted)?;
        let entry = segment.lines[at.line].entries[at.position];
        segment.remove_at(hash, at);
        self.len -= 1;
        Some(entry)
    }

    /// Puts `entry` in the place of the entry with this `hash` that `is_wanted` accepts, and
    /// returns whether there was one. Both entries have the same key.
    pub(crate) fn replace(
        &mut self,
        hash: u64,
        is_wanted: impl FnMut(u32) -> bool,
        entry: u32,
    ) -> bool {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        match segment.find(hash, is_wanted) {
            Some(at) => {
                segment.lines[at.line].entries[at.position] = entry;
                true
            }
            None => false,
        }
    }

    /// Makes room in the segment of `hash`: doubles it while it is small, and splits it in two from
    /// then on.
    fn split(&mut self, hash: u64, hash_of: &impl Fn(u32) -> u64) {
        let old = self.segment(hash);
        let lines = self.segments[old].lines.len();
        if lines < DEFAULT_LINES {
            // A small segment is doubled first, so that a table of ten rows takes a line or two.
            self.rebuild(old, (lines * 2).min(DEFAULT_LINES), hash_of);
            return;
        }
        if self.segments[old].depth == self.depth {
            // One cell alone names this segment, and two will be needed: each cell becomes two.
            self.directory = self
                .directory
                .iter()
                .flat_map(|&segment| [segment, segment])
                .collect();
            self.depth += 1;
        }
        let depth = self.segments[old].depth + 1;
        let full = std::mem::replace(&mut self.segments[old], Segment::new(lines, depth));
        let new = self.segments.len();
        self.segments.push(Segment::new(lines, depth));
        // The cells that named the full segment lie side by side. The upper half of them, where the
        // next bit of the hash is set, goes to the new segment.
        let span = 1_usize << (self.depth - depth);
        let first = (self.cell(hash) / (2 * span)) * 2 * span;
        self.directory[first + span..first + 2 * span].fill(new as u32);
        for Hashed { hash, entry } in full.hashed(hash_of) {
            // Even if all entries go to one of the two, there is room: that one is as large as the
            // full segment was. The caller splits again then.
            let segment = self.segment(hash);
            self.segments[segment].insert(hash, entry);
        }
    }

    /// Gives a segment `lines` lines, and puts its entries where they belong then.
    fn rebuild(&mut self, segment: usize, lines: usize, hash_of: &impl Fn(u32) -> u64) {
        let depth = self.segments[segment].depth;
        let full = std::mem::replace(&mut self.segments[segment], Segment::new(lines, depth));
        for Hashed { hash, entry } in full.hashed(hash_of) {
            self.segments[segment].insert(hash, entry);
        }
    }

    /// Checks invariants 1 to 3 and returns every entry, in no order.
    ///
    /// # Errors
    /// If an invariant is violated, with a text that says which.
    pub(crate) fn validate(&self, hash_of: impl Fn(u32) -> u64) -> Result<Vec<u32>, String> {
        let mut all = Vec::with_capacity(self.len);
        if self.directory.len() != 1 << self.depth {
            return Err(format!(
                "directory of {} cells at depth {}",
                self.directory.len(),
                self.depth
            ));
        }
        for (number, segment) in self.segments.iter().enumerate() {
            // Counted afresh from the entries, to be compared with the counts that were kept.
            let mut spill = vec![0_u32; segment.lines.len()];
            let mut used = 0;
            for (line, content) in segment.lines.iter().enumerate() {
                for position in (0..LINE_ENTRIES).filter(|&at| content.tags[at] != 0) {
                    let entry = content.entries[position];
                    let hash = hash_of(entry);
                    if self.segment(hash) != number {
                        return Err(format!(
                            "entry {entry:#x} stands in segment {number}, not {}",
                            self.segment(hash)
                        ));
                    }
                    if content.tags[position] != tag(hash) {
                        return Err(format!("entry {entry:#x} has the wrong tag"));
                    }
                    let mut passed = home(hash, segment.lines.len());
                    while passed != line {
                        spill[passed] += 1;
                        passed = segment.next(passed);
                    }
                    used += 1;
                    all.push(entry);
                }
            }
            let kept = segment.lines.iter().map(|line| line.spill);
            if !kept.eq(spill) {
                return Err(format!("segment {number} has wrong spill counts"));
            }
            if used != segment.len {
                return Err(format!(
                    "segment {number} says {} entries and has {used}",
                    segment.len
                ));
            }
        }
        if all.len() == self.len {
            Ok(all)
        } else {
            Err(format!(
                "table says {} entries and has {}",
                self.len,
                all.len()
            ))
        }
    }
}

/// Returns the number of segments of a table.
#[cfg(test)]
pub(super) fn segment_count(table: &SlotTable) -> usize {
    table.segments.len()
}
