//! [`Connections`]: how far L, F and Q are, and the probes that prove F and Q.
//!
//! [`ConnectionPhase`] is about all three. In the phase [`Following`](ConnectionPhase::Following) F
//! or Q can be lost alone ([`AuxPhase`]). The engine then asks again for everything that the lost
//! connection carried, and nothing that is known of the tables becomes wrong meanwhile. If L is
//! lost, notifications are lost, so all three are opened again.
//!
//! ```text
//! Up ─ lost ─→ Lost ─ after a while ─→ Opening ─ open ─→ Probing ─ the token reached L ─→ Up
//! ```
//!
//! A probe is a token that F or Q notifies and L must receive. A pooler, a standby or another
//! server in between does not pass the token on, so nothing that the connection says counts before
//! that.

use super::backoff::Backoff;
use super::rules::{Rule, Rules};
use super::streak::Streak;
use super::timers::{Timer, Timers};
use super::{AuxConnection, Limits, Output};
use crate::split_mix::SplitMix;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far the three connections are, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// Entered when a connection cannot be opened or L is lost. [`Timer::Reconnect`] is set, unless
    /// the engine has ended (`for_good`).
    Disconnected { for_good: bool },
    /// Entered when the driver was asked to connect and to LISTEN.
    Subscribing,
    /// Entered when LISTEN is committed, at `since`. F and Q have each been asked to NOTIFY a
    /// token.
    Probing { since: Instant },
    /// Entered when both tokens have reached L. F or Q may have been lost since: see [`AuxPhase`].
    Following,
}

/// How far F or Q is while L listens.
#[derive(Debug, Default)]
enum AuxPhase {
    /// Entered when the connection's token has reached L, and assumed before the first probe.
    #[default]
    Up,
    /// Entered when the connection is lost; [`Timer::Reopen`] is set.
    Lost,
    /// Entered when the driver was asked to open the connection again.
    Opening,
    /// Entered when the connection is open. Nothing that the connection says counts before `token`
    /// has reached L: the session may be another server's. [`Timer::Probe`] is set.
    Probing {
        token: String,
        /// Whether the server has committed the NOTIFY.
        is_sent: bool,
    },
}

/// State of F or Q.
#[derive(Debug, Default)]
struct AuxState {
    phase: AuxPhase,
    /// The wait before this connection is opened again.
    backoff: Backoff,
    /// The failures of attempts to open this connection alone.
    failures: Streak,
}

/// The three connections, as the engine knows them.
#[derive(Debug)]
pub(super) struct Connections {
    phase: ConnectionPhase,
    fences: AuxState,
    reads: AuxState,
    /// The wait before all three are opened again.
    backoff: Backoff,
    jitter: SplitMix,
    /// The failures of attempts to open all three.
    failures: Streak,
    /// The channels on which the tables' triggers notify.
    channels: Vec<String>,
    /// The channels on which L listens: those of `channels` that the driver has asked for, and
    /// earlier ones that no table needs any more.
    listened: Vec<String>,
    /// Whether the driver was asked to LISTEN on further channels and has not answered yet.
    is_listening_also: bool,
    fence_channel: String,
    /// How many tokens were made. Each token has its number, so none is made twice.
    tokens: u64,
    rules: Rules,
}

/// The connections that have a probe.
const AUX_CONNECTIONS: [AuxConnection; 2] = [AuxConnection::Fences, AuxConnection::Reads];

/// Effect of a change of the channels on which the tables' triggers notify.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChannelChange {
    /// L listens on all of them, or will when it connects.
    None,
    /// The driver was asked to LISTEN on the new ones as well.
    ListensAlso,
    /// All three connections must be opened again in order to listen on the new channels.
    NeedsReconnect,
}

impl Connections {
    /// Returns connections that are to be opened. `seed` decides the random part of waits.
    pub(super) fn new(channels: Vec<String>, fence_channel: String, seed: u64) -> Self {
        Self {
            phase: ConnectionPhase::Disconnected { for_good: false },
            fences: AuxState::default(),
            reads: AuxState::default(),
            backoff: Backoff::default(),
            jitter: SplitMix::new(seed),
            failures: Streak::default(),
            channels,
            listened: Vec::new(),
            is_listening_also: false,
            fence_channel,
            tokens: 0,
            rules: Rules::default(),
        }
    }

    /// Sets which rules are in force.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Returns how far the connections are.
    pub(super) fn phase(&self) -> ConnectionPhase {
        self.phase
    }

    /// Returns whether L listens and F and Q have been proven.
    pub(super) fn is_following(&self) -> bool {
        self.phase == ConnectionPhase::Following
    }

