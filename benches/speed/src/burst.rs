//! A burst of notifications, received and applied, beside listeners that only receive it, and beside
//! the textbook's cache. And how long readers wait for the lock meanwhile.

use crate::report::{Report, Target, ms};
use crate::server::Server;
use anyhow::{Context as _, bail};
use postgres_index_cache_core::{HasPrimaryKey, Indexable, Replica};
use serde::Deserialize;
use std::collections::HashMap;
use std::future::poll_fn;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio_postgres::{AsyncMessage, Config, NoTls};
use uuid::Uuid;

const CHANGES: usize = 100_000;
const CHANNEL: &str = "cache_invalidation";

/// The model of a row in the table of the burst.
#[derive(Deserialize)]
pub struct Item {
    pub id: Uuid,
    pub n: i64,
}

impl HasPrimaryKey for Item {
    fn primary_key(&self) -> Uuid {
        self.id
    }
}

impl Indexable for Item {
    fn i64_keys(&self) -> HashMap<String, Option<i64>> {
        HashMap::from([("n".to_string(), Some(self.n))])
    }

    fn uuid_keys(&self) -> HashMap<String, Option<Uuid>> {
        HashMap::new()
    }
}

/// Makes the table that is followed.
pub fn prepare(server: &Server) -> anyhow::Result<()> {
    server.sql(&format!(
        "DROP TABLE IF EXISTS burst; CREATE TABLE burst (id uuid PRIMARY KEY, n bigint NOT NULL);
         INSERT INTO burst SELECT gen_random_uuid(), 0 FROM generate_series(1, {CHANGES});"
    ))?;
    server.pgic(&["install-triggers", "burst"])?;
    Ok(())
}

/// Measures the bursts and the delays.
pub async fn run(report: &mut Report, server: &Server, rounds: usize) -> anyhow::Result<()> {
    let config: Config = server.conninfo.parse()?;
    let libpq = build_libpq(server)?;
    let mut polled = Vec::new();
    let mut by_libpq = Vec::new();
    let mut by_sqlx = Vec::new();
    let mut by_textbook = Vec::new();
    for _ in 0..rounds {
        let ours = replica(&config).await?;
        polled.push((ms(ours), ms(poll(&config).await?)));
        if let Some(libpq) = &libpq {
            let ours = replica(&config).await?;
            by_libpq.push((ms(ours), ms(with_libpq(&config, libpq, server).await?)));
        }
        let ours = replica(&config).await?;
        by_sqlx.push((ms(ours), ms(with_sqlx(&config, server).await?)));
        let ours = replica(&config).await?;
        by_textbook.push((ms(ours), ms(textbook(&config).await?)));
    }
    let what = "burst of 100,000 updates, received and applied, after the commit (Replica)";
    report.pairs(
        what,
        "ms",
        "poll_message, received alone",
        &polled,
        Target::AtMost(2.0),
    );
    if !by_libpq.is_empty() {
        report.pairs(what, "ms", "libpq, received alone", &by_libpq, Target::None);
    }
    report.pairs(
        what,
        "ms",
        "sqlx's listener, received alone",
        &by_sqlx,
        Target::None,
    );
    report.pairs(
        what,
        "ms",
        "the textbook's cache, applied",
        &by_textbook,
        Target::None,
    );
    readers(report, &config, rounds).await
}

/// Sends the burst, and returns when its commit was acknowledged.
async fn send(config: &Config) -> anyhow::Result<Instant> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("UPDATE burst SET n = n + 1").await?;
    Ok(Instant::now())
}

/// Returns the time after the commit until a replica has applied the burst.
async fn replica(config: &Config) -> anyhow::Result<Duration> {
    let mut builder = Replica::builder(config.clone());
    let items = builder.table::<Item>("burst");
    let replica = builder.open().await?;
    assert_eq!(replica.read(&items).len(), CHANGES);
    let committed = send(config).await?;
    replica.fence().await?;
    let took = committed.elapsed();
    replica.shutdown().await;
    Ok(took)
}

