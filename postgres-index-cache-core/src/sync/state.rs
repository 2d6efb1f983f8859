//! The bounds that the engine keeps, the states that it says, and the figures that it counts.

use super::{AuxConnection, TableId};
use serde::Serialize;
use std::num::NonZero;
use std::time::Duration;

/// Bounds that the engine keeps.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limits {
    /// How long a probe may take to come back.
    pub probe_timeout: Duration,
    /// How long a fence may take to come back. The time runs anew once the server has committed the
    /// fence's NOTIFY, or has given it up: a commit that holds the notify lock holds it up too.
    pub fence_timeout: Duration,
    /// How many bytes of payloads may wait.
    ///
    /// Past this bound, a table is read again if the payloads wait for a read or a refetch. If they
    /// wait for a locked cache, their rows are refetched instead, and if even their keys are too
    /// many bytes, the table is read again.
    pub waiting_bytes: usize,
    /// How often a fence is sent if nobody asks for one. A dead connection is noticed within a
    /// heartbeat and a fence timeout.
    pub heartbeat: Duration,
    /// Whether a lost connection is opened again.
    pub reconnect: bool,
    /// Whether each fence asks for a look at the definitions of the tables.
    pub watch_ddl: bool,
    /// How many large tables may be read beside the one that Q reads, each on a session of its own
    /// that is closed when the read is done. A table is large from about 20,000 rows on.
    ///
    /// A read keeps one core busy here, and one of the server. So by default this is one less than
    /// half of the machine's cores, and at most three: none on two cores, one on four.
    pub side_reads: usize,
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
            side_reads: (cores() / 2).saturating_sub(1).min(3),
        }
    }
}

/// Returns the number of cores that the process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

impl Limits {
    /// Returns how long the server may take to commit a NOTIFY. If commits are blocked, the server
    /// gives the NOTIFY up sooner, and the driver says [`Input::SendBlocked`].
    pub(super) fn send_timeout(&self) -> Duration {
        2 * self.probe_timeout
    }
}

/// How far the replica is, or one of its tables. The state of the replica is the least of its
/// tables' states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Entered at the start, when L is lost, and after a failure. Nothing is known of the tables.
    Disconnected,
    /// Entered when the driver is asked to connect and to LISTEN. The LISTEN is not yet committed.
    Subscribing,
    /// Entered when the LISTEN is committed. Nobody knows yet whether notifications arrive.
    Probing,
    /// Entered when a table cannot be followed or read: its definition is another one, nothing
    /// announces its changes, or its last read failed. [`Engine::cause`](super::Engine::cause) says
    /// why. The table is tried again for ever.
    Stale,
    /// Entered when a table that is to be read again must wait, since it was read a moment ago.
    /// [`Engine::cause`](super::Engine::cause) says why. In between the table is not live. Whoever
    /// asks for a fence waits for one read at most.
    Degraded,
    /// Entered when both probes came back. The table has not been read.
    Snapshotting,
    /// Entered when the table is read. The cache is its table as of some moment, but no fence has
    /// proven which. A table whose cache cannot be changed is in this state too: the cache is its
    /// table as of when it could last be changed.
    CatchingUp,
    /// Entered when a fence that was sent after the last read came back, and the look at the
    /// definitions that was asked for with the fence is done. The cache is its table as of the last
    /// fence or later.
    Live,
}

impl State {
    /// Returns the state in one word, as people and programs are told it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Subscribing | Self::Probing => "connecting",
            Self::Stale => "stale",
            Self::Degraded => "degraded",
            Self::Snapshotting => "loading",
            Self::CatchingUp => "behind",
            Self::Live => "live",
        }
    }
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
        /// Connection that sent the probe.
        via: AuxConnection,
        /// Time for which the probe was awaited.
        waited: Duration,
    },
    /// A fence did not come back.
    #[error("a notification that should have come back did not within {} s", waited.as_secs())]
    FenceLost {
        /// Time for which the fence was awaited.
        waited: Duration,
    },
    /// A connection was lost.
    #[error("a connection was lost: {0}")]
    ConnectionLost(String),
    /// A connection was lost again and again while a table was read, before anything was live.
    #[error("the connection was lost {why}")]
    ReadsCut {
        /// How often, while which table was read, and the cause of the last loss.
        why: String,
    },
    /// The connections could not be opened.
    #[error("{0}")]
    ConnectFailed(String),
    /// Nothing announces a table's changes any more.
    #[error(
        "the trigger \"{trigger}\" of {name} is gone or disabled: changes of the table are not \
        announced"
    )]
    NotFollowed {
        /// Name of the table.
        name: String,
        /// Name of the trigger.
        trigger: String,
    },
    /// A table cannot be read, and trying again is of no use.
    #[error("{why}")]
    ReadRefused {
        /// Table that cannot be read.
        table: TableId,
        /// Error of the server.
        why: String,
    },
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Notifications received, without fences.
    pub received: u64,
    /// Changes handed out to be applied.
    pub applied: u64,
    /// Changes skipped because a snapshot, or a row that is refetched, has them.
    pub skipped: u64,
    /// Notifications of tables that are not followed, or of another table with a followed table's
    /// name.
    pub other_tables: u64,
    /// Payloads that are no notification.
    pub invalid: u64,
    /// Reads of a table beyond the first that something asked for.
    pub reloads: u64,
    /// Rows that were refetched.
    pub refetched: u64,
    /// Changes that were dropped because a later one of the same key came while the cache could not
    /// be changed.
    pub collapsed: u64,
    /// Times that all connections were dropped.
    pub gaps: u64,
    /// Times that F or Q was lost alone.
    pub reopened: u64,
    /// Changes in the plain form. They carry no xid, so nothing about them can be proven.
    pub plain: u64,
}
