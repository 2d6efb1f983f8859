//! Where the connections of the [`Engine`] are, and the [`Fence`]s that they carry.
//!
//! [`ConnectionPhase`] is about all three. While they follow, F or Q can be lost alone: what it carried is
//! done again when it is back, and nothing that is known of the tables becomes wrong meanwhile. L
//! lost is all lost.
//!
//! ```text
//! Up ─ lost ─→ Lost ─ after a while ─→ Opening ─ it is there ─→ Probing ─ its token has reached L ─→ Up
//! ```

use super::backoff::Backoff;
use super::reads::Work;
use super::table::EngineTable;
use super::{AuxConnection, Engine, FAILURES, Failure, FenceId, Output, Rule, State, TableId};
use std::time::{Duration, Instant};

/// Where the connections are.
#[derive(Debug)]
pub(super) enum ConnectionPhase {
    /// Lost, or never had. It connects again then, if at all.
    Disconnected { retry_at: Option<Instant> },
    /// To be connected and to LISTEN.
    Subscribing,
    /// The tokens that have not come back, and when they were asked for.
    Probing { awaited: Vec<Probe>, since: Instant },
    /// All were proven. F and Q may be lost since: see [`AuxState`].
    Following,
}

/// A token on its way, which shows that L hears a connection.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) via: AuxConnection,
    pub(super) token: String,
    pub(super) deadline: Instant,
    /// Whether the server has committed it.
    pub(super) is_sent: bool,
}

/// A fence on its way.
#[derive(Debug)]
pub(super) struct Fence {
    pub(super) token: String,
    /// Who asked; `None` is the engine itself.
    pub(super) asked_by: Option<FenceId>,
    /// How many answers of Q had come when it was sent.
    pub(super) after_reads: u64,
    pub(super) sent: Instant,
    pub(super) deadline: Instant,
    /// Once it has arrived: how many changes each table had been told of.
    pub(super) arrived: Option<Vec<u64>>,
    /// Whether the server has committed it.
    pub(super) is_sent: bool,
    /// Once it has arrived: the tables whose reads it has proven. Before the rows that came before
    /// it are there, such a table is not live.
    pub(super) proves: Vec<bool>,
    /// The look at the definitions that was asked for with it; 0: nobody looks.
    pub(super) look: u64,
}

impl Fence {
    pub(super) fn has_arrived(&self) -> bool {
        self.arrived.is_some()
    }

    /// Whether everything that came before it is in the caches, rows that were to be read again
    /// included. Not before it has arrived.
    pub(super) fn is_complete(&self, tables: &[EngineTable]) -> bool {
        (0..tables.len()).all(|table| self.is_complete_for(table, tables))
    }

    /// The same for the cache of one table.
    pub(super) fn is_complete_for(&self, table: usize, tables: &[EngineTable]) -> bool {
        let before = self
            .arrived
            .as_ref()
            .and_then(|arrivals| arrivals.get(table));
        before.is_some_and(|before| {
            tables[table]
                .arrivals()
                .1
                .is_none_or(|open_since| open_since > *before)
        })
    }
}

/// Where F or Q is while L follows.
#[derive(Debug, Default)]
enum AuxPhase {
    #[default]
    Up,
    Lost {
        retry_at: Instant,
    },
    Opening,
    /// Nothing that it says counts before its token has reached L: it may be a session of another
    /// server.
    Probing {
        token: String,
        deadline: Instant,
    },
}

/// F or Q.
#[derive(Debug, Default)]
pub(super) struct AuxState {
    stage: AuxPhase,
    backoff: Backoff,
    failures: Streak,
}

impl AuxState {
    fn is_up(&self) -> bool {
        matches!(self.stage, AuxPhase::Up)
    }

    /// When it must be looked at again.
    fn timeout(&self) -> Option<Instant> {
        match &self.stage {
            AuxPhase::Lost { retry_at } => Some(*retry_at),
            AuxPhase::Probing { deadline, .. } => Some(*deadline),
            AuxPhase::Up | AuxPhase::Opening => None,
        }
    }
}

/// How often in a row something failed with the same code.
#[derive(Debug, Default)]
pub(super) struct Streak(Option<(String, u32)>);

impl Streak {
    /// It has failed; whether that is once too often. Without a code it passes by itself.
    pub(super) fn is_too_long(&mut self, code: Option<String>) -> bool {
        self.0 = match (self.0.take(), code) {
            (Some((last, times)), Some(code)) if last == code => Some((code, times + 1)),
            (_, code) => code.map(|code| (code, 1)),
        };
        self.0.as_ref().is_some_and(|(_, times)| *times >= FAILURES)
    }

    /// It has succeeded.
    pub(super) fn reset(&mut self) {
        self.0 = None;
    }
}

