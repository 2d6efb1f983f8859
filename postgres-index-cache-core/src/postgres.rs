//! Everything that talks to PostgreSQL: the driver runs the [`sync`](crate::tooling::sync) engine
//! on tokio-postgres, and the replica is what an application holds.
//!
//! ```text
//! Replica ─→ Supervisor ─→ Driver ─→ Engine
//!            describes      │  └─ apply: DriverTable ─ CacheWriter ─ cache
//!            tables afresh  ├─ connection: L, F, Q
//!               │           └─ read: COPY on Q
//!               └─ schema: catalogue, triggers, fingerprints
//! ```
//!
//! - `replica`: an application's handle, its task, and the supervisor that follows altered tables
//!   on.
//! - `driver`: the loop between the engine and the connections.
//! - `connection`: how the sessions are opened, proven and set; [`Connector`].
//! - `read`: one read of a table as a task of its own, and the format of COPY.
//! - `apply`: from rows and changes to the caches, behind their locks.
//! - `schema`: tables as PostgreSQL describes them, and what announces their changes.
//! - [`install`]: how a table's triggers are planned, installed, checked and removed.
//! - [`sqlstate`]: the server's error codes, with the reaction to each.
//!
//! Hosts, passwords and TLS come in through [`Connector`]. L is polled in every turn of the loop,
//! also while a table is read: the server's notification queue never waits for us.

pub(crate) mod apply;
mod connection;
mod driver;
mod error;
pub(crate) mod error_chain;
pub mod install;
mod listening;
mod options;
mod quote;
mod read;
mod replica;
mod schema;
pub mod sqlstate;

pub use schema::{catalog, triggers};

pub use apply::finding::{ComparisonReport, DifferingColumn, Finding, FindingKind};
pub use apply::models::{Model, OnMisfit};
pub use apply::sink::{Notified, RowChange, RowChangeKind};
pub use apply::watch::Change;
pub use connection::claim::{ClaimError, claim_session};
pub use connection::listener::{ADVISORY_KEY, Listener, NODE_KEY};
pub use connection::open::STARTING_RETRY;
pub use connection::session::{ConnectError, Connector, Messages, Session, SessionPurpose};
pub use connection::traced::Traced;
pub use driver::{Driver, DriverEvent, Loaded, QuestionId, Tap, Verification, Watch};
pub use error::{DriverError, ReadError, passes};
pub use listening::ListenError;
pub use options::{AnswerOptions, DriverOptions};
pub use quote::{Unquoted, quote_identifier, quote_literal, read_quoted};
pub use read::copy::{CopyDecoder, CopyError};
pub use read::statement::key_condition;
pub use read::table::{SnapshotReader, TableRead};
pub use replica::supervisor::{
    Describe, Description, SupervisedTable, Supervisor, SupervisorError, SupervisorEvent,
    Unfollowed,
};
pub use replica::{
    Changes, Events, Health, MissedChanges, ObjectStats, Objects, ReadGuard, Replica,
    ReplicaBuilder, ReplicaError, ReplicaEvent, ReplicaStatus, ReplicaTable, Stats, TableHealth,
};
#[cfg(feature = "nats")]
pub use replica::{DescribedTable, NatsReplicaBuilder, describe_named};
#[cfg(feature = "nats")]
pub(crate) use replica::{TransactionWaiters, Wait};
pub use schema::eligibility::{
    Distrust, FollowError, TableConfig, check_announced, check_kind, sent, shape,
};
pub use schema::fingerprint::Fingerprint;
