//! [`Watch`]: tells whoever follows a cache of each change of its rows, with the rows before and after.
//!
//! A change is told while the cache's lock is held for writing, and a follower begins while it is
//! held for reading. So a follower who reads the rows under the same lock misses none.

use super::sink::RowChangeKind;
use crate::model::{CacheModel, guarded};
use std::sync::Arc;
use tokio::sync::broadcast;

/// How many changes are kept for a follower who is slow. Then the oldest are dropped, and counted.
pub(crate) const CHANGES_KEPT: usize = 16_384;

/// A change of a row of an application's cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<T: CacheModel> {
    /// The key of the row. A row whose key changes is removed under the former key and added under
    /// the new one.
    pub key: T::Key,
    /// The row before; `None` if it was added.
    pub old: Option<T>,
    /// The row after the change; `None` if it was removed.
    pub new: Option<T>,
    /// The kind of the change.
    pub how: RowChangeKind,
}

/// A change as followers are told of it; `None` if the model's code panicked when the row was to be
/// copied.
pub(crate) type Told<T> = Option<Arc<Change<T>>>;

/// The way to those who follow the changes of a cache.
pub(crate) struct Watch<T: CacheModel> {
    followers: broadcast::Sender<Told<T>>,
    /// Copies a row. A function, since only models that are followed need be `Clone`.
    copy: fn(&T) -> T,
}

impl<T: CacheModel> Watch<T> {
    pub(crate) fn new() -> Self
    where
        T: Clone,
    {
        Self {
            followers: broadcast::Sender::new(CHANGES_KEPT),
            copy: T::clone,
        }
    }

    /// Returns the changes from now on.
    pub(crate) fn follow(&self) -> broadcast::Receiver<Told<T>> {
        self.followers.subscribe()
    }

    /// Returns whether anybody follows. If nobody does, no row need be copied.
    pub(super) fn is_followed(&self) -> bool {
        self.followers.receiver_count() > 0
    }

    /// Tells of the change of a row, from `old` to `new`.
    pub(super) fn tell(&self, key: &T::Key, old: Option<T>, new: Option<&T>) {
        let how = match (&old, new) {
            (None, Some(_)) => RowChangeKind::Added,
            (Some(_), Some(_)) => RowChangeKind::Changed,
            (_, None) => RowChangeKind::Removed,
        };
        // Both are code of the application's.
        let copied = guarded(|| (key.clone(), new.map(self.copy)));
        let told = copied
            .ok()
            .map(|(key, new)| Arc::new(Change { key, old, new, how }));
        // The last follower may have gone meanwhile.
        let _ = self.followers.send(told);
    }
}
