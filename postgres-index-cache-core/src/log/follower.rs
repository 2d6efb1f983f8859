//! [`Follower`]: the rules by which an entry of a log is taken or not.
//!
//! A node, a relay that stands by, and a writer that wants to know which of its entries were
//! stored follow the same rules, so all of them agree about the log.

use super::entry::{Body, Entry, LONGEST_CHANGES, Part, Proof, RowChanges};
use super::position::{Place, Position, Sequence};
use super::rules::{Rule, Rules};
use super::snapshot::SnapshotPlace;

/// The rows that a reader keeps.
pub trait Image {
    /// Carries out the changes of an entry.
    fn apply(&mut self, changes: &RowChanges);

    /// Returns whether the rows are those that `proof` describes.
    fn is_as(&mut self, proof: &Proof) -> bool;
}

/// The image of whoever wants to know which entries count, and not their rows.
#[derive(Debug, Default)]
pub struct NoImage;

impl Image for NoImage {
    fn apply(&mut self, _: &RowChanges) {}

    fn is_as(&mut self, _: &Proof) -> bool {
        true
    }
}

/// The fate of a message that was handed to a [`Follower`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Took {
    /// The entry is taken.
    Applied,
    /// The entry changes nothing: it was seen before, or a writer wrote it whose term is over.
    Ignored,
    /// Messages are missing in front of this one, or the one that was seen last is not in the log
    /// any more. Read again from that one.
    Hole,
    /// Nothing that is known stands in the log any more, or the term builds upon a snapshot. Load a
    /// snapshot.
    Lost,
    /// The rows are not those of the writer. Load a snapshot.
    Differs,
}

/// Reads a log message by message, and decides which entries count.
#[derive(Debug, Clone, Default)]
pub struct Follower {
    /// The position that the image is as of; `None` if there is no image.
    position: Option<Position>,
    /// The last message that was seen, taken or not.
    seen: Option<Place>,
    /// Whether the next message must be the one that was seen last.
    is_overlap_due: bool,
    /// The end of the snapshot that was loaded, until it is seen: up to there the image has rows of
    /// different positions.
    exact_from: Option<Place>,
    /// Whether the last proof holds: nothing has voided it since.
    is_proven: bool,
    /// The parts of changes whose last part has not come.
    parts: Parts,
    rules: Rules,
}

/// The text of the first parts of changes.
#[derive(Debug, Clone, Default)]
struct Parts {
    count: u32,
    text: String,
}

/// The parts of changes, after one more has come.
enum Collected {
    /// Further parts are to come, or the first was not seen.
    Open,
    /// The changes are whole.
    Whole(RowChanges),
    /// The texts are no changes.
    Malformed,
}

impl Parts {
    /// Adds a part.
    fn add(&mut self, part: &Part) -> Collected {
        if part.number == 0 {
            *self = Self::default();
        } else if part.number != self.count {
            // The image is a snapshot's that was begun behind the first part, and has the changes.
            return Collected::Open;
        }
        if self.text.len() + part.text.len() > LONGEST_CHANGES {
            return Collected::Malformed;
        }
        self.text.push_str(&part.text);
        self.count += 1;
        if self.count < part.count {
            return Collected::Open;
        }
        let whole = std::mem::take(self).text;
        match RowChanges::from_ops_json(part.table.clone(), &whole) {
            Ok(changes) => Collected::Whole(changes),
            Err(_) => Collected::Malformed,
        }
    }
}

impl Follower {
    /// Returns a follower whose image is as of `position`. The last message that it knows is
    /// `seen`.
    pub fn at(position: Position, seen: Place) -> Self {
        Self {
            position: Some(position),
            seen: Some(seen),
            is_overlap_due: true,
            ..Self::default()
        }
    }

    /// Returns a follower whose image was just loaded from a snapshot.
    pub fn of_snapshot(snapshot: &SnapshotPlace) -> Self {
        let SnapshotPlace { start, end } = *snapshot;
        Self {
            exact_from: (end != start).then_some(end),
            ..Self::at(start.position, start)
        }
    }

    /// Sets which rules are in force.
    pub(super) fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Returns the position that the image is as of; `None` if there is no image.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Returns the last message that was seen, taken or not.
    pub fn seen(&self) -> Option<Place> {
        self.seen
    }

    /// Returns the number of the last message that was seen.
    pub fn seen_sequence(&self) -> Option<Sequence> {
        self.seen.map(|place| place.sequence)
    }

    /// Returns the end of the loaded snapshot, if it was not seen yet.
    pub fn exact_from(&self) -> Option<Place> {
        self.exact_from
    }

    /// Returns whether the image is the fold of the log at [`position`](Self::position): there is
    /// one, the last message was found where it stood, and no end of a snapshot is awaited.
    pub fn is_exact(&self) -> bool {
        let is_snapshot_over = self.exact_from.is_none() || !self.rules.keeps(Rule::SnapshotEnd);
        self.position.is_some() && !self.is_overlap_due && is_snapshot_over
    }

