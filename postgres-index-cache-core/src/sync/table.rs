//! [`EngineTable`]: what the engine knows of one followed table, and what each of its changes leads to.

mod comparisons;

use super::backlog::Backlog;
use super::backoff::Backoff;
use super::change::{Change, Operation};
use super::comparison::Comparison;
use super::link::Streak;
use super::refetch::{Admission, Queued, Refetches};
use super::snapshot::Snapshot;
use super::{Rule, TableSpec};
use crate::notification::{Action, Payload};
use foldhash::quality::RandomState;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

/// What is to be done about a change.
#[derive(Debug)]
pub(super) enum Step {
    Apply(Change),
    /// Remove every row but those of these keys, which are newer.
    Clear(Vec<String>),
    /// The snapshot has it, or a row that was read again.
    Skip,
    /// The table must be read again: what was followed of it is of no use.
    ReadScheduled(String),
    /// A notification asks for that, which any role can send.
    Reload(ReloadRequest),
}

/// What makes a table be read again, in words.
#[derive(Debug, Clone)]
pub(super) struct ReloadRequest {
    pub(super) why: String,
    /// The server's process whose notification it was.
    pub(super) sender: Option<i32>,
}

impl fmt::Display for ReloadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        self.sender
            .map_or(Ok(()), |sender| write!(f, " (sent by process {sender})"))
    }
}

/// What the order of the changes says of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Its payload is the row as the transaction left it.
    Sound,
    /// The row must be read again.
    Doubtful,
    /// Nothing follows from it.
    Ignored,
}

/// Where a table stands.
#[derive(Debug)]
pub(super) enum Phase {
    /// Entered at the start, after a loss, and when a change demands it. It is to be read,
    /// `not_before` then. Changes that arrive are passed over: they are committed, so the read will
    /// see them.
    Due { not_before: Option<Instant> },
    /// Entered when the table cannot be followed as it is. It is not read, and what its trigger
    /// sends is passed over: its key, its columns or its very table may be other ones than the
    /// cache was made for.
    Held,
    /// Entered when the read is asked for. Changes wait, in order; the snapshot, once known,
    /// decides about them. With `is_superseded` nothing waits any more: the table is to be read again
    /// when this read is done. A read is never given up half-way: its COPY would be drained to the
    /// end all the same.
    Reading {
        started: Instant,
        snapshot: Option<Snapshot>,
        waiting: Vec<Change>,
        waiting_bytes: usize,
        is_superseded: bool,
    },
    /// Entered when the rows are in the cache. `filter` is the snapshot until a fence sent after
    /// the read has arrived: what comes then is newer. `after_reads` numbers the read.
    Following {
        filter: Option<Snapshot>,
        after_reads: u64,
    },
}

/// What a transaction did to a key before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    Removed,
    Stored,
}

#[derive(Debug)]
pub(super) struct EngineTable {
    followed: TableSpec,
    /// Its leaves that are being detached.
    detaching: Vec<u32>,
    phase: Phase,
    generation: u64,
    /// Why it is to be read again, or was.
    cause: String,
    /// Whether the last read has failed; until one has succeeded.
    is_failing: bool,
    /// How long to wait after a read that has failed.
    pub(super) backoff: Backoff,
    /// How long the last read took and when it ended: reloads keep a distance.
    last_reload: Option<(Instant, Duration)>,
    /// How many reloads in a row have changed nothing.
    fruitless: u32,
    /// When it is read again though it is followed, since a notification has asked for it.
    reload_at: Option<Instant>,
    /// What has asked for that while it is read.
    asked_meanwhile: Option<ReloadRequest>,
    /// The number of the read that the cache is of, or will be.
    read: u64,
    /// What the transaction in `touched_by` did, by the hash of the key. Transactions arrive whole,
    /// one after another.
    touched: HashMap<u64, Touch>,
    touched_by: Option<u64>,
    /// The first half of a key change, until the second comes.
    held: Option<(Change, Verdict)>,
    refetches: Refetches,
    /// What came while the cache could not be changed; `None` while it can.
    backlog: Option<Backlog>,
    /// Whether that is because somebody holds its lock.
    is_locked: bool,
    /// A comparison with the table that is underway.
    comparison: Option<Comparison>,
    /// How many changes were dropped because a later one of the same key came.
    collapsed: u64,
    /// How many changes have come to be followed.
    arrivals: u64,
    /// The transaction whose TRUNCATE was the last thing that happened, and that of the last
    /// TRUNCATE.
    truncated_by: Option<u64>,
    last_truncate: Option<u64>,
    /// Who sent that, and the look from which on the table must have other files, where rows were
    /// removed for it.
    truncate_sender: Option<i32>,
    cleared_before_look: Option<u64>,
    /// How often they were, since other files were seen.
    clears: u32,
    hasher: RandomState,
    /// What reads of it failed with.
    pub(super) read_failures: Streak,
    pub(super) without: Option<Rule>,
}

