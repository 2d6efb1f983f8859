//! [`Engine`]: the engine that joins a snapshot and the notifications without a gap and without a
//! stale row.
//!
//! It does no I/O: whoever drives it hands in what happened ([`Input`]) and carries out what it
//! asks for ([`Output`]):
//!
//! ```text
//! loop { for each event { engine.handle(input, now) }  while let Some(output) = engine.poll() { carry it out } }
//! ```
//!
//! and calls `handle(Input::TimePassed, now)` at [`Engine::poll_timeout`]. Spurious calls are
//! harmless. Time is an argument, tokens come from a seed given at the start: a run can be
//! replayed.
//!
//! The protocol, with three connections: **L** listens, **F** sends fences, **Q** reads.
//!
//! ```text
//! Disconnected ─→ Subscribing ─→ Probing ─→ Snapshotting ─→ CatchingUp ─→ Live
//!   a while after    L LISTENs    F and Q notify;   each table:      a fence sent after
//!   a loss                        L must hear both  read, then cut   the reads has arrived
//! ```
//!
//! - Changes are applied in the order of arrival. One is skipped exactly when its transaction is
//!   visible in the table's [`Snapshot`]: that is the *cut*. What arrived before the snapshot was
//!   asked for is in it.
//! - A change whose payload cannot be trusted to be the row's newest state, or lacks it, makes that
//!   row be read again by its key, under a snapshot that becomes the key's *floor*: changes that
//!   the floor sees are skipped. While that read is underway, the key's changes wait. What cannot
//!   be told by key makes the table be read again.
//! - A loss of L makes the replica stale at once. It comes back after a random while, and lays the
//!   new snapshot over the old rows. F and Q are opened again alone, and nothing that they say
//!   counts before L has heard them.
//! - A *fence* is a token notified by F: when it comes back, every transaction that committed
//!   before it has been seen.
//! - A *look* at the definitions of the tables goes with each fence, since DDL notifies nothing. A
//!   table that is found to be another one is *held*, neither read nor changed, until whoever
//!   drives the engine says how it is to be followed.
//! - Each table has a [`State`] of its own; one that cannot be read or followed leaves the others
//!   live.
//! - Once everything was live, no failure ends it: it is stale, with the cause, and tries again for
//!   ever.

mod backlog;
mod backoff;
mod change;
mod comparison;
mod fences;
mod held;
mod link;
mod messages;
mod reads;
mod refetch;
mod snapshot;
mod table;

pub use backoff::Backoff;
pub use change::{Change, Operation};
pub use messages::{
    AuxConnection, Counters, Failure, FenceId, Input, Limits, Output, State, TableId, TableSpec,
};
pub use snapshot::{Snapshot, SnapshotError};

use crate::notification::Payload;
use fences::Looks;
use link::{AuxState, ConnectionPhase, Fence, Probe, Streak};
use reads::Work;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use table::{EngineTable, ReloadRequest, Step};

/// A rule of the engine that can be taken out, so that a test can show that the simulation misses
/// it.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// An announcement that may be stale makes its row be read again.
    Recheck,
    /// So does the delete of a key that the same transaction stored.
    Delete,
    /// Changes of a key wait while its row is read again.
    Waiting,
    /// What a row that was read again has seen is skipped.
    Floor,
    /// An answer that nobody waits for is ignored.
    Generation,
    /// A change that the snapshot has is skipped.
    Cut,
    /// It is live, and a fence reached, when a fence has come back.
    Fence,
    /// A TRUNCATE spares rows that were read after it.
    Spare,
    /// While a cache cannot be changed, a row that is to be read again stays so, whatever comes for
    /// it.
    Sticky,
    /// While a comparison waits for its cut, changes are held.
    Hold,
    /// A comparison compares once a fence that was sent after its snapshot has come.
    ComparisonFence,
    /// No answer of a connection counts before its token has reached L.
    Probe,
    /// It is not live before rows are there that came before the fence which proved the reads.
    Open,
    /// A fence counts once a look at the definitions that was asked for with it is done, and no
    /// other look will do.
    Look,
    /// A table that cannot be followed is not read, and what its trigger sends is passed over.
    Held,
}

