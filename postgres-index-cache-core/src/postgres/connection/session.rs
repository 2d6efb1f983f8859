//! [`Session`]: a client with the connection that feeds it, and [`Listener`], a session that
//! LISTENs and is proven to hear.

use crate::postgres::error::chain;
use futures_util::future::poll_fn;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, NoTls, Notification};

/// Why a session could not be had. It says what was tried, on what, and what the server said.
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionPurpose {
    /// L: listens. It must reach the primary itself, not a pooler.
    Listen,
    /// F: sends fences.
    Fence,
    /// Q: reads snapshots.
    Read,
    /// Anything else.
    Command,
}

/// Opens sessions: hosts, passwords, TLS and session settings are the caller's.
pub trait Connector: Send + Sync {
    /// Opens a session for `role`.
    fn connect(
        &self,
        role: SessionPurpose,
    ) -> impl Future<Output = Result<Session, ConnectError>> + Send;
}

impl SessionPurpose {
    /// What it is for, in words.
    pub(in crate::postgres) fn purpose(self) -> &'static str {
        match self {
            Self::Listen => "listening",
            Self::Fence => "fences",
            Self::Read => "reading",
            Self::Command => "commands",
        }
    }

    /// The name of a session of this role in `pg_stat_activity`: the application's, with what it is
    /// for.
    pub fn session_name(self, application: &str) -> String {
        match self {
            Self::Fence => format!("{application} (fences)"),
            Self::Read => format!("{application} (reads)"),
            Self::Listen | Self::Command => application.to_string(),
        }
    }
}

impl SessionPurpose {
    /// Returns `config`, which of several hosts takes the one that can be written to, unless it
    /// says otherwise: LISTEN works on no standby, and after a failover the old primary may be one.
    /// A command takes the first that answers.
    pub fn preferring_the_primary(self, config: &Config) -> Config {
        let mut config = config.clone();
        let has_several = config.get_hosts().len().max(config.get_hostaddrs().len()) > 1;
        let is_open = config.get_target_session_attrs() == TargetSessionAttrs::Any;
        if self != Self::Command && has_several && is_open {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            // A role that is read-only by default can LISTEN all the same; asked for read-write it
            // would be refused.
            let options = config
                .get_options()
                .map(|options| format!("{options} "))
                .unwrap_or_default();
            config.options(format!("{options}-c default_transaction_read_only=off"));
        }
        config
    }
}

/// How long a server is waited for, until it lets us in, unless the configuration says otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server took the connection and then said nothing.
#[derive(Debug, thiserror::Error)]
#[error("the server did not answer within {} s", .0.as_secs_f64())]
struct Silent(Duration);

/// In plaintext, as the configuration says: for a server on this machine, or behind a tunnel. A
/// mode that asks for TLS is an error.
impl Connector for Config {
    async fn connect(&self, role: SessionPurpose) -> Result<Session, ConnectError> {
        let mut config = role.preferring_the_primary(self);
        config.application_name(
            role.session_name(
                self.get_application_name()
                    .unwrap_or("postgres-index-cache"),
            ),
        );
        // Without a bound a port that accepts and says nothing is waited for without end.
        let patience = config
            .get_connect_timeout()
            .copied()
            .unwrap_or(CONNECT_TIMEOUT);
        let connected = tokio::time::timeout(patience, Self::connect(&config, NoTls)).await;
        let (client, connection) = connected.map_err(|_| Silent(patience))??;
        Ok(Session::new(client, connection))
    }
}