/// F and Q.
const AUX_CONNECTIONS: [AuxConnection; 2] = [AuxConnection::Fences, AuxConnection::Reads];

impl Engine {
    fn aux(&mut self, via: AuxConnection) -> &mut AuxState {
        match via {
            AuxConnection::Fences => &mut self.fence_connection,
            AuxConnection::Reads => &mut self.read_connection,
        }
    }

    /// Whether Q can be asked for something.
    pub(super) fn can_read(&self) -> bool {
        matches!(self.link, ConnectionPhase::Following)
            && self.read_connection.is_up()
            && !self.is_listening_also
    }

    /// Whether F can be asked for a look at the definitions.
    pub(super) fn can_look(&self) -> bool {
        matches!(self.link, ConnectionPhase::Following) && self.fence_connection.is_up()
    }

    /// When F or Q must be looked at again.
    pub(super) fn aux_timeouts(&self) -> impl Iterator<Item = Instant> {
        [
            self.fence_connection.timeout(),
            self.read_connection.timeout(),
        ]
        .into_iter()
        .flatten()
    }

    /// F or Q is lost, and L is not.
    pub(super) fn aux_connection_lost(&mut self, via: AuxConnection, why: String, now: Instant) {
        if !matches!(self.link, ConnectionPhase::Following) || !self.limits.reconnect {
            return self.disconnect(Failure::ConnectionLost(why), false, now);
        }
        if matches!(self.aux(via).stage, AuxPhase::Up | AuxPhase::Probing { .. }) {
            self.open_later(via, why, now);
        }
    }

    /// Opens F or Q again after a while. What it carried is done again then.
    fn open_later(&mut self, via: AuxConnection, why: String, now: Instant) {
        let drawn = self.draw();
        let aux = self.aux(via);
        let wait = aux.backoff.next(drawn);
        aux.stage = AuxPhase::Lost {
            retry_at: now + wait,
        };
        self.counters.reopened += 1;
        let why = match via {
            AuxConnection::Fences => {
                self.looks.give_up();
                why
            }
            AuxConnection::Reads => self.give_up_work(why, now),
        };
        self.outputs.push_back(Output::AuxConnectionLost {
            via,
            why,
            retry_in: wait,
        });
    }

    /// The answer to what Q was asked for will not come. Gives the cause, with how often in a row a
    /// read of a table ended so.
    fn give_up_work(&mut self, why: String, now: Instant) -> String {
        let lost = || "the connection for reading was lost".to_string();
        let mut said = why;
        match self.work {
            Some(Work::Read { table, .. }) => {
                said = self.count_lost_read(table, said);
                self.tables[table.0].read_failed(now, lost());
            }
            Some(Work::Refetch { table, .. }) => self.tables[table.0].give_up_refetch(),
            Some(Work::Comparison { table, .. }) => {
                self.end_comparison(table, None, Some(lost()), now);
            }
            None => {}
        }
        self.work = None;
        if self.reads_are_lost_in_vain() {
            self.shut_down(Failure::ReadsCut { why: said.clone() }, now);
        }
        said
    }

    /// A connection was lost while a table was read: the cause, with how often in a row that was.
    pub(super) fn count_lost_read(&mut self, table: TableId, why: String) -> String {
        self.lost_reads += 1;
        if self.lost_reads == 1 {
            return why;
        }
        format!(
            "{} times in a row while {} was read: {why}",
            self.lost_reads,
            self.tables[table.0].name()
        )
    }

    /// Whether reads were cut so often that a replica which was never live gives up. Without this a
    /// server or proxy that ends each COPY makes it begin over and over, and whoever waits is told
    /// nothing.
    pub(super) fn reads_are_lost_in_vain(&self) -> bool {
        const TOO_OFTEN: u32 = 5;
        !self.has_been_live && self.lost_reads >= TOO_OFTEN
    }

    /// F or Q is open again.
    pub(super) fn reopened(&mut self, via: AuxConnection, now: Instant) {
        if !matches!(self.aux(via).stage, AuxPhase::Opening) {
            return;
        }
        if self.without == Some(Rule::Probe) {
            return self.restore_aux(via);
        }
        let token = self.next_token();
        let deadline = now + self.send_timeout();
        self.aux(via).stage = AuxPhase::Probing {
            token: token.clone(),
            deadline,
        };
        self.notify(via, token);
    }

    pub(super) fn reopen_failed(
        &mut self,
        via: AuxConnection,
        code: Option<String>,
        why: String,
        is_permanent: bool,
        now: Instant,
    ) {
        if !matches!(self.aux(via).stage, AuxPhase::Opening) {
            return;
        }
        let is_refused = self.aux(via).failures.is_too_long(code) || is_permanent;
        if is_refused && !self.has_been_live {
            return self.disconnect(Failure::ConnectFailed(why), true, now);
        }
        self.open_later(via, why, now);
    }

