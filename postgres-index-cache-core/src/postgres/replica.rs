//! [`Replica`]: an application's typed caches, kept in step by a task of their own.
//!
//! ```text
//! Replica ── read(&users) ──→ cache behind its lock ←── task: Driver ←── PostgreSQL
//!    └── fence(), shutdown() ── commands ──────────────→ task ── events ──→ Events
//! ```
//!
//! A table that is altered is described afresh and followed on, as long as its rows still fit the model. What cannot heal
//! ends the task: [`Replica::standing`] says so, and the rows stay readable.

mod describe;
mod task;

use super::announced::PINNED;
use super::catalog::CatalogError;
use super::driver::{Driver, DriverOptions, Verified};
use super::error::DriverError;
use super::follow::FollowError;
use super::keep::Became;
use super::links::{Open, open_with};
use super::session::{ConnectError, Connector};
use super::store::{Store, Stored};
use super::typed::{Model, ModelReader};
use crate::TableShape;
use crate::index_cache::IdxModelCache;
use crate::sync::{Counters, Limits, Via};
use describe::{Described, describe};
use foldhash::quality::RandomState;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use task::Task;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How many events are kept for a subscriber that is slow; past it the oldest are counted and dropped.
const EVENTS_KEPT: usize = 16_384;

/// How many bytes the caches may take unless [`ReplicaBuilder::max_memory`] says otherwise.
const MAX_MEMORY: usize = 4 << 30;

/// Why a replica could not be opened, or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// A session to look at the tables could not be had.
    #[error("open a connection to look at the tables")]
    Connect(#[source] ConnectError),
    /// The catalogue could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A table does not exist.
    #[error("the table {0} does not exist: check its name, the database and the search_path")]
    NoTable(String),
    /// A table is named twice: one cache of it is enough, and a notification is for one.
    #[error("the table {0} is named twice")]
    Twice(String),
    /// A table cannot be followed; [`FollowError::hint`] says what to do.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The key of a table is not one uuid column, which is what a model's key is.
    #[error("the key of {0} is not one column of type uuid: a model's primary key is")]
    KeyNotUuid(String),
    /// The driver cannot go on: what the server said, or that rows do not fit the model.
    #[error(transparent)]
    Driver(Arc<DriverError>),
    /// It was shut down.
    #[error("the replica was shut down")]
    ShutDown,
}

/// How a replica stands.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Standing {
    /// Tables are being read, or a cache is locked and lacks what has come since.
    Loading,
    /// A table must be read again and waits for that, since it was read a moment ago or could not be. It is read as often as
    /// it can be, and not live in between.
    Degraded {
        /// The table, as it was named.
        table: Arc<str>,
        /// Why it must be read again.
        why: Arc<str>,
    },
    /// Every cache is its table as of the last fence or later.
    Live,
    /// A connection is lost: the rows are those of before. It will come back.
    Stale {
        /// Why.
        why: Arc<str>,
    },
    /// It will not come back.
    Ended {
        /// Why.
        error: Arc<ReplicaError>,
    },
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReplicaEvent {
    /// It is live from now on.
    Live,
    /// It is not: tables are read, or a cache is locked.
    Loading,
    /// A table must be read again, and waits for that.
    Degraded {
        /// The table, as it was named.
        table: Arc<str>,
        /// Why it must be read again.
        why: Arc<str>,
    },
    /// It is stale from now on.
    Stale {
        /// Why.
        why: Arc<str>,
    },
    /// A row has changed, also while it was stale.
    Row {
        /// The table, as it was named.
        table: Arc<str>,
        /// The row's key.
        key: Uuid,
        /// How.
        became: Became,
    },
    /// A table is read again.
    ReadAgain {
        /// The table, as it was named.
        table: Arc<str>,
        /// The cause.
        why: Arc<str>,
    },
    /// The connection for fences or for reading was lost, and is opened again. The rows are as live as they were.
    OneLost {
        /// Which.
        via: Via,
        /// Why.
        why: Arc<str>,
    },
    /// Commits wait for the notify lock: nothing is lost, nothing arrives.
    CommitsBlocked,
    /// So many events were dropped because this subscriber was slow.
    Missed(u64),
    /// It will not come back.
    Ended {
        /// Why.
        error: Arc<ReplicaError>,
    },
}

/// Figures of a replica.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Stats {
    /// How long the last fence took to come back, from when it was sent.
    pub lag: Option<Duration>,
    /// The highest transaction id that was announced.
    pub last_xid: Option<u64>,
    /// What has been counted since it was opened, or since a table was altered last.
    pub counters: Counters,
}

/// A table of a replica, whose rows are of the model `T`.
pub struct ReplicaTable<T> {
    cache: Arc<RwLock<IdxModelCache<T>>>,
    at: usize,
}

