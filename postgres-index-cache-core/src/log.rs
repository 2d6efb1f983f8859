//! The log: one relay writes the changes of its caches, and any number of nodes follow.
//!
//! PostgreSQL wakes each listening session at each commit, so many listening nodes slow all writers
//! down. A relay is one exact replica that publishes the changes of its own caches as a log, in an
//! engine made for many readers. A node folds the log, and needs no connection to PostgreSQL.
//!
//! ```text
//! PostgreSQL ─ notifications ─→ relay ─ Writer ─→ log ─┬─→ Node ─→ image
//!                                         ▲            ├─→ Node ─→ image
//!                                         └─ recovery ─┴─→ a relay that stands by
//! ```
//!
//! Nothing here does I/O. The guarantees rest on the entries, and not on promises of the engine:
//! entries that were lost, rewritten, doubled or written by two relays are noticed.
//!
//! # Words
//!
//! - *Entry*: one message of the log. *Sequence*: the engine's number for a message.
//! - *Term*, [`Epoch`]: the time in which one relay writes. *Position*: a term, and an entry's
//!   number in it.
//! - *Image*: the rows as of a position, the fold of the log.
//!
//! # Rules of a reader
//!
//! [`Follower`] has R1 to R4, R6 and R7; [`Node`] has R1 and R5.
//!
//! - **R1, contiguous.** Messages come without a hole, each behind the entry that it was appended
//!   behind. At a hole, a reconnect or a silence the reader
//!   reads again from the message that was seen last, that one included.
//! - **R2, overlap.** A read begins with the very message that was seen there before. If another
//!   stands there, or the log ends before it, the log is another one: load a snapshot.
//! - **R3, follows.** An entry is taken if it is the next one of the same term, or begins a later
//!   term behind exactly this position. Everything else is ignored, by all readers alike.
//!   Changes in parts are shown once the last part was taken.
//! - **R4, reset.** A term that begins behind nothing voids the rows: load a snapshot.
//! - **R5, not live until asked.** After each start of a read the reader is live only once a fence
//!   is reached that this reader has asked for. `begin`, `stale` and the lack of proofs end that.
//! - **R6, digest.** A proof whose digest is not the reader's makes the reader load a snapshot.
//! - **R7, snapshot.** A snapshot's rows count once its end was seen. Both its ends must stand in
//!   the log.
//!
//! # Rules of a writer
//!
//! [`Writer`] has W2, W4, W5 and the places of W7. Whoever drives the writer has W1, W3 and W6, and
//! looks whether any snapshot is usable.
//!
//! - **W1.** A relay begins a term only behind the log's end, with the rows that are its fold.
//! - **W2.** Each append names the entry that must be the log's last one, and not its sequence.
//! - **W3.** PostgreSQL is asked only after `begin` was sent. Rows that changed while nobody
//!   looked are published as changes.
//! - **W4.** After a refusal, a lost answer or a reconnect the writer reads the log by the readers'
//!   rules. It appends the rest again, steps down if somebody else has begun, or begins anew with a
//!   snapshot if its entries are gone.
//! - **W5.** While nothing can be appended, the keys of changed rows are kept, within a bound.
//!   Their rows are published behind `stale`.
//! - **W6.** A fence that a node asks for is answered with the position of a proof. The answer
//!   counts for its own question alone.
//! - **W7.** A snapshot is read while entries go on, and is put once all that its rows may have is
//!   stored.
//!
//! # Invariants
//!
//! - **I1.** All readers have one image at one position.
//! - **I2.** The image at a proof is PostgreSQL's tables as of that fence or later.
//! - **I3.** A node that says live shows the image of a position at or after the last fence that it
//!   asked for, and never goes back. A transaction whose changes are in several entries is seen in
//!   parts, as several notifications are.
//! - **I4.** When a fence is reached at a node, everything committed before the call is in the
//!   image.
//! - **I5.** Each loss of the log is noticed by each reader, or the reader is not live.
//! - **I6.** PostgreSQL, one relay and a working engine make every node live again without help.
//!
//! `tests/log_simulation` checks them under faults, and disables each rule in turn.

mod deferred;
mod entry;
mod follower;
mod node;
mod position;
mod rules;
mod snapshot;
mod writer;

pub use deferred::DeferredKeys;
pub use entry::{
    Body, Entry, EntryError, JsonRow, LONGEST_CHANGES, Part, Proof, RowChanges, RowOp, TableName,
    TableProof,
};
pub use follower::{Follower, Image, NoImage, Took};
pub use node::{Node, NodeCounters, NodeInput, NodeLimits, NodeOutput};
pub use position::{Epoch, Place, Position, PositionError, Sequence};
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub use rules::Rule;
pub use snapshot::SnapshotPlace;
pub use writer::{
    Base, Message, Recovered, Writer, WriterCounters, WriterInput, WriterLimits, WriterOutput,
};

#[cfg(test)]
mod tests;
