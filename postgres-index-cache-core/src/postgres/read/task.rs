//! [`Read`]: one snapshot of a table on Q, as a task that tells the driver how it goes.

use crate::postgres::apply::driver_table::TOO_LONG;
use crate::postgres::connection::session::{quote_identifier, quote_literal};
use crate::postgres::driver::{BATCH, DriverOptions, Event, ReadKind, ReadMessage, ReadRequest};
use crate::postgres::error::{DriverError, ReadError};
use crate::postgres::schema::catalog::foreign_code;
use crate::postgres::schema::eligibility::{Distrust, TableConfig};
use crate::postgres::schema::fingerprint::{Fingerprint, look};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// Timeouts that only some versions have: `idle_session_timeout` from PostgreSQL 14 on,
/// `transaction_timeout` from 17 on.
pub(in crate::postgres) const NO_TIMEOUTS: &str =
    "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
    WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

/// How many bytes are brought at once: with several batches on their way this is what a slow cache
/// costs.
const BATCH_BYTES: usize = 256 << 10;

/// How long Q may say nothing inside a transaction: as long as a comparison waits for its fence, twice.
/// A process that is stopped there keeps its table locked against migrations no longer than that.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Q: a policy that hides rows is an error, not a smaller table; no timeout of the role ends a long
/// COPY.
pub(in crate::postgres) fn read_settings(options: &DriverOptions) -> String {
    let longest_pause = LONGEST_PAUSE.max(2 * options.limits.fence_timeout);
    let mut settings = vec![
        ("row_security".to_string(), "off".to_string()),
        ("statement_timeout".to_string(), "0".to_string()),
        (
            "idle_in_transaction_session_timeout".to_string(),
            longest_pause.as_millis().to_string(),
        ),
        (
            "lock_timeout".to_string(),
            options.lock_timeout.as_millis().to_string(),
        ),
    ];
    settings.extend(options.settings.iter().cloned());
    let mut sql: String = settings
        .iter()
        .map(|(name, value)| {
            format!(
                "SELECT pg_catalog.set_config({}, {}, false);",
                quote_literal(name),
                quote_literal(value)
            )
        })
        .collect();
    sql.push_str(NO_TIMEOUTS);
    sql
}

/// One read of a table, or of some of its rows, on Q.
pub(in crate::postgres) struct Read {
    pub(in crate::postgres) client: Arc<Client>,
    pub(in crate::postgres) sender: mpsc::Sender<Event>,
    pub(in crate::postgres) rows_tx: mpsc::Sender<ReadMessage>,
    pub(in crate::postgres) asked: ReadRequest,
    pub(in crate::postgres) follow: TableConfig,
    pub(in crate::postgres) copy: String,
    /// The read before this one on the same session.
    pub(in crate::postgres) previous: Option<JoinHandle<bool>>,
    /// Whether a comparison has left its transaction open.
    pub(in crate::postgres) rolls_back: bool,
    /// How long it may wait for the lock.
    pub(in crate::postgres) lock_timeout: Duration,
    /// How many bytes a row may have.
    pub(in crate::postgres) longest: usize,
    pub(in crate::postgres) distrust: Distrust,
}

impl Read {
    /// Reads, and says whether the session is in order: in no transaction but one that a comparison left
    /// open.
    pub(in crate::postgres) async fn run(mut self) -> bool {
        let read = match self.end_previous().await {
            Ok(()) => self.read().await,
            Err(error) => Err(error),
        };
        let asked = self.asked;
        // A driver that is gone wants to hear nothing.
        let Err(error) = read else {
            let _ = self.rows_tx.send(ReadMessage::All { asked }).await;
            return true;
        };
        let _ = self.sender.send(Event::ReadFailed { asked, error }).await;
        // At once: not every error is the server's, and none of our own ends the transaction, which
        // holds the table's lock. There may be no next read before somebody's migration, which
        // waits for that lock, is done.
        self.client.batch_execute("ROLLBACK").await.is_ok()
    }

    /// Waits for the read before this one: two must never be in one transaction, whose snapshot
    /// would be the older.
    async fn end_previous(&mut self) -> Result<(), DriverError> {
        let is_in_order = match self.previous.take() {
            Some(previous) => matches!(previous.await, Ok(true)),
            None => true,
        };
        if is_in_order && !self.rolls_back {
            return Ok(());
        }
        let rolled_back = self.client.batch_execute("ROLLBACK").await;
        rolled_back.map_err(|source| DriverError::Server {
            doing: "end the read before".to_string(),
            source,
        })
    }

