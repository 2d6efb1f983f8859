//! Fences and looks: what proves that everything before them has come, and the states that follow.
//!
//! A fence proves that the *notifications* committed before it have arrived. It says nothing of
//! what no notification tells: a trigger that was disabled, a table that was renamed, DDL that
//! rewrote rows. So each fence asks for a *look* at the definitions as well, and counts once a look
//! that began after it was asked for is done:
//!
//! 1. Somebody disables the trigger and updates a row. Both are committed.
//! 2. A caller asks for a fence. A look from before step 1 is still on its way.
//! 3. The fence arrives, and so does that look: it found everything as it was.
//!
//! Without numbers the old look would pass for the one that was asked for, and the caller would
//! read the old row as live.

use super::link::{ConnectionPhase, Fence};
use super::table::EngineTable;
use super::{AuxConnection, Engine, FAILURES, FenceId, Output, Rule, State, TableId};
use std::collections::VecDeque;
use std::time::Instant;

/// How many fences that have come may wait for rows or for tables that cannot be followed.
const OPEN: usize = 64;

/// The looks at the definitions of the tables: which is on its way, and which are wanted.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// The number of the look on its way. There is one at a time.
    underway: Option<u64>,
    /// The highest number that was given out.
    started: u64,
    /// The highest number that is wanted: it is above `started` when another look is to begin.
    wanted: u64,
    /// The highest number that is done.
    done: u64,
    /// When the last one began, for looks that a payload asks for.
    began: Option<Instant>,
    /// How many failed in a row, and what the last one said.
    failures: u32,
    /// Why nothing is known of the definitions, once too many looks failed.
    blind: Option<String>,
    /// The fences that have arrived, each with its look and when it was sent, while that look is
    /// not done.
    proofs: VecDeque<(u64, Instant)>,
}

impl Looks {
    /// Asks for a look that begins from now on; gives its number.
    fn want(&mut self) -> u64 {
        self.wanted = self.started + 1;
        self.wanted
    }

    /// Starts the look that is wanted, if one is; gives its number.
    fn start(&mut self, now: Instant) -> Option<u64> {
        if self.underway.is_some() || self.wanted <= self.started {
            return None;
        }
        self.started += 1;
        self.underway = Some(self.started);
        self.began = Some(now);
        self.underway
    }

    /// The answer to the look on its way will not come: it is wanted anew.
    pub(super) fn give_up(&mut self) {
        if self.underway.take().is_some() {
            self.wanted = self.started + 1;
        }
        self.proofs.clear();
    }

    pub(super) fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }
}

impl Engine {
    pub(super) fn token_arrived(&mut self, token: &str, now: Instant) {
        if let ConnectionPhase::Probing { awaited, since } = &mut self.link {
            awaited.retain(|probe| probe.token != token);
            if awaited.is_empty() {
                self.proven_at = self.proven_at.max(Some(*since));
                self.link = ConnectionPhase::Following;
                self.connect_failures.reset();
                self.next_heartbeat = Some(now + self.limits.heartbeat);
            }
        }
        self.probe_arrived(token);
        let found = self
            .fences
            .iter()
            .position(|fence| fence.arrived.is_none() && fence.token == token);
        let Some(mut at) = found else {
            return;
        };
        // What a key change held back came before the fence.
        for table in 0..self.tables.len() {
            let steps = self.tables[table].release_held();
            self.apply_steps(TableId(table), steps, now);
        }
        let after_reads = self.fences[at].after_reads;
        self.lag = Some(now.saturating_duration_since(self.fences[at].sent));
        self.looks
            .proofs
            .push_back((self.fences[at].look, self.fences[at].sent));
        self.note_proofs();
        self.reset_aux_backoff(AuxConnection::Fences);
        let mut proves = Vec::with_capacity(self.tables.len());
        for table in &mut self.tables {
            let was_proven = table.is_proven();
            table.prove(after_reads);
            proves.push(!was_proven && table.is_proven());
        }
        let is_proof = proves.contains(&true);
        // What the engine asks for itself need be known once.
        let is_known = self
            .fences
            .iter()
            .any(|fence| fence.asked_by.is_none() && fence.arrived.is_some());
        if self.fences[at].asked_by.is_none() && is_known && !is_proof {
            self.fences.remove(at);
        } else {
            // Of many that wait for the same rows the last will do.
            let is_open = |fence: &Fence| {
                fence.asked_by.is_some() && fence.arrived.is_some() && !fence.proves.contains(&true)
            };
            if self.fences.iter().filter(|fence| is_open(fence)).count() >= OPEN
                && let Some(last) = self
                    .fences
                    .iter()
                    .rposition(is_open)
                    .filter(|last| *last < at)
            {
                self.fences.remove(last);
                at -= 1;
            }
            self.fences[at].proves = proves;
            self.fences[at].arrived =
                Some(self.tables.iter().map(|table| table.arrivals().0).collect());
        }
        let waits = |table: &EngineTable| {
            table
                .comparison()
                .is_some_and(|comparison| comparison.waits_for(token))
        };
        if let Some(table) = self.tables.iter().position(waits) {
            self.settle_comparison(TableId(table), now);
        }
    }

