//! [`Rule`]: the rules of the engine, each with the scenario that the rule prevents.

/// The rules of the engine that are in force.
pub(super) type Rules = crate::rules::Rules<Rule>;

/// A rule of the engine. Each variant says what goes wrong without the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "simulation")),
    expect(dead_code, reason = "some rules are asked about in tests alone")
)]
pub enum Rule {
    /// A change with `recheck` makes its row be refetched if the same transaction announced a
    /// change of the key before. Without this:
    /// 1. A transaction updates row 1, and an AFTER trigger updates the row once more.
    /// 2. The inner update is announced first. The outer one, with the older row, comes second.
    /// 3. Applied in that order, the cache ends with the older row.
    ///
    /// A deferrable key is refetched whenever the transaction announced the key before, with and
    /// without this rule.
    Recheck,
    /// The delete of a key makes the row be refetched if the same transaction announced a row with
    /// that key before. Without this:
    /// 1. A transaction deletes row 1, and an AFTER trigger inserts row 1 again.
    /// 2. The insert is announced before the delete.
    /// 3. Applied in that order, the cache ends without the row.
    Delete,
    /// Changes of a key wait while the row is refetched. Without this:
    /// 1. Q is asked for row 1, and the server reads version 1.
    /// 2. The change to version 2 arrives and is applied.
    /// 3. Q's answer arrives and puts version 1 back.
    Waiting,
    /// A change is skipped if the row that was refetched has seen the change's transaction.
    /// Without this:
    /// 1. T1 and T2 update row 1, which Q is about to refetch. Q's snapshot sees both.
    /// 2. The row that Q read, T2's, is stored.
    /// 3. T1's change, which waited, is applied: a reader sees the row go back to T1's version.
    Floor,
    /// An answer that nobody waits for any more is ignored. Without this:
    /// 1. Q is asked for row 1, reads version 1, and is lost before the answer is handed in.
    /// 2. A new session reads the row again, and a later change is applied: version 2.
    /// 3. The answer of the old session is handed in after all, and puts version 1 back.
    Generation,
    /// A change is skipped if the snapshot of its table's read has seen the change's transaction.
    /// Without this:
    /// 1. T1 and T2 update row 1. Their notifications are on their way.
    /// 2. The snapshot sees both transactions, so the cache gets T2's version.
    /// 3. T1's change arrives and is applied: a reader sees the row go back to T1's version.
    Cut,
    /// A table is live, and a fence reached, only when a fence has come back. Without this:
    /// 1. A transaction commits. The notification has not arrived.
    /// 2. A caller asks for a fence, and is told at once that the fence is reached.
    /// 3. The caller reads the row from before the transaction.
    Fence,
    /// A TRUNCATE spares the rows that were refetched under a snapshot which saw the TRUNCATE.
    /// Without this:
    /// 1. Q is asked for row 1. Before Q reads, T1 truncates the table and T2 inserts row 1.
    /// 2. Q's snapshot sees both, so T2's row is stored, and T2's change is skipped.
    /// 3. T1's TRUNCATE, which waited for the refetch, removes T2's row for good.
    Spare,
    /// While a cache cannot be changed, a row that is to be refetched stays so, whatever else is
    /// announced for its key. Without this:
    /// 1. A cache is locked by a reader. A transaction deletes row 1 twice, and inserts the row
    ///    again. The insert is announced first, then both deletes.
    /// 2. The first delete is doubtful, so row 1 is to be refetched. The second one is not: the
    ///    last announcement of the key was a delete.
    /// 3. If the second delete took the place of the refetch, the cache would end without the row.
    Sticky,
    /// Changes are held while a comparison waits for the cut. Without this:
    /// 1. Q takes the snapshot S to compare with.
    /// 2. A change that S does not see is applied.
    /// 3. The comparison finds a row in the cache that S does not have, and calls it wrong.
    Hold,
    /// A comparison begins only when a fence that was sent after the snapshot has come back.
    /// Without this:
    /// 1. A row is updated, and Q takes the snapshot S, which sees the update.
    /// 2. The notification has not arrived, so the cache has the old row.
    /// 3. The comparison calls a row stale that is about to be right.
    ComparisonFence,
    /// Changes that the snapshot of a freeze does not see are held while the cache is frozen.
    /// Without this:
    /// 1. Somebody asks for digests at the snapshot S.
    /// 2. A change that S does not see is applied before the digests are computed.
    /// 3. The node's digests differ from those of S, and a row is called stale that is right.
    Freeze,
    /// No answer of F or Q that was opened again counts before the new probe has reached L. Without
    /// this:
    /// 1. After a failover Q is opened again, and reaches another server than L does.
    /// 2. Q reads rows from that server, which lags behind, and they are stored.
    /// 3. Fences come back through F and L as always, so the table is called live with old rows.
    Probe,
    /// A table is not live before the rows are there whose changes came before the fence that
    /// proved the table's read, nor while a row has been missing for a heartbeat. Without this:
    /// 1. A table was read. A change without data arrives, and the row is asked for.
    /// 2. The fence that proves the read arrives before Q answers.
    /// 3. The table is called live as of that fence, with the old row.
    Open,
    /// A fence counts when the look at the definitions that was asked for with it is done. Without
    /// this:
    /// 1. Somebody disables the trigger and updates a row.
    /// 2. A caller asks for a fence, which arrives. No look has begun since step 1.
    /// 3. The caller is told that the fence is reached, and reads the old row.
    Look,
    /// A table that cannot be followed is neither read nor changed nor live. Without this:
    /// 1. A look finds that a table's trigger is disabled, and the driver says so.
    /// 2. The engine goes on with the table, and the look is done.
    /// 3. The next fence is reached without the rows that nobody announced.
    Held,
    /// A transaction that was heard has arrived only when a notification of another one is heard
    /// behind it. Without this:
    /// 1. T updates rows 1 and 2, and commits. The notification of row 1 arrives.
    /// 2. Somebody who waits for T is told that the cache has T.
    /// 3. They read the old row 2.
    Whole,
    /// A transaction that a snapshot of F sees as ended has arrived only when the token behind the
    /// snapshot has come. Without this:
    /// 1. T commits. Its notification is on its way.
    /// 2. F takes a snapshot, which sees that T has ended.
    /// 3. Somebody who waits for T is told that the cache has T, and reads the old row.
    Horizon,
}
