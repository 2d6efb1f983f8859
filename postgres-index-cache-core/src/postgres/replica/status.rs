//! [`ReplicaStatus`]: how far the rows of a replica can be relied on.

use crate::postgres::replica::error::ReplicaError;
use crate::sync::Counters;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How far the rows of a replica, or of one of its tables, can be relied on. The status of a
/// replica is that of its worst table.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReplicaStatus {
    /// The cache is its table as of the last fence or later.
    Live,
    /// The cache is not wholly its table. Either rows do not fit the model and are kept out
    /// ([`ReadGuard::misfits`](crate::ReadGuard::misfits)), or the table must be read again and
    /// waits for that, since it was read a moment ago.
    Degraded {
        /// The name of the table, as the builder was given it.
        table: Arc<str>,
        /// The cause.
        why: Arc<str>,
    },
    /// The table is being read, or its cache is locked and lacks the changes that have come since.
    Loading,
    /// The rows are older than the table: a connection is lost, or the table cannot be followed or
    /// read. The replica tries again for ever.
    Stale {
        /// The name of the table, as the builder was given it; `None` if all tables are stale.
        table: Option<Arc<str>>,
        /// The cause, with the remedy if one is known.
        why: Arc<str>,
        /// The last moment at which no change was missing.
        since: SystemTime,
    },
    /// The replica has ended: its owner has shut it down.
    Ended {
        /// The reason.
        error: Arc<ReplicaError>,
    },
}

impl fmt::Display for ReplicaStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Live => f.write_str("live"),
            Self::Degraded { table, why } => write!(f, "degraded: {table}: {why}"),
            Self::Loading => f.write_str("loading"),
            Self::Stale {
                table: Some(table),
                why,
                ..
            } => write!(f, "stale: {table}: {why}"),
            Self::Stale {
                table: None, why, ..
            } => write!(f, "stale: {why}"),
            Self::Ended { error } => write!(f, "ended: {error}"),
        }
    }
}

impl ReplicaStatus {
    /// Returns whether every row is its table's as of the last fence or later.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Live)
    }

    /// Returns how bad the status is. The worst one of the tables counts for the replica.
    fn rank(&self) -> u8 {
        match self {
            Self::Live => 0,
            Self::Degraded { .. } => 1,
            Self::Loading => 2,
            Self::Stale { .. } => 3,
            Self::Ended { .. } => 4,
        }
    }

    /// Returns whether the difference to `other` is no news.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Live, Self::Live)
            | (Self::Loading, Self::Loading)
            | (Self::Ended { .. }, Self::Ended { .. }) => true,
            (
                Self::Degraded { table, why },
                Self::Degraded {
                    table: other_table,
                    why: other_why,
                },
            ) => table == other_table && why == other_why,
            // The time is that of the first loss, and no news.
            (
                Self::Stale { table, why, .. },
                Self::Stale {
                    table: other_table,
                    why: other_why,
                    ..
                },
            ) => table == other_table && why == other_why,
            _ => false,
        }
    }
}

/// Figures of a replica.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Stats {
    /// How long the last fence took to come back, from when it was sent; `None` while nothing is
    /// listened to.
    pub lag: Option<Duration>,
    /// The highest transaction id that was announced for a table of the replica.
    pub last_xid: Option<u64>,
    /// The counts since the replica was opened.
    pub counters: Counters,
}

/// The status of one table, as it is shared with readers.
#[derive(Debug, Clone)]
pub(super) struct TableStatus {
    pub(super) status: ReplicaStatus,
    /// Whether the rows that are there are the table's as of the last fence or later. A degraded
    /// table that lacks rows which do not fit is current, and not live.
    pub(super) is_current: bool,
}

/// What the task shares with readers.
#[derive(Debug)]
pub(super) struct SharedStatus {
    pub(super) tables: Vec<TableStatus>,
    pub(super) stats: Stats,
    /// The reason why the replica has ended, once it has.
    pub(super) ended: Option<Arc<ReplicaError>>,
}

impl SharedStatus {
    /// Returns the status of a replica with so many tables, all of which are live.
    pub(super) fn new(tables: usize) -> Self {
        let live = TableStatus {
            status: ReplicaStatus::Live,
            is_current: true,
        };
        Self {
            tables: vec![live; tables],
            stats: Stats::default(),
            ended: None,
        }
    }

    /// Returns the status of all tables together: the worst.
    pub(super) fn status(&self) -> ReplicaStatus {
        if let Some(error) = &self.ended {
            return ReplicaStatus::Ended {
                error: Arc::clone(error),
            };
        }
        let statuses = self.tables.iter().map(|table| &table.status);
        let worst = statuses.max_by_key(|status| status.rank());
        worst.cloned().unwrap_or(ReplicaStatus::Live)
    }

    /// Returns the status of one table.
    pub(super) fn table(&self, at: usize) -> TableStatus {
        match &self.ended {
            Some(error) => TableStatus {
                status: ReplicaStatus::Ended {
                    error: Arc::clone(error),
                },
                is_current: false,
            },
            None => self.tables[at].clone(),
        }
    }
}
