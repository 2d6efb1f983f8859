//! [`Driver`]: runs the engine on tokio-postgres. The driver does the work that the engine asks
//! for, and tells the engine of everything that happens.
//!
//! ```text
//!              notifications, answers, rows, time
//! connections ────────────────────────────────────→ turn ──→ Engine
//!   L, F, Q   ←──────────────────────────────────── outputs ←─┘
//!              NOTIFY, COPY, look                      └──→ CacheWriter ─ lock ─→ cache
//! ```
//!
//! - `turn`: waits for one thing to happen, and hands it to the engine.
//! - `outputs`: carries out the engine's outputs, and applies changes once a cache's lock is free.
//! - `answers`: answers the fleet's questions.
//! - `connections`: opens L, F and Q, and sends tokens by them.
//! - `reads`: reads tables and rows.
//! - `lanes`: the sessions that read: Q, and those of side reads.
//! - `storing`: puts the rows of reads into the caches.
//! - `comparisons`: compares caches with their tables.
//! - `looks`: looks at the tables' definitions on F.
//! - `memory`: keeps the caches within their bound.
//! - `events`: what the driver tells whoever looks on.

mod answers;
mod comparisons;
mod connections;
mod events;
mod lanes;
mod looks;
mod memory;
mod outputs;
mod reads;
mod storing;
mod turn;

pub use comparisons::{QuestionId, Verification};
pub use events::{DriverEvent, Loaded};
pub(in crate::postgres) use memory::CacheSize;

use crate::postgres::apply::cells::CellDecoder;
use crate::postgres::apply::driver_table::DriverTable;
use crate::postgres::apply::sink_writer::SinkWriter;
use crate::postgres::apply::writer::CacheWriter;
use crate::postgres::connection::open::{Open, open_with};
use crate::postgres::connection::session::Connector;
use crate::postgres::connection::sessions::{ConnectionEvent, Opener, Sessions};
use crate::postgres::error::DriverError;
use crate::postgres::options::DriverOptions;
use crate::postgres::read::request::ReadFailed;
use crate::postgres::schema::eligibility::TableConfig;
use crate::sync::{Engine, FenceId, Input, Output, State, TableId};
use crate::table_cache::TableCache;
use crate::transaction::TransactionToken;
use answers::Answers;
use lanes::Reads;
use memory::Memory;
use parking_lot::{RwLock, RwLockReadGuard};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Notification;
use turn::TaskEvent;
use uuid::Uuid;

/// The state of a table as the driver tells it. The engine's state counts once the operations that
/// wait for the cache's lock are applied.
#[derive(Debug, Clone, Copy)]
struct TableProgress {
    /// The state that was told last.
    state: State,
    /// Whether the engine has called the table live, and the driver has not told so yet.
    is_live_next: bool,
    /// The highest fence that the engine has called reached.
    arrived: Option<FenceId>,
    /// The highest fence that the engine has called reached, and behind which a change could not be
    /// stored. It is reached once the table is live again.
    doubted: Option<FenceId>,
    /// The highest fence up to which every change is in the cache.
    reached: Option<FenceId>,
    /// When the state was told.
    state_since: SystemTime,
    /// How often the table was read.
    reads: u64,
}

/// The channels from the driver's tasks to the driver. Each receiver has its sender beside it, of
/// which every task gets a clone.
struct Channels {
    /// Sessions that were opened, and sessions that ended.
    connections: mpsc::Receiver<ConnectionEvent>,
    connections_tx: mpsc::Sender<ConnectionEvent>,
    /// Answers of the server to statements on L and F, and to tokens on Q.
    tasks: mpsc::Receiver<TaskEvent>,
    tasks_tx: mpsc::Sender<TaskEvent>,
    /// Failures of reads. They have a channel of their own, since that of the rows may be full.
    failures: mpsc::Receiver<ReadFailed>,
    failures_tx: mpsc::Sender<ReadFailed>,
}

impl Channels {
    fn new() -> Self {
        let (connections_tx, connections) = mpsc::channel(16);
        let (tasks_tx, tasks) = mpsc::channel(16);
        let (failures_tx, failures) = mpsc::channel(1);
        Self {
            connections,
            connections_tx,
            tasks,
            tasks_tx,
            failures,
            failures_tx,
        }
    }
}

