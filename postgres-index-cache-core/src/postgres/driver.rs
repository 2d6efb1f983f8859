//! [`Driver`]: runs the engine on tokio-postgres. It does what the engine asks for, and tells it what
//! happens.
//!
//! ```text
//!              notifications, answers, rows, time
//! connections ────────────────────────────────────→ turn ──→ Engine
//!   L, F, Q   ←──────────────────────────────────── outputs ←─┘
//!              NOTIFY, COPY, look                      └──→ CacheWriter ─ lock ─→ cache
//! ```
//!
//! - `turn`: waits for one thing to happen, and takes it in.
//! - `outputs`: does what the engine asks for, and what waits for the caches' locks.
//! - `connections`, `reads`, `looks`: what is asked of L, F and Q, and what follows from the answers.
//! - `memory`: keeps the caches within their bound.

mod connections;
mod events;
mod looks;
mod memory;
mod outputs;
mod reads;
mod turn;

pub use events::{DriverEvent, Loaded};
pub use reads::{QuestionId, Verification};

use crate::postgres::apply::cells::CellDecoder;
use crate::postgres::apply::driver_table::DriverTable;
use crate::postgres::apply::writer::{CacheWriter, SinkWriter};
use crate::postgres::connection::open::{Open, open_with};
use crate::postgres::connection::session::Connector;
use crate::postgres::connection::sessions::{ConnectionEvent, Opener, Sessions};
use crate::postgres::error::DriverError;
use crate::postgres::options::DriverOptions;
use crate::postgres::read::request::{ReadFailed, ReadMessage};
use crate::postgres::schema::eligibility::TableConfig;
use crate::sync::{Engine, FenceId, Input, Output, State, TableId};
use crate::table_cache::TableCache;
use memory::Memory;
use parking_lot::{RwLock, RwLockReadGuard};
use reads::Reads;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Notification;
use turn::TaskEvent;
use uuid::Uuid;

/// How many messages of a read may be on their way.
const READ_MESSAGES: usize = 4;

/// The state of a table, for whoever looks on. What the engine says counts once the operations that
/// wait for the cache's lock are done.
#[derive(Debug, Clone, Copy)]
struct TableProgress {
    /// The state that was told last.
    state: State,
    /// Whether the engine says that the table is live.
    is_live_next: bool,
    /// The highest fence that the engine says is reached.
    arrived: Option<FenceId>,
    /// The highest fence that is reached.
    reached: Option<FenceId>,
}

/// The receivers of what tasks say. Each has its sender beside it, to be given to tasks.
struct Channels {
    connections: mpsc::Receiver<ConnectionEvent>,
    connections_tx: mpsc::Sender<ConnectionEvent>,
    tasks: mpsc::Receiver<TaskEvent>,
    tasks_tx: mpsc::Sender<TaskEvent>,
    rows: mpsc::Receiver<ReadMessage>,
    rows_tx: mpsc::Sender<ReadMessage>,
    failures: mpsc::Receiver<ReadFailed>,
    failures_tx: mpsc::Sender<ReadFailed>,
}

impl Channels {
    fn new() -> Self {
        let (connections_tx, connections) = mpsc::channel(16);
        let (tasks_tx, tasks) = mpsc::channel(16);
        let (rows_tx, rows) = mpsc::channel(READ_MESSAGES);
        let (failures_tx, failures) = mpsc::channel(1);
        Self {
            connections,
            connections_tx,
            tasks,
            tasks_tx,
            rows,
            rows_tx,
            failures,
            failures_tx,
        }
    }
}

/// A driver that follows tables. Nothing happens unless one of its methods is awaited.
pub struct Driver {
    engine: Engine,
    tables: Vec<DriverTable>,
    /// What Q does.
    reads: Reads,
    options: DriverOptions,
    open: Open,
    /// The connections; `None` while they are lost.
    sessions: Option<Sessions>,
    /// The number under which all connections were opened last. Each opening has a number of its
    /// own.
    epoch: u64,
    /// The highest number of an opening.
    epochs: u64,
    channels: Channels,
    /// The caches, if they are not somebody else's.
    caches: Vec<Arc<RwLock<TableCache>>>,
    /// The state of all tables together that was told last.
    state: State,
    progress: Vec<TableProgress>,
    connect_task: Option<JoinHandle<()>>,
    memory: Memory,
    /// Whether the first probes were asked for.
    has_begun: bool,
    /// The last failure, in the words of the server.
    failure: Option<DriverError>,
    fence_count: u64,
    question_count: u64,
    events: VecDeque<DriverEvent>,
    /// Takes the notifications of a driver without tables.
    tap: Option<Tap>,
    /// Makes tokens that nobody can guess.
    secret: [u8; 32],
}

