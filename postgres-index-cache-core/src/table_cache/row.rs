//! [`RowBuf`] and [`KeyBuf`]: a row and a key as cells, before they are stored or looked up.
//!
//! ```text
//! COPY tuple ─→ RowBuf::read_copy_tuple ─┐
//! payload "data" ─→ RowBuf::read_json ───┴─→ RowBuf ─→ KeyBuf::of_row ─┐
//! payload "id" ─→ KeyBuf::read_json ───────────────────────────────────┴─→ KeyBuf
//! ```

use super::place::CellPlace;
use super::shape::{Column, TableShape};
use crate::json_scan::{Member, Scanner};
use crate::value::{CellError, CellType};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::ops::Range;

/// The reason why a row or a key does not fit the table's shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// A cell is not a value of its column's type.
    #[error("column \"{column}\": {error}")]
    Cell {
        /// The column's name.
        column: String,
        /// The value, and the type that was expected.
        error: CellError,
    },
    /// A column of the shape, named here, was not sent.
    #[error("column \"{0}\" is missing")]
    MissingColumn(String),
    /// A column that may not be null, named here, is null.
    #[error("column \"{0}\" is null and may not be")]
    UnexpectedNull(String),
    /// The key that was sent has another number of columns than the table's key.
    #[error("the key has {found} columns, not {expected}")]
    KeyWidth {
        /// The number of columns of the table's key.
        expected: usize,
        /// The number of columns that were sent.
        found: usize,
    },
    /// The key in a payload's `data` is not the key in its `id`.
    #[error("the key in \"data\" is not the one in \"id\"")]
    KeyMismatch,
    /// The input is no JSON object of columns, no JSON key, or no COPY tuple of the columns that
    /// were asked for.
    #[error("{0}")]
    Malformed(String),
}

/// One cell of a [`RowBuf`].
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    /// Not sent so far.
    Missing,
    /// SQL NULL.
    Null,
    /// The range of the row's bytes that holds the value.
    At(Range<usize>),
}

/// The meaning of a JSON null in a `json` or `jsonb` column. PostgreSQL's `row_to_json` writes both
/// SQL NULL and a JSON null as `null`.
#[derive(Debug, Clone, Copy)]
pub enum JsonNulls<'a> {
    /// SQL NULL in the columns named here, and a JSON null in others. Payloads in the extended form
    /// name these columns.
    Listed(&'a [String]),
    /// Not known, as in the plain form. A null is then taken for SQL NULL, which is the usual case.
    Unknown,
}

impl JsonNulls<'_> {
    /// Returns whether `null` in this column is SQL NULL, and not a JSON null.
    fn is_sql_null(self, column: &Column) -> bool {
        match self {
            Self::Listed(names) if column.kind.has_json_null() => names.contains(&column.name),
            Self::Listed(_) | Self::Unknown => true,
        }
    }
}

/// The cells of a row, in column order, before the row is stored. One `RowBuf` is made once and
/// filled again for each row, so that rows cost no allocations.
#[derive(Debug, Default, Clone)]
pub struct RowBuf {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
}

