//! [`Connections`]: where L, F and Q are, and the probes that prove F and Q.
//!
//! [`ConnectionPhase`] is about all three. While it is [`Following`](ConnectionPhase::Following), F
//! or Q can be lost alone ([`AuxPhase`]): the engine asks again for everything that the lost
//! connection carried, and nothing that is known of the tables becomes wrong meanwhile. If L is
//! lost, notifications are lost, so all three are opened again.
//!
//! ```text
//! Up ─ lost ─→ Lost ─ after a while ─→ Opening ─ it is open ─→ Probing ─ its token reached L ─→ Up
//! ```

use super::backoff::Backoff;
use super::rules::{Rule, Rules};
use super::streak::Streak;
use super::timers::{Timer, Timers};
use super::{AuxConnection, Limits, Output};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Where the three connections are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// Entered when a connection cannot be had or L is lost. Unless it is for good,
    /// [`Timer::Reconnect`] is set.
    Disconnected { for_good: bool },
    /// Entered when the driver was asked to connect and to LISTEN.
    Subscribing,
    /// Entered when LISTEN is committed: F and Q have each been asked to NOTIFY a token, at `since`.
    Probing { since: Instant },
    /// Entered when both tokens have reached L. F or Q may have been lost since: see [`AuxPhase`].
    Following,
}

/// Where F or Q is while L listens.
#[derive(Debug, Default)]
enum AuxPhase {
    /// Entered when the connection's token has reached L, and assumed before the first probe.
    #[default]
    Up,
    /// Entered when the connection is lost; [`Timer::Reopen`] is set.
    Lost,
    /// Entered when the driver was asked to open the connection again.
    Opening,
    /// Entered when the connection is open. Nothing that it says counts before `token` has reached
    /// L: it may be a session of another server. [`Timer::Probe`] is set.
    Probing {
        token: String,
        /// Whether the server has committed the NOTIFY.
        is_sent: bool,
    },
}

/// F or Q.
#[derive(Debug, Default)]
struct AuxState {
    phase: AuxPhase,
    backoff: Backoff,
    failures: Streak,
}

/// Draws the random part of waits (splitmix64). A wait needs no better randomness than a seed of
/// its own: it keeps the nodes of an application apart.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    /// Returns a number from 0 to 1.
    fn draw(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The three connections, as the engine knows them.
#[derive(Debug)]
pub(super) struct Connections {
    phase: ConnectionPhase,
    fences: AuxState,
    reads: AuxState,
    /// The wait before all three are opened again.
    backoff: Backoff,
    jitter: Jitter,
    /// The failures of attempts to open all three.
    failures: Streak,
    /// The channels on which the tables' triggers notify.
    channels: Vec<String>,
    /// The channels on which L listens: those above, and earlier ones that nobody needs any more.
    listened: Vec<String>,
    /// Whether the driver was asked to LISTEN on further channels, and has not said that it does.
    is_listening_also: bool,
    fence_channel: String,
    /// How many tokens were made.
    tokens: u64,
    rules: Rules,
}

/// F and Q.
const AUX_CONNECTIONS: [AuxConnection; 2] = [AuxConnection::Fences, AuxConnection::Reads];

/// What became of the channels on which the tables' triggers notify.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChannelChange {
    /// L listens on all of them, or will when it connects.
    None,
    /// The driver was asked to LISTEN on the new ones as well.
    ListensAlso,
    /// All three must be opened again in order to listen on them.
    NeedsReconnect,
}

