//! [`ConnectFailure`]: an attempt to connect that failed, and advice on the reason.

use postgres_index_cache_core::tooling::postgres::sqlstate;

/// The server's code for "too many connections".
const TOO_MANY_CONNECTIONS: &str = "53300";

/// An attempt to connect that failed.
#[derive(Debug, thiserror::Error)]
#[error("connect to {server}")]
pub struct ConnectFailure {
    /// The server, database and role, as people see them. Never a password.
    pub server: String,
    /// The name of the command.
    pub command: &'static str,
    /// The number of sessions that the command has open at once.
    pub sessions: usize,
    /// The reason.
    pub source: pg_connect::ConnectError,
}

impl ConnectFailure {
    /// Returns advice, if the reason is known.
    pub fn hint(&self) -> Option<String> {
        let code = sqlstate::of(&self.source);
        if code == Some(TOO_MANY_CONNECTIONS) {
            let sessions = match self.sessions {
                1 => "1 session".to_string(),
                sessions => format!("{sessions} sessions at once"),
            };
            return Some(format!(
                "pgic {} needs {sessions}: end others, or raise the limit of the server, the \
                database or the role",
                self.command
            ));
        }
        self.source
            .hint()
            .or_else(|| code.and_then(sqlstate::hint).map(str::to_string))
    }

    /// Returns facts that belong to the error.
    pub fn details(&self) -> Vec<String> {
        self.source.details()
    }
}
