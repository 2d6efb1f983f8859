//! [`CacheNotificationListener::listen`]: the loop of the hand-driven way.

use crate::listener::CacheNotificationListener;
use crate::postgres::connection::listener::Listener;
use crate::postgres::connection::session::{ConnectError, Connector, SessionPurpose};
use crate::postgres::error_chain::chain;
use futures_util::FutureExt as _;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;

/// The reason why a listener does not listen any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The session could not be opened.
    #[error("open a session to listen: {}", chain(&**.0))]
    Connect(ConnectError),
    /// The server refused LISTEN.
    #[error("LISTEN on the channel {channel}: {}", chain(.error))]
    Refused {
        /// The channel.
        channel: String,
        /// The server's answer.
        error: tokio_postgres::Error,
    },
    /// The tables could not be read.
    #[error("read the tables: {}", chain(&**.0))]
    Load(ConnectError),
    /// The connection was lost; the error of the connection, if there was one. Notifications may have
    /// been missed.
    #[error("the listening session was lost{}", .0.as_ref().map_or_else(String::new, |error| format!(": {}", chain(error))))]
    Lost(Option<tokio_postgres::Error>),
}

impl CacheNotificationListener {
    /// Opens a session, LISTENs on the [channel](Self::channel), runs `load`, and then
    /// [processes](Self::process_notification) every payload until the session is lost. Payloads that
    /// arrive while `load` runs are kept, and processed behind it.
    ///
    /// `load` reads the tables into the caches. It begins when the server listens, so no change falls
    /// between. Call `listen` again after an error: the caches are stale then, until `load` has run.
    /// A [`Replica`](crate::Replica) does all this by itself, and says when its caches are stale.
    ///
    /// ```no_run
    /// # use postgres_index_cache_core::{CacheNotificationListener, Connector};
    /// # async fn read_users() -> Result<(), std::io::Error> { Ok(()) }
    /// # async fn node(listener: CacheNotificationListener, connector: impl Connector) {
    /// loop {
    ///     let Err(lost) = listener.listen(&connector, read_users()).await;
    ///     eprintln!("{lost}; again");
    ///     tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// It ends with an error alone: the session could not be opened, or was lost, or `load` failed.
    pub async fn listen<E: Into<ConnectError>>(
        &self,
        connector: &impl Connector,
        load: impl Future<Output = Result<(), E>>,
    ) -> Result<Infallible, ListenError> {
        let session = connector.connect(SessionPurpose::Listen).await;
        let session = session.map_err(ListenError::Connect)?;
        let channel = self.channel().to_string();
        let mut listener = Listener::open(session, std::slice::from_ref(&channel))
            .await
            .map_err(|error| ListenError::Refused { channel, error })?;
        let mut early = VecDeque::new();
        let mut load = Box::pin(load.fuse());
        loop {
            tokio::select! {
                loaded = &mut load => {
                    loaded.map_err(|error| ListenError::Load(error.into()))?;
                    break;
                }
                notification = listener.next() => early.push_back(arrived(notification)?),
            }
        }
        for payload in early {
            self.process_notification(&payload).await;
        }
        loop {
            let payload = arrived(listener.next().await)?;
            self.process_notification(&payload).await;
        }
    }
}

/// Returns the payload of a notification.
///
/// # Errors
/// If the session was lost instead.
fn arrived(
    next: Option<Result<tokio_postgres::Notification, tokio_postgres::Error>>,
) -> Result<String, ListenError> {
    match next {
        Some(Ok(notification)) => Ok(notification.payload().to_string()),
        Some(Err(error)) => Err(ListenError::Lost(Some(error))),
        None => Err(ListenError::Lost(None)),
    }
}
