//! Slots, key tables and posting lists: the structure under [`IdxModelCache`](crate::IdxModelCache) and
//! [`TableCache`](crate::TableCache).
//!
//! A row lives in a *slot*, a `u32`. Nothing here stores a key: a table stores slots beside one-byte *tags* of their
//! hashes, and asks its owner to compare or to hash the row in a slot. One [`Line`] is one cache line, so that most
//! look-ups touch one line and the row.
//!
//! ```text
//! hash ── top bits ──→ directory ──→ segment ── low bits ──→ line: 12 tags | spill | 12 entries
//!                                                                                  └→ slot, or posting list
//! ```
//!
//! The table grows by splitting one full segment at a time (extendible hashing), so growth has no moment at which all
//! of it stands in memory twice, and no pause in proportion to its size.
//!
//! # Invariants
//! 1. An entry is reachable from its home line through lines whose `spill` is above zero: `spill` counts the entries
//!    that passed this line on the way from their home to where they stand.
//! 2. A tag is zero exactly where the entry beside it is unused.
//! 3. Each directory cell names a segment whose prefix is that of the cell; `len` is the number of used entries.
//! 4. A posting list holds at least two slots, in ascending order, each once; one slot alone stands in the table.
//! 5. A free posting list is empty and listed once in `free`.

/// How many entries a line holds: tags, spill and entries fill 64 bytes.
const LINE_ENTRIES: usize = 12;
/// The bit that tells an entry of a posting list from a slot.
const POSTING_BIT: u32 = 1 << 31;
/// The highest number of slots: the upper half of `u32` names posting lists.
pub(crate) const MAX_SLOTS: usize = POSTING_BIT as usize;
/// Lines a segment has when nothing is known of the size to come.
const DEFAULT_LINES: usize = 64;
/// How many slots one block of a long posting list holds at most.
const BLOCK: usize = 512;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line {
    tags: [u8; LINE_ENTRIES],
    spill: u32,
    entries: [u32; LINE_ENTRIES],
}

const EMPTY_LINE: Line = Line { tags: [0; LINE_ENTRIES], spill: 0, entries: [0; LINE_ENTRIES] };

impl Line {
    /// The positions that carry `tag`, as a bit mask.
    fn matches(&self, tag: u8) -> u32 {
        self.tags.iter().enumerate().fold(0, |mask, (position, &found)| mask | (u32::from(found == tag) << position))
    }
}

struct Segment {
    lines: Box<[Line]>,
    depth: u8,
    len: u32,
}

impl Segment {
    fn new(lines: usize, depth: u8) -> Self {
        Self { lines: vec![EMPTY_LINE; lines].into_boxed_slice(), depth, len: 0 }
    }

    fn is_full(&self) -> bool {
        // Past 15/16 the way to a free entry grows long; a segment of 64 lines leaves 48 entries free.
        self.len as usize * 16 >= self.lines.len() * LINE_ENTRIES * 15
    }

    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines.len() { 0 } else { line + 1 }
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
        self.lines.iter().flat_map(|line| (0..LINE_ENTRIES).filter(|&at| line.tags[at] != 0).map(|at| line.entries[at]))
    }
}

fn tag(hash: u64) -> u8 {
    // Bits that neither the directory (top) nor the line (low half) uses for small tables; the high bit keeps it from 0.
    (hash >> 32) as u8 | 0x80
}

fn home(hash: u64, lines: usize) -> usize {
    // Multiply-shift: any number of lines, no division.
    ((u64::from(hash as u32) * lines as u64) >> 32) as usize
}

