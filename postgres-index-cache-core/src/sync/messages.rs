//! What the engine is told and what it asks for: [`Input`], [`Output`], and the words that they
//! use.

use super::change::Change;
use super::snapshot::Snapshot;
use std::time::Duration;

/// A followed table, by its position in what [`Engine::new`](super::Engine::new) was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub usize);

/// A table to follow.
#[expect(
    clippy::struct_excessive_bools,
    reason = "four facts of the catalogue, each on its own"
)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its oid: a payload that names another one is not about this table.
    pub oid: u32,
    /// The oids of its leaves, where it is partitioned: they announce in its name.
    pub leaves: Vec<u32>,
    /// Whether it is partitioned. Leaves may be made later: a payload of one that is not known
    /// makes it be read again.
    pub is_partitioned: bool,
    /// Whether its key is deferrable: two rows may then have one key for a while inside a
    /// transaction.
    pub deferrable_key: bool,
    /// Whether its trigger sends the plain form. It names no schema, so for a table whose trigger
    /// sends the extended form, a plain payload of the same name is somebody else's.
    pub sends_plain_form: bool,
    /// Whether a payload's row has every column that is kept. A trigger sees null in a virtual
    /// generated column.
    pub sends_whole_rows: bool,
}

/// Bounds that the engine keeps.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limits {
    /// How long a probe may take to come back.
    pub probe_timeout: Duration,
    /// How long a fence may take to come back: a commit that holds the notify lock holds it up too.
    pub fence_timeout: Duration,
    /// How many bytes of payloads may wait while a table, or rows of it, are read; past it the
    /// table is read again. And while a cache cannot be changed; past it rows are read again, and
    /// if even their keys are too many, the table.
    pub waiting_bytes: usize,
    /// How often a fence is sent when nobody asks for one: a dead connection is noticed within this
    /// and the fence timeout.
    pub heartbeat: Duration,
    /// Whether a lost connection is opened again.
    pub reconnect: bool,
    /// Whether each fence asks for a look at the definitions of the tables ([`Output::Look`]).
    pub watch_ddl: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            probe_timeout: Duration::from_secs(10),
            fence_timeout: Duration::from_secs(30),
            waiting_bytes: 256 << 20,
            heartbeat: Duration::from_secs(5),
            reconnect: true,
            watch_ddl: true,
        }
    }
}

impl Limits {
    /// Returns how long the server may take to commit a NOTIFY. When commits are blocked the server
    /// gives it up by itself before that, and the driver says so ([`Input::SendBlocked`]).
    pub(super) fn send_timeout(&self) -> Duration {
        2 * self.probe_timeout
    }
}

/// Which connection sends a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuxConnection {
    /// F, the one for fences.
    Fences,
    /// Q, the one that reads.
    Reads,
}

impl AuxConnection {
    /// What the connection is for: "for fences".
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Fences => "for fences",
            Self::Reads => "for reading",
        }
    }
}

