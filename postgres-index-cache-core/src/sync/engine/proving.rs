//! The engine and its proofs: fences and looks that come back, and the states that follow from
//! them.
//!
//! A table's state is computed anew after each input, and never set by an event. So no event can
//! leave a table live that another event has made doubtful.

use super::Engine;
use crate::sync::connections::ConnectionPhase;
use crate::sync::fences::{Fence, Needs};
use crate::sync::rules::Rule;
use crate::sync::timers::Timer;
use crate::sync::{AuxConnection, FenceId, Output, State, TableId};
use std::time::Instant;

impl Engine {
    /// Handles a token that has reached L: the probe of a connection, or a fence.
    pub(super) fn token_arrived(&mut self, token: &str, now: Instant) {
        if let Some(proven) = self.connections.probe_arrived(token, &mut self.timers) {
            if self.connections.is_following() {
                self.aux_is_up(proven);
            } else if let Some(since) = self.connections.follow_if_proven() {
                // A probe is a fence as well: changes from before it have arrived or are in the
                // snapshots to come.
                self.fences.proven(since);
                self.timers
                    .set(Timer::Heartbeat, now + self.limits.heartbeat);
            }
        }
        let arrived = self.fences.find_arrived(token, now);
        self.transactions.token_arrived(token);
        self.transactions.settle(&self.looks);
        let Some(arrived) = arrived else {
            return;
        };
        self.fences.note_proofs(&self.looks);
        self.connections.has_worked(AuxConnection::Fences);
        // PostgreSQL delivers a transaction's notifications together. So the first half of a key
        // change that stands before this token will not be completed: it was a delete of its own.
        for table in 0..self.tables.len() {
            let steps = self.tables[table].release_first_half();
            self.apply_steps(TableId(table), steps, now);
        }
        // A read is proven by the first fence that was sent after its answer: every change that the
        // read's snapshot filters has arrived. A fence from before the answer may be followed by
        // such changes.
        let mut proves = Vec::with_capacity(self.tables.len());
        for table in &mut self.tables {
            let was_proven = table.is_proven();
            table.prove(arrived.after_reads);
            proves.push(!was_proven && table.is_proven());
        }
        self.fences.arrived(&arrived, proves, &self.tables);
        let waits = self.tables.iter().position(|table| {
            table
                .comparison()
                .is_some_and(|comparison| comparison.waits_for(token))
        });
        if let Some(table) = waits {
            self.settle_comparison(TableId(table), now);
        }
    }

    /// Notes that a caller asks for a fence. A table that waits to be reloaded is reloaded soon:
    /// the caller waits for that one read, however many others are asked for meanwhile.
    pub(super) fn fence_wanted(&mut self, id: FenceId, now: Instant) {
        self.fences.want(id, self.reads.started_reads());
        for table in &mut self.tables {
            table.hurry(now);
        }
    }

    /// Notes that callers wait for transactions, and ask for a fence. If they have asked before, no
    /// table is reloaded sooner for them: they may wait for transactions that somebody has made up.
    pub(super) fn transaction_wanted(&mut self, fence: FenceId, is_repeated: bool, now: Instant) {
        self.transactions.want();
        if is_repeated {
            self.fences.want(fence, self.reads.started_reads());
        } else {
            self.fence_wanted(fence, now);
        }
    }

    /// Answers the fences that were asked for before a table's read began. All rows of the read are
    /// in the cache, so it has every change that was committed by then.
    pub(super) fn answer_by_read(&mut self, table: TableId) {
        let Some(read) = self.tables[table.0].last_read() else {
            return;
        };
        // While looks fail, nobody knows whether the rows were read as the table is defined now.
        if self.looks.blind().is_some() && self.rules.keeps(Rule::Look) {
            return;
        }
        if let Some(fence) = self.fences.answer_by_read(table, read) {
            self.outputs
                .push_back(Output::FenceReached { table, fence });
        }
    }

    /// Sends a fence, for a caller or for the engine itself. Returns the token of the fence.
    pub(super) fn send_fence(&mut self, asked_by: Option<FenceId>, now: Instant) -> String {
        let token = self.connections.next_token();
        let look = self.want_look();
        self.fences.push(Fence::new(
            token.clone(),
            asked_by,
            self.reads.finished_reads(),
            look,
            now,
            now + self.limits.fence_timeout,
        ));
        self.transactions.token_sent(&token, asked_by.is_some());
        self.connections
            .notify(AuxConnection::Fences, token.clone(), &mut self.outputs);
        self.timers
            .set(Timer::Heartbeat, now + self.limits.heartbeat);
        token
    }

    /// Asks for a look at the definitions that begins from now on. Returns the number of the look,
    /// or 0 if the limits ask for none.
    pub(super) fn want_look(&mut self) -> u64 {
        if self.limits.watch_ddl {
            self.looks.want()
        } else {
            0
        }
    }

    /// Returns the number of the next look to begin, or 0 if the limits ask for none. Nobody asks
    /// for that look: it begins with the next fence.
    pub(super) fn next_look(&self) -> u64 {
        if self.limits.watch_ddl {
            self.looks.next()
        } else {
            0
        }
    }

    /// Asks for a look soon. A payload names a followed table and was sent by another one, so
    /// tables may have been renamed or swapped.
    pub(super) fn look_soon(&mut self, now: Instant) {
        // Any role can send such payloads, so they cause no more than ten looks a heartbeat.
        let distance = self.limits.heartbeat / 10;
        if self
            .looks
            .began()
            .is_none_or(|began| began + distance <= now)
        {
            self.want_look();
        }
    }

