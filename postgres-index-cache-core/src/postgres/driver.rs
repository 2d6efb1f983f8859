//! [`Driver`]: carries out what the engine asks for, and feeds it what happens.

mod connections;
mod events;
mod looks;
mod memory;
mod reads;

pub use events::{DriverEvent, DriverOptions, Loaded};
pub use reads::{QuestionId, Verification};
pub(super) use reads::{ReadKind, ReadMessage, ReadRequest};

use crate::postgres::apply::driver_table::DriverTable;
use crate::postgres::apply::sink::{CellDecoder, RowEvent};
use crate::postgres::apply::writer::{CacheWriter, FlushError, SinkWriter};
use crate::postgres::connection::listener::Listener;
use crate::postgres::connection::session::Connector;
use crate::postgres::connection::sessions::{Open, OpenedSessions, Opener, Sessions, open_with};
use crate::postgres::error::{DriverError, chain};
use crate::postgres::schema::eligibility::TableConfig;
use crate::postgres::schema::fingerprint::Fingerprint;
use crate::sync::{AuxConnection, Engine, FenceId, Input, Output, State, TableId};
use crate::table_cache::TableCache;
use futures_util::future::poll_fn;
use parking_lot::{RwLock, RwLockReadGuard};
use reads::Reads;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::Notification;
use uuid::Uuid;

/// The most notifications that are taken from the socket before they are applied.
pub(super) const BATCH: usize = 256;

/// How many rows are loaded, or changes applied, before the memory is looked at again.
const ROWS_BETWEEN_CHECKS: usize = 10_000;

/// How many pieces of a read may be on their way.
const BROUGHT: usize = 4;

/// How long the lock of a cache is waited for at once. Long enough for readers that look something
/// up; the server's queue must not wait for the others.
const LOCK_PATIENCE: Duration = Duration::from_millis(1);
/// How long until it is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// What the tasks that talk to the server say.
pub(super) enum Event {
    Connected {
        epoch: u64,
        links: Box<Sessions>,
    },
    ConnectFailed {
        epoch: u64,
        error: DriverError,
    },
    /// F or Q has ended.
    Ended {
        via: AuxConnection,
        epoch: u64,
        why: String,
    },
    Reopened {
        via: AuxConnection,
        epoch: u64,
        opened: Result<OpenedSessions, DriverError>,
    },
    Sent {
        via: AuxConnection,
        epoch: u64,
        token: String,
    },
    SendFailed {
        via: AuxConnection,
        epoch: u64,
        token: String,
        error: DriverError,
    },
    ListensAlso {
        epoch: u64,
        listened: Result<(), tokio_postgres::Error>,
    },
    /// Who sent the notification for which a table is read again: role and application, where the
    /// session is still there.
    SenderKnown {
        table: TableId,
        why: String,
        sender: i32,
        who: Option<String>,
    },
    Looked {
        epoch: u64,
        look: u64,
        relations: Vec<u32>,
        seen: Result<Vec<Fingerprint>, tokio_postgres::Error>,
    },
    ReadFailed {
        asked: ReadRequest,
        error: DriverError,
    },
}

/// What a turn waited for.
enum Happened {
    /// What a task said; `None` when it is L that has something.
    Event(Option<Event>),
    ReadMessage(ReadMessage),
    Time,
}

/// How a table stands, for whoever looks on: what the engine says counts once what waits for the
/// cache's lock is done.
#[derive(Debug, Clone, Copy)]
struct TableStanding {
    /// What was told last.
    state: State,
    /// Whether the engine says that it is live.
    is_live_next: bool,
    /// The highest fence that the engine says is reached, and the highest that is.
    arrived: Option<FenceId>,
    reached: Option<FenceId>,
}

