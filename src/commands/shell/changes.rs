//! [`Changes`]: the changes of rows since the shell began, as far as memory allows, for `.history`,
//! and the rows that are watched.

use crate::render::Format;
use crate::render::json::EventLine;
use crate::render::look::Look;
use crate::render::row_change::RowChangeLine;
use crate::tables::catalog::CatalogTable;
use crate::tables::conditions::{Conditions, Written};
use jiff::Timestamp;
use postgres_index_cache_core::tooling::postgres::{Notified, RowChange};
use postgres_index_cache_core::tooling::{Condition, KeyBuf, RowBuf, TableShape};
use std::collections::VecDeque;
use std::sync::Arc;

/// The most changes of all tables that are kept for `.history`.
const KEPT: usize = 100_000;
/// The most bytes that these changes take.
const KEPT_BYTES: usize = 64 << 20;

/// A change that is kept.
#[derive(Debug)]
struct KeptRow {
    /// When the cache changed.
    at: Timestamp,
    /// The place of the table in the driver.
    table: usize,
    /// The row before the change; `None` if the row was added.
    old: Option<RowBuf>,
    /// The row after the change; `None` if the row was removed.
    new: Option<RowBuf>,
    /// The notification that told of the change; `None` if the row was read.
    by: Option<Notified>,
}

impl KeptRow {
    /// Returns the bytes that the change takes.
    fn bytes(&self) -> usize {
        let rows: usize = self.rows().map(RowBuf::memory_bytes).sum();
        size_of::<Self>() + rows
    }

    /// Returns the rows before and after the change, as far as there are any.
    fn rows(&self) -> impl Iterator<Item = &RowBuf> {
        self.old.iter().chain(&self.new)
    }
}

/// The form in which the rows of a table are shown.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    /// The table's schema.
    pub(super) schema: String,
    /// The table's name.
    pub(super) table: String,
    pub(super) shape: Arc<TableShape>,
    /// The columns that are shown, by their positions in `shape`.
    pub(super) columns: Vec<usize>,
}

/// A `.watch` that is on: the rows of a table that fulfil all conditions.
#[derive(Debug)]
pub(super) struct Watched {
    /// The place of the table in the driver.
    pub(super) table: usize,
    pub(super) conditions: Vec<Condition>,
    /// The same, with columns by their names.
    pub(super) asked: Conditions,
    /// The types of these columns, as they were when the conditions were computed.
    pub(super) types: Vec<Option<String>>,
    /// The conditions as they were typed.
    pub(super) written: Vec<Written>,
}

impl Watched {
    /// Returns the watch for the table as it is now; `None` if a column of the conditions is gone
    /// or of another type, since values were read for the former one.
    fn refitted(mut self, table: &CatalogTable, shape: &TableShape) -> Option<Self> {
        if self.types != column_types(table, &self.asked) {
            return None;
        }
        self.conditions = self.asked.clone().conditions(shape).ok()?;
        Some(self)
    }
}

/// Returns the types of the columns that stand in conditions; `None` for a column that is gone.
pub(super) fn column_types(table: &CatalogTable, asked: &Conditions) -> Vec<Option<String>> {
    let types = asked.columns().map(|name| {
        let column = table.columns.iter().find(|column| column.name == name)?;
        // A type that was dropped and made anew has another oid.
        Some(format!("{} {:?}", column.type_name, column.made_of))
    });
    types.collect()
}

/// The changes that are kept, and the watches.
#[derive(Debug)]
pub(super) struct Changes {
    /// By the places of the tables in the driver.
    shown: Vec<Shown>,
    format: Format,
    look: Look,
    /// The changes of all tables, oldest first.
    kept: VecDeque<KeptRow>,
    kept_bytes: usize,
    /// The number of changes that were dropped, since they were too many.
    forgotten: u64,
    watched: Vec<Watched>,
}

impl Changes {
    /// Makes an empty history. `shown` has the tables by their places in the driver.
    pub(super) fn new(shown: Vec<Shown>, format: Format, look: Look) -> Self {
        Self {
            shown,
            format,
            look,
            kept: VecDeque::new(),
            kept_bytes: 0,
            forgotten: 0,
            watched: Vec::new(),
        }
    }

    /// Watches rows, beside those that are watched already.
    pub(super) fn watch(&mut self, watched: Watched) {
        self.watched.push(watched);
    }

    /// Returns the watches, oldest first.
    pub(super) fn watched(&self) -> &[Watched] {
        &self.watched
    }

    /// Begins again with a table that has other columns now. Its history ends, since rows are of
    /// the former columns. Watches whose conditions fit the columns stay. Returns how many end.
    pub(super) fn renew(&mut self, table: usize, described: &CatalogTable, shown: Shown) -> usize {
        let former = self.watched.len();
        let watched = std::mem::take(&mut self.watched);
        let kept = watched.into_iter().filter_map(|watched| {
            if watched.table == table {
                watched.refitted(described, &shown.shape)
            } else {
                Some(watched)
            }
        });
        self.watched = kept.collect();
        self.shown[table] = shown;
        self.kept.retain(|kept| kept.table != table);
        self.kept_bytes = self.kept.iter().map(KeptRow::bytes).sum();
        former - self.watched.len()
    }