    /// A caller asks for a fence. A table that is to be read again for want of trust in it is read
    /// soon: the caller waits for that one read, whatever else is asked for meanwhile.
    pub(super) fn request_fence(&mut self, id: FenceId, now: Instant) {
        self.wanted = self.wanted.max(Some(id));
        match self.asked.back_mut() {
            Some((last, reads)) if *reads == self.started_reads => *last = id.max(*last),
            _ => self.asked.push_back((id, self.started_reads)),
        }
        for table in &mut self.tables {
            table.hurry(now);
        }
    }

    /// All rows of a table's read are in the cache: it has everything that was committed before the
    /// read began, and so before any fence that was asked for by then. Whether it is live is
    /// another question.
    pub(super) fn answer_by_read(&mut self, table: TableId) {
        let Some(read) = self.tables[table.0].last_read() else {
            return;
        };
        let is_looked_at = self.looks.blind.is_none() || self.without == Some(Rule::Look);
        let before = self
            .asked
            .iter()
            .rev()
            .find(|(_, started)| *started < read)
            .map(|(id, _)| *id);
        if let Some(id) = before.filter(|id| is_looked_at && self.reached[table.0] < Some(*id)) {
            self.reached[table.0] = Some(id);
            self.outputs
                .push_back(Output::FenceReached { table, fence: id });
        }
    }

    /// Forgets the fences that are reached everywhere.
    fn forget_asked(&mut self) {
        let reached = self.reached.iter().copied().min().flatten();
        while self
            .asked
            .front()
            .is_some_and(|(id, _)| Some(*id) <= reached)
        {
            self.asked.pop_front();
        }
    }

    pub(super) fn send_fence(&mut self, asked_by: Option<FenceId>, now: Instant) -> String {
        let token = self.next_token();
        let deadline = now + self.limits.fence_timeout;
        let after_reads = self.finished_reads;
        let look = self.want_look();
        self.fences.push(Fence {
            token: token.clone(),
            asked_by,
            after_reads,
            sent: now,
            deadline,
            arrived: None,
            is_sent: false,
            proves: Vec::new(),
            look,
        });
        self.notify(AuxConnection::Fences, token.clone());
        self.next_heartbeat = Some(now + self.limits.heartbeat);
        token
    }

    /// Asks for a look at the definitions that begins from now on; gives its number, 0 where nobody
    /// looks.
    pub(super) fn want_look(&mut self) -> u64 {
        if self.limits.watch_ddl {
            self.looks.want()
        } else {
            0
        }
    }

    /// A payload came that names a followed table and was sent by another: whoever renamed or
    /// swapped tables is to be found out soon. Any role can send such payloads, so they cause no
    /// more than ten looks a heartbeat.
    pub(super) fn look_soon(&mut self, now: Instant) {
        let distance = self.limits.heartbeat / 10;
        if self.looks.began.is_none_or(|began| began + distance <= now) {
            self.want_look();
        }
    }

