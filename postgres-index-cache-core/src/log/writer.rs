//! [`Writer`]: the term of one relay. Decides what is appended, what counts as stored, and when the
//! term is over.
//!
//! ```text
//!            Begin
//! Sending ──── refused, disconnected, an answer is late ──→ Recovering
//!    ▲                                                        │ the log was read
//!    ├─ the rest is appended again ───────────────────────────┤
//!    ├─ a new term with a snapshot of its own ────────────────┤ what was written is lost
//!    │                                                        ▼
//!    │                                             Over: another relay writes
//! ```
//!
//! A writer does no I/O, as [`Node`](super::Node) does none. Each append names the entry that must
//! be the log's last one. Appends do not wait for each other: if one is refused, so are all behind
//! it.

use super::deferred::DeferredKeys;
use super::entry::{Body, Entry, Proof, RowChanges, RowOp};
use super::follower::{Follower, NoImage, Took};
use super::position::{Epoch, Place, Position, Sequence};
use super::rules::{Rule, Rules};
use super::snapshot::SnapshotPlace;
use crate::split_mix::SplitMix;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bounds of a writer.
#[derive(Debug, Clone, Copy)]
pub struct WriterLimits {
    /// The wait for the engine's answer to an append.
    pub answer_timeout: Duration,
    /// The most bytes of entries that wait for the engine's answer. Rows that change beyond that
    /// are deferred: their keys are kept.
    pub most_unanswered: usize,
    /// The bytes of stored entries that are kept, in case the engine loses them.
    pub kept: usize,
    /// The most bytes of keys that are deferred.
    pub most_deferred: usize,
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
        /// What the log says.
        found: Recovered,
    },
    /// The snapshot whose place [`WriterOutput::PutSnapshot`] gave can be loaded.
    SnapshotPut,
    /// The time of [`Writer::poll_timeout`] has come.
    TimePassed,
}

/// What the log says of the places that a writer knows.
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
    /// Append an entry, if the log's last entry is `behind`; `None` means that the log is empty.
    Append {
        /// Number of the recoveries so far, for the answer.
        round: u64,
        /// Entry to append.
        entry: Entry,
        /// Entry that must be the log's last one.
        behind: Option<Position>,
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
    /// Publish the rows with these keys by [`Writer::publish`], or their removal, and call
    /// [`Writer::deferred_are_published`].
    PublishDeferred(DeferredKeys),
    /// The rows that were read since [`Writer::start_snapshot`] are a snapshot of this part of the
    /// log.
    PutSnapshot(SnapshotPlace),
    /// The rows that were read since [`Writer::start_snapshot`] are no snapshot.
    DropSnapshot,
    /// The term is over: another relay writes. Follow the log.
    StepDown,
}

/// How far a writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Entered at the begin of a term, and after a recovery. Entries are appended at once.
    Sending,
    /// Entered when it is not known which entries are stored.
    Recovering,
    /// Entered when another writer has begun.
    Over,
}

/// An entry that may have to be appended again.
#[derive(Debug)]
struct Kept {
    entry: Entry,
    bytes: usize,
    /// Where the entry stands; `None` while the engine has not answered.
    stored: Option<Sequence>,
    /// When the entry was appended last.
    sent: Instant,
}

/// Rows that cannot be published yet.
#[derive(Debug, Default, PartialEq, Eq)]
enum Deferring {
    /// Every change is published.
    #[default]
    Nothing,
    /// Entered when too much waits for the engine's answer.
    Keys(DeferredKeys),
    /// Entered when keys cannot say what has changed. The next term begins with a snapshot.
    Everything,
    /// Entered when the caller was asked to publish the deferred rows.
    Publishing,
}

/// A snapshot whose rows are being read.
#[derive(Debug, Clone, Copy)]
struct Snapshotting {
    start: Place,
    /// The last entry that was published when the last row had been read.
    end: Option<Position>,
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
}