/// Follows tables. Nothing happens unless one of its methods is awaited.
pub struct Driver {
    engine: Engine,
    tables: Vec<DriverTable>,
    /// What Q does.
    reads: Reads,
    options: DriverOptions,
    open: Open,
    links: Option<Sessions>,
    /// Numbers the connections that are opened: those of the last time that all were, and the last.
    epoch: u64,
    epochs: u64,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    brought: mpsc::Receiver<ReadMessage>,
    rows_tx: mpsc::Sender<ReadMessage>,
    /// The caches that are not somebody else's.
    caches: Vec<Arc<RwLock<TableCache>>>,
    /// What was told last of all tables together.
    state: State,
    standings: Vec<TableStanding>,
    connect_task: Option<JoinHandle<()>>,
    /// How many changes were applied since the memory was looked at, and of how many bytes.
    applied_since_check: (usize, usize),
    /// What the caches took when that was last looked at.
    used: usize,
    /// How often what waited was dropped since it was live.
    times_short: u32,
    has_begun: bool,
    /// What the last failure was, in the words of the server.
    failure: Option<DriverError>,
    fence_count: u64,
    question_count: u64,
    told: VecDeque<DriverEvent>,
    /// Takes the notifications of a driver without tables.
    tap: Option<Tap>,
    /// Makes tokens that nobody can guess.
    secret: [u8; 32],
}

