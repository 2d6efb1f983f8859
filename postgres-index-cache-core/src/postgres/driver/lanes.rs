//! [`Lane`]: a session that reads, with the read that it is asked for. Q is the first lane. The
//! others are for *side reads*: large tables that are read while Q reads another.
//!
//! ```text
//! side read asked for ─→ open a session ─→ NOTIFY a token ─→ L hears the token ─→ read
//!                             └─────────────── refused, late ───────────────┴─→ SideReadLost
//! ```
//!
//! The session of a side read is kept for the next one, and closed once there is none.

use super::Driver;
use super::comparisons::Comparisons;
use crate::postgres::apply::driver_table::DriverTable;
use crate::postgres::connection::sessions::{AuxClient, OpenSession};
use crate::postgres::error::DriverError;
use crate::postgres::error_chain::chain;
use crate::postgres::read::request::{ReadKind, ReadMessage, ReadRequest};
use crate::sync::{AuxConnection, Input, Snapshot, TableId};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// The most messages of a read that may be on their way. The session waits while its channel is
/// full, so a fast server cannot fill the memory.
const READ_MESSAGES: usize = 4;

/// The number of a lane, by its place in [`Reads::lanes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneId(usize);

/// The lane of Q.
pub(super) const Q: LaneId = LaneId(0);

/// A session that reads one thing at a time.
#[derive(Debug)]
pub(super) struct Lane {
    /// The read that the session is asked for; `None` if it has nothing to do, or the read was given
    /// up.
    pub(super) asked: Option<ReadRequest>,
    /// The snapshot of that read, once the snapshot is taken.
    pub(super) snapshot: Option<Snapshot>,
    /// Whether the transaction of a comparison is still open on the session.
    pub(super) is_cut_open: bool,
    /// The task that reads. The task's result says whether the session is in order.
    pub(super) task: Option<JoinHandle<bool>>,
    pub(super) next_check: NextCheck,
    /// Whether the driver takes none of the rows, since their cache is locked.
    is_held_back: bool,
    /// The rows that are read.
    rows: mpsc::Receiver<ReadMessage>,
    pub(super) rows_tx: mpsc::Sender<ReadMessage>,
    /// The session of a side read, once it is open. Q's is one of the driver's
    /// [`Sessions`](crate::postgres::connection::sessions::Sessions).
    side: Option<SideSession>,
    /// The session of a side read that is being opened.
    opening: Option<Opening>,
}

/// The open session of a side read. L has heard it.
#[derive(Debug)]
struct SideSession {
    opened: OpenSession,
    /// The number of its opening.
    epoch: u64,
}

/// The session of a side read that is being opened.
#[derive(Debug)]
struct Opening {
    /// The number of the opening.
    epoch: u64,
    /// The payload that L must hear.
    payload: String,
    /// Tells the task that L has heard the payload; `None` once it was told.
    heard: Option<oneshot::Sender<()>>,
    /// The task that opens the session.
    task: JoinHandle<()>,
}

/// The number of rows, and of bytes of COPY, at which the memory is checked next.
#[derive(Debug, Default)]
pub(super) struct NextCheck {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end();
    }
}

impl Lane {
    fn new() -> Self {
        let (rows_tx, rows) = mpsc::channel(READ_MESSAGES);
        Self {
            asked: None,
            snapshot: None,
            is_cut_open: false,
            task: None,
            next_check: NextCheck::default(),
            is_held_back: false,
            rows,
            rows_tx,
            side: None,
            opening: None,
        }
    }

    /// Forgets the session and what it was asked for, since the session is gone.
    fn end(&mut self) {
        self.asked = None;
        self.is_cut_open = false;
        self.task.take().inspect(JoinHandle::abort);
        self.side = None;
        if let Some(opening) = self.opening.take() {
            opening.task.abort();
        }
    }

    /// Returns whether a task reads, so that a message will tell how the read ends.
    fn is_underway(&self) -> bool {
        self.asked.is_some() && self.task.as_ref().is_some_and(|task| !task.is_finished())
    }
}

/// The lanes, and the comparisons that use Q.
#[derive(Debug)]
pub(super) struct Reads {
    /// Q first, then the lanes of side reads.
    lanes: Vec<Lane>,
    pub(super) comparisons: Comparisons,
}

impl Reads {
    pub(super) fn new() -> Self {
        Self {
            lanes: vec![Lane::new()],
            comparisons: Comparisons::default(),
        }
    }

    pub(super) fn lane(&mut self, lane: LaneId) -> &mut Lane {
        &mut self.lanes[lane.0]
    }

    /// Returns the lane that is asked for this read; `None` if the read was given up.
    pub(super) fn lane_of(&self, asked: ReadRequest) -> Option<LaneId> {
        let at = self.lanes.iter().position(|lane| lane.asked == Some(asked));
        at.map(LaneId)
    }

    /// Returns the read of a table that is underway.
    pub(super) fn of_table(&self, table: TableId) -> Option<ReadRequest> {
        self.lanes
            .iter()
            .filter_map(|lane| lane.asked)
            .find(|asked| asked.table == table)
    }

    /// Returns whether a task reads on Q, so that a message will tell how the read ends.
    pub(super) fn is_underway_on_q(&self) -> bool {
        self.lanes[Q.0].is_underway()
    }

