//! In-memory caches of PostgreSQL tables, found by index, and exact: a cache is its table, or says
//! that it is not.
//!
//! Row triggers announce every change with LISTEN/NOTIFY. A [`Replica`] reads the tables, listens,
//! joins both without a gap or a stale row, and keeps your rows in step while you read them.
//!
//! # A node in ten minutes
//!
//! The triggers, with the command line tool `pgic`:
//!
//! ```text
//! cargo install pgic
//! pgic install-triggers users --database-url postgres://localhost/mydb
//! ```
//!
//! `Cargo.toml`:
//!
//! ```toml
//! [dependencies]
//! postgres-index-cache-core = "0.1"
//! serde = { version = "1", features = ["derive"] }
//! tokio = { version = "1", features = ["full"] }
//! ```
//!
//! `main.rs`:
//!
#![cfg_attr(all(feature = "derive", feature = "postgres"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "derive", feature = "postgres")), doc = "```ignore")]
//! use postgres_index_cache_core::{CacheModel, Replica, tokio_postgres, uuid::Uuid};
//!
//! #[derive(serde::Deserialize, CacheModel)]
//! #[cache(table = "users")]
//! struct User {
//!     #[cache(key)]
//!     id: Uuid,
//!     #[cache(index)]
//!     username_hash: i64,
//!     username: String,
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config: tokio_postgres::Config = "host=localhost dbname=mydb user=me".parse()?;
//!     let mut builder = Replica::builder(config);
//!     let users = builder.model::<User>();
//!     let replica = builder.open().await?;
//!
//!     replica.fence().await?; // what was committed before this call is in the cache
//!     {
//!         let rows = replica.read(&users); // holds the lock: no await until it is dropped
//!         for user in rows.by_username_hash(123) {
//!             println!("{} is {}, among {} users, {}", user.id, user.username, rows.len(), rows.status());
//!         }
//!     }
//!     replica.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! Share a replica between tasks as `Arc<Replica>`; [`read`](Replica::read) and
//! [`fence`](Replica::fence) take `&self`. A [`ReadGuard`] holds the cache's lock: while it is held,
//! no change is applied, so drop it before you await.
//!
//! # Guarantees
//!
//! - *Live* ([`ReplicaStatus::Live`]) means: the cache is its table as of the last fence or later.
//!   Nothing else is called live: not while a connection is lost, a table is read, altered or no
//!   longer announced, or a row does not fit your type.
//! - After [`Replica::fence`] you read your own writes, and everybody's that were committed before.
//! - After [`Replica::wait_for`] you read what one transaction wrote, on any node that was handed its
//!   [`TransactionToken`].
//! - A replica that is not live says why and since when, keeps the old rows readable, and tries
//!   again for ever.
//! - [`Replica::verify`] proves a cache: it compares every row with the live table at one exact
//!   cut.
//! - A row that your type refuses is kept out, named ([`ReadGuard::misfits`]), and taken in once it
//!   fits. Your own code may panic: that is one row's misfortune.
//!
//! # Limits
//!
//! - Every listening node costs each commit a little: PostgreSQL wakes all listeners. Beyond ten nodes
//!   let a relay listen, and the nodes follow the relay's log (the feature `nats`).
//! - Three connections a replica. LISTEN needs a session of its own: no pooler in transaction mode,
//!   and no standby.
//! - All rows are in memory; [`ReplicaBuilder::max_memory`] is the bound.
//!
//! # TLS, passwords, several hosts
//!
//! A [`Connector`] opens the sessions. With the feature `connect`, a `pg_connect::Target` is one: it
//! takes a connection string, and connects as psql does, with TLS, the password file, service files
//! and several hosts. [`tokio_postgres::Config`] is one too, without TLS. For another way, implement
//! the trait: open a connection, and return [`Session::new`].
//!
//! # Notifications by hand
//!
//! If you have a LISTEN loop already, [`CacheNotificationListener`] routes its payloads to an
//! [`IdxModelCache`] and to handlers of your own. Nothing joins them with a snapshot, so a gap is
//! yours to see and to mend.
//!
//! ```
//! use postgres_index_cache_core::{
//!     CacheNotificationListener, HasPrimaryKey, IdxModelCache, IndexCacheHandler, Indexable,
//!     parking_lot::RwLock, uuid::Uuid,
//! };
//! # use std::{collections::HashMap, sync::Arc};
//! # #[derive(serde::Deserialize)]
//! # struct User { id: Uuid, username_hash: i64 }
//! # impl HasPrimaryKey for User {
//! #     fn primary_key(&self) -> Uuid { self.id }
//! # }
//! # impl Indexable for User {
//! #     fn i64_keys(&self) -> HashMap<String, Option<i64>> {
//! #         HashMap::from([("username_hash".to_string(), Some(self.username_hash))])
//! #     }
//! #     fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> { HashMap::new() }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let users = Arc::new(RwLock::new(IdxModelCache::<User>::new(vec![])?));
//! let mut listener = CacheNotificationListener::new();
//! listener.register_handler(Arc::new(IndexCacheHandler::new("users".into(), users.clone())));
//!
//! let payload = r#"{"table":"users","action":"insert","id":"550e8400-e29b-41d4-a716-446655440000",
//!     "data":{"id":"550e8400-e29b-41d4-a716-446655440000","username_hash":123}}"#;
//! listener.process_notification(payload).await;
//! assert!(users.read().get_by_i64_index("username_hash", &123).is_some());
//! # Ok(()) }
//! ```
//!
//! # Map
//!
//! | you want | look at |
//! |---|---|
//! | caches that are kept in step | [`Replica`], [`ReplicaBuilder`], [`ReplicaTable`] |
//! | the rows of one | [`ReadGuard`] |
//! | to read what another node wrote | [`TransactionToken`], [`Replica::wait_for`] |
//! | what a transaction of yours has written, before it commits | [`Staged`], [`Replica::settle`] |
//! | whole objects beside a table, bounded, never stale | [`Objects`], [`Replica::objects`] |
//! | its changes, with the rows before and after | [`Replica::changes`], [`Change`] |
//! | triggers installed and checked from code | [`triggers`] |
//! | its status, events and figures | [`ReplicaStatus`], [`Events`], [`Stats`] |
//! | an answer for a health endpoint | [`Replica::health`] |
//! | a model: its key, its indexes, its columns | [`CacheModel`](trait@CacheModel) |
//! | the cache itself | [`IdxModelCache`] |
//! | a model whose indexes are named at run time | [`HasPrimaryKey`], [`Indexable`] |
//! | a LISTEN loop of your own | [`CacheNotificationListener`], [`CacheNotificationHandler`] |
//! | to connect otherwise | [`Connector`], [`Session`] |
//!
//! # Features
//!
//! - `postgres`, on by default: [`Replica`] and all that connects. Without it the caches and the
//!   listener remain, which do no I/O.
//! - `derive`, on by default: `#[derive(CacheModel)]`.
//! - `connect`: a [`Connector`] by libpq's rules, with TLS.
//! - `nats`: `Replica::over_nats` follows a log that `pgic relay` writes to NATS JetStream. Any number
//!   of nodes cost PostgreSQL what one listener does. `docs/relay.md` in the repository has the set-up.
//! - `metrics`: a replica publishes its figures through the facade of the crate `metrics`, to the
//!   recorder that is installed when the replica is opened. A figure that `pgic monitor` has too
//!   has the same name there; the label `node` is [`ReplicaBuilder::name`].
//!
//!   | metric | what |
//!   |---|---|
//!   | `pgic_table_live` | whether the cache of a `table` is live: 1, or 0 |
//!   | `pgic_table_rows`, `pgic_table_memory_bytes` | its size, as of the last second |
//!   | `pgic_table_kept_out_rows` | rows that do not fit the model |
//!   | `pgic_lag_seconds` | the time of the last fence; NaN while nothing is listened to |
//!   | `pgic_gaps_total` | losses of all connections |
//!   | `pgic_reloads_total` | reads of a table beyond its first |
//!   | `pgic_refetched_rows_total` | rows that were read again by their keys |
//!   | `pgic_invalid_payloads_total` | payloads that are no notification |
//!   | `pgic_notifications_total` | notifications received |
//!   | `pgic_applied_changes_total` | changes applied |
//!
//! # Traces
//!
//! Log lines and spans go through the crate `tracing`. A replica's own work is in the span `replica`,
//! with the name of its `node`, and each read of a table in `replica.read_table`. What a caller waits
//! for is a span in the caller's trace: `replica.open`, `replica.fence`, `replica.wait_for`,
//! `replica.verify`, `replica.load_object`, `triggers.install` and `triggers.remove`. The statements
//! that are sent are told at the level DEBUG, and what the sync engine takes in and decides at TRACE.
//!
//! The types of this crate are [`Send`] and [`Sync`] unless they say otherwise.