/// The same failure so many times is a refusal.
const FAILURES: u32 = 3;

/// The engine. See the [module](self).
#[derive(Debug)]
pub struct Engine {
    tables: Vec<EngineTable>,
    channels: Vec<String>,
    /// The channels that L listens on, with those of before; and whether it is still to be told of
    /// the last of them.
    listened: Vec<String>,
    is_listening_also: bool,
    fence_channel: String,
    limits: Limits,
    link: ConnectionPhase,
    fence_connection: AuxState,
    read_connection: AuxState,
    backoff: Backoff,
    /// For the waits before it connects again.
    random: u64,
    fences: Vec<Fence>,
    /// The highest fence that was asked for and is not sent yet: it is one for all before it.
    wanted: Option<FenceId>,
    /// The fences that were asked for, each with how many reads of tables had begun: a read that
    /// begins later has everything that was committed before.
    asked: VecDeque<(FenceId, u64)>,
    started_reads: u64,
    tokens: u64,
    work: Option<Work>,
    /// The tables that are to be compared, each with the number of the question.
    pending_comparisons: VecDeque<(TableId, u64)>,
    comparisons: u64,
    batches: u64,
    /// Whether the last that Q did was to read rows again: reads of tables take turns with it.
    has_refetched: bool,
    finished_reads: u64,
    /// What attempts to connect failed with.
    connect_failures: Streak,
    next_heartbeat: Option<Instant>,
    lag: Option<Duration>,
    /// When the last fence that has arrived was sent: what was committed before that is known.
    proven_at: Option<Instant>,
    last_xid: Option<u64>,
    looks: Looks,
    /// Whether every cache was live once: from then on nothing but its owner ends it.
    has_been_live: bool,
    /// How often in a row a connection was lost while a table was read.
    lost_reads: u32,
    outputs: VecDeque<Output>,
    state: State,
    /// How each table stands, and the highest fence that is reached for it.
    states: Vec<State>,
    reached: Vec<Option<FenceId>>,
    counters: Counters,
    without: Option<Rule>,
}

impl Engine {
    /// An engine for `tables`, whose triggers notify on `channels`; it asks to connect at once.
    /// `fence_channel` must be known to nobody else: it starts every token, so make it of random
    /// digits.
    pub fn new(
        tables: Vec<TableSpec>,
        channels: Vec<String>,
        fence_channel: String,
        limits: Limits,
    ) -> Self {
        // Waits need no better randomness than that of the name: it is there to keep nodes apart.
        let random = fence_channel
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        let count = tables.len();
        let mut engine = Self {
            tables: tables.into_iter().map(EngineTable::new).collect(),
            channels,
            listened: Vec::new(),
            is_listening_also: false,
            fence_channel,
            limits,
            link: ConnectionPhase::Disconnected { retry_at: None },
            fence_connection: AuxState::default(),
            read_connection: AuxState::default(),
            backoff: Backoff::default(),
            random,
            fences: Vec::new(),
            wanted: None,
            asked: VecDeque::new(),
            started_reads: 0,
            tokens: 0,
            work: None,
            pending_comparisons: VecDeque::new(),
            comparisons: 0,
            batches: 0,
            has_refetched: false,
            finished_reads: 0,
            connect_failures: Streak::default(),
            next_heartbeat: None,
            lag: None,
            proven_at: None,
            last_xid: None,
            looks: Looks::default(),
            has_been_live: false,
            lost_reads: 0,
            outputs: VecDeque::new(),
            state: State::Disconnected,
            states: vec![State::Disconnected; count],
            reached: vec![None; count],
            counters: Counters::default(),
            without: None,
        };
        engine.connect();
        engine
    }

