//! [`Read`]: one snapshot of a table on Q, as a task that tells the driver how it goes.

use super::driver::{BATCH, DriverError, DriverOptions, Event, ReadError};
use super::session::{quote_identifier, quote_literal};
use crate::sync::TableId;
use futures_util::StreamExt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_postgres::Client;

/// Q: a policy that hides rows is an error, not a smaller table; no timeout of the role ends a long COPY.
pub(super) fn read_settings(options: &DriverOptions) -> String {
    let mut settings = vec![
        ("row_security".to_string(), "off".to_string()),
        ("statement_timeout".to_string(), "0".to_string()),
        ("idle_in_transaction_session_timeout".to_string(), "0".to_string()),
        ("lock_timeout".to_string(), options.lock_timeout.as_millis().to_string()),
    ];
    settings.extend(options.settings.iter().cloned());
    let mut sql: String = settings
        .iter()
        .map(|(name, value)| format!("SET {} = {};", quote_identifier(name), quote_literal(value)))
        .collect();
    // PostgreSQL 17 and later.
    sql.push_str(
        "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'",
    );
    sql
}

/// One read of a table on Q.
pub(super) struct Read {
    pub(super) client: Arc<Client>,
    pub(super) sender: mpsc::Sender<Event>,
    pub(super) table: TableId,
    pub(super) generation: u64,
    pub(super) name: String,
    pub(super) relation: String,
    pub(super) copy: String,
    /// Whether the session may be in the transaction of a read that was given up.
    pub(super) ends_another: bool,
}

impl Read {
    pub(super) async fn run(self) {
        let event = match self.read().await {
            Ok(()) => Event::Read { table: self.table, generation: self.generation },
            Err(error) => Event::Failed(error),
        };
        // A driver that is gone wants to hear nothing.
        let _ = self.sender.send(event).await;
    }

    async fn read(&self) -> Result<(), DriverError> {
        let doing = |what: &str| {
            let doing = format!("{what} {}", self.name);
            move |source| DriverError::Server { doing, source }
        };
        // The lock comes before the snapshot: a rewriting ALTER or a TRUNCATE after the snapshot would leave it empty.
        let begin = format!(
            "{}BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; LOCK TABLE ONLY {} IN ACCESS SHARE MODE",
            if self.ends_another { "ROLLBACK; " } else { "" },
            self.relation
        );
        self.client.batch_execute(&begin).await.map_err(doing("lock"))?;
        let row = self.client.query_one("SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text", &[]);
        let text: String = row.await.map_err(doing("take a snapshot of"))?.get(0);
        let snapshot = text.parse().map_err(|error: crate::sync::SnapshotError| DriverError::Snapshot {
            table: self.name.clone(),
            source: ReadError::Snapshot(error.to_string()),
        })?;
        let (table, generation) = (self.table, self.generation);
        // The receiver lives as long as this task is wanted.
        let _ = self.sender.send(Event::Snapshot { table, generation, snapshot }).await;
        let stream = self.client.copy_out(&self.copy).await.map_err(doing("copy"))?;
        let mut batches = std::pin::pin!(stream.ready_chunks(BATCH));
        while let Some(batch) = batches.next().await {
            let pieces = batch.into_iter().collect::<Result<Vec<_>, _>>().map_err(doing("copy"))?;
            let _ = self.sender.send(Event::Rows { table, generation, pieces }).await;
        }
        self.client.batch_execute("COMMIT").await.map_err(doing("end the snapshot of"))
    }
}
