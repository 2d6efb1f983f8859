//! [`Refetches`]: the rows of a table that are to be read again by their keys, and the changes that
//! wait for them.
//!
//! ```text
//! wanted ─ a batch is asked for ─→ in flight ─ the answer, with its snapshot ─→ floor
//!                                      ↑                                          │ a fence that
//!                            changes of these keys wait in the queue;             │ was sent after
//!                            a batch that is lost is asked for anew             free  the answer
//! ```
//!
//! A row is refetched if the payload of a change lacks the row, or may be older than the row. The
//! snapshot that the row was read under is the key's *floor*. Changes that the floor sees are
//! skipped ([`Rule::Floor`](super::rules::Rule::Floor)).
//!
//! # Invariants
//! 1. A key is wanted, or in flight, or neither, but never both.
//! 2. A change in the queue has a key that is in flight, or a key of an earlier change in the
//!    queue, or is a TRUNCATE, or stands behind one. So the changes of one key keep their order.
//! 3. The floor of a key stays while a change of that key is in the queue.

use super::change::Change;
use super::hashing::SeededState;
use super::snapshot::Snapshot;
use crate::notification::Action;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// The most keys that are asked for in one batch.
const BATCH: usize = 1000;

/// A change that waits for a row, or is to be given its place.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) change: Change,
    /// Whether the row is to be refetched rather than taken from the payload.
    pub(super) is_doubtful: bool,
    /// Number of the change, counted as `EngineTable::changes` counts.
    pub(super) arrival: u64,
}

/// Snapshot that the row of a key was refetched under.
#[derive(Debug)]
struct Floor {
    snapshot: Arc<Snapshot>,
    /// How many answers had come, of Q and of side reads, this one included.
    after: u64,
}

/// Key whose row is to be refetched.
#[derive(Debug)]
struct WantedKey {
    key: String,
    /// Number of the first change that wanted the key.
    arrival: u64,
}

/// The rows of one table that are to be refetched, and the changes that wait for them.
#[derive(Debug)]
pub(super) struct Refetches {
    /// The keys that are wanted and not asked for yet, in the order in which they came.
    wanted: Vec<WantedKey>,
    /// The keys of `wanted`.
    is_wanted: HashSet<String, SeededState>,
    /// How many bytes the keys take in `wanted` and `is_wanted`.
    wanted_bytes: usize,
    /// Smallest arrival number that was added out of order; see [`Refetches::wanted_since`].
    early: Option<u64>,
    /// The keys of the batch that was asked for. They stay if the batch is given up.
    in_flight: Vec<String>,
    /// The keys of `in_flight`.
    is_in_flight: HashSet<String, SeededState>,
    /// Smallest arrival number of the keys in flight.
    in_flight_since: Option<u64>,
    /// Number of the batch whose answer is awaited.
    batch: Option<u64>,
    /// The changes that wait for the keys in flight, in the order of arrival.
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// The keys of the changes in the queue.
    queued_keys: HashSet<String, SeededState>,
    queued_truncates: usize,
    floors: HashMap<String, Floor, SeededState>,
    senders: Senders,
}

/// The server's processes whose notifications have asked for rows.
#[derive(Debug, Clone, Copy)]
enum Senders {
    None,
    One(i32),
    Several,
}

/// How a change that came stands to the rows that are refetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// No row that is refetched has to do with the change.
    Free,
    /// The change's row is wanted and not asked for yet. The read will see the change.
    Absorbed,
    /// The change must wait for a row that is being read, or behind a TRUNCATE that waits.
    Waits,
}

impl Refetches {
    /// Returns refetches without a wanted row.
    pub(super) fn new(hashing: SeededState) -> Self {
        Self {
            wanted: Vec::new(),
            is_wanted: HashSet::with_hasher(hashing),
            wanted_bytes: 0,
            early: None,
            in_flight: Vec::new(),
            is_in_flight: HashSet::with_hasher(hashing),
            in_flight_since: None,
            batch: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            queued_keys: HashSet::with_hasher(hashing),
            queued_truncates: 0,
            floors: HashMap::with_hasher(hashing),
            senders: Senders::None,
        }
    }

