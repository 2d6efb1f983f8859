//! W4: how a [`Writer`] finds out which of its entries are stored, and goes on.

use super::{Message, Phase, Recovered, Writer, WriterOutput};
use crate::log::follower::{Follower, NoImage, Took};
use crate::log::position::{Place, Position};
use crate::log::rules::Rule;
use std::time::Instant;

impl Writer {
    /// Asks for the log from the last stored entry on.
    pub(super) fn recover(&mut self) {
        self.phase = Phase::Recovering;
        self.round += 1;
        let own = self.kept.iter().rev().filter_map(|kept| {
            let position = kept.entry.position;
            kept.stored.map(|sequence| Place { sequence, position })
        });
        let base = self.base.map(|base| base.seen);
        self.outputs.push_back(WriterOutput::Recover {
            round: self.round,
            places: own.chain(base).collect(),
        });
    }

    /// Goes on after a recovery: appends the rest again, begins anew, or steps down.
    pub(super) fn recovered(&mut self, found: &Recovered, now: Instant) {
        if found.end.is_some_and(|end| self.is_passed_by(end)) {
            return self.step_down();
        }
        let Some(first) = found.messages.first() else {
            return self.recovered_nothing(found.end, now);
        };
        let place = Place {
            sequence: first.sequence,
            position: first.entry.position,
        };
        let position = match self.base {
            Some(base) if base.seen == place => base.position,
            _ => place.position,
        };
        let mut follower = Follower::at(position, place);
        let mut stored = Vec::new();
        if place.position.epoch == self.epoch {
            stored.push(place);
        }
        for Message { sequence, entry } in &found.messages {
            let before = follower.position();
            match follower.take(*sequence, entry, &mut NoImage) {
                Took::Applied | Took::Ignored | Took::Differs => {}
                Took::Hole => return self.begin_anew(found.end, now),
                Took::Lost => return self.step_down(),
            }
            if follower.position() != before && entry.position.epoch == self.epoch {
                stored.push(Place {
                    sequence: *sequence,
                    position: entry.position,
                });
            }
        }
        let at = follower.position().unwrap_or(position);
        let is_others = at.epoch != self.epoch && at != position;
        if is_others {
            return self.step_down();
        }
        let next = if at.epoch == self.epoch {
            at.number + 1
        } else {
            1
        };
        self.append_again(next, &stored, found.end, now);
    }

    /// Goes on after a recovery that has found none of the known places.
    fn recovered_nothing(&mut self, end: Option<Position>, now: Instant) {
        let is_own_begin = self
            .kept
            .front()
            .is_some_and(|kept| kept.entry.position.number == 1);
        if self.base.is_none() && self.stored.is_none() && is_own_begin {
            // As far as is known nothing is stored. Where a term without predecessor begins does
            // not matter. If its begin is stored after all, a further one is the shortest way on.
            if end.is_some_and(|end| end.epoch == self.epoch) {
                return self.begin_anew(end, now);
            }
            return self.append_again(1, &[], end, now);
        }
        // Rule::ResetWhenLost
        if self.rules.keeps(Rule::ResetWhenLost) {
            return self.begin_anew(end, now);
        }
        self.behind = end;
        self.phase = Phase::Sending;
    }

    /// Returns whether an entry is of somebody else's term, which is later than this one or has its
    /// number, and has begun since this one.
    fn is_passed_by(&self, entry: Position) -> bool {
        let is_of_base = self.base.is_some_and(|base| base.seen.position == entry);
        let is_later = entry.epoch.number >= self.epoch.number;
        is_later && entry.epoch != self.epoch && !is_of_base
    }

    /// Appends again all entries from number `next` on, behind the log's last entry. Entries before
    /// that are stored, at the places `stored` as far as they were read.
    fn append_again(&mut self, next: u64, stored: &[Place], end: Option<Position>, now: Instant) {
        if next <= self.number && self.kept_with(next).is_none() {
            // Rule::ResetWhenLost
            if self.rules.keeps(Rule::ResetWhenLost) {
                return self.begin_anew(end, now);
            }
        }
        self.counters.resumed += 1;
        self.phase = Phase::Sending;
        self.behind = end;
        self.stored = stored.last().copied();
        let first_stored = stored.first().map_or(0, |place| place.position.number);
        let mut again = Vec::new();
        self.unanswered = 0;
        self.stored_bytes = 0;
        for kept in &mut self.kept {
            let number = kept.entry.position.number;
            if number >= next {
                kept.stored = None;
                kept.sent = now;
                self.unanswered += kept.bytes;
                again.push(kept.entry.clone());
                continue;
            }
            self.stored_bytes += kept.bytes;
            // Those that are stored were read one by one, so their numbers have no hole.
            let at = number.checked_sub(first_stored).map(|at| at as usize);
            if let Some(place) = at.and_then(|at| stored.get(at)) {
                kept.stored = Some(place.sequence);
            }
        }
        self.forget_old();
        for entry in again {
            self.send(entry);
        }
    }
}
