//! [`Looks`]: the looks at the tables' definitions, which go with the fences.
//!
//! A fence proves that the *notifications* committed before it have arrived. It says nothing of
//! changes that no notification tells: a trigger that was disabled, a table that was renamed, DDL
//! that rewrote rows. So each fence asks for a *look* as well, and counts only once a look is done
//! that began after the fence was asked for. For this, looks are numbered:
//!
//! 1. Somebody disables the trigger and updates a row. Both are committed.
//! 2. A caller asks for a fence. A look from before step 1 is still on its way.
//! 3. The fence arrives, and so does that look: it found everything as it was.
//!
//! Without numbers the old look would pass for the one that was asked for, and the caller would
//! read the old row as live.

use super::streak::FAILURES;
use std::time::Instant;

/// The look that is on its way, and the looks that are wanted.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// The number of the look on its way. There is one at a time.
    underway: Option<u64>,
    /// The highest number that was given out.
    started: u64,
    /// The highest number that is wanted. Another look is to begin if it is above `started`.
    wanted: u64,
    /// The highest number that is done.
    done: u64,
    /// When the last look began.
    began: Option<Instant>,
    /// How many looks in a row failed.
    failures: u32,
    /// Why nothing is known of the definitions, once three looks in a row have failed.
    blind: Option<String>,
}

impl Looks {
    /// Asks for a look that begins from now on, and returns its number.
    pub(super) fn want(&mut self) -> u64 {
        self.wanted = self.started + 1;
        self.wanted
    }

    /// Returns when the last look began.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Starts a look if one is wanted and none is on its way. Returns its number.
    pub(super) fn start(&mut self, now: Instant) -> Option<u64> {
        if self.underway.is_some() || self.wanted <= self.started {
            return None;
        }
        self.started += 1;
        self.underway = Some(self.started);
        self.began = Some(now);
        self.underway
    }

    /// Notes that the answer to the look on its way will not come: another one is wanted.
    pub(super) fn give_up(&mut self) {
        if self.underway.take().is_some() {
            self.want();
        }
    }

    /// Notes that a look is done. Returns false for an answer of a connection that is gone, which
    /// does not count.
    pub(super) fn finish(&mut self, look: u64) -> bool {
        if self.underway != Some(look) {
            return false;
        }
        self.underway = None;
        self.done = look;
        self.failures = 0;
        self.blind = None;
        true
    }

    /// Notes that a look failed. After three in a row nothing is known of the definitions. Looks go
    /// on with each heartbeat, and the first that is done ends that.
    pub(super) fn fail(&mut self, look: u64, why: &str) {
        if self.underway != Some(look) {
            return;
        }
        self.underway = None;
        self.failures += 1;
        if self.failures >= FAILURES {
            self.blind = Some(format!(
                "the definitions of the tables cannot be looked at: {why}"
            ));
        } else {
            self.want();
        }
    }

    /// Returns whether the look of this number is done. Number 0 is no look: always done.
    pub(super) fn is_done(&self, look: u64) -> bool {
        look <= self.done
    }

    /// Returns why nothing is known of the definitions; `None` if something is.
    pub(super) fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_for_its_own_look_alone() {
        let now = Instant::now();
        let mut looks = Looks::default();
        let first = looks.want();
        assert_eq!(looks.start(now), Some(first));
        let second = looks.want();
        assert_eq!(looks.start(now), None, "one at a time");
        assert!(looks.finish(first));
        assert!(looks.is_done(first) && !looks.is_done(second));
        assert_eq!(looks.start(now), Some(second));
        looks.give_up();
        assert!(!looks.finish(second), "its connection is gone");
        assert_eq!(looks.start(now), Some(second + 1));
    }

    #[test]
    fn three_failures_in_a_row_blind_until_a_look_is_done() {
        let mut looks = Looks::default();
        looks.want();
        for _ in 0..3 {
            assert_eq!(looks.blind(), None);
            let look = looks.start(Instant::now()).expect("a look is wanted");
            looks.fail(look, "no");
        }
        assert!(looks.blind().is_some_and(|why| why.ends_with("no")));
        let look = looks.want();
        assert_eq!(looks.start(Instant::now()), Some(look));
        assert!(looks.finish(look));
        assert_eq!(looks.blind(), None);
    }
}
