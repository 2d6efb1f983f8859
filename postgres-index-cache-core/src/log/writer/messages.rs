//! The inputs and outputs of a [`Writer`](super::Writer), and the writer's bounds.

use crate::log::deferred::DeferredKeys;
use crate::log::entry::Entry;
use crate::log::position::{Place, Position, Sequence};
use crate::log::snapshot::SnapshotPlace;
use std::time::Duration;

/// Bounds of a writer.
#[derive(Debug, Clone, Copy)]
pub struct WriterLimits {
    /// The wait for the engine's answer to an append.
    pub answer_timeout: Duration,
    /// The most bytes of entries that wait for the engine's answer. Rows that change beyond that
    /// are deferred: their keys are kept. Deferred rows that are published at last may go beyond.
    pub most_unanswered: usize,
    /// The bytes of stored entries that are kept, in case the engine loses them.
    pub kept: usize,
    /// The most bytes of keys that are deferred.
    pub most_deferred: usize,
    /// The most bytes of the changes in one entry. Longer ones are appended in parts.
    pub longest_entry: usize,
}

/// The end of the log that a term builds upon.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// The position that the relay's image is as of.
    pub position: Position,
    /// The last message of the log. A message that nobody takes may stand behind the position.
    pub seen: Place,
}

/// A message of the log, as it was read.
#[derive(Debug, Clone)]
pub struct Message {
    /// Number of the message.
    pub sequence: Sequence,
    /// Entry in the message.
    pub entry: Entry,
}

/// An event that the driver of a writer reports.
#[derive(Debug)]
pub enum WriterInput {
    /// The engine has stored an entry.
    Stored {
        /// Round of the append.
        round: u64,
        /// Where the entry stands.
        place: Place,
    },
    /// The engine has refused an entry: the log's last one is another.
    Refused {
        /// Round of the append.
        round: u64,
    },
    /// The engine is lost. Entries that are on their way may be stored all the same.
    Disconnected,
    /// The answer to [`WriterOutput::Recover`].
    Recovered {
        /// Round of the recovery.
        round: u64,
        /// Messages of the log.
        found: Recovered,
    },
    /// The snapshot that [`WriterOutput::PutSnapshot`] has named can be loaded.
    SnapshotPut(SnapshotPlace),
    /// The time of [`Writer::poll_timeout`](super::Writer::poll_timeout) has come.
    TimePassed,
}

/// The log from the places that a writer knows, as one look has found it.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// All messages from the first of the places that stands in the log, that one included. Empty
    /// if none of them stands.
    pub messages: Vec<Message>,
    /// The log's last entry; `None` if the log is empty.
    pub end: Option<Position>,
}

/// A request of a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriterOutput {
    /// Append an entry, if the log ends with the entry that must be in front; see
    /// [`Entry::behind`].
    Append {
        /// Number of the recoveries so far, for the answer.
        round: u64,
        /// Entry to append. The log must end with the entry that this one names as `behind`.
        entry: Entry,
    },
    /// Find the first of the places that stands in the log, and read all messages from there to the
    /// end. The engine must be connected anew first, so that no message that was sent before can
    /// overtake those that are sent after.
    Recover {
        /// Number of the recovery, for the answer.
        round: u64,
        /// Places to look at, the last one of the log first.
        places: Vec<Place>,
    },
    /// Publish the rows with these keys by [`Writer::publish`](super::Writer::publish), or their
    /// removal, and call [`Writer::deferred_are_published`](super::Writer::deferred_are_published).
    PublishDeferred(DeferredKeys),
    /// The rows that were read since [`Writer::start_snapshot`](super::Writer::start_snapshot) are
    /// a snapshot of this part of the log.
    PutSnapshot(SnapshotPlace),
    /// The rows that were read since [`Writer::start_snapshot`](super::Writer::start_snapshot) are
    /// no snapshot.
    DropSnapshot,
    /// The term is over: an entry of a later term, or of another one of this number, stands in the
    /// log. Follow the log.
    StepDown,
}

/// Figures of a writer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriterCounters {
    /// Terms that this writer began after its first one.
    pub resets: u64,
    /// Recoveries after which entries were appended again.
    pub resumed: u64,
    /// How often rows were deferred.
    pub deferred: u64,
    /// Changes that were appended in parts.
    pub in_parts: u64,
}
