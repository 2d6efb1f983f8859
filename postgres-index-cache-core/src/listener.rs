//! [`CacheNotificationListener`]: routes payloads to the handlers of their tables, and reports an
//! [`Outcome`] for each.
//!
//! ```text
//! payload ─→ process_notification ─→ handlers of the table ─→ IdxModelCache, or the application
//!                     └──────────────→ Outcome, counter, tracing event
//! ```
//!
//! This is the hand-driven way: the application owns the connection and calls
//! [`process_notification`](CacheNotificationListener::process_notification) for each payload, as
//! `examples/notification_loop.rs` does. No payload is dropped in silence: each has an [`Outcome`],
//! a counter and a `tracing` event. If a row's new value cannot be used, the row is removed rather
//! than left stale.

use crate::index_cache::IdxModelCache;
use crate::model::{CacheModel, guarded};
use crate::notification::{Action, CacheNotification, Key, ParseError};
use crate::packed::unpack;
use async_trait::async_trait;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use uuid::Uuid;

/// The channel that triggers notify on unless another one is chosen.
pub const DEFAULT_CACHE_CHANNEL: &str = "cache_invalidation";

/// The schema of the tables that handlers name without a schema, unless
/// [`CacheNotificationListener::with_default_schema`] sets another.
const DEFAULT_SCHEMA: &str = "public";

/// The result of processing one payload. A caller may ignore this result: the payload is counted
/// and traced as well.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The change is in the cache: a row was stored or removed, or a TRUNCATE emptied the cache.
    Applied,
    /// A handler of the application's own took the notification.
    Handled,
    /// The row was too long to be sent. It was removed from the cache, and is missing there until
    /// the application reads the row again.
    RowTooLong,
    /// The row could not be used, for the reason given. It was removed from the cache, and is
    /// missing there until the application reads the row again. If the key is none of the
    /// model, no row was removed.
    RowUnfit(String),
    /// The trigger asks for the table to be read again, for the reason given. The cache was
    /// emptied.
    ReloadNeeded(String),
    /// No handler is registered for the table with this name.
    UnknownTable(String),
    /// A handler is registered for a table of this name, but in another schema.
    OtherSchema {
        /// The schema of the payload's table.
        schema: String,
        /// The schema of the handler's table.
        bound_to: String,
    },
    /// The payload names this action, which is not known.
    UnknownAction(String),
    /// The payload is no notification, for the reason given.
    Invalid(String),
}

/// The number of changes that had each [`Outcome`]. A payload announces one change, or many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerStats {
    /// The number of payloads with [`Outcome::Applied`].
    pub applied: u64,
    /// The number of payloads with [`Outcome::Handled`].
    pub handled: u64,
    /// The number of payloads with [`Outcome::RowTooLong`].
    pub rows_too_long: u64,
    /// The number of payloads with [`Outcome::RowUnfit`].
    pub rows_unfit: u64,
    /// The number of payloads with [`Outcome::ReloadNeeded`].
    pub reloads_needed: u64,
    /// The number of payloads with [`Outcome::UnknownTable`].
    pub unknown_tables: u64,
    /// The number of payloads with [`Outcome::OtherSchema`].
    pub other_schemas: u64,
    /// The number of payloads with [`Outcome::UnknownAction`].
    pub unknown_actions: u64,
    /// The number of payloads with [`Outcome::Invalid`].
    pub invalid: u64,
}

/// The counters behind [`ListenerStats`].
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
    /// Returns the counter of an outcome.
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

/// A receiver of the notifications of one table.
#[async_trait]
pub trait CacheNotificationHandler: Send + Sync {
    /// Takes one notification.
    async fn handle_notification(&self, notification: CacheNotification);

    /// Returns the name of the handler's table: `users`, or `app.users` with a schema. A bare name
    /// means the table in the listener's [default
    /// schema](CacheNotificationListener::with_default_schema). A payload of a table of that name
    /// in another schema is counted as [`Outcome::OtherSchema`].
    fn table_name(&self) -> &str;

    /// Takes one notification and returns the outcome. The listener calls this method. By default,
    /// calls [`handle_notification`](Self::handle_notification) and returns [`Outcome::Handled`].
    async fn handle_with_outcome(&self, notification: CacheNotification) -> Outcome {
        self.handle_notification(notification).await;
        Outcome::Handled
    }
}

/// Keeps an [`IdxModelCache`] in step with the notifications of its table.
///
/// A `truncate` empties the cache. A `reload` empties the cache too, with the outcome that the
/// table must be read again. A row that was too long to be sent, or that does not fit the model, is
/// removed from the cache.
pub struct IndexCacheHandler<T: CacheModel> {
    table: String,
    cache: Arc<RwLock<IdxModelCache<T>>>,
}

