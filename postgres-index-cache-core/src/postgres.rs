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

pub mod announced;
pub mod catalog;
mod claim;
mod copy;
mod driver;
mod driver_table;
mod error;
mod fingerprint;
mod follow;
mod keep;
mod links;
mod read;
mod replica;
mod session;
pub mod sqlstate;
mod store;
mod supervisor;
mod typed;

pub use claim::ClaimError;
pub use copy::{CopyDecoder, CopyError};
pub use driver::{Driver, DriverEvent, DriverOptions, Loaded, QuestionId, Tap, Verification};
pub use error::{DriverError, ReadError, passes};
pub use fingerprint::Fingerprint;
pub use follow::{Distrust, FollowError, TableConfig, check_announced, check_kind, sent, shape};
pub use keep::{ComparisonReport, DifferingColumn, Finding, FindingKind, RowChange, RowChangeKind};
pub use links::{STARTING_PATIENCE, STARTING_RETRY};
pub use replica::{
    Events, ReadGuard, Replica, ReplicaBuilder, ReplicaError, ReplicaEvent, ReplicaStatus,
    ReplicaTable, Stats,
};
pub use session::{
    ADVISORY_KEY, ConnectError, Connector, Listener, Messages, Session, SessionPurpose,
    quote_identifier, quote_literal,
};
pub use supervisor::{
    Describe, Description, SupervisedTable, Supervisor, SupervisorError, SupervisorEvent,
    Unfollowed,
};
pub use typed::{Model, OnMisfit};