/// Writes a log.
#[derive(Debug)]
pub struct Writer {
    name: String,
    limits: WriterLimits,
    rules: Rules,
    nonces: SplitMix,
    epoch: Epoch,
    /// The number of the last entry of the term.
    number: u64,
    /// The log's last entry, if all that was appended is stored.
    behind: Option<Position>,
    /// What the term builds upon; `None` if upon a snapshot of its own.
    base: Option<Base>,
    phase: Phase,
    /// The number of recoveries. Answers to what was appended before the last one are ignored.
    round: u64,
    kept: VecDeque<Kept>,
    /// The last entry of the term that is stored, as are all before it.
    stored: Option<Place>,
    deferring: Deferring,
    /// Whether nobody can have an image of this term: no snapshot's rows were read.
    is_unread: bool,
    /// Whether a snapshot is wanted, without which nobody can follow.
    wants_snapshot: bool,
    snapshot: Option<Snapshotting>,
    counters: WriterCounters,
    outputs: VecDeque<WriterOutput>,
}

impl Writer {
    /// Begins a term behind the end of a log whose rows are in the caller's cache.
    pub fn lead(name: &str, base: Base, limits: WriterLimits, seed: u64, now: Instant) -> Self {
        let number = base.position.epoch.number;
        let mut writer = Self::new(name, limits, seed);
        writer.base = Some(base);
        writer.begin(number, Some(base.seen.position), Some(base.position), now);
        writer
    }

    /// Begins a term whose rows come with a snapshot, behind the log's last entry `end`.
    pub fn start_anew(
        name: &str,
        end: Option<Position>,
        limits: WriterLimits,
        seed: u64,
        now: Instant,
    ) -> Self {
        let mut writer = Self::new(name, limits, seed);
        writer.begin_anew(end, now);
        writer
    }

    fn new(name: &str, limits: WriterLimits, seed: u64) -> Self {
        Self {
            name: name.to_string(),
            limits,
            rules: Rules::default(),
            nonces: SplitMix::new(seed),
            epoch: Epoch {
                number: 0,
                nonce: 0,
            },
            number: 0,
            behind: None,
            base: None,
            phase: Phase::Sending,
            round: 0,
            kept: VecDeque::new(),
            stored: None,
            deferring: Deferring::Nothing,
            is_unread: false,
            wants_snapshot: false,
            snapshot: None,
            counters: WriterCounters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Disables rules, at most two.
    #[cfg(any(test, feature = "simulation"))]
    pub fn disable(&mut self, rules: &[Rule]) {
        self.rules = Rules::without_all(rules);
    }

    /// Returns the figures.
    pub fn counters(&self) -> WriterCounters {
        self.counters
    }

    /// Returns the position of the last entry.
    pub fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            number: self.number,
        }
    }

    /// Returns whether another writer has begun.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Returns whether a snapshot is to be read now: without one nobody can follow.
    pub fn wants_snapshot(&self) -> bool {
        self.wants_snapshot && self.snapshot.is_none() && self.can_start_snapshot()
    }

    /// Returns the next request.
    pub fn poll(&mut self) -> Option<WriterOutput> {
        self.outputs.pop_front()
    }

