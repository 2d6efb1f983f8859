//! The sync engine: joins the snapshots of tables and their notifications without a gap and
//! without a stale row.
//!
//! [`Engine`] does no I/O. Whoever drives the engine reports each event as an [`Input`] and carries
//! out each [`Output`]. The driver of this crate is the module `postgres`. The tests drive the
//! engine with a model of PostgreSQL, in `tests/simulation`.
//!
//! # How to drive the engine
//!
//! ```text
//! loop {
//!     wait for an event, or until engine.poll_timeout()
//!     engine.handle(the event as an Input, now)
//!     while let Some(output) = engine.poll() { carry out the output }
//! }
//! ```
//!
//! - Carry out the outputs in the order in which [`Engine::poll`] returns them.
//! - Say [`Input::TimePassed`] at [`Engine::poll_timeout`], once L has no more notifications to
//!   hand in. Only that input makes a deadline count as missed.
//! - Spurious calls are harmless. [`Input::TimePassed`] does only what is due, and [`Engine::poll`]
//!   returns `None` if nothing is to be done.
//! - Late answers are harmless. The answer to a read, a refetch, a look or a comparison names the
//!   question by number, and is ignored if nobody waits for that answer any more.
//! - [`Input::Listening`], [`Input::ListensAlso`] and [`Input::Reopened`] have no such number. Say
//!   them for the last request alone, and not for a connection that was dropped since.
//! - Time is an argument. Tokens, waits and the order of hash maps follow from the name of the
//!   fence channel. So a run can be replayed.
//!
//! # Protocol
//!
//! There are three connections. **L** listens, **F** sends fences, and **Q** reads, one thing at a
//! time.
//!
//! ```text
//! Disconnected ─→ Subscribing ─→ Probing ─→ Snapshotting ─→ CatchingUp ─→ Live
//!   a while after    L LISTENs    F and Q notify;   each table:      a fence sent after
//!   a loss                        L must hear both  read, then cut   the reads has arrived
//! ```
//!
//! 1. **Listen.** L commits its LISTEN before anything else happens.
//! 2. **Probe.** F and Q each notify a token, and L must hear both. Otherwise there is a pooler, a
//!    standby or another server in between.
//! 3. **Read.** Q reads each table under a [`Snapshot`]. Changes that arrive meanwhile wait.
//! 4. **Cut.** Changes are applied in the order of arrival. A change is skipped exactly when its
//!    transaction is visible in the table's snapshot. A change that arrived before the read was
//!    asked for is in the snapshot.
//! 5. **Refetch.** Some payloads lack the row, or may be older than the row. Such a row is read
//!    again by its key, under a snapshot that becomes the key's *floor*. While the row is read, the
//!    key's changes wait; afterwards those that the floor sees are skipped.
//! 6. **Reload.** If no key can tell what changed, the table is read again. Any role can ask for
//!    that, so these reads keep a distance.
//! 7. **Fence.** F notifies a token. When L receives the token, every change that was committed
//!    then has arrived. A table is live once a fence that was sent after the table's read has come.
//! 8. **Gap.** If L is lost, or a fence does not come back in time, every table is stale at once.
//!    All three connections are opened again after a random while, and the new snapshots are merged
//!    into the old rows.
//! 9. **Loss of F or Q.** Either is opened again alone, and must prove itself by a new probe. The
//!    engine asks again for everything that the lost connection carried.
//! 10. **Locked caches.** While a reader holds a cache's lock, the last change of each key is kept.
//!     Fences that arrive meanwhile are not reached.
//! 11. **Look.** DDL notifies nothing. So each fence comes with a look at the definitions of the
//!     tables, and counts once that look is done.
//! 12. **Held tables.** A table whose definition is another one is held: neither read nor changed,
//!     until the driver says how to follow it.
//! 13. **Transactions.** A caller may wait for one transaction. It has arrived if its notifications
//!     did, with another's behind them, or if a snapshot in front of a fence saw that it had ended.
//! 14. **Comparison.** Q takes a snapshot and compares the cache with it, at one exact cut.
//!
//! Each table has a [`State`] of its own. A table that cannot be read or followed leaves the others
//! live. Before the replica was live for the first time, a failure that trying again does not mend
//! is the end. Afterwards no failure is: the replica is stale, with the cause, and tries for ever.
//!
//! # Parts
//!
//! `engine` owns the other parts and is where they meet:
//! - `messages`: the inputs and outputs.
//! - `state`: the bounds, the states and the figures.
//! - `connections`: how far L, F and Q are, and the probes.
//! - `fences`, `looks`: the proofs that are on their way, and those that have come.
//! - `read_queue`: the work of Q, and its order.
//! - `timers`: every deadline.
//! - `table`: one followed table, its changes, and the places where they wait. `refetch`, `backlog`
//!   and `comparison` are three of those places.
//! - `change`, `snapshot`: a parsed notification, and the transactions that a read has seen.
//! - `backoff`, `streak`: how long to wait after a failure, and when a failure is a refusal.
//! - `transactions`: the transactions that have arrived whole.
//! - `hashing`: hash maps whose order follows from a seed.
//! - `rules`: the rules that the simulation can disable, each with the scenario that it prevents.

mod backlog;
mod backoff;
mod change;
mod comparison;
mod connections;
mod engine;
mod fences;
mod freeze;
mod hashing;
mod looks;
mod messages;
mod read_queue;
mod refetch;
mod rules;
mod snapshot;
mod state;
mod streak;
mod table;
mod timers;
mod transactions;

pub use backoff::Backoff;
pub use change::{Change, Operation};
pub use engine::Engine;
pub use messages::{AuxConnection, FenceId, Input, Output, Reader, TableId, TableSpec};
#[cfg(any(test, feature = "simulation"))]
#[doc(hidden)]
pub use rules::Rule;
pub use snapshot::{Snapshot, SnapshotError};
pub use state::{Counters, Failure, Limits, State};

#[cfg(not(any(test, feature = "simulation")))]
use rules::Rule;

#[cfg(test)]
mod tests;
