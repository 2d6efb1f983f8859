//! What a node asks NATS for, as tasks of their own. Each ends once nobody takes its events.

use crate::log::{Sequence, SnapshotPlace};
use crate::nats::error::LogError;
use crate::nats::snapshot::{self, LoadedRow, SnapshotInfo};
use crate::nats::stream::{NatsLog, StoredMessage};
use futures_util::TryStreamExt as _;
use tokio::sync::mpsc;

/// News of a load.
pub(super) enum LoadEvent {
    /// There is no usable snapshot.
    None {
        /// Whether there is no message either.
        is_log_empty: bool,
    },
    Begin(SnapshotInfo),
    Rows(Vec<LoadedRow>),
    End(SnapshotPlace),
    Failed(LogError),
}

/// News of the stored messages of a read.
pub(super) enum StoredEvent {
    Message(StoredMessage),
    /// The log ended here when the read began; `None` if it had no message.
    End(Option<Sequence>),
    Failed(LogError),
}

/// Loads the newest usable snapshot. Ends early if nobody takes the events.
pub(super) async fn load(log: &NatsLog, events: &mpsc::Sender<LoadEvent>) -> Result<(), LogError> {
    let found = snapshot::usable(log).await?;
    if found.is_empty() {
        let is_log_empty = log.last().await?.is_none();
        let _ = events.send(LoadEvent::None { is_log_empty }).await;
        return Ok(());
    }
    let mut failed = None;
    for info in found {
        match load_one(log, &info, events).await {
            // A part may be missing; an earlier snapshot does as well.
            Err(error @ LogError::Snapshot { .. }) => failed = Some(error),
            loaded => return loaded,
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Loads one snapshot.
async fn load_one(
    log: &NatsLog,
    info: &SnapshotInfo,
    events: &mpsc::Sender<LoadEvent>,
) -> Result<(), LogError> {
    if events.send(LoadEvent::Begin(info.clone())).await.is_err() {
        return Ok(());
    }
    let (rows_tx, mut rows) = mpsc::channel(super::WAITING);
    let pass_on = async {
        while let Some(batch) = rows.recv().await {
            if events.send(LoadEvent::Rows(batch)).await.is_err() {
                // Whoever waits for room in the channel must not wait for ever.
                return rows.close();
            }
        }
    };
    let load = async {
        let loaded = snapshot::load(log, info, &rows_tx).await;
        drop(rows_tx);
        loaded
    };
    let (loaded, ()) = tokio::join!(load, pass_on);
    loaded?;
    let _ = events.send(LoadEvent::End(info.place)).await;
    Ok(())
}

/// Reads the messages that are stored now, from `from` on.
pub(super) async fn read_stored(
    log: &NatsLog,
    from: Sequence,
    events: &mpsc::Sender<StoredEvent>,
) -> Result<(), LogError> {
    let end = log.last().await?.map(|last| last.sequence);
    let mut messages = std::pin::pin!(log.range(from, end.unwrap_or_default()));
    while let Some(message) = messages.try_next().await? {
        if events.send(StoredEvent::Message(message)).await.is_err() {
            return Ok(());
        }
    }
    // Whoever has asked may be gone.
    let _ = events.send(StoredEvent::End(end)).await;
    Ok(())
}