impl<T> fmt::Debug for ReplicaTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaTable").finish_non_exhaustive()
    }
}

impl<T> Clone for ReplicaTable<T> {
    fn clone(&self) -> Self {
        Self { cache: Arc::clone(&self.cache), at: self.at }
    }
}

/// The rows of a table and how they stand; they do not change while this is held. Keep it for a look-up or an iteration,
/// not longer: what comes meanwhile is collected by key, and the replica is not live until it is let go.
pub struct Reading<'a, T> {
    cache: RwLockReadGuard<'a, IdxModelCache<T>>,
    standing: Standing,
}

impl<T> fmt::Debug for Reading<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("standing", &self.standing).finish_non_exhaustive()
    }
}

impl<T> Deref for Reading<'_, T> {
    type Target = IdxModelCache<T>;

    fn deref(&self) -> &IdxModelCache<T> {
        &self.cache
    }
}

impl<T> Reading<'_, T> {
    /// How the rows stand.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether they are the table's as of the last fence or later.
    pub fn is_live(&self) -> bool {
        matches!(self.standing, Standing::Live)
    }
}

type MakeStore = Box<dyn Fn(&Arc<TableShape>) -> Box<dyn Store> + Send + Sync>;

struct WantedTable {
    name: Arc<str>,
    make_store: MakeStore,
}

/// What a replica is to be made of.
pub struct ReplicaBuilder {
    open: Open,
    tables: Vec<WantedTable>,
    limits: Limits,
    max_memory: usize,
    lock_timeout: Duration,
}

impl fmt::Debug for ReplicaBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<&str> = self.tables.iter().map(|table| &*table.name).collect();
        f.debug_struct("ReplicaBuilder").field("tables", &tables).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl ReplicaBuilder {
    /// Follows a table, `users` or `app.users`, whose key is one uuid column. The model is read from the row as JSON, with
    /// the columns that the trigger sends.
    pub fn table<T: Model>(&mut self, name: &str) -> ReplicaTable<T> {
        let cache = Arc::new(RwLock::new(IdxModelCache::with_capacity(0)));
        let table = ReplicaTable { cache: Arc::clone(&cache), at: self.tables.len() };
        // One hasher for as long as the cache lives: its digests are compared.
        let hasher = RandomState::default();
        let make_store: MakeStore = Box::new(move |shape| {
            let reader = ModelReader::<T>::new(Arc::clone(shape), hasher.clone());
            Box::new(Stored::new(Arc::clone(&cache), reader))
        });
        self.tables.push(WantedTable { name: name.into(), make_store });
        table
    }

    /// Bounds of the engine: the heartbeat, how long a fence may take, what may wait.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many bytes the caches and what waits for them may take, what the rows hold on the heap not counted; 4 GiB unless
    /// said otherwise. Past it what waits is dropped, and its table read again; when the caches alone take more, the
    /// replica ends with [`DriverError::Memory`].
    #[must_use]
    pub fn max_memory(mut self, bytes: usize) -> Self {
        self.max_memory = bytes;
        self
    }

    /// Connects, reads the tables and waits until they are live; from then on a task keeps them so.
    ///
    /// # Errors
    /// When a table cannot be followed, or what else keeps it from being live for good.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(self) -> Result<Replica, ReplicaError> {
        let described = describe(Arc::clone(&self.open), self.names()).await?;
        let mut driver = self.drive(&described).await?;
        driver.until_live(|_| {}).await.map_err(|error| ReplicaError::Driver(Arc::new(error)))?;
        driver.tell_of_rows();
        let (commands, asked) = mpsc::channel(64);
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let status = Arc::new(Mutex::new(Status { standing: Standing::Live, stats: Stats::default() }));
        let mut task = Task::new(self, described, Arc::clone(&status), events.clone(), asked);
        task.take_events(&mut driver);
        let task = tokio::spawn(task.run(driver));
        Ok(Replica { status, commands, events, task: Some(task) })
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.tables.iter().map(|table| Arc::clone(&table.name)).collect()
    }

    async fn drive(&self, described: &Described) -> Result<Driver, ReplicaError> {
        let stored = described.tables.iter().zip(&self.tables);
        let stored = stored.map(|(table, wanted)| (table.clone(), (wanted.make_store)(&table.shape))).collect();
        // Seeded by the operating system: nobody may guess it.
        let random = || RandomState::default().build_hasher().finish();
        let options = DriverOptions {
            channels: described.channels.clone(),
            fence_channel: format!("pgic_fence_{:016x}{:016x}", random(), random()),
            limits: self.limits,
            settings: PINNED.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect(),
            max_memory: self.max_memory,
            lock_timeout: self.lock_timeout,
            tells_rows: false,
            looks: true,
        };
        let opened = Driver::open_stores(Arc::clone(&self.open), stored, options).await;
        opened.map_err(|error| ReplicaError::Driver(Arc::new(error)))
    }
}

