//! The decision about a change: the change is skipped, applied or made to wait, or its row is
//! refetched.
//!
//! ```text
//! classify ─→ follow_within ─→ follow ─→ judge ─→ admit ─→ place ─→ resolve ─→ Step
//! phase, cut  comparison,      key       may the  may the  the row's   floor,
//!             bounds           changes   payload  row be   refetch     backlog
//!                                        be       asked
//!                                        trusted? again?
//! ```

use super::touched::Touch;
use super::{EngineTable, FirstHalf, Phase, ReloadRequest, Step, Verdict};
use crate::notification::Action;
use crate::sync::change::{Change, Operation};
use crate::sync::comparison::Comparison;
use crate::sync::freeze::Freeze;
use crate::sync::refetch::{Admission, Queued};
use crate::sync::rules::Rule;
use crate::sync::snapshot::Snapshot;

impl EngineTable {
    /// Decides about a change as it arrives, or as it stops waiting for a read or a comparison.
    pub(in crate::sync) fn classify(&mut self, change: Change, waiting_limit: usize) -> Vec<Step> {
        if change.action == Action::Truncate {
            self.truncates.announced(change.xid, change.sender);
        }
        match &mut self.phase {
            Phase::Due { .. } | Phase::Held => Vec::new(),
            Phase::Reading { .. } => {
                self.wait_for_read(change, waiting_limit);
                Vec::new()
            }
            Phase::Following { filter, .. } => {
                // Rule::Cut. Without this:
                // 1. T1 and T2 update row 1. Their notifications are on their way.
                // 2. The snapshot sees both transactions, so the cache gets T2's version.
                // 3. T1's change arrives and is applied: a reader sees the row go back to T1's.
                //
                // A change without an xid is followed: whether the snapshot has it is not known,
                // and to apply a change twice does no harm.
                let is_seen = matches!(
                    (filter, change.xid),
                    (Some(snapshot), Some(xid)) if snapshot.sees(xid)
                );
                if is_seen && self.rules.keeps(Rule::Cut) {
                    return vec![Step::Skip];
                }
                self.follow_within(change, waiting_limit)
            }
        }
    }

    /// Makes a change wait for the read that is underway.
    fn wait_for_read(&mut self, change: Change, waiting_limit: usize) {
        let Phase::Reading {
            waiting,
            waiting_bytes,
            is_superseded,
            ..
        } = &mut self.phase
        else {
            return;
        };
        if *is_superseded {
            // The change has arrived, so it is committed. The read that will follow this one sees
            // it.
            return;
        }
        *waiting_bytes += change.bytes();
        if *waiting_bytes <= waiting_limit {
            waiting.push(change);
            return;
        }
        self.supersede("too many changes waited while the table was read");
        tracing::warn!(table = self.spec.name, "{}", self.cause);
    }

    /// Follows a change, unless a comparison holds the change. Keeps all that waits within
    /// `waiting_limit`.
    fn follow_within(&mut self, change: Change, waiting_limit: usize) -> Vec<Step> {
        if self.refetches.waiting_bytes() > waiting_limit {
            return schedule_read("too many changes waited for rows that are refetched");
        }
        // Rule::Hold. Without this:
        // 1. Q takes the snapshot S to compare with.
        // 2. A change that S does not see is applied.
        // 3. The comparison finds a row in the cache that S does not have, and calls it wrong.
        if self.keeps(Rule::Hold)
            && let Some(
                Comparison::Holding { held, bytes, .. } | Comparison::Settling { held, bytes, .. },
            ) = &mut self.comparison
        {
            *bytes += change.bytes();
            held.push(change);
            return Vec::new();
        }
        // Rule::Freeze: the changes that the freeze's snapshot sees are followed at the cut.
        if let Some(Freeze::Holding { held, bytes, .. }) = &mut self.freeze {
            *bytes += change.bytes();
            held.push(change);
            return Vec::new();
        }
        let steps = self.follow(change);
        if self.touched.bytes() > waiting_limit {
            return schedule_read("one transaction has changed too many rows");
        }
        match self.bound_backlog(waiting_limit) {
            Some(step) => vec![step],
            None => steps,
        }
    }

