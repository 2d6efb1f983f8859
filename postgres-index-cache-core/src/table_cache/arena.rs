//! [`FixedRows`]: the fixed-width parts of rows, in segments. [`Arena`]: their records, which hold
//! the cells of no fixed width, in chunks.
//!
//! ```text
//! record   slot · length of the whole record · length of each cell · the cells
//!          u32    u32                          u32 each
//! ```
//!
//! A chunk is only ever appended to. If more than half of the bytes of a closed chunk belong to
//! dead records, the chunk is *sparse*: its owner moves the live records and releases the chunk.
//! Closed chunks therefore hold at most about as many dead bytes as live ones.

use super::outcome::StoreError;
use super::place::{CellPlace, RecordPlace, read_u32};
use super::row::RowBuf;
use super::shape::TableShape;

/// The length of a chunk that several records share.
const CHUNK: usize = 256 * 1024;
/// The length of the slot and the length of the record at the start of a record.
const HEADER: usize = 8;

/// A record's place, and the slot that is written in the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredRecord {
    pub(super) slot: u32,
    pub(super) place: RecordPlace,
}

/// The fixed parts of rows, by slot, in segments. Growth moves no rows, except in the first
/// segment.
pub(super) struct FixedRows {
    /// The length of a fixed part.
    stride: usize,
    segments: Vec<Vec<u8>>,
}

/// The place of a row's fixed part.
struct FixedPlace {
    segment: usize,
    /// The position of the first byte in the segment.
    offset: usize,
}

impl FixedRows {
    /// The number of rows in a segment.
    const SEGMENT: usize = 4096;

    /// Makes an empty store for fixed parts of `stride` bytes.
    pub(super) fn new(stride: usize) -> Self {
        Self {
            stride,
            segments: Vec::new(),
        }
    }

    /// Makes room for `slot`, which is at most one past the last. New room is filled with zeros.
    pub(super) fn ensure(&mut self, slot: u32) {
        let FixedPlace { segment, offset } = self.at(slot);
        if segment == self.segments.len() {
            // The first segment grows like a vector: a cache of ten rows should take the room of
            // ten rows.
            let rows = if segment == 0 { 0 } else { Self::SEGMENT };
            self.segments.push(Vec::with_capacity(rows * self.stride));
        }
        let end = offset + self.stride;
        if self.segments[segment].len() < end {
            self.segments[segment].resize(end, 0);
        }
    }

    /// Returns the fixed part of the row in `slot`.
    pub(super) fn row(&self, slot: u32) -> &[u8] {
        let FixedPlace { segment, offset } = self.at(slot);
        &self.segments[segment][offset..offset + self.stride]
    }

    /// Returns the fixed part of the row in `slot` for writing.
    pub(super) fn row_mut(&mut self, slot: u32) -> &mut [u8] {
        let FixedPlace { segment, offset } = self.at(slot);
        &mut self.segments[segment][offset..offset + self.stride]
    }

    fn at(&self, slot: u32) -> FixedPlace {
        let slot = slot as usize;
        FixedPlace {
            segment: slot / Self::SEGMENT,
            offset: slot % Self::SEGMENT * self.stride,
        }
    }

    /// Returns the bytes that the fixed parts occupy.
    pub(super) fn memory_bytes(&self) -> usize {
        self.segments.iter().map(Vec::capacity).sum()
    }
}

/// A row whose cells of no fixed width go into a record. The record's length is known to fit into
/// 32 bits.
pub(super) struct Record<'a> {
    row: &'a RowBuf,
    /// The length of the whole record, header included; zero if the table has no cell for records.
    length: u32,
}

impl<'a> Record<'a> {
    /// Measures the record of `row`.
    ///
    /// # Errors
    /// [`StoreError::TooLong`] if the record is longer than 4 GiB. A [`Record`] in hand means that
    /// [`Arena::store`] cannot fail.
    pub(super) fn new(shape: &TableShape, row: &'a RowBuf) -> Result<Self, StoreError> {
        let mut record = Self { row, length: 0 };
        if shape.record_cells() > 0 {
            let cells: usize = record.cells(shape).map(|cell| 4 + cell.len()).sum();
            let length = HEADER + cells;
            record.length = u32::try_from(length).map_err(|_| StoreError::TooLong(length))?;
        }
        Ok(record)
    }

    /// Returns the cells of the record, in column order.
    fn cells<'s>(&self, shape: &'s TableShape) -> impl Iterator<Item = &'a [u8]> + use<'a, 's> {
        let row = self.row;
        (0..shape.columns().len())
            .filter(|&column| matches!(shape.place(column), CellPlace::Record { .. }))
            // A NULL is in the null bits; its cell takes a length and no bytes.
            .map(|column| row.cell(column).unwrap_or(&[]))
    }
}

/// Records, one behind the other.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// The number of bytes in records that are in use.
    live: usize,
    /// Whether the chunk waits in [`Arena::sparse`].
    is_queued: bool,
}

/// Records in chunks.
#[derive(Default)]
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    /// The chunk that takes the next record.
    open: Option<u32>,
    /// Chunks without bytes, whose numbers are used again.
    free: Vec<u32>,
    /// Closed chunks of which less than half is live, and which were not taken yet.
    sparse: Vec<u32>,
}