/// The number of a fence that a caller asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceId(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Input<'a> {
    /// L, F and Q are connected, and the LISTEN that was asked for is committed.
    Listening,
    /// They could not be had.
    ConnectFailed {
        /// The server's error code, as in [`Input::ReadFailed`].
        code: Option<String>,
        /// What went wrong.
        why: String,
        /// Whether to try again is of no use: a standby, a privilege.
        is_permanent: bool,
    },
    /// L received a notification.
    Notification {
        /// Its channel.
        channel: &'a str,
        /// Its payload.
        payload: &'a str,
        /// The server's process whose session sent it.
        sender: i32,
    },
    /// The server has acknowledged a NOTIFY: it is committed, and must come back from now on.
    Sent {
        /// Its token.
        token: &'a str,
    },
    /// The server gave up a NOTIFY that waited behind other commits (`55P03`).
    SendBlocked {
        /// Its token.
        token: &'a str,
    },
    /// Q read `pg_current_snapshot()` for a read that was asked for; its rows come from that
    /// snapshot.
    SnapshotTaken {
        /// The table.
        table: TableId,
        /// The generation of the read.
        generation: u64,
        /// The snapshot.
        snapshot: Snapshot,
    },
    /// The leaves that the table has, which announce in its name: a payload of any other makes it
    /// be read again.
    LeavesSeen {
        /// The table.
        table: TableId,
        /// Their oids.
        leaves: Vec<u32>,
        /// Those that are being detached: their triggers still fire, and their rows are not the
        /// table's any more.
        detaching: Vec<u32>,
    },
    /// All rows of that read are in the cache.
    SnapshotLoaded {
        /// The table.
        table: TableId,
        /// The generation of the read.
        generation: u64,
        /// Whether they were others than the cache had.
        has_changed: bool,
    },
    /// The rows of a [`Output::Refetch`] have come.
    Refetched {
        /// The table.
        table: TableId,
        /// The batch that was asked for.
        batch: u64,
        /// The snapshot that they come from.
        snapshot: Snapshot,
    },
    /// Q could not do what it was asked for; the connection is in order.
    ReadFailed {
        /// The table.
        table: TableId,
        /// The generation of the read, or the batch.
        work: u64,
        /// The server's error code; `None` for what passes by itself, a lock that is held for
        /// example. The same one three times in a row is a refusal.
        code: Option<String>,
        /// What went wrong.
        why: String,
        /// Whether to try again is of no use.
        is_permanent: bool,
    },
    /// A change that was handed out could not be applied: the table must be read again.
    ChangeUnfit {
        /// The table.
        table: TableId,
        /// What was wrong with it.
        why: String,
        /// The server's process whose notification it was.
        sender: Option<i32>,
    },
    /// More is known of what a cause names: `of` in it becomes `known`.
    CauseKnown {
        /// The table.
        table: TableId,
        /// What is named.
        of: &'a str,
        /// The same with what is known.
        known: &'a str,
    },
    /// The table's cache cannot be changed: somebody holds its lock. What was handed out waits with
    /// the driver, in order, and so do fences that were reached behind it; what comes from now on
    /// is kept by key.
    CacheBusy {
        /// The table.
        table: TableId,
    },
    /// It can be changed again, and what had been handed out is done.
    CacheFree {
        /// The table.
        table: TableId,
    },
    /// Something happened to the table that no notification tells: it must be read again.
    TableAltered {
        /// The table.
        table: TableId,
        /// What is seen of it.
        why: String,
    },
    /// A look has seen that a table has other files, or has not, though
    /// [`Engine::must_be_truncated`](super::Engine::must_be_truncated) says that it must.
    TruncateSeen {
        /// The table.
        table: TableId,
        /// Whether the table has other files.
        has_happened: bool,
    },
    /// The table cannot be followed as it is: nothing announces it any more, it is being looked
    /// into, it is gone. Nothing of it is read or changed until [`Input::TableFollowed`].
    TableHeld {
        /// The table.
        table: TableId,
        /// Why, and what to do about it.
        why: String,
    },
    /// The table can be followed, as this says from now on: it is read anew.
    TableFollowed {
        /// The table.
        table: TableId,
        /// What is known of it.
        followed: Box<TableSpec>,
    },
    /// The table cannot be kept for want of room; its read is over. It is read again after a while.
    TableFailed {
        /// The table.
        table: TableId,
        /// What went wrong.
        why: String,
        /// Whether to try again is of no use, as long as it was never live.
        is_permanent: bool,
    },
    /// The tables' triggers notify on these channels from now on. It comes before
    /// [`Input::TableFollowed`] of a table whose trigger notifies on a new one: that table is read
    /// once L listens on it.
    ChannelsChanged(Vec<String>),
    /// The LISTEN that [`Output::ListenAlso`] asked for is committed.
    ListensAlso,
    /// The look that [`Output::Look`] asked for is done. What it found is said before, as
    /// [`Input::TableAltered`] or [`Input::TableHeld`].
    Looked {
        /// The number of the look.
        look: u64,
    },
    /// That look could not be done; the connection is in order.
    LookFailed {
        /// The number of the look.
        look: u64,
        /// What went wrong.
        why: String,
    },
    /// There is no memory for what waits, [`Engine::waiting_bytes`](super::Engine::waiting_bytes):
    /// the table that most waits for is read again in its place.
    MemoryShort,
    /// The caller asks whether the table's cache is equal to the table.
    VerifyWanted {
        /// The table.
        table: TableId,
        /// The caller's number for the question, said in [`Output::ComparisonEnded`].
        question: u64,
    },
    /// Q has taken the snapshot that a comparison compares with.
    CutTaken {
        /// The table.
        table: TableId,
        /// The comparison.
        comparison: u64,
        /// The snapshot.
        snapshot: Snapshot,
    },
    /// Every row of that snapshot was compared.
    Compared {
        /// The table.
        table: TableId,
        /// The comparison.
        comparison: u64,
    },
    /// A comparison cannot be finished.
    ComparisonFailed {
        /// The table.
        table: TableId,
        /// The comparison.
        comparison: u64,
        /// What went wrong.
        why: String,
    },
    /// The caller asks for a fence.
    FenceWanted(FenceId),
    /// F or Q is lost; L is not. What it was asked for is asked for again.
    AuxConnectionLost {
        /// Which.
        via: AuxConnection,
        /// What went wrong.
        why: String,
    },
    /// What [`Output::Reopen`] asked for is open.
    Reopened {
        /// Which.
        via: AuxConnection,
    },
    /// It could not be had.
    ReopenFailed {
        /// Which.
        via: AuxConnection,
        /// The server's error code, as in [`Input::ReadFailed`].
        code: Option<String>,
        /// What went wrong.
        why: String,
        /// Whether to try again is of no use.
        is_permanent: bool,
    },
    /// L is lost, or all are.
    Lost(String),
    /// The driver cannot go on, whatever the server does.
    GivenUp(Failure),
    /// Nothing but time: say it when L has nothing more. Only then is a deadline taken for missed,
    /// since what is awaited may have arrived and not been handed in.
    TimePassed,
}