    /// Returns whether `channel` is the fence channel.
    pub(super) fn is_fence_channel(&self, channel: &str) -> bool {
        channel == self.fence_channel
    }

    /// Returns whether Q can be asked to read.
    ///
    /// False while a LISTEN on a further channel is on its way. Without this:
    /// 1. Q takes the snapshot of a table whose trigger notifies on the new channel.
    /// 2. A transaction changes the table. Nobody listens, so its notification is lost.
    /// 3. The LISTEN is committed, and the table is called live without that change.
    pub(super) fn can_read(&self) -> bool {
        self.is_following() && matches!(self.reads.phase, AuxPhase::Up) && !self.is_listening_also
    }

    /// Returns whether F can be asked for a look at the definitions.
    pub(super) fn can_look(&self) -> bool {
        self.is_following() && matches!(self.fences.phase, AuxPhase::Up)
    }

    fn aux(&self, connection: AuxConnection) -> &AuxState {
        match connection {
            AuxConnection::Fences => &self.fences,
            AuxConnection::Reads => &self.reads,
        }
    }

    fn aux_mut(&mut self, connection: AuxConnection) -> &mut AuxState {
        match connection {
            AuxConnection::Fences => &mut self.fences,
            AuxConnection::Reads => &mut self.reads,
        }
    }

    /// Asks the driver to open all three connections.
    pub(super) fn connect(&mut self, outputs: &mut VecDeque<Output>) {
        self.phase = ConnectionPhase::Subscribing;
        // A new session listens on nothing, so a LISTEN that was on its way does not matter any
        // more.
        self.listened.clone_from(&self.channels);
        self.is_listening_also = false;
        let mut channels = self.channels.clone();
        channels.push(self.fence_channel.clone());
        outputs.push_back(Output::Connect { channels });
    }

    /// Asks F and Q, which are open, to send a probe each. If `reads` is false, there is no table
    /// and no Q, and F alone is probed.
    pub(super) fn probe(
        &mut self,
        reads: bool,
        limits: &Limits,
        timers: &mut Timers,
        outputs: &mut VecDeque<Output>,
        now: Instant,
    ) {
        self.phase = ConnectionPhase::Probing { since: now };
        self.start_probe(AuxConnection::Fences, limits, timers, outputs, now);
        if reads {
            self.start_probe(AuxConnection::Reads, limits, timers, outputs, now);
        }
    }

    fn start_probe(
        &mut self,
        connection: AuxConnection,
        limits: &Limits,
        timers: &mut Timers,
        outputs: &mut VecDeque<Output>,
        now: Instant,
    ) {
        let token = self.next_token();
        self.aux_mut(connection).phase = AuxPhase::Probing {
            token: token.clone(),
            is_sent: false,
        };
        timers.set(Timer::Probe(connection), now + limits.send_timeout());
        self.notify(connection, token, outputs);
    }

    /// Makes a token that was never sent.
    pub(super) fn next_token(&mut self) -> String {
        self.tokens += 1;
        format!("{}.{}", self.fence_channel, self.tokens)
    }

    /// Asks `connection` to NOTIFY `token`, unless the connection is lost or not proven. The fences
    /// whose tokens were not sent are sent when the connection is back.
    pub(super) fn notify(
        &self,
        connection: AuxConnection,
        token: String,
        outputs: &mut VecDeque<Output>,
    ) {
        let can_send = match &self.aux(connection).phase {
            AuxPhase::Up => true,
            // Rule::Probe: the session may be another server's, so only its probe is sent.
            AuxPhase::Probing { token: probe, .. } => *probe == token,
            AuxPhase::Lost | AuxPhase::Opening => false,
        };
        if can_send {
            outputs.push_back(Output::Notify {
                via: connection,
                channel: self.fence_channel.clone(),
                token,
            });
        }
    }

    /// Returns the connection whose probe has this token; `None` if it is no awaited probe.
    pub(super) fn prober(&self, token: &str) -> Option<AuxConnection> {
        AUX_CONNECTIONS
            .into_iter()
            .find(|connection| match &self.aux(*connection).phase {
                AuxPhase::Probing { token: probe, .. } => probe == token,
                AuxPhase::Up | AuxPhase::Lost | AuxPhase::Opening => false,
            })
    }

    /// Notes that a token has reached L. Returns the connection that the token proves; `None` if
    /// the token is no awaited probe.
    pub(super) fn probe_arrived(
        &mut self,
        token: &str,
        timers: &mut Timers,
    ) -> Option<AuxConnection> {
        let proven = self.prober(token)?;
        timers.stop(Timer::Probe(proven));
        self.set_up(proven);
        Some(proven)
    }

