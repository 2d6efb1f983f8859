//! [`Condition`]: a test of one column, which the rows of an answer pass.

use super::row::RowBuf;
use super::shape::TableShape;
use crate::value::CellType;
use std::fmt;
use std::sync::Arc;

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
    /// The cell is not SQL NULL, and passes this test.
    Passes(CellTest),
}

/// The code of a [`CellTest`].
type Passes = dyn Fn(&[u8]) -> bool + Send + Sync;

/// A test of a cell by code, for a condition that no index answers.
#[derive(Clone)]
pub struct CellTest {
    /// The condition as it was written. Two tests of the same text are equal.
    text: String,
    passes: Arc<Passes>,
}

impl CellTest {
    /// Creates a test. `text` is the condition as it was written.
    pub fn new(text: String, passes: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        Self {
            text,
            passes: Arc::new(passes),
        }
    }
}

impl fmt::Debug for CellTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CellTest").field(&self.text).finish()
    }
}

impl PartialEq for CellTest {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CellTest {}

impl Condition {
    /// Returns whether a row of `shape` fulfils this condition.
    pub fn is_fulfilled_by(&self, shape: &TableShape, row: &RowBuf) -> bool {
        self.wanted
            .is(shape.columns()[self.column].kind, row.cell(self.column))
    }
}

impl Predicate {
    /// Returns whether a cell of type `kind` fulfils this predicate. `None` is SQL NULL.
    pub fn is(&self, kind: CellType, cell: Option<&[u8]>) -> bool {
        match (self, cell) {
            (Self::Null, cell) => cell.is_none(),
            (Self::NotNull, cell) => cell.is_some(),
            // As in SQL, NULL is equal to nothing, and compares with nothing.
            (Self::Cell(_) | Self::Passes(_), None) => false,
            (Self::Passes(test), Some(cell)) => (test.passes)(cell),
            (Self::Cell(wanted), Some(cell)) => kind.comparable(wanted) == kind.comparable(cell),
        }
    }
}