    /// Takes a rule out; for a test.
    #[doc(hidden)]
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.without = Some(rule);
        self.tables
            .iter_mut()
            .for_each(|table| table.without = Some(rule));
        self
    }

    /// How far it is: as far as the table that is furthest from being live.
    pub fn state(&self) -> State {
        self.state
    }

    /// How far one table is.
    pub fn table_state(&self, table: TableId) -> State {
        self.states[table.0]
    }

    /// How long the last fence took to come back, from when it was sent; `None` while nothing is
    /// listened to.
    pub fn lag(&self) -> Option<Duration> {
        self.lag
    }

    /// When the last fence that has come back, with its look, was sent. Everything that was
    /// committed before then has arrived; what was committed later may be lost when the connection
    /// is.
    pub fn proven_at(&self) -> Option<Instant> {
        self.proven_at
    }

    /// The highest transaction id that was announced for a followed table.
    pub fn last_xid(&self) -> Option<u64> {
        self.last_xid
    }

    /// Whether it has given up: it will not connect again.
    pub fn has_ended(&self) -> bool {
        matches!(self.link, ConnectionPhase::Disconnected { retry_at: None })
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        let collapsed = self.tables.iter().map(EngineTable::collapsed).sum();
        Counters {
            collapsed,
            ..self.counters
        }
    }

    /// Why a table is stale or degraded; `None` while it is neither.
    pub fn cause(&self, table: TableId) -> Option<&str> {
        match self.states[table.0] {
            State::Stale => Some(
                self.looks
                    .blind()
                    .unwrap_or_else(|| self.tables[table.0].cause()),
            ),
            State::Degraded => Some(self.tables[table.0].cause()),
            State::Disconnected
            | State::Subscribing
            | State::Probing
            | State::Snapshotting
            | State::CatchingUp
            | State::Live => None,
        }
    }

    /// How many changes of a table were followed since it was read for the first time:
    /// notifications that its snapshots did not have.
    pub fn changes(&self, table: TableId) -> u64 {
        self.tables[table.0].arrivals().0
    }

    /// The transaction of the last TRUNCATE of a table that was announced.
    pub fn truncated_by(&self, table: TableId) -> Option<u64> {
        self.tables[table.0].last_truncate()
    }

    /// Whether a look of this number must see that a table has other files than when it was read
    /// last: rows were removed for a TRUNCATE that was announced before it began.
    pub fn must_be_truncated(&self, table: TableId, look: u64) -> bool {
        self.tables[table.0].must_be_truncated(look)
    }

    /// How many bytes of changes and keys wait for reads, and for caches that cannot be changed.
    pub fn waiting_bytes(&self) -> usize {
        self.tables.iter().map(EngineTable::waiting_bytes).sum()
    }

    /// What is to be done next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::TimePassed`] is due, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let link = match &self.link {
            ConnectionPhase::Probing { awaited, .. } => {
                awaited.iter().map(|probe| probe.deadline).min()
            }
            ConnectionPhase::Disconnected { retry_at } => *retry_at,
            ConnectionPhase::Subscribing => None,
            ConnectionPhase::Following => self.next_heartbeat,
        };
        let fences = self
            .fences
            .iter()
            .filter(|fence| !fence.has_arrived())
            .map(|fence| fence.deadline);
        let is_free = self.work.is_none() && self.can_read();
        let reads = self
            .tables
            .iter()
            .filter_map(EngineTable::due_at)
            .filter(|_| is_free);
        fences
            .chain(link)
            .chain(reads)
            .chain(self.aux_timeouts())
            .chain(self.behind_at())
            .min()
    }

    /// Takes in what happened at `now`.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Listening => self.probe(now),
            Input::ConnectFailed {
                code,
                why,
                is_permanent,
            } => {
                if matches!(self.link, ConnectionPhase::Subscribing) {
                    let is_refused = self.connect_failures.is_too_long(code) || is_permanent;
                    let is_permanent = is_refused && !self.has_been_live;
                    self.disconnect(Failure::ConnectFailed(why), is_permanent, now);
                }
            }
            Input::Notification {
                channel, payload, ..
            } if channel == self.fence_channel => {
                self.token_arrived(payload, now);
            }
            Input::Notification {
                payload, sender, ..
            } => self.notified(payload, sender, now),
            Input::Sent { token } => self.restart_clock(token, true, now),
            Input::SendBlocked { token } => self.send_again(token, now),
            Input::SnapshotTaken {
                table,
                generation,
                snapshot,
            } => self.tables[table.0].cut(generation, snapshot),
            Input::LeavesSeen {
                table,
                leaves,
                detaching,
            } => self.tables[table.0].set_leaves(leaves, detaching),
            Input::SnapshotLoaded {
                table,
                generation,
                has_changed,
            } => {
                self.loaded(table, generation, has_changed, now);
            }
            Input::Refetched {
                table,
                batch,
                snapshot,
            } => self.refetched(table, batch, snapshot, now),
            Input::ReadFailed {
                table,
                work,
                code,
                why,
                is_permanent,
            } => {
                self.read_failed(table, work, (code, why), is_permanent, now);
            }
            Input::ChangeUnfit { table, why, sender } => {
                self.reload(table, ReloadRequest { why, sender }, now);
            }
            Input::TableAltered { table, why } => {
                let steps = self.tables[table.0].invalidate(&why);
                self.apply_steps(table, steps, now);
            }
            Input::TruncateSeen {
                table,
                has_happened,
            } => self.truncate_seen(table, has_happened, now),
            Input::TableHeld { table, why } => self.hold(table, why, now),
            Input::TableFollowed { table, followed } => self.follow_table(table, *followed, now),
            Input::TableFailed {
                table,
                why,
                is_permanent,
            } => self.table_failed(table, why, is_permanent, now),
            Input::ChannelsChanged(channels) => self.change_channels(channels, now),
            Input::ListensAlso => self.is_listening_also = false,
            Input::Looked { look } => self.looked(look),
            Input::LookFailed { look, why } => self.look_failed(look, &why),
            Input::MemoryShort => self.drop_what_waits(now),
            Input::VerifyWanted { table, question } => {
                self.tables[table.0].hurry(now);
                self.pending_comparisons.push_back((table, question));
            }
            Input::CutTaken {
                table,
                comparison,
                snapshot,
            } => self.cut_taken(table, comparison, snapshot, now),
            Input::Compared { table, comparison } => {
                self.end_comparison(table, Some(comparison), None, now);
            }
            Input::ComparisonFailed {
                table,
                comparison,
                why,
            } => self.end_comparison(table, Some(comparison), Some(why), now),
            Input::CauseKnown { table, of, known } => self.tables[table.0].cause_known(of, known),
            Input::CacheBusy { table } => {
                self.end_comparison(
                    table,
                    None,
                    Some("its cache was locked by a reader".to_string()),
                    now,
                );
                self.tables[table.0].become_busy();
            }
            Input::CacheFree { table } => {
                let steps = self.tables[table.0].become_free();
                self.apply_steps(table, steps, now);
            }
            Input::FenceWanted(id) => self.request_fence(id, now),
            Input::AuxConnectionLost { via, why } => self.aux_connection_lost(via, why, now),
            Input::Reopened { via } => self.reopened(via, now),
            Input::ReopenFailed {
                via,
                code,
                why,
                is_permanent,
            } => {
                self.reopen_failed(via, code, why, is_permanent, now);
            }
            Input::Lost(why) => self.disconnect(Failure::ConnectionLost(why), false, now),
            // The driver's owner has said so.
            Input::GivenUp(failure) => self.shut_down(failure, now),
            Input::TimePassed => self.check_deadlines(now),
        }
        self.ask_for_reads(now);
        self.publish_states(now);
    }

    fn connect(&mut self) {
        self.link = ConnectionPhase::Subscribing;
        self.listened.clone_from(&self.channels);
        self.is_listening_also = false;
        let mut channels = self.channels.clone();
        channels.push(self.fence_channel.clone());
        self.outputs.push_back(Output::Connect { channels });
        self.set_all_states(State::Subscribing);
    }

    fn probe(&mut self, now: Instant) {
        if !matches!(self.link, ConnectionPhase::Subscribing) {
            return;
        }
        let deadline = now + self.send_timeout();
        // Without tables nothing is read: there is no Q.
        let connections = if self.tables.is_empty() {
            &[AuxConnection::Fences][..]
        } else {
            &[AuxConnection::Fences, AuxConnection::Reads]
        };
        let probe = |via| Probe {
            via,
            token: self.next_token(),
            deadline,
            is_sent: false,
        };
        let awaited: Vec<Probe> = connections.iter().copied().map(probe).collect();
        for Probe { via, token, .. } in &awaited {
            self.notify(*via, token.clone());
        }
        self.link = ConnectionPhase::Probing {
            awaited,
            since: now,
        };
    }

    fn next_token(&mut self) -> String {
        self.tokens += 1;
        format!("{}.{}", self.fence_channel, self.tokens)
    }

    fn notified(&mut self, payload: &str, sender: i32, now: Instant) {
        self.counters.received += 1;
        let parsed = match Payload::parse(payload) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.counters.invalid += 1;
                tracing::warn!(%error, "payload not understood");
                return;
            }
        };
        let mut meant =
            (0..self.tables.len()).filter(|&table| self.tables[table].is_about_this_table(&parsed));
        let Some(table) = meant.next() else {
            self.counters.other_tables += 1;
            if self.tables.iter().any(|table| table.is_named_by(&parsed)) {
                self.look_soon(now);
            }
            return;
        };
        if self.tables[table].ignores(parsed.rel) {
            self.counters.other_tables += 1;
            return;
        }
        self.counters.plain += u64::from(parsed.xid.is_none());
        self.last_xid = self.last_xid.max(parsed.xid);
        let others: Vec<usize> = meant.collect();
        if !others.is_empty() {
            for table in others.into_iter().chain([table]) {
                let why = "a plain payload names a table of two schemas".to_string();
                self.reload(
                    TableId(table),
                    ReloadRequest {
                        why,
                        sender: Some(sender),
                    },
                    now,
                );
            }
            return;
        }
        if !self.tables[table].knows(parsed.rel) {
            let why = "a partition that is not known has announced a change".to_string();
            return self.reload(
                TableId(table),
                ReloadRequest {
                    why,
                    sender: Some(sender),
                },
                now,
            );
        }
        let steps = self.tables[table].classify(
            Change::new(payload, &parsed, sender),
            self.limits.waiting_bytes,
        );
        if self.tables[table].held_bytes() > self.limits.waiting_bytes {
            self.end_comparison(
                TableId(table),
                None,
                Some("too many changes came meanwhile".to_string()),
                now,
            );
        }
        self.apply_steps(TableId(table), steps, now);
    }

    fn drop_what_waits(&mut self, now: Instant) {
        let most = (0..self.tables.len()).max_by_key(|&table| self.tables[table].waiting_bytes());
        if let Some(table) = most.filter(|&table| self.tables[table].waiting_bytes() > 0) {
            let steps =
                self.tables[table].invalidate("there was no memory for the changes that waited");
            self.apply_steps(TableId(table), steps, now);
        }
    }

    fn apply_steps(&mut self, table: TableId, steps: Vec<Step>, now: Instant) {
        for step in steps {
            match step {
                Step::Apply(change) => {
                    self.counters.applied += 1;
                    self.outputs.push_back(Output::Apply { table, change });
                }
                Step::Clear(keep) => {
                    if self.limits.watch_ddl {
                        let look = self.want_look();
                        self.tables[table.0].note_clear(look);
                    }
                    self.counters.applied += 1;
                    self.outputs.push_back(Output::Clear { table, keep });
                }
                Step::Skip => self.counters.skipped += 1,
                Step::ReadScheduled(why) => {
                    self.schedule_read(table, why, now);
                    return;
                }
                Step::Reload(asked) => {
                    self.reload(table, asked, now);
                    if !self.tables[table.0].is_following() {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
