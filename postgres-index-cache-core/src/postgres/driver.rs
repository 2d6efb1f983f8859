//! [`Driver`]: carries out what the engine asks for, and feeds it what happens.

use super::copy::CopyDecoder;
use super::error::{DriverError, ReadError};
use super::read::{NO_TIMEOUTS, Read, read_settings};
use super::session::{Connector, Listener, Role, quote_identifier, quote_literal};
use crate::sync::{
    Change, FenceId, Followed, Input, Limits, Operation, Output, Replica, Snapshot, State, TableId, Via,
};
use crate::table_cache::{KeyBuf, RowBuf, TableCache, TableShape, Unfit};
use bytes::Bytes;
use futures_util::future::poll_fn;
use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Notification};

/// The most notifications that are taken from the socket before they are applied.
pub(super) const BATCH: usize = 256;

/// How many rows are loaded before the memory is looked at again.
const ROWS_BETWEEN_CHECKS: usize = 10_000;
/// How many bytes of COPY, likewise.
const BYTES_BETWEEN_CHECKS: usize = 16 << 20;

/// A table to follow, as the catalogue describes it.
#[derive(Debug, Clone)]
pub struct FollowTable {
    /// What the engine knows of it.
    pub followed: Followed,
    /// The columns to keep and the key.
    pub shape: Arc<TableShape>,
    /// Roughly how many rows it has (`pg_class.reltuples`).
    pub expected_rows: usize,
}

/// How a driver works.
#[derive(Debug, Clone)]
pub struct DriverOptions {
    /// The channels that the tables' triggers notify on.
    pub channels: Vec<String>,
    /// A channel of its own for fences: make it of random digits.
    pub fence_channel: String,
    /// Bounds of the engine.
    pub limits: Limits,
    /// Settings that the triggers pin (`TimeZone` …), so that COPY and payloads write values alike.
    pub settings: Vec<(String, String)>,
    /// How many bytes the caches may take.
    pub max_memory: usize,
    /// How long a read may wait for its lock.
    pub lock_timeout: Duration,
}

/// How far a table is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// The table.
    pub table: TableId,
    /// How many rows are in its cache.
    pub rows: usize,
}

/// What the tasks that talk to F and Q say.
pub(super) enum Event {
    Sent,
    Failed(DriverError),
    Snapshot { table: TableId, generation: u64, snapshot: Snapshot },
    Rows { table: TableId, generation: u64, pieces: Vec<Bytes> },
    Read { table: TableId, generation: u64 },
}

/// What a turn waited for.
enum Happened {
    /// What F or Q said; `None` when it is L that has something.
    Event(Option<Event>),
    Time,
}

struct Followee {
    follow: FollowTable,
    cache: TableCache,
    decoder: CopyDecoder,
    generation: u64,
    /// At how many rows and bytes of COPY the memory is looked at again.
    next_check: (usize, usize),
    /// How many bytes of COPY have come.
    copied: usize,
}

/// Follows tables. Nothing happens unless one of its methods is awaited.
pub struct Driver {
    replica: Replica,
    tables: Vec<Followee>,
    options: DriverOptions,
    listener: Listener,
    fences: Arc<Client>,
    reads: Arc<Client>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    read_task: Option<JoinHandle<bool>>,
    has_begun: bool,
    has_failed: bool,
    reached: Option<FenceId>,
    fence_count: u64,
    row: RowBuf,
    key: KeyBuf,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("replica", &self.replica).finish_non_exhaustive()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.read_task.take().inspect(JoinHandle::abort);
    }
}