/// An open-addressed table of entries (slots, or posting lists under a flag bit), without their keys.
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
        let depth = lines.div_ceil(DEFAULT_LINES * 3 / 2).next_power_of_two().trailing_zeros() as u8;
        let count = 1_usize << depth;
        let lines_each = if expected == 0 { 1 } else { lines.div_ceil(count).max(4) };
        Self {
            directory: (0..count as u32).collect(),
            segments: (0..count).map(|_| Segment::new(lines_each, depth)).collect(),
            depth,
            len: 0,
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.directory.capacity() * size_of::<u32>()
            + self.segments.capacity() * size_of::<Segment>()
            + self.segments.iter().map(|segment| segment.lines.len() * size_of::<Line>()).sum::<usize>()
    }

    fn cell(&self, hash: u64) -> usize {
        if self.depth == 0 { 0 } else { (hash >> (64 - self.depth)) as usize }
    }

    fn segment(&self, hash: u64) -> usize {
        self.directory[self.cell(hash)] as usize
    }

    pub(crate) fn find(&self, hash: u64, mut is_wanted: impl FnMut(u32) -> bool) -> Option<u32> {
        let segment = &self.segments[self.segment(hash)];
        segment.find(hash, &mut is_wanted).map(|(line, position)| segment.lines[line].entries[position])
    }

    /// Adds `entry`, whose key the caller knows to be absent. `hash_of` gives the hash of an entry that stands here.
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
    pub(crate) fn replace(&mut self, hash: u64, is_wanted: impl FnMut(u32) -> bool, entry: u32) -> bool {
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
            self.directory = self.directory.iter().flat_map(|&segment| [segment, segment]).collect();
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
            return Err(format!("directory of {} cells at depth {}", self.directory.len(), self.depth));
        }
        for (number, segment) in self.segments.iter().enumerate() {
            let mut spill = vec![0_u32; segment.lines.len()];
            let mut used = 0;
            for (line, content) in segment.lines.iter().enumerate() {
                for position in (0..LINE_ENTRIES).filter(|&at| content.tags[at] != 0) {
                    let entry = content.entries[position];
                    let hash = hash_of(entry);
                    if self.segment(hash) != number {
                        return Err(format!("entry {entry:#x} stands in segment {number}, not {}", self.segment(hash)));
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
            if spill.iter().zip(segment.lines.iter()).any(|(&counted, line)| counted != line.spill) {
                return Err(format!("segment {number} has wrong spill counts"));
            }
            if used != segment.len {
                return Err(format!("segment {number} says {} entries and has {used}", segment.len));
            }
        }
        if all.len() == self.len {
            Ok(all)
        } else {
            Err(format!("table says {} entries and has {}", self.len, all.len()))
        }
    }
}

/// The slots that share one value, ascending.
enum Postings {
    Short(Vec<u32>),
    /// Blocks of at most [`BLOCK`] slots, none empty: an insert moves one block, never the whole list.
    Long(Vec<Vec<u32>>),
}

impl Postings {
    fn len(&self) -> usize {
        match self {
            Self::Short(slots) => slots.len(),
            Self::Long(blocks) => blocks.iter().map(Vec::len).sum(),
        }
    }

    fn insert(&mut self, slot: u32) {
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
                    // Rows that are loaded come with rising slots: leave full blocks behind the last one.
                    let cut = if at + 1 == blocks.len() { BLOCK } else { BLOCK / 2 };
                    let upper = blocks[at].split_off(cut);
                    blocks.insert(at + 1, upper);
                }
            }
        }
    }

    fn remove(&mut self, slot: u32) -> bool {
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

    fn first(&self) -> Option<u32> {
        match self {
            Self::Short(slots) => slots.first().copied(),
            Self::Long(blocks) => blocks.first().and_then(|block| block.first().copied()),
        }
    }

    fn memory_bytes(&self) -> usize {
        match self {
            Self::Short(slots) => slots.capacity() * size_of::<u32>(),
            Self::Long(blocks) => {
                blocks.capacity() * size_of::<Vec<u32>>()
                    + blocks.iter().map(|block| block.capacity() * size_of::<u32>()).sum::<usize>()
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
    slots.binary_search(&slot).map(|at| slots.remove(at)).is_ok()
}

fn block_of(blocks: &[Vec<u32>], slot: u32) -> usize {
    blocks.partition_point(|block| block.first().is_some_and(|&first| first <= slot)).saturating_sub(1)
}

/// The slots that an index found for a value, ascending.
#[derive(Clone, Copy)]
pub(crate) struct Hits<'a>(Found<'a>);

#[derive(Clone, Copy)]
enum Found<'a> {
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
        HitsIter { one, block: block.iter(), blocks: blocks.iter(), left: self.len() }
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
        let slot = self.one.take().or_else(|| self.block.next().copied()).or_else(|| {
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

/// What an index asks of the rows behind the slots.
pub(crate) trait Keys {
    /// The hash of the indexed value of the row in `slot`.
    fn hash_of(&self, slot: u32) -> u64;
}

impl<F: Fn(u32) -> u64> Keys for F {
    fn hash_of(&self, slot: u32) -> u64 {
        self(slot)
    }
}

/// An index over values that may repeat: a value that stands once takes an entry and no heap, others a posting list.
pub(crate) struct MultiIndex {
    table: SlotTable,
    postings: Vec<Postings>,
    free: Vec<u32>,
}

impl MultiIndex {
    pub(crate) fn with_capacity(expected: usize) -> Self {
        Self { table: SlotTable::with_capacity(expected), postings: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
            + self.postings.capacity() * size_of::<Postings>()
            + self.postings.iter().map(Postings::memory_bytes).sum::<usize>()
            + self.free.capacity() * size_of::<u32>()
    }

    /// The slots of a value: `is_wanted` says whether the row in a slot has it.
    pub(crate) fn get(&self, hash: u64, mut is_wanted: impl FnMut(u32) -> bool) -> Hits<'_> {
        let found = self.table.find(hash, |entry| is_wanted(representative(&self.postings, entry)));
        Hits(match found {
            None => Found::Nothing,
            Some(entry) => match self.list(entry) {
                Some(postings) => Found::Many(postings),
                None => Found::One(entry),
            },
        })
    }

    /// Adds the row in `slot`; `is_same` says whether another row has the same value.
    pub(crate) fn insert(&mut self, hash: u64, slot: u32, mut is_same: impl FnMut(u32) -> bool, keys: &impl Keys) {
        let postings = &self.postings;
        let found = self.table.find(hash, |entry| is_same(representative(postings, entry)));
        match found {
            None => self.table.insert_unique(hash, slot, |entry| keys.hash_of(representative(postings, entry))),
            Some(entry) if entry & POSTING_BIT != 0 => {
                self.postings[(entry & !POSTING_BIT) as usize].insert(slot);
            }
            Some(other) => {
                let list = Postings::Short(if other < slot { vec![other, slot] } else { vec![slot, other] });
                let number = if let Some(number) = self.free.pop() {
                    self.postings[number as usize] = list;
                    number
                } else {
                    self.postings.push(list);
                    (self.postings.len() - 1) as u32
                };
                self.table.replace(hash, |entry| entry == other, number | POSTING_BIT);
            }
        }
    }

    /// Takes the row in `slot` out; `is_same` says whether another row has the same value.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32, mut is_same: impl FnMut(u32) -> bool) -> bool {
        let postings = &self.postings;
        let found = self.table.find(hash, |entry| {
            entry == slot || (entry & POSTING_BIT != 0 && is_same(representative(postings, entry)))
        });
        let Some(entry) = found else { return false };
        if entry == slot {
            return self.table.remove(hash, |entry| entry == slot).is_some();
        }
        let number = entry & !POSTING_BIT;
        let list = &mut self.postings[number as usize];
        let removed = list.remove(slot);
        if list.len() == 1
            && let Some(last) = list.first()
        {
            *list = Postings::Short(Vec::new());
            self.free.push(number);
            self.table.replace(hash, |found| found == entry, last);
        }
        removed
    }

    fn list(&self, entry: u32) -> Option<&Postings> {
        (entry & POSTING_BIT != 0).then(|| &self.postings[(entry & !POSTING_BIT) as usize])
    }

    /// Checks invariants 1 to 5 and returns every slot that is indexed.
    pub(crate) fn validate(&self, keys: &impl Keys) -> Result<Vec<u32>, String> {
        let entries = self.table.validate(|entry| keys.hash_of(representative(&self.postings, entry)))?;
        let mut slots = Vec::new();
        let mut lists = 0;
        for entry in entries {
            let Some(list) = self.list(entry) else {
                slots.push(entry);
                continue;
            };
            lists += 1;
            let content: Vec<u32> = Hits(Found::Many(list)).iter().collect();
            if content.len() < 2 || !content.is_sorted_by(|a, b| a < b) {
                return Err(format!("posting list {entry:#x} is short or out of order: {content:?}"));
            }
            if matches!(list, Postings::Long(blocks) if blocks.iter().any(|block| block.is_empty() || block.len() > BLOCK))
            {
                return Err(format!("posting list {entry:#x} has an empty or overlong block"));
            }
            if content.iter().any(|&slot| keys.hash_of(slot) != keys.hash_of(content[0])) {
                return Err(format!("posting list {entry:#x} mixes values"));
            }
            slots.extend(content);
        }
        let free_are_empty = self.free.iter().all(|&number| self.postings[number as usize].len() == 0);
        if lists + self.free.len() != self.postings.len() || !free_are_empty {
            return Err(format!("{lists} lists and {} free of {}", self.free.len(), self.postings.len()));
        }
        Ok(slots)
    }
}

/// A slot whose row carries the value of `entry`. A posting list is never empty while an entry names it.
fn representative(postings: &[Postings], entry: u32) -> u32 {
    if entry & POSTING_BIT == 0 {
        return entry;
    }
    postings[(entry & !POSTING_BIT) as usize].first().unwrap_or(u32::MAX)
}

/// Slots that are in use, as one bit each, with the ones to use again.
#[derive(Default)]
pub(crate) struct Slots {
    used: Vec<u64>,
    free: Vec<u32>,
    end: u32,
}

impl Slots {
    pub(crate) fn with_capacity(expected: usize) -> Self {
        Self { used: Vec::with_capacity(expected.div_ceil(64)), free: Vec::new(), end: 0 }
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
        self.used.get(slot as usize / 64).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// The slots in use, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.used.iter().enumerate().flat_map(|(word, &bits)| {
            std::iter::successors((bits != 0).then_some(bits), |bits| Some(bits & (bits - 1)).filter(|&rest| rest != 0))
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
        Self { segments: Vec::new() }
    }

    /// Stores `value` at `slot`; slots are handed out without gaps, so it is at most one past the end.
    pub(crate) fn set(&mut self, slot: u32, value: T) {
        let (segment, offset) = (slot as usize / Self::SEGMENT, slot as usize % Self::SEGMENT);
        if segment == self.segments.len() {
            // The first segment grows like a vector: a cache of ten rows should take the room of ten rows.
            self.segments.push(if segment == 0 { Vec::new() } else { Vec::with_capacity(Self::SEGMENT) });
        }
        let segment = &mut self.segments[segment];
        if offset == segment.len() { segment.push(value) } else { segment[offset] = value }
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        self.segments.get(slot as usize / Self::SEGMENT)?.get(slot as usize % Self::SEGMENT)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.segments.get_mut(slot as usize / Self::SEGMENT)?.get_mut(slot as usize % Self::SEGMENT)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.capacity() * size_of::<T>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Values by slot; a poor hash on purpose, so that segments split unevenly and lines overflow.
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
                    let removed = index.remove(poor_hash(old), slot, |other| values.get(&other) == Some(&old));
                    prop_assert!(removed);
                    values.remove(&slot);
                    oracle.get_mut(&old).unwrap().remove(&slot);
                }
                if add {
                    values.insert(slot, value);
                    let keys = |slot: u32| poor_hash(values[&slot]);
                    index.insert(poor_hash(value), slot, |other| values[&other] == value, &keys);
                    oracle.entry(value).or_default().insert(slot);
                }
            }
            let keys = |slot: u32| poor_hash(values[&slot]);
            let mut indexed = index.validate(&keys).map_err(TestCaseError::fail)?;
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
    fn a_value_that_a_million_rows_share_stays_cheap_to_change() {
        let mut index = MultiIndex::with_capacity(0);
        let rows = 200_000_u32;
        for slot in 0..rows {
            index.insert(7, slot, |_| true, &|_: u32| 7);
        }
        for slot in (0..rows).rev().step_by(3) {
            assert!(index.remove(7, slot, |_| true));
            assert!(!index.remove(7, slot, |_| true), "slot {slot} was removed twice");
        }
        let left: Vec<u32> = index.get(7, |_| true).iter().collect();
        assert_eq!(left.len(), (rows - rows.div_ceil(3)) as usize);
        index.validate(&|_: u32| 7).unwrap();
    }

    #[test]
    fn a_presized_table_does_not_split_and_stays_near_seven_bytes_an_entry() {
        let hasher = foldhash::quality::FixedState::with_seed(1);
        let hash = |entry: u32| std::hash::BuildHasher::hash_one(&hasher, entry);
        let count = 300_000;
        let mut table = SlotTable::with_capacity(count);
        let before = table.segments.len();
        for entry in 0..count as u32 {
            table.insert_unique(hash(entry), entry, hash);
        }
        assert_eq!(table.segments.len(), before);
        assert!(table.memory_bytes() < count * 8, "{} bytes", table.memory_bytes());
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
        assert_eq!((slots.len(), slots.is_used(64), slots.is_used(500)), (128, false, false));
        assert_eq!(slots.iter().count(), 128);
        assert_eq!(slots.take(), Some(3));
        assert_eq!(slots.iter().filter(|&slot| slot == 64).count(), 0);
    }
}