    /// Returns when [`WriterInput::TimePassed`] is to be said.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase != Phase::Sending {
            return None;
        }
        let first = self.kept.iter().find(|kept| kept.stored.is_none())?;
        Some(first.sent + self.limits.answer_timeout)
    }

    /// Publishes what was done to the rows of a table. If too much waits for the engine's answer,
    /// the keys are kept, and [`WriterOutput::PublishDeferred`] gives them back later.
    pub fn publish(&mut self, changes: RowChanges, now: Instant) {
        // Nobody follows this term yet, and the snapshot will have the rows.
        if self.is_unread || changes.ops.is_empty() {
            return;
        }
        if self.deferring == Deferring::Nothing && self.unanswered() > self.limits.most_unanswered {
            self.counters.deferred += 1;
            self.deferring = Deferring::Keys(DeferredKeys::default());
        }
        match &mut self.deferring {
            Deferring::Nothing | Deferring::Publishing => self.append(Body::Rows(changes), now),
            Deferring::Keys(keys) => {
                if !keys.add(&changes, self.limits.most_deferred) {
                    self.deferring = Deferring::Everything;
                }
            }
            Deferring::Everything => {}
        }
    }

    /// Notes that all rows were published that [`WriterOutput::PublishDeferred`] has named.
    pub fn deferred_are_published(&mut self) {
        if self.deferring == Deferring::Publishing {
            self.deferring = Deferring::Nothing;
        }
    }

    /// Publishes that all that was committed before a fence is in the log. Returns the position, or
    /// `None` if rows are deferred: the log has not everything then.
    pub fn prove(&mut self, proof: Proof, now: Instant) -> Option<Position> {
        if self.phase == Phase::Over || self.deferring != Deferring::Nothing {
            return None;
        }
        self.append(Body::Proof(proof), now);
        Some(self.position())
    }

    /// Publishes that nothing is known of PostgreSQL until the next proof.
    pub fn stale(&mut self, why: &str, now: Instant) {
        let why = why.to_string();
        self.append(Body::Stale { why }, now);
    }

    /// Begins a snapshot, whose rows the caller reads from now on. Returns whether that is possible
    /// now.
    pub fn start_snapshot(&mut self) -> bool {
        let Some(start) = self.stored.filter(|_| self.can_start_snapshot()) else {
            return false;
        };
        self.is_unread = false;
        self.snapshot = Some(Snapshotting { start, end: None });
        true
    }

    /// Notes that the last row of the snapshot was read. [`WriterOutput::PutSnapshot`] follows once
    /// all that the rows may have is stored.
    pub fn end_snapshot(&mut self) {
        let end = self.position();
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.end = Some(end);
        }
        if self.deferring != Deferring::Nothing {
            // The rows have changes that are not in the log.
            self.drop_snapshot();
        }
        self.check_snapshot();
    }

    fn can_start_snapshot(&self) -> bool {
        self.stored.is_some()
            && self.phase == Phase::Sending
            && self.deferring == Deferring::Nothing
    }

    /// Takes an event.
    pub fn handle(&mut self, input: WriterInput, now: Instant) {
        if self.phase == Phase::Over {
            return;
        }
        match input {
            WriterInput::Stored { round, place } => {
                if round == self.round && self.phase == Phase::Sending {
                    self.was_stored(place);
                }
            }
            WriterInput::Refused { round } => {
                if round == self.round {
                    self.recover();
                }
            }
            WriterInput::Disconnected => self.recover(),
            WriterInput::Recovered { round, found } => {
                if round == self.round && self.phase == Phase::Recovering {
                    self.recovered(&found, now);
                }
            }
            WriterInput::SnapshotPut => self.wants_snapshot = false,
            WriterInput::TimePassed => {
                if self.poll_timeout().is_some_and(|at| at <= now) {
                    self.recover();
                }
            }
        }
        self.end_deferring(now);
        self.check_snapshot();
    }

    /// Returns the bytes of the entries that wait for the engine's answer.
    fn unanswered(&self) -> usize {
        let waiting = self.kept.iter().rev();
        let waiting = waiting.take_while(|kept| kept.stored.is_none());
        waiting.map(|kept| kept.bytes).sum()
    }

    /// Appends the next entry of the term, or keeps the entry if a recovery is underway.
    fn append(&mut self, body: Body, now: Instant) {
        if self.phase == Phase::Over {
            return;
        }
        self.number += 1;
        let entry = Entry {
            position: self.position(),
            body,
        };
        let bytes = bytes_of(&entry.body);
        if self.phase == Phase::Sending {
            self.send(entry.clone());
        }
        self.kept.push_back(Kept {
            entry,
            bytes,
            stored: None,
            sent: now,
        });
    }

    /// Asks the driver to append an entry behind the last one.
    fn send(&mut self, entry: Entry) {
        let position = entry.position;
        self.outputs.push_back(WriterOutput::Append {
            round: self.round,
            entry,
            behind: self.behind,
        });
        self.behind = Some(position);
    }

    /// Begins a term with a number above `number`, behind the entry `behind`.
    fn begin(
        &mut self,
        number: u64,
        behind: Option<Position>,
        after: Option<Position>,
        now: Instant,
    ) {
        self.epoch = Epoch {
            number: number + 1,
            nonce: self.nonces.draw(),
        };
        self.number = 0;
        self.behind = behind;
        self.stored = None;
        self.kept.clear();
        self.phase = Phase::Sending;
        let writer = self.name.clone();
        self.append(Body::Begin { after, writer }, now);
    }

    /// Begins a term whose rows come with a snapshot, behind the log's last entry.
    fn begin_anew(&mut self, end: Option<Position>, now: Instant) {
        self.counters.resets += u64::from(self.number > 0);
        let number = end.map_or(0, |end| end.epoch.number).max(self.epoch.number);
        self.base = None;
        self.deferring = Deferring::Nothing;
        self.is_unread = true;
        self.wants_snapshot = true;
        self.drop_snapshot();
        self.begin(number, end, None, now);
    }

    /// Notes that an entry is stored.
    fn was_stored(&mut self, place: Place) {
        let next = self.stored.map_or(1, |stored| stored.position.number + 1);
        if place.position.epoch != self.epoch || place.position.number < next {
            return;
        }
        if place.position.number > next {
            // An answer is missing. Only the log tells where the entries in between stand.
            return self.recover();
        }
        let kept = self
            .kept
            .iter_mut()
            .find(|kept| kept.entry.position == place.position);
        if let Some(kept) = kept {
            kept.stored = Some(place.sequence);
            self.stored = Some(place);
            self.forget_old();
        }
    }

    /// Forgets the oldest stored entries, as far as their bytes are over the bound.
    fn forget_old(&mut self) {
        let stored = self.kept.iter().filter(|kept| kept.stored.is_some());
        let mut bytes: usize = stored.map(|kept| kept.bytes).sum();
        while bytes > self.limits.kept
            && let Some(kept) = self.kept.front()
            && kept.stored.is_some()
            // The last stored one is where a recovery begins.
            && Some(kept.entry.position) != self.stored.map(|stored| stored.position)
        {
            bytes -= kept.bytes;
            self.kept.pop_front();
        }
    }

    /// Asks for what the log says of the entries.
    fn recover(&mut self) {
        self.phase = Phase::Recovering;
        self.round += 1;
        let own = self.kept.iter().rev().filter_map(|kept| {
            let position = kept.entry.position;
            kept.stored.map(|sequence| Place { sequence, position })
        });
        let base = self.base.map(|base| base.seen);
        self.outputs.push_back(WriterOutput::Recover {
            round: self.round,
            places: own.chain(base).collect(),
        });
    }

    /// Goes on after a recovery: appends again what is not stored, begins anew, or steps down.
    fn recovered(&mut self, found: &Recovered, now: Instant) {
        let Some(first) = found.messages.first() else {
            return self.recovered_nothing(found.end, now);
        };
        let place = Place {
            sequence: first.sequence,
            position: first.entry.position,
        };
        let position = match self.base {
            Some(base) if base.seen == place => base.position,
            _ => place.position,
        };
        let mut follower = Follower::at(position, place);
        let mut stored = Vec::new();
        if place.position.epoch == self.epoch {
            stored.push(place);
        }
        for Message { sequence, entry } in &found.messages {
            let before = follower.position();
            match follower.take(*sequence, entry, &mut NoImage) {
                Took::Applied | Took::Ignored | Took::Differs => {}
                Took::Hole => return self.begin_anew(found.end, now),
                Took::Lost => return self.step_down(),
            }
            if follower.position() != before && entry.position.epoch == self.epoch {
                stored.push(Place {
                    sequence: *sequence,
                    position: entry.position,
                });
            }
        }
        let at = follower.position().unwrap_or(position);
        let is_others = at.epoch != self.epoch && at != position;
        let is_passed = found.end.is_some_and(|end| self.is_passed_by(end));
        if is_others || is_passed {
            return self.step_down();
        }
        let next = if at.epoch == self.epoch {
            at.number + 1
        } else {
            1
        };
        self.append_again(next, &stored, found.end, now);
    }

    /// Goes on after a recovery that has found none of the known places.
    fn recovered_nothing(&mut self, end: Option<Position>, now: Instant) {
        if end.is_some_and(|end| self.is_passed_by(end)) {
            return self.step_down();
        }
        let is_own_begin = self
            .kept
            .front()
            .is_some_and(|kept| kept.entry.position.number == 1);
        if self.base.is_none() && self.stored.is_none() && is_own_begin {
            // As far as is known nothing is stored. Where a term without predecessor begins does
            // not matter.
            if end.is_some_and(|end| end.epoch.number >= self.epoch.number) {
                return self.step_down();
            }
            return self.append_again(1, &[], end, now);
        }
        // Rule::ResetWhenLost
        if self.rules.keeps(Rule::ResetWhenLost) {
            return self.begin_anew(end, now);
        }
        self.behind = end;
        self.phase = Phase::Sending;
    }

    /// Returns whether an entry is of a later term of somebody else.
    fn is_passed_by(&self, entry: Position) -> bool {
        entry.epoch.number > self.epoch.number
    }

    /// Appends again all entries from number `next` on, behind the log's last entry. Entries before
    /// that are stored, at the places `stored` as far as they were read.
    fn append_again(&mut self, next: u64, stored: &[Place], end: Option<Position>, now: Instant) {
        let is_kept = |kept: &Kept| kept.entry.position.number == next;
        if next <= self.number && !self.kept.iter().any(is_kept) {
            // Rule::ResetWhenLost
            if self.rules.keeps(Rule::ResetWhenLost) {
                return self.begin_anew(end, now);
            }
        }
        self.counters.resumed += 1;
        self.phase = Phase::Sending;
        self.behind = end;
        self.stored = stored.last().copied();
        let mut again = Vec::new();
        for kept in &mut self.kept {
            let position = kept.entry.position;
            if position.number >= next {
                kept.stored = None;
                kept.sent = now;
                again.push(kept.entry.clone());
            } else if let Some(place) = stored.iter().find(|place| place.position == position) {
                kept.stored = Some(place.sequence);
            }
        }
        for entry in again {
            self.send(entry);
        }
    }

    /// Ends the term: another relay writes.
    fn step_down(&mut self) {
        self.phase = Phase::Over;
        self.outputs.push_back(WriterOutput::StepDown);
    }

    /// Asks for the rows that are deferred, if there is room for them again.
    fn end_deferring(&mut self, now: Instant) {
        let has_room = self.unanswered() <= self.limits.most_unanswered / 2;
        if self.phase != Phase::Sending || !has_room {
            return;
        }
        match std::mem::take(&mut self.deferring) {
            Deferring::Nothing => {}
            Deferring::Publishing => self.deferring = Deferring::Publishing,
            Deferring::Everything => self.begin_anew(self.behind, now),
            Deferring::Keys(keys) => {
                // Rule::StaleFirst
                if self.rules.keeps(Rule::StaleFirst) {
                    self.stale(
                        "rows were deferred while the log could not be written to",
                        now,
                    );
                }
                self.deferring = Deferring::Publishing;
                self.outputs.push_back(WriterOutput::PublishDeferred(keys));
            }
        }
    }

    fn drop_snapshot(&mut self) {
        if self.snapshot.take().is_some() {
            self.outputs.push_back(WriterOutput::DropSnapshot);
        }
    }

    /// Gives the place of the snapshot if all that its rows may have is stored.
    fn check_snapshot(&mut self) {
        let Some(Snapshotting {
            start,
            end: Some(end),
        }) = self.snapshot
        else {
            return;
        };
        if !self.stored.is_some_and(|stored| stored.position.has(&end)) {
            return;
        }
        self.snapshot = None;
        let kept = self.kept.iter().find(|kept| kept.entry.position == end);
        let end = kept.and_then(|kept| kept.stored).map(|sequence| Place {
            sequence,
            position: end,
        });
        let place = end.filter(|end| start.is_unbroken_to(end));
        self.outputs.push_back(match place {
            Some(end) => WriterOutput::PutSnapshot(SnapshotPlace { start, end }),
            None => WriterOutput::DropSnapshot,
        });
    }
}

/// Returns about how many bytes an entry takes.
fn bytes_of(body: &Body) -> usize {
    /// What an entry or an operation costs beside its texts.
    const OVERHEAD: usize = 64;
    let bytes = |op: &RowOp| match op {
        RowOp::Upsert { id, row } => id.len() + row.data.len(),
        RowOp::Replace { old_id, id, row } => old_id.len() + id.len() + row.data.len(),
        RowOp::Remove { id } => id.len(),
        RowOp::Clear { spared } => spared.iter().map(String::len).sum(),
    };
    OVERHEAD
        + match body {
            Body::Begin { .. } => 0,
            Body::Rows(changes) => changes.ops.iter().map(|op| OVERHEAD + bytes(op)).sum(),
            Body::Proof(proof) => OVERHEAD * proof.tables.len(),
            Body::Stale { why } => why.len(),
        }
}