impl Driver {
    /// Connects, LISTENs, and starts the engine. Nothing is read yet.
    ///
    /// # Errors
    /// When a session cannot be had, or the server refuses to LISTEN.
    pub async fn open(
        connector: &impl Connector,
        tables: Vec<FollowTable>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let connect =
            async |role| connector.connect(role).await.map_err(|source| DriverError::Connect { role, source });
        let (listen, fences, reads) =
            tokio::try_join!(connect(Role::Listen), connect(Role::Fence), connect(Role::Read))?;
        let (fences, reads) = (fences.into_client(), reads.into_client());
        let fence_settings = format!("SET lock_timeout = {}; {NO_TIMEOUTS}", options.lock_timeout.as_millis());
        let server = |doing: &str| {
            let doing = doing.to_string();
            move |source| DriverError::Server { doing, source }
        };
        fences.batch_execute(&fence_settings).await.map_err(server("prepare the connection for fences"))?;
        reads.batch_execute(&read_settings(&options)).await.map_err(server("prepare the connection for reading"))?;
        let followed = tables.iter().map(|table| table.followed.clone()).collect();
        let mut replica =
            Replica::new(followed, options.channels.clone(), options.fence_channel.clone(), options.limits);
        replica.handle(Input::Connected, Instant::now());
        let channels = match replica.poll() {
            Some(Output::Listen(channels)) => channels,
            other => unreachable!("a connected engine asks to LISTEN first, not {other:?}"),
        };
        let listener = Listener::open(listen, &channels).await.map_err(server("LISTEN"))?;
        let (sender, events) = mpsc::channel(16);
        let followee = |follow: FollowTable| Followee {
            cache: TableCache::new(Arc::clone(&follow.shape), 0),
            follow,
            decoder: CopyDecoder::default(),
            generation: 0,
            next_check: (0, 0),
            copied: 0,
        };
        Ok(Self {
            replica,
            tables: tables.into_iter().map(followee).collect(),
            options,
            listener,
            fences: Arc::new(fences),
            reads: Arc::new(reads),
            events,
            sender,
            read_task: None,
            has_begun: false,
            has_failed: false,
            reached: None,
            fence_count: 0,
            row: RowBuf::default(),
            key: KeyBuf::default(),
        })
    }

    /// The engine: its state and counters.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The cache of a table.
    pub fn cache(&self, table: TableId) -> &TableCache {
        &self.tables[table.0].cache
    }

    /// Reads the tables and goes on until every cache is live. `progress` is told how far the reads are.
    ///
    /// # Errors
    /// Whatever keeps it from there.
    pub async fn until_live(&mut self, mut progress: impl FnMut(Loaded)) -> Result<(), DriverError> {
        self.begin()?;
        while self.replica.state() != State::Live {
            self.turn(&mut progress).await?;
        }
        Ok(())
    }

    /// Goes on until everything that was committed before this call is in the caches.
    ///
    /// # Errors
    /// Whatever keeps it from there.
    pub async fn fence(&mut self) -> Result<(), DriverError> {
        self.begin()?;
        self.fence_count += 1;
        let id = FenceId(self.fence_count);
        self.replica.handle(Input::FenceWanted(id), Instant::now());
        self.carry_out()?;
        // A change before the fence that could not be applied has made its table be read again.
        while self.reached < Some(id) || self.replica.state() != State::Live {
            self.turn(&mut |_| {}).await?;
        }
        Ok(())
    }

    /// Waits for something to happen, a change perhaps, and does what follows from it. May be given up at any point.
    ///
    /// # Errors
    /// Whatever ends this driver; its caches can still be read.
    pub async fn step(&mut self) -> Result<(), DriverError> {
        self.begin()?;
        self.turn(&mut |_| {}).await
    }

    /// Starts the probes; their time runs from when somebody listens for them.
    fn begin(&mut self) -> Result<(), DriverError> {
        if self.has_failed {
            return Err(DriverError::Ended);
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.replica.handle(Input::Listening, Instant::now());
        }
        self.carry_out()
    }

    /// Waits for something to happen, and does what follows from it. An error is for good.
    async fn turn(&mut self, progress: &mut impl FnMut(Loaded)) -> Result<(), DriverError> {
        let done = match self.happen(progress).await {
            Ok(()) => self.carry_out(),
            Err(error) => Err(error),
        };
        if done.is_err() {
            self.has_failed = true;
            self.replica.handle(Input::Lost("the driver has failed".to_string()), Instant::now());
        }
        done
    }