    /// Returns whether the image is exact, and a proof holds.
    pub fn is_proven(&self) -> bool {
        self.is_proven && self.is_exact()
    }

    /// Notes that messages will be read again, from the one that was seen last. Proofs from before
    /// prove nothing any more.
    pub fn read_again(&mut self) {
        self.is_proven = false;
        self.is_overlap_due = self.rules.keeps(Rule::Overlap);
    }

    /// Returns the message to read from; `None` if there is no image.
    pub fn read_from(&self) -> Option<Sequence> {
        let seen = self.position.and(self.seen)?.sequence;
        Some(if self.is_overlap_due {
            seen
        } else {
            seen.next()
        })
    }

    /// Returns whether the log, whose last message is `end`, has lost messages that are known.
    pub fn is_ahead_of(&self, end: Sequence) -> bool {
        let is_beyond = |place: Option<Place>| place.is_some_and(|place| place.sequence > end);
        let is_seen_lost = self.rules.keeps(Rule::Overlap) && is_beyond(self.seen);
        is_seen_lost || is_beyond(self.exact_from)
    }

    /// Takes the message with the number `sequence`.
    pub fn take(&mut self, sequence: Sequence, entry: &Entry, image: &mut impl Image) -> Took {
        let place = Place {
            sequence,
            position: entry.position,
        };
        let (Some(position), Some(seen)) = (self.position, self.seen) else {
            return Took::Lost;
        };
        if std::mem::take(&mut self.is_overlap_due) {
            // Rule::Overlap
            return if place == seen {
                Took::Ignored
            } else {
                self.lose()
            };
        }
        if sequence != seen.sequence.next() && self.rules.keeps(Rule::Contiguous) {
            return Took::Hole;
        }
        if entry.behind != Some(seen.position) && self.rules.keeps(Rule::Chain) {
            return Took::Hole;
        }
        self.seen = Some(place);
        if let Some(end) = self.exact_from
            && sequence >= end.sequence
        {
            // Rule::SnapshotEnd. Rows of later entries in the snapshot would be of no log if its
            // end were another message.
            if place != end && self.rules.keeps(Rule::SnapshotEnd) {
                return self.lose();
            }
            self.exact_from = None;
        }
        if !self.is_next(position, entry) {
            return Took::Ignored;
        }
        self.position = Some(entry.position);
        self.carry_out(entry, image)
    }

    /// Returns whether `entry` is the next one for whoever is at `position`.
    fn is_next(&self, position: Position, entry: &Entry) -> bool {
        let next = entry.position;
        match &entry.body {
            Body::Begin { after, .. } => {
                let builds_upon = match after {
                    // Rule::After
                    Some(after) => *after == position || !self.rules.keeps(Rule::After),
                    None => true,
                };
                builds_upon && next.epoch.number > position.epoch.number
            }
            Body::Rows(_) | Body::Part(_) | Body::Proof(_) | Body::Stale { .. } => {
                // Rule::Nonce
                let is_of_term = next.epoch == position.epoch
                    || (next.epoch.number == position.epoch.number
                        && !self.rules.keeps(Rule::Nonce));
                // Rule::Numbers
                let is_behind = next.number == position.number + 1
                    || (next.number > position.number && !self.rules.keeps(Rule::Numbers));
                is_of_term && is_behind
            }
        }
    }

    /// Carries out an entry that is the next one.
    fn carry_out(&mut self, entry: &Entry, image: &mut impl Image) -> Took {
        if !matches!(entry.body, Body::Part(_)) {
            // A term that ended before its last part: nobody has these changes, and the next term
            // publishes what differs.
            self.parts = Parts::default();
        }
        match &entry.body {
            Body::Begin { after, .. } => {
                if self.rules.keeps(Rule::BeginVoids) {
                    self.is_proven = false;
                }
                if after.is_none() && self.rules.keeps(Rule::Reset) {
                    return self.lose();
                }
            }
            Body::Rows(changes) => image.apply(changes),
            Body::Part(part) => match self.parts.add(part) {
                Collected::Open => {}
                Collected::Whole(changes) => image.apply(&changes),
                Collected::Malformed => return self.lose(),
            },
            Body::Proof(proof) => {
                // The image is of no position yet, so its digest says nothing.
                if self.exact_from.is_some() && self.rules.keeps(Rule::SnapshotEnd) {
                    return Took::Applied;
                }
                if self.rules.keeps(Rule::Digest) && !image.is_as(proof) {
                    self.is_proven = false;
                    self.position = None;
                    return Took::Differs;
                }
                self.is_proven = true;
            }
            Body::Stale { .. } => {
                if self.rules.keeps(Rule::Stale) {
                    self.is_proven = false;
                }
            }
        }
        Took::Applied
    }

    /// Gives the image up.
    fn lose(&mut self) -> Took {
        self.position = None;
        self.is_proven = false;
        self.parts = Parts::default();
        Took::Lost
    }
}
