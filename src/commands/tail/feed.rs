//! Listens, and connects again when the connection is lost.

use super::queue::{Item, Queue};
use crate::connect::Server;
use crate::failure::with_hint;
use anyhow::Context as _;
use jiff::Timestamp;
use postgres_index_cache_core::postgres::{Listener, Role, sqlstate};
use postgres_index_cache_core::sync::Backoff;
use std::task::Poll;
use std::time::Duration;

/// How long a probe may take to come back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many notifications are taken from the socket before they are queued.
const BATCH: usize = 256;

/// LISTENs on the channels, and proves that notifications arrive.
pub(super) async fn open(server: &Server, channels: &[String]) -> anyhow::Result<Listener> {
    let session = server.session(Role::Listen).await?;
    let probe = format!("pgic_probe_{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    let all: Vec<String> = channels.iter().chain([&probe]).cloned().collect();
    let mut listener = Listener::open(session, &all).await.map_err(|error| {
        let hint = sqlstate::of(&error).and_then(sqlstate::hint);
        let error = anyhow::Error::new(error).context(format!("LISTEN on {}", channels.join(", ")));
        match hint {
            Some(hint) => with_hint(error, hint),
            None => error,
        }
    })?;
    let sender = server.session(Role::Fence).await?.into_client();
    let heard = listener.hears(&sender, &probe, &probe, PATIENCE).await.context("send a notification to ourselves")?;
    if heard {
        return Ok(listener);
    }
    Err(with_hint(
        anyhow::anyhow!("a notification that a second connection sent did not arrive within {PATIENCE:?}"),
        "a pooler in transaction mode takes LISTEN and passes nothing on: connect to the server itself",
    ))
}

/// Feeds the queue for as long as it can; it returns when that is over for good.
pub(super) async fn run(
    server: &Server,
    channels: &[String],
    mut listener: Listener,
    queue: &Queue,
    lost: impl Fn(&str),
) -> anyhow::Result<()> {
    loop {
        let why = drain(&mut listener, queue).await;
        let from = Timestamp::now();
        lost(&why);
        listener = reconnect(server, channels).await?;
        let to = Timestamp::now();
        queue.push_all([Item::Gap { from, to }, Item::Resumed { at: to }]);
    }
}

/// Takes what the socket has until the connection ends; why it ended.
async fn drain(listener: &mut Listener, queue: &Queue) -> String {
    loop {
        let mut batch = Vec::new();
        let end = std::future::poll_fn(|cx| {
            while batch.len() < BATCH {
                match listener.poll_next(cx) {
                    Poll::Ready(Some(Ok(notification))) => {
                        batch.push(Item::Notification { at: Timestamp::now(), notification });
                    }
                    Poll::Ready(Some(Err(error))) => {
                        let lines = crate::failure::lines(&anyhow::Error::new(error));
                        return Poll::Ready(Some(lines[0].trim_start_matches("error: ").to_string()));
                    }
                    Poll::Ready(None) => return Poll::Ready(Some("the server closed it".to_string())),
                    Poll::Pending if batch.is_empty() => return Poll::Pending,
                    Poll::Pending => return Poll::Ready(None),
                }
            }
            Poll::Ready(None)
        })
        .await;
        queue.push_all(batch);
        if let Some(why) = end {
            return why;
        }
        // A burst must not keep the other tasks of this thread from running.
        tokio::task::yield_now().await;
    }
}

async fn reconnect(server: &Server, channels: &[String]) -> anyhow::Result<Listener> {
    let mut backoff = Backoff::default();
    loop {
        tokio::time::sleep(backoff.next(fastrand::f64())).await;
        match open(server, channels).await {
            Ok(listener) => return Ok(listener),
            Err(error) => tracing::debug!(error = format!("{error:#}"), "not back yet"),
        }
    }
}
