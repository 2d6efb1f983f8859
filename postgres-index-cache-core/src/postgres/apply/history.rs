//! [`RowHistory`]: how the rows of a cache came there, as far as that is remembered.

use crate::table_cache::KeyBuf;
use foldhash::quality::RandomState;
use std::collections::VecDeque;
use std::hash::BuildHasher as _;
use std::time::SystemTime;

/// The most changes that are remembered of a table: half a megabyte.
const REMEMBERED: usize = 16_384;

/// How a row came into a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A read of the whole table.
    Snapshot,
    /// A notification brought the row.
    Notification,
    /// A read by key, since a notification lacked the row.
    Refetch,
    /// It is not remembered: too many changes have come since.
    Forgotten,
}

impl Source {
    /// Returns the source in a word, as answers have it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Notification => "notification",
            Self::Refetch => "refetch",
            Self::Forgotten => "unknown",
        }
    }
}

/// The last event of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Came {
    pub(crate) source: Source,
    /// The transaction of the change; `None` if it is not known.
    pub(crate) xid: Option<u64>,
    /// When the row came; `None` if that is not known.
    pub(crate) at: Option<SystemTime>,
}

/// A change that is remembered.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// A hash of the key: the key itself may be long.
    key: u64,
    xid: Option<u64>,
    is_refetch: bool,
    /// When the change was applied; `None` until then.
    at: Option<SystemTime>,
}

/// The last changes of a table's rows, and when the table was read.
#[derive(Debug, Default)]
pub(crate) struct RowHistory {
    entries: VecDeque<Entry>,
    /// How many entries, from the back, were not applied yet.
    pending: usize,
    /// When all rows were read last.
    loaded: Option<SystemTime>,
    /// Whether entries were dropped since.
    is_cut: bool,
    hasher: RandomState,
}

impl RowHistory {
    /// Notes a change of a key, which waits for the cache's lock.
    pub(crate) fn note(&mut self, key: &KeyBuf, xid: Option<u64>, is_refetch: bool) {
        if self.entries.len() == REMEMBERED {
            self.entries.pop_front();
            self.is_cut = true;
        }
        self.entries.push_back(Entry {
            key: self.hasher.hash_one(key),
            xid,
            is_refetch,
            at: None,
        });
        self.pending = (self.pending + 1).min(REMEMBERED);
    }

    /// Notes that everything that waited was applied.
    pub(crate) fn applied(&mut self) {
        if self.pending > 0 {
            // One look at the clock for a batch: for each change it would cost too much.
            let now = Some(SystemTime::now());
            for entry in self.entries.iter_mut().rev().take(self.pending) {
                entry.at = now;
            }
            self.pending = 0;
        }
    }

    /// Notes that all rows were read.
    pub(crate) fn loaded(&mut self) {
        self.entries.clear();
        self.pending = 0;
        self.is_cut = false;
        self.loaded = Some(SystemTime::now());
    }

    /// Returns the last event of a key.
    pub(crate) fn last(&self, key: &KeyBuf) -> Came {
        let hash = self.hasher.hash_one(key);
        match self.entries.iter().rev().find(|entry| entry.key == hash) {
            Some(entry) => Came {
                source: if entry.is_refetch {
                    Source::Refetch
                } else {
                    Source::Notification
                },
                xid: entry.xid,
                at: entry.at,
            },
            None if self.is_cut => Came {
                source: Source::Forgotten,
                xid: None,
                at: None,
            },
            None => Came {
                source: Source::Snapshot,
                xid: None,
                at: self.loaded,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> KeyBuf {
        KeyBuf::of_cell(&number.to_le_bytes())
    }

    #[test]
    fn the_last_change_of_a_key_is_remembered_until_the_table_is_read() {
        let mut history = RowHistory::default();
        history.loaded();
        assert_eq!(history.last(&key(1)).source, Source::Snapshot);
        history.note(&key(1), Some(7), false);
        history.note(&key(2), Some(8), false);
        history.note(&key(1), None, true);
        assert_eq!(history.last(&key(2)).at, None, "it is not applied yet");
        history.applied();
        let came = history.last(&key(1));
        assert_eq!((came.source, came.xid), (Source::Refetch, None));
        let came = history.last(&key(2));
        assert_eq!((came.source, came.xid), (Source::Notification, Some(8)));
        assert!(came.at.is_some());
        history.loaded();
        assert_eq!(history.last(&key(1)).source, Source::Snapshot);
    }

    // Without this, a row that was changed long ago would be said to be of the snapshot.
    #[test]
    fn what_is_forgotten_is_said_to_be_unknown() {
        let mut history = RowHistory::default();
        history.loaded();
        for number in 0..=REMEMBERED as u32 {
            history.note(&key(number), Some(7), false);
        }
        assert_eq!(history.last(&key(0)).source, Source::Forgotten);
        assert_eq!(history.last(&key(1)).source, Source::Notification);
        assert_eq!(history.entries.len(), REMEMBERED);
    }
}