    /// A token has reached L.
    pub(super) fn probe_arrived(&mut self, arrived: &str) {
        for via in AUX_CONNECTIONS {
            if matches!(&self.aux(via).stage, AuxPhase::Probing { token, .. } if token == arrived) {
                self.restore_aux(via);
            }
        }
    }

    fn restore_aux(&mut self, via: AuxConnection) {
        // The wait before the next attempt grows on until it has done something.
        let aux = self.aux(via);
        aux.stage = AuxPhase::Up;
        aux.failures.reset();
        if via == AuxConnection::Fences {
            // Whether those that were on their way were sent is not known; twice does no harm.
            let lost: Vec<String> = self
                .fences
                .iter()
                .filter(|fence| fence.arrived.is_none())
                .map(|fence| fence.token.clone())
                .collect();
            for token in lost {
                self.notify(via, token);
            }
        }
    }

    /// Sends a token, unless the connection is lost: a fence waits until it is back.
    pub(super) fn notify(&mut self, via: AuxConnection, token: String) {
        let is_sent = match &self.aux(via).stage {
            AuxPhase::Up => true,
            AuxPhase::Probing { token: probe, .. } => *probe == token,
            AuxPhase::Lost { .. } | AuxPhase::Opening => false,
        };
        if is_sent {
            let channel = self.fence_channel.clone();
            self.outputs.push_back(Output::Notify {
                via,
                channel,
                token,
            });
        }
    }

    /// The connection that this token is to be sent by, if it is awaited.
    pub(super) fn sender_of(&self, token: &str) -> Option<AuxConnection> {
        let probes = |aux: &AuxState| matches!(&aux.stage, AuxPhase::Probing { token: probe, .. } if probe == token);
        match &self.link {
            ConnectionPhase::Probing { awaited, .. } => awaited
                .iter()
                .find(|probe| probe.token == token)
                .map(|probe| probe.via),
            ConnectionPhase::Following if probes(&self.read_connection) => {
                Some(AuxConnection::Reads)
            }
            ConnectionPhase::Following => {
                let is_fence = self.fences.iter().any(|fence| fence.token == token);
                (is_fence || probes(&self.fence_connection)).then_some(AuxConnection::Fences)
            }
            ConnectionPhase::Disconnected { .. } | ConnectionPhase::Subscribing => None,
        }
    }

    /// How long the server may take to commit a NOTIFY: it gives up by itself when commits are
    /// blocked, and says so.
    pub(super) fn send_timeout(&self) -> Duration {
        2 * self.limits.probe_timeout
    }

    /// A token must come back within its time from when the server has committed it; before, within
    /// that of committing it.
    pub(super) fn restart_clock(&mut self, token: &str, is_sent: bool, now: Instant) {
        let fence_deadline = now + self.limits.fence_timeout;
        for fence in &mut self.fences {
            if fence.token == token {
                (fence.deadline, fence.is_sent) = (fence_deadline, fence.is_sent || is_sent);
            } else if !is_sent && !fence.is_sent {
                // What holds that one up holds up those behind it.
                fence.deadline = fence_deadline;
            }
        }
        let probe_deadline = now
            + if is_sent {
                self.limits.probe_timeout
            } else {
                self.send_timeout()
            };
        if let ConnectionPhase::Probing { awaited, .. } = &mut self.link {
            for probe in awaited.iter_mut().filter(|probe| probe.token == token) {
                (probe.deadline, probe.is_sent) = (probe_deadline, is_sent);
            }
        }
        for via in AUX_CONNECTIONS {
            if let AuxPhase::Probing {
                token: probe,
                deadline,
            } = &mut self.aux(via).stage
                && probe == token
            {
                *deadline = probe_deadline;
            }
        }
    }

    /// Commits are blocked: that is no reason to connect again.
    pub(super) fn send_again(&mut self, token: &str, now: Instant) {
        if let Some(via) = self.sender_of(token) {
            self.outputs.push_back(Output::CommitsBlocked);
            self.notify(via, token.to_string());
            self.restart_clock(token, false, now);
        }
    }

    /// Looks at F and Q, whose times may have come.
    pub(super) fn check_aux(&mut self, now: Instant) {
        for via in AUX_CONNECTIONS {
            match self.aux(via).stage {
                AuxPhase::Lost { retry_at } if retry_at <= now => {
                    self.aux(via).stage = AuxPhase::Opening;
                    self.outputs.push_back(Output::Reopen { via });
                }
                // It is L that does not hear, or they are of two servers: to open all tells.
                AuxPhase::Probing { deadline, .. } if deadline <= now => {
                    self.disconnect(
                        Failure::FenceLost {
                            waited: self.limits.probe_timeout,
                        },
                        false,
                        now,
                    );
                }
                AuxPhase::Up
                | AuxPhase::Lost { .. }
                | AuxPhase::Opening
                | AuxPhase::Probing { .. } => {}
            }
        }
    }

