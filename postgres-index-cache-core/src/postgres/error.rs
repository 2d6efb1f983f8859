//! [`DriverError`] and [`ReadError`]: which step failed, on which object, and the answer of the
//! server or the engine. Also the retry policy of each error: see [`DriverError::policy`] and
//! [`passes`].

use crate::postgres::connection::claim::ClaimError;
use crate::postgres::connection::session::{ConnectError, SessionPurpose};
use crate::postgres::read::copy::CopyError;
use crate::postgres::sqlstate::{self, Policy};
use crate::sync::Failure;
use crate::table_cache::{RowError, StoreError};

/// The reason why a driver cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// A session could not be opened.
    #[error("open the connection for {}", role.purpose())]
    Connect {
        /// The purpose of the session.
        role: SessionPurpose,
        /// The error of the connector.
        source: ConnectError,
    },
    /// The session is not proven to be ours. A LISTEN, or a setting, might be made in the session
    /// of another client.
    #[error("open the connection for {}", role.purpose())]
    Claim {
        /// The purpose of the session.
        role: SessionPurpose,
        /// The reason why it is not proven.
        source: ClaimError,
    },
    /// The server accepted the connections and then sent nothing for this long.
    #[error("the connections were not ready within {} s", .0.as_secs_f64())]
    Silent(std::time::Duration),
    /// The engine gave up, for this reason.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The server refused a statement.
    #[error("{doing}")]
    Server {
        /// The step that failed, as an imperative: `lock public.users`.
        doing: String,
        /// The server's answer.
        source: tokio_postgres::Error,
    },
    /// The server refused a statement by which parts of a table are read side by side, or ended the
    /// session of a part. One session can read the table all the same.
    #[error("{doing}")]
    Parts {
        /// The step that failed, as an imperative: `copy a part of public.users`.
        doing: String,
        /// Whether the next try would fail alike: no session of a part was begun.
        is_lasting: bool,
        /// The server's answer.
        source: tokio_postgres::Error,
    },
    /// The snapshot of a table could not be used.
    #[error("read a snapshot of {table}")]
    Snapshot {
        /// The table, as `schema.table`.
        table: String,
        /// The fault of the snapshot.
        source: ReadError,
    },
    /// The driver has failed before.
    #[error("the connections of this driver have ended; open another")]
    Ended,
    /// A row is longer than the memory limit allows. It was not read.
    #[error(
        "a row of {table} has more than {longest} bytes, which is too much for the memory that the \
        cache may take"
    )]
    RowTooLong {
        /// The table, as `schema.table`.
        table: String,
        /// The most bytes that a row may have.
        longest: usize,
    },
    /// Reading the table would run another role's function with the rights of this role.
    #[error(
        "reading {table} would run {function}, a function of {owner}, with the rights of this \
        role, which is a superuser"
    )]
    CodeOfOthers {
        /// The table, as `schema.table`.
        table: String,
        /// The function, as `schema.function`.
        function: String,
        /// The role that owns the function.
        owner: String,
    },
    /// Reading the table would run the condition of its triggers, which is code of the table's
    /// owner, with the rights of this role.
    #[error(
        "reading {table} would run the condition of its triggers, {condition}, with the rights of \
        this role, and it may be code of others"
    )]
    ConditionOfOthers {
        /// The table, as `schema.table`.
        table: String,
        /// The condition, in SQL.
        condition: String,
    },
    /// The caches need more memory than the limit allows.
    #[error(
        "the cache takes {used} bytes after {rows} rows of {table}, more than the {allowed} allowed"
    )]
    Memory {
        /// The table being read, as `schema.table`.
        table: String,
        /// How many of the table's rows are loaded.
        rows: usize,
        /// The bytes that the caches take.
        used: usize,
        /// The bytes that the caches may take.
        allowed: usize,
    },
}