    /// Follows a change that is behind the cut. The two halves of a key change become one
    /// change, so that readers see one step.
    pub(super) fn follow(&mut self, change: Change) -> Vec<Step> {
        let mut steps = std::mem::take(&mut self.spare_steps);
        if let Some(FirstHalf {
            change: first,
            verdict: first_verdict,
        }) = self.first_half.take()
        {
            if first.is_completed_by(&change) {
                match self.judge(&change) {
                    Err(request) => steps.push(Step::Reload(request)),
                    Ok(second_verdict) => {
                        // The whole is no sounder than its less sound half.
                        let verdict = if first_verdict == Verdict::Sound {
                            second_verdict
                        } else {
                            first_verdict
                        };
                        self.admit(change.replace_key(), verdict, &mut steps);
                    }
                }
                return steps;
            }
            // Something else stands in between, so it was a delete of its own.
            self.admit(first, first_verdict, &mut steps);
        }
        match self.judge(&change) {
            Err(request) => steps.push(Step::Reload(request)),
            // Not applied at once: a reader would see the table without the row under either key.
            Ok(verdict) if change.is_first_half() => {
                self.first_half = Some(FirstHalf { change, verdict });
            }
            Ok(verdict) => self.admit(change, verdict, &mut steps),
        }
        steps
    }

    /// Follows the first half of a key change whose second half has not come.
    pub(in crate::sync) fn release_first_half(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(FirstHalf { change, verdict }) = self.first_half.take() {
            self.admit(change, verdict, &mut steps);
        }
        steps
    }

    /// Numbers a change, decides whether its row must be refetched, and places it.
    fn admit(&mut self, change: Change, verdict: Verdict, steps: &mut Vec<Step>) {
        if verdict == Verdict::Ignored {
            steps.push(Step::Skip);
            return;
        }
        self.changes += 1;
        // Without an xid nobody can tell whether the row that was refetched a moment ago is newer.
        let may_be_seen =
            change.xid.is_none() && change.keys().any(|key| self.refetches.has_floor(key));
        let queued = Queued {
            is_doubtful: verdict == Verdict::Doubtful || may_be_seen,
            change,
            arrival: self.changes,
        };
        self.place(queued, steps);
    }

    /// Applies a change, makes the change wait for its row, or asks for the row.
    fn place(&mut self, queued: Queued, steps: &mut Vec<Step>) {
        match self.refetches.admit(&queued.change) {
            // Rule::Waiting: the scenario stands at `Refetches::admit`.
            Admission::Waits if !self.keeps(Rule::Waiting) && !queued.is_doubtful => {
                self.resolve(queued.change, steps);
            }
            Admission::Waits => self.refetches.push(queued),
            // Rule::Sticky: a row that is wanted stays wanted, by the arm behind this one. Without
            // this:
            // 1. The cache is locked by a reader. A transaction deletes row 1 twice, and inserts
            //    the row again. The insert is announced first, then both deletes.
            // 2. The first delete is doubtful, so row 1 is wanted. The second one is not: the last
            //    announcement of the key was a delete.
            // 3. If the second delete took the place of the refetch, the cache would end without
            //    the row.
            #[cfg(any(test, feature = "simulation"))]
            Admission::Absorbed
                if self.is_busy() && !self.keeps(Rule::Sticky) && !queued.is_doubtful =>
            {
                for key in queued.change.keys() {
                    self.refetches.unwant(key);
                }
                self.resolve(queued.change, steps);
            }
            Admission::Absorbed => self.refetch(&queued, steps),
            Admission::Free if queued.is_doubtful => self.refetch(&queued, steps),
            Admission::Free => self.resolve(queued.change, steps),
        }
    }