impl Connections {
    /// Returns connections that are to be opened; `seed` is for the waits.
    pub(super) fn new(channels: Vec<String>, fence_channel: String, seed: u64) -> Self {
        Self {
            phase: ConnectionPhase::Disconnected { for_good: false },
            fences: AuxState::default(),
            reads: AuxState::default(),
            backoff: Backoff::default(),
            jitter: Jitter(seed),
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

    pub(super) fn phase(&self) -> ConnectionPhase {
        self.phase
    }

    pub(super) fn is_following(&self) -> bool {
        self.phase == ConnectionPhase::Following
    }

    /// Returns whether `channel` is the one for fences.
    pub(super) fn is_fence_channel(&self, channel: &str) -> bool {
        channel == self.fence_channel
    }

    /// Returns whether Q can be asked for something.
    ///
    /// While a LISTEN on a further channel is on its way Q must not read the table that is announced
    /// there: a change between the snapshot and the LISTEN would be lost.
    pub(super) fn can_read(&self) -> bool {
        self.is_following() && matches!(self.reads.phase, AuxPhase::Up) && !self.is_listening_also
    }

    /// Returns whether F can be asked for a look at the definitions.
    pub(super) fn can_look(&self) -> bool {
        self.is_following() && matches!(self.fences.phase, AuxPhase::Up)
    }

    fn aux(&mut self, connection: AuxConnection) -> &mut AuxState {
        match connection {
            AuxConnection::Fences => &mut self.fences,
            AuxConnection::Reads => &mut self.reads,
        }
    }

    /// Asks the driver to open all three connections.
    pub(super) fn connect(&mut self, outputs: &mut VecDeque<Output>) {
        self.phase = ConnectionPhase::Subscribing;
        self.listened.clone_from(&self.channels);
        self.is_listening_also = false;
        let mut channels = self.channels.clone();
        channels.push(self.fence_channel.clone());
        outputs.push_back(Output::Connect { channels });
    }

    /// Asks F and Q, which are open, to send a probe each. If `reads` is false there is no table
    /// and no Q.
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
        self.aux(connection).phase = AuxPhase::Probing {
            token: token.clone(),
            is_sent: false,
        };
        timers.set(Timer::Probe(connection), now + limits.send_timeout());
        self.notify(connection, token, outputs);
    }

    /// Returns a token that was never sent.
    pub(super) fn next_token(&mut self) -> String {
        self.tokens += 1;
        format!("{}.{}", self.fence_channel, self.tokens)
    }

    /// Asks `connection` to NOTIFY `token`, unless it is lost. The fences whose tokens were not sent
    /// are sent when the connection is back.
    pub(super) fn notify(
        &self,
        connection: AuxConnection,
        token: String,
        outputs: &mut VecDeque<Output>,
    ) {
        let state = match connection {
            AuxConnection::Fences => &self.fences,
            AuxConnection::Reads => &self.reads,
        };
        let can_send = match &state.phase {
            AuxPhase::Up => true,
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

    /// Returns the connection whose probe has this token.
    pub(super) fn prober(&self, token: &str) -> Option<AuxConnection> {
        let probes = |state: &AuxState| matches!(&state.phase, AuxPhase::Probing { token: probe, .. } if probe == token);
        if probes(&self.fences) {
            Some(AuxConnection::Fences)
        } else if probes(&self.reads) {
            Some(AuxConnection::Reads)
        } else {
            None
        }
    }

    /// Notes that a token has reached L. Returns the connection that it proves.
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
        // The backoff is left as it is until the connection has done something: a server that lets
        // it in and drops it at once would be asked without a pause otherwise.
        let state = self.aux(connection);
        state.phase = AuxPhase::Up;
        state.failures.reset();
    }

    /// If all connections are proven, enters [`ConnectionPhase::Following`] and returns when their
    /// probes were asked for.
    pub(super) fn follow_if_proven(&mut self) -> Option<Instant> {
        let ConnectionPhase::Probing { since } = self.phase else {
            return None;
        };
        let is_up = |state: &AuxState| matches!(state.phase, AuxPhase::Up);
        if !is_up(&self.fences) || !is_up(&self.reads) {
            return None;
        }
        self.phase = ConnectionPhase::Following;
        self.failures.reset();
        Some(since)
    }

    /// Notes that the server has committed the NOTIFY of `token` (`is_sent`), or has given it up and
    /// is asked again. Either way a probe has its time from now on.
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
            } = &mut self.aux(connection).phase
                && probe == token
            {
                *was_sent = is_sent;
                timers.set(Timer::Probe(connection), now + patience);
            }
        }
    }

    /// Returns whether the server has committed the probe of `connection`.
    pub(super) fn is_probe_sent(&self, connection: AuxConnection) -> bool {
        let state = match connection {
            AuxConnection::Fences => &self.fences,
            AuxConnection::Reads => &self.reads,
        };
        matches!(state.phase, AuxPhase::Probing { is_sent: true, .. })
    }

    /// Returns whether F or Q is open, so that its loss is news.
    pub(super) fn is_open(&mut self, connection: AuxConnection) -> bool {
        matches!(
            self.aux(connection).phase,
            AuxPhase::Up | AuxPhase::Probing { .. }
        )
    }

    /// Notes that F or Q is lost, or could not be opened; it is opened again after the wait that is
    /// returned.
    pub(super) fn reopen_later(
        &mut self,
        connection: AuxConnection,
        timers: &mut Timers,
        now: Instant,
    ) -> Duration {
        let random = self.jitter.draw();
        let state = self.aux(connection);
        let wait = state.backoff.next(random);
        state.phase = AuxPhase::Lost;
        timers.stop(Timer::Probe(connection));
        timers.set(Timer::Reopen(connection), now + wait);
        wait
    }

    /// Asks the driver to open F or Q again, if it is lost.
    pub(super) fn reopen(&mut self, connection: AuxConnection, outputs: &mut VecDeque<Output>) {
        let state = self.aux(connection);
        if matches!(state.phase, AuxPhase::Lost) {
            state.phase = AuxPhase::Opening;
            outputs.push_back(Output::Reopen { via: connection });
        }
    }

    /// Returns whether the driver was asked to open F or Q again, and has not answered.
    pub(super) fn is_opening(&mut self, connection: AuxConnection) -> bool {
        matches!(self.aux(connection).phase, AuxPhase::Opening)
    }

    /// F or Q is open again: asks for its probe. Returns true if it needs none, which only a test
    /// brings about.
    pub(super) fn reopened(
        &mut self,
        connection: AuxConnection,
        limits: &Limits,
        timers: &mut Timers,
        outputs: &mut VecDeque<Output>,
        now: Instant,
    ) -> bool {
        if self.rules.keeps(Rule::Probe) {
            self.start_probe(connection, limits, timers, outputs, now);
            return false;
        }
        self.set_up(connection);
        true
    }

    /// Notes a failed attempt to open F or Q alone, and returns whether it is a refusal.
    pub(super) fn is_reopen_refused(
        &mut self,
        connection: AuxConnection,
        code: Option<String>,
    ) -> bool {
        self.aux(connection).failures.is_refusal(code)
    }

    /// Notes a failed attempt to open all three, and returns whether it is a refusal.
    pub(super) fn is_connect_refused(&mut self, code: Option<String>) -> bool {
        self.failures.is_refusal(code)
    }

    /// Notes that F or Q has done something: the wait after its next loss is short again.
    pub(super) fn has_worked(&mut self, connection: AuxConnection) {
        self.aux(connection).backoff.reset();
    }

    /// Notes that every table is live: the wait after the next loss of L is short again.
    pub(super) fn all_is_live(&mut self) {
        self.backoff.reset();
    }

    /// Returns the wait before all three are opened again.
    pub(super) fn next_wait(&mut self) -> Duration {
        let random = self.jitter.draw();
        self.backoff.next(random)
    }

    /// Returns a number from 0 to 1.
    pub(super) fn draw(&mut self) -> f64 {
        self.jitter.draw()
    }

    /// Notes that all connections are lost or to be dropped.
    pub(super) fn disconnect(&mut self, for_good: bool) {
        self.phase = ConnectionPhase::Disconnected { for_good };
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
        let is_new = |channel: &&String| !self.listened.contains(channel);
        let new: Vec<String> = self.channels.iter().filter(is_new).cloned().collect();
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

    #[test]
    fn waits_depend_on_the_seed_alone() {
        let waits = |seed| {
            let mut connections = Connections::new(Vec::new(), String::new(), seed);
            (0..8).map(|_| connections.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
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
