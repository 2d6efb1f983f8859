//! What a comparison with the table, a [`Comparison`], means for what comes for a [`EngineTable`].

use super::{EngineTable, Step};
use crate::sync::change::Change;
use crate::sync::comparison::{Comparison, ComparisonId};
use crate::sync::snapshot::Snapshot;

impl EngineTable {
    /// Begins a comparison with the table: what comes is held.
    pub(in crate::sync) fn begin_comparison(&mut self, id: ComparisonId) {
        self.comparison = Some(Comparison::Holding {
            id,
            snapshot: None,
            token: None,
            held: Vec::new(),
            bytes: 0,
        });
    }

    pub(in crate::sync) fn can_begin_comparison(&self) -> bool {
        self.is_proven() && !self.is_busy()
    }

    pub(in crate::sync) fn comparison(&self) -> Option<&Comparison> {
        self.comparison.as_ref()
    }

    /// The snapshot to compare with is taken; the fence of this token was asked for after it.
    pub(in crate::sync) fn cut_comparison(&mut self, taken: Snapshot, fence: String) {
        if let Some(Comparison::Holding {
            snapshot, token, ..
        }) = &mut self.comparison
        {
            (*snapshot, *token) = (Some(taken), Some(fence));
        }
    }

    /// The fence behind the comparison's snapshot has come: what that sees of what is held is to be
    /// done; and whether the comparison can count.
    pub(in crate::sync) fn settle_comparison(&mut self) -> (Vec<Step>, Result<(), String>) {
        let Some(Comparison::Holding {
            id,
            snapshot: Some(snapshot),
            held,
            ..
        }) = self.comparison.take()
        else {
            return (Vec::new(), Err("its snapshot is not known".to_string()));
        };
        let is_plain = held.iter().any(|change| change.xid.is_none());
        // Each for itself: a forged id of the future, or a transaction that becomes visible later
        // than one which was announced behind it, must not hide what comes after. Changes of one
        // row keep their order: the second writer of a row waits until the first one is visible.
        let is_seen = |change: &Change| change.xid.is_some_and(|xid| snapshot.sees(xid));
        let (seen, unseen): (Vec<Change>, Vec<Change>) = held.into_iter().partition(is_seen);
        let mut steps = Vec::new();
        for change in seen {
            steps.extend(self.follow(change));
        }
        steps.extend(self.release_held());
        self.comparison = Some(Comparison::Settling {
            id,
            held: unseen,
            bytes: 0,
        });
        let plain = || "changes in the plain form came, which no snapshot can place".to_string();
        (steps, if is_plain { Err(plain()) } else { Ok(()) })
    }

    /// Whether rows are to be read again inside the comparison's transaction.
    pub(in crate::sync) fn has_wanted(&self) -> bool {
        self.refetches.is_due()
    }

    /// From now on the cache is as of the comparison's snapshot: what comes is kept by key.
    pub(in crate::sync) fn compare_comparison(&mut self) -> Vec<Step> {
        let Some(Comparison::Settling { id, held, .. }) = self.comparison.take() else {
            return Vec::new();
        };
        self.comparison = Some(Comparison::Comparing { id });
        self.backlog.get_or_insert_default();
        held.into_iter()
            .flat_map(|change| self.follow(change))
            .collect()
    }

    /// The comparison is over: what was held is done.
    pub(in crate::sync) fn end_comparison(&mut self, waiting_limit: usize) -> Vec<Step> {
        let held = match self.comparison.take() {
            Some(Comparison::Holding { held, .. } | Comparison::Settling { held, .. }) => held,
            Some(Comparison::Comparing { .. }) | None => Vec::new(),
        };
        let mut steps = self.release();
        for change in held {
            steps.extend(self.classify(change, waiting_limit));
        }
        steps
    }

    /// How many bytes a comparison holds.
    pub(in crate::sync) fn held_bytes(&self) -> usize {
        match &self.comparison {
            Some(Comparison::Holding { bytes, .. } | Comparison::Settling { bytes, .. }) => *bytes,
            Some(Comparison::Comparing { .. }) | None => 0,
        }
    }
}
