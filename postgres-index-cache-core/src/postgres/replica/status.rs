//! [`ReplicaStatus`]: how far the rows of a replica can be relied on.

use crate::postgres::driver::CacheSize;
use crate::postgres::replica::error::ReplicaError;
use crate::sync::Counters;
use serde::{Serialize, Serializer};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How far the rows of a replica, or of one of its tables, can be relied on. The status of a
/// replica is that of its worst table.
///
/// In JSON it is an object whose `state` is `live`, `degraded`, `loading`, `stale` or `ended`; see
/// [`Health`](crate::Health).
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
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
        #[serde(serialize_with = "as_utc")]
        since: SystemTime,
    },
    /// The replica has ended: its owner has shut it down.
    Ended {
        /// The reason.
        #[serde(serialize_with = "as_text")]
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

    /// Returns the word for the status, and the cause if it is not live.
    #[cfg(feature = "nats")]
    pub(super) fn word_and_cause(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Live => ("live", None),
            Self::Degraded { why, .. } => ("degraded", Some(why.to_string())),
            Self::Loading => ("loading", None),
            Self::Stale { why, .. } => ("stale", Some(why.to_string())),
            Self::Ended { error } => ("ended", Some(error.to_string())),
        }
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

/// Writes a moment by RFC 3339, in UTC: `2026-11-27T06:50:48.123Z`.
fn as_utc<S: Serializer>(moment: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let moment = jiff::Timestamp::try_from(*moment).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&moment)
}

/// Writes the text of a value.
fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Writes a transaction id as text: not all programs that read JSON keep 64 bits of a number.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn as_xid<S: Serializer>(xid: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    xid.map(|xid| xid.to_string()).serialize(serializer)
}

/// Writes a duration in milliseconds.
#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn as_ms<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    let ms = time.map(|time| time.as_secs_f64() * 1e3);
    ms.serialize(serializer)
}

/// Figures of a replica.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// How long the last fence took to come back, from when it was sent; `None` while nothing is
    /// listened to. In JSON `lag_ms`, in milliseconds.
    #[serde(rename = "lag_ms", serialize_with = "as_ms")]
    pub lag: Option<Duration>,
    /// The highest transaction id that was announced for a table of the replica. In JSON it is a
    /// text.
    #[serde(serialize_with = "as_xid")]
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

/// How far the writes of a table are told, for a cache of objects with columns that the model does
/// not have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Telling {
    /// How often the table was not current, and may have missed writes. While a reader holds the
    /// cache's lock it is not current, and misses none.
    pub(super) losses: u64,
    /// Whether the triggers leave out updates that change nothing which is sent.
    pub(super) leaves_out_updates: bool,
}

/// What the task shares with readers.
#[derive(Debug)]
pub(super) struct SharedStatus {
    /// The tables' names, as the builder was given them.
    pub(super) names: Vec<Arc<str>>,
    pub(super) tables: Vec<TableStatus>,
    pub(super) telling: Vec<Telling>,
    /// The sizes of the tables' caches.
    pub(super) sizes: Vec<CacheSize>,
    pub(super) stats: Stats,
    /// The reason why the replica has ended, once it has.
    pub(super) ended: Option<Arc<ReplicaError>>,
}

impl SharedStatus {
    /// Returns the status of a replica with these tables, all of which are live.
    pub(super) fn new(names: Vec<Arc<str>>) -> Self {
        let live = TableStatus {
            status: ReplicaStatus::Live,
            is_current: true,
        };
        Self {
            tables: vec![live; names.len()],
            telling: vec![Telling::default(); names.len()],
            sizes: vec![CacheSize::default(); names.len()],
            names,
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

    /// Returns how often a table may have missed writes, if every write of the table is told now.
    pub(super) fn losses_if_told(&self, at: usize) -> Option<u64> {
        let telling = self.telling[at];
        let is_told =
            self.ended.is_none() && self.tables[at].is_current && !telling.leaves_out_updates;
        is_told.then_some(telling.losses)
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
