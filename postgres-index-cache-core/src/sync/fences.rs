//! Fences: what proves that everything before them has come, and the state that follows.

use super::link::{Fence, Link};
use super::table::Table;
use super::{Engine, FenceId, Output, Rule, State, TableId, Via};
use std::time::Instant;

/// How many fences that have come may wait for rows.
const OPEN: usize = 64;

impl Engine {
    pub(super) fn token_arrived(&mut self, token: &str, now: Instant) {
        if let Link::Probing { awaited } = &mut self.link {
            awaited.retain(|probe| probe.token != token);
            if awaited.is_empty() {
                self.link = Link::Following;
                self.connect_failures.end();
            }
        }
        self.probed(token);
        let found = self.fences.iter().position(|fence| fence.arrived.is_none() && fence.token == token);
        let Some(mut at) = found else {
            return;
        };
        // What a key change held back came before the fence.
        for table in 0..self.tables.len() {
            let steps = self.tables[table].release_held();
            self.carry_out(TableId(table), steps, now);
        }
        let after_reads = self.fences[at].after_reads;
        self.lag = Some(now.saturating_duration_since(self.fences[at].sent));
        self.has_worked(Via::Fences);
        let was_proven = self.tables.iter().all(Table::is_proven);
        for table in &mut self.tables {
            table.prove(after_reads);
        }
        let is_proof = !was_proven && self.tables.iter().all(Table::is_proven);
        // What the engine asks for itself need be known once.
        let is_known = self.fences.iter().any(|fence| fence.asked_by.is_none() && fence.arrived.is_some());
        if self.fences[at].asked_by.is_none() && is_known && !is_proof {
            self.fences.remove(at);
        } else {
            // Of many that wait for the same rows the last will do.
            let is_open = |fence: &Fence| fence.asked_by.is_some() && fence.arrived.is_some() && !fence.is_proof;
            if self.fences.iter().filter(|fence| is_open(fence)).count() >= OPEN
                && let Some(last) = self.fences.iter().rposition(is_open).filter(|last| *last < at)
            {
                self.fences.remove(last);
                at -= 1;
            }
            self.fences[at].is_proof = is_proof;
            self.fences[at].arrived = Some(self.tables.iter().map(|table| table.arrivals().0).collect());
        }
        let waits = |table: &Table| table.round().is_some_and(|round| round.waits_for(token));
        if let Some(table) = self.tables.iter().position(waits) {
            self.settle_round(TableId(table), now);
        }
    }

    pub(super) fn send_fence(&mut self, asked_by: Option<FenceId>, now: Instant) -> String {
        let token = self.next_token();
        let deadline = now + self.limits.fence_timeout;
        let after_reads = self.finished_reads;
        self.fences.push(Fence {
            token: token.clone(),
            asked_by,
            after_reads,
            sent: now,
            deadline,
            arrived: None,
            is_sent: false,
            is_proof: false,
        });
        self.notify(Via::Fences, token.clone());
        self.next_heartbeat = Some(now + self.limits.heartbeat);
        token
    }

    /// Sends the fence that proves the reads, answers the fences that are fulfilled, and says the state.
    pub(super) fn settle(&mut self, now: Instant) {
        let all_read = self.tables.iter().all(Table::is_following);
        let all_proven = self.tables.iter().all(Table::is_proven);
        let none_busy = !self.tables.iter().any(Table::is_busy);
        let is_behind = self.is_behind(now);
        let state = match (&self.link, all_read, all_proven) {
            (Link::Disconnected { .. }, ..) => State::Disconnected,
            (Link::Subscribing, ..) => State::Subscribing,
            (Link::Probing { .. }, ..) => State::Probing,
            (Link::Following, false, _) if self.tables.iter().any(|table| table.waits_to_be_read(now)) => {
                State::Degraded
            }
            (Link::Following, false, _) => State::Snapshotting,
            (Link::Following, true, false) if self.without != Some(Rule::Fence) => State::CatchingUp,
            (Link::Following, true, _) if !none_busy || is_behind => State::CatchingUp,
            (Link::Following, true, _) => State::Live,
        };
        if state == State::Live && self.without == Some(Rule::Fence) {
            self.outputs.extend(self.wanted.take().map(Output::FenceReached));
        }
        let is_underway =
            self.fences.iter().any(|fence| fence.arrived.is_none() && fence.after_reads == self.finished_reads);
        if state == State::CatchingUp && !all_proven && !is_underway {
            let _ = self.send_fence(None, now);
        }
        if matches!(self.link, Link::Following) {
            // While one is on its way to the server, those that are asked for wait, to be sent as one.
            let is_sending = |fence: &Fence| fence.asked_by.is_some() && !fence.is_sent && fence.arrived.is_none();
            if !self.fences.iter().any(is_sending)
                && let Some(id) = self.wanted.take()
            {
                self.send_fence(Some(id), now);
            }
        }
        if state == State::Live {
            self.backoff.reset();
            let tables = &self.tables;
            for fence in self.fences.extract_if(.., |fence| fence.is_fulfilled(tables)) {
                self.outputs.extend(fence.asked_by.map(Output::FenceReached));
            }
        }
        self.set_state(state);
    }

    /// Whether rows are open that came before the fence that has proven the reads; or before one that was sent more than a
    /// heartbeat ago, since nobody who reads is told of a row that takes long.
    fn is_behind(&mut self, now: Instant) -> bool {
        let tables = &self.tables;
        self.fences.retain(|fence| fence.asked_by.is_some() || !fence.is_fulfilled(tables));
        let heartbeat = self.limits.heartbeat;
        let is_open = |fence: &Fence| fence.arrived.is_some() && !fence.is_fulfilled(tables);
        self.without != Some(Rule::Open)
            && self.fences.iter().any(|fence| is_open(fence) && (fence.is_proof || fence.sent + heartbeat <= now))
    }

    pub(super) fn set_state(&mut self, state: State) {
        if state != self.state {
            self.state = state;
            self.outputs.push_back(Output::StateChanged(state));
        }
    }
}