    fn set_up(&mut self, connection: AuxConnection) {
        // The backoff is reset once the connection has done something, not here. Without this:
        // 1. A server or proxy accepts the connection, passes the probe, and ends each read.
        // 2. The connection is opened again after the shortest wait, for ever.
        let state = self.aux_mut(connection);
        state.phase = AuxPhase::Up;
        state.failures.reset();
    }

    /// Enters [`ConnectionPhase::Following`] if all connections are proven. Returns when their
    /// probes were asked for, or `None` if the phase stays.
    pub(super) fn follow_if_proven(&mut self) -> Option<Instant> {
        let ConnectionPhase::Probing { since } = self.phase else {
            return None;
        };
        let is_proven = AUX_CONNECTIONS
            .into_iter()
            .all(|connection| matches!(self.aux(connection).phase, AuxPhase::Up));
        if !is_proven {
            return None;
        }
        self.phase = ConnectionPhase::Following;
        self.failures.reset();
        Some(since)
    }

    /// Notes that the server has committed the NOTIFY of `token` (`is_sent`), or has given it up
    /// and is asked again. Either way the time of a probe with this token begins anew.
    pub(super) fn restart_probe(
        &mut self,
        token: &str,
        is_sent: bool,
        limits: &Limits,
        timers: &mut Timers,
        now: Instant,
    ) {
        let patience = if is_sent {
            limits.probe_timeout
        } else {
            limits.send_timeout()
        };
        for connection in AUX_CONNECTIONS {
            if let AuxPhase::Probing {
                token: probe,
                is_sent: was_sent,
            } = &mut self.aux_mut(connection).phase
                && probe == token
            {
                *was_sent = is_sent;
                timers.set(Timer::Probe(connection), now + patience);
            }
        }
    }

    /// Returns whether the server has committed the probe of `connection`.
    pub(super) fn is_probe_sent(&self, connection: AuxConnection) -> bool {
        matches!(
            self.aux(connection).phase,
            AuxPhase::Probing { is_sent: true, .. }
        )
    }

    /// Returns whether F or Q is open, so that a loss is news.
    pub(super) fn is_open(&self, connection: AuxConnection) -> bool {
        matches!(
            self.aux(connection).phase,
            AuxPhase::Up | AuxPhase::Probing { .. }
        )
    }

    /// Notes that F or Q is lost, or could not be opened. Returns the wait until the connection is
    /// opened again.
    pub(super) fn reopen_later(
        &mut self,
        connection: AuxConnection,
        timers: &mut Timers,
        now: Instant,
    ) -> Duration {
        let random = self.jitter.share();
        let state = self.aux_mut(connection);
        let wait = state.backoff.next(random);
        state.phase = AuxPhase::Lost;
        timers.stop(Timer::Probe(connection));
        timers.set(Timer::Reopen(connection), now + wait);
        wait
    }

    /// Asks the driver to open F or Q again, if that connection is lost.
    pub(super) fn reopen(&mut self, connection: AuxConnection, outputs: &mut VecDeque<Output>) {
        let state = self.aux_mut(connection);
        if matches!(state.phase, AuxPhase::Lost) {
            state.phase = AuxPhase::Opening;
            outputs.push_back(Output::Reopen { via: connection });
        }
    }

    /// Returns whether the driver was asked to open F or Q again, and has not answered.
    pub(super) fn is_opening(&self, connection: AuxConnection) -> bool {
        matches!(self.aux(connection).phase, AuxPhase::Opening)
    }

    /// Asks F or Q, which is open again, for a probe. Returns true if the connection counts without
    /// a probe, which happens only in a test that disables the rule.
    pub(super) fn reopened(
        &mut self,
        connection: AuxConnection,
        limits: &Limits,
        timers: &mut Timers,
        outputs: &mut VecDeque<Output>,
        now: Instant,
    ) -> bool {
        // Rule::Probe. Without this:
        // 1. After a failover Q is opened again, and reaches another server than L does.
        // 2. Q reads rows from that server, which lags behind, and they are stored.
        // 3. Fences come back through F and L as always, so the table is called live with old rows.
        if self.rules.keeps(Rule::Probe) {
            self.start_probe(connection, limits, timers, outputs, now);
            return false;
        }
        self.set_up(connection);
        true
    }

    /// Notes a failed attempt to open F or Q alone. Returns whether the failure is a refusal; see
    /// [`Streak`].
    pub(super) fn note_reopen_failure(
        &mut self,
        connection: AuxConnection,
        code: Option<String>,
    ) -> bool {
        self.aux_mut(connection).failures.is_refusal(code)
    }

