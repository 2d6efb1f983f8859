//! The changes of a table that wait for its cache, and how many bytes they may take.

use super::{EngineTable, Phase, Step};
use crate::sync::backlog::Backlog;

impl EngineTable {
    /// Returns how many bytes wait: changes that wait for a read, for rows that are refetched, for
    /// the cache's lock or for a comparison, and the keys that are wanted or touched.
    pub(in crate::sync) fn waiting_bytes(&self) -> usize {
        match &self.phase {
            Phase::Due { .. } | Phase::Held => 0,
            Phase::Reading { waiting_bytes, .. } => *waiting_bytes,
            Phase::Following { .. } => {
                self.refetches.waiting_bytes()
                    + self.refetches.wanted_bytes()
                    + self.backlog.as_ref().map_or(0, Backlog::bytes)
                    + self.held_bytes()
                    + self.touched.bytes()
            }
        }
    }

    /// Returns whether the cache must not be changed: a reader holds the lock, or the cache is
    /// compared with the table or frozen.
    pub(in crate::sync) fn is_busy(&self) -> bool {
        self.backlog.is_some() || self.is_compared()
    }

    /// Returns whether the cache is compared or frozen, or is about to be.
    pub(super) fn is_compared(&self) -> bool {
        self.comparison.is_some() || self.freeze.is_some()
    }

    /// Notes that a reader holds the cache's lock. Changes are kept by key from now on.
    pub(in crate::sync) fn become_busy(&mut self) {
        self.is_locked = true;
        self.backlog
            .get_or_insert_with(|| Backlog::new(self.hashing));
    }

    /// Notes that no reader holds the cache's lock any more. Returns the changes that came
    /// meanwhile.
    pub(in crate::sync) fn become_free(&mut self) -> Vec<Step> {
        self.is_locked = false;
        self.release_backlog()
    }

    /// Takes out the changes that came while the cache could not be changed. Returns none if the
    /// cache still cannot be changed, for any reason.
    pub(super) fn release_backlog(&mut self) -> Vec<Step> {
        if self.is_locked || self.is_compared() {
            return Vec::new();
        }
        let Some(mut backlog) = self.backlog.take() else {
            return Vec::new();
        };
        let kept = backlog.take();
        // The TRUNCATE first: every change that is kept came after it. The changes are of different
        // keys, so their order does not matter.
        let clear = kept.cleared.map(Step::Clear);
        let changes = kept.changes.into_values().map(Step::Apply);
        clear.into_iter().chain(changes).collect()
    }

    /// Keeps the backlog within `limit` bytes. Past that, rows are refetched instead of kept. If
    /// even their keys are too many bytes, the step that is returned makes the table be read.
    pub(super) fn bound_backlog(&mut self, limit: usize) -> Option<Step> {
        let backlog = self.backlog.as_mut()?;
        if backlog.bytes() > limit {
            let kept = backlog.take();
            // A TRUNCATE takes no room, and a refetch of rows would not remove the others.
            if let Some(keep) = kept.cleared {
                backlog.clear(keep);
            }
            // The backlog does not know when each change came, so each counts as the first one: a
            // fence that has arrived since waits for all of them.
            for change in kept.changes.values() {
                for key in change.keys() {
                    self.refetches.want(key, 0);
                }
            }
        }
        if self.refetches.wanted_bytes() <= limit {
            return None;
        }
        let why = "too many changes came while the cache could not be changed";
        Some(Step::ScheduleRead(why.to_string()))
    }

    /// Returns the number of the first change that is not in the cache yet, counted as
    /// [`changes`](Self::changes) counts; `None` if all changes are in the cache.
    ///
    /// A fence that arrived after the `n`th change is reached once this is higher than `n`. While
    /// the cache cannot be changed, nobody knows which changes are in it. Then this is 0, so that
    /// no fence is reached.
    pub(in crate::sync) fn open_since(&self) -> Option<u64> {
        if self.is_busy() {
            Some(0)
        } else {
            self.refetches.open_since()
        }
    }

    /// Returns whether every change that has arrived is in the cache, or handed out to be applied.
    /// The first half of a key change waits for the second one.
    pub(in crate::sync) fn has_what_arrived(&self) -> bool {
        self.is_following() && self.open_since().is_none() && self.first_half.is_none()
    }
}