    /// Waits for something to happen and takes it in.
    async fn happen(&mut self, progress: &mut impl FnMut(Loaded)) -> Result<(), DriverError> {
        let timeout = self.replica.poll_timeout().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let mut batch: Vec<Notification> = Vec::new();
        let mut end = None;
        // Time comes last: what is awaited may be there already. Between L and the rest chance decides, so that neither
        // waits for the other.
        let (listener, events) = (&mut self.listener, &mut self.events);
        let happened = tokio::select! {
            biased;
            event = async {
                tokio::select! {
                    () = next_batch(listener, &mut batch, &mut end) => None,
                    event = events.recv() => event,
                }
            } => Happened::Event(event),
            () = tokio::time::sleep_until(timeout.into()) => Happened::Time,
        };
        match happened {
            Happened::Event(None) => {
                for notification in &batch {
                    let (channel, payload) = (notification.channel(), notification.payload());
                    self.replica.handle(Input::Notification { channel, payload }, Instant::now());
                    // A change that cannot be applied must be known before the fence behind it.
                    self.carry_out()?;
                }
                if let Some(why) = end {
                    self.replica.handle(Input::Lost(why), Instant::now());
                }
            }
            Happened::Event(Some(event)) => self.take(event, progress)?,
            Happened::Time => self.replica.handle(Input::TimePassed, Instant::now()),
        }
        Ok(())
    }