impl RowBuf {
    /// Makes a row of these cells, which are in column order; `None` is SQL NULL.
    pub(super) fn of_cells<'a>(cells: impl Iterator<Item = Option<&'a [u8]>>) -> Self {
        let mut row = Self::default();
        for cell in cells {
            let start = row.bytes.len();
            row.cells.push(match cell {
                None => Cell::Null,
                Some(bytes) => {
                    row.bytes.extend(bytes);
                    Cell::At(start..row.bytes.len())
                }
            });
        }
        row
    }

    /// Returns the bytes that the row occupies.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.cells.capacity() * size_of::<Cell>()
    }

    /// Appends the row as one JSON object with the columns whose positions are `columns`, in that
    /// order.
    pub fn write_json(&self, shape: &TableShape, columns: &[usize], json: &mut String) {
        shape.write_json(columns, |column| self.cell(column), json);
    }

    /// Returns the cell of the column with this position; `None` is SQL NULL.
    pub fn cell(&self, column: usize) -> Option<&[u8]> {
        match self.cells.get(column) {
            Some(Cell::At(range)) => Some(&self.bytes[range.clone()]),
            Some(Cell::Null | Cell::Missing) | None => None,
        }
    }

    /// Empties the row for `columns` columns, all of them missing.
    fn start(&mut self, columns: usize) {
        self.bytes.clear();
        self.cells.clear();
        self.cells.resize(columns, Cell::Missing);
    }

    /// Makes the bytes that `write` appends the cell of a column.
    fn set(
        &mut self,
        column: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), CellError>,
    ) -> Result<(), CellError> {
        let start = self.bytes.len();
        write(&mut self.bytes)?;
        self.cells[column] = Cell::At(start..self.bytes.len());
        Ok(())
    }

    /// Checks that no column is missing, and that none is null which may not be.
    fn check_complete(&self, shape: &TableShape) -> Result<(), RowError> {
        for (column, cell) in shape.columns().iter().zip(&self.cells) {
            match cell {
                Cell::Missing => return Err(RowError::MissingColumn(column.name.clone())),
                Cell::Null if !column.nullable => {
                    return Err(RowError::UnexpectedNull(column.name.clone()));
                }
                Cell::Null | Cell::At(_) => {}
            }
        }
        Ok(())
    }

    /// Fills the row from one tuple of `COPY … (FORMAT binary)`. A tuple is the number of fields,
    /// then length and bytes of each field. The fields are the shape's columns in order, each
    /// selected by [`CellType::select_expression`](crate::tooling::CellType::select_expression).
    ///
    /// # Errors
    /// If the tuple is not one of this shape. The content of the row is undefined then.
    pub fn read_copy_tuple(&mut self, shape: &TableShape, tuple: &[u8]) -> Result<(), RowError> {
        self.start(shape.columns().len());
        let (count, mut rest) = tuple
            .split_first_chunk::<2>()
            .ok_or_else(|| malformed_tuple(tuple))?;
        if usize::from(u16::from_be_bytes(*count)) != shape.columns().len() {
            return Err(malformed_tuple(tuple));
        }
        for (at, column) in shape.columns().iter().enumerate() {
            let (length, tail) = rest
                .split_first_chunk::<4>()
                .ok_or_else(|| malformed_tuple(tuple))?;
            // COPY writes NULL as the length -1, with no bytes behind.
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                self.cells[at] = Cell::Null;
                rest = tail;
                continue;
            };
            let (field, tail) = tail
                .split_at_checked(length)
                .ok_or_else(|| malformed_tuple(tuple))?;
            self.set(at, |cell| column.kind.from_binary(field, cell))
                .map_err(|error| RowError::Cell {
                    column: column.name.clone(),
                    error,
                })?;
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(malformed_tuple(tuple));
        }
        self.check_complete(shape)
    }

    /// Makes SQL NULLs of the JSON nulls in the row: what `row_to_json` writes does not tell them
    /// apart.
    #[cfg(feature = "postgres")]
    pub(crate) fn forget_json_nulls(&mut self, shape: &TableShape) {
        for (at, column) in shape.columns().iter().enumerate() {
            if column.kind.has_json_null() && self.cell(at) == Some(b"null") {
                self.cells[at] = Cell::Null;
            }
        }
    }

    /// Fills the row from the `data` of a payload: a JSON object of columns, as `row_to_json`
    /// writes one. Columns that the shape does not have are ignored.
    ///
    /// # Errors
    /// If `data` is no such object, a column is missing or comes twice, or a value is not of its
    /// column's type. The content of the row is undefined then.
    pub fn read_json(
        &mut self,
        shape: &TableShape,
        data: &str,
        nulls: JsonNulls<'_>,
    ) -> Result<(), RowError> {
        self.start(shape.columns().len());
        if self.scan_json(shape, data, nulls).is_some() {
            return self.check_complete(shape);
        }
        // Not the usual JSON, or not a row: serde reads the former and says why the latter is none.
        self.start(shape.columns().len());
        let mut unfit = None;
        let filling = Filling {
            row: self,
            shape,
            nulls,
            unfit: &mut unfit,
        };
        let parsed = serde_json::Deserializer::from_str(data).deserialize_map(filling);
        // Where a value does not fit, serde reports the error by which it was stopped. The one that
        // names column and value comes beside it.
        match (unfit, parsed) {
            (Some(unfit), _) => Err(unfit),
            (None, Err(error)) => Err(RowError::Malformed(format!(
                "\"data\" is not a row: {error}"
            ))),
            (None, Ok(())) => self.check_complete(shape),
        }
    }

    /// Fills the row from a usual `data`; `None` if serde has to look.
    fn scan_json(&mut self, shape: &TableShape, data: &str, nulls: JsonNulls<'_>) -> Option<()> {
        let mut scanner = Scanner::new(data);
        scanner.enter_object()?;
        // `row_to_json` writes the columns in table order: most names are the next column's.
        let mut next = 0;
        let mut count = 0;
        while let Member::Named(name) = scanner.next_member(count)? {
            count += 1;
            let value = scanner.value()?;
            let is_next = (shape.columns().get(next)).is_some_and(|column| column.name == name);
            let column = if is_next {
                next
            } else if let Some(column) = shape.position(name) {
                column
            } else {
                continue;
            };
            next = column + 1;
            if self.cells[column] != Cell::Missing {
                return None;
            }
            let described = &shape.columns()[column];
            if value == "null" && nulls.is_sql_null(described) {
                self.cells[column] = Cell::Null;
            } else {
                let kind = described.kind;
                self.set(column, |cell| kind.from_json(value, cell)).ok()?;
            }
        }
        scanner.end()
    }

    /// Returns the key cells of the row, in key order.
    pub(super) fn key_cells<'a>(
        &'a self,
        shape: &'a TableShape,
    ) -> impl Iterator<Item = &'a [u8]> + Clone {
        // A key column may not be null, and `check_complete` refuses a row where it is. So the
        // empty cell is never used.
        shape
            .key()
            .iter()
            .map(|&column| self.cell(column).unwrap_or(&[]))
    }

    /// Returns the key of the row as text for people, for example `7, abc`.
    pub(super) fn key_text(&self, shape: &TableShape) -> String {
        let mut text = String::new();
        shape.write_key_text(self.key_cells(shape), &mut text);
        text
    }

    /// Writes the null bits and the fixed-width cells of the row to `fixed`. The bytes of a NULL
    /// cell keep their old content, which nothing reads.
    pub(super) fn write_fixed(&self, shape: &TableShape, fixed: &mut [u8]) {
        for column in 0..shape.columns().len() {
            let cell = self.cell(column);
            // Clears the bit as well as sets it: the slot may have had another row before.
            shape.set_null(fixed, column, cell.is_none());
            if let (CellPlace::Fixed { offset, width }, Some(cell)) = (shape.place(column), cell) {
                fixed[offset..offset + width].copy_from_slice(cell);
            }
        }
    }

    /// Returns whether the row has this key.
    pub fn has_key(&self, shape: &TableShape, key: &KeyBuf) -> bool {
        self.key_cells(shape).eq(key.cells())
    }
}

