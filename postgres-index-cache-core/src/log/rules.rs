//! [`Rule`]: the rules of the log's readers and writers, each with the scenario that the rule
//! prevents.

/// The rules of the log that are in force.
pub(super) type Rules = crate::rules::Rules<Rule>;

/// A rule of whoever reads or writes a log, with the scenario that goes wrong without the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// R1: messages come without a hole. Without this, and without `Chain`:
    /// 1. The engine throws a slow reader out, and a message is dropped.
    /// 2. The next one is not the next of the reader's term, nor are those behind that one.
    /// 3. The reader ignores them all, and never becomes live again.
    Contiguous,
    /// R1: whoever is told that the log goes on behind the last message reads again. Without this:
    /// 1. The last message of a log is dropped on its way to a reader, and the writer dies.
    /// 2. No message follows, so the reader sees no hole.
    /// 3. The reader, which is to write next, lacks the log's end for ever.
    Silence,
    /// R1: an entry is taken only behind the one that it was appended behind. Without this:
    /// 1. A reader has taken message 12. The engine loses that message, and no connection.
    /// 2. Another relay begins with a message 12, which is dropped on its way to the reader.
    /// 3. Message 13 has the number that the reader expects, and is not of the reader's term. The
    ///    reader ignores that message and all later ones, and never becomes live again.
    Chain,
    /// R2: a read begins with the entry that was seen there before. Without this:
    /// 1. A reader has seen message 7. The engine loses messages 6 and 7.
    /// 2. A writer appends others as 6, 7 and 8, and the reader reads on from 8.
    /// 3. The reader has the lost 6 and 7, takes none of those in their place, and never becomes
    ///    live again.
    Overlap,
    /// R3: an entry is taken only if it is of the reader's term, number and nonce. Without this:
    /// 1. A log that was rolled back sees the number of a term twice.
    /// 2. A reader has entries of the first of them, and takes those of the second.
    Nonce,
    /// R3: a term is taken only if it builds upon the reader's position. Without this:
    /// 1. A writer loses the end of its log, and another begins behind the rest.
    /// 2. A reader that has the lost end takes the term as if the rows were the same.
    After,
    /// R3: an entry is taken only if it is the next one of its term. Without this:
    /// 1. A writer's entry is refused, and the one behind it is stored all the same.
    /// 2. A reader takes that one, and lacks the first.
    Numbers,
    /// R4: a term that builds upon nothing voids all rows. Without this:
    /// 1. A writer has lost the log, begins anew, and writes its rows as a snapshot.
    /// 2. A reader takes the entries that follow onto the rows of the old log.
    Reset,
    /// R5: `begin` ends the effect of a proof. Without this:
    /// 1. A reader is live. A relay dies, and another begins: commits of meanwhile are not
    ///    in the log yet.
    /// 2. The reader stays live as of its last proof, while rows come one by one.
    BeginVoids,
    /// R5: `stale` ends the effect of a proof. Without this:
    /// 1. A relay has lost its listening connection, reads its tables again, and publishes the
    ///    difference in parts.
    /// 2. A reader shows the first part as live, a state that no transaction has left behind.
    Stale,
    /// R5: a reader is live only when a fence that it asked for itself is reached. Without this:
    /// 1. A reader was away for an hour, and reads on.
    /// 2. It takes a proof that is an hour old.
    /// 3. It calls rows live that were changed since.
    OwnFence,
    /// R6: a proof counts only if the reader's rows are those of the writer. Without this:
    /// 1. Two servers of the engine have different histories, or a bit of the memory is flipped.
    /// 2. The reader calls wrong rows live.
    Digest,
    /// R7: rows of a snapshot count only when the snapshot's end was seen in the log. Without this:
    /// 1. A snapshot is read bit by bit while entries go on.
    /// 2. A reader loads the snapshot, and reads on from the snapshot's start.
    /// 3. Rows from later entries are shown beside others from before them.
    SnapshotEnd,
    /// W4: a writer whose entries are gone begins anew. Without this:
    /// 1. The engine loses more entries than the writer keeps.
    /// 2. The writer goes on behind the rest.
    /// 3. Whoever loads a snapshot from before the loss lacks the lost entries.
    ResetWhenLost,
    /// W5: rows that were deferred are sent between `stale` and a proof. Without this:
    /// 1. The engine is away for a minute. The writer keeps the changed keys.
    /// 2. The engine is back, and the rows of those keys are published in parts.
    /// 3. A reader shows the first part as live, a state that no transaction has left behind.
    StaleFirst,
    /// W6: an answer counts for its own question alone. Without this:
    /// 1. A reader asks for a fence, is away, and asks again.
    /// 2. The answer to the first question comes late, and passes for that to the second.
    /// 3. The reader is told that its fence is reached, and lacks rows that came before the fence.
    Answers,
}
