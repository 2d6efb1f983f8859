//! [`RowBuf`] and [`KeyBuf`]: a row and a key on their way into a cache, from a COPY tuple or from
//! a payload.

use super::shape::TableShape;
use crate::value::CellError;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::ops::Range;

/// Why a value does not fit the table's shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// A cell is no value of its column's type.
    #[error("column \"{column}\": {error}")]
    Cell {
        /// The column.
        column: String,
        /// What is wrong with the value.
        error: CellError,
    },
    /// A column that is kept was not sent.
    #[error("column \"{0}\" is missing")]
    MissingColumn(String),
    /// A column that may not be null is null.
    #[error("column \"{0}\" is null and may not be")]
    UnexpectedNull(String),
    /// The key has another number of columns.
    #[error("the key has {found} columns, not {expected}")]
    KeyWidth {
        /// How many the table's key has.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// The row's key is not the one that was announced.
    #[error("the key in \"data\" is not the one in \"id\"")]
    KeyMismatch,
    /// It is not an object of columns, or not a tuple of the columns asked for.
    #[error("{0}")]
    Malformed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Missing,
    Null,
    At(Range<usize>),
}

/// What a JSON null in a `json` or `jsonb` column stands for: `row_to_json` writes SQL NULL and a
/// JSON null alike.
#[derive(Debug, Clone, Copy)]
pub enum JsonNulls<'a> {
    /// SQL NULL in the columns named here, a JSON null in others: the extended form.
    Listed(&'a [String]),
    /// Nobody said: the plain form. Taken for SQL NULL, which it mostly is.
    Unknown,
}

/// A row before it is stored: its cells in column order. Made once and filled again for each row.
#[derive(Debug, Default, Clone)]
pub struct RowBuf {
    bytes: Vec<u8>,
    cells: Vec<Cell>,
}

impl RowBuf {
    /// A row of these cells, in column order.
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

    /// What the row occupies, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.bytes.capacity() + self.cells.capacity() * size_of::<Cell>()
    }

    /// Appends the row as one JSON object with `columns`, by position, in that order.
    pub fn write_json(&self, shape: &TableShape, columns: &[usize], json: &mut String) {
        super::write_json(shape, columns, |column| self.cell(column), json);
    }

    /// The cell of a column; `None` is SQL NULL.
    pub fn cell(&self, column: usize) -> Option<&[u8]> {
        match self.cells.get(column) {
            Some(Cell::At(range)) => Some(&self.bytes[range.clone()]),
            Some(Cell::Null | Cell::Missing) | None => None,
        }
    }

    fn start(&mut self, columns: usize) {
        self.bytes.clear();
        self.cells.clear();
        self.cells.resize(columns, Cell::Missing);
    }

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

    /// Fills the row from one tuple of `COPY … (FORMAT binary)` of the shape's columns, in order,
    /// each selected by [`CellType::select_expression`](crate::CellType::select_expression): field count,
    /// then length and bytes of each field.
    ///
    /// # Errors
    /// When the tuple is not one of this shape.
    pub fn read_copy_tuple(&mut self, shape: &TableShape, tuple: &[u8]) -> Result<(), RowError> {
        let malformed = || {
            RowError::Malformed(format!(
                "a COPY tuple of {} bytes is not one of this table",
                tuple.len()
            ))
        };
        self.start(shape.columns().len());
        let (count, mut rest) = tuple.split_first_chunk::<2>().ok_or_else(malformed)?;
        if usize::from(u16::from_be_bytes(*count)) != shape.columns().len() {
            return Err(malformed());
        }
        for (at, column) in shape.columns().iter().enumerate() {
            let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                self.cells[at] = Cell::Null;
                rest = tail;
                continue;
            };
            let (field, tail) = tail.split_at_checked(length).ok_or_else(malformed)?;
            self.set(at, |cell| column.kind.from_binary(field, cell))
                .map_err(|error| RowError::Cell {
                    column: column.name.clone(),
                    error,
                })?;
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(malformed());
        }
        self.check_complete(shape)
    }

    /// Fills the row from the `data` of a payload: an object of columns as `row_to_json` writes it.
    /// Columns that the shape does not have are passed over.
    ///
    /// # Errors
    /// When a column is missing or its value is of another type.
    pub fn read_json(
        &mut self,
        shape: &TableShape,
        data: &str,
        nulls: JsonNulls<'_>,
    ) -> Result<(), RowError> {
        self.start(shape.columns().len());
        let mut unfit = None;
        let filling = Filling {
            row: self,
            shape,
            nulls,
            unfit: &mut unfit,
        };
        let parsed = serde_json::Deserializer::from_str(data).deserialize_map(filling);
        match (unfit, parsed) {
            (Some(unfit), _) => Err(unfit),
            (None, Err(error)) => Err(RowError::Malformed(format!(
                "\"data\" is not a row: {error}"
            ))),
            (None, Ok(())) => self.check_complete(shape),
        }
    }

    /// Whether the row has this key.
    pub fn has_key(&self, shape: &TableShape, key: &KeyBuf) -> bool {
        shape.key_of(self).eq(key.cells())
    }
}

