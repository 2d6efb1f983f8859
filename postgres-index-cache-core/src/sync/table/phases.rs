//! The transitions of a table from one [`Phase`] to the next.
//!
//! ```text
//! Due ─ read asked for ─→ Reading ─ all rows in the cache ─→ Following ─ reload due ─→ Reading
//! Reading   ─ failed, superseded, connections lost ─→ Due
//! Following ─ a read is demanded, connections lost ─→ Due
//! any phase ─ cannot be followed ─→ Held ─ followed anew ─→ Due
//! ```

use super::{EngineTable, Phase, Step};
use crate::sync::TableSpec;
use crate::sync::backlog::Backlog;
use crate::sync::change::Change;
use crate::sync::refetch::Refetches;
use crate::sync::snapshot::Snapshot;
use std::time::Instant;

impl EngineTable {
    /// Returns whether the rows of a read are in the cache, and changes are followed.
    pub(in crate::sync) fn is_following(&self) -> bool {
        matches!(self.phase, Phase::Following { .. })
    }

    /// Returns whether a fence that was sent after the last read has come back.
    pub(in crate::sync) fn is_proven(&self) -> bool {
        matches!(self.phase, Phase::Following { filter: None, .. })
    }

    /// Returns whether the table cannot be followed as it is.
    pub(in crate::sync) fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held)
    }

    /// Returns whether the table cannot be followed or read.
    pub(in crate::sync) fn is_stale(&self) -> bool {
        self.is_held() || self.is_failing
    }

    /// Returns whether the table should be read by `now`. False while the cache cannot be changed,
    /// since the rows could not be stored.
    pub(in crate::sync) fn is_due(&self, now: Instant) -> bool {
        let is_due_at_once = matches!(self.phase, Phase::Due { not_before: None });
        (is_due_at_once && !self.is_busy()) || self.due_at().is_some_and(|at| at <= now)
    }

    /// Returns when the table is to be read; `None` if it is not to be read, or at once.
    pub(in crate::sync) fn due_at(&self) -> Option<Instant> {
        if self.is_busy() {
            return None;
        }
        match self.phase {
            Phase::Due { not_before } => not_before,
            Phase::Following { .. } => self.reloads.due(),
            Phase::Held | Phase::Reading { .. } => None,
        }
    }

    /// Returns whether the table is to be read, and not yet.
    pub(in crate::sync) fn waits_to_be_read(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|at| at > now)
    }

    /// Returns the number of the read whose rows are in the cache; `None` while they are not.
    pub(in crate::sync) fn last_read(&self) -> Option<u64> {
        self.is_following().then_some(self.read)
    }

    /// Makes the table be read again, since something happened that no notification tells.
    /// Returns the steps for that.
    pub(in crate::sync) fn invalidate(&mut self, why: &str) -> Vec<Step> {
        match &self.phase {
            Phase::Due { .. } | Phase::Held => Vec::new(),
            // The read may have begun before the event, and then has not seen it.
            Phase::Reading { .. } => {
                self.supersede(why);
                Vec::new()
            }
            Phase::Following { .. } => vec![Step::ScheduleRead(why.to_string())],
        }
    }

    /// Marks the read that is underway as of no use. Another read follows it.
    pub(super) fn supersede(&mut self, why: &str) {
        if let Phase::Reading {
            is_superseded,
            waiting,
            waiting_bytes,
            ..
        } = &mut self.phase
        {
            self.cause = why.to_string();
            *is_superseded = true;
            *waiting = Vec::new();
            *waiting_bytes = 0;
        }
    }

    /// Makes the table be read, not before `not_before` if that is set.
    pub(super) fn become_due(&mut self, not_before: Option<Instant>) {
        self.phase = Phase::Due { not_before };
        self.forget_what_came();
    }

    /// Forgets every change that came for the table. They are committed, so a read that is asked
    /// for from now on sees them.
    fn forget_what_came(&mut self) {
        // Rule::Generation: the batch that is underway is forgotten as well, so its answer will not
        // be taken for one of the new refetches.
        self.refetches = Refetches::new(self.hashing);
        self.comparison = None;
        self.freeze = None;
        // The lock is a reader's, and outlives what is known of the table.
        self.backlog = self.is_locked.then(|| Backlog::new(self.hashing));
        self.touched.forget();
        self.first_half = None;
        self.reloads.forget_requests();
        self.truncates.forget_unseen();
    }

    /// Notes that a read has failed. The table is to be read again, at `not_before` or later.
    pub(in crate::sync) fn read_failed(&mut self, not_before: Instant, why: String) {
        self.cause = why;
        self.is_failing = true;
        self.become_due(Some(not_before));
    }

    /// Makes the table, which is being read, be read anew at once. The read is given up through no
    /// fault of the table.
    pub(in crate::sync) fn read_again(&mut self, why: &str) {
        self.cause = why.to_string();
        self.become_due(None);
    }

    /// Holds the table: from now on it is neither read nor followed.
    pub(in crate::sync) fn hold(&mut self, why: String) {
        self.cause = why;
        self.phase = Phase::Held;
        self.forget_what_came();
    }

    /// Makes the table be read, and then followed by a new specification.
    pub(in crate::sync) fn follow_anew(&mut self, spec: TableSpec) {
        // The failures were those of the table as it was before.
        self.spec = spec;
        self.detaching.clear();
        self.is_failing = false;
        self.read_failures.reset();
        self.backoff.reset();
        // An answer to a read of the table as it was before must not be taken for the next one.
        self.generation += 1;
        self.become_due(None);
    }

    /// Notes that the connections are lost. The table is to be read once there are new ones.
    pub(in crate::sync) fn disconnect(&mut self) {
        self.read_failures.reset();
        // A held table stays held: new connections do not make it a table that can be followed.
        if !self.is_held() {
            self.phase = Phase::Due { not_before: None };
        }
        self.forget_what_came();
    }

    /// Starts a read of the table, which is the engine's `read`th. Returns the generation of the
    /// read.
    pub(in crate::sync) fn start_reading(&mut self, read: u64, now: Instant) -> u64 {
        // The table was followed until its reload was due.
        if self.is_following() {
            self.forget_what_came();
        }
        self.read = read;
        self.generation += 1;
        self.phase = Phase::Reading {
            started: now,
            snapshot: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            is_superseded: false,
        };
        self.generation
    }

    /// Notes the snapshot of the read with this generation.
    pub(in crate::sync) fn cut(&mut self, generation: u64, taken: Snapshot) {
        if let Phase::Reading { snapshot, .. } = &mut self.phase
            && generation == self.generation
        {
            *snapshot = Some(taken);
        }
    }

    /// Notes that all rows of a read are in the cache. `after_reads` is how many answers have come,
    /// of Q and of side reads, and `has_changed` whether the cache had other rows before. Returns
    /// the changes that waited, or `None` if the read is of no use.
    pub(in crate::sync) fn loaded(
        &mut self,
        generation: u64,
        after_reads: u64,
        has_changed: bool,
        now: Instant,
    ) -> Option<Vec<Change>> {
        let Phase::Reading {
            started,
            snapshot,
            waiting,
            is_superseded,
            ..
        } = &mut self.phase
        else {
            return None;
        };
        if generation != self.generation {
            return None;
        }
        let waiting = std::mem::take(waiting);
        let filter = snapshot.take();
        // A read without a snapshot does not count: no change could be cut.
        let is_of_use = !*is_superseded && filter.is_some();
        self.reloads.finished(*started, has_changed, now);
        self.is_failing = false;
        self.backoff.reset();
        if !is_of_use {
            self.become_due(self.reloads.next(now));
            return None;
        }
        self.phase = Phase::Following {
            filter,
            after_reads,
        };
        Some(waiting)
    }

    /// Notes that a fence has come back which was sent when `fence_after_reads` answers had come,
    /// of Q and of side reads. Every change that a snapshot or floor of those answers filters has
    /// arrived.
    pub(in crate::sync) fn prove(&mut self, fence_after_reads: u64) {
        // A fence that was sent before the read's answer proves nothing of it (Rule::Fence):
        // 1. A fence is sent. Q takes the snapshot of a read, which sees a transaction T.
        // 2. The fence arrives, and then T's change.
        // 3. Without the filter T's change is applied once more, over newer ones that the read has.
        if let Phase::Following {
            filter,
            after_reads,
        } = &mut self.phase
            && *after_reads <= fence_after_reads
        {
            *filter = None;
        }
        // The changes that a comparison or a freeze holds came before this fence, and a floor may
        // have seen them.
        if !self.is_compared() {
            self.refetches.free_floors(fence_after_reads);
        }
    }
}
