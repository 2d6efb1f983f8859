//! [`Queue`]: between the socket and the printer, bounded by bytes. Putting something in never
//! waits.

use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokio_postgres::Notification;

/// How many bytes of notifications wait at most.
const LIMIT: usize = 64 << 20;
/// What a notification takes besides its payload, roughly.
const OVERHEAD: usize = 128;

/// What the printer is to show.
#[derive(Debug)]
pub(super) enum Item {
    Connected {
        at: Timestamp,
        channels: Vec<String>,
    },
    Notification {
        at: Timestamp,
        notification: Notification,
    },
    Gap {
        from: Timestamp,
        to: Timestamp,
    },
    Resumed {
        at: Timestamp,
    },
    Dropped {
        count: u64,
    },
    End,
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Notification { notification, .. } => {
                notification.payload().len() + notification.channel().len() + OVERHEAD
            }
            Self::Connected { .. }
            | Self::Gap { .. }
            | Self::Resumed { .. }
            | Self::Dropped { .. }
            | Self::End => OVERHEAD,
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    /// How many notifications were dropped since the last item was put in.
    dropped: u64,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    is_filled: Condvar,
}

impl Queue {
    /// Puts an item in, or drops it when it is a notification and too much waits.
    pub(super) fn push(&self, item: Item) {
        self.push_all([item]);
    }

    /// Puts an item in before all that wait.
    pub(super) fn push_first(&self, item: Item) {
        let mut waiting = self.lock();
        waiting.bytes += item.bytes();
        waiting.items.push_front(item);
        drop(waiting);
        self.is_filled.notify_one();
    }

    /// Puts items in under one lock.
    pub(super) fn push_all(&self, items: impl IntoIterator<Item = Item>) {
        let mut waiting = self.lock();
        for item in items {
            if matches!(item, Item::Notification { .. }) && waiting.bytes > LIMIT {
                waiting.dropped += 1;
                continue;
            }
            if waiting.dropped > 0 {
                let count = std::mem::take(&mut waiting.dropped);
                waiting.items.push_back(Item::Dropped { count });
            }
            waiting.bytes += item.bytes();
            waiting.items.push_back(item);
        }
        drop(waiting);
        self.is_filled.notify_one();
    }

    /// Everything that waits, if anything does.
    pub(super) fn try_take(&self) -> Option<VecDeque<Item>> {
        let mut waiting = self.lock();
        (!waiting.items.is_empty()).then(|| Self::empty(&mut waiting))
    }

    /// Everything that waits, as soon as anything does.
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
        // Nothing under the lock can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
