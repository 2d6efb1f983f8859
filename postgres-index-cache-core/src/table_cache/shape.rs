//! [`TableShape`]: the columns and the key of a table, and where each cell of a row stands.
//!
//! A fixed part is `null bits · fixed-width cells in column order · place of the record (8 bytes)`;
//! null bits only for columns that may be null, the place only where some column has no fixed
//! width.

use super::arena::RecordPlace;
use super::row::RowBuf;
use crate::value::CellType;
use std::collections::HashMap;

/// A column that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// How its values are kept.
    pub kind: CellType,
    /// Whether it may be SQL NULL.
    pub nullable: bool,
}

/// Why columns and key do not make a shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Two columns have one name.
    #[error("two columns are called \"{0}\"")]
    DuplicateColumn(String),
    /// The key is empty or names a column twice.
    #[error("the key has no column, or one twice")]
    BadKey,
    /// A key column is not among the columns.
    #[error("the key column \"{0}\" is not among the columns")]
    UnknownKeyColumn(String),
}

/// Where a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CellPlace {
    /// In the fixed part.
    Fixed { offset: usize, width: usize },
    /// In the record, as its cell of this number.
    Record { number: usize },
}

/// The columns of a [`TableCache`](super::TableCache) and the layout of its rows.
#[derive(Debug, PartialEq, Eq)]
pub struct TableShape {
    columns: Vec<Column>,
    key: Vec<usize>,
    by_name: HashMap<String, usize>,
    places: Vec<CellPlace>,
    null_bits: Vec<Option<usize>>,
    record_cells: usize,
    record_offset: usize,
}

impl TableShape {
    /// A shape of `columns` with the key columns named in `key`, in key order. Key columns are
    /// never null.
    ///
    /// # Errors
    /// When a name is not unique, or the key is not made of the columns.
    pub fn new(mut columns: Vec<Column>, key: &[String]) -> Result<Self, ShapeError> {
        let mut by_name = HashMap::new();
        for (at, column) in columns.iter().enumerate() {
            if by_name.insert(column.name.clone(), at).is_some() {
                return Err(ShapeError::DuplicateColumn(column.name.clone()));
            }
        }
        let find = |name: &String| {
            by_name
                .get(name)
                .copied()
                .ok_or_else(|| ShapeError::UnknownKeyColumn(name.clone()))
        };
        let key = key.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        if key.is_empty() || (1..key.len()).any(|at| key[..at].contains(&key[at])) {
            return Err(ShapeError::BadKey);
        }
        for &column in &key {
            columns[column].nullable = false;
        }
        let mut bits = 0..;
        let null_bits: Vec<_> = columns
            .iter()
            .map(|column| if column.nullable { bits.next() } else { None })
            .collect();
        let mut offset = null_bits.iter().flatten().count().div_ceil(8);
        let mut record_cells = 0;
        let mut places = Vec::with_capacity(columns.len());
        for column in &columns {
            places.push(if let Some(width) = column.kind.width() {
                offset += width;
                CellPlace::Fixed {
                    offset: offset - width,
                    width,
                }
            } else {
                record_cells += 1;
                CellPlace::Record {
                    number: record_cells - 1,
                }
            });
        }
        Ok(Self {
            columns,
            key,
            by_name,
            places,
            null_bits,
            record_cells,
            record_offset: offset,
        })
    }

    /// The columns, in table order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The positions of the key columns, in key order.
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// The position of a column by its exact name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The bytes of a row's fixed part.
    pub fn stride(&self) -> usize {
        self.record_offset
            + if self.record_cells > 0 {
                RecordPlace::BYTES
            } else {
                0
            }
    }

    pub(super) fn record_cells(&self) -> usize {
        self.record_cells
    }

    pub(super) fn place(&self, column: usize) -> CellPlace {
        self.places[column]
    }

    pub(super) fn is_null(&self, fixed: &[u8], column: usize) -> bool {
        self.null_bits[column].is_some_and(|bit| fixed[bit / 8] & (1 << (bit % 8)) != 0)
    }

    pub(super) fn place_of_record(&self, fixed: &[u8]) -> RecordPlace {
        if self.record_cells == 0 {
            RecordPlace::NONE
        } else {
            RecordPlace::read(&fixed[self.record_offset..])
        }
    }

    pub(super) fn set_place_of_record(&self, fixed: &mut [u8], place: RecordPlace) {
        if self.record_cells > 0 {
            place.write(&mut fixed[self.record_offset..]);
        }
    }

    pub(super) fn write_fixed(&self, fixed: &mut [u8], row: &RowBuf) {
        for (column, place) in self.places.iter().enumerate() {
            let cell = row.cell(column);
            if let Some(bit) = self.null_bits[column] {
                let mask = 1 << (bit % 8);
                fixed[bit / 8] = if cell.is_none() {
                    fixed[bit / 8] | mask
                } else {
                    fixed[bit / 8] & !mask
                };
            }
            if let (CellPlace::Fixed { offset, width }, Some(cell)) = (*place, cell) {
                fixed[offset..offset + width].copy_from_slice(cell);
            }
        }
    }

    /// The key cells of a row.
    pub(super) fn key_of<'a>(&'a self, row: &'a RowBuf) -> impl Iterator<Item = &'a [u8]> + Clone {
        // `RowBuf` refuses a null in a column that may not be null.
        self.key
            .iter()
            .map(|&column| row.cell(column).unwrap_or(&[]))
    }

    /// The key of a row for people.
    pub(super) fn key_text(&self, row: &RowBuf) -> String {
        let mut text = String::new();
        for (at, &column) in self.key.iter().enumerate() {
            text.push_str(if at > 0 { ", " } else { "" });
            self.columns[column]
                .kind
                .write_text(row.cell(column).unwrap_or(&[]), &mut text);
        }
        text
    }
}