/// What is to be done, in this order.
#[derive(Debug)]
#[must_use]
pub enum Output {
    /// Drop the connections that there are, open L, F and Q, LISTEN on these channels on L, then
    /// say [`Input::Listening`] or [`Input::ConnectFailed`].
    Connect {
        /// The channels, that for fences the last.
        channels: Vec<String>,
    },
    /// LISTEN on these channels as well, on L, then say [`Input::ListensAlso`], or [`Input::Lost`]
    /// when it fails.
    ListenAlso {
        /// The channels.
        channels: Vec<String>,
    },
    /// NOTIFY the token on the fence channel, then say [`Input::Sent`].
    Notify {
        /// By which connection.
        via: AuxConnection,
        /// The fence channel.
        channel: String,
        /// The payload to send.
        token: String,
    },
    /// Read the table on Q: lock, snapshot, COPY. Its rows are laid over those that the cache has;
    /// what is not among them is removed at the end.
    ReadTable {
        /// The table.
        table: TableId,
        /// To be said in the answers.
        generation: u64,
    },
    /// Read the rows of these keys on Q, and the snapshot that they come from; keep them until
    /// [`Output::Store`].
    Refetch {
        /// The table.
        table: TableId,
        /// To be said in the answer.
        batch: u64,
        /// The keys, as JSON.
        keys: Vec<String>,
        /// Whether to read them inside the transaction of the comparison that is underway, which shall
        /// compare with them.
        is_within_comparison: bool,
    },
    /// Begin a transaction on Q that locks the table, take its snapshot, and say
    /// [`Input::CutTaken`]. The transaction stays.
    TakeCut {
        /// The table.
        table: TableId,
        /// The comparison.
        comparison: u64,
    },
    /// Compare the cache with every row of the comparison's snapshot, then end its transaction and say
    /// [`Input::Compared`]. The cache is as of that snapshot once what was handed out before is
    /// done, and is not changed meanwhile.
    Compare {
        /// The table.
        table: TableId,
        /// The comparison.
        comparison: u64,
    },
    /// A comparison is over; its transaction need not go on.
    ComparisonEnded {
        /// The table.
        table: TableId,
        /// The number of the question that it answers.
        question: u64,
        /// Why it does not count; `None`: the cache was compared with the table at one exact cut.
        inconclusive: Option<String>,
        /// Why a difference that was found proves nothing: a notification has asked for the table
        /// to be read again, and that is not done yet. Equal is equal all the same.
        doubt: Option<String>,
    },
    /// Put the rows of a refetch into the cache; a key that was asked for and did not come is
    /// absent.
    Store {
        /// The table.
        table: TableId,
        /// The batch.
        batch: u64,
    },
    /// Apply a change to the cache.
    Apply {
        /// The table.
        table: TableId,
        /// The change.
        change: Change,
    },
    /// Remove every row of the cache but those of these keys.
    Clear {
        /// The table.
        table: TableId,
        /// The keys, as JSON.
        keep: Vec<String>,
    },
    /// Look at the definitions of the tables on F, from now on, and say [`Input::Looked`] or
    /// [`Input::LookFailed`].
    Look {
        /// To be said in the answer.
        look: u64,
    },
    /// The read of a table, or of rows of it, that is underway is not wanted any more.
    GiveUpRead {
        /// The table.
        table: TableId,
    },
    /// Everything that was committed before this fence was asked for is in the cache of this table;
    /// and so for every lower one, which is not told by itself.
    FenceReached {
        /// The table.
        table: TableId,
        /// The fence.
        fence: FenceId,
    },
    /// The state of a table is another one. It is said before [`Output::StateChanged`].
    TableStateChanged {
        /// The table.
        table: TableId,
        /// Its state.
        state: State,
    },
    /// The state of all together is another one.
    StateChanged(State),
    /// Commits wait for the notify lock longer than a fence may: nothing is lost, nothing arrives.
    CommitsBlocked,
    /// F or Q is lost: it is to be dropped. The rows are as live as they were.
    AuxConnectionLost {
        /// Which.
        via: AuxConnection,
        /// Why.
        why: String,
        /// When it will be opened again.
        retry_in: Duration,
    },
    /// Open F or Q anew, and say [`Input::Reopened`] or [`Input::ReopenFailed`].
    Reopen {
        /// Which.
        via: AuxConnection,
    },
    /// A table is to be read again, and why.
    ReadScheduled {
        /// The table.
        table: TableId,
        /// The cause.
        why: String,
        /// The server's process whose notification is the cause, if one is.
        sender: Option<i32>,
    },
    /// It is stale from now on: the connections are to be dropped.
    Disconnected {
        /// Why.
        failure: Failure,
        /// When it will connect again; `None`: never.
        retry_in: Option<Duration>,
    },
}

