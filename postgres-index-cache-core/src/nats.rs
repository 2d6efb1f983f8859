//! A [log](crate::log) on NATS JetStream: the relay that writes, and the nodes that follow.
//!
//! ```text
//! PostgreSQL ─→ Supervisor ─ row events ─→ Lead ─→ NatsLog ─→ Follow ─→ caches of a node
//!                                           │         │
//!                                      Writer (rules)  Node (rules)
//! ```
//!
//! - `names`, `stream`: the log as subjects and streams of NATS.
//! - `description`: tables as a snapshot describes them.
//! - `question`: what nodes ask the relay.
//! - `roll`: what nodes say of themselves.
//! - `snapshot`: rows in a compressed form, written by a relay and loaded by nodes.
//! - `image`: the caches into which the log's rows go.
//! - `follow`: drives [`Node`](crate::log::Node).
//! - `lead`: drives [`Writer`](crate::log::Writer) on a [`Supervisor`](crate::postgres::Supervisor).
//! - `relay`: follows until nobody writes, then leads.
//!
//! The rules of the protocol are in [`log`](crate::log); here is I/O alone.

mod append;
mod description;
mod error;
mod follow;
mod image;
mod lead;
mod names;
mod question;
mod relay;
mod roll;
mod row_ops;
mod snapshot;
mod source;
mod stream;
mod turn_lock;

pub use description::TableDescription;
pub use error::LogError;
pub use follow::{Follow, FollowEvent};
pub(crate) use follow::{OTHER_TERM, random};
pub(crate) use image::Caches;
pub use image::LoggedTable;
pub use names::{LogName, LogNameError};
pub(crate) use question::RelayReport;
pub use relay::{ConnectNats, Relay, RelayError, RelayEvent, RelayOptions};
pub use roll::{LogNode, LogNodeTable};
pub use source::LogDatabase;
pub use stream::{LogStorage, NatsLog};
