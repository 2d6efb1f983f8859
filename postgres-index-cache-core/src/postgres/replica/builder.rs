//! [`ReplicaBuilder`]: from a connector and names of tables to a replica that is live.

use crate::model::TableModel;
use crate::postgres::apply::models::{Model, ModelCache, ModelDecoder, OnMisfit};
use crate::postgres::apply::sink_writer::SinkWriter;
use crate::postgres::connection::open::{Open, open_with};
use crate::postgres::connection::session::Connector;
use crate::postgres::options::{AnswerOptions, DriverOptions};
use crate::postgres::replica::describe::{DescribedTable, Requested, describe, describe_again};
use crate::postgres::replica::error::ReplicaError;
use crate::postgres::replica::handle::{Replica, ReplicaTable};
use crate::postgres::replica::model_needs::ModelNeeds;
use crate::postgres::replica::publisher::Publisher;
use crate::postgres::replica::status::SharedStatus;
use crate::postgres::replica::supervisor::{Describe, MakeWriter, Supervisor};
use crate::postgres::replica::task::Task;
use crate::sync::Limits;
use parking_lot::{Mutex, RwLock};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};
use tracing::Instrument as _;

/// How many events are kept for a subscriber that is slow. Past it the oldest are counted and
/// dropped.
pub(super) const EVENTS_KEPT: usize = 16_384;

/// The most answers to the fleet's questions in a second.
const ANSWERS_PER_SECOND: u32 = 100;

/// How many bytes the caches may take unless [`ReplicaBuilder::max_memory`] says otherwise.
pub(super) const MAX_MEMORY: usize = 4 << 30;

/// A table that a replica is to have.
pub(super) struct RequestedTable {
    pub(super) name: Arc<str>,
    pub(super) needs: ModelNeeds,
    /// Makes the function that makes the table's writers.
    pub(super) make_writer: Box<dyn FnOnce(OnMisfit) -> MakeWriter + Send + Sync>,
}

impl RequestedTable {
    /// Requests a table for the place `at` of the replica with this number. Returns the request and
    /// the application's handle.
    pub(super) fn new<T: Model>(name: &str, at: usize, replica: u64) -> (Self, ReplicaTable<T>) {
        let cache = Arc::new(RwLock::new(ModelCache::new(OnMisfit::default())));
        let table = ReplicaTable {
            cache: Arc::clone(&cache),
            at,
            replica,
        };
        let make_writer = move |on_misfit| -> MakeWriter {
            *cache.write() = ModelCache::new(on_misfit);
            let last = Mutex::new(None);
            Box::new(move |shape| {
                // A reader may hold the cache's lock, which is not waited for without need.
                if last.lock().replace(Arc::clone(shape)).as_ref() != Some(shape) {
                    cache.write().take_rows_of(shape);
                }
                let decoder = ModelDecoder::<T>::new(Arc::clone(shape), on_misfit);
                Box::new(SinkWriter::new(Arc::clone(&cache), decoder))
            })
        };
        let requested = Self {
            name: name.into(),
            needs: ModelNeeds::of::<T>(),
            make_writer: Box::new(make_writer),
        };
        (requested, table)
    }
}

/// Returns a number that no other replica of the process has.
pub(super) fn next_number() -> u64 {
    static REPLICAS: AtomicU64 = AtomicU64::new(0);
    REPLICAS.fetch_add(1, Ordering::Relaxed)
}

