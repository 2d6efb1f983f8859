//! [`Input`], [`Output`] and the types in them: everything that the engine and its driver say to
//! each other.
//!
//! Questions are numbered, and each answer carries the number of its question: the *generation* of
//! the read of a table, the *batch* of a refetch, the number of a look or of a comparison. An
//! answer whose question is not the last one is ignored.

use super::change::Change;
use super::snapshot::Snapshot;
use super::state::{Failure, State};
use crate::table_cache::TableShape;
use std::sync::Arc;
use std::time::Duration;

/// A followed table, by its position in the list that [`Engine::new`](super::Engine::new) was
/// given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub usize);

/// The catalogue's facts about a table to follow.
#[expect(
    clippy::struct_excessive_bools,
    reason = "five facts of the catalogue, each on its own"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// Schema of the table.
    pub schema: String,
    /// Name of the table, without the schema.
    pub name: String,
    /// Oid of the table. A payload that gives another oid is not about this table.
    pub oid: u32,
    /// Oids of the leaves of a partitioned table, whose triggers send payloads with the root's
    /// name.
    pub leaves: Vec<u32>,
    /// Whether the table is partitioned. Leaves may be created later: a payload of an unknown leaf
    /// makes the table be reloaded.
    pub is_partitioned: bool,
    /// Whether the table's key is deferrable. Two rows may then have one key for a while inside a
    /// transaction.
    pub deferrable_key: bool,
    /// Whether the table's trigger sends the plain form, which names no schema. If the trigger
    /// sends the extended form, a plain payload with the table's name was sent by somebody else.
    pub sends_plain_form: bool,
    /// Whether the row in a payload has every column that the cache keeps. A trigger sees null in a
    /// virtual generated column, so such a table's rows are refetched.
    pub sends_whole_rows: bool,
    /// Whether the table may be read on a session of its own, beside Q: it has so many rows that
    /// the session is worth its cost, and its lock keeps no other session of ours out.
    pub is_for_side_read: bool,
    /// The columns and the key, by which two spellings of one key are told to be one. `None` if
    /// nobody can spell a key in two ways.
    pub shape: Option<Arc<TableShape>>,
}

/// One of the two connections that are not L.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuxConnection {
    /// F, which sends fences.
    Fences,
    /// Q, which reads tables.
    Reads,
}

impl AuxConnection {
    /// Returns the purpose of the connection for a message: "for fences".
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Fences => "for fences",
            Self::Reads => "for reading",
        }
    }
}

/// The session that reads a whole table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reader {
    /// Q.
    Q,
    /// A session beside Q, for this read or for several. Before it reads, L must have heard a token
    /// of it: otherwise it may lead to another server than L. If anything is the matter with it,
    /// say [`Input::SideReadLost`].
    Side,
}

/// Number of a fence that a caller asked for. A caller who asks later has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceId(pub u64);

