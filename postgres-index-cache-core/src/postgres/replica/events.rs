//! [`Events`]: what happens to a replica, as it happens.

use crate::notification::Key;
use crate::postgres::apply::sink::RowChangeKind;
use crate::postgres::replica::error::ReplicaError;
use crate::sync::AuxConnection;
use futures_util::{Stream, StreamExt, stream};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// An event of a replica. Tables are named as the builder was given them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ReplicaEvent {
    /// Every table is live from now on.
    Live,
    /// The replica is not live: tables are being read, or a cache is locked.
    Loading,
    /// A table must be read again and waits for that, or rows of it do not fit the model.
    Degraded {
        /// The table that is not wholly in the cache.
        table: Arc<str>,
        /// The cause.
        why: Arc<str>,
    },
    /// A table is stale from now on, or for this cause from now on.
    Stale {
        /// The table that is stale; `None` if all are.
        table: Option<Arc<str>>,
        /// The cause, with the remedy if one is known.
        why: Arc<str>,
        /// The last moment at which no change was missing.
        since: SystemTime,
    },
    /// A row does not fit the model, and is kept out of the cache until it does.
    Misfit {
        /// The table of the row.
        table: Arc<str>,
        /// The key of the row.
        key: Key,
        /// What does not fit.
        why: Arc<str>,
        /// The server's process whose notification brought the row; `None` if the row was read.
        sender: Option<i32>,
    },
    /// A row has changed, perhaps while the replica was stale.
    Row {
        /// The table of the row.
        table: Arc<str>,
        /// The key of the row.
        key: Key,
        /// How the row has changed.
        change: RowChangeKind,
    },
    /// A table is to be reloaded.
    ReloadScheduled {
        /// The table that will be read.
        table: Arc<str>,
        /// The cause.
        why: Arc<str>,
    },
    /// The connection for fences or for reading was lost, and is opened again. The rows are as live
    /// as they were.
    AuxConnectionLost {
        /// The connection that was lost.
        via: AuxConnection,
        /// The cause.
        why: Arc<str>,
    },
    /// Commits wait for the notify lock: nothing is lost, and nothing arrives.
    CommitsBlocked,
    /// So many events were dropped because this subscriber was slow.
    Missed(u64),
    /// The replica has ended. There are no more events.
    Ended {
        /// The reason.
        error: Arc<ReplicaError>,
    },
}

/// The events of a replica from a moment on. A subscriber that is slow misses events, and is told
/// how many ([`ReplicaEvent::Missed`]). The last event is [`ReplicaEvent::Ended`].
///
/// Also a [`Stream`].
#[must_use = "events are read with `next`, or as a stream"]
pub struct Events {
    stream: Pin<Box<dyn Stream<Item = ReplicaEvent> + Send + Sync>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Returns the events that `receiver` gets. `ended` says that the replica had ended before
    /// anybody listened: then that is the one event.
    pub(super) fn new(
        receiver: broadcast::Receiver<ReplicaEvent>,
        ended: Option<Arc<ReplicaError>>,
    ) -> Self {
        let stream: Pin<Box<dyn Stream<Item = ReplicaEvent> + Send + Sync>> = match ended {
            Some(error) => Box::pin(stream::iter([ReplicaEvent::Ended { error }])),
            None => Box::pin(stream::unfold(Some(receiver), next_event)),
        };
        Self { stream }
    }

    /// Waits for the next event. Returns `None` when there will be no more.
    ///
    /// The future may be dropped at any point: no event is lost by that.
    pub async fn next(&mut self) -> Option<ReplicaEvent> {
        StreamExt::next(&mut self.stream).await
    }
}

impl Stream for Events {
    type Item = ReplicaEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ReplicaEvent>> {
        self.stream.as_mut().poll_next(cx)
    }
}

/// Receives an event. The receiver is dropped with the last one.
async fn next_event(
    receiver: Option<broadcast::Receiver<ReplicaEvent>>,
) -> Option<(ReplicaEvent, Option<broadcast::Receiver<ReplicaEvent>>)> {
    let mut receiver = receiver?;
    let event = match receiver.recv().await {
        Ok(event) => event,
        Err(RecvError::Lagged(missed)) => ReplicaEvent::Missed(missed),
        Err(RecvError::Closed) => return None,
    };
    let is_last = matches!(event, ReplicaEvent::Ended { .. });
    Some((event, (!is_last).then_some(receiver)))
}
