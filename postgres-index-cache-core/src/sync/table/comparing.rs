//! A table whose cache is compared: its changes are held, then followed in the order of the
//! comparison's snapshot.

use super::{EngineTable, Step};
use crate::sync::backlog::Backlog;
use crate::sync::change::Change;
use crate::sync::comparison::{Comparison, ComparisonId};
use crate::sync::freeze::Freeze;
use crate::sync::snapshot::Snapshot;

/// The result of the fence behind a comparison's snapshot.
#[derive(Debug)]
pub(in crate::sync) struct Settled {
    /// The consequences of the changes that the snapshot sees.
    pub(in crate::sync) steps: Vec<Step>,
    /// Why the comparison cannot count; `None` if it can.
    pub(in crate::sync) inconclusive: Option<&'static str>,
}

impl EngineTable {
    /// Begins a comparison. Changes are held from now on.
    pub(in crate::sync) fn begin_comparison(&mut self, id: ComparisonId) {
        self.comparison = Some(Comparison::Holding {
            id,
            snapshot: None,
            token: None,
            held: Vec::new(),
            bytes: 0,
        });
    }

    /// Returns whether a comparison can begin: the table's read is proven, and the cache can be
    /// changed.
    pub(in crate::sync) fn can_begin_comparison(&self) -> bool {
        self.is_proven() && !self.is_busy()
    }

    /// Returns the comparison that is underway.
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

    /// Follows the held changes that the comparison's snapshot sees, now that the fence behind the
    /// snapshot has come back. The others stay held.
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
        // Each change is decided about for itself. A forged xid of the future must not hide the
        // changes behind it. Nor must a transaction that became visible later than one which was
        // announced behind it. Changes of one row keep their order all the same: the second writer
        // of a row waits until the first one is visible.
        let (seen, unseen): (Vec<Change>, Vec<Change>) = held
            .into_iter()
            .partition(|change| change.xid.is_some_and(|xid| snapshot.sees(xid)));
        let mut steps = Vec::new();
        for change in seen {
            steps.extend(self.follow(change));
        }
        // Both halves of a key change are of one transaction. The snapshot sees both or neither, so
        // no second half is among the changes that stay held.
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

    /// Returns whether rows must be refetched, and no batch is underway.
    pub(in crate::sync) fn has_wanted(&self) -> bool {
        self.refetches.is_due()
    }

    /// Begins to compare: the cache is the comparison's snapshot. Changes are kept by key from now
    /// on, those that are held first. Returns the consequences of held changes that do not wait.
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

    /// Ends the comparison. Returns the consequences of the changes that waited for the end.
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

    /// Returns how many bytes of changes a comparison or a freeze holds; see the fields of
    /// [`Comparison`] and [`Freeze`].
    pub(in crate::sync) fn held_bytes(&self) -> usize {
        if let Some(Freeze::Holding { bytes, .. }) = &self.freeze {
            return *bytes;
        }
        match &self.comparison {
            Some(Comparison::Holding { bytes, .. } | Comparison::Settling { bytes, .. }) => *bytes,
            Some(Comparison::Comparing { .. }) | None => 0,
        }
    }
}
