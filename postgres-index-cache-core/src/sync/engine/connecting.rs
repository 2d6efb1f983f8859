//! The connections: what the engine does when one is opened, proven, lost or refused.

use super::Engine;
use crate::sync::connections::{ChannelChange, ConnectionPhase};
use crate::sync::read_queue::Work;
use crate::sync::timers::Timer;
use crate::sync::{AuxConnection, Failure, Output, State, TableId};
use std::time::Instant;

impl Engine {
    /// Asks the driver to open all connections.
    pub(super) fn connect(&mut self) {
        self.connections.connect(&mut self.outputs);
        self.set_all_states(State::Subscribing);
    }

    /// L listens: asks F and Q for a token each, which L must hear.
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

    /// The connections could not be opened.
    pub(super) fn connect_failed(
        &mut self,
        code: Option<String>,
        why: String,
        is_permanent: bool,
        now: Instant,
    ) {
        if self.connections.phase() == ConnectionPhase::Subscribing {
            let is_refused = self.connections.is_connect_refused(code) || is_permanent;
            let for_good = is_refused && !self.has_been_live;
            self.disconnect(Failure::ConnectFailed(why), for_good, now);
        }
    }

    /// The tables' triggers notify on these channels from now on.
    pub(super) fn change_channels(&mut self, channels: Vec<String>, now: Instant) {
        match self
            .connections
            .change_channels(channels, &mut self.outputs)
        {
            ChannelChange::None | ChannelChange::ListensAlso => {}
            ChannelChange::NeedsReconnect => {
                let why = "the tables are announced on other channels".to_string();
                self.disconnect(Failure::ConnectionLost(why), false, now);
            }
        }
    }

    /// F or Q is lost, and L is not.
    pub(super) fn aux_lost(&mut self, connection: AuxConnection, why: String, now: Instant) {
        if !self.connections.is_following() || !self.limits.reconnect {
            return self.disconnect(Failure::ConnectionLost(why), false, now);
        }
        if self.connections.is_open(connection) {
            self.reopen_later(connection, why, now);
        }
    }

