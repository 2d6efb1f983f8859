//! [`Links`]: the three connections of a driver, opened together.

use super::driver::DriverOptions;
use super::error::DriverError;
use super::read::{NO_TIMEOUTS, read_settings};
use super::session::{ConnectError, Connector, Listener, Role, Session};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use tokio_postgres::Client;

/// L, F and Q.
pub(super) struct Links {
    pub(super) listener: Listener,
    pub(super) fences: Arc<Client>,
    pub(super) reads: Arc<Client>,
}

type Opening = Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send>>;

/// A [`Connector`] whose type is not said.
pub(super) type Open = Arc<dyn Fn(Role) -> Opening + Send + Sync>;

/// Makes one of a connector.
pub(super) fn open_with(connector: impl Connector + 'static) -> Open {
    let connector = Arc::new(connector);
    Arc::new(move |role| {
        let connector = Arc::clone(&connector);
        Box::pin(async move { connector.connect(role).await })
    })
}

impl Links {
    /// Connects, prepares the sessions, and LISTENs on `channels`.
    pub(super) async fn open(open: Open, options: &DriverOptions, channels: &[String]) -> Result<Self, DriverError> {
        let connect = async |role| open(role).await.map_err(|source| DriverError::Connect { role, source });
        let (listen, fences, reads) =
            tokio::try_join!(connect(Role::Listen), connect(Role::Fence), connect(Role::Read))?;
        let (fences, reads) = (fences.into_client(), reads.into_client());
        let server = |doing: &str| {
            let doing = doing.to_string();
            move |source| DriverError::Server { doing, source }
        };
        let fence_settings = format!("SET lock_timeout = {}; {NO_TIMEOUTS}", options.lock_timeout.as_millis());
        fences.batch_execute(&fence_settings).await.map_err(server("prepare the connection for fences"))?;
        reads.batch_execute(&read_settings(options)).await.map_err(server("prepare the connection for reading"))?;
        let listener = Listener::open(listen, channels).await.map_err(server("LISTEN"))?;
        Ok(Self { listener, fences: Arc::new(fences), reads: Arc::new(reads) })
    }
}
