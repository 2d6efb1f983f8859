//! [`Looks`]: the looks at the tables' definitions, which go with the fences.
//!
//! A fence proves that the *notifications* that were committed earlier have arrived. A fence says
//! nothing of changes that no notification tells: a trigger that was disabled, a table that was
//! renamed, DDL that rewrote rows. So each fence asks for a *look* as well, and counts only once a
//! look is done that began after the fence was asked for
//! ([`Rule::Look`](super::rules::Rule::Look)). For this, looks are numbered. Without numbers:
//!
//! 1. Somebody disables the trigger and updates a row. Both are committed.
//! 2. A caller asks for a fence. A look from before step 1 is still on its way.
//! 3. The fence arrives, and so does the answer of that look, which found nothing new.
//! 4. The old look passes for the one that was asked for, and the caller reads the old row as live.

use super::streak::FAILURES;
use std::time::Instant;

/// The look that is underway, and the looks that are wanted and done.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Number of the look that is underway. There is one at a time.
    underway: Option<u64>,
    /// Number of the last look that was started.
    started: u64,
    /// Highest number that is wanted. If that is above `started`, another look is to begin.
    wanted: u64,
    /// Highest number that is done.
    done: u64,
    /// Start of the last look.
    began: Option<Instant>,
    /// How many looks in a row failed.
    failures: u32,
    /// Cause, once three looks in a row have failed: nothing is known of the definitions.
    blind: Option<String>,
}

impl Looks {
    /// Asks for a look that begins from now on. Returns the number of the look.
    pub(super) fn want(&mut self) -> u64 {
        // A look that is on its way began earlier, so the next one must do. One look answers all
        // who ask before it begins.
        self.wanted = self.next();
        self.wanted
    }

    /// Returns the number of the next look to begin, whoever asks for that look.
    pub(super) fn next(&self) -> u64 {
        self.started + 1
    }

    /// Returns when the last look began; `None` before the first.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// Starts a look if one is wanted and none is underway. Returns the number of the look.
    pub(super) fn start(&mut self, now: Instant) -> Option<u64> {
        if self.underway.is_some() || self.wanted <= self.started {
            return None;
        }
        self.started += 1;
        self.underway = Some(self.started);
        self.began = Some(now);
        self.underway
    }

    /// Notes that the answer to the look underway will not come, and asks for another look.
    pub(super) fn give_up(&mut self) {
        if self.underway.take().is_some() {
            self.want();
        }
    }

    /// Notes that a look is done. Returns false if nobody waits for this look: its connection is
    /// gone, and the answer does not count.
    pub(super) fn finish(&mut self, look: u64) -> bool {
        // A look on a session that is gone may have been of another server.
        if self.underway != Some(look) {
            return false;
        }
        self.underway = None;
        self.done = look;
        self.failures = 0;
        self.blind = None;
        true
    }

    /// Notes that a look failed. After three failures in a row nothing is known of the definitions,
    /// until a look is done. The next heartbeat asks for one.
    pub(super) fn fail(&mut self, look: u64, why: &str) {
        if self.underway != Some(look) {
            return;
        }
        self.underway = None;
        self.failures += 1;
        // From the third failure on the heartbeat sets the pace: to ask again at once, and fail at
        // once, would keep the server busy with nothing else.
        if self.failures >= FAILURES {
            self.blind = Some(format!(
                "the definitions of the tables cannot be looked at: {why}"
            ));
        } else {
            self.want();
        }
    }

    /// Returns whether the look with this number is done. Number 0 stands for no look, and is
    /// always done.
    pub(super) fn is_done(&self, look: u64) -> bool {
        look <= self.done
    }

    /// Returns whether the look with this number is not done, and was asked for.
    pub(super) fn is_coming(&self, look: u64) -> bool {
        !self.is_done(look) && look <= self.wanted
    }

    /// Returns why nothing is known of the definitions; `None` while looks succeed.
    pub(super) fn blind(&self) -> Option<&str> {
        self.blind.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Rule::Look: an answer from before the question says nothing.
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