    async fn read(&self) -> Result<(), DriverError> {
        let name = self.follow.name();
        let doing = |what: &str| {
            let doing = format!("{what} {name}");
            move |source| DriverError::Server { doing, source }
        };
        if matches!(self.asked.kind, ReadKind::RowsOfCut | ReadKind::Compare) {
            self.check_code().await?;
            self.copy().await?;
            return match self.asked.kind {
                ReadKind::Compare => self
                    .client
                    .batch_execute("COMMIT")
                    .await
                    .map_err(doing("end the comparison of")),
                _ => Ok(()),
            };
        }
        let is_locked_first = self.lock().await.map_err(doing("lock"))?;
        let row = self.client.query_typed_one(
            "SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text",
            &[],
        );
        let text: String = row.await.map_err(doing("take a snapshot of"))?.get(0);
        let snapshot =
            text.parse()
                .map_err(|error: crate::sync::SnapshotError| DriverError::Snapshot {
                    table: name.clone(),
                    source: ReadError::Snapshot(error.to_string()),
                })?;
        let asked = self.asked;
        let followed = &self.follow.followed;
        // What the rows are read of, seen by the same snapshot.
        let seen = look(&*self.client, &[followed.oid])
            .await
            .map_err(doing("look at"))?;
        let fingerprint = seen
            .into_iter()
            .next()
            .filter(|seen| seen.is_named(&followed.schema, &followed.name));
        let Some(fingerprint) = fingerprint else {
            return Err(DriverError::Snapshot {
                table: name.clone(),
                source: ReadError::Renamed,
            });
        };
        if !is_locked_first
            && !self
                .is_as_seen(&fingerprint)
                .await
                .map_err(doing("look at"))?
        {
            let what = "it was rewritten while its lock was waited for".to_string();
            return Err(DriverError::Snapshot {
                table: name.clone(),
                source: ReadError::Altered(what),
            });
        }
        // The receiver lives as long as this task is wanted.
        let fingerprint = Box::new(fingerprint);
        let _ = self
            .rows_tx
            .send(ReadMessage::Snapshot {
                asked,
                snapshot,
                fingerprint,
            })
            .await;
        if asked.kind == ReadKind::Cut {
            return Ok(());
        }
        self.check_code().await?;
        self.copy().await?;
        self.client
            .batch_execute("COMMIT")
            .await
            .map_err(doing("end the snapshot of"))
    }