    /// Notes a failed attempt to open all three. Returns whether the failure is a refusal; see
    /// [`Streak`].
    pub(super) fn note_connect_failure(&mut self, code: Option<String>) -> bool {
        self.failures.is_refusal(code)
    }

    /// Notes that F or Q has done something: the wait after the next loss is short again.
    pub(super) fn has_worked(&mut self, connection: AuxConnection) {
        self.aux_mut(connection).backoff.reset();
    }

    /// Notes that every table is live: the wait after the next loss of L is short again.
    pub(super) fn note_all_live(&mut self) {
        self.backoff.reset();
    }

    /// Returns the wait before all three are opened again.
    pub(super) fn next_wait(&mut self) -> Duration {
        let random = self.jitter.share();
        self.backoff.next(random)
    }

    /// Draws a random number from 0 to 1.
    pub(super) fn draw(&mut self) -> f64 {
        self.jitter.share()
    }

    /// Notes that all connections are lost or to be dropped; `for_good` if the engine has ended.
    pub(super) fn disconnect(&mut self, for_good: bool) {
        self.phase = ConnectionPhase::Disconnected { for_good };
        // F and Q begin afresh, with a short wait: the wait before all three has its own backoff.
        self.fences = AuxState::default();
        self.reads = AuxState::default();
    }

    /// Notes that the tables' triggers notify on `channels` from now on, and asks the driver to
    /// LISTEN on those that are new. A channel that nobody needs any more does no harm until the
    /// connections are opened again.
    pub(super) fn change_channels(
        &mut self,
        channels: Vec<String>,
        outputs: &mut VecDeque<Output>,
    ) -> ChannelChange {
        self.channels = channels;
        let new: Vec<String> = self
            .channels
            .iter()
            .filter(|channel| !self.listened.contains(channel))
            .cloned()
            .collect();
        match self.phase {
            _ if new.is_empty() => ChannelChange::None,
            ConnectionPhase::Following if !self.is_listening_also => {
                self.listened.extend(new.iter().cloned());
                self.is_listening_also = true;
                outputs.push_back(Output::ListenAlso { channels: new });
                ChannelChange::ListensAlso
            }
            // Nothing is live yet, or another LISTEN is on its way: rare enough to begin anew.
            ConnectionPhase::Following
            | ConnectionPhase::Subscribing
            | ConnectionPhase::Probing { .. } => ChannelChange::NeedsReconnect,
            // L will listen on all of them when it connects.
            ConnectionPhase::Disconnected { .. } => ChannelChange::None,
        }
    }

