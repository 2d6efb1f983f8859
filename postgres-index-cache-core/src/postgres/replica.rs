//! [`Replica`]: an application's typed caches, kept in step by a task of their own.
//!
//! ```text
//! Replica ── read(&users) ──→ cache behind its lock ←── task: Supervisor ←── PostgreSQL
//!    └── fence(), shutdown() ── commands ──────────────→ task ── events ──→ Events
//! ```
//!
//! Once it is open, nothing but its owner ends it. A table that is altered, renamed or swapped is
//! described afresh by its name and followed on; one that cannot be followed or read is stale, with
//! the cause, until that is undone; the others go on. A row that does not fit the model is kept out
//! ([`OnMisfit`]).

mod describe;
pub(super) mod supervisor;
mod task;

use crate::index_cache::IdxModelCache;
use crate::postgres::apply::models::{Model, ModelCache, ModelDecoder, OnMisfit};
use crate::postgres::apply::sink::RowChangeKind;
use crate::postgres::apply::writer::SinkWriter;
use crate::postgres::connection::open::{Open, open_with};
use crate::postgres::connection::session::{ConnectError, Connector};
use crate::postgres::driver::Verification;
use crate::postgres::error::DriverError;
use crate::postgres::options::DriverOptions;
use crate::postgres::replica::supervisor::{
    Describe, MakeStore, Supervisor, SupervisorError, Unfollowed,
};
use crate::postgres::schema::catalog::CatalogError;
use crate::postgres::schema::eligibility::FollowError;
use crate::postgres::schema::triggers::PINNED;
use crate::sync::{AuxConnection, Counters, Limits};
use describe::{ReplicaTableSource, describe, describe_again};
use foldhash::quality::RandomState;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use task::Task;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How many events are kept for a subscriber that is slow; past it the oldest are counted and
/// dropped.
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
    /// A table could not be followed any more while it was opened.
    #[error(transparent)]
    Unfollowed(#[from] Unfollowed),
    /// A table of another replica was asked for.
    #[error(
        "the table is of another replica: each table belongs to the replica whose builder gave it"
    )]
    OtherReplica,
    /// The task that keeps the caches in step panicked, which is a mistake of this library.
    #[error("the task that keeps the caches in step panicked: {0}")]
    Panicked(String),
    /// It was shut down, or dropped.
    #[error("the replica was shut down")]
    ShutDown,
}

impl From<SupervisorError> for ReplicaError {
    fn from(error: SupervisorError) -> Self {
        match error {
            SupervisorError::Driver(error) => Self::Driver(Arc::new(error)),
            SupervisorError::Unfollowed(error) => Self::Unfollowed(error),
        }
    }
}

/// How a replica stands, or one of its tables. A replica stands as the worst of its tables does.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReplicaStatus {
    /// The cache is its table as of the last fence or later.
    Live,
    /// The cache is not wholly its table: rows do not fit the model and are kept out
    /// ([`ReadGuard::misfits`]), or the table must be read again and waits for that, since it was
    /// read a moment ago.
    Degraded {
        /// The table, as it was named.
        table: Arc<str>,
        /// Why.
        why: Arc<str>,
    },
    /// The table is being read, or its cache is locked and lacks what has come since.
    Loading,
    /// The rows are those of before: a connection is lost, or the table cannot be followed or read.
    /// It is tried again for ever.
    Stale {
        /// The table, as it was named; `None`: all of them.
        table: Option<Arc<str>>,
        /// Why, and the remedy where one is known.
        why: Arc<str>,
        /// Since when changes may be missing: the last moment at which nothing was.
        since: SystemTime,
    },
    /// Its owner has ended it.
    Ended {
        /// Why.
        error: Arc<ReplicaError>,
    },
}

impl ReplicaStatus {
    /// How bad it is: the worst of the tables counts for the replica.
    fn rank(&self) -> u8 {
        match self {
            Self::Live => 0,
            Self::Degraded { .. } => 1,
            Self::Loading => 2,
            Self::Stale { .. } => 3,
            Self::Ended { .. } => 4,
        }
    }

