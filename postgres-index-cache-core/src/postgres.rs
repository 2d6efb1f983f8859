//! The driver: runs the [`sync`](crate::sync) engine on tokio-postgres and keeps
//! [`TableCache`](crate::TableCache)s in step.
//!
//! ```text
//!            ┌─ L ─ notifications ─┐
//! Connector ─┼─ F ─ fences ────────┼─ Driver ─ Engine (engine)
//!            └─ Q ─ COPY ──────────┘    └──→ TableCache, one a table
//! ```
//!
//! How to connect (hosts, passwords, TLS) comes in through [`Connector`]. L is polled in every turn
//! of the loop, also while a snapshot is read: the server's notification queue never waits for us.

mod apply;
mod connection;
mod driver;
mod error;
mod error_chain;
mod options;
mod quote;
mod read;
mod replica;
mod schema;
pub mod sqlstate;

pub use schema::{catalog, triggers};

pub use apply::finding::{ComparisonReport, DifferingColumn, Finding, FindingKind};
pub use apply::models::{Model, OnMisfit};
pub use apply::sink::{RowChange, RowChangeKind};
pub use connection::claim::ClaimError;
pub use connection::listener::{ADVISORY_KEY, Listener};
pub use connection::open::{STARTING_PATIENCE, STARTING_RETRY};
pub use connection::session::{ConnectError, Connector, Messages, Session, SessionPurpose};
pub use driver::{Driver, DriverEvent, Loaded, QuestionId, Tap, Verification};
pub use error::{DriverError, ReadError, passes};
pub use options::DriverOptions;
pub use quote::{quote_identifier, quote_literal};
pub use read::copy::{CopyDecoder, CopyError};
pub use replica::supervisor::{
    Describe, Description, SupervisedTable, Supervisor, SupervisorError, SupervisorEvent,
    Unfollowed,
};
pub use replica::{
    Events, ReadGuard, Replica, ReplicaBuilder, ReplicaError, ReplicaEvent, ReplicaStatus,
    ReplicaTable, Stats,
};
pub use schema::eligibility::{
    Distrust, FollowError, TableConfig, check_announced, check_kind, sent, shape,
};
pub use schema::fingerprint::Fingerprint;
