//! What waits for a table's cache, and how much.

use super::{EngineTable, Phase, Step};
use crate::sync::backlog::Backlog;

impl EngineTable {
    /// Returns how many bytes wait: changes for a read, for rows that are refetched, for the cache's
    /// lock or for a comparison.
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

    /// Returns whether the cache is not changed: a reader holds its lock, or it is compared with the
    /// table.
    pub(in crate::sync) fn is_busy(&self) -> bool {
        self.backlog.is_some() || self.comparison.is_some()
    }

    /// Notes that the cache cannot be changed from now on: a reader holds its lock.
    pub(in crate::sync) fn become_busy(&mut self) {
        self.is_locked = true;
        self.backlog
            .get_or_insert_with(|| Backlog::new(self.hashing));
    }

    /// Notes that the cache can be changed again. Returns the changes that came meanwhile.
    pub(in crate::sync) fn become_free(&mut self) -> Vec<Step> {
        self.is_locked = false;
        self.release_backlog()
    }

    /// Returns the changes that came while the cache could not be changed, unless it still cannot.
    pub(super) fn release_backlog(&mut self) -> Vec<Step> {
        if self.is_locked || self.comparison.is_some() {
            return Vec::new();
        }
        let Some(mut backlog) = self.backlog.take() else {
            return Vec::new();
        };
        let kept = backlog.take();
        kept.cleared
            .map(Step::Clear)
            .into_iter()
            .chain(kept.changes.into_values().map(Step::Apply))
            .collect()
    }

    /// Keeps the backlog within `limit` bytes: rows are refetched in place of payloads, and if even
    /// their keys are too many, the table is read.
    pub(super) fn bound_backlog(&mut self, limit: usize) -> Option<Step> {
        let backlog = self.backlog.as_mut()?;
        if backlog.bytes() > limit {
            let kept = backlog.take();
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
        let is_too_much = self.refetches.wanted_bytes() > limit;
        is_too_much.then(|| {
            Step::ScheduleRead(
                "too many changes came while its cache could not be changed".to_string(),
            )
        })
    }

    /// Returns the number of the first change that is not in the cache yet, counted as
    /// [`changes`](Self::changes) counts; `None` if all are.
    ///
    /// A fence that arrived when so many changes had come is reached once this is higher. While the
    /// cache cannot be changed nothing is known of which changes are in it, so it is 0.
    pub(in crate::sync) fn open_since(&self) -> Option<u64> {
        if self.is_busy() {
            Some(0)
        } else {
            self.refetches.open_since()
        }
    }
}
