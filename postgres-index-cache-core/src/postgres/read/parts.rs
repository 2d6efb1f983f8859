//! [`Parts`]: further sessions that read parts of one large table beside the session of a read,
//! under the same snapshot.
//!
//! ```text
//! the read       BEGIN → lock → snapshot ─→ export ─────────────────→ is it held? → COPY pages 0 …
//! a part              open a session ────────┴→ import → hold a key → lock ────────┴→ COPY pages n …
//! ```
//!
//! Each session copies the rows on some pages of the table (manual, 73.6 Database Page Layout). A
//! row has one place under one snapshot, so each row is read once. A session that cannot be opened,
//! or is not on the same server, reads nothing: the others read all pages.
//!
//! Behind one address there may be several servers, and the names of exported snapshots are not
//! random. Without the key:
//!
//! 1. A part's session leads to another server, on which somebody has exported a snapshot of the
//!    same name.
//! 2. Half of the rows are that server's, and the cache is called live.

use crate::postgres::connection::sessions::{OpenSession, Opener};
use crate::postgres::connection::traced::Traced;
use crate::postgres::error::DriverError;
use crate::postgres::error_chain::chain;
use crate::postgres::quote::quote_literal;
use crate::sync::AuxConnection;
use futures_util::future::join_all;
use std::time::Duration;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, Row};
use uuid::Uuid;

/// The least bytes of the table for each session. To open a session takes about as long as to read
/// so many.
const LEAST_BYTES: u64 = 4 << 20;

/// How long the read waits for the sessions of its parts, in a transaction and with the table
/// locked.
const PATIENCE: Duration = Duration::from_secs(2);

/// Some pages of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct Pages {
    /// The first page.
    pub(super) first: u64,
    /// The page behind the last one; `None` if every page from the first on is meant. The table may
    /// have grown meanwhile, by rows that the snapshot does not see.
    pub(super) end: Option<u64>,
}

impl Pages {
    /// Returns the condition, in SQL, that a row is on these pages.
    ///
    /// From PostgreSQL 14 on, only these pages are read (release notes of 14, TID range scans).
    pub(super) fn condition(&self) -> String {
        let first = format!(
            "ctid OPERATOR(pg_catalog.>=) '({},0)'::pg_catalog.tid",
            self.first
        );
        match self.end {
            None => first,
            Some(end) => {
                format!("{first} AND ctid OPERATOR(pg_catalog.<) '({end},0)'::pg_catalog.tid")
            }
        }
    }

    /// Divides a table of so many pages among `sessions`. All parts together are every page.
    fn divided(pages: u64, sessions: u64) -> Vec<Self> {
        (0..sessions)
            .map(|at| Self {
                first: pages * at / sessions,
                end: (at + 1 < sessions).then(|| pages * (at + 1) / sessions),
            })
            .collect()
    }
}

/// Opens the sessions of the parts of a read.
#[derive(Clone)]
pub(in crate::postgres) struct Parts {
    pub(in crate::postgres) opener: Opener,
    /// The most sessions that read, with that of the read itself.
    pub(in crate::postgres) most: usize,
}

/// A table whose pages are divided among sessions.
pub(super) struct Divided {
    /// The pages that the session of the read itself copies.
    pub(super) own: Pages,
    /// The other sessions, which are in their transactions, each with its pages.
    pub(super) others: Vec<(OpenSession, Pages)>,
    /// Whether all of them have copied their pages.
    pub(super) is_done: bool,
}

impl Drop for Divided {
    /// Ends the sessions of a read that has failed or was given up, as soon as they send something.
    /// Otherwise they would go on to the ends of their pages, with the table's lock, beside those of
    /// the next read.
    fn drop(&mut self) {
        if !self.is_done {
            for (session, _) in &self.others {
                session.cut();
            }
        }
    }
}

/// The size of a table.
struct Size {
    /// The pages of the table itself, or of its largest partition.
    pages: u64,
    /// The bytes of these pages and of the long values that are stored elsewhere (TOAST).
    bytes: u64,
}

impl Parts {
    /// Opens the sessions that read beside `leader`, which is in a transaction and has locked
    /// `relation`. Returns `None` if `leader` must read all.
    ///
    /// `oid` is that of the table.
    ///
    /// # Errors
    /// If the server refuses a statement of `leader`: its transaction has failed then.
    pub(super) async fn open(
        &self,
        leader: &Traced<Client>,
        relation: &str,
        oid: u32,
    ) -> Result<Option<Divided>, Error> {
        let Some(size) = size_of(leader, oid).await? else {
            return Ok(None);
        };
        let sessions = (size.bytes / LEAST_BYTES).min(size.pages);
        let sessions = usize::try_from(sessions).map_or(self.most, |most| most.min(self.most));
        if sessions < 2 {
            return Ok(None);
        }
        let exported = "SELECT pg_catalog.pg_export_snapshot()";
        let snapshot: String = leader.query_typed_one(exported, &[]).await?.get(0);
        let openings = (1..sessions).map(|_| self.open_one(&snapshot, relation));
        let mut opened: Vec<(OpenSession, i64)> =
            join_all(openings).await.into_iter().flatten().collect();
        let holders = holders_of_keys(leader, &opened).await?;
        opened.retain(|(session, key)| {
            let is_here = holders.contains(&(session.process(), *key));
            if !is_here {
                tracing::info!("a session for a part of {relation} is on another server");
            }
            is_here
        });
        let mut pages = Pages::divided(size.pages, opened.len() as u64 + 1).into_iter();
        let Some(own) = pages.next().filter(|own| own.end.is_some()) else {
            return Ok(None);
        };
        let sessions = opened.into_iter().map(|(session, _)| session);
        Ok(Some(Divided {
            own,
            others: sessions.zip(pages).collect(),
            is_done: false,
        }))
    }