    /// Ends all watches, and returns how many there were.
    pub(super) fn stop_watching(&mut self) -> usize {
        std::mem::take(&mut self.watched).len()
    }

    /// Keeps a change. Returns the line to show, if the row is watched.
    pub(super) fn take(
        &mut self,
        table: usize,
        change: RowChange,
        by: Option<Notified>,
    ) -> Option<String> {
        let (old, new) = match change {
            RowChange::Added(new) => (None, Some(new)),
            RowChange::Changed { old, new } => (Some(old), Some(new)),
            RowChange::Removed(old) => (Some(old), None),
        };
        let kept = KeptRow {
            // The time at which the cache changed. A row that was read has no other.
            at: Timestamp::now(),
            table,
            old,
            new,
            by,
        };
        let line = self.watched_line(&kept);
        self.kept_bytes += kept.bytes();
        self.kept.push_back(kept);
        // The oldest change goes, of whichever table: the bounds are those of the process.
        while self.kept.len() > KEPT || self.kept_bytes > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.kept_bytes -= oldest.bytes();
            self.forgotten += 1;
        }
        line
    }

    /// Returns the line of a change whose row is watched; `None` if no watch has anything to show.
    fn watched_line(&self, kept: &KeptRow) -> Option<String> {
        let shape = &self.shown[kept.table].shape;
        self.watched
            .iter()
            .filter(|watched| watched.table == kept.table)
            // A change that several watches fit is shown once.
            .find_map(|watched| {
                // A row that begins to fulfil the conditions is shown as added, one that ceases to
                // as removed.
                let conditions = &watched.conditions;
                let old = kept.old.as_ref();
                let new = kept.new.as_ref();
                let line = self.line(
                    kept,
                    old.filter(|row| fulfils(row, shape, conditions)),
                    new.filter(|row| fulfils(row, shape, conditions)),
                );
                (!line.is_empty()).then_some(line)
            })
    }

    /// Returns the line that says how many changes could not be shown.
    pub(super) fn dropped(&self, count: u64) -> String {
        match self.format {
            Format::Json => EventLine::new("dropped", Timestamp::now())
                .member("count", count)
                .end(),
            Format::Text => format!("{count} changes were not shown: nobody read them in time\n"),
        }
    }

    /// Returns the line of a change between these two rows; empty if no column that is shown
    /// differs.
    fn line(&self, kept: &KeptRow, old: Option<&RowBuf>, new: Option<&RowBuf>) -> String {
        let Shown {
            schema,
            table,
            shape,
            columns,
        } = &self.shown[kept.table];
        let change = RowChangeLine {
            table: (schema, table),
            shape,
            columns,
            old,
            new,
            crosses: kept.old.is_some() && kept.new.is_some(),
            now: kept.new.as_ref(),
            collapsed: 0,
        };
        match self.format {
            Format::Json => change.json(kept.at),
            Format::Text => change.text(&self.look, kept.at),
        }
    }

    /// Returns the notification that told of the last change of the row with this key; `None` if that
    /// change is not kept, or the row was read.
    pub(super) fn last_heard(&self, table: usize, key: &KeyBuf) -> Option<Notified> {
        let shape = &self.shown[table].shape;
        self.kept
            .iter()
            // Newest first: it is the last change of the row that a finding contradicts.
            .rev()
            .filter(|kept| kept.table == table)
            .find(|kept| kept.rows().any(|row| KeyBuf::of_row(shape, row) == *key))?
            .by
    }

    /// Returns the changes of the rows of a table that fulfil the conditions, before or after the
    /// change.
    pub(super) fn history(&self, table: usize, conditions: &[Condition]) -> History {
        let shape = &self.shown[table].shape;
        let lines: Vec<String> = self
            .kept
            .iter()
            .filter(|kept| kept.table == table)
            .filter(|kept| kept.rows().any(|row| fulfils(row, shape, conditions)))
            .map(|kept| self.line(kept, kept.old.as_ref(), kept.new.as_ref()))
            .filter(|line| !line.is_empty())
            .collect();
        History {
            text: lines.concat(),
            count: lines.len(),
            forgotten: self.forgotten,
        }
    }
}

/// The answer to `.history`.
#[derive(Debug)]
pub(super) struct History {
    /// The changes as lines, oldest first.
    pub(super) text: String,
    /// The number of these lines.
    pub(super) count: usize,
    /// The number of changes of all tables that are not kept any more.
    pub(super) forgotten: u64,
}

/// Returns whether a row fulfils all conditions.
fn fulfils(row: &RowBuf, shape: &TableShape, conditions: &[Condition]) -> bool {
    conditions
        .iter()
        .all(|condition| condition.is_fulfilled_by(shape, row))
}
