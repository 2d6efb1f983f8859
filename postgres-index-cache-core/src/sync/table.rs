//! [`EngineTable`]: one followed table, as the engine knows it, and the effect of each of its
//! changes.
//!
//! # Where a change can wait
//!
//! ```text
//! notification ─→ [1 read] ─→ cut ─→ [2 comparison] ─→ [3 key change] ─→ [4 refetch] ─┐
//!                   ┌─────────────────────────────────────────────────────────────────┘
//!                   └─→ [5 backlog] ─→ Output ─→ driver: [6 writer] ─→ cache
//! ```
//!
//! 1. **Read** ([`Phase::Reading`]). Any change waits while the table is read, until the rows are
//!    in the cache. Past `Limits::waiting_bytes` the changes are dropped and the table is read
//!    again.
//! 2. **Comparison** ([`Comparison`], [`Freeze`]). Any change waits until the fence behind the comparison's
//!    snapshot has come back. From then on the changes that the snapshot sees are followed. The
//!    others wait until the cache begins to be compared, and then in the backlog. Past
//!    `Limits::waiting_bytes` the comparison is inconclusive.
//! 3. **Key change** ([`FirstHalf`]). The delete that begins a key change waits for the update that
//!    completes it. Any other change, or a fence, ends the wait. One change waits at most.
//! 4. **Refetch** ([`Refetches`]). A change of a key whose row is being read waits for the row. So
//!    does a TRUNCATE, and everything behind it. Past `Limits::waiting_bytes` the table is read
//!    again.
//! 5. **Backlog** ([`Backlog`]). Any change waits while the cache is locked by a reader or
//!    compared. Only the last change of each key is kept. Past `Limits::waiting_bytes` only the
//!    keys are, and their rows are refetched; if the keys are too many bytes as well, the table is
//!    read again.
//! 6. **Writer** (in the driver). A change that was handed out waits while the cache's lock is
//!    held. The driver then tells the engine of the lock, so no more waits here than the engine
//!    hands out in one turn.
//!
//! The picture is that of a parsed change. Before that a notification waits in the channel to the
//! driver, in a batch of at most 256; those that came while the connections were set up wait in the
//! listener.
//!
//! `Limits::waiting_bytes` bounds each place of each table by itself. `DriverOptions::max_memory`
//! bounds the sum of everything.
//!
//! A fence that arrives behind a waiting change is not reached before that change is in the cache:
//! see [`open_since`](EngineTable::open_since).

mod comparing;
mod following;
mod freezing;
mod phases;
mod reloads;
mod touched;
mod truncates;
mod waiting;

use super::backlog::Backlog;
use super::backoff::Backoff;
use super::change::Change;
use super::comparison::Comparison;
use super::freeze::Freeze;
use super::hashing::SeededState;
use super::refetch::Refetches;
use super::rules::Rules;
use super::snapshot::Snapshot;
use super::streak::Streak;
use super::{Rule, TableSpec};
use crate::notification::{Action, Payload};
use crate::table_cache::{KeyBuf, TableShape};
use crate::value::CellType;
use reloads::Reloads;
use std::fmt;
use std::time::Instant;
use touched::Touched;
use truncates::Truncates;

/// A consequence of a change.
#[derive(Debug)]
pub(super) enum Step {
    /// The change is applied to the cache.
    Apply(Change),
    /// Every row is removed but those of these keys, which are newer than the TRUNCATE.
    Clear(Vec<String>),
    /// Nothing is to be done: a snapshot has the change, or a row that is or will be refetched.
    Skip,
    /// The table must be read again, for this reason. The changes that were followed are of no use.
    ScheduleRead(String),
    /// A notification, which any role can send, asks for the table to be reloaded.
    Reload(ReloadRequest),
}

/// A request to reload a table.
#[derive(Debug, Clone)]
pub(super) struct ReloadRequest {
    /// Reason for the reload.
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

/// Whether a payload can be trusted, given the changes that its transaction announced before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The payload is the row as the transaction left the row.
    Sound,
    /// The payload lacks the row, or may be older than the row: the row must be refetched.
    Doubtful,
    /// Nothing follows from the change.
    Ignored,
}