    /// Begins a transaction with the table's lock. It comes before the snapshot: a rewriting ALTER
    /// or a TRUNCATE after the snapshot would leave it empty.
    ///
    /// That of a partitioned table is many, and whoever waits for one while it holds others can
    /// deadlock with a migration: so it takes them all at once, or none and tries again.
    ///
    /// LOCK TABLE takes SELECT on the whole table. Who has it on the columns that are read alone
    /// gets the lock with a query that gives no row; its snapshot is older than the lock then,
    /// which `false` says.
    async fn lock(&self) -> Result<bool, tokio_postgres::Error> {
        /// The longest wait before it tries again.
        const LONGEST: Duration = Duration::from_millis(200);
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY NOT DEFERRABLE";
        let relation = self.follow.relation();
        let is_partitioned = self.follow.followed.is_partitioned;
        let nowait = if is_partitioned { " NOWAIT" } else { "" };
        let by_lock = format!(
            "{BEGIN}; LOCK TABLE {relation} IN {} MODE{nowait}",
            self.lock_mode()
        );
        let brief = if is_partitioned {
            "; SET LOCAL lock_timeout = '5ms'"
        } else {
            ""
        };
        let by_query = format!(
            "{BEGIN}{brief}; SELECT {} FROM {relation} LIMIT 0",
            self.columns().join(", ")
        );
        let give_up = Instant::now() + self.lock_timeout;
        let mut wait = Duration::from_millis(2);
        let mut is_by_lock = true;
        loop {
            let begin = if is_by_lock { &by_lock } else { &by_query };
            let Err(error) = self.client.batch_execute(begin).await else {
                return Ok(is_by_lock);
            };
            let is_held = error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE);
            let is_refused = is_by_lock && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
            if !is_refused && (!is_partitioned || !is_held || Instant::now() >= give_up) {
                return Err(error);
            }
            self.client.batch_execute("ROLLBACK").await?;
            if is_refused {
                is_by_lock = false;
                continue;
            }
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(LONGEST);
        }
    }

    /// Refuses to plan a query that would run functions of the owner's with our rights: see
    /// [`Distrust`].
    async fn check_code(&self) -> Result<(), DriverError> {
        let is_planned = match self.distrust {
            Distrust::None => false,
            Distrust::OfQueries => self.asked.kind.is_refetch(),
            Distrust::OfTable => true,
        };
        if !is_planned {
            return Ok(());
        }
        let table = self.follow.name();
        let found = foreign_code(&*self.client, self.follow.followed.oid).await;
        let found = found.map_err(|source| DriverError::Server {
            doing: format!("look at {table}"),
            source,
        })?;
        match found {
            Some((function, owner)) => Err(DriverError::CodeOfOthers {
                table,
                function,
                owner,
            }),
            None => Ok(()),
        }
    }

    /// The lock of a read. Where a query is planned of a table whose owner is not trusted, nobody
    /// may make an index meanwhile.
    fn lock_mode(&self) -> &'static str {
        let is_planned = matches!(self.asked.kind, ReadKind::Rows | ReadKind::Cut);
        match self.distrust {
            Distrust::None => "ACCESS SHARE",
            Distrust::OfQueries if !is_planned => "ACCESS SHARE",
            Distrust::OfQueries | Distrust::OfTable => "SHARE UPDATE EXCLUSIVE",
        }
    }

    /// The columns that are kept, as they stand in SQL.
    fn columns(&self) -> Vec<String> {
        self.follow
            .shape
            .columns()
            .iter()
            .map(|column| quote_identifier(&column.name))
            .collect()
    }

    /// Whether the table is now, while it is locked, what the snapshot sees of it.
    ///
    /// Without this, where the snapshot is older than the lock: 1. The snapshot is taken. 2.
    /// Somebody truncates or rewrites the table. 3. It is locked and read: the snapshot sees no row
    /// of the new files, and the table passes for empty.
    async fn is_as_seen(&self, seen: &Fingerprint) -> Result<bool, tokio_postgres::Error> {
        // A function of the catalogue tells what is now; a query of it, what the snapshot sees.
        let files = "SELECT coalesce(pg_catalog.bool_and(c.relfilenode = \
            pg_catalog.pg_relation_filenode(c.oid)), true)
            FROM pg_catalog.pg_class c WHERE c.oid = ANY ($1) AND c.relkind = 'r'";
        let mut relations = seen.leaves.clone();
        relations.push(seen.relation());
        let row = self
            .client
            .query_typed_one(files, &[(&relations, Type::OID_ARRAY)])
            .await?;
        if !row.get::<_, bool>(0) {
            return Ok(false);
        }
        let types = self
            .columns()
            .into_iter()
            .map(|name| format!("pg_catalog.pg_typeof({name})::pg_catalog.oid"));
        let sql = format!(
            "SELECT {} FROM (SELECT) one LEFT JOIN {} ON false",
            types.collect::<Vec<_>>().join(", "),
            self.follow.relation()
        );
        let row = self.client.query_typed_one(&sql, &[]).await?;
        let columns = self.follow.shape.columns();
        Ok((0..columns.len()).all(|at| seen.type_of(&columns[at].name) == Some(row.get(at))))
    }

    async fn copy(&self) -> Result<(), DriverError> {
        let name = self.follow.name();
        let failed = |source: tokio_postgres::Error| match source.code().map(SqlState::code) {
            Some(TOO_LONG) => DriverError::RowTooLong {
                table: name.clone(),
                longest: self.longest,
            },
            _ => DriverError::Server {
                doing: format!("copy {name}"),
                source,
            },
        };
        let asked = self.asked;
        let mut stream = std::pin::pin!(
            self.client
                .copy_out(&self.copy)
                .await
                .map_err(failed)?
                .fuse()
        );
        let mut pieces = Vec::new();
        let mut bytes = 0;
        while let Some(piece) = stream.next().await {
            let mut next = Some(piece);
            // What is there already goes with it, up to a batch.
            while let Some(piece) = next {
                let piece: Bytes = piece.map_err(failed)?;
                bytes += piece.len();
                pieces.push(piece);
                let is_full = pieces.len() >= BATCH || bytes >= BATCH_BYTES;
                next = if is_full {
                    None
                } else {
                    stream.next().now_or_never().flatten()
                };
            }
            bytes = 0;
            let _ = self
                .rows_tx
                .send(ReadMessage::Rows {
                    asked,
                    pieces: std::mem::take(&mut pieces),
                })
                .await;
        }
        Ok(())
    }
}