/// Takes notifications as they arrive; fences are left out.
pub type Tap = Box<dyn FnMut(Vec<Notification>) + Send>;

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
    /// Connects, LISTENs, and starts the engine. Nothing is read yet. The first connection must
    /// succeed; one that is lost later is opened again, unless
    /// [`Limits::reconnect`](crate::sync::Limits::reconnect) is false.
    ///
    /// # Errors
    /// If a session cannot be had, or the server refuses to LISTEN.
    pub async fn open(
        connector: impl Connector + 'static,
        tables: Vec<TableConfig>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let mut caches = Vec::with_capacity(tables.len());
        let mut written: Vec<(TableConfig, Box<dyn CacheWriter>)> = Vec::new();
        for table in tables {
            let shape = &table.shape;
            let cache = Arc::new(RwLock::new(TableCache::new(Arc::clone(shape), 0)));
            let decoder = CellDecoder::new(Arc::clone(shape));
            let writer = SinkWriter::new(Arc::clone(&cache), decoder);
            caches.push(cache);
            written.push((table, Box::new(writer)));
        }
        let mut driver = Self::open_with_writers(open_with(connector), written, options).await?;
        driver.caches = caches;
        Ok(driver)
    }

    /// Connects and LISTENs without a table. The driver hands `tap` every notification, proves with a
    /// heartbeat that L hears, and connects again when it does not. There is no Q.
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

    /// Opens a driver, as [`open`](Self::open) does, whose caches are somebody else's.
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
        let listen_on = match engine.poll() {
            Some(Output::Connect { channels }) => channels,
            other => unreachable!("an engine asks to connect first, not {other:?}"),
        };
        let channels = Channels::new();
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
            reached: None,
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
            reads: Reads::default(),
            memory: Memory::default(),
            has_begun: false,
            failure: None,
            fence_count: 0,
            question_count: 0,
            events: VecDeque::new(),
            tap: None,
            secret: secret(),
        };
        if row_events {
            driver.record_row_events();
        }
        Ok(driver)
    }

    /// Returns the engine, with its states and counters.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the state of all caches together: the least of the tables' states. It follows the
    /// [engine](Self::engine)'s once the operations that wait for the caches' locks are done.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the state of one table's cache.
    pub fn table_state(&self, table: TableId) -> State {
        self.progress[table.0].state
    }

    /// Locks the cache of a table for reading. The cache does not change while the guard is held;
    /// changes are collected meanwhile, and the server never waits.
    pub fn cache(&self, table: TableId) -> RwLockReadGuard<'_, TableCache> {
        self.caches[table.0].read()
    }

    /// Tells of each row that changes from now on, as [`DriverOptions::row_events`] does from the
    /// start.
    pub fn record_row_events(&mut self) {
        self.options.row_events = true;
        for table in &mut self.tables {
            table.writer.record_events();
        }
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = DriverEvent> + '_ {
        self.events.drain(..)
    }

    /// Reads the tables and goes on until every cache is live. `progress` is told how far the reads
    /// are.
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

    /// Waits for something to happen, as [`step`](Self::step) does, and tells `progress` how far the
    /// reads are.
    ///
    /// # Errors
    /// If the driver ends for good.
    pub async fn step_with(&mut self, mut progress: impl FnMut(Loaded)) -> Result<(), DriverError> {
        self.begin()?;
        self.turn(&mut progress).await
    }

    /// Reads the tables and goes on until everything that was committed before this call is in the
    /// caches. They are live then, unless somebody goes on asking for a table to be reloaded. Any
    /// role can do that, so nobody waits for its end.
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
        let is_loaded = |table: usize| {
            self.progress[table].state == State::Live || self.has_reached_for(TableId(table), fence)
        };
        self.state == State::Live
            || (!self.tables.is_empty() && (0..self.tables.len()).all(is_loaded))
    }

    /// Goes on until everything that was committed before this call is in the caches.
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

    /// Asks for a fence. [`has_reached`](Self::has_reached) tells when it is there.
    ///
    /// # Errors
    /// If the driver has ended.
    pub fn ask_for_fence(&mut self) -> Result<FenceId, DriverError> {
        self.begin()?;
        self.fence_count += 1;
        let id = FenceId(self.fence_count);
        self.engine.handle(Input::FenceWanted(id), Instant::now());
        self.perform_outputs()?;
        Ok(id)
    }

    /// Returns whether everything that was committed before this fence was asked for is in the
    /// caches, and the definitions of the tables were looked at since.
    ///
    /// A change that could not be applied has made its table be read again by then. A table need not
    /// be live: another notification may ask for it to be reloaded once more.
    pub fn has_reached(&self, fence: FenceId) -> bool {
        (0..self.tables.len()).all(|table| self.has_reached_for(TableId(table), fence))
    }

    /// Returns whether the cache of one table has [reached](Self::has_reached) a fence, whatever the
    /// others do.
    pub fn has_reached_for(&self, table: TableId, fence: FenceId) -> bool {
        let progress = &self.progress[table.0];
        // While new rows are merged over old ones, or while nobody knows what the table is, the
        // cache is not one state of the table, though the fence was reached before.
        progress.reached >= Some(fence) && matches!(progress.state, State::Live | State::Degraded)
    }

    /// Waits for something to happen, a change perhaps, and does what follows from it. The future may
    /// be dropped at any point.
    ///
    /// # Errors
    /// If the driver ends for good. Its caches can still be read.
    pub async fn step(&mut self) -> Result<(), DriverError> {
        self.begin()?;
        self.turn(&mut |_| {}).await
    }

    /// Starts the probes, if this is the first time that somebody waits for their answers: their
    /// time runs from then on.
    fn begin(&mut self) -> Result<(), DriverError> {
        if self.engine.has_ended() {
            return Err(self.failure.take().unwrap_or(DriverError::Ended));
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.engine.handle(Input::Listening, Instant::now());
        }
        self.perform_outputs()
    }

    /// Adds an event, for whoever looks on.
    fn emit(&mut self, event: DriverEvent) {
        /// How many events are kept for somebody who takes none.
        const KEPT: usize = 1024;
        tracing::info!(?event, "driver");
        if !self.options.row_events && self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
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