/// How far a table is.
#[derive(Debug)]
enum Phase {
    /// Entered at the start, after a loss, and when a change demands a read. The table is to be
    /// read. Changes that arrive are passed over: they are committed, so the read will see them.
    Due {
        /// Earliest time of the read; `None` for at once.
        not_before: Option<Instant>,
    },
    /// Entered when the table cannot be followed as it is. The table is not read, and changes are
    /// passed over: key, columns or even the table itself may not be those that the cache
    /// was made for.
    Held,
    /// Entered when the read is asked for. Changes wait, in order. Once the rows are in the cache,
    /// the snapshot decides about each change.
    Reading {
        started: Instant,
        snapshot: Option<Snapshot>,
        waiting: Vec<Change>,
        waiting_bytes: usize,
        /// Whether the table is to be read again when this read is done. Then no change waits. The
        /// read itself goes on, since the rest of its COPY would have to be drained all the same.
        is_superseded: bool,
    },
    /// Entered when the rows are in the cache.
    Following {
        /// The snapshot of the read, until a fence that was sent after the read has arrived. Every
        /// change that arrives afterwards is newer than the snapshot.
        filter: Option<Snapshot>,
        /// How many answers had come, of Q and of side reads, this read included.
        after_reads: u64,
    },
}

/// The first half of a key change: a delete that names the new key.
#[derive(Debug)]
struct FirstHalf {
    change: Change,
    verdict: Verdict,
}

/// Returns a key as the cache spells it; `None` if it is spelled so already, or is no key of the
/// table.
fn respelled(shape: &TableShape, key: &str) -> Option<String> {
    if is_plain(shape, key) {
        return None;
    }
    let mut cells = KeyBuf::default();
    cells.read_json(shape, key).ok()?;
    let spelled = cells.to_json(shape);
    (spelled != key).then_some(spelled)
}

/// Returns whether a key is of one column, and surely spelled as the cache does: nearly every key
/// is, and is not worth more time.
fn is_plain(shape: &TableShape, key: &str) -> bool {
    let [column] = shape.key() else {
        return false;
    };
    match shape.columns()[*column].kind {
        CellType::Int2 | CellType::Int4 | CellType::Int8 => {
            let digits = key.strip_prefix('-').unwrap_or(key);
            key == "0" || (!digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()))
        }
        CellType::Uuid => {
            let is_lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-';
            let inner = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
            inner.is_some_and(|inner| inner.len() == 36 && inner.bytes().all(is_lower))
        }
        CellType::Text => key.starts_with('"') && !key.contains('\\'),
        _ => false,
    }
}

