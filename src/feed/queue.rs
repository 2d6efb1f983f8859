//! [`Queue`]: the items that wait between the socket and whoever takes them, bounded by bytes.
//! Putting an item in never waits.

use crate::connect::Place;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_postgres::Notification;

/// The bytes of items past which notifications are dropped, the oldest first: 256 MB, a million
/// ordinary payloads.
const LIMIT: usize = 256 << 20;
/// The bytes that an item takes besides payload and channel, roughly.
const OVERHEAD: usize = 192;
/// The most items that are taken at once. What was taken does not count for the limit any more, so
/// it must be little.
const TAKEN: usize = 1024;

/// A notification.
#[derive(Debug, Clone)]
pub enum Message {
    /// One that has just arrived.
    Live(Notification),
    /// One that was recorded.
    Recorded {
        /// The channel.
        channel: String,
        /// The server's process that sent it.
        pid: i32,
        /// The payload.
        payload: String,
    },
}

impl Message {
    /// Returns the channel.
    pub fn channel(&self) -> &str {
        match self {
            Self::Live(notification) => notification.channel(),
            Self::Recorded { channel, .. } => channel,
        }
    }

    /// Returns the server's process that sent it.
    pub fn process_id(&self) -> i32 {
        match self {
            Self::Live(notification) => notification.process_id(),
            Self::Recorded { pid, .. } => *pid,
        }
    }

    /// Returns the payload.
    pub fn payload(&self) -> &str {
        match self {
            Self::Live(notification) => notification.payload(),
            Self::Recorded { payload, .. } => payload,
        }
    }
}

/// A note of a recorder about its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The file goes on behind the file with this name, without a gap.
    Continues(String),
    /// The server's clock less that of the recorder, in milliseconds.
    Clock(i64),
}

/// An event, in the order of the queue.
#[derive(Debug, Clone)]
pub enum Item {
    /// The channels are listened to, for the first time.
    Connected {
        at: Timestamp,
        channels: Vec<String>,
        /// Where; `None` if that is not known.
        place: Option<Place>,
    },
    /// The connection was lost, for this reason.
    Disconnected { at: Timestamp, why: String },
    /// A notification arrived.
    Notification { at: Timestamp, message: Message },
    /// Between these times notifications may have been missed.
    Gap { from: Timestamp, to: Timestamp },
    /// The channels are listened to again.
    Resumed { at: Timestamp },
    /// Nothing is missing up to here.
    Covered { at: Timestamp },
    /// So many notifications were dropped here: the oldest of those that waited, since whoever
    /// takes them is too slow.
    Dropped { at: Timestamp, count: u64 },
    /// A note of a recorder about its record.
    Note { at: Timestamp, note: Note },
    /// Whoever takes them is to end.
    End,
}

impl Item {
    /// Returns the server's process that sent a notification; `None` for another item.
    pub fn sender(&self) -> Option<i32> {
        match self {
            Self::Notification { message, .. } => Some(message.process_id()),
            _ => None,
        }
    }

    /// Returns the bytes that count for the limit.
    fn bytes(&self) -> usize {
        match self {
            Self::Notification { message, .. } => {
                message.payload().len() + message.channel().len() + OVERHEAD
            }
            Self::Connected { .. }
            | Self::Disconnected { .. }
            | Self::Gap { .. }
            | Self::Resumed { .. }
            | Self::Covered { .. }
            | Self::Note { .. }
            | Self::Dropped { .. }
            | Self::End => OVERHEAD,
        }
    }
}

/// The items that wait.
#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Waiting {
    /// Drops the oldest notifications until the rest takes no more than `limit` bytes. Other items
    /// are few, and without them the output would be wrong: they stay.
    fn bound(&mut self, limit: usize) {
        while self.bytes > limit {
            let is_notification = |item: &Item| matches!(item, Item::Notification { .. });
            // Only the few items that are none stand in front of it.
            let Some(oldest) = self.items.iter().position(is_notification) else {
                return;
            };
            let before = oldest.checked_sub(1).and_then(|at| self.items.get_mut(at));
            if let Some(Item::Dropped { count, .. }) = before {
                *count += 1;
                let dropped = self.items.remove(oldest);
                self.bytes -= dropped.map_or(0, |item| item.bytes());
            } else {
                let at = Timestamp::now();
                let dropped = Item::Dropped { at, count: 1 };
                self.bytes += dropped.bytes();
                self.bytes -= self.items[oldest].bytes();
                self.items[oldest] = dropped;
            }
        }
    }
}

/// The queue, shared by the feed and whoever takes the items.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    is_filled: Condvar,
}