/// A driver that follows tables. Nothing happens unless one of the driver's methods is awaited.
pub struct Driver {
    engine: Engine,
    /// The tables, by their [`TableId`]s.
    tables: Vec<DriverTable>,
    /// The reads that are underway, and the answers to comparisons.
    reads: Reads,
    options: DriverOptions,
    /// Opens sessions with the server.
    open: Open,
    /// The connections; `None` while they are lost.
    sessions: Option<Sessions>,
    /// The number under which all connections were opened last. Each opening has a number of its
    /// own.
    epoch: u64,
    /// The highest number of an opening.
    epochs: u64,
    channels: Channels,
    /// The caches, by their [`TableId`]s. Empty if the caches belong to whoever made the writers.
    caches: Vec<Arc<RwLock<TableCache>>>,
    /// The state of all tables together that was told last.
    state: State,
    /// The tables' states, by their [`TableId`]s.
    progress: Vec<TableProgress>,
    /// The task that opens all connections, while there is one.
    connect_task: Option<JoinHandle<()>>,
    memory: Memory,
    /// Whether the first probes were asked for.
    has_begun: bool,
    /// The last failure, in the words of the server. The engine knows a failure only as a text.
    failure: Option<DriverError>,
    /// The number of fences that were asked for.
    fence_count: u64,
    /// The number of comparisons that were asked for.
    question_count: u64,
    /// The events that nobody has taken yet.
    events: VecDeque<DriverEvent>,
    /// Takes the notifications of a driver without tables.
    tap: Option<Tap>,
    /// The function that sees every notification first; `None` if nobody watches.
    watch: Option<Watch>,
    /// The answers to the fleet's questions; `None` if none are given.
    answers: Option<Box<Answers>>,
    /// The secret behind the digests of tokens. Nobody else can make the digest of a token that was
    /// not sent yet.
    secret: [u8; 32],
}

/// A function that takes notifications as they arrive. Fences are left out.
pub type Tap = Box<dyn FnMut(Vec<Notification>) + Send>;

/// A function that sees every notification which is no fence, before the engine is given it.
pub type Watch = Box<dyn FnMut(&Notification) + Send>;

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.connect_task.take().inspect(JoinHandle::abort);
    }
}

impl Driver {
    /// Connects, LISTENs, and starts the engine. Nothing is read yet.
    ///
    /// The first attempt to connect must succeed. A connection that is lost later is opened again,
    /// unless [`Limits::reconnect`](crate::sync::Limits::reconnect) is false.
    ///
    /// # Errors
    /// If a session cannot be opened, or the server refuses to LISTEN.
    pub async fn open(
        connector: impl Connector + 'static,
        tables: Vec<TableConfig>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let mut caches = Vec::with_capacity(tables.len());
        let mut written: Vec<(TableConfig, Box<dyn CacheWriter>)> = Vec::new();
        for table in tables {
            let shape = &table.shape;
            let cache = Arc::new(RwLock::new(table.empty_cache()));
            let decoder = CellDecoder::new(Arc::clone(shape));
            let writer = SinkWriter::new(Arc::clone(&cache), decoder);
            caches.push(cache);
            written.push((table, Box::new(writer)));
        }
        let mut driver = Self::open_with_writers(open_with(connector), written, options).await?;
        driver.caches = caches;
        Ok(driver)
    }

