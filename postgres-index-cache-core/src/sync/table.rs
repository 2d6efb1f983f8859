//! [`EngineTable`]: one followed table, as the engine knows it, and what follows from each of its
//! changes.
//!
//! # Where a change can wait
//!
//! ```text
//! notification ─→ [1 read] ─→ cut ─→ [2 comparison] ─→ [3 key change] ─→ [4 refetch] ─→ [5 backlog] ─→ Output
//!                                                                                            driver: [6 writer] ─→ cache
//! ```
//!
//! | place | which change waits | until | bound |
//! |---|---|---|---|
//! | 1 read | any, while the table is read ([`Phase::Reading`]) | the rows are in the cache | `Limits::waiting_bytes`, then the table is read again |
//! | 2 comparison | any that the comparison's snapshot does not see ([`Comparison`]) | the comparison is over, or begins to compare | `Limits::waiting_bytes`, then the comparison is inconclusive |
//! | 3 key change | the delete that begins a key change | the update that completes it, any other change, or a fence | one change |
//! | 4 refetch | one of a key whose row is being refetched, or behind a TRUNCATE that waits ([`Refetches`]) | the row has come | `Limits::waiting_bytes`, then the table is read again |
//! | 5 backlog | any, while the cache is locked by a reader or compared ([`Backlog`]) | the cache can be changed | the last change of each key; `Limits::waiting_bytes`, then keys alone, then the table is read again |
//! | 6 writer | one that was handed out, while the cache's lock is held (in the driver) | the lock is free | `DriverOptions::max_memory` |
//!
//! A fence that arrives behind a waiting change is not reached before that change is in the cache:
//! see [`open_since`](EngineTable::open_since).

mod comparing;
mod following;
mod phases;
mod reloads;
mod touched;
mod truncates;
mod waiting;

use super::backlog::Backlog;
use super::backoff::Backoff;
use super::change::Change;
use super::comparison::Comparison;
use super::hashing::SeededState;
use super::refetch::Refetches;
use super::rules::Rules;
use super::snapshot::Snapshot;
use super::streak::Streak;
use super::{Rule, TableSpec};
use crate::notification::{Action, Payload};
use reloads::Reloads;
use std::fmt;
use std::time::Instant;
use touched::Touched;
use truncates::Truncates;

/// What follows from a change.
#[derive(Debug)]
pub(super) enum Step {
    /// The change is applied to the cache.
    Apply(Change),
    /// Every row is removed but those of these keys, which are newer.
    Clear(Vec<String>),
    /// Nothing: the snapshot has the change, or a row that was refetched.
    Skip,
    /// The table must be read again: what was followed of it is of no use.
    ScheduleRead(String),
    /// A notification, which any role can send, asks for the table to be reloaded.
    Reload(ReloadRequest),
}

/// Why a table is to be reloaded.
#[derive(Debug, Clone)]
pub(super) struct ReloadRequest {
    pub(super) why: String,
    /// The server's process whose notification is the cause; `None` if none is.
    pub(super) sender: Option<i32>,
}

impl ReloadRequest {
    /// Returns the request of a notification that `sender` sent.
    pub(super) fn new(why: &str, sender: i32) -> Self {
        Self {
            why: why.to_string(),
            sender: Some(sender),
        }
    }
}

impl fmt::Display for ReloadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        match self.sender {
            Some(sender) => write!(f, " (sent by process {sender})"),
            None => Ok(()),
        }
    }
}

/// What the order of the changes says of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The payload is the row as its transaction left it.
    Sound,
    /// The payload may be older than the row, or lacks it: the row must be refetched.
    Doubtful,
    /// Nothing follows from the change.
    Ignored,
}

/// Where a table stands.
#[derive(Debug)]
enum Phase {
    /// Entered at the start, after a loss, and when a change demands a read. The table is to be read,
    /// at `not_before` if that is set. Changes that arrive are passed over: they are committed, so
    /// the read will see them.
    Due { not_before: Option<Instant> },
    /// Entered when the table cannot be followed as it is. The table is not read, and changes are
    /// passed over: its key, its columns or its very identity may be other ones than the cache was
    /// made for.
    Held,
    /// Entered when the read is asked for. Changes wait, in order; the snapshot, once known, decides
    /// about them. With `is_superseded` nothing waits any more: the table is to be read again when
    /// this read is done. A read is never given up half-way, since its COPY would be drained to the
    /// end all the same.
    Reading {
        started: Instant,
        snapshot: Option<Snapshot>,
        waiting: Vec<Change>,
        waiting_bytes: usize,
        is_superseded: bool,
    },
    /// Entered when the rows are in the cache. `filter` is the snapshot until a fence sent after
    /// the read has arrived: every change that comes then is newer. `after_reads` is how many
    /// answers Q had given with the read.
    Following {
        filter: Option<Snapshot>,
        after_reads: u64,
    },
}

/// The first half of a key change, a delete that names the new key.
#[derive(Debug)]
struct FirstHalf {
    change: Change,
    verdict: Verdict,
}

