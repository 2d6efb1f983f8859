//! An in-memory index cache that follows PostgreSQL tables through LISTEN/NOTIFY, exactly.
//!
//! Row triggers send JSON on a channel; every node LISTENs and keeps its caches in step. This crate
//! has both ends of what a node needs: the caches, and what feeds them.
//!
//! ```text
//! PostgreSQL ─→ postgres (driver) ─→ sync (engine) ─→ TableCache
//!       └─ your own LISTEN loop ─→ CacheNotificationListener ─→ IdxModelCache<T>
//! ```
//!
//! - [`IdxModelCache`]: the typed rows of a table, found by key and by integer and uuid indexes.
//! - [`CacheNotificationListener`]: routes payloads from a loop of your own to caches and handlers.
//! - [`TableCache`]: the rows of a table whose columns are known only at run time.
//! - [`sync`]: the engine that joins a snapshot and the notifications without a gap. It does no
//!   I/O.
//! - `postgres`: the driver that runs the engine on tokio-postgres (feature `postgres`, on by
//!   default).

//!
//! ```
//! use parking_lot::RwLock;
//! use postgres_index_cache_core::{
//!     CacheNotificationListener, HasPrimaryKey, IdxModelCache, IndexCacheHandler, Indexable, parking_lot,
//! };
//! use std::{collections::HashMap, sync::Arc};
//! use uuid::Uuid;
//!
//! #[derive(serde::Deserialize)]
//! struct User { id: Uuid, username_hash: i64 }
//! impl HasPrimaryKey for User {
//!     fn primary_key(&self) -> Uuid { self.id }
//! }
//! impl Indexable for User {
//!     fn i64_keys(&self) -> HashMap<String, Option<i64>> {
//!         HashMap::from([("username_hash".to_string(), Some(self.username_hash))])
//!     }
//!     fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> { HashMap::new() }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let users: Arc<RwLock<IdxModelCache<User>>> = Arc::new(RwLock::new(IdxModelCache::new(vec![])?));
//! let mut listener = CacheNotificationListener::new();
//! listener.register_handler(Arc::new(IndexCacheHandler::new("users".to_string(), users.clone())));
//!
//! let payload = r#"{"table":"users","action":"insert","id":"550e8400-e29b-41d4-a716-446655440000",
//!     "data":{"id":"550e8400-e29b-41d4-a716-446655440000","username_hash":123}}"#;
//! listener.process_notification(payload).await;
//! assert!(users.read().get_by_i64_index("username_hash", &123).is_some());
//! # Ok(()) }
//! ```

#![warn(missing_docs)]

mod index;
mod index_cache;
mod listener;
mod model;
mod notification;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod sync;
mod table_cache;
mod value;

pub use index_cache::{CacheError, IdxModelCache, PrimaryKeys};
pub use listener::{
    CacheNotificationHandler, CacheNotificationListener, DEFAULT_CACHE_CHANNEL, IndexCacheHandler,
    ListenerStats, Outcome,
};
pub use model::{HasPrimaryKey, Indexable};
pub use notification::{Action, CacheNotification, Key, ParseError, Payload};
pub use table_cache::{
    AccessPath, Column, Condition, JsonNulls, KeyBuf, Predicate, QueryResult, Row, RowBuf,
    RowError, SeenRows, ShapeError, StoreError, TableCache, TableShape, Upserted,
};
pub use value::{CellError, CellType, is_obeyed, one_line_json, output_text};

/// The locks of the caches: an application shares them with a [`IndexCacheHandler`].
pub use parking_lot;
