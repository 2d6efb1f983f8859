//! [`Replica`]: the engine that joins a snapshot and the notifications without a gap and without a stale row.
//!
//! It does no I/O: whoever drives it hands in what happened ([`Input`]) and carries out what it asks for ([`Output`]):
//!
//! ```text
//! loop { for each event { replica.handle(input, now) }  while let Some(output) = replica.poll() { carry it out } }
//! ```
//!
//! and calls `handle(Input::TimePassed, now)` at [`Replica::poll_timeout`]. Spurious calls are harmless. Time is an
//! argument, tokens come from a seed given at the start: a run can be replayed.
//!
//! The protocol, with three connections: **L** listens, **F** sends fences, **Q** reads.
//!
//! ```text
//! Disconnected ─→ Subscribing ─→ Probing ─→ Snapshotting ─→ CatchingUp ─→ Live
//!   L LISTENs       F and Q notify;   each table:       a fence sent after
//!                   L must hear both  read, then cut    the reads has arrived
//! ```
//!
//! - Changes are applied in the order of arrival. One is skipped exactly when its transaction is visible in the table's
//!   [`Snapshot`]: that is the *cut*. What arrived before the snapshot was asked for is in it.
//! - A change whose payload cannot be trusted to be the row's newest state, or lacks it, makes its table be read again.
//! - A *fence* is a token notified by F: when it comes back, every transaction that committed before it has been seen.

mod backoff;
mod change;
mod snapshot;
mod table;

pub use backoff::Backoff;
pub use change::{Change, Operation};
pub use snapshot::{Snapshot, SnapshotError};

use crate::notification::Payload;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use table::{Phase, Step, Table};

/// A followed table, by its position in what [`Replica::new`] was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub usize);

/// A table to follow.
#[expect(clippy::struct_excessive_bools, reason = "four facts of the catalogue, each on its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its oid: a payload that names another one is not about this table.
    pub oid: u32,
    /// The oids of its leaves, where it is partitioned: they announce in its name.
    pub leaves: Vec<u32>,
    /// Whether it is partitioned. Leaves may be made later: a payload of one that is not known makes it be read again.
    pub is_partitioned: bool,
    /// Whether its key is deferrable: two rows may then have one key for a while inside a transaction.
    pub deferrable_key: bool,
    /// Whether its trigger sends the plain form. It names no schema, so for a table whose trigger sends the extended
    /// form, a plain payload of the same name is somebody else's.
    pub sends_plain_form: bool,
    /// Whether a payload's row has every column that is kept. A trigger sees null in a virtual generated column.
    pub sends_whole_rows: bool,
}

/// Bounds that the engine keeps.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a probe may take to come back.
    pub probe_timeout: Duration,
    /// How long a fence may take to come back: a commit that holds the notify lock holds it up too.
    pub fence_timeout: Duration,
    /// How many bytes of payloads may wait while a table is read; past it the table is read again.
    pub waiting_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            probe_timeout: Duration::from_secs(10),
            fence_timeout: Duration::from_secs(30),
            waiting_bytes: 256 << 20,
        }
    }
}

/// Which connection sends a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Via {
    /// F, the one for fences.
    Fences,
    /// Q, the one that reads.
    Reads,
}

/// The number of a fence that a caller asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// L, F and Q are connected.
    Connected,
    /// The LISTEN that was asked for is committed.
    Listening,
    /// L received a notification.
    Notification {
        /// Its channel.
        channel: &'a str,
        /// Its payload.
        payload: &'a str,
    },
    /// Q read `pg_current_snapshot()` for a read that was asked for; its rows come from that snapshot.
    SnapshotTaken {
        /// The table.
        table: TableId,
        /// The generation of the read.
        generation: u64,
        /// The snapshot.
        snapshot: Snapshot,
    },
    /// All rows of that read are in the cache.
    SnapshotLoaded {
        /// The table.
        table: TableId,
        /// The generation of the read.
        generation: u64,
    },
    /// A change that was handed out could not be applied: the table must be read again.
    ChangeUnfit {
        /// The table.
        table: TableId,
        /// What was wrong with it.
        why: String,
    },
    /// The caller asks for a fence.
    FenceWanted(FenceId),
    /// A connection is lost.
    Lost(String),
    /// Nothing but time: say it when L has nothing more. Only then is a deadline taken for missed, since what is awaited
    /// may have arrived and not been handed in.
    TimePassed,
}