/// One followed table.
#[derive(Debug)]
pub(super) struct EngineTable {
    spec: TableSpec,
    /// The oids of the leaves that are being detached.
    detaching: Vec<u32>,
    phase: Phase,
    /// The number of the last read that was asked for: an answer to an earlier one does not count.
    generation: u64,
    /// Why the table is to be read again, or was.
    cause: String,
    /// Whether the last read has failed, until one has succeeded.
    is_failing: bool,
    /// The wait after a read that has failed.
    pub(super) backoff: Backoff,
    reloads: Reloads,
    /// The engine's number of the read that the cache is of, or will be.
    read: u64,
    touched: Touched,
    first_half: Option<FirstHalf>,
    refetches: Refetches,
    /// The changes that came while the cache could not be changed; `None` while it can.
    backlog: Option<Backlog>,
    /// Whether a reader holds the cache's lock.
    is_locked: bool,
    comparison: Option<Comparison>,
    /// How many changes were dropped because a later one of the same key came.
    collapsed: u64,
    /// How many changes have come to be followed.
    changes: u64,
    truncates: Truncates,
    hashing: SeededState,
    /// The errors of reads of this table.
    pub(super) read_failures: Streak,
    rules: Rules,
}

impl EngineTable {
    /// Returns a table that is to be read.
    pub(super) fn new(spec: TableSpec, hashing: SeededState) -> Self {
        Self {
            spec,
            detaching: Vec::new(),
            phase: Phase::Due { not_before: None },
            generation: 0,
            cause: String::new(),
            is_failing: false,
            backoff: Backoff::default(),
            reloads: Reloads::default(),
            read: 0,
            touched: Touched::new(hashing),
            first_half: None,
            refetches: Refetches::new(hashing),
            backlog: None,
            is_locked: false,
            comparison: None,
            collapsed: 0,
            changes: 0,
            truncates: Truncates::default(),
            hashing,
            read_failures: Streak::default(),
            rules: Rules::default(),
        }
    }

    /// Sets which rules are in force.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.rules.keeps(rule)
    }

    /// Returns `schema.table`, for people.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.spec.schema, self.spec.name)
    }

    /// Returns why the table is to be read again, or was.
    pub(super) fn cause(&self) -> &str {
        &self.cause
    }

    /// Replaces `of` in the cause by `known`, which says more.
    pub(super) fn cause_known(&mut self, of: &str, known: &str) {
        self.cause = self.cause.replace(of, known);
    }

    /// Returns how many changes have come to be followed.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns how many changes were dropped because a later one of the same key came while the
    /// cache could not be changed.
    pub(super) fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// Returns whether a payload is about this table.
    ///
    /// The table whose trigger sends a payload counts, not the name in it:
    /// 1. `users` is renamed to `users_old`, and another table to `users`.
    /// 2. The function on `users_old` has its table's old name as a literal, and goes on sending
    ///    `users`.
    ///
    /// By the name, rows of the old table would be taken for those of the new one. The plain form
    /// says neither schema nor sender: there the name has to do.
    pub(super) fn is_about_this_table(&self, payload: &Payload<'_>) -> bool {
        let is_sender = match payload.rel {
            Some(rel) => {
                rel == self.spec.oid
                    || self.spec.leaves.contains(&rel)
                    || self.detaching.contains(&rel)
                    // A leaf that was made or attached since.
                    || (self.spec.is_partitioned && self.is_named_by(payload))
            }
            None => self.is_named_by(payload),
        };
        // The last resort of a trigger that failed twice is a reload with a schema and without an
        // xid.
        let is_in_its_form =
            payload.xid.is_some() || self.spec.sends_plain_form || payload.action == Action::Reload;
        is_sender && is_in_its_form
    }

    /// Returns whether a payload gives this table's name, and its schema if it gives one.
    pub(super) fn is_named_by(&self, payload: &Payload<'_>) -> bool {
        payload.table == self.spec.name
            && payload
                .schema
                .as_ref()
                .is_none_or(|schema| *schema == self.spec.schema)
    }

    /// Returns whether the sender of a payload is the table, or a leaf that is known.
    pub(super) fn knows(&self, rel: Option<u32>) -> bool {
        rel.is_none_or(|rel| rel == self.spec.oid || self.spec.leaves.contains(&rel))
    }

    /// Returns whether the sender of a payload is a leaf that is being detached: its rows are not
    /// the table's any more.
    pub(super) fn ignores(&self, rel: Option<u32>) -> bool {
        rel.is_some_and(|rel| self.detaching.contains(&rel))
    }

    /// Sets the oids of the table's leaves, and of those that are being detached.
    pub(super) fn set_leaves(&mut self, leaves: Vec<u32>, detaching: Vec<u32>) {
        self.spec.leaves = leaves;
        self.detaching = detaching;
    }

    /// Notes that rows were removed for a TRUNCATE that was announced; looks from this number on
    /// begin later.
    pub(super) fn note_clear(&mut self, look: u64) {
        self.truncates.cleared(look);
    }

    /// Returns whether rows were removed for a TRUNCATE that no look has seen yet.
    pub(super) fn is_to_be_seen_truncated(&self) -> bool {
        self.truncates.is_unseen()
    }

    /// Returns whether a look of this number would see the files that a TRUNCATE has made for which
    /// rows were removed.
    pub(super) fn must_be_truncated(&self, look: u64) -> bool {
        self.truncates.must_be_seen_by(look)
    }

    /// Notes whether a look has found other files. Returns the sender of the last TRUNCATE.
    pub(super) fn note_truncate_seen(&mut self, has_happened: bool) -> Option<i32> {
        self.truncates.seen(has_happened)
    }

    /// Returns the transaction of the last TRUNCATE that was announced.
    pub(super) fn last_truncate(&self) -> Option<u64> {
        self.truncates.last()
    }
}
