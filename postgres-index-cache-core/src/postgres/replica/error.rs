//! [`ReplicaError`]: why a replica could not be opened, or has ended.

#[cfg(feature = "nats")]
use crate::nats::LogError;
use crate::postgres::connection::session::ConnectError;
use crate::postgres::error::DriverError;
use crate::postgres::replica::supervisor::{SupervisorError, Unfollowed};
use crate::postgres::schema::catalog::CatalogError;
use crate::postgres::schema::eligibility::FollowError;
use std::sync::Arc;

/// The reason why a replica could not be opened, or has ended. [`hint`](Self::hint) says what to
/// do, if that is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// A session to look at the tables could not be opened.
    #[error("open a connection to look at the tables")]
    Connect(#[source] ConnectError),
    /// The catalogue could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A table does not exist.
    #[error("the table {0} does not exist: check its name, the database and the search_path")]
    NoTable(String),
    /// A table is named twice. One cache of it is enough.
    #[error("the table {0} is named twice")]
    Twice(String),
    /// A table cannot be followed as it is.
    #[error("{error}{}", advice(.error.hint()))]
    Follow {
        /// The reason.
        error: FollowError,
    },
    /// The key of a table is not one column of type uuid, which the primary key of a model is.
    #[error(
        "the key of {0} is not one column of type uuid: the primary key of a model \
        (HasPrimaryKey) is one"
    )]
    KeyNotUuid(String),
    /// A table has not the columns that the model reads, or has them with other types.
    #[error("{table} does not fit the model {model}: {wrong}")]
    #[non_exhaustive]
    ModelUnfit {
        /// The name of the model's type.
        model: &'static str,
        /// The table.
        table: String,
        /// What is wrong, with fields, columns and types.
        wrong: String,
    },
    /// The triggers of a table leave out updates of columns that they do not send, so no cache of
    /// objects can be kept beside the table.
    #[error(
        "the triggers of {0} leave out updates of columns that they do not send, so objects of its \
        rows would grow old: install them without --on-change, or send all columns"
    )]
    UpdatesLeftOut(String),
    /// Something could not be done with a log on NATS.
    #[cfg(feature = "nats")]
    #[error(transparent)]
    Log(Arc<LogError>),
    /// There is no log of this name on the NATS server.
    #[cfg(feature = "nats")]
    #[error("there is no log {0} on the NATS server: is this its name, and does its relay run?")]
    NoLog(String),
    /// A table is not one of a log's.
    #[cfg(feature = "nats")]
    #[error("the log {log} has no table {table}; it has {has}")]
    #[non_exhaustive]
    NotInLog {
        /// The table that was asked for.
        table: String,
        /// The log.
        log: String,
        /// The tables that the log has.
        has: String,
    },
    /// A name without a schema is that of several tables.
    #[cfg(feature = "nats")]
    #[error("the log {log} has a table {table} in several schemas: name the schema")]
    #[non_exhaustive]
    Ambiguous {
        /// The table that was asked for.
        table: String,
        /// The log.
        log: String,
    },
    /// The rows of a log cannot be kept: they do not fit the models, or take too much memory.
    #[cfg(feature = "nats")]
    #[error("the rows of the log cannot be kept: {0}")]
    NotKept(String),
    /// The connection to NATS was closed by the application.
    #[cfg(feature = "nats")]
    #[error("the connection to NATS was closed")]
    ConnectionClosed,
    /// A replica over a log cannot do what was asked for.
    #[cfg(feature = "nats")]
    #[error("a replica over a log cannot do this: {0}")]
    NotOverLog(&'static str),
    /// The driver cannot go on: the server has refused something, or rows do not fit the model.
    #[error(transparent)]
    Driver(Arc<DriverError>),
    /// A table could not be followed any more while it was opened.
    #[error(transparent)]
    Unfollowed(#[from] Unfollowed),
    /// A table of another replica was asked for.
    #[error(
        "the table is of another replica: each table belongs to the replica whose builder gave it"
    )]
    OtherReplica,
    /// The task that keeps the caches in step panicked, which is a mistake of this library.
    #[error("the task that keeps the caches in step panicked: {0}")]
    Panicked(String),
    /// The replica was shut down, or dropped.
    #[error("the replica was shut down")]
    ShutDown,
}

/// Returns a hint as the end of an error's text: an application that logs the error alone has it.
fn advice(hint: Option<String>) -> String {
    hint.map_or_else(String::new, |hint| format!("; {hint}"))
}

impl ReplicaError {
    /// Returns what to do about the error, if that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Follow { error } => error.hint(),
            Self::Driver(error) => error
                .sqlstate()
                .and_then(crate::postgres::sqlstate::hint)
                .map(str::to_string),
            _ => None,
        }
    }
}

impl From<FollowError> for ReplicaError {
    fn from(error: FollowError) -> Self {
        Self::Follow { error }
    }
}

impl From<SupervisorError> for ReplicaError {
    fn from(error: SupervisorError) -> Self {
        match error {
            SupervisorError::Driver(error) => Self::Driver(Arc::new(error)),
            SupervisorError::Unfollowed(error) => Self::Unfollowed(error),
        }
    }
}
