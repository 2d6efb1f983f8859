//! [`Engine`]: the engine that joins a snapshot and the notifications without a gap and without a
//! stale row.
//!
//! It does no I/O: whoever drives it hands in what happened ([`Input`]) and carries out what it
//! asks for ([`Output`]):
//!
//! ```text
//! loop { for each event { engine.handle(input, now) }  while let Some(output) = engine.poll() { carry it out } }
//! ```
//!
//! and calls `handle(Input::TimePassed, now)` at [`Engine::poll_timeout`]. Spurious calls are
//! harmless. Time is an argument, tokens come from a seed given at the start: a run can be
//! replayed.
//!
//! The protocol, with three connections: **L** listens, **F** sends fences, **Q** reads.
//!
//! ```text
//! Disconnected ─→ Subscribing ─→ Probing ─→ Snapshotting ─→ CatchingUp ─→ Live
//!   a while after    L LISTENs    F and Q notify;   each table:      a fence sent after
//!   a loss                        L must hear both  read, then cut   the reads has arrived
//! ```
//!
//! - Changes are applied in the order of arrival. One is skipped exactly when its transaction is
//!   visible in the table's [`Snapshot`]: that is the *cut*. What arrived before the snapshot was
//!   asked for is in it.
//! - A change whose payload cannot be trusted to be the row's newest state, or lacks it, makes that
//!   row be read again by its key, under a snapshot that becomes the key's *floor*: changes that
//!   the floor sees are skipped. While that read is underway, the key's changes wait. What cannot
//!   be told by key makes the table be read again.
//! - A loss of L makes the replica stale at once. It comes back after a random while, and lays the
//!   new snapshot over the old rows. F and Q are opened again alone, and nothing that they say
//!   counts before L has heard them.
//! - A *fence* is a token notified by F: when it comes back, every transaction that committed
//!   before it has been seen.
//! - A *look* at the definitions of the tables goes with each fence, since DDL notifies nothing. A
//!   table that is found to be another one is *held*, neither read nor changed, until whoever
//!   drives the engine says how it is to be followed.
//! - Each table has a [`State`] of its own; one that cannot be read or followed leaves the others
//!   live.
//! - Once everything was live, no failure ends it: it is stale, with the cause, and tries again for
//!   ever.

mod backlog;
mod backoff;
mod change;
mod comparison;
mod connections;
mod engine;
mod fences;
mod hashing;
mod looks;
mod messages;
mod read_queue;
mod refetch;
mod rules;
mod snapshot;
mod streak;
mod table;
mod timers;

pub use backoff::Backoff;
pub use change::{Change, Operation};
pub use engine::Engine;
pub use messages::{
    AuxConnection, Counters, Failure, FenceId, Input, Limits, Output, State, TableId, TableSpec,
};
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub use rules::Rule;
pub use snapshot::{Snapshot, SnapshotError};

#[cfg(not(any(test, feature = "simulation")))]
use rules::Rule;

#[cfg(test)]
mod tests;
