//! [`Sessions`]: the three connections of a driver. All are opened together; F or Q alone is opened
//! again when it was lost.
//!
//! ```text
//!          ┌─ all, first ─→ Sessions { listener: L, fences: F, reads: Q }
//! Opener ──┤                                 │ F or Q ends: ConnectionEvent::Ended → lose
//!          └─ reopen ─────→ ConnectionEvent::Reopened ─┴─→ reopened
//! ```

use crate::fleet::CONTROL_CHANNEL;
use crate::postgres::connection::claim::{ClaimedSession, claim};
use crate::postgres::connection::listener::Listener;
use crate::postgres::connection::open::{Open, STARTING_PATIENCE, STARTING_RETRY};
use crate::postgres::connection::session::SessionPurpose;
use crate::postgres::connection::settings::{NO_TIMEOUTS, read_settings};
use crate::postgres::connection::traced::Traced;
use crate::postgres::error::DriverError;
use crate::postgres::error_chain::chain;
use crate::postgres::options::DriverOptions;
use crate::postgres::quote::{quote_identifier, quote_literal};
use crate::postgres::sqlstate::Policy;
use crate::sync::{AuxConnection, Failure};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_postgres::Client;

/// What became of a connection. Each opening has a number, the epoch, so that an event of an
/// earlier one is told from the last.
pub(in crate::postgres) enum ConnectionEvent {
    /// All connections are open, and L listens.
    Connected { epoch: u64, sessions: Box<Sessions> },
    /// The connections could not be opened.
    ConnectFailed { epoch: u64, error: DriverError },
    /// F or Q has ended.
    Ended {
        via: AuxConnection,
        epoch: u64,
        why: String,
    },
    /// The session of a side read was opened and heard by L, or was not.
    SideOpened {
        epoch: u64,
        opened: Result<OpenSession, DriverError>,
    },
    /// F or Q was opened again, or could not be.
    Reopened {
        via: AuxConnection,
        epoch: u64,
        opened: Result<OpenSession, DriverError>,
    },
}

/// The client of F or Q.
pub(in crate::postgres) struct AuxClient {
    pub(in crate::postgres) client: Arc<Traced<Client>>,
    /// The number of its opening.
    pub(in crate::postgres) epoch: u64,
}

/// The connections L, F and Q of a driver.
pub(in crate::postgres) struct Sessions {
    pub(in crate::postgres) listener: Listener,
    /// The server's process that serves L.
    pub(in crate::postgres) listening: i32,
    fences: AuxSession,
    reads: AuxSession,
}

/// The open session of F or Q.
#[derive(Clone)]
pub(in crate::postgres) struct OpenSession {
    pub(in crate::postgres) client: Arc<Traced<Client>>,
    /// The id of the server process that serves the session.
    process: i32,
    /// Ends the connection.
    connection: AbortHandle,
}

impl OpenSession {
    /// Ends the connection at once, whatever the server still sends. Nobody is told of the end.
    ///
    /// A client that is dropped takes in the rest of a COPY first, and its transaction keeps the
    /// table's lock as long.
    pub(in crate::postgres) fn cut(&self) {
        self.connection.abort();
    }

    /// Returns the id of the server process that serves the session.
    pub(in crate::postgres) fn process(&self) -> i32 {
        self.process
    }

    /// Returns the client of the session, whose opening has this number.
    pub(in crate::postgres) fn client(&self, epoch: u64) -> AuxClient {
        AuxClient {
            client: Arc::clone(&self.client),
            epoch,
        }
    }
}

impl fmt::Debug for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSession")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// F or Q, which may be lost.
struct AuxSession {
    /// The open session; `None` while it is lost.
    opened: Option<OpenSession>,
    /// The number of the last opening. Each opening has a new number, so that an event of an
    /// earlier session is told from one of this session.
    epoch: u64,
    /// The task that opens the session again.
    opening: Option<JoinHandle<()>>,
}