    /// Returns the smallest arrival number of the changes whose rows are not in the cache yet;
    /// `None` if there is none.
    pub(super) fn open_since(&self) -> Option<u64> {
        let queued = self.queue.front().map(|queued| queued.arrival);
        [self.wanted_since(), self.in_flight_since, queued]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns the smallest arrival number of the wanted keys.
    ///
    /// The first key has the smallest number of those that came in order. `early` covers the rest:
    /// a change that waited is placed later than changes which came after it, and a backlog counts
    /// all of its keys as 0.
    fn wanted_since(&self) -> Option<u64> {
        let first = self.wanted.first()?.arrival;
        Some(self.early.map_or(first, |early| early.min(first)))
    }

    /// Returns how many bytes the changes in the queue take.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Returns how a change stands to the rows that are refetched.
    pub(super) fn admit(&self, change: &Change) -> Admission {
        // A TRUNCATE is about every key, so nothing may overtake one that waits.
        if self.queued_truncates > 0 {
            return Admission::Waits;
        }
        if change.action == Action::Truncate {
            // Rows that are wanted and not asked for yet will be read after this TRUNCATE. A row
            // that is being read may be older than the TRUNCATE, and must not be stored behind it.
            let nothing_is_read = self.in_flight.is_empty() && self.queue.is_empty();
            return if nothing_is_read {
                Admission::Free
            } else {
                Admission::Waits
            };
        }
        // Rule::Waiting. A key change is about two keys, and either may be in flight. Without this:
        // 1. Q is asked for row 1, and the server reads version 1.
        // 2. The change to version 2 arrives and is applied.
        // 3. Q's answer arrives and puts version 1 back.
        //
        // A key that is not in flight can be in the queue as well, as the other key of a key
        // change. Changes of that key must not overtake.
        if change
            .keys()
            .any(|key| self.is_in_flight.contains(key) || self.queued_keys.contains(key))
        {
            return Admission::Waits;
        }
        if change.keys().any(|key| self.is_wanted.contains(key)) {
            Admission::Absorbed
        } else {
            Admission::Free
        }
    }

    /// Adds a key whose row is to be refetched, for the change with this arrival number. The key
    /// must not be in flight.
    pub(super) fn want(&mut self, key: &str, arrival: u64) {
        // A fence that arrived behind this change must wait for the key, even if a change behind
        // the fence was the first to want the key.
        if self
            .wanted
            .last()
            .is_some_and(|last| last.arrival > arrival)
        {
            self.early = Some(self.early.map_or(arrival, |early| early.min(arrival)));
        }
        if self.is_wanted.insert(key.to_string()) {
            self.wanted.push(WantedKey {
                key: key.to_string(),
                arrival,
            });
            self.wanted_bytes += wanted_key_bytes(key);
        }
    }

    /// Returns how many bytes the wanted keys take.
    pub(super) fn wanted_bytes(&self) -> usize {
        self.wanted_bytes
    }

    /// Removes a wanted key, as an engine without [`Rule::Sticky`](super::rules::Rule::Sticky)
    /// would.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn unwant(&mut self, key: &str) {
        self.is_wanted.remove(key);
        self.wanted.retain(|wanted| wanted.key != key);
    }

    /// Adds a change that [must wait](Admission::Waits).
    pub(super) fn push(&mut self, queued: Queued) {
        self.queued_truncates += usize::from(queued.change.action == Action::Truncate);
        self.queue_bytes += queued.change.bytes();
        self.queued_keys
            .extend(queued.change.keys().map(str::to_string));
        self.queue.push_back(queued);
    }

    /// Returns whether a batch can be asked for: a key is wanted or was given up, and no answer is
    /// awaited.
    pub(super) fn is_due(&self) -> bool {
        self.batch.is_none() && !(self.wanted.is_empty() && self.in_flight.is_empty())
    }

    /// Notes that the answer to the batch that was asked for will not come. The keys of the batch
    /// are asked for again by the next [`start`](Self::start), and changes wait on for them.
    pub(super) fn give_up(&mut self) {
        self.batch = None;
    }

    /// Starts the batch with this number. Returns its keys: those of the batch that was given up,
    /// or else the first of the wanted ones.
    pub(super) fn start(&mut self, batch: u64) -> Vec<String> {
        self.batch = Some(batch);
        if !self.in_flight.is_empty() {
            return self.in_flight.clone();
        }
        self.in_flight_since = self.wanted_since();
        // In order, so that a fence which waits for old rows does not wait behind newer ones.
        let rest = self.wanted.split_off(self.wanted.len().min(BATCH));
        let taken = std::mem::replace(&mut self.wanted, rest);
        let keys: Vec<String> = taken.into_iter().map(|wanted| wanted.key).collect();
        for key in &keys {
            self.is_wanted.remove(key);
            self.wanted_bytes = self.wanted_bytes.saturating_sub(wanted_key_bytes(key));
        }
        self.is_in_flight.clear();
        self.is_in_flight.extend(keys.iter().cloned());
        // Nobody knows which key `early` is of, so it stays until all of them are asked for.
        if self.wanted.is_empty() {
            self.early = None;
        }
        self.in_flight.clone_from(&keys);
        keys
    }

