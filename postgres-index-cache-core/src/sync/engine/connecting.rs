//! The engine and its connections: one is opened, proven, lost or refused, or a deadline passes.
//!
//! L carries the notifications, so a loss of L is a gap for every table. F and Q carry questions,
//! which can be asked again: see [`Connections`](crate::sync::connections::Connections).

use super::Engine;
use crate::sync::connections::{ChannelChange, ConnectionPhase};
use crate::sync::read_queue::Work;
use crate::sync::timers::Timer;
use crate::sync::{AuxConnection, Failure, Output, Snapshot, State, TableId};
use std::time::Instant;

impl Engine {
    /// Asks the driver to open all connections.
    pub(super) fn connect(&mut self) {
        self.connections.connect(&mut self.outputs);
        self.set_all_states(State::Subscribing);
    }

    /// Asks F and Q for a token each, now that L listens. L must hear both.
    pub(super) fn probe(&mut self, now: Instant) {
        if self.connections.phase() == ConnectionPhase::Subscribing {
            // Without tables nothing is read: there is no Q.
            let reads = !self.tables.is_empty();
            let Self {
                limits,
                timers,
                outputs,
                ..
            } = self;
            self.connections.probe(reads, limits, timers, outputs, now);
        }
    }

    /// Handles connections that could not be opened: they are tried again later, unless the failure
    /// is a refusal and the replica was never live.
    pub(super) fn connect_failed(
        &mut self,
        code: Option<String>,
        why: String,
        is_permanent: bool,
        now: Instant,
    ) {
        if self.connections.phase() == ConnectionPhase::Subscribing {
            let is_refused = self.connections.note_connect_failure(code) || is_permanent;
            let for_good = is_refused && !self.has_been_live;
            self.disconnect(Failure::ConnectFailed(why), for_good, now);
        }
    }

    /// Makes L listen on these channels, on which the tables' triggers notify from now on.
    pub(super) fn change_channels(&mut self, channels: Vec<String>, now: Instant) {
        match self
            .connections
            .change_channels(channels, &mut self.outputs)
        {
            ChannelChange::None | ChannelChange::ListensAlso => {}
            ChannelChange::NeedsReconnect => {
                let why = "the tables' triggers notify on other channels now".to_string();
                self.disconnect(Failure::ConnectionLost(why), false, now);
            }
        }
    }

    /// Handles the loss of F or Q alone.
    pub(super) fn aux_lost(&mut self, connection: AuxConnection, why: String, now: Instant) {
        // Before all three are proven, nothing is live that a new attempt could cost.
        if !self.connections.is_following() || !self.limits.reconnect {
            return self.disconnect(Failure::ConnectionLost(why), false, now);
        }
        if self.connections.is_open(connection) {
            self.reopen_later(connection, why, now);
        }
    }

    /// Makes F or Q be opened again after a while. The engine asks again for everything that the
    /// connection carried.
    fn reopen_later(&mut self, connection: AuxConnection, why: String, now: Instant) {
        let wait = self
            .connections
            .reopen_later(connection, &mut self.timers, now);
        self.counters.reopened += 1;
        let why = match connection {
            AuxConnection::Fences => {
                self.looks.give_up();
                self.fences.forget_proofs();
                self.transactions.sender_lost();
                why
            }
            AuxConnection::Reads => self.give_up_work(why, now),
        };
        self.outputs.push_back(Output::AuxConnectionLost {
            via: connection,
            why,
            retry_in: wait,
        });
    }

    /// Gives up the work of Q, whose answer will not come. Returns the cause to report. If a table
    /// was being read, the cause says how often in a row a read ended like that.
    fn give_up_work(&mut self, why: String, now: Instant) -> String {
        let lost = "the connection for reading was lost".to_string();
        let mut said = why;
        match self.reads.work() {
            Some(Work::Read { table, .. }) => {
                said = self.count_lost_read(table, said);
                // The wait is that of the connection, so the read itself is due at once.
                self.tables[table.0].read_failed(now, lost);
            }
            Some(Work::Refetch { table, .. }) => self.tables[table.0].give_up_refetch(),
            Some(Work::Comparison { table, .. }) => self.end_comparison(table, Some(lost), now),
            None => {}
        }
        self.reads.give_up();
        if self.has_lost_too_many_reads() {
            self.shut_down(Failure::ReadsCut { why: said.clone() }, now);
        }
        said
    }