struct Status {
    standing: Standing,
    stats: Stats,
}

enum Command {
    Fence(oneshot::Sender<()>),
    Verify(usize, oneshot::Sender<Verified>),
    ShutDown,
}

/// An application's typed caches, kept in step with their tables by a task of their own.
///
/// ```no_run
/// use postgres_index_cache_core::postgres::{Connector, Replica};
/// use postgres_index_cache_core::{HasPrimaryKey, Indexable};
/// # use std::collections::HashMap;
/// # use uuid::Uuid;
/// # #[derive(serde::Deserialize)] struct User { id: Uuid, username_hash: i64 }
/// # impl HasPrimaryKey for User { fn primary_key(&self) -> Uuid { self.id } }
/// # impl Indexable for User {
/// #     fn i64_keys(&self) -> HashMap<String, Option<i64>> { HashMap::new() }
/// #     fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> { HashMap::new() }
/// # }
/// # async fn node(connector: impl Connector + 'static) -> Result<(), Box<dyn std::error::Error>> {
/// let mut builder = Replica::builder(connector);
/// let users = builder.table::<User>("users");
/// let replica = builder.open().await?;
/// // … write something to the database, then:
/// replica.fence().await?;
/// let reading = replica.read(&users);
/// println!("{} users, live: {}", reading.len(), reading.is_live());
/// # drop(reading);
/// replica.shutdown().await;
/// # Ok(()) }
/// ```
pub struct Replica {
    status: Arc<Mutex<Status>>,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<ReplicaEvent>,
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("standing", &self.standing()).finish_non_exhaustive()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.take().inspect(JoinHandle::abort);
    }
}

impl Replica {
    /// A replica to be, which connects by `connector`.
    pub fn builder(connector: impl Connector + 'static) -> ReplicaBuilder {
        ReplicaBuilder {
            open: open_with(connector),
            tables: Vec::new(),
            limits: Limits::default(),
            max_memory: MAX_MEMORY,
            lock_timeout: Duration::from_secs(10),
        }
    }

    /// The rows of a table, and how they stand. Waits for a batch of changes at the most, never for the network.
    pub fn read<'a, T>(&self, table: &'a ReplicaTable<T>) -> Reading<'a, T> {
        let cache = table.cache.read();
        // Behind the lock: what is not live is said before a row of it is changed.
        Reading { cache, standing: self.standing() }
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.status.lock().standing.clone()
    }

    /// Whether every cache is its table as of the last fence or later.
    pub fn is_live(&self) -> bool {
        matches!(self.status.lock().standing, Standing::Live)
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        self.status.lock().stats
    }

    /// Waits until everything that was committed before this call is in the caches: an application reads what it wrote.
    /// A gap is waited out; put a timeout around it where that may take too long.
    ///
    /// # Errors
    /// When the replica has ended.
    pub async fn fence(&self) -> Result<(), Arc<ReplicaError>> {
        let (reached, is_reached) = oneshot::channel();
        let ended = || match self.standing() {
            Standing::Ended { error } => error,
            _ => Arc::new(ReplicaError::ShutDown),
        };
        self.commands.send(Command::Fence(reached)).await.map_err(|_| ended())?;
        is_reached.await.map_err(|_| ended())
    }

    /// Compares the cache of a table with the table, row by row, at one exact cut, while writers go on; the cache is not
    /// changed meanwhile. Rows are compared by 64-bit digests of the columns that are sent, so what differs is told by key.
    ///
    /// # Errors
    /// When the replica has ended.
    pub async fn verify<T>(&self, table: &ReplicaTable<T>) -> Result<Verified, Arc<ReplicaError>> {
        let (done, is_done) = oneshot::channel();
        let ended = || match self.standing() {
            Standing::Ended { error } => error,
            _ => Arc::new(ReplicaError::ShutDown),
        };
        self.commands.send(Command::Verify(table.at, done)).await.map_err(|_| ended())?;
        is_done.await.map_err(|_| ended())
    }

    /// What happens from now on. A subscriber that is slow misses events, and is told how many.
    pub fn events(&self) -> Events {
        Events { receiver: self.events.subscribe() }
    }

    /// Ends the task and its connections. Its caches can still be read.
    pub async fn shutdown(mut self) {
        // A task that has ended hears nothing, and need not.
        let _ = self.commands.send(Command::ShutDown).await;
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

/// What happens to a replica, as it happens.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<ReplicaEvent>,
}

impl Events {
    /// The next event; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<ReplicaEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(ReplicaEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = ReplicaEvent> {
        futures_util::stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            Some((event, events))
        })
    }
}