/// Takes notifications as they arrive, fences left out.
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
    /// Connects, LISTENs, and starts the engine. Nothing is read yet. What is lost later is opened
    /// again, unless [`Limits::reconnect`](crate::sync::Limits::reconnect) says otherwise; the first time
    /// must succeed.
    ///
    /// # Errors
    /// When a session cannot be had, or the server refuses to LISTEN.
    pub async fn open(
        connector: impl Connector + 'static,
        tables: Vec<TableConfig>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let new = |table: &TableConfig| {
            Arc::new(RwLock::new(TableCache::new(Arc::clone(&table.shape), 0)))
        };
        let caches: Vec<_> = tables.iter().map(new).collect();
        let stored = tables.into_iter().zip(&caches).map(|(table, cache)| {
            let reader = CellDecoder::new(Arc::clone(&table.shape));
            let store: Box<dyn CacheWriter> = Box::new(SinkWriter::new(Arc::clone(cache), reader));
            (table, store)
        });
        let mut driver = Self::open_stores(open_with(connector), stored.collect(), options).await?;
        driver.caches = caches;
        Ok(driver)
    }

    /// Connects and LISTENs without a table: hands `tap` whatever arrives, proves with a heartbeat
    /// that it would, and connects again when it does not. There is no Q.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn tapping(
        connector: impl Connector + 'static,
        options: DriverOptions,
        tap: Tap,
    ) -> Result<Self, DriverError> {
        let mut driver = Self::open_stores(open_with(connector), Vec::new(), options).await?;
        driver.tap = Some(tap);
        Ok(driver)
    }

    /// The same with caches that are somebody else's.
    pub(super) async fn open_stores(
        open: Open,
        tables: Vec<(TableConfig, Box<dyn CacheWriter>)>,
        options: DriverOptions,
    ) -> Result<Self, DriverError> {
        let followed = tables
            .iter()
            .map(|(table, _)| table.followed.clone())
            .collect();
        let mut engine = Engine::new(
            followed,
            options.channels.clone(),
            options.fence_channel.clone(),
            options.limits,
        );
        let channels = match engine.poll() {
            Some(Output::Connect { channels }) => channels,
            other => unreachable!("an engine asks to connect first, not {other:?}"),
        };
        let (sender, events) = mpsc::channel(16);
        let opener = Opener {
            open,
            options,
            events: sender.clone(),
            epoch: 0,
            reads: !tables.is_empty(),
        };
        let links = opener.first(&channels).await?;
        let Opener { open, options, .. } = opener;
        let (rows_tx, brought) = mpsc::channel(BROUGHT);
        let row_events = options.row_events;
        let mut driver = Self {
            state: engine.state(),
            standings: (0..tables.len())
                .map(|table| TableStanding {
                    state: engine.table_state(TableId(table)),
                    is_live_next: false,
                    arrived: None,
                    reached: None,
                })
                .collect(),
            engine,
            tables: tables
                .into_iter()
                .map(|(follow, store)| DriverTable::new(follow, store))
                .collect(),
            options,
            caches: Vec::new(),
            brought,
            rows_tx,
            open,
            links: Some(links),
            epoch: 0,
            epochs: 0,
            events,
            sender,
            connect_task: None,
            reads: Reads::default(),
            applied_since_check: (0, 0),
            used: 0,
            times_short: 0,
            has_begun: false,
            failure: None,
            fence_count: 0,
            question_count: 0,
            told: VecDeque::new(),
            tap: None,
            secret: secret(),
        };
        if row_events {
            driver.record_row_events();
        }
        Ok(driver)
    }

    /// The engine: its state and counters.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How far the caches are: what the [engine](Self::engine) says once what waits for their locks
    /// is done. The least of the tables' states.
    pub fn state(&self) -> State {
        self.state
    }

    /// How far the cache of one table is.
    pub fn table_state(&self, table: TableId) -> State {
        self.standings[table.0].state
    }

    /// The cache of a table, which does not change while this is held. What comes meanwhile is
    /// collected; the server never waits.
    pub fn cache(&self, table: TableId) -> RwLockReadGuard<'_, TableCache> {
        self.caches[table.0].read()
    }

    /// From now on tells of each row that changes, as [`DriverOptions::row_events`] does from the
    /// start.
    pub fn record_row_events(&mut self) {
        self.options.row_events = true;
        self.tables
            .iter_mut()
            .for_each(|table| table.store.record_events());
    }

    /// What has happened since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = DriverEvent> + '_ {
        self.told.drain(..)
    }

    /// Reads the tables and goes on until every cache is live. `progress` is told how far the reads
    /// are.
    ///
    /// # Errors
    /// Whatever keeps it from there for good.
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

    /// Waits for something to happen on the way to being live, as [`step`](Self::step) does, and
    /// tells `progress` how far the reads are.
    ///
    /// # Errors
    /// Whatever ends this driver for good.
    pub async fn step_with(&mut self, mut progress: impl FnMut(Loaded)) -> Result<(), DriverError> {
        self.begin()?;
        self.turn(&mut progress).await
    }

    /// Reads the tables and goes on until everything that was committed before this call is in the
    /// caches. They are live then, unless somebody goes on asking for a table to be read again,
    /// which any role can: nobody waits for the end of that.
    ///
    /// # Errors
    /// Whatever keeps it from there for good.
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

    /// Whether every cache is live, or as far as it can be: it has reached the fence, and is to be
    /// read again.
    pub fn is_loaded(&self, fence: FenceId) -> bool {
        let is_loaded = |table: usize| {
            self.standings[table].state == State::Live
                || self.has_reached_for(TableId(table), fence)
        };
        self.state == State::Live
            || (!self.tables.is_empty() && (0..self.tables.len()).all(is_loaded))
    }

    /// Goes on until everything that was committed before this call is in the caches.
    ///
    /// # Errors
    /// Whatever keeps it from there for good.
    pub async fn fence(&mut self) -> Result<(), DriverError> {
        let id = self.ask_for_fence()?;
        while !self.has_reached(id) {
            self.turn(&mut |_| {}).await?;
        }
        Ok(())
    }

    /// Asks for a fence; [`has_reached`](Self::has_reached) says when it is there.
    ///
    /// # Errors
    /// When the driver has ended.
    pub fn ask_for_fence(&mut self) -> Result<FenceId, DriverError> {
        self.begin()?;
        self.fence_count += 1;
        let id = FenceId(self.fence_count);
        self.engine.handle(Input::FenceWanted(id), Instant::now());
        self.perform_outputs()?;
        Ok(id)
    }

    /// Whether everything that was committed before this fence was asked for is in the caches, and
    /// the definitions of the tables were looked at since. A change before it that could not be
    /// applied has made its table be read again. A table need not be live for that: another
    /// notification may ask for it to be read once more.
    pub fn has_reached(&self, fence: FenceId) -> bool {
        (0..self.tables.len()).all(|table| self.has_reached_for(TableId(table), fence))
    }

    /// The same for the cache of one table, whatever the others do.
    pub fn has_reached_for(&self, table: TableId, fence: FenceId) -> bool {
        let standing = &self.standings[table.0];
        // While its rows are laid over others, or nobody knows what it is, what is there is not one
        // state of the table.
        standing.reached >= Some(fence) && matches!(standing.state, State::Live | State::Degraded)
    }

    /// Waits for something to happen, a change perhaps, and does what follows from it. May be given
    /// up at any point.
    ///
    /// # Errors
    /// Whatever ends this driver for good; its caches can still be read.
    pub async fn step(&mut self) -> Result<(), DriverError> {
        self.begin()?;
        self.turn(&mut |_| {}).await
    }

    /// Starts the probes; their time runs from when somebody listens for them.
    fn begin(&mut self) -> Result<(), DriverError> {
        if self.engine.has_ended() {
            return Err(self.failure.take().unwrap_or(DriverError::Ended));
        }
        if !std::mem::replace(&mut self.has_begun, true) {
            self.engine.handle(Input::Listening, Instant::now());
        }
        self.perform_outputs()
    }

    /// Waits for something to happen, and does what follows from it.
    async fn turn(&mut self, progress: &mut impl FnMut(Loaded)) -> Result<(), DriverError> {
        self.happen(progress).await?;
        self.perform_outputs()
    }

    /// Waits for something to happen and takes it in.
    async fn happen(&mut self, progress: &mut impl FnMut(Loaded)) -> Result<(), DriverError> {
        let locks = self.tables.iter().filter_map(|table| table.busy_until);
        let timeout = locks.chain(self.engine.poll_timeout()).min();
        let timeout = timeout.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let takes_rows = self
            .reads
            .asked
            .is_none_or(|asked| self.tables[asked.table.0].busy_until.is_none());
        let mut batch: Vec<Notification> = Vec::new();
        let mut end = None;
        // Time comes last: what is awaited may be there already. Between L and the rest chance
        // decides, so that neither waits for the other.
        let links = &mut self.links;
        let events = &mut self.events;
        let brought = &mut self.brought;
        let happened = tokio::select! {
            biased;
            event = async {
                tokio::select! {
                    () = next_batch(links.as_mut().map(|links| &mut links.listener), &mut batch, &mut end) => {
                        Happened::Event(None)
                    }
                    event = events.recv() => Happened::Event(event),
                    Some(brought) = brought.recv(), if takes_rows => Happened::ReadMessage(brought),
                }
            } => event,
            () = tokio::time::sleep_until(timeout.into()) => Happened::Time,
        };
        match happened {
            Happened::Event(None) => {
                let batch = self.hand_over(batch);
                for notification in &batch {
                    let channel = notification.channel();
                    let sender = notification.process_id();
                    let mut payload = notification.payload();
                    if channel == self.options.fence_channel {
                        let Some(token) = self.own_token(sender, payload) else {
                            continue;
                        };
                        payload = token;
                    }
                    self.engine.handle(
                        Input::Notification {
                            channel,
                            payload,
                            sender,
                        },
                        Instant::now(),
                    );
                    // A change that cannot be applied must be known before the fence behind it.
                    self.do_outputs()?;
                }
                if let Some(why) = end {
                    self.engine.handle(Input::Lost(why), Instant::now());
                }
                self.check_waiting();
            }
            Happened::Event(Some(event)) => self.handle_event(event),
            Happened::ReadMessage(brought) => {
                let asked = match &brought {
                    ReadMessage::Snapshot { asked, .. }
                    | ReadMessage::Rows { asked, .. }
                    | ReadMessage::All { asked } => *asked,
                };
                if self.reads.asked == Some(asked) {
                    self.take_rows(brought);
                    let table = asked.table;
                    progress(Loaded {
                        table,
                        rows: self.tables[table.0].store.rows(),
                    });
                }
            }
            Happened::Time => self.engine.handle(Input::TimePassed, Instant::now()),
        }
        Ok(())
    }

    /// Hands over what is not the engine's own, where somebody takes it; gives the rest.
    fn hand_over(&mut self, batch: Vec<Notification>) -> Vec<Notification> {
        let Some(tap) = &mut self.tap else {
            return batch;
        };
        let fences = &self.options.fence_channel;
        let (own, others): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|notification| notification.channel() == fences);
        if !others.is_empty() {
            tap(others);
        }
        own
    }

    /// Does what the engine asks for, and what waits for the locks of caches.
    fn perform_outputs(&mut self) -> Result<(), DriverError> {
        loop {
            self.do_outputs()?;
            if !self.flush() {
                break;
            }
        }
        for at in 0..self.tables.len() {
            if !self.tables[at].store.is_waiting() {
                let standing = &mut self.standings[at];
                standing.reached = standing.arrived;
                if std::mem::take(&mut standing.is_live_next) {
                    self.become_state(TableId(at), State::Live);
                }
            }
        }
        Ok(())
    }

    /// A table's state is another one, and with it perhaps that of all.
    fn become_state(&mut self, table: TableId, state: State) {
        if self.standings[table.0].state == state {
            return;
        }
        self.standings[table.0].state = state;
        self.emit(DriverEvent::TableState { table, state });
        let all = self
            .standings
            .iter()
            .map(|standing| standing.state)
            .min()
            .unwrap_or(state);
        if all != self.state {
            if all == State::Live {
                self.times_short = 0;
            }
            self.state = all;
            self.emit(DriverEvent::State(all));
        }
    }

    /// Does what waits for the locks of caches; whether the engine has something to say to that.
    fn flush(&mut self) -> bool {
        let now = Instant::now();
        let mut is_news = false;
        for at in 0..self.tables.len() {
            let table = TableId(at);
            let DriverTable {
                store, busy_until, ..
            } = &mut self.tables[at];
            if !store.is_waiting() || busy_until.is_some_and(|until| until > now) {
                continue;
            }
            let was_busy = busy_until.is_some();
            let flushed = store.flush(LOCK_PATIENCE);
            let is_done = !matches!(flushed, Ok(false));
            *busy_until = (!is_done).then(|| Instant::now() + LOCK_RETRY);
            if is_done {
                self.emit_row_events(table);
            }
            if let Err(error) = flushed {
                is_news = true;
                self.not_stored(table, error);
            }
            if is_done && was_busy {
                is_news = true;
                self.engine
                    .handle(Input::CacheFree { table }, Instant::now());
            } else if !is_done && !was_busy {
                is_news = true;
                self.engine
                    .handle(Input::CacheBusy { table }, Instant::now());
            }
        }
        is_news
    }

    /// Something could not be stored that was thought it could: there is no room, or a snapshot
    /// brings a key twice.
    fn not_stored(
        &mut self,
        table: TableId,
        FlushError {
            is_of_snapshot,
            error,
        }: FlushError,
    ) {
        match self
            .reads
            .asked
            .filter(|asked| is_of_snapshot && asked.table == table)
        {
            Some(asked) => self.unreadable(asked, error.into()),
            None => {
                let why = error.to_string();
                self.engine.handle(
                    Input::ChangeUnfit {
                        table,
                        why,
                        sender: None,
                    },
                    Instant::now(),
                );
            }
        }
    }

    /// Does what the engine asks for; what is to be done to caches is prepared.
    fn do_outputs(&mut self) -> Result<(), DriverError> {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Connect { channels } => self.connect(channels),
                Output::ListenAlso { channels } => self.listen_also(&channels),
                Output::Notify {
                    via,
                    channel,
                    token,
                } => self.notify(via, &channel, token),
                Output::ReadTable { table, generation } => {
                    self.read(table, generation, None, ReadKind::All);
                }
                Output::Refetch {
                    table,
                    batch,
                    keys,
                    is_within_comparison,
                } => {
                    let kind = if is_within_comparison {
                        ReadKind::RowsOfCut
                    } else {
                        ReadKind::Rows
                    };
                    let keys = self.tables[table.0].possible(keys);
                    self.read(table, batch, Some(keys), kind);
                }
                Output::TakeCut { table, comparison } => {
                    self.read(table, comparison, None, ReadKind::Cut);
                }
                Output::Compare { table, comparison } => {
                    self.read(table, comparison, None, ReadKind::Compare);
                }
                Output::ComparisonEnded {
                    table,
                    question,
                    inconclusive,
                    doubt,
                } => {
                    self.comparison_ended(table, QuestionId(question), inconclusive, doubt);
                }
                Output::Look { look } => self.look(look),
                Output::GiveUpRead { table } => self.give_up_read(table),
                Output::Store { table, batch: _ } => {
                    let stored = self.tables[table.0].store_refetched();
                    self.done_with(table, stored, None, self.tables[table.0].copied);
                }
                Output::Apply { table, change } => {
                    let applied = self.tables[table.0].apply(&change);
                    self.done_with(
                        table,
                        applied,
                        Some(change.sender),
                        change.data().map_or(0, str::len),
                    );
                }
                Output::Clear { table, keep } => {
                    let cleared = self.tables[table.0].store.clear(&keep);
                    self.done_with(table, cleared, None, 0);
                }
                Output::FenceReached { table, fence } => {
                    let arrived = &mut self.standings[table.0].arrived;
                    *arrived = (*arrived).max(Some(fence));
                }
                Output::TableStateChanged { table, state } => {
                    self.standings[table.0].is_live_next = state == State::Live;
                    if state != State::Live {
                        self.become_state(table, state);
                    }
                }
                // The least of the tables' states, once what waits for locks is done.
                Output::StateChanged(_) if !self.tables.is_empty() => {}
                Output::StateChanged(state) => {
                    self.state = state;
                    self.emit(DriverEvent::State(state));
                }
                Output::CommitsBlocked => self.emit(DriverEvent::CommitsBlocked),
                Output::AuxConnectionLost { via, why, retry_in } => {
                    self.links.iter_mut().for_each(|links| links.lose(via));
                    if via == AuxConnection::Reads {
                        self.reads.end();
                    }
                    self.failure = None;
                    self.emit(DriverEvent::AuxConnectionLost { via, why, retry_in });
                }
                Output::Reopen { via } => {
                    let opener = self.opener();
                    self.links
                        .iter_mut()
                        .for_each(|links| links.reopen(via, opener.clone()));
                }
                Output::ReadScheduled { table, why, sender } => {
                    self.emit_read_scheduled(table, why, sender);
                }
                Output::Disconnected { failure, retry_in } => {
                    self.disconnected(failure, retry_in)?;
                }
            }
        }
        Ok(())
    }

    fn emit(&mut self, event: DriverEvent) {
        /// Of whoever does not look on, the last few are kept.
        const KEPT: usize = 1024;
        tracing::debug!(?event, "driver");
        if !self.options.row_events && self.told.len() >= KEPT {
            self.told.pop_front();
        }
        self.told.push_back(event);
    }

    /// Something was done to a cache: tells of its rows, and looks at the memory now and then.
    fn done_with(
        &mut self,
        table: TableId,
        done: Result<(), String>,
        sender: Option<i32>,
        bytes: usize,
    ) {
        if let Err(why) = done {
            self.engine
                .handle(Input::ChangeUnfit { table, why, sender }, Instant::now());
        }
        self.applied_since_check.0 += 1;
        self.applied_since_check.1 += bytes;
        let (changes, applied) = self.applied_since_check;
        if changes >= ROWS_BETWEEN_CHECKS || applied > self.bytes_between_checks() {
            self.applied_since_check = (0, 0);
            self.check_memory(table);
        }
    }

    fn emit_row_events(&mut self, table: TableId) {
        let told = self.tables[table.0].store.take_row_events();
        self.told.extend(told.into_iter().map(|told| match told {
            RowEvent::Row(change, sender) => DriverEvent::Row {
                table,
                change,
                sender,
            },
            RowEvent::Model(key, became) => DriverEvent::Model { table, key, became },
            RowEvent::Misfit(key, why, sender) => DriverEvent::Misfit {
                table,
                key,
                why,
                sender,
            },
        }));
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected { epoch, links } if epoch == self.epoch => {
                self.failure = None;
                self.links = Some(*links);
                self.engine.handle(Input::Listening, Instant::now());
            }
            Event::ConnectFailed { epoch, error } if epoch == self.epoch => {
                let (code, is_permanent) = error.verdict();
                let why = chain(&error);
                self.failure = Some(error);
                self.engine.handle(
                    Input::ConnectFailed {
                        code,
                        why,
                        is_permanent,
                    },
                    Instant::now(),
                );
            }
            // A read that is underway will say what the server said.
            Event::Ended {
                via: AuxConnection::Reads,
                ..
            } if self.reads.is_underway() => {}
            Event::Ended { via, epoch, why } if self.is_current(via, epoch) => {
                self.engine
                    .handle(Input::AuxConnectionLost { via, why }, Instant::now());
            }
            Event::Reopened { via, epoch, opened } if self.is_current(via, epoch) => {
                self.reopened(via, epoch, opened);
            }
            Event::Sent { via, epoch, token } if self.is_current(via, epoch) => {
                self.engine
                    .handle(Input::Sent { token: &token }, Instant::now());
            }
            Event::SendFailed {
                via,
                epoch,
                token,
                error,
            } if self.is_current(via, epoch) => match error.sqlstate() {
                Some("55P03") => self
                    .engine
                    .handle(Input::SendBlocked { token: &token }, Instant::now()),
                _ => self.aux_connection_lost(via, error),
            },
            Event::Looked {
                epoch,
                look,
                relations,
                seen,
            } if self.is_current(AuxConnection::Fences, epoch) => {
                self.looked(look, &relations, seen);
            }
            Event::SenderKnown {
                table,
                why,
                sender,
                who,
            } => self.sender_known(table, &why, sender, who),
            Event::ListensAlso { epoch, listened } if epoch == self.epoch => {
                let input = match listened {
                    Ok(()) => Input::ListensAlso,
                    Err(source) => {
                        let error = DriverError::Server {
                            doing: "LISTEN on another channel".to_string(),
                            source,
                        };
                        Input::Lost(chain(&error))
                    }
                };
                self.engine.handle(input, Instant::now());
            }
            Event::ReadFailed { asked, error } if self.reads.asked == Some(asked) => {
                self.read_failed(asked, error);
            }
            // Of connections that are gone, or of a read that nobody waits for.
            Event::Connected { .. }
            | Event::ConnectFailed { .. }
            | Event::Ended { .. }
            | Event::Reopened { .. }
            | Event::Sent { .. }
            | Event::SendFailed { .. }
            | Event::Looked { .. }
            | Event::ListensAlso { .. }
            | Event::ReadFailed { .. } => {}
        }
    }
}

/// Digits that nobody else knows. The version 4 UUIDs are made of the system's random numbers, 122
/// bits each.
fn secret() -> [u8; 32] {
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    secret[16..].copy_from_slice(Uuid::new_v4().as_bytes());
    secret
}

/// Takes what the socket has, up to a batch; `end` says why there will be no more.
async fn next_batch(
    listener: Option<&mut Listener>,
    batch: &mut Vec<Notification>,
    end: &mut Option<String>,
) {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    poll_fn(|cx| {
        while batch.len() < BATCH {
            match listener.poll_next(cx) {
                Poll::Ready(Some(Ok(notification))) => batch.push(notification),
                Poll::Ready(Some(Err(error))) => {
                    *end = Some(chain(&error));
                    return Poll::Ready(());
                }
                Poll::Ready(None) => {
                    *end = Some("the listening connection was closed".to_string());
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