    /// Counts a connection that was lost while a table was read. Returns `why`, with how often in a
    /// row that happened if it was more than once.
    fn count_lost_read(&mut self, table: TableId, why: String) -> String {
        let times = self.reads.count_lost_read();
        if times == 1 {
            return why;
        }
        let name = self.tables[table.0].name();
        format!("{times} times in a row while {name} was read: {why}")
    }

    /// Returns whether the replica gives up, since reads were cut too often and nothing was ever
    /// live.
    fn has_lost_too_many_reads(&self) -> bool {
        !self.has_been_live && self.reads.has_lost_too_many()
    }

    /// Asks F or Q, which is open again, for a probe.
    pub(super) fn aux_reopened(&mut self, connection: AuxConnection, now: Instant) {
        if !self.connections.is_opening(connection) {
            return;
        }
        let Self {
            limits,
            timers,
            outputs,
            ..
        } = self;
        let is_up = self
            .connections
            .reopened(connection, limits, timers, outputs, now);
        if is_up {
            self.aux_is_up(connection);
        }
    }

    /// Handles a failed attempt to open F or Q again: it is tried again later, unless the failure
    /// is a refusal and the replica was never live.
    pub(super) fn aux_reopen_failed(
        &mut self,
        connection: AuxConnection,
        code: Option<String>,
        why: String,
        is_permanent: bool,
        now: Instant,
    ) {
        if !self.connections.is_opening(connection) {
            return;
        }
        let is_refused = self.connections.note_reopen_failure(connection, code) || is_permanent;
        if is_refused && !self.has_been_live {
            return self.disconnect(Failure::ConnectFailed(why), true, now);
        }
        self.reopen_later(connection, why, now);
    }

    /// Asks again for the tokens that F carried, now that F is proven. Q is asked again for its
    /// work after each input.
    pub(super) fn aux_is_up(&mut self, connection: AuxConnection) {
        if connection == AuxConnection::Fences {
            // We don't know which of the pending NOTIFYs the lost session had committed, so send
            // them all again. A token that arrives twice is ignored.
            for token in self.fences.pending_tokens() {
                self.connections
                    .notify(connection, token, &mut self.outputs);
            }
        }
    }

    /// Returns the connection by which this token is sent; `None` if the token is not awaited.
    fn sender_of(&self, token: &str) -> Option<AuxConnection> {
        if let Some(prober) = self.connections.prober(token) {
            return Some(prober);
        }
        let is_fence = self.connections.is_following() && self.fences.has_token(token);
        is_fence.then_some(AuxConnection::Fences)
    }

    /// Starts the time of a token whose NOTIFY the server has committed. Before that, the server
    /// may have been waiting behind other commits, which says nothing of the connections.
    pub(super) fn token_committed(
        &mut self,
        token: &str,
        snapshot: Option<Snapshot>,
        now: Instant,
    ) {
        match snapshot {
            Some(snapshot) => {
                let look = if self.transactions.is_look_awaited(token) {
                    self.want_look()
                } else {
                    self.next_look()
                };
                self.transactions.snapshot_taken(token, snapshot, look);
                self.transactions.settle(&self.looks);
            }
            None => self.transactions.snapshot_missing(token),
        }
        self.fences
            .committed(token, now + self.limits.fence_timeout);
        self.connections
            .restart_probe(token, true, &self.limits, &mut self.timers, now);
    }

    /// Sends a token again whose NOTIFY the server gave up, since commits are blocked. That is no
    /// reason to connect again: a new connection would be blocked as well.
    pub(super) fn token_blocked(&mut self, token: &str, now: Instant) {
        let Some(connection) = self.sender_of(token) else {
            return;
        };
        self.outputs.push_back(Output::CommitsBlocked);
        self.connections
            .notify(connection, token.to_string(), &mut self.outputs);
        self.fences.blocked(token, now + self.limits.fence_timeout);
        self.connections
            .restart_probe(token, false, &self.limits, &mut self.timers, now);
    }