/// Returns the time after the commit until a bare connection has received the burst.
async fn poll(config: &Config) -> anyhow::Result<Duration> {
    let (_client, mut connection) = listening(config).await?;
    let sending = tokio::spawn({
        let config = config.clone();
        async move { send(&config).await }
    });
    let mut received = 0;
    while received < CHANGES {
        match poll_fn(|cx| connection.poll_message(cx))
            .await
            .context("the connection ended")??
        {
            AsyncMessage::Notification(_) => received += 1,
            _ => {}
        }
    }
    let done = Instant::now();
    Ok(done.saturating_duration_since(sending.await??))
}

/// The payload of a change, as far as the textbook's cache reads it.
#[derive(Deserialize)]
struct TextbookPayload {
    action: String,
    id: Uuid,
    data: Option<Item>,
}

/// Returns the time after the commit until the textbook's cache has applied the burst: a hash map,
/// whose lock is taken for each notification.
async fn textbook(config: &Config) -> anyhow::Result<Duration> {
    let (client, mut connection) = listening(config).await?;
    let cache: Arc<RwLock<HashMap<Uuid, Item>>> = Arc::default();
    let reading = tokio::spawn(async move {
        let mut applied = 0;
        while applied < CHANGES {
            let message = poll_fn(|cx| connection.poll_message(cx)).await;
            let AsyncMessage::Notification(notification) =
                message.context("the connection ended")??
            else {
                continue;
            };
            let payload: TextbookPayload = serde_json::from_str(notification.payload())?;
            let mut rows = cache
                .write()
                .map_err(|_| anyhow::anyhow!("the lock is poisoned"))?;
            match (payload.action.as_str(), payload.data) {
                ("delete", _) => drop(rows.remove(&payload.id)),
                (_, Some(row)) => drop(rows.insert(payload.id, row)),
                (_, None) => bail!("a change without a row"),
            }
            applied += 1;
        }
        anyhow::Ok(Instant::now())
    });
    let committed = send(config).await?;
    let done = reading.await??;
    drop(client);
    Ok(done.saturating_duration_since(committed))
}