    /// Asks the driver for the look that is wanted.
    pub(super) fn ask_for_looks(&mut self, now: Instant) {
        if self.can_look()
            && let Some(look) = self.looks.start(now)
        {
            self.outputs.push_back(Output::Look { look });
        }
    }

    /// A look is done. An answer to any other look than the one on its way is of a connection that
    /// is gone.
    pub(super) fn looked(&mut self, look: u64) {
        if self.looks.underway == Some(look) {
            self.looks.underway = None;
            self.looks.done = look;
            self.looks.failures = 0;
            self.looks.blind = None;
            self.note_proofs();
        }
    }

    /// A fence proves what was committed before it was sent once its look is done as well.
    fn note_proofs(&mut self) {
        while let Some((look, sent)) = self.looks.proofs.front().copied()
            && look <= self.looks.done
        {
            self.looks.proofs.pop_front();
            self.proven_at = self.proven_at.max(Some(sent));
        }
    }

    /// A look failed. Once `FAILURES` failed in a row nothing is known of the definitions, so
    /// nothing is live; looks go on with each heartbeat, and the first that is done ends that.
    pub(super) fn look_failed(&mut self, look: u64, why: &str) {
        if self.looks.underway == Some(look) {
            self.looks.underway = None;
            self.looks.failures += 1;
            if self.looks.failures >= FAILURES {
                self.looks.blind = Some(format!(
                    "the definitions of the tables cannot be looked at: {why}"
                ));
            } else {
                self.looks.want();
            }
        }
    }

    /// Sends the fence that proves the reads, answers the fences that are fulfilled, and says the
    /// states.
    pub(super) fn publish_states(&mut self, now: Instant) {
        let is_of_nobody = |fence: &Fence| fence.asked_by.is_none();
        let tables = &self.tables;
        let looks = &self.looks;
        self.fences.retain(|fence| {
            !is_of_nobody(fence)
                || !fence.has_arrived()
                || fence.look > looks.done
                || !fence.is_complete(tables)
        });
        let states: Vec<State> = (0..self.tables.len())
            .map(|table| self.state_now(TableId(table), now))
            .collect();
        let keeps_fences = self.without != Some(Rule::Fence);
        if !keeps_fences && states.iter().all(|state| *state == State::Live) {
            let wanted = self.wanted.take();
            for table in 0..self.tables.len() {
                self.outputs
                    .extend(wanted.map(|fence| Output::FenceReached {
                        table: TableId(table),
                        fence,
                    }));
            }
        }
        if matches!(self.link, ConnectionPhase::Following) {
            let is_unproven = |table: &EngineTable| table.is_following() && !table.is_proven();
            let is_underway = self
                .fences
                .iter()
                .any(|fence| !fence.has_arrived() && fence.after_reads == self.finished_reads);
            if keeps_fences && !is_underway && self.tables.iter().any(is_unproven) {
                let _ = self.send_fence(None, now);
            }
            // While one is on its way to the server, those that are asked for wait, to be sent as
            // one.
            let is_sending =
                |fence: &Fence| fence.asked_by.is_some() && !fence.is_sent && !fence.has_arrived();
            if !self.fences.iter().any(is_sending)
                && let Some(id) = self.wanted.take()
            {
                self.send_fence(Some(id), now);
            }
        }
        self.answer_fences(&states);
        self.forget_asked();
        self.say_states(states);
        let state = self
            .states
            .iter()
            .min()
            .copied()
            .unwrap_or_else(|| self.link_state().unwrap_or(State::Live));
        if state == State::Live {
            self.backoff.reset();
            self.has_been_live = true;
        }
        // Whoever waited for it has been answered.
        self.has_been_live |= !self.reached.is_empty() && self.reached.iter().all(Option::is_some);
        self.set_state(state);
        self.ask_for_looks(now);
    }

