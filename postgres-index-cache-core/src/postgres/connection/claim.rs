//! [`claim`]: proves that a session is nobody else's before anything is set on it, then makes it
//! safe.
//!
//! Behind a pooler in transaction mode (PgBouncer) the next statement of ours may run in another
//! session of the server, and what was set stays for whoever gets that one next. Without this: 1. A
//! session is told `SET search_path = pg_catalog`. 2. Its transaction ends, and the pooler gives it
//! to an application. 3. The application hears `relation "users" does not exist`.
//!
//! Two facts tell. PostgreSQL tells each client the id of the process that serves it when the
//! session begins (manual, 55.2.1 Start-up, BackendKeyData); a pooler tells a number of its own. So
//! a session is ours where both are one. Where they are not, a second session beside it is the
//! witness: in transaction mode both run in the same process, or in one today and in another
//! tomorrow; in session mode each stays in a process of its own.

use crate::postgres::connection::session::{ConnectError, Session, SessionPurpose};
use crate::postgres::connection::sessions::Open;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf,
};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// Why a session was not claimed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The pooler runs its transactions wherever there is room.
    #[error("the session is not its own: a pooler in transaction mode stands before the server")]
    Shared,
    /// The witness could not be had.
    #[error("open a second connection to learn whether a pooler shares the first")]
    Witness(#[source] ConnectError),
    /// The server refused.
    #[error("learn whether the session is its own")]
    Server(#[from] Error),
}

/// How often two sessions behind a pooler are asked in turn which processes serve them.
const ROUNDS: usize = 4;

/// What is set on a session that is ours. Nothing that stands in a schema of its role's search_path
/// can be meant; no default of the role makes its transactions wait (manual, SET TRANSACTION:
/// DEFERRABLE); and a client that is stopped, or whose machine is, is let go by the server:
/// otherwise it holds the notification queue, and the locks of what it reads, for as long as it
/// likes. Over a Unix socket that has no effect. And nothing is compiled: it makes looks at the
/// catalogue many times slower.
const SAFE: &str = "SET search_path = pg_catalog, pg_temp;
    SET default_transaction_isolation = 'read committed';
    SET default_transaction_deferrable = off;
    SET jit = off;
    SET tcp_user_timeout = '20s'";

/// Proves that a session is ours, and makes it safe; gives the process that serves it. Nothing is
/// left on one that is not ours.
pub(in crate::postgres) async fn claim(
    open: &Open,
    role: SessionPurpose,
    mut session: Session,
) -> Result<(Session, i32), ClaimError> {
    let told = told_process(&session.client).await;
    let process = session.process().await?;
    if told != Some(process) {
        let mut witness = open(role).await.map_err(ClaimError::Witness)?;
        if !are_apart(&mut session, &mut witness).await? {
            return Err(ClaimError::Shared);
        }
    }
    session
        .drive(async |client| client.batch_execute(SAFE).await)
        .await?;
    Ok((session, process))
}

/// Whether each of two sessions stays in a process of its own.
async fn are_apart(first: &mut Session, second: &mut Session) -> Result<bool, Error> {
    let before = (first.process().await?, second.process().await?);
    for _ in 1..ROUNDS {
        if (first.process().await?, second.process().await?) != before {
            return Ok(false);
        }
    }
    Ok(before.0 != before.1)
}

impl Session {
    /// The id of the process that serves the session now. Every name is qualified, since its
    /// search_path is not safe yet; and its transaction names its modes: a deferrable one may wait
    /// without end.
    async fn process(&mut self) -> Result<i32, Error> {
        const ASK: &str = "BEGIN ISOLATION LEVEL READ COMMITTED NOT DEFERRABLE;
            SELECT pg_catalog.pg_backend_pid(); COMMIT";
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

/// The id of the process that the server told when the session began. tokio-postgres keeps it for
/// requests to cancel, so it is read from such a request, which goes nowhere.
async fn told_process(client: &Client) -> Option<i32> {
    /// A CancelRequest: its length, its code, the process, the secret; 4 bytes each.
    const REQUEST: usize = 16;
    let (ours, mut theirs) = tokio::io::duplex(64);
    // Where the connection is encrypted, encryption is asked for first, and this is yes.
    theirs.write_all(b"S").await.ok()?;
    client
        .cancel_token()
        .cancel_query_raw(ours, Unencrypted)
        .await
        .ok()?;
    let mut sent = Vec::new();
    theirs.read_to_end(&mut sent).await.ok()?;
    let request = sent.get(sent.len().checked_sub(REQUEST)?..)?;
    let process = <[u8; 4]>::try_from(request.get(8..12)?).ok()?;
    Some(i32::from_be_bytes(process))
}

/// Where a connection asks for encryption, does nothing: what is written stays in memory.
struct Unencrypted;

impl TlsConnect<DuplexStream> for Unencrypted {
    type Stream = InMemory;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<InMemory>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        std::future::ready(Ok(InMemory(stream)))
    }
}

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
