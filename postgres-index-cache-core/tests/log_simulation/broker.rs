//! [`Broker`]: a model of the engine that keeps the log. It compares and appends, and now and then
//! loses acknowledged entries.

use crate::rows::Rows;
use postgres_index_cache_core::tooling::log::{
    Entry, Message, Place, Position, Sequence, SnapshotPlace,
};
use std::collections::VecDeque;

/// How many snapshots are kept.
const SNAPSHOTS: usize = 3;

/// An entry on its way to the broker.
#[derive(Debug)]
pub struct Append {
    pub relay: usize,
    /// The number of the relay's connection.
    pub connection: u64,
    pub round: u64,
    pub entry: Entry,
}

/// A snapshot, as the broker keeps it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub place: SnapshotPlace,
    pub rows: Rows,
}

/// The log and its snapshots.
#[derive(Debug)]
pub struct Broker {
    pub is_up: bool,
    pub log: VecDeque<Message>,
    /// The sequence of the last message that was stored.
    pub last: Sequence,
    pub snapshots: Vec<Snapshot>,
    /// Whether an entry is refused if the log's last one is not the one that its writer names.
    pub compares: bool,
}

impl Broker {
    pub fn new(compares: bool) -> Self {
        Self {
            is_up: true,
            log: VecDeque::new(),
            last: Sequence(0),
            snapshots: Vec::new(),
            compares,
        }
    }

    /// Returns the position of the last entry.
    pub fn end(&self) -> Option<Position> {
        self.log.back().map(|message| message.entry.position)
    }

    /// Stores an entry, or refuses it. Returns where the entry stands.
    pub fn append(&mut self, append: &Append) -> Option<Place> {
        if self.compares && append.entry.behind != self.end() {
            return None;
        }
        self.last = self.last.next();
        self.log.push_back(Message {
            sequence: self.last,
            entry: append.entry.clone(),
        });
        Some(Place {
            sequence: self.last,
            position: append.entry.position,
        })
    }

    /// Returns whether an entry stands where a place says.
    pub fn stands(&self, place: Place) -> bool {
        self.log.iter().any(|message| {
            message.sequence == place.sequence && message.entry.position == place.position
        })
    }

    /// Returns the first message with this sequence or a later one.
    pub fn message_from(&self, from: Sequence) -> Option<&Message> {
        self.log.iter().find(|message| message.sequence >= from)
    }

    /// Returns all messages from the first of the places that stands. Empty if none does.
    pub fn messages_from(&self, places: &[Place]) -> Vec<Message> {
        let Some(from) = places.iter().find(|place| self.stands(**place)) else {
            return Vec::new();
        };
        let from = from.sequence;
        let messages = self.log.iter().filter(|message| message.sequence >= from);
        messages.cloned().collect()
    }

    pub fn put_snapshot(&mut self, snapshot: Snapshot) {
        self.snapshots.push(snapshot);
        if self.snapshots.len() > SNAPSHOTS {
            self.snapshots.remove(0);
        }
    }

    /// Returns the snapshots whose ends stand in the log.
    pub fn usable(&self) -> impl Iterator<Item = &Snapshot> {
        let is_usable = |snapshot: &Snapshot| snapshot.place.is_usable(|place| self.stands(place));
        self.snapshots
            .iter()
            .filter(move |snapshot| is_usable(snapshot))
    }

    /// Loses the last messages, acknowledged or not.
    pub fn lose_tail(&mut self, count: usize) {
        for _ in 0..count.min(self.log.len().saturating_sub(1)) {
            self.log.pop_back();
            self.last = Sequence(self.last.0 - 1);
        }
    }

    /// Loses every message.
    pub fn wipe(&mut self, keeps_snapshots: bool) {
        self.log.clear();
        self.last = Sequence(0);
        if !keeps_snapshots {
            self.snapshots.clear();
        }
    }

    /// Forgets the first messages, as an engine does whose bound is reached.
    pub fn cut(&mut self, count: usize) {
        self.log
            .drain(..count.min(self.log.len().saturating_sub(1)));
    }
}
