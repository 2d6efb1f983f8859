//! Where the cells of a row stand: [`CellPlace`] in the row's fixed part or record, [`RecordPlace`]
//! in the arena.
//!
//! A row's fixed part holds the place of the row's record. Shape and arena therefore both need
//! these types, and neither module needs the other for them.

/// The place of a column's cell in each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CellPlace {
    /// `width` bytes of the fixed part, from position `offset`.
    Fixed { offset: usize, width: usize },
    /// Cell `number` of the record, counted from zero.
    Record { number: usize },
}

/// The place of a record in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordPlace {
    /// The number of the record's chunk.
    pub(super) chunk: u32,
    /// The position of the record's first byte in the chunk.
    pub(super) offset: u32,
}

impl RecordPlace {
    /// The place of a row without a record.
    pub(super) const NONE: Self = Self {
        chunk: u32::MAX,
        offset: 0,
    };
    /// The length of a place in a row's fixed part.
    pub(super) const BYTES: usize = 8;

    /// Reads a place from the start of `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self {
            chunk: read_u32(bytes, 0),
            offset: read_u32(bytes, 4),
        }
    }

    /// Writes the place to the start of `bytes`.
    pub(super) fn write(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.chunk.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.offset.to_le_bytes());
    }
}

/// Reads the number that begins at position `at`.
pub(super) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