impl Queue {
    /// Puts an item in. The oldest notifications are dropped if too much waits.
    pub fn push(&self, item: Item) {
        self.push_all([item]);
    }

    /// Puts an item in front of all that wait.
    pub fn push_first(&self, item: Item) {
        let mut waiting = self.lock();
        waiting.bytes += item.bytes();
        waiting.items.push_front(item);
        drop(waiting);
        self.is_filled.notify_one();
    }

    /// Puts items in, in their order and under one lock. The oldest notifications are dropped if
    /// too much waits.
    pub fn push_all(&self, items: impl IntoIterator<Item = Item>) {
        let mut waiting = self.lock();
        for item in items {
            waiting.bytes += item.bytes();
            waiting.items.push_back(item);
        }
        waiting.bound(LIMIT);
        drop(waiting);
        self.is_filled.notify_one();
    }

    /// Takes items that wait, the first thousand at most; `None` if none does.
    pub fn try_take(&self) -> Option<VecDeque<Item>> {
        let mut waiting = self.lock();
        (!waiting.items.is_empty()).then(|| Self::empty(&mut waiting))
    }

    /// Takes items as [`try_take`](Self::try_take) does, and blocks until there is one, for so long
    /// at most; `None` if none came.
    pub fn take_within(&self, time: Duration) -> Option<VecDeque<Item>> {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .is_filled
            .wait_timeout_while(waiting, time, |waiting| waiting.items.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        (!waiting.items.is_empty()).then(|| Self::empty(&mut waiting))
    }

    /// Takes items as [`try_take`](Self::try_take) does, and blocks until there is one.
    pub fn take(&self) -> VecDeque<Item> {
        let waiting = self.lock();
        let mut waiting = self
            .is_filled
            .wait_while(waiting, |waiting| waiting.items.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        Self::empty(&mut waiting)
    }

    fn empty(waiting: &mut Waiting) -> VecDeque<Item> {
        if waiting.items.len() <= TAKEN {
            waiting.bytes = 0;
            return std::mem::take(&mut waiting.items);
        }
        let taken: VecDeque<Item> = waiting.items.drain(..TAKEN).collect();
        waiting.bytes -= taken.iter().map(Item::bytes).sum::<usize>();
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A thread that panicked under the lock has left nothing half done, so the lock's poison
        // says nothing.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(number: usize) -> Item {
        Item::Notification {
            at: Timestamp::UNIX_EPOCH,
            message: Message::Recorded {
                channel: "c".to_string(),
                pid: 1,
                payload: number.to_string(),
            },
        }
    }

    /// Returns the items in a word each.
    fn words(items: &VecDeque<Item>) -> Vec<String> {
        let word = |item: &Item| match item {
            Item::Notification { message, .. } => message.payload().to_string(),
            Item::Dropped { count, .. } => format!("-{count}"),
            Item::Gap { .. } => "gap".to_string(),
            _ => "other".to_string(),
        };
        items.iter().map(word).collect()
    }

    #[test]
    fn the_oldest_notifications_are_dropped_and_counted_where_they_stood() {
        let mut waiting = Waiting::default();
        let gap = Item::Gap {
            from: Timestamp::UNIX_EPOCH,
            to: Timestamp::UNIX_EPOCH,
        };
        for item in [1, 2, 3]
            .map(notification)
            .into_iter()
            .chain([gap])
            .chain([4, 5].map(notification))
        {
            waiting.bytes += item.bytes();
            waiting.items.push_back(item);
        }
        // The note of what was dropped takes room itself, nearly that of one of these.
        waiting.bound(waiting.bytes - 3);
        assert_eq!(words(&waiting.items), ["-2", "3", "gap", "4", "5"]);
        waiting.bound(waiting.bytes - 1);
        assert_eq!(words(&waiting.items), ["-3", "gap", "4", "5"]);
        waiting.bound(waiting.bytes - 1);
        assert_eq!(words(&waiting.items), ["-3", "gap", "-1", "5"]);
        let bytes: usize = waiting.items.iter().map(Item::bytes).sum();
        assert_eq!(waiting.bytes, bytes);
        // Without a notification left, nothing more can be dropped.
        waiting.bound(0);
        assert_eq!(words(&waiting.items), ["-3", "gap", "-2"]);
    }

    #[test]
    fn as_much_is_taken_as_waits_and_little_at_once() {
        let queue = Queue::default();
        queue.push_all((0..TAKEN + 5).map(notification));
        assert_eq!(queue.take().len(), TAKEN);
        assert_eq!(words(&queue.take())[0], TAKEN.to_string());
        assert!(queue.try_take().is_none());
        assert_eq!(queue.lock().bytes, 0);
    }
}
