//! [`Lane`]: a session that reads, with the read that it is asked for. Q is the first lane. The
//! others are for *side reads*: large tables that are read while Q is at work for another.
//!
//! ```text
//! side read asked for ─→ open a session ─→ NOTIFY a token ─→ L hears the token ─→ read
//!                          │      └──────────── refused, lost, too late ─────────┴─→ SideReadLost
//!                          └─ Q has nothing to do meanwhile ─→ SideReadLate: Q reads
//! ```
//!
//! What ends a read, and what becomes of its lane:
//!
//! | | the task | the session |
//! |---|---|---|
//! | the read is done | ends by itself | free for the next read; without one a side session is closed |
//! | it fails, and the session does not | goes on to the end of the COPY, rolls back | the same, once the task has ended |
//! | it is given up (`abandon_read`) | is aborted; another one rolls back | the same |
//! | the session is lost (`Lane::end`) | is aborted | is gone |
//! | all connections are lost (`end_all`) | is aborted | is gone |
//!
//! The sessions of a read's parts are the task's own, and are gone when the task ends.

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
    /// The read that the session is asked for; `None` if it has nothing to do, or the read was
    /// given up.
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
    /// The session of a side read.
    side: Side,
}

/// The session of a lane for side reads.
#[derive(Debug)]
enum Side {
    /// There is none. Q's session is one of the driver's
    /// [`Sessions`](crate::postgres::connection::sessions::Sessions).
    None,
    /// It is being opened. What the lane is asked for has not begun.
    Opening(Opening),
    /// It is open, and L has heard it.
    Open {
        opened: OpenSession,
        /// The number of its opening.
        epoch: u64,
    },
}

/// The session of a side read that is being opened.
#[derive(Debug)]
struct Opening {
    /// The number of the opening.
    epoch: u64,
    /// The payload that L must hear.
    payload: String,
    /// Tells the task that L has heard the payload, and from which process of the server; `None`
    /// once it was told.
    heard: Option<oneshot::Sender<i32>>,
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
            side: Side::None,
        }
    }

    /// Forgets the session and what it was asked for, since the session is gone.
    fn end(&mut self) {
        self.asked = None;
        self.is_cut_open = false;
        self.task.take().inspect(JoinHandle::abort);
        if let Side::Opening(opening) = std::mem::replace(&mut self.side, Side::None) {
            opening.task.abort();
        }
    }

    /// Returns the opening of the lane's session, if it is being opened.
    fn opening(&mut self) -> Option<&mut Opening> {
        match &mut self.side {
            Side::Opening(opening) => Some(opening),
            Side::None | Side::Open { .. } => None,
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

    /// Returns a lane for one of `most` side reads at a time: one that is idle, or a new one. Where
    /// the tasks of many lanes still read what nobody wants, the read waits for one of them.
    fn idle_side(&mut self, most: usize) -> LaneId {
        let is_idle = |at: &usize| self.lanes[*at].asked.is_none();
        let has_ended = |at: &usize| {
            self.lanes[*at]
                .task
                .as_ref()
                .is_none_or(JoinHandle::is_finished)
        };
        let idle = (1..self.lanes.len()).find(|at| is_idle(at) && has_ended(at));
        if let Some(at) = idle {
            return LaneId(at);
        }
        let draining = (1..self.lanes.len()).find(is_idle);
        match draining {
            Some(at) if self.lanes.len() > 2 * most => LaneId(at),
            _ => {
                self.lanes.push(Lane::new());
                LaneId(self.lanes.len() - 1)
            }
        }
    }

    /// Closes the sessions of side reads that have nothing to do. A session whose task still reads
    /// on, or rolls back, is kept until the task has ended: the next read must not begin before
    /// that, and whoever ends the lanes must reach the task.
    pub(super) fn close_idle(&mut self) {
        for lane in &mut self.lanes[1..] {
            let has_ended = lane.task.as_ref().is_none_or(JoinHandle::is_finished);
            if lane.asked.is_none() && has_ended && matches!(lane.side, Side::Open { .. }) {
                lane.side = Side::None;
                lane.task = None;
            }
        }
    }

    /// Gives up the side reads whose sessions are still being opened, and returns them. The opening
    /// goes on, for the next side read.
    fn give_up_openings(&mut self) -> Vec<ReadRequest> {
        let openings = self.lanes[1..]
            .iter_mut()
            .filter(|lane| matches!(lane.side, Side::Opening(_)));
        openings.filter_map(|lane| lane.asked.take()).collect()
    }

    /// Notes a payload of the fence channel, which the process `sender` has sent. Returns whether
    /// it is the token of a session that is being opened: nobody else can have made it, since it
    /// has a digest that is secret until it is sent.
    pub(super) fn hear(&mut self, sender: i32, payload: &str) -> bool {
        let openings = self.lanes.iter_mut().filter_map(Lane::opening);
        let mut awaited = openings.filter(|opening| opening.payload == payload);
        let Some(heard) = awaited.next().and_then(|opening| opening.heard.take()) else {
            return false;
        };
        // If the task has given up meanwhile, its event tells.
        let _ = heard.send(sender);
        true
    }

    /// Holds back the messages of the lanes that read tables whose caches are locked.
    ///
    /// While a reader holds a cache's lock, the rows for the cache are left in the lane's channel.
    /// The channel is bounded, so the session waits and the memory does not grow.
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
        match &self.reads.lane(lane).side {
            Side::Open { opened, epoch } => Some(opened.client(*epoch)),
            Side::None | Side::Opening(_) => None,
        }
    }

    /// Reads a table beside Q, on a session that is idle or on a new one.
    pub(super) fn side_read(&mut self, table: TableId, generation: u64) {
        let lane = self.reads.idle_side(self.options.limits.side_reads);
        let epoch = match &self.reads.lane(lane).side {
            Side::Open { .. } => {
                return self.read_on(lane, table, generation, None, ReadKind::All);
            }
            // It was begun for a read that was given up.
            Side::Opening(opening) => opening.epoch,
            Side::None => self.open_side(lane),
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
        self.reads.lane(lane).side = Side::Opening(Opening {
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
        let is_of = |lane: &mut Lane| lane.opening().is_some_and(|own| own.epoch == epoch);
        let Some(lane) = self.reads.lanes.iter_mut().position(is_of).map(LaneId) else {
            return;
        };
        let own = self.reads.lane(lane);
        match opened {
            Ok(opened) => {
                own.side = Side::Open { opened, epoch };
                if let Some(asked) = own.asked {
                    self.read_on(lane, asked.table, asked.work, None, asked.kind);
                }
            }
            Err(error) => {
                own.side = Side::None;
                if let Some(asked) = own.asked {
                    self.side_lost(lane, asked, &error);
                }
            }
        }
    }

    /// Lets Q read the tables whose sessions are still being opened, if Q has nothing to do.
    /// Returns whether the engine was told something. Without this:
    /// 1. A pooler lets the fourth session wait instead of refusing it.
    /// 2. Q has read its table, and has nothing to do.
    /// 3. The other table is not live until the opening is given up, half a minute later.
    pub(super) fn relieve_openings(&mut self) -> bool {
        if !self.engine.could_read_on_q() {
            return false;
        }
        let late = self.reads.give_up_openings();
        for asked in &late {
            let input = Input::SideReadLate {
                table: asked.table,
                generation: asked.work,
            };
            self.engine.handle(input, Instant::now());
        }
        !late.is_empty()
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
