//! [`Replica`]: an application's typed caches, kept in step by a task of their own.
//!
//! ```text
//! Replica ── read(&users) ──→ cache behind its lock ←── Task: Supervisor ←── PostgreSQL
//!    └── fence(), shutdown() ── commands ──────────────→ Task ── events ──→ Events
//! ```
//!
//! Once a replica is open, only its owner ends it. A table that is altered, renamed or swapped is
//! described afresh by its name and followed on. A table that cannot be followed or read is stale,
//! with the cause, until that is undone; the other tables go on. A row that does not fit the model
//! is kept out ([`OnMisfit`](crate::OnMisfit)).

mod builder;
mod changes;
mod describe;
mod error;
mod events;
mod handle;
mod health;
#[cfg(feature = "metrics")]
mod metrics;
mod model_needs;
mod objects;
#[cfg(feature = "nats")]
mod over_nats;
mod publisher;
mod settle;
mod status;
pub(super) mod supervisor;
mod task;
mod waiters;

pub use builder::ReplicaBuilder;
pub use changes::{Changes, MissedChanges};
#[cfg(feature = "nats")]
pub use describe::{DescribedTable, describe_named};
pub use error::ReplicaError;
pub use events::{Events, ReplicaEvent};
pub use handle::{ReadGuard, Replica, ReplicaTable};
pub use health::{Health, TableHealth};
pub use objects::{ObjectStats, Objects};
#[cfg(feature = "nats")]
pub use over_nats::NatsReplicaBuilder;
pub use status::{ReplicaStatus, Stats};
#[cfg(feature = "nats")]
pub(crate) use waiters::{TransactionWaiters, Wait};
