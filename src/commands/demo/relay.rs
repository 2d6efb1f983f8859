//! `pgic demo --relay`: a relay, a second one that stands by, and nodes that follow the log.

use super::nats::Nats;
use super::{TABLES, User, change_a_row_silently, finish, finish_with, say, start};
use crate::commands::Context;
use anyhow::{Context as _, bail};
use postgres_index_cache_core::{Replica, ReplicaStatus};
use throwaway_postgres::Cluster;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tokio_postgres::{Client, NoTls};

/// The statements that are run while `tail --diff` shows the rows of a node. Each changes one row.
const WRITES: [&str; 3] = [
    "UPDATE users SET email_hash = 8 WHERE username_hash = 1001",
    "INSERT INTO users VALUES ('550e8400-e29b-41d4-a716-446655440000', 'ann', 123, 7)",
    "DELETE FROM users WHERE username_hash = 1002",
];

/// A relay of the demo.
struct Relay {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Relay {
    fn start(context: &Context, url: &str, nats: &Nats) -> anyhow::Result<Self> {
        let line = format!("relay users products --to {} --name shop", nats.url());
        let mut child = start(context, url, &line)?;
        let stdout = child.stdout.take().context("read the relay's output")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    /// Prints what the relay says, up to the line with this text.
    async fn until(&mut self, text: &str) -> anyhow::Result<()> {
        loop {
            let line = self.lines.next_line().await;
            let line = line.context("read the relay's output")?;
            let line = line.context("the relay has ended")?;
            say(&line)?;
            if line.contains(text) {
                return Ok(());
            }
        }
    }
}

/// Makes the tables, and shows relays and nodes at work.
pub(super) async fn show(context: &Context, cluster: &Cluster) -> anyhow::Result<()> {
    let url = cluster.url("postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls)
        .await
        .context("connect to the demo's server")?;
    let connection = tokio::spawn(connection);
    say("# a NATS server for this demo alone")?;
    let nats = Nats::start().await?;
    say(&nats.url())?;
    say("\n# tables with triggers that announce every change")?;
    client
        .batch_execute(TABLES)
        .await
        .context("create the tables")?;
    finish(start(context, &url, "install-triggers users products")?).await?;
    say("\n# the relay: it alone listens, keeps an exact cache, and publishes what changes in it")?;
    let mut first = Relay::start(context, &url, &nats)?;
    first.until("snapshot").await?;
    say("\n# two nodes of an application: they follow that log, without a session on PostgreSQL")?;
    let nodes = [node(&nats, "web-1").await?, node(&nats, "web-2").await?];
    let log = format!("{}/shop", nats.url());
    finish(start(context, &url, &format!("nodes --from {log}"))?).await?;
    changes(context, &url, &client, &log).await?;
    say("\n# a second relay stands by; the first one is killed")?;
    let mut second = Relay::start(context, &url, &nats)?;
    second.until("standing by").await?;
    first.child.kill().await.context("kill the first relay")?;
    second.until("live").await?;
    say("# and the nodes go on, without a new snapshot")?;
    for node in &nodes {
        until_live(node).await?;
    }
    finish(start(context, &url, &format!("nodes --from {log}"))?).await?;
    break_and_mend(context, &url, &client, &log).await?;
    for node in nodes {
        node.shutdown().await;
    }
    drop(client);
    connection
        .await
        .context("end the demo's own connection")??;
    Ok(())
}

/// Starts a node, as an application does.
async fn node(nats: &Nats, name: &str) -> anyhow::Result<Replica> {
    let client = async_nats::connect(nats.url()).await;
    let client = client.context("connect to the demo's NATS server")?;
    let mut builder = Replica::over_nats(client, "shop");
    builder.name(name);
    builder.table::<User>("users");
    builder.open().await.context("start a node of the demo")
}

/// Waits until a node is live.
async fn until_live(node: &Replica) -> anyhow::Result<()> {
    let mut events = node.events();
    while !matches!(node.status(), ReplicaStatus::Live) {
        events
            .next()
            .await
            .context("a node of the demo has ended")?;
    }
    Ok(())
}

/// Shows the rows of a node while somebody writes.
async fn changes(context: &Context, url: &str, client: &Client, log: &str) -> anyhow::Result<()> {
    say("\n# the rows of a node, change by change, while somebody writes")?;
    let line = format!("tail --diff users --from {log} --count {}", WRITES.len());
    let mut child = start(context, url, &line)?;
    let stderr = child.stderr.take().context("read the command's output")?;
    let mut banners = BufReader::new(stderr).lines();
    // What is written earlier is in the rows already.
    let first = banners.next_line().await.context("read its output")?;
    say(&first.context("tail ended before it followed the log")?)?;
    for write in WRITES {
        client.batch_execute(write).await.context("write")?;
    }
    let output = child.wait_with_output().await.context("wait for tail")?;
    print_all(&output.stdout)?;
    if output.status.success() {
        Ok(())
    } else {
        bail!("the command ended with {}", output.status)
    }
}

fn print_all(text: &[u8]) -> anyhow::Result<()> {
    crate::render::print(&String::from_utf8_lossy(text))
}

/// Writes past the triggers, lets `why` name the link that is broken, and mends it.
async fn break_and_mend(
    context: &Context,
    url: &str,
    client: &Client,
    log: &str,
) -> anyhow::Result<()> {
    let key = change_a_row_silently(client).await?;
    say("# why does no node have the row as it is?")?;
    finish_with(
        start(context, url, &format!("why users {key} --from {log}"))?,
        1,
    )
    .await?;
    say("\n# what is advised now: whoever listens reads the row again, here the relay")?;
    finish(start(
        context,
        url,
        &format!("announce users {key} --from {log}"),
    )?)
    .await?;
    say("\n# the relay compares its cache with the table, and a node its rows with the relay's")?;
    finish(start(context, url, &format!("verify users --from {log}"))?).await
}