/// Fills a row while serde walks the object: one pass, no tree.
struct Filling<'a> {
    row: &'a mut RowBuf,
    shape: &'a TableShape,
    nulls: JsonNulls<'a>,
    /// Why serde was stopped, where that was not serde's own error.
    unfit: &'a mut Option<RowError>,
}

impl<'de> Visitor<'de> for Filling<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of columns")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Columns come in table order; a column that does is found without its name being looked
        // up.
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
            let value: &RawValue = map.next_value()?;
            if self.row.cells[column] != Cell::Missing {
                return Err(serde::de::Error::custom(format_args!(
                    "column \"{}\" stands twice",
                    described.name
                )));
            }
            if value.get() == "null" && self.is_sql_null(column) {
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

impl Filling<'_> {
    fn is_sql_null(&self, column: usize) -> bool {
        let described = &self.shape.columns()[column];
        match self.nulls {
            JsonNulls::Listed(names) if described.kind.has_json_null() => {
                names.contains(&described.name)
            }
            JsonNulls::Listed(_) | JsonNulls::Unknown => true,
        }
    }
}

/// Reads a member name as the position of a column, without a String.
struct ColumnName<'a> {
    shape: &'a TableShape,
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

/// A key before it is looked up: its cells in key order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyBuf {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl KeyBuf {
    /// The cells, in key order.
    pub fn cells(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let start = |at: usize| if at == 0 { 0 } else { self.ends[at - 1] };
        (0..self.ends.len()).map(move |at| &self.bytes[start(at)..self.ends[at]])
    }

    /// Reads the `id` of a payload: a scalar for a key of one column, an array in key order for a
    /// composite key. A key of one column whose type is an array is an array too: the table's shape
    /// tells, not that of the value.
    ///
    /// # Errors
    /// When it is no key of this table.
    pub fn read_json(&mut self, shape: &TableShape, id: &str) -> Result<(), RowError> {
        self.bytes.clear();
        self.ends.clear();
        let malformed =
            |error: serde_json::Error| RowError::Malformed(format!("\"id\" is not a key: {error}"));
        let parts: Vec<&RawValue> = if shape.key().len() == 1 {
            vec![serde_json::from_str(id).map_err(malformed)?]
        } else {
            serde_json::from_str(id).map_err(malformed)?
        };
        if parts.len() != shape.key().len() {
            return Err(RowError::KeyWidth {
                expected: shape.key().len(),
                found: parts.len(),
            });
        }
        for (part, &column) in parts.into_iter().zip(shape.key()) {
            let described = &shape.columns()[column];
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

    /// The key as JSON, as payloads have it: a scalar, or an array in key order.
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

    /// A key of one column with this cell.
    pub(crate) fn of_cell(cell: &[u8]) -> Self {
        Self {
            bytes: cell.to_vec(),
            ends: vec![cell.len()],
        }
    }

    /// The key of a row.
    pub fn of_row(shape: &TableShape, row: &RowBuf) -> Self {
        let mut key = Self::default();
        for cell in shape.key_of(row) {
            key.bytes.extend(cell);
            key.ends.push(key.bytes.len());
        }
        key
    }
}