#![warn(missing_docs)]
#![cfg_attr(
    not(feature = "postgres"),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "the front page is about all features"
    )
)]
#![allow(
    rustdoc::private_intra_doc_links,
    reason = "links from the hidden parts are for readers of the code"
)]

#[cfg(feature = "postgres")]
mod digest;
#[cfg(feature = "postgres")]
mod fleet;
mod index;
mod index_cache;
mod json_scan;
mod listener;
#[cfg(feature = "postgres")]
mod log;
mod model;
#[cfg(feature = "nats")]
mod nats;
mod notification;
mod packed;
#[cfg(feature = "postgres")]
mod postgres;
mod rules;
mod split_mix;
mod sync;
mod table_cache;
mod transaction;
#[cfg(feature = "postgres")]
pub mod triggers;
mod value;

pub use index_cache::{
    CacheError, HashIndex, IdxModelCache, IndexField, Indexes, NamedIndexes, OrderedField,
    OrderedIndex, OrderedRows, PrimaryKeys, Rows, Staged, StagedView,
};
pub use listener::{
    CacheNotificationHandler, CacheNotificationListener, DEFAULT_CACHE_CHANNEL, IndexCacheHandler,
    ListenerStats, Outcome,
};
pub use model::{
    CacheKey, CacheModel, FieldKind, HasPrimaryKey, Indexable, ModelColumn, TableModel,
};
#[cfg(feature = "nats")]
pub use nats::{LogError, LogNameError};
pub use notification::{Action, CacheNotification, Key, ParseError};
#[cfg(feature = "nats")]
pub use postgres::NatsReplicaBuilder;
#[cfg(feature = "postgres")]
pub use postgres::{
    Change, Changes, ComparisonReport, ConnectError, Connector, DifferingColumn, DriverError,
    Events, Finding, FindingKind, FollowError, Health, ListenError, Messages, MissedChanges, Model,
    ObjectStats, Objects, OnMisfit, ReadGuard, Replica, ReplicaBuilder, ReplicaError, ReplicaEvent,
    ReplicaStatus, ReplicaTable, RowChangeKind, Session, SessionPurpose, Stats, TableHealth,
    Verification,
};
pub use sync::{AuxConnection, Counters, Limits};
pub use transaction::{TokenError, TransactionToken};

