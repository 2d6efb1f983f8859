//! [`Sessions`]: the three connections of a driver, opened together; F and Q are opened alone as well.

use crate::postgres::connection::claim::claim;
use crate::postgres::connection::session::{
    ConnectError, Connector, Listener, Session, SessionPurpose,
};
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

/// How long a server that is starting is waited for.
pub const STARTING_PATIENCE: Duration = Duration::from_secs(30);
/// How often such a server is asked.
pub const STARTING_RETRY: Duration = Duration::from_millis(200);

type Opening = Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send>>;

/// A [`Connector`] whose type is not said.
pub(in crate::postgres) type Open = Arc<dyn Fn(SessionPurpose) -> Opening + Send + Sync>;

/// Opens a session; a server that is starting is waited for.
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

fn is_starting(error: &ConnectError) -> bool {
    let error: &(dyn std::error::Error + 'static) = error.as_ref();
    sqlstate::of(error).is_some_and(|code| sqlstate::policy(Some(code)) == Policy::Starting)
}

/// Makes one of a connector.
pub(in crate::postgres) fn open_with(connector: impl Connector + 'static) -> Open {
    let connector = Arc::new(connector);
    Arc::new(move |role| {
        let connector = Arc::clone(&connector);
        Box::pin(async move { connector.connect(role).await })
    })
}

/// L, F and Q.
pub(in crate::postgres) struct Sessions {
    pub(in crate::postgres) listener: Listener,
    fences: AuxSession,
    reads: AuxSession,
}

/// F or Q, open.
#[derive(Clone)]
pub(in crate::postgres) struct OpenedSessions {
    client: Arc<Client>,
    /// The server's process that serves it.
    process: i32,
}

/// F or Q, which may be lost.
struct AuxSession {
    opened: Option<OpenedSessions>,
    /// Tells it from those before: every opening has a number of its own.
    epoch: u64,
    opening: Option<JoinHandle<()>>,
}

impl Drop for AuxSession {
    fn drop(&mut self) {
        self.opening.take().inspect(JoinHandle::abort);
    }
}

/// How connections are opened, and who is told of their ends.
#[derive(Clone)]
pub(in crate::postgres) struct Opener {
    pub(in crate::postgres) open: Open,
    pub(in crate::postgres) options: DriverOptions,
    pub(in crate::postgres) events: mpsc::Sender<Event>,
    pub(in crate::postgres) epoch: u64,
    /// Whether there is anything to read: otherwise Q is not opened.
    pub(in crate::postgres) reads: bool,
}

impl Opener {
    /// Connects, prepares the sessions, and LISTENs on `channels`. It does not wait without end: a
    /// link that swallows everything takes a connection as well.
    pub(in crate::postgres) async fn all(
        &self,
        channels: &[String],
    ) -> Result<Sessions, DriverError> {
        self.in_time(async {
            let reads = async {
                if self.reads {
                    self.side(AuxConnection::Reads).await.map(Some)
                } else {
                    Ok(None)
                }
            };
            let (listen, fences, reads) = tokio::try_join!(
                self.session(SessionPurpose::Listen),
                self.side(AuxConnection::Fences),
                reads
            )?;
            let server = |source| DriverError::Server {
                doing: "LISTEN".to_string(),
                source,
            };
            let (listen, _) = listen;
            let listener = Listener::open(listen, channels).await.map_err(server)?;
            let side = |opened| AuxSession {
                opened,
                epoch: self.epoch,
                opening: None,
            };
            Ok(Sessions {
                listener,
                fences: side(Some(fences)),
                reads: side(reads),
            })
        })
        .await
    }

    /// The same for the very first time: a server that is starting is waited for.
    pub(in crate::postgres) async fn first(
        &self,
        channels: &[String],
    ) -> Result<Sessions, DriverError> {
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

    async fn in_time<T>(
        &self,
        opening: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, DriverError> {
        let patience = self.options.limits.fence_timeout;
        tokio::time::timeout(patience, opening)
            .await
            .unwrap_or(Err(DriverError::Silent(patience)))
    }

    /// A session that is proven to be ours, and safe.
    async fn session(&self, role: SessionPurpose) -> Result<(Session, i32), DriverError> {
        let session = (self.open)(role)
            .await
            .map_err(|source| DriverError::Connect { role, source })?;
        claim(&self.open, role, session)
            .await
            .map_err(|source| DriverError::Claim { role, source })
    }

    /// F or Q, prepared. When it ends the driver is told.
    async fn side(&self, via: AuxConnection) -> Result<OpenedSessions, DriverError> {
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
        let (session, process) = self.session(role).await?;
        let client = session.into_client_until(async move |why| {
            // A driver that is gone wants to hear nothing.
            let _ = events.send(Event::Ended { via, epoch, why }).await;
        });
        let server = |source| DriverError::Server {
            doing: format!("prepare the connection for {what}"),
            source,
        };
        client.batch_execute(&settings).await.map_err(server)?;
        Ok(OpenedSessions {
            client: Arc::new(client),
            process,
        })
    }
}

impl Sessions {
    fn side(&mut self, via: AuxConnection) -> &mut AuxSession {
        match via {
            AuxConnection::Fences => &mut self.fences,
            AuxConnection::Reads => &mut self.reads,
        }
    }

    /// F or Q with its number; `None` while it is lost.
    pub(in crate::postgres) fn client(&self, via: AuxConnection) -> Option<(Arc<Client>, u64)> {
        let side = match via {
            AuxConnection::Fences => &self.fences,
            AuxConnection::Reads => &self.reads,
        };
        side.opened
            .as_ref()
            .map(|opened| (Arc::clone(&opened.client), side.epoch))
    }

    /// F or Q is lost.
    pub(in crate::postgres) fn lose(&mut self, via: AuxConnection) {
        self.side(via).opened = None;
    }

    /// Opens F or Q anew.
    pub(in crate::postgres) fn reopen(&mut self, via: AuxConnection, opener: Opener) {
        let side = self.side(via);
        side.epoch = opener.epoch;
        side.opening = Some(tokio::spawn(async move {
            let opened = opener.in_time(opener.side(via)).await;
            // A driver that is gone wants to hear nothing.
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

    /// F or Q is open again, if that is still wanted.
    pub(in crate::postgres) fn reopened(
        &mut self,
        via: AuxConnection,
        epoch: u64,
        opened: OpenedSessions,
    ) {
        let side = self.side(via);
        if side.epoch == epoch {
            side.opened = Some(opened);
        }
    }

    /// Whether this process of the server serves F or Q.
    pub(in crate::postgres) fn are_served_by(&self, process: i32) -> bool {
        [&self.fences, &self.reads]
            .into_iter()
            .flat_map(|side| &side.opened)
            .any(|opened| opened.process == process)
    }

    /// Whether a number is that of F or Q.
    pub(in crate::postgres) fn is_current(&self, via: AuxConnection, epoch: u64) -> bool {
        match via {
            AuxConnection::Fences => self.fences.epoch == epoch,
            AuxConnection::Reads => self.reads.epoch == epoch,
        }
    }
}
