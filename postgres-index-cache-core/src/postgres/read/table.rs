//! [`SnapshotReader`]: reads tables without a cache, each under a snapshot that the caller learns
//! before the first row.

use crate::postgres::apply::cells::CellDecoder;
use crate::postgres::apply::sink::{Decoded, RowDecoder as _};
use crate::postgres::connection::open::{Open, open_with};
use crate::postgres::connection::session::Connector;
use crate::postgres::connection::sessions::{ConnectionEvent, OpenSession, Opener};
use crate::postgres::error::{DriverError, ReadError};
use crate::postgres::options::DriverOptions;
use crate::postgres::read::copy::CopyDecoder;
use crate::postgres::read::request::{ReadFailed, ReadKind, ReadMessage, ReadRequest};
use crate::postgres::read::statement::CopyStatement;
use crate::postgres::read::task::Read;
use crate::postgres::schema::eligibility::TableConfig;
use crate::sync::{AuxConnection, Snapshot, TableId};
use crate::table_cache::RowBuf;
use std::fmt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The most messages of a read that may be on their way.
const MESSAGES: usize = 4;

/// The longest row that is read, in bytes.
const LONGEST: usize = 256 << 20;

/// A session that reads tables, one after another.
pub struct SnapshotReader {
    session: OpenSession,
    options: DriverOptions,
    /// The read before, which may have left its transaction open.
    previous: Option<JoinHandle<bool>>,
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader").finish_non_exhaustive()
    }
}

/// A table that is being read.
pub struct TableRead<'a> {
    /// The snapshot of the read.
    pub snapshot: Snapshot,
    rows: mpsc::Receiver<ReadMessage>,
    failures: mpsc::Receiver<ReadFailed>,
    config: &'a TableConfig,
}

impl fmt::Debug for TableRead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableRead")
            .field("snapshot", &self.snapshot)
            .finish_non_exhaustive()
    }
}

impl SnapshotReader {
    /// Opens a session with the settings that reads need.
    ///
    /// # Errors
    /// If the session cannot be opened, or is shared by a pooler.
    pub async fn open(
        connector: impl Connector + 'static,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let open: Open = open_with(connector);
        // Nobody waits for the end of this session: a read that is underway fails with it.
        let (events, _) = mpsc::channel::<ConnectionEvent>(1);
        let opener = Opener {
            open,
            options: options.clone(),
            events,
            epoch: 0,
            reads: true,
        };
        Ok(Self {
            session: opener.open_aux(AuxConnection::Reads).await?,
            options,
            previous: None,
        })
    }

    /// Begins to read a table: takes the lock, then the snapshot. The rows wait for
    /// [`TableRead::rows`].
    ///
    /// # Errors
    /// If the server refuses, or the table is not the one that was described.
    pub async fn read<'a>(
        &mut self,
        config: &'a TableConfig,
    ) -> Result<TableRead<'a>, DriverError> {
        self.begin(config, None).await
    }

    /// Begins to read the rows of these keys, which are JSON, as [`read`](Self::read) does.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn read_keys<'a>(
        &mut self,
        config: &'a TableConfig,
        keys: &[String],
    ) -> Result<TableRead<'a>, DriverError> {
        self.begin(config, Some(keys)).await
    }

    async fn begin<'a>(
        &mut self,
        config: &'a TableConfig,
        keys: Option<&[String]>,
    ) -> Result<TableRead<'a>, DriverError> {
        let copy = CopyStatement::new(config, config.distrust, keys, LONGEST)?;
        let (rows_tx, mut rows) = mpsc::channel(MESSAGES);
        let (failures_tx, mut failures) = mpsc::channel(1);
        let read = Read {
            client: Arc::clone(&self.session.client),
            failures_tx,
            rows_tx,
            asked: ReadRequest {
                epoch: 0,
                table: TableId(0),
                work: 0,
                kind: if keys.is_some() {
                    ReadKind::Rows
                } else {
                    ReadKind::All
                },
            },
            config: config.clone(),
            copy,
            previous: self.previous.take(),
            rolls_back: false,
            lock_timeout: self.options.lock_timeout,
            longest: LONGEST,
            parts: None,
            distrust: config.distrust,
        };
        self.previous = Some(tokio::spawn(read.run(None)));
        match next(&mut rows, &mut failures).await? {
            Some(ReadMessage::Snapshot {
                snapshot,
                fingerprint,
                ..
            }) => {
                if let Some(column) = config.changed_column(&fingerprint) {
                    let what = format!("the column {column} is gone, or of another type");
                    return Err(unusable(config, ReadError::Altered(what)));
                }
                Ok(TableRead {
                    snapshot,
                    rows,
                    failures,
                    config,
                })
            }
            Some(_) | None => Err(DriverError::Ended),
        }
    }
}

impl TableRead<'_> {
    /// Passes every row to `take`.
    ///
    /// # Errors
    /// If the server refuses, or a row does not have the table's shape.
    pub async fn rows(mut self, mut take: impl FnMut(&RowBuf)) -> Result<(), DriverError> {
        let mut decoder = CellDecoder::new(Arc::clone(&self.config.shape));
        let mut copy = CopyDecoder::default();
        loop {
            match next(&mut self.rows, &mut self.failures).await? {
                Some(ReadMessage::Rows { pieces, .. }) => {
                    for piece in pieces {
                        copy.push::<ReadError>(&piece, |tuple| {
                            if let Decoded::Row(row) = decoder.read_copy(tuple)? {
                                take(&row);
                                decoder.recycle(row);
                            }
                            Ok(())
                        })
                        .map_err(|error| unusable(self.config, error))?;
                    }
                }
                Some(ReadMessage::All { .. }) => {
                    let ended = copy.finish().map_err(ReadError::from);
                    return ended.map_err(|error| unusable(self.config, error));
                }
                Some(ReadMessage::Snapshot { .. } | ReadMessage::Decoded { .. }) => {}
                None => return Err(DriverError::Ended),
            }
        }
    }
}

/// Returns the next message of a read; `None` at the end of its task.
async fn next(
    rows: &mut mpsc::Receiver<ReadMessage>,
    failures: &mut mpsc::Receiver<ReadFailed>,
) -> Result<Option<ReadMessage>, DriverError> {
    tokio::select! {
        biased;
        Some(ReadFailed { error, .. }) = failures.recv() => Err(error),
        message = rows.recv() => Ok(message),
    }
}

/// Returns the error of rows that cannot be used.
fn unusable(config: &TableConfig, source: ReadError) -> DriverError {
    DriverError::Snapshot {
        table: config.name(),
        source,
    }
}