    /// Says of which tables each fence that has come is reached, and lets go of those that are
    /// reached everywhere.
    fn answer_fences(&mut self, states: &[State]) {
        let Self {
            fences,
            tables,
            looks,
            reached,
            outputs,
            without,
            ..
        } = self;
        let needs_look = *without != Some(Rule::Look);
        for fence in fences
            .iter()
            .filter(|fence| fence.look <= looks.done || !needs_look)
        {
            let Some(id) = fence.asked_by else { continue };
            for (table, state) in states.iter().enumerate() {
                let is_reached = *state == State::Live && fence.is_complete_for(table, tables);
                if is_reached && reached[table] < Some(id) {
                    reached[table] = Some(id);
                    outputs.push_back(Output::FenceReached {
                        table: TableId(table),
                        fence: id,
                    });
                }
            }
        }
        fences.retain(|fence| {
            let is_answered = |id: FenceId| reached.iter().all(|reached| *reached >= Some(id));
            !fence.has_arrived() || !fence.asked_by.is_some_and(is_answered)
        });
    }

    /// How far the connections are, while that is all that counts.
    fn link_state(&self) -> Option<State> {
        match &self.link {
            ConnectionPhase::Disconnected { .. } => Some(State::Disconnected),
            ConnectionPhase::Subscribing => Some(State::Subscribing),
            ConnectionPhase::Probing { .. } => Some(State::Probing),
            ConnectionPhase::Following => None,
        }
    }

    /// How a table stands at `now`.
    fn state_now(&self, table: TableId, now: Instant) -> State {
        if let Some(state) = self.link_state() {
            return state;
        }
        let own = &self.tables[table.0];
        if own.is_stale() || self.looks.blind.is_some() {
            State::Stale
        } else if own.waits_to_be_read(now) || own.is_doubted() {
            State::Degraded
        } else if !own.is_following() {
            State::Snapshotting
        } else if own.is_busy() || own.is_to_be_seen_truncated() || self.is_behind(table, now) {
            State::CatchingUp
        } else if own.is_proven() || self.without == Some(Rule::Fence) {
            State::Live
        } else {
            State::CatchingUp
        }
    }

    /// Whether rows of a table are open that came before the fence that has proven its read, or
    /// before a fence that was sent more than a heartbeat ago, since nobody who reads is told of a
    /// row that takes long. Also while the look that belongs to the proof is not done.
    fn is_behind(&self, table: TableId, now: Instant) -> bool {
        let heartbeat = self.limits.heartbeat;
        let needs_look = self.without != Some(Rule::Look);
        self.fences
            .iter()
            .filter(|fence| fence.has_arrived())
            .any(|fence| {
                let is_proof = fence.proves.get(table.0) == Some(&true);
                let is_open = !fence.is_complete_for(table.0, &self.tables)
                    && self.without != Some(Rule::Open);
                (is_proof && needs_look && fence.look > self.looks.done)
                    || (is_open && (is_proof || fence.sent + heartbeat <= now))
            })
    }

    /// When rows that are open become too old for a table to be live.
    pub(super) fn behind_at(&self) -> impl Iterator<Item = Instant> {
        let live = (0..self.tables.len()).filter(|&table| self.states[table] == State::Live);
        live.flat_map(move |table| {
            let is_open = move |fence: &&Fence| {
                fence.has_arrived() && !fence.is_complete_for(table, &self.tables)
            };
            self.fences
                .iter()
                .filter(is_open)
                .map(move |fence| fence.sent + self.limits.heartbeat)
        })
    }

    /// What happens to the connections happens to every table.
    pub(super) fn set_all_states(&mut self, state: State) {
        self.say_states(vec![state; self.states.len()]);
        self.set_state(state);
    }

    /// Says which tables' states are others than they were.
    fn say_states(&mut self, states: Vec<State>) {
        for (table, state) in states.iter().enumerate() {
            if self.states[table] != *state {
                self.outputs.push_back(Output::TableStateChanged {
                    table: TableId(table),
                    state: *state,
                });
            }
        }
        self.states = states;
    }

    fn set_state(&mut self, state: State) {
        if state != self.state {
            self.state = state;
            self.outputs.push_back(Output::StateChanged(state));
        }
    }
}
