//! [`Changes`]: the changes of one table's rows, with the rows.

use crate::model::CacheModel;
use crate::postgres::apply::watch::{Change, Told};
use crate::postgres::replica::task::Command;
use futures_util::{Stream, StreamExt, stream};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::mpsc;

/// Error of a follower who was slow: so many changes were dropped. Those that come next are the
/// oldest that were kept.
///
/// What was missed cannot be told any more. To begin anew, call
/// [`read_with_changes`](crate::Replica::read_with_changes).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} changes were missed: the follower was slow, or a row could not be copied")]
pub struct MissedChanges(pub u64);

/// A change, or how many changes were missed.
type Item<T> = Result<Arc<Change<T>>, MissedChanges>;

/// The changes of the rows of a table from a moment on, in the order in which they were made. They
/// end with the replica.
///
/// Told is what happens to the cache, the rows of a gap included: after a lost connection each row
/// that is another one comes as changed. Values in between may be skipped. That a table is stale is
/// told by [`Replica::events`](crate::Replica::events).
///
/// 16,384 changes are kept for a follower who is slow. A replica never waits for one.
///
/// Also a [`Stream`].
#[must_use = "changes are read with `next`, or as a stream"]
pub struct Changes<T: CacheModel> {
    stream: Pin<Box<dyn Stream<Item = Item<T>> + Send>>,
}

impl<T: CacheModel> fmt::Debug for Changes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl<T: CacheModel + Send + Sync + 'static> Changes<T> {
    /// Returns the changes that `told` gets, until the task behind `commands` is gone.
    pub(super) fn new(told: broadcast::Receiver<Told<T>>, commands: mpsc::Sender<Command>) -> Self {
        let follower = Follower { told, commands };
        Self {
            stream: Box::pin(stream::unfold(follower, async |mut follower| {
                let change = follower.next().await?;
                Some((change, follower))
            })),
        }
    }

    /// Waits for the next change. Returns `None` when there will be no more.
    ///
    /// The future may be dropped at any point: no change is lost by that.
    ///
    /// # Errors
    /// If changes were missed. The next call returns the oldest one that was kept.
    pub async fn next(&mut self) -> Option<Result<Arc<Change<T>>, MissedChanges>> {
        StreamExt::next(&mut self.stream).await
    }
}

impl<T: CacheModel> Stream for Changes<T> {
    type Item = Item<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx)
    }
}

/// Somebody who follows the changes of a cache.
struct Follower<T: CacheModel> {
    told: broadcast::Receiver<Told<T>>,
    /// The way to the replica's task, which is closed when that is gone. The cache itself may live on
    /// in the hands of its readers.
    commands: mpsc::Sender<Command>,
}

impl<T: CacheModel> Follower<T> {
    async fn next(&mut self) -> Option<Item<T>> {
        let told = tokio::select! {
            biased;
            told = self.told.recv() => match told {
                Ok(told) => Ok(told),
                Err(RecvError::Lagged(missed)) => Err(missed),
                Err(RecvError::Closed) => return None,
            },
            () = self.commands.closed() => match self.told.try_recv() {
                Ok(told) => Ok(told),
                Err(TryRecvError::Lagged(missed)) => Err(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            },
        };
        Some(match told {
            Ok(Some(change)) => Ok(change),
            Ok(None) => Err(MissedChanges(1)),
            Err(missed) => Err(MissedChanges(missed)),
        })
    }
}
