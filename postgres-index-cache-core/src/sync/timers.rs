//! [`Timers`]: every deadline of the engine, in one table.

use super::AuxConnection;
use std::time::Instant;

/// A deadline. The order of the variants is the order in which those that have expired are
/// handled: a lost probe says more than a lost fence, and both end the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// Fires when the probe of F or Q has not reached L. Set when the probe is asked for, and again
    /// when the server has committed it.
    Probe(AuxConnection),
    /// Fires when the fence that waits longest has not come back.
    Fence,
    /// Fires when F or Q, which was lost alone, is to be opened again.
    Reopen(AuxConnection),
    /// Fires when all connections, which were lost, are to be opened again.
    Reconnect,
    /// Fires when no fence was sent for a heartbeat.
    Heartbeat,
    /// Fires when the distance to a table's last read has passed, or the wait after a failed one.
    Read,
    /// Fires when a freeze has taken too long.
    Freeze,
    /// Fires when a row of a live table has been open for a heartbeat: the table is not live then.
    Behind,
}

impl Timer {
    /// Every timer, in the order of the variants.
    const ALL: [Self; 10] = [
        Self::Probe(AuxConnection::Fences),
        Self::Probe(AuxConnection::Reads),
        Self::Fence,
        Self::Reopen(AuxConnection::Fences),
        Self::Reopen(AuxConnection::Reads),
        Self::Reconnect,
        Self::Heartbeat,
        Self::Read,
        Self::Freeze,
        Self::Behind,
    ];

    /// Returns the place of the timer in [`Timers`].
    fn index(self) -> usize {
        match self {
            Self::Probe(AuxConnection::Fences) => 0,
            Self::Probe(AuxConnection::Reads) => 1,
            Self::Fence => 2,
            Self::Reopen(AuxConnection::Fences) => 3,
            Self::Reopen(AuxConnection::Reads) => 4,
            Self::Reconnect => 5,
            Self::Heartbeat => 6,
            Self::Read => 7,
            Self::Freeze => 8,
            Self::Behind => 9,
        }
    }
}

/// When each timer fires.
#[derive(Debug, Default)]
pub(super) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    /// Makes `timer` fire at `at`, or never with `None`.
    pub(super) fn set(&mut self, timer: Timer, at: impl Into<Option<Instant>>) {
        self.0[timer.index()] = at.into();
    }

    /// Makes `timer` fire never.
    pub(super) fn stop(&mut self, timer: Timer) {
        self.set(timer, None);
    }

    /// Stops every timer.
    pub(super) fn stop_all(&mut self) {
        *self = Self::default();
    }

    /// Returns whether `timer` is set.
    #[cfg(test)]
    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer.index()].is_some()
    }

    /// Returns when the next timer fires; `None` if none is set.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Stops and returns the first timer, in the order of [`Timer`], that has fired by `now`.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Timer> {
        // Stopped before it is handled: whoever handles the timer may set it again.
        let expired = Timer::ALL
            .into_iter()
            .find(|timer| self.0[timer.index()].is_some_and(|at| at <= now))?;
        self.stop(expired);
        Some(expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    // The order decides the error that is reported when a lost probe and a lost fence are due at
    // once; see `Timer`.
    #[test]
    fn expired_timers_are_taken_once_and_in_their_order() {
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let mut timers = Timers::default();
        assert_eq!(timers.next(), None);
        timers.set(Timer::Heartbeat, start);
        timers.set(Timer::Fence, later);
        timers.set(Timer::Probe(AuxConnection::Reads), start);
        assert_eq!(timers.next(), Some(start));
        let probe = Timer::Probe(AuxConnection::Reads);
        assert_eq!(timers.take_expired(start), Some(probe));
        assert_eq!(timers.take_expired(start), Some(Timer::Heartbeat));
        assert_eq!(timers.take_expired(start), None);
        assert_eq!(timers.next(), Some(later));
        timers.set(Timer::Fence, None);
        assert!(!timers.is_set(Timer::Fence));
    }

    #[test]
    fn every_timer_has_a_place_of_its_own() {
        for (at, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(timer.index(), at);
        }
    }
}
