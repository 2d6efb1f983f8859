//! [`TurnLock`]: the advisory lock that keeps two relays of one log from writing in turns.
//!
//! The lock does not make the log right: compare-and-append does (W1, W2). Without the lock two
//! relays would refuse each other's entries again and again.

use super::names::LogName;
use super::source::LogSource;
use crate::postgres::{Connector, DriverError, SessionPurpose, claim_session};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// The first key of the lock ("pgic"); the second one is made of the log's name.
const LOG_KEY: i32 = 0x7067_6963;

/// How long the server may take to open the session and to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The server ends the session, and with that the lock, within 20 s if this machine is gone: nothing
/// is sent on the session by which it could find out (manual, 20.3.2 TCP Settings).
const KEEPALIVES: &str =
    "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3";

/// The lock, held by a session of its own.
#[derive(Debug)]
pub(super) struct TurnLock {
    /// Dropping the client ends the session.
    client: Client,
    /// The database of the session.
    pub(super) source: Option<LogSource>,
}

impl TurnLock {
    /// Takes the lock; `None` if another relay has it.
    ///
    /// # Errors
    /// If no session of the relay's own can be had.
    pub(super) async fn take(
        connector: impl Connector + Clone + 'static,
        name: &LogName,
    ) -> Result<Option<Self>, DriverError> {
        let taken = tokio::time::timeout(PATIENCE, Box::pin(take(connector, key_of(name)))).await;
        taken.map_err(|_| DriverError::Silent(PATIENCE))?
    }

    /// Returns whether the session is known to be over.
    pub(super) fn is_lost(&self) -> bool {
        self.client.is_closed()
    }
}

/// Opens a session of the relay's own.
///
/// # Errors
/// If there is none.
pub(super) async fn claimed(
    connector: impl Connector + Clone + 'static,
) -> Result<Client, DriverError> {
    let role = SessionPurpose::Command;
    let session = connector.connect(role).await;
    let session = session.map_err(|source| DriverError::Connect { role, source })?;
    let session = claim_session(connector, role, session).await?;
    Ok(session.into_client())
}

async fn take(
    connector: impl Connector + Clone + 'static,
    key: i32,
) -> Result<Option<TurnLock>, DriverError> {
    let client = claimed(connector).await?;
    let set = client.batch_execute(KEEPALIVES).await;
    set.map_err(|source| DriverError::Server {
        doing: "set keepalives on the session that holds the relay's lock".to_string(),
        source,
    })?;
    let sql = "SELECT pg_catalog.pg_try_advisory_lock($1, $2)";
    let row = client
        .query_typed(sql, &[(&LOG_KEY, Type::INT4), (&key, Type::INT4)])
        .await
        .map_err(|source| DriverError::Server {
            doing: "take the lock of the relay that writes".to_string(),
            source,
        })?;
    let is_taken = row.first().is_some_and(|row| row.get(0));
    if !is_taken {
        return Ok(None);
    }
    let source = LogSource::seen_by(&client).await?;
    Ok(Some(TurnLock { client, source }))
}

/// Returns the lock's second key.
fn key_of(name: &LogName) -> i32 {
    let hash = Sha256::digest(name.to_string());
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&hash[..4]);
    i32::from_be_bytes(bytes)
}