    /// Whether nobody need be told of the difference.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Live, Self::Live)
            | (Self::Loading, Self::Loading)
            | (Self::Ended { .. }, Self::Ended { .. }) => true,
            (Self::Degraded { table: a, why: b }, Self::Degraded { table: c, why: d }) => {
                (a, b) == (c, d)
            }
            (
                Self::Stale {
                    table: a, why: b, ..
                },
                Self::Stale {
                    table: c, why: d, ..
                },
            ) => (a, b) == (c, d),
            _ => false,
        }
    }
}

/// What happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReplicaEvent {
    /// It is live from now on.
    Live,
    /// It is not: tables are read, or a cache is locked.
    Loading,
    /// A table must be read again and waits for that, or rows of it do not fit the model.
    Degraded {
        /// The table, as it was named.
        table: Arc<str>,
        /// Why it must be read again.
        why: Arc<str>,
    },
    /// A table is stale from now on, or for this reason from now on.
    Stale {
        /// The table, as it was named; `None`: all of them.
        table: Option<Arc<str>>,
        /// Why, and the remedy where one is known.
        why: Arc<str>,
        /// Since when changes may be missing.
        since: SystemTime,
    },
    /// A row does not fit the model, and is kept out of the cache until it does.
    Misfit {
        /// The table, as it was named.
        table: Arc<str>,
        /// The row's key.
        key: Uuid,
        /// What does not fit.
        why: Arc<str>,
        /// The server's process whose notification brought it; `None`: it was read.
        sender: Option<i32>,
    },
    /// A row has changed, also while it was stale.
    Row {
        /// The table, as it was named.
        table: Arc<str>,
        /// The row's key.
        key: Uuid,
        /// How.
        change: RowChangeKind,
    },
    /// A table is read again.
    ReadAgain {
        /// The table, as it was named.
        table: Arc<str>,
        /// The cause.
        why: Arc<str>,
    },
    /// The connection for fences or for reading was lost, and is opened again. The rows are as live
    /// as they were.
    AuxConnectionLost {
        /// Which.
        via: AuxConnection,
        /// Why.
        why: Arc<str>,
    },
    /// Commits wait for the notify lock: nothing is lost, nothing arrives.
    CommitsBlocked,
    /// So many events were dropped because this subscriber was slow.
    Missed(u64),
    /// Its owner has ended it: there are no more events.
    Ended {
        /// Why.
        error: Arc<ReplicaError>,
    },
}

/// Figures of a replica.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Stats {
    /// How long the last fence took to come back, from when it was sent; `None` while nothing is
    /// listened to.
    pub lag: Option<Duration>,
    /// The highest transaction id that was announced.
    pub last_xid: Option<u64>,
    /// What has been counted since it was opened, or since a table was altered last.
    pub counters: Counters,
}

/// A table of a replica, whose rows are of the model `T`.
pub struct ReplicaTable<T> {
    cache: Arc<RwLock<ModelCache<T>>>,
    at: usize,
    /// The replica that it belongs to.
    replica: u64,
}

impl<T> fmt::Debug for ReplicaTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaTable").finish_non_exhaustive()
    }
}

impl<T> Clone for ReplicaTable<T> {
    fn clone(&self) -> Self {
        Self {
            cache: Arc::clone(&self.cache),
            at: self.at,
            replica: self.replica,
        }
    }
}

/// The rows of a table and how they stand; they do not change while this is held. CacheSink it for a
/// look-up or an iteration, not longer: what comes meanwhile is collected by key, and the replica
/// is not live until it is let go.
pub struct ReadGuard<'a, T> {
    cache: RwLockReadGuard<'a, ModelCache<T>>,
    status: ReplicaStatus,
    is_current: bool,
}

impl<T> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadGuard")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = IdxModelCache<T>;

    fn deref(&self) -> &IdxModelCache<T> {
        &self.cache.rows
    }
}

