//! [`Follow`]: drives a [`Node`] on a log on NATS.
//!
//! ```text
//!            ┌─ snapshot rows ──────────┐
//! NatsLog ───┼─ stored messages ────────┼─→ Node ─→ TablesImage ─ lock ─→ caches
//!            ├─ republished messages ───┤
//!            └─ answers, the log's end ─┘
//! ```
//!
//! A read begins with the stored messages, and goes on with the republished ones. Republished
//! messages wait in the subscription meanwhile. NATS drops those of a reader that is too slow, and
//! the node sees the hole.

mod steps;
mod tasks;
mod verify;

use super::error::LogError;
use super::image::{Caches, CellCaches, LoggedTable, TablesImage};
use super::stream::NatsLog;
use crate::log::{Base, Node, NodeCounters, NodeInput, NodeLimits, Position, Sequence, TableName};
use crate::postgres::apply::sink::{RowChange, RowEvent};
use crate::postgres::apply::writer::CacheWriter;
use crate::sync::FenceId;
use async_nats::Subscriber;
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};
use steps::Happened;
use tasks::{LoadEvent, StoredEvent};
use tokio::sync::mpsc;
use uuid::Uuid;
pub(crate) use verify::OTHER_TERM;

/// How long a proof counts. A relay proves each second.
const PATIENCE: Duration = Duration::from_secs(5);

/// The wait for the answer to a question.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// The messages or batches of rows that may wait for the node.
const WAITING: usize = 4;

/// News of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowEvent {
    /// The rows are live, or are not any more.
    Live(bool),
    /// A snapshot is in the caches. The tables may be other ones than before.
    Loaded {
        /// Number of rows.
        rows: u64,
    },
    /// NATS did not do what was asked for. The node tries again.
    Failed(String),
}

/// A load that is underway.
struct Loading {
    number: u64,
    events: mpsc::Receiver<LoadEvent>,
}

/// Where the messages of a read come from.
enum Reading {
    /// There is no read.
    Nothing,
    /// From the stream. Ends where the stream ended when the read began.
    Stored {
        read: u64,
        events: mpsc::Receiver<StoredEvent>,
    },
    /// From the subscription.
    Live { read: u64 },
}

/// Word of the log's end.
struct End {
    read: u64,
    /// The messages that had come when the end was asked for.
    messages: u64,
    last: Result<Option<Sequence>, LogError>,
}

/// A node of a log on NATS. Nothing happens unless [`step`](Self::step) is awaited.
pub struct Follow {
    log: NatsLog,
    node: Node,
    image: TablesImage,
    live: Subscriber,
    /// The number of connections so far; see [`NatsLog::connects`].
    connects: u64,
    reading: Reading,
    loading: Option<Loading>,
    answers: mpsc::Receiver<(u64, Option<Position>)>,
    answers_tx: mpsc::Sender<(u64, Option<Position>)>,
    ends: mpsc::Receiver<End>,
    ends_tx: mpsc::Sender<End>,
    /// The last message of the read that came from the stream. The republished messages begin
    /// before that one.
    stored_to: Sequence,
    /// The number of messages that have come.
    messages: u64,
    /// When the log's end is looked at; `None` while a look is underway.
    look_at: Option<Instant>,
    /// When the node is told that NATS can be reached again.
    connect_at: Option<Instant>,
    happened: Option<Happened>,
    /// The fences that are reached once the caches are flushed.
    reached_next: Vec<FenceId>,
    reached: Option<FenceId>,
    fences: u64,
    is_live: bool,
    /// When the last proof came.
    last_proof_at: Option<Instant>,
    /// See [`proven_at`](Self::proven_at).
    proven_at: Option<Instant>,
    /// Why the rows are not live, as far as is known; of no meaning while they are.
    why: String,
    /// Whether the connection was closed for good.
    is_closed: bool,
    /// Whether the last load has found a log without a message.
    is_log_empty: bool,
    events: VecDeque<FollowEvent>,
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow")
            .field("log", &self.log.name())
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Follow {
    /// Subscribes to the log. The snapshot is loaded by the steps that follow. The caches may take
    /// `max_memory` bytes.
    ///
    /// # Errors
    /// If NATS refuses the subscription.
    pub async fn open(log: NatsLog, max_memory: usize) -> Result<Self, LogError> {
        let image = TablesImage::new(Box::new(CellCaches::default()), max_memory);
        Self::open_with(log, Node::new(LIMITS, random()), image).await
    }

    /// Follows the log into these caches, which may take so many bytes.
    ///
    /// # Errors
    /// If NATS refuses the subscription.
    pub(crate) async fn open_into(
        log: NatsLog,
        caches: Box<dyn Caches>,
        max_memory: usize,
    ) -> Result<Self, LogError> {
        let image = TablesImage::new(caches, max_memory);
        Self::open_with(log, Node::new(LIMITS, random()), image).await
    }

    /// Follows the log, and is never live: for a relay that stands by.
    pub(super) async fn standing_by(log: NatsLog, max_memory: usize) -> Result<Self, LogError> {
        let image = TablesImage::new(Box::new(CellCaches::default()), max_memory);
        Self::open_with(log, Node::standing_by(LIMITS, random()), image).await
    }

    async fn open_with(log: NatsLog, node: Node, image: TablesImage) -> Result<Self, LogError> {
        let live = log.listen().await?;
        let (answers_tx, answers) = mpsc::channel(WAITING);
        let (ends_tx, ends) = mpsc::channel(WAITING);
        Ok(Self {
            connects: log.connects(),
            log,
            node,
            image,
            live,
            reading: Reading::Nothing,
            loading: None,
            answers,
            answers_tx,
            ends,
            ends_tx,
            stored_to: Sequence::default(),
            messages: 0,
            look_at: None,
            connect_at: Some(Instant::now()),
            happened: None,
            reached_next: Vec::new(),
            reached: None,
            fences: 0,
            is_live: false,
            last_proof_at: None,
            proven_at: None,
            why: "nobody has proven the rows yet".to_string(),
            is_closed: false,
            is_log_empty: false,
            events: VecDeque::new(),
        })
    }

    /// Returns the log.
    pub fn log(&self) -> &NatsLog {
        &self.log
    }

    /// Returns the tables of the log; none before the first snapshot.
    pub fn tables(&self) -> impl Iterator<Item = &LoggedTable> {
        self.image.cells().iter()
    }

    /// Returns whether the rows are live: they are those of PostgreSQL as of a fence that this node
    /// has asked for, or later, and proofs keep coming.
    pub fn is_live(&self) -> bool {
        self.is_live && self.node.is_live(Instant::now())
    }

    /// Returns the position that the rows are as of; `None` if there are none.
    pub fn position(&self) -> Option<Position> {
        self.node.follower().position()
    }

    /// Returns the node's figures.
    pub fn counters(&self) -> NodeCounters {
        self.node.counters()
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> impl Iterator<Item = FollowEvent> + '_ {
        self.events.drain(..)
    }

    /// Asks for a fence and returns its number. [`has_reached`](Self::has_reached) tells when
    /// everything that was committed in PostgreSQL before this call is in the caches.
    pub fn ask_for_fence(&mut self) -> FenceId {
        self.fences += 1;
        let fence = FenceId(self.fences);
        self.node
            .handle(NodeInput::FenceWanted(fence), Instant::now());
        fence
    }

    /// Returns whether a fence was reached, and the rows are live. While they are not, an older
    /// snapshot may have been laid over them.
    pub fn has_reached(&self, fence: FenceId) -> bool {
        self.reached >= Some(fence) && self.is_live()
    }

    /// Notes that nobody waits for a fence any more.
    pub(crate) fn drop_fence(&mut self, fence: FenceId) {
        self.node
            .handle(NodeInput::FenceDropped(fence), Instant::now());
    }

    /// Returns whether a change waits for a reader, who holds the lock of a cache.
    pub(crate) fn is_waiting(&self) -> bool {
        self.image.is_waiting()
    }

    /// Returns why the caches cannot have the log's rows; `None` if they can.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.image.broken()
    }