    /// Does what the engine asks for.
    fn carry_out(&mut self) -> Result<(), DriverError> {
        while let Some(output) = self.replica.poll() {
            match output {
                Output::Listen(_) => {
                    // Asked for once, at the start: a lost connection ends this driver.
                }
                Output::Notify { via, channel, token } => self.notify(via, &channel, &token),
                Output::ReadTable { table, generation } => self.read(table, generation),
                Output::Apply { table, change } => {
                    if let Err(why) = self.apply(table, &change) {
                        self.replica.handle(Input::ChangeUnfit { table, why }, Instant::now());
                    }
                }
                Output::FenceReached(id) => self.reached = self.reached.max(Some(id)),
                Output::StateChanged(state) => tracing::debug!(?state, "state changed"),
                Output::Failed(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    fn notify(&self, via: Via, channel: &str, token: &str) {
        let client = Arc::clone(match via {
            Via::Fences => &self.fences,
            Via::Reads => &self.reads,
        });
        let sql = format!("NOTIFY {}, {}", quote_identifier(channel), quote_literal(token));
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let event = match client.batch_execute(&sql).await {
                Ok(()) => Event::Sent,
                Err(source) => Event::Failed(DriverError::Server { doing: "send a fence".to_string(), source }),
            };
            // A driver that is gone wants to hear nothing.
            let _ = sender.send(event).await;
        });
    }

    fn read(&mut self, table: TableId, generation: u64) {
        let read = Read {
            client: Arc::clone(&self.reads),
            sender: self.sender.clone(),
            table,
            generation,
            name: self.tables[table.0].follow.name(),
            relation: self.tables[table.0].follow.relation(),
            copy: self.tables[table.0].follow.copy_statement(),
            previous: self.read_task.take(),
        };
        self.tables[table.0].generation = generation;
        self.read_task = Some(tokio::spawn(read.run()));
    }

    fn take(&mut self, event: Event, progress: &mut impl FnMut(Loaded)) -> Result<(), DriverError> {
        match event {
            Event::Sent => {}
            Event::Failed(error) => return Err(error),
            Event::Snapshot { table, generation, snapshot } => {
                let followee = &mut self.tables[table.0];
                if followee.generation == generation {
                    followee.cache = TableCache::new(Arc::clone(&followee.follow.shape), followee.follow.expected_rows);
                    followee.decoder = CopyDecoder::default();
                    followee.next_check = (0, 0);
                    followee.copied = 0;
                    self.replica.handle(Input::SnapshotTaken { table, generation, snapshot }, Instant::now());
                }
            }
            Event::Rows { table, generation, pieces } => {
                if self.tables[table.0].generation == generation {
                    self.load(table, &pieces)?;
                    progress(Loaded { table, rows: self.tables[table.0].cache.len() });
                }
            }
            Event::Read { table, generation } => {
                if self.tables[table.0].generation == generation {
                    let finished = self.tables[table.0].decoder.finish();
                    finished.map_err(|error| self.read_error(table, error.into()))?;
                    self.check_memory(table)?;
                    self.replica.handle(Input::SnapshotLoaded { table, generation }, Instant::now());
                }
            }
        }
        Ok(())
    }

    fn load(&mut self, table: TableId, pieces: &[Bytes]) -> Result<(), DriverError> {
        let Followee { follow, cache, decoder, .. } = &mut self.tables[table.0];
        let row = &mut self.row;
        let loaded = pieces.iter().try_for_each(|piece| {
            decoder.push::<ReadError>(piece, |tuple| {
                row.read_copy_tuple(&follow.shape, tuple)?;
                Ok(cache.insert_unique(row)?)
            })
        });
        loaded.map_err(|error| self.read_error(table, error))?;
        let followee = &mut self.tables[table.0];
        followee.copied += pieces.iter().map(Bytes::len).sum::<usize>();
        let (rows, bytes) = (followee.cache.len(), followee.copied);
        if rows < followee.next_check.0 && bytes < followee.next_check.1 {
            return Ok(());
        }
        // To add it up takes time in proportion to the cache: the larger it is, the rarer that is done.
        followee.next_check = (rows + ROWS_BETWEEN_CHECKS.max(rows / 16), bytes + BYTES_BETWEEN_CHECKS.max(bytes / 16));
        self.check_memory(table)
    }

    fn check_memory(&self, table: TableId) -> Result<(), DriverError> {
        let used = self.tables.iter().map(|table| table.cache.memory_bytes()).sum();
        let allowed = self.options.max_memory;
        if used > allowed {
            let Followee { follow, cache, .. } = &self.tables[table.0];
            return Err(DriverError::Memory { table: follow.name(), rows: cache.len(), used, allowed });
        }
        Ok(())
    }

    fn read_error(&self, table: TableId, source: ReadError) -> DriverError {
        DriverError::Snapshot { table: self.tables[table.0].follow.name(), source }
    }

    /// Applies a change to its cache; the error says why the table must be read again.
    fn apply(&mut self, table: TableId, change: &Change) -> Result<(), String> {
        let Followee { follow, cache, .. } = &mut self.tables[table.0];
        let shape = &follow.shape;
        let text = |error: &dyn fmt::Display| error.to_string();
        match change.operation() {
            Operation::Clear => cache.clear(),
            Operation::Remove => {
                self.key.read_json(shape, change.id()).map_err(|error| text(&error))?;
                cache.remove(&self.key);
            }
            Operation::Upsert | Operation::ReplaceKey => {
                let data = change.data().ok_or("the row was not sent")?;
                self.row.read_json(shape, data, change.json_nulls()).map_err(|error| text(&error))?;
                self.key.read_json(shape, change.id()).map_err(|error| text(&error))?;
                if !self.row.has_key(shape, &self.key) {
                    return Err(text(&Unfit::KeyMismatch));
                }
                if let (Operation::ReplaceKey, Some(old)) = (change.operation(), change.old_id()) {
                    self.key.read_json(shape, old).map_err(|error| text(&error))?;
                    cache.remove(&self.key);
                }
                cache.upsert(&self.row).map_err(|error| text(&error))?;
            }
        }
        Ok(())
    }
}

impl FollowTable {
    fn name(&self) -> String {
        format!("{}.{}", self.followed.schema, self.followed.name)
    }

    /// The relation to lock and to read: a table without the tables that inherit from it, or a table with its partitions.
    fn relation(&self) -> String {
        let only = if self.followed.is_partitioned { "" } else { "ONLY " };
        format!("{only}{}.{}", quote_identifier(&self.followed.schema), quote_identifier(&self.followed.name))
    }

    fn copy_statement(&self) -> String {
        let column = |column: &crate::Column| column.kind.select_expression(&quote_identifier(&column.name));
        let columns: Vec<String> = self.shape.columns().iter().map(column).collect();
        format!("COPY (SELECT {} FROM {}) TO STDOUT (FORMAT binary)", columns.join(", "), self.relation())
    }
}

/// Takes what the socket has, up to a batch; `end` says why there will be no more.
async fn next_batch(listener: &mut Listener, batch: &mut Vec<Notification>, end: &mut Option<String>) {
    poll_fn(|cx| {
        while batch.len() < BATCH {
            match listener.poll_next(cx) {
                Poll::Ready(Some(Ok(notification))) => batch.push(notification),
                Poll::Ready(Some(Err(error))) => {
                    *end = Some(error_chain(&error));
                    return Poll::Ready(());
                }
                Poll::Ready(None) => {
                    *end = Some("the server closed the listening connection".to_string());
                    return Poll::Ready(());
                }
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// An error with its causes: tokio-postgres' own text omits them.
fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect::<Vec<_>>().join(": ")
}
