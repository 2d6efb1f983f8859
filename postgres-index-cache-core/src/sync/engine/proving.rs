//! What is proven: fences and looks that come back, and the states that follow.

use super::Engine;
use crate::sync::connections::ConnectionPhase;
use crate::sync::fences::{Fence, Needs};
use crate::sync::rules::Rule;
use crate::sync::timers::Timer;
use crate::sync::{AuxConnection, FenceId, Output, State, TableId};
use std::time::Instant;

impl Engine {
    /// A token has reached L.
    pub(super) fn token_arrived(&mut self, token: &str, now: Instant) {
        if let Some(proven) = self.connections.probe_arrived(token, &mut self.timers) {
            if self.connections.is_following() {
                self.aux_is_up(proven);
            } else if let Some(since) = self.connections.follow_if_proven() {
                self.fences.proven(since);
                self.timers
                    .set(Timer::Heartbeat, now + self.limits.heartbeat);
            }
        }
        let Some(arrived) = self.fences.find_arrived(token, now) else {
            return;
        };
        self.fences.note_proofs(&self.looks);
        self.connections.has_worked(AuxConnection::Fences);
        // The first half of a key change that has arrived came before the fence.
        for table in 0..self.tables.len() {
            let steps = self.tables[table].release_first_half();
            self.apply_steps(TableId(table), steps, now);
        }
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

    /// A caller asks for a fence. A table that waits to be reloaded is reloaded soon: the caller
    /// waits for that one read, whatever else is asked for meanwhile.
    pub(super) fn fence_wanted(&mut self, id: FenceId, now: Instant) {
        self.fences.want(id, self.reads.started_reads());
        for table in &mut self.tables {
            table.hurry(now);
        }
    }

    /// All rows of a table's read are in the cache: it has everything that was committed before any
    /// fence that was asked for by the time the read began.
    pub(super) fn answer_by_read(&mut self, table: TableId) {
        let Some(read) = self.tables[table.0].last_read() else {
            return;
        };
        // Without a look nobody knows whether the rows were read as the table is now.
        if self.looks.blind().is_some() && self.rules.keeps(Rule::Look) {
            return;
        }
        if let Some(fence) = self.fences.answer_by_read(table, read) {
            self.outputs
                .push_back(Output::FenceReached { table, fence });
        }
    }

    /// Sends a fence, for a caller or for the engine itself. Returns its token.
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
        self.connections
            .notify(AuxConnection::Fences, token.clone(), &mut self.outputs);
        self.timers
            .set(Timer::Heartbeat, now + self.limits.heartbeat);
        token
    }

    /// Asks for a look at the definitions that begins from now on. Returns its number, or 0 if
    /// nobody looks.
    pub(super) fn want_look(&mut self) -> u64 {
        if self.limits.watch_ddl {
            self.looks.want()
        } else {
            0
        }
    }

    /// Asks for a look soon: a payload names a followed table and was sent by another one, so tables
    /// may have been renamed or swapped. Any role can send such payloads, so they cause no more than
    /// ten looks a heartbeat.
    pub(super) fn look_soon(&mut self, now: Instant) {
        let distance = self.limits.heartbeat / 10;
        if self
            .looks
            .began()
            .is_none_or(|began| began + distance <= now)
        {
            self.want_look();
        }
    }

    /// A look is done.
    pub(super) fn looked(&mut self, look: u64) {
        if self.looks.finish(look) {
            self.fences.note_proofs(&self.looks);
        }
    }

    /// Sends the fences that are needed, answers those that are fulfilled, and says which states are
    /// others than they were.
    pub(super) fn publish_states(&mut self, now: Instant) {
        self.fences.drop_complete(&self.tables, &self.looks);
        let states: Vec<State> = (0..self.tables.len())
            .map(|table| self.state_now(TableId(table), now))
            .collect();
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
            self.connections.all_is_live();
            self.has_been_live = true;
        }
        // A caller who has been answered for every table counts as well: it may be reading.
        self.has_been_live |= self.fences.has_answered();
        self.set_state(state);
        if self.connections.can_look()
            && let Some(look) = self.looks.start(now)
        {
            self.outputs.push_back(Output::Look { look });
        }
    }

    fn send_needed_fences(&mut self, now: Instant) {
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

    /// Returns how far the connections are, while nothing else counts.
    fn connection_state(&self) -> Option<State> {
        match self.connections.phase() {
            ConnectionPhase::Disconnected { .. } => Some(State::Disconnected),
            ConnectionPhase::Subscribing => Some(State::Subscribing),
            ConnectionPhase::Probing { .. } => Some(State::Probing),
            ConnectionPhase::Following => None,
        }
    }

    /// Returns the state of a table at `now`.
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

    fn is_behind(&self, table: TableId, now: Instant) -> bool {
        let needs = Needs {
            look: self.rules.keeps(Rule::Look),
            rows: self.rules.keeps(Rule::Open),
        };
        let heartbeat = self.limits.heartbeat;
        self.fences
            .is_behind(table, &self.tables, &self.looks, needs, heartbeat, now)
    }

    /// Returns when the first live table stops being live because its open rows become too old.
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

    /// Sets the states of all tables: what happens to the connections happens to every table.
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
