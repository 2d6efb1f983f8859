//! How long a commit takes to be seen: by a reader that polls the cache, and by a task that waits for
//! the replica's events.

use crate::burst::{Item, listening};
use crate::report::{Report, Target};
use crate::server::Server;
use postgres_index_cache_core::{Replica, ReplicaEvent, TransactionToken};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Instant;
use tokio_postgres::{AsyncMessage, Config, NoTls};
use uuid::Uuid;

const COMMITS: usize = 2000;

/// The way in which the change is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watcher {
    /// A thread looks the row up over and over.
    Polls,
    /// A task waits for the replica's events.
    Waits,
}

/// Measures the time from a commit to the row in the cache, and beside it to the notification at a
/// bare connection. The table is that of the bursts.
pub async fn run(report: &mut Report, server: &Server) -> anyhow::Result<()> {
    let config: Config = server.conninfo.parse()?;
    for (watcher, what) in [
        (
            Watcher::Polls,
            "commit to row seen by a reader that polls, p50",
        ),
        (Watcher::Waits, "commit to the replica's event, p50"),
    ] {
        let pairs = delays(&config, watcher).await?;
        report.pairs(what, "us", "poll_message", &pairs, Target::AtMost(1.05));
    }
    Ok(())
}

/// Measures how long a wait for a transaction takes, and a fence beside it.
pub async fn run_waits(report: &mut Report, server: &Server) -> anyhow::Result<()> {
    let config: Config = server.conninfo.parse()?;
    for (known, what) in [
        (Known::No, "wait for a transaction that just ended"),
        (Known::Yes, "wait for a transaction that was heard"),
    ] {
        let pairs = waits(&config, known).await?;
        report.pairs(what, "us", "fence()", &pairs, Target::None);
    }
    Ok(())
}

/// Whether a replica knows of a transaction before somebody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    No,
    /// Another transaction's notification has come behind its own.
    Yes,
}

/// Returns the microseconds of a wait for a transaction, and of a fence beside it.
async fn waits(config: &Config, known: Known) -> anyhow::Result<Vec<(f64, f64)>> {
    let mut builder = Replica::builder(config.clone());
    let items = builder.table::<Item>("burst");
    let replica = builder.open().await?;
    let (mut writer, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    let sql = "UPDATE burst SET n = n + 1 WHERE id = (SELECT id FROM burst LIMIT 1)";
    let update = writer.prepare(sql).await?;
    let mut pairs = Vec::new();
    for _ in 0..COMMITS {
        let transaction = writer.transaction().await?;
        transaction.execute(&update, &[]).await?;
        let row = transaction.query_one(TransactionToken::QUERY, &[]).await?;
        transaction.commit().await?;
        let token = row.get::<_, &str>(0).parse()?;
        if known == Known::Yes {
            writer.execute(&update, &[]).await?;
            while !replica.reached_in(&items, token).await? {
                tokio::task::yield_now().await;
            }
        }
        let began = Instant::now();
        replica.wait_for_in(&items, token).await?;
        let waited = began.elapsed();
        let began = Instant::now();
        replica.fence().await?;
        pairs.push((
            waited.as_secs_f64() * 1e6,
            began.elapsed().as_secs_f64() * 1e6,
        ));
    }
    replica.shutdown().await;
    Ok(pairs)
}

/// Returns the microseconds to the row, and to the notification at a bare connection, of each commit.
async fn delays(config: &Config, watcher: Watcher) -> anyhow::Result<Vec<(f64, f64)>> {
    let mut builder = Replica::builder(config.clone());
    let items = Arc::new(builder.table::<Item>("burst"));
    let replica = Arc::new(builder.open().await?);
    let mut events = replica.events();
    let (writer, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    let (_client, mut connection) = listening(config).await?;
    let id: Uuid = writer
        .query_one("SELECT id FROM burst LIMIT 1", &[])
        .await?
        .get(0);
    let update = writer
        .prepare("UPDATE burst SET n = $2 WHERE id = $1")
        .await?;
    let mut pairs = Vec::new();
    for at in 0..COMMITS {
        let wanted = 1_000_000 + at as i64;
        let writing = async { writer.execute(&update, &[&id, &wanted]).await };
        let seen = async {
            match watcher {
                Watcher::Polls => {
                    let (replica, items) = (Arc::clone(&replica), Arc::clone(&items));
                    let is_seen = move || {
                        let rows = replica.read(&items);
                        rows.get_by_primary(&id)
                            .is_some_and(|item| item.n == wanted)
                    };
                    tokio::task::spawn_blocking(move || {
                        while !is_seen() {
                            std::hint::spin_loop();
                        }
                        Instant::now()
                    })
                    .await
                    .map_err(anyhow::Error::from)
                }
                Watcher::Waits => loop {
                    match events.next().await {
                        Some(ReplicaEvent::Row { .. }) => break Ok(Instant::now()),
                        Some(_) => {}
                        None => break Err(anyhow::anyhow!("the replica ended")),
                    }
                },
            }
        };
        let heard = async {
            loop {
                if let Some(Ok(AsyncMessage::Notification(_))) =
                    poll_fn(|cx| connection.poll_message(cx)).await
                {
                    return Instant::now();
                }
            }
        };
        let began = Instant::now();
        let (written, seen, heard) = tokio::join!(writing, seen, heard);
        written?;
        pairs.push((
            seen?.saturating_duration_since(began).as_secs_f64() * 1e6,
            heard.saturating_duration_since(began).as_secs_f64() * 1e6,
        ));
    }
    replica.shutdown().await;
    Ok(pairs)
}
