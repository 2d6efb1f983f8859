//! Where the bytes of rows live: fixed parts in segments, records of no fixed width in chunks.
//!
//! A record is `slot · length of the whole record · lengths of its cells · cells`, all lengths
//! `u32`. A chunk is written from its start to its end and never in between; when more than half of
//! a closed chunk is dead, it is *sparse*: its owner moves what lives and lets it go. So what is
//! dead is at most about as much as what lives.

use super::StoreError;
use super::row::RowBuf;
use super::shape::{CellPlace, TableShape};

const CHUNK: usize = 256 * 1024;
const HEADER: usize = 8;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordPlace {
    chunk: u32,
    offset: u32,
}

impl RecordPlace {
    pub(super) const NONE: Self = Self {
        chunk: u32::MAX,
        offset: 0,
    };
    pub(super) const BYTES: usize = 8;

    pub(super) fn read(bytes: &[u8]) -> Self {
        Self {
            chunk: read_u32(bytes, 0),
            offset: read_u32(bytes, 4),
        }
    }

    pub(super) fn write(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.offset.to_le_bytes());
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The fixed parts of rows, by slot, in segments that never move.
pub(super) struct FixedRows {
    stride: usize,
    segments: Vec<Vec<u8>>,
}

impl FixedRows {
    const SEGMENT: usize = 4096;

    pub(super) fn new(stride: usize) -> Self {
        Self {
            stride,
            segments: Vec::new(),
        }
    }

    /// Makes room for `slot`, which is at most one past the last.
    pub(super) fn ensure(&mut self, slot: u32) {
        let (segment, offset) = self.at(slot);
        if segment == self.segments.len() {
            let rows = if segment == 0 { 0 } else { Self::SEGMENT };
            self.segments.push(Vec::with_capacity(rows * self.stride));
        }
        let end = offset + self.stride;
        if self.segments[segment].len() < end {
            self.segments[segment].resize(end, 0);
        }
    }

    pub(super) fn row(&self, slot: u32) -> &[u8] {
        let (segment, offset) = self.at(slot);
        &self.segments[segment][offset..offset + self.stride]
    }

    pub(super) fn row_mut(&mut self, slot: u32) -> &mut [u8] {
        let (segment, offset) = self.at(slot);
        &mut self.segments[segment][offset..offset + self.stride]
    }

    fn at(&self, slot: u32) -> (usize, usize) {
        (
            slot as usize / Self::SEGMENT,
            slot as usize % Self::SEGMENT * self.stride,
        )
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.segments.iter().map(Vec::capacity).sum()
    }
}

/// The cells of a row that go into a record; its length is known to fit.
pub(super) struct Record<'a> {
    cells: Vec<&'a [u8]>,
    length: u32,
}

impl<'a> Record<'a> {
    pub(super) fn new(shape: &TableShape, row: &'a RowBuf) -> Result<Self, StoreError> {
        let is_in_record =
            |column: &usize| matches!(shape.place(*column), CellPlace::Record { .. });
        let cells: Vec<&[u8]> = (0..shape.columns().len())
            .filter(is_in_record)
            .map(|column| row.cell(column).unwrap_or(&[]))
            .collect();
        let length = HEADER + cells.len() * 4 + cells.iter().map(|cell| cell.len()).sum::<usize>();
        Ok(Self {
            length: u32::try_from(length).map_err(|_| StoreError::TooLong(length))?,
            cells,
        })
    }
}

#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    live: usize,
    /// Whether it waits in `Arena::sparse`.
    is_queued: bool,
}

/// Records in chunks.
#[derive(Default)]
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    /// The chunk that takes the next record.
    open: Option<u32>,
    /// Chunks without bytes, to be used again.
    free: Vec<u32>,
    /// Closed chunks that are more dead than alive.
    sparse: Vec<u32>,
}