    /// F or Q has done something: the next loss is a new one.
    pub(super) fn reset_aux_backoff(&mut self, via: AuxConnection) {
        self.aux(via).backoff.reset();
    }

    /// All connections are lost: what was said of two of them is past.
    pub(super) fn reset_aux(&mut self) {
        (self.fence_connection, self.read_connection) = (AuxState::default(), AuxState::default());
    }

    /// A wait before the next attempt: any time up to a bound that doubles.
    pub(super) fn wait(&mut self) -> Duration {
        let drawn = self.draw();
        self.backoff.next(drawn)
    }

    /// A number from 0 to 1.
    pub(super) fn draw(&mut self) -> f64 {
        // Splitmix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn check_deadlines(&mut self, now: Instant) {
        let lost_probe = match &self.link {
            ConnectionPhase::Probing { awaited, .. } => {
                let lost = awaited.iter().find(|probe| probe.deadline <= now);
                lost.map(|probe| (probe.via, probe.is_sent))
            }
            _ => None,
        };
        if let Some((via, true)) = lost_probe {
            let failure = Failure::ProbeLost {
                via,
                waited: self.limits.probe_timeout,
            };
            self.disconnect(failure, !self.has_been_live, now);
        } else if let Some((via, false)) = lost_probe {
            // It says nothing of whether L would hear it.
            let waited = self.send_timeout().as_secs();
            let why = format!(
                "the connection {} did not send a notification within {waited} s",
                via.purpose()
            );
            self.disconnect(Failure::ConnectionLost(why), false, now);
        } else if self
            .fences
            .iter()
            .any(|fence| !fence.has_arrived() && fence.deadline <= now)
        {
            self.disconnect(
                Failure::FenceLost {
                    waited: self.limits.fence_timeout,
                },
                false,
                now,
            );
        }
        self.check_aux(now);
        match self.link {
            ConnectionPhase::Disconnected { retry_at: Some(at) } if at <= now => self.connect(),
            ConnectionPhase::Following if self.next_heartbeat.is_some_and(|at| at <= now) => {
                if self.fences.iter().all(Fence::has_arrived) {
                    self.send_fence(None, now);
                } else {
                    self.next_heartbeat = Some(now + self.limits.heartbeat);
                }
            }
            ConnectionPhase::Disconnected { .. }
            | ConnectionPhase::Subscribing
            | ConnectionPhase::Probing { .. }
            | ConnectionPhase::Following => {}
        }
    }

    /// All connections are lost, or are to be dropped. It connects again after a while, unless it
    /// is of no use.
    pub(super) fn disconnect(&mut self, failure: Failure, is_permanent: bool, now: Instant) {
        if matches!(self.link, ConnectionPhase::Disconnected { .. }) {
            return;
        }
        let mut failure = failure;
        if let (Some(Work::Read { table, .. }), Failure::ConnectionLost(why)) =
            (self.work, &failure)
        {
            let why = self.count_lost_read(table, why.clone());
            if self.reads_are_lost_in_vain() {
                return self.shut_down(Failure::ReadsCut { why }, now);
            }
            failure = Failure::ConnectionLost(why);
        }
        if is_permanent || !self.limits.reconnect {
            return self.shut_down(failure, now);
        }
        let wait = self.wait();
        self.drop_connections(failure, Some(wait), now);
    }

    /// It ends for good.
    pub(super) fn shut_down(&mut self, failure: Failure, now: Instant) {
        if !self.has_ended() {
            self.drop_connections(failure, None, now);
        }
    }

    pub(super) fn drop_connections(
        &mut self,
        failure: Failure,
        retry_in: Option<Duration>,
        now: Instant,
    ) {
        self.link = ConnectionPhase::Disconnected {
            retry_at: retry_in.map(|wait| now + wait),
        };
        self.counters.gaps += 1;
        // Who waits for a fence waits on: the next snapshot has what was committed before.
        let asked = self
            .fences
            .drain(..)
            .filter_map(|fence| fence.asked_by)
            .max();
        self.wanted = self.wanted.max(asked);
        self.work = None;
        self.reset_aux();
        self.looks.give_up();
        self.lag = None;
        self.next_heartbeat = None;
        for (at, table) in self.tables.iter_mut().enumerate() {
            if let Some(comparison) = table.comparison() {
                let question = comparison.question();
                let inconclusive = Some("a connection was lost".to_string());
                self.outputs.push_back(Output::ComparisonEnded {
                    table: TableId(at),
                    question,
                    inconclusive,
                    doubt: None,
                });
            }
            table.disconnect();
        }
        self.set_all_states(State::Disconnected);
        self.outputs
            .push_back(Output::Disconnected { failure, retry_in });
    }
}