impl AuxSession {
    fn new(opened: Option<OpenSession>, epoch: u64) -> Self {
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
    pub(in crate::postgres) events: mpsc::Sender<ConnectionEvent>,
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
            let answers = self.options.answers.is_some();
            let mut channels = channels.to_vec();
            channels.extend(answers.then(|| CONTROL_CHANNEL.to_string()));
            let listening = listen.process;
            let listener = Listener::open_as(listen.session, &channels, answers)
                .await
                .map_err(|source| DriverError::Server {
                    doing: "LISTEN".to_string(),
                    source,
                })?;
            Ok(Sessions {
                listener,
                listening,
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

    /// Starts a task that opens a session for side reads, sends `payload` on the fence channel, and
    /// waits until L has heard it from this session. Sends the driver
    /// [`ConnectionEvent::SideOpened`].
    ///
    /// Behind one address there may be several servers. Without the payload:
    /// 1. The session leads to a standby, or to a server that was the primary before.
    /// 2. Rows of some time ago are stored, and the cache is called live.
    pub(in crate::postgres) fn open_side(
        self,
        payload: String,
        heard: oneshot::Receiver<i32>,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            let opened = self.in_time(self.side_session(&payload)).await;
            let waited = self.options.limits.probe_timeout;
            let opened = match opened {
                Ok(opened) => match tokio::time::timeout(waited, heard).await {
                    Ok(Ok(sender)) if sender == opened.process => Ok(opened),
                    // Nothing came in time, or somebody has repeated what was sent elsewhere.
                    Ok(_) | Err(_) => Err(DriverError::Failed(Failure::ProbeLost {
                        via: AuxConnection::Reads,
                        waited,
                    })),
                },
                Err(error) => Err(error),
            };
            let epoch = self.epoch;
            // If the driver is gone, nobody waits for this event.
            let _ = self
                .events
                .send(ConnectionEvent::SideOpened { epoch, opened })
                .await;
        })
    }

    /// Opens a session for side reads, and sends `payload` by it.
    async fn side_session(&self, payload: &str) -> Result<OpenSession, DriverError> {
        let opened = self.open_aux(AuxConnection::Reads).await?;
        let notify = format!(
            "NOTIFY {}, {}",
            quote_identifier(&self.options.fence_channel),
            quote_literal(payload)
        );
        opened
            .client
            .batch_execute(&notify)
            .await
            .map_err(|source| DriverError::Server {
                doing: "send a token".to_string(),
                source,
            })?;
        Ok(opened)
    }

    /// Opens and prepares F or Q. When the session ends, the driver gets
    /// [`ConnectionEvent::Ended`].
    pub(in crate::postgres) async fn open_aux(
        &self,
        via: AuxConnection,
    ) -> Result<OpenSession, DriverError> {
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
        let (client, connection) = claimed.session.into_client_until(async move |why| {
            // If the driver is gone, nobody waits for this event.
            let _ = events
                .send(ConnectionEvent::Ended { via, epoch, why })
                .await;
        });
        let client = Traced::new(client, role);
        client
            .batch_execute(&settings)
            .await
            .map_err(|source| DriverError::Server {
                doing: format!("prepare the connection for {what}"),
                source,
            })?;
        Ok(OpenSession {
            client: Arc::new(client),
            process: claimed.process,
            connection,
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

    /// Returns the client of F or Q; `None` while it is lost.
    pub(in crate::postgres) fn client(&self, via: AuxConnection) -> Option<AuxClient> {
        let aux = self.aux(via);
        let opened = aux.opened.as_ref()?;
        Some(opened.client(aux.epoch))
    }

    /// Drops the session of F or Q, which was lost.
    pub(in crate::postgres) fn lose(&mut self, via: AuxConnection) {
        self.aux_mut(via).opened = None;
    }

    /// Starts a task that opens F or Q again and sends the driver [`ConnectionEvent::Reopened`].
    pub(in crate::postgres) fn reopen(&mut self, via: AuxConnection, opener: Opener) {
        let aux = self.aux_mut(via);
        // An earlier attempt may still be running. Its answer has the old number, and is ignored.
        aux.epoch = opener.epoch;
        aux.opening = Some(tokio::spawn(async move {
            let opened = opener.in_time(opener.open_aux(via)).await;
            // If the driver is gone, nobody waits for this event.
            let _ = opener
                .events
                .send(ConnectionEvent::Reopened {
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
        opened: OpenSession,
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
