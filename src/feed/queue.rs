//! [`Queue`]: the items that wait between the socket and whoever takes them, bounded by bytes.
//! Putting an item in never waits.

use crate::connect::Place;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_postgres::Notification;

/// The bytes of items past which notifications are dropped.
const LIMIT: usize = 64 << 20;
/// The bytes that an item takes besides payload and channel, roughly.
const OVERHEAD: usize = 128;

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
    /// So many notifications were dropped here, since whoever takes them is too slow.
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
    /// The number of notifications that were dropped since the last item was put in.
    dropped: u64,
}

/// The queue, shared by the feed and whoever takes the items.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    is_filled: Condvar,
}

impl Queue {
    /// Puts an item in. A notification is dropped instead if too much waits.
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

    /// Puts items in, in their order and under one lock. Notifications are dropped while too much
    /// waits.
    pub fn push_all(&self, items: impl IntoIterator<Item = Item>) {
        let mut waiting = self.lock();
        for item in items {
            // Other items are few, and without them the output would be wrong: they always fit.
            if matches!(item, Item::Notification { .. }) && waiting.bytes > LIMIT {
                waiting.dropped += 1;
                continue;
            }
            // The number stands where the notifications would have stood, before whatever came
            // next.
            if waiting.dropped > 0 {
                let count = std::mem::take(&mut waiting.dropped);
                let at = Timestamp::now();
                waiting.items.push_back(Item::Dropped { at, count });
            }
            waiting.bytes += item.bytes();
            waiting.items.push_back(item);
        }
        drop(waiting);
        self.is_filled.notify_one();
    }

    /// Takes all items that wait; `None` if none does.
    pub fn try_take(&self) -> Option<VecDeque<Item>> {
        let mut waiting = self.lock();
        (!waiting.items.is_empty()).then(|| Self::empty(&mut waiting))
    }

    /// Takes all items that wait, and blocks until there is one, for so long at most; `None` if none
    /// came.
    pub fn take_within(&self, time: Duration) -> Option<VecDeque<Item>> {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .is_filled
            .wait_timeout_while(waiting, time, |waiting| waiting.items.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        (!waiting.items.is_empty()).then(|| Self::empty(&mut waiting))
    }

    /// Takes all items that wait, and blocks until there is one.
    pub fn take(&self) -> VecDeque<Item> {
        let waiting = self.lock();
        let mut waiting = self
            .is_filled
            .wait_while(waiting, |waiting| waiting.items.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        Self::empty(&mut waiting)
    }

    fn empty(waiting: &mut Waiting) -> VecDeque<Item> {
        waiting.bytes = 0;
        std::mem::take(&mut waiting.items)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A thread that panicked under the lock has left nothing half done, so the lock's poison
        // says nothing.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