impl<T: CacheModel> IndexCacheHandler<T> {
    /// Makes a handler that applies the notifications of `table` to `cache`.
    pub fn new(table: String, cache: Arc<RwLock<IdxModelCache<T>>>) -> Self {
        Self { table, cache }
    }
}

impl<T> IndexCacheHandler<T>
where
    T: CacheModel<Key: DeserializeOwned> + DeserializeOwned + Send + Sync,
{
    /// Applies a notification to the cache.
    fn apply(&self, notification: &CacheNotification) -> Outcome {
        match notification.action {
            Action::Truncate => {
                self.cache.write().clear();
                Outcome::Applied
            }
            Action::Reload => {
                // Which rows are stale is not known: a row that is missing can be read from the
                // table, a stale one would be believed.
                self.cache.write().clear();
                let why = notification
                    .why
                    .clone()
                    .unwrap_or_else(|| "the trigger did not say".to_string());
                Outcome::ReloadNeeded(why)
            }
            Action::Insert | Action::Update | Action::Delete => {
                let read = notification.id.as_ref().map(key_of::<T::Key>);
                let id = match read.unwrap_or_else(|| Err("it is missing".to_string())) {
                    Ok(id) => id,
                    // No row of the cache has a key that is none, so there is no row to remove.
                    Err(why) => {
                        let id = notification.id.as_ref().map(ToString::to_string);
                        let id = id.unwrap_or_default();
                        return Outcome::RowUnfit(format!("the key {id} does not fit: {why}"));
                    }
                };
                match notification.action {
                    Action::Delete => {
                        self.cache.write().remove(&id);
                        Outcome::Applied
                    }
                    _ => self.store(&id, notification),
                }
            }
        }
    }

    /// Stores the row of an insert or an update with this key. Removes the row if that is
    /// not possible.
    fn store(&self, id: &T::Key, notification: &CacheNotification) -> Outcome {
        let Some(data) = &notification.data else {
            self.cache.write().remove(id);
            return if notification.truncated {
                Outcome::RowTooLong
            } else {
                Outcome::RowUnfit(format!("{} without \"data\"", notification.action))
            };
        };
        // The row is parsed before the lock is taken, so readers wait only while it is stored.
        let parsed = guarded(|| serde_json::from_str::<T>(data.get()).map(|row| (row.key(), row)));
        let stored = match parsed {
            Ok(Ok((key, row))) if key == *id => {
                guarded(|| self.cache.write().upsert(row)).map(drop)
            }
            // Which of the two keys has changed is not known: both rows may be stale.
            Ok(Ok((other, _))) => {
                self.cache.write().remove(&other);
                Err(format!("\"id\" is {id:?} and the row's key is {other:?}"))
            }
            Ok(Err(error)) => Err(format!("\"data\" does not fit the model: {error}")),
            Err(panic) => Err(panic),
        };
        match stored {
            Ok(()) => Outcome::Applied,
            Err(why) => {
                self.cache.write().remove(id);
                Outcome::RowUnfit(why)
            }
        }
    }
}

#[async_trait]
impl<T> CacheNotificationHandler for IndexCacheHandler<T>
where
    T: CacheModel<Key: DeserializeOwned> + DeserializeOwned + Send + Sync,
{
    async fn handle_notification(&self, notification: CacheNotification) {
        self.handle_with_outcome(notification).await;
    }

    fn table_name(&self) -> &str {
        &self.table
    }

    async fn handle_with_outcome(&self, notification: CacheNotification) -> Outcome {
        let applied = guarded(|| self.apply(&notification));
        let is_torn = self.cache.read().is_torn();
        match applied {
            Ok(outcome) if !is_torn => outcome,
            // Code of the model's types panicked in the middle of a change.
            applied => {
                self.cache.write().clear();
                let why = applied.err();
                Outcome::ReloadNeeded(
                    why.unwrap_or_else(|| "a change was left half done".to_string()),
                )
            }
        }
    }
}

/// Returns the key of a payload as a model's key.
///
/// # Errors
/// If the key is none of that type, with the reason.
fn key_of<K: DeserializeOwned + 'static>(key: &Key) -> Result<K, String> {
    let mut own: Option<K> = None;
    // A uuid in any spelling is one, and needs no JSON.
    if let Some(place) = (&mut own as &mut dyn Any).downcast_mut::<Option<Uuid>>() {
        *place = key.as_uuid();
        return own.ok_or_else(|| "it is not a uuid".to_string());
    }
    let json = serde_json::to_string(key).map_err(|error| error.to_string())?;
    let read = guarded(|| serde_json::from_str(&json))?.map_err(|error| error.to_string());
    // The trigger option `long_numbers_as_text` puts long numbers in quotes.
    match key {
        Key::Text(text) if read.is_err() && text.parse::<i64>().is_ok() => {
            guarded(|| serde_json::from_str(text))?.map_err(|error| error.to_string())
        }
        _ => read,
    }
}