/// Derives [`CacheModel`](trait@CacheModel) from the fields of a struct.
#[cfg(feature = "derive")]
pub use postgres_index_cache_derive::CacheModel;

/// The crate of the connections to NATS.
#[cfg(feature = "nats")]
pub use async_nats;
/// The crate of the caches' locks: an application shares them with an [`IndexCacheHandler`].
pub use parking_lot;
/// The crate of connections by libpq's rules: a `Target` of this crate is a [`Connector`].
#[cfg(feature = "connect")]
pub use pg_connect;
/// The crate of the sessions that a [`Connector`] opens.
#[cfg(feature = "postgres")]
pub use tokio_postgres;
/// The crate of the keys.
pub use uuid;

/// The parts of which the tool `pgic` is made: the sans-IO engine, the driver, the catalogue,
/// caches of tables whose columns are known at run time.
///
/// **There is no stability here.** Names and types change with every release, without a word in the
/// changelog. An application wants the names at the crate's root.
#[doc(hidden)]
pub mod tooling {
    pub use crate::json_scan::members as json_members;
    pub use crate::notification::Payload;
    pub use crate::packed::{Unpacked, unpack};
    pub use crate::table_cache::{
        AccessPath, CellTest, Column, Condition, IndexedColumns, JsonNulls, KeyBuf, Predicate,
        QueryResult, Row, RowBuf, RowError, SeenRows, ShapeError, StoreError, TableCache,
        TableShape, Touched, Upserted,
    };
    pub use crate::value::{CellError, CellType, is_obeyed, one_line_json, output_text};

    /// The driver and what it stands on.
    #[cfg(feature = "postgres")]
    pub mod postgres {
        pub use crate::postgres::*;
    }

    /// The fleet's questions and answers, and the digests in them.
    #[cfg(feature = "postgres")]
    pub mod fleet {
        pub use crate::digest::{
            Digest, RangeSum, Ranges, RowDigester, digest_of_key, key_digest, salted,
        };
        pub use crate::fleet::*;
    }

    /// The log that one relay writes and any number of nodes follow. It does no I/O.
    #[cfg(feature = "postgres")]
    pub mod log {
        pub use crate::digest::RangeSum;
        pub use crate::log::*;
    }

    /// The log on NATS: relays, and the nodes that follow them.
    #[cfg(feature = "nats")]
    pub mod nats {
        pub use crate::nats::*;
    }

    /// The engine that joins a snapshot and the notifications without a gap. It does no I/O.
    pub mod sync {
        pub use crate::sync::*;
    }
}

/// The README is compiled as the documentation is.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The project's README shows the library too.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../../README.md")]
struct ProjectReadme;

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    /// The front page says so.
    #[test]
    fn handles_are_send_and_sync() {
        fn is_send_and_sync<T: Send + Sync>() {}
        is_send_and_sync::<Replica>();
        is_send_and_sync::<ReplicaBuilder>();
        is_send_and_sync::<Events>();
        is_send_and_sync::<ReplicaError>();
        is_send_and_sync::<ReplicaStatus>();
        is_send_and_sync::<CacheNotificationListener>();
    }
}