impl Arena {
    /// Returns the bytes that the records occupy, dead ones included.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks
            .iter()
            .map(|chunk| size_of::<Chunk>() + chunk.bytes.capacity())
            .sum()
    }

    /// Stores a record and returns its place; [`RecordPlace::NONE`] if the table has no column for
    /// records.
    pub(super) fn store(
        &mut self,
        slot: u32,
        shape: &TableShape,
        record: &Record<'_>,
    ) -> RecordPlace {
        if record.length == 0 {
            return RecordPlace::NONE;
        }
        let chunk = self.chunk_for(record.length as usize);
        let target = &mut self.chunks[chunk as usize];
        let offset = target.bytes.len() as u32;
        target.live += record.length as usize;
        target.bytes.extend(slot.to_le_bytes());
        target.bytes.extend(record.length.to_le_bytes());
        for cell in record.cells(shape) {
            target.bytes.extend((cell.len() as u32).to_le_bytes());
        }
        for cell in record.cells(shape) {
            target.bytes.extend_from_slice(cell);
        }
        RecordPlace { chunk, offset }
    }

    /// Returns the chunk that takes `length` more bytes: the open one, or a new one. A record
    /// longer than a quarter of a chunk gets a chunk of its own.
    fn chunk_for(&mut self, length: usize) -> u32 {
        if let Some(open) = self.open
            && self.chunks[open as usize].bytes.len() + length <= CHUNK
        {
            return open;
        }
        let is_long = length > CHUNK / 4;
        let capacity = if is_long {
            length
        } else if self.chunks.is_empty() {
            // The first chunk grows like a vector: a small table should take little room.
            0
        } else {
            CHUNK
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
        // The chunk of a long record is closed from the start, and the open chunk stays open. A
        // chunk that is closed now may be sparse already: while open, it was not noted.
        if !is_long && let Some(closed) = self.open.replace(number) {
            self.note_if_sparse(closed);
        }
        number
    }

    /// Returns cell `number` of the record at `place`, which has `cells` cells.
    pub(super) fn cell(&self, place: RecordPlace, cells: usize, number: usize) -> &[u8] {
        fn cell_length(record: &[u8], cell: usize) -> usize {
            read_u32(record, HEADER + cell * 4) as usize
        }
        let record = &self.chunks[place.chunk as usize].bytes[place.offset as usize..];
        let before: usize = (0..number).map(|cell| cell_length(record, cell)).sum();
        let start = HEADER + cells * 4 + before;
        &record[start..start + cell_length(record, number)]
    }

    /// Returns the length of the whole record at `place`.
    fn length(&self, place: RecordPlace) -> usize {
        read_u32(
            &self.chunks[place.chunk as usize].bytes,
            place.offset as usize + 4,
        ) as usize
    }

    /// Counts the record at `place` as dead. Does nothing for [`RecordPlace::NONE`].
    pub(super) fn free(&mut self, place: RecordPlace) {
        if place == RecordPlace::NONE {
            return;
        }
        let length = self.length(place);
        // The bytes stay: another record may stand behind them.
        self.chunks[place.chunk as usize].live -= length;
        self.note_if_sparse(place.chunk);
    }

    /// Queues a chunk that is closed and more dead than alive, once.
    fn note_if_sparse(&mut self, number: u32) {
        // An open chunk is spared: live records are moved into the open chunk.
        let is_open = self.open == Some(number);
        let chunk = &mut self.chunks[number as usize];
        if !is_open && !chunk.is_queued && chunk.live * 2 < chunk.bytes.len() {
            chunk.is_queued = true;
            self.sparse.push(number);
        }
    }

    /// Takes a sparse chunk off the queue. The caller relocates the chunk's live records and then
    /// releases the chunk.
    pub(super) fn take_sparse(&mut self) -> Option<u32> {
        self.sparse.pop()
    }

    /// Returns each record in a chunk, dead ones included.
    pub(super) fn records(&self, chunk: u32) -> Vec<StoredRecord> {
        let bytes = &self.chunks[chunk as usize].bytes;
        let mut records = Vec::new();
        let mut offset = 0;
        while offset < bytes.len() {
            records.push(StoredRecord {
                slot: read_u32(bytes, offset),
                place: RecordPlace {
                    chunk,
                    offset: offset as u32,
                },
            });
            offset += read_u32(bytes, offset + 4) as usize;
        }
        records
    }

    /// Copies the record at `old` to another chunk, and returns the new place. The old record is
    /// gone when its chunk is released.
    pub(super) fn relocate(&mut self, old: RecordPlace) -> RecordPlace {
        let length = self.length(old);
        // Copied out first: old and new chunk are elements of one vector, which may grow.
        let from = old.offset as usize;
        let record = self.chunks[old.chunk as usize].bytes[from..from + length].to_vec();
        let chunk = self.chunk_for(length);
        let target = &mut self.chunks[chunk as usize];
        let offset = target.bytes.len() as u32;
        target.bytes.extend(record);
        target.live += length;
        RecordPlace { chunk, offset }
    }

    /// Drops the bytes of a chunk whose live records were relocated.
    pub(super) fn release(&mut self, chunk: u32) {
        self.chunks[chunk as usize] = Chunk::default();
        self.free.push(chunk);
    }

    /// Checks invariant 3 of [`table_cache`](super), and the count of live bytes of each chunk.
    /// `rows` are the slots and places of all rows.
    ///
    /// # Errors
    /// If a check fails, with a text that says which.
    pub(super) fn validate(&self, rows: impl Iterator<Item = StoredRecord>) -> Result<(), String> {
        let mut live = vec![0_usize; self.chunks.len()];
        let mut seen = std::collections::HashSet::new();
        for StoredRecord { slot, place } in rows {
            if place == RecordPlace::NONE {
                continue;
            }
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
        let wrong = live
            .iter()
            .zip(&self.chunks)
            .position(|(&counted, chunk)| counted != chunk.live);
        match wrong {
            Some(chunk) => Err(format!(
                "chunk {chunk} says {} living bytes, not {}",
                self.chunks[chunk].live, live[chunk]
            )),
            None => Ok(()),
        }
    }
}