    /// Takes in the answer to a batch, read under `snapshot` as Q's `after`th answer. The keys of
    /// the batch get a floor. Returns the changes that waited, or `None` if the answer to this
    /// batch is not awaited.
    pub(super) fn answered(
        &mut self,
        batch: u64,
        snapshot: Snapshot,
        after: u64,
    ) -> Option<VecDeque<Queued>> {
        // Rule::Generation, for a table that was read or held since: its refetches began anew.
        if self.batch != Some(batch) {
            return None;
        }
        self.batch = None;
        self.in_flight_since = None;
        self.is_in_flight.clear();
        let snapshot = Arc::new(snapshot);
        for key in std::mem::take(&mut self.in_flight) {
            self.floors.insert(
                key,
                Floor {
                    snapshot: Arc::clone(&snapshot),
                    after,
                },
            );
        }
        self.queued_keys.clear();
        self.queued_truncates = 0;
        self.queue_bytes = 0;
        if self.wanted.is_empty() {
            self.senders = Senders::None;
        }
        Some(std::mem::take(&mut self.queue))
    }

    /// Returns the keys whose rows are to be refetched, are being refetched, or have a floor, and
    /// those of the changes that wait.
    pub(super) fn open_keys(&self) -> BTreeSet<String> {
        let mut keys: BTreeSet<String> = self.floors.keys().cloned().collect();
        keys.extend(self.wanted.iter().map(|wanted| wanted.key.clone()));
        keys.extend(self.in_flight.iter().cloned());
        keys.extend(self.queued_keys.iter().cloned());
        keys
    }

    /// Returns whether a TRUNCATE waits for the rows that are being refetched.
    pub(super) fn has_queued_truncate(&self) -> bool {
        self.queued_truncates > 0
    }

    /// Returns whether the floor of a key sees this transaction. False without a floor or an xid.
    pub(super) fn sees(&self, key: &str, xid: Option<u64>) -> bool {
        xid.is_some_and(|xid| {
            self.floors
                .get(key)
                .is_some_and(|floor| floor.snapshot.sees(xid))
        })
    }

    /// Notes that a notification of this process has asked for a row.
    pub(super) fn note_asker(&mut self, sender: i32) {
        self.senders = match self.senders {
            Senders::None => Senders::One(sender),
            Senders::One(one) if one == sender => Senders::One(one),
            Senders::One(_) | Senders::Several => Senders::Several,
        };
    }

    /// Returns the server's process that has asked for every row since none was wanted; `None` if
    /// several processes have.
    pub(super) fn sender(&self) -> Option<i32> {
        match self.senders {
            Senders::One(sender) => Some(sender),
            Senders::None | Senders::Several => None,
        }
    }

    /// Returns whether a key has a floor: its row was refetched, and no fence that was sent after
    /// that has come.
    pub(super) fn has_floor(&self, key: &str) -> bool {
        self.floors.contains_key(key)
    }

    /// Returns the keys whose floors see this transaction.
    pub(super) fn keys_that_saw(&self, xid: Option<u64>) -> Vec<String> {
        self.floors
            .keys()
            .filter(|key| self.sees(key, xid))
            .cloned()
            .collect()
    }

    /// Frees the floors that no change can need any more: a fence has arrived that was sent after
    /// so many answers of Q, so no older floor sees a change that comes now.
    pub(super) fn free_floors(&mut self, fence_after: u64) {
        // A queued TRUNCATE will ask every floor which rows to spare. The changes in the queue came
        // before the fence, and the floors of their keys may see them.
        if self.queued_truncates == 0 {
            let queued = &self.queued_keys;
            self.floors
                .retain(|key, floor| floor.after > fence_after || queued.contains(key));
        }
    }

    /// Removes every floor, as an engine without [`Rule::Floor`](super::rules::Rule::Floor) would.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn forget_floors(&mut self) {
        self.floors.clear();
    }
}

