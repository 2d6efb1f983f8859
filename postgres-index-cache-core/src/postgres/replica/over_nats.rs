//! [`NatsReplicaBuilder`]: from a connection to NATS and names of tables to a replica that follows a
//! log. It has no connection to PostgreSQL.
//!
//! ```text
//! Replica ── read(&users) ──→ cache behind its lock ←── NodeTask: Follow ←── NATS ←── relay
//!    └── fence(), shutdown() ── commands ──────────────→ NodeTask ── events ──→ Events
//! ```

mod caches;
mod task;

use crate::model::TableModel;
use crate::nats::{Follow, LogError, LogName, NatsLog};
use crate::postgres::apply::models::{Model, OnMisfit};
use crate::postgres::replica::builder::{
    EVENTS_KEPT, MAX_MEMORY, RequestedTable, next_number, program_name, shortened,
};
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::handle::{Replica, ReplicaTable};
use crate::postgres::replica::publisher::Publisher;
use crate::postgres::replica::status::SharedStatus;
use caches::ModelCaches;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use task::{NodeTask, Roll};
use tokio::sync::{broadcast, mpsc};
use tracing::Instrument as _;

/// The tables and options of a replica that is to follow a log.
///
/// Options are set on `&mut self` and may be chained; [`open`](Self::open) takes the builder.
#[must_use = "a builder does nothing until it is opened"]
pub struct NatsReplicaBuilder {
    client: async_nats::Client,
    log: String,
    tables: Vec<RequestedTable>,
    max_memory: usize,
    on_misfit: OnMisfit,
    /// The name of the node; `None` for the program's.
    name: Option<String>,
    number: u64,
}

impl fmt::Debug for NatsReplicaBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<&str> = self.tables.iter().map(|table| &*table.name).collect();
        f.debug_struct("NatsReplicaBuilder")
            .field("log", &self.log)
            .field("tables", &tables)
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// Returns a builder for a replica that follows the log of this name on NATS, which `pgic relay`
    /// writes. It has the guarantees of a replica that is connected to PostgreSQL, and costs
    /// PostgreSQL nothing.
    ///
    /// What is different:
    /// - A change is seen about 0.3 ms later, since it goes through relay and NATS.
    /// - [`fence`](Self::fence), [`wait_for`](Self::wait_for) and [`verify`](Self::verify) ask the
    ///   relay. While no relay proves the rows the replica is stale, and they wait.
    /// - [`reached`](Self::reached) never knows, and [`objects`](Self::objects) is refused: a relay
    ///   does not publish that a row was written, if what it keeps of the row is the same.
    /// - The columns are those that the relay keeps. A model may read fewer.
    ///
    /// `client` is the application's: TLS, credentials and servers are set there. Keep its prefix of
    /// inboxes, `_INBOX`: a relay answers to nothing else. Give a replica a client of its own, since a
    /// slow one delays what waits behind it.
    ///
    /// ```no_run
    /// use postgres_index_cache_core::{CacheModel, Replica, async_nats, uuid::Uuid};
    ///
    /// #[derive(serde::Deserialize, CacheModel)]
    /// #[cache(table = "users")]
    /// struct User {
    ///     #[cache(key)]
    ///     id: Uuid,
    ///     username: String,
    /// }
    ///
    /// # async fn node() -> Result<(), Box<dyn std::error::Error>> {
    /// let nats = async_nats::connect("nats://nats.internal:4222").await?;
    /// let mut builder = Replica::over_nats(nats, "shop");
    /// let users = builder.model::<User>();
    /// let replica = builder.open().await?;
    ///
    /// replica.fence().await?; // what was committed in PostgreSQL before this call is in the cache
    /// let rows = replica.read(&users);
    /// println!("{} users, {}", rows.len(), rows.status());
    /// # Ok(()) }
    /// ```
    pub fn over_nats(client: async_nats::Client, log: &str) -> NatsReplicaBuilder {
        NatsReplicaBuilder {
            client,
            log: log.to_string(),
            tables: Vec::new(),
            max_memory: MAX_MEMORY,
            on_misfit: OnMisfit::default(),
            name: None,
            number: next_number(),
        }
    }
}

