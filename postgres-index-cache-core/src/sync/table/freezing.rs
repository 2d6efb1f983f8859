//! A table whose cache is frozen at a snapshot that somebody else has taken.

use super::{EngineTable, Step};
use crate::sync::backlog::Backlog;
use crate::sync::change::{Change, Operation};
use crate::sync::freeze::Freeze;
use crate::sync::rules::Rule;
use crate::sync::snapshot::Snapshot;
use std::collections::{BTreeSet, HashSet};

/// The changes that a freeze held, after the snapshot has decided about each.
#[derive(Debug, Default)]
struct Sorted {
    /// The changes that the snapshot sees, to be applied.
    seen: Vec<Change>,
    /// The changes that are kept back.
    unseen: Vec<Change>,
    /// The keys with a change that the snapshot sees behind one that it does not.
    mixed: BTreeSet<String>,
}

/// The result of the second question of a freeze.
#[derive(Debug)]
pub(in crate::sync) struct Cut {
    /// The consequences of the changes that the snapshot sees.
    pub(in crate::sync) steps: Vec<Step>,
    /// The keys of the open rows, as JSON; or why the cache cannot be frozen.
    pub(in crate::sync) open: Result<BTreeSet<String>, &'static str>,
    /// The changes that the snapshot does not see, to be followed once the cache is frozen.
    unseen: Vec<Change>,
}

impl EngineTable {
    /// Begins a freeze. Changes are held from now on. Returns the consequences of a change that
    /// waited for another one.
    pub(in crate::sync) fn begin_freeze(&mut self, number: u64) -> Vec<Step> {
        // The question is a transaction of its own, so the second half of a key change will not
        // come any more.
        let steps = self.release_first_half();
        self.freeze = Some(Freeze::Holding {
            number,
            held: Vec::new(),
            bytes: 0,
            open: self.refetches.open_keys(),
        });
        steps
    }

    /// Returns whether rows are to be refetched, or were a moment ago.
    pub(in crate::sync) fn has_open_rows(&self) -> bool {
        !self.refetches.open_keys().is_empty()
    }

    /// Returns the freeze that is underway.
    pub(in crate::sync) fn freeze(&self) -> Option<&Freeze> {
        self.freeze.as_ref()
    }

    /// Follows the held changes that `snapshot` sees, and those alone.
    pub(in crate::sync) fn cut_freeze(&mut self, snapshot: &Snapshot) -> Cut {
        let Some(Freeze::Holding {
            number,
            held,
            mut open,
            ..
        }) = self.freeze.take()
        else {
            return Cut {
                steps: Vec::new(),
                open: Err("it is not held"),
                unseen: Vec::new(),
            };
        };
        let is_plain = held.iter().any(|change| change.xid.is_none());
        let has_whole = held
            .iter()
            .any(|change| change.operation() == Operation::Whole);
        let sorted = if self.keeps(Rule::Freeze) {
            sort(held, snapshot)
        } else {
            Sorted {
                seen: held,
                ..Sorted::default()
            }
        };
        let mut steps = Vec::new();
        for change in sorted.seen {
            steps.extend(self.follow(change));
        }
        // PostgreSQL delivers the halves of a key change together, and both are of one transaction.
        steps.extend(self.release_first_half());
        open.extend(sorted.mixed);
        open.append(&mut self.refetches.open_keys());
        self.freeze = Some(Freeze::Frozen { number });
        let open = if is_plain {
            Err("changes in the plain form came, which no snapshot can place")
        } else if has_whole {
            Err("the table was truncated or reloaded meanwhile")
        } else if self.refetches.has_queued_truncate() {
            Err("a TRUNCATE waits for rows that are refetched")
        } else if self.backlog.is_some() {
            Err("a reader holds the cache's lock")
        } else {
            Ok(open)
        };
        Cut {
            steps,
            open,
            unseen: sorted.unseen,
        }
    }

    /// Keeps the changes that the snapshot does not see, by key. Returns the consequences of those
    /// that do not wait.
    pub(in crate::sync) fn keep_unseen(&mut self, cut: Cut) -> Vec<Step> {
        self.backlog
            .get_or_insert_with(|| Backlog::new(self.hashing));
        cut.unseen
            .into_iter()
            .flat_map(|change| self.follow(change))
            .collect()
    }

    /// Ends the freeze. Returns the consequences of the changes that waited for the end.
    pub(in crate::sync) fn end_freeze(&mut self, waiting_limit: usize) -> Vec<Step> {
        let held = match self.freeze.take() {
            Some(Freeze::Holding { held, .. }) => held,
            Some(Freeze::Frozen { .. }) | None => Vec::new(),
        };
        let mut steps = self.release_backlog();
        for change in held {
            steps.extend(self.classify(change, waiting_limit));
        }
        steps
    }
}

/// Decides about each change that was held.
///
/// Changes of one row must keep their order, whatever the snapshot says: somebody may have made the
/// snapshot up. Without this:
/// 1. T1 and T2 update row 1, and both are held.
/// 2. Somebody asks with a snapshot that sees T2 and does not see T1.
/// 3. T2's change is applied, and T1's when the freeze is over: the row goes back for good.
fn sort(held: Vec<Change>, snapshot: &Snapshot) -> Sorted {
    let mut sorted = Sorted::default();
    let mut blocked: HashSet<String> = HashSet::new();
    let mut is_all_blocked = false;
    for change in held {
        let is_whole = change.operation() == Operation::Whole;
        let is_blocked = is_all_blocked
            || (is_whole && !blocked.is_empty())
            || change.keys().any(|key| blocked.contains(key));
        let is_seen = change.xid.is_some_and(|xid| snapshot.sees(xid));
        if is_seen && !is_blocked {
            sorted.seen.push(change);
            continue;
        }
        if is_seen {
            sorted.mixed.extend(change.keys().map(str::to_string));
        }
        is_all_blocked |= is_whole;
        blocked.extend(change.keys().map(str::to_string));
        sorted.unseen.push(change);
    }
    sorted
}
