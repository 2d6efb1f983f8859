//! [`Queue`]: the items that wait between the socket and the printer, bounded by bytes. Putting an
//! item in never waits.

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

/// An event for the printer to show, in the order of the queue.
#[derive(Debug)]
pub(super) enum Item {
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
    Notification {
        at: Timestamp,
        notification: Notification,
    },
    /// Between these times notifications may have been missed.
    Gap { from: Timestamp, to: Timestamp },
    /// The channels are listened to again.
    Resumed { at: Timestamp },
    /// So many notifications were dropped here, since the printer is too slow.
    Dropped { at: Timestamp, count: u64 },
    /// The printer is to end.
    End,
}

impl Item {
    /// Returns the server's process that sent a notification; `None` for another item.
    pub(super) fn sender(&self) -> Option<i32> {
        match self {
            Self::Notification { notification, .. } => Some(notification.process_id()),
            _ => None,
        }
    }

    /// Returns the bytes that count for the limit.
    fn bytes(&self) -> usize {
        match self {
            Self::Notification { notification, .. } => {
                notification.payload().len() + notification.channel().len() + OVERHEAD
            }
            Self::Connected { .. }
            | Self::Disconnected { .. }
            | Self::Gap { .. }
            | Self::Resumed { .. }
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

/// The queue, shared by the feed and the printer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    is_filled: Condvar,
}

impl Queue {
    /// Puts an item in. A notification is dropped instead if too much waits.
    pub(super) fn push(&self, item: Item) {
        self.push_all([item]);
    }

    /// Puts an item in front of all that wait.
    pub(super) fn push_first(&self, item: Item) {
        let mut waiting = self.lock();
        waiting.bytes += item.bytes();
        waiting.items.push_front(item);
        drop(waiting);
        self.is_filled.notify_one();
    }

    /// Puts items in, in their order and under one lock. Notifications are dropped while too much
    /// waits.
    pub(super) fn push_all(&self, items: impl IntoIterator<Item = Item>) {
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
    pub(super) fn try_take(&self) -> Option<VecDeque<Item>> {
        let mut waiting = self.lock();
        (!waiting.items.is_empty()).then(|| Self::empty(&mut waiting))
    }

    /// Takes all items that wait, and blocks until there is one, for so long at most; `None` if none
    /// came.
    pub(super) fn take_within(&self, time: Duration) -> Option<VecDeque<Item>> {
        let waiting = self.lock();
        let (mut waiting, _) = self
            .is_filled
            .wait_timeout_while(waiting, time, |waiting| waiting.items.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        (!waiting.items.is_empty()).then(|| Self::empty(&mut waiting))
    }

    /// Takes all items that wait, and blocks until there is one.
    pub(super) fn take(&self) -> VecDeque<Item> {
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