fn malformed_tuple(tuple: &[u8]) -> RowError {
    RowError::Malformed(format!(
        "a COPY tuple of {} bytes is not one of this table",
        tuple.len()
    ))
}

/// The visitor that fills a row while serde walks the JSON object: one pass, no tree of values.
struct Filling<'a> {
    row: &'a mut RowBuf,
    shape: &'a TableShape,
    nulls: JsonNulls<'a>,
    /// The reason why serde was stopped, if that is an error of a column. Serde's own error type
    /// cannot carry a [`RowError`].
    unfit: &'a mut Option<RowError>,
}

impl<'de> Visitor<'de> for Filling<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // `row_to_json` writes the columns in table order. A column that comes right behind the one
        // before is recognised by comparing names; only others are looked up in the shape's map.
        let mut next = 0;
        while let Some(found) = map.next_key_seed(ColumnName {
            shape: self.shape,
            expected: next,
        })? {
            let Some(column) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            next = column + 1;
            let described = &self.shape.columns()[column];
            // Read raw: how to parse a number, with all its digits, is up to the column's type.
            let value: &RawValue = map.next_value()?;
            // A genuine payload names no column twice.
            if self.row.cells[column] != Cell::Missing {
                return Err(serde::de::Error::custom(format_args!(
                    "column \"{}\" is named twice",
                    described.name
                )));
            }
            if value.get() == "null" && self.nulls.is_sql_null(described) {
                self.row.cells[column] = Cell::Null;
            } else if let Err(error) = self
                .row
                .set(column, |cell| described.kind.from_json(value.get(), cell))
            {
                *self.unfit = Some(RowError::Cell {
                    column: described.name.clone(),
                    error,
                });
                return Err(serde::de::Error::custom("a value does not fit"));
            }
        }
        Ok(())
    }
}

/// The reader of a member's name, without a String. The result is the position of the column, or
/// `None` if the shape has no such column.
struct ColumnName<'a> {
    shape: &'a TableShape,
    /// The position of the column that is likely to come.
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for ColumnName<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for ColumnName<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let is_expected = self
            .shape
            .columns()
            .get(self.expected)
            .is_some_and(|column| column.name == name);
        Ok(if is_expected {
            Some(self.expected)
        } else {
            self.shape.position(name)
        })
    }
}

