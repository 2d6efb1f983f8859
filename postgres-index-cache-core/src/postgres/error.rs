//! [`DriverError`] and [`ReadError`]: what was tried, on what, and what the server or the engine
//! said.

use crate::postgres::connection::claim::ClaimError;
use crate::postgres::connection::session::{ConnectError, SessionPurpose};
use crate::postgres::read::copy::CopyError;
use crate::postgres::sqlstate::{self, Policy};
use crate::sync::Failure;
use crate::table_cache::{RowError, StoreError};

/// Why a driver cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// A session could not be had.
    #[error("open the connection for {}", role.purpose())]
    Connect {
        /// What it is for.
        role: SessionPurpose,
        /// What went wrong.
        source: ConnectError,
    },
    /// The session for this is not its own: LISTEN, and whatever else is set on it, would be
    /// somebody else's.
    #[error("open the connection for {}", role.purpose())]
    Claim {
        /// What it is for.
        role: SessionPurpose,
        /// Why.
        source: ClaimError,
    },
    /// The server took the connections and then said nothing.
    #[error("the connections were not there within {} s", .0.as_secs_f64())]
    Silent(std::time::Duration),
    /// The engine gave up.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The server refused a statement.
    #[error("{doing}")]
    Server {
        /// What was tried.
        doing: String,
        /// What the server said.
        source: tokio_postgres::Error,
    },
    /// A snapshot is not what was asked for.
    #[error("read a snapshot of {table}")]
    Snapshot {
        /// The table.
        table: String,
        /// What is wrong with it.
        source: ReadError,
    },
    /// It has failed before.
    #[error("the connections of this driver have ended; open another")]
    Ended,
    /// A row is longer than the memory allows; it was not read.
    #[error(
        "a row of {table} has more than {longest} bytes, which is too much for the memory that the \
        cache may take"
    )]
    RowTooLong {
        /// The table.
        table: String,
        /// How many bytes a row may have.
        longest: usize,
    },
    /// To read the table would run somebody else's function with this role's rights.
    #[error(
        "reading {table} would run {function}, a function of {owner}, with the rights of this \
        role, which is a superuser"
    )]
    CodeOfOthers {
        /// The table.
        table: String,
        /// The function.
        function: String,
        /// Who owns it.
        owner: String,
    },
    /// The caches would take more memory than they may.
    #[error(
        "the cache takes {used} bytes after {rows} rows of {table}, more than the {allowed} it may"
    )]
    Memory {
        /// The table being read.
        table: String,
        /// How many of its rows are loaded.
        rows: usize,
        /// What the caches take.
        used: usize,
        /// What they may take.
        allowed: usize,
    },
}

/// What can be wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream is not one of COPY.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A row is not of the table's shape.
    #[error(transparent)]
    RowError(#[from] RowError),
    /// A row could not be stored.
    #[error(transparent)]
    CacheWriter(#[from] StoreError),
    /// The table's definition was changed, so that its rows are others than were expected.
    #[error("its definition was changed: {0}")]
    Altered(String),
    /// The table was dropped or renamed while it was read, and another may have its name.
    #[error("the table was dropped or renamed, or another has its name")]
    Renamed,
    /// Rows that are read again by their keys take too much memory at once.
    #[error("the rows to be read again take more memory than they may")]
    TooMuch,
    /// `pg_current_snapshot()` is not understood.
    #[error("{0}")]
    Snapshot(String),
}

impl DriverError {
    /// The server's error code, where it is the server that refused.
    pub fn sqlstate(&self) -> Option<&str> {
        sqlstate::of(self)
    }

    /// Whether the table that was read is not the one that was described: it is gone, renamed, or
    /// altered.
    pub(super) fn is_of_another_table(&self) -> bool {
        match self {
            Self::Snapshot {
                source: ReadError::Renamed | ReadError::Altered(_),
                ..
            } => true,
            Self::Server { .. } => matches!(self.sqlstate(), Some("42P01" | "3F000" | "42703")),
            Self::Snapshot { .. }
            | Self::Connect { .. }
            | Self::Claim { .. }
            | Self::Silent(_)
            | Self::Failed(_)
            | Self::Ended
            | Self::RowTooLong { .. }
            | Self::CodeOfOthers { .. }
            | Self::Memory { .. } => false,
        }
    }

    /// The code that counts when it comes again and again, and whether to try again is of no use.
    pub(super) fn verdict(&self) -> (Option<String>, bool) {
        let policy = self.policy();
        let code =
            (policy == Policy::Counted).then(|| self.sqlstate().unwrap_or_default().to_string());
        (code, policy == Policy::Refused)
    }

    /// What is to be done about it: one pure function of the error.
    pub(super) fn policy(&self) -> Policy {
        match self {
            // What is kept is not what the server has, or more than may be kept: the next time is
            // no better.
            Self::Snapshot { .. }
            | Self::Memory { .. }
            | Self::RowTooLong { .. }
            | Self::CodeOfOthers { .. }
            | Self::Ended
            | Self::Failed(_)
            | Self::Claim {
                source: ClaimError::Shared,
                ..
            } => Policy::Refused,
            Self::Silent(_) => Policy::Lost,
            Self::Connect { .. } | Self::Claim { .. } | Self::Server { .. } => {
                sqlstate::policy(self.sqlstate())
            }
        }
    }
}

/// Whether an error to connect, or to look at tables, passes by itself: the server was not there,
/// let nobody in, had no room, or a table was altered in between.
pub fn passes(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    let is_of_server = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<tokio_postgres::Error>().is_some()
            || cause.downcast_ref::<std::io::Error>().is_some()
    };
    let passes = |policy| matches!(policy, Policy::Lost | Policy::Starting | Policy::Passing);
    for cause in causes {
        match cause.downcast_ref::<DriverError>() {
            Some(DriverError::Snapshot {
                source: ReadError::Altered(_),
                ..
            }) => return true,
            Some(driver) => return passes(driver.policy()),
            None if is_of_server(cause) => return passes(sqlstate::policy(sqlstate::of(error))),
            None => {}
        }
    }
    false
}

/// An error with its causes: tokio-postgres' own text omits them.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string())
        .chain(causes.map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}
