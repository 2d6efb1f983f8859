//! [`TableShape`]: the columns and the key of a table, and the place of each cell of a row.
//!
//! ```text
//! fixed part   null bits · fixed-width cells in column order · place of the record (8 bytes)
//! ```
//!
//! Only columns that may be null have a null bit. The fixed part has a place of a record only if
//! some column has no fixed width.

use super::place::{CellPlace, RecordPlace};
use crate::value::{CellType, write_json_string};
use std::collections::HashMap;
use std::ops::Range;

/// A column whose values a cache keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// The form in which the column's values are kept.
    pub kind: CellType,
    /// Whether a value may be SQL NULL.
    pub nullable: bool,
}

/// The reason why columns and key do not make a [`TableShape`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Two columns have this name.
    #[error("two columns are called \"{0}\"")]
    DuplicateColumn(String),
    /// The key is empty or names a column twice.
    #[error("the key has no column, or one twice")]
    BadKey,
    /// This key column is not among the columns.
    #[error("the key column \"{0}\" is not among the columns")]
    UnknownKeyColumn(String),
}

/// The columns of a [`TableCache`](super::TableCache) and the layout of its rows.
#[derive(Debug, PartialEq, Eq)]
pub struct TableShape {
    columns: Vec<Column>,
    /// The positions of the key columns, in key order.
    key: Vec<usize>,
    by_name: HashMap<String, usize>,
    places: Vec<CellPlace>,
    /// See [`fixed_key`](Self::fixed_key).
    fixed_key: Option<Range<usize>>,
    /// For each column, the number of its null bit; `None` if the column is never null.
    null_bits: Vec<Option<usize>>,
    /// The number of cells in a record.
    record_cells: usize,
    /// The position in the fixed part of the record's place.
    record_offset: usize,
}

impl TableShape {
    /// Makes a shape of `columns`, in table order. `key` names the key columns, in key order. Key
    /// columns are never null, even if `columns` says that they may be.
    ///
    /// # Errors
    /// If two columns have one name, or the key is empty, names a column twice, or names a column
    /// that is not there.
    pub fn new(mut columns: Vec<Column>, key: &[String]) -> Result<Self, ShapeError> {
        let mut by_name = HashMap::new();
        for (at, column) in columns.iter().enumerate() {
            if by_name.insert(column.name.clone(), at).is_some() {
                return Err(ShapeError::DuplicateColumn(column.name.clone()));
            }
        }
        let mut key_positions = Vec::with_capacity(key.len());
        for name in key {
            match by_name.get(name) {
                Some(&at) => key_positions.push(at),
                None => return Err(ShapeError::UnknownKeyColumn(name.clone())),
            }
        }
        let key = key_positions;
        if key.is_empty() || (1..key.len()).any(|at| key[..at].contains(&key[at])) {
            return Err(ShapeError::BadKey);
        }
        for &column in &key {
            columns[column].nullable = false;
        }
        // The layout, from the front: null bits, fixed-width cells, place of the record. The null
        // bits are counted before any cell gets a place: their number decides where cells begin.
        let mut bits = 0..;
        let null_bits: Vec<_> = columns
            .iter()
            .map(|column| if column.nullable { bits.next() } else { None })
            .collect();
        let mut offset = null_bits.iter().flatten().count().div_ceil(8);
        let mut record_cells = 0;
        let mut places = Vec::with_capacity(columns.len());
        // Cells are read byte by byte, so no cell has to be aligned.
        for column in &columns {
            if let Some(width) = column.kind.width() {
                places.push(CellPlace::Fixed { offset, width });
                offset += width;
            } else {
                places.push(CellPlace::Record {
                    number: record_cells,
                });
                record_cells += 1;
            }
        }
        let fixed_key = match (key.as_slice(), key.first().map(|&column| places[column])) {
            ([_], Some(CellPlace::Fixed { offset, width })) => Some(offset..offset + width),
            _ => None,
        };
        Ok(Self {
            columns,
            key,
            by_name,
            places,
            fixed_key,
            null_bits,
            record_cells,
            record_offset: offset,
        })
    }

    /// Returns the columns, in table order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Returns the positions of the key columns, in key order.
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// Returns the position of the column with exactly this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Returns the length in bytes of a row's fixed part.
    pub fn stride(&self) -> usize {
        self.record_offset
            + if self.record_cells > 0 {
                RecordPlace::BYTES
            } else {
                0
            }
    }

    /// Returns the bytes of a row's fixed part that are the whole key, if the key is one column of
    /// fixed width.
    pub(super) fn fixed_key(&self) -> Option<Range<usize>> {
        self.fixed_key.clone()
    }

    /// Appends a key, whose cells are in key order, as text for people, for example `7, abc`.
    pub(super) fn write_key_text<'a>(
        &self,
        cells: impl Iterator<Item = &'a [u8]>,
        text: &mut String,
    ) {
        for (at, (cell, &column)) in cells.zip(&self.key).enumerate() {
            text.push_str(if at > 0 { ", " } else { "" });
            self.columns[column].kind.write_text(cell, text);
        }
    }

    /// Returns the number of cells in a record.
    pub(super) fn record_cells(&self) -> usize {
        self.record_cells
    }

    /// Returns the place of a column's cell.
    pub(super) fn place(&self, column: usize) -> CellPlace {
        self.places[column]
    }

    /// Returns whether a column is SQL NULL in the row with this fixed part.
    pub(super) fn is_null(&self, fixed: &[u8], column: usize) -> bool {
        self.null_bits[column].is_some_and(|bit| fixed[bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// Reads the place of a row's record from the row's fixed part.
    pub(super) fn place_of_record(&self, fixed: &[u8]) -> RecordPlace {
        if self.record_cells == 0 {
            RecordPlace::NONE
        } else {
            RecordPlace::read(&fixed[self.record_offset..])
        }
    }

    /// Writes the place of a row's record to the row's fixed part.
    pub(super) fn set_place_of_record(&self, fixed: &mut [u8], place: RecordPlace) {
        if self.record_cells > 0 {
            place.write(&mut fixed[self.record_offset..]);
        }
    }

    /// Sets or clears the null bit of a column in a row's fixed part. A column that is never null
    /// has no such bit; nothing is written then.
    pub(super) fn set_null(&self, fixed: &mut [u8], column: usize, is_null: bool) {
        let Some(bit) = self.null_bits[column] else {
            return;
        };
        let mask = 1 << (bit % 8);
        if is_null {
            fixed[bit / 8] |= mask;
        } else {
            fixed[bit / 8] &= !mask;
        }
    }

    /// Appends one JSON object with the columns whose positions are `columns`, in that order.
    /// `cell` returns the cell of a column.
    pub(super) fn write_json<'a>(
        &self,
        columns: &[usize],
        cell: impl Fn(usize) -> Option<&'a [u8]>,
        json: &mut String,
    ) {
        json.push('{');
        for (at, &column) in columns.iter().enumerate() {
            if at > 0 {
                json.push(',');
            }
            let described = &self.columns[column];
            write_json_string(&described.name, json);
            json.push(':');
            match cell(column) {
                Some(cell) => described.kind.write_json(cell, json),
                None => json.push_str("null"),
            }
        }
        json.push('}');
    }
}
