//! [`DriverError`] and [`ReadError`]: what was tried, on what, and what the server or the engine said.

use super::copy::CopyError;
use super::session::{ConnectError, Role};
use crate::sync::Failure;
use crate::table_cache::{StoreError, Unfit};

/// Why a driver cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// A session could not be had.
    #[error("open the connection for {}", match role { Role::Listen => "listening", Role::Fence => "fences", Role::Read => "reading", Role::Command => "commands" })]
    Connect {
        /// What it is for.
        role: Role,
        /// What went wrong.
        source: ConnectError,
    },
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
    /// The caches would take more memory than they may.
    #[error("the cache takes {used} bytes after {rows} rows of {table}, more than the {allowed} it may")]
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
    Unfit(#[from] Unfit),
    /// A row could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `pg_current_snapshot()` is not understood.
    #[error("{0}")]
    Snapshot(String),
}
