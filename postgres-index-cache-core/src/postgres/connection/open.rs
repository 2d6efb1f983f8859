//! [`Open`]: the opening of one session, by a [`Connector`] whose type is erased. Also the patience
//! with a server that is starting.

use crate::postgres::connection::session::{ConnectError, Connector, Session, SessionPurpose};
use crate::postgres::sqlstate::{self, Policy};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The longest time to wait for a server that is starting.
pub const STARTING_PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two attempts to connect to a server that is starting.
pub const STARTING_RETRY: Duration = Duration::from_millis(200);

/// The opening of one session, as a future.
type Opening = Pin<Box<dyn Future<Output = Result<Session, ConnectError>> + Send>>;

/// A [`Connector`] whose type is erased.
pub(in crate::postgres) type Open = Arc<dyn Fn(SessionPurpose) -> Opening + Send + Sync>;

/// Opens a session. If the server is starting, tries again for up to [`STARTING_PATIENCE`].
///
/// # Errors
/// The error of the last attempt.
pub(in crate::postgres) async fn open_patiently(
    open: &Open,
    role: SessionPurpose,
) -> Result<Session, ConnectError> {
    // A server that is starting accepts connections only to refuse them. Other errors, for example
    // of a wrong password, would come again, and are the caller's at once.
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
        // The future may outlive this call, so it holds the connector too.
        let connector = Arc::clone(&connector);
        Box::pin(async move { connector.connect(role).await })
    })
}