/// Returns how many bytes a wanted key takes: one copy in the list and one in the set.
fn wanted_key_bytes(key: &str) -> usize {
    2 * (key.len() + size_of::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notification::Payload;

    fn change(action: &str, id: u32, xid: u64) -> Change {
        let payload = format!(
            r#"{{"table":"users","action":"{action}","id":{id},"schema":"app","xid":"{xid}"}}"#
        );
        let parsed = Payload::parse(&payload).expect("a payload");
        Change::new(&payload, &parsed, 1)
    }

    fn truncate(xid: u64) -> Change {
        let payload = format!(
            r#"{{"table":"users","action":"truncate","id":null,"schema":"app","xid":"{xid}"}}"#
        );
        let parsed = Payload::parse(&payload).expect("a payload");
        Change::new(&payload, &parsed, 1)
    }

    fn refetches() -> Refetches {
        Refetches::new(SeededState::new(0))
    }

    fn queued(change: Change, arrival: u64) -> Queued {
        Queued {
            change,
            is_doubtful: false,
            arrival,
        }
    }

    fn snapshot(text: &str) -> Snapshot {
        text.parse().expect("a snapshot")
    }

    #[test]
    fn a_key_is_wanted_then_in_flight_then_has_a_floor() {
        let mut refetches = refetches();
        let later = change("delete", 1, 150);
        assert_eq!(refetches.admit(&later), Admission::Free);
        refetches.want("1", 1);
        assert_eq!(refetches.admit(&later), Admission::Absorbed);
        assert_eq!(refetches.start(1), ["1"]);
        assert_eq!(refetches.admit(&later), Admission::Waits);
        assert!(!refetches.is_due(), "one batch at a time");
        let waited = refetches.answered(1, snapshot("200:200:"), 1);
        assert!(waited.is_some_and(|waited| waited.is_empty()));
        assert_eq!(refetches.admit(&later), Admission::Free);
        assert!(refetches.sees("1", Some(150)) && !refetches.sees("1", Some(200)));
        assert!(!refetches.sees("1", None), "no snapshot can place it");
        assert!(!refetches.sees("2", Some(150)));
    }

    #[test]
    fn a_batch_that_is_given_up_is_asked_for_again_before_others() {
        let mut refetches = refetches();
        refetches.want("1", 1);
        refetches.start(1);
        refetches.want("2", 2);
        refetches.push(queued(change("delete", 1, 150), 3));
        refetches.give_up();
        assert!(refetches.is_due());
        assert_eq!(refetches.start(2), ["1"]);
        let late = refetches.answered(1, snapshot("200:200:"), 1);
        assert!(late.is_none(), "the answer of the lost session");
        let waited = refetches.answered(2, snapshot("100:100:"), 1);
        assert_eq!(waited.map(|waited| waited.len()), Some(1));
        assert_eq!(refetches.start(3), ["2"]);
    }

    #[test]
    fn a_batch_is_bounded_and_takes_the_oldest_keys() {
        let mut refetches = refetches();
        for arrival in 0..=BATCH as u64 {
            refetches.want(&arrival.to_string(), arrival);
        }
        let first = refetches.start(1);
        assert_eq!((first.len(), first[0].as_str()), (BATCH, "0"));
        refetches.answered(1, snapshot("1:1:"), 1);
        assert_eq!(refetches.open_since(), Some(BATCH as u64));
        assert_eq!(refetches.start(2), [BATCH.to_string()]);
        assert_eq!(refetches.wanted_bytes(), 0);
    }

    // A fence must not pass a row that an old change wants, though a newer change wanted it first.
    #[test]
    fn a_key_that_is_wanted_out_of_order_counts_as_its_earliest_change() {
        let mut refetches = refetches();
        assert_eq!(refetches.open_since(), None);
        refetches.want("1", 7);
        refetches.want("1", 4);
        assert_eq!(refetches.open_since(), Some(4));
        refetches.start(1);
        refetches.want("2", 9);
        assert_eq!(refetches.open_since(), Some(4), "those in flight count");
        refetches.answered(1, snapshot("1:1:"), 1);
        assert_eq!(refetches.open_since(), Some(9));
    }

    #[test]
    fn a_truncate_that_waits_makes_all_behind_it_wait() {
        let mut refetches = refetches();
        refetches.want("1", 1);
        assert_eq!(
            refetches.admit(&truncate(150)),
            Admission::Free,
            "row 1 will be read after it"
        );
        refetches.start(1);
        assert_eq!(refetches.admit(&truncate(150)), Admission::Waits);
        refetches.push(queued(truncate(150), 2));
        assert_eq!(refetches.admit(&change("delete", 2, 151)), Admission::Waits);
        refetches.answered(1, snapshot("160:160:"), 1);
        assert_eq!(refetches.keys_that_saw(Some(150)), ["1"]);
        assert!(refetches.keys_that_saw(Some(160)).is_empty());
    }

    #[test]
    fn a_floor_is_freed_by_a_fence_that_was_sent_after_it() {
        let mut refetches = refetches();
        refetches.want("1", 1);
        refetches.start(1);
        refetches.answered(1, snapshot("160:160:"), 5);
        refetches.free_floors(4);
        assert!(refetches.has_floor("1"), "the fence was sent before it");
        // Row 1 is read again, and a change of it waits: the floor may see that change.
        refetches.want("1", 2);
        refetches.start(2);
        refetches.push(queued(change("delete", 1, 150), 3));
        refetches.free_floors(5);
        assert!(refetches.has_floor("1"));
        refetches.answered(2, snapshot("100:100:"), 6);
        refetches.free_floors(6);
        assert!(!refetches.has_floor("1"));
    }

    #[test]
    fn a_sender_is_named_if_every_row_was_asked_for_by_one() {
        let mut refetches = refetches();
        assert_eq!(refetches.sender(), None);
        refetches.note_asker(41);
        refetches.note_asker(41);
        assert_eq!(refetches.sender(), Some(41));
        refetches.note_asker(42);
        assert_eq!(refetches.sender(), None);
    }
}