/// What is to be done, in this order.
#[derive(Debug)]
#[must_use]
pub enum Output {
    /// LISTEN on these channels on L, then say [`Input::Listening`].
    Listen(Vec<String>),
    /// NOTIFY the token on the fence channel.
    Notify {
        /// By which connection.
        via: Via,
        /// The fence channel.
        channel: String,
        /// The payload to send.
        token: String,
    },
    /// Read the table on Q: lock, snapshot, COPY. The cache's rows are those of this read from then on.
    ReadTable {
        /// The table.
        table: TableId,
        /// To be said in the answers.
        generation: u64,
    },
    /// Apply a change to the cache.
    Apply {
        /// The table.
        table: TableId,
        /// The change.
        change: Change,
    },
    /// Everything that was committed before this fence was asked for is in the caches.
    FenceReached(FenceId),
    /// The state is another one.
    StateChanged(State),
    /// It cannot go on; the connections are to be dropped.
    Failed(Failure),
}

/// How far the replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Entered at the start, when a connection is lost and after a failure. Nothing is known of the tables.
    Disconnected,
    /// Entered when the connections are there. LISTEN is asked for and not yet committed.
    Subscribing,
    /// Entered when LISTEN is committed. Whether notifications arrive is not known yet.
    Probing,
    /// Entered when both probes came back. Some table has not been read.
    Snapshotting,
    /// Entered when every table is read. Each cache is its table as of some moment; no fence has proven which.
    CatchingUp,
    /// Entered when a fence that was sent after the last read came back. Every cache is its table as of the last fence
    /// or later.
    Live,
}

/// Why the replica cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A probe did not come back.
    #[error(
        "a notification sent by {} connection did not arrive within {} s",
        match via { Via::Fences => "a second", Via::Reads => "the reading" },
        waited.as_secs()
    )]
    ProbeLost {
        /// By which connection it was sent.
        via: Via,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A fence did not come back.
    #[error("a notification that should have come back did not within {} s", waited.as_secs())]
    FenceLost {
        /// How long it was waited for.
        waited: Duration,
    },
    /// A connection was lost.
    #[error("a connection was lost: {0}")]
    ConnectionLost(String),
}

/// What has been counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Notifications received, fences not counted.
    pub received: u64,
    /// Changes handed out to be applied.
    pub applied: u64,
    /// Changes skipped because the snapshot has them.
    pub skipped: u64,
    /// Notifications of tables that are not followed, or of another table of the same name.
    pub other_tables: u64,
    /// Payloads that are no notification.
    pub invalid: u64,
    /// Reads of a table after its first.
    pub reloads: u64,
    /// Changes in the plain form: they carry no xid, so nothing about them can be proven.
    pub plain: u64,
}

/// Where the connections are.
#[derive(Debug)]
enum Link {
    Disconnected,
    Subscribing,
    /// The tokens that have not come back.
    Probing {
        awaited: Vec<(Via, String)>,
        deadline: Instant,
    },
    Following,
}

/// A fence on its way.
#[derive(Debug)]
struct Fence {
    token: String,
    /// Who asked; `None` is the engine itself.
    asked_by: Option<FenceId>,
    /// How many reads were finished when it was sent.
    after_reads: u64,
    deadline: Instant,
    has_arrived: bool,
}

/// The engine. See the [module](self).
#[derive(Debug)]
pub struct Replica {
    tables: Vec<Table>,
    channels: Vec<String>,
    fence_channel: String,
    limits: Limits,
    link: Link,
    fences: Vec<Fence>,
    /// Fences that were asked for and are not sent yet.
    wanted: Vec<FenceId>,
    tokens: u64,
    finished_reads: u64,
    outputs: VecDeque<Output>,
    state: State,
    counters: Counters,
}

impl Replica {
    /// An engine for `tables`, whose triggers notify on `channels`. `fence_channel` must be known to nobody else: it
    /// starts every token, so make it of random digits.
    pub fn new(tables: Vec<Followed>, channels: Vec<String>, fence_channel: String, limits: Limits) -> Self {
        Self {
            tables: tables.into_iter().map(Table::new).collect(),
            channels,
            fence_channel,
            limits,
            link: Link::Disconnected,
            fences: Vec::new(),
            wanted: Vec::new(),
            tokens: 0,
            finished_reads: 0,
            outputs: VecDeque::new(),
            state: State::Disconnected,
            counters: Counters::default(),
        }
    }

