//! [`Engine`]: takes inputs in, decides, and hands outputs out.
//!
//! The engine owns the parts of the protocol, each with a state and tests of its own, and is where
//! they meet. The right column names the file in which the engine uses the part:
//!
//! ```text
//!            ┌ Connections     how far L, F and Q are          connecting
//!            ├ Fences, Looks   proofs, and the states          proving
//! Input ─→ Engine ─ ReadQueue  the work of Q                   reading, comparing  ─→ Output
//!            ├ Timers          deadlines                       connecting
//!            └ EngineTable     one table, and its changes      this file, holding
//! ```
//!
//! After each input the engine asks Q for work, publishes the states, and sets the timers again.
//! Handlers of inputs change the parts, and leave those three to [`Engine::handle`].

mod comparing;
mod connecting;
mod freezing;
mod holding;
mod proving;
mod reading;

use super::connections::{ConnectionPhase, Connections};
use super::fences::Fences;
use super::freeze::FreezeTimes;
use super::hashing::{SeededState, seed_of};
use super::looks::Looks;
use super::read_queue::ReadQueue;
use super::rules::Rules;
use super::table::{EngineTable, ReloadRequest, Step};
use super::timers::{Timer, Timers};
use super::transactions::Transactions;
use super::{Change, Counters, Failure, Input, Limits, Output, State, TableId, TableSpec};
use crate::notification::Payload;
use crate::packed::unpack;
use crate::transaction::TransactionToken;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What an input has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// A change is handed out to be applied, and nothing else: no state, timer or read is another
    /// one. Nearly every input is of this kind.
    Applied,
    /// Anything may be another.
    Any,
}

/// The engine. See the [module](super) for the protocol and how to drive it.
#[derive(Debug)]
pub struct Engine {
    tables: Vec<EngineTable>,
    limits: Limits,
    connections: Connections,
    fences: Fences,
    looks: Looks,
    reads: ReadQueue,
    /// For each table, when its cache was frozen.
    freeze_times: Vec<FreezeTimes>,
    timers: Timers,
    /// The outputs that were not handed out yet, in order.
    outputs: VecDeque<Output>,
    /// The last published state of the replica: the least of the tables' states.
    state: State,
    /// The last published state of each table.
    states: Vec<State>,
    /// Whether every table was live once, or a caller was answered for every table. From then on
    /// only the engine's owner ends the engine.
    has_been_live: bool,
    last_xid: Option<u64>,
    transactions: Transactions,
    counters: Counters,
    rules: Rules,
}