/// An event that the driver reports.
#[derive(Debug)]
pub enum Input<'a> {
    /// L, F and Q are connected, and the LISTEN that [`Output::Connect`] asked for is committed.
    Listening,
    /// The connections that [`Output::Connect`] asked for could not be opened.
    ConnectFailed {
        /// Error code of the server, as in [`Input::ReadFailed`].
        code: Option<String>,
        /// Cause of the failure.
        why: String,
        /// Whether trying again is of no use: a standby, a privilege.
        is_permanent: bool,
    },
    /// L received a notification.
    Notification {
        /// Channel of the notification.
        channel: &'a str,
        /// Payload of the notification.
        payload: &'a str,
        /// The server's process whose session sent the notification.
        sender: i32,
    },
    /// The server has acknowledged a NOTIFY: the token is committed, and must come back in time.
    Sent {
        /// Token of the NOTIFY.
        token: &'a str,
        /// Snapshot that the same session took before it committed the NOTIFY; `None` if it took
        /// none.
        snapshot: Option<Snapshot>,
    },
    /// The server gave up a NOTIFY that waited behind other commits (`55P03`).
    SendBlocked {
        /// Token of the NOTIFY.
        token: &'a str,
    },
    /// Q read `pg_current_snapshot()` for a read of a table. The rows come from that snapshot.
    SnapshotTaken {
        /// Table that is read.
        table: TableId,
        /// Generation of the read.
        generation: u64,
        /// Snapshot of the read.
        snapshot: Snapshot,
    },
    /// The leaves of a partitioned table were read. Their triggers send payloads with the root's
    /// name. A payload of any other leaf makes the table be reloaded.
    LeavesSeen {
        /// Partitioned table.
        table: TableId,
        /// Oids of the leaves.
        leaves: Vec<u32>,
        /// Oids of the leaves that are being detached. Their triggers still fire, but their rows
        /// are not the table's any more.
        detaching: Vec<u32>,
    },
    /// All rows of a read are in the cache.
    SnapshotLoaded {
        /// Table that was read.
        table: TableId,
        /// Generation of the read.
        generation: u64,
        /// Whether the cache had other rows before.
        has_changed: bool,
    },
    /// The rows of an [`Output::Refetch`] have come.
    Refetched {
        /// Table of the rows.
        table: TableId,
        /// Batch of the refetch.
        batch: u64,
        /// Snapshot that the rows come from.
        snapshot: Snapshot,
    },
    /// Q could not read a table or rows. The connection is in order.
    ReadFailed {
        /// Table of the read.
        table: TableId,
        /// Generation of the read, or batch of the refetch.
        work: u64,
        /// Error code of the server; `None` for a failure that passes by itself, for example a lock
        /// that is held. The third failure in a row with one code is a refusal.
        code: Option<String>,
        /// Cause of the failure.
        why: String,
        /// Whether trying again is of no use.
        is_permanent: bool,
    },
    /// The session of a side read could not be opened or proven, or was lost. Q reads the table
    /// instead.
    SideReadLost {
        /// Table of the read.
        table: TableId,
        /// Generation of the read.
        generation: u64,
        /// Cause of the failure.
        why: String,
    },
    /// The session of a side read is still being opened, and Q could read: see
    /// [`Engine::could_read_on_q`](super::Engine::could_read_on_q). Q reads the table instead.
    SideReadLate {
        /// Table of the read.
        table: TableId,
        /// Generation of the read.
        generation: u64,
    },
    /// A change that was handed out could not be applied. The table must be reloaded.
    ChangeUnfit {
        /// Table of the change.
        table: TableId,
        /// Reason why the change does not fit.
        why: String,
        /// The server's process that sent the notification, if one did.
        sender: Option<i32>,
    },
    /// The driver can say more in the cause of a table's state: `of` in the text becomes `known`.
    CauseKnown {
        /// Table whose cause it is.
        table: TableId,
        /// Words in the cause, for example "(sent by process 12)".
        of: &'a str,
        /// Words to put in their place.
        known: &'a str,
    },
    /// A table's cache cannot be changed, since a reader holds the lock.
    ///
    /// Outputs that were handed out wait with the driver, in order, and so do fences that are
    /// reached behind them. Changes that come from now on are kept by key in the engine.
    CacheBusy {
        /// Table of the cache.
        table: TableId,
    },
    /// A table's cache can be changed again, and every output that was handed out is carried out.
    CacheFree {
        /// Table of the cache.
        table: TableId,
    },
    /// Something happened to the table that no notification tells. The table must be read again.
    TableAltered {
        /// Altered table.
        table: TableId,
        /// What is seen of the alteration.
        why: String,
    },
    /// A look has compared a table's files, since
    /// [`Engine::must_be_truncated`](super::Engine::must_be_truncated) says that a TRUNCATE must
    /// have replaced them.
    TruncateSeen {
        /// Table whose files were compared.
        table: TableId,
        /// Whether the table has other files.
        has_happened: bool,
    },
    /// The table cannot be followed as it is: nothing announces its changes, its definition is
    /// being read, or the table is gone. Nothing of the table is read or changed until
    /// [`Input::TableFollowed`].
    TableHeld {
        /// Held table.
        table: TableId,
        /// Reason, and what to do about it.
        why: String,
    },
    /// The table can be followed from now on, by a new specification. The table is read anew.
    TableFollowed {
        /// Table to follow.
        table: TableId,
        /// Specification of the table as it is now.
        followed: Box<TableSpec>,
    },
    /// There is no room for the table's rows, and the read is over. The table is read again after a
    /// while.
    TableFailed {
        /// Table without room.
        table: TableId,
        /// Cause of the failure.
        why: String,
        /// Whether trying again is of no use. That ends a replica that was never live.
        is_permanent: bool,
    },
    /// The tables' triggers notify on these channels from now on.
    ///
    /// Say this before the [`Input::TableFollowed`] of a table whose trigger notifies on a new
    /// channel. Such a table is read once L listens on the channel.
    ChannelsChanged(Vec<String>),
    /// The LISTEN that [`Output::ListenAlso`] asked for is committed.
    ListensAlso,
    /// The look that [`Output::Look`] asked for is done. Say what it found before this, as
    /// [`Input::TableAltered`], [`Input::TableHeld`] or [`Input::TruncateSeen`].
    Looked {
        /// Number of the look.
        look: u64,
    },
    /// The look that [`Output::Look`] asked for failed. The connection is in order.
    LookFailed {
        /// Number of the look.
        look: u64,
        /// Cause of the failure.
        why: String,
    },
    /// There is no memory for the changes that wait; see
    /// [`Engine::waiting_bytes`](super::Engine::waiting_bytes). The table with the most of them is
    /// read again instead.
    MemoryShort,
    /// A caller asks whether a table's cache is equal to the table.
    VerifyWanted {
        /// Table to compare.
        table: TableId,
        /// Caller's number for the question, which [`Output::ComparisonEnded`] repeats.
        question: u64,
    },
    /// Q has taken the snapshot that a comparison compares with.
    CutTaken {
        /// Table to compare.
        table: TableId,
        /// Number of the comparison.
        comparison: u64,
        /// Snapshot of the comparison.
        snapshot: Snapshot,
    },
    /// Every row of a comparison's snapshot was compared.
    Compared {
        /// Compared table.
        table: TableId,
        /// Number of the comparison.
        comparison: u64,
    },
    /// A comparison cannot be finished.
    ComparisonFailed {
        /// Table to compare.
        table: TableId,
        /// Number of the comparison.
        comparison: u64,
        /// Cause of the failure.
        why: String,
    },
    /// Somebody asks that a table's cache stand still; see [`freeze`](super::freeze). L has
    /// received the question, and every change before it was handed in.
    FreezeWanted {
        /// Table whose cache is to stand still.
        table: TableId,
        /// Driver's number for the freeze.
        freeze: u64,
    },
    /// Somebody asks for digests of a frozen cache, as of a snapshot that was taken after the
    /// freeze. L has received the question, and every change before it was handed in.
    FreezeCut {
        /// Frozen table.
        table: TableId,
        /// Number of the freeze.
        freeze: u64,
        /// Snapshot of whoever asks. Any role can make one up.
        snapshot: Snapshot,
    },
    /// The digests that [`Output::Frozen`] asked for are computed, or nobody wants them any more.
    FreezeOver {
        /// Frozen table.
        table: TableId,
        /// Number of the freeze.
        freeze: u64,
    },
    /// Callers wait for transactions, and ask for a fence whose snapshot is to count soon.
    TransactionWanted {
        /// The fence that they ask for.
        fence: FenceId,
        /// Whether they have asked before.
        is_repeated: bool,
    },
    /// A caller asks for a fence.
    FenceWanted(FenceId),
    /// F or Q is lost, and L is not. The engine asks again for everything that the connection
    /// carried.
    AuxConnectionLost {
        /// Lost connection.
        via: AuxConnection,
        /// Cause of the loss.
        why: String,
    },
    /// The connection that [`Output::Reopen`] asked for is open.
    Reopened {
        /// Opened connection.
        via: AuxConnection,
    },
    /// The connection that [`Output::Reopen`] asked for could not be opened.
    ReopenFailed {
        /// Connection that was to be opened.
        via: AuxConnection,
        /// Error code of the server, as in [`Input::ReadFailed`].
        code: Option<String>,
        /// Cause of the failure.
        why: String,
        /// Whether trying again is of no use.
        is_permanent: bool,
    },
    /// L is lost, or all connections are, for this reason.
    Lost(String),
    /// The driver cannot go on, whatever the server does.
    GivenUp(Failure),
    /// Time has passed, and L has no more notifications to hand in.
    ///
    /// Only this input makes a deadline count as missed. Otherwise a token that has arrived, and
    /// was not handed in yet, would be taken for lost.
    TimePassed,
}