/// The cells of a key, in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyBuf {
    bytes: Vec<u8>,
    /// The end of each cell in `bytes`.
    ends: Vec<usize>,
}

impl KeyBuf {
    /// Returns the cells, in key order.
    pub fn cells(&self) -> impl Iterator<Item = &[u8]> + Clone {
        (0..self.ends.len()).map(move |at| {
            let start = if at == 0 { 0 } else { self.ends[at - 1] };
            &self.bytes[start..self.ends[at]]
        })
    }

    /// Reads the `id` of a payload: one value for a key of one column, an array in key order for a
    /// composite key.
    ///
    /// # Errors
    /// If `id` is no key of this table. The content of the key is undefined then.
    pub fn read_json(&mut self, shape: &TableShape, id: &str) -> Result<(), RowError> {
        self.bytes.clear();
        self.ends.clear();
        if let &[column] = shape.key()
            && self.read_plain(shape.columns()[column].kind, id).is_some()
        {
            return Ok(());
        }
        self.bytes.clear();
        // The shape decides, not the value: a key of one column whose type is an array is sent as a
        // JSON array too.
        let parts: Result<Vec<&RawValue>, _> = if shape.key().len() == 1 {
            serde_json::from_str(id).map(|part| vec![part])
        } else {
            serde_json::from_str(id)
        };
        let parts =
            parts.map_err(|error| RowError::Malformed(format!("\"id\" is not a key: {error}")))?;
        if parts.len() != shape.key().len() {
            return Err(RowError::KeyWidth {
                expected: shape.key().len(),
                found: parts.len(),
            });
        }
        for (part, &column) in parts.into_iter().zip(shape.key()) {
            let described = &shape.columns()[column];
            // A json null is a value of a key of type jsonb. Elsewhere it could only be SQL NULL.
            if part.get() == "null" && !described.kind.has_json_null() {
                return Err(RowError::UnexpectedNull(described.name.clone()));
            }
            described
                .kind
                .from_json(part.get(), &mut self.bytes)
                .map_err(|error| RowError::Cell {
                    column: described.name.clone(),
                    error,
                })?;
            self.ends.push(self.bytes.len());
        }
        Ok(())
    }

    /// Reads the key of one column of the usual types, whose codecs take nothing but JSON of the
    /// type. Returns `None` for any other.
    fn read_plain(&mut self, kind: CellType, id: &str) -> Option<()> {
        let is_plain = match kind {
            // The codec of integers takes a plus and zeros at the front too, which JSON has not.
            CellType::Int2 | CellType::Int4 | CellType::Int8 => {
                let digits = id.strip_prefix('-').unwrap_or(id);
                digits == "0" || matches!(digits.as_bytes().first(), Some(b'1'..=b'9'))
            }
            CellType::Uuid => !id.contains('\\'),
            _ => false,
        };
        if !is_plain {
            return None;
        }
        kind.from_json(id, &mut self.bytes).ok()?;
        self.ends.push(self.bytes.len());
        Some(())
    }

    /// Returns the key in the form of a payload's `id`: one JSON value, or an array in key order.
    pub fn to_json(&self, shape: &TableShape) -> String {
        let mut json = String::new();
        let is_composite = shape.key().len() > 1;
        json.push_str(if is_composite { "[" } else { "" });
        for (at, (cell, &column)) in self.cells().zip(shape.key()).enumerate() {
            json.push_str(if at > 0 { "," } else { "" });
            shape.columns()[column].kind.write_json(cell, &mut json);
        }
        json.push_str(if is_composite { "]" } else { "" });
        json
    }

    /// Makes a key of one column with this cell.
    #[cfg(feature = "postgres")]
    pub(crate) fn of_cell(cell: &[u8]) -> Self {
        Self {
            bytes: cell.to_vec(),
            ends: vec![cell.len()],
        }
    }

    /// Adds the cell of the key's next column.
    #[cfg(feature = "postgres")]
    pub(crate) fn push(&mut self, cell: &[u8]) {
        self.bytes.extend(cell);
        self.ends.push(self.bytes.len());
    }

    /// Returns the key of a row.
    pub fn of_row(shape: &TableShape, row: &RowBuf) -> Self {
        let mut key = Self::default();
        for cell in row.key_cells(shape) {
            key.bytes.extend(cell);
            key.ends.push(key.bytes.len());
        }
        key
    }
}
