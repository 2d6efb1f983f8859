//! Puts the notifications of channels into a queue, through lost connections: for `tail`, which prints
//! them, and `record`, which keeps them.
//!
//! A driver without tables does the work: its heartbeat proves that notifications arrive, and it
//! has the retry policy of all replicas. Without the heartbeat a `tail` behind a proxy whose far
//! side died would hear nothing for ever, and say nothing.

pub mod queue;

use crate::connect::Server;
use crate::tables::bounds::Bounds;
use crate::tables::{COMMITS_BLOCKED, explain_failure, options};
use jiff::{SignedDuration, Timestamp};
use postgres_index_cache_core::tooling::postgres::{Driver, DriverEvent};
use postgres_index_cache_core::tooling::sync::State;
use queue::{Item, Message, Queue};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time from one [`Item::Covered`] to the next.
const COVERING: Duration = Duration::from_secs(5);

/// Starts to listen on the channels, and waits for the proof that notifications arrive. They go to
/// the queue from then on.
///
/// # Errors
/// If the server cannot be listened to.
pub async fn open(
    server: &Server,
    channels: &[String],
    queue: &Arc<Queue>,
) -> anyhow::Result<Driver> {
    let queue = Arc::clone(queue);
    let tap = Box::new(move |batch: Vec<tokio_postgres::Notification>| {
        // One time for all that came in one read of the socket: they arrived together.
        let at = Timestamp::now();
        queue.push_all(batch.into_iter().map(|notification| Item::Notification {
            at,
            message: Message::Live(notification),
        }));
    });
    let opened = Driver::tapping(
        server.clone(),
        options(channels.to_vec(), Bounds::of_memory(usize::MAX)),
        tap,
    )
    .await;
    let mut driver = opened.map_err(explain_failure)?;
    driver.until_live(|_| {}).await.map_err(explain_failure)?;
    Ok(driver)
}

/// Feeds the queue, and never ends by itself. `say` gets a text when a connection is lost or
/// commits are blocked. With `covers`, the queue gets the times up to which nothing is missing.
///
/// # Errors
/// None in practice: a driver that was live once retries for ever.
pub async fn run(
    mut driver: Driver,
    queue: &Queue,
    covers: bool,
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    // The time since which notifications may be missing; `None` while none is.
    let mut gap_from: Option<Timestamp> = None;
    // The last proof that nothing is missing that was put into the queue.
    let mut covered: Option<Instant> = None;
    // The reason that was said last. While a server is down, each attempt fails for the same one.
    let mut said = String::new();
    loop {
        driver.step().await.map_err(explain_failure)?;
        let events: Vec<DriverEvent> = driver.take_events().collect();
        for event in events {
            match event {
                DriverEvent::Disconnected { why, since, .. } => {
                    // Attempts to connect that fail are part of the same gap.
                    let is_first = gap_from.is_none();
                    if is_first {
                        gap_from = Some(timestamp_of(since));
                        queue.push_all([Item::Disconnected {
                            at: Timestamp::now(),
                            why: why.clone(),
                        }]);
                        say(&format!(
                            "the connection was lost ({why}); connecting again"
                        ));
                    } else if said != why {
                        say(&format!("no connection yet ({why}); trying again"));
                    }
                    said = why;
                }
                DriverEvent::State(State::Live) => {
                    if let Some(from) = gap_from.take() {
                        let to = Timestamp::now();
                        queue.push_all([Item::Gap { from, to }, Item::Resumed { at: to }]);
                    }
                }
                DriverEvent::CommitsBlocked => {
                    say(COMMITS_BLOCKED);
                }
                _ => {}
            }
        }
        if covers
            && gap_from.is_none()
            && let Some(proven) = driver.engine().proven_at()
            && covered.is_none_or(|covered| proven.saturating_duration_since(covered) >= COVERING)
        {
            covered = Some(proven);
            queue.push_all([Item::Covered {
                at: timestamp_of(Some(proven)),
            }]);
        }
        // A burst must not keep the other tasks of this thread from running.
        tokio::task::yield_now().await;
    }
}

/// Converts a time of the monotonic clock to the time of day. `None`, where no fence ever came
/// back, becomes now.
fn timestamp_of(at: Option<Instant>) -> Timestamp {
    let ago = at.and_then(|at| SignedDuration::try_from(at.elapsed()).ok());
    let now = Timestamp::now();
    ago.and_then(|ago| now.checked_sub(ago).ok()).unwrap_or(now)
}