impl<T> ReadGuard<'_, T> {
    /// How the rows of this table stand.
    pub fn status(&self) -> &ReplicaStatus {
        &self.status
    }

    /// Whether they are the table's as of the last fence or later, every one.
    pub fn is_live(&self) -> bool {
        matches!(self.status, ReplicaStatus::Live)
    }

    /// Whether they are the table's as of the last fence or later, but for the rows that do not fit
    /// the model: [`misfits`](Self::misfits) has those.
    pub fn is_current(&self) -> bool {
        self.is_current
    }

    /// The keys of the rows that do not fit the model and are kept out, with the causes; the cause
    /// is empty for those past the first thousand.
    pub fn misfits(&self) -> impl ExactSizeIterator<Item = (&Uuid, &str)> {
        self.cache.misfits()
    }
}

struct WantedTable {
    name: Arc<str>,
    make_store: Box<dyn FnOnce(OnMisfit) -> MakeStore + Send + Sync>,
}

/// What a replica is to be made of.
pub struct ReplicaBuilder {
    open: Open,
    tables: Vec<WantedTable>,
    limits: Limits,
    max_memory: usize,
    lock_timeout: Duration,
    on_misfit: OnMisfit,
    /// Tells the tables of this replica from those of others.
    replica: u64,
}

impl fmt::Debug for ReplicaBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables: Vec<&str> = self.tables.iter().map(|table| &*table.name).collect();
        f.debug_struct("ReplicaBuilder")
            .field("tables", &tables)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl ReplicaBuilder {
    /// Follows a table, `users` or `app.users`, whose key is one uuid column. The model is read
    /// from the row as JSON, with the columns that the trigger sends.
    pub fn table<T: Model>(&mut self, name: &str) -> ReplicaTable<T> {
        let cache = Arc::new(RwLock::new(ModelCache::new(OnMisfit::default())));
        let table = ReplicaTable {
            cache: Arc::clone(&cache),
            at: self.tables.len(),
            replica: self.replica,
        };
        // One hasher for as long as the cache lives: its digests are compared.
        let hasher = RandomState::default();
        let make_store = Box::new(move |on_misfit| -> MakeStore {
            *cache.write() = ModelCache::new(on_misfit);
            Box::new(move |shape| {
                let reader = ModelDecoder::<T>::new(Arc::clone(shape), hasher.clone(), on_misfit);
                Box::new(SinkWriter::new(Arc::clone(&cache), reader))
            })
        });
        self.tables.push(WantedTable {
            name: name.into(),
            make_store,
        });
        table
    }

    /// What happens to a row that does not fit the model; [`OnMisfit::Quarantine`] unless said
    /// otherwise.
    #[must_use]
    pub fn on_misfit(mut self, on_misfit: OnMisfit) -> Self {
        self.on_misfit = on_misfit;
        self
    }

    /// Bounds of the engine: the heartbeat, how long a fence may take, what may wait.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// How many bytes the caches and what waits for them may take, what the rows hold on the heap
    /// not counted; 4 GiB unless said otherwise. Past it what waits is dropped, and its table read
    /// again. When the caches alone take more, it cannot be opened ([`DriverError::Memory`]); a
    /// table that was live is stale, and tried again.
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
        let Self {
            open,
            tables,
            limits,
            max_memory,
            lock_timeout,
            on_misfit,
            replica,
        } = self;
        let names: Arc<[Arc<str>]> = tables.iter().map(|table| Arc::clone(&table.name)).collect();
        let described = describe(Arc::clone(&open), names.to_vec()).await?;
        let targets = described
            .into_iter()
            .collect::<Result<Vec<ReplicaTableSource>, _>>()?;
        let stores: Vec<MakeStore> = tables
            .into_iter()
            .map(|table| (table.make_store)(on_misfit))
            .collect();
        // Seeded by the operating system: nobody may guess it.
        let random = || RandomState::default().build_hasher().finish();
        let options = DriverOptions {
            channels: Vec::new(),
            fence_channel: format!("pgic_fence_{:016x}{:016x}", random(), random()),
            limits,
            settings: PINNED
                .iter()
                .map(|(name, value)| ((*name).to_string(), (*value).to_string()))
                .collect(),
            max_memory,
            lock_timeout,
            row_events: false,
            holds_altered: true,
        };
        let again: Describe<ReplicaTableSource> = {
            // A table of the same name that is made later in another schema of the search_path is
            // another one.
            let relations: Vec<Arc<str>> = targets
                .iter()
                .map(|target| Arc::clone(&target.relation))
                .collect();
            let open = Arc::clone(&open);
            Arc::new(move || Box::pin(describe_again(Arc::clone(&open), relations.clone())))
        };
        let opened = Supervisor::open_given(open, again, targets, Arc::new(stores), options).await;
        let mut supervisor = opened.map_err(|error| ReplicaError::Driver(Arc::new(error)))?;
        supervisor.until_loaded(|_| {}).await?;
        supervisor.driver_mut().record_row_events();
        let (commands, asked) = mpsc::channel(64);
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let status = Arc::new(Mutex::new(SharedStatus::new(&names)));
        let mut task = Task::new(names, Arc::clone(&status), events.clone(), asked);
        task.take_events(&mut supervisor);
        task.take_states(&supervisor);
        let task = tokio::spawn(task.run(supervisor));
        Ok(Replica {
            status,
            commands,
            events,
            task: Some(task),
            number: replica,
        })
    }
}

