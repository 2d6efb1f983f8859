//! [`Condition`]: a test of one column, which the rows of an answer pass.

use super::row::RowBuf;
use super::shape::TableShape;
use crate::value::CellType;

/// A condition on one column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The column's position in the shape.
    pub column: usize,
    /// The predicate that the row's cell must fulfil.
    pub wanted: Predicate,
}

/// A predicate on a cell, as `IS NULL`, `IS NOT NULL` and `=` are in SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    /// The cell is SQL NULL.
    Null,
    /// The cell is not SQL NULL.
    NotNull,
    /// The cell is equal to this one: both have the same [`CellType::comparable`] form.
    Cell(Vec<u8>),
}

impl Condition {
    /// Returns whether a row of `shape` fulfils this condition.
    pub fn is_fulfilled_by(&self, shape: &TableShape, row: &RowBuf) -> bool {
        self.wanted
            .is(shape.columns()[self.column].kind, row.cell(self.column))
    }
}

impl Predicate {
    /// Returns whether a cell of type `kind` fulfils this predicate. `None` is SQL NULL.
    pub(super) fn is(&self, kind: CellType, cell: Option<&[u8]>) -> bool {
        match (self, cell) {
            (Self::Null, cell) => cell.is_none(),
            (Self::NotNull, cell) => cell.is_some(),
            // As in SQL, NULL is equal to nothing.
            (Self::Cell(_), None) => false,
            (Self::Cell(wanted), Some(cell)) => kind.comparable(wanted) == kind.comparable(cell),
        }
    }
}