impl Arena {
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks
            .iter()
            .map(|chunk| size_of::<Chunk>() + chunk.bytes.capacity())
            .sum()
    }

    /// Stores a record; [`RecordPlace::NONE`] for a table that has none.
    pub(super) fn store(&mut self, slot: u32, record: &Record<'_>) -> RecordPlace {
        if record.cells.is_empty() {
            return RecordPlace::NONE;
        }
        let chunk = self.chunk_for(record.length as usize);
        let target = &mut self.chunks[chunk as usize];
        let offset = target.bytes.len() as u32;
        target.live += record.length as usize;
        target.bytes.extend(slot.to_le_bytes());
        target.bytes.extend(record.length.to_le_bytes());
        for cell in &record.cells {
            target.bytes.extend((cell.len() as u32).to_le_bytes());
        }
        for cell in &record.cells {
            target.bytes.extend(*cell);
        }
        RecordPlace { chunk, offset }
    }

    /// The chunk that takes `length` more bytes: the open one, or a new one. A long record gets a
    /// chunk of its own.
    fn chunk_for(&mut self, length: usize) -> u32 {
        if let Some(open) = self.open
            && self.chunks[open as usize].bytes.len() + length <= CHUNK
        {
            return open;
        }
        let is_long = length > CHUNK / 4;
        let capacity = match (is_long, self.chunks.is_empty()) {
            (true, _) => length,
            (false, true) => 0,
            (false, false) => CHUNK,
        };
        let chunk = Chunk {
            bytes: Vec::with_capacity(capacity),
            ..Chunk::default()
        };
        let number = if let Some(number) = self.free.pop() {
            self.chunks[number as usize] = chunk;
            number
        } else {
            self.chunks.push(chunk);
            (self.chunks.len() - 1) as u32
        };
        if !is_long && let Some(closed) = self.open.replace(number) {
            self.note_if_sparse(closed);
        }
        number
    }

    pub(super) fn cell(&self, place: RecordPlace, cells: usize, number: usize) -> &[u8] {
        let record = &self.chunks[place.chunk as usize].bytes[place.offset as usize..];
        let length = |cell: usize| read_u32(record, HEADER + cell * 4) as usize;
        let start = HEADER + cells * 4 + (0..number).map(length).sum::<usize>();
        &record[start..start + length(number)]
    }

    fn length(&self, place: RecordPlace) -> usize {
        read_u32(
            &self.chunks[place.chunk as usize].bytes,
            place.offset as usize + 4,
        ) as usize
    }

    /// Gives a record up.
    pub(super) fn free(&mut self, place: RecordPlace) {
        if place == RecordPlace::NONE {
            return;
        }
        let length = self.length(place);
        self.chunks[place.chunk as usize].live -= length;
        self.note_if_sparse(place.chunk);
    }

    fn note_if_sparse(&mut self, number: u32) {
        let is_open = self.open == Some(number);
        let chunk = &mut self.chunks[number as usize];
        if !is_open && !chunk.is_queued && chunk.live * 2 < chunk.bytes.len() {
            chunk.is_queued = true;
            self.sparse.push(number);
        }
    }

    /// A chunk that is more dead than alive: its owner relocates what lives, then releases it.
    pub(super) fn take_sparse(&mut self) -> Option<u32> {
        self.sparse.pop()
    }

    /// The slot and the place of each record in a chunk, dead ones too.
    pub(super) fn records(&self, chunk: u32) -> Vec<(u32, RecordPlace)> {
        let bytes = &self.chunks[chunk as usize].bytes;
        let mut records = Vec::new();
        let mut offset = 0;
        while offset < bytes.len() {
            records.push((
                read_u32(bytes, offset),
                RecordPlace {
                    chunk,
                    offset: offset as u32,
                },
            ));
            offset += read_u32(bytes, offset + 4) as usize;
        }
        records
    }

    /// Copies a record into the open chunk.
    pub(super) fn relocate(&mut self, old: RecordPlace) -> RecordPlace {
        let length = self.length(old);
        let from = old.offset as usize;
        let record = self.chunks[old.chunk as usize].bytes[from..from + length].to_vec();
        let chunk = self.chunk_for(length);
        let target = &mut self.chunks[chunk as usize];
        let offset = target.bytes.len() as u32;
        target.bytes.extend(record);
        target.live += length;
        RecordPlace { chunk, offset }
    }

    /// Lets a chunk go whose living records were relocated.
    pub(super) fn release(&mut self, chunk: u32) {
        self.chunks[chunk as usize] = Chunk::default();
        self.free.push(chunk);
    }

    /// Checks invariant 3 against the slots and places of all rows, and the count of living bytes.
    pub(super) fn validate(
        &self,
        rows: impl Iterator<Item = (u32, RecordPlace)>,
    ) -> Result<(), String> {
        let mut live = vec![0_usize; self.chunks.len()];
        let mut seen = std::collections::HashSet::new();
        for (slot, place) in rows.filter(|(_, place)| *place != RecordPlace::NONE) {
            let bytes = &self.chunks[place.chunk as usize].bytes;
            if read_u32(bytes, place.offset as usize) != slot
                || !seen.insert((place.chunk, place.offset))
            {
                return Err(format!(
                    "the record at {place:?} is not that of slot {slot} alone"
                ));
            }
            live[place.chunk as usize] += self.length(place);
        }
        match live
            .iter()
            .zip(&self.chunks)
            .position(|(&counted, chunk)| counted != chunk.live)
        {
            Some(chunk) => Err(format!(
                "chunk {chunk} says {} living bytes, not {}",
                self.chunks[chunk].live, live[chunk]
            )),
            None => Ok(()),
        }
    }
}
