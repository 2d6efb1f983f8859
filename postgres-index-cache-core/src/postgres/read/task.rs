//! [`Read`]: one read of a table, or of some rows of a table, as a task on a session
//! that sends the driver the rows.
//!
//! ```text
//! All, Rows   BEGIN → lock → snapshot → fingerprint → COPY → COMMIT
//! Cut         BEGIN → lock → snapshot → fingerprint    (the transaction stays open)
//! RowsOfCut                                           COPY
//! Compare                                             COPY → COMMIT
//! ```

use super::decoding::Decoding;
use crate::postgres::apply::writer::AheadDecoder;
use crate::postgres::connection::traced::Traced;
use crate::postgres::error::{DriverError, ReadError};
use crate::postgres::quote::quote_identifier;
use crate::postgres::read::parts::{Divided, Parts};
use crate::postgres::read::request::{ReadFailed, ReadKind, ReadMessage, ReadRequest};
use crate::postgres::read::statement::{CopyStatement, TOO_LONG};
use crate::postgres::schema::catalog::foreign_code;
use crate::postgres::schema::eligibility::{Distrust, TableConfig};
use crate::postgres::schema::fingerprint::{Fingerprint, look};
use crate::postgres::sqlstate::{self, Policy};
use crate::sync::{Snapshot, SnapshotError};
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

/// The pieces after which a batch is sent to the driver.
const BATCH: usize = 256;

/// The pieces after which a batch is sent to a thread that decodes them.
const BATCH_AHEAD: usize = 4096;

/// The bytes after which a batch is sent to the driver. Several batches may be on their way, so
/// this bounds the memory that a slow cache costs.
const BATCH_BYTES: usize = 256 << 10;

/// One read of a table, or of some rows of a table, on Q or on the session of a side read.
pub(in crate::postgres) struct Read {
    pub(in crate::postgres) client: Arc<Traced<Client>>,
    /// The channel for the failure of this read.
    pub(in crate::postgres) failures_tx: mpsc::Sender<ReadFailed>,
    /// The bounded channel for the snapshot and the rows.
    pub(in crate::postgres) rows_tx: mpsc::Sender<ReadMessage>,
    /// The request that this read answers.
    pub(in crate::postgres) asked: ReadRequest,
    /// The table.
    pub(in crate::postgres) config: TableConfig,
    /// The statement that copies the rows.
    pub(in crate::postgres) copy: CopyStatement,
    /// The read before this one on the same session.
    pub(in crate::postgres) previous: Option<JoinHandle<bool>>,
    /// Whether a comparison has left a transaction open that this read must end.
    pub(in crate::postgres) rolls_back: bool,
    /// How long the read may wait for the table's lock.
    pub(in crate::postgres) lock_timeout: Duration,
    /// The most bytes that a row may have.
    pub(in crate::postgres) longest: usize,
    /// Opens the sessions that read parts of the table beside this one; `None` if this one reads
    /// alone.
    pub(in crate::postgres) parts: Option<Parts>,
    /// Whether the query of this read may run functions of the table's owner.
    pub(in crate::postgres) distrust: Distrust,
}

impl Read {
    /// Reads, and sends the driver the end or the error of the read.
    ///
    /// `ahead` decodes the rows on a thread of its own; `None` if the driver decodes them.
    ///
    /// Returns whether the session is in order: in no transaction, or in one that a comparison left
    /// open on purpose.
    pub(in crate::postgres) async fn run(mut self, ahead: Option<Box<dyn AheadDecoder>>) -> bool {
        let read = match self.end_previous().await {
            Ok(()) => self.read(ahead).await,
            Err(error) => Err(error),
        };
        let asked = self.asked;
        // If the driver is gone, nobody waits for either message.
        let error = match read {
            Ok(streams) => {
                let _ = self.rows_tx.send(ReadMessage::All { asked, streams }).await;
                return true;
            }
            Err(error) => error,
        };
        let _ = self.failures_tx.send(ReadFailed { asked, error }).await;
        // Roll back at once. Errors of our own leave the transaction open, with the table's lock.
        // The next read may come only when somebody's migration is done, which waits for that lock.
        self.client.batch_execute("ROLLBACK").await.is_ok()
    }

    /// Waits for the read before this one, and ends its transaction if it has left one open.
    ///
    /// Two reads must never be in one transaction: the second one would read under the snapshot of
    /// the first.
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

