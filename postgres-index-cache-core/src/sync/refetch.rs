//! [`Refetches`]: the rows of a table that are to be read again by their keys, and what waits for
//! them.
//!
//! ```text
//! wanted ─ a batch is asked for ─→ in flight ─ the answer, with its snapshot ─→ floors ─ a fence sent after it ─→ free
//!                                      ↑ changes of these keys wait in the queue; a batch that is lost is asked for anew
//! ```
//!
//! # Invariants
//! 1. A key is wanted, or in flight, or neither.
//! 2. A change in the queue has a key that is in flight, or one that an earlier change in the queue
//!    has; or it is a TRUNCATE, or stands behind one. So the changes of one key keep their order.
//! 3. A key in the queue keeps its floor.

use super::change::Change;
use super::hashing::SeededState;
use super::snapshot::Snapshot;
use crate::notification::Action;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// The most keys of a batch.
const BATCH: usize = 1000;

/// A change that waits.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) change: Change,
    /// Whether its row is to be read again rather than taken from its payload.
    pub(super) is_doubtful: bool,
    /// When it came, counted with the keys that are wanted.
    pub(super) arrival: u64,
}

/// The snapshot that a key was read again under.
#[derive(Debug)]
struct Floor {
    snapshot: Arc<Snapshot>,
    /// How many answers of Q had come with this one.
    after: u64,
}

#[derive(Debug)]
pub(super) struct Refetches {
    /// The keys that are wanted with when each came, in order.
    wanted: Vec<(String, u64)>,
    is_wanted: HashSet<String, SeededState>,
    wanted_bytes: usize,
    /// What came out of order, or again for a key that is wanted: as early as that.
    early: Option<u64>,
    in_flight: Vec<String>,
    is_in_flight: HashSet<String, SeededState>,
    in_flight_since: Option<u64>,
    batch: Option<u64>,
    queue: VecDeque<Queued>,
    queue_bytes: usize,
    /// The keys of the changes in the queue.
    queued_keys: HashSet<String, SeededState>,
    queued_truncates: usize,
    floors: HashMap<String, Floor, SeededState>,
    senders: Senders,
}

/// Who has asked for rows.
#[derive(Debug, Clone, Copy)]
enum Senders {
    None,
    One(i32),
    Several,
}

/// What is to be done with a change that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Nothing stands in its way.
    Free,
    /// A read that will be asked for sees it.
    Absorbed,
    /// It must wait.
    Waits,
}

impl Refetches {
    /// Returns refetches of which none is wanted.
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

    /// When the oldest of what is open came.
    pub(super) fn open_since(&self) -> Option<u64> {
        let queued = self.queue.front().map(|queued| queued.arrival);
        [self.wanted_since(), self.in_flight_since, queued]
            .into_iter()
            .flatten()
            .min()
    }

    fn wanted_since(&self) -> Option<u64> {
        self.wanted
            .first()
            .map(|(_, arrival)| self.early.map_or(*arrival, |early| early.min(*arrival)))
    }

    /// How many bytes the changes take that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// What is to be done with a change.
    pub(super) fn admit(&self, change: &Change) -> Admission {
        if self.queued_truncates > 0 {
            return Admission::Waits;
        }
        if change.action == Action::Truncate {
            // What is wanted and not asked for yet will be read after it.
            let nothing_is_read = self.in_flight.is_empty() && self.queue.is_empty();
            return if nothing_is_read {
                Admission::Free
            } else {
                Admission::Waits
            };
        }
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

    /// Wants the row of a key, which is not in flight.
    pub(super) fn want(&mut self, key: &str, arrival: u64) {
        if self.wanted.last().is_some_and(|(_, last)| *last > arrival) {
            self.early = Some(self.early.map_or(arrival, |early| early.min(arrival)));
        }
        if self.is_wanted.insert(key.to_string()) {
            self.wanted.push((key.to_string(), arrival));
            self.wanted_bytes += 2 * (key.len() + size_of::<String>());
        }
    }

    /// How many bytes the keys take that are wanted.
    pub(super) fn wanted_bytes(&self) -> usize {
        self.wanted_bytes
    }

    /// Wants the row of a key no more: for a test that shows what comes of it.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn unwant(&mut self, key: &str) {
        self.is_wanted.remove(key);
        self.wanted.retain(|(wanted, _)| wanted != key);
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.queued_truncates += usize::from(queued.change.action == Action::Truncate);
        self.queue_bytes += queued.change.bytes();
        self.queued_keys
            .extend(queued.change.keys().map(str::to_string));
        self.queue.push_back(queued);
    }

