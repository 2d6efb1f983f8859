//! [`LogError`]: why something could not be done with a log on NATS.

use super::names::LogNameError;
use std::error::Error;

/// The reason why something could not be done with a log on NATS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] LogNameError),
    /// NATS did not do what was asked for.
    #[error("{tried}")]
    Nats {
        /// The request, with the object that was asked for.
        tried: String,
        /// The answer.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is a stream of the log's name that is not the log's.
    #[error("the stream {stream} is not a log's: its {setting} should be {expected}")]
    Foreign {
        /// Name of the stream.
        stream: String,
        /// The setting that differs.
        setting: &'static str,
        /// The value that a log's stream has.
        expected: String,
    },
    /// The log has the tables of another database.
    #[error(
        "the log has the tables of another database: the stream {stream} is described as \
         {description:?}, and a log of this database as {own:?}"
    )]
    OfAnotherDatabase {
        /// Name of the stream.
        stream: String,
        /// The description of the stream.
        description: String,
        /// The description that a log of this database has.
        own: String,
    },
    /// A part of a snapshot, or the list of them, cannot be read.
    #[error("the snapshot {snapshot} cannot be read: {why}")]
    Snapshot {
        /// Name of the snapshot.
        snapshot: String,
        /// Reason.
        why: String,
    },
    /// A change of rows is longer than a log takes.
    #[error(
        "a change of the table {table} has {bytes} bytes as JSON, and a log takes {most}: leave long \
         columns out with install-triggers --exclude-columns"
    )]
    TooLarge {
        /// The table of the rows.
        table: String,
        /// The size of the change, or of the entry.
        bytes: usize,
        /// The most bytes that a log, or the server, takes.
        most: usize,
    },
}

impl LogError {
    /// Makes a function that adds what was tried to an error of NATS.
    pub(super) fn tried<E>(tried: impl Into<String>) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let tried = tried.into();
        |error| Self::Nats {
            tried,
            source: error.into(),
        }
    }
}