    /// Asks for the rows that a change is about, unless they were refetched after the change.
    fn refetch(&mut self, queued: &Queued, steps: &mut Vec<Step>) {
        for key in queued.change.keys() {
            if !self.refetches.sees(key, queued.change.xid) {
                self.refetches.want(key, queued.arrival);
                self.refetches.note_asker(queued.change.sender);
            }
        }
        steps.push(Step::Skip);
    }

    /// Applies the part of a change that the floors of its keys do not see.
    fn resolve(&mut self, change: Change, steps: &mut Vec<Step>) {
        if change.action == Action::Truncate {
            // Rule::Spare. Without this:
            // 1. Q is asked for row 1. Before Q reads, T1 truncates the table and T2 inserts row 1.
            // 2. Q's snapshot sees both, so T2's row is stored, and T2's change is skipped.
            // 3. T1's TRUNCATE, which waited for the refetch, removes T2's row for good.
            let spared = if self.keeps(Rule::Spare) {
                self.refetches.keys_that_saw(change.xid)
            } else {
                Vec::new()
            };
            match &mut self.backlog {
                Some(backlog) => self.collapsed += backlog.clear(spared),
                None => steps.push(Step::Clear(spared)),
            }
            return;
        }
        // Rule::Floor. Without this:
        // 1. T1 and T2 update row 1, which Q is about to refetch. Q's snapshot sees both.
        // 2. The row that Q read, T2's, is stored.
        // 3. T1's change, which waited, is applied: a reader sees the row go back to T1's version.
        let saw_new = self.refetches.sees(change.id(), change.xid);
        // A key change is about two rows, and either may have been refetched after the change.
        let saw_old = match change.operation() {
            Operation::ReplaceKey => change
                .old_id()
                .is_none_or(|key| self.refetches.sees(key, change.xid)),
            Operation::Upsert | Operation::Remove | Operation::Whole => saw_new,
        };
        let change = match (saw_old, saw_new) {
            (true, true) => return steps.push(Step::Skip),
            (false, false) => change,
            (true, false) => change.store_new(),
            (false, true) => change.remove_old(),
        };
        match &mut self.backlog {
            Some(backlog) => self.collapsed += backlog.keep(change),
            None => steps.push(Step::Apply(change)),
        }
    }

    /// Judges whether a change's payload is the row as its transaction left the row, and notes the
    /// key that the change touches.
    ///
    /// The last announcement of a key in a transaction need not be of the key's last state: see
    /// [`is_out_of_order`](Self::is_out_of_order).
    ///
    /// # Errors
    ///
    /// The error is the request to reload the table, if the change is one.
    fn judge(&mut self, change: &Change) -> Result<Verdict, ReloadRequest> {
        self.touched.begin(change.xid);
        let follows_truncate = self.truncates.take_just_before();
        let touch = match change.action {
            // A TRUNCATE of the root fires the root's trigger, and right behind it those of the
            // leaves, which ask for a reload. The table is known to be empty, so it is not read.
            Action::Reload
                if change.xid.is_some()
                    && change.xid == follows_truncate
                    && !change.is_from(self.spec.oid) =>
            {
                self.truncates.set_just_before(follows_truncate);
                return Ok(Verdict::Ignored);
            }
            Action::Reload => {
                let why = match change.why() {
                    Some(why) => format!("a notification asks for it: {why}"),
                    None => "a notification asks for it".to_string(),
                };
                return Err(ReloadRequest::new(&why, change.sender));
            }
            Action::Truncate => {
                self.touched.forget_keys();
                self.truncates.set_just_before(change.xid);
                return Ok(Verdict::Sound);
            }
            Action::Insert | Action::Update => Touch::Stored,
            Action::Delete => Touch::Removed,
        };
        // Somebody asks for the row to be read anew. Without this:
        // 1. Somebody reads row 1 in order to announce it.
        // 2. T updates row 1, commits, and its change is applied.
        // 3. The announcement, with the row of before T, arrives and is applied.
        let lacks_row = change.reread
            || (touch == Touch::Stored && (!self.spec.sends_whole_rows || change.data().is_none()));
        let before = self.touched.insert(change, touch);
        Ok(
            if lacks_row || self.is_out_of_order(change, touch, before) {
                Verdict::Doubtful
            } else {
                Verdict::Sound
            },
        )
    }