/// A router of payloads to the handlers of their tables.
///
/// ```
/// use postgres_index_cache_core::{CacheNotificationListener, Outcome};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let listener = CacheNotificationListener::new();
/// let payload = r#"{"table":"users","action":"delete","id":7}"#;
/// let outcome = listener.process_notification(payload).await;
/// assert_eq!(outcome, Outcome::UnknownTable("users".to_string()));
/// assert_eq!(listener.stats().unknown_tables, 1);
/// # }
/// ```
pub struct CacheNotificationListener {
    channel: String,
    /// The schema of the tables that handlers name without a schema.
    default_schema: String,
    /// The handlers, by the name that [`CacheNotificationHandler::table_name`] returns.
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
    /// Makes a listener for [`DEFAULT_CACHE_CHANNEL`].
    pub fn new() -> Self {
        Self::with_channel(DEFAULT_CACHE_CHANNEL.to_string())
    }

    /// Makes a listener for the channel with this name.
    pub fn with_channel(channel: String) -> Self {
        Self {
            channel,
            default_schema: DEFAULT_SCHEMA.to_string(),
            tables: HashMap::new(),
            counters: Counters::default(),
        }
    }

    /// Sets the schema of the tables that handlers name without a schema. It is `public` by
    /// default.
    ///
    /// The schema is never taken from a payload. Any role can send a payload, for a table of the
    /// same name in another schema. If that payload decided, every genuine change would then be an
    /// [`Outcome::OtherSchema`].
    #[must_use]
    pub fn with_default_schema(mut self, schema: impl Into<String>) -> Self {
        self.default_schema = schema.into();
        self
    }

    /// Returns the channel to LISTEN on. The name must be quoted in SQL, or PostgreSQL folds its
    /// letters to lower case.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Adds a handler. If several handlers have the same table, each is given every notification of
    /// that table.
    pub fn register_handler(&mut self, handler: Arc<dyn CacheNotificationHandler>) {
        let table = handler.table_name().to_string();
        self.tables.entry(table).or_default().push(handler);
    }

    /// Parses a payload, hands the notification to the handlers of its table, and returns the
    /// outcome. No payload makes this method panic: any role may send on a channel.
    ///
    /// If there are several handlers, or several changes in the payload, returns the first outcome
    /// that is neither [`Outcome::Applied`] nor [`Outcome::Handled`]. If there is none, returns the
    /// first outcome.
    pub async fn process_notification(&self, payload: &str) -> Outcome {
        let mut whole = None;
        for change in unpack(payload) {
            let outcome = self.process_change(&change).await;
            whole = Some(match whole {
                None | Some(Outcome::Applied | Outcome::Handled) => outcome,
                Some(other) => other,
            });
        }
        // A payload announces one change at least.
        whole.unwrap_or(Outcome::Handled)
    }

    /// Hands the change of a payload to the handlers of its table.
    async fn process_change(&self, payload: &str) -> Outcome {
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

    /// Returns the number of changes that had each outcome so far.
    pub fn stats(&self) -> ListenerStats {
        // Each counter stands for itself: no order among them is promised.
        fn read(counter: &AtomicU64) -> u64 {
            counter.load(Ordering::Relaxed)
        }
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

    /// Hands a notification to the handlers of its table, one after the other.
    async fn dispatch(&self, notification: CacheNotification) -> Outcome {
        let handlers = match self.find(&notification) {
            Ok(handlers) => handlers,
            Err(outcome) => return outcome,
        };
        // An outcome that tells of a row or table to read again must not hide behind a good one.
        let mut worst = None;
        for handler in handlers {
            let outcome = handler.handle_with_outcome(notification.clone()).await;
            let was_good = matches!(worst, Some(Outcome::Applied | Outcome::Handled));
            let is_good = matches!(outcome, Outcome::Applied | Outcome::Handled);
            if worst.is_none() || (was_good && !is_good) {
                worst = Some(outcome);
            }
        }
        // Never used: a table that was found has a handler.
        worst.unwrap_or(Outcome::UnknownTable(notification.table))
    }

    /// Finds the handlers of a notification's table.
    ///
    /// # Errors
    /// [`Outcome::UnknownTable`] or [`Outcome::OtherSchema`] if there is none.
    fn find(
        &self,
        notification: &CacheNotification,
    ) -> Result<&[Arc<dyn CacheNotificationHandler>], Outcome> {
        let unqualified = self.tables.get(&notification.table);
        // The plain form has no schema: only a handler without one can be meant.
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