/// How one table stands.
#[derive(Debug, Clone)]
struct TableStatus {
    status: ReplicaStatus,
    /// Whether the rows that are there are those of the table as of the last fence or later.
    is_current: bool,
}

struct SharedStatus {
    tables: Vec<TableStatus>,
    stats: Stats,
    /// Set when its owner has ended it.
    ended: Option<Arc<ReplicaError>>,
}

impl SharedStatus {
    fn new(names: &[Arc<str>]) -> Self {
        let live = TableStatus {
            status: ReplicaStatus::Live,
            is_current: true,
        };
        Self {
            tables: vec![live; names.len()],
            stats: Stats::default(),
            ended: None,
        }
    }

    /// How all of it stands: as the worst of the tables.
    fn status(&self) -> ReplicaStatus {
        if let Some(error) = &self.ended {
            return ReplicaStatus::Ended {
                error: Arc::clone(error),
            };
        }
        let worst = self
            .tables
            .iter()
            .map(|table| &table.status)
            .max_by_key(|status| status.rank());
        worst.cloned().unwrap_or(ReplicaStatus::Live)
    }

    fn table(&self, at: usize) -> TableStatus {
        match &self.ended {
            Some(error) => TableStatus {
                status: ReplicaStatus::Ended {
                    error: Arc::clone(error),
                },
                is_current: false,
            },
            None => self.tables[at].clone(),
        }
    }
}

