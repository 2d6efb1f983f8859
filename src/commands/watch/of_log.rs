//! [`LoggedRows`]: a table as a node of a log has it.

use super::source::{WatchEvent, Watched, WatchedTable};
use crate::nats::LogAddress;
use anyhow::anyhow;
use parking_lot::RwLockReadGuard;
use postgres_index_cache_core::tooling::nats::{Follow, FollowEvent, LoggedTable};
use postgres_index_cache_core::tooling::{Condition, TableCache};
use std::sync::Arc;

/// A table of a log, followed by a node.
pub(in crate::commands) struct LoggedRows {
    follow: Follow,
    address: LogAddress,
    table: LoggedTable,
    /// Whether the log has the table.
    is_there: bool,
    /// What NATS did not do last.
    failure: Option<String>,
}

impl LoggedRows {
    /// Tells the changes of rows of `table` from now on. The node is live.
    pub(in crate::commands) fn new(
        mut follow: Follow,
        address: LogAddress,
        table: LoggedTable,
    ) -> Self {
        follow.record_row_changes();
        Self {
            follow,
            address,
            table,
            is_there: true,
            failure: None,
        }
    }

    /// Takes the changes of the table's rows, or the news that the table is another one. That is told
    /// once its rows are live: until then the watch has none.
    fn take_changes(&mut self) -> Vec<WatchEvent> {
        let name = self.table.description.name();
        let changes = self.follow.take_row_changes(&name);
        let mut tables = self.follow.tables();
        let now = tables.find(|table| table.description.name() == name);
        let is_same = |now: &&LoggedTable| Arc::ptr_eq(&now.cache, &self.table.cache);
        match now.cloned() {
            Some(now) if self.is_there && is_same(&&now) => {
                changes.into_iter().map(WatchEvent::Row).collect()
            }
            Some(now) if self.follow.is_live() => {
                self.is_there = true;
                self.table = now;
                vec![WatchEvent::Replaced("the table was altered")]
            }
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
        let description = &self.table.description;
        let shape = Arc::clone(self.table.cache.read().shape());
        WatchedTable {
            schema: description.schema.clone(),
            name: description.table.clone(),
            shown: (0..shape.columns().len()).collect(),
            shape,
            conditions: Vec::new(),
        }
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