/// The fault of a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The stream does not have the format of COPY.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// A row does not have the table's shape.
    #[error(transparent)]
    Row(#[from] RowError),
    /// A row could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The table's definition was changed, so its rows have another shape than expected.
    #[error("its definition was changed: {0}")]
    Altered(String),
    /// The table was dropped or renamed while it was read. Another table may have its name.
    #[error("the table was dropped or renamed, or another has its name")]
    Renamed,
    /// Rows that are refetched by their keys take too much memory at once.
    #[error("the rows that were read again by key take more memory than allowed")]
    TooMuch,
    /// The thread that decodes the rows has panicked.
    #[error("the thread that decodes its rows failed: {0}")]
    Thread(String),
    /// The text that `pg_current_snapshot()` returned is not understood.
    #[error("{0}")]
    Snapshot(String),
}

/// What the engine is told of an error.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The error code, if the engine gives up when the same code comes several times in a row.
    pub(super) code: Option<String>,
    /// Whether a retry is useless.
    pub(super) is_permanent: bool,
}

impl DriverError {
    /// Returns the server's error code; `None` if the error is not the server's.
    pub fn sqlstate(&self) -> Option<&str> {
        sqlstate::of(self)
    }

    /// Returns whether the table that was read is not the one that was described: it is gone,
    /// renamed or altered.
    pub(super) fn is_of_another_table(&self) -> bool {
        match self {
            Self::Snapshot {
                source: ReadError::Renamed | ReadError::Altered(_),
                ..
            } => true,
            // undefined_table, invalid_schema_name, undefined_column
            Self::Server { .. } => matches!(self.sqlstate(), Some("42P01" | "3F000" | "42703")),
            Self::Snapshot { .. }
            | Self::Parts { .. }
            | Self::Connect { .. }
            | Self::Claim { .. }
            | Self::Silent(_)
            | Self::Failed(_)
            | Self::Ended
            | Self::RowTooLong { .. }
            | Self::CodeOfOthers { .. }
            | Self::ConditionOfOthers { .. }
            | Self::Memory { .. } => false,
        }
    }

    /// Returns what the engine is told of the error.
    pub(super) fn verdict(&self) -> Verdict {
        let policy = self.policy();
        Verdict {
            code: (policy == Policy::Counted)
                .then(|| self.sqlstate().unwrap_or_default().to_string()),
            is_permanent: policy == Policy::Refused,
        }
    }

    /// Returns how to react to the error. The answer depends on nothing but the error.
    pub(super) fn policy(&self) -> Policy {
        match self {
            // A retry of a read would meet the same table: its rows do not have the shape of the
            // cache, take more memory than allowed, or are not safe to read. A driver that holds
            // altered tables asks `is_of_another_table` first.
            Self::Snapshot { .. }
            | Self::Memory { .. }
            | Self::RowTooLong { .. }
            | Self::CodeOfOthers { .. }
            | Self::ConditionOfOthers { .. }
            | Self::Ended
            | Self::Failed(_)
            | Self::Claim {
                source: ClaimError::Shared,
                ..
            } => Policy::Refused,
            Self::Silent(_) => Policy::Lost,
            // The next read is one of a single session.
            Self::Parts { .. } => Policy::Passing,
            Self::Connect { .. } | Self::Claim { .. } | Self::Server { .. } => {
                sqlstate::policy(self.sqlstate())
            }
        }
    }
}

/// Returns whether an error may pass by itself, so that a retry is of use: the server was not
/// reachable, let nobody in or had no room, or a table was altered in between.
///
/// The error may come from a connection attempt or from a look at tables.
pub fn passes(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    // The outermost cause that is known decides. A `DriverError` knows more than the server's error
    // inside it.
    for cause in causes {
        match cause.downcast_ref::<DriverError>() {
            // The policy of a snapshot's fault is `Refused`. This one passes when the table is
            // described afresh.
            Some(DriverError::Snapshot {
                source: ReadError::Altered(_),
                ..
            }) => return true,
            Some(driver) => return is_transient(driver.policy()),
            None if is_of_connection(cause) => {
                return is_transient(sqlstate::policy(sqlstate::of(error)));
            }
            None => {}
        }
    }
    false
}

/// Returns whether errors of this policy pass by themselves.
fn is_transient(policy: Policy) -> bool {
    matches!(policy, Policy::Lost | Policy::Starting | Policy::Passing)
}

/// Returns whether a cause comes from the server or from the connection with it.
fn is_of_connection(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.is::<tokio_postgres::Error>() || cause.is::<std::io::Error>()
}
