//! [`SlotTable`]: an open-addressed table of entries with tags, in segments that split one at a
//! time. Invariants 1 to 3.

/// How many entries a line holds: tags, spill and entries fill 64 bytes.
const LINE_ENTRIES: usize = 12;
/// Lines a segment has when nothing is known of the size to come.
const DEFAULT_LINES: usize = 64;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    tags: [u8; LINE_ENTRIES],
    spill: u32,
    entries: [u32; LINE_ENTRIES],
}

const EMPTY_LINE: Line = Line {
    tags: [0; LINE_ENTRIES],
    spill: 0,
    entries: [0; LINE_ENTRIES],
};

impl Line {
    /// The positions that carry `tag`, as a bit mask.
    fn matches(&self, tag: u8) -> u32 {
        self.tags
            .iter()
            .enumerate()
            .fold(0, |mask, (position, &found)| {
                mask | (u32::from(found == tag) << position)
            })
    }
}

struct Segment {
    lines: Box<[Line]>,
    depth: u8,
    len: u32,
}

impl Segment {
    fn new(lines: usize, depth: u8) -> Self {
        Self {
            lines: vec![EMPTY_LINE; lines].into_boxed_slice(),
            depth,
            len: 0,
        }
    }

    fn is_full(&self) -> bool {
        // Past 15/16 the way to a free entry grows long; a segment of 64 lines leaves 48 entries
        // free.
        self.len as usize * 16 >= self.lines.len() * LINE_ENTRIES * 15
    }

    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() {
            0
        } else {
            line + 1
        }
    }

    /// Stores `entry`; the caller has seen that the segment is not full.
    fn insert(&mut self, hash: u64, entry: u32) {
        let mut line = home(hash, self.lines.len());
        loop {
            let free = self.lines[line].matches(0);
            if free != 0 {
                let position = free.trailing_zeros() as usize;
                self.lines[line].tags[position] = tag(hash);
                self.lines[line].entries[position] = entry;
                self.len += 1;
                return;
            }
            self.lines[line].spill += 1;
            line = self.next(line);
        }
    }

    fn find(&self, hash: u64, mut is_wanted: impl FnMut(u32) -> bool) -> Option<(usize, usize)> {
        let mut line = home(hash, self.lines.len());
        for _ in 0..self.lines.len() {
            let current = &self.lines[line];
            let mut mask = current.matches(tag(hash));
            while mask != 0 {
                let position = mask.trailing_zeros() as usize;
                if is_wanted(current.entries[position]) {
                    return Some((line, position));
                }
                mask &= mask - 1;
            }
            if current.spill == 0 {
                return None;
            }
            line = self.next(line);
        }
        None
    }

    fn remove_at(&mut self, hash: u64, (line, position): (usize, usize)) {
        let mut passed = home(hash, self.lines.len());
        while passed != line {
            self.lines[passed].spill -= 1;
            passed = self.next(passed);
        }
        self.lines[line].tags[position] = 0;
        self.lines[line].entries[position] = 0;
        self.len -= 1;
    }

    fn entries(&self) -> impl Iterator<Item = u32> + '_ {
        self.lines.iter().flat_map(|line| {
            (0..LINE_ENTRIES)
                .filter(|&at| line.tags[at] != 0)
                .map(|at| line.entries[at])
        })
    }
}

fn tag(hash: u64) -> u8 {
    // Bits that neither the directory (top) nor the line (low half) uses for small tables; the high
    // bit keeps it from 0.
    (hash >> 32) as u8 | 0x80
}

fn home(hash: u64, lines: usize) -> usize {
    // Multiply-shift: any number of lines, no division.
    ((u64::from(hash as u32) * lines as u64) >> 32) as usize
}

/// An open-addressed table of entries (slots, or posting lists under a flag bit), without their
/// keys.
pub(crate) struct SlotTable {
    directory: Vec<u32>,
    segments: Vec<Segment>,
    depth: u8,
    len: usize,
}