/// How far the replica is, or one of its tables. The least of the tables' states is that of the
/// replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Entered at the start, when a connection is lost and after a failure. Nothing is known of the
    /// tables.
    Disconnected,
    /// Entered when the connections are there. LISTEN is asked for and not yet committed.
    Subscribing,
    /// Entered when LISTEN is committed. Whether notifications arrive is not known yet.
    Probing,
    /// Entered when a table cannot be followed or read: its definition is another one, nothing
    /// announces it, its last read failed. [`Engine::cause`](super::Engine::cause) says why. It is
    /// tried again for ever.
    Stale,
    /// Entered when a table that is to be read again must wait, since it was read a moment ago:
    /// [`Engine::cause`](super::Engine::cause) says why. It is read at the rate that it can be, and
    /// not live in between. Whoever asks for a fence waits for one read at most.
    Degraded,
    /// Entered when both probes came back. The table has not been read.
    Snapshotting,
    /// Entered when the table is read. The cache is its table as of some moment; no fence has
    /// proven which. Also while a cache cannot be changed: it is its table as of when it last
    /// could.
    CatchingUp,
    /// Entered when a fence that was sent after the last read came back, and a look at the
    /// definitions that was asked for with it is done. The cache is its table as of the last fence
    /// or later.
    Live,
}

/// Why the replica cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// A probe did not come back.
    #[error(
        "a notification sent by {} connection did not arrive within {} s",
        match via { AuxConnection::Fences => "a second", AuxConnection::Reads => "the reading" },
        waited.as_secs()
    )]
    ProbeLost {
        /// By which connection it was sent.
        via: AuxConnection,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A fence did not come back.
    #[error("a notification that should have come back did not within {} s", waited.as_secs())]
    FenceLost {
        /// How long it was waited for.
        waited: Duration,
    },
    /// A connection was lost.
    #[error("a connection was lost: {0}")]
    ConnectionLost(String),
    /// A connection was lost again and again while a table was read, before anything was live.
    #[error("the connection was lost {why}")]
    ReadsCut {
        /// How often, while which table was read, and why the last time.
        why: String,
    },
    /// The connections could not be had.
    #[error("{0}")]
    ConnectFailed(String),
    /// Nothing announces a table's changes any more.
    #[error(
        "the trigger \"{trigger}\" of {name} is gone or disabled: changes of the table are not \
        announced"
    )]
    NotFollowed {
        /// The table.
        name: String,
        /// The trigger.
        trigger: String,
    },
    /// A table cannot be read, and to try again is of no use.
    #[error("{why}")]
    ReadRefused {
        /// The table.
        table: TableId,
        /// What the server said.
        why: String,
    },
}

/// What has been counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Notifications received, fences not counted.
    pub received: u64,
    /// Changes handed out to be applied.
    pub applied: u64,
    /// Changes skipped because the snapshot has them.
    pub skipped: u64,
    /// Notifications of tables that are not followed, or of another table of the same name.
    pub other_tables: u64,
    /// Payloads that are no notification.
    pub invalid: u64,
    /// Reads of a table that a change asked for.
    pub reloads: u64,
    /// Rows that were read again by their keys.
    pub refetched: u64,
    /// Changes that were dropped because a later one of the same key came while the cache could not
    /// be changed.
    pub collapsed: u64,
    /// Times that the connections were lost.
    pub gaps: u64,
    /// Times that F or Q was lost alone.
    pub reopened: u64,
    /// Changes in the plain form: they carry no xid, so nothing about them can be proven.
    pub plain: u64,
}