    /// Handles the timers that have fired. L has no more notifications to hand in, so a token that
    /// has not come is overdue.
    pub(super) fn handle_expired(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_expired(now) {
            match timer {
                Timer::Probe(connection) => self.probe_lost(connection, now),
                Timer::Fence => {
                    let waited = self.limits.fence_timeout;
                    self.disconnect(Failure::FenceLost { waited }, false, now);
                }
                Timer::Reopen(connection) => {
                    self.connections.reopen(connection, &mut self.outputs);
                }
                Timer::Reconnect => self.connect(),
                // While a fence is on its way, another one would not be back sooner.
                Timer::Heartbeat if !self.fences.have_all_arrived() => {
                    self.timers
                        .set(Timer::Heartbeat, now + self.limits.heartbeat);
                }
                Timer::Heartbeat => {
                    self.send_fence(None, now);
                }
                // A read is asked for, and the states are published, after each input.
                Timer::Read | Timer::Behind => {}
                Timer::Freeze => self.end_late_freezes(now),
            }
        }
    }

    /// Handles a probe of F or Q that has not reached L in time.
    fn probe_lost(&mut self, connection: AuxConnection, now: Instant) {
        let waited = self.limits.probe_timeout;
        if self.connections.is_following() {
            // Either L no longer receives notifications, or the connection that was opened again
            // is on a different server than L. Opening all three settles it.
            self.disconnect(Failure::FenceLost { waited }, false, now);
        } else if self.connections.is_probe_sent(connection) {
            // The probe was committed and L did not hear it. A pooler or a standby is in between,
            // and trying again does not mend that.
            let failure = Failure::ProbeLost {
                via: connection,
                waited,
            };
            self.disconnect(failure, !self.has_been_live, now);
        } else {
            // The probe was not committed, so nobody knows whether L would hear it.
            let waited = self.limits.send_timeout().as_secs();
            let purpose = connection.purpose();
            let why =
                format!("the connection {purpose} did not send a notification within {waited} s");
            self.disconnect(Failure::ConnectionLost(why), false, now);
        }
    }

    /// Drops all connections, for this failure. They are opened again after a while, unless
    /// `for_good`: then the engine ends.
    pub(super) fn disconnect(&mut self, failure: Failure, for_good: bool, now: Instant) {
        // The driver may tell of each connection that is gone, and one gap is enough.
        if matches!(
            self.connections.phase(),
            ConnectionPhase::Disconnected { .. }
        ) {
            return;
        }
        let mut failure = failure;
        if let (Some(table), Failure::ConnectionLost(why)) =
            (self.reads.table_being_read(), &failure)
        {
            let why = self.count_lost_read(table, why.clone());
            if self.has_lost_too_many_reads() {
                return self.shut_down(Failure::ReadsCut { why }, now);
            }
            failure = Failure::ConnectionLost(why);
        }
        if for_good || !self.limits.reconnect {
            return self.shut_down(failure, now);
        }
        let wait = self.connections.next_wait();
        self.drop_connections(now);
        self.timers.set(Timer::Reconnect, now + wait);
        self.outputs.push_back(Output::Disconnected {
            failure,
            retry_in: Some(wait),
        });
    }

    /// Ends the engine for good.
    pub(super) fn shut_down(&mut self, failure: Failure, now: Instant) {
        if self.has_ended() {
            return;
        }
        self.drop_connections(now);
        self.connections.disconnect(true);
        self.outputs.push_back(Output::Disconnected {
            failure,
            retry_in: None,
        });
    }

    /// Forgets everything that the connections carried, and makes every table stale.
    fn drop_connections(&mut self, now: Instant) {
        self.counters.gaps += 1;
        self.connections.disconnect(false);
        self.timers.stop_all();
        self.fences.disconnect();
        self.transactions.forget();
        self.looks.give_up();
        self.reads.give_up_all();
        for table in 0..self.tables.len() {
            self.drop_freeze(TableId(table), now);
        }
        for (at, table) in self.tables.iter_mut().enumerate() {
            if let Some(comparison) = table.comparison() {
                self.outputs.push_back(Output::ComparisonEnded {
                    table: TableId(at),
                    question: comparison.question(),
                    inconclusive: Some("a connection was lost".to_string()),
                    doubt: None,
                });
            }
            table.disconnect();
        }
        // The states come before the output that names the cause, so that a reader who is told of
        // the loss does not see a table that is called live.
        self.set_all_states(State::Disconnected);
    }
}
