//! Rows of a relay's caches as the operations of a log.

use crate::log::{JsonRow, RowChanges, RowOp, TableName};
use crate::postgres::RowChange;
use crate::table_cache::{KeyBuf, RowBuf, TableShape};

/// The operations and the bytes of an entry. One that is larger would keep readers of a node's
/// cache waiting for longer.
const MOST_OPS: usize = 256;
const MOST_BYTES: usize = 256 << 10;

/// Returns a row as JSON.
pub(super) fn row_json(shape: &TableShape, row: &RowBuf) -> JsonRow {
    let columns: Vec<usize> = (0..shape.columns().len()).collect();
    let mut data = String::new();
    row.write_json(shape, &columns, &mut data);
    let described = shape.columns().iter().enumerate();
    let nulls = described
        .filter(|(at, column)| column.kind.has_json_null() && row.cell(*at).is_none())
        .map(|(_, column)| column.name.clone());
    JsonRow {
        data,
        nulls: nulls.collect(),
    }
}

/// Returns the operation for a change of a row.
pub(super) fn row_op(shape: &TableShape, change: &RowChange) -> RowOp {
    let id = |row: &RowBuf| KeyBuf::of_row(shape, row).to_json(shape);
    match change {
        RowChange::Added(row) | RowChange::Changed { new: row, .. } => RowOp::Upsert {
            id: id(row),
            row: row_json(shape, row),
        },
        RowChange::Removed(row) => RowOp::Remove { id: id(row) },
    }
}

/// Operations that are published together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    table: Option<TableName>,
    ops: Vec<RowOp>,
    bytes: usize,
}

impl Batch {
    /// Adds an operation. Returns the operations before if they are to be published first: they are
    /// of another table, or enough.
    ///
    /// A key change is a removal with the new row behind. The two are published together, so that
    /// no reader sees the one without the other.
    pub(super) fn add(&mut self, table: &TableName, op: RowOp) -> Option<RowChanges> {
        let bytes = bytes_of(&op);
        let is_full = self.ops.len() >= MOST_OPS || self.bytes + bytes > MOST_BYTES;
        let is_open = matches!(self.ops.last(), Some(RowOp::Remove { .. }))
            && matches!(op, RowOp::Upsert { .. });
        let is_other = self.table.as_ref() != Some(table);
        let before = if is_other || (is_full && !is_open) {
            self.take()
        } else {
            None
        };
        self.bytes += bytes;
        self.table.get_or_insert_with(|| table.clone());
        self.ops.push(op);
        before
    }

    /// Takes the operations; `None` if there are none.
    pub(super) fn take(&mut self) -> Option<RowChanges> {
        let Self { table, ops, .. } = std::mem::take(self);
        table.map(|table| RowChanges { table, ops })
    }
}

/// Returns about how many bytes an operation has in an entry.
pub(super) fn bytes_of(op: &RowOp) -> usize {
    /// The bytes beside key and row.
    const OVERHEAD: usize = 48;
    OVERHEAD
        + match op {
            RowOp::Upsert { id, row } | RowOp::Replace { id, row, .. } => id.len() + row.data.len(),
            RowOp::Remove { id } => id.len(),
            RowOp::Clear { spared } => spared.iter().map(String::len).sum(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> TableName {
        TableName {
            schema: "app".to_string(),
            name: name.to_string(),
        }
    }

    fn removal(id: usize) -> RowOp {
        RowOp::Remove { id: id.to_string() }
    }

    fn upsert(id: usize) -> RowOp {
        RowOp::Upsert {
            id: id.to_string(),
            row: JsonRow::default(),
        }
    }

    #[test]
    fn a_key_change_stays_whole_where_an_entry_is_full() {
        let mut batch = Batch::default();
        for id in 0..MOST_OPS {
            assert_eq!(batch.add(&table("a"), removal(id)), None);
        }
        // The row behind a removal may be the same row under its new key.
        assert_eq!(batch.add(&table("a"), upsert(1000)), None);
        let full = batch.add(&table("a"), upsert(1001)).expect("an entry");
        assert_eq!(full.ops.len(), MOST_OPS + 1);
        assert_eq!(full.ops.last(), Some(&upsert(1000)));
        assert_eq!(batch.take().expect("the rest").ops, [upsert(1001)]);
        assert_eq!(batch.take(), None);
    }

    #[test]
    fn an_entry_has_rows_of_one_table() {
        let mut batch = Batch::default();
        assert_eq!(batch.add(&table("a"), removal(1)), None);
        let first = batch.add(&table("b"), upsert(2)).expect("an entry");
        assert_eq!((first.table, first.ops), (table("a"), vec![removal(1)]));
        assert_eq!(batch.take().expect("the rest").table, table("b"));
    }
}