impl EngineTable {
    pub(super) fn new(followed: TableSpec) -> Self {
        Self {
            followed,
            detaching: Vec::new(),
            phase: Phase::Due { not_before: None },
            generation: 0,
            cause: String::new(),
            is_failing: false,
            backoff: Backoff::default(),
            last_reload: None,
            fruitless: 0,
            reload_at: None,
            asked_meanwhile: None,
            read: 0,
            touched: HashMap::new(),
            touched_by: None,
            held: None,
            refetches: Refetches::default(),
            backlog: None,
            is_locked: false,
            comparison: None,
            collapsed: 0,
            arrivals: 0,
            truncated_by: None,
            last_truncate: None,
            truncate_sender: None,
            cleared_before_look: None,
            clears: 0,
            hasher: RandomState::default(),
            read_failures: Streak::default(),
            without: None,
        }
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    pub(super) fn is_following(&self) -> bool {
        matches!(self.phase, Phase::Following { .. })
    }

    pub(super) fn is_proven(&self) -> bool {
        matches!(self.phase, Phase::Following { filter: None, .. })
    }

    pub(super) fn is_due_now(&self) -> bool {
        matches!(self.phase, Phase::Due { not_before: None }) && !self.is_busy()
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Due { not_before } if !self.is_busy() => not_before,
            Phase::Following { .. } if !self.is_busy() => self.reload_at,
            Phase::Due { .. } | Phase::Held | Phase::Reading { .. } | Phase::Following { .. } => {
                None
            }
        }
    }