impl Engine {
    /// Returns an engine for `tables`, whose triggers notify on `channels`. The first output asks
    /// to connect.
    ///
    /// `fence_channel` must be known to nobody else. Make the name of random digits: tokens begin
    /// with it, and the waits and the order of hash maps are derived from it.
    pub fn new(
        tables: Vec<TableSpec>,
        channels: Vec<String>,
        fence_channel: String,
        limits: Limits,
    ) -> Self {
        let seed = seed_of(&fence_channel);
        let hashing = SeededState::new(seed);
        let count = tables.len();
        let mut engine = Self {
            tables: tables
                .into_iter()
                .map(|table| EngineTable::new(table, hashing))
                .collect(),
            limits,
            connections: Connections::new(channels, fence_channel, seed),
            fences: Fences::new(count),
            looks: Looks::default(),
            reads: ReadQueue::default(),
            freeze_times: (0..count).map(|_| FreezeTimes::default()).collect(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            state: State::Disconnected,
            states: vec![State::Disconnected; count],
            has_been_live: false,
            last_xid: None,
            transactions: Transactions::new(hashing),
            counters: Counters::default(),
            rules: Rules::default(),
        };
        engine.connect();
        engine
    }

    /// Disables a rule, so that a test can show that the simulation fails without the rule.
    #[cfg(any(test, feature = "simulation"))]
    #[must_use]
    pub fn without(mut self, rule: super::Rule) -> Self {
        self.rules = Rules::without(rule);
        self.connections.set_rules(self.rules);
        self.transactions.set_rules(self.rules);
        for table in &mut self.tables {
            table.set_rules(self.rules);
        }
        self
    }

    /// Returns the limits, for a test to change.
    #[cfg(test)]
    pub(super) fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// Returns whether L has heard F: both are on one server, and F is there.
    pub fn has_heard_fences(&self) -> bool {
        self.connections.can_look()
    }

    /// Returns the state of the replica: the least of its tables' states.
    pub fn state(&self) -> State {
        self.state
    }

    /// Returns the state of one table.
    pub fn table_state(&self, table: TableId) -> State {
        self.states[table.0]
    }

    /// Returns how long the last fence took to come back, from when the NOTIFY was asked for.
    /// `None` if no fence has come back since the connections were opened.
    pub fn lag(&self) -> Option<Duration> {
        self.fences.lag()
    }

    /// Returns when the last fence was sent that has come back and whose look is done. Every change
    /// that was committed before then has arrived. A change that was committed later may be lost if
    /// L is lost.
    pub fn proven_at(&self) -> Option<Instant> {
        self.fences.proven_at()
    }

    /// Returns the highest transaction id that was announced for a followed table.
    pub fn last_xid(&self) -> Option<u64> {
        self.last_xid
    }

    /// Returns whether the cache of a table has everything that a transaction has committed, once
    /// all outputs are carried out. False if that is not known: a fence then tells.
    ///
    /// True for a transaction that was rolled back as well, which has committed nothing. False
    /// while the table is not live.
    pub fn has_transaction(&self, table: TableId, transaction: TransactionToken) -> bool {
        self.states[table.0] == State::Live
            && self.tables[table.0].has_what_arrived()
            && self.transactions.has_arrived(transaction, table.0)
    }

    /// Returns whether a transaction has committed or was rolled back. False if that is not known:
    /// a fence that is sent from now on, and the server's answer to it, tell.
    pub fn has_ended_transaction(&self, xid: u64) -> bool {
        self.transactions.has_ended(xid)
    }

    /// Returns whether more will be known of a transaction without another fence: the server's
    /// answer to a fence that has come is on its way, or a look that is needed.
    pub fn is_proving_transaction(&self, xid: u64) -> bool {
        self.transactions.is_being_proven(xid, &self.looks)
    }

    /// Returns whether the engine has ended. An engine that has ended does not connect again.
    pub fn has_ended(&self) -> bool {
        self.connections.phase() == ConnectionPhase::Disconnected { for_good: true }
    }

    /// Returns the counts since the start.
    pub fn counters(&self) -> Counters {
        Counters {
            collapsed: self.tables.iter().map(EngineTable::collapsed).sum(),
            ..self.counters
        }
    }

    /// Returns why a table is stale or degraded; `None` in any other state.
    pub fn cause(&self, table: TableId) -> Option<&str> {
        let own = self.tables[table.0].cause();
        match self.states[table.0] {
            // Nothing is known of any table while looks fail, whatever the table's own cause was.
            State::Stale => Some(self.looks.blind().unwrap_or(own)),
            State::Degraded => Some(own),
            State::Disconnected
            | State::Subscribing
            | State::Probing
            | State::Snapshotting
            | State::CatchingUp
            | State::Live => None,
        }
    }

    /// Returns how many changes of a table were followed since the start: those that no snapshot of
    /// the table had.
    pub fn changes(&self, table: TableId) -> u64 {
        self.tables[table.0].changes()
    }

    /// Returns whether the first `changes` changes of a table that were followed are in the cache,
    /// once all outputs are carried out.
    pub fn is_settled(&self, table: TableId, changes: u64) -> bool {
        let own = &self.tables[table.0];
        own.is_following()
            && own
                .open_since()
                .is_none_or(|open_since| open_since > changes)
    }

    /// Returns whether Q has nothing to do, and could read a table.
    pub fn could_read_on_q(&self) -> bool {
        self.reads.is_idle() && self.connections.can_read()
    }

    /// Returns the transaction of the last TRUNCATE of a table that was announced.
    pub fn truncated_by(&self, table: TableId) -> Option<u64> {
        self.tables[table.0].last_truncate()
    }

    /// Returns whether the look with this number must find that a table has other files than at the
    /// last read. True if rows were removed for a TRUNCATE that was announced before the look
    /// began.
    pub fn must_be_truncated(&self, table: TableId, look: u64) -> bool {
        self.tables[table.0].must_be_truncated(look)
    }

    /// Returns how many bytes of changes and keys wait: for reads, for comparisons, and for caches
    /// that are locked.
    pub fn waiting_bytes(&self) -> usize {
        self.tables.iter().map(EngineTable::waiting_bytes).sum()
    }

    /// Returns the next output to be carried out; `None` if there is none before the next input.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(output) = &output {
            tracing::trace!(?output, "engine output");
        }
        output
    }

    /// Returns when [`Input::TimePassed`] is due if nothing else happens; `None` if it is not.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Takes in an event that happened at `now`. [`Engine::poll`] then returns what follows.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        tracing::trace!(?input, "engine input");
        if self.dispatch(input, now) == Effect::Applied {
            return;
        }
        // In this order: a read that begins changes the table's state, and fences that are sent
        // with the states have deadlines.
        self.ask_for_reads(now);
        self.publish_states(now);
        self.set_derived_timers();
    }

    /// Hands an input to its handler.
    #[expect(clippy::too_many_lines, reason = "one arm for each input")]
    fn dispatch(&mut self, input: Input<'_>, now: Instant) -> Effect {
        match input {
            Input::Listening => self.probe(now),
            Input::ConnectFailed {
                code,
                why,
                is_permanent,
            } => self.connect_failed(code, why, is_permanent, now),
            Input::Notification {
                channel, payload, ..
            } if self.connections.is_fence_channel(channel) => self.token_arrived(payload, now),
            Input::Notification {
                payload, sender, ..
            } => return self.notified(payload, sender, now),
            Input::Sent { token, snapshot } => self.token_committed(token, snapshot, now),
            Input::SendBlocked { token } => self.token_blocked(token, now),
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
            } => self.loaded(table, generation, has_changed, now),
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
            } => self.read_failed(table, work, code, why, is_permanent, now),
            Input::SideReadLost {
                table,
                generation,
                why,
            } => self.side_read_lost(table, generation, &why),
            Input::SideReadLate { table, generation } => self.side_read_late(table, generation),
            Input::ChangeUnfit { table, why, sender } => {
                self.reload(table, ReloadRequest { why, sender }, now);
            }
            Input::TableAltered { table, why } => self.invalidate(table, &why, now),
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
            Input::ListensAlso => self.connections.listens_also(),
            Input::Looked { look } => self.looked(look),
            Input::LookFailed { look, why } => self.looks.fail(look, &why),
            Input::MemoryShort => self.drop_what_waits(now),
            Input::VerifyWanted { table, question } => self.want_comparison(table, question, now),
            Input::CutTaken {
                table,
                comparison,
                snapshot,
            } => self.cut_taken(table, comparison, snapshot, now),
            Input::Compared { table, comparison } => self.compared(table, comparison, now),
            Input::ComparisonFailed {
                table,
                comparison,
                why,
            } => self.comparison_failed(table, comparison, why, now),
            Input::FreezeWanted { table, freeze } => self.begin_freeze(table, freeze, now),
            Input::FreezeCut {
                table,
                freeze,
                snapshot,
            } => self.cut_freeze(table, freeze, &snapshot, now),
            Input::FreezeOver { table, freeze } => self.freeze_over(table, freeze, now),
            Input::CauseKnown { table, of, known } => self.tables[table.0].cause_known(of, known),
            Input::CacheBusy { table } => self.cache_busy(table, now),
            Input::CacheFree { table } => {
                let steps = self.tables[table.0].become_free();
                self.apply_steps(table, steps, now);
            }
            Input::TransactionWanted { fence, is_repeated } => {
                self.transaction_wanted(fence, is_repeated, now);
            }
            Input::FenceWanted(id) => self.fence_wanted(id, now),
            Input::AuxConnectionLost { via, why } => self.aux_lost(via, why, now),
            Input::Reopened { via } => self.aux_reopened(via, now),
            Input::ReopenFailed {
                via,
                code,
                why,
                is_permanent,
            } => self.aux_reopen_failed(via, code, why, is_permanent, now),
            Input::Lost(why) => self.disconnect(Failure::ConnectionLost(why), false, now),
            Input::GivenUp(failure) => self.shut_down(failure, now),
            Input::TimePassed => self.handle_expired(now),
        }
        Effect::Any
    }

    /// Sets the timers whose times follow from the tables and fences, which change in many places.
    fn set_derived_timers(&mut self) {
        // While Q is busy or lost, a read that is due cannot begin, unless it can begin beside Q.
        // The driver would be woken at once, over and over, by a timer whose time has passed.
        let is_q_free = self.reads.is_idle();
        let most = self.limits.side_reads;
        let can_begin = |at: &usize| {
            is_q_free
                || (self.tables[*at].is_for_side_read() && self.reads.takes_side_read(*at, most))
        };
        let due = (0..self.tables.len()).filter(can_begin);
        let due = due.filter_map(|at| self.tables[at].due_at()).min();
        let can_read = self.connections.can_read();
        self.timers.set(Timer::Read, due.filter(|_| can_read));
        self.timers.set(Timer::Fence, self.fences.deadline());
        self.timers.set(Timer::Behind, self.behind_at());
        let freezes = self.freeze_times.iter().filter_map(|times| times.deadline);
        self.timers.set(Timer::Freeze, freezes.min());
    }

    /// Takes a payload, which may announce several changes.
    fn notified(&mut self, payload: &str, sender: i32, now: Instant) -> Effect {
        self.counters.received += 1;
        let mut whole = Effect::Applied;
        for change in unpack(payload) {
            let effect = self.announced(&change, sender, now);
            if effect == Effect::Any {
                whole = effect;
            }
        }
        whole
    }

    /// Routes the payload of one change to the table that the change is about.
    fn announced(&mut self, payload: &str, sender: i32, now: Instant) -> Effect {
        let parsed = match Payload::parse(payload) {
            Ok(parsed) => parsed,
            Err(error) => {
                self.transactions.hear(None, sender);
                self.counters.invalid += 1;
                tracing::warn!(%error, "payload not understood");
                return Effect::Any;
            }
        };
        self.transactions.hear(parsed.xid, sender);
        let mut meant =
            (0..self.tables.len()).filter(|&table| self.tables[table].is_about_this_table(&parsed));
        let Some(table) = meant.next() else {
            self.counters.other_tables += 1;
            if self.tables.iter().any(|table| table.is_named_by(&parsed)) {
                // The name is a followed table's, the sender another table: tables may have been
                // renamed or swapped.
                self.look_soon(now);
            }
            return Effect::Any;
        };
        let others: Vec<usize> = meant.collect();
        if self.tables[table].ignores(parsed.rel) {
            self.counters.other_tables += 1;
            return Effect::Any;
        }
        self.counters.plain += u64::from(parsed.xid.is_none());
        self.last_xid = self.last_xid.max(parsed.xid);
        if !others.is_empty() {
            // The plain form names no schema. To apply the change to the wrong one of two tables
            // would leave a stale row in the other for good, so both are reloaded.
            let why = "a plain payload names a table of two schemas";
            for table in others.into_iter().chain([table]) {
                self.reload(TableId(table), ReloadRequest::new(why, sender), now);
            }
            return Effect::Any;
        }
        if parsed.xid.is_some() {
            self.transactions.announces(table);
        }
        let table = TableId(table);
        if !self.tables[table.0].knows(parsed.rel) {
            // A partition that was created or attached may have brought rows along, which no
            // notification tells.
            let why = "a partition that is not known has announced a change";
            self.reload(table, ReloadRequest::new(why, sender), now);
            return Effect::Any;
        }
        let mut change = Change::new(payload, &parsed, sender);
        self.tables[table.0].spell_keys(&mut change);
        let steps = self.tables[table.0].classify(change, self.limits.waiting_bytes);
        if self.tables[table.0].held_bytes() > self.limits.waiting_bytes {
            self.end_comparison(
                table,
                Some("too many changes came during the comparison".to_string()),
                now,
            );
        }
        let effect = match steps.as_slice() {
            [Step::Apply(_)] => Effect::Applied,
            _ => Effect::Any,
        };
        self.apply_steps(table, steps, now);
        effect
    }

    /// Drops the changes of the table with the most bytes waiting. The table is read again instead.
    fn drop_what_waits(&mut self, now: Instant) {
        let most = (0..self.tables.len()).max_by_key(|&table| self.tables[table].waiting_bytes());
        if let Some(table) = most.filter(|&table| self.tables[table].waiting_bytes() > 0) {
            let why = "there was no memory for the changes that waited";
            self.invalidate(TableId(table), why, now);
        }
    }

    /// Makes a table be read again, since something happened that no notification tells.
    fn invalidate(&mut self, table: TableId, why: &str, now: Instant) {
        let steps = self.tables[table.0].invalidate(why);
        self.apply_steps(table, steps, now);
    }

    /// Makes the changes of a table be kept by key, since a reader holds the lock of its cache.
    fn cache_busy(&mut self, table: TableId, now: Instant) {
        // The cache must become the comparison's snapshot, and cannot while it is locked.
        self.end_comparison(
            table,
            Some("the cache was locked by a reader".to_string()),
            now,
        );
        self.tables[table.0].become_busy();
    }

    /// Turns the steps that follow from changes of a table into outputs.
    fn apply_steps(&mut self, table: TableId, mut steps: Vec<Step>, now: Instant) {
        for step in steps.drain(..) {
            match step {
                Step::Apply(change) => {
                    self.counters.applied += 1;
                    self.outputs.push_back(Output::Apply { table, change });
                }
                Step::Clear(keep) => {
                    if self.limits.watch_ddl {
                        // Any role can announce a TRUNCATE. A look that begins from now on must
                        // find the new files of a genuine one.
                        let look = self.want_look();
                        self.tables[table.0].note_clear(look);
                    }
                    self.counters.applied += 1;
                    self.outputs.push_back(Output::Clear { table, keep });
                }
                Step::Skip => self.counters.skipped += 1,
                Step::ScheduleRead(why) => {
                    // The changes behind the steps that follow have arrived, so they are committed,
                    // and the read will see them.
                    self.schedule_read(table, why, now);
                    return;
                }
                Step::Reload(request) => {
                    // If the reload must wait, the table is followed as it was until then.
                    self.reload(table, request, now);
                    if !self.tables[table.0].is_following() {
                        return;
                    }
                }
            }
        }
        self.tables[table.0].recycle(steps);
    }
}
