//! [`ConnectFailure`]: an attempt to connect that failed, and advice on the reason.

use postgres_index_cache_core::tooling::postgres::{ConnectError, sqlstate};
use std::time::Duration;

/// An attempt to connect that failed.
#[derive(Debug, thiserror::Error)]
#[error("connect to {server}")]
pub struct ConnectFailure {
    /// The server, database and role, as people see them. Never a password.
    pub server: String,
    /// [`Silent`], or the error of tokio-postgres.
    pub source: ConnectError,
}

/// The server took the connection of TCP and said nothing within this time.
#[derive(Debug, thiserror::Error)]
#[error("it did not answer within {} s", .0.as_secs_f64())]
pub struct Silent(pub Duration);

impl ConnectFailure {
    /// Returns advice, if the reason is known.
    pub fn hint(&self) -> Option<String> {
        if self.source.is::<Silent>() {
            let hint = "is this a PostgreSQL server's port? To wait longer, set connect_timeout or \
                PGCONNECT_TIMEOUT";
            return Some(hint.to_string());
        }
        self.source.downcast_ref().and_then(connection_hint)
    }
}

/// Returns advice on an error of connecting; `None` if none is known for the server's code.
fn connection_hint(error: &tokio_postgres::Error) -> Option<String> {
    if let Some(code) = sqlstate::of(error) {
        return sqlstate::hint(code).map(str::to_string);
    }
    // tokio-postgres has no code for these two, only a text.
    let cause = std::error::Error::source(error).map_or_else(String::new, ToString::to_string);
    let hint = if cause.contains("password missing") {
        "the server asks for a password: set PGPASSWORD or put it into the URL (password files \
        are not read)"
    } else if cause.contains("does not allow writes") {
        "it is a standby, or read only: name the primary, or another target_session_attrs"
    } else {
        "is the server running, and is this its address? Name it with --database-url, \
        DATABASE_URL or PGHOST and PGPORT"
    };
    Some(hint.to_string())
}