    /// How far it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::TimePassed`] is due, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let probe = match &self.link {
            Link::Probing { deadline, .. } => Some(*deadline),
            Link::Disconnected | Link::Subscribing | Link::Following => None,
        };
        let fences = self.fences.iter().filter(|fence| !fence.has_arrived).map(|fence| fence.deadline);
        let reads = self.tables.iter().filter_map(Table::due_at).filter(|_| !self.is_reading());
        fences.chain(probe).chain(reads).min()
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Connected => self.subscribe(),
            Input::Listening => self.probe(now),
            Input::Notification { channel, payload } if channel == self.fence_channel => {
                self.token_arrived(payload, now);
            }
            Input::Notification { payload, .. } => self.notified(payload, now),
            Input::SnapshotTaken { table, generation, snapshot } => self.tables[table.0].cut(generation, snapshot),
            Input::SnapshotLoaded { table, generation } => self.loaded(table, generation, now),
            Input::ChangeUnfit { table, why } => self.read_again(table, &why, now),
            Input::FenceWanted(id) => self.wanted.push(id),
            Input::Lost(why) => self.fail(Failure::ConnectionLost(why)),
            Input::TimePassed => self.check_deadlines(now),
        }
        self.ask_for_reads(now);
        self.settle(now);
    }

    fn subscribe(&mut self) {
        if matches!(self.link, Link::Disconnected) {
            self.link = Link::Subscribing;
            let mut channels = self.channels.clone();
            channels.push(self.fence_channel.clone());
            self.outputs.push_back(Output::Listen(channels));
        }
    }

    fn probe(&mut self, now: Instant) {
        if !matches!(self.link, Link::Subscribing) {
            return;
        }
        let awaited: Vec<(Via, String)> = [Via::Fences, Via::Reads].map(|via| (via, self.next_token())).into();
        for (via, token) in &awaited {
            self.outputs.push_back(Output::Notify {
                via: *via,
                channel: self.fence_channel.clone(),
                token: token.clone(),
            });
        }
        self.link = Link::Probing { awaited, deadline: now + self.limits.probe_timeout };
    }

    fn next_token(&mut self) -> String {
        self.tokens += 1;
        format!("{}.{}", self.fence_channel, self.tokens)
    }

    fn token_arrived(&mut self, token: &str, now: Instant) {
        if let Link::Probing { awaited, .. } = &mut self.link {
            awaited.retain(|(_, wanted)| wanted != token);
            if awaited.is_empty() {
                self.link = Link::Following;
            }
        }
        let Some(at) = self.fences.iter().position(|fence| !fence.has_arrived && fence.token == token) else { return };
        // What a key change held back came before the fence.
        for table in 0..self.tables.len() {
            let steps = self.tables[table].release_held();
            self.carry_out(TableId(table), steps, now);
        }
        let after_reads = self.fences[at].after_reads;
        self.fences[at].has_arrived = true;
        for table in &mut self.tables {
            table.prove(after_reads);
        }
        if self.fences[at].asked_by.is_none() {
            self.fences.remove(at);
        }
    }

    fn notified(&mut self, payload: &str, now: Instant) {
        self.counters.received += 1;
        let parsed = match Payload::parse(payload) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.counters.invalid += 1;
                tracing::warn!(%error, "payload not understood");
                return;
            }
        };
        let mut meant = (0..self.tables.len()).filter(|&table| self.tables[table].is_meant(&parsed));
        let Some(table) = meant.next() else {
            self.counters.other_tables += 1;
            return;
        };
        self.counters.plain += u64::from(parsed.xid.is_none());
        let others: Vec<usize> = meant.collect();
        if !others.is_empty() {
            for table in others.into_iter().chain([table]) {
                let steps = self.tables[table].doubt("a plain payload names a table of two schemas");
                self.carry_out(TableId(table), steps, now);
            }
            return;
        }
        let steps = if self.tables[table].knows(parsed.rel) {
            self.tables[table].take(Change::new(payload, &parsed), self.limits.waiting_bytes)
        } else {
            self.tables[table].doubt("a partition that is not known has announced a change")
        };
        self.carry_out(TableId(table), steps, now);
    }

    fn loaded(&mut self, table: TableId, generation: u64, now: Instant) {
        self.finished_reads += 1;
        let Some(waiting) = self.tables[table.0].loaded(generation, self.finished_reads, now) else { return };
        let mut waiting = waiting.into_iter();
        for change in waiting.by_ref() {
            let steps = self.tables[table.0].take(change, self.limits.waiting_bytes);
            self.carry_out(table, steps, now);
            if !self.tables[table.0].is_following() {
                // It must be read again: what else waited arrived before that read is asked for, so it will be in it.
                break;
            }
        }
    }

    fn carry_out(&mut self, table: TableId, steps: Vec<Step>, now: Instant) {
        for step in steps {
            match step {
                Step::Apply(change) => {
                    self.counters.applied += 1;
                    self.outputs.push_back(Output::Apply { table, change });
                }
                Step::Skip => self.counters.skipped += 1,
                Step::ReadAgain(why) => {
                    self.read_again(table, &why, now);
                    return;
                }
            }
        }
    }

    fn read_again(&mut self, table: TableId, why: &str, now: Instant) {
        if self.tables[table.0].read_again(now) {
            self.counters.reloads += 1;
            tracing::info!(table = table.0, why, "the table is read again");
        }
    }

    fn send_fence(&mut self, asked_by: Option<FenceId>, now: Instant) {
        let token = self.next_token();
        self.outputs.push_back(Output::Notify {
            via: Via::Fences,
            channel: self.fence_channel.clone(),
            token: token.clone(),
        });
        let deadline = now + self.limits.fence_timeout;
        self.fences.push(Fence { token, asked_by, after_reads: self.finished_reads, deadline, has_arrived: false });
    }

    fn check_deadlines(&mut self, now: Instant) {
        let lost_probe = match &self.link {
            Link::Probing { awaited, deadline } if *deadline <= now => awaited.first().map(|(via, _)| *via),
            _ => None,
        };
        if let Some(via) = lost_probe {
            self.fail(Failure::ProbeLost { via, waited: self.limits.probe_timeout });
        } else if self.fences.iter().any(|fence| !fence.has_arrived && fence.deadline <= now) {
            self.fail(Failure::FenceLost { waited: self.limits.fence_timeout });
        }
    }

    fn fail(&mut self, failure: Failure) {
        if matches!(self.link, Link::Disconnected) {
            return;
        }
        self.link = Link::Disconnected;
        self.fences.clear();
        self.wanted.clear();
        self.tables.iter_mut().for_each(Table::disconnect);
        self.set_state(State::Disconnected);
        self.outputs.push_back(Output::Failed(failure));
    }

    fn is_reading(&self) -> bool {
        self.tables.iter().any(|table| matches!(table.phase(), Phase::Reading { .. }))
    }

    /// One read at a time: Q never waits for a lock while it holds another.
    fn ask_for_reads(&mut self, now: Instant) {
        if !matches!(self.link, Link::Following) || self.is_reading() {
            return;
        }
        let due = self.tables.iter().position(|table| table.due_at().is_some_and(|at| at <= now) || table.is_due_now());
        if let Some(table) = due {
            let generation = self.tables[table].start_reading(now);
            self.outputs.push_back(Output::ReadTable { table: TableId(table), generation });
        }
    }

    /// Sends the fence that proves the reads, answers the fences that are fulfilled, and says the state.
    fn settle(&mut self, now: Instant) {
        let all_read = self.tables.iter().all(Table::is_following);
        let all_proven = self.tables.iter().all(Table::is_proven);
        let state = match (&self.link, all_read, all_proven) {
            (Link::Disconnected, ..) => State::Disconnected,
            (Link::Subscribing, ..) => State::Subscribing,
            (Link::Probing { .. }, ..) => State::Probing,
            (Link::Following, false, _) => State::Snapshotting,
            (Link::Following, true, false) => State::CatchingUp,
            (Link::Following, true, true) => State::Live,
        };
        let is_underway =
            self.fences.iter().any(|fence| !fence.has_arrived && fence.after_reads == self.finished_reads);
        if state == State::CatchingUp && !is_underway {
            self.send_fence(None, now);
        }
        if matches!(self.link, Link::Following) {
            for id in std::mem::take(&mut self.wanted) {
                self.send_fence(Some(id), now);
            }
        }
        if state == State::Live {
            for fence in self.fences.extract_if(.., |fence| fence.has_arrived) {
                self.outputs.extend(fence.asked_by.map(Output::FenceReached));
            }
        }
        self.set_state(state);
    }

    fn set_state(&mut self, state: State) {
        if state != self.state {
            self.state = state;
            self.outputs.push_back(Output::StateChanged(state));
        }
    }
}

#[cfg(test)]
mod tests;
