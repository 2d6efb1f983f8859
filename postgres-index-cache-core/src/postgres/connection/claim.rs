//! [`claim`]: proves that a session is ours alone before anything is set on it, then makes the
//! session safe.
//!
//! Behind a pooler in transaction mode (PgBouncer) our next statement may run in another session of
//! the server. A setting stays in the old session for the next client that the pooler gives it to.
//! Without the proof:
//!
//! 1. We run `SET search_path = pg_catalog` in a session.
//! 2. Its transaction ends, and the pooler gives the session to an application.
//! 3. The application gets the error `relation "users" does not exist`.
//!
//! Two facts make the proof:
//!
//! - PostgreSQL tells each client the id of its server process when the session begins (manual,
//!   55.2.1 Start-up, BackendKeyData). A pooler sends another number. So a session is ours if
//!   that id is the one that `pg_backend_pid()` returns.
//! - If the ids differ, a second session, the witness, is opened beside the first. In transaction
//!   mode both run in one process, or each moves from process to process. In session mode each
//!   stays in a process of its own, and the first session is ours as well.

use crate::postgres::connection::open::{Open, open_with};
use crate::postgres::connection::session::{ConnectError, Connector, Session, SessionPurpose};
use crate::postgres::connection::traced::trace_statement;
use crate::postgres::error::DriverError;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// The reason why a session was not claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// A pooler runs the transactions of this session in any session of the server that is free.
    #[error("the session is shared: a pooler in transaction mode stands before the server")]
    Shared,
    /// The witness, a second session, could not be opened.
    #[error("open a second connection to learn whether a pooler shares the first")]
    Witness(#[source] ConnectError),
    /// The server refused a statement of the proof, or one that makes the session safe.
    #[error("learn whether the session is shared")]
    Server(#[from] Error),
}

/// How often two sessions behind a pooler are asked in turn for their server processes.
const ROUNDS: usize = 4;

/// The settings of a session that is ours:
///
/// - `search_path`: no object in a schema of the role's own search_path can be meant by a
///   statement.
/// - `default_transaction_…`: no default of the role makes a transaction wait (manual, SET
///   TRANSACTION: DEFERRABLE).
/// - `standard_conforming_strings`: a backslash in a text is a backslash, whatever the owner of the
///   database has set.
/// - `jit`: nothing is compiled, which would make looks at the catalogue many times slower.
/// - `tcp_user_timeout`: the server ends the session if this client, or its machine, stops.
///   Otherwise the session would hold the notification queue, and its locks on tables, without
///   bound. Over a Unix socket the setting has no effect.
const SAFE: &str = "SET search_path = pg_catalog, pg_temp;
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_deferrable = off;
    SET jit = off;
    SET standard_conforming_strings = on;
    SET tcp_user_timeout = '20s'";

/// A session that is ours alone, and safe.
pub(in crate::postgres) struct ClaimedSession {
    pub(in crate::postgres) session: Session,
    /// The id of the server process that serves the session.
    pub(in crate::postgres) process: i32,
}

/// Proves that a session is ours, and makes it safe. If the session is not ours, nothing is left
/// set on it.
pub(in crate::postgres) async fn claim(
    open: &Open,
    role: SessionPurpose,
    mut session: Session,
) -> Result<ClaimedSession, ClaimError> {
    let told = told_process(&session.client).await;
    let process = session.process(role).await?;
    if told != Some(process) {
        // Either a pooler stands in between, or the id could not be read from the request.
        let mut witness = open(role).await.map_err(ClaimError::Witness)?;
        if !are_apart(role, &mut session, &mut witness).await? {
            return Err(ClaimError::Shared);
        }
    }
    trace_statement(role, SAFE);
    session
        .drive(async |client| client.batch_execute(SAFE).await)
        .await?;
    tracing::info!(connection = role.purpose(), process, "session opened");
    Ok(ClaimedSession { session, process })
}

/// Proves that a session which `connector` has opened is ours alone, then makes it safe: nothing
/// that is set on it, or listened to, is another client's.
///
/// # Errors
/// If a pooler shares the session, or the server refuses. Nothing is left set on the session then.
pub async fn claim_session(
    connector: impl Connector + 'static,
    role: SessionPurpose,
    session: Session,
) -> Result<Session, DriverError> {
    let claimed = claim(&open_with(connector), role, session).await;
    let claimed = claimed.map_err(|source| DriverError::Claim { role, source })?;
    Ok(claimed.session)
}

/// Returns whether each of two sessions stays in a process of its own.
async fn are_apart(
    role: SessionPurpose,
    first: &mut Session,
    second: &mut Session,
) -> Result<bool, Error> {
    let first_process = first.process(role).await?;
    let second_process = second.process(role).await?;
    // One answer each is not enough: a pooler in transaction mode may have served the two questions
    // from two of its sessions, and swap them in the next round.
    for _ in 1..ROUNDS {
        let is_same_first = first.process(role).await? == first_process;
        if !is_same_first || second.process(role).await? != second_process {
            return Ok(false);
        }
    }
    Ok(first_process != second_process)
}

impl Session {
    /// Returns the id of the process that serves the session now; 0 if the answer has none.
    ///
    /// Every name is qualified, since the session's search_path is not safe yet. The transaction
    /// names its modes, since a deferrable one may wait without end.
    async fn process(&mut self, role: SessionPurpose) -> Result<i32, Error> {
        const ASK: &str = "BEGIN ISOLATION LEVEL READ COMMITTED NOT DEFERRABLE;
            SELECT pg_catalog.pg_backend_pid(); COMMIT";
        trace_statement(role, ASK);
        let answers = self
            .drive(async |client| client.simple_query(ASK).await)
            .await?;
        let pid = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        Ok(pid.unwrap_or_default())
    }
}

/// Returns the process id that the server sent when the session began; `None` if it cannot be read.
///
/// tokio-postgres uses the id only in requests to cancel. So the id is read from such a request,
/// which is written to memory and never sent.
async fn told_process(client: &Client) -> Option<i32> {
    /// The bytes of a CancelRequest: length, code, process id and secret key, 4 bytes each.
    const REQUEST: usize = 16;
    let (ours, mut theirs) = tokio::io::duplex(64);
    // An encrypted connection first asks whether the server takes TLS: `S` is its yes.
    theirs.write_all(b"S").await.ok()?;
    client
        .cancel_token()
        .cancel_query_raw(ours, Unencrypted)
        .await
        .ok()?;
    // `ours` is dropped by now, so the other end is read up to its end.
    let mut sent = Vec::new();
    theirs.read_to_end(&mut sent).await.ok()?;
    // The request is the last thing written, behind the question for TLS if there was one.
    let request = sent.get(sent.len().checked_sub(REQUEST)?..)?;
    let process = <[u8; 4]>::try_from(request.get(8..12)?).ok()?;
    Some(i32::from_be_bytes(process))
}

/// A TLS layer that encrypts nothing: everything written stays in memory.
struct Unencrypted;

impl TlsConnect<DuplexStream> for Unencrypted {
    type Stream = InMemory;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<InMemory>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        std::future::ready(Ok(InMemory(stream)))
    }
}

/// The stream over which [`Unencrypted`] writes: one end of a pipe in memory.
struct InMemory(DuplexStream);

impl TlsStream for InMemory {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for InMemory {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for InMemory {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