impl NatsReplicaBuilder {
    /// Adds the table that the model names with `#[cache(table = "app.users")]`. Returns the handle
    /// with which the open replica is asked for its rows.
    pub fn model<T: Model + TableModel>(&mut self) -> ReplicaTable<T> {
        self.table(T::TABLE)
    }

    /// Adds a table, `users` or `app.users`. Returns the handle with which the open replica is asked
    /// for its rows. Without a schema, the log must have one table of that name.
    pub fn table<T: Model>(&mut self, name: &str) -> ReplicaTable<T> {
        let (requested, table) = RequestedTable::new(name, self.tables.len(), self.number);
        self.tables.push(requested);
        table
    }

    /// Sets what happens to a row that does not fit the model; [`OnMisfit::Quarantine`] by default.
    pub fn on_misfit(&mut self, on_misfit: OnMisfit) -> &mut Self {
        self.on_misfit = on_misfit;
        self
    }

    /// Sets how many bytes the caches may take; 4 GiB by default. What the models themselves hold on
    /// the heap is not counted. Past the bound the replica is stale, and tries again.
    pub fn max_memory(&mut self, bytes: usize) -> &mut Self {
        self.max_memory = bytes;
        self
    }

    /// Sets the name by which this node answers whoever calls the roll (`pgic nodes --from`); the
    /// program's file name by default. Metrics have it as the label `node`. Choose one that tells the
    /// nodes of a fleet apart.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.name = Some(shortened(&name.into()));
        self
    }

    /// Loads the newest snapshot, reads the log behind it, and waits until a relay has proven the
    /// rows since this call. From then on a task keeps them so.
    ///
    /// Waits as long as no relay writes, or NATS does not answer: put a timeout around the call.
    ///
    /// # Errors
    /// If there is no such log, or a table is not in the log or does not fit its model.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(self) -> Result<Replica, ReplicaError> {
        let node = self.name.clone().unwrap_or_else(program_name);
        let span = tracing::info_span!("replica.open", node = node);
        Box::pin(self.open_as(node)).instrument(span).await
    }

    async fn open_as(self, node: String) -> Result<Replica, ReplicaError> {
        // The replica outlives whatever opens it.
        let span = tracing::info_span!(parent: None, "replica", node = node);
        let name: LogName = self.log.parse().map_err(LogError::from)?;
        let log = NatsLog::new(self.client, name).await?;
        if !log.is_there().await? {
            return Err(ReplicaError::NoLog(self.log));
        }
        let names: Vec<Arc<str>> = self
            .tables
            .iter()
            .map(|table| Arc::clone(&table.name))
            .collect();
        let caches = ModelCaches::new(self.log, self.tables);
        let (found, is_open) = (caches.found(), caches.is_open());
        let roll = Roll::new(&log, node.clone()).await?;
        let follow = Follow::open_into(log, Box::new(caches), self.max_memory).await?;
        let (commands, received) = mpsc::channel(64);
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let status = Arc::new(Mutex::new(SharedStatus::new(names.clone())));
        let publisher = Publisher::new(names, Arc::clone(&status), events.clone());
        #[cfg(feature = "metrics")]
        let publisher = publisher.with_metrics_of(&node);
        let mut task = NodeTask::new(follow, found, publisher, received, roll, self.on_misfit);
        task.until_live().await?;
        is_open.store(true, Ordering::Relaxed);
        let task = tokio::spawn(task.run().instrument(span));
        Ok(Replica {
            status,
            commands,
            events,
            task: Mutex::new(Some(task)),
            number: self.number,
            is_over_log: true,
        })
    }
}

impl From<LogError> for ReplicaError {
    fn from(error: LogError) -> Self {
        Self::Log(Arc::new(error))
    }
}