/// A task for the driver. Tasks are carried out in the order in which they are handed out.
#[derive(Debug)]
#[must_use]
pub enum Output {
    /// Drop the connections that are open, open L, F and Q, and LISTEN on these channels on L. Then
    /// say [`Input::Listening`] or [`Input::ConnectFailed`].
    Connect {
        /// Channels to listen on. The fence channel is the last.
        channels: Vec<String>,
    },
    /// LISTEN on these channels as well, on L. Then say [`Input::ListensAlso`], or [`Input::Lost`]
    /// if that fails.
    ListenAlso {
        /// Further channels.
        channels: Vec<String>,
    },
    /// NOTIFY the token on the fence channel. Then say [`Input::Sent`] or [`Input::SendBlocked`].
    Notify {
        /// Connection to send by.
        via: AuxConnection,
        /// Fence channel.
        channel: String,
        /// Payload to send.
        token: String,
    },
    /// Read the table: lock, snapshot, COPY. Merge the rows into those that the cache has, and at
    /// the end remove the rows that did not come.
    ReadTable {
        /// Table to read.
        table: TableId,
        /// Generation of the read, to be repeated in the answers.
        generation: u64,
        /// Where to read.
        reader: Reader,
    },
    /// Read the rows of these keys on Q, and the snapshot that they come from. Keep the rows until
    /// [`Output::Store`].
    Refetch {
        /// Table of the rows.
        table: TableId,
        /// Batch, to be repeated in the answer.
        batch: u64,
        /// Keys as JSON.
        keys: Vec<String>,
        /// Whether to read inside the transaction of the comparison that is underway, so that the
        /// rows are of its snapshot.
        is_within_comparison: bool,
    },
    /// Begin a transaction on Q that locks the table, take a snapshot, and say
    /// [`Input::CutTaken`]. The transaction stays open.
    TakeCut {
        /// Table to compare.
        table: TableId,
        /// Number of the comparison.
        comparison: u64,
    },
    /// Compare the cache with every row of the comparison's snapshot. Then end the transaction and
    /// say [`Input::Compared`].
    ///
    /// The cache is as of that snapshot once all earlier outputs are carried out. The engine hands
    /// out no change of this cache before the comparison has ended.
    Compare {
        /// Table to compare.
        table: TableId,
        /// Number of the comparison.
        comparison: u64,
    },
    /// A comparison is over. Its transaction need not go on.
    ComparisonEnded {
        /// Compared table.
        table: TableId,
        /// Caller's number of the question that this answers.
        question: u64,
        /// Why the comparison does not count; `None` if the cache was compared with the table at
        /// one exact cut.
        inconclusive: Option<String>,
        /// Why a difference that was found proves nothing: a notification has asked for a reload
        /// that is not done yet. If the cache and the table are equal, that counts all the same.
        doubt: Option<String>,
    },
    /// Compute the digests of a cache, once all earlier outputs are carried out: the cache is the
    /// freeze's snapshot, except for open rows. Then say [`Input::FreezeOver`]. Until then only
    /// open rows change.
    Frozen {
        /// Frozen table.
        table: TableId,
        /// Number of the freeze.
        freeze: u64,
        /// Keys of the open rows, as JSON. Leave these rows out.
        open: Vec<String>,
    },
    /// A freeze is over, and no digests can be computed.
    FreezeFailed {
        /// Table that was to be frozen.
        table: TableId,
        /// Number of the freeze.
        freeze: u64,
        /// Cause of the failure.
        why: String,
    },
    /// Store the rows of a refetch in the cache, and remove each key that was asked for and did not
    /// come.
    Store {
        /// Table of the rows.
        table: TableId,
        /// Batch of the refetch.
        batch: u64,
    },
    /// Apply a change to the cache.
    Apply {
        /// Table of the change.
        table: TableId,
        /// Change to apply.
        change: Change,
    },
    /// Remove every row of the cache but those of these keys.
    Clear {
        /// Table of the cache.
        table: TableId,
        /// Keys as JSON.
        keep: Vec<String>,
    },
    /// Look at the definitions of the tables on F, beginning now. Then say [`Input::Looked`] or
    /// [`Input::LookFailed`].
    Look {
        /// Number of the look, to be repeated in the answer.
        look: u64,
    },
    /// Give up the read of a table, or of rows of it, that is underway.
    GiveUpRead {
        /// Table of the read.
        table: TableId,
    },
    /// Every change that was committed before this fence was asked for is in the table's cache.
    /// That includes every lower fence, for which there may be no output of its own.
    FenceReached {
        /// Table of the cache.
        table: TableId,
        /// Highest fence that is reached.
        fence: FenceId,
    },
    /// The state of a table has changed. This comes before the [`Output::StateChanged`] of the same
    /// event.
    TableStateChanged {
        /// Table whose state it is.
        table: TableId,
        /// New state.
        state: State,
    },
    /// The state of the replica, which is the least of its tables' states, has changed.
    StateChanged(State),
    /// Commits wait for the notify lock longer than a fence may. Nothing is lost, but nothing
    /// arrives.
    CommitsBlocked,
    /// F or Q is lost. Drop the connection. The rows are as live as they were.
    AuxConnectionLost {
        /// Lost connection.
        via: AuxConnection,
        /// Cause of the loss.
        why: String,
        /// Time until the connection is opened again.
        retry_in: Duration,
    },
    /// Open F or Q anew. Then say [`Input::Reopened`] or [`Input::ReopenFailed`].
    Reopen {
        /// Connection to open.
        via: AuxConnection,
    },
    /// A table is to be read again. This is news for people; nothing is to be done.
    ReadScheduled {
        /// Table to read.
        table: TableId,
        /// Cause of the read.
        why: String,
        /// The server's process whose notification is the cause, if one is.
        sender: Option<i32>,
    },
    /// The replica is stale from now on. Drop all connections.
    Disconnected {
        /// Cause of the gap.
        failure: Failure,
        /// Time until the connections are opened again; `None` if the replica has ended.
        retry_in: Option<Duration>,
    },
}