impl SlotTable {
    /// A table with room for `expected` entries before a segment has to split.
    pub(crate) fn with_capacity(expected: usize) -> Self {
        // Aim at 4/5 full: few spills, and room for the spread between segments.
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

    pub(crate) fn memory_bytes(&self) -> usize {
        self.directory.capacity() * size_of::<u32>()
            + self.segments.capacity() * size_of::<Segment>()
            + self
                .segments
                .iter()
                .map(|segment| segment.lines.len() * size_of::<Line>())
                .sum::<usize>()
    }

    fn cell(&self, hash: u64) -> usize {
        if self.depth == 0 {
            0
        } else {
            (hash >> (64 - self.depth)) as usize
        }
    }

    fn segment(&self, hash: u64) -> usize {
        self.directory[self.cell(hash)] as usize
    }

    pub(crate) fn find(&self, hash: u64, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let segment = &self.segments[self.segment(hash)];
        segment
            .find(hash, &mut is_wanted)
            .map(|(line, position)| segment.lines[line].entries[position])
    }

    /// Adds `entry`, whose key the caller knows to be absent. `hash_of` gives the hash of an entry
    /// that stands here.
    pub(crate) fn insert_unique(&mut self, hash: u64, entry: u32, hash_of: impl Fn(u32) -> u64) {
        while self.segments[self.segment(hash)].is_full() {
            self.split(hash, &hash_of);
        }
        let segment = self.segment(hash);
        self.segments[segment].insert(hash, entry);
        self.len += 1;
    }

    /// Takes the entry out that `is_wanted` accepts.
    pub(crate) fn remove(&mut self, hash: u64, is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        let at = segment.find(hash, is_wanted)?;
        let entry = segment.lines[at.0].entries[at.1];
        segment.remove_at(hash, at);
        self.len -= 1;
        Some(entry)
    }

    /// Puts `entry` where the entry stands that `is_wanted` accepts; the key stays.
    pub(crate) fn replace(
        &mut self,
        hash: u64,
        is_wanted: impl FnMut(u32) -> bool,
        entry: u32,
    ) -> bool {
        let segment = self.segment(hash);
        let segment = &mut self.segments[segment];
        match segment.find(hash, is_wanted) {
            Some((line, position)) => {
                segment.lines[line].entries[position] = entry;
                true
            }
            None => false,
        }
    }

    fn split(&mut self, hash: u64, hash_of: &impl Fn(u32) -> u64) {
        let old = self.segment(hash);
        let lines = self.segments[old].lines.len();
        if lines < DEFAULT_LINES {
            // A small segment doubles in place first: a table of ten rows takes a line or two.
            self.rebuild(old, (lines * 2).min(DEFAULT_LINES), hash_of);
            return;
        }
        if self.segments[old].depth == self.depth {
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
        let span = 1_usize << (self.depth - depth);
        let first = (self.cell(hash) / (2 * span)) * 2 * span;
        self.directory[first + span..first + 2 * span].fill(new as u32);
        for entry in full.entries() {
            let hash = hash_of(entry);
            let segment = self.segment(hash);
            self.segments[segment].insert(hash, entry);
        }
    }

    fn rebuild(&mut self, segment: usize, lines: usize, hash_of: &impl Fn(u32) -> u64) {
        let depth = self.segments[segment].depth;
        let full = std::mem::replace(&mut self.segments[segment], Segment::new(lines, depth));
        for entry in full.entries() {
            self.segments[segment].insert(hash_of(entry), entry);
        }
    }

    /// Checks invariants 1 to 3 and returns every entry.
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
            if spill
                .iter()
                .zip(segment.lines.iter())
                .any(|(&counted, line)| counted != line.spill)
            {
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

/// How many segments a table has.
#[cfg(test)]
pub(super) fn segment_count(table: &SlotTable) -> usize {
    table.segments.len()
}