    /// Notes that L listens on the further channels.
    pub(super) fn listens_also(&mut self) {
        self.is_listening_also = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns connections that are all proven.
    fn connected(timers: &mut Timers, now: Instant) -> Connections {
        let limits = Limits::default();
        let mut outputs = VecDeque::new();
        let mut connections = Connections::new(vec!["c".into()], "fences".into(), 7);
        connections.connect(&mut outputs);
        connections.probe(true, &limits, timers, &mut outputs, now);
        for token in ["fences.1", "fences.2"] {
            assert!(connections.probe_arrived(token, timers).is_some());
        }
        assert_eq!(connections.follow_if_proven(), Some(now));
        connections
    }

    // Rule::Probe: the session that was opened again may be another server's.
    #[test]
    fn a_connection_that_was_opened_again_is_used_only_once_its_probe_has_arrived() {
        let now = Instant::now();
        let limits = Limits::default();
        let mut timers = Timers::default();
        let mut outputs = VecDeque::new();
        let mut connections = connected(&mut timers, now);
        assert!(connections.can_read());
        let wait = connections.reopen_later(AuxConnection::Reads, &mut timers, now);
        assert_eq!(timers.next(), Some(now + wait));
        assert!(!connections.can_read() && connections.can_look());
        connections.reopen(AuxConnection::Reads, &mut outputs);
        assert!(connections.is_opening(AuxConnection::Reads));
        connections.reopened(
            AuxConnection::Reads,
            &limits,
            &mut timers,
            &mut outputs,
            now,
        );
        assert!(!connections.can_read());
        assert_eq!(connections.prober("fences.3"), Some(AuxConnection::Reads));
        connections.probe_arrived("fences.3", &mut timers);
        assert!(connections.can_read());
        assert!(!timers.is_set(Timer::Probe(AuxConnection::Reads)));
    }

    fn waits(seed: u64) -> Vec<Duration> {
        let mut connections = Connections::new(Vec::new(), String::new(), seed);
        (0..8).map(|_| connections.next_wait()).collect()
    }

    // A failing seed of the simulation must fail again, and nodes must not come back all at once.
    #[test]
    fn waits_depend_on_the_seed_alone() {
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }

    #[test]
    fn a_fence_is_not_sent_by_a_connection_that_is_not_proven() {
        let now = Instant::now();
        let limits = Limits::default();
        let mut timers = Timers::default();
        let mut outputs = VecDeque::new();
        let mut connections = connected(&mut timers, now);
        connections.reopen_later(AuxConnection::Fences, &mut timers, now);
        connections.notify(AuxConnection::Fences, "fences.9".into(), &mut outputs);
        assert!(outputs.is_empty(), "it is lost");
        connections.reopen(AuxConnection::Fences, &mut outputs);
        outputs.clear();
        connections.reopened(
            AuxConnection::Fences,
            &limits,
            &mut timers,
            &mut outputs,
            now,
        );
        connections.notify(AuxConnection::Fences, "fences.9".into(), &mut outputs);
        let sent: Vec<&str> = outputs
            .iter()
            .filter_map(|output| match output {
                Output::Notify { token, .. } => Some(token.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(sent, ["fences.3"], "the probe alone");
    }

    // The server may hold a NOTIFY up behind other commits, so the time to come back begins when it
    // has committed the NOTIFY.
    #[test]
    fn the_time_of_a_probe_begins_anew_when_it_is_sent_or_blocked() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let limits = Limits::default();
        let mut timers = Timers::default();
        let mut outputs = VecDeque::new();
        let mut connections = Connections::new(Vec::new(), "fences".into(), 7);
        connections.connect(&mut outputs);
        connections.probe(false, &limits, &mut timers, &mut outputs, start);
        assert_eq!(timers.next(), Some(start + limits.send_timeout()));
        connections.restart_probe("fences.1", false, &limits, &mut timers, later);
        assert_eq!(timers.next(), Some(later + limits.send_timeout()));
        assert!(!connections.is_probe_sent(AuxConnection::Fences));
        connections.restart_probe("fences.1", true, &limits, &mut timers, later);
        assert_eq!(timers.next(), Some(later + limits.probe_timeout));
        assert!(connections.is_probe_sent(AuxConnection::Fences));
        connections.restart_probe("forged", true, &limits, &mut timers, start);
        assert_eq!(timers.next(), Some(later + limits.probe_timeout));
    }

    #[test]
    fn without_tables_there_is_no_connection_for_reading_to_prove() {
        let now = Instant::now();
        let limits = Limits::default();
        let mut timers = Timers::default();
        let mut outputs = VecDeque::new();
        let mut connections = Connections::new(Vec::new(), "fences".into(), 7);
        connections.connect(&mut outputs);
        connections.probe(false, &limits, &mut timers, &mut outputs, now);
        assert_eq!(connections.follow_if_proven(), None);
        connections.probe_arrived("fences.1", &mut timers);
        assert_eq!(connections.follow_if_proven(), Some(now));
    }

    // Without this a session that is let in and dropped would be opened without a pause.
    #[test]
    fn a_wait_is_short_again_only_once_the_connection_has_worked() {
        let now = Instant::now();
        let mut timers = Timers::default();
        let mut connections = connected(&mut timers, now);
        for _ in 0..3 {
            connections.reopen_later(AuxConnection::Reads, &mut timers, now);
            connections.set_up(AuxConnection::Reads);
        }
        let mut grown = connections.reads.backoff;
        assert_eq!(grown.next(1.0), Duration::from_millis(800));
        connections.has_worked(AuxConnection::Reads);
        let mut short = connections.reads.backoff;
        assert_eq!(short.next(1.0), Duration::from_millis(100));
    }

    #[test]
    fn nothing_is_read_between_a_new_channel_and_its_listen() {
        let mut timers = Timers::default();
        let mut outputs = VecDeque::new();
        let mut connections = connected(&mut timers, Instant::now());
        let channels = vec!["c".to_string(), "d".to_string()];
        let change = connections.change_channels(channels.clone(), &mut outputs);
        assert_eq!(change, ChannelChange::ListensAlso);
        assert!(!connections.can_read());
        let again = vec!["c".to_string(), "e".to_string()];
        let change = connections.change_channels(again, &mut outputs);
        assert_eq!(change, ChannelChange::NeedsReconnect);
        connections.listens_also();
        assert!(connections.can_read());
        let change = connections.change_channels(channels, &mut outputs);
        assert_eq!(change, ChannelChange::None);
    }
}