    /// Returns a moment as of which no change is missing, if there is one: when the last proof's
    /// fence was asked for, by the relay's clock, or when the proof in front of the last one came,
    /// whichever is earlier. The relay's clock may be fast. The moment at which a proof comes may
    /// be late, if NATS has held it up.
    pub(crate) fn proven_at(&self) -> Option<Instant> {
        self.proven_at
    }

    /// Returns why the rows are not live, as far as is known.
    pub fn why(&self) -> &str {
        self.image.broken().unwrap_or(&self.why)
    }

    /// Returns the writer of a table; `None` if the log has no such table, or it is not kept.
    pub(crate) fn writer(&mut self, table: &TableName) -> Option<&mut Box<dyn CacheWriter>> {
        self.image.writer(table)
    }

    /// Records the changes of rows from now on.
    pub(crate) fn record_row_events(&mut self) {
        self.image.record_row_events_of(None);
    }

    /// Records the changes of rows of a table from now on, for
    /// [`take_row_changes`](Self::take_row_changes), which must be called after each step: each
    /// change is kept until then.
    pub fn record_row_changes(&mut self, table: TableName) {
        self.image.record_row_events_of(Some(table));
    }

    /// Takes the changes of rows that were recorded.
    pub fn take_row_changes(&mut self) -> Vec<RowChange> {
        let events = self.image.take_row_events().into_iter();
        let changes = events.filter_map(|event| match event {
            RowEvent::Row { change, .. } => Some(change),
            RowEvent::Model { .. } | RowEvent::Misfit { .. } => None,
        });
        changes.collect()
    }

    /// Returns whether every message of the log is in the caches, as far as is known.
    pub(super) fn is_at_end(&self) -> bool {
        self.node.is_at_end() && self.happened.is_none() && self.image.broken().is_none()
    }

    /// Returns whether the connection was closed for good, so that nothing comes any more.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Returns whether the log was found to have no message.
    pub(super) fn is_log_empty(&self) -> bool {
        self.is_log_empty
    }

    /// Returns whether loading a snapshot was of no use several times.
    pub(super) fn cannot_follow(&self) -> bool {
        self.node.cannot_follow()
    }

    /// Returns the log's end as the base of a term, with the rows; `None` if there is no image at
    /// the log's end.
    pub(super) fn base(&self) -> Option<(Base, Vec<LoggedTable>)> {
        let follower = self.node.follower();
        let (position, seen) = follower.position().zip(follower.seen())?;
        self.is_at_end()
            .then(|| (Base { position, seen }, self.tables().cloned().collect()))
    }
}

const LIMITS: NodeLimits = NodeLimits {
    patience: PATIENCE,
    ask_timeout: ASK_TIMEOUT,
};

/// Returns a random number from 0 to 1.
pub(super) fn random_share() -> f64 {
    f64::from(random() as u32) / f64::from(u32::MAX)
}

/// Returns random bits.
pub(crate) fn random() -> u64 {
    Uuid::new_v4().as_u64_pair().1
}
