//! [`Session`]: a client with the connection that feeds it; [`Connector`], which opens one.

use crate::postgres::error_chain::chain;
use futures_util::future::poll_fn;
use std::fmt;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, NoTls, Notification};

/// The reason why no session could be opened. Its text says which step failed, on which host, and
/// the server's answer.
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// The purpose of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionPurpose {
    /// L, which listens. The session must reach the primary itself, not a pooler.
    Listen,
    /// F, which sends fences.
    Fence,
    /// Q, which reads snapshots.
    Read,
    /// Any other session, for example one in which tables are described.
    Command,
}

/// An opener of sessions. Hosts, passwords, TLS and session settings are the implementer's concern.
pub trait Connector: Send + Sync {
    /// Opens a session for `role`.
    fn connect(
        &self,
        role: SessionPurpose,
    ) -> impl Future<Output = Result<Session, ConnectError>> + Send;
}

impl SessionPurpose {
    /// Returns the purpose in a word, for errors and traces.
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Listen => "listening",
            Self::Fence => "fences",
            Self::Read => "reading",
            Self::Command => "commands",
        }
    }

    /// Returns the `application_name` of a session for this purpose: `application`, followed by the
    /// purpose if the session is F or Q.
    pub fn session_name(self, application: &str) -> String {
        match self {
            Self::Fence => format!("{application} (fences)"),
            Self::Read => format!("{application} (reads)"),
            Self::Listen | Self::Command => application.to_string(),
        }
    }
}

impl SessionPurpose {
    /// Returns `config`, changed to choose the host that accepts writes if `config` names several.
    /// LISTEN works on no standby, and after a failover the old primary may be one.
    ///
    /// A configuration that sets `target_session_attrs` itself is left alone. A
    /// [`Command`](Self::Command) takes the first host that answers.
    pub fn preferring_the_primary(self, config: &Config) -> Config {
        let mut config = config.clone();
        let has_several = config.get_hosts().len().max(config.get_hostaddrs().len()) > 1;
        let is_open = config.get_target_session_attrs() == TargetSessionAttrs::Any;
        if self != Self::Command && has_several && is_open {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            // A role with `default_transaction_read_only` can LISTEN all the same. Without this
            // option, its sessions would not count as read-write, and every host would be refused.
            let options = config
                .get_options()
                .map(|options| format!("{options} "))
                .unwrap_or_default();
            config.options(format!("{options}-c default_transaction_read_only=off"));
        }
        config
    }
}

/// How long a connection attempt may take, up to the login, if the configuration does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The error for a server that accepted the connection and then sent nothing for this long.
#[derive(Debug, thiserror::Error)]
#[error("the server did not answer within {} s", .0.as_secs_f64())]
struct Silent(Duration);

/// Connects in plaintext, as the configuration says: for a server on this machine or behind a
/// tunnel. An `sslmode` that requires TLS is an error.
impl Connector for Config {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        let mut config = role.preferring_the_primary(self);
        config.application_name(
            role.session_name(
                self.get_application_name()
                    .unwrap_or("postgres-index-cache"),
            ),
        );
        // tokio-postgres bounds only the TCP connection. A port that accepts it and then sends
        // nothing would be waited for without end.
        let patience = config
            .get_connect_timeout()
            .copied()
            .unwrap_or(CONNECT_TIMEOUT);
        let connected = tokio::time::timeout(patience, Self::connect(&config, NoTls)).await;
        let (client, connection) = connected.map_err(|_| Silent(patience))??;
        Ok(Session::new(client, connection))
    }
}

/// A connection whose messages can be polled: a [`Connection`] over any stream.
pub trait Messages: Send {
    /// Polls for the next asynchronous message; `None` at the end of the connection.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>>;
}

impl<S, T> Messages for Connection<S, T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    T: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<AsyncMessage, Error>>> {
        Connection::poll_message(self, cx)
    }
}

/// A client and the connection that must be polled for it to work.
pub struct Session {
    /// The handle that sends statements.
    pub client: Client,
    /// The connection, which must be polled while a statement runs.
    pub messages: Box<dyn Messages>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Creates a session from the client and the connection that tokio-postgres returns.
    pub fn new<M: Messages + 'static>(client: Client, connection: M) -> Self {
        Self {
            client,
            messages: Box::new(connection),
        }
    }

    /// Runs a statement while the connection is polled. Notices and notifications that arrive
    /// meanwhile are dropped.
    pub(in crate::postgres) async fn drive<T>(
        &mut self,
        statement: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Self { client, messages } = self;
        while_polled(&mut **messages, statement(client), |_| {}).await
    }

    /// Spawns a task that drives the connection, and returns the client. Notices and notifications
    /// are dropped.
    pub fn into_client(self) -> Client {
        let (client, _) = self.into_client_until(async |_| {});
        client
    }

    /// Spawns a task that drives the connection, as [`into_client`](Self::into_client) does. When
    /// the connection ends, the task calls `ended` with the reason. Also returns the handle that
    /// aborts the task, and the connection with it.
    pub(in crate::postgres) fn into_client_until<F>(
        self,
        ended: impl FnOnce(String) -> F + Send + 'static,
    ) -> (Client, AbortHandle)
    where
        F: Future<Output = ()> + Send,
    {
        let mut messages = self.messages;
        let task = tokio::spawn(async move {
            let mut why = "the server closed the connection".to_string();
            while let Some(message) = poll_fn(|cx| messages.poll_message(cx)).await {
                if let Err(error) = message {
                    tracing::debug!(%error, "connection ended");
                    why = chain(&error);
                    break;
                }
            }
            ended(why).await;
        });
        (self.client, task.abort_handle())
    }
}

/// Awaits a statement while the connection that carries it is polled. `heard` is called with each
/// notification that arrives meanwhile.
///
/// A [`Client`] only queues what it sends: without the polling, nothing would reach the server, and
/// the statement would be awaited without end.
pub(super) async fn while_polled<T>(
    messages: &mut dyn Messages,
    statement: impl Future<Output = Result<T, Error>>,
    mut heard: impl FnMut(Notification),
) -> Result<T, Error> {
    // Boxed, since every future that opens a connection contains this one and would grow by it.
    let mut statement = Box::pin(statement);
    loop {
        tokio::select! {
            // Once the statement is done, the connection is not polled again here: messages behind
            // the answer stay for its next reader.
            biased;
            done = &mut statement => return done,
            message = poll_fn(|cx| messages.poll_message(cx)) => match message {
                Some(Ok(AsyncMessage::Notification(notification))) => heard(notification),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                // The connection has ended without an error of its own: the statement's future
                // knows whether it was answered before, or fails as closed.
                None => return statement.await,
            },
        }
    }
}
