//! [`CacheNotificationListener`]: takes payloads, finds the handler of the table, and says what
//! became of each.
//!
//! This is the hand-driven way: the application owns the connection and calls
//! [`process_notification`](CacheNotificationListener::process_notification) for each payload, as
//! `examples/notification_loop.rs` does. Whatever arrives, nothing is dropped in silence: there is
//! an [`Outcome`], a counter and a `tracing` event for it, and a row whose new value could not be
//! used is removed rather than left stale.

use crate::index_cache::IdxModelCache;
use crate::model::{HasPrimaryKey, Indexable, guarded};
use crate::notification::{Action, CacheNotification, Key, ParseError};
use async_trait::async_trait;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// The channel that triggers notify on unless told otherwise.
pub const DEFAULT_CACHE_CHANNEL: &str = "cache_invalidation";

/// The schema of a table that a handler names without one, unless the listener is told otherwise.
const DEFAULT_SCHEMA: &str = "public";

/// What became of one payload. Dropping it is fine: it is counted and traced as well.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The cache follows: a row was stored or removed, or a TRUNCATE emptied it.
    Applied,
    /// A handler of the application's own took it.
    Handled,
    /// The row was too long to be sent: it was removed from the cache, which lacks it until it is
    /// read again.
    RowTooLong,
    /// The row could not be used: it was removed from the cache, which lacks it until it is read
    /// again.
    RowUnfit(String),
    /// The table must be read again: the cache was emptied.
    ReloadNeeded(String),
    /// No handler is registered for the table.
    UnknownTable(String),
    /// The table has the name of a registered one, in another schema than the one that is followed.
    OtherSchema {
        /// The schema of this payload.
        schema: String,
        /// The schema that the handler is bound to.
        bound_to: String,
    },
    /// The payload names an action that is not known.
    UnknownAction(String),
    /// The payload is no notification.
    Invalid(String),
}

/// How many payloads had each [`Outcome`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStats {
    /// [`Outcome::Applied`].
    pub applied: u64,
    /// [`Outcome::Handled`].
    pub handled: u64,
    /// [`Outcome::RowTooLong`].
    pub rows_too_long: u64,
    /// [`Outcome::RowUnfit`].
    pub rows_unfit: u64,
    /// [`Outcome::ReloadNeeded`].
    pub reloads_needed: u64,
    /// [`Outcome::UnknownTable`].
    pub unknown_tables: u64,
    /// [`Outcome::OtherSchema`].
    pub other_schemas: u64,
    /// [`Outcome::UnknownAction`].
    pub unknown_actions: u64,
    /// [`Outcome::Invalid`].
    pub invalid: u64,
}

#[derive(Default)]
struct Counters {
    applied: AtomicU64,
    handled: AtomicU64,
    rows_too_long: AtomicU64,
    rows_unfit: AtomicU64,
    reloads_needed: AtomicU64,
    unknown_tables: AtomicU64,
    other_schemas: AtomicU64,
    unknown_actions: AtomicU64,
    invalid: AtomicU64,
}

impl Counters {
    fn of(&self, outcome: &Outcome) -> &AtomicU64 {
        match outcome {
            Outcome::Applied => &self.applied,
            Outcome::Handled => &self.handled,
            Outcome::RowTooLong => &self.rows_too_long,
            Outcome::RowUnfit(_) => &self.rows_unfit,
            Outcome::ReloadNeeded(_) => &self.reloads_needed,
            Outcome::UnknownTable(_) => &self.unknown_tables,
            Outcome::OtherSchema { .. } => &self.other_schemas,
            Outcome::UnknownAction(_) => &self.unknown_actions,
            Outcome::Invalid(_) => &self.invalid,
        }
    }
}

/// Something that takes the notifications of one table.
#[async_trait]
pub trait CacheNotificationHandler: Send + Sync {
    /// Takes one notification.
    async fn handle_notification(&self, notification: CacheNotification);

    /// The table: `users`, or `app.users` for the one of that schema alone. A bare name means the
    /// table of the listener's [default schema](CacheNotificationListener::with_default_schema); a
    /// table of that name in another schema is counted as [`Outcome::OtherSchema`].
    fn table_name(&self) -> &str;

    /// Takes one notification and says what became of it. Implement it where that can be something
    /// else than [`Outcome::Handled`].
    async fn handle_with_outcome(&self, notification: CacheNotification) -> Outcome {
        self.handle_notification(notification).await;
        Outcome::Handled
    }
}