    /// Notes that a look is done, and the proofs that waited for the look.
    pub(super) fn looked(&mut self, look: u64) {
        if self.looks.finish(look) {
            self.fences.note_proofs(&self.looks);
            self.transactions.settle(&self.looks);
        }
    }

    /// Computes the states, sends the fences that are needed, answers those that are reached, and
    /// publishes the states that have changed.
    pub(super) fn publish_states(&mut self, now: Instant) {
        self.fences.drop_complete(&self.tables, &self.looks);
        let states: Vec<State> = (0..self.tables.len())
            .map(|table| self.state_now(TableId(table), now))
            .collect();
        // Rule::Fence: `Fences::answer` below answers with fences that have come back. Without
        // this:
        // 1. A transaction commits. Its notification is on its way.
        // 2. A caller asks for a fence, and is told at once that the fence is reached.
        // 3. The caller reads the row from before the transaction.
        #[cfg(any(test, feature = "simulation"))]
        if !self.rules.keeps(Rule::Fence) && states.iter().all(|state| *state == State::Live) {
            self.fences.answer_unsent(&mut self.outputs);
        }
        if self.connections.is_following() {
            self.send_needed_fences(now);
        }
        let needs_look = self.rules.keeps(Rule::Look);
        let Self {
            fences,
            tables,
            looks,
            outputs,
            ..
        } = self;
        fences.answer(&states, tables, looks, needs_look, outputs);
        self.set_table_states(states);
        let least = self.states.iter().min().copied();
        let state = least.unwrap_or_else(|| self.connection_state().unwrap_or(State::Live));
        if state == State::Live {
            self.connections.note_all_live();
            self.has_been_live = true;
        }
        // A caller who was answered for every table may be reading the caches, though they were
        // never live at one time.
        self.has_been_live |= self.fences.has_answered();
        self.set_state(state);
        if self.connections.can_look()
            && let Some(look) = self.looks.start(now)
        {
            self.outputs.push_back(Output::Look { look });
        }
    }

    /// Sends a fence if a table's read is not proven, and one if callers wait.
    fn send_needed_fences(&mut self, now: Instant) {
        // A fence that was sent after Q's last answer proves every read so far, so one is enough.
        let needs_proof = self
            .tables
            .iter()
            .any(|table| table.is_following() && !table.is_proven());
        let is_underway = self.fences.is_proof_underway(self.reads.finished_reads());
        if needs_proof && !is_underway && self.rules.keeps(Rule::Fence) {
            self.send_fence(None, now);
        }
        if let Some(id) = self.fences.take_wanted() {
            self.send_fence(Some(id), now);
        }
    }

    /// Returns the state of the connections, which is every table's while they are not all proven;
    /// `None` once they are.
    fn connection_state(&self) -> Option<State> {
        match self.connections.phase() {
            ConnectionPhase::Disconnected { .. } => Some(State::Disconnected),
            ConnectionPhase::Subscribing => Some(State::Subscribing),
            ConnectionPhase::Probing { .. } => Some(State::Probing),
            ConnectionPhase::Following => None,
        }
    }

    /// Returns the state of a table at `now`. The conditions are in order: the first one that holds
    /// says most about why the table is not live.
    fn state_now(&self, table: TableId, now: Instant) -> State {
        if let Some(state) = self.connection_state() {
            return state;
        }
        let own = &self.tables[table.0];
        if own.is_stale() || self.looks.blind().is_some() {
            State::Stale
        } else if own.waits_to_be_read(now) || own.is_reload_due() {
            State::Degraded
        } else if !own.is_following() {
            State::Snapshotting
        } else if own.is_busy() || own.is_to_be_seen_truncated() || self.is_behind(table, now) {
            State::CatchingUp
        } else if own.is_proven() || !self.rules.keeps(Rule::Fence) {
            State::Live
        } else {
            State::CatchingUp
        }
    }

    /// Returns whether a table lacks rows or a look that it needs in order to be live.
    fn is_behind(&self, table: TableId, now: Instant) -> bool {
        let needs = Needs {
            look: self.rules.keeps(Rule::Look),
            rows: self.rules.keeps(Rule::Open),
        };
        let heartbeat = self.limits.heartbeat;
        self.fences
            .is_behind(table, &self.tables, &self.looks, needs, heartbeat, now)
    }

    /// Returns when the first live table stops being live because rows of it have been open for too
    /// long.
    pub(super) fn behind_at(&self) -> Option<Instant> {
        let heartbeat = self.limits.heartbeat;
        (0..self.tables.len())
            .filter(|&table| self.states[table] == State::Live)
            .filter_map(|table| {
                self.fences
                    .behind_at(TableId(table), &self.tables, heartbeat)
            })
            .min()
    }

    /// Sets the states of all tables and of the replica. An event of the connections is one of
    /// every table.
    pub(super) fn set_all_states(&mut self, state: State) {
        self.set_table_states(vec![state; self.states.len()]);
        self.set_state(state);
    }

    fn set_table_states(&mut self, states: Vec<State>) {
        for (table, &state) in states.iter().enumerate() {
            if self.states[table] != state {
                let name = self.tables[table].name();
                tracing::info!(table = name, ?state, "table state");
                self.outputs.push_back(Output::TableStateChanged {
                    table: TableId(table),
                    state,
                });
            }
        }
        self.states = states;
    }

    fn set_state(&mut self, state: State) {
        if state != self.state {
            tracing::info!(?state, "replica state");
            self.state = state;
            self.outputs.push_back(Output::StateChanged(state));
        }
    }
}