/// The tables and options of a replica that is to be opened.
///
/// Options are set on `&mut self` and may be chained; [`open`](Self::open) takes the builder.
///
/// ```no_run
/// # use postgres_index_cache_core::{Connector, Limits, OnMisfit, Replica};
/// # use std::time::Duration;
/// # async fn node(connector: impl Connector + 'static) -> Result<(), Box<dyn std::error::Error>> {
/// let mut builder = Replica::builder(connector);
/// builder.max_memory(1 << 30).on_misfit(OnMisfit::Refuse);
/// let replica = builder.open().await?;
/// # Ok(()) }
/// ```
#[must_use = "a builder does nothing until it is opened"]
pub struct ReplicaBuilder {
    open: Open,
    tables: Vec<RequestedTable>,
    limits: Limits,
    max_memory: usize,
    /// How many sessions read at once; `None` for the default of `limits`.
    jobs: Option<NonZeroUsize>,
    lock_timeout: Duration,
    on_misfit: OnMisfit,
    /// The name by which the node answers; `None` for the program's.
    name: Option<String>,
    answers: bool,
    /// Tells the tables of this replica from those of others.
    number: u64,
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

impl Replica {
    /// Returns a builder for a replica that connects by `connector`, for example a
    /// [`tokio_postgres::Config`].
    pub fn builder(connector: impl Connector + 'static) -> ReplicaBuilder {
        ReplicaBuilder {
            open: open_with(connector),
            tables: Vec::new(),
            limits: Limits::default(),
            max_memory: MAX_MEMORY,
            jobs: None,
            lock_timeout: Duration::from_secs(10),
            on_misfit: OnMisfit::default(),
            name: None,
            answers: true,
            number: next_number(),
        }
    }
}

impl ReplicaBuilder {
    /// Adds the table that the model names with `#[cache(table = "app.users")]`. Returns the handle
    /// with which the open replica is asked for its rows.
    pub fn model<T: Model + TableModel>(&mut self) -> ReplicaTable<T> {
        self.table(T::TABLE)
    }

    /// Adds a table, `users` or `app.users`. Returns the handle with which the open replica is asked
    /// for its rows.
    ///
    /// The model is read from each row as JSON, with the columns that the trigger sends. If the
    /// model tells its columns, the others are not read, and changes of their values are nothing to
    /// the cache.
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

    /// Sets the bounds of the engine: the heartbeat, how long a fence may take, how much may wait.
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.limits = limits;
        self
    }

    /// Sets how many bytes the caches and the changes that wait for them may take; 4 GiB by
    /// default. What the models themselves hold on the heap is not counted.
    ///
    /// Past the bound, the changes that wait are dropped and their table is read again. If the
    /// caches alone take more, the replica cannot be opened; a table that was live is stale, and
    /// tried again.
    pub fn max_memory(&mut self, bytes: usize) -> &mut Self {
        self.max_memory = bytes;
        self
    }

    /// Sets how many sessions read tables at once, each with a session of the server: parts of a
    /// large table, or several large tables. By default a table is read by one session, and several
    /// tables by as many as [`Limits::side_reads`] says.
    ///
    /// PostgreSQL reads with one core for each session. More sessions are faster where the replica
    /// waits for the server: with values that are long, compressed or `jsonb`, and over networks on
    /// which one connection is slow. They are closed once the tables are read.
    pub fn jobs(&mut self, sessions: NonZeroUsize) -> &mut Self {
        self.jobs = Some(sessions);
        self
    }

    /// Sets the name by which this node answers whoever asks for the fleet (`pgic nodes`); the
    /// program's file name by default. Metrics have it as the label `node`. Choose one that tells the
    /// nodes of a fleet apart.
    pub fn name(&mut self, name: impl Into<String>) -> &mut Self {
        self.name = Some(shortened(&name.into()));
        self
    }

    /// Sets whether the replica answers the questions of the fleet; it does by default.
    ///
    /// Any role of the database can ask, on the channel `pgic_control`, and listen to the answers.
    /// They have states, counts and digests of rows, and no values. A replica gives at most 100
    /// answers a second. While the fleet is compared with a table, the changes of that table are
    /// held back, for a quarter of the time at most. `docs/fleet.md` in the repository has the
    /// protocol.
    pub fn answers(&mut self, answers: bool) -> &mut Self {
        self.answers = answers;
        self
    }

    /// Sets how long a read may wait for a table's lock, and a fence for commits that are blocked;
    /// 10 s by default.
    pub fn lock_timeout(&mut self, timeout: Duration) -> &mut Self {
        self.lock_timeout = timeout;
        self
    }

