//! [`WriteListeners`]: who is told of each key that is written in a cache, also if the row is the
//! same as before. A change may be in columns that the model does not have.

use crate::model::guarded;
use parking_lot::Mutex;
use std::sync::Weak;

/// Somebody who is told of writes. The calls are made while the cache's lock is held for writing.
pub(crate) trait WriteListener<K>: Send + Sync {
    /// The row with this key is written or removed.
    fn written(&self, key: &K);

    /// Every row may be another one.
    fn all_written(&self);
}

/// Those who are told of the writes of one cache, as long as they live.
pub(crate) struct WriteListeners<K> {
    listeners: Mutex<Vec<Weak<dyn WriteListener<K>>>>,
}

impl<K> Default for WriteListeners<K> {
    fn default() -> Self {
        Self {
            listeners: Mutex::new(Vec::new()),
        }
    }
}

/// Tells a listener that every row may be another one. What it drops then may be code of the
/// application's that panics, which is no reason to end the replica.
fn all_written<K>(listener: &dyn WriteListener<K>) {
    let _ = guarded(|| listener.all_written());
}

impl<K> WriteListeners<K> {
    /// Tells `listener` of the writes from now on.
    pub(crate) fn add(&self, listener: Weak<dyn WriteListener<K>>) {
        let mut listeners = self.listeners.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    /// Tells of a write of the row with this key.
    pub(super) fn written(&self, key: &K) {
        self.tell(|listener| {
            // The key is hashed and compared by code of the application's.
            if guarded(|| listener.written(key)).is_err() {
                all_written(listener);
            }
        });
    }

    /// Tells that every row may be another one.
    pub(super) fn all_written(&self) {
        self.tell(all_written);
    }

    fn tell(&self, tell: impl Fn(&dyn WriteListener<K>)) {
        self.listeners.lock().retain(|listener| {
            let listener = listener.upgrade();
            if let Some(listener) = &listener {
                tell(&**listener);
            }
            listener.is_some()
        });
    }
}