    /// Whether it cannot be followed as it is.
    pub(super) fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held)
    }

    /// Whether it cannot be followed or read.
    pub(super) fn is_stale(&self) -> bool {
        self.is_held() || self.is_failing
    }

    pub(super) fn cause_known(&mut self, of: &str, known: &str) {
        self.cause = self.cause.replace(of, known);
    }

    /// `schema.table`, for people.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.followed.schema, self.followed.name)
    }

    /// Whether something has asked for it to be read again though it is followed.
    pub(super) fn is_doubted(&self) -> bool {
        self.reload_at.is_some()
    }

    /// The number of the read whose rows are in the cache.
    pub(super) fn last_read(&self) -> Option<u64> {
        self.is_following().then_some(self.read)
    }

    /// Whether it is to be read, and not yet.
    pub(super) fn waits_to_be_read(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|at| at > now)
    }

    pub(super) fn cause(&self) -> &str {
        &self.cause
    }

    /// Whether a payload is about this table.
    ///
    /// The table whose trigger sends it counts, not the name that it gives:
    /// 1. `users` is renamed to `users_old`, and another table to `users`.
    /// 2. The function on `users_old` has its table's old name as a literal, and goes on sending
    ///    `users`.
    ///
    /// By the name its rows would be taken for those of the new table. The plain form says neither
    /// schema nor sender: there the name has to do.
    pub(super) fn is_about_this_table(&self, payload: &Payload<'_>) -> bool {
        let is_sender = match payload.rel {
            Some(rel) => {
                rel == self.followed.oid
                    || self.followed.leaves.contains(&rel)
                    || self.detaching.contains(&rel)
                    // A leaf that was made or attached since.
                    || (self.followed.is_partitioned && self.is_named_by(payload))
            }
            None => self.is_named_by(payload),
        };
        // The last resort of a trigger that failed twice is a reload with a schema and without an
        // xid.
        is_sender
            && (payload.xid.is_some()
                || self.followed.sends_plain_form
                || payload.action == Action::Reload)
    }

    /// Whether a payload gives this table's name.
    pub(super) fn is_named_by(&self, payload: &Payload<'_>) -> bool {
        payload.table == self.followed.name
            && payload
                .schema
                .as_ref()
                .is_none_or(|schema| *schema == self.followed.schema)
    }

    /// Whether the sender of a payload is the table, or a leaf that is known.
    pub(super) fn knows(&self, rel: Option<u32>) -> bool {
        rel.is_none_or(|rel| rel == self.followed.oid || self.followed.leaves.contains(&rel))
    }

    pub(super) fn set_leaves(&mut self, leaves: Vec<u32>, detaching: Vec<u32>) {
        self.followed.leaves = leaves;
        self.detaching = detaching;
    }

    /// Whether the sender of a payload is being detached.
    pub(super) fn ignores(&self, rel: Option<u32>) -> bool {
        rel.is_some_and(|rel| self.detaching.contains(&rel))
    }

    /// Every row was removed for a TRUNCATE that was announced; looks from this number on begin
    /// later.
    pub(super) fn note_clear(&mut self, look: u64) {
        self.cleared_before_look = Some(look);
        self.clears += 1;
    }

    /// Whether rows were removed for a TRUNCATE that no look has seen yet: any role can announce
    /// one.
    pub(super) fn is_to_be_seen_truncated(&self) -> bool {
        self.cleared_before_look.is_some()
    }

    /// Whether a look of this number would see the files that a TRUNCATE has made, for which rows
    /// were removed.
    pub(super) fn must_be_truncated(&self, look: u64) -> bool {
        self.cleared_before_look.is_some_and(|first| first <= look)
    }

    /// The files of the table were seen to be other ones, or not to be: gives who sent the last
    /// TRUNCATE. New files are those of one: where several were announced, the others must be seen
    /// too.
    pub(super) fn take_truncate(&mut self, has_happened: bool) -> Option<i32> {
        self.clears = if has_happened {
            self.clears.saturating_sub(1)
        } else {
            0
        };
        if self.clears == 0 {
            self.cleared_before_look = None;
        }
        self.truncate_sender
    }

    pub(super) fn last_truncate(&self) -> Option<u64> {
        self.last_truncate
    }

    /// Takes a change as it arrives, or as it stops waiting.
    pub(super) fn classify(&mut self, change: Change, waiting_limit: usize) -> Vec<Step> {
        if change.action == Action::Truncate {
            self.last_truncate = change.xid;
            self.truncate_sender = Some(change.sender);
        }
        match &mut self.phase {
            Phase::Due { .. }
            | Phase::Held
            | Phase::Reading {
                is_superseded: true,
                ..
            } => Vec::new(),
            Phase::Reading {
                waiting,
                waiting_bytes,
                is_superseded,
                ..
            } => {
                *waiting_bytes += change.bytes();
                if *waiting_bytes > waiting_limit {
                    self.cause = "too many changes waited while it was read".to_string();
                    tracing::warn!(table = self.followed.name, "{}", self.cause);
                    *is_superseded = true;
                    *waiting = Vec::new();
                    *waiting_bytes = 0;
                } else {
                    waiting.push(change);
                }
                Vec::new()
            }
            Phase::Following { filter, .. } => {
                if let (Some(snapshot), Some(xid)) = (filter, change.xid)
                    && self.without != Some(Rule::Cut)
                    && snapshot.sees(xid)
                {
                    return vec![Step::Skip];
                }
                if self.refetches.waiting_bytes() > waiting_limit {
                    return vec![Step::ReadScheduled(
                        "too many changes waited for rows that are read again".to_string(),
                    )];
                }
                if self.without != Some(Rule::Hold)
                    && let Some(
                        Comparison::Holding { held, bytes, .. }
                        | Comparison::Settling { held, bytes, .. },
                    ) = &mut self.comparison
                {
                    *bytes += change.bytes();
                    held.push(change);
                    return Vec::new();
                }
                let steps = self.follow(change);
                if self.touched_bytes() > waiting_limit {
                    return vec![Step::ReadScheduled(
                        "one transaction has changed too many rows".to_string(),
                    )];
                }
                match self.bound_backlog(waiting_limit) {
                    Some(schedule_read) => vec![schedule_read],
                    None => steps,
                }
            }
        }
    }

    /// How many bytes wait: changes for a read, for rows that are read again, for the cache's lock
    /// or for a comparison.
    pub(super) fn waiting_bytes(&self) -> usize {
        match &self.phase {
            Phase::Due { .. } | Phase::Held => 0,
            Phase::Reading { waiting_bytes, .. } => *waiting_bytes,
            Phase::Following { .. } => {
                let backlog = self.backlog.as_ref().map_or(0, Backlog::bytes);
                let waiting = self.refetches.waiting_bytes() + self.refetches.wanted_bytes();
                waiting + backlog + self.held_bytes() + self.touched_bytes()
            }
        }
    }

    /// How many bytes the keys of the transaction that is being followed take.
    fn touched_bytes(&self) -> usize {
        // A byte of control for each entry.
        self.touched.capacity() * (size_of::<(u64, Touch)>() + 1)
    }

    /// Something happened to the table that nobody can make out.
    pub(super) fn invalidate(&mut self, why: &str) -> Vec<Step> {
        match &mut self.phase {
            Phase::Due { .. } | Phase::Held => Vec::new(),
            Phase::Reading {
                is_superseded,
                waiting,
                waiting_bytes,
                ..
            } => {
                self.cause = why.to_string();
                *is_superseded = true;
                *waiting = Vec::new();
                *waiting_bytes = 0;
                Vec::new()
            }
            Phase::Following { .. } => vec![Step::ReadScheduled(why.to_string())],
        }
    }

    /// A change that the snapshot does not have.
    fn follow(&mut self, change: Change) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some((first, first_verdict)) = self.held.take() {
            if first.is_completed_by(&change) {
                let verdict = match (first_verdict, self.judge(&change)) {
                    (_, Err(asked)) => return vec![Step::Reload(asked)],
                    (Verdict::Sound, Ok(verdict)) => verdict,
                    (first, Ok(_)) => first,
                };
                self.admit(change.replace_key(), verdict, &mut steps);
                return steps;
            }
            self.admit(first, first_verdict, &mut steps);
        }
        match self.judge(&change) {
            Err(asked) => steps.push(Step::Reload(asked)),
            Ok(verdict) if change.is_first_half() => self.held = Some((change, verdict)),
            Ok(verdict) => self.admit(change, verdict, &mut steps),
        }
        steps
    }

    /// Gives out what a key change holds back.
    pub(super) fn release_held(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some((first, verdict)) = self.held.take() {
            self.admit(first, verdict, &mut steps);
        }
        steps
    }

    /// A change takes its place among the rows that are read again.
    fn admit(&mut self, change: Change, verdict: Verdict, steps: &mut Vec<Step>) {
        if verdict == Verdict::Ignored {
            steps.push(Step::Skip);
            return;
        }
        self.arrivals += 1;
        // Without an xid nobody can tell whether the row that was read again a moment ago is newer.
        let may_be_seen =
            change.xid.is_none() && change.keys().any(|key| self.refetches.has_floor(key));
        let is_doubtful = verdict == Verdict::Doubtful || may_be_seen;
        self.place(
            Queued {
                change,
                is_doubtful,
                arrival: self.arrivals,
            },
            steps,
        );
    }

    fn place(&mut self, queued: Queued, steps: &mut Vec<Step>) {
        match self.refetches.admit(&queued.change) {
            Admission::Waits if !self.keeps(Rule::Waiting) && !queued.is_doubtful => {
                self.resolve(queued.change, steps);
            }
            Admission::Waits => self.refetches.push(queued),
            Admission::Absorbed
                if self.is_busy() && !self.keeps(Rule::Sticky) && !queued.is_doubtful =>
            {
                queued
                    .change
                    .keys()
                    .for_each(|key| self.refetches.unwant(key));
                self.resolve(queued.change, steps);
            }
            Admission::Absorbed => self.refetch(&queued, steps),
            Admission::Free if queued.is_doubtful => self.refetch(&queued, steps),
            Admission::Free => self.resolve(queued.change, steps),
        }
    }

    /// Wants the rows that a change is about, unless they were read again since.
    fn refetch(&mut self, queued: &Queued, steps: &mut Vec<Step>) {
        for key in queued.change.keys() {
            if !self.refetches.sees(key, queued.change.xid) {
                self.refetches.want(key, queued.arrival);
                self.refetches.is_asked_by(queued.change.sender);
            }
        }
        steps.push(Step::Skip);
    }

    /// Applies what no row that was read again has seen.
    fn resolve(&mut self, change: Change, steps: &mut Vec<Step>) {
        if change.action == Action::Truncate {
            let spared = if self.keeps(Rule::Spare) {
                self.refetches.keys_that_saw(change.xid)
            } else {
                Vec::new()
            };
            match &mut self.backlog {
                Some(backlog) => self.collapsed += backlog.clear(spared),
                None => steps.push(Step::Clear(spared)),
            }
            return;
        }
        let saw_new = self.refetches.sees(change.id(), change.xid);
        let saw_old = match change.operation() {
            Operation::ReplaceKey => change
                .old_id()
                .is_none_or(|key| self.refetches.sees(key, change.xid)),
            Operation::Upsert | Operation::Remove | Operation::Whole => saw_new,
        };
        let change = match (saw_old, saw_new) {
            (true, true) => return steps.push(Step::Skip),
            (false, false) => change,
            (true, false) => change.store_new(),
            (false, true) => change.remove_old(),
        };
        match &mut self.backlog {
            Some(backlog) => self.collapsed += backlog.keep(change),
            None => steps.push(Step::Apply(change)),
        }
    }

    /// Whether the cache is not changed: somebody holds its lock, or it is compared with the table.
    pub(super) fn is_busy(&self) -> bool {
        self.backlog.is_some() || self.comparison.is_some()
    }

    /// How many changes were dropped because a later one of the same key came while the cache could
    /// not be changed.
    pub(super) fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// The cache cannot be changed from now on.
    pub(super) fn become_busy(&mut self) {
        self.is_locked = true;
        self.backlog.get_or_insert_default();
    }

    /// The cache can be changed again: what has come meanwhile.
    pub(super) fn become_free(&mut self) -> Vec<Step> {
        self.is_locked = false;
        self.release()
    }

    fn release(&mut self) -> Vec<Step> {
        if self.is_locked || self.comparison.is_some() {
            return Vec::new();
        }
        let Some(mut backlog) = self.backlog.take() else {
            return Vec::new();
        };
        let (cleared, changes) = backlog.take();
        cleared
            .map(Step::Clear)
            .into_iter()
            .chain(changes.map(Step::Apply))
            .collect()
    }

    /// Rows that are being read again will not come: they are to be asked for anew.
    pub(super) fn give_up_refetch(&mut self) {
        self.refetches.give_up();
    }

    /// Keeps what waits within `limit` bytes: rows are read again in place of payloads, and if even
    /// their keys are too many, all of the table.
    fn bound_backlog(&mut self, limit: usize) -> Option<Step> {
        let backlog = self.backlog.as_mut()?;
        if backlog.bytes() > limit {
            let (cleared, changes) = backlog.take();
            if let Some(keep) = cleared {
                backlog.clear(keep);
            }
            // When each came is not kept: a fence that has come since waits for all of them.
            changes.for_each(|change| change.keys().for_each(|key| self.refetches.want(key, 0)));
        }
        let is_too_much = self.refetches.wanted_bytes() > limit;
        is_too_much.then(|| {
            Step::ReadScheduled(
                "too many changes came while its cache could not be changed".to_string(),
            )
        })
    }

    /// Whether rows are to be read again and none are being read.
    pub(super) fn is_refetch_due(&self) -> bool {
        self.is_following() && self.refetches.is_due() && !self.is_busy()
    }

    /// The keys of the rows to read again.
    pub(super) fn start_refetch(&mut self, batch: u64) -> Vec<String> {
        self.refetches.start(batch)
    }

    /// Rows were read again; what is to be done once they are stored. `None` when they are of no
    /// use any more.
    pub(super) fn refetched(
        &mut self,
        batch: u64,
        snapshot: Snapshot,
        after: u64,
    ) -> Option<Vec<Step>> {
        let waited = self.refetches.answered(batch, snapshot, after)?;
        if !self.keeps(Rule::Floor) {
            self.refetches.forget_floors();
        }
        let mut steps = Vec::new();
        for mut queued in waited {
            // Whether the row that came has seen it cannot be told without an xid.
            queued.is_doubtful |= queued.change.xid.is_none();
            // What the row that came has seen is done with.
            let is_done = queued.change.action != Action::Truncate
                && queued
                    .change
                    .keys()
                    .all(|key| self.refetches.sees(key, queued.change.xid));
            if is_done && self.refetches.admit(&queued.change) == Admission::Free {
                steps.push(Step::Skip);
            } else {
                self.place(queued, &mut steps);
            }
        }
        Some(steps)
    }

    /// How many changes have come to be followed, and since which one something is open.
    pub(super) fn arrivals(&self) -> (u64, Option<u64>) {
        (
            self.arrivals,
            if self.is_busy() {
                Some(0)
            } else {
                self.refetches.open_since()
            },
        )
    }

    /// What the order of the changes says of this one, and notes what it touches; an error says why
    /// all of the table must be read again.
    ///
    /// A nested trigger can make the announcements of one key arrive in another order than its
    /// changes were made, and a deferrable key can be on two rows for a while: then the last
    /// announcement is not the row's last state.
    fn judge(&mut self, change: &Change) -> Result<Verdict, ReloadRequest> {
        if change.xid.is_none() || change.xid != self.touched_by {
            self.forget_touched();
            self.touched_by = change.xid;
        }
        let follows_truncate = self.truncated_by.take();
        let (touch, is_lacking) = match change.action {
            // TRUNCATE of the root fires the triggers of its leaves as well, right behind its own.
            Action::Reload
                if change.xid.is_some()
                    && change.xid == follows_truncate
                    && !change.is_from(self.followed.oid) =>
            {
                self.truncated_by = follows_truncate;
                return Ok(Verdict::Ignored);
            }
            Action::Reload => {
                let why = change
                    .why()
                    .map_or_else(String::new, |why| format!(": {why}"));
                let why = format!("a notification asks for it{why}");
                return Err(ReloadRequest {
                    why,
                    sender: Some(change.sender),
                });
            }
            Action::Truncate => {
                self.forget_touched();
                self.truncated_by = change.xid;
                return Ok(Verdict::Sound);
            }
            Action::Insert | Action::Update => (
                Touch::Stored,
                !self.followed.sends_whole_rows || change.data().is_none(),
            ),
            Action::Delete => (Touch::Removed, false),
        };
        let before = self.touched.insert(change.key_hash(&self.hasher), touch);
        // Without an xid nobody can tell one transaction from the next.
        let recheck = change.recheck && self.keeps(Rule::Recheck);
        let deferrable = self.followed.deferrable_key;
        let is_touched_again = change.xid.is_some()
            && match touch {
                Touch::Stored => before.is_some() && (recheck || deferrable),
                Touch::Removed => {
                    (before == Some(Touch::Stored) && self.keeps(Rule::Delete))
                        || (before.is_some() && deferrable)
                }
            };
        Ok(if is_lacking || is_touched_again {
            Verdict::Doubtful
        } else {
            Verdict::Sound
        })
    }

    /// Empties the map. A large one is let go: to clear it takes time in proportion to what it once
    /// held.
    fn forget_touched(&mut self) {
        if self.touched.capacity() > 1024 {
            self.touched = HashMap::new();
        } else {
            self.touched.clear();
        }
    }

    /// Makes the table be read again; whether that was not due already. While it is being read
    /// there is nothing to do: the change in question came before the read was asked for, which
    /// sees it.
    pub(super) fn schedule_read(&mut self, why: &str, now: Instant) -> bool {
        if !self.is_following() {
            return false;
        }
        self.cause = why.to_string();
        self.become_due(now);
        true
    }

    /// A notification makes it be read again; whether that is news.
    ///
    /// Any role can send one, without a privilege and as often as it likes. Without a distance
    /// between the reads: 1. Ten a second are sent. 2. The table is read without end. 3. It is
    /// never live, nobody gets an answer, and the server does nothing else. So reads keep a
    /// distance, which grows while they find nothing, and meanwhile the table is followed as it
    /// was: what it was asked for may be nothing. It is not live until it has been read.
    pub(super) fn want_reload(&mut self, asked: ReloadRequest, now: Instant) -> bool {
        match &self.phase {
            Phase::Due { .. } | Phase::Held => false,
            Phase::Reading { .. } => {
                self.asked_meanwhile.get_or_insert(asked);
                false
            }
            Phase::Following { .. } if self.reload_at.is_some() => false,
            Phase::Following { .. } => {
                self.cause = asked.to_string();
                match self.spaced(self.fruitless, now) {
                    None => self.become_due(now),
                    at => self.reload_at = at,
                }
                true
            }
        }
    }

    /// Whether a notification that asks for it now makes it be read again without a wait.
    pub(super) fn would_reload_at_once(&self, now: Instant) -> bool {
        self.is_following()
            && self.reload_at.is_none()
            && self.spaced(self.fruitless, now).is_none()
    }

    /// What has asked for it to be read again while it was.
    pub(super) fn take_asked(&mut self) -> Option<ReloadRequest> {
        self.asked_meanwhile.take()
    }

    /// Whoever asks for a fence waits for the read that is due, but not for the distance to the one
    /// before: it may take as long as that has taken.
    pub(super) fn hurry(&mut self, now: Instant) {
        let soon = self.last_reload.map_or(now, |(ended, took)| ended + took);
        match &mut self.phase {
            Phase::Following { .. } => self.reload_at = self.reload_at.map(|at| at.min(soon)),
            Phase::Due {
                not_before: Some(at),
            } if !self.is_failing => *at = (*at).min(soon),
            Phase::Due { .. } | Phase::Held | Phase::Reading { .. } => {}
        }
    }

    /// When it may be read again: `None` is at once. The distance is twice what the last read took,
    /// and doubles with each that has changed nothing.
    fn spaced(&self, fruitless: u32, now: Instant) -> Option<Instant> {
        /// The longest distance that comes of doubling.
        const LONGEST: Duration = Duration::from_secs(60);
        /// What the first doubling begins with, where a read takes less.
        const SHORTEST: Duration = Duration::from_millis(10);
        let (ended, took) = self.last_reload?;
        let distance = match fruitless {
            0 => 2 * took,
            times => took
                .max(SHORTEST)
                .saturating_mul(2_u32.saturating_pow(times.saturating_add(1))),
        };
        Some(ended + distance.min(LONGEST.max(2 * took))).filter(|at| *at > now)
    }

    /// Makes the table be read in place of rows of it; whether that was not due already.
    pub(super) fn read_instead(&mut self, asked: &ReloadRequest, now: Instant) -> bool {
        if !self.is_following() {
            return false;
        }
        self.cause = asked.to_string();
        self.phase = Phase::Due {
            not_before: self.spaced(self.fruitless, now),
        };
        self.forget_transaction();
        true
    }

    /// The server's process whose notifications have asked for the rows that are being read again,
    /// if it is one.
    pub(super) fn sender_of_refetch(&self) -> Option<i32> {
        self.refetches.sender()
    }

    fn become_due(&mut self, now: Instant) {
        self.phase = Phase::Due {
            not_before: self.spaced(0, now),
        };
        self.forget_transaction();
    }

    fn forget_transaction(&mut self) {
        // A read that is asked for from now on sees whatever has come.
        self.refetches = Refetches::default();
        self.comparison = None;
        self.backlog = self.is_locked.then(Backlog::default);
        self.touched = HashMap::new();
        self.touched_by = None;
        self.held = None;
        self.truncated_by = None;
        self.reload_at = None;
        self.asked_meanwhile = None;
        self.cleared_before_look = None;
        self.clears = 0;
    }

    /// A read has failed: it is to be done again, not before then.
    pub(super) fn read_failed(&mut self, not_before: Instant, why: String) {
        self.cause = why;
        self.is_failing = true;
        self.phase = Phase::Due {
            not_before: Some(not_before),
        };
        self.forget_transaction();
    }

    /// It cannot be followed as it is.
    pub(super) fn hold(&mut self, why: String) {
        self.cause = why;
        self.phase = Phase::Held;
        self.forget_transaction();
    }

    /// It can be followed, as this says, and is to be read.
    pub(super) fn follow_anew(&mut self, followed: TableSpec) {
        self.followed = followed;
        self.detaching.clear();
        self.is_failing = false;
        self.read_failures.reset();
        self.backoff.reset();
        // A read of what it was before is of no use any more, and numbers of the same generation
        // must not be taken for it.
        self.generation += 1;
        self.phase = Phase::Due { not_before: None };
        self.forget_transaction();
    }

    /// The connections are lost. A table that cannot be followed cannot be followed by other
    /// connections either.
    pub(super) fn disconnect(&mut self) {
        self.read_failures.reset();
        if !self.is_held() {
            self.phase = Phase::Due { not_before: None };
        }
        self.forget_transaction();
    }

    /// The read is asked for; its generation.
    pub(super) fn start_reading(&mut self, read: u64, now: Instant) -> u64 {
        if self.is_following() {
            self.forget_transaction();
        }
        self.read = read;
        self.generation += 1;
        self.phase = Phase::Reading {
            started: now,
            snapshot: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            is_superseded: false,
        };
        self.generation
    }

    /// The snapshot of a read is known.
    pub(super) fn cut(&mut self, generation: u64, taken: Snapshot) {
        if let Phase::Reading { snapshot, .. } = &mut self.phase
            && generation == self.generation
        {
            *snapshot = Some(taken);
        }
    }

    /// The rows of a read are in the cache: gives what waited. `None` when that read is of no use
    /// any more.
    pub(super) fn loaded(
        &mut self,
        generation: u64,
        after_reads: u64,
        has_changed: bool,
        now: Instant,
    ) -> Option<Vec<Change>> {
        let Phase::Reading {
            started,
            snapshot,
            waiting,
            is_superseded,
            ..
        } = &mut self.phase
        else {
            return None;
        };
        if generation != self.generation {
            return None;
        }
        let started = *started;
        let waiting = std::mem::take(waiting);
        let filter = snapshot.take();
        self.is_failing = false;
        self.backoff.reset();
        self.last_reload = Some((now, now.saturating_duration_since(started)));
        self.fruitless = if has_changed {
            0
        } else {
            self.fruitless.saturating_add(1)
        };
        // Without a snapshot nothing could be proven: the read does not count either.
        if *is_superseded || filter.is_none() {
            self.become_due(now);
            return None;
        }
        self.phase = Phase::Following {
            filter,
            after_reads,
        };
        Some(waiting)
    }

    /// A fence that was sent after `after_reads` reads has arrived: what the snapshot could filter
    /// has arrived too.
    pub(super) fn prove(&mut self, fence_after_reads: u64) {
        if let Phase::Following {
            filter,
            after_reads,
        } = &mut self.phase
            && *after_reads <= fence_after_reads
        {
            *filter = None;
        }
        // What a comparison holds came before this fence, and may be what a floor has seen.
        if self.comparison.is_none() {
            self.refetches.free_floors(fence_after_reads);
        }
    }
}
