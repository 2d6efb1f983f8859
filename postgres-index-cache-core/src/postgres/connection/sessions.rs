//! [`Sessions`]: the three connections of a driver. All are opened together; F or Q alone is opened
//! again when it was lost.
//!
//! ```text
//!          ┌─ all, first ─→ Sessions { listener: L, fences: F, reads: Q }
//! Opener ──┤                                 │ F or Q ends: Event::Ended → lose
//!          └─ reopen ─────→ Event::Reopened ─┴─→ reopened
//! ```

use crate::postgres::connection::claim::{ClaimedSession, claim};
use crate::postgres::connection::listener::Listener;
use crate::postgres::connection::session::{ConnectError, Connector, Session, SessionPurpose};
use crate::postgres::driver::{DriverOptions, Event};
use crate::postgres::error::{DriverError, chain};
use crate::postgres::read::task::{NO_TIMEOUTS, read_settings};
use crate::postgres::sqlstate::{self, Policy};
use crate::sync::AuxConnection;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// How long to wait for a server that is starting.
pub const STARTING_PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two attempts to connect to a server that is starting.
pub const STARTING_RETRY: Duration = Duration::from_millis(200);

/// The opening of one session, as a future.
type Opening = Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send>>;

/// A [`Connector`] whose type is erased.
pub(in crate::postgres) type Open = Arc<dyn Fn(SessionPurpose) -> Opening + Send + Sync>;