/// Keeps an [`IdxModelCache`] in step with the notifications of its table.
///
/// `truncate` empties the cache; a row that was too long to be sent, or that does not fit the
/// model, is removed; `reload` empties it and says that the table must be read again.
pub struct IndexCacheHandler<T> {
    table: String,
    cache: Arc<RwLock<IdxModelCache<T>>>,
}

impl<T> IndexCacheHandler<T> {
    /// A handler that applies the notifications of `table` to `cache`.
    pub fn new(table: String, cache: Arc<RwLock<IdxModelCache<T>>>) -> Self {
        Self { table, cache }
    }
}

impl<T> IndexCacheHandler<T>
where
    T: HasPrimaryKey + Indexable + DeserializeOwned + Send + Sync,
{
    fn apply(&self, notification: &CacheNotification) -> Outcome {
        match notification.action {
            Action::Truncate => {
                self.cache.write().clear();
                Outcome::Applied
            }
            Action::Reload => {
                self.cache.write().clear();
                let why = notification
                    .why
                    .clone()
                    .unwrap_or_else(|| "the trigger did not say".to_string());
                Outcome::ReloadNeeded(why)
            }
            Action::Insert | Action::Update | Action::Delete => {
                let Some(id) = notification.id.as_ref().and_then(Key::as_uuid) else {
                    // The cache's keys are uuids: no row of it can be meant.
                    let id = notification
                        .id
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default();
                    return Outcome::RowUnfit(format!("the key {id} is not a uuid"));
                };
                match notification.action {
                    Action::Delete => {
                        self.cache.write().remove(&id);
                        Outcome::Applied
                    }
                    _ => self.store(id, notification),
                }
            }
        }
    }

    fn store(&self, id: Uuid, notification: &CacheNotification) -> Outcome {
        let Some(data) = &notification.data else {
            self.cache.write().remove(&id);
            return if notification.truncated {
                Outcome::RowTooLong
            } else {
                Outcome::RowUnfit(format!("{} without \"data\"", notification.action))
            };
        };
        // Parsed before the lock is taken: readers wait for the store alone.
        let parsed =
            guarded(|| serde_json::from_str::<T>(data.get()).map(|row| (row.primary_key(), row)));
        let stored = match parsed {
            Ok(Ok((key, row))) if key == id => guarded(|| self.cache.write().upsert(row)).map(drop),
            Ok(Ok((other, _))) => {
                self.cache.write().remove(&other);
                Err(format!("\"id\" is {id} and the row's key is {other}"))
            }
            Ok(Err(error)) => Err(format!("\"data\" does not fit the model: {error}")),
            Err(panic) => Err(panic),
        };
        match stored {
            Ok(()) => Outcome::Applied,
            Err(why) => {
                self.cache.write().remove(&id);
                Outcome::RowUnfit(why)
            }
        }
    }
}

#[async_trait]
impl<T> CacheNotificationHandler for IndexCacheHandler<T>
where
    T: HasPrimaryKey + Indexable + DeserializeOwned + Send + Sync,
{
    async fn handle_notification(&self, notification: CacheNotification) {
        self.apply(&notification);
    }

    fn table_name(&self) -> &str {
        &self.table
    }

    async fn handle_with_outcome(&self, notification: CacheNotification) -> Outcome {
        self.apply(&notification)
    }
}

/// Routes payloads to the handlers of their tables.
///
/// ```
/// use postgres_index_cache_core::{CacheNotificationListener, Outcome};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let listener = CacheNotificationListener::new();
/// let outcome = listener.process_notification(r#"{"table":"users","action":"delete","id":7}"#).await;
/// assert_eq!(outcome, Outcome::UnknownTable("users".to_string()));
/// assert_eq!(listener.stats().unknown_tables, 1);
/// # }
/// ```
pub struct CacheNotificationListener {
    channel: String,
    /// The schema of the tables that handlers name without one.
    default_schema: String,
    tables: HashMap<String, Vec<Arc<dyn CacheNotificationHandler>>>,
    counters: Counters,
}