    /// Whether a batch can be asked for.
    pub(super) fn is_due(&self) -> bool {
        self.batch.is_none() && !(self.wanted.is_empty() && self.in_flight.is_empty())
    }

    /// The answer to the batch that was asked for will not come: its keys are to be asked for
    /// again. What waits for them waits on.
    pub(super) fn give_up(&mut self) {
        self.batch = None;
    }

    /// The next batch: the one that was given up, or else one out of what is wanted.
    pub(super) fn start(&mut self, batch: u64) -> Vec<String> {
        self.batch = Some(batch);
        if !self.in_flight.is_empty() {
            return self.in_flight.clone();
        }
        self.in_flight_since = self.wanted_since();
        let rest = self.wanted.split_off(self.wanted.len().min(BATCH));
        let keys = std::mem::replace(&mut self.wanted, rest);
        let keys: Vec<String> = keys.into_iter().map(|(key, _)| key).collect();
        for key in &keys {
            self.is_wanted.remove(key);
            self.wanted_bytes = self
                .wanted_bytes
                .saturating_sub(2 * (key.len() + size_of::<String>()));
        }
        self.is_in_flight.clear();
        self.is_in_flight.extend(keys.iter().cloned());
        if self.wanted.is_empty() {
            self.early = None;
        }
        self.in_flight.clone_from(&keys);
        keys
    }

    /// The answer to a batch has come: its keys have a floor, and what waited is given out. `None`
    /// when the batch is not the one that is waited for.
    pub(super) fn answered(
        &mut self,
        batch: u64,
        snapshot: Snapshot,
        after: u64,
    ) -> Option<VecDeque<Queued>> {
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

    /// Whether the row of a key was read again after this transaction had committed.
    pub(super) fn sees(&self, key: &str, xid: Option<u64>) -> bool {
        xid.is_some_and(|xid| {
            self.floors
                .get(key)
                .is_some_and(|floor| floor.snapshot.sees(xid))
        })
    }

    /// Somebody's notification has asked for a row.
    pub(super) fn is_asked_by(&mut self, sender: i32) {
        self.senders = match self.senders {
            Senders::None => Senders::One(sender),
            Senders::One(one) if one == sender => Senders::One(one),
            Senders::One(_) | Senders::Several => Senders::Several,
        };
    }

    /// The server's process whose notifications have asked for all rows that are read again, since
    /// none was; if it is one.
    pub(super) fn sender(&self) -> Option<i32> {
        match self.senders {
            Senders::One(sender) => Some(sender),
            Senders::None | Senders::Several => None,
        }
    }

    /// Whether the row of a key was read again, and no fence that was sent after it has come.
    pub(super) fn has_floor(&self, key: &str) -> bool {
        self.floors.contains_key(key)
    }

    /// The keys whose rows were read again after this transaction had committed.
    pub(super) fn keys_that_saw(&self, xid: Option<u64>) -> Vec<String> {
        self.floors
            .keys()
            .filter(|key| self.sees(key, xid))
            .cloned()
            .collect()
    }

    /// A fence that was sent after so many answers of Q has arrived: what comes now no older floor
    /// has seen.
    pub(super) fn free_floors(&mut self, fence_after: u64) {
        if self.queued_truncates == 0 {
            let queued = &self.queued_keys;
            self.floors
                .retain(|key, floor| floor.after > fence_after || queued.contains(key));
        }
    }

    /// Takes the floors away: for a test that shows that they are needed.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn forget_floors(&mut self) {
        self.floors.clear();
    }
}
