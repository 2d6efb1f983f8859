//! [`Watched`]: a table that is kept live and tells its changes: by a supervisor on PostgreSQL, or as a
//! node of a log has it.

use crate::tables::supervised::{explain, indexed_cache};
use crate::tables::target::Target;
use parking_lot::RwLockReadGuard;
use postgres_index_cache_core::tooling::nats::LoggedTable;
use postgres_index_cache_core::tooling::postgres::{
    DriverEvent, RowChange, Supervisor, SupervisorEvent,
};
use postgres_index_cache_core::tooling::sync::{State, TableId};
use postgres_index_cache_core::tooling::{Condition, RowBuf, TableCache, TableShape};
use std::sync::Arc;

/// A table, and what is shown of it.
#[derive(Debug, Clone)]
pub(in crate::commands) struct WatchedTable {
    pub(in crate::commands) schema: String,
    pub(in crate::commands) name: String,
    pub(in crate::commands) shape: Arc<TableShape>,
    /// The columns to show, by their positions in `shape`.
    pub(in crate::commands) shown: Vec<usize>,
    /// The conditions that a row must fulfil to be shown.
    pub(in crate::commands) conditions: Vec<Condition>,
}

impl WatchedTable {
    /// Returns a table of a log, of which all is shown.
    pub(in crate::commands) fn of_log(table: &LoggedTable) -> Self {
        let description = &table.description;
        let shape = Arc::clone(table.cache.read().shape());
        Self {
            schema: description.schema.clone(),
            name: description.table.clone(),
            shown: (0..shape.columns().len()).collect(),
            shape,
            conditions: Vec::new(),
        }
    }

    /// Returns the schema and the name.
    pub(super) fn names(&self) -> (&str, &str) {
        (&self.schema, &self.name)
    }

    /// Returns whether a row fulfils all conditions.
    pub(super) fn fulfils(&self, row: &RowBuf) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.is_fulfilled_by(&self.shape, row))
    }
}

/// What has happened to a watched table.
pub(in crate::commands) enum WatchEvent {
    /// A row has changed.
    Row(RowChange),
    /// The rows may be old, for this reason.
    Stale(String),
    /// The rows are live again, and the changes before were told.
    Live,
    /// The table is another one than before, for this reason. All its rows are new.
    Replaced(&'static str),
}

/// A table that is kept live and tells its changes.
pub(in crate::commands) trait Watched {
    /// Returns the table as it is now.
    fn table(&self) -> WatchedTable;

    /// Locks the rows for reading.
    fn rows(&self) -> RwLockReadGuard<'_, TableCache>;

    /// Locks the rows for reading, once there are the indexes that help with these conditions.
    fn indexed_rows(&self, conditions: &[Condition]) -> RwLockReadGuard<'_, TableCache>;

    /// Waits for something to happen. The future may be dropped at any point.
    ///
    /// # Errors
    /// If it cannot go on.
    async fn step(&mut self) -> anyhow::Result<()>;

    /// Takes what has happened since the last call, in order.
    fn take_events(&mut self) -> Vec<WatchEvent>;
}

/// The only table of a supervisor.
pub(in crate::commands) struct SupervisedRows {
    supervisor: Supervisor<Target>,
    /// The oid of the table when it was looked at last.
    oid: u32,
}

impl SupervisedRows {
    /// Tells the changes of rows from now on.
    pub(in crate::commands) fn new(mut supervisor: Supervisor<Target>) -> Self {
        supervisor.driver_mut().record_row_events();
        let oid = supervisor.target(TableId(0)).table.oid;
        Self { supervisor, oid }
    }

    /// Returns the event of a watch that an event of the driver is.
    fn of_driver(&self, event: DriverEvent) -> Option<WatchEvent> {
        Some(match event {
            DriverEvent::Row { change, .. } => WatchEvent::Row(change),
            DriverEvent::Disconnected { why, .. } => WatchEvent::Stale(why),
            DriverEvent::TableState {
                table,
                state: State::Stale,
            } => {
                let cause = self.supervisor.driver().engine().cause(table);
                WatchEvent::Stale(cause.unwrap_or("it is looked into").to_string())
            }
            // `State` is that of all tables together, and comes after the changes that made them
            // live.
            DriverEvent::State(State::Live) => WatchEvent::Live,
            _ => return None,
        })
    }
}

impl Watched for SupervisedRows {
    fn table(&self) -> WatchedTable {
        let target = self.supervisor.target(TableId(0));
        let (schema, name) = target.names();
        WatchedTable {
            schema: schema.to_string(),
            name: name.to_string(),
            shape: Arc::clone(&target.shape),
            shown: target.shown.clone(),
            conditions: target.conditions.clone(),
        }
    }

    fn rows(&self) -> RwLockReadGuard<'_, TableCache> {
        self.supervisor.cache(TableId(0))
    }

    fn indexed_rows(&self, conditions: &[Condition]) -> RwLockReadGuard<'_, TableCache> {
        indexed_cache(&self.supervisor, TableId(0), conditions)
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        self.supervisor.step().await.map_err(explain)
    }

    fn take_events(&mut self) -> Vec<WatchEvent> {
        let events: Vec<SupervisorEvent> = self.supervisor.take_events().collect();
        let mut taken = Vec::new();
        for event in events {
            match event {
                SupervisorEvent::Driver(event) => taken.extend(self.of_driver(event)),
                SupervisorEvent::Unfollowed { why, .. } => taken.push(WatchEvent::Stale(why)),
                SupervisorEvent::Replaced { .. } => {
                    let now = self.supervisor.target(TableId(0)).table.oid;
                    taken.push(WatchEvent::Replaced(if now == self.oid {
                        "the table was altered"
                    } else {
                        "another table has its name"
                    }));
                    self.oid = now;
                }
                _ => {}
            }
        }
        taken
    }
}