    /// Opens one session, and lets it see what `snapshot` sees. Returns it with the key that it
    /// holds, or `None` if there is no such session in time.
    async fn open_one(&self, snapshot: &str, relation: &str) -> Option<(OpenSession, i64)> {
        let opened = tokio::time::timeout(PATIENCE, self.try_open(snapshot, relation)).await;
        let why = match opened {
            Ok(Ok(opened)) => return Some(opened),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("it was not open within {} s", PATIENCE.as_secs()),
        };
        tracing::info!(why, "no session for a part of {relation}");
        None
    }

    async fn try_open(
        &self,
        snapshot: &str,
        relation: &str,
    ) -> Result<(OpenSession, i64), DriverError> {
        let session = self.opener.open_aux(AuxConnection::Reads).await?;
        let (key, _) = Uuid::new_v4().as_u64_pair();
        let key = key.cast_signed();
        // The read waits for this session. So this session must not wait behind a migration that
        // waits for a lock of the read: of the table, or of an index, which a query locks too.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY NOT DEFERRABLE;
            SET TRANSACTION SNAPSHOT {};
            SELECT pg_catalog.pg_advisory_xact_lock_shared({key});
            SET LOCAL lock_timeout = '100ms';
            LOCK TABLE {relation} IN ACCESS SHARE MODE;
            SELECT FROM {relation} LIMIT 0;
            SET LOCAL lock_timeout = {}",
            quote_literal(snapshot),
            self.opener.options.lock_timeout.as_millis()
        );
        let begun = session.client.batch_execute(&begin).await;
        begun.map_err(|source| DriverError::Server {
            doing: format!("begin to read a part of {relation}"),
            source,
        })?;
        Ok((session, key))
    }
}

/// Returns the size of a table. Returns `None` if parts of it cannot be read: the server would look
/// at all pages for each, or keeps the role from what it takes. The place of a row (`ctid`) takes
/// SELECT on the whole table.
async fn size_of(leader: &Traced<Client>, oid: u32) -> Result<Option<Size>, Error> {
    // A relation that is dropped has no size. The parent of partitions has no pages and no access
    // method of its own.
    const SIZE: &str = "SELECT coalesce(max(pg_catalog.pg_relation_size(c.oid)), 0)
            / pg_catalog.current_setting('block_size')::pg_catalog.int8,
        coalesce(sum(pg_catalog.pg_table_size(c.oid)), 0)::pg_catalog.int8,
        pg_catalog.bool_and(c.relkind = 'p' OR coalesce(a.amname, '') = 'heap')
            AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 140000
            AND pg_catalog.has_function_privilege('pg_catalog.pg_export_snapshot()', 'EXECUTE')
            AND pg_catalog.has_table_privilege('pg_catalog.pg_locks', 'SELECT')
            AND pg_catalog.has_function_privilege('pg_catalog.pg_lock_status()', 'EXECUTE')
            AND pg_catalog.has_table_privilege($1, 'SELECT')
        FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
        WHERE c.oid = $1 OR c.oid IN (SELECT t.relid FROM pg_catalog.pg_partition_tree($1) t)";
    let row = leader.query_typed_one(SIZE, &[(&oid, Type::OID)]).await?;
    let is_divisible = row.get::<_, Option<bool>>(2) == Some(true);
    Ok(is_divisible.then(|| Size {
        pages: number(&row, 0),
        bytes: number(&row, 1),
    }))
}

/// Returns a number of a row that is never negative.
fn number(row: &Row, at: usize) -> u64 {
    u64::try_from(row.get::<_, i64>(at)).unwrap_or_default()
}

/// Returns which of the sessions' processes hold advisory locks in the database of `leader`, each
/// with the key.
async fn holders_of_keys(
    leader: &Traced<Client>,
    sessions: &[(OpenSession, i64)],
) -> Result<Vec<(i32, i64)>, Error> {
    // A key is shown as two halves (manual, 54.12 pg_locks).
    const HELD: &str = "SELECT l.pid,
            (l.classid::pg_catalog.int8 OPERATOR(pg_catalog.<<) 32)
                OPERATOR(pg_catalog.|) l.objid::pg_catalog.int8
        FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted AND l.pid = ANY ($1)
            AND d.datname = pg_catalog.current_database()";
    if sessions.is_empty() {
        return Ok(Vec::new());
    }
    let processes: Vec<i32> = sessions
        .iter()
        .map(|(session, _)| session.process())
        .collect();
    let held = leader
        .query_typed(HELD, &[(&processes, Type::INT4_ARRAY)])
        .await?;
    Ok(held.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_page_is_in_one_part(pages in 1_u64..1_000_000_000, sessions in 1_u64..64) {
            let parts = Pages::divided(pages, sessions);
            prop_assert_eq!(parts.len() as u64, sessions);
            prop_assert_eq!(parts[0].first, 0);
            for (part, next) in std::iter::zip(&parts, &parts[1..]) {
                prop_assert_eq!(part.end, Some(next.first));
                prop_assert!(part.first <= next.first);
            }
            prop_assert_eq!(parts[parts.len() - 1].end, None);
        }
    }
}