    /// Connects and LISTENs without a table. The driver hands every notification to `tap`. A
    /// heartbeat proves that L receives notifications; if L does not, the driver connects again.
    /// There is no Q.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn tapping(
        connector: impl Connector + 'static,
        options: DriverOptions,
        tap: Tap,
    ) -> Result<Self, DriverError> {
        let mut driver = Self::open_with_writers(open_with(connector), Vec::new(), options).await?;
        driver.tap = Some(tap);
        Ok(driver)
    }

    /// Opens a driver, as [`open`](Self::open) does, for caches that belong to the caller. Each
    /// table comes with the writer of its cache.
    pub(super) async fn open_with_writers(
        open: Open,
        tables: Vec<(TableConfig, Box<dyn CacheWriter>)>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let specs = tables
            .iter()
            .map(|(table, _)| table.followed.clone())
            .collect();
        let mut engine = Engine::new(
            specs,
            options.channels.clone(),
            options.fence_channel.clone(),
            options.limits,
        );
        // The first connection is opened here and not by a task: its error is the caller's.
        let listen_on = match engine.poll() {
            Some(Output::Connect { channels }) => channels,
            other => unreachable!("an engine asks to connect first, not {other:?}"),
        };
        let channels = Channels::new();
        // Without tables there is nothing to read, and no Q is opened.
        let opener = Opener {
            open,
            options,
            events: channels.connections_tx.clone(),
            epoch: 0,
            reads: !tables.is_empty(),
        };
        let sessions = opener.first(&listen_on).await?;
        let Opener { open, options, .. } = opener;
        let row_events = options.row_events;
        let progress = (0..tables.len()).map(|table| TableProgress {
            state: engine.table_state(TableId(table)),
            is_live_next: false,
            arrived: None,
            doubted: None,
            reached: None,
            state_since: SystemTime::now(),
            reads: 0,
        });
        let mut driver = Self {
            state: engine.state(),
            progress: progress.collect(),
            engine,
            tables: tables
                .into_iter()
                .map(|(config, writer)| DriverTable::new(config, writer))
                .collect(),
            options,
            caches: Vec::new(),
            channels,
            open,
            sessions: Some(sessions),
            epoch: 0,
            epochs: 0,
            connect_task: None,
            reads: Reads::new(),
            memory: Memory::default(),
            has_begun: false,
            failure: None,
            fence_count: 0,
            question_count: 0,
            events: VecDeque::new(),
            tap: None,
            watch: None,
            answers: None,
            secret: secret(),
        };
        driver.answers = driver
            .options
            .answers
            .clone()
            .map(|options| Box::new(Answers::new(*options, Instant::now())));
        if driver.answers.is_some() {
            for table in &mut driver.tables {
                table.writer.keep_history();
            }
        }
        if row_events {
            driver.record_row_events();
        }
        Ok(driver)
    }

    /// Returns the engine, with its states and counters.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the state of all caches together, which is the least of the tables' states. The
    /// state follows that of the [engine](Self::engine) once the operations that wait for the
    /// caches' locks are applied.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the state of one table's cache.
    pub fn table_state(&self, table: TableId) -> State {
        self.progress[table.0].state
    }

    /// Locks the cache of a table for reading. The cache does not change while the guard is held.
    /// Changes are collected meanwhile, and the server never waits.
    pub fn cache(&self, table: TableId) -> RwLockReadGuard<'_, TableCache> {
        self.caches[table.0].read()
    }

    /// Adds an event for each row that changes from now on. [`DriverOptions::row_events`] does so
    /// from the start.
    pub fn record_row_events(&mut self) {
        self.options.row_events = true;
        for table in &mut self.tables {
            table.writer.record_events();
        }
    }

    /// Calls `watch` from now on with every notification that is no fence, before the engine is
    /// given it. The function is called in [`step`](Self::step), and must not wait.
    pub fn watch_notifications(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = DriverEvent> + '_ {
        self.events.drain(..)
    }

    /// Reads the tables and returns once every cache is live. `progress` is called with the number
    /// of rows that were read so far.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub async fn until_live(
        &mut self,
        mut progress: impl FnMut(Loaded),
    ) -> Result<(), DriverError> {
        self.begin()?;
        while self.state != State::Live {
            self.turn(&mut progress).await?;
        }
        Ok(())
    }

    /// Waits for something to happen, as [`step`](Self::step) does. `progress` is called with the
    /// number of rows that were read so far.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub async fn step_with(&mut self, mut progress: impl FnMut(Loaded)) -> Result<(), DriverError> {
        self.begin()?;
        self.turn(&mut progress).await
    }

    /// Reads the tables and returns once everything that was committed before this call is in the
    /// caches. The caches are live then, unless somebody goes on asking for a table to be reloaded.
    /// Any role can do that for ever, so this method does not wait for live caches.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub async fn until_loaded(
        &mut self,
        mut progress: impl FnMut(Loaded),
    ) -> Result<(), DriverError> {
        let fence = self.ask_for_fence()?;
        while !self.is_loaded(fence) {
            self.turn(&mut progress).await?;
        }
        Ok(())
    }

    /// Returns whether every cache is live, or has reached the fence and waits to be reloaded.
    pub fn is_loaded(&self, fence: FenceId) -> bool {
        // A driver without tables is loaded when it is live: no table says so for it.
        self.state == State::Live
            || (!self.tables.is_empty()
                && (0..self.tables.len()).all(|at| self.is_table_loaded(TableId(at), fence)))
    }

    /// Returns whether the cache of a table is live, or has reached the fence and waits to be
    /// reloaded.
    fn is_table_loaded(&self, table: TableId, fence: FenceId) -> bool {
        self.progress[table.0].state == State::Live || self.has_reached_for(table, fence)
    }

    /// Returns once everything that was committed before this call is in the caches.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub async fn fence(&mut self) -> Result<(), DriverError> {
        let id = self.ask_for_fence()?;
        while !self.has_reached(id) {
            self.turn(&mut |_| {}).await?;
        }
        Ok(())
    }

    /// Asks for a fence and returns its number. [`has_reached`](Self::has_reached) tells when the
    /// fence is reached.
    ///
    /// # Errors
    /// If the driver has ended.
    pub fn ask_for_fence(&mut self) -> Result<FenceId, DriverError> {
        self.ask_for(Input::FenceWanted)
    }

    /// Asks for a fence for callers who wait for transactions, and returns its number.
    /// `is_repeated` says that they have asked before.
    ///
    /// # Errors
    /// If the driver has ended.
    pub fn ask_for_transaction(&mut self, is_repeated: bool) -> Result<FenceId, DriverError> {
        self.ask_for(|fence| Input::TransactionWanted { fence, is_repeated })
    }

    /// Asks for a fence by an input, and returns its number.
    fn ask_for(
        &mut self,
        input: impl FnOnce(FenceId) -> Input<'static>,
    ) -> Result<FenceId, DriverError> {
        self.begin()?;
        self.fence_count += 1;
        let id = FenceId(self.fence_count);
        self.engine.handle(input(id), Instant::now());
        self.perform_outputs()?;
        Ok(id)
    }

    /// Returns whether everything that was committed before this fence was asked for is in the
    /// caches, and a look at the tables' definitions was made since.
    ///
    /// A table with a change that could not be applied has been reloaded by then. A table need not
    /// be live: another notification may have asked for one more reload.
    pub fn has_reached(&self, fence: FenceId) -> bool {
        (0..self.tables.len()).all(|table| self.has_reached_for(TableId(table), fence))
    }

    /// Returns whether the cache of one table has [reached](Self::has_reached) a fence. The other
    /// tables do not matter.
    pub fn has_reached_for(&self, table: TableId, fence: FenceId) -> bool {
        let progress = &self.progress[table.0];
        // A fence that was reached stays reached, but the cache may not be fit to answer any more.
        // While a snapshot is merged over the old rows, the cache has rows of two times. While the
        // table is held or the connections are lost, it is not known what the cache lacks.
        progress.reached >= Some(fence) && matches!(progress.state, State::Live | State::Degraded)
    }

    /// Returns whether the caches have everything that a transaction has committed. False if that
    /// is not known.
    pub fn has_transaction(&self, transaction: TransactionToken) -> bool {
        (0..self.tables.len()).all(|at| self.has_transaction_for(TableId(at), transaction))
    }

    /// Returns whether the cache of one table [has](Self::has_transaction) everything that a
    /// transaction has committed in the table.
    pub fn has_transaction_for(&self, table: TableId, transaction: TransactionToken) -> bool {
        // What the engine has handed out may still wait for the cache's lock.
        self.progress[table.0].state == State::Live
            && !self.tables[table.0].writer.is_waiting()
            && self.engine.has_transaction(table, transaction)
    }

    /// Waits for something to happen, for example a change, and does what follows. The future may
    /// be dropped at any point.
    ///
    /// # Errors
    /// If the driver ends for good. The caches can still be read.
    pub async fn step(&mut self) -> Result<(), DriverError> {
        self.begin()?;
        self.turn(&mut |_| {}).await
    }

    /// Starts the probes if this is the first call, and carries out what waits.
    ///
    /// The probes are not started by [`open`](Self::open): they have a deadline, and somebody must
    /// poll the driver for their answers to be received.
    ///
    /// # Errors
    /// If the driver has ended.
    fn begin(&mut self) -> Result<(), DriverError> {
        if self.engine.has_ended() {
            return Err(self.failure.take().unwrap_or(DriverError::Ended));
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.engine.handle(Input::Listening, Instant::now());
        }
        self.perform_outputs()
    }

    /// Adds an event for whoever calls [`take_events`](Self::take_events).
    fn emit(&mut self, event: DriverEvent) {
        /// The most events that are kept for a caller who takes none.
        const KEPT: usize = 1024;
        self.trace(&event);
        // Whoever asked for events of rows takes events, and must not miss a row: none is dropped.
        if !self.options.row_events && self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Traces an event that the engine does not trace.
    fn trace(&self, event: &DriverEvent) {
        match event {
            // The engine traces states and reloads when it decides. Rows are not traced: a payload
            // is, when it comes in, with -vv alone since it has a row's values.
            DriverEvent::State(_)
            | DriverEvent::TableState { .. }
            | DriverEvent::ReloadScheduled { .. }
            | DriverEvent::Row { .. }
            | DriverEvent::Model { .. }
            | DriverEvent::Misfit { .. } => {}
            DriverEvent::Disconnected { why, retry_in, .. } => {
                tracing::info!(why, ?retry_in, "every table is stale");
            }
            DriverEvent::AuxConnectionLost { via, why, retry_in } => {
                let connection = via.purpose();
                tracing::info!(connection, why, ?retry_in, "a connection is opened again");
            }
            DriverEvent::Altered { table } => {
                let name = self.tables[table.0].config.name();
                tracing::info!(table = name, "the table was altered");
            }
            DriverEvent::CommitsBlocked => tracing::info!("commits are blocked"),
        }
    }
}

/// Returns 244 random bits. The version 4 UUIDs are made of the system's random numbers, 122 bits
/// each.
fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    secret[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    secret
}