/// One followed table.
#[derive(Debug)]
pub(super) struct EngineTable {
    spec: TableSpec,
    /// The oids of the leaves that are being detached.
    detaching: Vec<u32>,
    phase: Phase,
    /// Number of the last read that was asked for. An answer to an earlier read does not count.
    generation: u64,
    /// Why the table is to be read again or held, or was.
    cause: String,
    /// Whether the last read has failed, until one has succeeded.
    is_failing: bool,
    /// The wait after a read that has failed.
    pub(super) backoff: Backoff,
    reloads: Reloads,
    /// The number, among all reads of the engine, of the last read of this table.
    read: u64,
    touched: Touched,
    first_half: Option<FirstHalf>,
    refetches: Refetches,
    /// The changes that came while the cache cannot be changed; `None` while the cache can be.
    backlog: Option<Backlog>,
    /// Whether a reader holds the cache's lock.
    is_locked: bool,
    comparison: Option<Comparison>,
    freeze: Option<Freeze>,
    /// How many changes were dropped because a later one of the same key came.
    collapsed: u64,
    /// How many changes have come to be followed.
    changes: u64,
    truncates: Truncates,
    hashing: SeededState,
    /// The errors of reads of this table.
    pub(super) read_failures: Streak,
    rules: Rules,
    /// Room for the steps of the next change, so that a change costs no allocation.
    spare_steps: Vec<Step>,
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
            freeze: None,
            collapsed: 0,
            changes: 0,
            truncates: Truncates::default(),
            hashing,
            read_failures: Streak::default(),
            rules: Rules::default(),
            spare_steps: Vec::new(),
        }
    }

    /// Takes back the room of steps that were carried out.
    pub(super) fn recycle(&mut self, mut steps: Vec<Step>) {
        steps.clear();
        // The steps of a read that was waited for may have been many.
        if steps.capacity() <= 16 {
            self.spare_steps = steps;
        }
    }

    /// Sets which rules are in force.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Returns whether `rule` is in force.
    fn keeps(&self, rule: Rule) -> bool {
        self.rules.keeps(rule)
    }

    /// Returns whether the table may be read on a session of its own.
    pub(super) fn is_for_side_read(&self) -> bool {
        self.spec.is_for_side_read
    }

    /// Returns the specification, for a test to change.
    #[cfg(test)]
    pub(super) fn spec_mut(&mut self) -> &mut TableSpec {
        &mut self.spec
    }

    /// Returns `schema.table`, unquoted, for messages.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.spec.schema, self.spec.name)
    }

    /// Returns why the table is to be read again or held, or was.
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
    /// The table whose trigger sent the payload counts, not the name in the payload. Without this:
    /// 1. `users` is renamed to `users_old`, and another table to `users`.
    /// 2. The function on `users_old` has the old name as a literal, and goes on sending `users`.
    /// 3. Rows of the old table are taken for those of the new one.
    ///
    /// The plain form says neither schema nor sender, so the name has to do there.
    pub(super) fn is_about_this_table(&self, payload: &Payload<'_>) -> bool {
        let is_sender = match payload.rel {
            Some(rel) => {
                rel == self.spec.oid
                    || self.spec.leaves.contains(&rel)
                    || self.detaching.contains(&rel)
                    // A leaf that was created or attached since. `knows` tells it apart.
                    || (self.spec.is_partitioned && self.is_named_by(payload))
            }
            None => self.is_named_by(payload),
        };
        // A plain payload with the name of a table in the extended form was sent by somebody else.
        // But a trigger that fails twice sends, as its last resort, a reload with a schema and
        // without an xid.
        let is_in_its_form =
            payload.xid.is_some() || self.spec.sends_plain_form || payload.action == Action::Reload;
        is_sender && is_in_its_form
    }

    /// Spells the keys of a change in the one way in which the cache knows them. Without this:
    /// 1. Somebody announces the row `"AB…"`, a uuid in capitals, without data. Q reads version 1.
    /// 2. The trigger announces version 2 of `"ab…"`, which waits for nothing and is applied.
    /// 3. Q's answer puts version 1 back, for good.
    pub(super) fn spell_keys(&self, change: &mut Change) {
        if let Some(shape) = &self.spec.shape {
            change.respell(|key| respelled(shape, key));
        }
    }

    /// Returns whether a payload gives this table's name. If the payload gives a schema, that must
    /// be this table's as well.
    pub(super) fn is_named_by(&self, payload: &Payload<'_>) -> bool {
        payload.table == self.spec.name
            && payload
                .schema
                .as_ref()
                .is_none_or(|schema| *schema == self.spec.schema)
    }

    /// Returns whether the sender of a payload is the table, or a leaf that is known. True if the
    /// payload does not say.
    pub(super) fn knows(&self, rel: Option<u32>) -> bool {
        rel.is_none_or(|rel| rel == self.spec.oid || self.spec.leaves.contains(&rel))
    }

    /// Returns whether the sender of a payload is a leaf that is being detached. Its rows are not
    /// the table's any more.
    pub(super) fn ignores(&self, rel: Option<u32>) -> bool {
        rel.is_some_and(|rel| self.detaching.contains(&rel))
    }

    /// Sets the oids of the table's leaves, and of those that are being detached.
    pub(super) fn set_leaves(&mut self, leaves: Vec<u32>, detaching: Vec<u32>) {
        self.spec.leaves = leaves;
        self.detaching = detaching;
    }

    /// Notes that rows were removed for a TRUNCATE that was announced. Looks from this number on
    /// begin later.
    pub(super) fn note_clear(&mut self, look: u64) {
        self.truncates.cleared(look);
    }

    /// Returns whether rows were removed for a TRUNCATE that no look has seen yet.
    pub(super) fn is_to_be_seen_truncated(&self) -> bool {
        self.truncates.is_unseen()
    }

    /// Returns whether the look with this number must find new files: rows were removed for a
    /// TRUNCATE before the look began.
    pub(super) fn must_be_truncated(&self, look: u64) -> bool {
        self.truncates.must_be_seen_by(look)
    }

    /// Notes whether a look has found other files. Returns the process that announced the last
    /// TRUNCATE.
    pub(super) fn note_truncate_seen(&mut self, has_happened: bool) -> Option<i32> {
        self.truncates.seen(has_happened)
    }

    /// Returns the transaction of the last TRUNCATE that was announced.
    pub(super) fn last_truncate(&self) -> Option<u64> {
        self.truncates.last()
    }
}
