//! [`DriverEvent`]: the news of a driver, for the command or the application that runs it.

use crate::notification::Key;
use crate::postgres::apply::sink::{Notified, RowChange, RowChangeKind};
use crate::sync::{AuxConnection, State, TableId};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The progress of a table's read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The table that is read.
    pub table: TableId,
    /// The number of rows in the table's cache.
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
        /// The new state.
        state: State,
    },
    /// All connections are lost: every table is stale from now on.
    Disconnected {
        /// The cause.
        why: String,
        /// The time at which the last fence that came back was sent. Changes since then may be
        /// lost. `None` if no fence ever came back.
        since: Option<Instant>,
        /// The time until the driver connects again; `None` if the driver has given up.
        retry_in: Option<Duration>,
    },
    /// F or Q was lost alone, and is opened again. The tables' states stay as they were.
    AuxConnectionLost {
        /// The connection that was lost.
        via: AuxConnection,
        /// The cause.
        why: String,
        /// The time until the connection is opened again.
        retry_in: Duration,
    },
    /// A table is to be reloaded.
    ReloadScheduled {
        /// The table that will be read.
        table: TableId,
        /// The cause. If a notification is the cause, the text names the process and the role that
        /// sent the notification.
        why: String,
    },
    /// The definition of a table, or of one of its partitions, has changed.
    Altered {
        /// The table whose definition has changed.
        table: TableId,
    },
    /// Commits that notify wait for the notify lock, which somebody holds. Nothing is lost, and no
    /// notification arrives.
    CommitsBlocked,
    /// A row has changed.
    Row {
        /// The table of the row.
        table: TableId,
        /// The row before and after the change.
        change: RowChange,
        /// The notification that brought the row; `None` if the row was read by Q.
        by: Option<Notified>,
    },
    /// A row of an application's own type has changed.
    Model {
        /// The table of the row.
        table: TableId,
        /// The key of the row.
        key: Key,
        /// The kind of the change.
        change: RowChangeKind,
    },
    /// A row does not fit the application's model, and is kept out.
    Misfit {
        /// The table of the row.
        table: TableId,
        /// The key of the row.
        key: Key,
        /// The reason why the row does not fit.
        why: Arc<str>,
        /// The server's process whose notification brought the row; `None` if the row was read by
        /// Q.
        sender: Option<i32>,
    },
}
