//! How a driver works, and what it tells.

use crate::postgres::apply::sink::{RowChange, RowChangeKind};
use crate::sync::{AuxConnection, Limits, State, TableId};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How a driver works.
#[derive(Debug, Clone)]
pub struct DriverOptions {
    /// The channels that the tables' triggers notify on.
    pub channels: Vec<String>,
    /// A channel of its own for fences: make it of random digits.
    pub fence_channel: String,
    /// Bounds of the engine.
    pub limits: Limits,
    /// Settings that the triggers pin (`TimeZone` …), so that COPY and payloads write values alike.
    pub settings: Vec<(String, String)>,
    /// How many bytes the caches and what waits for them may take. Past it what waits is dropped,
    /// and its table read again; when the caches alone take more, the driver ends with
    /// [`DriverError::Memory`](crate::postgres::DriverError::Memory).
    pub max_memory: usize,
    /// How long a read may wait for its lock, and a fence for commits that are blocked.
    pub lock_timeout: Duration,
    /// Whether somebody describes a table afresh that was altered ([`DriverEvent::Altered`]): it is
    /// held until then. Otherwise it is read again as it is.
    pub holds_altered: bool,
    /// Whether [`DriverEvent::Row`] tells of each row that changes. It costs a copy of each, which
    /// is kept until [`Driver::take_events`](crate::postgres::driver::Driver::take_events) takes it: call that after
    /// each step.
    pub row_events: bool,
}

/// How far a table is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The table.
    pub table: TableId,
    /// How many rows are in its cache.
    pub rows: usize,
}

/// What happened, for whoever looks on.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum DriverEvent {
    /// The state of all tables together is another one.
    State(State),
    /// The state of a table is another one.
    TableState {
        /// The table.
        table: TableId,
        /// Its state.
        state: State,
    },
    /// It is stale from now on.
    Disconnected {
        /// What happened.
        why: String,
        /// Since when changes may be lost: when the last fence that came back was sent; `None`:
        /// none ever came back.
        since: Option<Instant>,
        /// When it will connect again; `None`: never.
        retry_in: Option<Duration>,
    },
    /// The connection for fences or for reading was lost, and is opened again. The rows are as live
    /// as they were.
    AuxConnectionLost {
        /// Which.
        via: AuxConnection,
        /// What happened.
        why: String,
        /// When it is opened again.
        retry_in: Duration,
    },
    /// A table is read again.
    ReadAgain {
        /// The table.
        table: TableId,
        /// The cause; where that is a notification, with the process and the role that sent it.
        why: String,
    },
    /// A table's definition, or one of its partitions, is another one than it was.
    Altered {
        /// The table.
        table: TableId,
    },
    /// Commits wait for the notify lock: nothing is lost, nothing arrives.
    CommitsBlocked,
    /// A row has changed.
    Row {
        /// The table.
        table: TableId,
        /// How.
        change: RowChange,
        /// The server's process whose notification told of it; `None`: it was read.
        sender: Option<i32>,
    },
    /// A row of an application's own has changed.
    Model {
        /// The table.
        table: TableId,
        /// The key of the row.
        key: Uuid,
        /// How.
        became: RowChangeKind,
    },
    /// A row of an application's own does not fit the model, and is kept out.
    Misfit {
        /// The table.
        table: TableId,
        /// The key of the row.
        key: Uuid,
        /// What does not fit.
        why: Arc<str>,
        /// The server's process whose notification brought it; `None`: it was read.
        sender: Option<i32>,
    },
}
