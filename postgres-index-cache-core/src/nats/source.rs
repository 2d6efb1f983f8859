//! [`LogSource`]: the database whose tables a log has.
//!
//! The lock of a relay is one of its database, so it does not keep relays of two databases apart.
//! Without the source in the log:
//!
//! 1. A relay of production writes the log `shop`.
//! 2. Somebody starts a relay of a staging database, and calls its log `shop` too.
//! 3. It takes the log over, and publishes what differs: all nodes have the rows of staging, live.

use super::turn_lock::claimed;
use crate::postgres::{Connector, DriverError};
use std::fmt;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row};

/// How long the server may take to open a session and to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// The words before the source in the description of a log's stream.
const BEFORE: &str = "; database ";

/// The database whose tables a log has: the system's identifier, which standbys have too, and the
/// oid and name of the database (manual, 9.27.9 Control Data Functions).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSource {
    system: i64,
    oid: u32,
    name: String,
}

/// The source as it stands in a description: `7423500812345678901.16384 shop`.
impl fmt::Display for LogSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} {}", self.system, self.oid, self.name)
    }
}

/// What is known of the database whose tables a log has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDatabase {
    /// It is the one of the relay.
    Same,
    /// The stream does not say: it was made by hand, or early.
    Unsaid {
        /// Name of the stream.
        stream: String,
        /// The description that a log of the relay's database has.
        own: String,
    },
    /// The relay may not know its own database.
    Unknown,
}

impl LogSource {
    /// The query of the database of a session.
    pub(super) const QUERY: &str = "SELECT s.system_identifier, d.oid, d.datname::pg_catalog.text
        FROM pg_catalog.pg_control_system() s, pg_catalog.pg_database d
        WHERE d.datname = pg_catalog.current_database()";

    /// Asks which database the connector leads to; `None` if the role may not know.
    ///
    /// # Errors
    /// If no session can be had.
    pub(super) async fn of(
        connector: impl Connector + Clone + 'static,
    ) -> Result<Option<Self>, DriverError> {
        let seen = async { Self::seen_by(&claimed(connector).await?).await };
        let seen = tokio::time::timeout(PATIENCE, Box::pin(seen)).await;
        seen.unwrap_or(Err(DriverError::Silent(PATIENCE)))
    }

    /// Asks which database a session is in, as [`of_rows`](Self::of_rows).
    pub(super) async fn seen_by(client: &Client) -> Result<Option<Self>, DriverError> {
        Self::of_rows(client.query_typed(Self::QUERY, &[]).await)
    }

    /// Returns the database that the rows of [`QUERY`](Self::QUERY) name; `None` if the server does
    /// not say: the role may not know, or the server has no such function, as some that are only
    /// like PostgreSQL.
    ///
    /// # Errors
    /// If the query has failed for another reason.
    pub(super) fn of_rows(rows: Result<Vec<Row>, Error>) -> Result<Option<Self>, DriverError> {
        // insufficient_privilege, undefined_function, undefined_table, feature_not_supported
        const UNSAID: [&str; 4] = ["42501", "42883", "42P01", "0A000"];
        match rows {
            Ok(rows) => Ok(rows.first().and_then(|row| {
                Some(Self {
                    system: row.try_get(0).ok()?,
                    oid: row.try_get(1).ok()?,
                    // Not every server's texts are UTF-8.
                    name: row.try_get(2).unwrap_or_default(),
                })
            })),
            Err(source) => {
                let code = source.code().map(SqlState::code);
                if code.is_some_and(|code| UNSAID.contains(&code)) {
                    return Ok(None);
                }
                Err(DriverError::Server {
                    doing: "ask for the identifier of the database".to_string(),
                    source,
                })
            }
        }
    }

    /// Returns whether both are one database, which may have been renamed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.system, self.oid) == (other.system, other.oid)
    }

    /// Returns the description of a stream whose entries are of this database.
    pub(super) fn described(source: Option<&Self>, what: &str) -> String {
        match source {
            Some(source) => format!("{what}{BEFORE}{source}"),
            None => what.to_string(),
        }
    }

    /// Returns whether a log with this description is of another database. The name may have
    /// changed. A description without a source is one of a stream that was made by hand, or early.
    pub(super) fn is_another(&self, description: &str) -> bool {
        numbers_in(description).is_some_and(|numbers| numbers != (self.system, self.oid))
    }

    /// Returns whether a description says of which database a log is.
    pub(super) fn stands_in(description: &str) -> bool {
        numbers_in(description).is_some()
    }
}

/// Returns the system's identifier and the oid of the database that stand in a description.
fn numbers_in(description: &str) -> Option<(i64, u32)> {
    let (_, written) = description.split_once(BEFORE)?;
    let (system, oid) = written.split(' ').next()?.split_once('.')?;
    Some((system.parse().ok()?, oid.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_tells_the_database_whatever_it_is_called() {
        let source = LogSource {
            system: 7_423_500_812_345_678_901,
            oid: 16_384,
            name: "the shop; database 1.1".to_string(),
        };
        let description = LogSource::described(Some(&source), "Changes");
        assert!(!source.is_another(&description), "{description}");
        let renamed = LogSource {
            name: "other".to_string(),
            ..source.clone()
        };
        assert!(!renamed.is_another(&description));
        for another in [
            LogSource {
                oid: 1638,
                ..source.clone()
            },
            LogSource {
                system: 7,
                ..source.clone()
            },
        ] {
            assert!(another.is_another(&description), "{another}");
        }
        assert!(LogSource::stands_in(&description));
        for of_nobody in ["Changes", "Orders; database shop", "; database "] {
            assert!(!source.is_another(of_nobody), "{of_nobody}");
            assert!(!LogSource::stands_in(of_nobody), "{of_nobody}");
        }
    }
}