/// A connection whose messages can be polled: a [`Connection`] over whatever stream.
pub trait Messages: Send {
    /// The next asynchronous message; `None` at the end of the connection.
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
    /// Sends statements.
    pub client: Client,
    /// Must be polled while a statement runs.
    pub messages: Box<dyn Messages>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// A session of what tokio-postgres returns.
    pub fn new<M: Messages + 'static>(client: Client, connection: M) -> Self {
        Self {
            client,
            messages: Box::new(connection),
        }
    }

    /// Runs a statement while the connection is polled. What arrives beside its answer is dropped.
    pub(in crate::postgres) async fn drive<T>(
        &mut self,
        statement: impl AsyncFnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Self { client, messages } = self;
        while_polled(&mut **messages, statement(client), |_| {}).await
    }

    /// Lets a task drive the connection; its notices and notifications are dropped.
    pub fn into_client(self) -> Client {
        self.into_client_until(async |_| {})
    }

    /// The same, and says why when the connection ends.
    pub(in crate::postgres) fn into_client_until<F>(
        self,
        ended: impl FnOnce(String) -> F + Send + 'static,
    ) -> Client
    where
        F: Future<Output = ()> + Send,
    {
        let mut messages = self.messages;
        tokio::spawn(async move {
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
        self.client
    }
}

/// Awaits a statement while the connection that carries it is polled; `heard` takes the
/// notifications that come meanwhile.
async fn while_polled<T>(
    messages: &mut dyn Messages,
    statement: impl Future<Output = Result<T, Error>>,
    mut heard: impl FnMut(Notification),
) -> Result<T, Error> {
    // Boxed: every future that opens a connection has this one in it.
    let mut statement = Box::pin(statement);
    loop {
        tokio::select! {
            biased;
            done = &mut statement => return done,
            message = poll_fn(|cx| messages.poll_message(cx)) => match message {
                Some(Ok(AsyncMessage::Notification(notification))) => heard(notification),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                // The statement's future says what the end of the connection means.
                None => return statement.await,
            },
        }
    }
}

fn listens(channels: &[String]) -> String {
    channels
        .iter()
        .map(|channel| format!("LISTEN {};", quote_identifier(channel)))
        .collect()
}

/// A session that has LISTENed. It must be polled without pause: see [`Listener::next`].
pub struct Listener {
    client: Arc<Client>,
    messages: Box<dyn Messages>,
    /// What came while a statement ran.
    early: std::collections::VecDeque<Notification>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl Listener {
    /// LISTENs on `channels`, exact names, and takes the shared advisory lock by which `pgic
    /// status` knows listeners.
    ///
    /// # Errors
    /// What the server says: `25006` on a standby.
    pub async fn open(session: Session, channels: &[String]) -> Result<Self, Error> {
        let mut listener = Self {
            client: Arc::new(session.client),
            messages: session.messages,
            early: std::collections::VecDeque::new(),
        };
        let listens = listens(channels);
        // `idle_session_timeout` (PostgreSQL 14 and later) would end a session that only listens.
        // Qualified to the operator: whoever opens it may not have pinned its search_path.
        let settle = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
            WHERE name OPERATOR(pg_catalog.=) 'idle_session_timeout';";
        let lock = format!("SELECT pg_catalog.pg_try_advisory_lock_shared({ADVISORY_KEY})");
        listener
            .execute(&format!("{settle}{listens}{lock}"))
            .await?;
        Ok(listener)
    }

    /// LISTENs on more channels. What it gives is done only while the session is polled, by
    /// [`next`](Self::next) for example.
    ///
    /// # Errors
    /// What the server says, and what ends the session.
    pub fn listen_also(
        &self,
        channels: &[String],
    ) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let client = Arc::clone(&self.client);
        let sql = listens(channels);
        async move { client.batch_execute(&sql).await }
    }

    /// Runs a statement on this session while its messages are polled.
    async fn execute(&mut self, sql: &str) -> Result<(), Error> {
        let Self {
            client,
            messages,
            early,
        } = self;
        while_polled(&mut **messages, client.batch_execute(sql), |notification| {
            early.push_back(notification);
        })
        .await
    }

    /// The next notification; `None` at the end of the connection.
    ///
    /// # Errors
    /// What ended the connection: the server's own word where it had one (`57P01` for a terminated
    /// backend).
    pub async fn next(&mut self) -> Option<Result<Notification, Error>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next), to be polled.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Notification, Error>>> {
        if let Some(early) = self.early.pop_front() {
            return Poll::Ready(Some(Ok(early)));
        }
        Self::poll_socket(&mut *self.messages, cx)
    }

    fn poll_socket(
        messages: &mut dyn Messages,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Notification, Error>>> {
        loop {
            return match messages.poll_message(cx) {
                Poll::Ready(Some(Ok(AsyncMessage::Notification(notification)))) => {
                    Poll::Ready(Some(Ok(notification)))
                }
                Poll::Ready(Some(Ok(_))) => continue,
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            };
        }
    }

    /// Whether a token that `sender` notifies on `channel`, which must be listened to, arrives
    /// within `patience`.
    ///
    /// A pooler in transaction mode takes LISTEN and hears nothing, and a notification of its own
    /// session proves nothing: so it is sent by another one while this is idle. Notifications that
    /// come in between are kept.
    ///
    /// # Errors
    /// What either server says, or the end of this connection.
    pub async fn hears(
        &mut self,
        sender: &Client,
        channel: &str,
        token: &str,
        patience: Duration,
    ) -> Result<bool, Error> {
        let sql = format!(
            "NOTIFY {}, {}",
            quote_identifier(channel),
            quote_literal(token)
        );
        let deadline = tokio::time::sleep(patience);
        let sent = sender.batch_execute(&sql);
        tokio::pin!(deadline, sent);
        let mut is_sent = false;
        let heard = loop {
            tokio::select! {
                () = &mut deadline => break false,
                done = &mut sent, if !is_sent => {
                    done?;
                    is_sent = true;
                }
                notification = poll_fn(|cx| Self::poll_socket(&mut *self.messages, cx)) => match notification {
                    Some(Ok(found)) if found.channel() == channel && found.payload() == token => break true,
                    Some(Ok(found)) => self.early.push_back(found),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(false),
                },
            }
        };
        Ok(heard)
    }
}

/// The key of the shared advisory lock that every listener of this library holds: "pgic" in ASCII.
pub const ADVISORY_KEY: i64 = 0x7067_6963;

/// A name as it stands in SQL.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as it stands in SQL, whatever `standard_conforming_strings` says.
pub fn quote_literal(text: &str) -> String {
    let quoted = format!("'{}'", text.replace('\'', "''"));
    if text.contains('\\') {
        format!("E{}", quoted.replace('\\', "\\\\"))
    } else {
        quoted
    }
}