enum Command {
    /// For a table, or for all of them.
    Fence(Option<usize>, oneshot::Sender<()>),
    Verify(usize, oneshot::Sender<Verification>),
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
    status: Arc<Mutex<SharedStatus>>,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<ReplicaEvent>,
    task: Option<JoinHandle<()>>,
    /// The number that its tables have.
    number: u64,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("status", &self.status())
            .finish_non_exhaustive()
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
        static REPLICAS: AtomicU64 = AtomicU64::new(0);
        ReplicaBuilder {
            on_misfit: OnMisfit::default(),
            replica: REPLICAS.fetch_add(1, Ordering::Relaxed),
            open: open_with(connector),
            tables: Vec::new(),
            limits: Limits::default(),
            max_memory: MAX_MEMORY,
            lock_timeout: Duration::from_secs(10),
        }
    }

    /// The rows of a table, and how they stand. Waits for a batch of changes at the most, never for
    /// the network.
    ///
    /// The rows of another replica's table are never live: their status is [`ReplicaStatus::Ended`]
    /// with [`ReplicaError::OtherReplica`].
    pub fn read<'a, T>(&self, table: &'a ReplicaTable<T>) -> ReadGuard<'a, T> {
        let cache = table.cache.read();
        // Read the status while holding the cache's lock. The task publishes that a table is not
        // live before it changes a row, so a reader never sees changed rows under an old `Live`.
        let TableStatus { status, is_current } = if table.replica == self.number {
            self.status.lock().table(table.at)
        } else {
            TableStatus {
                status: ReplicaStatus::Ended {
                    error: Arc::new(ReplicaError::OtherReplica),
                },
                is_current: false,
            }
        };
        ReadGuard {
            cache,
            status,
            is_current,
        }
    }

    /// How it stands: as the worst of its tables.
    pub fn status(&self) -> ReplicaStatus {
        self.status.lock().status()
    }

    /// Whether every cache is its table as of the last fence or later.
    pub fn is_live(&self) -> bool {
        matches!(self.status(), ReplicaStatus::Live)
    }

    /// Figures.
    pub fn stats(&self) -> Stats {
        self.status.lock().stats
    }

    /// Waits until everything that was committed before this call is in the caches, and the
    /// definitions of the tables were looked at since: an application reads what it wrote. A gap is
    /// waited out, and so is a table that cannot be followed; put a timeout around it where that
    /// may take too long.
    ///
    /// # Errors
    /// When the replica has ended.
    pub async fn fence(&self) -> Result<(), Arc<ReplicaError>> {
        self.fence_of(None).await
    }

    /// The same for the cache of one table, whatever the others do: one that cannot be followed is
    /// not waited for.
    ///
    /// # Errors
    /// When the replica has ended, or the table is of another one.
    pub async fn fence_for<T>(&self, table: &ReplicaTable<T>) -> Result<(), Arc<ReplicaError>> {
        if table.replica != self.number {
            return Err(Arc::new(ReplicaError::OtherReplica));
        }
        self.fence_of(Some(table.at)).await
    }

    async fn fence_of(&self, table: Option<usize>) -> Result<(), Arc<ReplicaError>> {
        let (reached, is_reached) = oneshot::channel();
        self.commands
            .send(Command::Fence(table, reached))
            .await
            .map_err(|_| self.ended())?;
        is_reached.await.map_err(|_| self.ended())
    }

    /// Why it has ended, once its task is gone.
    fn ended(&self) -> Arc<ReplicaError> {
        match self.status() {
            ReplicaStatus::Ended { error } => error,
            _ => Arc::new(ReplicaError::ShutDown),
        }
    }

    /// Compares the cache of a table with the table, row by row, at one exact cut, while writers go
    /// on; the cache is not changed meanwhile. Rows are compared by 64-bit digests of the columns
    /// that are sent, so what differs is told by key.
    ///
    /// # Errors
    /// When the replica has ended, or the table is of another one.
    pub async fn verify<T>(
        &self,
        table: &ReplicaTable<T>,
    ) -> Result<Verification, Arc<ReplicaError>> {
        if table.replica != self.number {
            return Err(Arc::new(ReplicaError::OtherReplica));
        }
        let (done, is_done) = oneshot::channel();
        self.commands
            .send(Command::Verify(table.at, done))
            .await
            .map_err(|_| self.ended())?;
        is_done.await.map_err(|_| self.ended())
    }

    /// What happens from now on. A subscriber that is slow misses events, and is told how many. The
    /// last event is [`ReplicaEvent::Ended`].
    pub fn events(&self) -> Events {
        let receiver = self.events.subscribe();
        // Whoever asks after the end is told of it all the same.
        Events {
            receiver,
            ended: self.status.lock().ended.clone(),
            is_over: false,
        }
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
    /// That the replica had ended before anybody listened.
    ended: Option<Arc<ReplicaError>>,
    is_over: bool,
}

impl Events {
    /// The next event; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<ReplicaEvent> {
        if self.is_over {
            return None;
        }
        let event = match self.ended.take() {
            Some(error) => Some(ReplicaEvent::Ended { error }),
            None => match self.receiver.recv().await {
                Ok(event) => Some(event),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    Some(ReplicaEvent::Missed(missed))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            },
        };
        self.is_over = matches!(event, None | Some(ReplicaEvent::Ended { .. }));
        event
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = ReplicaEvent> {
        futures_util::stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            Some((event, events))
        })
    }
}