    /// Reads a snapshot of the table, or the rows that a comparison asks for in its own
    /// transaction. Returns the number of COPY streams by which the rows came.
    async fn read(&self, ahead: Option<Box<dyn AheadDecoder>>) -> Result<usize, DriverError> {
        let asked = self.asked;
        if matches!(asked.kind, ReadKind::RowsOfCut | ReadKind::Compare) {
            // The transaction that `ReadKind::Cut` began is still open. It holds the lock and the
            // snapshot.
            self.check_code().await?;
            let ends = (asked.kind == ReadKind::Compare).then_some("end the comparison of");
            return self.copy(ahead, ends).await;
        }
        let is_locked_first = self
            .lock()
            .await
            .map_err(|source| self.failed_to("lock", source))?;
        let snapshot = self.take_snapshot().await?;
        let fingerprint = self.take_fingerprint().await?;
        if !is_locked_first
            && !self
                .is_as_seen(&fingerprint)
                .await
                .map_err(|source| self.failed_to("look at", source))?
        {
            let what = "it was rewritten while its lock was waited for".to_string();
            return Err(self.unusable(ReadError::Altered(what)));
        }
        // The driver drops the receiver only when it wants no more of this read: the error of a
        // failed send is ignored, here and below.
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
            // The transaction stays open for `RowsOfCut` and `Compare`.
            return Ok(0);
        }
        self.check_code().await?;
        self.copy(ahead, Some("end the snapshot of")).await
    }

    /// Returns which transactions the rows of this read contain.
    async fn take_snapshot(&self) -> Result<Snapshot, DriverError> {
        let row = self.client.query_typed_one(
            "SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text",
            &[],
        );
        let row = row
            .await
            .map_err(|source| self.failed_to("take a snapshot of", source))?;
        row.get::<_, String>(0)
            .parse()
            .map_err(|error: SnapshotError| self.unusable(ReadError::Snapshot(error.to_string())))
    }

    /// Returns the fingerprint of the table under the snapshot of this read.
    ///
    /// The table is locked and copied by its name. So the name must still be that of the table that
    /// was described, whose oid the look asks for.
    async fn take_fingerprint(&self) -> Result<Fingerprint, DriverError> {
        let followed = &self.config.followed;
        let seen = look(&*self.client, &[followed.oid])
            .await
            .map_err(|source| self.failed_to("look at", source))?;
        seen.into_iter()
            .next()
            .filter(|seen| seen.is_named(&followed.schema, &followed.name))
            .ok_or_else(|| self.unusable(ReadError::Renamed))
    }

    /// Commits the transaction of the read; `doing` says which one, for an error.
    async fn commit(&self, doing: &str) -> Result<(), DriverError> {
        self.client
            .batch_execute("COMMIT")
            .await
            .map_err(|source| self.failed_to(doing, source))
    }

    /// Makes the error of a statement: `doing` is its purpose, to which the table's name is added.
    fn failed_to(&self, doing: &str, source: tokio_postgres::Error) -> DriverError {
        DriverError::Server {
            doing: format!("{doing} {}", self.config.name()),
            source,
        }
    }

    /// Makes the error of a snapshot that cannot be used.
    fn unusable(&self, source: ReadError) -> DriverError {
        DriverError::Snapshot {
            table: self.config.name(),
            source,
        }
    }

    /// Begins a transaction and locks the table. Returns whether the lock came before the snapshot.
    ///
    /// The lock should come first: a rewriting ALTER or a TRUNCATE between snapshot and lock would
    /// make the table seem empty.
    ///
    /// LOCK TABLE needs SELECT on the whole table. A role that has SELECT only on the columns that
    /// are read locks the table with a query that returns no row. The query takes its snapshot
    /// before its lock, so the answer is `false` then: see [`is_as_seen`](Self::is_as_seen).
    async fn lock(&self) -> Result<bool, tokio_postgres::Error> {
        /// The longest pause between two attempts at the locks of a partitioned table.
        const LONGEST: Duration = Duration::from_millis(200);
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY NOT DEFERRABLE";
        let relation = self.config.relation();
        // A partitioned table has many locks. If Q waited for one of them while it held others, a
        // migration that holds that one and wants another would die of the deadlock. So take all of
        // them at once, or none and try again after a pause. A query knows no NOWAIT: there a short
        // lock_timeout stands for it.
        let is_partitioned = self.config.followed.is_partitioned;
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
            let is_retried = is_partitioned && is_held && Instant::now() < give_up;
            if !is_refused && !is_retried {
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

    /// Refuses a read whose query would run functions of the table's owner with our rights: see
    /// [`Distrust`].
    ///
    /// The table is locked by now in a mode that keeps out new indexes and statistics, so the
    /// answer holds until the end of the transaction.
    async fn check_code(&self) -> Result<(), DriverError> {
        if let Some(condition) = &self.config.foreign_condition {
            return Err(DriverError::ConditionOfOthers {
                table: self.config.name(),
                condition: condition.clone(),
            });
        }
        let is_planned = match self.distrust {
            Distrust::None => false,
            Distrust::OfQueries => self.asked.kind.is_refetch(),
            Distrust::OfTable => true,
        };
        if !is_planned {
            return Ok(());
        }
        let found = foreign_code(&*self.client, self.config.followed.oid)
            .await
            .map_err(|source| self.failed_to("look at", source))?;
        match found {
            Some(function) => Err(DriverError::CodeOfOthers {
                table: self.config.name(),
                function: function.name,
                owner: function.owner,
            }),
            None => Ok(()),
        }
    }

    /// Returns the mode of the table's lock. If a query of a table whose owner is distrusted will
    /// be planned, the mode keeps everybody from making an index meanwhile.
    fn lock_mode(&self) -> &'static str {
        // The transaction that a `Cut` begins may refetch rows by key as well.
        let is_planned = matches!(self.asked.kind, ReadKind::Rows | ReadKind::Cut);
        match self.distrust {
            Distrust::None => "ACCESS SHARE",
            Distrust::OfQueries if !is_planned => "ACCESS SHARE",
            Distrust::OfQueries | Distrust::OfTable => "SHARE UPDATE EXCLUSIVE",
        }
    }

    /// Returns the columns that the cache keeps, as identifiers in SQL.
    fn columns(&self) -> Vec<String> {
        self.config
            .shape
            .columns()
            .iter()
            .map(|column| quote_identifier(&column.name))
            .collect()
    }

    /// Returns whether the table now, while it is locked, is what the snapshot sees of it: the same
    /// files, and columns of the same types.
    ///
    /// Without this check, if the snapshot is older than the lock:
    ///
    /// 1. The snapshot is taken.
    /// 2. Somebody truncates or rewrites the table.
    /// 3. We lock and read the table. The snapshot sees no row of the new files, so the table
    ///    passes for empty.
    async fn is_as_seen(&self, seen: &Fingerprint) -> Result<bool, tokio_postgres::Error> {
        // A query of the catalogue sees it under the snapshot, so `c.relfilenode` is the old file.
        // The function pg_relation_filenode() reads the catalogue as of now.
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
        // The parser resolves the columns as of now, since the table is locked: `pg_typeof` gives
        // their present types. The LEFT JOIN gives one row, and reads none of the table.
        let types = self
            .columns()
            .into_iter()
            .map(|name| format!("pg_catalog.pg_typeof({name})::pg_catalog.oid"));
        let sql = format!(
            "SELECT {} FROM (SELECT) one LEFT JOIN {} ON false",
            types.collect::<Vec<_>>().join(", "),
            self.config.relation()
        );
        let row = self.client.query_typed_one(&sql, &[]).await?;
        let columns = self.config.shape.columns();
        Ok(columns
            .iter()
            .enumerate()
            .all(|(at, column)| seen.type_of(&column.name) == Some(row.get(at))))
    }

    /// Copies the rows, by this session alone or by several side by side, and sends them to the
    /// driver. Returns the number of COPY streams.
    ///
    /// `ends` says in words that the transaction of this session is to be committed behind its own
    /// rows, for an error; `None` if the transaction stays open. The other sessions may take longer
    /// than the server lets a session be idle inside a transaction, and need that transaction no
    /// more: they have the snapshot, and locks of their own.
    async fn copy(
        &self,
        ahead: Option<Box<dyn AheadDecoder>>,
        ends: Option<&str>,
    ) -> Result<usize, DriverError> {
        let mut divided = self.divide().await?;
        let mut statements = vec![(&*self.client, self.copy.sql())];
        if let (Some(divided), CopyStatement::Query(query)) = (&divided, &self.copy) {
            let others = divided
                .others
                .iter()
                .map(|(session, pages)| (&*session.client, query.sql_of(*pages)));
            statements = vec![(&*self.client, query.sql_of(divided.own))];
            statements.extend(others);
        }
        let mut decodings = self.start_decoding(ahead, statements.len()).into_iter();
        let copies = statements
            .iter()
            .enumerate()
            .map(|(stream, (client, sql))| {
                let copied = self.copy_stream(stream, client, sql, decodings.next());
                async move {
                    copied.await?;
                    match ends {
                        Some(doing) if stream == 0 => self.commit(doing).await,
                        _ => Ok(()),
                    }
                }
            });
        try_join_all(copies).await?;
        let streams = statements.len();
        if let Some(divided) = &mut divided {
            divided.is_done = true;
        }
        Ok(streams)
    }

    /// Opens the sessions that read parts of the table beside this one. Returns `None` if this one
    /// reads alone.
    async fn divide(&self) -> Result<Option<Divided>, DriverError> {
        let (Some(parts), CopyStatement::Query(_)) = (&self.parts, &self.copy) else {
            return Ok(None);
        };
        let relation = self.config.relation();
        parts
            .open(&self.client, &relation, self.config.followed.oid)
            .await
            .map_err(|source| match sqlstate::policy(code_of(&source)) {
                // This session itself has ended.
                Policy::Lost | Policy::Starting => self.failed_to("divide", source),
                policy => DriverError::Parts {
                    doing: format!("divide {} among sessions", self.config.name()),
                    is_lasting: policy != Policy::Passing,
                    source,
                },
            })
    }

    /// Starts a thread for each of so many streams, which decodes the rows of that stream. Returns
    /// none if the driver must decode them, since there is no decoder, or no thread.
    fn start_decoding(
        &self,
        ahead: Option<Box<dyn AheadDecoder>>,
        streams: usize,
    ) -> Vec<Decoding> {
        let Some(first) = ahead else {
            return Vec::new();
        };
        let mut decoders: Vec<_> = (1..streams).map(|_| first.another()).collect();
        decoders.push(first);
        decoders
            .into_iter()
            .map(|decoder| Decoding::start(decoder, self.asked, self.rows_tx.clone()))
            .collect::<io::Result<Vec<Decoding>>>()
            .inspect_err(|error| tracing::info!(%error, "no thread to decode rows"))
            .unwrap_or_default()
    }

    /// Copies the rows of one stream, and sends them to the driver in batches of pieces, or of rows.
    async fn copy_stream(
        &self,
        stream: usize,
        client: &Traced<Client>,
        sql: &str,
        decoding: Option<Decoding>,
    ) -> Result<(), DriverError> {
        let asked = self.asked;
        let copied = client.copy_out(sql).await;
        let copied = copied.map_err(|source| self.failed_to_copy(stream, source))?;
        let mut copied = std::pin::pin!(copied.fuse());
        let most_pieces = if decoding.is_some() {
            BATCH_AHEAD
        } else {
            BATCH
        };
        let mut pieces = Vec::new();
        let mut bytes = 0;
        while let Some(piece) = copied.next().await {
            let mut next = Some(piece);
            // Take along what has already arrived, up to a batch: the driver gets fewer messages. A
            // thread is woken for full batches alone, since waking it costs more than a few rows.
            while let Some(piece) = next {
                let piece: Bytes = piece.map_err(|source| self.failed_to_copy(stream, source))?;
                bytes += piece.len();
                pieces.push(piece);
                let is_full = pieces.len() >= most_pieces || bytes >= BATCH_BYTES;
                next = if is_full {
                    None
                } else if decoding.is_some() {
                    copied.next().await
                } else {
                    copied.next().now_or_never().flatten()
                };
            }
            bytes = 0;
            // The channel is bounded. While the driver waits for a cache, this waits as well, and
            // the server with it.
            let pieces = std::mem::take(&mut pieces);
            let Some(decoding) = &decoding else {
                let rows = ReadMessage::Rows {
                    asked,
                    stream,
                    pieces,
                };
                let _ = self.rows_tx.send(rows).await;
                continue;
            };
            if !decoding.send(pieces).await {
                // The thread has found an error: `finish` returns the error.
                break;
            }
        }
        match decoding {
            Some(decoding) => decoding
                .finish()
                .await
                .map_err(|error| self.unusable(error)),
            None => Ok(()),
        }
    }

    /// Makes the error of a COPY stream. The statement itself fails with [`TOO_LONG`] at a row that
    /// is too long.
    fn failed_to_copy(&self, stream: usize, source: tokio_postgres::Error) -> DriverError {
        if code_of(&source) == Some(TOO_LONG) {
            DriverError::RowTooLong {
                table: self.config.name(),
                longest: self.longest,
            }
        } else if stream > 0 {
            DriverError::Parts {
                doing: format!("copy a part of {}", self.config.name()),
                is_lasting: false,
                source,
            }
        } else {
            self.failed_to("copy", source)
        }
    }
}

/// Returns the server's error code; `None` if the error is not the server's.
fn code_of(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(SqlState::code)
}
