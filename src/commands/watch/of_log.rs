//! [`LoggedRows`]: a table as a node of a log has it.

use super::source::{WatchEvent, Watched, WatchedTable};
use crate::failure::Report;
use crate::nats::LogAddress;
use anyhow::anyhow;
use parking_lot::RwLockReadGuard;
use postgres_index_cache_core::tooling::nats::{Follow, FollowEvent, LoggedTable};
use postgres_index_cache_core::tooling::postgres::RowChange;
use postgres_index_cache_core::tooling::{Condition, KeyBuf, RowBuf, TableCache, TableShape};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// A function that says what is shown of a table. It is called again when the table is altered.
pub(in crate::commands) type Show = Box<dyn Fn(&LoggedTable) -> anyhow::Result<WatchedTable>>;

/// A table of a log, followed by a node.
pub(in crate::commands) struct LoggedRows {
    follow: Follow,
    address: LogAddress,
    table: LoggedTable,
    show: Show,
    watched: WatchedTable,
    /// Whether the log has the table, with the columns that are shown.
    is_there: bool,
    /// The changes since the rows were live last. An older snapshot may be laid over them meanwhile,
    /// so only what is left of the changes in the end is told.
    held: Held,
    /// What NATS did not do last.
    failure: Option<String>,
}

/// Changes of rows, those of one key taken together.
#[derive(Default)]
struct Held {
    /// The row of a key before the first of its changes, and after the last.
    by_key: HashMap<KeyBuf, (Option<RowBuf>, Option<RowBuf>)>,
    /// The keys in the order in which they changed first.
    keys: Vec<KeyBuf>,
}

impl Held {
    /// Adds a change of a row, unless it is of no interest. The conditions are those of a key, which
    /// all rows of one key fulfil, or none.
    fn add(&mut self, watched: &WatchedTable, change: RowChange) {
        let (old, new) = match change {
            RowChange::Added(new) => (None, Some(new)),
            RowChange::Changed { old, new } => (Some(old), Some(new)),
            RowChange::Removed(old) => (Some(old), None),
        };
        let Some(row) = new.as_ref().or(old.as_ref()) else {
            return;
        };
        if !watched.fulfils(row) {
            return;
        }
        match self.by_key.entry(KeyBuf::of_row(&watched.shape, row)) {
            Entry::Occupied(mut held) => held.get_mut().1 = new,
            Entry::Vacant(free) => {
                self.keys.push(free.key().clone());
                free.insert((old, new));
            }
        }
    }

    /// Takes what is left of the changes of rows of this shape.
    fn take(&mut self, shape: &TableShape) -> Vec<WatchEvent> {
        let is_same = |old: &RowBuf, new: &RowBuf| {
            (0..shape.columns().len()).all(|column| old.cell(column) == new.cell(column))
        };
        let mut by_key = std::mem::take(&mut self.by_key);
        let changes = std::mem::take(&mut self.keys);
        let changes = changes.into_iter().filter_map(|key| by_key.remove(&key));
        changes
            .filter_map(|change| match change {
                (Some(old), Some(new)) if is_same(&old, &new) => None,
                (Some(old), Some(new)) => Some(RowChange::Changed { old, new }),
                (Some(old), None) => Some(RowChange::Removed(old)),
                (None, Some(new)) => Some(RowChange::Added(new)),
                (None, None) => None,
            })
            .map(WatchEvent::Row)
            .collect()
    }
}

impl LoggedRows {
    /// Tells the changes of rows of `table` from now on. The node is live.
    ///
    /// # Errors
    /// If the table cannot be shown so.
    pub(in crate::commands) fn new(
        mut follow: Follow,
        address: LogAddress,
        table: LoggedTable,
        show: Show,
    ) -> anyhow::Result<Self> {
        follow.record_row_changes(table.description.name());
        Ok(Self {
            watched: show(&table)?,
            follow,
            address,
            table,
            show,
            is_there: true,
            held: Held::default(),
            failure: None,
        })
    }

    /// Takes the changes of the table's rows, or the news that the table is another one. That is told
    /// once its rows are live: until then the watch has none.
    fn take_changes(&mut self) -> Vec<WatchEvent> {
        let name = self.table.description.name();
        let changes = self.follow.take_row_changes();
        let mut tables = self.follow.tables();
        let now = tables.find(|table| table.description.name() == name);
        let is_same = |now: &&LoggedTable| Arc::ptr_eq(&now.cache, &self.table.cache);
        match now.cloned() {
            Some(now) if self.is_there && is_same(&&now) => {
                let is_live = self.follow.is_live();
                if is_live && self.held.keys.is_empty() {
                    return changes.into_iter().map(WatchEvent::Row).collect();
                }
                for change in changes {
                    self.held.add(&self.watched, change);
                }
                if is_live {
                    self.held.take(&self.watched.shape)
                } else {
                    Vec::new()
                }
            }
            Some(now) if self.follow.is_live() => match (self.show)(&now) {
                Ok(watched) => {
                    self.is_there = true;
                    self.held = Held::default();
                    self.table = now;
                    self.watched = watched;
                    vec![WatchEvent::Replaced("the table was altered")]
                }
                Err(error) => {
                    self.is_there = false;
                    vec![WatchEvent::Stale(Report::new(&error).one_line())]
                }
            },
            None if std::mem::replace(&mut self.is_there, false) => {
                vec![WatchEvent::Stale("the log has no such table".to_string())]
            }
            // Its rows are being loaded, or it is gone since longer.
            Some(_) | None => Vec::new(),
        }
    }
}

impl Watched for LoggedRows {
    fn table(&self) -> WatchedTable {
        self.watched.clone()
    }

    fn rows(&self) -> RwLockReadGuard<'_, TableCache> {
        self.table.cache.read()
    }

    fn indexed_rows(&self, _: &[Condition]) -> RwLockReadGuard<'_, TableCache> {
        self.rows()
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        if self.follow.is_closed() {
            let error = anyhow!("the connection to NATS was closed");
            return Err(self.address.explain(error));
        }
        self.follow.step().await;
        Ok(())
    }

    fn take_events(&mut self) -> Vec<WatchEvent> {
        let mut taken = self.take_changes();
        let events: Vec<FollowEvent> = self.follow.take_events().collect();
        for event in events {
            match event {
                FollowEvent::Live(true) => {
                    self.failure = None;
                    // A table that is gone is not live with the others.
                    taken.extend(self.is_there.then_some(WatchEvent::Live));
                }
                FollowEvent::Live(false) => {
                    let why = self.failure.clone();
                    let why = why.unwrap_or_else(|| self.follow.why().to_string());
                    taken.push(WatchEvent::Stale(why));
                }
                FollowEvent::Failed(why) => self.failure = Some(why),
                _ => {}
            }
        }
        taken
    }
}
