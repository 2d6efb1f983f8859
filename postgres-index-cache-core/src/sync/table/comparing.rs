//! What a [`Comparison`] means for the changes of a table.

use super::{EngineTable, Step};
use crate::sync::backlog::Backlog;
use crate::sync::change::Change;
use crate::sync::comparison::{Comparison, ComparisonId};
use crate::sync::snapshot::Snapshot;

/// What follows when the fence behind a comparison's snapshot has come back.
#[derive(Debug)]
pub(in crate::sync) struct Settled {
    /// What follows from the changes that the snapshot sees.
    pub(in crate::sync) steps: Vec<Step>,
    /// Why the comparison cannot count; `None` if it can.
    pub(in crate::sync) inconclusive: Option<&'static str>,
}

impl EngineTable {
    /// Begins a comparison with the table: changes are held from now on.
    pub(in crate::sync) fn begin_comparison(&mut self, id: ComparisonId) {
        self.comparison = Some(Comparison::Holding {
            id,
            snapshot: None,
            token: None,
            held: Vec::new(),
            bytes: 0,
        });
    }

    /// Returns whether a comparison can begin: the cache is its table, and can be changed.
    pub(in crate::sync) fn can_begin_comparison(&self) -> bool {
        self.is_proven() && !self.is_busy()
    }

    pub(in crate::sync) fn comparison(&self) -> Option<&Comparison> {
        self.comparison.as_ref()
    }

    /// Notes the snapshot to compare with, and the token of the fence that was sent after it.
    pub(in crate::sync) fn cut_comparison(&mut self, taken: Snapshot, fence: String) {
        if let Some(Comparison::Holding {
            snapshot, token, ..
        }) = &mut self.comparison
        {
            *snapshot = Some(taken);
            *token = Some(fence);
        }
    }

    /// Follows the held changes that the comparison's snapshot sees: its fence has come back.
    pub(in crate::sync) fn settle_comparison(&mut self) -> Settled {
        let Some(Comparison::Holding {
            id,
            snapshot: Some(snapshot),
            held,
            ..
        }) = self.comparison.take()
        else {
            return Settled {
                steps: Vec::new(),
                inconclusive: Some("its snapshot is not known"),
            };
        };
        let is_plain = held.iter().any(|change| change.xid.is_none());
        // Each change is decided about for itself: a forged id of the future, or a transaction that
        // becomes visible later than one which was announced behind it, must not hide the changes
        // behind it. Changes of one row keep their order: the second writer of a row waits until
        // the first one is visible.
        let is_seen = |change: &Change| change.xid.is_some_and(|xid| snapshot.sees(xid));
        let (seen, unseen): (Vec<Change>, Vec<Change>) = held.into_iter().partition(is_seen);
        let mut steps = Vec::new();
        for change in seen {
            steps.extend(self.follow(change));
        }
        steps.extend(self.release_first_half());
        self.comparison = Some(Comparison::Settling {
            id,
            held: unseen,
            bytes: 0,
        });
        Settled {
            steps,
            inconclusive: is_plain
                .then_some("changes in the plain form came, which no snapshot can place"),
        }
    }

    /// Returns whether rows must be refetched, and none are being refetched.
    pub(in crate::sync) fn has_wanted(&self) -> bool {
        self.refetches.is_due()
    }

    /// Begins to compare: the cache is the comparison's snapshot, and changes are kept by key from
    /// now on.
    pub(in crate::sync) fn start_comparing(&mut self) -> Vec<Step> {
        let Some(Comparison::Settling { id, held, .. }) = self.comparison.take() else {
            return Vec::new();
        };
        self.comparison = Some(Comparison::Comparing { id });
        self.backlog
            .get_or_insert_with(|| Backlog::new(self.hashing));
        held.into_iter()
            .flat_map(|change| self.follow(change))
            .collect()
    }

    /// Ends the comparison. Returns what follows from the changes that waited for it.
    pub(in crate::sync) fn end_comparison(&mut self, waiting_limit: usize) -> Vec<Step> {
        let held = match self.comparison.take() {
            Some(Comparison::Holding { held, .. } | Comparison::Settling { held, .. }) => held,
            Some(Comparison::Comparing { .. }) | None => Vec::new(),
        };
        let mut steps = self.release_backlog();
        for change in held {
            steps.extend(self.classify(change, waiting_limit));
        }
        steps
    }

    /// Returns how many bytes a comparison holds.
    pub(in crate::sync) fn held_bytes(&self) -> usize {
        match &self.comparison {
            Some(Comparison::Holding { bytes, .. } | Comparison::Settling { bytes, .. }) => *bytes,
            Some(Comparison::Comparing { .. }) | None => 0,
        }
    }
}