    /// Forgets what Q was asked for, since its session is gone.
    pub(super) fn end_q(&mut self) {
        self.lanes[Q.0].end();
        self.comparisons.end();
    }

    /// Forgets all sessions and what they were asked for: all connections are gone.
    pub(super) fn end_all(&mut self) {
        self.lanes.truncate(1);
        self.end_q();
    }

    /// Returns a lane for a side read: one that is idle, or a new one.
    fn idle_side(&mut self) -> LaneId {
        let idle = (1..self.lanes.len()).find(|&at| self.lanes[at].asked.is_none());
        LaneId(idle.unwrap_or_else(|| {
            self.lanes.push(Lane::new());
            self.lanes.len() - 1
        }))
    }

    /// Closes the sessions of side reads that have nothing to do.
    pub(super) fn close_idle(&mut self) {
        for lane in &mut self.lanes[1..] {
            if lane.asked.is_none() {
                lane.side = None;
                // The task may still be ending a transaction, and keeps the session until then.
                lane.task = None;
            }
        }
    }

    /// Notes a payload of the fence channel. Returns whether it is the token of a session that is
    /// being opened: nobody else can have made it, since it has a digest that is secret until it is
    /// sent.
    pub(super) fn hear(&mut self, payload: &str) -> bool {
        let openings = self
            .lanes
            .iter_mut()
            .filter_map(|lane| lane.opening.as_mut());
        let mut awaited = openings.filter(|opening| opening.payload == payload);
        let Some(heard) = awaited.next().and_then(|opening| opening.heard.take()) else {
            return false;
        };
        // If the task has given up meanwhile, its event tells.
        let _ = heard.send(());
        true
    }

    /// Holds back the messages of the lanes that read tables whose caches are locked.
    ///
    /// While a reader holds a cache's lock, the rows for the cache are left in the lane's channel. The
    /// channel is bounded, so the session waits and the memory does not grow.
    pub(super) fn hold_back(&mut self, tables: &[DriverTable]) {
        for lane in &mut self.lanes {
            lane.is_held_back = lane
                .asked
                .is_some_and(|asked| tables[asked.table.0].busy_until.is_some());
        }
    }

    /// Takes the next message of each lane that is not held back.
    pub(super) fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<Vec<ReadMessage>> {
        let mut messages = Vec::new();
        for lane in &mut self.lanes {
            if !lane.is_held_back
                && let Poll::Ready(Some(message)) = lane.rows.poll_recv(cx)
            {
                messages.push(message);
            }
        }
        if messages.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(messages)
    }
}

impl Driver {
    /// Returns the client of a lane; `None` while it is lost.
    pub(super) fn lane_client(&mut self, lane: LaneId) -> Option<AuxClient> {
        if lane == Q {
            return self.aux_client(AuxConnection::Reads);
        }
        let side = self.reads.lane(lane).side.as_ref()?;
        Some(side.opened.client(side.epoch))
    }

    /// Reads a table beside Q, on a session that is idle or on a new one.
    pub(super) fn side_read(&mut self, table: TableId, generation: u64) {
        let lane = self.reads.idle_side();
        if self.reads.lane(lane).side.is_some() {
            return self.read_on(lane, table, generation, None, ReadKind::All);
        }
        let opening = self.reads.lane(lane).opening.as_ref();
        let epoch = match opening.map(|opening| opening.epoch) {
            // It was begun for a read that was given up.
            Some(epoch) => epoch,
            None => self.open_side(lane),
        };
        self.reads.lane(lane).asked = Some(ReadRequest {
            epoch,
            table,
            work: generation,
            kind: ReadKind::All,
        });
    }

    /// Starts a task that opens the session of a side read. Returns the number of the opening.
    fn open_side(&mut self, lane: LaneId) -> u64 {
        let opener = self.opener();
        let epoch = opener.epoch;
        let payload = self.payload_of(&format!("side.{epoch}"));
        let (heard, is_heard) = oneshot::channel();
        let task = opener.open_side(payload.clone(), is_heard);
        self.reads.lane(lane).opening = Some(Opening {
            epoch,
            payload,
            heard: Some(heard),
            task,
        });
        epoch
    }

    /// Takes the session of a side read, which L has heard, and begins the read. If there is no
    /// session, tells the engine that Q must read.
    pub(super) fn side_opened(&mut self, epoch: u64, opened: Result<OpenSession, DriverError>) {
        let is_of = |lane: &Lane| lane.opening.as_ref().is_some_and(|own| own.epoch == epoch);
        let Some(lane) = self.reads.lanes.iter().position(is_of).map(LaneId) else {
            return;
        };
        let own = self.reads.lane(lane);
        own.opening = None;
        match opened {
            Ok(opened) => {
                own.side = Some(SideSession { opened, epoch });
                if let Some(asked) = own.asked {
                    self.read_on(lane, asked.table, asked.work, None, asked.kind);
                }
            }
            Err(error) => {
                if let Some(asked) = own.asked {
                    self.side_lost(lane, asked, &error);
                }
            }
        }
    }

    /// Tells the engine that the session of a side read is lost.
    pub(super) fn side_lost(&mut self, lane: LaneId, asked: ReadRequest, error: &DriverError) {
        self.reads.lane(lane).end();
        let input = Input::SideReadLost {
            table: asked.table,
            generation: asked.work,
            why: chain(error),
        };
        self.engine.handle(input, Instant::now());
    }
}