/// Measures how long a reader takes for a look-up while a burst is applied, beside the same reader
/// while nothing is.
async fn readers(report: &mut Report, config: &Config, rounds: usize) -> anyhow::Result<()> {
    let mut builder = Replica::builder(config.clone());
    let items = Arc::new(builder.table::<Item>("burst"));
    let replica = Arc::new(builder.open().await?);
    let keys: Vec<Uuid> = replica.read(&items).iter().map(|item| item.id).collect();
    let keys = Arc::new(keys);
    let mut p99 = Vec::new();
    let mut p999 = Vec::new();
    for _ in 0..rounds {
        let mut times = Vec::new();
        for is_burst in [false, true] {
            let is_done = Arc::new(AtomicBool::new(false));
            let reader = tokio::task::spawn_blocking({
                let (replica, items) = (Arc::clone(&replica), Arc::clone(&items));
                let (keys, is_done) = (Arc::clone(&keys), Arc::clone(&is_done));
                move || {
                    let mut times = Vec::new();
                    for key in keys.iter().cycle() {
                        if is_done.load(Ordering::Relaxed) {
                            break;
                        }
                        let began = Instant::now();
                        std::hint::black_box(replica.read(&items).get_by_primary(key));
                        times.push(began.elapsed().as_nanos() as f64);
                    }
                    times
                }
            });
            if is_burst {
                send(config).await?;
                replica.fence().await?;
            } else {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            is_done.store(true, Ordering::Relaxed);
            let mut waited = reader.await?;
            waited.sort_by(f64::total_cmp);
            times.push(waited);
        }
        let at = |times: &[f64], part: f64| times[(times.len() as f64 * part) as usize];
        p99.push((at(&times[1], 0.99), at(&times[0], 0.99)));
        p999.push(at(&times[1], 0.999) / 1e3);
    }
    report.pairs(
        "a reader's look-up in a burst, p99",
        "ns",
        "the same, idle",
        &p99,
        Target::AtMost(1.5),
    );
    report.alone(
        "a reader's look-up in a burst, p99.9",
        "us",
        &p999,
        Target::AtMost(50.0),
    );
    replica.shutdown().await;
    Ok(())
}

/// Opens a bare connection that listens.
pub async fn listening(
    config: &Config,
) -> anyhow::Result<(
    tokio_postgres::Client,
    tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>,
)> {
    let (client, mut connection) = config.connect(NoTls).await?;
    {
        let listen = client.batch_execute("LISTEN cache_invalidation");
        let mut listen = std::pin::pin!(listen);
        tokio::select! {
            listened = &mut listen => listened?,
            _ = poll_fn(|cx| connection.poll_message(cx)) => bail!("a message came first"),
        }
    }
    Ok((client, connection))
}

/// Returns the time after the commit until sqlx's listener has received the burst.
async fn with_sqlx(config: &Config, server: &Server) -> anyhow::Result<Duration> {
    let port = server
        .conninfo
        .split("port=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let url = format!(
        "postgres://postgres@127.0.0.1:{}/postgres",
        port.context("no port")?
    );
    let mut listener = sqlx::postgres::PgListener::connect(&url).await?;
    listener.listen(CHANNEL).await?;
    let sending = tokio::spawn({
        let config = config.clone();
        async move { send(&config).await }
    });
    for _ in 0..CHANGES {
        listener.recv().await?;
    }
    let done = Instant::now();
    Ok(done.saturating_duration_since(sending.await??))
}

/// A listener in C, which ends when it has received so many notifications.
const LIBPQ: &str = r#"
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    PGconn *conn = PQconnectdb(argv[1]);
    long left = atol(argv[2]);
    PQclear(PQexec(conn, "LISTEN cache_invalidation"));
    puts("listening");
    fflush(stdout);
    while (left > 0) {
        struct pollfd fd = {PQsocket(conn), POLLIN, 0};
        PGnotify *notify;
        poll(&fd, 1, -1);
        if (!PQconsumeInput(conn)) return 2;
        while ((notify = PQnotifies(conn))) { left--; PQfreemem(notify); }
    }
    return 0;
}
"#;

/// Builds the listener in C; `None` where there is no compiler or no libpq.
fn build_libpq(server: &Server) -> anyhow::Result<Option<tempfile::TempDir>> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("listen.c"), LIBPQ)?;
    let included = Command::new("pg_config").arg("--includedir").output();
    let Ok(included) = included else {
        return Ok(None);
    };
    let included = String::from_utf8_lossy(&included.stdout).trim().to_string();
    let built = server.timed(
        Command::new("cc")
            .arg("-O2")
            .arg(format!("-I{included}"))
            .arg(folder.path().join("listen.c"))
            .arg("-o")
            .arg(folder.path().join("listen"))
            .arg("-lpq"),
    );
    Ok(built
        .is_ok_and(|built| built.status.success())
        .then_some(folder))
}

/// Returns the time after the commit until the listener in C has received the burst.
async fn with_libpq(
    config: &Config,
    folder: &tempfile::TempDir,
    server: &Server,
) -> anyhow::Result<Duration> {
    let mut listener = listen(folder.path(), server, CHANGES)?;
    let committed = send(config).await?;
    let status = tokio::task::spawn_blocking(move || listener.wait()).await??;
    if !status.success() {
        bail!("the listener in C failed");
    }
    Ok(committed.elapsed())
}

fn listen(folder: &Path, server: &Server, count: usize) -> anyhow::Result<std::process::Child> {
    use std::io::BufRead as _;
    let mut listener = Command::new(folder.join("listen"))
        .args([server.conninfo.as_str(), &count.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = listener.stdout.take().context("no output")?;
    std::io::BufReader::new(stdout).read_line(&mut String::new())?;
    Ok(listener)
}