    /// Returns whether the transaction may have left the key in another state than this change
    /// says. `before` is the transaction's last announcement of the key; `None` if there was none.
    fn is_out_of_order(&self, change: &Change, touch: Touch, before: Option<Touch>) -> bool {
        let Some(before) = before else {
            return false;
        };
        if change.xid.is_none() {
            // Without an xid nobody can tell one transaction from the next.
            return false;
        }
        // Two rows can have a deferrable key for a while inside a transaction, so an announcement
        // of the key can be about either row.
        if self.spec.deferrable_key {
            return true;
        }
        match touch {
            // Rule::Recheck. Without this:
            // 1. A transaction updates row 1, and an AFTER trigger updates the row once more.
            // 2. The inner update is announced first. The outer one, with the older row, is second.
            // 3. Applied in that order, the cache ends with the older row.
            Touch::Stored => change.recheck && self.keeps(Rule::Recheck),
            // Rule::Delete. Without this:
            // 1. A transaction deletes row 1, and an AFTER trigger inserts row 1 again.
            // 2. The insert is announced before the delete.
            // 3. Applied in that order, the cache ends without the row.
            Touch::Removed => before == Touch::Stored && self.keeps(Rule::Delete),
        }
    }

    /// Returns whether rows are to be refetched, no batch is underway, and the cache can be
    /// changed.
    pub(in crate::sync) fn is_refetch_due(&self) -> bool {
        self.is_following() && self.refetches.is_due() && !self.is_busy()
    }

    /// Starts a batch of refetches. Returns the keys to read.
    pub(in crate::sync) fn start_refetch(&mut self, batch: u64) -> Vec<String> {
        self.refetches.start(batch)
    }

    /// Notes that the rows of the batch that is underway will not come. They are asked for again.
    pub(in crate::sync) fn give_up_refetch(&mut self) {
        self.refetches.give_up();
    }

    /// Takes in the rows of a batch, read under `snapshot` as Q's `after`th answer. Returns the
    /// consequences of the changes that waited, to be carried out once the rows are stored. `None`
    /// if the rows are of no use any more.
    pub(in crate::sync) fn refetched(
        &mut self,
        batch: u64,
        snapshot: Snapshot,
        after: u64,
    ) -> Option<Vec<Step>> {
        let waited = self.refetches.answered(batch, snapshot, after)?;
        #[cfg(any(test, feature = "simulation"))]
        if !self.keeps(Rule::Floor) {
            self.refetches.forget_floors();
        }
        let mut steps = Vec::new();
        for mut queued in waited {
            // Without an xid nobody can tell whether the row that came has seen the change, so the
            // row is refetched once more.
            queued.is_doubtful |= queued.change.xid.is_none();
            let is_seen = queued.change.action != Action::Truncate
                && queued
                    .change
                    .keys()
                    .all(|key| self.refetches.sees(key, queued.change.xid));
            // The change may have to wait again: for its other key, or behind a TRUNCATE.
            if is_seen && self.refetches.admit(&queued.change) == Admission::Free {
                steps.push(Step::Skip);
            } else {
                self.place(queued, &mut steps);
            }
        }
        Some(steps)
    }
}

/// Returns the step that makes the table be read, for this reason.
fn schedule_read(why: &str) -> Vec<Step> {
    vec![Step::ScheduleRead(why.to_string())]
}
