//! [`Reloads`]: the reads of a table that something asks for, and the distance that they keep.
//!
//! Any role can ask for a reload by a notification, without a privilege and as often as it likes.
//! So reads keep a distance, which grows while they find nothing.

use super::{EngineTable, Phase, ReloadRequest};
use std::time::{Duration, Instant};

/// The reads of a table that something asks for, and the distance that they keep.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    /// The last read of the table; `None` before the first.
    last: Option<LastRead>,
    /// How many reads in a row have changed nothing in the cache.
    fruitless: u32,
    /// When the table, which is followed until then, is read because a notification asks for that.
    due: Option<Instant>,
    /// The request of a notification that came while the table was read.
    meanwhile: Option<ReloadRequest>,
}

/// Time of a read.
#[derive(Debug, Clone, Copy)]
struct LastRead {
    ended: Instant,
    took: Duration,
}

impl Reloads {
    /// Notes a read that took from `started` to `now`, and whether the cache had other rows before.
    pub(super) fn finished(&mut self, started: Instant, has_changed: bool, now: Instant) {
        self.last = Some(LastRead {
            ended: now,
            took: now.saturating_duration_since(started),
        });
        self.fruitless = if has_changed {
            0
        } else {
            self.fruitless.saturating_add(1)
        };
    }

    /// Returns when the table may be read again for an event that is sure to have happened; `None`
    /// for at once.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.spaced(0, now)
    }

    /// Returns when the table may be read again for the request of a notification, which any role
    /// can send; `None` for at once.
    pub(super) fn next_asked_for(&self, now: Instant) -> Option<Instant> {
        self.spaced(self.fruitless, now)
    }

    /// Returns the end of the distance to the last read; `None` if that has passed. The distance is
    /// twice the duration of the last read, and doubles with each read that has changed nothing.
    fn spaced(&self, fruitless: u32, now: Instant) -> Option<Instant> {
        /// The longest distance that comes of doubling.
        const LONGEST: Duration = Duration::from_secs(60);
        /// The least duration that is doubled: a read of a small table takes next to no time, and
        /// so would its doubles.
        const SHORTEST: Duration = Duration::from_millis(10);
        let LastRead { ended, took } = self.last?;
        let distance = match fruitless {
            0 => 2 * took,
            times => took
                .max(SHORTEST)
                .saturating_mul(2_u32.saturating_pow(times.saturating_add(1))),
        };
        // A read that takes long keeps its distance beyond the bound, so that the server is not
        // busy with the table all the time.
        let distance = distance.min(LONGEST.max(2 * took));
        Some(ended + distance).filter(|at| *at > now)
    }

    /// Returns the earliest time of a read for which a caller waits. The distance is the duration
    /// of the last read, so the server is busy with the table half of the time at most.
    fn soon(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| last.ended + last.took)
    }

    /// Returns when the table, which is followed until then, is to be read again; `None` if no
    /// notification asks for that.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Forgets the requests, which a read that is asked for from now on answers.
    pub(super) fn forget_requests(&mut self) {
        self.due = None;
        self.meanwhile = None;
    }
}

impl EngineTable {
    /// Makes the table be read again. Returns whether that was not due already.
    pub(in crate::sync) fn schedule_read(&mut self, why: &str, now: Instant) -> bool {
        // While the table is being read, the change in question came before the read was asked for.
        // So the read sees the change.
        if !self.is_following() {
            return false;
        }
        self.cause = why.to_string();
        self.become_due(self.reloads.next(now));
        true
    }

    /// Notes that a notification asks for the table to be reloaded. Returns whether that is news.
    ///
    /// The table is followed as it was until the read, since the request may be for nothing, and is
    /// not live meanwhile. Reads keep a distance. Without this:
    /// 1. Ten notifications a second ask for a reload.
    /// 2. The table is read without end.
    /// 3. The table is never live, nobody gets an answer, and the server does nothing else.
    pub(in crate::sync) fn want_reload(&mut self, request: ReloadRequest, now: Instant) -> bool {
        match &self.phase {
            Phase::Due { .. } | Phase::Held => false,
            Phase::Reading { .. } => {
                self.reloads.meanwhile.get_or_insert(request);
                false
            }
            Phase::Following { .. } if self.reloads.due.is_some() => false,
            Phase::Following { .. } => {
                self.cause = request.to_string();
                match self.reloads.next_asked_for(now) {
                    None => self.become_due(self.reloads.next(now)),
                    at => self.reloads.due = at,
                }
                true
            }
        }
    }

    /// Returns whether a request to reload would make the table be read without a wait.
    pub(in crate::sync) fn would_reload_at_once(&self, now: Instant) -> bool {
        self.is_following()
            && self.reloads.due.is_none()
            && self.reloads.next_asked_for(now).is_none()
    }

    /// Returns whether the table is followed and waits to be reloaded.
    pub(in crate::sync) fn is_reload_due(&self) -> bool {
        self.reloads.due.is_some()
    }

    /// Takes the request to reload that came while the table was read.
    pub(in crate::sync) fn take_request(&mut self) -> Option<ReloadRequest> {
        self.reloads.meanwhile.take()
    }

    /// Brings the read that is due forward for a caller who waits.
    pub(in crate::sync) fn hurry(&mut self, now: Instant) {
        let soon = self.reloads.soon(now);
        match &mut self.phase {
            Phase::Following { .. } => {
                self.reloads.due = self.reloads.due.map(|at| at.min(soon));
            }
            // After a failed read the wait stands: to ask again at once would fail again.
            Phase::Due {
                not_before: Some(at),
            } if !self.is_failing => *at = (*at).min(soon),
            Phase::Due { .. } | Phase::Held | Phase::Reading { .. } => {}
        }
    }

    /// Makes the table be read in place of rows that cannot be refetched or trusted. Returns
    /// whether that was not due already.
    pub(in crate::sync) fn read_instead(&mut self, request: &ReloadRequest, now: Instant) -> bool {
        if !self.is_following() {
            return false;
        }
        self.cause = request.to_string();
        self.become_due(self.reloads.next_asked_for(now));
        true
    }

    /// Returns the server's process whose notifications have asked for the rows that are being
    /// refetched; `None` if several processes have.
    pub(in crate::sync) fn sender_of_refetch(&self) -> Option<i32> {
        self.refetches.sender()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the seconds from `end` until a request would be fulfilled.
    fn wait(reloads: &Reloads, end: Instant) -> u64 {
        let at = reloads.next_asked_for(end).expect("there is a distance");
        at.duration_since(end).as_secs()
    }

    // Anybody can ask for reads: those that find nothing must cost an ever smaller share.
    #[test]
    fn reads_that_find_nothing_are_ever_farther_apart() {
        let start = Instant::now();
        let end = start + Duration::from_secs(1);
        let mut reloads = Reloads::default();
        assert_eq!(reloads.next_asked_for(start), None, "nothing was read yet");
        reloads.finished(start, true, end);
        assert_eq!(wait(&reloads, end), 2);
        let mut waits = Vec::new();
        for _ in 0..6 {
            reloads.finished(start, false, end);
            waits.push(wait(&reloads, end));
        }
        assert_eq!(waits, [4, 8, 16, 32, 60, 60]);
        reloads.finished(start, true, end);
        assert_eq!(wait(&reloads, end), 2);
    }
}
