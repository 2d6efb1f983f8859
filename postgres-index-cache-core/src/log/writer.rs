//! [`Writer`]: the term of one relay. Decides which entries are appended, which count as stored,
//! and when the term is over.
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
//! that one.

mod messages;
mod recovery;

pub use messages::{
    Base, Message, Recovered, WriterCounters, WriterInput, WriterLimits, WriterOutput,
};

use super::deferred::DeferredKeys;
use super::entry::{Body, Entry, JsonRow, Part, Proof, RowChanges, RowOp};
use super::position::{Epoch, Place, Position, Sequence};
use super::rules::{Rule, Rules};
use super::snapshot::SnapshotPlace;
use crate::split_mix::SplitMix;
use std::collections::VecDeque;
use std::time::Instant;

/// How far a writer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Entered at the begin of a term, and after a recovery. Entries are appended at once.
    Sending,
    /// Entered when the writer does not know which entries are stored.
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
    /// Entered when keys cannot name the changed rows. The next term begins with a snapshot.
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
    /// The end of the log that the term builds upon; `None` if upon a snapshot of its own.
    base: Option<Base>,
    phase: Phase,
    /// The number of recoveries. Answers to appends from before the last one are ignored.
    round: u64,
    kept: VecDeque<Kept>,
    /// The bytes of the entries in `kept` that are not stored, and of those that are.
    unanswered: usize,
    stored_bytes: usize,
    /// When the engine answered last.
    answered_at: Option<Instant>,
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
    /// Begins a term behind the end of a log whose rows are in the caller's cache (W1): the caller
    /// has an image at the log's end, and the advisory lock.
    ///
    /// `seed` must be random, and another one each time: the nonces follow from the seed, and two
    /// terms with one nonce could pass for each other.
    pub fn lead(name: &str, base: Base, limits: WriterLimits, seed: u64, now: Instant) -> Self {
        let number = base.position.epoch.number;
        let mut writer = Self::new(name, limits, seed);
        writer.base = Some(base);
        writer.begin(number, Some(base.seen.position), Some(base.position), now);
        writer
    }

    /// Begins a term whose rows come with a snapshot, behind the log's last entry `end`. `seed` is
    /// as for [`lead`](Self::lead).
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
            unanswered: 0,
            stored_bytes: 0,
            answered_at: None,
            stored: None,
            deferring: Deferring::Nothing,
            is_unread: false,
            wants_snapshot: false,
            snapshot: None,
            counters: WriterCounters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Disables rules, at most three.
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
        let next = self.stored.map_or(1, |stored| stored.position.number + 1);
        let sent = self.kept_with(next)?.sent;
        // A long batch is answered one by one: each answer shows that the next may come.
        let since = self.answered_at.map_or(sent, |at| at.max(sent));
        Some(since + self.limits.answer_timeout)
    }

    /// Publishes changes of the rows of a table. If too much waits for the engine's answer,
    /// the keys are kept, and [`WriterOutput::PublishDeferred`] gives them back later.
    pub fn publish(&mut self, changes: RowChanges, now: Instant) {
        // Nobody follows this term yet, and the snapshot will have the rows.
        if self.is_unread || changes.ops.is_empty() {
            return;
        }
        if self.deferring == Deferring::Nothing && self.is_full() {
            self.counters.deferred += 1;
            self.deferring = Deferring::Keys(DeferredKeys::default());
        }
        match &mut self.deferring {
            Deferring::Nothing | Deferring::Publishing => self.append_changes(changes, now),
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

    /// Publishes that all that was committed before a fence is in the log. Returns the position.
    ///
    /// Returns `None` if nothing can be proven now: rows are deferred, or the engine does not
    /// answer. Whoever asks while the engine is away must not fill the memory with proofs.
    pub fn prove(&mut self, proof: Proof, now: Instant) -> Option<Position> {
        let can_send = self.phase == Phase::Sending && !self.is_full();
        if !can_send || self.deferring != Deferring::Nothing {
            return None;
        }
        self.append(Body::Proof(proof), now);
        Some(self.position())
    }

    /// Publishes that nothing is known of PostgreSQL until the next proof.
    pub fn stale(&mut self, why: &str, now: Instant) {
        // Sessions may be lost again and again while the engine is away: once is enough.
        let is_said = self.kept.back().is_some_and(|kept| {
            kept.stored.is_none() && matches!(kept.entry.body, Body::Stale { .. })
        });
        if is_said {
            return;
        }
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

    /// Notes that the last row of the snapshot was read. Every change that the rows may have must
    /// be published before. [`WriterOutput::PutSnapshot`] follows once all of that is stored.
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

    /// Begins a further term, with a snapshot of its own: the tables are other ones than before.
    pub fn begin_again(&mut self, now: Instant) {
        if self.phase != Phase::Over {
            self.deferring = Deferring::Everything;
            self.end_deferring(now);
        }
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
                    self.answered_at = Some(now);
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
            WriterInput::SnapshotPut(place) => {
                // A put takes a while. One of an earlier term is of no use to this one.
                if place.start.position.epoch == self.epoch {
                    self.wants_snapshot = false;
                }
            }
            WriterInput::TimePassed => {
                if self.poll_timeout().is_some_and(|at| at <= now) {
                    self.recover();
                }
            }
        }
        self.end_deferring(now);
        self.check_snapshot();
    }

    /// Returns whether too much waits for the engine's answer.
    fn is_full(&self) -> bool {
        self.unanswered > self.limits.most_unanswered
    }

    /// Appends the next entry of the term, or keeps the entry if a recovery is underway.
    fn append(&mut self, body: Body, now: Instant) {
        if self.phase == Phase::Over {
            return;
        }
        self.number += 1;
        let entry = Entry {
            position: self.position(),
            behind: None,
            body,
        };
        let bytes = bytes_of(&entry.body);
        if self.phase == Phase::Sending {
            self.send(entry.clone());
        }
        self.unanswered += bytes;
        self.kept.push_back(Kept {
            entry,
            bytes,
            stored: None,
            sent: now,
        });
    }

    /// Appends changes, in parts if they are too long for one entry.
    fn append_changes(&mut self, changes: RowChanges, now: Instant) {
        let longest = self.limits.longest_entry;
        let body = Body::Rows(changes);
        let Body::Rows(changes) = &body else { return };
        if bytes_of(&body) <= longest {
            return self.append(body, now);
        }
        let Ok(text) = changes.ops_json() else {
            // The driver says so when it writes the entry.
            return self.append(body, now);
        };
        // In a text of JSON each character may take twice its bytes: a quote becomes `\"`.
        let pieces = pieces_of(&text, longest / 2);
        let count = pieces.len() as u32;
        self.counters.in_parts += 1;
        for (number, text) in (0..).zip(pieces) {
            let part = Part {
                table: changes.table.clone(),
                number,
                count,
                text: text.to_string(),
            };
            self.append(Body::Part(part), now);
        }
    }

    /// Asks the driver to append an entry behind the last one.
    fn send(&mut self, mut entry: Entry) {
        entry.behind = self.behind.replace(entry.position);
        self.outputs.push_back(WriterOutput::Append {
            round: self.round,
            entry,
        });
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
        self.unanswered = 0;
        self.stored_bytes = 0;
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
        let at = self.index_of(next);
        if let Some(kept) = at.and_then(|at| self.kept.get_mut(at)) {
            kept.stored = Some(place.sequence);
            self.unanswered -= kept.bytes;
            self.stored_bytes += kept.bytes;
            self.stored = Some(place);
            self.forget_old();
        }
    }

    /// Returns where in `kept` the entry with this number is; `None` if it was forgotten.
    fn index_of(&self, number: u64) -> Option<usize> {
        let first = self.kept.front()?.entry.position.number;
        usize::try_from(number.checked_sub(first)?).ok()
    }

    /// Returns the entry with this number, if it is kept.
    fn kept_with(&self, number: u64) -> Option<&Kept> {
        self.kept.get(self.index_of(number)?)
    }

    /// Forgets the oldest stored entries, as far as their bytes are over the bound.
    fn forget_old(&mut self) {
        while self.stored_bytes > self.limits.kept
            && let Some(kept) = self.kept.front()
            && kept.stored.is_some()
            // The last stored one is where a recovery begins.
            && Some(kept.entry.position) != self.stored.map(|stored| stored.position)
        {
            self.stored_bytes -= kept.bytes;
            self.kept.pop_front();
        }
    }

    /// Ends the term: another relay writes.
    fn step_down(&mut self) {
        self.phase = Phase::Over;
        self.outputs.push_back(WriterOutput::StepDown);
    }

    /// Asks for the rows that are deferred, if there is room for them again.
    fn end_deferring(&mut self, now: Instant) {
        let has_room = self.unanswered <= self.limits.most_unanswered / 2;
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

    /// Notes that the rows of the snapshot that has begun are read no further. Another one may begin.
    pub fn give_up_snapshot(&mut self) {
        self.drop_snapshot();
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
        let kept = self.kept_with(end.number);
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
    /// The bytes of an entry or an operation beside the texts.
    const OVERHEAD: usize = 64;
    let bytes = |op: &RowOp| match op {
        RowOp::Upsert { id, row } => id.len() + bytes_of_row(row),
        RowOp::Replace { old_id, id, row } => old_id.len() + id.len() + bytes_of_row(row),
        RowOp::Remove { id } => id.len(),
        RowOp::Clear { spared } => spared.iter().map(|id| id.len() + 1).sum(),
    };
    OVERHEAD
        + match body {
            Body::Begin { .. } => 0,
            Body::Rows(changes) => changes.ops.iter().map(|op| OVERHEAD + bytes(op)).sum(),
            Body::Part(part) => part.text.len(),
            Body::Proof(proof) => OVERHEAD * proof.tables.len(),
            Body::Stale { why } => why.len(),
        }
}

/// Returns how many bytes a row takes in an entry at most.
fn bytes_of_row(row: &JsonRow) -> usize {
    // Each name has quotes and a comma, and each of its characters may be escaped.
    let nulls = row.nulls.iter().map(|name| 6 * name.len() + 3);
    row.data.len() + nulls.sum::<usize>()
}

/// Cuts a text into pieces of at most `most` bytes, or of one character.
fn pieces_of(text: &str, most: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let fitting = rest
            .char_indices()
            .map(|(at, char)| at + char.len_utf8())
            .take_while(|end| *end <= most);
        let first = rest.chars().next().map_or(1, char::len_utf8);
        let (piece, behind) = rest.split_at(fitting.last().unwrap_or(first));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}
