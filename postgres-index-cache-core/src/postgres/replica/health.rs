//! [`Health`]: what a replica answers a health endpoint.

use crate::postgres::replica::status::{ReplicaStatus, SharedStatus, Stats};
use serde::Serialize;
use std::sync::Arc;

/// How a replica does, and each of its tables: an answer for a health endpoint.
///
/// It is [`Serialize`]. In JSON:
///
/// ```json
/// {"status":{"state":"stale","table":"users","why":"…","since":"2026-11-27T06:50:48.123Z"},
///  "tables":[{"name":"users","status":{"state":"stale","table":"users","why":"…","since":"…"},
///             "is_current":false,"rows":1000,"memory_bytes":81920,"kept_out":0}],
///  "stats":{"lag_ms":0.41,"last_xid":"884","counters":{"received":12,"applied":12}}}
/// ```
///
/// `state` is `live`, `degraded`, `loading`, `stale` or `ended`; `since` is in UTC.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// The status of the replica: that of its worst table.
    pub status: ReplicaStatus,
    /// The tables, in the order in which the builder was given them.
    pub tables: Vec<TableHealth>,
    /// The figures of the replica.
    pub stats: Stats,
}

/// How one table of a replica does.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct TableHealth {
    /// The name of the table, as the builder was given it.
    pub name: Arc<str>,
    /// The status of the table.
    pub status: ReplicaStatus,
    /// Whether the rows that are there are the table's as of the last fence or later, except for
    /// those that are kept out.
    pub is_current: bool,
    /// The number of rows in the cache. The sizes are looked at once a second.
    pub rows: usize,
    /// The bytes that the cache takes, without what the models themselves hold on the heap.
    pub memory_bytes: usize,
    /// The number of rows that do not fit the model and are kept out
    /// ([`ReadGuard::misfits`](crate::ReadGuard::misfits)).
    pub kept_out: usize,
}

impl Health {
    /// Returns the health that a status tells of.
    pub(super) fn new(shared: &SharedStatus) -> Self {
        let tables = shared.names.iter().zip(&shared.sizes).enumerate();
        let tables = tables.map(|(at, (name, size))| {
            let table = shared.table(at);
            TableHealth {
                name: Arc::clone(name),
                status: table.status,
                is_current: table.is_current,
                rows: size.rows,
                memory_bytes: size.memory_bytes,
                kept_out: size.kept_out,
            }
        });
        Self {
            status: shared.status(),
            tables: tables.collect(),
            stats: shared.stats,
        }
    }
}
