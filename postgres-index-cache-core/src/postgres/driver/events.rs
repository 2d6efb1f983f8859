//! [`DriverEvent`]: what a driver tells whoever looks on.

use crate::postgres::apply::sink::{RowChange, RowChangeKind};
use crate::sync::{AuxConnection, State, TableId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How far a table is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The table that is read.
    pub table: TableId,
    /// How many rows are in its cache.
    pub rows: usize,
}

/// An event of a driver.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DriverEvent {
    /// The state of all tables together has changed.
    State(State),
    /// The state of one table has changed.
    TableState {
        /// The table whose state has changed.
        table: TableId,
        /// Its state now.
        state: State,
    },
    /// All connections are lost: every table is stale from now on.
    Disconnected {
        /// The cause.
        why: String,
        /// When the last fence was sent that came back: changes since then may be lost. `None` if
        /// no fence ever came back.
        since: Option<Instant>,
        /// When the driver will connect again; `None` if it will not.
        retry_in: Option<Duration>,
    },
    /// F or Q was lost alone, and is opened again. The rows are as live as they were.
    AuxConnectionLost {
        /// The connection that was lost.
        via: AuxConnection,
        /// The cause.
        why: String,
        /// When the connection is opened again.
        retry_in: Duration,
    },
    /// A table is to be reloaded.
    ReloadScheduled {
        /// The table that will be read.
        table: TableId,
        /// The cause. If that is a notification, with the process and the role that sent it.
        why: String,
    },
    /// The definition of a table, or of one of its partitions, has changed.
    Altered {
        /// The table whose definition has changed.
        table: TableId,
    },
    /// Commits wait for the notify lock: nothing is lost, and nothing arrives.
    CommitsBlocked,
    /// A row has changed.
    Row {
        /// The table of the row.
        table: TableId,
        /// The row, before and after.
        change: RowChange,
        /// The server's process whose notification brought the row; `None` if the row was read.
        sender: Option<i32>,
    },
    /// A row of an application's own type has changed.
    Model {
        /// The table of the row.
        table: TableId,
        /// The key of the row.
        key: Uuid,
        /// How the row has changed.
        change: RowChangeKind,
    },
    /// A row does not fit the application's model, and is kept out.
    Misfit {
        /// The table of the row.
        table: TableId,
        /// The key of the row.
        key: Uuid,
        /// What does not fit.
        why: Arc<str>,
        /// The server's process whose notification brought the row; `None` if the row was read.
        sender: Option<i32>,
    },
}