/// Opens a session. If the server is starting, tries again for up to [`STARTING_PATIENCE`].
pub(in crate::postgres) async fn open_patiently(
    open: &Open,
    role: SessionPurpose,
) -> Result<Session, ConnectError> {
    let give_up = tokio::time::Instant::now() + STARTING_PATIENCE;
    loop {
        match open(role).await {
            Err(error) if is_starting(&error) && tokio::time::Instant::now() < give_up => {
                tokio::time::sleep(STARTING_RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// Returns whether the server refused a connection because it is starting.
fn is_starting(error: &ConnectError) -> bool {
    let error: &(dyn std::error::Error + 'static) = error.as_ref();
    sqlstate::of(error).is_some_and(|code| sqlstate::policy(Some(code)) == Policy::Starting)
}

/// Erases the type of a connector.
pub(in crate::postgres) fn open_with(connector: impl Connector + 'static) -> Open {
    let connector = Arc::new(connector);
    Arc::new(move |role| {
        let connector = Arc::clone(&connector);
        Box::pin(async move { connector.connect(role).await })
    })
}

/// The connections L, F and Q of a driver.
pub(in crate::postgres) struct Sessions {
    pub(in crate::postgres) listener: Listener,
    fences: AuxSession,
    reads: AuxSession,
}

/// The open session of F or Q.
#[derive(Clone)]
pub(in crate::postgres) struct OpenedSessions {
    client: Arc<Client>,
    /// The id of the server process that serves the session.
    process: i32,
}

/// F or Q, which may be lost.
struct AuxSession {
    /// The open session; `None` while it is lost.
    opened: Option<OpenedSessions>,
    /// The number of the last opening. Each opening has a new number, so that an event of an
    /// earlier session is told from one of this session.
    epoch: u64,
    /// The task that opens the session again.
    opening: Option<JoinHandle<()>>,
}

impl AuxSession {
    fn new(opened: Option<OpenedSessions>, epoch: u64) -> Self {
        Self {
            opened,
            epoch,
            opening: None,
        }
    }
}

impl Drop for AuxSession {
    fn drop(&mut self) {
        self.opening.take().inspect(JoinHandle::abort);
    }
}

/// Opens connections, and sends the driver an event when one of them ends.
#[derive(Clone)]
pub(in crate::postgres) struct Opener {
    pub(in crate::postgres) open: Open,
    pub(in crate::postgres) options: DriverOptions,
    /// The driver's channel, which takes the events.
    pub(in crate::postgres) events: mpsc::Sender<Event>,
    /// The number that the opened connections get.
    pub(in crate::postgres) epoch: u64,
    /// Whether there are tables to read. Q is opened only if there are.
    pub(in crate::postgres) reads: bool,
}

impl Opener {
    /// Opens and prepares L, F and, if there are tables to read, Q; then LISTENs on `channels`.
    ///
    /// Gives up after the engine's `fence_timeout`: a network path that swallows all data may
    /// accept a connection nevertheless.
    pub(in crate::postgres) async fn all(
        &self,
        channels: &[String],
    ) -> Result<Sessions, DriverError> {
        self.in_time(async {
            let reads = async {
                if self.reads {
                    self.open_aux(AuxConnection::Reads).await.map(Some)
                } else {
                    Ok(None)
                }
            };
            // Side by side: each takes several round trips, and none needs an answer of another.
            let (listen, fences, reads) = tokio::try_join!(
                self.open_claimed(SessionPurpose::Listen),
                self.open_aux(AuxConnection::Fences),
                reads
            )?;
            let listener = Listener::open(listen.session, channels)
                .await
                .map_err(|source| DriverError::Server {
                    doing: "LISTEN".to_string(),
                    source,
                })?;
            Ok(Sessions {
                listener,
                fences: AuxSession::new(Some(fences), self.epoch),
                reads: AuxSession::new(reads, self.epoch),
            })
        })
        .await
    }

    /// Opens all connections for the very first time, as [`all`](Self::all) does. If the server is
    /// starting, tries again for up to [`STARTING_PATIENCE`].
    pub(in crate::postgres) async fn first(
        &self,
        channels: &[String],
    ) -> Result<Sessions, DriverError> {
        // Only the first connection waits here. Later ones are tried again by the engine, after a
        // random while.
        let give_up = tokio::time::Instant::now() + STARTING_PATIENCE;
        loop {
            match self.all(channels).await {
                Err(error)
                    if error.policy() == Policy::Starting
                        && tokio::time::Instant::now() < give_up =>
                {
                    tracing::info!(
                        error = chain(&error),
                        "the server is starting; waiting for it"
                    );
                    tokio::time::sleep(STARTING_RETRY).await;
                }
                opened => return opened,
            }
        }
    }

    /// Awaits `opening`, and fails with [`DriverError::Silent`] after the engine's `fence_timeout`.
    async fn in_time<T>(
        &self,
        opening: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, DriverError> {
        let patience = self.options.limits.fence_timeout;
        tokio::time::timeout(patience, opening)
            .await
            .unwrap_or(Err(DriverError::Silent(patience)))
    }

    /// Opens a session, proves that it is ours, and makes it safe.
    async fn open_claimed(&self, role: SessionPurpose) -> Result<ClaimedSession, DriverError> {
        let session = (self.open)(role)
            .await
            .map_err(|source| DriverError::Connect { role, source })?;
        claim(&self.open, role, session)
            .await
            .map_err(|source| DriverError::Claim { role, source })
    }

    /// Opens and prepares F or Q. When the session ends, the driver gets [`Event::Ended`].
    async fn open_aux(&self, via: AuxConnection) -> Result<OpenedSessions, DriverError> {
        // On F, `lock_timeout` bounds the wait for the notify lock, which each commit that notifies
        // holds. `statement_timeout` does not end that wait.
        let lock_timeout = self.options.lock_timeout.as_millis();
        let (role, what, settings) = match via {
            AuxConnection::Fences => (
                SessionPurpose::Fence,
                "fences",
                format!("SET lock_timeout = {lock_timeout}; {NO_TIMEOUTS}"),
            ),
            AuxConnection::Reads => (
                SessionPurpose::Read,
                "reading",
                read_settings(&self.options),
            ),
        };
        let events = self.events.clone();
        let epoch = self.epoch;
        // The settings come after the claim: before it, the session may be another client's.
        let claimed = self.open_claimed(role).await?;
        let client = claimed.session.into_client_until(async move |why| {
            // If the driver is gone, nobody waits for this event.
            let _ = events.send(Event::Ended { via, epoch, why }).await;
        });
        client
            .batch_execute(&settings)
            .await
            .map_err(|source| DriverError::Server {
                doing: format!("prepare the connection for {what}"),
                source,
            })?;
        Ok(OpenedSessions {
            client: Arc::new(client),
            process: claimed.process,
        })
    }
}

impl Sessions {
    fn aux(&self, via: AuxConnection) -> &AuxSession {
        match via {
            AuxConnection::Fences => &self.fences,
            AuxConnection::Reads => &self.reads,
        }
    }

    fn aux_mut(&mut self, via: AuxConnection) -> &mut AuxSession {
        match via {
            AuxConnection::Fences => &mut self.fences,
            AuxConnection::Reads => &mut self.reads,
        }
    }

    /// Returns the client of F or Q with the number of its opening; `None` while it is lost.
    pub(in crate::postgres) fn client(&self, via: AuxConnection) -> Option<(Arc<Client>, u64)> {
        let aux = self.aux(via);
        let opened = aux.opened.as_ref()?;
        Some((Arc::clone(&opened.client), aux.epoch))
    }

    /// Drops the session of F or Q, which was lost.
    pub(in crate::postgres) fn lose(&mut self, via: AuxConnection) {
        self.aux_mut(via).opened = None;
    }

    /// Starts a task that opens F or Q again and sends the driver [`Event::Reopened`].
    pub(in crate::postgres) fn reopen(&mut self, via: AuxConnection, opener: Opener) {
        let aux = self.aux_mut(via);
        // An earlier attempt may still be running. Its answer has the old number, and is ignored.
        aux.epoch = opener.epoch;
        aux.opening = Some(tokio::spawn(async move {
            let opened = opener.in_time(opener.open_aux(via)).await;
            // If the driver is gone, nobody waits for this event.
            let _ = opener
                .events
                .send(Event::Reopened {
                    via,
                    epoch: opener.epoch,
                    opened,
                })
                .await;
        }));
    }

    /// Takes the new session of F or Q. A session of an earlier opening than the last is dropped.
    pub(in crate::postgres) fn reopened(
        &mut self,
        via: AuxConnection,
        epoch: u64,
        opened: OpenedSessions,
    ) {
        let aux = self.aux_mut(via);
        if aux.epoch == epoch {
            aux.opened = Some(opened);
        }
    }

    /// Returns whether `process`, the id of a server process, serves F or Q.
    pub(in crate::postgres) fn are_served_by(&self, process: i32) -> bool {
        [&self.fences, &self.reads]
            .into_iter()
            .flat_map(|aux| &aux.opened)
            .any(|opened| opened.process == process)
    }

    /// Returns whether `epoch` is the number of the last opening of F or Q.
    pub(in crate::postgres) fn is_current(&self, via: AuxConnection, epoch: u64) -> bool {
        self.aux(via).epoch == epoch
    }
}