impl Default for CacheNotificationListener {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for CacheNotificationListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheNotificationListener")
            .field("channel", &self.channel)
            .field("tables", &self.tables.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl CacheNotificationListener {
    /// A listener for [`DEFAULT_CACHE_CHANNEL`].
    pub fn new() -> Self {
        Self::with_channel(DEFAULT_CACHE_CHANNEL.to_string())
    }

    /// A listener for a channel of another name.
    pub fn with_channel(channel: String) -> Self {
        Self {
            channel,
            default_schema: DEFAULT_SCHEMA.to_string(),
            tables: HashMap::new(),
            counters: Counters::default(),
        }
    }

    /// Names the schema of the tables that handlers name without one; `public` unless said
    /// otherwise.
    ///
    /// The schema is never taken from a payload. Otherwise one payload of a table of the same name
    /// in another schema, which any role can send, would make every genuine change an
    /// [`Outcome::OtherSchema`].
    #[must_use]
    pub fn with_default_schema(mut self, schema: impl Into<String>) -> Self {
        self.default_schema = schema.into();
        self
    }

    /// The channel to LISTEN on. It is an exact name: quote it in SQL, or PostgreSQL folds it to
    /// lower case.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Adds a handler. Several handlers may take the same table; each is given every notification
    /// of it.
    pub fn register_handler(&mut self, handler: Arc<dyn CacheNotificationHandler>) {
        let table = handler.table_name().to_string();
        self.tables.entry(table).or_default().push(handler);
    }

    /// Parses a payload, hands it to the handlers of its table, and says what became of it. It
    /// never fails and never panics, whatever the payload is: any role may send on a channel.
    ///
    /// With several handlers it is the first outcome that is not [`Outcome::Applied`] or
    /// [`Outcome::Handled`], if any.
    pub async fn process_notification(&self, payload: &str) -> Outcome {
        let outcome = match CacheNotification::parse(payload) {
            Ok(notification) => self.dispatch(notification).await,
            Err(ParseError::UnknownAction(action)) => Outcome::UnknownAction(action),
            Err(error) => Outcome::Invalid(error.to_string()),
        };
        self.counters.of(&outcome).fetch_add(1, Ordering::Relaxed);
        match &outcome {
            Outcome::Applied | Outcome::Handled => {
                tracing::trace!(channel = %self.channel, "notification applied");
            }
            other => {
                tracing::warn!(channel = %self.channel, outcome = ?other, "notification not \
                    applied");
            }
        }
        outcome
    }

    /// How many payloads had each outcome.
    pub fn stats(&self) -> ListenerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        ListenerStats {
            applied: read(&counters.applied),
            handled: read(&counters.handled),
            rows_too_long: read(&counters.rows_too_long),
            rows_unfit: read(&counters.rows_unfit),
            reloads_needed: read(&counters.reloads_needed),
            unknown_tables: read(&counters.unknown_tables),
            other_schemas: read(&counters.other_schemas),
            unknown_actions: read(&counters.unknown_actions),
            invalid: read(&counters.invalid),
        }
    }

    async fn dispatch(&self, notification: CacheNotification) -> Outcome {
        let handlers = match self.find(&notification) {
            Ok(handlers) => handlers,
            Err(outcome) => return outcome,
        };
        let mut worst = None;
        for handler in handlers {
            let outcome = handler.handle_with_outcome(notification.clone()).await;
            let is_good = matches!(outcome, Outcome::Applied | Outcome::Handled);
            if worst.is_none()
                || (!is_good && matches!(worst, Some(Outcome::Applied | Outcome::Handled)))
            {
                worst = Some(outcome);
            }
        }
        // A table stands here only with a handler.
        worst.unwrap_or(Outcome::UnknownTable(notification.table))
    }

    /// Finds the handlers of a notification's table.
    fn find(
        &self,
        notification: &CacheNotification,
    ) -> Result<&[Arc<dyn CacheNotificationHandler>], Outcome> {
        let unqualified = self.tables.get(&notification.table);
        let Some(schema) = &notification.schema else {
            return unqualified
                .map(Vec::as_slice)
                .ok_or_else(|| Outcome::UnknownTable(notification.table.clone()));
        };
        let qualified = format!("{schema}.{}", notification.table);
        if let Some(handlers) = self.tables.get(&qualified) {
            return Ok(handlers);
        }
        let handlers = unqualified.ok_or(Outcome::UnknownTable(qualified))?;
        if *schema == self.default_schema {
            Ok(handlers)
        } else {
            Err(Outcome::OtherSchema {
                schema: schema.clone(),
                bound_to: self.default_schema.clone(),
            })
        }
    }
}
