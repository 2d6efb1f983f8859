//! [`Rules`]: which rules of the engine are in force. In a release all are.
//!
//! A test is worth something only if it fails when the code is wrong. So the simulation can
//! disable one rule at a time, and a test shows that the simulation fails without it. The switch
//! exists in tests and with the cargo feature `simulation` alone; otherwise
//! [`keeps`](Rules::keeps) is constant and costs nothing.

/// A rule of the engine. Each one says what goes wrong without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "simulation")),
    expect(dead_code, reason = "some rules are asked about in tests alone")
)]
pub enum Rule {
    /// A change with `recheck`, or one of a deferrable key, makes its row be refetched if the same
    /// transaction touched the key before. Without this:
    /// 1. A trigger on `users` updates the row that fired it.
    /// 2. The inner update is announced first, the outer one with the older row second.
    /// 3. The cache ends with the older row.
    Recheck,
    /// The delete of a key that the same transaction stored makes the row be refetched. Without
    /// this:
    /// 1. A transaction deletes row 1, and a nested trigger inserts row 1 again.
    /// 2. The insert is announced before the delete.
    /// 3. The cache ends without the row.
    Delete,
    /// Changes of a key wait while its row is refetched. Without this:
    /// 1. Row 1 is asked for; the server reads version 1.
    /// 2. The change to version 2 arrives and is applied.
    /// 3. The answer arrives and puts version 1 back.
    Waiting,
    /// A change is skipped if the row that was refetched has seen its transaction. Without this:
    /// 1. The refetched row is version 2.
    /// 2. The change to version 1, which waited, is applied.
    Floor,
    /// An answer that nobody waits for any more is ignored. Without this:
    /// 1. A refetch of row 1 is on its way when the table must be read as a whole.
    /// 2. The table is read, and row 1 changes.
    /// 3. The old answer arrives and puts the old row back.
    Generation,
    /// A change is skipped if the snapshot has seen its transaction. Without this:
    /// 1. Row 1 is updated to version 1, then deleted; the snapshot has neither.
    /// 2. The announcement of version 1 arrives after the snapshot was taken.
    /// 3. The cache has a row that is gone until the delete arrives.
    Cut,
    /// A table is live, and a fence reached, only when a fence has come back. Without this:
    /// 1. The snapshot is loaded. A change that was committed before it is still on its way.
    /// 2. The table is called live, and a reader gets the old row.
    Fence,
    /// A TRUNCATE spares the rows that were read after it. Without this:
    /// 1. The table is truncated, and row 1 inserted.
    /// 2. Row 1 is refetched, for a change from before the TRUNCATE.
    /// 3. The announced TRUNCATE, which waited for the refetch, removes the new row.
    Spare,
    /// While a cache is locked by a reader, a row that is to be refetched stays so, whatever else is
    /// announced for it. Without this:
    /// 1. A doubtful change of row 1 arrives, then one with data that is older.
    /// 2. The data is taken, and the refetch forgotten.
    Sticky,
    /// Changes are held while a comparison waits for its cut. Without this:
    /// 1. Q takes the snapshot S to compare with.
    /// 2. A change that S has not seen is applied.
    /// 3. The comparison calls the newer row of the cache stale.
    Hold,
    /// A comparison begins only when a fence that was sent after its snapshot has come back. Without
    /// this:
    /// 1. A row is updated and Q takes the snapshot S, which has the update.
    /// 2. The announcement is still on its way, so the cache has the old row.
    /// 3. The comparison calls a row stale that is about to be right.
    ComparisonFence,
    /// No answer of F or Q counts before its probe has reached L. Without this:
    /// 1. After a failover Q is opened again, and reaches another server than L.
    /// 2. Its snapshot is of the wrong server, and changes arrive of the other.
    Probe,
    /// A table is not live before the rows are there whose changes came before the fence that proved
    /// its read. Without this:
    /// 1. A change without data arrives; its row is asked for.
    /// 2. The fence arrives, and the table is called live with the old row.
    Open,
    /// A fence counts when the look at the definitions that was asked for with it is done. Without
    /// this:
    /// 1. Somebody disables the trigger and updates a row.
    /// 2. A fence arrives, as always; a look from before step 1 found all in order.
    /// 3. The old row is called live.
    Look,
    /// A table that cannot be followed is neither read nor changed. Without this:
    /// 1. A column is dropped, and another one of the same name added.
    /// 2. Changes with the new column's values are put into the old column's cells.
    Held,
}

/// The rules that are in force.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rules {
    #[cfg(any(test, feature = "simulation"))]
    disabled: Option<Rule>,
}

impl Rules {
    /// Returns all rules but `rule`.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn without(rule: Rule) -> Self {
        Self {
            disabled: Some(rule),
        }
    }

    /// Returns whether `rule` is in force.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn keeps(self, rule: Rule) -> bool {
        self.disabled != Some(rule)
    }

    /// Returns true: a release keeps every rule.
    #[cfg(not(any(test, feature = "simulation")))]
    #[expect(clippy::unused_self, reason = "as with the feature `simulation`")]
    pub(super) const fn keeps(self, _: Rule) -> bool {
        true
    }
}