    /// Opens F or Q again after a while. The engine asks again for everything that the connection
    /// carried.
    fn reopen_later(&mut self, connection: AuxConnection, why: String, now: Instant) {
        let wait = self
            .connections
            .reopen_later(connection, &mut self.timers, now);
        self.counters.reopened += 1;
        let why = match connection {
            AuxConnection::Fences => {
                self.looks.give_up();
                self.fences.forget_proofs();
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

    /// The answer to what Q was asked for will not come. Returns the cause; if a table was being
    /// read, with how often in a row that ended so.
    fn give_up_work(&mut self, why: String, now: Instant) -> String {
        let lost = || "the connection for reading was lost".to_string();
        let mut said = why;
        match self.reads.work() {
            Some(Work::Read { table, .. }) => {
                said = self.count_lost_read(table, said);
                self.tables[table.0].read_failed(now, lost());
            }
            Some(Work::Refetch { table, .. }) => self.tables[table.0].give_up_refetch(),
            Some(Work::Comparison { table, .. }) => self.end_comparison(table, Some(lost()), now),
            None => {}
        }
        self.reads.give_up();
        if self.has_lost_too_many_reads() {
            self.shut_down(Failure::ReadsCut { why: said.clone() });
        }
        said
    }

    /// Counts a connection that was lost while a table was read. Returns the cause, with how often
    /// in a row that happened.
    fn count_lost_read(&mut self, table: TableId, why: String) -> String {
        let times = self.reads.count_lost_read();
        if times == 1 {
            return why;
        }
        let name = self.tables[table.0].name();
        format!("{times} times in a row while {name} was read: {why}")
    }

    fn has_lost_too_many_reads(&self) -> bool {
        !self.has_been_live && self.reads.has_lost_too_many()
    }

    /// F or Q is open again.
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

    /// F or Q could not be opened again.
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
        let is_refused = self.connections.is_reopen_refused(connection, code) || is_permanent;
        if is_refused && !self.has_been_live {
            return self.disconnect(Failure::ConnectFailed(why), true, now);
        }
        self.reopen_later(connection, why, now);
    }

    /// F or Q, which was opened again, is proven.
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

    /// Returns the connection by which this token is sent, if it is awaited.
    fn sender_of(&self, token: &str) -> Option<AuxConnection> {
        let is_fence = || {
            let is_pending = self.connections.is_following() && self.fences.has_token(token);
            is_pending.then_some(AuxConnection::Fences)
        };
        self.connections.prober(token).or_else(is_fence)
    }

    /// The server has committed the NOTIFY of a token. From now on it must come back within its
    /// time; before, the server may have been waiting behind other commits.
    pub(super) fn token_committed(&mut self, token: &str, now: Instant) {
        self.fences
            .committed(token, now + self.limits.fence_timeout);
        self.connections
            .restart_probe(token, true, &self.limits, &mut self.timers, now);
    }

    /// The server gave up the NOTIFY of a token, since commits are blocked. That is no reason to
    /// connect again: a new connection would be blocked as well.
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

    /// Does what is due: L has nothing more to hand in, so what has not come is overdue.
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
                // While a fence is on its way another one would prove nothing more.
                Timer::Heartbeat if !self.fences.have_all_arrived() => {
                    self.timers
                        .set(Timer::Heartbeat, now + self.limits.heartbeat);
                }
                Timer::Heartbeat => {
                    self.send_fence(None, now);
                }
                // A read is asked for, and the states are published, after each input.
                Timer::Read | Timer::Behind => {}
            }
        }
    }

    /// The probe of F or Q has not reached L in time.
    fn probe_lost(&mut self, connection: AuxConnection, now: Instant) {
        let waited = self.limits.probe_timeout;
        if self.connections.is_following() {
            // Either L no longer receives notifications, or the connection that was opened again
            // is on a different server than L. Opening all three settles it.
            self.disconnect(Failure::FenceLost { waited }, false, now);
        } else if self.connections.is_probe_sent(connection) {
            // It was committed and L did not hear it: there is a pooler or a standby in between,
            // which does not pass by itself.
            let failure = Failure::ProbeLost {
                via: connection,
                waited,
            };
            self.disconnect(failure, !self.has_been_live, now);
        } else {
            // Nothing is known of whether L would hear it.
            let waited = self.limits.send_timeout().as_secs();
            let purpose = connection.purpose();
            let why =
                format!("the connection {purpose} did not send a notification within {waited} s");
            self.disconnect(Failure::ConnectionLost(why), false, now);
        }
    }

    /// All connections are lost, or are to be dropped. They are opened again after a while, unless
    /// it is `for_good`.
    pub(super) fn disconnect(&mut self, failure: Failure, for_good: bool, now: Instant) {
        if matches!(
            self.connections.phase(),
            ConnectionPhase::Disconnected { .. }
        ) {
            return;
        }
        let mut failure = failure;
        if let (Some(Work::Read { table, .. }), Failure::ConnectionLost(why)) =
            (self.reads.work(), &failure)
        {
            let why = self.count_lost_read(table, why.clone());
            if self.has_lost_too_many_reads() {
                return self.shut_down(Failure::ReadsCut { why });
            }
            failure = Failure::ConnectionLost(why);
        }
        if for_good || !self.limits.reconnect {
            return self.shut_down(failure);
        }
        let wait = self.connections.next_wait();
        self.drop_connections();
        self.timers.set(Timer::Reconnect, now + wait);
        self.outputs.push_back(Output::Disconnected {
            failure,
            retry_in: Some(wait),
        });
    }

    /// Ends the engine for good.
    pub(super) fn shut_down(&mut self, failure: Failure) {
        if self.has_ended() {
            return;
        }
        self.drop_connections();
        self.connections.disconnect(true);
        self.outputs.push_back(Output::Disconnected {
            failure,
            retry_in: None,
        });
    }

    fn drop_connections(&mut self) {
        self.counters.gaps += 1;
        self.connections.disconnect(false);
        self.timers.stop_all();
        self.fences.disconnect();
        self.looks.give_up();
        self.reads.give_up();
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