    /// Connects, reads the tables and waits until they are live. From then on a task keeps them so.
    ///
    /// # Errors
    /// If a table cannot be followed, or something else keeps it from being live for good.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(self) -> Result<Replica, ReplicaError> {
        let span = tracing::info_span!("replica.open", node = self.node_name());
        Box::pin(self.open_now()).instrument(span).await
    }

    async fn open_now(self) -> Result<Replica, ReplicaError> {
        // The replica outlives whatever opens it.
        let span = tracing::info_span!(parent: None, "replica", node = self.node_name());
        #[cfg(feature = "metrics")]
        let node = self.node_name();
        let names: Vec<Arc<str>> = self
            .tables
            .iter()
            .map(|table| Arc::clone(&table.name))
            .collect();
        let requested = self.tables.iter().map(|table| Requested {
            name: Arc::clone(&table.name),
            needs: table.needs,
        });
        let described = describe(Arc::clone(&self.open), requested.collect()).await?;
        let targets = described
            .into_iter()
            .collect::<Result<Vec<DescribedTable>, _>>()?;
        let describe_again = describe_again_as(&self.open, &targets);
        let options = self.driver_options();
        let make_writers: Vec<MakeWriter> = self
            .tables
            .into_iter()
            .map(|table| (table.make_writer)(self.on_misfit))
            .collect();
        let mut supervisor = Supervisor::open_given(
            self.open,
            describe_again,
            targets,
            Arc::new(make_writers),
            options,
        )
        .await
        .map_err(|error| ReplicaError::Driver(Arc::new(error)))?;
        supervisor.until_loaded(|_| {}).await?;
        // Nobody is told of the rows of the first read.
        supervisor.driver_mut().record_row_events();
        let (commands, received) = mpsc::channel(64);
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        let status = Arc::new(Mutex::new(SharedStatus::new(names.clone())));
        let publisher = Publisher::new(names, Arc::clone(&status), events.clone());
        #[cfg(feature = "metrics")]
        let publisher = publisher.with_metrics_of(&node);
        let mut task = Task::new(publisher, received);
        // What has happened since the tables were loaded must be known before the first reader.
        task.take_events(&mut supervisor);
        task.take_states(&supervisor);
        let task = tokio::spawn(task.run(supervisor).instrument(span));
        Ok(Replica {
            status,
            commands,
            events,
            task: Mutex::new(Some(task)),
            number: self.number,
            #[cfg(feature = "nats")]
            is_over_log: false,
        })
    }

    /// Returns the name of this node.
    fn node_name(&self) -> String {
        self.name.clone().unwrap_or_else(program_name)
    }

    fn driver_options(&self) -> DriverOptions {
        let mut options = DriverOptions {
            limits: self.limits,
            lock_timeout: self.lock_timeout,
            answers: self.answers.then(|| {
                Box::new(AnswerOptions {
                    name: self.node_name(),
                    host: host_name(),
                    per_second: ANSWERS_PER_SECOND,
                })
            }),
            ..DriverOptions::new(self.max_memory)
        };
        if let Some(jobs) = self.jobs {
            options.read_by(jobs.get());
        }
        options
    }
}

/// Returns the program's file name.
pub(super) fn program_name() -> String {
    let program = std::env::current_exe().ok();
    let stem = program.as_deref().and_then(Path::file_stem);
    stem.map_or_else(
        || "node".to_string(),
        |stem| shortened(&stem.to_string_lossy()),
    )
}

/// Returns the machine's name.
pub(super) fn host_name() -> String {
    shortened(&gethostname::gethostname().to_string_lossy())
}

/// Returns the beginning of a name: an answer must fit into a notification.
pub(super) fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Returns the function that describes these tables afresh.
///
/// It asks for them with the schemas in which they were found. A table of the same name that is
/// created later in another schema of the search_path is another table.
fn describe_again_as(open: &Open, targets: &[DescribedTable]) -> Describe<DescribedTable> {
    let requested: Vec<Requested> = targets.iter().map(DescribedTable::requested).collect();
    let open = Arc::clone(open);
    Arc::new(move || Box::pin(describe_again(Arc::clone(&open), requested.clone())))
}
